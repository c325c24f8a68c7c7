/* The table of formats: a format is one entry here and one reader. */
#include <string.h>

#include "core/text.h"
#include "data/import_row.h"

static bool is_gsm8k(const cJSON *json) {
    const cJSON *answer = import_member(json, "answer");
    return cJSON_IsString(answer) && strstr(answer->valuestring, "####");
}

static bool is_clinc150(const cJSON *json) {
    return cJSON_IsArray(json) && cJSON_GetArraySize(json) == 2 &&
           cJSON_IsString(cJSON_GetArrayItem(json, 0)) && cJSON_IsString(cJSON_GetArrayItem(json, 1));
}

static bool is_pubmedqa(const cJSON *json) {
    return import_member(json, "QUESTION") || import_member(json, "pubid");
}

#define JSON_ENDINGS \
    { ".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst" }
#define CSV_ENDINGS \
    { ".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz", ".tsv.zst" }

/* clang-format off */
const ImportFormat IMPORT_FORMATS[] = {
    /* name, reader, keys, is, members, columns, endings */
    {"gsm8k", import_gsm8k, {"question", "answer"}, is_gsm8k, false,
     {0}, JSON_ENDINGS},
    {"math", import_math,
     {"problem", "solution"}, NULL, false, {0}, JSON_ENDINGS},
    {"mathqa", import_mathqa,
     {"Problem", "options"}, NULL, false, {0}, JSON_ENDINGS},
    {"aqua", import_aqua,
     {"question", "options", "rationale"}, NULL, false, {0}, JSON_ENDINGS},
    {"medmcqa", import_medmcqa,
     {"question", "opa", "opb"}, NULL, false, {0}, JSON_ENDINGS},
    {"medqa", import_medqa,
     {"question", "options", "answer_idx"}, NULL, false, {0}, JSON_ENDINGS},
    {"pubmedqa", import_pubmedqa,
     {NULL}, is_pubmedqa, true, {0}, JSON_ENDINGS},
    {"sciq", import_sciq,
     {"question", "distractor1"}, NULL, false, {0}, JSON_ENDINGS},
    {"openbookqa", import_arc,
     {"question_stem", "choices"}, NULL, false, {0}, JSON_ENDINGS},
    {"arc", import_arc,
     {"question", "answerKey"}, NULL, false, {0}, JSON_ENDINGS},
    {"humaneval", import_humaneval,
     {"task_id", "prompt", "canonical_solution"}, NULL, false, {0}, JSON_ENDINGS},
    {"mbpp", import_mbpp,
     {"task_id", "code"}, NULL, false, {0}, JSON_ENDINGS},
    {"dolly", import_dolly,
     {"instruction", "context", "response"}, NULL, false, {0}, JSON_ENDINGS},
    {"alpaca", import_alpaca,
     {"instruction", "output"}, NULL, false, {0}, JSON_ENDINGS},
    {"codealpaca", import_alpaca, {NULL}, NULL, false, {0}, JSON_ENDINGS},
    {"sharegpt", import_chat,
     {"conversations"}, NULL, false, {0}, JSON_ENDINGS},
    {"messages", import_chat,
     {"messages"}, NULL, false, {0}, JSON_ENDINGS},
    {"mmlu", import_mmlu,
     {"question", "subject", "choices"}, NULL, false, {"question", "A", "B", "C", "D", "answer"}, CSV_ENDINGS},
    {"clinc150", import_clinc150,
     {NULL}, is_clinc150, true, {0}, JSON_ENDINGS},
    {"csv", NULL, {NULL}, NULL, false, {0}, CSV_ENDINGS},
    {"tsv", NULL, {NULL}, NULL, false, {0}, CSV_ENDINGS},
    {"json", NULL, {NULL}, NULL, false, {0}, JSON_ENDINGS},
    {"jsonl", NULL, {NULL}, NULL, false, {0}, JSON_ENDINGS},
};
/* clang-format on */
const size_t IMPORT_FORMAT_COUNT = sizeof IMPORT_FORMATS / sizeof *IMPORT_FORMATS;

const ImportFormat *import_find(const char *name) {
    for (size_t i = 0; i < IMPORT_FORMAT_COUNT; i++)
        if (strcmp(IMPORT_FORMATS[i].name, name) == 0) return &IMPORT_FORMATS[i];
    return NULL;
}

const char *import_format_name(const ImportFormat *format) {
    return format->name;
}

const char *import_name_at(size_t i) {
    return i < IMPORT_FORMAT_COUNT ? IMPORT_FORMATS[i].name : NULL;
}

const char *import_nearest(const char *name) {
    const char *names[sizeof IMPORT_FORMATS / sizeof *IMPORT_FORMATS];
    for (size_t i = 0; i < IMPORT_FORMAT_COUNT; i++) names[i] = IMPORT_FORMATS[i].name;
    return text_nearest(name, names, IMPORT_FORMAT_COUNT);
}
