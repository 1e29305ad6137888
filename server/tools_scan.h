#ifndef SERVER_TOOLS_SCAN_H
#define SERVER_TOOLS_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A JSON object read byte by byte, strictly (RFC 8259), with word of what its own members are: the members of
 * values inside are only checked. UTF-8 is not checked. Its memory is fixed.
 */
enum { TOOLS_SCAN_MAX_DEPTH = 64, TOOLS_SCAN_MAX_TEXT = 64 };

enum tools_scan_result {
    TOOLS_SCAN_MORE,  /* so far it is the beginning of an object */
    TOOLS_SCAN_VALUE, /* with this byte the value of a member of the outer object begins; its key is in text
                       */
    TOOLS_SCAN_END,   /* with this byte such a value ends, if it is a string, an array or an object; of a
                         string, the text is in text */
    TOOLS_SCAN_DONE,  /* with this byte the outer object ends */
    TOOLS_SCAN_WRONG, /* this byte cannot follow */
};

struct tools_scan {
    int state; /* of the lexer */
    int depth;
    uint64_t is_array;   /* bit d: what is open at depth d + 1 */
    bool in_key;         /* the string under way is a key */
    bool replaces;       /* its first byte takes the place of text */
    int digits;          /* of \uXXXX, left */
    const char *literal; /* rest of true, false or null */
    /* The last key of the outer object, then its value when that is a string; raw, as it is written. */
    char text[TOOLS_SCAN_MAX_TEXT + 1];
    int length; /* above TOOLS_SCAN_MAX_TEXT: it is longer than text holds */
};

void tools_scan_init(struct tools_scan *scan);
/* The next byte; the first one is the object's brace. After DONE and WRONG there is no next. */
enum tools_scan_result tools_scan_byte(struct tools_scan *scan, char byte);
/* Whether text is this word. */
bool tools_scan_is(const struct tools_scan *scan, const char *word);

#endif
