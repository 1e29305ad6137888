#include "server/api_error.h"

#include "config/buf.h"
#include "config/json.h"

static const char *error_type(int status)
{
    if (status >= 500) return "server_error";
    return status == 429 ? "rate_limit_error" : "invalid_request_error";
}

static void print_field(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, ",\"%s\":", name);
    if (value && value[0])
        json_write_text(out, value);
    else
        buf_text(out, "null");
}

static const char *anthropic_type(int status)
{
    static const struct {
        int status;
        const char *type;
    } types[] = {
        {401, "authentication_error"}, {403, "permission_error"}, {404, "not_found_error"},
        {413, "request_too_large"},    {429, "rate_limit_error"}, {503, "overloaded_error"},
        {504, "timeout_error"},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].status == status) return types[i].type;
    return status >= 500 ? "api_error" : "invalid_request_error";
}

void api_error_print(struct buf *out, enum api_error_shape shape, int status, const char *message,
                     const char *param, const char *code)
{
    if (shape == API_ERROR_ANTHROPIC) {
        buf_printf(out,
                   "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", anthropic_type(status));
        json_write_text(out, message);
        buf_text(out, "}}");
        return;
    }
    buf_text(out, "{\"error\":{\"message\":");
    json_write_text(out, message);
    print_field(out, "type", error_type(status));
    print_field(out, "param", param);
    print_field(out, "code", code);
    buf_text(out, "}}");
}
