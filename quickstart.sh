#!/bin/sh
# From nothing to a deployed router: installs what is missing, builds, trains a small classifier on the built-in
# prompts, evaluates it, exports it to one file, checks that file and asks it ten questions.
# usage: ./quickstart.sh [--no-install] [--data FILE] [--model DIR] [--out DIR]
#   --no-install   do not install Debian/Ubuntu packages
#   --data FILE    your own prompts: one {"text": ..., "label": ...} per line (.jsonl, .jsonl.gz or .jsonl.zst)
#   --model DIR    start from a pretrained DeBERTa-v3 folder (config.json, weights, spm.model), not from random weights
#   --out DIR      where the run goes (default: runs/quickstart)
set -eu
here=$(pwd)
cd "$(dirname "$0")"
. .ci/setup.sh
install=yes data='' model='' out=runs/quickstart
absolute() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac }
usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
    case $1 in
        --no-install) install=no ;;
        --data | --model | --out)
            if [ $# -lt 2 ]; then echo "quickstart.sh: $1: expected a value" >&2; exit 2; fi
            value=$(absolute "$2")
            case $1 in --data) data=$value ;; --model) model=$value ;; --out) out=$value ;; esac
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) echo "quickstart.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
for path in $data $model; do
    if [ ! -e "$path" ]; then echo "quickstart.sh: $path does not exist" >&2; exit 2; fi
done

if [ $install = yes ]; then
    # shellcheck disable=SC2086
    setup_packages $BUILD_PACKAGES
fi
setup_generator

say "Building the program (optimised, for this kind of processor and older ones)"
cmake --preset release -D ROUTER_TESTS=OFF
cmake --build --preset release --parallel "$(nproc)" --target router
router=build/release/router

make_vocabulary() {
    for file; do
        set -- "$@" --input "$file"
        shift
    done
    "$router" tokenize --train "$@" --vocab-size 8000 --out "$out/tokenizer/spm.model"
}

mkdir -p "$out/tokenizer"
if [ -n "$data" ]; then set -- "$data"; else set -- data/corpus/*.jsonl; fi
if [ -n "$model" ]; then
    say "Training: fine-tuning $model"
    "$router" train "$@" --config configs/quickstart-pretrained.json --model "$model" --out "$out" --overwrite
else
    say "Making a vocabulary of up to 8000 pieces from the training prompts"
    if [ -n "$data" ]; then
        make_vocabulary "$data"
    else
        grep -h '"split": "train"' "$@" >"$out/tokenizer/texts.jsonl"
        make_vocabulary "$out/tokenizer/texts.jsonl"
    fi
    say "Training a small classifier from random weights (--model DIR starts from a pretrained one: far better)"
    "$router" train "$@" --config configs/quickstart.json --tokenizer "$out/tokenizer/spm.model" --out "$out" --overwrite
fi

say "Evaluating on prompts that it has not seen, beside two simple baselines"
"$router" eval "$out"

say "Exporting to one file"
"$router" export "$out" --out "$out/router.safetensors"
say "What the file says about itself"
"$router" inspect "$out/router.safetensors"
say "Checking the file: digests and stored answers"
"$router" verify "$out/router.safetensors"

say "Ten prompts through the exported file"
questions=$(mktemp)
trap 'rm -f "$questions"' EXIT
cat >"$questions" <<'END'
What is the derivative of x^3 * sin(x)?
A train leaves at 9:40 and arrives at 13:05. How long is the journey?
my knee hurts after running, should i use ice or heat
Can I take ibuprofen together with blood pressure tablets?
Why do leaves turn red in autumn?
How does a black hole lose mass?
git says "detached HEAD", how do I get my commits back?
Write a SQL query that finds duplicate e-mail addresses
Who painted the ceiling of the Sistine Chapel?
Help me write a polite letter to my landlord
END
# A table from the JSON lines: label and score of each answer beside its question.
"$router" predict "$out/router.safetensors" "$questions" --lines |
    sed -n 's/.*"label": *"\([^"]*\)".*"score": *\([0-9.]*\).*/\1 \2/p' |
    paste -d '\t' - "$questions" |
    awk -F '\t' '{ split($1, a, " "); printf "  %-10s %5.1f %%   %s\n", a[1], 100 * a[2], $2 }'

say "Done"
echo "The run: $out    The file to deploy: $out/router.safetensors"
echo "Try:     echo 'your question' | $router predict $out/router.safetensors --lines"
