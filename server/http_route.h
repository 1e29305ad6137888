#ifndef SERVER_HTTP_ROUTE_H
#define SERVER_HTTP_ROUTE_H

#include "server/http.h"

/* The route that answers method at path (a GET route answers HEAD too); NULL when there is none. */
const struct http_route *http_route_find(const struct http_route *routes, int n_routes, const char *method,
                                         const char *path);

/* What path can take, for an Allow header: "GET, HEAD, OPTIONS". Empty when nothing is at this path. */
void http_route_allowed(const struct http_route *routes, int n_routes, const char *path, char *out,
                        size_t size);

/* The shape of the errors of whatever is at path. */
enum api_error_shape http_route_errors(const struct http_route *routes, int n_routes, const char *path);

/* The bearer token of an Authorization header's value (may be NULL); NULL: it has none. */
const char *http_route_bearer(const char *authorization);

#endif
