"""The cache of parsed manifests gives what reading them anew gives: sweeps, and jobs that broken defaults hold."""

from __future__ import annotations

from pathlib import Path

from reconciler.app.desired import ManifestSource
from reconciler.core.names import JobKey
from reconciler.store.cache import FileCache
from tests.source.repos import commit, repository

HEAD = "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: NAME}\n"
SWEEP = HEAD.replace("NAME", "a") + "spec: {command: [x], sweep: {grid: {env.A: ['1', '2']}, parallel: 1}}\n"
AFTER = HEAD.replace("NAME", "after") + "spec: {command: [x], depends_on: [a]}\n"


def source(root: Path, cache: Path) -> ManifestSource:
    return ManifestSource(root, "jobs", "HEAD", working_tree=False, cache=FileCache(cache))


def test_members_of_a_sweep_come_back_from_the_cache(tmp_path: Path) -> None:
    root = repository(tmp_path / "repo")
    commit(root, **{"jobs/a.yaml": SWEEP, "jobs/after.yaml": AFTER})
    cold = source(root, tmp_path / "cache").read()
    warm = source(root, tmp_path / "cache").read()
    assert cold == warm
    assert {job.sweep for job in warm.desired.values()} == {"general/default/a", ""}
    after = warm.desired[JobKey("general", "default", "after")]
    assert [key.name for key in after.depends_on] == ["a-A-1", "a-A-2"]


def test_what_broken_defaults_hold_is_told_from_the_cache_too(tmp_path: Path) -> None:
    root = repository(tmp_path / "repo")
    commit(root, **{"jobs/_defaults.yaml": "spec: {suspnd: true}", "jobs/a.yaml": SWEEP, "jobs/after.yaml": AFTER})
    cold = source(root, tmp_path / "cache").read()
    warm = source(root, tmp_path / "cache").read()
    assert cold == warm
    assert any("3 jobs below this file" in problem.message for problem in warm.problems)
    assert cold.complete


def test_a_frozen_member_is_told_the_problem_of_its_sweep(tmp_path: Path) -> None:
    root = repository(tmp_path / "repo")
    broken = SWEEP.replace("command", "comand")
    commit(root, **{"jobs/0.yaml": "a: [", "jobs/a.yaml": broken, "jobs/after.yaml": AFTER})
    state = source(root, tmp_path / "cache").read()
    problem = state.frozen[JobKey("general", "default", "a-A-2")]
    assert (problem.file, problem.line) == ("jobs/a.yaml", 4)
    assert not state.complete
