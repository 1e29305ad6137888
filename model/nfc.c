/*
 * No code point below U+0300 ever changes or joins what stands before it, so text is copied up to the last
 * such code point before one at or above U+0300, and only the stretch until the next is decomposed, put in
 * canonical order and composed. utf8proc's own canonical ordering is an insertion sort, quadratic in a run of
 * combining marks; a hostile megabyte of them would hold a thread for hours, so long runs are ordered here by
 * counting.
 *
 * What models were trained on came out of Hugging Face's normalizer, whose tables are those of Unicode 9. So
 * combining marks and compositions that are newer are left alone, as it leaves them: inert below.
 */
#include "model/nfc.h"

#include "config/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const utf8proc_option_t options = UTF8PROC_COMPOSE | UTF8PROC_STABLE;

enum {
    FIRST_CHANGING_LEAD = 0xCC, /* U+0300 is CC 80 */
    LONGEST_DECOMPOSITION = 18, /* in code points, with room to spare (4 canonical) */
    INSERTION_LIMIT = 32,
};

/* Code points with a combining class or a canonical composition that Unicode 9 did not have. In order. */
static const struct {
    int32_t first, last;
} inert[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
    {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F},
    {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

static bool is_inert(int32_t point)
{
    size_t low = 0, high = sizeof inert / sizeof inert[0];
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (point > inert[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof inert / sizeof inert[0] && point >= inert[low].first;
}

void nfc_init(struct nfc *nfc)
{
    *nfc = (struct nfc){0};
}

void nfc_free(struct nfc *nfc)
{
    free(nfc->text);
    free(nfc->points);
    nfc_init(nfc);
}

static bool is_changing(char byte)
{
    return (unsigned char)byte >= FIRST_CHANGING_LEAD;
}

bool nfc_may_change(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (is_changing(text[i])) return true;
    return false;
}

static bool text_append(struct nfc *nfc, const char *text, size_t length)
{
    if (length > nfc->capacity - nfc->length) {
        size_t capacity = nfc->capacity + nfc->capacity / 2 + length + 256;
        char *grown = realloc(nfc->text, capacity);
        if (!grown) return false;
        nfc->text = grown;
        nfc->capacity = capacity;
    }
    if (length > 0) memcpy(nfc->text + nfc->length, text, length);
    nfc->length += length;
    return true;
}

/* Decompose one code point onto the end of points. */
static bool points_append(struct nfc *nfc, int32_t point)
{
    if (nfc->max_points - nfc->n_points < LONGEST_DECOMPOSITION) {
        size_t most = nfc->max_points * 2 + 64;
        int32_t *grown = realloc(nfc->points, most * sizeof *grown);
        if (!grown) return false;
        nfc->points = grown;
        nfc->max_points = most;
    }
    int bound_class = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(point, nfc->points + nfc->n_points, LONGEST_DECOMPOSITION,
                                                 options, &bound_class);
    if (n < 0 || n > LONGEST_DECOMPOSITION) return false;
    nfc->n_points += (size_t)n;
    return true;
}

static unsigned combining_class(int32_t point)
{
    return (unsigned)utf8proc_get_property(point)->combining_class & 0xFFu;
}

/* Stable sort of a run of marks by combining class. */
static bool marks_sort(int32_t *marks, size_t n)
{
    if (n <= INSERTION_LIMIT) {
        for (size_t i = 1; i < n; i++) {
            int32_t mark = marks[i];
            unsigned class = combining_class(mark);
            size_t j = i;
            for (; j > 0 && combining_class(marks[j - 1]) > class; j--) marks[j] = marks[j - 1];
            marks[j] = mark;
        }
        return true;
    }
    int32_t *sorted = malloc(n * sizeof *sorted);
    if (!sorted) return false;
    size_t place[257] = {0};
    for (size_t i = 0; i < n; i++) place[combining_class(marks[i]) + 1]++;
    for (size_t c = 0; c < 256; c++) place[c + 1] += place[c];
    for (size_t i = 0; i < n; i++) sorted[place[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, sorted, n * sizeof *sorted);
    free(sorted);
    return true;
}

static bool points_order(int32_t *points, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && combining_class(points[end]) != 0) end++;
        if (end > i + 1 && !marks_sort(points + i, end - i)) return false;
        i = end + 1;
    }
    return true;
}

/* Order and compose the points gathered, onto the end of text. */
static bool points_flush(struct nfc *nfc)
{
    if (nfc->n_points == 0) return true;
    if (!points_order(nfc->points, nfc->n_points)) return false;
    utf8proc_ssize_t n = utf8proc_normalize_utf32(nfc->points, (utf8proc_ssize_t)nfc->n_points, options);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        utf8proc_uint8_t bytes[4];
        utf8proc_ssize_t size = utf8proc_encode_char(nfc->points[i], bytes);
        if (!text_append(nfc, (const char *)bytes, (size_t)size)) return false;
    }
    nfc->n_points = 0;
    return n >= 0;
}

/* Normalize one stretch onto the end of text. */
static bool stretch_compose(struct nfc *nfc, const char *text, size_t length)
{
    for (size_t at = 0; at < length;) {
        utf8proc_int32_t point = 0;
        utf8proc_ssize_t size =
            utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(length - at), &point);
        if (size <= 0) return false;
        if (is_inert(point)) {
            if (!points_flush(nfc) || !text_append(nfc, text + at, (size_t)size)) return false;
        } else if (!points_append(nfc, point)) {
            return false;
        }
        at += (size_t)size;
    }
    return points_flush(nfc);
}

bool nfc_compose(struct nfc *nfc, const char *text, size_t length)
{
    nfc->length = nfc->n_points = 0;
    size_t done = 0;
    while (done < length) {
        size_t begin = done;
        while (begin < length && !is_changing(text[begin])) begin++;
        if (begin == length) break;
        /* The code point before may take part: step back over its continuation bytes. */
        if (begin > done) begin--;
        while (begin > done && ((unsigned char)text[begin] & 0xC0u) == 0x80u) begin--;
        size_t end = begin + utf8_sequence(text + begin, length - begin);
        while (end < length && is_changing(text[end])) end += utf8_sequence(text + end, length - end);
        if (!text_append(nfc, text + done, begin - done)) return false;
        if (!stretch_compose(nfc, text + begin, end - begin)) return false;
        done = end;
    }
    return text_append(nfc, text + done, length - done);
}
