/* eval/add_domain.h - adds domains to a trained router, and tells what that costs the others.
 *
 *   rows      new ones, and a replay of old ones (eval/add_rows.h)
 *   grow      the head gets rows that cannot win (eval/grow.h); on old rows the answers must be the parent's
 *   suspects  of the replay, of some 5,000 rows drawn by the seed: those that a head, fitted on the other folds of the
 *             parent's vectors, takes for a new domain; listed, and with --relabel moved there
 *   head      the new rows of the head are fitted on the parent's vectors, everything else as it was: the start
 *   train     all of the model (or its upper layers), on new rows and replay, held to the parent's answers on the old labels
 *             (Li, Hoiem 2016)
 *   calibrate temperature and thresholds again, by the parent's policy
 *   report    what old prompts got before and get now, and how well the new domains are known (eval/add_report.h)
 *
 * The run folder OUT is that of `router train`, with beside it
 *   add_domain.json    the effective options
 *   rows.jsonl.zst     all rows, as trained on
 *   suspects.jsonl     old rows that look like a new domain, surest first
 *   start/             the parent with a grown and fitted head
 *   report.json        what is reported
 * The parent is only read. What was begun goes on with --resume, to the same bits. */
#ifndef EVAL_ADD_DOMAIN_H
#define EVAL_ADD_DOMAIN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "core/flags.h"
#include "eval/predict.h"
#include "eval/rowset.h"

typedef struct {
    FlagList domain, data, replay, rename, retire, held_out;
    char *from, *out, *split_from, *relabel, *report;
    RowsetOptions rows; /* of these the fields, map_field and label_map: of held_out */
    char *backend, *precision;
    int64_t max_steps, batch_size, replay_rows, freeze_layers, seed, threads, micro_batch_tokens, show_flips;
    double learning_rate, new_share, new_token_rate, distill_weight, distill_temperature, near;
    double dev_share, calibration_share, test_share, max_regression;
    bool head_only, resume, overwrite, quiet, json;
} AddDomainOptions;

/* Prints the report to out. ERR_GATE: the old labels lost more than max_regression (points of accuracy), or an old prompt's
 * answer had changed before training began. */
ErrCode add_domain_run(const AddDomainOptions *options, FILE *out, Err *err) ERR_CHECKED;

#endif
