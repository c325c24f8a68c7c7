#include "data/augment_cmd.h"

#include <string.h>

#include "core/mem.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/inputs.h"
#include "data/jsonl.h"
#include "data/noise.h"
#include "data/scan.h"
#include "data/split.h"

enum { COPIES_MAX = 64 };

typedef struct {
    char *out, *text_field, *label_field;
    FlagList kinds;
    int64_t copies, seed, threads;
    double strength;
    bool unsplit, skip_bad, json;
} AugmentOptions;

static const Flag FLAGS[] = {
    {"out", NULL, FLAG_STRING, offsetof(AugmentOptions, out), NULL, 0, 0, "FILE",
     "#Variants\nThe JSONL to write, variants alone; compressed when its name ends in .zst."},
    {"copies", NULL, FLAG_INT, offsetof(AugmentOptions, copies), "1", 1, COPIES_MAX, NULL,
     "Variants of each row."},
    {"strength", NULL, FLAG_FLOAT, offsetof(AugmentOptions, strength), "0.1", 0, 1, NULL,
     "Share of the words, spaces or marks that change; at least one does."},
    {"kinds", NULL, FLAG_LIST, offsetof(AugmentOptions, kinds), NULL, 0, 0, "A,B",
     "What is done: typos, case, space, punctuation, prefix, suffix, quote; one of them for each variant, by "
     "chance "
     "[default: all]."},
    {"seed", NULL, FLAG_INT, offsetof(AugmentOptions, seed), "42", 0, 9007199254740992.0, NULL,
     "What all chance comes from."},
    RECORD_FLAGS("#Rows\n", offsetof(AugmentOptions, text_field), offsetof(AugmentOptions, label_field)),
    {"unsplit", NULL, FLAG_BOOL, offsetof(AugmentOptions, unsplit), NULL, 0, 0, NULL,
     "Take rows that name no split as well; they must then all be for training, for a variant of a test row "
     "gives it away."},
    {"skip_bad", NULL, FLAG_BOOL, offsetof(AugmentOptions, skip_bad), NULL, 0, 0, NULL,
     "Leave out rows that cannot be read, and count them, instead of stopping at the first."},
    {"threads", NULL, FLAG_INT, offsetof(AugmentOptions, threads), "0", 0, 1024, NULL,
     "#Run\nThreads; 0 is one for each CPU. The variants do not depend on it."},
    {"json", NULL, FLAG_BOOL, offsetof(AugmentOptions, json), NULL, 0, 0, NULL,
     "Print the report as one JSON object."},
};

typedef struct {
    Buf lines; /* of one row's variants, each with its newline */
    uint64_t kinds[NOISE_COUNT];
    uint64_t missing; /* variants that no kind could make */
    ErrCode code;
} Made;

typedef struct {
    const AugmentOptions *options;
    const Inputs *inputs;
    NoiseKind kinds[NOISE_COUNT];
    size_t kind_count;
    char strength[32]; /* as in "augmentation" */
    Made *made;        /* [SCAN_GROUP_ROWS]: a group's rows have consecutive numbers */
    Buf *scratch;      /* one text for each thread */
    Jsonl out;
    /* The report. */
    uint64_t read, taken, held, unsplit, bad, missing, of_kind[NOISE_COUNT];
} Augment;

static bool is_taken(const Augment *a, const Record *r) {
    return r->split ? split_find(r->split) == SPLIT_TRAIN : a->options->unsplit;
}

static void put_member(Buf *out, const char *key, const char *value) {
    if (!value) return;
    buf_printf(out, ",\"%s\":", key);
    text_put_json(out, value, strlen(value));
}

static void put_variant(Buf *out, const Augment *a, const ScanRow *row, const Buf *text, NoiseKind kind,
                        int copy) {
    const Record *r = row->record;
    Buf parent = {0};
    if (r->id)
        buf_puts(&parent, r->id);
    else
        buf_printf(&parent, "%s:%llu", a->inputs->items[row->file].name, (unsigned long long)row->line);
    const size_t n = parent.len;
    buf_printf(&parent, "~%d", copy);
    out->failed = out->failed || parent.failed;
    if (!out->failed) {
        buf_puts(out, "{\"text\":");
        text_put_json(out, text->data, text->len);
        put_member(out, "label", r->label);
        put_member(out, "source", r->source);
        put_member(out, "split", "train");
        put_member(out, "id", parent.data);
        buf_printf(out, ",\"kind\":\"synthetic\",\"augmentation\":\"%s:%s\",\"parent\":", noise_name(kind),
                   a->strength);
        text_put_json(out, parent.data, n);
        buf_puts(out, "}\n");
    }
    buf_free(&parent);
}

/* One variant of a row into *text: of the first kind, in an order by its key, that can do something and does not repeat
 * an earlier variant. NOISE_COUNT: none. */
static ErrCode make_text(Buf *text, NoiseKind *kind, const Augment *a, const Record *r, uint64_t key,
                         const uint64_t *seen, size_t count, uint64_t *hash) {
    uint32_t order[NOISE_COUNT];
    for (uint32_t i = 0; i < a->kind_count; i++) order[i] = i;
    rng_shuffle(order, a->kind_count, rng_key(key, "kind", 0));
    for (size_t i = 0; i < a->kind_count; i++) {
        bool changed, repeated = false;
        *kind = a->kinds[order[i]];
        buf_clear(text);
        TRY(noise_apply(text, &changed, r->text, r->text_len, *kind, a->options->strength, key, NULL));
        if (!changed || text->len > RECORD_TEXT_MAX) continue;
        *hash = rng_mix(text->len);
        for (size_t k = 0; k < text->len; k++) *hash = rng_mix(*hash ^ (unsigned char)text->data[k]);
        for (size_t k = 0; k < count; k++) repeated = repeated || seen[k] == *hash;
        if (!repeated) return ERR_OK;
    }
    *kind = NOISE_COUNT;
    return ERR_OK;
}

static void work(void *arg, const ScanRow *row, void *slot, int thread) {
    const Augment *a = arg;
    Made *made = &a->made[row->number % SCAN_GROUP_ROWS];
    (void)slot;
    buf_clear(&made->lines);
    *made = (Made){.lines = made->lines};
    if (!row->record || !is_taken(a, row->record)) return;
    const Record *r = row->record;
    const uint64_t base =
        rng_key((uint64_t)a->options->seed, "augment", split_text_key(r->text, r->text_len));
    uint64_t seen[COPIES_MAX];
    size_t count = 0;
    for (int copy = 1; copy <= a->options->copies && made->code == ERR_OK; copy++) {
        NoiseKind kind;
        const uint64_t key = rng_key(base, "copy", (uint64_t)copy);
        made->code = make_text(&a->scratch[thread], &kind, a, r, key, seen, count, &seen[count]);
        if (made->code != ERR_OK) return;
        if (kind == NOISE_COUNT) {
            made->missing++;
            continue;
        }
        count++;
        made->kinds[kind]++;
        put_variant(&made->lines, a, row, &a->scratch[thread], kind, copy);
        made->code = buf_ok(&made->lines, NULL);
    }
}

static ErrCode take(void *arg, const ScanRow *row, const void *slot, Err *err) {
    Augment *a = arg;
    const Made *made = &a->made[row->number % SCAN_GROUP_ROWS];
    (void)slot;
    a->read++;
    if (!row->record) {
        a->bad++;
        return a->options->skip_bad ? ERR_OK : scan_bad_row(a->inputs, row, err);
    }
    if (made->code != ERR_OK) return err_set(err, made->code, "out of memory for the variants of a row");
    if (!row->record->split) a->unsplit++;
    if (row->record->split && !is_taken(a, row->record)) a->held++;
    if (!is_taken(a, row->record)) return ERR_OK;
    a->taken++;
    a->missing += made->missing;
    for (int k = 0; k < NOISE_COUNT; k++) a->of_kind[k] += made->kinds[k];
    for (size_t at = 0; at < made->lines.len;) {
        const char *line = made->lines.data + at, *newline = memchr(line, '\n', made->lines.len - at);
        jsonl_put(&a->out, line, (size_t)(newline - line));
        at += (size_t)(newline - line) + 1;
    }
    return ERR_OK;
}

static ErrCode read_kinds(Augment *a, const FlagList *given, Err *err) {
    for (size_t i = 0; i < given->count; i++) {
        for (const char *s = given->items[i];; s++) {
            char name[32];
            const size_t n = strcspn(s, ",");
            (void)snprintf(name, sizeof name, "%.*s", (int)(n < 31 ? n : 31), s);
            const NoiseKind kind = noise_find(name);
            const char *near = noise_nearest(name);
            if (kind == NOISE_COUNT && near)
                return err_set(err, ERR_ARGUMENT, "kinds: found '%s'; did you mean '%s'?", name, near);
            if (kind == NOISE_COUNT)
                return err_set(
                    err, ERR_ARGUMENT,
                    "kinds: found '%s', expected typos, case, space, punctuation, prefix, suffix or quote",
                    name);
            for (size_t k = 0; k < a->kind_count; k++)
                if (a->kinds[k] == kind) return err_set(err, ERR_ARGUMENT, "kinds: found '%s' twice", name);
            a->kinds[a->kind_count++] = kind;
            s += n;
            if (!*s) break;
        }
    }
    for (NoiseKind k = NOISE_TYPOS; given->count == 0 && k < NOISE_COUNT; k++) a->kinds[a->kind_count++] = k;
    return ERR_OK;
}

static void put_report(Buf *out, const Augment *a, uint64_t lines) {
    buf_printf(out, "%s: %llu variants of %llu rows, of %llu read\n", a->options->out,
               (unsigned long long)lines, (unsigned long long)a->taken, (unsigned long long)a->read);
    buf_puts(out, "  kinds:");
    for (size_t i = 0; i < a->kind_count; i++)
        buf_printf(out, "%s %s %llu", i ? "," : "", noise_name(a->kinds[i]),
                   (unsigned long long)a->of_kind[a->kinds[i]]);
    buf_puts(out, "\n");
    if (a->held)
        buf_printf(out, "  left alone: %llu rows that are not for training\n", (unsigned long long)a->held);
    if (a->unsplit && !a->options->unsplit)
        buf_printf(out, "  left alone: %llu rows that name no split (--unsplit takes them)\n",
                   (unsigned long long)a->unsplit);
    if (a->missing)
        buf_printf(out, "  not made: %llu variants that none of the kinds could make\n",
                   (unsigned long long)a->missing);
    if (a->bad) buf_printf(out, "  left out: %llu bad rows\n", (unsigned long long)a->bad);
}

static void put_json(Buf *out, const Augment *a, uint64_t lines) {
    buf_puts(out, "{\"out\":");
    text_put_json(out, a->options->out, strlen(a->options->out));
    buf_printf(out,
               ",\"variants\":%llu,\"augmented\":%llu,\"read\":%llu,\"held_out\":%llu,\"unsplit\":%llu,"
               "\"not_made\":%llu,\"bad\":%llu,\"kinds\":{",
               (unsigned long long)lines, (unsigned long long)a->taken, (unsigned long long)a->read,
               (unsigned long long)a->held, (unsigned long long)a->unsplit, (unsigned long long)a->missing,
               (unsigned long long)a->bad);
    for (size_t i = 0; i < a->kind_count; i++)
        buf_printf(out, "%s\"%s\":%llu", i ? "," : "", noise_name(a->kinds[i]),
                   (unsigned long long)a->of_kind[a->kinds[i]]);
    buf_puts(out, "}}\n");
}

static ErrCode report(const Augment *a, uint64_t lines, FILE *out, Err *err) {
    Buf text = {0};
    if (a->options->json)
        put_json(&text, a, lines);
    else
        put_report(&text, a, lines);
    const ErrCode rc = buf_print(&text, out, err);
    buf_free(&text);
    return rc;
}

static ErrCode check_taken(const Augment *a, Err *err) {
    if (a->taken) return ERR_OK;
    if (a->unsplit)
        return err_set(
            err, ERR_ARGUMENT,
            "none of %llu rows has \"split\": \"train\", and %llu name no split; split them first, or give "
            "--unsplit where all of them are for training",
            (unsigned long long)a->read, (unsigned long long)a->unsplit);
    return err_set(err, ERR_ARGUMENT, "none of %llu rows has \"split\": \"train\"",
                   (unsigned long long)a->read);
}

static ErrCode augment(Augment *a, Threads *threads, FILE *out, Err *err) {
    const AugmentOptions *o = a->options;
    const int count = threads_count(threads);
    Progress progress;
    progress_begin(&progress, "augment", 0, 0);
    const Scan scan = {.inputs = a->inputs,
                       .record = {o->text_field, o->label_field, true},
                       .work = work,
                       .take = take,
                       .arg = a,
                       .threads = threads,
                       .progress = &progress};
    ErrCode rc = mem_new(&a->made, SCAN_GROUP_ROWS, sizeof *a->made, "a group of variants", err);
    if (rc == ERR_OK)
        rc = mem_new(&a->scratch, (size_t)count, sizeof *a->scratch, "a group of variants", err);
    if (rc == ERR_OK) rc = jsonl_create(&a->out, o->out, err);
    if (rc == ERR_OK) rc = scan_rows(&scan, err);
    if (rc == ERR_OK) rc = check_taken(a, err);
    const uint64_t lines = a->out.lines;
    if (rc == ERR_OK) rc = jsonl_commit(&a->out, err);
    progress_end(&progress);
    if (rc == ERR_OK) rc = report(a, lines, out, err);
    jsonl_abort(&a->out);
    for (size_t i = 0; a->made && i < SCAN_GROUP_ROWS; i++) buf_free(&a->made[i].lines);
    for (int i = 0; a->scratch && i < count; i++) buf_free(&a->scratch[i]);
    mem_free(a->made);
    mem_free(a->scratch);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const AugmentOptions *o = options;
    if (!o->out) return err_set(err, ERR_ARGUMENT, "--out: expected the JSONL to write");
    Inputs inputs = {0};
    Threads *threads = NULL;
    Augment a = {.options = o, .inputs = &inputs};
    (void)snprintf(a.strength, sizeof a.strength, "%.4g", o->strength);
    ErrCode rc = read_kinds(&a, &o->kinds, err);
    for (size_t i = 0; rc == ERR_OK && i < arguments->count; i++)
        rc = inputs_add(&inputs, arguments->items[i], 1, o->out, err);
    if (rc == ERR_OK) rc = threads_open(&threads, (int)o->threads, err);
    if (rc == ERR_OK) rc = augment(&a, threads, out, err);
    threads_close(threads);
    inputs_close(&inputs);
    return rc;
}

const Command augment_cmd = {
    .name = "data augment",
    .summary = "noise variants of training rows: typing errors, lost capitals, small talk",
    .usage = "data augment IN... --out FILE",
    .details =
        "IN is a JSONL file (plain, gzip or zstd), a folder of them, or - for stdin. Each row whose split is "
        "train\n"
        "gives --copies variants of the same label; rows of other splits are never touched. A variant "
        "depends on the\n"
        "seed, the row's text and its own number alone, and is never the row's text itself. Code, formulas "
        "and\n"
        "addresses inside a prompt stay as they are. A variant looks like\n"
        "  {\"text\": \"why is teh sky blue?\", \"label\": \"science\", \"split\": \"train\", \"id\": "
        "\"q7~1\",\n"
        "   \"kind\": \"synthetic\", \"augmentation\": \"typos:0.1\", \"parent\": \"q7\"}\n\n"
        "Examples:\n"
        "  router data augment split.jsonl --out noisy.jsonl.zst --copies 2\n"
        "  router data augment split.jsonl --out typos.jsonl --kinds typos,case --strength 0.3 --seed 7\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(AugmentOptions),
    .positional_min = 1,
    .positional_max = SIZE_MAX,
    .takes_config = false,
    .run = run,
};
