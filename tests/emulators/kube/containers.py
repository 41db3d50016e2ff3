"""A container of the emulated cluster: a local process. There is no isolation and there are no mounts.

The stand-in for mounts is textual: wherever a mountPath of the container stands in its command, arguments or environment values
(as a whole path or the beginning of one), the real directory is put in its place, the longest path first. So is
terminationMessagePath, and so are the mount paths in those keys of a mounted Secret that the cluster is told (`record.json`). A
program that builds such a path in another way sees the machine's own file system. A mountPath that is itself the real directory
needs no replacing.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.emulators.kube.kinds import CONFIG_MAP, SECRET
from tests.emulators.kube.store import Json, Store

MARK = "KUBE_EMULATOR_CONTAINER"
"""In the environment of every process of a container; by it those are found which left its process group."""
TERMINATION_LOG = "/dev/termination-log"
MESSAGE_MAX = 4096


class StartError(Exception):
    """The program cannot be started; the text is the container runtime's."""


class CannotConfigure(Exception):
    """The container waits, with reason CreateContainerConfigError, as what it refers to is not there."""


class Container:
    """The first container of one pod on this machine. `folder` is the pod's own; `claims` holds a directory for each claim."""

    def __init__(self, store: Store, pod: Json, folder: Path, claims: Path, replaced_keys: Sequence[str]) -> None:
        self.pod = pod
        self.uid = pod["metadata"]["uid"]
        self.spec: Json = pod["spec"]["containers"][0]
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "output.log"
        self.message_file = folder / "termination-log"
        self.process: subprocess.Popen[bytes] | None = None
        self.mark = f"{self.uid}/{self.spec['name']}"
        self._store = store
        namespace = pod["metadata"]["namespace"]
        places = self._volumes(namespace, claims)
        self._mounts = {self.spec.get("terminationMessagePath") or TERMINATION_LOG: str(self.message_file)}
        for mount in self.spec.get("volumeMounts", ()):
            if mount["name"] in places:
                where = places[mount["name"]] / mount.get("subPath", "")
                where.mkdir(parents=True, exist_ok=True) if not where.is_file() else None
                self._mounts[mount["mountPath"].rstrip("/") or "/"] = str(where)
        for secret in self._secrets:
            for key in replaced_keys:
                path = secret / key
                if path.is_file():
                    path.write_text(self.real(path.read_text(encoding="utf-8")), encoding="utf-8")
        self.environment = self._environment(namespace)

    def real(self, text: str) -> str:
        """The text with every mount path replaced."""
        longest = sorted(self._mounts, key=len, reverse=True)
        pattern = "|".join(re.escape(path) for path in longest)
        return re.sub(rf"(?<![\w./-])(?:{pattern})(?![\w.-])", lambda found: self._mounts[found[0]], text)

    def start(self) -> None:
        """Raises StartError."""
        command = [*self.spec.get("command", ()), *self.spec.get("args", ())]
        if not command:  # an image's own entry point: images are not emulated
            command = ["sleep", "infinity"]
        self.message_file.write_bytes(b"")
        with self.log.open("ab") as output:
            words = [_expanded(word, self.environment) for word in command]
            self.process = self._spawn(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def run(self, command: Sequence[str], *, stdin: bool) -> subprocess.Popen[bytes]:
        """As exec does: with the same environment and mounts. Raises StartError."""
        given = subprocess.PIPE if stdin else subprocess.DEVNULL
        return self._spawn(command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def terminate(self) -> None:
        """SIGTERM to the container's first process, as a kubelet does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all of its processes; returns when the first is gone."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.sweep()

    def sweep(self) -> None:
        """What a container leaves behind when its first process ends is killed: nothing outlives it."""
        for _ in range(20):  # a process may fork while it is looked for
            left = [pid for pid in marked(self.mark) if self.process is None or pid != self.process.pid]
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not left:
                return

    def message(self) -> str:
        try:
            return self.message_file.read_bytes()[:MESSAGE_MAX].decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    # -- inside

    def _spawn(self, command: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
        expanded = [self.real(word) for word in command]
        where = self.real(self.spec["workingDir"]) if self.spec.get("workingDir") else str(self.folder)
        try:
            return subprocess.Popen(expanded, env=self.environment, cwd=where, start_new_session=True, **streams)
        except FileNotFoundError:
            program = command[0]
            why = (
                f"stat {program}: no such file or directory" if "/" in program else "executable file not found in $PATH"
            )
            raise StartError(f'exec: "{program}": {why}: unknown') from None
        except (PermissionError, NotADirectoryError) as error:
            raise StartError(f'exec: "{command[0]}": {error.strerror.lower()}: unknown') from None

    def _volumes(self, namespace: str, claims: Path) -> dict[str, Path]:
        self._secrets: list[Path] = []
        places = {}
        for volume in self.pod["spec"].get("volumes", ()):
            name = volume["name"]
            place = self.folder / "volumes" / name
            if "persistentVolumeClaim" in volume:
                place = claims / volume["persistentVolumeClaim"]["claimName"]
            elif "secret" in volume:
                self._secrets.append(place)
                self._files(place, SECRET, namespace, volume["secret"]["secretName"], volume["secret"])
            elif "configMap" in volume:
                self._files(place, CONFIG_MAP, namespace, volume["configMap"]["name"], volume["configMap"])
            elif "emptyDir" in volume:
                place.mkdir(parents=True, exist_ok=True)
            elif "hostPath" in volume:
                place = Path(volume["hostPath"]["path"])
            else:
                continue
            places[name] = place
        return places

    def _files(self, place: Path, kind: Any, namespace: str, name: str, source: Mapping[str, Any]) -> None:
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o700)
        values = self._values(kind, namespace, name, optional=bool(source.get("optional")))
        wanted = {item["key"]: item["path"] for item in source.get("items") or ()} or {key: key for key in values}
        for key, path in wanted.items():
            where = place / path
            where.parent.mkdir(parents=True, exist_ok=True)
            with open(where, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(values[key])

    def _values(self, kind: Any, namespace: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        found = self._store.get(kind, namespace, name)
        if found is None:
            if optional:
                return {}
            raise CannotConfigure(f'{kind.kind.lower()} "{name}" not found')
        data = found.get("data") or {}
        if kind is SECRET:
            return {key: base64.b64decode(value) for key, value in data.items()}
        return {key: value.encode() for key, value in data.items()}

    def _environment(self, namespace: str) -> dict[str, str]:
        meta = self.pod["metadata"]
        plain = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "HOSTNAME": meta["name"],
            MARK: self.mark,
        }
        for source in self.spec.get("envFrom", ()):
            for key, kind in (("secretRef", SECRET), ("configMapRef", CONFIG_MAP)):
                if key in source:
                    values = self._values(
                        kind, namespace, source[key]["name"], optional=bool(source[key].get("optional"))
                    )
                    plain.update({source.get("prefix", "") + name: value.decode() for name, value in values.items()})
        for entry in self.spec.get("env", ()):
            if "valueFrom" in entry:
                value = self._referred(entry["valueFrom"], namespace)
                if value is not None:
                    plain[entry["name"]] = value
            else:
                plain[entry["name"]] = self.real(_expanded(entry.get("value", ""), plain))
        return plain

    def _referred(self, source: Mapping[str, Any], namespace: str) -> str | None:
        for key, kind in (("secretKeyRef", SECRET), ("configMapKeyRef", CONFIG_MAP)):
            if key in source:
                name, wanted = source[key]["name"], source[key]["key"]
                values = self._values(kind, namespace, name, optional=bool(source[key].get("optional")))
                if wanted in values:
                    return values[wanted].decode()
                if source[key].get("optional"):
                    return None
                raise CannotConfigure(f"couldn't find key {wanted} in {kind.kind} {namespace}/{name}")
        path = source.get("fieldRef", {}).get("fieldPath", "")
        meta = self.pod["metadata"]
        if found := re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path):
            return str(meta.get(found[1], {}).get(found[2], ""))
        fields: dict[str, Callable[[], Any]] = {
            "metadata.name": lambda: meta["name"],
            "metadata.namespace": lambda: namespace,
            "metadata.uid": lambda: meta["uid"],
            "spec.nodeName": lambda: self.pod["spec"].get("nodeName", ""),
            "spec.serviceAccountName": lambda: self.pod["spec"].get("serviceAccountName", "default"),
            "status.podIP": lambda: "127.0.0.1",
            "status.hostIP": lambda: "127.0.0.1",
        }
        if path in fields:
            return str(fields[path]())
        raise CannotConfigure(f"emulator: valueFrom {dict(source)} is not emulated")


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` becomes its value where there is one, `$$` a dollar, as Kubernetes does it."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environment.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)", value, text)


def marked(mark: str) -> list[int]:
    """The processes of this user whose environment carries the mark: a container's own, and their children."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if entry in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # gone meanwhile, or somebody else's
            continue
    return found
