#include "server/chat.h"

#include <string.h>

/*
 * A choice is a message, or in a stream the deltas of one: the role first, then text and calls of tools, then
 * why it ended. The logprobs' entries are gathered in lists[ENTRIES], one for each token whose text starts in
 * a piece; of whole replies the finished calls in lists[CALLS], the arguments of the one under way in
 * lists[ARGUMENTS], and thoughts in lists[THOUGHTS].
 */
enum { ENTRIES, CALLS, ARGUMENTS, THOUGHTS };

static void begin_entry(struct buf *out, const struct tokenizer *tokenizer, int32_t token, float logprob)
{
    buf_text(out, "{\"token\":");
    generation_print_token(out, tokenizer, token);
    buf_text(out, ",\"logprob\":");
    generation_print_logprob(out, logprob);
    buf_text(out, ",");
    generation_print_bytes(out, tokenizer, token);
}

/* The records of a piece that stand for text: the control token that ended the choice does not. */
static int shown_tokens(const struct courier_piece *piece)
{
    const struct courier_choice *choice = piece->choice;
    const struct generation_state *state = choice->reply->state;
    int end = piece->end_token;
    bool ended =
        piece->last && !choice->cut && end > piece->first_token && strcmp(choice->finish, "stop") == 0;
    return ended && tokenizer_is_special(state->tokenizer, choice->choice->records[end - 1].token) ? end - 1
                                                                                                   : end;
}

static void print_logprobs(struct buf *out, const struct courier_choice *choice)
{
    const struct generation_state *state = choice->reply->state;
    if (state->n_logprobs < 0) {
        buf_text(out, ",\"logprobs\":null");
        return;
    }
    buf_text(out, ",\"logprobs\":{\"content\":[");
    buf_append(out, choice->lists[ENTRIES].data, choice->lists[ENTRIES].length);
    buf_text(out, "],\"refusal\":null}");
}

/* --- Streams --- */

static void begin_event(struct buf *out, const struct courier_choice *choice)
{
    buf_text(out, "data: ");
    generation_print_head(out, choice->reply, "chat.completion.chunk");
    buf_printf(out, "{\"index\":%d,\"delta\":", choice->choice->index);
}

static void end_event(struct buf *out, const struct courier_choice *choice, const char *finish, bool timed)
{
    if (finish)
        buf_printf(out, ",\"finish_reason\":\"%s\"}]", finish);
    else
        buf_text(out, ",\"finish_reason\":null}]");
    if (timed) generation_print_timings_given(out, choice);
    generation_print_event_end(out, choice->reply);
}

/* A delta with an event of its own; with the entries so far. */
struct delta {
    struct courier_choice *choice;
    struct buf *out;
};

static void begin_delta(const struct delta *delta)
{
    generation_check_buffers(delta->choice, delta->out);
    begin_event(delta->out, delta->choice);
}

static void end_delta(const struct delta *delta)
{
    print_logprobs(delta->out, delta->choice);
    end_event(delta->out, delta->choice, NULL, true);
    buf_clear(&delta->choice->lists[ENTRIES]);
}

static void print_text(const struct delta *delta, const char *field, const char *text, size_t length)
{
    begin_delta(delta);
    buf_printf(delta->out, "{\"%s\":", field);
    json_write_string(delta->out, text, length);
    buf_text(delta->out, "}");
    end_delta(delta);
}

static void emit_delta(void *context, const struct tools_event *event)
{
    const struct delta *delta = context;
    struct buf *out = delta->out;
    if (event->type == TOOLS_TEXT) print_text(delta, "content", event->text, event->length);
    if (event->type == TOOLS_REASONING) print_text(delta, "reasoning_content", event->text, event->length);
    if (event->type != TOOLS_CALL && event->type != TOOLS_ARGUMENTS) return;
    begin_delta(delta);
    buf_printf(out, "{\"tool_calls\":[{\"index\":%d,", event->call);
    if (event->type == TOOLS_CALL)
        buf_printf(out, "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":\"%s\",\"arguments\":",
                   event->id, event->name);
    else
        buf_text(out, "\"function\":{\"arguments\":");
    json_write_string(out, event->text, event->length);
    buf_text(out, "}}]}");
    end_delta(delta);
}

static const char *finish_reason(const struct courier_choice *choice)
{
    bool called = generation_calls(choice) > 0 && strcmp(choice->finish, "stop") == 0;
    return called ? "tool_calls" : choice->finish;
}

static void print_events(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    struct delta delta = {.choice = choice, .out = out};
    if (piece->first) {
        begin_event(out, choice);
        /* Whether there will be text is not known yet: OpenAI has null before calls, llama-server always. */
        buf_text(out, "{\"role\":\"assistant\",\"content\":null},\"logprobs\":null");
        end_event(out, choice, NULL, false);
    }
    generation_read_piece(piece, emit_delta, &delta);
    if (!piece->last) return;
    if (choice->lists[ENTRIES].length > 0)
        print_text(&delta, "content", "", 0); /* of tokens that gave no text */
    begin_event(out, choice);
    buf_text(out, "{},\"logprobs\":null");
    end_event(out, choice, finish_reason(choice), true);
}

static void chat_progress(const struct courier_choice *choice, int n_processed, struct buf *out)
{
    begin_event(out, choice);
    buf_text(out, "{},\"logprobs\":null,\"finish_reason\":null}],");
    generation_print_progress(out, choice, n_processed);
    buf_text(out, "}\n\n");
}

/* --- Whole replies --- */

static void keep_event(void *context, const struct tools_event *event)
{
    struct courier_choice *choice = context;
    struct buf *calls = &choice->lists[CALLS], *arguments = &choice->lists[ARGUMENTS];
    switch (event->type) {
    case TOOLS_REASONING:
        buf_append(&choice->lists[THOUGHTS], event->text, event->length);
        break;
    case TOOLS_TEXT:
        buf_append(&choice->text, event->text, event->length);
        break;
    case TOOLS_CALL:
        buf_clear(arguments);
        break;
    case TOOLS_ARGUMENTS:
        buf_append(arguments, event->text, event->length);
        break;
    case TOOLS_CALL_END:
        buf_printf(calls,
                   "%s{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":\"%s\",\"arguments\":",
                   calls->length > 0 ? "," : "", event->id, event->name);
        json_write_string(calls, arguments->data ? arguments->data : "", arguments->length);
        buf_text(calls, "}}");
        calls->failed = calls->failed || arguments->failed;
        break;
    }
}

static void chat_piece(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    const struct generation_state *state = choice->reply->state;
    if (state->n_logprobs >= 0)
        generation_print_entries(&choice->lists[ENTRIES], choice, piece->first_token, shown_tokens(piece),
                                 begin_entry, "top_logprobs");
    if (out)
        print_events(piece, out);
    else
        generation_read_piece(piece, keep_event, choice);
}

static void print_choice(struct buf *out, const struct courier_choice *choice)
{
    const struct buf *calls = &choice->lists[CALLS], *thoughts = &choice->lists[THOUGHTS];
    buf_printf(out, "{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", choice->choice->index);
    if (calls->length > 0 && choice->text.length == 0)
        buf_text(out, "null");
    else
        json_write_string(out, choice->text.data ? choice->text.data : "", choice->text.length);
    if (thoughts->length > 0) {
        buf_text(out, ",\"reasoning_content\":");
        json_write_string(out, thoughts->data, thoughts->length);
    }
    buf_text(out, ",\"refusal\":null");
    if (calls->length > 0) {
        buf_text(out, ",\"tool_calls\":[");
        buf_append(out, calls->data, calls->length);
        buf_text(out, "]");
    }
    buf_text(out, "}");
    print_logprobs(out, choice);
    buf_printf(out, ",\"finish_reason\":\"%s\"}", finish_reason(choice));
}

static void chat_end(struct courier_reply *reply, struct buf *out)
{
    if (reply->stream) {
        generation_print_stream_end(out, reply, "chat.completion.chunk");
        return;
    }
    generation_print_head(out, reply, "chat.completion");
    for (int i = 0; i < reply->request->n_choices; i++) {
        generation_check_buffers(&reply->choices[i], out);
        if (i > 0) buf_text(out, ",");
        print_choice(out, &reply->choices[i]);
    }
    buf_text(out, "],");
    generation_print_usage(out, reply);
    generation_print_timings_given(out, &reply->choices[0]);
    buf_text(out, "}");
}

const struct courier_format chat_format = {
    .piece = chat_piece,
    .progress = chat_progress,
    .end = chat_end,
    .shows = generation_shows,
    .stream_type = "text/event-stream; charset=utf-8",
    .whole_type = "application/json",
};
