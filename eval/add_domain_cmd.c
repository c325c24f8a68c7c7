#include "eval/add_domain_cmd.h"

#include "eval/add_domain.h"

#define AT(field) offsetof(AddDomainOptions, field)

static const Flag FLAGS[] = {
    {"from", NULL, FLAG_STRING, AT(from), NULL, 0, 0, "DIR",
     "#Routers\nThe parent: a run folder (or a Hugging Face folder, with --replay). It is only read."},
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "DIR", "The child's run folder."},
    {"domain", NULL, FLAG_LIST, AT(domain), NULL, 0, 0, "NAME[=TEXT]", "A new label, with what it is about."},
    {"split_from", NULL, FLAG_STRING, AT(split_from), NULL, 0, 0, "LABEL",
     "The old label whose prompts the new ones were under: only its rows are asked whether they belong to "
     "the new one."},
    {"rename", NULL, FLAG_LIST, AT(rename), NULL, 0, 0, "OLD=NEW",
     "Call an old label otherwise; its id stays."},
    {"retire", NULL, FLAG_LIST, AT(retire), NULL, 0, 0, "LABEL",
     "An old label that is not answered any more; its id stays, its rows are left out."},
    {"resume", NULL, FLAG_BOOL, AT(resume), NULL, 0, 0, NULL,
     "Go on where it was interrupted, to the same bits."},
    {"overwrite", NULL, FLAG_BOOL, AT(overwrite), NULL, 0, 0, NULL, "Begin anew although --out holds a run."},
    {"data", NULL, FLAG_LIST, AT(data), NULL, 0, 0, "FILE",
     "#Rows\nJSONL with prompts of the new domains. Rows of a single domain need no label."},
    {"replay", NULL, FLAG_LIST, AT(replay), NULL, 0, 0, "FILE",
     "Old rows, instead of the parent's own data; those without a label get the parent's answer. Rows that "
     "the parent was "
     "trained on should say \"split\": \"train\"."},
    {"replay_rows", NULL, FLAG_INT, AT(replay_rows), "0", 0, 1e12, NULL,
     "Old train rows that are shown again; 0: as many as the steps have room for."},
    {"relabel", NULL, FLAG_STRING, AT(relabel), NULL, 0, 0, "above=P",
     "Move old train rows to a new label where its out-of-fold probability is at least P; suspects.jsonl "
     "lists them."},
    {"held_out", NULL, FLAG_LIST, AT(held_out), NULL, 0, 0, "FILE",
     "Labelled rows from elsewhere, to report on beside the test split; with a label map by its values too."},
    ROWSET_MAP_FLAGS(AddDomainOptions, rows), /* of --held_out */
    ROWSET_FIELD_FLAGS(AddDomainOptions, rows),
    {"dev_share", NULL, FLAG_FLOAT, AT(dev_share), "0.05", 0, 0.5, NULL,
     "Share of the new rows to choose the best step by."},
    {"calibration_share", NULL, FLAG_FLOAT, AT(calibration_share), "0.05", 0, 0.5, NULL,
     "Share to calibrate with."},
    {"test_share", NULL, FLAG_FLOAT, AT(test_share), "0.1", 0, 0.5, NULL, "Share for the report."},
    {"near", NULL, FLAG_FLOAT, AT(near), "0.8", 0.5, 1, NULL,
     "Prompts that share at least this part of their pairs of words stay on one side of the split."},
    {"max_steps", NULL, FLAG_INT, AT(max_steps), "0", 0, 1e9, NULL,
     "#Training\nSteps; 0: as many as show each new row 20 times, but 1000 at most."},
    {"batch_size", NULL, FLAG_INT, AT(batch_size), "32", 1, 4096, NULL, "Rows of one step."},
    {"micro_batch_tokens", NULL, FLAG_INT, AT(micro_batch_tokens), "0", 0, 1 << 20, NULL,
     "Tokens computed at once; 0: as the parent's run."},
    {"learning_rate", "lr", FLAG_FLOAT, AT(learning_rate), "0", 0, 1, NULL,
     "Peak learning rate; 0: as the parent's run. The rest of the recipe is the parent's too."},
    {"new_share", NULL, FLAG_FLOAT, AT(new_share), "0", 0, 0.99, NULL,
     "Share of what is seen that new rows make up; 0: theirs of all train rows, but a tenth for each new "
     "domain at least and a "
     "half at most. None is seen more than 20 times."},
    {"distill_weight", NULL, FLAG_FLOAT, AT(distill_weight), "0.3", 0, 100, NULL,
     "How much the child is held to its parent's answers on the old labels; 0: not at all."},
    {"distill_temperature", NULL, FLAG_FLOAT, AT(distill_temperature), "2", 0.01, 100, NULL,
     "The temperature of these answers."},
    {"new_token_rate", NULL, FLAG_FLOAT, AT(new_token_rate), "8", 0.01, 1000, NULL,
     "Embeddings of tokens that occur 4 times as often in new rows as in old ones learn at so many times the "
     "rate."},
    {"freeze_layers", NULL, FLAG_INT, AT(freeze_layers), "-1", -1, 256, NULL,
     "Keep the embeddings and this many of the lowest layers as they are; -1: nothing."},
    {"head_only", NULL, FLAG_BOOL, AT(head_only), NULL, 0, 0, NULL,
     "Fit the classifier on the parent's vectors and stop there: seconds instead of minutes, and less good."},
    {"seed", NULL, FLAG_INT, AT(seed), "42", 0, 9007199254740992.0, NULL, "What all randomness comes from."},
    {"backend", NULL, FLAG_STRING, AT(backend), "auto", 0, 0, "NAME", "As for train."},
    {"precision", NULL, FLAG_CHOICE, AT(precision), "auto", 0, 0, "auto|fp32|tf32|bf16", "As for train."},
    {"threads", NULL, FLAG_INT, AT(threads), "0", 0, 1024, NULL, "Threads; 0: one for each CPU."},
    {"max_regression", NULL, FLAG_FLOAT, AT(max_regression), "-1", -1, 100, NULL,
     "#Report\nExit status 3 when the old labels lose more points of accuracy on the test split; -1: no "
     "gate."},
    {"report", NULL, FLAG_STRING, AT(report), NULL, 0, 0, "FILE.html",
     "Write the report as one HTML page that needs nothing else. As JSON it is OUT/report.json."},
    {"show_flips", NULL, FLAG_INT, AT(show_flips), "10", 0, 1e6, NULL,
     "How many old prompts with another answer are shown."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print JSON instead of the table."},
    {"quiet", NULL, FLAG_BOOL, AT(quiet), NULL, 0, 0, NULL, "No progress."},
};

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    (void)arguments;
    return add_domain_run(options, out, err);
}

const Command add_domain_cmd = {
    .name = "add-domain",
    .summary = "give a trained router more labels, and tell what that costs the others",
    .usage = "add-domain --from RUN --domain NAME --data FILE --out RUN2 [OPTIONS]",
    .details =
        "The head grows at its end: no label is renumbered, and before training every old prompt gets the "
        "answer that it\n"
        "had. Then the new rows are learnt together with a replay of old ones, held to the parent's answers "
        "on the old\n"
        "labels; temperature and thresholds are fitted again. The report says what old prompts lost.\n\n"
        "Examples:\n"
        "  router add-domain --from runs/x --domain law --data law.jsonl --out runs/y --max-regression 0.5\n"
        "  router add-domain --from runs/x --domain law='statutes, contracts' --data law.jsonl --split-from "
        "other\n"
        "         --relabel above=0.9 --out runs/y --report forgetting.html\n"
        "  router add-domain --from runs/x --domain law --domain finance --data both.jsonl --out runs/y "
        "--head-only\n"
        "  router add-domain --from model/ --replay prompts.jsonl --domain law --data law.jsonl --out "
        "runs/y\n"
        "  router export runs/y --out router.safetensors; router verify router.safetensors --parent "
        "old.safetensors\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(AddDomainOptions),
    .positional_min = 0,
    .positional_max = 0,
    .takes_config = true,
    .run = run,
};
