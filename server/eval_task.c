#include "server/eval_task.h"

#include "config/buf.h"
#include "config/json.h"
#include "server/eval_prompts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Every problem is a job for every cache, problem by problem, so that pairs end at about the same time. Slots
 * work on jobs side by side: a step carries one token of each slot that writes and chunks of the prompts of
 * those that read. What all prompts begin with (worked examples, or the chat format) is read once per cache
 * and shared.
 */
enum { ROWS = 256, TEXT_BYTES = 1 << 20 };

struct result {
    bool answered, correct;
    double answer;
    int n_tokens; /* written */
    char *text;
};

struct slot {
    struct kv_sequence *sequence;
    int job; /* -1: idle */
    const int32_t *unread;
    int n_unread;
    int32_t last; /* written, to be read in the next step */
    struct buf text;
    int n_tokens;
    int n_rows, logit; /* in this step; logit: which row of the logits, -1: none */
};

struct score {
    int correct, lost, gained; /* of finished problems */
    size_t bytes;
    int64_t values; /* cached when jobs end */
};

struct eval_task {
    struct evaluation *evaluation;
    struct eval_problems problems;
    struct eval_prompts prompts;
    int max_tokens; /* of a sequence */
    int n_caches, n_slots, next_job, n_done, n_problems_done;
    struct kv_sequence *prefixes[EVALUATION_MAX_CACHES];
    struct slot *slots;
    struct result *results; /* [problems][caches] */
    struct score scores[EVALUATION_MAX_CACHES];
};

/* --- Steps --- */

static enum err sequences_make(struct eval_task *task, struct err_info *info)
{
    enum err err = ERR_OK;
    for (int c = 0; c < task->n_caches && err == ERR_OK; c++)
        err = evaluation_sequence(task->evaluation, c, task->max_tokens, &task->prefixes[c], info);
    for (int s = 0; s < task->n_slots && err == ERR_OK; s++)
        err = evaluation_sequence(task->evaluation, 0, task->max_tokens, &task->slots[s].sequence, info);
    return err;
}

/* The prefix through the model, for all caches side by side. */
static enum err prefixes_read(struct eval_task *task, struct err_info *info)
{
    int n_prefix = (int)task->prompts.prefix.n, share = ROWS / task->n_caches;
    for (int at = 0, n; at < n_prefix; at += n) {
        struct attention_span spans[EVALUATION_MAX_CACHES];
        int32_t tokens[ROWS];
        const float *logits;
        n = n_prefix - at < share ? n_prefix - at : share;
        kv_staging_reset(task->evaluation->staging);
        for (int c = 0; c < task->n_caches; c++) {
            enum err err = kv_sequence_begin(task->prefixes[c], n, info);
            if (err != ERR_OK) return err;
            kv_sequence_span(task->prefixes[c], c * n, &spans[c]);
            memcpy(tokens + c * n, task->prompts.prefix.ids + at, (size_t)n * sizeof *tokens);
        }
        struct model_batch batch = {
            .n_tokens = n * task->n_caches, .tokens = tokens, .n_spans = task->n_caches, .spans = spans};
        model_forward(task->evaluation->runtime.model, &batch, &logits);
        for (int c = 0; c < task->n_caches; c++) kv_sequence_end(task->prefixes[c]);
        evaluation_progress(false, "%d of %d tokens that all problems share", at + n, n_prefix);
    }
    return ERR_OK;
}

static enum err slot_start(struct eval_task *task, struct slot *slot, struct err_info *info)
{
    int job = task->next_job, cache = job % task->n_caches;
    const struct eval_tokens *prompt = &task->prompts.prompts[job / task->n_caches];
    if (kv_sequence_tokens(task->prefixes[cache]) > 0) {
        enum err err = kv_sequence_fork(task->prefixes[cache], slot->sequence, info);
        if (err != ERR_OK) return err;
    } else {
        kv_sequence_reset(slot->sequence, &task->evaluation->policies[cache]);
    }
    task->next_job++;
    slot->job = job;
    slot->unread = prompt->ids;
    slot->n_unread = (int)prompt->n;
    slot->n_tokens = 0;
    buf_clear(&slot->text);
    return ERR_OK;
}

/* Rows of a step: those of the slots that write first, one each; then prompts, as far as they go. */
static void rows_share(struct eval_task *task)
{
    int left = ROWS;
    for (int s = 0; s < task->n_slots; s++) {
        struct slot *slot = &task->slots[s];
        slot->n_rows = slot->job >= 0 && slot->n_unread == 0;
        left -= slot->n_rows;
    }
    for (int s = 0; s < task->n_slots; s++) {
        struct slot *slot = &task->slots[s];
        if (slot->job < 0 || slot->n_unread == 0) continue;
        slot->n_rows = slot->n_unread < left ? slot->n_unread : left;
        left -= slot->n_rows;
    }
}

static int top(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* What the step carries, and its pass through the model. */
static enum err step_forward(struct eval_task *task, const float **logits, struct err_info *info)
{
    struct attention_span spans[ROWS];
    int32_t tokens[ROWS], logit_rows[ROWS];
    struct model_batch batch = {.tokens = tokens, .spans = spans, .logit_rows = logit_rows};
    kv_staging_reset(task->evaluation->staging);
    for (int s = 0; s < task->n_slots; s++) {
        struct slot *slot = &task->slots[s];
        slot->logit = -1;
        if (slot->n_rows == 0) continue;
        enum err err = kv_sequence_begin(slot->sequence, slot->n_rows, info);
        if (err != ERR_OK) return err;
        kv_sequence_span(slot->sequence, batch.n_tokens, &spans[batch.n_spans++]);
        const int32_t *from = slot->n_unread > 0 ? slot->unread : &slot->last;
        memcpy(tokens + batch.n_tokens, from, (size_t)slot->n_rows * sizeof *tokens);
        batch.n_tokens += slot->n_rows;
        if (slot->n_unread > 0) {
            slot->unread += slot->n_rows;
            slot->n_unread -= slot->n_rows;
        }
        if (slot->n_unread > 0) continue;
        slot->logit = batch.n_logits;
        logit_rows[batch.n_logits++] = batch.n_tokens - 1;
    }
    model_forward(task->evaluation->runtime.model, &batch, logits);
    for (int s = 0; s < task->n_slots; s++)
        if (task->slots[s].n_rows > 0) kv_sequence_end(task->slots[s].sequence);
    return ERR_OK;
}

static void progress(struct eval_task *task)
{
    int problem_count = task->problems.count, done = task->n_problems_done;
    struct buf line;
    buf_init(&line, 512);
    buf_printf(&line, "%d of %d problems:", done, problem_count);
    for (int c = 0; c < task->n_caches && done > 0; c++) {
        const struct kv_policy *policy = &task->evaluation->policies[c];
        buf_printf(&line, " %s", policy->format->name);
        if (c > 0 && task->evaluation->options->n_recents > 1)
            buf_printf(&line, "/%d", policy->recent_blocks);
        buf_printf(&line, " %.1f %%%s", 100.0 * task->scores[c].correct / done,
                   c + 1 < task->n_caches ? "," : "");
    }
    if (!line.failed) evaluation_progress(done % 10 == 0 || done == problem_count, "%s", line.data);
    buf_free(&line);
}

/* Counts problem p once all caches have an answer. */
static void problem_count(struct eval_task *task, int p)
{
    const struct result *results = &task->results[(size_t)p * (size_t)task->n_caches];
    for (int c = 0; c < task->n_caches; c++)
        if (results[c].text == NULL) return;
    for (int c = 0; c < task->n_caches; c++) {
        task->scores[c].correct += results[c].correct;
        task->scores[c].lost += results[0].correct && !results[c].correct;
        task->scores[c].gained += !results[0].correct && results[c].correct;
    }
    task->n_problems_done++;
    progress(task);
}

/* cut: bytes of the text that count as the answer. */
static enum err slot_finish(struct eval_task *task, struct slot *slot, size_t cut, struct err_info *info)
{
    int cache = slot->job % task->n_caches, problem = slot->job / task->n_caches;
    const struct kv_policy *policy = &task->evaluation->policies[cache];
    struct result *result = &task->results[slot->job];
    struct score *score = &task->scores[cache];
    char *text = malloc(cut + 1);
    if (text == NULL) return err_set(info, ERR_MEMORY, "eval: out of memory");
    if (cut > 0) memcpy(text, slot->text.data, cut);
    text[cut] = '\0';
    *result = (struct result){.n_tokens = slot->n_tokens, .text = text};
    result->answered = eval_answer_number(text, &result->answer);
    result->correct =
        result->answered && eval_answer_same(result->answer, task->problems.problems[problem].answer);
    score->bytes += kv_policy_held_bytes(policy, kv_sequence_tokens(slot->sequence));
    score->values += kv_policy_values(policy, kv_sequence_tokens(slot->sequence));
    slot->job = -1;
    problem_count(task, problem);
    return ERR_OK;
}

/* Takes the slot's next token. */
static enum err slot_write(struct eval_task *task, struct slot *slot, const float *logits,
                           struct err_info *info)
{
    const struct runtime *runtime = &task->evaluation->runtime;
    size_t length;
    int32_t token = top(logits, model_config(runtime->model)->n_vocab);
    if (tokenizer_is_end(runtime->tokenizer, token)) return slot_finish(task, slot, slot->text.length, info);
    const char *bytes = tokenizer_bytes(runtime->tokenizer, token, &length);
    for (size_t i = 0; i < length; i++) /* a NUL would hide what follows */
        buf_append(&slot->text, bytes[i] ? &bytes[i] : " ", 1);
    if (slot->text.failed) return err_set(info, ERR_MEMORY, "eval: out of memory");
    slot->last = token;
    slot->n_tokens++;
    bool chat = task->evaluation->options->chat;
    const char *next = chat || slot->text.length == 0 ? NULL : strstr(slot->text.data, EVAL_QUESTION);
    if (next != NULL) return slot_finish(task, slot, (size_t)(next - slot->text.data), info);
    if (slot->n_tokens == task->evaluation->options->max_tokens)
        return slot_finish(task, slot, slot->text.length, info);
    return ERR_OK;
}

static enum err task_step(struct eval_task *task, struct err_info *info)
{
    int n_jobs = task->problems.count * task->n_caches;
    size_t n_vocab = (size_t)model_config(task->evaluation->runtime.model)->n_vocab;
    const float *logits;
    enum err err = ERR_OK;
    for (int s = 0; s < task->n_slots && err == ERR_OK; s++)
        if (task->slots[s].job < 0 && task->next_job < n_jobs) err = slot_start(task, &task->slots[s], info);
    if (err != ERR_OK) return err;
    rows_share(task);
    err = step_forward(task, &logits, info);
    for (int s = 0; s < task->n_slots && err == ERR_OK; s++)
        if (task->slots[s].logit >= 0)
            err = slot_write(task, &task->slots[s], logits + (size_t)task->slots[s].logit * n_vocab, info);
    return err;
}

/* --- Results --- */

static void detail_write(const struct eval_task *task, int job, struct buf *line)
{
    const struct result *result = &task->results[job];
    const struct kv_policy *policy = &task->evaluation->policies[job % task->n_caches];
    buf_printf(line, "{\"problem\":%d,\"format\":\"%s\",\"recent\":%d,\"expected\":", job / task->n_caches,
               policy->format->name, policy->recent_blocks);
    json_write_double(line, task->problems.problems[job / task->n_caches].answer);
    buf_text(line, ",\"answer\":");
    if (result->answered)
        json_write_double(line, result->answer);
    else
        buf_text(line, "null");
    buf_printf(line, ",\"correct\":%s,\"tokens\":%d,\"text\":", result->correct ? "true" : "false",
               result->n_tokens);
    json_write_text(line, result->text);
    buf_text(line, "}\n");
}

static enum err details_write(const struct eval_task *task, FILE *file, struct err_info *info)
{
    struct buf lines;
    buf_init(&lines, SIZE_MAX);
    for (int job = 0; job < task->problems.count * task->n_caches; job++) detail_write(task, job, &lines);
    enum err err = evaluation_details_write(task->evaluation, file, &lines, info);
    buf_free(&lines);
    return err;
}

static void report(const struct eval_task *task)
{
    const struct eval_options *options = task->evaluation->options;
    double n = task->problems.count;
    if (!options->json)
        printf("%-10s %6s %10s %10s %8s %8s %8s\n", "format", "recent", "correct", "accuracy", "lost",
               "gained", "bits");
    for (int c = options->json ? 1 : 0; c < task->n_caches; c++) {
        const struct score *score = &task->scores[c];
        const char *name = task->evaluation->policies[c].format->name;
        double bits = 8.0 * (double)score->bytes / (double)score->values;
        if (options->json)
            printf(
                "{\"task\":\"%s\",\"format\":\"%s\",\"problems\":%d,\"shots\":%d,\"chat\":%s,\"correct\":%d,"
                "\"accuracy\":%.5f,\"base_accuracy\":%.5f,\"lost\":%d,\"gained\":%d,\"bits\":%.4f,"
                "\"recent\":%d}\n",
                options->task, name, task->problems.count, options->chat ? 0 : options->shots,
                options->chat ? "true" : "false", score->correct, score->correct / n,
                task->scores[0].correct / n, score->lost, score->gained, bits,
                task->evaluation->policies[c].recent_blocks);
        else
            printf("%-10s %6d %10d %8.2f %% %8d %8d %8.3f\n", name,
                   task->evaluation->policies[c].recent_blocks, score->correct, 100 * score->correct / n,
                   score->lost, score->gained, bits);
    }
}

/* --- The run --- */

/* Sets max_tokens. */
static enum err context_check(struct eval_task *task, struct err_info *info)
{
    const struct eval_options *options = task->evaluation->options;
    size_t prefix = task->prompts.prefix.n, longest = task->prompts.longest;
    size_t most = prefix + longest + (size_t)options->max_tokens;
    struct model_config config;
    enum err err = model_config_read(task->evaluation->runtime.gguf, &config, info);
    if (err != ERR_OK) return err;
    if (most > (size_t)config.context_length)
        return err_set_param(
            info, ERR_USAGE, "max-tokens",
            "--max-tokens %d: with %zu tokens before every problem and up to %zu of a problem "
            "that is more than the model's context of %d",
            options->max_tokens, prefix, longest, config.context_length);
    task->max_tokens = (int)most;
    return ERR_OK;
}

static enum err task_open(struct eval_task *task, struct err_info *info)
{
    struct evaluation *evaluation = task->evaluation;
    const struct eval_options *options = evaluation->options;
    enum err err = eval_problems_read(options->data, options->limit, &task->problems, info);
    if (err == ERR_OK)
        err =
            eval_prompts_make(evaluation->runtime.tokenizer, options, &task->problems, &task->prompts, info);
    if (err == ERR_OK) err = context_check(task, info);
    if (err != ERR_OK) return err;
    size_t n_jobs = (size_t)task->problems.count * (size_t)task->n_caches;
    int n_slots = n_jobs < (size_t)options->parallel ? (int)n_jobs : options->parallel;
    task->slots = calloc((size_t)n_slots, sizeof *task->slots);
    task->results = calloc(n_jobs, sizeof *task->results);
    if (task->slots == NULL || task->results == NULL) return err_set(info, ERR_MEMORY, "eval: out of memory");
    for (task->n_slots = 0; task->n_slots < n_slots; task->n_slots++) {
        task->slots[task->n_slots].job = -1;
        buf_init(&task->slots[task->n_slots].text, TEXT_BYTES);
    }
    struct evaluation_room room = {ROWS, n_slots, task->max_tokens, n_slots + task->n_caches};
    err = evaluation_load(evaluation, &room, info);
    if (err == ERR_OK) err = sequences_make(task, info);
    return err;
}

static void task_close(struct eval_task *task)
{
    for (int s = 0; s < task->n_slots; s++) {
        kv_sequence_free(task->slots[s].sequence);
        buf_free(&task->slots[s].text);
    }
    for (int c = 0; c < task->n_caches; c++) kv_sequence_free(task->prefixes[c]);
    for (int job = 0; task->results && job < task->problems.count * task->n_caches; job++)
        free(task->results[job].text);
    eval_prompts_free(&task->prompts);
    free(task->slots);
    free(task->results);
    eval_problems_free(&task->problems);
}

enum err eval_task_run(struct evaluation *evaluation, struct err_info *info)
{
    struct eval_task task = {.evaluation = evaluation, .n_caches = evaluation->n_caches};
    FILE *file;
    enum err err = evaluation_details_open(evaluation, &file, info);
    if (err == ERR_OK) err = task_open(&task, info);
    if (err == ERR_OK) err = prefixes_read(&task, info);
    while (err == ERR_OK && task.n_problems_done < task.problems.count) err = task_step(&task, info);
    if (err == ERR_OK && file != NULL) err = details_write(&task, file, info);
    if (err == ERR_OK) report(&task);
    if (file != NULL) fclose(file);
    task_close(&task);
    return err;
}
