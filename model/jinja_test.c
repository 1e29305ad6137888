#include "config/utf8.h"
#include "model/jinja_builtin.h"

#include <string.h>

/*
 * What stands after `is`.
 */
#define TEST(name)                                                                                           \
    static bool name(struct jinja_run *run, const struct jinja_value *value,                                 \
                     const struct jinja_value *argument)
#define UNUSED (void)run, (void)argument

TEST(test_defined)
{
    UNUSED;
    return value->type != JINJA_UNDEFINED;
}

TEST(test_undefined)
{
    UNUSED;
    return value->type == JINJA_UNDEFINED;
}

TEST(test_none)
{
    UNUSED;
    return value->type == JINJA_NONE;
}

TEST(test_boolean)
{
    UNUSED;
    return value->type == JINJA_BOOL;
}

TEST(test_true)
{
    UNUSED;
    return value->type == JINJA_BOOL && value->boolean;
}

TEST(test_false)
{
    UNUSED;
    return value->type == JINJA_BOOL && !value->boolean;
}

TEST(test_integer)
{
    UNUSED;
    return value->type == JINJA_INT;
}

TEST(test_float)
{
    UNUSED;
    return value->type == JINJA_FLOAT;
}

TEST(test_number)
{
    UNUSED;
    return jinja_value_is_number(value);
}

TEST(test_string)
{
    UNUSED;
    return value->type == JINJA_STRING;
}

TEST(test_mapping)
{
    UNUSED;
    return value->type == JINJA_DICT;
}

/* Python asks for a length and for indexes. */
TEST(test_sequence)
{
    UNUSED;
    return value->type == JINJA_STRING || value->type == JINJA_DICT || value->type == JINJA_UNDEFINED ||
           (value->type == JINJA_LIST && value->list->kind < JINJA_LIST_VIEW);
}

TEST(test_iterable)
{
    UNUSED;
    return value->type == JINJA_STRING || value->type == JINJA_DICT || value->type == JINJA_UNDEFINED ||
           value->type == JINJA_LIST || value->type == JINJA_LOOP;
}

TEST(test_callable)
{
    UNUSED;
    return value->type == JINJA_MACRO || value->type == JINJA_FUNCTION || value->type == JINJA_METHOD ||
           value->type == JINJA_LOOP || value->type == JINJA_UNDEFINED;
}

TEST(test_escaped)
{
    UNUSED;
    return value->type == JINJA_STRING && value->markup;
}

static bool in_case(struct jinja_run *run, const struct jinja_value *value, bool upper)
{
    struct jinja_value text = jinja_str(run, *value);
    bool any = false;
    for (size_t at = 0, size; !jinja_failed(run) && at < text.text.length; at += size) {
        uint32_t code = utf8_decode(text.text.bytes + at, &size);
        if (upper ? jinja_char_is_lower(code) : jinja_char_is_upper(code)) return false;
        any = any || (upper ? jinja_char_is_upper(code) : jinja_char_is_lower(code));
    }
    return any;
}

TEST(test_lower)
{
    UNUSED;
    return in_case(run, value, false);
}

TEST(test_upper)
{
    UNUSED;
    return in_case(run, value, true);
}

static bool remainder_is(struct jinja_run *run, const struct jinja_value *value, int64_t by, int64_t wanted)
{
    struct jinja_value rest = jinja_binary(run, JINJA_MODULO, *value, jinja_value_int(by));
    struct jinja_value want = jinja_value_int(wanted);
    return !jinja_failed(run) && jinja_value_equal(&rest, &want);
}

TEST(test_odd)
{
    UNUSED;
    return remainder_is(run, value, 2, 1);
}

TEST(test_even)
{
    UNUSED;
    return remainder_is(run, value, 2, 0);
}

TEST(test_divisibleby)
{
    struct jinja_value rest = jinja_binary(run, JINJA_MODULO, *value, *argument), zero = jinja_value_int(0);
    return !jinja_failed(run) && jinja_value_equal(&rest, &zero);
}

TEST(test_equal)
{
    return jinja_compare(run, JINJA_EQUAL, value, argument);
}

TEST(test_not_equal)
{
    return jinja_compare(run, JINJA_NOT_EQUAL, value, argument);
}

TEST(test_less)
{
    return jinja_compare(run, JINJA_LESS, value, argument);
}

TEST(test_less_equal)
{
    return jinja_compare(run, JINJA_LESS_EQUAL, value, argument);
}

TEST(test_greater)
{
    return jinja_compare(run, JINJA_GREATER, value, argument);
}

TEST(test_greater_equal)
{
    return jinja_compare(run, JINJA_GREATER_EQUAL, value, argument);
}

TEST(test_in)
{
    return jinja_compare(run, JINJA_IN, value, argument);
}

TEST(test_sameas)
{
    UNUSED;
    return value->type == argument->type && jinja_value_equal(value, argument) &&
           (value->type != JINJA_LIST || value->list == argument->list) &&
           (value->type != JINJA_DICT || value->dict == argument->dict);
}

TEST(test_filter)
{
    UNUSED;
    return value->type == JINJA_STRING && jinja_builtin_filter(value->text);
}

TEST(test_test)
{
    UNUSED;
    return value->type == JINJA_STRING && jinja_builtin_test(value->text);
}

static const struct jinja_test tests[] = {
    {"defined", test_defined, 0},
    {"undefined", test_undefined, 0},
    {"none", test_none, 0},
    {"boolean", test_boolean, 0},
    {"true", test_true, 0},
    {"false", test_false, 0},
    {"integer", test_integer, 0},
    {"float", test_float, 0},
    {"number", test_number, 0},
    {"string", test_string, 0},
    {"mapping", test_mapping, 0},
    {"sequence", test_sequence, 0},
    {"iterable", test_iterable, 0},
    {"callable", test_callable, 0},
    {"escaped", test_escaped, 0},
    {"lower", test_lower, 0},
    {"upper", test_upper, 0},
    {"odd", test_odd, 0},
    {"even", test_even, 0},
    {"divisibleby", test_divisibleby, 1},
    {"==", test_equal, 1},
    {"eq", test_equal, 1},
    {"equalto", test_equal, 1},
    {"!=", test_not_equal, 1},
    {"ne", test_not_equal, 1},
    {"<", test_less, 1},
    {"lt", test_less, 1},
    {"lessthan", test_less, 1},
    {"<=", test_less_equal, 1},
    {"le", test_less_equal, 1},
    {">", test_greater, 1},
    {"gt", test_greater, 1},
    {"greaterthan", test_greater, 1},
    {">=", test_greater_equal, 1},
    {"ge", test_greater_equal, 1},
    {"in", test_in, 1},
    {"sameas", test_sameas, 1},
    {"filter", test_filter, 0},
    {"test", test_test, 0},
};

const struct jinja_test *jinja_builtin_test(struct jinja_text name)
{
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        if (name.length == strlen(tests[i].name) && memcmp(name.bytes, tests[i].name, name.length) == 0)
            return &tests[i];
    return NULL;
}
