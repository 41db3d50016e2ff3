import pytest

pytest.register_assert_rewrite("tests.contract.transport_contract")

from tests.lab.sshd import ssh_lab  # noqa: E402 - after the line above, which must come before any import of it

__all__ = ["ssh_lab"]
