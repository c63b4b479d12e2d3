# Sourced by the launch scripts: goes to the project's root and prepares a virtual environment in
# .venv there with the given requirements files; pip runs only when one of them has changed. Needs
# Python 3.11 or newer, with pip. Set PYTHON to choose an interpreter.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || return

prepare() { # prepare REQUIREMENTS_FILE...
  local python=${PYTHON:-} candidate file arguments=() missing=()
  if [ -z "$python" ]; then
    for candidate in python3 python3.13 python3.12 python3.11; do
      if command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$candidate
        break
      fi
    done
  fi
  if [ -z "$python" ]; then
    echo "error: no Python 3.11 or newer found, install one or set PYTHON=/path/to/python" >&2
    return 2
  fi
  # A copy of each installed requirements file stands in .venv, as a stamp.
  for file in "$@"; do
    cmp -s "$file" ".venv/installed/$file" || missing+=("$file")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "preparing .venv" >&2
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear .venv || return 2
  fi
  for file in "$@"; do arguments+=(-r "$file"); done
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
  for file in "$@"; do
    mkdir -p ".venv/installed/$(dirname "$file")"
    cp "$file" ".venv/installed/$file"
  done
}
