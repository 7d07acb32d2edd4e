# Each target sets itself up in .venv, once: again only when pyproject.toml has changed.
PYTHON ?= python3
PROFILE ?= quick
BIN := .venv/bin
FAST := tests/core tests/data tests/phantom tests/evaluation tests/plots tests/widgets tests/course/test_parameters.py tests/test_structure.py

# as in cxrlib/__init__.py, for notebooks in JupyterLab that import torch first
ifndef OMP_WAIT_POLICY
export GOMP_SPINCOUNT ?= 1000
endif

.DEFAULT_GOAL := help
.PHONY: help setup run report figures check test torture test-oldest lab labtest notebooks hooks bench clean

help: ## this page
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1|/' | column -t -s '|'
	@echo
	@echo 'make run DATA=path                 your folder of radiographs, with its CSV, instead of phantoms'
	@echo 'make run PROFILE=cpu_10k           other parameters: a name from notebooks/profiles, or a YAML file'
	@echo 'make run ARGS="-p epochs 3"        override a parameter; -p arch resnet18 -p arch vgg16 makes two runs'

setup: .venv/installed ## install into .venv (the other targets do it themselves)

run: setup ## the six notebooks, headless, into runs/
	$(BIN)/cxr run --profile $(PROFILE) $(if $(DATA),--data "$(DATA)") $(ARGS)

report: setup ## the report of a run, HTML and PDF: RUN=runs/quick
	$(BIN)/cxr report $(or $(RUN),runs/$(PROFILE))

figures: setup ## figures of a run, small enough for a page, into TO=figures (which README shows): RUN=runs/quick
	$(BIN)/cxr figures $(or $(RUN),runs/$(PROFILE)) $(or $(TO),figures)

check: setup ## the fast lane, two minutes: ruff, who imports from whom, and the tests that train nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(FAST) $(ARGS)

test: setup ## ruff, then all tests, the notebooks among them, in two processes (ARGS="-n 0": in one)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

torture: setup ## kill -9 a hundred times at random; the work must end as in peace (15 minutes at most)
	$(BIN)/python -m tests.torture $(ARGS)

test-oldest: setup ## the tests with the oldest versions that pyproject.toml allows, in .venv-oldest (6 GB)
	$(BIN)/python -m tests.oldest > .oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -qq -e '.[dev,dicom,onnx]' -c .oldest.txt
	.venv-oldest/bin/python -m pytest $(ARGS)

lab: setup ## JupyterLab on this machine, at its start page
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) \
		--ServerApp.tornado_settings='{"websocket_max_message_size":268435456}' --notebook-dir=. \
		--LabApp.app_settings_dir=notebooks/lab --LabApp.default_url=/lab/tree/notebooks/START.md $(ARGS)

labtest: setup ## every notebook in JupyterLab in a real browser: restart the kernel, run all cells (ARGS="--times 2")
	$(BIN)/python -m tests.browser.restart_and_run_all $(ARGS)

notebooks: setup ## execute the six notebooks and the capstone in place, on their defaults, as they are committed, with figures/
	TQDM_DISABLE=1 PYDEVD_DISABLE_FILE_VALIDATION=1 JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False \
		--ExecutePreprocessor.timeout=-1 --log-level=WARN notebooks/*.ipynb
	$(BIN)/python -m tests.notebooks.compared --write
	$(BIN)/cxr figures runs/quick figures

hooks: ## let git check notebooks before each commit
	git config core.hooksPath .githooks

bench: setup ## speed, each figure against the plain way, in one run
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove .venv, caches, runs/ with its trained models and results/; phantoms and downloaded data stay
	rm -rf .venv .venv-oldest .oldest.txt runs results data/cache .pytest_cache .ruff_cache

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..."; exit 2; }
	@echo "installing into .venv (once; PyTorch is large, this takes some minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq -e '.[dev,dicom,onnx]'
	@touch $@
