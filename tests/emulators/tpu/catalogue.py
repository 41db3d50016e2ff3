"""What the emulated service offers: accelerator types, their chips, hosts and topology, and runtime versions.

The number in a type counts TensorCores up to v5p (two to a chip) and chips for v5litepod and v6e: v4-32 is 16 chips on 4 hosts,
v5litepod-16 is 16 chips on 4 hosts. From the tables of the vendor's documentation; the service's own lists, per zone, differ.
"""

from __future__ import annotations

from typing import NamedTuple

# Chips to topology. The first number of chips that a type may have is that of one host.
_PLANE = {
    1: "1x1",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
    512: "16x32",
    1024: "32x32",
}
_CUBE = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
         1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16", 6144: "16x16x24"}  # fmt: skip


class Family(NamedTuple):
    config_type: str  # AcceleratorConfig.Type
    cores: int  # that the number in the type counts, per chip
    topologies: dict[int, str]
    chips: tuple[int, ...]
    quota: str  # the middle of the quota limit's name
    versions: tuple[str, ...]


_BASE = ("tpu-ubuntu2204-base",)
FAMILIES = {
    "v2": Family("V2", 2, _PLANE, (4, 16, 64, 128, 256), "V2s", (*_BASE, "tpu-vm-tf-2.18.0-pjrt")),
    "v3": Family("V3", 2, _PLANE, (4, 16, 32, 64, 128, 256, 512, 1024), "V3s", (*_BASE, "tpu-vm-tf-2.18.0-pjrt")),
    "v4": Family("V4", 2, _CUBE, (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048), "V4s", (*_BASE, "v2-alpha-tpuv4")),
    "v5litepod": Family("V5LITE_POD", 1, _PLANE, (1, 4, 8, 16, 32, 64, 128, 256), "V5sLitepod", ("v2-alpha-tpuv5-lite",)),
    "v5p": Family("V5P", 2, _CUBE, (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 6144), "V5P", ("v2-alpha-tpuv5",)),
    "v6e": Family("V6E", 1, _PLANE, (1, 4, 8, 16, 32, 64, 128, 256), "V6E", ("v2-alpha-tpuv6e",)),
}  # fmt: skip


class Accelerator(NamedTuple):
    type: str
    family: str
    number: int  # as in the type; quotas count it
    chips: int
    hosts: int
    topology: str

    @property
    def config(self) -> dict[str, str]:
        return {"type": FAMILIES[self.family].config_type, "topology": self.topology}


def accelerator(name: str) -> Accelerator | None:
    """The type of this name, or None where there is none."""
    word, _, number = name.partition("-")
    family = FAMILIES.get(word)
    if family is None or not number.isdigit():
        return None
    chips, rest = divmod(int(number), family.cores)
    if rest or chips not in family.chips:
        return None
    return Accelerator(name, word, int(number), chips, _hosts(family, chips), family.topologies[chips])


def by_config(config: dict[str, str]) -> Accelerator | None:
    """The type of an AcceleratorConfig."""
    for word, family in FAMILIES.items():
        if family.config_type == config.get("type"):
            for chips in family.chips:
                if family.topologies[chips] == config.get("topology"):
                    return accelerator(f"{word}-{chips * family.cores}")
    return None


def types(families: tuple[str, ...]) -> list[Accelerator]:
    names = [f"{word}-{chips * FAMILIES[word].cores}" for word in families for chips in FAMILIES[word].chips]
    return [found for name in names if (found := accelerator(name)) is not None]


def versions(families: tuple[str, ...]) -> list[str]:
    """Every version is taken for every type: which goes with which, the service knows and does not tell."""
    return sorted({version for word in families for version in FAMILIES[word].versions})


def quota_limit(family: str, *, spot: bool) -> str:
    """The name of the limit, as in refusals that people published."""
    return f"TPU{FAMILIES[family].quota}{'Preemptible' if spot else ''}PodPerProjectPerZoneForTPUAPI"


def _hosts(family: Family, chips: int) -> int:
    if family.cores == 1 and chips <= 8:
        return 1
    return chips // 4
