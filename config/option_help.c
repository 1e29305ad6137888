#include "config/option_table.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

enum { HELP_COLUMN = 30, HELP_WIDTH = 100, PRINT_COLUMN = 44 };

/* "-c --max-model-len": the short names, or the long ones, with commas between. */
static void aliases_join(const char *aliases, bool is_short, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (const char *at = aliases; at && *at; at += strspn(at, " ")) {
        size_t length = strcspn(at, " ");
        if ((at[1] != '-') == is_short && used < size)
            used += (size_t)snprintf(out + used, size - used, "%s%.*s", used ? ", " : "", (int)length, at);
        at += length;
    }
}

/* text from column HELP_COLUMN on, broken between words. */
static void paragraph_print(FILE *out, const char *text)
{
    int column = HELP_COLUMN;
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + length > HELP_WIDTH) {
            fprintf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        if (column > HELP_COLUMN) column += fprintf(out, " ");
        column += fprintf(out, "%.*s", length, text);
        text += length;
        text += strspn(text, " ");
    }
    fprintf(out, "\n");
}

/* "default 8080; env OCTAVO_PORT; also --p" */
static void facts_print(const struct option_table *table, const struct option *option, FILE *out)
{
    char facts[256], aliases[128];
    int used = 0;
    facts[0] = '\0';
    if (option->default_value)
        used += snprintf(facts + used, sizeof facts - (size_t)used, "default %s", option->default_value);
    if (table->env_prefix && !option->command_line) {
        used += snprintf(facts + used, sizeof facts - (size_t)used, "%senv %s", used ? "; " : "",
                         table->env_prefix);
        for (const char *at = option->name; *at && used + 2 < (int)sizeof facts; at++)
            facts[used++] = (char)(*at == '-' ? '_' : toupper((unsigned char)*at));
        facts[used] = '\0';
    }
    aliases_join(option->aliases, false, aliases, sizeof aliases);
    if (aliases[0])
        used += snprintf(facts + used, sizeof facts - (size_t)used, "%salso %s", used ? "; " : "", aliases);
    if (used == 0) return;
    fprintf(out, "%*s", HELP_COLUMN, "");
    paragraph_print(out, facts);
}

static void option_help_one(const struct option_table *table, const struct option *option, FILE *out)
{
    char shorts[64];
    const char *value = option->kind == OPTION_CHOICE ? option->choices : option->metavar;
    aliases_join(option->aliases, true, shorts, sizeof shorts);
    int column = fprintf(out, "  %s%s--%s%s%s", shorts, shorts[0] ? ", " : "", option->name, value ? " " : "",
                         value ? value : "");
    if (column + 2 > HELP_COLUMN) {
        fprintf(out, "\n");
        column = 0;
    }
    fprintf(out, "%*s", HELP_COLUMN - column, "");
    paragraph_print(out, option->help);
    facts_print(table, option, out);
}

void option_help(const struct option_table *table, FILE *out)
{
    fprintf(out, "Usage: %s\n", table->usage);
    if (table->about) fprintf(out, "\n%s\n", table->about);
    const char *group = "";
    for (size_t i = 0; i < table->n_options; i++) {
        const struct option *option = &table->options[i];
        if (strcmp(group, option->group) != 0) fprintf(out, "\n%s\n", option->group);
        group = option->group;
        option_help_one(table, option, out);
    }
}

/* The text of a field as an ini value; a text that would not read back as it is, in quotes. */
static int text_print(FILE *out, const char *text)
{
    size_t length = strlen(text);
    bool plain = !strpbrk(text, "#;\"") && text[0] != ' ' && text[length - 1] != ' ';
    if (plain) return fprintf(out, "%s", text);
    int column = fprintf(out, "\"");
    for (; *text; text++) column += fprintf(out, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    return column + fprintf(out, "\"");
}

static int value_print(const struct option *option, const char *values, FILE *out)
{
    const char *field = values + option->offset;
    switch (option->kind) {
    case OPTION_TEXT:
    case OPTION_CHOICE:
        return text_print(out, *(const char *const *)(const void *)field);
    case OPTION_INT:
        return fprintf(out, "%d", *(const int *)(const void *)field);
    case OPTION_INT64:
    case OPTION_BYTES:
        return fprintf(out, "%" PRId64, *(const int64_t *)(const void *)field);
    case OPTION_REAL:
        return fprintf(out, "%.17g", *(const double *)(const void *)field);
    case OPTION_FLAG:
        return fprintf(out, "%s", *(const bool *)(const void *)field ? "true" : "false");
    }
    return 0;
}

static bool value_is_null(const struct option *option, const char *values)
{
    if (option->kind != OPTION_TEXT && option->kind != OPTION_CHOICE) return false;
    return *(const char *const *)(const void *)(values + option->offset) == NULL;
}

static void origin_print(const struct option_field *field, FILE *out)
{
    switch (field->origin) {
    case ORIGIN_COMMAND_LINE:
        fprintf(out, "command line, %s", field->written);
        break;
    case ORIGIN_ENVIRONMENT:
        fprintf(out, "environment, %s", field->written);
        break;
    case ORIGIN_FILE:
        fprintf(out, "file, %s", field->written);
        break;
    default:
        fprintf(out, "default");
    }
}

void option_print(const struct option_table *table, const struct option_state *state, const void *values,
                  FILE *out)
{
    const char *group = "";
    for (size_t i = 0; i < table->n_options; i++) {
        const struct option *option = &table->options[i];
        if (option->command_line || option->config_file || option_owner(table, i) != i) continue;
        if (strcmp(group, option->group) != 0) fprintf(out, "%s# %s\n", *group ? "\n" : "", option->group);
        group = option->group;
        /* What is not set, or must not be shown, is a comment: the file then reads back without it. */
        bool hidden = value_is_null(option, values) || option->secret;
        int column = fprintf(out, "%s%s = ", hidden ? "# " : "", option->name);
        if (value_is_null(option, values))
            column += fprintf(out, "(not set)");
        else if (option->secret)
            column += fprintf(out, "(set)");
        else
            column += value_print(option, values, out);
        fprintf(out, "%*s  # ", column < PRINT_COLUMN ? PRINT_COLUMN - column : 0, "");
        origin_print(&state->fields[i], out);
        fprintf(out, "\n");
    }
}
