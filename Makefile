# The two commands of the README are `make book` and `make test`; each sets up its own environment in .venv first.
PYTHON  ?= python3
PROFILE ?= auto
SEED    ?= 0
# Where the reader has a smaller CPU-only torch: make book TORCH_INDEX=<index URL that holds torch and torchvision>
TORCH_INDEX ?=
BIN := .venv/bin
STRIP_KEYS := metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.language_info
export VLG_CACHE ?= $(CURDIR)/build/cache
# On a shared machine waiting threads must not spin: with spinning, a chapter took ten times as long.
export OMP_WAIT_POLICY ?= passive
# Sparse convolution is many small products: a training step took longer on two threads than on one.
export OMP_NUM_THREADS ?= 1
# Without bytecode every process compiles thousands of files for itself, which takes longer than most of what it does.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONWARNINGS ?= ignore::DeprecationWarning:jupyter_client

# The tests compare with MinkowskiEngine itself, which is built once and kept. Where it is not expected to build, pytest
# counts the comparisons as skipped, and compares with its recorded numbers.
ifeq ($(shell uname -sm),Linux x86_64)
COMPARED := minkowski
endif

.PHONY: help env book test lint unit notebooks nbval site browser robustness lab times sync lock minkowski clean

help:
	@echo "make book        run every chapter and build the site into _build/html"
	@echo "make test        lint, tests, chapters, nbval, strict site, browser checks: each is also a target of its own:"
	@echo "  make lint        linters, types, floors, file tree, reference pages, stored notebooks"
	@echo "  make unit        the tests, without the browser"
	@echo "  make notebooks   run the chapters that have changed"
	@echo "  make nbval       compare the chapters' pinned outputs"
	@echo "  make site        build the site from the chapters as they ran"
	@echo "  make browser     check the built site in a headless browser"
	@echo "make robustness  kills, full disks, damaged scenes and malformed files at the sizes that results/ records"
	@echo "make lab         open the chapters in JupyterLab"
	@echo "make minkowski   build MinkowskiEngine for the CPU (Linux; minutes, once) and install it into .venv"
	@echo "make times       run the chapters, time them and write the times into their headers"
	@echo "make sync        regenerate what notebooks share, student notebooks, the README's file tree, reference pages"
	@echo "make lock        resolve requirements.in into requirements.txt"
	@echo "make env         set up .venv, as every command does first"
	@echo "make clean       remove what was built, but not .venv"
	@echo "options:         PROFILE=auto|fast|colab|book|full  SEED=0  PYTHON=python3.12  TORCH_INDEX=URL"

env: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml tools/env.sh
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash tools/env.sh

book: notebooks site
	@echo "The book is ready: open _build/html/index.html"

# Two tracks, each for one core; the second does what the first does not need. At the end: where the time went.
test: env
	@MAKE="$(MAKE)" WORKERS=0 $(BIN)/python tools/phases.py "$(COMPARED) lint unit" "notebooks nbval site browser"
	@echo "all checks passed"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/file_tree.py --check
	$(BIN)/python tools/reference.py --check
	$(BIN)/python tools/format_keys.py --check
	$(BIN)/python tools/evidence_page.py --check
	$(BIN)/python tools/notebooks.py check
	$(BIN)/nbstripout --verify --keep-id --keep-count --extra-keys "$(STRIP_KEYS)" notebooks/[0-9]*.ipynb notebooks/student/*.ipynb

# Each worker imports everything and makes what tests share once more: one of them takes the fewest CPU seconds.
WORKERS ?= 2
unit: env $(COMPARED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not book" --doctest-modules tests vlg_lib

notebooks: env
	$(BIN)/python tools/execute.py --profile $(PROFILE) --seed $(SEED)

# VLG_PROFILE reaches the cells because nbval cannot inject parameters.
nbval: notebooks
	$(BIN)/python tools/pinned.py
	VLG_PROFILE=fast $(BIN)/python -m pytest -q -p no:cacheprovider --nbval-lax --nbval-current-env build/pinned.ipynb

site: notebooks
	$(BIN)/python tools/build_site.py

browser: site
	$(BIN)/python -m pytest -m book tests

ROBUSTNESS := PYTHONPATH=tests $(BIN)/python tests/robustness
# Far more of what `make test` tries in small. The full disk is a small one that root mounts.
robustness: env
	$(ROBUSTNESS)/fuzz.py --inputs 110000 --seed 0
	$(ROBUSTNESS)/faults.py kill --kills 20 --seed 0
	$(ROBUSTNESS)/faults.py convert --kills 20 --seed 0
	$(ROBUSTNESS)/fault_damage.py scenes
	@if [ "$$(id -u)" = 0 ]; then $(ROBUSTNESS)/fault_damage.py disk --sizes 4; \
	else echo "left out: the full disk, which needs root to mount one"; fi

lab: env
	$(BIN)/jupyter lab notebooks

times: env
	$(BIN)/python tools/execute.py --profile $(PROFILE) --seed $(SEED) --force
	$(BIN)/python tools/notebooks.py times

sync: env
	$(BIN)/python tools/notebooks.py sync
	$(BIN)/python tools/reference.py
	$(BIN)/python tools/format_keys.py
	$(BIN)/python tools/evidence_page.py
	$(BIN)/python tools/file_tree.py

minkowski: env
	$(BIN)/python data_scripts/build_minkowski.py --cpu

lock: env
	$(BIN)/uv pip compile --universal --python-version 3.11 --no-header --no-annotate requirements.in -o requirements.lock.tmp
	$(BIN)/python tools/lock.py requirements.lock.tmp requirements.txt

clean:
	rm -rf build _build
