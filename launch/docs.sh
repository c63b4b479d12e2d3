#!/usr/bin/env bash
# Builds the API reference into build/docs from the docstrings; a warning is an error.
#   bash launch/docs.sh && open build/docs/index.html
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
prepare requirements.txt tests/requirements.txt
exec .venv/bin/python -m mkdocs build --quiet --strict --config-file launch/docs/mkdocs.yml "$@"
