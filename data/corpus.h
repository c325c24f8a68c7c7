/* data/corpus.h - JSONL inputs to a shard: read, label, split, tokenise. */
#ifndef DATA_CORPUS_H
#define DATA_CORPUS_H

#include "core/err.h"
#include "core/flags.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/record.h"
#include "data/shard.h"
#include "tokenizer/tokenizer.h"

/* The options that every command which packs has. A command's options struct begins with a CorpusOptions, and
 * its table of flags with CORPUS_FLAGS. */
typedef struct {
    char *text_field, *label_field;
    FlagList labels;
    int64_t max_length;
    double dev_share, calibration_share, test_share, near;
    int64_t seed;
    bool skip_bad, plain;
} CorpusOptions;

/* clang-format off */
#define CORPUS_FLAGS \
    RECORD_FLAGS("#Data\n", offsetof(CorpusOptions, text_field), offsetof(CorpusOptions, label_field)), \
    {"labels", NULL, FLAG_LIST, offsetof(CorpusOptions, labels), NULL, 0, 0, "A,B,C", \
     "The labels in the order of the classifier's outputs; a row with another label is an error " \
     "[default: those in the data, sorted]."}, \
    {"max_length", "max_seq_length", FLAG_INT, offsetof(CorpusOptions, max_length), "256", 3, \
     SHARD_ROW_TOKENS, NULL, "Tokens of a prompt, [CLS] and [SEP] counted; longer ones are cut."}, \
    {"dev_share", NULL, FLAG_FLOAT, offsetof(CorpusOptions, dev_share), "0.05", 0, 0.5, NULL, \
     "Share of the prompts kept to choose the best step by, where the data names no split."}, \
    {"calibration_share", NULL, FLAG_FLOAT, offsetof(CorpusOptions, calibration_share), "0.05", 0, 0.5, \
     NULL, "Share kept to calibrate probabilities and thresholds."}, \
    {"test_share", NULL, FLAG_FLOAT, offsetof(CorpusOptions, test_share), "0.1", 0, 0.5, NULL, \
     "Share kept for the final test."}, \
    {"near", NULL, FLAG_FLOAT, offsetof(CorpusOptions, near), "0.8", 0.5, 1, NULL, \
     "Prompts that share at least this part of their pairs of words stay on one side of the split; 1: only those " \
     "that are equal but for case, space and punctuation."}, \
    {"seed", NULL, FLAG_INT, offsetof(CorpusOptions, seed), "42", 0, 9007199254740992.0, NULL, \
     "What all randomness comes from."}, \
    {"skip_bad", NULL, FLAG_BOOL, offsetof(CorpusOptions, skip_bad), NULL, 0, 0, NULL, \
     "Leave out rows that cannot be used, and count them, instead of stopping at the first."}, \
    {"plain", NULL, FLAG_BOOL, offsetof(CorpusOptions, plain), "true", 0, 0, NULL, \
     "Take the strings [CLS], [SEP], [MASK] ... inside a prompt as text, not as special tokens: prompts " \
     "are not to be trusted."}
/* clang-format on */

typedef struct {
    FlagList inputs;    /* see data/inputs.h */
    RecordRule record;  /* label_optional is taken as false */
    FlagList labels;    /* explicit order; empty: all labels of the data, sorted by bytes */
    bool labels_closed; /* a label outside `labels` is an error (with file:line, nearest name); else it is
                           appended, these sorted by bytes */
    FlagList retired;   /* those of `labels` that no row may have: the same error as for one outside */
    SplitRule split;
    double near; /* as for dedup_open */
    int max_tokens;
    bool plain;         /* TokenizerRule.plain */
    bool skip_bad;      /* count bad rows (see record.h, labels_closed, unknown split) instead of stopping */
    Progress *progress; /* NULL: nothing is shown */
} CorpusRule;

/* Rule of options and inputs, both borrowed except for the labels. Labels that are given are closed. */
ErrCode corpus_rule(CorpusRule *out, const CorpusOptions *options, const FlagList *inputs,
                    Err *err) ERR_CHECKED;
void corpus_rule_free(CorpusRule *rule);

/* Packs the inputs into a shard at `path`. Two passes: the first reads labels, split keys and what near-duplicates
 * are found by (stdin is spooled to a temporary file beside `path`), the second tokenises in groups on all threads.
 * Memory: one group, and 21 bytes a row; while near-duplicates are looked for (near < 1), about 300 bytes a row.
 * The bytes of the shard do not depend on the number of threads. Blank lines are passed over; rows beyond
 * CORPUS_SOURCES different sources are put under "(other)". A row's weight is its input's times its own.
 *
 * The shard's content digest is the SHA-256 of a version, the tokenizer's digest, all of the rule and, per
 * input file in order, its bytes and its weight (names do not count). When `path` is an undamaged shard of
 * the same digest it is left as it is and *reused is true. A file there that is no shard is never
 * overwritten: ERR_ARGUMENT. A row that cannot be used: ERR_FORMAT "file:line: what". */
#define CORPUS_SOURCES 4096
ErrCode corpus_pack(const char *path, const CorpusRule *rule, const Tokenizer *tokenizer, Threads *threads,
                    bool *reused, Err *err) ERR_CHECKED;

#endif
