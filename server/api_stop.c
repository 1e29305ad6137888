#include "server/api_stop.h"

enum err api_stop_add(struct api_stop *stop, struct arena *arena, const char *text, size_t length,
                      struct err_info *info)
{
    if (length == 0) return err_set_param(info, ERR_INVALID, "stop", "a stop string must not be empty");
    if (length > API_STOP_MAX_LENGTH)
        return err_set_param(info, ERR_LIMIT, "stop", "a stop string is %zu bytes long, at most %d are taken",
                             length, API_STOP_MAX_LENGTH);
    if (stop->n == API_STOP_MAX)
        return err_set_param(info, ERR_LIMIT, "stop", "at most %d stop strings are taken", API_STOP_MAX);
    char *copy = arena_copy(arena, text, length);
    uint16_t *retry = arena_alloc(arena, length, sizeof(*retry));
    if (!copy || !retry) return err_set_param(info, ERR_MEMORY, "stop", "no memory for the stop strings");
    uint16_t border = 0;
    for (size_t i = 1; i < length; i++) {
        while (border > 0 && copy[i] != copy[border]) border = retry[border - 1];
        if (copy[i] == copy[border]) border++;
        retry[i] = border;
    }
    stop->strings[stop->n++] = (struct api_stop_string){.text = copy, .length = length, .retry = retry};
    return ERR_OK;
}

static uint16_t advance(const struct api_stop_string *string, uint16_t state, char byte)
{
    while (state > 0 && string->text[state] != byte) state = string->retry[state - 1];
    return string->text[state] == byte ? (uint16_t)(state + 1) : 0;
}

size_t api_stop_feed(const struct api_stop *stop, struct api_stop_scan *scan, const char *text, size_t length,
                     size_t *end)
{
    for (size_t i = 0; i < length; i++) {
        size_t found = 0;
        for (int s = 0; s < stop->n; s++) {
            const struct api_stop_string *string = &stop->strings[s];
            scan->state[s] = advance(string, scan->state[s], text[i]);
            if (scan->state[s] == string->length && string->length > found) found = string->length;
        }
        if (found > 0) {
            *end = i + 1;
            return found;
        }
    }
    return 0;
}

const struct api_stop_string *api_stop_found(const struct api_stop *stop, const struct api_stop_scan *scan)
{
    const struct api_stop_string *found = NULL;
    for (int s = 0; s < stop->n; s++)
        if (scan->state[s] == stop->strings[s].length && (!found || found->length < scan->state[s]))
            found = &stop->strings[s];
    return found;
}

size_t api_stop_held(const struct api_stop *stop, const struct api_stop_scan *scan)
{
    size_t held = 0;
    for (int s = 0; s < stop->n; s++)
        if (scan->state[s] > held) held = scan->state[s];
    return held;
}
