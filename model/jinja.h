#ifndef MODEL_JINJA_H
#define MODEL_JINJA_H

#include "config/arena.h"
#include "config/err.h"
#include "model/jinja_value.h"

#include <stddef.h>
#include <stdint.h>
#include <time.h>

/*
 * Jinja templates, as chat templates use them: the language of Python's Jinja2 3.1 in the environment that
 * Hugging Face's apply_chat_template gives it (ImmutableSandboxedEnvironment with trim_blocks and
 * lstrip_blocks, loop controls, the `generation` tag, raise_exception, strftime_now, its own tojson), with
 * the same bytes as output.
 *
 * Compiled once; what is not supported (template inheritance, imports, recursive loops, some filters) fails
 * then, and the message has line, column and the construct's name. A compiled template is immutable: any
 * thread may render it. Nothing of a template reaches outside: no files, no environment, only the clock.
 */
struct jinja;

/* source is UTF-8 and not needed after. ERR_FORMAT: a syntax error; ERR_UNSUPPORTED: a construct of Jinja2
   that is not supported; ERR_LIMIT: nested too deeply. */
enum err jinja_compile(const char *source, size_t length, struct jinja **out, struct err_info *info);
/* NULL-safe. */
void jinja_free(struct jinja *jinja);

/* A variable that the template sees. */
struct jinja_variable {
    const char *name;
    struct jinja_value value;
};

struct jinja_limits {
    int64_t max_steps; /* a node evaluated, an element copied, 64 bytes of text passed over */
    int max_depth;     /* nodes and macros within each other */
    size_t max_output_bytes;
};
extern const struct jinja_limits jinja_limits_default; /* 20 million, 800, 64 MiB */

/* The output's memory and all that comes up on the way are the arena's. now is what strftime_now tells, in
   local time. ERR_INVALID: the template called raise_exception (the message is its argument as it stands), or
   cannot do with these values what it tries to do (the message has the line); ERR_LIMIT: a limit was reached
   or the arena is full. */
enum err jinja_render(const struct jinja *jinja, struct arena *arena, const struct jinja_variable *variables,
                      int n_variables, time_t now, const struct jinja_limits *limits, struct jinja_text *out,
                      struct err_info *info);

#endif
