"""The Volcano driver keeps the contract of backends on a simulated cluster, whose pods are processes of this machine.

Accepted is not begun: the site waits until a pod of the run says that its program runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.core.cause import Cause
from reconciler.core.observation import Presence, ReportStatus, Sighting
from reconciler.core.protocols import Accepted, Backend, Declined, Known, Look
from reconciler.core.run import Run
from tests.backends.kube_site import KubeSite, kube_site
from tests.contract.backend_contract import BackendContract

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("volcano")]


class ContractSite(KubeSite):
    def open(self, **more: Any) -> Any:
        return super().open(**{"owner": "", **more})  # the runs of the contract are of several owners


class TestVolcano(BackendContract):
    @pytest.fixture
    def site(self, tmp_path, bundle) -> Iterator[KubeSite]:
        with kube_site(tmp_path, bundle, ContractSite) as made:
            self._site = made
            yield made

    def start(self, backend: Backend, run: Run) -> Known:
        known = super().start(backend, run)

        def began() -> bool:
            seen = self.see(backend, run)
            return not seen.alive or self._site.runs(backend, known)

        self._site.until(began)
        return known

    def ended(self, site: KubeSite, backend: Backend, run: Run) -> Sighting:
        """The job of a run that we ended is deleted: how it ended is on the claim."""
        site.until(lambda: not self.see(backend, run).alive)
        seen = self.see(backend, run)
        if seen.presence is not Presence.ABSENT:
            return seen
        return backend.observe(Look(scan=True)).sightings[run.run_id]

    # --- where a cluster that starts pods itself changes what is promised

    def test_a_new_attempt_is_declined_while_an_older_one_lives(self, site, backend):
        """No pod sees the processes of another: the newer attempt claims the job, and the older one sees that and ends."""
        old, new = self.run(site, "endless"), self.run(site, "endless", attempt=2)
        self.start(backend, old)
        self.start(backend, new)
        assert self.ended(site, backend, old).report.cause is Cause.FENCED
        assert self.see(backend, new).alive

    def test_an_older_attempt_is_fenced_off_by_a_newer_one(self, site, backend):
        old, new = self.run(site, "quick"), self.run(site, "quick", attempt=2)
        self.start(backend, new)
        self.ended(site, backend, new)
        self.is_not_started(site, backend, old, Cause.FENCED, "attempt 2")

    def test_a_job_of_the_same_name_with_another_mark_is_declined_unless_taken_over(self, site, backend):
        theirs = self.run(site, "quick", owner="theirs")
        self.start(backend, theirs)
        self.ended(site, backend, theirs)
        self.is_not_started(site, backend, self.run(site, "quick", attempt=2), Cause.REFUSED, "carries the mark theirs")
        heir = self.run(site, "quick", attempt=3)
        answer = backend.submit([self.render(backend, heir, heir_of="theirs")])[heir.run_id]
        assert isinstance(answer, Accepted)
        assert self.ended(site, backend, heir).report.status is ReportStatus.COMPLETED

    def is_not_started(self, site: KubeSite, backend: Backend, run: Run, cause: Cause, why: str) -> None:
        self.start(backend, run)
        seen = self.ended(site, backend, run)
        assert (seen.report.status, seen.report.cause) == (ReportStatus.FAILED, cause)
        assert why in seen.report.message
        assert not (site.run_dir(run) / "output.log").exists()

    def test_a_batch_is_one_call_and_is_answered_run_by_run(self, site, backend):
        """Each run has objects of its own, so that it is not one call."""
        taken = self.run(site, "endless")
        self.start(backend, taken)
        other = self.run(site, "endless", token="somebody-elses")
        runs = [self.run(site, "quick"), other, self.run(site, "fails")]
        answers = backend.submit([self.render(backend, run) for run in runs])
        assert [type(answers[run.run_id]) for run in runs] == [Accepted, Declined, Accepted]

    def test_many_known_runs_are_one_question(self, site, backend):
        """As many questions for many runs as for one: a list of each kind, and one question to one pod."""
        run = self.run(site, "endless")
        self.start(backend, run)
        absent = [self.run(site, name, attempt=n) for name in ("quick", "fails") for n in (1, 2)]
        asked = []
        for known in ([run], [run, *absent]):
            before = site.commands()
            census = backend.observe(Look(tuple(map(Known, known)), scan=True, probe=True))
            asked.append(site.commands() - before)
        assert asked[0] == asked[1]
        assert census.complete
        assert census.look(run.run_id).presence is Presence.PRESENT
        assert {census.look(one.run_id).presence for one in absent} == {Presence.ABSENT}

    def test_a_scan_finds_what_has_finished_and_a_plain_look_does_not_list_it(self, site, backend):
        """The job of an ended run is listed as long as the cluster keeps it; then only a scan of the claim finds it."""
        run = self.run(site, "quick")
        self.start(backend, run)
        self.ended(site, backend, run)
        site.kube.delete("jobs", site.names()[0])
        site.until(lambda: not site.names("pods"))
        plain = backend.observe(Look())
        assert not plain.scanned
        assert run.run_id not in plain.sightings
        census = backend.observe(Look(scan=True))
        assert census.scanned
        assert census.sightings[run.run_id].run == run
        assert census.sightings[run.run_id].report.status is ReportStatus.COMPLETED

    def test_a_probe_says_what_the_host_has(self, site, backend):
        """Queues, and what they may hold."""
        site.kube.set_queue("small", {"nvidia.com/gpu": "8"})
        rooms = backend.observe(Look(probe=True)).capacity.rooms
        assert (rooms["small"].state, rooms["small"].cap) == ("Open", 8)
        assert (rooms["default"].state, rooms["default"].cap) == ("Open", None)

    def test_a_launch_whose_answer_is_lost_is_found_by_looking(self, site, backend):
        run = self.run(site, "endless")
        backend.submit([self.render(backend, self.run(site, "quick"))])  # the claim has been looked at
        with site.cut_after("create", "jobs"):
            assert backend.submit([self.render(backend, run)]) == {}  # not answered: only a look tells
        assert site.until(lambda: self.see(backend, run).alive)
        assert len(site.names()) == 2

    def test_a_launch_that_reached_nobody_says_so(self, site, backend):
        run = self.run(site, "endless")
        with site.unreachable():
            answer = backend.submit([self.render(backend, run)])[run.run_id]
        assert (answer.reason, answer.final) == ("unreachable", False)
        assert self.see(backend, run).presence is Presence.ABSENT
