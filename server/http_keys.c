#include "server/http_keys.h"

#include "server/runtime.h"
#include "server/tls.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_KEYS = 4096, MOST_BYTES = 1 << 20, MOST_NAME = 64 };

struct entry {
    unsigned char digest[TLS_SHA256_BYTES];
    struct http_tenant tenant;
};

struct http_keys {
    struct entry *entries;
    int n, room;
    char *names[HTTP_TENANTS];
    int n_names;
};

/* A place in the file, or the option. */
struct origin {
    const char *path; /* NULL: --api-key */
    int line;
    struct err_info *info;
};

static enum err fail(const struct origin *origin, const char *what)
{
    if (!origin->path) return err_set_param(origin->info, ERR_FORMAT, "api-key", "--api-key: %s", what);
    return err_set_param(origin->info, ERR_FORMAT, "api-key-file", "--api-key-file: %s:%d: %s", origin->path,
                         origin->line, what);
}

/* Eight bytes of a digest: who has it keeps it from one run to the next. */
static uint64_t identity(const unsigned char digest[TLS_SHA256_BYTES])
{
    uint64_t id;
    memcpy(&id, digest, sizeof id);
    return id | 1;
}

static enum err name_add(struct http_keys *keys, const struct origin *origin, const char *name, size_t length,
                         int *out)
{
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
            return fail(origin, "a tenant's name is made of letters, digits, '.', '_' and '-'");
    if (length > MOST_NAME) return fail(origin, "a tenant's name has at most 64 characters");
    for (int i = 0; i < keys->n_names; i++)
        if (strlen(keys->names[i]) == length && memcmp(keys->names[i], name, length) == 0) {
            *out = i;
            return ERR_OK;
        }
    if (keys->n_names == HTTP_TENANTS) return fail(origin, "there are at most 64 names of tenants");
    char *copy = malloc(length + 1);
    if (!copy) return err_set(origin->info, ERR_MEMORY, "no memory for the API keys");
    memcpy(copy, name, length);
    copy[length] = '\0';
    *out = keys->n_names;
    keys->names[keys->n_names++] = copy;
    return ERR_OK;
}

static enum err key_add(struct http_keys *keys, const struct origin *origin, const char *key, size_t length,
                        int name)
{
    struct entry entry = {.tenant.number = name};
    for (size_t i = 0; i < length; i++)
        if (key[i] < ' ' || key[i] > '~') return fail(origin, "a key is made of printable ASCII characters");
    tls_sha256(key, length, entry.digest);
    for (int i = 0; i < keys->n; i++)
        if (memcmp(keys->entries[i].digest, entry.digest, sizeof entry.digest) == 0)
            return fail(origin, "the key has been given before");
    if (keys->n == MOST_KEYS) return fail(origin, "there are at most 4096 keys");
    if (keys->n == keys->room) {
        int room = keys->room > 0 ? 2 * keys->room : 16;
        struct entry *larger = realloc(keys->entries, (size_t)room * sizeof *larger);
        if (!larger) return err_set(origin->info, ERR_MEMORY, "no memory for the API keys");
        keys->entries = larger;
        keys->room = room;
    }
    entry.tenant.id = identity(entry.digest);
    if (name >= 0) {
        unsigned char digest[TLS_SHA256_BYTES];
        entry.tenant.name = keys->names[name];
        tls_sha256(entry.tenant.name, strlen(entry.tenant.name), digest);
        entry.tenant.id = identity(digest);
    }
    keys->entries[keys->n++] = entry;
    return ERR_OK;
}

/* "key [name]" */
static enum err line_read(struct http_keys *keys, const struct origin *origin, const char *line)
{
    static const char space[] = " \t\r";
    line += strspn(line, space);
    size_t n_key = strcspn(line, space);
    if (n_key == 0 || line[0] == '#') return ERR_OK;
    const char *name = line + n_key + strspn(line + n_key, space);
    size_t n_name = strcspn(name, space);
    if (name[n_name + strspn(name + n_name, space)] != '\0')
        return fail(origin, "a line has a key and at most a tenant's name");
    int number = -1;
    enum err err = n_name > 0 ? name_add(keys, origin, name, n_name, &number) : ERR_OK;
    return err == ERR_OK ? key_add(keys, origin, line, n_key, number) : err;
}

static enum err file_read(struct http_keys *keys, const char *path, struct err_info *info)
{
    struct origin origin = {.path = path, .info = info};
    char *text = NULL;
    size_t length;
    enum err err = runtime_text_read("api-key-file", path, MOST_BYTES, &text, &length, info);
    if (err != ERR_OK) return err;
    char *line = text;
    for (char *end; err == ERR_OK && line < text + length; line = end + 1) {
        end = memchr(line, '\n', (size_t)(text + length - line));
        if (!end) end = text + length;
        *end = '\0';
        origin.line++;
        err = strlen(line) == (size_t)(end - line) ? line_read(keys, &origin, line)
                                                   : fail(&origin, "a key has no zero byte");
    }
    if (err == ERR_OK && keys->n == 0)
        err = err_set_param(info, ERR_FORMAT, "api-key-file", "--api-key-file: %s has no key", path);
    tls_wipe(text, length);
    free(text);
    return err;
}

enum err http_keys_create(const char *key, const char *path, struct http_keys **out, struct err_info *info)
{
    struct origin option = {.info = info};
    *out = NULL;
    if (key && !key[0]) key = NULL;
    if (!key && !path) return ERR_OK;
    struct http_keys *keys = calloc(1, sizeof *keys);
    if (!keys) return err_set(info, ERR_MEMORY, "no memory for the API keys");
    enum err err = path ? file_read(keys, path, info) : ERR_OK;
    if (err == ERR_OK && key) err = key_add(keys, &option, key, strlen(key), -1);
    if (err == ERR_OK)
        *out = keys;
    else
        http_keys_free(keys);
    return err;
}

void http_keys_free(struct http_keys *keys)
{
    if (!keys) return;
    for (int i = 0; i < keys->n_names; i++) free(keys->names[i]);
    free(keys->entries);
    free(keys);
}

const struct http_tenant *http_keys_find(const struct http_keys *keys, const char *given)
{
    unsigned char digest[TLS_SHA256_BYTES];
    int found = -1;
    if (!given) return NULL;
    tls_sha256(given, strlen(given), digest);
    for (int i = 0; i < keys->n; i++) /* always all of them */
        found = tls_equal(keys->entries[i].digest, digest, sizeof digest) ? i : found;
    return found >= 0 ? &keys->entries[found].tenant : NULL;
}

int http_keys_tenants(const struct http_keys *keys)
{
    int n = keys ? keys->n_names : 0;
    for (int i = 0; keys && i < keys->n; i++) n += keys->entries[i].tenant.number < 0;
    return n;
}

const char *const *http_keys_names(const struct http_keys *keys, int *n)
{
    *n = keys ? keys->n_names : 0;
    return keys ? (const char *const *)keys->names : NULL;
}
