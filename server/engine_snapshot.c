#include "server/engine_snapshot.h"

#include "server/engine_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFERS = 3, MOST_WAITING = 256, FRESH = 4 /* nobody has taken it; beside a buffer's number */ };

struct engine_snapshot {
    struct engine_view views[BUFFERS]; /* sequences: [parallel + MOST_WAITING] */
    int parallel;
    int writing;          /* the engine thread's */
    _Atomic int newest;   /* number, and FRESH */
    pthread_mutex_t lock; /* readers only: for `reading` and its buffer */
    int reading;
};

enum err engine_snapshot_create(int parallel, struct engine_snapshot **out, struct err_info *info)
{
    struct engine_snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (snapshot == NULL) return err_set(info, ERR_MEMORY, "no memory for the engine's snapshots");
    pthread_mutex_init(&snapshot->lock, NULL);
    snapshot->parallel = parallel;
    snapshot->writing = 0;
    snapshot->reading = 1;
    atomic_store(&snapshot->newest, 2);
    for (int i = 0; i < BUFFERS; i++) {
        snapshot->views[i].sequences =
            calloc((size_t)parallel + MOST_WAITING, sizeof *snapshot->views[i].sequences);
        if (snapshot->views[i].sequences != NULL) continue;
        engine_snapshot_free(snapshot);
        return err_set(info, ERR_MEMORY, "no memory for the engine's snapshots");
    }
    *out = snapshot;
    return ERR_OK;
}

void engine_snapshot_free(struct engine_snapshot *snapshot)
{
    if (snapshot == NULL) return;
    for (int i = 0; i < BUFFERS; i++) free(snapshot->views[i].sequences);
    pthread_mutex_destroy(&snapshot->lock);
    free(snapshot);
}

static void add(struct engine_view *view, const struct engine_job *job)
{
    const struct sched_seq *seq = &job->seq;
    const struct request *request = job->ticket->request;
    struct engine_sequence *out = &view->sequences[view->n++];
    *out = (struct engine_sequence){.index = job->choice->index,
                                    .slot = job->kv != NULL ? job->slot : -1,
                                    .phase = seq->state == SCHED_WAITING ? ENGINE_WAITING
                                             : job->n_output > 0         ? ENGINE_DECODE
                                                                         : ENGINE_PREFILL,
                                    .n_prompt = seq->n_prompt,
                                    .n_output = job->n_output,
                                    .max_tokens = seq->max_tokens,
                                    .n_cached = seq->n_cached,
                                    .n_hit = seq->n_hit,
                                    .n_preempted = seq->n_preempted,
                                    .kv_format = seq->format,
                                    .kv_bytes = seq->state == SCHED_RUNNING ? seq->held_bytes : 0,
                                    .priority = seq->priority,
                                    .arrived_us = request->arrival_us};
    memcpy(out->id, request->id, sizeof out->id);
}

/* Those that run, in the order of admission; then the newest of those that wait. */
static void fill(struct engine_view *view, const struct engine *engine, int parallel)
{
    view->n = 0;
    for (struct sched_seq *seq = sched_running(engine->sched); seq != NULL && view->n < parallel;
         seq = sched_next(engine->sched, seq))
        add(view, seq->owner);
    int n_waiting = 0;
    for (const struct engine_ticket *ticket = engine->live; ticket != NULL; ticket = ticket->next) {
        for (int i = 0; i < ticket->request->n_choices && n_waiting < MOST_WAITING; i++) {
            if (ticket->jobs[i].seq.state != SCHED_WAITING) continue;
            add(view, &ticket->jobs[i]);
            n_waiting++;
        }
        if (n_waiting == MOST_WAITING) break;
    }
    view->n_more = sched_waiting_count(engine->sched) - n_waiting;
}

void engine_snapshot_publish(struct engine_snapshot *snapshot, const struct engine *engine)
{
    fill(&snapshot->views[snapshot->writing], engine, snapshot->parallel);
    snapshot->writing = atomic_exchange(&snapshot->newest, snapshot->writing | FRESH) & ~FRESH;
}

enum err engine_snapshot_read(struct engine_snapshot *snapshot, struct engine_view *out,
                              struct err_info *info)
{
    struct engine_view copy = {0};
    pthread_mutex_lock(&snapshot->lock);
    if (atomic_load(&snapshot->newest) & FRESH)
        snapshot->reading = atomic_exchange(&snapshot->newest, snapshot->reading) & ~FRESH;
    const struct engine_view *view = &snapshot->views[snapshot->reading];
    copy = *view;
    copy.sequences = malloc(((size_t)view->n + 1) * sizeof *copy.sequences);
    if (copy.sequences != NULL)
        memcpy(copy.sequences, view->sequences, (size_t)view->n * sizeof *copy.sequences);
    pthread_mutex_unlock(&snapshot->lock);
    if (copy.sequences == NULL) return err_set(info, ERR_MEMORY, "no memory for the list of sequences");
    *out = copy;
    return ERR_OK;
}
