# Everything works from a clean clone: each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-fast test-all coverage lint format docs bench gpu-check gpu-bench clean help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(VENV)/.installed  ## .venv with everything for development

# torch comes as pip finds it. Where that would be a CUDA build you do not want, point pip elsewhere first:
#   export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## the main job on real photographs: export, judge, embed, nearest neighbours
	$(BIN)/python examples/demo.py demo

# Each test file runs in one worker, so that what its tests share is made once. One thread each: two workers with
# many threads slow each other down. A worker that dies ends the run: a replacement can leave the others waiting.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $${TEST_WORKERS:-2} --dist loadfile --max-worker-restart=0 \
	-o faulthandler_timeout=600

test: setup  ## the tests, but for the slow ones
	$(PYTEST) -m 'not slow and not matrix' $(ARGS)

test-fast: setup  ## the tests that need no torch: a minute
	$(PYTEST) -m 'not slow and not matrix' --no-torch $(ARGS)

test-all: test  ## the slow tests too, as CI runs them
	$(PYTEST) -m 'slow and not matrix' $(ARGS)

coverage: setup  ## every test with coverage measured, into docs/development/coverage.md
	$(PYTEST) --cov=dinodeploy --cov=exporters --cov=dinov3_ref --cov-report=json:build/coverage.json $(ARGS)
	$(BIN)/python .ci/coverage_page.py build/coverage.json docs/development/coverage.md

lint: setup  ## style, JavaScript, types, plain English
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/oxlint --deny-warnings dinodeploy/pages
	$(BIN)/python .ci/plain_english.py
	$(BIN)/mypy

format: setup  ## reformat
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## the documentation as a site, into site/
	$(BIN)/python docs/generate

bench: setup  ## export and CPU latency beside the peers, one run, into benchmarks/ledger/
	$(BIN)/python benchmarks/spine.py $(ARGS)

# On a machine that has torch and no registry these take its own Python: make gpu-check PYTHON=python3
GPU_PYTHON = PYTHONPATH=$(CURDIR) $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

gpu-check:  ## parity of every recipe on every backend of this GPU; skipped without one
	$(GPU_PYTHON) benchmarks/gpu_steps.py check $(ARGS)

gpu-bench:  ## latency and throughput on this GPU against torch.compile; skipped without one
	$(GPU_PYTHON) benchmarks/gpu_steps.py bench $(ARGS)

clean:  ## what the targets above made
	rm -rf $(VENV) demo site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
