#!/bin/sh
# The model's numbers against those of the published implementation. usage: tests/golden.sh GOLDEN_CHECK [OPTION...]
# Folders: $ROUTER_SHARED/golden/*/ and tests/golden/*/ with an expected.safetensors.
cd "$(dirname "$0")/.." || exit 2
check=$1
shift
for dir in tests/golden/*/ "${ROUTER_SHARED:-../shared}"/golden/*/; do
    if [ -f "$dir/expected.safetensors" ]; then
        set -- "$@" "${dir%/}"
        found=yes
    fi
done
if [ -z "${found-}" ]; then
    echo "skipped: ${ROUTER_SHARED:-../shared}/golden is not there; ROUTER_SHARED names another folder"
    exit 77
fi
exec "$check" "$@"
