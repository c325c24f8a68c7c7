#include "eval/system_cmd.h"

#include <math.h>

#include "core/mem.h"
#include "core/progress.h"
#include "core/threads.h"
#include "data/shard.h"
#include "eval/answers.h"
#include "eval/experts.h"
#include "eval/outputs.h"
#include "eval/rowset.h"
#include "eval/system.h"
#include "eval/system_report.h"

typedef struct {
    RowsetOptions rows;
    FlagList calibration;
    char *experts, *calibration_split, *out, *report;
    double budget, lambda;
    bool json;
    PredictOptions model;
} Options;

/* Rows with their answers and outcomes. */
typedef struct {
    Rowset set;
    double *p;
    ExpertsOutcome outcome;
} Part;

typedef struct {
    const Options *options;
    Threads *threads;
    Answers answers;
    Experts experts;
    Part rows, chosen; /* chosen.set.rows.count 0: none */
    System system;
} Run;

static void close_part(Part *part) {
    rowset_free(&part->set);
    mem_free(part->p);
    experts_outcome_free(&part->outcome);
}

static void close_all(Run *r) {
    system_free(&r->system);
    close_part(&r->rows);
    close_part(&r->chosen);
    experts_free(&r->experts);
    answers_close(&r->answers);
    threads_close(r->threads);
}

static ErrCode answer_part(Run *r, Part *part, const char *what, Err *err) {
    const size_t n = part->set.rows.count;
    TRY(experts_outcome(&part->outcome, &r->experts, &part->set.rows, err));
    TRY(mem_new(&part->p, n * (size_t)r->experts.K, sizeof *part->p, "probabilities", err));
    TRY(answers_match(&r->answers, &part->set.rows, err));
    return answers_all(&r->answers, part->p, NULL, part->set.texts, n, what, err);
}

/* The calibration split of a run folder serves where no file is named, unless correctness is known row by row: its
 * files would have to know those rows too. */
static ErrCode default_rows(bool *use, const Run *r, const char *shard_path, Err *err) {
    *use = false;
    for (int x = 0; x < r->experts.count; x++)
        if (r->experts.items[x].correctness) return ERR_OK;
    if (!shard_path) return ERR_OK;
    Shard *shard;
    TRY(shard_open(&shard, shard_path, err));
    *use = shard_rows(shard, SPLIT_CALIBRATION) > 0;
    shard_close(shard);
    return ERR_OK;
}

static ErrCode read_chosen(Run *r, const char *shard, Err *err) {
    const Options *o = r->options;
    const FlagList none = {0};
    RowsetOptions rows = o->rows;
    bool use = o->calibration.count > 0;
    if (!use) {
        TRY(default_rows(&use, r, shard, err));
        if (!use) return ERR_OK;
        rows.map_field = rows.label_map = NULL; /* a shard has labels of its own */
        rows.remap = (FlagList){0};
    }
    return rowset_open_chosen(&r->chosen.set, &rows, o->calibration.count ? &o->calibration : &none,
                              o->calibration.count ? o->calibration_split : "calibration", shard,
                              answers_labels(&r->answers), r->experts.K, err);
}

static ErrCode open_all(Run *r, const char *model, Err *err) {
    const Options *o = r->options;
    if (!o->experts)
        return err_set(err, ERR_ARGUMENT, "--experts: expected the JSON file that describes them");
    TRY(threads_open(&r->threads, (int)o->model.threads, err));
    const PredictRule rule = predict_options_rule(&o->model);
    TRY(answers_open(&r->answers, model, &rule, r->threads, err));
    const char *const *labels = answers_labels(&r->answers);
    const char *shard = answers_shard(&r->answers);
    TRY(experts_read(&r->experts, o->experts, labels, answers_classes(&r->answers), err));
    TRY(rowset_open(&r->rows.set, &o->rows, &(RowsetRule){.model = model, .shard = shard}, labels,
                    r->experts.K, err));
    TRY(read_chosen(r, shard, err));
    TRY(answer_part(r, &r->rows, "rows", err));
    return r->chosen.set.rows.count ? answer_part(r, &r->chosen, "calibration", err) : ERR_OK;
}

static SystemRows rows_of(const Run *r, const Part *part) {
    return (SystemRows){part->p, part->set.labels, part->set.rows.count, r->experts.K, &part->outcome};
}

static ErrCode write_all(const SystemReport *report, const Options *o, FILE *out, Err *err) {
    Outputs text = {0};
    system_report_json(&text.json, report);
    system_report_table(&text.table, report);
    if (o->report) system_report_html(&text.page, report);
    const ErrCode rc = outputs_write(&text, o->out, o->report, o->json, out, err);
    outputs_free(&text);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    Run r = {.options = options};
    const Options *o = r.options;
    progress_quiet(o->model.quiet);
    ErrCode rc = open_all(&r, arguments->items[0], err);
    const SystemRows rows = rows_of(&r, &r.rows), chosen = rows_of(&r, &r.chosen);
    const SystemRule rule = {.lambda = o->lambda, .budget = o->budget > 0 ? llround(1000 * o->budget) : -1};
    if (rc == ERR_OK)
        rc = system_compute(&r.system, &r.experts, &rows, chosen.n ? &chosen : NULL, &rule, err);
    if (rc == ERR_OK) {
        const SystemReport report = {.path = r.answers.path,
                                     .kind = answers_kind(&r.answers),
                                     .labels = answers_labels(&r.answers),
                                     .experts = &r.experts,
                                     .set = &r.rows.set,
                                     .chosen = chosen.n ? &r.chosen.set : NULL,
                                     .system = &r.system,
                                     .rule = rule};
        rc = write_all(&report, o, out, err);
    }
    close_all(&r);
    return rc;
}

#define AT(field) offsetof(Options, field)

static const Flag FLAGS[] = {
    ROWSET_FLAGS(Options, rows),
    {"experts", NULL, FLAG_STRING, AT(experts), NULL, 0, 0, "FILE",
     "#Experts\nJSON file: each expert's price, size and accuracy (see below and "
     "configs/experts-example.json)."},
    {"budget", NULL, FLAG_FLOAT, AT(budget), "0", 0, 1e6, NULL,
     "Billions of parameters that all experts of a CoE map may have together; 0: no limit."},
    {"calibration", NULL, FLAG_LIST, AT(calibration), NULL, 0, 0, "FILE",
     "JSONL with other rows, to choose the CoE map, fallbacks and thresholds by; default: the calibration "
     "split of a "
     "run folder."},
    {"calibration_split", NULL, FLAG_STRING, AT(calibration_split), "calibration", 0, 0, "NAME",
     "Of --calibration, the rows of this split and those that name none; all: every row."},
    {"lambda", NULL, FLAG_FLOAT, AT(lambda), "0", 0, 1e6, NULL,
     "What the choice of a fallback pays for money: points of accuracy for 1 unit of currency per 1,000 "
     "prompts."},
    {"out", NULL, FLAG_STRING, AT(out), NULL, 0, 0, "FILE",
     "#Output\nWrite the numbers as JSON to this file."},
    {"report", NULL, FLAG_STRING, AT(report), NULL, 0, 0, "FILE.html",
     "Write them as one HTML page that needs nothing else."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print JSON instead of the table."},
    PREDICT_FLAGS(Options, model),
};

const Command system_cmd = {
    .name = "system",
    .summary = "a router with its experts: accuracy, cost, and what misrouting costs",
    .usage = "system MODEL --experts FILE [--data FILE] [OPTIONS]",
    .details =
        "MODEL is a run folder, a Hugging Face folder, an exported file, or a file of answers (eval "
        "--predictions,\n"
        "predict). Each expert has a price for a million tokens, a size, and an accuracy for each label, or "
        "a JSONL\n"
        "file that says of each row's id whether it answers it well:\n"
        "  {\"experts\": [{\"name\": \"math-72b\", \"parameters_b\": 72.7, \"price_in\": 0.9, \"price_out\": "
        "0.9,\n"
        "                \"accuracy\": {\"math\": 0.9, \"health\": 0.6, ...}}, ...],\n"
        "   \"routes\": {\"math\": \"math-72b\", ...}, \"fallback\": \"general-70b\", \"output_tokens\": "
        "500}\n\n"
        "Where the file says nothing else, a prompt has its bytes / 4 tokens and an answer 500.\n\n"
        "Reported are each expert alone, the router with the map in routes, with the best map that a budget "
        "of\n"
        "parameters allows (CoE, solved exactly), both with a fallback for prompts that the router is not "
        "sure of\n"
        "(Robust-CoE), and what routers that are never wrong would reach.\n\n"
        "Examples:\n"
        "  router system runs/first --experts configs/experts-example.json\n"
        "  router system router.safetensors --experts experts.json --data test.jsonl --calibration dev.jsonl "
        "\\\n"
        "         --calibration-split all --budget 150 --report system.html\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof FLAGS[0],
    .options_bytes = sizeof(Options),
    .positional_min = 1,
    .positional_max = 1,
    .takes_config = true,
    .run = run,
};
