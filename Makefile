# The one list of recipes; CI calls the same. `make demo` and `make test` set up what they need.
.PHONY: help demo test unit sim check format bench docs fuzz clean

PY := .venv/bin/python

help:            ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/ \t/'

demo:            ## train a tiny JAX model here, kill it midway, see it resume
	@.ci/setup.sh demo
	@$(PY) examples/demo.py

test:            ## everything: checks, unit tests, real engines (installed as root on Debian, else skipped with the reason)
	@.ci/setup.sh dev
	@.ci/engines.sh
	@$(MAKE) --no-print-directory check
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m pytest -n 2 --dist loadgroup $(ARGS)

unit:            ## the quick part
	@.ci/setup.sh dev
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m pytest -n 2 -m "not real" $(ARGS)

sim:             ## simulated worlds, planted bugs, a report: make sim SEEDS=2000 JOBS=2 (docs/proof.md)
	@.ci/setup.sh dev
	@$(PY) -m tests.sim $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

check:           ## lint, format, types, layers, the node side's Python, shell
	@.ci/setup.sh dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@PYTHONPATH=. .venv/bin/lint-imports --no-cache
	@.venv/bin/vermin -q --no-tips --eval-annotations --violations -t=3.8- runtime
	@.venv/bin/shellcheck runtime/bootstrap.sh .ci/run .ci/*.sh

format:          ## format and mend what can be mended
	@.ci/setup.sh dev
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench:           ## the figures of docs/benchmarks.md
	@.ci/setup.sh dev
	@$(PY) benchmarks/run.py

fuzz:            ## coverage-guided fuzzing of what reads foreign text: make fuzz TARGET=manifest SECONDS=60 (needs atheris)
	@.ci/setup.sh dev
	@$(PY) -m pip install -q atheris
	@$(PY) -m tests.fuzz $(or $(TARGET),manifest) --seconds $(or $(SECONDS),60)

docs:            ## generated pages: manifest reference, phases, the terminal picture
	@.ci/setup.sh dev
	@$(PY) docs/generate.py

clean:           ## environment, caches, the demo's files
	rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
