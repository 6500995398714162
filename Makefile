# The two commands of the README are `make run` and `make test`; everything else is for those who change Studio.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKSPACE ?= .workspace
STUDIO := $(BIN)/studio --workspace $(WORKSPACE)

.PHONY: help run test test-slow check format bench bench-intake bench-lab bench-serve pictures samples lock clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): locked versions from constraints.txt (about 2.3 GB, once) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,keras,sklearn,boosters,catboost,text,image,dev]'
	@touch $@

run: $(READY)  ## set up, drop the sample models into a workspace's inbox, and open Studio on it
	@$(STUDIO) demo --samples sample_models

test: $(READY) tools check  ## set up, then lint, type-check and run the tests
	$(BIN)/python -m pytest

test-slow: $(READY) tools  ## the long proofs: kill storms, soak, fuzz
	STUDIO_KILLS=$${STUDIO_KILLS:-200} $(BIN)/python -m pytest -m "slow or environment" --timeout 3600

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The journeys through the terminal are driven in tmux.
.PHONY: tools
tools:
	@command -v tmux >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq tmux >/dev/null; \
	  else echo "The tests need tmux: install it with your system's package manager, then run make test again." >&2; exit 1; fi; }

formats: $(READY)  ## write the table of docs/formats.md from the tests that convert
	$(BIN)/python -m tests.format_table

bench: $(READY)  ## print the budgets: first paint, CLI, idle, drop to servable, registry at 10,000 versions
	$(BIN)/python -m tests.budgets

bench-intake: $(READY)  ## print what conversions cost over the bare exporters, warm and cold, one and a hundred (BENCH=--help)
	$(BIN)/python -m tests.bench_intake $(BENCH)

bench-lab: $(READY)  ## try every recipe on ten models, and the choice against a search, into docs/lab.md (BENCH=--help)
	$(BIN)/python -m tests.bench_lab $(BENCH)

bench-serve: $(READY)  ## measure the endpoint beside other model servers into docs/benchmarks.md (Linux, wrk; BENCH=--help)
	$(BIN)/python -m tests.bench_serve $(BENCH)

pictures: $(READY)  ## remake the pictures of the README from the running program (needs chromium and tmux)
	$(BIN)/python assets/make_pictures.py

samples: $(READY)  ## train and export the sample models again
	$(BIN)/python sample_models/make.py

lock: $(READY)  ## write the installed versions to constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:  ## remove what the targets made, the demo workspace included
	rm -rf $(VENV) .workspace .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
