"""What is sent to a machine that was made for a run: one public key, and nothing else that lies where one is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.app.rented import public_key
from reconciler.core.errors import Rejected

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
