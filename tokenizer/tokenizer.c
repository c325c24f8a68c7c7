#include "tokenizer/tokenizer.h"

#include <pthread.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/sha256.h"
#include "tokenizer/spm.h"
#include "tokenizer/spm_check.h"

enum { SPECIALS = 5 };

static const char *const NAMES[SPECIALS] = {"[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"};

struct Tokenizer {
    Spm *spm;
    Buf model;
    char digest[SHA256_HEX];
    int ids[SPECIALS]; /* of NAMES */
};

ErrCode tokenizer_open_bytes(Tokenizer **out, const void *bytes, size_t n, Err *err) {
    *out = NULL;
    Tokenizer *t;
    TRY(mem_new(&t, 1, sizeof *t, "the tokenizer", err));
    ErrCode rc = spm_open(&t->spm, bytes, n, err);
    if (rc != ERR_OK) goto done;
    buf_put(&t->model, bytes, n);
    rc = buf_ok(&t->model, err);
    if (rc != ERR_OK) goto done;
    sha256_hex_of(t->digest, bytes, n);
    for (int i = 0; i < SPECIALS; i++) t->ids[i] = spm_find(t->spm, NAMES[i]);
    if (t->ids[4] < 0) t->ids[4] = spm_pieces(t->spm);
    for (int i = 0; i < SPECIALS && rc == ERR_OK; i++)
        if (t->ids[i] < 0)
            rc = err_set(err, ERR_FORMAT, "not a usable spm.model: it has no piece %s", NAMES[i]);
done:
    if (rc != ERR_OK) {
        tokenizer_close(t);
        return rc;
    }
    *out = t;
    return ERR_OK;
}

ErrCode tokenizer_open(Tokenizer **out, const char *path, Err *err) {
    *out = NULL;
    Buf bytes = {0};
    char *inside = NULL;
    ErrCode rc = ERR_OK;
    if (file_is_dir(path)) {
        path = inside = file_join(path, "spm.model");
        if (!inside) return err_set(err, ERR_MEMORY, "out of memory opening the tokenizer");
    }
    rc = file_read(&bytes, path, SPM_CHECK_BYTES, err);
    if (rc == ERR_OK) {
        rc = tokenizer_open_bytes(out, bytes.data ? bytes.data : "", bytes.len, err);
        if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    }
    buf_free(&bytes);
    mem_free(inside);
    return rc;
}

void tokenizer_close(Tokenizer *t) {
    if (!t) return;
    spm_close(t->spm);
    buf_free(&t->model);
    mem_free(t);
}

TokenizerSpecials tokenizer_specials(const Tokenizer *t) {
    return (TokenizerSpecials){t->ids[0], t->ids[1], t->ids[2], t->ids[3], t->ids[4]};
}

int tokenizer_ids(const Tokenizer *t) {
    const int pieces = spm_pieces(t->spm);
    return t->ids[4] < pieces ? pieces : t->ids[4] + 1;
}

const char *tokenizer_piece(const Tokenizer *t, int id) {
    if (id == t->ids[4]) return NAMES[4];
    return id >= 0 && id < spm_pieces(t->spm) ? spm_piece(t->spm, id) : "";
}

const void *tokenizer_model(const Tokenizer *t, size_t *n) {
    *n = t->model.len;
    return t->model.data;
}

const char *tokenizer_digest(const Tokenizer *t) {
    return t->digest;
}

/* ---- encoding ---- */

/* Where the first special string of s[0..n) begins, and which; n when there is none. */
static size_t find_special(const char *s, size_t n, int *which) {
    for (size_t i = 0; i < n;) {
        const char *bracket = memchr(s + i, '[', n - i);
        if (!bracket) break;
        i = (size_t)(bracket - s);
        for (int k = 0; k < SPECIALS; k++) {
            const size_t len = strlen(NAMES[k]);
            if (n - i >= len && memcmp(bracket, NAMES[k], len) == 0) {
                *which = k;
                return i;
            }
        }
        i++;
    }
    return n;
}

static size_t id_count(const Buf *ids) {
    return ids->len / sizeof(int32_t);
}

static void put_id(Buf *ids, int id) {
    const int32_t value = id;
    buf_put(ids, &value, sizeof value);
}

/* At least the first `need` ids of a text without special strings; all of them when need is SIZE_MAX.
 * A beginning that ends before a space and gives enough of them is enough, because its ids are a beginning of
 * all ids where spm_cuts_at_space. Each try is four times as long as the one before, so that all tries
 * together cost a third more than the whole at worst. */
static ErrCode encode_part(const Tokenizer *t, const char *text, size_t n, size_t need, Buf *ids, Err *err) {
    const size_t before = ids->len;
    if (spm_cuts_at_space(t->spm) && need < n / 16) {
        for (size_t part = 16 * need + 1024; part < n / 2; part *= 4) {
            const char *space = memchr(text + part, ' ', n - part);
            if (!space) break;
            part = (size_t)(space - text);
            TRY(spm_encode(t->spm, text, part, ids, err));
            if ((ids->len - before) / sizeof(int32_t) >= need) return ERR_OK;
            ids->len = before;
        }
    }
    return spm_encode(t->spm, text, n, ids, err);
}

ErrCode tokenizer_encode(const Tokenizer *t, const TokenizerRule *rule, const char *text, size_t n, Buf *ids,
                         size_t *whole, Err *err) {
    const size_t start = ids->len, frame = rule->no_specials ? 0 : 2;
    if (rule->max_tokens < 0 || (rule->max_tokens > 0 && (size_t)rule->max_tokens < frame))
        return err_set(err, ERR_ARGUMENT, "max_tokens: found %d, expected 0 (no truncation) or at least 2",
                       rule->max_tokens);
    /* text ids that are kept; what comes behind them is only counted */
    const size_t room = rule->max_tokens ? (size_t)rule->max_tokens - frame : SIZE_MAX;
    if (frame) put_id(ids, t->ids[1]);
    ErrCode rc = buf_ok(ids, err);
    const size_t first = id_count(ids);
    for (size_t at = 0; at < n && rc == ERR_OK;) {
        const size_t made = id_count(ids) - first;
        if (!whole && made >= room) break;
        int which = -1;
        const size_t part = rule->plain ? n - at : find_special(text + at, n - at, &which);
        const size_t need = whole || room == SIZE_MAX ? SIZE_MAX : room - made;
        if (part) rc = encode_part(t, text + at, part, need, ids, err);
        at += part;
        if (rc == ERR_OK && which >= 0) {
            put_id(ids, t->ids[which]);
            rc = buf_ok(ids, err);
            at += strlen(NAMES[which]);
        }
    }
    const size_t made = rc == ERR_OK ? id_count(ids) - first : 0;
    if (rc == ERR_OK && made > room) ids->len = (first + room) * sizeof(int32_t);
    if (rc == ERR_OK && frame) {
        put_id(ids, t->ids[2]);
        rc = buf_ok(ids, err);
    }
    if (rc != ERR_OK)
        ids->len = start;
    else if (whole)
        *whole = made + frame;
    return rc;
}

typedef struct {
    const Tokenizer *t;
    const TokenizerRule *rule;
    TokenizerJob *jobs;
    pthread_mutex_t lock;
    size_t failed; /* the first text that failed; the number of texts when none did */
    Err err;
} EncodeAll;

static void encode_one(void *arg, size_t i, int thread) {
    (void)thread;
    EncodeAll *all = arg;
    TokenizerJob *job = &all->jobs[i];
    Err err = {0};
    buf_clear(&job->ids);
    const ErrCode rc = tokenizer_encode(all->t, all->rule, job->text, job->n, &job->ids, &job->whole, &err);
    if (rc == ERR_OK) return;
    pthread_mutex_lock(&all->lock);
    if (i < all->failed) {
        all->failed = i;
        all->err = err;
    }
    pthread_mutex_unlock(&all->lock);
}

ErrCode tokenizer_encode_all(const Tokenizer *t, const TokenizerRule *rule, TokenizerJob *jobs, size_t count,
                             Threads *threads, Err *err) {
    EncodeAll all = {.t = t, .rule = rule, .jobs = jobs, .failed = count};
    if (pthread_mutex_init(&all.lock, NULL) != 0)
        return err_set(err, ERR_BACKEND, "cannot make a lock for the tokenizer's threads");
    threads_run(threads, encode_one, &all, count);
    pthread_mutex_destroy(&all.lock);
    if (all.failed == count) return ERR_OK;
    return err_set(err, all.err.code, "text %zu of %zu: %s", all.failed + 1, count, all.err.msg);
}

/* ---- saving: written by hand, because librouter does without a JSON library ---- */

static const struct {
    const char *key;
    int which;
} ROLES[] = {{"bos_token", 1}, {"cls_token", 1}, {"eos_token", 2}, {"mask_token", 4},
             {"pad_token", 0}, {"sep_token", 2}, {"unk_token", 3}};
enum { ROLE_COUNT = sizeof ROLES / sizeof *ROLES };

/* The value of a special token as transformers writes it. */
static void put_token(Buf *out, int which, const char *more) {
    buf_printf(out,
               "{\"content\": \"%s\", \"lstrip\": false, \"normalized\": %s, \"rstrip\": false, "
               "\"single_word\": false%s}",
               NAMES[which], which == 3 ? "true" : "false", more);
}

static void put_config(Buf *out, const Tokenizer *t, int max_tokens) {
    buf_puts(out, "{\n  \"added_tokens_decoder\": {\n");
    for (int i = 0; i < SPECIALS; i++) {
        buf_printf(out, "    \"%d\": ", t->ids[i]);
        put_token(out, i, ", \"special\": true");
        buf_puts(out, i + 1 < SPECIALS ? ",\n" : "\n  },\n");
    }
    for (size_t i = 0; i < ROLE_COUNT; i++)
        buf_printf(out, "  \"%s\": \"%s\",\n", ROLES[i].key, NAMES[ROLES[i].which]);
    buf_printf(out,
               "  \"clean_up_tokenization_spaces\": true,\n"
               "  \"do_lower_case\": false,\n"
               "  \"model_max_length\": %d,\n"
               "  \"sp_model_kwargs\": {},\n"
               "  \"split_by_punct\": false,\n"
               "  \"tokenizer_class\": \"DebertaV2Tokenizer\",\n"
               "  \"vocab_type\": \"spm\"\n}\n",
               max_tokens);
}

static void put_specials(Buf *out) {
    for (size_t i = 0; i < ROLE_COUNT; i++) {
        buf_printf(out, "%s  \"%s\": ", i ? ",\n" : "{\n", ROLES[i].key);
        put_token(out, ROLES[i].which, "");
    }
    buf_puts(out, "\n}\n");
}

/* What is no piece of spm.model: [MASK], as a rule. */
static void put_added(Buf *out, const Tokenizer *t) {
    if (t->ids[4] < spm_pieces(t->spm))
        buf_puts(out, "{}\n");
    else
        buf_printf(out, "{\n  \"%s\": %d\n}\n", NAMES[4], t->ids[4]);
}

ErrCode tokenizer_save(const Tokenizer *t, const char *dir, int max_tokens, Err *err) {
    static const char *const FILES[] = {"spm.model", "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json"};
    TRY(file_mkdirs(dir, err));
    ErrCode rc = ERR_OK;
    Buf made = {0};
    for (int i = 0; i < 4 && rc == ERR_OK; i++) {
        buf_clear(&made);
        switch (i) {
            case 0: buf_put(&made, t->model.data, t->model.len); break;
            case 1: put_config(&made, t, max_tokens); break;
            case 2: put_specials(&made); break;
            default: put_added(&made, t); break;
        }
        char *path = file_join(dir, FILES[i]);
        if (!path) rc = err_set(err, ERR_MEMORY, "out of memory saving the tokenizer");
        if (rc == ERR_OK) rc = buf_ok(&made, err);
        if (rc == ERR_OK) rc = file_save(path, made.data, made.len, err);
        mem_free(path);
    }
    buf_free(&made);
    return rc;
}
