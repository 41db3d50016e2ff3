"""What a TPU VM carries of ours: whose it is, for which run it was made, and when it is to be deleted. Pure.

Labels are what listings are searched for; metadata has room for the rest. The whole run is among it, so that a lost state is
rebuilt from the VMs themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from reconciler.core.machine import DeleteOn, Disposal, Machine
from reconciler.core.run import Run, run_from_json
from reconciler.core.tpu import (
    RequestState,
    TpuNode,
    TpuRequest,
    TpuState,
    health_sentence,
    label_value,
    request_sentence_of,
    sentence_of,
)

OWNER, RUN = "reconciler-owner", "reconciler-run"
DISPOSAL, PRICE = "reconciler-disposal", "reconciler-price"


def labels_of(run: Run) -> dict[str, str]:
    """The labels of the VM of a run."""
    return {OWNER: label_value(run.owner), RUN: label_value(run.run_id)}


def metadata_of(run: Run, disposal: Disposal, price_per_hour: float | None) -> dict[str, str]:
    """The metadata of the VM of a run, without keys and the user's own."""
    kept = {"delete": disposal.delete.value, "keep_s": disposal.keep_s, "ttl_s": disposal.ttl_s}
    found = {RUN: json.dumps(run.to_json()), DISPOSAL: json.dumps(kept)}
    if price_per_hour is not None:
        found[PRICE] = repr(price_per_hour)
    return found


def run_of(node: TpuNode | TpuRequest) -> Run | None:
    """The run that a VM was or will be made for; None where it does not tell, or tells another than its label."""
    try:
        run = run_from_json(json.loads(node.metadata[RUN]))
    except (KeyError, TypeError, ValueError):
        return None
    return run if labels_of(run).items() <= node.labels.items() else None


def is_of(labels: Mapping[str, str], run: Run) -> bool:
    """Do these labels say that the thing was made for this very run?"""
    return labels_of(run).items() <= labels.items()


def is_anothers(thing: TpuNode | TpuRequest | None, run: Run) -> bool:
    """Does its metadata tell of another attempt to make this very run, by somebody with a state of their own?"""
    made_for = run_of(thing) if thing is not None else None
    return made_for is not None and (made_for.run_id, made_for.token) != (run.run_id, run.token)


def machine_of(node: TpuNode, run: Run, *, wait_s: float | None) -> Machine:
    """The VM as the plan sees it."""
    plain = node.state in (TpuState.COMING, TpuState.READY, TpuState.GOING)
    words = node.word if plain else f"{node.word} ({sentence_of(node.word)})"
    health = health_sentence(node.health)
    words += f" ({health})" if health and node.state is TpuState.READY else ""
    return Machine(
        name=node.name,
        zone=node.zone,
        ident=node.ident,
        job=run.job,
        run_id=run.run_id,
        owner=run.owner,
        words=words,
        ready=node.state is TpuState.READY and bool(node.endpoints),
        going=node.state is TpuState.GOING,
        dead=node.state is TpuState.LOST,
        created_at=_moment(node.created),
        wait_s=wait_s,
        # A request may have waited for hours: what its VM may take counts from when it came.
        waits_from=_moment(node.created) if node.request else 0.0,
        price_per_hour=_price(node.metadata),
        disposal=_disposal(node.metadata),
        request=node.request,
    )


def waiting_machine(request: TpuRequest, run: Run, *, wait_s: float | None) -> Machine:
    """A queued resource that has no VM, as the plan sees it."""
    return Machine(
        name=request.name,
        zone=request.zone,
        ident="",
        job=run.job,
        run_id=run.run_id,
        owner=run.owner,
        words=f"{request.word} ({request_sentence_of(request.word)}{': ' + request.error if request.error else ''})",
        going=request.state is RequestState.GOING,
        price_per_hour=_price(request.metadata),
        disposal=_disposal(request.metadata),
        dead=request.state in (RequestState.SUSPENDED, RequestState.FAILED),
        wait_s=wait_s,
        request=request.name,
    )


def _disposal(metadata: Mapping[str, str]) -> Disposal:
    """Metadata that cannot be read keeps nothing: a VM that nobody deletes costs more than one deleted early."""
    try:
        kept = json.loads(metadata[DISPOSAL])
        ttl_s = kept.get("ttl_s")
        return Disposal(
            DeleteOn(kept.get("delete", "always")),
            float(kept.get("keep_s") or 0.0),
            None if ttl_s is None else float(ttl_s),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return Disposal()


def _price(metadata: Mapping[str, str]) -> float | None:
    try:
        return float(metadata[PRICE])
    except (KeyError, ValueError):
        return None


def _moment(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time, 0 for none."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0
