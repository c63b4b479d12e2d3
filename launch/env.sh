# Sourced by the launch scripts: a virtual environment in .venv of the project's root with the given
# requirements files, made anew only when they change. Needs Python 3.11 or newer, with pip.
# Set PYTHON to choose an interpreter.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

prepare() { # prepare REQUIREMENTS_FILE...
  local python=${PYTHON:-} candidate arguments=() stamp=.venv/requirements.stamp wanted
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
  wanted=$(cat "$@")
  if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return 0
  fi
  echo "preparing .venv" >&2
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  for candidate in "$@"; do arguments+=(-r "$candidate"); done
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
  printf '%s\n' "$wanted" >"$stamp"
}
