"""A machine that is rented for a run: it costs money from its creation until a listing shows that it is gone."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from reconciler.core.names import JobKey


class DeleteOn(enum.StrEnum):
    """After which ends of its run a machine is deleted (`delete_on_exit` of the inventory)."""

    ALWAYS = "always"
    SUCCESS = "success"
    FAILURE = "failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Disposal:
    """When a machine is deleted after the end of its run. `delete` tells after which ends, `keep_s` how long after; `ttl_s`
    is how old it may get in any case."""

    delete: DeleteOn = DeleteOn.ALWAYS
    keep_s: float = 0.0
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """One rented machine as its cloud lists it. It carries our mark, with the run that it was made for in it.

    `ready`: it can be logged in to. `going`: it is on its way out, and nothing more has to be done about that. `dead`: nothing
    runs on it any more, and nothing ever will. `created_at` is the cloud's clock, 0 where it does not say. `wait_s` is how long
    it may take until its run has begun, from the asking, or from `waits_from` (our clock) where that is later.
    """

    name: str
    zone: str
    ident: str
    job: JobKey
    run_id: str
    owner: str
    words: str
    ready: bool = False
    going: bool = False
    dead: bool = False
    created_at: float = 0.0
    wait_s: float | None = None
    waits_from: float = 0.0
    price_per_hour: float | None = None
    disposal: Disposal = field(default_factory=Disposal)
    request: str = ""
    """The name of the queued request that it came, or will come, from."""

    @property
    def key(self) -> str:
        """Of this very machine, also among those that had its name before."""
        return f"{self.shown} ({self.ident})"

    @property
    def shown(self) -> str:
        """As people name it."""
        return f"{self.name} in {self.zone}"
