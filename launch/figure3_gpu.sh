#!/usr/bin/env bash
# Figure 3 as published (WideResNet-16-10, 60 epochs, three arms, one seed) on one GPU, in slices:
# each call runs for at most LIMIT seconds (default 540), saves everything and stops. Call it again
# until it says that all is done; then the figure stands in $WORKDIR/figures.
#   bash launch/figure3_gpu.sh                                  float32 (TF32 products)
#   bash launch/figure3_gpu.sh --config.compute_dtype=bfloat16  faster
# Needs a Python with the package's requirements and JAX for the GPU (PYTHON, default
# .venv/bin/python; there: .venv/bin/python -m pip install 'jax[cuda13]<0.13') and CIFAR-10, of
# which the cache file alone is enough: $XDG_CACHE_HOME/lr_order_jax/cifar10.npz, without TFDS.
# Exit status: 0 when the figure is drawn, 75 when there is more to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
workdir=${WORKDIR:-runs/figure3}

backend=$("$python" -c 'import jax; print(jax.default_backend())')
if [ "$backend" != gpu ]; then
  echo "error: JAX runs on $backend here, not on a GPU" >&2
  exit 2
fi
# Compiled programs are kept for the next slice.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/lr_order_jax/jax}

status=0
timeout --signal=TERM --kill-after=60 "${LIMIT:-540}" "$python" -m lr_order_jax.main \
  --config=configs/patch_cifar.py --config.num_seeds=1 --workdir="$workdir" "$@" || status=$?
case $status in
0) echo "done: $workdir/figures/patch_accuracy.png" ;;
124 | 143)
  echo "not finished: run the same command again"
  exit 75
  ;;
*) exit "$status" ;;
esac
