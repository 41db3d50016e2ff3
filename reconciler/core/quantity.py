"""Durations and amounts of memory, as people write them: text in, seconds or bytes out. Pure.

A duration is whole seconds (`90`), units (`30s`, `10m`, `2h`, `1d`, `1w`, joined largest first: `1h30m`) or a clock
as Slurm writes it (`1:30:00`, `2-00:00:00`). `1:30` is refused: Slurm reads it as a minute and a half, people as an
hour and a half.

Memory is bytes (an integer of at least 1 MiB) or a number with K, M, G or T, with or without `i`. All eight are
powers of 1024: that is what `--mem=128G` means to Slurm (sbatch(1), --mem), and one file must mean one thing on every
backend.
"""

from __future__ import annotations

import re

UNITS_S = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
UNITS_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# Longer than any scheduler allows; keeps arithmetic with deadlines inside 64 bits and catches milliseconds by mistake.
DURATION_MAX_S = 10 * 366 * 86_400
# Fewer bytes run nothing: an integer below this is a number of megabytes or gigabytes by mistake.
MEMORY_MIN_BYTES = 1 << 20
MEMORY_MAX_BYTES = 1 << 60

DURATION_PATTERN = (
    r"^(?:(?=[0-9])(?:[0-9]+w)?(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+s)?"
    r"|(?:[0-9]+-)?[0-9]{1,4}:[0-5][0-9]:[0-5][0-9])$"
)
MEMORY_PATTERN = r"^[0-9]+[KMGT]i?$"
DURATION_EXPECTED = 'a duration such as "30s", "10m", "2h", "1h30m", "1:30:00", "2-00:00:00" or whole seconds'
MEMORY_EXPECTED = 'an amount of memory such as "128G", "512M" or a whole number of bytes'

_DURATION = re.compile(DURATION_PATTERN.removesuffix("$") + r"\Z")
_MEMORY = re.compile(MEMORY_PATTERN.removesuffix("$") + r"\Z")
_PART = re.compile(r"([0-9]+)([wdhms])")


def seconds(value: int | str) -> int:
    """Whole seconds of a duration. Raises ValueError saying what was expected."""
    if isinstance(value, str):
        if not _DURATION.match(value) or len(value) > 40:
            raise ValueError(f"{value!r} is not {DURATION_EXPECTED}")
        if ":" in value:
            days, _, clock = value.rpartition("-")
            hours, minutes, rest = clock.split(":")
            total = int(days or 0) * 86_400 + int(hours) * 3_600 + int(minutes) * 60 + int(rest)
        else:
            total = sum(int(count) * UNITS_S[unit] for count, unit in _PART.findall(value))
    else:
        total = value
    if not 0 <= total <= DURATION_MAX_S:
        raise ValueError(f"{value!r} is not between 0 and 10 years: expected {DURATION_EXPECTED}")
    return total


def bytes_of(value: int | str) -> int:
    """Bytes of an amount of memory. Raises ValueError saying what was expected."""
    if isinstance(value, str):
        if not _MEMORY.match(value) or len(value) > 24:
            raise ValueError(f"{value!r} is not {MEMORY_EXPECTED}")
        digits = value.rstrip("KMGTi")
        total = int(digits) * UNITS_BYTES[value[len(digits)]]
    else:
        total = value
    if not MEMORY_MIN_BYTES <= total <= MEMORY_MAX_BYTES:
        raise ValueError(f"{value!r} is not between 1 MiB and 1 EiB: expected {MEMORY_EXPECTED}")
    return total


def show_seconds(total: float) -> str:
    """A duration for people, exact: 5400 -> `1h30m`, 0 -> `0s`, 2.5 -> `2.5s`."""
    if total != int(total) or total < 0:
        return f"{total:g}s"
    left, parts = int(total), []
    for unit, size in UNITS_S.items():
        if unit == "w":
            continue
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def show_bytes(total: int) -> str:
    """An amount of memory for people, exact: 137438953472 -> `128G`; bytes where no unit divides it."""
    for unit in ("T", "G", "M", "K"):
        if total and total % UNITS_BYTES[unit] == 0:
            return f"{total // UNITS_BYTES[unit]}{unit}"
    return str(total)
