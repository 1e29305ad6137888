#include "grammar_probe.h"

#include "tiny_model.h"

#include <stdlib.h>
#include <string.h>

static struct {
    void *file;
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct grammar_vocabulary *vocabulary;
} shared;

static void shared_free(void)
{
    grammar_vocabulary_free(shared.vocabulary);
    tokenizer_free(shared.tokenizer);
    gguf_close(shared.gguf);
    free(shared.file);
}

static void shared_make(void)
{
    struct tiny_model tiny = tiny_model_default();
    size_t length;
    if (shared.vocabulary) return;
    shared.file = tiny_model_bytes(&tiny, &length);
    if (gguf_open_memory(shared.file, length, &shared.gguf, NULL) != ERR_OK ||
        tokenizer_create(shared.gguf, &shared.tokenizer, NULL) != ERR_OK ||
        grammar_vocabulary_create(shared.tokenizer, &shared.vocabulary, NULL) != ERR_OK)
        abort();
    atexit(shared_free);
}

const struct grammar_vocabulary *grammar_probe_vocabulary(void)
{
    shared_make();
    return shared.vocabulary;
}

const struct tokenizer *grammar_probe_tokenizer(void)
{
    shared_make();
    return shared.tokenizer;
}

static struct grammar_state *state_make(const struct grammar *grammar)
{
    void *memory = malloc(grammar_state_bytes(grammar));
    if (!memory) abort();
    return grammar_state_init(memory, grammar);
}

void grammar_probe_init(struct grammar_probe *probe, struct grammar *grammar)
{
    probe->grammar = grammar;
    probe->favourites = NULL;
    probe->start = state_make(grammar);
    probe->now = state_make(grammar);
    probe->other = state_make(grammar);
}

void grammar_probe_free(struct grammar_probe *probe)
{
    free(probe->start);
    free(probe->now);
    free(probe->other);
    grammar_release(probe->grammar);
}

size_t grammar_probe_accept(struct grammar_probe *probe, const char *text, size_t length, bool *ends)
{
    size_t n = 0;
    grammar_state_copy(probe->now, probe->start);
    while (n < length && grammar_accept_bytes(probe->now, text + n, 1)) n++;
    *ends = grammar_can_end(probe->now);
    return n;
}

static uint64_t draw(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed * 0x2545F4914F6CDD1Du >> 16;
}

/* The bytes allowed next; the letters of ASCII alone most of the time that there are some. */
static int allowed_bytes(struct grammar_probe *probe, bool plain, char *out)
{
    int n = 0, n_plain = 0;
    char letters[256];
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        grammar_state_copy(probe->other, probe->now);
        if (!grammar_accept_bytes(probe->other, &c, 1)) continue;
        out[n++] = c;
        if (byte >= 0x20 && byte < 0x7F) letters[n_plain++] = c;
    }
    if (!plain || n_plain == 0) return n;
    for (int i = 0; i < n_plain; i++) out[i] = letters[i];
    return n_plain;
}

enum grammar_walk grammar_probe_walk(struct grammar_probe *probe, uint64_t *seed, size_t max_bytes,
                                     struct buf *out)
{
    grammar_state_copy(probe->now, probe->start);
    for (size_t n = 0;; n++) {
        char bytes[256];
        bool ends = grammar_can_end(probe->now);
        int n_bytes = allowed_bytes(probe, draw(seed) % 8 != 0, bytes);
        if (grammar_must_end(probe->now) != (ends && n_bytes == 0)) abort();
        if (n_bytes == 0) return ends ? GRAMMAR_WALK_ENDED : GRAMMAR_WALK_DEAD;
        if (ends && (draw(seed) % 3 == 0 || n >= max_bytes)) return GRAMMAR_WALK_ENDED;
        if (n >= max_bytes) return GRAMMAR_WALK_CUT;
        char byte = bytes[draw(seed) % (uint64_t)n_bytes];
        for (int i = 0; i < n_bytes && probe->favourites && n >= draw(seed) % max_bytes; i++)
            if (strchr(probe->favourites, bytes[i]) && bytes[i]) byte = bytes[i];
        if (!grammar_accept_bytes(probe->now, &byte, 1)) abort();
        buf_append(out, &byte, 1);
    }
}

enum err grammar_probe_build(struct grammar_builder *builder, enum err err, int root, struct grammar **out,
                             struct err_info *info)
{
    if (err == ERR_OK) err = grammar_build(builder, root, grammar_probe_vocabulary(), out, info);
    grammar_builder_free(builder);
    return err;
}

const char *grammar_probe_wrong(struct grammar_probe *probe, const char *const *texts, bool *expected,
                                size_t *n)
{
    *expected = true;
    for (int n_lists = 0; n_lists < 2; texts++) {
        bool ends;
        if (!*texts) {
            *expected = false;
            n_lists++;
            continue;
        }
        *n = grammar_probe_accept(probe, *texts, strlen(*texts), &ends);
        if ((*n == strlen(*texts) && ends) != *expected) return *texts;
    }
    return NULL;
}

void grammar_probe_check(enum err err, struct grammar *grammar, const struct err_info *info)
{
    if (err) {
        if (info->code != err || info->message[0] == '\0') abort();
        return;
    }
    struct grammar_probe probe;
    struct buf text;
    uint64_t seed = 1;
    grammar_probe_init(&probe, grammar);
    buf_init(&text, SIZE_MAX);
    if (grammar_probe_walk(&probe, &seed, 40, &text) == GRAMMAR_WALK_DEAD) abort();
    buf_free(&text);
    grammar_probe_free(&probe);
}
