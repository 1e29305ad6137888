#include "kernels/workers.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/*
 * One counter hands out the work. workers_run() writes the loop's description and then sets `remaining` to
 * the number of items; whoever decrements it from a positive value r owns item n_items - r, and only then
 * reads the description: a loop cannot end, and its description cannot change, while somebody owns an
 * unfinished item. A worker that comes late finds `remaining` at or below zero and has nothing to read. So
 * the caller waits for the items (`unfinished`), never for a worker that has not yet woken up.
 */

enum { CACHE_LINE = 64 };
enum {
    SPINS_BEFORE_SLEEP = 2000
}; /* some 50 microseconds: longer than the gap between two loops of a step */
enum { SPINS_BEFORE_YIELD = 4000 };

struct worker {
    struct workers *pool;
    int index;
    pthread_t thread;
};

struct workers {
    _Alignas(CACHE_LINE) atomic_int remaining;
    _Alignas(CACHE_LINE) atomic_int unfinished;
    _Alignas(CACHE_LINE) atomic_int sleepers;
    atomic_bool stop;
    void (*body)(void *context, int item, int worker);
    void *context;
    int n_items;

    int n_threads;
    int n_started;
    struct worker *threads; /* [n_threads]; entry 0, the caller, has no thread */
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Take and run items until none is left. */
static void worker_drain(struct workers *pool, int index)
{
    while (atomic_load_explicit(&pool->remaining, memory_order_relaxed) > 0) {
        int r = atomic_fetch_sub_explicit(&pool->remaining, 1, memory_order_acquire);
        if (r <= 0) break;
        pool->body(pool->context, pool->n_items - r, index);
        atomic_fetch_sub_explicit(&pool->unfinished, 1, memory_order_release);
    }
}

static bool worker_has_news(struct workers *pool)
{
    return atomic_load(&pool->remaining) > 0 || atomic_load(&pool->stop);
}

/* Returns when there is work or the pool stops. The order matters: announce the sleep, then look once more;
   workers_run() publishes the work, then looks for sleepers (all sequentially consistent). */
static void worker_wait(struct workers *pool)
{
    for (int i = 0; i < SPINS_BEFORE_SLEEP; i++) {
        if (worker_has_news(pool)) return;
        spin_pause();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!worker_has_news(pool)) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    while (!atomic_load(&worker->pool->stop)) {
        worker_drain(worker->pool, worker->index);
        worker_wait(worker->pool);
    }
    return NULL;
}

static void workers_wake(struct workers *pool)
{
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

/* Signals are the main thread's: the workers start with all of them blocked. */
static int workers_start(struct workers *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int fault = 0;
    for (int i = 1; i < pool->n_threads && !fault; i++) {
        pool->threads[i] = (struct worker){.pool = pool, .index = i};
        fault = pthread_create(&pool->threads[i].thread, NULL, worker_main, &pool->threads[i]);
        if (!fault) pool->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return fault;
}

enum err workers_create(int n_threads, struct workers **out, struct err_info *info)
{
    if (n_threads < 1) return err_set(info, ERR_USAGE, "threads: %d, at least 1 is needed", n_threads);
    struct workers *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    if (!pool) return err_set(info, ERR_MEMORY, "workers: out of memory");
    memset(pool, 0, sizeof *pool);
    atomic_init(&pool->remaining, 0);
    atomic_init(&pool->unfinished, 0);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->stop, false);
    pool->n_threads = n_threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = calloc((size_t)n_threads, sizeof *pool->threads);
    if (!pool->threads) {
        workers_free(pool);
        return err_set(info, ERR_MEMORY, "workers: out of memory for %d threads", n_threads);
    }
    int fault = workers_start(pool);
    if (fault) {
        int started = pool->n_started;
        workers_free(pool);
        return err_set(info, ERR_IO, "workers: thread %d of %d could not be started: %s", started + 2,
                       n_threads, strerror(fault));
    }
    *out = pool;
    return ERR_OK;
}

void workers_free(struct workers *pool)
{
    if (!pool) return;
    atomic_store(&pool->stop, true);
    workers_wake(pool);
    for (int i = 1; i <= pool->n_started; i++) pthread_join(pool->threads[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool->threads);
    free(pool);
}

int workers_count(const struct workers *pool)
{
    return pool->n_threads;
}

void workers_run(struct workers *pool, int n_items, void (*body)(void *context, int item, int worker),
                 void *context)
{
    if (pool->n_threads == 1 || n_items <= 1) {
        for (int i = 0; i < n_items; i++) body(context, i, 0);
        return;
    }
    pool->body = body;
    pool->context = context;
    pool->n_items = n_items;
    atomic_store_explicit(&pool->unfinished, n_items, memory_order_relaxed);
    atomic_store(&pool->remaining, n_items);
    if (atomic_load(&pool->sleepers) > 0) workers_wake(pool);

    worker_drain(pool, 0);
    for (int i = 0; atomic_load_explicit(&pool->unfinished, memory_order_acquire) > 0; i++) {
        if (i < SPINS_BEFORE_YIELD)
            spin_pause();
        else
            sched_yield();
    }
}
