/* data/partition.h - labelled rows, divided into train, dev, calibration and test: the rows themselves, written out again.
 *
 * Rows that are alike (data/dedup.h), and if asked rows that agree in a member (a source, a template, a subject), form
 * groups, and no group is in two splits (data/split.h). Every row is written as it was read but for its member "split",
 * which is replaced, or added behind the others; and but for a byte order mark, which is left out.
 *
 * The result is then read again, and groups and splits are found anew from what was written: that, not the plan, is what
 * the report says. */
#ifndef DATA_PARTITION_H
#define DATA_PARTITION_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/flags.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/names.h"
#include "data/record.h"
#include "data/split.h"

typedef enum {
    PARTITION_ANEW,  /* what the rows say about their split is of no account */
    PARTITION_KEEP,  /* it is kept: groups may cross, which is counted */
    PARTITION_CLEAN, /* it is kept by the most held-out rows of a group; the others are left out */
} PartitionGiven;

typedef struct {
    FlagList inputs; /* see data/inputs.h */
    RecordRule record;
    SplitRule split; /* whole is set by the function */
    double near;     /* as for dedup_open */
    FlagList
        group_by; /* names of members: rows with one value share a side; strings, numbers ... by their JSON */
    FlagList
        hold_out; /* "MEMBER=VALUE[,VALUE...]": such rows go to test, or with "SPLIT:" before it to that split */
    PartitionGiven given;
    const char *out;   /* a file, or a folder for one file each: train.jsonl, dev.jsonl ... */
    bool folder, zstd; /* zstd: those are named .jsonl.zst */
    bool skip_bad;     /* count rows that cannot be used instead of stopping */
    Threads *threads;
    Progress *progress; /* NULL: nothing is shown */
} PartitionRule;

/* Zeroed: valid to free. */
typedef struct {
    uint64_t rows_in, skipped, left_out; /* left_out: by PARTITION_CLEAN */
    SplitReport plan;
    /* From the rows that were written: */
    Names labels; /* "" for rows without one */
    uint64_t (*label_rows)[SPLIT_COUNT];
    uint64_t rows[SPLIT_COUNT];
    uint64_t groups, largest; /* rows of the largest */
    uint64_t crossing_groups, crossing_rows;
} PartitionReport;

/* Two passes over the inputs and one over the result; memory as for corpus_pack, and what distinguishes the values of
 * group_by. Errors name file and line, or the option. ERR_IO when an input changed between the passes. A value of
 * hold_out that no row has: ERR_ARGUMENT. On failure nothing is written, and a file that was there stays. */
ErrCode partition_write(PartitionReport *out, const PartitionRule *rule, Err *err) ERR_CHECKED;
void partition_report_free(PartitionReport *report);

#endif
