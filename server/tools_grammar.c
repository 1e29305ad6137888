/*
 * Replies that offer tools, as a grammar. A call is written the one way in which its family was trained to
 * write it, so that the grammar asks for what the model would do of itself. Where a call is not a must, all
 * else is any text: what the grammar adds is only that a call that has begun (with a marker, or by a known
 * name where there is none) is one of a tool that exists, with arguments that are an object.
 */
#include "server/tools_syntax.h"

#include "config/buf.h"
#include "model/grammar_text.h"
#include "server/marker.h"

#include <stdio.h>
#include <string.h>

static const char name_head[] = "{\"name\": \"";

struct grammar_maker {
    struct grammar_builder *builder;
    const struct tools *tools;
    const struct tools_syntax *syntax;
    struct err_info *info;
    int any_object; /* node, -1: none yet */
};

/* --- Pieces --- */

static int literal(const struct grammar_maker *maker, const char *text)
{
    return grammar_literal(maker->builder, text, strlen(text));
}

static int sequence(const struct grammar_maker *maker, int a, int b)
{
    return grammar_sequence(maker->builder, (const int[]){a, b}, 2);
}

static int either(const struct grammar_maker *maker, int a, int b)
{
    return grammar_choice(maker->builder, (const int[]){a, b}, 2);
}

static int optional(const struct grammar_maker *maker, int node)
{
    return grammar_repeat(maker->builder, node, 0, 1);
}

static int marker(const struct grammar_maker *maker, const char *text)
{
    return marker_grammar(maker->builder, text);
}

static int any_text(const struct grammar_maker *maker)
{
    return grammar_repeat(maker->builder, grammar_character(maker->builder, NULL, 0, true), 0, -1);
}

static int spaces(const struct grammar_maker *maker, int64_t max)
{
    static const struct grammar_range set[] = {{' ', ' '}, {'\n', '\n'}, {'\t', '\t'}, {'\r', '\r'}};
    return grammar_repeat(maker->builder, grammar_character(maker->builder, set, 4, false), 0, max);
}

/* --- Arguments --- */

static enum err name_place(const struct grammar_maker *maker, enum err err, int index)
{
    struct err_info *info = maker->info;
    if (err == ERR_OK || !info) return err;
    struct err_info inner = *info;
    char field[64];
    snprintf(field, sizeof field, "tools[%d].function.parameters", index);
    return err_set_param(info, err, field, "%s: %.400s", field, inner.message);
}

/* A schema that does not say so is made to say that it is one of objects. */
static enum err object_schema(const struct grammar_maker *maker, const struct json *schema, int *out)
{
    if (json_get(schema, "type")) return grammar_schema(maker->builder, schema, out, maker->info);
    struct buf text;
    struct json *typed = NULL;
    struct json_limits limits = json_limits_default;
    buf_init(&text, SIZE_MAX);
    buf_text(&text, "{\"type\":\"object\",");
    struct buf members;
    buf_init(&members, SIZE_MAX);
    json_write_tree(&members, schema);
    if (members.length > 0) buf_append(&text, members.data + 1, members.length - 1);
    limits.max_bytes = text.length;
    limits.max_depth = JSON_MAX_DEPTH;
    enum err err = text.failed || members.failed
                       ? err_set(maker->info, ERR_MEMORY, "no memory for a schema")
                       : json_parse(text.data, text.length, &limits, &typed, maker->info);
    if (err == ERR_OK) err = grammar_schema(maker->builder, typed, out, maker->info);
    json_free(typed);
    buf_free(&members);
    buf_free(&text);
    return err;
}

static enum err arguments(struct grammar_maker *maker, const struct tool *tool, int *out)
{
    bool enforced = tool->parameters && (tool->strict || maker->tools->choice != TOOLS_AUTO);
    enum err err = ERR_OK;
    if (!enforced && maker->any_object < 0)
        err = grammar_schema(maker->builder, NULL, &maker->any_object, maker->info);
    if (!enforced && err == ERR_OK) *out = maker->any_object;
    if (!enforced) return err;
    return name_place(maker, object_schema(maker, tool->parameters, out), tool->index);
}

/* --- Calls --- */

/* What every call of a tool consists of, by style: the object, or name and arguments. loose: as a model may
   write it that has been given no marker: with white space where JSON has it. */
static enum err call_of(struct grammar_maker *maker, const struct tool *tool, bool loose, int *out)
{
    int given;
    enum err err = arguments(maker, tool, &given);
    if (err != ERR_OK) return err;
    struct grammar_builder *builder = maker->builder;
    int name = literal(maker, tool->name);
    if (maker->tools->style == TOOLS_MISTRAL_ARGS) {
        static const struct grammar_range letters[] = {{'0', '9'}, {'A', 'Z'}, {'a', 'z'}};
        int id = grammar_repeat(builder, grammar_character(builder, letters, 3, false), 9, 9);
        const int nodes[] = {name, optional(maker, sequence(maker, marker(maker, "[CALL_ID]"), id)),
                             marker(maker, "[ARGS]"), given};
        *out = grammar_sequence(builder, nodes, 4);
        return ERR_OK;
    }
    char key[32];
    snprintf(key, sizeof key, "\"%s\"", maker->syntax->key);
    if (!loose) {
        char middle[40];
        snprintf(middle, sizeof middle, "\", %s: ", key);
        const int nodes[] = {literal(maker, name_head), name, literal(maker, middle), given,
                             literal(maker, "}")};
        *out = grammar_sequence(builder, nodes, 5);
        return ERR_OK;
    }
    int any = spaces(maker, -1), some = spaces(maker, 4);
    const int nodes[] = {
        any,  literal(maker, "{"),  any,  literal(maker, "\"name\""), any,  literal(maker, ":"),
        any,  literal(maker, "\""), name, literal(maker, "\""),       some, literal(maker, ","),
        some, literal(maker, key),  some, literal(maker, ":"),        some, given,
        some, literal(maker, "}")};
    *out = grammar_sequence(builder, nodes, (int)(sizeof nodes / sizeof nodes[0]));
    return ERR_OK;
}

/* A call of any tool that may be called. */
static enum err any_call(struct grammar_maker *maker, bool loose, int *out)
{
    const struct tools *tools = maker->tools;
    int nodes[TOOLS_MAX], n = 0;
    for (int i = 0; i < tools->n; i++) {
        if (tools->choice == TOOLS_NAMED && strcmp(tools->list[i].name, tools->named) != 0) continue;
        enum err err = call_of(maker, &tools->list[i], loose, &nodes[n++]);
        if (err != ERR_OK) return err;
    }
    *out = grammar_choice(maker->builder, nodes, n);
    return ERR_OK;
}

/* One, or several where they may be several, with this between. */
static int repeated(const struct grammar_maker *maker, int call, const char *separator)
{
    int more = sequence(maker, literal(maker, separator), call);
    return sequence(maker, call, grammar_repeat(maker->builder, more, 0, maker->tools->parallel ? -1 : 0));
}

/* A call with its markers, for styles that have them around each; for Mistral's list all calls. */
static enum err marked_call(struct grammar_maker *maker, int *out)
{
    const struct tools_syntax *syntax = maker->syntax;
    int call, open = marker(maker, syntax->marker);
    enum err err = any_call(maker, false, &call);
    if (err != ERR_OK) return err;
    if (syntax->close) {
        const int nodes[] = {open, literal(maker, "\n"), call, literal(maker, "\n"),
                             marker(maker, syntax->close)};
        *out = grammar_sequence(maker->builder, nodes, 5);
    } else if (maker->tools->style == TOOLS_MISTRAL) {
        const int nodes[] = {open, optional(maker, literal(maker, " ")), literal(maker, "["),
                             repeated(maker, call, ", "), literal(maker, "]")};
        *out = grammar_sequence(maker->builder, nodes, 5);
    } else {
        *out = sequence(maker, open, call);
    }
    return ERR_OK;
}

/* --- Text that is no call --- */

/* Goes on in any way, but not with `byte`, or with `byte` and then next; or ends. space: white space may
   come first. */
static int unless(const struct grammar_maker *maker, char byte, bool space, int next)
{
    struct grammar_range taken[5] = {{(uint32_t)byte, (uint32_t)byte}};
    int n = 1;
    for (const char *c = " \n\t\r"; space && *c; c++, n++)
        taken[n] = (struct grammar_range){(uint32_t)*c, (uint32_t)*c};
    int other = sequence(maker, grammar_character(maker->builder, taken, n, true), any_text(maker));
    int same = sequence(maker, grammar_literal(maker->builder, &byte, 1), next);
    int node = optional(maker, either(maker, other, same));
    return space ? sequence(maker, spaces(maker, -1), node) : node;
}

/* Goes on in any way but with a tool's name and a quote. prefix: length bytes, which have been read. */
static int unless_name(const struct grammar_maker *maker, const char *prefix, size_t length)
{
    const struct tools *tools = maker->tools;
    struct grammar_range taken[256];
    int nodes[256], n = 0, n_taken = 0;
    bool is_taken[256] = {false};
    for (int i = 0; i < tools->n; i++) {
        const char *name = tools->list[i].name;
        if (strncmp(name, prefix, length) != 0) continue;
        unsigned char next = name[length] ? (unsigned char)name[length] : '"';
        if (is_taken[next]) continue;
        is_taken[next] = true;
        taken[n_taken++] = (struct grammar_range){next, next};
        if (name[length])
            nodes[n++] = sequence(maker, grammar_literal(maker->builder, name + length, 1),
                                  unless_name(maker, name, length + 1));
    }
    nodes[n++] = sequence(maker, grammar_character(maker->builder, taken, n_taken, true), any_text(maker));
    return optional(maker, grammar_choice(maker->builder, nodes, n));
}

/* Text that does not begin as a call without marker. */
static int not_bare(const struct grammar_maker *maker)
{
    static const char key[] = "name\"";
    int node = unless(maker, ':', true, unless(maker, '"', true, unless_name(maker, "", 0)));
    for (int i = (int)sizeof key - 2; i >= 0; i--) node = unless(maker, key[i], false, node);
    return unless(maker, '{', true, unless(maker, '"', true, node));
}

/* --- Replies --- */

static enum err llama3(struct grammar_maker *maker, int *out)
{
    bool is_auto = maker->tools->choice == TOOLS_AUTO;
    int call;
    enum err err = any_call(maker, is_auto, &call);
    if (err != ERR_OK) return err;
    int calls = repeated(maker, call, "; ");
    if (!is_auto) {
        *out = calls;
        return ERR_OK;
    }
    int tagged = sequence(maker, marker(maker, maker->syntax->marker), calls);
    *out = either(maker, calls, sequence(maker, not_bare(maker), optional(maker, tagged)));
    return ERR_OK;
}

static enum err marked(struct grammar_maker *maker, int *out)
{
    const struct tools *tools = maker->tools;
    const char *opening = maker->syntax->marker;
    bool repeats = tools->parallel && tools->style != TOOLS_MISTRAL; /* a list has them all */
    int call;
    enum err err = marked_call(maker, &call);
    if (err != ERR_OK) return err;
    if (tools->choice != TOOLS_AUTO) {
        *out = repeats ? repeated(maker, call, maker->syntax->close ? "\n" : "") : call;
        return ERR_OK;
    }
    size_t length = strlen(opening);
    int text = grammar_without(maker->builder, &opening, &length, 1);
    int more =
        repeats ? grammar_repeat(maker->builder, sequence(maker, call, text), 0, -1) : optional(maker, call);
    *out = sequence(maker, text, more);
    return ERR_OK;
}

enum err tools_grammar(struct grammar_builder *builder, const struct tools *tools, int *out,
                       struct err_info *info)
{
    struct grammar_maker maker = {.builder = builder,
                                  .tools = tools,
                                  .syntax = tools_syntax_of(tools->style),
                                  .info = info,
                                  .any_object = -1};
    return tools->style == TOOLS_LLAMA3 ? llama3(&maker, out) : marked(&maker, out);
}
