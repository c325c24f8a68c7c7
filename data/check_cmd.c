#include "data/check_cmd.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/mem.h"
#include "data/doctor.h"

typedef struct {
    char *text_field, *label_field, *tokenizer, *suspects, *report;
    FlagList against;
    double near;
    int64_t list, max_characters, sample_rows, seed, threads;
    bool no_suspects, strict, json;
} CheckOptions;

#define AT(field) offsetof(CheckOptions, field)

static const Flag FLAGS[] = {
    RECORD_FLAGS("#Data\n", AT(text_field), AT(label_field)),
    {"against", NULL, FLAG_LIST, AT(against), NULL, 0, 0, "FILE",
     "A benchmark, whose texts must not be in the data; it needs no labels."},
    {"tokenizer", "model", FLAG_STRING, AT(tokenizer), NULL, 0, 0, "PATH",
     "spm.model or a folder that holds it: lengths are in its tokens, else in words."},
    {"near", "threshold", FLAG_FLOAT, AT(near), "0.8", 0.5, 1, NULL,
     "#Judgement\nSimilarity (Jaccard, of word shingles) from which rows are near-duplicates; 1: same texts "
     "only."},
    {"max_characters", NULL, FLAG_INT, AT(max_characters), "20000", 1, 1e9, NULL,
     "Characters beyond which a text is listed as too long."},
    {"no_suspects", NULL, FLAG_BOOL, AT(no_suspects), NULL, 0, 0, NULL,
     "Leave out the audit of labels by n-gram models (some 10 s of processor time, and 20 for a million "
     "rows)."},
    {"sample_rows", NULL, FLAG_INT, AT(sample_rows), "100000", 100, 1e8, NULL,
     "Rows that these models are trained on, and n-grams are looked for in; all rows are judged and "
     "counted."},
    {"seed", NULL, FLAG_INT, AT(seed), "42", 0, 9007199254740992.0, NULL, "What all randomness comes from."},
    {"list", NULL, FLAG_INT, AT(list), "5", 0, 1e8, NULL,
     "Findings of a kind that are listed; all are counted."},
    {"suspects", NULL, FLAG_STRING, AT(suspects), NULL, 0, 0, "FILE",
     "#Output\nWrite the rows whose label is suspect here as JSONL, most suspect first."},
    {"report", NULL, FLAG_STRING, AT(report), NULL, 0, 0, "FILE",
     "Write the report here as one HTML page with plots, which needs nothing else."},
    {"json", NULL, FLAG_BOOL, AT(json), NULL, 0, 0, NULL, "Print the report as one JSON object."},
    {"strict", NULL, FLAG_BOOL, AT(strict), NULL, 0, 0, NULL,
     "Leave with status 3 when a limit at the end of the report is exceeded."},
    {"threads", NULL, FLAG_INT, AT(threads), "0", 0, 1024, NULL,
     "Threads; 0 is one for each CPU. The report does not depend on it."},
};

static ErrCode print(const Doctor *doctor, const CheckOptions *o, FILE *out, Err *err) {
    Buf text = {0};
    if (o->json)
        doctor_put_json(&text, doctor);
    else
        doctor_put_text(&text, doctor);
    const ErrCode rc = buf_print(&text, out, err);
    buf_free(&text);
    return rc;
}

static ErrCode save_page(const Doctor *doctor, const char *path, Err *err) {
    Buf page = {0};
    doctor_put_html(&page, doctor);
    ErrCode rc = buf_ok(&page, err);
    if (rc == ERR_OK) rc = file_save(path, page.data, page.len, err);
    buf_free(&page);
    return rc;
}

static ErrCode report(const Doctor *doctor, const CheckOptions *o, FILE *out, Err *err) {
    if (o->suspects) TRY(doctor_save_suspects(doctor, o->suspects, err));
    if (o->report) TRY(save_page(doctor, o->report, err));
    TRY(print(doctor, o, out, err));
    DoctorLimit limits[DOCTOR_LIMITS];
    const size_t over = doctor_limits(doctor, limits);
    for (size_t i = 0; o->strict && i < DOCTOR_LIMITS; i++)
        if (limits[i].over)
            return err_set(err, ERR_GATE, "%zu of %d limits exceeded, the first: %.10g %s (limit %g)", over,
                           DOCTOR_LIMITS, limits[i].found, limits[i].what, limits[i].limit);
    return ERR_OK;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const CheckOptions *o = options;
    if (o->suspects && o->no_suspects)
        return err_set(err, ERR_ARGUMENT, "--suspects: expected without --no-suspects");
    Inputs inputs = {0}, against = {0};
    Tokenizer *tokenizer = NULL;
    Threads *threads = NULL;
    Doctor *doctor = NULL;
    Progress progress = {0};
    const char *folder = getenv("TMPDIR"); /* NOLINT(concurrency-mt-unsafe) */
    if (!folder || !*folder) folder = "/tmp";
    char *rows = file_join(folder, "router-check"), *others = file_join(folder, "router-against");
    ErrCode rc = rows && others ? inputs_open(&inputs, arguments, rows, err)
                                : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (rc == ERR_OK && o->against.count) rc = inputs_open(&against, &o->against, others, err);
    mem_free(rows);
    mem_free(others);
    if (rc == ERR_OK && o->tokenizer) rc = tokenizer_open(&tokenizer, o->tokenizer, err);
    if (rc == ERR_OK) rc = threads_open(&threads, (int)o->threads, err);
    const DoctorRule rule = {.inputs = &inputs,
                             .against = against.count ? &against : NULL,
                             .record = {.text_field = o->text_field, .label_field = o->label_field},
                             .threshold = o->near,
                             .tokenizer = tokenizer,
                             .characters_max = (size_t)o->max_characters,
                             .list = (size_t)o->list,
                             .sample_rows = (size_t)o->sample_rows,
                             .suspects = !o->no_suspects,
                             .seed = (uint64_t)o->seed,
                             .threads = threads,
                             .progress = &progress};
    if (rc == ERR_OK) rc = doctor_run(&doctor, &rule, err);
    if (rc == ERR_OK) rc = report(doctor, o, out, err);
    doctor_free(doctor);
    threads_close(threads);
    tokenizer_close(tokenizer);
    inputs_close(&against);
    inputs_close(&inputs);
    return rc;
}

const Command check_cmd = {
    .name = "data check",
    .summary = "what is wrong with labelled prompts, before training",
    .usage = "data check DATA... [--against BENCHMARK] [--suspects FILE] [--report FILE.html]",
    .details =
        "DATA is a JSONL file (plain, gzip or zstd), a folder of them, or - for stdin. The report says how "
        "many\n"
        "lines are bad (and which), what texts are damaged, binary or too long, which rows repeat others, "
        "with the\n"
        "same label or with another, in another file or split, which are in a benchmark, how labels, "
        "lengths,\n"
        "scripts and languages are distributed, which words give a label away, and which labels are probably "
        "wrong.\n\n"
        "--strict refuses bad lines, binary or damaged text, a text with two labels, a text in two splits, "
        "near-\n"
        "duplicates across splits (beyond 0.5 % of the rows), repeated texts (1 %), rows of a benchmark, a "
        "label with a\n"
        "hundredth of the largest one's rows, an n-gram that is in a quarter of a label's rows and 98 % "
        "right, and\n"
        "labels that are confidently wrong (5 %). A duplicate counts for the later row; both places are "
        "given.\n\n"
        "Examples:\n"
        "  router data check prompts.jsonl\n"
        "  router data check data/ --tokenizer deberta-v3-base/ --against mmlu.jsonl --suspects "
        "suspects.jsonl\n"
        "  router data check prompts.jsonl --strict --json > report.json || echo 'not fit to train on'\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(CheckOptions),
    .positional_min = 1,
    .positional_max = SIZE_MAX,
    .takes_config = true,
    .run = run,
};
