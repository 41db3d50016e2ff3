"""A manifests repository that somebody hostile has written, and the machine on which somebody else applies it."""

from __future__ import annotations

import base64
import gzip
import io
import os
import re
import subprocess
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

PRIZE = "prize-8d1f\u00e4/+-not-for-jobs"
"""What must not get out: in a file of the user's, in a token of CI, and in the clone's git configuration."""


@dataclass(frozen=True)
class Said:
    code: int
    out: str

    def __contains__(self, text: str) -> bool:
        return text in self.out


@dataclass
class World:
    """`root/home/me` runs the reconciler in `root/jobs`, a clone of what somebody else has written."""

    root: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch
    options: list[str] = field(default_factory=list)

    @property
    def repo(self) -> Path:
        return self.root / "jobs"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def loot(self) -> Path:
        """Appears when something ran that must not."""
        return self.root / "loot"

    @property
    def prize(self) -> Path:
        return self.home / ".ssh" / "id_ed25519"

    def touch(self) -> str:
        """A shell command that leaves its mark."""
        return f"touch {self.loot}"

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def job(self, name: str = "evil", file: str = "", **spec: Any) -> None:
        body = {"command": ["true"], "source": None, **spec}
        document = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": {"name": name}, "spec": body}
        self.write(file or f"manifests/{name}.yaml", yaml.safe_dump(document, allow_unicode=True, sort_keys=False))

    def inventory(self, host: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **more: Any) -> str:
        """The text of one: a local host, unless told otherwise."""
        places = {"root": str(self.root / "cluster"), "work": str(self.root / "work")}
        return yaml.safe_dump(
            {
                "clusters": {"c": {**places, **(cluster or {})}},
                "hosts": {"h": {"type": "local", "cluster": "c", **(host or {})}},
                **more,
            }
        )

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(self.repo), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "change")

    def __call__(self, *arguments: str) -> Said:
        """The command line, and all that it says."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # typer's, of click
            from reconciler.cli.main import call

        self.capture.readouterr()
        code = call(["-C", str(self.repo), *self.options, *arguments])
        said = self.capture.readouterr()
        return Said(code, said.out + said.err)


def shapes(secret: str) -> Iterator[bytes]:
    """A secret as serializers, encoders and quoting leave it. It begins with letters that none of them changes but those below;
    what follows may be written in many ways."""
    plain = secret.encode()
    found = re.match(r"[A-Za-z0-9-]{8,}", secret)
    assert found is not None
    yield found[0].encode()
    yield plain.hex().encode()
    for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):  # it depends on where it begins; the ends depend on the neighbours
            whole = alphabet(b"x" * shift + plain)
            yield whole[4 if shift else 0 : len(whole) - 4]


def found_in(data: bytes, secret: str) -> bool:
    return any(shape in data for shape in shapes(secret))


def unpacked(data: bytes) -> Iterator[bytes]:
    """The data, and what is packed in it."""
    yield data
    if data[:2] == b"\x1f\x8b":
        inner = gzip.decompress(data)
        yield inner
        with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
            for member in archive:
                if member.isreg():
                    file = archive.extractfile(member)
                    assert file is not None
                    yield file.read()


def holders(root: Path, secret: str, *, but: Callable[[Path], bool] = lambda _path: False) -> list[Path]:
    """The files below `root` that hold the secret, in any shape."""
    found = []
    for folder, _, names in os.walk(root):  # what goes away meanwhile is passed over
        for path in (Path(folder, name) for name in sorted(names)):
            if path.is_symlink() or not path.is_file() or but(path):
                continue
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            if any(found_in(each, secret) for each in unpacked(data)) or found_in(str(path).encode(), secret):
                found.append(path)
    return found
