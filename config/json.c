#include "config/json.h"

#include "config/json_scan.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

/* struct json is never defined: its pointers are cJSON's, seen from outside. */

const struct json_limits json_limits_default = {
    .max_bytes = (size_t)-1, .max_depth = 64, .max_values = 1 << 20};

static const cJSON *inner(const struct json *node)
{
    return (const cJSON *)node;
}

static const struct json *outer(const cJSON *item)
{
    return (const struct json *)item;
}

/* cJSON keeps a number's value and not how it was written. This bit of its type, which it neither uses nor
   minds, does. */
enum { WRITTEN_AS_FRACTION = 1 << 12 };

/* The next number of a valid text at or after at; passes over strings, which may hold digits. */
static const char *number_find(const char *at)
{
    bool inside = false;
    for (; inside || (*at != '-' && (*at < '0' || *at > '9')); at++) {
        if (inside && *at == '\\')
            at++;
        else if (*at == '"')
            inside = !inside;
    }
    return at;
}

/* Marks the numbers below item, which come in the order of the text; returns the place behind the last. The
   text ends at text_end, without a zero byte. */
static const char *fractions_mark(cJSON *item, const char *at, const char *text_end)
{
    for (cJSON *child = item->child; child; child = child->next) at = fractions_mark(child, at, text_end);
    if (!cJSON_IsNumber(item)) return at;
    at = number_find(at);
    for (; at < text_end &&
           (*at == '+' || *at == '-' || *at == '.' || *at == 'e' || *at == 'E' || (*at >= '0' && *at <= '9'));
         at++)
        if (*at == '.' || *at == 'e' || *at == 'E') item->type |= WRITTEN_AS_FRACTION;
    return at;
}

enum err json_parse(const char *text, size_t length, const struct json_limits *limits, struct json **out,
                    struct err_info *info)
{
    enum err err = json_scan(text, length, limits, info);
    if (err) return err;
    /* The scan accepts less than cJSON does, so only the heap is left to fail. */
    cJSON *root = cJSON_ParseWithLength(text, length);
    if (!root) return err_set(info, ERR_MEMORY, "JSON: not enough memory for the tree");
    fractions_mark(root, text, text + length);
    *out = (struct json *)root;
    return ERR_OK;
}

void json_free(struct json *root)
{
    cJSON_Delete((cJSON *)root);
}

enum json_type json_type(const struct json *node)
{
    switch (inner(node)->type & 0xFF) {
    case cJSON_False:
    case cJSON_True:
        return JSON_BOOL;
    case cJSON_Number:
        return JSON_NUMBER;
    case cJSON_String:
        return JSON_STRING;
    case cJSON_Array:
        return JSON_ARRAY;
    case cJSON_Object:
        return JSON_OBJECT;
    default:
        return JSON_NULL;
    }
}

const char *json_type_name(enum json_type type)
{
    static const char *const names[] = {"null", "a boolean", "a number", "a string", "an array", "an object"};
    return names[type];
}

const struct json *json_get(const struct json *node, const char *key)
{
    if (!cJSON_IsObject(inner(node))) return NULL;
    return outer(cJSON_GetObjectItemCaseSensitive(inner(node), key));
}

const struct json *json_first(const struct json *node)
{
    if (!cJSON_IsArray(inner(node)) && !cJSON_IsObject(inner(node))) return NULL;
    return outer(inner(node)->child);
}

const struct json *json_next(const struct json *node)
{
    return outer(inner(node)->next);
}

const char *json_key(const struct json *node)
{
    return inner(node)->string;
}

const struct json *json_at(const struct json *node, size_t i)
{
    if (!cJSON_IsArray(inner(node))) return NULL;
    const struct json *element = json_first(node);
    while (element && i-- > 0) element = json_next(element);
    return element;
}

size_t json_length(const struct json *node)
{
    size_t n = 0;
    for (const struct json *element = json_first(node); element; element = json_next(element)) n++;
    return n;
}

bool json_bool(const struct json *node)
{
    assert(json_type(node) == JSON_BOOL);
    return cJSON_IsTrue(inner(node));
}

double json_number(const struct json *node)
{
    assert(json_type(node) == JSON_NUMBER);
    return inner(node)->valuedouble;
}

const char *json_string(const struct json *node, size_t *length)
{
    assert(json_type(node) == JSON_STRING);
    if (length) *length = strlen(inner(node)->valuestring);
    return inner(node)->valuestring;
}

bool json_is_integer(const struct json *node)
{
    if (json_type(node) != JSON_NUMBER) return false;
    double value = json_number(node);
    return value == trunc(value) && fabs(value) < 9007199254740992.0; /* 2^53: from there on double skips */
}

int64_t json_int64(const struct json *node)
{
    assert(json_is_integer(node));
    return (int64_t)json_number(node);
}

bool json_is_fraction(const struct json *node)
{
    return json_type(node) == JSON_NUMBER && (inner(node)->type & WRITTEN_AS_FRACTION) != 0;
}
