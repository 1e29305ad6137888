#include "server/api_error.h"

#include "config/buf.h"
#include "config/json.h"

static const char *error_type(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
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
