#!/bin/sh
# Pins what .ci/setup.sh installs: names, versions and hashes, no addresses. Run it to take newer versions (needs uv).
set -eu
cd "$(dirname "$0")/.."
pin() { # NAME EXTRA...
    name=$1; shift
    extras=""; for extra in "$@"; do extras="$extras --extra $extra"; done
    # shellcheck disable=SC2086
    printf 'setuptools>=75\nwheel\n' | uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
        --no-header --no-emit-index-url --no-emit-find-links $extras pyproject.toml - > ".ci/requirements-$name.new"
    mv ".ci/requirements-$name.new" ".ci/requirements-$name.txt"
}
pin demo example
pin dev example tpu volcano dev
