"""A user's repository of manifests, driven through the command line as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.sshd import Lab, ssh_lab

__all__ = ["ssh_lab"]

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_S = 90.0


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """A shell's background job is started with SIGINT ignored, and its children inherit that: the commands of these
    tests are somebody's at a terminal, who can interrupt them."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Site:
    """One repository with its own state, and the commands on it."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    wait_s: float = WAIT_S

    @property
    def repo(self) -> Path:
        return self.root / "jobs"

    def make(self, inventory: dict[str, Any]) -> None:
        (self.repo / "manifests").mkdir(parents=True)
        (self.repo / "manifests" / "inventory.yaml").write_text(yaml.safe_dump(inventory))
        (self.repo / "manifests" / "README.md").write_text("jobs\n")
        self.git("init", "-q")
        self.git("config", "user.name", "t")
        self.git("config", "user.email", "t@t")
        self.commit(f"start {self.root}")  # the first commit is the mark: it must differ from other sites'

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(self.repo), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def commit(self, message: str = "change") -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)

    def job(self, name: str, command: list[str] | str, **spec: Any) -> None:
        """Write a manifest of general/default/NAME that ships no code unless told to."""
        body = {"command": command, "source": None, "restart": {"backoff": {"initial": "0s"}}, **spec}
        document = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": {"name": name}, "spec": body}
        self.path(name).write_text(yaml.safe_dump(document, allow_unicode=True))

    def path(self, name: str) -> Path:
        return self.repo / "manifests" / f"{name}.yaml"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "reconciler", "-C", str(self.repo), *arguments]
        return subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, timeout_s: float = 60.0) -> Said:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=timeout_s)
        return Said(process.returncode, out, err)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RECONCILER_")}
        return {
            **kept,
            "RECONCILER_STATE": str(self.root / "state"),
            "HOME": str(self.root / "home"),
            "PYTHONPATH": str(REPOSITORY),
            "NO_COLOR": "1",
            # Most tests are of other things than what manifests may have.
            "RECONCILER_ALLOW": json.dumps({"env": ["*"], "files": [f"{self.root}/"]}),
            **self.env,
        }

    def status(self) -> dict[str, dict[str, Any]]:
        said = self("status", "--json")
        assert said.code == 0, said
        return {job["job"].rpartition("/")[2]: job for job in said.json["jobs"]}

    def until(
        self, holds: Callable[[dict[str, dict[str, Any]]], bool], *, apply: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Look (or apply) again and again until it holds. Fails with the last status when it never does."""
        deadline = time.monotonic() + self.wait_s
        while True:
            if apply:
                self("apply", "--yes")
            found = self.status()
            if holds(found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.1)


def local_inventory(root: Path, **host: Any) -> dict[str, Any]:
    return {
        "clusters": {"here": {"root": str(root / "cluster"), "work": str(root / "work")}},
        "hosts": {"local": {"type": "local", "cluster": "here", "slots": 16, **host}},
    }


def lab_inventory(lab: Lab, *names: str, space: str = "", **host: Any) -> dict[str, Any]:
    """Hosts of the lab; `space` keeps the files of tests that share a host apart."""
    return {
        "clusters": {
            name: {"root": f"{lab[name].root}/{space}/c", "work": f"{lab[name].root}/{space}/w"} for name in names
        },
        "hosts": {
            name: {"type": "plain", "ssh": name, "cluster": name, "slots": 16, "connect_timeout": "3s", **host}
            for name in names
        },
    }


@pytest.fixture
def empty_site(tmp_path: Path) -> Site:
    (tmp_path / "home").mkdir()
    return Site(tmp_path)


@pytest.fixture
def site(empty_site: Site) -> Site:
    """A repository whose only host is this machine."""
    empty_site.make(local_inventory(empty_site.root))
    return empty_site


@pytest.fixture
def remote(empty_site: Site, ssh_lab: Lab) -> Site:
    """A repository whose hosts are two machines of the lab."""
    empty_site.env = {"RECONCILER_SSH_CONFIG": str(ssh_lab.ssh_config)}
    empty_site.make(lab_inventory(ssh_lab, "node1", "node2", space=empty_site.root.name))
    return empty_site


def processes(marker: str) -> list[int]:
    """Living processes (zombies are not) of this machine whose command line holds the marker, over all namespaces."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if marker.encode() in words and state not in "ZX" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found
