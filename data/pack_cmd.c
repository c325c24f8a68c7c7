#include "data/pack_cmd.h"

#include <string.h>

#include "core/text.h"
#include "data/corpus.h"

typedef struct {
    CorpusOptions corpus; /* first: see CORPUS_FLAGS */
    char *model, *out;
    int64_t threads;
    bool json;
} PackOptions;

static const Flag FLAGS[] = {
    CORPUS_FLAGS,
    {"model", NULL, FLAG_STRING, offsetof(PackOptions, model), NULL, 0, 0, "PATH",
     "#Run\nThe tokenizer: spm.model or a folder that holds it."},
    {"out", NULL, FLAG_STRING, offsetof(PackOptions, out), NULL, 0, 0, "FILE",
     "The shard to write; one of the same content is left as it is."},
    {"threads", NULL, FLAG_INT, offsetof(PackOptions, threads), "0", 0, 1024, NULL,
     "Threads; 0 is one for each CPU. The shard does not depend on it."},
    {"json", NULL, FLAG_BOOL, offsetof(PackOptions, json), NULL, 0, 0, NULL,
     "Print the summary as one JSON object."},
};

static uint64_t all_rows(const Shard *shard) {
    uint64_t sum = 0;
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) sum += shard_rows(shard, s);
    return sum;
}

static uint64_t all_tokens(const Shard *shard) {
    uint64_t sum = 0;
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) sum += shard_tokens(shard, s);
    return sum;
}

static void put_line(Buf *out, const char *name, int width, const uint64_t values[SPLIT_COUNT + 2]) {
    buf_printf(out, "  %s%*s", name, width - text_columns(name), "");
    for (int i = 0; i < SPLIT_COUNT + 2; i++) {
        char text[32];
        buf_printf(out, " %12s", text_grouped(text, values[i]));
    }
    buf_puts(out, "\n");
}

/* Rows of each split, all rows, tokens. */
static void put_table(Buf *out, const Shard *shard) {
    const ShardInfo *info = shard_info(shard);
    int width = 8;
    for (int k = 0; k < info->label_count; k++) {
        const int w = text_columns(info->labels[k]);
        if (w > width && w <= 40) width = w;
    }
    buf_printf(out, "\n  %-*s", width, "label");
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) buf_printf(out, " %12s", split_name(s));
    buf_printf(out, " %12s %12s\n", "rows", "tokens");
    uint64_t rows[SPLIT_COUNT + 2] = {0}, tokens[SPLIT_COUNT + 2] = {0};
    for (int k = 0; k < info->label_count; k++) {
        uint64_t line[SPLIT_COUNT + 2] = {0};
        for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) {
            line[s] = shard_label_rows(shard, s, k);
            line[SPLIT_COUNT] += line[s];
            line[SPLIT_COUNT + 1] += shard_label_tokens(shard, s, k);
        }
        char name[48];
        put_line(out, text_excerpt(name, 40, info->labels[k], strlen(info->labels[k])), width, line);
    }
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) {
        rows[s] = shard_rows(shard, s);
        tokens[s] = shard_tokens(shard, s);
    }
    rows[SPLIT_COUNT] = all_rows(shard);
    rows[SPLIT_COUNT + 1] = all_tokens(shard);
    put_line(out, "rows", width, rows);
    tokens[SPLIT_COUNT] = rows[SPLIT_COUNT];
    tokens[SPLIT_COUNT + 1] = rows[SPLIT_COUNT + 1];
    buf_printf(out, "  %-*s", width, "tokens");
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) {
        char text[32];
        buf_printf(out, " %12s", text_grouped(text, tokens[s]));
    }
    buf_puts(out, "\n\n");
}

static void put_count(Buf *out, uint64_t n, const char *what) {
    char text[32];
    if (n) buf_printf(out, "  %12s  %s\n", text_grouped(text, n), what);
}

static void put_summary(Buf *out, const Shard *shard, const char *path, bool reused) {
    const ShardInfo *info = shard_info(shard);
    char rows[32], tokens[32];
    buf_printf(out, "%s: %s rows, %s tokens, %d labels, longest row %d tokens%s\n", path,
               text_grouped(rows, all_rows(shard)), text_grouped(tokens, all_tokens(shard)),
               info->label_count, shard_longest(shard), reused ? " (already there, unchanged)" : "");
    put_table(out, shard);
    char cut[64];
    (void)snprintf(cut, sizeof cut, "cut at %d tokens", info->max_tokens);
    put_count(out, info->truncated, cut);
    put_count(out, info->split.given, "with a split named in the data");
    put_count(out, info->split.duplicates,
              "repeat the text of an earlier row (but for case and punctuation)");
    put_count(out, info->split.conflicting, "of these had another label before");
    put_count(out, info->split.joined, "are near-duplicates of an earlier row");
    put_count(out, info->split.crossing, "were given a split while the like of them is in another one too");
    put_count(out, info->skipped, "bad rows left out");
}

static void put_json_strings(Buf *out, const char *const *items, size_t count) {
    buf_puts(out, "[");
    for (size_t i = 0; i < count; i++) {
        if (i) buf_puts(out, ",");
        text_put_json(out, items[i], strlen(items[i]));
    }
    buf_puts(out, "]");
}

static void put_json_splits(Buf *out, const char *key, const Shard *shard,
                            uint64_t (*of)(const Shard *, Split)) {
    buf_printf(out, ",\"%s\":{", key);
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++)
        buf_printf(out, "%s\"%s\":%llu", s ? "," : "", split_name(s), (unsigned long long)of(shard, s));
    buf_puts(out, "}");
}

static void put_json_labels(Buf *out, const char *key, const Shard *shard,
                            uint64_t (*of)(const Shard *, Split, int)) {
    const ShardInfo *info = shard_info(shard);
    buf_printf(out, ",\"%s\":{", key);
    for (int k = 0; k < info->label_count; k++) {
        if (k) buf_puts(out, ",");
        text_put_json(out, info->labels[k], strlen(info->labels[k]));
        buf_puts(out, ":{");
        for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++)
            buf_printf(out, "%s\"%s\":%llu", s ? "," : "", split_name(s),
                       (unsigned long long)of(shard, s, k));
        buf_puts(out, "}");
    }
    buf_puts(out, "}");
}

static void put_json(Buf *out, const Shard *shard, const char *path, bool reused) {
    const ShardInfo *info = shard_info(shard);
    buf_puts(out, "{\"shard\":");
    text_put_json(out, path, strlen(path));
    buf_printf(out, ",\"reused\":%s,\"labels\":", reused ? "true" : "false");
    put_json_strings(out, info->labels, (size_t)info->label_count);
    put_json_splits(out, "rows", shard, shard_rows);
    put_json_splits(out, "tokens", shard, shard_tokens);
    put_json_labels(out, "label_rows", shard, shard_label_rows);
    put_json_labels(out, "label_tokens", shard, shard_label_tokens);
    buf_printf(out,
               ",\"longest\":%d,\"max_length\":%d,\"truncated\":%llu,\"given\":%llu,\"duplicates\":%llu,"
               "\"conflicting\":%llu,\"joined\":%llu,\"crossing\":%llu,\"skipped\":%llu,\"skipped_first\":",
               shard_longest(shard), info->max_tokens, (unsigned long long)info->truncated,
               (unsigned long long)info->split.given, (unsigned long long)info->split.duplicates,
               (unsigned long long)info->split.conflicting, (unsigned long long)info->split.joined,
               (unsigned long long)info->split.crossing, (unsigned long long)info->skipped);
    put_json_strings(out, info->messages, info->message_count);
    buf_printf(out, ",\"content\":\"%s\",\"tokenizer\":\"%s\"}\n", info->content_digest,
               info->tokenizer_digest);
}

static void put_notes(Progress *progress, const Shard *shard) {
    const ShardInfo *info = shard_info(shard);
    for (size_t i = 0; i < info->message_count; i++)
        progress_note(progress, "left out: %s", info->messages[i]);
    if (info->skipped > info->message_count)
        progress_note(progress, "left out: %llu bad rows in all", (unsigned long long)info->skipped);
    for (int k = 0; k < info->label_count; k++)
        if (shard_label_rows(shard, SPLIT_TRAIN, k) == 0)
            progress_note(progress, "no row to train on has the label '%s'", info->labels[k]);
}

static ErrCode report(const char *path, bool reused, bool json, Progress *progress, FILE *out, Err *err) {
    Shard *shard;
    TRY(shard_open(&shard, path, err));
    put_notes(progress, shard);
    Buf text = {0};
    if (json)
        put_json(&text, shard, path, reused);
    else
        put_summary(&text, shard, path, reused);
    const ErrCode rc = buf_print(&text, out, err);
    buf_free(&text);
    shard_close(shard);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const PackOptions *o = options;
    if (!o->model) return err_set(err, ERR_ARGUMENT, "--model: expected spm.model or a folder that holds it");
    if (!o->out) return err_set(err, ERR_ARGUMENT, "--out: expected the shard to write");
    Tokenizer *tokenizer = NULL;
    Threads *threads = NULL;
    Progress progress = {0};
    CorpusRule rule = {0};
    bool reused = false;
    ErrCode rc = corpus_rule(&rule, &o->corpus, arguments, err);
    rule.progress = &progress;
    if (rc == ERR_OK) rc = tokenizer_open(&tokenizer, o->model, err);
    if (rc == ERR_OK) rc = threads_open(&threads, (int)o->threads, err);
    if (rc == ERR_OK) rc = corpus_pack(o->out, &rule, tokenizer, threads, &reused, err);
    if (rc == ERR_OK) rc = report(o->out, reused, o->json, &progress, out, err);
    threads_close(threads);
    tokenizer_close(tokenizer);
    corpus_rule_free(&rule);
    return rc;
}

const Command pack_cmd = {
    .name = "pack",
    .summary = "labelled prompts to a token file for training",
    .usage = "pack DATA... --model PATH --out FILE",
    .details =
        "DATA is a JSONL file (plain, gzip or zstd), a folder of them, or - for stdin. FILE=2.5 gives the "
        "rows of\n"
        "FILE the weight 2.5: as often they occur in an epoch of training. A row looks like\n"
        "  {\"text\": \"my knee hurts\", \"label\": \"health\", \"split\": \"train\", \"source\": "
        "\"forum\"}\n"
        "of which split and source may be missing. Rows that repeat a text, or nearly, are kept on one "
        "side of the split.\n\n"
        "Examples:\n"
        "  router pack data/ --model deberta-v3-base/ --out corpus.shard\n"
        "  router pack mine.jsonl=3 public.jsonl.zst --label-field domain --model spm.model --out "
        "mix.shard\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(PackOptions),
    .positional_min = 1,
    .positional_max = SIZE_MAX,
    .takes_config = true,
    .run = run,
};
