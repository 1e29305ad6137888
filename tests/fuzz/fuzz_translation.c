#include "server/messages.h"
#include "server/responses.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A chat that a translation made has messages and nothing that its client could not have asked for; a fault
   names what is wrong. */
static void check(enum err err, const struct json *chat, const struct err_info *info)
{
    if (err == ERR_OK) {
        const struct json *messages = json_get(chat, "messages");
        if (!messages || json_type(messages) != JSON_ARRAY || json_length(messages) == 0) abort();
        for (const struct json *message = json_first(messages); message; message = json_next(message))
            if (!json_get(message, "role") || !json_get(message, "content")) abort();
    } else if (chat || info->code != err || info->message[0] == '\0' ||
               strlen(info->param) >= sizeof info->param) {
        abort();
    }
}

/* Any bytes as a body of /v1/messages, count_tokens and /v1/responses. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_limits limits = json_limits_default;
    limits.max_bytes = 1 << 20;
    struct json *body;
    if (json_parse((const char *)data, size, &limits, &body, NULL) != ERR_OK) return 0;
    for (int way = 0; way < 3; way++) {
        struct json *chat = NULL;
        struct err_info info = {0};
        enum err err = way == 2 ? responses_translate(body, &chat, &info)
                                : messages_translate(body, way == 1, &chat, &info);
        check(err, chat, &info);
        if (err != ERR_OK) way == 2 ? responses_rename(&info) : messages_rename(&info);
        json_free(chat);
    }
    json_free(body);
    return 0;
}
