#ifndef SERVER_WEB_H
#define SERVER_WEB_H

struct http_call;

/*
 * The page at "/": a chat, and beside it the cache as it lives. Its files (server/web/) are in the binary,
 * ask for nothing but this server, and run under a policy that forbids anything else. The page needs no key;
 * what it asks for does. Handler; context is a struct api.
 */
void web_handle(struct http_call *call, void *context);

#endif
