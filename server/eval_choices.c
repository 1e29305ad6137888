#include "server/eval_choices.h"

#include "config/buf.h"
#include "config/json.h"
#include "kernels/workers.h"
#include "model/distribution.h"
#include "server/eval_questions.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Question by question, with every cache. What all contexts begin with is read once a cache, a context once a
 * question and cache; each choice goes on from a fork of its context, in which the last token of the context
 * is read again, because it is the one that predicts the choice's first. All that is read at one time goes
 * through the model side by side; none of it changes a result.
 */
enum { ROWS = 256 };

/* Tokens that are to go through one cache. */
struct run {
    struct kv_sequence *sequence;
    const int32_t *tokens;
    int n_tokens, n_read;
    bool is_scored;        /* then tokens[n_tokens] is there too: what the last row is to predict */
    double logprob;        /* the sum over its rows */
    int n_rows, first_row; /* in this step; first_row: of the logits, when it is scored */
};

enum { BY_SUM, BY_CHARACTER, RULES };

/* Of one cache on one question. */
struct outcome {
    double logprobs[EVAL_QUESTION_MAX_CHOICES];
    int chosen[RULES];
};

struct score {
    int correct[RULES], lost[RULES], gained[RULES], changed[RULES];
    size_t bytes;
    int64_t values; /* cached when a choice ends */
};

struct eval_choices {
    struct evaluation *evaluation;
    struct eval_questions questions;
    int n_caches, n_runs;
    struct kv_sequence *shared[EVALUATION_MAX_CACHES], *contexts[EVALUATION_MAX_CACHES];
    struct run *runs;             /* [n_runs]: choices of all caches; each keeps its sequence */
    struct distribution *scratch; /* [n_scratch], of a worker each */
    int n_scratch;
    struct score scores[EVALUATION_MAX_CACHES];
    FILE *details; /* NULL: none */
};

/* --- Reading --- */

struct rows {
    const float *logits;
    int n_vocab;
    int32_t targets[ROWS];
    struct distribution *scratch;
    double logprobs[ROWS];
};

static void row_score(void *context, int row, int worker)
{
    struct rows *rows = context;
    const float *logits = rows->logits + (size_t)row * (size_t)rows->n_vocab;
    double log_sum = distribution_log_sum(&rows->scratch[worker], logits);
    rows->logprobs[row] = logits[rows->targets[row]] - log_sum;
}

/* As many tokens of the runs as a step takes, the first runs' first; false when all are read. */
static bool rows_share(struct run *runs, int n_runs)
{
    int left = ROWS;
    for (int r = 0; r < n_runs; r++) {
        struct run *run = &runs[r];
        int unread = run->n_tokens - run->n_read;
        run->n_rows = unread < left ? unread : left;
        left -= run->n_rows;
    }
    return left < ROWS;
}

/* Takes the rows' log probabilities into their runs. */
static void rows_count(struct eval_choices *choices, struct run *runs, int n_runs, struct rows *rows, int n)
{
    workers_run(choices->evaluation->runtime.workers, n, row_score, rows);
    for (int r = 0; r < n_runs; r++)
        for (int i = 0; runs[r].is_scored && i < runs[r].n_rows; i++)
            runs[r].logprob += rows->logprobs[runs[r].first_row + i];
}

static enum err runs_step(struct eval_choices *choices, struct run *runs, int n_runs, struct err_info *info)
{
    const struct runtime *runtime = &choices->evaluation->runtime;
    struct attention_span spans[ROWS];
    int32_t tokens[ROWS], logit_rows[ROWS];
    struct model_batch batch = {.tokens = tokens, .spans = spans, .logit_rows = logit_rows};
    struct rows rows = {.n_vocab = model_config(runtime->model)->n_vocab, .scratch = choices->scratch};
    kv_staging_reset(choices->evaluation->staging);
    for (int r = 0; r < n_runs; r++) {
        struct run *run = &runs[r];
        if (run->n_rows == 0) continue;
        enum err err = kv_sequence_begin(run->sequence, run->n_rows, info);
        if (err != ERR_OK) return err;
        kv_sequence_span(run->sequence, batch.n_tokens, &spans[batch.n_spans++]);
        memcpy(tokens + batch.n_tokens, run->tokens + run->n_read, (size_t)run->n_rows * sizeof *tokens);
        run->first_row = batch.n_logits;
        for (int i = 0; run->is_scored && i < run->n_rows; i++) {
            rows.targets[batch.n_logits] = run->tokens[run->n_read + i + 1];
            logit_rows[batch.n_logits++] = batch.n_tokens + i;
        }
        batch.n_tokens += run->n_rows;
        run->n_read += run->n_rows;
    }
    model_forward(runtime->model, &batch, &rows.logits);
    for (int r = 0; r < n_runs; r++)
        if (runs[r].n_rows > 0) kv_sequence_end(runs[r].sequence);
    rows_count(choices, runs, n_runs, &rows, batch.n_logits);
    return ERR_OK;
}

static enum err runs_read(struct eval_choices *choices, struct run *runs, int n_runs, struct err_info *info)
{
    enum err err = ERR_OK;
    while (err == ERR_OK && rows_share(runs, n_runs)) err = runs_step(choices, runs, n_runs, info);
    return err;
}

/* Tokens [from, to) of the context, into one sequence of each cache. */
static enum err context_read(struct eval_choices *choices, const int32_t *context, int from, int to,
                             struct kv_sequence **sequences, struct err_info *info)
{
    struct run runs[EVALUATION_MAX_CACHES];
    for (int c = 0; c < choices->n_caches; c++)
        runs[c] = (struct run){.sequence = sequences[c], .tokens = context + from, .n_tokens = to - from};
    return runs_read(choices, runs, choices->n_caches, info);
}

/* --- Questions --- */

/* The first of the likeliest. */
static void outcome_choose(const struct eval_question *question, struct outcome *outcome)
{
    for (int rule = 0; rule < RULES; rule++) {
        double best = -INFINITY;
        outcome->chosen[rule] = 0;
        for (int i = 0; i < question->n_choices; i++) {
            double value = outcome->logprobs[i];
            if (rule == BY_CHARACTER) value /= question->choices[i].n_characters;
            if (value > best) {
                best = value;
                outcome->chosen[rule] = i;
            }
        }
    }
}

static enum err question_read(struct eval_choices *choices, const struct eval_question *question,
                              struct outcome *outcomes, struct err_info *info)
{
    int n = question->n_choices, n_caches = choices->n_caches;
    enum err err = ERR_OK;
    for (int c = 0; c < n_caches && err == ERR_OK; c++)
        err = kv_sequence_fork(choices->shared[c], choices->contexts[c], info);
    if (err == ERR_OK)
        err = context_read(choices, question->context, choices->questions.n_shared, question->n_context - 1,
                           choices->contexts, info);
    for (int r = 0; r < n * n_caches && err == ERR_OK; r++) {
        const struct eval_choice *choice = &question->choices[r % n];
        struct run *run = &choices->runs[r];
        *run = (struct run){.sequence = run->sequence,
                            .tokens = choice->tokens,
                            .n_tokens = choice->n_tokens - 1,
                            .is_scored = true};
        err = kv_sequence_fork(choices->contexts[r / n], run->sequence, info);
    }
    if (err == ERR_OK) err = runs_read(choices, choices->runs, n * n_caches, info);
    if (err != ERR_OK) return err;
    for (int r = 0; r < n * n_caches; r++) outcomes[r / n].logprobs[r % n] = choices->runs[r].logprob;
    for (int c = 0; c < n_caches; c++) outcome_choose(question, &outcomes[c]);
    return ERR_OK;
}

static void question_count(struct eval_choices *choices, const struct eval_question *question,
                           const struct outcome *outcomes)
{
    for (int c = 0; c < choices->n_caches; c++) {
        const struct kv_policy *policy = &choices->evaluation->policies[c];
        struct score *score = &choices->scores[c];
        for (int rule = 0; rule < RULES; rule++) {
            int base = outcomes[0].chosen[rule], chosen = outcomes[c].chosen[rule];
            score->correct[rule] += chosen == question->answer;
            score->lost[rule] += base == question->answer && chosen != base;
            score->gained[rule] += chosen == question->answer && chosen != base;
            score->changed[rule] += chosen != base;
        }
        for (int i = 0; i < question->n_choices; i++) {
            int n_tokens = question->n_context + question->choices[i].n_tokens - 2;
            score->bytes += kv_policy_held_bytes(policy, n_tokens);
            score->values += kv_policy_values(policy, n_tokens);
        }
    }
}

static void detail_write(const struct eval_choices *choices, int q, int c, const struct outcome *outcome,
                         struct buf *line)
{
    const struct eval_question *question = &choices->questions.questions[q];
    const struct kv_policy *policy = &choices->evaluation->policies[c];
    buf_printf(line,
               "{\"problem\":%d,\"format\":\"%s\",\"recent\":%d,\"expected\":%d,\"answer\":%d,"
               "\"answer_norm\":%d,\"tokens\":%d,\"logprobs\":[",
               q, policy->format->name, policy->recent_blocks, question->answer, outcome->chosen[BY_SUM],
               outcome->chosen[BY_CHARACTER], question->n_context);
    for (int i = 0; i < question->n_choices; i++) {
        if (i > 0) buf_text(line, ",");
        json_write_double(line, outcome->logprobs[i]);
    }
    buf_text(line, "]}\n");
}

static enum err details_write(const struct eval_choices *choices, int q, const struct outcome *outcomes,
                              struct err_info *info)
{
    struct buf line;
    buf_init(&line, SIZE_MAX);
    for (int c = 0; c < choices->n_caches; c++) detail_write(choices, q, c, &outcomes[c], &line);
    enum err err = evaluation_details_write(choices->evaluation, choices->details, &line, info);
    buf_free(&line);
    return err;
}

static enum err questions_ask(struct eval_choices *choices, struct err_info *info)
{
    const struct eval_questions *questions = &choices->questions;
    enum err err =
        context_read(choices, questions->questions[0].context, 0, questions->n_shared, choices->shared, info);
    for (int q = 0; q < questions->count && err == ERR_OK; q++) {
        struct outcome outcomes[EVALUATION_MAX_CACHES];
        err = question_read(choices, &questions->questions[q], outcomes, info);
        if (err != ERR_OK) break;
        question_count(choices, &questions->questions[q], outcomes);
        if (choices->details != NULL) err = details_write(choices, q, outcomes, info);
        int n_asked = q + 1, last = choices->n_caches - 1;
        evaluation_progress(n_asked % 100 == 0 || n_asked == questions->count,
                            "%d of %d problems: f16 %.1f %%, %s %.1f %%", n_asked, questions->count,
                            100.0 * choices->scores[0].correct[BY_SUM] / n_asked,
                            choices->evaluation->policies[last].format->name,
                            100.0 * choices->scores[last].correct[BY_SUM] / n_asked);
    }
    return err;
}

/* --- Results --- */

static void row_print(const struct eval_choices *choices, int c)
{
    const struct eval_options *options = choices->evaluation->options;
    const struct kv_policy *policy = &choices->evaluation->policies[c];
    const struct score *score = &choices->scores[c], *base = &choices->scores[0];
    double n = choices->questions.count, bits = 8.0 * (double)score->bytes / (double)score->values;
    if (!options->json) {
        printf("%-10s %6d", policy->format->name, policy->recent_blocks);
        for (int rule = 0; rule < RULES; rule++)
            printf(" %8.2f %% %6d %6d %8d", 100 * score->correct[rule] / n, score->lost[rule],
                   score->gained[rule], score->changed[rule]);
        printf(" %7.3f\n", bits);
        return;
    }
    printf("{\"task\":\"choices\",\"format\":\"%s\",\"problems\":%d,\"shots\":%d", policy->format->name,
           choices->questions.count, options->shots);
    for (int rule = 0; rule < RULES; rule++) {
        const char *suffix = rule == BY_CHARACTER ? "_norm" : "";
        printf(",\"correct%s\":%d,\"accuracy%s\":%.5f,\"base_accuracy%s\":%.5f,\"lost%s\":%d,\"gained%s\":%d,"
               "\"changed%s\":%d",
               suffix, score->correct[rule], suffix, score->correct[rule] / n, suffix,
               base->correct[rule] / n, suffix, score->lost[rule], suffix, score->gained[rule], suffix,
               score->changed[rule]);
    }
    printf(",\"bits\":%.4f,\"recent\":%d}\n", bits, policy->recent_blocks);
}

static void report(const struct eval_choices *choices)
{
    bool json = choices->evaluation->options->json;
    if (!json)
        printf("%-10s %6s %10s %6s %6s %8s %10s %6s %6s %8s %7s\n", "format", "recent", "accuracy", "lost",
               "gained", "changed", "per char.", "lost", "gained", "changed", "bits");
    for (int c = json ? 1 : 0; c < choices->n_caches; c++) row_print(choices, c);
}

/* --- The run --- */

static enum err context_check(const struct eval_choices *choices, struct err_info *info)
{
    struct model_config config;
    enum err err = model_config_read(choices->evaluation->runtime.gguf, &config, info);
    if (err == ERR_OK && choices->questions.max_tokens > config.context_length)
        err = err_set_param(info, ERR_USAGE, "shots",
                            "--shots %d: a problem has %d tokens with its examples, more than the model's "
                            "context of %d",
                            choices->evaluation->options->shots, choices->questions.max_tokens,
                            config.context_length);
    return err;
}

static enum err sequences_make(struct eval_choices *choices, struct err_info *info)
{
    int max_tokens = choices->questions.max_tokens;
    enum err err = ERR_OK;
    for (int c = 0; c < choices->n_caches && err == ERR_OK; c++) {
        err = evaluation_sequence(choices->evaluation, c, max_tokens, &choices->shared[c], info);
        if (err == ERR_OK)
            err = evaluation_sequence(choices->evaluation, c, max_tokens, &choices->contexts[c], info);
    }
    for (int r = 0; r < choices->n_runs && err == ERR_OK; r++)
        err = evaluation_sequence(choices->evaluation, 0, max_tokens, &choices->runs[r].sequence, info);
    return err;
}

static enum err scratch_make(struct eval_choices *choices, struct err_info *info)
{
    const struct runtime *runtime = &choices->evaluation->runtime;
    int n_workers = workers_count(runtime->workers);
    choices->scratch = calloc((size_t)n_workers, sizeof *choices->scratch);
    bool made = choices->scratch != NULL;
    for (; made && choices->n_scratch < n_workers; choices->n_scratch++)
        made =
            distribution_init(&choices->scratch[choices->n_scratch], model_config(runtime->model)->n_vocab);
    return made ? ERR_OK : err_set(info, ERR_MEMORY, "eval: out of memory");
}

static enum err choices_open(struct eval_choices *choices, struct err_info *info)
{
    struct evaluation *evaluation = choices->evaluation;
    const struct eval_options *options = evaluation->options;
    enum err err = eval_questions_read(options->data, options->shots, options->limit,
                                       evaluation->runtime.tokenizer, &choices->questions, info);
    if (err == ERR_OK) err = context_check(choices, info);
    if (err != ERR_OK) return err;
    int n_runs = choices->n_caches * choices->questions.max_choices;
    choices->runs = calloc((size_t)n_runs, sizeof *choices->runs);
    if (choices->runs == NULL) return err_set(info, ERR_MEMORY, "eval: out of memory");
    choices->n_runs = n_runs;
    struct evaluation_room room = {ROWS, ROWS, choices->questions.max_tokens, n_runs + 2 * choices->n_caches};
    err = evaluation_load(evaluation, &room, info);
    if (err == ERR_OK) err = scratch_make(choices, info);
    if (err == ERR_OK) err = sequences_make(choices, info);
    return err;
}

static void choices_close(struct eval_choices *choices)
{
    for (int r = 0; r < choices->n_runs; r++) kv_sequence_free(choices->runs[r].sequence);
    for (int c = 0; c < choices->n_caches; c++) {
        kv_sequence_free(choices->contexts[c]);
        kv_sequence_free(choices->shared[c]);
    }
    for (int i = 0; i < choices->n_scratch; i++) distribution_free(&choices->scratch[i]);
    free(choices->scratch);
    free(choices->runs);
    eval_questions_free(&choices->questions);
}

enum err eval_choices_run(struct evaluation *evaluation, struct err_info *info)
{
    struct eval_choices choices = {.evaluation = evaluation, .n_caches = evaluation->n_caches};
    enum err err = evaluation_details_open(evaluation, &choices.details, info);
    if (err == ERR_OK) err = choices_open(&choices, info);
    if (err == ERR_OK) err = questions_ask(&choices, info);
    if (err == ERR_OK) report(&choices);
    if (choices.details != NULL) fclose(choices.details);
    choices_close(&choices);
    return err;
}
