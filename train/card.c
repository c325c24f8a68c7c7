#include "train/card.h"

#include <math.h>

#include "core/file.h"
#include "core/mem.h"
#include "core/text.h"

#include <string.h>

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
               config->num_hidden_layers, config->hidden_size, config->vocab_size, config->num_labels);
    for (int k = 0; k < config->num_labels; k++) buf_printf(&out, "- `%s`\n", config->labels[k]);
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
