#ifndef SERVER_MODEL_SOURCE_H
#define SERVER_MODEL_SOURCE_H

#include "model/gguf.h"
#include "model/model_shape.h"

#include <stdbool.h>

struct workers;
struct model_config;

/* Where a command's model comes from: a GGUF file, or with --load-format dummy a shape (model/dummy.h). */
struct model_source {
    const char *load_format; /* "gguf" or "dummy" */
    const char *model;       /* path; NULL: none is named */
    const char *shape;       /* NULL: none */
};

/* ERR_USAGE: neither or both are named, or a shape that is none. usage: of the command, for the message. */
enum err model_source_check(const struct model_source *source, const char *usage, struct err_info *info);
bool model_source_is_dummy(const struct model_source *source);
/* What to call it in logs and reports: the path, or the shape. Of a checked source. */
const char *model_source_name(const struct model_source *source);
/* Of a checked source. workers: who draws a dummy's weights. */
enum err model_source_open(const struct model_source *source, struct workers *workers, struct gguf **out,
                           struct err_info *info);

/* The sizes alone, without drawing weights: of a dummy, arch, name and rates stay empty. */
enum err model_source_config(const struct model_source *source, struct model_config *out,
                             struct err_info *info);

#endif
