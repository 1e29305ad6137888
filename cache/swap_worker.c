#include "cache/swap_worker.h"

#include "config/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_JOBS = 16, LEAST_JOBS = 2, JOBS_BYTES = 32 << 20 }; /* of each direction */

struct queue {
    struct kv_swap_job *first, *last;
};

struct kv_swap_worker {
    struct kv_swap_file *file;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock;
    pthread_cond_t work, news;
    struct queue todo, done; /* under the lock, and so is: */
    bool stopping;

    /* The owner's own. */
    struct kv_swap_job *jobs; /* [n_jobs] */
    int n_jobs, n_under_way;  /* the latter: handed over and not taken */
    struct kv_swap_job *free[2];

    bool broken; /* the thread's own: a write failed */
};

static void push(struct queue *queue, struct kv_swap_job *job)
{
    job->next = NULL;
    *(queue->last != NULL ? &queue->last->next : &queue->first) = job;
    queue->last = job;
}

static struct kv_swap_job *pop(struct queue *queue)
{
    struct kv_swap_job *job = queue->first;
    if (job == NULL) return NULL;
    queue->first = job->next;
    if (queue->first == NULL) queue->last = NULL;
    return job;
}

/* ---- the thread ---- */

static void run_job(struct kv_swap_worker *worker, struct kv_swap_job *job)
{
    int64_t start_us = clock_us();
    if (!job->writes) {
        job->outcome = kv_swap_block_read(worker->file, &job->block);
        job->error = errno;
    } else if (worker->broken) {
        job->outcome = KV_SWAP_FAILED;
        job->error = 0;
    } else {
        job->outcome = kv_swap_block_write(worker->file, &job->block);
        job->error = errno;
        worker->broken = job->outcome == KV_SWAP_FAILED;
    }
    job->took_us = clock_us() - start_us;
}

static void *worker_run(void *context)
{
    struct kv_swap_worker *worker = context;
    pthread_mutex_lock(&worker->lock);
    for (;;) {
        while (worker->todo.first == NULL && !worker->stopping)
            pthread_cond_wait(&worker->work, &worker->lock);
        if (worker->stopping) break;
        struct kv_swap_job *job = pop(&worker->todo);
        pthread_mutex_unlock(&worker->lock);
        run_job(worker, job);
        pthread_mutex_lock(&worker->lock);
        push(&worker->done, job);
        pthread_cond_signal(&worker->news);
    }
    for (struct kv_swap_job *job; (job = pop(&worker->todo)) != NULL;) {
        job->outcome = KV_SWAP_FAILED;
        job->error = 0;
        job->took_us = 0;
        push(&worker->done, job);
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

/* ---- life ---- */

static bool make_jobs(struct kv_swap_worker *worker, size_t block_bytes)
{
    size_t n = JOBS_BYTES / block_bytes;
    n = n < LEAST_JOBS ? LEAST_JOBS : n > MOST_JOBS ? MOST_JOBS : n;
    worker->jobs = calloc(2 * n, sizeof *worker->jobs);
    if (worker->jobs == NULL) return false;
    worker->n_jobs = 2 * (int)n;
    for (int i = 0; i < worker->n_jobs; i++) {
        struct kv_swap_job *job = &worker->jobs[i];
        job->writes = i % 2 != 0;
        job->bytes = malloc(block_bytes);
        if (job->bytes == NULL) return false;
        kv_swap_worker_give_back(worker, job);
    }
    return true;
}

enum err kv_swap_worker_create(struct kv_swap_file *file, size_t block_bytes, struct kv_swap_worker **out,
                               struct err_info *info)
{
    pthread_condattr_t attributes;
    struct kv_swap_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL) return err_set(info, ERR_MEMORY, "swap: out of memory");
    worker->file = file;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->work, NULL);
    pthread_cond_init(&worker->news, &attributes);
    pthread_condattr_destroy(&attributes);
    if (!make_jobs(worker, block_bytes)) {
        kv_swap_worker_free(worker);
        return err_set(info, ERR_MEMORY, "swap: no memory for blocks of %zu bytes on their way", block_bytes);
    }
    int failed = pthread_create(&worker->thread, NULL, worker_run, worker);
    if (failed != 0) {
        kv_swap_worker_free(worker);
        return err_set(info, ERR_MEMORY, "swap: cannot start a thread: %s", strerror(failed));
    }
    worker->started = true;
    *out = worker;
    return ERR_OK;
}

void kv_swap_worker_stop(struct kv_swap_worker *worker)
{
    if (!worker->started) return;
    pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    pthread_cond_signal(&worker->work);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->thread, NULL);
    worker->started = false;
}

void kv_swap_worker_free(struct kv_swap_worker *worker)
{
    if (worker == NULL) return;
    kv_swap_worker_stop(worker);
    for (int i = 0; i < worker->n_jobs; i++) free(worker->jobs[i].bytes);
    free(worker->jobs);
    pthread_cond_destroy(&worker->work);
    pthread_cond_destroy(&worker->news);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}

/* ---- the owner's side ---- */

struct kv_swap_job *kv_swap_worker_job(struct kv_swap_worker *worker, bool writes)
{
    struct kv_swap_job *job = worker->free[writes];
    if (job != NULL) worker->free[writes] = job->next;
    return job;
}

void kv_swap_worker_give_back(struct kv_swap_worker *worker, struct kv_swap_job *job)
{
    job->next = worker->free[job->writes];
    worker->free[job->writes] = job;
}

void kv_swap_worker_hand_over(struct kv_swap_worker *worker, struct kv_swap_job *job)
{
    worker->n_under_way++;
    pthread_mutex_lock(&worker->lock);
    push(&worker->todo, job);
    pthread_cond_signal(&worker->work);
    pthread_mutex_unlock(&worker->lock);
}

struct kv_swap_job *kv_swap_worker_take(struct kv_swap_worker *worker)
{
    if (worker->n_under_way == 0) return NULL;
    pthread_mutex_lock(&worker->lock);
    struct kv_swap_job *job = pop(&worker->done);
    pthread_mutex_unlock(&worker->lock);
    worker->n_under_way -= job != NULL;
    return job;
}

bool kv_swap_worker_wait(struct kv_swap_worker *worker, int timeout_ms)
{
    if (worker->n_under_way == 0) return false;
    struct timespec until = clock_after_ms(CLOCK_MONOTONIC, timeout_ms);
    pthread_mutex_lock(&worker->lock);
    while (worker->done.first == NULL && !worker->stopping &&
           pthread_cond_timedwait(&worker->news, &worker->lock, &until) == 0)
        continue;
    pthread_mutex_unlock(&worker->lock);
    return true;
}
