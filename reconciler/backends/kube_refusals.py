"""What the Kubernetes API meant by an answer that is no success, and what a missing answer means. Pure.

The server answers with an HTTP status and a `Status` object (reason, message, causes). The words of recorded answers
(tests/records/kubernetes) decide where one code has several meanings: 404 is a kind the server does not know, a namespace that is
not there, or an object that is not there; 403 is a missing right, a quota, pod security or a namespace that ends; 400 is a
webhook's denial or a misspelt field. What is in no table and may have had an effect is doubt.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.backends.kube_control import NAMESPACE, POD, Kind
from reconciler.core.errors import (
    AccessRefused,
    NotNow,
    OutcomeUnknown,
    ReconcilerError,
    Rejected,
    Unparsable,
    Unreachable,
)

VOLCANO_GROUPS = ("batch.volcano.sh", "scheduling.volcano.sh")
WRITES = frozenset({"create", "delete", "patch", "update"})
"""The verbs after which a lost answer leaves open what happened."""

_LENGTH_MAX = 700
_WORDS = {
    "Job": "Volcano job",
    "PodGroup": "pod group",
    "Queue": "Volcano queue",
    "Pod": "pod",
    "Secret": "secret",
    "Event": "event",
    "PersistentVolumeClaim": "volume claim",
    "Namespace": "namespace",
}

_WHO = re.compile(r'User "([^"]*)" cannot')
_NO_NAMESPACE = re.compile(r'^namespaces "([^"]*)" not found')
_TERMINATING = re.compile(r"because it is being terminated")
_QUOTA = re.compile(r"exceeded quota|must specify .* for|failed quota")
_SECURITY = re.compile(r"violates PodSecurity")
_WEBHOOK_DOWN = re.compile(r"failed (?:calling|to call) webhook")
_DENIED = re.compile(r"admission webhook .* denied the request|ValidatingAdmissionPolicy .* denied")
_NO_QUEUE = re.compile(r"unable to find job queue|queue\S* \"[^\"]*\" not found")
_QUEUE_SHUT = re.compile(r"can only submit job to queue with state")
_UNKNOWN_FIELD = re.compile(r'unknown field "([^"]+)"')
_SIZE = re.compile(r"Too long: may not be more than \d+ bytes|request entity too large", re.I)
_SIZE_MAX = re.compile(r"may not be more than (\d+) bytes|limit is (\d+)")
_UID = re.compile(r"Precondition failed: UID|the UID in the precondition|uid mismatch", re.I)
_NOT_STARTED = re.compile(
    r"is waiting to start|ContainerCreating|PodInitializing|does not have a host assigned|"
    r"container not found|is not running|trying and failing to pull image"
)
_COMPLETED = re.compile(r"in a completed pod|container .* (?:has )?(?:exited|terminated)", re.I)
_NO_PROGRAM = re.compile(r"executable file not found|no such file or directory: unknown|permission denied: unknown")
_NO_CONTAINER = re.compile(r"container \S+ is not valid for pod")
_TLS_PEER = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|Hostname mismatch|hostname .* doesn't match|"
    r"self.signed certificate|certificate has expired",
    re.I,
)
_TLS_US = re.compile(
    r"alert (?:bad certificate|certificate required|unknown ca|certificate expired|access denied)", re.I
)


@dataclass(frozen=True, slots=True)
class Login:
    """By what we reach a cluster: as the inventory says. Empty: the library's default."""

    kubeconfig: str = ""
    context: str = ""
    server: str = ""

    @property
    def kubectl(self) -> str:
        """The start of a kubectl command that asks the same cluster as we do."""
        words = ["kubectl"]
        if self.kubeconfig:
            words += ["--kubeconfig", self.kubeconfig]
        if self.context:
            words += ["--context", self.context]
        return shlex.join(words)

    @property
    def told(self) -> str:
        """For a sentence: whose credentials they are."""
        of = f"context {self.context}" if self.context else "the current context"
        return f"{of} of {self.kubeconfig or 'the default kubeconfig'}"

    @property
    def where(self) -> str:
        return self.server or "the Kubernetes API"


@dataclass(frozen=True, slots=True)
class Ask:
    """One call, as the server's access rules name it. `namespace` is "" for a kind of the whole cluster."""

    verb: str
    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def resource(self) -> str:
        """As kubectl and the server write it: `jobs.batch.volcano.sh`, `pods`."""
        return f"{self.kind.plural}.{self.kind.group}" if self.kind.group else self.kind.plural

    @property
    def doing(self) -> str:
        """For a sentence that starts with "could not"."""
        thing = _WORDS.get(self.kind.kind, self.kind.kind)
        what = f"{thing} {self.name}" if self.name else f"{thing}s" if self.verb == "list" else thing
        place = f" in namespace {self.namespace}" if self.namespace and self.kind.namespaced else ""
        if self.subresource == "exec":
            return f"run a command in {what}{place}"
        if self.subresource == "log":
            return f"read the output of {what}{place}"
        return f"{'read' if self.verb == 'get' else self.verb} {what}{place}"

    @property
    def writes(self) -> bool:
        return self.verb in WRITES


@dataclass(frozen=True, slots=True)
class Status:
    """The server's answer to a call that failed. `plain`: it was not a Status object; `message` is then its text."""

    code: int
    reason: str = ""
    message: str = ""
    causes: Sequence[dict[str, Any]] = field(default=(), hash=False)
    details: dict[str, Any] = field(default_factory=dict, hash=False)
    plain: bool = False


def status_of(code: int, body: bytes) -> Status:
    """Read an error's body, whatever it is."""
    try:
        told = json.loads(body)
    except (ValueError, UnicodeDecodeError):
        told = None
    if not isinstance(told, dict) or told.get("kind") != "Status":
        return Status(code, message=_cut(body.decode("utf-8", "replace")), plain=True)
    details = told.get("details")
    details = details if isinstance(details, dict) else {}
    causes = details.get("causes")
    return Status(
        code,
        reason=str(told.get("reason") or ""),
        message=_cut(str(told.get("message") or "")),
        causes=[cause for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else (),
        details=details,
    )


# --- answers that are values


def absent(ask: Ask, status: Status) -> bool:
    """Does the server say that there is no object of this name, the kind and the namespace being known to it?"""
    if status.code != 404 or status.plain or status.reason != "NotFound" or not ask.name:
        return False
    if ask.kind != NAMESPACE and _NO_NAMESPACE.search(status.message):
        return False
    return str(status.details.get("name") or "") == ask.name


def exists(status: Status) -> bool:
    """A create met an object of the same name."""
    return status.code == 409 and status.reason == "AlreadyExists"


def other_uid(status: Status) -> bool:
    """An effect was bound to a uid, and the object of this name is another one."""
    return status.code == 409 and status.reason == "Conflict" and bool(_UID.search(status.message))


def stale_list(status: Status) -> bool:
    """A list's next page is no longer to be had; it has to start anew."""
    return status.code == 410


def not_started(status: Status) -> bool:
    """The container has not come up (yet), or its pod has no node: no output, no commands."""
    return status.code in (400, 404, 500) and bool(_NOT_STARTED.search(status.message))


def passing(status: Status) -> bool:
    """May the same read succeed a moment later?"""
    return status.code in (429, 500, 502, 503, 504) and not _NOT_STARTED.search(status.message)


# --- answers that are errors


def error(ask: Ask, status: Status, login: Login) -> ReconcilerError:
    """What to raise for an answer that is no success."""
    said = f"Could not {ask.doing}: {status.message or f'HTTP status {status.code}, without a word'}"
    match status.code:
        case 401:
            return unauthorized(ask, login)
        case 403:
            return _forbidden(ask, status, login, said)
        case 404:
            return _missing(ask, status, login, said)
        case 409:
            return Unreachable(said, hint="The object changed meanwhile. Nothing was done; the next pass looks again.")
        case 410:
            return Unreachable(said, hint="The list grew old while it was read. The next pass reads it anew.")
        case 413:
            return Rejected(said, hint=_size_hint(status))
        case 429:
            return Unreachable(said, hint="The server is busy, and did nothing. The next pass tries again.")
        case 400 | 405 | 406 | 415 | 422:
            return _invalid(ask, status, login, said)
    if status.code >= 500:
        return _failing(ask, status, login, said)
    if 200 <= status.code < 300:
        return Unparsable(f"Could not {ask.doing}: {login.where} answered something else: {status.message}")
    if 300 <= status.code < 400:
        return Rejected(
            f"Could not {ask.doing}: {login.where} sends us elsewhere (HTTP status {status.code}), as no Kubernetes API does",
            hint=f"Correct the server of {login.told}; a login page or a proxy may stand there.",
        )
    return Rejected(said)


def unauthorized(ask: Ask, login: Login) -> AccessRefused:
    """The server does not know who we are."""
    return AccessRefused(
        f"Could not {ask.doing}: {login.where} does not accept the credentials of {login.told}: they are wrong, or have expired",
        hint=f"Sign in again as your cluster's documentation says; `{login.kubectl} auth whoami` then tells who you are.",
    )


def _forbidden(ask: Ask, status: Status, login: Login, said: str) -> ReconcilerError:
    if _TERMINATING.search(status.message):
        return NotNow(
            said,
            hint=f"Wait until `{login.kubectl} get namespace {ask.namespace}` says NotFound and make it again, "
            "or name another namespace in the inventory.",
        )
    if _QUOTA.search(status.message):
        return NotNow(
            said,
            hint=f"`{login.kubectl} -n {ask.namespace} describe resourcequota` shows what is used; "
            "ask for less, or let something end.",
        )
    if _SECURITY.search(status.message):
        return Rejected(
            said,
            hint=f"The namespace {ask.namespace} demands it of every pod: write the fields that are named above into `pod` and "
            "`container` of the host's entry in the inventory, or use another namespace.",
        )
    who = _WHO.search(status.message)
    if who is None and status.reason == "Forbidden" and "forbidden" in status.message and ask.writes:
        # An admission plugin of the server's: a right is not what is missing.
        return Rejected(said)
    name = who.group(1) if who else ""
    if name == "system:anonymous":
        return AccessRefused(
            said,
            hint=f"Nobody is signed in: {login.told} brought no credentials. Sign in, then `{login.kubectl} auth whoami`.",
        )
    return AccessRefused(
        said, hint=f"{_can_i(ask, login)} asks the same; an administrator grants it{f' to {name}' if name else ''}."
    )


def _can_i(ask: Ask, login: Login) -> str:
    words = [login.kubectl, "auth", "can-i", ask.verb, ask.resource]
    if ask.subresource:
        words += ["--subresource", ask.subresource]
    if ask.namespace and ask.kind.namespaced:
        words += ["-n", ask.namespace]
    return f"`{' '.join(words)}`"


def _missing(ask: Ask, status: Status, login: Login, said: str) -> ReconcilerError:
    namespace = _NO_NAMESPACE.search(status.message)
    if namespace and ask.kind != NAMESPACE:
        return no_namespace(namespace.group(1), ask, login)
    if status.plain or not status.details.get("name"):
        return no_kind(ask, login)
    if ask.kind == POD and ask.subresource:
        return Unreachable(said, hint="The pod is gone; nothing was done.")
    return Rejected(said, hint=f"`{login.kubectl} -n {ask.namespace} get {ask.resource}` shows what there is.")


def no_namespace(name: str, ask: Ask, login: Login) -> NotNow:
    """The namespace is not there."""
    return NotNow(
        f"Could not {ask.doing}: there is no namespace {name} on {login.where}",
        hint=f"Make it with `{login.kubectl} create namespace {name}`, "
        "or correct the host's namespace or context in the inventory.",
    )


def no_kind(ask: Ask, login: Login) -> NotNow:
    """The server does not know this kind of object at all."""
    if ask.kind.group in VOLCANO_GROUPS:
        return NotNow(
            f"Could not {ask.doing}: {login.where} does not know {ask.resource} {ask.kind.version}: "
            "Volcano is not installed there",
            hint="Ask an administrator for Volcano, or correct the host's context in the inventory. "
            f"`{login.kubectl} api-resources --api-group {ask.kind.group}` shows it when it is there.",
        )
    return NotNow(
        f"Could not {ask.doing}: {login.where} does not know {ask.resource} {ask.kind.version}; it may be no Kubernetes API",
        hint=f"Correct the server of {login.told}; `{login.kubectl} version` asks it who it is.",
    )


def _invalid(ask: Ask, status: Status, login: Login, said: str) -> ReconcilerError:
    if _SIZE.search(status.message):
        return Rejected(said, hint=_size_hint(status))
    unknown = _UNKNOWN_FIELD.search(status.message)
    if unknown:
        return Rejected(
            said,
            hint=f"The cluster's {_WORDS.get(ask.kind.kind, ask.kind.kind)} has no field {unknown.group(1)}: "
            "it is misspelt in the job's `volcano` settings, or the cluster's version is older.",
        )
    if _NO_QUEUE.search(status.message):
        return NotNow(said, hint=f"`{login.kubectl} get queues.scheduling.volcano.sh` shows the queues there are.")
    if _QUEUE_SHUT.search(status.message):
        return NotNow(said, hint="The queue takes no jobs now. Name another, or ask an administrator to open it.")
    if ask.subresource == "exec":
        if _NOT_STARTED.search(status.message):
            return Unreachable(said, hint="It may come up in a moment; nothing was done.")
        if _COMPLETED.search(status.message):
            return Unreachable(said, hint="The pod has ended; nothing was done.")
    return Rejected(said)


def _size_hint(status: Status) -> str:
    found = _SIZE_MAX.search(status.message)
    most = next((group for group in found.groups() if group), "") if found else ""
    return f"One object may have {f'{most} bytes' if most else 'about 1.5 MB'} at most; large files belong on the volume claim."


def _failing(ask: Ask, status: Status, login: Login, said: str) -> ReconcilerError:
    if _WEBHOOK_DOWN.search(status.message):
        return Unreachable(
            said,
            hint="A part of the cluster that checks new objects (for jobs: Volcano's admission service) does not answer. Nothing "
            f"was done; it is tried again. `{login.kubectl} get pods -A` shows whether it runs.",
        )
    if ask.subresource == "exec":
        return _exec_failed(said, status)
    # 503 with the server's own words was refused before anything was done; a gateway's page, and 500, leave it open.
    if ask.writes and (status.code != 503 or status.plain):
        return OutcomeUnknown(
            f"{said}. Whether it was done is not known", hint="The next pass looks, and goes on from there."
        )
    return Unreachable(said, hint="The server is in trouble; it is tried again.")


def _exec_failed(said: str, status: Status) -> ReconcilerError:
    if _NO_PROGRAM.search(status.message):
        return Rejected(
            said, hint="The image must have a POSIX `sh` and `head`, `cat`, `wc`, `mv`, `mkdir`, `chmod`, `rm`."
        )
    return Unreachable(
        said, hint="The container may not run yet, or no more, or its node does not answer; nothing was done."
    )


def exec_failed(ask: Ask, status: Status) -> ReconcilerError:
    """What to raise for a command that did not speak, by the Status that ended its stream."""
    said = f"Could not {ask.doing}: {status.message or status.reason or 'the server did not say why'}"
    if _NO_PROGRAM.search(status.message) or _NOT_STARTED.search(status.message) or _COMPLETED.search(status.message):
        return _exec_failed(said, status)
    return OutcomeUnknown(f"{said}. Whether it ran is not known")


# --- no answer at all


def unanswered(ask: Ask, why: str, login: Login, *, sent: bool) -> ReconcilerError:
    """What to raise when the connection failed. `sent`: the request may have reached the server."""
    said = f"Could not {ask.doing}: no answer from {login.where}: {_cut(why)}"
    if _TLS_PEER.search(why):
        return AccessRefused(
            said,
            hint=f"The server's certificate is not one that {login.told} trusts. If the cluster was set up anew, "
            "fetch its kubeconfig again; else somebody may be listening in.",
        )
    if _TLS_US.search(why):
        return AccessRefused(
            said, hint=f"The server refuses the client certificate of {login.told}; fetch the kubeconfig again."
        )
    if sent and ask.writes:
        return OutcomeUnknown(
            f"{said}. Whether it was done is not known", hint="The next pass looks, and goes on from there."
        )
    return Unreachable(said, hint=f"`{login.kubectl} version` asks the same server; a VPN or a tunnel may be needed.")


def unreadable(ask: Ask, piece: bytes, login: Login) -> Unparsable:
    """What came back is no such object."""
    text = _cut(piece[:400].decode("utf-8", "replace"))
    return Unparsable(f"Could not {ask.doing}: {login.where} answered what is no {ask.kind.kind}: {text or 'nothing'}")


# --- no login


def no_library() -> AccessRefused:
    return AccessRefused("The library kubernetes is not installed.", hint="Run `pip install 'reconciler[volcano]'`.")


def no_kubeconfig(path: str) -> AccessRefused:
    """There is no such file, or no file at all ("")."""
    if path:
        return AccessRefused(
            f"There is no kubeconfig {path}.",
            hint="Correct `kubeconfig` in the host's entry of the inventory, or $KUBECONFIG.",
        )
    return AccessRefused(
        "There is no kubeconfig: neither $KUBECONFIG nor ~/.kube/config, and this is no pod of a cluster.",
        hint="Fetch one as your cluster's documentation says, or write `kubeconfig: FILE` "
        "into the host's entry of the inventory.",
    )


def bad_kubeconfig(path: str, why: str) -> AccessRefused:
    """The file is there and cannot be used."""
    return AccessRefused(
        f"The kubeconfig {path} cannot be used: {_cut(why)}",
        hint=f"`kubectl --kubeconfig {path} config view` reads the same file; fetch it again when it is broken.",
    )


def no_context(path: str, context: str, there: Sequence[str]) -> AccessRefused:
    """The file has no such context; or, with "", no current one."""
    has = f"it has {', '.join(there)}" if there else "it has none at all"
    if context:
        return AccessRefused(
            f"The kubeconfig {path} has no context {context}; {has}.",
            hint="Correct `context` in the host's entry of the inventory.",
        )
    return AccessRefused(
        f"The kubeconfig {path} has no current context; {has}.",
        hint="Write `context: NAME` into the host's entry of the inventory, or run `kubectl config use-context NAME`.",
    )


def no_token(program: str, why: str, login: Login) -> AccessRefused:
    """The program that a kubeconfig names for signing in gave no credentials."""
    if re.search(r"No such file or directory|not found", why):
        return AccessRefused(
            f"The sign-in program {program} of {login.told} is not installed: {_cut(why)}",
            hint=f"Install {program} as your cluster's documentation says, and see that it is on the PATH.",
        )
    return AccessRefused(
        f"The sign-in program {program} of {login.told} gave no credentials: {_cut(why) or 'it did not say why'}",
        hint=f"Run `{login.kubectl} get pods` by hand and answer what {program} asks.",
    )


def _cut(message: str) -> str:
    """One line, not too long; a webhook's words may be pages."""
    text = " ".join(message.split())
    return text if len(text) <= _LENGTH_MAX else f"{text[: _LENGTH_MAX - 4]} ..."
