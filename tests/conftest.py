"""Settings that hold for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples in every run: a unit test that fails must fail again. `--hypothesis-profile=explore` looks further.
settings.register_profile(
    "unit",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("explore", settings.get_profile("unit"), derandomize=False, max_examples=3000)
settings.load_profile("unit")
