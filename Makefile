# Everything is done in .venv, which `make setup` creates; each target does all of its own set-up.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DOCS   := $(VENV)/.docs-ready
INSTALL = UV_HTTP_TIMEOUT=300 $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt

.PHONY: setup demo test test-slow lint typecheck benchmark gpu-check docs dist clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(INSTALL) --editable '.[dev]'
	touch $(READY)

$(DOCS): $(READY)
	$(INSTALL) --editable '.[dev,docs]'
	touch $(DOCS)

demo: $(READY)
	rm -rf runs/demo-standard runs/demo-srs
	$(BIN)/srs-ray certify jobs/digits-standard.yaml
	$(BIN)/srs-ray certify jobs/digits-srs.yaml
	$(BIN)/srs-ray aggregate runs/demo-standard runs/demo-srs
	$(BIN)/srs-ray plot runs/demo-standard runs/demo-srs --output runs/demo.png

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 --durations 10

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --timeout 3600

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(READY)
	$(BIN)/mypy

benchmark: $(READY)
	$(BIN)/python benchmarks/point.py

gpu-check: $(READY)
	$(BIN)/python -m pytest -m cuda
	$(BIN)/python benchmarks/gpu_check.py --output gpu-check

docs: $(DOCS)
	$(BIN)/mkdocs build --strict

dist: $(READY)
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
