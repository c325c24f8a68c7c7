#!/bin/sh
# Builds every fuzz target with clang and runs each for a while. Fails on any crash, leak, hang or sanitizer report.
# usage: tests/fuzz/run.sh [--jobs N] [SECONDS] [NAME...]     (60 seconds, one job per CPU, all targets)
# Logs: build/fuzz/logs/NAME.log; inputs that crash: build/fuzz/found/NAME-*; grown corpora: build/fuzz/corpus/NAME.
set -eu
cd "$(dirname "$0")/../.."
jobs=$(nproc)
if [ "${1-}" = --jobs ]; then
    jobs=$2
    shift 2
fi
seconds=${1-60}
[ $# -eq 0 ] || shift
case $seconds in '' | *[!0-9]*) echo "run.sh: found '$seconds', expected seconds" >&2; exit 2 ;; esac

compiler=
if ! command -v clang-14 >/dev/null; then
    if ! command -v clang >/dev/null; then
        echo "run.sh: clang is missing: apt-get install clang-14 libclang-rt-14-dev" >&2
        exit 2
    fi
    compiler="-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++"
fi
[ -f build/fuzz/CMakeCache.txt ] || ! command -v ninja >/dev/null || export CMAKE_GENERATOR=Ninja
# shellcheck disable=SC2086
cmake --preset fuzz $compiler
cmake --build --preset fuzz --parallel "$jobs"

[ $# -gt 0 ] || set -- $(ls tests/fuzz/fuzz_*.c | sed 's|.*/fuzz_||; s|\.c$||')
mkdir -p build/fuzz/logs build/fuzz/found
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1

fuzz_one() {
    mkdir -p "build/fuzz/corpus/$1"
    seeds=
    [ ! -d "tests/corpus/$1" ] || seeds=tests/corpus/$1
    # shellcheck disable=SC2086
    if "build/fuzz/tests/fuzz/fuzz_$1" -max_total_time="$2" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/found/$1-" "build/fuzz/corpus/$1" $seeds >"build/fuzz/logs/$1.log" 2>&1; then
        status=passed
    else
        status=FAILED
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/logs/$1.log")
    printf '%-12s %-7s %12s runs   build/fuzz/logs/%s.log\n' "$1" $status "${runs:-?}" "$1"
    [ $status = passed ]
}

# A small pool: at most $jobs at once.
failed=0
pids=
running=0
for name; do
    fuzz_one "$name" "$seconds" &
    pids="$pids $!"
    running=$((running + 1))
    if [ $running -ge "$jobs" ]; then
        first=$(echo $pids | cut -d' ' -f1)
        wait "$first" || failed=1
        pids=$(echo $pids | cut -s -d' ' -f2-)
        running=$((running - 1))
    fi
done
for pid in $pids; do wait "$pid" || failed=1; done
if [ $failed -ne 0 ]; then
    echo "fuzzing FOUND something: see build/fuzz/found and the logs"
    exit 1
fi
echo "fuzzing found nothing: $# targets, $seconds s each"
