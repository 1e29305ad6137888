#include "server/eval_text.h"

#include "kernels/workers.h"
#include "model/distribution.h"
#include "server/recoder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * One window of the text at a time. Every step carries a block of the window once for each cache. The
 * model's logits of all these rows come back together; the rows of a position are compared and forgotten.
 */
enum { CHUNK = KV_BLOCK_TOKENS, TEXT_MAX_BYTES = 1 << 30 };

struct tally {
    double nll, kl;
    int64_t same_top, n;
    float *kls; /* [windows * ctx]: all of them, so the percentile is exact */
};

/* Of one worker. */
struct scratch {
    struct distribution base, other;
};

struct eval_text {
    struct evaluation *evaluation;
    int ctx, windows, n_caches;
    int32_t *tokens;
    size_t n_tokens;
    struct kv_sequence *sequences[EVALUATION_MAX_CACHES];
    struct tally tallies[EVALUATION_MAX_CACHES];
    struct scratch *scratch;
    int n_scratch;
    struct recoder *recoder; /* --rule all; otherwise NULL */
    void (*stored)(void *recoder, int layer, const float *hidden);
};

static enum err tokens_load(struct eval_text *eval, struct err_info *info)
{
    const struct eval_options *options = eval->evaluation->options;
    char *text;
    size_t length;
    enum err err = runtime_text_read("text", options->text, TEXT_MAX_BYTES, &text, &length, info);
    if (err != ERR_OK) return err;
    err = tokenizer_encode(eval->evaluation->runtime.tokenizer, text, length, false, false, SIZE_MAX,
                           &eval->tokens, &eval->n_tokens, info);
    free(text);
    if (err != ERR_OK) return err;
    size_t most = eval->n_tokens / (size_t)eval->ctx;
    if (most == 0)
        return err_set_param(info, ERR_USAGE, "ctx", "--ctx %d: %s has %zu tokens, fewer than one window",
                             eval->ctx, options->text, eval->n_tokens);
    if (most > (1 << 20)) most = 1 << 20;
    if (options->windows > 0 && (size_t)options->windows > most)
        return err_set_param(info, ERR_USAGE, "windows", "--windows %d: %s has %zu tokens, enough for %zu",
                             options->windows, options->text, eval->n_tokens, most);
    eval->windows = options->windows > 0 ? options->windows : (int)most;
    return ERR_OK;
}

static enum err tallies_create(struct eval_text *eval, struct err_info *info)
{
    const struct runtime *runtime = &eval->evaluation->runtime;
    int n_vocab = model_config(runtime->model)->n_vocab, n_workers = workers_count(runtime->workers);
    bool made = (eval->scratch = calloc((size_t)n_workers, sizeof *eval->scratch)) != NULL;
    for (int c = 0; c < eval->n_caches && made; c++) {
        eval->tallies[c].kls = calloc((size_t)eval->windows * (size_t)eval->ctx, sizeof(float));
        made = eval->tallies[c].kls != NULL;
    }
    for (; eval->n_scratch < n_workers && made; eval->n_scratch++) {
        struct scratch *scratch = &eval->scratch[eval->n_scratch];
        made = distribution_init(&scratch->base, n_vocab) && distribution_init(&scratch->other, n_vocab);
    }
    return made ? ERR_OK : err_set(info, ERR_MEMORY, "eval: out of memory");
}

static void tallies_free(struct eval_text *eval)
{
    for (int c = 0; c < eval->n_caches; c++) free(eval->tallies[c].kls);
    for (int i = 0; i < eval->n_scratch; i++) {
        distribution_free(&eval->scratch[i].base);
        distribution_free(&eval->scratch[i].other);
    }
    free(eval->scratch);
}

struct compare {
    const struct eval_text *eval;
    const float *logits; /* [caches][rows][vocab] */
    int n_rows, n_vocab;
    const int32_t *next; /* [rows] the token that follows */
    double nll[EVALUATION_MAX_CACHES][CHUNK], kl[EVALUATION_MAX_CACHES][CHUNK];
    bool same[EVALUATION_MAX_CACHES][CHUNK];
};

/* sum_i p_i (log p_i - log q_i), p the base. */
static double divergence(const struct distribution *base, double base_lower, const float *logits,
                         double lower)
{
    double sum = 0;
    for (int i = 0; i < base->n; i++) sum += base->weights[i] * ((double)base->logits[i] - logits[i]);
    return sum / base->mass + lower - base_lower;
}

static void compare_row(void *context, int row, int worker)
{
    struct compare *compare = context;
    struct distribution *base = &compare->eval->scratch[worker].base;
    struct distribution *other = &compare->eval->scratch[worker].other;
    double base_lower = distribution_log_sum(base, compare->logits + (size_t)row * (size_t)compare->n_vocab);
    compare->nll[0][row] = base_lower - base->logits[compare->next[row]];
    compare->kl[0][row] = 0;
    compare->same[0][row] = true;
    for (int c = 1; c < compare->eval->n_caches; c++) {
        const float *logits =
            compare->logits + (size_t)(c * compare->n_rows + row) * (size_t)compare->n_vocab;
        double lower = distribution_log_sum(other, logits);
        compare->nll[c][row] = lower - logits[compare->next[row]];
        compare->kl[c][row] = divergence(base, base_lower, logits, lower);
        compare->same[c][row] = distribution_best(base) == distribution_best(other);
    }
}

static void compare_tally(struct eval_text *eval, const struct compare *compare)
{
    for (int c = 0; c < eval->n_caches; c++)
        for (int r = 0; r < compare->n_rows; r++) {
            struct tally *tally = &eval->tallies[c];
            tally->kls[tally->n++] = (float)compare->kl[c][r];
            tally->nll += compare->nll[c][r];
            tally->kl += compare->kl[c][r];
            tally->same_top += compare->same[c][r];
        }
}

/* Tokens [at, at + n) of the window through the first n_caches caches: their logits, of n_scored rows. */
static enum err chunk_forward(struct eval_text *eval, const int32_t *window, int at, int n, int n_caches,
                              int n_scored, const float **logits, struct err_info *info)
{
    struct attention_span spans[EVALUATION_MAX_CACHES];
    int32_t tokens[EVALUATION_MAX_CACHES * CHUNK], rows[EVALUATION_MAX_CACHES * CHUNK];
    struct model_batch batch = {.n_tokens = n * n_caches,
                                .tokens = tokens,
                                .n_spans = n_caches,
                                .spans = spans,
                                .logit_rows = rows,
                                .stored = eval->stored,
                                .stored_context = eval->recoder};
    kv_staging_reset(eval->evaluation->staging);
    for (int c = 0; c < n_caches; c++) {
        enum err err = kv_sequence_begin(eval->sequences[c], n, info);
        if (err != ERR_OK) return err;
        kv_sequence_span(eval->sequences[c], c * n, &spans[c]);
        memcpy(tokens + c * n, window + at, (size_t)n * sizeof *tokens);
        for (int r = 0; r < n_scored; r++) rows[batch.n_logits++] = c * n + r;
    }
    if (eval->recoder != NULL) recoder_step(eval->recoder, at, n, spans);
    model_forward(eval->evaluation->runtime.model, &batch, logits);
    for (int c = 0; c < n_caches; c++) kv_sequence_end(eval->sequences[c]);
    return ERR_OK;
}

/* The last token of the window has no successor and is not scored. */
static enum err chunk_score(struct eval_text *eval, const int32_t *window, int at, int n,
                            struct err_info *info)
{
    struct runtime *runtime = &eval->evaluation->runtime;
    int left = eval->ctx - 1 - at;
    struct compare compare = {.eval = eval,
                              .n_rows = n < left ? n : left,
                              .n_vocab = model_config(runtime->model)->n_vocab,
                              .next = window + at + 1};
    enum err err = chunk_forward(eval, window, at, n, eval->n_caches, compare.n_rows, &compare.logits, info);
    if (err != ERR_OK) return err;
    workers_run(runtime->workers, compare.n_rows, compare_row, &compare);
    compare_tally(eval, &compare);
    return ERR_OK;
}

static void sequences_free(struct eval_text *eval)
{
    for (int c = 0; c < eval->n_caches; c++) {
        kv_sequence_free(eval->sequences[c]);
        eval->sequences[c] = NULL;
    }
}

static enum err sequences_create(struct eval_text *eval, int n, struct err_info *info)
{
    enum err err = ERR_OK;
    for (int c = 0; c < n && err == ERR_OK; c++)
        err = evaluation_sequence(eval->evaluation, eval->recoder != NULL ? 0 : c, eval->ctx,
                                  &eval->sequences[c], info);
    return err;
}

/* The window through the f16 cache alone, for the recoder to watch. */
static enum err window_watch(struct eval_text *eval, int window, struct err_info *info)
{
    const int32_t *tokens = eval->tokens + (size_t)window * (size_t)eval->ctx;
    const float *logits;
    recoder_reset(eval->recoder);
    enum err err = sequences_create(eval, 1, info);
    eval->stored = recoder_watch;
    for (int at = 0; at < eval->ctx && err == ERR_OK; at += CHUNK) {
        err = chunk_forward(eval, tokens, at, CHUNK, 1, 0, &logits, info);
        evaluation_progress(false, "window %d of %d, %d of %d tokens: looking for massive activations",
                            window + 1, eval->windows, at + CHUNK, eval->ctx);
    }
    sequences_free(eval);
    return err;
}

static void progress(const struct eval_text *eval, int window, int at)
{
    const struct tally *base = &eval->tallies[0], *first = &eval->tallies[1];
    evaluation_progress(at + 1 >= eval->ctx, "window %d of %d, %d of %d tokens: ppl %.3f, kl of %s %.5f",
                        window + 1, eval->windows, at, eval->ctx, exp(base->nll / (double)base->n),
                        eval->evaluation->policies[1].format->name, first->kl / (double)first->n);
}

static enum err window_run(struct eval_text *eval, int window, struct err_info *info)
{
    const int32_t *tokens = eval->tokens + (size_t)window * (size_t)eval->ctx;
    /* A recoder wants complete blocks. */
    int fed = eval->recoder != NULL ? eval->ctx : eval->ctx - 1;
    enum err err = ERR_OK;
    if (eval->recoder != NULL && recoder_wants_watching(eval->recoder))
        err = window_watch(eval, window, info);
    if (err == ERR_OK) err = sequences_create(eval, eval->n_caches, info);
    if (eval->recoder != NULL) eval->stored = recoder_recode;
    for (int at = 0; at < fed && err == ERR_OK;) {
        int n = fed - at < CHUNK ? fed - at : CHUNK;
        err = chunk_score(eval, tokens, at, n, info);
        at += n;
        if (err == ERR_OK) progress(eval, window, at);
    }
    sequences_free(eval);
    return err;
}

static int floats_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static struct eval_text_row row_of(const struct eval_text *eval, int c)
{
    const struct tally *base = &eval->tallies[0], *tally = &eval->tallies[c];
    const struct kv_policy *policy = &eval->evaluation->policies[c];
    double n = (double)tally->n;
    qsort(tally->kls, (size_t)tally->n, sizeof *tally->kls, floats_compare);
    return (struct eval_text_row){.format = policy->format->name,
                                  .recent_blocks = policy->recent_blocks,
                                  .ppl = exp(tally->nll / n),
                                  .base_ppl = exp(base->nll / n),
                                  .kl = tally->kl / n,
                                  .kl99 = tally->kls[(size_t)(.99 * (n - 1))],
                                  .top1 = (double)tally->same_top / n,
                                  .bits = kv_policy_bits(policy, eval->ctx)};
}

enum err eval_text_measure(struct evaluation *evaluation, struct eval_text_row *lines, int *n_windows,
                           struct err_info *info)
{
    struct eval_text eval = {
        .evaluation = evaluation, .ctx = evaluation->options->ctx, .n_caches = evaluation->n_caches};
    int rows = CHUNK * eval.n_caches;
    struct evaluation_room room = {rows, rows, eval.ctx, eval.n_caches};
    enum err err = tokens_load(&eval, info);
    if (err == ERR_OK) err = evaluation_load(evaluation, &room, info);
    if (err == ERR_OK) err = tallies_create(&eval, info);
    if (err == ERR_OK && evaluation_codes_all(evaluation))
        err = recoder_create(evaluation, &eval.recoder, info);
    for (int w = 0; w < eval.windows && err == ERR_OK; w++) err = window_run(&eval, w, info);
    for (int c = 0; c < eval.n_caches && err == ERR_OK; c++) lines[c] = row_of(&eval, c);
    if (err == ERR_OK) *n_windows = eval.windows;
    tallies_free(&eval);
    recoder_free(eval.recoder);
    free(eval.tokens);
    return err;
}

static void row_print(const struct eval_options *options, const struct eval_text_row *row, int n_windows)
{
    if (options->json)
        printf("{\"format\":\"%s\",\"ppl\":%.5f,\"base_ppl\":%.5f,\"kl\":%.6f,\"kl99\":%.5f,\"top1\":%.5f,"
               "\"bits\":%.4f,\"ctx\":%d,\"windows\":%d,\"recent\":%d,\"rule\":\"%s\"}\n",
               row->format, row->ppl, row->base_ppl, row->kl, row->kl99, row->top1, row->bits, options->ctx,
               n_windows, row->recent_blocks, options->rule);
    else
        printf("%-10s %6d %9.4f %+9.4f %9.5f %9.4f %8.2f %6.3f\n", row->format, row->recent_blocks, row->ppl,
               row->ppl - row->base_ppl, row->kl, row->kl99, 100 * row->top1, row->bits);
}

enum err eval_text_run(struct evaluation *evaluation, struct err_info *info)
{
    struct eval_text_row lines[EVALUATION_MAX_CACHES];
    int n_windows;
    enum err err = eval_text_measure(evaluation, lines, &n_windows, info);
    if (err != ERR_OK) return err;
    bool json = evaluation->options->json;
    if (!json)
        printf("%-10s %6s %9s %9s %9s %9s %8s %6s\n", "format", "recent", "ppl", "rise", "kl", "kl99",
               "top1 %", "bits");
    for (int c = json ? 1 : 0; c < evaluation->n_caches; c++)
        row_print(evaluation->options, &lines[c], n_windows);
    return ERR_OK;
}
