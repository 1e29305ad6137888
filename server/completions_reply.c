#include "server/completions.h"

#include "config/utf8.h"

#include <assert.h>
#include <math.h>

/*
 * The legacy shape. logprobs is four parallel lists over tokens; they are written side by side into four
 * buffers and put together where a choice is printed. text_offset counts characters of the text that the
 * client gets.
 */
enum { TOKENS, TOKEN_LOGPROBS, TOP_LOGPROBS, TEXT_OFFSET };

static const char *const list_names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};

static size_t count_chars(const char *text, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++) n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

/* A token's bytes as a JSON string; what is not UTF-8 by itself in OpenAI's notation, "bytes:\xe2\x80". */
static void print_token(struct buf *out, const struct tokenizer *tokenizer, int32_t token)
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

/* JSON has no infinity; -9999 is what vLLM writes for a token without probability. */
static void print_logprob(struct buf *out, float logprob)
{
    json_write_float(out, isfinite(logprob) ? logprob : -9999.0f);
}

static void print_top(struct buf *out, const struct tokenizer *tokenizer, const struct token_record *record,
                      const struct token_top *top, int n_top)
{
    bool chosen = false;
    const char *separator = "";
    buf_text(out, "{");
    for (int i = 0; i < n_top && top[i].token >= 0; i++) {
        chosen = chosen || top[i].token == record->token;
        buf_text(out, separator);
        print_token(out, tokenizer, top[i].token);
        buf_text(out, ":");
        print_logprob(out, top[i].logprob);
        separator = ",";
    }
    if (!chosen) { /* the chosen token is always among them */
        buf_text(out, separator);
        print_token(out, tokenizer, record->token);
        buf_text(out, ":");
        print_logprob(out, record->logprob);
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
    print_token(&lists[TOKENS], state->tokenizer, token);
    buf_printf(&lists[TEXT_OFFSET], "%zu", offset);
    if (!record) {
        buf_text(&lists[TOKEN_LOGPROBS], "null");
        buf_text(&lists[TOP_LOGPROBS], "null");
        return;
    }
    print_logprob(&lists[TOKEN_LOGPROBS], record->logprob);
    if (state->n_logprobs > 0)
        print_top(&lists[TOP_LOGPROBS], state->tokenizer, record, top, state->n_logprobs);
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
            source->prompt_top ? &source->prompt_top[(size_t)i * (size_t)state->n_logprobs] : NULL;
        append_token(choice, source->prompt[i], record, top, offset);
        if (i == 0 && echo->has_bos) continue;
        buf_clear(&text);
        detokenizer_push(&detokenizer, state->tokenizer, source->prompt[i], false, &text);
        offset += count_chars(text.data, text.length);
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
        chars += count_chars(piece->text + seen, start - seen);
        seen = start;
        const struct token_top *top =
            source->top ? &source->top[(size_t)i * (size_t)state->n_logprobs] : NULL;
        append_token(choice, source->records[i].token, &source->records[i], top, chars);
    }
}

static void print_logprobs(struct buf *out, const struct courier_choice *choice)
{
    const struct completions_state *state = choice->reply->state;
    buf_text(out, ",\"logprobs\":");
    if (state->n_logprobs < 0) {
        buf_text(out, "null");
        return;
    }
    for (int i = 0; i < 4; i++) {
        buf_printf(out, "%s\"%s\":", i == 0 ? "{" : ",", list_names[i]);
        if (i == TOP_LOGPROBS && state->n_logprobs == 0) {
            buf_text(out, "null");
            continue;
        }
        buf_text(out, "[");
        buf_append(out, choice->lists[i].data, choice->lists[i].length);
        buf_text(out, "]");
    }
    buf_text(out, "}");
}

static void print_choice(struct buf *out, const struct courier_choice *choice, bool last)
{
    buf_printf(out, "{\"index\":%d,\"text\":", choice->choice->index);
    json_write_string(out, choice->text.data, choice->text.length);
    print_logprobs(out, choice);
    buf_text(out, ",\"finish_reason\":");
    if (last)
        buf_printf(out, "\"%s\"}", choice->finish);
    else
        buf_text(out, "null}");
}

static void print_head(struct buf *out, const struct courier_reply *reply)
{
    const struct completions_state *state = reply->state;
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%lld,\"model\":",
               reply->request->id, (long long)state->created);
    json_write_text(out, state->model);
    buf_text(out, ",\"choices\":[");
}

/* A prompt counts once, however many choices it has. */
static void print_usage(struct buf *out, const struct courier_reply *reply)
{
    const struct completions_state *state = reply->state;
    int64_t prompt = 0, completion = 0;
    for (int i = 0; i < reply->request->n_choices; i++) {
        if (i % state->n == 0) prompt += reply->request->choices[i].n_prompt;
        completion += reply->choices[i].n_read;
    }
    buf_printf(out, "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld}",
               (long long)prompt, (long long)completion, (long long)(prompt + completion));
}

static void check_lists(struct courier_choice *choice, struct buf *out)
{
    out->failed = out->failed || choice->text.failed;
    for (int i = 0; i < 4; i++) out->failed = out->failed || choice->lists[i].failed;
}

static void print_event(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    const struct completions_state *state = choice->reply->state;
    if (choice->text.length == 0 && choice->lists[TOKENS].length == 0 && !piece->last) return;
    check_lists(choice, out);
    buf_text(out, "data: ");
    print_head(out, choice->reply);
    print_choice(out, choice, piece->last);
    buf_text(out, state->include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
    buf_clear(&choice->text);
    for (int i = 0; i < 4; i++) buf_clear(&choice->lists[i]);
}

static void completions_piece(const struct courier_piece *piece, struct buf *out)
{
    struct courier_choice *choice = piece->choice;
    const struct completions_state *state = choice->reply->state;
    if (piece->first && state->echo) {
        const struct completions_echo *echo = &state->echoes[choice->choice->index / state->n];
        if (state->n_logprobs >= 0) append_prompt_tokens(choice, echo);
        buf_append(&choice->text, echo->text, echo->length);
        choice->n_chars = count_chars(echo->text, echo->length);
    }
    if (state->n_logprobs >= 0) append_tokens(piece);
    buf_append(&choice->text, piece->text, piece->length);
    choice->n_chars += count_chars(piece->text, piece->length);
    if (out) print_event(piece, out);
}

static void completions_end(struct courier_reply *reply, struct buf *out)
{
    const struct completions_state *state = reply->state;
    if (reply->stream) {
        if (state->include_usage) {
            buf_text(out, "data: ");
            print_head(out, reply);
            buf_text(out, "],");
            print_usage(out, reply);
            buf_text(out, "}\n\n");
        }
        buf_text(out, "data: [DONE]\n\n");
        return;
    }
    print_head(out, reply);
    for (int i = 0; i < reply->request->n_choices; i++) {
        check_lists(&reply->choices[i], out);
        if (i > 0) buf_text(out, ",");
        print_choice(out, &reply->choices[i], true);
    }
    buf_text(out, "],");
    print_usage(out, reply);
    buf_text(out, "}");
}

const struct courier_format completions_format = {
    .piece = completions_piece,
    .end = completions_end,
    .stream_type = "text/event-stream; charset=utf-8",
    .whole_type = "application/json",
};
