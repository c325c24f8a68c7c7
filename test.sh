#!/bin/sh
# Builds everything and runs every test: the optimised build, then one with AddressSanitizer and UBSan.
# usage: ./test.sh [--no-install] [--quick]
#   --no-install   do not install Debian/Ubuntu packages
#   --quick        the optimised build only
set -u
cd "$(dirname "$0")" || exit 2
. .ci/setup.sh
install=yes presets='release asan'
for arg; do
    case $arg in
        --no-install) install=no ;;
        --quick) presets=release ;;
        -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "test.sh: unknown option $arg; see ./test.sh --help" >&2; exit 2 ;;
    esac
done
if [ $install = yes ]; then
    # shellcheck disable=SC2086
    setup_packages $BUILD_PACKAGES libcmocka-dev -- clang-format-14 clang-tidy-14 || exit $?
fi
setup_generator

jobs=$(nproc)
status=0
for preset in $presets; do
    say "Building: $preset"
    cmake --preset "$preset" || exit 1
    cmake --build --preset "$preset" --parallel "$jobs" || exit 1
    say "Testing: $preset"
    ctest --preset "$preset" --parallel "$jobs" --output-log "build/$preset/ctest.log" || status=1
done
say "Result"
for preset in $presets; do
    sed -n "s/^[0-9]*% tests passed.*/& ($preset)/p" "build/$preset/ctest.log"
done
exit $status
