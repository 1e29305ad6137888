/*
 * One byte. All parses go side by side: a configuration is a place of a machine and a frame, which says where
 * the machine returns to, in as many ways as it was called. So the work is Earley's, one set at a time: calls
 * are predicted (only those that can read the byte), the byte is read, and what is complete returns.
 *
 * All calls of a machine at one byte share one frame. Its list of returns is complete before the byte is
 * read, and a return happens after it, because calls stand for texts that are not empty. Left recursion is
 * then a frame that returns to itself.
 */
#include "model/grammar_internal.h"

struct step {
    const struct grammar *grammar;
    struct grammar_stack *stack;
    struct grammar_config *out;
    int n_out;
    bool limited;
};

static uint32_t count_merge(const struct grammar_machine *machine, uint32_t a, uint32_t b)
{
    if (a == b) return a;
    /* Both are enough: the smaller can do all that the larger can. */
    if (machine->counted && a >= machine->min && b >= machine->min) return a < b ? a : b;
    return GRAMMAR_NONE;
}

static void config_add(struct step *step, uint32_t place, uint32_t frame, uint32_t count)
{
    const struct grammar_machine *machine = &step->grammar->machines[step->grammar->places[place].machine];
    for (int i = 0; i < step->n_out; i++) {
        struct grammar_config *known = &step->out[i];
        if (known->place != place || known->frame != frame) continue;
        uint32_t merged = count_merge(machine, known->count, count);
        if (merged == GRAMMAR_NONE) continue;
        known->count = merged;
        return;
    }
    if (step->n_out == GRAMMAR_MAX_CONFIGS) {
        step->limited = true;
        return;
    }
    step->out[step->n_out++] = (struct grammar_config){place, frame, count};
}

/* At a place after a byte. */
static void arrive(struct step *step, uint32_t place, uint32_t frame, uint32_t count)
{
    const struct grammar_place *it = &step->grammar->places[place];
    const struct grammar_machine *machine = &step->grammar->machines[it->machine];
    if (machine->counted) {
        if (it->flags & STATE_FINAL) { /* without an end, counts past the least are all the same */
            uint32_t more = machine->max == GRAMMAR_NONE && count >= machine->min ? count : count + 1;
            config_add(step, machine->start, frame, more);
        }
        if (!(it->flags & STATE_OUT)) return;
    }
    config_add(step, place, frame, count);
}

static void depth_note(struct grammar_stack *stack, uint32_t frame)
{
    if (stack->depths && frame < stack->n_known && stack->depths[frame] > stack->deepest)
        stack->deepest = stack->depths[frame];
}

static void frame_return(struct step *step, uint32_t frame)
{
    struct grammar_stack *stack = step->stack;
    depth_note(stack, frame);
    for (uint32_t e = stack->frames[frame].first; e != GRAMMAR_NONE && !step->limited;
         e = stack->edges[e].next)
        arrive(step, stack->edges[e].place, stack->edges[e].frame, stack->edges[e].count);
}

/* The frame of a call of the machine at this byte; GRAMMAR_NONE when there is no room. */
static uint32_t frame_find(struct grammar_stack *stack, uint32_t base, uint32_t machine, bool *is_new)
{
    *is_new = false;
    for (uint32_t f = base; f < stack->n_frames; f++)
        if (stack->frames[f].machine == machine) return f;
    if (stack->n_frames == stack->max_frames) return GRAMMAR_NONE;
    *is_new = true;
    stack->frames[stack->n_frames] = (struct grammar_frame){machine, GRAMMAR_NONE};
    return stack->n_frames++;
}

static bool edge_add(const struct grammar *grammar, struct grammar_stack *stack, uint32_t frame,
                     uint32_t back, const struct grammar_config *caller)
{
    const struct grammar_machine *machine = &grammar->machines[grammar->places[back].machine];
    for (uint32_t e = stack->frames[frame].first; e != GRAMMAR_NONE; e = stack->edges[e].next) {
        struct grammar_edge *known = &stack->edges[e];
        if (known->place != back || known->frame != caller->frame) continue;
        uint32_t merged = count_merge(machine, known->count, caller->count);
        if (merged == GRAMMAR_NONE) continue;
        known->count = merged;
        return true;
    }
    if (stack->n_edges == stack->max_edges) return false;
    stack->edges[stack->n_edges] =
        (struct grammar_edge){back, caller->frame, caller->count, stack->frames[frame].first};
    stack->frames[frame].first = stack->n_edges++;
    return true;
}

/* Calls that can read the byte: items grows by their starts. The number of items, -1 at a limit. */
static int predict(const struct grammar *grammar, struct grammar_stack *stack, struct grammar_config *items,
                   int n, unsigned class)
{
    uint32_t base = stack->n_frames;
    for (int i = 0; i < n; i++) {
        const struct grammar_place *place = &grammar->places[items[i].place];
        for (uint32_t c = 0; c < place->n_calls; c++) {
            const struct grammar_call *call = &grammar->calls[place->first_call + c];
            uint32_t start = grammar->machines[call->machine].start;
            if (!grammar_set_has(&grammar->places[start].alive, class)) continue;
            bool is_new = false;
            uint32_t frame = frame_find(stack, base, call->machine, &is_new);
            if (frame == GRAMMAR_NONE || !edge_add(grammar, stack, frame, call->back, &items[i])) return -1;
            if (!is_new) continue;
            if (n == 2 * GRAMMAR_MAX_CONFIGS) return -1;
            items[n++] = (struct grammar_config){start, frame, 0};
        }
    }
    return n;
}

static int configs_read(struct step *step, const struct grammar_config *items, int n, unsigned class)
{
    const struct grammar *grammar = step->grammar;
    for (int i = 0; i < n; i++) {
        int32_t target = grammar_next(grammar, items[i].place, class);
        if (target >= 0) arrive(step, (uint32_t)target, items[i].frame, items[i].count);
    }
    for (int i = 0; i < step->n_out && !step->limited; i++) /* grows while it goes */
        if (grammar_config_is_final(grammar, &step->out[i])) frame_return(step, step->out[i].frame);
    if (step->limited) {
        step->stack->limited = true;
        return -1;
    }
    /* Those that only returned have done what they can; at the bottom they say that the text may end. */
    int kept = 0;
    for (int i = 0; i < step->n_out; i++) {
        struct grammar_config *config = &step->out[i];
        bool is_end = config->frame == 0 && grammar_config_is_final(grammar, config);
        if (is_end || grammar_config_is_open(grammar, config)) step->out[kept++] = *config;
    }
    return kept;
}

/* What happens mostly, without a list of work: one configuration reads the byte by itself, and at most one
   more of what it counts is complete, with one way to return. The number of configurations, or -1: it is not
   so simple. */
static int simple_step(struct step *step, const struct grammar_config *in, int n, unsigned class)
{
    const struct grammar *grammar = step->grammar;
    const struct grammar_config *reader = NULL;
    for (int i = 0; i < n; i++) {
        if (!grammar_set_has(&grammar->places[in[i].place].alive, class) ||
            !grammar_config_is_open(grammar, &in[i]))
            continue;
        if (reader) return -1;
        reader = &in[i];
    }
    if (!reader) return 0;
    const struct grammar_place *place = &grammar->places[reader->place];
    int32_t target = grammar_next(grammar, reader->place, class);
    if (place->n_calls > 0 || target < 0) return -1;
    uint8_t flags = grammar->places[target].flags;
    if (!(flags & STATE_FINAL)) {
        step->out[0] = (struct grammar_config){(uint32_t)target, reader->frame, reader->count};
        return 1;
    }
    const struct grammar_machine *machine = &grammar->machines[place->machine];
    if (!machine->counted || flags & STATE_OUT) return -1;
    uint32_t count = reader->count;
    if (machine->max != GRAMMAR_NONE || count < machine->min) count++;
    struct grammar_config head = {machine->start, reader->frame, count};
    int n_out = 0;
    if (grammar_config_is_open(grammar, &head)) step->out[n_out++] = head;
    if (count < machine->min) return n_out;
    uint32_t edge = step->stack->frames[reader->frame].first;
    if (edge == GRAMMAR_NONE || step->stack->edges[edge].next != GRAMMAR_NONE) return -1;
    const struct grammar_edge *back = &step->stack->edges[edge];
    const struct grammar_place *after = &grammar->places[back->place];
    if (after->flags & STATE_FINAL || grammar->machines[after->machine].counted) return -1;
    depth_note(step->stack, reader->frame);
    step->out[n_out++] = (struct grammar_config){back->place, back->frame, back->count};
    return n_out;
}

int grammar_step(const struct grammar *grammar, struct grammar_stack *stack, const struct grammar_config *in,
                 int n, unsigned class, struct grammar_config *out)
{
    struct step step = {grammar, stack, out, 0, false};
    int known = simple_step(&step, in, n, class);
    if (known >= 0) return known;
    struct grammar_config items[2 * GRAMMAR_MAX_CONFIGS];
    int n_items = 0;
    bool calls = false;
    for (int i = 0; i < n; i++) {
        const struct grammar_place *place = &grammar->places[in[i].place];
        if (!grammar_set_has(&place->alive, class) || !grammar_config_is_open(grammar, &in[i])) continue;
        items[n_items++] = in[i];
        calls |= place->n_calls > 0;
    }
    if (calls) n_items = predict(grammar, stack, items, n_items, class);
    if (n_items < 0) {
        stack->limited = true;
        return -1;
    }
    return configs_read(&step, items, n_items, class);
}
