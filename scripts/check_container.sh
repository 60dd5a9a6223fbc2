#!/usr/bin/env bash
# Builds both container targets and trains in one of them on a machine without a container daemon.
#
#   sudo scripts/check_container.sh [base] [cpu] [run] [cuda] [doctor]      (all of them by default, in this order)
#
# base    a base image made by debootstrap, since no registry of images is asked for anything
# cpu     the CPU target, on that base
# run     in it: `train digits_mlp`, then `evaluate`; as uid 1000, with a read-only root file system, without a network
# cuda    the CUDA target, on the same base (several gigabytes)
# doctor  in it, without a GPU: names what is missing
#
# Needs root, Debian or Ubuntu, and a pip that reaches a package index. What is made stays in $CACHE (default:
# /tmp/gpubackprop-container), so that a step can be repeated alone; `rm -rf` it to start afresh. $SUITE (bookworm) and
# $MIRROR (the one that apt uses) choose the base. Where buildah cannot mount an overlay, set STORAGE_DRIVER=vfs (slower,
# a full copy of the file system for each layer).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${CACHE:-/tmp/gpubackprop-container}
suite=${SUITE:-bookworm}
base=localhost/gpubackprop-base:$suite
export BUILDAH_ISOLATION=chroot # the isolation that works without a daemon, inside a container too
# buildah reads $STORAGE_DRIVER only where it is not told where the storage lies.
storage=(--root "$cache/storage" --runroot "$cache/run" ${STORAGE_DRIVER:+--storage-driver "$STORAGE_DRIVER"})

require() {
    [ "$(id -u)" = 0 ] || { echo "run this as root: mounting a read-only root file system needs it" >&2; exit 1; }
    local missing=()
    for tool in buildah debootstrap; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing with apt-get: ${missing[*]}"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

buildah() { command buildah "${storage[@]}" "$@"; }

base() {
    if buildah inspect --type image "$base" >/dev/null 2>&1; then echo "$base is there already"; return; fi
    local mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 2>/dev/null | head -1)}
    if [ ! -e "$cache/rootfs.done" ]; then # a bootstrap that was cut short cannot be continued
        rm -rf "$cache/rootfs"
        debootstrap --variant=minbase --include=ca-certificates,libgomp1,python3,python3-pip,python3-venv \
            "$suite" "$cache/rootfs" "${mirror:-http://deb.debian.org/debian}" >"$cache/debootstrap.log" ||
            { tail "$cache/debootstrap.log" >&2; return 1; }
        rm -rf "$cache"/rootfs/var/cache/apt/archives/*.deb "$cache"/rootfs/var/lib/apt/lists/*
        touch "$cache/rootfs.done"
    fi
    local container
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$cache/rootfs" / >/dev/null
    buildah commit --quiet --rm "$container" "$base"
}

# pip inside the build uses the index of pip outside: its settings, merged into one file, and the files and folders that
# they name are mounted while the build runs. Nothing of it stays in an image.
pip_mounts() {
    python3 - "$cache/pip.conf" <<'PYTHON'
import ast, os, re, subprocess, sys

listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
settings = {}
for line in listing.stdout.splitlines():
    key, _, value = line.partition("=")
    scope, _, name = key.rpartition(".")
    if scope in ("global", ":env:"):  # sorted by pip: the environment, which wins, comes first
        settings.setdefault(name, ast.literal_eval(value).split())
paths = {re.sub("^file://", "", word) for words in settings.values() for word in words}
paths = {path.removesuffix("/simple") for path in paths if path.startswith("/") and os.path.exists(path)}
with open(sys.argv[1], "w") as file:
    file.write("[global]\n" + "".join(f"{name} = {chr(10).join(words)}\n".replace("\n", "\n    ").rstrip(" ")
                                      for name, words in settings.items()))
for path in sorted(paths):
    print(f"--volume={path}:{path}:ro")
print(f"--volume={sys.argv[1]}:/etc/pip.conf:ro")
PYTHON
}

build() {
    local target=$1 mounts
    mapfile -t mounts < <(pip_mounts)
    buildah build "${mounts[@]}" --layers --target "$target" --tag "localhost/gpubackprop:$target" \
        --build-arg CPU_BASE="$base" --build-arg CUDA_BASE="$base" "$root"
    local container mounted
    container=$(buildah from "localhost/gpubackprop:$target")
    mounted=$(buildah mount "$container")
    du -sh "$mounted" "$mounted/opt/gpubackprop" | sed "s#$mounted#$target: /#"
    [ ! -s "$mounted/etc/pip.conf" ] || { echo "pip's configuration was left in the image" >&2; return 1; }
    buildah rm "$container" >/dev/null
}

# The image's own entry point, environment, user and working directory, on a root file system mounted read-only, with
# /runs from outside, a fresh /tmp, and no network. (`buildah run` knows no --read-only.)
run_in() {
    local image=localhost/gpubackprop:$1 container mounted status=0
    shift
    container=$(buildah from "$image")
    mounted=$(buildah mount "$container")
    mkdir -p "$cache/runs" && chown 1000:1000 "$cache/runs"
    local user environment entry
    user=$(buildah inspect --type image --format '{{.OCIv1.Config.User}}' "$image")
    environment=$(buildah inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$image")
    entry=$(buildah inspect --type image --format '{{index .OCIv1.Config.Entrypoint 0}}' "$image")
    mapfile -t environment <<<"$environment"
    echo "\$ $entry $*"
    unshare --mount --pid --net --ipc --fork bash -euc '
        mounted=$1 runs=$2 user=$3; shift 3
        mount --bind "$mounted" "$mounted"
        mount --bind "$runs" "$mounted/runs"
        mount -t tmpfs -o mode=1777 tmpfs "$mounted/tmp"
        mount -t proc proc "$mounted/proc"
        mount -t tmpfs -o mode=755 tmpfs "$mounted/dev"
        for device in null zero random urandom; do
            touch "$mounted/dev/$device" && mount --bind "/dev/$device" "$mounted/dev/$device"
        done
        mkdir -m 1777 "$mounted/dev/shm" && mount -t tmpfs tmpfs "$mounted/dev/shm"
        mount -o remount,bind,ro "$mounted"
        if touch "$mounted/written" 2>/dev/null; then echo "the root file system is not read-only" >&2; exit 1; fi
        exec chroot --userspec="$user" "$mounted" /usr/bin/env -i "$@"
    ' bash "$mounted" "$cache/runs" "$user" "${environment[@]}" "$entry" "$@" </dev/null || status=$?
    buildah rm "$container" >/dev/null
    return $status
}

run() {
    rm -rf "$cache/runs"
    run_in cpu train digits_mlp --run-dir runs/check
    local owners
    owners=$(find "$cache/runs/check" -printf '%U\n' | sort -u)
    [ "$owners" = 1000 ] || { echo "the run was not written as uid 1000, but: $owners" >&2; return 1; }
    run_in cpu evaluate runs/check --json
}

cpu() { build cpu; }
cuda() { build cuda; }
doctor() {
    run_in cuda doctor || echo "doctor: exit code $?"
    local status=0
    rm -rf "$cache/runs/none"
    run_in cuda train digits_mlp --device cuda --run-dir runs/none || status=$?
    echo "train --device cuda: exit code $status"
    [ $status = 4 ] || { echo "expected exit code 4: the device that was asked for is not available" >&2; return 1; }
    [ ! -e "$cache/runs/none" ] || { echo "it left $cache/runs/none behind" >&2; return 1; }
}

require
mkdir -p "$cache"
for step in "${@:-base cpu run cuda doctor}"; do
    for name in $step; do
        case $name in base | cpu | run | cuda | doctor) ;; *) echo "unknown step '$name'; known: base cpu run cuda doctor" >&2; exit 2 ;; esac
        printf '\n== %s\n' "$name"
        start=$SECONDS
        "$name"
        printf '== %s: %d s\n' "$name" $((SECONDS - start))
    done
done
