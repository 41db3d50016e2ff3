"""The one message that kubectl sends as protobuf whatever it is told: a SelfSubjectAccessReview (`kubectl auth can-i`)."""

from __future__ import annotations

from tests.emulators.kube.store import Json

MAGIC = b"k8s\0"
FIELDS = {1: "namespace", 2: "verb", 3: "group", 4: "version", 5: "resource", 6: "subresource", 7: "name"}


def access_review(data: bytes) -> Json:
    """Raises ValueError, IndexError or UnicodeDecodeError for what is none."""
    if not data.startswith(MAGIC):
        raise ValueError("no Kubernetes protobuf")
    review = _fields(_fields(data[len(MAGIC) :]).get(2, b""))
    attributes = _fields(_fields(review.get(2, b"")).get(1, b""))
    asked = {FIELDS[number]: value.decode() for number, value in attributes.items() if number in FIELDS}
    return {"spec": {"resourceAttributes": asked}}


def _fields(data: bytes) -> dict[int, bytes]:
    """The fields of a message that have a length: number to bytes, the last of each."""
    found, at = {}, 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 != 2:
            raise ValueError(f"wire type {key & 7}")
        size, at = _varint(data, at)
        found[key >> 3] = data[at : at + size]
        at += size
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
