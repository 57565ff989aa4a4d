# The two commands of this repository are `make reproduce` and `make test`; both begin with `make install`.
#   PYTHON=python3.12        another interpreter for a new environment
#   VENV=path                another environment
#   PIP_FLAGS='…'            options for pip, such as another index
#   WORKERS=4                tests side by side
#   BENCH='--rounds 3'       options for `make bench`, such as fewer rounds

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
WORKERS ?= 2
PORT ?= 8000
BENCH ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.modbp-installed

.DEFAULT_GOAL := help
.PHONY: help install reproduce test book serve refresh bench lint clean

help:
	@echo "make reproduce   run every walkthrough and build the book from the results"
	@echo "make test        check everything: units, notebooks, book, browser"
	@echo "make install     set up $(VENV), which both do first"
	@echo "make book        build the book from the committed notebooks"
	@echo "make serve       show that book on http://127.0.0.1:$(PORT)"
	@echo "make refresh     re-execute the committed notebooks in place"
	@echo "make bench       time all methods beside other libraries' (an hour, on a quiet machine)"
	@echo "make lint        ruff and mypy"
	@echo "make clean       remove what was built"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "modbp needs Python 3.11 or newer, and $(PYTHON) is %d.%d; give another one with PYTHON=..." % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (minutes the first time)"
	@$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[all]'
	@touch $@

reproduce: install
	@$(BIN)/python scripts/reproduce.py

# One thread for each worker: on shared cores, more threads wait for one another.
test: install
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

book: install
	$(BIN)/jupyter-book build . -W -n --keep-going

serve: book
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

refresh: install
	@$(BIN)/python scripts/refresh.py

bench: install
	$(BIN)/python benchmarks/run.py $(BENCH)
	$(BIN)/python benchmarks/report.py

lint: install
	$(BIN)/ruff check
	$(BIN)/mypy

clean:
	rm -rf _build
