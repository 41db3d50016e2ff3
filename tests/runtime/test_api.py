"""The API for jobs: a checkpoint is whole or not there, a fenced attempt writes nothing, and all works by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime import api, checkpoints
from tests.runtime.host import Host

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of attempt 2 of a job; its checkpoint directory."""
    status_dir = tmp_path / "status" / "run-2"
    status_dir.mkdir(parents=True)
    fence(tmp_path, 2, "run-2")
    values = {
        "STATUS_DIR": str(status_dir),
        "CHECKPOINT_DIR": str(tmp_path / "checkpoints"),
        "RUN_ID": "run-2",
        "ATTEMPT": "2",
        "CONFIG": str(status_dir / "config.json"),
    }
    for name, value in values.items():
        monkeypatch.setenv("RECONCILER_" + name, value)
    return tmp_path / "checkpoints"


def fence(base: Path, attempt: int, run_id: str) -> None:
    (base / "status" / "fence").write_text(json.dumps({"attempt": attempt, "token": "t", "run_id": run_id}))


def save(step: int, text: str = "weights", **options: Any) -> None:
    with api.checkpoint(step, **options) as path:
        Path(path, "params").write_text(text)
        Path(path, "deep").mkdir()
        Path(path, "deep", "opt").write_text(text * 2)


def test_checkpoint_appears_whole_and_is_resumed(job: Path) -> None:
    assert api.resume() is None
    save(1200)
    path = job / "step-000000001200"
    assert api.resume() == str(path)
    commit = json.loads((path / "COMMIT").read_text())
    assert {name: commit[name] for name in ("step", "run_id", "attempt")} == {
        "step": 1200,
        "run_id": "run-2",
        "attempt": 2,
    }
    assert commit["files"] == {"params": 7, "deep/opt": 14}
    assert (job / "latest").read_text() == "step-000000001200\n"
    assert sorted(entry.name for entry in job.iterdir()) == ["latest", "step-000000001200"]


def test_block_that_raises_leaves_the_older_checkpoint(job: Path) -> None:
    save(1)

    def failing() -> None:
        with api.checkpoint(2) as path:
            Path(path, "half").write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert str(api.resume()).endswith("step-000000000001")
    assert (job / "latest").read_text() == "step-000000000001\n"
    assert len(list(job.iterdir())) == 2


@pytest.mark.parametrize("damage", ["no commit", "empty commit", "other step", "file missing", "file short"])
def test_half_written_checkpoint_is_never_resumed(job: Path, damage: str) -> None:
    save(1)
    save(2)
    path = job / "step-000000000002"
    if damage == "no commit":
        (path / "COMMIT").unlink()
    elif damage == "empty commit":
        (path / "COMMIT").write_text("")
    elif damage == "other step":
        path.rename(job / "step-000000000003")
    elif damage == "file missing":
        (path / "params").unlink()
    else:
        (path / "deep" / "opt").write_text("w")
    assert str(api.resume()).endswith("step-000000000001")


# A writer that is killed at its n-th call of one of the functions that change the disk.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from runtime import api
left = int(sys.argv[2])
def counting(original):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    return call
for name in ("open", "write", "rename", "fsync", "mkdir", "unlink", "rmdir"):
    setattr(os, name, counting(getattr(os, name)))
with api.checkpoint(2, keep=1) as path:
    with open(os.path.join(path, "params"), "w") as file:
        file.write("two")
left = 10 ** 9
print("done")
"""


def test_writer_killed_at_any_call_leaves_a_whole_checkpoint(job: Path) -> None:
    outcomes = set()
    for count in range(1, 200):
        save(1, "one")
        done = subprocess.run(
            [sys.executable, "-S", "-c", KILLED, str(REPOSITORY), str(count)], capture_output=True, check=False
        )
        newest = api.resume()
        assert newest is not None, count
        text = Path(newest, "params").read_text()
        assert text == {"1": "one", "2": "two"}[newest[-1]]
        outcomes.add(text)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        subprocess.run(["rm", "-r", str(job)], check=True)
    else:
        pytest.fail("the writer was never allowed to finish")
    assert outcomes == {"one", "two"}


def test_same_step_again_takes_the_place_of_the_first(job: Path) -> None:
    save(1, "first")
    save(1, "second")
    assert Path(str(api.resume()), "params").read_text() == "second"
    assert sorted(entry.name for entry in job.iterdir()) == ["latest", "step-000000000001"]


def test_keep_removes_older_complete_ones(job: Path) -> None:
    for step in (1, 2, 3, 4):
        save(step, keep=2)
    assert [step for step, _ in checkpoints.by_step(str(job))] == [3, 4]


def test_fenced_attempt_cannot_begin_a_checkpoint(job: Path, tmp_path: Path) -> None:
    fence(tmp_path, 3, "run-3")
    with pytest.raises(api.Fenced, match="attempt 3"):
        save(5)
    assert api.resume() is None


def test_attempt_fenced_while_writing_does_not_commit(job: Path, tmp_path: Path) -> None:
    def late() -> None:
        with api.checkpoint(5) as path:
            Path(path, "params").write_text("old attempt")
            fence(tmp_path, 3, "run-3")

    with pytest.raises(api.Fenced):
        late()
    assert not list(job.iterdir())


def test_report_is_read_back_whole(job: Path) -> None:
    api.report(3, 10, loss=0.25, rate=float("nan"), note="text")  # type: ignore[arg-type]
    value = json.loads((job.parent / "status" / "run-2" / "progress.json").read_text())
    value.pop("at")
    assert value == {"step": 3, "total": 10, "metrics": {"loss": 0.25, "rate": "nan", "note": "text"}}


def test_full_disk_does_not_end_the_program_that_reports(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    api.report(1, loss=1.0)


def test_everything_works_outside_the_reconciler(tmp_path: Path) -> None:
    code = (
        "import os\nfrom runtime import api\nassert api.config() == {} and api.resume() is None\n"
        "api.report(1, 2, a=1.0)\n"
        "with api.checkpoint(7) as path: open(path + '/x', 'w').close()\n"
        "assert api.resume() == os.path.abspath('checkpoints/step-000000000007')\nassert not api.stopping()\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RECONCILER_")}
    environ["PYTHONPATH"] = str(REPOSITORY)
    subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, env=environ, check=True)


def test_program_that_opts_in_writes_its_checkpoint_after_term_and_the_next_attempt_resumes(host: Host) -> None:
    program = host.base / "train.py"
    program.write_text(
        "import os, time\nfrom runtime import api\napi.install_stop_handler()\n"
        "print('resume', api.resume(), flush=True)\n"
        "assert (api.resume() or '') == os.environ['RECONCILER_RESUME_FROM']\n"
        "print('config', api.config()['x'], flush=True)\n"
        "while not api.stopping(): time.sleep(0.01)\n"
        "with api.checkpoint(41) as path: open(path + '/x', 'w').close()\n"
        "api.report(41, 100, loss=0.5)\n"
    )
    stages = [{"argv": [sys.executable, str(program)]}]
    first = host.run(stages=stages, config={"x": 5})
    handle = host.start(first)
    host.wait_log(first, "config 5")
    os.kill(handle["pid"], signal.SIGTERM)
    record = host.wait_final(first)
    assert (record["status"], record["exit_code"]) == ("preempted", 0)
    path = first["checkpoint_dir"] + "/step-000000000041"
    assert record["checkpoint"] == {"step": 41, "path": path}
    assert record["progress"] == {"step": 41, "total": 100, "metrics": {"loss": 0.5}}
    second = host.run(attempt=2, stages=stages, config={"x": 5})
    host.start(second)
    host.wait_log(second, f"resume {path}")
    host.cancel(second)
    assert host.wait_final(second)["status"] == "cancelled"
