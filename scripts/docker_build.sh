#!/usr/bin/env bash
# Builds the container image: scripts/docker_build.sh [cpu|cuda] [more arguments for `build`]
#
#   scripts/docker_build.sh                                          # gpubackprop:cpu
#   scripts/docker_build.sh cuda                                     # gpubackprop:cuda, CUDA 12 wheels
#   scripts/docker_build.sh cuda --build-arg CUDA_EXTRA=cuda13       # CUDA 13 (driver 580 or newer)
#   scripts/docker_build.sh cpu --build-arg CPU_BASE=python:3.13-slim
set -euo pipefail

target=${1:-cpu}
case $target in
    cpu | cuda) shift $(($# > 0)) ;;
    *) echo "unknown target '$target'; known: cpu, cuda" >&2; exit 2 ;;
esac
container=$(command -v docker || command -v podman) || { echo "neither docker nor podman is installed" >&2; exit 1; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# BuildKit skips the stages that the target does not need; it is the default since Docker 23.
DOCKER_BUILDKIT=1 exec "$container" build --target "$target" --tag "gpubackprop:$target" "$@" .
