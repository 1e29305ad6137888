#include "config/option.h"
#include "config/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_WORDS = 16 };

/* Parses words separated by '|' ("" for none). */
static enum err parse(const char *line, char **environment, struct options *options, struct err_info *info)
{
    char copy[1024], *words[MAX_WORDS];
    int n = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, "|"); word && n < MAX_WORDS; word = strtok(NULL, "|")) words[n++] = word;
    return options_parse(n, words, 0, environment, options, info);
}

static void parse_ok(const char *line, char **environment, struct options *options)
{
    struct err_info info = {.message = ""};
    if (parse(line, environment, options, &info)) fail_msg("%s: %s", line, info.message);
}

/* A file in the system's temporary folder; the caller unlinks it. */
static void file_write(char *path, size_t size, const char *text)
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, size, "%s/octavo-options-XXXXXX", folder ? folder : "/tmp");
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, text, strlen(text)), strlen(text));
    close(file);
}

static void defaults_hold(void **state)
{
    (void)state;
    struct options options;
    parse_ok("", NULL, &options);
    assert_null(options.model);
    assert_null(options.api_key);
    assert_null(options.config);
    assert_string_equal(options.host, "127.0.0.1");
    assert_int_equal(options.port, 8080);
    assert_string_equal(options.kv_format, "o2");
    assert_int_equal(options.kv_recent, 8);
    assert_int_equal(options.sink_tokens, 4);
    assert_int_equal(options.max_body_bytes, 8 << 20);
    assert_int_equal(options_log_level(&options), LOG_LEVEL_INFO);
    assert_false(options.help || options.version || options.print_config);
    options_free(&options);
}

static void every_way_to_write_a_flag(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "m.gguf|--ctx-size|4096",    "--ctx-size=4096|m.gguf",
        "-c|4096|-m|m.gguf",         "--max-model-len=4096|--model|m.gguf",
        "--ctx_size|4096|--|m.gguf", "--ctx-size|4096|-c|4096|m.gguf|--model=m.gguf"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct options options;
        parse_ok(lines[i], NULL, &options);
        assert_int_equal(options.ctx_size, 4096);
        assert_string_equal(options.model, "m.gguf");
        options_free(&options);
    }
    struct options options;
    parse_ok("-np|3|-t|2|--threads-http|7|--max-num-batched-tokens|99|-a|x|--print-config", NULL, &options);
    assert_int_equal(options.parallel, 3);
    assert_int_equal(options.threads, 2);
    assert_int_equal(options.http_threads, 7);
    assert_int_equal(options.max_batch_tokens, 99);
    assert_string_equal(options.served_model_name, "x");
    assert_true(options.print_config);
    options_free(&options);
    parse_ok("--|-odd-name.gguf", NULL, &options);
    assert_string_equal(options.model, "-odd-name.gguf");
    options_free(&options);
}

static void sizes_take_suffixes(void **state)
{
    (void)state;
    static const struct {
        const char *flag;
        int64_t bytes;
    } cases[] = {{"--kv-cache-bytes=1000", 1000},       {"--kv-cache-bytes=64Mi", 64 << 20},
                 {"--kv-cache-bytes=64MiB", 64 << 20},  {"--kv-cache-bytes=2k", 2000},
                 {"--kv-cache-bytes=2K", 2000},         {"--kv-cache-bytes=3M", 3000000},
                 {"--kv-cache-bytes=1.5Gi", 3LL << 29}, {"--kv-cache-bytes=4GB", 4000000000},
                 {"--kv-cache-bytes=1Ti", 1LL << 40},   {"--kv-cache-bytes=100B", 100},
                 {"--kv-cache-gib=2", 2LL << 30},       {"--kv-cache-gib=.25", 1 << 28}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct options options;
        parse_ok(cases[i].flag, NULL, &options);
        if (options.kv_cache_bytes != cases[i].bytes) fail_msg("%s", cases[i].flag);
        options_free(&options);
    }
}

static void the_stronger_place_wins(void **state)
{
    (void)state;
    char path[256], variable[300];
    file_write(path, sizeof path,
               "# a comment\nport = 1\nhost=10.0.0.1 ; where\n\n  threads\t=\t3  \nctx_size = 7\n"
               "api-key = \"a \\\"b\\\" \\\\ #c\"\r\nkv-cache-gib = 1\n");
    snprintf(variable, sizeof variable, "OCTAVO_CONFIG=%s", path);
    char *environment[] = {"PATH=/bin",
                           "OCTAVO_PORT=2",
                           "OCTAVO_THREADS=4",
                           "OCTAVO_PARALLEL=",
                           "OCTAVO_KV_CACHE_BYTES=5",
                           variable,
                           NULL};
    struct options options;
    parse_ok("m|--port|3", environment, &options);
    assert_int_equal(options.port, 3);
    assert_int_equal(options.threads, 4);
    assert_int_equal(options.ctx_size, 7);
    assert_int_equal(options.max_queue, 1024);
    assert_int_equal(options.kv_cache_bytes, 5);
    assert_string_equal(options.host, "10.0.0.1");
    assert_string_equal(options.api_key, "a \"b\" \\ #c");
    assert_int_equal(option_origin(&options_table, options.state, "port"), ORIGIN_COMMAND_LINE);
    assert_int_equal(option_origin(&options_table, options.state, "threads"), ORIGIN_ENVIRONMENT);
    assert_int_equal(option_origin(&options_table, options.state, "host"), ORIGIN_FILE);
    assert_int_equal(option_origin(&options_table, options.state, "max-queue"), ORIGIN_DEFAULT);
    options_free(&options);
    unlink(path);
}

static void json_files_say_the_same(void **state)
{
    (void)state;
    char path[256], line[300];
    file_write(path, sizeof path,
               "\n{\"port\": 99, \"kv-format\": \"o2\", \"kv_cache_gib\": 0.5, \"model\": \"m.gguf\"}");
    snprintf(line, sizeof line, "--config|%s", path);
    struct options options;
    parse_ok(line, NULL, &options);
    assert_int_equal(options.port, 99);
    assert_string_equal(options.kv_format, "o2");
    assert_int_equal(options.kv_cache_bytes, 1 << 29);
    assert_string_equal(options.model, "m.gguf");
    options_free(&options);
    unlink(path);
}

static void faults_on_the_command_line(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message, *param;
    } cases[] = {
        {"--ctx-sise|1", "unknown option '--ctx-sise'; did you mean '--ctx-size'?", "ctx-sise"},
        {"--ctxsize=1", "unknown option '--ctxsize'; did you mean '--ctx-size'?", "ctxsize"},
        {"--frobnicate", "unknown option '--frobnicate'; --help lists all of them", "frobnicate"},
        {"-x", "unknown option '-x'; --help lists all of them", "x"},
        {"-port|1", "unknown option '-port'; did you mean '--port'?", "port"},
        {"--port", "--port needs a value", "port"},
        {"--port|--host|x", "--port needs a value", "port"},
        {"--port=", "--port: the value is empty", "port"},
        {"--port|http", "--port: 'http' is not a whole number", "port"},
        {"--port|80a", "--port: '80a' is not a whole number", "port"},
        {"--port| 80", "--port: ' 80' is not a whole number", "port"},
        {"--port|70000", "--port: 70000 is out of range: 0 to 65535", "port"},
        {"--port|99999999999999999999", "--port: 99999999999999999999 is out of range", "port"},
        {"-np|-1", "-np: -1 is out of range: 0 to 4096", "parallel"},
        {"--threads|-1", "--threads: -1 is out of range: 0 to 1024", "threads"},
        {"--cpu|mmx", "--cpu: 'mmx' is not one of auto|scalar|avx2|avx512", "cpu"},
        {"--kv-cache-bytes|lots", "--kv-cache-bytes: 'lots' is not a size (such as 512Mi or 4G)", ""},
        {"--kv-cache-bytes|-5", "--kv-cache-bytes: '-5' is not a size", ""},
        {"--kv-cache-bytes|1e9", "--kv-cache-bytes: '1e9' is not a size", ""},
        {"--kv-cache-bytes|.", "--kv-cache-bytes: '.' is not a size", ""},
        {"--kv-cache-bytes|5Xi", "--kv-cache-bytes: '5Xi' is not a size", ""},
        {"--kv-cache-bytes|99999999999G", "out of range", "kv-cache-bytes"},
        {"--kv-cache-gib|1Gi", "--kv-cache-gib: '1Gi' is not a number", "kv-cache-gib"},
        {"--print-config=maybe", "--print-config: 'maybe' is neither true nor false", ""},
        {"--host=a\tb", "--host: the value holds a control character", "host"},
        {"--port|1|--port|2", "--port is given twice: 1 and 2", "port"},
        {"--api-key=secret1|--api-key=secret2", "--api-key is given twice, with different values", "api-key"},
        {"a|--model|b", "--model is given twice: a and b", "model"},
        {"a|b", "unexpected argument 'b'; usage: octavo serve MODEL [options]", ""},
        {"--kv-cache-bytes=1Gi|--kv-cache-gib=2",
         "--kv-cache-gib 2 contradicts --kv-cache-bytes 1Gi: give one of them", "kv-cache-gib"},
        {"--config|no/such/file.ini", "config file 'no/such/file.ini': No such file or directory", "config"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct options options;
        struct err_info info;
        enum err err = parse(cases[i].line, NULL, &options, &info);
        if (err != ERR_USAGE) fail_msg("accepted: %s", cases[i].line);
        if (!strstr(info.message, cases[i].message) ||
            (cases[i].param[0] && strcmp(info.param, cases[i].param) != 0))
            fail_msg("%s: got '%s' (param '%s')", cases[i].line, info.message, info.param);
        assert_null(strstr(info.message, "secret"));
    }
    struct options options;
    parse_ok("--kv-cache-bytes=1Gi|--kv-cache-gib=1", NULL, &options); /* no contradiction */
    options_free(&options);
}

static void faults_in_files_name_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"port = 1\nprot = 2\n", ":2: unknown option 'prot'; did you mean 'port'?"},
        {"port\n", ":1: not 'name = value'"},
        {"\n= 5\n", ":2: not 'name = value'"},
        {"[server]\n", ":1: sections are not used here"},
        {"port = x\n", ":1: port: 'x' is not a whole number"},
        {"port = 80 80\n", ":1: port: '80 80' is not a whole number"},
        {"port =  # none\n", ":1: port: the value is empty"},
        {"host = \"a\n", ":1: host: the quotes around the value are not in order"},
        {"host = \"a\" b\n", ":1: host: the quotes around the value are not in order"},
        {"port = 1\nport = 2\n", ":2: port is given twice: 1 and 2"},
        {"help = true\n", ":1: 'help' cannot be set in a file"},
        {"config = other.ini\n", ":1: 'config' cannot be set in a file"},
        {"{\"port\": 1, \"port\": 2}", "duplicate key"},
        {"{\"port\": [1]}", ": port is an array; a string, number or boolean is needed"},
        {"{\"port\": null}", ": port is null; a string"},
        {"{\"port\": 1.5}", ": port: '1.5' is not a whole number"},
        {"{\"prot\": 1}", ": unknown option 'prot'; did you mean 'port'?"},
        {"{\"port\": 1", "but the text ends"},
        {"{\"host\": true}", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[256], line[300];
        file_write(path, sizeof path, cases[i].text);
        snprintf(line, sizeof line, "--config|%s", path);
        struct options options;
        struct err_info info;
        enum err err = parse(line, NULL, &options, &info);
        unlink(path);
        if (!cases[i].message) {
            assert_int_equal(err, ERR_OK);
            options_free(&options);
            continue;
        }
        if (err != ERR_USAGE) fail_msg("accepted: %s", cases[i].text);
        if (strncmp(info.message, path, strlen(path)) != 0 || !strstr(info.message, cases[i].message))
            fail_msg("%s: got '%s'", cases[i].text, info.message);
    }
}

static void faults_in_the_environment_name_the_variable(void **state)
{
    (void)state;
    char *environment[] = {"OCTAVO_PORT=tcp://10.0.0.1:8080", NULL};
    struct options options;
    struct err_info info;
    assert_int_equal(parse("m", environment, &options, &info), ERR_USAGE);
    assert_string_equal(info.message, "OCTAVO_PORT: 'tcp://10.0.0.1:8080' is not a whole number");
    char *strangers[] = {"OCTAVO_SERVICE_HOST=10.0.0.1", "OCTAVO_HELP=1", "OCTAVO_", "OCTAVO_=x", "=", NULL};
    parse_ok("m", strangers, &options);
    assert_false(options.help);
    options_free(&options);
}

static void help_comes_before_faults(void **state)
{
    (void)state;
    struct options options;
    parse_ok("--port|zzz|--help", NULL, &options);
    assert_true(options.help);
    assert_int_equal(options.port, 8080);
    options_free(&options);
    parse_ok("-h", NULL, &options);
    assert_true(options.help);
    options_free(&options);
    parse_ok("--version", NULL, &options);
    assert_true(options.version);
    options_free(&options);
}

static char *printed(const struct options *options)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    assert_non_null(out);
    if (options)
        options_print(options, out);
    else
        options_help(out);
    fclose(out);
    return text;
}

static void help_names_every_option_default_and_variable(void **state)
{
    (void)state;
    char *help = printed(NULL);
    for (size_t i = 0; i < options_table.n_options; i++) {
        const struct option *option = &options_table.options[i];
        char wanted[128];
        snprintf(wanted, sizeof wanted, "--%s", option->name);
        if (!strstr(help, wanted)) fail_msg("no %s", wanted);
        if (option->command_line) continue;
        snprintf(wanted, sizeof wanted, "env OCTAVO_%s", option->name);
        for (char *at = wanted + 4; *at; at++)
            *at = (char)(*at == '-' ? '_' : *at >= 'a' && *at <= 'z' ? *at - 32 : *at);
        if (!strstr(help, wanted)) fail_msg("no %s", wanted);
        snprintf(wanted, sizeof wanted, "default %s", option->default_value);
        if (option->default_value && !strstr(help, wanted)) fail_msg("no %s", wanted);
        if (!option->help || !option->group) fail_msg("%s is not described", option->name);
    }
    for (const char *line = help; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        assert_true(strcspn(line, "\n") <= 110);
    free(help);
}

static void a_printed_configuration_reads_back(void **state)
{
    (void)state;
    struct options options, again;
    char *environment[] = {"OCTAVO_API_KEY=hush", "OCTAVO_THREADS=2", NULL};
    parse_ok("-m|dir/a #1 \"x\" \\.gguf|--port=0|--kv-cache-gib|1.5|--kv-format|o2", environment, &options);
    char *text = printed(&options);
    assert_null(strstr(text, "hush"));
    assert_non_null(strstr(text, "command line, --kv-cache-gib\n"));
    assert_non_null(strstr(text, "environment, OCTAVO_THREADS\n"));
    assert_non_null(strstr(text, "# api-key = (set)"));
    char path[256], line[300];
    file_write(path, sizeof path, text);
    snprintf(line, sizeof line, "--config|%s", path);
    parse_ok(line, NULL, &again);
    assert_string_equal(again.model, options.model);
    assert_int_equal(again.port, 0);
    assert_int_equal(again.kv_cache_bytes, options.kv_cache_bytes);
    assert_int_equal(again.max_body_bytes, options.max_body_bytes);
    assert_int_equal(again.threads, 2);
    assert_string_equal(again.kv_format, "o2");
    assert_null(again.api_key);
    assert_null(again.served_model_name);
    unlink(path);
    free(text);
    options_free(&options);
    options_free(&again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_hold),
        cmocka_unit_test(every_way_to_write_a_flag),
        cmocka_unit_test(sizes_take_suffixes),
        cmocka_unit_test(the_stronger_place_wins),
        cmocka_unit_test(json_files_say_the_same),
        cmocka_unit_test(faults_on_the_command_line),
        cmocka_unit_test(faults_in_files_name_the_line),
        cmocka_unit_test(faults_in_the_environment_name_the_variable),
        cmocka_unit_test(help_comes_before_faults),
        cmocka_unit_test(help_names_every_option_default_and_variable),
        cmocka_unit_test(a_printed_configuration_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
