from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.core.fields import DEFAULTS, FIELDS, Effect, effect_of, filled, replace_part, whole_part
from reconciler.load.schema import schema


def leaves(node: dict[str, Any], path: str) -> Iterator[str]:
    for name, below in node.get("properties", {}).items():
        if below.get("properties"):
            yield from leaves(below, f"{path}{name}.")
        else:
            yield f"{path}{name}"


SPEC_FIELDS = list(leaves(schema("job")["properties"]["spec"], "spec."))


@pytest.mark.parametrize("path", SPEC_FIELDS)
def test_every_field_of_the_schema_has_an_effect(path: str) -> None:
    assert isinstance(effect_of(path), Effect)


@pytest.mark.parametrize("path", [path for path in FIELDS if path.startswith("spec.")])
def test_every_path_in_the_table_is_a_field_of_the_schema(path: str) -> None:
    assert any(field == path or field.startswith(f"{path}.") for field in SPEC_FIELDS)


def test_a_field_that_nobody_knows_has_no_effect_to_tell() -> None:
    with pytest.raises(KeyError):
        effect_of("spec.colour")


def test_the_defaults_of_code_and_schema_agree() -> None:
    for name, field in schema("job")["properties"]["spec"]["properties"].items():
        if name in ("restart", "grace", "command", "job", "stages", "request", "source", "checkpoint", "sweep"):
            continue  # spelled otherwise once normalised, or gone; tests of the loader cover them
        assert DEFAULTS[name] == field["default"], name


def test_what_equals_its_default_is_in_no_digest() -> None:
    assert replace_part(DEFAULTS) == {}
    assert whole_part(DEFAULTS) == {}


def test_a_field_with_effect_in_place_is_not_in_the_part_that_replaces() -> None:
    assert replace_part({**DEFAULTS, "priority": 3, "suspend": True, "generation": 2}) == {}
    assert whole_part({**DEFAULTS, "priority": 3}) == {"priority": 3}


def test_no_source_and_a_python_of_defaults_differ_from_saying_nothing() -> None:
    assert replace_part({**DEFAULTS, "source": None}) == {"source": None}
    assert replace_part({**DEFAULTS, "python": {"groups": [], "version": None}}) == {"python": {}}


def test_every_field_that_replaces_changes_the_part() -> None:
    for path, effect in FIELDS.items():
        name = path.split(".")[1]
        if effect is not Effect.REPLACE or path.count(".") != 1 or name in ("source", "request", "python"):
            continue
        assert replace_part({**DEFAULTS, name: "changed"}) == {name: "changed"}


def test_fields_of_restart_that_came_later_are_in_no_digest_at_their_defaults() -> None:
    """The digests of jobs that run must not move when the tool is upgraded."""
    restart = DEFAULTS["restart"]
    assert isinstance(restart, dict)
    whole = whole_part({**DEFAULTS, "restart": {**restart, "failure": 1}})["restart"]
    assert isinstance(whole, dict)
    assert {"owner", "cancelled", "same_failure"}.isdisjoint(whole)
    assert whole["failure"] == 1
    assert whole_part({**DEFAULTS, "restart": {**restart, "owner": "slurm"}})["restart"] != restart
    assert whole_part({**DEFAULTS, "restart": {**restart, "cancelled": 1}}) != {}
    assert whole_part({**DEFAULTS, "restart": {**restart, "same_failure": None}}) != {}


def test_a_spec_of_an_older_version_is_filled_with_defaults() -> None:
    assert filled({}) == DEFAULTS
    assert filled({"priority": 3, "restart": {"failure": 1}}) == {
        **DEFAULTS,
        "priority": 3,
        "restart": {**DEFAULTS["restart"], "failure": 1},  # type: ignore[dict-item]
    }


def test_an_edit_of_a_sweep_is_in_place() -> None:
    assert effect_of("spec.sweep.grid") is effect_of("spec.restart.owner") is Effect.IN_PLACE
    assert effect_of("spec.slurm.warn") is Effect.REPLACE
