# make demo   install, render the embedded data set, train on it, evaluate, write pictures
# make test   install if needed, check and test
# make sanitize   run the operators' tests on a build that stops at wrong memory accesses and undefined arithmetic (g++)
# PYTHON=python3.12 make …   picks another interpreter (3.10 or newer)

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check sanitize clean

demo: runs/shapes_r18/curves.png
	$(BIN)/python tools/eval_det.py configs/shapes_r18.py --weights runs/shapes_r18
	$(BIN)/python tools/detect.py datasets/shapes/JPEGImages/val_0000*.jpg --weights runs/shapes_r18 \
		--output runs/shapes_r18/pictures

runs/shapes_r18/curves.png: | $(INSTALLED)
	$(BIN)/python -m resdet.data.shapes datasets/shapes
	if test -f runs/shapes_r18/state.pt; \
		then $(BIN)/python tools/train_det.py --resume runs/shapes_r18; \
		else rm -rf runs/shapes_r18; $(BIN)/python tools/train_det.py configs/shapes_r18.py; fi

test: check
	$(BIN)/python -m pytest -n 2

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The sanitizers' own libraries must come before everything else; leaks of the interpreter are none of ours.
sanitize: $(INSTALLED)
	mkdir -p build
	RESDET_SANITIZE=1 $(BIN)/python setup.py --quiet build --build-base build/sanitized \
		--build-lib build/sanitized/lib > build/sanitized.log
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitized/lib \
		$(BIN)/pytest -p no:cacheprovider -k "not registration" \
		tests/test_ops.py tests/test_ops_maps.py tests/test_ops_network.py tests/test_ops_properties.py

# torch first: the package builds against the torch that is installed, not against a second copy of it.
$(INSTALLED): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel
	$(BIN)/python -m pip install --no-compile "torch>=2.11" torchvision
	$(BIN)/python -m pip install --no-build-isolation --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
