# Two commands: `make demo` and `make test`. Both build the environment first, from a bare Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# pip's settings are unknown to uv: hand on those that decide where packages are found and whom to trust.
UV_ENV := $(if $(PIP_FIND_LINKS),UV_FIND_LINKS="$(PIP_FIND_LINKS)") $(if $(PIP_CERT),SSL_CERT_FILE="$(PIP_CERT)")
PYTEST_WORKERS ?= 2
# Container images often forbid compiled modules; every worker would then compile what it imports anew, several seconds each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint environment clean chaos bench training training-proof demo-checkpoint

environment: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	$(UV_ENV) $(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/headswap demo --out demo-output

# One thread a process: threads of processes that share a core wait for each other most of the time.
test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The long forms of what `make test` checks in short: kills at random moments, trouble of all kinds, every real clip.
chaos: $(STAMP)
	$(BIN)/python -m pytest tests/chaos tests/integration -m "slow or not slow" --timeout 5400

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Kills training at random moments and compares the weights with those of a run that was not killed.
training: $(STAMP)
	$(BIN)/python -m pytest tests/stages/training tests/flows/test_training.py -m "slow or not slow"

# The recipe of the demo preset on five performers, from nothing, and what came out: hours on one core (docs/training.md).
training-proof: $(STAMP)
	$(BIN)/headswap train --preset demo --data performers:seed=11,people=5 --out training-proof --device cpu --resume
	$(BIN)/python -m benchmarks.learning training-proof/pipeline --data performers:seed=11,people=5 --out training-proof/measured \
		--clips training-proof-clips

# A demo checkpoint: the demo preset on many people, measured on people that it has never seen. For a machine with a GPU.
demo-checkpoint: $(STAMP)
	$(BIN)/headswap train --preset demo --recipe demo-many --data performers:seed=21,people=200,performances=4,frames=24 \
		--out demo-checkpoint --resume
	$(BIN)/python -m benchmarks.learning demo-checkpoint/pipeline --recipe demo-many --data performers:seed=22,people=8 \
		--unseen --out demo-checkpoint/measured

clean:
	rm -rf $(VENV) demo-output build *.egg-info
