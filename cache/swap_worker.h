#ifndef CACHE_SWAP_WORKER_H
#define CACHE_SWAP_WORKER_H

#include "cache/swap_block.h"

/*
 * The thread that reads and writes the swap file, so that the engine's need not: it only copies a block to a
 * job's own memory, or from there. Jobs are done one after the other in the order in which they were handed
 * over, so what was written is what is read, and a place may be given to another block while the job that
 * writes it still waits. There are a fixed number of jobs for each direction, which bounds the queue; when
 * all are under way, none is to be had and the caller does without.
 *
 * One thread owns the worker and calls all functions. After the first write that fails nothing is written any
 * more.
 */
struct kv_swap_worker;

struct kv_swap_job {
    struct kv_swap_block block; /* its pieces' memory is in `bytes`, one behind the other */
    char *bytes;                /* [block_bytes] */
    bool writes;
    uint64_t fetch;         /* the owner's: for whom it reads */
    enum kv_prefix_use use; /* the owner's: how it holds the block's entry meanwhile */
    enum kv_swap_outcome outcome;
    int error;       /* errno, when KV_SWAP_FAILED */
    int64_t took_us; /* that the job itself took */
    struct kv_swap_job *next;
};

/* block_bytes: of the largest block. The file outlives the worker. ERR_MEMORY. */
enum err kv_swap_worker_create(struct kv_swap_file *file, size_t block_bytes, struct kv_swap_worker **out,
                               struct err_info *info);
/* Ends the job under way; those that wait are not done. Their owner has taken all that matters to him
   (kv_swap_worker_stop). NULL-safe. */
void kv_swap_worker_free(struct kv_swap_worker *worker);
/* No job is begun from now on, and none is under way: all are there to be taken, undone ones as
   KV_SWAP_FAILED. */
void kv_swap_worker_stop(struct kv_swap_worker *worker);

/* A free job of this direction; NULL: all are under way. */
struct kv_swap_job *kv_swap_worker_job(struct kv_swap_worker *worker, bool writes);
void kv_swap_worker_give_back(struct kv_swap_worker *worker, struct kv_swap_job *job);
void kv_swap_worker_hand_over(struct kv_swap_worker *worker, struct kv_swap_job *job);
/* One that is done, in order, to be given back; NULL: none. */
struct kv_swap_job *kv_swap_worker_take(struct kv_swap_worker *worker);
/* Until one is done, or the time is over. False at once when nothing is under way. */
bool kv_swap_worker_wait(struct kv_swap_worker *worker, int timeout_ms);

#endif
