#include "tests/unit/support/http_client.h"

#include <arpa/inet.h>
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WAIT_MS = 120000, BODY_MAX = 64 << 20 };

int http_client_open_small(int port, int receive_bytes)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert(fd >= 0);
    if (receive_bytes > 0) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int rc = connect(fd, (struct sockaddr *)&address, sizeof(address));
    assert(rc == 0);
    (void)rc;
    return fd;
}

int http_client_open(int port)
{
    return http_client_open_small(port, 0);
}

void http_client_send(int fd, const char *text)
{
    for (size_t left = strlen(text); left > 0;) {
        ssize_t n = send(fd, text, left, MSG_NOSIGNAL);
        if (n <= 0) return; /* the server may have closed: the test reads what it said */
        text += n;
        left -= (size_t)n;
    }
}

/* One byte; -1 at the end or when nothing comes. */
static int read_byte(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    unsigned char byte;
    if (poll(&ready, 1, WAIT_MS) != 1 || recv(fd, &byte, 1, 0) != 1) return -1;
    return byte;
}

static bool read_line(int fd, char *line, size_t size)
{
    size_t n = 0;
    for (int byte; (byte = read_byte(fd)) >= 0;) {
        if (n + 1 < size) line[n++] = (char)byte;
        line[n] = '\0';
        if (byte == '\n') return true;
    }
    return false;
}

static bool read_bytes(int fd, struct http_client_reply *out, size_t n)
{
    out->body = realloc(out->body, out->length + n + 1);
    for (size_t i = 0; i < n; i++) {
        int byte = read_byte(fd);
        if (byte < 0) return false;
        out->body[out->length++] = (char)byte;
        out->body[out->length] = '\0';
    }
    return true;
}

static bool read_chunks(int fd, struct http_client_reply *out)
{
    char line[64];
    while (read_line(fd, line, sizeof(line))) {
        size_t n = strtoul(line, NULL, 16);
        if (n > BODY_MAX || !read_bytes(fd, out, n) || !read_line(fd, line, sizeof(line))) return false;
        if (n == 0) return true;
    }
    return false;
}

void http_client_read(int fd, bool expect_body, struct http_client_reply *out)
{
    *out = (struct http_client_reply){.body = calloc(1, 1)};
    char line[1024];
    size_t n = 0;
    while (read_line(fd, line, sizeof(line)) && strcmp(line, "\r\n") != 0) {
        if (n + strlen(line) >= sizeof(out->head)) return;
        memcpy(out->head + n, line, strlen(line) + 1);
        n += strlen(line);
    }
    if (sscanf(out->head, "HTTP/1.%*d %d", &out->status) != 1) return;
    const char *length = http_client_header(out, "Content-Length");
    const char *coding = http_client_header(out, "Transfer-Encoding");
    if (!expect_body || out->status == 204 || out->status == 100)
        out->complete = true;
    else if (coding)
        out->complete = read_chunks(fd, out);
    else if (length)
        out->complete = read_bytes(fd, out, strtoul(length, NULL, 10));
    else
        while (read_bytes(fd, out, 1)) {
        }
}

void http_client_free(struct http_client_reply *reply)
{
    free(reply->body);
    reply->body = NULL;
}

const char *http_client_header(const struct http_client_reply *reply, const char *name)
{
    static char value[512];
    size_t length = strlen(name);
    for (const char *line = reply->head; line && *line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncasecmp(line, name, length) != 0 || line[length] != ':') continue;
        const char *from = line + length + 1 + strspn(line + length + 1, " ");
        snprintf(value, sizeof(value), "%.*s", (int)strcspn(from, "\r\n"), from);
        return value;
    }
    return NULL;
}

bool http_client_closed(int fd)
{
    return read_byte(fd) < 0;
}
