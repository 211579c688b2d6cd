# Two commands do all the set-up: make quickstart, make test. Both may be repeated.
PYTHON ?= python3
BIN := .venv/bin
STORE ?= lmwright-store
# pip compiles on one core, which was half of the installation; so it is done after it, on all.
# (Some packages have templates among their files that no compiler takes.)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv src || true

.PHONY: quickstart test test-long lint env env-test env-long bench clean

quickstart: env
	$(BIN)/lmwright plan recipes/quickstart.yaml --store $(STORE)
	$(BIN)/lmwright run recipes/quickstart.yaml --store $(STORE)
	$(BIN)/lmwright replay recipes/quickstart.yaml --test-set imdb --store $(STORE)
	$(BIN)/lmwright report reviews@production --store $(STORE) --out report.html
	@echo
	@echo "The report is report.html. Talk to the model:"
	@echo "  $(BIN)/lmwright serve reviews@production --store $(STORE)"
	@echo "  curl -s http://127.0.0.1:8000/v1/classify -H 'Content-Type: application/json' -d '{\"input\": \"A joy from start to end.\"}'"
	@echo "  or open http://127.0.0.1:8000 in a browser"

test: env-test
	$(BIN)/python tests/run.py

test-long: env-long
	$(BIN)/python tests/run.py --long

lint: env-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

bench: env-test
	for claim in finetune forward serving quality; do $(BIN)/python -m benchmarks.$$claim || exit 1; done

env: .venv/ready
env-test: .venv/ready-test
env-long: .venv/ready-long

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt -e ".[serve]"
	$(COMPILE)
	touch $@

.venv/ready-test: .venv/ready
	$(PIP) -c constraints.txt -e ".[serve,eval,onnx,hf,postgres,test,lint]"
	$(COMPILE)
	touch $@

.venv/ready-long: .venv/ready-test
	$(PIP) -c constraints.txt -e ".[s3,test-long]"
	$(COMPILE)
	touch $@

clean:
	rm -rf .venv build dist
