#!/bin/sh
# What adding a domain costs and brings, on the whole shared corpus: `router add-domain` against fitting the head alone, training
# on the new rows alone, and training anew on everything. usage: tests/bench/add_domain.sh ROUTER WORK [SEED...]
#   $BACKEND   for training (default auto), as --backend
#
# Five domains without law are the parent's; law is legalbench and data/domains/law.jsonl, finance the bank and card prompts
# of clinc150 and data/domains/finance.jsonl: neither is in the parent's rows. Test rows are those that the sources call so.
# The first seed also adds law from 60 rows, and coding to a router of the other four domains. A CPU with two cores takes half an
# hour a seed.
set -eu
[ $# -ge 2 ] || { sed -n '2,4p' "$0"; exit 2; }
cd "$(dirname "$0")/../.."
router=$1 work=$2
shift 2
[ $# -gt 0 ] || set -- 2 3 4
corpus=../shared/corpus
[ -d "$corpus" ] || { echo "skipped: $corpus is absent"; exit 0; }
mkdir -p "$work"

bank='apr|balance|bill_balance|bill_due|account_blocked|card_declined|credit_limit|credit_limit_change|credit_score|damaged_card'
bank="$bank|direct_deposit|exchange_rate|expiration_date|freeze_account|improve_credit_score|income|insurance|insurance_change"
bank="$bank|interest_rate|international_fees|min_payment|new_card|order_checks|pay_bill|payday|pin_change|redeem_rewards"
bank="$bank|replacement_card_duration|report_fraud|report_lost_card|rewards_balance|rollover_401k|routing|spending_history|taxes"
bank="$bank|transactions|transfer|w2"

# rows FILE PATTERN LABEL: a source's rows, each with the label
rows() {
    zstd -dcq "$1" | grep $2 -E "\"subject\": \"($bank)\"" | sed "s/\"domain\": \"[a-z]*\"/\"domain\": \"$3\"/"
}

if [ ! -s "$work/done" ]; then
    : >"$work/base.jsonl"
    for domain in math health science coding other; do
        for file in "$corpus/$domain"/*.jsonl.zst; do
            case $file in *legalbench*) continue ;; esac
            rows "$file" -v $domain >>"$work/base.jsonl"
        done
    done
    rows "$corpus/other/legalbench.jsonl.zst" -v law | cat - data/domains/law.jsonl >"$work/law.jsonl"
    rows "$corpus/other/clinc150.jsonl.zst" '' finance | cat - data/domains/finance.jsonl >"$work/finance.jsonl"
    grep '"domain": "coding"' "$work/base.jsonl" >"$work/coding.jsonl"
    grep -v '"domain": "coding"' "$work/base.jsonl" >"$work/four.jsonl"
    for name in base law finance coding four; do
        for split in train test; do grep "\"split\": \"$split\"" "$work/$name.jsonl" >"$work/$name-$split.jsonl"; done
    done
    seq 1 100000 >"$work/noise" # what shuf draws from: the same every time
    shuf -n 60 --random-source="$work/noise" "$work/law-train.jsonl" | cat - "$work/law-test.jsonl" >"$work/law60.jsonl"
    mkdir -p "$work/vocabulary"
    "$router" tokenize --train --input "$work/base-train.jsonl" --vocab-size 16000 --out "$work/vocabulary/spm.model" >/dev/null
    echo done >"$work/done"
fi
wc -l "$work"/*-train.jsonl "$work"/*-test.jsonl | sed 's/^/# /'

recipe="--batch_size 32 --label_smoothing_factor 0.05 --dropout 0.1 --token_dropout 0.2 --max_length 128 --lr 6e-4"
recipe="$recipe --overwrite --quiet --backend ${BACKEND:-auto}"
# scratch OUT SEED ROWS...: a router of its own
scratch() {
    out=$1 seed=$2
    shift 2
    "$router" train "$@" --model configs/model-corpus-small.json --tokenizer "$work/vocabulary" --out "$out" --seed "$seed" \
        --epochs 3 $recipe >"$out.txt"
}

# timed COMMAND...: how long it takes, in $took
timed() {
    from=$(date +%s.%N)
    "$@"
    took=$(awk -v from="$from" -v to="$(date +%s.%N)" 'BEGIN { printf "%.1f", to - from }')
}

# measure NAME SEED RUN LABEL PARENT [OLD]: a line of the table
measure() {
    old=${6:-base}
    "$router" compare "$5" "$3" --data "$work/$old-test.jsonl" --no-speed --out "$work/compare.json" --quiet >/dev/null
    "$router" eval "$3" --data "$work/$old-test.jsonl" --data "$work/$4-test.jsonl" --no-baselines --out "$work/eval.json" \
        --quiet >/dev/null
    lost=$(tr -d '\n' <"$work/compare.json" | grep -oE '"difference": \{ *"accuracy": \{"value": [-0-9.e]+' | grep -oE '[-0-9.e]+$')
    f1=$(grep -oE "\"label\": \"$4\".*" "$work/eval.json" | grep -oE '"f1": [0-9.]+' | head -n 1 | grep -oE '[0-9.]+$')
    echo "$4 $2 $1 $lost $f1" | awk -v took="$took" '{
        printf "%-8s seed %-3s %-10s old accuracy %+6.2f points, new F1 %6.2f %%, %s s\n", $1, $2, $3, 100 * $4, 100 * $5, took }'
}

# add NAME SEED LABEL PARENT DATA OLD OPTIONS...: its time with the forgetting report, and (without)
add() {
    name=$1 label=$3 model=$4 added=$5 old=$6 run=$work/$3-$2-$1
    shift 6
    timed "$router" add-domain --from "$model" --domain "$label" --data "$added" --seed "$seed" --out "$run" --overwrite --quiet \
        --backend "${BACKEND:-auto}" "$@" >"$run.txt"
    took="$took ($(grep -oE '[0-9]+ s with' "$run.txt" | grep -oE '[0-9]+'))"
    measure "$name" "$seed" "$run" "$label" "$model" "$old"
}

first=$1
for seed in "$@"; do
    parent=$work/parent-$seed
    timed scratch "$parent" "$seed" "$work/base.jsonl"
    echo "parent   seed $seed   $(grep -o 'best dev accuracy [0-9.]*' "$parent.txt"), $took s"
    for domain in law finance; do
        data=$work/$domain.jsonl naive=$work/$domain-$seed-naive anew=$work/$domain-$seed-anew
        add add-domain "$seed" $domain "$parent" "$data" base
        add 2000-steps "$seed" $domain "$parent" "$data" base --max_steps 2000
        add 500-steps "$seed" $domain "$parent" "$data" base --max_steps 500 --distill_weight 0
        add head-only "$seed" $domain "$parent" "$data" base --head_only
        timed "$router" train "$data" --model "$work/$domain-$seed-add-domain/start" --out "$naive" --seed "$seed" \
            --max_steps 1000 $recipe >"$naive.txt"
        measure new-only "$seed" "$naive" $domain "$parent"
        timed scratch "$anew" "$seed" "$work/base.jsonl" "$data"
        measure anew "$seed" "$anew" $domain "$parent"
    done
    [ "$seed" = "$first" ] || continue
    add 60-rows "$seed" law "$parent" "$work/law60.jsonl" base
    timed scratch "$work/four-$seed" "$seed" "$work/four.jsonl"
    add add-domain "$seed" coding "$work/four-$seed" "$work/coding.jsonl" four
    took=-
    measure anew "$seed" "$parent" coding "$work/four-$seed" four
done
