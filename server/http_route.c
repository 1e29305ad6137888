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

enum api_error_shape http_route_errors(const struct http_route *routes, int n_routes, const char *path)
{
    for (int i = 0; i < n_routes; i++)
        if (has_path(&routes[i], path)) return routes[i].errors;
    return API_ERROR_OPENAI;
}

const char *http_route_bearer(const char *authorization)
{
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0) return NULL;
    return authorization + 7 + strspn(authorization + 7, " ");
}
