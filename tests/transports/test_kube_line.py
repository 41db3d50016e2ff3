"""The socket under a command in a pod: never waits for the other side while there is something of ours to send."""

from __future__ import annotations

import contextlib
import socket
import time

from reconciler.transports.kube import _Line

LONG_S = 20.0


def drained(peer: socket.socket) -> int:
    """How many bytes had come."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while got := peer.recv(1 << 20):
            count += len(got)
    return count


def capacity() -> int:
    """How many bytes a line takes while nobody reads."""
    ours, peer = socket.socketpair()
    with ours, peer:
        peer.setblocking(False)
        line = _Line(ours)
        line.send(b"x" * (4 << 20))
        line.exchange(0.02)
        return drained(peer)


def test_what_was_left_over_goes_at_the_start_of_the_next_exchange_and_does_not_wait_for_an_answer() -> None:
    """The rest fits because the peer has read meanwhile: the caller has more to send, and nobody will speak before that."""
    data = b"x" * (capacity() * 3 // 2)
    ours, peer = socket.socketpair()
    with ours, peer:
        peer.setblocking(False)
        line = _Line(ours)
        line.send(data)
        assert line.exchange(0.02) == b""
        assert line.sending
        count = drained(peer)
        began = time.monotonic()
        assert line.exchange(LONG_S) == b""
        assert time.monotonic() - began < LONG_S / 2
        assert not line.sending
        assert count + drained(peer) == len(data)


def test_an_answer_is_given_at_once() -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        peer.sendall(b"hello")
        began = time.monotonic()
        assert _Line(ours).exchange(LONG_S) == b"hello"
        assert time.monotonic() - began < LONG_S / 2
