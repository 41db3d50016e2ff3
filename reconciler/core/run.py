"""One attempt of a job, as we record it and as a backend names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.job import Json
from reconciler.core.names import JobKey


@dataclass(frozen=True, slots=True)
class Handle:
    """The backend's own identity of a run. `native` is JSON that only the backend that made it reads."""

    run_id: str
    token: str
    native: Mapping[str, Json] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt. Everything that a repeated submit, a look after a crash, or a rebuilt store needs.

    `token` is random and fences: whoever shows another token for the same run id is somebody else. `gpus` are the
    accelerators reserved (uuid, or index where there is none); None leaves the choice to the host, () is CPU mode.
    `normal` is the spec as launched, so that later edits are compared field by field with what really runs. `place` is the
    partition and shape chosen behind a queue, {} elsewhere: a repeated submit renders the same script.
    """

    job: JobKey
    run_id: str
    attempt: int
    token: str
    digest: str
    spec_digest: str
    generation: int
    host: str
    owner: str
    gpus: tuple[str, ...] | None
    commit: str | None
    dirty: bool
    spent: Mapping[str, int] = field(hash=False)
    normal: Mapping[str, Json] = field(hash=False, repr=False)
    place: Mapping[str, Json] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Json]:
        """The form that journal and claim file keep."""
        return {
            "job": str(self.job),
            "run_id": self.run_id,
            "attempt": self.attempt,
            "token": self.token,
            "digest": self.digest,
            "spec_digest": self.spec_digest,
            "generation": self.generation,
            "host": self.host,
            "owner": self.owner,
            "gpus": None if self.gpus is None else list(self.gpus),
            "commit": self.commit,
            "dirty": self.dirty,
            "spent": dict(self.spent),
            "normal": dict(self.normal),
            **({"place": dict(self.place)} if self.place else {}),
        }


def run_from_json(data: Mapping[str, Json]) -> Run:
    """The inverse of `Run.to_json`. Raises KeyError, TypeError or ValueError for anything else: the caller decides what
    an unreadable record means."""
    gpus, spent, normal = data["gpus"], data["spent"], data["normal"]
    if not (gpus is None or isinstance(gpus, list)) or not isinstance(spent, dict) or not isinstance(normal, dict):
        raise TypeError("not a run record")
    commit, place = data["commit"], data.get("place", {})
    if not isinstance(place, dict):
        raise TypeError("not a run record")
    return Run(
        job=JobKey.parse(_text(data["job"])),
        run_id=_text(data["run_id"]),
        attempt=_number(data["attempt"]),
        token=_text(data["token"]),
        digest=_text(data["digest"]),
        spec_digest=_text(data["spec_digest"]),
        generation=_number(data["generation"]),
        host=_text(data["host"]),
        owner=_text(data["owner"]),
        gpus=None if gpus is None else tuple(_text(gpu) for gpu in gpus),
        commit=None if commit is None else _text(commit),
        dirty=bool(data["dirty"]),
        spent={name: _number(count) for name, count in spent.items()},
        normal=normal,
        place=place,
    )


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r}")
    return value


def _number(value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, found {value!r}")
    return value
