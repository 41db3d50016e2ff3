from tests.lab.sshd import ssh_lab

__all__ = ["ssh_lab"]
