"""Cloud TPU VMs as typed values: nodes, queued resources, what is asked for and what came of it. Pure.

A control (backends/tpu_client, backends/tpu_gcloud) turns the API's answers into these; the driver reads nothing else.
A node is what the API calls a TPU VM: one slice, with one machine (worker) or many. A request is a queued resource: it
waits for capacity and then makes its node.

Sources: the Cloud TPU API v2 (Node.State, QueuedResourceState), cloud.google.com/tpu/docs.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reconciler.core.chips import parse_accelerator_type


class TpuState(enum.Enum):
    """All that matters of a node's state. A word that is not in the table is UNKNOWN, never LOST."""

    COMING = "coming"
    """It is being made or started; wait until the boot deadline."""
    READY = "ready"
    """Its machines can be used; then its health counts."""
    DEGRADED = "degraded"
    """It is being repaired; wait for a bounded time."""
    LOST = "lost"
    """It will run nothing any more, and occupies quota and name until it is deleted."""
    GOING = "going"
    """It is on its way out; a create under its name fails meanwhile."""
    UNKNOWN = "unknown"


class RequestState(enum.Enum):
    """All that matters of a queued resource's state. A word that is not in the table is UNKNOWN."""

    WAITING = "waiting"
    PROVISIONING = "provisioning"
    """It has its capacity; its node is being made."""
    ACTIVE = "active"
    """Its node exists, which does not mean that the node is READY."""
    SUSPENDED = "suspended"
    """Its node was taken or deleted. It never comes back: delete it and ask anew."""
    FAILED = "failed"
    """It could not be met, or its validity is over. It stays in the list, and in the quota, until it is deleted."""
    GOING = "going"
    """Its node is being taken (then SUSPENDED follows), or it is being deleted itself."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Word:
    """What one state word of a node means. `taken`: Google took the machines, which the preemption budget pays."""

    state: TpuState
    sentence: str
    taken: bool = False


WORDS: dict[str, Word] = {
    "CREATING": Word(TpuState.COMING, "the VM is being made"),
    "STARTING": Word(TpuState.COMING, "the VM is starting"),
    "RESTARTING": Word(TpuState.COMING, "the VM is restarting"),
    "REIMAGING": Word(TpuState.COMING, "the VM gets a new image: what was on its disk is gone"),
    "UNHIDING": Word(TpuState.COMING, "the VM is coming back from being hidden"),
    "READY": Word(TpuState.READY, "the VM is ready"),
    "REPAIRING": Word(TpuState.DEGRADED, "Google is repairing the VM"),
    "PREEMPTED": Word(TpuState.LOST, "Google took the VM back (preempted)", taken=True),
    "TERMINATED": Word(TpuState.LOST, "the VM was terminated, as after a preemption or a maintenance", taken=True),
    "STOPPED": Word(TpuState.LOST, "the VM was stopped"),
    "HIDDEN": Word(TpuState.LOST, "the VM is hidden: its account or project is restricted"),
    "UNKNOWN": Word(TpuState.LOST, "a repair of the VM failed"),
    "DELETING": Word(TpuState.GOING, "the VM is being deleted"),
    "STOPPING": Word(TpuState.GOING, "the VM is being stopped"),
    "HIDING": Word(TpuState.GOING, "the VM is being hidden"),
    "STATE_UNSPECIFIED": Word(TpuState.UNKNOWN, "Google does not tell the VM's state"),
}

REQUEST_WORDS: dict[str, tuple[RequestState, str]] = {
    "CREATING": (RequestState.WAITING, "the request is being recorded"),
    "ACCEPTED": (RequestState.WAITING, "the request waits for capacity"),
    "WAITING_FOR_RESOURCES": (RequestState.WAITING, "the request waits for capacity"),
    "PROVISIONING": (RequestState.PROVISIONING, "capacity was found, the VM is being made"),
    "ACTIVE": (RequestState.ACTIVE, "the request was met: its VM exists"),
    "FAILED": (RequestState.FAILED, "the request failed"),
    "SUSPENDING": (RequestState.GOING, "the request's VM is being taken back"),
    "SUSPENDED": (RequestState.SUSPENDED, "the request's VM was taken back or deleted"),
    "DELETING": (RequestState.GOING, "the request is being deleted"),
    "STATE_UNSPECIFIED": (RequestState.UNKNOWN, "Google does not tell the request's state"),
}

HEALTH: dict[str, str] = {
    "HEALTH_UNSPECIFIED": "",
    "HEALTHY": "",
    "TIMEOUT": "the VM does not answer Google's health check",
    "UNHEALTHY_TENSORFLOW": "Google's health check finds the software on the VM unhealthy",
    "UNHEALTHY_MAINTENANCE": "a maintenance of the VM is due or going on",
}
"""Sentence per health word, "" for nothing to say. Beside a READY node, a bad one is a warning, not an end."""


def state_of(word: str) -> TpuState:
    """The state that the API's word for a node means; UNKNOWN for a word that is not in the table."""
    found = WORDS.get(word)
    return found.state if found else TpuState.UNKNOWN


def sentence_of(word: str) -> str:
    """The same for people."""
    found = WORDS.get(word)
    return found.sentence if found else f"the VM is in a state that is not known here ({word or 'no word'})"


def taken_back(word: str) -> bool:
    """True for a word that says that Google took the machines."""
    found = WORDS.get(word)
    return found is not None and found.taken


def request_state_of(word: str) -> RequestState:
    """The state that the API's word for a queued resource means; UNKNOWN for a word that is not in the table."""
    found = REQUEST_WORDS.get(word)
    return found[0] if found else RequestState.UNKNOWN


def request_sentence_of(word: str) -> str:
    """The same for people."""
    found = REQUEST_WORDS.get(word)
    return found[1] if found else f"the request is in a state that is not known here ({word or 'no word'})"


def health_sentence(word: str) -> str:
    """What a health word means, "" for a healthy node or no word."""
    return HEALTH.get(word, f"Google's health check says {word}") if word else ""


# ---- what there is -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The addresses of one machine of a node; "" for one that it does not have."""

    internal: str
    external: str


@dataclass(frozen=True, slots=True)
class TpuNode:
    """One TPU VM as the API shows it.

    `ident` differs between two nodes of one name: it tells a re-creation. `word` is the API's own state. `endpoints` is in
    worker order, and empty until the node is READY. `created` is the API's own text (RFC 3339). `request` is the name of the
    queued resource that made it, "" without one.
    """

    name: str
    zone: str
    ident: str
    word: str
    state: TpuState
    health: str = ""
    health_text: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    endpoints: tuple[Endpoint, ...] = ()
    accelerator_type: str = ""
    created: str = ""
    spot: bool = False
    preemptible: bool = False
    request: str = ""


@dataclass(frozen=True, slots=True)
class TpuRequest:
    """One queued resource. `nodes` are the names of the nodes that it makes or made, `labels` and `metadata` those of its
    (first) node: the request has none of its own. `error` is what the API says about a failure, "" for none."""

    name: str
    zone: str
    word: str
    state: RequestState
    nodes: tuple[str, ...] = ()
    error: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    created: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything in one zone. Only a `complete` one proves that something is absent; `error` says why it is not."""

    zone: str
    nodes: tuple[TpuNode, ...] = ()
    requests: tuple[TpuRequest, ...] = ()
    complete: bool = True
    error: str = ""


# ---- what is asked for ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeWish:
    """A node to be made. "" leaves a thing to the cloud's default.

    `accelerator_type` may be a topology (`v4-2x2x2`). `queued_s` asks by way of a queued resource of the same name, valid for so
    long; None makes the node directly. At most one of `spot`, `preemptible` and `reserved`; `preemptible` not with `queued_s`.
    """

    name: str
    zone: str
    accelerator_type: str
    version: str
    spot: bool = False
    preemptible: bool = False
    reserved: bool = False
    network: str = ""
    subnetwork: str = ""
    service_account: str = ""
    internal_ip: bool = False
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    tags: tuple[str, ...] = ()
    queued_s: float | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The API took it. `operation` is the full name of the long-running operation, to be polled for a failure only: it can
    stay open long after the node is READY. "" where the control cannot tell one."""

    operation: str


@dataclass(frozen=True, slots=True)
class Exists:
    """Something has this name already: perhaps ours, from a create whose answer was lost. Compare the labels.

    `node` is None while a queued resource of that name has not made its node yet; then `request` is set.
    """

    node: TpuNode | None
    request: TpuRequest | None = None

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the node, or of the node that the request will make."""
        if self.node is not None:
            return self.node.labels
        return self.request.labels if self.request is not None else {}


DeniedKind = Literal["capacity", "quota", "no-quota", "reservation", "permission", "invalid", "not-now"]


@dataclass(frozen=True, slots=True)
class Denied:
    """The node was definitely not made, in the API's own words (`message`).

    capacity: the zone has no machines now. quota: ours is used up. no-quota: our limit is 0, so it never will. reservation:
    the reserved capacity does not suffice. permission: we may not. invalid: the wish itself is wrong. not-now: asked too often,
    another operation was in the way, or something failed on Google's side. `final`: the same wish will be denied until
    somebody changes something.
    """

    kind: DeniedKind
    message: str
    final: bool = False


Made = Begun | Exists | Denied

# The usual software of each generation (cloud.google.com/tpu/docs/runtimes). `gcloud compute tpus tpu-vm versions list`: all.
_VERSIONS = {"tpu-v5e": "v2-alpha-tpuv5-lite", "tpu-v5p": "v2-alpha-tpuv5", "tpu-v6e": "v2-alpha-tpuv6e"}
_VERSION_OLDER = "tpu-ubuntu2204-base"


def default_version(accelerator_type: str) -> str:
    """The TPU software version for those who name none. Raises ValueError for a type that is none."""
    return _VERSIONS.get(parse_accelerator_type(accelerator_type).chip, _VERSION_OLDER)


# ---- names -----------------------------------------------------------------------------------------------------

NAME_MAX = 63
OUR_LABELS = "reconciler-"
"""Labels and metadata whose key starts so are ours; a user's are refused."""
RESERVED_METADATA = frozenset({"ssh-keys", "sshKeys", "block-project-ssh-keys", "enable-oslogin"})
"""Metadata by which the machines decide whose key lets in: ours to set."""

_NODE_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}\Z")
_ALTERED = re.compile(r"-x[0-9a-f]{12}\Z")
_HASH_LENGTH = 14


def is_node_name(text: str) -> bool:
    """May this stand as the name of a node? 63 lower-case letters, digits and '-' at most, from a letter to a letter or digit."""
    return bool(_NODE_NAME.match(text))


def is_label_key(text: str) -> bool:
    """May this stand as the key of a label?"""
    return bool(_LABEL_KEY.match(text))


def is_label_value(text: str) -> bool:
    """May this stand as the value of a label?"""
    return bool(_LABEL_VALUE.match(text))


def node_name(text: str) -> str:
    """A node's name for any text: the text itself where it is one, else as much of it as fits and a hash of the whole.

    Deterministic. Two texts never get one name, short of a collision of 48 bits of SHA-256: a text that looks like the result
    of this function is itself hashed, so do not apply it twice.
    """
    if is_node_name(text) and not _ALTERED.search(text):
        return text
    readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not readable[:1].isalpha():
        readable = f"n-{readable}" if readable else "n"
    return f"{readable[: NAME_MAX - _HASH_LENGTH].rstrip('-')}{_hash(text)}"


def label_value(text: str) -> str:
    """A label's value for any text, by the same rule as `node_name`."""
    if is_label_value(text) and not _ALTERED.search(text):
        return text
    readable = re.sub(r"[^a-z0-9_-]+", "-", text.lower())
    return f"{readable[: NAME_MAX - _HASH_LENGTH]}{_hash(text)}"


def _hash(text: str) -> str:
    return f"-x{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
