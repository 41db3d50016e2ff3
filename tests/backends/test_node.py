"""What the controlling side makes of a node's answers, with a host in memory that says what a test wants."""

from __future__ import annotations

import json

import pytest

from reconciler.backends.node import NodeBackend
from reconciler.backends.node_call import BUNDLE_MISSING, NodeCall, NodePaths, NodeSettings
from reconciler.core.errors import OutcomeUnknown, Rejected, Retry, Unparsable
from reconciler.core.observation import Presence
from reconciler.core.protocols import Accepted, Declined, Facts, Known, LogCursor, Look
from reconciler.core.transport import Command, Completed
from reconciler.load.normal import decode
from reconciler.transports.fake import FakeHost, FakeTransport
from reconciler.transports.local import LocalTransport
from tests.worlds import job, run_of

RUN = run_of(job())
HANDLE = {
    "run_id": RUN.run_id,
    "token": RUN.token,
    "status_dir": "/r",
    "pid": 1,
    "start": "2",
    "boot_id": "b",
    "sid": 1,
}


def lines(*values: object) -> bytes:
    return b"".join(b"@r1 " + json.dumps(value).encode() + b"\n" for value in values)


class Node:
    """A backend whose host answers each command with what is in `says`; `asked` are the documents it got."""

    def __init__(self) -> None:
        self.says: list[Completed] = []
        self.asked: list[tuple[str, dict]] = []
        self.installed = 0
        host = FakeHost("ws", programs={"sh": self._answer})
        paths = NodePaths("/r/status", "/r/work", "/r/checkpoints", "/r/results", "/r/bundle")
        self.backend = NodeBackend(NodeSettings("ws", paths), FakeTransport(host), self._install)

    def _install(self) -> None:
        self.installed += 1

    def _answer(self, host: FakeHost, command: Command) -> Completed:
        self.asked.append((command.argv[-1], json.loads(command.stdin)))
        return self.says.pop(0)

    def say(self, *values: object, code: int = 0, stderr: bytes = b"") -> None:
        self.says.append(Completed(code, lines(*values), stderr))

    def submit(self):
        return self.backend.submit([self.backend.render(RUN, Facts(decode(RUN.normal), None, {}))])


@pytest.fixture
def node():
    return Node()


@pytest.mark.parametrize(("result", "repeated"), [("started", False), ("already", True)])
def test_a_run_with_a_handle_is_accepted(node, result, repeated):
    node.say({"run_id": RUN.run_id, "result": result, "handle": HANDLE}, {"done": True})
    answer = node.submit()[RUN.run_id]
    assert isinstance(answer, Accepted)
    assert answer.repeated == repeated


def test_a_run_that_is_claimed_and_not_yet_started_is_not_declined(node):
    node.say({"run_id": RUN.run_id, "result": "already", "reason": "claimed", "handle": None}, {"done": True})
    assert RUN.run_id not in node.submit()


def test_a_refusal_says_why_in_words(node):
    node.say({"run_id": RUN.run_id, "result": "refused", "reason": "alive", "message": "pid 7"}, {"done": True})
    answer = node.submit()[RUN.run_id]
    assert isinstance(answer, Declined)
    assert answer.reason == "alive"
    assert "pid 7" in answer.message


def test_answers_for_runs_that_were_not_sent_are_ignored(node):
    node.say({"run_id": "another", "result": "started", "handle": HANDLE}, {"done": True})
    assert node.submit() == {}


@pytest.mark.parametrize(
    "said",
    [Completed(1, b"", b"Traceback"), Completed(137, b"", b""), Completed(255, lines({"done": True}), b"lost")],
    ids=["crashed", "killed", "ssh"],
)
def test_a_launch_that_broke_off_leaves_the_outcome_unknown(node, said):
    node.says.append(said)
    with pytest.raises(OutcomeUnknown) as error:
        node.submit()
    assert error.value.retry is Retry.AFTER_LOOKING


def test_a_launch_whose_answer_has_no_end_leaves_the_outcome_unknown(node):
    node.say({"run_id": RUN.run_id, "result": "refused", "reason": "alive"})
    with pytest.raises(Unparsable) as error:
        node.submit()
    assert error.value.retry is Retry.AFTER_LOOKING


def test_a_missing_bundle_is_installed_once_and_the_command_repeated(node):
    node.say(code=BUNDLE_MISSING)
    node.say({"done": True, "cpus": 2, "roots": {"/r/status": None}})
    assert node.backend.observe(Look()).complete
    assert node.installed == 1
    assert [verb for verb, _ in node.asked] == ["observe", "observe"]


def test_a_bundle_that_stays_missing_is_an_unknown_host(node):
    node.say(code=BUNDLE_MISSING)
    node.say(code=BUNDLE_MISSING)
    assert not node.backend.observe(Look()).complete


def test_a_root_that_cannot_be_read_makes_the_look_incomplete(node):
    node.say({"done": True, "cpus": 2, "roots": {"/r/status": "Stale file handle"}})
    census = node.backend.observe(Look((Known(RUN),)))
    assert not census.complete
    assert not census.away
    assert "Stale file handle" in census.error
    assert census.look(RUN.run_id).presence is Presence.UNKNOWN


def test_a_run_that_cannot_be_read_is_unknown_and_the_others_are_not(node):
    bad = {"run_id": RUN.run_id, "state": "present", "error": "Permission denied"}
    good = {"run_id": "b-1", "state": "absent", "alive": False}
    node.say({"sighting": bad}, {"sighting": good}, {"done": True, "cpus": 2, "roots": {"/r/status": None}})
    census = node.backend.observe(Look())
    assert census.complete
    assert census.look(RUN.run_id).presence is Presence.UNKNOWN
    assert census.look("b-1").presence is Presence.ABSENT


def test_a_cancel_that_is_not_answered_leaves_the_outcome_unknown(node):
    node.say({"done": True})
    with pytest.raises(OutcomeUnknown):
        node.backend.cancel(Known(RUN), reason="deleted", grace_s=1.0)


def test_a_cancel_that_is_refused_says_why(node):
    node.say({"run_id": RUN.run_id, "result": "refused", "reason": "token"}, {"done": True})
    with pytest.raises(Rejected, match="token"):
        node.backend.cancel(Known(RUN), reason="deleted", grace_s=1.0)


def test_a_log_answer_without_positions_is_not_guessed_at(node):
    node.says.append(Completed(0, lines({"done": True}) + b"text", b""))
    with pytest.raises(Unparsable):
        node.backend.logs(Known(RUN), LogCursor())


def test_secrets_travel_on_standard_input_and_nowhere_else(node):
    from reconciler.core.secret import Secret

    node.say({"run_id": RUN.run_id, "result": "started", "handle": HANDLE}, {"done": True})
    facts = Facts(decode(RUN.normal), None, {"KEY": Secret("hunter2")})
    submission = node.backend.render(RUN, facts)
    node.backend.submit([submission])
    assert node.asked[0][1]["runs"][0]["secrets"] == {"KEY": "hunter2"}
    assert "hunter2" not in repr(submission)
    assert "hunter2" not in json.dumps(dict(submission.body))


@pytest.mark.parametrize("python", [None, "python3"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_runtime_is_told_of_a_volume_that_pods_share(tmp_path, python, shared):
    (tmp_path / "bootstrap.sh").write_text('echo "${RECONCILER_SHARED:-no} $1"\n')
    paths = NodePaths("/s", "/w", "/c", "/r", bundle=str(tmp_path))
    call = NodeCall(NodeSettings("k8s", paths, python=python, shared=shared), LocalTransport(), lambda: None)
    done = LocalTransport().run(call._command("observe", b""), deadline_s=10.0)
    assert done.stdout.decode() == ("1" if shared else "no") + " observe\n"
