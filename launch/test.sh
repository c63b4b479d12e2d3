#!/usr/bin/env bash
# Prepares .venv and runs all checks: format, lint, types, tests. With CI set in the environment it
# installs PyTorch too, for the parity test. As many tests run at once as
# there are cores. Arguments go to pytest:
#   bash launch/test.sh                 everything
#   bash launch/test.sh -m 'not slow'   the plain suite
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
prepare requirements.txt tests/requirements.txt ${CI:+tests/requirements-ci.txt}

.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
# Files in their order (see tests/conftest.py): the longest come first, and not alone at the end.
exec .venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
