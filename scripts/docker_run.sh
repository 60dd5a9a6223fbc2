#!/usr/bin/env bash
# Runs gpubackprop in its container: scripts/docker_run.sh [cpu|cuda] COMMAND [ARGUMENTS]
#
#   scripts/docker_run.sh train digits_mlp                     # the embedded digits config, on the CPU
#   scripts/docker_run.sh cuda train /configs/mine.yaml        # on the GPU
#   scripts/docker_run.sh evaluate runs/digits-mlp/20260131-120000
#
# ./runs, ./data and ./configs (or $RUNS, $DATA, $CONFIGS) are mounted as /runs, /data and /configs; all but the runs
# read-only, as is the image itself. What is written belongs to the caller.
set -euo pipefail

target=cpu
case ${1:-} in cpu | cuda) target=$1; shift ;; esac
runs=$(realpath -m "${RUNS:-runs}") data=$(realpath -m "${DATA:-data}") configs=$(realpath -m "${CONFIGS:-configs}")
container=$(command -v docker || command -v podman) || { echo "neither docker nor podman is installed" >&2; exit 1; }
mkdir -p "$runs"

options=(--rm --init --read-only --tmpfs "/tmp:exec,mode=1777" --user "$(id -u):$(id -g)" --volume "$runs:/runs")
[ ! -d "$data" ] || options+=(--volume "$data:/data:ro")
[ ! -d "$configs" ] || options+=(--volume "$configs:/configs:ro")
# Rootless podman maps the caller to another user inside unless told otherwise.
[ "$(basename "$container")" != podman ] || options+=(--userns keep-id)
# Compiled kernels outlive the container, beside the runs.
options+=(--env GPUBACKPROP_CACHE=/runs/.cache)
[ "$target" = cpu ] || options+=(--gpus all --env CUPY_CACHE_DIR=/runs/.cache/cupy)
[ ! -t 0 ] || [ ! -t 1 ] || options+=(--interactive --tty)
exec "$container" run "${options[@]}" "gpubackprop:$target" "$@"
