"""The planted bugs: each a mistake that somebody could make, as the smallest change of the product's own text."""

from __future__ import annotations

from tests.sim.planted.adapter_bugs import ADAPTER_BUGS
from tests.sim.planted.bug import Bug

ACT, CONVERGE = "reconciler.app.act", "reconciler.app.converge"
DECIDE, ENDING, MEMORY, PLAN = (f"reconciler.core.{name}" for name in ("decide", "ending", "memory", "plan"))
SOLVE, CAUSE, BACKOFF, NAMES = (f"reconciler.core.{name}" for name in ("solve", "cause", "backoff", "names"))
OBSERVATION, SQLITE = "reconciler.core.observation", "reconciler.store.sqlite"


BUGS: dict[str, Bug] = {
    # --- intent, effect, settle
    "intents are written after the effects": Bug(
        "a launch and a stop reach the host before anything is durable",
        ACT,
        (
            ("    ports.store.append(lines, commit=commit, why=why)\n    ports.store.mark_scanned(scanned)\n", ""),
            (
                "        for item in items:\n            note(item)\n    return done\n",
                "        for item in items:\n            note(item)\n"
                "    ports.store.append(lines, commit=commit, why=why)\n    return done\n",
            ),
        ),
    ),
    "stops have no intent": Bug(
        "the signal is sent and nothing says why",
        ACT,
        (("                lines.append((action.job, intent))\n", ""),),
    ),
    "launches are settled before they are made": Bug(
        "`Launched` is written with the intent",
        ACT,
        (
            (
                "                work.setdefault(ready.run.host, _HostWork()).starts.append(ready)\n",
                "                work.setdefault(ready.run.host, _HostWork()).starts.append(ready)\n"
                "                from reconciler.core.run import Handle\n"
                "                lines.append((action.job, Launched(ready.run.run_id,"
                " Handle(ready.run.run_id, ready.run.token, {}))))\n",
            ),
        ),
    ),
    "an open launch is not remembered": Bug(
        "the intent does not become the run in memory, so that it is launched a second time",
        MEMORY,
        (
            (
                "                run=run,\n                run_at=memory.run_at if goes_on else at,",
                "                run=None,\n                run_at=0.0,",
            ),
        ),
    ),
    "a launch that was cut is taken for refused": Bug(
        "an unknown outcome is settled as `it did not happen`",
        ACT,
        (("as error if error.retry is not Retry.AFTER_LOOKING and not ready.again:", "as error if not ready.again:"),),
    ),
    "a launch missing from an answer is taken for refused": Bug(
        "half an answer is read as a whole one",
        ACT,
        (
            (
                "            case ReconcilerError() as error if",
                "            case None:\n                lines.append((run.job, Refused(run.run_id, 'no "
                "answer', _next_try(run, desired, memories, ports))))\n"
                "            case ReconcilerError() as error if",
            ),
        ),
    ),
    "a launch that is sent again is settled by an unreachable host": Bug(
        "that the second call did nothing is believed of the first one, too",
        ACT,
        (("error.retry is not Retry.AFTER_LOOKING and not ready.again:", "error.retry is not Retry.AFTER_LOOKING:"),),
    ),
    "a launch is sent again under another token": Bug(
        "the repeated submit is not the same run to the host",
        DECIDE,
        (
            (
                "again = replace(run, normal=desired.normal,",
                "again = replace(run, token=run.token + 'x', normal=desired.normal,",
            ),
        ),
    ),
    "an unsettled launch is let go of at once": Bug(
        "nobody waits for a launch that may start late",
        DECIDE,
        (("    if now - memory.run_at < LATE_START_S:\n", "    if False:\n"),),
    ),
    "an unsettled launch is not waited for from its end": Bug(
        "the minute counts from when the call began, not from when it was given up",
        MEMORY,
        (
            (
                "return memory if memory.submitted else replace(memory, run_at=at, given_up=True)",
                "return memory if memory.submitted else replace(memory, given_up=True)",
            ),
        ),
    ),
    "an unsettled launch of a dead process is not waited for": Bug(
        "the minute counts from when the call began, since nobody came to say when it was given up",
        DECIDE,
        (("    if not memory.given_up:\n", "    if False:\n"),),
    ),
    "a look again is forgotten in a crash": Bug(
        "that a host knows more is remembered after the refusal is settled",
        ACT,
        (
            (
                "            ports.store.unmark_scanned(host)\n"
                "        ports.store.append(settled, commit=commit, why=why)\n",
                "            pass\n        ports.store.append(settled, commit=commit, why=why)\n"
                "        if rescan:\n            ports.store.unmark_scanned(host)\n",
            ),
        ),
    ),
    "a number that was refused counts as used": Bug(
        "what bears it on a host is taken for the attempt that never began",
        PLAN,
        (("run.attempt <= memory.known:", "run.attempt <= memory.attempt:"),),
    ),
    "an old answer is believed": Bug(
        "what contradicts our memory is not asked for again",
        CONVERGE,
        (
            (
                "        if again:\n            self.distrust(again)",
                "        if False:\n            self.distrust(again)",
            ),
        ),
    ),
    # --- what a look proves
    "absence is read from a look that failed": Bug(
        "a census that is not complete proves absence",
        OBSERVATION,
        (
            (
                "        if self.complete:\n            return Sighting(run_id, Presence.ABSENT",
                "        if True:\n            return Sighting(run_id, Presence.ABSENT",
            ),
        ),
    ),
    "a failed look is taken for complete": Bug(
        "no connection is an empty list",
        CONVERGE,
        (
            (
                "            found[host] = census\n            self._note_way",
                "            census = replace(census, complete=True)  # noqa\n            found[host] = census\n"
                "            self._note_way",
            ),
        ),
    ),
    "an unknown run is taken for ended": Bug(
        "UNKNOWN goes the way of ABSENT",
        DECIDE,
        (
            (
                '    if seen.presence is Presence.UNKNOWN:\n        reason = "HostUnknown"',
                '    if False:\n        reason = "HostUnknown"',
            ),
        ),
    ),
    "a run on a host that is not asked is taken for ended": Bug(
        "a host without a census proves absence",
        OBSERVATION,
        (
            (
                '            return Sighting(run_id, Presence.UNKNOWN, error=f"host {host} is not in the inventory")',
                "            return Sighting(run_id, Presence.ABSENT)",
            ),
        ),
    ),
    "a state that was lost is not noticed": Bug(
        "jobs start although a host was never looked at",
        PLAN,
        (("    if world.unscanned and (memory.attempt == 0 or memory.heir_of):", "    if False:"),),
    ),
    "a host is marked as looked at too early": Bug(
        "the mark is durable before what was found there",
        ACT,
        (
            (
                "    ports.store.append(lines, commit=commit, why=why)\n    ports.store.mark_scanned(scanned)\n",
                "    ports.store.mark_scanned(scanned)\n    ports.store.append(lines, commit=commit, why=why)\n",
            ),
        ),
    ),
    "a host that knows more is not looked at again": Bug(
        "a refusal by the fence is only another refusal",
        ACT,
        (("                    rescan = True\n", "                    rescan = False\n"),),
    ),
    # --- what is wanted
    "a source that cannot be read prunes": Bug(
        "a missing manifest counts although others could not be read",
        DECIDE,
        (
            (
                '    if not prunable:\n        message = "no manifest was found',
                '    if False:\n        message = "no manifest was found',
            ),
        ),
    ),
    "a source that cannot be read forgets": Bug(
        "what is over is forgotten although manifests could not be read",
        PLAN,
        (("    if problem is not None or not world.complete:", "    if problem is not None:"),),
    ),
    "a broken manifest is a removed one": Bug(
        "frozen jobs are not told apart from those nobody wants",
        PLAN,
        (("            frozen=key in world.frozen,\n", "            frozen=False,\n"),),
    ),
    "a frozen run is stopped": Bug(
        "the run of a broken manifest does not go on untouched",
        DECIDE,
        (
            (
                "    if frozen:\n        return Verdict(\n            _view(\n                memory, run, phase,",
                "    if False:\n        return Verdict(\n            _view(\n                memory, run, phase,",
            ),
        ),
    ),
    "a frozen stop goes on": Bug(
        "a stop that has begun is repeated while the manifest is broken",
        DECIDE,
        (
            (
                "memory.stop is not None and (not frozen or memory.cancelled or memory.suspended):",
                "memory.stop is not None:",
            ),
        ),
    ),
    "a mass deletion is not refused": Bug(
        "the guard never refuses",
        PLAN,
        (
            (
                "    if not many and not everything and not found:\n        return None",
                "    if True:\n        return None",
            ),
        ),
    ),
    "the generation is ignored when it is over": Bug(
        "a tombstone of generation 1 holds for generation 2",
        DECIDE,
        (
            (
                "    if stone is not None and (stone.digest, stone.generation) == (desired.digest, "
                "desired.generation):\n        reason",
                "    if stone is not None and stone.digest == desired.digest:\n        reason",
            ),
        ),
    ),
    "the generation is ignored while it runs": Bug(
        "raising it does not replace the live run",
        DECIDE,
        (
            (
                "    if (desired.digest, desired.generation) != (run.digest, run.generation):\n        found",
                "    if desired.digest != run.digest:\n        found",
            ),
        ),
    ),
    "every edit replaces": Bug(
        "an edit that the run need not notice ends it",
        DECIDE,
        (
            (
                "    if (desired.digest, desired.generation) != (run.digest, run.generation):\n        found",
                "    if (desired.spec_digest, desired.generation) != (run.spec_digest, run.generation):\n        found",
            ),
        ),
    ),
    "on_change is ignored": Bug(
        "an edit replaces a run that was to be left alone",
        DECIDE,
        (('        if decode(desired.normal).on_change == "hold":', "        if False:"),),
    ),
    "deletion is ignored": Bug(
        "a run that was to be let go of is stopped",
        DECIDE,
        (('    if decode(run.normal).deletion == "orphan":', "    if False:"),),
    ),
    "a released run is minded again": Bug(
        "what was let go of is found by its mark",
        DECIDE,
        (("        return stray.alive and not memory.released\n", "        return stray.alive\n"),),
    ),
    "a suspended job starts": Bug(
        "spec.suspend stops the run and does not keep the next one",
        DECIDE,
        (
            (
                '    if desired.suspend or memory.suspended:\n        why = "spec.suspend is true" if',
                '    if memory.suspended:\n        why = "spec.suspend is true" if',
            ),
        ),
    ),
    "a cancel by request is forgotten": Bug(
        "a request does not reach a live run",
        DECIDE,
        (("    if memory.cancelled:\n        return _stop(", "    if False:\n        return _stop("),),
    ),
    "a resumed job stays cancelled": Bug(
        "resume leaves the tombstone",
        MEMORY,
        (
            (
                'tombstone=None if what == "resume" and _may_resume(memory) else memory.tombstone',
                "tombstone=memory.tombstone",
            ),
        ),
    ),
    "a wish that is taken back is carried out": Bug(
        "a manifest that comes back while its run is being deleted finds its job cancelled",
        DECIDE,
        (("    if desired is not None and ended.phase is Phase.CANCELLED and taken_back:", "    if False:"),),
    ),
    "a deleted job does not come back": Bug(
        "its end by deletion is kept like an end by request",
        PLAN,
        (("(stone is not None and stone.cause is not Cause.DELETED) or", "stone is not None or"),),
    ),
    "a failed dependency is fulfilled": Bug(
        "any end will do",
        PLAN,
        (("            if stone.phase is Phase.SUCCEEDED:\n", "            if True:\n"),),
    ),
    "a dependency of yesterday is fulfilled": Bug(
        "that an earlier generation succeeded will do",
        PLAN,
        (
            (
                "        if stone is not None and (stone.digest, stone.generation) == (wanted.digest, "
                "wanted.generation):\n            if stone",
                "        if stone is not None:\n            if stone",
            ),
        ),
    ),
    # --- whose it is
    "marks are not compared": Bug(
        "whatever lies there is ours",
        PLAN,
        (
            (
                "            if run is None or run.owner != world.owner or seen.presence is not Presence.PRESENT:",
                "            if run is None or seen.presence is not Presence.PRESENT:",
            ),
        ),
    ),
    "tokens are not compared": Bug(
        "a claim of the same run id by somebody else settles our launch",
        DECIDE,
        (("        if seen.run is not None and seen.run.token != run.token:", "        if False:"),),
    ),
    "an attempt's number is used twice": Bug(
        "the next attempt has the number of the last",
        DECIDE,
        (("    attempt = memory.attempt + 1\n", "    attempt = max(1, memory.attempt)\n"),),
    ),
    "a forgotten job begins with its first attempt": Bug(
        "forgetting lets go of the attempt number",
        MEMORY,
        (
            (
                "                memory.job,\n                attempt=memory.attempt,\n"
                "                refused=memory.refused,",
                "                memory.job,\n                refused=memory.refused,",
            ),
        ),
    ),
    "run ids collide": Bug(
        "the attempt's number is left out of its name",
        NAMES,
        (
            (
                'f"{job.project}-{job.group}-{job.name}", f"-{digest[:8]}-{attempt}"',
                'f"{job.project}-{job.group}-{job.name}", f"-{digest[:8]}"',
            ),
        ),
    ),
    "the newest claim does not count": Bug(
        "after a lost state, what has finished on a host is not found",
        DECIDE,
        (("    return stray.alive or stray.run.attempt > memory.known\n", "    return stray.alive\n"),),
    ),
    "a stray is left alone": Bug(
        "a second living attempt goes on beside the minded one",
        DECIDE,
        (
            (
                "    if stray is not None and stray.run is not None and stray.alive and successor is None:",
                "    if False:",
            ),
        ),
    ),
    "a twin is left in the queue": Bug(
        "a second submission of a run waits for ever",
        DECIDE,
        (("    if open_alive and action is None and seen.twins:", "    if False:"),),
    ),
    "a twin's end is the run's": Bug(
        "the job that is minded is ended in place of its twin",
        DECIDE,
        (('{"job": twin, "twin": True}', '{"job": minded}'),),
    ),
    # --- stops
    "a stop is done when it was asked for": Bug(
        "the run is over once the host took the request",
        ACT,
        (
            (
                "            lines.append((action.job, Stopped(stop.run.run_id, outcome)))\n",
                "            lines.append((action.job, Stopped(stop.run.run_id, outcome)))\n"
                "            lines.append((action.job, Ended(stop.run.run_id, Phase.PENDING, stop.cause, None, "
                "outcome, False, True, 0.0)))\n",
            ),
        ),
    ),
    "a stop forgets the grace": Bug(
        "every stop is a kill",
        DECIDE,
        (
            (
                "effect = Stop(run, handle, cause, decode(run.normal).grace_s, machine=seen.machine)",
                "effect = Stop(run, handle, cause, 0.0, machine=seen.machine)",
            ),
        ),
    ),
    "a stop is forced at once": Bug(
        "the second request comes without the grace of the first",
        DECIDE,
        (
            (
                "    overdue = now - memory.stop_at > (0.0 if memory.stop_forced else spec.grace_s) + STOP_MARGIN_S\n",
                "    overdue = True\n",
            ),
        ),
    ),
    "a stop is asked for once": Bug(
        "a signal that never arrived, or was not obeyed, is waited for",
        DECIDE,
        (("    if not seen.stopping or overdue:\n", "    if False:\n"),),
    ),
    "a stuck supervisor is never forced": Bug(
        "the same polite request for ever",
        DECIDE,
        (
            (
                "effect = replace(again.action.effect, forced=bool(seen.stopping) or silent)",
                "effect = again.action.effect",
            ),
        ),
    ),
    # --- ends and budgets
    "a finished job runs again": Bug(
        "no tombstone is kept",
        MEMORY,
        (
            (
                "    if line.phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED):",
                "    if line.phase in (Phase.FAILED, Phase.CANCELLED):",
            ),
        ),
    ),
    "a finished job runs again when its manifest comes back": Bug(
        "the tombstone goes with the manifest",
        PLAN,
        (
            (
                "return memory.released or (stone is not None and stone.cause is not Cause.DELETED) or memory.blank",
                "return memory.released or memory.blank",
            ),
        ),
    ),
    "an end that we asked for hides a success": Bug(
        "a run that finished before the signal counts as stopped",
        ENDING,
        (
            (
                "    if report is not None and report.status is ReportStatus.COMPLETED:\n",
                "    if report is not None and report.status is ReportStatus.COMPLETED and memory.stop is None:\n",
            ),
        ),
    ),
    "preemption is a failure": Bug(
        "an end from outside is paid from the wrong budget",
        ENDING,
        (("cause = report.cause or (Cause.PREEMPTION if", "cause = Cause.FAILURE or (Cause.PREEMPTION if"),),
    ),
    "one budget for all causes": Bug(
        "preemptions use up the budget of failures",
        ENDING,
        (("budget(restart, cause), memory.spent.get(cause, 0)", "budget(restart, cause), sum(memory.spent.values())"),),
    ),
    "the budget begins anew with each attempt": Bug(
        "a launch forgets what was spent",
        MEMORY,
        (("                spent={} if fresh else memory.spent,\n", "                spent={},\n"),),
    ),
    "the budget is one too many": Bug(
        "the limit is passed before it holds",
        ENDING,
        (("    if limit is not None and spent >= limit:\n", "    if limit is not None and spent > limit:\n"),),
    ),
    "the budget dies with the state": Bug(
        "the claim does not carry what was spent",
        ACT,
        (
            (
                "        spent={cause.value: count for cause, count in memory.spent.items()} if same else {},\n",
                "        spent={},\n",
            ),
        ),
    ),
    "what somebody else cancelled is requeued": Bug(
        "scancel does not end a job",
        CAUSE,
        (("            return restart.cancelled\n", "            return None\n"),),
    ),
    "a requeue does not wait": Bug(
        "no back-off",
        PLAN,
        (("    if world.now < memory.not_before:\n", "    if False:\n"),),
    ),
    "the back-off is nothing": Bug(
        "the first delay is zero",
        BACKOFF,
        (("    if tries <= 0:\n", "    if tries <= 1:\n"),),
    ),
    # --- where it runs
    "an accelerator is given twice in a pass": Bug(
        "what a job of this pass gets is not taken",
        PLAN,
        (
            (
                "                taken.take(placement.host, placement.gpus)\n                spent",
                "                spent",
            ),
        ),
    ),
    "what cannot be seen holds nothing": Bug(
        "runs that are not in a census hold no accelerator",
        PLAN,
        (("        if memory.run is not None and memory.run.run_id not in counted:\n", "        if False:\n"),),
    ),
    "slots are not counted": Bug(
        "any number of CPU jobs fits",
        SOLVE,
        (
            (
                "            self.cpu_jobs[host] = self.cpu_jobs.get(host, 0) + 1\n",
                "            self.cpu_jobs[host] = 0\n",
            ),
        ),
    ),
    "fewer chips than asked": Bug(
        "a job gets what is there",
        SOLVE,
        (("    chosen = free[: request.min_chips]\n", "    chosen = free[: max(1, request.min_chips - 1)]\n"),),
    ),
    "request.hosts is ignored": Bug(
        "any host will do",
        SOLVE,
        (("    if request.hosts and host.name not in request.hosts:\n", "    if False:\n"),),
    ),
    # --- two reconcilers
    "the lock is not asked before an effect": Bug(
        "a process that slept through its lock goes on",
        ACT,
        (("        if self._lost or not self._store.holds():\n", "        if False:\n"),),
    ),
    "the lock never expires": Bug(
        "a holder that died elsewhere blocks for ever",
        SQLITE,
        (("holder != self._holder and now < expires and not is_dead", "holder != self._holder and not is_dead"),),
    ),
    "the lock is taken from whoever has it": Bug(
        "a second reconciler does not wait",
        SQLITE,
        (
            (
                "            if holder is not None and holder != self._holder and now < expires",
                "            if holder is not None and now < 0 < expires",
            ),
        ),
    ),
    "a holder that lost the lock goes on writing": Bug(
        "the epoch is not compared",
        SQLITE,
        (
            (
                "        if self._epoch is None or epoch != self._epoch:\n"
                "            raise LockHeld(\"The lock of this repository's state was taken over",
                "        if False:\n            raise LockHeld(\"The lock of this repository's state was taken over",
            ),
            (
                "        if self._now() > expires:\n            raise LockHeld",
                "        if False:\n            raise LockHeld",
            ),
        ),
    ),
    "a stale plan is carried out": Bug(
        "that the journal has moved since the look is not noticed",
        CONVERGE,
        (("            if store.newest() != seen.newest:\n", "            if False:\n"),),
    ),
    "memory of another process is not noticed": Bug(
        "the cache of memories never expires",
        SQLITE,
        (
            (
                "            if self._cache is not None and self._cache[0] == version:\n",
                "            if self._cache is not None:\n",
            ),
        ),
    ),
}
BUGS |= ADAPTER_BUGS
