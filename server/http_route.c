#include "server/http_route.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool has_path(const struct http_route *route, const char *path)
{
    size_t length = strlen(route->path);
    if (!route->prefix) return strcmp(path, route->path) == 0;
    return strncmp(path, route->path, length) == 0 && path[length] != '\0';
}

const struct http_route *http_route_find(const struct http_route *routes, int n_routes, const char *method,
                                         const char *path)
{
    if (strcmp(method, "HEAD") == 0) method = "GET";
    for (int i = 0; i < n_routes; i++)
        if (strcmp(routes[i].method, method) == 0 && has_path(&routes[i], path)) return &routes[i];
    return NULL;
}

void http_route_allowed(const struct http_route *routes, int n_routes, const char *path, char *out,
                        size_t size)
{
    size_t n = 0;
    out[0] = '\0';
    for (int i = 0; i < n_routes; i++) {
        if (!has_path(&routes[i], path)) continue;
        bool get = strcmp(routes[i].method, "GET") == 0;
        n += (size_t)snprintf(out + n, size - n, "%s, %s", routes[i].method, get ? "HEAD, " : "");
        assert(n < size);
    }
    if (n > 0) snprintf(out + n, size - n, "OPTIONS");
}

bool http_route_authorized(const char *authorization, const char *key)
{
    size_t n_key = strlen(key);
    assert(n_key > 0);
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0) return false;
    const char *given = authorization + 7 + strspn(authorization + 7, " ");
    size_t n_given = strlen(given);
    unsigned char difference = n_given != n_key;
    for (size_t i = 0; i < n_given; i++) difference |= (unsigned char)(given[i] ^ key[i % n_key]);
    return difference == 0;
}
