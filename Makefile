# PYTHON builds .venv and lends it its Detectron2, where it has one.
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
DEMO := configs/Digits/faster_rcnn_CR_R_18_FPN.yaml

.PHONY: install test demo lint

install:
	@$(PYTHON) tools/install.py

test: install
	$(VENV_PYTHON) -m pytest tests

# Two threads that share their cores with other programs wait for each other most of the time.
demo: export OMP_NUM_THREADS ?= 1
demo: install
	$(VENV_PYTHON) train_net.py --config-file $(DEMO) OUTPUT_DIR output/demo
	$(VENV_PYTHON) tools/visualize_results.py --config-file $(DEMO) \
		--input output/demo/inference/coco_instances_results.json --output output/demo/detections.png

lint: install
	$(VENV_PYTHON) -m black --check --quiet benchmarks crnas_d2 tests tools *.py
