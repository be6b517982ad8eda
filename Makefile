# make demo       set up; raw data -> shards -> a look -> a short training -> answers to held-out questions
# make test       set up; the tests                make test-all     also the slow ones
# make check      format, lint, types              make bench        the benchmarks
# make proof      training runs on real pictures, and what each has learned (hours on two cores)
# make constraints  renew the exact versions in constraints.txt

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRAINS := $(VENV)/.trains
DEMO := .demo
# open_clip needs torchvision, which loads only beside the torch that it was built for; raise both together.
TORCH := torch==2.14.1 torchvision==0.29.2

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all check format bench proof constraints clean

$(TRAINS): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,video]'
	touch $(TRAINS)

$(READY): $(TRAINS)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $(READY)

demo: $(TRAINS)
	$(BIN)/python -m tools.demo --folder $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow and not gpu'

test-all: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal --hypothesis-profile thorough

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	@for script in tools/bench_*.py; do $(BIN)/python -m tools.$$(basename $$script .py); done

proof: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev,proof]'
	$(BIN)/python -m tools.proof.easy_vqa --folder .proof/easy-vqa
	$(BIN)/python -m tools.proof.captions --folder .proof/captions
	$(BIN)/python -m tools.proof.binding --folder .proof/binding
	$(BIN)/python -m tools.proof.ceilings --folder .proof/binding
	$(BIN)/python -m tools.proof.examples --folder .proof/binding --out .proof/binding.png
	$(BIN)/python -m tools.proof.curves --out .proof/learning.svg

constraints:
	rm -rf $(VENV)-new
	$(PYTHON) -m venv $(VENV)-new
	$(VENV)-new/bin/pip install --quiet '.[train,dev]' $(TORCH)
	(echo '# Exact versions that are tested together; made by make constraints.'; \
	 $(VENV)-new/bin/pip freeze --exclude mimicit --exclude pip --exclude setuptools) > constraints.txt
	rm -rf $(VENV)-new

clean:
	rm -rf $(VENV) $(VENV)-new $(DEMO) .proof dist build
