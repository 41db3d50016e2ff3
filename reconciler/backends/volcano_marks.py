"""What our objects in a Kubernetes cluster are called, and what they carry of ours: whose they are, and for which run. Pure.

Labels are what lists are searched for; the annotation has room for the whole run, so that a lost state is rebuilt from the
objects themselves.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from reconciler.core.run import Run, run_from_json

OURS = "reconciler/"
OWNER, RUN, HOST, HELPER = "reconciler/owner", "reconciler/run", "reconciler/host", "reconciler/helper"
TASK = "worker"
# A pod is called JOB-worker-N, which is its host name, too: at most 63 characters, of which N may take five.
NAME_MAX = 63 - len(f"-{TASK}-") - 5
_HASH = 8
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_NAME = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?\Z")


def object_name(run_id: str) -> str:
    """The name of a run's objects: its id in lower case with `-` for whatever else a name may not hold, as the original did it.
    An id that had to be changed or cut gets a hash of itself, so that two runs never share a name. The service that Volcano makes
    for a job has the job's name, and may not begin with a digit."""
    if len(run_id) <= NAME_MAX and _NAME.match(run_id):
        return run_id
    name = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")
    name = name if name[:1].isalpha() else f"r-{name}"
    return f"{name[: NAME_MAX - _HASH - 1].rstrip('-')}-{_hash(run_id)}"


def label_value(text: str) -> str:
    """A label's value for any text: the text itself where it can be one, else what is readable of it and its hash."""
    if _LABEL.match(text) or not text:
        return text
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    return f"{readable[: 63 - _HASH - 1]}-{_hash(text)}".lstrip("-")


def labels_of(run: Run) -> dict[str, str]:
    """The labels of everything that belongs to a run."""
    return {OWNER: label_value(run.owner), RUN: label_value(run.run_id), HOST: label_value(run.host)}


def annotations_of(run: Run) -> dict[str, str]:
    """The annotation from which a run can be rebuilt."""
    return {RUN: json.dumps(run.to_json())}


def run_of(labels: Mapping[str, str], annotations: Mapping[str, str]) -> Run | None:
    """The run that an object was made for; None where it does not tell, or tells another than its labels."""
    try:
        run = run_from_json(json.loads(annotations[RUN]))
    except (KeyError, TypeError, ValueError):
        return None
    return run if labels_of(run).items() <= labels.items() else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
