"""Accelerators by name: the table requests and inventories speak, and how machines' own names map to it. Pure.

The names are the seed's, so that its inventories are read unchanged; ones it lacks (v5lite, v6e) are added beside them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Chip:
    """One kind of accelerator. `memory_gib` is per chip; None where it has several sizes or none of its own."""

    name: str
    kind: Literal["cpu", "gpu", "tpu"]
    memory_gib: int | None
    title: str


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("cpu", "cpu", None, "no accelerator"),
        Chip("gb10", "gpu", 128, "NVIDIA GB10"),
        Chip("b200", "gpu", 180, "NVIDIA B200"),
        Chip("h200", "gpu", 141, "NVIDIA H200"),
        Chip("h100", "gpu", 80, "NVIDIA H100"),
        Chip("a100-sxm4-80gb", "gpu", 80, "NVIDIA A100 80 GB"),
        Chip("a100-pcie-40gb", "gpu", 40, "NVIDIA A100 40 GB"),
        Chip("a6000", "gpu", 48, "NVIDIA RTX A6000"),
        Chip("ada6000", "gpu", 48, "NVIDIA RTX 6000 Ada"),
        Chip("l40", "gpu", 48, "NVIDIA L40"),
        Chip("l40s", "gpu", 48, "NVIDIA L40S"),
        Chip("drive-pg199", "gpu", None, "NVIDIA DRIVE PG199"),
        Chip("rtx5090", "gpu", 32, "NVIDIA GeForce RTX 5090"),
        Chip("tpu-v2", "tpu", 16, "Cloud TPU v2"),
        Chip("tpu-v3", "tpu", 32, "Cloud TPU v3"),
        Chip("tpu-v4", "tpu", 32, "Cloud TPU v4"),
        Chip("tpu-v5e", "tpu", 16, "Cloud TPU v5e"),
        Chip("tpu-v5p", "tpu", 95, "Cloud TPU v5p"),
        Chip("tpu-v6e", "tpu", 32, "Cloud TPU v6e"),
    )
}

# An A100 reports at least this many MiB when it is the 80 GB one (theseus dispatch, discovery).
A100_80GB_MIN_MIB = 79_000

# Whole words of the product name, first match wins: "L40S" before "L40", and "RTX 6000 Ada" is not an "RTX A6000".
_NVIDIA: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])"), chip)
    for pattern, chip in (
        ("gb10", "gb10"),
        ("b200", "b200"),
        ("h200", "h200"),
        ("h100", "h100"),
        ("rtx 6000 ada", "ada6000"),
        ("a6000", "a6000"),
        ("l40s", "l40s"),
        ("l40", "l40"),
        ("(?:drive[- ])?pg199", "drive-pg199"),
        ("(?:rtx ?)?5090", "rtx5090"),
    )
)
_A100 = re.compile(r"(?<![a-z0-9])a100(?:x)?(?![a-z0-9])")


def chip_of_nvidia(product: str, memory_total_mib: int | None) -> str | None:
    """The chip that `nvidia-smi --query-gpu=name,memory.total` names; None when it is not in the table."""
    text = product.lower()
    if _A100.search(text):
        large = memory_total_mib >= A100_80GB_MIN_MIB if memory_total_mib is not None else "80gb" in text
        return "a100-sxm4-80gb" if large else "a100-pcie-40gb"
    return next((chip for pattern, chip in _NVIDIA if pattern.search(text)), None)


@dataclass(frozen=True, slots=True)
class TpuSlice:
    """What a TPU accelerator type holds. `count` is the number in its name, which requests are matched against
    (as in the seed); `chips` is how many chips that is: v2, v3, v4 and v5p count TensorCores, two to a chip."""

    chip: str
    count: int
    chips: int


_ACCELERATOR = re.compile(
    r"v(?P<version>[0-9]+)(?P<flavour>[a-z]*)-(?:(?P<count>[0-9]+)|(?P<shape>[0-9]+(?:x[0-9]+)+))\Z"
)
_TWO_CORES = frozenset({"tpu-v2", "tpu-v3", "tpu-v4", "tpu-v5p"})


def parse_accelerator_type(text: str) -> TpuSlice:
    """Read `v4-32`, `v5litepod-16`, `v5p-8` or a topology such as `v4-2x2x2` (which counts chips).

    Raises ValueError for text that is none of these, or a TPU version that is not in the table.
    Source: cloud.google.com/tpu/docs, accelerator types.
    """
    found = _ACCELERATOR.match(text)
    if not found:
        raise ValueError(f"{text!r} is not a TPU accelerator type: expected text such as v4-32 or v5litepod-16")
    flavour = {"litepod": "e", "lite": "e"}.get(found["flavour"], found["flavour"])
    chip = f"tpu-v{found['version']}{flavour}"
    if chip not in CHIPS:
        known = ", ".join(name for name, entry in CHIPS.items() if entry.kind == "tpu")
        raise ValueError(f"{text!r} is a TPU that is not known here ({chip}): expected one of {known}")
    cores = 2 if chip in _TWO_CORES else 1
    if found["shape"]:
        chips = 1
        for side in found["shape"].split("x"):
            chips *= int(side)
        count = chips * cores
    else:
        count = int(found["count"])
        chips = count // cores
    if not 0 < count <= 1 << 20 or chips < 1:
        raise ValueError(f"{text!r} is a TPU with {chips} chips: expected at least one, at most a million")
    return TpuSlice(chip, count, chips)
