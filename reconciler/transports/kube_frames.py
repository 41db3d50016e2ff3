"""The frames of a websocket as bytes, and the channels that Kubernetes puts into them. Pure.

Kubernetes' `v4.channel.k8s.io`: each binary message starts with one byte, the channel. The client's messages are masked, as RFC
6455 demands; the server's are not.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, STATUS = 0, 1, 2, 3

_CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_KINDS = frozenset({_CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_MESSAGE_MAX = 64 * 1024 * 1024


class BrokenFrame(Exception):
    """The other side does not speak the protocol."""


@dataclass(frozen=True, slots=True)
class Message:
    """`kind` is BINARY (or TEXT), CLOSE, PING or PONG."""

    kind: int
    data: bytes


def frame(kind: int, data: bytes | memoryview) -> bytes:
    """One whole message of the client's."""
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", 0x80 | kind, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | kind, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | kind, 0x80 | 127, size)
    key = os.urandom(4)
    # As one large number: byte by byte costs a second for some megabytes.
    repeated = (key * (size // 4 + 1))[:size]
    masked = (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
    return head + key + masked


class Inbox:
    """Bytes from the server become messages, however they are cut."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._kind = 0
        self._parts = bytearray()

    def add(self, piece: bytes) -> None:
        self._data += piece

    def messages(self) -> Iterator[Message]:
        """What is whole by now. Raises BrokenFrame."""
        while True:
            found = self._next()
            if found is None:
                return
            last, kind, data = found
            if kind not in _KINDS:
                raise BrokenFrame(f"a frame of kind {kind}")
            if kind >= CLOSE:
                yield Message(kind, data)
                continue
            if kind != _CONTINUATION:
                self._kind, self._parts = kind, bytearray()
            self._parts += data
            if len(self._parts) > _MESSAGE_MAX:
                raise BrokenFrame(f"a message of more than {_MESSAGE_MAX} bytes")
            if last:
                yield Message(self._kind, bytes(self._parts))
                self._parts = bytearray()

    def _next(self) -> tuple[bool, int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        size, at = data[1] & 0x7F, 2
        if data[1] & 0x80 or data[0] & 0x70:
            raise BrokenFrame("a masked or compressed frame")
        if size == 126:
            if len(data) < 4:
                return None
            (size,), at = struct.unpack_from("!H", data, 2), 4
        elif size == 127:
            if len(data) < 10:
                return None
            (size,), at = struct.unpack_from("!Q", data, 2), 10
        if size > _MESSAGE_MAX:
            raise BrokenFrame(f"a frame of {size} bytes")
        if len(data) < at + size:
            return None
        found = bool(data[0] & 0x80), data[0] & 0x0F, bytes(data[at : at + size])
        del data[: at + size]
        return found
