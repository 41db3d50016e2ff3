"""Slurm's words for the state of a job and for why it waits, with what they mean for us and for people. Pure tables.

Sources: squeue(1) "JOB STATE CODES" and "JOB REASON CODES", sacct(1) "JOB STATE CODES", resource_limits.html, and
slurm_protocol_defs.c (job_reason_string) of 20.11 to 25.11.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconciler.core.cause import Cause
from reconciler.core.queue import QueueState

WAITING, RUNNING, ENDED, UNKNOWN = QueueState.WAITING, QueueState.RUNNING, QueueState.ENDED, QueueState.UNKNOWN


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one state word means. `revivable`: Slurm itself may start it again. `{id}` in a sentence is the job's id."""

    state: QueueState
    sentence: str
    cause: Cause | None = None
    revivable: bool = False
    held: bool = False


_RELEASE = "let it go with `scontrol release {id}`"

# squeue and sacct show a flag (COMPLETING, REQUEUED, ...) in place of the base state beneath it.
STATES: dict[str, Meaning] = {
    "PENDING": Meaning(WAITING, "waits in the queue"),
    "REQUEUED": Meaning(WAITING, "is being put back into the queue"),
    "EXPEDITING": Meaning(WAITING, "is being put back into the queue, ahead of the others"),
    "REQUEUE_FED": Meaning(WAITING, "is being put back into the queue by its federation"),
    "REQUEUE_HOLD": Meaning(WAITING, f"was put back into the queue and is held: {_RELEASE}", held=True),
    "SPECIAL_EXIT": Meaning(
        WAITING, f"ended in a way for which this site holds jobs: see why, then {_RELEASE}", held=True
    ),
    "RESV_DEL_HOLD": Meaning(
        WAITING,
        "is held because its reservation was deleted: take the reservation out of it with "
        "`scontrol update jobid={id} reservation=`, then `scontrol release {id}`",
        held=True,
    ),
    "CONFIGURING": Meaning(RUNNING, "has its nodes, which are being made ready"),
    "POWER_UP_NODE": Meaning(RUNNING, "has its nodes, which are being powered up"),
    "RUNNING": Meaning(RUNNING, "runs"),
    "COMPLETING": Meaning(RUNNING, "is ending; some of its processes are still there"),
    "SUSPENDED": Meaning(RUNNING, "is suspended by Slurm; it keeps its memory and goes on later"),
    "STOPPED": Meaning(RUNNING, "is stopped by a signal; it keeps its nodes"),
    "RESIZING": Meaning(RUNNING, "is changing its size"),
    "SIGNALING": Meaning(RUNNING, "is being signalled"),
    "STAGE_OUT": Meaning(RUNNING, "is copying its files out of the burst buffer"),
    "COMPLETED": Meaning(ENDED, "completed"),
    "FAILED": Meaning(ENDED, "ended with an error"),
    "CANCELLED": Meaning(ENDED, "was cancelled", Cause.CANCELLED),
    "TIMEOUT": Meaning(ENDED, "reached its time limit", Cause.TIMEOUT),
    "DEADLINE": Meaning(ENDED, "could not be done before the deadline given with --deadline", Cause.TIMEOUT),
    "PREEMPTED": Meaning(ENDED, "was preempted for a job of higher priority", Cause.PREEMPTION, revivable=True),
    "NODE_FAIL": Meaning(ENDED, "lost one of its nodes", Cause.INFRASTRUCTURE, revivable=True),
    "BOOT_FAIL": Meaning(ENDED, "could not start because a node did not boot", Cause.INFRASTRUCTURE, revivable=True),
    "OUT_OF_MEMORY": Meaning(ENDED, "needed more memory than it was given", Cause.OUT_OF_MEMORY),
    # Known words that prove nothing about whether it runs.
    "REVOKED": Meaning(UNKNOWN, "was started by another cluster of the federation"),
    "LAUNCH_FAILED": Meaning(UNKNOWN, "could not be launched"),
    "RECONFIG_FAIL": Meaning(UNKNOWN, "met a node whose set-up failed"),
    "UPDATE_DB": Meaning(UNKNOWN, "is being written to the accounting"),
    "GETENV_FAILED": Meaning(UNKNOWN, "could not read its user's environment"),
}

FINAL = tuple(word for word, meaning in STATES.items() if meaning.state is ENDED)
LIVE = tuple(word for word, meaning in STATES.items() if meaning.state in (WAITING, RUNNING))

# sacct: "CANCELLED by 1001"; "+" marks a word that was cut to a column.
_WORD = re.compile(r"([A-Z_]+)(?: by (\d+))?\Z")


def meaning(word: str) -> Meaning:
    """What this state word means; UNKNOWN for one that is not in the table."""
    matched = _WORD.match(word)
    known = STATES.get(matched[1]) if matched else None
    if known is None:
        return Meaning(UNKNOWN, f"is in a state that we do not know: {word!r}")
    if matched and matched[2]:
        return Meaning(known.state, f"{known.sentence} by user {matched[2]}", known.cause, known.revivable, known.held)
    return known


@dataclass(frozen=True, slots=True)
class Wait:
    """Why it waits. `held`: it waits for a person."""

    sentence: str
    held: bool = False


_HELD_LAUNCH = Wait(f"its launch failed and Slurm holds it: see the node's slurmd log, then {_RELEASE}", True)
_MAX_REQUEUE = Wait(f"it was put back too often, Slurm holds it: find out why, then {_RELEASE}", True)

REASONS: dict[str, Wait] = {
    "None": Wait("the scheduler has not looked at it yet"),
    "WaitingForScheduling": Wait("the scheduler has not looked at it yet"),
    "SchedDefer": Wait("the scheduler starts jobs in rounds and has not come to it yet"),
    "Priority": Wait("jobs of higher priority are ahead of it"),
    "Resources": Wait("it is next, as soon as enough machines are free"),
    "Dependency": Wait("it waits for the job it depends on"),
    "DependencyNeverSatisfied": Wait(
        "the job it depends on ended otherwise than it asks, so it will never start: end it with `scancel {id}`", True
    ),
    "JobHeldUser": Wait(f"it is held by its user: {_RELEASE}", True),
    "JobHeldAdmin": Wait("it is held by an administrator: ask them to run `scontrol release {id}`", True),
    "BeginTime": Wait("its earliest start has not come; after a requeue Slurm waits about two minutes"),
    "Cleaning": Wait("what is left of its previous run is being cleaned up"),
    "Prolog": Wait("the site's prolog is running"),
    "JobArrayTaskLimit": Wait("as many members of its array as are allowed at once run already"),
    "Licenses": Wait("it waits for a licence"),
    "Reservation": Wait("its reservation has not begun"),
    "ReservationDeleted": Wait(
        "its reservation was deleted: `scontrol update jobid={id} reservation=`, then `scontrol release {id}`", True
    ),
    "ReqNodeNotAvail": Wait("a machine that it needs is not available"),
    "NodeDown": Wait("a machine that it needs is down"),
    "FrontEndDown": Wait("no front-end machine is there to start it"),
    "PartitionDown": Wait("its partition is down: an administrator has to bring it up"),
    "PartitionInactive": Wait("its partition is inactive: it takes jobs and starts none"),
    "PartitionConfig": Wait("its partition's configuration keeps it back"),
    "PartitionTimeLimit": Wait(
        "its time limit is above that of its partition, so it will never start: lower spec.request.time, or "
        "`scontrol update jobid={id} timelimit=...`",
        True,
    ),
    "PartitionNodeLimit": Wait(
        "it asks for more machines than its partition gives to one job (or they are down): see `scontrol show partition`",
        True,
    ),
    "BadConstraints": Wait(
        "nothing in its partition can ever satisfy what it asks for: see `scontrol show job {id}`, change the request",
        True,
    ),
    "AccountNotAllowed": Wait(
        "its account may not use this partition: change spec.slurm.account or the partition", True
    ),
    "QOSNotAllowed": Wait("its QOS may not be used in this partition: change spec.slurm.qos or the partition", True),
    "InvalidAccount": Wait("its account is not valid any more: change spec.slurm.account", True),
    "InvalidQOS": Wait("its QOS is not valid any more: change spec.slurm.qos", True),
    "QOSUsageThreshold": Wait("its QOS has fallen below the share at which jobs start"),
    "QOSJobLimit": Wait("its QOS has as many jobs as it may have"),
    "QOSResourceLimit": Wait("its QOS has as many machines as it may have"),
    "QOSTimeLimit": Wait("its QOS has used up its time"),
    "AssociationJobLimit": Wait("its account has as many jobs as it may have"),
    "AssociationResourceLimit": Wait("its account has as many machines as it may have"),
    "AssociationTimeLimit": Wait("its account has used up its time"),
    "MaxMemPerLimit": Wait("it asks for more memory than one job may have here: lower spec.request.mem", True),
    "BurstBufferResources": Wait("it waits for room in the burst buffer"),
    "BurstBufferStageIn": Wait("its files are being copied into the burst buffer"),
    "BurstBufferOperation": Wait("it waits for the burst buffer"),
    "PowerNotAvail": Wait("it waits for electric power"),
    "PowerReserved": Wait("the electric power is kept for others"),
    "NvidiaImexChannels": Wait("it waits for an IMEX channel"),
    "SystemFailure": Wait("something in the cluster failed: see `scontrol show job {id}`"),
    "JobLaunchFailure": Wait("it could not be launched: see `scontrol show job {id}`"),
    "JobHoldMaxRequeue": _MAX_REQUEUE,
    "MaxRequeue": _MAX_REQUEUE,
    "launch failed requeued held": _HELD_LAUNCH,
    "job requeued in held state": Wait(f"it was put back into the queue and is held: {_RELEASE}", True),
    "user env retrieval failed requeued held": Wait(
        f"its user's login environment could not be read and Slurm holds it: look at ~/.bashrc, then {_RELEASE}", True
    ),
}

_LIMIT = re.compile(r"(QOS|Assoc)(Grp|Max|Min)(\w*?)(PerJob|PerUser|PerAccount|PerAcct|PerNode)?(?:Limit)?\Z")
_WHAT = {
    "cpu": "CPUs", "cpus": "CPUs", "mem": "memory", "memory": "memory", "node": "machines", "nodes": "machines",
    "gres": "accelerators", "jobs": "jobs", "submitjob": "submitted jobs", "submitjobs": "submitted jobs", "wall": "time",
    "wallduration": "run time", "cpuminutes": "CPU time", "cpurunminutes": "CPU time of running jobs",
    "gresminutes": "accelerator time", "gresrunminutes": "accelerator time of running jobs", "bb": "burst buffer",
    "license": "licences",
}  # fmt: skip


def wait(reason: str) -> Wait:
    """Why it waits, for people; an unknown reason in Slurm's own words."""
    # squeue writes blanks where scontrol and newer releases write "_", and text in brackets where -R would.
    word = reason.strip().strip("()")
    head, *rest = re.split(r"[,(]", word, maxsplit=1)
    known = REASONS.get(head) or REASONS.get(head.replace("_", " "))
    if known is not None:
        detail = "".join(rest).strip(" _")
        nodes = re.match(r"Unavailable(?:Nodes)?:(.+)", detail)
        # A machine's own name may hold "_"; words may not.
        detail = f"down, drained or not answering: {nodes[1]}" if nodes else detail.replace("_", " ")
        return Wait(f"{known.sentence} ({detail})", known.held) if detail else known
    limit = _LIMIT.match(word)
    if limit is None:
        return Wait(f"Slurm says {reason!r}")
    owner = "its QOS" if limit[1] == "QOS" else "its account"
    what = _WHAT.get(limit[3].lower(), limit[3] or "resources")
    per = limit[4] or ""
    if limit[2] == "Min":
        return Wait(f"it asks for less {what} than {owner} demands ({word}): change the request", True)
    if limit[2] == "Grp":
        return Wait(f"{owner} as a whole is at its limit on {what} ({word})")
    if per in ("PerJob", "PerNode"):
        return Wait(f"it asks for more {what} than {owner} gives to one job ({word}): lower the request", True)
    if limit[3].lower() == "wallduration":
        return Wait(f"its time limit is above what {owner} allows ({word}): lower spec.request.time", True)
    return Wait(f"you are at the limit that {owner} sets on {what} ({word})")
