"""The helper: made when it is needed, gone afterwards, whatever goes wrong between; and what others left behind."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pytest

from reconciler.backends.kube_control import JOB, POD
from reconciler.backends.volcano_helper import HELPER, LIFE_S, MAKER, OWNER, Helper, HelperTransport, HelperWish, job_of
from reconciler.core.errors import AccessRefused, OutcomeUnknown, Rejected, Unreachable
from reconciler.core.transport import Command, Completed
from tests.backends.kube_fake import FakeKube, lost

WISH = HelperWish(
    owner="jo",
    host="lab",
    maker="jo at ws1",
    image="python:3.11-slim",
    claim="data",
    path="/data",
    queue="research",
    resources={"requests": {"cpu": "1"}},
    service_account="runner",
    node_selector={"pool": "cpu"},
    tolerations=({"key": "gpu", "operator": "Exists"},),
)
NOW = 1_795_000_000.0
MADE = "2026-11-18T11:06:40Z"  # NOW


@dataclass
class Wire:
    """A transport into one pod, which answers while the pod is there."""

    kube: FakeKube
    pod: str
    calls: list[str] = field(default_factory=list)
    closed: bool = False
    breaks: Exception | None = None

    def _reach(self) -> None:
        if self.breaks is not None:
            error, self.breaks = self.breaks, None
            raise error
        if self.kube.there(POD, self.pod) is None:
            raise Unreachable(f"no pod {self.pod}")

    def run(self, command: Command, *, deadline_s: float) -> Completed:
        self._reach()
        self.calls.append(command.argv[0])
        return Completed(0, self.pod.encode(), b"")

    def put(
        self, source: BinaryIO, path: str, *, size: int, mode: int = 0o644, deadline_s: float, progress: Any = None
    ) -> None:
        self._reach()
        self.calls.append(f"put {path}")

    def get(self, path: str, *, size_max: int, deadline_s: float) -> bytes:
        self._reach()
        return path.encode()

    def close(self) -> None:
        self.closed = True


class Bench:
    """A helper on a fake API with a clock; `waits` runs at every pause, with its number."""

    def __init__(self) -> None:
        self.kube = FakeKube(clock=MADE)
        self.time = 0.0
        self.pauses = 0
        self.wires: list[Wire] = []
        self.waits: Callable[[int], None] = lambda _: self.come_up()
        self.reason = "0/1 nodes are available"
        self.tokens = iter(f"{number:04d}" for number in range(100))
        self.helper = self.another()

    def another(self, wish: HelperWish = WISH) -> Helper:
        return Helper(
            self.kube,
            wish,
            transport=self.wire,
            why=lambda: self.reason,
            ready_s=60.0,
            clock=lambda: self.time,
            now=lambda: NOW + self.time,
            sleep=self.sleep,
            token=lambda: next(self.tokens),
        )

    def wire(self, pod: str) -> Wire:
        self.wires.append(Wire(self.kube, pod))
        return self.wires[-1]

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.pauses += 1
        assert self.pauses < 1000
        self.waits(self.pauses)

    def come_up(self, phase: str = "Running") -> None:
        for job in self.kube.names(JOB):
            self.kube.run_pods(job, phase=phase)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def run(transport: HelperTransport) -> bytes:
    return transport.run(Command(("true",)), deadline_s=5.0).stdout


# --- what is made


def test_the_job_says_whose_it_is_and_ends_by_itself() -> None:
    job = job_of(WISH, "h")
    assert job["metadata"]["labels"] == {OWNER: "jo", HELPER: "lab"}
    assert job["metadata"]["annotations"] == {MAKER: "jo at ws1"}
    assert (job["spec"]["queue"], job["spec"]["minAvailable"], job["spec"]["ttlSecondsAfterFinished"]) == (
        "research",
        1,
        60,
    )
    (task,) = job["spec"]["tasks"]
    assert task["replicas"] == 1
    assert task["template"]["metadata"]["labels"] == {OWNER: "jo", HELPER: "lab"}
    spec = task["template"]["spec"]
    assert (spec["restartPolicy"], spec["activeDeadlineSeconds"]) == ("Never", LIFE_S)
    assert spec["volumes"] == [{"name": "cluster", "persistentVolumeClaim": {"claimName": "data"}}]
    assert (spec["serviceAccountName"], spec["nodeSelector"], spec["tolerations"]) == (
        "runner",
        {"pool": "cpu"},
        [{"key": "gpu", "operator": "Exists"}],
    )
    (container,) = spec["containers"]
    assert container["volumeMounts"] == [{"name": "cluster", "mountPath": "/data"}]
    assert container["resources"] == {"requests": {"cpu": "1"}}
    assert f"sleep {LIFE_S}" in container["command"][2]


def test_nothing_is_made_before_it_is_needed_nor_when_it_is_closed(bench: Bench) -> None:
    transport = HelperTransport(bench.helper)
    transport.close()
    assert bench.kube.calls == []


def test_it_is_made_once_waited_for_and_deleted(bench: Bench) -> None:
    transport = HelperTransport(bench.helper)
    assert run(transport) == b"reconciler-helper-0000-helper-0"
    transport.put(io.BytesIO(b""), "/data/f", size=0, deadline_s=5.0)
    assert transport.get("/data/f", size_max=9, deadline_s=5.0) == b"/data/f"
    assert bench.kube.names(JOB) == ["reconciler-helper-0000"]
    assert [call for call in bench.kube.calls if call[0] == "create"] == [("create", "Job", "reconciler-helper-0000")]
    transport.close()
    assert bench.kube.names(JOB) == []
    assert bench.wires[0].closed
    transport.close()


def test_a_pod_that_runs_and_is_not_ready_or_is_anothers_is_waited_for(bench: Bench) -> None:
    def come(number: int) -> None:
        name = bench.helper.name
        pods = bench.kube.run_pods(name, ready=number != 3)
        if number < 3:
            pods[0]["metadata"]["ownerReferences"][0]["uid"] = "of an earlier job of this name"

    bench.waits = come
    bench.helper.open()
    assert bench.pauses == 4


def test_it_is_replaced_before_its_time_is_over(bench: Bench) -> None:
    transport = HelperTransport(bench.helper)
    run(transport)
    bench.time += LIFE_S - 120
    assert run(transport) == b"reconciler-helper-0001-helper-0"
    assert bench.kube.names(JOB) == ["reconciler-helper-0001"]


# --- what goes wrong


def test_one_that_does_not_come_is_deleted_and_the_reason_is_told(bench: Bench) -> None:
    bench.waits = lambda _: None
    with pytest.raises(
        Unreachable, match=r"(?s)claim data of host lab .*not there after 60 s: 0/1 nodes .*queue research"
    ):
        bench.helper.open()
    assert 60 <= bench.time < 62
    assert bench.kube.names(JOB) == []


@pytest.mark.parametrize("phase", ["Failed", "Terminated", "Aborted", "Completed"])
def test_one_that_ends_at_once_is_not_waited_for(bench: Bench, phase: str) -> None:
    def end(_: int) -> None:
        there = bench.kube.there(JOB, bench.helper.name)
        assert there is not None
        there["status"] = {"state": {"phase": phase}}

    bench.waits, bench.reason = end, ""
    with pytest.raises(Unreachable, match=f"its job is {phase}"):
        bench.helper.open()
    assert bench.pauses == 1
    assert bench.kube.names(JOB) == []


def test_one_that_somebody_deletes_is_not_waited_for(bench: Bench) -> None:
    bench.waits, bench.reason = lambda _: bench.kube.finish(JOB, bench.helper.name), ""
    with pytest.raises(Unreachable, match="somebody deleted it"):
        bench.helper.open()
    assert bench.pauses == 1


def test_a_server_that_is_away_for_a_moment_does_not_end_the_wait(bench: Bench) -> None:
    bench.kube.failures += [("list", Unreachable("busy"), False)] * 3
    bench.helper.open()
    assert bench.kube.names(JOB) == ["reconciler-helper-0000"]


def test_a_missing_right_ends_the_wait_and_leaves_nothing(bench: Bench) -> None:
    bench.kube.forbidden.add(("list", "pods"))
    with pytest.raises(AccessRefused, match="cannot list"):
        bench.helper.open()
    assert bench.kube.names(JOB) == []


def test_a_refused_create_is_told_and_leaves_nothing(bench: Bench) -> None:
    bench.kube.failures.append(("create", Rejected("exceeded quota"), False))
    with pytest.raises(Rejected, match="exceeded quota"):
        bench.helper.open()
    assert bench.helper.name == ""


def test_a_create_whose_answer_was_lost_is_looked_for_and_deleted(bench: Bench) -> None:
    bench.kube.failures.append(lost("create"))
    with pytest.raises(OutcomeUnknown):
        bench.helper.open()
    assert bench.kube.names(JOB) == []


def test_a_person_who_interrupts_the_wait_leaves_nothing(bench: Bench) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    bench.waits = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.helper.open()
    assert bench.kube.names(JOB) == []


def test_a_delete_that_fails_may_be_tried_again(bench: Bench) -> None:
    bench.helper.open()
    bench.kube.failures.append(("delete", Unreachable("away"), False))
    with pytest.raises(Unreachable):
        bench.helper.close()
    bench.helper.close()
    assert bench.kube.names(JOB) == []


def test_where_the_pod_is_gone_a_new_one_is_made_and_asked(bench: Bench) -> None:
    transport = HelperTransport(bench.helper)
    run(transport)
    bench.kube.finish(POD, "reconciler-helper-0000-helper-0")
    assert run(transport) == b"reconciler-helper-0001-helper-0"
    assert bench.kube.names(JOB) == ["reconciler-helper-0001"]


def test_an_unreachable_pod_that_lives_is_not_replaced(bench: Bench) -> None:
    transport = HelperTransport(bench.helper)
    run(transport)
    bench.wires[0].breaks = Unreachable("the API server is away")
    with pytest.raises(Unreachable, match="server is away"):
        run(transport)
    assert bench.kube.names(JOB) == ["reconciler-helper-0000"]


def test_a_command_that_may_have_run_is_not_repeated_and_the_next_gets_a_new_helper(bench: Bench) -> None:
    transport = HelperTransport(bench.helper)
    run(transport)
    bench.wires[0].breaks = OutcomeUnknown("cut")
    bench.kube.finish(POD, "reconciler-helper-0000-helper-0")
    with pytest.raises(OutcomeUnknown):
        run(transport)
    assert len(bench.wires) == 1
    assert run(transport) == b"reconciler-helper-0001-helper-0"


def test_a_stream_is_not_sent_twice(bench: Bench) -> None:
    transport = HelperTransport(bench.helper)
    run(transport)
    bench.kube.finish(POD, "reconciler-helper-0000-helper-0")
    with pytest.raises(Unreachable):
        transport.put(io.BytesIO(b"x"), "/data/f", size=1, deadline_s=5.0)
    transport.put(io.BytesIO(b"x"), "/data/f", size=1, deadline_s=5.0)
    assert bench.wires[-1].calls == ["put /data/f"]


# --- leftovers


def left(bench: Bench, name: str, wish: HelperWish = WISH, made: str = MADE, **about: Any) -> None:
    body = job_of(wish, name)
    body["metadata"] |= {"creationTimestamp": made, **about}
    bench.kube.put(JOB, body)


def other(**changes: Any) -> HelperWish:
    from dataclasses import replace

    return replace(WISH, **changes)


def test_what_an_earlier_process_of_the_same_maker_left_is_deleted(bench: Bench) -> None:
    bench.helper.open()
    left(bench, "earlier")
    left(bench, "of-another-maker", other(maker="jo at ws2"))
    left(bench, "of-another-host", other(host="prod"))
    left(bench, "of-another-owner", other(owner="al"), made="2020-01-01T00:00:00Z")
    left(bench, "a-run", labels={OWNER: "jo", "reconciler/run": "r"}, made="2020-01-01T00:00:00Z")
    left(bench, "going", deletionTimestamp=MADE)
    assert bench.helper.sweep(bench.kube.list(JOB).objects) == ["earlier"]
    assert bench.kube.names(JOB) == [
        "a-run", "going", "of-another-host", "of-another-maker", "of-another-owner", "reconciler-helper-0000",
    ]  # fmt: skip


def test_what_should_have_ended_long_ago_is_deleted_whoever_of_our_owner_made_it(bench: Bench) -> None:
    left(bench, "old", other(maker="jo at ws2"))
    left(bench, "old-of-another-host", other(host="prod", maker="x"))
    left(bench, "timeless", other(maker="jo at ws2"), made="yesterday")
    bench.time = 19 * 60
    assert bench.helper.sweep(bench.kube.list(JOB).objects) == []
    bench.time = 21 * 60
    assert bench.helper.sweep(bench.kube.list(JOB).objects) == ["old", "old-of-another-host"]
    assert bench.kube.names(JOB) == ["timeless"]


def test_after_it_was_shut_none_is_made_any_more(bench: Bench) -> None:
    transport = HelperTransport(bench.helper)
    run(transport)
    bench.helper.shut()
    with pytest.raises(Unreachable, match="broken off"):
        run(transport)
    assert list(bench.kube.list(JOB).objects) == []
