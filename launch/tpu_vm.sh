#!/usr/bin/env bash
# One run over all hosts of a Cloud TPU slice, joined by JAX's distributed runtime (detected there).
# Needs the Google Cloud client, logged in to a project with TPU quota; from a clone of the project:
#   bash launch/tpu_vm.sh create                       ask for the slice, in a queue
#   bash launch/tpu_vm.sh run --config=configs/sweep.py
#   bash launch/tpu_vm.sh fetch                        the runs' directories, to ./runs
#   bash launch/tpu_vm.sh delete                       the slice, which costs as long as it is there
# `run` again, with the same arguments, continues. Several hosts need a common directory for the runs:
# SHARE is an NFS share in the slice's network (Filestore), as 10.0.0.2:/runs. Without it the only host
# has the files: fetch them before a slice is deleted, and now and then from one that can be taken away
# (SPOT=1).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${NAME:-lr-order-jax}
zone=${ZONE:-us-west4-a}
accelerator=${ACCELERATOR:-v5litepod-8}
runtime=${RUNTIME:-v2-alpha-tpuv5-lite}
spot=${SPOT:-}
share=${SHARE:-} # unset: the disk of the only host

tpus() { gcloud compute tpus "$@" --zone="$zone"; }

everywhere() { tpus tpu-vm ssh "$name" --worker=all --command="$1"; }

what=${1:-}
shift || true
case $what in
create)
  tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$accelerator" \
    --runtime-version="$runtime" ${spot:+--spot}
  echo "when it is ACTIVE: bash launch/tpu_vm.sh run --config=configs/sweep.py"
  tpus queued-resources describe "$name" --format='value(state.state)'
  ;;
run)
  archive=$(mktemp -d)/lr_order_jax.tar
  trap 'rm -r "$(dirname "$archive")"' EXIT
  git diff --quiet HEAD || echo "note: changes that are not committed are left out" >&2
  git archive --format=tar --output="$archive" HEAD
  tpus tpu-vm scp "$archive" "$name:lr_order_jax.tar" --worker=all
  # The runtime's own Python is older than ours: uv brings one.
  everywhere 'mkdir -p lr_order_jax &&
    find lr_order_jax -mindepth 1 -maxdepth 1 ! -name .venv ! -name runs -exec rm -r {} + && tar -xf lr_order_jax.tar -C lr_order_jax && cd lr_order_jax &&
    python3 -m pip install --quiet --user uv &&
    { [ -d .venv ] || ~/.local/bin/uv venv --quiet --python 3.12 .venv; } &&
    ~/.local/bin/uv pip install --quiet --python .venv/bin/python -r requirements.txt "jax[tpu]"'
  if [ "$share" ]; then
    everywhere "cd lr_order_jax && mkdir -p runs && { mountpoint -q runs || {
      sudo apt-get install -qq -y nfs-common && sudo mount -t nfs $(printf '%q' "$share") runs && sudo chmod 1777 runs; }; }"
  fi
  everywhere "cd lr_order_jax && .venv/bin/python -m lr_order_jax.main$(printf ' %q' "$@" --config.distributed=true)"
  ;;
fetch)
  mkdir -p runs
  tpus tpu-vm scp --recurse "$name:lr_order_jax/runs" . --worker=0
  ;;
delete)
  tpus queued-resources delete "$name" --force
  ;;
*)
  echo "error: ${what:-no argument}: must be create, run, fetch or delete" >&2
  exit 2
  ;;
esac
