# make demo   sets up .venv and runs the main job: one table, one picture, real data
# make test   sets up .venv with the test extra, then lint, format check, the order of imports, types, and tests
PYTHON ?= python3

.PHONY: demo test clean

.venv/ready: requirements.txt setup.cfg
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fft needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.txt
	.venv/bin/pip install --quiet --no-deps --editable .
	touch $@

.venv/ready-to-test: .venv/ready
	.venv/bin/pip install --quiet --constraint requirements.txt --editable '.[test]'
	touch $@

demo: .venv/ready
	.venv/bin/fft demo

test: .venv/ready-to-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache
	.venv/bin/basedpyright --pythonpath .venv/bin/python
	.venv/bin/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf .venv runs
