/* /metrics: its numbers, and promtool's word on its form. */
#include "config/buf.h"
#include "server/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct kv_shape shape = {.n_layers = 30, .n_heads = 9, .n_kv_heads = 3, .head_dim = 64};

enum { O2, F16, O4, FORMATS };
static struct kv_formats *formats;

static int create_formats(void **state)
{
    double inv_freq[32];
    (void)state;
    for (int i = 0; i < 32; i++) inv_freq[i] = 1;
    return kv_formats_create(&shape, "o2,f16,o4", NULL, 1, inv_freq, &formats, NULL) == ERR_OK ? 0 : -1;
}

static int free_formats(void **state)
{
    (void)state;
    kv_formats_free(formats);
    return 0;
}

static void fill(struct metrics *metrics)
{
    memset(metrics, 0, sizeof *metrics);
    atomic_store(&metrics->formats, formats);
    metrics->backend = "cpu (avx2)";
    atomic_store(&metrics->requests[OUTCOME_OK], 3);
    atomic_store(&metrics->requests[OUTCOME_REJECTED_BUSY], 2);
    atomic_store(&metrics->generated_tokens, UINT64_C(12345678901234567));
    atomic_store(&metrics->running, 2);
    metrics_observe(&metrics->first_token, 0);
    metrics_observe(&metrics->first_token, 1000);
    metrics_observe(&metrics->first_token, 1001);
    metrics_observe(&metrics->first_token, 3600 * INT64_C(1000000));
    metrics_observe(&metrics->first_token, -5);
}

static char *page_of(const struct metrics *metrics, struct buf *buf)
{
    buf_init(buf, 1 << 20);
    metrics_print(metrics, buf);
    assert_false(buf->failed);
    return buf->data;
}

static double value_of(const char *page, const char *sample)
{
    char line[256];
    snprintf(line, sizeof line, "\n%s ", sample);
    const char *found = strstr(page, line);
    if (found == NULL) fail_msg("no sample %s", sample);
    return strtod(found + strlen(line), NULL);
}

static void test_numbers(void **state)
{
    (void)state;
    static struct metrics metrics;
    struct buf buf;
    fill(&metrics);
    char *page = page_of(&metrics, &buf);

    assert_true(value_of(page, "octavo_requests_total{outcome=\"ok\"}") == 3);
    assert_true(value_of(page, "octavo_requests_total{outcome=\"rejected_busy\"}") == 2);
    assert_non_null(strstr(page, "\noctavo_generated_tokens_total 12345678901234567\n"));
    assert_true(value_of(page, "octavo_sequences_running") == 2);
    assert_true(value_of(page, "octavo_time_to_first_token_seconds_bucket{le=\"0.0005\"}") == 2);
    assert_true(value_of(page, "octavo_time_to_first_token_seconds_bucket{le=\"0.001\"}") == 3);
    assert_true(value_of(page, "octavo_time_to_first_token_seconds_bucket{le=\"0.002\"}") == 4);
    assert_true(value_of(page, "octavo_time_to_first_token_seconds_bucket{le=\"1000\"}") == 4);
    assert_true(value_of(page, "octavo_time_to_first_token_seconds_bucket{le=\"+Inf\"}") == 5);
    assert_true(value_of(page, "octavo_time_to_first_token_seconds_count") == 5);
    assert_true(value_of(page, "process_resident_memory_bytes") > 1e5);
    assert_true(value_of(page, "process_open_fds") >= 3);
    double age = (double)time(NULL) - value_of(page, "process_start_time_seconds");
    assert_true(age > -60 && age < 86400);
    for (int i = 1; i < METRICS_BUCKETS; i++) assert_true(metrics_bounds[i] > metrics_bounds[i - 1]);
    buf_free(&buf);
}

static void test_step(void **state)
{
    (void)state;
    static struct metrics metrics;
    struct backend_memory memory = {
        .total = 1000, .free = 300, .ranges = 200, .activations = 10, .scratch = 40};
    const double seconds[BACKEND_PARTS] = {0.25, 0.5, 0.125};
    struct buf buf;
    fill(&metrics);
    char *page = page_of(&metrics, &buf);
    assert_null(strstr(page, "octavo_device_memory_bytes")); /* no card */
    buf_free(&buf);

    metrics_add_step(&metrics, 1000000000, 500000000, seconds);
    metrics_add_step(&metrics, 500000000, 0, seconds); /* parts are sums already */
    metrics_set_memory(&metrics, &memory, 350, 20);
    page = page_of(&metrics, &buf);
    assert_true(value_of(page, "octavo_engine_seconds_total{phase=\"forward\"}") == 1.5);
    assert_true(value_of(page, "octavo_engine_seconds_total{phase=\"host\"}") == 0.5);
    assert_true(value_of(page, "octavo_forward_seconds_total{part=\"attention\"}") == 0.25);
    assert_true(value_of(page, "octavo_forward_seconds_total{part=\"products\"}") == 0.5);
    assert_true(value_of(page, "octavo_forward_seconds_total{part=\"rest\"}") == 0.125);
    static const char *const kinds[] = {"weights", "activations", "kv_cache", "scratch", "other", "free"};
    static const double bytes[] = {350, 30, 200, 40, 80, 300};
    for (int i = 0; i < METRICS_MEMORIES; i++) {
        char sample[64];
        snprintf(sample, sizeof sample, "octavo_device_memory_bytes{kind=\"%s\"}", kinds[i]);
        assert_true(value_of(page, sample) == bytes[i]);
    }
    buf_free(&buf);
}

static void test_cache_adds_up(void **state)
{
    (void)state;
    static struct metrics metrics;
    struct metrics_kv kv = {0};
    struct kv_pool_stats stats = {.budget_bytes = (size_t)1 << 30};
    size_t used = 0;
    struct buf buf;

    fill(&metrics);
    for (int f = 0; f < FORMATS; f++) {
        struct kv_policy policy = {
            .shape = shape, .format = kv_formats_at(formats, f), .recent_blocks = 8, .sink_tokens = 4};
        int counts[KV_KINDS];
        kv_policy_blocks(&policy, 2000, counts);
        for (int kind = 0; kind < KV_KINDS; kind++)
            stats.used_bytes[kv_policy_class(&policy, (enum kv_kind)kind)] +=
                (size_t)counts[kind] * kv_policy_block_bytes(&policy, (enum kv_kind)kind);
        used += kv_policy_held_bytes(&policy, 2000);
        metrics_kv_add(&kv, &policy, 2000);
    }
    stats.stored_values = FORMATS * INT64_C(2000) * 30 * 3 * 64 * 2;
    metrics_set_kv(&metrics, &kv);
    metrics_set_pool(&metrics, &stats, &(struct kv_prefix_stats){0});
    char *page = page_of(&metrics, &buf);
    struct kv_policy o2 = {shape, kv_formats_at(formats, O2), 8, 4};
    double part0 = (double)kv_policy_block_bytes(&o2, KV_PART0);
    double part1 = (double)kv_policy_block_bytes(&o2, KV_PART1);
    assert_true(value_of(page, "octavo_kv_pool_bytes{kind=\"old\",format=\"f16\"}") == 31 * 1474560);
    assert_true(value_of(page, "octavo_kv_pool_bytes{kind=\"open\",format=\"f16\"}") == 1474560);
    assert_true(value_of(page, "octavo_kv_pool_bytes{kind=\"open\",format=\"o2\"}") == 1474560);
    assert_true(value_of(page, "octavo_kv_pool_bytes{kind=\"recent\",format=\"o2\"}") == 8 * (part0 + part1));
    assert_true(value_of(page, "octavo_kv_pool_bytes{kind=\"old\",format=\"o2\"}") == 23 * part0);
    assert_true(value_of(page, "octavo_kv_pool_bytes{kind=\"recent\",format=\"o4\"}") == 0);
    assert_true(value_of(page, "octavo_kv_pool_bytes{kind=\"free\",format=\"any\"}") ==
                (double)(stats.budget_bytes - used));
    assert_true(value_of(page, "octavo_kv_pool_blocks{kind=\"old\",format=\"o2\"}") == 23);
    assert_true(value_of(page, "octavo_kv_pool_blocks{kind=\"recent\",format=\"o2\"}") == 8);
    assert_true(value_of(page, "octavo_kv_pool_blocks{kind=\"old\",format=\"o4\"}") == 31);
    assert_true(value_of(page, "octavo_kv_pool_blocks{kind=\"old\",format=\"f16\"}") == 31);
    assert_true(value_of(page, "octavo_kv_pool_blocks{kind=\"open\",format=\"f16\"}") == 1);
    assert_true(value_of(page, "octavo_kv_pool_blocks{kind=\"sinks\",format=\"o2\"}") == 4);
    assert_true(value_of(page, "octavo_kv_pool_blocks{kind=\"sinks\",format=\"f16\"}") == 0);
    double width = value_of(page, "octavo_kv_format_bitwidth{format=\"o2\"}");
    assert_true(width > kv_policy_bits(&o2, 2000) - 1e-9 && width < kv_policy_bits(&o2, 2000) + 1e-9);
    assert_non_null(strstr(page, "kv_format=\"o2\"} 1\n"));
    double bits = value_of(page, "octavo_kv_bitwidth");
    assert_true(bits > 8.0 * (double)used / (double)stats.stored_values - 1e-9 && bits < 16.4);
    buf_free(&buf);
}

/* While the model loads there are no formats yet, and the page is well-formed all the same. */
static void test_before_the_formats(void **state)
{
    (void)state;
    static struct metrics metrics;
    struct buf buf;
    char *page = page_of(&metrics, &buf);
    assert_non_null(strstr(page, "kv_format=\"\"} 1\n"));
    assert_true(value_of(page, "octavo_kv_bitwidth") == 0);
    assert_null(strstr(page, "format=\"o2\""));
    buf_free(&buf);
}

/* https://prometheus.io/docs/prometheus/latest/command-line/promtool/ */
static void test_promtool(void **state)
{
    (void)state;
    static struct metrics metrics;
    struct buf buf;

    if (system("promtool --version >/dev/null 2>&1") != 0) {
        print_message("promtool is not installed: the form of /metrics is NOT checked\n");
        skip();
    }
    for (int filled = 0; filled <= 1; filled++) {
        if (filled) fill(&metrics);
        char *page = page_of(&metrics, &buf);
        FILE *promtool = popen("promtool check metrics", "w");
        assert_non_null(promtool);
        assert_int_equal(fwrite(page, 1, buf.length, promtool), buf.length);
        assert_int_equal(pclose(promtool), 0);
        buf_free(&buf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),       cmocka_unit_test(test_step),
        cmocka_unit_test(test_cache_adds_up), cmocka_unit_test(test_before_the_formats),
        cmocka_unit_test(test_promtool),
    };
    return cmocka_run_group_tests(tests, create_formats, free_formats);
}
