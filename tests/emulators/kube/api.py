"""The HTTP side of the emulated API server."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.emulators.kube import admission, controller, errors, execute, kinds, protobuf, sockets
from tests.emulators.kube.containers import StartError
from tests.emulators.kube.errors import NoPage, Refused
from tests.emulators.kube.faults import MESSAGES, REASONS, Call, Fault
from tests.emulators.kube.kinds import ACCESS_REVIEW, CLAIM, JOB, NAMESPACE, POD, QUEUE, Resource
from tests.emulators.kube.store import Json
from tests.emulators.kube.world import World

TOO_LARGE = 3145728
VERSION = {"major": "1", "minor": "32", "gitVersion": "v1.32.13", "gitCommit": "0" * 40, "gitTreeState": "clean"}
VERSION |= {"buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.23.8", "compiler": "gc", "platform": "linux/amd64"}
EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


class Cut(Exception):
    """The connection is to be cut without a word."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, world: World, port: int) -> None:
        self.world = world
        self.open: set[socket.socket] = set()
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", port), Handler)

    def cut_all(self) -> None:
        self.stopping.set()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self.world.store.lock:
            self.world.store.changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to tell of; what else fails in a handler is kept for the test to see."""
        import sys

        problem = sys.exc_info()[1]
        if not isinstance(problem, (ConnectionError, TimeoutError, Cut)) and problem is not None:
            self.world.broken.append(problem)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server
    call: Call

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def handle(self) -> None:
        with contextlib.suppress(Cut):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `calls` tells what was asked."""

    # -- one call

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.pairs = parse_qsl(parts.query, keep_blank_values=True)
        self.query = dict(self.pairs)
        size = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(size) if size else b""
        self.call = Call(self.command.lower(), parts.path, "")
        self.answered = False
        fault: Fault | None = None
        try:
            target = self._target(parts.path)
            if target is not None:
                resource, namespace, name, sub = target
                kind = f"{resource.plural}/{sub}" if sub else resource.plural
                self.call = Call(self._verb(name, sub), kind, name or _named(raw), namespace, 0, self.query)
            fault = self.server.world.faults.meet(self.call)
            if fault is not None and not fault.after:
                self._suffer(fault)
            if fault is not None and fault.after:
                self._collect(parts.path, target, raw)
                self._suffer(fault)
            self._answer(parts.path, target, raw)
        except Refused as refused:
            self._json(refused.code, refused.status, refused.headers)
        except NoPage:
            self._text(404, "404 page not found\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _collect(self, path: str, target: Any, raw: bytes) -> None:
        """The call is done, and its answer kept back."""
        kept, self.wfile = self.wfile, _Nowhere()
        try:
            self._answer(path, target, raw)
        except Refused:
            pass
        finally:
            self.wfile = kept
            self.answered = False
            self.server.world.calls.pop()

    def _suffer(self, fault: Fault) -> None:
        if fault.hang_s:
            deadline = time.monotonic() + fault.hang_s
            while time.monotonic() < deadline and not self.server.stopping.is_set():
                if fault.released.wait(0.05):
                    break
            if not (fault.drop or fault.status or fault.raw is not None):
                if fault.after:
                    raise self._cut()
                return
        if fault.drop:
            raise self._cut()
        if fault.raw is not None:
            data = fault.raw.encode() if isinstance(fault.raw, str) else fault.raw
            self._bytes(fault.code, data, "application/json")
            raise self._quiet()
        if fault.status:
            message = fault.message or MESSAGES.get(fault.status, f"emulated fault {fault.status}")
            refused = Refused(fault.status, message, REASONS.get(fault.status, ""))
            if fault.retry_after_s is not None:
                refused.headers["Retry-After"] = str(fault.retry_after_s)
            raise refused

    def _cut(self) -> Cut:
        self._note(0)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        return Cut()

    def _quiet(self) -> Cut:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
        return Cut()

    # -- routes

    def _target(self, path: str) -> tuple[Resource, str, str, str] | None:
        """Kind, namespace, name and subresource; None for what is no object."""
        words = [unquote(word) for word in path.strip("/").split("/")]
        if words[:2] == ["api", "v1"] and len(words) > 2:
            group, version, rest = "", "v1", words[2:]
        elif words[0] == "apis" and len(words) > 3:
            group, version, rest = words[1], words[2], words[3:]
        else:
            return None
        self._known(group)
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        for resource in kinds.ALL:
            if (resource.group, resource.version, resource.plural) == (group, version, rest[0]):
                name, sub = [*rest[1:], "", ""][:2]
                return resource, namespace, name, sub
        raise NoPage

    def _known(self, group: str) -> None:
        if self.server.world.without_volcano and group in kinds.VOLCANO_GROUPS:
            raise NoPage

    def _verb(self, name: str, sub: str) -> str:
        if self.command == "GET":
            if self.query.get("watch") in ("1", "true"):
                return "watch"
            return "get" if name else "list"
        return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[self.command]

    def _answer(self, path: str, target: tuple[Resource, str, str, str] | None, raw: bytes) -> None:
        world = self.server.world
        if path.rstrip("/") in ("/healthz", "/readyz", "/livez"):
            self._text(200, "ok")
            return
        if path == "/version":
            self._json(200, VERSION)
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in world.tokens and (token or not world.tokens):  # kubectl sends no token over plain HTTP
            raise errors.unauthorized()
        if target is None:
            self._json(200, self._discovery(path))
            return
        resource, namespace, name, sub = target
        body = self._body(raw)
        if resource is ACCESS_REVIEW:
            self._json(201, self._review(body))
            return
        verb = self.call.verb
        if world.denies(verb, resource, sub) or (sub == "exec" and world.denies("create", resource, sub)):
            told = "create" if sub == "exec" else verb
            raise errors.not_allowed(resource, name, world.user, told, sub, namespace)
        if sub == "exec":
            self._exec(namespace, name)
            return
        if sub == "log":
            self._log(namespace, name)
            return
        if sub not in ("", "status"):
            raise NoPage
        if verb == "watch":
            self._watch(resource, namespace, name)
            return
        with world.store.lock:
            code, answer = getattr(self, f"_do_{verb}")(resource, namespace, name, body, sub)
        self._json(code, answer)

    def _body(self, raw: bytes) -> Json:
        if len(raw) > TOO_LARGE:
            text = f"Request entity too large: limit is {TOO_LARGE}"
            raise Refused(413, text, "RequestEntityTooLarge", {})
        if not raw:
            return {}
        try:
            body = protobuf.access_review(raw) if raw.startswith(protobuf.MAGIC) else json.loads(raw)
        except (ValueError, IndexError):
            raise errors.bad_request(
                "the body of the request was in an unknown format - accepted media types include: json"
            ) from None
        if not isinstance(body, dict):
            raise errors.bad_request("the object provided is unrecognized")
        return body

    def _discovery(self, path: str) -> Json:
        words = path.strip("/").split("/")
        shown = ["batch.volcano.sh", "scheduling.volcano.sh", "authorization.k8s.io"]
        if self.server.world.without_volcano:
            shown = [group for group in shown if group not in kinds.VOLCANO_GROUPS]
        if words == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        if words == ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [kinds.group_entry(group) for group in shown]}
        if words == ["api", "v1"]:
            return kinds.resource_list("", "v1")
        if words == ["openapi", "v3"]:
            names = [
                "api/v1",
                *(f"apis/{kinds.group_entry(group)['preferredVersion']['groupVersion']}" for group in shown),
            ]
            return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}?hash=0"} for name in names}}
        if words[:2] == ["openapi", "v3"]:
            return _openapi(words[2:])
        if words[0] == "apis" and len(words) == 2 and words[1] in shown:
            return {"kind": "APIGroup", "apiVersion": "v1", **kinds.group_entry(words[1])}
        if words[0] == "apis" and len(words) == 3 and words[1] in shown:
            return kinds.resource_list(words[1], words[2])
        raise NoPage

    def _review(self, body: Json) -> Json:
        asked = body.get("spec", {}).get("resourceAttributes", {})
        found = None
        for resource in kinds.STORED:
            if (resource.group, resource.plural) == (asked.get("group", ""), asked.get("resource", "")):
                found = resource
        sub = asked.get("subresource", "")
        denied = found is not None and self.server.world.denies(asked.get("verb", ""), found, sub)
        status: Json = {"allowed": not denied}
        return {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", **body, "status": status}

    # -- objects; with the store's lock held

    def _do_get(self, resource: Resource, namespace: str, name: str, body: Json, sub: str) -> tuple[int, Json]:
        return 200, self.server.world.store.wanted(resource, namespace, name)

    def _do_list(self, resource: Resource, namespace: str, name: str, body: Json, sub: str) -> tuple[int, Json]:
        store, world = self.server.world.store, self.server.world
        limit = int(self.query.get("limit") or 0)
        if token := self.query.get("continue"):
            version, items = world.pages.get(token, (0, []))
            if not version:
                raise _bad_continue(token)
        else:
            items = [one for one in store.list(resource, namespace) if self._selected(one)]
            version = store.version
        meta: Json = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            rest = items[limit:]
            key = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": rest[0]["metadata"]["name"] + "\0"})
            meta["continue"] = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
            meta["remainingItemCount"] = len(rest)
            world.pages[meta["continue"]] = (version, rest)
            items = items[:limit]
        header = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta}
        return 200, {**header, "items": items}

    def _do_create(self, resource: Resource, namespace: str, name: str, body: Json, sub: str) -> tuple[int, Json]:
        world = self.server.world
        store = world.store
        strict = self.query.get("fieldValidation") == "Strict"
        body = {"kind": resource.kind, "apiVersion": resource.api_version, **body} if not resource.group else body
        if body.get("kind") != resource.kind or body.get("apiVersion") != resource.api_version:
            text = (
                f"the object provided is unrecognized (must be of type {resource.kind}): emulator: {body.get('kind')}"
            )
            raise errors.bad_request(text)
        if resource.namespaced:
            self._check_namespace(resource, namespace, body)
        if resource is JOB:
            body = admission.job(store, body, strict=strict)
        else:
            admission.check_metadata(resource, body)
        body = {key: value for key, value in body.items() if key != "status"} if resource in (JOB, POD) else dict(body)
        if resource is POD:
            body["spec"] = json.loads(json.dumps(body.get("spec") or {}))
            if not body["spec"].get("containers"):
                raise errors.invalid(
                    POD, body["metadata"]["name"], "spec.containers", "Required value", "FieldValueRequired"
                )
            controller.complete_pod(body["spec"])
            controller.check_quota(store, namespace, body["metadata"].get("name", ""), body["spec"])
            body["status"] = controller.new_pod_status(body["spec"])
        if resource is QUEUE:
            body["spec"] = {"parent": "root", "reclaimable": True, "weight": 1, **(body.get("spec") or {})}
            body["status"] = {"allocated": {"cpu": "0", "memory": "0"}, "reservation": {}, "state": "Open"}
        if resource is CLAIM:
            body["status"] = world.provision(body["metadata"]["name"], body.get("spec") or {})
        if resource is NAMESPACE:
            body["status"] = {"phase": "Active"}
        if "stringData" in body:
            given = {key: base64.b64encode(value.encode()).decode() for key, value in body.pop("stringData").items()}
            body["data"] = {**(body.get("data") or {}), **given}
        if self.query.get("dryRun") == "All":
            return 201, body
        return 201, store.create(resource, namespace, body)

    def _check_namespace(self, resource: Resource, namespace: str, body: Json) -> None:
        store = self.server.world.store
        given = (body.get("metadata") or {}).get("namespace")
        if given and given != namespace:
            text = "the namespace of the provided object does not match the namespace sent on the request"
            raise errors.bad_request(text)
        found = store.get(NAMESPACE, "", namespace)
        if found is None:
            raise errors.not_found(NAMESPACE, namespace)
        if found["status"]["phase"] == "Terminating":
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise errors.forbidden(resource, (body.get("metadata") or {}).get("name", ""), why)

    def _do_update(self, resource: Resource, namespace: str, name: str, body: Json, sub: str) -> tuple[int, Json]:
        old = self.server.world.store.wanted(resource, namespace, name)
        meta = body.get("metadata") or {}
        if meta.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise errors.modified(resource, name)
        if meta.get("uid") not in (None, "", old["metadata"]["uid"]):
            asked, found = meta["uid"], old["metadata"]["uid"]
            key = f"/registry/{resource.group}/{resource.plural}/{namespace}/{name}"
            told = f"Precondition failed: UID in precondition: {asked}, UID in object meta: {found}"
            why = f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {told}"
            raise errors.conflict(resource, name, why)
        return 200, self._changed(resource, namespace, name, old, body, sub)

    def _do_patch(self, resource: Resource, namespace: str, name: str, body: Json, sub: str) -> tuple[int, Json]:
        old = self.server.world.store.wanted(resource, namespace, name)
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        if kind not in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
            raise Refused(415, f"emulator: only merge patches, not {kind}", "UnsupportedMediaType")
        wanted = (body.get("metadata") or {}).get("resourceVersion")
        if wanted and wanted != old["metadata"]["resourceVersion"]:
            raise errors.modified(resource, name)
        return 200, self._changed(resource, namespace, name, old, merged(old, body), sub)

    def _changed(self, resource: Resource, namespace: str, name: str, old: Json, new: Json, sub: str) -> Json:
        kept = ("uid", "creationTimestamp", "resourceVersion", "generation", "namespace", "name", "deletionTimestamp")
        meta = {**(new.get("metadata") or {})}
        meta.update({key: old["metadata"][key] for key in kept if key in old["metadata"]})
        if sub == "status":
            new = {**old, "status": new.get("status")}
        else:
            new = {**new, "metadata": meta}
            if "status" in old and resource in (JOB, POD):
                new["status"] = old["status"]
        if resource is JOB and sub != "status":
            admission.job_change(old, new)
        admission.check_metadata(resource, new)

        def change(body: Json) -> None:
            body.clear()
            body.update(new)

        return self.server.world.store.update(resource, namespace, name, change)

    def _do_delete(self, resource: Resource, namespace: str, name: str, body: Json, sub: str) -> tuple[int, Json]:
        world = self.server.world
        if not name:
            return self._delete_all(resource, namespace)
        old = world.store.wanted(resource, namespace, name)
        wanted = body.get("preconditions") or {}
        if wanted.get("uid") and wanted["uid"] != old["metadata"]["uid"]:
            raise errors.other_uid(resource, name, wanted["uid"], old["metadata"]["uid"])
        if wanted.get("resourceVersion") and wanted["resourceVersion"] != old["metadata"]["resourceVersion"]:
            raise errors.modified(resource, name)
        if resource is QUEUE and name in ("default", "root"):
            raise errors.denied("validatequeue", f"`{name}` queue can not be deleted")
        grace = body.get("gracePeriodSeconds", self.query.get("gracePeriodSeconds"))
        policy = body.get("propagationPolicy") or self.query.get("propagationPolicy") or "Background"
        seconds = None if grace is None else float(grace)
        seconds = int(seconds) if seconds is not None else None
        if resource is NAMESPACE:
            return 200, world.end_namespace(name)
        deleted = world.store.delete(resource, namespace, name, grace_s=seconds, policy=policy)
        if resource is POD or world.store.get(resource, namespace, name) is not None:
            return 200, deleted
        details = {**errors.of(resource, name), "uid": old["metadata"]["uid"]}
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _delete_all(self, resource: Resource, namespace: str) -> tuple[int, Json]:
        store = self.server.world.store
        for one in [one for one in store.list(resource, namespace) if self._selected(one)]:
            meta = one["metadata"]
            store.delete(resource, meta.get("namespace", ""), meta["name"], grace_s=None, policy="Background")
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _selected(self, body: Json) -> bool:
        labels = body["metadata"].get("labels") or {}
        if not all(_label_matches(term, labels) for term in _terms(self.query.get("labelSelector", ""))):
            return False
        for term in _terms(self.query.get("fieldSelector", "")):
            path, _, wanted = term.replace("==", "=").partition("=")
            negative = path.endswith("!")
            value: Any = body
            for word in path.rstrip("!").split("."):
                value = (value or {}).get(word) if isinstance(value, dict) else None
            if (str(value or "") == wanted) == negative:
                return False
        return True

    # -- streams

    def _watch(self, resource: Resource, namespace: str, name: str) -> None:
        world = self.server.world
        store = world.store
        given = self.query.get("resourceVersion", "")
        limit_s = float(self.query.get("timeoutSeconds") or 1800)
        deadline = time.monotonic() + limit_s
        self._note(200)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        with store.lock:
            first: list[Json] = []
            if given in ("", "0"):
                at = store.version
                first = [
                    {"type": "ADDED", "object": one}
                    for one in store.list(resource, namespace)
                    if self._watched(one, name)
                ]
            elif int(given) < store.oldest:
                problem = errors.expired(f"too old resource version: {given} ({store.oldest})").status
                first, at = [{"type": "ERROR", "object": problem}], -1
            else:
                at = int(given)
        for event in first:
            self._chunk(event)
        while at >= 0 and not self.server.stopping.is_set():
            with store.lock:
                left = deadline - time.monotonic()
                if store.version <= at:
                    if left <= 0:
                        break
                    store.changed.wait(min(left, 1.0))
                news = [change for change in store.history if change.version > at] if store.version > at else []
                at = store.version
            for change in news:
                kind, space, _ = change.key
                if kind is resource and (not namespace or space == namespace) and self._watched(change.object, name):
                    self._chunk({"type": change.type, "object": change.object})
            if left <= 0:
                break
        if self.server.stopping.is_set():
            raise self._cut()
        self.wfile.write(b"0\r\n\r\n")

    def _watched(self, body: Json, name: str) -> bool:
        return (not name or body["metadata"]["name"] == name) and self._selected(body)

    def _chunk(self, event: Json) -> None:
        self._piece(json.dumps(event).encode() + b"\n")

    def _piece(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _log(self, namespace: str, name: str) -> None:
        world = self.server.world
        with world.store.lock:
            pod = world.store.wanted(POD, namespace, name)
            self._check_container(pod)
            container = self._container_name(pod)
            state = (pod["status"].get("containerStatuses") or [{}])[0].get("state", {})
            if self.query.get("previous") == "true":
                text = f'previous terminated container "{container}" in pod "{name}" not found'
                raise errors.bad_request(text)
            if not pod["spec"].get("nodeName"):
                self._text(200, "")
                return
            self._check_node(pod, f"containerLogs/{namespace}/{name}/{container}")
            if "waiting" in state or not state:
                reason = state.get("waiting", {}).get("reason", "ContainerCreating")
                why = "is waiting to start"
                why = (
                    f"{why}: {reason}" if reason == "ContainerCreating" else f"{why}: trying and failing to pull image"
                )
                raise errors.bad_request(f'container "{container}" in pod "{name}" {why}')
            path = world.log_of(pod)
        data = path.read_bytes() if path.exists() else b""
        if tail := self.query.get("tailLines"):
            lines = data.splitlines(keepends=True)
            data = b"".join(lines[-int(tail) :]) if int(tail) else b""
        if limit := self.query.get("limitBytes"):
            data = data[: int(limit)]
        if self.query.get("follow") != "true":
            self._bytes(200, data, "text/plain")
            return
        self._note(200)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if data:
            self._piece(data)
        self.wfile.flush()
        for piece in self._followed(pod, path, path.stat().st_size if path.exists() else 0):
            self._piece(piece)
        if self.server.stopping.is_set():
            raise self._cut()
        self.wfile.write(b"0\r\n\r\n")

    def _followed(self, pod: Json, path: Any, at: int) -> Iterator[bytes]:
        meta = pod["metadata"]
        store = self.server.world.store
        while not self.server.stopping.is_set():
            with store.lock:
                now = store.get(POD, meta["namespace"], meta["name"])
                done = now is None or now["metadata"]["uid"] != meta["uid"] or now["status"].get("phase") != "Running"
            if path.exists():
                with open(path, "rb") as file:
                    file.seek(at)
                    if data := file.read():
                        at += len(data)
                        yield data
            if done:
                return
            self.server.stopping.wait(0.02)

    def _exec(self, namespace: str, name: str) -> None:
        world = self.server.world
        command = [value for key, value in self.pairs if key == "command"]
        wants_stdin = self.query.get("stdin", "").lower() in ("true", "1")
        with world.store.lock:
            pod = world.store.wanted(POD, namespace, name)
            self._check_container(pod)
            phase = pod["status"].get("phase")
            if phase in ("Succeeded", "Failed"):
                raise errors.bad_request(f"cannot exec into a container in a completed pod; current phase is {phase}")
            if not pod["spec"].get("nodeName"):
                raise errors.bad_request(f"pod {name} does not have a host assigned")
            container_name = self._container_name(pod)
            self._check_node(pod, f"exec/{namespace}/{name}/{container_name}")
            container = world.container_of(pod)
            if container is None or phase != "Running":
                raise errors.internal(f'unable to upgrade connection: container not found ("{container_name}")')
            offered = [word.strip() for word in self.headers.get("Sec-WebSocket-Protocol", "").split(",")]
            chosen = next((protocol for protocol in execute.PROTOCOLS if protocol in offered), None)
            key = self.headers.get("Sec-WebSocket-Key")
            if key is None or chosen is None:
                raise errors.bad_request("emulator: exec needs a websocket of v5.channel.k8s.io or v4.channel.k8s.io")
            problem = None
            try:
                process = container.run(command, stdin=wants_stdin)
            except StartError as error:
                problem = error
        self._note(101)
        self.send_response(101)
        for header, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", sockets.accept(key)),
        ):
            self.send_header(header, value)
        self.send_header("Sec-WebSocket-Protocol", chosen)
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        channels = sockets.Channels(self.rfile, self.connection)
        if problem is None:
            execute.serve(channels, process)
            return
        text = "error executing command in container: failed to exec in container: failed to start exec "
        runc = f"OCI runtime exec failed: exec failed: unable to start container process: {problem}"
        with contextlib.suppress(sockets.Closed):
            told = execute.failure(f'Internal error occurred: {text}"{"0" * 64}": {runc}')
            channels.send(execute.ERROR, json.dumps(told).encode())
        channels.close()

    def _container_name(self, pod: Json) -> str:
        return self.query.get("container") or str(pod["spec"]["containers"][0]["name"])

    def _check_container(self, pod: Json) -> None:
        wanted = self.query.get("container")
        if wanted and wanted not in [one["name"] for one in pod["spec"]["containers"]]:
            raise errors.bad_request(f"container {wanted} is not valid for pod {pod['metadata']['name']}")

    def _check_node(self, pod: Json, path: str) -> None:
        if pod["spec"]["nodeName"] not in self.server.world.kubelets.lost:
            return
        refused = "dial tcp 10.222.0.1:18450: connect: connection refused"
        if path.startswith("exec"):
            raise errors.internal(f'error sending request: Post "https://10.222.0.1:18450/{path}": {refused}')
        raise Refused(500, f'Get "https://10.222.0.1:18450/{path}": {refused}')

    # -- answers

    def _note(self, code: int) -> None:
        call = self.call
        self.server.world.calls.append(Call(call.verb, call.kind, call.name, call.namespace, code, call.query))

    def _json(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._bytes(code, json.dumps(body).encode() + b"\n", "application/json", headers)

    def _text(self, code: int, text: str) -> None:
        self._bytes(code, text.encode(), "text/plain; charset=utf-8")

    def _bytes(self, code: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self._note(code)
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve


class _Nowhere:
    """Where the answer of a call goes that is done and not told."""

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None: ...


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    base = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = merged(base.get(key), value)
    return base


def _terms(selector: str) -> list[str]:
    """Its terms, split at the commas outside of parentheses."""
    return [term.strip() for term in re.split(r",(?![^(]*\))", selector) if term.strip()]


def _label_matches(term: str, labels: dict[str, str]) -> bool:
    if found := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", term):
        values = [value.strip() for value in found[3].split(",")]
        return (labels.get(found[1]) in values) == (found[2] == "in")
    if "!=" in term:
        key, _, value = term.partition("!=")
        return labels.get(key.strip()) != value.strip()
    if "=" in term:
        key, _, value = term.replace("==", "=").partition("=")
        return labels.get(key.strip()) == value.strip()
    return term[1:].strip() not in labels if term.startswith("!") else term in labels


def _bad_continue(token: str) -> Refused:
    try:
        key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError:
        why = "invalid continue token: continue key is not valid: invalid character 'o' in literal null (expecting 'u')"
        return errors.bad_request(why)
    return (
        errors.expired(EXPIRED)
        if "rv" in key
        else errors.bad_request("invalid continue token: continue key is not valid")
    )


def _openapi(words: list[str]) -> Json:
    """Just enough for kubectl to see that the server validates fields itself."""
    paths: Json = {}
    for resource in kinds.STORED:
        root = ["apis", resource.group, resource.version] if resource.group else ["api", resource.version]
        if root != words:
            continue
        place = "namespaces/{namespace}/" if resource.namespaced else ""
        gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        operation = {"parameters": [parameter], "responses": {}, "x-kubernetes-group-version-kind": gvk}
        paths["/" + "/".join(root) + f"/{place}{resource.plural}/{{name}}"] = {"patch": operation}
    return {"openapi": "3.0.0", "info": {"title": "emulator", "version": "v1.32.13"}, "paths": paths}


def _named(raw: bytes) -> str:
    """The name of the object in a body, which a create has nowhere else."""
    try:
        return str(json.loads(raw)["metadata"]["name"]) if raw else ""
    except (KeyError, TypeError, ValueError):
        return ""
