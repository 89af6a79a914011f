# `make demo` needs only Python 3.11 or 3.12, git and make. See `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint claims miniature clean

STAMP := .venv/.installed
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH"
# One thread each: tests are many small computations, and more threads only wait for one another.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 18

# Installed again only when what is asked for has changed.
$(STAMP): pyproject.toml constraints.txt
	@python=; for name in $(PYTHON) python3.11 python3.12 python3 python; do \
	  if $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; \
	  then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.11 or 3.12 found; allowed: make PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	echo "installing into .venv with $$($$python --version)"; \
	if [ ! -x .venv/bin/python ]; then $$python -m venv .venv; fi
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Run the whole chain on the embedded world (PROFILE=full for the long one)
	@$(RUN) konomi demo $(if $(PROFILE),--profile $(PROFILE))

test: $(STAMP)  ## Run every test, in two processes
	@$(RUN) $(THREADS) pytest -n 2 --dist loadfile --durations=15

lint: $(STAMP)  ## Format, lint, types, layers
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(RUN) lint-imports

claims: $(STAMP)  ## Put the papers' claims to the test (hours; QUICK=1 tries every line in minutes)
	@$(RUN) $(THREADS) python -m benchmarks.claims $(if $(QUICK),--quick)

# Its stages are frozen, so that `dvc repro` of the pipeline never trains the world that it stands on.
miniature: $(STAMP)  ## Train the miniature world again (hours on two cores)
	@export PATH="$(CURDIR)/.venv/bin:$$PATH"; \
	stages=$$(dvc stage list --name-only components/miniature/dvc.yaml); \
	trap 'dvc freeze -q '"$$stages" EXIT; \
	dvc unfreeze -q $$stages; \
	dvc repro components/miniature/dvc.yaml

clean:  ## Remove what runs have written; DVC's cache, the tracker and .venv stay
	rm -rf data models reports .work
