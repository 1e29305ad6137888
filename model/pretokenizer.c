/*
 * The patterns are those of the models' tokenizer.json files, as one regular expression each, matched
 * anchored again and again: every code point is a letter, a number, white space or something else, so each
 * pattern matches at any place.
 *
 * Hugging Face runs them on another engine (Oniguruma), whose classes differ from PCRE2's in two ways. Its
 * white space is the Unicode property White_Space, PCRE2's \s adds U+180E: so the class is written out. And
 * its Unicode is newer: PCRE2 10.42 knows version 14, tokenizers 0.23 has version 16, so letters and numbers
 * assigned between the two are added by range. tests/tokenizer/test_parity.py compares every code point.
 *
 * smollm is two steps in tokenizer.json: each digit becomes a word, then the gpt-2 pattern runs on what lies
 * between. The one pattern here does the same: digits come first, and a digit ends white space as the end of
 * the text does. Its digits are Rust's char::is_numeric, of Unicode 17.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/pretokenizer.h"

#include "config/utf8.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define SPACE                                                                                                \
    "\\t-\\r\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

#define LETTER                                                                                               \
    "\\p{L}\\x{1c89}\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{"     \
    "10d65}"                                                                                                 \
    "\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{"      \
    "1138e}"                                                                                                 \
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{"      \
    "11f10}"                                                                                                 \
    "\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"         \
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"          \
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{"     \
    "323af}"

#define NUMBER                                                                                               \
    "\\p{N}\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"             \
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{"    \
    "1e4f9}"                                                                                                 \
    "\\x{1e5f1}-\\x{1e5fa}"

#define DIGIT NUMBER "\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}"

#define SPACES_BEFORE(end) "[" SPACE "]+(?![^" SPACE end "])|[" SPACE "]++"

#define LLAMA_LIKE(number)                                                                                   \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]++|" number                         \
    "| ?[^" SPACE LETTER NUMBER "]++[\\r\\n]*+|[" SPACE "]*[\\r\\n]+|" SPACES_BEFORE("")

struct rule {
    const char *name;
    const char *pattern;
    bool wants_nfc, keeps_words, adds_bos;
};

static const struct rule rules[] = {
    {.name = "gpt-2",
     .pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?[" LETTER "]++| ?[" NUMBER "]++| ?[^" SPACE LETTER NUMBER
                "]++|" SPACES_BEFORE("")},
    {.name = "smollm",
     .pattern = "'s|'t|'re|'ve|'m|'ll|'d|[" DIGIT "]| ?[" LETTER "]++| ?[^" SPACE LETTER DIGIT
                "]++|" SPACES_BEFORE(DIGIT)},
    {.name = "qwen2", .pattern = LLAMA_LIKE("[" NUMBER "]"), .wants_nfc = true},
    {.name = "llama-bpe", .pattern = LLAMA_LIKE("[" NUMBER "]{1,3}+"), .keeps_words = true, .adds_bos = true},
};

struct pretokenizer {
    const struct rule *rule;
    pcre2_code *code;
    bool jit;
};

static const struct rule *rule_find(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (strlen(rules[i].name) == length && memcmp(rules[i].name, name, length) == 0) return &rules[i];
    return NULL;
}

enum err pretokenizer_create(const char *name, size_t name_length, struct pretokenizer **out,
                             struct err_info *info)
{
    const struct rule *rule = rule_find(name, name_length);
    if (!rule)
        return err_set_param(info, ERR_UNSUPPORTED, "tokenizer.ggml.pre",
                             "pre-tokenizer '%.*s' is not supported (gpt-2, smollm, qwen2, llama-bpe are)",
                             name_length > 64 ? 64 : (int)name_length, name);
    int code = 0;
    PCRE2_SIZE offset = 0;
    struct pretokenizer *pretokenizer = calloc(1, sizeof *pretokenizer);
    if (!pretokenizer) return err_set(info, ERR_MEMORY, "no memory for the pre-tokenizer");
    pretokenizer->rule = rule;
    pretokenizer->code = pcre2_compile((PCRE2_SPTR)rule->pattern, PCRE2_ZERO_TERMINATED,
                                       PCRE2_UTF | PCRE2_ANCHORED, &code, &offset, NULL);
    if (!pretokenizer->code) {
        free(pretokenizer);
        return err_set(info, ERR_MEMORY, "PCRE2 rejects the pattern of pre-tokenizer '%s': error %d at %zu",
                       rule->name, code, (size_t)offset);
    }
    /* Without JIT (some hardened systems forbid it) the interpreter gives the same words, more slowly. */
    pretokenizer->jit = pcre2_jit_compile(pretokenizer->code, PCRE2_JIT_COMPLETE) == 0;
    *out = pretokenizer;
    return ERR_OK;
}

void pretokenizer_free(struct pretokenizer *pretokenizer)
{
    if (!pretokenizer) return;
    pcre2_code_free(pretokenizer->code);
    free(pretokenizer);
}

bool pretokenizer_wants_nfc(const struct pretokenizer *pretokenizer)
{
    return pretokenizer->rule->wants_nfc;
}

bool pretokenizer_keeps_words(const struct pretokenizer *pretokenizer)
{
    return pretokenizer->rule->keeps_words;
}

bool pretokenizer_adds_bos(const struct pretokenizer *pretokenizer)
{
    return pretokenizer->rule->adds_bos;
}

bool pretokenizer_walk_open(struct pretokenizer_walk *walk, const struct pretokenizer *pretokenizer)
{
    *walk = (struct pretokenizer_walk){.pretokenizer = pretokenizer};
    walk->match = pcre2_match_data_create(1, NULL);
    return walk->match != NULL;
}

void pretokenizer_walk_close(struct pretokenizer_walk *walk)
{
    pcre2_match_data_free(walk->match);
    walk->match = NULL;
}

void pretokenizer_walk_start(struct pretokenizer_walk *walk, const char *text, size_t length)
{
    walk->text = text;
    walk->length = length;
    walk->at = 0;
}

bool pretokenizer_walk_next(struct pretokenizer_walk *walk, const char **word, size_t *word_length)
{
    if (walk->at >= walk->length) return false;
    const struct pretokenizer *pretokenizer = walk->pretokenizer;
    PCRE2_SPTR text = (PCRE2_SPTR)walk->text;
    int rc = PCRE2_ERROR_NOMATCH;
    if (pretokenizer->jit)
        rc = pcre2_jit_match(pretokenizer->code, text, walk->length, walk->at, 0, walk->match, NULL);
    /* The interpreter takes over where the JIT code ran out of its stack. */
    if (rc < 0)
        rc = pcre2_match(pretokenizer->code, text, walk->length, walk->at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         walk->match, NULL);
    size_t size = rc > 0 ? pcre2_get_ovector_pointer(walk->match)[1] - walk->at : 0;
    /* Not reached while the patterns are total; a word of one code point keeps the walk going. */
    if (size == 0) size = utf8_sequence(walk->text + walk->at, walk->length - walk->at);
    *word = walk->text + walk->at;
    *word_length = size;
    walk->at += size;
    return true;
}
