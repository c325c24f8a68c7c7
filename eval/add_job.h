/* eval/add_job.h - what the parts of `router add-domain` share: everything of one run, which eval/add_domain.c opens and
 * frees. eval/add_start.c fills what is known before training, eval/add_train.c trains. */
#ifndef EVAL_ADD_JOB_H
#define EVAL_ADD_JOB_H

#include <cjson/cJSON.h>

#include "eval/add_domain.h"
#include "eval/add_report.h"
#include "eval/add_rows.h"
#include "eval/grow.h"
#include "model/config.h"

/* Of a row that has to be at least so much of a new domain to be listed. */
#define ADD_SUSPECT_MIN 0.5

typedef struct {
    const AddDomainOptions *o;
    Threads *threads;
    char *grown, *start, *rows_path, *suspects_path, *options_path, *report_path, *facts_path, *best, *last,
        *train_config, *parent_config;
    Predictor *parent, *child,
        *raw;           /* raw: the child before it was calibrated, which the calibration borrows from */
    cJSON *parent_tree; /* config.json; so is this */
    GrowLabel *labels;  /* (domains) */
    GrowRename *renames;
    Buf names; /* what those point to */
    size_t label_count, rename_count;
    const char *const *child_labels; /* (K): of the child, from its configuration */
    Config config;                   /* of the child */
    bool *active, *retired;          /* (K) */
    int K, old;
    AddRows rows;
    AddRowsRule rule;
    double relabel; /* from which probability; above 1: never */
    CalibrateModel calibration;
    bool calibrated;
    AddReport report;
    double started;
} AddJob;

#endif
