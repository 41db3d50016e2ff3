"""Slurm 20.11 to 25.11, as a dialect: which commands to run and what their answers mean. Pure.

Sources: sbatch(1), squeue(1), sacct(1), scancel(1), scontrol(1); every command here was tried on a real 22.05.

- Text, not JSON: 22.05's `squeue --json` ignores its filters, and exits 0 with an empty list while the controller is down.
- Every command but sbatch is `sh -c PRELUDE command ...`; for that one, of which there are many, the login node itself does what
  a prelude does (`unset`). The prelude takes away what a user's environment may say: SQUEUE_PARTITION
  would hide jobs, SLURM_TIME_FORMAT rewrite times, SBATCH_* overrule the directives of our script. Listings end with a
  line of ours, printed only when the command succeeded: without it an answer cut at a line's end would look whole.
- `-a`: without it jobs in a hidden partition are not listed, not even one's own.
- scancel exits 0 when a filter lets nothing through, and with some other code when the job has ended: only looking tells.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from reconciler.backends import slurm_answers, slurm_capacity, slurm_script, slurm_states, slurm_submit
from reconciler.backends.dialect import FOREIGN, Answer, Argv, Doubtful, Order, Probe, Refused, Taken
from reconciler.core.errors import Unparsable
from reconciler.core.queue import QueueCapacity, QueueJob, QueueLimits, QueueState

NODES, PARTITIONS, CONFIG = "nodes", "partitions", "config"
HISTORY_DAYS = 30
_ASKED_MAX = 500
"""Ids or names in one command: far below any limit on its length, and one request to the accounting."""

_FILTERS = (
    "SQUEUE_ACCOUNT SQUEUE_LICENSES SQUEUE_NAMES SQUEUE_PARTITION SQUEUE_QOS SQUEUE_RESERVATION SQUEUE_SORT SQUEUE_STATES "
    "SQUEUE_USERS SQUEUE_FORMAT SQUEUE_FORMAT2 SQUEUE_PRIORITY SACCT_FORMAT SLURM_CLUSTERS"
)
_CANCEL = (
    "SCANCEL_ACCOUNT SCANCEL_BATCH SCANCEL_FULL SCANCEL_HURRY SCANCEL_INTERACTIVE SCANCEL_NAME SCANCEL_PARTITION SCANCEL_QOS "
    "SCANCEL_STATE SCANCEL_USER SCANCEL_WCKEY SLURM_CLUSTERS"
)
# All that the script decides, even by leaving it out.
_SUBMIT = (
    "SBATCH_ACCOUNT SBATCH_ARRAY_INX SBATCH_CLUSTERS SBATCH_CONSTRAINT SBATCH_CPUS_PER_GPU SBATCH_ERROR SBATCH_EXCLUSIVE "
    "SBATCH_EXPORT SBATCH_GPUS SBATCH_GPUS_PER_NODE SBATCH_GPUS_PER_TASK SBATCH_GRES SBATCH_IGNORE_PBS SBATCH_INPUT "
    "SBATCH_JOB_NAME SBATCH_MEM_PER_CPU SBATCH_MEM_PER_GPU SBATCH_MEM_PER_NODE SBATCH_NO_REQUEUE SBATCH_OPEN_MODE "
    "SBATCH_OUTPUT SBATCH_PARTITION SBATCH_QOS SBATCH_REQUEUE SBATCH_SIGNAL SBATCH_TIMELIMIT SBATCH_WAIT SLURM_CLUSTERS"
)
_LISTING = (
    f"unset {_FILTERS}; SLURM_TIME_FORMAT=standard SLURM_BITSTR_LEN=0; export SLURM_TIME_FORMAT SLURM_BITSTR_LEN; "
    f'"$0" "$@" && echo \'{slurm_answers.WHOLE}\''
)
# Which of the two ways is decided where the id is known: the driver renders this argv with a placeholder for it. See cancel().
# Name and mark are compared first, in the same breath; a site may drop comments. scancel's own filter repeats it for the name,
# at the moment of the effect, where a filter can be used: see cancel().
_CANCEL_ONE = (
    f"unset {_CANCEL} {_FILTERS}; "
    'found=$(squeue -h -a -r -t all -j "$1" -o "%j %k") || exit 75; found=$(printf "%s\\n" "$found" | sort -u); '
    f'case $found in "$2 $3"|"$2 (null)"|"$2 ") ;; *) exit {FOREIGN} ;; esac; '
    'if [ "$4" = ask ]; then exec "$0" --signal=TERM --state=RUNNING --name="$2" "$1"; fi; '
    'case $1 in *_*) exec "$0" "$1" ;; *) exec "$0" --name="$2" "$1" ;; esac'
)

_LIVE = "|".join(slurm_states.LIVE)
_FINAL = "|".join(slurm_states.FINAL)


class SlurmDialect:
    """Implements backends.dialect.Dialect."""

    system: ClassVar[str] = "slurm"
    tools: ClassVar[tuple[str, ...]] = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "srun")
    waiting: ClassVar[frozenset[str]] = frozenset(
        word for word, meaning in slurm_states.STATES.items() if meaning.state is QueueState.WAITING
    )
    unset: ClassVar[tuple[str, ...]] = tuple(_SUBMIT.split())
    # slurmstepd, with cgroups and without. The job's own state is FAILED when only its step ran out of memory.
    memory_words: ClassVar[str] = r"oom[-_]kill|Out Of Memory|xceeded (?:job )?memory limit"
    variables: ClassVar[Mapping[str, str]] = {
        "job": "SLURM_JOB_ID",
        "restart": "SLURM_RESTART_COUNT",
        "rank": "SLURM_PROCID",
        "nodes": "SLURM_JOB_NUM_NODES",
        "nodelist": "SLURM_JOB_NODELIST",
        "index": "SLURM_ARRAY_TASK_ID",
        "array": "SLURM_ARRAY_JOB_ID",
    }

    # --- the queue

    def queue(self) -> Argv:
        return _listing("squeue", "--me", "-a", "-r", "-t", "all", "-o", slurm_answers.QUEUE_FORMAT)

    def parse_queue(self, answer: Answer) -> tuple[QueueJob, ...]:
        return slurm_answers.queue_from(answer)

    def accounting(self, idents: Collection[str], names: Collection[str]) -> Sequence[Argv]:
        """By id without a start time, which finds jobs of any age; by name within the last HISTORY_DAYS days."""
        return [
            *(_history("-j", ",".join(chunk)) for chunk in _chunks(idents)),
            *(_history("-S", f"now-{HISTORY_DAYS}days", f"--name={','.join(chunk)}") for chunk in _chunks(names)),
        ]

    def parse_accounting(self, answer: Answer) -> tuple[QueueJob, ...] | None:
        return slurm_answers.history_from(answer)

    # --- the machines

    def capacity(self) -> Mapping[str, Argv]:
        """`-d` for GresUsed, `-a` for hidden partitions, to which people submit by name."""
        return {
            NODES: _listing("scontrol", "show", "node", "-a", "-d", "-o"),
            PARTITIONS: _listing("scontrol", "show", "partition", "-a", "-o"),
            CONFIG: _listing("scontrol", "show", "config"),
        }

    def parse_capacity(self, answers: Mapping[str, Answer]) -> QueueCapacity:
        nodes, partitions = (
            slurm_answers.text_of(answers.get(name) or Answer(None, "", "it was not asked"), f"scontrol show {name}")
            for name in (NODES, PARTITIONS)
        )
        try:
            limits = slurm_capacity.limits_from(slurm_answers.text_of(answers[CONFIG], "scontrol show config"))
        except (KeyError, Unparsable):
            limits = QueueLimits()
        return QueueCapacity(slurm_capacity.partitions_from(partitions), slurm_capacity.nodes_from(nodes), limits)

    # --- effects

    def script(self, order: Order) -> str:
        return slurm_script.render(order)

    def step(self, order: Order, argv: Sequence[str]) -> str:
        return slurm_script.step(order, argv)

    def submit(self, script: str) -> Argv:
        return ("sbatch", "--parsable", script)

    def parse_submit(self, answer: Answer) -> Taken | Refused | Doubtful:
        return slurm_submit.outcome(answer)

    def find(self) -> Probe:
        """An ended job counts: it was submitted. The header with nothing below it, from a squeue that succeeded, is "no"."""
        return Probe(
            _listing("squeue", "--me", "-a", "-t", "all", "-o", "job=%F mark=%k", "--name", "{}"),
            found=r"(?m)^job=([0-9]+) mark=(?:\(null\))?(.*)$",
            absent=rf"(?m)^job=ARRAY_JOB_ID mark=COMMENT\n(?:.*\n)*{slurm_answers.WHOLE}$",
        )

    def alive(self) -> Probe:
        """Of an array, any member will do. A state word that we do not know matches neither."""
        return Probe(
            _listing("squeue", "-a", "-r", "-t", "all", "-o", "job=%i state=%T", "-j", "{}"),
            found=rf"(?m)^job=([0-9_+]+) state=({_LIVE})$",
            absent=rf"(?m)^job=JOBID state=STATE\n(?:job=[0-9_+]+ state=(?:{_FINAL})\n)*{slurm_answers.WHOLE}$"
            r"|^slurm_load_jobs error: Invalid job id specified$",
        )

    def cancel(self, ident: str, name: str, mark: str, *, ask: bool) -> Argv:
        """A waiting member of an array is ended by its bare id: with any filter, 22.05's scancel ends the *whole* waiting rest of
        the array when one waiting member is named. `--state=RUNNING` makes the asking harmless: running members are jobs of
        their own.
        """
        return ("sh", "-c", _CANCEL_ONE, "scancel", ident, name, mark, "ask" if ask else "end")


def _listing(*words: str) -> Argv:
    return ("sh", "-c", _LISTING, *words)


def _history(*words: str) -> Argv:
    # -D: every run of a requeued job; -p: the separator also ends a row; no -n: the header proves that sacct answered.
    return _listing(
        "sacct", "-X", "-D", "-p", f"--delimiter={slurm_answers.FIELD}", "-o", slurm_answers.HISTORY_FORMAT, *words
    )


def _chunks(items: Collection[str]) -> list[list[str]]:
    ordered = sorted(set(items))
    return [ordered[at : at + _ASKED_MAX] for at in range(0, len(ordered), _ASKED_MAX)]
