"""The batch driver with the Slurm dialect keeps the contract of backends on an emulated Slurm: everywhere, and in seconds.

tests/backends/test_slurm.py asks the same of a real one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.core.protocols import Backend, Known
from tests.backends.emulated import EmulatedSite
from tests.contract.backend_contract import BackendContract

pytestmark = pytest.mark.real


class TestEmulatedSlurm(BackendContract):
    @pytest.fixture
    def site(self, tmp_path, bundle) -> Iterator[EmulatedSite]:
        self._site = EmulatedSite(tmp_path, bundle)
        yield self._site
        self._site.clear()

    def start(self, backend: Backend, run) -> Known:
        """Accepted is not yet begun: what the contract says of running things holds once the scheduler has started it."""
        known = super().start(backend, run)
        self._site.until(lambda: self._site.began(backend, lambda: self.see(backend, run)))
        return known
