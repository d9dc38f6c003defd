.PHONY: check lint format types imports test test-slow

check: lint types imports test

lint:
	ruff check .
	ruff format --check .

format:
	ruff check --fix .
	ruff format .

types:
	mypy

imports:
	lint-imports

test:
	pytest

test-slow:
	pytest -m slow
