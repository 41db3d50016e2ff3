"""The breakers through the command line: a status folder that is not there, a program that fails for ever."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real.conftest import Site

pytestmark = pytest.mark.real
NAMES = ("a", "b", "c", "d")


def folder(site: Site) -> Path:
    """Where the records of all runs of the project lie."""
    return site.root / "cluster" / "status" / "general"


def ended(site: Site) -> bool:
    found = list(folder(site).rglob("metadata.json"))
    done = all(json.loads(path.read_text())["status"] == "completed" for path in found)
    supervisors = [json.loads(path.read_text())["pid"] for path in folder(site).rglob("started")]
    return len(found) == len(NAMES) and done and not any(Path(f"/proc/{pid}").exists() for pid in supervisors)


def until(site: Site, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + site.wait_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def vanished(site: Site) -> Path:
    """Four jobs that have finished, which nobody has seen yet, and whose records lie elsewhere now: the path there."""
    for name in NAMES:
        site.job(name, ["sleep", "2"])
    site.commit()
    assert site("apply", "--yes").code == 0
    until(site, lambda: ended(site))
    away = site.root / "away"
    folder(site).rename(away)
    return away


def test_records_that_vanish_hold_their_host_and_nothing_runs_twice_when_they_are_back(site: Site, vanished: Path):
    site.job("new", ["true"])
    site.commit()
    for verb in (("plan",), ("apply", "--yes")):
        said = site(*verb)
        assert said.code == 3, said
        assert said.out.count("! alarm") == 1
        assert "4 of 4 runs on local are gone" in said.out
        assert "--confirm-lost local" in said.out
    found = site.status()
    assert {found[name]["phase"] for name in NAMES} == {"Held"}
    assert {found[name]["reason"] for name in NAMES} == {"MassDisappearance"}
    assert found["new"]["phase"] == "Pending"
    assert site("plan", "--json").json["alarms"][0]["host"] == "local"
    assert "without a trace" in site("explain", "a").out
    asked = site("cancel", "a", "--why", "wrong data")
    assert asked.code == 0
    assert "kept" in asked.out
    vanished.rename(folder(site))
    assert site("apply", "--yes", "--wait").code == 0
    found = site.status()
    assert {(job["phase"], job["attempt"]) for job in found.values()} == {("Succeeded", 1)}


def test_while_the_whole_root_is_away_nothing_is_started_there(site: Site, vanished: Path):
    vanished.rename(folder(site))
    root, away = site.root / "cluster", site.root / "unmounted"
    root.rename(away)
    site.job("new", ["true"])
    site.commit()
    for _ in range(2):
        assert site("apply", "--yes").code == 4
        found = site.status()
        assert {found[name]["phase"] for name in NAMES} == {"Unknown"}
        assert found["new"]["phase"] == "Pending"
        assert "its status root is gone" in found["new"]["message"]
    assert not root.exists()
    away.rename(root)
    assert site("apply", "--yes", "--wait").code == 0
    assert {(job["phase"], job["attempt"]) for job in site.status().values()} == {("Succeeded", 1)}


def test_a_persons_word_that_they_are_lost_starts_them_anew_also_from_a_saved_plan(site: Site, vanished: Path):
    plan = str(site.root / "plan.json")
    said = site("plan", "--confirm-lost", "local", "-o", plan)
    assert said.code == 2, said
    assert said.out.count("> requeue") == len(NAMES)
    assert site("apply", plan).code == 6
    assert {job["phase"] for job in site.status().values()} == {"Held"}
    step = said.out.splitlines()[-1].partition(": ")[2].split()
    assert step == ["reconciler", "apply", plan, "--confirm-lost", "local"]
    assert site(*step[1:]).code == 0
    found = site.until(lambda jobs: all(job["phase"] == "Succeeded" for job in jobs.values()), apply=True)
    assert {job["attempt"] for job in found.values()} == {2}


def test_watch_says_the_alarm_once_and_goes_on_when_they_are_back(site: Site, vanished: Path):
    process = site.start("watch", "--interval", "0.2", "--idle", "0.2")
    assert process.stdout is not None
    said: list[str] = []
    heard = threading.Thread(target=said.extend, args=(iter(process.stdout.readline, ""),))
    heard.start()
    try:
        until(site, lambda: "! alarm" in "".join(said))
        site.status()  # takes several passes of the watch: what would be said again, is
        vanished.rename(folder(site))
        until(site, lambda: all(f"general/default/{name}: Succeeded" in "".join(said) for name in NAMES))
        process.send_signal(signal.SIGINT)
        process.wait(timeout=site.wait_s)
    finally:
        process.kill()
        heard.join()
        _, err = process.communicate()
    out = "".join(said)
    assert out.count("! alarm") == 1, out + err
    assert "the alarm is over" in out
    for name in NAMES:
        assert f"general/default/{name}: Succeeded" in out
        assert f"general/default/{name}: Held" not in out


def test_a_program_that_fails_alike_for_ever_comes_to_rest_with_the_end_of_its_output(site: Site):
    site.job(
        "loop",
        ["sh", "-c", "echo no such data; exit 7"],
        restart={"failure": "unlimited", "backoff": {"initial": "0s"}},
    )
    site.commit()
    said = site("apply", "--yes", "--wait")
    assert said.code == 4
    found = site.status()["loop"]
    assert (found["phase"], found["reason"], found["attempt"]) == ("Failed", "Stalled", 5)
    assert "5 times in a row" in found["message"].partition("\n")[0]
    assert found["message"].endswith("no such data")
    assert "5 of 5 (failure 7)" in site("explain", "loop").out
    assert site("plan").code == 4
    assert site("resume", "loop", "--why", "the data is there now").code == 0
    assert site.until(lambda jobs: jobs["loop"]["reason"] == "Stalled", apply=True)["loop"]["attempt"] == 10


def test_same_failure_is_set_by_the_manifest_and_checked(site: Site):
    restart = {"failure": "unlimited", "same_failure": 2, "backoff": {"initial": "0s"}}
    site.job("loop", ["false"], restart=restart)
    site.commit()
    site("apply", "--yes", "--wait")
    assert site.status()["loop"]["attempt"] == 2
    site.job("loop", ["false"], restart={**restart, "same_failure": 1})
    site.commit()
    said = site("validate")
    assert said.code != 0
    assert "same_failure" in said.out + said.err


def test_a_host_that_cools_down_is_said_by_every_verb_and_may_be_trusted(site: Site):
    from reconciler.core.memory import Launching, Refused
    from reconciler.store.sqlite import SqliteStore
    from tests.worlds import job, run_of

    site.job("new", ["true"])
    site.commit()
    assert site("plan").code == 2  # makes the state
    [path] = (site.root / "state").rglob("state.sqlite")
    for minutes in (20, 10, 1):
        at = time.time() - 60 * minutes
        store = SqliteStore(path, now=lambda at=at: at)
        run = run_of(job(f"old{minutes % 3}"), attempt=minutes, host="local")
        store.lock()
        refused = Refused(run.run_id, "no room", 0.0, blamed=True)
        store.append([(run.job, Launching(run, False)), (run.job, refused)], commit="", why="test")
        store.unlock()
        store.close()
    said = site("apply", "--yes")
    assert said.code == 0, said
    assert ". waits    general/default/new  local: cools down until" in said.out
    assert "3 attempts of 2 jobs were lost or refused there" in site("hosts").out
    told = site("explain", "new").out
    assert "is Pending (HostCoolingDown)" in told
    assert "Next try in" in told
    assert "sooner: reconciler apply --trust-host local" in told
    checked = site("doctor", "local")
    assert checked.code == 4
    assert "BAD cool-down: cools down until" in checked.out
    assert "--trust-host local" in checked.out
    assert site("apply", "--yes", "--trust-host", "local", "--wait").code == 0
    assert site.status()["new"]["phase"] == "Succeeded"


@pytest.mark.parametrize("flag", ["--confirm-lost", "--trust-host"])
def test_a_word_about_a_host_that_nobody_knows_is_refused_with_those_that_are(site: Site, flag: str):
    site.job("new", ["true"])
    site.commit()
    for verb in (("plan",), ("apply", "--yes")):
        said = site(*verb, flag, "lcoal")
        assert said.code == 1, said
        assert f"{flag} lcoal: the inventory has no host lcoal" in said.err
        assert "It has: local" in said.err
    assert site("plan", flag, "local").code == 2
