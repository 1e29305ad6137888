#ifndef SERVER_HTTP_CORS_H
#define SERVER_HTTP_CORS_H

/*
 * Which web pages may read replies: --cors-origins, a list of origins ("https://a.example") with commas
 * between; "*" alone is every page, an empty list none.
 */

/* The value of Access-Control-Allow-Origin: "*", the origin itself, or NULL: none. origin may be NULL. */
const char *http_cors_allow(const char *origins, const char *origin);

#endif
