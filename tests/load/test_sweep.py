"""`spec.sweep`: what the members are, that editing a sweep leaves the others alone, and that nothing of it is lost by a slip."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.inventory import Inventory
from reconciler.core.names import JobKey, is_name
from reconciler.load.documents import Loaded, combine, from_row, load_documents, load_file, to_row
from reconciler.load.normal import decode
from reconciler.load.references import check_references
from reconciler.load.sweep import Member, members
from reconciler.load.sweep_names import SWEEP_NAME_MAX

HEAD = """\
apiVersion: reconciler/v1
kind: Job
metadata: {name: a, project: lm}
spec:
  command: [run]
  config: {training: {lr: 1.0, batch: 16}, lr: 3, model: {size: small, layers: [1, 2]}}
  env: {KEPT: "yes"}
"""
GRID = HEAD + "  sweep:\n    grid:\n      config.training.lr: [0.1, 0.01]\n      env.SEED: ['1', '2']\n"


def sweep(text: str, head: str = HEAD) -> str:
    """A manifest whose sweep section starts on line 8: `text` on line 9."""
    return f"{head}  sweep:\n    {text}\n"


def load(*texts: str | tuple[str, str]) -> Loaded:
    files = [(f"f{index}.yaml", text) if isinstance(text, str) else text for index, text in enumerate(texts)]
    return load_documents([(path, text.encode()) for path, text in files])


def told(loaded: Loaded) -> str:
    return "\n".join(map(str, loaded.problems))


def names(loaded: Loaded) -> list[str]:
    assert told(loaded) == ""
    return [job.key.name for job in loaded.desired]


def digests(loaded: Loaded) -> dict[str, str]:
    assert told(loaded) == ""
    return {str(job.key): job.digest + job.spec_digest for job in loaded.desired}


def lm(*found: str) -> set[JobKey]:
    return {JobKey("lm", "default", name) for name in found}


# ---- members -------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_in_the_order_of_the_file() -> None:
    loaded = load(GRID)
    assert names(loaded) == ["a-lr-0.1_SEED-1", "a-lr-0.1_SEED-2", "a-lr-0.01_SEED-1", "a-lr-0.01_SEED-2"]
    job = loaded.desired[1]
    spec = decode(job.normal)
    assert spec.key == job.key == JobKey("lm", "default", "a-lr-0.1_SEED-2")
    assert spec.config == {
        "training": {"lr": 0.1, "batch": 16},
        "lr": 3,
        "model": {"size": "small", "layers": [1, 2]},
    }
    assert spec.env == {"KEPT": "yes", "SEED": "2"}
    assert (job.sweep, job.parallel, job.file, job.line) == ("lm/default/a", None, "f0.yaml", 1)
    assert job.sweep_values == (("config.training.lr", 0.1), ("env.SEED", "2"))
    assert "sweep" not in job.normal_json


def test_a_list_is_its_entries_in_both_spellings() -> None:
    loaded = load(
        sweep("""list:
    - {config.training.lr: 0.1, env.SEED: "1"}
    - {config: {training: {lr: 0.2, batch: 32}}, env: {SEED: "2"}}
    - {name: baseline}
    - {name: big, config.model: {size: large}}
    - {config: {model: {size: large}}}
    parallel: 8""")
    )
    assert names(loaded) == [
        "a-lr-0.1_SEED-1",
        "a-batch-32_lr-0.2_SEED-2",
        "a-baseline",
        "a-big",
        "a-size-large",
    ]
    configs: list[Any] = [decode(job.normal).config for job in loaded.desired]
    assert configs[1]["training"] == {"lr": 0.2, "batch": 32}
    assert configs[2]["training"] == {"lr": 1.0, "batch": 16}
    assert configs[3]["model"] == {"size": "large"}  # a path replaces what stands there
    assert configs[4]["model"] == {"size": "large", "layers": [1, 2]}  # a mapping goes over it
    assert {job.parallel for job in loaded.desired} == {8}


def test_a_member_is_the_same_job_as_one_written_by_hand() -> None:
    """So that a member can be taken out of its sweep, or a job put into one, without running again."""
    by_hand = """\
apiVersion: reconciler/v1
kind: Job
metadata: {name: a-lr-0.01_SEED-2, project: lm}
spec:
  command: [run]
  env: {SEED: '2', KEPT: "yes"}
  config: {lr: 3, training: {batch: 16, lr: 0.01}, model: {size: small, layers: [1, 2]}}
"""
    (hand,) = load(by_hand).desired
    member = load(GRID).desired[3]
    assert (member.key, member.digest, member.spec_digest) == (hand.key, hand.digest, hand.spec_digest)
    assert member.normal == hand.normal
    assert (hand.sweep, hand.sweep_values, hand.parallel) == ("", (), None)


def test_a_member_taken_out_of_its_sweep_in_one_commit_stays_what_it_is() -> None:
    before = load(job("a", "config: {x: 0}, sweep: {grid: {config.x: [1, 2]}}"))
    after = load(job("a", "config: {x: 0}, sweep: {grid: {config.x: [1]}}"), job("a-x-2", "config: {x: 2}"))
    assert digests(before) == digests(after)
    assert [job.sweep for job in after.desired] == ["lm/default/a", ""]


def test_defaults_of_the_directory_count_as_the_jobs_own() -> None:
    defaults = "metadata: {group: g}\nspec: {config: {lr: 1}, command: [run]}"
    text = "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: a}\nspec: {sweep: {grid: {config.lr: [1e-3, 2]}}}"
    loaded = load(("_defaults.yaml", defaults), ("a.yaml", text))
    assert names(loaded) == ["a-lr-0.001", "a-lr-2"]
    assert loaded.desired[0].key.group == "g"
    assert decode(loaded.desired[0].normal).config == {"lr": 0.001}


def test_an_empty_config_takes_any_path() -> None:
    head = HEAD.replace("  config: {training: {lr: 1.0, batch: 16}, lr: 3, model: {size: small, layers: [1, 2]}}\n", "")
    loaded = load(sweep("grid: {config.a.b: [1], config.a.c: [2], config.d: [3]}", head))
    assert names(loaded) == ["a-b-1_c-2_d-3"]
    assert decode(loaded.desired[0].normal).config == {"a": {"b": 1, "c": 2}, "d": 3}
    assert names(load(sweep("list: [{config.a: 1}, {config: {a: 2}}, {config.a: 3, env.B: x}]", head)))
    slip = load(sweep("list: [{config.lr: 1}, {config.rl: 2}]", head))
    assert told(slip).startswith("f0.yaml:8: spec.sweep.list[1]: spec.config is empty, so that a typo cannot be told")


# ---- names ---------------------------------------------------------------------------------------------------------


def name_of(values: dict[str, Any], sweep_name: str = "a") -> str:
    wrong: list[Any] = []
    (member,) = members(sweep_name, {"list": [values]}, wrong)
    assert not wrong
    assert is_name(member.name)
    assert member.name.startswith(f"{sweep_name}-")
    return member.name


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"config.lr": 0.1}, "a-lr-0.1"),
        ({"config.lr": 1e-5}, "a-lr-1e-5"),
        ({"config.lr": 1e16}, "a-lr-1e16"),
        ({"config.lr": 1.0}, "a-lr-1.0"),
        ({"config.lr": 1}, "a-lr-1"),
        ({"config.lr": -1}, "a-lr--1"),
        ({"config.on": True, "config.off": None}, "a-off-null_on-true"),
        ({"config.opt": "adam_w"}, "a-opt-adam_w"),
        ({"env.SEED": "1", "config.training.lr": 0.1}, "a-lr-0.1_SEED-1"),
        ({"env.B": "1", "config.B": "x"}, "a-config.B-x_env.B-1"),
        ({"config.encoder.lr": 1, "config.decoder.lr": 2}, "a-decoder.lr-2_encoder.lr-1"),
        ({"config.lr": 1, "config.a.lr": 2}, "a-a.lr-2_config.lr-1"),
    ],
)
def test_a_name_is_made_of_the_values(values: dict[str, Any], name: str) -> None:
    assert name_of(values) == name


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({"config.lr": "0.1"}, "a-lr-0.1-"),  # text that a number is written as
        ({"config.on": "true"}, "a-on-true-"),
        ({"config.path": "/data/x y"}, "a-path-data-x-y-"),
        ({"config.sizes": [512, 256]}, "a-sizes-512-256-"),
        ({"config.opt": {"name": "adam"}}, "a-opt-name-adam-"),
        ({"config.empty": ""}, "a-empty-"),
        ({"env.NOTE": "☃"}, "a-NOTE-"),
        ({"config": {"learning rate": 1}}, "a-learning-rate-1-"),
        ({"config.x": "1_y-2", "config.y": 3}, "a-x-1_y-2_y-3-"),  # reads like x-1, y-2
        ({"env.LONG": "x" * 100}, "a-LONG-xxxxx"),
    ],
)
def test_where_values_do_not_fit_a_name_their_digest_ends_it(values: dict[str, Any], start: str) -> None:
    name = name_of(values)
    assert name.startswith(start)
    assert len(name) <= 63
    assert int(name[-8:], 16) >= 0


def test_a_long_name_of_a_sweep_leaves_room_for_the_digest() -> None:
    longest = "s" * (SWEEP_NAME_MAX - 1) + "-"
    assert len(name_of({"config.lr": 0.123456789}, longest)) == 63
    assert name_of({"config.lr": 0.1}, longest) != name_of({"config.lr": 0.2}, longest)
    loaded = load(sweep("grid: {config.lr: [1]}", HEAD.replace("name: a", f"name: {'s' * 55}")))
    assert told(loaded).startswith("f0.yaml:3: metadata.name: ")
    assert "expected at most 54 characters" in told(loaded)
    assert not loaded.complete


VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1000, 1000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["1", "1.0", "true", "null", "a b", "a-b", "a.b", "x_b-1", "x_b-1_c-2", "", "1e-5"]),
    st.lists(st.integers(0, 3), max_size=3),
)


@given(st.lists(VALUE, max_size=6), st.lists(VALUE, max_size=6))
def test_different_values_have_different_names_that_are_names(first: list[Any], second: list[Any]) -> None:
    def unique(values: list[Any]) -> list[Any]:
        return list({json.dumps(value): value for value in values}.values()) or [1]

    wrong: list[Any] = []
    grid = {"config.a": unique(first), "config.b": unique(second)}
    found = members("sweep", {"grid": grid}, wrong)
    assert wrong == []
    assert len({member.name for member in found}) == len(found) == len(grid["config.a"]) * len(grid["config.b"])
    assert all(is_name(member.name) and member.name.startswith("sweep-") for member in found)


# ---- edits ---------------------------------------------------------------------------------------------------------

AXES = {
    "config.training.lr": st.floats(1e-6, 1.0),
    "config.model.size": st.sampled_from(["small", "large", "x y", "10"]),
    "env.SEED": st.integers(0, 99).map(str),
}


def text_of(grid: dict[str, list[Any]]) -> str:
    return sweep("grid:\n" + "".join(f"      {path}: {json.dumps(values)}\n" for path, values in grid.items()))


@given(st.data())
def test_adding_a_value_keeps_every_earlier_job(data: st.DataObject) -> None:
    grid = {path: data.draw(st.lists(values, min_size=1, max_size=3, unique=True)) for path, values in AXES.items()}
    before = digests(load(text_of(grid)))
    path = data.draw(st.sampled_from(list(grid)))
    value = data.draw(AXES[path].filter(lambda value: value not in grid[path]))
    more = {**grid, path: data.draw(st.permutations([*grid[path], value]))}
    mixed = {axis: more[axis] for axis in data.draw(st.permutations(list(more)))}
    after = digests(load(text_of(mixed)))
    assert before.items() <= after.items()
    assert len(after) == len(before) // len(grid[path]) * (len(grid[path]) + 1)


def test_editing_a_list_leaves_the_other_entries_alone() -> None:
    before = digests(load(sweep("list: [{config.lr: 1}, {config.lr: 2}, {config.training.lr: 5}]")))
    after = digests(load(sweep("list: [{config.lr: 4}, {config: {lr: 2}}, {name: x}, {config.lr: 1}]")))
    assert set(before) - set(after) == {"lm/default/a-lr-5"}
    assert set(after) - set(before) == {"lm/default/a-lr-4", "lm/default/a-x"}
    assert all(after[key] == before[key] for key in set(before) & set(after))


def test_an_edit_of_parallel_is_no_edit_of_any_job() -> None:
    before, after = load(GRID), load(GRID + "    parallel: 2\n")
    assert digests(before) == digests(after)
    assert {job.parallel for job in after.desired} == {2}


# ---- what is wrong -------------------------------------------------------------------------------------------------

WRONG = {
    "grid: {config.training.l: [1]}": "9: spec.sweep.grid: config.training.l is not in spec.config; did you mean 'config.t",
    "grid: {config.zzz: [1]}": "9: spec.sweep.grid: config.zzz is not in spec.config: write its usual value there",
    "grid: {config.lr.x: [1]}": "9: spec.sweep.grid: config.lr.x goes through spec.config.lr, which is 3 and no mapping",
    "grid: {config.model.layers.0: [1]}": "config.model.layers.0 goes through spec.config.model.layers, which is [1, 2]",
    "list: [{config: {training: {rl: 1}}}]": "9: spec.sweep.list[0]: config.training.rl is not in spec.config; did you",
    "grid: {lr: [1]}": '9: spec.sweep.grid: \'lr\' is not "config." or "env." and a name, such as config.training.lr',
    "list: [{lr: 1}]": "9: spec.sweep.list[0]: 'lr' is not name, config, env, or",
    "grid: {config.: [1]}": "9: spec.sweep.grid: 'config.' is no path: a part between its dots is empty",
    "grid: {config.training..lr: [1]}": "is no path: a part between its dots is empty",
    "grid: {env.A-B: [x]}": "9: spec.sweep.grid: 'A-B' is not the name of a variable",
    "grid: {env.RECONCILER_X: [x]}": "9: spec.sweep.grid: 'RECONCILER_X' is reserved",
    "list: [{env: {A-B: x}}]": "'A-B' is not the name of a variable",
    "grid: {env.SEED: [1, 2]}": '9: spec.sweep.grid.env.SEED[0]: 1 is a number and text is expected here: write "1"',
    "list: [{env.SEED: 1}]": '9: spec.sweep.list[0].env.SEED: 1 is a number and text is expected here: write "1"',
    "list: [{env: {SEED: 1}}]": '9: spec.sweep.list[0].env.SEED: 1 is a number and text is expected here: write "1"',
    "grid: {config.lr: 0.1}": "9: spec.sweep.grid.config.lr: 0.1 is not a list",
    "grid: {config.lr: []}": "9: spec.sweep.grid.config.lr: it is empty: expected a list of values",
    "grid: {config.lr: [1e-3, .5]}": "9: spec.sweep.grid.config.lr[1]: .5 is a number to some YAML readers",
    "grid: {config.lr: [yes]}": "9: spec.sweep.grid.config.lr[0]: yes is read by YAML as a boolean",
    "grid: {}": "9: spec.sweep.grid: it is empty",
    "list: []": "9: spec.sweep.list: it is empty",
    "list: [{}]": "9: spec.sweep.list[0]: it is empty: expected a path and its value, or a name",
    "grid: {config.lr: [1]}\n    list: [{config.lr: 2}]": "spec.sweep needs exactly one of grid and list: it has grid and",
    "parallel: 3": "8: spec.sweep needs exactly one of grid and list: it has none of them",
    "grd: {config.lr: [1]}": "9: spec.sweep has no field 'grd'; did you mean 'grid'?",
    "grid: {config.lr: [1]}\n    parallel: 0": "10: spec.sweep.parallel: 0 is too small",
    "grid: {config.lr: [0.1, 2, 1e-1]}": "9: spec.sweep.grid.config.lr[2]: 0.1 stands there already, as spec.sweep.grid.con",
    "list:\n    - {config.lr: 1}\n    - {config: {lr: 1}}": "11: spec.sweep.list[1] sets the same as spec.sweep.list[0]: keep",
    "list:\n    - {name: x, config.lr: 1}\n    - {name: x}": "11: spec.sweep.list[1] would be called a-x, as would spec.swe",
    "list:\n    - {config.lr: 1}\n    - {config.training.lr: 1}": "give one of them a name of its own",
    "list: [{config.lr: 1, config: {lr: 2}}]": "9: spec.sweep.list[0]: config.lr is set twice",
    "grid: {config.training: [{}], config.training.lr: [1]}": "config.training.lr lies inside config.training, which is set",
    "list: [{name: a b}]": '9: spec.sweep.list[0].name: "a b" is not 1 to 63 letters',
    f"list: [{{name: {'x' * 62}}}]": "is too long for a job's name: expected at most 63",
    "grid: {config.lr: [1], env.A: [&x [*x]]}": "An alias (*name) stands inside the value",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_sweep_is_told_with_its_line_and_nothing_of_it_is_removed(text: str) -> None:
    loaded = load(sweep(text), HEAD.replace("name: a", "name: b"))
    assert WRONG[text] in told(loaded)
    assert told(loaded).startswith("f0.yaml:")
    assert [job.key.name for job in loaded.desired] == ["b"]
    assert lm("a") <= loaded.frozen or "alias" in told(loaded)
    assert not loaded.complete


def test_too_many_members_are_refused_before_they_are_made() -> None:
    values = [json.dumps([str(value) for value in range(count)]) for count in (101, 100, 1000)]
    start = time.perf_counter()
    loaded = load(sweep(f"grid: {{env.A: {values[0]}, env.B: {values[1]}, env.C: {values[2]}}}"))
    assert told(loaded) == ("f0.yaml:9: spec.sweep.grid: 10100000 combinations are too many: expected at most 10000")
    assert time.perf_counter() - start < 5


def test_a_swept_variable_may_not_be_a_secret_too() -> None:
    text = sweep("grid: {env.TOKEN: [x]}", HEAD + "  secrets: {TOKEN: {env: TOKEN}}\n")
    assert told(load(text)) == "f0.yaml:10: spec.sweep.grid: TOKEN is also in spec.secrets: keep one of them"


def test_problems_of_a_large_sweep_are_cut() -> None:
    entries = "".join(f"    - {{name: 'x', env.A: '{index}'}}\n" for index in range(1000))
    assert len(load(sweep(f"list:\n{entries}")).problems) == 20


def test_defaults_may_hold_no_sweep() -> None:
    loaded = load(("_defaults.yaml", "spec:\n  sweep: {grid: {env.A: [x]}}\n"), HEAD)
    assert "_defaults.yaml:2: spec has no field 'sweep': a sweep is one document's, write it there" in told(loaded)


def test_words_of_other_tools_lead_to_the_sweep() -> None:
    head = "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: a}\nspec: {command: [x], "
    assert "it belongs under spec.sweep: write spec.sweep.grid" in told(load(head + "grid: {env.A: [x]}}"))
    assert "here it is called spec.sweep.grid" in told(load(head + "matrix: {}}"))


# ---- freezing ------------------------------------------------------------------------------------------------------


def test_a_slip_elsewhere_freezes_the_members_and_stops_all_pruning() -> None:
    """Members that the same edit removed cannot be named, so that nothing at all may be removed."""
    loaded = load(GRID.replace("command", "comand"), HEAD.replace("name: a", "name: b"))
    assert loaded.frozen == lm("a", "a-lr-0.1_SEED-1", "a-lr-0.1_SEED-2", "a-lr-0.01_SEED-1", "a-lr-0.01_SEED-2")
    assert not loaded.complete
    assert [job.key.name for job in loaded.desired] == ["b"]


@pytest.mark.parametrize(
    "text",
    [
        GRID.replace("sweep:", "swep:"),
        GRID.replace("sweep:", "sweeps:"),
        GRID.replace("sweep:", "1:"),
        GRID.replace("  sweep:", "sweep:"),
        GRID.replace("sweep:", "sweep: ["),
        GRID.replace("sweep:", "matrix:"),
        GRID.replace("grid:", "grdi:"),
        GRID.replace("spec:", "spce:"),
        GRID.replace("  sweep:\n    grid:\n", "  env:\n"),
        GRID.replace('env: {KEPT: "yes"}\n  sweep', "env:\n    sweep"),
        sweep("list: [{config: {lr: 1}}]").replace("sweep:", "vary:"),
        sweep("list: [{config: {lr: 1}}]").replace("sweep:", "vary: ["),
    ],
)
def test_a_sweep_that_cannot_be_read_stops_all_pruning(text: str) -> None:
    loaded = load(text)
    assert loaded.desired == ()
    assert loaded.problems
    assert not loaded.complete


def test_a_broken_job_that_is_no_sweep_stops_nothing() -> None:
    loaded = load(HEAD.replace("command", "comand"))
    assert (loaded.frozen, loaded.complete) == (lm("a"), True)
    loaded = load(HEAD + "  request: [")
    assert (loaded.frozen, loaded.complete) == (lm("a"), True)


def test_broken_defaults_hold_the_members_by_name() -> None:
    loaded = load(
        ("_defaults.yaml", "metadata: {group: g}\nspec: {suspnd: true}\n"), ("a.yaml", GRID), ("b.yaml", HEAD)
    )
    assert {key.group for key in loaded.frozen} == {"g"}
    assert {key.name for key in loaded.frozen} == {"a", *(job.key.name for job in load(GRID).desired)}
    assert loaded.complete
    assert "5 jobs below this file keep what they have" in told(loaded)


def test_broken_defaults_hide_no_path_that_they_may_have_held() -> None:
    text = sweep("grid: {config.of_the_defaults: [1]}")
    loaded = load(("_defaults.yaml", "spec: {config: {of_the_defaults: 1}, suspnd: true}\n"), ("a.yaml", text))
    assert {key.name for key in loaded.frozen} == {"a", "a-of_the_defaults-1"}
    assert not any(problem.file == "a.yaml" for problem in loaded.problems)


@given(st.data())
def test_a_sweep_damaged_anywhere_never_looks_removed(data: st.DataObject) -> None:
    """Every job of it is desired, or frozen, or nothing at all may be pruned; unless what is left is in order."""
    spelled = data.draw(
        st.sampled_from(
            [
                GRID,
                sweep("list:\n    - {config.lr: 1}\n    - {name: x}"),
                sweep("list:\n    - config: {lr: 1}\n      name: x"),
            ]
        )
    )
    keys = {job.key for job in load(spelled).desired}
    text = spelled.encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 5)))
    damaged = text[:start] + data.draw(st.binary(max_size=4) | st.sampled_from([b"#", b" ", b"\n", b": "])) + text[end:]
    loaded = load_documents([("a.yaml", damaged)])
    renamed = damaged.split(b"\n")[2] != text.split(b"\n")[2]
    assert not loaded.problems or not loaded.complete or keys <= loaded.frozen or renamed


# ---- several documents and files -------------------------------------------------------------------------------------


def job(name: str, spec: str = "") -> str:
    head = f"apiVersion: reconciler/v1\nkind: Job\nmetadata: {{name: {name}, project: lm}}\n"
    return f"{head}spec: {{command: [run]{spec and ', '}{spec}}}\n"


SMALL = "sweep: {grid: {env.A: ['1', '2']}}"


def waits(loaded: Loaded) -> dict[str, list[str]]:
    return {job.key.name: [key.name for key in job.depends_on] for job in loaded.desired}


def test_who_waits_for_a_sweep_waits_for_every_member() -> None:
    loaded = load(
        job("after", "depends_on: [first, a, other]"),
        job("a", f"depends_on: [first], {SMALL}") + "---\n" + job("first"),
        job("one", "depends_on: [lm/default/a-A-2, a]"),
        job("b", "depends_on: [a], " + SMALL),
    )
    assert told(loaded) == ""
    assert waits(loaded) == {
        "after": ["first", "a-A-1", "a-A-2", "other"],
        "a-A-1": ["first"],
        "a-A-2": ["first"],
        "first": [],
        "one": ["a-A-2", "a-A-1"],
        "b-A-1": ["a-A-1", "a-A-2"],
        "b-A-2": ["a-A-1", "a-A-2"],
    }
    spec = decode(loaded.desired[0].normal)
    assert [key.name for key in spec.depends_on] == ["first", "a", "other"]  # as it is written


def test_who_waits_for_a_broken_sweep_goes_on_waiting() -> None:
    loaded = load(job("after", "depends_on: [a]"), job("a", SMALL).replace("command", "comand"))
    assert waits(loaded) == {"after": ["a"]}
    assert lm("a") <= loaded.frozen


def test_sweeps_that_wait_for_each_other_are_frozen_whole_and_told_once() -> None:
    loaded = load(job("a", f"depends_on: [b], {SMALL}"), job("b", "depends_on: [a-A-1]"), job("c", "depends_on: [b]"))
    assert [job.key.name for job in loaded.desired] == ["c"]
    assert loaded.frozen == lm("a", "a-A-1", "a-A-2", "b")
    assert sorted(told(loaded).splitlines()) == [
        "f0.yaml:1: Sweep lm/default/a waits for a job that waits for it (depends_on: lm/default/b)",
        "f1.yaml:1: Job lm/default/b waits for a job that waits for it (depends_on: lm/default/a-A-1)",
    ]


@pytest.mark.parametrize("other", ["a", "a-A-2"])
def test_a_sweep_may_not_wait_for_itself(other: str) -> None:
    loaded = load(job("a", f"depends_on: [{other}], {SMALL}"))
    assert "waits for a job that waits for it" in told(loaded) or "would wait for itself" in told(loaded)
    assert loaded.frozen == lm("a", "a-A-1", "a-A-2")


def test_the_same_sweep_twice_is_told_once_per_document() -> None:
    loaded = load(job("a", SMALL), job("b"), job("a", "sweep: {grid: {env.A: ['2', '3']}}"))
    assert told(loaded).splitlines() == [
        "f0.yaml:1: Sweep lm/default/a is described twice: also in f2.yaml:1. Keep one of them",
        "f2.yaml:1: Sweep lm/default/a is described twice: also in f0.yaml:1. Keep one of them",
    ]
    assert loaded.frozen == lm("a", "a-A-1", "a-A-2", "a-A-3")
    assert [job.key.name for job in loaded.desired] == ["b"]


def test_a_sweep_that_is_also_in_a_broken_document_is_frozen() -> None:
    loaded = load(job("a", SMALL), job("a", SMALL).replace("command", "comand"))
    assert "f0.yaml:1: Sweep lm/default/a is described twice: also in a document that is broken" in told(loaded)
    assert told(loaded).count("described twice") == 1
    assert loaded.desired == ()


def test_a_job_and_a_sweep_of_one_name_freeze_both() -> None:
    loaded = load(job("a"), job("a", SMALL))
    assert told(loaded).splitlines() == [
        "f0.yaml:1: Job lm/default/a has the name of a sweep: rename one of them",
        "f1.yaml:1: Sweep lm/default/a has the name of a job in f0.yaml:1: rename one of them",
    ]
    assert loaded.frozen == lm("a", "a-A-1", "a-A-2")


def test_a_member_that_is_also_written_by_hand_freezes_that_member_alone() -> None:
    loaded = load(job("a", SMALL), job("a-A-1"))
    assert "f0.yaml:1: Job lm/default/a-A-1 is described twice: also in f1.yaml:1. Keep one of them" in told(loaded)
    assert (loaded.frozen, loaded.complete) == (lm("a-A-1"), True)
    assert [job.key.name for job in loaded.desired] == ["a-A-2"]


def test_an_unknown_chip_is_told_once_for_a_sweep() -> None:
    loaded = load(job("a", f"request: {{chip: h10}}, {SMALL}"))
    (problem,) = check_references(loaded.desired, Inventory({}, {}, ()))
    assert str(problem).startswith("f0.yaml:1: Sweep lm/default/a: spec.request.chip names the chip 'h10'")


# ---- rows and speed --------------------------------------------------------------------------------------------------


def test_rows_of_members_give_the_same_jobs_back() -> None:
    loaded = load(GRID + "    parallel: 3\n", job("after", "depends_on: [a]"))
    rows = json.loads(json.dumps([to_row(job) for job in loaded.desired]))
    assert [from_row(row) for row in rows] == list(loaded.desired)


def test_files_one_by_one_and_together_are_the_same() -> None:
    from reconciler.load.defaults import NO_TREE

    files = [("a.yaml", GRID.encode()), ("b.yaml", job("after", "depends_on: [a]").encode())]
    assert combine([load_file(path, data, NO_TREE) for path, data in files], NO_TREE) == load_documents(files)


def test_a_thousand_members_load_in_no_time() -> None:
    """0.05 s on the machine where this was written; the limit only catches what grows with the square."""
    values = json.dumps([random.Random(seed).random() for seed in range(1000)])
    text = sweep(f"grid: {{config.training.lr: {values}}}") + "---\n" + job("b", f"depends_on: [a], {SMALL}")
    start = time.perf_counter()
    loaded = load(text)
    assert time.perf_counter() - start < 2
    assert len(loaded.desired) == 1002
    assert len(loaded.desired[-1].depends_on) == 1000
    assert loaded.desired[-1].depends_on is loaded.desired[-2].depends_on


def test_a_member_shows_its_values_by_path() -> None:
    member = Member("a-x", ((("config", "a.b", "c"), [1]), (("env", "S"), "1")), ("spec",), {})
    assert member.shown == (("config.a.b.c", [1]), ("env.S", "1"))
