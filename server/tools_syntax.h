#ifndef SERVER_TOOLS_SYNTAX_H
#define SERVER_TOOLS_SYNTAX_H

#include "server/tools.h"

/* How a style writes calls, for those that write and read them. */
struct tools_syntax {
    const char *marker; /* stands before calls */
    const char *close;  /* stands behind each, or NULL */
    const char *key;    /* of the arguments, when writing; "arguments" and "parameters" are both read */
    bool bare;          /* a reply may begin with the object itself */
    bool list;          /* the marker may be followed by an array of objects */
    bool name_first;    /* the marker is followed by name and arguments, no object around them */
    const char *shown[TOOLS_MAX_SHOWN]; /* what may be control tokens */
};
const struct tools_syntax *tools_syntax_of(enum tools_style style);

#endif
