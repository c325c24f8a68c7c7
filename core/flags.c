#include "core/flags.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/mem.h"
#include "core/text.h"

static void *field(void *options, const Flag *flag) {
    return (char *)options + flag->offset;
}
static const void *field_const(const void *options, const Flag *flag) {
    return (const char *)options + flag->offset;
}

ErrCode flags_list_add(FlagList *list, const char *text, size_t n, Err *err) {
    char **items = mem_resize(list->items, list->count + 1, sizeof *items);
    if (items) list->items = items;
    char *copy = items ? mem_strndup(text, n) : NULL;
    if (!copy) return err_set(err, ERR_MEMORY, "out of memory for the arguments");
    list->items[list->count++] = copy;
    return ERR_OK;
}

void flags_list_free(FlagList *list) {
    for (size_t i = 0; i < list->count; i++) mem_free(list->items[i]);
    mem_free(list->items);
    *list = (FlagList){0};
}

static bool choice_has(const char *values, const char *text) {
    const size_t n = strlen(text);
    for (const char *p = values; *p;) {
        const size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, text, n) == 0) return true;
        p += len + (p[len] == '|');
    }
    return false;
}

static bool in_range(const Flag *flag, double v) {
    return isfinite(v) && ((flag->min == 0 && flag->max == 0) || (v >= flag->min && v <= flag->max));
}

static ErrCode range_error(const Flag *flag, const char *found, Err *err) {
    const char *what = flag->type == FLAG_INT ? "an integer" : "a number";
    if (flag->min == 0 && flag->max == 0)
        return err_set(err, ERR_ARGUMENT, "%s: found '%s', expected %s", flag->key, found, what);
    return err_set(err, ERR_ARGUMENT, "%s: found '%s', expected %s from %.10g to %.10g", flag->key, found,
                   what, flag->min, flag->max);
}

static ErrCode set_text(void *options, const Flag *flag, const char *text, Err *err) {
    void *at = field(options, flag);
    char *end = NULL;
    errno = 0;
    switch (flag->type) {
        case FLAG_BOOL:
            if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
                return err_set(err, ERR_ARGUMENT, "%s: found '%s', expected true or false", flag->key, text);
            *(bool *)at = text[0] == 't';
            return ERR_OK;
        case FLAG_INT: {
            const long long v = strtoll(text, &end, 10);
            if (end == text || *end || errno || !in_range(flag, (double)v))
                return range_error(flag, text, err);
            *(int64_t *)at = v;
            return ERR_OK;
        }
        case FLAG_FLOAT: {
            const double v = strtod(text, &end);
            if (end == text || *end || !in_range(flag, v)) return range_error(flag, text, err);
            *(double *)at = v;
            return ERR_OK;
        }
        case FLAG_LIST: return flags_list_add(at, text, strlen(text), err);
        case FLAG_CHOICE:
            if (!choice_has(flag->values, text))
                return err_set(err, ERR_ARGUMENT, "%s: found '%s', expected one of %s", flag->key, text,
                               flag->values);
            break;
        case FLAG_STRING: break;
    }
    char *copy = mem_strdup(text);
    if (!copy) return err_set(err, ERR_MEMORY, "out of memory for %s", flag->key);
    mem_free(*(char **)at);
    *(char **)at = copy;
    return ERR_OK;
}

static bool same_name(const char *key, const char *given, size_t n) {
    if (!key || strlen(key) != n) return false;
    for (size_t i = 0; i < n; i++)
        if ((given[i] == '-' ? '_' : given[i]) != key[i]) return false;
    return true;
}

static const Flag *find(const Command *command, const char *given, size_t n) {
    for (size_t i = 0; i < command->flag_count; i++)
        if (same_name(command->flags[i].key, given, n) || same_name(command->flags[i].alias, given, n))
            return &command->flags[i];
    return NULL;
}

static ErrCode unknown(const Command *command, const char *prefix, const char *given, size_t n, Err *err) {
    const char *names[128];
    size_t count = 0;
    for (size_t i = 0; i < command->flag_count && count < 126; i++) {
        names[count++] = command->flags[i].key;
        if (command->flags[i].alias) names[count++] = command->flags[i].alias;
    }
    char word[64];
    size_t w = 0;
    for (size_t i = 0; i < n && w < 63; i++) word[w++] = given[i] == '-' ? '_' : given[i];
    word[w] = 0;
    const char *near = text_nearest(word, names, count);
    char shown[128];
    text_excerpt(shown, 100, given, n);
    if (near)
        return err_set(err, ERR_ARGUMENT, "unknown %s%s; did you mean %s%s?", prefix, shown, prefix, near);
    return err_set(err, ERR_ARGUMENT, "unknown %s%s; see 'router %s --help'", prefix, shown, command->name);
}

static ErrCode json_value(const Command *command, void *options, const Flag *flag, const cJSON *item,
                          Err *err) {
    (void)command;
    if (flag->type == FLAG_LIST) {
        if (cJSON_IsString(item)) return set_text(options, flag, item->valuestring, err);
        if (!cJSON_IsArray(item))
            return err_set(err, ERR_ARGUMENT, "%s: expected an array of strings", flag->key);
        const cJSON *one;
        cJSON_ArrayForEach(one, item) {
            if (!cJSON_IsString(one))
                return err_set(err, ERR_ARGUMENT, "%s: expected an array of strings", flag->key);
            TRY(set_text(options, flag, one->valuestring, err));
        }
        return ERR_OK;
    }
    if (cJSON_IsNull(item) && (flag->type == FLAG_STRING || flag->type == FLAG_CHOICE)) return ERR_OK;
    if (flag->type == FLAG_BOOL && cJSON_IsBool(item)) {
        *(bool *)field(options, flag) = cJSON_IsTrue(item);
        return ERR_OK;
    }
    if ((flag->type == FLAG_INT || flag->type == FLAG_FLOAT) && cJSON_IsNumber(item)) {
        char number[40];
        const double v = item->valuedouble;
        const bool whole = v == floor(v) && fabs(v) < 9e15;
        (void)snprintf(number, sizeof number, flag->type == FLAG_INT && whole ? "%.0f" : "%.17g", v);
        return set_text(options, flag, number, err);
    }
    if ((flag->type == FLAG_STRING || flag->type == FLAG_CHOICE) && cJSON_IsString(item))
        return set_text(options, flag, item->valuestring, err);
    static const char *const TYPES[] = {"true or false", "an integer", "a number",
                                        "a string",      "a string",   "an array"};
    return err_set(err, ERR_ARGUMENT, "%s: expected %s", flag->key, TYPES[flag->type]);
}

static ErrCode load_config(const Command *command, void *options, bool *given, const char *path, Err *err) {
    cJSON *root;
    ErrCode rc = json_read(&root, path, err);
    if (rc != ERR_OK) {
        if (err && rc == ERR_FORMAT) err->code = ERR_ARGUMENT;
        return rc == ERR_FORMAT ? ERR_ARGUMENT : rc;
    }
    if (!cJSON_IsObject(root)) rc = err_set(err, ERR_ARGUMENT, "expected a JSON object of options");
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        if (rc != ERR_OK) break;
        if (item->string[0] == '_') continue; /* "_comment" and the like */
        const Flag *flag = find(command, item->string, strlen(item->string));
        if (!flag) {
            rc = unknown(command, "key ", item->string, strlen(item->string), err);
        } else if (!given[flag - command->flags]) {
            rc = json_value(command, options, flag, item, err);
            given[flag - command->flags] = true;
        }
    }
    if (rc != ERR_OK) (void)err_context(err, rc, "%s", path);
    cJSON_Delete(root);
    return rc;
}

typedef struct {
    const Command *command;
    void *options;
    FlagList *arguments;
    bool *given;
    const char *config;
} Parse;

/* One argument that begins with "--"; *next is the argument behind it, *used whether it was taken as the
 * value. */
static ErrCode parse_flag(Parse *p, const char *arg, const char *next, bool *used, Err *err) {
    const char *name = arg + 2, *equals = strchr(name, '=');
    const size_t n = equals ? (size_t)(equals - name) : strlen(name);
    const char *value = equals ? equals + 1 : NULL;
    if (p->command->takes_config && same_name("config", name, n)) {
        *used = !value;
        p->config = value ? value : next;
        return p->config ? ERR_OK : err_set(err, ERR_ARGUMENT, "--config: expected a file");
    }
    const Flag *flag = find(p->command, name, n);
    bool negated = false;
    if (!flag && n > 3 && strncmp(name, "no-", 3) == 0) {
        flag = find(p->command, name + 3, n - 3);
        negated = flag && flag->type == FLAG_BOOL;
        if (!negated) flag = NULL;
    }
    if (!flag) return unknown(p->command, "option --", name, n, err);
    p->given[flag - p->command->flags] = true;
    if (flag->type == FLAG_BOOL && !value) value = negated ? "false" : "true";
    if (!value) {
        *used = true;
        value = next;
    }
    if (!value) return err_set(err, ERR_ARGUMENT, "--%.*s: expected a value", (int)n, name);
    return set_text(p->options, flag, value, err);
}

static ErrCode parse_all(Parse *p, bool *help, int argc, char **argv, Err *err) {
    bool only_arguments = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (!only_arguments && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
            *help = true;
            return ERR_OK;
        }
    }
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (only_arguments || arg[0] != '-' || arg[1] == 0) {
            TRY(flags_list_add(p->arguments, arg, strlen(arg), err));
        } else if (strcmp(arg, "--") == 0) {
            only_arguments = true;
        } else if (arg[1] == '-') {
            bool used = false;
            TRY(parse_flag(p, arg, i + 1 < argc ? argv[i + 1] : NULL, &used, err));
            if (used) i++;
        } else {
            return err_set(err, ERR_ARGUMENT, "unknown option %s: options begin with two dashes", arg);
        }
    }
    if (p->config) TRY(load_config(p->command, p->options, p->given, p->config, err));
    for (size_t i = 0; i < p->command->flag_count; i++) {
        const Flag *flag = &p->command->flags[i];
        if (!p->given[i] && flag->initial) TRY(set_text(p->options, flag, flag->initial, err));
    }
    const size_t n = p->arguments->count;
    if (n < p->command->positional_min || n > p->command->positional_max)
        return err_set(err, ERR_ARGUMENT, "%s: found %zu arguments; usage: router %s", p->command->name, n,
                       p->command->usage);
    return ERR_OK;
}

ErrCode flags_parse(const Command *command, void *options, FlagList *arguments, bool *help, int argc,
                    char **argv, Err *err) {
    *help = false;
    *arguments = (FlagList){0};
    bool *given;
    TRY(mem_new(&given, command->flag_count + 1, sizeof *given, "the options", err));
    Parse parse = {command, options, arguments, given, NULL};
    const ErrCode rc = parse_all(&parse, help, argc, argv, err);
    mem_free(given);
    return rc;
}

void flags_free(const Command *command, void *options, FlagList *arguments) {
    for (size_t i = 0; i < command->flag_count; i++) {
        const Flag *flag = &command->flags[i];
        void *at = field(options, flag);
        if (flag->type == FLAG_STRING || flag->type == FLAG_CHOICE) {
            mem_free(*(char **)at);
            *(char **)at = NULL;
        } else if (flag->type == FLAG_LIST) {
            flags_list_free(at);
        }
    }
    flags_list_free(arguments);
}

cJSON *flags_json(const Command *command, const void *options) {
    cJSON *root = cJSON_CreateObject();
    for (size_t i = 0; root && i < command->flag_count; i++) {
        const Flag *flag = &command->flags[i];
        const void *at = field_const(options, flag);
        cJSON *item = NULL;
        switch (flag->type) {
            case FLAG_BOOL: item = cJSON_CreateBool(*(const bool *)at); break;
            case FLAG_INT: item = cJSON_CreateNumber((double)*(const int64_t *)at); break;
            case FLAG_FLOAT: item = cJSON_CreateNumber(*(const double *)at); break;
            case FLAG_STRING:
            case FLAG_CHOICE:
                item = *(char *const *)at ? cJSON_CreateString(*(char *const *)at) : cJSON_CreateNull();
                break;
            case FLAG_LIST: {
                const FlagList *list = at;
                item = cJSON_CreateArray();
                for (size_t k = 0; item && k < list->count; k++)
                    if (!cJSON_AddItemToArray(item, cJSON_CreateString(list->items[k]))) break;
                break;
            }
        }
        if (!item || !cJSON_AddItemToObject(root, flag->key, item)) {
            cJSON_Delete(root);
            return NULL;
        }
    }
    return root;
}

static void put_wrapped(Buf *out, const char *text, size_t indent, size_t width) {
    size_t column = indent;
    for (const char *p = text; *p;) {
        const size_t word = strcspn(p, " ");
        if (column > indent && column + 1 + word > width) {
            buf_printf(out, "\n%*s", (int)indent, "");
            column = indent;
        } else if (column > indent) {
            buf_puts(out, " ");
            column++;
        }
        buf_put(out, p, word);
        column += word;
        p += word;
        while (*p == ' ') p++;
    }
    buf_puts(out, "\n");
}

static void help_flag(Buf *out, const Flag *flag) {
    const char *help = flag->help;
    if (help[0] == '#') {
        const size_t n = strcspn(help, "\n");
        buf_printf(out, "\n%.*s:\n", (int)(n - 1), help + 1);
        help += n + 1;
    }
    Buf left = {0}, right = {0};
    buf_puts(&left, "  --");
    for (const char *p = flag->key; *p; p++) buf_put(&left, *p == '_' ? "-" : p, 1);
    static const char *const VALUES[] = {"", " N", " X", " TEXT", "", " TEXT"};
    if (flag->type != FLAG_BOOL && flag->type != FLAG_CHOICE)
        buf_printf(&left, "%s%s", flag->values ? " " : VALUES[flag->type], flag->values ? flag->values : "");
    if (flag->alias) {
        buf_puts(&left, ", --");
        for (const char *p = flag->alias; *p; p++) buf_put(&left, *p == '_' ? "-" : p, 1);
    }
    buf_puts(&right, help);
    if (flag->type == FLAG_CHOICE) buf_printf(&right, " One of %s.", flag->values);
    if (flag->type == FLAG_LIST) buf_puts(&right, " May be repeated.");
    if ((flag->type == FLAG_INT || flag->type == FLAG_FLOAT) && (flag->min != 0 || flag->max != 0))
        buf_printf(&right, " [%.10g to %.10g]", flag->min, flag->max);
    if (flag->initial && (flag->type != FLAG_BOOL || flag->initial[0] == 't')) {
        buf_printf(&right, " [default: %s]", flag->initial);
        if (flag->type == FLAG_BOOL) buf_puts(&right, " (--no-... switches it off)");
    }
    if (!left.failed && !right.failed) {
        buf_puts(out, left.data);
        if (left.len > 32)
            buf_printf(out, "\n%*s", 34, "");
        else
            buf_printf(out, "%*s", (int)(34 - left.len), "");
        put_wrapped(out, right.data, 34, 110);
    }
    out->failed = out->failed || left.failed || right.failed;
    buf_free(&left);
    buf_free(&right);
}

ErrCode flags_compare(const cJSON *now, const char *path, const char *const *free_keys, size_t free_count,
                      Err *err) {
    cJSON *before;
    TRY(json_read(&before, path, err));
    ErrCode rc = ERR_OK;
    const cJSON *item;
    cJSON_ArrayForEach(item, now) {
        bool is_free = false;
        for (size_t i = 0; i < free_count; i++) is_free |= strcmp(item->string, free_keys[i]) == 0;
        const cJSON *other = cJSON_GetObjectItemCaseSensitive(before, item->string);
        if (rc != ERR_OK || is_free || (other && cJSON_Compare(item, other, 1))) continue;
        char *was = other ? cJSON_PrintUnformatted(other) : NULL, *is = cJSON_PrintUnformatted(item);
        rc = err_set(err, ERR_ARGUMENT, "--resume: %s was %s when the run began, now it is %s", item->string,
                     was ? was : "absent", is ? is : "?");
        cJSON_free(was);
        cJSON_free(is);
    }
    cJSON_Delete(before);
    return rc;
}

void flags_help(Buf *out, const Command *command) {
    buf_printf(out, "router %s - %s\n\nusage: router %s\n", command->name, command->summary, command->usage);
    if (command->flag_count && command->flags[0].help[0] != '#') buf_puts(out, "\nOptions:\n");
    for (size_t i = 0; i < command->flag_count; i++) help_flag(out, &command->flags[i]);
    if (command->takes_config)
        buf_puts(out,
                 "\n  --config FILE                   A JSON object of the same keys (with '_' for '-'); "
                 "options given as flags win.\n");
    buf_puts(out, "  --help                          This text.\n");
    if (!command->details) return;
    buf_puts(out, "\n");
    for (const char *line = command->details; *line;) {
        const size_t n = strcspn(line, "\n");
        Buf copy = {0};
        buf_put(&copy, line, n);
        if (line[0] == ' ' || n == 0) /* an example, kept as it is */
            buf_printf(out, "%.*s\n", (int)n, line);
        else if (!copy.failed)
            put_wrapped(out, copy.data, 0, 110);
        out->failed = out->failed || copy.failed;
        buf_free(&copy);
        line += n + (line[n] == '\n');
    }
}
