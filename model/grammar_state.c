/*
 * A sequence's place: its configurations and their stack, in one piece of memory. After each token the stack
 * is made small again: what no configuration reaches goes, and a return that would only return again is left
 * out (so that a list written by right recursion does not grow the stack).
 */
#include "model/grammar_internal.h"

#include <string.h>

enum { BYTES_AT_ONCE = 64 }; /* of accept_bytes, between two compactions */

static size_t aligned(size_t bytes)
{
    return (bytes + 15) & ~(size_t)15;
}

static uint32_t max_edges(const struct grammar *grammar)
{
    return grammar->max_frames * GRAMMAR_EDGES_PER_FRAME;
}

size_t grammar_state_bytes(const struct grammar *grammar)
{
    size_t frames = grammar->max_frames;
    return aligned(sizeof(struct grammar_state)) + 2 * aligned(frames * sizeof(struct grammar_frame)) +
           2 * aligned(max_edges(grammar) * sizeof(struct grammar_edge)) +
           3 * aligned(GRAMMAR_MAX_CONFIGS * sizeof(struct grammar_config)) +
           3 * aligned(frames * sizeof(uint16_t));
}

static void *memory_take(char **at, size_t bytes)
{
    void *taken = *at;
    *at += aligned(bytes);
    return taken;
}

struct grammar_state *grammar_state_init(void *memory, const struct grammar *grammar)
{
    char *at = memory;
    struct grammar_state *state = memory_take(&at, sizeof *state);
    memset(state, 0, sizeof *state);
    state->grammar = grammar;
    struct grammar_stack *stack = &state->stack;
    stack->max_frames = grammar->max_frames;
    stack->max_edges = max_edges(grammar);
    stack->frames = memory_take(&at, stack->max_frames * sizeof *stack->frames);
    stack->edges = memory_take(&at, stack->max_edges * sizeof *stack->edges);
    state->spare_frames = memory_take(&at, stack->max_frames * sizeof *stack->frames);
    state->spare_edges = memory_take(&at, stack->max_edges * sizeof *stack->edges);
    state->configs = memory_take(&at, GRAMMAR_MAX_CONFIGS * sizeof *state->configs);
    for (int i = 0; i < 2; i++)
        state->spare[i] = memory_take(&at, GRAMMAR_MAX_CONFIGS * sizeof *state->configs);
    state->map = memory_take(&at, stack->max_frames * sizeof *state->map);
    state->seen = memory_take(&at, stack->max_frames * sizeof *state->seen);
    state->todo = memory_take(&at, stack->max_frames * sizeof *state->todo);
    stack->frames[0] = (struct grammar_frame){0, GRAMMAR_NONE};
    stack->n_frames = 1;
    state->configs[0] = (struct grammar_config){grammar->machines[0].start, 0, 0};
    state->n_configs = 1;
    return state;
}

void grammar_state_copy(struct grammar_state *to, const struct grammar_state *from)
{
    to->stack.n_frames = from->stack.n_frames;
    to->stack.n_edges = from->stack.n_edges;
    to->n_configs = from->n_configs;
    memcpy(to->stack.frames, from->stack.frames, from->stack.n_frames * sizeof *from->stack.frames);
    memcpy(to->stack.edges, from->stack.edges, from->stack.n_edges * sizeof *from->stack.edges);
    memcpy(to->configs, from->configs, from->n_configs * sizeof *from->configs);
}

/* ---- Compaction ---- */

struct compaction {
    struct grammar_state *state;
    uint32_t n_frames, n_edges; /* of the new stack, in the spare memory */
    bool is_full;
};

/* The new number of a frame; it is to be filled. */
static uint32_t frame_map(struct compaction *it, uint32_t frame)
{
    struct grammar_state *state = it->state;
    if (state->map[frame] == UINT16_MAX) {
        state->map[frame] = (uint16_t)it->n_frames;
        state->todo[it->n_frames] = (uint16_t)frame;
        state->spare_frames[it->n_frames++] =
            (struct grammar_frame){state->stack.frames[frame].machine, GRAMMAR_NONE};
    }
    return state->map[frame];
}

/* A place where the machine can only return. */
static bool is_tail(const struct grammar *grammar, uint32_t place)
{
    const struct grammar_place *it = &grammar->places[place];
    return !grammar->machines[it->machine].counted && !(it->flags & STATE_OUT);
}

/* The returns of an old frame become those of a new one. A return to where its frame only returns again is
   replaced by that frame's returns, each frame once; `left` bounds how far, what is farther stays as it is.
 */
static void edges_map(struct compaction *it, uint32_t frame, uint32_t into, int left)
{
    struct grammar_state *state = it->state;
    const struct grammar_stack *stack = &state->stack;
    for (uint32_t e = stack->frames[frame].first; e != GRAMMAR_NONE; e = stack->edges[e].next) {
        struct grammar_edge edge = stack->edges[e];
        if (edge.frame != 0 && left > 0 && is_tail(state->grammar, edge.place)) {
            if (state->seen[edge.frame] == into) continue;
            state->seen[edge.frame] = (uint16_t)into;
            edges_map(it, edge.frame, into, left - 1);
            continue;
        }
        edge.frame = frame_map(it, edge.frame);
        bool known = false;
        for (uint32_t k = state->spare_frames[into].first; k != GRAMMAR_NONE && !known;
             k = state->spare_edges[k].next)
            known = state->spare_edges[k].place == edge.place && state->spare_edges[k].frame == edge.frame &&
                    state->spare_edges[k].count == edge.count;
        if (known) continue;
        if (it->n_edges == stack->max_edges) {
            it->is_full = true;
            return;
        }
        edge.next = state->spare_frames[into].first;
        state->spare_frames[into].first = it->n_edges;
        state->spare_edges[it->n_edges++] = edge;
    }
}

static bool compact(struct grammar_state *state, int left)
{
    struct compaction it = {.state = state};
    memset(state->map, 0xFF, state->stack.n_frames * sizeof *state->map);
    frame_map(&it, 0);
    for (uint32_t i = 0; i < state->n_configs; i++) frame_map(&it, state->configs[i].frame);
    memset(state->seen, 0xFF, state->stack.n_frames * sizeof *state->seen);
    for (uint32_t f = 0; f < it.n_frames && !it.is_full; f++) {
        state->seen[state->todo[f]] = (uint16_t)f;
        edges_map(&it, state->todo[f], f, left);
    }
    if (it.is_full) return false;
    for (uint32_t i = 0; i < state->n_configs; i++)
        state->configs[i].frame = state->map[state->configs[i].frame];
    struct grammar_stack *stack = &state->stack;
    struct grammar_frame *frames = stack->frames;
    struct grammar_edge *edges = stack->edges;
    stack->frames = state->spare_frames;
    stack->edges = state->spare_edges;
    state->spare_frames = frames;
    state->spare_edges = edges;
    stack->n_frames = it.n_frames;
    stack->n_edges = it.n_edges;
    return true;
}

/* ---- Going on ---- */

/* The state by some bytes; false: as before. */
static bool bytes_read(struct grammar_state *state, bool is_control, const char *bytes, size_t length)
{
    const struct grammar *grammar = state->grammar;
    struct grammar_stack *stack = &state->stack;
    uint32_t n_frames = stack->n_frames, n_edges = stack->n_edges;
    const struct grammar_config *from = state->configs;
    int n = (int)state->n_configs, spare = 0;
    for (size_t i = 0; i < length + is_control && n > 0; i++) {
        unsigned byte =
            is_control ? i == 0 ? GRAMMAR_CONTROL : (unsigned char)bytes[i - 1] : (unsigned char)bytes[i];
        n = grammar_step(grammar, stack, from, n, grammar->byte_class[byte], state->spare[spare]);
        from = state->spare[spare];
        spare ^= 1;
    }
    if (n <= 0) {
        stack->n_frames = n_frames;
        stack->n_edges = n_edges;
        return false;
    }
    if (from != state->configs) memcpy(state->configs, from, (size_t)n * sizeof *from);
    state->n_configs = (uint32_t)n;
    if (stack->n_frames > 1 && !compact(state, 32)) compact(state, 0); /* which cannot grow */
    return true;
}

bool grammar_can_end(const struct grammar_state *state)
{
    for (uint32_t i = 0; i < state->n_configs; i++)
        if (state->configs[i].frame == 0 && grammar_config_is_final(state->grammar, &state->configs[i]))
            return true;
    return false;
}

bool grammar_must_end(const struct grammar_state *state)
{
    for (uint32_t i = 0; i < state->n_configs; i++)
        if (grammar_config_is_open(state->grammar, &state->configs[i])) return false;
    return grammar_can_end(state);
}

bool grammar_accept(struct grammar_state *state, int32_t token)
{
    const struct grammar_vocabulary *vocabulary = state->grammar->vocabulary;
    if (tokenizer_is_end(vocabulary->tokenizer, token) && grammar_can_end(state)) return true;
    size_t length = 0;
    bool is_control = false;
    const char *bytes = grammar_vocabulary_bytes(vocabulary, token, &length, &is_control);
    return bytes && bytes_read(state, is_control, bytes, length);
}

bool grammar_accept_bytes(struct grammar_state *state, const char *bytes, size_t length)
{
    if (length <= BYTES_AT_ONCE) return bytes_read(state, false, bytes, length);
    /* Is it possible at all? Compaction forgets, so that has to be known first. */
    _Alignas(16) char memory[grammar_state_bytes(state->grammar)];
    struct grammar_state *copy = grammar_state_init(memory, state->grammar);
    grammar_state_copy(copy, state);
    for (size_t at = 0; at < length; at += BYTES_AT_ONCE) {
        size_t n = length - at < BYTES_AT_ONCE ? length - at : BYTES_AT_ONCE;
        if (!bytes_read(copy, false, bytes + at, n)) return false;
    }
    grammar_state_copy(state, copy);
    return true;
}
