#include "train/card.h"

#include <math.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/text.h"

#include <string.h>

/* A name inside a table of Markdown: one line, no column of its own, no markup. */
static void put_name(Buf *out, const char *name) {
    for (; *name; name++) {
        if (strchr("|\\`*_<>[]&#", *name)) buf_puts(out, "\\");
        buf_put(out, (unsigned char)*name < ' ' ? " " : name, 1);
    }
}

/* What the labels are, over time: a table where there is anything to say, else their names. */
static void put_labels(Buf *out, const Config *config) {
    const Taxonomy *t = &config->taxonomy;
    if (!taxonomy_says(t)) {
        for (int k = 0; k < config->num_labels; k++) buf_printf(out, "- `%s`\n", config->labels[k]);
        return;
    }
    buf_puts(out,
             "| id | label | what belongs there | answered | since revision | formerly |\n"
             "| ---: | --- | --- | --- | ---: | --- |\n");
    for (int k = 0; k < t->count; k++) {
        const TaxonomyLabel *label = &t->labels[k];
        buf_printf(out, "| %d | ", k);
        put_name(out, config->labels[k]);
        buf_puts(out, " | ");
        put_name(out, label->description ? label->description : "");
        buf_printf(out, " | %s | %d | ", label->retired ? "no, retired" : "yes", label->since);
        for (int i = 0; i < label->former_count; i++) {
            if (i) buf_puts(out, ", ");
            put_name(out, label->former[i]);
        }
        buf_puts(out, " |\n");
    }
    buf_printf(out, "\nRevision %d of this router's labels", t->revision);
    if (t->parent[0]) buf_printf(out, "; it was made from the model file with SHA-256 `%s`", t->parent);
    buf_puts(out, ".\n");
}

/* YAML takes a JSON string as a double-quoted scalar. */
static void put_front_matter(Buf *out, const CkptCard *card) {
    buf_puts(out,
             "---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags:\n- deberta-v2\n- "
             "text-classification\n"
             "- prompt-routing\n");
    if (card->base) {
        buf_puts(out, "base_model: ");
        text_put_json(out, card->base, strlen(card->base));
        buf_puts(out, "\n");
    }
    buf_puts(out, "metrics:\n- accuracy\n");
    if (isfinite(card->dev_accuracy))
        buf_printf(out,
                   "model-index:\n- name: router\n  results:\n  - task:\n      type: text-classification\n   "
                   " dataset:\n"
                   "      name: dev split of the training corpus\n      type: jsonl\n      split: dev\n"
                   "    metrics:\n    - type: accuracy\n      value: %.6f\n",
                   card->dev_accuracy);
    buf_puts(out, "---\n\n");
}

ErrCode card_save(const char *dir, const Config *config, const CkptCard *card, Err *err) {
    Buf out = {0};
    put_front_matter(&out, card);
    buf_printf(&out,
               "# Prompt router\n\nA DeBERTa-v3 classifier (%d layers, hidden size %d, vocabulary %d) that "
               "sends a prompt to one of %d domains:\n\n",
               config->num_hidden_layers, config->hidden_size, config->vocab_size,
               taxonomy_says(&config->taxonomy) ? taxonomy_active(&config->taxonomy) : config->num_labels);
    put_labels(&out, config);
    buf_printf(&out,
               "\n## Input\n\nThe prompt alone, at most %d tokens (the first ones are kept). Special tokens "
               "that are written in a prompt are %s.\n",
               card->max_tokens, card->plain ? "taken as text" : "recognised");
    buf_printf(&out,
               "\n## Training\n\n%s %s. %llu training rows, batches of %d, learning rate %g, planned epochs "
               "%d, saved after step "
               "%lld.\nContent digest of the data: `%s`.\n",
               card->base ? "Fine-tuned from" : "Trained from scratch:",
               card->base ? card->base : "all weights began random", (unsigned long long)card->train_rows,
               card->batch_rows, card->learning_rate, card->epochs, (long long)card->step, card->data_digest);
    buf_puts(&out, "\n## Evaluation\n\n");
    if (isfinite(card->dev_accuracy))
        buf_printf(
            &out,
            "Dev split (used to choose the checkpoint, so not a test result): accuracy %.4f, loss %.4f.\n"
            "`router eval` measures the untouched test split.\n",
            card->dev_accuracy, card->dev_loss);
    else
        buf_puts(&out, "Not yet evaluated; `router eval` measures the untouched test split.\n");
    char *path = file_join(dir, "README.md");
    ErrCode rc = buf_ok(&out, err);
    if (rc == ERR_OK && !path) rc = err_set(err, ERR_MEMORY, "out of memory");
    if (rc == ERR_OK) rc = file_save(path, out.data, out.len, err);
    mem_free(path);
    buf_free(&out);
    return rc;
}

/* ---- results ---- */

enum { CARD_MAX = 1 << 20 };

static void put_index(Buf *out, const CardResult *results, size_t count) {
    buf_puts(out, "model-index:\n- name: router\n  results:\n");
    for (size_t i = 0; i < count; i++) {
        buf_puts(out, "  - task:\n      type: text-classification\n    dataset:\n      name: ");
        text_put_json(out, results[i].set, strlen(results[i].set));
        buf_printf(
            out,
            "\n      type: jsonl\n    metrics:\n    - type: accuracy\n      value: %.6f\n    - type: f1\n"
            "      name: macro F1\n      value: %.6f\n",
            results[i].accuracy, results[i].macro_f1);
    }
}

static void put_section(Buf *out, const CardResult *results, size_t count) {
    buf_puts(out,
             "## Evaluation\n\n| set | rows | accuracy, % [95 % interval] | macro F1, % | ECE |\n"
             "| --- | ---: | ---: | ---: | ---: |\n");
    for (size_t i = 0; i < count; i++) {
        const CardResult *r = &results[i];
        buf_puts(out, "| ");
        put_name(out, r->set);
        buf_printf(out, " | %llu | %.2f [%.2f, %.2f] | %.2f | %.4f |\n", (unsigned long long)r->n,
                   100 * r->accuracy, 100 * r->low, 100 * r->high, 100 * r->macro_f1, r->ece);
    }
}

/* Where `line` begins a line of text[from..to), or `to`. */
static size_t find_line(const char *text, size_t from, size_t to, const char *line) {
    const size_t n = strlen(line);
    for (size_t i = from; i + n <= to; i++)
        if ((i == 0 || text[i - 1] == '\n') && memcmp(text + i, line, n) == 0) return i;
    return to;
}

/* Front matter, without its old index; then the rest, without its old section. */
static ErrCode replace(Buf *out, const Buf *old, const CardResult *results, size_t count, const char *path,
                       Err *err) {
    const char *text = old->data;
    const size_t n = old->len, end = n > 4 ? find_line(text, 4, n, "---\n") : n;
    if (end == n || memcmp(text, "---\n", 4) != 0)
        return err_set(err, ERR_FORMAT,
                       "%s: expected a model card that begins with front matter between lines of ---", path);
    const size_t index = find_line(text, 4, end, "model-index:");
    size_t next =
        index; /* the key behind it: the next line that neither is indented nor an item of its list */
    while (next < end && (next == index || text[next] == ' ' || text[next] == '-' || text[next] == '\n')) {
        const char *line_end = memchr(text + next, '\n', end - next);
        next = line_end ? (size_t)(line_end - text) + 1 : end;
    }
    buf_put(out, text, index);
    put_index(out, results, count);
    buf_put(out, text + next, end - next);
    const size_t section = find_line(text, end, n, "## Evaluation");
    const size_t behind = section < n ? find_line(text, section + 3, n, "## ") : n;
    buf_put(out, text + end, section - end);
    if (section == n) buf_puts(out, "\n");
    put_section(out, results, count);
    if (behind < n) buf_puts(out, "\n");
    buf_put(out, text + behind, n - behind);
    return buf_ok(out, err);
}

ErrCode card_set_results(const char *dir, const CardResult *results, size_t count, Err *err) {
    Buf old = {0}, new = {0};
    char *path = file_join(dir, "README.md");
    if (!path) return err_set(err, ERR_MEMORY, "out of memory");
    ErrCode rc = file_read(&old, path, CARD_MAX, err);
    if (rc == ERR_OK) rc = replace(&new, &old, results, count, path, err);
    if (rc == ERR_OK) rc = file_save(path, new.data, new.len, err);
    mem_free(path);
    buf_free(&old);
    buf_free(&new);
    return rc;
}
