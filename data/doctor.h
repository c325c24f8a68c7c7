/* data/doctor.h - what is wrong with a corpus, before training is paid for.
 *
 * Three passes over the rows (data/scan.h), each on all threads:
 *   1. every row alone: bad lines, unfit texts, length, script, overlap with benchmarks; its signature
 *   -  near-duplicates are grouped; what repeats an earlier row, and with another label, is known
 *   2. a sample by seed, at most sample_rows rows and DOCTOR_SAMPLE_BYTES bytes, each label at least in part; from it come the
 *      candidates of n-grams that give a label away, and the models that audit labels
 *   3. every row: exact counts of the candidates, and how probable its label is
 * Memory: DOCTOR_ROW_BYTES and what data/dedup.h needs for each row (at the peak, while groups are made, about 550 bytes
 * together), 200 to 400 bytes for each suspect and each listed finding, and what
 * does not grow with the rows: models, sample, n-grams, benchmarks. Results depend on the rows, their order and the rule, not on
 * threads.
 *
 * Of findings of one kind the first `list` are kept with their places; all are counted. */
#ifndef DATA_DOCTOR_H
#define DATA_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/defects.h"
#include "data/inputs.h"
#include "data/leak.h"
#include "data/names.h"
#include "data/record.h"
#include "data/script.h"
#include "data/split.h"
#include "data/suspects.h"
#include "tokenizer/tokenizer.h"

#define DOCTOR_SAMPLE_BYTES ((size_t)128 << 20)
#define DOCTOR_ROW_BYTES    24
#define DOCTOR_EXCERPT      96 /* bytes of a text that a finding shows */

typedef struct {
    const Inputs *inputs, *against; /* against: benchmarks, NULL for none */
    RecordRule record;              /* label_optional is taken as false */
    double threshold;               /* of near-duplicates; see data/dedup.h */
    const Tokenizer *tokenizer;     /* NULL: lengths are in words */
    size_t characters_max;          /* longer texts are findings */
    size_t list, sample_rows;
    bool suspects;
    uint64_t seed;
    Threads *threads;
    Progress *progress; /* NULL: nothing is shown */
} DoctorRule;

typedef enum {
    DOCTOR_BAD,
    DOCTOR_DEFECT,                                /* DEFECTS_COUNT kinds from here: 1 << i is the Defect */
    DOCTOR_SPLIT = DOCTOR_DEFECT + DEFECTS_COUNT, /* a split of no known name */
    DOCTOR_EXACT,    /* same text as an earlier row, but for case, spaces, punctuation */
    DOCTOR_NEAR,     /* in an earlier row's group, and not exact */
    DOCTOR_CROSSING, /* exact or near, and the other is in another split */
    DOCTOR_CONFLICT, /* exact, and the label is another */
    DOCTOR_NEAR_CONFLICT,
    DOCTOR_OVERLAP,
    DOCTOR_KINDS
} DoctorKind;

typedef struct {
    uint32_t file; /* of the inputs; DOCTOR_OVERLAP's other place: of the benchmarks */
    uint64_t line; /* 0: no place */
} DoctorPlace;

typedef struct {
    DoctorPlace place, other;
    int label, other_label; /* -1: none */
    double
        similarity; /* of DOCTOR_EXACT to DOCTOR_OVERLAP: to the other, which near-duplicates need not be next to */
    bool shares_words; /* DOCTOR_OVERLAP: OVERLAP_WORDS consecutive ones */
    uint32_t row;      /* for the excerpt, where `text` is still NULL */
    char *text;        /* owned: what is wrong (DOCTOR_BAD), or an excerpt */
} DoctorFinding;

typedef struct {
    uint64_t count;
    DoctorFinding *listed; /* owned */
    size_t listed_count;
} DoctorFindings;

/* Rows that repeat another, by where the first of the same text (of the same group) is. Both splits named and different:
 * across_splits, whatever the files. */
typedef struct {
    uint64_t within_file, across_files, across_splits;
} DoctorRepeats;

#define DOCTOR_CUTS 4
extern const uint32_t DOCTOR_CUT_AT[DOCTOR_CUTS]; /* 64, 128, 256, 512 */

/* Of lengths in tokens or words. */
typedef struct {
    uint64_t rows, sum;
    uint32_t p5, p50, p90, p95, p99, max;
    uint64_t cut_rows[DOCTOR_CUTS], cut_sum[DOCTOR_CUTS]; /* rows longer, and what would be lost of them */
} DoctorLengths;

typedef struct {
    DoctorLengths lengths;
    uint64_t split[SPLIT_COUNT + 1]; /* the last: none named */
    uint64_t script[SCRIPT_COUNT], language[LANGUAGE_COUNT];
} DoctorLabel;

typedef struct {
    uint64_t line;
    uint32_t file;
    int32_t label;
    uint32_t length;
    uint8_t split, script, language, fold;
} DoctorRow;

#define DOCTOR_BINS \
    40 /* of the histogram of lengths: bin b holds [2^(b/4), 2^((b+1)/4)), lengths below 1 the first */

typedef struct {
    const DoctorRule *rule; /* borrowed */
    DoctorFindings found[DOCTOR_KINDS];
    DoctorRepeats exact, near;
    uint64_t defective; /* rows with a defect other than DEFECT_LONG and DEFECT_WORDLESS */
    Names labels;       /* in the order of first occurrence */
    DoctorLabel *label; /* (labels) */
    DoctorLabel all;
    uint64_t histogram[DOCTOR_BINS];
    uint64_t *file_rows; /* (inputs) good rows */
    uint32_t benchmark_rows;
    size_t sampled;
    Leak *leak;         /* NULL: fewer than two labels */
    Suspects *suspects; /* NULL: switched off, or too many or too few labels: suspects_why */
    const char *suspects_why;
    DoctorRow *rows; /* the good ones, in order */
    uint32_t row_count;
} Doctor;

/* ERR_ARGUMENT, ERR_IO, ERR_INTERRUPTED ...: no result. What is found is no error. */
ErrCode doctor_run(Doctor **out, const DoctorRule *rule, Err *err) ERR_CHECKED;
void doctor_free(Doctor *doctor);

/* "duplicates", ...: for people, and as a JSON key. */
const char *doctor_kind_name(DoctorKind kind);
const char *doctor_kind_key(DoctorKind kind);

/* ---- limits: what `--strict` refuses ---- */

typedef struct {
    const char *what;    /* for people */
    double found, limit; /* in the unit of `what` */
    bool over;
} DoctorLimit;

#define DOCTOR_LIMITS         10
#define DOCTOR_LEAK_PRECISION 0.98
#define DOCTOR_LEAK_SHARE     0.25
/* Fills limits; how many are exceeded. */
size_t doctor_limits(const Doctor *doctor, DoctorLimit limits[DOCTOR_LIMITS]);

/* ---- reports: doctor_text.c, doctor_json.c, doctor_html.c ---- */

void doctor_put_text(Buf *out, const Doctor *doctor);
void doctor_put_json(Buf *out, const Doctor *doctor);
void doctor_put_html(Buf *out, const Doctor *doctor);

/* {"rank", "file", "line", "id", "label", "suggested", "p_label", "p_suggested", "confident", "text"} per line, ranked. */
ErrCode doctor_save_suspects(const Doctor *doctor, const char *path, Err *err) ERR_CHECKED;

#endif
