"""Checks that say what to fix: this machine, the manifests, every host."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from reconciler.app.capacity import cooled
from reconciler.app.check import check_all
from reconciler.app.doctor_machine import examine_machine
from reconciler.app.doctor_queue import examine_queue
from reconciler.app.doctor_volcano import examine_volcano
from reconciler.app.finding import Finding
from reconciler.app.lanes import Lanes
from reconciler.app.wiring import (
    Hosts,
    Settings,
    find_place,
    machines_folder,
    open_ports,
    read_inventory,
    transport_settings,
)
from reconciler.backends.tpu import TpuBackend
from reconciler.backends.volcano import VolcanoBackend
from reconciler.core.chips import topology_of
from reconciler.core.errors import ReconcilerError
from reconciler.core.inventory import Cluster, LocalHost, PlainHost, SlurmHost, TpuHost, VolcanoHost
from reconciler.core.protocols import Look


def examine(settings: Settings, names: Iterable[str] | None) -> list[Finding]:
    """All findings, this machine first. Raises ManifestError when there is no usable inventory to take hosts from."""
    findings = list(_here(settings))
    place = find_place(settings)
    inventory = read_inventory(settings, place)
    wanted = list(names) if names else list(inventory.order)
    unknown = [name for name in wanted if name not in inventory.hosts]
    if unknown:
        raise ReconcilerError(
            f"No host is called {unknown[0]!r}", hint=f"The inventory has: {', '.join(inventory.order)}"
        )
    hosts = Hosts(inventory, machines_folder(settings))
    lanes = Lanes()
    calls: dict[str, Callable[[], list[Finding]]] = {}
    for name in wanted:
        host = inventory.hosts[name]
        if isinstance(host, (LocalHost, PlainHost)):
            calls[name] = _host_call(host, inventory.cluster_of(name), hosts)
        elif isinstance(host, SlurmHost):
            calls[name] = _queue_call(host, inventory.cluster_of(name), hosts)
        elif isinstance(host, TpuHost):
            calls[name] = _rented_call(host, hosts)
        else:
            calls[name] = _gang_call(host, inventory.cluster_of(name), hosts)
    try:
        results = dict(lanes.each(calls))
    finally:
        hosts.close()
        lanes.close()
    for name in calls:
        result = results[name]
        if isinstance(result, ReconcilerError):
            findings.append(Finding(name, "connection", False, result.message, result.hint))
        else:
            findings.extend(result)
    return [*findings, *_paused(settings, wanted)]


def _paused(settings: Settings, wanted: Iterable[str]) -> Iterable[Finding]:
    """Hosts that get no new jobs for a while, which no look at the host itself can tell."""
    try:
        with open_ports(settings) as ports:
            paused = cooled(ports)
    except ReconcilerError as error:
        yield Finding("this machine", "state", False, error.message, error.hint)
        return
    for name in wanted:
        if name in paused:
            fix = (
                f"Find out why it loses jobs; until then others are chosen. To start there: reconciler apply --trust-host "
                f"{name}"
            )
            yield Finding(name, "cool-down", False, paused[name].sentence, fix)


def _here(settings: Settings) -> Iterable[Finding]:
    here = "this machine"
    for tool, need in (("git", True), ("ssh", False), ("rsync", False)):
        found = shutil.which(tool)
        fix = "" if found else f"Install {tool}" + ("." if need else " if a host or job needs it.")
        yield Finding(here, tool, bool(found) or not need, found or "not found", fix)
    try:
        checked = check_all(settings)
    except ReconcilerError as error:
        yield Finding(here, "manifests", False, error.message, error.hint)
        return
    for problem in checked.problems[:10]:
        yield Finding(here, "manifests", False, str(problem))
    if not checked.problems:
        yield Finding(here, "manifests", True, f"{checked.jobs} jobs in {checked.files} files{checked.tail}")


def _host_call(host: LocalHost | PlainHost, cluster: Cluster, hosts: Hosts) -> Callable[[], list[Finding]]:
    return lambda: list(_host(host, cluster, hosts))


def _queue_call(host: SlurmHost, cluster: Cluster, hosts: Hosts) -> Callable[[], list[Finding]]:
    return lambda: [*_login(host, cluster, hosts), *examine_queue(host, cluster, hosts.transport(host.name))]


def _rented_call(host: TpuHost, hosts: Hosts) -> Callable[[], list[Finding]]:
    return lambda: list(_rented(host, hosts))


def _gang_call(host: VolcanoHost, cluster: Cluster, hosts: Hosts) -> Callable[[], list[Finding]]:
    def look() -> list[Finding]:
        backend = hosts.backend(host.name)
        assert isinstance(backend, VolcanoBackend)
        return list(examine_volcano(host, cluster, backend.home()))

    return look


def _rented(host: TpuHost, hosts: Hosts) -> Iterable[Finding]:
    """The control plane: may we ask it, and what of ours is there?"""
    census = hosts.backend(host.name).observe(Look())
    count = len(census.machines)
    found = f"{count} machine{'' if count == 1 else 's'} made for this host" if census.complete else census.error
    yield Finding(host.name, "control plane", census.complete, found)
    if census.complete and topology_of(host.accelerator_type) is None:
        backend = hosts.backend(host.name)
        assert isinstance(backend, TpuBackend)
        lacking = backend.not_offered()
        said = f"{host.accelerator_type} is not offered in {', '.join(lacking)}" if lacking else host.accelerator_type
        fix = f"See `gcloud compute tpus accelerator-types list --zone={lacking[0]}`." if lacking else ""
        yield Finding(host.name, "accelerator type", not lacking, said, fix)
    key = Path(host.ssh_key).expanduser()
    fix = (
        ""
        if key.exists()
        else f"Make one: `ssh-keygen -t ed25519 -f {shlex.quote(str(key))}`, or name another in the host's ssh_key."
    )
    yield Finding(host.name, "ssh key", key.exists(), str(key) if key.exists() else f"{key} does not exist", fix)
    if host.price_per_chip_hour is None:
        fix = "Set price_per_chip_hour in the host's entry of the inventory."
        yield Finding(host.name, "price", False, "not known: plans cannot say what a launch costs", fix)


def _host(host: LocalHost | PlainHost, cluster: Cluster, hosts: Hosts) -> Iterable[Finding]:
    yield from _login(host, cluster, hosts)
    census = hosts.backend(host.name).observe(Look(probe=True))
    yield Finding(
        host.name,
        "observe",
        census.complete,
        f"{len(census.sightings)} runs may be alive" if census.complete else census.error,
    )
    capacity = census.capacity
    if capacity is not None and host.chips:
        found = len(capacity.gpus or ())
        need = sum(host.chips.values())
        detail = capacity.error or f"{found} seen by nvidia-smi, {need} in the inventory"
        fix = "" if found >= need else "Correct `chips:` in the inventory, or look at nvidia-smi on the host."
        yield Finding(host.name, "accelerators", found >= need and not capacity.error, detail, fix)


def _login(host: LocalHost | PlainHost | SlurmHost, cluster: Cluster, hosts: Hosts) -> Iterable[Finding]:
    """The machine that we log in to."""
    how = transport_settings(host).kind
    return examine_machine(host.name, hosts.transport(host.name), cluster, how=how, python=host.python or "")
