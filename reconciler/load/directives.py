"""Options of sbatch that nobody may write out: those that have a field, and those that we set or that would break us."""

from __future__ import annotations

# Option -> (what a job writes instead, what a host of the inventory writes instead). Source: sbatch(1).
_OURS = "the reconciler sets it"
_OWNED: dict[str, tuple[str, str]] = {
    "job-name": ("metadata.name", _OURS),
    "comment": ("metadata.labels", _OURS),
    "output": ("`reconciler logs`", _OURS),
    "error": ("`reconciler logs`", _OURS),
    "open-mode": (_OURS, _OURS),
    "parsable": (_OURS, _OURS),
    "chdir": (_OURS, _OURS),
    "array": ("spec.sweep", "spec.sweep of the job"),
    "requeue": ("spec.restart", "spec.restart of the job"),
    "no-requeue": ("spec.restart", "spec.restart of the job"),
    "wrap": ("spec.command", "spec.command of the job"),
    "dependency": ("spec.depends_on", "spec.depends_on of the job"),
    "hold": ("spec.suspend", "spec.suspend of the job"),
    "signal": ("spec.slurm.warn", "spec.slurm.warn of the job"),
    "time": ("spec.request.time", "time"),
    "partition": ("spec.slurm.partition", "partitions"),
    "account": ("spec.slurm.account", "account"),
    "qos": ("spec.slurm.qos", "qos"),
    "constraint": ("spec.slurm.constraint", "the constraint of a partition"),
    "exclude": ("spec.slurm.exclude", "exclude"),
    "nodelist": ("spec.slurm.nodelist", "spec.slurm.nodelist of the job"),
    "nodefile": ("spec.slurm.nodelist", "spec.slurm.nodelist of the job"),
    "exclusive": ("spec.slurm.exclusive", "spec.slurm.exclusive of the job"),
    "mem": ("spec.slurm.mem", "mem"),
    "nodes": ("spec.slurm.nodes", "spec.slurm.nodes of the job"),
    "cpus-per-task": ("spec.slurm.cpus_per_node", "cpus_per_node"),
    "ntasks": (_OURS, _OURS),
    "ntasks-per-node": (_OURS, _OURS),
    "gres": ("spec.request.chip and min_chips", "spec.request of the job"),
    "gpus": ("spec.request.chip and min_chips", "spec.request of the job"),
    "gpus-per-node": ("spec.request.chip and min_chips", "spec.request of the job"),
    "gpus-per-task": ("spec.request.chip and min_chips", "spec.request of the job"),
    "export": ("spec.env", "env"),
    "clusters": ("spec.request.clusters", "one host per Slurm cluster"),
    # sbatch would not submit, or not come back.
    "test-only": ("`reconciler plan`", "`reconciler plan`"),
    "wait": ("`reconciler apply --wait`", "`reconciler apply --wait`"),
    "help": ("nothing", "nothing"),
    "usage": ("nothing", "nothing"),
    "version": ("nothing", "nothing"),
}


def refusal_of(directive: str, *, host: bool) -> str:
    """Why `--option=value` may not stand in a manifest, or with `host` in an inventory; empty when it may.

    sbatch takes options by any prefix that only one of them has (getopt_long), so `--job-n` is refused as well.
    """
    name = directive.removeprefix("--").partition("=")[0]
    for owned, (job, inventory) in _OWNED.items():
        if owned.startswith(name):
            instead = inventory if host else job
            tail = instead if instead is _OURS else f"use {instead} instead"
            return f"--{name} cannot be set here: {tail}"
    return ""
