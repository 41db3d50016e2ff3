"""Claiming and starting: exactly once, fenced, and with a trace from the first instant."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from runtime import process
from tests.runtime.host import Host, wait_for


def test_run_completes_with_every_field_of_the_record(host: Host) -> None:
    run = host.run(shell="echo out; echo err >&2", config={"training": {"steps": 3}}, heartbeat_s=30)
    handle = host.start(run)
    record = host.wait_final(run)
    assert (record["status"], record["cause"], record["exit_code"], record["signal"]) == ("completed", None, 0, None)
    assert record["seq"] >= 1
    assert record["pid"] == handle["pid"] == handle["sid"]
    assert record["config"] == {"training": {"steps": 3}}
    assert sorted(host.log(run).splitlines()) == ["err", "out"]
    fields = (
        "name project group job_key run_id start_time last_heartbeat status slurm_job_id hardware config "
        "schema_version seq attempt token digest generation cause exit_code signal message host pid boot_id "
        "progress checkpoint source workers end_time phase_detail"
    )
    assert sorted(record) == sorted(fields.split())
    assert not Path(run["work_dir"]).exists()
    assert not list((host.status / ".live").iterdir())


def test_claim_says_whose_run_it_is(host: Host) -> None:
    run = host.run(claim={"host": "ws1", "spec": {"a": [1]}, "actor": "jo"})
    host.start(run)
    claim = host.see(run)["claim"]
    assert claim["spec"] == {"a": [1]}
    assert claim["actor"] == "jo"
    assert {"run_id", "token", "attempt", "job", "digest", "generation", "boot_id", "hostname", "created"} < set(claim)
    assert set(claim["launcher"]) == {"pid", "start"}
    assert claim["status_dir"] == run["status_dir"]


def test_second_launch_of_the_same_run_starts_nothing(host: Host) -> None:
    run = host.run(shell="echo once; sleep 30")
    first = host.start(run)
    host.wait_log(run, "once")
    [again] = host.launch(run)
    assert (again["result"], again["handle"]) == ("already", first)
    assert host.log(run) == "once\n"


def test_same_run_twice_in_one_batch_starts_once(host: Host) -> None:
    run = host.run(shell="echo once; sleep 30")
    results = [line["result"] for line in host.answers("launch", {"runs": [run, run]})[:-1]]
    assert sorted(results) == ["already", "started"]
    host.wait_log(run, "once")
    assert host.log(run) == "once\n"


def test_many_launchers_at_once_start_one(host: Host) -> None:
    run = host.run(shell="echo once; sleep 30")
    text = json.dumps({"version": 1, "runs": [run]}).encode()
    command = ["sh", str(host.bundle / "bootstrap.sh"), "launch"]
    launchers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=host.environ) for _ in range(6)
    ]
    outputs = [launcher.communicate(text, timeout=60)[0] for launcher in launchers]
    answers = [json.loads(output.splitlines()[0][4:]) for output in outputs]
    assert sorted(answer["result"] for answer in answers) == ["already"] * 5 + ["started"]
    host.wait_log(run, "once")
    assert host.log(run) == "once\n"


def test_run_claimed_with_another_token_is_refused(host: Host) -> None:
    run = host.run(shell="sleep 30")
    host.start(run)
    [answer] = host.launch({**run, "token": "other"})
    assert (answer["result"], answer["reason"]) == ("refused", "claimed")


def test_older_attempt_is_fenced(host: Host) -> None:
    host.start(host.run(attempt=2))
    [answer] = host.launch(host.run(attempt=1))
    assert (answer["result"], answer["reason"]) == ("refused", "fenced")
    assert not Path(host.run(attempt=1)["status_dir"]).exists()


def test_fence_outlives_the_directory_of_the_attempt_that_raised_it(host: Host) -> None:
    newer = host.run(attempt=2)
    host.start(newer)
    host.wait_final(newer)
    assert host.clean(newer)["result"] == "removed"
    assert host.launch(host.run(attempt=1))[0]["reason"] == "fenced"
    host.start(newer)


def test_new_attempt_is_refused_while_the_old_one_lives(host: Host) -> None:
    old = host.run(shell="sleep 30")
    host.start(old)
    [answer] = host.launch(host.run(attempt=2))
    assert (answer["result"], answer["reason"]) == ("refused", "alive")
    assert host.see(old)["supervised"] is True
    host.cancel(old, grace_s=5)
    host.wait_final(old)
    host.start(host.run(attempt=2))


def test_new_attempt_is_refused_while_only_a_child_of_the_old_one_lives(host: Host) -> None:
    old = host.run(shell="echo up; exec sleep 30")
    handle = host.start(old)
    host.wait_log(old, "up")
    os.kill(handle["pid"], signal.SIGKILL)
    wait_for(lambda: not process.start_of(handle["pid"]))
    [answer] = host.launch(host.run(attempt=2))
    assert (answer["result"], answer["reason"]) == ("refused", "alive")


def test_missing_tree_is_refused_with_its_checksum_and_leaves_nothing(host: Host) -> None:
    run = host.run(tree={"object": str(host.base / "none.tar.gz"), "sha256": "ab" * 32})
    [answer] = host.launch(run)
    assert (answer["result"], answer["reason"], answer["missing"]) == ("refused", "missing", "ab" * 32)
    assert not host.status.exists()


def test_status_directory_that_cannot_be_written_is_refused_with_the_reason(host: Host) -> None:
    host.root.mkdir()
    host.status.write_text("a file where the directory should be")
    [answer] = host.launch(host.run())
    assert (answer["result"], answer["reason"]) == ("refused", "unwritable")
    assert "status" in answer["message"]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root to mount a read-only tmpfs")
def test_read_only_file_system_is_refused_as_unwritable(host: Host) -> None:
    host.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(host.root)], check=True)
    try:
        [answer] = host.launch(host.run())
    finally:
        subprocess.run(["umount", str(host.root)], check=True)
    assert (answer["result"], answer["reason"]) == ("refused", "unwritable")
    assert "Read-only" in answer["message"]


def test_work_directory_that_cannot_be_made_is_a_set_up_failure(host: Host) -> None:
    (host.base / "work").write_text("in the way")
    run = host.run()
    host.start(run)
    record = host.wait_final(run)
    assert (record["status"], record["cause"]) == ("failed", "infrastructure")
    assert "work directory" in record["message"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"stages": []}, "nothing to run"),
        ({"env": {"A=B": "c"}}, "env"),
        ({"env": {"A": "nul\0"}}, "NUL"),
        ({"stages": [{"argv": ["echo", "\ud800"]}]}, "surrogate"),
        ({"work_dir": "relative"}, "work_dir"),
        ({"status_dir": "/elsewhere/x"}, "status_dir"),
        ({"attempt": "1"}, "attempt"),
        ({"job": {"project": "lab", "group": "demo"}}, "name"),
    ],
)
def test_nonsense_is_refused_naming_the_field(host: Host, changes: dict[str, Any], word: str) -> None:
    [answer] = host.launch(host.run(**changes))
    assert (answer["result"], answer["reason"]) == ("refused", "other")
    assert word in answer["message"]
    assert not host.status.exists()


def test_three_hundred_runs_in_one_batch_all_complete(host: Host) -> None:
    runs = [host.run(f"job{number}", heartbeat_s=30) for number in range(300)]
    assert {answer["result"] for answer in host.launch(*runs)} == {"started"}
    live = host.status / ".live"
    wait_for(lambda: not list(live.iterdir()))
    assert {host.metadata(run)["status"] for run in runs} == {"completed"}


# A launcher that dies at a named point: it replaces the function by one that kills its process.
DYING = textwrap.dedent("""
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    import runtime.__main__, runtime.claim, runtime.launch, runtime.status
    module, name, when = sys.argv[2:5]
    target = sys.modules["runtime." + module]
    for part in name.split(".")[:-1]:
        target = getattr(target, part)
    name = name.split(".")[-1]
    original = getattr(target, name)
    launcher = os.getpid()
    def dying(*arguments, **options):
        if when == "before":
            os.kill(launcher, signal.SIGKILL)
        result = original(*arguments, **options)
        if when == "after":
            os.kill(launcher, signal.SIGKILL)
        return result
    setattr(target, name, dying)
    raise SystemExit(runtime.__main__.main(["launch"]))
""")
POINTS = [
    ("claim", "_lock", "after"),
    ("claim", "_raise_fence", "before"),
    ("claim", "_raise_fence", "after"),
    ("claim", "list_live", "before"),
    ("claim", "list_live", "after"),
    ("claim", "take", "after"),
    ("claim", "start", "before"),
    ("claim", "start", "after"),
]


@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_launcher_killed_anywhere_leaves_one_run_or_a_way_on(host: Host, point: tuple[str, str, str]) -> None:
    run = host.run(shell="echo up; sleep 30", grace_s=0)
    script = host.base / "dying.py"
    script.write_text(DYING)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), str(host.bundle), *point],
        input=json.dumps({"version": 1, "runs": [run]}).encode(),
        env=host.environ,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL

    # What the controlling side does: look, launch the same run again, else the next attempt.
    # A supervisor that outlived its launcher decides first: until it has, both ends are possible.
    wait_for(lambda: host.see(run)["started"] is not None or not running(str(script)))
    [again] = host.launch(run)
    second = host.run(attempt=2, shell="echo up; sleep 30", grace_s=0)
    if host.see(run)["alive"]:
        assert again["result"] in ("started", "already")
        assert host.launch(second)[0]["reason"] == "alive"
        expected = run
    else:
        assert again["result"] == "already"  # claimed, never started: the next attempt abandons it
        host.start(second)
        assert host.see(run)["started"] == {"abandoned_by": second["run_id"]}
        expected = second
    host.wait_log(expected, "up")
    logs = "".join(path.read_text() for path in host.status.glob("lab/demo/train/*/output.log"))
    assert logs == "up\n"
    job_dir = Path(run["status_dir"]).parent
    assert not [path.name for path in job_dir.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def running(words: str) -> bool:
    """Does any process have this in its command line? Zombies have none."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and words.encode() in (entry / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def test_supervisor_that_wakes_late_does_nothing(host: Host) -> None:
    run = host.run(shell="echo up > $RECONCILER_RESULTS_DIR/proof; sleep 30")
    script = host.base / "late.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys, time
        sys.path.insert(0, sys.argv[1])
        import runtime.__main__, runtime.claim, runtime.launch
        start = runtime.claim.start
        def late(*arguments):
            open(sys.argv[2], "w").close()
            while not os.path.exists(sys.argv[3]):
                time.sleep(0.01)
            return start(*arguments)
        runtime.claim.start = late
        raise SystemExit(runtime.__main__.main(["launch"]))
    """)
    )
    here, go = host.base / "here", host.base / "go"
    launcher = subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), str(host.bundle), str(here), str(go)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=host.environ,
    )
    assert launcher.stdin is not None
    launcher.stdin.write(json.dumps({"version": 1, "runs": [run]}).encode())
    launcher.stdin.close()
    wait_for(here.exists)
    second = host.run(attempt=2, shell="sleep 30")
    host.start(second)
    go.touch()
    assert launcher.stdout is not None
    answer = json.loads(launcher.stdout.readline()[4:])
    launcher.stdout.close()
    launcher.wait(60)
    assert (answer["result"], answer["reason"]) == ("refused", "fenced")
    assert not (Path(run["results_dir"]) / "proof").exists()
    assert host.metadata(run)["status"] == "preparing"
    assert host.see(second)["alive"] is True


def test_damaged_fence_is_said_and_nothing_is_started(host: Host) -> None:
    run = host.run()
    job_dir = Path(run["status_dir"]).parent
    job_dir.mkdir(parents=True)
    (job_dir / "fence").write_text("{")
    [answer] = host.launch(run)
    assert (answer["result"], answer["reason"]) == ("refused", "other")
    assert "fence is not JSON" in answer["message"]


def test_claim_that_a_power_cut_emptied_before_the_start_is_made_again(host: Host) -> None:
    run = host.run()
    status_dir = Path(run["status_dir"])
    status_dir.mkdir(parents=True)
    for name in ("claim", "metadata.json"):
        (status_dir / name).touch()
    sighting = host.see(run)
    assert (sighting["state"], sighting["alive"], sighting["error"]) == ("present", False, None)
    host.start(run)
    assert host.wait_final(run)["status"] == "completed"
