"""Accelerators by name: the table requests and inventories speak, and how machines' own names map to it. Pure.

The names are the seed's, so that its inventories are read unchanged; ones it lacks (v5lite, v6e) are added beside them.
"""

from __future__ import annotations

import difflib
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


_SLICE = re.compile(r"\d+g\.\d+gb")


def chip_of_type(kind: str) -> str | None:
    """The chip that a scheduler's accelerator type most likely means; None when it is in no table."""
    if kind in CHIPS:
        return kind
    if _SLICE.search(kind):
        return None  # a part of a card (MIG) is not the card
    words = re.sub(r"[_\-.]+", " ", kind)
    return chip_of_nvidia(words, None) or chip_of_nvidia(words.replace(" ", ""), None)


@dataclass(frozen=True, slots=True)
class TpuSlice:
    """What a TPU accelerator type holds. `count` is the number in its name, which requests are matched against
    (as in the seed); `chips` is how many chips that is: v2, v3, v4 and v5p count TensorCores, two to a chip.
    `hosts` is how many machines the Cloud TPU API makes for it: v4-32 is 16 chips on 4, v5litepod-8 is 8 on 1."""

    chip: str
    count: int
    chips: int
    hosts: int = 1

    @property
    def counts_cores(self) -> bool:
        """Does the number in the name count TensorCores, two to a chip?"""
        return self.chip in _TWO_CORES

    def holds(self, asked: int) -> bool:
        """Is this enough for a request of so many chips? A number up to the one in the name counts too, as in the seed, where
        v4-32 answers a request of 32: `counted_in_cores` tells when that was so."""
        return asked <= self.count

    def counted_in_cores(self, asked: int) -> str:
        """A warning for a request that only the number in the name can meet, else ""."""
        if not self.chips < asked <= self.count:
            return ""
        return (
            f"{asked} counts TensorCores of {self.chip.removeprefix('tpu-')}, two to a chip: {self.chips} chips are on "
            f"{self.hosts} machine{'s' if self.hosts > 1 else ''}; write min_chips: {-(-asked // 2)}"
        )


_ACCELERATOR = re.compile(
    r"v(?P<version>[0-9]+)(?P<flavour>[a-z]*)-(?:(?P<count>[0-9]+)|(?P<shape>[0-9]+(?:x[0-9]+)+))\Z"
)
_SEVENTH = re.compile(r"(?:tpu[-_]?)?v?7x?(?:-|\Z)|tpu7", re.IGNORECASE)
_TWO_CORES = frozenset({"tpu-v2", "tpu-v3", "tpu-v4", "tpu-v5p"})
_ONE_MACHINE = frozenset({"tpu-v5e", "tpu-v6e"})
"""Up to 8 chips of these are on one machine; of the others, and of larger slices, four are."""
_FLAVOURS = {"litepod": "e", "lite": "e"}

# The sizes that the Cloud TPU API makes. From 64 chips on, a v4 or v5p slice is made of whole cubes of 4x4x4 chips.
# The API is in maintenance only (cloud.google.com/tpu/docs), so that the table is closed.
_SIZES: dict[str, tuple[int, ...]] = {
    "v2": (8, 32, 128, 256, 512),
    "v3": (8, 32, 64, 128, 256, 512, 1024, 2048),
    "v4": (8, 16, 32, 64, *range(128, 4096 + 1, 128)),
    "v5litepod": (1, 4, 8, 16, 32, 64, 128, 256),
    "v5p": (8, 16, 32, 64, *range(128, 12_288 + 1, 128)),
    "v6e": (1, 4, 8, 16, 32, 64, 128, 256),
}
ACCELERATOR_TYPES: tuple[str, ...] = tuple(f"{family}-{size}" for family, sizes in _SIZES.items() for size in sizes)
_ACCELERATOR_TYPES = frozenset(ACCELERATOR_TYPES)


def parse_accelerator_type(text: str) -> TpuSlice:
    """Read `v4-32`, `v5litepod-16`, `v5p-8` or a topology such as `v4-2x2x2` (which counts chips).

    Raises ValueError for text that is none of these, or a TPU version that is not in the table. A size that the API does
    not make is read all the same: `unknown_accelerator_type` tells.
    Source: cloud.google.com/tpu/docs, accelerator types.
    """
    found = _ACCELERATOR.match(text)
    if not found:
        if _SEVENTH.match(text):
            raise ValueError(
                f"{text!r} is a TPU7x, and the Cloud TPU API does not offer it: expected a TPU up to v6e, such as v6e-16"
            )
        raise ValueError(
            f"{text!r} is not a TPU accelerator type{_nearest(text)}: expected text such as v4-32 or v5litepod-16"
        )
    flavour = _FLAVOURS.get(found["flavour"], found["flavour"])
    chip = f"tpu-v{found['version']}{flavour}"
    if chip not in CHIPS:
        if chip.startswith("tpu-v7"):
            raise ValueError(
                f"{text!r} is a TPU7x, and the Cloud TPU API does not offer it: expected a TPU up to v6e, such as v6e-16"
            )
        known = ", ".join(name for name, entry in CHIPS.items() if entry.kind == "tpu")
        near = _nearest(text) or f": expected one of {known}"
        raise ValueError(f"{text!r} is a TPU that is not known here ({chip}){near}")
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
    hosts = 1 if chip in _ONE_MACHINE and chips <= 8 else -(-chips // 4)
    return TpuSlice(chip, count, chips, hosts)


def topology_of(text: str) -> tuple[str, str] | None:
    """(`v4`, `2x2x2`) of `v4-2x2x2`: what `gcloud --type --topology` takes; None for a type by its number."""
    found = _ACCELERATOR.match(text)
    if not found or not found["shape"]:
        return None
    family = f"v{found['version']}{found['flavour']}"
    return ("v5litepod" if family in ("v5e", "v5lite") else family), found["shape"]


def unknown_accelerator_type(text: str) -> str:
    """Why the Cloud TPU API will not make this type, with the nearest ones that it makes; "" when it makes it.

    A topology is judged by the API itself: which are made differs by zone.
    """
    try:
        parse_accelerator_type(text)
    except ValueError as error:
        return str(error)
    if text in _ACCELERATOR_TYPES or topology_of(text):
        return ""
    return f"Cloud TPU makes no {text!r}{_nearest(text) or ': expected text such as v4-32 or v5litepod-16'}"


def nearest_accelerator_types(text: str) -> tuple[str, ...]:
    """Up to three types that the API makes, those most like `text` first: the same family's nearest sizes where the family
    can be told, else by spelling."""
    lower = text.lower().strip()
    found = re.match(r"(?:tpu-?)?(v[0-9]+[a-z]*)-?([0-9]+)?", lower)
    family = {"v5e": "v5litepod", "v5lite": "v5litepod"}.get(found[1], found[1]) if found else ""
    if found and family in _SIZES:
        asked = int(found[2] or 8)
        # By ratio: to one who writes v4-48, v4-64 is nearer than v4-16.
        sizes = sorted(_SIZES[family], key=lambda size: (max(size, asked) / max(1, min(size, asked)), size))
        return tuple(f"{family}-{size}" for size in sizes[:3])
    return tuple(difflib.get_close_matches(lower, ACCELERATOR_TYPES, n=3, cutoff=0.6))


def _nearest(text: str) -> str:
    near = nearest_accelerator_types(text)
    return f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
