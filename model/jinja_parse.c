#include "model/jinja_node.h"
#include "model/jinja_text.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool failed(const struct jinja_parser *parser)
{
    return parser->err != ERR_OK;
}

/* --- Shared with the expressions --- */

bool jinja_parse_fail(struct jinja_parser *parser, enum err err, const struct jinja_token *token,
                      const char *format, ...)
{
    if (failed(parser)) return false;
    char what[256];
    int line, column;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    jinja_lex_place(parser->tokens.source, token->offset, &line, &column);
    parser->err = err_set(parser->info, err, "line %d, column %d: %s", line, column, what);
    return false;
}

const struct jinja_token *jinja_parse_peek(const struct jinja_parser *parser)
{
    return &parser->tokens.tokens[parser->at];
}

struct jinja_node *jinja_parse_node(struct jinja_parser *parser, enum jinja_kind kind)
{
    if (failed(parser)) return NULL;
    struct jinja_node *node = arena_alloc(parser->arena, 1, sizeof *node);
    if (!node) {
        parser->err = err_set(parser->info, ERR_LIMIT, "the template is too large");
        return NULL;
    }
    node->kind = kind;
    node->line = jinja_parse_peek(parser)->line;
    return node;
}

int jinja_parse_symbol(struct jinja_parser *parser, struct jinja_text name)
{
    struct jinja *jinja = parser->jinja;
    for (int i = 0; i < jinja->n_symbols; i++)
        if (jinja->symbols[i].length == name.length &&
            memcmp(jinja->symbols[i].bytes, name.bytes, name.length) == 0)
            return i;
    if (jinja->n_symbols == parser->symbols_capacity) {
        int capacity = parser->symbols_capacity * 2 + 32;
        struct jinja_text *symbols = arena_alloc(parser->arena, (size_t)capacity, sizeof *symbols);
        if (!symbols) {
            if (!failed(parser)) parser->err = err_set(parser->info, ERR_LIMIT, "the template is too large");
            return -1;
        }
        if (jinja->n_symbols > 0) memcpy(symbols, jinja->symbols, (size_t)jinja->n_symbols * sizeof *symbols);
        jinja->symbols = symbols;
        parser->symbols_capacity = capacity;
    }
    jinja->symbols[jinja->n_symbols] = name;
    return jinja->n_symbols++;
}

bool jinja_parse_is(const struct jinja_token *token, enum jinja_token_type type, const char *text)
{
    return token->type == type && token->text.length == strlen(text) &&
           memcmp(token->text.bytes, text, token->text.length) == 0;
}

bool jinja_parse_skip(struct jinja_parser *parser, enum jinja_token_type type, const char *text)
{
    if (failed(parser) || !jinja_parse_is(jinja_parse_peek(parser), type, text)) return false;
    parser->at++;
    return true;
}

static const char *token_words(const struct jinja_token *token, char *out, size_t size)
{
    switch (token->type) {
    case JINJA_TOKEN_NAME:
    case JINJA_TOKEN_OPERATOR:
        snprintf(out, size, "'%.*s'", (int)(token->text.length < 60 ? token->text.length : 60),
                 token->text.bytes);
        return out;
    case JINJA_TOKEN_STRING:
        return "a string";
    case JINJA_TOKEN_INTEGER:
    case JINJA_TOKEN_FLOAT:
        return "a number";
    case JINJA_TOKEN_END:
        return "the end of the template";
    case JINJA_TOKEN_BLOCK_END:
    case JINJA_TOKEN_VARIABLE_END:
        return "the end of the tag";
    default:
        return "text";
    }
}

bool jinja_parse_expect(struct jinja_parser *parser, enum jinja_token_type type, const char *text)
{
    char words[80];
    const struct jinja_token *token = jinja_parse_peek(parser);
    if (jinja_parse_skip(parser, type, text)) return true;
    return jinja_parse_fail(parser, ERR_FORMAT, token, "expected '%s', not %s", text,
                            token_words(token, words, sizeof words));
}

const struct jinja_token *jinja_parse_name(struct jinja_parser *parser)
{
    char words[80];
    const struct jinja_token *token = jinja_parse_peek(parser);
    if (token->type != JINJA_TOKEN_NAME)
        jinja_parse_fail(parser, ERR_FORMAT, token, "expected a name, not %s",
                         token_words(token, words, sizeof words));
    else if (!failed(parser))
        parser->at++;
    return token;
}

bool jinja_parse_enter(struct jinja_parser *parser)
{
    if (failed(parser)) return false;
    if (parser->depth == JINJA_MAX_NESTING)
        return jinja_parse_fail(parser, ERR_LIMIT, jinja_parse_peek(parser), "nested more than %d deep",
                                JINJA_MAX_NESTING);
    parser->depth++;
    return true;
}

/* --- Statements --- */

static struct jinja_node *parse_statement(struct jinja_parser *parser);

/* After a tag's name and what belongs to it. */
static bool end_tag(struct jinja_parser *parser)
{
    char words[80];
    const struct jinja_token *token = jinja_parse_peek(parser);
    if (failed(parser)) return false;
    if (token->type != JINJA_TOKEN_BLOCK_END)
        return jinja_parse_fail(parser, ERR_FORMAT, token, "expected the end of the tag, not %s",
                                token_words(token, words, sizeof words));
    parser->at++;
    return true;
}

/* Whether the tag that comes has one of these names (`|` between them); passes over "{%" and the name. */
static bool take_tag(struct jinja_parser *parser, const char *const *names, const char **which)
{
    const struct jinja_token *token = jinja_parse_peek(parser);
    if (token->type != JINJA_TOKEN_BLOCK_BEGIN) return false;
    for (; *names; names++) {
        if (!jinja_parse_is(token + 1, JINJA_TOKEN_NAME, *names)) continue;
        parser->at += 2;
        *which = *names;
        return true;
    }
    return false;
}

/* Statements up to a tag with one of the names, which is passed over except for its end. */
static struct jinja_node *parse_body(struct jinja_parser *parser, const struct jinja_token *opening,
                                     const char *const *names, const char **which)
{
    struct jinja_node *first = NULL, **end = &first;
    while (!failed(parser) && !take_tag(parser, names, which)) {
        if (jinja_parse_peek(parser)->type == JINJA_TOKEN_END) {
            jinja_parse_fail(parser, ERR_FORMAT, opening, "'%.*s' has no '%s'", (int)opening->text.length,
                             opening->text.bytes, names[0]);
            return NULL;
        }
        *end = parse_statement(parser);
        if (*end) end = &(*end)->next;
    }
    return failed(parser) ? NULL : first;
}

/* A body in a scope of its own, where Jinja2 is strict again. */
static struct jinja_node *parse_scoped(struct jinja_parser *parser, const struct jinja_token *opening,
                                       const char *const *names, const char **which)
{
    bool soft = parser->soft;
    parser->soft = false;
    struct jinja_node *body = parse_body(parser, opening, names, which);
    parser->soft = soft;
    return body;
}

static struct jinja_node *parse_for(struct jinja_parser *parser, const struct jinja_token *token)
{
    static const char *const ends[] = {"endfor", "else", NULL}, *const last[] = {"endfor", NULL};
    const char *which = "";
    struct jinja_node *node = jinja_parse_node(parser, JINJA_FOR);
    struct jinja_node *target = jinja_parse_target(parser, false);
    jinja_parse_expect(parser, JINJA_TOKEN_NAME, "in");
    struct jinja_node *list = jinja_parse_tuple(parser, false);
    struct jinja_node *test =
        jinja_parse_skip(parser, JINJA_TOKEN_NAME, "if") ? jinja_parse_expression(parser, true) : NULL;
    const struct jinja_token *recursive = jinja_parse_peek(parser);
    if (jinja_parse_skip(parser, JINJA_TOKEN_NAME, "recursive"))
        jinja_parse_fail(parser, ERR_UNSUPPORTED, recursive, "recursive loops are not supported");
    if (!end_tag(parser)) return NULL;
    parser->loops++;
    struct jinja_node *body = parse_scoped(parser, token, ends, &which);
    parser->loops--;
    struct jinja_node *others = NULL;
    if (!failed(parser) && strcmp(which, "else") == 0 && end_tag(parser))
        others = parse_scoped(parser, token, last, &which);
    if (!end_tag(parser)) return NULL;
    node->left = target;
    node->right = list;
    node->test = test;
    node->items = body;
    node->others = others;
    return node;
}

static struct jinja_node *parse_if(struct jinja_parser *parser, const struct jinja_token *token)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    struct jinja_node *node = jinja_parse_node(parser, JINJA_IF), **end = node ? &node->items : NULL;
    const char *which = "if";
    bool soft = parser->soft;
    parser->soft = true;
    while (!failed(parser) && strcmp(which, "endif") != 0) {
        struct jinja_node *branch = jinja_parse_node(parser, JINJA_BRANCH);
        bool is_else = strcmp(which, "else") == 0;
        struct jinja_node *condition = is_else ? NULL : jinja_parse_tuple(parser, false);
        if (!end_tag(parser)) break;
        struct jinja_node *body = parse_body(parser, token, is_else ? &ends[0] : ends, &which);
        if (failed(parser)) break;
        if (is_else && strcmp(which, "endif") != 0)
            jinja_parse_fail(parser, ERR_FORMAT, jinja_parse_peek(parser) - 1, "'%s' after 'else'", which);
        branch->left = condition;
        branch->items = body;
        *end = branch;
        end = &branch->next;
    }
    parser->soft = soft;
    return end_tag(parser) ? node : NULL;
}

static struct jinja_node *parse_set(struct jinja_parser *parser, const struct jinja_token *token)
{
    static const char *const ends[] = {"endset", NULL};
    const char *which;
    struct jinja_node *node = jinja_parse_node(parser, JINJA_SET);
    struct jinja_node *target = jinja_parse_target(parser, true);
    if (jinja_parse_skip(parser, JINJA_TOKEN_OPERATOR, "=")) {
        struct jinja_node *value = jinja_parse_tuple(parser, true);
        if (!end_tag(parser)) return NULL;
        node->left = target;
        node->right = value;
        return node;
    }
    struct jinja_node *filters = jinja_parse_filters(parser, NULL, false);
    if (!end_tag(parser)) return NULL;
    struct jinja_node *body = parse_scoped(parser, token, ends, &which);
    if (!end_tag(parser)) return NULL;
    node->kind = JINJA_SET_BLOCK;
    node->left = target;
    node->right = filters;
    node->items = body;
    return node;
}

/* The parameters of a macro or call block and its body. */
static bool parse_macro_rest(struct jinja_parser *parser, struct jinja_node *node,
                             const struct jinja_token *token, const char *end)
{
    const char *const ends[] = {end, NULL};
    const char *which;
    int loops = parser->loops;
    struct jinja_node *outer = parser->macro;
    if (!end_tag(parser)) return false;
    parser->macro = node;
    parser->loops = 0;
    node->items = parse_scoped(parser, token, ends, &which);
    parser->macro = outer;
    parser->loops = loops;
    return end_tag(parser);
}

static struct jinja_node *parse_macro(struct jinja_parser *parser, const struct jinja_token *token)
{
    struct jinja_node *node = jinja_parse_node(parser, JINJA_MACRO_BLOCK);
    const struct jinja_token *name = jinja_parse_name(parser);
    if (!node || failed(parser)) return NULL;
    node->symbol = jinja_parse_symbol(parser, name->text);
    node->value = jinja_value_text(name->text);
    struct jinja_node *outer = parser->macro;
    parser->macro = node; /* its defaults may speak of `caller` too */
    bool done = jinja_parse_signature(parser, node);
    parser->macro = outer;
    return done && parse_macro_rest(parser, node, token, "endmacro") ? node : NULL;
}

static struct jinja_node *parse_call_block(struct jinja_parser *parser, const struct jinja_token *token)
{
    struct jinja_node *node = jinja_parse_node(parser, JINJA_CALL_BLOCK);
    struct jinja_node *caller = jinja_parse_node(parser, JINJA_MACRO_BLOCK);
    if (!caller) return NULL;
    caller->symbol = JINJA_SYMBOL_CALLER;
    caller->value = jinja_value_string("caller", 6, true);
    if (jinja_parse_is(jinja_parse_peek(parser), JINJA_TOKEN_OPERATOR, "("))
        jinja_parse_signature(parser, caller);
    const struct jinja_token *start = jinja_parse_peek(parser);
    struct jinja_node *call = jinja_parse_expression(parser, true);
    if (call && call->kind != JINJA_CALL) jinja_parse_fail(parser, ERR_FORMAT, start, "expected a call");
    if (failed(parser) || !parse_macro_rest(parser, caller, token, "endcall")) return NULL;
    node->left = caller;
    node->right = call;
    return node;
}

static struct jinja_node *parse_filter_block(struct jinja_parser *parser, const struct jinja_token *token)
{
    static const char *const ends[] = {"endfilter", NULL};
    const char *which;
    struct jinja_node *node = jinja_parse_node(parser, JINJA_FILTER_BLOCK);
    struct jinja_node *filters = jinja_parse_filters(parser, NULL, true);
    if (!end_tag(parser)) return NULL;
    node->right = filters;
    node->items = parse_scoped(parser, token, ends, &which);
    return end_tag(parser) ? node : NULL;
}

static struct jinja_node *parse_with(struct jinja_parser *parser, const struct jinja_token *token)
{
    static const char *const ends[] = {"endwith", NULL};
    const char *which;
    struct jinja_node *node = jinja_parse_node(parser, JINJA_WITH), **end = node ? &node->others : NULL;
    while (!failed(parser) && jinja_parse_peek(parser)->type != JINJA_TOKEN_BLOCK_END) {
        if (node->others) jinja_parse_expect(parser, JINJA_TOKEN_OPERATOR, ",");
        struct jinja_node *set = jinja_parse_node(parser, JINJA_SET);
        struct jinja_node *target = jinja_parse_target(parser, false);
        jinja_parse_expect(parser, JINJA_TOKEN_OPERATOR, "=");
        struct jinja_node *value = jinja_parse_expression(parser, true);
        if (failed(parser)) return NULL;
        set->left = target;
        set->right = value;
        *end = set;
        end = &set->next;
    }
    if (!end_tag(parser)) return NULL;
    node->items = parse_scoped(parser, token, ends, &which);
    return end_tag(parser) ? node : NULL;
}

static struct jinja_node *parse_generation(struct jinja_parser *parser, const struct jinja_token *token)
{
    static const char *const ends[] = {"endgeneration", NULL};
    const char *which;
    struct jinja_node *node = jinja_parse_node(parser, JINJA_SCOPE);
    if (!end_tag(parser)) return NULL;
    node->items = parse_scoped(parser, token, ends, &which);
    return end_tag(parser) ? node : NULL;
}

static struct jinja_node *parse_jump(struct jinja_parser *parser, const struct jinja_token *token)
{
    bool is_break = jinja_parse_is(token, JINJA_TOKEN_NAME, "break");
    struct jinja_node *node = jinja_parse_node(parser, is_break ? JINJA_BREAK : JINJA_CONTINUE);
    if (parser->loops == 0)
        jinja_parse_fail(parser, ERR_FORMAT, token, "'%s' outside of a loop",
                         is_break ? "break" : "continue");
    return end_tag(parser) ? node : NULL;
}

static struct jinja_node *parse_tag(struct jinja_parser *parser)
{
    static const struct {
        const char *name;
        struct jinja_node *(*parse)(struct jinja_parser *, const struct jinja_token *);
    } tags[] = {{"if", parse_if},           {"for", parse_for},
                {"set", parse_set},         {"macro", parse_macro},
                {"call", parse_call_block}, {"filter", parse_filter_block},
                {"with", parse_with},       {"generation", parse_generation},
                {"break", parse_jump},      {"continue", parse_jump}};
    static const char *const refused[] = {"extends", "block",      "include", "import", "from",
                                          "print",   "autoescape", "trans",   "do",     "debug"};
    parser->at++; /* {% */
    const struct jinja_token *name = jinja_parse_name(parser);
    if (failed(parser)) return NULL;
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++)
        if (jinja_parse_is(name, JINJA_TOKEN_NAME, tags[i].name)) return tags[i].parse(parser, name);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (jinja_parse_is(name, JINJA_TOKEN_NAME, refused[i]))
            jinja_parse_fail(parser, ERR_UNSUPPORTED, name, "the tag '%s' is not supported", refused[i]);
    jinja_parse_fail(parser, ERR_FORMAT, name, "unexpected tag '%.*s'",
                     (int)(name->text.length < 60 ? name->text.length : 60), name->text.bytes);
    return NULL;
}

static struct jinja_node *parse_print(struct jinja_parser *parser)
{
    char words[80];
    parser->at++; /* {{ */
    struct jinja_node *node = jinja_parse_node(parser, JINJA_PRINT);
    struct jinja_node *value = jinja_parse_tuple(parser, true);
    const struct jinja_token *token = jinja_parse_peek(parser);
    if (failed(parser)) return NULL;
    if (token->type != JINJA_TOKEN_VARIABLE_END) {
        jinja_parse_fail(parser, ERR_FORMAT, token, "expected the end of the tag, not %s",
                         token_words(token, words, sizeof words));
        return NULL;
    }
    parser->at++;
    node->left = value;
    return node;
}

static struct jinja_node *parse_statement(struct jinja_parser *parser)
{
    const struct jinja_token *token = jinja_parse_peek(parser);
    if (!jinja_parse_enter(parser)) return NULL;
    struct jinja_node *node;
    if (token->type == JINJA_TOKEN_DATA) {
        node = jinja_parse_node(parser, JINJA_DATA);
        if (node) node->value = jinja_value_text(token->text);
        parser->at++;
    } else if (token->type == JINJA_TOKEN_BLOCK_BEGIN) {
        node = parse_tag(parser);
    } else {
        assert(token->type == JINJA_TOKEN_VARIABLE_BEGIN);
        node = parse_print(parser);
    }
    parser->depth--;
    return node;
}

/* --- The whole --- */

static void add_symbols(struct jinja_parser *parser)
{
    static const char *const fixed[JINJA_SYMBOLS_FIXED] = {"loop", "caller", "varargs", "kwargs"};
    for (int i = 0; i < JINJA_SYMBOLS_FIXED; i++)
        jinja_parse_symbol(parser, (struct jinja_text){.bytes = fixed[i], .length = strlen(fixed[i])});
}

enum err jinja_compile(const char *source, size_t length, struct jinja **out, struct err_info *info)
{
    enum { COMPILED_BYTES_MAX = 64 << 20 };
    struct arena *arena = arena_create(COMPILED_BYTES_MAX);
    struct jinja *jinja = arena ? arena_alloc(arena, 1, sizeof *jinja) : NULL;
    if (!jinja) {
        arena_free(arena);
        return err_set(info, ERR_MEMORY, "no memory for the template");
    }
    jinja->arena = arena;
    struct jinja_parser parser = {.arena = arena, .jinja = jinja, .info = info};
    parser.err = jinja_lex(arena, source, length, &parser.tokens, info);
    if (!failed(&parser)) add_symbols(&parser);
    struct jinja_node **end = &jinja->body;
    while (!failed(&parser) && jinja_parse_peek(&parser)->type != JINJA_TOKEN_END) {
        *end = parse_statement(&parser);
        if (*end) end = &(*end)->next;
    }
    if (failed(&parser)) {
        arena_free(arena);
        return parser.err;
    }
    *out = jinja;
    return ERR_OK;
}

void jinja_free(struct jinja *jinja)
{
    if (jinja) arena_free(jinja->arena);
}
