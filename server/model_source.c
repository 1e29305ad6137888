#include "server/model_source.h"

#include "model/dummy.h"
#include "model/model.h"

#include <string.h>

bool model_source_is_dummy(const struct model_source *source)
{
    return strcmp(source->load_format, "dummy") == 0;
}

enum err model_source_check(const struct model_source *source, const char *usage, struct err_info *info)
{
    struct model_shape shape;
    if (!model_source_is_dummy(source)) {
        if (source->shape != NULL)
            return err_set_param(info, ERR_USAGE, "shape", "--shape is for --load-format dummy");
        if (source->model == NULL)
            return err_set_param(info, ERR_USAGE, "model", "no model is named; usage: %s", usage);
        return ERR_OK;
    }
    if (source->model != NULL)
        return err_set_param(info, ERR_USAGE, "model",
                             "--load-format dummy takes no file: leave '%s' out, and give --shape",
                             source->model);
    if (source->shape == NULL)
        return err_set_param(info, ERR_USAGE, "shape",
                             "--load-format dummy needs --shape, as in --shape llama-8b");
    return model_shape_parse(source->shape, &shape, info);
}

const char *model_source_name(const struct model_source *source)
{
    return model_source_is_dummy(source) ? source->shape : source->model;
}

enum err model_source_open(const struct model_source *source, struct workers *workers, struct gguf **out,
                           struct err_info *info)
{
    struct model_shape shape;
    if (!model_source_is_dummy(source)) return gguf_open(source->model, out, info);
    enum err err = model_shape_parse(source->shape, &shape, info);
    return err == ERR_OK ? dummy_create(&shape, workers, out, info) : err;
}

enum err model_source_config(const struct model_source *source, struct model_config *out,
                             struct err_info *info)
{
    struct model_shape shape;
    struct gguf *gguf;
    if (!model_source_is_dummy(source)) {
        enum err err = gguf_open(source->model, &gguf, info);
        if (err != ERR_OK) return err;
        err = model_config_read(gguf, out, info);
        gguf_close(gguf);
        return err;
    }
    enum err err = model_shape_parse(source->shape, &shape, info);
    if (err != ERR_OK) return err;
    *out = (struct model_config){.n_layers = shape.n_layers,
                                 .n_heads = shape.n_heads,
                                 .n_kv_heads = shape.n_kv_heads,
                                 .head_dim = shape.head_dim,
                                 .n_embd = shape.n_embd,
                                 .n_ff = shape.n_ff,
                                 .n_vocab = shape.n_vocab,
                                 .context_length = shape.n_ctx};
    return ERR_OK;
}
