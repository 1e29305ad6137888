#include "model/added.h"

#include <stdlib.h>
#include <string.h>

/* A trie, children as a linked list: there are few added tokens and they share their beginnings. */
struct node {
    int32_t child, sibling; /* 0: none (the root is nobody's child) */
    int32_t token;          /* that ends here, -1: none */
    unsigned char byte;
    bool is_control;
};

struct added {
    struct node *nodes;
    int32_t n_nodes;
    bool first_plain[256];   /* begins a user-defined token */
    bool first_control[256]; /* begins any added token */
    bool any_plain;
};

static bool is_added(const struct vocabulary *vocabulary, int32_t token)
{
    enum token_type type = vocabulary_type(vocabulary, token);
    return type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED;
}

static int32_t child_find(const struct added *added, int32_t node, unsigned char byte)
{
    int32_t child = added->nodes[node].child;
    while (child != 0 && added->nodes[child].byte != byte) child = added->nodes[child].sibling;
    return child;
}

static void token_insert(struct added *added, int32_t token, bool is_control, const char *text, size_t length)
{
    int32_t node = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        int32_t child = child_find(added, node, byte);
        if (child == 0) {
            child = added->n_nodes++;
            added->nodes[child] =
                (struct node){.sibling = added->nodes[node].child, .token = -1, .byte = byte};
            added->nodes[node].child = child;
        }
        node = child;
    }
    added->nodes[node].token = token;
    added->nodes[node].is_control = is_control;
    unsigned char first = (unsigned char)text[0];
    added->first_control[first] = true;
    if (!is_control) added->first_plain[first] = added->any_plain = true;
}

enum err added_create(const struct vocabulary *vocabulary, struct added **out, struct err_info *info)
{
    size_t n_nodes = 1;
    for (int32_t token = 0; token < vocabulary_size(vocabulary); token++) {
        size_t length = 0;
        vocabulary_bytes(vocabulary, token, &length);
        if (is_added(vocabulary, token)) n_nodes += length;
    }
    if (n_nodes > INT32_MAX) return err_set(info, ERR_LIMIT, "too much text in control tokens");
    struct added *added = calloc(1, sizeof *added);
    if (added) added->nodes = calloc(n_nodes, sizeof *added->nodes);
    if (!added || !added->nodes) {
        added_free(added);
        return err_set(info, ERR_MEMORY, "no memory for the control tokens");
    }
    added->n_nodes = 1;
    added->nodes[0].token = -1;
    for (int32_t token = 0; token < vocabulary_size(vocabulary); token++) {
        size_t length = 0;
        const char *text = vocabulary_bytes(vocabulary, token, &length);
        if (is_added(vocabulary, token) && length > 0)
            token_insert(added, token, vocabulary_type(vocabulary, token) == TOKEN_CONTROL, text, length);
    }
    *out = added;
    return ERR_OK;
}

void added_free(struct added *added)
{
    if (!added) return;
    free(added->nodes);
    free(added);
}

/* The longest token that begins at text; -1: none. */
static int32_t longest_match(const struct added *added, const char *text, size_t length,
                             const unsigned char *marks, bool with_control, size_t *match_length)
{
    int32_t found = -1, node = 0;
    for (size_t i = 0; i < length; i++) {
        with_control = with_control && (!marks || marks[i]);
        node = child_find(added, node, (unsigned char)text[i]);
        if (node == 0) break;
        const struct node *here = &added->nodes[node];
        if (here->token >= 0 && (with_control || !here->is_control)) {
            found = here->token;
            *match_length = i + 1;
        }
    }
    return found;
}

int32_t added_find(const struct added *added, const char *text, size_t length, const unsigned char *marks,
                   size_t from, bool with_control, size_t *at, size_t *match_length)
{
    if (!with_control && !added->any_plain) return -1;
    const bool *first = with_control ? added->first_control : added->first_plain;
    for (size_t i = from; i < length; i++) {
        if (!first[(unsigned char)text[i]]) continue;
        int32_t token =
            longest_match(added, text + i, length - i, marks ? marks + i : NULL, with_control, match_length);
        if (token >= 0) {
            *at = i;
            return token;
        }
    }
    return -1;
}
