#include "server/http_cors.h"
#include "server/http_keys.h"
#include "server/tls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The file's path lives until the next call. */
static const char *write_file(const char *text, size_t length)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/octavo-keys-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, length), (ssize_t)length);
    close(fd);
    return path;
}

static enum err create(const char *key, const char *text, struct http_keys **out, struct err_info *info)
{
    const char *path = write_file(text, strlen(text));
    enum err err = http_keys_create(key, path, out, info);
    unlink(path);
    return err;
}

static void test_file(void **state)
{
    (void)state;
    struct http_keys *keys;
    struct err_info info;
    const char *text = "# comment\n\n  k1 alice\r\nk2\talice \nk3 bob-2.x_y\nk4\n   # another\nlast";
    assert_int_equal(create("own key", text, &keys, &info), ERR_OK);

    const struct http_tenant *k1 = http_keys_find(keys, "k1"), *k2 = http_keys_find(keys, "k2");
    const struct http_tenant *k3 = http_keys_find(keys, "k3"), *k4 = http_keys_find(keys, "k4");
    const struct http_tenant *last = http_keys_find(keys, "last"), *own = http_keys_find(keys, "own key");
    assert_true(k1 && k2 && k3 && k4 && last && own);
    assert_string_equal(k1->name, "alice");
    assert_string_equal(k3->name, "bob-2.x_y");
    assert_true(k1->id == k2->id && k1->number == 0 && k2->number == 0 && k3->number == 1);
    assert_true(!k4->name && !own->name && k4->number == -1 && own->number == -1);
    const uint64_t ids[] = {k1->id, k3->id, k4->id, last->id, own->id};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < i; j++) assert_true(ids[i] != ids[j] && ids[i] != 0);

    const char *const wrong[] = {"", "k", "k11", "K1", "alice", "k1 alice", "# comment", "#", "own", NULL};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (http_keys_find(keys, wrong[i])) fail_msg("'%s' is taken", wrong[i]);

    int n;
    const char *const *names = http_keys_names(keys, &n);
    assert_int_equal(n, 2);
    assert_string_equal(names[1], "bob-2.x_y");
    http_keys_free(keys);
}

static void test_none(void **state)
{
    (void)state;
    struct http_keys *keys = (void *)1;
    int n = 1;
    assert_int_equal(http_keys_create(NULL, NULL, &keys, NULL), ERR_OK);
    assert_null(keys);
    assert_int_equal(http_keys_create("", NULL, &keys, NULL), ERR_OK);
    assert_null(keys);
    assert_null(http_keys_names(NULL, &n));
    assert_int_equal(n, 0);
    http_keys_free(NULL);
}

static void test_faults(void **state)
{
    (void)state;
    char many[HTTP_TENANTS * 16 + 64] = "";
    for (int i = 0; i <= HTTP_TENANTS; i++) sprintf(many + strlen(many), "key%d name%d\n", i, i);
    const struct {
        const char *text, *message;
    } cases[] = {
        {"", "has no key"},
        {"# nothing\n", "has no key"},
        {"a\nb c d\n", ":2: "},
        {"a x\nb y\na z\n", ":3: the key has been given before"},
        {"a x/y\n", ":1: a tenant's name"},
        {"a \xc3\xa9\n", ":1: a tenant's name"},
        {"\xc3\xa9 x\n", ":1: a key is made"},
        {"a nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\n", "at most 64 characters"},
        {many, ":65: there are at most 64 names"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct http_keys *keys = NULL;
        struct err_info info;
        assert_int_equal(create(NULL, cases[i].text, &keys, &info), ERR_FORMAT);
        if (!strstr(info.message, cases[i].message)) fail_msg("%s: %s", cases[i].text, info.message);
        assert_null(keys);
    }
    struct http_keys *keys;
    struct err_info info;
    assert_int_equal(http_keys_create(NULL, "/nowhere/keys", &keys, &info), ERR_IO);
    assert_non_null(strstr(info.message, "--api-key-file: /nowhere/keys"));
    assert_int_equal(create("a", "a\n", &keys, &info), ERR_FORMAT);
    const char *path = write_file("a\0b\n", 4);
    assert_int_equal(http_keys_create(NULL, path, &keys, &info), ERR_FORMAT);
    unlink(path);
}

/* FIPS 180-4's example. */
static void test_sha256(void **state)
{
    (void)state;
    static const unsigned char wanted[TLS_SHA256_BYTES] = {
        0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
        0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    unsigned char digest[TLS_SHA256_BYTES];
    tls_sha256("abc", 3, digest);
    assert_memory_equal(digest, wanted, sizeof digest);
    assert_true(tls_equal(digest, wanted, sizeof digest));
    digest[31] ^= 1;
    assert_false(tls_equal(digest, wanted, sizeof digest));
}

static void test_cors(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"*", "https://a.example", "*"},
        {"*", NULL, "*"},
        {"https://a.example", "https://a.example", "https://a.example"},
        {"https://b.example, https://a.example", "https://a.example", "https://a.example"},
        {"https://b.example,https://a.example", "https://b.example", "https://b.example"},
        {"https://a.example", "https://a.example.evil", NULL},
        {"https://a.example", "https://a.exampl", NULL},
        {"https://a.example", "", NULL},
        {"https://a.example", NULL, NULL},
        {"", "https://a.example", NULL},
        {",", "", NULL},
        {"none", "https://a.example", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *allow = http_cors_allow(cases[i][0], cases[i][1]);
        if (!cases[i][2])
            assert_null(allow);
        else
            assert_string_equal(allow, cases[i][2]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),   cmocka_unit_test(test_none), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_sha256), cmocka_unit_test(test_cors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
