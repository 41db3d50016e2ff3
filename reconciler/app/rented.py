"""TPU hosts of the inventory, put together: the control plane, the way to the workers, and what the solver sees."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable
from pathlib import Path

from reconciler.app.lanes import abreast
from reconciler.backends.node_call import NodeSettings
from reconciler.backends.tpu import TpuBackend, TpuSite
from reconciler.backends.tpu_client import default_project
from reconciler.backends.tpu_control import Control
from reconciler.backends.tpu_gcloud import GcloudControl, create_argv
from reconciler.backends.tpu_open import open_control
from reconciler.core.chips import parse_accelerator_type
from reconciler.core.errors import ReconcilerError, Rejected
from reconciler.core.inventory import Inventory, TpuHost
from reconciler.core.machine import DeleteOn, Disposal
from reconciler.core.solve import Rented
from reconciler.core.tpu import NodeWish, TpuNode
from reconciler.core.transport import Transport
from reconciler.transports.registry import SSH_CONFIG_VARIABLE, open_transport
from reconciler.transports.rented import Login, settings_for

# sshd(8), AUTHORIZED_KEYS FILE FORMAT, without options.
_PUBLIC_KEY = re.compile(r"(?:ssh-|ecdsa-|sk-)[a-z0-9@.-]+ AAAA[A-Za-z0-9+/]+={0,2}(?: [^\n\r]*)?")


def zones_of(host: TpuHost) -> tuple[str, ...]:
    return host.zones or (host.zone,)


def rented_of(host: TpuHost) -> Rented:
    """The host as the solver sees it."""
    kind = parse_accelerator_type(host.accelerator_type)
    return Rented(
        kind.chip,
        kind.chips,
        kind.count,
        zones_of(host),
        host.max_nodes if host.per_run else 1,
        host.price_per_chip_hour,
        host.cooldown_s,
    )


def open_tpu(
    host: TpuHost,
    node: NodeSettings,
    *,
    folder: Path,
    install: Callable[[Transport], None],
    inventory: Inventory,
    owner: str,
) -> TpuBackend:
    """The backend of a TPU host. `folder` keeps what ssh has to know of its VMs. Raises AccessRefused with the command to run
    where nothing speaks to Google Cloud."""
    control = open_control(host)
    user = host.ssh_user or getpass.getuser()
    kind = parse_accelerator_type(host.accelerator_type)
    price = rented_of(host).price_per_hour if host.price_per_chip_hour is not None else None
    site = TpuSite(
        wish=NodeWish(
            name="",
            zone="",
            accelerator_type=host.accelerator_type,
            version=host.version,
            spot=host.spot,
            preemptible=host.preemptible,
            reserved=host.reserved,
            network=host.network or "",
            subnetwork=host.subnetwork or "",
            service_account=host.service_account or "",
            internal_ip=host.internal_ip,
            labels=host.labels,
            metadata=host.metadata,
            tags=host.tags,
            queued_s=host.queued_s,
        ),
        zones=zones_of(host),
        fixed=not host.per_run,
        chip=kind.chip,
        chips=kind.chips,
        project=host.project or _default_project(control),
        disposal=Disposal(DeleteOn(host.delete_on_exit), host.keep_for_s, host.ttl_s),
        price_per_hour=price,
        capacity_s=host.capacity_timeout_s,
        boot_s=host.boot_timeout_s,
        heirs_of=_heirs_of(host, inventory),
        self_delete=host.self_delete,
        keys=public_key(host.ssh_key, user, host.name),
    )
    return TpuBackend(
        node,
        site,
        control,
        open_worker=_opener(host, control, user, folder),
        install=install,
        abreast=abreast,
        owner=owner,
        gcloud=lambda wish: create_argv(wish, host.project or "PROJECT"),
    )


def _default_project(control: Control) -> str:
    """The project that an inventory without one means here and now, "" where that cannot be told. It may be another one in
    another shell: a VM of that one is not taken to be gone."""
    if isinstance(control, GcloudControl):
        return control.default_project()
    try:
        return default_project()
    except ReconcilerError:
        return ""


def _heirs_of(host: TpuHost, inventory: Inventory) -> Callable[[str], bool]:
    """The first TPU host of a project minds the VMs of hosts that the inventory has no longer: renaming a host leaks none."""
    alike = (one for one in inventory.ordered() if isinstance(one, TpuHost) and one.project == host.project)
    first = next(alike, host)
    return lambda name: first.name == host.name and name not in inventory.hosts


def public_key(private: str, user: str, host: str) -> str:
    """`USER:KEY` for a new VM's metadata; "" where there is no such key, and logging in is the project's affair (OS Login).
    Raises Rejected for a file that holds anything else: it would be sent away."""
    path = Path(f"{private}.pub").expanduser()
    try:
        key = path.read_text().strip()
    except OSError:
        return ""
    except ValueError:
        key = ""
    if not _PUBLIC_KEY.fullmatch(key):
        raise Rejected(
            f"{path} is not one public key on one line, so it is not sent to the VMs of {host}",
            hint="Name the private key in the host's ssh_key; the public one lies beside it, with .pub at the end.",
        )
    return f"{user}:{key}"


def _opener(host: TpuHost, control: Control, user: str, folder: Path) -> Callable[[TpuNode, int], Transport]:
    keys: dict[tuple[str, str], dict[int, str]] = {}

    def open_worker(node: TpuNode, rank: int) -> Transport:
        end = node.endpoints[rank]
        address = end.internal if host.internal_ip else (end.external or end.internal)
        if not address:
            raise Rejected(f"worker {rank} of {node.name} has no address")
        known = keys.setdefault((node.name, node.ident), {})
        if rank not in known:
            known.update(control.host_keys(node.zone, node.name))
        named = os.environ.get(SSH_CONFIG_VARIABLE)
        settings = settings_for(
            Login(
                f"tpu-{node.name}-{node.ident or 'x'}-{rank}",
                address,
                host.ssh_port,
                user,
                str(Path(host.ssh_key).expanduser()),
                known.get(rank, ""),
            ),
            folder,
            include=Path(named) if named else Path.home() / ".ssh" / "config",
            timeout_s=host.connect_timeout_s,
        )
        return open_transport(settings)

    return open_worker
