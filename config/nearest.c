#include "config/nearest.h"

#include <string.h>

enum { LONGEST = 63 };

/* Levenshtein distance, one row at a time. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    size_t row[LONGEST + 1];
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

const char *nearest_name(const char *typed, const char *const *names, size_t n_names)
{
    size_t length = strlen(typed);
    size_t allowed = length / 3 > 2 ? length / 3 : 2;
    if (length > LONGEST) return NULL;
    const char *best = NULL;
    for (size_t i = 0; i < n_names; i++) {
        if (strlen(names[i]) > LONGEST) continue;
        size_t distance = edit_distance(typed, names[i]);
        if (distance > allowed || distance >= length) continue;
        best = names[i];
        allowed = distance > 0 ? distance - 1 : 0;
        if (distance == 0) break;
    }
    return best;
}
