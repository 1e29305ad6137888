#ifndef SUPPORT_HTTP_CLIENT_H
#define SUPPORT_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

/* A raw client on 127.0.0.1 for tests of the server: it sends exactly what it is told. */

int http_client_open(int port);
/* A receive buffer of this many bytes, so that a slow reader is soon felt. */
int http_client_open_small(int port, int receive_bytes);
void http_client_send(int fd, const char *text);

struct http_client_reply {
    int status; /* 0: the connection ended before a reply */
    char head[4096];
    char *body; /* malloc'ed, NUL-terminated, chunks joined */
    size_t length;
    bool complete; /* the body ended as announced */
};
/* Reads one reply; waits up to 20 s for its bytes. expect_body false: after HEAD. */
void http_client_read(int fd, bool expect_body, struct http_client_reply *out);
void http_client_free(struct http_client_reply *reply);
/* A header's value in the reply (static storage), or NULL. */
const char *http_client_header(const struct http_client_reply *reply, const char *name);
/* True when the peer closes without sending anything more. */
bool http_client_closed(int fd);

#endif
