"""From a run to its submission: the directives, the script's body, and which runs go together as one array. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.backends.dialect import Dialect, Order, Site
from reconciler.core.job import JobSpec, Json, SlurmOverrides
from reconciler.core.names import digest_of
from reconciler.core.partitions import with_constraint
from reconciler.core.protocols import Submission
from reconciler.core.quantity import UNITS_BYTES
from reconciler.core.run import Run

MARK = "reconciler:"
# A scheduler may warn up to this long before the moment it was asked for, and looks at its clock every half minute
# (sbatch(1), --signal).
WARN_SLACK_S = 90
ARRAYS = ".arrays"
ARRAY_MIN = 2

# What fails before `begin` has no record to write to: it says where and what on the script's output.
_BODY = """\
export RECONCILER_RUN_DIR="$dir"
bundle={bundle}
if [ ! -f "$bundle/bootstrap.sh" ] || [ ! -d "$dir" ]; then
    echo "reconciler: $(uname -n) sees no $dir or no $bundle: do the machines behind this queue share them?" >&2
    exit 78
fi
trap : TERM INT
sh "$bundle/bootstrap.sh" begin "$dir" {name} {mark} || exit $?
{step}
sh "$bundle/bootstrap.sh" end "$dir" $?
"""


def mark_of(run: Run) -> str:
    """The comment that a run's own job carries."""
    return f"{MARK}{run.token}"


def order_of(
    run: Run, spec: JobSpec, site: Site, dialect: Dialect, *, status_dir: str, bundle: str, python: str | None
) -> Order:
    """What is asked of the scheduler for this run alone."""
    slurm, place = spec.slurm, run.place
    time_s = _int(place.get("time_s"))
    bare = Order(
        name=run.run_id,
        mark=mark_of(run),
        output=f"{_plain(status_dir)}/scheduler.out",
        body="",
        partition=str(place.get("partition") or slurm.partition or ""),
        nodes=_int(place.get("nodes")) or slurm.nodes or 1,
        gpus_per_node=_int(place.get("gpus_per_node")) or 0,
        gpu_type=str(place.get("gpu_type") or ""),
        cpus_per_node=slurm.cpus_per_node or site.cpus_per_node,
        memory=_memory(spec, slurm, site),
        time_s=time_s,
        unlimited="time_s" in place and time_s is None,
        account=slurm.account or site.account,
        qos=slurm.qos or site.qos,
        constraint=with_constraint(place, slurm),
        exclude=tuple(dict.fromkeys((*site.exclude, *slurm.exclude))),
        nodelist=slurm.nodelist,
        exclusive=slurm.exclusive,
        warn_s=_warn_s(spec, slurm, time_s),
        requeue=spec.restart.owner == dialect.system,
        extra=(*site.directives, *slurm.directives),
    )
    return _with_body(bare, dialect, f"dir={shlex.quote(status_dir)}\n", bundle, python)


def _with_body(order: Order, dialect: Dialect, head: str, bundle: str, python: str | None) -> Order:
    export = f"export RECONCILER_PYTHON={shlex.quote(python)}\n" if python else ""
    # The run's directory is a variable of the script: the launcher gets it through the script's own environment.
    work = ("sh", "-c", 'exec sh "$1" work "$RECONCILER_RUN_DIR"', "sh", f"{bundle}/bootstrap.sh")
    body = _BODY.format(
        bundle=shlex.quote(bundle),
        name=shlex.quote(order.name),
        mark=shlex.quote(order.mark),
        step=dialect.step(order, work),
    )
    return replace(order, body=f"{export}{head}{body}")


def _warn_s(spec: JobSpec, slurm: SlurmOverrides, time_s: int | None) -> int | None:
    """A run that may go on in another attempt after its time is up is told in time; one that may not gets all of its time."""
    if slurm.warn_s is not None:
        return slurm.warn_s
    warn_s = int(spec.grace_s) + WARN_SLACK_S
    if spec.restart.timeout == 0 or time_s is None or time_s <= 2 * warn_s:
        return None
    return warn_s


def _memory(spec: JobSpec, slurm: SlurmOverrides, site: Site) -> str | None:
    if slurm.mem is not None:
        return slurm.mem
    if spec.request.mem_bytes is not None:
        return f"{-(-spec.request.mem_bytes // UNITS_BYTES['M'])}M"
    return site.memory


def _int(value: Json) -> int | None:
    return value if isinstance(value, int) else None


def _plain(path: str) -> str:
    """A path in which the scheduler's own patterns stand for themselves."""
    return path.replace("%", "%%")


# --- arrays -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parcel:
    """What goes to the queue in one submission. `members` is the file that tells each member its run, "" for a single run."""

    order: Order
    items: tuple[Submission, ...]
    script_path: str
    members: str = ""


def parcels(
    submissions: Sequence[Submission],
    dialect: Dialect,
    *,
    status_root: str,
    bundle: str,
    python: str | None,
    array_max: int,
) -> Iterable[Parcel]:
    """Members of one sweep that differ in nothing but their index go as one array (in as many as the scheduler's limit needs);
    everything else goes by itself."""
    groups: dict[str, list[Submission]] = {}
    for item in submissions:
        groups.setdefault(_alike(item), []).append(item)
    for items in groups.values():
        size = max(1, array_max)
        for first in range(0, len(items), size):
            chunk = tuple(items[first : first + size])
            if len(chunk) < ARRAY_MIN or not chunk[0].body.get("sweep"):
                for item in chunk:
                    status_dir = str(_record(item)["status_dir"])
                    yield Parcel(order_in(item), (item,), f"{status_dir}/script.sh")
            else:
                yield _array(chunk, dialect, status_root, bundle, python)


def _array(chunk: tuple[Submission, ...], dialect: Dialect, root: str, bundle: str, python: str | None) -> Parcel:
    first = chunk[0]
    sweep = str(first.body["sweep"])
    name = f"{sweep.replace('/', '-')}-{digest_of([[item.run.run_id, item.run.token] for item in chunk])[:12]}"
    folder = f"{root}/{ARRAYS}/{name}"
    members = f"{folder}/members"
    line = f"$(( ${{{dialect.variables['index']}:?}} + 1 ))p"
    head = f'dir=$(sed -n "{line}" {shlex.quote(members)})\n[ -n "$dir" ] || exit 79\n'
    parallel = first.body.get("parallel")
    order = replace(
        order_in(first),
        name=name,
        mark=f"{MARK}{name}",
        output=f"{_plain(folder)}/%a.out",
        array=len(chunk),
        array_parallel=parallel if isinstance(parallel, int) else None,
    )
    return Parcel(_with_body(order, dialect, head, bundle, python), chunk, f"{folder}/script.sh", members)


def _alike(item: Submission) -> str:
    """Equal for members of one sweep that may go as one array; a text of its own for everything else."""
    if not item.body.get("sweep"):
        return item.run.run_id
    order = order_in(item)
    kept = {name: getattr(order, name) for name in Order.__slots__ if name not in ("name", "mark", "output", "body")}
    return digest_of([item.body["sweep"], {name: str(value) for name, value in kept.items()}])


def order_in(item: Submission) -> Order:
    """The order of a rendered submission."""
    order = item.order
    assert isinstance(order, Order)
    return order


def _record(item: Submission) -> Mapping[str, Json]:
    record = item.body["record"]
    assert isinstance(record, dict)
    return record
