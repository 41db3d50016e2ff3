"""Google's control plane by way of the gcloud program: the lines that people can copy, and the fallback without the library. The
builders and parsers are pure; `GcloudControl` runs them through one injected function.

Every behaviour here is gcloud 528's, recorded in tests/records/gcloud:

- Every line is `--format=json --quiet`, and effects are `--async`: a blocking create notices an end up to 40 % late.
- The exit code is read before the JSON: a listing that failed prints `[]` and exits with 1.
- The class of an error is the word after `ERROR: (gcloud...)`, else the `code` of an operation's JSON, else the HTTP status of a
  5xx, else "gcloud crashed". After the word come sentences of gcloud's own: a prefix is matched, never the line.
- gcloud sends a POST again after a 5xx, so that a create may find its own node: ALREADY_EXISTS is read, never believed.
- There is no command that looks at an operation: why a create failed later is not to be seen (`sees_operations`). A queued
  resource keeps its own error.
- A location that Google could not reach is left out without a word, so that absence in a listing wants a `get` beside it.
- `gcloud ... ssh` runs its command again when the connection breaks, up to ten times: it carries no job, and `ssh_argv` is for
  people.
"""

from __future__ import annotations

import builtins
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from reconciler.backends import tpu_refusals as refusals
from reconciler.backends.dialect import Answer, Argv
from reconciler.backends.tpu_keys import host_key
from reconciler.core.chips import topology_of
from reconciler.core.errors import AccessRefused, OutcomeUnknown, ReconcilerError, Unparsable, Unreachable
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

Run = Callable[[Argv, float], Answer]
"""Runs one argv for so many seconds. `returncode` None: ended at its deadline, or not to be run; then `stderr` says why."""

READ_S, EFFECT_S = 60.0, 120.0
"""gcloud takes 0.7 s itself, and up to 34 s for its five tries at a service that is away."""

_VM = ("gcloud", "compute", "tpus", "tpu-vm")
_QUEUED = ("gcloud", "compute", "tpus", "queued-resources")
_QUIET = ("--format=json", "--quiet")
NOT_FOUND_PROGRAM = "gcloud was not found"

# ---- the lines -----------------------------------------------------------------------------------------------


def create_argv(wish: NodeWish, project: str) -> Argv:
    """The line that makes the node, or the queued resource that will make it."""
    queued = wish.queued_s is not None
    topology = topology_of(wish.accelerator_type)
    argv = [*(_QUEUED if queued else _VM), "create", wish.name, *_where(wish.zone, project)]
    if queued:
        argv.append(f"--node-id={wish.name}")
    if topology:
        argv += [f"--type={topology[0]}", f"--topology={topology[1]}"]
    else:
        argv.append(f"--accelerator-type={wish.accelerator_type}")
    argv.append(f"--{'runtime-version' if queued else 'version'}={wish.version}")
    if queued:
        argv.append(f"--valid-until-duration={max(1, int(wish.queued_s or 0))}s")
    argv += [f"--{tier}" for tier in ("spot", "preemptible", "reserved") if getattr(wish, tier)]
    for flag, value in (
        ("network", wish.network),
        ("subnetwork", wish.subnetwork),
        ("service-account", wish.service_account),
        ("labels", _pairs(wish.labels)),
        ("metadata", _pairs(wish.metadata)),
        ("tags", ",".join(wish.tags)),
    ):
        if value:
            argv.append(f"--{flag}={value}")
    if wish.internal_ip:
        argv.append("--internal-ips")
    return (*argv, "--async", *_QUIET)


def describe_argv(zone: str, name: str, project: str) -> Argv:
    return (*_VM, "describe", name, *_where(zone, project), *_QUIET)


def list_argv(zone: str, project: str) -> Argv:
    return (*_VM, "list", *_where(zone, project), *_QUIET)


def delete_argv(zone: str, name: str, project: str) -> Argv:
    return (*_VM, "delete", name, *_where(zone, project), "--async", *_QUIET)


def describe_request_argv(zone: str, name: str, project: str) -> Argv:
    return (*_QUEUED, "describe", name, *_where(zone, project), *_QUIET)


def list_requests_argv(zone: str, project: str) -> Argv:
    return (*_QUEUED, "list", *_where(zone, project), *_QUIET)


def delete_request_argv(zone: str, name: str, project: str) -> Argv:
    return (*_QUEUED, "delete", name, *_where(zone, project), "--force", "--async", *_QUIET)


def host_keys_argv(zone: str, name: str, project: str) -> Argv:
    return (*_VM, "get-guest-attributes", name, *_where(zone, project), *_QUIET)


def types_argv(zone: str, project: str) -> Argv:
    return (*_VM, "accelerator-types", "list", *_where(zone, project), *_QUIET)


def ssh_argv(
    zone: str,
    name: str,
    project: str,
    *,
    user: str = "",
    worker: int | str = 0,
    command: str = "",
    internal_ip: bool = False,
) -> Argv:
    """For people: see the module for why no job goes this way."""
    login = f"{user}@{name}" if user else name
    return (
        *(*_VM, "ssh", login, *_where(zone, project), f"--worker={worker}"),
        *(("--internal-ip",) if internal_ip else ()),
        *((f"--command={command}",) if command else ()),
    )


def project_argv() -> Argv:
    return ("gcloud", "config", "get-value", "core/project", "--quiet")


def _where(zone: str, project: str) -> tuple[str, ...]:
    return (f"--zone={zone}", *((f"--project={project}",) if project else ()))


def _pairs(pairs: Mapping[str, str]) -> str:
    """A mapping as gcloud's flags take it: `a=1,b=2`, or with another delimiter where a value holds a comma (`gcloud topic
    escaping`)."""
    items = [f"{key}={value}" for key, value in pairs.items()]
    text = ",".join(items)
    if not any("," in item for item in items) and not text.startswith("^"):
        return text
    delimiter = next(mark for mark in _delimiters() if not any(mark in item for item in items))
    return f"^{delimiter}^{delimiter.join(items)}"


def _delimiters() -> Any:
    yield from (";", ":", "|", "#", "@")
    number = 0
    while True:
        yield f"--{number}--"
        number += 1


# ---- what came back ------------------------------------------------------------------------------------------


def node_of(given: Mapping[str, Any]) -> TpuNode:
    """A node in the API's JSON. Raises Unparsable for what is none."""
    name, word = _text(given, "name"), str(given.get("state", "STATE_UNSPECIFIED"))
    if not name:
        raise Unparsable("gcloud printed a TPU VM without a name")
    health, config = _text(given, "health"), _mapping(given, "acceleratorConfig")
    scheduling = _mapping(given, "schedulingConfig")
    topology = _text(config, "topology")
    kind = _text(given, "acceleratorType") or (f"{_text(config, 'type').lower()}-{topology}" if topology else "")
    return TpuNode(
        name=_last(name),
        zone=_zone_of(name),
        ident=_text(given, "id"),
        word=word,
        state=state_of(word),
        health="" if health == "HEALTH_UNSPECIFIED" else health,
        health_text=_text(given, "healthDescription"),
        labels=_strings(given, "labels"),
        metadata=_strings(given, "metadata"),
        endpoints=tuple(
            Endpoint(_text(each, "ipAddress"), _text(_mapping(each, "accessConfig"), "externalIp"))
            for each in _items(given, "networkEndpoints")
        ),
        accelerator_type=kind,
        created=_text(given, "createTime"),
        spot=scheduling.get("spot") is True,
        preemptible=scheduling.get("preemptible") is True,
        request=_last(_text(given, "queuedResource")),
    )


def request_of(given: Mapping[str, Any]) -> TpuRequest:
    """A queued resource in the API's JSON. Raises Unparsable for what is none."""
    name, state = _text(given, "name"), _mapping(given, "state")
    if not name:
        raise Unparsable("gcloud printed a queued resource without a name")
    word = str(state.get("state", "STATE_UNSPECIFIED"))
    specs = _items(_mapping(given, "tpu"), "nodeSpec")
    return TpuRequest(
        name=_last(name),
        zone=_zone_of(name),
        word=word,
        state=request_state_of(word),
        nodes=tuple(node for spec in specs for node in _names(spec)),
        error=_text(_mapping(_mapping(state, "failedData"), "error"), "message"),
        labels=_strings(_mapping(specs[0], "node"), "labels") if specs else {},
        metadata=_strings(_mapping(specs[0], "node"), "metadata") if specs else {},
        created=_text(given, "createTime"),
    )


def host_keys_of(given: Sequence[Any]) -> dict[int, str]:
    """Worker -> key, from the rows that get-guest-attributes prints."""
    rows: dict[int, list[tuple[str, str, str]]] = {}
    for row in given:
        if isinstance(row, dict) and isinstance(row.get("worker_id"), int):
            rows.setdefault(row["worker_id"], []).append(
                (_text(row, "namespace"), _text(row, "key"), _text(row, "value"))
            )
    found = {worker: host_key(attributes) for worker, attributes in sorted(rows.items())}
    return {worker: key for worker, key in found.items() if key}


_STATUS = re.compile(r"^ERROR: \(gcloud\.[\w.-]+\) ([A-Z][A-Z_]+): ?(.*)", re.MULTILINE | re.DOTALL)
_OPERATION = re.compile(r"^ERROR: \(gcloud\.[\w.-]+\) (\{.*?^\})", re.MULTILINE | re.DOTALL)
_HTTP = re.compile(r"'status': '?(\d{3})")
_SAID = re.compile(r'"message": ("(?:[^"\\]|\\.)*")')
_CRASH = re.compile(r"^ERROR: gcloud crashed \((\w+)\): (.*)", re.MULTILINE)
_PLAIN = re.compile(r"^ERROR: (?:\(gcloud\.[\w.-]+\) )?(.*)", re.MULTILINE)
# What gcloud adds of its own.
_ADDED = re.compile(r" ?This command is authenticated .*|\n- '@type'.*|\n- .*", re.DOTALL)
_NO_LOGIN = re.compile(
    r"do(?:es)? not (?:currently )?have an active account selected|gcloud auth login|no credentialed accounts", re.I
)
_NO_PROJECT = re.compile(r"attribute \[project\]|required property \[project\]", re.I)
# Refused by gcloud before anything was sent, though with exit code 1.
_UNSENT = re.compile(r"^ERROR: \(gcloud\.[\w.-]+\) (?:Error parsing|Invalid value for|argument )", re.M)


def failure(answer: Answer) -> tuple[str, str]:
    """(status of google.rpc.Code, text) of a line that failed. Status "USAGE" for one that gcloud itself refused, "LOGIN" and
    "PROJECT" where it says that there is none, "ABSENT" where the program is not there."""
    text = answer.stderr
    if answer.returncode is None:
        return (
            "ABSENT" if text.startswith(NOT_FOUND_PROGRAM) else "DEADLINE_EXCEEDED"
        ), text.strip() or "no answer in time"
    if (found := _STATUS.search(text)) and found[1] in refusals.CODES.values():
        return found[1], _ADDED.sub("", found[2]).strip()
    if (found := _OPERATION.search(text)) and (code := _operation_of(found[1])):
        return code
    if _NO_LOGIN.search(text):
        return "LOGIN", _first(text)
    if _NO_PROJECT.search(text):
        return "PROJECT", _first(text)
    if found := _HTTP.search(text):
        said = _SAID.search(text)
        return ("UNAVAILABLE" if found[1] in ("502", "503", "504") else "INTERNAL"), json.loads(
            said[1]
        ) if said else _first(text)
    if found := _CRASH.search(text):
        return ("UNAVAILABLE" if found[1] == "ConnectionError" else "DEADLINE_EXCEEDED"), f"{found[1]}: {found[2]}"
    unsent = answer.returncode == 2 or _UNSENT.search(text)
    return ("USAGE" if unsent else "UNKNOWN"), _first(text) or f"gcloud exited with {answer.returncode}"


def _operation_of(text: str) -> tuple[str, str] | None:
    try:
        said = json.loads(text)
        return refusals.CODES[said["code"]], str(said.get("message", ""))
    except (ValueError, KeyError, TypeError):
        return None


def _first(text: str) -> str:
    found = _PLAIN.search(text)
    return _ADDED.sub("", found[1]).strip() if found else text.strip()[:300]


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    return value if isinstance(value, str) else ""


def _mapping(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = given.get(key)
    return value if isinstance(value, dict) else {}


def _items(given: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = given.get(key)
    return [item if isinstance(item, dict) else {} for item in value] if isinstance(value, list) else []


def _strings(given: Mapping[str, Any], key: str) -> dict[str, str]:
    return {name: value for name, value in _mapping(given, key).items() if isinstance(value, str)}


def _names(spec: Mapping[str, Any]) -> tuple[str, ...]:
    if _text(spec, "nodeId"):
        return (_text(spec, "nodeId"),)
    several = _mapping(spec, "multisliceParams")
    count = several.get("nodeCount")
    return tuple(f"{_text(several, 'nodeIdPrefix')}-{index}" for index in range(count if isinstance(count, int) else 0))


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _zone_of(path: str) -> str:
    parts = path.split("/")
    return parts[3] if len(parts) > 3 else ""


# ---- the control ---------------------------------------------------------------------------------------------


def run_gcloud(endpoint: str = "", env: Mapping[str, str] | None = None) -> Run:
    """Runs gcloud here. At its deadline the program and what it started are killed. `endpoint` "http://HOST:PORT" asks that
    server instead of Google; `env` replaces the environment."""
    variables = dict(os.environ if env is None else env) | {
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        # Its own is 300 s a try, five of them.
        "CLOUDSDK_CORE_HTTP_TIMEOUT": "20",
    }
    if endpoint:
        variables["CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU"] = endpoint.rstrip("/") + "/"
        variables["CLOUDSDK_AUTH_DISABLE_CREDENTIALS"] = "true"  # no token of anybody's goes there

    def run(argv: Argv, timeout_s: float) -> Answer:
        try:
            process = subprocess.Popen(
                argv,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            return Answer(None, "", f"{NOT_FOUND_PROGRAM}: {error.strerror}")
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.communicate()
            return Answer(None, "", f"gcloud did not answer within {timeout_s:g} s")
        return Answer(process.returncode, stdout, stderr)

    return run


class GcloudControl:
    """Implements tpu_control.Control with the gcloud program. `project` "": gcloud's own."""

    sees_operations: ClassVar[bool] = False

    def __init__(self, project: str, *, run: Run | None = None, endpoint: str = "") -> None:
        self._project = project
        self._run = run or run_gcloud(endpoint)

    def default_project(self) -> str:
        """The project that is meant: the given one, else gcloud's own; "" where that cannot be told."""
        if self._project:
            return self._project
        answer = self._run(project_argv(), READ_S)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    # --- reads

    def list(self, zone: str) -> Listing:
        nodes: builtins.list[TpuNode] = []
        requests: builtins.list[TpuRequest] = []
        try:
            # Requests first: a node that one of them makes meanwhile is then in the listing of nodes.
            asked = f"list queued TPU requests in {zone}"
            requests += map(request_of, self._rows(list_requests_argv(zone, self._project), asked))
            nodes += map(node_of, self._rows(list_argv(zone, self._project), f"list TPU VMs in {zone}"))
        except ReconcilerError as error:
            return Listing(zone, tuple(nodes), tuple(requests), complete=False, error=str(error))
        return Listing(zone, tuple(nodes), tuple(requests))

    def get(self, zone: str, name: str) -> TpuNode | None:
        found = self._one(describe_argv(zone, name, self._project), f"read TPU VM {name} in {zone}")
        return None if found is None else node_of(found)

    def failure_of(self, zone: str, operation: str) -> Denied | None:
        """None: no command of gcloud looks at an operation."""
        del zone, operation
        return None

    def host_keys(self, zone: str, name: str) -> Mapping[int, str]:
        try:
            rows = self._json(host_keys_argv(zone, name, self._project), f"read the host keys of TPU VM {name}")
        except refusals.SAID_NO:
            return {}
        return host_keys_of(rows) if isinstance(rows, list) else {}

    def types(self, zone: str) -> frozenset[str]:
        rows = self._rows(types_argv(zone, self._project), f"list accelerator types in {zone}")
        return frozenset(_text(row, "type") or _last(_text(row, "name")) for row in rows)

    # --- effects

    def create(self, wish: NodeWish) -> Made:
        doing = f"create TPU VM {wish.name} in {wish.zone}"
        answer = self._run(create_argv(wish, self._project), EFFECT_S)
        if answer.returncode == 0:
            return Begun(_operation_in(answer.stdout))
        status, text = failure(answer)
        if status == "ALREADY_EXISTS":
            return self._existing(wish)
        if status == "USAGE":
            return Denied("invalid", text, final=True)
        denied = refusals.at_create(status, text)
        if denied is not None:
            return denied
        raise _error(status, text, doing, lost=True)

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
        found = self._one(describe_request_argv(zone, name, self._project), f"read queued TPU request {name} in {zone}")
        return None if found is None else request_of(found)

    def delete(self, zone: str, name: str) -> None:
        self._delete(
            delete_argv(zone, name, self._project), f"delete TPU VM {name} in {zone}", lambda: self.get(zone, name)
        )

    def delete_request(self, zone: str, name: str) -> None:
        argv = delete_request_argv(zone, name, self._project)
        self._delete(argv, f"delete queued TPU request {name} in {zone}", lambda: self._request(zone, name))

    def _delete(self, argv: Argv, doing: str, look: Callable[[], TpuNode | TpuRequest | None]) -> None:
        answer = self._run(argv, EFFECT_S)
        if answer.returncode == 0:
            return
        status, text = failure(answer)
        if status == "NOT_FOUND":
            return
        # Of a second delete, the API says only that an operation is in the way.
        if status in refusals.IN_THE_WAY and refusals.going(look()):
            return
        raise _error(status, text, doing, lost=True)

    # --- how a line is read

    def _json(self, argv: Argv, doing: str, *, absent: bool = False) -> Any:
        """What the line printed; with `absent`, None for NOT_FOUND. gcloud itself tries again, so that we do not."""
        answer = self._run(argv, READ_S)
        if answer.returncode != 0:
            status, text = failure(answer)
            if absent and status == "NOT_FOUND":
                return None
            raise _error(status, text, doing, lost=False)
        try:
            return json.loads(answer.stdout)
        except ValueError as error:
            raise Unparsable(f"Could not {doing}: gcloud printed no JSON: {answer.stdout[:200]!r}") from error

    def _rows(self, argv: Argv, doing: str) -> builtins.list[Mapping[str, Any]]:
        rows = self._json(argv, doing)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Unparsable(f"Could not {doing}: gcloud printed no list")
        return rows

    def _one(self, argv: Argv, doing: str) -> Mapping[str, Any] | None:
        found = self._json(argv, doing, absent=True)
        if found is not None and not isinstance(found, dict):
            raise Unparsable(f"Could not {doing}: gcloud printed something else")
        return found


def _operation_in(stdout: str) -> str:
    """The operation that an --async line printed; "" where it printed none: it was taken all the same."""
    try:
        printed = json.loads(stdout)
    except ValueError:
        return ""
    first = printed[0] if isinstance(printed, list) and printed else printed
    return _text(first, "name") if isinstance(first, dict) else ""


def _error(status: str, text: str, doing: str, *, lost: bool) -> ReconcilerError:
    match status:
        case "ABSENT":
            return AccessRefused(
                f"Could not {doing}: the program gcloud is not installed here.",
                hint="Install the Google Cloud CLI, or run `pip install 'reconciler[tpu]'` to do without it.",
            )
        case "LOGIN":
            return refusals.no_credentials(text, refusals.LOGIN_GCLOUD)
        case "PROJECT":
            return refusals.no_project()
        case "USAGE":
            return refusals.error("INVALID_ARGUMENT", text, doing, lost=False)
    if status == "UNKNOWN" and not lost:
        return Unreachable(f"Could not {doing}: {text}")
    return refusals.error(status, text, doing, lost=lost, login=refusals.LOGIN_GCLOUD)
