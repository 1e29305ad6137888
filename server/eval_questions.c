#include "server/eval_questions.h"

#include "config/arena.h"
#include "config/buf.h"
#include "config/json.h"
#include "config/utf8.h"
#include "server/eval_lines.h"
#include "server/eval_problems.h"
#include "server/runtime.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Every context repeats the examples, so the arena may become larger than the file. */
enum { EXAMPLES_BYTES = 1 << 20, TOKENS_MAX = 1 << 20 };
#define ARENA_BYTES ((size_t)16 << 30)

struct reader {
    const struct tokenizer *tokenizer;
    struct eval_questions questions;
    int n_shots;         /* still to be read */
    struct buf examples; /* those read, answered */
    struct buf context;  /* of the line in hand */
};

static enum err memory_fail(struct err_info *info)
{
    return err_set(info, ERR_MEMORY, "out of memory");
}

static const struct json *string_get(const struct json *object, const char *key)
{
    const struct json *node = json_get(object, key);
    return node != NULL && json_type(node) == JSON_STRING && json_string(node, NULL)[0] != '\0' ? node : NULL;
}

/* Appends the question without an answer. */
static enum err context_write(const struct json *object, struct buf *out, struct err_info *info)
{
    const struct json *question = string_get(object, "question"), *context = string_get(object, "context");
    size_t length;
    if ((question == NULL) == (context == NULL))
        return err_set(info, ERR_FORMAT,
                       "not an object with one of the strings \"question\" and \"context\"");
    const char *text = json_string(question != NULL ? question : context, &length);
    if (question == NULL && isspace((unsigned char)text[length - 1]))
        return err_set(info, ERR_FORMAT,
                       "\"context\" ends in white space: a space comes between it and a choice");
    if (question != NULL)
        buf_printf(out, EVAL_QUESTION " %s\nAnswer:", text);
    else
        buf_append(out, text, length);
    return out->failed ? memory_fail(info) : ERR_OK;
}

/* The choices are there and strings, and one of them is the answer. */
static enum err choices_check(const struct json *object, int *n_choices, int *answer, struct err_info *info)
{
    const struct json *choices = json_get(object, "choices"), *right = json_get(object, "answer");
    size_t n = json_length(choices);
    if (choices == NULL || json_type(choices) != JSON_ARRAY || n < 2 || n > EVAL_QUESTION_MAX_CHOICES)
        return err_set(info, ERR_FORMAT, "\"choices\" is not an array of 2 to %d strings",
                       EVAL_QUESTION_MAX_CHOICES);
    for (const struct json *node = json_first(choices); node != NULL; node = json_next(node))
        if (json_type(node) != JSON_STRING || json_string(node, NULL)[0] == '\0')
            return err_set(info, ERR_FORMAT, "\"choices\" holds something else than strings with text");
    if (right == NULL || !json_is_integer(right) || json_int64(right) < 0 || json_int64(right) >= (int64_t)n)
        return err_set(info, ERR_FORMAT, "\"answer\" is not a whole number from 0 to %zu", n - 1);
    *n_choices = (int)n;
    *answer = (int)json_int64(right);
    return ERR_OK;
}

/* The tokens of the context with the choice (which may be NULL) behind it; malloc'ed. */
static enum err text_encode(const struct reader *reader, const char *choice, int32_t **ids, size_t *n,
                            struct err_info *info)
{
    struct buf text;
    buf_init(&text, SIZE_MAX);
    buf_append(&text, reader->context.data, reader->context.length);
    if (choice != NULL) buf_printf(&text, " %s", choice);
    enum err err = text.failed ? memory_fail(info)
                               : tokenizer_encode(reader->tokenizer, text.data, text.length, true, false,
                                                  TOKENS_MAX, ids, n, info);
    buf_free(&text);
    return err;
}

/* Context and choice are encoded together; what follows as many tokens as the context has alone is the
   choice's. That is how lm-eval divides them. */
static enum err choice_make(struct reader *reader, const struct eval_question *question, const char *text,
                            struct eval_choice *out, struct err_info *info)
{
    size_t n, last = (size_t)question->n_context - 1;
    int32_t *ids, *tokens = NULL;
    enum err err = text_encode(reader, text, &ids, &n, info);
    if (err != ERR_OK) return err;
    if (n <= last + 1)
        err = err_set(info, ERR_FORMAT, "the choice \"%.40s\" has no token of its own", text);
    else if ((tokens = arena_alloc(reader->questions.arena, n - last, sizeof *tokens)) == NULL)
        err = memory_fail(info);
    if (tokens != NULL) {
        memcpy(tokens, ids + last, (n - last) * sizeof *tokens);
        tokens[0] = question->context[last];
        *out = (struct eval_choice){tokens, (int)(n - last), (int)utf8_count(text, strlen(text))};
    }
    free(ids);
    return err;
}

static enum err context_make(struct reader *reader, struct eval_question *out, struct err_info *info)
{
    int32_t *ids;
    size_t n;
    enum err err = text_encode(reader, NULL, &ids, &n, info);
    if (err != ERR_OK) return err;
    int32_t *tokens = arena_alloc(reader->questions.arena, n, sizeof *tokens);
    if (n == 0)
        err = err_set(info, ERR_FORMAT, "the question has no token that the model knows");
    else if (tokens == NULL)
        err = memory_fail(info);
    else
        memcpy(tokens, ids, n * sizeof *tokens);
    free(ids);
    if (err == ERR_OK) *out = (struct eval_question){.context = tokens, .n_context = (int)n};
    return err;
}

/* What the contexts read so far have in common with this one, its last token aside. */
static void shared_count(struct eval_questions *questions, const struct eval_question *question)
{
    const struct eval_question *first = &questions->questions[0];
    int most = questions->count == 0 ? question->n_context - 1 : questions->n_shared, n = 0;
    while (n < most && n < question->n_context - 1 && question->context[n] == first->context[n]) n++;
    questions->n_shared = n;
}

static enum err question_make(struct reader *reader, const struct json *object, int n_choices, int answer,
                              struct err_info *info)
{
    struct eval_questions *questions = &reader->questions;
    struct eval_question *question = &questions->questions[questions->count];
    enum err err = context_make(reader, question, info);
    if (err != ERR_OK) return err;
    question->n_choices = n_choices;
    question->answer = answer;
    question->choices = arena_alloc(questions->arena, (size_t)n_choices, sizeof *question->choices);
    if (question->choices == NULL) return memory_fail(info);
    const struct json *text = json_first(json_get(object, "choices"));
    for (int i = 0; i < n_choices && err == ERR_OK; i++, text = json_next(text)) {
        struct eval_choice *choice = &question->choices[i];
        err = choice_make(reader, question, json_string(text, NULL), choice, info);
        int most = question->n_context - 1 + choice->n_tokens;
        if (err == ERR_OK && most > questions->max_tokens) questions->max_tokens = most;
    }
    if (err != ERR_OK) return err;
    shared_count(questions, question);
    if (n_choices > questions->max_choices) questions->max_choices = n_choices;
    questions->count++;
    return ERR_OK;
}

static enum err line_take(void *context, const struct json *object, struct err_info *info)
{
    struct reader *reader = context;
    int n_choices = 0, answer = 0;
    buf_clear(&reader->context);
    buf_append(&reader->context, reader->examples.data, reader->examples.length);
    enum err err = context_write(object, &reader->context, info);
    if (err == ERR_OK) err = choices_check(object, &n_choices, &answer, info);
    if (err != ERR_OK) return err;
    if (reader->n_shots == 0) return question_make(reader, object, n_choices, answer, info);
    reader->n_shots--;
    const char *right = json_string(json_at(json_get(object, "choices"), (size_t)answer), NULL);
    buf_clear(&reader->examples);
    buf_append(&reader->examples, reader->context.data, reader->context.length);
    buf_printf(&reader->examples, " %s\n\n", right);
    return reader->examples.failed ? err_set(info, ERR_FORMAT, "the examples are too long") : ERR_OK;
}

enum err eval_questions_parse(const char *name, const char *text, size_t length, int shots, int limit,
                              const struct tokenizer *tokenizer, struct eval_questions *out,
                              struct err_info *info)
{
    struct reader reader = {.tokenizer = tokenizer, .n_shots = shots};
    struct eval_questions *questions = &reader.questions;
    enum err err = ERR_OK;
    questions->arena = arena_create(ARENA_BYTES);
    buf_init(&reader.examples, EXAMPLES_BYTES);
    buf_init(&reader.context, SIZE_MAX);
    if (questions->arena != NULL)
        questions->questions = arena_alloc(questions->arena, (size_t)eval_lines_count(text, length),
                                           sizeof *questions->questions);
    if (questions->questions == NULL) err = err_set(info, ERR_MEMORY, "%s: out of memory", name);
    if (err == ERR_OK)
        err = eval_lines_each(name, text, length, limit == 0 ? 0 : limit + shots, line_take, &reader, info);
    if (err == ERR_OK && questions->count == 0)
        err = err_set_param(info, ERR_USAGE, "shots", "--shots %d: %s has no more problems than that", shots,
                            name);
    buf_free(&reader.context);
    buf_free(&reader.examples);
    if (err == ERR_OK)
        *out = *questions;
    else
        arena_free(questions->arena);
    return err;
}

enum err eval_questions_read(const char *path, int shots, int limit, const struct tokenizer *tokenizer,
                             struct eval_questions *out, struct err_info *info)
{
    char *text;
    size_t length;
    enum err err = runtime_text_read("data", path, EVAL_LINES_MAX_BYTES, &text, &length, info);
    if (err != ERR_OK) return err;
    err = eval_questions_parse(path, text, length, shots, limit, tokenizer, out, info);
    free(text);
    return err;
}

void eval_questions_free(struct eval_questions *questions)
{
    arena_free(questions->arena);
    *questions = (struct eval_questions){0};
}
