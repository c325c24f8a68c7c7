#!/bin/sh
# Every source file is as clang-format 14 writes it. usage: tests/check_format.sh [--fix]
cd "$(dirname "$0")/.." || exit 2
if command -v clang-format-14 >/dev/null; then
    tool=clang-format-14
elif clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    tool=clang-format
else
    echo "skipped: clang-format 14 is not installed (other versions format differently)"
    exit 77
fi
files=$(find core tokenizer model data train export eval tests router.c -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu')
if [ "${1-}" = --fix ]; then
    # shellcheck disable=SC2086
    exec $tool -i $files
fi
# shellcheck disable=SC2086
bad=$($tool --dry-run -Werror $files 2>&1 | sed -n 's/^\([^: ]*\):[0-9].*/\1/p' | sort -u)
if [ -n "$bad" ]; then
    printf '%s: not formatted; tests/check_format.sh --fix does it\n' $bad
    exit 1
fi
echo "formatted: $(echo "$files" | wc -l) files"
