#define _GNU_SOURCE /* sched_getaffinity */
#include "core/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "core/mem.h"

enum { SPINS = 2000, THREADS_MAX = 1024 }; /* about ten microseconds of spinning */

typedef struct {
    Threads *pool;
    pthread_t id;
    int index;
} Worker;

/* A worker joins a run through the gate, and the caller closes the gate when no tasks are left: it then
 * waits for those inside and not for one that the system has not yet given a processor.
 *
 * Whoever goes to sleep says so, in `sleepers` or `caller_sleeps`, before looking a last time at what is
 * waited for; whoever changes that looks at them afterwards. All in sequentially consistent order, so one
 * of the two sees the other, and while everybody spins no system call is made. */
struct Threads {
    Worker *workers;
    ThreadsTask *task;
    void *arg;
    size_t tasks;
    pthread_mutex_t lock;
    pthread_cond_t wake, finished;
    int count, started;
    /* Apart from each other by a cache line: the first is read by all who wait, the others are written by
     * all who work. */
    char apart[MEM_ALIGN];
    atomic_uint generation; /* changes when there is new work */
    atomic_int sleepers;
    atomic_bool caller_sleeps;
    bool quit;
    char apart_too[MEM_ALIGN + 4];
    atomic_size_t next;
    char apart_as_well[MEM_ALIGN];
    atomic_uint gate; /* OPEN while there may be tasks, and INSIDE for each worker in the run */
};

enum { OPEN = 1, INSIDE = 2 };

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void take_tasks(Threads *p, int thread) {
    size_t i;
    while ((i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed)) < p->tasks)
        p->task(p->arg, i, thread);
}

static bool join(Threads *p) {
    unsigned gate = atomic_load(&p->gate);
    while (gate & OPEN)
        if (atomic_compare_exchange_weak(&p->gate, &gate, gate + INSIDE)) return true;
    return false;
}

static void leave(Threads *p) {
    if (atomic_fetch_sub(&p->gate, INSIDE) != INSIDE || !atomic_load(&p->caller_sleeps)) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->finished);
    pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg) {
    const Worker *w = arg;
    Threads *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load_explicit(&p->generation, memory_order_acquire) == seen; i++)
            relax();
        if (atomic_load_explicit(&p->generation, memory_order_acquire) == seen) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->sleepers, 1);
            while (atomic_load(&p->generation) == seen) pthread_cond_wait(&p->wake, &p->lock);
            atomic_fetch_sub(&p->sleepers, 1);
            pthread_mutex_unlock(&p->lock);
        }
        seen = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (p->quit) return NULL;
        if (!join(p)) continue;
        take_tasks(p, w->index);
        leave(p);
    }
}

static int usable_cpus(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    const int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n;
}

ErrCode threads_pin(Threads *p, Err *err) {
    cpu_set_t all;
    CPU_ZERO(&all);
    if (sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) == 0)
        return err_set(err, ERR_BACKEND,
                       "cannot pin threads: the system does not tell the CPUs of this process");
    size_t cpu = CPU_SETSIZE - 1;
    for (int i = 0; i < p->count; i++) {
        do cpu = (cpu + 1) % CPU_SETSIZE;
        while (!CPU_ISSET(cpu, &all));
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (pthread_setaffinity_np(i ? p->workers[i].id : pthread_self(), sizeof one, &one) != 0)
            return err_set(err, ERR_BACKEND, "cannot pin thread %d to CPU %zu", i, cpu);
    }
    return ERR_OK;
}

ErrCode threads_open(Threads **out, int count, Err *err) {
    *out = NULL;
    if (count < 0 || count > THREADS_MAX)
        return err_set(err, ERR_ARGUMENT, "threads: found %d, expected 0 (all CPUs) to %d", count,
                       THREADS_MAX);
    Threads *p;
    TRY(mem_new(&p, 1, sizeof *p, "the thread pool", err));
    p->count = count ? count : usable_cpus();
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->finished, NULL);
    ErrCode rc = mem_new(&p->workers, (size_t)p->count, sizeof *p->workers, "the thread pool", err);
    for (int i = 1; rc == ERR_OK && i < p->count; i++) {
        p->workers[i] = (Worker){.pool = p, .index = i};
        if (pthread_create(&p->workers[i].id, NULL, work, &p->workers[i]) != 0)
            rc = err_set(err, ERR_BACKEND, "cannot start thread %d of %d", i + 1, p->count);
        else
            p->started++;
    }
    if (rc != ERR_OK) {
        threads_close(p);
        return rc;
    }
    *out = p;
    return ERR_OK;
}

static void announce(Threads *p) {
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers) == 0) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void threads_close(Threads *p) {
    if (!p) return;
    p->quit = true;
    announce(p);
    for (int i = 1; i <= p->started; i++) pthread_join(p->workers[i].id, NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    mem_free(p->workers);
    mem_free(p);
}

int threads_count(const Threads *p) {
    return p ? p->count : 1;
}

void threads_run(Threads *p, ThreadsTask *task, void *arg, size_t tasks) {
    if (!p || p->count == 1 || tasks < 2) {
        for (size_t i = 0; i < tasks; i++) task(arg, i, 0);
        return;
    }
    p->task = task;
    p->arg = arg;
    p->tasks = tasks;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store(&p->gate, OPEN);
    announce(p);
    take_tasks(p, 0);
    if (atomic_fetch_and(&p->gate, ~(unsigned)OPEN) == OPEN) return;
    for (int i = 0; i < SPINS && atomic_load_explicit(&p->gate, memory_order_acquire); i++) relax();
    if (atomic_load_explicit(&p->gate, memory_order_acquire)) {
        pthread_mutex_lock(&p->lock);
        atomic_store(&p->caller_sleeps, true);
        while (atomic_load(&p->gate)) pthread_cond_wait(&p->finished, &p->lock);
        atomic_store(&p->caller_sleeps, false);
        pthread_mutex_unlock(&p->lock);
    }
}
