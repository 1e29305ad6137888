/*
 * Two ways to the same result. Most words have a few symbols: there the ranks of all neighbours stand in an
 * array and the smallest is looked for again after each join. That is quadratic, so long words (a megabyte of
 * one letter is a word) keep their candidates in a heap and their symbols in a linked list.
 */
#include "model/merges.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define MERGES_KEY "tokenizer.ggml.merges"

enum { SHORT_WORD = 40, NO_RANK = INT32_MAX };

struct merge {
    int32_t left, right; /* left -1: an empty slot */
    int32_t rank;
    int32_t merged;
};

struct merges {
    struct merge *slots;
    uint32_t mask;
    int32_t *merged; /* [rank] */
};

static uint32_t pair_hash(int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= 0x9E3779B97F4A7C15u;
    return (uint32_t)(key >> 32);
}

/* The slot of the pair, or the empty one where it would stand. */
static struct merge *slot_find(const struct merges *merges, int32_t left, int32_t right)
{
    uint32_t at = pair_hash(left, right) & merges->mask;
    while (merges->slots[at].left >= 0 &&
           (merges->slots[at].left != left || merges->slots[at].right != right))
        at = (at + 1) & merges->mask;
    return &merges->slots[at];
}

static int32_t rank_find(const struct merges *merges, int32_t left, int32_t right)
{
    return slot_find(merges, left, right)->rank;
}

/* Find the three tokens of one line of the file. joined: room for the line. */
static enum err merge_parse(const struct vocabulary *vocabulary, size_t index, const struct gguf_string *line,
                            char *joined, struct merge *out, struct err_info *info)
{
    const char *space = line->length > 1 ? memchr(line->bytes + 1, ' ', line->length - 1) : NULL;
    size_t left = space ? (size_t)(space - line->bytes) : 0;
    int shown = line->length > 64 ? 64 : (int)line->length;
    if (!space || left + 1 == line->length)
        return err_set_param(info, ERR_FORMAT, MERGES_KEY,
                             "%s[%zu] is '%.*s', not two tokens with a space between", MERGES_KEY, index,
                             shown, line->bytes);
    size_t right = line->length - left - 1;
    memcpy(joined, line->bytes, left);
    memcpy(joined + left, space + 1, right);
    struct merge merge = {.left = vocabulary_find(vocabulary, line->bytes, left),
                          .right = vocabulary_find(vocabulary, space + 1, right),
                          .rank = (int32_t)index,
                          .merged = vocabulary_find(vocabulary, joined, left + right)};
    if (merge.left < 0 || merge.right < 0 || merge.merged < 0)
        return err_set_param(info, ERR_FORMAT, MERGES_KEY,
                             "%s[%zu] is '%.*s', but its %s is not in the vocabulary", MERGES_KEY, index,
                             shown, line->bytes,
                             merge.left < 0    ? "left token"
                             : merge.right < 0 ? "right token"
                                               : "result");
    *out = merge;
    return ERR_OK;
}

static enum err merges_fill(struct merges *merges, const struct vocabulary *vocabulary,
                            const struct gguf_string *lines, size_t n, struct err_info *info)
{
    size_t longest = 1;
    for (size_t i = 0; i < n; i++)
        if (lines[i].length > longest) longest = lines[i].length;
    char *joined = malloc(longest);
    if (!joined) return err_set(info, ERR_MEMORY, "no memory for the merges");
    enum err err = ERR_OK;
    for (size_t i = 0; err == ERR_OK && i < n; i++) {
        struct merge merge = {0};
        err = merge_parse(vocabulary, i, &lines[i], joined, &merge, info);
        if (err != ERR_OK) break;
        merges->merged[i] = merge.merged;
        struct merge *slot = slot_find(merges, merge.left, merge.right);
        if (slot->left < 0) *slot = merge;
    }
    free(joined);
    return err;
}

enum err merges_create(const struct gguf *gguf, const struct vocabulary *vocabulary, struct merges **out,
                       struct err_info *info)
{
    size_t n = 0;
    enum err err = gguf_array_length(gguf, MERGES_KEY, &n, info);
    if (err != ERR_OK) return err;
    if (n > INT32_MAX / 4)
        return err_set_param(info, ERR_FORMAT, MERGES_KEY, "%s has %zu elements", MERGES_KEY, n);
    size_t n_slots = 64;
    while (n_slots < n + n / 2) n_slots *= 2;
    struct merges *merges = calloc(1, sizeof *merges);
    struct gguf_string *lines = malloc((n + 1) * sizeof *lines);
    if (merges) {
        merges->slots = malloc(n_slots * sizeof *merges->slots);
        merges->merged = malloc((n + 1) * sizeof *merges->merged);
        merges->mask = (uint32_t)(n_slots - 1);
    }
    if (!merges || !lines || !merges->slots || !merges->merged) {
        err = err_set(info, ERR_MEMORY, "no memory for %zu merges", n);
    } else {
        for (size_t i = 0; i < n_slots; i++) merges->slots[i] = (struct merge){-1, -1, NO_RANK, -1};
        err = gguf_get_strings(gguf, MERGES_KEY, lines, n, info);
        if (err == ERR_OK) err = merges_fill(merges, vocabulary, lines, n, info);
    }
    free(lines);
    if (err == ERR_OK)
        *out = merges;
    else
        merges_free(merges);
    return err;
}

void merges_free(struct merges *merges)
{
    if (!merges) return;
    free(merges->slots);
    free(merges->merged);
    free(merges);
}

void merges_scratch_free(struct merges_scratch *scratch)
{
    free(scratch->memory);
    *scratch = (struct merges_scratch){0};
}

static int32_t short_apply(const struct merges *merges, int32_t *symbols, int32_t n)
{
    int32_t ranks[SHORT_WORD]; /* of the pair that begins at each symbol */
    for (int32_t i = 0; i + 1 < n; i++) ranks[i] = rank_find(merges, symbols[i], symbols[i + 1]);
    while (n > 1) {
        int32_t best = 0;
        for (int32_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == NO_RANK) break;
        symbols[best] = merges->merged[ranks[best]];
        int32_t tail = n - best - 2;
        memmove(symbols + best + 1, symbols + best + 2, (size_t)tail * sizeof *symbols);
        if (tail > 0) memmove(ranks + best + 1, ranks + best + 2, (size_t)(tail - 1) * sizeof *ranks);
        n--;
        if (best > 0) ranks[best - 1] = rank_find(merges, symbols[best - 1], symbols[best]);
        if (tail > 0) ranks[best] = rank_find(merges, symbols[best], symbols[best + 1]);
    }
    return n;
}

/* A pair that could be joined when it was found: stale once the symbols at its place are others. */
struct candidate {
    int32_t rank;
    int32_t at;
    int32_t left, right;
};

struct long_word {
    const struct merges *merges;
    int32_t *symbols; /* -1: joined to the one before */
    int32_t *next;    /* n: none */
    int32_t *previous;
    int32_t n;
    struct candidate *heap;
    int32_t n_heap;
};

static bool is_before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(struct long_word *word, int32_t at)
{
    int32_t next = word->next[at];
    if (next >= word->n) return;
    struct candidate new = {.at = at, .left = word->symbols[at], .right = word->symbols[next]};
    new.rank = rank_find(word->merges, new.left, new.right);
    if (new.rank == NO_RANK) return;
    int32_t hole = word->n_heap++;
    while (hole > 0 && is_before(&new, &word->heap[(hole - 1) / 2])) {
        word->heap[hole] = word->heap[(hole - 1) / 2];
        hole = (hole - 1) / 2;
    }
    word->heap[hole] = new;
}

static struct candidate heap_pop(struct long_word *word)
{
    struct candidate top = word->heap[0];
    struct candidate last = word->heap[--word->n_heap];
    int32_t hole = 0;
    for (;;) {
        int32_t child = 2 * hole + 1;
        if (child >= word->n_heap) break;
        if (child + 1 < word->n_heap && is_before(&word->heap[child + 1], &word->heap[child])) child++;
        if (!is_before(&word->heap[child], &last)) break;
        word->heap[hole] = word->heap[child];
        hole = child;
    }
    word->heap[hole] = last;
    return top;
}

static int32_t long_apply(struct long_word *word)
{
    int32_t *symbols = word->symbols, *next = word->next, *previous = word->previous, n = word->n;
    for (int32_t i = 0; i < n; i++) {
        next[i] = i + 1;
        previous[i] = i - 1;
    }
    for (int32_t i = 0; i < n; i++) heap_push(word, i);
    while (word->n_heap > 0) {
        struct candidate best = heap_pop(word);
        int32_t gone = next[best.at];
        if (symbols[best.at] != best.left || gone >= n || symbols[gone] != best.right) continue;
        symbols[best.at] = word->merges->merged[best.rank];
        symbols[gone] = -1;
        next[best.at] = next[gone];
        if (next[gone] < n) previous[next[gone]] = best.at;
        heap_push(word, best.at);
        if (previous[best.at] >= 0) heap_push(word, previous[best.at]);
    }
    int32_t left = 0;
    for (int32_t i = 0; i < n; i = next[i]) symbols[left++] = symbols[i];
    return left;
}

int32_t merges_apply(const struct merges *merges, struct merges_scratch *scratch, int32_t *symbols, int32_t n)
{
    if (n <= SHORT_WORD) return short_apply(merges, symbols, n);
    /* The heap begins with at most n - 1 candidates; each of at most n - 1 joins takes one and adds two. */
    size_t count = (size_t)n;
    size_t bytes = 2 * count * sizeof(struct candidate) + 2 * count * sizeof(int32_t);
    if (scratch->bytes < bytes) {
        free(scratch->memory);
        scratch->memory = malloc(bytes);
        scratch->bytes = scratch->memory ? bytes : 0;
        if (!scratch->memory) return -1;
    }
    struct long_word word = {.merges = merges, .symbols = symbols, .n = n, .heap = scratch->memory};
    word.next = (int32_t *)(word.heap + 2 * count);
    word.previous = word.next + count;
    return long_apply(&word);
}
