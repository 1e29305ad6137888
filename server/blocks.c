#include "server/blocks.h"

#include "server/chat.h"

#include <string.h>

enum err blocks_prepare(struct generation *generation, const struct blocks_format *format, struct blocks *out,
                        struct err_info *info)
{
    enum err err = chat_generation_prepare(generation, info);
    if (err != ERR_OK) return err;
    *out = (struct blocks){.common = generation_state(generation), .format = format};
    generation->state = out;
    return ERR_OK;
}

void blocks_end(struct courier_choice *choice, struct buf *out)
{
    struct blocks *blocks = choice->reply->state;
    if (blocks->open == BLOCKS_NONE) return;
    blocks->format->end(choice, out);
    blocks->open = BLOCKS_NONE;
    buf_clear(&choice->text);
}

void blocks_begin(struct courier_choice *choice, enum blocks_type type, struct buf *out)
{
    struct blocks *blocks = choice->reply->state;
    blocks_end(choice, out);
    blocks->open = type;
    blocks->n++;
    blocks->format->begin(choice, out);
}

bool blocks_is_object(const struct buf *arguments)
{
    struct json *tree = NULL;
    struct json_limits limits = json_limits_default;
    limits.max_bytes = arguments->length;
    bool is_object = arguments->length > 0 &&
                     json_parse(arguments->data, arguments->length, &limits, &tree, NULL) == ERR_OK &&
                     json_type(tree) == JSON_OBJECT;
    json_free(tree);
    return is_object;
}

struct reading {
    struct courier_choice *choice;
    struct buf *out;
};

static void add(const struct reading *reading, const struct tools_event *event)
{
    struct blocks *blocks = reading->choice->reply->state;
    if (event->length == 0) return;
    buf_append(&reading->choice->text, event->text, event->length);
    blocks->format->add(reading->choice, event->text, event->length, reading->out);
}

/* To the open block where it is of this type, else to a new one. */
static void add_to(const struct reading *reading, enum blocks_type type, const struct tools_event *event)
{
    const struct blocks *blocks = reading->choice->reply->state;
    if (event->length > 0 && blocks->open != type) blocks_begin(reading->choice, type, reading->out);
    add(reading, event);
}

static void begin_call(const struct reading *reading, const struct tools_event *event)
{
    struct courier_choice *choice = reading->choice;
    struct buf *id = &choice->lists[BLOCKS_CALL_ID], *name = &choice->lists[BLOCKS_CALL_NAME];
    blocks_end(choice, reading->out);
    buf_clear(id);
    buf_clear(name);
    buf_text(id, event->id);
    buf_text(name, event->name);
    blocks_begin(choice, BLOCKS_CALL, reading->out);
}

static void read_event(void *context, const struct tools_event *event)
{
    const struct reading *reading = context;
    switch (event->type) {
    case TOOLS_REASONING:
        add_to(reading, BLOCKS_THOUGHTS, event);
        break;
    case TOOLS_TEXT:
        add_to(reading, BLOCKS_TEXT, event);
        break;
    case TOOLS_CALL:
        begin_call(reading, event);
        break;
    case TOOLS_ARGUMENTS:
        add(reading, event);
        break;
    case TOOLS_CALL_END:
        blocks_end(reading->choice, reading->out);
        break;
    }
}

void blocks_piece(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    struct blocks *blocks = choice->reply->state;
    generation_read_piece(piece, read_event, &(struct reading){choice, out});
    if (!piece->last) return;
    blocks->cut = strcmp(choice->finish, "length") == 0;
    blocks_end(choice, out);
}

void blocks_begin_event(struct buf *out, const char *type)
{
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

void blocks_end_event(struct buf *out)
{
    buf_text(out, "}\n\n");
}
