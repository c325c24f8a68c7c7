/* tests/peer/blob_peer.c - a reader of router blobs that shares nothing with the program: written from the
 * specification in export/blob.h with libc alone. It checks the container, the header's and every tensor's
 * digest, computes the golden vectors from their ids in plain sequential float arithmetic and compares the
 * logits.
 *
 * usage: blob_peer FILE [--logits] [--float] [--labels] [--decide <LOGITS]
 *   --logits  prints the logits that it computed, a line per golden vector
 *   --float   leaves the activations in float, where the specification rounds them to 8 bits (no comparison)
 *   --labels  instead, prints the revision, the parent (or -) and source.model_sha256 (or -), and then a line for each
 *             label: id, 1 where it is active, the revision in which it came, name, description (may be empty) and
 *             former names, with tabs between
 *   --decide  instead of computing golden vectors, reads logits from stdin and prints of each K of them the
 *             label, 1 where the decision is to abstain, the fallback (or -), and the score
 * Exit status: 0 all agrees, 1 something does not (said on stderr), 2 wrong usage. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The rules of the tree keep printing and exit() to few places; a peer is a program of its own. */
static _Noreturn void die(const char *what, const char *which) {
    (void)fprintf(stderr, "blob_peer: %s%s%s\n", what, which ? ": " : "", which ? which : "");
    exit(1);
}

static void *need(size_t n) {
    void *p = calloc(n ? n : 1, 1);
    if (!p) die("out of memory", NULL);
    return p;
}

/* ---- SHA-256, FIPS 180-4; the constants are the first bits of roots of primes, and computed as such ---- */

static uint32_t root_bits(int prime, int cube) {
    /* the first 32 bits behind the point of the root, by bisection on 64-bit integers */
    uint64_t low = 0, high = (uint64_t)1 << 36; /* root * 2^32, below 2^36 for primes up to 311 */
    while (high - low > 1) {
        const uint64_t middle = low + (high - low) / 2;
        long double r = (long double)middle / 4294967296.0L;
        const long double power = cube ? r * r * r : r * r;
        if (power <= (long double)prime)
            low = middle;
        else
            high = middle;
    }
    return (uint32_t)low;
}

static uint32_t turn(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint32_t k[64], const unsigned char *p) {
    uint32_t w[64], a[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 |
               p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    for (int i = 0; i < 8; i++) a[i] = h[i];
    for (int i = 0; i < 64; i++) {
        const uint32_t t = a[7] + (turn(a[4], 6) ^ turn(a[4], 11) ^ turn(a[4], 25)) +
                           ((a[4] & a[5]) ^ (~a[4] & a[6])) + k[i] + w[i];
        const uint32_t u = (turn(a[0], 2) ^ turn(a[0], 13) ^ turn(a[0], 22)) +
                           ((a[0] & a[1]) ^ (a[0] & a[2]) ^ (a[1] & a[2]));
        for (int j = 7; j > 0; j--) a[j] = a[j - 1];
        a[4] += t;
        a[0] = t + u;
    }
    for (int i = 0; i < 8; i++) h[i] += a[i];
}

static void sha_hex(char out[65], const unsigned char *p, size_t n) {
    static uint32_t k[64], start[8];
    if (!k[0])
        for (int prime = 2, i = 0; i < 64; prime++) {
            int divisor = 2;
            while (divisor * divisor <= prime && prime % divisor) divisor++;
            if (divisor * divisor <= prime) continue;
            if (i < 8) start[i] = root_bits(prime, 0);
            k[i++] = root_bits(prime, 1);
        }
    uint32_t h[8];
    memcpy(h, start, sizeof h);
    size_t at = 0;
    for (; n - at >= 64; at += 64) sha_block(h, k, p + at);
    unsigned char tail[128] = {0};
    const size_t rest = n - at, size = rest < 56 ? 64 : 128;
    memcpy(tail, p + at, rest);
    tail[rest] = 0x80;
    for (size_t i = 0; i < 8; i++) tail[size - 1 - i] = (unsigned char)((uint64_t)n * 8 >> (8 * i));
    for (size_t i = 0; i < size; i += 64) sha_block(h, k, tail + i);
    for (int i = 0; i < 8; i++) (void)snprintf(out + 8 * i, 9, "%08x", (unsigned)h[i]);
}

/* ---- the header: just enough JSON ---- */

typedef struct {
    char *key, *value;
} Pair;
typedef struct {
    char *name, dtype[8];
    size_t shape[4], begin, end;
    int rank;
} Entry;

static unsigned char *file;
static size_t file_size, data_start;
static Pair *pairs;
static Entry *entries;
static size_t pair_count, entry_count;

static void expect(const char **p, char c) {
    while (**p == ' ') ++*p;
    if (**p != c) die("the header is not as expected at", *p);
    ++*p;
}

static unsigned hex4(const char *p) {
    char digits[5] = {0}, *end;
    strncpy(digits, p, 4);
    const unsigned long v = strtoul(digits, &end, 16);
    if (end != digits + 4) die("a wrong escape", p);
    return (unsigned)v;
}

static char *string(const char **p) {
    expect(p, '"');
    char *out = need(strlen(*p) + 1), *to = out; /* decoding never lengthens */
    if (strlen(*p) > 4096) { /* not to hold a copy of the rest of the header for every string */
        const char *q = *p;
        while (*q && *q != '"') q += *q == '\\' ? 2 : 1;
        free(out);
        to = out = need((size_t)(q - *p) + 1);
    }
    while (**p != '"') {
        if (!**p) die("the header ends in a string", NULL);
        if (**p != '\\') {
            *to++ = *(*p)++;
            continue;
        }
        const char c = (*p)[1];
        *p += 2;
        const char *plain = strchr("\"\"\\\\//b\bf\fn\nr\rt\t", c);
        if (c != 'u') {
            if (!plain) die("a wrong escape", *p);
            *to++ = strchr("\"\\/", c) ? c : plain[1];
            continue;
        }
        unsigned cp = hex4(*p);
        *p += 4;
        if (cp >= 0xd800 && cp < 0xdc00) {
            cp = 0x10000 + ((cp - 0xd800) << 10) + (hex4(*p + 2) - 0xdc00);
            *p += 6;
        }
        if (cp < 0x80) {
            *to++ = (char)cp;
        } else if (cp < 0x800) {
            *to++ = (char)(0xc0 | cp >> 6);
            *to++ = (char)(0x80 | (cp & 63));
        } else if (cp < 0x10000) {
            *to++ = (char)(0xe0 | cp >> 12);
            *to++ = (char)(0x80 | (cp >> 6 & 63));
            *to++ = (char)(0x80 | (cp & 63));
        } else {
            *to++ = (char)(0xf0 | cp >> 18);
            *to++ = (char)(0x80 | (cp >> 12 & 63));
            *to++ = (char)(0x80 | (cp >> 6 & 63));
            *to++ = (char)(0x80 | (cp & 63));
        }
    }
    ++*p;
    *to = 0;
    return out;
}

static size_t number(const char **p) {
    char *end;
    const unsigned long long v = strtoull(*p, &end, 10);
    if (end == *p) die("expected a number at", *p);
    *p = end;
    return (size_t)v;
}

static void entry(const char **p, char *name) {
    entries = realloc(entries, (entry_count + 1) * sizeof *entries);
    if (!entries) die("out of memory", NULL);
    Entry *e = &entries[entry_count++];
    memset(e, 0, sizeof *e);
    e->name = name;
    expect(p, '{');
    for (int i = 0; i < 3; i++) {
        if (i) expect(p, ',');
        char *key = string(p);
        expect(p, ':');
        if (strcmp(key, "dtype") == 0) {
            char *dtype = string(p);
            (void)snprintf(e->dtype, sizeof e->dtype, "%s", dtype);
            free(dtype);
        } else if (strcmp(key, "shape") == 0) {
            expect(p, '[');
            do e->shape[e->rank++] = number(p);
            while (e->rank < 4 && **p == ',' && ++*p);
            expect(p, ']');
        } else {
            expect(p, '[');
            e->begin = number(p);
            expect(p, ',');
            e->end = number(p);
            expect(p, ']');
        }
        free(key);
    }
    expect(p, '}');
}

static void parse(const char *p) {
    expect(&p, '{');
    do {
        char *name = string(&p);
        expect(&p, ':');
        if (strcmp(name, "__metadata__") != 0) {
            entry(&p, name);
            continue;
        }
        free(name);
        expect(&p, '{');
        do {
            pairs = realloc(pairs, (pair_count + 1) * sizeof *pairs);
            if (!pairs) die("out of memory", NULL);
            pairs[pair_count].key = string(&p);
            expect(&p, ':');
            pairs[pair_count++].value = string(&p);
        } while (*p == ',' && p++);
        expect(&p, '}');
    } while (*p == ',' && p++);
    expect(&p, '}');
}

static const char *meta(const char *key) {
    for (size_t i = 0; i < pair_count; i++)
        if (strcmp(pairs[i].key, key) == 0) return pairs[i].value;
    die("metadata is missing", key);
}

static int has(const char *key) {
    for (size_t i = 0; i < pair_count; i++)
        if (strcmp(pairs[i].key, key) == 0) return 1;
    return 0;
}

static size_t meta_number(const char *key) {
    return (size_t)strtoull(meta(key), NULL, 10);
}

static const void *tensor(const char *prefix, const char *name, const char *dtype, size_t rows, size_t cols) {
    char full[256];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    for (size_t i = 0; i < entry_count; i++) {
        const Entry *e = &entries[i];
        if (strcmp(e->name, full) != 0) continue;
        if (strcmp(e->dtype, dtype) != 0 || e->shape[0] != rows || e->rank != (cols ? 2 : 1) ||
            (cols && e->shape[1] != cols))
            die("another type or shape than expected", full);
        return file + data_start + e->begin;
    }
    die("tensor is missing", full);
}

static void load(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) die("cannot open", path);
    const long size = ftell(f);
    if (size < 128 || fseek(f, 0, SEEK_SET) != 0) die("too short", path);
    file_size = (size_t)size;
    file = aligned_alloc(64, (file_size + 64) / 64 * 64);
    if (!file || fread(file, 1, file_size, f) != file_size) die("cannot read", path);
    (void)fclose(f);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | file[i];
    if (n > file_size - 8) die("the header is longer than the file", NULL);
    data_start = 8 + (size_t)n;
    if (data_start % 64) die("the data does not begin at a multiple of 64", NULL);

    static const char HEAD[] = "{\"__metadata__\":{\"router.header_sha256\":\"";
    char *head = need(data_start + 1), *digest = head + 8 + strlen(HEAD), stated[65] = {0}, found[65];
    memcpy(head, file, data_start);
    if (memcmp(head + 8, HEAD, strlen(HEAD)) != 0) die("the header does not begin as a blob's", NULL);
    memcpy(stated, digest, 64);
    memset(digest, '0', 64);
    sha_hex(found, (unsigned char *)head, data_start);
    if (strcmp(found, stated) != 0) die("the header's digest is another", found);
    parse(head + 8);
    free(head);
}

static void check_tensors(void) {
    size_t at = 0, stated = 0;
    for (size_t i = 0; i < entry_count; i++) {
        const Entry *e = &entries[i];
        const unsigned char *p = file + data_start + e->begin;
        if (e->begin != at || e->end < e->begin || e->end > file_size - data_start)
            die("a hole or overlap at", e->name);
        at = e->end;
        if (strncmp(e->name, "router.pad.", 11) == 0) {
            for (size_t k = 0; k < e->end - e->begin; k++)
                if (p[k]) die("padding is not zero", e->name);
            continue;
        }
        if (e->begin % 64) die("not at a multiple of 64", e->name);
        char key[256], found[65];
        (void)snprintf(key, sizeof key, "router.sha256.%s", e->name);
        sha_hex(found, p, e->end - e->begin);
        if (strcmp(found, meta(key)) != 0) die("damaged", e->name);
        stated++;
    }
    if (data_start + at != file_size) die("bytes behind the last tensor", NULL);
    (void)printf("%zu tensors, %zu bytes: all digests as stated\n", stated, file_size);
}

/* ---- the computation, sequentially ---- */

typedef struct {
    const int8_t *w;
    const float *scale, *bias;
    size_t out, in;
} Linear;

static size_t V, H, LAYERS, HEADS, F, B, P, K;
static float eps;
static int float_activations;

static Linear linear_named(const char *prefix, const char *name, size_t out, size_t in) {
    char full[128];
    Linear l = {.out = out, .in = in};
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    l.w = tensor(full, ".weight", "I8", out, in);
    l.scale = tensor(full, ".weight_scale", "F32", out, 0);
    l.bias = tensor(full, ".bias", "F32", out, 0);
    return l;
}

static void linear(float *y, const float *x, const Linear *l, size_t n) {
    float *q = need(l->in * sizeof *q);
    for (size_t t = 0; t < n; t++, x += l->in, y += l->out) {
        float max = 0;
        for (size_t i = 0; i < l->in; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
        const float inverse = max < 1e-30f ? 0 : 127.0f / max, scale = max < 1e-30f ? 0 : max / 127.0f;
        for (size_t i = 0; i < l->in; i++) q[i] = float_activations ? x[i] : nearbyintf(x[i] * inverse);
        for (size_t o = 0; o < l->out; o++) {
            double sum = 0; /* exact for integers */
            for (size_t i = 0; i < l->in; i++) sum += (double)q[i] * l->w[o * l->in + i];
            y[o] = (float)sum * (float_activations ? l->scale[o] : scale * l->scale[o]) + l->bias[o];
        }
    }
    free(q);
}

static void norm(float *x, const float *add, const char *prefix, const char *name, size_t n) {
    char full[128];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    const float *w = tensor(full, ".weight", "F32", H, 0), *b = tensor(full, ".bias", "F32", H, 0);
    for (size_t t = 0; t < n; t++, x += H) {
        double mean = 0, variance = 0;
        for (size_t i = 0; i < H; i++) {
            if (add) x[i] += add[t * H + i];
            mean += (double)x[i];
        }
        mean /= (double)H;
        for (size_t i = 0; i < H; i++) variance += ((double)x[i] - mean) * ((double)x[i] - mean);
        const double rstd = 1 / sqrt(variance / (double)H + (double)eps);
        for (size_t i = 0; i < H; i++) x[i] = (float)(((double)x[i] - mean) * rstd) * w[i] + b[i];
    }
}

static float half(const unsigned char *p) {
    const unsigned bits = (unsigned)p[0] | (unsigned)p[1] << 8;
    const int exponent = (int)(bits >> 10 & 31u);
    const double m = exponent ? 1024 + (bits & 1023u) : (bits & 1023u);
    const double v = ldexp(m, (exponent ? exponent : 1) - 25);
    return (float)(bits >> 15 ? -v : v);
}

static size_t row_of(long d) {
    const long size = labs(d), mid = (long)B / 2;
    long bucket = d;
    if (size > mid && (long)P - 1 > mid) {
        const float q = logf((float)size / (float)mid) / logf((float)(P - 1) / (float)mid);
        bucket = (long)ceilf(q * (float)(mid - 1)) + mid;
        if (d < 0) bucket = -bucket;
    }
    bucket += (long)B;
    return (size_t)(bucket < 0 ? 0 : bucket > 2 * (long)B - 1 ? 2 * (long)B - 1 : bucket);
}

static float gelu(float x) {
    return (float)((double)x * (1 + erf((double)x / sqrt(2))) / 2);
}

static void attend(float *out, const float *q, const float *k, const float *v, const char *prefix, size_t n) {
    const size_t D = H / HEADS;
    const unsigned char *pk = tensor(prefix, "attention.self.position_key", "F16", 2 * B, H);
    const unsigned char *pq = tensor(prefix, "attention.self.position_query", "F16", 2 * B, H);
    double *score = need(n * sizeof *score);
    for (size_t a = 0; a < H; a += D)
        for (size_t i = 0; i < n; i++) {
            double max = -1e300, total = 0;
            for (size_t j = 0; j < n; j++) {
                const size_t r = row_of((long)i - (long)j) * H + a;
                score[j] = 0;
                for (size_t d = 0; d < D; d++) {
                    const double qi = (double)q[i * H + a + d], kj = (double)k[j * H + a + d];
                    score[j] +=
                        qi * kj + qi * (double)half(pk + 2 * (r + d)) + kj * (double)half(pq + 2 * (r + d));
                }
                score[j] /= sqrt(3 * (double)D);
                if (score[j] > max) max = score[j];
            }
            for (size_t j = 0; j < n; j++) total += score[j] = exp(score[j] - max);
            for (size_t d = 0; d < D; d++) {
                double sum = 0;
                for (size_t j = 0; j < n; j++) sum += score[j] * (double)v[j * H + a + d];
                out[i * H + a + d] = (float)(sum / total);
            }
        }
    free(score);
}

static void forward(float *logits, const size_t *ids, size_t n) {
    const int8_t *word = tensor("", "deberta.embeddings.word_embeddings.weight", "I8", V, H);
    const float *scale = tensor("", "deberta.embeddings.word_embeddings.weight_scale", "F32", V, 0);
    float *x = need(7 * n * H * sizeof *x), *up = need(n * F * sizeof *up);
    float *q = x + n * H, *k = q + n * H, *v = k + n * H, *c = v + n * H, *y = c + n * H;
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < H; i++) x[t * H + i] = (float)word[ids[t] * H + i] * scale[ids[t]];
    norm(x, NULL, "", "deberta.embeddings.LayerNorm", n);
    for (size_t l = 0; l < LAYERS; l++) {
        char prefix[64];
        (void)snprintf(prefix, sizeof prefix, "deberta.encoder.layer.%zu.", l);
        Linear w = linear_named(prefix, "attention.self.query_proj", H, H);
        linear(q, x, &w, n);
        w = linear_named(prefix, "attention.self.key_proj", H, H);
        linear(k, x, &w, n);
        w = linear_named(prefix, "attention.self.value_proj", H, H);
        linear(v, x, &w, n);
        attend(c, q, k, v, prefix, n);
        w = linear_named(prefix, "attention.output.dense", H, H);
        linear(y, c, &w, n);
        norm(x, y, prefix, "attention.output.LayerNorm", n);
        w = linear_named(prefix, "intermediate.dense", F, H);
        linear(up, x, &w, n);
        for (size_t i = 0; i < n * F; i++) up[i] = gelu(up[i]);
        w = linear_named(prefix, "output.dense", H, F);
        linear(y, up, &w, n);
        norm(x, y, prefix, "output.LayerNorm", n);
    }
    const float *pw = tensor("", "pooler.dense.weight", "F32", H, H);
    const float *pb = tensor("", "pooler.dense.bias", "F32", H, 0);
    const float *hw = tensor("", "classifier.weight", "F32", K, H),
                *hb = tensor("", "classifier.bias", "F32", K, 0);
    for (size_t o = 0; o < H; o++) {
        double sum = (double)pb[o];
        for (size_t i = 0; i < H; i++) sum += (double)x[i] * (double)pw[o * H + i];
        y[o] = gelu((float)sum);
    }
    for (size_t o = 0; o < K; o++) {
        double sum = (double)hb[o];
        for (size_t i = 0; i < H; i++) sum += (double)y[i] * (double)hw[o * H + i];
        logits[o] = (float)sum;
    }
    free(x);
    free(up);
}

static double golden(size_t i, int print) {
    char key[64];
    size_t ids[8192], n = 0;
    (void)snprintf(key, sizeof key, "router.golden.%zu.ids", i);
    const char *p = meta(key);
    for (char *end; n < 8192 && *p; p = end + (*end == ' ')) {
        ids[n] = (size_t)strtoull(p, &end, 10);
        if (end == p || ids[n++] >= V) die("wrong ids", key);
    }
    float *logits = need(K * sizeof *logits);
    forward(logits, ids, n);
    (void)snprintf(key, sizeof key, "router.golden.%zu.logits", i);
    p = meta(key);
    double size = 1, worst = 0;
    for (size_t k = 0; k < K; k++) {
        char *end;
        const double stated = strtod(p, &end), d = fabs((double)logits[k] - stated);
        if (end == p) die("wrong logits", key);
        p = end;
        if (fabs(stated) > size) size = fabs(stated);
        if (!(d <= worst)) worst = d;
        if (print) (void)printf("%s%.9g", k ? " " : "", (double)logits[k]);
    }
    if (print) (void)printf("\n");
    free(logits);
    return worst / size;
}

/* ---- the labels, over time ---- */

/* router.label.I.WHAT, or `otherwise` where that is absent. */
static const char *label_meta(size_t i, const char *what, const char *otherwise) {
    char key[80];
    (void)snprintf(key, sizeof key, "router.label.%zu%s%s", i, *what ? "." : "", what);
    return otherwise && !has(key) ? otherwise : meta(key);
}

static void unique(const char *name, size_t owner, int self) {
    for (size_t i = 0; i < K; i++) {
        if (strcmp(label_meta(i, "", NULL), name) == 0 && !(self && i == owner)) die("a name twice", name);
        for (size_t j = 0; j < 64; j++) {
            char what[32];
            (void)snprintf(what, sizeof what, "formerly.%zu", j);
            const char *former = label_meta(i, what, "");
            if (!*former) break;
            if (strcmp(former, name) == 0 && (self || i != owner)) die("a former name twice", name);
        }
    }
}

static void labels(int print) {
    const int first = !has("router.taxonomy.revision");
    const size_t revision = first ? 1 : meta_number("router.taxonomy.revision");
    const char *parent = has("router.taxonomy.parent") ? meta("router.taxonomy.parent") : "-";
    if (revision < 1 || revision > 1000000) die("a wrong revision", NULL);
    if (revision == 1 ? strcmp(parent, "-") != 0
                      : strlen(parent) != 64 || strspn(parent, "0123456789abcdef") != 64)
        die("a wrong parent", parent);
    if (print)
        (void)printf("%zu %s %s\n", revision, parent,
                     has("router.source.model_sha256") ? meta("router.source.model_sha256") : "-");
    size_t active = 0, before = 1;
    for (size_t i = 0; i < K; i++) {
        const char *name = label_meta(i, "", NULL), *state = label_meta(i, "active", "true");
        const size_t since = (size_t)strtoull(label_meta(i, "since", "1"), NULL, 10);
        const int answers = strcmp(state, "true") == 0;
        if (!answers && strcmp(state, "false") != 0) die("neither active nor retired", name);
        if (since < before || since > revision) die("a label out of its time", name);
        before = since;
        active += (size_t)answers;
        unique(name, i, 1);
        if (print)
            (void)printf("%zu\t%d\t%zu\t%s\t%s", i, answers, since, name, label_meta(i, "description", ""));
        for (size_t j = 0; j < 64; j++) {
            char what[32];
            (void)snprintf(what, sizeof what, "formerly.%zu", j);
            const char *former = label_meta(i, what, "");
            if (!*former) break;
            unique(former, i, 0);
            if (print) (void)printf("\t%s", former);
        }
        if (print) (void)printf("\n");
    }
    if (active < (K < 2 ? K : 2)) die("too few active labels", NULL);
}

/* ---- the decision, from header values ---- */

static double numbered(const char *prefix, size_t k) {
    char key[64];
    (void)snprintf(key, sizeof key, "%s.%zu", prefix, k);
    return strtod(meta(key), NULL);
}

static int word(const char *wanted) {
    const char *words = meta("router.required"), *at = strstr(words, wanted);
    const size_t n = strlen(wanted);
    return at && at > words && at[-1] == ' ' && (at[n] == 0 || at[n] == ' ');
}

static float score_of(const char *kind, const float *logits, const double *p, size_t label) {
    double second = 0, certain = 0, top = (double)logits[0], total = 0;
    for (size_t k = 0; k < K; k++) {
        if (k != label) second = fmax(second, p[k]);
        if (p[k] > 0) certain += p[k] * log(p[k]);
        top = fmax(top, (double)logits[k]);
    }
    for (size_t k = 0; k < K; k++) total += exp((double)logits[k] - top);
    if (strcmp(kind, "margin") == 0) return (float)(K > 1 ? p[label] - second : 0);
    if (strcmp(kind, "entropy") == 0) return (float)(K > 1 ? 1 + certain / log((double)K) : 1);
    if (strcmp(kind, "energy") == 0) return (float)(top + log(total));
    if (strcmp(kind, "max_probability") != 0) die("an unknown score", kind);
    return (float)p[label];
}

/* Prints label, whether it abstains, the fallback's name and the score for K logits. */
static void decide(const float *logits) {
    const double temperature = strtod(meta("router.temperature"), NULL);
    const int vector = word("calibration-vector"), threshold = word("decision-threshold");
    double *p = need(K * sizeof *p), total = 0;
    size_t label = 0;
    for (size_t k = 0; k < K; k++) {
        p[k] = (double)logits[k] / temperature;
        if (vector) p[k] = p[k] * numbered("router.scale", k) + numbered("router.bias", k);
        if (p[k] > p[label]) label = k;
    }
    const double most = p[label];
    for (size_t k = 0; k < K; k++) total += p[k] = exp(p[k] - most);
    for (size_t k = 0; k < K; k++) p[k] /= total;
    const float score =
        score_of(threshold ? meta("router.decision.score") : "max_probability", logits, p, label);
    double least = -HUGE_VAL;
    if (threshold)
        least = has("router.decision.threshold") ? strtod(meta("router.decision.threshold"), NULL)
                                                 : numbered("router.decision.threshold", label);
    const char *fallback = has("router.decision.fallback") ? meta("router.decision.fallback") : "-";
    (void)printf("%zu %d %s %a\n", label, (double)score < least, fallback, (double)score);
    free(p);
}

/* Lines of K numbers, one blank between, from stdin. */
static void decide_all(void) {
    float *logits = need(K * sizeof *logits);
    for (size_t k = 0;; k = (k + 1) % K) {
        char text[64];
        if (scanf("%63s", text) != 1) break; /* NOLINT(cert-err34-c): the number is read by strtof */
        logits[k] = strtof(text, NULL);
        if (k + 1 == K) decide(logits);
    }
    free(logits);
}

int main(int argc, char **argv) {
    int print = 0, decisions = 0, tell = 0;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--logits") == 0)
            print = 1;
        else if (strcmp(argv[i], "--float") == 0)
            float_activations = 1;
        else if (strcmp(argv[i], "--labels") == 0)
            tell = 1;
        else if (strcmp(argv[i], "--decide") == 0)
            decisions = 1;
        else
            argc = 0;
    }
    if (argc < 2) {
        (void)fprintf(stderr, "usage: blob_peer FILE [--logits] [--float] [--labels] [--decide <LOGITS]\n");
        return 2;
    }
    load(argv[1]);
    check_tensors();
    if (strncmp(meta("router.format"), "1.", 2) != 0) die("another major format", meta("router.format"));
    char known[96];
    (void)snprintf(known, sizeof known, "int8-rows f16-positions%s%s",
                   word("calibration-vector") ? " calibration-vector" : "",
                   word("decision-threshold") ? " decision-threshold" : "");
    if (strcmp(meta("router.required"), known) != 0) die("unknown features", meta("router.required"));
    V = meta_number("router.vocab_size");
    H = meta_number("router.hidden_size");
    LAYERS = meta_number("router.num_hidden_layers");
    HEADS = meta_number("router.num_attention_heads");
    F = meta_number("router.intermediate_size");
    B = meta_number("router.position_buckets");
    P = meta_number("router.max_relative_positions");
    K = meta_number("router.num_labels");
    eps = strtof(meta("router.layer_norm_eps"), NULL);
    labels(tell);
    if (tell) return 0;
    if (decisions) {
        decide_all();
        return 0;
    }
    const double tolerance = strtod(meta("router.golden.tolerance"), NULL);
    const size_t count = meta_number("router.golden.count");
    double worst = 0;
    for (size_t i = 0; i < count; i++) {
        const double d = golden(i, print);
        if (!(d <= worst)) worst = d;
    }
    (void)printf("%zu golden vectors: logits differ by at most %.3g (tolerance %.3g)\n", count, worst,
                 tolerance);
    if (!float_activations && !(worst <= tolerance))
        die("the logits differ by more than the tolerance", NULL);
    return 0;
}
