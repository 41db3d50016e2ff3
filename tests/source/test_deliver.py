"""A tree reaches a host once, whole, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from reconciler.core.errors import OutcomeUnknown, Rejected, ShipError, Unreachable
from reconciler.core.transport import Command, Completed, Transport
from reconciler.source.deliver import Trust, deliver, deliver_runtime, object_path, runtime_path
from reconciler.source.rsync import synchronise
from reconciler.source.snapshot import Snapshot, archive
from reconciler.transports.fake import FakeHost, FakeTransport
from reconciler.transports.local import LocalTransport
from reconciler.transports.openssh import OpenSshTransport
from reconciler.transports.registry import TransportSettings, open_transport
from tests.lab.sshd import Lab
from tests.source.repos import commit, repository, write

AMPLE_S = 60.0


class Watched:
    """Counts what goes through a transport, and does what a test wants before or instead."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.runs: list[Command] = []
        self.puts: list[str] = []
        self.before_put: Callable[[str], None] = lambda path: None
        self.after_put: Callable[[str], None] = lambda path: None

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        self.runs.append(command)
        return self.inner.run(command, deadline_s=deadline_s)

    def put(
        self,
        source: BinaryIO,
        path: str,
        *,
        size: int,
        mode: int = 0o644,
        deadline_s: float,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.puts.append(path)
        self.before_put(path)
        self.inner.put(source, path, size=size, mode=mode, deadline_s=deadline_s, progress=progress)
        self.after_put(path)

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:
        return self.inner.get(path, size_max=size_max, deadline_s=deadline_s)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    repo = repository(tmp_path / "repo")
    write(repo, "data.bin", os.urandom(2_000_000).hex())
    return archive(repo, commit(repo, **{"train.py": "print()"}), cache=tmp_path / "cache")


@pytest.fixture
def share(tmp_path: Path) -> str:
    return str(tmp_path / "sha're $(x)")


@pytest.fixture
def transport() -> Watched:
    return Watched(LocalTransport())


def files(share: str) -> list[str]:
    return sorted(str(path.relative_to(share)) for path in Path(share).rglob("*") if path.is_file())


def test_a_tree_is_sent_once_for_a_hundred_jobs(transport: Watched, share: str, snapshot: Snapshot) -> None:
    paths = {deliver(transport, share, snapshot, deadline_s=AMPLE_S) for _ in range(100)}
    assert paths == {object_path(share, snapshot.sha256)}
    assert len(transport.puts) == 1
    assert Path(paths.pop()).read_bytes() == snapshot.path.read_bytes()
    assert files(share) == [f"objects/{snapshot.sha256}.tar.gz"]


def test_a_tree_that_is_there_costs_one_question(transport: Watched, share: str, snapshot: Snapshot) -> None:
    deliver(transport, share, snapshot, deadline_s=AMPLE_S)
    transport.runs.clear()
    deliver(transport, share, snapshot, deadline_s=AMPLE_S)
    assert len(transport.runs) == 1


def test_progress_adds_up_to_the_size(transport: Watched, share: str, snapshot: Snapshot) -> None:
    sent: list[int] = []
    deliver(transport, share, snapshot, deadline_s=AMPLE_S, progress=sent.append)
    assert sum(sent) == snapshot.size
    assert len(sent) > 1


def test_bytes_damaged_on_the_way_are_noticed_and_removed(transport: Watched, share: str, snapshot: Snapshot) -> None:
    def damage(path: str) -> None:
        with open(path, "r+b") as file:
            file.seek(1000)
            file.write(b"\0\0\0\0")

    transport.after_put = damage
    with pytest.raises(ShipError, match="not what was sent"):
        deliver(transport, share, snapshot, deadline_s=AMPLE_S)
    assert files(share) == []


def test_an_object_of_the_wrong_size_is_not_believed(transport: Watched, share: str, snapshot: Snapshot) -> None:
    path = Path(object_path(share, snapshot.sha256))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    deliver(transport, share, snapshot, deadline_s=AMPLE_S)
    assert path.read_bytes() == snapshot.path.read_bytes()


def test_a_damaged_object_of_the_right_size_is_replaced_on_doubt(
    transport: Watched, share: str, snapshot: Snapshot
) -> None:
    path = Path(deliver(transport, share, snapshot, deadline_s=AMPLE_S))
    path.write_bytes(b"\0" * snapshot.size)
    deliver(transport, share, snapshot, deadline_s=AMPLE_S)
    assert len(transport.puts) == 1
    deliver(transport, share, snapshot, deadline_s=AMPLE_S, trust=Trust.CHECKSUM)
    assert len(transport.puts) == 2
    assert path.read_bytes() == snapshot.path.read_bytes()


def test_two_deliverers_at_once_both_succeed(share: str, snapshot: Snapshot) -> None:
    both = threading.Barrier(2, timeout=30)
    results: list[str] = []

    def one() -> None:
        transport = Watched(LocalTransport())

        def wait(path: str) -> None:
            both.wait()

        transport.before_put = wait
        results.append(deliver(transport, share, snapshot, deadline_s=AMPLE_S))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [object_path(share, snapshot.sha256)] * 2
    assert files(share) == [f"objects/{snapshot.sha256}.tar.gz"]


def test_what_an_interrupted_deliverer_left_is_cleared_up_a_day_later(
    transport: Watched, share: str, snapshot: Snapshot
) -> None:
    fresh, old = write(Path(share), "objects/.incoming-fresh"), write(Path(share), "objects/.incoming-old")
    os.utime(old, (1, 1))
    deliver(transport, share, snapshot, deadline_s=AMPLE_S)
    assert fresh.exists()
    assert not old.exists()


def test_a_share_that_cannot_be_written_is_rejected_with_the_hosts_words(
    transport: Watched, tmp_path: Path, snapshot: Snapshot
) -> None:
    write(tmp_path, "file")
    with pytest.raises(Rejected, match=r"(?i)not a directory|file exists"):
        deliver(transport, str(tmp_path / "file"), snapshot, deadline_s=AMPLE_S)


@pytest.mark.parametrize("share", ["relative", "", "~/share", "/a\0b"])
def test_a_share_must_be_absolute(transport: Watched, share: str, snapshot: Snapshot) -> None:
    with pytest.raises(ShipError, match="absolute"):
        deliver(transport, share, snapshot, deadline_s=AMPLE_S)
    assert transport.runs == []


def test_a_host_without_any_checksum_program_is_said(share: str, snapshot: Snapshot) -> None:
    def sh(host: FakeHost, command: Command) -> Completed:
        asks = "absent" in command.argv[2]
        return Completed(0, b"absent\n", b"") if asks else Completed(71, b"", b"none of sha256sum ... is there\n")

    with pytest.raises(ShipError, match="no checksum can be computed"):
        deliver(FakeTransport(FakeHost("h", programs={"sh": sh})), share, snapshot, deadline_s=AMPLE_S)


def test_a_cached_archive_that_went_away_is_said(transport: Watched, share: str, snapshot: Snapshot) -> None:
    snapshot.path.unlink()
    with pytest.raises(ShipError, match="cannot be read"):
        deliver(transport, share, snapshot, deadline_s=AMPLE_S)


# --- the runtime bundle -----------------------------------------------------------------------------------------------


def bundle(**contents: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"runtime/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return out.getvalue()


def test_a_runtime_bundle_is_unpacked_once(transport: Watched, share: str) -> None:
    data = bundle(**{"__init__.py": "", "main.py": "print()"})
    path = deliver_runtime(transport, share, data, deadline_s=AMPLE_S)
    assert path == runtime_path(share, hashlib.sha256(data).hexdigest())
    assert files(path) == ["runtime/__init__.py", "runtime/main.py"]
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o750
    assert os.listdir(Path(path).parent) == [Path(path).name]
    transport.runs.clear()
    assert deliver_runtime(transport, share, data, deadline_s=AMPLE_S) == path
    assert len(transport.runs) == 1


def test_two_that_unpack_at_once_leave_one_tree(share: str) -> None:
    data = bundle(**{"main.py": "print()"})
    threads = [
        threading.Thread(target=deliver_runtime, args=(LocalTransport(), share, data), kwargs={"deadline_s": AMPLE_S})
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path = Path(runtime_path(share, hashlib.sha256(data).hexdigest()))
    assert files(str(path)) == ["runtime/main.py"]
    assert os.listdir(path.parent) == [path.name]


def test_what_is_no_archive_is_not_unpacked(transport: Watched, share: str) -> None:
    with pytest.raises(Rejected, match="not unpacked"):
        deliver_runtime(transport, share, b"no archive", deadline_s=AMPLE_S)
    assert os.listdir(Path(share) / "runtime") == []


def test_a_bundle_cut_on_the_way_is_not_unpacked(transport: Watched, share: str) -> None:
    data = bundle(**{"main.py": "print()"})
    run = transport.inner.run

    def cutting(command: Command, *, deadline_s: float) -> Completed:
        return run(Command(command.argv, command.stdin[:-10]), deadline_s=deadline_s)

    transport.inner.run = cutting  # type: ignore[method-assign]
    with pytest.raises(ShipError, match="not what was sent"):
        deliver_runtime(transport, share, data, deadline_s=AMPLE_S)
    assert os.listdir(Path(share) / "runtime") == []


# --- over a real connection -------------------------------------------------------------------------------------------


@pytest.fixture(params=["fabric", "openssh"])
def remote(
    request: pytest.FixtureRequest, ssh_lab: Lab, tmp_path: Path
) -> Iterator[tuple[TransportSettings, Transport]]:
    settings = TransportSettings(request.param, "node1", ssh_config=ssh_lab.ssh_config)
    transport = open_transport(settings)
    host = ssh_lab["node1"]
    shutil.rmtree(host.tmp / "share", ignore_errors=True)
    yield settings, transport
    if isinstance(transport, OpenSshTransport):
        transport.end_master()
    transport.close()


@pytest.fixture
def remote_share(ssh_lab: Lab) -> str:
    return "/tmp/share" if ssh_lab.namespaces else str(ssh_lab["node1"].tmp / "share")


@pytest.mark.real
def test_a_transfer_that_is_cut_leaves_nothing_that_is_believed(
    remote: tuple[TransportSettings, Transport], remote_share: str, ssh_lab: Lab, tmp_path: Path
) -> None:
    repo = repository(tmp_path / "repo")
    (repo / "data.bin").write_bytes(os.urandom(20_000_000))
    snapshot = archive(repo, commit(repo), cache=tmp_path / "cache")
    host = ssh_lab["node1"]
    sent = 0

    def progress(count: int) -> None:
        nonlocal sent
        if sent < 5_000_000 <= sent + count:
            host.cut()
        sent += count

    with pytest.raises((OutcomeUnknown, Unreachable)):
        deliver(remote[1], remote_share, snapshot, deadline_s=AMPLE_S, progress=progress)
    assert sent < snapshot.size
    here = host.tmp / "share"
    assert not (here / "objects" / f"{snapshot.sha256}.tar.gz").exists()
    deliver(remote[1], remote_share, snapshot, deadline_s=AMPLE_S)
    assert (here / "objects" / f"{snapshot.sha256}.tar.gz").read_bytes() == snapshot.path.read_bytes()


@pytest.mark.real
def test_rsync_makes_the_directory_equal_and_leaves_out_what_is_excluded(
    remote: tuple[TransportSettings, Transport], remote_share: str, ssh_lab: Lab, tmp_path: Path
) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("no rsync here; get it with `apt-get install rsync`")
    settings, transport = remote
    tree = tmp_path / "my tree"
    write(tree, "train.py", "one")
    write(tree, "a b'\"$(x).py", "hostile")
    write(tree, "big.txt", "x" * 500_000)
    write(tree, ".git/config")
    write(tree, "model.safetensors")
    sent: list[int] = []
    share = f"{remote_share}/it's $(here)"
    path = synchronise(tree, transport, settings, share, "exp-1", deadline_s=AMPLE_S, progress=sent.append)
    assert path == f"{share}/rsync/exp-1"
    here = ssh_lab["node1"].tmp / "share" / "it's $(here)" / "rsync" / "exp-1"
    assert files(str(here)) == ["a b'\"$(x).py", "big.txt", "train.py"]
    assert sum(sent) >= 500_000
    (tree / "big.txt").unlink()
    write(tree, "train.py", "two!")
    # The second time by address and port, which rsync takes apart in its own way.
    host = ssh_lab["node1"]
    settings = replace(settings, alias=f"{host.address}:{ssh_lab.port}")
    transport = open_transport(settings)
    write(here, "wandb/kept-by-exclude")
    synchronise(tree, transport, settings, share, "exp-1", deadline_s=AMPLE_S)
    assert files(str(here)) == ["a b'\"$(x).py", "train.py", "wandb/kept-by-exclude"]
    assert (here / "train.py").read_text() == "two!"
    if isinstance(transport, OpenSshTransport):
        transport.end_master()
    transport.close()


def test_rsync_works_on_this_machine(tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("no rsync here; get it with `apt-get install rsync`")
    write(tmp_path, "tree/x.py")
    local = TransportSettings("local", "here")
    path = synchronise(tmp_path / "tree", LocalTransport(), local, str(tmp_path / "share"), "exp", deadline_s=AMPLE_S)
    assert files(path) == ["x.py"]


@pytest.mark.parametrize("name", ["..", "a/b", "-x", "", "a b"])
def test_rsync_refuses_a_name_that_is_no_directory_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShipError, match="cannot name"):
        synchronise(
            tmp_path, LocalTransport(), TransportSettings("local", "h"), str(tmp_path / "s"), name, deadline_s=AMPLE_S
        )
