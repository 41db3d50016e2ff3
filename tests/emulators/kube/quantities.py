"""Kubernetes' quantities (`50m`, `16Mi`, `2`), as exact numbers, and sums of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

_SUFFIX = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)},
}
Amounts = dict[str, Fraction]


def amount(text: Any) -> Fraction:
    """Raises ValueError."""
    matched = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+))(n|u|m|k|M|G|T|P|[KMGTPE]i|)(?:[eE]([+-]?\d+))?", str(text))
    if matched is None:
        raise ValueError(text)
    return Fraction(matched[1]) * _SUFFIX[matched[2]] * Fraction(10) ** int(matched[3] or 0)


def text(value: Fraction, resource: str) -> str:
    if resource.endswith("memory"):
        for suffix in ("Gi", "Mi", "Ki"):
            if value and value % _SUFFIX[suffix] == 0:
                return f"{value / _SUFFIX[suffix]}{suffix}"
    return str(value) if value.denominator == 1 else f"{int(value * 1000)}m"


def of_pod(spec: Mapping[str, Any]) -> Amounts:
    """What a pod asks for: requests, or else limits, over its containers."""
    total: Amounts = {}
    for container in spec.get("containers", ()):
        resources = container.get("resources") or {}
        asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        for resource, quantity in asked.items():
            total[resource] = total.get(resource, Fraction(0)) + amount(quantity)
    return total


def summed(parts: Iterable[Mapping[str, Fraction]]) -> Amounts:
    total: Amounts = {}
    for part in parts:
        for resource, value in part.items():
            total[resource] = total.get(resource, Fraction(0)) + value
    return total
