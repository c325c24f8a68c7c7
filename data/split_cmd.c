#include "data/split_cmd.h"

#include <math.h>
#include <string.h>

#include "core/text.h"
#include "data/partition.h"

typedef struct {
    char *out, *text_field, *label_field, *given;
    FlagList group_by, hold_out;
    double dev_share, calibration_share, test_share, near;
    int64_t seed, threads;
    bool files, zstd, skip_bad, json;
} SplitOptions;

#define AT(field) offsetof(SplitOptions, field)

static const Flag FLAGS[] = {
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "PATH",
     "#Result\nThe file to write, .jsonl or .jsonl.zst, whose rows say their split; with --files a folder."},
    {"files", NULL, FLAG_BOOL, AT(files), NULL, 0, 0, NULL,
     "Write one file for each split into the folder: train.jsonl, dev.jsonl, calibration.jsonl, test.jsonl."},
    {"zstd", NULL, FLAG_BOOL, AT(zstd), NULL, 0, 0, NULL, "Compress those: train.jsonl.zst ..."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print the report as one JSON object."},
    {"dev_share", NULL, FLAG_FLOAT, AT(dev_share), "0.05", 0, 0.5, NULL,
     "#Shares\nShare of the rows to choose the best step by."},
    {"calibration_share", NULL, FLAG_FLOAT, AT(calibration_share), "0.05", 0, 0.5, NULL,
     "Share to calibrate probabilities and thresholds with."},
    {"test_share", NULL, FLAG_FLOAT, AT(test_share), "0.1", 0, 0.5, NULL, "Share for the final test."},
    {"seed", NULL, FLAG_INT, AT(seed), "42", 0, 9007199254740992.0, NULL, "What all randomness comes from."},
    {"near", NULL, FLAG_FLOAT, AT(near), "0.8", 0.5, 1, NULL,
     "#Groups, which are never in two splits\nRows that share at least this part of their pairs of words are "
     "one group; 1: "
     "only those that are equal but for case, space and punctuation."},
    {"group_by", NULL, FLAG_LIST, AT(group_by), NULL, 0, 0, "MEMBER",
     "So are all rows with one value of this member: source, template, subject ..."},
    {"hold_out", NULL, FLAG_LIST, AT(hold_out), NULL, 0, 0, "[SPLIT:]MEMBER=VALUE[,VALUE...]",
     "Rows with such a value, and what is in one group with them, go to test as a whole, or to the split "
     "named."},
    {"given", NULL, FLAG_CHOICE, AT(given), "anew", 0, 0, "anew|keep|clean",
     "What of a split that rows name already: nothing; it is kept, and groups that cross are counted; it is "
     "kept, and of "
     "a group that crosses only the most held-out rows (test, then calibration, dev) are written."},
    {"text_field", NULL, FLAG_STRING, AT(text_field), NULL, 0, 0, "MEMBER",
     "#Data\nMember that holds the prompt [default: as for train]."},
    {"label_field", NULL, FLAG_STRING, AT(label_field), NULL, 0, 0, "MEMBER",
     "Member that holds the label [default: as for train; rows may have none]."},
    {"skip_bad", NULL, FLAG_BOOL, AT(skip_bad), NULL, 0, 0, NULL,
     "Leave out rows that cannot be used, and count them, instead of stopping at the first."},
    {"threads", NULL, FLAG_INT, AT(threads), "0", 0, 1024, NULL,
     "Threads; 0 is one for each CPU. The result does not depend on it."},
};

/* ---- the report ---- */

static uint64_t sum_of(const uint64_t rows[SPLIT_COUNT]) {
    uint64_t sum = 0;
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) sum += rows[s];
    return sum;
}

static double share_of(const uint64_t rows[SPLIT_COUNT], Split s) {
    const uint64_t sum = sum_of(rows);
    return sum ? (double)rows[s] / (double)sum : 0;
}

static double asked_share(const SplitOptions *o, Split s) {
    const double share[SPLIT_COUNT] = {1 - o->dev_share - o->calibration_share - o->test_share, o->dev_share,
                                       o->calibration_share, o->test_share};
    return share[s];
}

/* Of a split and label, how far its share is from the one asked for: the largest. */
static double worst_deviation(const SplitOptions *o, const PartitionReport *r, size_t *label, Split *split) {
    double worst = 0;
    for (size_t k = 0; k < r->labels.count; k++)
        for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) {
            const double off = share_of(r->label_rows[k], s) - asked_share(o, s);
            if (fabs(off) <= fabs(worst)) continue;
            worst = off;
            *label = k;
            *split = s;
        }
    return worst;
}

static void put_line(Buf *out, const char *name, int width, const uint64_t rows[SPLIT_COUNT]) {
    char shown[48], text[32];
    text_excerpt(shown, 40, *name ? name : "(no label)", *name ? strlen(name) : 10);
    const int columns = text_columns(shown);
    buf_printf(out, "  %s%*s", shown, width > columns ? width - columns : 0, "");
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) buf_printf(out, " %12s", text_grouped(text, rows[s]));
    buf_printf(out, " %12s\n", text_grouped(text, sum_of(rows)));
}

static void put_table(Buf *out, const SplitOptions *o, const PartitionReport *r) {
    int width = 10;
    for (size_t k = 0; k < r->labels.count; k++) {
        const int w = text_columns(r->labels.items[k]);
        if (w > width && w <= 40) width = w;
    }
    buf_printf(out, "\n  %-*s", width, "label");
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) buf_printf(out, " %12s", split_name(s));
    buf_printf(out, " %12s\n", "rows");
    for (size_t k = 0; k < r->labels.count; k++) put_line(out, r->labels.items[k], width, r->label_rows[k]);
    put_line(out, "rows", width, r->rows);
    buf_printf(out, "  %-*s", width, "share");
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++)
        buf_printf(out, " %10.2f %%", 100 * share_of(r->rows, s));
    buf_printf(out, "\n  %-*s", width, "asked for");
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++) buf_printf(out, " %10.2f %%", 100 * asked_share(o, s));
    buf_puts(out, "\n\n");
}

static void put_count(Buf *out, uint64_t n, const char *what) {
    char text[32];
    if (n) buf_printf(out, "  %12s  %s\n", text_grouped(text, n), what);
}

static void put_text(Buf *out, const SplitOptions *o, const PartitionReport *r) {
    char rows[32], groups[32], largest[32];
    buf_printf(out, "%s: %s rows in %s groups of rows that are alike, the largest of %s\n", o->out,
               text_grouped(rows, sum_of(r->rows)), text_grouped(groups, r->groups),
               text_grouped(largest, r->largest));
    put_table(out, o, r);
    size_t label = 0;
    Split split = SPLIT_TRAIN;
    const double worst = worst_deviation(o, r, &label, &split);
    buf_printf(out, "  %+11.2f %%  is the farthest that a label's share is from the one asked for (%s, %s)\n",
               100 * worst, r->labels.items[label], split_name(split));
    put_count(out, r->plan.duplicates, "repeat the text of an earlier row (but for case and punctuation)");
    put_count(out, r->plan.joined, "more are in one group with an earlier row");
    put_count(out, r->plan.conflicting, "have an earlier row's text and another label");
    put_count(out, r->plan.given, "with a split named in the data, or held out");
    put_count(out, r->plan.crossing - r->left_out,
              o->given[0] == 'k' ? "were given a split while the like of them is in another"
                                 : "were held out to a split, but their group more so");
    put_count(out, r->left_out, "left out: the like of them is in a split that is more held out");
    put_count(out, r->skipped, "bad rows left out");
    buf_printf(out, "\n  Read again from what was written: %s group%s in more than one split.\n",
               text_grouped(groups, r->crossing_groups), r->crossing_groups == 1 ? " is" : "s are");
}

static void put_splits(Buf *out, const char *key, const uint64_t rows[SPLIT_COUNT]) {
    text_put_json(out, key, strlen(key));
    buf_puts(out, ":{");
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++)
        buf_printf(out, "%s\"%s\":%llu", s ? "," : "", split_name(s), (unsigned long long)rows[s]);
    buf_puts(out, "}");
}

static void put_json(Buf *out, const SplitOptions *o, const PartitionReport *r) {
    buf_puts(out, "{\"out\":");
    text_put_json(out, o->out, strlen(o->out));
    buf_printf(out, ",\"rows_in\":%llu,\"skipped\":%llu,\"left_out\":%llu,", (unsigned long long)r->rows_in,
               (unsigned long long)r->skipped, (unsigned long long)r->left_out);
    put_splits(out, "rows", r->rows);
    buf_puts(out, ",\"share\":{");
    for (Split s = SPLIT_TRAIN; s < SPLIT_COUNT; s++)
        buf_printf(out, "%s\"%s\":{\"asked\":%.9g,\"is\":%.9g}", s ? "," : "", split_name(s),
                   asked_share(o, s), share_of(r->rows, s));
    buf_puts(out, "},\"label_rows\":{");
    for (size_t k = 0; k < r->labels.count; k++) {
        if (k) buf_puts(out, ",");
        put_splits(out, r->labels.items[k], r->label_rows[k]);
    }
    size_t label = 0;
    Split split = SPLIT_TRAIN;
    const double worst = worst_deviation(o, r, &label, &split);
    buf_printf(out, "},\"largest_deviation\":{\"share\":%.9g,\"label\":", worst);
    text_put_json(out, r->labels.items[label], strlen(r->labels.items[label]));
    buf_printf(out,
               ",\"split\":\"%s\"},\"duplicates\":%llu,\"joined\":%llu,\"conflicting\":%llu,\"given\":%llu,"
               "\"moved\":%llu,"
               "\"groups\":%llu,\"largest_group\":%llu,\"groups_crossing\":%llu,\"rows_crossing\":%llu}\n",
               split_name(split), (unsigned long long)r->plan.duplicates, (unsigned long long)r->plan.joined,
               (unsigned long long)r->plan.conflicting, (unsigned long long)r->plan.given,
               (unsigned long long)r->plan.crossing, (unsigned long long)r->groups,
               (unsigned long long)r->largest, (unsigned long long)r->crossing_groups,
               (unsigned long long)r->crossing_rows);
}

/* ---- the command ---- */

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

static ErrCode make_rule(PartitionRule *rule, const SplitOptions *o, const FlagList *arguments, Err *err) {
    if (!o->out)
        return err_set(err, ERR_ARGUMENT, "--out: expected the file to write, or with --files the folder");
    if (!o->files && !ends_with(o->out, ".jsonl") && !ends_with(o->out, ".jsonl.zst"))
        return err_set(err, ERR_ARGUMENT,
                       "--out: found '%.300s', expected a name that ends in .jsonl or .jsonl.zst, or "
                       "--files for a folder",
                       o->out);
    if (o->zstd && !o->files)
        return err_set(err, ERR_ARGUMENT,
                       "--zstd is for --files; a single file is compressed when its name ends in .zst");
    *rule = (PartitionRule){
        .inputs = *arguments,
        .record = {o->text_field, o->label_field, true},
        .split = {o->dev_share, o->calibration_share, o->test_share, (uint64_t)o->seed, true},
        .near = o->near,
        .group_by = o->group_by,
        .hold_out = o->hold_out,
        .given = o->given[0] == 'k'   ? PARTITION_KEEP
                 : o->given[0] == 'c' ? PARTITION_CLEAN
                                      : PARTITION_ANEW,
        .out = o->out,
        .folder = o->files,
        .zstd = o->zstd,
        .skip_bad = o->skip_bad,
    };
    return ERR_OK;
}

static ErrCode print(const SplitOptions *o, const PartitionReport *report, FILE *out, Err *err) {
    Buf text = {0};
    if (o->json)
        put_json(&text, o, report);
    else
        put_text(&text, o, report);
    const ErrCode rc = buf_print(&text, out, err);
    buf_free(&text);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const SplitOptions *o = options;
    PartitionRule rule;
    TRY(make_rule(&rule, o, arguments, err));
    Progress progress = {0};
    PartitionReport report = {0};
    rule.progress = &progress;
    ErrCode rc = threads_open(&rule.threads, (int)o->threads, err);
    if (rc == ERR_OK) rc = partition_write(&report, &rule, err);
    if (rc == ERR_OK) rc = print(o, &report, out, err);
    if (rc == ERR_OK && rule.given != PARTITION_KEEP && report.crossing_groups)
        rc = err_set(err, ERR_GATE, "%llu groups are in more than one split of %s",
                     (unsigned long long)report.crossing_groups, o->out);
    partition_report_free(&report);
    threads_close(rule.threads);
    return rc;
}

const Command split_cmd = {
    .name = "data split",
    .summary = "rows into train, dev, calibration and test, no two alike in different ones",
    .usage = "data split DATA... --out FILE.jsonl",
    .details =
        "DATA is as for train: JSONL files (plain, gzip or zstd), folders of them, or - for stdin. Rows are "
        "written as they\n"
        "are, in their order, but for the member \"split\". Shares hold for every label as far as groups "
        "allow. The report\n"
        "reads what was written and finds all groups anew; exit status 3 when one crosses.\n\n"
        "Examples:\n"
        "  router data split prompts.jsonl --out split.jsonl.zst\n"
        "  router data split corpus/ --hold-out source=mathqa,legalbench --out split.jsonl\n"
        "  router data split corpus/ --group-by subject --files --out splits/\n"
        "  router data split official.jsonl --given clean --out clean.jsonl    # the official test, and "
        "nothing like it\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(SplitOptions),
    .positional_min = 1,
    .positional_max = SIZE_MAX,
    .takes_config = true,
    .run = run,
};
