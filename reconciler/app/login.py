"""Single commands on a login node, for tools that come before the runtime is there: `doctor`, `hosts --discover`."""

from __future__ import annotations

from reconciler.backends.dialect import Answer, Argv
from reconciler.core.transport import Command, Transport

MISSING = 127
# Scheduler commands are often in PATH of a login shell only; its greeting must not mix with their output.
_RUN = (
    'command -v "$0" >/dev/null 2>&1 && exec "$@"; '
    'PATH=$(bash -lc \'printf "\\n@path %s\\n" "$PATH"\' 2>/dev/null | sed -n "s/^@path //p" | tail -n 1); export PATH; '
    'command -v "$0" >/dev/null 2>&1 || { echo "$0 is not in PATH" >&2; exit 127; }; exec "$@"'
)


def run_on_login(transport: Transport, argv: Argv, *, deadline_s: float) -> Answer:
    """What one command says. `returncode` None: there is no such command. Raises what the connection raises."""
    # `sh -c TEXT PROGRAM ...` is a prelude to the program that is wanted.
    program = argv[3] if argv[:2] == ("sh", "-c") and len(argv) > 3 else argv[0]
    done = transport.run(Command(("sh", "-c", _RUN, program, *argv)), deadline_s=deadline_s)
    code = None if done.returncode == MISSING else done.returncode
    return Answer(code, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
