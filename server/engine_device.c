#include "server/engine_cache.h"

#include "config/log.h"

#include <stdlib.h>

/*
 * What the engine has on the device. After an error of a card nothing of it can be used again, nor the card
 * itself by this process (docs/cuda.md): all requests get ERR_DEVICE, and whoever runs the engine is told.
 */

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

void engine_device_lose(struct engine *engine)
{
    const struct engine_options *options = &engine->options;
    log_error("engine", "the device failed: %s; all requests are ended", engine_device_failure(engine));
    atomic_store(&engine->state, ENGINE_LOST);
    if (options->lost) options->lost(options->lost_context, engine->has_stepped);
}
