/* core/json.h - cJSON with the checks that untrusted files need.
 *
 * Accepted is one JSON value in valid UTF-8, at most JSON_DEPTH_MAX deep, with nothing but white space behind
 * it and no key twice in one object. cJSON ends strings at NUL; a \u0000 in the text is therefore carried as
 * the bytes C0 80 (which valid UTF-8 never contains), and json_text gives it back. */
#ifndef CORE_JSON_H
#define CORE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/err.h"

#define JSON_DEPTH_MAX 64
#define JSON_FILE_MAX  ((size_t)64 << 20)

/* Parses text[0..n); *out is freed with cJSON_Delete. Errors say where, as "line L, column C". */
ErrCode json_parse(cJSON **out, const char *text, size_t n, Err *err) ERR_CHECKED;

/* The same from a file, at most JSON_FILE_MAX bytes; errors begin with the path. */
ErrCode json_read(cJSON **out, const char *path, Err *err) ERR_CHECKED;

/* Bytes of a string item, NULs restored in place (call it once per item); *n is their number. */
const char *json_text(cJSON *item, size_t *n);

/* Member `key` of an object; a missing one leaves *out as it is and is no error. A member of another type, a
 * number that is not an integer in [min, max], a number that is not finite: ERR_FORMAT naming the key, what
 * was found and what was expected. Strings are borrowed from the tree. */
ErrCode json_get_int(int64_t *out, const cJSON *object, const char *key, int64_t min, int64_t max,
                     Err *err) ERR_CHECKED;
ErrCode json_get_double(double *out, const cJSON *object, const char *key, double min, double max,
                        Err *err) ERR_CHECKED;
ErrCode json_get_bool(bool *out, const cJSON *object, const char *key, Err *err) ERR_CHECKED;
ErrCode json_get_string(const char **out, const cJSON *object, const char *key, Err *err) ERR_CHECKED;

/* Indented text and a final newline; json_save writes it atomically. */
void json_print(Buf *out, const cJSON *item);
ErrCode json_save(const char *path, const cJSON *item, Err *err) ERR_CHECKED;

#endif
