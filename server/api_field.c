#include "server/api_field.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

const struct json *api_field_given(const struct json *object, const char *name)
{
    const struct json *value = json_get(object, name);
    return value && json_type(value) != JSON_NULL ? value : NULL;
}

static enum err wrong_type(const struct json *value, const char *name, const char *wanted,
                           struct err_info *info)
{
    return err_set_param(info, ERR_INVALID, name, "%s must be %s, not %s", name, wanted,
                         json_type_name(json_type(value)));
}

enum err api_field_bool(const struct json *object, const char *name, bool *out, struct err_info *info)
{
    const struct json *value = api_field_given(object, name);
    if (!value) return ERR_OK;
    if (json_type(value) != JSON_BOOL) return wrong_type(value, name, "a boolean", info);
    *out = json_bool(value);
    return ERR_OK;
}

enum err api_field_int(const struct json *object, const char *name, int64_t min, int64_t max, int64_t *out,
                       struct err_info *info)
{
    const struct json *value = api_field_given(object, name);
    if (!value) return ERR_OK;
    if (json_type(value) != JSON_NUMBER) return wrong_type(value, name, "an integer", info);
    double number = json_number(value);
    if (number != floor(number))
        return err_set_param(info, ERR_INVALID, name, "%s must be an integer, not %.17g", name, number);
    /* What double cannot hold exactly lies outside of every range. */
    if (!json_is_integer(value) || json_int64(value) < min || json_int64(value) > max)
        return err_set_param(info, ERR_INVALID, name, "%s must be from %" PRId64 " to %" PRId64 ", not %.17g",
                             name, min, max, number);
    *out = json_int64(value);
    return ERR_OK;
}

enum err api_field_number(const struct json *object, const char *name, double min, double max, double *out,
                          struct err_info *info)
{
    const struct json *value = api_field_given(object, name);
    if (!value) return ERR_OK;
    if (json_type(value) != JSON_NUMBER) return wrong_type(value, name, "a number", info);
    double number = json_number(value);
    if (number < min || number > max)
        return err_set_param(info, ERR_INVALID, name, "%s must be from %g to %g, not %.17g", name, min, max,
                             number);
    *out = number;
    return ERR_OK;
}

enum err api_field_string(const struct json *object, const char *name, const char **out,
                          struct err_info *info)
{
    const struct json *value = api_field_given(object, name);
    if (!value) return ERR_OK;
    if (json_type(value) != JSON_STRING) return wrong_type(value, name, "a string", info);
    *out = json_string(value, NULL);
    return ERR_OK;
}

enum err api_field_token(const struct json *value, const char *path, int n_vocab, int32_t *out,
                         struct err_info *info)
{
    if (json_type(value) != JSON_NUMBER) return wrong_type(value, path, "a token id", info);
    if (!json_is_integer(value) || json_int64(value) < 0 || json_int64(value) >= n_vocab)
        return err_set_param(info, ERR_INVALID, path, "%s must be a token id from 0 to %d, not %.17g", path,
                             n_vocab - 1, json_number(value));
    *out = (int32_t)json_int64(value);
    return ERR_OK;
}
