"""The source tree and the uv environment: whole, checked, inside the work directory, failures named."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from runtime import prepare
from tests.runtime.host import Host

Member = tuple[str, bytes, str, int, str]  # name, type, content, mode, link target


def archive(path: Path, *members: Member) -> dict[str, str]:
    """A tree object holding these members, in this order."""
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, content, mode, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.size = kind, mode, target, len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return {"object": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def file(name: str, content: str = "", mode: int = 0o644) -> Member:
    return (name, tarfile.REGTYPE, content, mode, "")


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return (name, kind, "", 0o777, target)


def test_tree_is_unpacked_where_the_command_runs(host: Host) -> None:
    tree = archive(
        host.base / "tree.tar.gz",
        ("./", tarfile.DIRTYPE, "", 0o755, ""),
        file("run.sh", "#!/bin/sh\ncat deep/er/data alias hard\n", 0o775),
        file("deep/er/data", "data\n"),
        link("alias", "deep/er/data"),
        link("hard", "deep/er/data", tarfile.LNKTYPE),
        link("outside", "/nonexistent/set"),
    )
    run = host.run(tree=tree, stages=[{"argv": ["./run.sh"]}])
    host.start(run)
    assert host.wait_final(run)["status"] == "completed"
    assert host.log(run) == "data\ndata\ndata\n"
    assert not Path(run["work_dir"]).exists()


def test_one_tree_serves_many_runs(host: Host) -> None:
    tree = archive(host.base / "tree.tar.gz", file("hello", "hello\n"))
    runs = [host.run(f"job{number}", tree=tree, stages=[{"argv": ["cat", "hello"]}]) for number in range(10)]
    host.launch(*runs)
    assert [host.wait_final(run)["status"] for run in runs] == ["completed"] * 10


@pytest.mark.parametrize(
    "member",
    [
        file("../escape"),
        file("a/../../escape"),
        file("/escape"),
        link("../escape", "x"),
        link("hard", "../../secret", tarfile.LNKTYPE),
        ("pipe", tarfile.FIFOTYPE, "", 0o644, ""),
        ("device", tarfile.CHRTYPE, "", 0o644, ""),
    ],
    ids=lambda member: member[0],
)
def test_member_that_leads_out_of_the_work_directory_is_refused(host: Host, member: Member) -> None:
    (host.base / "secret").write_text("secret")
    run = host.run(tree=archive(host.base / "tree.tar.gz", file("fine"), member))
    host.start(run)
    record = host.wait_final(run)
    assert (record["status"], record["cause"]) == ("failed", "infrastructure")
    assert "Set-up failed in step source tree: the archive holds" in record["message"]
    assert not [path for path in host.base.rglob("escape") if run["run_id"] not in str(path)]


def test_nothing_is_written_through_a_link_of_the_archive(host: Host) -> None:
    outside = host.base / "outside"
    outside.mkdir()
    tree = archive(host.base / "tree.tar.gz", link("door", str(outside)), file("door/inside", "x"))
    run = host.run(tree=tree, keep_work=True)
    host.start(run)
    record = host.wait_final(run)
    assert record["status"] == "failed"
    assert not list(outside.iterdir())


def test_tree_changed_after_the_launch_looked_at_it_is_noticed(tmp_path: Path) -> None:
    tree = archive(tmp_path / "tree.tar.gz", file("a", "1"))

    class NoSupervisor:
        def pulse(self) -> None: ...

    with pytest.raises(prepare.SetUpFailed, match="has checksum"):
        prepare.unpack(tree["object"], "0" * 64, str(tmp_path / "work"), NoSupervisor())  # type: ignore[arg-type]


def test_tree_with_a_wrong_checksum_is_missing(host: Host) -> None:
    tree = archive(host.base / "tree.tar.gz", file("a", "1"))
    with Path(tree["object"]).open("ab") as file_:
        file_.write(b"more")
    [answer] = host.launch(host.run(tree=tree))
    assert (answer["reason"], answer["missing"]) == ("missing", tree["sha256"])


def test_archive_that_is_cut_short_is_a_set_up_failure(host: Host) -> None:
    path = host.base / "tree.tar.gz"
    archive(path, file("a", os.urandom(50_000).hex()))
    path.write_bytes(path.read_bytes()[:-5000])
    tree = {"object": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    run = host.run(tree=tree)
    host.start(run)
    record = host.wait_final(run)
    assert record["cause"] == "infrastructure"
    assert "source tree" in record["message"]


def test_directory_tree_is_used_in_place_and_never_removed(host: Host) -> None:
    tree = host.base / "mine"
    tree.mkdir()
    (tree / "data").write_text("data\n")
    run = host.run(tree={"directory": str(tree)}, shell="cat data; touch made")
    host.start(run)
    assert host.wait_final(run)["status"] == "completed"
    assert (tree / "made").exists()
    assert not Path(run["work_dir"]).exists()


def test_directory_tree_that_is_not_there_is_missing(host: Host) -> None:
    [answer] = host.launch(host.run(tree={"directory": str(host.base / "none")}))
    assert (answer["result"], answer["reason"]) == ("refused", "missing")


def uv_tree(host: Host, *more: Member) -> dict[str, str]:
    project = '[project]\nname = "x"\nversion = "0"\nrequires-python = ">=3.8"\n'
    groups = "[dependency-groups]\ncuda13 = []\n[tool.uv]\npackage = false\n"
    return archive(host.base / "tree.tar.gz", file("pyproject.toml", project + groups), *more)


def uv_changes(host: Host) -> dict[str, Any]:
    host.environ["UV_PYTHON_DOWNLOADS"] = "never"
    host.environ["UV_OFFLINE"] = "1"
    return {"python": {"groups": ["cuda13"], "version": None}}


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
@pytest.mark.parametrize(
    "lock", [(), (file("uv.lock", 'version = 1\nrequires-python = ">=3.8"\n'),)], ids=["no lock", "stale lock"]
)
def test_uv_environment_is_first_in_path(host: Host, lock: tuple[Member, ...]) -> None:
    run = host.run(
        tree=uv_tree(host, *lock),
        stages=[{"argv": ["python", "-c", "import sys; print(sys.prefix)"]}],
        **uv_changes(host),
    )
    host.start(run)
    record = host.wait_final(run)
    assert record["status"] == "completed", record["message"]
    assert host.log(run).splitlines()[-1] == run["work_dir"] + "/.venv"


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_uv_sync_that_fails_names_the_step_and_its_words(host: Host) -> None:
    run = host.run(tree=uv_tree(host), **{**uv_changes(host), "python": {"groups": ["nope"], "version": None}})
    host.start(run)
    record = host.wait_final(run)
    assert (record["status"], record["cause"]) == ("failed", "infrastructure")
    assert "step uv sync" in record["message"]
    assert "nope" in record["message"]


def test_host_without_uv_says_what_to_do(host: Host) -> None:
    changes = uv_changes(host)
    run = host.run(tree=uv_tree(host), env={"PATH": os.defpath}, **changes)
    host.start(run)
    message = host.wait_final(run)["message"]
    assert "uv is in no directory of PATH" in message
    assert "install it on this host" in message
