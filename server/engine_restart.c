#include "server/engine_cache.h"

#include "config/log.h"

#include <stdlib.h>

/*
 * Life after an error of the device. A kernel's error spoils everything the process has on a card, so what
 * runs cannot go on: it gets its 503, and its request is not tried again, because it may be what broke the
 * device. What waits has nothing there and stays in the queue. Then all that the engine and the model hold of
 * the device goes, the backend takes the device anew, the weights come from the file once more, and the
 * engine serves on with an empty cache.
 *
 * An attempt fails when the device cannot be had, is full, or fails again in the warm-up. Attempts are
 * counted until a step has worked; after MOST of them the engine is broken for good: whoever waits or comes
 * gets 503, and /health says so, for whoever can replace the process.
 */
enum { MOST = 5, FIRST_WAIT_MS = 500, POLL_MS = 20 };

const char *engine_device_failure(const struct engine *engine)
{
    const struct backend *backend = engine->options.backend;
    return backend->failure != NULL ? backend->failure(backend) : NULL;
}

enum err engine_device_create(struct engine *engine, struct err_info *info)
{
    const struct engine_options *options = &engine->options;
    size_t class_bytes[KV_CLASSES] = {0};
    for (int format = 0; format < engine->n_formats; format++)
        kv_policy_classes(&engine->policies[format], class_bytes);
    enum err err = kv_pool_create_on(options->backend, class_bytes, options->kv_bytes, &engine->pool, info);
    if (err == ERR_OK) err = engine_cache_create(engine, info);
    if (err != ERR_OK) return err;

    engine->staging =
        kv_staging_create(&engine->policies[0].shape, options->max_batch_tokens, options->backend);
    engine->all_kv = calloc((size_t)options->parallel, sizeof *engine->all_kv);
    engine->free_kv = calloc((size_t)options->parallel, sizeof *engine->free_kv);
    if (engine->staging == NULL)
        return err_set_param(info, ERR_MEMORY, "max-batch-tokens",
                             "no memory for the keys and values of a step of %d tokens; lower "
                             "--max-batch-tokens",
                             options->max_batch_tokens);
    if (engine->all_kv == NULL || engine->free_kv == NULL)
        return err_set(info, ERR_MEMORY, "no memory for the KV cache's sequences");
    for (int i = 0; i < options->parallel; i++) {
        err = kv_sequence_create(&engine->policies[0], engine->pool, engine->staging, options->backend,
                                 options->ctx_size, &engine->all_kv[i], info);
        if (err != ERR_OK) return err;
        if (engine->prefix != NULL) kv_sequence_attach(engine->all_kv[i], engine->prefix);
        engine->free_kv[engine->n_free_kv++] = engine->all_kv[i];
    }
    return ERR_OK;
}

void engine_device_free(struct engine *engine)
{
    for (int i = 0; i < engine->options.parallel && engine->all_kv != NULL; i++)
        kv_sequence_free(engine->all_kv[i]);
    if (engine->started && engine_device_failure(engine) == NULL) engine_cache_save(engine);
    free(engine->all_kv);
    free(engine->free_kv);
    kv_staging_free(engine->staging);
    engine_cache_free(engine);
    kv_pool_free(engine->pool);
    engine->all_kv = engine->free_kv = NULL;
    engine->n_free_kv = 0;
    engine->staging = NULL;
    engine->pool = NULL;
}

void engine_fail_running(struct engine *engine)
{
    const char *failure = engine_device_failure(engine);
    struct sched_seq *seq;
    while ((seq = sched_running(engine->sched)) != NULL) {
        struct engine_ticket *ticket = ((struct engine_job *)seq->owner)->ticket;
        if (ticket->request->error.code == ERR_OK)
            err_set(&ticket->request->error, ERR_DEVICE, "the device failed: %s", failure);
        engine_end_jobs(engine, ticket, FINISH_ERROR);
    }
}

static bool is_stopping(struct engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    bool stopping = engine->stopping;
    pthread_mutex_unlock(&engine->lock);
    return stopping;
}

/* False when the engine is to stop. */
static bool wait_ms(struct engine *engine, int ms)
{
    for (; ms > 0 && !is_stopping(engine); ms -= POLL_MS)
        nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    return !is_stopping(engine);
}

static enum err device_revive(struct engine *engine, struct err_info *info)
{
    const struct engine_options *options = &engine->options;
    enum err err = options->backend->restart(options->backend, info);
    if (err == ERR_OK) err = model_reload(options->model, options->gguf, info);
    if (err != ERR_OK) return err;
    err = engine_device_create(engine, info);
    if (err == ERR_OK) err = engine_warm_up(engine, info);
    if (err == ERR_OK) return ERR_OK;
    engine_device_free(engine);
    model_unload(options->model);
    return err;
}

void engine_restart(struct engine *engine)
{
    struct err_info info = {0};
    log_error("engine", "the device failed: %s; its memory is given up", engine_device_failure(engine));
    engine_device_free(engine);
    model_unload(engine->options.model);
    atomic_store(&engine->state, ENGINE_RESTARTING);
    while (engine->n_restarts < MOST && engine->options.gguf != NULL) {
        int n = engine->n_restarts++;
        if (n > 0 && !wait_ms(engine, FIRST_WAIT_MS << n)) return;
        if (device_revive(engine, &info) == ERR_OK) {
            atomic_fetch_add_explicit(&engine->options.metrics->backend_restarts, 1, memory_order_relaxed);
            log_info("engine", "the device works again, with an empty cache");
            atomic_store(&engine->state, ENGINE_SERVING);
            return;
        }
        log_error("engine", "restart %d of %d after an error of the device: %s", n + 1, (int)MOST,
                  info.message);
    }
    log_error("engine", "the device is given up after %d restarts: every request gets 503 from now on",
              engine->n_restarts);
    atomic_store(&engine->state, ENGINE_BROKEN);
}
