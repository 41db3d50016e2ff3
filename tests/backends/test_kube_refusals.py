"""Every recorded refusal of a real cluster means what it should, and says what to do next."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from reconciler.backends import kube_refusals as refusals
from reconciler.backends.kube_control import JOB, NAMESPACE, POD, QUEUE, SECRET
from reconciler.backends.kube_refusals import Ask, Login, Status, status_of
from reconciler.core.errors import (
    AccessRefused,
    NotNow,
    OutcomeUnknown,
    ReconcilerError,
    Rejected,
    Retry,
    Unparsable,
    Unreachable,
)
from tests.backends.kube_records import RECORDS, record, status

LOGIN = Login("/home/jo/lab.yaml", "lab", "https://lab:6443")
CREATE, GET, LIST = Ask("create", JOB, "team-a", "bad"), Ask("get", JOB, "team-a", "failed"), Ask("list", JOB, "team-a")
QUEUES = Ask("list", QUEUE)
DELETE, PATCH = Ask("delete", JOB, "team-a", "failed"), Ask("patch", JOB, "team-a", "failed")
EXEC, LOG = Ask("create", POD, "team-a", "helper", "exec"), Ask("get", POD, "team-a", "nobody", "log")

SAID = {
    # rights and credentials
    "python/get-401": (GET, AccessRefused, "credentials of lab of|context lab of /home/jo/lab.yaml", "auth whoami"),
    "errors/unauthorized.get": (LIST, AccessRefused, "https://lab:6443 does not accept the credentials", "auth whoami"),
    "python/get-403": (GET, AccessRefused, 'User "limited" cannot get', "can-i get jobs.batch.volcano.sh -n team-a` .* limited"),
    "errors/forbidden.create": (CREATE, AccessRefused, 'User "limited" cannot create', "can-i create jobs.batch.volcano.sh"),
    "errors/forbidden.delete": (DELETE, AccessRefused, "cannot delete", "can-i delete jobs.batch.volcano.sh -n team-a"),
    "errors/forbidden.list": (LIST, AccessRefused, "cannot list", "can-i list"),
    "errors/forbidden.get": (GET, AccessRefused, "cannot get", "--context lab auth can-i get"),
    "errors/forbidden.queue": (QUEUES, AccessRefused, "list Volcano queues: ", "can-i list queues.scheduling.volcano.sh`"),
    "errors/forbidden.exec": (EXEC, AccessRefused, "run a command in pod helper in namespace", "--subresource exec -n team-a"),
    "errors/forbidden.logs": (LOG, AccessRefused, "read the output of pod nobody", "can-i get pods --subresource log"),
    # what is not there
    "python/no-such-crd": (GET, NotNow, "Volcano is not installed there", "api-resources --api-group batch.volcano.sh"),
    "no-volcano/raw": (LIST, NotNow, "Volcano is not installed there", "Ask an administrator for Volcano"),
    "errors/namespace.missing-create": (CREATE, NotNow, "there is no namespace no-such-ns", "create namespace no-such-ns"),
    "no-volcano/namespace.missing-get": (GET, NotNow, "there is no namespace no-such-ns", "correct the host's namespace"),
    "errors/namespace.terminating": (CREATE, NotNow, "being terminated", "get namespace team-a"),
    # what the server refuses
    "errors/quota.pod": (CREATE, NotNow, "exceeded quota: q, requested: pods=1", "describe resourcequota"),
    "errors/quota.pod2": (CREATE, NotNow, "exceeded quota", "-n team-a describe resourcequota"),
    "errors/podsecurity.pod": (CREATE, Rejected, "runAsNonRoot != true", "`pod` and `container` of the host's entry"),
    "python/create-422": (CREATE, Rejected, "minAvailable of type int32", ""),
    "python/create-denied": (CREATE, Rejected, "'minAvailable' should not be greater", ""),
    "python/unknown-field-strict": (CREATE, Rejected, "strict decoding", "has no field spec.minAvailble"),
    "errors/invalid.unknown-field": (CREATE, Rejected, "strict decoding", "has no field spec.minAvailble"),
    "errors/invalid.too-large": (Ask("create", SECRET, "team-a", "big"), Rejected, "Too long", "1048576 bytes at most"),
    "errors/invalid.far-too-large": (CREATE, Rejected, "too large", "3145728 bytes at most"),
    "errors/apply-server-side.scale": (PATCH, Rejected, "may not change fields", ""),
    "errors/patch.scale": (PATCH, Rejected, "must be <= 'replicas'", ""),
    "queue/submit.missing": (CREATE, NotNow, "unable to find job queue", "get queues.scheduling.volcano.sh"),
    "queue/submit.closed": (CREATE, NotNow, "`shut` status is `Closed`", "takes no jobs now"),
    "queue/delete.open": (Ask("delete", QUEUE, "", "default"), Rejected, "can not be deleted", ""),
    "errors/expired-continue": (LIST, Rejected, "invalid continue token", ""),
    # what passes
    "python/stale-replace-409": (PATCH, Unreachable, "has been modified", "Nothing was done"),
    "errors/conflict.replace": (PATCH, Unreachable, "has been modified", "Nothing was done"),
    "errors/stale-watch": (LIST, Unreachable, "too old resource version", "reads it anew"),
    "outage/webhook-down.create": (CREATE, Unreachable, "failed calling webhook", "Volcano's admission service"),
    # commands in a pod
    "pods/exec.too-early": (EXEC, Unreachable, "container not found", "nothing was done"),
    "pods/exec.no-such-pod": (EXEC, Unreachable, 'pods "nobody" not found', "The pod is gone"),
    "pods/exec.no-such-command": (EXEC, Rejected, "executable file not found", "POSIX `sh`"),
    "pods/exec.no-such-container": (EXEC, Rejected, "container nope is not valid", ""),
    "pods/exec.completed-pod": (EXEC, Unreachable, "completed pod", ""),
    "no-volcano/no-node.exec": (EXEC, Unreachable, "does not have a host assigned", "in a moment"),
}  # fmt: skip
DENIED_ON_CREATE = sorted(
    f"errors/{path.stem}"
    for path in (RECORDS / "errors").glob("invalid.*.json")
    if "denied the request" in path.read_text() or "is invalid" in path.read_text()
)


@pytest.mark.parametrize("name", sorted(SAID))
def test_a_recorded_refusal_is_the_right_error_and_says_the_next_step(name: str) -> None:
    ask, kind, words, hint = SAID[name]
    error = refusals.error(ask, status(name), LOGIN)
    assert type(error) is kind
    assert _found(words, error.message), error.message
    assert _found(hint, error.hint), error.hint


@pytest.mark.parametrize("name", DENIED_ON_CREATE)
def test_an_object_that_is_refused_brings_the_servers_own_words(name: str) -> None:
    error = refusals.error(CREATE, status(name), LOGIN)
    assert type(error) is Rejected
    words = " ".join(record(name)["stderr"].split())
    assert error.message.removesuffix(" ...")[-60:] in words or "too large" in error.message.lower()


def test_there_are_as_many_recorded_denials_as_were_taken() -> None:
    assert len(DENIED_ON_CREATE) == 20


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("python/get-404", Ask("get", JOB, "team-a", "nobody")),
        ("python/delete-404", Ask("delete", JOB, "team-a", "nobody")),
        ("errors/notfound.get", Ask("get", JOB, "team-a", "nobody")),
        ("python/logs-404", LOG),
    ],
)
def test_an_object_that_is_not_there_is_absent(name: str, ask: Ask) -> None:
    assert refusals.absent(ask, status(name))


@pytest.mark.parametrize(
    "name",
    [
        "python/no-such-crd",
        "no-volcano/raw",
        "no-volcano/namespace.missing-get",
        "errors/namespace.missing-create",
        "python/get-403",
    ],
)
def test_no_kind_no_namespace_and_no_right_are_not_absence(name: str) -> None:
    assert not refusals.absent(Ask("get", JOB, "no-such-ns", "no-such-ns"), status(name))
    assert not refusals.absent(Ask("get", JOB, "team-a", "x"), status(name))


def test_a_namespace_that_is_asked_for_by_itself_can_be_absent() -> None:
    ask = Ask("get", NAMESPACE, "", "no-such-ns")
    assert refusals.absent(ask, status("no-volcano/namespace.missing-get"))


def test_another_objects_absence_is_not_ours() -> None:
    assert not refusals.absent(Ask("get", JOB, "team-a", "failed"), status("python/get-404"))


def test_a_name_that_is_taken_is_told_from_an_object_that_changed_and_from_another_uid() -> None:
    assert refusals.exists(status("python/create-409"))
    assert refusals.exists(status("errors/exists.create"))
    assert not refusals.exists(status("python/stale-replace-409"))
    assert refusals.other_uid(status("errors/conflict.uid"))
    assert not refusals.other_uid(status("errors/conflict.replace"))
    assert not refusals.other_uid(status("python/create-409"))


@pytest.mark.parametrize("name", ["pods/logs.too-early", "pods/exec.too-early", "no-volcano/no-node.exec"])
def test_a_container_that_has_not_come_up_is_known(name: str) -> None:
    assert refusals.not_started(status(name))


def test_a_container_that_is_not_in_the_pod_is_no_container_that_comes_up() -> None:
    assert not refusals.not_started(status("pods/exec.no-such-container"))


# --- no answer


def test_a_refused_connection_did_nothing() -> None:
    error = refusals.unanswered(CREATE, record("python/unreachable")["text"], LOGIN, sent=False)
    assert type(error) is Unreachable
    assert "Connection refused" in error.message
    assert "https://lab:6443" in error.message


@pytest.mark.parametrize(
    ("ask", "kind"),
    [(CREATE, OutcomeUnknown), (DELETE, OutcomeUnknown), (PATCH, OutcomeUnknown), (GET, Unreachable)],
)
def test_silence_after_a_request_leaves_an_effect_open_and_a_read_undone(ask: Ask, kind: type[ReconcilerError]) -> None:
    assert type(refusals.unanswered(ask, "it said nothing for 2 s", LOGIN, sent=True)) is kind


@pytest.mark.parametrize("name", ["no-volcano/other-ca"])
def test_a_foreign_certificate_is_refused(name: str) -> None:
    error = refusals.unanswered(
        GET, record(name)["stderr"].replace("x509: ", "[SSL: CERTIFICATE_VERIFY_FAILED] "), LOGIN, sent=False
    )
    assert type(error) is AccessRefused
    assert "listening in" in error.hint


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again_and_an_effect_is_doubted_where_it_may_have_happened(code: int) -> None:
    page = status_of(code, b"<html>Bad Gateway</html>")
    assert refusals.passing(page)
    assert type(refusals.error(LIST, page, LOGIN)) is Unreachable
    assert refusals.error(CREATE, page, LOGIN).retry is (Retry.SAFE if code == 429 else Retry.AFTER_LOOKING)


def test_a_server_that_says_itself_that_it_is_not_available_did_nothing() -> None:
    told = status_of(
        503, json.dumps({"kind": "Status", "reason": "ServiceUnavailable", "message": "not ready"}).encode()
    )
    assert type(refusals.error(CREATE, told, LOGIN)) is Unreachable


def test_a_page_that_leads_elsewhere_is_no_api() -> None:
    assert "login page" in refusals.error(LIST, Status(302, plain=True), LOGIN).hint
    assert type(refusals.error(LIST, Status(204), LOGIN)) is Unparsable


def test_a_404_for_a_builtin_kind_is_no_missing_volcano() -> None:
    error = refusals.error(Ask("list", POD, "team-a"), status("python/no-such-crd"), LOGIN)
    assert "Volcano" not in str(error)
    assert "may be no Kubernetes API" in error.message


def test_nobody_is_told_to_sign_in() -> None:
    message = 'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "team-a"'
    told = Status(403, "Forbidden", message)
    assert "Nobody is signed in" in refusals.error(Ask("list", POD, "team-a"), told, LOGIN).hint


def test_a_command_that_did_not_speak_is_doubted_unless_the_server_says_why() -> None:
    early = refusals.exec_failed(EXEC, status("pods/exec.too-early"))
    missing = refusals.exec_failed(EXEC, status("pods/exec.no-such-command"))
    cut = refusals.exec_failed(EXEC, Status(500, "InternalError", "error dialing backend: EOF"))
    assert [type(error) for error in (early, missing, cut)] == [Unreachable, Rejected, OutcomeUnknown]


# --- signing in


def test_the_contexts_there_are_are_named() -> None:
    error = refusals.no_context("/home/jo/lab.yaml", "nope", ["lab", "prod"])
    assert "has no context nope; it has lab, prod" in error.message
    assert "no current context" in refusals.no_context("f", "", []).message


def test_a_sign_in_program_that_is_missing_or_fails_is_named() -> None:
    missing = refusals.no_token("gke-auth", "[Errno 2] No such file or directory: 'gke-auth'", LOGIN)
    assert "is not installed" in missing.message
    assert "PATH" in missing.hint
    failing = refusals.no_token("gke-auth", "exec: process returned 1. token expired", LOGIN)
    assert "token expired" in failing.message
    assert "kubectl --kubeconfig /home/jo/lab.yaml --context lab" in failing.hint


def test_a_body_that_is_no_status_is_kept_as_words() -> None:
    assert status_of(404, b"404 page not found\n") == Status(404, message="404 page not found", plain=True)
    assert status_of(500, b'["x"]').plain
    assert status_of(400, b"\xff\xfe").plain
    assert status_of(400, b'{"kind":"Status","details":"x","message":null}').message == ""


def _found(words: str, text: str) -> bool:
    return re.search(words, text) is not None if "|" in words or ".*" in words else words in text


@pytest.mark.parametrize("text", ["lab;id", "$(id)", "a b"])
def test_a_command_to_paste_is_quoted(text: str) -> None:
    words = ["kubectl", "--kubeconfig", f"/k/{text}", "--context", text]
    assert shlex.split(Login(f"/k/{text}", text).kubectl) == words
    assert shlex.quote(text) in Login(f"/k/{text}", text).kubectl
