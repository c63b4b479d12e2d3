#!/usr/bin/env bash
# Prepares .venv and runs the main job. Arguments are passed on; --config=... replaces the default:
#   bash launch/local.sh
#   bash launch/local.sh --config=configs/sweep.py:smoke --workdir=/tmp/smoke
# It works in the project's root: relative paths count from there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
prepare requirements.txt

default=--config=configs/sweep.py
for argument in "$@"; do
  case $argument in
  --config | --config=* | -config | -config=*) default= ;;
  esac
done
exec .venv/bin/python -m lr_order_jax.main ${default:+"$default"} "$@"
