"""What is not waited for without end counts from when it was first seen, whichever process looks, and anew when it changes."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.actions import Stop
from reconciler.core.cause import Cause
from reconciler.core.memory import Launching, Memory, Noticed, fold
from reconciler.core.observation import Census, Observation, Patience, Presence, Sighting
from reconciler.core.plan import Plan, World, plan
from reconciler.core.queue import QueueJob, QueueState
from reconciler.core.solve import HostView
from reconciler.load.normal import decode
from reconciler.store.codec import dump_memory, load_memory
from tests.worlds import NOW, OWNER, job, live_memory, run_of

WANTED = job()


def seen(memory: Memory, patience: Patience | None) -> Sighting:
    assert memory.run is not None
    queue = QueueJob("j", "j", "", QueueState.WAITING, "Pending", reason="r", sentence="s")
    return Sighting(
        memory.run.run_id,
        Presence.PRESENT,
        alive=True,
        handle=memory.handle,
        run=memory.run,
        queue=queue,
        patience=patience,
    )


def look(memory: Memory, patience: Patience | None, now: float) -> tuple[Memory, Plan]:
    """One pass; what it remembers goes through the store's form, as between processes."""
    assert memory.run is not None
    host = memory.run.host
    made = plan(
        World(
            desired={WANTED.key: WANTED},
            frozen={},
            complete=True,
            memories={WANTED.key: memory},
            observation=Observation(
                {host: Census(host, True, {memory.run.run_id: seen(memory, patience)}, scanned=True)}
            ),
            hosts=(HostView(host, "plain", "lab", {}),),
            owner=OWNER,
            now=now,
            decode=decode,
            chip_of=lambda _: None,
        )
    )
    for _, line in made.lines:
        memory = fold(memory, line, now)
    return load_memory(memory.job, dump_memory(memory)), made


def stops(made: Plan) -> list[Cause]:
    return [action.effect.cause for action in made.actions if isinstance(action.effect, Stop)]


IMAGE = Patience("ImagePull", 600.0, Cause.REFUSED, "no such image")
START = Patience("Starting", 600.0, Cause.INFRASTRUCTURE, "the node prepares it")


def test_time_counts_from_when_the_reason_was_first_seen_not_from_the_launch() -> None:
    memory = replace(live_memory(run_of(WANTED)), run_at=NOW - 100_000.0)
    memory, made = look(memory, IMAGE, NOW)
    assert (stops(made), memory.concern) == ([], ("ImagePull", NOW))
    memory, made = look(memory, IMAGE, NOW + 600.0)
    assert stops(made) == []
    memory, made = look(memory, IMAGE, NOW + 601.0)
    assert stops(made) == [Cause.REFUSED]


def test_another_reason_counts_anew_and_none_is_forgotten() -> None:
    memory, _ = look(live_memory(run_of(WANTED)), IMAGE, NOW)
    memory, _ = look(memory, START, NOW + 500.0)
    assert memory.concern == ("Starting", NOW + 500.0)
    memory, made = look(memory, START, NOW + 1000.0)
    assert stops(made) == []
    memory, _ = look(memory, None, NOW + 1010.0)
    assert memory.concern is None
    memory, made = look(memory, START, NOW + 2000.0)
    assert (stops(made), memory.concern) == ([], ("Starting", NOW + 2000.0))


def test_a_reason_that_stays_writes_nothing_more() -> None:
    memory, made = look(live_memory(run_of(WANTED)), IMAGE, NOW)
    assert [type(line) for _, line in made.lines] == [Noticed]
    _, made = look(memory, IMAGE, NOW + 5.0)
    assert list(made.lines) == []


def test_a_new_attempt_begins_without_a_concern() -> None:
    memory, _ = look(live_memory(run_of(WANTED)), IMAGE, NOW)

    assert fold(memory, Launching(run_of(WANTED, attempt=2), True), NOW + 1.0).concern is None
