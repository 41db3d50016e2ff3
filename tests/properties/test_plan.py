"""DESIGN section 2, as far as plan() keeps it, for every world.

Each promise is a function of a world and its plan; all are asked of each generated world, because making a world costs more than
asking. `pytest tests/properties --hypothesis-profile=explore` looks at many more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.actions import Start, Stop, Verb
from reconciler.core.cause import Cause
from reconciler.core.job import JobSpec
from reconciler.core.memory import Adopted, Ended, Forgotten, Line, Memory, Refused, fold
from reconciler.core.names import JobKey
from reconciler.core.observation import Gpu, Presence, ReportStatus
from reconciler.core.phase import Phase
from reconciler.core.plan import Plan, World, plan
from reconciler.core.queue import QueueCapacity, QueueState
from reconciler.core.run import Run
from reconciler.core.solve import HostView, Placement
from tests.properties.strategies import HOSTS, KEYS, make_world, seeded, thrown, wanted
from tests.worlds import OWNER, census, live_memory, run_of

Promise = Callable[[World, Plan], None]
PROMISES: list[Promise] = []


def promise(check: Promise) -> Promise:
    PROMISES.append(check)
    return check


def learned(world: World, made: Plan) -> dict[JobKey, Memory]:
    memories = dict(world.memories)
    for key, line in made.lines:
        memories[key] = fold(memories.get(key) or Memory(key), line, world.now)
    return memories


def ours_seen_alive(world: World) -> list[tuple[str, Run]]:
    return [
        (host, seen.run)
        for host, one in world.observation.censuses.items()
        for seen in one.sightings.values()
        if seen.presence is Presence.PRESENT and seen.alive and seen.run is not None and seen.run.owner == world.owner
    ]


def target(action) -> tuple[str, str]:
    """(run id, host) that a stop reaches."""
    return action.effect.run.run_id, action.effect.run.host


@promise
def the_same_world_gives_the_same_plan(world, made):
    assert plan(world) == made


@promise
def a_job_has_at_most_one_action_and_one_view(world, made):
    assert max(Counter(action.job for action in made.actions).values(), default=0) <= 1
    assert max(Counter(view.job for view in made.views).values(), default=0) <= 1


@promise
def a_run_that_cannot_be_seen_holds_its_job(world, made):
    for action in made.actions:
        memory = world.memories.get(action.job)
        if memory is None or memory.run is None:
            continue
        if world.observation.look(memory.run.host, memory.run.run_id).presence is Presence.UNKNOWN:
            assert action.effect is None
            assert action.verb is Verb.HOLD


@promise
def what_is_stopped_was_seen_and_is_ours(world, made):
    alive = {(run.run_id, host) for host, run in ours_seen_alive(world)}
    for action in made.actions:
        if not isinstance(action.effect, Stop):
            continue
        run, memory = action.effect.run, world.memories.get(action.job)
        remembered = memory is not None and memory.run is not None and memory.run.run_id == run.run_id
        seen = world.observation.look(run.host, run.run_id)
        assert seen.presence is Presence.PRESENT
        assert seen.alive
        assert run.owner == OWNER
        assert remembered or target(action) in alive
        assert run.job == action.job


@promise
def a_broken_manifest_freezes_its_job(world, made):
    for action in made.actions:
        memory = world.memories.get(action.job) or Memory(action.job)
        by_a_person = memory.cancelled or memory.suspended
        if action.job in world.frozen and action.reason != "StrayAttempt" and not by_a_person:
            assert action.effect is None
            assert action.verb in (Verb.HOLD, Verb.ADOPT)


@promise
def an_incomplete_source_removes_nothing(world, made):
    if world.complete:
        return
    assert not any(action.destructive for action in made.actions)
    assert not any(
        isinstance(line, Forgotten) and world.memories[key].run is None
        for key, line in made.lines
        if key in world.memories
    )
    for action in made.actions:
        if isinstance(action.effect, Stop) and action.job not in world.desired:
            memory = world.memories.get(action.job)
            asked = memory is not None and (memory.stop is not None or memory.cancelled or memory.suspended)
            assert action.reason == "StrayAttempt" or asked


@promise
def nothing_starts_beside_a_run_that_lives_or_may_live(world, made):
    alive = {(run.job, run.run_id) for _, run in ours_seen_alive(world)}
    for action in made.actions:
        if not isinstance(action.effect, Start):
            continue
        again = action.effect.again
        memory = learned(world, made).get(action.job)
        open_run = memory.run if memory else None
        if again is not None and open_run is not None:
            # Sent again it says what the manifest says by now, which may differ in what makes no other run of it.
            item = world.desired[action.job]
            open_run = replace(open_run, normal=item.normal, spec_digest=item.spec_digest)
        assert open_run == again, "the job has an open run that is not this one"
        if again is not None:
            assert world.observation.look(again.host, again.run_id).presence is Presence.ABSENT
        assert not any(job == action.job for job, _ in alive)


@promise
def finished_work_is_not_done_again(world, made):
    for action in made.actions:
        if isinstance(action.effect, Start):
            # A later attempt that this state did not know of is newer than what it remembers to be done.
            later = any(key == action.job and isinstance(line, Adopted) for key, line in made.lines)
            stone = world.memories[action.job].tombstone if action.job in world.memories and not later else None
            item = world.desired[action.job]
            assert stone is None or (stone.digest, stone.generation) != (item.digest, item.generation)


@promise
def a_new_attempt_has_a_new_number(world, made):
    for action in made.actions:
        if isinstance(action.effect, Start) and action.effect.again is None and action.job in world.memories:
            assert action.effect.attempt > world.memories[action.job].attempt


@promise
def only_what_wants_to_run_is_started(world, made):
    for action in made.actions:
        if isinstance(action.effect, Start):
            memory = learned(world, made).get(action.job) or Memory(action.job)
            assert not world.desired[action.job].suspend
            assert not memory.suspended
            assert not memory.cancelled
            assert action.effect.again is not None or world.now >= memory.not_before


@promise
def no_accelerator_is_given_twice_and_none_that_is_busy_or_not_granted(world, made):
    used: dict[str, set[str]] = {}
    for host, one in world.observation.censuses.items():
        for seen in one.sightings.values():
            if seen.alive and seen.run is not None:
                used.setdefault(host, set()).update(seen.run.gpus or ())
    for memory in learned(world, made).values():
        if memory.run is not None:
            used.setdefault(memory.run.host, set()).update(memory.run.gpus or ())
    views = {view.name: view for view in world.hosts}
    for action in made.actions:
        if not isinstance(action.effect, Start) or action.effect.placement is None:
            continue
        placement = action.effect.placement
        if views[placement.host].queue is not None:
            continue
        item = world.decode(world.desired[action.job].normal).request
        capacity = world.observation.censuses[placement.host].capacity
        present: Mapping[str, Gpu] = {gpu.ident: gpu for gpu in capacity.gpus or ()}
        assert len(placement.gpus) == item.min_chips
        for ident in placement.gpus:
            assert present[ident].used_mib < views[placement.host].busy_mib
            assert item.chip in (None, world.chip_of(present[ident]))
        taken = used.setdefault(placement.host, set())
        assert not taken & set(placement.gpus)
        taken.update(placement.gpus)
        chips = views[placement.host].chips
        if chips is not None and item.chip is not None and placement.gpus:
            kinds = [world.chip_of(present[ident]) for ident in taken & present.keys()]
            assert kinds.count(item.chip) <= chips.get(item.chip, 0)


@promise
def a_start_goes_to_a_host_that_was_seen_completely_and_allows_it(world, made):
    views = {view.name: view for view in world.hosts}
    for action in made.actions:
        if isinstance(action.effect, Start) and action.effect.placement is not None:
            host = action.effect.placement.host
            request = world.decode(world.desired[action.job].normal).request
            assert world.observation.censuses[host].complete
            assert views[host].kind in ("plain", "slurm")
            assert not request.hosts or host in request.hosts


@promise
def cpu_jobs_stay_within_the_slots(world, made):
    slots = {view.name: view.slots for view in world.hosts if view.queue is None}
    started: Counter[str] = Counter()
    running: Counter[str] = Counter()
    for action in made.actions:
        if (
            isinstance(action.effect, Start)
            and action.effect.placement is not None
            and not action.effect.placement.gpus
        ):
            started[action.effect.placement.host] += 1
    for memory in learned(world, made).values():
        if memory.run is not None and not memory.run.gpus:
            running[memory.run.host] += 1
    for host, count in started.items():
        if host not in slots:
            continue
        assert count + running[host] <= (slots[host] or 0)


@promise
def a_living_run_of_ours_beside_the_open_one_is_never_ignored(world, made):
    acted = {action.job for action in made.actions}
    for _, run in ours_seen_alive(world):
        memory = world.memories.get(run.job) or Memory(run.job)
        is_open = memory.run is not None and (memory.run.run_id, memory.run.token) == (run.run_id, run.token)
        let_go = memory.attempt and memory.run is None and run.job not in world.desired
        minded = world.only is None or run.job in world.only
        if minded and not is_open and not let_go and run.host not in alarmed(world):
            assert run.job in acted


@promise
def destructive_actions_come_last(world, made):
    marks = [action.destructive for action in made.actions]
    assert marks == sorted(marks)


@promise
def the_guard_lets_few_removals_pass_and_asks_for_the_rest(world, made):
    removals = sum(action.destructive for action in made.actions)
    if made.refusal is not None:
        assert removals
        assert f"--confirm-delete {removals}" in made.refusal.message
        assert plan(replace(world, delete_allowed=removals)).refusal is None
    else:
        live = sum(memory.run is not None for memory in learned(world, replace(made, lines=())).values())
        assert removals < 2 or removals <= 0.25 * live + 1 or world.delete_allowed == removals


@promise
def what_was_learned_is_learned_once(world, made):
    again = plan(replace(world, memories=learned(world, made)))
    # What remains to be learned is about another living run that the first look left for later: it is taken in one by one.
    assert not any(line in made.lines for line in again.lines)
    assert not again.lines or isinstance(again.lines[0][1], Adopted)


@promise
def lines_are_about_the_run_that_was_open(world, made):
    memories = dict(world.memories)
    for key, line in made.lines:
        before = memories.get(key) or Memory(key)
        if not isinstance(line, (Adopted, Forgotten)):
            assert before.run is not None
            assert line.run_id == before.run.run_id
        memories[key] = fold(before, line, world.now)


@promise
def an_end_is_only_recorded_when_nothing_of_it_lives(world, made):
    for key, line in made.lines:
        if isinstance(line, Ended):
            memory = learned_until(world, made, key, line)
            seen = world.observation.look(memory.run.host, line.run_id)
            assert seen.presence is not Presence.UNKNOWN
            assert not seen.alive
            if line.phase is Phase.SUCCEEDED:
                assert seen.report is not None
                assert seen.report.status is ReportStatus.COMPLETED


def learned_until(world: World, made: Plan, key: JobKey, last: Line) -> Memory:
    memory = world.memories.get(key) or Memory(key)
    for owner, line in made.lines:
        if line is last:
            break
        if owner == key:
            memory = fold(memory, line, world.now)
    return memory


@promise
def a_selection_touches_nothing_outside(world, made):
    only = frozenset(KEYS[:2])
    made = plan(replace(world, only=only))
    assert {action.job for action in made.actions} <= only
    assert {key for key, _ in made.lines} <= only
    assert {view.job for view in made.views} <= only


@promise
def a_job_that_depends_starts_after_success_only(world, made):
    memories = learned(world, made)
    for action in made.actions:
        if isinstance(action.effect, Start) and action.effect.again is None:
            for needed in world.desired[action.job].depends_on:
                stone, item = memories[needed].tombstone, world.desired[needed]
                assert stone is not None
                assert (stone.phase, stone.digest, stone.generation) == (Phase.SUCCEEDED, item.digest, item.generation)


# --- breakers


def alarmed(world: World) -> set[str]:
    """Hosts on which too many runs vanished, also where no selected job is concerned."""
    return {alarm.host for alarm in plan(replace(world, only=None)).alarms}


def is_gone(world: World, memory: Memory) -> bool:
    """A complete look shows nothing of the open run, not even that its machine was restarted."""
    seen = world.observation.look(memory.run.host, memory.run.run_id)
    known = memory.handle.native.get("boot_id") if memory.handle else None
    return seen.presence is Presence.ABSENT and not (known and seen.boot_id and known != seen.boot_id)


@promise
def many_runs_that_vanish_together_are_not_taken_for_lost(world, made):
    looks = world.observation.censuses.values()
    another = {seen.run.job for one in looks for seen in one.sightings.values() if seen.run is not None}
    ended = {key for key, line in made.lines if isinstance(line, (Ended, Refused, Forgotten))}
    for host in HOSTS:
        runs = [memory for memory in world.memories.values() if memory.run is not None and memory.run.host == host]
        minded = [memory for memory in runs if memory.submitted and memory.stop is None]
        gone = {memory.job for memory in minded if is_gone(world, memory)} - another
        if len(gone) >= 3 and len(gone) * 3 > len(minded) and host not in world.lost:
            assert not ended & gone
            assert host in alarmed(world)


@promise
def nor_are_many_that_vanish_from_the_machines_of_one_cluster(world, made):
    looks = world.observation.censuses
    another = {seen.run.job for one in looks.values() for seen in one.sightings.values() if seen.run is not None}
    ended = {key for key, line in made.lines if isinstance(line, (Ended, Refused, Forgotten))}
    for cluster in {view.cluster for view in world.hosts}:
        hosts = {view.name for view in world.hosts if view.cluster == cluster and view.name in looks}
        whole = {host for host in hosts if looks[host].complete}
        runs = [memory for memory in world.memories.values() if memory.run is not None and memory.run.host in whole]
        minded = [memory for memory in runs if memory.submitted and memory.stop is None]
        gone = {memory.job: memory.run.host for memory in minded if is_gone(world, memory)}
        gone = {job: host for job, host in gone.items() if job not in another}
        if len(gone) >= 3 and len(gone) * 3 > len(minded) and not set(gone.values()) <= world.lost:
            assert not ended & gone.keys()
            assert set(gone.values()) <= alarmed(world)


@promise
def a_host_with_an_alarm_is_left_alone_but_for_what_is_asked_by_name(world, made):
    hosts = alarmed(world)
    for action in made.actions:
        if action.host not in hosts or action.effect is None:
            continue
        memory = learned(world, made)[action.job]
        assert isinstance(action.effect, Stop)
        assert memory.cancelled or memory.suspended
    for alarm in made.alarms:
        gone, of = (len(alarm.missing), alarm.minded) if alarm.around is None else alarm.around[1:]
        assert len(alarm.missing) >= 1
        assert alarm.minded >= len(alarm.missing)
        assert gone >= 3
        assert of >= gone > of / 3
        assert not world.lost.issuperset(alarm.hosts)
        assert not any(action.job in alarm.missing for action in made.actions)


@promise
def nothing_new_is_started_where_the_way_breaks_off_again_and_again(world, made):
    for action in made.actions:
        if isinstance(action.effect, Start) and action.effect.again is None:
            assert action.host not in world.breaks or action.host in world.trusted


# --- behind a queue


def queue_starts(world: World, made: Plan) -> list[tuple[JobSpec, HostView, QueueCapacity, Placement]]:
    """Every new attempt that goes to a queue, with what was wanted and what was known of the machines there."""
    views = {view.name: view for view in world.hosts}
    found = []
    for action in made.actions:
        if not isinstance(action.effect, Start) or action.effect.placement is None:
            continue
        placement = action.effect.placement
        view = views[placement.host]
        assert (view.queue is not None) == bool(placement.place)
        if view.queue is not None:
            one = world.observation.censuses[placement.host]
            assert one.complete
            assert one.capacity is not None
            assert one.capacity.queue is not None, "nobody knows what its partitions are"
            assert placement.gpus is None, "accelerators behind a queue are the scheduler's to choose"
            found.append((world.decode(world.desired[action.job].normal), view, one.capacity.queue, placement))
    return found


@promise
def a_queue_is_never_asked_for_fewer_chips_than_the_job_wants_nor_for_more_than_are_granted(world, made):
    for spec, view, capacity, placement in queue_starts(world, made):
        request, place = spec.request, placement.place
        assert place["nodes"] >= 1
        assert place["nodes"] == (spec.slurm.nodes or place["nodes"])
        if request.min_chips == 0:
            assert place["gpus_per_node"] == 0
            continue
        assert place["nodes"] * place["gpus_per_node"] >= request.min_chips
        assert request.chip is None or place["gpu_type"] == view.queue.types.get(request.chip, request.chip)
        for name in place["partition"].split(","):
            large = [n for n in capacity.of(name) if n.gpus.get(place["gpu_type"], 0) >= place["gpus_per_node"]]
            assert len(large) >= place["nodes"], "no load could ever make room for it"
        if view.chips is not None:
            granted = sum(view.chips.values()) if request.chip is None else view.chips.get(request.chip, 0)
            assert place["nodes"] * place["gpus_per_node"] <= granted


@promise
def a_job_is_queued_only_where_a_partition_of_that_name_takes_it_for_the_asked_time(world, made):
    for spec, view, capacity, placement in queue_starts(world, made):
        place = placement.place
        named = view.queue.partitions if spec.request.min_chips else view.queue.cpu_partitions or view.queue.partitions
        asked = spec.request.time_s or view.queue.time_s
        account = spec.slurm.account or view.queue.account
        for name in place["partition"].split(","):
            partition = capacity.partitions[name]
            if spec.slurm.partition is not None:
                assert name in spec.slurm.partition.split(",")
            else:
                assert name in [wish.name for wish in named] if named else partition.up
            assert asked in (None, place["time_s"])
            assert partition.time_max_s is None or place["time_s"] <= partition.time_max_s
            assert partition.nodes_max is None or place["nodes"] <= partition.nodes_max
            assert account is None or partition.accounts is None or account in partition.accounts


@promise
def no_free_accelerator_of_a_machine_is_counted_on_twice(world, made):
    counted: Counter[tuple[str, str]] = Counter()
    for spec, _, capacity, placement in queue_starts(world, made):
        place = placement.place
        now = "waits in the queue" not in placement.words
        if now:
            assert any(capacity.partitions[name].up for name in place["partition"].split(","))
        assert bool(placement.machines) == (now and spec.request.min_chips > 0)
        if not placement.machines:
            continue
        assert len({name for name, _ in placement.machines}) == place["nodes"]
        assert {each for _, each in placement.machines} == {place["gpus_per_node"]}
        for name, each in placement.machines:
            node = capacity.nodes[name]
            assert any(name in capacity.partitions[one].nodes for one in place["partition"].split(","))
            counted[name, place["gpu_type"]] += each
            assert counted[name, place["gpu_type"]] <= node.free(place["gpu_type"])


@promise
def what_waits_in_a_queue_is_alive(world, made):
    started = {action.job for action in made.actions if isinstance(action.effect, Start)}
    ended = {line.run_id for _, line in made.lines if isinstance(line, Ended)}
    views = {view.job: view for view in made.views}
    for job, memory in world.memories.items():
        if memory.run is None or (world.only is not None and job not in world.only):
            continue
        seen = world.observation.look(memory.run.host, memory.run.run_id)
        if seen.queue is None or not seen.alive or (seen.run is not None and seen.run.token != memory.run.token):
            continue
        assert job not in started
        assert seen.run_id not in ended
        if seen.queue.state is not QueueState.RUNNING:
            assert views[job].phase in (Phase.QUEUED, Phase.TERMINATING)
        if views[job].reason == (seen.queue.reason or "Queued"):
            assert seen.queue.ident in views[job].message


@promise
def the_end_of_a_twin_is_not_the_end_of_the_run(world, made):
    for action in made.actions:
        if not isinstance(action.effect, Stop):
            continue
        seen = world.observation.look(action.effect.run.host, action.effect.run.run_id)
        named = action.effect.handle.native.get("job")
        if action.effect.handle.native.get("twin"):
            assert named in seen.twins
            assert seen.handle is None or named != seen.handle.native.get("job")
            # `act` writes this intent down as one about a stray: memory goes on minding the run.
            assert action.reason == "StrayAttempt"
            assert not action.destructive
            assert not any(isinstance(line, (Ended, Forgotten)) for key, line in made.lines if key == action.job)
        else:
            assert named is None or named not in seen.twins


@promise
def a_twin_is_ended_unless_something_else_comes_first(world, made):
    acted = {action.job for action in made.actions}
    for job, memory in learned(world, made).items():
        minded = world.only is None or job in world.only
        if memory.run is None or not minded or memory.run.host in alarmed(world):
            continue
        if world.observation.look(memory.run.host, memory.run.run_id).twins:
            assert job in acted


@promise
def an_end_is_paid_from_the_budget_of_its_cause_or_not_followed(world, made):
    started = {action.job for action in made.actions if isinstance(action.effect, Start)}
    for key, line in made.lines:
        if not isinstance(line, Ended):
            continue
        before = learned_until(world, made, key, line)
        item = world.desired.get(key)
        restart = world.decode(item.normal if item else before.run.normal).restart
        limit = {
            Cause.INFRASTRUCTURE: restart.infrastructure,
            Cause.FAILURE: restart.failure,
            Cause.TIMEOUT: restart.timeout,
            Cause.OUT_OF_MEMORY: restart.out_of_memory,
            Cause.CANCELLED: restart.cancelled,
            Cause.PREEMPTION: restart.preemption,
            Cause.CAPACITY: restart.preemption,
            Cause.QUOTA: restart.preemption,
        }.get(line.cause, 0)
        if line.requeue:
            assert limit is None or before.spent.get(line.cause, 0) < limit
        elif item is not None and (item.digest, item.generation) == (before.run.digest, before.run.generation):
            seen = world.observation.look(before.run.host, line.run_id)
            by_somebody = seen.report is not None and (
                (seen.report.status, seen.report.cause) == (ReportStatus.FAILED, Cause.CANCELLED)
            )
            later = any(owner == key and isinstance(another, Adopted) for owner, another in made.lines)
            if by_somebody and before.stop is None:
                assert line.phase is Phase.CANCELLED
                assert later or key not in started, "it was cancelled by somebody, and the manifest allows no restart"


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["live", "done", "failed"])), unique_by=lambda x: x[0])
)
def test_a_world_that_is_as_it_should_be_gives_no_line_and_no_action(jobs):
    from tests.worlds import finished_memory, seen, world

    items = [wanted(name, 0) for name, _ in jobs]
    memories, seen_runs = [], []
    for item, (_, state) in zip(items, jobs, strict=True):
        run = run_of(item)
        if state == "live":
            memories.append(live_memory(run))
            seen_runs.append(seen(run))
        else:
            memories.append(finished_memory(run, Phase.SUCCEEDED if state == "done" else Phase.FAILED))
    made = plan(world(items, memories, [census(*seen_runs)]))
    assert made.lines == ()
    assert made.actions == ()
    assert made.refusal is None


# Seeded worlds to look at: about 3 s.
WORLDS = 2000

# Every one of these must come up among the generated worlds; else the promises were never put to the test.
REASONS = {
    "AttemptEnded",
    "CancelRequested",
    "CancelRequested beside an alarm",
    "DependencyMissing",
    "FoundByMark",
    "HostCoolingDown",
    "HostNeverSeen",
    "HostUnknown",
    "LaunchUnsettled",
    "ManifestRemoved",
    "MassDisappearance",
    "New",
    "NewSpec",
    "Orphaned",
    "OwnershipConflict",
    "SourceIncomplete",
    "Refusal",
    "SpecChanged",
    "Stalled",
    "StopAgain",
    "StopUnsettled",
    "StrayAttempt",
    "Suspended",
    "a twin's end",
    "queued for CPUs",
    "queued later",
    "queued now",
    "queued, several machines",
    "queued, several partitions",
    "waits in its queue",
}


def asked(world: World, met: Counter[str]) -> None:
    made = plan(world)
    met.update(action.reason for action in made.actions)
    met.update(view.reason for view in made.views if view.reason in ("MassDisappearance", "HostCoolingDown", "Stalled"))
    hosts = {alarm.host for alarm in made.alarms}
    met["CancelRequested beside an alarm"] += any(
        action.host in hosts and action.reason == "CancelRequested" for action in made.actions
    )
    met["Refusal"] += made.refusal is not None
    met["a twin's end"] += any(
        isinstance(action.effect, Stop) and bool(action.effect.handle.native.get("twin")) for action in made.actions
    )
    met["waits in its queue"] += any(view.phase is Phase.QUEUED for view in made.views)
    for spec, _, _, placement in queue_starts(world, made):
        now = "for CPUs" if spec.request.min_chips == 0 else "now" if placement.machines else "later"
        met[f"queued {now}"] += 1
        met["queued, several machines"] += placement.place["nodes"] > 1
        met["queued, several partitions"] += "," in placement.place["partition"]
    for check in PROMISES:
        check(world, made)


@given(thrown(make_world))
def test_every_promise_holds_in_every_world(world):
    asked(world, Counter())


def test_every_promise_holds_in_many_worlds():
    met: Counter[str] = Counter()
    for seed in range(WORLDS):
        try:
            asked(make_world(seeded(seed)), met)
        except AssertionError as error:
            raise AssertionError(f"in make_world(seeded({seed}))") from error
    missing = {reason for reason in REASONS if not met[reason]}
    assert not missing, f"these never came up, so they were not tested: {missing}"
