#ifndef SERVER_API_FIELD_H
#define SERVER_API_FIELD_H

#include "config/err.h"
#include "config/json.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * Fields of a JSON request, checked exactly: a boolean is not a number, 1.5 is not an integer. A field that
 * is absent or null leaves *out as it was (the default). ERR_INVALID names the field in info->param and says
 * what is taken and what came.
 */
enum err api_field_bool(const struct json *object, const char *name, bool *out, struct err_info *info);
/* min and max are taken too. */
enum err api_field_int(const struct json *object, const char *name, int64_t min, int64_t max, int64_t *out,
                       struct err_info *info);
enum err api_field_number(const struct json *object, const char *name, double min, double max, double *out,
                          struct err_info *info);
/* Borrowed from the tree. */
enum err api_field_string(const struct json *object, const char *name, const char **out,
                          struct err_info *info);

/* The member unless it is absent or null. */
const struct json *api_field_given(const struct json *object, const char *name);

/* One token id of the vocabulary; path names the place ("prompt[3]"). */
enum err api_field_token(const struct json *value, const char *path, int n_vocab, int32_t *out,
                         struct err_info *info);

#endif
