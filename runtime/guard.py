"""The verb `guard`: a rented TPU VM that deletes itself when nobody else does. A second line, for while no reconciler runs.

One detached process per VM. It never deletes while a run lives on this machine or that cannot be told, asks the service before
whether the VM is still the one that it was started for, and leaves the time before to whoever made the VM. It needs the VM's
own service account: a token from the metadata server, and the right to delete TPU nodes.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import sys
import time
import urllib.parse

from runtime import contract, status
from runtime.cancel import cancel
from runtime.observe import observe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

POLL_S = 30.0
CALL_TIMEOUT_S = 30.0
FAILED_WAIT_S_MAX = 600.0
FAILURES_MAX = 1000  # a week of them: a service account that may not delete does not learn it
BODY_BYTES_MAX = 1 << 20
METADATA_HOST, API = "metadata.google.internal", "https://tpu.googleapis.com"
RUN, DISPOSAL = "reconciler-run", "reconciler-disposal"
# Of tests only: where the metadata server and the service are, and how often to look.
METADATA_HOST_VARIABLE, API_VARIABLE, POLL_VARIABLE = (
    "GCE_METADATA_HOST",
    "RECONCILER_GUARD_API",
    "RECONCILER_GUARD_POLL_S",
)


class Gone(Exception):
    """The VM is not there any more, or is another one: nothing is left to guard."""


class Failed(Exception):
    """The service could not be asked, or refused."""


class Rule:
    """When the VM is to go. Times are seconds; `age_s` is the VM's at the beginning of the guard."""

    def __init__(self, document: Dict[str, Any], now: float) -> None:
        self.margin_s = float(document["margin_s"])
        self.start_s = float(document["start_s"])
        self.born = now - float(document["age_s"])
        self.made: Dict[str, Any] = disposal_of(document["disposal"]) or {}  # what the VM's metadata says
        self.overrides: Dict[str, Any] = {}  # what the run's manifest asks in place of it
        self.quiet_since: Optional[float] = None
        self.began = False

    def see(self, living: bool, began: bool, now: float) -> None:
        """What a look showed: the quiet time counts from the first look that showed no life."""
        self.began = self.began or began
        if living:
            self.quiet_since = None
        elif self.quiet_since is None:
            self.quiet_since = now

    @property
    def disposal(self) -> Dict[str, Any]:
        return {**self.made, **self.overrides}

    def outlived(self, now: float) -> bool:
        """Is its ttl past, and the time that others have to see to it?"""
        ttl_s = self.disposal.get("ttl_s")
        return ttl_s is not None and now - self.born >= ttl_s + self.margin_s

    def why(self, final: str, now: float) -> str:
        """Why it is to go now, "" when not. `final`: the word in the run's final record, "" without one."""
        if self.quiet_since is None:
            return ""
        if self.outlived(now):
            return "its ttl is past"
        quiet_s = now - self.quiet_since
        if not self.began:
            return "no run began on it" if quiet_s >= self.start_s + self.margin_s else ""
        # A run that could not even write how it ended has failed.
        delete, ended = self.disposal.get("delete", "always"), _ENDS.get(final, "") if final else "failure"
        if delete == "never" or (ended and delete in _ENDS.values() and delete != ended):
            return ""
        if quiet_s < self.disposal.get("keep_s", 0.0) + self.margin_s:
            return ""
        return "its run has ended (%s)" % (final or "without a final record")


_ENDS = {contract.COMPLETED: "success", contract.FAILED: "failure"}
_DELETE = ("always", "success", "failure", "never")


def disposal_of(found: Any) -> Optional[Dict[str, Any]]:
    """What `found` says of when a VM is to go, each of `delete`, `keep_s` and `ttl_s` where it says that; None where one of them
    cannot be read. Anybody who may edit the VM's metadata writes there."""
    if not isinstance(found, dict) or found.get("delete", "always") not in _DELETE:
        return None
    made: Dict[str, Any] = {"delete": found["delete"]} if "delete" in found else {}
    try:
        if "keep_s" in found:
            made["keep_s"] = float(found["keep_s"] or 0.0)
        if "ttl_s" in found:
            made["ttl_s"] = None if found["ttl_s"] is None else float(found["ttl_s"])
    except (TypeError, ValueError, OverflowError):
        return None
    numbers = [made.get("keep_s", 0.0), made.get("ttl_s") or 0.0]
    return made if all(math.isfinite(number) for number in numbers) else None


def guard(document: Dict[str, Any], say: Callable[[Dict[str, Any]], None]) -> Dict[str, Any]:
    """Start the guard of this VM unless it is there, and have it mind `overrides` from now on. Answers with its process id."""
    import fcntl  # noqa: PLC0415 - of POSIX systems only, like all the rest

    os.makedirs(os.path.dirname(document["lock"]), exist_ok=True)
    # Before the lock: the guard that has it reads this at its next look.
    status.replace_file(_terms(document), status.encode(document.get("overrides") or {}))
    lock = os.open(document["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        say({"guard": "already"})
        return {}
    pid = os.fork()
    if pid:
        say({"guard": "started", "pid": pid})
        return {}
    try:
        _detach(lock)
        _watch(document, Service(document))
    except BaseException:  # noqa: BLE001 - the last resort: its log gets the trace
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _detach(lock: int) -> None:
    """A session of its own, so that it is no part of a run; what it says goes into the lock file, after its process id."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.ftruncate(lock, 0)
    os.dup2(lock, 1)
    os.dup2(lock, 2)
    os.write(2, b"%d\n" % os.getpid())


def _watch(document: Dict[str, Any], service: Service) -> None:
    poll_s = float(os.environ.get(POLL_VARIABLE) or POLL_S)
    rule, failures, wait_s = Rule(document, time.monotonic()), 0, poll_s
    while failures < FAILURES_MAX:
        wait_s = poll_s
        if _is_due(document, rule):
            try:
                _see_to_it(document, rule, service)
                failures = 0
            except Gone as gone:
                _note(str(gone))
                return
            except Failed as failed:
                failures += 1
                wait_s = min(FAILED_WAIT_S_MAX, poll_s * 2.0 ** min(failures, 10))
                _note("%s; it is asked again in %.0f s" % (failed, wait_s))
        time.sleep(wait_s)


def _is_due(document: Dict[str, Any], rule: Rule) -> bool:
    living, final = _see(document, rule)
    now = time.monotonic()
    return rule.outlived(now) if living else bool(rule.why(final, now))


def _see(document: Dict[str, Any], rule: Rule) -> Tuple[bool, str]:
    """Look, at what lives here and at what is asked by now: (does a run live, the word in ours' final record)."""
    try:
        asked = disposal_of(status.read_json(_terms(document)))
        rule.overrides = rule.overrides if asked is None else asked
    except (OSError, ValueError) as error:
        _note(str(error))  # what was asked before goes on
    living, began, final = look(document, settled=rule.began)
    rule.see(living, began, time.monotonic())
    return living, final


def _see_to_it(document: Dict[str, Any], rule: Rule, service: Service) -> None:
    """Do what is due, if it still is: by a new look, and then by what the service says right before. Raises Gone or Failed, and
    has done nothing then, or did not hear that it did."""
    service.log_in()
    living, final = _see(document, rule)
    rule.made = service.disposal() or rule.made  # somebody may have changed it in the VM's metadata
    now = time.monotonic()
    why = rule.why(final, now)
    if living and rule.outlived(now):
        _note("its ttl is past: its run is asked to end")
        _stop(document)
    elif why:
        _note("it is deleted: %s" % why)
        service.delete()


def _terms(document: Dict[str, Any]) -> str:
    """Where the verb leaves what the manifest asks for the guard that runs."""
    return str(document["lock"]) + ".terms"


def _note(text: str) -> None:
    try:
        os.write(2, ("%s %s\n" % (status.utc_now(), text)).encode())
    except OSError:
        pass  # a full disk is no reason to keep the VM


def look(document: Dict[str, Any], *, settled: bool) -> Tuple[bool, bool, str]:
    """(does a run live here, or cannot that be told; has ours begun; the word in its final record).

    Any run counts, not only ours: a newer one on this machine keeps it. `settled`: ours was seen here before.
    """
    said: List[Dict[str, Any]] = []
    dirs = document["status_dirs"]
    known = [{"run_id": document["run_id"], "status_dir": one, "settled": settled and one == dirs[0]} for one in dirs]
    asked = {"version": 1, "status_roots": document["status_roots"], "known": known}
    closing = observe(asked, said.append)
    living, began, final = any(closing["roots"].values()), False, ""
    for line in said:
        seen = line["sighting"]
        ours = seen["run_id"] == document["run_id"]
        elsewhere = (seen.get("claim") or {}).get("hostname") not in (None, closing["hostname"])
        if seen["alive"] or (seen["error"] and (ours or not elsewhere)):
            living = True
        if seen["status_dir"] == dirs[0]:
            began = seen["state"] == "present"
            word = (seen["metadata"] or {}).get("status", "")
            final = word if word in contract.FINAL else ""
    return living, began, final


def _stop(document: Dict[str, Any]) -> None:
    """Ask our run to end as if the VM were taken: it writes a checkpoint, and another attempt may go on."""
    status_dir = document["status_dirs"][0]
    try:
        token = status.read_json(os.path.join(status_dir, contract.CLAIM)).get("token")
    except (OSError, ValueError) as error:
        _note(str(error))
        return
    wanted = {"run_id": document["run_id"], "token": token, "status_dir": status_dir, "reason": "preempted"}
    cancel({"runs": [{**wanted, "grace_s": document["grace_s"], "force": False}]}, lambda answer: _note(str(answer)))


class Service:
    """The TPU API as this VM may ask it. Every call has a deadline."""

    def __init__(self, document: Dict[str, Any]) -> None:
        self._of = document
        self._api = os.environ.get(API_VARIABLE) or API
        self._metadata = os.environ.get(METADATA_HOST_VARIABLE) or METADATA_HOST
        self._project, self._token = document["project"], ""

    def log_in(self) -> None:
        """Get what the calls need, so that they follow each other closely. Raises Failed."""
        self._project = self._project or self._told("project/project-id").decode("utf-8", "replace")
        try:
            self._token = str(json.loads(self._told("instance/service-accounts/default/token"))["access_token"])
        except (KeyError, TypeError, ValueError):
            raise Failed("the metadata server gave no token: has the VM a service account?") from None

    def disposal(self) -> Optional[Dict[str, Any]]:
        """What the VM's metadata says by now of when it is to go, None for nothing that can be read.

        Raises Gone where it is not our VM any more, Failed."""
        code, node = self._call("GET", "nodes/%s" % self._of["node"])
        if code == 404:
            raise Gone("the service does not know this VM any more")
        if node.get("id") != self._of["ident"] or (node.get("labels") or {}).get(RUN) != self._of["label"]:
            raise Gone("the VM of this name is another one, or was made over to another run: it is let alone")
        try:
            return disposal_of(json.loads(node["metadata"][DISPOSAL]))
        except (KeyError, TypeError, ValueError):
            return None

    def delete(self) -> None:
        """Ask for its deletion: whole, with the request that it came from."""
        request = self._of["request"]
        what = "queuedResources/%s?force=true" % request if request else "nodes/%s" % self._of["node"]
        code, _ = self._call("DELETE", what)
        if code == 404:
            raise Gone("the service does not know this VM any more")

    def _call(self, verb: str, what: str) -> Tuple[int, Dict[str, Any]]:
        path = "/v2/projects/%s/locations/%s/%s" % (self._project, self._of["zone"], what)
        code, body = _ask(self._api, verb, path, {"Authorization": "Bearer %s" % self._token})
        if code not in (200, 404):
            raise Failed("%s %s was answered with %d: %s" % (verb, path, code, body[:200].decode("utf-8", "replace")))
        try:
            found = json.loads(body) if code == 200 else {}
        except ValueError:
            raise Failed("%s %s was answered with no JSON" % (verb, path)) from None
        return code, found if isinstance(found, dict) else {}

    def _told(self, what: str) -> bytes:
        path = "/computeMetadata/v1/" + what
        code, body = _ask("http://" + self._metadata, "GET", path, {"Metadata-Flavor": "Google"})
        if code != 200:
            raise Failed("the metadata server answered %s with %d" % (path, code))
        return body


def _ask(server: str, verb: str, path: str, headers: Dict[str, str]) -> Tuple[int, bytes]:
    """One HTTP call past any proxy, which the metadata server must not be asked through."""
    url = urllib.parse.urlsplit(server)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.netloc, timeout=CALL_TIMEOUT_S)
    try:
        connection.request(verb, path, headers={**headers, "User-Agent": "reconciler-guard"})
        answer = connection.getresponse()
        return answer.status, answer.read(BODY_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise Failed("%s cannot be asked: %s" % (url.netloc, error)) from None
    finally:
        connection.close()
