#include "server/constraint.h"

#include "config/buf.h"
#include "config/clock.h"
#include "model/grammar_text.h"
#include "server/constraint_internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/*
 * Compiling takes from microseconds to a good part of a second and holds no lock: two requests that ask for
 * the same at once may both compile it, and the second finds the first one's grammar when it is done. What is
 * kept is found by everything that was asked for, as text; a hash only saves comparing.
 */
enum { MOST_ENTRIES = 256 };

struct entry {
    struct entry *next; /* used less recently */
    uint64_t hash;
    struct buf key;
    struct grammar *grammar;
    size_t bytes; /* when it was last used; masks are added to a grammar while it runs */
};

struct constraint_cache {
    struct grammar_vocabulary *vocabulary;
    struct metrics *metrics;
    size_t max_bytes;
    pthread_mutex_t lock; /* for what follows */
    struct entry *first;
};

/* --- The cache --- */

enum err constraint_cache_create(const struct tokenizer *tokenizer, size_t max_bytes, struct metrics *metrics,
                                 struct constraint_cache **out, struct err_info *info)
{
    struct constraint_cache *cache = calloc(1, sizeof *cache);
    if (!cache) return err_set(info, ERR_MEMORY, "no memory for the cache of grammars");
    enum err err = grammar_vocabulary_create(tokenizer, &cache->vocabulary, info);
    if (err != ERR_OK) {
        free(cache);
        return err;
    }
    cache->metrics = metrics;
    cache->max_bytes = max_bytes;
    pthread_mutex_init(&cache->lock, NULL);
    *out = cache;
    return ERR_OK;
}

static void free_entries(struct entry *entry)
{
    while (entry) {
        struct entry *next = entry->next;
        grammar_release(entry->grammar);
        buf_free(&entry->key);
        free(entry);
        entry = next;
    }
}

void constraint_cache_free(struct constraint_cache *cache)
{
    if (!cache) return;
    free_entries(cache->first);
    grammar_vocabulary_free(cache->vocabulary);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

const struct grammar_vocabulary *constraint_vocabulary(const struct constraint_cache *cache)
{
    return cache->vocabulary;
}

/* Under the lock. The grammar with this key, which becomes the first; a reference, or NULL. */
static struct grammar *find(struct constraint_cache *cache, uint64_t hash, const struct buf *key)
{
    for (struct entry **link = &cache->first; *link; link = &(*link)->next) {
        struct entry *entry = *link;
        if (entry->hash != hash || entry->key.length != key->length ||
            memcmp(entry->key.data, key->data, key->length) != 0)
            continue;
        *link = entry->next;
        entry->next = cache->first;
        cache->first = entry;
        grammar_retain(entry->grammar);
        return entry->grammar;
    }
    return NULL;
}

/* Under the lock. Brings the first entry's bytes up to date; what is too much is taken out and returned. The
   first stays, whatever its size. */
static struct entry *trim(struct constraint_cache *cache)
{
    struct entry *last = cache->first;
    last->bytes = grammar_bytes(last->grammar) + last->key.capacity + sizeof *last;
    size_t bytes = last->bytes;
    for (int n = 1; last->next && bytes + last->next->bytes <= cache->max_bytes && n < MOST_ENTRIES; n++) {
        last = last->next;
        bytes += last->bytes;
    }
    struct entry *rest = last->next;
    last->next = NULL;
    if (cache->metrics) atomic_store(&cache->metrics->grammar_cache_bytes, bytes);
    return rest;
}

static struct grammar *look_up(struct constraint_cache *cache, uint64_t hash, const struct buf *key)
{
    struct entry *rest = NULL;
    pthread_mutex_lock(&cache->lock);
    struct grammar *grammar = find(cache, hash, key);
    if (grammar) rest = trim(cache);
    pthread_mutex_unlock(&cache->lock);
    free_entries(rest);
    return grammar;
}

/* Takes the key. Returns the grammar to use: an equal one may have come in between. Without memory for an
   entry it is not kept. */
static struct grammar *keep(struct constraint_cache *cache, uint64_t hash, struct buf *key,
                            struct grammar *grammar)
{
    struct entry *entry = malloc(sizeof *entry), *rest = NULL;
    if (!entry) return grammar;
    pthread_mutex_lock(&cache->lock);
    struct grammar *other = find(cache, hash, key);
    if (!other) {
        *entry = (struct entry){.next = cache->first, .hash = hash, .key = *key, .grammar = grammar};
        grammar_retain(grammar);
        cache->first = entry;
        *key = (struct buf){0};
        rest = trim(cache);
    }
    pthread_mutex_unlock(&cache->lock);
    free_entries(rest);
    if (!other) return grammar;
    free(entry);
    grammar_release(grammar);
    return other;
}

/* --- From what is asked to a grammar --- */

static bool constrains(const struct tools *tools)
{
    return tools && tools->n > 0 && tools->choice != TOOLS_NONE;
}

static void print_text(struct buf *out, const char *text)
{
    json_write_text(out, text ? text : "");
    buf_text(out, text ? "!" : "?");
}

/* Everything that the grammar depends on. */
static void print_key(struct buf *out, const struct constraint_ask *ask, const struct tools *tools,
                      const struct reasoning *reasoning)
{
    if (reasoning_expected(reasoning))
        buf_printf(out, "%s %d ", reasoning->style->tags[0], reasoning->place == REASONING_OPEN);
    if (ask->field) {
        buf_printf(out, "%d", (int)ask->kind);
        if (ask->value) json_write_tree(out, ask->value);
        if (ask->text) buf_append(out, ask->text, ask->length);
    }
    if (!tools) return;
    buf_append(out, "", 1); /* no text has a NUL inside */
    buf_printf(out, "%d %d %d", (int)tools->style, (int)tools->choice, tools->parallel);
    print_text(out, tools->named);
    for (int i = 0; i < tools->n; i++) {
        const struct tool *tool = &tools->list[i];
        print_text(out, tool->name);
        buf_text(out, tool->strict ? "s" : "l");
        if (tool->parameters) json_write_tree(out, tool->parameters);
    }
}

static enum err read_choices(struct grammar_builder *builder, const struct json *choices, int *out,
                             struct err_info *info)
{
    size_t n = json_length(choices), i = 0;
    int *nodes = malloc(n * sizeof *nodes);
    if (!nodes) return err_set(info, ERR_MEMORY, "no memory for %zu choices", n);
    for (const struct json *item = json_first(choices); item; item = json_next(item)) {
        size_t length;
        const char *text = json_string(item, &length);
        nodes[i++] = grammar_literal(builder, text, length);
    }
    *out = grammar_choice(builder, nodes, (int)n);
    free(nodes);
    return ERR_OK;
}

/* The readers know the place in what they read, not the field it came in. */
static enum err name_field(enum err err, const char *field, struct err_info *info)
{
    char message[sizeof info->message];
    if (err == ERR_OK || !info) return err;
    snprintf(message, sizeof message, "%.60s: %.400s", field, info->message);
    memcpy(info->message, message, sizeof message);
    snprintf(info->param, sizeof info->param, "%s", field);
    return err;
}

static enum err read_ask(struct grammar_builder *builder, const struct constraint_ask *ask, int *out,
                         struct err_info *info)
{
    static const struct grammar_regex_options whole = {0};
    enum err err;
    switch (ask->kind) {
    case CONSTRAINT_REGEX:
        err = grammar_regex(builder, ask->text, ask->length, &whole, out, info);
        break;
    case CONSTRAINT_GRAMMAR:
        err = grammar_gbnf(builder, ask->text, ask->length, out, info);
        break;
    case CONSTRAINT_CHOICE:
        err = read_choices(builder, ask->value, out, info);
        break;
    default:
        err = grammar_schema(builder, ask->value, out, info);
        break;
    }
    return name_field(err, ask->field, info);
}

static enum err read_tools(struct grammar_builder *builder, const struct tools *tools, int *out,
                           struct err_info *info)
{
    enum err err = tools_grammar(builder, tools, out, info);
    return err != ERR_OK && info && info->param[0] == '\0' ? name_field(err, "tools", info) : err;
}

/* Tools that a model may use, and a form for what it says when it does not: calls, or text of that form. */
static enum err read_all(struct grammar_builder *builder, const struct constraint_ask *ask,
                         const struct tools *tools, int *out, struct err_info *info)
{
    if (!tools) return read_ask(builder, ask, out, info);
    if (!ask->field) return read_tools(builder, tools, out, info);
    struct tools calls = *tools;
    calls.choice = TOOLS_REQUIRED;
    int nodes[2];
    enum err err = read_tools(builder, &calls, &nodes[0], info);
    if (err == ERR_OK) err = read_ask(builder, ask, &nodes[1], info);
    if (err == ERR_OK) *out = grammar_choice(builder, nodes, 2);
    return err;
}

static enum err compile(const struct constraint_cache *cache, const struct constraint_ask *ask,
                        const struct tools *tools, const struct reasoning *reasoning, struct grammar **out,
                        struct err_info *info)
{
    int64_t start_ns = clock_ns();
    int root = -1;
    struct grammar_builder *builder = grammar_builder_create(&grammar_limits_default);
    if (!builder) return err_set(info, ERR_MEMORY, "no memory to compile a grammar");
    enum err err = read_all(builder, ask, tools, &root, info);
    if (err == ERR_OK && reasoning_expected(reasoning)) root = reasoning_grammar(builder, reasoning, root);
    if (err == ERR_OK) {
        err = grammar_build(builder, root, cache->vocabulary, out, info);
        name_field(err, ask->field ? ask->field : "tools", info);
    }
    grammar_builder_free(builder);
    if (cache->metrics) metrics_observe(&cache->metrics->grammar_compile, clock_ns() - start_ns);
    return err;
}

static enum err get(struct constraint_cache *cache, const struct constraint_ask *ask,
                    const struct tools *tools, const struct reasoning *reasoning, struct grammar **out,
                    struct err_info *info)
{
    struct buf key;
    buf_init(&key, SIZE_MAX);
    print_key(&key, ask, tools, reasoning);
    enum err err = key.failed ? err_set(info, ERR_MEMORY, "no memory for a grammar's key") : ERR_OK;
    uint64_t hash = err == ERR_OK ? XXH3_64bits(key.data, key.length) : 0;
    struct grammar *grammar = err == ERR_OK ? look_up(cache, hash, &key) : NULL;
    if (grammar && cache->metrics) atomic_fetch_add(&cache->metrics->grammar_cache_hits, 1);
    if (!grammar && err == ERR_OK) {
        err = compile(cache, ask, tools, reasoning, &grammar, info);
        if (err == ERR_OK) grammar = keep(cache, hash, &key, grammar);
    }
    buf_free(&key);
    if (err == ERR_OK) *out = grammar;
    return err;
}

/* What is asked for, and what of it speaks of thoughts. */
static void settle_reasoning(const struct constraint_ask *ask, struct reasoning *reasoning)
{
    bool json = ask->kind == CONSTRAINT_JSON_OBJECT || ask->kind == CONSTRAINT_JSON_SCHEMA;
    if (!ask->field) return;
    reasoning->exact = true;
    if (!json && reasoning->place == REASONING_MAY) reasoning->place = REASONING_NONE;
}

enum err constraint_get(struct constraint_cache *cache, const struct json *body, const struct tools *tools,
                        struct reasoning *reasoning, struct grammar **out, struct err_info *info)
{
    struct constraint_ask ask = {0};
    struct grammar *grammar = NULL;
    enum err err = constraint_parse(body, &ask, info);
    if (err != ERR_OK) return err;
    if (!constrains(tools)) tools = NULL;
    settle_reasoning(&ask, reasoning);
    if (tools && ask.field && tools->choice != TOOLS_AUTO)
        err = err_set_param(info, ERR_INVALID, ask.field,
                            "%s cannot be kept to when tool_choice asks for a call of a tool", ask.field);
    else if (tools || ask.field)
        err = get(cache, &ask, tools, reasoning, &grammar, info);
    if (err == ERR_OK && grammar && cache->metrics)
        atomic_fetch_add(&cache->metrics->constrained[ask.field ? ask.kind : CONSTRAINT_TOOLS], 1);
    json_free(ask.owned);
    if (err == ERR_OK) *out = grammar;
    return err;
}
