#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

/*
 * Where a step's time goes, by the card's own clock: at every change of part an event is put into the stream,
 * and the time between two of them is the first one's part's. The events of a step are read when a later step
 * ends, while the card still works on that one, so nobody waits for them. An event costs the card nearly 2
 * us, so only one step of EVERY has all of them; the others have one at either end, and their time is divided
 * as that one's was.
 */

enum { SETS = 3, MOST_MARKS = 4096, EVERY = 8 };

/* One step's events. The last one is of BACKEND_PARTS: the step's end. */
struct mark_set {
    cudaEvent_t *events; /* [n_events], made when first needed */
    uint8_t *parts;
    int n_events, n;
    bool is_whole;    /* ended, and not read yet */
    bool is_detailed; /* has all changes of part */
};

struct cuda_marks {
    struct mark_set sets[SETS];
    int now;     /* of the step that goes on */
    int n_steps; /* begun since a detailed one */
    double seconds[BACKEND_PARTS];
    double shares[BACKEND_PARTS]; /* of the last detailed step, their sum 1; 0: there was none */
};

/* Room for twice as many; false when there can be no more. */
static bool set_grow(struct mark_set *set)
{
    int most = set->n_events ? 2 * set->n_events : 256;
    if (most > MOST_MARKS) return false;
    cudaEvent_t *events = realloc(set->events, (size_t)most * sizeof *events);
    if (events) set->events = events;
    uint8_t *parts = realloc(set->parts, (size_t)most);
    if (parts) set->parts = parts;
    if (!events || !parts) return false;
    while (set->n_events < most && cudaEventCreate(&set->events[set->n_events]) == cudaSuccess)
        set->n_events++;
    return set->n_events == most;
}

static void set_read(struct cuda_marks *marks, struct mark_set *set)
{
    double seconds[BACKEND_PARTS] = {0}, sum = 0;
    for (int i = 0; i + 1 < set->n; i++) {
        float ms = 0;
        if (cudaEventElapsedTime(&ms, set->events[i], set->events[i + 1]) != cudaSuccess) continue;
        seconds[set->parts[i]] += (double)ms * 1e-3;
        sum += (double)ms * 1e-3;
    }
    for (int part = 0; part < BACKEND_PARTS; part++) {
        if (set->is_detailed && sum > 0) marks->shares[part] = seconds[part] / sum;
        marks->seconds[part] += sum * marks->shares[part];
    }
    set->is_whole = false;
    set->n = 0;
}

/* Sets whose step is over are read; the next one is made ready. */
static void step_close(struct cuda_state *cuda)
{
    struct cuda_marks *marks = cuda->marks;
    struct mark_set *set = &marks->sets[marks->now];
    set->is_whole = true;
    for (int i = 0; i < SETS; i++) {
        struct mark_set *other = &marks->sets[i];
        if (other != set && other->is_whole && cudaEventQuery(other->events[other->n - 1]) == cudaSuccess)
            set_read(marks, other);
    }
    marks->now = (marks->now + 1) % SETS;
    set = &marks->sets[marks->now];
    if (!set->is_whole) return;
    /* Two steps without logits in a row, which nobody waits for. */
    if (cuda_check(cuda, cudaEventSynchronize(set->events[set->n - 1]), "step")) set_read(marks, set);
}

static void part_begin(struct backend *backend, enum backend_part part)
{
    struct cuda_state *cuda = cuda_state(backend);
    struct cuda_marks *marks = cuda->marks;
    if (cuda->failure[0]) return;
    struct mark_set *set = &marks->sets[marks->now];
    if (set->n > 0 ? set->parts[set->n - 1] == part : part == BACKEND_PARTS) return;
    if (set->n == 0) set->is_detailed = marks->n_steps++ % EVERY == 0;
    if (set->n > 0 && part != BACKEND_PARTS && !set->is_detailed) return;
    /* One is kept for the end. */
    if (set->n + 1 >= set->n_events && !set_grow(set) && (part != BACKEND_PARTS || set->n >= set->n_events))
        return;
    set->parts[set->n] = (uint8_t)part;
    if (!cuda_check(cuda, cudaEventRecord(set->events[set->n], cuda->stream), "a step's clock")) return;
    set->n++;
    if (part == BACKEND_PARTS) step_close(cuda);
}

static void part_seconds(const struct backend *backend, double seconds[BACKEND_PARTS])
{
    memcpy(seconds, cuda_state(backend)->marks->seconds, BACKEND_PARTS * sizeof *seconds);
}

bool cuda_fill_marks(struct backend *backend)
{
    backend->part_begin = part_begin;
    backend->part_seconds = part_seconds;
    return (cuda_state(backend)->marks = calloc(1, sizeof(struct cuda_marks))) != NULL;
}

void cuda_free_marks(struct cuda_state *cuda)
{
    for (int i = 0; cuda->marks && i < SETS; i++) {
        struct mark_set *set = &cuda->marks->sets[i];
        for (int e = 0; e < set->n_events; e++) cudaEventDestroy(set->events[e]);
        free(set->events);
        free(set->parts);
    }
    free(cuda->marks);
}
