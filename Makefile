# Everything works from a clean clone: each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint format docs bench gpu-check gpu-bench clean help

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

# A file is one worker's, so that what its tests share is made once; one thread each, or they would fight for cores.
# A worker that dies ends the run, by name: replaced, it can leave the others waiting for ever.
test: setup  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $${TEST_WORKERS:-2} --dist loadfile --max-worker-restart=0 \
		-o faulthandler_timeout=600

lint: setup  ## style, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
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
	$(GPU_PYTHON) benchmarks/gpu_check.py $(ARGS)

gpu-bench:  ## latency and throughput on this GPU against torch.compile; skipped without one
	$(GPU_PYTHON) benchmarks/gpu_bench.py $(ARGS)

clean:  ## what the targets above made
	rm -rf $(VENV) demo site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
