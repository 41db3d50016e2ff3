"""The emulator in this process: a world, its HTTP and gRPC sides, and its workers where they are asked for."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.emulators.tpu import rest
from tests.emulators.tpu.clock import Clock
from tests.emulators.tpu.control import Control
from tests.emulators.tpu.world import ZONES, Exchange, World

GET_LIBRARY = "google-cloud-tpu is not installed: pip install 'google-cloud-tpu>=1.23'"
GET_GCLOUD = (
    "no gcloud here: install the Google Cloud CLI from its vendor's package (google-cloud-cli); Debian's own packages, PyPI and "
    "npm do not have it"
)


def have_library() -> bool:
    from importlib.util import find_spec

    try:
        return find_spec("google.cloud.tpu_v2") is not None and find_spec("grpc") is not None
    except ModuleNotFoundError:
        return False


class Emulator(Control):
    """`with Emulator() as tpu:` serves on loopback until the end of the block.

    The clock stands still unless `advance` moves it; `real_clock` lets it run, `speed` times as fast. `grpc` and `protos` (the
    library's check of every request) are there if google-cloud-tpu is. At the end, a call of something that is not emulated is an
    error, unless `strict` is off. `workers`: a real sshd for each (workers.py).
    """

    def __init__(
        self,
        *,
        zones: Iterable[str] | Mapping[str, Iterable[str]] = ZONES,
        project: str = "demo-project",
        quota: Mapping[str, Mapping[str, int]] | None = None,
        real_clock: bool = False,
        speed: float = 1.0,
        rest_port: int = 0,
        grpc_port: int = 0,
        grpc: bool | None = None,
        workers: bool = False,
        ssh_port: int = 0,
        log: str | os.PathLike[str] | None = None,
        strict: bool = True,
        seed: int = 0,
        **settings: float | None,
    ) -> None:
        clock = Clock(time.monotonic, start=time.time(), speed=speed) if real_clock else Clock()
        super().__init__(World(clock=clock, zones=zones, project=project, quota=quota, settings=settings, seed=seed))
        self._strict = strict
        self._ports = (rest_port, grpc_port)
        self._with_grpc = have_library() if grpc is None else grpc
        self._with_workers, self._ssh_port = workers, ssh_port
        self._log = Path(log) if log is not None else None
        self._log_lock = threading.Lock()
        self._channels: list[Any] = []
        self.rest = self.grpc = ""  # the addresses, host:port
        self.workers: Any = None

    # --- life

    def start(self) -> Emulator:
        protos = None
        if self._with_grpc:
            if not have_library():
                raise RuntimeError(GET_LIBRARY)
            from tests.emulators.tpu import protos as types
            from tests.emulators.tpu import wire

            protos = types
            self._wire: Any = wire.Server(self.world, self._ports[1])
            self.grpc = self._wire.address
        if self._log is not None:
            self.world.watch = self._write
        if self._with_workers:
            from tests.emulators.tpu.workers import Workers

            self.workers = self.world.machines = Workers(self.world, self._ssh_port)
        self._rest = rest.Server(self.world, self._ports[0], self.steer, protos)
        self.rest = self._rest.address
        return self

    def stop(self) -> None:
        for channel in self._channels:
            channel.close()
        self._rest.stop()
        if self._with_grpc:
            self._wire.stop()
        if self.workers:
            self.workers.stop()

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is None and self._strict and self.unrouted:
            raise AssertionError(f"asked for, and not emulated: {', '.join(self.unrouted)}")

    def _write(self, exchange: Exchange) -> None:
        assert self._log is not None
        line = json.dumps(exchange.__dict__, ensure_ascii=False, default=repr)
        with self._log_lock, self._log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    # --- clients

    def client(self, version: str = "v2", *, transport: str = "grpc") -> Any:
        """A real client, with no credentials, of this emulator."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import tpu_v2, tpu_v2alpha1

        module = {"v2": tpu_v2, "v2alpha1": tpu_v2alpha1}[version]
        if transport == "rest":
            options = {"api_endpoint": f"http://{self.rest}"}
            client = module.TpuClient(credentials=AnonymousCredentials(), transport="rest", client_options=options)
            self._channels.append(client.transport)
            return client
        import grpc

        channel = grpc.insecure_channel(self.grpc)
        self._channels.append(channel)
        return module.TpuClient(transport=module.TpuClient.get_transport_class("grpc")(channel=channel, host=self.grpc))

    def gcloud(self, home: Path) -> dict[str, str]:
        """The environment in which gcloud asks this emulator, and nobody else. Its files lie below `home`."""
        config = home / "gcloud"
        config.mkdir(parents=True, exist_ok=True)
        token = config / "token"
        token.write_text("any-text")
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "CLOUDSDK_CONFIG": str(config),
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
            **self.gcloud_endpoints(),
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
            "CLOUDSDK_SURVEY_DISABLE_PROMPTS": "true",
            "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true",
            "GCE_METADATA_ROOT": "127.0.0.1:9",  # else gcloud looks for the metadata server in DNS
        }

    def gcloud_endpoints(self) -> dict[str, str]:
        """The part of that environment which differs from one emulator to the next."""
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": f"http://{self.rest}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"http://{self.rest}/compute/v1/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_OSLOGIN": f"http://{self.rest}/oslogin/",
            "CLOUDSDK_CORE_PROJECT": self.world.project,
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        }

    # --- workers

    def worker(self, name: str, worker: int = 0, do: str = "down") -> None:
        """down, start, freeze, thaw, cut or wipe one machine of a node: see workers.Worker."""
        if self.workers is None:
            raise LookupError("there are no machines: the emulator was started without workers")
        self.workers.do(self._node(name), worker, do)
