"""When a VM that deletes itself is due, and what counts as life on it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from runtime.guard import Rule, disposal_of, look
from tests.runtime.host import Host

DUE = {"margin_s": 900, "start_s": 600, "age_s": 100, "disposal": {"delete": "always", "keep_s": 0, "ttl_s": None}}


def rule(**changes: Any) -> Rule:
    """Of a VM on which a run began, and nothing lives since second 1000."""
    disposal = {**DUE["disposal"], **changes.pop("disposal", {})}  # type: ignore[dict-item]
    made = Rule({**DUE, "disposal": disposal, **changes}, 0.0)
    made.see(True, True, 500.0)
    made.see(False, True, 1000.0)
    return made


@pytest.mark.parametrize(
    ("disposal", "final", "quiet_s", "due"),
    [
        ({}, "completed", 899, False),
        ({}, "completed", 900, True),
        ({}, "", 900, True),
        ({"keep_s": 3600}, "completed", 4499, False),
        ({"keep_s": 3600}, "completed", 4500, True),
        ({"delete": "never"}, "completed", 1e9, False),
        ({"delete": "success"}, "completed", 900, True),
        ({"delete": "success"}, "failed", 1e9, False),
        ({"delete": "failure"}, "completed", 1e9, False),
        ({"delete": "failure"}, "failed", 900, True),
        ({"delete": "success"}, "cancelled", 900, True),
        ({"delete": "success"}, "", 1e9, False),  # without a final record it has failed, as core.release.fate says
        ({"delete": "failure"}, "", 900, True),
        ({"delete": "never", "ttl_s": 2000}, "completed", 1799, False),  # 100 s old when its guard began at 0
        ({"delete": "never", "ttl_s": 2000}, "completed", 1800, True),
    ],
)
def test_it_is_due_a_margin_after_it_should_have_gone(
    disposal: dict[str, Any], final: str, quiet_s: float, due: bool
) -> None:
    assert bool(rule(disposal=disposal).why(final, 1000.0 + quiet_s)) == due


def test_what_the_manifest_asks_stands_over_what_the_metadata_says() -> None:
    made = rule(disposal={"delete": "always", "ttl_s": 2000})
    made.overrides = {"delete": "never", "ttl_s": 9000.0}
    assert made.why("completed", 1000.0 + 5000.0) == ""
    assert not made.outlived(6000.0)
    made.made = {"delete": "always", "keep_s": 0.0, "ttl_s": 3000.0}  # asked of the service again
    assert made.why("completed", 1000.0 + 5000.0) == ""
    made.overrides = {}
    assert made.why("completed", 1000.0 + 5000.0) == "its ttl is past"


@pytest.mark.parametrize(
    ("found", "meant"),
    [
        ({}, {}),
        ({"delete": "never", "keep_s": 60, "ttl_s": None}, {"delete": "never", "keep_s": 60.0, "ttl_s": None}),
        ({"keep_s": None, "ttl_s": "3600"}, {"keep_s": 0.0, "ttl_s": 3600.0}),  # as the reconciler reads it
        ({"delete": "always", "keep_s": "soon"}, None),
        ({"ttl_s": [1]}, None),
        ({"ttl_s": float("nan")}, None),
        ({"keep_s": float("inf")}, None),
        ({"keep_s": 10**400}, None),
        ({"delete": "maybe"}, None),
        ({"delete": ["always"]}, None),
        ([], None),
        ("never", None),
    ],
)
def test_what_cannot_be_read_says_nothing(found: Any, meant: Any) -> None:
    assert disposal_of(found) == meant


def test_life_begins_the_waiting_anew_and_keeps_it_whatever_its_age() -> None:
    made = rule(disposal={"ttl_s": 60})
    made.see(True, True, 1500.0)
    assert made.outlived(1e9)
    assert made.why("completed", 1e9) == ""
    made = rule()
    made.see(True, True, 1899.0)
    made.see(False, True, 1900.0)
    assert made.why("completed", 2799.0) == ""
    assert made.why("completed", 2800.0)


def test_without_a_run_it_waits_for_one_as_long_as_a_vm_may_take() -> None:
    made = Rule(DUE, 0.0)
    made.see(False, False, 0.0)
    assert made.why("", 1499.0) == ""
    assert made.why("", 1500.0) == "no run began on it"


def test_what_lives_on_the_machine_keeps_the_vm(host: Host) -> None:
    run = host.run("train", shell="true")
    document = {"run_id": run["run_id"], "status_dirs": [run["status_dir"]], "status_roots": [str(host.status)]}
    assert look(document, settled=False) == (False, False, "")
    host.start(run)
    host.wait_final(run)
    while host.see(run)["alive"]:
        pass
    assert look(document, settled=True) == (False, True, "completed")
    other = host.run("other", shell="sleep 60")  # a newer run on the same VM
    host.start(other)
    assert look(document, settled=True) == (True, True, "completed")
    host.cancel(other, grace_s=0)
    host.wait_final(other)
    while host.see(other)["alive"]:
        pass
    assert look(document, settled=True) == (False, True, "completed")


def test_what_cannot_be_read_is_no_end(host: Host) -> None:
    run = host.run("train", shell="true")
    document = {"run_id": run["run_id"], "status_dirs": [run["status_dir"]], "status_roots": [str(host.status)]}
    host.start(run)
    host.wait_final(run)
    os.rename(host.status, f"{host.status}-away")  # a file system that is not mounted
    assert look(document, settled=True)[0]
    (host.status).write_text("")
    assert look(document, settled=False)[0]
