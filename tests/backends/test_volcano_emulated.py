"""The Volcano driver on a simulated cluster that runs: what pods, nodes and Volcano's own parts do to a run, and its logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.backends.volcano_marks import object_name
from reconciler.backends.volcano_sight import Limits
from reconciler.core.cause import Cause
from reconciler.core.observation import Presence, ReportStatus
from reconciler.core.protocols import Accepted, Declined, Known, LogCursor, Look
from tests.backends.kube_site import KubeSite, kube_site, see

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("volcano")]


@pytest.fixture
def site(tmp_path, bundle) -> Iterator[KubeSite]:
    with kube_site(tmp_path, bundle) as made:
        yield made


@pytest.fixture
def backend(site: KubeSite):
    made = site.open()
    yield made
    made.close()


# --- launching


def test_a_create_whose_answer_is_cut_is_one_job(site: KubeSite, backend):
    run = site.run()
    site.submit(backend, site.run("first"))
    site.kube.fault("create", "jobs", object_name(run.run_id), drop=True, after=True)
    assert site.submit(backend, run) is None
    assert see(backend, run).presence is Presence.PRESENT
    again = site.submit(backend, run)
    assert isinstance(again, Accepted)
    assert again.repeated
    made = [call for call in site.kube.calls if (call.verb, call.kind, call.code) == ("create", "jobs", 201)]
    assert sum(call.name == object_name(run.run_id) for call in made) <= 1
    assert site.names() == sorted(object_name(one.run_id) for one in (run, site.run("first")))


def test_a_job_that_the_webhook_refuses_leaves_no_secret(site: KubeSite, backend):
    answer = site.submit(backend, site.run(volcano={"queue": "nowhere"}))
    assert isinstance(answer, Declined)
    assert (answer.reason, answer.final) == ("refused", False)  # somebody may make that queue
    assert "nowhere" in answer.message
    assert (site.names(), site.names("secrets")) == ([], [])


@pytest.mark.parametrize(("verb", "kind"), [("create", "jobs"), ("create", "secrets"), ("list", "pods")])
def test_a_right_that_is_missing_is_named_and_not_final(site: KubeSite, backend, verb: str, kind: str):
    site.kube.deny(verb, kind)
    answer = site.submit(backend, site.run())
    assert isinstance(answer, Declined)
    assert (answer.reason, answer.final) == ("unreachable", False)
    assert f"{verb} {kind}" in answer.message
    backend.close()
    assert (site.names(), site.names("secrets"), site.helpers()) == ([], [], [])


def test_a_namespace_that_ends_takes_nothing_and_that_is_not_final(site: KubeSite, backend):
    site.submit(backend, site.run("first"))
    site.kube.end_namespace()
    answer = site.submit(backend, site.run())
    assert isinstance(answer, Declined)
    assert not answer.final
    assert "terminated" in answer.message


# --- waiting


def test_an_image_that_cannot_be_had_is_borne_for_a_while(site: KubeSite, backend):
    site.submit(backend, site.run("first"))
    site.kube.pull_fails("registry/bad:1")
    known = site.accepted(backend, site.run(volcano={"image": "registry/bad:1"}))
    site.until(lambda: see(backend, known).queue.reason == "ImagePull")
    patience = see(backend, known).patience
    assert (patience.wait_s, patience.cause) == (1800.0, Cause.REFUSED)
    assert "registry/bad:1" in patience.why


def test_a_controller_that_is_stuck_is_infrastructure(site: KubeSite, backend):
    site.submit(backend, site.run("first"))
    site.kube.stuck_controller()
    known = site.accepted(backend, site.run())
    site.clock += 60.0
    site.until(lambda: see(backend, known).queue.reason in ("NoPods", "NotYetSeen"))
    assert see(backend, known).patience.cause is Cause.INFRASTRUCTURE


@pytest.mark.parametrize("pending_s", [None, 3600.0])
def test_room_is_waited_for_as_long_as_the_host_says(site: KubeSite, pending_s: float | None):
    site.limits = Limits(pending_s, 1800.0)
    backend = site.open()
    known = site.accepted(backend, site.run(nodes=9, changes={"place": {"nodes": 9, "gpus_per_node": 8}}))
    site.clock += 60.0
    site.until(lambda: see(backend, known).queue.reason == "NoCapacity")
    patience = see(backend, known).patience
    assert (patience and (patience.wait_s, patience.cause)) == (pending_s and (3600.0, Cause.CAPACITY))
    backend.close()


# --- suspended by somebody


def test_a_suspended_job_is_over_even_if_it_is_resumed(site: KubeSite, backend):
    ran = Path(site.root, "ran")
    known = site.start(backend, site.run(command=["sh", "-c", f"echo x >>{ran}; sleep 600"]))
    name = object_name(known.run.run_id)
    site.kube.command(name, "AbortJob")
    seen = site.ended(backend, known)
    assert (seen.report.status, seen.report.cause) == (ReportStatus.FAILED, Cause.CANCELLED)
    assert "suspend" in seen.report.message
    site.kube.command(name, "ResumeJob")
    site.until(lambda: site.kube.phase(name) in ("Failed", "Terminated"))
    assert ran.read_text() == "x\n"


def test_a_suspended_job_goes_with_its_secret_once_nobody_minds_it(site: KubeSite, backend):
    known = site.start(backend, site.run())
    site.kube.command(object_name(known.run.run_id), "AbortJob")
    site.ended(backend, known)
    backend.observe(Look())
    site.until(lambda: (site.names(), site.names("secrets"), site.names("pods")) == ([], [], []))
    seen = backend.observe(Look(scan=True)).sightings[known.run.run_id]
    assert (seen.alive, seen.report.status) == (False, ReportStatus.PREEMPTED)  # as its pods were told


# --- nodes, pods


def test_a_lost_node_is_waited_for_and_then_given_up(site: KubeSite, backend):
    known = site.start(backend, site.run(nodes=2))
    (pod, _) = site.kube.pods(object_name(known.run.run_id))
    site.kube.lose_node(pod["spec"]["nodeName"])
    site.until(lambda: "does not answer" in see(backend, known).error)
    assert not see(backend, known).broken
    site.clock += 600.0
    seen = see(backend, known)
    assert (seen.alive, seen.broken, seen.report.cause) == (True, True, Cause.INFRASTRUCTURE)
    backend.cancel(known, reason="replaced", grace_s=1.0)
    site.until(lambda: see(backend, known).stopping)
    assert see(backend, known).alive  # what runs on the lost node, nobody knows
    backend.cancel(known, reason="replaced", grace_s=0.0, force=True)
    site.until(lambda: see(backend, known).presence is Presence.ABSENT)


def test_a_deleted_job_whose_pods_still_end_lives(site: KubeSite, backend):
    run = site.run(command=["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], grace="5s")
    known = site.start(backend, run)
    site.kube.delete("jobs", object_name(run.run_id))
    seen = see(backend, known)
    assert (seen.presence, seen.alive) == (Presence.PRESENT, True)
    seen = site.ended(backend, known)
    assert (seen.report.status, seen.report.cause) == (ReportStatus.FAILED, Cause.CANCELLED)


def test_what_we_end_is_told_why_on_the_claim(site: KubeSite, backend):
    known = site.start(backend, site.run())
    backend.cancel(known, reason="replaced", grace_s=1.0)
    site.until(lambda: see(backend, known).presence is Presence.ABSENT)
    wrote = json.loads((site.run_dir(known.run) / "metadata.json").read_text())
    assert (wrote["status"], wrote["cause"]) == ("cancelled", "replaced")
    # Another process, which did not do it, reads the same from there.
    other = site.open()
    seen = see(other, known)
    assert (seen.report.status, seen.report.cause) == (ReportStatus.CANCELLED, Cause.REPLACED)
    other.close()


# --- logs

LINES = b"".join(b"line %d\n" % number for number in range(1000))
TALK = ["sh", "-c", "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done"]


def whole(backend, known: Known, worker: int = 0) -> bytes:
    read, at = b"", 0
    while chunk := backend.logs(known, LogCursor(at, 1000, worker)):
        if not chunk.data:
            return read
        assert (chunk.start, chunk.end) == (at, at + len(chunk.data))
        read, at = read + chunk.data, chunk.end
    return read


def test_the_log_is_the_same_while_it_runs_when_it_has_ended_and_when_its_pods_are_gone(site: KubeSite, backend):
    script = TALK[2] + f"; while [ ! -e {site.root}/go ]; do sleep 0.05; done"
    known = site.start(backend, site.run(command=["sh", "-c", script], nodes=2))
    for worker in (0, 1):
        site.until(lambda worker=worker: whole(backend, known, worker) == LINES)
    Path(site.root, "go").touch()
    site.ended(backend, known)
    before = site.kube.count("get", "pods/log")
    assert whole(backend, known, 1) == LINES
    assert site.kube.count("get", "pods/log") > before  # without a helper
    tail = backend.logs(known, LogCursor(-9, 1000, 1))
    assert (tail.data, tail.end) == (LINES[-9:], len(LINES))
    site.kube.delete("jobs", object_name(known.run.run_id))
    site.until(lambda: not site.names("pods"))
    for worker in (0, 1):
        assert whole(backend, known, worker) == LINES


def test_of_an_output_that_the_node_keeps_the_end_of_the_claim_has_the_rest(site: KubeSite, backend):
    """A node cuts a container's output when it grows large; positions count from the claim's."""
    known = site.accepted(backend, site.run(command=TALK))
    site.ended(backend, known)
    (pod,) = site.kube.pods(object_name(known.run.run_id))
    site.kube.world.log_of(pod).write_bytes(LINES[-100:])
    chunk = backend.logs(known, LogCursor(5000, 50))
    assert (chunk.data, chunk.rotated) == (LINES[5000:5050], False)


# --- nothing of others


def test_beside_others_in_the_namespace_only_our_objects_are_written(site: KubeSite, backend):
    """Two reconcilers with the same manifests share namespace and claim."""
    theirs = site.open(owner="theirs")
    run = site.run(changes={"owner": "theirs", "token": "theirs"}, name="theirs")
    other = site.start(theirs, run)
    before = [(kind, one["metadata"]["uid"]) for kind in ("jobs", "pods", "secrets") for one in site.kube.list(kind)]
    since = len(site.kube.calls)
    same = site.run(name="theirs", changes={"token": "mine"})
    answer = site.submit(backend, same)
    assert isinstance(answer, Declined)
    assert answer.reason == "claimed"
    known = site.start(backend, site.run("mine"))
    backend.observe(Look((known,), scan=True, probe=True))
    backend.cancel(known, reason="deleted", grace_s=0.0, force=True)
    site.until(lambda: see(backend, known).presence is Presence.ABSENT)
    backend.close()
    after = {one["metadata"]["uid"] for kind in ("jobs", "pods", "secrets") for one in site.kube.list(kind)}
    assert {uid for _, uid in before} <= after
    mine = (object_name(known.run.run_id), "reconciler-helper-")
    changed = [one for one in site.writes(since) if one[0] != "create"]
    assert changed
    assert all(name.startswith(mine) for _, _, name in changed), changed
    assert see(theirs, other).alive
    theirs.close()
