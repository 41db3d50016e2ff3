"""Destinations are read as ssh reads them."""

from __future__ import annotations

import pytest

from reconciler.core.errors import Rejected
from reconciler.transports.sshconfig import checked_alias, destination, without_port


@pytest.mark.parametrize(
    ("alias", "word", "apart"),
    [
        ("host", "host", ("host", None)),
        ("jo@host", "jo@host", ("jo@host", None)),
        ("host:2222", "ssh://host:2222", ("host", "2222")),
        ("jo@host:2222", "ssh://jo@host:2222", ("jo@host", "2222")),
        ("::1", "::1", ("::1", None)),
        ("fe80::1:22", "fe80::1:22", ("fe80::1:22", None)),
        ("jo@[::1]:22", "ssh://jo@[::1]:22", ("jo@[::1]", "22")),
        ("ssh://jo@host:2222", "ssh://jo@host:2222", ("jo@host", "2222")),
    ],
)
def test_a_port_is_told_from_an_address(alias: str, word: str, apart: tuple[str, str | None]) -> None:
    assert destination(alias) == word
    assert without_port(alias) == apart


@pytest.mark.parametrize(
    "alias",
    [
        "",
        "-v",
        "-oProxyCommand=id",
        "a b",
        "a\nb",
        "a\0b",
        "me@-v",
        "$(id)",
        "a;id",
        "`id`",
        "a|id",
        "'a",
        "a&",
        "{a,b}",
    ],
)
def test_what_ssh_would_take_for_something_else_is_refused(alias: str) -> None:
    with pytest.raises(Rejected, match="not an ssh destination"):
        checked_alias(alias)
