"""Submitting, looking and cancelling: recorded answers of a real 22.05, hand-made ones for what it could not be made to say."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from reconciler.backends.dialect import FOREIGN, Answer, Dialect, Doubtful, Probe, Refused, Taken
from reconciler.backends.slurm import SlurmDialect
from runtime import commands
from tests.backends.slurm_records import ANSWERS, recorded

SLURM = SlurmDialect()


def test_it_is_a_dialect() -> None:
    dialect: Dialect = SLURM
    assert dialect.system == "slurm"


# --- submit


@pytest.mark.parametrize("name", ["taken", "taken-array", "everything", "time-over-limit"])
def test_recorded_submissions(name: str) -> None:
    answer = recorded(f"submit-{name}")
    assert SLURM.parse_submit(answer) == Taken(answer.stdout.strip())


@pytest.mark.parametrize(("name", "hint"), [
    ("partition", "spec.slurm.partition"), ("account", "spec.slurm.account"), ("qos", "spec.slurm.qos"), ("gres", "gres_mapping"),
    ("too-many-gpus", "spec.request"), ("nodelist", "nodelist"), ("constraint", "spec.slurm.constraint"),
    ("memory", "spec.request.mem"), ("memory-word", "spec.request.mem"), ("array", "MaxArraySize"), ("option", "spec.slurm"),
    ("licenses", "spec.slurm"), ("reservation", "reservation"), ("no-shebang", "bug"), ("no-file", "share"),
])  # fmt: skip
def test_recorded_refusals_say_what_to_change(name: str, hint: str) -> None:
    judged = SLURM.parse_submit(recorded(f"submit-{name}"))
    assert isinstance(judged, Refused)
    assert judged.final
    assert hint in judged.hint
    assert judged.words
    assert "sbatch: error" not in judged.words


def test_what_one_job_may_not_have_is_no_for_good() -> None:
    judged = SLURM.parse_submit(recorded("submit-qos-limit"))
    assert isinstance(judged, Refused)
    assert judged.final
    assert "spec.slurm.qos" in judged.hint


def test_too_many_jobs_are_no_for_now() -> None:
    """Hand-made, in the words of slurm_errno.c."""
    failed = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy"
    words = f"sbatch: error: AssocMaxSubmitJobLimit\n{failed}"
    judged = SLURM.parse_submit(Answer(1, "", words))
    assert isinstance(judged, Refused)
    assert not judged.final


def test_every_recorded_submission_is_judged() -> None:
    for name in ANSWERS:
        if name.startswith("submit-"):
            assert isinstance(SLURM.parse_submit(recorded(name)), Doubtful) == (name == "submit-controller-down")


@pytest.mark.parametrize(("stdout", "ident"), [
    ("123\n", "123"), ("123", "123"), ("123;lab\n", "123"), ("Submitted batch job 123\n", "123"),
    ("welcome\nSubmitted batch job 123 on cluster lab\n", "123"), ("a banner of the site\n123\n", "123"),
])  # fmt: skip
def test_ids(stdout: str, ident: str) -> None:
    """Hand-made: wrappers of sites."""
    assert SLURM.parse_submit(Answer(0, stdout, "")) == Taken(ident)


@pytest.mark.parametrize("answer", [
    Answer(0, "", ""),
    Answer(0, "ok\n", ""),
    Answer(0, "12a\n", ""),
    Answer(None, "", "ended at its deadline"),
    Answer(None, "123\n", ""),
    Answer(1, "123\n", "sbatch: error: invalid partition specified: x"),
    Answer(1, "", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"),
    Answer(1, "", "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received"),
    Answer(1, "", "sbatch: error: Batch job submission failed: Unexpected message received"),
    # First busy, then cut off: the last attempt may have arrived.
    Answer(1, "", "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
                  "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"),
    Answer(1, "", "sbatch: error: Batch job submission failed: Unspecified error"),
    Answer(1, "", ""),
    Answer(255, "", "ssh: connect to host login01 port 22: Connection refused"),
    Answer(255, "", ""),
    Answer(137, "", "Killed"),
    recorded("submit-controller-down"),
], ids=repr)  # fmt: skip
def test_what_nobody_knows_is_doubtful(answer: Answer) -> None:
    assert isinstance(SLURM.parse_submit(answer), Doubtful)


@pytest.mark.parametrize(("words", "final"), [
    ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", True),
    ("sbatch: error: Batch job submission failed: Time limit specification required, but not provided", True),
    ("sbatch: error: Batch job submission failed: Access/permission denied", True),
    ("sbatch: error: Batch job submission failed: User's group not permitted to use this partition", True),
    ("sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification", True),
    ("sbatch: error: Invalid directive found in batch script: b", True),
    ("sh: 1: exec: sbatch: not found", True),
    ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size "
     "and/or time limits)", False),
    ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
     "sbatch: error: Batch job submission failed: Resource temporarily unavailable", False),
    ("sbatch: error: Batch job submission failed: Requested partition configuration not available now", False),
    ("sbatch: fatal: Could not establish a configuration source", False),
])  # fmt: skip
def test_refusals_hand_made(words: str, final: bool) -> None:
    judged = SLURM.parse_submit(Answer(1, "", words))
    assert isinstance(judged, Refused)
    assert judged.final is final
    assert judged.hint


def test_submitting_heeds_nothing_of_the_users_environment_that_the_script_decides() -> None:
    assert SLURM.submit("/s/a b.sh") == ("sbatch", "--parsable", "/s/a b.sh")
    for variable in ("SBATCH_JOB_NAME", "SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_REQUEUE", "SLURM_CLUSTERS"):
        assert variable in SLURM.unset


# --- probes


def judge(probe: Probe, answer: Answer) -> str | None:
    """As the login node does: the id, "" for surely not, None for nobody knows."""
    found = re.search(probe.found, answer.stdout)
    if found:
        return found[1]
    return "" if re.search(probe.absent, answer.stdout) or re.search(probe.absent, answer.stderr) else None


@pytest.mark.parametrize(("name", "there"), [("find-one", True), ("find-array", True), ("find-none", False)])
def test_find(name: str, there: bool) -> None:
    ident = judge(SLURM.find(), recorded(name))
    assert ident is not None
    assert ident.isdigit() == there


@pytest.mark.parametrize(("name", "there"), [
    ("alive-running", True), ("alive-array", True), ("alive-member-waiting", True), ("alive-put-back-held", True),
    ("alive-ended", False), ("alive-cancelled-array", False), ("alive-unknown", False), ("alive-member-unknown", False),
])  # fmt: skip
def test_alive(name: str, there: bool) -> None:
    ident = judge(SLURM.alive(), recorded(name))
    assert ident is not None
    assert bool(ident) == there


@pytest.mark.parametrize(
    "name", ["find-none", "alive-ended", "alive-cancelled-array", "alive-unknown", "alive-member-unknown"]
)
def test_no_strict_prefix_proves_absence(name: str) -> None:
    whole = recorded(name)
    probe = SLURM.find() if name.startswith("find") else SLURM.alive()
    for end in range(len(whole.stdout) - 1):
        assert judge(probe, Answer(0, whole.stdout[:end], "")) is None


@pytest.mark.parametrize("answer", [
    recorded("find-controller-down"), recorded("alive-controller-down"), Answer(0, "", ""), Answer(None, "", ""),
    Answer(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"),
    Answer(0, "reconciler: whole\n", ""),
], ids=repr)  # fmt: skip
def test_silence_proves_nothing(answer: Answer) -> None:
    assert judge(SLURM.find(), answer) is None
    assert judge(SLURM.alive(), answer) is None


def test_a_state_that_we_do_not_know_is_neither_alive_nor_ended() -> None:
    """Hand-made."""
    text = "job=JOBID state=STATE\njob=7_0 state=COMPLETED\njob=7_1 state=HIBERNATING\nreconciler: whole\n"
    assert judge(SLURM.alive(), Answer(0, text, "")) is None
    assert judge(SLURM.alive(), Answer(0, text.replace("HIBERNATING", "FAILED"), "")) == ""
    assert judge(SLURM.alive(), Answer(0, text.replace("HIBERNATING", "SUSPENDED"), "")) == "7_1"


@pytest.mark.parametrize(("probe", "groups"), [(SLURM.find(), 2), (SLURM.alive(), 2)], ids=["find", "alive"])
def test_a_probe_has_one_place_for_what_is_asked(probe: Probe, groups: int) -> None:
    assert [word for word in probe.argv if "{}" in word] == ["{}"]
    assert re.compile(probe.found).groups == groups


@pytest.mark.parametrize(
    ("name", "mark", "expected"),
    [
        ("find-marks", "reconciler:one", "17"),
        ("find-marks", "reconciler:two", "18"),
        ("find-marks", "reconciler:three", False),
        ("find-one", "reconciler:any", "15"),
        ("find-none", "reconciler:any", False),
        ("find-controller-down", "reconciler:any", None),
    ],
)
def test_of_jobs_with_one_name_the_mark_tells_which_is_ours(name: str, mark: str, expected: object) -> None:
    """As the node judges it; a site that drops comments leaves the name."""
    answer = recorded(name)
    question = {"argv": ["sh", "-c", 'printf %s "$1"; exit $2', "sh", answer.stdout, str(answer.returncode)]}
    question |= {"found": SLURM.find().found, "absent": SLURM.find().absent}
    there, ident, _ = commands.find(question, "any", mark, 10.0)
    assert (ident if there else there) == expected


# --- cancel


def cancelled(folder: Path, ident: str, shown: str, code: int = 0, *, ask: bool = False) -> tuple[int, str]:
    """Exit code of the cancel, with stand-ins for both commands, and what scancel was given. Filled in as the node does it."""
    log = folder / "called"
    for tool, body in {"squeue": f"printf '%s\\n' '{shown}'; exit {code}", "scancel": f'echo "$@" >> {log}'}.items():
        (folder / tool).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (folder / tool).chmod(0o755)
    known = {"{ident}": ident, "{name}": "run", "{mark}": "reconciler:me"}
    argv = [known.get(word, word) for word in SLURM.cancel("{ident}", "{name}", "{mark}", ask=ask)]
    done = subprocess.run(argv, env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})
    return done.returncode, log.read_text(encoding="utf-8") if log.exists() else ""


OURS = "run reconciler:me"


@pytest.mark.parametrize(
    ("ident", "ask", "called"),
    [
        ("12", False, "--name=run 12\n"),
        ("12_3", False, "12_3\n"),  # the real scancel, given a filter, ends the whole waiting rest of the array
        ("12", True, "--signal=TERM --state=RUNNING --name=run 12\n"),
        ("12_3", True, "--signal=TERM --state=RUNNING --name=run 12_3\n"),
    ],
)
def test_what_is_ours_is_ended_or_asked(tmp_path: Path, ident: str, ask: bool, called: str) -> None:
    assert cancelled(tmp_path, ident, OURS, ask=ask) == (0, called)


@pytest.mark.parametrize("shown", ["other reconciler:me", "run reconciler:another", "run2 reconciler:me", ""])
@pytest.mark.parametrize("ident", ["12", "12_3"])
@pytest.mark.parametrize("ask", [True, False])
def test_another_name_or_mark_is_somebody_elses_job(tmp_path: Path, ident: str, shown: str, ask: bool) -> None:
    assert cancelled(tmp_path, ident, shown, ask=ask) == (FOREIGN, "")


@pytest.mark.parametrize("shown", ["run (null)", "run "])
def test_a_site_that_drops_comments_leaves_the_name(tmp_path: Path, shown: str) -> None:
    assert cancelled(tmp_path, "12", shown) == (0, "--name=run 12\n")


def test_a_queue_that_does_not_answer_cancels_nothing(tmp_path: Path) -> None:
    assert cancelled(tmp_path, "12", OURS, 1) == (75, "")


def test_the_recorded_cancels_of_a_real_slurm() -> None:
    """What is ended and what is not there say little: only looking tells."""
    codes = {
        name: recorded(f"cancel-{name}").returncode for name in ("wrong-name", "member", "array", "gone", "no-such")
    }
    assert codes == {"wrong-name": FOREIGN, "member": 0, "array": 0, "gone": 1, "no-such": 75}
