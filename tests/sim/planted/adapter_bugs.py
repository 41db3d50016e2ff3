"""Bugs planted into the adapters: found where the real ones speak to simulated services (kinds wire, tpu, volcano)."""

from __future__ import annotations

from tests.sim.planted.bug import Bug

JUDGE, SIGHT, SUBMIT, TPU, VOLCANO = (
    f"reconciler.backends.{name}" for name in ("batch_judge", "batch_sight", "slurm_submit", "tpu", "volcano")
)

ADAPTER_BUGS: dict[str, Bug] = {
    "a submission that timed out is taken for refused": Bug(
        "sbatch's socket error is read as a no, though the job may be in the queue",
        SUBMIT,
        (
            (
                "    if _IDENT.search(answer.stdout.rstrip()) or _SENTENCE.search(answer.stdout) or _DOUBT.search(words):\n"
                "        return Doubtful(words)\n",
                "    if _DOUBT.search(words):\n        return Refused(words, False, '')\n",
            ),
        ),
    ),
    "a run that the queue forgot is given up at once": Bug(
        "not to be listed is to be gone, although it wrote a moment ago",
        JUDGE,
        (
            ("    if one.is_absent or _quiet(one, silence_s):\n", "    if True:\n"),
            (
                "    if history is not None and not _quiet(one, max(silence_s, HISTORY_LAG_S)):\n",
                "    if False:\n",
            ),
        ),
    ),
    "what the scheduler may start again is taken for over": Bug(
        "PREEMPTED of a job that Slurm requeues itself is an end",
        SIGHT,
        (
            (
                "    return job.state is not QueueState.ENDED or (theirs and job.revivable)\n",
                "    return job.state is not QueueState.ENDED\n",
            ),
        ),
    ),
    "the job that began is not the run's": Bug(
        "of two jobs of one run, the one that began is not told from the other",
        SIGHT,
        (
            (
                "        if wanted.began:\n            return self._idents.get((wanted.began, wanted.began_name))\n",
                "",
            ),
        ),
    ),
    "a VM that is not listed is gone": Bug(
        "a listing that is behind proves absence; nobody asks for the VM by its name",
        TPU,
        (
            (
                "            node = self._control.get(zone, name)\n        except ReconcilerError as error:\n"
                "            return Sighting(run.run_id, Presence.UNKNOWN, error=error.message)\n",
                "            node = None\n        except ReconcilerError as error:\n"
                "            return Sighting(run.run_id, Presence.UNKNOWN, error=error.message)\n",
            ),
            (
                "        if not listed and isinstance(asked_at, (int, float)) and self._now() - asked_at < LISTED_S:\n",
                "        if False:\n",
            ),
        ),
    ),
    "everybody's VMs are ours": Bug(
        "the owner's mark is not compared",
        TPU,
        (
            (
                "        if self._owner and run.owner != self._owner and not everybodys:\n            return False\n",
                "",
            ),
        ),
    ),
    "a VM that is there is not told": Bug(
        "machines are left out of the census, so that nobody deletes them",
        TPU,
        (
            (
                "                found.machines.append(machine)\n                # Should one run",
                "                # Should one run",
            ),
        ),
    ),
    "pods that outlive their job are not looked at": Bug(
        "a job that is gone from the API has ended, though its pods are still ending",
        VOLCANO,
        (("            if left:\n                limits", "            if False:\n                limits"),),
    ),
}
