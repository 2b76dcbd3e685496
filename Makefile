# make setup && make demo: from a fresh clone to a first avatar, on a CPU.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
export GOMP_SPINCOUNT ?= 0

.PHONY: setup demo lint test check golden bench head-model matting

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'Installing into .venv (a few minutes)'
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

demo: setup
	mkdir -p demo
	$(BIN)/flexavatar create "$$($(BIN)/python -m flexavatar_cli.media.samples)" -o demo/grace_hopper.avatar --overwrite

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest -q

check: lint test

golden: setup
	FLEXAVATAR_GOLDEN=write $(BIN)/python -m pytest -q -m golden

bench: setup
	$(BIN)/python benchmarks/report.py $(patsubst %,--driver %,$(DRIVERS))

head-model: setup
	$(BIN)/python -m flexavatar_cli.training.head_model

# DATA = folder of the data packs, SEGMENTER = sinet_portrait_320_softmax.onnx
matting: setup
	$(BIN)/python -m flexavatar_cli.training.matting pack $(DATA) $(SEGMENTER) runs/matting-pack
	$(BIN)/flexavatar train models/matting/train.yaml --data runs/matting-pack -o runs/matting
	$(BIN)/python -m flexavatar_cli.training.matting export models/matting/train.yaml runs/matting-pack runs/matting \
		models/matting/portrait-matting.onnx
	$(BIN)/flexavatar train models/matting/continue.yaml --data runs/matting-pack -o runs/matting-on
	$(BIN)/python -m flexavatar_cli.training.matting export models/matting/continue.yaml runs/matting-pack runs/matting-on \
		models/matting/portrait-matting.onnx
	$(BIN)/python -m flexavatar_cli.training.matting measure runs/matting-pack models/matting/portrait-matting.onnx
