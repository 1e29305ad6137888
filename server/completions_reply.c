#include "server/completions.h"

#include "config/utf8.h"

#include <assert.h>

/*
 * The legacy shape. logprobs is four parallel lists over tokens; they are written side by side into four
 * buffers and put together where a choice is printed. text_offset counts characters of the text that the
 * client gets.
 */
enum { TOKENS, TOKEN_LOGPROBS, TOP_LOGPROBS, TEXT_OFFSET };

static const char *const list_names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};

static void print_top(struct buf *out, const struct tokenizer *tokenizer, const struct token_record *record,
                      const struct token_top *top, int n_top)
{
    bool chosen = false;
    const char *separator = "";
    buf_text(out, "{");
    for (int i = 0; i < n_top && top[i].token >= 0; i++) {
        chosen = chosen || top[i].token == record->token;
        buf_text(out, separator);
        generation_print_token(out, tokenizer, top[i].token);
        buf_text(out, ":");
        generation_print_logprob(out, top[i].logprob);
        separator = ",";
    }
    if (!chosen) { /* the chosen token is always among them */
        buf_text(out, separator);
        generation_print_token(out, tokenizer, record->token);
        buf_text(out, ":");
        generation_print_logprob(out, record->logprob);
    }
    buf_text(out, "}");
}

/* One more token in the four lists; record NULL: a prompt's first token, which has no logprob. */
static void append_token(struct courier_choice *choice, int32_t token, const struct token_record *record,
                         const struct token_top *top, size_t offset)
{
    const struct completions_state *state = choice->reply->state;
    struct buf *lists = choice->lists;
    for (int i = 0; i < 4; i++)
        if (lists[i].length > 0) buf_text(&lists[i], ",");
    generation_print_token(&lists[TOKENS], state->common.tokenizer, token);
    buf_printf(&lists[TEXT_OFFSET], "%zu", offset);
    if (!record) {
        buf_text(&lists[TOKEN_LOGPROBS], "null");
        buf_text(&lists[TOP_LOGPROBS], "null");
        return;
    }
    generation_print_logprob(&lists[TOKEN_LOGPROBS], record->logprob);
    if (state->common.n_logprobs > 0)
        print_top(&lists[TOP_LOGPROBS], state->common.tokenizer, record, top, state->common.n_logprobs);
    else
        buf_text(&lists[TOP_LOGPROBS], "null");
}

/* The prompt's tokens, each at the place where its own text starts. */
static void append_prompt_tokens(struct courier_choice *choice, const struct completions_echo *echo)
{
    const struct completions_state *state = choice->reply->state;
    const struct choice *source = choice->choice;
    struct detokenizer detokenizer = {0};
    struct buf text;
    buf_init(&text, 1 << 20);
    size_t offset = 0;
    for (int i = 0; i < source->n_prompt; i++) {
        const struct token_record *record =
            i > 0 && source->prompt_records ? &source->prompt_records[i] : NULL;
        const struct token_top *top =
            source->prompt_top ? &source->prompt_top[(size_t)i * (size_t)state->common.n_logprobs] : NULL;
        append_token(choice, source->prompt[i], record, top, offset);
        if (i == 0 && echo->has_bos) continue;
        buf_clear(&text);
        detokenizer_push(&detokenizer, state->common.tokenizer, source->prompt[i], false, &text);
        offset += utf8_count(text.data, text.length);
    }
    buf_free(&text);
}

/* The piece's own tokens. */
static void append_tokens(const struct courier_piece *piece)
{
    struct courier_choice *choice = piece->choice;
    const struct completions_state *state = choice->reply->state;
    const struct choice *source = choice->choice;
    size_t seen = 0, chars = choice->n_chars;
    for (int i = piece->first_token; i < piece->end_token; i++) {
        size_t start = choice->starts[i] - piece->first_byte;
        if (start > piece->length) start = piece->length;
        chars += utf8_count(piece->text + seen, start - seen);
        seen = start;
        const struct token_top *top =
            source->top ? &source->top[(size_t)i * (size_t)state->common.n_logprobs] : NULL;
        append_token(choice, source->records[i].token, &source->records[i], top, chars);
    }
}

static void print_logprobs(struct buf *out, const struct courier_choice *choice)
{
    const struct completions_state *state = choice->reply->state;
    buf_text(out, ",\"logprobs\":");
    if (state->common.n_logprobs < 0) {
        buf_text(out, "null");
        return;
    }
    for (int i = 0; i < 4; i++) {
        buf_printf(out, "%s\"%s\":", i == 0 ? "{" : ",", list_names[i]);
        if (i == TOP_LOGPROBS && state->common.n_logprobs == 0) {
            buf_text(out, "null");
            continue;
        }
        buf_text(out, "[");
        buf_append(out, choice->lists[i].data, choice->lists[i].length);
        buf_text(out, "]");
    }
    buf_text(out, "}");
}

static void print_choice(struct buf *out, const struct courier_choice *choice, int index, bool last)
{
    buf_printf(out, "{\"index\":%d,\"text\":", index);
    json_write_string(out, choice->text.data, choice->text.length);
    print_logprobs(out, choice);
    buf_text(out, ",\"finish_reason\":");
    if (last)
        buf_printf(out, "\"%s\"}", choice->finish);
    else
        buf_text(out, "null}");
}

static void print_event(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    if (choice->text.length == 0 && choice->lists[TOKENS].length == 0 && !piece->last) return;
    generation_check_buffers(choice, out);
    buf_text(out, "data: ");
    generation_print_head(out, choice->reply, "text_completion");
    print_choice(out, choice, choice->choice->index, piece->last);
    buf_text(out, "]");
    generation_print_timings_given(out, choice);
    generation_print_event_end(out, choice->reply);
    buf_clear(&choice->text);
    for (int i = 0; i < 4; i++) buf_clear(&choice->lists[i]);
}

static void completions_piece(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    const struct completions_state *state = choice->reply->state;
    if (piece->first && state->echo) {
        const struct completions_echo *echo = &state->echoes[choice->choice->index / state->common.n];
        if (state->common.n_logprobs >= 0) append_prompt_tokens(choice, echo);
        buf_append(&choice->text, echo->text, echo->length);
        choice->n_chars = utf8_count(echo->text, echo->length);
    }
    if (state->common.n_logprobs >= 0) append_tokens(piece);
    buf_append(&choice->text, piece->text, piece->length);
    choice->n_chars += utf8_count(piece->text, piece->length);
    if (out) print_event(piece, out);
}

static void completions_progress(const struct courier_choice *choice, int n_processed, struct buf *out)
{
    buf_text(out, "data: ");
    generation_print_head(out, choice->reply, "text_completion");
    buf_printf(out, "{\"index\":%d,\"text\":\"\",\"logprobs\":null,\"finish_reason\":null}],",
               choice->choice->index);
    generation_print_progress(out, choice, n_processed);
    buf_text(out, "}\n\n");
}

/* --- Whole replies --- */

/* How likely the model finds it, per token. Nothing at all is as likely as can be. */
static double mean_logprob(const struct courier_choice *choice)
{
    double sum = 0;
    for (int i = 0; i < choice->n_read; i++) sum += (double)choice->choice->records[i].logprob;
    return choice->n_read > 0 ? sum / choice->n_read : 0;
}

/* How many of the prompt's choices come before this one: those that are likelier, of equal ones the first. */
static int rank_of(const struct courier_choice *choices, int n, int i)
{
    int rank = 0;
    double own = mean_logprob(&choices[i]);
    for (int other = 0; other < n; other++) {
        double mean = mean_logprob(&choices[other]);
        rank += mean > own || (mean == own && other < i);
    }
    return rank;
}

/* The n_wanted likeliest choices of one prompt, in this order; all of them in their own. */
static void print_prompt(struct buf *out, const struct courier_reply *reply, int p)
{
    const struct completions_state *state = reply->state;
    int n = state->common.n;
    const struct courier_choice *choices = &reply->choices[p * n];
    int chosen[GENERATION_MAX_N];
    assert(n <= GENERATION_MAX_N);
    for (int i = 0; i < n; i++) chosen[state->n_wanted < n ? rank_of(choices, n, i) : i] = i;
    for (int i = 0; i < state->n_wanted; i++) {
        if (p > 0 || i > 0) buf_text(out, ",");
        print_choice(out, &choices[chosen[i]], p * state->n_wanted + i, true);
    }
}

static void completions_end(struct courier_reply *reply, struct buf *out)
{
    const struct completions_state *state = reply->state;
    if (reply->stream) {
        generation_print_stream_end(out, reply, "text_completion");
        return;
    }
    generation_print_head(out, reply, "text_completion");
    for (int i = 0; i < reply->request->n_choices; i++) generation_check_buffers(&reply->choices[i], out);
    for (int p = 0; p < reply->request->n_choices / state->common.n; p++) print_prompt(out, reply, p);
    buf_text(out, "],");
    generation_print_usage(out, reply);
    generation_print_timings_given(out, &reply->choices[0]);
    buf_text(out, "}");
}

const struct courier_format completions_format = {
    .piece = completions_piece,
    .progress = completions_progress,
    .end = completions_end,
    .stream_type = "text/event-stream; charset=utf-8",
    .whole_type = "application/json",
};
