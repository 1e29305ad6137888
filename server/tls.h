#ifndef SERVER_TLS_H
#define SERVER_TLS_H

#include "config/err.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * The certificate that HTTPS shows, and the two things that keys need; the only door to GnuTLS, which
 * libmicrohttpd speaks TLS with.
 */
struct tls {
    char *certificate, *key; /* PEM; NULL: plain HTTP */
};

/* Reads and checks both files: a certificate (or a chain, the server's own first) and its private key,
   without password. Both NULL: plain HTTP. One alone: ERR_USAGE. ERR_IO, ERR_FORMAT name the option, the file
   and what is wrong. An expired certificate is only warned of. */
enum err tls_load(const char *certificate_path, const char *key_path, struct tls *out, struct err_info *info);
/* Of a zeroed one too. Overwrites the key. */
void tls_free(struct tls *tls);

/* What TLS versions and ciphers are spoken, in GnuTLS' notation. */
extern const char tls_priorities[];

enum { TLS_SHA256_BYTES = 32 };
void tls_sha256(const void *bytes, size_t length, unsigned char digest[TLS_SHA256_BYTES]);
/* Overwrites what must not stay in memory. */
void tls_wipe(void *bytes, size_t length);
/* Its time does not depend on where they differ. */
bool tls_equal(const unsigned char *a, const unsigned char *b, size_t length);

#endif
