"""The server's side of a websocket (RFC 6455), as far as exec needs it: binary and text frames, fragments, ping, close."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import threading
from typing import BinaryIO

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Closed(Exception):
    """The other side is gone, or said that it goes."""


def accept(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()


class Channels:
    """Messages whose first byte is a channel's number."""

    def __init__(self, reader: BinaryIO, connection: socket.socket) -> None:
        self._reader = reader
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, channel: int, data: bytes) -> None:
        self._frame(BINARY, bytes([channel]) + data)

    def close(self) -> None:
        try:
            self._frame(CLOSE, struct.pack("!H", 1000))
        except Closed:
            pass

    def receive(self) -> bytes:
        """One whole message. Raises Closed."""
        message = b""
        while True:
            final, code, data = self._read_frame()
            if code == CLOSE:
                raise Closed
            if code == PING:
                self._frame(PONG, data)
            elif code in (CONTINUED, TEXT, BINARY):
                message += data
                if final:
                    return message

    def _read_frame(self) -> tuple[bool, int, bytes]:
        head = self._exactly(2)
        size = head[1] & 0x7F
        if size == 126:
            size = struct.unpack("!H", self._exactly(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self._exactly(8))[0]
        mask = self._exactly(4) if head[1] & 0x80 else b""
        data = self._exactly(size)
        if mask and data:
            wide = (mask * (size // 4 + 1))[:size]
            data = (int.from_bytes(data, "big") ^ int.from_bytes(wide, "big")).to_bytes(size, "big")
        return bool(head[0] & 0x80), head[0] & 0x0F, data

    def _exactly(self, size: int) -> bytes:
        try:
            data = self._reader.read(size)
        except (OSError, ValueError):
            raise Closed from None
        if len(data) < size:
            raise Closed
        return data

    def _frame(self, code: int, data: bytes) -> None:
        size = len(data)
        head = bytes([0x80 | code])
        if size < 126:
            head += bytes([size])
        elif size < 65536:
            head += struct.pack("!BH", 126, size)
        else:
            head += struct.pack("!BQ", 127, size)
        with self._lock:
            try:
                self._connection.sendall(head + data)
            except OSError:
                raise Closed from None
