/* The second store: what the prefix cache gives up comes back byte for byte, from memory and from a file, for
   the host and for a device; what is damaged is forgotten and counted; a disk that is full ends it. */
#define _GNU_SOURCE /* SEEK_DATA */
#include "cache/swap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct kv_shape shape = {.n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 32};
enum { RECENT = 2, SINKS = 4, BLOCKS = 12 };
static const double inv_freq[16] = {1, .5, .25, .1, .05, .02, .01, .005, .002, .001};
static struct kv_formats *formats;
static char path[64];

/* A device whose memory the host must not look at: it reads as the complement. */
static void device_upload(struct backend *self, void *to, const void *from, size_t n)
{
    (void)self;
    for (size_t i = 0; i < n; i++) ((char *)to)[i] = (char)~((const char *)from)[i];
}

static void host_copy(struct backend *self, void *to, const void *from, size_t n)
{
    (void)self;
    memcpy(to, from, n);
}

static struct backend host = {.name = "host", .is_host = true, .upload = host_copy, .download = host_copy},
                      device = {.name = "device", .upload = device_upload, .download = device_upload};

struct rig {
    struct kv_policy policy;
    struct kv_pool *pool;
    struct kv_prefix *prefix;
    struct kv_swap *swap;
    struct kv_hash keys[BLOCKS];
};

static void settle(struct kv_swap *swap)
{
    while (kv_swap_wait(swap, 1000)) continue;
}

static bool patient = true; /* every block is written before the next one comes */

static void evicted(void *context, struct kv_hash key, const struct kv_format *format,
                    const struct kv_block_ref *block, int chances)
{
    kv_swap_put(context, key, format, block, chances);
    if (patient) settle(context);
}

static void rig_open(struct rig *rig, const char *format, struct backend *backend, const char *file,
                     size_t swap_bytes)
{
    size_t class_bytes[KV_CLASSES] = {0};
    struct kv_policy policies[3];
    for (int f = 0; f < kv_formats_count(formats); f++) {
        policies[f] = (struct kv_policy){shape, kv_formats_at(formats, f), RECENT, SINKS};
        kv_policy_classes(&policies[f], class_bytes);
    }
    rig->policy = (struct kv_policy){shape, kv_formats_find(formats, format), RECENT, SINKS};
    assert_int_equal(kv_pool_create(class_bytes, (size_t)8 << 20, &rig->pool, NULL), ERR_OK);
    assert_int_equal(kv_prefix_create(rig->pool, SINKS, &rig->prefix, NULL), ERR_OK);
    struct kv_swap_options options = {.backend = backend,
                                      .policies = policies,
                                      .n_policies = kv_formats_count(formats),
                                      .budget_bytes = swap_bytes,
                                      .path = file,
                                      .max_blocks = BLOCKS,
                                      .max_sinks = SINKS};
    assert_int_equal(kv_swap_create(&options, &rig->swap, NULL), ERR_OK);
    kv_prefix_on_evict(rig->prefix, evicted, rig->swap);
    struct kv_hash key = kv_prefix_seed("text", 4);
    for (int b = 0; b < BLOCKS; b++) {
        int32_t tokens[KV_BLOCK_TOKENS] = {b};
        rig->keys[b] = key = kv_prefix_hash(key, tokens);
    }
}

static void rig_close(struct rig *rig)
{
    kv_prefix_check(rig->prefix);
    kv_swap_check(rig->swap);
    kv_prefix_on_evict(rig->prefix, NULL, NULL);
    kv_prefix_free(rig->prefix);
    kv_swap_free(rig->swap);
    kv_pool_free(rig->pool);
    assert_int_not_equal(access(path, F_OK), 0); /* it removes its file */
}

/* What stands in piece `piece` of block b. */
static char byte_of(int b, int piece, size_t i)
{
    return (char)(i * 7 + i / 251 + (size_t)b * 31 + (size_t)piece * 17);
}

static size_t piece_bytes(const struct rig *rig, int piece)
{
    const struct kv_codec *codec = rig->policy.format->codec;
    if (piece >= KV_MAX_PARTS) return kv_block_bytes(KV_SINK, &shape);
    return codec != NULL ? kv_codec_part_bytes(codec, piece) : kv_block_bytes(KV_F16, &shape);
}

static char *take(struct rig *rig, int class, int b, int piece)
{
    char *memory = kv_pool_take(rig->pool, class);
    assert_non_null(memory);
    for (size_t i = 0; i < piece_bytes(rig, piece); i++) memory[i] = byte_of(b, piece, i);
    return memory;
}

static void check(const struct rig *rig, const char *memory, int b, int piece)
{
    for (size_t i = 0; i < piece_bytes(rig, piece); i++) assert_int_equal(memory[i], byte_of(b, piece, i));
}

/* Blocks 0 to BLOCKS-1 of a sequence that ended: the recent ones have recent parts. */
static void fill(struct rig *rig)
{
    const struct kv_format *format = rig->policy.format;
    struct kv_prefix_entry *entries[BLOCKS];
    enum kv_prefix_use uses[BLOCKS];
    for (int b = 0; b < BLOCKS; b++) {
        char *sinks[SINKS];
        struct kv_block_ref block = {.sinks = sinks};
        uses[b] = kv_prefix_use_of(format, b, BLOCKS - RECENT, BLOCKS);
        int n_parts = format->codec == NULL   ? 1
                      : uses[b] == KV_USE_OLD ? format->codec->n_old_parts
                                              : format->codec->n_parts;
        for (int p = 0; p < n_parts; p++) block.parts[p] = take(rig, kv_format_part_class(format, p), b, p);
        if (format->codec == NULL) block.f16 = block.parts[0];
        if (b == 0) block.sink_mask = kv_policy_sink_mask(&rig->policy, 0);
        for (int s = 0; s < __builtin_popcountll(block.sink_mask); s++)
            sinks[s] = take(rig, KV_SINK, b, KV_MAX_PARTS + s);
        entries[b] = kv_prefix_insert(rig->prefix, rig->keys[b], format, uses[b], &block);
        assert_non_null(entries[b]);
    }
    for (int b = BLOCKS - 1; b >= 0; b--) kv_prefix_drop(rig->prefix, entries[b], uses[b]);
    kv_prefix_check(rig->prefix);
}

static int longest(const struct rig *rig)
{
    int recent = rig->policy.format->codec != NULL ? RECENT : 0;
    return kv_prefix_longest(rig->prefix, rig->keys, BLOCKS, recent);
}

static int longest_of_both(const struct rig *rig)
{
    int recent = rig->policy.format->codec != NULL ? RECENT : 0;
    return kv_swap_longest(rig->swap, rig->prefix, rig->keys, BLOCKS, recent);
}

static void fetch(struct rig *rig, int n)
{
    int recent = rig->policy.format->codec != NULL ? RECENT : 0;
    while (!kv_swap_fetch(rig->swap, rig->prefix, rig->pool, rig->keys, n, recent))
        kv_swap_wait(rig->swap, 1000);
    kv_prefix_check(rig->prefix);
    kv_swap_check(rig->swap);
    kv_pool_check(rig->pool);
}

static void check_blocks(const struct rig *rig, int n)
{
    for (int b = 0; b < n; b++) {
        const struct kv_format *format;
        struct kv_block_ref block;
        kv_prefix_view(kv_prefix_find(rig->prefix, rig->keys[b]), &format, &block);
        for (int p = 0; p < KV_MAX_PARTS; p++)
            if (block.parts[p] != NULL) check(rig, block.parts[p], b, p);
        for (int s = 0; s < __builtin_popcountll(block.sink_mask); s++)
            check(rig, block.sinks[s], b, KV_MAX_PARTS + s);
        assert_int_equal(block.sink_mask, kv_policy_sink_mask(&rig->policy, b));
    }
}

static struct kv_swap_stats stats_of(const struct rig *rig)
{
    struct kv_swap_stats stats;
    kv_swap_stats(rig->swap, &stats);
    return stats;
}

static void round_trip(const char *format, struct backend *backend, const char *file)
{
    struct rig rig;
    rig_open(&rig, format, backend, file, (size_t)8 << 20);
    fill(&rig);
    assert_int_equal(longest(&rig), BLOCKS);
    kv_prefix_clear(rig.prefix);
    assert_int_equal(longest(&rig), 0);
    assert_int_equal(longest_of_both(&rig), BLOCKS);
    assert_int_equal(stats_of(&rig).n_blocks, BLOCKS);
    fetch(&rig, BLOCKS);
    assert_int_equal(longest(&rig), BLOCKS);
    check_blocks(&rig, BLOCKS);
    /* Given up again it costs nothing, and half a chain, of which the cache has something, comes too. */
    struct kv_swap_stats before = stats_of(&rig);
    kv_prefix_reclaim(rig.prefix, kv_pool_free_bytes(rig.pool) + 1);
    kv_prefix_reclaim(rig.prefix, kv_pool_free_bytes(rig.pool) + 1);
    fetch(&rig, BLOCKS);
    assert_int_equal(longest(&rig), BLOCKS);
    check_blocks(&rig, BLOCKS);
    kv_prefix_clear(rig.prefix);
    assert_int_equal(stats_of(&rig).out_bytes, before.out_bytes);
    assert_int_equal(stats_of(&rig).failures + stats_of(&rig).bad_checksums, 0);
    rig_close(&rig);
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int f = 0; f < kv_formats_count(formats); f++) {
        const char *name = kv_formats_at(formats, f)->name;
        round_trip(name, &host, NULL);
        round_trip(name, &host, path);
        round_trip(name, &device, NULL);
        round_trip(name, &device, path);
    }
}

/* A store that holds a few blocks: it keeps the beginnings of chains. */
static void test_small_store(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, "f16", &host, path, 5 * ((size_t)16384 + 4096 + 4096));
    fill(&rig);
    kv_prefix_clear(rig.prefix);
    int n = longest_of_both(&rig);
    assert_true(n >= 3 && n < BLOCKS);
    fetch(&rig, n);
    assert_int_equal(longest(&rig), n);
    check_blocks(&rig, n);
    rig_close(&rig);
}

/* Somebody wrote into the file, or cut it short: that block is lost, those before it are not. */
static void damage(const char *format, bool truncated)
{
    struct rig rig;
    rig_open(&rig, format, &host, path, (size_t)8 << 20);
    fill(&rig);
    kv_prefix_clear(rig.prefix);
    struct stat stat;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &stat) == 0);
    if (truncated) {
        assert_int_equal(ftruncate(fd, 0), 0);
    } else {
        /* One byte in each page that is there. */
        for (off_t at = 4096; at < stat.st_size; at += 4096) {
            char byte;
            if (pread(fd, &byte, 1, at) != 1 || lseek(fd, at, SEEK_DATA) != at) continue;
            byte ^= 1;
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
    }
    close(fd);
    assert_int_equal(longest_of_both(&rig), BLOCKS);
    fetch(&rig, BLOCKS);
    settle(rig.swap);
    assert_int_equal(longest(&rig), 0);
    struct kv_swap_stats stats = stats_of(&rig);
    int64_t lost =
        (int64_t)(truncated ? stats.failures : stats.bad_checksums); /* it and what was read ahead */
    assert_in_range(lost, 1, BLOCKS);
    assert_int_equal(truncated ? stats.bad_checksums : stats.failures, 0);
    assert_int_equal(stats.n_blocks, BLOCKS - lost);
    /* It goes on: what is written from now on is good. */
    fill(&rig);
    kv_prefix_clear(rig.prefix);
    assert_false(stats_of(&rig).given_up);
    rig_close(&rig);
}

static void test_damage(void **state)
{
    (void)state;
    for (int f = 0; f < kv_formats_count(formats); f++) {
        damage(kv_formats_at(formats, f)->name, false);
        damage(kv_formats_at(formats, f)->name, true);
    }
}

/* A limit on the size of files does what a full disk does: a write fails in the middle. */
static void test_full_disk(void **state)
{
    (void)state;
    struct rig rig;
    struct rlimit limit, small;
    rig_open(&rig, "f16", &host, path, (size_t)8 << 20);
    fill(&rig);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    small = limit;
    small.rlim_cur = 4096 + 3 * 20480 + 10000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    kv_prefix_clear(rig.prefix);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct kv_swap_stats stats = stats_of(&rig);
    assert_true(stats.given_up);
    assert_int_equal(stats.failures, 1);
    assert_int_equal(stats.n_blocks, 0);
    struct stat file;
    assert_int_equal(stat(path, &file), 0);
    assert_true(file.st_size < 4096);
    fill(&rig);
    kv_prefix_clear(rig.prefix);
    assert_int_equal(stats_of(&rig).n_blocks, 0);
    fetch(&rig, BLOCKS);
    assert_int_equal(longest(&rig), 0);
    rig_close(&rig);
}

/* Faster than the thread writes: what it cannot take is lost and counted, what it took comes back. */
static void test_full_queue(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig, "f16", &host, path, (size_t)8 << 20);
    patient = false;
    for (int round = 0; round < 50; round++) {
        fill(&rig);
        kv_prefix_clear(rig.prefix);
        fetch(&rig, longest_of_both(&rig)); /* also what is still on its way out */
        check_blocks(&rig, longest(&rig));
        kv_prefix_clear(rig.prefix);
        struct kv_swap_stats stats = stats_of(&rig);
        assert_int_equal(stats.failures + stats.bad_checksums, 0);
    }
    settle(rig.swap);
    struct kv_swap_stats stats = stats_of(&rig);
    assert_int_equal(stats.n_blocks, BLOCKS);
    assert_true(stats.out_blocks >= BLOCKS);
    patient = true;
    rig_close(&rig);
}

/* It is closed while blocks are on their way in and out. */
static void test_close_under_way(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        struct rig rig;
        rig_open(&rig, "o2", &host, path, (size_t)8 << 20);
        fill(&rig);
        kv_prefix_clear(rig.prefix);
        patient = false;
        kv_swap_fetch(rig.swap, rig.prefix, rig.pool, rig.keys, BLOCKS, RECENT);
        fill(&rig);
        if (round % 2 == 0) kv_swap_fetch(rig.swap, rig.prefix, rig.pool, rig.keys, BLOCKS / 2, RECENT);
        kv_prefix_clear(rig.prefix);
        rig_close(&rig);
        patient = true;
    }
}

/* How many blocks come after block 0, in a store of six places, until it has to go. */
static int life_of(int chances, bool fetched)
{
    enum { HELD = 6 };
    struct rig rig;
    const struct kv_format *format;
    struct kv_block_ref blocks[BLOCKS];
    int n = 0;
    rig_open(&rig, "f16", &host, NULL, HELD * ((size_t)32768 + 4096));
    kv_prefix_on_evict(rig.prefix, NULL, NULL);
    fill(&rig);
    for (int b = 0; b < BLOCKS; b++)
        kv_prefix_view(kv_prefix_find(rig.prefix, rig.keys[b]), &format, &blocks[b]);
    kv_swap_put(rig.swap, rig.keys[0], format, &blocks[0], chances);
    if (fetched) {
        kv_prefix_forget(rig.prefix, kv_prefix_find(rig.prefix, rig.keys[0]));
        fetch(&rig, 1);
        assert_int_equal(longest(&rig), BLOCKS);
        kv_prefix_view(kv_prefix_find(rig.prefix, rig.keys[0]), &format, &blocks[0]);
    }
    for (int b = 1; kv_swap_put_bytes(rig.swap, rig.keys[0], format, &blocks[0]) == 0; n++) {
        kv_swap_put(rig.swap, rig.keys[b], format, &blocks[b], 0);
        b = b == BLOCKS - 1 ? 1 : b + 1;
    }
    rig_close(&rig);
    return n;
}

/* Blocks of preempted sequences have chances: they outlast others so many times, and not longer; having come
   back they are like all. */
static void test_preempted_blocks_outlast_others(void **state)
{
    (void)state;
    assert_int_equal(life_of(0, false), 6);
    assert_int_equal(life_of(1, false), 6 + 5);
    assert_int_equal(life_of(KV_SWAP_CHANCES, false), 6 + 5 * KV_SWAP_CHANCES);
    assert_int_equal(life_of(KV_SWAP_CHANCES, true), 6);
}

static enum err create(const char *file, size_t bytes, struct err_info *info)
{
    struct kv_policy policy = {shape, kv_formats_find(formats, "o2"), RECENT, SINKS};
    struct kv_swap_options options = {.backend = &host,
                                      .policies = &policy,
                                      .n_policies = 1,
                                      .budget_bytes = bytes,
                                      .path = file,
                                      .max_blocks = BLOCKS,
                                      .max_sinks = SINKS};
    struct kv_swap *swap = NULL;
    enum err err = kv_swap_create(&options, &swap, info);
    kv_swap_free(swap);
    return err;
}

static void test_refusals(void **state)
{
    (void)state;
    struct err_info info;
    assert_int_equal(create(NULL, 5000, &info), ERR_USAGE);
    assert_non_null(strstr(info.message, "--swap-bytes of 5000"));
    assert_int_equal(create("/nowhere/at/all", 1 << 20, &info), ERR_IO);
    assert_non_null(strstr(info.message, "No such file"));
    assert_int_equal(create("/", 1 << 20, &info), ERR_IO);
    /* Somebody's own file stays as it is. */
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("a letter", file);
    fclose(file);
    assert_int_equal(create(path, 1 << 20, &info), ERR_IO);
    assert_non_null(strstr(info.message, "left alone"));
    struct stat stat_of;
    assert_int_equal(stat(path, &stat_of), 0);
    assert_int_equal(stat_of.st_size, 8);
    unlink(path);
    /* Two servers do not share one. */
    struct rig rig;
    rig_open(&rig, "o2", &host, path, 1 << 20);
    assert_int_equal(create(path, 1 << 20, &info), ERR_IO);
    assert_non_null(strstr(info.message, "another server"));
    rig_close(&rig);
}

static int start(void **state)
{
    (void)state;
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/octavo-swap-%ld", folder != NULL ? folder : "/tmp", (long)getpid());
    return kv_formats_create(&shape, "o2,f16,o4", NULL, 8, inv_freq, &formats, NULL) != ERR_OK;
}

static int stop(void **state)
{
    (void)state;
    kv_formats_free(formats);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_small_store),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_full_queue),
        cmocka_unit_test(test_close_under_way),
        cmocka_unit_test(test_preempted_blocks_outlast_others),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
