#include "server/eval_problems.h"

#include "config/arena.h"
#include "config/json.h"
#include "server/eval_lines.h"
#include "server/runtime.h"

#include <assert.h>
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* C17 has no #embed; the assembler's .incbin is the same for gcc and clang. CMakeLists.txt gives the path. */
__asm__(".pushsection .rodata\n"
        ".globl eval_examples, eval_examples_end\n"
        "eval_examples:\n"
        ".incbin \"" EVAL_EXAMPLES_PATH "\"\n"
        "eval_examples_end:\n"
        ".byte 0\n"
        ".popsection\n");

size_t eval_examples_length(int n)
{
    const char *at = eval_examples;
    for (; n > 0; n--) {
        const char *end = strstr(at, "\n\n");
        assert(end != NULL);
        at = end + 2;
    }
    return (size_t)(at - eval_examples);
}

/* --- Numbers --- */

/* A comma between digits that has three of them, and no more, behind it. */
static bool is_thousands_comma(const char *at)
{
    return *at == ',' && isdigit((unsigned char)at[1]) && isdigit((unsigned char)at[2]) &&
           isdigit((unsigned char)at[3]) && !isdigit((unsigned char)at[4]);
}

/* at: a digit, or a point before one. Returns what follows the number. */
static const char *number_read(const char *text, const char *at, double *out)
{
    char digits[64];
    size_t n = 0;
    bool point = false;
    const char *before = at;
    for (;; at++) {
        bool is_point = *at == '.' && !point && isdigit((unsigned char)at[1]);
        if (is_thousands_comma(at) && !point) continue;
        if (!is_point && !isdigit((unsigned char)*at)) break;
        point = point || is_point;
        if (n + 1 < sizeof digits) digits[n++] = *at;
    }
    digits[n] = '\0';
    *out = strtod(digits, NULL);
    /* A minus sign, unless it subtracts: "5-3", "x-3", "(2)-3". */
    if (before > text && before[-1] == '$') before--;
    if (before > text && before[-1] == '-' &&
        (before - 1 == text || !(isalnum((unsigned char)before[-2]) || before[-2] == ')')))
        *out = -*out;
    return at;
}

static bool number_starts(const char *text, const char *at)
{
    if (isdigit((unsigned char)*at)) return true;
    bool inside = at > text && isdigit((unsigned char)at[-1]);
    return *at == '.' && isdigit((unsigned char)at[1]) && !inside;
}

static bool number_first(const char *text, double *out)
{
    for (const char *at = text; *at; at++)
        if (number_starts(text, at)) {
            number_read(text, at, out);
            return true;
        }
    return false;
}

static bool number_last(const char *text, double *out)
{
    bool found = false;
    for (const char *at = text; *at;) {
        if (number_starts(text, at)) {
            at = number_read(text, at, out);
            found = true;
        } else {
            at++;
        }
    }
    return found;
}

bool eval_answer_number(const char *text, double *out)
{
    static const char *const marks[] = {"\\boxed{", "####", "answer is"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        const char *last = NULL;
        for (const char *at = strstr(text, marks[i]); at; at = strstr(at + 1, marks[i])) last = at;
        if (last && number_first(last + strlen(marks[i]), out)) return true;
    }
    return number_last(text, out);
}

bool eval_answer_same(double a, double b)
{
    return fabs(a - b) <= 1e-6 * fmax(1, fmax(fabs(a), fabs(b)));
}

/* --- Problems --- */

static enum err problem_take(void *context, const struct json *object, struct err_info *info)
{
    struct eval_problems *problems = context;
    struct eval_problem *problem = &problems->problems[problems->count];
    const struct json *question = json_get(object, "question"), *answer = json_get(object, "answer");
    size_t length;
    if (question == NULL || answer == NULL || json_type(question) != JSON_STRING ||
        json_type(answer) != JSON_STRING)
        return err_set(info, ERR_FORMAT, "not an object with the strings \"question\" and \"answer\"");
    if (!eval_answer_number(json_string(answer, NULL), &problem->answer))
        return err_set(info, ERR_FORMAT, "no number in \"answer\"");
    const char *text = json_string(question, &length);
    problem->question = arena_copy(problems->arena, text, length);
    if (problem->question == NULL) return err_set(info, ERR_MEMORY, "out of memory");
    problems->count++;
    return ERR_OK;
}

enum err eval_problems_parse(const char *name, const char *text, size_t length, int limit,
                             struct eval_problems *out, struct err_info *info)
{
    struct eval_problems read = {.arena = arena_create(2 * (size_t)EVAL_LINES_MAX_BYTES)};
    enum err err = ERR_OK;
    if (read.arena != NULL)
        read.problems =
            arena_alloc(read.arena, (size_t)eval_lines_count(text, length), sizeof *read.problems);
    if (read.problems == NULL) err = err_set(info, ERR_MEMORY, "%s: out of memory", name);
    if (err == ERR_OK) err = eval_lines_each(name, text, length, limit, problem_take, &read, info);
    if (err == ERR_OK)
        *out = read;
    else
        arena_free(read.arena);
    return err;
}

enum err eval_problems_read(const char *path, int limit, struct eval_problems *out, struct err_info *info)
{
    char *text;
    size_t length;
    enum err err = runtime_text_read("data", path, EVAL_LINES_MAX_BYTES, &text, &length, info);
    if (err != ERR_OK) return err;
    err = eval_problems_parse(path, text, length, limit, out, info);
    free(text);
    return err;
}

void eval_problems_free(struct eval_problems *problems)
{
    arena_free(problems->arena);
    *problems = (struct eval_problems){0};
}
