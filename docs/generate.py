"""Writes docs/manifest.md and docs/inventory.md from the schema files; a test holds them current.

python docs/generate.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from reconciler.core.chips import CHIPS  # noqa: E402
from reconciler.core.fields import FIELDS, effect_of  # noqa: E402
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

## What happens to a broken document

It is told with file and line, and its job is frozen: a run that is live stays as it is, and nothing is launched. The
other documents go on. Where the job's name cannot be read with certainty, no job at all is removed in that pass.

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
`{file: PATH}` or `{command: [program, argument]}`. Its value is in no message, plan, log or script.

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


PAGES = {"manifest.md": manifest, "inventory.md": inventory}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (HERE / file).write_text(page(), encoding="utf-8")
