# make demo   install, render the embedded data set, train on it, evaluate, write pictures
# make test   install if needed, check and test
# PYTHON=python3.12 make …   picks another interpreter (3.10 or newer)

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check clean

demo: $(INSTALLED)
	$(BIN)/python tools/train_det.py configs/shapes_r18.py
	$(BIN)/python tools/eval_det.py configs/shapes_r18.py --weights runs/shapes_r18

test: check
	$(BIN)/python -m pytest -n 2

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first: the package builds against the torch that is installed, not against a second copy of it.
$(INSTALLED): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel
	$(BIN)/python -m pip install "torch>=2.11" torchvision
	$(BIN)/python -m pip install --no-build-isolation --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
