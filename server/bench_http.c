#include "server/bench_http.h"

#include "config/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* --- URLs --- */

/* "[::1]:8080" or "host:8080" or "host" into its parts. */
static bool host_split(const char *text, size_t length, char *name, size_t size, char port[8])
{
    const char *end = text + length, *name_end = end, *colon = NULL;
    if (length > 0 && text[0] == '[') {
        name_end = memchr(text, ']', length);
        if (!name_end) return false;
        text++;
        if (name_end + 1 < end) colon = name_end + 1;
        if (colon && *colon != ':') return false;
    } else {
        colon = memchr(text, ':', length);
        if (colon) name_end = colon;
    }
    size_t n = (size_t)(name_end - text), n_port = colon ? (size_t)(end - colon) - 1 : 0;
    if (n == 0 || n >= size || n_port > 5 || (colon && n_port == 0)) return false;
    memcpy(name, text, n);
    name[n] = '\0';
    if (colon)
        memcpy(port, colon + 1, n_port);
    else
        memcpy(port, "80", n_port = 2);
    port[n_port] = '\0';
    return strspn(port, "0123456789") == n_port;
}

enum err bench_url_parse(const char *text, struct bench_url *out, struct err_info *info)
{
    struct bench_url url;
    char name[256], port[8];
    memset(&url, 0, sizeof url);
    const char *rest = text;
    if (strncasecmp(rest, "http://", 7) == 0)
        rest += 7;
    else if (strstr(rest, "://"))
        return err_set_param(info, ERR_USAGE, "url", "--url: '%s': only http:// is supported", text);
    size_t length = strcspn(rest, "/?#"), prefix = strlen(rest + length);
    while (prefix > 0 && rest[length + prefix - 1] == '/') prefix--;
    if (!host_split(rest, length, name, sizeof name, port) || length >= sizeof url.host ||
        prefix >= sizeof url.prefix || strpbrk(rest, "?# "))
        return err_set_param(info, ERR_USAGE, "url", "--url: '%s' is not like http://127.0.0.1:8080", text);
    memcpy(url.host, rest, length);
    memcpy(url.prefix, rest + length, prefix);

    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    int failure = getaddrinfo(name, port, &hints, &found);
    if (failure) return err_set_param(info, ERR_USAGE, "url", "--url: '%s': %s", name, gai_strerror(failure));
    memcpy(&url.address, found->ai_addr, found->ai_addrlen);
    url.address_bytes = found->ai_addrlen;
    freeaddrinfo(found);
    *out = url;
    return ERR_OK;
}

int bench_url_connect(const struct bench_url *url)
{
    int fd = socket(url->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (const struct sockaddr *)&url->address, url->address_bytes) != 0 &&
        errno != EINPROGRESS) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

void bench_request_write(struct buf *out, const struct bench_url *url, const char *path, const char *api_key,
                         const char *body, size_t length)
{
    buf_printf(out, "%s %s%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", body ? "POST" : "GET",
               url->prefix, path, url->host);
    if (api_key) buf_printf(out, "Authorization: Bearer %s\r\n", api_key);
    if (body) buf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", length);
    buf_text(out, "\r\n");
    if (body) buf_append(out, body, length);
}

/* --- replies --- */

void bench_reply_init(struct bench_reply *reply,
                      void (*body)(void *context, const char *bytes, size_t length), void *context)
{
    memset(reply, 0, sizeof *reply);
    reply->body = body;
    reply->context = context;
}

static bool reply_fault(struct bench_reply *reply, const char *fault)
{
    reply->fault = fault;
    return false;
}

/* The value of the header line when it has this name, else NULL. */
static const char *header_value(const char *line, const char *name)
{
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) != 0 || line[length] != ':') return NULL;
    line += length + 1;
    return line + strspn(line, " \t");
}

static bool status_line(struct bench_reply *reply)
{
    if (strncmp(reply->line, "HTTP/1.", 7) != 0 || strlen(reply->line) < 12 || reply->line[8] != ' ')
        return reply_fault(reply, "the reply is not HTTP/1.1");
    reply->status = atoi(reply->line + 9);
    if (reply->status < 100 || reply->status > 599) return reply_fault(reply, "the status code is not one");
    reply->at = REPLY_HEADER;
    return true;
}

static bool header_line(struct bench_reply *reply)
{
    const char *value;
    if (reply->line_length > 0) {
        if ((value = header_value(reply->line, "Content-Length"))) {
            reply->has_length = true;
            reply->remaining = strtoull(value, NULL, 10);
        } else if ((value = header_value(reply->line, "Transfer-Encoding"))) {
            reply->chunked = strcasecmp(value, "chunked") == 0;
        }
        return true;
    }
    if (reply->status < 200) { /* 100 Continue: the real one follows */
        reply->at = REPLY_STATUS;
        return true;
    }
    reply->at = reply->chunked ? REPLY_CHUNK_SIZE : REPLY_BODY;
    if (!reply->chunked && reply->has_length && reply->remaining == 0) reply->done = true;
    return true;
}

static bool chunk_line(struct bench_reply *reply)
{
    char *end;
    reply->remaining = strtoull(reply->line, &end, 16);
    if (end == reply->line) return reply_fault(reply, "a chunk has no size");
    reply->at = reply->remaining > 0 ? REPLY_BODY : REPLY_TRAILER;
    return true;
}

static bool reply_line(struct bench_reply *reply)
{
    switch (reply->at) {
    case REPLY_STATUS:
        return status_line(reply);
    case REPLY_HEADER:
        return header_line(reply);
    case REPLY_CHUNK_SIZE:
        return chunk_line(reply);
    case REPLY_CHUNK_END:
        if (reply->line_length > 0) return reply_fault(reply, "a chunk is longer than its size");
        reply->at = REPLY_CHUNK_SIZE;
        return true;
    case REPLY_TRAILER:
        reply->done = reply->line_length == 0;
        return true;
    case REPLY_BODY:
        break;
    }
    return true;
}

/* Body bytes at the front of bytes; returns how many. */
static size_t reply_body(struct bench_reply *reply, const char *bytes, size_t length)
{
    bool counted = reply->chunked || reply->has_length;
    size_t n = counted && reply->remaining < length ? (size_t)reply->remaining : length;
    reply->body(reply->context, bytes, n);
    if (!counted) return n;
    reply->remaining -= n;
    if (reply->remaining == 0) {
        if (reply->chunked)
            reply->at = REPLY_CHUNK_END;
        else
            reply->done = true;
    }
    return n;
}

bool bench_reply_feed(struct bench_reply *reply, const char *bytes, size_t length)
{
    while (length > 0 && !reply->done) {
        size_t n = 1;
        if (reply->at == REPLY_BODY) {
            n = reply_body(reply, bytes, length);
        } else if (*bytes == '\n') {
            if (reply->line_length > 0 && reply->line[reply->line_length - 1] == '\r') reply->line_length--;
            reply->line[reply->line_length] = '\0';
            if (!reply_line(reply)) return false;
            reply->line_length = 0;
        } else if (reply->line_length + 1 < sizeof reply->line) {
            reply->line[reply->line_length++] = *bytes;
        }
        bytes += n;
        length -= n;
    }
    return true;
}

bool bench_reply_close(struct bench_reply *reply)
{
    if (reply->at == REPLY_BODY && !reply->chunked && !reply->has_length) reply->done = true;
    return reply->done || reply_fault(reply, "the connection closed before the reply was complete");
}

/* --- GET --- */

static void body_append(void *context, const char *bytes, size_t length)
{
    buf_append(context, bytes, length);
}

/* Sends what is in *request, then reads until the reply is done. */
static enum err exchange(int fd, struct buf *request, struct bench_reply *reply, int64_t deadline_us,
                         struct err_info *info)
{
    char piece[16384];
    while (!reply->done) {
        int64_t left_ms = (deadline_us - clock_us()) / 1000;
        struct pollfd poller = {.fd = fd, .events = request->length > 0 ? POLLOUT : POLLIN};
        if (left_ms <= 0 || poll(&poller, 1, (int)left_ms) == 0) return err_set(info, ERR_IO, "timed out");
        ssize_t n = request->length > 0 ? send(fd, request->data, request->length, MSG_NOSIGNAL)
                                        : recv(fd, piece, sizeof piece, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) return err_set(info, ERR_IO, "%s", strerror(errno));
        bool well = true;
        if (request->length > 0)
            buf_consume(request, (size_t)n);
        else
            well = n > 0 ? bench_reply_feed(reply, piece, (size_t)n) : bench_reply_close(reply);
        if (!well) return err_set(info, ERR_IO, "%s", reply->fault);
    }
    return ERR_OK;
}

enum err bench_get(const struct bench_url *url, const char *path, const char *api_key, int timeout_ms,
                   int *status, struct buf *body, struct err_info *info)
{
    int fd = bench_url_connect(url);
    if (fd < 0)
        return err_set(info, ERR_IO, "http://%s%s%s: %s", url->host, url->prefix, path, strerror(errno));
    struct buf request;
    struct bench_reply reply;
    struct err_info why;
    buf_init(&request, 1 << 16);
    bench_request_write(&request, url, path, api_key, NULL, 0);
    bench_reply_init(&reply, body_append, body);
    enum err err = exchange(fd, &request, &reply, clock_us() + (int64_t)timeout_ms * 1000, &why);
    if (err)
        err_set(info, err, "http://%s%s%s: %s", url->host, url->prefix, path, why.message);
    else
        *status = reply.status;
    buf_free(&request);
    close(fd);
    return err;
}
