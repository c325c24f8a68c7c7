/* data/mix.h - the corpus of a run from the sources of a manifest (data/manifest.h).
 *
 * A row of the result is a JSON object: "text"; "label"; where it comes from: "source", "id" (the row's own, or
 * "file:line", the file relative to the manifest) and "kind" (real or synthetic); "split" where there is one;
 * "sample_weight" where it is not 1 (data/record.h); then the row's other members as they were. Rows keep the order of the
 * sources. The bytes depend on manifest and sources alone, not on the number of threads.
 *
 * In this order a row is left out: it cannot be used; `where` or its length excludes it; its label is mapped to null; it is
 * in a benchmark; an earlier row has its text, or one that is alike; its source's cap is reached. What is left of each
 * source and label is then taken more or less often, as weight, temperature and total say: all its rows the same, and some,
 * drawn by seed, once more. Or (`weights`) each once with a "sample_weight", which training repeats them by: no row of a
 * test is there twice, and in the long run all are seen. */
#ifndef DATA_MIX_H
#define DATA_MIX_H

#include <stdbool.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/manifest.h"
#include "data/names.h"

typedef enum {
    MIX_TAKEN,
    MIX_BAD,     /* cannot be used, with skip_bad */
    MIX_WHERE,   /* not what `where` asks for */
    MIX_LENGTH,  /* min_chars, max_chars */
    MIX_LABEL,   /* mapped to null */
    MIX_AGAINST, /* in a benchmark */
    MIX_EQUAL,   /* an earlier row's text but for case, space and punctuation */
    MIX_ALIKE,   /* a near-duplicate of an earlier row */
    MIX_CAP,     /* more than the source's cap */
    MIX_DRAWN,   /* not drawn: a weight below 1, or so by temperature or total */
    MIX_FATES
} MixFate;

typedef struct {
    const Manifest *manifest;
    const char *out; /* .jsonl or .jsonl.zst */
    bool weights;
    Threads *threads;
    Progress *progress; /* NULL: nothing is shown */
} MixRule;

/* Rows of a source or a domain. */
typedef struct {
    uint64_t in,
        fate[MIX_FATES]; /* each row has one; of a domain only those from MIX_TAKEN, MIX_CAP and MIX_DRAWN */
    uint64_t lines;      /* written: rows that are taken, repetitions counted */
    uint64_t synthetic;  /* of these */
    double weight;       /* sum of what `weights` wrote: lines otherwise */
} MixCount;

/* Zeroed: valid to free. Strings of manifest and sources are borrowed from the rule's manifest. */
typedef struct {
    size_t source_count;
    MixCount *sources; /* (source_count) */
    uint32_t *files;   /* (source_count): 0: optional, and not there */
    Names labels;
    MixCount *domains; /* (labels) */
    MixCount all;
    uint64_t against; /* rows of the benchmarks */
    uint32_t against_missing;
} MixReport;

/* Two passes over the sources. Memory: a group of lines, and 16 bytes a row, with near about 300 while duplicates are
 * looked for; benchmarks see data/overlap.h. Errors name file and line, or the manifest and the source's index; on failure
 * `out` is as it was. */
ErrCode mix_write(MixReport *report, const MixRule *rule, Err *err) ERR_CHECKED;
void mix_report_free(MixReport *report);

/* What a fate is called in reports: "near_duplicate". */
const char *mix_fate_name(MixFate fate);

/* The report as one JSON object, and as text for people. */
void mix_report_json(Buf *out, const MixReport *report, const MixRule *rule);
void mix_report_text(Buf *out, const MixReport *report, const MixRule *rule);

#endif
