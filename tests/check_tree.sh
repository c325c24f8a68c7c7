#!/bin/sh
# The rules of the tree that a compiler does not check. usage: tests/check_tree.sh [LIBRARY.a]
cd "$(dirname "$0")/.." || exit 2
bad=0
say() {
    printf '%s\n' "$1"
    bad=1
}
files=$(find core tokenizer model data train export eval tests router.c \
    -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu' | LC_ALL=C sort)
library_files=$(echo "$files" | grep -v '^tests/')
[ "$(echo "$files" | wc -l)" -gt 20 ] || say "found hardly any files"

rank() {
    case $1 in
        core) echo 0 ;; tokenizer | model) echo 1 ;; data) echo 2 ;; train | export) echo 3 ;;
        eval) echo 4 ;; router.c) echo 5 ;; tests) echo 6 ;; *) echo 9 ;;
    esac
}

# 1. An #include points to the same folder or to a folder of lower rank.
for f in $files; do
    from=${f%%/*}
    for to in $(sed -n 's|^ *# *include "\([a-z]*\)/.*|\1|p' "$f" | sort -u); do
        [ "$from" = "$to" ] || [ "$(rank "$to")" -lt "$(rank "$from")" ] || say "$f: $from may not include $to"
    done
    odd=$(grep -nE '^ *# *include "' "$f" | grep -vE 'include "(core|tokenizer|model|data|train|export|eval|tests)/')
    [ -z "$odd" ] || say "$f: includes are written from the root: $odd"
done

# 2. Only router.c ends the process; only it and core/progress.c print. What must not be called at all is not.
forbid() { # what to say, pattern, files that may; a comment may name anything
    # shellcheck disable=SC2086
    found=$(grep -nE "$2" $library_files | grep -vE '^[^:]*:[0-9]+: *(/\*|\* )')
    for f in $3; do found=$(printf '%s' "$found" | grep -v "^$f:"); done
    [ -z "$found" ] || say "$1: $found"
}
forbid 'ends the process' '\b(exit|_exit|_Exit|abort|quick_exit)[[:space:]]*\(' 'router.c'
forbid 'prints' '\b(printf|vprintf|puts|putchar|perror|psignal)[[:space:]]*\(|std::c(out|err|log)' 'router.c core/progress.c'
forbid 'prints' '\bv?fprintf[[:space:]]*\([[:space:]]*std(out|err)|\bf?put[cs][[:space:]]*\(.*, *std(out|err)' \
    'router.c core/progress.c'
forbid 'calls what is never safe' \
    '\b(strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atoll|atof|strtok|tmpnam|mktemp|system|popen|alloca)[[:space:]]*\(' ''
forbid 'allocates past core/mem.h' '\b(malloc|calloc|realloc|aligned_alloc|posix_memalign|strdup|strndup)[[:space:]]*\(' \
    'core/mem.c'
# shellcheck disable=SC2086
found=$(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' $files) && say "unfinished: $found"

# 3. No two files share a name, so that a symbol's prefix finds its file.
for n in $(echo "$files" | sed 's|.*/||' | sort | uniq -d); do say "two files are named $n"; done

# 4. Every header says what it is and compiles on its own.
for f in $library_files; do
    case $f in
        *.h)
            # (export/librouter.h is installed, and begins with the library's name)
            head -n 1 "$f" | grep -qE "^/\* (${f}|librouter) - " || say "$f: the first line must be '/* $f - what it is'"
            ${CC:-cc} -std=c11 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Werror -I. -Itests/cuda -fsyntax-only -x c "$f" ||
                say "$f: not self-contained"
            ;;
    esac
done

# 5. Every source file is built: no list in a CMakeLists.txt forgets it.
for f in $files; do
    case $f in
        tests/fuzz/fuzz_*) name=${f#tests/fuzz/fuzz_}; name=" ${name%.c}"; list=tests/fuzz/CMakeLists.txt ;;
        tests/fuzz/*.c) name=${f##*/}; list=tests/fuzz/CMakeLists.txt ;;
        tests/test_*.c)
            name=${f#tests/test_} list=tests/CMakeLists.txt
            name=${name%.c}
            grep -qE "^(foreach\(name|   ).* $name( .*)?\)?\$|router_test\($name |[ (]test_$name\.c" $list || say "$f: not in $list"
            continue
            ;;
        tests/*.c | tests/*.cpp) name=${f#tests/}; list=tests/CMakeLists.txt ;;
        *.c | *.cpp) name=$f; list=CMakeLists.txt ;;
        *) continue ;;
    esac
    grep -qF -- "$name" $list || say "$f: not in $list"
done

# 6. A public function begins with the stem of its file.
if [ -n "${1-}" ]; then
    names=$(nm -A -g --defined-only "$1" | sed -n 's|^[^:]*:\([a-z0-9_]*\)\.c[^:]*:[0-9a-f]* T \(.*\)|\1 \2|p')
    [ -n "$names" ] || say "$1: found no functions"
    wrong=$(echo "$names" | while read -r stem name; do
        # The C interface of librouter is router_...; a file without a header is a part of its namesake's module.
        [ "$stem" != librouter ] || stem=router
        ls ./*/"$stem.h" >/dev/null 2>&1 || stem=${stem%_*}
        case $name in "$stem" | "${stem}_"*) ;; *) echo "$name in $stem.c does not begin with ${stem}_" ;; esac
    done)
    [ -z "$wrong" ] || say "$wrong"
fi
[ $bad -ne 0 ] || echo "the tree keeps its rules"
exit $bad
