"""What the writers of manifests may have of the machine on which the reconciler runs, beyond jobs on its hosts. Pure.

Manifests, and an inventory that lies among them, are written by whoever can push there. This is the other side's word: it comes
from an inventory outside the manifests' repository, the environment, or the clone's own git configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Tokens of trackers and model hubs: made for jobs, and of no use against the machine that hands them out. Every other variable,
# above all those of CI, clouds and version control, has to be permitted by name.
TOKENS = frozenset(
    {
        "CLEARML_API_ACCESS_KEY",
        "CLEARML_API_SECRET_KEY",
        "COMET_API_KEY",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "KAGGLE_KEY",
        "KAGGLE_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_USERNAME",
        "NEPTUNE_API_TOKEN",
        "WANDB_API_KEY",
    }
)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What is permitted. `env`: names of variables, a last `*` stands for any rest. `files`: paths; one that ends with `/` stands
    for all below. `commands`: whole argument lists. `repos`: directories from which code may be shipped, and all below them."""

    env: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    repos: tuple[str, ...] = ()

    def and_also(self, other: Allowed) -> Allowed:
        """Both together."""
        return Allowed(
            (*self.env, *other.env),
            (*self.files, *other.files),
            (*self.commands, *other.commands),
            (*self.repos, *other.repos),
        )

    def takes_env(self, name: str) -> bool:
        """May the value of the variable `name` be handed to a job?"""
        return name in TOKENS or _matches(name, self.env)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in patterns)
