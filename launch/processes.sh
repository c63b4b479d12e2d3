#!/usr/bin/env bash
# Several processes on this machine that run one program together: to try out what SLURM and TPU
# slices start, or where one process does not keep all cores or devices busy. With .venv prepared
# (launch/local.sh does it), here 2 processes:
#   bash launch/processes.sh 2 --config=configs/sweep.py
# The devices of each, where they are not to share all: JAX_NUM_CPU_DEVICES (of the CPU), or
# GPUS_EACH=1 (process i gets GPU i, and so on).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
count=${1:-}
if ! [[ $count =~ ^[1-9][0-9]*$ ]]; then
  echo "error: name the number of processes first: launch/processes.sh 2 --config=configs/sweep.py" >&2
  exit 2
fi
shift
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then
  echo "error: bash $BASH_VERSION: must be 5.1 or newer" >&2
  exit 2
fi

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=${JAX_COORDINATOR_ADDRESS:-127.0.0.1:$port} JAX_NUM_PROCESSES=$count
declare -A running # process number -> i
set -m # a signal to our group reaches them by the traps alone, once: a second one would kill
trap 'kill -TERM "${!running[@]}" 2>/dev/null || true' TERM # they save themselves, and end
trap 'kill -INT "${!running[@]}" 2>/dev/null || true' INT
for ((i = 0; i < count; i++)); do
  if [ -n "${GPUS_EACH:-}" ]; then
    export JAX_LOCAL_DEVICE_IDS
    JAX_LOCAL_DEVICE_IDS=$(seq -s, $((i * GPUS_EACH)) $(((i + 1) * GPUS_EACH - 1)))
  fi
  JAX_PROCESS_ID=$i "$python" -m lr_order_jax.main "$@" --config.distributed=true &
  running[$!]=$i
done

# Where one has failed the others notice and end, once all have joined; those that wait for it to
# join are not let wait.
status=0 told='' timer=''
while [ ${#running[@]} -gt 0 ]; do
  ended=0 pid=''
  wait -n -p pid "${!running[@]}" ${timer:+"$timer"} || ended=$?
  if [ -z "${pid:-}" ]; then continue; fi # a signal has ended the wait
  if [ "$pid" = "$timer" ]; then
    kill -KILL "${!running[@]}" 2>/dev/null || true
    timer=''
    continue
  fi
  if [ "$ended" != 0 ]; then
    told="$told${told:+, }process ${running[$pid]} with status $ended"
    if [ "$status" = 0 ]; then status=$ended; fi
    if [ -z "$timer" ]; then sleep 45 & timer=$!; fi
  fi
  unset "running[$pid]"
done
if [ -n "$timer" ]; then kill "$timer" 2>/dev/null || true; fi
case $status in
0 | 2 | 130 | 143) ;; # told by the first process
*) echo "error: of $count processes ended $told; the same command continues" >&2 ;;
esac
exit "$status"
