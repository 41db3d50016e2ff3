"""The seam between the TPU driver and Google's control plane: list, get, create, delete; nothing that touches a machine.

Two implementations: tpu_client (google-cloud-tpu, gRPC) and tpu_gcloud (the program). `tpu_open.open_control` chooses.
One contract suite holds them and the tests' fake to what stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from reconciler.core.tpu import Denied, Listing, Made, NodeWish, TpuNode


class Control(Protocol):
    """The Cloud TPU API for one project. Every call has a deadline; only reads are tried more than once.

    Raised by every method but `list`:
    Unreachable     no answer, and nothing was done; also when another operation is in the way, or we asked too often
    AccessRefused   credentials are missing, stale or not enough; the hint is the command to run
    Rejected        the API understood and said no
    Unparsable      an answer that is not what the API promises
    """

    sees_operations: ClassVar[bool]
    """Does `failure_of` tell anything? gcloud has no command that looks at an operation."""

    def list(self, zone: str) -> Listing:
        """Every node and queued resource of one zone, all pages. Never raises: what cannot be asked, or is not told whole, is
        an incomplete listing with the reason."""
        ...

    def get(self, zone: str, name: str) -> TpuNode | None:
        """One node. None only when the API says that there is none."""
        ...

    def create(self, wish: NodeWish) -> Made:
        """Ask for a node; does not wait for it.

        A name that is taken is read and returned as Exists: a create has no identity of its own, so that this may be our own
        create whose answer was lost. Raises OutcomeUnknown when this one's answer is lost, or when the name is taken and what
        has it cannot be read.
        """
        ...

    def failure_of(self, zone: str, operation: str) -> Denied | None:
        """Why a create failed after it had begun; None while it runs, when it succeeded, and when the API remembers no such
        operation. Does not wait."""
        ...

    def delete(self, zone: str, name: str) -> None:
        """Ask for the node's deletion; does not wait for it. A node that is not there, or is being deleted, is success. Raises
        OutcomeUnknown when the answer is lost."""
        ...

    def delete_request(self, zone: str, name: str) -> None:
        """The same for a queued resource and the nodes that it made."""
        ...

    def host_keys(self, zone: str, name: str) -> Mapping[int, str]:
        """SSH host key by worker, as in a known_hosts file (`ssh-ed25519 AAAA...`), as far as the machines told. Empty when we
        may not ask, or they have told nothing."""
        ...

    def types(self, zone: str) -> frozenset[str]:
        """The accelerator types that the zone offers."""
        ...
