"""What the schemas cannot say of TPU hosts and of `spec.tpu`: all that Google would refuse, told where it is written. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.core import tpu
from reconciler.core.chips import unknown_accelerator_type
from reconciler.core.quantity import seconds

_Doc = Mapping[str, Any]
# (path below the host or `spec.tpu`, message) of one thing wrong.
_Wrong = Iterator[tuple[tuple[str, ...], str]]

_METADATA_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_METADATA_BYTES = 256 * 1024
"""Of one value (cloud.google.com/compute/docs/metadata)."""
_TIME_MIN_S = 60
_LABELS_MAX = 60
"""The API takes 64; four are kept for ours."""


def wrong_with(name: str, host: _Doc) -> _Wrong:
    """Everything that is wrong with one `type: tpu` host of the inventory."""
    if host.get("zone") and host.get("zones"):
        yield ("zone",), "this is the short form of zones with one entry: keep one of them"
    elif not host.get("zone") and not host.get("zones"):
        yield (), "a TPU host needs a zone: write `zone: us-central2-b`, or several in `zones`"
    kind = host.get("accelerator_type")
    if kind:
        unknown = unknown_accelerator_type(kind)
        if unknown:
            yield ("accelerator_type",), unknown
    else:
        yield (), "a TPU host needs an accelerator_type, such as v4-32 or v5litepod-16"
    yield from _tier(host)
    yield from _times(host)
    if host.get("queued") is not None and host.get("preemptible"):
        yield (
            ("queued",),
            "a queued resource makes spot VMs or ordinary ones, never preemptible ones: write spot: true",
        )
    if not host.get("per_run"):
        if not tpu.is_node_name(name):
            yield (
                (),
                f"{name!r} cannot be the name of a VM: expected at most 63 lower-case letters, digits and '-', from a letter "
                "to a letter or digit; rename the host, or write per_run: true",
            )
        if (host.get("max_nodes") or 1) > 1:
            yield ("max_nodes",), "there is one VM, with the host's name: more need per_run: true"
    yield from _pairs(host)


def wrong_with_overrides(given: _Doc) -> _Wrong:
    """Everything that is wrong with `spec.tpu`."""
    yield from _tier(given)
    yield from _times(given)
    yield from _pairs(given)


def unpriced(inventory: _Doc) -> Iterator[tuple[tuple[str, ...], str]]:
    """Hosts without a price, under a limit on costs that would not see them."""
    limits = inventory.get("limits") or {}
    costly = [name for name in ("max_cost_per_hour", "max_cost_total") if limits.get(name) is not None]
    if costly:
        for name, host in inventory["hosts"].items():
            if host.get("type") == "tpu" and host.get("price_per_chip_hour") is None:
                yield ("hosts", name), f"limits.{costly[0]} needs the price of this host: write price_per_chip_hour"


def _times(given: _Doc) -> _Wrong:
    """The schema sees to numbers; text has a length only here."""
    for name in ("queued", "ttl", "capacity_timeout", "boot_timeout"):
        value = given.get(name)
        if value is not None and seconds(value if isinstance(value, str) else int(value)) < _TIME_MIN_S:
            yield (name,), "it is shorter than a minute"


def _tier(given: _Doc) -> _Wrong:
    chosen = [name for name in ("spot", "preemptible", "reserved") if given.get(name)]
    if len(chosen) > 1:
        yield (chosen[1],), f"a VM is either {chosen[0]} or {chosen[1]}: keep one of them"


def _pairs(given: _Doc) -> _Wrong:
    labels, metadata = given.get("labels") or {}, given.get("metadata") or {}
    for key, value in labels.items():
        if key.startswith(tpu.OUR_LABELS):
            yield ("labels", key), f"labels that start with {tpu.OUR_LABELS!r} are ours: choose another key"
        elif not tpu.is_label_key(key):
            yield (
                ("labels", key),
                f"{key!r} is not a label's key: expected at most 63 lower-case letters, digits, '_' and '-', from a letter on",
            )
        elif not tpu.is_label_value(value):
            yield (
                ("labels", key),
                f"{value!r} is not a label's value: expected at most 63 lower-case letters, digits, '_' and '-'",
            )
    if len(labels) > _LABELS_MAX:
        yield ("labels",), f"{len(labels)} labels are too many: expected {_LABELS_MAX} at most"
    for key, value in metadata.items():
        if key in tpu.RESERVED_METADATA or key.startswith(tpu.OUR_LABELS):
            yield ("metadata", key), f"metadata {key!r} is ours to set: remove it{_instead(key)}"
        elif not _METADATA_KEY.match(key):
            yield (
                ("metadata", key),
                f"{key!r} is not a key of metadata: expected at most 128 letters, digits, '_' and '-'",
            )
        elif len(value.encode("utf-8", "surrogatepass")) > _METADATA_BYTES:
            yield ("metadata", key), "the value is longer than 256 KiB"


def _instead(key: str) -> str:
    return "; whose key lets in is said by ssh_user and ssh_key" if key in tpu.RESERVED_METADATA else ""
