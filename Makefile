# Every command of this project, run in a virtual environment that make builds.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help quickstart quickstart-lm test lint types tiny docs notebooks bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile | \
	  while IFS=: read -r name text; do printf '%-15s%s\n' "$$name" "$$text"; done

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV); a first time takes some minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs]'
	@touch $@

quickstart: $(STAMP)  ## distill, evaluate and report: runs/quickstart
	$(BIN)/gmdistill distill --config=quickstart \
	  --workdir=runs/quickstart

quickstart-lm: $(STAMP)  ## the same of a small language model: runs/quickstart_lm
	@test -f runs/quickstart_lm_base/model.safetensors || \
	  $(BIN)/gmdistill teach --config=quickstart_lm:base \
	  --workdir=runs/quickstart_lm_base
	$(BIN)/gmdistill distill --config=quickstart_lm \
	  --workdir=runs/quickstart_lm

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile \
	  --no-loadscope-reorder

lint: $(STAMP)  ## check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)  ## check the types
	$(BIN)/mypy

tiny: $(STAMP)  ## run every config in its tiny mode
	$(BIN)/python tests/tiny_runs.py

# Its pages are checked too: warnings are errors, and every link inside must lead
# somewhere. The notebooks are executed beside a finished run, where they have
# changed since the last time; the kernel must be this environment's.
RUN := docs/_build/run
docs: $(STAMP)  ## build the site, with the notebooks executed: docs/_build/html
	@test -f $(RUN)/summary.json || $(BIN)/gmdistill distill \
	  --config=quickstart:tiny --workdir=$(RUN)
	GMDISTILL_RUN="$$PWD/$(RUN)" \
	  GMDISTILL_STEPS=4 GMDISTILL_STUDENTS=2 GMDISTILL_MODE=:tiny \
	  JUPYTER_PREFER_ENV_PATH=1 \
	  IPYTHONDIR="$$PWD/docs/_build/ipython" PYDEVD_DISABLE_FILE_VALIDATION=1 \
	  $(BIN)/python -m sphinx --builder=html --nitpicky --fail-on-warning \
	  --keep-going --quiet docs docs/_build/html
	$(BIN)/python docs/_tools/check_links.py docs/_build/html

notebooks: docs  ## execute every notebook: a part of docs

# PyTorch is measured against, and never needed: it is installed for this alone.
bench: $(STAMP)  ## measure beside PyTorch: tables, and runs/bench.json
	@$(BIN)/python -c "import torch" 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python tests/benchmarks/bench.py $(BENCH)
	$(BIN)/python tests/benchmarks/to_accuracy.py
	$(BIN)/python tests/benchmarks/compiled.py
	$(BIN)/python tests/benchmarks/language_model.py
	$(BIN)/python tests/benchmarks/read_rows.py $(ROWS)

clean:  ## remove what make and the tools built; runs stay
	rm -rf $(VENV) build docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
