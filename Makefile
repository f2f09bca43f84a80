# Every target makes what it needs: .venv with pinned versions (constraints.txt), then its own job.
#   make demo ARGS="--help"      flags of the command behind a target
#   make test PYTHON=python3.12  another interpreter for .venv, at least 3.10
PYTHON ?= python3
ARGS ?=
JOBS ?= 2

VENV := .venv
PEERS := .venv-peers
RUN := $(VENV)/bin/python
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist worksteal

extras-demo := diffusion,plot
extras-dev := diffusion,transformers,constraints,logic,cli,lm-eval,plot,tabular,triton,bench,docs,dev

.DEFAULT_GOAL := help
.PHONY: help demo test test-campaign lint format bench bench-peers docs clean

help:
	@echo "make demo | test | test-campaign | lint | format | bench | bench-peers | docs | clean"

demo: $(VENV)/demo.stamp
	$(RUN) -m pcircuits_diffusion.demo $(ARGS)

test: $(VENV)/dev.stamp
	$(PYTEST) $(ARGS)

# Everything, the long tier included, on more and random examples.
test-campaign: $(VENV)/dev.stamp
	$(PYTEST) -m "" --hypothesis-profile=campaign $(ARGS)

lint: $(VENV)/dev.stamp
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/dev.stamp
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/dev.stamp
	$(RUN) benchmarks/run.py --reduced $(ARGS)

# The libraries that benchmarks compare with, in an environment of their own; without it they are skipped.
bench-peers: $(PEERS)/stamp

docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict $(ARGS)

clean:
	rm -rf $(VENV) $(PEERS) build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each set of extras leaves its own stamp, so the demo installs no development tools.
$(VENV)/%.stamp: pyproject.toml constraints.txt | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check -e '.[$(extras-$*)]' -c constraints.txt
	@touch $@

# --no-deps: some of them ask for other versions of torch and scipy than they work with.
$(PEERS)/stamp: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check torch -c benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --no-deps -r benchmarks/peers/requirements.txt
	@touch $@

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is missing or older than 3.10; choose another: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
