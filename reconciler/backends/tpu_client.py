"""Google's control plane over google-cloud-tpu: gRPC, in this process, about a millisecond a call. The one home of that library.

It is imported at the first call, so that nobody who has no TPU needs it or waits for it. Of the library we use nothing that
waits: an operation is polled by its name, for its failure only, since it may stay open long after the node is READY. No call
of the library has a deadline or a retry by itself: every call here is given one, and reads alone are repeated.
"""

from __future__ import annotations

import builtins
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from reconciler.backends import tpu_refusals as refusals
from reconciler.backends.tpu_keys import host_key
from reconciler.core.chips import topology_of
from reconciler.core.errors import AccessRefused, OutcomeUnknown, ReconcilerError, Unreachable
from reconciler.core.names import canonical
from reconciler.core.tpu import (
    Begun,
    Denied,
    Endpoint,
    Exists,
    Listing,
    Made,
    NodeWish,
    TpuNode,
    TpuRequest,
    request_state_of,
    state_of,
)

if TYPE_CHECKING:
    from google.cloud.tpu_v2 import TpuClient

_FAMILIES = {"v2": "V2", "v3": "V3", "v4": "V4", "v5litepod": "V5LITE_POD", "v5p": "V5P", "v6e": "V6E"}
_REQUESTS = uuid.UUID("6f0f9a8e-6a3c-5f0e-9c43-5b2f7a1f3d10")
"""The namespace of our request ids."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for one read, for one effect, and for a read with all its tries. The first pause between two tries."""

    read_s: float = 20.0
    effect_s: float = 60.0
    tries_s: float = 30.0
    pause_s: float = 0.25


def installed() -> bool:
    """Is the library there?"""
    try:
        import google.cloud.tpu_v2  # noqa: F401, PLC0415  late on purpose: see the module
    except ImportError:
        return False
    return True


def make_client(endpoint: str) -> TpuClient:
    """A client of the library. "": Google, with application default credentials. "http://HOST:PORT": that server, in clear text
    and as nobody, which is what an emulator speaks.

    Raises AccessRefused without the library or without credentials; the hint is the command to run.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else gRPC writes to standard error by itself
    try:
        from google.auth import exceptions as auth  # noqa: PLC0415
        from google.cloud import tpu_v2  # noqa: PLC0415
    except ImportError as error:
        raise _missing() from error
    if endpoint.startswith("http://"):
        import grpc  # noqa: PLC0415
        from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcTransport  # noqa: PLC0415

        address = endpoint.removeprefix("http://").rstrip("/")
        return tpu_v2.TpuClient(transport=TpuGrpcTransport(channel=grpc.insecure_channel(address), host=address))
    try:
        options = {"api_endpoint": endpoint} if endpoint else None
        return tpu_v2.TpuClient(client_options=options)
    except auth.DefaultCredentialsError as error:
        raise refusals.no_credentials("there are no application default credentials.") from error
    except auth.GoogleAuthError as error:
        raise refusals.no_credentials(str(error)) from error


def default_project() -> str:
    """The project that goes with the application default credentials, or gcloud's; "" when neither has one. Raises AccessRefused
    without the library or without credentials. Off Google's own machines it asks nobody but the disk, and gcloud."""
    try:
        import google.auth  # noqa: PLC0415
        from google.auth import exceptions as auth  # noqa: PLC0415
    except ImportError as error:
        raise _missing() from error
    try:
        _, project = google.auth.default()
    except auth.GoogleAuthError as error:
        raise refusals.no_credentials("there are no application default credentials.") from error
    return project or ""


def _missing() -> ReconcilerError:
    return AccessRefused(
        "The library google-cloud-tpu is not installed.",
        hint="Run `pip install 'reconciler[tpu]'`, or write `control: gcloud` into the host's entry of the inventory.",
    )


class TpuClientControl:
    """Implements tpu_control.Control. One per project and lane; makes its connection at the first call."""

    sees_operations: ClassVar[bool] = True

    def __init__(
        self,
        project: str,
        *,
        endpoint: str = "",
        patience: Patience | None = None,
        make: Callable[[str], TpuClient] = make_client,
    ) -> None:
        self._given, self._endpoint, self._make = project, endpoint, make
        self._patience = patience or Patience()
        self._client: TpuClient | None = None

    # --- reads

    def list(self, zone: str) -> Listing:
        nodes: builtins.list[TpuNode] = []
        requests: builtins.list[TpuRequest] = []
        missing: builtins.list[str] = []
        try:
            parent = self._parent(zone)
            # Requests first: a node that one of them makes meanwhile is then in the listing of nodes.
            asked = f"list queued TPU requests in {zone}"
            pages = self._read(asked, lambda **how: self._api.list_queued_resources(request={"parent": parent}, **how))
            self._paged(asked, pages, missing, lambda page: requests.extend(map(_request, page.queued_resources)))
            asked = f"list TPU VMs in {zone}"
            pages = self._read(asked, lambda **how: self._api.list_nodes(request={"parent": parent}, **how))
            self._paged(asked, pages, missing, lambda page: nodes.extend(map(_node, page.nodes)))
        except ReconcilerError as error:
            return Listing(zone, tuple(nodes), tuple(requests), complete=False, error=str(error))
        if missing:
            told = f"Google could not reach {', '.join(sorted(set(missing)))}: what is there is not known"
            return Listing(zone, tuple(nodes), tuple(requests), complete=False, error=told)
        return Listing(zone, tuple(nodes), tuple(requests))

    def get(self, zone: str, name: str) -> TpuNode | None:
        full = f"{self._parent(zone)}/nodes/{name}"
        found = self._read(
            f"read TPU VM {name} in {zone}",
            lambda **how: self._api.get_node(request={"name": full}, **how),
            absent=True,
        )
        return None if found is None else _node(found)

    def failure_of(self, zone: str, operation: str) -> Denied | None:
        if not operation:
            return None
        found = self._read(
            f"look at an operation in {zone}",
            lambda **how: self._api.get_operation({"name": operation}, **how),
            absent=True,
        )
        if found is None or not found.done or not found.HasField("error") or not found.error.code:
            return None
        return refusals.by_operation(found.error.code, found.error.message)

    def host_keys(self, zone: str, name: str) -> Mapping[int, str]:
        full = f"{self._parent(zone)}/nodes/{name}"
        try:
            found = self._read(
                f"read the host keys of TPU VM {name}",
                lambda **how: self._api.get_guest_attributes(request={"name": full}, **how),
                absent=True,
            )
        except refusals.SAID_NO:
            return {}
        keys: dict[int, str] = {}
        for worker, attributes in enumerate(found.guest_attributes if found is not None else ()):
            key = host_key((item.namespace, item.key, item.value) for item in attributes.query_value.items)
            if key:
                keys[worker] = key
        return keys

    def types(self, zone: str) -> frozenset[str]:
        doing = f"list accelerator types in {zone}"
        names: set[str] = set()
        parent = self._parent(zone)
        pages = self._read(doing, lambda **how: self._api.list_accelerator_types(request={"parent": parent}, **how))
        self._paged(doing, pages, [], lambda page: names.update(each.type_ for each in page.accelerator_types))
        return frozenset(names)

    # --- effects

    def create(self, wish: NodeWish) -> Made:
        doing = f"create TPU VM {wish.name} in {wish.zone}"
        parent = self._parent(wish.zone)
        try:
            if wish.queued_s is None:
                operation = self._effect(
                    lambda **how: self._api.create_node(
                        request={"parent": parent, "node_id": wish.name, "node": _body(wish)}, **how
                    ),
                )
            else:
                asked = {
                    "parent": parent,
                    "queued_resource_id": wish.name,
                    "queued_resource": _queued(wish, parent, self._project),
                    "request_id": request_id(parent, wish),
                }
                operation = self._effect(lambda **how: self._api.create_queued_resource(request=asked, **how))
        except _Refusal as refusal:
            if refusal.status == "ALREADY_EXISTS":
                return self._existing(wish)
            denied = refusals.at_create(refusal.status, refusal.message)
            if denied is not None:
                return denied
            raise refusals.error(refusal.status, refusal.message, doing, lost=True) from refusal
        return Begun(operation.operation.name)

    def _existing(self, wish: NodeWish) -> Exists:
        try:
            node = self.get(wish.zone, wish.name)
            request = self._request(wish.zone, wish.name) if node is None and wish.queued_s is not None else None
        except ReconcilerError as error:
            raise OutcomeUnknown(
                f"{wish.name} exists in {wish.zone}, and could not be read: {error.message}"
            ) from error
        if node is None and request is None:
            raise OutcomeUnknown(f"{wish.name} exists in {wish.zone}, and is not to be seen yet")
        return Exists(node, request)

    def _request(self, zone: str, name: str) -> TpuRequest | None:
        full = f"{self._parent(zone)}/queuedResources/{name}"
        found = self._read(
            f"read queued TPU request {name} in {zone}",
            lambda **how: self._api.get_queued_resource(request={"name": full}, **how),
            absent=True,
        )
        return None if found is None else _request(found)

    def delete(self, zone: str, name: str) -> None:
        full = f"{self._parent(zone)}/nodes/{name}"
        self._delete(
            f"delete TPU VM {name} in {zone}",
            lambda **how: self._api.delete_node(request={"name": full}, **how),
            lambda: self.get(zone, name),
        )

    def delete_request(self, zone: str, name: str) -> None:
        full = f"{self._parent(zone)}/queuedResources/{name}"
        self._delete(
            f"delete queued TPU request {name} in {zone}",
            lambda **how: self._api.delete_queued_resource(request={"name": full, "force": True}, **how),
            lambda: self._request(zone, name),
        )

    def _delete(self, doing: str, call: Callable[..., Any], look: Callable[[], TpuNode | TpuRequest | None]) -> None:
        try:
            self._effect(call)
        except _Refusal as refusal:
            if refusal.status == "NOT_FOUND":
                return
            # Of a second delete, the API says only that an operation is in the way.
            if refusal.status in refusals.IN_THE_WAY and refusals.going(look()):
                return
            raise refusals.error(refusal.status, refusal.message, doing, lost=True) from refusal

    # --- how a call is made

    @property
    def _api(self) -> TpuClient:
        if self._client is None:
            self._client = self._make(self._endpoint)
        return self._client

    @property
    def _project(self) -> str:
        if not self._given:
            self._given = default_project()
        if not self._given:
            raise refusals.no_project()
        return self._given

    def _parent(self, zone: str) -> str:
        return f"projects/{self._project}/locations/{zone}"

    def _read(self, doing: str, call: Callable[..., Any], *, absent: bool = False) -> Any:
        """One read, tried again while the service is away. With `absent`, None for NOT_FOUND."""
        self._api  # noqa: B018  errors of making the client are ours already
        from google.api_core import exceptions, retry  # noqa: PLC0415

        again = retry.Retry(
            predicate=retry.if_exception_type(
                exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.InternalServerError
            ),
            initial=self._patience.pause_s,
            maximum=4.0,
            multiplier=2.0,
            timeout=self._patience.tries_s,
        )
        try:
            return self._told(call, retry=again, timeout=self._patience.read_s)
        except _Refusal as refusal:
            if absent and refusal.status == "NOT_FOUND":
                return None
            raise refusals.error(refusal.status, refusal.message, doing, lost=False) from refusal

    def _effect(self, call: Callable[..., Any]) -> Any:
        """One try, whatever comes back. Raises _Refusal."""
        self._api  # noqa: B018
        return self._told(call, retry=None, timeout=self._patience.effect_s)

    def _told(self, call: Callable[..., Any], **how: Any) -> Any:
        """The call's value; what the library raises becomes one _Refusal."""
        from google.api_core import exceptions  # noqa: PLC0415
        from google.auth import exceptions as auth  # noqa: PLC0415

        try:
            return call(**how)
        except exceptions.RetryError as error:
            raise _refusal(error.cause) from error
        except exceptions.GoogleAPIError as error:
            raise _refusal(error) from error
        except auth.RefreshError as error:
            raise refusals.no_credentials(str(error)) from error
        except auth.GoogleAuthError as error:
            raise Unreachable(f"Google's sign-in could not be asked: {error}") from error

    def _paged(self, doing: str, pages: Any, missing: builtins.list[str], take: Callable[[Any], None]) -> None:
        """Every page of a listing; locations that Google could not reach are appended to `missing`."""

        def whole(**_: Any) -> None:
            for page in pages.pages:
                missing.extend(getattr(page, "unreachable", ()))
                take(page)

        try:
            self._told(whole)
        except _Refusal as refusal:
            raise refusals.error(refusal.status, refusal.message, doing, lost=False) from refusal


class _Refusal(Exception):
    """An error of the API, by the word of its status."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def _refusal(error: BaseException | None) -> _Refusal:
    """gRPC gives the exact status; a class of the library may stand for two."""
    status = getattr(error, "grpc_status_code", None)
    message = getattr(error, "message", None) or str(error)
    return _Refusal(getattr(status, "name", "UNKNOWN"), message)


# ---- what is asked for ---------------------------------------------------------------------------------------


def request_id(parent: str, wish: NodeWish) -> str:
    """The same for the same wish, so that a repeat is one request. Labels count: they carry the run, and a request that is made
    anew under a name that was deleted is another one, which the API would otherwise take for the first for an hour."""
    return str(uuid.uuid5(_REQUESTS, canonical([parent, wish.name, dict(wish.labels)]).decode()))


def _body(wish: NodeWish) -> dict[str, Any]:
    topology = topology_of(wish.accelerator_type)
    body: dict[str, Any] = {
        "runtime_version": wish.version,
        "network_config": {"network": wish.network or "default", "enable_external_ips": not wish.internal_ip},
        "labels": dict(wish.labels),
        "metadata": dict(wish.metadata),
        "tags": [*wish.tags],
    }
    if topology:
        body["accelerator_config"] = {"type_": _FAMILIES[topology[0]], "topology": topology[1]}
    else:
        body["accelerator_type"] = wish.accelerator_type
    if wish.subnetwork:
        body["network_config"]["subnetwork"] = wish.subnetwork
    if wish.service_account:
        body["service_account"] = {"email": wish.service_account}
    if wish.queued_s is None:
        body["scheduling_config"] = {
            "spot": wish.spot,
            "preemptible": wish.preemptible,
            "reserved": wish.reserved,
        }
    return body


def _queued(wish: NodeWish, parent: str, project: str) -> dict[str, Any]:
    """As gcloud builds it: the tier and the reservation are the request's, not the node's."""
    assert wish.queued_s is not None
    asked: dict[str, Any] = {
        "tpu": {"node_spec": [{"parent": parent, "node_id": wish.name, "node": _body(wish)}]},
        "queueing_policy": {"valid_until_duration": {"seconds": max(1, int(wish.queued_s))}},
    }
    if wish.spot:
        asked["spot"] = {}
    if wish.reserved:
        asked["reservation_name"] = f"projects/{project}/locations/{wish.zone}/reservations/-"
    return asked


# ---- what came back ------------------------------------------------------------------------------------------


def _word(message: Any, name: str) -> str:
    """The name of an enum field's value. A number that the library does not know stays a number, and so an unknown word; read the
    usual way, the library would print a warning about it."""
    raw = type(message).pb(message)
    number = getattr(raw, name)
    known = raw.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number.get(number)
    return str(known.name if known is not None else number)


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _zone_of(path: str) -> str:
    parts = path.split("/")
    return parts[3] if len(parts) > 3 else ""


def _node(node: Any) -> TpuNode:
    word = _word(node, "state")
    health = _word(node, "health")
    config = node.accelerator_config
    kind = node.accelerator_type or (f"{_word(config, 'type_').lower()}-{config.topology}" if config.topology else "")
    return TpuNode(
        name=_last(node.name),
        zone=_zone_of(node.name),
        ident=str(node.id or ""),
        word=word,
        state=state_of(word),
        health="" if health == "HEALTH_UNSPECIFIED" else health,
        health_text=node.health_description,
        labels=dict(node.labels),
        metadata=dict(node.metadata),
        endpoints=tuple(Endpoint(each.ip_address, each.access_config.external_ip) for each in node.network_endpoints),
        accelerator_type=kind,
        created=_time(node.create_time),
        spot=node.scheduling_config.spot,
        preemptible=node.scheduling_config.preemptible,
        request=_last(node.queued_resource),
    )


def _request(request: Any) -> TpuRequest:
    word = _word(request.state, "state")
    specs = request.tpu.node_spec
    return TpuRequest(
        name=_last(request.name),
        zone=_zone_of(request.name),
        word=word,
        state=request_state_of(word),
        nodes=tuple(name for spec in specs for name in _names(spec)),
        error=request.state.failed_data.error.message,
        labels=dict(specs[0].node.labels) if specs else {},
        metadata=dict(specs[0].node.metadata) if specs else {},
        created=_time(request.create_time),
    )


def _names(spec: Any) -> tuple[str, ...]:
    if spec.node_id:
        return (str(spec.node_id),)
    several = spec.multislice_params
    return tuple(f"{several.node_id_prefix}-{index}" for index in range(several.node_count))


def _time(stamp: Any) -> str:
    """RFC 3339 as the API writes it; "" where there is none."""
    return "" if stamp is None else str(stamp.rfc3339())
