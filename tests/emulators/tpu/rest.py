"""The emulated service over HTTP: what gcloud and the client's REST transport speak. Standard library only."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

from tests.emulators.tpu import routes
from tests.emulators.tpu.errors import Dropped, Garbled, Refused, no_route
from tests.emulators.tpu.world import Exchange, World, subject

METADATA = "/computeMetadata/v1/"
Json = dict[str, Any]
# A name after /_emu/ and its arguments to what is answered.
Steer = Callable[[str, Json], Any]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, world: World, port: int, steer: Steer, protos: Any) -> None:
        self.world, self.steer, self.protos = world, steer, protos
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no error of ours."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | ValueError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    # The answer leaves in one piece: in two, with Nagle's algorithm, every call would take 40 ms.
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = "application/json; charset=UTF-8"
        try:
            code, answer = 200, self._answer(raw)
            text = json.dumps(answer, indent=2)
        except Refused as refused:
            code, text = refused.http, json.dumps(refused.json(), indent=2)
        except Garbled as garbled:
            code, text, kind = garbled.code, garbled.body, garbled.kind
        except Dropped:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, raw: bytes) -> Any:
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            raise Refused("INVALID_ARGUMENT", "Invalid JSON payload received.") from None
        if path.startswith("/_emu/"):
            return self._steered(path.removeprefix("/_emu/"), body or {})
        if path.startswith(("/compute/", "/oslogin/")):
            return self._neighbour(path, query, body)
        if path.startswith(METADATA):
            return self._told(path.removeprefix(METADATA))
        self._check_token()
        found = routes.find(self.command, path, query, body)
        if found is None:
            raise self._lost(path)
        return self._called(*found, numbers="enum-encoding=int" in query.get("$alt", ""))

    def _told(self, what: str) -> Any:
        """The metadata server of a VM, as far as the guard of a VM asks it; the answers have the documented form."""
        if self.headers.get("Metadata-Flavor") != "Google":
            raise Garbled(403, "Missing Metadata-Flavor:Google header.", "text/html")
        if what == "instance/service-accounts/default/token" and self.server.world.vm_token:
            return {"access_token": self.server.world.vm_token, "expires_in": 3599, "token_type": "Bearer"}
        if what == "project/project-id":
            raise Garbled(200, self.server.world.project, "application/text")
        raise Garbled(404, "Not Found", "text/html")

    def _check_token(self) -> None:
        """Clients are let in without credentials, but for a VM, which has to show what its metadata server gave it."""
        said, token = self.headers.get("Authorization", ""), self.server.world.vm_token
        if self.headers.get("User-Agent") == "reconciler-guard" and said != f"Bearer {token}":
            raise Refused("UNAUTHENTICATED", "Request had invalid authentication credentials.")

    def _called(self, version: str, method: str, request: Json, *, numbers: bool) -> Json:
        world, protos = self.server.world, self.server.protos
        agent = self.headers.get("User-Agent", "")
        if protos is not None:
            try:
                request = protos.canonical_request(version, method, request)
            except Refused as refused:
                name = subject(method, request)
                now = world.clock.now()
                world.record(
                    Exchange(now, "rest", version, method, name, request, refused.status, refused.json(), agent)
                )
                raise
        elif numbers:
            raise Refused(
                "UNIMPLEMENTED", "emulator: enums as numbers need google-cloud-tpu: pip install google-cloud-tpu"
            )
        else:
            request = without_defaults(request)
        answer = world.call(version, method, request, wire="rest", agent=agent)
        return answer if protos is None else protos.canonical_answer(version, method, answer, numbers=numbers)

    def _neighbour(self, path: str, query: Json, body: Any) -> Json:
        """What gcloud asks of other APIs before it starts ssh: the project's metadata, and a person's OS Login profile."""
        world = self.server.world
        if self.command == "GET" and (matched := re.fullmatch(r"/compute/v1/projects/([^/]+)", path)):
            method, request = "compute.projects.get", {"name": matched[1]}
        elif matched := re.fullmatch(r"/oslogin/\w+/users/([^/]+)/loginProfile", path):
            method, request = "oslogin.users.getLoginProfile", {"name": matched[1]}
        else:
            raise self._lost(path)
        code, answer = "OK", None
        try:
            if method.startswith("oslogin"):
                raise Refused("NOT_FOUND", f"emulator: {matched[1]} has no OS Login profile")
            items = [{"key": key, "value": value} for key, value in world.metadata.items()]
            common = {"kind": "compute#metadata", **({"items": items} if items else {})}
            answer = {"kind": "compute#project", "name": matched[1], "id": "1", "commonInstanceMetadata": common}
            return answer
        except Refused as refused:
            code, answer = refused.status, refused.json()
            raise
        finally:
            agent = self.headers.get("User-Agent", "")
            world.record(Exchange(world.clock.now(), "rest", "v1", method, matched[1], request, code, answer, agent))

    def _lost(self, path: str) -> Refused:
        what = f"{self.command} {path}"
        self.server.world.no_route(what)
        return no_route(what)

    def _steered(self, verb: str, arguments: Json) -> Any:
        try:
            return self.server.steer(verb, arguments)
        except (TypeError, ValueError, LookupError) as error:
            raise Refused("INVALID_ARGUMENT", f"emulator: {verb}: {error}") from None

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve


def without_defaults(value: Any) -> Any:
    """As the service sees a request: what is false, 0 or empty might as well not be there. An empty message stays."""
    if not isinstance(value, dict):
        return value
    kept = {key: without_defaults(inner) for key, inner in value.items()}
    maps = ("labels", "metadata")
    return {
        key: inner for key, inner in kept.items() if inner not in (False, 0, "", []) and not (key in maps and not inner)
    }
