#!/bin/sh
# librouter as a stranger meets it: its names, what it needs, and a program of one header and one library.
# usage: tests/check_librouter.sh BUILD_DIR CC CXX
cd "$(dirname "$0")/.." || exit 2
build=$1 cc=$2 cxx=$3 bad=0
say() {
    echo "$1"
    bad=1
}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT

# 1. Both forms show router_... and nothing else.
nm -D --defined-only "$build/librouter.so" | awk '{ print $NF }' | LC_ALL=C sort >"$work/so"
nm -g --defined-only "$build/librouter.a" | awk 'NF == 3 { print $3 }' | LC_ALL=C sort >"$work/a"
grep -v '^router_' "$work/so" "$work/a" && say "librouter shows names that are not its own"
cmp "$work/so" "$work/a" || say "librouter.so and librouter.a show different names"
sed -n 's/.*[ *]\(router_[a-z_]*\)(.*/\1/p' export/librouter.h | grep -v '^ *\*' | LC_ALL=C sort -u >"$work/h"
while read -r name; do grep -qx "$name" "$work/h" || say "$name is in librouter but not in export/librouter.h"; done <"$work/so"
[ -s "$work/so" ] || say "librouter.so shows no functions"

# 2. It needs sentencepiece, zstd and what every C and C++ program needs.
readelf -d "$build/librouter.so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -vE '^(libsentencepiece|libzstd|libstdc\+\+|libgcc_s|libm|libc|ld-linux.*)\.so' && say "librouter.so needs more than it should"
readelf -d "$build/librouter.so" | grep -q 'SONAME.*librouter\.so\.1' || say "librouter.so: expected the soname librouter.so.1"

# 3. A strict C and a C++ program with names of their own, by the header alone.
cp export/librouter.h "$work/"
cat >"$work/user.c" <<'END'
#include "librouter.h"
#include <stdio.h>
int err_set(void);
int err_set(void) { return 7; } /* a name that is also one of ours, inside */
int main(void) {
    printf("librouter %s\n", router_version());
    return err_set() == 7 ? 0 : 1;
}
END
cp "$work/user.c" "$work/user.cpp"
static="-lsentencepiece -lzstd -lstdc++ -lm -pthread"
"$cc" -std=c11 -Wall -Wextra -Wpedantic -Wstrict-prototypes -Werror "$work/user.c" -o "$work/c_shared" "$build/librouter.so" ||
    say "a C program does not link librouter.so"
# shellcheck disable=SC2086
"$cc" -std=c11 "$work/user.c" -o "$work/c_static" "$build/librouter.a" $static || say "a C program does not link librouter.a"
"$cxx" -Wall -Wextra -Wpedantic -Werror "$work/user.cpp" -o "$work/cpp_shared" "$build/librouter.so" ||
    say "a C++ program does not link librouter.so"
for program in c_shared c_static cpp_shared; do
    LD_LIBRARY_PATH=$build "$work/$program" || say "$program does not run"
done

# 4. What is installed is found by pkg-config.
cmake --install "$build" --prefix "$work/installed" >"$work/log" 2>&1 || say "cmake --install failed: $(tail -n 3 "$work/log")"
for file in bin/router include/librouter.h; do [ -e "$work/installed/$file" ] || say "$file is not installed"; done
pc=$(find "$work/installed" -name librouter.pc)
[ -n "$pc" ] || say "librouter.pc is not installed"
[ $bad -ne 0 ] || echo "librouter: $(wc -l <"$work/so") functions"
exit $bad
