"""Is what a manifest asks of this machine permitted? Decided on real paths, when a plan is made and again when it is used.

Permitted without a word: variables of `core.trust.TOKENS`, and files and code that lie in the manifests' repository, but for
`.git`. The rest needs a permission that cannot come from the repository: `allow` in an inventory outside it, the same mapping as
text in $RECONCILER_ALLOW, or in the clone's git configuration (`reconciler.allow`), which no commit can change.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from reconciler.core.errors import ManifestError, Problem, SecretError, ShipError
from reconciler.core.job import Desired, SecretRef
from reconciler.core.trust import Allowed
from reconciler.load.normal import secret_ref
from reconciler.load.schema import refusals
from reconciler.load.strict_yaml import read

ALLOW_VARIABLE = "RECONCILER_ALLOW"
ALLOW_CONFIG = "reconciler.allow"
GIT_FOLDER = ".git"


@dataclass(frozen=True, slots=True)
class Refused:
    """What may not be, and what a person can do about it."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Permits:
    """What a repository of manifests may have of this machine.

    `top` is the repository's own directory, `base` the one to which paths in manifests are relative. `allowed` is what was
    permitted so far; `more` is asked, once until `ask_again`, only when that is not enough.
    """

    top: Path
    base: Path
    home: Path
    allowed: Allowed = field(default_factory=Allowed)
    more: Callable[[], Allowed] = Allowed
    bare: bool = False
    """The repository has no working tree: all that lies there is git's."""
    _asked: list[Allowed] = field(default_factory=list, repr=False)

    def also(self, allowed: Allowed) -> Permits:
        """The same with more permitted."""
        return replace(self, allowed=self.allowed.and_also(allowed))

    def holds(self, path: Path) -> bool:
        """Does this file or directory lie in the repository, wherever links lead? One directory may have several names (letter
        case, mounts), so it is compared itself."""
        real, top = _real(path), _real(self.top)
        return _is_below(real, top) or any(_is_same(above, top) for above in (real, *real.parents))

    def contains(self, path: Path) -> bool:
        """Does it lie in the repository as a file of it: not in `.git`?"""
        return not self.bare and _is_inside(_real(path), _real(self.top))

    def refusal(self, reference: SecretRef, base: Path | None = None) -> Refused | None:
        """Why the value may not be looked up; None when it may."""
        target = reference.target
        if reference.kind == "env":
            name = str(target)
            if self._any(lambda allowed: allowed.takes_env(name)):
                return None
            return self._refused(f"the variable {name} of this machine", {"env": [name]})
        if reference.kind == "file":
            text = str(target)
            return None if self.takes_file(text, base) else self._refused(f"the file {text}", {"files": [text]})
        if reference.kind == "command":
            argv = (target,) if isinstance(target, str) else target
            if self._any(lambda allowed: argv in allowed.commands):
                return None
            return self._refused(f"the output of {shlex.join(argv)}", {"commands": [list(argv)]})
        return None

    def takes_file(self, text: str, base: Path | None = None) -> bool:
        """May this file be read? One in the repository may, but nothing of `.git`, where CI keeps tokens."""
        return self.contains(self.place_of(text, base)) or self.names_file(text, base)

    def names_file(self, text: str, base: Path | None = None) -> bool:
        """Was this very file permitted, wherever it lies?"""
        path = _real(self.place_of(text, base))
        return self._any(
            lambda allowed: any(
                _is_inside(path, _real(self.place_of(one))) if one.endswith("/") else path == _real(self.place_of(one))
                for one in allowed.files
            )
        )

    def takes_command(self, *argv: str) -> bool:
        """May this program be started?"""
        return self._any(lambda allowed: argv in allowed.commands)

    def refusal_of_repo(self, repo: str) -> Refused | None:
        """Why no code may be shipped from the directory that a manifest calls `repo`; None when it may."""
        path = _real(self.place_of(repo))
        if _is_inside(path, _real(self.top)) or self._any(
            lambda allowed: any(_is_inside(path, _real(self.place_of(one))) for one in allowed.repos)
        ):
            return None
        return self._refused(f"code from {repo}, which lies outside their repository,", {"repos": [repo]})

    def repo(self, repo: str) -> Path:
        """The directory that a manifest calls `repo`. Raises ShipError when no code may be shipped from it."""
        refused = self.refusal_of_repo(repo)
        if refused is not None:
            raise ShipError(refused.message, hint=refused.hint)
        return _real(self.place_of(repo))

    def check(self, name: str, reference: SecretRef, base: Path | None = None) -> None:
        """Raises SecretError when the value for the variable `name` may not be looked up."""
        refused = self.refusal(reference, base)
        if refused is not None:
            raise SecretError(f"Secret {name}: {refused.message}", hint=refused.hint)

    def place_of(self, text: str, base: Path | None = None) -> Path:
        """The path that a text names: relative to `base`, or to the home directory with ~/."""
        if text == "~" or text.startswith("~/"):
            return self.home / text[2:]
        return (base or self.base) / text

    def ask_again(self) -> None:
        """Forget what `more` said: a permission given since counts."""
        self._asked.clear()

    def _any(self, holds: Callable[[Allowed], bool]) -> bool:
        if holds(self.allowed):
            return True
        if not self._asked:
            self._asked.append(self.more())
        return holds(self._asked[0])

    def how(self, allow: Mapping[str, Any]) -> str:
        """What a person does to permit it."""
        words = shlex.quote(json.dumps(allow))  # ASCII, so that what is shown is what is pasted
        return (
            f"git config --add {ALLOW_CONFIG} {words} in your clone, or ${ALLOW_VARIABLE}, or `allow` in an inventory outside "
            "the manifests' repository (docs/security.md)"
        )

    def _refused(self, what: str, allow: Mapping[str, Any]) -> Refused:
        return Refused(
            f"{_shown(what)} is not permitted to manifests here: whoever writes them could have it",
            f"If that is meant, permit it: {self.how(allow)}.",
        )


def check_trust(jobs: Iterable[Desired], trust: Permits) -> tuple[Problem, ...]:
    """Problems of the jobs that ask this machine for what is not permitted. The members of a sweep are told once."""
    problems: list[Problem] = []
    sweeps: set[str] = set()
    repos: dict[str, Refused | None] = {}  # ten thousand jobs name one, and links are followed on the disk
    for job in jobs:
        if job.sweep in sweeps:
            continue
        if job.sweep:
            sweeps.add(job.sweep)
        who = f"Sweep {job.sweep}" if job.sweep else f"Job {job.key}"
        spec = cast(dict[str, Any], job.normal["spec"])
        for where, refused in _refusals(spec, trust, repos):
            problems.append(Problem(job.file, job.line, f"{who}: spec.{where}: {refused.message}. {refused.hint}"))
    return tuple(problems)


def _refusals(
    spec: Mapping[str, Any], trust: Permits, repos: dict[str, Refused | None]
) -> Iterable[tuple[str, Refused]]:
    for name, given in spec.get("secrets", {}).items():
        reference = secret_ref(given)
        refused = trust.refusal(reference)
        if refused is not None:
            yield f"secrets.{name}.{reference.kind}", refused
    source = spec.get("source")
    if source is not None:
        repo = source.get("repo", ".")
        if repo not in repos:
            repos[repo] = trust.refusal_of_repo(repo)
        refused = repos[repo]
        if refused is not None:
            yield "source.repo", refused


def allowed_of(value: Mapping[str, Any]) -> Allowed:
    """The mapping `allow`, which the schema has taken."""
    return Allowed(
        tuple(value.get("env", ())),
        tuple(value.get("files", ())),
        tuple(tuple(argv) for argv in value.get("commands", ())),
        tuple(value.get("repos", ())),
    )


def parse_allowed(text: str, where: str) -> Allowed:
    """What a text permits: the mapping that stands below `allow` in an inventory. Raises ManifestError, naming `where`."""
    if not text.strip():
        return Allowed()
    documents = read(text.encode("utf-8", "surrogateescape"), where)
    problems = [problem for each in documents for problem in each.problems]
    value = documents[0].value if documents else None
    if not problems:
        problems = [Problem(where, 0, refusal.message) for refusal in refusals("allow", value)]
    if len(documents) > 1:
        problems.append(Problem(where, 0, "one mapping is expected"))
    if problems or not isinstance(value, dict):
        raise ManifestError(problems)
    return allowed_of(value)


def _shown(text: str) -> str:
    """Text of a manifest that cannot pass for a line of ours."""
    return text if text.isprintable() else ascii(text)


def _real(path: Path) -> Path:
    """Where a path leads. One that runs in circles leads nowhere, and is in nothing that is permitted."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return Path(os.devnull) / "nowhere"


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False


def _is_below(path: Path, top: Path) -> bool:
    return path == top or top in path.parents


def _is_inside(path: Path, top: Path) -> bool:
    """Below `top`, and not in a git directory: it has tokens and hooks. Some file systems do not tell `.GIT` from `.git`."""
    return _is_below(path, top) and all(part.casefold() != GIT_FOLDER for part in path.relative_to(top).parts)
