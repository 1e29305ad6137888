#ifndef MODEL_JINJA_SORT_H
#define MODEL_JINJA_SORT_H

#include "model/jinja_builtin.h"

/* n things, each with the key that it is ordered by. */
struct jinja_sorted {
    struct jinja_value key;
    size_t from; /* its index before */
};

/* Stable, as Python's sorted; takes n log n steps. Fails on keys that have no order among them. */
void jinja_sort(struct jinja_run *run, struct jinja_sorted *things, size_t n, bool reverse);

/* The key for comparing without regard to case: a string in lower case, anything else as it is. */
struct jinja_value jinja_sort_key(struct jinja_run *run, struct jinja_value value, bool case_sensitive);

#endif
