# Shorthand for the README's commands; nothing here that they do not do.
.PHONY: demo test check lint

demo: .venv
	.venv/bin/python train.py --dataset digits --net resnet18 --epochs 10 --bs 128

test: .venv
	.venv/bin/python -m pytest

# The fast loop: lint, types, and the tests that are not slow.
check: lint
	.venv/bin/python -m pytest -m "not slow"

lint: .venv
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

.venv: requirements.txt requirements-dev.txt
	python3 -m venv .venv
	.venv/bin/pip install -r requirements-dev.txt
	touch .venv
