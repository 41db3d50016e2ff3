"""The kinds of worlds that a seed makes, and those that once broke a promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.emulators.tpu.emulator import have_library
from tests.sim.campaign import CLOCK, WIRE, storm
from tests.sim.differential import from_nothing, squashed, there_and_back
from tests.sim.world import SimWorld


@dataclass(frozen=True, slots=True)
class Kind:
    """`share`: of so many storms one is of this kind. `missing`: why it cannot be run here."""

    make: Callable[[int, Path], SimWorld]
    share: int = 5
    missing: str = ""


def wire(seed: int, directory: Path) -> SimWorld:
    """A storm in which the real adapters of nodes and Slurm speak to the machines, in bytes."""
    return storm(seed, directory, WIRE)


def clock(seed: int, directory: Path) -> SimWorld:
    """A storm in which the clock is set now and then."""
    return storm(seed, directory, CLOCK)


def tpu(seed: int, directory: Path) -> SimWorld:
    """The same with Cloud TPU VMs, through Google's own library."""
    from tests.sim.cloud import TPU

    return storm(seed, directory, TPU)


def volcano(seed: int, directory: Path) -> SimWorld:
    """The same with gangs on Kubernetes, through its own library."""
    from tests.sim.gangs import volcano as climate

    return storm(seed, directory / "state", climate(directory / "kube"))


KINDS: dict[str, Kind] = {
    "storm": Kind(storm, 1),
    "wire": Kind(wire),
    "clock": Kind(clock),
    "tpu": Kind(tpu, 25, "" if have_library() else "google-cloud-tpu is not installed"),
    "volcano": Kind(volcano, 25),
    "squashed": Kind(squashed),
    "there-and-back": Kind(there_and_back),
    "from-nothing": Kind(from_nothing),
}
# One world a line: its kind, its seed, and what it found.
REGRESSIONS = Path(__file__).parent / "regressions"


def regressions() -> list[tuple[str, int, str]]:
    """(kind, seed, what it found)."""
    found = []
    for line in REGRESSIONS.read_text().splitlines():
        if line and not line.startswith("#"):
            kind, seed, note = line.split(maxsplit=2)
            found.append((kind, int(seed), note))
    return found
