# `make run` and `make test` set up what they need; nothing has to be installed by hand but make itself.
# The system's Python where there is one: an interpreter below somebody's home serves nobody else.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TESTED := debian-packages.txt debian-packages-test.txt
IMAGE  ?= centos7-minimal

.PHONY: run test check e2e faults bench clean packages lock

run: $(READY)
	$(BIN)/builder run $(IMAGE) --media rehearsal

test: check
	$(BIN)/pytest -q -n 2 -m process tests/unit
	$(BIN)/pytest -n 2 -m "not vm and not e2e and not slow" tests/adapters tests/pipeline tests/rehearsal tests/host tests/clone tests/faults tests/nightly tests/registry
	$(BIN)/pytest -m "(vm or e2e) and not slow" tests

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n 2 -m "not process" tests/unit

e2e: $(READY)
	$(BIN)/pytest -m "e2e or slow" tests

# Every fault there is a test for, and the table of what became of it.
faults: $(READY)
	$(BIN)/pytest -q -n 2 --dist loadfile -m fault tests

bench: $(READY)
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find builder tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: everything pinned by hash in constraints.txt, then builder itself in place.
$(READY): constraints.txt pyproject.toml | packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Whoever only runs builder needs no browser.
test check e2e faults bench: LISTS := $(TESTED)
bench: LISTS += debian-packages-bench.txt
LISTS ?= debian-packages.txt

packages:
	@missing=$$(sed 's/#.*//' $(LISTS) | xargs -n 1 | while read -r name; do \
		dpkg-query -W -f '$${Status}' "$$name" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$$name"; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
	else \
		echo "Missing packages; run as root: apt-get install --no-install-recommends $$missing" >&2; exit 3; \
	fi

# Written anew after a change of the dependencies in pyproject.toml.
lock:
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet pip-tools
	$(VENV)-lock/bin/pip-compile --quiet --generate-hashes --extra dev --allow-unsafe --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --no-header --strip-extras -o constraints.txt pyproject.toml
	rm -rf $(VENV)-lock
