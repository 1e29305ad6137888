#include "server/responses.h"

#include <string.h>
#include <time.h>

/*
 * A block is an output item: reasoning or a message with one part of text, or a function_call. Finished items
 * gather in lists[BLOCKS_DONE], in streams too: the last event holds the whole response. Events, each with
 * its sequence_number:
 *
 *   response.created, response.in_progress
 *   thoughts:  output_item.added, content_part.added, reasoning_text.delta ..., reasoning_text.done,
 *              content_part.done, output_item.done
 *   a message: output_item.added, content_part.added, output_text.delta ..., output_text.done,
 *              content_part.done, output_item.done
 *   a call:    output_item.added, function_call_arguments.delta ..., function_call_arguments.done,
 *              output_item.done
 *   response.completed, or response.incomplete when the room for output was used up
 */

/* event: TYPE and {"type":TYPE,"sequence_number":N */
static void begin_event(struct buf *out, const struct courier_reply *reply, const char *type)
{
    struct responses_state *state = reply->state;
    blocks_begin_event(out, type);
    buf_printf(out, ",\"sequence_number\":%d", state->sequence++);
}

/* --- The response --- */

static void print_usage(struct buf *out, const struct courier_choice *choice)
{
    const struct choice *source = choice->choice;
    buf_printf(
        out,
        "{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d,\"cache_write_tokens\":0},"
        "\"output_tokens\":%d,\"output_tokens_details\":{\"reasoning_tokens\":%d},\"total_tokens\":%d}",
        source->n_prompt, source->n_cached, choice->n_read, generation_reasoning_tokens(choice),
        source->n_prompt + choice->n_read);
}

/* fault: why it failed, or NULL. Usage and items are those of a response that has ended. */
static void print_response(struct buf *out, const struct courier_reply *reply, const char *status,
                           const struct courier_fault *fault)
{
    const struct responses_state *state = reply->state;
    const struct courier_choice *choice = &reply->choices[0];
    const struct generation_state *common = &state->blocks.common;
    bool begun = strcmp(status, "in_progress") != 0, incomplete = strcmp(status, "incomplete") == 0;
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"model\":",
               reply->request->id, (long long)common->created, status);
    json_write_text(out, common->model);
    buf_text(out, ",\"error\":");
    if (fault) {
        buf_text(out, "{\"code\":\"server_error\",\"message\":");
        json_write_text(out, fault->message);
        buf_text(out, "}");
    } else {
        buf_text(out, "null");
    }
    buf_printf(out, ",\"incomplete_details\":%s,\"output\":[",
               incomplete ? "{\"reason\":\"max_output_tokens\"}" : "null");
    if (begun) buf_append(out, choice->lists[BLOCKS_DONE].data, choice->lists[BLOCKS_DONE].length);
    buf_text(out, "],\"usage\":");
    if (begun)
        print_usage(out, choice);
    else
        buf_text(out, "null");
    if (begun && !fault && !incomplete) buf_printf(out, ",\"completed_at\":%lld", (long long)time(NULL));
    buf_text(out, state->echo);
    buf_text(out, "}");
}

/* --- Items --- */

static void print_item_id(struct buf *out, const struct courier_choice *choice)
{
    static const char *const prefixes[] = {
        [BLOCKS_THOUGHTS] = "rs", [BLOCKS_TEXT] = "msg", [BLOCKS_CALL] = "fc"};
    const struct responses_state *state = choice->reply->state;
    const char *id = choice->reply->request->id + strlen("resp_");
    buf_printf(out, "\"%s_%s_%d\"", prefixes[state->blocks.open], id, state->blocks.n - 1);
}

/* {"type":"output_text",...} or {"type":"reasoning_text",...} */
static void print_part(struct buf *out, enum blocks_type type, const struct buf *text)
{
    buf_text(out, type == BLOCKS_THOUGHTS
                      ? "{\"type\":\"reasoning_text\",\"text\":"
                      : "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":");
    json_write_string(out, text->data ? text->data : "", text->length);
    buf_text(out, "}");
}

/* The open block as it begins or, with whole, as it ends. */
static void print_item(struct buf *out, const struct courier_choice *choice, bool whole)
{
    const struct responses_state *state = choice->reply->state;
    const struct buf *id = &choice->lists[BLOCKS_CALL_ID], *name = &choice->lists[BLOCKS_CALL_NAME];
    struct buf nothing = {0};
    const struct buf *text = whole ? &choice->text : &nothing;
    enum blocks_type type = state->blocks.open;
    bool is_text = type != BLOCKS_CALL;
    bool cut = is_text ? state->blocks.cut : !blocks_is_object(text);
    buf_text(out, "{\"id\":");
    print_item_id(out, choice);
    buf_printf(out, ",\"status\":\"%s\",", !whole ? "in_progress" : cut ? "incomplete" : "completed");
    if (is_text) {
        buf_text(out, type == BLOCKS_THOUGHTS ? "\"type\":\"reasoning\",\"summary\":[],\"content\":["
                                              : "\"type\":\"message\",\"role\":\"assistant\",\"content\":[");
        if (whole) print_part(out, type, text);
        buf_text(out, "]}");
        return;
    }
    buf_text(out, "\"type\":\"function_call\",\"call_id\":");
    json_write_string(out, id->data, id->length);
    buf_text(out, ",\"name\":");
    json_write_string(out, name->data, name->length);
    buf_text(out, ",\"arguments\":");
    json_write_string(out, text->data ? text->data : "", text->length);
    buf_text(out, "}");
}

/* An event about the open item, and for texts about its part, as far as all of them look alike. */
static void begin_item_event(struct buf *out, const struct courier_choice *choice, const char *type)
{
    const struct responses_state *state = choice->reply->state;
    begin_event(out, choice->reply, type);
    buf_printf(out, ",\"output_index\":%d,\"item_id\":", state->blocks.n - 1);
    print_item_id(out, choice);
    if (state->blocks.open != BLOCKS_CALL) buf_text(out, ",\"content_index\":0");
}

static void print_item_event(struct buf *out, const struct courier_choice *choice, const char *type,
                             bool whole)
{
    const struct responses_state *state = choice->reply->state;
    begin_event(out, choice->reply, type);
    buf_printf(out, ",\"output_index\":%d,\"item\":", state->blocks.n - 1);
    print_item(out, choice, whole);
    blocks_end_event(out);
}

static void print_part_event(struct buf *out, const struct courier_choice *choice, const char *type,
                             const struct buf *text)
{
    const struct responses_state *state = choice->reply->state;
    begin_item_event(out, choice, type);
    buf_text(out, ",\"part\":");
    print_part(out, state->blocks.open, text);
    blocks_end_event(out);
}

static void item_begin(struct courier_choice *choice, struct buf *out)
{
    const struct responses_state *state = choice->reply->state;
    struct buf nothing = {0};
    if (!out) return;
    print_item_event(out, choice, "response.output_item.added", false);
    if (state->blocks.open != BLOCKS_CALL)
        print_part_event(out, choice, "response.content_part.added", &nothing);
}

static void item_add(struct courier_choice *choice, const char *text, size_t length, struct buf *out)
{
    static const char *const types[] = {[BLOCKS_THOUGHTS] = "response.reasoning_text.delta",
                                        [BLOCKS_TEXT] = "response.output_text.delta",
                                        [BLOCKS_CALL] = "response.function_call_arguments.delta"};
    const struct responses_state *state = choice->reply->state;
    enum blocks_type type = state->blocks.open;
    if (!out) return;
    begin_item_event(out, choice, types[type]);
    buf_text(out, type == BLOCKS_TEXT ? ",\"logprobs\":[],\"delta\":" : ",\"delta\":");
    json_write_string(out, text, length);
    generation_print_timings_given(out, choice);
    blocks_end_event(out);
}

static void print_done_events(struct buf *out, const struct courier_choice *choice)
{
    const struct responses_state *state = choice->reply->state;
    static const char *const types[] = {[BLOCKS_THOUGHTS] = "response.reasoning_text.done",
                                        [BLOCKS_TEXT] = "response.output_text.done",
                                        [BLOCKS_CALL] = "response.function_call_arguments.done"};
    enum blocks_type type = state->blocks.open;
    const struct buf *text = &choice->text, *name = &choice->lists[BLOCKS_CALL_NAME];
    begin_item_event(out, choice, types[type]);
    if (type == BLOCKS_CALL) {
        buf_text(out, ",\"name\":");
        json_write_string(out, name->data, name->length);
    }
    buf_text(out, type == BLOCKS_CALL   ? ",\"arguments\":"
                  : type == BLOCKS_TEXT ? ",\"logprobs\":[],\"text\":"
                                        : ",\"text\":");
    json_write_string(out, text->data ? text->data : "", text->length);
    blocks_end_event(out);
    if (type != BLOCKS_CALL) print_part_event(out, choice, "response.content_part.done", text);
    print_item_event(out, choice, "response.output_item.done", true);
}

static void item_end(struct courier_choice *choice, struct buf *out)
{
    struct buf *done = &choice->lists[BLOCKS_DONE];
    if (out) print_done_events(out, choice);
    if (done->length > 0) buf_text(done, ",");
    print_item(done, choice, true);
}

/* --- Replies --- */

static void print_response_event(struct buf *out, const struct courier_reply *reply, const char *type,
                                 const char *status, const struct courier_fault *fault)
{
    begin_event(out, reply, type);
    buf_text(out, ",\"response\":");
    print_response(out, reply, status, fault);
    if (strcmp(status, "in_progress") != 0) generation_print_timings_given(out, &reply->choices[0]);
    blocks_end_event(out);
}

static void print_first_events(struct buf *out, const struct courier_reply *reply)
{
    struct responses_state *state = reply->state;
    if (state->begun) return;
    state->begun = true;
    print_response_event(out, reply, "response.created", "in_progress", NULL);
    print_response_event(out, reply, "response.in_progress", "in_progress", NULL);
}

static void responses_progress(const struct courier_choice *choice, int n_processed, struct buf *out)
{
    print_first_events(out, choice->reply);
    begin_event(out, choice->reply, "response.in_progress");
    buf_text(out, ",\"response\":");
    print_response(out, choice->reply, "in_progress", NULL);
    buf_text(out, ",");
    generation_print_progress(out, choice, n_processed);
    blocks_end_event(out);
}

static void responses_piece(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    const struct responses_state *state = choice->reply->state;
    if (out) print_first_events(out, choice->reply);
    blocks_piece(piece, out);
    if (piece->last && state->blocks.n == 0) { /* there is always an item */
        blocks_begin(choice, BLOCKS_TEXT, out);
        blocks_end(choice, out);
    }
    if (out) generation_check_buffers(choice, out);
}

static void responses_end(struct courier_reply *reply, struct buf *out)
{
    bool incomplete = strcmp(reply->choices[0].finish, "length") == 0;
    const char *status = incomplete ? "incomplete" : "completed";
    generation_check_buffers(&reply->choices[0], out);
    if (reply->stream)
        print_response_event(out, reply, incomplete ? "response.incomplete" : "response.completed", status,
                             NULL);
    else
        print_response(out, reply, status, NULL);
}

static void responses_fail(struct courier_reply *reply, const struct courier_fault *fault, struct buf *out)
{
    begin_event(out, reply, "error");
    buf_text(out, ",\"code\":\"server_error\",\"param\":null,\"message\":");
    json_write_text(out, fault->message);
    blocks_end_event(out);
    print_response_event(out, reply, "response.failed", "failed", fault);
}

const struct blocks_format responses_blocks = {.begin = item_begin, .add = item_add, .end = item_end};

const struct courier_format responses_format = {
    .piece = responses_piece,
    .progress = responses_progress,
    .end = responses_end,
    .fail = responses_fail,
    .shows = generation_shows,
    .stream_type = "text/event-stream; charset=utf-8",
    .whole_type = "application/json",
};
