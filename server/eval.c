#include "server/eval.h"

#include "cache/calibration.h"
#include "cache/policy.h"
#include "cache/pool.h"
#include "cache/sequence.h"
#include "config/log.h"
#include "kernels/workers.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "server/serve_machine.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * One window of the text at a time. Every step carries `chunk` tokens of the window once for each cache:
 * entry 0 is f16, the base, entries 1.. are the formats asked for. The model's logits of all these rows come
 * back together; the rows of a position are compared and forgotten.
 */
enum { EVAL_MAX_FORMATS = 8, EVAL_CHUNK = 64 };

struct eval_options {
    const char *model, *text, *calibration;
    int ctx, windows, threads;
    int n_formats;
    enum kv_format formats[EVAL_MAX_FORMATS];
    int recent_blocks, sink_tokens;
    bool json;
};

struct eval_tally {
    double nll, kl;
    int64_t same_top, n;
    float *kls; /* [windows * ctx], for the percentile */
};

struct eval {
    struct eval_options options;
    struct gguf *gguf;
    struct workers *workers;
    struct backend *backend;
    struct model *model;
    struct kv_tables *tables;
    struct kv_pool *pool;
    struct kv_staging *staging;
    struct kv_policy policies[EVAL_MAX_FORMATS + 1];
    struct kv_sequence *sequences[EVAL_MAX_FORMATS + 1];
    int n_caches;
    int32_t *tokens;
    size_t n_tokens;
    struct eval_tally tallies[EVAL_MAX_FORMATS + 1];
};

static void usage(FILE *out)
{
    fputs("usage: octavo eval MODEL --text FILE [options]\n\n"
          "  --text FILE           UTF-8 text to score\n"
          "  --ctx N               tokens per window (default 4096)\n"
          "  --windows N           windows, from the start of the text (default: all)\n"
          "  --kv-format F[,F...]  formats to compare with f16: o4, o2 (default o2)\n"
          "  --kv-recent R         blocks read at 4 bits before 2 (default 8)\n"
          "  --sink-tokens N       tokens at the start kept in fp16 (default 4)\n"
          "  --calibration FILE    side file of `octavo calibrate` (default: identity, uncalibrated)\n"
          "  --threads N           worker threads (default: the processors this process may use)\n"
          "  --json                one JSON object per format and line\n",
          out);
}

static enum err number_parse(const char *flag, const char *text, int minimum, int maximum, int *out,
                             struct err_info *info)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < minimum || value > maximum)
        return err_set_param(info, ERR_USAGE, flag, "--%s: '%s' is not a whole number from %d to %d", flag,
                             text, minimum, maximum);
    *out = (int)value;
    return ERR_OK;
}

static enum err formats_parse(const char *text, struct eval_options *options, struct err_info *info)
{
    char copy[256], *saved = NULL;
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return err_set(info, ERR_USAGE, "--kv-format: too long");
    options->n_formats = 0;
    for (char *name = strtok_r(copy, ",", &saved); name != NULL; name = strtok_r(NULL, ",", &saved)) {
        if (options->n_formats == EVAL_MAX_FORMATS)
            return err_set(info, ERR_USAGE, "--kv-format: more than %d formats", EVAL_MAX_FORMATS);
        enum err err = kv_format_parse(name, &options->formats[options->n_formats], info);
        if (err != ERR_OK) return err;
        options->n_formats++;
    }
    return options->n_formats > 0 ? ERR_OK : err_set(info, ERR_USAGE, "--kv-format: no format named");
}

static enum err options_read(int argc, char **argv, struct eval_options *options, struct err_info *info)
{
    static const struct option table[] = {{"text", 1, 0, 't'},        {"ctx", 1, 0, 'c'},
                                          {"windows", 1, 0, 'w'},     {"kv-format", 1, 0, 'f'},
                                          {"kv-recent", 1, 0, 'r'},   {"sink-tokens", 1, 0, 's'},
                                          {"threads", 1, 0, 'n'},     {"json", 0, 0, 'j'},
                                          {"calibration", 1, 0, 'k'}, {0, 0, 0, 0}};
    *options = (struct eval_options){.ctx = 4096,
                                     .windows = 0,
                                     .threads = serve_machine_processors(),
                                     .n_formats = 1,
                                     .formats = {KV_FORMAT_O2},
                                     .recent_blocks = 8,
                                     .sink_tokens = 4};
    enum err err = ERR_OK;
    int flag;
    optind = 1;
    while (err == ERR_OK && (flag = getopt_long(argc, argv, "", table, NULL)) != -1) {
        switch (flag) {
        case 't':
            options->text = optarg;
            break;
        case 'c':
            err = number_parse("ctx", optarg, 2, 1 << 20, &options->ctx, info);
            break;
        case 'w':
            err = number_parse("windows", optarg, 1, 1 << 20, &options->windows, info);
            break;
        case 'f':
            err = formats_parse(optarg, options, info);
            break;
        case 'r':
            err = number_parse("kv-recent", optarg, 0, 1 << 20, &options->recent_blocks, info);
            break;
        case 's':
            err = number_parse("sink-tokens", optarg, 0, KV_MAX_SINKS, &options->sink_tokens, info);
            break;
        case 'n':
            err = number_parse("threads", optarg, 1, 1024, &options->threads, info);
            break;
        case 'k':
            options->calibration = optarg;
            break;
        case 'j':
            options->json = true;
            break;
        default:
            return err_set(info, ERR_USAGE, "unknown option '%s'", argv[optind - 1]);
        }
    }
    if (err != ERR_OK) return err;
    if (optind != argc - 1) return err_set(info, ERR_USAGE, "one MODEL is needed");
    options->model = argv[optind];
    return options->text != NULL ? ERR_OK : err_set_param(info, ERR_USAGE, "text", "--text FILE is needed");
}

static enum err text_load(const char *path, char **out, size_t *length, struct err_info *info)
{
    struct stat stat;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fstat(fileno(file), &stat) != 0 || !S_ISREG(stat.st_mode)) {
        if (file != NULL) fclose(file);
        return err_set_param(info, ERR_IO, "text", "%s: %s", path,
                             errno != 0 ? strerror(errno) : "not a file");
    }
    char *text = malloc((size_t)stat.st_size + 1);
    *length = text == NULL ? 0 : fread(text, 1, (size_t)stat.st_size, file);
    fclose(file);
    if (text == NULL) return err_set(info, ERR_MEMORY, "%s: out of memory", path);
    *out = text;
    return ERR_OK;
}

static enum err tokens_load(struct eval *eval, struct err_info *info)
{
    struct tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t length = 0;
    enum err err = tokenizer_create(eval->gguf, &tokenizer, info);
    if (err != ERR_OK) goto out;
    err = text_load(eval->options.text, &text, &length, info);
    if (err != ERR_OK) goto out;
    err = tokenizer_encode(tokenizer, text, length, false, false, SIZE_MAX, &eval->tokens, &eval->n_tokens,
                           info);
    if (err != ERR_OK) goto out;
    size_t most = eval->n_tokens / (size_t)eval->options.ctx;
    if (most == 0)
        err = err_set_param(info, ERR_USAGE, "ctx", "%s has %zu tokens, fewer than one window of %d",
                            eval->options.text, eval->n_tokens, eval->options.ctx);
    else if (eval->options.windows == 0 || (size_t)eval->options.windows > most)
        eval->options.windows = (int)most;
out:
    free(text);
    tokenizer_free(tokenizer);
    return err;
}

static enum err tables_create(struct eval *eval, const struct kv_shape *shape, struct err_info *info)
{
    enum { FRAME = 256 };
    int n_frames = eval->options.ctx / FRAME + 1;
    const double *inv_freq = model_inv_freq(eval->model);
    if (eval->options.calibration == NULL) {
        eval->tables = kv_tables_identity(shape, FRAME, n_frames, inv_freq);
        return eval->tables != NULL ? ERR_OK : err_set(info, ERR_MEMORY, "eval: out of memory");
    }
    uint64_t hash[2];
    struct calibration *calibration;
    gguf_hash(eval->gguf, hash);
    enum err err = calibration_load(eval->options.calibration, shape, hash, &calibration, info);
    if (err != ERR_OK) return err;
    err = calibration_tables(calibration, n_frames, inv_freq, &eval->tables, info);
    calibration_free(calibration);
    return err;
}

static enum err caches_create(struct eval *eval, struct err_info *info)
{
    struct eval_options *options = &eval->options;
    struct kv_shape shape;
    size_t pool_bytes = 0;
    int rows = EVAL_CHUNK * eval->n_caches;
    model_kv_shape(eval->model, &shape);
    for (int c = 0; c < eval->n_caches; c++) {
        eval->policies[c] = (struct kv_policy){shape, c == 0 ? KV_FORMAT_F16 : options->formats[c - 1],
                                               options->recent_blocks, options->sink_tokens};
        pool_bytes += kv_policy_bytes(&eval->policies[c], options->ctx) +
                      kv_policy_step_bytes(&eval->policies[c], EVAL_CHUNK) +
                      (64 << 10) * (size_t)options->ctx / 64;
        eval->tallies[c].kls = calloc((size_t)options->windows * options->ctx, sizeof(float));
        if (eval->tallies[c].kls == NULL) return err_set(info, ERR_MEMORY, "eval: out of memory");
    }
    enum err err = tables_create(eval, &shape, info);
    if (err != ERR_OK) return err;
    eval->staging = kv_staging_create(&shape, rows, eval->backend);
    if (eval->staging == NULL) return err_set(info, ERR_MEMORY, "eval: out of memory");
    return kv_pool_create(&shape, pool_bytes, &eval->pool, info);
}

static enum err eval_open(struct eval *eval, struct err_info *info)
{
    struct eval_options *options = &eval->options;
    eval->n_caches = options->n_formats + 1;
    int rows = EVAL_CHUNK * eval->n_caches;
    enum err err = gguf_open(options->model, &eval->gguf, info);
    if (err == ERR_OK) err = tokens_load(eval, info);
    if (err == ERR_OK) err = workers_create(options->threads, &eval->workers, info);
    if (err == ERR_OK) err = backend_cpu_create(eval->workers, "auto", &eval->backend, info);
    if (err == ERR_OK) err = model_load(eval->gguf, eval->backend, rows, rows, &eval->model, info);
    if (err == ERR_OK) err = caches_create(eval, info);
    return err;
}

static void eval_close(struct eval *eval)
{
    for (int c = 0; c < eval->n_caches; c++) {
        kv_sequence_free(eval->sequences[c]);
        free(eval->tallies[c].kls);
    }
    if (eval->pool != NULL) kv_pool_free(eval->pool);
    if (eval->staging != NULL) kv_staging_free(eval->staging);
    kv_tables_free(eval->tables);
    if (eval->model != NULL) model_free(eval->model);
    if (eval->backend != NULL) eval->backend->destroy(eval->backend);
    if (eval->workers != NULL) workers_free(eval->workers);
    if (eval->gguf != NULL) gguf_close(eval->gguf);
    free(eval->tokens);
}

static double log_sum_exp(const float *logits, int n)
{
    float largest = -INFINITY;
    double sum = 0;
    for (int i = 0; i < n; i++) largest = fmaxf(largest, logits[i]);
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - largest);
    return largest + log(sum);
}

static int top(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

struct compare {
    struct eval *eval;
    const float *logits; /* [caches][rows][vocab] */
    int n_rows, n_vocab;
    const int32_t *next; /* [rows] the token that follows */
    double nll[EVAL_MAX_FORMATS + 1][EVAL_CHUNK], kl[EVAL_MAX_FORMATS + 1][EVAL_CHUNK];
    bool same[EVAL_MAX_FORMATS + 1][EVAL_CHUNK];
};

static void compare_row(void *context, int row, int worker)
{
    (void)worker;
    struct compare *compare = context;
    int n = compare->n_vocab;
    const float *base = compare->logits + (size_t)row * n;
    double base_sum = log_sum_exp(base, n);
    int base_top = top(base, n);
    for (int c = 0; c < compare->eval->n_caches; c++) {
        const float *logits = compare->logits + ((size_t)c * compare->n_rows + row) * n;
        double sum = c == 0 ? base_sum : log_sum_exp(logits, n), kl = 0;
        for (int i = 0; c > 0 && i < n; i++) {
            double p = base[i] - base_sum;
            kl += exp(p) * (p - (logits[i] - sum));
        }
        compare->nll[c][row] = sum - logits[compare->next[row]];
        compare->kl[c][row] = kl;
        compare->same[c][row] = top(logits, n) == base_top;
    }
}

static void compare_tally(struct eval *eval, const struct compare *compare)
{
    for (int c = 0; c < eval->n_caches; c++)
        for (int r = 0; r < compare->n_rows; r++) {
            struct eval_tally *tally = &eval->tallies[c];
            tally->kls[tally->n++] = (float)compare->kl[c][r];
            tally->nll += compare->nll[c][r];
            tally->kl += compare->kl[c][r];
            tally->same_top += compare->same[c][r];
        }
}

/* Tokens [at, at + n) of the window; the last token of the window has no successor and is not fed. */
static enum err chunk_run(struct eval *eval, const int32_t *window, int at, int n, struct err_info *info)
{
    struct attention_span spans[EVAL_MAX_FORMATS + 1];
    int32_t tokens[(EVAL_MAX_FORMATS + 1) * EVAL_CHUNK], rows[(EVAL_MAX_FORMATS + 1) * EVAL_CHUNK];
    kv_staging_reset(eval->staging);
    for (int c = 0; c < eval->n_caches; c++) {
        enum err err = kv_sequence_begin(eval->sequences[c], n, info);
        if (err != ERR_OK) return err;
        kv_sequence_span(eval->sequences[c], c * n, &spans[c]);
        memcpy(tokens + c * n, window + at, (size_t)n * sizeof *tokens);
        for (int r = 0; r < n; r++) rows[c * n + r] = c * n + r;
    }
    struct model_batch batch = {.n_tokens = n * eval->n_caches,
                                .tokens = tokens,
                                .n_spans = eval->n_caches,
                                .spans = spans,
                                .n_logits = n * eval->n_caches,
                                .logit_rows = rows,
                                .tables = eval->tables};
    struct compare compare = {
        .eval = eval, .n_rows = n, .n_vocab = model_config(eval->model)->n_vocab, .next = window + at + 1};
    model_forward(eval->model, &batch, &compare.logits);
    for (int c = 0; c < eval->n_caches; c++) kv_sequence_end(eval->sequences[c]);
    workers_run(eval->workers, n, compare_row, &compare);
    compare_tally(eval, &compare);
    return ERR_OK;
}

static enum err window_run(struct eval *eval, int window, struct err_info *info)
{
    struct eval_options *options = &eval->options;
    const int32_t *tokens = eval->tokens + (size_t)window * options->ctx;
    enum err err = ERR_OK;
    for (int c = 0; c < eval->n_caches && err == ERR_OK; c++)
        err = kv_sequence_create(&eval->policies[c], eval->pool, eval->staging, eval->backend, options->ctx,
                                 &eval->sequences[c], info);
    for (int at = 0; at < options->ctx - 1 && err == ERR_OK; at += EVAL_CHUNK) {
        int left = options->ctx - 1 - at;
        err = chunk_run(eval, tokens, at, left < EVAL_CHUNK ? left : EVAL_CHUNK, info);
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\rwindow %d/%d  %5d/%d  ppl %.3f  kl %.4f ", window + 1, options->windows, at,
                    options->ctx, exp(eval->tallies[0].nll / (double)eval->tallies[0].n),
                    eval->tallies[1].kl / (double)eval->tallies[1].n);
    }
    for (int c = 0; c < eval->n_caches; c++) {
        kv_sequence_free(eval->sequences[c]);
        eval->sequences[c] = NULL;
    }
    if (!isatty(STDERR_FILENO) && err == ERR_OK)
        log_info("eval", "window %d of %d: ppl %.3f, kl %.4f", window + 1, options->windows,
                 exp(eval->tallies[0].nll / (double)eval->tallies[0].n),
                 eval->tallies[1].kl / (double)eval->tallies[1].n);
    return err;
}

static int floats_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(struct eval *eval)
{
    const struct eval_options *options = &eval->options;
    double base_ppl = exp(eval->tallies[0].nll / (double)eval->tallies[0].n);
    if (isatty(STDERR_FILENO)) fputc('\n', stderr);
    if (!options->json)
        printf("%-8s %9s %9s %9s %9s %8s %6s\n", "format", "ppl", "rise", "kl", "kl99", "top1 %", "bits");
    for (int c = options->json ? 1 : 0; c < eval->n_caches; c++) {
        struct eval_tally *tally = &eval->tallies[c];
        double n = (double)tally->n, ppl = exp(tally->nll / n);
        qsort(tally->kls, (size_t)tally->n, sizeof *tally->kls, floats_compare);
        double kl99 = tally->kls[(size_t)(.99 * (n - 1))], top1 = (double)tally->same_top / n;
        double bits = kv_policy_bits(&eval->policies[c], options->ctx);
        const char *name = kv_format_name(eval->policies[c].format);
        if (options->json)
            printf(
                "{\"format\":\"%s\",\"ppl\":%.5f,\"base_ppl\":%.5f,\"kl\":%.6f,\"kl99\":%.5f,\"top1\":%.5f,"
                "\"bits\":%.4f,\"ctx\":%d,\"windows\":%d,\"kv_recent\":%d}\n",
                name, ppl, base_ppl, tally->kl / n, kl99, top1, bits, options->ctx, options->windows,
                options->recent_blocks);
        else
            printf("%-8s %9.4f %+9.4f %9.5f %9.4f %8.2f %6.3f\n", name, ppl, ppl - base_ppl, tally->kl / n,
                   kl99, 100 * top1, bits);
    }
}

int eval_main(int argc, char **argv)
{
    struct eval eval = {0};
    struct err_info info = {0};
    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return 0;
    }
    enum err err = options_read(argc, argv, &eval.options, &info);
    if (err == ERR_OK) err = eval_open(&eval, &info);
    for (int w = 0; w < eval.options.windows && err == ERR_OK; w++) err = window_run(&eval, w, &info);
    if (err == ERR_OK)
        report(&eval);
    else
        fprintf(stderr, "octavo eval: %s\n", info.message);
    eval_close(&eval);
    return err == ERR_OK ? 0 : err == ERR_USAGE ? 2 : 1;
}
