"""The seam between the batch driver and a queue system: argv builders, a script renderer, parsers. All pure.

A new queue system is one module that implements `Dialect`, one entry in the registry, and one class of the contract suite.
Every command is an argv that the login node runs; every answer comes back as an `Answer` and is judged here, never there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from reconciler.core.queue import QueueCapacity, QueueJob

Argv = tuple[str, ...]
# What a `cancel` exits with when the id belongs to somebody else's job by now.
FOREIGN = 76


@dataclass(frozen=True, slots=True)
class Answer:
    """What one command on the login node said. `returncode` None: it was ended at its deadline, or could not be run (then
    `stderr` tells why). Text is decoded with replacement: a parser that meets nonsense raises Unparsable."""

    returncode: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Order:
    """One submission: a single run, or an array of runs that differ in nothing but their index.

    `name` is the job's name in the queue, `mark` its comment. `body` are the shell lines that the script runs after its
    directives. Memory is MiB per node, times are seconds; None leaves a thing to the scheduler. `gpu_type` "" asks for
    accelerators of any type. `extra` are directives of the user's, each one option as on the command line, over ours.
    """

    name: str
    mark: str
    output: str
    body: str
    partition: str = ""
    nodes: int = 1
    gpus_per_node: int = 0
    gpu_type: str = ""
    cpus_per_node: int | None = None
    memory: str | None = None
    time_s: int | None = None
    unlimited: bool = False
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: tuple[str, ...] = ()
    nodelist: tuple[str, ...] = ()
    exclusive: bool = False
    warn_s: int | None = None
    """Seconds before the time limit at which the run is told, so that it can checkpoint."""
    requeue: bool = False
    """Let the scheduler start it again by itself."""
    array: int | None = None
    """Number of members, indexes 0 to array - 1; None is no array."""
    extra: tuple[str, ...] = ()
    array_parallel: int | None = None
    """At most this many members at once; None: all."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The submission is in the queue as job `ident`."""

    ident: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The scheduler said no, in `words` of its own. `final`: it will say the same again until somebody changes something;
    `hint` says what. Otherwise it may be asked again later."""

    words: str
    final: bool
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Doubtful:
    """Whether it is in the queue cannot be told from this answer: look."""

    words: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A question whose answer the login node itself can judge, because the next step there depends on it.

    `{}` in argv stands for a job's name (or id). `found` is a regular expression, searched in stdout: group 1 is the job's
    id, a match means "it is there". `absent` is searched in stdout and stderr when `found` does not match: a match means
    "surely not". Neither: nobody knows. An exit code of 0 without `found` counts as absent only where `absent` matches.
    """

    argv: Argv
    found: str
    absent: str


class Dialect(Protocol):
    """One queue system. All methods are pure; parsers raise Unparsable for what is not a whole answer."""

    system: ClassVar[str]
    unset: ClassVar[tuple[str, ...]]
    """Variables that a submission must not find in its environment: what a user's profile would decide in place of the script."""

    # --- the queue

    def queue(self) -> Argv:
        """All jobs of this account that the queue still knows, ended ones included: one command for any number."""
        ...

    def parse_queue(self, answer: Answer) -> tuple[QueueJob, ...]:
        """Every job in the answer. Raises Unparsable unless the answer is provably whole, an empty one included."""
        ...

    def accounting(self, idents: Collection[str], names: Collection[str]) -> Sequence[Argv]:
        """The history of jobs that left the queue: by id, and by name where no id is known."""
        ...

    def parse_accounting(self, answer: Answer) -> tuple[QueueJob, ...] | None:
        """The newest record of each job in the answer; None where no history is kept. Raises Unparsable when it did not
        answer."""
        ...

    # --- the machines

    def capacity(self) -> Mapping[str, Argv]:
        """Commands that tell of partitions, machines and limits, by a name of the dialect's own."""
        ...

    def parse_capacity(self, answers: Mapping[str, Answer]) -> QueueCapacity:
        """Raises Unparsable when partitions or machines could not be asked. Limits that are not known stay None."""
        ...

    # --- effects

    def script(self, order: Order) -> str:
        """The whole batch script. Raises ValueError for text that cannot be put into a directive unchanged."""
        ...

    def step(self, order: Order, argv: Sequence[str]) -> str:
        """The shell words that run `argv` once on every node of the job, from within the script, and wait."""
        ...

    def submit(self, script: str) -> Argv:
        """Submit the script at this path."""
        ...

    def parse_submit(self, answer: Answer) -> Taken | Refused | Doubtful: ...

    def find(self) -> Probe:
        """Was a job of this name given to the queue, be it over by now? `{}` is the name; group 1 of every match is an id,
        group 2 the mark of that job, empty where it has none. `absent` tells that the answer is whole."""
        ...

    def alive(self) -> Probe:
        """Is the job with this id waiting or running? `{}` is the id."""
        ...

    def cancel(self, ident: str, name: str, mark: str, *, ask: bool) -> Argv:
        """End job `ident` if it still has this name and mark, else exit with FOREIGN. `ask`: signal TERM to what runs and leave
        the rest to the run. Each of the three texts is a word of its own in the argv: the driver has the node fill them in."""
        ...

    tools: ClassVar[tuple[str, ...]] = ()
    """The commands that must be on the login node."""

    waiting: ClassVar[frozenset[str]] = frozenset()
    """State words, as group 2 of `alive().found` captures them, of jobs that nothing runs of."""

    memory_words: ClassVar[str] = ""
    """A regular expression for what the scheduler writes into a script's output when it killed for memory; "" where it says
    so in the job's state."""

    variables: ClassVar[Mapping[str, str]] = {}
    """What the runtime on the nodes needs to know, as names of the scheduler's variables: job, restart, rank, nodes,
    nodelist, index, array (runtime/step.py says what for)."""


@dataclass(frozen=True, slots=True)
class Site:
    """What the inventory says of a queue host beyond its paths (see core.inventory)."""

    account: str | None = None
    qos: str | None = None
    memory: str | None = None
    cpus_per_node: int | None = None
    exclude: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()
