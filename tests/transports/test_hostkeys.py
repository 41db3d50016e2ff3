"""known_hosts is read as sshd(8) describes it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from reconciler.core.errors import AccessRefused
from reconciler.transports.hostkeys import KnownKey, check, fingerprint, known_keys
from reconciler.transports.sshconfig import Endpoint

KEY, OTHER = base64.b64encode(b"a key").decode(), base64.b64encode(b"another key").decode()


def known(tmp_path: Path, name: str, text: str) -> list[KnownKey]:
    (tmp_path / "known_hosts").write_text(text)
    return known_keys(name, [tmp_path / "none", tmp_path / "known_hosts"])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("login.example", "login.example"),
        ("LOGIN.example", "login.example"),
        ("a,login.example,b", "login.example"),
        ("*.example", "login.example"),
        ("log?n.example", "login.example"),
        ("[login.example]:2222", "[login.example]:2222"),
        ("[*.example]:2222", "[login.example]:2222"),
        ("::1", "::1"),
    ],
)
def test_a_name_is_found(tmp_path: Path, line: str, name: str) -> None:
    assert [key.blob for key in known(tmp_path, name, f"# comment\n\n{line} ssh-ed25519 {KEY} words\n")] == [b"a key"]


@pytest.mark.parametrize(
    "line",
    [
        "login.example.org",
        "*.example,!login.example",
        "[login.example]:2222",
        "# login.example",
        "login.example ssh-ed25519",
        "|1|not base64|neither",
        "|1|one-part-only",
    ],
)
def test_another_name_is_not_found(tmp_path: Path, line: str) -> None:
    assert known(tmp_path, "login.example", f"{line} ssh-ed25519 {KEY}\n") == []


def test_bytes_that_are_no_text_do_not_hide_the_other_lines(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_bytes(b"\xff\xfe junk\nhost ssh-ed25519 " + KEY.encode() + b"\n")
    assert len(known_keys("host", [tmp_path / "known_hosts"])) == 1


def host(port: int = 22, alias: str | None = None) -> Endpoint:
    return Endpoint("mine", "Login.Example", port, "jo", (), (Path("/kh"),), alias, None, None, (), None)


def test_the_name_in_known_hosts_depends_on_port_and_alias() -> None:
    assert host().key_name == "login.example"
    assert host(2222).key_name == "[login.example]:2222"
    assert host(2222, "Cluster").key_name == "cluster"


def test_one_of_two_keys_of_a_kind_suffices(tmp_path: Path) -> None:
    lines = f"login.example ssh-ed25519 {OTHER}\nlogin.example ssh-ed25519 {KEY}\n"
    check(host(), known(tmp_path, "login.example", lines), "ssh-ed25519", b"a key", login="ssh mine")


def test_a_changed_key_names_the_line_and_both_fingerprints(tmp_path: Path) -> None:
    keys = known(tmp_path, "login.example", f"\nlogin.example ssh-ed25519 {OTHER}\n")
    with pytest.raises(AccessRefused, match=r"has changed.*known_hosts:2") as refused:
        check(host(), keys, "ssh-ed25519", b"a key", login="ssh mine")
    assert fingerprint(b"a key") in str(refused.value)
    assert fingerprint(b"another key") in str(refused.value)


def test_a_known_key_of_another_kind_does_not_vouch_for_this_one(tmp_path: Path) -> None:
    keys = known(tmp_path, "login.example", f"login.example ssh-rsa {KEY}\n")
    with pytest.raises(AccessRefused, match="Run `ssh mine` once"):
        check(host(), keys, "ssh-ed25519", b"a new key", login="ssh mine")


def test_a_revoked_key_is_refused_even_when_it_is_also_listed(tmp_path: Path) -> None:
    lines = f"login.example ssh-ed25519 {KEY}\n@revoked * ssh-ed25519 {KEY}\n"
    with pytest.raises(AccessRefused, match="revoked"):
        check(host(), known(tmp_path, "login.example", lines), "ssh-ed25519", b"a key", login="ssh mine")


def test_the_key_of_an_authority_is_not_a_host_key(tmp_path: Path) -> None:
    keys = known(tmp_path, "login.example", f"@cert-authority *.example ssh-ed25519 {KEY}\n")
    with pytest.raises(AccessRefused, match="not in"):
        check(host(), keys, "ssh-ed25519", b"a key", login="ssh mine")
