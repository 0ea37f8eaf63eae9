# One interface for people and CI. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help env lock data reproduce demo reproduce-all robust dashboard test test-slow lint bench reference clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
BIN := .venv/bin
RUN := $(BIN)/python
# Extra overrides for every training of reproduce and demo, e.g. make demo ARGS="seed=1".
ARGS ?=

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

env: .venv/.installed ## make .venv with the locked packages

.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "Python 3.11 is needed: install it, or name one with make env PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(RUN) --require-hashes -r requirements.lock
	@touch $@

lock: ## resolve requirements.in again into requirements.lock
	$(BIN)/uv pip compile requirements.in --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock

data: env ## fetch and check MNIST
	PYTHONPATH=src $(RUN) -c "from funn.config.compose import ROOT; from funn.data.mnist import MNIST; MNIST(ROOT / 'data').load()"

# Two commands at a time, each on its share of the processors: two small networks side by side use
# two cores better than one network does. The longest come first; -m runs what a line lists in turn.
OUT := outputs
SHORT :=
IMAGES := null
FEWER := 1000
SHARE := OMP_NUM_THREADS=$(shell expr \( $$(nproc) + 1 \) / 2)
PAIRS = xargs -P 2 -L 1 env $(SHARE) $(RUN)
TRAIN = $(PAIRS) src/train.py -m $(SHORT) $(ARGS)
EVALUATE = $(PAIRS) src/evaluate.py -m
LATEST = $(OUT)/latest
each = printf '%s\n'

# A sweep's values from a list: a b -> a,b
comma := ,
sweep = $(subst $() ,$(comma),$(strip $(1)))
latest = $(call sweep,$(addprefix $(LATEST)/,$(1)))

# MagNet's training is cut here: 10 of the 50 epochs of its paper, and 20 of 100. That makes it easier
# to fool; reproduce-all trains it whole.
OWN := 10
GUARD := 20
GUARDED = defense.stages.classifier.epochs=$(GUARD)
MAGNETS := magnet magnet_classic
MAGNET = "defense=magnet defense.stages.base.epochs=$(OWN) $(GUARDED)"
define tables
$(each) $(MAGNET) defense=funn defense=funn_printed,classic "defense=magnet_classic $(GUARDED)" | $(TRAIN)
$(each) "run=$(LATEST)/funn suite=table1 images=$(IMAGES)" \
  "run=$(LATEST)/classic suite=table1 images=$(IMAGES)" \
  "run=$(call latest,$(MAGNETS)) source=null,bare suite=table2 images=$(FEWER)" \
  "run=$(call latest,$(MAGNETS)) suite=detector_aware images=$(FEWER)" \
  "run=$(LATEST)/funn_printed suite=table1 images=$(FEWER)" \
  "run=$(call latest,funn_printed funn) source=null,$(LATEST)/classic suite=table2 images=$(FEWER)" \
  "run=$(LATEST)/classic suite=table2 images=$(FEWER)" | $(EVALUATE)
$(RUN) src/report.py
endef

reproduce: env ## train, attack and report every row of the paper's tables (30 to 60 minutes on two cores)
	$(tables)

demo: export FUNN_OUTPUT_DIR = $(CURDIR)/outputs/demo
demo: OUT := outputs/demo
demo: SHORT := experiment=demo
demo: IMAGES := 100
demo: FEWER := 100
demo: GUARD := 1
demo: MAGNETS := magnet_classic
demo: MAGNET :=
demo: env ## the same in under 4 minutes, cut short and without MagNet's own classifier, into outputs/demo
	$(tables)

OTHERS := classic_long funn_minimax adversarial_training adversarial_training_linf denoising classic_tuned
WHOLE := magnet magnet_classic
trained_with = $$(grep -lE '"seed": ($(1)),' $(OUT)/train/*/classifier/result.json | xargs -n 1 dirname | xargs -n 1 dirname | paste -sd,)

# The last training finds all finished: it points outputs/latest at the paper's settings again.
reproduce-all: reproduce ## then every other defence, three seeds and the sweeps (three to four hours more)
	$(each) $(addprefix defense=,$(WHOLE) $(OTHERS) apegan) | $(TRAIN)
	$(each) "run=$(call latest,$(WHOLE) apegan) source=null,bare suite=table2" \
	  "run=$(call latest,$(WHOLE)) suite=detector_aware" \
	  $(foreach name,$(OTHERS),"run=$(LATEST)/$(name) source=null,$(LATEST)/classic suite=table2") | $(EVALUATE)
	$(RUN) src/train.py experiment=seeds $(ARGS)
	$(each) $(foreach seed,1 2,"run=$(call trained_with,$(seed)) suite=table1 images=1000") | $(EVALUATE)
	$(RUN) src/train.py experiment=beta_sweep $(ARGS)
	$(RUN) src/train.py experiment=lr_sweep $(ARGS)
	$(RUN) src/train.py -m defense=funn,classic $(ARGS)
	$(each) $(foreach suite,table2 deepfool_iterations,"run=$(call trained_with,0|1|2) suite=$(suite) images=1000") | $(EVALUATE)
	$(RUN) src/report.py

# Robust features under the strongest attacks, beside the other rows: with the paper's head, then with
# one that has a margin. The last training points outputs/latest of ENCODERS back at the paper's head.
ENCODERS := classic funn funn_pgd
SUPERVISED := defense=adversarial_training model=wide head=margin classifier.margin=0 defense.stages.classifier.eps=2.0
TRANSFER = suite.transfer=$(LATEST)/classic
STRONG = suite=strong $(TRANSFER) suite.cascade.l2.radii=[1.5,2.0] suite.cascade.linf.radii=[0.1]
strong = "run=$(1) $(STRONG)" "run=$(1) attack=deepfool_l2 protocol=foolbox1 images=$(FEWER)"
robust: env ## train features that hold, without labels, and attack them and others (about 90 minutes)
	$(each) defense=funn_pgd "$(SUPERVISED)" defense=denoising defense=classic,funn \
	  "defense=magnet_classic $(GUARDED)" | $(TRAIN)
	$(each) $(foreach name,$(ENCODERS) adversarial_training denoising,$(call strong,$(LATEST)/$(name))) \
	  "run=$(call latest,$(ENCODERS) denoising) suite=features" "run=$(LATEST)/classic suite=masking" \
	  "run=$(call latest,funn funn_pgd magnet_classic) suite=masking $(TRANSFER)" | $(EVALUATE)
	$(each) $(foreach name,$(ENCODERS),"defense=$(name) head=margin") | $(TRAIN)
	$(each) $(foreach name,$(ENCODERS),$(call strong,$(LATEST)/$(name))) \
	  "run=$(LATEST)/funn_pgd suite=masking $(TRANSFER)" | $(EVALUATE)
	$(RUN) src/train.py -m defense=$(call sweep,$(ENCODERS)) $(ARGS)
	$(RUN) src/report.py

test: env ## the fast tests, in two processes
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: env ## kills, several processes, long runs
	$(BIN)/pytest -m slow

lint: env ## style, types, and what each wing may import
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports

bench: env ## speed of training and of the attacks against other code, in one run
	-$(BIN)/uv pip install --quiet --python $(RUN) --no-deps --target outputs/bench/foolbox2 foolbox==2.4.0
	-$(BIN)/uv pip install --quiet --python $(RUN) --no-deps --target outputs/bench/peers \
	  adv-lib==0.2.8 adversarial-robustness-toolbox==1.20.1 pyautoattack==0.2.0 \
	  scikit-learn joblib threadpoolctl six narwhals cloudpickle
	PYTHONPATH=src KINETO_LOG_LEVEL=9 $(RUN) -m benchmarks.training
	PYTHONPATH=src $(RUN) -m benchmarks.attacks $(BENCH_RUN)
	PYTHONPATH=src $(RUN) -m benchmarks.checks $(BENCH_RUN)
	PYTHONPATH=src $(RUN) -m benchmarks.autoattack $(BENCH_RUN)
	PYTHONPATH=src $(RUN) -m benchmarks.size
	PYTHONPATH=src $(RUN) -m benchmarks.plots

reference: env ## keep the report's tables under outputs/reference and in the README (ARGS: only those)
	PYTHONPATH=src $(RUN) -m funn.report.readme $(ARGS)

dashboard: env ## save the W&B dashboard (needs a login; ARGS=--dry-run only prints it)
	@PYTHONPATH=src $(RUN) -m funn.artifacts.dashboard $(ARGS)

clean: ## remove outputs and caches; data and .venv stay
	find outputs -mindepth 1 -maxdepth 1 ! -name .gitignore ! -name reference -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build
