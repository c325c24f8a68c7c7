/* export/hexfloat.h - float32 as C99 hexadecimal text, exactly, whatever the locale (strtof and printf follow
 * it). */
#ifndef EXPORT_HEXFLOAT_H
#define EXPORT_HEXFLOAT_H

#include "core/buf.h"
#include "core/err.h"

/* Appends a finite value: "-0x1.8p-1", "0x0p+0". */
void hexfloat_put(Buf *out, float value);

/* Reads one number at text; *end is behind it. ERR_FORMAT for anything else, and for what is no float32. */
ErrCode hexfloat_parse(float *out, const char *text, const char **end, Err *err) ERR_CHECKED;

/* The same for a text that must end there. */
ErrCode hexfloat_only(float *out, const char *text, Err *err) ERR_CHECKED;

#endif
