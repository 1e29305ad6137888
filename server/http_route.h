#ifndef SERVER_HTTP_ROUTE_H
#define SERVER_HTTP_ROUTE_H

#include "server/http.h"

/* The route that answers method at path (a GET route answers HEAD too); NULL when there is none. */
const struct http_route *http_route_find(const struct http_route *routes, int n_routes, const char *method,
                                         const char *path);

/* What path can take, for an Allow header: "GET, HEAD, OPTIONS". Empty when nothing is at this path. */
void http_route_allowed(const struct http_route *routes, int n_routes, const char *path, char *out,
                        size_t size);

/* Whether an Authorization header's value (may be NULL) carries the key as a bearer token. Its time does not
   tell how much of the key was right. */
bool http_route_authorized(const char *authorization, const char *key);

#endif
