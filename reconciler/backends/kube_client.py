"""The Kubernetes API over the `kubernetes` library, in this process. The library's one home, beside transports/kube.py.

It is imported at the first call, so that nobody who has no cluster needs it or waits for it. Of the library we use how it reads a
kubeconfig with all its ways to sign in, and the connections that it makes from it; the calls themselves are plain JSON, because
its typed objects lose fields they do not know. Every call has a deadline, and reads alone are repeated.
"""

from __future__ import annotations

import base64
import builtins
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from reconciler.backends import kube_refusals as refusals
from reconciler.backends.kube_control import NAMESPACE, POD, Kind, Listed, Made, Object
from reconciler.backends.kube_refusals import Ask, Login, Status
from reconciler.core.errors import OutcomeUnknown, ReconcilerError, Unparsable, Unreachable
from reconciler.transports.kube import Door

PAGE = 500
"""Objects per page of a list."""

_LISTS_MAX = 4  # how often a list that grew old while it was read starts anew
_PAGES_MAX = 10_000
_ANSWER_MAX = 256 * 1024 * 1024  # bytes; more is out of control
_PIECE = 64 * 1024
_PAUSE_MAX_S = 2.0
_SEEN_S = 30.0  # how long the namespace counts as seen
_REVIEW = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: to connect, for one read, for one effect, for a read with all its tries, and for a kubeconfig's sign-in program.
    The first pause between two tries, and how many tries there are at most."""

    connect_s: float = 5.0
    read_s: float = 20.0
    effect_s: float = 40.0
    tries_s: float = 30.0
    pause_s: float = 0.25
    tries: int = 4
    sign_in_s: float = 30.0


class KubeClient:
    """Implements kube_control.Kube. One per host and lane; reads the kubeconfig at the first call.

    `kubeconfig` "": $KUBECONFIG, else ~/.kube/config, else the service account of the pod that we run in. `context` "": the
    current one.
    """

    def __init__(
        self,
        *,
        namespace: str,
        kubeconfig: str = "",
        context: str = "",
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.namespace = namespace
        self._kubeconfig, self._context = kubeconfig, context
        self._patience = patience or Patience()
        self._clock, self._sleep = clock, sleep
        self._login = Login(kubeconfig, context)
        self.context_namespace = ""
        """What the context itself names as its namespace; known from the first call on."""
        self._configuration: Any = None
        self._pool: Any = None
        self._namespace_seen = float("-inf")

    # --- reads

    def get(self, kind: Kind, name: str) -> Object | None:
        ask = self._ask("get", kind, name)
        status, body = self._read(ask, self._path(kind, name))
        if status.code == 200:
            return self._object(ask, body)
        if refusals.absent(ask, status):
            self._see_namespace(kind)
            return None
        raise self._refusal(ask, status)

    def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> Listed:
        ask = self._ask("list", kind)
        query = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = ",".join(f"{key}={value}" if value else key for key, value in labels.items())
        if fields:
            query["fieldSelector"] = fields
        for _ in range(_LISTS_MAX):
            found = self._pages(ask, query)
            if found is not None:
                if not found.objects:
                    self._see_namespace(kind)
                return found
        raise refusals.error(ask, Status(410, message="every time it was read, its pages grew old"), self._login)

    def _pages(self, ask: Ask, query: Mapping[str, str]) -> Listed | None:
        """Every page; None when the list has to start anew."""
        objects: builtins.list[Object] = []
        following = ""
        for _ in range(_PAGES_MAX):
            more = {"continue": following} if following else {}
            status, body = self._read(ask, self._path(ask.kind), {**query, **more})
            if following and refusals.stale_list(status):
                return None
            if status.code != 200:
                raise self._refusal(ask, status)
            page = self._json(ask, body)
            items, about = page.get("items"), page.get("metadata")
            if not isinstance(about, dict) or "items" not in page or not isinstance(items, list | None):
                raise refusals.unreadable(ask, body, self._login)
            for item in items or ():
                if not isinstance(item, dict) or not isinstance(item.get("metadata"), dict):
                    raise refusals.unreadable(ask, json.dumps(item).encode(), self._login)
                # The server leaves both out of a list of its own kinds.
                objects.append({"apiVersion": _api_version(ask.kind), "kind": ask.kind.kind, **item})
            following = str(about.get("continue") or "")
            if not following:
                return Listed(objects, str(about.get("resourceVersion") or ""))
        raise Unparsable(f"Could not {ask.doing}: the list has no end")

    def logs(self, pod: str, *, container: str = "", size_max: int) -> bytes | None:
        ask = self._ask("get", POD, pod, "log")
        query = {"limitBytes": str(max(1, size_max))}
        if container:
            query["container"] = container
        status, body = self._read(ask, f"{self._path(POD, pod)}/log", query)
        if status.code == 200:
            return body[:size_max]
        if refusals.absent(ask, status) or refusals.not_started(status):
            return None
        raise self._refusal(ask, status)

    def allowed(self, verb: str, kind: Kind, *, subresource: str = "") -> bool:
        ask = self._ask("create", _REVIEW)
        about = {"verb": verb, "group": kind.group, "resource": kind.plural, "subresource": subresource}
        if kind.namespaced:
            about["namespace"] = self.namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": about},
        }
        # It makes no object; hence it may be repeated.
        status, body = self._read(ask, self._path(_REVIEW), method="POST", body=review)
        if status.code not in (200, 201):
            raise self._refusal(ask, status)
        told = self._json(ask, body).get("status")
        if not isinstance(told, dict) or not isinstance(told.get("allowed"), bool):
            raise refusals.unreadable(ask, body, self._login)
        return bool(told["allowed"])

    def _see_namespace(self, kind: Kind) -> None:
        """In a namespace that is not there, a server finds no object and lists none: that is no absence. Who may not look at the
        namespace itself has to take the answer as it is."""
        if not kind.namespaced or self._clock() - self._namespace_seen < _SEEN_S:
            return
        ask = self._ask("get", NAMESPACE, self.namespace)
        status, _ = self._read(ask, self._path(NAMESPACE, self.namespace))
        if refusals.absent(ask, status):
            raise refusals.no_namespace(self.namespace, self._ask("list", kind), self._login)
        if status.code not in (200, 403):
            raise self._refusal(ask, status)
        self._namespace_seen = self._clock()

    # --- effects

    def create(self, kind: Kind, body: Object) -> Made:
        name = str(body["metadata"]["name"])
        ask = self._ask("create", kind, name)
        status, answer = self._effect(ask, "POST", self._path(kind), {"fieldValidation": "Strict"}, body)
        if status.code in (200, 201, 202):
            return Made(self._object(ask, answer))
        if not refusals.exists(status):
            raise self._refusal(ask, status)
        try:
            there = self.get(kind, name)
        except ReconcilerError as error:
            raise OutcomeUnknown(
                f"Could not {ask.doing}: it is there already, and could not be read: {error.message}"
            ) from error
        if there is None:
            raise OutcomeUnknown(f"Could not {ask.doing}: it was there already, and is gone again")
        return Made(there, repeated=True)

    def delete(self, kind: Kind, name: str, *, uid: str, grace_s: int | None = None) -> bool:
        if not uid:
            raise ValueError(f"{kind.kind} {name} is not deleted without its uid")
        ask = self._ask("delete", kind, name)
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        status, _ = self._effect(ask, "DELETE", self._path(kind, name), {}, options)
        if status.code in (200, 202):
            return True
        if refusals.absent(ask, status) or refusals.other_uid(status):
            return False
        raise self._refusal(ask, status)

    def patch(self, kind: Kind, name: str, body: Object) -> Object | None:
        ask = self._ask("patch", kind, name)
        status, answer = self._effect(
            ask,
            "PATCH",
            self._path(kind, name),
            {"fieldValidation": "Strict"},
            body,
            content="application/merge-patch+json",
        )
        if status.code == 200:
            return self._object(ask, answer)
        if refusals.absent(ask, status):
            return None
        raise self._refusal(ask, status)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.clear()
        self._pool = self._configuration = None

    # --- what transports/kube.py needs (its Doors)

    def door(self, *, fresh: bool = False) -> Door:
        """How a websocket to the same server is opened, as the same user. `fresh`: sign in anew first."""
        if fresh:
            self.close()
        self._open()
        known = self._configuration
        tls: dict[str, Any] = {"cert_reqs": 2 if known.verify_ssl else 0, "check_hostname": bool(known.verify_ssl)}
        for key, value in (
            ("ca_certs", known.ssl_ca_cert),
            ("certfile", known.cert_file),
            ("keyfile", known.key_file),
            ("server_hostname", getattr(known, "tls_server_name", None)),
        ):
            if value:
                tls[key] = value
        return Door(
            server=known.host,
            headers=self._headers(),
            tls=tls,
            proxy=known.proxy or "",
            no_proxy=tuple(
                part.strip() for part in (getattr(known, "no_proxy", None) or "").split(",") if part.strip()
            ),
        )

    def refused(self, pod: str, code: int, body: bytes) -> ReconcilerError:
        """The server did not open the stream to a command."""
        return self._refusal(self._ask("create", POD, pod, "exec"), refusals.status_of(code, body))

    def unanswered(self, pod: str, why: str) -> ReconcilerError:
        """There is no connection to the server; no command was sent."""
        return refusals.unanswered(self._ask("create", POD, pod, "exec"), why, self._login, sent=False)

    def not_run(self, pod: str, body: bytes) -> ReconcilerError:
        """The stream's own Status says that the command was not started."""
        return refusals.exec_failed(self._ask("create", POD, pod, "exec"), refusals.status_of(500, body))

    # --- how a call is made

    def _ask(self, verb: str, kind: Kind, name: str = "", subresource: str = "") -> Ask:
        return Ask(verb, kind, self.namespace if kind.namespaced else "", name, subresource)

    def _path(self, kind: Kind, name: str = "") -> str:
        root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        place = f"/namespaces/{quote(self.namespace, safe='')}" if kind.namespaced else ""
        return f"{root}{place}/{kind.plural}" + (f"/{quote(name, safe='')}" if name else "")

    def _refusal(self, ask: Ask, status: Status) -> ReconcilerError:
        return refusals.error(ask, status, self._login)

    def _json(self, ask: Ask, body: bytes) -> dict[str, Any]:
        try:
            told = json.loads(body)
        except (ValueError, UnicodeDecodeError) as error:
            raise refusals.unreadable(ask, body, self._login) from error
        if not isinstance(told, dict):
            raise refusals.unreadable(ask, body, self._login)
        return told

    def _object(self, ask: Ask, body: bytes) -> Object:
        told = self._json(ask, body)
        about = told.get("metadata")
        if told.get("kind") != ask.kind.kind or not isinstance(about, dict) or about.get("name") != ask.name:
            raise refusals.unreadable(ask, body, self._login)
        return told

    def _read(
        self,
        ask: Ask,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: Object | None = None,
    ) -> tuple[Status, bytes]:
        """One read, tried again while the server is away. Raises what the last try raised."""
        patience = self._patience
        deadline = self._clock() + patience.tries_s
        pause = patience.pause_s
        for left in reversed(range(patience.tries)):
            within = max(0.1, min(patience.read_s, deadline - self._clock()))
            # What is away for longer than all the tries is told as the last try saw it.
            last = left == 0 or self._clock() + pause >= deadline
            try:
                status, answer, wait_s = self._once(ask, method, path, query or {}, body, within, sent_matters=False)
            except Unreachable:
                if last:
                    raise
            else:
                if last or not refusals.passing(status):
                    return status, answer
                pause = max(pause, min(wait_s, _PAUSE_MAX_S))
            self._sleep(pause)
            pause = min(pause * 2, _PAUSE_MAX_S)
        raise AssertionError("the last try returns or raises")

    def _effect(
        self,
        ask: Ask,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object,
        content: str = "application/json",
    ) -> tuple[Status, bytes]:
        """One try, whatever comes back."""
        status, answer, _ = self._once(
            ask, method, path, query, body, self._patience.effect_s, sent_matters=True, content=content
        )
        return status, answer

    def _once(
        self,
        ask: Ask,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        within_s: float,
        *,
        sent_matters: bool,
        content: str = "application/json",
    ) -> tuple[Status, bytes, float]:
        """The answer's status, its body, and after how many seconds the server wants to be asked again (0: it does not say)."""
        opened_now = self._open()
        code, answer, wait_s = self._exchange(ask, method, path, query, body, within_s, sent_matters, content)
        if code == 401 and not opened_now:
            # A token may have been renewed on disk; refused as nobody, nothing was done.
            self.close()
            self._open()
            code, answer, wait_s = self._exchange(ask, method, path, query, body, within_s, sent_matters, content)
        if 200 <= code < 300:
            return Status(code), answer, wait_s
        return refusals.status_of(code, answer), answer, wait_s

    def _exchange(
        self,
        ask: Ask,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        within_s: float,
        sent_matters: bool,
        content: str,
    ) -> tuple[int, bytes, float]:
        import urllib3  # noqa: PLC0415  comes with kubernetes
        from urllib3 import exceptions as broken  # noqa: PLC0415

        deadline = self._clock() + within_s
        url = self._configuration.host.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json, */*", "User-Agent": "reconciler", **self._headers()}
        data = None
        if body is not None:
            headers["Content-Type"] = content
            data = json.dumps(body, separators=(",", ":")).encode()
        try:
            answer = self._pool.request(
                method,
                url,
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=min(self._patience.connect_s, within_s), read=within_s),
                retries=False,  # nor redirects
                preload_content=False,
            )
        except (
            broken.NewConnectionError,
            broken.ConnectTimeoutError,
            broken.ProxyError,
            broken.SSLError,
            broken.LocationValueError,
        ) as error:
            raise refusals.unanswered(ask, str(error), self._login, sent=False) from error
        except broken.HTTPError as error:
            raise refusals.unanswered(ask, _told(error, within_s), self._login, sent=sent_matters) from error
        except OSError as error:  # a certificate's file that is gone or unreadable
            raise refusals.bad_kubeconfig(self._login.kubeconfig, str(error)) from error
        try:
            pieces = bytearray()
            for piece in answer.stream(_PIECE, decode_content=True):
                pieces += piece
                if len(pieces) > _ANSWER_MAX:
                    raise Unparsable(
                        f"Could not {ask.doing}: {self._login.where} answered more than {_ANSWER_MAX} bytes"
                    )
                if self._clock() > deadline:
                    why = f"its answer was not whole within {within_s:.3g} s"
                    raise refusals.unanswered(ask, why, self._login, sent=sent_matters)
        except broken.HTTPError as error:
            raise refusals.unanswered(ask, _told(error, within_s), self._login, sent=sent_matters) from error
        finally:
            # Back into the pool when read to its end; else the connection is of no more use.
            answer.release_conn() if answer.isclosed() else answer.close()
        return answer.status, bytes(pieces), _seconds(answer.headers.get("Retry-After", ""))

    def stream(self, kind: Kind, query: Mapping[str, str], *, silence_s: float) -> Iterator[bytes]:
        """The lines of a watch as they come, until the server ends it. Raises Unreachable after `silence_s` without a byte or
        when the connection breaks, and what a refusal raises."""
        import urllib3  # noqa: PLC0415  comes with kubernetes
        from urllib3 import exceptions as broken  # noqa: PLC0415

        self._open()
        ask = self._ask("watch", kind)
        url = f"{self._configuration.host.rstrip('/')}{self._path(kind)}?{urlencode({**query, 'watch': '1'})}"
        headers = {"Accept": "application/json", "User-Agent": "reconciler", **self._headers()}
        timeout = urllib3.Timeout(connect=self._patience.connect_s, read=silence_s)
        try:
            answer = self._pool.request(
                "GET", url, headers=headers, timeout=timeout, retries=False, preload_content=False
            )
            try:
                if answer.status != 200:
                    raise self._refusal(ask, refusals.status_of(answer.status, answer.read(_PIECE)))
                rest = b""
                for piece in answer.stream(_PIECE, decode_content=True):
                    *lines, rest = (rest + piece).split(b"\n")
                    if len(rest) > _ANSWER_MAX:
                        raise refusals.unreadable(ask, rest[:200], self._login)
                    yield from lines
            finally:
                answer.close()
        except (broken.HTTPError, OSError) as error:
            raise refusals.unanswered(ask, str(error), self._login, sent=False) from error

    # --- signing in

    def _headers(self) -> dict[str, str]:
        """Who we are. The library renews what has expired here."""
        settings = self._configuration.auth_settings()
        return {
            each["key"]: each["value"] for each in settings.values() if each.get("in") == "header" and each.get("value")
        }

    def _open(self) -> bool:
        """True when the kubeconfig was read just now."""
        if self._pool is not None:
            return False
        try:
            import urllib3  # noqa: PLC0415
            from kubernetes import client  # noqa: PLC0415  late on purpose: see the module
            from kubernetes.client.rest import RESTClientObject  # noqa: PLC0415
        except ImportError as error:
            raise refusals.no_library() from error
        configuration = client.Configuration()
        path = self._kubeconfig or os.environ.get("KUBECONFIG", "") or "~/.kube/config"
        paths = [Path(part).expanduser() for part in path.split(os.pathsep) if part]
        if any(part.exists() for part in paths):
            self._load(configuration, os.pathsep.join(map(str, paths)))
        elif self._kubeconfig or os.environ.get("KUBECONFIG", ""):
            raise refusals.no_kubeconfig(path)
        else:
            self._load_of_pod(configuration)
        if not configuration.verify_ssl:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # as the kubeconfig demands
        try:
            pool = RESTClientObject(configuration).pool_manager
        except (OSError, ValueError) as error:
            raise refusals.bad_kubeconfig(self._login.kubeconfig, str(error)) from error
        self._configuration, self._pool = configuration, pool
        return True

    def _load(self, configuration: Any, path: str) -> None:
        import yaml  # noqa: PLC0415
        from kubernetes.config import ConfigException  # noqa: PLC0415
        from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger  # noqa: PLC0415

        self._login = Login(path, self._context)
        broken = (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError)
        try:
            merged = KubeConfigMerger(path)
            known = merged.config.value
            contexts = {each.value["name"]: each.value["context"] for each in known["contexts"]}
            context = self._context or str(known.get("current-context") or "")
        except broken as error:
            raise refusals.bad_kubeconfig(path, str(error)) from error
        if context not in contexts:
            raise refusals.no_context(path, context, sorted(map(str, contexts)))
        self._login = Login(path, context)
        self.context_namespace = str((contexts[context] or {}).get("namespace") or "")
        try:
            for entry in known["users"]:
                user = entry.value.get("user") or {}
                if entry.value["name"] == contexts[context].get("user") and "exec" in user:
                    # The library would wait for the program for ever, and log what it says instead of raising it.
                    about = next(
                        each.value["cluster"]
                        for each in known["clusters"]
                        if each.value["name"] == contexts[context]["cluster"]
                    )
                    entry.value = {**entry.value, "user": self._signed_in(user["exec"], about, Path(entry.path).parent)}
            loader = KubeConfigLoader(
                config_dict=merged.config, active_context=context, config_persister=merged.save_changes
            )
            loader.load_and_set(configuration)
        except broken as error:
            raise refusals.bad_kubeconfig(path, str(error)) from error
        if not re.match(r"https?://[^/]", configuration.host):
            raise refusals.bad_kubeconfig(
                path, f"the server of context {context} is no address: {configuration.host!r}"
            )
        self._login = Login(path, context, configuration.host)

    def _signed_in(self, how: Mapping[str, Any], cluster: Mapping[str, Any], folder: Path) -> dict[str, str]:
        """The user that a kubeconfig's sign-in program tells of. It has a deadline and no terminal, so it cannot ask anybody."""
        program, version = str(how["command"]), str(how["apiVersion"])
        spec: dict[str, Any] = {"interactive": False}
        if how.get("provideClusterInfo"):
            spec["cluster"] = dict(cluster)
        asked = json.dumps({"apiVersion": version, "kind": "ExecCredential", "spec": spec})
        given = {str(each["name"]): str(each["value"]) for each in how.get("env") or ()}
        within_s = self._patience.sign_in_s
        try:
            done = subprocess.run(
                [program, *map(str, how.get("args") or ())],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=within_s,
                check=False,
                cwd=folder,
                env={**os.environ, **given, "KUBERNETES_EXEC_INFO": asked},
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise refusals.no_token(program, f"it did not end within {within_s:.3g} s", self._login) from error
        except OSError as error:
            raise refusals.no_token(program, str(error), self._login) from error
        if done.returncode:
            why = f"exit status {done.returncode}: {done.stderr.decode('utf-8', 'replace')}"
            raise refusals.no_token(program, why, self._login)
        try:
            told = json.loads(done.stdout)["status"]
            if told.get("token"):
                return {"token": str(told["token"])}
            pair = {"client-certificate-data": told["clientCertificateData"], "client-key-data": told["clientKeyData"]}
            return {key: base64.b64encode(value.encode()).decode() for key, value in pair.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            # Without its words: they may hold a credential.
            raise refusals.no_token(program, f"what it printed is no credential of {version}", self._login) from None

    def _load_of_pod(self, configuration: Any) -> None:
        from kubernetes.config import ConfigException, load_incluster_config  # noqa: PLC0415

        try:
            load_incluster_config(client_configuration=configuration)
        except ConfigException as error:
            raise refusals.no_kubeconfig("") from error
        self._login = Login(server=configuration.host)


def _api_version(kind: Kind) -> str:
    return f"{kind.group}/{kind.version}" if kind.group else kind.version


def _told(error: Exception, within_s: float) -> str:
    from urllib3 import exceptions as broken  # noqa: PLC0415

    if isinstance(error, broken.ReadTimeoutError):
        return f"it said nothing for {within_s:.3g} s"
    return str(error)


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0
