"""The verbs `enqueue` and `withdraw`: claim runs, hand their script to the queue system, write down what it answered.

One remote command does all of it, in an order that a crash anywhere leaves decidable: the claim, then `queued` without an
answer, then the submission, then `queued` with the answer. A claim without `queued` was never sent. One with `queued` but
without an answer may have been: before such a run is sent again, the queue is asked for its name. Should two jobs of one run
get into the queue all the same, the first to start wins `started`, and the other ends at once (runtime/step.py).

Submissions overlap, each in that order: while the scheduler takes some, the files of the next are written.
"""

from __future__ import annotations

import os

from runtime import claim, commands, contract, files, launch, process, status
from runtime.contract import Refused
from runtime.node import Node
from runtime.request import check_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from runtime.contract import Run

    Say = Callable[[Dict[str, Any]], None]

# A scheduler that took this long to say no to one job is not asked about the next ones in the same batch.
SLOW_S = 5.0
# Submissions on their way at once: while the scheduler takes one, the next one's files are written.
ABREAST = 3


def enqueue(document: Dict[str, Any], say: Say) -> Dict[str, Any]:
    """Serve one batch of submissions; one answer per run, each as soon as it is known."""
    os.umask(os.umask(0o022) & ~0o700)
    door = Door(document, say)
    try:
        for submission in document["submissions"]:
            door.serve(submission)
    finally:
        door.close()
    return {}


def withdraw(document: Dict[str, Any], say: Say) -> Dict[str, Any]:
    """Take back claims whose submission the queue system refused: nothing of them is left behind."""
    for run in document["runs"]:
        try:
            made = status.read_json(os.path.join(run["status_dir"], contract.CLAIM))
            ours = made.get("token") == run["token"]
            undone = ours and claim.undo(run)
        except (OSError, ValueError):
            undone = False
        say({"run_id": run["run_id"], "result": "withdrawn" if undone else "refused"})
    return {}


class Sent:
    """A submission on its way, and the runs in it by their place."""

    def __init__(self, submission: Dict[str, Any], ready: List[Optional[Run]], command: commands.Begun) -> None:
        self.submission = submission
        self.ready = ready
        self.command = command


class Door:
    """The way into one queue system from this login node."""

    def __init__(self, document: Dict[str, Any], say: Say) -> None:
        self._say = say
        self._sent: List[Sent] = []
        self._doubtful = document.get("doubtful", True)
        self._find, self._alive = document["find"], document["alive"]
        self._unset: List[str] = document.get("unset", [])
        self._timeout_s = float(document.get("timeout_s", 60.0))
        self._node = Node()
        pid = os.getpid()
        self._launcher = {"pid": pid, "start": process.start_of(pid)}
        self._trees = launch.Trees()
        self._shut = ""
        self._asked: Dict[Tuple[str, str], Tuple[Optional[bool], str, Dict[str, Any]]] = {}

    def serve(self, submission: Dict[str, Any]) -> None:
        """Claim the runs of one submission, and submit it when there is a run to submit: its answer may come later."""
        if self._shut:
            for given in submission["runs"]:
                self._say({"run_id": given.get("run_id"), "result": "refused", "reason": "busy", "message": self._shut})
            return
        ready: List[Optional[Run]] = []
        for given in submission["runs"]:
            ready.append(self._claim(given))
        runs = [run for run in ready if run is not None]
        if not runs:
            return
        try:
            self._write(submission, ready)
        except OSError as error:
            for run in runs:
                claim.undo(run)
                message = "%s: %s" % (error.filename or run["status_dir"], error.strerror)
                self._answer(run, "refused", reason="unwritable", message=message)
            return
        while len(self._sent) >= ABREAST and not self._shut:
            self._hear(self._sent.pop(0))
        if self._shut:  # found meanwhile: what was not sent is taken back
            for run in runs:
                claim.undo(run)
                self._answer(run, "refused", reason="busy", message=self._shut)
            return
        self._sent.append(Sent(submission, ready, commands.Begun(submission["submit"], self._timeout_s, self._unset)))

    def close(self) -> None:
        """Wait for the last answers."""
        for sent in self._sent:
            self._hear(sent)

    # -- claiming --------------------

    def _claim(self, given: Any) -> Optional[Run]:
        """The run when it is to be submitted; None when its answer was given."""
        run_id = given.get("run_id") if isinstance(given, dict) else None
        try:
            run = check_run(given, doubtful=self._doubtful)
            self._trees.check(run)
            claim.take(run, self._node, self._launcher, self._lives)
        except Refused as refused:
            answer = {"run_id": run_id, "result": "refused", "reason": refused.reason, "message": refused.message}
            if refused.missing:
                answer["missing"] = refused.missing
            self._say(answer)
            return None
        except claim.Already as already:
            return self._again(run, already)
        return run

    def _again(self, run: Run, already: claim.Already) -> Optional[Run]:
        """It was claimed before with this token: is it in the queue, did it run, or was it never sent?"""
        queued = read_queued(run["status_dir"])
        if already.started or (queued and queued.get("ident")):
            self._answer(run, "already", queued=queued, started=already.started)
            return None
        if self._abandoned(run):
            self._answer(run, "refused", reason="fenced", message="it was abandoned before it started")
            return None
        if queued is None:
            if self._launcher_lives(run):
                self._answer(run, "unknown", message="its launcher is still at work")
                return None
            return run
        there, ident, said = self._ask(queued["name"], queued["mark"])
        if there:
            queued["ident"] = member_of(ident, queued["index"])
            status.replace_json(os.path.join(run["status_dir"], contract.QUEUED), queued)
            self._answer(run, "already", queued=queued)
            return None
        if there is None:
            self._answer(run, "unknown", message="the queue cannot be asked for it: %s" % commands.words(said))
            return None
        return run

    def _ask(self, name: str, mark: str) -> Tuple[Optional[bool], str, Dict[str, Any]]:
        """Is a job of this name in the queue? Members of an array share one answer."""
        if (name, mark) not in self._asked:
            self._asked[name, mark] = commands.find(self._find, name, mark, self._timeout_s)
            if self._asked[name, mark][2]["rc"] is None:
                self._shut = "the scheduler does not answer: %s" % commands.words(self._asked[name, mark][2])
        return self._asked[name, mark]

    def _abandoned(self, run: Run) -> bool:
        return bool((claim.read_started(run["status_dir"]) or {}).get("abandoned_by"))

    def _launcher_lives(self, run: Run) -> bool:
        made = status.read_json(os.path.join(run["status_dir"], contract.CLAIM))
        launcher = {**made.get("launcher", {}), "boot_id": made.get("boot_id")}
        return launcher.get("pid") != os.getpid() and self._node.is_alive(launcher)

    def _lives(self, status_dir: str) -> Optional[bool]:
        """Does an older attempt still wait or run in the queue?"""
        queued = read_queued(status_dir)
        if queued is None:
            return False
        # By its name first: an id alone may be another job's by now.
        began = begun(status_dir)
        there, base, _ = self._ask(began.get("name") or queued["name"], began.get("mark") or queued["mark"])
        if not there:
            return there
        ident = began.get("ident") or member_of(base, queued["index"])
        return commands.probe(self._alive, ident, self._timeout_s)[0]

    # -- submitting --------------------

    def _write(self, submission: Dict[str, Any], ready: List[Optional[Run]]) -> None:
        """Everything that the nodes will read, before the submission: script, records, secrets, who is which member."""
        files.make_directories(os.path.dirname(submission["script_path"]))
        status.write_file(submission["script_path"], submission["script"].encode(), flush=False)
        if submission.get("members"):
            lines = [run["status_dir"] if run else "" for run in ready]
            status.write_file(submission["members"], ("\n".join(lines) + "\n").encode(), flush=False)
        for index, run in enumerate(ready):
            if run is None:
                continue
            status_dir = run["status_dir"]
            record = {name: value for name, value in run.items() if name not in ("secrets", "claim")}
            record["secret_names"] = sorted(run["secrets"])
            status.write_file(os.path.join(status_dir, contract.RECORD), status.encode(record), flush=False)
            if run["secrets"]:
                _write_secrets(os.path.join(status_dir, contract.SECRETS), run["secrets"])
            self._note(submission, run, index, None)

    def _hear(self, sent: Sent) -> None:
        answer = sent.command.answer()
        if answer["rc"] is None or (answer["rc"] != 0 and sent.command.took_s > SLOW_S):
            self._shut = "the scheduler did not answer for %s, so it was not asked: %s" % (
                sent.submission["name"],
                commands.words(answer),
            )
        submission, ready = sent.submission, sent.ready
        for index, run in enumerate(ready):
            if run is not None:
                self._note(submission, run, index, answer)
                self._answer(run, "submitted", answer=answer, index=index if submission.get("members") else None)

    def _note(self, submission: Dict[str, Any], run: Run, index: int, answer: Optional[Dict[str, Any]]) -> None:
        queued = {
            "name": submission["name"],
            "mark": submission["mark"],
            "index": index if submission.get("members") else None,
            "script": submission["script_path"],
            "output": submission["output"].replace("%a", str(index)),
            "answer": answer,
            "ident": None,
            "at": status.utc_now(),
        }
        path = os.path.join(run["status_dir"], contract.QUEUED)
        if answer is None:
            status.write_file(path, status.encode(queued), flush=False)
        else:
            # Not flushed: an answer lost in a power cut is found again by the job's name.
            status.write_file(path + ".new", status.encode(queued), flush=False)
            os.rename(path + ".new", path)

    def _answer(self, run: Run, result: str, **more: Any) -> None:
        self._say({"run_id": run["run_id"], "result": result, **more})


def read_queued(status_dir: str) -> Optional[Dict[str, Any]]:
    """What is known of the submission of this run; None when it was not sent, or its note was lost."""
    try:
        return status.read_json(os.path.join(status_dir, contract.QUEUED))
    except (FileNotFoundError, ValueError):
        return None


def member_of(ident: str, index: Optional[int]) -> str:
    """The id of one job of an array, as people and schedulers write it."""
    return ident if index is None else "%s_%d" % (ident, index)


def begun(status_dir: str) -> Dict[str, Any]:
    """The job that runs the run, of a submission that arrived twice the one that won: ident, name, mark. {} before that."""
    started = claim.read_started(status_dir) or {}
    return started if "job" in started else {}


def _write_secrets(path: str, secrets: Dict[str, str]) -> None:
    """For the owner's eyes only, from its first byte; the run's end removes it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        status.write_all(descriptor, status.encode(secrets))
    finally:
        os.close(descriptor)
