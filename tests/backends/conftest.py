import pytest

pytest.register_assert_rewrite("tests.contract.backend_contract", "tests.contract.kube_contract")

from reconciler.app.shipping import Bundle  # noqa: E402 - after the line above, which must come before any import of it
from tests.lab.slurm import slurm  # noqa: E402
from tests.lab.sshd import ssh_lab  # noqa: E402

__all__ = ["slurm", "ssh_lab"]


@pytest.fixture(scope="session")
def bundle():
    """The runtime as it travels, packed once."""
    return Bundle()
