#ifndef SERVER_EVAL_LINES_H
#define SERVER_EVAL_LINES_H

#include "config/err.h"

#include <stddef.h>

/*
 * The file of --data: a JSON object on each line. Lines of white space are passed over.
 */
enum { EVAL_LINES_MAX_BYTES = 1 << 28 };

struct json;

/* Lines of the text, blank ones too: no file has more problems. */
int eval_lines_count(const char *text, size_t length);

/* Calls take for the first `limit` objects (0: all); name is the file's, for messages. When take fails with a
   message of what is wrong with the object, file and line are put before it. ERR_FORMAT, also when there are
   none; ERR_MEMORY. */
enum err eval_lines_each(const char *name, const char *text, size_t length, int limit,
                         enum err (*take)(void *context, const struct json *object, struct err_info *info),
                         void *context, struct err_info *info);

#endif
