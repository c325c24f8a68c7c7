#!/bin/sh
# A kernel's fault ends the emulator, by a signal or by the sanitizer that it is built with. usage: tests/emulator_fault.sh
# TEST_EMULATOR FAULT
out=$("$1" "$2" 2>&1)
status=$?
[ $status -gt 128 ] && exit 0
printf '%s\n' "$out" | grep -q 'ERROR: AddressSanitizer' && exit 0
echo "FAILED: exit status $status: $out"
exit 1
