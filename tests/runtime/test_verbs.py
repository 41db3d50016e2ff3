"""observe, cancel, logs, clean: what they say, and what they leave alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import process
from tests.runtime.host import Host, wait_for


def test_observe_of_a_root_that_does_not_exist_is_empty_and_no_error(host: Host) -> None:
    seen = host.observe(scan=True)
    assert set(seen) == {""}
    assert seen[""]["roots"] == {str(host.status): None}
    assert seen[""]["cpus"] >= 1
    assert seen[""]["gpus"] is None


def test_root_that_vanished_under_a_known_run_proves_nothing(host: Host) -> None:
    run = host.run(shell="true")
    host.start(run)
    host.wait_final(run)
    host.status.rename(host.status.with_name("away"))
    known = {"run_id": run["run_id"], "status_dir": run["status_dir"]}

    def seen(**more: bool) -> dict[str, object]:
        document = {"version": 1, "status_roots": [str(host.status)], "known": [{**known, **more}]}
        return host.answers("observe", document)[0]["sighting"]

    assert "not mounted" in seen(settled=True)["error"]
    assert seen(settled=True)["rootless"] is True
    assert (seen()["state"], seen()["error"], seen().get("rootless")) == ("absent", None, None)


def test_record_says_running_soon_after_a_set_up(host: Host) -> None:
    run = host.run(shell="sleep 60", setup=["true"])
    host.start(run)
    wait_for(lambda: host.metadata(run)["status"] == "running")


def test_root_that_cannot_be_read_is_an_error(host: Host) -> None:
    host.root.mkdir()
    host.status.write_text("a file")
    assert "Not a directory" in host.observe()[""]["roots"][str(host.status)]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to become somebody else")
def test_run_directory_without_permission_is_an_error_and_not_absent(host: Host) -> None:
    run = host.run()
    host.start(run)
    host.wait_final(run)
    Path(run["status_dir"]).chmod(0o700)
    top = next(parent for parent in host.base.parents if parent.name.startswith("pytest-of-"))
    for path in (top, host.bundle, *(parent for parent in host.base.parents if parent.is_relative_to(top)), host.base):
        path.chmod(0o755)
    request = {"version": 1, "status_roots": [], "known": [{"run_id": run["run_id"], "status_dir": run["status_dir"]}]}
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", f"{host.bundle}/bootstrap.sh", "observe"],
        input=json.dumps(request).encode(),
        capture_output=True,
        env={"PATH": os.defpath},
        check=True,
    )
    sighting = json.loads(done.stdout.splitlines()[0][4:])["sighting"]
    assert sighting["state"] == "present"
    assert "Permission denied" in sighting["error"]


def test_live_run_is_seen_without_being_known(host: Host) -> None:
    run = host.run(shell="sleep 60", config={"secret-looking": "x"})
    handle = host.start(run)
    sighting = host.observe()[run["run_id"]]
    assert (sighting["state"], sighting["alive"], sighting["supervised"]) == ("present", True, True)
    assert {name: handle[name] for name in ("pid", "start", "boot_id", "sid")} == sighting["started"]
    assert "config" not in sighting["metadata"]


def test_ended_run_is_seen_when_known_or_scanned_only(host: Host) -> None:
    run = host.run()
    host.start(run)
    host.wait_final(run)
    assert run["run_id"] not in host.observe()
    assert host.observe(run)[run["run_id"]]["metadata"]["status"] == "completed"
    assert host.observe(scan=True)[run["run_id"]]["alive"] is False


def test_scan_gives_the_newest_attempt_of_each_job(host: Host) -> None:
    for attempt in (1, 2, 10):
        host.start(host.run("a", attempt=attempt))
        host.wait_final(host.run("a", attempt=attempt))
    host.start(host.run("b"))
    host.wait_final(host.run("b"))
    newest = {host.run("a", attempt=10)["run_id"], host.run("b")["run_id"]}
    assert set(host.observe(scan=True)) - {""} == newest
    for fence in host.status.glob("*/*/*/fence"):
        fence.unlink()
    assert set(host.observe(scan=True)) - {""} == newest


def test_run_that_never_was_is_absent(host: Host) -> None:
    assert (host.see(host.run())["state"], host.see(host.run())["error"]) == ("absent", None)


def test_run_whose_directory_is_gone_is_present_while_a_process_lives(host: Host) -> None:
    run = host.run(shell="echo up; exec sleep 600")
    handle = host.start(run)
    host.wait_log(run, "up")
    Path(run["status_dir"]).rename(host.base / "gone")  # at once: its supervisor writes there all the time
    (host.status / ".live" / run["run_id"]).unlink()
    assert (host.see(run)["state"], host.see(run)["alive"]) == ("present", True)
    found = process.session(handle["sid"], handle["start"], process.table())
    process.send((one.pid for one in found), signal.SIGKILL)
    wait_for(lambda: host.see(run)["state"] == "absent")


@pytest.mark.parametrize("name", ["claim", "metadata.json", "started"])
def test_damaged_file_makes_an_error_and_proves_nothing(host: Host, name: str) -> None:
    run = host.run(shell="sleep 60")
    host.start(run)
    wait_for(lambda: host.metadata(run)["status"] == "running")
    (Path(run["status_dir"]) / name).rename(host.base / "kept")
    (Path(run["status_dir"]) / name).write_text('{"torn": ')
    error = host.see(run)["error"]
    if name == "metadata.json":
        return  # the next heartbeat may have mended it already
    assert "is not JSON" in error


def test_run_of_another_boot_is_dead_whatever_its_pid(host: Host) -> None:
    run = host.run(shell="sleep 60")
    host.start(run)
    for name in ("claim", "started"):
        path = Path(run["status_dir"]) / name
        value = {**json.loads(path.read_text()), "boot_id": "another-boot"}
        path.unlink()
        path.write_text(json.dumps(value))
    sighting = host.see(run)
    assert (sighting["state"], sighting["alive"], sighting["error"]) == ("present", False, None)
    assert host.cancel(run)["result"] == "gone"


def test_run_of_another_machine_that_shares_the_directory_is_unknown_here(host: Host) -> None:
    run = host.run(shell="sleep 60")
    host.start(run)
    path = Path(run["status_dir"]) / "claim"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "other", "hostname": "elsewhere"}))
    assert "belongs to elsewhere" in host.see(run)["error"]
    answer = host.cancel(run)
    assert (answer["result"], answer["reason"].split(":")[0]) == ("refused", "elsewhere")


def test_pid_that_was_given_out_again_is_not_the_run(host: Host) -> None:
    run = host.run()
    host.start(run)
    host.wait_final(run)
    path = Path(run["status_dir"]) / "started"
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    value = {**json.loads(path.read_text()), "pid": other.pid, "sid": other.pid, "start": "1"}
    path.unlink()
    path.write_text(json.dumps(value))
    try:
        assert host.see(run)["alive"] is False
        assert host.cancel(run)["result"] == "gone"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_foreign_session_is_never_signalled(host: Host) -> None:
    run = host.run()
    host.start(run)
    host.wait_final(run)
    # The leader of our session is gone and its number now names a session of somebody else.
    code = "import os, time\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(60)"
    leader = subprocess.Popen([sys.executable, "-c", code])
    leader.wait()
    path = Path(run["status_dir"]) / "started"
    value = {**json.loads(path.read_text()), "pid": leader.pid, "sid": leader.pid}
    path.unlink()
    path.write_text(json.dumps(value))
    [member] = process.session(leader.pid, value["start"], process.table())
    try:
        answer = host.cancel(run)
        assert answer["result"] == "refused"
        assert "its own" in answer["reason"]
        assert process.start_of(member.pid)
    finally:
        process.send([member.pid], signal.SIGKILL)


def test_cancel_with_another_token_is_refused(host: Host) -> None:
    run = host.run(shell="sleep 60")
    host.start(run)
    answer = host.cancel({**run, "token": "other"})
    assert (answer["result"], answer["reason"].split(":")[0]) == ("refused", "token")
    assert host.see(run)["request"] is None


def test_cancel_for_no_known_reason_is_refused(host: Host) -> None:
    run = host.run(shell="sleep 60")
    host.start(run)
    assert host.cancel(run, "whim")["result"] == "refused"
    assert host.see(run)["supervised"] is True


def test_cancel_of_what_is_not_there_is_gone(host: Host) -> None:
    assert host.cancel(host.run())["result"] == "gone"


def test_cancel_does_not_wait_for_the_end(host: Host) -> None:
    run = host.run(shell="trap '' TERM; echo up; while :; do sleep 0.05; done")
    host.start(run)
    host.wait_log(run, "up")
    begin = time.monotonic()
    assert host.cancel(run, grace_s=600)["result"] == "signalled"
    assert time.monotonic() - begin < 10
    wait_for(lambda: host.see(run)["request"])
    assert host.see(run)["request"]["reason"] == "cancelled"


def test_request_without_a_signal_is_found_at_the_next_heartbeat(host: Host) -> None:
    run = host.run(shell="sleep 60", heartbeat_s=0.1)
    host.start(run)
    aside = Path(run["status_dir"]) / ".request"
    aside.write_text(json.dumps({"reason": "suspended", "grace_s": 1, "at": ""}))
    aside.rename(Path(run["status_dir"]) / "request")
    assert host.wait_final(run)["cause"] == "suspended"


def read(host: Host, run: dict[str, object], offset: int, size_max: int = 1 << 20) -> tuple[dict[str, object], bytes]:
    output = host.call("logs", {"status_dir": run["status_dir"], "offset": offset, "size_max": size_max})
    head, _, body = output.partition(b"\n")
    return json.loads(head[4:]), body


def test_logs_gives_the_bytes_asked_for(host: Host) -> None:
    run = host.run(shell="printf '0123456789\\377\\n'")
    host.start(run)
    host.wait_final(run)
    answer, body = read(host, run, 0)
    assert answer == {"offset": 0, "end": 12, "size": 12, "rotated": False, "done": True}
    assert body == b"0123456789\xff\n"
    assert read(host, run, 4, 3)[1] == b"456"
    assert read(host, run, -4)[1] == b"89\xff\n"
    assert read(host, run, -400)[1] == body
    assert read(host, run, 12)[1] == b""


def test_logs_after_rotation_starts_again_and_says_so(host: Host) -> None:
    run = host.run(shell="echo new")
    host.start(run)
    host.wait_final(run)
    answer, body = read(host, run, 1000)
    assert (answer["rotated"], answer["offset"], body) == (True, 0, b"new\n")


def test_logs_of_a_run_that_is_not_there_is_empty(host: Host) -> None:
    assert read(host, host.run(), 0)[0]["size"] == 0


def test_clean_removes_an_ended_run_and_only_that(host: Host) -> None:
    run, other = host.run("a", shell="exit 1"), host.run("b", shell="exit 1")
    for one in (run, other):
        host.start(one)
        host.wait_final(one)
    assert host.clean(run)["result"] == "removed"
    assert not Path(run["status_dir"]).exists()
    assert not Path(run["work_dir"]).exists()
    assert Path(other["status_dir"]).exists()
    assert Path(other["work_dir"]).exists()
    assert host.clean(run)["result"] == "gone"


def test_clean_of_the_work_directory_keeps_the_record(host: Host) -> None:
    run = host.run(shell="exit 1")
    host.start(run)
    host.wait_final(run)
    assert host.clean(run, status=False)["result"] == "removed"
    assert host.metadata(run)["status"] == "failed"
    assert not Path(run["work_dir"]).exists()


def test_clean_refuses_live_runs_other_tokens_and_other_directories(host: Host) -> None:
    run = host.run(shell="sleep 60")
    host.start(run)
    precious = host.base / "precious"
    precious.mkdir()
    assert host.clean(run)["reason"].startswith("alive")
    host.cancel(run, grace_s=1)
    host.wait_final(run)
    assert host.clean({**run, "token": "other"})["reason"].startswith("token")
    assert host.clean({**run, "work_dir": str(precious)})["result"] == "refused"
    assert precious.exists()
    assert Path(run["status_dir"]).exists()


def test_clock_an_hour_off_changes_nothing(host: Host) -> None:
    """Times are written for people; alive and dead, older and newer are never judged by them."""
    run = host.run(shell="sleep 60")
    host.start(run)
    wait_for(lambda: host.metadata(run)["status"] == "running")
    for path in Path(run["status_dir"]).iterdir():
        os.utime(path, (time.time() + 3600, time.time() + 3600))
    assert host.see(run)["supervised"] is True
    host.cancel(run, grace_s=1)
    assert host.wait_final(run)["status"] == "cancelled"
    host.start(host.run(attempt=2))


def test_unknown_verbs_and_documents_end_with_a_sentence_and_no_done(host: Host) -> None:
    command = ["sh", f"{host.bundle}/bootstrap.sh"]
    for verb, text in (("dance", "{}"), ("launch", "{"), ("launch", '{"version": 2}'), ("launch", '{"version": 1}')):
        done = subprocess.run([*command, verb], input=text.encode(), capture_output=True, env=host.environ, check=False)
        assert done.returncode == 2
        assert done.stderr
        assert b"done" not in done.stdout


def test_reader_that_goes_away_does_not_stop_the_launch(host: Host) -> None:
    runs = [host.run(f"job{number}", shell="sleep 60") for number in range(8)]
    launcher = subprocess.Popen(
        ["sh", f"{host.bundle}/bootstrap.sh", "launch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=host.environ,
        start_new_session=True,
    )
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    launcher.stdout.close()
    launcher.stdin.write(json.dumps({"version": 1, "runs": runs}).encode())
    launcher.stdin.close()
    assert launcher.wait(60) == 0
    seen = host.observe()
    assert all(seen[run["run_id"]]["supervised"] for run in runs)


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
awkward = st.one_of(
    text, st.sampled_from(["$(id)", "`id`", "a\nb", "\\", "'", '"', "\r\n", " ", "é\u2028🎉", "-rf", "*", "%s", ""])
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.lists(awkward, max_size=4),
    environ=st.dictionaries(st.from_regex(r"\AT_[A-Z]{1,8}\Z"), awkward, max_size=3),
    value=awkward,
    line=text,
)
def test_any_text_arrives_byte_identical(
    host: Host, arguments: list[str], environ: dict[str, str], value: str, line: str
) -> None:
    number = getattr(host, "count", 0) + 1
    host.count = number  # type: ignore[attr-defined]
    out = host.base / f"out{number}"
    out.mkdir()
    code = (
        "import os, sys\nout = os.fsencode(sys.argv[1])\n"
        "open(out + b'/argv', 'wb').write(b'\\0'.join(map(os.fsencode, sys.argv[2:])))\n"
        "own = sorted(k + b'=' + v for k, v in os.environb.items() if k[:2] == b'T_')\n"
        "open(out + b'/env', 'wb').write(b'\\0'.join(own))"
    )
    run = host.run(
        f"job{number}",
        stages=[{"argv": [sys.executable, "-I", "-S", "-c", code, str(out), *arguments]}],
        env={**environ, "LC_ALL": "C"},
        config={"text": value, line: [value]},
        setup=["export T_LINE=$T_A"],
    )
    host.start(run)
    assert host.wait_final(run)["status"] == "completed", host.log(run)
    assert (out / "argv").read_bytes() == "\0".join(arguments).encode()
    expected = {**environ, "T_LINE": environ.get("T_A", "")}
    assert (out / "env").read_bytes() == "\0".join(sorted(f"{name}={text}" for name, text in expected.items())).encode()
    assert json.loads((Path(run["status_dir"]) / "config.json").read_text()) == {"text": value, line: [value]}
