"""The training program of the example, as a job: interrupted, resumed, and in the end as if never interrupted."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.runtime.host import Host

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax"),
]
PROGRAM = Path(__file__).parents[2] / "examples" / "tiny-jax" / "train.py"
SMALL = {"steps": 40_000, "batch": 8, "width": 8, "depth": 1, "checkpoint_every": 50, "report_every": 10}


def test_interrupted_training_resumes_and_ends_where_an_uninterrupted_one_does(host: Host) -> None:
    import numpy as np

    stages = [{"argv": [sys.executable, str(PROGRAM)]}]
    environ = {"JAX_PLATFORMS": "cpu"}
    first = host.run("a", stages=stages, env=environ, config=SMALL, grace_s=60)
    handle = host.start(first)
    host.wait_log(first, "step 200: checkpoint written")
    os.kill(handle["pid"], signal.SIGTERM)
    record = host.wait_final(first)
    assert (record["status"], record["exit_code"]) == ("preempted", 0)
    reached = record["checkpoint"]["step"]
    assert reached >= 200

    config = {**SMALL, "steps": reached + 60}
    second = host.run("a", attempt=2, stages=stages, env=environ, config=config)
    straight = host.run("b", stages=stages, env=environ, config=config)
    host.launch(second, straight)
    assert host.wait_final(second, 90)["status"] == "completed", host.log(second)
    assert host.wait_final(straight, 90)["status"] == "completed", host.log(straight)
    assert f"resuming from step {reached} " in host.log(second)
    progress = host.metadata(second)["progress"]
    assert (progress["step"], progress["total"]) == (reached + 60, reached + 60)
    assert progress["metrics"]["loss"] > 0

    last = f"step-{reached + 60:012d}/state.npz"
    resumed, whole = (np.load(Path(run["checkpoint_dir"]) / last) for run in (second, straight))
    assert sorted(resumed) == sorted(whole)
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name])
