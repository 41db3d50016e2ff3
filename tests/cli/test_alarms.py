"""One line per host, however many of its runs are missing, and once."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.app.converge import COOL_DOWN_S, Options
from reconciler.cli.live import Live
from reconciler.cli.show import show_plan
from reconciler.load.schema import schema
from tests.app.worlds import Desk
from tests.worlds import job, key

# typer asks click for a name that click is to drop.
pytestmark = pytest.mark.filterwarnings("ignore:'click:DeprecationWarning")
JOBS = tuple("abcd")


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path, names=("h1", "h2"))
    made.want(*(job(name, request={"hosts": ["h1"]}) for name in JOBS))
    made.one_pass()
    made.one_pass()
    yield made
    made.close()


def test_a_plan_shows_one_alarm_and_no_line_per_job(desk, capsys):
    from reconciler.cli.plan import exit_code_of

    desk.machines["h1"].unmount()
    seen = desk.reconciler.look()
    show_plan(seen, next_step=None)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert told[0].startswith("! alarm    4 of 4 runs on h1 are gone")
    assert told[1] == "Plan: nothing to do; 0 unchanged, 4 missing."
    assert int(exit_code_of(seen)) == 3


def test_a_plan_of_one_job_counts_the_missing_among_its_own(desk, capsys):
    desk.machines["h1"].unmount()
    desk.reconciler.select(frozenset({key("a")}))
    show_plan(desk.reconciler.look(), next_step=None)
    assert capsys.readouterr().out.splitlines()[-1] == "Plan: nothing to do; 0 unchanged, 1 missing."


def test_the_command_that_applies_a_plan_says_what_was_said_for_it():
    from reconciler.cli.plan import next_step

    given = Options(lost=frozenset({"h2", "h1"}), trusted=frozenset({"h1"}), delete_allowed=3)
    words = "--confirm-lost h1 --confirm-lost h2 --trust-host h1 --confirm-delete 3"
    assert next_step(Path("p.json"), given) == f"reconciler apply p.json {words}"
    assert next_step(None, given) == f"reconciler apply {words}"
    assert next_step(None, Options(approved=True)) == "reconciler apply"


def test_an_alarm_comes_before_changes_on_other_hosts_in_the_exit_code_and_its_document_fits_the_schema(desk):
    import jsonschema

    from reconciler.cli.plan import document, exit_code_of

    desk.machines["h1"].unmount()
    desk.want(job("new"))
    seen = desk.reconciler.look()
    assert [action.host for action in seen.plan.effects] == ["h2"]
    assert int(exit_code_of(seen)) == 3
    written = document(seen, exit_code_of(seen))
    jsonschema.validate(written, schema("plan"))
    assert len(written["alarms"]) == 1


def test_while_one_watches_it_is_said_once_and_its_end_too(desk, capsys):
    live = Live(quiet=False, lines_only=True)
    live.show(desk.reconciler.look())
    capsys.readouterr()
    desk.machines["h1"].unmount()
    for _ in range(3):
        live.show(desk.reconciler.look())
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1
    assert told[0].startswith("! alarm    4 of 4 runs on h1")
    desk.machines["h1"].hidden.clear()
    for _ in range(2):
        live.show(desk.reconciler.look())
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "h1: the alarm is over; its jobs are minded again."
    assert [line.split(":")[0] for line in told[1:]] == [f"general/default/{name}" for name in JOBS]


def test_an_alarm_is_not_over_because_its_host_cannot_be_asked(desk, capsys):
    live = Live(quiet=False, lines_only=True)
    machine = desk.machines["h1"]
    machine.unmount()
    live.show(desk.reconciler.look())
    capsys.readouterr()
    machine.reachable = False
    live.show(desk.reconciler.look())
    machine.reachable = True
    desk.clock.sleep(COOL_DOWN_S + 1)
    live.show(desk.reconciler.look())
    told = capsys.readouterr().out
    assert "alarm" not in told
    machine.hidden.clear()
    live.show(desk.reconciler.look())
    assert "h1: the alarm is over" in capsys.readouterr().out


def test_an_alarm_that_was_told_already_is_not_told_again(desk, capsys):
    desk.machines["h1"].unmount()
    Live(quiet=False, lines_only=True, told=["h1"]).show(desk.reconciler.look())
    assert capsys.readouterr().out == ""
