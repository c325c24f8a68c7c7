#include "export/hexfloat.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

void hexfloat_put(Buf *out, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (bits >> 31) buf_puts(out, "-");
    uint32_t mantissa = bits & 0x7fffffu;
    int exponent = (int)(bits >> 23 & 255u) - 127;
    if (exponent == -127 && mantissa == 0) {
        buf_puts(out, "0x0p+0");
        return;
    }
    if (exponent == -127) /* subnormal: shift the leading one into its place */
        for (exponent = -126; !(mantissa & 0x800000u); exponent--) mantissa <<= 1;
    mantissa = (mantissa & 0x7fffffu) << 1; /* six hexadecimal digits */
    int digits = 6;
    for (; digits > 0 && !(mantissa & 15u); digits--) mantissa >>= 4;
    if (digits)
        buf_printf(out, "0x1.%0*xp%+d", digits, (unsigned)mantissa, exponent);
    else
        buf_printf(out, "0x1p%+d", exponent);
}

static int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static ErrCode wrong(const char *text, Err *err) {
    return err_set(err, ERR_FORMAT, "found \"%.40s\", expected a hexadecimal float like 0x1.8p-1", text);
}

ErrCode hexfloat_parse(float *out, const char *text, const char **end, Err *err) {
    const char *p = text;
    const bool negative = *p == '-';
    p += negative;
    if (p[0] != '0' || p[1] != 'x') return wrong(text, err);
    p += 2;
    uint64_t mantissa = 0;
    int digits = 0, behind_point = 0;
    bool point = false;
    for (; digits <= 12; p++) { /* 12 digits: exact in a double, more than a float32 needs */
        if (*p == '.' && !point && digits) {
            point = true;
            continue;
        }
        const int digit = digit_of(*p);
        if (digit < 0) break;
        mantissa = mantissa << 4 | (uint64_t)digit;
        digits++;
        behind_point += point;
    }
    if (digits == 0 || digits > 12 || *p != 'p') return wrong(text, err);
    p++;
    const bool down = *p == '-';
    p += *p == '-' || *p == '+';
    int exponent = 0, count = 0;
    for (; *p >= '0' && *p <= '9' && count < 4; p++, count++) exponent = exponent * 10 + (*p - '0');
    if (count == 0 || (*p >= '0' && *p <= '9')) return wrong(text, err);
    const double value = ldexp((double)mantissa, (down ? -exponent : exponent) - 4 * behind_point);
    if (!(value <= (double)FLT_MAX) || (double)(float)value < value || (double)(float)value > value)
        return wrong(text, err);
    *out = (float)(negative ? -value : value);
    *end = p;
    return ERR_OK;
}

ErrCode hexfloat_only(float *out, const char *text, Err *err) {
    const char *end;
    TRY(hexfloat_parse(out, text, &end, err));
    return *end ? wrong(text, err) : ERR_OK;
}
