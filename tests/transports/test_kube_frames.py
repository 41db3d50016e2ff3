"""The frames of a websocket: as RFC 6455 has them, however the bytes are cut."""

from __future__ import annotations

import random
import struct

import pytest

from reconciler.transports.kube_frames import BINARY, CLOSE, PING, PONG, TEXT, BrokenFrame, Inbox, Message, frame


def from_server(kind: int, data: bytes, *, last: bool = True) -> bytes:
    """Unmasked, as a server sends it."""
    head = bytes([(0x80 if last else 0) | kind])
    if len(data) < 126:
        head += bytes([len(data)])
    elif len(data) < 1 << 16:
        head += struct.pack("!BH", 126, len(data))
    else:
        head += struct.pack("!BQ", 127, len(data))
    return head + data


def unmasked(raw: bytes) -> tuple[int, bytes]:
    """A client's frame, read byte by byte."""
    size, at = raw[1] & 0x7F, 2
    if size == 126:
        size, at = struct.unpack_from("!H", raw, 2)[0], 4
    elif size == 127:
        size, at = struct.unpack_from("!Q", raw, 2)[0], 10
    assert raw[1] & 0x80
    key, body = raw[at : at + 4], raw[at + 4 :]
    assert len(body) == size
    return raw[0], bytes(byte ^ key[index % 4] for index, byte in enumerate(body))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 126, 127, 65_535, 65_536, 200_001])
def test_a_frame_of_ours_is_whole_and_masked(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert unmasked(frame(BINARY, data)) == (0x82, data)


def test_two_frames_have_two_masks() -> None:
    assert frame(BINARY, b"x" * 32) != frame(BINARY, b"x" * 32)


def test_messages_are_read_however_they_are_cut() -> None:
    sent = [
        (BINARY, b""),
        (BINARY, b"\x01abc"),
        (TEXT, b"x" * 126),
        (BINARY, b"y" * 70_000),
        (PING, b"p"),
        (CLOSE, b""),
    ]
    raw = b"".join(from_server(kind, data) for kind, data in sent)
    for step in (1, 2, 7, 1000, len(raw)):
        inbox, got = Inbox(), []
        for at in range(0, len(raw), step):
            inbox.add(raw[at : at + step])
            got += list(inbox.messages())
        assert got == [Message(kind, data) for kind, data in sent]


def test_a_message_in_fragments_is_one_with_a_ping_between() -> None:
    inbox = Inbox()
    inbox.add(from_server(BINARY, b"\x01ab", last=False) + from_server(PONG, b"") + from_server(0, b"cd"))
    assert list(inbox.messages()) == [Message(PONG, b""), Message(BINARY, b"\x01abcd")]


@pytest.mark.parametrize("raw", [b"\x82\x80\0\0\0\0", b"\xc2\x00", b"\x83\x00", b"\x8b\x00", b"\x82\x7f" + b"\x7f" * 8])
def test_what_is_no_such_protocol_is_broken(raw: bytes) -> None:
    inbox = Inbox()
    inbox.add(raw)
    with pytest.raises(BrokenFrame):
        list(inbox.messages())
