#!/bin/sh
# clang-tidy 14 with the checks of .clang-tidy finds nothing. usage: tests/check_tidy.sh BUILD_DIR [FILE...]
cd "$(dirname "$0")/.." || exit 2
build=$1
shift
if command -v clang-tidy-14 >/dev/null; then
    tool=clang-tidy-14
elif clang-tidy --version 2>/dev/null | grep -q 'version 14\.'; then
    tool=clang-tidy
else
    echo "skipped: clang-tidy 14 is not installed (other versions have other checks)"
    exit 77
fi
if [ ! -f "$build/compile_commands.json" ]; then
    echo "$build/compile_commands.json is missing"
    exit 1
fi
# model/kernels.c is left to the compilers' warnings: it is one file of vector extensions, three times in the list.
# export/int8_neon.c is for another processor. model/ops_torch.cpp takes minutes, for the headers that it includes, and is
# not in the list where there is no libtorch: tests/check_tidy.sh BUILD_DIR model/ops_torch.cpp looks at it.
if [ $# -eq 0 ]; then
    set -- $(find core tokenizer model data train export eval router.c \
        \( -name '*.c' -o -name '*.cpp' \) ! -name kernels.c ! -name int8_neon.c ! -name ops_torch.cpp)
fi
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
sed 's/ -fno-gnu-unique//' "$build/compile_commands.json" >"$work/compile_commands.json" # gcc's; clang stops at it
printf '%s\n' "$@" | xargs -P "$(nproc)" -n 4 $tool --quiet -p "$work" --extra-arg=-Wno-unknown-warning-option \
    >"$work/out" 2>/dev/null
status=$?
cat "$work/out"
if [ $status -ne 0 ] || grep -qE '(warning|error): ' "$work/out"; then
    echo "clang-tidy found something in $# files"
    exit 1
fi
echo "clang-tidy: $# files, nothing found"
