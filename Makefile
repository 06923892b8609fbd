# make demo        audio files -> shards -> a trained, scored model and a report, in about 6 minutes
# make test        lint, types, and the first tier of tests
# make test-all    the second tier as well
# make gpu-check   what needs a GPU: tests/gpu and the benchmarks
#
# make demo DATA=FOLDER                               the same job on your clips, a folder per class
# make demo DATA=CLIPS.csv CLASS_LABELS=CLASSES.csv   or listed in a manifest
# make TARGET PYTHON=python3                          use an environment that is there; install nothing
# make TARGET PINS=constraints-oldest.txt             the oldest versions that work; in .venv-oldest

BASE_PYTHON ?= python3
PINS ?= constraints.txt
VENV := .venv$(patsubst constraints%.txt,%,$(PINS))
ifeq ($(origin PYTHON),command line)
ENVIRONMENT :=
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PYTHON := $(VENV)/bin/python
ENVIRONMENT := $(VENV)/installed
endif

.PHONY: help demo test test-all lint gpu-check gpu-tests gpu-features gpu-step gpu-loader clean
help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -9

$(VENV)/installed: setup.cfg pyproject.toml $(PINS)
	$(BASE_PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and "psla-wds needs Python 3.11 to 3.14: make BASE_PYTHON=python3.12")'
	$(BASE_PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(PINS) $(PYTHON) -m pip install --quiet -e '.[cuda13,dev]'
	touch $@

lint: $(ENVIRONMENT)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# One process more than there are cores, since some tests only wait for others.
PYTEST = $(PYTHON) -m pytest -n $(shell expr $$(nproc) + 1) --dist loadfile
test: lint
	$(PYTEST) -m 'not slow and not gpu'

test-all: lint
	$(PYTEST) -m 'not gpu' --tally benchmarks/results/tried.json

# Each part within a bound of seconds; a part that fails does not stop those after it, and make names
# those that failed. Results are gpu_*.json, beside those of a CPU. All parts take up to 20 minutes.
GPU_RESULTS ?= benchmarks/results
gpu-check: $(ENVIRONMENT)
	$(PYTHON) -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "there is no GPU: run this on a GPU machine")'
	$(MAKE) --keep-going --jobs=1 gpu-tests gpu-features gpu-step gpu-loader

gpu-tests: $(ENVIRONMENT)
	timeout 300 $(PYTHON) -m pytest tests/gpu --require-gpu -rfE

gpu-features: $(ENVIRONMENT)
	timeout 240 $(PYTHON) -m benchmarks.bench_features --batch-size 100 --output $(GPU_RESULTS)/gpu_features.json

gpu-step: $(ENVIRONMENT)
	timeout 540 $(PYTHON) -m benchmarks.bench_step --batch-size 100 --seconds 2 --output $(GPU_RESULTS)/gpu_step.json

gpu-loader: $(ENVIRONMENT)
	timeout 180 $(PYTHON) -m benchmarks.bench_loader --batch-size 100 --levels features --output $(GPU_RESULTS)/gpu_loader.json

# The demo. One process for each GPU, or two on the CPU.
PROCESSES = $(shell $(PYTHON) -c 'import torch; print(torch.cuda.device_count() or 2)')
# For speed: a smaller network than the recipe's, and half the filters and frames.
SMALLER := --model.backbone mobilenet-v2 --features.num-mels 64 --features.hop-ms 20

ifdef DATA
SETTINGS := $(SMALLER) --optimizer.decay cosine --fit minutes $(if $(EPOCHS),--epochs $(EPOCHS))
NAME := demo-$(basename $(notdir $(DATA:/=)))
SHARDS := data/$(NAME)/shards
TRAIN := $(SHARDS):train
EVAL := $(SHARDS):eval
NEEDED := $(SHARDS)/index/meta.json
else
NAME := demo
SHARDS := data/demo/shards
TRAIN := $(SHARDS)/train
EVAL := $(SHARDS)/eval
NEEDED := $(TRAIN)/index/meta.json $(EVAL)/index/meta.json
EPOCHS ?= 6
AVERAGED ?= 5 6
SETTINGS := $(SMALLER) --features.num-frames 128 --epochs $(EPOCHS)
endif
RUN := runs/$(NAME)

demo: $(ENVIRONMENT) $(NEEDED)
	$(PYTHON) -m torch.distributed.run --standalone --nproc-per-node $(PROCESSES) train/main.py demo --index $(TRAIN) --eval-index $(EVAL) --run-dir $(RUN) $(SETTINGS) --resume
	$(if $(AVERAGED),$(PYTHON) -m eval.average $(RUN) --epochs $(AVERAGED) --output $(RUN)/average.pt --overwrite)
	$(PYTHON) -m eval.predict $(RUN)$(if $(AVERAGED),/average.pt) --index $(EVAL) --output $(RUN)/scores.npz --overwrite
	$(PYTHON) -m eval.score $(RUN)/scores.npz --output $(RUN) --run $(RUN) --overwrite

data/demo/corpus/%/segments.csv: | $(ENVIRONMENT)
	rm -rf data/demo/corpus/$*
	$(PYTHON) -m sharding.synthesize data/demo/corpus/$* --clips $(if $(filter train,$*),1000,300) --seed $(if $(filter train,$*),0,1) --clip-s 2.5

data/demo/shards/%/index/meta.json: data/demo/corpus/%/segments.csv | $(ENVIRONMENT)
	$(PYTHON) -m sharding.build audioset --segments data/demo/corpus/$*/segments.csv --audio-root data/demo/corpus/$*/audio --class-labels data/demo/corpus/$*/class_labels_indices.csv --output data/demo/shards/$* --clips-per-shard 250
	$(PYTHON) -m sharding.check data/demo/shards/$*

.SECONDARY:

ifdef DATA
$(SHARDS)/index/meta.json: | $(ENVIRONMENT)
	$(PYTHON) -m sharding.build $(if $(wildcard $(DATA:/=)/.),folder,manifest) '$(DATA)' $(if $(CLASS_LABELS),--class-labels '$(CLASS_LABELS)') --output $(SHARDS) --clips-per-shard 250 --eval-share 0.2
	$(PYTHON) -m sharding.info $(SHARDS)
endif

clean:
	rm -rf data/demo runs/demo build *.egg-info
