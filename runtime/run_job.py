"""Run `package.module:Class` of the job's own code: `python run_job.py KEY`, in the work directory.

The class is made with the job's config when its constructor takes an argument, without when it takes none, and the
object is then called (or, when it cannot be called, its `run()` is). What that returns is printed by nobody: an integer
is the exit code, None is 0. Started by path, because the job's own tree may have a package named `runtime`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List


def main(arguments: List[str]) -> int:
    """Import, make, call. A key that leads nowhere ends with a sentence, errors of the job's code with their trace."""
    sys.path[0] = os.getcwd()  # was this script's own directory, whose modules would shadow the standard library's
    if len(arguments) != 1 or arguments[0].count(":") != 1:
        sys.stderr.write("Usage: run_job.py package.module:Class\n")
        return 2
    module_name, _, name = arguments[0].partition(":")
    target: Any = importlib.import_module(module_name)
    for part in name.split("."):
        if not hasattr(target, part):
            sys.stderr.write("There is no %s in %s (%s)\n" % (part, module_name, getattr(target, "__file__", "?")))
            return 2
        target = getattr(target, part)
    made = target(config()) if takes_config(target) else target()
    result = made() if callable(made) else made.run()
    return result if isinstance(result, int) else 0


def takes_config(target: Any) -> bool:
    """Can it be called with one positional argument?"""
    try:
        inspect.signature(target).bind({})
    except TypeError:
        return False
    except ValueError:  # no signature to be had: a class in C
        return False
    return True


def config() -> Dict[str, Any]:
    """The job's config, {} when there is none."""
    path = os.environ.get("RECONCILER_CONFIG")
    if not path:
        return {}
    with open(path, encoding="utf-8") as file:
        return dict(json.load(file))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
