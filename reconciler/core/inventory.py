"""The machines the user has, as typed values: clusters (shared paths) and hosts (where runs go). Pure.

The fields are those of the seed's `~/.theseus.yaml`, which is read unchanged, plus a few of ours (docs/inventory.md
tells which). `load.inventory` is the only maker. A credential is a `Secret` (it was written in the file) or a
`SecretRef`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reconciler.core.job import SecretRef
from reconciler.core.secret import Secret
from reconciler.core.trust import Allowed

Credential = Secret | SecretRef

# Memory another program may use on a GPU before the GPU counts as busy (theseus dispatch: 100 MiB).
BUSY_MIB = 100
CONNECT_TIMEOUT_S = 10.0
# squeue(1) warns of programs that call it in loops; peers ask every 30 to 40 s.
POLL_S = 15.0
# A stock-out of spot TPUs may last for hours, and waiting costs nothing; after a day somebody should look.
CAPACITY_TIMEOUT_S = 86_400.0
# Peers see most TPU VMs answer within five minutes; large slices take longer.
BOOT_TIMEOUT_S = 900.0
COOLDOWN_S = 600.0
# What no waiting mends (an image that cannot be pulled, a missing claim, a controller that does nothing) is given up then.
STUCK_TIMEOUT_S = 1800.0
LOST_TIMEOUT_S = 600.0
KEEP_FINISHED_S = 604_800.0
HELPER_TIMEOUT_S = 300.0
# Where gcloud keeps its own key for VMs; `gcloud compute tpus tpu-vm ssh` makes it.
GOOGLE_KEY = "~/.ssh/google_compute_engine"


@dataclass(frozen=True, slots=True)
class Mount:
    """A JuiceFS file system to mount at the cluster's root. `url` holds a password."""

    url: Credential
    cache_size: str | None = None
    cache_dir: str | None = None
    all_squash: str | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Paths that several hosts share. All are absolute, on the hosts."""

    name: str
    root: str
    work: str
    log: str
    share: str
    data: str
    checkpoints: str
    results: str
    status: str
    mount: Mount | None = None
    uv_dir: str | None = None
    wandb: Credential | None = None
    wandb_entity: str | None = None
    wandb_project: str | None = None
    hf_token: Credential | None = None

    @property
    def secrets(self) -> dict[str, Credential]:
        """Credentials that every run on the cluster gets, by the name of their variable."""
        pairs = (("WANDB_API_KEY", self.wandb), ("HF_TOKEN", self.hf_token))
        return {name: value for name, value in pairs if value is not None}

    @property
    def env(self) -> dict[str, str]:
        """Plain variables that every run on the cluster gets; a host's `env` and the job's go over them."""
        pairs = (
            ("WANDB_ENTITY", self.wandb_entity),
            ("WANDB_PROJECT", self.wandb_project),
            ("UV_CACHE_DIR", self.uv_dir),
        )
        return {name: value for name, value in pairs if value is not None}


@dataclass(frozen=True, slots=True)
class LocalHost:
    """This machine. `chips` None: look at the machine; `slots`: CPU jobs at once."""

    name: str
    cluster: str
    slots: int
    chips: Mapping[str, int] | None = None
    busy_mib: int = BUSY_MIB
    python: str | None = None
    uv_groups: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    type: Literal["local"] = "local"


@dataclass(frozen=True, slots=True)
class PlainHost:
    """A machine behind SSH without a scheduler.

    `chips` empty: CPU only. `slots` None: as many CPU jobs as it has CPUs.
    """

    name: str
    cluster: str
    ssh: str
    chips: Mapping[str, int] = field(default_factory=dict)
    slots: int | None = None
    transport: Literal["fabric", "openssh"] = "fabric"
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    busy_mib: int = BUSY_MIB
    python: str | None = None
    uv_groups: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    type: Literal["plain"] = "plain"


@dataclass(frozen=True, slots=True)
class Partition:
    """A Slurm partition that launches may go to; `default` ones are tried first."""

    name: str
    default: bool = False
    constraint: str | None = None


@dataclass(frozen=True, slots=True)
class SlurmHost:
    """A Slurm login node. `chips` caps what one job may ask for per chip; None: no cap. `mem` is Slurm's own notation.

    `poll_s`: its queue is asked at most this often while we change nothing there.
    `mem`, `cpus_per_node` and `time_s` are for jobs that do not say. `directives` are whole options of sbatch, `modules` and
    `setup` come before the job's own.
    """

    name: str
    cluster: str
    ssh: str
    partitions: tuple[Partition, ...] = ()
    cpu_partitions: tuple[Partition, ...] = ()
    account: str | None = None
    qos: str | None = None
    mem: str | None = None
    exclude: tuple[str, ...] = ()
    cpus_per_node: int | None = None
    time_s: int | None = None
    directives: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    chips: Mapping[str, int] | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    transport: Literal["fabric", "openssh"] = "fabric"
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    poll_s: float = POLL_S
    python: str | None = None
    uv_groups: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    type: Literal["slurm"] = "slurm"


@dataclass(frozen=True, slots=True)
class TpuHost:
    """Cloud TPU VMs of one kind. With `per_run` each run has a VM of its own, up to `max_nodes` of them; else the host's name is
    the VM's. Empty text: the cloud's own default.

    `zones` are tried in order, and `zone` is the first. At most one of `spot`, `preemptible` and `reserved` is set. `queued_s`:
    validity of a queued resource; None makes the VM directly. `price_per_chip_hour` None: not known.
    """

    name: str
    cluster: str
    zone: str = ""
    zones: tuple[str, ...] = ()
    project: str | None = None
    accelerator_type: str = ""
    version: str = ""
    spot: bool = False
    preemptible: bool = False
    reserved: bool = False
    queued_s: float | None = None
    per_run: bool = False
    max_nodes: int = 1
    price_per_chip_hour: float | None = None
    delete_on_exit: Literal["always", "success", "failure", "never"] = "always"
    keep_for_s: float = 0.0
    ttl_s: float | None = None
    capacity_timeout_s: float = CAPACITY_TIMEOUT_S
    boot_timeout_s: float = BOOT_TIMEOUT_S
    cooldown_s: float = COOLDOWN_S
    self_delete: bool = False
    network: str | None = None
    subnetwork: str | None = None
    service_account: str | None = None
    internal_ip: bool = False
    ssh_user: str | None = None
    ssh_key: str = GOOGLE_KEY
    ssh_port: int = 22
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    control: Literal["auto", "client", "gcloud"] = "auto"
    endpoint: str = ""
    poll_s: float = POLL_S
    python: str | None = None
    uv_groups: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    type: Literal["tpu"] = "tpu"


@dataclass(frozen=True, slots=True)
class Toleration:
    """One Kubernetes toleration, field by field (core/v1)."""

    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    toleration_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class VolcanoHost:
    """A Kubernetes cluster with Volcano.

    `chips` counts per node and its keys may be any label. Quantities are Kubernetes' text. `pending_timeout_s`: how long a run
    may wait for room, None for ever; `stuck_timeout_s`: for what no waiting mends; `lost_timeout_s`: for a node that is silent.
    `keep_finished_s`: how long an ended run's object stays in the cluster. `pod` and `container` are further fields of theirs.
    """

    name: str
    cluster: str
    namespace: str = "default"
    queue: str = ""
    image: str = ""
    pvc_name: str = ""
    pvc_mount_path: str = "/workspace"
    service_account: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    chips: Mapping[str, int] = field(default_factory=dict)
    num_nodes: int = 1
    max_nodes: int | None = None
    gpus_per_node: int = 0
    gpu_resource_key: str = "nvidia.com/gpu"
    cpu: str | None = None
    memory: str | None = None
    cpu_cpu: str | None = None
    cpu_memory: str | None = None
    shm_size: str | None = None
    priority_class: str | None = None
    kubeconfig: str | None = None
    context: str | None = None
    rdma: bool = False
    rdma_per_node: int = 8
    labels: Mapping[str, str] = field(default_factory=dict)
    rdma_resource_key: str = "rdma/rdma_shared_device_a"
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod: Mapping[str, Any] = field(default_factory=dict)
    container: Mapping[str, Any] = field(default_factory=dict)
    image_pull_secrets: tuple[str, ...] = ()
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    helper_resources: Mapping[str, str] = field(default_factory=dict)
    helper_image: str = ""
    helper_timeout_s: float = HELPER_TIMEOUT_S
    pending_timeout_s: float | None = None
    stuck_timeout_s: float = STUCK_TIMEOUT_S
    lost_timeout_s: float = LOST_TIMEOUT_S
    keep_finished_s: float = KEEP_FINISHED_S
    poll_s: float = POLL_S
    python: str | None = None
    uv_groups: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    type: Literal["volcano"] = "volcano"


Host = LocalHost | PlainHost | SlurmHost | TpuHost | VolcanoHost


@dataclass(frozen=True, slots=True)
class Limits:
    """What machines that are made on demand may come to, over all hosts; None: no limit. Costs are in the currency of the hosts'
    prices, and `max_cost_total` counts from the state's beginning."""

    max_chips: int | None = None
    max_cost_per_hour: float | None = None
    max_cost_total: float | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All clusters and hosts. `order` names every host once, in the order in which they are tried: `priority`, then
    the file's.

    `gres_mapping` gives Slurm's bare type of a chip (the seed's `gpu:h100` and `h100` both become `h100`). `mount`
    and `proxy` belong to the mailbox. `file` is where it was read, "" for the built-in one; `digest` changes when any
    field that is not a secret does. `approve`: are launches that cost money asked for? `state`: where
    journal and memory lie. `allow`: what manifests may have of this machine beyond jobs.
    """

    clusters: Mapping[str, Cluster]
    hosts: Mapping[str, Host]
    order: tuple[str, ...]
    gres_mapping: Mapping[str, str] = field(default_factory=dict)
    mount: str | None = None
    proxy: str | None = None
    file: str = ""
    digest: str = ""
    limits: Limits = Limits()
    approve: Literal["ask", "auto"] = "ask"
    state: Literal["local", "git"] = "local"
    allow: Allowed = field(default_factory=Allowed)

    def cluster_of(self, host: str) -> Cluster:
        """The cluster of a host. Raises KeyError for a name that is not in the inventory."""
        return self.clusters[self.hosts[host].cluster]

    def ordered(self) -> tuple[Host, ...]:
        """Every host, in the order in which they are tried."""
        return tuple(self.hosts[name] for name in self.order)
