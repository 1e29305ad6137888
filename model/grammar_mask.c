/*
 * Which tokens can follow: the tries of the vocabulary walked with all configurations side by side, by the
 * same steps that grammar_accept makes, so that the two agree to the bit, limits included.
 *
 * Two things make it cheap. A configuration whose place a whole subtree's bytes do not leave (free text)
 * allows the subtree at once, if no other configuration could grow by these bytes; in the middle of a JSON
 * string that is nearly all of the vocabulary, and its mask is there ready made. And a mask is kept under
 * what decided it (grammar_cache.c): the walk notes how deep into the stack it has looked.
 */
#include "model/grammar_internal.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { MOST_CONFIGS = 8, EXIT_DEPTH = 8, MOST_EXITS = 64 };

struct level {
    struct grammar_config *configs; /* [GRAMMAR_MAX_CONFIGS] */
    int n;
    uint32_t end; /* of the subtree whose children are tried */
    uint32_t n_frames, n_edges;
    struct grammar_set alive;
};

struct grammar_scratch {
    const struct grammar_vocabulary *vocabulary;
    struct level *levels; /* [longest + 1] */
    struct grammar_config *configs;
    struct grammar_frame frames[GRAMMAR_MAX_FRAMES];
    struct grammar_edge edges[GRAMMAR_MAX_FRAMES * GRAMMAR_EDGES_PER_FRAME];
    uint16_t local[GRAMMAR_MAX_FRAMES]; /* numbers of frames in a key, 0: none yet; else number + 1 */
    uint16_t order[GRAMMAR_MAX_FRAMES];
    uint8_t depths[GRAMMAR_MAX_FRAMES];
    struct grammar_key key;
    /* Of the mask in hand. */
    const struct grammar *grammar;
    struct grammar_stack stack;
    uint32_t most_frames, most_edges;
    uint32_t exit_frame, exit_touches; /* the last that was asked for */
    uint32_t n_exits;                  /* ways to return, of one question */
    uint32_t free_touches;             /* what can follow free text */
    uint32_t *allowed;
};

struct grammar_scratch *grammar_scratch_create(const struct grammar_vocabulary *vocabulary)
{
    struct grammar_scratch *scratch = calloc(1, sizeof *scratch);
    if (!scratch) return NULL;
    size_t n = (size_t)vocabulary->longest + 2;
    scratch->vocabulary = vocabulary;
    scratch->levels = calloc(n, sizeof *scratch->levels);
    scratch->configs = malloc(n * GRAMMAR_MAX_CONFIGS * sizeof *scratch->configs);
    if (!scratch->levels || !scratch->configs) {
        grammar_scratch_free(scratch);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) scratch->levels[i].configs = scratch->configs + i * GRAMMAR_MAX_CONFIGS;
    return scratch;
}

void grammar_scratch_free(struct grammar_scratch *scratch)
{
    if (!scratch) return;
    free(scratch->levels);
    free(scratch->configs);
    free(scratch);
}

/* ---- Keys ---- */

/* What a counter still decides: how many more are needed and possible, as far as a token can tell. */
static uint32_t count_word(const struct grammar *grammar, uint32_t place, uint32_t count)
{
    const struct grammar_machine *machine = &grammar->machines[grammar->places[place].machine];
    if (!machine->counted) return 0;
    uint32_t most = grammar->vocabulary->longest + 1 < 0x7FFF ? grammar->vocabulary->longest + 1 : 0x7FFF;
    uint32_t needed = machine->min > count ? machine->min - count : 0;
    uint32_t left = machine->max == GRAMMAR_NONE ? most : machine->max - count;
    return (needed < most ? needed : most) << 16 | (left < most ? left : most);
}

struct key_making {
    struct grammar_scratch *scratch;
    const struct grammar_stack *stack;
    struct grammar_key *key;
    uint32_t n_frames; /* that have a number */
    bool is_full;
};

static void word_put(struct key_making *it, uint32_t word)
{
    if (it->key->n == GRAMMAR_KEY_WORDS)
        it->is_full = true;
    else
        it->key->words[it->key->n++] = word;
}

static void config_put(struct key_making *it, const struct grammar *grammar, uint32_t place, uint32_t count,
                       uint32_t frame, uint8_t depth)
{
    struct grammar_scratch *scratch = it->scratch;
    if (!scratch->local[frame]) {
        scratch->order[it->n_frames++] = (uint16_t)frame;
        scratch->local[frame] = (uint16_t)it->n_frames;
        scratch->depths[frame] = depth;
    }
    word_put(it, place);
    word_put(it, count_word(grammar, place, count));
    word_put(it, frame == 0 ? 0 : scratch->local[frame]);
}

/* The configurations and the frames below them, depth of them: 0, none. False: too long for a key. */
static bool key_make(struct grammar_scratch *scratch, const struct grammar_state *state, uint8_t depth)
{
    const struct grammar *grammar = state->grammar;
    struct grammar_key *key = &scratch->key;
    struct key_making it = {scratch, &state->stack, key, 0, false};
    key->n = 0;
    for (uint32_t i = 0; i < state->n_configs && !it.is_full; i++)
        config_put(&it, grammar, state->configs[i].place, state->configs[i].count, state->configs[i].frame,
                   1);
    word_put(&it, GRAMMAR_NONE);
    for (uint32_t f = 0; f < it.n_frames && !it.is_full; f++) {
        uint32_t frame = scratch->order[f];
        uint8_t at = scratch->depths[frame];
        if (at > depth) break; /* they are in the order of their depth */
        for (uint32_t e = state->stack.frames[frame].first; e != GRAMMAR_NONE && !it.is_full;
             e = state->stack.edges[e].next) {
            const struct grammar_edge *edge = &state->stack.edges[e];
            config_put(&it, grammar, edge->place, edge->count, edge->frame, (uint8_t)(at + 1));
        }
        word_put(&it, GRAMMAR_NONE);
    }
    for (uint32_t f = 0; f < it.n_frames; f++) scratch->local[scratch->order[f]] = 0;
    key->hash = XXH3_64bits(key->words, key->n * sizeof *key->words);
    return !it.is_full;
}

/* The depth of every frame into scratch->depths: 1 under the configurations. */
static void depths_fill(struct grammar_scratch *scratch, const struct grammar_state *state)
{
    memset(scratch->depths, 0, state->stack.n_frames);
    uint32_t n = 0;
    for (uint32_t i = 0; i < state->n_configs; i++) {
        uint32_t frame = state->configs[i].frame;
        if (scratch->depths[frame]) continue;
        scratch->depths[frame] = 1;
        scratch->order[n++] = (uint16_t)frame;
    }
    for (uint32_t f = 0; f < n; f++) {
        uint8_t depth = scratch->depths[scratch->order[f]];
        for (uint32_t e = state->stack.frames[scratch->order[f]].first; e != GRAMMAR_NONE;
             e = state->stack.edges[e].next) {
            uint32_t frame = state->stack.edges[e].frame;
            if (scratch->depths[frame]) continue;
            scratch->depths[frame] = depth == 255 ? 255 : (uint8_t)(depth + 1);
            scratch->order[n++] = (uint16_t)frame;
        }
    }
}

/* ---- Free text ---- */

/* Classes of bytes that can follow when the frame's machine returns. */
static uint32_t exits_find(struct grammar_scratch *scratch, uint32_t frame, int left)
{
    const struct grammar *grammar = scratch->grammar;
    struct grammar_stack *stack = &scratch->stack;
    if (frame < stack->n_known && stack->depths[frame] > stack->deepest)
        stack->deepest = stack->depths[frame];
    uint32_t touches = 0;
    for (uint32_t e = stack->frames[frame].first; e != GRAMMAR_NONE; e = stack->edges[e].next) {
        const struct grammar_place *place = &grammar->places[stack->edges[e].place];
        const struct grammar_machine *machine = &grammar->machines[place->machine];
        touches |= place->touches;
        if (++scratch->n_exits > MOST_EXITS) return UINT32_MAX; /* so many might pass the limit of a step */
        if (!(place->flags & STATE_FINAL)) continue;
        if (left == 0) return UINT32_MAX;
        if (machine->counted) touches |= grammar->places[machine->start].touches;
        touches |= exits_find(scratch, stack->edges[e].frame, left - 1);
    }
    return touches;
}

static uint32_t exit_touches(struct grammar_scratch *scratch, uint32_t frame)
{
    /* Frames of the walk come and go under the same numbers. */
    scratch->n_exits = 0;
    if (frame >= scratch->stack.n_known) return exits_find(scratch, frame, EXIT_DEPTH);
    if (scratch->exit_frame != frame) {
        scratch->exit_touches = exits_find(scratch, frame, EXIT_DEPTH);
        scratch->exit_frame = frame;
    }
    return scratch->exit_touches;
}

/* How many characters of these classes the configuration reads in a row while its place stays, with nothing
   else coming of it; UINT32_MAX: any number. */
static uint32_t loop_length(struct grammar_scratch *scratch, const struct grammar_config *config,
                            uint32_t classes)
{
    const struct grammar *grammar = scratch->grammar;
    const struct grammar_place *place = &grammar->places[config->place];
    const struct grammar_machine *machine = &grammar->machines[place->machine];
    if ((place->loops & classes) != classes) return 0;
    bool returns = place->flags & (machine->counted ? STATE_HEAD : STATE_FINAL);
    uint32_t exits = returns ? exit_touches(scratch, config->frame) : 0;
    if (exits & classes) return 0;
    scratch->free_touches |= place->touches | exits;
    if (!machine->counted || !(place->flags & STATE_HEAD) || machine->max == GRAMMAR_NONE) return UINT32_MAX;
    return machine->max - config->count;
}

/* Along places that plain characters lead through: what repeats that are written out become. */
static uint32_t chain_length(struct grammar_scratch *scratch, const struct grammar_config *config)
{
    const struct grammar_place *place = &scratch->grammar->places[config->place];
    if (!place->reach) return 0;
    uint32_t exits = place->reach_returns ? exit_touches(scratch, config->frame) : 0;
    if (exits & grammar_vocabulary_plain) return 0;
    scratch->free_touches |= place->reach_touches | exits;
    return place->reach;
}

/* The same when the first character leads to the place that is not left: plain characters. */
static uint32_t entry_length(struct grammar_scratch *scratch, const struct grammar_config *config)
{
    const struct grammar *grammar = scratch->grammar;
    const struct grammar_place *place = &grammar->places[config->place];
    uint32_t plain = grammar_vocabulary_plain;
    uint32_t n =
        loop_length(scratch, &(struct grammar_config){place->enters, config->frame, config->count}, plain);
    if (n > 0 || place->flags & STATE_HEAD) return n;
    n = chain_length(scratch, config);
    if (n > 0) return n;
    /* Or one call, of a machine that starts so; no other and no byte may have to do with plain characters. */
    const struct grammar_call *call = NULL;
    for (uint32_t c = 0; c < place->n_calls; c++) {
        const struct grammar_call *it = &grammar->calls[place->first_call + c];
        if (!(grammar->places[grammar->machines[it->machine].start].touches & plain)) continue;
        if (call) return 0;
        call = it;
    }
    if (!call || place->bytes & plain) return 0;
    const struct grammar_machine *machine = &grammar->machines[call->machine];
    const struct grammar_place *start = &grammar->places[machine->start],
                               *back = &grammar->places[call->back];
    const struct grammar_machine *own = &grammar->machines[place->machine];
    if (!machine->counted || (start->loops & plain) != plain) return 0;
    uint32_t exits = back->touches;
    if (back->flags & STATE_FINAL) {
        if (own->counted) exits |= grammar->places[own->start].touches;
        exits |= exit_touches(scratch, config->frame);
    }
    if (exits & plain) return 0;
    /* The call takes a frame, which must be there in every state that the mask will be used for. */
    const struct grammar_stack *stack = &scratch->stack;
    if (stack->n_frames == stack->max_frames || stack->n_edges == stack->max_edges) return 0;
    if (scratch->most_frames == stack->n_frames) scratch->most_frames++;
    if (scratch->most_edges == stack->n_edges) scratch->most_edges++;
    scratch->free_touches |= start->touches | exits;
    return machine->max == GRAMMAR_NONE ? UINT32_MAX : machine->max;
}

/* Of all configurations: one of them reads the characters, and the others none. at_top: it may still have to
   enter the place where it stays. */
static uint32_t free_characters(struct grammar_scratch *scratch, const struct grammar_config *configs, int n,
                                uint32_t classes, bool at_top)
{
    const struct grammar *grammar = scratch->grammar;
    const struct grammar_config *reader = NULL;
    for (int i = 0; i < n; i++) {
        scratch->free_touches |= grammar->places[configs[i].place].touches;
        if (!(grammar->places[configs[i].place].touches & classes) ||
            !grammar_config_is_open(grammar, &configs[i]))
            continue;
        if (reader) return 0;
        reader = &configs[i];
    }
    if (!reader) return 0;
    return at_top ? entry_length(scratch, reader) : loop_length(scratch, reader, classes);
}

/* ---- The walk ---- */

static void token_allow(struct grammar_scratch *scratch, int32_t token)
{
    scratch->allowed[token >> 5] |= 1u << (token & 31);
}

static void level_enter(struct grammar_scratch *scratch, struct level *level, int n, uint32_t end)
{
    const struct grammar *grammar = scratch->grammar;
    level->n = n;
    level->end = end;
    level->n_frames = scratch->stack.n_frames;
    level->n_edges = scratch->stack.n_edges;
    if (level->n_frames > scratch->most_frames) scratch->most_frames = level->n_frames;
    if (level->n_edges > scratch->most_edges) scratch->most_edges = level->n_edges;
    level->alive = (struct grammar_set){{0}};
    for (int i = 0; i < n; i++) {
        if (!grammar_config_is_open(grammar, &level->configs[i])) continue;
        const struct grammar_set *alive = &grammar->places[level->configs[i].place].alive;
        for (int w = 0; w < 4; w++) level->alive.bits[w] |= alive->bits[w];
    }
}

/* All that can follow the node's bytes in the trie is free text. */
static bool subtree_is_free(struct grammar_scratch *scratch, const struct grammar_trie_node *node,
                            const struct grammar_config *configs, int n)
{
    uint32_t classes = node->classes;
    if (n > MOST_CONFIGS || node->height == 255 || (classes & grammar_vocabulary_wide && !node->is_whole))
        return false;
    bool loops = false;
    for (int i = 0; i < n && !loops; i++)
        loops = (scratch->grammar->places[configs[i].place].loops & classes) == classes;
    return loops && free_characters(scratch, configs, n, classes, false) >= node->height;
}

static void trie_walk(struct grammar_scratch *scratch, const struct grammar_trie *trie)
{
    const struct grammar *grammar = scratch->grammar;
    struct level *levels = scratch->levels;
    uint32_t depth = 0;
    for (uint32_t i = 1; i < trie->n;) {
        while (i >= levels[depth].end) depth--;
        struct level *level = &levels[depth];
        const struct grammar_trie_node *node = &trie->nodes[i];
        unsigned class = grammar->byte_class[node->byte];
        if (!grammar_set_has(&level->alive, class)) {
            i = node->next;
            continue;
        }
        scratch->stack.n_frames = level->n_frames;
        scratch->stack.n_edges = level->n_edges;
        struct level *deeper = level + 1;
        int n = grammar_step(grammar, &scratch->stack, level->configs, level->n, class, deeper->configs);
        if (n <= 0) {
            i = node->next;
            continue;
        }
        for (uint32_t t = 0; t < node->n; t++) token_allow(scratch, trie->order[node->first + t]);
        if (scratch->stack.n_frames > scratch->most_frames) scratch->most_frames = scratch->stack.n_frames;
        if (scratch->stack.n_edges > scratch->most_edges) scratch->most_edges = scratch->stack.n_edges;
        if (node->next == i + 1) {
            i++;
            continue;
        }
        if (subtree_is_free(scratch, node, deeper->configs, n)) {
            for (uint32_t t = node->first; t < trie->nodes[node->next].first; t++)
                token_allow(scratch, trie->order[t]);
            i = node->next;
            continue;
        }
        level_enter(scratch, deeper, n, node->next);
        depth++;
        i++;
    }
}

/* Plain tokens of at most n characters. */
static void plain_allow(struct grammar_scratch *scratch, uint32_t n)
{
    const struct grammar_vocabulary *vocabulary = scratch->vocabulary;
    bool is_all = n >= vocabulary->longest_plain;
    uint32_t slice = is_all ? GRAMMAR_SLICES : n < GRAMMAR_SLICES ? n - 1 : GRAMMAR_SLICES - 1;
    memcpy(scratch->allowed, vocabulary->slices + slice * vocabulary->n_words,
           vocabulary->n_words * sizeof *scratch->allowed);
    for (size_t i = 0; !is_all && i < vocabulary->n_long && vocabulary->long_tokens[i].n <= n; i++)
        token_allow(scratch, vocabulary->long_tokens[i].token);
}

static void tries_walk(struct grammar_scratch *scratch, const struct grammar_state *state)
{
    const struct grammar_vocabulary *vocabulary = scratch->vocabulary;
    struct level *top = &scratch->levels[0];
    memcpy(top->configs, state->configs, state->n_configs * sizeof *top->configs);
    level_enter(scratch, top, (int)state->n_configs, UINT32_MAX);
    uint32_t n_free = 0;
    if (state->n_configs <= MOST_CONFIGS)
        n_free = free_characters(scratch, top->configs, top->n, grammar_vocabulary_plain, true);
    if (n_free == 0) {
        memset(scratch->allowed, 0, vocabulary->n_words * sizeof *scratch->allowed);
        trie_walk(scratch, &vocabulary->plain);
    } else { /* where free text ends, nothing plain follows */
        plain_allow(scratch, n_free);
    }
    uint32_t touches = n_free > 0 ? scratch->free_touches : UINT32_MAX;
    for (int g = 0; g < GRAMMAR_OTHERS; g++)
        if (vocabulary->others[g].class & touches) trie_walk(scratch, &vocabulary->others[g]);
}

/* ---- Masks ---- */

/* Written out so that the compiler makes vectors of it: there are thousands of words. */
static int count_bits(const uint32_t *words, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t word = words[i];
        word -= word >> 1 & 0x55555555u;
        word = (word & 0x33333333u) + (word >> 2 & 0x33333333u);
        word = (word + (word >> 4)) & 0x0F0F0F0Fu;
        word += word >> 8;
        count += (word + (word >> 16)) & 0x3F;
    }
    return (int)count;
}

static int mask_make(const struct grammar_state *state, struct grammar_scratch *scratch, uint32_t *allowed)
{
    struct grammar_stack *stack = &scratch->stack;
    *stack = state->stack;
    stack->frames = scratch->frames;
    stack->edges = scratch->edges;
    memcpy(stack->frames, state->stack.frames, stack->n_frames * sizeof *stack->frames);
    memcpy(stack->edges, state->stack.edges, stack->n_edges * sizeof *stack->edges);
    depths_fill(scratch, state);
    stack->depths = scratch->depths;
    stack->n_known = stack->n_frames;
    stack->deepest = 0;
    stack->limited = false;
    scratch->grammar = state->grammar;
    scratch->allowed = allowed;
    scratch->most_frames = stack->n_frames;
    scratch->most_edges = stack->n_edges;
    scratch->exit_frame = GRAMMAR_NONE;
    scratch->free_touches = 0;
    tries_walk(scratch, state);
    return count_bits(allowed, scratch->vocabulary->n_words);
}

static int ends_allow(const struct grammar_state *state, uint32_t *allowed, int n)
{
    const struct grammar_vocabulary *vocabulary = state->grammar->vocabulary;
    if (!grammar_can_end(state)) return n;
    for (int32_t i = 0; i < vocabulary->n_ends; i++) {
        uint32_t *word = &allowed[vocabulary->ends[i] >> 5], bit = 1u << (vocabulary->ends[i] & 31);
        n += !(*word & bit);
        *word |= bit;
    }
    return n;
}

/* The mask from the cache, -1: it is not there. top: the hash of the configurations alone. */
static int mask_find(const struct grammar_state *state, struct grammar_scratch *scratch, uint32_t *allowed,
                     uint64_t *top)
{
    struct grammar_cache *cache = state->grammar->cache;
    const struct grammar_stack *stack = &state->stack;
    bool has_key = key_make(scratch, state, 0);
    *top = scratch->key.hash;
    uint32_t depths = grammar_cache_depths(cache, *top);
    for (uint32_t depth = 0; has_key && depths >> depth; depth++) {
        if (!(depths >> depth & 1)) continue;
        if (depth > 0) has_key = key_make(scratch, state, (uint8_t)depth);
        uint32_t frames = 0, edges = 0;
        int n = has_key ? grammar_cache_get(cache, &scratch->key, allowed, &frames, &edges) : -1;
        if (n >= 0 && stack->n_frames + frames <= stack->max_frames &&
            stack->n_edges + edges <= stack->max_edges)
            return n;
    }
    return -1;
}

int grammar_mask(const struct grammar_state *state, struct grammar_scratch *scratch, uint32_t *allowed)
{
    struct grammar_cache *cache = state->grammar->cache;
    uint64_t top = 0;
    int n = mask_find(state, scratch, allowed, &top);
    if (n >= 0) return ends_allow(state, allowed, n);
    n = mask_make(state, scratch, allowed);
    uint8_t deepest = scratch->stack.deepest;
    if (!scratch->stack.limited && deepest <= GRAMMAR_MAX_DEPTH_KEY && key_make(scratch, state, deepest)) {
        grammar_cache_put(cache, &scratch->key, allowed, n, scratch->most_frames - state->stack.n_frames,
                          scratch->most_edges - state->stack.n_edges);
        grammar_cache_note_depth(cache, top, deepest);
    }
    return ends_allow(state, allowed, n);
}
