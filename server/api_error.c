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

void api_error_print(struct buf *out, int status, const char *message, const char *param, const char *code)
{
    buf_text(out, "{\"error\":{\"message\":");
    json_write_text(out, message);
    print_field(out, "type", error_type(status));
    print_field(out, "param", param);
    print_field(out, "code", code);
    buf_text(out, "}}");
}
