"""Small worlds for tests of the pure core: jobs, runs and sightings by their few telling fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from reconciler.core.cause import Cause
from reconciler.core.errors import Problem
from reconciler.core.job import Desired
from reconciler.core.memory import Ended, Launched, Launching, Line, Memory, fold
from reconciler.core.names import JobKey, run_id
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
from reconciler.core.phase import Phase
from reconciler.core.plan import Plan, World, plan
from reconciler.core.run import Handle, Run
from reconciler.core.solve import HostView
from reconciler.load.documents import load_documents
from reconciler.load.normal import decode

OWNER = "owner"
NOW = 1_000_000.0


def job(name: str = "a", *, spec: Mapping[str, Any] | None = None, **more: Any) -> Desired:
    """A desired job, through the real loader."""
    import yaml

    body: dict[str, Any] = {"command": ["true"], "source": None, **(spec or {}), **more}
    document = {"apiVersion": "reconciler/v1", "kind": "Job", "metadata": {"name": name}, "spec": body}
    loaded = load_documents([(f"{name}.yaml", yaml.safe_dump(document).encode())])
    assert not loaded.problems, loaded.problems
    return loaded.desired[0]


def key(name: str = "a") -> JobKey:
    return JobKey("general", "default", name)


def run_of(
    wanted: Desired, *, attempt: int = 1, host: str = "ws", owner: str = OWNER, gpus: tuple[str, ...] = ()
) -> Run:
    return Run(
        job=wanted.key,
        run_id=run_id(wanted.key, wanted.digest, attempt),
        attempt=attempt,
        token=f"token-{attempt}",
        digest=wanted.digest,
        spec_digest=wanted.spec_digest,
        generation=wanted.generation,
        host=host,
        owner=owner,
        gpus=gpus,
        commit=None,
        dirty=False,
        spent={},
        normal=wanted.normal,
    )


def handle_of(run: Run, *, boot: str = "boot-1") -> Handle:
    return Handle(run.run_id, run.token, {"pid": 4711, "boot_id": boot})


def remember(*lines: Line, job: JobKey, at: float = NOW - 100) -> Memory:
    memory = Memory(job)
    for line in lines:
        memory = fold(memory, line, at)
    return memory


def live_memory(run: Run) -> Memory:
    """Memory of a run that was launched and settled."""
    return remember(Launching(run, False), Launched(run.run_id, handle_of(run)), job=run.job)


def unsettled_memory(run: Run, *, at: float = NOW - 100) -> Memory:
    """Memory of a run whose launch was never answered."""
    return remember(Launching(run, False), job=run.job, at=at)


def finished_memory(run: Run, phase: Phase = Phase.SUCCEEDED, cause: Cause | None = None) -> Memory:
    ended = Ended(run.run_id, phase, cause, 0, "finished", requeue=False, lasted=True, not_before=0.0)
    return fold(live_memory(run), ended, NOW - 50)


def seen(
    run: Run,
    status: ReportStatus | None = ReportStatus.RUNNING,
    *,
    alive: bool = True,
    boot: str = "boot-1",
    stopping: str = "",
    supervised: bool = True,
    step: int | None = None,
    **report: Any,
) -> Sighting:
    said = None
    if status is not None:
        progress = None if step is None else Progress(step)
        said = Report(status, seq=report.pop("seq", 3), progress=progress, **report)
    return Sighting(
        run.run_id,
        Presence.PRESENT,
        alive=alive,
        supervised=supervised,
        stopping=stopping,
        handle=handle_of(run, boot=boot),
        run=run,
        report=said,
        boot_id=boot,
    )


def gpus(count: int, *, busy: Mapping[int, int] | None = None, name: str = "NVIDIA H100 80GB HBM3") -> tuple[Gpu, ...]:
    return tuple(Gpu(f"GPU-{n}", n, name, 81559, (busy or {}).get(n, 4)) for n in range(count))


def census(
    *sightings: Sighting,
    host: str = "ws",
    complete: bool = True,
    error: str = "",
    gpus: tuple[Gpu, ...] | None = None,
    cpus: int = 4,
    capacity: bool = True,
    boot: str = "boot-1",
) -> Census:
    return Census(
        host,
        complete,
        {item.run_id: item for item in sightings},
        Capacity(cpus, gpus) if capacity and complete else None,
        scanned=complete,
        boot_id=boot,
        error=error or ("" if complete else "connection refused"),
    )


HOST = HostView("ws", "plain", "lab", {}, slots=4)


def world(
    desired: Iterable[Desired] = (),
    memories: Iterable[Memory] = (),
    censuses: Iterable[Census] | None = None,
    *,
    hosts: tuple[HostView, ...] = (HOST,),
    frozen: Iterable[JobKey] = (),
    **more: Any,
) -> World:
    from reconciler.app.wiring import chip_of

    made = World(
        desired={item.key: item for item in desired},
        frozen={item: Problem(f"{item.name}.yaml", 3, "broken") for item in frozen},
        complete=True,
        memories={item.job: item for item in memories},
        observation=Observation({item.host: item for item in (censuses if censuses is not None else [census()])}),
        hosts=hosts,
        owner=OWNER,
        now=NOW,
        decode=decode,
        chip_of=chip_of,
    )
    return replace(made, **more)


def planned(*arguments: Any, **more: Any) -> Plan:
    return plan(world(*arguments, **more))


def words(made: Plan) -> list[str]:
    """`verb name reason` of each action: what a test compares."""
    return [f"{action.verb.value} {action.job.name} {action.reason}" for action in made.actions]


def phase_of(made: Plan, name: str = "a") -> str:
    [view] = [view for view in made.views if view.job.name == name]
    return f"{view.phase.value} {view.reason}"
