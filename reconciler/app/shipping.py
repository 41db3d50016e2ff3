"""Code on its way: from a repository on this side to a host, once per content.

A launch first takes it that the host has the code, because it mostly has: that makes a launch one round trip. A host that lacks
it declines the run as `missing`, and only then is the code sent.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.app.lanes import abreast
from reconciler.app.ports import Package, Progress
from reconciler.core.errors import ReconcilerError, ShipError
from reconciler.core.job import JobSpec, Source
from reconciler.core.names import digest_of
from reconciler.core.protocols import Tree
from reconciler.core.transport import Transport
from reconciler.load.trust import Permits
from reconciler.source import git
from reconciler.source.deliver import Trust, deliver, deliver_runtime, object_path, runtime_path
from reconciler.source.rsync import synchronise
from reconciler.source.snapshot import Snapshot, Submodules, archive, dirty, listed
from reconciler.transports.registry import TransportSettings
from runtime.bundle import bundle_tar

# A slow link takes this long for a large tree; a dead one is noticed by the transport's keep-alive long before.
DELIVER_DEADLINE_S = 3600.0
BUNDLE_DEADLINE_S = 120.0


class Bundle:
    """The runtime as it travels: packed once per process."""

    def __init__(self) -> None:
        self.data = bundle_tar()
        self.sha256 = hashlib.sha256(self.data).hexdigest()


class HostShipping:
    """One host's end. Used by that host's lane only."""

    def __init__(
        self, name: str, transport: Transport, settings: TransportSettings, share: str, bundle: Bundle
    ) -> None:
        self.name = name
        self.transport = transport
        self.settings = settings
        self.share = share
        self.shared = False
        self._bundle = bundle

    @property
    def bundle_dir(self) -> str:
        """Where the unpacked runtime lies, or will."""
        return runtime_path(self.share, self._bundle.sha256)

    def transports(self) -> Sequence[Transport]:
        """The machines to which code has to go."""
        return (self.transport,)

    def install_bundle(self) -> None:
        """Bring the runtime there. Raises ShipError, Rejected, and the transport's errors."""
        install_on(self.transport, self.share, self._bundle)


class MachinesShipping:
    """The end of a host whose machines come and go: code goes to those on which it was found missing, which `lacking` tells."""

    def __init__(
        self, name: str, share: str, lacking: Callable[[], Sequence[Transport]], *, shared: bool = False
    ) -> None:
        self.name = name
        self.shared = shared
        self.share = share
        self.transports = lacking


def install_on(transport: Transport, share: str, bundle: Bundle, *, shared: bool = False) -> None:
    """Bring the runtime to one machine. Raises ShipError, Rejected, and the transport's errors."""
    deliver_runtime(transport, share, bundle.data, deadline_s=BUNDLE_DEADLINE_S, shared=shared)


@dataclass(frozen=True, slots=True)
class Rsynced:
    """A tree that is kept on the host by rsync instead of being packed."""

    tree: Path
    name: str


class RepositoryShipper:
    """Packs from the repositories that manifests name, relative to theirs."""

    def __init__(
        self, root: Path, cache_dir: Path, hosts: Callable[[str], HostShipping | MachinesShipping], trust: Permits
    ) -> None:
        self._root = root
        self._trust = trust
        self._cache = cache_dir
        self._hosts = hosts

    def prepare(self, spec: JobSpec, pin: str | None, head: str | None) -> Package:
        """Resolve or take the pinned commit, and pack. Raises ShipError, also for a repository from which manifests may ship
        nothing, and SourceError; both with the repository's name."""
        if spec.source is None:
            return Package(None, False, None)
        try:
            return self._packed(spec, spec.source, pin, head)
        except (OSError, ValueError) as error:
            # A path or pattern that no system takes, a directory that may not be read: this job's affair, and nobody else's.
            raise ShipError(f"{spec.source.repo} cannot be packed: {error}", hint="Correct spec.source.") from error

    def _packed(self, spec: JobSpec, source: Source, pin: str | None, head: str | None) -> Package:
        repo = self._trust.repo(source.repo)
        if not repo.is_dir():
            raise ShipError(
                f"{source.repo}: no such directory beside the manifests ({repo})", hint="Correct spec.source.repo."
            )
        if git.is_bare(repo) and (repo != self._root or source.mode != "archive" or source.dirty):
            # Its configuration names programs and holds tokens, and it may be files of somebody's that were put there.
            raise ShipError(
                f"{source.repo}: code is not shipped from a repository without a working tree ({repo})",
                hint="Name a clone of it in spec.source.repo, or ship a commit of the manifests' own.",
            )
        submodules = Submodules.INCLUDE if source.submodules else Submodules.LEAVE_OUT
        match source.mode:
            case "files":
                snapshot = listed(repo, source.files, cache=self._cache)
            case "rsync":
                return Package(_commit_of(repo), True, Rsynced(repo, digest_of([str(repo), str(spec.key)])[:16]))
            case "archive" if source.dirty:
                snapshot = dirty(repo, cache=self._cache, submodules=submodules)
            case "archive":
                commit = pin or (
                    head if head and source.ref == "HEAD" and repo == self._root else _resolve(repo, source)
                )
                snapshot = archive(repo, commit, cache=self._cache, submodules=submodules)
        return Package(snapshot.commit, snapshot.dirty, snapshot, snapshot.warnings)

    def deliver(self, host: str, package: Package, progress: Progress | None, *, send: bool) -> Tree | None:
        """Where the package lies on the host. `send` makes sure that it is there; without it nobody is asked."""
        match package.payload:
            case Snapshot() as snapshot:
                end = self._hosts(host)
                if send:
                    _send(end, snapshot, progress)
                return Tree(object=object_path(end.share, snapshot.sha256), sha256=snapshot.sha256)
            case Rsynced() as rsynced:
                end = self._hosts(host)
                if isinstance(end, MachinesShipping):
                    raise ShipError(
                        f"{host} has no machine of its own on which rsync could keep a tree",
                        hint="Use spec.source.mode: archive.",
                    )
                directory = synchronise(
                    rsynced.tree, end.transport, end.settings, end.share, rsynced.name, deadline_s=DELIVER_DEADLINE_S
                )
                return Tree(directory=directory)
        return None


def _send(end: HostShipping | MachinesShipping, snapshot: Snapshot, progress: Progress | None) -> None:
    """To all machines side by side. Raises the first error; the same call looks what is there and goes on."""
    transports = end.transports()
    report = _summed(f"code to {end.name}", snapshot.size * len(transports), progress)
    lock = threading.Lock()

    def add(more: int) -> None:
        with lock:
            if report is not None:
                report(more)

    def call(transport: Transport) -> Callable[[], object]:
        return lambda: deliver(
            transport,
            end.share,
            snapshot,
            deadline_s=DELIVER_DEADLINE_S,
            trust=Trust.CHECKSUM,
            shared=end.shared,
            progress=add,
        )

    results = abreast({number: call(transport) for number, transport in enumerate(transports)})
    for result in results.values():
        if isinstance(result, ReconcilerError):
            raise result


def _resolve(repo: Path, source: Source) -> str:
    if git.ask(repo, "rev-parse", "--git-dir")[0] != 0:
        raise ShipError(
            f"{repo} is not a git repository, so there is no commit to ship",
            hint="Set spec.source: null to ship no code, spec.source.mode: files for named files, or make it a repository.",
        )
    return git.resolve(repo, source.ref)


def _commit_of(repo: Path) -> str | None:
    status, out, _ = git.ask(repo, "rev-parse", "--verify", "-q", "HEAD^{commit}")
    return out.decode().strip() if status == 0 else None


def _summed(what: str, total: int, progress: Progress | None) -> Callable[[int], None] | None:
    """Differences, as transports report them, to sums, as people read them."""
    if progress is None:
        return None
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        progress(what, done, total)

    return add
