#include "server/inspect.h"

#include "config/option.h"
#include "config/option_rows.h"
#include "model/gguf_dump.h"

#include <stdio.h>
#include <string.h>

struct inspect_options {
    const char *model;
    bool json, help;
    int elements;
};

#define FIELD(field) offsetof(struct inspect_options, field)

static const struct option rows[] = {
    {.name = "model",
     .group = "Options",
     .kind = OPTION_TEXT,
     .offset = FIELD(model),
     .aliases = "-m",
     .metavar = "MODEL",
     .help = "the file; the same as the argument without a flag"},
    {.name = "elements",
     .group = "Options",
     .kind = OPTION_INT,
     .offset = FIELD(elements),
     .default_value = "4",
     .max = 1 << 24,
     .metavar = "N",
     .help = "elements shown of each array"},
    OPTION_ROW_JSON("Options", FIELD(json)),
    OPTION_ROW_HELP("Options", FIELD(help)),
};

static const struct option_table table = {
    .usage = "octavo inspect MODEL [options]",
    .about = "Lists the keys and tensors of a GGUF file.",
    .positional = "model",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
};

static enum err inspect_run(const struct inspect_options *options, struct err_info *info)
{
    if (options->help) {
        option_help(&table, stdout);
        return ERR_OK;
    }
    if (!options->model) return err_set(info, ERR_USAGE, "no model is named; usage: %s", table.usage);
    struct gguf *gguf;
    enum err err = gguf_open(options->model, &gguf, info);
    if (err) return err;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    if (options->json)
        gguf_dump_json(gguf, (size_t)options->elements, &text);
    else
        gguf_dump_text(gguf, (size_t)options->elements, &text);
    if (text.failed)
        err = err_set(info, ERR_MEMORY, "not enough memory for the listing");
    else if (fwrite(text.data, 1, text.length, stdout) != text.length)
        err = err_set(info, ERR_IO, "cannot write to standard output");
    buf_free(&text);
    gguf_close(gguf);
    return err;
}

int inspect_main(int argc, char **argv)
{
    struct inspect_options options;
    struct option_state *state = NULL;
    struct err_info info;
    enum err err = option_parse(&table, argc, argv, 1, NULL, "help", &options, &state, &info);
    if (!err) err = inspect_run(&options, &info);
    if (err) fprintf(stderr, "octavo inspect: %s\n", info.message);
    option_state_free(state);
    return err == ERR_OK ? 0 : err == ERR_USAGE ? 2 : 1;
}
