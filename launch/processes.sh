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
usage='launch/processes.sh 2 --config=configs/sweep.py'

refuse() {
  echo "error: $1" >&2
  exit 2
}

if ! [[ $count =~ ^[1-9][0-9]*$ ]]; then refuse "name the number of processes first: $usage"; fi
shift
case " $*" in
*" --config="* | *" -config="* | *" --config "* | *" -config "* | *" --flagfile"*) ;;
*) refuse "--config is missing: $usage" ;;
esac
if ! command -v "$python" >/dev/null; then
  refuse "PYTHON=$python: there is no such program; launch/local.sh prepares .venv/bin/python"
fi
if [[ -n ${GPUS_EACH:-} && ! $GPUS_EACH =~ ^[1-9][0-9]*$ ]]; then
  refuse "GPUS_EACH=$GPUS_EACH: must be a whole number from 1"
fi
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then
  refuse "bash $BASH_VERSION: must be 5.1 or newer"
fi

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null) ||
  refuse "PYTHON=$python: is no Python that runs"
export JAX_COORDINATOR_ADDRESS=${JAX_COORDINATOR_ADDRESS:-127.0.0.1:$port} JAX_NUM_PROCESSES=$count
if ! [[ $JAX_COORDINATOR_ADDRESS =~ ^.+:[0-9]+$ ]]; then
  refuse "JAX_COORDINATOR_ADDRESS=$JAX_COORDINATOR_ADDRESS: must be HOST:PORT"
fi
export LR_ORDER_JAX_ONE_COMMAND=1 # what is wrong with it is told by the first process alone
declare -A running # process number -> i
set -m # a signal to our group reaches them by the traps alone, once: a second one would kill
trap 'kill -TERM "${!running[@]}" 2>/dev/null || true' TERM # they save themselves, and end
trap 'kill -INT "${!running[@]}" 2>/dev/null || true' INT
exec {stderr}>&2 2>/dev/null # bash tells each that is killed
for ((i = 0; i < count; i++)); do
  if [ -n "${GPUS_EACH:-}" ]; then
    export JAX_LOCAL_DEVICE_IDS
    JAX_LOCAL_DEVICE_IDS=$(seq -s, $((i * GPUS_EACH)) $(((i + 1) * GPUS_EACH - 1)))
  fi
  JAX_PROCESS_ID=$i "$python" -m lr_order_jax.main "$@" --config.distributed=true 2>&"$stderr" &
  running[$!]=$i
done

# Where one has failed the others notice and end, once all have joined; those that wait for it to
# join are not let wait: after 5 s a line says so, 40 s later they are killed.
status=0 told='' since='' warned='' of_first=0
exec {nothing}<> <(:) # nothing is ever read from it: to sleep until a signal comes
while [ ${#running[@]} -gt 0 ]; do
  read -rt 0.2 -u "$nothing" || true
  for pid in "${!running[@]}"; do # `wait -n` misses one of two that end at once
    if kill -0 "$pid"; then continue; fi
    ended=0
    wait "$pid" || ended=$?
    if [ "$ended" != 0 ]; then
      told="$told${told:+, }process ${running[$pid]} with status $ended"
      # JAX aborts (134) those that wait for one that has failed, which tells why.
      if [ "$status" = 0 ] || [ "$status" = 134 ]; then status=$ended; fi
      if [ "${running[$pid]}" = 0 ]; then of_first=$ended; fi
      since=${since:-$SECONDS}
    fi
    unset "running[$pid]"
  done
  if [ -z "$since" ] || [ ${#running[@]} = 0 ]; then continue; fi
  if [ -z "$warned" ] && ((SECONDS > since + 5)); then
    warned=1
    echo "ended: $told; the others end as they notice, or are killed in 40 s" >&"$stderr"
  elif ((SECONDS > since + 45)); then
    kill -KILL "${!running[@]}" || true
  fi
done
case $status in
0 | 130 | 143) ;; # told by the first process
2) if [ "$of_first" != 2 ]; then echo "error: of $count processes ended $told" >&"$stderr"; fi ;;
*) echo "error: of $count processes ended $told; the same command continues" >&"$stderr" ;;
esac
exit "$status"
