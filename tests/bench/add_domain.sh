#!/bin/sh
# What adding a domain costs and brings, on the shared corpus: `router add-domain` against fitting the head alone, training on the
# new rows alone, and training anew on everything. usage: tests/bench/add_domain.sh ROUTER WORK [SEED...]
#
# Five domains without law are the parent's; law is legalbench and data/domains/law.jsonl, finance the bank and card prompts
# of clinc150 and data/domains/finance.jsonl: neither is in the parent's rows. At most 1,500 train and 300 test rows of a source
# are used, a sample that does not depend on the seed. Test rows are those that the sources call so.
set -eu
[ $# -ge 2 ] || { sed -n '2,4p' "$0"; exit 2; }
cd "$(dirname "$0")/../.."
router=$1 work=$2
shift 2
[ $# -gt 0 ] || set -- 1 2 3
corpus=../shared/corpus
[ -d "$corpus" ] || { echo "skipped: $corpus is absent"; exit 0; }
mkdir -p "$work"
[ -s "$work/noise" ] || seq 1 1000000 >"$work/noise" # what shuf draws from: the same every time

bank='apr|balance|bill_balance|bill_due|account_blocked|card_declined|credit_limit|credit_limit_change|credit_score|damaged_card'
bank="$bank|direct_deposit|exchange_rate|expiration_date|freeze_account|improve_credit_score|income|insurance|insurance_change"
bank="$bank|interest_rate|international_fees|min_payment|new_card|order_checks|pay_bill|payday|pin_change|redeem_rewards"
bank="$bank|replacement_card_duration|report_fraud|report_lost_card|rewards_balance|rollover_401k|routing|spending_history|taxes"
bank="$bank|transactions|transfer|w2"

# rows FILE PATTERN LABEL: a sample of a source's rows, each with the label
sample() {
    for split in train test; do
        n=1500
        [ $split = train ] || n=300
        zstd -dcq "$1" | grep "\"split\": \"$split\"" | grep $2 -E "\"subject\": \"($bank)\"" |
            shuf -n $n --random-source="$work/noise" | sed "s/\"domain\": \"[a-z]*\"/\"domain\": \"$3\"/"
    done
}

if [ ! -s "$work/finance.jsonl" ]; then
    : >"$work/base.jsonl"
    for domain in math health science coding other; do
        for file in "$corpus/$domain"/*.jsonl.zst; do
            case $file in *legalbench*) continue ;; esac
            sample "$file" -v $domain >>"$work/base.jsonl"
        done
    done
    sample "$corpus/other/legalbench.jsonl.zst" -v law | cat - data/domains/law.jsonl >"$work/law.jsonl"
    sample "$corpus/other/clinc150.jsonl.zst" '' finance | cat - data/domains/finance.jsonl >"$work/finance.jsonl"
fi
for name in base law finance; do
    for split in train test; do grep "\"split\": \"$split\"" "$work/$name.jsonl" >"$work/$name-$split.jsonl"; done
done
wc -l "$work"/*-train.jsonl "$work"/*-test.jsonl | sed 's/^/# /'
if [ ! -s "$work/vocabulary/spm.model" ]; then
    mkdir -p "$work/vocabulary"
    "$router" tokenize --train --input "$work/base-train.jsonl" --vocab-size 16000 --out "$work/vocabulary/spm.model" >/dev/null
fi

recipe="--batch_size 32 --label_smoothing_factor 0.05 --dropout 0.1 --token_dropout 0.2 --max_length 128 --quiet"
# scratch OUT SEED ROWS...: a router of its own
scratch() {
    out=$1 seed=$2
    shift 2
    "$router" train "$@" --model configs/model-corpus-small.json --tokenizer "$work/vocabulary" --out "$out" --seed $seed \
        --epochs 3 --lr 6e-4 $recipe --overwrite >"$out.txt"
}

# seconds COMMAND...: how long it takes
seconds() {
    from=$(date +%s.%N)
    "$@"
    awk -v from="$from" -v to="$(date +%s.%N)" 'BEGIN { printf "%.1f", to - from }' >"$work/seconds"
}

# measure NAME SEED RUN DOMAIN SECONDS: a line of the table
measure() {
    "$router" compare "$work/parent-$2" "$3" --data "$work/base-test.jsonl" --no-speed --out "$work/compare.json" --quiet >/dev/null
    "$router" eval "$3" --data "$work/base-test.jsonl" --data "$work/$4-test.jsonl" --no-baselines --out "$work/eval.json" \
        --quiet >/dev/null
    old=$(tr -d '\n' <"$work/compare.json" | grep -oE '"difference": \{ *"accuracy": \{"value": [-0-9.e]+' | grep -oE '[-0-9.e]+$')
    f1=$(grep -oE "\"label\": \"$4\".*" "$work/eval.json" | grep -oE '"f1": [0-9.]+' | head -n 1 | grep -oE '[0-9.]+$')
    echo "$4 $2 $1 $old $f1 $5" | awk '{ printf "%-8s seed %-3s %-10s old accuracy %+6.2f points, new F1 %6.2f %%, %7s s\n",
        $1, $2, $3, 100 * $4, 100 * $5, $6 }'
}

for seed in "$@"; do
    parent=$work/parent-$seed
    seconds scratch "$parent" $seed "$work/base.jsonl"
    echo "parent   seed $seed   $(grep -o 'best dev accuracy [0-9.]*' "$parent.txt"), $(cat "$work/seconds") s"
    for domain in law finance; do
        run=$work/$domain-$seed
        add="$router add-domain --from $parent --domain $domain --data $work/$domain.jsonl --seed $seed --overwrite --quiet"
        seconds $add --out "$run" ${ADD_DOMAIN:-} >"$run.txt"
        measure add-domain $seed "$run" $domain "$(cat "$work/seconds")"
        seconds $add --out "$run-head" --head_only >"$run-head.txt"
        measure head-only $seed "$run-head" $domain "$(cat "$work/seconds")"
        steps=$(grep -o 'about [0-9]* steps' "$run.txt" | grep -o '[0-9]*')
        seconds "$router" train "$work/$domain.jsonl" --model "$run/start" --out "$run-naive" --seed $seed \
            --max_steps "$steps" --lr 6e-4 $recipe --overwrite >"$run-naive.txt"
        measure new-only $seed "$run-naive" $domain "$(cat "$work/seconds")"
        seconds scratch "$run-full" $seed "$work/base.jsonl" "$work/$domain.jsonl"
        measure anew $seed "$run-full" $domain "$(cat "$work/seconds")"
    done
done
