"""Two people, or a workstation and CI, on one repository with `state: git`: no job twice, none forgotten, whoever is first.

Git and its remote are real; the host is this machine, as for everybody whose clones share it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.real.conftest import WAIT_S, Site, local_inventory, processes

pytestmark = pytest.mark.real


@pytest.fixture
def two(tmp_path: Path) -> tuple[Site, Site]:
    """Two clones with nothing in common but the remote (and the host)."""
    bare = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(bare)], check=True)
    first, second = Site(tmp_path / "first"), Site(tmp_path / "second")
    for site in (first, second):
        (site.root / "home").mkdir(parents=True)
    first.make(local_inventory(tmp_path) | {"state": "git"})
    first.git("remote", "add", "origin", str(bare))
    first.git("push", "-q", "origin", "HEAD:main")
    subprocess.run(["git", "clone", "-q", "-b", "main", str(bare), str(second.repo)], check=True)
    return first, second


def publish(site: Site, *others: Site) -> None:
    site.commit()
    site.git("push", "-q", "origin", "HEAD:main")
    for other in others:
        other.git("pull", "-q", "origin", "main")


def test_what_one_launched_the_other_minds_and_cancels(two: tuple[Site, Site]) -> None:
    first, second = two
    first.job("t", ["sleep", "300"])
    publish(first, second)
    assert first("apply", "--yes").code == 0
    found = second.status()["t"]
    assert (found["phase"], found["attempt"]) == ("Running", 1)
    said = second("apply", "--yes")
    assert "0 " not in said.out.partition("Plan:")[0]
    assert said.code == 0, said
    assert second("cancel", "t", "--why", "enough").code == 0
    first.until(lambda jobs: jobs["t"]["phase"] == "Cancelled", apply=True)
    assert "enough" in first("history", "t").out
    assert not (first.root / "state").exists() or not list((first.root / "state").rglob("state.sqlite"))


def test_a_finished_job_is_finished_for_both_also_when_its_host_forgot(two: tuple[Site, Site], tmp_path: Path) -> None:
    first, second = two
    first.job("t", f"echo ran >> {tmp_path}/ran")
    publish(first, second)
    assert first("apply", "--yes", "--wait").code == 0
    shutil.rmtree(tmp_path / "cluster")
    assert second("apply", "--yes", "--wait").code == 0
    assert second.status()["t"]["phase"] == "Succeeded"
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_both_at_once_launch_each_job_once(two: tuple[Site, Site], tmp_path: Path) -> None:
    first, second = two
    for number in range(6):
        first.job(f"t{number}", f"echo t{number} >> {tmp_path}/ran; sleep 0.5")
    publish(first, second)
    running = [site.start("apply", "--yes", "--wait") for site in two]
    codes = [(process.communicate(timeout=90), process.returncode)[1] for process in running]
    assert set(codes) <= {0, 5}, codes
    assert 0 in codes
    for site in two:
        site.until(lambda jobs: all(job["phase"] == "Succeeded" for job in jobs.values()), apply=True)
    assert sorted((tmp_path / "ran").read_text().split()) == [f"t{number}" for number in range(6)]


def test_killed_in_the_middle_the_other_goes_on(two: tuple[Site, Site], tmp_path: Path) -> None:
    first, second = two
    for number in range(4):
        first.job(f"t{number}", f"echo t{number} >> {tmp_path}/ran; sleep 300")
    publish(first, second)
    process = first.start("apply", "--yes")
    deadline = time.monotonic() + WAIT_S
    while not (tmp_path / "ran").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    second.until(lambda jobs: all(job["phase"] == "Running" for job in jobs.values()), apply=True)
    assert sorted((tmp_path / "ran").read_text().split()) == [f"t{number}" for number in range(4)]
    for number in range(4):
        second("cancel", f"t{number}")
    second.until(lambda jobs: all(job["phase"] == "Cancelled" for job in jobs.values()), apply=True)


def test_a_stopped_holder_does_nothing_when_it_wakes(two: tuple[Site, Site], tmp_path: Path) -> None:
    """SIGSTOP at the moment between its intents and its effects, and again: the other finds intents and an empty host."""
    first, second = two
    first.job("t", f"echo ran >> {tmp_path}/ran; sleep 300")
    publish(first, second)
    first("plan")
    process = first.start("apply", "--yes")
    deadline = time.monotonic() + WAIT_S
    while not _intents(first):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    try:
        said = second("apply", "--yes")
        assert said.code == 5, said
        assert "is reconciling this repository" in said.err
    finally:
        process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    second.until(lambda jobs: jobs["t"]["phase"] == "Running", apply=True)
    assert (tmp_path / "ran").read_text() == "ran\n"
    second("cancel", "t")
    second.until(lambda jobs: jobs["t"]["phase"] == "Cancelled", apply=True)
    assert not processes(f"{tmp_path}/ran")


def _intents(site: Site) -> bool:
    found = site.git("ls-remote", "origin", "refs/reconciler/*").split()
    if not found:
        return False
    site.git("fetch", "-q", "origin", f"+{found[1]}:refs/seen")
    return "journal/" in site.git("ls-tree", "-r", "--name-only", "refs/seen")


def test_a_remote_that_is_away_stops_effects_and_not_the_jobs(two: tuple[Site, Site], tmp_path: Path) -> None:
    first, _ = two
    first.job("t", ["sleep", "300"])
    publish(first)
    assert first("apply", "--yes").code == 0
    bare = tmp_path / "remote.git"
    bare.rename(tmp_path / "away")
    first.job("u", ["true"])
    first.commit()
    said = first("apply", "--yes")
    assert said.code == 1, said
    assert "cannot be read" in said.err
    assert "Is the remote reachable" in said.err
    (tmp_path / "away").rename(bare)
    first.until(lambda jobs: jobs["u"]["phase"] == "Succeeded" and jobs["t"]["phase"] == "Running", apply=True)
    first("cancel", "t")
    first.until(lambda jobs: jobs["t"]["phase"] == "Cancelled", apply=True)


@pytest.mark.parametrize("flag", ["", "--json"])
def test_an_end_that_cannot_be_written_is_exit_1_and_hides_nothing(
    two: tuple[Site, Site], tmp_path: Path, flag: str
) -> None:
    """The remote takes the lock and the intents, and then no more: the job runs, and the next pass learns of it."""
    first, second = two
    first.job("t", ["sleep", "300"])
    publish(first, second)
    hook = tmp_path / "remote.git" / "hooks" / "pre-receive"
    hook.write_text(f'#!/bin/sh\necho x >> {tmp_path}/pushes; test "$(wc -l < {tmp_path}/pushes)" -le 2\n')
    hook.chmod(0o755)
    said = first("apply", "--yes", *filter(None, [flag]))
    assert said.code == 1, said
    assert (tmp_path / "pushes").read_text() == 4 * "x\n"
    if flag:
        assert "What came of 1 effects is not written" in said.json["message"]
        assert [(item["job"], item["ok"]) for item in said.json["results"]] == [("general/default/t", True)]
    else:
        assert "started" in said.out
        assert "What came of 1 effects is not written" in said.err
    hook.unlink()
    second.until(lambda jobs: jobs["t"]["phase"] == "Running", apply=True)
    assert second.status()["t"]["attempt"] == 1
    second("cancel", "t")
    second.until(lambda jobs: jobs["t"]["phase"] == "Cancelled", apply=True)


def test_state_git_outside_of_git_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (tmp_path / "home").mkdir()
    site.make(local_inventory(tmp_path) | {"state": "git"})
    shutil.rmtree(site.repo / ".git")
    said = site("plan")
    assert said.code == 1
    assert "state: git" in said.err
    assert "state: local" in said.err
