"""Ranks and the one verdict over several machines."""

from __future__ import annotations

import json

import pytest

from runtime import gang, ranks
from runtime.contract import CANCELLED, COMPLETED, FAILED, PREEMPTED

NAMES = {"rank": "SLURM_PROCID", "nodes": "SLURM_JOB_NUM_NODES", "nodelist": "SLURM_JOB_NODELIST"}


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("gh01", ["gh01"]),
        ("gh[01-03,07],ga01", ["gh01", "gh02", "gh03", "gh07", "ga01"]),
        ("r[1-2]n[09-10]", ["r1n09", "r1n10", "r2n09", "r2n10"]),
        ("a[1-2]-x,b", ["a1-x", "a2-x", "b"]),
        ("", []),
    ],
)
def test_a_list_of_hosts_is_unfolded_in_order(text, hosts):
    assert ranks.expand(text) == hosts


def test_every_machine_names_the_same_meeting_point():
    told = []
    for rank in range(2):
        environ = {"SLURM_PROCID": str(rank), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gh[01-02]"}
        told.append(ranks.environment(ranks.of_environment(NAMES, environ), "4711"))
    assert [one["RECONCILER_NODE_RANK"] for one in told] == ["0", "1"]
    assert {one["RECONCILER_COORDINATOR"] for one in told} == {"gh01:62056"}
    assert told[1]["JAX_PROCESS_ID"] == told[1]["NODE_RANK"] == "1"


def test_a_single_machine_is_told_of_no_meeting_point():
    environ = ranks.environment(ranks.of_environment(NAMES, {"SLURM_JOB_NODELIST": "gh01"}), "1")
    assert environ == {"RECONCILER_NODE_RANK": "0", "RECONCILER_NUM_NODES": "1", "RECONCILER_NODES": "gh01"}


def worker(status, cause=None, code=None, host="n", message="m"):
    return {"status": status, "cause": cause, "exit_code": code, "host": host, "message": message, "signal": None}


ASKED = worker(PREEMPTED, "preemption", 143)
DONE = worker(COMPLETED, code=0)


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ({0: DONE, 1: DONE}, (COMPLETED, None, 0)),
        ({0: ASKED, 1: worker(FAILED, "failure", 7)}, (FAILED, "failure", 7)),
        ({0: DONE, 1: worker(FAILED, "out_of_memory", 137)}, (FAILED, "out_of_memory", 137)),
        ({0: ASKED, 1: ASKED}, (PREEMPTED, "preemption", 143)),
        ({0: ASKED, 1: {"status": "running", "host": "n"}}, (PREEMPTED, "preemption", 143)),
        ({0: DONE, 1: {"status": "running", "host": "n"}}, (FAILED, "infrastructure", 9)),
        ({0: DONE}, (FAILED, "infrastructure", 9)),
        ({0: worker(CANCELLED, "cancelled"), 1: ASKED}, (CANCELLED, "cancelled", None)),
    ],
)
def test_who_failed_by_itself_decides(workers, expected):
    found = gang.verdict(workers, 2, 9)
    assert (found.status, found.cause, found.exit_code) == expected


def test_workers_that_say_nothing_decide_nothing():
    assert gang.verdict({}, 2, 1) is None


def test_the_summary_names_who_was_not_heard_of(tmp_path):
    (tmp_path / "workers" / "1").mkdir(parents=True)
    (tmp_path / "workers" / "1" / "metadata.json").write_text(json.dumps({"status": "running", "host": "b", "seq": 4}))
    mine = {"rank": 0, "host": "a", "status": "running", "seq": 9}
    assert [(one["rank"], one.get("host"), one["status"]) for one in gang.summary(str(tmp_path), mine, 3)] == [
        (0, "a", "running"),
        (1, "b", "running"),
        (2, None, "missing"),
    ]


@pytest.mark.parametrize(
    ("status", "code", "shown"),
    [(COMPLETED, 0, 0), (FAILED, 7, 7), (FAILED, 0, 1), (FAILED, None, 1), (FAILED, 300, 1)],
)
def test_the_scheduler_sees_zero_only_for_a_run_that_completed(status, code, shown):
    assert gang.code_of(status, code) == shown
