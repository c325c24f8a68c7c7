/* data/defects.h - what makes a text unfit to train on although its line is valid. */
#ifndef DATA_DEFECTS_H
#define DATA_DEFECTS_H

#include <stddef.h>

/* Bits; a text may have several. */
typedef enum {
    DEFECT_NUL = 1,
    DEFECT_CONTROL = 2,     /* U+0001..001F but tab, line feed, carriage return; U+007F..009F but U+0085 */
    DEFECT_REPLACEMENT = 4, /* U+FFFD: the text went through a wrong encoding; also invalid UTF-8 */
    DEFECT_BASE64 =
        8, /* a run of DEFECTS_RUN or more of base64's characters with upper and lower case and digits */
    DEFECT_WORDLESS = 16, /* no letter and no digit of any script */
    DEFECT_LONG = 32      /* more characters than allowed */
} Defect;
#define DEFECTS_COUNT 6
#define DEFECTS_RUN   64

/* The bits of text[0..n); *characters is their number. */
unsigned defects_of(size_t *characters, const char *text, size_t n, size_t characters_max);

/* What bit number i (0 .. DEFECTS_COUNT-1) says. */
const char *defects_name(int i);

#endif
