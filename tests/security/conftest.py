from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.real.conftest import empty_site, interruptible, site, ssh_lab
from tests.security.hostile import PRIZE, World

__all__ = ["empty_site", "interruptible", "site", "ssh_lab", "world"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> World:
    made = World(tmp_path, capfd, monkeypatch)
    made.prize.parent.mkdir(parents=True)
    made.prize.write_text(PRIZE)
    for name in list(os.environ):
        if name.startswith(("RECONCILER_", "GIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setenv("RECONCILER_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("GITHUB_TOKEN", PRIZE)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PRIZE)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    made.repo.mkdir()
    made.git("init", "-q", "-b", "main")
    made.git("config", "http.extraheader", PRIZE)  # as a checkout in CI leaves it
    made.write("manifests/README.md", "jobs\n")
    made.write("manifests/inventory.yaml", made.inventory())
    made.commit()
    return made
