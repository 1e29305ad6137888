#ifndef SERVER_BLOCKS_H
#define SERVER_BLOCKS_H

#include "server/generation.h"

#include <stdbool.h>

/*
 * A reply as a row of blocks, which is how /v1/messages and /v1/responses tell what a model wrote: thoughts,
 * text, or a call of a tool. Here pieces become blocks; how they look is the format's. Such a reply has one
 * choice.
 *
 * Of the choice's own buffers, `text` is what the open block holds so far, and the lists are:
 */
enum {
    BLOCKS_DONE,
    BLOCKS_CALL_ID,
    BLOCKS_CALL_NAME
}; /* the format's, of finished blocks; of an open call */

enum blocks_type { BLOCKS_NONE, BLOCKS_THOUGHTS, BLOCKS_TEXT, BLOCKS_CALL };

/* What a format does when a block begins, grows and ends; out is NULL for whole replies. */
struct blocks_format {
    void (*begin)(struct courier_choice *choice, struct buf *out);
    void (*add)(struct courier_choice *choice, const char *text, size_t length, struct buf *out);
    void (*end)(struct courier_choice *choice, struct buf *out);
};

/* Begins the reply's state. */
struct blocks {
    struct generation_state common;
    const struct blocks_format *format;
    enum blocks_type open;
    int n;    /* blocks begun; the open one is the last */
    bool cut; /* the open one is the last that there is room for: its text may end anywhere */
};

/* For prepare: what a chat prepares, with the format. */
enum err blocks_prepare(struct generation *generation, const struct blocks_format *format, struct blocks *out,
                        struct err_info *info);
/* A piece of the reply. */
void blocks_piece(const struct courier_piece *piece, struct buf *out);
/* Whether the arguments of a call are the object that they are to be, not only its beginning. */
bool blocks_is_object(const struct buf *arguments);
/* Begins a block, ending the one that is open. */
void blocks_begin(struct courier_choice *choice, enum blocks_type type, struct buf *out);
void blocks_end(struct courier_choice *choice, struct buf *out);

/* A named event of a stream whose object begins with its type; left open for more members. */
void blocks_begin_event(struct buf *out, const char *type);
void blocks_end_event(struct buf *out);

#endif
