#ifndef SERVER_RESPONSES_H
#define SERVER_RESPONSES_H

#include "config/err.h"
#include "config/json.h"
#include "server/blocks.h"
#include "server/generation.h"

/*
 * POST /v1/responses: OpenAI's newer protocol as a translation over the chat core. Nothing is stored, so
 * whatever refers to an earlier response is refused; a client sends the whole conversation as `input`. Shapes
 * and the order of events are those that the `openai` Python package expects.
 */

/* A request as the body of a chat; the caller frees it. ERR_INVALID names the field
   ("input[2].content[0].type"). */
enum err responses_translate(const struct json *body, struct json **chat, struct err_info *info);
/* An error of the chat in the words of this protocol. */
void responses_rename(struct err_info *info);

/* The handler; context is a struct api. */
void responses_handle(struct http_call *call, void *context);
/* POST /v1/responses/input_tokens: how long the prompt is. */
void responses_handle_count(struct http_call *call, void *context);

/* State of a reply. */
struct responses_state {
    struct blocks blocks; /* first: it begins with what all states begin with */
    const char *echo;     /* members of the response that repeat the request: ,"instructions":...  */
    int sequence;         /* number of the next event */
    bool begun;           /* the first events are out */
};
extern const struct blocks_format responses_blocks;
extern const struct courier_format responses_format;

#endif
