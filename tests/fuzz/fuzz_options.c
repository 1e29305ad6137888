#include "config/option_table.h"
#include "config/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A config file of any content either sets options or gives a message, and what it sets prints and reads back
   to the same print. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum err file_apply(struct options *options, const char *text, size_t length, struct err_info *info)
{
    enum err err = options_parse(0, NULL, 0, NULL, options, info);
    if (err) abort();
    for (size_t i = 0; i < options_table.n_options; i++) options->state->fields[i].origin = ORIGIN_UNSET;
    struct option_run run = {
        .table = &options_table, .values = (char *)options, .state = options->state, .info = info};
    return option_file_apply(&run, "fuzz", text, length);
}

static char *values_print(struct options *options, size_t *length)
{
    char *text = NULL;
    /* Origins name lines, which differ between the two files. */
    for (size_t i = 0; i < options_table.n_options; i++) options->state->fields[i].origin = ORIGIN_DEFAULT;
    FILE *out = open_memstream(&text, length);
    if (!out) abort();
    options_print(options, out);
    fclose(out);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct options options, again;
    struct err_info info = {.code = ERR_OK};
    if (size > 1 << 16) return 0;
    enum err err = file_apply(&options, (const char *)data, size, &info);
    if (err && (err != ERR_USAGE || !info.message[0])) abort();
    if (!err) {
        size_t length, length_again;
        options.api_key = NULL; /* never printed in full */
        char *text = values_print(&options, &length);
        if (file_apply(&again, text, length, &info)) {
            fprintf(stderr, "%s\n%s\n", info.message, text);
            abort();
        }
        char *text_again = values_print(&again, &length_again);
        if (length != length_again || memcmp(text, text_again, length) != 0) abort();
        free(text);
        free(text_again);
        options_free(&again);
    }
    options_free(&options);
    return 0;
}
