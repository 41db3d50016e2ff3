"""Settings that hold for all tests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

# Jobs start login shells, and tests kill them at bad moments. What a person's own profile does there (version managers take
# locks, and leave them when they are killed) must decide no test, and no test must damage it.
_HOME = Path.home()
os.environ.setdefault("XDG_CONFIG_HOME", str(_HOME / ".config"))
os.environ.setdefault("XDG_CACHE_HOME", str(_HOME / ".cache"))
os.environ.setdefault("GIT_CONFIG_GLOBAL", str(_HOME / ".gitconfig"))
os.environ["HOME"] = tempfile.mkdtemp(prefix="reconciler-home-")
atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)

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
