#include "config/option.h"

#include "config/log.h"
#include "config/nearest.h"
#include "config/option_table.h"

#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 64 };

enum err option_memory(struct option_run *run)
{
    return err_set(run->info, ERR_MEMORY, "not enough memory for the options");
}

char *option_format(struct option_state *state, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : arena_alloc(state->arena, (size_t)length + 1, 1);
    if (!text) return NULL;
    va_start(arguments, format);
    vsnprintf(text, (size_t)length + 1, format, arguments);
    va_end(arguments);
    return text;
}

size_t option_owner(const struct option_table *table, size_t index)
{
    size_t owner = 0;
    while (table->options[owner].offset != table->options[index].offset) owner++;
    return owner;
}

size_t option_find(const struct option_table *table, const char *name, size_t length, bool aliases)
{
    char plain[NAME_BYTES], flag[NAME_BYTES + 2];
    if (length == 0 || length >= sizeof plain) return table->n_options;
    for (size_t i = 0; i < length; i++) plain[i] = name[i] == '_' ? '-' : name[i];
    plain[length] = '\0';
    snprintf(flag, sizeof flag, "--%s", plain);
    for (size_t i = 0; i < table->n_options; i++) {
        if (strcmp(table->options[i].name, plain) == 0) return i;
        if (aliases && option_list_holds(table->options[i].aliases, flag)) return i;
    }
    return table->n_options;
}

const char *option_nearest(const struct option_table *table, const char *name)
{
    const char **names = malloc(table->n_options * sizeof *names);
    if (!names) return NULL;
    for (size_t i = 0; i < table->n_options; i++) names[i] = table->options[i].name;
    const char *nearest = nearest_name(name, names, table->n_options);
    free(names);
    return nearest;
}

/* The command line. */

/* Index of the option that a word such as "-c" or "--ctx-size" (length bytes) names. */
static size_t flag_find(const struct option_table *table, const char *word, size_t length)
{
    if (length > 2 && word[0] == '-' && word[1] == '-') return option_find(table, word + 2, length - 2, true);
    char flag[NAME_BYTES];
    if (length < 2 || length >= sizeof flag) return table->n_options;
    memcpy(flag, word, length);
    flag[length] = '\0';
    for (size_t i = 0; i < table->n_options; i++)
        if (option_list_holds(table->options[i].aliases, flag)) return i;
    return table->n_options;
}

static enum err flag_unknown(struct option_run *run, const char *word, size_t length)
{
    char name[NAME_BYTES];
    size_t dashes = strspn(word, "-");
    snprintf(name, sizeof name, "%.*s", (int)(length - dashes), word + dashes);
    const char *nearest = dashes == 2 || length > 2 ? option_nearest(run->table, name) : NULL;
    if (nearest)
        return err_set_param(run->info, ERR_USAGE, name, "unknown option '%.*s'; did you mean '--%s'?",
                             (int)length, word, nearest);
    return err_set_param(run->info, ERR_USAGE, name, "unknown option '%.*s'; --help lists all of them",
                         (int)length, word);
}

/* The flag at argv[*at], and its value; *at moves to the last word used. */
static enum err flag_read_word(struct option_run *run, int argc, char **argv, int *at)
{
    const char *word = argv[*at];
    const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    size_t index = flag_find(run->table, word, length);
    if (index == run->table->n_options) return flag_unknown(run, word, length);
    const struct option *option = &run->table->options[index];

    char written[NAME_BYTES + 2];
    snprintf(written, sizeof written, "%.*s", (int)length, word);
    const char *value = equals ? equals + 1 : NULL;
    if (!value && option->kind == OPTION_FLAG) value = "true";
    if (!value) {
        if (*at + 1 >= argc || strncmp(argv[*at + 1], "--", 2) == 0)
            return err_set_param(run->info, ERR_USAGE, option->name, "%s needs a value", written);
        value = argv[++*at];
    }
    return option_set(run, index, ORIGIN_COMMAND_LINE, written, value);
}

static enum err positional_read(struct option_run *run, const char *word, bool *seen)
{
    const struct option_table *table = run->table;
    if (!table->positional || *seen)
        return err_set(run->info, ERR_USAGE, "unexpected argument '%s'; usage: %s", word, table->usage);
    *seen = true;
    size_t index = option_find(table, table->positional, strlen(table->positional), false);
    return option_set(run, index, ORIGIN_COMMAND_LINE, table->options[index].metavar, word);
}

static enum err command_line_read(struct option_run *run, int argc, char **argv, int first)
{
    bool flags = true, seen = false;
    for (int i = first; i < argc; i++) {
        enum err err;
        if (flags && strcmp(argv[i], "--") == 0) {
            flags = false;
            continue;
        }
        if (flags && argv[i][0] == '-' && argv[i][1])
            err = flag_read_word(run, argc, argv, &i);
        else
            err = positional_read(run, argv[i], &seen);
        if (err) return err;
    }
    return ERR_OK;
}

/* True, and the flag set, when one of stop_flags stands among the words. */
static bool stop_flag_read(struct option_run *run, int argc, char **argv, int first, const char *stop_flags)
{
    for (int i = first; i < argc && stop_flags; i++) {
        if (strcmp(argv[i], "--") == 0) break;
        size_t index = flag_find(run->table, argv[i], strlen(argv[i]));
        if (index == run->table->n_options || !option_list_holds(stop_flags, run->table->options[index].name))
            continue;
        return option_set(run, index, ORIGIN_COMMAND_LINE, argv[i], "true") == ERR_OK;
    }
    return false;
}

/* The environment. */

static enum err stranger_add(struct option_run *run, const char *name)
{
    struct option_stranger *stranger = arena_alloc(run->state->arena, 1, sizeof *stranger);
    if (!stranger) return option_memory(run);
    stranger->name = arena_copy(run->state->arena, name, strlen(name));
    if (!stranger->name) return option_memory(run);
    stranger->next = run->state->strangers;
    run->state->strangers = stranger;
    return ERR_OK;
}

void option_warn(const struct option_state *state)
{
    for (const struct option_stranger *stranger = state->strangers; stranger; stranger = stranger->next)
        log_warn("config", "environment variable %s is no option of octavo", stranger->name);
}

static enum err variable_read(struct option_run *run, const char *variable)
{
    const char *prefix = run->table->env_prefix;
    const char *equals = strchr(variable, '=');
    size_t skip = strlen(prefix);
    /* An empty variable counts as unset: compose files pass optional settings that way. */
    if (!equals || !equals[1] || strncmp(variable, prefix, skip) != 0) return ERR_OK;
    char name[NAME_BYTES] = "", written[2 * NAME_BYTES];
    size_t length = (size_t)(equals - variable) - skip;
    if (length == 0 || length >= sizeof name) return ERR_OK;
    for (size_t i = 0; i < length; i++) name[i] = (char)tolower((unsigned char)variable[skip + i]);
    snprintf(written, sizeof written, "%.*s", (int)(equals - variable), variable);
    size_t index = option_find(run->table, name, length, false);
    if (index == run->table->n_options || run->table->options[index].command_line) {
        /* Not an error: others may use the prefix (Kubernetes does, for a service of this name). */
        return stranger_add(run, written);
    }
    return option_set(run, index, ORIGIN_ENVIRONMENT, written, equals + 1);
}

static enum err config_file_read(struct option_run *run)
{
    for (size_t i = 0; i < run->table->n_options; i++) {
        if (!run->table->options[i].config_file) continue;
        memcpy(&run->state->file, run->values + run->table->options[i].offset, sizeof run->state->file);
        if (run->state->file) return option_file_read(run, run->state->file);
    }
    return ERR_OK;
}

static enum err defaults_read(struct option_run *run)
{
    for (size_t i = 0; i < run->table->n_options; i++) {
        const struct option *option = &run->table->options[i];
        struct option_field *field = &run->state->fields[option_owner(run->table, i)];
        if (field->origin != ORIGIN_UNSET) continue;
        if (option->default_value) {
            enum err err = option_set(run, i, ORIGIN_DEFAULT, option->name, option->default_value);
            if (err) return err;
        }
        field->origin = ORIGIN_DEFAULT;
    }
    return ERR_OK;
}

static enum err everything_read(struct option_run *run, int argc, char **argv, int first, char **environment,
                                const char *stop_flags)
{
    if (stop_flag_read(run, argc, argv, first, stop_flags)) return defaults_read(run);
    enum err err = command_line_read(run, argc, argv, first);
    for (char **variable = environment; !err && run->table->env_prefix && variable && *variable; variable++)
        err = variable_read(run, *variable);
    if (!err) err = config_file_read(run);
    if (!err) err = defaults_read(run);
    return err;
}

enum err option_parse(const struct option_table *table, int argc, char **argv, int first, char **environment,
                      const char *stop_flags, void *values, struct option_state **out, struct err_info *info)
{
    struct arena *arena = arena_create(OPTION_ARENA_BYTES);
    struct option_state *state = arena ? arena_alloc(arena, 1, sizeof *state) : NULL;
    struct option_run run = {.table = table, .values = values, .state = state, .info = info};
    if (state) {
        state->arena = arena;
        state->fields = arena_alloc(arena, table->n_options, sizeof *state->fields);
    }
    enum err err = state && state->fields ? ERR_OK : option_memory(&run);
    if (!err) {
        for (size_t i = 0; i < table->n_options; i++) option_field_clear(&table->options[i], values);
        err = everything_read(&run, argc, argv, first, environment, stop_flags);
    }
    if (err)
        arena_free(arena);
    else
        *out = state;
    return err;
}

void option_state_free(struct option_state *state)
{
    if (state) arena_free(state->arena); /* the state itself lives there */
}

enum option_origin option_origin(const struct option_table *table, const struct option_state *state,
                                 const char *name)
{
    size_t index = option_find(table, name, strlen(name), false);
    assert(index < table->n_options);
    return state->fields[option_owner(table, index)].origin;
}
