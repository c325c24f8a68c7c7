#!/bin/sh
# Checks and measures the CUDA backend on this machine's GPU: builds, compares every operation and whole models with the
# reference, and measures `router bench --backend cuda` beside PyTorch. usage: tests/bench/gpu.sh
#   [--build DIR]   a finished build (default: build/release; without a router there, the checks alone are built, which
#                   needs CMake and CUDA and nothing else)
#   [--checks]      no measurements      [--bench]  no checks
#   [--sanitize]    compute-sanitizer: memcheck, racecheck, initcheck, on a short run
# PyTorch and transformers are those of `python3`, or of $ROUTER_PEERS/bin/python (peers.sh makes that folder).
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 2
build=$root/build/release checks=yes bench=yes sanitize=''
while [ $# -gt 0 ]; do
    case $1 in
        --build)
            if [ $# -lt 2 ]; then echo "gpu.sh: --build: expected a folder" >&2; exit 2; fi
            build=$2
            shift
            ;;
        --checks) bench='' ;;
        --bench) checks='' ;;
        --sanitize) sanitize=yes ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "gpu.sh: unknown option $1" >&2; sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
if ! command -v nvidia-smi >/dev/null; then
    echo "skipped: there is no NVIDIA driver on this machine (no nvidia-smi)"
    exit 77
fi
nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap --format=csv,noheader || exit 77
failed=0
run() {
    start=$(date +%s)
    "$@" >"$log" 2>&1
    rc=$?
    tail -n 3 "$log"
    [ $rc -eq 0 ] || { failed=1; head -n 30 "$log"; }
    echo "== $* : exit $rc, $(($(date +%s) - start)) s"
}
log=$(mktemp) || exit 2
trap 'rm -f "$log"' EXIT
if [ ! -x "$build/router" ]; then
    build=$root/build/gpu
    cmake -S "$root" -B "$build" -D ROUTER_GPU_CHECK=ON && cmake --build "$build" --parallel --target gpu_check || exit 1
fi
tests=$build/tests
export ROUTER_MODULES=$build
shared=${ROUTER_SHARED:-$root/../shared}
if [ -n "$checks" ]; then
    for precision in fp32 tf32 bf16; do
        run "$tests/test_ops" --backend cuda --precision $precision
        run "$tests/test_backend" --backend cuda --precision $precision
    done
    if [ -x "$tests/golden_check" ] && [ -d "$shared/golden" ]; then
        for precision in fp32 bf16; do
            for folder in "$shared"/golden/*/; do run "$tests/golden_check" --backend cuda --precision $precision "$folder"; done
        done
    fi
fi
if [ -n "$sanitize" ]; then
    for tool in memcheck initcheck racecheck; do # the last takes more than minutes: cuBLASLt's kernels are looked at, too
        TEST_SEED=3 run compute-sanitizer --tool $tool --error-exitcode 9 "$tests/test_backend" --backend cuda --precision bf16 \
            --cases 1
    done
fi
if [ -n "$bench" ] && [ -x "$build/router" ]; then
    for tokens in 64 128; do
        "$build/router" bench --backend cuda --size large --only train --rows 32 --tokens $tokens --steps 10 --micro_batch_tokens 16384
    done
    "$build/router" bench --backend cuda --size large --only ops
    python=python3
    [ -x "${ROUTER_PEERS:-/nowhere}/bin/python" ] && python=$ROUTER_PEERS/bin/python
    "$python" "$root/tests/bench/gpu_peers.py" --router "$build/router" || failed=1
fi
exit $failed
