#ifndef SERVER_CONSTRAINT_INTERNAL_H
#define SERVER_CONSTRAINT_INTERNAL_H

#include "config/json.h"
#include "server/metrics.h"

#include <stddef.h>

/* constraint_parse.c: what a body asks for. constraint.c: its grammar. */

struct constraint_ask {
    const char *field; /* that asks, for messages; NULL: none does */
    enum metrics_constraint kind;
    const struct json *value; /* a schema, or NULL: any object; the choices */
    const char *text;         /* a regex, a grammar */
    size_t length;
    struct json *owned; /* a schema that came as a string; json_free */
};

/* Checks the fields' shapes; what the languages say in them is for those who read them. ERR_INVALID,
   ERR_UNSUPPORTED name the field. */
enum err constraint_parse(const struct json *body, struct constraint_ask *out, struct err_info *info);

#endif
