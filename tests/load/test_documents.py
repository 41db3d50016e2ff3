from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.diff import changes
from reconciler.core.job import Checkpoint, Request, Restart, SlurmOverrides, Source, VolcanoOverrides
from reconciler.core.names import JobKey
from reconciler.load.defaults import load_defaults
from reconciler.load.documents import (
    Loaded,
    cache_tag,
    combine,
    from_row,
    is_manifest,
    load_documents,
    load_file,
    to_row,
)
from reconciler.load.normal import decode

A = JobKey("general", "default", "a")


def job(name: str = "a", *, metadata: str = "", spec: str = "command: [run]") -> str:
    """A manifest in flow style after its first lines: the spec starts on line 4."""
    return f"apiVersion: reconciler/v1\nkind: Job\nmetadata: {{name: {name}{metadata}}}\nspec: {{{spec}}}\n"


def load(*texts: str | tuple[str, str]) -> Loaded:
    files = [(f"f{index}.yaml", text) if isinstance(text, str) else text for index, text in enumerate(texts)]
    return load_documents([(path, text.encode()) for path, text in files])


def told(loaded: Loaded) -> str:
    return "\n".join(map(str, loaded.problems))


def digest(text: str, path: str = "f.yaml") -> str:
    loaded = load((path, text))
    assert not loaded.problems, told(loaded)
    return loaded.desired[0].digest


FULL = """\
apiVersion: reconciler/v1
kind: Job
metadata: {name: pretrain-7b, project: lm, group: ablations, labels: {owner: jo}}
spec:
  generation: 2
  command: [python, train.py]
  config: {training: {per_device_batch_size: -1}}
  source: {repo: ., ref: HEAD, dirty: false, mode: archive, submodules: true}
  request:
    {chip: h100, min_chips: 16, n_shards: 2, clusters: [hpc], exclude_clusters: [], hosts: [],
     time: "2-00:00:00", mem: 128G}
  env: {NCCL_DEBUG: WARN}
  secrets:
    A: {env: WANDB_API_KEY}
    B: {file: ~/.key}
    C: {command: [pass, show, x]}
    D: {kubernetes: {name: n, key: k}}
  python: {groups: [cuda13], version: "3.11"}
  setup: [source ~/env.sh]
  modules: [cuda/12]
  checkpoint: {dir: null, keep_on_delete: true}
  restart: {preemption: unlimited, infrastructure: 10, failure: 3, timeout: 0, out_of_memory: 1,
            backoff: {initial: 10s, max: 10m}}
  on_change: hold
  suspend: false
  deletion: orphan
  priority: 5
  depends_on: [lm/ablations/tokenize, other]
  grace: 2m
  slurm: {partition: gpu}
"""


def test_a_manifest_with_every_field_becomes_a_job() -> None:
    loaded = load(FULL)
    assert told(loaded) == ""
    (desired,) = loaded.desired
    spec = decode(desired.normal)
    assert spec.key == desired.key == JobKey("lm", "ablations", "pretrain-7b")
    assert spec.stages[0].argv == ("python", "train.py")
    assert (spec.request.time_s, spec.request.mem_bytes, spec.request.min_chips) == (172_800, 128 << 30, 16)
    assert spec.restart.preemption is None
    assert (spec.restart.out_of_memory, spec.restart.backoff.max_s) == (1, 600.0)
    assert [(ref.kind, ref.target) for ref in spec.secrets.values()] == [
        ("env", "WANDB_API_KEY"),
        ("file", "~/.key"),
        ("command", ("pass", "show", "x")),
        ("kubernetes", ("n", "k")),
    ]
    assert spec.depends_on == (JobKey("lm", "ablations", "tokenize"), JobKey("lm", "ablations", "other"))
    assert (spec.ttl_s, spec.grace_s, spec.volcano) == (None, 120.0, VolcanoOverrides())
    assert spec.slurm == SlurmOverrides(partition="gpu")
    assert spec.source is not None
    assert spec.source.submodules
    assert spec.python is not None
    assert (desired.generation, desired.priority, desired.file, desired.line) == (2, 5, "f0.yaml", 1)


def test_a_manifest_that_says_little_gets_the_defaults() -> None:
    (desired,) = load(job()).desired
    spec = decode(desired.normal)
    assert (spec.key, spec.generation, spec.grace_s, spec.ttl_s, spec.job_key) == (A, 1, 30.0, None, None)
    assert (spec.request.min_chips, spec.request.chip, spec.python) == (0, None, None)
    assert spec.source == Source()
    assert spec.restart == Restart()
    assert spec.checkpoint == Checkpoint()
    assert spec.request == Request()
    assert (spec.restart.infrastructure, spec.restart.failure, spec.restart.preemption) == (10, 3, None)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("chip: h100", ("h100", 1)),
        ("min_chips: 4", (None, 4)),
        ("chip: h100, min_chips: 0", (None, 0)),
        ("chip: cpu", (None, 0)),
        ("mem: 1G", (None, 0)),
    ],
)
def test_chips_asked_for(request_: str, expected: tuple[str | None, int]) -> None:
    spec = decode(load(job(spec=f"command: [run], request: {{{request_}}}")).desired[0].normal)
    assert (spec.request.chip, spec.request.min_chips) == expected


@pytest.mark.parametrize(
    ("entry", "stages"),
    [
        ("command: run me", [(None, "run me")]),
        ("command: [run, me]", [(("run", "me"), None)]),
        (
            "stages: [a b, [c, d], {command: e}, {command: [f]}]",
            [(None, "a b"), (("c", "d"), None), (None, "e"), (("f",), None)],
        ),
        ("job: pkg.mod:Class", []),
    ],
)
def test_what_a_job_runs(entry: str, stages: list[Any]) -> None:
    spec = decode(load(job(spec=entry)).desired[0].normal)
    assert [(stage.argv, stage.shell) for stage in spec.stages] == stages


WRONG = {
    "command: []": "f0.yaml:4: spec.command: it is empty",
    "command: ''": "spec.command: it is empty",
    "command: [a], job: b": "spec needs exactly one of command, job and stages: it has command and job",
    "env: {A: b}": "spec needs exactly one of command, job and stages: it has none of them",
    "command: [a, 3]": 'spec.command[1]: 3 is a number and text is expected here: write "3"',
    "command: [a], python: {version: 3.10}": '3.10 is a number and text is expected here: write "3.10"',
    "command: [a], env: {A: 1}": 'spec.env.A: 1 is a number and text is expected here: write "1"',
    "command: [a], env: {A: true}": 'spec.env.A: true is a boolean and text is expected here: write "true"',
    "command: [a], env: {A: no}": 'spec.env.A: no is read by YAML as a boolean: write false, or "no" for text',
    "command: [a], env: {A-B: x}": "'A-B' is not the name of a variable",
    "command: [a], env: {RECONCILER_X: x}": "'RECONCILER_X' is reserved",
    "command: [a], env: {A: x}, secrets: {A: {env: B}}": "spec.secrets: A is also in spec.env",
    "command: [a], secrets: {A: {env: B, file: c}}": "spec.secrets.A: it has env and file: expected exactly one",
    "command: [a], secrets: {A: {}}": "spec.secrets.A: it is empty",
    "command: [a], request: {min_chips: -1}": "spec.request.min_chips: -1 is too small: expected at least 0",
    "command: [a], request: {chip: cpu, min_chips: 3}": "chip cpu has no chips to count",
    "command: [a], request: {time: '1:30'}": 'write "0:1:30" for minutes and seconds, or "1:30:00"',
    "command: [a], request: {time: 1:30:00}": 'write "1:30:00"',
    "command: [a], request: {time: 0}": "spec.request.time: 0 is too small",
    "command: [a], request: {mem: 128GB}": "write a capital letter alone, such as 128G",
    "command: [a], request: {mem: 128}": "spec.request.mem: 128 is too small",
    "command: [a], request: {mem: 1K}": "not between 1 MiB and 1 EiB",
    "command: [a], request: {clusters: [x], exclude_clusters: [x]}": "cluster x is both asked for and excluded",
    "command: [a], request: {chp: h100}": "spec.request has no field 'chp'; did you mean 'chip'?",
    "command: [a], min_chips: 3": "it belongs under spec.request: write spec.request.min_chips",
    "command: [a], walltime: 3": "here it is called spec.request.time",
    "command: [a], on_change: replce": "expected replace or hold; did you mean 'replace'?",
    "command: [a], generation: 0": "spec.generation: 0 is too small",
    "command: [a], generation: '2'": 'spec.generation: "2" is text: expected a whole number, without quotes',
    "command: [a], restart: {failure: forever}": 'spec.restart.failure: "forever" is not a whole number or "unlimited"',
    "command: [a], restart: {backoff: {initial: 1h, max: 1m}}": "backoff.initial is longer than backoff.max",
    "command: [a], depends_on: [a]": "general/default/a would wait for itself",
    "command: [a], depends_on: [x/y/z/w]": "expected project/group/name",
    "command: [a], depends_on: ['a b']": "'a b' is not a name",
    "command: [a], source: {mode: files}": "mode files needs the paths",
    "command: [a], source: {files: [a]}": "files is only read with mode: files",
    "command: [a], source: {mode: files, files: [../a]}": "leaves the repository",
    "command: [a], source: {mode: files, files: [/etc/passwd]}": "leaves the repository",
    "command: [a], source: {dirty: true, ref: main}": "a ref other than HEAD cannot be kept",
    "command: [a], source: {ref: --upload-pack=x}": "cannot start with '-'",
    "command: [a], checkpoint: {dir: here}": 'spec.checkpoint.dir: "here" is not an absolute path',
    "command: [a], suspend: yes": "write true",
    "command: [a], modules: cuda": 'spec.modules: "cuda" is text: expected a list, such as ["cuda"]',
    "command: [a], env: null": "spec.env: nothing is written here: expected a mapping",
}


@pytest.mark.parametrize("spec", WRONG)
def test_a_wrong_field_is_told_with_its_line_and_freezes_its_job(spec: str) -> None:
    loaded = load(job(spec=spec), job("b"))
    assert "f0.yaml:4: " in told(loaded)
    assert WRONG[spec] in told(loaded)
    assert loaded.frozen == {A}
    assert loaded.complete
    assert loaded.broken == {"f0.yaml"}
    assert [desired.key.name for desired in loaded.desired] == ["b"]


def test_all_problems_of_a_document_are_told_at_once_in_the_order_of_lines() -> None:
    text = job().replace("spec: {command: [run]}", "spec:\n  commnd: [run]\n  suspend: no\n  grace: 3x\n")
    lines = [problem.line for problem in load(text).problems]
    assert lines == sorted(lines)
    assert len(lines) == 4


# ---- which job a broken document is about --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (job(metadata=", project: p, group: g") + "junk: [", JobKey("p", "g", "a")),
        (
            "metadata:\n  name: a\n  project: 'p'  # note\n  labels:\n    name: other\nspec: {command: [x}\n",
            JobKey("p", "default", "a"),
        ),
        ('metadata: {name: "a", labels: {project: z}}\nspec: [\n', A),
        (job().replace("kind: Job", "kind: Jbo"), A),
        (job().replace("kind: Job\n", ""), A),
        (job(spec="x: &x [*x]"), None),
        ("metadata:\n\tname: a\nspec: 1\n", A),
        (job("a b"), None),
        (job("3"), None),
        (job("a", metadata=", name: b"), None),
        (job("a", metadata=", projct: lm"), None),
        (job("a", metadata=", project: no"), None),
        (job() + "project: lm\n", None),
        (job(spec="command: [a], group: g"), None),
        (job() + "metadata: {name: b}\n", None),
        ("metadata: {name: a, project: p q}\nspec: [\n", None),
        ("metadata: {name: a\nmetadata: {name: b}\n", None),
        ("- a\n", None),
        ("just text\n", None),
        ("a: [\n", None),
        ("", ...),
        ("# nothing\n", ...),
    ],
)
def test_a_broken_document_freezes_its_job_or_stops_all_pruning(text: str, key: Any) -> None:
    loaded = load(text, job("b"))
    assert [desired.key.name for desired in loaded.desired] == ["b"]
    assert loaded.complete == (key is not None)
    assert loaded.frozen == ({key} if isinstance(key, JobKey) else set())
    assert bool(loaded.problems) == (key is not ...)


def test_a_broken_label_does_not_hide_whose_label_it_is() -> None:
    loaded = load(job(metadata=", labels: {x: no}"))
    assert (loaded.frozen, loaded.complete) == ({A}, True)


def test_bytes_that_are_no_text_freeze_every_job_of_the_file() -> None:
    data = (job("a") + "---\n" + job("b")).encode() + b"# \xff\n"
    loaded = load_documents([("f.yaml", data)])
    assert {key.name for key in loaded.frozen} == {"a", "b"}
    assert loaded.complete


def test_one_broken_document_of_a_file_leaves_the_others() -> None:
    loaded = load(job("a") + "---\n" + job("b", spec="x: [") + "---\n" + job("c"))
    assert [desired.key.name for desired in loaded.desired] == ["a", "c"]
    assert [desired.line for desired in loaded.desired] == [1, 11]
    assert [key.name for key in loaded.frozen] == ["b"]


def test_the_same_job_twice_is_a_problem_of_both_and_freezes_it() -> None:
    loaded = load(job(), job("b"), job(spec="command: [other]"))
    assert told(loaded).splitlines() == [
        "f0.yaml:1: Job general/default/a is described twice: also in f2.yaml:1. Keep one of them",
        "f2.yaml:1: Job general/default/a is described twice: also in f0.yaml:1. Keep one of them",
    ]
    assert loaded.frozen == {A}
    assert [desired.key.name for desired in loaded.desired] == ["b"]


def test_a_job_that_is_also_in_a_broken_document_is_frozen() -> None:
    loaded = load(job(), job(spec="command: []"))
    assert loaded.desired == ()
    assert loaded.frozen == {A}
    assert "f0.yaml:1: Job general/default/a is described twice: also in a document that is broken" in told(loaded)


def test_jobs_that_wait_for_each_other_are_frozen_and_those_around_them_are_not() -> None:
    loaded = load(
        job("a", spec="command: [x], depends_on: [b]"),
        job("b", spec="command: [x], depends_on: [c]"),
        job("c", spec="command: [x], depends_on: [a, d]"),
        job("d"),
        job("e", spec="command: [x], depends_on: [a]"),
        job("f", spec="command: [x], depends_on: [gone]"),
    )
    assert {key.name for key in loaded.frozen} == {"a", "b", "c"}
    assert {desired.key.name for desired in loaded.desired} == {"d", "e", "f"}
    assert len(loaded.problems) == 3


# ---- defaults of a directory -----------------------------------------------------------------------------


def test_deeper_defaults_go_over_shallower_ones_and_the_job_over_both() -> None:
    loaded = load(
        (
            "_defaults.yaml",
            "metadata: {project: lm, labels: {x: a}}\nspec: {env: {A: top, B: top, C: top}, setup: [one]}",
        ),
        ("d/e/_defaults.yaml", "spec: {env: {B: deep, C: deep}, setup: [two]}"),
        ("d/e/job.yaml", job(spec="command: [run], env: {C: own}")),
        ("d/job.yaml", job("b")),
    )
    assert told(loaded) == ""
    deep, shallow = (decode(desired.normal) for desired in loaded.desired)
    assert deep.key == JobKey("lm", "default", "a")
    assert deep.env == {"A": "top", "B": "deep", "C": "own"}
    assert deep.setup == ("two",)
    assert deep.labels == {"x": "a"}
    assert shallow.env == {"A": "top", "B": "top", "C": "top"}


def test_entry_and_secrets_of_defaults_are_replaced_whole() -> None:
    loaded = load(
        ("_defaults.yaml", "spec: {command: [base], secrets: {A: {env: X}, B: {env: Y}}, source: {ref: main}}"),
        job("a", spec="stages: [x], secrets: {A: {file: y}}, source: null"),
        job("b", spec="env: {}"),
    )
    assert told(loaded) == ""
    first, second = (decode(desired.normal) for desired in loaded.desired)
    assert first.stages[0].shell == "x"
    assert [ref.kind for ref in first.secrets.values()] == ["file", "env"]
    assert first.source is None
    assert second.stages[0].argv == ("base",)
    assert second.source is not None
    assert second.source.ref == "main"


def test_broken_defaults_freeze_the_jobs_below_and_no_others() -> None:
    loaded = load(
        ("d/_defaults.yaml", "metadata: {project: lm}\nspec: {suspnd: true}\n"),
        ("d/x/job.yaml", job("below")),
        ("e/job.yaml", job("beside")),
    )
    assert loaded.frozen == {JobKey("lm", "default", "below")}
    assert loaded.complete
    assert [desired.key.name for desired in loaded.desired] == ["beside"]
    problem, held = loaded.problems
    assert str(problem).startswith("d/_defaults.yaml:2: spec has no field 'suspnd'; did you mean 'suspend'?")
    assert held.message.startswith("1 job below this file")


@pytest.mark.parametrize(
    "text", ["metadata: {project: [\n", "metadata: {projct: lm}\n", "metadata: {project: no}", "a\n", "x: 1"]
)
def test_defaults_whose_project_cannot_be_read_freeze_only_jobs_that_name_their_own(text: str) -> None:
    loaded = load(("_defaults.yaml", text), job("a", metadata=", project: p, group: g"), job("b"))
    assert loaded.frozen == {JobKey("p", "g", "a")}
    assert not loaded.complete


def test_broken_defaults_reach_through_deeper_ones_that_are_right() -> None:
    loaded = load(
        ("_defaults.yaml", "metadata: {projct: lm}\n"),
        ("d/_defaults.yaml", "spec: {env: {A: b}}\n"),
        ("d/a.yaml", job("a", metadata=", project: p, group: g")),
        ("d/b.yaml", job("b")),
    )
    assert loaded.desired == ()
    assert loaded.frozen == {JobKey("p", "g", "a")}
    assert not loaded.complete


def test_defaults_may_not_name_a_job_and_hold_one_document() -> None:
    assert "name" in told(load(("_defaults.yaml", "metadata: {name: x}"), job()))
    assert "holds one document" in told(load(("_defaults.yaml", "spec: {}\n---\nspec: {}\n"), job()))
    assert told(load(("_defaults.yaml", ""), job())) == ""
    assert "name it _defaults.yaml" in told(load(("_defaults.yml", "spec: {}"), job()))


# ---- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.yaml", True),
        ("d/a.yml", True),
        ("d/inventory.yaml", True),
        ("inventory.yaml", False),
        ("_a.yaml", False),
        ("d/_defaults.yaml", False),
        (".a.yaml", False),
        (".github/workflows/ci.yaml", False),
        ("a.json", False),
        ("README.md", False),
        ("yaml", False),
    ],
)
def test_which_files_are_manifests(path: str, expected: bool) -> None:
    assert is_manifest(path) is expected


# ---- digests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        "# a comment\n" + job(spec="request: {chip: h100}, command: [run]"),
        job(spec="command: [run], request: {min_chips: 1, chip: h100, n_shards: 1, clusters: []}"),
        job(spec="command: [run], request: {chip: h100}, generation: 3, priority: 2, suspend: true, grace: 5m"),
        job(
            spec="command: [run], request: {chip: h100}, source: {repo: ., ref: HEAD}, env: {}, python: null, slurm: {}"
        ),
        job(spec="stages: [[run]], request: {chip: h100}, depends_on: [b], restart: {failure: 0}"),
        job(metadata=", project: general, labels: {a: b}", spec="command: [run], request: {chip: h100}"),
    ],
)
def test_what_does_not_change_the_run_does_not_change_the_digest(other: str) -> None:
    assert digest(job(spec="command: [run], request: {chip: h100}")) == digest(other, "moved/elsewhere.yml")


@pytest.mark.parametrize(
    "other",
    [
        job(spec="command: [run, x]"),
        job(spec="command: run"),
        job(spec="job: run"),
        job(spec="command: [run], source: null"),
        job(spec="command: [run], env: {A: b}"),
        job(spec="command: [run], config: {a: 1}"),
        job(spec="command: [run], request: {time: 1h}"),
        job(spec="command: [run], python: {}"),
        job(spec="command: [run], checkpoint: {dir: /x}"),
        job(spec="command: [run], slurm: {partition: gpu}"),
        job(spec="command: [run], slurm: {exclusive: true}"),
        job(spec="command: [run], slurm: {warn: 5m}"),
        job(spec="command: [run], tpu: {spot: true}"),
        job("b"),
        job(metadata=", project: p"),
    ],
)
def test_what_changes_the_run_changes_the_digest(other: str) -> None:
    assert digest(job()) != digest(other)


def test_the_digest_of_the_whole_spec_also_tells_edits_in_place() -> None:
    first, second = load(job()).desired[0], load(job(spec="command: [run], priority: 3")).desired[0]
    assert first.digest == second.digest
    assert first.spec_digest != second.spec_digest


def test_spellings_of_one_value_have_one_digest() -> None:
    spelled = ["5400", "90m", "1h30m", '"1:30:00"']
    assert len({digest(job(spec=f"command: [run], request: {{time: {text}}}")) for text in spelled}) == 1


def test_digests_stay_what_they_are_when_the_tool_is_upgraded() -> None:
    """A digest that moves replaces every live run of every user: the first two may never change. A spec digest that moves
    writes a line into the journal for every live run."""
    assert digest(job()) == "2473f60209f4b9131d738e40e70abbc30950e6a7a871df259ed694186c3b810d"
    assert digest(FULL) == "e052414612454af21ac6e2eda73dc75d64ae00d4a8a5e8353e366216d699826f"
    first, second = load(job()).desired[0], load(FULL).desired[0]
    assert first.spec_digest == "2187c1d9ce5e591d1c8d1a430b6423eb439304697e52392bf5e3f13c28d1cc3d"
    assert second.spec_digest == "17421c0abc395228302de2134d7755212e053d18b3fc70ef07c3e85a62715e56"


def test_the_record_of_an_older_version_is_decoded_and_shows_no_changes() -> None:
    """A run launched before a field existed: its record lacks it, and an upgrade changes nothing about it."""
    (desired,) = load(FULL).desired
    old = desired.normal
    assert isinstance(old["spec"], dict)
    assert isinstance(old["spec"]["restart"], dict)
    for name in ("owner", "cancelled"):
        del old["spec"]["restart"][name]
    assert decode(old) == replace(decode(desired.normal), normal=old)
    assert changes(old, desired.normal) == ()


# ---- rows and properties -------------------------------------------------------------------------------------


def test_a_row_is_json_and_gives_the_same_job_back() -> None:
    (desired,) = load(FULL).desired
    again = from_row(json.loads(json.dumps(to_row(desired))))
    assert again == desired
    assert from_row(to_row(desired), file="moved.yaml").file == "moved.yaml"


def test_files_loaded_one_by_one_and_together_are_the_same() -> None:
    files = [
        ("d/_defaults.yaml", b"metadata: {project: lm}"),
        ("d/a.yaml", job().encode()),
        ("b.yaml", job("b").encode()),
    ]
    tree = load_defaults(files)
    assert combine([load_file(path, data, tree) for path, data in files[1:]], tree) == load_documents(files)
    assert tree.digest("d/e") == tree.digest("d") != tree.digest("")
    assert cache_tag() == cache_tag()


HOSTILE = [
    "it's",
    'say "hi"',
    "$(reboot)",
    "`id`",
    "back\\slash",
    "a\nb",
    "☃ 🚀",
    " lead",
    "-",
    "{{x}}",
    "%s",
    "\x1b[31m",
    "'\"'",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_reaches_the_job_byte_identical(text: str) -> None:
    quoted = json.dumps(text, ensure_ascii=False)
    spec = f"command: [run, {quoted}], env: {{A: {quoted}}}, config: {{{quoted}: {quoted}}}, setup: [{quoted}]"
    (desired,) = load(job(spec=spec)).desired
    found = decode(desired.normal)
    assert found.stages[0].argv == ("run", text)
    assert (found.env, found.config, found.setup) == ({"A": text}, {text: text}, (text,))


def test_nul_in_any_text_is_refused() -> None:
    assert "A NUL character cannot be passed to any program" in told(load(job(spec='command: [run], env: {A: "x\\0"}')))


@given(st.binary(max_size=200))
def test_no_bytes_raise_and_none_of_them_pass_for_a_job(data: bytes) -> None:
    loaded = load_documents([("a.yaml", data), ("_defaults.yaml", data), ("d/b.yaml", job().encode())])
    assert [desired.key for desired in loaded.desired] in ([], [A])
    assert loaded.problems or loaded.desired


@given(st.data())
def test_a_manifest_damaged_anywhere_never_looks_removed(data: st.DataObject) -> None:
    """The job is desired, or frozen, or nothing at all may be pruned."""
    text = FULL.encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 5)))
    damaged = text[:start] + data.draw(st.binary(max_size=4)) + text[end:]
    loaded = load_documents([("a.yaml", damaged)])
    key = JobKey("lm", "ablations", "pretrain-7b")
    if loaded.desired:
        assert not loaded.problems
    elif loaded.complete and loaded.frozen:
        changed = damaged.split(b"\n")[2] != text.split(b"\n")[2]
        assert loaded.frozen == {key} or changed


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(categories=["L", "N", "P"]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(categories=["L"]), max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def shuffled(value: Any, draw: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw(st.permutations(list(value)))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@given(st.data(), st.dictionaries(st.text(st.characters(categories=["L"]), min_size=1, max_size=4), JSON, max_size=4))
def test_the_order_of_keys_never_changes_a_digest(data: st.DataObject, config: dict[str, Any]) -> None:
    document = {
        "apiVersion": "reconciler/v1",
        "kind": "Job",
        "metadata": {"name": "a", "labels": {"x": "y", "z": "w"}},
        "spec": {
            "command": ["run"],
            "config": config,
            "env": {"A": "1", "B": "2"},
            "request": {"chip": "h100", "mem": "1G"},
        },
    }
    other = shuffled(document, data.draw)
    first, second = (load(json.dumps(each, ensure_ascii=False)) for each in (document, other))
    assert not first.problems
    assert first.desired[0].digest == second.desired[0].digest
    assert first.desired[0].spec_digest == second.desired[0].spec_digest
    assert from_row(to_row(first.desired[0])) == first.desired[0]


def test_a_file_named_by_an_absolute_path_is_loaded():
    text = b"{apiVersion: reconciler/v1, kind: Job, metadata: {name: x}, spec: {command: [a]}}"
    loaded = load_documents([("/somewhere/x.yaml", text)])
    assert [str(job.key) for job in loaded.desired] == ["general/default/x"]
