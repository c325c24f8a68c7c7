/* tests/test_cuda_attention.c - attention of model/cuda_attention.cu against ops_ref, on a GPU or on kernels that run on
 * the CPU (tests/cuda). usage: test_cuda_attention [--perf]: times the shapes of real models too. */
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/buckets.h"
#include "model/cuda.h"
#include "model/ops.h"

#define MOST_SEQUENCES 400
#define GUARD          1024
#define GPU(call)      gpu((int)(call), __LINE__)

static int failures, checks;
static uint64_t random_state = 1;

typedef struct {
    const char *name;
    int lengths[MOST_SEQUENCES]; /* until a 0 */
    int A, D;
    bool bf16;
    float p;
    int buckets, positions;
    int more; /* the index is for sequences longer by so much */
} Case;

/* What one case computes, all in floats on the host. */
typedef struct {
    float *q, *k, *v, *kr, *qr, *dout, *dkr0, *dqr0; /* given */
    float *out, *dq, *dk, *dv, *dkr, *dqr;
} Arrays;

typedef struct {
    void *all;
    size_t bytes;
} Device;

static void gpu(int error, int line) {
    if (error == (int)cudaSuccess) return;
    printf("FAIL line %d: %s\n", line, cudaGetErrorString((cudaError_t)error));
    exit(1);
}

static uint32_t next_random(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static uint16_t to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t b) {
    const uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void *must(void *p) {
    if (!p) {
        printf("FAIL: no memory\n");
        exit(1);
    }
    return p;
}

/* Numbers between -most and most that bfloat16 holds exactly. */
static float *numbers(size_t n, float most) {
    float *x = must(malloc((n ? n : 1) * sizeof *x));
    for (size_t i = 0; i < n; i++)
        x[i] = from_bf16(to_bf16(most * ((float)next_random() / 1073741824.0f - 1)));
    return x;
}

/* ---- device memory between guards ---- */
static Device device_new(const void *from, size_t bytes) {
    Device d = {NULL, bytes};
    GPU(cudaMalloc(&d.all, bytes + 2 * GUARD));
    GPU(cudaMemset(d.all, 0xff, bytes + 2 * GUARD));
    if (from && bytes) GPU(cudaMemcpy((char *)d.all + GUARD, from, bytes, cudaMemcpyHostToDevice));
    return d;
}

static void *device_at(Device d) {
    return (char *)d.all + GUARD;
}

static Device device_numbers(const float *from, size_t n, bool bf16) {
    if (!bf16) return device_new(from, n * sizeof *from);
    uint16_t *half = must(malloc(n * sizeof *half));
    for (size_t i = 0; i < n; i++) half[i] = to_bf16(from[i]);
    const Device d = device_new(half, n * sizeof *half);
    free(half);
    return d;
}

/* Reads it if `to` is not NULL, looks at the guards, and frees it. */
static void device_end(Device d, float *to, bool bf16, const char *what) {
    unsigned char *all = must(malloc(d.bytes + 2 * GUARD));
    GPU(cudaMemcpy(all, d.all, d.bytes + 2 * GUARD, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < GUARD; i++)
        if (all[i] != 0xff || all[GUARD + d.bytes + i] != 0xff) {
            printf("FAIL %s: written outside of the array\n", what);
            failures++;
            break;
        }
    if (to && bf16)
        for (size_t i = 0; i < d.bytes / 2; i++) {
            uint16_t b;
            memcpy(&b, all + GUARD + 2 * i, sizeof b);
            to[i] = from_bf16(b);
        }
    else if (to)
        memcpy(to, all + GUARD, d.bytes);
    free(all);
    GPU(cudaFree(d.all));
}

/* ---- one case ---- */
typedef struct {
    const Case *c;
    Packed packed;
    int H, R, longest;
    int32_t start[MOST_SEQUENCES + 1];
    int32_t *index; /* from the least distance of `longest` on */
    uint64_t *row;
    real scale;
} Shape;

static void shape_init(Shape *s, const Case *c) {
    memset(s, 0, sizeof *s);
    s->c = c;
    for (; s->packed.S < MOST_SEQUENCES && c->lengths[s->packed.S]; s->packed.S++) {
        const int L = c->lengths[s->packed.S];
        s->start[s->packed.S + 1] = s->start[s->packed.S] + L;
        if (L > s->packed.longest) s->packed.longest = L;
    }
    s->packed.N = s->start[s->packed.S];
    s->packed.start = s->start;
    s->H = c->A * c->D;
    s->longest = s->packed.longest + c->more;
    const int first = buckets_row(1 - s->longest, c->buckets, c->positions);
    s->R = buckets_row(s->longest - 1, c->buckets, c->positions) - first + 1;
    s->index = must(malloc((size_t)(2 * s->longest - 1) * sizeof *s->index));
    for (int d = 1 - s->longest; d < s->longest; d++)
        s->index[d + s->longest - 1] = buckets_row(d, c->buckets, c->positions) - first;
    s->row = must(malloc((size_t)s->packed.N * sizeof *s->row));
    for (int n = 0; n < s->packed.N; n++) s->row[n] = (uint64_t)next_random() << 24 | (uint64_t)n;
    s->scale = (real)(1 / sqrt(3.0 * c->D));
}

static void shape_free(Shape *s) {
    free(s->index);
    free(s->row);
}

static void arrays_init(Arrays *a, const Shape *s) {
    const size_t n = (size_t)s->packed.N * (size_t)s->H, r = (size_t)s->R * (size_t)s->H;
    *a = (Arrays){numbers(n, 2), numbers(n, 2), numbers(n, 1), numbers(r, 2), numbers(r, 2),
                  numbers(n, 1), numbers(r, 1), numbers(r, 1), numbers(n, 0), numbers(n, 0),
                  numbers(n, 0), numbers(n, 0), numbers(r, 0), numbers(r, 0)};
}

static void arrays_free(Arrays *a) {
    float **all = &a->q;
    for (size_t i = 0; i < sizeof *a / sizeof *all; i++) free(all[i]);
}

static void run_reference(Arrays *a, const Shape *s) {
    Ops o = {0};
    Err err;
    const Dropout drop = {s->c->p, 77, s->row};
    const Attention shape = {.packed = &s->packed,
                             .A = s->c->A,
                             .D = s->c->D,
                             .index = s->index,
                             .longest = s->longest,
                             .R = s->R,
                             .scale = s->scale,
                             .drop = &drop};
    const size_t r = (size_t)s->R * (size_t)s->H;
    ops_ref_fill(&o);
    if (o.prepare(&o, s->packed.N, s->longest, s->c->A, s->c->D, &err) != ERR_OK) must(NULL);
    o.attention(&o, a->out, a->q, a->k, a->v, a->kr, a->qr, &shape);
    memcpy(a->dkr, a->dkr0, r * sizeof(float));
    memcpy(a->dqr, a->dqr0, r * sizeof(float));
    o.attention_grad(&o, a->dq, a->dk, a->dv, a->dkr, a->dqr, a->dout, a->q, a->k, a->v, a->kr, a->qr,
                     &shape);
    o.close(&o);
}

/* The results into a; what is given is in `from`. */
static void run_device(Arrays *a, const Arrays *from, const Shape *s) {
    const bool bf16 = s->c->bf16;
    const size_t n = (size_t)s->packed.N * (size_t)s->H, r = (size_t)s->R * (size_t)s->H;
    Device q = device_numbers(from->q, n, bf16), k = device_numbers(from->k, n, bf16);
    Device v = device_numbers(from->v, n, bf16), kr = device_numbers(from->kr, r, bf16);
    Device qr = device_numbers(from->qr, r, bf16), dout = device_numbers(from->dout, n, false);
    Device out = device_new(NULL, n * (bf16 ? 2 : 4)), dq = device_new(NULL, n * 4),
           dk = device_new(NULL, n * 4);
    Device dv = device_new(NULL, n * 4), dkr = device_numbers(from->dkr0, r, false);
    Device dqr = device_numbers(from->dqr0, r, false);
    Device start = device_new(s->start, (size_t)(s->packed.S + 1) * sizeof *s->start);
    Device index = device_new(s->index, (size_t)(2 * s->longest - 1) * sizeof *s->index);
    Device row = device_new(s->row, (size_t)s->packed.N * sizeof *s->row);
    /* as much as was prepared for: more tokens, and longer ones */
    Device scratch =
        device_new(NULL, cuda_attention_scratch(s->packed.N, s->longest, s->c->A, s->c->D, bf16));
    const CudaAttention shape = {device_at(start),
                                 (const int32_t *)device_at(index) + s->longest - 1,
                                 device_at(row),
                                 s->packed.N,
                                 s->packed.S,
                                 s->packed.longest,
                                 s->c->A,
                                 s->c->D,
                                 s->R,
                                 s->scale,
                                 s->c->p,
                                 77,
                                 bf16};
    GPU(cuda_attention(device_at(out), device_at(q), device_at(k), device_at(v), device_at(kr), device_at(qr),
                       &shape, NULL));
    GPU(cuda_attention_grad(device_at(dq), device_at(dk), device_at(dv), device_at(dkr), device_at(dqr),
                            device_at(dout), device_at(q), device_at(k), device_at(v), device_at(kr),
                            device_at(qr), &shape, device_at(scratch), NULL));
    GPU(cudaDeviceSynchronize());
    const Device given[] = {q, k, v, kr, qr, dout, start, index, row, scratch};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) device_end(given[i], NULL, false, s->c->name);
    device_end(out, a->out, bf16, s->c->name);
    device_end(dq, a->dq, false, s->c->name);
    device_end(dk, a->dk, false, s->c->name);
    device_end(dv, a->dv, false, s->c->name);
    device_end(dkr, a->dkr, false, s->c->name);
    device_end(dqr, a->dqr, false, s->c->name);
}

/* |got - want| <= own |want| + whole * most |want|, and root mean square of the differences <= mean of that of want */
static void compare(const Case *c, const char *what, const float *got, const float *want, size_t n,
                    double own, double whole, double mean) {
    double most = 0, squares = 0, off = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)want[i]));
        squares += (double)want[i] * (double)want[i];
    }
    size_t bad = n;
    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)got[i] - (double)want[i]);
        off += d * d;
        if (bad == n && !(d <= own * fabs((double)want[i]) + whole * most)) bad = i;
        if (!(d <= worst)) worst = d;
    }
    checks++;
    const double rms = n ? sqrt(off / fmax(squares, 1e-30)) : 0;
    if (getenv("TEST_VERBOSE"))
        printf("%-28s %-4s worst %.2e of the largest, root mean square %.2e\n", c->name, what,
               worst / fmax(most, 1e-30), rms);
    if (bad == n && rms <= mean) return;
    failures++;
    printf("FAIL %s, %s: ", c->name, what);
    if (bad < n)
        printf("[%zu] found %.9g, expected %.9g (largest %.3g), ", bad, (double)got[bad], (double)want[bad],
               most);
    printf("worst %.3g of the largest, root mean square %.3g\n", worst / fmax(most, 1e-30), rms);
}

static void run_case(const Case *c) {
    Shape s;
    Arrays want, got, again;
    shape_init(&s, c);
    arrays_init(&want, &s);
    arrays_init(&got, &s);
    arrays_init(&again, &s);
    run_reference(&want, &s);
#ifdef CUDA_EMULATED
    emulator_order(0);
#endif
    run_device(&got, &want, &s);
#ifdef CUDA_EMULATED
    emulator_order(1 + checks / 6 % 2); /* a missing barrier would show */
#endif
    run_device(&again, &want, &s);
    const size_t n = (size_t)s.packed.N * (size_t)s.H, r = (size_t)s.R * (size_t)s.H;
    /* Floats: sums of up to 600 products, exponentials of arguments up to 16 that are off by half of their last place.
     * bfloat16: a rounding is off by 2^-9 of the number at most, by a third of that on average. out has its own; P and dS
     * have theirs, independently, so that sums of many are off by less, and those of few by up to the sum of all. */
    const bool half = c->bf16;
    const double whole = half ? 1.0 / 256 : 5e-6, mean = half ? 1.0 / 256 : 2e-6, own = half ? 1.0 / 256 : 0;
    compare(c, "out", got.out, want.out, n, own, whole, mean);
    compare(c, "dq", got.dq, want.dq, n, own, whole, mean);
    compare(c, "dk", got.dk, want.dk, n, own, whole, mean);
    compare(c, "dv", got.dv, want.dv, n, own, whole, mean);
    compare(c, "dkr", got.dkr, want.dkr, r, own, whole, mean);
    compare(c, "dqr", got.dqr, want.dqr, r, own, whole, mean);
    if (memcmp(got.out, again.out, n * 4) != 0 || memcmp(got.dq, again.dq, n * 4) != 0 ||
        memcmp(got.dk, again.dk, n * 4) != 0 || memcmp(got.dv, again.dv, n * 4) != 0 ||
        memcmp(got.dkr, again.dkr, r * 4) != 0 || memcmp(got.dqr, again.dqr, r * 4) != 0) {
        failures++;
        printf("FAIL %s: a second run has other bits\n", c->name);
    }
    arrays_free(&want);
    arrays_free(&got);
    arrays_free(&again);
    shape_free(&s);
}

/* ---- how long it takes ---- */
static void time_shape(int S, int L, bool bf16, float p) {
    Case c = {"perf", {0}, 16, 64, bf16, p, 256, 512, 0};
    for (int i = 0; i < S; i++) c.lengths[i] = L;
    Shape s;
    shape_init(&s, &c);
    const size_t n = (size_t)s.packed.N * (size_t)s.H, r = (size_t)s.R * (size_t)s.H;
    float *x = numbers(n, 1), *t = numbers(r, 1);
    Device q = device_numbers(x, n, bf16), k = device_numbers(x, n, bf16), v = device_numbers(x, n, bf16);
    Device kr = device_numbers(t, r, bf16), qr = device_numbers(t, r, bf16),
           dout = device_numbers(x, n, false);
    Device out = device_numbers(x, n, bf16), dq = device_new(NULL, n * 4), dk = device_new(NULL, n * 4);
    Device dv = device_new(NULL, n * 4), dkr = device_numbers(t, r, false), dqr = device_numbers(t, r, false);
    Device start = device_new(s.start, (size_t)(S + 1) * sizeof *s.start);
    Device index = device_new(s.index, (size_t)(2 * s.longest - 1) * sizeof *s.index);
    Device row = device_new(s.row, (size_t)s.packed.N * sizeof *s.row);
    Device scratch = device_new(NULL, cuda_attention_scratch(s.packed.N, L, 16, 64, bf16));
    const CudaAttention shape = {device_at(start),
                                 (const int32_t *)device_at(index) + L - 1,
                                 device_at(row),
                                 s.packed.N,
                                 S,
                                 L,
                                 16,
                                 64,
                                 s.R,
                                 s.scale,
                                 p,
                                 77,
                                 bf16};
    cudaEvent_t from, mid, to;
    float forward_ms = 0, grad_ms = 0;
    const int runs = 50;
    GPU(cudaEventCreate(&from));
    GPU(cudaEventCreate(&mid));
    GPU(cudaEventCreate(&to));
    for (int i = -5; i < 2 * runs; i++) { /* the first ones are for nothing */
        if (i == 0) GPU(cudaEventRecord(from, NULL));
        if (i == runs) GPU(cudaEventRecord(mid, NULL));
        if (i < runs)
            GPU(cuda_attention(device_at(out), device_at(q), device_at(k), device_at(v), device_at(kr),
                               device_at(qr), &shape, NULL));
        if (i < 0 || i >= runs)
            GPU(cuda_attention_grad(device_at(dq), device_at(dk), device_at(dv), device_at(dkr),
                                    device_at(dqr), device_at(dout), device_at(q), device_at(k), device_at(v),
                                    device_at(kr), device_at(qr), &shape, device_at(scratch), NULL));
    }
    GPU(cudaEventRecord(to, NULL));
    GPU(cudaEventSynchronize(to));
    GPU(cudaEventElapsedTime(&forward_ms, from, mid));
    GPU(cudaEventElapsedTime(&grad_ms, mid, to));
    printf("%2d x %3d tokens, 16 heads, %s, dropout %.1f: forward %7.1f us, gradient %7.1f us\n", S, L,
           bf16 ? "bf16" : "fp32", (double)p, (double)forward_ms * 1e3 / runs, (double)grad_ms * 1e3 / runs);
    const Device all[] = {q, k, v, kr, qr, dout, out, dq, dk, dv, dkr, dqr, start, index, row, scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) device_end(all[i], NULL, false, "perf");
    GPU(cudaEventDestroy(from));
    GPU(cudaEventDestroy(mid));
    GPU(cudaEventDestroy(to));
    free(x);
    free(t);
    shape_free(&s);
}

static void run_lengths(void) {
    static const int LENGTHS[] = {1,   2,   15,  16,  17,  31,  33,  63,  64, 65,
                                  127, 128, 129, 255, 256, 257, 511, 512, 600};
    char name[64];
    for (size_t i = 0; i < sizeof LENGTHS / sizeof *LENGTHS; i++)
        for (int half = 0; half < 2; half++) {
            if (!half && LENGTHS[i] > 257) continue; /* the same code as for 257 */
            Case c = {name, {LENGTHS[i]}, 1, 64, half, i % 2 ? 0.1f : 0, 256, 512, i % 3 ? 0 : 5};
            snprintf(name, sizeof name, "length %d, %s", LENGTHS[i], half ? "bf16" : "fp32");
            run_case(&c);
        }
}

int main(int argc, char **argv) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count < 1) {
        printf("no device\n");
        return 77;
    }
    if (argc > 1 && strcmp(argv[1], "--perf") == 0) {
        static const int SHAPES[][2] = {{32, 32}, {32, 64}, {32, 128}, {128, 64},
                                        {8, 256}, {4, 512}, {32, 512}};
        for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
            for (int drop = 0; drop < 2; drop++)
                time_shape(SHAPES[i][0], SHAPES[i][1], true, drop ? 0.1f : 0);
        time_shape(32, 64, false, 0.1f);
        time_shape(32, 128, false, 0.1f);
        return 0;
    }
    run_lengths();
    static const Case CASES[] = {
        {"ragged", {1, 70, 128, 5, 64, 130, 1}, 2, 64, true, 0.1f, 256, 512, 40},
        {"ragged, no dropout", {3, 1, 17, 1, 65, 200, 2}, 2, 64, true, 0, 256, 512, 0},
        {"ragged, fp32", {1, 70, 128, 5, 64, 33, 1}, 2, 64, false, 0.1f, 256, 512, 40},
        {"few buckets", {8, 3, 20, 1}, 2, 64, true, 0, 4, 8, 0},
        {"few buckets, long", {150, 3, 90, 64, 1}, 3, 64, true, 0.2f, 4, 8, 0},
        {"few buckets, fp32", {100, 3, 20, 1}, 2, 64, false, 0.2f, 4, 8, 3},
        {"small heads", {40, 1, 33}, 3, 5, false, 0.1f, 16, 64, 0},
        {"small heads, bf16", {40, 1, 33}, 3, 12, true, 0.1f, 16, 64, 0},
        {"long", {600}, 1, 64, true, 0.1f, 256, 512, 0},
        {"too long for tensor cores", {1030}, 1, 64, true, 0, 256, 512, 0},
        {"wide heads", {40, 1, 33}, 1, 256, false, 0, 256, 512, 0},
        {"wide heads, bf16", {70, 32, 31}, 1, 100, true, 0.1f, 256, 512, 0},
        /* on the CPU there are 3 blocks for each head of 2 (CUDA_ATTENTION_BLOCKS), which have several items each */
        {"one window", {64, 20, 64, 1, 33, 60, 7, 64, 2, 10, 11, 12}, 2, 64, true, 0.1f, 256, 512, 0},
        {"windows that jump", {64, 200, 64, 1, 130, 7, 64, 2}, 2, 64, true, 0.1f, 256, 512, 0},
        {"many heads", {64, 70, 1}, 24, 64, true, 0.1f, 256, 512, 0},
        {"many heads, fp32", {33, 20, 40, 1, 33, 7}, 12, 8, false, 0.1f, 256, 512, 0},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) run_case(&CASES[i]);
    Case many = {"many sequences", {0}, 2, 64, true, 0.1f, 256, 512, 0};
    for (int i = 0; i < 100; i++) many.lengths[i] = 1 + (int)(next_random() % (i % 50 == 7 ? 80 : 12));
    run_case(&many);
    many.bf16 = false;
    many.D = 16;
    run_case(&many);
#ifdef CUDA_EMULATED
    emulator_device(7, 5, (size_t)16 << 30); /* without tensor cores for bfloat16 */
    run_case(&CASES[0]);
#endif
    printf("%d comparisons, %d failures\n", checks, failures);
    return failures != 0;
}
