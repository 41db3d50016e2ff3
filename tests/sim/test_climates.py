"""Worlds by chance in which the real adapters speak to simulated services. A failing one names the command that replays it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.emulators.tpu.emulator import GET_LIBRARY, have_library
from tests.sim.campaign import CLOCK, WIRE, Climate, storm

TPU_SEEDS, VOLCANO_SEEDS, WIRE_SEEDS = range(12), range(6), range(40)


def wire(folder: Path) -> Climate:
    return WIRE


def clock(folder: Path) -> Climate:
    return CLOCK


def tpu(folder: Path) -> Climate:
    from tests.sim.cloud import TPU

    return TPU


def gangs(folder: Path) -> Climate:
    from tests.sim.gangs import volcano

    return volcano(folder)


SOME_TPU = pytest.mark.skipif(not have_library(), reason=GET_LIBRARY)
KINDS = [
    pytest.param("clock", clock, range(15), {"Ended", "BackingOff", "LaunchUnsettled"}, id="clock"),
    pytest.param(
        "wire", wire, WIRE_SEEDS, {"Ended", "Unsettled", "StopUnsettled", "StrayAttempt", "Refused"}, id="wire"
    ),
    pytest.param(
        "tpu",
        tpu,
        TPU_SEEDS,
        {
            "Releasing",
            "Billed",
            "MachineReleased",
            "MachineLeaving",
            "WorkersSilent",
            "Provisioning",
            "LaunchUnsettled",
        },
        id="tpu",
        marks=SOME_TPU,
    ),
    pytest.param(
        "volcano",
        gangs,
        VOLCANO_SEEDS,
        {"Noticed", "Stopping", "NoCapacity", "LaunchUnsettled", "SpecChanged"},
        id="volcano",
    ),
]


@pytest.mark.parametrize(("name", "climate", "seeds", "expected"), KINDS)
def test_no_promise_is_broken_in_any_storm(name, climate, seeds, expected, tmp_path, request):
    given = request.config.getoption("seed", default=None)
    met: Counter[str] = Counter()
    for seed in seeds if given is None else [given]:
        try:
            world = storm(seed, tmp_path / str(seed), climate(tmp_path / f"{seed}-{name}"))
        except AssertionError as error:
            replay = f"pytest tests/sim/test_climates.py -k {name} --seed {seed}"
            pytest.fail(f"{error}\n\nreplay: {replay}", pytrace=given is not None)
        met.update(type(entry).__name__ for entry in world.lines)
        met.update(world.reasons)
    if given is None:
        assert not expected - met.keys(), f"these never came up, so they were not tested: {expected - met.keys()}"
