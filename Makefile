# Everything starts here: `make help`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# reproduce-wmt: which corpus, which sizes, and any further overrides, such as ARGS="seeds=[1] jobs=2";
# reproduce-lm: the same, but for the size, which goes with the corpus
LM_CORPUS := $(or $(CORPUS),wikitext103)
CORPUS ?= wmt14_deen
SIZE ?= $(if $(filter wmt14_deen,$(CORPUS)),base small,iwslt)
PROTOCOL ?= $(if $(filter wmt14_deen,$(CORPUS)),paper,full)
ARGS ?=
ROWS = $(if $(filter wmt14_deen,$(CORPUS)),wmt14_$$size,wmt14_base)
TRANSLATION_SWEEP = $(RUN) -m scripts.sweep sweep=$(ROWS) corpus=$(CORPUS) size=$$size protocol=$(PROTOCOL) $(ARGS)
LM_SWEEP = $(RUN) -m scripts.sweep sweep=lm_$(LM_CORPUS) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint doctor reproduce-wmt reproduce-lm tables report bench bench-cpu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED)  ## install everything into .venv (the other targets do it when needed)

# fairseq's own metadata pins versions that no longer install, hence --no-deps: see memtrans_fairseq/compat/
$(INSTALLED): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else \
		"error: Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(RUN) -m pip install --quiet --no-deps fairseq==0.12.2
	@touch $@

demo: $(INSTALLED)  ## the whole job in miniature: generate corpora, train eight models, score, tabulate
	$(RUN) -m scripts.sweep sweep=demo paths.results=runs/demo
	$(RUN) -m scripts.sweep sweep=demo_lm paths.results=runs/demo

PYTEST = $(RUN) -m pytest -n auto --dist worksteal

test: $(INSTALLED)  ## all tests
	$(PYTEST)

test-fast: $(INSTALLED)  ## without those that train, kill and submit real runs
	$(PYTEST) -m 'not slow'

lint: $(INSTALLED)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

doctor: $(INSTALLED)  ## what is installed, which GPU, what is missing and how to mend it
	@$(RUN) -m scripts.doctor

reproduce-wmt: $(INSTALLED)  ## the paper's translation tables; or another corpus: CORPUS=multi30k SIZE=iwslt
	@set -e; for size in $(SIZE); do $(TRANSLATION_SWEEP) plan=true; done
ifeq (,$(findstring plan=true,$(ARGS)))
	@status=0; for size in $(SIZE); do $(TRANSLATION_SWEEP) || status=1; done; exit $$status
endif

reproduce-lm: $(INSTALLED)  ## language models on WikiText-103; or on the small one: CORPUS=wikitext2
	@$(LM_SWEEP) plan=true
ifeq (,$(findstring plan=true,$(ARGS)))
	@$(LM_SWEEP)
endif

tables: $(INSTALLED)  ## write results/TABLES.md from the records
	$(RUN) -m scripts.tabulate

report: $(INSTALLED)  ## write results/report/ from the records: a page, Markdown, LaTeX
	$(RUN) -m scripts.report

bench: $(INSTALLED)  ## speed on a GPU: training, decoding, length, language models (alone on the machine)
	@$(RUN) -c 'import sys, torch; torch.cuda.is_available() or \
		sys.exit("error: make bench needs a GPU, and torch sees none here; make bench-cpu does without")'
	@mkdir -p runs/bench; status=0; \
	$(RUN) benchmarks/translation_speed.py --json runs/bench/translation.json || status=1; \
	$(RUN) benchmarks/decoding_speed.py --json runs/bench/decoding.json || status=1; \
	$(RUN) benchmarks/encoder_length.py --sentences 8 --ragged || status=1; \
	$(RUN) benchmarks/lm_speed.py --precision amp --json runs/bench/lm.json || status=1; \
	exit $$status

bench-cpu: $(INSTALLED)  ## speed on CPUs, in minutes: preparing a corpus against fairseq-preprocess; start-up (alone on the machine)
	$(RUN) benchmarks/startup.py
	$(RUN) benchmarks/prepare_speed.py --pairs 50000

clean:  ## remove the virtual environment and caches; data, runs and results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
