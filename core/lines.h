/* core/lines.h - a text file line by line: plain, gzip, zstd (recognised by their first bytes) or "-" for
 * stdin. Memory is bounded by the longest line; a line longer than LINES_MAX is an error, not an allocation.
 */
#ifndef CORE_LINES_H
#define CORE_LINES_H

#include <stdbool.h>
#include <stddef.h>

#include "core/err.h"

#define LINES_MAX ((size_t)64 << 20)

typedef struct Lines Lines;

/* `path` is copied; "-" reads stdin. */
ErrCode lines_open(Lines **out, const char *path, Err *err) ERR_CHECKED;

/* Next line without its '\n' (and without a '\r' before it), borrowed until the next call; *more is false at
 * the end. A damaged or truncated stream is ERR_FORMAT naming file and line. */
ErrCode lines_next(Lines *lines, const char **text, size_t *n, bool *more, Err *err) ERR_CHECKED;

/* Instead of lines, the decoded bytes themselves: lines_peek gives those at hand, at least `least` of them (<= LINES_MAX)
 * unless the input ends before, borrowed until the next call; lines_skip takes n of them away. Lines are then not counted. */
ErrCode lines_peek(Lines *lines, size_t least, const char **bytes, size_t *n, Err *err) ERR_CHECKED;
void lines_skip(Lines *lines, size_t n);

/* 1-based number of the line last returned, and the path for messages ("stdin" for "-"). */
size_t lines_number(const Lines *lines);
const char *lines_path(const Lines *lines);

void lines_close(Lines *lines);

#endif
