#ifndef SERVER_CHAT_H
#define SERVER_CHAT_H

#include "model/chat_template.h"
#include "server/generation.h"

#include <stdbool.h>

/*
 * POST /v1/chat/completions: messages go through the model's template; what a client writes that looks like a
 * control token stays text. Streams and whole replies in OpenAI's shape, with the fields that vLLM adds.
 */

/* The conversation of a request as the template wants it, in an arena; strings are borrowed from the body. */
struct chat_conversation {
    struct chat_input input;
    bool continue_final_message; /* the last message goes on where its text ends */
    bool add_special_tokens;     /* BOS in front of what the template gives, where the model wants it */
};

/* Checks and reads messages, tools, documents, chat_template_kwargs, add_generation_prompt ... ERR_INVALID
   names the field ("messages[2].content[0].type"). */
enum err chat_parse_conversation(const struct json *body, const struct chat_template *chat,
                                 struct arena *arena, struct chat_conversation *out, struct err_info *info);
/* That chat_template_kwargs may be this. */
enum err chat_check_variables(const struct json *given, struct err_info *info);
/* The prompt's text, in the arena; errors as in jinja_render, with "messages" as the field. */
enum err chat_render(const struct chat_template *chat, struct arena *arena,
                     const struct chat_conversation *conversation, struct jinja_text *out,
                     struct err_info *info);
/* The tokens of a body's conversation, malloc'ed as by tokenizer_encode: control tokens where the template
   wrote them, ordinary text elsewhere. reasoning: NULL, or its style; the place where the prompt ends is
   filled in. ERR_LIMIT with no field: more than max_tokens. */
enum err chat_tokens(const struct api *api, const struct json *body, size_t max_tokens,
                     struct reasoning *reasoning, int32_t **tokens, size_t *n, struct err_info *info);

/* For handlers that count a prompt's tokens and generate nothing: replies with members, which ends in a comma
   or is empty, and "input_tokens". How a body becomes a chat's, and errors get back the names of the client's
   fields; NULL: it is one. */
struct http_call;
void chat_count(struct http_call *call, const struct api *api, const char *members,
                enum err (*translate)(const struct json *body, struct json **chat, struct err_info *info),
                void (*rename)(struct err_info *info));
void chat_handle_count(struct http_call *call, void *context);

/* The fields of a request besides the conversation. */
extern const struct generation_defaults chat_defaults;
enum err chat_parse(const struct json *body, int n_vocab, const struct generation_defaults *defaults,
                    struct arena *arena, struct generation_params *out, struct err_info *info);

/* The parse and prepare of the endpoint's kind, for other kinds that bring their bodies into this form. */
enum err chat_generation_parse(struct generation *generation, const struct json *body, struct err_info *info);
enum err chat_generation_prepare(struct generation *generation, struct err_info *info);

/* Handlers; context is a struct api. */
void chat_handle(struct http_call *call, void *context);
/* POST /apply-template, llama-server's: the same body -> {"prompt"}. */
void chat_handle_template(struct http_call *call, void *context);

extern const struct courier_format chat_format; /* state: a struct generation_state */

#endif
