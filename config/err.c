#include "config/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

static void info_fill(struct err_info *info, enum err code, const char *param, const char *format,
                      va_list arguments)
{
    if (!info) return;
    info->code = code;
    vsnprintf(info->message, sizeof info->message, format, arguments);
    snprintf(info->param, sizeof info->param, "%s", param);
}

enum err err_set(struct err_info *info, enum err code, const char *format, ...)
{
    assert(code != ERR_OK);
    va_list arguments;
    va_start(arguments, format);
    info_fill(info, code, "", format, arguments);
    va_end(arguments);
    return code;
}

enum err err_set_param(struct err_info *info, enum err code, const char *param, const char *format, ...)
{
    assert(code != ERR_OK);
    va_list arguments;
    va_start(arguments, format);
    info_fill(info, code, param, format, arguments);
    va_end(arguments);
    return code;
}

const char *err_name(enum err code)
{
    switch (code) {
    case ERR_OK:
        return "ok";
    case ERR_USAGE:
        return "usage";
    case ERR_INVALID:
        return "invalid";
    case ERR_FORMAT:
        return "format";
    case ERR_UNSUPPORTED:
        return "unsupported";
    case ERR_IO:
        return "io";
    case ERR_MEMORY:
        return "memory";
    case ERR_LIMIT:
        return "limit";
    case ERR_CAPACITY:
        return "capacity";
    case ERR_BUSY:
        return "busy";
    case ERR_TIMEOUT:
        return "timeout";
    case ERR_CLOSED:
        return "closed";
    case ERR_DEVICE:
        return "device";
    }
    return "unknown";
}
