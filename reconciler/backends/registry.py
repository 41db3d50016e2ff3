"""Queue systems by name. Imported when a host of theirs is first used: nobody pays for what he does not use."""

from __future__ import annotations

from reconciler.backends.dialect import Dialect

SYSTEMS = ("slurm",)


def dialect_of(system: str) -> Dialect:
    """The dialect of a queue system. Raises KeyError for one that has none."""
    if system == "slurm":
        from reconciler.backends.slurm import SlurmDialect  # noqa: PLC0415

        return SlurmDialect()
    raise KeyError(system)
