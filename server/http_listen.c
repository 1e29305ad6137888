#include "server/http_listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

static int listen_at(const struct addrinfo *address, int *fault)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        *fault = errno;
        return -1;
    }
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) return fd;
    *fault = errno;
    close(fd);
    return -1;
}

static int bound_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    if (getsockname(fd, (struct sockaddr *)&address, &length) != 0) return 0;
    if (address.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

enum err http_listen(const char *host, int *port, int *fd, struct err_info *info)
{
    char service[16];
    snprintf(service, sizeof(service), "%d", *port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *addresses = NULL;
    int fault = getaddrinfo(host, service, &hints, &addresses);
    if (fault != 0) {
        const char *why = fault == EAI_SYSTEM ? strerror(errno) : gai_strerror(fault);
        return err_set_param(info, ERR_IO, "host", "cannot listen on %s port %d: %s", host, *port, why);
    }
    int found = -1, refusal = 0;
    for (const struct addrinfo *a = addresses; a && found < 0; a = a->ai_next) found = listen_at(a, &refusal);
    freeaddrinfo(addresses);
    if (found < 0)
        return err_set_param(info, ERR_IO, "port", "cannot listen on %s port %d: %s", host, *port,
                             strerror(refusal));
    *port = bound_port(found);
    *fd = found;
    return ERR_OK;
}
