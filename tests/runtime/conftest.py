"""One bundle for all tests, one host for each."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bundle import bundle_tar
from tests.runtime.host import Host


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    with tarfile.open(fileobj=io.BytesIO(bundle_tar())) as tar:
        tar.extractall(path, filter="data")
    return path


@pytest.fixture
def host(tmp_path: Path, bundle: Path) -> Iterator[Host]:
    made = Host(tmp_path, bundle)
    yield made
    made.end_all()
