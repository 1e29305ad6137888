/*
 * Tools for models whose template cannot tell them (or tells them in a way whose answers octavo does not
 * read): in words, as Hermes and Qwen2.5 are told, so that any model that follows instructions can call. The
 * words are a template of ours; what is the client's in them stays marked as data (see jinja_value.h).
 */
#include "server/tools.h"

#include "model/jinja_text.h"

#include <stdio.h>
#include <string.h>

static const char told_tools[] =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    "{% for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}"
    "</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

/* An assistant's message with calls; texts: of its content, a list. */
static const char told_calls[] =
    "{% for text in texts %}{{ text }}{{ '\\n' }}{% endfor %}"
    "{% for call in calls %}<tool_call>{{ '\\n{\"name\": \"' }}{{ call.function.name }}"
    "{{ '\", \"arguments\": ' }}{{ call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}";

/* The results of one or several calls. */
static const char told_results[] =
    "{% for text in texts %}<tool_response>{{ '\\n' }}{{ text }}{{ '\\n</tool_response>' }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}";

struct teller {
    const struct chat_template *chat;
    struct arena *arena;
    struct err_info *info;
    const struct jinja_list *from; /* messages */
    struct jinja_list *to;
};

static enum err no_room(const struct teller *teller)
{
    return err_set_param(teller->info, ERR_LIMIT, "messages",
                         "messages and tools are larger than one request may be");
}

static enum err render(const struct teller *teller, const char *source,
                       const struct jinja_variable *variables, int n, struct jinja_text *out)
{
    struct jinja *jinja;
    enum err err = jinja_compile(source, strlen(source), &jinja, teller->info);
    if (err != ERR_OK) return err;
    err = jinja_render(jinja, teller->arena, variables, n, 0, &jinja_limits_default, out, teller->info);
    jinja_free(jinja);
    if (err != ERR_OK && teller->info) snprintf(teller->info->param, sizeof teller->info->param, "messages");
    return err;
}

/* --- Contents --- */

/* A text part, where content is a list of such. */
static bool make_part(const struct teller *teller, struct jinja_text text, struct jinja_value *out)
{
    *out = jinja_value_dict(teller->arena, 2);
    return out->type != JINJA_MISSING &&
           jinja_value_put_name(teller->arena, out->dict, "type", jinja_value_string("text", 4, true)) &&
           jinja_value_put_name(teller->arena, out->dict, "text", jinja_value_text(text));
}

/* Text as the content that the template takes. */
static bool make_content(const struct teller *teller, struct jinja_text text, struct jinja_value *out)
{
    *out = jinja_value_text(text);
    if (teller->chat->takes_text) return true;
    *out = jinja_value_list(teller->arena, JINJA_LIST_PLAIN, 1);
    return out->type != JINJA_MISSING && make_part(teller, text, &out->list->items[0]);
}

/* The texts of a message's content, as a list. */
static bool list_texts(const struct teller *teller, const struct jinja_dict *message, struct jinja_value *out)
{
    const struct jinja_value *content = jinja_value_get_name(message, "content");
    bool text = content && content->type == JINJA_STRING, list = content && content->type == JINJA_LIST;
    size_t n = text ? content->text.length > 0 : list ? content->list->n : 0;
    *out = jinja_value_list(teller->arena, JINJA_LIST_PLAIN, n);
    if (out->type == JINJA_MISSING) return false;
    if (text && n > 0) out->list->items[0] = *content;
    for (size_t i = 0; list && i < n; i++)
        out->list->items[i] = *jinja_value_get_name(content->list->items[i].dict, "text");
    return true;
}

/* before or behind content, an empty line between. */
static bool join(const struct teller *teller, const struct jinja_value *content, struct jinja_text text,
                 bool before, struct jinja_value *out)
{
    static const char gap[] = "\n\n";
    if (content->type == JINJA_LIST) {
        size_t n = content->list->n;
        *out = jinja_value_list(teller->arena, JINJA_LIST_PLAIN, n + 1);
        if (out->type == JINJA_MISSING) return false;
        memcpy(out->list->items + before, content->list->items, n * sizeof *content);
        return make_part(teller, text, &out->list->items[before ? 0 : n]);
    }
    struct jinja_builder builder;
    jinja_builder_init(&builder, teller->arena, SIZE_MAX);
    jinja_builder_add(&builder, before ? text : content->text);
    jinja_builder_add(&builder, (struct jinja_text){.bytes = gap, .length = 2, .literal = true});
    jinja_builder_add(&builder, before ? content->text : text);
    *out = jinja_value_text(jinja_builder_text(&builder));
    return !builder.failed;
}

/* --- Messages --- */

static bool has_role(const struct jinja_value *message, const char *role)
{
    const struct jinja_value *value = jinja_value_get_name(message->dict, "role");
    return value && jinja_value_is_text(value, role);
}

/* The message with other content, and without calls. */
static bool replace(const struct teller *teller, const struct jinja_value *message,
                    const struct jinja_value *content, struct jinja_value *out)
{
    const struct jinja_dict *from = message->dict;
    *out = jinja_value_dict(teller->arena, from->n + 1);
    if (out->type == JINJA_MISSING) return false;
    for (size_t i = 0; i < from->n; i++)
        if (!jinja_value_is_text(&from->pairs[i].key, "tool_calls") &&
            !jinja_value_put(teller->arena, out->dict, from->pairs[i].key, from->pairs[i].value))
            return false;
    return jinja_value_put_name(teller->arena, out->dict, "content", *content);
}

static bool add_message(const struct teller *teller, const char *role, const struct jinja_value *content)
{
    struct jinja_value *out = &teller->to->items[teller->to->n++];
    *out = jinja_value_dict(teller->arena, 2);
    return out->type != JINJA_MISSING &&
           jinja_value_put_name(teller->arena, out->dict, "role",
                                jinja_value_string(role, strlen(role), true)) &&
           jinja_value_put_name(teller->arena, out->dict, "content", *content);
}

static enum err tell_calls(const struct teller *teller, const struct jinja_value *message)
{
    struct jinja_value texts, content;
    struct jinja_text text;
    if (!list_texts(teller, message->dict, &texts)) return no_room(teller);
    const struct jinja_variable variables[] = {{"texts", texts},
                                               {"calls", *jinja_value_get_name(message->dict, "tool_calls")}};
    enum err err = render(teller, told_calls, variables, 2, &text);
    if (err != ERR_OK) return err;
    struct jinja_value *out = &teller->to->items[teller->to->n++];
    bool made = make_content(teller, text, &content) && replace(teller, message, &content, out);
    return made ? ERR_OK : no_room(teller);
}

/* The n results that start with message number `first`, in one message of the user. */
static enum err tell_results(const struct teller *teller, size_t first, size_t n)
{
    struct jinja_value texts = jinja_value_list(teller->arena, JINJA_LIST_PLAIN, n), content;
    struct jinja_text text;
    if (texts.type == JINJA_MISSING) return no_room(teller);
    for (size_t i = 0; i < n; i++) {
        struct jinja_value parts;
        struct jinja_builder lines;
        if (!list_texts(teller, teller->from->items[first + i].dict, &parts)) return no_room(teller);
        jinja_builder_init(&lines, teller->arena, SIZE_MAX);
        for (size_t p = 0; p < parts.list->n; p++) {
            if (p > 0) jinja_builder_string(&lines, "\n");
            jinja_builder_add(&lines, parts.list->items[p].text);
        }
        if (lines.failed) return no_room(teller);
        texts.list->items[i] = jinja_value_text(jinja_builder_text(&lines));
    }
    enum err err = render(teller, told_results, &(struct jinja_variable){"texts", texts}, 1, &text);
    if (err != ERR_OK) return err;
    return make_content(teller, text, &content) && add_message(teller, "user", &content) ? ERR_OK
                                                                                         : no_room(teller);
}

/* Calls and results as text, all else as it is. */
static enum err tell_messages(const struct teller *teller)
{
    const struct jinja_list *from = teller->from;
    enum err err = ERR_OK;
    for (size_t i = 0; i < from->n && err == ERR_OK; i++) {
        const struct jinja_value *message = &from->items[i];
        const struct jinja_value *calls = jinja_value_get_name(message->dict, "tool_calls");
        if (has_role(message, "tool")) {
            size_t n = 1;
            while (i + n < from->n && has_role(&from->items[i + n], "tool")) n++;
            err = tell_results(teller, i, n);
            i += n - 1;
        } else if (calls && calls->type == JINJA_LIST && calls->list->n > 0) {
            err = tell_calls(teller, message);
        } else {
            teller->to->items[teller->to->n++] = *message;
        }
    }
    return err;
}

/* The tools behind the system message's text, or as a system message of their own; for templates that have
   none, before the first message's text. */
static enum err tell_tools(const struct teller *teller, const struct jinja_value *tools)
{
    struct jinja_text text;
    struct jinja_value content;
    enum err err = render(teller, told_tools, &(struct jinja_variable){"tools", *tools}, 1, &text);
    if (err != ERR_OK) return err;
    struct jinja_list *messages = teller->to;
    struct jinja_value *first = &messages->items[0];
    const struct jinja_value *old = jinja_value_get_name(first->dict, "content");
    bool system = has_role(first, "system");
    bool made;
    if (old && (system || !teller->chat->knows_system) && old->type != JINJA_NONE) {
        made = join(teller, old, text, !system, &content) && replace(teller, first, &content, first);
    } else {
        memmove(first + 1, first, messages->n * sizeof *first);
        size_t n = messages->n + 1;
        messages->n = 0;
        made = make_content(teller, text, &content) &&
               add_message(teller, teller->chat->knows_system ? "system" : "user", &content);
        messages->n = n;
    }
    return made ? ERR_OK : no_room(teller);
}

enum err tools_prompt(enum tools_style style, const struct chat_template *chat, struct arena *arena,
                      struct chat_input *input, struct err_info *info)
{
    if (style != TOOLS_GENERIC) return ERR_OK;
    const struct jinja_list *from = input->messages.list;
    struct teller teller = {.chat = chat, .arena = arena, .info = info, .from = from};
    struct jinja_value messages = jinja_value_list(arena, JINJA_LIST_PLAIN, from->n + 1);
    if (messages.type == JINJA_MISSING) return no_room(&teller);
    teller.to = messages.list;
    teller.to->n = 0;
    enum err err = tell_messages(&teller);
    if (err == ERR_OK) err = tell_tools(&teller, &input->tools);
    if (err != ERR_OK) return err;
    input->messages = messages;
    input->tools = (struct jinja_value){.type = JINJA_MISSING};
    return ERR_OK;
}
