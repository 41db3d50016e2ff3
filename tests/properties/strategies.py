"""Worlds for plan(): few jobs and hosts, so that everything meets everything.

A world is made of choices (`Dice`). Hypothesis throws the dice where a failure should shrink; a seeded generator throws them
twenty times as fast where many worlds should be seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, TypeVar

from hypothesis import strategies as st

from reconciler.app.wiring import chip_of
from reconciler.backends.batch_sight import ended_report, lives
from reconciler.core.cause import Cause
from reconciler.core.errors import Problem
from reconciler.core.job import Desired
from reconciler.core.loops import Series
from reconciler.core.memory import (
    Adopted,
    Deferred,
    Edited,
    Ended,
    Forgotten,
    Launched,
    Launching,
    Line,
    Memory,
    Refused,
    Requested,
    Stopped,
    Stopping,
    Unsettled,
    fold,
)
from reconciler.core.names import JobKey
from reconciler.core.observation import (
    Capacity,
    Census,
    Gpu,
    Observation,
    Presence,
    Progress,
    Report,
    ReportStatus,
    Sighting,
)
from reconciler.core.partitions import PartitionWish, QueueView
from reconciler.core.phase import Phase
from reconciler.core.plan import World
from reconciler.core.queue import QueueCapacity, QueueJob, QueueNode, QueuePartition, QueueState
from reconciler.core.run import Handle, Run
from reconciler.core.solve import HostView
from reconciler.load.normal import decode
from tests.worlds import NOW, OWNER, handle_of, job, key, run_of

T = TypeVar("T")

NAMES = ("a", "b", "c", "d")
KEYS = tuple(map(key, NAMES))
HOSTS = ("h1", "h2")
QUEUE = "q1"
MACHINES = ("n1", "n2", "n3")
GPUS = tuple(f"GPU-{n}" for n in range(4))
SPECS: tuple[dict[str, Any], ...] = (
    {},
    {"command": ["false"]},
    {"generation": 2},
    {"priority": 5},
    {"suspend": True},
    {"on_change": "hold", "command": ["sleep", "1"]},
    {"deletion": "orphan"},
    {"request": {"min_chips": 1}},
    {"request": {"chip": "h100", "min_chips": 2}},
    {"request": {"chip": "a100-sxm4-80gb", "min_chips": 1}},
    {"request": {"hosts": ["h2"]}},
    {"restart": {"failure": 0, "infrastructure": 0, "preemption": 0}},
    {"depends_on": ["general/default/a"]},
    {"depends_on": ["general/default/b", "general/default/missing"]},
    {"request": {"chip": "h100", "min_chips": 3, "time": "2h"}},
    {"request": {"min_chips": 4, "hosts": [QUEUE]}, "priority": 1},
    {"request": {"chip": "h100", "min_chips": 2, "hosts": [QUEUE]}},
    {"request": {"hosts": [QUEUE], "time": "30m"}, "restart": {"cancelled": 1, "owner": "slurm"}},
    {"request": {"min_chips": 1}, "slurm": {"partition": "long", "account": "team"}},
    {"request": {"min_chips": 1, "hosts": [QUEUE]}, "slurm": {"partition": "gpu,long"}},
    {"request": {"min_chips": 3, "hosts": [QUEUE]}, "slurm": {"nodes": 2}},
    {"request": {"chip": "h100", "min_chips": 3, "hosts": [QUEUE]}, "slurm": {"nodes": 2}},
    {"request": {"min_chips": 1, "hosts": [QUEUE]}, "slurm": {"partition": "nowhere"}},
)
QUEUED = tuple(
    number
    for number, spec in enumerate(SPECS)
    if QUEUE in spec.get("request", {}).get("hosts", ()) or spec.get("request", {}).get("min_chips")
)
SHAPES: tuple[dict[str, Any], ...] = (
    {"partition": "gpu", "constraint": None, "nodes": 1, "gpus_per_node": 2, "gpu_type": "h100", "time_s": 3600},
    {"partition": "long", "constraint": None, "nodes": 1, "gpus_per_node": 0, "gpu_type": "", "time_s": None},
)
# (word, what it means, why it ended, may Slurm start it again)
STATES: tuple[tuple[str, QueueState, Cause | None, bool], ...] = (
    ("PENDING", QueueState.WAITING, None, False),
    ("RUNNING", QueueState.RUNNING, None, False),
    ("NEWWORD", QueueState.UNKNOWN, None, False),
    ("PREEMPTED", QueueState.ENDED, Cause.PREEMPTION, True),
    ("NODE_FAIL", QueueState.ENDED, Cause.INFRASTRUCTURE, True),
    ("CANCELLED", QueueState.ENDED, Cause.CANCELLED, False),
    ("TIMEOUT", QueueState.ENDED, Cause.TIMEOUT, False),
    ("FAILED", QueueState.ENDED, None, False),
    ("COMPLETED", QueueState.ENDED, None, False),
)
TIMES = (0.0, NOW - 5000.0, NOW - 61.0, NOW - 59.0, NOW - 10.0, NOW, NOW + 30.0)
TEXTS = ("", "words", "two\nlines", "ä '\"$(x)")
CAUSES = tuple(Cause)
ENDS = (
    (Phase.SUCCEEDED, None),
    (Phase.FAILED, Cause.FAILURE),
    (Phase.PENDING, Cause.FAILURE),
    (Phase.LOST, Cause.INFRASTRUCTURE),
    (Phase.PREEMPTED, Cause.PREEMPTION),
    (Phase.CANCELLED, Cause.CANCELLED),
    (Phase.SUSPENDED, Cause.SUSPENDED),
    (Phase.PENDING, Cause.REPLACED),
)
PRODUCTS = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "Weird")


SERIES = (
    None,
    Series("failure 7", 1),
    Series("infrastructure it's gone", 4, 3, None),
    Series("failure 7", 5, None, 12, stalled=True),
    Series("", 0, 100, 100),
)


class Dice:
    """Choices, made by `throw(n)`: a number from 0 to n - 1, the simplest first."""

    def __init__(self, throw: Callable[[int], int]) -> None:
        self._throw = throw

    def pick(self, *options: T) -> T:
        return options[self._throw(len(options))]

    def one_of(self, options: Sequence[T]) -> T:
        return options[self._throw(len(options))]

    def number(self, low: int, high: int) -> int:
        return low + self._throw(high - low + 1)

    def once_in(self, times: int) -> bool:
        return self._throw(times) == times - 1

    def some(self, options: Sequence[T], count_max: int) -> tuple[T, ...]:
        """Different ones, in their order."""
        wanted = self.number(0, min(count_max, len(options)))
        start = self._throw(len(options))
        return tuple(options[(start + n) % len(options)] for n in range(wanted))


@lru_cache(maxsize=64)
def _below(count: int) -> st.SearchStrategy[int]:
    return st.integers(0, count - 1)


def thrown(build: Callable[[Dice], T]) -> st.SearchStrategy[T]:
    """What `build` makes, as a strategy that shrinks."""

    @st.composite
    def drawn(draw: st.DrawFn) -> T:
        return build(Dice(lambda count: draw(_below(count)) if count > 1 else 0))

    return drawn()


def seeded(seed: int) -> Dice:
    rng = random.Random(seed)
    return Dice(lambda count: int(rng.random() * count))


@cache
def wanted(name: str, number: int) -> Desired:
    spec = SPECS[number]
    if key(name) in map(JobKey.parse, spec.get("depends_on", ())):
        spec = {"depends_on": ["general/default/c"]}
    return job(name, spec=spec)


def make_run(dice: Dice, name: str, *, owner: str = OWNER, host: str | None = None, attempt: int | None = None) -> Run:
    where = host or dice.one_of((*HOSTS, QUEUE))
    made = run_of(
        wanted(name, dice.number(0, len(SPECS) - 1)),
        attempt=attempt or dice.number(1, 3),
        host=where,
        owner=owner,
        gpus=dice.some(GPUS, 2),
    )
    return replace(
        made,
        # A token is one run's on one host.
        token=f"{made.token}-{made.host}" + dice.pick("", "", "", "-other"),
        gpus=None if where == QUEUE else dice.pick(made.gpus, made.gpus, None),
        spent=dice.pick({}, {"failure": 2}),
        place=dice.one_of(SHAPES) if where == QUEUE else dice.pick({}, {"zone": "z-a"}),
    )


def settled_handle(run: Run) -> Handle:
    """What the host answered when it took the run."""
    return Handle(run.run_id, run.token, {"job": "77"}) if run.host == QUEUE else handle_of(run)


def make_line(dice: Dice, name: str = "a") -> Line:
    """Any line, about any run of the job."""
    run = make_run(dice, name)
    makers: tuple[Callable[[], Line], ...] = (
        lambda: Launching(run, dice.pick(False, True), dice.pick(None, 0.0, 12.5)),
        lambda: Launched(run.run_id, settled_handle(run), dice.pick(False, True)),
        lambda: Refused(run.run_id, dice.one_of(TEXTS), dice.one_of(TIMES), dice.pick(None, *CAUSES), dice.once_in(3)),
        lambda: Deferred(dice.one_of(TEXTS), dice.one_of(TIMES)),
        lambda: Unsettled(run.run_id, dice.one_of(TEXTS)),
        lambda: Stopping(run.run_id, dice.one_of(CAUSES), dice.pick(False, True)),
        lambda: Stopped(run.run_id, dice.one_of(TEXTS)),
        lambda: Ended(
            run.run_id,
            dice.one_of(tuple(Phase)),
            dice.pick(None, *CAUSES),
            dice.pick(None, 0, 143),
            dice.one_of(TEXTS),
            requeue=dice.pick(False, True),
            lasted=dice.pick(False, True),
            not_before=dice.one_of(TIMES),
            series=dice.one_of(SERIES),
            blamed=dice.once_in(3),
        ),
        lambda: Adopted(run, dice.pick(None, settled_handle(run))),
        lambda: Edited(run.run_id, run),
        lambda: Requested(dice.pick("cancel", "suspend", "resume"), dice.one_of(TEXTS)),
        lambda: Forgotten(dice.one_of(TEXTS)),
    )
    return dice.one_of(makers)()


def make_memory(dice: Dice, name: str) -> Memory:
    """A memory that a journal can lead to: the fold of one or two lives of a run, cut off anywhere."""
    memory = Memory(key(name))
    for _ in range(dice.number(1, 2)):
        run = make_run(dice, name, attempt=memory.attempt + 1)
        phase, cause = dice.one_of(ENDS)
        requeue = cause in (Cause.FAILURE, Cause.INFRASTRUCTURE, Cause.PREEMPTION) and phase is not Phase.FAILED
        life: list[Line] = [Launching(run, False), Launched(run.run_id, settled_handle(run))]
        if dice.once_in(3):
            life.append(Stopping(run.run_id, dice.pick(Cause.REPLACED, Cause.DELETED, Cause.SUSPENDED), False))
        life.append(
            Ended(
                run.run_id,
                phase,
                cause,
                0,
                "over",
                requeue=requeue,
                lasted=True,
                not_before=dice.one_of(TIMES),
                series=dice.one_of(SERIES) if dice.once_in(3) else None,
                blamed=cause is Cause.INFRASTRUCTURE,
            )
        )
        if dice.once_in(10):
            life = [life[0], Refused(run.run_id, "no room", dice.one_of(TIMES))]
        for line in life[: dice.number(1, len(life))]:
            memory = fold(memory, line, dice.one_of(TIMES))
        if memory.run is not None:
            break
    if dice.once_in(5):
        memory = fold(memory, Requested(dice.pick("cancel", "suspend", "resume"), "by hand"), NOW - 1)
    if dice.once_in(20):
        memory = fold(memory, Forgotten("by hand"), NOW - 1)
    return memory


def make_report(dice: Dice) -> Report:
    return Report(
        dice.one_of(tuple(ReportStatus)),
        seq=dice.number(0, 9),
        cause=dice.pick(None, *CAUSES),
        exit_code=dice.pick(None, 0, 143),
        message=dice.one_of(TEXTS),
        progress=dice.pick(None, Progress(3)),
    )


def make_sighting(dice: Dice, run: Run) -> Sighting:
    if dice.once_in(6):
        presence = dice.pick(Presence.ABSENT, Presence.UNKNOWN)
        return Sighting(run.run_id, presence, error="cannot be read" if presence is Presence.UNKNOWN else "")
    if dice.once_in(20):
        run = replace(run, token=f"{run.token}-other", owner=dice.pick(run.owner, "somebody else"))
    if run.host == QUEUE:
        return make_queued(dice, run)
    handle = handle_of(run, boot=dice.pick("boot-1", "boot-2"))
    return Sighting(
        run.run_id,
        Presence.PRESENT,
        alive=dice.pick(False, True),
        supervised=dice.pick(True, False),
        stopping=dice.pick("", "replaced"),
        handle=dice.pick(handle, handle, handle, None),
        run=dice.pick(run, run, run, None),
        report=make_report(dice) if dice.once_in(2) else None,
        boot_id="boot-1",
    )


def make_queued(dice: Dice, run: Run) -> Sighting:
    """As the batch backend judges it: what the queue says of the run's job, if it lists it, beside the run's own record."""
    word, state, cause, revivable = dice.one_of(STATES)
    listed = not dice.once_in(6)
    job = QueueJob(
        "77",
        run.run_id,
        dice.pick(f"reconciler:{run.token}", ""),
        state,
        word,
        cause,
        exit_code=1 if word == "FAILED" else None,
        revivable=revivable,
        partition="gpu",
        reason=dice.pick("", "Priority"),
        sentence=dice.one_of(TEXTS),
        held=dice.pick(False, True),
        starts_at=dice.pick("", "2026-11-26T09:00:00"),
    )
    seen = job if listed else None
    alive = lives(seen, theirs=dice.once_in(2))
    record = make_report(dice) if dice.once_in(2) else None
    return Sighting(
        run.run_id,
        Presence.PRESENT,
        alive=alive,
        stopping=dice.pick("", "", "replaced"),
        handle=Handle(run.run_id, run.token, {"job": "77"}),
        run=dice.pick(run, run, run, None),
        report=record if alive else ended_report(run, record, seen, "slurm"),
        queue=seen,
        twins=dice.pick((), (), ("78",), ("76", "78")) if alive else (),
    )


def make_queue(dice: Dice) -> QueueCapacity:
    """Three machines in up to three partitions, some down, full, small, closed to us, or of another kind."""
    nodes = {}
    for name in MACHINES:
        total = dice.pick(4, 2, 2, 1, 0)
        kinds = dice.pick(
            {"h100": total}, {"h100": total}, {"a100": total}, {"": total}, {"h100": total, "a100": 1}, {}
        )
        used = {kind: dice.number(0, count + 1) for kind, count in kinds.items()} if dice.once_in(2) else {}
        nodes[name] = QueueNode(name, not dice.once_in(5), "IDLE", kinds, used, cpus=8)
    partitions = {
        name: QueuePartition(
            name,
            not dice.once_in(6),
            dice.pick(MACHINES, MACHINES, MACHINES[:2], MACHINES[1:], (*MACHINES, "gone"), ()),
            default=name == "gpu",
            time_max_s=dice.pick(None, 1200, 3600, 86_400),
            nodes_max=dice.pick(None, None, None, 1),
            accounts=dice.pick(None, None, frozenset({"team"}), frozenset()),
        )
        for name in ("gpu", "long", "cpu")
        if not dice.once_in(6)
    }
    return QueueCapacity(partitions, nodes)


def make_queue_view(dice: Dice) -> HostView:
    wishes = (
        (),
        (),
        (PartitionWish("gpu", default=True),),
        (PartitionWish("gpu"), PartitionWish("long", default=True, constraint="big")),
        (PartitionWish("elsewhere"), PartitionWish("gpu")),
    )
    queue = QueueView(
        dice.one_of(wishes),
        dice.pick((), (PartitionWish("cpu"),)),
        types=dice.pick({}, {"h100": "h100"}, {"a100-sxm4-80gb": "a100", "h100": ""}),
        account=dice.pick(None, None, "team"),
        time_s=dice.pick(None, None, 7200),
    )
    chips = dice.pick(None, None, None, {"h100": 3}, {"h100": 8, "a100-sxm4-80gb": 1}, {})
    return HostView(QUEUE, "slurm", "hpc", chips, slots=dice.pick(None, 0), queue=queue)


def make_gpus(dice: Dice) -> tuple[Gpu, ...] | None:
    if dice.once_in(5):
        return None
    return tuple(
        Gpu(GPUS[n], n, dice.pick(PRODUCTS[0], *PRODUCTS), 81559, dice.pick(0, 0, 0, 500))
        for n in range(dice.number(0, len(GPUS)))
    )


def make_census(dice: Dice, host: str, known: Sequence[Run]) -> Census:
    """Complete, broken off with some of the sightings, or nothing at all; with runs that nobody remembers."""
    kind = dice.pick("complete", "complete", "complete", "complete", "partial", "nothing")
    if kind == "nothing":
        return Census(host, complete=False, error="connection refused")
    strangers = [
        make_run(dice, dice.one_of(NAMES), owner=dice.pick(OWNER, OWNER, "somebody else"), host=host)
        for _ in range(dice.pick(0, 0, 1, 2))
    ]
    found = {run.run_id: make_sighting(dice, run) for run in (*strangers, *known) if not dice.once_in(6)}
    complete = kind == "complete"
    if host == QUEUE:
        readable = not dice.once_in(6)
        capacity = Capacity(8, queue=make_queue(dice)) if readable else Capacity(0, error="scontrol gave up")
    else:
        capacity = Capacity(dice.number(0, 4), make_gpus(dice), dice.pick("", "", "", "driver gone"))
    return Census(
        host,
        complete,
        found,
        capacity if (complete or dice.once_in(3)) and not dice.once_in(6) else None,
        scanned=complete and dice.once_in(2),
        boot_id="boot-1",
        error="" if complete else "the answer was broken off",
    )


def _as_launched(memory: Memory) -> Desired | None:
    """The manifest that the open run was launched from."""
    found = (wanted(memory.job.name, number) for number in range(len(SPECS)))
    run = memory.run
    return next(
        (item for item in found if run and (item.digest, item.generation) == (run.digest, run.generation)), None
    )


def make_rush(dice: Dice) -> World:
    """Everybody wants the machines behind one queue at the same time, and nothing is in the way."""
    view = make_queue_view(dice)
    return World(
        desired={key(name): wanted(name, dice.one_of(QUEUED)) for name in NAMES},
        frozen={},
        complete=True,
        memories={},
        observation=Observation({QUEUE: Census(QUEUE, True, capacity=Capacity(8, queue=make_queue(dice)))}),
        hosts=(replace(view, queue=replace(view.queue, account=None, time_s=None)),) if view.queue else (),
        owner=OWNER,
        now=NOW,
        decode=_decode,
        chip_of=chip_of,
    )


def make_disaster(dice: Dice) -> World:
    """Every job has a run on one host or another, and of most of them a complete look shows nothing."""
    made: dict[JobKey, Memory] = {}
    described: dict[JobKey, Desired] = {}
    for name in NAMES:
        item = wanted(name, dice.number(0, len(SPECS) - 1))
        run = replace(run_of(item, host=dice.pick("h1", "h1", "h1", "h2")), gpus=())
        memory = fold(Memory(run.job), Launching(run, False), NOW - 100)
        if not dice.once_in(6):
            memory = fold(memory, Launched(run.run_id, settled_handle(run)), NOW - 99)
        if dice.once_in(6):
            memory = fold(memory, Stopping(run.run_id, dice.pick(Cause.REPLACED, Cause.DELETED)), NOW - 50)
        if dice.once_in(6):
            memory = fold(memory, Requested(dice.pick("cancel", "suspend"), "by hand"), NOW - 1)
        made[run.job] = memory
        if not dice.once_in(4):
            described[run.job] = item if dice.once_in(2) else wanted(name, dice.number(0, len(SPECS) - 1))
    seen = {}
    for host in HOSTS:
        runs = [memory.run for memory in made.values() if memory.run is not None and memory.run.host == host]
        found = {run.run_id: make_sighting(dice, run) for run in runs if dice.once_in(4)}
        boot = dice.pick("boot-1", "boot-1", "boot-1", "boot-2")
        strangers = [make_run(dice, dice.one_of(NAMES), host=host)] if dice.once_in(4) else []
        found |= {run.run_id: make_sighting(dice, run) for run in strangers}
        seen[host] = Census(host, not dice.once_in(8), found, Capacity(4), boot_id=boot, error="")
    return World(
        desired=described,
        frozen={},
        complete=not dice.once_in(6),
        memories=made,
        observation=Observation(seen),
        hosts=tuple(HostView(host, "plain", "lab", {}, slots=9) for host in HOSTS),
        owner=OWNER,
        now=NOW,
        decode=_decode,
        chip_of=chip_of,
        only=dice.pick(None, None, None, frozenset(KEYS[:2])),
        lost=dice.pick(frozenset(), frozenset(), frozenset(), frozenset({"h1"})),
    )


def make_world(dice: Dice) -> World:
    if dice.once_in(12):
        return make_rush(dice)
    if dice.once_in(8):
        return make_disaster(dice)
    remembered = {key(name): make_memory(dice, name) for name in NAMES if dice.once_in(2)}
    described: dict[JobKey, Desired] = {}
    for name in NAMES:
        if not dice.once_in(4):
            described[key(name)] = wanted(name, dice.number(0, len(SPECS) - 1))
            memory = remembered.get(key(name))
            same = _as_launched(memory) if memory is not None and dice.once_in(2) else None
            if same is not None:
                described[key(name)] = same
    frozen = {}
    for job_key in KEYS:
        if dice.once_in(12):
            described.pop(job_key, None)
            frozen[job_key] = Problem(f"{job_key.name}.yaml", 3, "broken")
    views, seen = [], {}
    for host in dice.pick((*HOSTS, QUEUE), (QUEUE, *HOSTS)):
        known = [memory.run for memory in remembered.values() if memory.run is not None and memory.run.host == host]
        if host == QUEUE and not dice.once_in(10):
            views.append(make_queue_view(dice))
        elif host != QUEUE and not dice.once_in(10):
            chips = dice.pick(None, {}, {"h100": 2}, {"h100": 4, "a100-sxm4-80gb": 1})
            views.append(
                HostView(host, dice.pick("plain", "plain", "plain", "pbs"), "lab", chips, slots=dice.number(0, 3))
            )
        if not dice.once_in(10):
            seen[host] = make_census(dice, host, known)
    return World(
        desired=described,
        frozen=frozen,
        complete=not dice.once_in(6),
        memories=remembered,
        observation=Observation(seen),
        hosts=tuple(views),
        owner=OWNER,
        now=NOW,
        decode=_decode,
        chip_of=chip_of,
        unscanned=dice.pick((), (), (), (), (), ("h1",), (QUEUE,)),
        delete_allowed=dice.pick(None, None, 1),
        only=dice.pick(None, None, None, None, frozenset(KEYS[:2])),
        breaks=dice.pick({}, {}, {"h1": (NOW - 400, NOW - 200, NOW - 1)}),
        trusted=dice.pick(frozenset(), frozenset(), frozenset({"h1"})),
    )


_DECODED: dict[str, Any] = {}


def _decode(normal: Any) -> Any:
    """decode(), once per document."""
    text = repr(normal)
    if text not in _DECODED:
        _DECODED[text] = decode(normal)
    return _DECODED[text]
