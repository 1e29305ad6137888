/*
 * From text to calls, byte by byte. What is not certain is held: in text only what may be a marker and the
 * white space before it, in a call all of it until it is known to be one. A byte that refutes a call sets
 * free what was held, as text, and is then looked at as text itself; nothing is read twice, so the work is in
 * proportion to the text whatever a model writes.
 */
#include "server/tools_syntax.h"

#include "cache/prefix.h"
#include "server/marker.h"
#include "server/tools_scan.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    CHUNK = 1024,           /* of a feed that is worked on at once */
    SPACES = 64,            /* white space between a call and its markers */
    HEAD = 160,             /* bytes between a marker and arguments that have no object around them */
    HELD_CALL = 32768,      /* of a call that is not constrained; above that it is told as it comes */
    HELD_CONSTRAINED = 512, /* until name and arguments begin */
};

enum place {
    PLACE_TEXT,
    PLACE_FENCE,  /* a reply that begins with ``` */
    PLACE_HEAD,   /* behind a marker */
    PLACE_NAME,   /* behind a marker that is followed by a name */
    PLACE_OBJECT, /* in a call's JSON */
    PLACE_TAIL,   /* behind a call */
};

struct tools_parser {
    const struct tools_syntax *syntax;
    enum tools_style style;
    bool active, parallel, constrained;
    int n_names;
    const char **names;
    const char *id_seed;

    enum place place;
    bool is_start;        /* nothing but white space so far: a call may stand here without a marker */
    bool after_call;      /* nothing but white space since a call */
    struct marker marker; /* looked for in text */
    size_t n_place;       /* bytes since the place was entered */
    bool in_list;         /* objects of an array */
    bool bare;            /* no marker stands before the call */
    bool late_name;       /* a member stands before the name */
    bool only_arguments;  /* the object is the arguments */
    const char *close;    /* what ends the call, or NULL; how much of it has come */
    size_t n_close;
    bool separated; /* a comma or semicolon has come */

    struct tools_scan scan;
    const char *name;           /* of the call, once it is known; one of names */
    bool is_name, is_arguments; /* what the member under way is */
    bool has_arguments;
    bool arguments_open;
    size_t arguments_from, arguments_to; /* in held; to: when they are no longer open */
    bool begun;                          /* has been told */
    int n_calls;
    char id[48];

    tools_emit *emit;
    void *context;
    size_t n_held, capacity;
    char held[];
};

/* --- Creation --- */

static const char **copy_names(const struct tools *tools, struct arena *arena)
{
    const char **names = arena_alloc(arena, (size_t)tools->n + 1, sizeof *names);
    if (!names) return NULL;
    for (int i = 0; i < tools->n; i++) {
        names[i] = arena_copy(arena, tools->list[i].name, strlen(tools->list[i].name));
        if (!names[i]) return NULL;
    }
    return names;
}

struct tools_parser *tools_parser_create(const struct tools *tools, const char *id_seed, struct arena *arena)
{
    bool active = tools_offered(tools);
    /* What the grammar enforces need not be held until it is whole. */
    bool enforced = active && tools->constrained &&
                    (!tools_syntax_of(tools->style)->bare || tools->style == TOOLS_LLAMA3);
    size_t held = !active ? 0 : enforced ? HELD_CONSTRAINED : HELD_CALL;
    struct tools_parser *parser = arena_alloc(arena, 1, sizeof *parser + held + CHUNK);
    if (!parser) return NULL;
    parser->capacity = held + CHUNK;
    parser->is_start = true;
    parser->active = active;
    if (!active) return parser;
    parser->style = tools->style;
    parser->syntax = tools_syntax_of(tools->style);
    parser->marker.text = parser->syntax->marker;
    parser->parallel = tools->parallel;
    parser->constrained = tools->constrained;
    parser->n_names = tools->n;
    parser->names = copy_names(tools, arena);
    parser->id_seed = arena_copy(arena, id_seed, strlen(id_seed));
    return parser->names && parser->id_seed ? parser : NULL;
}

int tools_parser_calls(const struct tools_parser *parser)
{
    return parser->n_calls;
}

/* --- Events --- */

static void tell(struct tools_parser *parser, enum tools_event_type type, const char *text, size_t length)
{
    bool call = type != TOOLS_TEXT;
    if (length == 0 && (type == TOOLS_TEXT || type == TOOLS_ARGUMENTS)) return;
    parser->after_call = type == TOOLS_CALL_END;
    struct tools_event event = {.type = type,
                                .call = parser->n_calls > 0 ? parser->n_calls - 1 : 0,
                                .id = call ? parser->id : NULL,
                                .name = call ? parser->name : NULL,
                                .text = text,
                                .length = length};
    parser->emit(parser->context, &event);
}

/* Letters and digits from a hash of seed and number; Mistral's templates want nine, alone. */
static void make_id(struct tools_parser *parser)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    bool mistral = parser->style == TOOLS_MISTRAL || parser->style == TOOLS_MISTRAL_ARGS;
    char seed[160], *at = parser->id;
    snprintf(seed, sizeof seed, "%.120s#%d", parser->id_seed, parser->n_calls);
    struct kv_hash hash = kv_prefix_seed(seed, strlen(seed));
    if (!mistral) {
        memcpy(at, "call_", 5);
        at += 5;
    }
    for (int i = 0; i < (mistral ? 9 : 20); i++) {
        uint64_t *half = i % 2 ? &hash.high : &hash.low;
        *at++ = letters[*half % 62];
        *half /= 62;
    }
    *at = '\0';
}

/* Forgets the first bytes that are held. */
static void drop(struct tools_parser *parser, size_t length)
{
    assert(length <= parser->n_held);
    parser->n_held -= length;
    memmove(parser->held, parser->held + length, parser->n_held);
}

static void hold(struct tools_parser *parser, char byte)
{
    assert(parser->n_held < parser->capacity);
    parser->held[parser->n_held++] = byte;
}

static void enter(struct tools_parser *parser, enum place place)
{
    parser->place = place;
    parser->n_place = 0;
}

/* --- Text --- */

/* What is held and can no longer be anything else. */
static void tell_text(struct tools_parser *parser)
{
    size_t certain = parser->n_held - parser->marker.matched - parser->marker.n_spaces;
    tell(parser, TOOLS_TEXT, parser->held, certain);
    drop(parser, certain);
}

static void begin_object(struct tools_parser *parser, char brace);

static void begin_head(struct tools_parser *parser)
{
    parser->in_list = parser->bare = false;
    parser->close = parser->syntax->close;
    parser->is_start = false;
    enter(parser, PLACE_HEAD);
}

static void read_text(struct tools_parser *parser, char byte)
{
    if (parser->is_start && parser->syntax->bare && (byte == '{' || byte == '`')) {
        parser->is_start = parser->in_list = false;
        parser->bare = true;
        parser->close = byte == '`' ? "```" : NULL;
        marker_reset(&parser->marker);
        if (byte == '{') {
            begin_object(parser, byte);
            return;
        }
        enter(parser, PLACE_FENCE);
        hold(parser, byte);
        return;
    }
    if (!marker_is_space(byte)) parser->is_start = false;
    hold(parser, byte);
    if (!marker_read(&parser->marker, byte)) return;
    tell_text(parser);
    marker_reset(&parser->marker);
    begin_head(parser);
}

/* It is no call: what is held is text. The byte that says so is not held yet. */
static void give_up(struct tools_parser *parser)
{
    tell(parser, TOOLS_TEXT, parser->held, parser->n_held);
    parser->n_held = 0;
    marker_reset(&parser->marker);
    parser->is_start = false;
    enter(parser, PLACE_TEXT);
}

/* --- Before the object --- */

static void read_fence(struct tools_parser *parser, char byte)
{
    size_t n = ++parser->n_place;
    bool word = byte >= 'a' && byte <= 'z' && n <= 8;
    bool fits = n <= 2 ? byte == '`' : marker_is_space(byte) || byte == '{' || word;
    if (n > 2 && byte == '{') {
        begin_object(parser, byte);
    } else if (!fits || n > SPACES) {
        give_up(parser);
        read_text(parser, byte);
    } else {
        hold(parser, byte);
    }
}

static void read_head(struct tools_parser *parser, char byte)
{
    parser->n_place++;
    if (byte == '{') {
        begin_object(parser, byte);
        return;
    }
    bool named = parser->syntax->name_first && !parser->in_list && !marker_is_space(byte);
    if (byte == '[' && parser->syntax->list && !parser->in_list) {
        parser->in_list = true;
        parser->close = "]";
    } else if (named) {
        enter(parser, PLACE_NAME);
        parser->arguments_from = parser->n_held; /* where the name stands */
    } else if (!marker_is_space(byte) || parser->n_place > SPACES) {
        give_up(parser);
        read_text(parser, byte);
        return;
    }
    hold(parser, byte);
}

static const char *find_name(const struct tools_parser *parser, const char *text, size_t length)
{
    for (int i = 0; i < parser->n_names; i++)
        if (strlen(parser->names[i]) == length && memcmp(parser->names[i], text, length) == 0)
            return parser->names[i];
    return NULL;
}

/* name, name[ARGS] or name[CALL_ID]id[ARGS]: the name, if it is one of a tool. */
static const char *read_title(const struct tools_parser *parser, const char *text, size_t length)
{
    static const char args[] = "[ARGS]", call_id[] = "[CALL_ID]";
    while (length > 0 && marker_is_space(text[length - 1])) length--;
    size_t n = 0;
    while (n < length && text[n] != '[') n++;
    const char *name = find_name(parser, text, n);
    text += n;
    length -= n;
    if (length >= sizeof call_id - 1 && memcmp(text, call_id, sizeof call_id - 1) == 0) {
        size_t skipped = sizeof call_id - 1;
        while (skipped < length && text[skipped] != '[') skipped++;
        text += skipped;
        length -= skipped;
        if (length == 0) return NULL;
    }
    bool right = length == 0 || (length == sizeof args - 1 && memcmp(text, args, length) == 0);
    return right ? name : NULL;
}

static void read_name(struct tools_parser *parser, char byte)
{
    size_t from = parser->arguments_from;
    const char *name = byte == '{' ? read_title(parser, parser->held + from, parser->n_held - from) : NULL;
    if (name) {
        begin_object(parser, byte);
        parser->name = name;
        parser->only_arguments = parser->has_arguments = parser->arguments_open = true;
        parser->arguments_from = parser->n_held - 1;
        parser->close = NULL;
    } else if (byte == '{' || byte == '\n' || ++parser->n_place > HEAD) {
        give_up(parser);
        read_text(parser, byte);
    } else {
        hold(parser, byte);
    }
}

/* --- The object --- */

static void begin_object(struct tools_parser *parser, char brace)
{
    tools_scan_init(&parser->scan);
    tools_scan_byte(&parser->scan, brace);
    hold(parser, brace);
    parser->name = NULL;
    parser->is_name = parser->is_arguments = parser->only_arguments = parser->late_name = false;
    parser->has_arguments = parser->arguments_open = parser->begun = false;
    enter(parser, PLACE_OBJECT);
}

/* A second call where only one was wanted is read like any other and told to nobody. */
static bool muted(const struct tools_parser *parser)
{
    return !parser->parallel && parser->n_calls > 0 && !parser->begun;
}

static void begin_call(struct tools_parser *parser)
{
    if (parser->begun || muted(parser)) return;
    make_id(parser);
    parser->begun = true;
    parser->n_calls++;
    tell(parser, TOOLS_CALL, "", 0);
}

/* The arguments that are held; of a call that has been told nothing else needs to stay. */
static void tell_arguments(struct tools_parser *parser)
{
    if (!parser->begun) return;
    size_t end = parser->arguments_open ? parser->n_held : parser->arguments_to;
    tell(parser, TOOLS_ARGUMENTS, parser->held + parser->arguments_from, end - parser->arguments_from);
    parser->n_held = parser->arguments_from = parser->arguments_to = 0;
}

static void end_call(struct tools_parser *parser)
{
    begin_call(parser);
    if (parser->begun && !parser->has_arguments) {
        tell(parser, TOOLS_ARGUMENTS, "{}", 2);
    } else {
        tell_arguments(parser);
    }
    if (parser->begun) tell(parser, TOOLS_CALL_END, "", 0);
    parser->begun = false;
    parser->n_held = parser->n_close = 0;
    parser->separated = false;
    enter(parser, PLACE_TAIL);
}

/* A call that has been told and breaks off all the same. */
static void break_off(struct tools_parser *parser)
{
    tell_arguments(parser);
    tell(parser, TOOLS_CALL_END, "", 0);
    parser->begun = false;
    give_up(parser);
}

/* A member of the object begins, and this byte is its value's first; false: this is no call. */
static bool begin_member(struct tools_parser *parser, char byte)
{
    const struct tools_scan *scan = &parser->scan;
    parser->is_name = tools_scan_is(scan, "name");
    parser->is_arguments = tools_scan_is(scan, "arguments") || tools_scan_is(scan, "parameters");
    if (parser->is_name) return !parser->name && byte == '"';
    parser->late_name = parser->late_name || !parser->name;
    if (parser->is_arguments) {
        if (parser->has_arguments || byte != '{') return false;
        parser->has_arguments = parser->arguments_open = true;
        parser->arguments_from = parser->n_held - 1;
    }
    /* Without a marker only what looks like nothing else is taken for a call. */
    return !parser->bare || parser->name || tools_scan_is(scan, "type") || tools_scan_is(scan, "id");
}

static bool end_member(struct tools_parser *parser)
{
    if (parser->is_arguments) {
        parser->arguments_open = false;
        parser->arguments_to = parser->n_held;
    }
    if (parser->is_name) {
        if (parser->scan.length <= TOOLS_SCAN_MAX_TEXT)
            parser->name = find_name(parser, parser->scan.text, (size_t)parser->scan.length);
        if (!parser->name) return false;
    }
    parser->is_name = parser->is_arguments = false;
    return true;
}

/* The object is whole and held; whether it is a call. */
static bool end_object(struct tools_parser *parser)
{
    if (parser->only_arguments) {
        parser->arguments_open = false;
        parser->arguments_to = parser->n_held;
    }
    return parser->name && (parser->has_arguments || !parser->bare);
}

static void refuse(struct tools_parser *parser)
{
    if (parser->begun)
        break_off(parser);
    else
        give_up(parser);
}

static void read_object(struct tools_parser *parser, char byte)
{
    enum tools_scan_result result = tools_scan_byte(&parser->scan, byte);
    if (result == TOOLS_SCAN_WRONG) {
        refuse(parser);
        read_text(parser, byte);
        return;
    }
    bool full = parser->n_held >= parser->capacity - CHUNK && ((unsigned char)byte & 0xC0) != 0x80;
    if (full && parser->name && parser->has_arguments) begin_call(parser);
    if (full && !parser->begun) {
        give_up(parser);
        read_text(parser, byte);
        return;
    }
    if (full) tell_arguments(parser);
    hold(parser, byte);
    bool right = true;
    if (!parser->only_arguments && result == TOOLS_SCAN_VALUE) right = begin_member(parser, byte);
    if (!parser->only_arguments && result == TOOLS_SCAN_END) right = end_member(parser);
    if (result == TOOLS_SCAN_DONE) {
        right = end_object(parser);
        if (right) {
            end_call(parser);
            return;
        }
    }
    if (!right) refuse(parser);
}

/* --- Behind a call --- */

static void read_tail(struct tools_parser *parser, char byte)
{
    const char *close = parser->close;
    char separator = parser->in_list ? ',' : parser->bare ? ';' : '\0';
    bool next = parser->in_list ? parser->separated : parser->bare || close;
    if (++parser->n_place <= SPACES) {
        if (close && byte == close[parser->n_close] && !parser->separated) {
            hold(parser, byte);
            if (close[++parser->n_close] != '\0') return;
            parser->n_held = 0;
            parser->is_start = parser->bare;
            enter(parser, PLACE_TEXT);
            return;
        }
        if (parser->n_close == 0 && (marker_is_space(byte) || (byte == separator && !parser->separated))) {
            parser->separated = parser->separated || !marker_is_space(byte);
            hold(parser, byte);
            return;
        }
        if (parser->n_close == 0 && next && byte == '{') {
            begin_object(parser, byte);
            return;
        }
    }
    /* Text again. What is held may be white space before a marker, or a marker's first byte. */
    size_t n = parser->n_held;
    parser->is_start = parser->bare && parser->n_close == 0 && !parser->separated;
    enter(parser, PLACE_TEXT);
    parser->n_held = 0;
    for (size_t i = 0; i < n; i++) read_text(parser, parser->held[i]);
    read_text(parser, byte);
}

/* --- Feeding --- */

static void read_byte(struct tools_parser *parser, char byte)
{
    switch (parser->place) {
    case PLACE_TEXT:
        read_text(parser, byte);
        break;
    case PLACE_FENCE:
        read_fence(parser, byte);
        break;
    case PLACE_HEAD:
        read_head(parser, byte);
        break;
    case PLACE_NAME:
        read_name(parser, byte);
        break;
    case PLACE_OBJECT:
        read_object(parser, byte);
        break;
    case PLACE_TAIL:
        read_tail(parser, byte);
        break;
    }
    /* As soon as it is known what is called with what. */
    bool known = parser->place == PLACE_OBJECT && parser->name && parser->has_arguments;
    /* The grammar enforces these. */
    bool marked = !parser->bare || (parser->style == TOOLS_LLAMA3 && !parser->late_name);
    if (known && parser->constrained && marked) begin_call(parser);
}

/* What the end of the text leaves. */
static void finish(struct tools_parser *parser)
{
    bool spaces = parser->place == PLACE_TEXT && parser->marker.n_spaces == parser->n_held;
    if (parser->place == PLACE_OBJECT && parser->begun)
        break_off(parser);
    else if (parser->place == PLACE_TAIL || (spaces && parser->after_call))
        parser->n_held = 0;
    else if (parser->place == PLACE_OBJECT && muted(parser))
        parser->n_held = 0;
    give_up(parser);
}

void tools_parser_feed(struct tools_parser *parser, const char *text, size_t length, bool last,
                       tools_emit *emit, void *context)
{
    parser->emit = emit;
    parser->context = context;
    if (!parser->active) {
        tell(parser, TOOLS_TEXT, text, length);
        return;
    }
    while (length > 0) {
        size_t n = length < CHUNK ? length : CHUNK;
        while (n < length && n > CHUNK - 4 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
        for (size_t i = 0; i < n; i++) read_byte(parser, text[i]);
        if (parser->place == PLACE_TEXT) tell_text(parser);
        if (parser->place == PLACE_OBJECT) tell_arguments(parser);
        text += n;
        length -= n;
    }
    if (last) finish(parser);
}
