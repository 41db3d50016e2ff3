#!/bin/sh
# Makes .venv: `setup.sh demo` what the demo needs, `setup.sh dev` what the tests need. Safe to repeat; quick when nothing changed.
set -eu
cd "$(dirname "$0")/.."
want=$1
python=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }

retry() { # COMMAND...: three tries, for registries that hiccup
    for pause in 2 10 0; do
        "$@" && return 0
        [ "$pause" = 0 ] || { say "setup: '$1' failed, again in $pause s"; sleep "$pause"; }
    done
    return 1
}

command -v "$python" >/dev/null 2>&1 || { say "setup: no $python. Install Python 3.11 or newer, or set PYTHON."; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { say "setup: $("$python" --version) is too old. Install Python 3.11 or newer, or set PYTHON."; exit 1; }

stamp=".venv/.$want-$(cat pyproject.toml ".ci/requirements-$want.txt" | cksum | cut -d' ' -f1)"
[ -f "$stamp" ] && exit 0

if [ ! -x .venv/bin/python ]; then
    say "setup: making .venv"
    if ! "$python" -m venv .venv 2>/dev/null; then
        rm -rf .venv
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            retry apt-get -q update >/dev/null && retry apt-get install -q -y --no-install-recommends python3-venv >/dev/null
        fi
        "$python" -m venv .venv || { say "setup: '$python -m venv' does not work. On Debian: apt-get install python3-venv"; exit 1; }
    fi
fi
say "setup: installing packages ($want)"
retry .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r ".ci/requirements-$want.txt"
.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
touch "$stamp"
