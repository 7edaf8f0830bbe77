# make demo   the whole road on the embedded world, then a page to look at
# make test   every test;   make check   ruff, ruff format, mypy
# Each target sets up .venv by itself. GPU=1 installs the CUDA builds instead of the CPU ones.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test unit check format backbone clean

install: $(STAMP)

ifeq ($(GPU),1)
$(STAMP): pyproject.toml requirements/gpu.txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements/gpu.txt -r requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
else
$(STAMP): pyproject.toml requirements/cpu.txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/cpu.txt -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
endif

demo: install
	$(BIN)/msrrec demo --out runs/demo

test: install
	$(BIN)/pytest tests

unit: install
	$(BIN)/pytest tests/unit

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

backbone: install
	$(BIN)/python -m jobs.pretrain --out msrrec/backbone/weights --steps 1600

clean:
	rm -rf $(VENV) runs build dist *.egg-info
