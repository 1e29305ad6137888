#include "server/messages.h"

#include "server/api.h"
#include "server/blocks.h"
#include "server/chat.h"

static enum err parse(struct generation *generation, const struct json *body, struct err_info *info)
{
    enum err err = messages_translate(body, false, &generation->translated, info);
    return err == ERR_OK ? chat_generation_parse(generation, generation->translated, info) : err;
}

static enum err prepare(struct generation *generation, struct err_info *info)
{
    struct blocks *blocks = arena_alloc(generation->arena, 1, sizeof *blocks);
    if (!blocks) return generation_no_room(info);
    return blocks_prepare(generation, &messages_blocks, blocks, info);
}

void messages_handle(struct http_call *call, void *context)
{
    static const struct generation_kind kind = {.id_prefix = "msg_",
                                                .prompt_field = "messages",
                                                .format = &messages_format,
                                                .parse = parse,
                                                .prepare = prepare,
                                                .rename = messages_rename};
    generation_handle(call, context, &kind);
}

static enum err translate_counted(const struct json *body, struct json **chat, struct err_info *info)
{
    return messages_translate(body, true, chat, info);
}

void messages_handle_count(struct http_call *call, void *context)
{
    chat_count(call, context, "", translate_counted, messages_rename);
}
