/* core/threads.h - the one pool of threads. Waiting is a short spin, then sleep (long spins are ruinous on
 * shared cores), and a thread that finds no processor is not waited for: the others do its share. Work is
 * split by the caller over outputs, so that results never depend on the number of threads. */
#ifndef CORE_THREADS_H
#define CORE_THREADS_H

#include <stddef.h>

#include "core/err.h"

typedef struct Threads Threads;

/* A pool of `count` threads, the caller being one of them; 0 means one for each CPU that this process may
 * use. */
ErrCode threads_open(Threads **out, int count, Err *err) ERR_CHECKED;
void threads_close(Threads *threads);

/* Keeps each thread on a CPU of its own, the caller on the first, as far as there are CPUs that this process may use. */
ErrCode threads_pin(Threads *threads, Err *err) ERR_CHECKED;

/* NULL counts as one thread. */
int threads_count(const Threads *threads);

/* Runs task(arg, i, thread) for i = 0 .. tasks-1, each once, in any order and on any thread (0 .. count-1),
 * and returns when all are done. Not reentrant: a task must not call it on the same pool. NULL runs them
 * here. */
typedef void ThreadsTask(void *arg, size_t i, int thread);
void threads_run(Threads *threads, ThreadsTask *task, void *arg, size_t tasks);

#endif
