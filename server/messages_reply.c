#include "server/blocks.h"
#include "server/messages.h"

#include <string.h>

/*
 * Whole replies gather finished blocks in lists[BLOCKS_DONE]; streams send events named by their type:
 * message_start, for each block content_block_start, content_block_delta ..., content_block_stop, then
 * message_delta and message_stop.
 */

static void print_usage(struct buf *out, const struct courier_choice *choice)
{
    const struct choice *source = choice->choice;
    buf_printf(
        out,
        "\"usage\":{\"input_tokens\":%d,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%d,"
        "\"output_tokens\":%d}",
        source->n_prompt - source->n_cached, source->n_cached, choice->n_read);
}

/* The members of a message up to its content. */
static void print_head(struct buf *out, const struct courier_reply *reply)
{
    const struct blocks *blocks = reply->state;
    buf_printf(out,
               "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", reply->request->id);
    json_write_text(out, blocks->common.model);
    buf_text(out, ",\"content\":[");
}

/* "stop_reason":...,"stop_sequence":... */
static void print_stop(struct buf *out, const struct courier_choice *choice)
{
    const struct api_stop_string *found =
        choice->cut ? api_stop_found(choice->reply->stop, &choice->scan) : NULL;
    const char *reason = "end_turn";
    if (found)
        reason = "stop_sequence";
    else if (strcmp(choice->finish, "length") == 0)
        reason = "max_tokens";
    else if (generation_calls(choice) > 0)
        reason = "tool_use";
    buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (found)
        json_write_string(out, found->text, found->length);
    else
        buf_text(out, "null");
}

/* The open block: with all of its content, or as it begins. */
static void print_block(struct buf *out, const struct courier_choice *choice, bool whole)
{
    const struct blocks *blocks = choice->reply->state;
    const struct buf *id = &choice->lists[BLOCKS_CALL_ID], *name = &choice->lists[BLOCKS_CALL_NAME];
    struct buf nothing = {0};
    const struct buf *content = whole ? &choice->text : &nothing;
    bool thoughts = blocks->open == BLOCKS_THOUGHTS;
    if (thoughts || blocks->open == BLOCKS_TEXT) {
        buf_text(out, thoughts ? "{\"type\":\"thinking\",\"signature\":\"\",\"thinking\":"
                               : "{\"type\":\"text\",\"text\":");
        json_write_string(out, content->data ? content->data : "", content->length);
    } else {
        buf_text(out, "{\"type\":\"tool_use\",\"id\":");
        json_write_string(out, id->data, id->length);
        buf_text(out, ",\"name\":");
        json_write_string(out, name->data, name->length);
        buf_text(out, ",\"input\":");
        /* What the end of the output cut off is no JSON; such a call has no input. */
        if (blocks_is_object(content))
            buf_append(out, content->data, content->length);
        else
            buf_text(out, "{}");
    }
    buf_text(out, "}");
}

/* --- Blocks --- */

static void block_begin(struct courier_choice *choice, struct buf *out)
{
    const struct blocks *blocks = choice->reply->state;
    if (!out) return;
    blocks_begin_event(out, "content_block_start");
    buf_printf(out, ",\"index\":%d,\"content_block\":", blocks->n - 1);
    print_block(out, choice, false);
    blocks_end_event(out);
    if (blocks->n > 1) return;
    blocks_begin_event(out, "ping");
    blocks_end_event(out);
}

static void block_add(struct courier_choice *choice, const char *text, size_t length, struct buf *out)
{
    static const char *const members[] = {
        [BLOCKS_THOUGHTS] = "\"thinking_delta\",\"thinking\":",
        [BLOCKS_TEXT] = "\"text_delta\",\"text\":",
        [BLOCKS_CALL] = "\"input_json_delta\",\"partial_json\":",
    };
    const struct blocks *blocks = choice->reply->state;
    if (!out) return;
    blocks_begin_event(out, "content_block_delta");
    buf_printf(out, ",\"index\":%d,\"delta\":{\"type\":%s", blocks->n - 1, members[blocks->open]);
    json_write_string(out, text, length);
    buf_text(out, "}");
    blocks_end_event(out);
}

static void block_end(struct courier_choice *choice, struct buf *out)
{
    const struct blocks *blocks = choice->reply->state;
    struct buf *done = &choice->lists[BLOCKS_DONE];
    if (out) {
        blocks_begin_event(out, "content_block_stop");
        buf_printf(out, ",\"index\":%d", blocks->n - 1);
        blocks_end_event(out);
        return;
    }
    if (done->length > 0) buf_text(done, ",");
    print_block(done, choice, true);
}

/* --- Replies --- */

static void messages_piece(const struct courier_piece *piece, struct buf *out)
{
    if (out && piece->first) {
        blocks_begin_event(out, "message_start");
        buf_text(out, ",\"message\":");
        print_head(out, piece->choice->reply);
        buf_text(out, "],\"stop_reason\":null,\"stop_sequence\":null,");
        print_usage(out, piece->choice);
        buf_text(out, "}");
        blocks_end_event(out);
    }
    blocks_piece(piece, out);
    if (out) generation_check_buffers(piece->choice, out);
}

static void messages_end(struct courier_reply *reply, struct buf *out)
{
    struct courier_choice *choice = &reply->choices[0];
    if (reply->stream) {
        blocks_begin_event(out, "message_delta");
        buf_text(out, ",\"delta\":{");
        print_stop(out, choice);
        buf_text(out, "},");
        print_usage(out, choice);
        blocks_end_event(out);
        blocks_begin_event(out, "message_stop");
        blocks_end_event(out);
        return;
    }
    generation_check_buffers(choice, out);
    print_head(out, reply);
    buf_append(out, choice->lists[BLOCKS_DONE].data, choice->lists[BLOCKS_DONE].length);
    buf_text(out, "],");
    print_stop(out, choice);
    buf_text(out, ",");
    print_usage(out, choice);
    buf_text(out, "}");
}

static void messages_fail(struct courier_reply *reply, const struct courier_fault *fault, struct buf *out)
{
    (void)reply;
    buf_text(out, "event: error\ndata: ");
    api_error_print(out, API_ERROR_ANTHROPIC, fault->status, fault->message, fault->param, fault->code);
    buf_text(out, "\n\n");
}

const struct blocks_format messages_blocks = {.begin = block_begin, .add = block_add, .end = block_end};

const struct courier_format messages_format = {
    .piece = messages_piece,
    .end = messages_end,
    .fail = messages_fail,
    .shows = generation_shows,
    .stream_type = "text/event-stream; charset=utf-8",
    .whole_type = "application/json",
};
