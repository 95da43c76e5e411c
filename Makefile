# PYTHON builds .venv and lends it its Detectron2, where it has one.
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python

.PHONY: install test quick demo lint

install:
	@$(PYTHON) tools/install.py

# Two threads that share their cores with other programs would wait for each other most of the time.
test quick demo: export OMP_NUM_THREADS ?= 1

# On all cores; tests/conftest.py says which tests stay in one process.
test: install
	$(VENV_PYTHON) -m pytest --numprocesses auto --maxprocesses 8 --no-loadscope-reorder tests

# What takes less than a few seconds a file, for the time between two changes.
quick: install
	$(VENV_PYTHON) -m pytest --numprocesses auto --maxprocesses 8 --quick tests

# On two CPU cores, whatever else the machine has. OPTS are more config keys, such as "SEARCH.RECIPE.SEEDS 7".
demo: export CUDA_VISIBLE_DEVICES =
demo: install
	$(VENV_PYTHON) search_net.py --config-file configs/Search/close_digits.yaml --num-gpus 2 --dist-url auto \
		OUTPUT_DIR output/demo $(OPTS)
	$(VENV_PYTHON) tools/visualize_results.py --config-file output/demo/final.yaml \
		--output output/demo/detections.png

lint: install
	$(VENV_PYTHON) -m ruff check --quiet .
	$(VENV_PYTHON) -m ruff format --check --quiet .
	$(VENV_PYTHON) -m mypy
