# `make run` and `make test` set up what they need; nothing has to be installed by hand but make itself.
# The system's Python where it is new enough: an interpreter below somebody's home serves nobody else. Looked for when it
# is needed, for on a bare host it is installed first.
PYTHON ?= $(shell for name in /usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && exit; done; echo python3)
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/pytest
UNIT   := $(PYTEST)
READY  := $(VENV)/.ready
TABLE  := builder/system/packages.txt
IMAGE  ?= centos7-minimal
# An ISO, or a medium made here; where it cannot be made, `builder media rehearsal` writes it elsewhere.
MEDIA  ?= rehearsal

# Where `make hosts` proves it, and what it does there; KEEP=1 leaves the system of one that failed.
SUITES ?= bookworm trixie sid
STEPS  ?= run again check machines

.PHONY: run test coverage uncovered machines check e2e hosts faults bench docs measure wheel clean packages lock

run: $(READY)
	$(BIN)/builder run $(IMAGE) --media $(MEDIA)

# The unit tests of `make check` run with coverage here.
test: UNIT := $(BIN)/coverage run -m pytest
test: uncovered check
	@$(BIN)/coverage combine -q && echo "coverage of builder/ by the unit tests: $$($(BIN)/coverage report --format=total) %"
	$(PYTEST) -q -n 2 -m "process and not vm" tests
	$(PYTEST) -n 2 -m "not unit and not process and not vm and not e2e and not slow" tests
	$(MAKE) machines PYTEST="$(PYTEST)"

# The same with coverage of builder/; `.venv/bin/coverage report -m` says afterwards which lines were not run.
coverage: PYTEST := $(BIN)/coverage run -m pytest
coverage: uncovered test
	$(BIN)/coverage combine -q --append
	@echo "coverage of builder/: $$($(BIN)/coverage report --format=total) %"

uncovered: $(READY)
	$(BIN)/coverage erase

# The tests that boot machines, many of which have one processor.
machines: $(READY)
	$(PYTEST) -n 2 --dist loadfile -m "(vm or e2e) and not slow" tests

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(UNIT) -q -n 2 -m "unit and not process" tests

e2e: $(READY)
	$(BIN)/pytest -m "e2e or slow" tests
	$(MAKE) hosts

# The whole job on bare Debian systems, each in namespaces of its own.
hosts: packages
	$(PYTHON) -m tests.hosts --steps "$(STEPS)" $(if $(KEEP),--keep) $(SUITES)

# Every fault there is a test for, and the table of what became of it.
faults: $(READY)
	$(BIN)/pytest -q -n 2 --dist loadfile -m fault tests

bench: $(READY)
	$(BIN)/python -m tests.bench

# Pages that are made from the code: docs/recipe.md and docs/causes.md.
docs: $(READY)
	$(BIN)/python -m tools.reference

# The figures that the code keeps to; fails while one is over its limit.
measure: $(READY)
	$(BIN)/python -m tools.measure

# dist/builder-*.whl, for hosts without a checkout.
wheel: $(READY)
	$(BIN)/python -m hatchling build -t wheel

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.*
	find builder tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: everything pinned by hash in constraints.txt, then builder itself in place.
$(READY): constraints.txt pyproject.toml | packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Sections of the table of packages; what only tests need is not installed to run builder.
SECTIONS := environment run rehearsal
test uncovered machines check e2e faults bench: SECTIONS += test
bench: SECTIONS += bench

packages:
	@if command -v apt-get >/dev/null; then column=2 install="apt-get install -q -y --no-install-recommends"; \
		installed() { dpkg-query -W -f '$${db:Status-Status}' "$$1" 2>/dev/null | grep -qx installed; }; \
	elif command -v dnf >/dev/null; then column=3 install="dnf install -q -y"; \
		installed() { rpm --query --quiet --whatprovides "$$1"; }; \
	else echo "Neither apt-get nor dnf is here: $(TABLE) says what has to be installed" >&2; exit 0; fi; \
	missing=$$(awk -v sections=" $(SECTIONS) " -v column=$$column \
		'!/^#/ && NF && index(sections, " " $$1 " ") && $$column != "-" {print $$column}' $(TABLE) | \
		while read -r name; do installed "$$name" </dev/null || printf ' %s' "$$name"; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "Missing packages; run as root: $$install$$missing" >&2; exit 3; fi; \
	if [ $$column = 2 ]; then apt-get update -q; fi && DEBIAN_FRONTEND=noninteractive $$install$$missing

# Written anew after a change of the dependencies in pyproject.toml.
lock:
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet pip-tools
	$(VENV)-lock/bin/pip-compile --quiet --generate-hashes --extra dev --allow-unsafe --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --no-header --strip-extras -o constraints.txt pyproject.toml
	rm -rf $(VENV)-lock
