#include "server/evaluation.h"

#include "cache/calibration.h"
#include "config/buf.h"
#include "config/log.h"
#include "config/options.h"
#include "server/serve_calibration.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Does it matter to the format's reader which blocks are recent? One that says yes too often costs time. */
static bool has_recent(const char *name, size_t length)
{
    return strncmp(name, "f16", length) != 0 && strncmp(name, "rotatekv", length) != 0;
}

static enum err caches_list(struct evaluation *evaluation, struct err_info *info)
{
    const struct eval_options *options = evaluation->options;
    bool all = evaluation_codes_all(evaluation);
    const char *name = options->kv_format;
    evaluation->caches[0] = (struct evaluation_cache){.format = -1};
    evaluation->n_caches = 1;
    for (int format = 0; *name != '\0'; format++) {
        size_t length = strcspn(name, ",");
        int n = all || !has_recent(name, length) ? 1 : options->n_recents;
        for (int i = 0; i < n; i++) {
            if (evaluation->n_caches == EVALUATION_MAX_CACHES)
                return err_set_param(info, ERR_USAGE, "kv-format",
                                     "--kv-format and --kv-recent: more than %d comparisons",
                                     EVALUATION_MAX_CACHES - 1);
            evaluation->caches[evaluation->n_caches++] =
                (struct evaluation_cache){format, all ? 0 : options->recents[i]};
        }
        name += length + (name[length] == ',');
    }
    return ERR_OK;
}

enum err evaluation_open(const struct eval_options *options, struct evaluation *out, struct err_info *info)
{
    struct runtime_options runtime = {options->model, options->threads,         options->device,
                                      options->cpu,   options->activation_bits, options->device_weights};
    *out = (struct evaluation){.options = options};
    enum err err = kv_formats_check(options->kv_format, info);
    if (err == ERR_OK) err = caches_list(out, info);
    return err == ERR_OK ? runtime_open(&runtime, &out->runtime, info) : err;
}

static bool never(void)
{
    return false;
}

/* The one that a server of this model would start with. f16 alone has no use for it. */
static enum err calibration_get(struct evaluation *evaluation, struct err_info *info)
{
    const struct eval_options *options = evaluation->options;
    struct options serve = {.model = options->model,
                            .calibration = options->calibration,
                            .no_calibration = options->no_calibration,
                            .sink_tokens = options->sink_tokens};
    struct serve_calibration call = {.options = &serve,
                                     .gguf = evaluation->runtime.gguf,
                                     .tokenizer = evaluation->runtime.tokenizer,
                                     .backend = evaluation->runtime.backend,
                                     .workers = evaluation->runtime.workers,
                                     .stop = never};
    if (strcmp(options->kv_format, "f16") == 0 && options->calibration == NULL) return ERR_OK;
    return serve_calibration_get(&call, &evaluation->calibration, info);
}

static enum err formats_create(struct evaluation *evaluation, const struct kv_shape *shape, int max_tokens,
                               struct err_info *info)
{
    int n_frames = max_tokens / KV_FRAME_TOKENS + 1;
    return kv_formats_create(shape, evaluation->options->kv_format, evaluation->calibration, n_frames,
                             model_inv_freq(evaluation->runtime.model), &evaluation->formats, info);
}

/* Room for the most that n sequences can hold, whichever caches they are of. */
static enum err pool_create(struct evaluation *evaluation, const struct evaluation_room *room,
                            struct err_info *info)
{
    size_t class_bytes[KV_CLASSES] = {0}, sequence_bytes = 0;
    for (int c = 0; c < evaluation->n_caches; c++) {
        const struct kv_policy *policy = &evaluation->policies[c];
        size_t bytes =
            kv_policy_bytes(policy, room->max_tokens) + kv_policy_step_bytes(policy, room->max_rows);
        if (bytes > sequence_bytes) sequence_bytes = bytes;
        kv_policy_classes(policy, class_bytes);
    }
    return kv_pool_create_on(evaluation->runtime.backend, class_bytes,
                             sequence_bytes * (size_t)room->n_sequences, &evaluation->pool, info);
}

enum err evaluation_load(struct evaluation *evaluation, const struct evaluation_room *room,
                         struct err_info *info)
{
    const struct eval_options *options = evaluation->options;
    struct kv_shape shape;
    enum err err = calibration_get(evaluation, info);
    if (err == ERR_OK) err = runtime_load(&evaluation->runtime, room->max_rows, room->max_logits, info);
    if (err != ERR_OK) return err;
    model_kv_shape(evaluation->runtime.model, &shape);
    err = formats_create(evaluation, &shape, room->max_tokens, info);
    if (err != ERR_OK) return err;
    for (int c = 0; c < evaluation->n_caches; c++) {
        const struct evaluation_cache *cache = &evaluation->caches[c];
        evaluation->policies[c] = (struct kv_policy){
            .shape = shape,
            .format = cache->format < 0 ? &kv_format_f16 : kv_formats_at(evaluation->formats, cache->format),
            .recent_blocks = cache->recent_blocks,
            .sink_tokens = options->sink_tokens};
    }
    evaluation->staging = kv_staging_create(&shape, room->max_rows, evaluation->runtime.backend);
    if (evaluation->staging == NULL) return err_set(info, ERR_MEMORY, "eval: out of memory");
    return pool_create(evaluation, room, info);
}

void evaluation_close(struct evaluation *evaluation)
{
    if (evaluation->pool != NULL) kv_pool_free(evaluation->pool);
    if (evaluation->staging != NULL) kv_staging_free(evaluation->staging);
    kv_formats_free(evaluation->formats);
    calibration_free(evaluation->calibration);
    runtime_close(&evaluation->runtime);
}

bool evaluation_codes_all(const struct evaluation *evaluation)
{
    return strcmp(evaluation->options->rule, "all") == 0;
}

enum err evaluation_sequence(struct evaluation *evaluation, int c, int max_tokens, struct kv_sequence **out,
                             struct err_info *info)
{
    return kv_sequence_create(&evaluation->policies[c], evaluation->pool, evaluation->staging,
                              evaluation->runtime.backend, max_tokens, out, info);
}

static enum err details_fail(const char *path, struct err_info *info)
{
    return err_set_param(info, ERR_IO, "details", "--details: %s: %s", path, strerror(errno));
}

enum err evaluation_details_open(const struct evaluation *evaluation, FILE **out, struct err_info *info)
{
    const char *path = evaluation->options->details;
    *out = NULL;
    if (path != NULL && (*out = fopen(path, "w")) == NULL) return details_fail(path, info);
    return ERR_OK;
}

enum err evaluation_details_write(const struct evaluation *evaluation, FILE *file, const struct buf *lines,
                                  struct err_info *info)
{
    if (lines->failed) return err_set(info, ERR_MEMORY, "eval: out of memory");
    if (fwrite(lines->data, 1, lines->length, file) != lines->length || fflush(file) != 0)
        return details_fail(evaluation->options->details, info);
    return ERR_OK;
}

void evaluation_progress(bool milestone, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K%s%s", line, milestone ? "\n" : "");
    else if (milestone)
        log_info("eval", "%s", line);
}
