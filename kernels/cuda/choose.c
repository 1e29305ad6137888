#include "kernels/cuda/choose.h"
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

/*
 * The host's side of choose.cu: wishes go to the card in one piece, and answers, lists and whole rows come
 * back in as many, all of them before the one wait of a step.
 */

enum { SHARED_BYTES = 1024 }; /* of the kernel's own */

struct cuda_chooser {
    struct cuda_buffer device, host; /* host: of answers and lists, page-locked */
    int32_t *places;                 /* [most_rows] */
    int most_rows;
};

/* Where things stand in the card's memory. */
struct layout {
    size_t wishes, places, answers, lists, bytes;
    int n_lists;
};

static struct layout layout_of(const struct backend_wish *wishes, int n_rows)
{
    size_t n = (size_t)n_rows;
    struct layout layout = {.n_lists = 0};
    for (int i = 0; i < n_rows; i++) layout.n_lists += wishes[i].kind == BACKEND_LIST;
    layout.places = n * sizeof *wishes;
    layout.answers = (layout.places + n * sizeof(int32_t) + 15) / 16 * 16;
    layout.lists = (layout.answers + n * sizeof(struct cuda_answer) + 15) / 16 * 16;
    layout.bytes = layout.lists + (size_t)layout.n_lists * BACKEND_LISTED * sizeof(struct backend_listed);
    return layout;
}

static bool host_need(struct cuda_state *cuda, struct cuda_buffer *buffer, size_t bytes)
{
    if (bytes <= buffer->bytes) return true;
    size_t larger = bytes + bytes / 2;
    cudaFreeHost(buffer->memory);
    *buffer = (struct cuda_buffer){0};
    if (!cuda_check(cuda, cudaMallocHost(&buffer->memory, larger), "page-locked memory")) return false;
    buffer->bytes = larger;
    return true;
}

static bool chooser_need(struct cuda_state *cuda, const struct layout *layout, int n_rows)
{
    if (!cuda->chooser && !(cuda->chooser = calloc(1, sizeof *cuda->chooser)))
        return cuda_check(cuda, cudaErrorMemoryAllocation, "choice");
    struct cuda_chooser *chooser = cuda->chooser;
    if (n_rows > chooser->most_rows) {
        free(chooser->places);
        chooser->places = calloc((size_t)n_rows, sizeof *chooser->places);
        chooser->most_rows = chooser->places ? n_rows : 0;
        if (!chooser->places) return cuda_check(cuda, cudaErrorMemoryAllocation, "choice");
    }
    return cuda_buffer_need(cuda, &chooser->device, layout->bytes) &&
           host_need(cuda, &chooser->host, layout->bytes);
}

static bool rows_look(struct cuda_state *cuda, const float *logits, int n_rows, int n_vocab,
                      const struct backend_wish *wishes, const struct layout *layout)
{
    struct cuda_chooser *chooser = cuda->chooser;
    char *device = chooser->device.memory;
    for (int i = 0, n = 0; i < n_rows; i++) chooser->places[i] = wishes[i].kind == BACKEND_LIST ? n++ : -1;
    if (!cuda_send(cuda, device, wishes, (size_t)n_rows * sizeof *wishes, "wishes") ||
        !cuda_send(cuda, device + layout->places, chooser->places, (size_t)n_rows * sizeof(int32_t),
                   "wishes"))
        return false;
    struct cuda_choice choice = {.logits = logits,
                                 .n_rows = n_rows,
                                 .n_vocab = n_vocab,
                                 .wishes = (const struct backend_wish *)device,
                                 .places = (const int32_t *)(device + layout->places),
                                 .answers = (struct cuda_answer *)(device + layout->answers),
                                 .lists = (struct backend_listed *)(device + layout->lists)};
    return cuda_check(cuda, cuda_choice_run(&choice, cuda->stream), "choice") &&
           cuda_check(cuda,
                      cudaMemcpyAsync((char *)chooser->host.memory + layout->answers,
                                      device + layout->answers, layout->bytes - layout->answers,
                                      cudaMemcpyDeviceToHost, cuda->stream),
                      "choice");
}

/* Whole rows that lie side by side come in one piece. */
static bool rows_fetch(struct cuda_state *cuda, const float *logits, int n_rows, int n_vocab,
                       const struct backend_wish *wishes, float *rows)
{
    for (int i = 0, n; i < n_rows; i += n) {
        for (n = 0; i + n < n_rows && wishes[i + n].kind == BACKEND_ROW;) n++;
        size_t at = (size_t)i * (size_t)n_vocab, bytes = (size_t)n * (size_t)n_vocab * sizeof *rows;
        if (n > 0 &&
            !cuda_check(cuda,
                        cudaMemcpyAsync(rows + at, logits + at, bytes, cudaMemcpyDeviceToHost, cuda->stream),
                        "logits"))
            return false;
        if (n == 0) n = 1;
    }
    return true;
}

static void cuda_choose(struct backend *backend, const float *logits, int n_rows, int n_vocab,
                        const struct backend_wish *wishes, float *rows, struct backend_answer *answers)
{
    struct cuda_state *cuda = cuda_state(backend);
    struct layout layout = layout_of(wishes, n_rows);
    bool looks = false;
    memset(answers, 0, (size_t)n_rows * sizeof *answers);
    if (cuda->failure[0] || n_rows == 0) return;
    for (int i = 0; i < n_rows; i++) looks |= wishes[i].kind != BACKEND_ROW;
    if (cuda_choice_shared_bytes(n_vocab) > (size_t)cuda->most_shared_bytes - SHARED_BYTES) {
        for (int i = 0; i < n_rows; i++) answers[i].n = -1;
        looks = false;
    }
    if (looks &&
        (!chooser_need(cuda, &layout, n_rows) || !rows_look(cuda, logits, n_rows, n_vocab, wishes, &layout)))
        return;
    if (!rows_fetch(cuda, logits, n_rows, n_vocab, wishes, rows)) return;
    if (!cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "step") || !looks) return;
    const char *host = cuda->chooser->host.memory;
    const struct cuda_answer *got = (const struct cuda_answer *)(host + layout.answers);
    const struct backend_listed *lists = (const struct backend_listed *)(host + layout.lists);
    for (int i = 0; i < n_rows; i++) {
        if (wishes[i].kind == BACKEND_ROW) continue;
        answers[i] = (struct backend_answer){.token = got[i].token,
                                             .n = got[i].n,
                                             .max = got[i].max,
                                             .threshold = got[i].threshold,
                                             .mass = got[i].mass};
        if (wishes[i].kind == BACKEND_LIST)
            answers[i].list = lists + (size_t)cuda->chooser->places[i] * BACKEND_LISTED;
    }
}

void cuda_fill_choose(struct backend *backend)
{
    backend->choose = cuda_choose;
}

size_t cuda_choose_bytes(const struct cuda_state *cuda)
{
    return cuda->chooser ? cuda->chooser->device.bytes : 0;
}

void cuda_free_choose(struct cuda_state *cuda)
{
    if (!cuda->chooser) return;
    cudaFree(cuda->chooser->device.memory);
    cudaFreeHost(cuda->chooser->host.memory);
    free(cuda->chooser->places);
    free(cuda->chooser);
    cuda->chooser = NULL;
}
