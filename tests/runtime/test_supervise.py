"""From the first command to the final record: endings, signals, leftovers, rotation, set-up, disk full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runtime import process
from tests.runtime.host import Host, wait_for

IGNORES_TERM = "trap '' TERM; echo up; while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    ("shell", "ending"),
    [
        ("exit 0", ("completed", None, 0, None)),
        ("exit 3", ("failed", "failure", 3, None)),
        ("exit 137", ("failed", "failure", 137, None)),
        ("kill -KILL $$", ("failed", "infrastructure", 137, 9)),
        ("kill -TERM $$", ("preempted", "preemption", 143, 15)),
        ("kill -HUP $$", ("preempted", "preemption", 129, 1)),
        ("kill -SEGV $$", ("failed", "failure", 139, 11)),
    ],
)
def test_how_a_program_ends_decides_status_and_cause(
    host: Host, shell: str, ending: tuple[str, str | None, int, int | None]
) -> None:
    run = host.run(shell=shell)
    host.start(run)
    record = host.wait_final(run)
    assert (record["status"], record["cause"], record["exit_code"], record["signal"]) == ending


def test_failure_carries_the_last_lines_of_its_output_without_secrets(host: Host) -> None:
    run = host.run(shell="seq 1 100; echo token $API_KEY; exit 4", secrets={"API_KEY": "hunter2-hunter2"})
    host.start(run)
    message = host.wait_final(run)["message"]
    assert message.startswith("It ended with exit code 4.")
    assert "\n100\ntoken ***" in message
    assert "\n50\n" not in message


def test_secrets_reach_the_program_and_no_file_of_ours(host: Host) -> None:
    secret = "s3cr3t-value-0123456789"
    run = host.run(
        shell='test "$API_KEY" = s3cr3t-value-0123456789 && echo right',
        secrets={"API_KEY": secret},
        setup=["export DERIVED=1"],
        keep_work=True,
    )
    host.start(run)
    assert host.wait_final(run)["status"] == "completed"
    assert "right" in host.log(run)
    for path in host.base.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_stages_run_in_order_and_stop_at_the_first_failure(host: Host) -> None:
    stages = [{"shell": "echo one"}, {"argv": ["sh", "-c", "echo two; exit 5"]}, {"argv": ["echo", "three"]}]
    run = host.run(stages=stages)
    host.start(run)
    assert host.wait_final(run)["exit_code"] == 5
    assert host.log(run) == "one\ntwo\n"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["no-such-program-here"], 127, "Cannot run no-such-program-here: is in no directory of PATH"),
        (["/etc/passwd"], 126, "Cannot run /etc/passwd: Permission denied"),
        (["./missing.sh"], 127, "Cannot run ./missing.sh: No such file"),
    ],
)
def test_command_that_cannot_be_executed_says_why(host: Host, argv: list[str], code: int, words: str) -> None:
    run = host.run(stages=[{"argv": argv}])
    host.start(run)
    record = host.wait_final(run)
    assert (record["status"], record["cause"], record["exit_code"]) == ("failed", "failure", code)
    assert words in record["message"]


def test_script_without_first_line_runs_in_sh(host: Host) -> None:
    script = host.base / "plain"
    script.write_text("echo plain $1\n")
    script.chmod(0o755)
    run = host.run(stages=[{"argv": [str(script), "words here"]}])
    host.start(run)
    assert host.wait_final(run)["status"] == "completed"
    assert host.log(run) == "plain words here\n"


@pytest.mark.parametrize(
    ("reason", "status", "cause"),
    [
        ("cancelled", "cancelled", "cancelled"),
        ("suspended", "cancelled", "suspended"),
        ("replaced", "cancelled", "replaced"),
        ("deleted", "cancelled", "deleted"),
        ("preempted", "preempted", "preemption"),
    ],
)
def test_reason_of_the_request_decides_the_final_status(host: Host, reason: str, status: str, cause: str) -> None:
    run = host.run(shell="trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")
    host.start(run)
    host.wait_log(run, "up")
    assert host.cancel(run, reason)["result"] == "signalled"
    record = host.wait_final(run)
    assert (record["status"], record["cause"], record["exit_code"]) == (status, cause, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_from_outside_is_preemption_even_when_the_program_exits_zero(host: Host, number: int) -> None:
    run = host.run(shell="trap 'echo saving; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    handle = host.start(run)
    host.wait_log(run, "up")
    os.kill(handle["pid"], number)
    record = host.wait_final(run)
    assert (record["status"], record["cause"], record["exit_code"]) == ("preempted", "preemption", 0)
    assert "saving" in host.log(run)


def test_program_that_ignores_term_is_killed_after_the_grace_which_a_second_term_does_not_shorten(host: Host) -> None:
    run = host.run(shell=IGNORES_TERM)
    handle = host.start(run)
    host.wait_log(run, "up")
    begin = time.monotonic()
    host.cancel(run, grace_s=1.5)
    os.kill(handle["pid"], signal.SIGTERM)
    record = host.wait_final(run)
    assert time.monotonic() - begin >= 1.5
    assert (record["status"], record["cause"], record["signal"]) == ("cancelled", "cancelled", 9)


def test_force_kills_at_once_and_still_leaves_the_final_record(host: Host) -> None:
    run = host.run(shell=IGNORES_TERM, grace_s=600)
    host.start(run)
    host.wait_log(run, "up")
    host.cancel(run, grace_s=600)
    host.cancel(run, grace_s=600, force=True)
    assert host.wait_final(run)["status"] == "cancelled"


def test_stopped_child_is_woken_to_hear_the_request(host: Host) -> None:
    run = host.run(shell="trap 'exit 0' TERM; echo up; kill -STOP $$; while :; do sleep 0.05; done", grace_s=600)
    host.start(run)
    host.wait_log(run, "up")
    host.cancel(run, grace_s=600)
    assert host.wait_final(run)["status"] == "cancelled"


def test_limit_ends_the_run_as_timeout(host: Host) -> None:
    run = host.run(shell="echo up; exec sleep 60", limit_s=0.5)
    host.start(run)
    record = host.wait_final(run)
    assert (record["status"], record["cause"]) == ("failed", "timeout")
    assert "0.5 s" in record["message"]


def test_children_in_sessions_of_their_own_do_not_outlive_the_run(host: Host) -> None:
    shell = "setsid sh -c 'echo $$ >> pids; exec sleep 600' & (sleep 600 & echo $! >> pids) & sleep 0.3; cat pids"
    run = host.run(shell=shell, grace_s=1)
    host.start(run)
    assert host.wait_final(run)["status"] == "completed"
    pids = [int(line) for line in host.log(run).split()]
    assert len(pids) == 2
    assert not [pid for pid in pids if process.start_of(pid)]


def test_leftover_that_ignores_term_is_killed(host: Host) -> None:
    run = host.run(shell=f'setsid sh -c "{IGNORES_TERM.replace("up", "$$")}" & sleep 0.3', grace_s=0.5)
    host.start(run)
    assert host.wait_final(run)["status"] == "completed"
    [pid] = [int(line) for line in host.log(run).split()]
    assert not process.start_of(pid)


def test_newer_fence_stops_the_old_attempt_at_once(host: Host) -> None:
    run = host.run(shell=IGNORES_TERM, grace_s=600)
    host.start(run)
    host.wait_log(run, "up")
    fence = Path(run["status_dir"]).parent / "fence"
    text = json.dumps({"attempt": 2, "token": "new", "run_id": "newer"})
    (fence.parent / "fence.new").write_text(text)
    (fence.parent / "fence.new").rename(fence)
    record = host.wait_final(run)
    assert (record["status"], record["cause"]) == ("cancelled", "fenced")
    assert fence.read_text() == text


def test_heartbeat_advances_seq_and_carries_progress(host: Host) -> None:
    shell = (
        'echo \'{"step":5,"total":9,"metrics":{"loss":0.5}}\' > $RECONCILER_STATUS_DIR/.p && '
        "mv $RECONCILER_STATUS_DIR/.p $RECONCILER_STATUS_DIR/progress.json; exec sleep 60"
    )
    run = host.run(shell=shell, heartbeat_s=0.05)
    host.start(run)
    wait_for(lambda: host.metadata(run)["progress"]["step"] == 5)
    first = host.metadata(run)
    assert first["status"] == "running"
    wait_for(lambda: host.metadata(run)["seq"] >= first["seq"] + 3)
    assert host.see(run)["progress"]["metrics"] == {"loss": 0.5}


def test_metadata_read_ten_thousand_times_during_updates_is_always_valid(host: Host) -> None:
    run = host.run(shell="exec sleep 60", heartbeat_s=0.05, config={"filler": "x" * 20000})
    host.start(run)
    path = os.path.join(run["status_dir"], "metadata.json")
    previous, seen = -1, set()
    for _ in range(10_000):
        with open(path, "rb") as file:
            record = json.loads(file.read())
        assert record["seq"] >= previous
        previous = record["seq"]
        seen.add(previous)
    assert len(seen) > 3


def test_killed_supervisor_leaves_a_run_that_is_seen_alive_and_can_be_cancelled(host: Host) -> None:
    run = host.run(shell="setsid sh -c 'echo two; exec sleep 600' & echo one; sleep 600")
    handle = host.start(run)
    host.wait_log(run, "one")
    host.wait_log(run, "two")
    os.kill(handle["pid"], signal.SIGKILL)
    wait_for(lambda: not process.start_of(handle["pid"]))
    sighting = host.see(run)
    assert (sighting["alive"], sighting["supervised"], sighting["state"]) == (True, False, "present")
    assert host.cancel(run, "deleted", grace_s=2)["result"] == "signalled"
    wait_for(lambda: not host.see(run)["alive"])
    wait_for(lambda: host.metadata(run)["status"] == "cancelled")
    assert host.metadata(run)["cause"] == "deleted"
    assert host.cancel(run)["result"] == "gone"


def test_session_leaver_alone_keeps_the_run_alive(host: Host) -> None:
    run = host.run(shell="setsid sh -c 'echo two; exec sleep 600' & sleep 600")
    handle = host.start(run)
    host.wait_log(run, "two")
    members = process.session(handle["sid"], handle["start"], process.table())
    process.send((one.pid for one in members), signal.SIGKILL)
    wait_for(lambda: not process.start_of(handle["pid"]))
    assert host.see(run)["alive"] is True
    assert host.launch(host.run(attempt=2))[0]["reason"] == "alive"


def test_unsupervised_program_that_ignores_term_is_killed_by_the_helper(host: Host) -> None:
    run = host.run(shell=IGNORES_TERM)
    handle = host.start(run)
    host.wait_log(run, "up")
    os.kill(handle["pid"], signal.SIGKILL)
    wait_for(lambda: not process.start_of(handle["pid"]))
    host.cancel(run, grace_s=0.3)
    wait_for(lambda: not host.see(run)["alive"])


def test_rotation_loses_no_line(host: Host) -> None:
    count = 60_000  # in about three seconds: the size is looked at once a second
    program = host.base / "writer.py"
    program.write_text(
        f"import sys, time\nfor n in range({count}):\n    sys.stdout.write('%09d\\n' % n); sys.stdout.flush()\n"
        "    if n % 1000 == 0: time.sleep(0.05)\n"
    )
    shell = f"{sys.executable} {program} & (setsid {sys.executable} {program}); wait"
    run = host.run(shell=shell, log_bytes_max=100_000, log_files=50)
    host.start(run)
    assert host.wait_final(run, 60)["status"] == "completed"
    logs = sorted(Path(run["status_dir"]).glob("output.log*"))
    assert len(logs) > 1, "never rotated"
    lines = sorted(line for path in logs for line in path.read_text().split())
    assert lines == sorted([f"{number:09d}" for number in range(count)] * 2)


def test_rotation_keeps_at_most_the_given_number_of_files(host: Host) -> None:
    run = host.run(shell="while :; do seq 1 2000; sleep 0.05; done", log_bytes_max=5000, log_files=2)
    host.start(run)
    directory = Path(run["status_dir"])
    wait_for((directory / "output.log.2").exists)
    first = (directory / "output.log.2").stat().st_ino
    wait_for(lambda: (directory / "output.log.2").stat().st_ino != first)
    assert not (directory / "output.log.3").exists()


def test_set_up_lines_change_the_environment_of_the_stages(host: Host) -> None:
    awkward = "a b\n$(id) \\ \"'é"
    run = host.run(
        setup=["export ONE=1", 'export TWO="$ONE and $GIVEN"', "cd /"],
        env={"GIVEN": awkward},
        shell='printf "%s" "$TWO"; test "$PWD" = "$RECONCILER_WORK_DIR" || echo elsewhere',
    )
    host.start(run)
    assert host.wait_final(run)["status"] == "completed"
    assert host.log(run) == "1 and " + awkward


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"setup": ["true", "echo why; false"]}, "setup: echo why; false"),
        ({"setup": ["exit 7", "true"]}, "setup: exit 7"),
        ({"setup": ["exit 0", "true"]}, "setup: exit 0"),
        ({"modules": ["no/such"]}, "module load no/such"),
    ],
)
def test_set_up_that_fails_names_the_step(host: Host, changes: dict[str, Any], step: str) -> None:
    run = host.run(shell="echo never", **changes)
    host.start(run)
    record = host.wait_final(run)
    assert (record["status"], record["cause"]) == ("failed", "infrastructure")
    assert f"Set-up failed in step {step}: " in record["message"]
    assert "never" not in host.log(run)


def test_request_during_set_up_ends_it(host: Host) -> None:
    run = host.run(setup=["echo up; sleep 600"], shell="echo never")
    host.start(run)
    host.wait_log(run, "up")
    host.cancel(run, "suspended", grace_s=3)
    record = host.wait_final(run)
    assert (record["status"], record["cause"]) == ("cancelled", "suspended")
    assert "never" not in host.log(run)


def test_modules_are_loaded_in_order_before_set_up(host: Host) -> None:
    home = host.base / "home"
    home.mkdir()
    (home / ".bash_profile").write_text('module() { export LOADED="$LOADED $2"; }\n')
    host.environ["HOME"] = str(home)
    run = host.run(modules=["cuda/12", "gcc $(id)"], setup=["export LAST=$LOADED"], shell='echo "$LAST"')
    host.start(run)
    host.wait_final(run)
    assert host.log(run) == " cuda/12 gcc $(id)\n"


def test_environment_of_the_job_is_as_promised(host: Host) -> None:
    run = host.run(stages=[{"argv": ["env", "-0"]}], gpus=["GPU-1", "GPU-2"], env={"PYTHONPATH": "/mine", "X": "1"})
    host.start(run)
    record = host.wait_final(run)
    environ = dict(entry.split("=", 1) for entry in host.log(run).split("\0") if entry)
    assert environ["RECONCILER_JOB"] == "lab/demo/train"
    assert environ["RECONCILER_RUN_ID"] == environ["THESEUS_DISPATCH_RUN_ID"] == run["run_id"]
    assert environ["RECONCILER_ATTEMPT"] == "1"
    assert environ["RECONCILER_CONFIG"] == run["status_dir"] + "/config.json"
    assert environ["RECONCILER_CHECKPOINT_DIR"] == run["checkpoint_dir"]
    assert environ["RECONCILER_RESULTS_DIR"] == run["results_dir"]
    assert environ["RECONCILER_STATUS_DIR"] == run["status_dir"]
    assert environ["RECONCILER_TOKEN"] == run["token"]
    assert environ["RECONCILER_WORK_DIR"] == run["work_dir"]
    assert environ["RECONCILER_RESUME_FROM"] == ""
    assert environ["THESEUS_ROOT"] == str(host.root)
    assert environ["THESEUS_DISPATCH_START_TIME"] == record["start_time"]
    assert environ["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert environ["PYTHONPATH"] == f"/mine:{host.bundle}"


def test_cpu_mode_hides_the_gpus_and_null_leaves_them_alone(host: Host) -> None:
    host.environ["CUDA_VISIBLE_DEVICES"] = "7"
    hidden, alone = host.run("a", gpus=[]), host.run("b")
    for run in (hidden, alone):
        run["stages"] = [{"argv": ["sh", "-c", 'echo "[$CUDA_VISIBLE_DEVICES]"']}]
    host.launch(hidden, alone)
    host.wait_final(hidden)
    host.wait_final(alone)
    assert (host.log(hidden), host.log(alone)) == ("[]\n", "[7]\n")


def test_program_finds_default_signals_no_stdin_and_only_its_own_descriptors(host: Host) -> None:
    code = (
        "import os, signal, sys; print(sorted(int(n) for n in os.listdir('/proc/self/fd') if int(n) < 3), "
        "len(os.listdir('/proc/self/fd')), signal.pthread_sigmask(signal.SIG_BLOCK, []), sys.stdin.read() == '', "
        "[hex(int(line.split()[1], 16) & 0x7fffffff) for line in open('/proc/self/status') if line[:6] == 'SigIgn'])"
    )
    run = host.run(stages=[{"argv": [sys.executable, "-S", "-c", code]}])
    host.start(run)
    host.wait_final(run)
    # Python itself ignores SIGPIPE and SIGXFSZ at start: 0x1001000.
    assert host.log(run) == "[0, 1, 2] 4 set() True ['0x1001000']\n"


def test_supervisor_is_detached(host: Host) -> None:
    run = host.run(shell="exec sleep 60")
    pid = host.start(run)["pid"]
    base = Path(f"/proc/{pid}")
    assert os.getsid(pid) == pid
    wait_for(lambda: os.readlink(base / "cwd") == "/")  # it is in the work directory while it starts the child
    assert os.readlink(base / "fd/0") == "/dev/null"
    wait_for(lambda: len(list((base / "fd").iterdir())) == 3)


def test_job_class_is_made_with_its_config_and_called(host: Host) -> None:
    tree = host.base / "tree"
    tree.mkdir()
    (tree / "lab_job.py").write_text(
        "import runtime.api\nclass Train:\n    def __init__(self, config):\n        self.config = config\n"
        "    def __call__(self):\n        print(self.config, runtime.api.config() == self.config)\n        return 6\n"
        "class Plain:\n    def run(self):\n        print('plain')\n"
    )
    first = host.run("a", tree={"directory": str(tree)}, stages=[], job_key="lab_job:Train", config={"x": [1]})
    second = host.run("b", tree={"directory": str(tree)}, stages=[], job_key="lab_job:Plain")
    third = host.run("c", tree={"directory": str(tree)}, stages=[], job_key="lab_job:Missing")
    host.launch(first, second, third)
    assert host.wait_final(first)["exit_code"] == 6
    assert host.log(first) == "{'x': [1]} True\n"
    assert host.wait_final(second)["status"] == "completed"
    assert host.wait_final(third)["exit_code"] == 2
    assert "There is no Missing in lab_job" in host.log(third)
    assert tree.exists()


def test_work_directory_is_kept_on_failure_and_on_wish(host: Host) -> None:
    failed = host.run("a", shell="touch here; mkdir -p ro/x; chmod 500 ro; exit 1")
    kept = host.run("b", shell="touch here", keep_work=True)
    gone = host.run("c", shell="mkdir -p ro/x; chmod 500 ro; ln -s / link")
    host.launch(failed, kept, gone)
    for run in (failed, kept, gone):
        host.wait_final(run)
    assert (Path(failed["work_dir"]) / "here").exists()
    assert (Path(kept["work_dir"]) / "here").exists()
    assert not Path(gone["work_dir"]).exists()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root to mount a small tmpfs")
class TestFullDisk:
    @pytest.fixture(autouse=True)
    def small_disk(self, host: Host) -> Any:
        host.root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(host.root)], check=True)
        yield
        host.end_all()
        subprocess.run(["umount", "-l", str(host.root)], check=True)

    def test_run_that_fills_the_disk_still_says_so(self, host: Host) -> None:
        run = host.run(shell="sleep 0.3; cat /dev/zero > $RECONCILER_RESULTS_DIR/fill; exit 1")
        host.start(run)
        record = host.wait_final(run)
        assert (record["status"], record["cause"]) == ("failed", "infrastructure")
        assert "is full" in record["message"]
        assert not list((host.status / ".live").iterdir())

    def test_run_that_fills_the_disk_with_output_still_says_so(self, host: Host) -> None:
        run = host.run(shell="sleep 0.3; cat /dev/zero", log_bytes_max=200_000)
        host.start(run)
        record = host.wait_final(run)
        assert (record["status"], record["cause"]) == ("failed", "infrastructure")

    def test_full_disk_before_the_launch_is_refused_and_leaves_no_claim(self, host: Host) -> None:
        host.start(host.run("first"))
        host.wait_final(host.run("first"))
        subprocess.run(["sh", "-c", f"cat /dev/zero > {host.root}/fill"], check=False, stderr=subprocess.DEVNULL)
        run = host.run("second")
        [answer] = host.launch(run)
        assert (answer["result"], answer["reason"]) == ("refused", "unwritable"), answer
        assert "No space" in answer["message"]
        assert not Path(run["status_dir"]).exists()


def memory_group(name: str) -> Path | None:
    """A fresh memory control group with a limit of 64 MiB, None where this user may not make one."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    base, limit = (v1, "memory.limit_in_bytes") if v1.is_dir() else (v2, "memory.max")
    path = base / name
    try:
        path.mkdir()
        (path / limit).write_text(str(64 << 20))
    except OSError:
        return None
    return path


def test_program_that_the_kernel_kills_for_memory_is_out_of_memory(host: Host) -> None:
    group = memory_group(f"reconciler-test-{os.getpid()}")
    if group is None:
        pytest.skip("no memory control group can be made here")
    code = "x = bytearray(400 << 20); x[::4096] = bytes(len(x[::4096])); print('survived')"
    run = host.run(stages=[{"argv": [sys.executable, "-c", code]}])
    try:
        subprocess.run(
            ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec sh "{host.bundle}/bootstrap.sh" launch'],
            input=json.dumps({"version": 1, "runs": [run]}).encode(),
            env=host.environ,
            check=True,
        )
        record = host.wait_final(run)
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
    assert (record["status"], record["cause"], record["signal"]) == ("failed", "out_of_memory", 9)


def test_disk_that_fills_up_between_claim_and_start_is_refused_and_leaves_nothing(host: Host) -> None:
    script = host.base / "full.py"
    script.write_text(
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport runtime.__main__, runtime.status\n"
        "def full(path):\n    raise OSError(28, 'No space left on device', path)\n"
        "runtime.status.flush_file = full\nraise SystemExit(runtime.__main__.main(['launch']))\n"
    )
    run = host.run()
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), str(host.bundle)],
        input=json.dumps({"version": 1, "runs": [run]}).encode(),
        capture_output=True,
        env=host.environ,
        check=True,
    )
    answer = json.loads(done.stdout.splitlines()[0][4:])
    assert (answer["result"], answer["reason"]) == ("refused", "unwritable")
    assert "No space left" in answer["message"]
    assert not Path(run["status_dir"]).exists()
    assert not list((host.status / ".live").iterdir())
    assert sorted(path.name for path in Path(run["status_dir"]).parent.iterdir()) == [".lock", "fence"]
