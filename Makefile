# The checkout is the package, under whatever name its folder has. Tools that want to import
# `nnfactory` by name get it as a link in a temporary folder.
LINKED = folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	ln -s "$(CURDIR)" "$$folder/nnfactory" && cd "$$folder" &&

.PHONY: check lint types imports format test test-slow coverage

check: lint types imports

lint:
	ruff check .
	ruff format --check .

types:
	@$(LINKED) mypy --config-file "$(CURDIR)/pyproject.toml" --cache-dir "$(CURDIR)/.mypy_cache" -p nnfactory

imports:
	@$(LINKED) lint-imports --config "$(CURDIR)/setup.cfg" --cache-dir "$(CURDIR)/.import_linter_cache"

format:
	ruff check --fix .
	ruff format .

test:
	pytest

test-slow:
	pytest -m "slow and not gpu and not device and not network"

coverage:
	pytest --cov=nnfactory.factory --cov-branch --cov-report=term-missing --cov-fail-under=90
