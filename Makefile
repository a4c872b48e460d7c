# make demo    the main job on a photograph: compress with BPG and VVC, decode, enhance, compare; writes demo/
# make test    style, types and tests
# make results         RESULTS.md, from the picture sets in DATA (hours; goes on where it stopped)
# make results-quick   the same on four pictures, to build/RESULTS-quick.md (minutes)
# make wheel   dist/*.whl with the weights inside
# make clean   removes all that the other targets made, .venv included
#
# IMAGE=my.png BPP=0.2 MODEL=fast change the demo; ARGS="--model fast" goes to the results;
# TORCH=torch==2.13.0 takes the build with CUDA from PyPI;
# PYTHON=python3.12 makes .venv with another Python.

# Plain assignments: only the command line changes them, not a stray variable of the environment.
PYTHON = python3
IMAGE =
BPP = 0.15
MODEL =
DATA =
ARGS =

venv := .venv
bin := $(venv)/bin
pip := $(bin)/python -m pip --disable-pip-version-check
stamp := $(venv)/.installed

# On Linux, PyPI's torch comes with gigabytes of CUDA libraries; the CPU build has an index of its own.
# Once installed, torch stays as it is until another TORCH is asked for by name.
ifneq ($(origin TORCH),command line)
torch_stamp := $(wildcard $(venv)/.installed-torch*)
TORCH := torch==2.13.0$(if $(filter Linux,$(shell uname -s)),+cpu)
endif
torch_stamp := $(or $(torch_stamp),$(venv)/.installed-$(subst =,-,$(TORCH)))
torch_index := $(if $(findstring +cpu,$(TORCH)),--index-url https://download.pytorch.org/whl/cpu --retries 1)

export IMAGE BPP MODEL

.PHONY: help demo test lint results results-quick wheel clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(stamp)
	$(bin)/python examples/demo.py --bpp "$$BPP" $${IMAGE:+--image "$$IMAGE"} $${MODEL:+--model "$$MODEL"} --output demo

test: lint
	$(bin)/python -m pytest

lint: $(stamp)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

results: $(stamp)
	$(bin)/python -m benchmarks.results $(if $(DATA),--data "$(DATA)") $(ARGS)

results-quick: $(stamp)
	$(bin)/python -m benchmarks.results --quick $(if $(DATA),--data "$(DATA)") $(ARGS)

wheel: $(stamp)
	$(bin)/python -m hatchling build -t wheel

clean:
	rm -rf $(venv) demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(venv)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	@echo "installing into $(venv); the first time takes a few minutes" >&2
	$(PYTHON) -m venv $(venv)

# torch first and alone: what else is installed then finds the build that was asked for in place.
$(torch_stamp): | $(venv)/bin/python
	@rm -f $(venv)/.installed*
	$(pip) install --quiet --force-reinstall --no-deps $(torch_index) "$(TORCH)" -c constraints.txt || \
	  { echo "cannot install $(TORCH); 'make TORCH=torch==2.13.0' takes the default build of PyPI" >&2; exit 1; }
	@touch "$@"

# CompressAI asks for NumPy 1 and for torchvision, which would replace torch; its image codecs do without either.
$(stamp): $(torch_stamp) pyproject.toml constraints.txt
	$(pip) install --quiet -c constraints.txt -e ".[dev,learned,onnx,openvino,report,train]"
	$(pip) install --quiet --no-deps -c constraints.txt compressai
	@touch $@
