#include "model/schema_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * The keywords of draft 2020-12: which octavo enforces, which say nothing of an instance (annotations), and
 * which it refuses. A keyword that is in no list is refused: a client that misspells "minLenght" or asks for
 * more than octavo enforces learns of it, and gets no text that breaks the rule it believed in. Names that
 * begin with "x-" are notes by convention (OpenAPI).
 */

enum shape {
    SHAPE_NOTE, /* anything, and it says nothing of instances */
    SHAPE_ANY,
    SHAPE_STRING,
    SHAPE_NUMBER,
    SHAPE_COUNT,
    SHAPE_BOOL,
    SHAPE_SCHEMA,
    SHAPE_SCHEMAS,
    SHAPE_SCHEMA_MAP,
    SHAPE_STRINGS,
    SHAPE_STRINGS_MAP,
    SHAPE_VALUES,
    SHAPE_TYPE,
    SHAPE_REFUSED,
};

struct keyword {
    const char *name;
    enum shape shape;
    const char *reason; /* SHAPE_REFUSED */
};

/* Sorted by name. */
static const struct keyword keywords[] = {
    {"$anchor", SHAPE_STRING, NULL},
    {"$comment", SHAPE_NOTE, NULL},
    {"$defs", SHAPE_SCHEMA_MAP, NULL},
    {"$dynamicAnchor", SHAPE_STRING, NULL},
    {"$dynamicRef", SHAPE_REFUSED, "what it refers to depends on the path of evaluation"},
    {"$id", SHAPE_STRING, NULL},
    {"$ref", SHAPE_STRING, NULL},
    {"$schema", SHAPE_NOTE, NULL},
    {"$vocabulary", SHAPE_NOTE, NULL},
    {"additionalProperties", SHAPE_SCHEMA, NULL},
    {"allOf", SHAPE_SCHEMAS, NULL},
    {"anyOf", SHAPE_SCHEMAS, NULL},
    {"const", SHAPE_ANY, NULL},
    {"contains", SHAPE_SCHEMA, NULL},
    {"contentEncoding", SHAPE_NOTE, NULL},
    {"contentMediaType", SHAPE_NOTE, NULL},
    {"contentSchema", SHAPE_NOTE, NULL},
    {"default", SHAPE_NOTE, NULL},
    {"definitions", SHAPE_SCHEMA_MAP, NULL},
    {"dependentRequired", SHAPE_STRINGS_MAP, NULL},
    {"dependentSchemas", SHAPE_SCHEMA_MAP, NULL},
    {"deprecated", SHAPE_NOTE, NULL},
    {"description", SHAPE_NOTE, NULL},
    {"else", SHAPE_SCHEMA, NULL},
    {"enum", SHAPE_VALUES, NULL},
    {"example", SHAPE_NOTE, NULL},
    {"examples", SHAPE_NOTE, NULL},
    {"exclusiveMaximum", SHAPE_NUMBER, NULL},
    {"exclusiveMinimum", SHAPE_NUMBER, NULL},
    {"format", SHAPE_STRING, NULL},
    {"if", SHAPE_SCHEMA, NULL},
    {"items", SHAPE_SCHEMA, NULL},
    {"maxContains", SHAPE_COUNT, NULL},
    {"maxItems", SHAPE_COUNT, NULL},
    {"maxLength", SHAPE_COUNT, NULL},
    {"maxProperties", SHAPE_COUNT, NULL},
    {"maximum", SHAPE_NUMBER, NULL},
    {"minContains", SHAPE_COUNT, NULL},
    {"minItems", SHAPE_COUNT, NULL},
    {"minLength", SHAPE_COUNT, NULL},
    {"minProperties", SHAPE_COUNT, NULL},
    {"minimum", SHAPE_NUMBER, NULL},
    {"multipleOf", SHAPE_NUMBER, NULL},
    {"not", SHAPE_SCHEMA, NULL},
    {"oneOf", SHAPE_SCHEMAS, NULL},
    {"pattern", SHAPE_STRING, NULL},
    {"patternProperties", SHAPE_SCHEMA_MAP, NULL},
    {"prefixItems", SHAPE_SCHEMAS, NULL},
    {"properties", SHAPE_SCHEMA_MAP, NULL},
    {"propertyNames", SHAPE_SCHEMA, NULL},
    {"readOnly", SHAPE_NOTE, NULL},
    {"required", SHAPE_STRINGS, NULL},
    {"then", SHAPE_SCHEMA, NULL},
    {"title", SHAPE_NOTE, NULL},
    {"type", SHAPE_TYPE, NULL},
    {"unevaluatedItems", SHAPE_SCHEMA, NULL},
    {"unevaluatedProperties", SHAPE_SCHEMA, NULL},
    {"uniqueItems", SHAPE_BOOL, NULL},
    {"writeOnly", SHAPE_NOTE, NULL},
};

static int keyword_compare(const void *name, const void *keyword)
{
    return strcmp(name, ((const struct keyword *)keyword)->name);
}

static bool is_schema(const struct json *value)
{
    return json_type(value) == JSON_OBJECT || json_type(value) == JSON_BOOL;
}

static bool are_strings(const struct json *value)
{
    if (json_type(value) != JSON_ARRAY) return false;
    for (const struct json *element = json_first(value); element; element = json_next(element))
        if (json_type(element) != JSON_STRING) return false;
    return true;
}

/* Objects and arrays whose members satisfy a test. */
static bool are_all(const struct json *value, enum json_type type, bool (*test)(const struct json *))
{
    if (json_type(value) != type) return false;
    for (const struct json *element = json_first(value); element; element = json_next(element))
        if (!test(element)) return false;
    return true;
}

static unsigned type_bit(const struct json *name)
{
    static const struct {
        const char *name;
        unsigned bit;
    } types[] = {{"null", SCHEMA_NULL},     {"boolean", SCHEMA_BOOL},  {"integer", SCHEMA_INTEGER},
                 {"number", SCHEMA_NUMBER}, {"string", SCHEMA_STRING}, {"array", SCHEMA_ARRAY},
                 {"object", SCHEMA_OBJECT}};
    if (json_type(name) != JSON_STRING) return 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(json_string(name, NULL), types[i].name) == 0) return types[i].bit;
    return 0;
}

static bool is_type(const struct json *value)
{
    return type_bit(value) != 0;
}

/* NULL: of the right shape; else what it must be. */
static const char *shape_fault(enum shape shape, const struct json *value)
{
    switch (shape) {
    case SHAPE_STRING:
        return json_type(value) == JSON_STRING ? NULL : "must be a string";
    case SHAPE_NUMBER:
        return json_type(value) == JSON_NUMBER ? NULL : "must be a number";
    case SHAPE_COUNT:
        return json_is_integer(value) && json_int64(value) >= 0 ? NULL : "must be an integer of at least 0";
    case SHAPE_BOOL:
        return json_type(value) == JSON_BOOL ? NULL : "must be true or false";
    case SHAPE_SCHEMA:
        return is_schema(value) ? NULL : "must be a schema: an object, true or false";
    case SHAPE_SCHEMAS:
        return are_all(value, JSON_ARRAY, is_schema) && json_first(value)
                   ? NULL
                   : "must be an array of schemas with at least one";
    case SHAPE_SCHEMA_MAP:
        return are_all(value, JSON_OBJECT, is_schema) ? NULL : "must be an object whose members are schemas";
    case SHAPE_STRINGS:
        return are_strings(value) ? NULL : "must be an array of strings";
    case SHAPE_STRINGS_MAP:
        return are_all(value, JSON_OBJECT, are_strings)
                   ? NULL
                   : "must be an object whose members are arrays of strings";
    case SHAPE_VALUES:
        return json_type(value) == JSON_ARRAY && json_first(value) ? NULL
                                                                   : "must be an array of at least one value";
    case SHAPE_TYPE:
        if (is_type(value) || (are_all(value, JSON_ARRAY, is_type) && json_first(value))) return NULL;
        return "must be one of null, boolean, integer, number, string, array, object, or an array of these";
    default:
        return NULL;
    }
}

static const struct keyword *keyword_find(const char *name)
{
    return bsearch(name, keywords, sizeof keywords / sizeof *keywords, sizeof *keywords, keyword_compare);
}

bool schema_keyword_asserts(const char *name)
{
    const struct keyword *keyword = keyword_find(name);
    if (!keyword || keyword->shape == SHAPE_NOTE || strcmp(name, "definitions") == 0) return false;
    return name[0] != '$' || keyword->shape == SHAPE_REFUSED || strcmp(name, "$ref") == 0;
}

bool schema_check(struct schema *s, const struct json *schema)
{
    const struct json **checked = &s->checked[((uintptr_t)schema >> 4) % SCHEMA_CHECKED_SLOTS];
    if (*checked == schema) return true;
    for (const struct json *value = json_first(schema); value; value = json_next(value)) {
        const char *name = json_key(value);
        if (!schema_work(s, 8)) return false;
        if (strncmp(name, "x-", 2) == 0) continue;
        const struct keyword *keyword = keyword_find(name);
        if (!keyword)
            return schema_fail(s, ERR_UNSUPPORTED, schema, name, "unknown keyword '%.64s'", name) >= 0;
        if (keyword->shape == SHAPE_REFUSED)
            return schema_fail(s, ERR_UNSUPPORTED, schema, name, "unsupported keyword '%s': %s", name,
                               keyword->reason) >= 0;
        if (keyword->shape == SHAPE_SCHEMA && strcmp(name, "items") == 0 && json_type(value) == JSON_ARRAY)
            return schema_fail(s, ERR_INVALID, schema, name,
                               "must be a schema: an array of schemas is prefixItems since draft 2020-12") >=
                   0;
        const char *fault = shape_fault(keyword->shape, value);
        if (fault)
            return schema_fail(s, ERR_INVALID, schema, name, "%s, not %s", fault,
                               json_type_name(json_type(value))) >= 0;
    }
    *checked = schema;
    return true;
}

unsigned schema_types(const struct json *schema)
{
    const struct json *type = json_get(schema, "type");
    if (!type) return SCHEMA_ALL;
    unsigned types = type_bit(type);
    for (const struct json *one = json_first(type); one; one = json_next(one)) types |= type_bit(one);
    return types;
}

unsigned schema_type_of(const struct json *value)
{
    switch (json_type(value)) {
    case JSON_NULL:
        return SCHEMA_NULL;
    case JSON_BOOL:
        return SCHEMA_BOOL;
    case JSON_STRING:
        return SCHEMA_STRING;
    case JSON_ARRAY:
        return SCHEMA_ARRAY;
    case JSON_OBJECT:
        return SCHEMA_OBJECT;
    default:
        break;
    }
    return json_number(value) == floor(json_number(value)) ? SCHEMA_INTEGER : SCHEMA_FRACTION;
}

int64_t schema_count(struct schema *s, const struct json *schema, const char *keyword, int64_t otherwise)
{
    const struct json *value = schema_get(s, schema, keyword);
    return value ? json_int64(value) : otherwise;
}
