#include "model/jinja_sort.h"

#include <string.h>

/* Merges things[0..half) and things[half..n), using scratch [n]. */
static void merge(struct jinja_run *run, struct jinja_sorted *things, size_t half, size_t n, bool reverse,
                  struct jinja_sorted *scratch)
{
    size_t a = 0, b = half;
    for (size_t i = 0; i < n && jinja_spend(run, 1); i++) {
        bool second = a == half;
        if (a < half && b < n) {
            int order = jinja_order(run, &things[b].key, &things[a].key);
            second = reverse ? order > 0 : order < 0;
        }
        scratch[i] = things[second ? b++ : a++];
    }
    if (!jinja_failed(run)) memcpy(things, scratch, n * sizeof *things);
}

void jinja_sort(struct jinja_run *run, struct jinja_sorted *things, size_t n, bool reverse)
{
    struct jinja_sorted *scratch = arena_alloc(run->arena, n, sizeof *scratch);
    if (!scratch) {
        jinja_fail_memory(run);
        return;
    }
    for (size_t width = 1; width < n; width *= 2)
        for (size_t at = 0; at + width < n && !jinja_failed(run); at += 2 * width) {
            size_t end = at + 2 * width < n ? at + 2 * width : n;
            merge(run, things + at, width, end - at, reverse, scratch);
        }
}

struct jinja_value jinja_sort_key(struct jinja_run *run, struct jinja_value value, bool case_sensitive)
{
    if (case_sensitive || value.type != JINJA_STRING || jinja_failed(run)) return value;
    struct jinja_builder lower;
    jinja_build(run, &lower);
    jinja_text_case(&lower, value.text, JINJA_LOWER);
    return jinja_built(run, &lower);
}

const struct jinja_pair *jinja_sort_pairs(struct jinja_run *run, const struct jinja_dict *dict)
{
    struct jinja_pair *pairs = arena_alloc(run->arena, dict->n, sizeof *pairs);
    struct jinja_sorted *things = arena_alloc(run->arena, dict->n, sizeof *things);
    if (!pairs || !things) {
        jinja_fail_memory(run);
        return dict->pairs;
    }
    for (size_t i = 0; i < dict->n; i++)
        things[i] = (struct jinja_sorted){.key = dict->pairs[i].key, .from = i};
    jinja_sort(run, things, dict->n, false);
    for (size_t i = 0; i < dict->n; i++) pairs[i] = dict->pairs[things[i].from];
    return pairs;
}
