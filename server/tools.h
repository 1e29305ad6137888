#ifndef SERVER_TOOLS_H
#define SERVER_TOOLS_H

#include "config/arena.h"
#include "config/err.h"
#include "config/json.h"
#include "model/chat_template.h"
#include "model/grammar.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Tools: what a client may offer a model, how each family of models writes a call, the grammar that makes a
 * model write one, and the way back from text to calls, piece by piece as it comes.
 */

/* How a template's model writes calls, found by looking at the template's source. */
enum tools_style {
    TOOLS_HERMES,       /* <tool_call>{"name": ..., "arguments": {...}}</tool_call>: Hermes, Qwen2.5, Qwen3 */
    TOOLS_LLAMA3,       /* {"name": ..., "parameters": {...}}, alone or after <|python_tag|> */
    TOOLS_MISTRAL,      /* [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...] */
    TOOLS_MISTRAL_ARGS, /* [TOOL_CALLS]name[ARGS]{...}, also with [CALL_ID]... before [ARGS] */
    TOOLS_GENERIC, /* the template knows no tools, or has a way of its own to write calls that octavo does
                      not read: they are told in the system message, calls as Hermes */
};
enum tools_style tools_style_of(const struct chat_template *chat);

enum tools_choice { TOOLS_AUTO, TOOLS_NONE, TOOLS_REQUIRED, TOOLS_NAMED };

enum { TOOLS_MAX = 128, TOOLS_MAX_NAME = 64 };

struct tool {
    const char *name;              /* [a-zA-Z0-9_-]{1,64}, each once */
    const struct json *parameters; /* a schema of objects; NULL: any object */
    bool strict;
    int index; /* in the body's tools, for messages */
};

/* What a request says of tools; in its arena, strings and schemas borrowed from the body. */
struct tools {
    enum tools_style style;
    enum tools_choice choice;
    const char *named; /* TOOLS_NAMED */
    bool parallel;     /* parallel_tool_calls; more than one call */
    bool constrained;  /* tools_grammar is in force: a call that has begun will be whole, and its arguments
                          are passed on as they come; else a call is only told once it is complete.
                          tools_parse leaves it false; who attaches the grammar sets it */
    int n;
    struct tool *list; /* those that may be called (allowed_tools may leave some out) */
};

/* tools, tool_choice, parallel_tool_calls of a chat body. n 0: none are offered. ERR_INVALID names the field.
   tool_choice: "none", "auto" (the default), "required", {"type":"function","function":{"name":...}}, and
   {"type":"allowed_tools","allowed_tools":{"mode":...,"tools":[...]}}; the last two also in the flat form of
   the responses API. */
enum err tools_parse(const struct json *body, enum tools_style style, struct arena *arena, struct tools *out,
                     struct err_info *info);
/* Whether replies may hold calls, and so need a parser. NULL-safe. */
bool tools_offered(const struct tools *tools);

/* For conversations that offer tools: makes messages and tools what the template is to get. Templates that
   know tools get them as they are. For TOOLS_GENERIC the tools are told in the system message (which is made
   when there is none; before the first message's text where a template has no system role), calls and their
   results in the history become text, and input->tools JINJA_MISSING. ERR_LIMIT when the arena is full. */
enum err tools_prompt(enum tools_style style, const struct chat_template *chat, struct arena *arena,
                      struct chat_input *input, struct err_info *info);

/* Control tokens are not shown in a reply's text. Where a vocabulary has one for what the parser looks for
   ("[TOOL_CALLS]"), its text must reach the parser: these are the ones. Returns how many. */
enum { TOOLS_MAX_SHOWN = 4 };
int tools_shown_tokens(enum tools_style style, const struct tokenizer *tokenizer,
                       int32_t out[TOOLS_MAX_SHOWN]);

/* The grammar of a whole reply, as a node: auto: text, and calls of the tools offered; required, named: calls
   only. Arguments follow the parameters' schemas (in auto only those of tools with strict, else any object).
 */
enum err tools_grammar(struct grammar_builder *builder, const struct tools *tools, int *out,
                       struct err_info *info);

/* --- From text to calls --- */

enum tools_event_type {
    TOOLS_REASONING, /* more thoughts before the content; of server/reasoning.h, never of a tools_parser */
    TOOLS_TEXT,      /* more of the message's content */
    TOOLS_CALL,      /* a call begins: id and name are known */
    TOOLS_ARGUMENTS, /* more of the arguments of the call under way, as JSON text */
    TOOLS_CALL_END,
};
struct tools_event {
    enum tools_event_type type;
    int call;              /* from 0 */
    const char *id, *name; /* of a call; valid during tools_emit */
    const char *text;      /* of TOOLS_REASONING, TOOLS_TEXT and TOOLS_ARGUMENTS */
    size_t length;
};
typedef void tools_emit(void *context, const struct tools_event *event);

/*
 * One choice's place in its text. Holds back what may be the start of a call; text that turns out not to be
 * one comes out as TOOLS_TEXT, complete and in order, at the latest with the last piece. What the events say
 * does not depend on how the text was cut into pieces (only how many events say it).
 *
 * White space beside calls is not text. A call counts when it is JSON, has the name of a tool that is offered
 * and an object as arguments; otherwise all of it is text. Models that have tags for calls but write the bare
 * object, alone or in a code fence, at the start of a reply (Qwen2.5-Coder does) are understood too. A call
 * that the text's end cuts off is told as far as it came when it is constrained, and is text otherwise.
 *
 * A parser's memory is fixed; it needs neither tools nor body after its creation. id_seed: ids are made from
 * it, so it must be a reply's and choice's own. NULL when the arena is full.
 */
struct tools_parser;
struct tools_parser *tools_parser_create(const struct tools *tools, const char *id_seed, struct arena *arena);
/* length bytes more, whole characters. */
void tools_parser_feed(struct tools_parser *parser, const char *text, size_t length, bool last,
                       tools_emit *emit, void *context);
/* Calls begun so far; above 0: finish_reason tool_calls. */
int tools_parser_calls(const struct tools_parser *parser);

#endif
