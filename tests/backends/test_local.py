"""This machine, with real processes, keeps the contract."""

from __future__ import annotations

import sys

import pytest

from reconciler.transports.local import LocalTransport
from tests.backends.sites import NodeSite
from tests.contract.backend_contract import BackendContract

pytestmark = pytest.mark.real


class TestLocalBackend(BackendContract):
    @pytest.fixture
    def site(self, tmp_path, bundle):
        made = NodeSite("here", str(tmp_path), lambda: LocalTransport("here"), bundle, python=sys.executable)
        yield made
        made.clear()
