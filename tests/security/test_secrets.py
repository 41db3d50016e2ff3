"""Canaries of every kind go through every backend: the programs get them, and nothing that is left, shown or recorded has them.

One job succeeds. The other prints its secrets and fails, so that the end of its output is told by its record, `status` and
`explain`: only its own output may have them. On the same sites nothing is open to other accounts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.tpu.emulator import GET_LIBRARY, have_library
from tests.lab.slurm import Cluster, slurm, slurm_lab
from tests.lab.sshd import Lab, require_sshd
from tests.real import test_slurm
from tests.real.cloud import cloud
from tests.real.conftest import Site, lab_inventory, local_inventory
from tests.real.kube import kube_site
from tests.security.hostile import found_in, holders

__all__ = ["slurm", "slurm_lab"]

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("slurm")]

CANARIES = {name: f"canary-{name}-7c\u00e4 '/+\\n-end" for name in ("env", "file", "command")}
COMMAND = ["sh", "-c", "cat ~/from-command"]
REFERENCES = {"A": {"env": "TOKEN_HERE"}, "B": {"file": "~/from-file"}, "C": {"command": COMMAND}}


@dataclass
class Place:
    """A site with its secrets at hand. `folders` are searched, with the site's own."""

    site: Site
    folders: list[Path]
    spec: dict[str, Any] = field(default_factory=dict)
    recorded: Callable[[], object] = dict
    """What an emulated service was told and keeps, but for the objects that are for secrets."""
    is_output: Callable[[Path], bool] = lambda path: path.name.startswith("output.log")
    closed: tuple[Path, ...] = ()
    """Made on the host by us: other accounts can read nothing in it."""


def prepared(site: Site) -> Site:
    site.env["TOKEN_HERE"] = CANARIES["env"]
    allow = {"env": ["TOKEN_HERE"], "files": ["~/from-file", f"{site.root}/"], "commands": [COMMAND]}
    site.env["RECONCILER_ALLOW"] = json.dumps(allow)
    for name in ("file", "command"):
        (site.root / "home" / f"from-{name}").write_text(CANARIES[name])
    return site


@contextlib.contextmanager
def on_local(site: Site, _request: pytest.FixtureRequest) -> Iterator[Place]:
    site.make(local_inventory(site.root))
    yield Place(site, [], closed=(site.root / "cluster", site.root / "work"))


@contextlib.contextmanager
def on_plain(site: Site, request: pytest.FixtureRequest) -> Iterator[Place]:
    lab: Lab = request.getfixturevalue("ssh_lab")
    site.env["RECONCILER_SSH_CONFIG"] = str(lab.ssh_config)
    inventory = lab_inventory(lab, "node1", space=site.root.name)
    site.make(inventory)
    folder = Path(lab["node1"].root) / site.root.name
    yield Place(site, [folder], closed=(folder,))


@contextlib.contextmanager
def on_slurm(site: Site, request: pytest.FixtureRequest) -> Iterator[Place]:
    cluster: Cluster = request.getfixturevalue("slurm")
    site.env["RECONCILER_SSH_CONFIG"] = str(cluster.ssh.ssh_config)
    folder = Path(str(cluster.slurm.shared)) / site.root.name
    site.make(test_slurm.inventory(cluster, folder))

    def recorded() -> object:
        return [cluster.slurm.out("scontrol", "show", "job"), cluster.slurm.out("sacct", "-a", "-l", "-p")]

    try:
        yield Place(site, [folder], recorded=recorded, closed=(folder,))
    finally:
        cluster.slurm.clear()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def on_tpu(site: Site, _request: pytest.FixtureRequest) -> Iterator[Place]:
    if not have_library():
        pytest.skip(GET_LIBRARY)
    require_sshd()
    with cloud(site.root / "cloud") as made:
        made.make(made.inventory(accelerator_type="v4-8", approve="auto"))
        calls = ("CreateNode", "UpdateNode", "DeleteNode", "CreateQueuedResource")

        def recorded() -> object:
            return [made.nodes(), [repr(call) for name in calls for call in made.tpu.calls(name)]]

        request = {"chip": "tpu-v4", "min_chips": 4}
        spec = {"request": request, "grace": "1s"}
        closed = (made.shared / "c", made.shared / "w")
        yield Place(made, [made.shared, made.tpu.workers.root], spec, recorded, closed=closed)


@contextlib.contextmanager
def on_volcano(site: Site, _request: pytest.FixtureRequest) -> Iterator[Place]:
    with kube_site(site.root / "kube") as made:
        made.make(made.inventory())
        kinds = ("jobs", "pods", "events", "podgroups")

        def recorded() -> object:
            return [[made.kube.list(kind) for kind in kinds], [repr(call) for call in made.kube.calls]]

        # The kubelet mounts the Secret and keeps what containers print, as the real one does.
        def is_output(path: Path) -> bool:
            return path.name.startswith("output.log") or (
                made.root / "cluster" in path.parents and made.shared not in path.parents
            )

        spec = {"request": {"chip": "h100", "min_chips": 8}, "grace": "2s"}
        # Nothing is `closed`: whoever may mount the claim may read it, because images differ in their users.
        yield Place(made, [made.shared], spec, recorded, is_output)


WORLDS = {"local": on_local, "plain": on_plain, "slurm": on_slurm, "tpu": on_tpu, "volcano": on_volcano}


@pytest.fixture(params=WORLDS)
def place(request: pytest.FixtureRequest, empty_site: Site) -> Iterator[Place]:
    with WORLDS[request.param](empty_site, request) as made:
        prepared(made.site)
        before = os.umask(0)  # what a careless account has: nothing of ours may come from it
        try:
            yield made
        finally:
            os.umask(before)


class Watcher(threading.Thread):
    """Reads the command line of every process of this machine, those in all namespaces included, over and over."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.wait(0.1):
            for entry in os.listdir("/proc"):
                if entry.isdigit():
                    with contextlib.suppress(OSError):
                        self.seen.add(Path("/proc", entry, "cmdline").read_bytes())

    def end(self) -> set[bytes]:
        self._enough.set()
        self.join()
        return self.seen


def test_secrets_reach_the_programs_and_nothing_else(place: Place) -> None:
    site = place.site
    more = {"secrets": REFERENCES, "restart": {"failure": 0}, **place.spec}
    site.job("good", "sleep 0.2", **more)
    site.job("bad", 'echo "$A"; echo "$B"; echo "$C"; exit 3', **more)
    site.commit()
    watcher = Watcher()
    watcher.start()
    plan = site.root / "plan"
    said = [site("plan", "--show", "good"), site("plan", "-o", str(plan)), site("apply", "--yes", "--wait")]
    final = site.until(lambda jobs: (jobs["good"]["phase"], jobs["bad"]["phase"]) == ("Succeeded", "Failed"))
    said += [site("explain", "bad", "--json"), site("history", "--json"), site("logs", "good")]
    commands = watcher.end()
    assert any(b"reconciler" in line for line in commands)

    shown = (
        json.dumps(final) + "".join(each.out + each.err for each in said) + json.dumps(place.recorded(), default=repr)
    )
    for name, canary in CANARIES.items():
        assert not found_in(shown.encode(), canary), name
        assert not [line for line in commands if found_in(line, canary)], name
        holding = [path for folder in (site.root, *place.folders) for path in holders(folder, canary)]
        mine = [path for path in holding if path.name in ("from-file", "from-command")]
        printed = [path for path in holding if place.is_output(path)]
        assert [path for path in holding if path not in mine + printed] == []
        assert printed, "the canary did not arrive, so that nothing is shown by this"

    assert private(site.root / "state") + private(plan) == []
    assert [found for top in place.closed for found in opened(top)] == []
    assert all(top.is_dir() for top in place.closed)


def private(top: Path) -> list[str]:
    """What in `top`, itself included, is not for its owner alone."""
    paths = [top, *(Path(folder, name) for folder, folders, files in os.walk(top) for name in folders + files)]
    return [f"{path}: {path.lstat().st_mode & 0o777:o}" for path in paths if path.lstat().st_mode & 0o077]


def opened(top: Path) -> list[str]:
    """What in `top`, itself included, other accounts can list or read."""
    about = top.lstat()
    if stat.S_ISLNK(about.st_mode):
        return []
    found = [f"{top}: {about.st_mode & 0o777:o}"] if about.st_mode & stat.S_IROTH else []
    if stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_IXOTH:
        found += [more for inner in top.iterdir() for more in opened(inner)]
    return found
