#include "model/automaton.h"

#include <string.h>

/* --- Exploring --- */

/* The states met so far: number to index by open addressing, and index to number. */
struct found {
    struct arena *arena;
    uint64_t *states;
    int n, capacity;
    int *slots; /* index + 1; 0: free */
    size_t n_slots;
};

static size_t state_slot(const struct found *found, uint64_t state)
{
    size_t slot = (size_t)((state * 0x9E3779B97F4A7C15u) >> 32) & (found->n_slots - 1);
    while (found->slots[slot] && found->states[found->slots[slot] - 1] != state)
        slot = (slot + 1) & (found->n_slots - 1);
    return slot;
}

static bool found_grow(struct found *found)
{
    int capacity = found->capacity ? found->capacity * 2 : 64;
    uint64_t *states = arena_alloc(found->arena, (size_t)capacity, sizeof *states);
    int *slots = arena_alloc(found->arena, (size_t)capacity * 2, sizeof *slots);
    if (!states || !slots) return false;
    if (found->n) memcpy(states, found->states, (size_t)found->n * sizeof *states);
    found->states = states;
    found->slots = slots;
    found->n_slots = (size_t)capacity * 2;
    found->capacity = capacity;
    for (int i = 0; i < found->n; i++) slots[state_slot(found, states[i])] = i + 1;
    return true;
}

/* -1: too many, or no memory. */
static int found_add(struct found *found, uint64_t state)
{
    if (found->n == found->capacity && !found_grow(found)) return -1;
    size_t slot = state_slot(found, state);
    if (found->slots[slot]) return found->slots[slot] - 1;
    if (found->n == AUTOMATON_MAX_STATES) return -1;
    found->states[found->n++] = state;
    found->slots[slot] = found->n;
    return found->n - 1;
}

static struct automaton *automaton_create(struct arena *arena, int capacity)
{
    struct automaton *a = arena_alloc(arena, 1, sizeof *a);
    if (!a || capacity == 0) return a;
    a->next = arena_alloc(arena, (size_t)capacity, sizeof *a->next);
    a->accepts = arena_alloc(arena, (size_t)capacity, sizeof *a->accepts);
    return a->next && a->accepts ? a : NULL;
}

/* Marks the states that reach an accepting one: backwards from those, over the edges sorted by where they
   lead. Neighbouring bytes that lead to one state count once. */
static bool useful_mark(struct arena *arena, const struct automaton *a, bool *useful)
{
    size_t *first = arena_alloc(arena, (size_t)a->n + 2, sizeof *first);
    int *stack = arena_alloc(arena, (size_t)a->n + 1, sizeof *stack);
    if (!first || !stack) return false;
    size_t n_edges = 0;
    int *from = NULL;
    for (int round = 0; round < 2; round++) { /* count, then fill */
        for (int i = 0; i < a->n; i++)
            for (int byte = 0; byte < 256; byte++) {
                uint16_t to = a->next[i][byte];
                if (to == AUTOMATON_NONE || (byte && to == a->next[i][byte - 1])) continue;
                if (round == 0)
                    first[to + 2]++, n_edges++;
                else
                    from[first[to + 1]++] = i;
            }
        if (round) break;
        for (int i = 0; i < a->n; i++) first[i + 1] += first[i];
        from = arena_alloc(arena, n_edges + 1, sizeof *from);
        if (!from) return false;
    }
    int n = 0;
    for (int i = 0; i < a->n; i++)
        if (a->accepts[i]) useful[stack[n++] = i] = true;
    while (n > 0) {
        int to = stack[--n];
        for (size_t e = first[to]; e < first[to + 1]; e++)
            if (!useful[from[e]]) useful[stack[n++] = from[e]] = true;
    }
    return true;
}

static bool automaton_trim(struct arena *arena, struct automaton *a)
{
    bool *useful = arena_alloc(arena, (size_t)a->n + 1, sizeof *useful);
    uint16_t *number = arena_alloc(arena, (size_t)a->n + 1, sizeof *number);
    if (!useful || !number || !useful_mark(arena, a, useful)) return false;
    if (a->n == 0 || !useful[0]) {
        a->n = 0;
        return true;
    }
    int n = 0;
    for (int i = 0; i < a->n; i++) number[i] = useful[i] ? (uint16_t)n++ : AUTOMATON_NONE;
    for (int i = 0; i < a->n; i++) {
        if (!useful[i]) continue;
        for (int byte = 0; byte < 256; byte++) {
            uint16_t to = a->next[i][byte];
            a->next[number[i]][byte] = to == AUTOMATON_NONE ? to : number[to];
        }
        a->accepts[number[i]] = a->accepts[i];
    }
    a->n = n;
    return true;
}

struct automaton *automaton_explore(struct arena *arena, const struct automaton_source *source)
{
    struct found found = {.arena = arena};
    struct automaton *a = NULL;
    int capacity = 0;
    if (found_add(&found, source->start) < 0) return NULL;
    for (int i = 0; i < found.n; i++) {
        if (i == capacity) {
            struct automaton *larger = automaton_create(arena, capacity ? capacity * 2 : 16);
            if (!larger) return NULL;
            if (capacity) {
                memcpy(larger->next, a->next, (size_t)capacity * sizeof *a->next);
                memcpy(larger->accepts, a->accepts, (size_t)capacity * sizeof *a->accepts);
            }
            capacity = capacity ? capacity * 2 : 16;
            a = larger;
        }
        a->accepts[i] = source->accepts(source->context, found.states[i]);
        for (int byte = 0; byte < 256; byte++) {
            uint64_t next;
            a->next[i][byte] = AUTOMATON_NONE;
            if (!source->step(source->context, found.states[i], (uint8_t)byte, &next)) continue;
            int to = found_add(&found, next);
            if (to < 0) return NULL;
            a->next[i][byte] = (uint16_t)to;
        }
    }
    a->n = found.n;
    return automaton_trim(arena, a) ? a : NULL;
}

struct automaton *automaton_copy(struct arena *arena, const struct automaton *a)
{
    struct automaton *copy = automaton_create(arena, a->n);
    if (!copy || a->n == 0) return copy;
    copy->n = a->n;
    memcpy(copy->next, a->next, (size_t)a->n * sizeof *a->next);
    memcpy(copy->accepts, a->accepts, (size_t)a->n * sizeof *a->accepts);
    return copy;
}

/* --- Two at once --- */

struct pair {
    const struct automaton *a, *b;
    bool minus;
};

static bool pair_step(const void *context, uint64_t state, uint8_t byte, uint64_t *next)
{
    const struct pair *pair = context;
    uint16_t a = pair->a->next[state & 0xFFFF][byte], b = (uint16_t)(state >> 16);
    if (b != AUTOMATON_NONE) b = pair->b->next[b][byte];
    *next = a | (uint64_t)b << 16;
    return a != AUTOMATON_NONE && (pair->minus || b != AUTOMATON_NONE);
}

static bool pair_accepts(const void *context, uint64_t state)
{
    const struct pair *pair = context;
    uint16_t b = (uint16_t)(state >> 16);
    bool in_b = b != AUTOMATON_NONE && pair->b->accepts[b];
    return pair->a->accepts[state & 0xFFFF] && in_b != pair->minus;
}

static struct automaton *pair_explore(struct arena *arena, struct pair pair)
{
    if (!pair.a || !pair.b) return NULL;
    if (pair.a->n == 0 || (pair.b->n == 0 && !pair.minus)) return automaton_create(arena, 0);
    uint64_t start = pair.b->n == 0 ? (uint64_t)AUTOMATON_NONE << 16 : 0;
    struct automaton_source source = {&pair, start, pair_step, pair_accepts};
    return automaton_explore(arena, &source);
}

struct automaton *automaton_and(struct arena *arena, const struct automaton *a, const struct automaton *b)
{
    return pair_explore(arena, (struct pair){a, b, false});
}

struct automaton *automaton_minus(struct arena *arena, const struct automaton *a, const struct automaton *b)
{
    return pair_explore(arena, (struct pair){a, b, true});
}

/* --- Texts --- */

/* States of UTF-8: between characters; 1 to 3 continuation bytes to come; and, after the lead bytes that
   limit it, the first of them (Unicode, table 3-7). */
enum { UTF8_START, UTF8_1, UTF8_2, UTF8_3, UTF8_E0, UTF8_ED, UTF8_F0, UTF8_F4 };

static bool utf8_step(const void *context, uint64_t state, uint8_t byte, uint64_t *next)
{
    (void)context;
    switch (state) {
    case UTF8_START:
        *next = byte < 0x80    ? UTF8_START
                : byte == 0xE0 ? UTF8_E0
                : byte == 0xED ? UTF8_ED
                : byte == 0xF0 ? UTF8_F0
                : byte == 0xF4 ? UTF8_F4
                : byte < 0xE0  ? UTF8_1
                : byte < 0xF0  ? UTF8_2
                               : UTF8_3;
        return byte < 0x80 || (byte >= 0xC2 && byte <= 0xF4);
    case UTF8_E0:
        *next = UTF8_1;
        return byte >= 0xA0 && byte <= 0xBF;
    case UTF8_ED:
        *next = UTF8_1;
        return byte >= 0x80 && byte <= 0x9F;
    case UTF8_F0:
        *next = UTF8_2;
        return byte >= 0x90 && byte <= 0xBF;
    case UTF8_F4:
        *next = UTF8_2;
        return byte >= 0x80 && byte <= 0x8F;
    default:
        *next = state - 1;
        return byte >= 0x80 && byte <= 0xBF;
    }
}

static bool utf8_accepts(const void *context, uint64_t state)
{
    (void)context;
    return state == UTF8_START;
}

struct automaton *automaton_text(struct arena *arena)
{
    struct automaton_source source = {NULL, UTF8_START, utf8_step, utf8_accepts};
    return automaton_explore(arena, &source);
}

struct automaton *automaton_names(struct arena *arena, const char *const *names, int n)
{
    size_t bound = 1;
    for (int i = 0; i < n; i++) bound += strlen(names[i]);
    if (bound > AUTOMATON_MAX_STATES * (size_t)8) return NULL;
    if (bound > AUTOMATON_MAX_STATES) bound = AUTOMATON_MAX_STATES; /* shared beginnings may make it fit */
    struct automaton *a = automaton_create(arena, n ? (int)bound : 0);
    if (!a || n == 0) return a;
    memset(a->next, 0xFF, bound * sizeof *a->next);
    a->n = 1;
    for (int i = 0; i < n; i++) {
        int state = 0;
        for (const char *c = names[i]; *c; c++) {
            uint16_t *next = &a->next[state][(uint8_t)*c];
            if (*next == AUTOMATON_NONE && a->n == (int)bound) return NULL;
            if (*next == AUTOMATON_NONE) *next = (uint16_t)a->n++;
            state = *next;
        }
        a->accepts[state] = true;
    }
    return a;
}

struct length {
    uint64_t min, cap;
    bool open;
};

/* Counts the bytes that begin a character. */
static bool length_step(const void *context, uint64_t state, uint8_t byte, uint64_t *next)
{
    const struct length *length = context;
    bool begins = (byte & 0xC0) != 0x80;
    *next = state + begins;
    if (*next <= length->cap) return true;
    *next = length->cap;
    return length->open;
}

static bool length_accepts(const void *context, uint64_t state)
{
    return state >= ((const struct length *)context)->min;
}

struct automaton *automaton_length(struct arena *arena, int64_t min, int64_t max)
{
    if (max >= 0 && max < min) return automaton_create(arena, 0);
    struct length length = {(uint64_t)min, (uint64_t)(max < 0 ? min : max), max < 0};
    if (length.cap >= AUTOMATON_MAX_STATES) return NULL;
    struct automaton_source source = {&length, 0, length_step, length_accepts};
    return automaton_explore(arena, &source);
}

/* --- Spelling --- */

/* What of an escape has been read. */
enum { SPELL_PLAIN, SPELL_ESCAPE, SPELL_U, SPELL_U0, SPELL_U00, SPELL_U000, SPELL_U001 };

static int hex_value(uint8_t byte)
{
    if (byte >= '0' && byte <= '9') return byte - '0';
    if (byte >= 'a' && byte <= 'f') return byte - 'a' + 10;
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

/* state: that of the automaton of texts, and above it what of an escape has been read. */
static bool spelled_step(const void *context, uint64_t state, uint8_t byte, uint64_t *next)
{
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const struct automaton *a = context;
    uint64_t inner = state & 0xFFFF;
    int character = -1;
    const char *escape;
    switch (state >> 16) {
    case SPELL_PLAIN:
        *next = inner | SPELL_ESCAPE << 16;
        if (byte == '\\') return true;
        if (byte >= 0x20 && byte != '"') character = byte;
        break;
    case SPELL_ESCAPE:
        *next = inner | SPELL_U << 16;
        if (byte == 'u') return true;
        escape = byte ? strchr(escapes, byte) : NULL;
        if (escape) character = (uint8_t)meanings[escape - escapes];
        break;
    case SPELL_U:
    case SPELL_U0:
        *next = state + (1 << 16);
        return byte == '0';
    case SPELL_U00:
        *next = inner | (uint64_t)(byte == '0' ? SPELL_U000 : SPELL_U001) << 16;
        return byte == '0' || byte == '1';
    case SPELL_U000:
        if (hex_value(byte) > 0) character = hex_value(byte);
        break;
    case SPELL_U001:
        if (hex_value(byte) >= 0) character = 16 + hex_value(byte);
        break;
    }
    if (character < 0 || a->next[inner][character] == AUTOMATON_NONE) return false;
    *next = a->next[inner][character];
    return true;
}

static bool spelled_accepts(const void *context, uint64_t state)
{
    const struct automaton *a = context;
    return state >> 16 == SPELL_PLAIN && a->accepts[state & 0xFFFF];
}

struct automaton *automaton_spelled(struct arena *arena, const struct automaton *a)
{
    if (!a) return NULL;
    if (a->n == 0) return automaton_create(arena, 0);
    struct automaton_source source = {a, 0, spelled_step, spelled_accepts};
    return automaton_explore(arena, &source);
}

/* --- Asking --- */

bool automaton_is_empty(const struct automaton *a)
{
    return a->n == 0;
}

bool automaton_matches(const struct automaton *a, const char *text, size_t length)
{
    if (a->n == 0) return false;
    int state = 0;
    for (size_t i = 0; i < length; i++) {
        state = a->next[state][(uint8_t)text[i]];
        if (state == AUTOMATON_NONE) return false;
    }
    return a->accepts[state];
}
