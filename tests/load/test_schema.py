from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.names import NAME_PATTERN
from reconciler.core.quantity import DURATION_PATTERN, MEMORY_PATTERN
from reconciler.load.schema import _exact, accepts, refusals, schema, schema_text

ROOT = Path(__file__).parents[2]
NAMES = ("job", "defaults", "inventory", "status", "plan")


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_valid_and_its_examples_pass(name: str) -> None:
    document = schema(name)
    jsonschema.Draft202012Validator.check_schema(document)
    for example in document.get("examples", []):
        assert refusals(name, example) == []


def fields(node: Any, path: str) -> Any:
    if isinstance(node, dict):
        for name, below in node.get("properties", {}).items():
            if "$ref" not in below and "if" not in node:
                yield f"{path}.{name}", below
        for key, below in node.items():
            yield from fields(below, f"{path}.{key}")
    elif isinstance(node, list):
        for item in node:
            yield from fields(item, path)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_title_a_description_and_examples_that_it_takes(name: str) -> None:
    document = schema(name)
    for path, field in fields({key: value for key, value in document.items() if key != "allOf"}, ""):
        if ".if." in path:
            continue
        for word in ("title", "description", "examples"):
            assert field.get(word), f"{path} has no {word}"
        validator = _exact(name).evolve(schema=field)
        for example in [*field["examples"], *([field["default"]] if "default" in field else [])]:
            assert validator.is_valid(example), f"{path}: {example}"


@pytest.mark.parametrize("name", NAMES)
def test_objects_take_no_unknown_fields(name: str) -> None:
    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node and path not in ("$defs.host.", "$defs.host.allOf.if."):
                assert node.get("additionalProperties") is False, path
            for key, below in node.items():
                if key not in ("examples", "default", "allOf"):
                    walk(below, f"{path}{key}." if key not in ("properties",) else path)

    walk(schema(name), "")


def test_the_file_for_editors_of_defaults_is_the_derived_one() -> None:
    assert json.loads(schema_text("defaults")) == schema("defaults")


JOB: dict[str, Any] = {
    "apiVersion": "reconciler/v1",
    "kind": "Job",
    "metadata": {"name": "a"},
    "spec": {
        "command": ["run"],
        "config": {"a": [1]},
        "source": {"files": ["x"], "mode": "files"},
        "request": {"chip": "h100", "time": "1h", "mem": "1G", "clusters": ["c"]},
        "env": {"A": "b"},
        "secrets": {"S": {"env": "X"}},
        "python": {"version": "3.11"},
        "restart": {"failure": 3, "backoff": {"initial": "1s"}},
        "grace": 3,
    },
}
INVENTORY: dict[str, Any] = {
    "clusters": {"c": {"root": "/r", "work": "/w", "wandb": {"env": "X"}}},
    "hosts": {
        "p": {"ssh": "p", "cluster": "c", "chips": {"h100": 8}, "slots": 3},
        "s": {"type": "slurm", "ssh": "s", "cluster": "c", "partitions": ["x", {"name": "y"}], "mem": "1G"},
        "t": {"type": "tpu", "cluster": "c", "accelerator_type": "v4-8"},
        "v": {"type": "volcano", "cluster": "c", "tolerations": [{"key": "x"}], "cpu": "3"},
        "l": {"type": "local"},
    },
    "priority": ["p"],
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        [
            "",
            "a",
            "a\n",
            "1h",
            "1G",
            "1:30",
            "plain",
            "slurm",
            "unlimited",
            "3.11",
            "/x",
            "~",
            "é",
            "RECONCILER_A",
            "-x",
            "A B",
        ]
    ),
    st.lists(st.sampled_from(["a", "a", 1, None]), max_size=3),
    st.dictionaries(
        st.sampled_from(["env", "file", "name", "key", "command", "x y", "job", "type"]),
        st.sampled_from(["a", 1, None, []]),
        max_size=2,
    ),
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        found += paths(below, (*path, key))
    return found


@pytest.mark.parametrize(("name", "document"), [("job", JOB), ("inventory", INVENTORY)])
@given(data=st.data())
def test_the_compiled_and_the_exact_validator_agree(name: str, document: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(0, 3))):
        path = data.draw(st.sampled_from(paths(changed)))
        holder: Any = changed
        for step in path[:-1]:
            holder = holder[step]
        deed = data.draw(st.sampled_from(["replace", "remove", "rename"]))
        if deed == "replace":
            holder[path[-1]] = data.draw(JUNK)
        elif isinstance(holder, dict):
            value = holder.pop(path[-1])
            if deed == "rename":
                holder[
                    data.draw(
                        st.sampled_from(["A\n", "x", "RECONCILER_X", "job", "stages", "slots", "type", "cpu", "a b"])
                    )
                ] = value
        if not paths(changed):
            break
    assert accepts(name, changed) == _exact(name).is_valid(changed)
    assert bool(refusals(name, changed)) != accepts(name, changed)


def test_a_pattern_does_not_take_a_last_newline() -> None:
    document = copy.deepcopy(JOB)
    document["metadata"]["name"] = "a\n"
    assert not accepts("job", document)
    assert [refusal.path for refusal in refusals("job", document)] == [("metadata", "name")]


def test_a_document_that_is_right_never_imports_the_slow_validator() -> None:
    text = b"apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: a}\nspec: {command: [x]}"
    program = (
        "import sys; from reconciler.load.documents import load_documents;"
        f"loaded = load_documents([('a.yaml', {text!r})]);"
        "assert loaded.desired and 'jsonschema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_patterns_in_the_schema_are_those_of_the_code() -> None:
    spec = schema("job")["properties"]["spec"]["properties"]
    assert spec["grace"]["pattern"] == spec["request"]["properties"]["time"]["pattern"] == DURATION_PATTERN
    assert spec["request"]["properties"]["mem"]["pattern"] == MEMORY_PATTERN
    names = schema("job")["properties"]["metadata"]["properties"]
    assert {names[name]["pattern"] for name in ("name", "project", "group")} == {NAME_PATTERN}
