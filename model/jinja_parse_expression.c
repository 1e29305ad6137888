#include "model/jinja_builtin.h"
#include "model/jinja_node.h"

#include <string.h>

/*
 * Jinja2's own precedence, from the loosest: condition, or, and, not, comparison, + -, ~, * / // %, **, sign,
 * and what follows a primary: .name [index] (call) |filter is test.
 */
static struct jinja_node *parse_or(struct jinja_parser *parser);
static struct jinja_node *parse_unary(struct jinja_parser *parser, bool with_filter);

static bool is_op(struct jinja_parser *parser, const char *text)
{
    return jinja_parse_is(jinja_parse_peek(parser), JINJA_TOKEN_OPERATOR, text);
}

static bool skip_op(struct jinja_parser *parser, const char *text)
{
    return jinja_parse_skip(parser, JINJA_TOKEN_OPERATOR, text);
}

static bool expect_op(struct jinja_parser *parser, const char *text)
{
    return jinja_parse_expect(parser, JINJA_TOKEN_OPERATOR, text);
}

static bool is_word(struct jinja_parser *parser, const char *text)
{
    return jinja_parse_is(jinja_parse_peek(parser), JINJA_TOKEN_NAME, text);
}

static bool failed(const struct jinja_parser *parser)
{
    return parser->err != ERR_OK;
}

static struct jinja_node *constant(struct jinja_parser *parser, struct jinja_value value)
{
    struct jinja_node *node = jinja_parse_node(parser, JINJA_CONST);
    if (node) node->value = value;
    return node;
}

/* A node over one or two others. */
static struct jinja_node *joined(struct jinja_parser *parser, enum jinja_kind kind, int line,
                                 struct jinja_node *left, struct jinja_node *right)
{
    struct jinja_node *node = jinja_parse_node(parser, kind);
    if (!node) return NULL;
    node->line = line;
    node->left = left;
    node->right = right;
    return node;
}

/* --- Primaries --- */

/* "true", "False", "none" ...: the value that the name stands for; type JINJA_MISSING: an ordinary name. */
static struct jinja_value named_constant(struct jinja_text text)
{
    struct jinja_value name = jinja_value_text(text);
    if (jinja_value_is_text(&name, "true") || jinja_value_is_text(&name, "True"))
        return jinja_value_bool(true);
    if (jinja_value_is_text(&name, "false") || jinja_value_is_text(&name, "False"))
        return jinja_value_bool(false);
    if (jinja_value_is_text(&name, "none") || jinja_value_is_text(&name, "None")) return jinja_value_none();
    return (struct jinja_value){.type = JINJA_MISSING};
}

static struct jinja_node *parse_name(struct jinja_parser *parser)
{
    const struct jinja_token *token = jinja_parse_name(parser);
    struct jinja_value value = named_constant(token->text);
    if (value.type != JINJA_MISSING) return constant(parser, value);
    struct jinja_node *node = jinja_parse_node(parser, JINJA_NAME);
    if (!node) return NULL;
    node->symbol = jinja_parse_symbol(parser, token->text);
    if (parser->macro && node->symbol == JINJA_SYMBOL_CALLER) parser->macro->uses_caller = true;
    if (parser->macro && node->symbol == JINJA_SYMBOL_VARARGS) parser->macro->uses_varargs = true;
    if (parser->macro && node->symbol == JINJA_SYMBOL_KWARGS) parser->macro->uses_kwargs = true;
    return node;
}

/* Strings that stand side by side are one. */
static struct jinja_node *parse_string(struct jinja_parser *parser)
{
    struct jinja_builder text;
    jinja_builder_init(&text, parser->arena, SIZE_MAX);
    struct jinja_node *node = constant(parser, jinja_value_text(jinja_parse_peek(parser)->text));
    int n = 0;
    for (; jinja_parse_peek(parser)->type == JINJA_TOKEN_STRING; parser->at++, n++)
        jinja_builder_add(&text, jinja_parse_peek(parser)->text);
    if (node && n > 1) node->value = jinja_value_text(jinja_builder_text(&text));
    if (node) node->value.text.literal = true;
    return node;
}

static struct jinja_node *parse_list(struct jinja_parser *parser)
{
    struct jinja_node *node = jinja_parse_node(parser, JINJA_ARRAY);
    expect_op(parser, "[");
    for (struct jinja_node **end = node ? &node->items : NULL; !failed(parser) && !is_op(parser, "]");) {
        if (node->items && !expect_op(parser, ",")) break;
        if (is_op(parser, "]")) break;
        *end = jinja_parse_expression(parser, true);
        if (*end) end = &(*end)->next;
    }
    expect_op(parser, "]");
    return node;
}

static struct jinja_node *parse_dict(struct jinja_parser *parser)
{
    struct jinja_node *node = jinja_parse_node(parser, JINJA_TABLE);
    expect_op(parser, "{");
    for (struct jinja_node **end = node ? &node->items : NULL; !failed(parser) && !is_op(parser, "}");) {
        if (node->items && !expect_op(parser, ",")) break;
        if (is_op(parser, "}")) break;
        struct jinja_node *entry = jinja_parse_node(parser, JINJA_ENTRY);
        struct jinja_node *key = jinja_parse_expression(parser, true);
        expect_op(parser, ":");
        struct jinja_node *value = jinja_parse_expression(parser, true);
        if (failed(parser)) break;
        entry->left = key;
        entry->right = value;
        *end = entry;
        end = &entry->next;
    }
    expect_op(parser, "}");
    return node;
}

static struct jinja_node *parse_brackets(struct jinja_parser *parser)
{
    expect_op(parser, "(");
    struct jinja_node *node =
        is_op(parser, ")") ? jinja_parse_node(parser, JINJA_TUPLE) : jinja_parse_tuple(parser, true);
    expect_op(parser, ")");
    return node;
}

static struct jinja_node *parse_primary(struct jinja_parser *parser)
{
    const struct jinja_token *token = jinja_parse_peek(parser);
    switch (token->type) {
    case JINJA_TOKEN_NAME:
        return parse_name(parser);
    case JINJA_TOKEN_STRING:
        return parse_string(parser);
    case JINJA_TOKEN_INTEGER:
        parser->at++;
        return constant(parser, jinja_value_int(token->integer));
    case JINJA_TOKEN_FLOAT:
        parser->at++;
        return constant(parser, jinja_value_float(token->real));
    default:
        break;
    }
    if (is_op(parser, "(")) return parse_brackets(parser);
    if (is_op(parser, "[")) return parse_list(parser);
    if (is_op(parser, "{")) return parse_dict(parser);
    if (token->type == JINJA_TOKEN_OPERATOR)
        jinja_parse_fail(parser, ERR_FORMAT, token, "unexpected '%.*s'", (int)token->text.length,
                         token->text.bytes);
    else
        jinja_parse_fail(parser, ERR_FORMAT, token, "an expression is missing");
    return NULL;
}

/* --- What follows a primary --- */

bool jinja_parse_arguments(struct jinja_parser *parser, struct jinja_node *node)
{
    struct jinja_node **end = &node->items;
    bool keywords = false;
    expect_op(parser, "(");
    while (!failed(parser) && !is_op(parser, ")")) {
        if (node->items && !expect_op(parser, ",")) break;
        if (is_op(parser, ")")) break;
        const struct jinja_token *token = jinja_parse_peek(parser);
        if (is_op(parser, "*") || is_op(parser, "**"))
            return jinja_parse_fail(parser, ERR_UNSUPPORTED, token,
                                    "calls with *arguments or **arguments are not supported");
        struct jinja_node *item;
        if (token->type == JINJA_TOKEN_NAME && jinja_parse_is(token + 1, JINJA_TOKEN_OPERATOR, "=")) {
            item = jinja_parse_node(parser, JINJA_KEYWORD);
            parser->at += 2;
            struct jinja_node *value = jinja_parse_expression(parser, true);
            if (failed(parser)) break;
            item->value = jinja_value_text(token->text);
            item->left = value;
            keywords = true;
        } else if (keywords) {
            return jinja_parse_fail(parser, ERR_FORMAT, token,
                                    "an argument without a name comes after one "
                                    "with a name");
        } else {
            item = jinja_parse_expression(parser, true);
        }
        *end = item;
        if (item) end = &item->next;
    }
    return expect_op(parser, ")");
}

static struct jinja_node *parse_call(struct jinja_parser *parser, struct jinja_node *callee)
{
    const struct jinja_token *token = jinja_parse_peek(parser);
    struct jinja_node *node = jinja_parse_node(parser, JINJA_CALL);
    if (!node) return NULL;
    node->left = callee;
    const char *refused = jinja_builtin_refuses_call(parser->jinja, callee);
    if (refused) jinja_parse_fail(parser, ERR_UNSUPPORTED, token, "%s is not supported", refused);
    jinja_parse_arguments(parser, node);
    return node;
}

/* [start:stop:step]; first is what stands before the colon, or NULL. */
static struct jinja_node *parse_slice(struct jinja_parser *parser, struct jinja_node *of,
                                      struct jinja_node *first)
{
    struct jinja_node *node = jinja_parse_node(parser, JINJA_SLICE);
    struct jinja_node *parts[3] = {first, NULL, NULL};
    for (int i = 1; i < 3 && skip_op(parser, ":"); i++)
        if (!is_op(parser, ":") && !is_op(parser, "]")) parts[i] = jinja_parse_expression(parser, true);
    for (int i = 0; i < 3; i++)
        if (!parts[i]) parts[i] = constant(parser, jinja_value_none());
    if (failed(parser)) return NULL;
    node->left = of;
    node->items = parts[0];
    parts[0]->next = parts[1];
    parts[1]->next = parts[2];
    return node;
}

static struct jinja_node *parse_subscript(struct jinja_parser *parser, struct jinja_node *of)
{
    int line = of ? of->line : 0;
    expect_op(parser, "[");
    struct jinja_node *first = is_op(parser, ":") ? NULL : jinja_parse_expression(parser, true);
    struct jinja_node *node;
    if (is_op(parser, ":"))
        node = parse_slice(parser, of, first);
    else
        node = joined(parser, JINJA_GETITEM, line, of, first);
    if (is_op(parser, ","))
        jinja_parse_fail(parser, ERR_UNSUPPORTED, jinja_parse_peek(parser),
                         "an index of several parts is not supported");
    expect_op(parser, "]");
    return node;
}

static struct jinja_node *parse_attribute(struct jinja_parser *parser, struct jinja_node *of)
{
    const struct jinja_token *token;
    expect_op(parser, ".");
    token = jinja_parse_peek(parser);
    if (token->type == JINJA_TOKEN_INTEGER) {
        parser->at++;
        return joined(parser, JINJA_GETITEM, of ? of->line : 0, of,
                      constant(parser, jinja_value_int(token->integer)));
    }
    token = jinja_parse_name(parser);
    struct jinja_node *node = jinja_parse_node(parser, JINJA_GETATTR);
    if (!node) return NULL;
    node->left = of;
    node->value = jinja_value_text(token->text);
    return node;
}

static struct jinja_node *parse_postfix(struct jinja_parser *parser, struct jinja_node *node)
{
    while (!failed(parser)) {
        if (is_op(parser, "."))
            node = parse_attribute(parser, node);
        else if (is_op(parser, "["))
            node = parse_subscript(parser, node);
        else if (is_op(parser, "("))
            node = parse_call(parser, node);
        else
            break;
    }
    return node;
}

struct jinja_node *jinja_parse_filters(struct jinja_parser *parser, struct jinja_node *left, bool named)
{
    while (!failed(parser) && (named || skip_op(parser, "|"))) {
        const struct jinja_token *token = jinja_parse_name(parser);
        struct jinja_node *node = jinja_parse_node(parser, JINJA_FILTERED);
        if (!node) return NULL;
        named = false;
        node->left = left;
        node->value = jinja_value_text(token->text);
        node->filter = jinja_builtin_filter(token->text);
        if (!node->filter && jinja_builtin_refuses_filter(token->text))
            jinja_parse_fail(parser, ERR_UNSUPPORTED, token, "the filter '%.*s' is not supported",
                             (int)token->text.length, token->text.bytes);
        else if (!node->filter && !parser->soft)
            jinja_parse_fail(parser, ERR_UNSUPPORTED, token, "there is no filter '%.*s'",
                             (int)token->text.length, token->text.bytes);
        if (is_op(parser, "(")) jinja_parse_arguments(parser, node);
        left = node;
    }
    return left;
}

/* After "is": [not] name, and at most one argument without brackets. */
static struct jinja_node *parse_test(struct jinja_parser *parser, struct jinja_node *left)
{
    jinja_parse_expect(parser, JINJA_TOKEN_NAME, "is");
    bool negated = jinja_parse_skip(parser, JINJA_TOKEN_NAME, "not");
    const struct jinja_token *token = jinja_parse_name(parser);
    struct jinja_node *node = jinja_parse_node(parser, JINJA_TESTED);
    if (!node) return NULL;
    node->left = left;
    node->value = jinja_value_text(token->text);
    node->tester = jinja_builtin_test(token->text);
    if (!node->tester && !parser->soft)
        jinja_parse_fail(parser, ERR_UNSUPPORTED, token, "there is no test '%.*s'", (int)token->text.length,
                         token->text.bytes);
    const struct jinja_token *next = jinja_parse_peek(parser);
    if (is_op(parser, "(")) {
        jinja_parse_arguments(parser, node);
    } else if (is_word(parser, "is")) {
        jinja_parse_fail(parser, ERR_FORMAT, next, "tests cannot be chained with `is`");
    } else if ((next->type == JINJA_TOKEN_NAME && !is_word(parser, "else") && !is_word(parser, "or") &&
                !is_word(parser, "and")) ||
               next->type == JINJA_TOKEN_STRING || next->type == JINJA_TOKEN_INTEGER ||
               next->type == JINJA_TOKEN_FLOAT || is_op(parser, "[") || is_op(parser, "{")) {
        node->items = parse_postfix(parser, parse_primary(parser));
    }
    return negated ? joined(parser, JINJA_NOT, node->line, node, NULL) : node;
}

static struct jinja_node *parse_suffixes(struct jinja_parser *parser, struct jinja_node *node)
{
    while (!failed(parser)) {
        if (is_op(parser, "|"))
            node = jinja_parse_filters(parser, node, false);
        else if (is_word(parser, "is"))
            node = parse_test(parser, node);
        else if (is_op(parser, "("))
            node = parse_call(parser, node);
        else
            break;
    }
    return node;
}

/* --- Operators --- */

static struct jinja_node *parse_unary(struct jinja_parser *parser, bool with_filter)
{
    struct jinja_node *node;
    int line = 0;
    if (!jinja_parse_enter(parser)) return NULL;
    if (is_op(parser, "-") || is_op(parser, "+")) {
        enum jinja_kind kind = is_op(parser, "-") ? JINJA_NEGATE : JINJA_PLUS;
        parser->at++;
        node = parse_unary(parser, false);
        if (node) line = node->line;
        node = joined(parser, kind, line, node, NULL);
    } else {
        node = parse_primary(parser);
    }
    node = parse_postfix(parser, node);
    if (with_filter) node = parse_suffixes(parser, node);
    parser->depth--;
    return node;
}

struct level {
    struct {
        const char *text;
        enum jinja_operation operation;
    } operators[4];
};

static const struct level power = {{{"**", JINJA_POWER}}};
static const struct level product = {
    {{"*", JINJA_MULTIPLY}, {"/", JINJA_DIVIDE}, {"//", JINJA_FLOOR_DIVIDE}, {"%", JINJA_MODULO}}};
static const struct level sum = {{{"+", JINJA_ADD}, {"-", JINJA_SUBTRACT}}};

/* The operation whose operator comes next; false: none of this level. */
static bool take_operation(struct jinja_parser *parser, const struct level *level, enum jinja_operation *out)
{
    for (int i = 0; i < 4 && level->operators[i].text; i++) {
        if (!skip_op(parser, level->operators[i].text)) continue;
        *out = level->operators[i].operation;
        return true;
    }
    return false;
}

static struct jinja_node *binary(struct jinja_parser *parser, enum jinja_operation operation,
                                 struct jinja_node *left, struct jinja_node *right)
{
    if (failed(parser)) return NULL;
    struct jinja_node *node = joined(parser, JINJA_BINARY, left->line, left, right);
    if (node) node->operation = operation;
    return node;
}

static struct jinja_node *parse_power(struct jinja_parser *parser)
{
    enum jinja_operation operation;
    struct jinja_node *left = parse_unary(parser, true);
    while (!failed(parser) && take_operation(parser, &power, &operation))
        left = binary(parser, operation, left, parse_unary(parser, true));
    return left;
}

static struct jinja_node *parse_product(struct jinja_parser *parser)
{
    enum jinja_operation operation;
    struct jinja_node *left = parse_power(parser);
    while (!failed(parser) && take_operation(parser, &product, &operation))
        left = binary(parser, operation, left, parse_power(parser));
    return left;
}

static struct jinja_node *parse_concat(struct jinja_parser *parser)
{
    struct jinja_node *first = parse_product(parser);
    if (failed(parser) || !is_op(parser, "~")) return first;
    struct jinja_node *node = joined(parser, JINJA_CONCAT, first->line, NULL, NULL), *last = first;
    while (!failed(parser) && skip_op(parser, "~")) {
        last->next = parse_product(parser);
        if (last->next) last = last->next;
    }
    if (node) node->items = first;
    return node;
}

static struct jinja_node *parse_sum(struct jinja_parser *parser)
{
    enum jinja_operation operation;
    struct jinja_node *left = parse_concat(parser);
    while (!failed(parser) && take_operation(parser, &sum, &operation))
        left = binary(parser, operation, left, parse_concat(parser));
    return left;
}

static bool take_comparison(struct jinja_parser *parser, enum jinja_operation *out)
{
    static const struct {
        const char *text;
        enum jinja_operation operation;
    } comparisons[] = {{"==", JINJA_EQUAL},      {"!=", JINJA_NOT_EQUAL}, {"<", JINJA_LESS},
                       {"<=", JINJA_LESS_EQUAL}, {">", JINJA_GREATER},    {">=", JINJA_GREATER_EQUAL}};
    for (size_t i = 0; i < sizeof comparisons / sizeof comparisons[0]; i++) {
        if (!skip_op(parser, comparisons[i].text)) continue;
        *out = comparisons[i].operation;
        return true;
    }
    *out = JINJA_IN;
    if (jinja_parse_skip(parser, JINJA_TOKEN_NAME, "in")) return true;
    if (!is_word(parser, "not") || !jinja_parse_is(jinja_parse_peek(parser) + 1, JINJA_TOKEN_NAME, "in"))
        return false;
    parser->at += 2;
    *out = JINJA_NOT_IN;
    return true;
}

static struct jinja_node *parse_comparison(struct jinja_parser *parser)
{
    struct jinja_node *left = parse_sum(parser), *node = NULL, **end = NULL;
    enum jinja_operation operation;
    while (!failed(parser) && take_comparison(parser, &operation)) {
        struct jinja_node *right = parse_sum(parser);
        struct jinja_node *compared = joined(parser, JINJA_COMPARED, left ? left->line : 0, right, NULL);
        if (!node) {
            node = joined(parser, JINJA_COMPARE, left ? left->line : 0, left, NULL);
            end = node ? &node->items : NULL;
        }
        if (failed(parser)) return NULL;
        compared->operation = operation;
        *end = compared;
        end = &compared->next;
    }
    return node ? node : left;
}

static struct jinja_node *parse_not(struct jinja_parser *parser)
{
    if (!is_word(parser, "not")) return parse_comparison(parser);
    if (!jinja_parse_enter(parser)) return NULL;
    parser->at++;
    struct jinja_node *node = parse_not(parser);
    parser->depth--;
    return failed(parser) ? NULL : joined(parser, JINJA_NOT, node->line, node, NULL);
}

static struct jinja_node *parse_and(struct jinja_parser *parser)
{
    struct jinja_node *left = parse_not(parser);
    while (!failed(parser) && jinja_parse_skip(parser, JINJA_TOKEN_NAME, "and"))
        left = joined(parser, JINJA_AND, left->line, left, parse_not(parser));
    return left;
}

static struct jinja_node *parse_or(struct jinja_parser *parser)
{
    struct jinja_node *left = parse_and(parser);
    while (!failed(parser) && jinja_parse_skip(parser, JINJA_TOKEN_NAME, "or"))
        left = joined(parser, JINJA_OR, left->line, left, parse_and(parser));
    return left;
}

/* Whether an `if` comes that makes the expression in front of it conditional: Jinja2 looks at what is inside
   with softer eyes, so it has to be known before. */
static bool condition_follows(const struct jinja_parser *parser)
{
    int nested = 0;
    for (size_t i = parser->at; i < parser->tokens.n; i++) {
        const struct jinja_token *token = &parser->tokens.tokens[i];
        if (token->type == JINJA_TOKEN_BLOCK_END || token->type == JINJA_TOKEN_VARIABLE_END) return false;
        if (token->type == JINJA_TOKEN_NAME && nested == 0 && jinja_parse_is(token, JINJA_TOKEN_NAME, "if"))
            return true;
        if (token->type != JINJA_TOKEN_OPERATOR) continue;
        if (strchr("([{", token->text.bytes[0])) nested++;
        if (strchr(")]}", token->text.bytes[0]) && nested-- == 0) return false;
        if (token->text.bytes[0] == ',' && nested == 0) return false;
    }
    return false;
}

struct jinja_node *jinja_parse_expression(struct jinja_parser *parser, bool with_condition)
{
    if (!jinja_parse_enter(parser)) return NULL;
    bool soft = parser->soft;
    if (with_condition && !soft) parser->soft = condition_follows(parser);
    struct jinja_node *node = parse_or(parser);
    while (with_condition && !failed(parser) && jinja_parse_skip(parser, JINJA_TOKEN_NAME, "if")) {
        struct jinja_node *condition = parse_or(parser), *other = NULL;
        if (jinja_parse_skip(parser, JINJA_TOKEN_NAME, "else")) other = jinja_parse_expression(parser, true);
        if (failed(parser)) break;
        struct jinja_node *cond = joined(parser, JINJA_COND, node->line, condition, NULL);
        if (!cond) break;
        cond->items = node;
        node->next = other;
        node = cond;
    }
    parser->soft = soft;
    parser->depth--;
    return node;
}

/* What cannot begin another element of a tuple. */
static bool tuple_ends(struct jinja_parser *parser)
{
    enum jinja_token_type type = jinja_parse_peek(parser)->type;
    return type == JINJA_TOKEN_VARIABLE_END || type == JINJA_TOKEN_BLOCK_END || is_op(parser, ")") ||
           is_word(parser, "in");
}

struct jinja_node *jinja_parse_tuple(struct jinja_parser *parser, bool with_condition)
{
    struct jinja_node *first = jinja_parse_expression(parser, with_condition), *last = first;
    if (failed(parser) || !is_op(parser, ",")) return first;
    struct jinja_node *node = joined(parser, JINJA_TUPLE, first->line, NULL, NULL);
    while (!failed(parser) && skip_op(parser, ",") && !tuple_ends(parser)) {
        last->next = jinja_parse_expression(parser, with_condition);
        if (last->next) last = last->next;
    }
    if (node) node->items = first;
    return node;
}

/* --- Targets and signatures --- */

static struct jinja_node *parse_target_one(struct jinja_parser *parser, bool with_namespace)
{
    if (skip_op(parser, "(")) {
        if (!jinja_parse_enter(parser)) return NULL;
        struct jinja_node *inner = jinja_parse_target(parser, false);
        parser->depth--;
        expect_op(parser, ")");
        return inner;
    }
    const struct jinja_token *token = jinja_parse_name(parser);
    struct jinja_node *node = jinja_parse_node(parser, JINJA_NAME);
    if (!node) return NULL;
    if (named_constant(token->text).type != JINJA_MISSING)
        jinja_parse_fail(parser, ERR_FORMAT, token, "cannot assign to '%.*s'", (int)token->text.length,
                         token->text.bytes);
    node->symbol = jinja_parse_symbol(parser, token->text);
    if (with_namespace && skip_op(parser, ".")) {
        node->kind = JINJA_NAMESPACE_TARGET;
        node->value = jinja_value_text(jinja_parse_name(parser)->text);
        if (node->value.text.length > 0 && node->value.text.bytes[0] == '_')
            jinja_parse_fail(parser, ERR_FORMAT, token, "a namespace takes no names that begin with _");
    }
    return node;
}

struct jinja_node *jinja_parse_target(struct jinja_parser *parser, bool with_namespace)
{
    struct jinja_node *first = parse_target_one(parser, with_namespace), *last = first;
    if (failed(parser) || !is_op(parser, ",")) return first;
    struct jinja_node *node = joined(parser, JINJA_TUPLE, first->line, NULL, NULL);
    while (!failed(parser) && skip_op(parser, ",") && !tuple_ends(parser)) {
        last->next = parse_target_one(parser, with_namespace);
        if (last->next) last = last->next;
    }
    if (node) node->items = first;
    return node;
}

bool jinja_parse_signature(struct jinja_parser *parser, struct jinja_node *node)
{
    struct jinja_node **end = &node->others;
    bool defaults = false;
    expect_op(parser, "(");
    while (!failed(parser) && !is_op(parser, ")")) {
        if (node->others && !expect_op(parser, ",")) break;
        const struct jinja_token *token = jinja_parse_name(parser);
        struct jinja_node *parameter = jinja_parse_node(parser, JINJA_PARAMETER);
        if (!parameter) return false;
        parameter->symbol = jinja_parse_symbol(parser, token->text);
        parameter->value = jinja_value_text(token->text);
        if (skip_op(parser, "=")) {
            parameter->left = jinja_parse_expression(parser, true);
            defaults = true;
        } else if (defaults) {
            jinja_parse_fail(parser, ERR_FORMAT, token,
                             "a parameter without a default comes after one with it");
        }
        *end = parameter;
        end = &parameter->next;
    }
    return expect_op(parser, ")");
}
