#include "model/chat_template.h"

#include "model/jinja_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char key[] = "tokenizer.chat_template";

static const char chatml[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

enum err chat_template_render(const struct chat_template *chat, struct arena *arena,
                              const struct chat_input *input, struct jinja_text *out, struct err_info *info)
{
    struct jinja_value none = jinja_value_none();
    const struct jinja_variable own[] = {
        {"messages", input->messages},
        {"tools", input->tools.type == JINJA_MISSING ? none : input->tools},
        {"documents", input->documents.type == JINJA_MISSING ? none : input->documents},
        {"add_generation_prompt", jinja_value_bool(input->add_generation_prompt)},
        {"bos_token", chat->bos},
        {"eos_token", chat->eos},
    };
    size_t n_own = sizeof own / sizeof own[0], n = 0;
    struct jinja_variable *all = arena_alloc(arena, n_own + (size_t)input->n_variables, sizeof *all);
    if (!all) return err_set(info, ERR_LIMIT, "no memory for the template's variables");
    for (size_t i = 0; i < n_own; i++)
        if (own[i].value.type != JINJA_MISSING) all[n++] = own[i];
    for (int i = 0; i < input->n_variables; i++) all[n++] = input->variables[i];
    return jinja_render(chat->jinja, arena, all, (int)n, time(NULL), &jinja_limits_default, out, info);
}

/* --- Finding out --- */

static bool holds(const struct jinja_text *text, const char *what)
{
    return jinja_text_find(*text, (struct jinja_text){.bytes = what, .length = strlen(what)}, 0) != SIZE_MAX;
}

/* Renders messages (JSON); whether both words come out, and come out as text and not as the list they stood
   in. */
static bool shows_words(const struct chat_template *chat, const char *messages)
{
    struct json *json;
    struct jinja_text out;
    if (json_parse(messages, strlen(messages), &json_limits_default, &json, NULL) != ERR_OK) return false;
    struct arena *arena = arena_create((size_t)16 << 20);
    bool shows = false;
    if (arena) {
        struct chat_input input = {.messages = jinja_value_json(arena, json)};
        shows = chat_template_render(chat, arena, &input, &out, NULL) == ERR_OK &&
                holds(&out, "octavo-one") && holds(&out, "octavo-two") && !holds(&out, "'type'") &&
                !holds(&out, "\"type\"");
    }
    arena_free(arena);
    json_free(json);
    return shows;
}

static bool takes_content(const struct chat_template *chat, const char *content)
{
    char messages[256];
    snprintf(messages, sizeof messages, "[{\"role\":\"user\",\"content\":%s}]", content);
    return shows_words(chat, messages);
}

static void find_out(struct chat_template *chat)
{
    static const char *const system[] = {
        "[{\"role\":\"system\",\"content\":\"octavo-one\"},{\"role\":\"user\",\"content\":\"octavo-two\"}]",
        "[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"octavo-one\"}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"octavo-two\"}]}]"};
    chat->takes_text = takes_content(chat, "\"octavo-one octavo-two\"");
    chat->takes_parts = takes_content(
        chat, "[{\"type\":\"text\",\"text\":\"octavo-one\"},{\"type\":\"text\",\"text\":\"octavo-two\"}]");
    if (!chat->takes_parts) chat->takes_text = true; /* a template that refuses one lonely user knows best */
    chat->knows_system = shows_words(chat, system[chat->takes_text ? 0 : 1]);
    chat->knows_developer = strstr(chat->source, "developer") != NULL;
}

/* --- Creation --- */

static struct jinja_value token_text(const struct tokenizer *tokenizer, int token)
{
    size_t length;
    if (token < 0) return (struct jinja_value){.type = JINJA_MISSING};
    const char *bytes = tokenizer_bytes(tokenizer, token, &length);
    return jinja_value_string(bytes, length, true);
}

static enum err compile(struct chat_template *chat, const char *name, const char *source, size_t length,
                        struct err_info *info)
{
    struct err_info inner;
    chat->source = strndup(source, length);
    if (!chat->source) return err_set(info, ERR_MEMORY, "no memory for the chat template");
    enum err err = jinja_compile(source, length, &chat->jinja, &inner);
    if (err == ERR_OK) return ERR_OK;
    return err_set_param(info, err, name, "%s: %.400s", name, inner.message);
}

enum err chat_template_create(const struct gguf *gguf, const struct tokenizer *tokenizer, const char *name,
                              const char *source, size_t length, struct chat_template **out,
                              struct err_info *info)
{
    struct gguf_string own = {.bytes = chatml, .length = sizeof chatml - 1};
    bool has = source || gguf_has(gguf, key);
    enum err err = has && !source ? gguf_get_string(gguf, key, &own, info) : ERR_OK;
    if (err != ERR_OK) return err;
    struct chat_template *chat = calloc(1, sizeof *chat);
    if (!chat) return err_set(info, ERR_MEMORY, "no memory for the chat template");
    err =
        source ? compile(chat, name, source, length, info) : compile(chat, key, own.bytes, own.length, info);
    if (err != ERR_OK) {
        chat_template_free(chat);
        return err;
    }
    chat->is_fallback = !has;
    chat->bos = token_text(tokenizer, tokenizer_bos(tokenizer));
    chat->eos = token_text(tokenizer, tokenizer_eos(tokenizer));
    find_out(chat);
    *out = chat;
    return ERR_OK;
}

void chat_template_free(struct chat_template *chat)
{
    if (!chat) return;
    jinja_free(chat->jinja);
    free(chat->source);
    free(chat);
}
