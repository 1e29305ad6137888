#ifndef CONFIG_BUF_H
#define CONFIG_BUF_H

#include <stdbool.h>
#include <stddef.h>

/*
 * A growing byte buffer with a ceiling. Failure is sticky: once an append does not fit, `failed` is set, the
 * content stays as it was, and every later append does nothing; so a caller appends freely and checks once.
 * `data` is always NUL-terminated after the first successful append (the NUL is not counted in length).
 */
struct buf {
    char *data;
    size_t length;
    size_t capacity;
    size_t limit; /* the most bytes it may hold */
    bool failed;
};

void buf_init(struct buf *buf, size_t limit);
void buf_free(struct buf *buf);
void buf_clear(struct buf *buf); /* length 0, failure forgotten, memory kept */
void buf_append(struct buf *buf, const void *bytes, size_t length);
void buf_text(struct buf *buf, const char *text);
void buf_printf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Remove the first length bytes. */
void buf_consume(struct buf *buf, size_t length);

#endif
