#include "data/mix_cmd.h"

#include <string.h>

#include "core/file.h"
#include "data/mix.h"

typedef struct {
    char *out, *report;
    int64_t threads;
    bool weights, json;
} MixOptions;

static const Flag FLAGS[] = {
    {"out", NULL, FLAG_STRING, offsetof(MixOptions, out), NULL, 0, 0, "FILE",
     "The corpus to write: .jsonl, or .jsonl.zst."},
    {"report", NULL, FLAG_STRING, offsetof(MixOptions, report), NULL, 0, 0, "FILE",
     "Write the report there too, as JSON."},
    {"weights", NULL, FLAG_BOOL, offsetof(MixOptions, weights), NULL, 0, 0, NULL,
     "Write each row once, with a \"sample_weight\" that training repeats it by, instead of repeating and "
     "drawing."},
    {"json", NULL, FLAG_BOOL, offsetof(MixOptions, json), NULL, 0, 0, NULL,
     "Print the report as one JSON object."},
    {"threads", NULL, FLAG_INT, offsetof(MixOptions, threads), "0", 0, 1024, NULL,
     "Threads; 0 is one for each CPU. The corpus does not depend on it."},
};

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

static ErrCode print(const MixOptions *o, const MixReport *report, const MixRule *rule, FILE *out, Err *err) {
    Buf text = {0}, json = {0};
    mix_report_json(&json, report, rule);
    if (!o->json) mix_report_text(&text, report, rule);
    ErrCode rc = buf_ok(&json, err);
    if (rc == ERR_OK) rc = buf_ok(&text, err);
    if (rc == ERR_OK && o->report) rc = file_save(o->report, json.data, json.len, err);
    if (rc == ERR_OK) rc = buf_print(o->json ? &json : &text, out, err);
    buf_free(&text);
    buf_free(&json);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const MixOptions *o = options;
    if (!o->out || (!ends_with(o->out, ".jsonl") && !ends_with(o->out, ".jsonl.zst")))
        return err_set(err, ERR_ARGUMENT,
                       "--out: found %.300s, expected a name that ends in .jsonl or .jsonl.zst",
                       o->out ? o->out : "none");
    Manifest manifest = {0};
    Progress progress = {0};
    MixReport report = {0};
    MixRule rule = {.manifest = &manifest, .out = o->out, .weights = o->weights, .progress = &progress};
    const char *path = arguments->items[0];
    if (file_exists(path) && !manifest_is(path))
        return err_set(
            err, ERR_ARGUMENT,
            "%s: expected a manifest, a file NAME.json such as {\"sources\": [{\"path\": \"%.200s\"}]}", path,
            path);
    ErrCode rc = manifest_read(&manifest, path, err);
    if (rc == ERR_OK) rc = threads_open(&rule.threads, (int)o->threads, err);
    if (rc == ERR_OK) rc = mix_write(&report, &rule, err);
    if (rc == ERR_OK) rc = print(o, &report, &rule, out, err);
    mix_report_free(&report);
    threads_close(rule.threads);
    manifest_free(&manifest);
    return rc;
}

const Command mix_cmd = {
    .name = "data mix",
    .summary = "one corpus from the sources that a manifest lists",
    .usage = "data mix MANIFEST.json --out FILE.jsonl",
    .details =
        "A manifest lists sources, real and synthetic:\n"
        "  {\"seed\": 42, \"temperature\": 2, \"against\": \"mmlu.jsonl\",\n"
        "   \"sources\": [{\"path\": \"gsm8k.jsonl.zst\", \"label\": \"math\", \"licence\": \"MIT\", "
        "\"cap\": 5000},\n"
        "               {\"path\": \"tickets/*.jsonl\", \"text_field\": \"body\", \"label_field\": "
        "\"queue\",\n"
        "                \"label_map\": {\"billing\": \"other\", \"spam\": null}, \"min_chars\": 10},\n"
        "               {\"path\": \"synthetic/\", \"kind\": \"synthetic\", \"weight\": 0.5, \"optional\": "
        "true}]}\n"
        "Paths are relative to the manifest. Of rows that are alike the first stays (\"near\": 0.8, or "
        "false); rows that are\n"
        "in a file of \"against\" are left out; \"weight\", \"cap\", \"temperature\" (a domain of n rows has "
        "a part in\n"
        "proportion to n^(1/temperature)) and \"total\" say how much of the rest is taken. The same manifest "
        "and sources give\n"
        "the same bytes. data/manifest.h in the source says all of it; configs/ has examples.\n\n"
        "Examples:\n"
        "  router data mix configs/modem-mix.json --out modem.jsonl.zst --report modem.json\n"
        "  router train configs/modem-mix.json --model deberta-v3-base --out runs/modem    # mixes by "
        "weights, and trains\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(MixOptions),
    .positional_min = 1,
    .positional_max = 1,
    .takes_config = false,
    .run = run,
};
