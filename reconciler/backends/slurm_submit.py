"""What sbatch said: taken, refused, or nobody knows. Pure.

Sources: sbatch(1), slurm_errno.c of 20.11 to 25.11; refusals recorded on 22.05. What is in no table is doubtful: a refusal
taken for doubt costs one look, doubt taken for a refusal costs a second run of the job.
"""

from __future__ import annotations

import re

from reconciler.backends.dialect import Answer, Doubtful, Refused, Taken

_IDENT = re.compile(r"(?m)^(\d+)(?:;\S+)?\s*\Z")
_SENTENCE = re.compile(r"Submitted batch job (\d+)")

# The controller may have the job although sbatch failed.
_DOUBT = re.compile(
    r"socket timed out|unable to contact|zero bytes|connection (?:refused|reset|timed out)|communication|transport|"
    r"message (?:send|receive) fail|unexpected message|broken pipe|insane message",
    re.IGNORECASE,
)

_SIZE = "lower spec.request (chips, n_shards, mem), or correct the host's chips and gres_mapping in the inventory"
_TIME = "set spec.request.time within the partition's limit (`scontrol show partition`)"
_EXTRA = "correct the further directives in spec.slurm"
_ACCESS = (
    "ask the administrators for access, or set spec.slurm.account and partition (or the host's) to ones that are yours"
)

# Words, whether it will say so again, and what to change. The first match counts: the particular stands before the general.
_REFUSALS: tuple[tuple[str, bool, str], ...] = (
    # One job that is too large for its QOS or association is so at every try; too many jobs are not.
    (r"(?:qos|assoc)\w*(?:wallduration|perjob|pernode|minlimit)", True, "ask for less (spec.request), or another spec.slurm.qos"),
    (r"violates accounting/qos policy|submit limit|maxsubmitjob", False, "see your limits: `sacctmgr show assoc`, `show qos`"),
    (r"temporarily unable to accept|resource temporarily unavailable", False, "Slurm holds as many jobs as it may (MaxJobCount)"),
    (r"invalid partition", True, "correct spec.slurm.partition, or the host's partitions in the inventory"),
    (r"invalid account", True, "correct spec.slurm.account, or the host's account in the inventory"),
    (r"invalid qos", True, "correct spec.slurm.qos, or the host's qos in the inventory"),
    (r"invalid node name", True, "correct spec.slurm.nodelist and exclude, or the host's exclude in the inventory"),
    (r"memory specification|memory required|invalid --mem", True, "lower spec.request.mem, or the host's mem in the inventory"),
    (r"invalid feature", True, "correct spec.slurm.constraint: `sinfo -o %f` lists what there is"),
    (r"invalid generic resource|trackable resource|invalid gres", True, "correct the host's gres_mapping in the inventory"),
    (r"requested node configuration is not available", True, _SIZE),
    (r"node count specification invalid|more processors requested than permitted|cpu count .*not available", True, _SIZE),
    (r"time limit|invalid --time", True, _TIME),
    (r"invalid job array", True, "the array has more members than MaxArraySize allows"),
    (r"invalid --\w+ specification|invalid directive|unrecognized option|invalid option|is ambiguous|unmatched", True, _EXTRA),
    (r"requires an argument|doesn't allow an argument|invalid numeric value", True, _EXTRA),
    (r"invalid licen[sc]e|invalid wckey|job dependency problem|invalid constraint", True, _EXTRA),
    (r"reservation is invalid|invalid reservation|access .*to .*reservation", True, "correct the reservation"),
    (r"permission denied|user's group not permitted|invalid (?:user|group) id|not permitted to use", True, _ACCESS),
    (r"not look like a batch script|script is empty|dos line breaks|pathname .*too long", True, "report this as a bug"),
    (r"unable to open file", True, "the script vanished before sbatch could read it: is the host's share writable?"),
    (r"sbatch: (?:command )?not found", True, "there is no Slurm on this host: correct its entry in the inventory"),
    (r"not available now|required nodes? not avail|reservation not usable", False, "see `sinfo -R`, `scontrol show partition`"),
    (r"standby mode|backup mode", False, "the controller is changing over"),
    (r"could not establish a configuration source", False, "Slurm's configuration cannot be found on the login node"),
)  # fmt: skip


def outcome(answer: Answer) -> Taken | Refused | Doubtful:
    """Judge the answer of `sbatch --parsable`."""
    words = _words(answer)
    if answer.returncode == 0:
        found = _IDENT.search(answer.stdout.rstrip()) or _SENTENCE.search(answer.stdout)
        return Taken(found[1]) if found else Doubtful(words or "sbatch exited with 0 and gave no job id")
    if answer.returncode is None:
        return Doubtful(words or "sbatch did not answer in time")
    # An id beside a failure: something was submitted.
    if _IDENT.search(answer.stdout.rstrip()) or _SENTENCE.search(answer.stdout) or _DOUBT.search(words):
        return Doubtful(words)
    for pattern, final, hint in _REFUSALS:
        if re.search(pattern, words, re.IGNORECASE):
            return Refused(words, final, hint)
    if answer.returncode == 255 and re.search(r'Try "sbatch --help"', words):
        return Refused(words, True, _EXTRA)
    return Doubtful(words or f"sbatch failed with exit code {answer.returncode} and said nothing")


def _words(answer: Answer) -> str:
    """What it said, without the prefix that every line has."""
    lines = (re.sub(r"^sbatch: (?:error|fatal): ", "", line).strip() for line in answer.stderr.splitlines())
    return " ".join(filter(None, lines))[:1000]
