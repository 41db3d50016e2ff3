"""The emulated service over gRPC: what the Python client speaks. Needs google-cloud-tpu."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc

from tests.emulators.tpu import protos
from tests.emulators.tpu.errors import Dropped, Garbled, Refused, no_route
from tests.emulators.tpu.routes import METHODS, VERSIONS
from tests.emulators.tpu.world import World

CODES = {code.name: code for code in grpc.StatusCode}


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every method of google.cloud.tpu.v2 and v2alpha1, and the operations and locations beside them."""

    def __init__(self, world: World, port: int) -> None:
        self._world = world
        self._handlers: dict[str, Any] = {}
        for version in reversed(VERSIONS):  # operations and locations are v2's
            for method in METHODS:
                service, request, _ = protos.types(version, method)
                self._handlers[f"/{service}/{method}"] = self._handler(version, method, request)
        # Many, as a call may be told to hang.
        self._server = grpc.server(futures.ThreadPoolExecutor(64), handlers=[self], options=[("grpc.so_reuseport", 0)])
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        return self._handlers.get(path) or grpc.unary_unary_rpc_method_handler(self._lost(path))

    def _lost(self, path: str) -> Any:
        def answer(_request: bytes, context: Any) -> Any:
            self._world.no_route(path)
            context.abort(grpc.StatusCode.UNIMPLEMENTED, no_route(path).message)

        return answer

    def _handler(self, version: str, method: str, request: Any) -> Any:
        def answer(message: Any, context: Any) -> Any:
            agent = dict(context.invocation_metadata()).get("x-goog-api-client", "")
            try:
                asked = protos.request_json(message)
                return protos.answer_message(
                    version, method, self._world.call(version, method, asked, wire="grpc", agent=str(agent))
                )
            except Refused as refused:
                context.set_trailing_metadata([("grpc-status-details-bin", protos.status(refused))])
                context.abort(CODES[refused.status], refused.message)
            except Dropped:
                # A server in Python cannot cut one connection; this is what the client makes of one that is cut.
                context.abort(grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer")
            except Garbled as garbled:
                return garbled.body.encode()

        return grpc.unary_unary_rpc_method_handler(answer, request.FromString, _serialized)


def _serialized(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()
