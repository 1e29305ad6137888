#ifndef SERVER_TRANSLATION_H
#define SERVER_TRANSLATION_H

#include "config/buf.h"
#include "config/err.h"
#include "config/json.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * A request of another protocol on its way to the body of a chat: the chat body is written member by member,
 * then read as if a client had sent it. So whatever a chat can do, checks and refuses, the other protocols do
 * too, and their own code is only about what they call by other names. /completion is read that way as well.
 *
 * Functions that read a value take its path in the client's body ("input[2].content"); ERR_INVALID names it.
 */
struct translation {
    struct buf out;
    struct err_info *info;
};

/* Opens the chat's object. */
void translation_begin(struct translation *translation, struct err_info *info);
/* Closes and reads it when err is ERR_OK; *chat is the caller's to free. Frees the translation either way and
   returns err, or what went wrong here. */
enum err translation_end(struct translation *translation, enum err err, struct json **chat);

/* Writing. Commas are put where they belong. */
void translation_key(struct translation *translation, const char *name);
void translation_open(struct translation *translation, char bracket); /* also an element of an array */
void translation_close(struct translation *translation, char bracket);
void translation_text(struct translation *translation, const char *name, const char *text);
/* "reasoning_content" of an assistant's message, unless there is none or err is not ERR_OK. Frees thoughts;
   returns err, or ERR_MEMORY when thoughts has failed. */
enum err translation_thoughts(struct translation *translation, struct buf *thoughts, enum err err);
void translation_bool(struct translation *translation, const char *name, bool value);
void translation_number(struct translation *translation, const char *name, double value);
/* The value of a member as it stands. */
void translation_tree(struct translation *translation, const char *name, const struct json *value);
/* The member `from` of an object under the name `to`, unless it is absent or null. */
void translation_copy(struct translation *translation, const struct json *object, const char *from,
                      const char *to);
/* octavo's own fields, which every endpoint that generates takes, and those of the sampler that all
   protocols call the same. */
void translation_copy_common(struct translation *translation, const struct json *body);

/* What chats nest deeper than other protocols do; values may be NULL: not given. */

/* {"type":"function","function":{...}} as an element of tools. */
void translation_tool(struct translation *translation, const struct json *name,
                      const struct json *description, const struct json *parameters,
                      const struct json *strict);
/* {"id","type":"function","function":{"name","arguments"}} as an element of tool_calls. */
void translation_call(struct translation *translation, const struct json *id, const struct json *name,
                      const struct json *arguments);
/* tool_choice: this one. */
void translation_choice(struct translation *translation, const struct json *name);
/* response_format: a schema. */
void translation_schema(struct translation *translation, const char *name, const struct json *schema,
                        bool strict);

/* Reading. */

/* "PATH MESSAGE" */
enum err translation_fault(const struct translation *translation, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A member that must be there (unless optional) and of a type; *out stays NULL when it is not given. */
enum err translation_member(const struct translation *translation, const struct json *object,
                            const char *path, const char *name, enum json_type type, bool optional,
                            const struct json **out);
/* An object's type: a string that must be there. */
enum err translation_type(const struct translation *translation, const struct json *object, const char *path,
                          const char **out);

/* A string, or an array of objects {"type", "text"} with a type out of `types` (NULL at its end), as a
   message's content. */
enum err translation_content(struct translation *translation, const struct json *content, const char *path,
                             const char *const *types);
/* One such object, as an element of the content. */
enum err translation_part(struct translation *translation, const struct json *part, const char *path,
                          const char *const *types);

/* Names of chats and what the endpoint calls them, {NULL, NULL} at the end; the first that fits counts. It
   fits what stands between dots or brackets, or at either end. */
struct translation_name {
    const char *chat, *own;
};
void translation_rename(const struct translation_name *names, struct err_info *info);

#endif
