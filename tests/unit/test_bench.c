#include "server/bench_http.h"
#include "server/bench_load.h"
#include "server/bench_sampler.h"
#include "server/bench_stats.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void body_append(void *context, const char *bytes, size_t length)
{
    buf_append(context, bytes, length);
}

/* Reads text in pieces of `step` bytes, then the close; returns the body or the fault. */
static const char *reply_read(const char *text, size_t step, struct bench_reply *reply, struct buf *body)
{
    buf_clear(body);
    buf_append(body, "", 0);
    bench_reply_init(reply, body_append, body);
    size_t length = strlen(text);
    for (size_t at = 0; at < length; at += step) {
        size_t n = length - at < step ? length - at : step;
        if (!bench_reply_feed(reply, text + at, n)) return reply->fault;
    }
    if (!bench_reply_close(reply)) return reply->fault;
    return body->data;
}

static void replies_are_read_however_they_are_cut(void **state)
{
    (void)state;
    static const struct {
        const char *text, *body;
        int status;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200},
        {"HTTP/1.1 204 No Content\r\ncontent-length:0\r\n\r\n", "", 204},
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello", "he", 200},
        {"HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end", 200},
        {"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "ok", 200},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n "
         "\r\nA\r\n0123456789\r\n"
         "0\r\nTrailer: x\r\n\r\n",
         "hello 0123456789", 200},
        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Too Many\r\nContent-Length: 1\r\n\r\nx", "x", 429},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
         "the connection closed before the reply was complete", 200},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
         "the connection closed before the reply was complete", 200},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "a chunk has no size", 200},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
         "a chunk is longer than its size", 200},
        {"SSH-2.0-OpenSSH\r\n", "the reply is not HTTP/1.1", 0},
        {"", "the connection closed before the reply was complete", 0},
    };
    struct buf body;
    buf_init(&body, SIZE_MAX);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 120; step += step < 8 ? 1 : 37) {
            struct bench_reply reply;
            assert_string_equal(reply_read(cases[i].text, step, &reply, &body), cases[i].body);
            assert_int_equal(reply.status, cases[i].status);
        }
    }
    buf_free(&body);
}

static void a_long_header_does_no_harm(void **state)
{
    (void)state;
    struct bench_reply reply;
    struct buf text, body;
    buf_init(&text, SIZE_MAX);
    buf_init(&body, SIZE_MAX);
    buf_text(&text, "HTTP/1.1 200 OK\r\nX-Long: ");
    for (int i = 0; i < 5000; i++) buf_text(&text, "z");
    buf_text(&text, "\r\nContent-Length: 2\r\n\r\nok");
    assert_string_equal(reply_read(text.data, 999, &reply, &body), "ok");
    buf_free(&text);
    buf_free(&body);
}

static void urls(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host, *prefix;
        enum err err;
    } cases[] = {{"http://127.0.0.1:8080", "127.0.0.1:8080", "", ERR_OK},
                 {"127.0.0.1:8080/", "127.0.0.1:8080", "", ERR_OK},
                 {"HTTP://127.0.0.1/a/b//", "127.0.0.1", "/a/b", ERR_OK},
                 {"http://[::1]:80/x", "[::1]:80", "/x", ERR_OK},
                 {"https://127.0.0.1", NULL, NULL, ERR_USAGE},
                 {"http://", NULL, NULL, ERR_USAGE},
                 {"http://127.0.0.1:", NULL, NULL, ERR_USAGE},
                 {"http://127.0.0.1:http", NULL, NULL, ERR_USAGE},
                 {"http://127.0.0.1:123456", NULL, NULL, ERR_USAGE},
                 {"http://[::1", NULL, NULL, ERR_USAGE},
                 {"http://127.0.0.1/a b", NULL, NULL, ERR_USAGE},
                 {"http://127.0.0.1/?x", NULL, NULL, ERR_USAGE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bench_url url;
        struct err_info info = {.message = ""};
        if (bench_url_parse(cases[i].text, &url, &info) != cases[i].err)
            fail_msg("%s: %s", cases[i].text, info.message);
        if (cases[i].err) continue;
        assert_string_equal(url.host, cases[i].host);
        assert_string_equal(url.prefix, cases[i].prefix);
    }
}

static void requests_say_what_they_carry(void **state)
{
    (void)state;
    struct bench_url url = {.host = "h:1", .prefix = "/p"};
    struct buf out;
    buf_init(&out, SIZE_MAX);
    bench_request_write(&out, &url, "/v1/completions", "key", "{}", 2);
    assert_string_equal(out.data, "POST /p/v1/completions HTTP/1.1\r\nHost: h:1\r\nConnection: close\r\n"
                                  "Authorization: Bearer key\r\nContent-Type: application/json\r\n"
                                  "Content-Length: 2\r\n\r\n{}");
    buf_clear(&out);
    bench_request_write(&out, &url, "/health", NULL, NULL, 0);
    assert_string_equal(out.data, "GET /p/health HTTP/1.1\r\nHost: h:1\r\nConnection: close\r\n\r\n");
    buf_free(&out);
}

/* As numpy.percentile gives them for the same numbers. */
static void percentiles_are_interpolated(void **state)
{
    (void)state;
    double values[] = {5, 1, 4, 2, 3};
    struct bench_stats stats = bench_stats_of(values, 5);
    assert_true(stats.mean == 3 && stats.p50 == 3 && stats.max == 5);
    assert_true(stats.p90 > 4.5999 && stats.p90 < 4.6001);
    assert_true(stats.p99 > 4.9599 && stats.p99 < 4.9601);
    double one[] = {7};
    stats = bench_stats_of(one, 1);
    assert_true(stats.p50 == 7 && stats.p99 == 7 && stats.max == 7);
    stats = bench_stats_of(NULL, 0);
    assert_true(stats.mean == 0 && stats.max == 0);
}

static void ranges(void **state)
{
    (void)state;
    struct bench_range range;
    assert_int_equal(bench_range_parse("x", "7", &range, NULL), ERR_OK);
    assert_true(range.low == 7 && range.high == 7);
    assert_int_equal(bench_range_parse("x", "7:9", &range, NULL), ERR_OK);
    assert_true(range.low == 7 && range.high == 9);
    static const char *const wrong[] = {"", "0", "-1", "9:7", "7:", ":7", "7:9:1", "a", "7 ", "99999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct err_info info;
        assert_int_equal(bench_range_parse("tokens", wrong[i], &range, &info), ERR_USAGE);
        assert_string_equal(info.param, "tokens");
    }
}

static void metrics_are_summed_over_labels(void **state)
{
    (void)state;
    static const char text[] = "# HELP pool_bytes kinds\n# TYPE pool_bytes gauge\n"
                               "pool_bytes{kind=\"old\",format=\"o2\"} 10\n"
                               "pool_bytes{kind=\"free\",format=\"any\"} 1000\n"
                               "pool_bytes{kind=\"open\",format=\"o2\"} 2.5e1\n"
                               "pool_bytes_budget 77\nrunning 3\n";
    assert_true(bench_metric_sum(text, "pool_bytes", NULL) == 1035);
    assert_true(bench_metric_sum(text, "pool_bytes", "kind=\"free\"") == 35);
    assert_true(bench_metric_sum(text, "pool_bytes_budget", NULL) == 77);
    assert_true(bench_metric_sum(text, "running", NULL) == 3);
    assert_true(bench_metric_sum(text, "run", NULL) < 0);
    assert_true(bench_metric_sum("", "run", NULL) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_are_read_however_they_are_cut),
        cmocka_unit_test(a_long_header_does_no_harm),
        cmocka_unit_test(urls),
        cmocka_unit_test(requests_say_what_they_carry),
        cmocka_unit_test(percentiles_are_interpolated),
        cmocka_unit_test(ranges),
        cmocka_unit_test(metrics_are_summed_over_labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
