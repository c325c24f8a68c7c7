#!/bin/sh
# The whole chain with a tiny model, as a user types it; then what a user types wrongly. usage: tests/e2e.sh ROUTER
cd "$(dirname "$0")/.." || exit 2
router=$1 bad=0
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT

# expect STATUS PATTERN COMMAND...: the exit status, and an extended regular expression that the output has (- for none)
expect() {
    status=$1 pattern=$2
    shift 2
    "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    if [ $got -ne "$status" ]; then
        echo "FAILED: exit status $got, expected $status: $*"
    elif [ "$pattern" != - ] && ! cat "$work/out" "$work/err" | grep -qE -- "$pattern"; then
        echo "FAILED: expected /$pattern/: $*"
    else
        return 0
    fi
    head -n 20 "$work/out" "$work/err"
    bad=1
}

# ---- help: complete, and on stdout -------------------------------------------------------------------------------------
commands='fetch tokenize pack train add-domain calibrate eval compare system live predict export inspect verify bench'
expect 0 'usage: router COMMAND' "$router" --help
for command in $commands; do
    expect 0 "^  $command " "$router" help
    expect 0 "^usage: router $command" "$router" "$command" --help
    [ -s "$work/err" ] && echo "FAILED: $command --help writes to stderr" && bad=1
    cp "$work/out" "$work/help"
    expect 0 - "$router" help "$command"
    cmp "$work/out" "$work/help" || bad=1
    [ -z "$(tail -c 1 "$work/out")" ] || { echo "FAILED: $command --help ends without a newline"; bad=1; }
    awk -v c="$command" 'length($0) > 130 { print "FAILED: " c " --help has a line of " length($0); bad = 1 }
        END { exit bad }' "$work/out" || bad=1
done
expect 0 '^router [0-9]+\.[0-9]+\.[0-9]+$' "$router" --version

# ---- the chain ---------------------------------------------------------------------------------------------------------
# Three kinds of sentence that even a tiny model can tell apart.
awk 'BEGIN {
    split("add subtract divide multiply integrate", v1); split("fever cough doctor tablet headache", v2)
    split("compile debug python loop pointer", v3)
    for (i = 0; i < 240; i++) {
        k = i % 3
        w = k == 0 ? v1[i % 5 + 1] " " v1[i % 4 + 1] " the number" : k == 1 ? v2[i % 5 + 1] " " v2[i % 4 + 1] " my body" \
            : v3[i % 5 + 1] " " v3[i % 4 + 1] " the code"
        printf "{\"text\": \"please %s %d\", \"label\": \"%s\", \"source\": \"s%d\"}\n", w, i, \
            k == 0 ? "math" : k == 1 ? "health" : "coding", i % 2
    } }' >"$work/data.jsonl"
run=$work/run spm=$work/spm.model blob=$work/router.safetensors
expect 0 'pieces' "$router" tokenize --train --input "$work/data.jsonl" --vocab-size 400 --out "$spm"
expect 0 '[0-9]' "$router" tokenize 'please add the number 7' --model "$spm"
expect 0 '"ids"' "$router" tokenize --json --input "$work/data.jsonl" --model "$spm"
expect 0 '^240 rows in 1 file, 3 labels; 0 bad lines' "$router" data check "$work/data.jsonl" --tokenizer "$spm"
expect 0 '"unit":"words"' "$router" data check --json --suspects "$work/suspects.jsonl" "$work/data.jsonl"
expect 0 'math' "$router" pack "$work/data.jsonl" --model "$spm" --out "$work/data.shard"
expect 0 'trained 200 steps' "$router" train "$work/data.jsonl" --config configs/tiny.json --tokenizer "$spm" --out "$run"
expect 2 '--resume' "$router" train "$work/data.jsonl" --config configs/tiny.json --tokenizer "$spm" --out "$run"
for command in mix split; do
    expect 0 "^usage: router data $command" "$router" data "$command" --help
    awk -v c="$command" 'length($0) > 130 { print "FAILED: data " c " --help has a line of " length($0); bad = 1 }
        END { exit bad }' "$work/out" || bad=1
done
echo '{"sources": [{"path": "data.jsonl", "licence": "own", "weight": 1.5}]}' >"$work/mix.json"
expect 0 '240 rows in, 360 out, 240 of them different' "$router" data mix "$work/mix.json" --out "$work/mixed.jsonl.zst"
expect 0 '0 groups are in more than one split' "$router" data split "$work/mixed.jsonl.zst" --out "$work/divided.jsonl"
expect 0 'trained 200 steps' "$router" train "$work/mix.json" --config configs/tiny.json --tokenizer "$spm" --out "$work/run3"
expect 0 'trained 200 steps' "$router" train "$work/mix.json" --config configs/tiny.json --tokenizer "$spm" --out "$work/run3" \
    --resume
expect 0 '"weights":true' cat "$work/run3/mix.json"
echo '{"text": "one more", "label": "math"}' >>"$work/data.jsonl"
expect 2 'was trained on other data' "$router" train "$work/mix.json" --config configs/tiny.json --tokenizer "$spm" \
    --out "$work/run3" --resume
sed -i '$d' "$work/data.jsonl"
echo '{"sources": [{"path": "data.jsonl", "wieght": 2}]}' >"$work/mix.json"
expect 1 "mix.json: sources\\[0\\]: unknown key 'wieght'; did you mean 'weight'\\?" "$router" train "$work/mix.json" \
    --config configs/tiny.json --tokenizer "$spm" --out "$work/run4"
expect 0 'ccuracy' "$router" eval "$run"
expect 0 '"macro_f1"' "$router" eval "$run" --json --no-baselines
expect 0 'label_first' "$router" eval "$run" --robust --robust-rows 50 --slice length --report "$work/eval.html" --card
expect 0 - test -s "$work/eval.json"
expect 0 'rows | accuracy' cat "$run/model-best/README.md"
expect 2 'training rows' "$router" eval "$run" --data "$work/data.jsonl" --suspects "$work/doubts.jsonl"
expect 0 '"folds": 4, "judged": 240' "$router" eval "$run" --suspects "$work/doubts.jsonl" --folds 4 --json --no-baselines
expect 0 - "$router" export "$run" --out "$blob"
cp "$blob" "$work/first"
expect 0 - "$router" export "$run" --out "$blob"
cmp "$blob" "$work/first" || { echo "FAILED: a second export has other bytes"; bad=1; }
expect 0 - "$router" export "$run" --out "$blob.zst" --compress
expect 0 'health' "$router" inspect "$blob"
expect 0 - "$router" verify "$blob"
expect 0 - "$router" verify "$blob.zst"
expect 0 - "$router" verify "$blob" --against "$run" --data "$work/data.jsonl" --max-drop 0.5
expect 3 - "$router" verify "$blob" --against "$run" --data "$work/data.jsonl" --max-drop -1
expect 0 '^0 answers differ' "$router" compare "$blob" "$blob.zst" --data "$work/data.jsonl" --no-speed
expect 0 'McNemar' "$router" compare "$run" "$blob" --data "$work/data.jsonl" --report "$work/compare.html"
expect 0 - "$router" eval "$run" --data "$work/data.jsonl" --no-baselines --predictions "$work/answers.jsonl"
echo '{"max_flip_rate": 0, "max_accuracy_drop": 0}' >"$work/gate.json"
expect 0 '2 of 2 rules passed' "$router" compare "$work/answers.jsonl" "$run" --data "$work/data.jsonl" --rules "$work/gate.json"
echo '{"min_rows": 1000}' >"$work/gate.json"
expect 3 '1 of 1 rules failed: min_rows is 240' "$router" compare "$run" "$blob" --data "$work/data.jsonl" --rules "$work/gate.json"
echo '{"experts": [{"name": "a", "parameters_b": 7, "price_in": 1, "price_out": 2, "accuracy": 0.5},
    {"name": "b", "parameters_b": 70, "price_in": 1, "price_out": 2, "accuracy": 0.9}]}' >"$work/experts.json"
expect 0 'b \(best single\)' "$router" system "$blob" --experts "$work/experts.json" --data "$work/data.jsonl"
# Calibrated: the folder, then what is exported from it (fitted again on its own logits), then that file by itself.
expect 0 'temperature|nothing' "$router" calibrate "$run" --policy coverage=0.8 --fallback math --quiet
expect 0 '"router_decision"' cat "$run/model-best/config.json"
expect 0 'policy coverage=0.8 kept' "$router" export "$run" --out "$work/calibrated"
expect 0 'abstains +where max_probability is below' "$router" inspect "$work/calibrated"
expect 0 'coverage=0.8' "$router" calibrate "$work/calibrated" --data "$run" --policy coverage=0.8 --fallback math --json --quiet
cp "$work/calibrated" "$work/first"
expect 0 - "$router" calibrate "$work/calibrated" --data "$run" --policy coverage=0.8 --fallback math --quiet
cmp "$work/calibrated" "$work/first" || { echo "FAILED: calibrating twice gives other bytes"; bad=1; }
echo '{"abstain": 0.1}' >"$work/cost.json"
expect 0 'stored in .*per_class' "$router" calibrate "$work/calibrated" --data "$work/data.jsonl" --policy "cost=$work/cost.json" \
    --per-class --score entropy --out "$work/per_class" --quiet
cmp "$work/calibrated" "$work/first" || { echo "FAILED: --out changed the file that it left"; bad=1; }
expect 0 - "$router" verify "$work/per_class"
expect 0 '"decision": "(math|abstain)", "abstained"' "$router" predict "$work/calibrated" "$work/data.jsonl"
expect 2 "fallback: 'maht' is none of the router's labels; did you mean 'math'" "$router" calibrate "$run" \
    --policy coverage=0.5 --fallback maht
expect 2 'expected precision=P, coverage=C or cost=FILE' "$router" calibrate "$run" --policy best
expect 3 'no threshold shows a precision' "$router" calibrate "$run" --policy precision=0.999999 --quiet
expect 2 'give labelled rows' "$router" calibrate "$work/calibrated"
# A domain is added: the child, exported, is the parent's next revision, and says what it answers otherwise.
awk 'BEGIN { split("statute court contract appeal lawyer", v)
    for (i = 0; i < 80; i++) print "{\"text\": \"please " v[i % 5 + 1] " " v[i % 4 + 1] " the case " i "\"}" }' >"$work/law.jsonl"
expect 0 'Revision 2: 4 labels, 1 of them new' "$router" add-domain --from "$run" --domain 'law=statutes, courts' \
    --data "$work/law.jsonl" --max-steps 60 --out "$work/grown" --report "$work/grown.html" --max-regression 100
expect 0 - test -s "$work/grown.html"
expect 2 'grown holds a run already: continue it with --resume, or begin anew with --overwrite' "$router" add-domain \
    --from "$run" --domain law --data "$work/law.jsonl" --out "$work/grown"
expect 0 - "$router" export "$work/grown" --out "$work/grown.safetensors"
expect 0 'law' "$router" inspect "$work/grown.safetensors"
expect 0 'the very one, by its SHA-256' "$router" verify "$work/grown.safetensors" --parent "$work/calibrated" --max-flips 100
expect 3 'has 3 labels, fewer than the 4 of its parent' "$router" verify "$blob" --parent "$work/grown.safetensors"
expect 0 'answers? differ' "$router" compare "$work/calibrated" "$work/grown.safetensors" --data "$work/data.jsonl" --no-speed
expect 0 '"label": *"law"' "$router" predict "$work/grown.safetensors" "$work/law.jsonl"
expect 2 "there is a label 'math' already \(id 2\)" "$router" add-domain --from "$run" --domain math --data "$work/law.jsonl" \
    --out "$work/grown2"
expect 1 'absent' "$router" add-domain --from "$run" --domain law --data "$work/absent" --out "$work/grown2"
printf 'please add divide the number 5\nplease doctor cough my body 1\nplease debug loop the code 2\n' >"$work/lines"
for model in "$run" "$blob" "$blob.zst"; do
    expect 0 '"label": *"math"' "$router" predict "$model" "$work/lines" --lines
    [ "$(wc -l <"$work/out")" -eq 3 ] || { echo "FAILED: expected three answers from $model"; bad=1; }
done
"$router" predict "$blob" --lines <"$work/lines" >"$work/stdin.out" && cmp "$work/stdin.out" "$work/out" ||
    { echo "FAILED: stdin gives other answers than a file"; bad=1; }

# ---- what goes wrong says so -------------------------------------------------------------------------------------------
expect 2 'expected a command' "$router"
expect 2 "unknown command 'trian'; did you mean 'train'\\?" "$router" trian
expect 2 "unknown command 'xyzzyplugh'" "$router" help xyzzyplugh
for command in $commands; do
    expect 2 '^router: unknown option --no-such-option' "$router" "$command" --no-such-option
done
expect 2 'did you mean .*--learning[_-]rate' "$router" train "$work/data.jsonl" --learning-rat 1
expect 2 'learning_rate' "$router" train "$work/data.jsonl" --learning-rate fast
echo '{"learning_rat": 1}' >"$work/bad.json"
expect 2 'bad.json: unknown key learning_rat; did you mean' "$router" train "$work/data.jsonl" --config "$work/bad.json"
expect 1 'absent' "$router" inspect "$work/absent"
expect 1 'absent' "$router" verify "$work/absent"
expect 1 'absent' "$router" predict "$work/absent" "$work/lines" --lines
expect 2 'absent' "$router" export "$work/absent" --out "$work/x"
expect 1 'absent' "$router" pack "$work/absent" --model "$spm" --out "$work/x"
expect 1 'absent' "$router" tokenize hello --model "$work/absent"
expect 1 'absent' "$router" train "$work/absent" --config configs/tiny.json --tokenizer "$spm" --out "$work/run2"
echo '{"text": "no label"}' >"$work/bad.jsonl"
expect 1 'bad.jsonl:1: ' "$router" pack "$work/bad.jsonl" --model "$spm" --out "$work/x"
head -c 2000 "$blob" >"$work/cut"
expect 1 'cut' "$router" inspect "$work/cut"
[ ! -e "$work/x" ] || { echo "FAILED: a failed command left its output"; bad=1; }
# A full disk and a reader that went away are errors, not silence.
if [ -w /dev/full ]; then
    "$router" help >/dev/full 2>"$work/err"
    [ $? -eq 1 ] && grep -q 'stdout: ' "$work/err" || { echo "FAILED: /dev/full was not noticed"; bad=1; }
fi
# Reading one byte of many lines closes the pipe while the program writes.
i=0
while [ $i -lt 3000 ]; do echo "please add the number $i"; i=$((i + 1)); done >"$work/many"
{ "$router" tokenize --input "$work/many" --model "$spm" 2>"$work/err"; echo $? >"$work/status"; } | head -c 1 >/dev/null
[ "$(cat "$work/status")" = 1 ] && grep -q '^router: ' "$work/err" || { echo "FAILED: a closed pipe was not noticed"; bad=1; }
[ $bad -ne 0 ] || echo "the whole chain works"
exit $bad
