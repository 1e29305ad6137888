#ifndef MODEL_CHAT_TEMPLATE_H
#define MODEL_CHAT_TEMPLATE_H

#include "model/gguf.h"
#include "model/jinja.h"
#include "model/tokenizer.h"

#include <stdbool.h>

/*
 * A model's chat template (tokenizer.chat_template), compiled, and what it makes of messages found out by
 * trying. A file without one gets ChatML. Immutable: any thread may use it.
 */
struct chat_template {
    struct jinja *jinja;
    char *source;
    bool is_fallback;             /* ChatML, because the file has none */
    bool takes_text;              /* content as a string */
    bool takes_parts;             /* content as a list of {"type":"text","text":...} */
    bool knows_system;            /* the role: its message is shown */
    bool knows_developer;         /* the role; others know it as system */
    struct jinja_value bos, eos;  /* strings, literal; JINJA_MISSING: the model has none */
    const struct json *variables; /* of all chats, an object; NULL: none. Borrowed */
};

/* source: another template [length], named by `name` in errors; NULL: the file's own. ERR_FORMAT,
   ERR_UNSUPPORTED: the template cannot be compiled; the message has line, column and construct. */
enum err chat_template_create(const struct gguf *gguf, const struct tokenizer *tokenizer, const char *name,
                              const char *source, size_t length, struct chat_template **out,
                              struct err_info *info);
/* NULL-safe. */
void chat_template_free(struct chat_template *chat);

/* What a template is given besides bos_token and eos_token. */
struct chat_input {
    struct jinja_value messages;
    struct jinja_value tools, documents; /* JINJA_MISSING: none */
    bool add_generation_prompt;
    const struct jinja_variable *variables; /* more of them, which come after and win */
    int n_variables;
};

/* Errors as in jinja_render. */
enum err chat_template_render(const struct chat_template *chat, struct arena *arena,
                              const struct chat_input *input, struct jinja_text *out, struct err_info *info);

#endif
