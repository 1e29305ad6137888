#ifndef KERNELS_CPU_SPAN_TILES_H
#define KERNELS_CPU_SPAN_TILES_H

#include "kernels/backend.h"

/*
 * Spans cut into tiles for the workers. A tile is the part of a span that lies in one aligned group of
 * `tile_tokens` positions (a power of two, at most 64), so it never crosses a block. Tiles are numbered
 * through all spans; workers see their numbers grow, so a cursor of their own finds the span without a table
 * and without starting over.
 */
struct span_cursor {
    int span;
    int first_tile; /* number of the span's first tile */
};

struct span_tile {
    const struct attention_span *span;
    int row; /* the tile's first row, counted in the span */
    int n_rows;
    int position; /* of the first row */
};

static inline int span_tile_count(const struct attention_span *span, int tile_tokens)
{
    if (span->n_rows == 0) return 0;
    return (span->first_pos + span->n_rows - 1) / tile_tokens - span->first_pos / tile_tokens + 1;
}

/* The tile of this number, which is at least that of the cursor's last call. */
static inline struct span_tile span_tile_at(struct span_cursor *cursor, const struct attention_span *spans,
                                            int tile_tokens, int tile)
{
    const struct attention_span *span = &spans[cursor->span];
    int count = span_tile_count(span, tile_tokens);
    while (tile >= cursor->first_tile + count) {
        cursor->first_tile += count;
        span = &spans[++cursor->span];
        count = span_tile_count(span, tile_tokens);
    }
    int start = (span->first_pos / tile_tokens + tile - cursor->first_tile) * tile_tokens;
    int end = start + tile_tokens;
    if (start < span->first_pos) start = span->first_pos;
    if (end > span->first_pos + span->n_rows) end = span->first_pos + span->n_rows;
    return (struct span_tile){
        .span = span, .row = start - span->first_pos, .n_rows = end - start, .position = start};
}

#endif
