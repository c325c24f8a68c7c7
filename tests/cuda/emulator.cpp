/* tests/cuda/emulator.cpp - runs kernels on the CPU: see cuda_runtime.h beside it. One thread of the host at a time. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include <map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#endif
#ifdef EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES ((size_t)512 << 10)
#else
#define STACK_BYTES ((size_t)128 << 10)
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

#define POISON       0xff
#define GUARD_BYTES  ((size_t)4096)
#define ARENA_BYTES  ((size_t)1 << 38) /* of addresses; freed ones are not used again */
#define MOST_THREADS 1024
#define LARGE_BYTES  ((size_t)32 << 20)

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace {

enum State { READY, WAITS_FOR_BLOCK, WAITS_FOR_WARP, DONE };

struct Copy {
    void *to;
    const void *from;
    int bytes, bytes_read, group;
};

struct Fiber {
    char *stack;
#ifdef __x86_64__
    void *sp;
#else
    ucontext_t context;
#endif
    void *fake_stack;
    State state;
    uint3 idx;
    const char *file; /* of the barrier, or what the warp does */
    int line;
    void *mine;
    std::vector<Copy> copies;
    int group;
};

struct Block {
    Fiber fiber[MOST_THREADS];
    Fiber host;
    Fiber *now;
    int threads, done, at_barrier, votes, last_votes;
    int at_warp[MOST_THREADS / 32];
    void (*run)(void *);
    void *arg;
    void *shared;
    const void *host_bottom;
    size_t host_size;
};

struct Allocation {
    size_t bytes;
    bool pinned;
};

Block g;
int g_order = -1;
uint64_t g_random = 1;
unsigned long g_launches;
cudaError_t g_last = cudaSuccess;
int g_major = 9, g_minor = 0;
size_t g_memory = (size_t)16 << 30, g_used;
char *g_arena, *g_top;
int g_open; /* how often device memory was opened to the program */
bool g_closed = true;
unsigned long g_closings;
std::map<const char *, Allocation> g_allocations;
std::map<const void *, int> g_most_shared;

[[noreturn]] void fail(const char *why) {
    fprintf(stderr, "cuda emulator: %s (block %u,%u,%u thread %u,%u,%u)\n", why, blockIdx.x, blockIdx.y,
            blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    abort();
}

cudaError_t result(cudaError_t e) {
    if (e != cudaSuccess) g_last = e;
    return e;
}

/* ---- fibers ---- */
#ifdef __x86_64__
extern "C" void emulator_switch(void **save, void *to);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
#endif

void go(Fiber *from, Fiber *to, bool ends) {
#ifdef EMULATOR_ASAN
    const bool home = to == &g.host;
    __sanitizer_start_switch_fiber(ends ? NULL : &from->fake_stack, home ? g.host_bottom : to->stack,
                                   home ? g.host_size : STACK_BYTES);
#endif
    (void)ends;
    g.now = to;
    threadIdx = to->idx;
#ifdef __x86_64__
    emulator_switch(&from->sp, to->sp);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

void wait(State state) {
    Fiber *me = g.now;
    me->state = state;
    go(me, &g.host, false);
}

extern "C" void emulator_entry(void) {
#ifdef EMULATOR_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &size);
    g.host_bottom = bottom; /* we come from the host's stack always */
    g.host_size = size;
#endif
    g.run(g.arg);
    Fiber *me = g.now;
    if (!me->copies.empty()) fail("a thread ends without waiting for its asynchronous copies");
    me->state = DONE;
    g.done++;
    go(me, &g.host, true);
    abort();
}

void prepare(Fiber *f) {
    if (!f->stack) {
        void *p = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                       -1, 0);
        if (p == MAP_FAILED) fail("no memory for the stacks of threads");
        f->stack = (char *)p;
        if (mprotect(p, 4096, PROT_NONE) != 0) fail("mprotect");
    }
#ifdef EMULATOR_ASAN
    __asan_unpoison_memory_region(f->stack, STACK_BYTES);
#endif
    f->state = READY;
    f->copies.clear();
    f->group = 0;
#ifdef __x86_64__
    void **top = (void **)(void *)(f->stack + STACK_BYTES - 56);
    *top = NULL; /* where the entry would return to: that lies 8 bytes off a multiple of 16 */
    *--top = (void *)emulator_entry;
    for (int i = 0; i < 6; i++) *--top = NULL;
    f->sp = top;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&f->context, emulator_entry, 0);
#endif
}

/* ---- one block ---- */
void release(int from, int to, State state) {
    for (int t = from; t < to; t++)
        if (g.fiber[t].state == state) g.fiber[t].state = READY;
}

int order_of(int i, int shuffle) {
    if (g_order == 1) return g.threads - 1 - i;
    if (g_order != 2) return i;
    /* warps in another order, lanes ascending or descending */
    const int warps = (g.threads + 31) / 32, last = g.threads - (warps - 1) * 32;
    int warp = i / 32, lane = i % 32;
    if (last == 32) warp = (warp * (2 * (shuffle % 16) + 1) + shuffle) % warps;
    if (last == 32 && (warps & (warps - 1)) != 0) warp = i / 32; /* not a permutation */
    if (last == 32 && shuffle & 1) lane = 31 - lane;
    return warp * 32 + lane;
}

void run_block() {
    g.done = g.at_barrier = g.votes = 0;
    memset(g.at_warp, 0, sizeof g.at_warp);
    for (int t = 0; t < g.threads; t++) {
        prepare(&g.fiber[t]);
        const unsigned u = (unsigned)t;
        g.fiber[t].idx = {u % blockDim.x, u / blockDim.x % blockDim.y, u / blockDim.x / blockDim.y};
    }
    while (g.done < g.threads) {
        bool moved = false;
        g_random = g_random * 6364136223846793005u + 1442695040888963407u;
        const int shuffle = (int)(g_random >> 40);
        for (int i = 0; i < g.threads; i++) {
            Fiber *f = &g.fiber[order_of(i, shuffle)];
            if (f->state != READY) continue;
            moved = true;
            go(&g.host, f, false);
        }
        if (!moved) {
            int at = 0;
            while (g.fiber[at].state == DONE) at++;
            const Fiber *f = &g.fiber[at];
            threadIdx = f->idx;
            fprintf(stderr,
                    "cuda emulator: thread %d waits in %s:%d for others of %d that do not come (%d ended)\n",
                    at, f->file, f->line, g.threads, g.done);
            fail("missed barrier");
        }
    }
}

/* ---- memory ---- */
/* Closing takes time for every page that ever was memory, freed ones too. A host that touches the device's memory does so
 * all the time: later on it is looked for now and then. */
void open_memory() {
    if (g_open++ > 0 || !g_closed || g_top == g_arena) return;
    if (mprotect(g_arena, (size_t)(g_top - g_arena), PROT_READ | PROT_WRITE) != 0) fail("mprotect");
    g_closed = false;
}

void close_memory() {
    if (--g_open > 0 || g_top == g_arena || (++g_closings > 1000 && g_closings % 100 != 0)) return;
    if (mprotect(g_arena, (size_t)(g_top - g_arena), PROT_NONE) != 0) fail("mprotect");
    g_closed = true;
}

int is_device(const void *p, size_t bytes) {
    const char *at = (const char *)p;
    if (at < g_arena || at >= g_arena + ARENA_BYTES) return -1;
    auto next = g_allocations.upper_bound(at);
    if (next == g_allocations.begin()) return 0;
    --next;
    return at + bytes <= next->first + next->second.bytes;
}

void check_guard(const char *p, size_t bytes) {
    const char *end = p + bytes, *stop = (const char *)(((uintptr_t)end + 255) / 256 * 256) + GUARD_BYTES;
#ifdef EMULATOR_ASAN
    __asan_unpoison_memory_region(p - GUARD_BYTES, (size_t)(stop - p) + GUARD_BYTES);
#endif
    for (const char *c = p - GUARD_BYTES; c < p; c++)
        if ((unsigned char)*c != POISON) fail("write before the beginning of an allocation");
    for (const char *c = end; c < stop; c++)
        if ((unsigned char)*c != POISON) fail("write past the end of an allocation");
}

/* Shared memory that a block may ask for. */
size_t most_shared() {
    const size_t kib = g_major == 7                                 ? 64
                       : g_major == 12 || (g_major == 8 && g_minor) ? 99
                       : g_major == 8                               ? 163
                                                                    : 227;
    return kib << 10;
}

double seconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

} // namespace

extern "C" {
extern unsigned char __start_emulated_shared[] __attribute__((weak));
extern unsigned char __stop_emulated_shared[] __attribute__((weak));
}

__attribute__((no_sanitize("address"))) static void poison_static() {
    for (volatile unsigned char *p = __start_emulated_shared; p < __stop_emulated_shared; p++) *p = POISON;
}

/* ---- for kernels ---- */
void *emulator_shared() {
    return g.shared;
}

int emulator_block(const char *file, int line, int vote) {
    Fiber *me = g.now;
    me->file = file;
    me->line = line;
    g.votes += vote;
    if (++g.at_barrier < g.threads) {
        wait(WAITS_FOR_BLOCK);
        return g.last_votes;
    }
    for (int t = 0; t < g.threads; t++)
        if (g.fiber[t].line != line || strcmp(g.fiber[t].file, file) != 0) {
            fprintf(stderr, "cuda emulator: thread %d waits in %s:%d, another in %s:%d\n", t, g.fiber[t].file,
                    g.fiber[t].line, file, line);
            fail("different barriers");
        }
    g.at_barrier = 0;
    g.last_votes = g.votes;
    g.votes = 0;
    release(0, g.threads, WAITS_FOR_BLOCK);
    return g.last_votes;
}

void emulator_warp(const char *what, unsigned mask, void *mine, EmulatorCombine *combine, const void *arg) {
    Fiber *me = g.now;
    const int t = (int)(me - g.fiber), warp = t / 32, first = warp * 32;
    const int lanes = g.threads - first < 32 ? g.threads - first : 32;
    if (lanes == 32 && mask != 0xffffffffu) fail("only whole warps can do something together here");
    me->file = what;
    me->line = 0;
    me->mine = mine;
    if (++g.at_warp[warp] < lanes) {
        wait(WAITS_FOR_WARP);
        return;
    }
    void *all[32] = {0};
    for (int i = 0; i < lanes; i++) {
        if (strcmp(g.fiber[first + i].file, what) != 0) {
            fprintf(stderr, "cuda emulator: lane %d is in %s, another of its warp in %s\n", i,
                    g.fiber[first + i].file, what);
            fail("a warp does different things");
        }
        all[i] = g.fiber[first + i].mine;
    }
    g.at_warp[warp] = 0;
    if (combine) combine(all, arg);
    release(first, first + lanes, WAITS_FOR_WARP);
}

static void combine_shuffle(void *const lanes[32], const void *arg) {
    const EmulatorShuffle how = *(const EmulatorShuffle *)arg;
    for (int i = 0; i < 32; i++) {
        EmulatorShuffled *s = (EmulatorShuffled *)lanes[i];
        if (!s) continue;
        const int base = i / s->width * s->width, end = base + s->width;
        int from = how == EMULATOR_INDEX  ? base + (s->by & (s->width - 1))
                   : how == EMULATOR_UP   ? i - s->by
                   : how == EMULATOR_DOWN ? i + s->by
                                          : i ^ s->by;
        if (from < base || from >= end) from = i;
        if (!lanes[from]) fail("a shuffle from a thread that the block does not have");
        s->result = ((const EmulatorShuffled *)lanes[from])->value;
    }
}

void emulator_shuffle(EmulatorShuffled *mine, unsigned mask, EmulatorShuffle how) {
    static const char *const NAMES[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                        "__shfl_xor_sync"};
    emulator_warp(NAMES[how], mask, mine, combine_shuffle, &how);
}

static void combine_ballot(void *const lanes[32], const void *) {
    unsigned all = 0;
    for (int i = 0; i < 32; i++)
        if (lanes[i] && *(const unsigned *)lanes[i]) all |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (lanes[i]) *(unsigned *)lanes[i] = all;
}

unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned mine = predicate != 0;
    emulator_warp("__ballot_sync", mask, &mine, combine_ballot, NULL);
    return mine;
}

static void land(const Copy &c) {
    memcpy(c.to, c.from, (size_t)c.bytes_read);
    memset((char *)c.to + c.bytes_read, 0, (size_t)(c.bytes - c.bytes_read));
}

void emulator_copy(void *to, const void *from, int bytes, int bytes_read) {
    if ((uintptr_t)to % (unsigned)bytes || (uintptr_t)from % (unsigned)bytes)
        fail("an asynchronous copy is not aligned");
    Copy c = {to, from, bytes, bytes_read, g.now->group};
    if (g_order != 0) {
        land(c);
        c.bytes = 0;
    }
    g.now->copies.push_back(c);
}

void emulator_copy_commit() {
    g.now->group++;
}

void emulator_copy_wait(int groups_left) {
    Fiber *me = g.now;
    size_t kept = 0;
    for (const Copy &c : me->copies) {
        if (c.group >= me->group - groups_left) {
            me->copies[kept++] = c;
            continue;
        }
        if (c.bytes) land(c);
    }
    me->copies.resize(kept);
}

void emulator_run(const void *kernel, dim3 grid, dim3 block, size_t shared, void (*run)(void *), void *arg) {
    const size_t threads = (size_t)block.x * block.y * block.z;
    auto most = g_most_shared.find(kernel);
    if (threads < 1 || threads > MOST_THREADS || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu ||
        grid.y > 65535 || grid.z > 65535 || block.z > 64 || shared > most_shared() ||
        (shared > (48 << 10) && (most == g_most_shared.end() || (size_t)most->second < shared))) {
        result(cudaErrorInvalidConfiguration);
        return;
    }
    if (g_order < 0) {
        const char *order = getenv("CUDA_EMULATOR_ORDER");
        g_order = order && strcmp(order, "reverse") == 0 ? 1 : order && strcmp(order, "mixed") == 0 ? 2 : 0;
    }
    g_launches++;
    open_memory();
    g.shared = shared ? aligned_alloc(1024, (shared + 1023) / 1024 * 1024) : NULL;
    if (shared && !g.shared) fail("no memory");
#ifdef EMULATOR_ASAN
    if (shared)
        __asan_poison_memory_region((char *)g.shared + (shared + 7) / 8 * 8,
                                    (1024 - shared % 1024) % 1024 / 8 * 8);
#endif
    g.threads = (int)threads;
    g.run = run;
    g.arg = arg;
    blockDim = block;
    gridDim = grid;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                poison_static();
                if (shared) memset(g.shared, POISON, shared);
                run_block();
            }
    free(g.shared);
    g.shared = NULL;
    close_memory();
}

/* ---- for the host ---- */
extern "C" {

void emulator_device(int major, int minor, size_t memory_bytes) {
    g_major = major;
    g_minor = minor;
    g_memory = memory_bytes;
}

unsigned long emulator_launches(void) {
    return g_launches;
}

void emulator_order(int order) {
    g_order = order;
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    *p = NULL;
    if (bytes == 0) return cudaSuccess;
    if (bytes > g_memory || g_used + bytes > g_memory) return result(cudaErrorMemoryAllocation);
    if (!g_arena) {
        void *a = mmap(NULL, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (a == MAP_FAILED) return result(cudaErrorMemoryAllocation);
        g_arena = g_top = (char *)a;
    }
    const size_t whole = (bytes + 2 * GUARD_BYTES + 256 + 4095) / 4096 * 4096;
    if (whole > (size_t)(g_arena + ARENA_BYTES - g_top)) return result(cudaErrorMemoryAllocation);
    char *at = g_top;
    g_top += whole;
    open_memory();
    if (mprotect(at, whole, PROT_READ | PROT_WRITE) != 0) fail("mprotect");
    /* Opening and closing takes time for each page that was written: the inside of a large workspace is left alone. */
    const size_t front = whole < LARGE_BYTES ? whole : LARGE_BYTES / 16;
    memset(at, POISON, front);
    if (front < whole) memset(at + GUARD_BYTES + bytes, POISON, whole - GUARD_BYTES - bytes);
#ifdef EMULATOR_ASAN
    __asan_poison_memory_region(at, GUARD_BYTES);
    __asan_poison_memory_region(at + GUARD_BYTES + bytes, whole - GUARD_BYTES - bytes);
#endif
    close_memory();
    *p = at + GUARD_BYTES;
    g_allocations[at + GUARD_BYTES] = {bytes, false};
    g_used += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    if (!p) return cudaSuccess;
    auto a = g_allocations.find((const char *)p);
    if (a == g_allocations.end() || a->second.pinned) return result(cudaErrorInvalidValue);
    open_memory();
    check_guard(a->first, a->second.bytes);
    close_memory();
    char *at = (char *)p - GUARD_BYTES;
    const size_t whole = (a->second.bytes + 2 * GUARD_BYTES + 256 + 4095) / 4096 * 4096;
    madvise(at, whole, MADV_DONTNEED);
#ifdef EMULATOR_ASAN
    __asan_poison_memory_region(at, whole);
#endif
    g_used -= a->second.bytes;
    g_allocations.erase(a);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    *p = malloc(bytes ? bytes : 1);
    if (*p) memset(*p, POISON, bytes);
    return *p ? cudaSuccess : result(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    if (bytes == 0) return cudaSuccess;
    const int to_device = is_device(to, bytes), from_device = is_device(from, bytes);
    if (to_device == 0 || from_device == 0) fail("a copy reaches past an allocation");
    if (kind != cudaMemcpyDefault &&
        ((to_device == 1) != (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) ||
         (from_device == 1) != (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)))
        return result(cudaErrorInvalidValue);
    open_memory();
    memmove(to, from, bytes);
    close_memory();
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    (void)stream;
    return cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    if (bytes == 0) return cudaSuccess;
    if (is_device(p, bytes) != 1) fail("cudaMemset of what is not within an allocation");
    open_memory();
    memset(p, value, bytes);
    close_memory();
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    (void)stream;
    return cudaMemset(p, value, bytes);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *total = g_memory;
    *available = g_memory - g_used;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    (void)flags;
    *stream = (cudaStream_t)malloc(1);
    return *stream ? cudaSuccess : result(cudaErrorMemoryAllocation);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    (void)priority;
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithFlags(stream, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    (void)stream;
    (void)event;
    (void)flags;
    return cudaSuccess;
}

struct CUevent_st {
    double at;
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    (void)flags;
    *event = (cudaEvent_t)calloc(1, sizeof(CUevent_st));
    return *event ? cudaSuccess : result(cudaErrorMemoryAllocation);
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    (void)stream;
    event->at = seconds();
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    (void)event;
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    (void)event;
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    *ms = (float)(1e3 * (to->at - from->at));
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : result(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    if (device != 0) return result(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->totalGlobalMem = g_memory;
    p->sharedMemPerBlock = 48 << 10;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = MOST_THREADS;
    p->major = g_major;
    p->minor = g_minor;
    p->multiProcessorCount = 132;
    p->l2CacheSize = 50 << 20;
    p->sharedMemPerBlockOptin = most_shared();
    p->sharedMemPerMultiprocessor = most_shared() + 1024;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    if (device != 0) return result(cudaErrorInvalidDevice);
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: *value = MOST_THREADS; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMultiProcessorCount: *value = 132; break;
        case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
        case cudaDevAttrComputeCapabilityMajor: *value = g_major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = g_minor; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)most_shared(); break;
        default: return result(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || (size_t)value > most_shared()) return result(cudaErrorInvalidValue);
    g_most_shared[kernel] = value;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    const cudaError_t e = g_last;
    g_last = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void) {
    return g_last;
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidConfiguration: return "invalid configuration argument";
        default: return "error of the emulated device";
    }
}

const char *cudaGetErrorName(cudaError_t error) {
    return cudaGetErrorString(error);
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

} // extern "C"
