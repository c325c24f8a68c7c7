#include "eval/predict_cmd.h"

#include <errno.h>
#include <string.h>

#include "core/lines.h"
#include "core/mem.h"
#include "core/stop.h"
#include "core/text.h"
#include "core/threads.h"
#include "data/record.h"
#include "eval/predict.h"

typedef struct {
    bool lines, skip_bad;
    char *text_field, *backend;
    int64_t top, batch, max_length, threads;
} Options;

/* One input line: a text, or why there is none. */
typedef struct {
    size_t text_at, text_len; /* in Predict.bytes */
    size_t id_at;             /* likewise, a JSON value; SIZE_MAX: none */
    bool bad;                 /* text is the message */
} Item;

typedef struct {
    const Options *options;
    Threads *threads;
    Predictor *predictor;
    Record record;
    Item *items; /* (batch) */
    size_t count;
    Buf bytes, out;
    RowText *texts;    /* (batch): of the good ones */
    float *logits;     /* (batch, K) */
    double *p;         /* (K): of one line */
    PredictSeen *seen; /* (batch) */
    int *order;        /* (K) */
} Predict;

static void close_all(Predict *s) {
    record_free(&s->record);
    mem_free(s->items);
    buf_free(&s->bytes);
    buf_free(&s->out);
    mem_free(s->texts);
    mem_free(s->logits);
    mem_free(s->p);
    mem_free(s->seen);
    mem_free(s->order);
    predict_close(s->predictor);
    threads_close(s->threads);
}

/* ---- in ---- */

/* The id as the JSON value it was, so that a number stays one. */
static ErrCode put_id(Predict *s, Item *item, Err *err) {
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(s->record.tree, "id");
    item->id_at = SIZE_MAX;
    if (!s->record.id || !id) return ERR_OK;
    item->id_at = s->bytes.len;
    if (cJSON_IsString(id))
        text_put_json(&s->bytes, s->record.id, strlen(s->record.id));
    else
        buf_puts(&s->bytes, s->record.id);
    buf_put(&s->bytes, "", 1);
    return buf_ok(&s->bytes, err);
}

static ErrCode add_line(Predict *s, const char *text, size_t n, const char *path, size_t number, Err *err) {
    Item item = {.id_at = SIZE_MAX};
    Err why = {0};
    ErrCode rc = ERR_OK;
    if (!s->options->lines) {
        const RecordRule rule = {.text_field = s->options->text_field, .label_optional = true};
        rc = record_parse(&s->record, &rule, text, n, &why);
        text = s->record.text;
        n = s->record.text_len;
    }
    if (rc == ERR_OK) {
        TRY(put_id(s, &item, err));
    } else {
        (void)err_context(&why, rc, "%s:%zu", path, number);
        if (rc != ERR_FORMAT || !s->options->skip_bad) {
            if (err) *err = why;
            return rc;
        }
        item.bad = true;
        text = why.msg;
        n = strlen(why.msg);
    }
    item.text_at = s->bytes.len;
    item.text_len = n;
    buf_put(&s->bytes, text, n);
    s->items[s->count++] = item;
    return buf_ok(&s->bytes, err);
}

/* ---- out ---- */

static void put_scores(Predict *s, const double *p) {
    const int K = predict_classes(s->predictor);
    const char *const *labels = predict_labels(s->predictor);
    const int64_t top = s->options->top == 0 || s->options->top > K ? K : s->options->top;
    for (int k = 0; k < K; k++) s->order[k] = k;
    /* Only the first `top` places have to be right: selection. All of them stay in the order of the labels.
     */
    for (int i = 0; i < top && top < K; i++) {
        int best = i;
        for (int j = i + 1; j < K; j++)
            if (p[s->order[j]] > p[s->order[best]] ||
                (p[s->order[j]] == p[s->order[best]] && s->order[j] < s->order[best]))
                best = j;
        const int swap = s->order[i];
        s->order[i] = s->order[best];
        s->order[best] = swap;
    }
    buf_puts(&s->out, ", \"scores\": {");
    for (int i = 0; i < top; i++) {
        const char *label = labels[s->order[i]];
        if (i) buf_puts(&s->out, ", ");
        text_put_json(&s->out, label, strlen(label));
        buf_printf(&s->out, ": %.6g", p[s->order[i]]);
    }
    buf_puts(&s->out, "}");
}

/* A label may be named "abstain": "abstained" tells. The confidence is only given where it is compared. */
static void put_decision(Predict *s, const DecideAnswer *answer) {
    const DecideRule *rule = predict_rule(s->predictor);
    const char *const *labels = predict_labels(s->predictor);
    const char *said = answer->abstained ? "abstain" : labels[answer->label];
    buf_puts(&s->out, ", \"decision\": ");
    text_put_json(&s->out, said, strlen(said));
    buf_printf(&s->out, ", \"abstained\": %s", answer->abstained ? "true" : "false");
    if (rule->score == DECIDE_ALWAYS) return;
    if (answer->abstained && rule->fallback >= 0) {
        buf_puts(&s->out, ", \"fallback\": ");
        text_put_json(&s->out, labels[rule->fallback], strlen(labels[rule->fallback]));
    }
    buf_printf(&s->out, ", \"confidence\": %.6g", (double)answer->score);
}

static void put_answer(Predict *s, const Item *item, size_t row) {
    const int K = predict_classes(s->predictor);
    Buf *out = &s->out;
    buf_puts(out, "{");
    if (item->id_at != SIZE_MAX) buf_printf(out, "\"id\": %s, ", s->bytes.data + item->id_at);
    if (item->bad) {
        buf_puts(out, "\"error\": ");
        text_put_json(out, s->bytes.data + item->text_at, item->text_len);
    } else {
        const DecideAnswer answer = decide(s->p, s->logits + row * (size_t)K, K, predict_rule(s->predictor));
        const char *label = predict_labels(s->predictor)[answer.label];
        buf_puts(out, "\"label\": ");
        text_put_json(out, label, strlen(label));
        buf_printf(out, ", \"score\": %.6g", s->p[answer.label]);
        put_scores(s, s->p);
        put_decision(s, &answer);
        buf_printf(out, ", \"tokens\": %d, \"truncated\": %s", s->seen[row].tokens,
                   s->seen[row].truncated ? "true" : "false");
    }
    buf_puts(out, "}\n");
}

/* Answers the group and empties it. */
static ErrCode flush(Predict *s, FILE *out, Err *err) {
    size_t good = 0;
    for (size_t i = 0; i < s->count; i++)
        if (!s->items[i].bad)
            s->texts[good++] = (RowText){s->bytes.data + s->items[i].text_at, s->items[i].text_len};
    TRY(predict_logits(s->predictor, s->logits, NULL, s->seen, s->texts, good, err));
    buf_clear(&s->out);
    size_t row = 0;
    for (size_t i = 0; i < s->count; i++) {
        put_answer(s, &s->items[i], row);
        row += !s->items[i].bad;
    }
    TRY(buf_print(&s->out, out, err));
    errno = 0;
    if (fflush(out) != 0) return err_set(err, ERR_IO, "writing the answers failed (error %d)", errno);
    s->count = 0;
    buf_clear(&s->bytes);
    return ERR_OK;
}

static ErrCode predict_file(Predict *s, const char *path, FILE *out, Err *err) {
    Lines *lines;
    TRY(lines_open(&lines, path, err));
    ErrCode rc = ERR_OK;
    bool more = true;
    while (rc == ERR_OK && more) {
        const char *text;
        size_t n;
        rc = lines_next(lines, &text, &n, &more, err);
        if (rc != ERR_OK) break;
        /* with --lines, an empty line is an empty prompt: answers stay in step with lines */
        if (more && (s->options->lines || !text_is_blank(text, n)))
            rc = add_line(s, text, n, lines_path(lines), lines_number(lines), err);
        const bool full = s->count == (size_t)s->options->batch || s->bytes.len > RECORD_TEXT_MAX;
        if (s->count && (rc != ERR_OK || !more || full)) {
            /* answers before a bad line are still given */
            Err other = {0};
            const ErrCode flushed = flush(s, out, &other);
            if (rc == ERR_OK && flushed != ERR_OK) {
                rc = flushed;
                if (err) *err = other;
            }
        }
        if (rc == ERR_OK && more && stop_requested())
            rc = err_set(err, ERR_INTERRUPTED, "stopped at %s:%zu", lines_path(lines), lines_number(lines));
    }
    lines_close(lines);
    return rc;
}

static ErrCode open_all(Predict *s, const char *model, Err *err) {
    const Options *o = s->options;
    TRY(threads_open(&s->threads, (int)o->threads, err));
    const PredictRule rule = {.backend = o->backend, .max_tokens = (int)o->max_length};
    TRY(predict_open(&s->predictor, model, &rule, s->threads, err));
    const size_t K = (size_t)predict_classes(s->predictor), rows = (size_t)o->batch;
    TRY(mem_new(&s->items, rows, sizeof *s->items, "the lines", err));
    TRY(mem_new(&s->texts, rows, sizeof *s->texts, "the lines", err));
    TRY(mem_new(&s->seen, rows, sizeof *s->seen, "the lines", err));
    TRY(mem_new(&s->logits, rows, K * sizeof *s->logits, "logits", err));
    TRY(mem_new(&s->p, K, sizeof *s->p, "probabilities", err));
    return mem_new(&s->order, K, sizeof *s->order, "the labels", err);
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    Predict s = {.options = options};
    ErrCode rc = open_all(&s, arguments->items[0], err);
    if (rc == ERR_OK && arguments->count == 1) rc = predict_file(&s, "-", out, err);
    for (size_t i = 1; rc == ERR_OK && i < arguments->count; i++)
        rc = predict_file(&s, arguments->items[i], out, err);
    close_all(&s);
    return rc;
}

#define AT(field) offsetof(Options, field)

static const Flag FLAGS[] = {
    {"lines", NULL, FLAG_BOOL, AT(lines), NULL, 0, 0, NULL,
     "Each line is a prompt as it stands, instead of a JSON object."},
    {"text_field", NULL, FLAG_STRING, AT(text_field), NULL, 0, 0, "NAME",
     "Member with the text, where it is not one of the usual names."},
    {"top", NULL, FLAG_INT, AT(top), "0", 0, 4096, NULL, "Give only the N best scores, best first; 0: all."},
    {"skip_bad", NULL, FLAG_BOOL, AT(skip_bad), NULL, 0, 0, NULL,
     "Answer a bad line with {\"error\": ...} instead of stopping."},
    {"batch", "batch_size", FLAG_INT, AT(batch), "256", 1, 65536, NULL,
     "Lines answered together; 1 answers each line as it comes."},
    {"max_length", "max_seq_length", FLAG_INT, AT(max_length), "0", 0, 65536, NULL,
     "Tokens at which texts are cut; 0: the model's own rule."},
    {"backend", NULL, FLAG_STRING, AT(backend), NULL, 0, 0, "NAME",
     "Backend for a folder, in fp32: auto (the default), x86, blas or ref."},
    {"threads", NULL, FLAG_INT, AT(threads), "0", 0, 1024, NULL, "Threads; 0: one per CPU."},
};

const Command predict_cmd = {
    .name = "predict",
    .summary = "route prompts: JSONL or lines in, JSONL out",
    .usage = "predict MODEL [FILE...] [OPTIONS]",
    .details =
        "MODEL is an exported file, a run folder or a Hugging Face folder. FILE is JSONL (plain, gzip or "
        "zstd);\n"
        "without one, or with -, stdin is read. Each line's answer, in the order of the lines:\n"
        "  {\"id\": ..., \"label\": \"math\", \"score\": 0.98, \"scores\": {\"math\": 0.98, ...},\n"
        "   \"decision\": \"math\", \"abstained\": false, \"tokens\": 12, \"truncated\": false}\n"
        "(id only where the line has one). Where `router calibrate` has left a threshold, \"decision\" may "
        "be\n"
        "\"abstain\", \"confidence\" is what was compared with it, and \"fallback\" is the label to send "
        "the\n"
        "prompt to. Blank lines of JSONL have no answer.\n\n"
        "Examples:\n"
        "  router predict router.safetensors prompts.jsonl > answers.jsonl\n"
        "  echo 'why is the sky blue?' | router predict runs/first --lines --top 1\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(Options),
    .positional_min = 1,
    .positional_max = 100000,
    .takes_config = false,
    .run = run,
};
