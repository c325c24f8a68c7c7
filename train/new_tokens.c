#include "train/new_tokens.h"

#include "core/mem.h"

enum { OLD, NEW };

static bool is_new(const Taxonomy *t, int label) {
    return label < t->count && t->labels[label].since == t->revision;
}

/* Adds the train rows' tokens to count (V) each, and to all. */
static ErrCode count_tokens(uint64_t *const count[2], uint64_t all[2], Shard *shard, const Taxonomy *t,
                            Err *err) {
    ShardBlock block = {0};
    ErrCode rc = ERR_OK;
    for (size_t b = 0; b < shard_blocks(shard, SPLIT_TRAIN) && rc == ERR_OK; b++) {
        rc = shard_read(shard, &block, SPLIT_TRAIN, b, false, err);
        for (size_t r = 0; rc == ERR_OK && r < block.count; r++) {
            const ShardRow *row = &block.rows[r];
            const int kind = is_new(t, row->label) ? NEW : OLD;
            for (int i = 1; i < row->tokens - 1; i++) count[kind][row->ids[i]]++;
            all[kind] += row->tokens > 2 ? (uint64_t)row->tokens - 2 : 0;
        }
    }
    shard_block_free(&block);
    return rc;
}

ErrCode new_tokens_boost(float *boost, int *count, Shard *shard, const Config *config, double rate,
                         Err *err) {
    const Taxonomy *t = &config->taxonomy;
    const size_t V = (size_t)config->vocab_size;
    uint64_t *seen, all[2] = {0};
    int labels = 0;
    for (int k = 0; k < config->num_labels; k++) labels += is_new(t, k);
    if (labels == 0 || labels == config->num_labels)
        return err_set(err, ERR_ARGUMENT,
                       "new_token_rate: no label of the model is newer than another (router_taxonomy): "
                       "'router add-domain' makes such a model");
    TRY(mem_new(&seen, 2 * V, sizeof *seen, "the vocabulary", err));
    uint64_t *const of[2] = {seen, seen + V};
    const ErrCode rc = count_tokens(of, all, shard, t, err);
    *count = 0;
    for (size_t id = 0; id < V; id++) {
        const double new = (double)of[NEW][id] * (double)all[OLD],
                     old = (double)of[OLD][id] * (double)all[NEW];
        const bool boosted = new > 0 && new >= old *NEW_TOKENS_TIMES;
        boost[id] = boosted ? (float)rate : 1;
        *count += boosted;
    }
    mem_free(seen);
    return rc;
}
