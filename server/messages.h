#ifndef SERVER_MESSAGES_H
#define SERVER_MESSAGES_H

#include "config/err.h"
#include "config/json.h"
#include "server/generation.h"

#include <stdbool.h>

/*
 * POST /v1/messages and /v1/messages/count_tokens: Anthropic's protocol as a translation over the chat core.
 * Shapes are those of the `anthropic` Python package; errors too. input_tokens does not count what was found
 * in the prefix cache (cache_read_input_tokens does), as Anthropic has it. A conversation that ends with the
 * assistant is gone on with from where its text ends.
 */

/* A request as the body of a chat; the caller frees it. counting: max_tokens need not be there. ERR_INVALID
   names the field ("messages[2].content[0].type"). */
enum err messages_translate(const struct json *body, bool counting, struct json **chat,
                            struct err_info *info);
/* An error of the chat in the words of this protocol. */
void messages_rename(struct err_info *info);

/* Handlers; context is a struct api. */
void messages_handle(struct http_call *call, void *context);
void messages_handle_count(struct http_call *call, void *context);

struct blocks_format;
extern const struct blocks_format messages_blocks;
extern const struct courier_format messages_format; /* state: a struct blocks */

#endif
