#!/bin/sh
# Find a Python 3.8 or newer and replace this shell by it. Called as: sh BUNDLE/bootstrap.sh VERB
# RECONCILER_PYTHON names the interpreter to use. Candidates that turn out to be too old call this script again
# (__main__.py), with their names in RECONCILER_PYTHON_TRIED, so that the usual case costs one interpreter start.
case $0 in
    */*) bundle=${0%/*} ;;
    *) bundle=. ;;
esac
for directory in "${HOME:-/nonexistent}/.local/bin" "${HOME:-/nonexistent}/.cargo/bin" /usr/local/cuda/bin /usr/local/bin; do
    case ":$PATH:" in
        *":$directory:"*) ;;
        *) [ ! -d "$directory" ] || PATH="$PATH:$directory" ;;
    esac
done
export PATH

serve() {
    # $1: candidate; the rest: arguments. Returns only when the candidate cannot be used.
    python=$(command -v "$1" 2>/dev/null) || return 0
    case $python in
        */*) ;;
        *) return 0 ;;
    esac
    case ":${RECONCILER_PYTHON_TRIED:-}:" in
        *":$python:"*) return 0 ;;
    esac
    case $python in
        */shims/* | /usr/bin/python3*)
            # A version manager's shim may stand for no interpreter at all, and macOS has a stub that opens a dialogue.
            if [ "${python%/shims/*}" != "$python" ] || [ -d /Library/Developer ]; then
                python=$("$python" -c 'import sys; sys.exit(sys.version_info < (3, 8) or print(sys.executable))' \
                    </dev/null 2>/dev/null) || return 0
            fi
            ;;
    esac
    shift
    RECONCILER_PYTHON_TRIED="${RECONCILER_PYTHON_TRIED:-}:$python"
    export RECONCILER_PYTHON_TRIED
    # The file, not the directory: Python imports 5 ms of helpers before it runs a directory.
    exec "$python" -I -S -X utf8 "$bundle/__main__.py" "$@"
}

if [ -n "${RECONCILER_PYTHON:-}" ]; then
    serve "$RECONCILER_PYTHON" "$@"
fi
for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 \
    "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-${HOME:-/nonexistent}/.local/share}/uv/python}"/cpython-3*/bin/python3; do
    serve "$candidate" "$@"
done
echo "No Python 3.8 or newer on $(uname -n): set RECONCILER_PYTHON, or install one (uv python install 3.11)." >&2
exit 91
