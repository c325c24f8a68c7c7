#!/bin/sh
# A training on a backend has the losses of one on blas, with dropout. usage: tests/backend_train.sh ROUTER BACKEND STEPS
cd "$(dirname "$0")/.." || exit 2
router=$1 tried=$2 steps=$3
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
awk 'BEGIN {
    split("add divide multiply,fever doctor tablet,compile python loop", words, ",")
    for (i = 0; i < 240; i++) {
        split(words[i % 3 + 1], w, " ")
        printf "{\"text\": \"please %s and %s number %d\", \"label\": \"l%d\"}\n", w[i % 2 + 1], w[i % 5 % 3 + 1], i, i % 3
    } }' >"$work/data.jsonl"
"$router" tokenize --train --input "$work/data.jsonl" --vocab-size 300 --out "$work/spm.model" >"$work/out" 2>&1 ||
    { cat "$work/out"; exit 1; }
for backend in blas "$tried"; do
    "$router" train "$work/data.jsonl" --config configs/tiny.json --tokenizer "$work/spm.model" --out "$work/$backend" \
        --backend "$backend" --max-steps "$steps" --precision fp32 --dropout 0.1 --logging-steps 1 --quiet >"$work/out" 2>&1 ||
        { cat "$work/out"; exit 1; }
    sed -n 's/.*"step": *\([0-9]*\),.*"loss": *\([-+0-9.e]*\),.*"grad_norm".*/\1 \2/p' "$work/$backend/metrics.jsonl" \
        >"$work/$backend.losses"
done
# The same but for rounding (1e-8), which training multiplies from step to step: 1e-5 to 4e-3 at the end.
paste -d ' ' "$work/blas.losses" "$work/$tried.losses" | awk -v steps="$steps" '
    { off = $2 > $4 ? $2 - $4 : $4 - $2; at = $1 <= 20 ? 1 : 2; if (off > most[at]) most[at] = off
      if ($1 != $3 || $2 == "" || $4 == "") bad = 1 }
    END {
        printf "%d steps, the losses differ by %.2g in the first 20 and by %.2g in all\n", NR, most[1], most[2]
        if (bad || NR != steps || most[1] > 1e-6 || most[2] > 5e-2) { print "FAILED"; exit 1 }
    }'
