"""An emulated Kubernetes cluster with Volcano, to be used in a test: `with Cluster(folder) as kube: ...`.

It is simulated: see docs/volcano-emulator.md for what it is modelled on and what it leaves out.
"""

from __future__ import annotations

import base64
import copy
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.emulators.kube import kinds
from tests.emulators.kube.api import Server
from tests.emulators.kube.faults import Call, Fault
from tests.emulators.kube.kinds import CLAIM, JOB, NAMESPACE, POD, QUOTA, SECRET
from tests.emulators.kube.kubelet import find, lose
from tests.emulators.kube.store import Json, stamp
from tests.emulators.kube.world import World

TICK_S = 0.01
NO_PULL = 'failed to pull and unpack image "{image}": failed to resolve reference "{image}": connection refused'


class Cluster:
    """`folder` holds the claims (`claims/NAME`), the pods and the kubeconfig. `nodes`: name to allocatable resources (cpu,
    memory, pods, nvidia.com/gpu ...; `labels`). `claims` exist from the start. `mounts_in_secrets`: the keys of Secrets in whose
    mounted files the mount paths are replaced, too."""

    def __init__(
        self,
        folder: Path | str,
        *,
        nodes: dict[str, dict[str, Any]] | None = None,
        namespace: str = "team-a",
        claims: tuple[str, ...] = (),
        user: str = "reconciler",
        port: int = 0,
        mounts_in_secrets: tuple[str, ...] = ("record.json",),
    ) -> None:
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.namespace = namespace
        self.world = World(
            self.folder, nodes or {"node-a": {"cpu": "16", "memory": "64Gi"}}, ("default", namespace), mounts_in_secrets
        )
        self.world.user = user
        self.port = port
        self.token = ""
        self.kubeconfig = self.folder / "kubeconfig"
        self._server: Server | None = None
        self._serving: threading.Thread | None = None
        self._simulating: threading.Thread | None = None
        self._ending = threading.Event()
        for name in claims:
            self.claim(name)

    def __enter__(self) -> Cluster:
        self.start()
        self.renew_token()
        self._simulating = threading.Thread(target=self._simulate, name="kube-emulator", daemon=True)
        self._simulating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self.world.broken and error is None:
            raise AssertionError("the emulator itself failed") from self.world.broken[0]

    def close(self) -> None:
        self.heal()
        self.stop()
        self._ending.set()
        if self._simulating is not None:
            self._simulating.join(timeout=30)
        with self.world.store.lock:
            self.world.kubelets.close()

    # -- the API server

    def start(self) -> None:
        """Serves, on the same port as before."""
        if self._server is not None:
            return
        self._server = Server(self.world, self.port)
        self.port = self._server.server_address[1]
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="kube-api", daemon=True)
        self._serving.start()

    def stop(self) -> None:
        """Every connection is cut, and nobody listens. Containers run on; nothing else happens until it is started again."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        server.cut_all()
        if self._serving is not None:
            self._serving.join(timeout=10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def renew_token(self) -> None:
        """A new token stands in the kubeconfig; earlier ones stay valid until `expire_token`."""
        self.token = secrets.token_hex(16)
        self.world.tokens.add(self.token)
        self.kubeconfig.write_text(
            _KUBECONFIG.format(url=self.url, namespace=self.namespace, token=self.token), encoding="utf-8"
        )
        self.kubeconfig.chmod(0o600)

    def expire_token(self) -> None:
        """Every call is answered with 401, until `renew_token`."""
        self.world.tokens.clear()

    def deny(self, verb: str, kind: str) -> None:
        """403 for this verb (`*`: all) on this plural (`jobs`, `pods/exec`, `*`), and the access review says no."""
        self.world.denied.add((verb, kind))

    def allow(self) -> None:
        self.world.denied.clear()

    def no_volcano(self) -> None:
        """Its CRDs are gone, and its controllers with them."""
        self.world.without_volcano = True

    def fault(self, verb: str = "*", kind: str = "*", name: str = "*", **knobs: Any) -> Fault:
        """The next call that matches (`times`; None: all) goes wrong: `status=503`, `drop=True`, `raw="<html>"`, `hang_s=5`; with
        `after=True` when it has been done."""
        return self.world.faults.lay(verb=verb, kind=kind, name=name, **knobs)

    def heal(self) -> None:
        self.world.faults.heal()

    @property
    def calls(self) -> list[Call]:
        return self.world.calls

    def count(self, verb: str = "*", kind: str = "*", name: str = "*") -> int:
        return sum(Fault(verb, kind, name).matches(call) for call in list(self.world.calls))

    def compact(self) -> None:
        """Watches from an earlier version and lists that go on are answered with 410."""
        with self.world.store.lock:
            self.world.store.compact()
            self.world.pages.clear()

    # -- objects, behind the client's back

    def get(self, kind: str, name: str) -> Json | None:
        resource = kinds.named(kind)
        with self.world.store.lock:
            found = self.world.store.get(resource, self._space(resource), name)
            return copy.deepcopy(found)

    def list(self, kind: str) -> list[Json]:
        resource = kinds.named(kind)
        with self.world.store.lock:
            return copy.deepcopy(self.world.store.list(resource, self._space(resource)))

    def delete(self, kind: str, name: str) -> None:
        resource = kinds.named(kind)
        with self.world.store.lock:
            self.world.store.delete(resource, self._space(resource), name, grace_s=None, policy="Background")

    def claim(self, name: str, mode: str = "ReadWriteMany") -> Path:
        """A bound claim; gives its directory."""
        with self.world.store.lock:
            if self.world.store.get(CLAIM, self.namespace, name) is None:
                spec: Json = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
                status = self.world.provision(name, spec)
                self.world.store.create(
                    CLAIM, self.namespace, {"metadata": {"name": name}, "spec": spec, "status": status}
                )
        return self.claim_directory(name)

    def claim_directory(self, name: str) -> Path:
        return self.folder / "claims" / name

    def pods(self, job: str) -> list[Json]:
        """The pods of one job, in order."""
        wanted = [
            pod for pod in self.list("pods") if pod["metadata"].get("labels", {}).get("volcano.sh/job-name") == job
        ]
        return sorted(wanted, key=lambda pod: int(pod["metadata"]["labels"]["volcano.sh/task-index"]))

    def phase(self, job: str) -> str:
        """Of a job; "" while it has no status or is not there."""
        found = self.get("jobs", job) or {}
        return str(found.get("status", {}).get("state", {}).get("phase", ""))

    def log(self, pod: str) -> bytes:
        found = self._pod(pod)
        path = self.world.log_of(found)
        return path.read_bytes() if path.exists() else b""

    def wait(self, what: Callable[[], Any], limit_s: float = 20.0) -> Any:
        """Until it is true; gives what it was. Raises AssertionError with the state of all jobs."""
        deadline = time.monotonic() + limit_s
        while True:
            if found := what():
                return found
            if time.monotonic() > deadline:
                told = {job["metadata"]["name"]: job.get("status") for job in self.list("jobs")}
                phases = {pod["metadata"]["name"]: pod["status"] for pod in self.list("pods")}
                raise AssertionError(f"not within {limit_s} s; jobs {told}; pods {phases}; broken {self.world.broken}")
            time.sleep(0.01)

    # -- what happens to pods and nodes

    def evict(self, pod: str, reason: str = "EvictionByEvictionAPI", message: str = "Eviction API: evicting") -> None:
        """The pod gets the condition DisruptionTarget, then it is deleted. Not recorded: the words of Kubernetes' source."""
        self._disrupt(pod, reason, message)

    def preempt(self, pod: str) -> None:
        """As Volcano's scheduler evicts: conditions, the event Evict, deletion. Not recorded: after Volcano's source."""
        with self.world.store.lock:
            found = self._pod(pod)
            text = "Pod is evicted, because of preempt"
            self.world.store.event(POD, found, "Warning", "Evict", text, {"component": "volcano"})
            self._disrupt(
                pod, "PreemptionByScheduler", "volcano: preempting to accommodate a higher priority pod", ready="Evict"
            )

    def delete_pod(self, pod: str, grace_s: float | None = None) -> None:
        with self.world.store.lock:
            self.world.store.delete(POD, self.namespace, pod, grace_s=grace_s, policy="Background")

    def oom(self, pod: str) -> None:
        """Its container is killed with the reason OOMKilled."""
        with self.world.store.lock:
            self.world.kubelets.oom(self._pod(pod))

    def lose_node(self, name: str) -> None:
        """Its kubelet is silent: pods stay Running, not Ready; deletions hang; containers run on."""
        with self.world.store.lock:
            self.world.kubelets.lost.add(name)
            lose(self.world.store, name)

    def return_node(self, name: str) -> None:
        with self.world.store.lock:
            self.world.kubelets.lost.discard(name)
            find(self.world.store, name)

    def add_node(self, name: str, **resources: Any) -> None:
        with self.world.store.lock:
            self.world.add_node(name, resources)

    def set_queue(self, name: str, capability: dict[str, str] | None = None, state: str = "Open") -> None:
        with self.world.store.lock:
            self.world.add_queue(name, capability, state)

    def set_quota(self, name: str = "q", **hard: str) -> None:
        """A ResourceQuota, as `set_quota(pods="1")` or `set_quota(**{"requests.cpu": "2"})`."""
        with self.world.store.lock:
            self.world.store.create(QUOTA, self.namespace, {"metadata": {"name": name}, "spec": {"hard": hard}})

    def pull_fails(self, image: str, message: str = "") -> None:
        with self.world.store.lock:
            self.world.kubelets.bad_images[image] = message or NO_PULL.format(image=image)

    def pull_works(self, image: str) -> None:
        with self.world.store.lock:
            self.world.kubelets.bad_images.pop(image, None)

    def slow_start(self, seconds: float) -> None:
        """Containers stay so long in ContainerCreating."""
        with self.world.store.lock:
            self.world.kubelets.start_s = seconds

    def stuck_controller(self, stuck: bool = True) -> None:
        """Jobs stay Pending with their pod group Inqueue and without pods, as seen after an outage of an API server."""
        with self.world.store.lock:
            self.world.controller.stuck = stuck
            if not stuck:
                self.world.controller.wake()

    def loopback(self) -> None:
        """Gangs made from now on meet at this machine's address: programs of theirs really find each other."""
        with self.world.store.lock:
            self.world.controller.loopback = True

    def secret(self, name: str, values: dict[str, str]) -> None:
        """A Secret of somebody's."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        with self.world.store.lock:
            self.world.store.create(SECRET, self.namespace, {"metadata": {"name": name}, "data": data})

    def command(self, job: str, action: str) -> None:
        """AbortJob, ResumeJob, TerminateJob, CompleteJob, RestartJob, as through Volcano's command bus."""
        with self.world.store.lock:
            self.world.controller.command(self.world.store.wanted(JOB, self.namespace, job), action)

    def end_namespace(self, name: str = "") -> None:
        with self.world.store.lock:
            self.world.end_namespace(name or self.namespace)

    def add_namespace(self, name: str) -> None:
        with self.world.store.lock:
            self.world.store.create(
                NAMESPACE, "", {"metadata": {"name": name}, "spec": {}, "status": {"phase": "Active"}}
            )

    # -- inside

    def _simulate(self) -> None:
        while not self._ending.wait(TICK_S):
            if self._server is None:
                continue
            with self.world.store.lock:
                try:
                    self.world.tick()
                except Exception as problem:  # noqa: BLE001 - shown at the end of the block, and by wait
                    self.world.broken.append(problem)
                    return

    def _disrupt(self, pod: str, reason: str, message: str, ready: str = "") -> None:
        store = self.world.store
        with store.lock:
            self._pod(pod)

            def mark(body: Json) -> None:
                conditions = body["status"].setdefault("conditions", [])
                for condition in conditions:
                    if ready and condition["type"] == "Ready":
                        condition.update(status="False", reason=ready, message=message, lastTransitionTime=stamp())
                target = {"lastProbeTime": None, "lastTransitionTime": stamp(), "message": message, "reason": reason}
                conditions.append({**target, "status": "True", "type": "DisruptionTarget"})

            store.update(POD, self.namespace, pod, mark)
            store.delete(POD, self.namespace, pod, grace_s=None, policy="Background")

    def _pod(self, name: str) -> Json:
        with self.world.store.lock:
            found = self.world.store.get(POD, self.namespace, name)
            if found is None:
                names = [pod["metadata"]["name"] for pod in self.world.pods()]
                raise KeyError(f"emulator: no pod {name}; there are {', '.join(names) or 'none'}")
            return found

    def _space(self, resource: kinds.Resource) -> str:
        return self.namespace if resource.namespaced else ""


_KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: emulator
clusters:
- name: emulator
  cluster: {{server: "{url}"}}
contexts:
- name: emulator
  context: {{cluster: emulator, user: emulator, namespace: "{namespace}"}}
users:
- name: emulator
  user: {{token: "{token}"}}
"""
