# make demo   the whole road on the embedded world, then a page to look at
# make table  every system of the paper's tables on the embedded world, into tables/embedded.md
# make bench [BENCH=prepare,synthesis]   the benchmarks of speed, and docs/speed.md from them
# make reproduce TABLE=tables/….md   a committed table once more, compared row by row
# make test   every test;   make check   ruff, ruff format, mypy, who imports whom, dependencies
# make test-cluster   the runbook's stages on nodes that share no files and are lost; needs root
# make test-service   a certificate of the service under load and faults, into runs/certificate; needs root
# make real   the packages of SmolLM2 and all-MiniLM-L6-v2, for --config smollm2
# make docs   the documentation as a site, into site/
# Each target sets up .venv by itself. GPU=1 installs the CUDA builds instead of the CPU ones.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install real browser demo table bench reproduce test test-cluster test-service unit docs check format backbone clean

install: $(STAMP)

ifeq ($(GPU),1)
$(STAMP): pyproject.toml requirements/gpu.txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps -r requirements/gpu.txt -r requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
else
$(STAMP): pyproject.toml requirements/cpu.txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/cpu.txt -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
endif

real: install
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/real.txt

demo: install
	$(BIN)/msrrec demo --out runs/demo

CONTROLS := random,popularity,category,item-knn,item-knn-tuned,bm25-last,bm25-mean,bm25-tuned,graph
SEQUENTIAL := caser,gru4rec,sasrec,sasrec-binary,sasrec-official,sasrec-sampled,gsasrec,esasrec
MODELS := backbone,backbone-constrained,tallrec-gen-untrained,tallrec-gen,tallrec-pointwise-untrained,tallrec-pointwise,llara-text,llara-hybrid,llara,teacher,recsaver,recsaver-verified
OURS := msrrec-without-reasoning,msrrec-placebo,msrrec-filler,msrrec-facts,msrrec-direct,msrrec

table: install
	$(BIN)/msrrec prepare --config demo --source demo --out runs/table/dataset data.demo_world=mixture
	$(BIN)/msrrec synthesize --config demo --dataset runs/table/dataset --out runs/table/reasoning
	$(BIN)/msrrec compare --config demo --dataset runs/table/dataset \
	  --reasoning runs/table/reasoning --out runs/table/compare --systems $(CONTROLS),$(SEQUENTIAL),$(MODELS),$(OURS)
	cp runs/table/compare/report/table.md tables/embedded.md

bench: install
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/bench.txt
	$(BIN)/python -m bench.suite $(BENCH)

# INTERACTIONS and ITEMS: the files that the table was made from; SYSTEMS: some of its rows;
# DATASET: a prepared folder, for the table of a study that has no command for it.
# make reproduce TABLE=tables/….md [INTERACTIONS=file ITEMS=file | DATASET=dir] [SYSTEMS=some,of,them]
reproduce: install
	$(BIN)/python -m bench.reproduce $(or $(TABLE),$(error say which, as TABLE=tables/NAME.md)) \
	  $(if $(INTERACTIONS),--interactions $(INTERACTIONS)) $(if $(ITEMS),--items $(ITEMS)) \
	  $(if $(DATASET),--dataset $(DATASET)) $(if $(SYSTEMS),--systems $(SYSTEMS))

# Tests that kill what works mostly wait, so they run beside the other tests of processes, and the
# unit tests take the processor time that both leave.
BESIDE := $(addprefix tests/integration/,test_train_faults.py test_lost_engines.py test_synthesis_faults.py)

test: install browser
	@nice -n 19 $(BIN)/pytest tests/unit > $(VENV)/unit.log 2>&1 & unit=$$!; \
	nice -n 5 $(BIN)/pytest $(BESIDE) > $(VENV)/beside.log 2>&1 & beside=$$!; \
	$(BIN)/pytest tests/integration tests/e2e $(BESIDE:%=--ignore=%); others=$$?; \
	wait $$beside; beside=$$?; cat $(VENV)/beside.log; \
	wait $$unit; unit=$$?; cat $(VENV)/unit.log; exit $$((unit | beside | others))

test-cluster: install
	$(BIN)/pytest tests/cluster

# ONLY=engine,proxy: some of its rows; MINUTES=3: the length of the mixed load.
test-service: install
	$(BIN)/python -m tests.service.certificate $(if $(ONLY),--only $(ONLY)) $(if $(MINUTES),--minutes $(MINUTES))

# The page of the service is tested in a real Chromium; without one that test is skipped.
browser:
	@command -v chromium google-chrome > /dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } || \
	  echo "no chromium: the test of the page will be skipped"

unit: install
	$(BIN)/pytest tests/unit

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/deptry .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

backbone: install
	$(BIN)/python -m jobs.pretrain --out msrrec/embedded/backbone/weights --steps 1600

clean:
	rm -rf $(VENV) runs build dist site *.egg-info
