from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.quantity import DURATION_MAX_S, bytes_of, seconds, show_bytes, show_seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 30),
        ("10m", 600),
        ("2h", 7_200),
        ("1h30m", 5_400),
        ("1w2d", 777_600),
        ("0s", 0),
        ("1:30:00", 5_400),
        ("100:00:00", 360_000),
        ("1-00:00:00", 86_400),
        ("2-00:00:01", 172_801),
        (90, 90),
    ],
)
def test_durations_are_read_in_seconds(text: int | str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1:30", "30", "2-00", "1.5h", "m", "-5s", "5m1h", "1h ", "10 m", "1:60:00", "10m\n", "١m", -1, 10**12]
)
def test_other_durations_are_refused(text: int | str) -> None:
    with pytest.raises(ValueError, match="duration such as"):
        seconds(text)


@given(st.integers(0, DURATION_MAX_S))
def test_a_duration_shown_is_read_back(total: int) -> None:
    assert seconds(show_seconds(total)) == total


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1M", 1 << 20), ("128G", 128 << 30), ("64Gi", 64 << 30), ("2T", 2 << 40), (1 << 30, 1 << 30)],
)
def test_memory_is_read_in_bytes_and_units_are_powers_of_1024(text: int | str, expected: int) -> None:
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "128", "128GB", "128 G", "1.5G", "-1G", "128g", "1K", 128, "9999999999T", "G\n"])
def test_other_amounts_of_memory_are_refused(text: int | str) -> None:
    with pytest.raises(ValueError, match="memory such as"):
        bytes_of(text)


@given(st.integers(1 << 20, 1 << 50))
def test_memory_shown_is_read_back(total: int) -> None:
    shown = show_bytes(total)
    assert bytes_of(int(shown) if shown.isdigit() else shown) == total
