#ifndef SERVER_HTTP_LISTEN_H
#define SERVER_HTTP_LISTEN_H

#include "config/err.h"

/* A listening TCP socket on host (name or address; "::" also takes IPv4) and port (0: any free one, and *port
   is what it became). ERR_IO names the address and the cause. The caller closes *fd. */
enum err http_listen(const char *host, int *port, int *fd, struct err_info *info);

#endif
