/* The cache: formats as arithmetic, the pool, and sequences that must agree with that arithmetic at every
 * step. */
#include "cache/sequence.h"
#include "tests/unit/support/memory_backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct kv_shape smollm2 = {.n_layers = 30, .n_heads = 9, .n_kv_heads = 3, .head_dim = 64};
static const struct kv_shape small = {.n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32};

/* Formats with every relation between parts: f16; one part; a base that is refined for recent blocks; two
   parts of which old blocks lose none; three of which they lose one; three of all kinds of bits, differing
   from page to page. Bits of the two groups of a small head by part; pages alternate between the two codes.
 */
enum { F16, ONE, REFINED, BOTH, TWO_OF_THREE, GRADED, FORMATS };

struct layout {
    const char *name;
    int n_parts, n_old_parts;
    uint8_t bits[2][KV_MAX_PARTS][2]; /* [page % 2][part][group] */
};

static const struct layout layouts[FORMATS] = {
    [F16] = {.name = "f16"},
    [ONE] = {"one", 1, 1, {{{4, 4}}, {{4, 4}}}},
    [REFINED] = {"refined", 2, 1, {{{2, 2}, {2, 2}}, {{2, 2}, {2, 2}}}},
    [BOTH] = {"both", 2, 2, {{{4, 2}, {2, 1}}, {{4, 2}, {2, 1}}}},
    [TWO_OF_THREE] = {"two of three", 3, 2, {{{2, 2}, {2, 1}, {1, 1}}, {{4, 1}, {2, 2}, {2, 0}}}},
    [GRADED] = {"graded", 3, 1, {{{4, 1}, {2, 1}, {1, 0}}, {{2, 0}, {1, 0}, {2, 2}}}},
};

static struct kv_codec *codecs[FORMATS];
static struct kv_format formats[FORMATS];

/* Groups beyond the second have no bits. */
static struct kv_codec *codec_of(const struct kv_shape *shape, const struct layout *layout)
{
    enum { MOST_PAGES = 90 };
    static struct kv_code codes[KV_MAX_PARTS][MOST_PAGES];
    struct kv_codec_spec spec = {
        .shape = *shape, .n_parts = layout->n_parts, .n_old_parts = layout->n_old_parts};
    struct kv_codec *codec = NULL;
    int n_pages = shape->n_layers * shape->n_kv_heads;
    assert_true(n_pages <= MOST_PAGES);
    memset(codes, 0, sizeof codes);
    for (int part = 0; part < layout->n_parts; part++) {
        for (int page = 0; page < n_pages; page++) {
            memcpy(codes[part][page].key_bits, layout->bits[page % 2][part], 2);
            memcpy(codes[part][page].value_bits, layout->bits[1 - page % 2][part], 2);
        }
        spec.codes[part] = codes[part];
    }
    assert_int_equal(kv_codec_create(&spec, &codec, NULL), ERR_OK);
    return codec;
}

static int create_formats(void **state)
{
    (void)state;
    for (int f = 0; f < FORMATS; f++) {
        if (f != F16) codecs[f] = codec_of(&small, &layouts[f]);
        formats[f] = (struct kv_format){.index = f, .codec = codecs[f]};
        strcpy(formats[f].name, layouts[f].name);
    }
    return 0;
}

static int free_formats(void **state)
{
    (void)state;
    for (int f = 0; f < FORMATS; f++) kv_codec_free(codecs[f]);
    return 0;
}

static struct kv_policy policy_of(int format, int recent, int sinks)
{
    return (struct kv_policy){
        .shape = small, .format = &formats[format], .recent_blocks = recent, .sink_tokens = sinks};
}

static size_t used_bytes(const struct kv_pool *pool)
{
    struct kv_pool_stats stats;
    size_t bytes = 0;
    kv_pool_stats(pool, &stats);
    for (int class = 0; class < KV_CLASSES; class ++) bytes += stats.used_bytes[class];
    assert_int_equal(bytes, stats.budget_bytes - kv_pool_free_bytes(pool));
    return bytes;
}

/* For all the formats. */
static struct kv_pool *pool_of(size_t bytes)
{
    struct kv_pool *pool = NULL;
    size_t class_bytes[KV_CLASSES] = {0};
    struct err_info info;
    for (int f = 0; f < FORMATS; f++) {
        struct kv_policy policy = policy_of(f, 0, 0);
        kv_policy_classes(&policy, class_bytes);
    }
    assert_int_equal(kv_pool_create(class_bytes, bytes, &pool, &info), ERR_OK);
    return pool;
}

static struct kv_sequence *sequence_of(const struct kv_policy *policy, struct kv_pool *pool,
                                       struct kv_staging *staging, int max_tokens)
{
    struct kv_sequence *seq = NULL;
    assert_int_equal(kv_sequence_create(policy, pool, staging, &memory_backend, max_tokens, &seq, NULL),
                     ERR_OK);
    return seq;
}

static void test_known_numbers(void **state)
{
    (void)state;
    /* 2 and 2 bits of a head of 32: keys and values 512 bytes each, scales 256, 4 pages: 5,120 in two pages
       of memory. */
    struct kv_policy refined = policy_of(REFINED, 8, 4), f16 = policy_of(F16, 8, 4);
    int counts[KV_KINDS];
    size_t class_bytes[KV_CLASSES] = {0};

    assert_int_equal(kv_codec_part_bytes(codecs[REFINED], 0), 4 * (512 + 512 + 256));
    assert_int_equal(kv_policy_block_bytes(&refined, KV_F16), 32768);
    assert_int_equal(kv_policy_block_bytes(&refined, KV_PART0), 8192);
    assert_int_equal(kv_policy_block_bytes(&refined, KV_PART2), 0);
    assert_int_equal(kv_policy_class(&refined, KV_SINK), KV_SINK);
    assert_int_equal(kv_policy_class(&refined, KV_PART1), KV_PART0 + 3 * REFINED + 1);
    kv_policy_classes(&refined, class_bytes);
    assert_int_equal(class_bytes[KV_PART0 + 3 * REFINED + 1], 8192);
    assert_int_equal(class_bytes[KV_PART0 + 3 * REFINED + 2], 0);

    kv_policy_blocks(&f16, 2000, counts);
    assert_int_equal(counts[KV_F16], 32);
    assert_int_equal(kv_policy_bytes(&f16, 2000), 32 * 32768);
    assert_true(kv_policy_bits(&f16, 64) == 16.0);
    kv_policy_blocks(&refined, 2000, counts); /* 31 sealed, 16 tokens open */
    assert_int_equal(counts[KV_F16], 1);
    assert_int_equal(counts[KV_PART0], 31);
    assert_int_equal(counts[KV_PART1], 8);
    assert_int_equal(counts[KV_SINK], 4);
    assert_int_equal(kv_policy_bytes(&refined, 2000), 32768 + 39 * 8192 + 4 * 4096);
    assert_int_equal(kv_policy_parts(&refined), 2);
    refined.recent_blocks = 0;
    assert_int_equal(kv_policy_parts(&refined), 1);
    assert_int_equal(kv_policy_values(&refined, 3), 3 * 2 * 2 * 2 * 32);
}

/* What the policy says it may hold and pass, against every step that there is. */
static void test_bounds_are_exact(void **state)
{
    (void)state;
    enum { MOST = 64 * 7, BATCH = 150 };
    for (int format = 0; format < FORMATS; format++) {
        for (int recent = 0; recent <= 3; recent++) {
            for (int sinks = 0; sinks <= 64; sinks += 32) {
                struct kv_policy policy = policy_of(format, recent, sinks);
                size_t most_held = 0, most_excess = 0;
                for (int n = 0; n < MOST; n++) {
                    size_t held = kv_policy_held_bytes(&policy, n);
                    if (held > most_held) most_held = held;
                    assert_int_equal(kv_policy_bytes(&policy, n), most_held);
                    for (int n_new = 1; n_new <= BATCH; n_new++) {
                        size_t peak = kv_policy_peak_bytes(&policy, n, n_new);
                        size_t bound = kv_policy_bytes(&policy, n + n_new);
                        if (peak > bound + most_excess) most_excess = peak - bound;
                    }
                }
                assert_int_equal(kv_policy_step_bytes(&policy, BATCH), most_excess);
            }
        }
    }
}

static void test_pool_budget(void **state)
{
    (void)state;
    struct kv_pool *pool = NULL;
    struct err_info info;
    struct kv_policy policy = policy_of(F16, 0, 0);
    size_t class_bytes[KV_CLASSES] = {0}, f16 = kv_policy_block_bytes(&policy, KV_F16);

    kv_policy_classes(&policy, class_bytes);
    assert_int_equal(kv_pool_create(class_bytes, f16 - 1, &pool, &info), ERR_CAPACITY);
    assert_string_equal(info.param, "kv-cache-bytes");

    pool = pool_of(3 * f16);
    char *a = kv_pool_take(pool, KV_F16), *b = kv_pool_take(pool, KV_F16), *c = kv_pool_take(pool, KV_F16);
    assert_true(a != NULL && b != NULL && c != NULL && a != b && b != c && a != c);
    assert_null(kv_pool_take(pool, KV_F16));
    assert_null(kv_pool_take(pool, KV_SINK));
    kv_pool_retain(pool, KV_F16, b);
    kv_pool_release(pool, KV_F16, b);
    assert_int_equal(kv_pool_free_bytes(pool), 0);
    kv_pool_release(pool, KV_F16, b);
    assert_int_equal(kv_pool_free_bytes(pool), f16);
    assert_ptr_equal(kv_pool_take(pool, KV_F16), b);
    kv_pool_release(pool, KV_F16, a);
    kv_pool_release(pool, KV_F16, b);
    kv_pool_release(pool, KV_F16, c);
    kv_pool_check(pool);
    kv_pool_free(pool);
}

/* Resident pages of the whole process, from the kernel's own count. */
static size_t resident_bytes(void)
{
    unsigned long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lu %lu", &total, &resident), 2);
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

#ifdef __SANITIZE_THREAD__
enum { RESIDENT_COUNTS = 0 }; /* its shadow memory is several times ours */
#else
enum { RESIDENT_COUNTS = 1 };
#endif

/* Filling the pool with one class after the other keeps resident memory within one budget, not one per class.
   The blocks are those of a real model's o2: larger than the pages of memory. */
static void test_pool_gives_memory_back(void **state)
{
    (void)state;
    size_t budget = (size_t)24 << 20, class_bytes[KV_CLASSES] = {0};
    struct kv_codec *codec = codec_of(&smollm2, &layouts[GRADED]);
    struct kv_format format = {.index = 2, .codec = codec};
    struct kv_policy policy = {.shape = smollm2, .format = &format};
    struct kv_pool *pool = NULL;
    kv_policy_classes(&policy, class_bytes);
    assert_int_equal(kv_pool_create(class_bytes, budget, &pool, NULL), ERR_OK);
    char **blocks = calloc(budget / kv_pool_block_bytes(pool, KV_SINK) + 1, sizeof *blocks);
    size_t before = resident_bytes();

    for (int kind = 0; kind < KV_KINDS; kind++) {
        int n = 0, class = kv_policy_class(&policy, (enum kv_kind)kind);
        size_t bytes = kv_policy_block_bytes(&policy, (enum kv_kind)kind);
        assert_int_equal(kv_pool_block_bytes(pool, class), bytes);
        while ((blocks[n] = kv_pool_take(pool, class)) != NULL) memset(blocks[n++], kind + 1, bytes);
        assert_int_equal(n, budget / bytes);
        if (RESIDENT_COUNTS) assert_true(resident_bytes() < before + budget + budget / 4);
        for (int i = 0; i < n; i++) {
            assert_int_equal(blocks[i][0], kind + 1);
            kv_pool_release(pool, class, blocks[i]);
        }
        kv_pool_check(pool);
    }
    free(blocks);
    kv_pool_free(pool);
    kv_codec_free(codec);
}

/* Random takes and releases of all classes, against a plain model: a block is its holder's alone. */
static void test_pool_random(void **state)
{
    (void)state;
    enum { HELD = 400 };
    struct held {
        char *block;
        int class;
        unsigned char mark;
    } held[HELD];
    struct kv_pool *pool = pool_of((size_t)60 * 32768);
    int n = 0, refused = 0;

    srand(1);
    for (int step = 0; step < 20000; step++) {
        int class = rand() % (KV_PART0 + KV_MAX_PARTS * FORMATS);
        size_t bytes = kv_pool_block_bytes(pool, class);
        char *block = bytes > 0 && n < HELD && rand() % 100 < 65 ? kv_pool_take(pool, class) : NULL;
        if (block != NULL) {
            held[n] = (struct held){block, class, (unsigned char)rand()};
            memset(block, held[n].mark, bytes);
            n++;
        } else if (n > 0) {
            int i = rand() % n;
            size_t last = kv_pool_block_bytes(pool, held[i].class) - 1;
            assert_int_equal((unsigned char)held[i].block[0], held[i].mark);
            assert_int_equal((unsigned char)held[i].block[last], held[i].mark);
            kv_pool_release(pool, held[i].class, held[i].block);
            held[i] = held[--n];
            refused++;
        }
        if (step % 64 == 0) kv_pool_check(pool);
    }
    assert_true(refused > 0);
    while (n > 0) {
        n--;
        kv_pool_release(pool, held[n].class, held[n].block);
    }
    assert_int_equal(used_bytes(pool), 0);
    kv_pool_free(pool);
}

static void check_span(const struct kv_sequence *seq, const struct kv_policy *policy, int before, int n_new)
{
    struct attention_span span;
    int last = before + n_new;
    kv_sequence_span(seq, 7, &span);
    assert_int_equal(span.first_row, 7);
    assert_int_equal(span.n_rows, n_new);
    assert_int_equal(span.first_pos, before);
    assert_int_equal(span.n_blocks, (last + 63) / 64);
    assert_ptr_equal(span.codec, policy->format->codec);
    assert_int_equal(span.recent_blocks, policy->recent_blocks);
    for (int b = 0; b < span.n_blocks; b++) {
        const struct kv_block_ref *block = &span.blocks[b];
        bool coded = span.codec != NULL, sealed = coded && 64 * (b + 1) <= last;
        bool written = 64 * (b + 1) > before; /* takes tokens in this step */
        /* Every row that may read all parts finds them: the first row of the step is the nearest to b. */
        bool recent =
            sealed && (written ? policy->recent_blocks > 0 : before / 64 - b <= policy->recent_blocks);
        int n_parts = !sealed ? 0 : recent ? span.codec->n_parts : span.codec->n_old_parts;
        for (int part = 0; part < KV_MAX_PARTS; part++)
            assert_int_equal(block->parts[part] != NULL, part < n_parts);
        assert_int_equal(block->f16 != NULL, !coded || written);
        assert_int_equal(block->sink_mask, sealed ? kv_policy_sink_mask(policy, b) : 0);
        for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++) assert_non_null(block->sinks[s]);
        if (block->f16 != NULL) {
            bool staged = sealed && 64 * b >= before;
            assert_int_equal(block->f16_layer_stride == 0, staged);
        }
    }
}

/* Blocks of each kind that the pool has handed out, all for sequences of one policy. */
static void check_counts(const struct kv_pool *pool, const struct kv_policy *policy, const int *counts)
{
    struct kv_pool_stats stats;
    int64_t total = 0, expected = 0;
    kv_pool_stats(pool, &stats);
    for (int kind = 0; kind < KV_KINDS; kind++) {
        int class = kv_policy_class(policy, (enum kv_kind)kind);
        assert_int_equal(stats.used_blocks[class], counts[kind]);
        expected += counts[kind];
    }
    for (int class = 0; class < KV_CLASSES; class ++) total += stats.used_blocks[class];
    assert_int_equal(total, expected);
}

/* Grow one sequence by steps of `chunk` (0: random) and compare what the pool handed out with the arithmetic.
 */
static void grow(const struct kv_policy *policy, int chunk, int max_tokens)
{
    size_t most = 0, headroom = kv_policy_step_bytes(policy, 512);
    struct kv_pool *pool = pool_of(kv_policy_bytes(policy, max_tokens) + headroom);
    struct kv_staging *staging = kv_staging_create(&policy->shape, 512, &memory_backend);
    struct kv_sequence *seq = sequence_of(policy, pool, staging, max_tokens);
    struct kv_pool_stats stats;

    for (int n = 0; n < max_tokens;) {
        int n_new = chunk > 0 ? chunk : 1 + rand() % 512, counts[KV_KINDS];
        if (n_new > max_tokens - n) n_new = max_tokens - n;
        size_t peak = kv_policy_peak_bytes(policy, n, n_new);
        kv_staging_reset(staging);
        assert_int_equal(kv_sequence_begin(seq, n_new, NULL), ERR_OK);
        if (rand() % 4 == 0) { /* a step that fails leaves no trace */
            kv_sequence_abort(seq);
            assert_int_equal(used_bytes(pool), kv_policy_held_bytes(policy, n));
            kv_staging_reset(staging);
            assert_int_equal(kv_sequence_begin(seq, n_new, NULL), ERR_OK);
        }
        assert_int_equal(used_bytes(pool), peak);
        check_span(seq, policy, n, n_new);
        kv_sequence_end(seq);
        n += n_new;

        kv_policy_blocks(policy, n, counts);
        check_counts(pool, policy, counts);
        size_t held = used_bytes(pool);
        if (held > most) most = held;
        assert_int_equal(held, kv_policy_held_bytes(policy, n));
        assert_int_equal(held, kv_sequence_bytes(seq));
        assert_int_equal(kv_sequence_tokens(seq), n);
        assert_true(most <= kv_policy_bytes(policy, n));
        if (chunk == 1) assert_int_equal(most, kv_policy_bytes(policy, n));
        assert_true(peak <= kv_policy_bytes(policy, n) + headroom);
        kv_pool_stats(pool, &stats);
        assert_int_equal(stats.stored_values, kv_policy_values(policy, n));
    }
    kv_sequence_free(seq);
    kv_pool_stats(pool, &stats);
    assert_int_equal(stats.stored_values, 0);
    kv_staging_free(staging);
    kv_pool_free(pool);
}

static void test_growth_is_the_arithmetic(void **state)
{
    (void)state;
    static const int recents[] = {0, 1, 8}, sinks[] = {0, 4, 64}, chunks[] = {1, 63, 65, 512, 0};
    srand(2);
    for (int format = 0; format < FORMATS; format++) {
        for (size_t r = 0; r < sizeof recents / sizeof recents[0]; r++) {
            for (size_t s = 0; s < sizeof sinks / sizeof sinks[0]; s++) {
                struct kv_policy policy = policy_of(format, recents[r], sinks[s]);
                for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) grow(&policy, chunks[c], 900);
            }
        }
    }
}

/* With a page less than kv_policy_peak_bytes a step cannot begin, and nothing has changed. */
static void test_peak_is_needed(void **state)
{
    (void)state;
    struct kv_staging *staging = kv_staging_create(&small, 512, &memory_backend);
    for (int format = 0; format < FORMATS; format++) {
        for (int recent = 0; recent <= 2; recent++) {
            struct kv_policy policy = policy_of(format, recent, 4);
            for (int n = 1; n < 400; n += n % 64 == 0 ? 11 : 64 - n % 64 < 13 ? 64 - n % 64 : 13) {
                for (int n_new = 1; n_new < 300; n_new += 31) {
                    size_t held = kv_policy_held_bytes(&policy, n);
                    size_t peak = kv_policy_peak_bytes(&policy, n, n_new);
                    char *eaten[2048];
                    int n_eaten = 0;
                    if (peak <= held) continue; /* needs nothing */
                    struct kv_pool *pool = pool_of((size_t)4 << 20);
                    struct kv_sequence *seq = sequence_of(&policy, pool, staging, 1000);
                    kv_staging_reset(staging);
                    assert_int_equal(kv_sequence_begin(seq, n, NULL), ERR_OK);
                    kv_sequence_end(seq);
                    /* A neighbour that holds the rest. */
                    while (kv_pool_free_bytes(pool) >= peak - held)
                        eaten[n_eaten++] = kv_pool_take(pool, KV_SINK);
                    kv_staging_reset(staging);
                    assert_int_equal(kv_sequence_begin(seq, n_new, NULL), ERR_BUSY);
                    assert_int_equal(kv_sequence_bytes(seq), held);
                    kv_pool_release(pool, KV_SINK, eaten[--n_eaten]);
                    kv_staging_reset(staging);
                    assert_int_equal(kv_sequence_begin(seq, n_new, NULL), ERR_OK);
                    kv_sequence_end(seq);
                    assert_int_equal(kv_sequence_bytes(seq), kv_policy_held_bytes(&policy, n + n_new));
                    kv_sequence_free(seq);
                    while (n_eaten > 0) kv_pool_release(pool, KV_SINK, eaten[--n_eaten]);
                    kv_pool_free(pool);
                }
            }
        }
    }
    kv_staging_free(staging);
}

static void extend(struct kv_sequence *seq, struct kv_staging *staging, int n)
{
    kv_staging_reset(staging);
    assert_int_equal(kv_sequence_begin(seq, n, NULL), ERR_OK);
    kv_sequence_end(seq);
}

/* Reset readies a sequence for another format. */
static void test_reset(void **state)
{
    (void)state;
    struct kv_pool *pool = pool_of((size_t)4 << 20);
    struct kv_staging *staging = kv_staging_create(&small, 512, &memory_backend);
    struct kv_policy first = policy_of(F16, 1, 4);
    struct kv_sequence *seq = sequence_of(&first, pool, staging, 1000);
    for (int format = 0; format < FORMATS; format++) {
        struct kv_policy policy = policy_of(format, 1, 4);
        kv_sequence_reset(seq, &policy);
        assert_int_equal(used_bytes(pool), 0);
        extend(seq, staging, 320);
        extend(seq, staging, 100);
        assert_int_equal(used_bytes(pool), kv_policy_held_bytes(&policy, 420));
    }
    kv_sequence_free(seq);
    kv_staging_free(staging);
    kv_pool_free(pool);
}

/* Blocks of the first n_blocks that both have, to the address; the rest is each one's own. */
static void check_shared(struct kv_sequence *a, struct kv_sequence *b, int n_blocks)
{
    struct attention_span one, other;
    assert_int_equal(kv_sequence_begin(a, 1, NULL), ERR_OK);
    assert_int_equal(kv_sequence_begin(b, 1, NULL), ERR_OK);
    kv_sequence_span(a, 0, &one);
    kv_sequence_span(b, 1, &other);
    for (int i = 0; i < n_blocks; i++) {
        const struct kv_block_ref *x = &one.blocks[i], *y = &other.blocks[i];
        assert_ptr_equal(x->f16, y->f16);
        assert_int_equal(x->sink_mask, y->sink_mask);
        for (int part = 0; part < KV_MAX_PARTS; part++)
            if (x->parts[part] != NULL && y->parts[part] != NULL)
                assert_ptr_equal(x->parts[part], y->parts[part]);
        for (int s = 0; s < __builtin_popcountll(x->sink_mask); s++)
            assert_ptr_equal(x->sinks[s], y->sinks[s]);
    }
    for (int i = n_blocks; i < one.n_blocks && i < other.n_blocks; i++) {
        const struct kv_block_ref *x = &one.blocks[i], *y = &other.blocks[i];
        assert_true(x->f16 == NULL || x->f16 != y->f16);
        assert_true(x->parts[0] == NULL || x->parts[0] != y->parts[0]);
    }
    kv_sequence_abort(a);
    kv_sequence_abort(b);
}

/* A fork holds what it would have held alone and costs the pool its open block; each grows and ages by
   itself; whoever goes last gives the blocks back. */
static void test_fork(void **state)
{
    (void)state;
    static const int lengths[] = {0, 1, 63, 64, 65, 300, 320};
    struct kv_staging *staging = kv_staging_create(&small, 512, &memory_backend);
    for (int format = 0; format < FORMATS; format++) {
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            struct kv_policy policy = policy_of(format, 2, 4), other_policy = policy_of(F16, 0, 0);
            struct kv_pool *pool = pool_of((size_t)4 << 20);
            struct kv_sequence *a = sequence_of(&policy, pool, staging, 1000);
            struct kv_sequence *b = sequence_of(&other_policy, pool, staging, 1000);
            struct kv_pool_stats stats;
            struct attention_span span;
            int n = lengths[i];
            size_t held = kv_policy_held_bytes(&policy, n), open = n % 64 ? 32768 : 0;
            if (n > 0) extend(a, staging, n);
            extend(b, staging, 100); /* which the fork forgets */
            if (open > 0) {
                assert_int_equal(kv_sequence_begin(a, 1, NULL), ERR_OK);
                kv_sequence_span(a, 0, &span);
                memset(span.blocks[n / 64].f16, 7, 32768);
                kv_sequence_abort(a);
            }
            assert_int_equal(kv_sequence_fork(a, b, NULL), ERR_OK);
            assert_int_equal(used_bytes(pool), held + open);
            assert_int_equal(kv_sequence_bytes(b), held);
            assert_int_equal(kv_sequence_tokens(b), n);
            kv_pool_stats(pool, &stats);
            assert_int_equal(stats.stored_values, 2 * kv_policy_values(&policy, n));
            kv_staging_reset(staging);
            check_shared(a, b, n / 64);
            if (open > 0) {
                assert_int_equal(kv_sequence_begin(b, 1, NULL), ERR_OK);
                kv_sequence_span(b, 0, &span);
                for (int at = 0; at < 32768; at++) assert_int_equal(span.blocks[n / 64].f16[at], 7);
                kv_sequence_abort(b);
            }
            extend(a, staging, 200);
            extend(b, staging, 10);
            assert_int_equal(kv_sequence_bytes(a), kv_policy_held_bytes(&policy, n + 200));
            assert_int_equal(kv_sequence_bytes(b), kv_policy_held_bytes(&policy, n + 10));
            check_shared(a, b, n / 64);
            kv_pool_check(pool);
            kv_sequence_free(a);
            assert_int_equal(used_bytes(pool), kv_policy_held_bytes(&policy, n + 10));
            extend(b, staging, 300);
            assert_int_equal(used_bytes(pool), kv_policy_held_bytes(&policy, n + 310));
            kv_sequence_free(b);
            assert_int_equal(used_bytes(pool), 0);
            kv_pool_free(pool);
        }
    }
    kv_staging_free(staging);
}

/* No room for the open block: nothing is taken, and the other one is empty. */
static void test_fork_without_room(void **state)
{
    (void)state;
    struct kv_policy policy = policy_of(REFINED, 2, 4);
    struct kv_pool *pool = pool_of(kv_policy_peak_bytes(&policy, 0, 100));
    struct kv_staging *staging = kv_staging_create(&small, 512, &memory_backend);
    struct kv_sequence *a = sequence_of(&policy, pool, staging, 1000);
    struct kv_sequence *b = sequence_of(&policy, pool, staging, 1000);
    struct err_info info;
    extend(a, staging, 100);
    assert_int_equal(kv_sequence_fork(a, b, &info), ERR_BUSY);
    assert_int_equal(used_bytes(pool), kv_policy_held_bytes(&policy, 100));
    assert_int_equal(kv_sequence_tokens(b), 0);
    kv_sequence_free(a);
    kv_sequence_free(b);
    kv_staging_free(staging);
    kv_pool_free(pool);
}

static void test_format_names(void **state)
{
    (void)state;
    static const char *const good[] = {"f16", "o2", "o1.5,f16,o2.5,o3,o4,o8", "k4v2",
                                       "k1.5v8,k2.5v2.5,rotatekv"};
    static const struct {
        const char *names, *says;
    } bad[] = {
        {"", "''"},
        {"q2", "'q2'"},
        {"o2,", "''"},
        {"o2,,f16", "''"},
        {"o", "'o'"},
        {"o22", "'o22'"},
        {"o5", "'o5'"},
        {"o2 ", "'o2 '"},
        {"k2", "'k2'"},
        {"k2v", "'k2v'"},
        {"k2v2v2", "'k2v2v2'"},
        {"v2k2", "'v2k2'"},
        {"f16,o2,f16", "twice"},
        {"o2,o3,o4,o8,f16,k2v3,k2v4,k2v8,k3v2", "more than 8"},
        {"o2.................................................................................", "'o2..."},
    };
    struct err_info info;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(kv_formats_check(good[i], NULL), ERR_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(kv_formats_check(bad[i].names, &info), ERR_USAGE);
        assert_string_equal(info.param, "kv-format");
        if (strstr(info.message, bad[i].says) == NULL) fail_msg("%s: %s", bad[i].names, info.message);
    }
    assert_non_null(strstr(info.message, "known are f16, "));
}

static void test_format_set(void **state)
{
    (void)state;
    struct kv_formats *set = NULL;
    double inv_freq[32];
    char list[KV_FORMAT_LIST_BYTES];
    for (int i = 0; i < 32; i++) inv_freq[i] = 1.0 / (1 + i);
    assert_int_equal(kv_formats_create(&smollm2, "o2,f16,k4v2", NULL, 4, inv_freq, &set, NULL), ERR_OK);
    assert_int_equal(kv_formats_count(set), 3);
    assert_string_equal(kv_formats_at(set, 0)->name, "o2");
    assert_null(kv_formats_at(set, 1)->codec);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kv_formats_at(set, i)->index, i);
        assert_ptr_equal(kv_formats_find(set, kv_formats_at(set, i)->name), kv_formats_at(set, i));
    }
    assert_null(kv_formats_find(set, "o4"));
    kv_formats_list(set, list, sizeof list);
    assert_string_equal(list, "o2, f16, k4v2");

    struct kv_policy o2 = {smollm2, kv_formats_at(set, 0), 8, 4},
                     f16 = {smollm2, kv_formats_at(set, 1), 8, 4};
    struct kv_policy k4v2 = {smollm2, kv_formats_at(set, 2), 8, 4};
    double ratio = (double)kv_policy_bytes(&f16, 2000) / (double)kv_policy_bytes(&o2, 2000);
    print_message("SmolLM2, 2,000 tokens: f16 %zu bytes, o2 %zu bytes, %.2f times; %.3f bits per value\n",
                  kv_policy_bytes(&f16, 2000), kv_policy_bytes(&o2, 2000), ratio, kv_policy_bits(&o2, 2000));
    assert_true(ratio > 4.5 && ratio < 6);
    assert_true(kv_policy_bytes(&k4v2, 2000) > kv_policy_bytes(&o2, 2000));
    kv_formats_free(set);
    kv_formats_free(NULL);
    assert_int_equal(kv_formats_create(&smollm2, "f16", NULL, 4, NULL, &set, NULL), ERR_OK);
    kv_formats_free(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_names),   cmocka_unit_test(test_format_set),
        cmocka_unit_test(test_known_numbers),  cmocka_unit_test(test_bounds_are_exact),
        cmocka_unit_test(test_pool_budget),    cmocka_unit_test(test_pool_gives_memory_back),
        cmocka_unit_test(test_pool_random),    cmocka_unit_test(test_growth_is_the_arithmetic),
        cmocka_unit_test(test_peak_is_needed), cmocka_unit_test(test_reset),
        cmocka_unit_test(test_fork),           cmocka_unit_test(test_fork_without_room),
    };
    return cmocka_run_group_tests(tests, create_formats, free_formats);
}
