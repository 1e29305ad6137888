#include "server/runtime.h"

#include "kernels/workers.h"
#include "server/serve_machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum err runtime_open(const struct runtime_options *options, struct runtime *out, struct err_info *info)
{
    struct runtime runtime = {0};
    int threads = options->threads > 0 ? options->threads : serve_machine_processors();
    enum err err = gguf_open(options->model, &runtime.gguf, info);
    if (err == ERR_OK) err = tokenizer_create(runtime.gguf, &runtime.tokenizer, info);
    if (err == ERR_OK) err = workers_create(threads, &runtime.workers, info);
    if (err == ERR_OK)
        err = backend_create(options->device, runtime.workers, options->cpu, &runtime.backend, info);
    if (err != ERR_OK) {
        runtime_close(&runtime);
        return err;
    }
    runtime.backend->activation_bits = atoi(options->activation_bits); /* "auto" reads as 0 */
    runtime.backend->weights = backend_weights_named(options->device_weights);
    *out = runtime;
    return ERR_OK;
}

enum err runtime_load(struct runtime *runtime, int max_rows, int max_logits, struct err_info *info)
{
    return model_load(runtime->gguf, runtime->backend, max_rows, max_logits, &runtime->model, info);
}

void runtime_close(struct runtime *runtime)
{
    model_free(runtime->model);
    if (runtime->backend != NULL) runtime->backend->destroy(runtime->backend);
    if (runtime->workers != NULL) workers_free(runtime->workers);
    tokenizer_free(runtime->tokenizer);
    if (runtime->gguf != NULL) gguf_close(runtime->gguf);
    *runtime = (struct runtime){0};
}

/* As much as there is: the file may be a pipe, which has no size. */
static enum err stream_read(FILE *file, size_t max_bytes, char **text, size_t *length)
{
    enum { FIRST_BYTES = 1 << 20 };
    size_t room = max_bytes < FIRST_BYTES ? max_bytes : FIRST_BYTES;
    char *bytes = malloc(room + 1);
    for (size_t n = 0; bytes != NULL;) {
        n += fread(bytes + n, 1, room - n, file);
        if (n < room || room == max_bytes) {
            bytes[n] = 0;
            *text = bytes;
            *length = n;
            return ferror(file) ? ERR_IO : ERR_OK;
        }
        room = room > max_bytes / 2 ? max_bytes : 2 * room;
        char *larger = realloc(bytes, room + 1);
        if (larger == NULL) free(bytes);
        bytes = larger;
    }
    return ERR_MEMORY;
}

enum err runtime_text_read(const char *option, const char *path, size_t max_bytes, char **text,
                           size_t *length, struct err_info *info)
{
    char *bytes = NULL;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return err_set_param(info, ERR_IO, option, "--%s: %s: %s", option, path, strerror(errno));
    enum err err = stream_read(file, max_bytes, &bytes, length);
    int error = errno;
    fclose(file);
    if (err == ERR_OK) {
        *text = bytes;
        return ERR_OK;
    }
    free(bytes);
    if (err == ERR_MEMORY) return err_set(info, ERR_MEMORY, "%s: out of memory", path);
    return err_set_param(info, ERR_IO, option, "--%s: %s: %s", option, path, strerror(error));
}
