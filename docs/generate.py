"""Writes the generated pages; tests/docs holds them current.

manifest.md and inventory.md from the schema files, command-line.md from the command line itself, the phases in
architecture.md from core/phase.py, status.svg from the table that `status` draws.

python docs/generate.py
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import TerminalTheme

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from reconciler.cli.live import table  # noqa: E402
from reconciler.core.actions import View  # noqa: E402
from reconciler.core.chips import CHIPS  # noqa: E402
from reconciler.core.fields import FIELDS, effect_of  # noqa: E402
from reconciler.core.names import JobKey  # noqa: E402
from reconciler.core.observation import Progress  # noqa: E402
from reconciler.core.phase import FINAL, TRANSITIONS, Phase  # noqa: E402
from reconciler.load.schema import schema  # noqa: E402

MANIFEST = """\
# Manifest reference

Written by `docs/generate.py` from `schemas/job.schema.json`; edit that file, not this one. For completion in an
editor, put `# yaml-language-server: $schema=PATH/schemas/job.schema.json` on the first line of a manifest.

A manifest is a YAML file (`*.yaml`, `*.yml`) with one or more documents. The identity of a job is
`project/group/name`, never the path of its file: moving a file changes nothing. Files whose name starts with `_` or
`.`, hidden directories and the `inventory.yaml` at the root are not read as manifests.

**Effect of an edit** on a live run: *none*; *in place*: it counts from the next pass on; *replace*: another run is
needed, and `spec.on_change` says whether it is made or waits for you. Comments, the order of keys, writing a default
out and other spellings of the same value (`90m`, `1h30m`, `"1:30:00"`) change nothing.

## YAML without surprises

Text means the same to every YAML reader, or it is refused with the line and what to write instead: `yes`, `no`, `on`,
`off`, `True`, `~`, `010`, `0o10`, `1_000`, `1:30:00`, `.5`, `.inf`, dates, keys that are not text, keys written
twice, tags, merge keys (`<<`), tabs that indent, control characters, anything that is not UTF-8. `3.10` and `3e-4`
are numbers; where text is expected they are refused, so that nobody's Python 3.10 becomes 3.1. Anchors and aliases
(`&x`, `*x`) are read. A document holds at most 100,000 values, nested at most 64 deep, and a file 1 MiB.

## Durations and memory

A duration is `30s`, `10m`, `2h`, `1d`, `1w`, several of them from the largest down (`1h30m`), a clock in quotes
(`"1:30:00"`, `"2-00:00:00"`) or whole seconds. `1:30` is refused, because it is a minute and a half to Slurm. Memory
is `512M`, `128G`, `1T` or bytes; K, M, G and T, with or without `i`, are powers of 1024, as in Slurm.

## Defaults of a directory

`_defaults.yaml` holds `metadata` (without a name) and `spec` values for every job of its directory and the ones
below; deeper files go over shallower ones, and a job's own values over both. Mappings are merged, lists and
everything else are replaced. What a job runs (`command`, `job`, `stages`) and each secret are taken whole.

## Sweeps

`spec.sweep` makes one document into several jobs, the members of a sweep:

```yaml
apiVersion: reconciler/v1
kind: Job
metadata: {name: mlp}
spec:
  command: [python, train.py]
  config: {training: {lr: 3e-4, steps: 1000}}
  sweep:
    grid:                                      # every combination: four jobs
      config.training.lr: [1e-4, 1e-3]
      env.SEED: ["1", "2"]
    parallel: 2                                # at most two of them at once
```

`list` in place of `grid` gives one job per entry: `{config.training.lr: 1e-4, env.SEED: "1"}`, or nested
(`{config: {training: {lr: 1e-4}}}`), with a `name` where the values make none that you like. A value written by its
path replaces what stands there; a nested one goes over it, mapping by mapping. An entry with a name alone is the job
as it is written, such as a baseline.

**Paths** start with `config.` or `env.`. One below `config` must be in `spec.config` (or that of the defaults)
already: a typo is an error, not a sweep in which nothing varies. Only in an empty config any path will do, and then
all entries of a list must have the same ones. Names of variables may be new; their values are text, in quotes.

**Names** are the sweep's and the values: `mlp-lr-0.0001_SEED-1`. An axis is called by the end of its path, as long as
needed to tell it from the others (`encoder.lr`). Where a name cannot hold the values, or not tell them from others
(lists, blanks, `"1"` beside `1`, more than 63 characters), eight hex digits end it. A name depends on its own
values alone: adding, removing and reordering values, entries or keys touches no other member. Another axis is in
every name, so it makes all members other jobs. A sweep's own name has at most 54 characters, and a sweep at most
10,000 members.

**A member is a job**: `status`, `logs`, `cancel` and the rest take its name, its digest is that of the same job
written by hand, and removing its value is removing its manifest. `depends_on` takes one member, or the sweep's name
for all of them.

## What happens to a broken document

It is told with file and line, and its job is frozen: a run that is live stays as it is, and nothing is launched. The
other documents go on. Where the job's name cannot be read with certainty, no job at all is removed in that pass; nor
while a sweep is broken, because it no longer tells which members it had.

## Fields

"""

INVENTORY = """\
# Inventory reference

Written by `docs/generate.py` from `schemas/inventory.schema.json`; edit that file, not this one.

The inventory is looked for in this order: `--inventory PATH`, `$RECONCILER_INVENTORY`, `inventory.yaml` beside the
manifests, `~/.reconciler.yaml`, `~/.theseus.yaml`, else one built-in host `local`, this machine. An existing
`~/.theseus.yaml` is read unchanged. Names that lead nowhere (a host's cluster, an entry of `priority`), unknown
types, fields and chips are errors.

A credential (`mount`, `wandb`, `hf_token` of a cluster) may be written out, or better be a reference: `{env: NAME}`,
`{file: PATH}` or `{command: [program, argument]}`. Its value is in no message, plan, log or script. In an inventory among the
manifests a reference needs the same permission as in a manifest ([security](security.md#what-manifests-may-have)).

A host of type `tpu` is one VM with the host's name, or with `per_run` a VM for each run, up to `max_nodes`:

```yaml
clusters:
  hpc: {root: /mnt/data/runs, work: /tmp/runs}
hosts:
  tpu-pod:                        # one VM of this name, for all runs
    type: tpu
    cluster: hpc
    zone: us-central2-b
    accelerator_type: v4-32       # 16 chips on 4 machines
    price_per_chip_hour: 3.2
  v6e-spot:                       # VMs named after their runs
    type: tpu
    cluster: hpc
    zones: [us-east5-a, europe-west4-a]
    accelerator_type: v6e-16
    spot: true
    per_run: true
    max_nodes: 4
    price_per_chip_hour: 1.2
    delete_on_exit: always
    ttl: 2d
limits: {max_chips: 64, max_cost_per_hour: 100}
```

The number in a type counts TensorCores, two to a chip, for v2, v3, v4 and v5p, and chips for v5litepod and v6e. What Google
would refuse is refused here: a type that it does not make, a name that a VM cannot have, labels, contradictions such as spot
and reserved. A limit on costs needs `price_per_chip_hour` on every such host.

Chips: CHIPS. On Volcano hosts the keys of `chips` may be any label.

## Fields

"""


PLAIN_HEAD = "| field | type | default | meaning | example |\n| --- | --- | --- | --- | --- |\n"


def kind_of(node: dict[str, Any]) -> str:
    """The types of a field, in words."""
    if "$ref" in node:
        return str(node["$ref"].rpartition("/")[2])
    if "enum" in node:
        return " \\| ".join(f"`{word}`" for word in node["enum"])
    kinds = node.get("type", "any")
    names = [kinds] if isinstance(kinds, str) else kinds
    return " \\| ".join("mapping" if name == "object" else "list" if name == "array" else name for name in names)


def cell(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")


def rows(node: dict[str, Any], path: str, document: dict[str, Any], *, effects: bool) -> Iterator[str]:
    """One row of the table for each field below a node."""
    required = node.get("required", [])
    for name, below in node.get("properties", {}).items():
        here = f"{path}{name}"
        if "$ref" in below:
            below = document["$defs"][below["$ref"].rpartition("/")[2]]  # noqa: PLW2901
        default = "**required**" if name in required else cell(below["default"]) if "default" in below else ""
        effect = ""
        if effects:
            known = any(here == entry or here.startswith(f"{entry}.") for entry in (*FIELDS, "spec.command"))
            effect = f" {effect_of(here).value if known else ''} |"
        example = cell(below["examples"][0])
        yield f"| `{here}` | {kind_of(below)} | {default} |{effect} {below['description']} | {example} |"
        yield from rows(below, f"{here}.", document, effects=effects)


def manifest() -> str:
    document = schema("job")
    head = "| field | type | default | effect | meaning | example |\n| --- | --- | --- | --- | --- | --- |\n"
    table = "\n".join(rows(document, "", document, effects=True))
    secret = "\n".join(rows(document["$defs"]["secret"], "spec.secrets.NAME.", document, effects=False))
    second = (
        "\n## Secret references\n\n| field | type | default | meaning | example |\n| --- | --- | --- | --- | --- |\n"
    )
    return MANIFEST + head + table + "\n" + second + secret + "\n"


def inventory() -> str:
    document = schema("inventory")
    head = PLAIN_HEAD
    chips = ", ".join(f"`{chip}`" for chip in CHIPS)
    parts = [INVENTORY.replace("CHIPS", chips) + head + "\n".join(rows(document, "", document, effects=False))]
    for name, node in document["$defs"].items():
        if name == "host":
            continue
        title = (
            f"clusters.NAME: {node['title']}" if name == "cluster" else f"hosts.NAME with type {name}: {node['title']}"
        )
        parts.append(
            f"\n## {title}\n\n{node['description']}\n\n{head}" + "\n".join(rows(node, "", document, effects=False))
        )
    return "\n".join(parts) + "\n"


COMMAND_LINE = """\
# Command line

Written by `docs/generate.py` from the program itself: this is what `reconciler VERB --help` prints.

Options of `reconciler` stand before the verb, options of a verb after it. `--json` may stand in both places. A JOB is
`project/group/name`; a tail that only one job has (`group/name`, `name`) will do. `reconciler --install-completion`
makes the shell complete verbs and options.

| exit code | meaning |
| --- | --- |
| 0 | done, or nothing to do |
| 1 | error: the message says what to do next |
| 2 | `plan` only: there is something to do |
| 3 | refused by a guard: the one against [mass deletion](deleting.md), or [of one host](requeue.md#many-runs-vanish-at-once) |
| 4 | partial: a manifest is broken, or a job is held, failed or on a host that cannot be asked |
| 5 | another reconciler holds the lock of this repository's state |
| 6 | the saved plan is stale |
| 130 | interrupted; the next `apply` goes on |

`run` exits with the code of the job's own program.

"""
HELP_WIDTH = 100


def command_line() -> str:
    """Every verb's help text, as wide as a page of text."""
    import click  # noqa: PLC0415  the other pages need no command line
    import typer  # noqa: PLC0415

    from reconciler.cli.main import app  # noqa: PLC0415

    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    context = click.Context(
        group,
        info_name="reconciler",
        terminal_width=HELP_WIDTH,
        help_option_names=group.context_settings["help_option_names"],
    )
    parts = [COMMAND_LINE + f"## reconciler\n\n```text\n{plain(group.get_help(context))}\n```\n"]
    for name, command in group.commands.items():
        below = click.Context(command, parent=context, info_name=name, terminal_width=HELP_WIDTH)
        parts.append(f"\n## {name}\n\n```text\n{plain(command.get_help(below))}\n```\n")
    return "".join(parts)


def plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


BEGIN, END = "<!-- phases: written by docs/generate.py -->\n", "<!-- phases: end -->\n"


def architecture() -> str:
    """The page as it is, with the phases drawn anew."""
    page = (HERE / "architecture.md").read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + phases() + END + rest.partition(END)[2]


def phases() -> str:
    """A diagram for the eye, without Unknown, and the whole table."""
    arrows = [
        f"    {before} --> {after}"
        for before, following in TRANSITIONS.items()
        for after in following
        if Phase.UNKNOWN not in (before, after)
    ]
    ends = [f"    {phase} --> [*]" for phase in Phase if phase in FINAL]
    lines = [
        f"| {before if index == 0 else ''} | {after} | {why} |"
        for before, following in TRANSITIONS.items()
        for index, (after, why) in enumerate(following.items())
    ]
    diagram = "\n".join(["stateDiagram-v2", f"    [*] --> {Phase.PENDING}", *arrows, *ends])
    return f"\n```mermaid\n{diagram}\n```\n\n| from | to | because |\n| --- | --- | --- |\n" + "\n".join(lines) + "\n\n"


# A terminal of 136 columns. Only fonts that the reader's machine has: the picture fetches nothing.
PICTURE_COLUMNS = 136
THEME = TerminalTheme(
    (22, 24, 29),
    (214, 217, 222),
    [
        (22, 24, 29),
        (224, 92, 92),
        (120, 190, 110),
        (222, 180, 90),
        (100, 150, 230),
        (180, 120, 200),
        (90, 180, 190),
        (214, 217, 222),
    ],
)
SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<title>reconciler status</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def view(job: str, phase: Phase, message: str, **more: Any) -> View:
    return View(JobKey.parse(job), phase, phase.value, message, **more)


def picture() -> str:
    """The table of `reconciler status -w` for a morning with six jobs."""
    views = (
        view(
            "lm/ablations/pretrain",
            Phase.RUNNING,
            "running on node1",
            host="node1",
            attempt=3,
            progress=Progress(31200, 50000, {"loss": 2.41}),
        ),
        view(
            "lm/ablations/small",
            Phase.RUNNING,
            "running on workstation",
            host="workstation",
            attempt=1,
            progress=Progress(800, 5000, {"loss": 3.97}),
        ),
        view(
            "lm/ablations/wide",
            Phase.PREEMPTED,
            "preempted; the next try waits out the back-off",
            host="node1",
            attempt=2,
        ),
        view("lm/data/tokenize", Phase.SUCCEEDED, "finished", host="local", attempt=1),
        view("lm/eval/bench", Phase.PENDING, "waits for lm/ablations/pretrain to succeed"),
        view(
            "vision/base/resnet",
            Phase.PENDING,
            "node1: has 2 h100, 4 asked; workstation: has no h100",
        ),
    )
    console = Console(
        record=True,
        width=PICTURE_COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print("[bold]$ reconciler status -w[/bold]", highlight=False)
    console.print(table(views))
    svg = console.export_svg(title="reconciler", theme=THEME, code_format=SVG, unique_id="status")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


PAGES = {
    "manifest.md": manifest,
    "inventory.md": inventory,
    "command-line.md": command_line,
    "architecture.md": architecture,
    "status.svg": picture,
}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (HERE / file).write_text(page(), encoding="utf-8")
