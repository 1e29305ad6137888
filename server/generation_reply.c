#include "config/clock.h"
#include "config/utf8.h"
#include "config/version.h"
#include "server/generation.h"

#include <math.h>

void generation_print_head(struct buf *out, const struct courier_reply *reply, const char *object)
{
    const struct generation_state *state = reply->state;
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", reply->request->id,
               object, (long long)state->created);
    json_write_text(out, state->model);
    buf_text(out, ",\"system_fingerprint\":\"b" OCTAVO_VERSION "\",\"choices\":[");
}

void generation_print_usage(struct buf *out, const struct courier_reply *reply)
{
    const struct generation_state *state = reply->state;
    int64_t prompt = 0, cached = 0, completion = 0, reasoning = 0;
    for (int i = 0; i < reply->request->n_choices; i++) {
        if (i % state->n == 0) {
            prompt += reply->request->choices[i].n_prompt;
            cached += reply->request->choices[i].n_cached;
        }
        completion += reply->choices[i].n_read;
        reasoning += generation_reasoning_tokens(&reply->choices[i]);
    }
    buf_printf(out,
               "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%lld}",
               (long long)prompt, (long long)completion, (long long)(prompt + completion), (long long)cached);
    if (state->reasoning_parsers)
        buf_printf(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%lld}", (long long)reasoning);
    buf_text(out, "}");
}

/* n tokens in n_steps forward passes. */
static void print_rate(struct buf *out, const char *name, int n, int n_steps, int64_t took_us)
{
    double ms = (double)took_us * 1e-3;
    buf_printf(out, "\"%s_n\":%d,\"%s_ms\":%.3f,\"%s_per_token_ms\":%.12g,\"%s_per_second\":%.12g", name, n,
               name, ms, name, n_steps > 0 ? ms / n_steps : 0, name, took_us > 0 ? n_steps * 1e3 / ms : 0);
}

/* n tokens written after a prompt, of which n_prompt were not in the cache. The first token costs no step of
   its own: it comes with the prompt's last. */
static void print_timings(struct buf *out, const struct courier_choice *choice, int n_prompt,
                          int64_t prompt_us, int n, int64_t took_us)
{
    buf_printf(out, "\"timings\":{\"cache_n\":%d,", choice->choice->n_cached);
    print_rate(out, "prompt", n_prompt, n_prompt, prompt_us);
    buf_text(out, ",");
    print_rate(out, "predicted", n, n > 0 ? n - 1 : 0, took_us);
    buf_text(out, "}");
}

void generation_print_timings(struct buf *out, const struct courier_choice *choice)
{
    struct request *request = choice->reply->request;
    int64_t end_us = clock_us(), first_us = atomic_load(&request->first_token_us);
    int n_prompt = choice->choice->n_prompt - choice->choice->n_cached;
    if (first_us == 0) first_us = end_us;
    print_timings(out, choice, n_prompt, first_us - request->arrival_us, choice->n_read,
                  end_us > first_us ? end_us - first_us : 1);
}

void generation_print_timings_given(struct buf *out, const struct courier_choice *choice)
{
    const struct generation_state *state = choice->reply->state;
    if (!state->timings_per_token) return;
    buf_text(out, ",");
    generation_print_timings(out, choice);
}

void generation_print_progress(struct buf *out, const struct courier_choice *choice, int n)
{
    const struct generation_state *state = choice->reply->state;
    const struct choice *source = choice->choice;
    int n_new = n - source->n_cached;
    int64_t took_us = n_new > 0 ? clock_us() - choice->reply->request->arrival_us : 0;
    buf_printf(out, "\"prompt_progress\":{\"total\":%d,\"cache\":%d,\"processed\":%d,\"time_ms\":%lld}",
               source->n_prompt, source->n_cached, n, (long long)(took_us / 1000));
    if (!state->timings_per_token) return;
    buf_text(out, ",");
    print_timings(out, choice, n_new, took_us, 0, 0);
}

void generation_print_event_end(struct buf *out, const struct courier_reply *reply)
{
    const struct generation_state *state = reply->state;
    if (state->include_usage) buf_text(out, ",");
    if (state->include_usage && state->continuous_usage)
        generation_print_usage(out, reply);
    else if (state->include_usage)
        buf_text(out, "\"usage\":null");
    buf_text(out, "}\n\n");
}

void generation_print_stream_end(struct buf *out, const struct courier_reply *reply, const char *object)
{
    const struct generation_state *state = reply->state;
    if (state->include_usage) {
        buf_text(out, "data: ");
        generation_print_head(out, reply, object);
        buf_text(out, "],");
        generation_print_usage(out, reply);
        generation_print_timings_given(out, &reply->choices[0]);
        buf_text(out, "}\n\n");
    }
    buf_text(out, "data: [DONE]\n\n");
}

void generation_print_token(struct buf *out, const struct tokenizer *tokenizer, int32_t token)
{
    size_t length;
    const char *bytes = tokenizer_bytes(tokenizer, token, &length);
    if (utf8_valid(bytes, length) == length) {
        json_write_string(out, bytes, length);
        return;
    }
    buf_text(out, "\"bytes:");
    for (size_t i = 0; i < length; i++) buf_printf(out, "\\\\x%02x", (unsigned char)bytes[i]);
    buf_text(out, "\"");
}

void generation_print_logprob(struct buf *out, float logprob)
{
    json_write_float(out, isfinite(logprob) ? logprob : -9999.0f);
}

void generation_print_bytes(struct buf *out, const struct tokenizer *tokenizer, int32_t token)
{
    size_t length;
    const char *bytes = tokenizer_bytes(tokenizer, token, &length);
    buf_text(out, "\"bytes\":[");
    for (size_t i = 0; i < length; i++) buf_printf(out, "%s%d", i > 0 ? "," : "", (unsigned char)bytes[i]);
    buf_text(out, "]");
}

void generation_print_entries(struct buf *out, const struct courier_choice *choice, int first, int end,
                              generation_begin_entry *begin, const char *top_name)
{
    const struct generation_state *state = choice->reply->state;
    const struct choice *source = choice->choice;
    for (int i = first; i < end; i++) {
        if (out->length > 0) buf_text(out, ",");
        begin(out, state->tokenizer, source->records[i].token, source->records[i].logprob);
        buf_printf(out, ",\"%s\":[", top_name);
        const struct token_top *top =
            source->top ? &source->top[(size_t)i * (size_t)state->n_logprobs] : NULL;
        for (int t = 0; top && t < state->n_logprobs && top[t].token >= 0; t++) {
            if (t > 0) buf_text(out, ",");
            begin(out, state->tokenizer, top[t].token, top[t].logprob);
            buf_text(out, "}");
        }
        buf_text(out, "]}");
    }
}

void generation_check_buffers(struct courier_choice *choice, struct buf *out)
{
    out->failed = out->failed || choice->text.failed;
    for (int i = 0; i < 4; i++) out->failed = out->failed || choice->lists[i].failed;
}

/* --- Thoughts, and calls of tools --- */

bool generation_shows(const struct courier_reply *reply, int32_t token)
{
    const struct generation_state *state = reply->state;
    for (int i = 0; i < state->n_shown; i++)
        if (state->shown[i] == token) return true;
    return false;
}

/* A piece on its way through the choice's parsers: thoughts come out of the first, calls of the second. */
struct reading {
    struct tools_parser *parser; /* NULL: no calls */
    tools_emit *emit;
    void *context;
};

static void read_answer(const struct reading *reading, const char *text, size_t length, bool last)
{
    if (reading->parser)
        tools_parser_feed(reading->parser, text, length, last, reading->emit, reading->context);
    else if (length > 0)
        reading->emit(reading->context,
                      &(struct tools_event){.type = TOOLS_TEXT, .text = text, .length = length});
}

static void read_thoughts(void *context, const struct tools_event *event)
{
    const struct reading *reading = context;
    if (event->type == TOOLS_REASONING)
        reading->emit(reading->context, event);
    else
        read_answer(reading, event->text, event->length, false);
}

void generation_read_piece(const struct courier_piece *piece, tools_emit *emit, void *context)
{
    const struct generation_state *state = piece->choice->reply->state;
    int index = piece->choice->choice->index;
    struct reading reading = {
        .parser = state->parsers ? state->parsers[index] : NULL, .emit = emit, .context = context};
    if (!state->reasoning_parsers) {
        read_answer(&reading, piece->text, piece->length, piece->last);
        return;
    }
    reasoning_parser_feed(state->reasoning_parsers[index], piece->text, piece->length, piece->last,
                          read_thoughts, &reading);
    if (piece->last) read_answer(&reading, "", 0, true);
}

int generation_reasoning_tokens(const struct courier_choice *choice)
{
    const struct generation_state *state = choice->reply->state;
    if (!state->reasoning_parsers) return 0;
    size_t end = reasoning_parser_end(state->reasoning_parsers[choice->choice->index]);
    int n = 0;
    while (n < choice->n_read && choice->starts[n] < end) n++;
    return n;
}

int generation_calls(const struct courier_choice *choice)
{
    const struct generation_state *state = choice->reply->state;
    return state->parsers ? tools_parser_calls(state->parsers[choice->choice->index]) : 0;
}
