#include "server/infill.h"

#include "server/api.h"
#include "server/api_field.h"
#include "server/native.h"

#include <stdio.h>
#include <string.h>

enum { MOST_FILES = 1024, SPARE_TOKENS = 256 };

/* What the client sent. */
struct infill {
    struct fim_piece before, after;
    struct fim_file *files;
    size_t n_files;
};

enum err infill_begin(struct generation *generation, const char *field, struct err_info *info)
{
    const struct fim *fim = &generation->api->fim;
    struct generation_params *params = &generation->params;
    const int32_t ends[] = {fim->pad, fim->repository, fim->separator};
    if (!fim_usable(fim))
        return err_set_param(info, ERR_INVALID, field,
                             "%s: this model cannot fill in the middle: it has no tokens for prefix, suffix "
                             "and middle",
                             field);
    if (params->ignore_eos) return ERR_OK;
    int32_t *tokens = arena_alloc(generation->arena, (size_t)params->n_stop_tokens + 3, sizeof *tokens);
    if (!tokens) return generation_no_room(info);
    int n = params->n_stop_tokens;
    if (n > 0) memcpy(tokens, params->stop_tokens, (size_t)n * sizeof *tokens);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends[i] >= 0) tokens[n++] = ends[i];
    params->stop_tokens = tokens;
    params->n_stop_tokens = n;
    return ERR_OK;
}

/* ---- /infill ---- */

static enum err parse_files(const struct json *body, struct arena *arena, struct infill *out,
                            struct err_info *info)
{
    const struct json *extra = api_field_given(body, "input_extra");
    if (!extra) return ERR_OK;
    if (json_type(extra) != JSON_ARRAY || json_length(extra) > MOST_FILES)
        return err_set_param(info, ERR_INVALID, "input_extra",
                             "input_extra must be an array of at most %d objects {\"filename\", \"text\"}",
                             MOST_FILES);
    struct fim_file *files = arena_alloc(arena, json_length(extra) + 1, sizeof *files);
    if (!files) return generation_no_room(info);
    size_t n = 0;
    for (const struct json *item = json_first(extra); item; item = json_next(item), n++) {
        const struct json *text = json_get(item, "text"), *name = api_field_given(item, "filename");
        char path[64];
        snprintf(path, sizeof path, "input_extra[%zu].%s", n, text ? "filename" : "text");
        if (!text || json_type(text) != JSON_STRING || (name && json_type(name) != JSON_STRING))
            return err_set_param(info, ERR_INVALID, path,
                                 "input_extra[%zu] must be an object with a string text and, when it has "
                                 "one, a string filename",
                                 n);
        files[n] = (struct fim_file){.name = "file", .name_length = 4};
        files[n].text = json_string(text, &files[n].text_length);
        if (name) files[n].name = json_string(name, &files[n].name_length);
    }
    out->files = files;
    out->n_files = n;
    return ERR_OK;
}

static enum err parse_text(const struct json *body, const char *field, bool optional, struct fim_piece *out,
                           struct err_info *info)
{
    const struct json *value = api_field_given(body, field);
    if (!value && optional) return ERR_OK;
    if (!value) return err_set_param(info, ERR_INVALID, field, "%s is missing", field);
    if (json_type(value) != JSON_STRING)
        return err_set_param(info, ERR_INVALID, field, "%s must be a string, not %s", field,
                             json_type_name(json_type(value)));
    out->text = json_string(value, &out->length);
    return ERR_OK;
}

/* input_prefix and the prompt are one text. */
static enum err parse_pieces(const struct json *body, struct arena *arena, struct infill *out,
                             struct err_info *info)
{
    struct fim_piece prefix = {.text = ""}, prompt = {.text = ""};
    *out = (struct infill){.after = {.text = ""}};
    enum err err = parse_text(body, "input_prefix", false, &prefix, info);
    if (err == ERR_OK) err = parse_text(body, "prompt", true, &prompt, info);
    if (err == ERR_OK) err = parse_text(body, "input_suffix", false, &out->after, info);
    if (err == ERR_OK) err = parse_files(body, arena, out, info);
    if (err != ERR_OK) return err;
    char *before = arena_alloc(arena, prefix.length + prompt.length + 1, 1);
    if (!before) return generation_no_room(info);
    memcpy(before, prefix.text, prefix.length);
    memcpy(before + prefix.length, prompt.text, prompt.length);
    out->before = (struct fim_piece){.text = before, .length = prefix.length + prompt.length};
    return ERR_OK;
}

static enum err parse(struct generation *generation, const struct json *body, struct err_info *info)
{
    const struct api *api = generation->api;
    struct generation_prompt *prompt = arena_alloc(generation->arena, 1, sizeof *prompt);
    struct infill infill;
    int32_t *tokens = NULL;
    size_t n = 0;
    if (!prompt) return generation_no_room(info);
    enum err err = native_parse(generation, body, info);
    if (err == ERR_OK) err = infill_begin(generation, "input_suffix", info);
    if (err == ERR_OK) err = parse_pieces(body, generation->arena, &infill, info);
    if (err != ERR_OK) return err;
    /* Other files leave room for an answer. */
    int most = api->ctx_size, answer = generation->params.max_tokens;
    if (answer >= most) answer = SPARE_TOKENS; /* no limit, or as good as none */
    if (infill.n_files > 0 && answer < most) most -= answer;
    err = fim_encode(&api->fim, api->tokenizer, &infill.before, &infill.after, infill.files, infill.n_files,
                     (size_t)most, &tokens, &n, info);
    err = generation_keep(generation, err, tokens, n, prompt, info);
    generation->prompts = prompt;
    generation->n_prompts = 1;
    return err;
}

void infill_handle(struct http_call *call, void *context)
{
    static const struct generation_kind kind = {.id_prefix = "infill-",
                                                .prompt_field = "input_prefix",
                                                .format = &native_format,
                                                .parse = parse,
                                                .prepare = native_prepare,
                                                .rename = native_rename};
    generation_handle(call, context, &kind);
}
