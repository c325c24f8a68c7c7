#include "tokenizer/tokenize_cmd.h"

#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/lines.h"
#include "core/mem.h"
#include "core/stop.h"
#include "core/text.h"
#include "core/threads.h"
#include "tokenizer/spm.h"
#include "tokenizer/tokenizer.h"

typedef struct {
    char *model, *text_field, *out;
    FlagList input;
    bool json, plain, no_specials, train, text_lines;
    int64_t max_tokens, threads, vocab_size;
} TokenizeOptions;

static const Flag FLAGS[] = {
    {"model", NULL, FLAG_STRING, offsetof(TokenizeOptions, model), NULL, 0, 0, "PATH",
     "#Tokenizing\nThe tokenizer: spm.model or a folder that holds it."},
    {"input", NULL, FLAG_LIST, offsetof(TokenizeOptions, input), NULL, 0, 0, "FILE",
     "Texts, one a line; plain, gzip or zstd; - is stdin, which is also read when no text is given."},
    {"json", NULL, FLAG_BOOL, offsetof(TokenizeOptions, json), NULL, 0, 0, NULL,
     "Lines are JSON objects with the text in a member, and so are the results: {\"ids\": [...]}."},
    {"text_field", NULL, FLAG_STRING, offsetof(TokenizeOptions, text_field), "text", 0, 0, "KEY",
     "Member that holds the text."},
    {"max_tokens", NULL, FLAG_INT, offsetof(TokenizeOptions, max_tokens), "0", 0, 1000000000, NULL,
     "Truncate to so many ids, [CLS] and [SEP] among them; 0 keeps all."},
    {"no_specials", NULL, FLAG_BOOL, offsetof(TokenizeOptions, no_specials), NULL, 0, 0, NULL,
     "Leave out [CLS] and [SEP]."},
    {"plain", NULL, FLAG_BOOL, offsetof(TokenizeOptions, plain), NULL, 0, 0, NULL,
     "Take [CLS], [MASK] and the like in a text as ordinary characters."},
    {"threads", NULL, FLAG_INT, offsetof(TokenizeOptions, threads), "0", 0, 1024, NULL,
     "Threads; 0 is one for each CPU. Results do not depend on it."},
    {"train", NULL, FLAG_BOOL, offsetof(TokenizeOptions, train), NULL, 0, 0, NULL,
     "#Training a tokenizer\nLearn one from the texts of --input and write it to --out."},
    {"vocab_size", NULL, FLAG_INT, offsetof(TokenizeOptions, vocab_size), "8000", 261, 1000000, NULL,
     "Pieces to learn, 260 fixed ones among them; little text gives fewer."},
    {"text_lines", NULL, FLAG_BOOL, offsetof(TokenizeOptions, text_lines), NULL, 0, 0, NULL,
     "Training lines are plain text instead of JSON objects."},
    {"out", NULL, FLAG_STRING, offsetof(TokenizeOptions, out), NULL, 0, 0, "PATH",
     "The spm.model to write; a folder that exists gets the files of a Hugging Face tokenizer."},
};

/* ---- reading texts ---- */

typedef struct {
    const FlagList *files; /* NULL: stdin */
    size_t next_file;
    Lines *lines;
    const char *json_field; /* NULL: a line is a text */
} Source;

/* Text of one line appended to bytes. */
static ErrCode put_text(const Source *s, const char *line, size_t n, Buf *bytes, Err *err) {
    if (!s->json_field) {
        buf_put(bytes, line, n);
        return buf_ok(bytes, err);
    }
    cJSON *root;
    TRY(json_parse(&root, line, n, err));
    cJSON *item = cJSON_IsObject(root) ? cJSON_GetObjectItemCaseSensitive(root, s->json_field) : NULL;
    ErrCode rc = ERR_OK;
    if (!cJSON_IsString(item)) {
        rc = err_set(err, ERR_FORMAT, "expected an object with a string \"%s\", found %s", s->json_field,
                     !cJSON_IsObject(root) ? "no object"
                     : item                ? "another type"
                                           : "no such member");
    } else {
        size_t length;
        const char *text = json_text(item, &length);
        buf_put(bytes, text, length);
        rc = buf_ok(bytes, err);
    }
    cJSON_Delete(root);
    return rc;
}

/* The next text, appended to bytes; *more is false at the end of the last file. Blank lines are texts in
 * plain files and nothing in JSON files. */
static ErrCode source_next(Source *s, Buf *bytes, bool *more, Err *err) {
    for (;;) {
        if (!s->lines) {
            const size_t count = s->files ? s->files->count : 1;
            *more = s->next_file < count;
            if (!*more) return ERR_OK;
            TRY(lines_open(&s->lines, s->files ? s->files->items[s->next_file] : "-", err));
            s->next_file++;
        }
        const char *line;
        size_t n;
        TRY(lines_next(s->lines, &line, &n, more, err));
        if (*more && s->json_field && text_is_blank(line, n)) continue;
        if (*more) {
            const size_t before = bytes->len;
            ErrCode rc = put_text(s, line, n, bytes, err);
            if (rc == ERR_OK && bytes->len - before > SPM_TEXT_MAX)
                rc = err_set(err, ERR_FORMAT, "found a text of %zu bytes, expected at most %zu",
                             bytes->len - before, SPM_TEXT_MAX);
            if (rc != ERR_OK)
                return err_context(err, rc, "%s:%zu", lines_path(s->lines), lines_number(s->lines));
            return ERR_OK;
        }
        lines_close(s->lines);
        s->lines = NULL;
    }
}

/* ---- tokenizing ---- */

enum { BATCH_TEXTS = 1024, BATCH_BYTES = 4 << 20, COLUMNS = 100 };

static int32_t id_at(const Buf *ids, size_t i) {
    int32_t id;
    memcpy(&id, ids->data + i * sizeof id, sizeof id);
    return id;
}

static void put_ids_json(Buf *out, const Buf *ids) {
    const size_t count = ids->len / sizeof(int32_t);
    buf_puts(out, "{\"ids\": [");
    for (size_t i = 0; i < count; i++) buf_printf(out, i ? ", %d" : "%d", (int)id_at(ids, i));
    buf_puts(out, "]}\n");
}

/* The text, then its pieces with the ids below them. */
static void put_columns(Buf *out, const Tokenizer *t, const TokenizerJob *job) {
    const size_t count = job->ids.len / sizeof(int32_t);
    char shown[COLUMNS + 4];
    buf_printf(out, "\"%s\"\n", text_excerpt(shown, COLUMNS - 2, job->text, job->n));
    Buf numbers = {0};
    int column = 0;
    for (size_t i = 0; i < count; i++) {
        const int32_t id = id_at(&job->ids, i);
        const char *piece = tokenizer_piece(t, id);
        char number[16];
        (void)snprintf(number, sizeof number, "%d", (int)id);
        const int a = text_columns(piece), b = (int)strlen(number), width = a > b ? a : b;
        if (column && column + width + 2 > COLUMNS) {
            buf_printf(out, "\n%s\n\n", numbers.data ? numbers.data : "");
            buf_clear(&numbers);
            column = 0;
        }
        buf_printf(out, "  %s%*s", piece, width - a, "");
        buf_printf(&numbers, "  %-*s", width, number);
        column += width + 2;
    }
    if (count) buf_printf(out, "\n%s\n", numbers.data ? numbers.data : "");
    if (job->whole > count)
        buf_printf(out, "  %zu tokens of %zu\n\n", count, job->whole);
    else
        buf_printf(out, "  %zu token%s\n\n", count, count == 1 ? "" : "s");
    out->failed = out->failed || numbers.failed;
    buf_free(&numbers);
}

typedef struct {
    const TokenizeOptions *options;
    const Tokenizer *tokenizer;
    Threads *threads;
    TokenizerJob *jobs; /* BATCH_TEXTS */
    size_t starts[BATCH_TEXTS + 1];
    Buf texts, printed;
    FILE *out;
} Batch;

static ErrCode flush(Batch *b, size_t count, Err *err) {
    const TokenizeOptions *o = b->options;
    const TokenizerRule rule = {
        .plain = o->plain, .no_specials = o->no_specials, .max_tokens = (int)o->max_tokens};
    for (size_t i = 0; i < count; i++) {
        b->jobs[i].text = b->texts.data ? b->texts.data + b->starts[i] : "";
        b->jobs[i].n = b->starts[i + 1] - b->starts[i];
    }
    TRY(tokenizer_encode_all(b->tokenizer, &rule, b->jobs, count, b->threads, err));
    buf_clear(&b->printed);
    for (size_t i = 0; i < count; i++) {
        if (o->json)
            put_ids_json(&b->printed, &b->jobs[i].ids);
        else
            put_columns(&b->printed, b->tokenizer, &b->jobs[i]);
    }
    TRY(buf_print(&b->printed, b->out, err));
    if (fflush(b->out) != 0) return err_set(err, ERR_IO, "cannot write the ids");
    buf_clear(&b->texts);
    return ERR_OK;
}

static ErrCode tokenize_source(Batch *b, Source *source, Err *err) {
    for (bool more = true; more;) {
        size_t count = 0;
        while (more && count < BATCH_TEXTS && b->texts.len < BATCH_BYTES) {
            b->starts[count] = b->texts.len;
            TRY(source_next(source, &b->texts, &more, err));
            if (more) count++;
        }
        b->starts[count] = b->texts.len;
        TRY(flush(b, count, err));
        if (stop_requested()) return err_set(err, ERR_INTERRUPTED, "interrupted");
    }
    return ERR_OK;
}

static ErrCode tokenize_arguments(Batch *b, const FlagList *arguments, Err *err) {
    for (size_t at = 0; at < arguments->count;) {
        size_t count = 0;
        for (; at < arguments->count && count < BATCH_TEXTS; at++) {
            b->starts[count++] = b->texts.len;
            buf_puts(&b->texts, arguments->items[at]);
        }
        b->starts[count] = b->texts.len;
        TRY(buf_ok(&b->texts, err));
        TRY(flush(b, count, err));
    }
    return ERR_OK;
}

static ErrCode run_tokenize(const TokenizeOptions *o, const FlagList *arguments, FILE *out, Err *err) {
    if (!o->model) return err_set(err, ERR_ARGUMENT, "--model: expected spm.model or a folder that holds it");
    if (o->out) return err_set(err, ERR_ARGUMENT, "--out: only --train writes a file; ids go to stdout");
    if (arguments->count && o->input.count)
        return err_set(err, ERR_ARGUMENT, "found texts and --input, expected one of them");
    Batch *b;
    TRY(mem_new(&b, 1, sizeof *b, "the tokenizer's batch", err));
    Tokenizer *tokenizer = NULL;
    Source source = {.files = o->input.count ? &o->input : NULL,
                     .json_field = o->json ? o->text_field : NULL};
    b->options = o;
    b->out = out;
    ErrCode rc = mem_new(&b->jobs, BATCH_TEXTS, sizeof *b->jobs, "the tokenizer's batch", err);
    if (rc == ERR_OK) rc = tokenizer_open(&tokenizer, o->model, err);
    if (rc == ERR_OK) rc = threads_open(&b->threads, (int)o->threads, err);
    b->tokenizer = tokenizer;
    if (rc == ERR_OK && arguments->count)
        rc = tokenize_arguments(b, arguments, err);
    else if (rc == ERR_OK)
        rc = tokenize_source(b, &source, err);
    lines_close(source.lines);
    threads_close(b->threads);
    tokenizer_close(tokenizer);
    for (size_t i = 0; b->jobs && i < BATCH_TEXTS; i++) buf_free(&b->jobs[i].ids);
    mem_free(b->jobs);
    buf_free(&b->texts);
    buf_free(&b->printed);
    mem_free(b);
    return rc;
}

/* ---- training ---- */

typedef struct {
    Buf bytes, starts; /* starts: size_t values */
    const char **sentences;
    size_t *lengths, count;
} Sentences;

static ErrCode read_sentences(Sentences *s, const TokenizeOptions *o, Err *err) {
    Source source = {.files = &o->input, .json_field = o->text_lines ? NULL : o->text_field};
    ErrCode rc = ERR_OK;
    for (bool more = true; more && rc == ERR_OK;) {
        const size_t start = s->bytes.len;
        rc = source_next(&source, &s->bytes, &more, err);
        if (rc == ERR_OK && more) {
            buf_put(&s->starts, &start, sizeof start);
            rc = buf_ok(&s->starts, err);
            s->count++;
        }
        if (rc == ERR_OK && stop_requested()) rc = err_set(err, ERR_INTERRUPTED, "interrupted");
    }
    lines_close(source.lines);
    if (rc == ERR_OK) rc = mem_new(&s->sentences, s->count + 1, sizeof *s->sentences, "the sentences", err);
    if (rc == ERR_OK) rc = mem_new(&s->lengths, s->count + 1, sizeof *s->lengths, "the sentences", err);
    if (rc != ERR_OK) return rc;
    size_t end = s->bytes.len;
    for (size_t i = s->count; i-- > 0;) {
        size_t start;
        memcpy(&start, s->starts.data + i * sizeof start, sizeof start);
        s->sentences[i] = s->bytes.data ? s->bytes.data + start : "";
        s->lengths[i] = end - start;
        end = start;
    }
    return ERR_OK;
}

static ErrCode run_train(const TokenizeOptions *o, const FlagList *arguments, FILE *out, Err *err) {
    if (!o->out) return err_set(err, ERR_ARGUMENT, "--out: expected the spm.model to write");
    if (arguments->count || !o->input.count)
        return err_set(err, ERR_ARGUMENT, "--train: texts come from --input FILE");
    Sentences s = {0};
    Buf model = {0};
    Tokenizer *tokenizer = NULL;
    ErrCode rc = read_sentences(&s, o, err);
    if (rc == ERR_OK)
        rc = spm_train(&model, s.sentences, s.lengths, s.count, (int)o->vocab_size, (int)o->threads, err);
    /* What could not be opened again is not worth writing. */
    if (rc == ERR_OK) rc = tokenizer_open_bytes(&tokenizer, model.data, model.len, err);
    if (rc == ERR_OK && file_is_dir(o->out))
        rc = tokenizer_save(tokenizer, o->out, o->max_tokens ? (int)o->max_tokens : 512, err);
    else if (rc == ERR_OK)
        rc = file_save(o->out, model.data, model.len, err);
    if (rc == ERR_OK) {
        /* one id more than there are pieces: [MASK] */
        const int n =
            fprintf(out, "%s: %d pieces from %zu texts\n", o->out, tokenizer_ids(tokenizer) - 1, s.count);
        if (n < 0 || fflush(out) != 0) rc = err_set(err, ERR_IO, "cannot write the summary");
    }
    tokenizer_close(tokenizer);
    buf_free(&model);
    buf_free(&s.bytes);
    buf_free(&s.starts);
    mem_free(s.sentences);
    mem_free(s.lengths);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const TokenizeOptions *o = options;
    return o->train ? run_train(o, arguments, out, err) : run_tokenize(o, arguments, out, err);
}

const Command tokenize_cmd = {
    .name = "tokenize",
    .summary = "texts to token ids; or learns a tokenizer",
    .usage = "tokenize [TEXT...] --model PATH  |  tokenize --train --input FILE... --out PATH",
    .details =
        "Ids are those of Hugging Face's slow DebertaV2Tokenizer.\n\n"
        "Examples:\n"
        "  router tokenize 'my knee hurts' --model deberta-v3-base/\n"
        "  router tokenize --json --input prompts.jsonl --max-tokens 512 --model spm.model > ids.jsonl\n"
        "  router tokenize --train --input prompts.jsonl --vocab-size 16000 --out spm.model\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(TokenizeOptions),
    .positional_min = 0,
    .positional_max = SIZE_MAX,
    .takes_config = true,
    .run = run,
};
