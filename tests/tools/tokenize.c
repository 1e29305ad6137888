/*
 * tokenize MODEL.gguf [--special] [--bos] [--many] [--decode] [--time]: ids of the text on stdin, one a line.
 * --special: control tokens are parsed. --bos: BOS as the model wants it. --many: several texts, separated by
 * NUL bytes on stdin and by empty lines on stdout. --decode: ids on stdin, text on stdout (special tokens
 * shown).
 * --time: encodes the whole of stdin ten times first and prints the milliseconds of each on stderr.
 */
#include "config/buf.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct arguments {
    const char *model;
    bool special, bos, many, decode, time;
};

static bool arguments_parse(int argc, char **argv, struct arguments *out)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--special") == 0)
            out->special = true;
        else if (strcmp(argv[i], "--bos") == 0)
            out->bos = true;
        else if (strcmp(argv[i], "--many") == 0)
            out->many = true;
        else if (strcmp(argv[i], "--decode") == 0)
            out->decode = true;
        else if (strcmp(argv[i], "--time") == 0)
            out->time = true;
        else if (!out->model)
            out->model = argv[i];
        else
            return false;
    }
    return out->model != NULL;
}

static void input_read(struct buf *in)
{
    char block[65536];
    size_t n;
    while ((n = fread(block, 1, sizeof block, stdin)) > 0) buf_append(in, block, n);
}

static int text_print(const struct tokenizer *tokenizer, const struct arguments *arguments, const char *text,
                      size_t length)
{
    struct err_info info;
    int32_t *tokens = NULL;
    size_t n = 0;
    if (tokenizer_encode(tokenizer, text, length, arguments->bos, arguments->special, SIZE_MAX, &tokens, &n,
                         &info) != ERR_OK) {
        fprintf(stderr, "%s\n", info.message);
        return 1;
    }
    for (size_t i = 0; i < n; i++) printf("%d\n", (int)tokens[i]);
    free(tokens);
    return 0;
}

static int input_encode(const struct tokenizer *tokenizer, const struct arguments *arguments,
                        const struct buf *in)
{
    size_t at = 0;
    for (;;) {
        const char *text = in->length > at ? in->data + at : "";
        const char *end = arguments->many ? memchr(text, 0, in->length - at) : NULL;
        size_t length = end ? (size_t)(end - text) : in->length - at;
        if (text_print(tokenizer, arguments, text, length) != 0) return 1;
        if (!end) return 0;
        printf("\n");
        at += length + 1;
    }
}

static int input_decode(const struct tokenizer *tokenizer, const struct buf *in)
{
    struct detokenizer detokenizer = {0};
    struct buf out;
    buf_init(&out, SIZE_MAX);
    for (char *at = in->data, *end; at && *at; at = end) {
        long token = strtol(at, &end, 10);
        if (end == at) break;
        detokenizer_push(&detokenizer, tokenizer, (int32_t)token, false, &out);
    }
    detokenizer_flush(&detokenizer, &out);
    fwrite(out.data, 1, out.length, stdout);
    buf_free(&out);
    return 0;
}

static void input_time(const struct tokenizer *tokenizer, const struct arguments *arguments,
                       const struct buf *in)
{
    for (int round = 0; round < 10; round++) {
        struct timespec begin, end;
        int32_t *tokens = NULL;
        size_t n = 0;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        if (tokenizer_encode(tokenizer, in->data, in->length, arguments->bos, arguments->special, SIZE_MAX,
                             &tokens, &n, NULL) != ERR_OK)
            return;
        clock_gettime(CLOCK_MONOTONIC, &end);
        free(tokens);
        double ms = 1e3 * (double)(end.tv_sec - begin.tv_sec) + 1e-6 * (double)(end.tv_nsec - begin.tv_nsec);
        fprintf(stderr, "%zu bytes, %zu tokens, %.2f ms\n", in->length, n, ms);
    }
}

int main(int argc, char **argv)
{
    struct arguments arguments = {0};
    if (!arguments_parse(argc, argv, &arguments)) {
        fprintf(stderr,
                "usage: tokenize MODEL.gguf [--special] [--bos] [--many] [--decode] [--time] < text\n");
        return 2;
    }
    struct err_info info;
    struct gguf *gguf = NULL;
    struct tokenizer *tokenizer = NULL;
    if (gguf_open(arguments.model, &gguf, &info) != ERR_OK ||
        tokenizer_create(gguf, &tokenizer, &info) != ERR_OK) {
        fprintf(stderr, "%s\n", info.message);
        gguf_close(gguf);
        return 1;
    }
    gguf_close(gguf);
    struct buf in;
    buf_init(&in, SIZE_MAX);
    input_read(&in);
    if (arguments.time) input_time(tokenizer, &arguments, &in);
    int rc = arguments.decode ? input_decode(tokenizer, &in) : input_encode(tokenizer, &arguments, &in);
    buf_free(&in);
    tokenizer_free(tokenizer);
    return rc;
}
