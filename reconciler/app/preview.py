"""What exactly would be sent to a host for one job: `plan --show`. Nothing is sent."""

from __future__ import annotations

from dataclasses import replace

from reconciler.app.converge import Pass, Reconciler
from reconciler.core.actions import Start
from reconciler.core.errors import ReconcilerError
from reconciler.core.job import Json
from reconciler.core.names import JobKey, run_id
from reconciler.core.protocols import Facts, Tree
from reconciler.core.run import Run


def preview(reconciler: Reconciler, seen: Pass, job: JobKey) -> dict[str, Json]:
    """The submission of the job's planned start; of its live run when it has one. Secrets are named, never resolved.

    Raises ReconcilerError when the plan starts nothing for this job.
    """
    ports = reconciler.ports
    action = next((item for item in seen.plan.actions if item.job == job and isinstance(item.effect, Start)), None)
    memory = seen.world.memories.get(job)
    if action is None or not isinstance(action.effect, Start):
        if memory is None or memory.run is None:
            raise ReconcilerError(f"The plan starts nothing for {job}", hint=f"reconciler explain {job} tells why.")
        run, chip = memory.run, None
    elif action.effect.again is not None:
        run, chip = action.effect.again, None
    else:
        placement = action.effect.placement
        assert placement is not None
        wanted = seen.world.desired[job]
        run = Run(
            job=job,
            run_id=run_id(job, wanted.digest, action.effect.attempt),
            attempt=action.effect.attempt,
            token="made-at-launch",  # noqa: S106  a note, not a token
            digest=wanted.digest,
            spec_digest=wanted.spec_digest,
            generation=wanted.generation,
            host=placement.host,
            owner=ports.owner,
            gpus=placement.gpus,
            commit=action.effect.pin,
            dirty=False,
            spent={},
            normal=wanted.normal,
            place=placement.place,
        )
        chip = placement.chip
    spec = ports.decode(run.normal)
    tree = None if spec.source is None else Tree(object="(sent at launch)", sha256="(known when packed)")
    submission = ports.backends(run.host).render(run, Facts(spec, tree, {}, chip))
    body = dict(submission.body)
    body["secrets"] = {name: f"(from {ref.kind})" for name, ref in replace(spec).secrets.items()}
    return body
