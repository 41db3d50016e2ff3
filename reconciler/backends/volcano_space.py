"""One namespace of a Volcano host: its API, its claim, and the two ways to the claim.

What is on a claim can only be reached from inside a pod. A pod of ours that runs anyway is asked where that is enough (records,
what lies there); a helper is made for what it must not be burdened with (code on its way in), or where nothing of ours runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from reconciler.backends.kube_control import Kube
from reconciler.backends.node_answers import Answer, report_of, run_of
from reconciler.backends.node_call import NodeCall, NodeSettings
from reconciler.backends.volcano_helper import Helper, HelperTransport
from reconciler.core.errors import ReconcilerError, Rejected, Unparsable
from reconciler.core.observation import Report
from reconciler.core.protocols import Known, LogChunk, LogCursor
from reconciler.core.run import Run
from reconciler.core.transport import Command, Transport

_T = TypeVar("_T")

ASK_S = 30.0
# The runtime's words for a run that was claimed, and ended before it had a record (runtime/observe.py).
_BARELY = "is not whole"
_MISSING = 'for f do [ -e "$f" ] || printf "%s\\n" "$f"; done'


class Written(NamedTuple):
    """What runs wrote on the claim, and why it cannot be read of some, by run id. A run that wrote nothing is in neither."""

    reports: Mapping[str, Report]
    unread: Mapping[str, str]


class Space:
    """`reach` gives the transport into the container of a running pod, `install` brings the runtime over a transport."""

    def __init__(
        self,
        settings: NodeSettings,
        kube: Kube,
        helper: Helper,
        *,
        reach: Callable[[str], Transport],
        install: Callable[[Transport], None],
    ) -> None:
        self.kube = kube
        self.helper = helper
        self.way: Transport = HelperTransport(helper)
        """Into the claim by a helper of its own, made when it is first needed, and again when it was lost."""
        self.running: Sequence[str] = ()
        """Pods of ours that run, as last seen: any of them sees the claim."""
        self.swept = False
        self._settings = settings
        self._reach = reach
        self._install = install
        self._there: set[str] = set()

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Which of these are not on the claim. What was there once stays: names are checksums. Raises what asking raises."""
        doubtful = [path for path in dict.fromkeys(paths) if path not in self._there]
        if not doubtful:
            return []
        done = self._ask(lambda way: way.run(Command(("sh", "-c", _MISSING, "sh", *doubtful)), deadline_s=ASK_S))
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise Rejected(f"The claim of {self._settings.name} cannot be looked at: {said}")
        gone = set(done.stdout.decode(errors="surrogateescape").splitlines())
        self._there.update(path for path in doubtful if path not in gone)
        return [path for path in doubtful if path in gone]

    def install(self) -> None:
        """Bring the runtime to the claim. Raises what that raises."""
        self._install(self.way)

    def written(self, runs: Sequence[Run], *, only_running: bool = False) -> Written:
        """The last record of each run. `only_running`: make no helper for it. Raises what asking raises."""
        paths = self._settings.paths
        known = [
            {"run_id": run.run_id, "status_dir": paths.status_dir(run), "settled": True, "brief": True} for run in runs
        ]
        if only_running and not self.running:
            return Written({}, {})
        answer = self._observe({"known": known, "status_roots": [], "scan": False}, only_running=only_running)
        found: dict[str, Report] = {}
        unread: dict[str, str] = {}
        for line in answer.lines:
            data = line.get("sighting")
            if not isinstance(data, dict):
                continue
            run_id, error = str(data.get("run_id")), data.get("error")
            if error and not str(error).endswith(_BARELY):
                unread[run_id] = str(error)
            elif not error and data.get("state") == "present":
                try:
                    report = report_of(data)
                except (KeyError, TypeError, ValueError) as problem:
                    unread[run_id] = f"its metadata.json cannot be read: {problem}"
                    continue
                if report is not None:
                    found[run_id] = report
        return Written(found, unread)

    def scan(self, host: str) -> Mapping[str, tuple[Run, Report | None]]:
        """The newest run of every job that this host ever had on the claim. Raises what asking raises, and Unparsable where not
        all could be read."""
        answer = self._observe({"known": [], "status_roots": [self._settings.paths.status], "scan": True}, queue=host)
        last = answer.lines[-1] if answer.lines else {}
        roots = last.get("roots")
        errors = [f"{root}: {why}" for root, why in roots.items() if why] if isinstance(roots, dict) else ["no roots"]
        found: dict[str, tuple[Run, Report | None]] = {}
        for line in answer.lines:
            data = line.get("sighting")
            if not isinstance(data, dict):
                continue
            claim = data.get("claim")
            run = run_of(claim) if isinstance(claim, dict) else None
            if data.get("error") or run is None:
                errors.append(f"{data.get('status_dir')}: {data.get('error') or 'its claim cannot be read'}")
                continue
            try:
                found[run.run_id] = (run, report_of(data))
            except (KeyError, TypeError, ValueError) as problem:
                errors.append(f"{data.get('status_dir')}: its metadata.json cannot be read: {problem}")
        if errors:
            raise Unparsable("; ".join(errors[:3]))
        return found

    def logs(self, known: Known, since: LogCursor) -> LogChunk:
        """A piece of the log on the claim. Raises what asking raises."""
        return self._ask(lambda way: self._node(way).logs(known, since))

    def tell(self, pod: str, script: str, *arguments: str) -> None:
        """Run a small script in one pod of ours. Raises what that raises."""
        self._reach(pod).run(Command(("sh", "-c", script, "sh", *arguments)), deadline_s=ASK_S)

    def close(self) -> None:
        """Delete the helper, if there is one, and end connections. A helper that cannot be deleted now ends by itself."""
        try:
            self.helper.close()
        except ReconcilerError:
            pass
        self.kube.close()

    def _observe(self, asked: Mapping[str, Any], *, queue: str = "", only_running: bool = False) -> Answer:
        document = {"version": 1, "queue": queue or self._settings.name, **asked}

        def call(way: Transport) -> Answer:
            return self._node(way)("observe", document, deadline_s=2 * ASK_S)

        return self._ask(call, only_running=only_running)

    def _node(self, way: Transport) -> NodeCall:
        return NodeCall(self._settings, way, lambda: self._install(way))

    def _ask(self, call: Callable[[Transport], _T], *, only_running: bool = False) -> _T:
        """By a running pod, which may end at this moment or be of another image than ours; else by the helper."""
        for pod in self.running[:2]:
            try:
                return call(self._reach(pod))
            except ReconcilerError:
                if only_running and pod == self.running[:2][-1]:
                    raise
        return call(self.way)
