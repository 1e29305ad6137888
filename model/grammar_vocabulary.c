/*
 * The tokens' bytes as tries, in preorder: one of the tokens of whole characters that JSON writes as they are
 * in strings ("plain"; most of them), and others by what they have that is not plain. A node knows the
 * classes of the bytes below it, so that a place which such bytes do not leave allows a whole subtree at
 * once; and for the plain tokens the sets "at most n characters" are there as masks, so that free text in
 * JSON costs a copy and a walk of those others that can follow at all.
 */
#include "model/grammar_internal.h"

#include "config/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- Classes ---- */

enum {
    CLASS_LOWER_HEX,
    CLASS_LOWER,
    CLASS_UPPER_HEX,
    CLASS_UPPER,
    CLASS_ZERO,
    CLASS_DIGIT,
    CLASS_SPACE,
    CLASS_LINE,
    CLASS_CONTROL,
    CLASS_QUOTE,
    CLASS_BACKSLASH,
    CLASS_DELETE,
    CLASS_WIDE,
    CLASS_OTHER,
    CLASS_MARK, /* the first of those that follow, one for each */
};
static const char marks[] = "'-_.,:/<>[]{}";

const uint32_t grammar_vocabulary_wide = 1u << CLASS_WIDE;
const uint32_t grammar_vocabulary_plain = ~(1u << CLASS_LINE | 1u << CLASS_CONTROL | 1u << CLASS_QUOTE |
                                            1u << CLASS_BACKSLASH | 1u << CLASS_DELETE);

static int class_of(unsigned byte)
{
    if (byte >= 0x80) return CLASS_WIDE;
    if (byte >= 'a' && byte <= 'z') return byte <= 'f' ? CLASS_LOWER_HEX : CLASS_LOWER;
    if (byte >= 'A' && byte <= 'Z') return byte <= 'F' ? CLASS_UPPER_HEX : CLASS_UPPER;
    if (byte >= '0' && byte <= '9') return byte == '0' ? CLASS_ZERO : CLASS_DIGIT;
    if (byte == ' ') return CLASS_SPACE;
    if (byte == '\n' || byte == '\r' || byte == '\t') return CLASS_LINE;
    if (byte < ' ') return CLASS_CONTROL;
    if (byte == '"') return CLASS_QUOTE;
    if (byte == '\\') return CLASS_BACKSLASH;
    if (byte == 0x7F) return CLASS_DELETE;
    const char *mark = strchr(marks, (int)byte);
    return mark ? CLASS_MARK + (int)(mark - marks) : CLASS_OTHER;
}

uint32_t grammar_vocabulary_class(unsigned byte)
{
    return 1u << class_of(byte);
}

/* ---- Tokens ---- */

const char *grammar_vocabulary_bytes(const struct grammar_vocabulary *vocabulary, int32_t token,
                                     size_t *length, bool *is_control)
{
    if (token < 0 || token >= vocabulary->size) return NULL;
    const char *bytes = tokenizer_bytes(vocabulary->tokenizer, token, length);
    *is_control = tokenizer_is_special(vocabulary->tokenizer, token);
    if (*length == 0 || tokenizer_is_unused(vocabulary->tokenizer, token)) return NULL;
    /* Text never has the byte of control tokens. */
    return memchr(bytes, GRAMMAR_CONTROL, *length) ? NULL : bytes;
}

/* The classes that are not plain, each with a trie of the tokens in which it is the first such class after
   whole plain characters; what is not UTF-8 up to there, and control tokens, are with CLASS_WIDE. */
static const uint8_t other_classes[GRAMMAR_OTHERS] = {CLASS_WIDE,  CLASS_LINE,      CLASS_CONTROL,
                                                      CLASS_QUOTE, CLASS_BACKSLASH, CLASS_DELETE};

/* 0: plain; otherwise 1 + which of other_classes. */
static uint32_t token_group(const char *bytes, size_t length, bool is_control)
{
    size_t valid = utf8_valid(bytes, length);
    for (size_t i = 0; i < valid && !is_control; i++) {
        int class = class_of((unsigned char)bytes[i]);
        if (1u << class & grammar_vocabulary_plain) continue;
        for (uint32_t g = 1; g < GRAMMAR_OTHERS; g++)
            if (other_classes[g] == class) return g + 1;
    }
    return valid < length || is_control;
}

struct entry {
    uint64_t head; /* the first eight bytes, big-endian */
    const char *bytes;
    uint32_t length; /* without the control byte */
    int32_t token;
    bool is_control;
    uint8_t group;
};

static unsigned entry_byte(const struct entry *entry, size_t at)
{
    if (!entry->is_control) return (unsigned char)entry->bytes[at];
    return at == 0 ? GRAMMAR_CONTROL : (unsigned char)entry->bytes[at - 1];
}

static size_t entry_length(const struct entry *entry)
{
    return entry->length + entry->is_control;
}

static int entry_compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    if (x->head != y->head) return x->head < y->head ? -1 : 1;
    /* Control tokens are only among themselves: their head says so. */
    size_t n = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->bytes, y->bytes, n);
    if (order != 0) return order;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

/* ---- A trie ---- */

static size_t common_prefix(const struct entry *a, const struct entry *b)
{
    size_t n = entry_length(a) < entry_length(b) ? entry_length(a) : entry_length(b), i = 0;
    while (i < n && entry_byte(a, i) == entry_byte(b, i)) i++;
    return i;
}

struct trie_making {
    struct grammar_trie *trie;
    uint32_t *path;  /* [longest + 1] the open nodes by depth */
    uint8_t *is_bad; /* [longest + 1] below: tokens that do not end where a character does */
    bool *is_start;  /* [longest + 1] a character begins after this depth */
    size_t depth;
};

static void path_close(struct trie_making *making, size_t depth)
{
    struct grammar_trie_node *nodes = making->trie->nodes;
    for (; making->depth > depth; making->depth--) {
        struct grammar_trie_node *node = &nodes[making->path[making->depth]];
        struct grammar_trie_node *parent = &nodes[making->path[making->depth - 1]];
        node->next = making->trie->n;
        node->is_whole = making->is_start[making->depth] && !making->is_bad[making->depth];
        making->is_bad[making->depth - 1] |= making->is_bad[making->depth];
        parent->classes |= node->classes | grammar_vocabulary_class(node->byte);
        int height = node->height == 255 ? 255 : node->height + 1;
        if (height > parent->height) parent->height = (uint8_t)height;
    }
}

static void entry_add(struct trie_making *making, const struct entry *entry)
{
    struct grammar_trie *trie = making->trie;
    size_t length = entry_length(entry);
    for (size_t d = making->depth + 1; d <= length; d++) {
        making->path[d] = trie->n;
        making->is_bad[d] = 0;
        /* A lead and what follows are checked where the text is whole: at its end. */
        making->is_start[d] =
            d == length || ((entry_byte(entry, d) & 0xC0) != 0x80 && entry_byte(entry, d) != GRAMMAR_CONTROL);
        trie->nodes[trie->n++] =
            (struct grammar_trie_node){.first = trie->n_order, .byte = (uint8_t)entry_byte(entry, d - 1)};
    }
    making->depth = length;
    struct grammar_trie_node *end = &trie->nodes[making->path[length]];
    bool is_text = !entry->is_control && utf8_valid(entry->bytes, entry->length) == entry->length;
    if (!is_text) {
        making->is_bad[length] = 1;
        making->is_start[length] = false;
    }
    if (end->n == 255) return; /* more tokens of the same bytes are never allowed */
    end->n++;
    trie->order[trie->n_order++] = entry->token;
}

static bool trie_make(struct grammar_trie *trie, const struct entry *entries, size_t n, size_t longest)
{
    size_t n_nodes = 2;
    for (size_t i = 0; i < n; i++)
        n_nodes += entry_length(&entries[i]) - (i ? common_prefix(&entries[i - 1], &entries[i]) : 0);
    struct trie_making making = {.trie = trie,
                                 .path = calloc(longest + 1, sizeof *making.path),
                                 .is_bad = calloc(longest + 1, sizeof *making.is_bad),
                                 .is_start = calloc(longest + 1, sizeof *making.is_start)};
    trie->nodes = calloc(n_nodes, sizeof *trie->nodes);
    trie->order = malloc((n + 1) * sizeof *trie->order);
    bool made = making.path && making.is_bad && making.is_start && trie->nodes && trie->order;
    if (made) {
        trie->n = 1;
        for (size_t i = 0; i < n; i++) {
            path_close(&making, i ? common_prefix(&entries[i - 1], &entries[i]) : 0);
            entry_add(&making, &entries[i]);
        }
        path_close(&making, 0);
        trie->nodes[0].next = trie->n;
        trie->nodes[trie->n].first = trie->n_order;
    }
    free(making.path);
    free(making.is_bad);
    free(making.is_start);
    return made;
}

/* ---- Creation ---- */

static void plain_note(struct grammar_vocabulary *vocabulary, const struct entry *entry)
{
    uint32_t n = (uint32_t)utf8_count(entry->bytes, entry->length);
    int32_t token = entry->token;
    if (n > vocabulary->longest_plain) vocabulary->longest_plain = n;
    if (n > GRAMMAR_SLICES)
        vocabulary->long_tokens[vocabulary->n_long++] = (struct grammar_long_token){n, token};
    for (uint32_t s = n - 1 < GRAMMAR_SLICES ? n - 1 : GRAMMAR_SLICES; s <= GRAMMAR_SLICES; s++)
        vocabulary->slices[s * vocabulary->n_words + (size_t)(token >> 5)] |= 1u << (token & 31);
}

static size_t entries_fill(struct grammar_vocabulary *vocabulary, struct entry *entries)
{
    size_t n = 0;
    for (int32_t token = 0; token < vocabulary->size; token++) {
        struct entry entry = {.token = token};
        size_t length = 0;
        entry.bytes = grammar_vocabulary_bytes(vocabulary, token, &length, &entry.is_control);
        if (!entry.bytes) continue;
        entry.length = (uint32_t)length;
        entry.group = (uint8_t)token_group(entry.bytes, length, entry.is_control);
        for (size_t i = 0; i < 8; i++)
            entry.head = entry.head << 8 | (i < entry_length(&entry) ? entry_byte(&entry, i) : 0);
        if (entry_length(&entry) > vocabulary->longest) vocabulary->longest = (uint32_t)entry_length(&entry);
        if (entry.group == 0) plain_note(vocabulary, &entry);
        entries[n++] = entry;
    }
    return n;
}

/* entries is sorted: one trie after the other. */
static bool tries_make(struct grammar_vocabulary *vocabulary, const struct entry *entries, size_t n)
{
    for (uint32_t g = 0, first = 0; g <= GRAMMAR_OTHERS; g++) {
        uint32_t end = first;
        while (end < n && entries[end].group == g) end++;
        struct grammar_trie *trie = g ? &vocabulary->others[g - 1] : &vocabulary->plain;
        trie->class = g ? 1u << other_classes[g - 1] : 0;
        if (!trie_make(trie, entries + first, end - first, vocabulary->longest)) return false;
        first = end;
    }
    return true;
}

static int long_compare(const void *a, const void *b)
{
    const struct grammar_long_token *x = a, *y = b;
    return (x->n > y->n) - (x->n < y->n);
}

static enum err vocabulary_fill(struct grammar_vocabulary *vocabulary, struct err_info *info)
{
    size_t size = (size_t)vocabulary->size;
    struct entry *entries = malloc((size + 1) * sizeof *entries);
    vocabulary->ends = malloc((size + 1) * sizeof *vocabulary->ends);
    vocabulary->slices = calloc(vocabulary->n_words * (GRAMMAR_SLICES + 1) + 1, sizeof *vocabulary->slices);
    vocabulary->long_tokens = malloc((size + 1) * sizeof *vocabulary->long_tokens);
    bool made = entries && vocabulary->ends && vocabulary->slices && vocabulary->long_tokens;
    if (made) {
        for (int32_t token = 0; token < vocabulary->size; token++)
            if (tokenizer_is_end(vocabulary->tokenizer, token))
                vocabulary->ends[vocabulary->n_ends++] = token;
        size_t n = entries_fill(vocabulary, entries);
        qsort(vocabulary->long_tokens, vocabulary->n_long, sizeof *vocabulary->long_tokens, long_compare);
        qsort(entries, n, sizeof *entries, entry_compare);
        made = tries_make(vocabulary, entries, n);
    }
    free(entries);
    return made ? ERR_OK : err_set(info, ERR_MEMORY, "no memory for the vocabulary's tries");
}

enum err grammar_vocabulary_create(const struct tokenizer *tokenizer, struct grammar_vocabulary **out,
                                   struct err_info *info)
{
    struct grammar_vocabulary *vocabulary = calloc(1, sizeof *vocabulary);
    if (!vocabulary) return err_set(info, ERR_MEMORY, "no memory for the vocabulary's tries");
    vocabulary->tokenizer = tokenizer;
    vocabulary->size = tokenizer_vocab_size(tokenizer);
    vocabulary->n_words = ((size_t)vocabulary->size + 31) / 32;
    enum err err = vocabulary_fill(vocabulary, info);
    if (err == ERR_OK)
        *out = vocabulary;
    else
        grammar_vocabulary_free(vocabulary);
    return err;
}

void grammar_vocabulary_free(struct grammar_vocabulary *vocabulary)
{
    if (!vocabulary) return;
    free(vocabulary->plain.nodes);
    free(vocabulary->plain.order);
    for (int g = 0; g < GRAMMAR_OTHERS; g++) {
        free(vocabulary->others[g].nodes);
        free(vocabulary->others[g].order);
    }
    free(vocabulary->slices);
    free(vocabulary->ends);
    free(vocabulary->long_tokens);
    free(vocabulary);
}
