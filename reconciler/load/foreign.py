"""An inventory that lies among the manifests is written by whoever writes them: what it may not ask of this machine.

It may choose hosts, accounts and paths: jobs run there anyway. It may not permit anything, nor have this machine start a program
or read a file while it merely looks at its hosts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.load.hosts import LOCAL, PATHS, cluster_of
from reconciler.load.normal import secret_ref
from reconciler.load.trust import Permits

_CREDENTIALS = ("mount", "wandb", "hf_token")
_ELSEWHERE = (
    "an inventory in the manifests' repository cannot say that, because whoever writes manifests writes it, too"
)

Path_ = tuple[str | int, ...]


def asked_too_much(value: dict[str, Any], beside: Path, trust: Permits) -> Iterator[tuple[Path_, str]]:
    """Where, and why not, of an inventory that the schema has taken. `beside`: the directory to which its files are relative."""
    if value.get("allow"):
        yield (
            ("allow",),
            f"{_ELSEWHERE}: write it into one outside of it, or git config, or $RECONCILER_ALLOW (docs/security.md)",
        )
    for name, cluster in value.get("clusters", {}).items():
        for field in _CREDENTIALS:
            if isinstance(cluster.get(field), dict):
                refused = trust.refusal(secret_ref(cluster[field]), beside)
                if refused is not None:
                    yield ("clusters", name, field), f"{refused.message}. {refused.hint}"
    for name, host in value["hosts"].items():
        yield from (((("hosts", name, *where)), message) for where, message in _of_host(host, trust))


def _of_host(host: dict[str, Any], trust: Permits) -> Iterator[tuple[Path_, str]]:
    kubeconfig = host.get("kubeconfig")
    # A kubeconfig names programs that sign in. Those of the user's own folder are the user's.
    if kubeconfig and not (_is_own(kubeconfig, ".kube", trust) or trust.names_file(kubeconfig)):
        yield (
            ("kubeconfig",),
            f"{_ELSEWHERE}: a kubeconfig may start programs here. Leave it to $KUBECONFIG, name one in ~/.kube/, or permit it: "
            f"{trust.how({'files': [kubeconfig]})}",
        )
    key = host.get("ssh_key")
    # The public key is sent to whoever answers for the host, and the private one is tried there.
    for file in (key, f"{key}.pub") if key else ():
        if not (_is_own(file, ".ssh", trust) or trust.names_file(file)):
            yield (
                ("ssh_key",),
                f"{_ELSEWHERE}: {file} would be used as a key. Name one in ~/.ssh/, or permit it: "
                f"{trust.how({'files': [key, f'{key}.pub']})}",
            )
            break
    if host.get("endpoint"):
        yield ("endpoint",), f"{_ELSEWHERE}: your sign-in to Google Cloud would be sent there. Use one of your own"
    if host.get("type") != LOCAL:
        return
    python = host.get("python")
    if python and not trust.takes_command(python):
        yield ("python",), f"{_ELSEWHERE}: it would be started here. Permit it: {trust.how({'commands': [[python]]})}"


def in_repository(value: dict[str, Any], trust: Permits) -> Iterator[tuple[Path_, str]]:
    """Where, and why not, paths of this machine lie among what whoever writes manifests writes. Of any inventory."""
    for name, host in value["hosts"].items():
        given = value.get("clusters", {}).get(host.get("cluster", LOCAL))
        if host.get("type") != LOCAL or given is None:
            continue
        cluster = cluster_of("", given, trust.home)
        for field in PATHS:
            path = getattr(cluster, field)
            # The runtime is started from there: it must not be one that was committed.
            if path is not None and trust.holds(Path(path)):
                yield (
                    ("hosts", name, "cluster"),
                    f"its {field} {path} lies in the manifests' repository, whose files would be taken for ours: choose a "
                    "directory outside of it, such as ~/.local/share/reconciler",
                )
                break


def _is_own(file: str, folder: str, trust: Permits) -> bool:
    """Does it lie in this folder of the home directory, wherever links lead? A relative path depends on where we are started."""
    path = trust.place_of(file).resolve()
    return file[:1] in ("~", "/") and (trust.home / folder).resolve() in path.parents and not trust.holds(path)
