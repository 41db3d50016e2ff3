"""The batch script: what sbatch reads out of it is what was ordered, or there is no script."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.backends.dialect import Order
from reconciler.backends.slurm import SlurmDialect
from tests.backends.slurm_records import ANSWERS, RECORDS

SLURM = SlurmDialect()
READ: list[tuple[str, str | None]] = json.loads((RECORDS / "directives.json").read_text(encoding="utf-8"))["read"]


def order(**fields: Any) -> Order:
    return Order(**{"name": "run", "mark": "m", "output": "/share/%j.log", "body": "exec true", **fields})


def directives(script: str) -> list[str]:
    """What sbatch takes from a script: `_get_argument` of its source, which `test_the_reader_is_sbatchs` holds to records.

    Raises ValueError where sbatch would refuse the script.
    """
    found: list[str] = []
    if "\r\n" in script:
        raise ValueError("DOS line breaks")
    for line in script.split("\n")[1:]:
        if not line.startswith("#SBATCH"):
            if line.strip(" \t\v\f\r") and not line.lstrip(" \t\v\f\r").startswith("#"):
                break
            continue
        words, word, quote, escaped = [], None, "", False
        for char in line.removeprefix("#SBATCH"):
            if escaped:
                word, escaped = (word or "") + char, False
            elif char == "\\":
                word, escaped = word or "", True
            elif quote:
                if char == quote:
                    quote = ""
                else:
                    word = (word or "") + char
            elif char in "\"'":
                word, quote = word or "", char
            elif char in " \t\v\f\r\n":
                if word is not None:
                    words.append(word)
                word = None
            elif char == "#":
                break
            else:
                word = (word or "") + char
        if quote:
            raise ValueError("unmatched quote")
        words += [word] if word is not None else []
        if any(not word.startswith("-") for word in words):
            raise ValueError("invalid directive")
        found += words
    return found


@pytest.mark.parametrize(("value", "name"), READ)
def test_the_reader_is_sbatchs(value: str, name: str | None) -> None:
    try:
        (word,) = directives(f"#!/bin/sh\n#SBATCH --job-name={value}\n\ntrue\n")
    except ValueError:
        assert name is None
    else:
        # A lone carriage return at a line's end is a blank to the reader and a DOS line break to sbatch.
        assert word == f"--job-name={name}" or value == "a\r"


@pytest.mark.parametrize(("value", "name"), READ)
def test_what_sbatch_would_change_is_refused(value: str, name: str | None) -> None:
    if name == value and value and "," not in value and value.isprintable():
        assert f"--job-name={value}" in directives(SLURM.script(order(name=value)))
    else:
        with pytest.raises(ValueError, match="name"):
            SLURM.script(order(name=value))


def test_the_least() -> None:
    assert SLURM.script(order()) == (
        "#!/bin/sh\n#SBATCH --job-name=run\n#SBATCH --comment=m\n#SBATCH --nodes=1\n#SBATCH --ntasks-per-node=1\n"
        "#SBATCH --output=/share/%j.log\n#SBATCH --error=/share/%j.log\n#SBATCH --open-mode=append\n#SBATCH --no-requeue\n"
        "\nexec true\n"
    )


def test_everything_in_its_order() -> None:
    full = order(
        partition="gpu", nodes=2, gpus_per_node=3, gpu_type="a100-sxm4-80gb", cpus_per_node=4, memory="64G", time_s=90061,
        output="/s/%A_%a.log", requeue=True, warn_s=120, array=5, account="team", qos="high", constraint="[a|b]&c*2",
        exclude=("n1", "n2"), nodelist=("n3",), exclusive=True, extra=("--nice=5", "-Dx", "--wait-all-nodes=1"),
    )  # fmt: skip
    assert directives(SLURM.script(full)) == [
        "--job-name=run", "--comment=m", "--partition=gpu", "--nodes=2", "--ntasks-per-node=1", "--gres=gpu:a100-sxm4-80gb:3",
        "--cpus-per-task=4", "--mem=64G", "--time=1-01:01:01", "--output=/s/%A_%a.log", "--error=/s/%A_%a.log",
        "--open-mode=append", "--requeue", "--signal=URG@120", "--array=0-4", "--account=team", "--qos=high",
        "--constraint=[a|b]&c*2", "--exclude=n1,n2", "--nodelist=n3", "--exclusive", "--nice=5", "-Dx", "--wait-all-nodes=1",
    ]  # fmt: skip


def test_the_real_one_made_of_it_what_was_ordered() -> None:
    """Recorded: `scontrol show job` of record.py's "everything", though SBATCH_JOB_NAME and SBATCH_PARTITION said otherwise."""
    seen = str(ANSWERS["job-everything"]["stdout"])
    for part in (
        "JobName=sub", "Comment=m", "Account=team-a", "Partition=gpu", "Requeue=1", "TimeLimit=01:30:00", "NumNodes=2-2",
        "NumTasks=2 CPUs/Task=4", "MinMemoryNode=1G", "ReqNodeList=gh[01-02] ExcNodeList=ga01", "Features=h100",
        "StdErr=/lab/jobs/46.log", "StdOut=/lab/jobs/46.log", "TresPerNode=gres:gpu:h100:3", "Nice=5", "OverSubscribe=NO",
    ):  # fmt: skip
        assert part in seen


@pytest.mark.parametrize(("fields", "line"), [
    ({"gpus_per_node": 8}, "--gres=gpu:8"), ({"unlimited": True, "time_s": 60}, "--time=UNLIMITED"),
    ({"time_s": 60}, "--time=0-00:01:00"), ({"time_s": 14 * 86400}, "--time=14-00:00:00"),
    ({"warn_s": 10**6}, "--signal=URG@65535"), ({"array": 1}, "--array=0-0"),
])  # fmt: skip
def test_single_directives(fields: dict[str, Any], line: str) -> None:
    assert line in directives(SLURM.script(order(**fields)))


def test_no_accelerators_no_gres() -> None:
    assert "gres" not in SLURM.script(order(gpu_type="h100"))


@pytest.mark.parametrize(("fields", "what"), [
    ({"name": ""}, "name is empty"), ({"name": "a,b"}, "comma"), ({"mark": "two words"}, "mark .* blank"),
    ({"mark": "a\n#SBATCH --uid=0"}, "mark"), ({"output": "/a b/x"}, "output"), ({"partition": "g'pu"}, "partition"),
    ({"account": ""}, "account is empty"), ({"qos": "a#b"}, "qos .* comment"), ({"exclude": ("n 1",)}, "exclude"),
    ({"nodelist": ("",)}, "nodelist"), ({"memory": "6\\4G"}, "memory"), ({"constraint": "a\x00"}, "constraint"),
    ({"gpus_per_node": 1, "gpu_type": "h100:9,gpu"}, "gpu_type"), ({"nodes": 0}, "nodes"), ({"gpus_per_node": -1}, "gpus"),
    ({"array": 0}, "array"), ({"time_s": 0}, "time_s"), ({"warn_s": 0}, "warn_s"), ({"cpus_per_node": 0}, "cpus"),
    ({"body": "# x\n#SBATCH --job-name=y\ntrue"}, "body"), ({"body": "\n  \n#PBS -N y"}, "body"), ({"body": "a\r\nb"}, "body"),
    ({"body": "a\0b"}, "body"), ({"mark": "\ud800"}, "mark"),
])  # fmt: skip
def test_refusals_name_the_field(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        SLURM.script(order(**fields))


def test_directives_after_the_first_command_are_the_bodys_own() -> None:
    script = SLURM.script(order(body="cat <<E\n#SBATCH --job-name=other\nE"))
    assert "--job-name=other" not in directives(script)


@pytest.mark.parametrize("extra", [
    "--job-name=x", "--job-n=x", "-Jx", "-J=x", "--comment=x", "--comm=x", "--array=0-9", "-a0-9", "--arr=1", "--clusters=b",
    "-Mb", "--output=x", "-ox", "--error=x", "--requeue", "--no-requeue", "--no-req", "--signal=KILL", "--wrap=x", "--wait",
    "-W", "--test-only", "--test", "--open-mode=truncate", "-Q", "--version", "-HJx", "-kWx", "nice=5", "--nice 5",
    "--nice=5 --job-name=x", "--x='a b'", "", "-", "--", "x\n#SBATCH -Jy",
])  # fmt: skip
def test_extra_directives_that_would_take_the_job_from_us(extra: str) -> None:
    with pytest.raises(ValueError, match="extra"):
        SLURM.script(order(extra=(extra,)))


@pytest.mark.parametrize("extra", [
    "--mail-type=END", "--reservation=r1", "--gres=gpu:2,nvme:1", "-H", "-Aother", "--mem-per-cpu=4G", "--switches=1@60",
    "--nodes=2-4", "--wait-all-nodes=1",
])  # fmt: skip
def test_extra_directives_come_last_and_so_over_ours(extra: str) -> None:
    assert directives(SLURM.script(order(account="a", extra=(extra,))))[-1] == extra


TEXTS = st.text(st.characters() | st.sampled_from("#'\"\\ \n\t\r\v\x00-=,%a"), max_size=12)
FIELDS = {
    "name": "job-name", "mark": "comment", "partition": "partition", "memory": "mem", "output": "output", "account": "account",
    "qos": "qos", "constraint": "constraint",
}  # fmt: skip


@settings(max_examples=400)
@given(
    st.dictionaries(st.sampled_from(sorted(FIELDS)), TEXTS), st.lists(TEXTS, max_size=2), st.lists(TEXTS, max_size=2)
)
def test_hostile_text_arrives_unchanged_or_is_refused(
    fields: dict[str, str], exclude: list[str], extra: list[str]
) -> None:
    asked = order(**fields, exclude=tuple(exclude), extra=tuple(extra))
    try:
        script = SLURM.script(asked)
    except ValueError:
        return
    script.encode()
    found = directives(script)
    for field, option in FIELDS.items():
        value = getattr(asked, field)
        assert [word for word in found if word.startswith(f"--{option}=")][:1] == (
            [f"--{option}={value}"] if value else []
        )
    assert found[len(found) - len(extra) :] == extra
    assert len(found) == len(SLURM.script(order()).split("#SBATCH")) - 1 + len(extra) + bool(exclude) + sum(
        1 for field in ("partition", "memory", "account", "qos", "constraint") if getattr(asked, field)
    )


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("#\nSBATCH "), max_size=40))
def test_no_body_gives_directives(body: str) -> None:
    try:
        script = SLURM.script(order(body=body))
    except ValueError:
        return
    assert directives(script) == directives(SLURM.script(order()))


# --- the step


def test_a_step_runs_once_on_every_node() -> None:
    words = SLURM.step(order(nodes=3, cpus_per_node=8), ["/s/boot strap.sh", "it's", "$(x)"])
    assert shlex.split(words) == [
        "srun", "--export=ALL", "--kill-on-bad-exit=1", "--wait=0", "--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=8",
        "/s/boot strap.sh", "it's", "$(x)",
    ]  # fmt: skip
    assert "cpus-per-task" not in SLURM.step(order(), ["true"])


@given(st.lists(st.text(st.characters(exclude_characters="\x00")), max_size=4))
def test_the_words_of_a_step_survive_the_shell(argv: list[str]) -> None:
    words = shlex.split(SLURM.step(order(), argv))
    assert words[len(words) - len(argv) :] == argv


def test_names_for_the_runtime_are_slurms() -> None:
    assert all(re.fullmatch(r"SLURM_[A-Z_]+", name) for name in SLURM.variables.values())
    assert set(SLURM.variables) == {"job", "restart", "rank", "nodes", "nodelist", "index", "array"}
