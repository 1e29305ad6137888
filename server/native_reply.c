#include "server/native.h"

#include "config/buf.h"

#include <math.h>
#include <string.h>

/*
 * One object a choice; a stream's last event has everything but the text, which the events before had. There
 * is no [DONE]: "stop" says it.
 */
enum { PROBABILITIES, TOKENS };

static void begin_token(struct buf *out, const struct tokenizer *tokenizer, int32_t token)
{
    size_t length;
    const char *bytes = tokenizer_bytes(tokenizer, token, &length);
    buf_printf(out, "{\"id\":%d,\"token\":", token);
    json_write_string(out, bytes, length);
    buf_text(out, ",");
    generation_print_bytes(out, tokenizer, token);
}

static void begin_entry(struct buf *out, const struct tokenizer *tokenizer, int32_t token, float logprob)
{
    begin_token(out, tokenizer, token);
    buf_text(out, ",\"logprob\":");
    generation_print_logprob(out, logprob);
}

/* With post_sampling_probs. */
static void begin_drawn(struct buf *out, const struct tokenizer *tokenizer, int32_t token, float logprob)
{
    begin_token(out, tokenizer, token);
    buf_text(out, ",\"prob\":");
    json_write_double(out, exp((double)logprob));
}

static void append_tokens(const struct courier_choice *choice, struct buf *out, int first)
{
    for (int i = first; i < choice->n_read; i++)
        buf_printf(out, "%s%d", out->length > 0 ? "," : "", choice->choice->records[i].token);
}

/* --- The end of a choice --- */

static void print_stop(struct buf *out, const struct courier_choice *choice)
{
    const struct courier_reply *reply = choice->reply;
    const struct api_stop_string *word = choice->cut ? api_stop_found(reply->stop, &choice->scan) : NULL;
    const char *type = choice->cut ? "word" : strcmp(choice->finish, "length") == 0 ? "limit" : "eos";
    buf_printf(out, "\"stop_type\":\"%s\",\"stopping_word\":", type);
    json_write_string(out, word ? word->text : "", word ? word->length : 0);
}

static void print_settings(struct buf *out, const struct courier_choice *choice)
{
    const struct native_state *state = choice->reply->state;
    const struct sampler_params *sampler = &choice->choice->sampler;
    const struct generation_params *params = state->params;
    buf_printf(
        out,
        "\"generation_settings\":{\"seed\":%lld,\"temperature\":%g,\"top_k\":%d,\"top_p\":%g,\"min_p\":%g",
        (long long)sampler->seed, (double)sampler->temperature, sampler->top_k, (double)sampler->top_p,
        (double)sampler->min_p);
    buf_printf(out, ",\"repeat_penalty\":%g,\"presence_penalty\":%g,\"frequency_penalty\":%g",
               (double)sampler->repetition_penalty, (double)sampler->presence_penalty,
               (double)sampler->frequency_penalty);
    buf_printf(
        out,
        ",\"n_predict\":%lld,\"max_tokens\":%d,\"n_probs\":%d,\"ignore_eos\":%s,\"stream\":%s,\"stop\":[",
        (long long)state->own->n_predict, choice->reply->request->max_tokens,
        state->common.n_logprobs > 0 ? state->common.n_logprobs : 0, params->ignore_eos ? "true" : "false",
        params->stream ? "true" : "false");
    for (int i = 0; i < params->stop.n; i++) {
        if (i > 0) buf_text(out, ",");
        json_write_string(out, params->stop.strings[i].text, params->stop.strings[i].length);
    }
    buf_text(out, "],\"logit_bias\":[");
    for (int i = 0; i < sampler->n_bias; i++)
        buf_printf(out, "%s{\"token\":%d,\"bias\":%g}", i > 0 ? "," : "", sampler->bias[i].token,
                   (double)sampler->bias[i].bias);
    buf_text(out, "]");
    native_print_fixed(out);
    buf_printf(out, ",\"timings_per_token\":%s,\"post_sampling_probs\":%s}",
               state->common.timings_per_token ? "true" : "false",
               state->own->post_sampling_probs ? "true" : "false");
}

static void print_prompt(struct buf *out, const struct courier_choice *choice)
{
    const struct native_state *state = choice->reply->state;
    struct detokenizer detokenizer = {0};
    struct buf text;
    buf_init(&text, SIZE_MAX);
    for (int i = 0; i < choice->choice->n_prompt; i++)
        detokenizer_push(&detokenizer, state->common.tokenizer, choice->choice->prompt[i], false, &text);
    detokenizer_flush(&detokenizer, &text);
    json_write_string(out, text.data ? text.data : "", text.length);
    out->failed = out->failed || text.failed;
    buf_free(&text);
}

/* Everything that comes after content and tokens, to the object's end. */
static void print_end(struct buf *out, const struct courier_choice *choice)
{
    const struct native_state *state = choice->reply->state;
    const struct choice *source = choice->choice;
    buf_text(out, "\"id_slot\":-1,\"stop\":true,\"model\":");
    json_write_text(out, state->common.model);
    buf_printf(out, ",\"tokens_predicted\":%d,\"tokens_evaluated\":%d,\"tokens_cached\":%d,", choice->n_read,
               source->n_prompt, source->n_prompt + choice->n_read - 1);
    print_settings(out, choice);
    buf_text(out, ",\"prompt\":");
    print_prompt(out, choice);
    buf_printf(out, ",\"has_new_line\":%s,\"truncated\":false,",
               state->has_new_line[source->index] ? "true" : "false");
    print_stop(out, choice);
    buf_text(out, ",");
    generation_print_timings(out, choice);
    buf_text(out, "}");
}

/* --- response_fields --- */

/* Where the value ends that begins at `at`, in an object that was printed here: there are no spaces. */
static const char *value_end(const char *at)
{
    int depth = 0;
    do {
        if (*at == '"')
            for (at++; *at != '"'; at++) at += *at == '\\';
        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        at++;
    } while (depth > 0 || !strchr(",]}", *at)); /* also at the text's end */
    return at;
}

/* The value in an object that a path with slashes between names leads to; NULL: there is none. */
static const char *find_member(const char *at, const char *path)
{
    for (bool more = true; more;) {
        size_t length = strcspn(path, "/");
        const char *value = NULL;
        while (!value && (*at == '{' || *at == ',') && at[1] == '"') {
            const char *name = at + 2;
            size_t name_length = strcspn(name, "\"");
            at = name + name_length + 2; /* past the colon */
            if (name_length == length && memcmp(name, path, length) == 0)
                value = at;
            else
                at = value_end(at);
        }
        if (!value) return NULL;
        more = path[length] == '/';
        path += length + more;
    }
    return at;
}

/* Of an object that `print` prints whole, the members that the client wants, under the paths that it gave. */
static void print_wanted(struct buf *out, struct courier_choice *choice,
                         void (*print)(struct buf *out, struct courier_choice *choice))
{
    const struct native_params *own = ((const struct native_state *)choice->reply->state)->own;
    if (own->n_fields == 0) {
        print(out, choice);
        return;
    }
    struct buf whole;
    buf_init(&whole, SIZE_MAX);
    print(&whole, choice);
    buf_append(&whole, "", 1);
    out->failed = out->failed || whole.failed;
    const char *separator = "{";
    for (int i = 0; i < own->n_fields && !whole.failed; i++) {
        const char *value = find_member(whole.data, own->fields[i]);
        if (!value) continue;
        buf_text(out, separator);
        json_write_text(out, own->fields[i]);
        buf_text(out, ":");
        buf_append(out, value, (size_t)(value_end(value) - value));
        separator = ",";
    }
    buf_text(out, *separator == '{' ? "{}" : "}");
    buf_free(&whole);
}

/* --- Streams --- */

static void print_part(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    const struct native_state *state = choice->reply->state;
    int *n_shown = &state->n_shown_tokens[choice->choice->index];
    if (piece->length == 0 && choice->lists[PROBABILITIES].length == 0) return;
    generation_check_buffers(choice, out);
    buf_printf(out, "data: {\"index\":%d,\"content\":", choice->choice->index);
    json_write_string(out, piece->text, piece->length);
    buf_text(out, ",\"tokens\":[");
    buf_clear(&choice->lists[TOKENS]);
    append_tokens(choice, &choice->lists[TOKENS], *n_shown);
    *n_shown = choice->n_read;
    buf_append(out, choice->lists[TOKENS].data, choice->lists[TOKENS].length);
    buf_printf(out, "],\"stop\":false,\"id_slot\":-1,\"tokens_predicted\":%d,\"tokens_evaluated\":%d",
               choice->n_read, choice->choice->n_prompt);
    if (state->common.n_logprobs > 0) {
        buf_text(out, ",\"completion_probabilities\":[");
        buf_append(out, choice->lists[PROBABILITIES].data, choice->lists[PROBABILITIES].length);
        buf_text(out, "]");
        buf_clear(&choice->lists[PROBABILITIES]);
    }
    generation_print_timings_given(out, choice);
    buf_text(out, "}\n\n");
}

static void print_last(struct buf *out, struct courier_choice *choice)
{
    buf_printf(out, "{\"index\":%d,\"content\":\"\",\"tokens\":[],", choice->choice->index);
    print_end(out, choice);
}

static void native_progress(const struct courier_choice *choice, int n_processed, struct buf *out)
{
    buf_printf(
        out,
        "data: "
        "{\"index\":%d,\"content\":\"\",\"tokens\":[],\"stop\":false,\"id_slot\":-1,\"tokens_predicted\":0,"
        "\"tokens_evaluated\":%d,",
        choice->choice->index, choice->choice->n_prompt);
    generation_print_progress(out, choice, n_processed);
    buf_text(out, "}\n\n");
}

static void native_piece(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    struct native_state *state = choice->reply->state;
    if (piece->length > 0 && memchr(piece->text, '\n', piece->length))
        state->has_new_line[choice->choice->index] = true;
    if (state->common.n_logprobs > 0)
        generation_print_entries(&choice->lists[PROBABILITIES], choice, piece->first_token, piece->end_token,
                                 state->own->post_sampling_probs ? begin_drawn : begin_entry,
                                 state->own->post_sampling_probs ? "top_probs" : "top_logprobs");
    if (!out) {
        buf_append(&choice->text, piece->text, piece->length);
        return;
    }
    print_part(piece, out);
    if (!piece->last) return;
    buf_text(out, "data: ");
    print_wanted(out, choice, print_last);
    buf_text(out, "\n\n");
}

/* --- Whole replies --- */

static void print_choice(struct buf *out, struct courier_choice *choice)
{
    const struct native_state *state = choice->reply->state;
    generation_check_buffers(choice, out);
    buf_printf(out, "{\"index\":%d,\"content\":", choice->choice->index);
    json_write_string(out, choice->text.data ? choice->text.data : "", choice->text.length);
    buf_text(out, ",\"tokens\":[");
    if (state->own->return_tokens) {
        append_tokens(choice, &choice->lists[TOKENS], 0);
        buf_append(out, choice->lists[TOKENS].data, choice->lists[TOKENS].length);
    }
    buf_text(out, "],");
    if (state->common.n_logprobs > 0) {
        buf_text(out, "\"completion_probabilities\":[");
        buf_append(out, choice->lists[PROBABILITIES].data, choice->lists[PROBABILITIES].length);
        buf_text(out, "],");
    }
    print_end(out, choice);
}

static void native_end(struct courier_reply *reply, struct buf *out)
{
    const struct native_state *state = reply->state;
    if (reply->stream) return;
    if (state->many) buf_text(out, "[");
    for (int i = 0; i < reply->request->n_choices; i++) {
        if (i > 0) buf_text(out, ",");
        print_wanted(out, &reply->choices[i], print_choice);
    }
    if (state->many) buf_text(out, "]");
}

const struct courier_format native_format = {
    .piece = native_piece,
    .progress = native_progress,
    .end = native_end,
    .stream_type = "text/event-stream; charset=utf-8",
    .whole_type = "application/json",
};
