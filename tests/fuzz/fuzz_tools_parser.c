#include "config/buf.h"
#include "server/tools.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte says how calls are written and read, the second where the text is cut; the rest is what a
   model wrote. The events keep their order, nothing is lost that is not part of a call, and the cuts do not
   matter. */
struct record {
    struct buf out;
    enum tools_event_type last;
    int n_calls;
    bool open;
    size_t text_bytes;
    char first; /* of the arguments */
};

static void demand(bool condition)
{
    if (!condition) abort();
}

static void record_event(void *context, const struct tools_event *event)
{
    struct record *record = context;
    bool goes_on = record->out.length > 0 && record->last == event->type;
    switch (event->type) {
    case TOOLS_REASONING:
        demand(false);
        break;
    case TOOLS_TEXT:
        demand(!record->open && event->length > 0);
        record->text_bytes += event->length;
        if (!goes_on) buf_text(&record->out, "\nT ");
        break;
    case TOOLS_CALL:
        demand(!record->open && event->call == record->n_calls++);
        demand(strcmp(event->name, "f") == 0 || strcmp(event->name, "get") == 0);
        demand(strlen(event->id) >= 9);
        record->open = true;
        record->first = '\0';
        buf_printf(&record->out, "\nC %s %s", event->name, event->id);
        break;
    case TOOLS_ARGUMENTS:
        demand(record->open && event->length > 0 && event->call == record->n_calls - 1);
        if (record->first == '\0') record->first = event->text[0];
        if (!goes_on) buf_text(&record->out, "\nA ");
        break;
    case TOOLS_CALL_END:
        demand(record->open && record->first == '{');
        record->open = false;
        buf_text(&record->out, "\nE");
        break;
    }
    buf_append(&record->out, event->text, event->length);
    record->last = event->type;
}

static void read_text(const struct tools *tools, const char *text, size_t length, size_t step,
                      struct record *record)
{
    struct arena *arena = arena_create(1 << 20);
    struct tools_parser *parser = tools_parser_create(tools, "seed", arena);
    demand(parser != NULL);
    buf_init(&record->out, SIZE_MAX);
    size_t from = 0;
    do {
        size_t n = length - from < step ? length - from : step;
        tools_parser_feed(parser, text + from, n, from + n == length, record_event, record);
        from += n;
    } while (from < length);
    demand(!record->open && tools_parser_calls(parser) == record->n_calls);
    arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    struct tool list[] = {{.name = "f"}, {.name = "get"}};
    struct tools tools = {.style = (enum tools_style)(data[0] % 5),
                          .constrained = data[0] & 0x40,
                          .parallel = !(data[0] & 0x80),
                          .n = 2,
                          .list = list};
    const char *text = (const char *)data + 2;
    size_t length = size - 2;
    struct record whole = {0}, cut = {0};
    read_text(&tools, text, length, length > 0 ? length : 1, &whole);
    read_text(&tools, text, length, data[1] + (size_t)1, &cut);
    demand(whole.out.length == cut.out.length);
    demand(whole.out.length == 0 || memcmp(whole.out.data, cut.out.data, whole.out.length) == 0);
    demand(whole.n_calls > 0 || !tools.parallel || whole.text_bytes == length);
    demand(tools.parallel || whole.n_calls <= 1);
    buf_free(&whole.out);
    buf_free(&cut.out);
    return 0;
}
