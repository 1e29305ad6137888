#ifndef CONFIG_ERR_H
#define CONFIG_ERR_H

/*
 * Errors.
 *
 * A function that can fail returns `enum err` and takes, last, a `struct err_info *` that it fills when it
 * fails (it may be NULL). Out-parameters are written only on success. A message names what is wrong and
 * where: "tensor 'blk.3.attn_q.weight': offset 81920 lies past the end of the file (65536 bytes)".
 */

enum err {
    ERR_OK = 0,
    ERR_USAGE,       /* command line, environment or config file: exit code 2 */
    ERR_INVALID,     /* a client's request is wrong: HTTP 400 */
    ERR_FORMAT,      /* a file is not what it should be */
    ERR_UNSUPPORTED, /* well-formed, but octavo cannot do it */
    ERR_IO,          /* the system refused: open, read, mmap, bind */
    ERR_MEMORY,      /* an allocation failed */
    ERR_LIMIT,       /* a ceiling was reached (size, depth, queue) */
    ERR_CAPACITY,    /* can never fit in the KV pool: HTTP 400 with the arithmetic */
    ERR_BUSY,        /* no room now, try again: HTTP 429 */
    ERR_TIMEOUT,     /* a request's own deadline passed: HTTP 504 */
    ERR_CLOSED,      /* shutting down, or the peer left: HTTP 503 */
    ERR_DEVICE,      /* the card failed under the request: HTTP 503 */
};

struct err_info {
    enum err code;
    char message[480];
    char param[64]; /* the request field, option, GGUF key or tensor at fault; empty when none */
};

/* Fill info (when not NULL) with a printf-style message; returns code, so `return err_set(info, ERR_IO,
 * ...)`. */
enum err err_set(struct err_info *info, enum err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As err_set, and names the field, option, key or tensor at fault. */
enum err err_set_param(struct err_info *info, enum err code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* "usage", "invalid", ... for logs. */
const char *err_name(enum err code);

#endif
