"""Settings to concrete ports: the only place where implementations are chosen."""

from __future__ import annotations

import hashlib
import os
import posixpath
import secrets as randomness
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from reconciler.app.desired import ManifestSource
from reconciler.app.events import FileEvents, HostNews
from reconciler.app.ports import Ports
from reconciler.app.rented import open_tpu, rented_of
from reconciler.app.shipping import Bundle, HostShipping, MachinesShipping, RepositoryShipper, install_on
from reconciler.app.volcano import gang_of, open_volcano
from reconciler.app.watch import git_fingerprint
from reconciler.backends.batch import BatchBackend
from reconciler.backends.dialect import Site
from reconciler.backends.node import NodeBackend
from reconciler.backends.node_call import NodePaths, NodeSettings
from reconciler.backends.registry import dialect_of
from reconciler.core.chips import chip_of_nvidia
from reconciler.core.errors import Problem, ReconcilerError, SourceError
from reconciler.core.inventory import Host, Inventory, LocalHost, PlainHost, SlurmHost, TpuHost, VolcanoHost
from reconciler.core.job import Desired, JobSpec
from reconciler.core.observation import Gpu
from reconciler.core.partitions import PartitionWish, QueueView
from reconciler.core.protocols import Announces, Backend
from reconciler.core.secret import Secret
from reconciler.core.solve import HostView
from reconciler.core.transport import Transport
from reconciler.core.trust import Allowed
from reconciler.load.inventory import find_inventory
from reconciler.load.normal import decode
from reconciler.load.references import check_references
from reconciler.load.secrets import Resolver
from reconciler.load.trust import ALLOW_CONFIG, ALLOW_VARIABLE, Permits, check_trust, parse_allowed
from reconciler.source import git
from reconciler.source.deliver import runtime_path
from reconciler.source.owner import owner_of, state_name
from reconciler.store.cache import FileCache
from reconciler.store.git import GitStore
from reconciler.store.gitref import GitRef
from reconciler.store.sqlite import SqliteStore
from reconciler.transports.registry import TransportSettings, open_transport

MANIFESTS = "manifests"


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options of the command line."""

    directory: Path
    inventory: Path | None = None
    state: Path | None = None
    working_tree: bool = False
    ref: str = "HEAD"


@dataclass(frozen=True, slots=True)
class Place:
    """Where manifests are read: `subdir` of `root`; `git_dir` None outside of git."""

    root: Path
    subdir: str
    git_dir: Path | None
    path: str = "."
    """The manifest directory, from the top of the repository: two of them are two sources, with jobs of their own."""
    top: Path = Path()
    """The repository's own directory: `root`, or one above it."""


class SystemClock:
    """This machine's clock."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def find_place(settings: Settings) -> Place:
    """`manifests/` of the given directory when it has one, else the directory itself. Raises SourceError."""
    root = settings.directory.resolve()
    if not root.is_dir():
        raise SourceError(
            f"{settings.directory} is not a directory", hint="Name the repository of manifests with -C DIR."
        )
    status, out, said = git.ask(root, "rev-parse", "--absolute-git-dir", "--show-prefix")
    lines = out.decode(errors="surrogateescape").split("\n")
    git_dir = Path(lines[0]) if status == 0 else None
    prefix = lines[1] if status == 0 and len(lines) > 1 else ""
    if git_dir is None and any((above / ".git").exists() for above in (root, *root.parents)):
        # A repository that git cannot read is not a plain directory: taken for one, its files would be another source.
        raise SourceError(f"{root} lies in a git repository that git cannot read: {said}")
    if git_dir is None and git.looks_bare(root):
        raise SourceError(
            f"{root} holds what looks like a repository without a working tree and may be somebody's files; nothing is read",
            hint="If you made that repository, let its name end in .git, or name a clone of it with -C DIR.",
        )
    has_folder = (root / MANIFESTS).is_dir()
    if not has_folder and git_dir is not None:
        # The folder may exist in the commit and not on disk (sparse checkout, bare repository).
        has_folder = git.ask(root, "cat-file", "-e", f"{settings.ref}:./{MANIFESTS}")[0] == 0
    subdir = MANIFESTS if has_folder else "."
    above = prefix.count("/")
    top = root.parents[above - 1] if above else root
    if git_dir is not None:
        _check_git_dir(git_dir, top)
    return Place(root, subdir, git_dir, posixpath.normpath(posixpath.join(prefix or ".", subdir)), top)


def _check_git_dir(git_dir: Path, top: Path) -> None:
    """Raises SourceError for a git directory among the files under another name than `.git`: it would be one of them."""
    real = git_dir.resolve()
    if real != top and top in real.parents and ".git" not in real.relative_to(top).parts:
        raise SourceError(
            f"The git directory {real} lies among the files of the repository, which can be shipped",
            hint="Let its name be .git, or move it out of the working tree: git init --separate-git-dir=DIR.",
        )


def trust_in(place: Place) -> Permits:
    """What the manifests of this place may have of this machine, but for what an inventory adds. Raises ManifestError."""
    return Permits(
        place.top,
        place.root,
        Path.home(),
        parse_allowed(os.environ.get(ALLOW_VARIABLE, ""), f"${ALLOW_VARIABLE}"),
        lambda: _configured(place),
        bare=place.git_dir is not None and git.is_bare(place.root),
    )


def _configured(place: Place) -> Allowed:
    """What the clone's own git configuration, or the user's, permits. Raises ManifestError."""
    allowed = Allowed()
    if place.git_dir is not None:
        _, out, _ = git.ask(place.root, "config", "--null", "--get-all", ALLOW_CONFIG)
        for text in git.split_nul(out):
            allowed = allowed.and_also(parse_allowed(text, f"git config {ALLOW_CONFIG}"))
    return allowed


def read_inventory(settings: Settings, place: Place) -> Inventory:
    """The inventory in force (DESIGN section 5 gives the order). Raises ManifestError, and SourceError for a state that lies in
    the manifests' repository: whoever writes there could write what is remembered, and the runtime of the built-in host."""
    trust, state = trust_in(place), _state_base(settings)
    if trust.holds(state):
        raise SourceError(
            f"The state directory {state} lies in the manifests' repository, whose files would be taken for ours",
            hint="Choose a directory outside of it with --state DIR or $RECONCILER_STATE, or leave both out.",
        )
    return find_inventory(
        settings.inventory,
        env=os.environ,
        manifests_dir=place.root / place.subdir,
        home=Path.home(),
        state_dir=state,
        trust=trust,
    )


def trust_of(inventory: Inventory, place: Place) -> Permits:
    """What the manifests may have of this machine. Raises ManifestError."""
    return trust_in(place).also(inventory.allow)


@contextmanager
def open_ports(settings: Settings) -> Iterator[Ports]:
    """The real world behind the ports. Connections are made when first used and closed at the end."""
    place = find_place(settings)
    working_tree = settings.working_tree or place.git_dir is None
    cache_dir = _cache_base(settings) / hashlib.sha256(str(place.root).encode()).hexdigest()[:16]
    owner = _owner(place, cache_dir)
    inventory = read_inventory(settings, place)
    trust = trust_of(inventory, place)
    store = _store(settings, place, inventory, owner)
    hosts = Hosts(inventory, machines_folder(settings), owner)

    def check(jobs: Iterable[Desired]) -> tuple[Problem, ...]:
        trust.ask_again()  # each pass, so that `watch` hears of what was permitted meanwhile
        return (*check_references(jobs, inventory), *check_trust(jobs, trust))

    try:
        yield Ports(
            source=ManifestSource(
                place.root,
                place.subdir,
                settings.ref,
                working_tree=working_tree,
                cache=FileCache(cache_dir / "desired.json"),
                notes=remarks_on(inventory),
            ),
            store=store,
            clock=SystemClock(),
            shipper=RepositoryShipper(place.root, cache_dir, hosts.shipping, trust),
            hosts=tuple(view_of(host, inventory.gres_mapping) for host in inventory.ordered()),
            backends=hosts.backend,
            secrets=secrets_of(inventory, trust),
            token=lambda: randomness.token_hex(16),
            decode=decode,
            chip_of=chip_of,
            check=check,
            owner=owner,
            inventory_digest=inventory.digest,
            limits=inventory.limits,
            approve=inventory.approve == "auto",
        )
    finally:
        hosts.close()
        store.close()


def _store(settings: Settings, place: Place, inventory: Inventory, owner: str) -> SqliteStore | GitStore:
    if inventory.state == "local":
        return SqliteStore(_state_base(settings) / state_name(owner) / "state.sqlite")
    if place.git_dir is None:
        raise SourceError(
            f"{inventory.file} says state: git, and {place.root} is not in a git repository",
            hint="Make it one with a remote to which you can push, or write state: local.",
        )
    # Each directory of manifests is a source of its own, with a state of its own.
    return GitStore(GitRef(place.root, ref=f"refs/reconciler/{state_name(owner)}", git_dir=place.git_dir))


def remarks_on(inventory: Inventory) -> tuple[str, ...]:
    """What the inventory says and nothing follows, for a person to know."""
    there = {host.cluster: host.name for host in inventory.ordered() if isinstance(host, VolcanoHost)}
    return tuple(
        f"cluster {name} has `mount` (JuiceFS), which is ignored on {host}: on Kubernetes all storage is the claim's"
        for name, host in there.items()
        if inventory.clusters[name].mount is not None
    )


def view_of(host: Host, types: Mapping[str, str] | None = None) -> HostView:
    """What the solver sees of a host. `types` are the inventory's gres_mapping."""
    match host:
        case LocalHost():
            return HostView(host.name, "local", host.cluster, host.chips, host.slots, host.busy_mib)
        case PlainHost():
            return HostView(host.name, "plain", host.cluster, host.chips, host.slots, host.busy_mib)
        case SlurmHost():
            queue = QueueView(
                partitions=tuple(PartitionWish(one.name, one.default, one.constraint) for one in host.partitions),
                cpu_partitions=tuple(
                    PartitionWish(one.name, one.default, one.constraint) for one in host.cpu_partitions
                ),
                types=types or {},
                account=host.account,
                time_s=host.time_s,
                exclude=host.exclude,
            )
            return HostView(host.name, "slurm", host.cluster, host.chips, queue=queue, poll_s=host.poll_s)
        case TpuHost():
            return HostView(host.name, "tpu", host.cluster, {}, poll_s=host.poll_s, rented=rented_of(host))
        case VolcanoHost():
            return HostView(host.name, "volcano", host.cluster, {}, poll_s=host.poll_s, gang=gang_of(host))


def chip_of(gpu: Gpu) -> str | None:
    """The chip key of an accelerator as nvidia-smi names it."""
    return chip_of_nvidia(gpu.name, gpu.memory_total_mib)


def secrets_of(inventory: Inventory, trust: Permits) -> Callable[[JobSpec, str], Mapping[str, Secret]]:
    """Resolves a job's secrets, and those of its host's cluster, at launch. Raises SecretError."""
    resolver = Resolver(base=trust.base, home=trust.home, environ=os.environ, trust=trust)
    file = Path(inventory.file) if inventory.file else None
    of_inventory = Resolver(
        base=file.resolve().parent if file else trust.base,
        home=trust.home,
        environ=os.environ,
        trust=trust if file is not None and trust.holds(file) else None,
    )

    def resolve(spec: JobSpec, host: str) -> Mapping[str, Secret]:
        # What a Kubernetes cluster keeps itself, it hands over itself.
        theirs = isinstance(inventory.hosts.get(host), VolcanoHost)
        found = {
            name: resolver.resolve(name, ref)
            for name, ref in spec.secrets.items()
            if not (theirs and ref.kind == "kubernetes")
        }
        if host in inventory.hosts:
            for name, credential in inventory.cluster_of(host).secrets.items():
                if name not in found and name not in spec.env:
                    found[name] = of_inventory.resolve(name, credential)
        return found

    return resolve


class Hosts:
    """Backends and transports by host, opened when first used. Each is used by its host's lane only."""

    def __init__(self, inventory: Inventory, folder: Path, owner: str = "") -> None:
        self._inventory = inventory
        self._folder = folder
        self._owner = owner
        self._transports: dict[str, Transport] = {}
        self._backends: dict[str, Backend] = {}
        self._shipping: dict[str, HostShipping | MachinesShipping] = {}
        self._bundle: Bundle | None = None
        self._opening = threading.Lock()

    def backend(self, name: str) -> Backend:
        """The backend of a host. Raises ReconcilerError for a host this version does not drive."""
        with self._opening:
            self._open(name)
            return self._backends[name]

    def transport(self, name: str) -> Transport:
        """The way to a host that is a machine. Raises ReconcilerError like `backend`."""
        with self._opening:
            self._open(name)
            return self._transports[name]

    def shipping(self, name: str) -> HostShipping | MachinesShipping:
        """How code reaches a host. Raises ReconcilerError like `backend`."""
        with self._opening:
            self._open(name)
            return self._shipping[name]

    def close(self) -> None:
        for backend in self._backends.values():
            backend.close()
        for transport in self._transports.values():
            transport.close()

    def _open(self, name: str) -> None:
        if name in self._backends:
            return
        host = self._inventory.hosts.get(name)
        if host is None:
            raise ReconcilerError(
                f"Host {name} is not in the inventory", hint="Put it back, or `reconciler forget` its jobs."
            )
        cluster = self._inventory.cluster_of(name)
        if self._bundle is None:
            self._bundle = Bundle()
        if isinstance(host, (TpuHost, VolcanoHost)):
            self._open_elsewhere(host)
            return
        settings = transport_settings(host)
        transport = open_transport(settings)
        shipping = HostShipping(name, transport, settings, cluster.share, self._bundle)
        python = host.python or (sys.executable if isinstance(host, LocalHost) else None)
        paths = NodePaths(
            status=cluster.status,
            work=cluster.work,
            checkpoints=cluster.checkpoints,
            results=cluster.results,
            bundle=shipping.bundle_dir,
        )
        self._transports[name] = transport
        self._shipping[name] = shipping
        node = NodeSettings(name, paths, env={**cluster.env, **host.env}, uv_groups=host.uv_groups, python=python)
        if isinstance(host, SlurmHost):
            node = replace(node, modules=host.modules, setup=host.setup)
            site = Site(
                account=host.account,
                qos=host.qos,
                memory=host.mem,
                cpus_per_node=host.cpus_per_node,
                exclude=host.exclude,
                directives=host.directives,
            )
            self._backends[name] = BatchBackend(node, site, dialect_of(host.type), transport, shipping.install_bundle)
        else:
            self._backends[name] = NodeBackend(node, transport, shipping.install_bundle)

    def _open_elsewhere(self, host: TpuHost | VolcanoHost) -> None:
        """A host whose machines are not there before its runs are."""
        cluster, bundle = self._inventory.cluster_of(host.name), self._bundle
        assert bundle is not None
        paths = NodePaths(
            status=cluster.status,
            work=cluster.work,
            checkpoints=cluster.checkpoints,
            results=cluster.results,
            bundle=runtime_path(cluster.share, bundle.sha256),
        )
        shared = isinstance(host, VolcanoHost)
        env = {**cluster.env, **host.env}
        node = NodeSettings(host.name, paths, env=env, uv_groups=host.uv_groups, python=host.python, shared=shared)

        def install(transport: Transport) -> None:
            install_on(transport, cluster.share, bundle, shared=shared)

        backend = (
            open_tpu(
                host,
                node,
                folder=self._folder / host.name,
                install=install,
                inventory=self._inventory,
                owner=self._owner,
            )
            if isinstance(host, TpuHost)
            else open_volcano(host, node, install=install, owner=self._owner)
        )
        self._backends[host.name] = backend
        self._shipping[host.name] = MachinesShipping(host.name, cluster.share, backend.lacking, shared=shared)


def transport_settings(host: LocalHost | PlainHost | SlurmHost) -> TransportSettings:
    """How a host of the inventory is reached."""
    if isinstance(host, LocalHost):
        return TransportSettings("local", host.name)
    return TransportSettings(host.transport, host.ssh, connect_timeout_s=host.connect_timeout_s)


@dataclass(frozen=True, slots=True)
class Wakes:
    """For `watch`: a cheap name of the source's state, a wait that events shorten, hosts with news, and the end of all that."""

    fingerprint: Callable[[], object]
    woken: Callable[[float], bool]
    news: Callable[[], frozenset[str]]
    close: Callable[[], None]


def open_wakes(settings: Settings, ports: Ports, stop: threading.Event) -> Wakes:
    """Listen to the folders of the manifests, and to the hosts that can tell when something of ours changes."""
    place = find_place(settings)
    working_tree = settings.working_tree or place.git_dir is None
    folder = place.root / place.subdir if working_tree else None
    git_dir = place.git_dir or place.root
    watched = [
        path for path in (folder, git_dir / "refs" / "heads", git_dir / "logs") if path is not None and path.is_dir()
    ]
    events = FileEvents(watched, stop)
    telling = {}
    for view in ports.hosts:
        if view.gang is None:
            continue  # no other kind can
        backend = ports.backends(view.name)
        if isinstance(backend, Announces):
            telling[view.name] = backend
    news = HostNews(telling, events)

    def close() -> None:
        news.close()
        events.close()

    return Wakes(git_fingerprint(git_dir, folder), events.wait, news.take, close)


def _owner(place: Place, cache_dir: Path) -> str:
    cache = FileCache(cache_dir / "owner.json")
    known = cache.load("1").get("owner")
    owner = owner_of(place.root, known=known, in_git=place.git_dir is not None)
    if owner != known:
        cache.save("1", {"owner": owner})
    if place.git_dir is None or place.path in (MANIFESTS, "."):
        return owner
    return hashlib.sha256(f"{owner}:{place.path}".encode()).hexdigest()[:40]


def machines_folder(settings: Settings) -> Path:
    """Where is kept what ssh has to know of machines that come and go."""
    return _cache_base(settings) / "machines"


def _state_base(settings: Settings) -> Path:
    return settings.state or Path(platformdirs.user_state_dir("reconciler"))


def _cache_base(settings: Settings) -> Path:
    return settings.state / "cache" if settings.state else Path(platformdirs.user_cache_dir("reconciler"))
