"""What is sent to a machine that was made for a run: one public key, and nothing else that lies where one is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.app.rented import public_key
from reconciler.core.errors import Rejected
from reconciler.transports.rented import Login, settings_for

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ5"


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"{KEY} me@here\n",
        "ecdsa-sha2-nistp256 AAAAE2Vj= two words",
        "sk-ssh-ed25519@openssh.com AAAAGnNr me",
        "ssh-rsa-cert-v01@openssh.com AAAAB3Nz+/== x",
    ],
)
def test_a_public_key_is_sent(tmp_path: Path, text: str) -> None:
    (tmp_path / "id.pub").write_text(text)
    assert public_key(str(tmp_path / "id"), "me", "pod") == f"me:{text.strip()}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prize",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA",
        f"{KEY}\nprize",
        f"prize\n{KEY}",
        "ssh-rsa prize",
        b"\xff\xfe",
    ],
)
def test_another_file_is_not_sent(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "id.pub").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Rejected, match="is not one public key on one line") as told:
        public_key(str(tmp_path / "id"), "me", "pod")
    assert "prize" not in str(told.value)


def test_without_a_key_signing_in_is_the_projects_affair(tmp_path: Path) -> None:
    assert public_key(str(tmp_path / "id"), "me", "pod") == ""


@pytest.mark.parametrize("address", ["10.0.0.7", "fd00::7"])
def test_an_address_is_written_into_the_configuration(tmp_path: Path, address: str) -> None:
    login = Login("tpu-n-1-0", address, 22, "me", "/k", "ssh-ed25519 AAAA")
    settings_for(login, tmp_path, include=None, timeout_s=1)
    assert f"    HostName {address}\n" in (tmp_path / "tpu-n-1-0.config").read_text()


@pytest.mark.parametrize("field", ["alias", "address", "user"])
@pytest.mark.parametrize(
    "text", ["x;touch${IFS}loot", "$(touch)", "`id`", "fe80::1%x;id", "fe80::1%eth0", "-oX", "a b", "a#b", ""]
)
def test_what_a_shell_would_read_is_no_machine(tmp_path: Path, field: str, text: str) -> None:
    """The user's own configuration may hold a ProxyCommand with %h, %n or %r."""
    if field != "address" and text == "fe80::1%eth0":
        return
    told = {"alias": "tpu-n-1-0", "address": "10.0.0.7", "user": "me"} | {field: text}
    login = Login(told["alias"], told["address"], 22, told["user"], "/k", "ssh-ed25519 AAAA")
    with pytest.raises(Rejected):
        settings_for(login, tmp_path, include=None, timeout_s=1)
