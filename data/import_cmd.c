#include "data/import_cmd.h"

#include <string.h>

#include "core/text.h"
#include "data/import.h"
#include "data/record.h"

typedef struct {
    char *out, *text_field, *label_field, *id_field, *label, *label_map, *source, *split, *separator, *turns;
    FlagList keep, columns;
    bool quotes, unwrap, skip_unknown, skip_bad, keep_duplicates, json;
    int64_t threads;
} ImportOptions;

static const Flag FLAGS[] = {
    {"out", NULL, FLAG_STRING, offsetof(ImportOptions, out), NULL, 0, 0, "FILE",
     "#Rows\nThe JSONL to write; compressed when its name ends in .zst."},
    {"source", NULL, FLAG_STRING, offsetof(ImportOptions, source), NULL, 0, 0, "NAME",
     "Name of the source in each row [default: the row's own, else the format's name, or the file's for "
     "plain "
     "columns]."},
    {"split", NULL, FLAG_STRING, offsetof(ImportOptions, split), NULL, 0, 0, "NAME",
     "Split of all rows [default: the row's own, else what the file's name tells]."},
    {"id_field", NULL, FLAG_STRING, offsetof(ImportOptions, id_field), NULL, 0, 0, "MEMBER",
     "Member that holds the id [default: the format's; without one, the file's name and a number]."},
    {"keep", NULL, FLAG_LIST, offsetof(ImportOptions, keep), NULL, 0, 0, "A,B",
     "Members to copy as they are."},
    {"keep_duplicates", NULL, FLAG_BOOL, offsetof(ImportOptions, keep_duplicates), NULL, 0, 0, NULL,
     "Keep rows whose text is exactly that of an earlier one."},
    {"skip_bad", NULL, FLAG_BOOL, offsetof(ImportOptions, skip_bad), NULL, 0, 0, NULL,
     "Leave out elements that cannot be read, and count them, instead of stopping at the first."},
    {"label", NULL, FLAG_STRING, offsetof(ImportOptions, label), NULL, 0, 0, "NAME",
     "#Labels\nThe label of all rows."},
    {"label_field", NULL, FLAG_STRING, offsetof(ImportOptions, label_field), NULL, 0, 0, "MEMBER",
     "Member that holds the label."},
    {"label_map", NULL, FLAG_STRING, offsetof(ImportOptions, label_map), NULL, 0, 0, "FILE",
     "JSON object from what the label's member (else the subject) says to labels."},
    {"skip_unknown", NULL, FLAG_BOOL, offsetof(ImportOptions, skip_unknown), NULL, 0, 0, NULL,
     "Leave out rows that the label map does not know, and count them."},
    {"text_field", NULL, FLAG_STRING, offsetof(ImportOptions, text_field), NULL, 0, 0, "MEMBER",
     "#Prompts\nMember or column that holds the prompt, for csv, tsv, json and jsonl [default: the first of "
     "text, prompt, query, sentence, question, instruction, input, messages]."},
    {"turns", NULL, FLAG_CHOICE, offsetof(ImportOptions, turns), "first", 0, 0, "first|all",
     "Which of the user's turns of a sharegpt or messages chat are the prompt."},
    {"unwrap", NULL, FLAG_BOOL, offsetof(ImportOptions, unwrap), "true", 0, 0, NULL,
     "Cut what data sets put around a prompt: instructions to answer, \"Question:\", \"Answer Choices: "
     "...\"."},
    {"columns", NULL, FLAG_LIST, offsetof(ImportOptions, columns), NULL, 0, 0, "A,B,C",
     "Names of the columns of CSV that has no header."},
    {"separator", NULL, FLAG_CHOICE, offsetof(ImportOptions, separator), "auto", 0, 0,
     "auto|comma|tab|semicolon",
     "Between the columns of CSV; auto: the most frequent one in the first record."},
    {"quotes", NULL, FLAG_BOOL, offsetof(ImportOptions, quotes), "true", 0, 0, NULL,
     "A field of CSV that begins with a quote ends with one; --no-quotes: quotes mean nothing."},
    {"threads", NULL, FLAG_INT, offsetof(ImportOptions, threads), "0", 0, 1024, NULL,
     "#Run\nThreads; 0 is one for each CPU. The rows do not depend on it."},
    {"json", NULL, FLAG_BOOL, offsetof(ImportOptions, json), NULL, 0, 0, NULL,
     "Print the report as one JSON object."},
};

/* ---- options ---- */

/* Names of "A,B" and of repeated flags. */
static ErrCode add_names(FlagList *out, const FlagList *given, const char *flag, Err *err) {
    for (size_t i = 0; i < given->count; i++) {
        for (const char *s = given->items[i];; s++) {
            const size_t n = strcspn(s, ",");
            if (n == 0)
                return err_set(err, ERR_ARGUMENT, "%s: found '%s', expected names with commas between them",
                               flag, given->items[i]);
            TRY(flags_list_add(out, s, n, err));
            for (size_t k = 0; k + 1 < out->count; k++)
                if (strcmp(out->items[k], out->items[out->count - 1]) == 0)
                    return err_set(err, ERR_ARGUMENT, "%s: found '%s' twice", flag, out->items[k]);
            s += n;
            if (!*s) break;
        }
    }
    return ERR_OK;
}

static ErrCode check_keep(const FlagList *keep, Err *err) {
    static const char *const OWN[] = {"text", "label", "source", "split", "id", "kind", "choices", "subject"};
    for (size_t i = 0; i < keep->count; i++)
        for (size_t k = 0; k < sizeof OWN / sizeof *OWN; k++)
            if (strcmp(keep->items[i], OWN[k]) == 0)
                return err_set(err, ERR_ARGUMENT, "keep: '%s' is written anyway", OWN[k]);
    return ERR_OK;
}

static ErrCode find_format(const ImportFormat **out, const char *name, Err *err) {
    *out = import_find(name);
    if (*out || strcmp(name, "auto") == 0) return ERR_OK;
    const char *near = import_nearest(name);
    if (near)
        return err_set(err, ERR_ARGUMENT, "no format is named '%.100s'; did you mean '%s'?", name, near);
    return err_set(err, ERR_ARGUMENT, "no format is named '%.100s'; 'router data import --help' lists them",
                   name);
}

static ErrCode check_options(const ImportOptions *o, Err *err) {
    if (!o->out) return err_set(err, ERR_ARGUMENT, "--out: expected the JSONL to write");
    if (o->label && (o->label_field || o->label_map))
        return err_set(err, ERR_ARGUMENT, "--label is for all rows; --label_field and --label_map are not");
    if (o->label && (o->label[0] == 0 || strlen(o->label) > RECORD_NAME_MAX))
        return err_set(err, ERR_ARGUMENT, "--label: expected 1 to %d bytes", RECORD_NAME_MAX);
    if (o->split && (o->split[0] == 0 || strlen(o->split) > 31))
        return err_set(err, ERR_ARGUMENT, "--split: expected 1 to 31 bytes");
    return ERR_OK;
}

static char separator_of(const char *name) {
    static const struct {
        const char *name;
        char separator;
    } ALL[] = {{"comma", ','}, {"tab", '\t'}, {"semicolon", ';'}};
    for (size_t i = 0; i < 3; i++)
        if (strcmp(name, ALL[i].name) == 0) return ALL[i].separator;
    return 0;
}

/* ---- report ---- */

static const char *shown(const char *name) {
    return name[0] ? name : "(none)";
}

static void put_names(Buf *out, const char *what, const Names *names, const uint64_t *rows) {
    if (names->count == 0 || (names->count == 1 && names->items[0][0] == 0)) return;
    buf_printf(out, "  %s:", what);
    for (size_t i = 0; i < names->count && i < 20; i++)
        buf_printf(out, "%s %s %llu", i ? "," : "", shown(names->items[i]), (unsigned long long)rows[i]);
    if (names->count > 20) buf_printf(out, ", and %zu more", names->count - 20);
    buf_puts(out, "\n");
}

static void put_formats(Buf *out, const Names *formats) {
    for (size_t i = 0; i < formats->count; i++) buf_printf(out, "%s%s", i ? ", " : "", formats->items[i]);
}

static void put_count(Buf *out, uint64_t n, const char *what) {
    if (n) buf_printf(out, "  left out: %llu %s\n", (unsigned long long)n, what);
}

static void put_report(Buf *out, const ImportReport *r, const ImportOptions *o) {
    buf_printf(out, "%s: %llu rows of %llu, read as ", o->out, (unsigned long long)r->rows,
               (unsigned long long)r->read);
    put_formats(out, &r->formats);
    buf_puts(out, "\n");
    put_names(out, "splits", &r->splits, r->split_rows);
    put_names(out, "labels", &r->labels, r->label_rows);
    put_count(out, r->duplicates, "whose text is exactly that of an earlier row");
    put_count(out, r->unknown, "that the label map does not know");
    put_count(out, r->empty, "without text");
    put_count(out, r->bad, "that could not be read");
}

static void put_json_names(Buf *out, const char *key, const Names *names, const uint64_t *rows) {
    buf_printf(out, ",\"%s\":{", key);
    for (size_t i = 0; i < names->count; i++) {
        if (i) buf_puts(out, ",");
        text_put_json(out, names->items[i], strlen(names->items[i]));
        buf_printf(out, ":%llu", (unsigned long long)rows[i]);
    }
    buf_puts(out, "}");
}

static void put_json_strings(Buf *out, const char *key, char *const *items, size_t count) {
    buf_printf(out, ",\"%s\":[", key);
    for (size_t i = 0; i < count; i++) {
        if (i) buf_puts(out, ",");
        text_put_json(out, items[i], strlen(items[i]));
    }
    buf_puts(out, "]");
}

static void put_json(Buf *out, const ImportReport *r, const ImportOptions *o) {
    buf_puts(out, "{\"out\":");
    text_put_json(out, o->out, strlen(o->out));
    put_json_strings(out, "formats", r->formats.items, r->formats.count);
    buf_printf(
        out, ",\"read\":%llu,\"rows\":%llu,\"duplicates\":%llu,\"unknown\":%llu,\"empty\":%llu,\"bad\":%llu",
        (unsigned long long)r->read, (unsigned long long)r->rows, (unsigned long long)r->duplicates,
        (unsigned long long)r->unknown, (unsigned long long)r->empty, (unsigned long long)r->bad);
    put_json_names(out, "splits", &r->splits, r->split_rows);
    put_json_names(out, "labels", &r->labels, r->label_rows);
    put_json_strings(out, "skipped_first", r->messages, r->message_count);
    buf_puts(out, "}\n");
}

static ErrCode report(const ImportReport *r, const ImportOptions *o, Progress *progress, FILE *out,
                      Err *err) {
    Buf text = {0};
    for (size_t i = 0; i < r->message_count; i++) progress_note(progress, "left out: %s", r->messages[i]);
    if (o->json)
        put_json(&text, r, o);
    else
        put_report(&text, r, o);
    const ErrCode rc = buf_print(&text, out, err);
    buf_free(&text);
    return rc;
}

static ErrCode import(const ImportOptions *o, const FlagList *arguments, ImportRule *rule, FILE *out,
                      Err *err) {
    Progress progress;
    ImportReport result = {0};
    progress_begin(&progress, "import", 0, 0);
    rule->progress = &progress;
    const FlagList inputs = {arguments->items + 1, arguments->count - 1};
    ErrCode rc = import_run(&result, o->out, &inputs, rule, err);
    rule->progress = NULL;
    progress_end(&progress);
    if (rc == ERR_OK) rc = report(&result, o, &progress, out, err);
    import_report_free(&result);
    return rc;
}

static ErrCode run(const void *options, const FlagList *arguments, FILE *out, Err *err) {
    const ImportOptions *o = options;
    FlagList keep = {0}, columns = {0};
    ImportMap map = {0};
    ImportRule rule = {.text_field = o->text_field,
                       .label_field = o->label_field,
                       .id_field = o->id_field,
                       .label = o->label,
                       .source = o->source,
                       .split = o->split,
                       .keep = &keep,
                       .columns = &columns,
                       .csv = {separator_of(o->separator), !o->quotes},
                       .skip_unknown = o->skip_unknown,
                       .skip_bad = o->skip_bad,
                       .keep_duplicates = o->keep_duplicates,
                       .keep_wrappers = !o->unwrap,
                       .all_turns = strcmp(o->turns, "all") == 0};
    ErrCode rc = check_options(o, err);
    if (rc == ERR_OK) rc = find_format(&rule.format, arguments->items[0], err);
    if (rc == ERR_OK) rc = add_names(&keep, &o->keep, "keep", err);
    if (rc == ERR_OK) rc = check_keep(&keep, err);
    if (rc == ERR_OK) rc = add_names(&columns, &o->columns, "columns", err);
    if (rc == ERR_OK && o->label_map) {
        rc = import_map_read(&map, o->label_map, err);
        rule.map = &map;
    }
    if (rc == ERR_OK) rc = threads_open(&rule.threads, (int)o->threads, err);
    if (rc == ERR_OK) rc = import(o, arguments, &rule, out, err);
    threads_close(rule.threads);
    import_map_free(&map);
    flags_list_free(&keep);
    flags_list_free(&columns);
    return rc;
}

const Command import_cmd = {
    .name = "data import",
    .summary = "public data sets as they are published, to labelled JSONL",
    .usage = "data import FORMAT INPUT... --out FILE",
    .details =
        "INPUT is a file (plain, gzip or zstd; arrays and lines of any length are read element by element), "
        "a folder,\n"
        "or - for stdin. FORMAT is one of:\n"
        "  auto        told by the first element\n"
        "  gsm8k       {\"question\", \"answer\": \"... #### 72\"}\n"
        "  math        {\"problem\", \"level\", \"type\", \"solution\"}; folders of such files\n"
        "  mathqa      [{\"Problem\", \"Rationale\", \"options\": \"a ) 38 , b ) 40\", \"correct\", "
        "\"category\"}]\n"
        "  aqua        {\"question\", \"options\": [\"A)21\", ...], \"rationale\", \"correct\"}\n"
        "  medmcqa     {\"question\", \"opa\", ..., \"cop\", \"subject_name\", \"id\"}\n"
        "  medqa       {\"question\", \"options\": {\"A\": ...}, \"answer_idx\", \"meta_info\"}\n"
        "  pubmedqa    {\"PMID\": {\"QUESTION\"}}, or {\"pubid\", \"question\"}\n"
        "  sciq        [{\"question\", \"distractor1\", ..., \"correct_answer\", \"support\"}]\n"
        "  arc         {\"id\", \"question\": {\"stem\", \"choices\"}, \"answerKey\"}, or flat\n"
        "  openbookqa  the same, or {\"question_stem\", \"choices\"}\n"
        "  humaneval   {\"task_id\", \"prompt\", \"canonical_solution\"}\n"
        "  mbpp        {\"task_id\", \"text\" or \"prompt\", \"code\"}\n"
        "  alpaca      [{\"instruction\", \"input\", \"output\"}]; codealpaca is the same\n"
        "  dolly       {\"instruction\", \"context\", \"response\", \"category\"}\n"
        "  sharegpt    {\"conversations\": [{\"from\": \"human\", \"value\"}]}\n"
        "  messages    {\"messages\": [{\"role\": \"user\", \"content\"}]}\n"
        "  mmlu        CSV without header: question,A,B,C,D,answer; or {\"question\", \"subject\", "
        "\"choices\"}\n"
        "  clinc150    {\"train\": [[\"text\", \"intent\"], ...], \"oos_train\": ...}\n"
        "  csv, tsv    columns with names\n"
        "  json, jsonl [{...}, ...] or lines, with a member that is the prompt\n"
        "Only the prompt is taken, never the answer. A row comes out as\n"
        "  {\"text\": \"...\", \"label\": \"math\", \"source\": \"gsm8k\", \"split\": \"test\", \"id\": "
        "\"test.jsonl:1\", \"kind\": \"real\"}\n"
        "and, where the data have them, \"choices\" and \"subject\".\n\n"
        "Examples:\n"
        "  router data import gsm8k train.jsonl test.jsonl --label math --out gsm8k.jsonl.zst\n"
        "  router data import mmlu data/ --label-map mmlu_domains.json --out mmlu.jsonl\n"
        "  router data import csv tickets.csv --text-field body --label-field queue --keep urgency --out "
        "tickets.jsonl\n",
    .flags = FLAGS,
    .flag_count = sizeof FLAGS / sizeof *FLAGS,
    .options_bytes = sizeof(ImportOptions),
    .positional_min = 2,
    .positional_max = SIZE_MAX,
    .takes_config = false,
    .run = run,
};
