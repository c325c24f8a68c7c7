#include "eval/folds.h"

#include "core/mem.h"
#include "core/rng.h"
#include "core/stop.h"
#include "data/dedup.h"

enum { GROUP = 4096, TASK = 64 };

typedef struct {
    DedupSignature *signatures;
    const RowText *texts;
    size_t count;
} Job;

static void sign_task(void *arg, size_t task, int thread) {
    (void)thread;
    const Job *job = arg;
    for (size_t i = task * TASK; i < job->count && i < (task + 1) * TASK; i++)
        dedup_signature(&job->signatures[i], job->texts[i].text, job->texts[i].n);
}

static ErrCode add_all(Dedup *dedup, DedupSignature *signatures, const RowText *texts, size_t n,
                       Threads *threads, Err *err) {
    for (size_t from = 0; from < n; from += GROUP) {
        Job job = {signatures, texts + from, n - from < GROUP ? n - from : GROUP};
        if (stop_requested()) return err_set(err, ERR_INTERRUPTED, "stopped");
        threads_run(threads, sign_task, &job, (job.count + TASK - 1) / TASK);
        for (size_t i = 0; i < job.count; i++) TRY(dedup_add(dedup, &signatures[i], err));
    }
    return dedup_group(dedup, threads, err);
}

ErrCode folds_assign(uint8_t *folds, const RowText *texts, size_t n, int count, uint64_t seed,
                     Threads *threads, Err *err) {
    DedupSignature *signatures;
    Dedup *dedup = NULL;
    if (n >= UINT32_MAX)
        return err_set(err, ERR_ARGUMENT, "found %zu rows, expected fewer than %u", n, UINT32_MAX);
    TRY(mem_new(&signatures, GROUP, sizeof *signatures, "the folds", err));
    ErrCode rc = dedup_open(&dedup, FOLDS_NEAR, err);
    if (rc == ERR_OK) rc = add_all(dedup, signatures, texts, n, threads, err);
    const uint64_t key = rng_key(seed, "fold", 0);
    for (size_t i = 0; rc == ERR_OK && i < n; i++)
        folds[i] = (uint8_t)(rng_bits(key, dedup_first(dedup, (uint32_t)i)) % (unsigned)count);
    dedup_close(dedup);
    mem_free(signatures);
    return rc;
}
