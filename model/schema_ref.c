#include "model/schema_internal.h"

#include <stdio.h>
#include <string.h>

/*
 * References within one document: JSON pointers (RFC 6901) as URI fragments, and $anchor. Nothing is ever
 * fetched: a reference to another document is refused, but the root's own $id may be spelled out. A $id
 * further down would begin a document of its own, to which references below it are relative: refused.
 */

/* --- Where a schema stands --- */

struct trail {
    const struct json *node;
    const struct trail *parent;
    size_t index; /* in an array */
};

static size_t trail_write(const struct trail *trail, char *out, size_t size)
{
    if (!trail->parent) return (size_t)snprintf(out, size, "#");
    size_t length = trail_write(trail->parent, out, size);
    const char *key = json_key(trail->node);
    char number[32];
    if (!key) {
        snprintf(number, sizeof number, "%zu", trail->index);
        key = number;
    }
    if (length + 1 < size) out[length++] = '/';
    for (; *key && length + 3 < size; key++) {
        out[length++] = *key == '~' || *key == '/' ? '~' : (uint8_t)*key < 0x20 ? '?' : *key;
        if (*key == '~' || *key == '/') out[length++] = *key == '~' ? '0' : '1';
    }
    out[length] = 0;
    return length;
}

static bool trail_find(const struct trail *trail, const struct json *wanted, char *out, size_t size)
{
    if (trail->node == wanted) {
        trail_write(trail, out, size);
        return true;
    }
    size_t i = 0;
    for (const struct json *child = json_first(trail->node); child; child = json_next(child)) {
        struct trail below = {child, trail, i++};
        if (trail_find(&below, wanted, out, size)) return true;
    }
    return false;
}

void schema_ref_pointer(const struct schema *s, const struct json *schema, char *out, size_t size)
{
    struct trail root = {s->root, NULL, 0};
    snprintf(out, size, "#");
    trail_find(&root, schema, out, size);
}

const struct json *schema_ref_written(const struct schema *s, const struct json *schema, const char **keyword)
{
    const struct schema_made *made = s->made;
    while (made) {
        struct trail own = {made->tree, NULL, 0};
        char below[8];
        bool is_in = trail_find(&own, schema, below, sizeof below);
        if (is_in) {
            schema = made->origin;
            *keyword = made->keyword;
        }
        made = is_in ? s->made : made->next;
    }
    return schema;
}

/* --- What a reference means --- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Undoes %XX. */
static char *fragment_decode(struct schema *s, const char *text)
{
    char *out = schema_alloc(s, strlen(text) + 1, 1), *end = out;
    if (!out) return NULL;
    for (; *text; text++) {
        if (text[0] == '%' && hex_digit(text[1]) >= 0 && hex_digit(text[2]) >= 0) {
            *end++ = (char)(hex_digit(text[1]) << 4 | hex_digit(text[2]));
            text += 2;
        } else {
            *end++ = *text;
        }
    }
    return out;
}

/* One step of a pointer: token up to '/' or the end, with ~0 and ~1 undone in place. */
static const struct json *pointer_step(struct schema *s, const struct json *node, char *token)
{
    char *out = token;
    for (const char *c = token; *c; c++) {
        bool escaped = c[0] == '~' && (c[1] == '0' || c[1] == '1');
        *out++ = !escaped ? *c : c[1] == '0' ? '~' : '/';
        c += escaped;
    }
    *out = 0;
    if (json_type(node) == JSON_OBJECT) return schema_get(s, node, token);
    if (json_type(node) != JSON_ARRAY || !*token || strspn(token, "0123456789") != strlen(token) ||
        strlen(token) > 9 || (token[0] == '0' && token[1]))
        return NULL;
    size_t index = 0;
    for (const char *c = token; *c; c++) index = index * 10 + (size_t)(*c - '0');
    return index < json_length(node) && schema_work(s, (int64_t)index) ? json_at(node, index) : NULL;
}

static const struct json *pointer_follow(struct schema *s, char *pointer)
{
    const struct json *node = s->root;
    while (node && *pointer) {
        char *token = pointer + 1, *end = strchr(token, '/');
        if (end) *end = 0;
        pointer = end ? end : token + strlen(token);
        node = pointer_step(s, node, token);
        if (end) *end = '/';
    }
    return node;
}

/* The schema with this $anchor; the tree's depth is what the JSON reader allows. */
static const struct json *anchor_find(struct schema *s, const struct json *node, const char *name)
{
    if (!schema_work(s, 1)) return NULL;
    static const char *const keys[] = {"$anchor", "$dynamicAnchor"};
    for (int i = 0; i < 2; i++) {
        const struct json *anchor = json_get(node, keys[i]);
        if (anchor && json_type(anchor) == JSON_STRING && strcmp(json_string(anchor, NULL), name) == 0)
            return node;
    }
    for (const struct json *child = json_first(node); child; child = json_next(child)) {
        /* What stands in these is data, not schemas. */
        const char *key = json_key(child);
        if (key && (strcmp(key, "const") == 0 || strcmp(key, "enum") == 0)) continue;
        const struct json *found = anchor_find(s, child, name);
        if (found) return found;
    }
    return NULL;
}

const struct json *schema_ref_target(struct schema *s, const struct json *schema, const struct json *ref)
{
    const char *text = json_string(ref, NULL), *hash = strchr(text, '#');
    const struct json *id = json_get(s->root, "$id");
    const char *own = id && json_type(id) == JSON_STRING ? json_string(id, NULL) : "";
    size_t base = hash ? (size_t)(hash - text) : strlen(text);
    size_t own_length = strcspn(own, "#");
    if (base && (base != own_length || memcmp(text, own, base) != 0)) {
        schema_fail(s, ERR_UNSUPPORTED, schema, "$ref",
                    "unsupported: '%.100s' is another document; only references within the schema are "
                    "followed",
                    text);
        return NULL;
    }
    char *fragment = fragment_decode(s, hash ? hash + 1 : "");
    if (!fragment) return NULL;
    const struct json *target =
        !*fragment || *fragment == '/' ? pointer_follow(s, fragment) : anchor_find(s, s->root, fragment);
    if (!target) schema_fail(s, ERR_INVALID, schema, "$ref", "'%.100s' refers to nothing", text);
    return target;
}
