#ifndef SERVER_HTTP_KEYS_H
#define SERVER_HTTP_KEYS_H

#include "config/err.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * The API keys that a server takes, and whose they are. Only their SHA-256 is kept; a key that comes is
 * hashed and compared with all of them, so that no time tells anything of a key but its length.
 *
 * The file has a key a line, with the tenant's name after it or not; '#' begins a comment line. Tenants share
 * the machine in equal parts (server/sched.h); several keys may be one tenant's, a key without a name is its
 * own. Names (letters, digits, '.', '_', '-', at most 64) are shown in /metrics, so there are at most
 * HTTP_TENANTS of them.
 */
struct http_keys;

enum { HTTP_TENANTS = 64 };

struct http_tenant {
    const char *name; /* NULL: it has none */
    int number;       /* of the name, from 0; -1: it has none */
    uint64_t id;      /* for the scheduler; not 0 */
};

/* key: one key, NULL or empty: none. path: a file of them, NULL: none. *out is NULL when both are none.
   ERR_IO: the file; ERR_FORMAT: it has no key, or names the line that is wrong. */
enum err http_keys_create(const char *key, const char *path, struct http_keys **out, struct err_info *info);
/* NULL-safe. */
void http_keys_free(struct http_keys *keys);

/* Whose key this is; NULL: nobody's. given may be NULL. */
const struct http_tenant *http_keys_find(const struct http_keys *keys, const char *given);

/* How many tenants there are: names, and keys without one. */
int http_keys_tenants(const struct http_keys *keys);
/* The names, by number. */
const char *const *http_keys_names(const struct http_keys *keys, int *n);

#endif
