#include "server/tls.h"

#include "config/log.h"
#include "server/runtime.h"

#include <assert.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_BYTES = 1 << 20, MOST_CERTIFICATES = 16 };

const char tls_priorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

static gnutls_datum_t datum(const char *text)
{
    return (gnutls_datum_t){.data = (unsigned char *)(size_t)text, .size = (unsigned)strlen(text)};
}

static enum err check_certificate(const char *path, const char *text, struct err_info *info)
{
    gnutls_x509_crt_t list[MOST_CERTIFICATES];
    unsigned n = MOST_CERTIFICATES;
    gnutls_datum_t data = datum(text);
    int fault = gnutls_x509_crt_list_import(list, &n, &data, GNUTLS_X509_FMT_PEM, 0);
    if (fault < 0)
        return err_set_param(info, ERR_FORMAT, "tls-cert", "--tls-cert: %s: no certificate in PEM form: %s",
                             path, gnutls_strerror(fault));
    if (gnutls_x509_crt_get_expiration_time(list[0]) < time(NULL))
        log_warn("tls", "the certificate in %s has expired", path);
    for (unsigned i = 0; i < n; i++) gnutls_x509_crt_deinit(list[i]);
    return ERR_OK;
}

static enum err check_key(const char *path, const char *text, struct err_info *info)
{
    gnutls_x509_privkey_t key;
    gnutls_datum_t data = datum(text);
    int fault = gnutls_x509_privkey_init(&key);
    if (fault < 0) return err_set(info, ERR_MEMORY, "tls: %s", gnutls_strerror(fault));
    fault = gnutls_x509_privkey_import2(key, &data, GNUTLS_X509_FMT_PEM, NULL, 0);
    gnutls_x509_privkey_deinit(key);
    if (fault >= 0) return ERR_OK;
    return err_set_param(info, ERR_FORMAT, "tls-key", "--tls-key: %s: no private key in PEM form%s: %s", path,
                         strstr(text, "ENCRYPTED") ? " that needs no password" : "", gnutls_strerror(fault));
}

static enum err check_pair(const char *certificate_path, const char *key_path, const struct tls *tls,
                           struct err_info *info)
{
    gnutls_certificate_credentials_t credentials;
    gnutls_datum_t certificate = datum(tls->certificate), key = datum(tls->key);
    int fault = gnutls_certificate_allocate_credentials(&credentials);
    if (fault < 0) return err_set(info, ERR_MEMORY, "tls: %s", gnutls_strerror(fault));
    fault = gnutls_certificate_set_x509_key_mem(credentials, &certificate, &key, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(credentials);
    if (fault >= 0) return ERR_OK;
    return err_set_param(info, ERR_FORMAT, "tls-key", "--tls-key: %s is not the key of --tls-cert %s: %s",
                         key_path, certificate_path, gnutls_strerror(fault));
}

enum err tls_load(const char *certificate_path, const char *key_path, struct tls *out, struct err_info *info)
{
    struct tls tls = {0};
    size_t length;
    *out = tls;
    if (!certificate_path && !key_path) return ERR_OK;
    if (!certificate_path || !key_path)
        return err_set_param(info, ERR_USAGE, certificate_path ? "tls-key" : "tls-cert",
                             "--tls-cert and --tls-key belong together: --%s is missing",
                             certificate_path ? "tls-key" : "tls-cert");
    enum err err =
        runtime_text_read("tls-cert", certificate_path, MOST_BYTES, &tls.certificate, &length, info);
    if (err == ERR_OK) err = runtime_text_read("tls-key", key_path, MOST_BYTES, &tls.key, &length, info);
    if (err == ERR_OK) err = check_certificate(certificate_path, tls.certificate, info);
    if (err == ERR_OK) err = check_key(key_path, tls.key, info);
    if (err == ERR_OK) err = check_pair(certificate_path, key_path, &tls, info);
    if (err == ERR_OK)
        *out = tls;
    else
        tls_free(&tls);
    return err;
}

void tls_free(struct tls *tls)
{
    if (tls->key) tls_wipe(tls->key, strlen(tls->key));
    free(tls->certificate);
    free(tls->key);
    *tls = (struct tls){0};
}

void tls_sha256(const void *bytes, size_t length, unsigned char digest[TLS_SHA256_BYTES])
{
    int fault = gnutls_hash_fast(GNUTLS_DIG_SHA256, bytes, length, digest);
    assert(fault == 0); /* SHA-256 is always there */
    (void)fault;
}

void tls_wipe(void *bytes, size_t length)
{
    gnutls_memset(bytes, 0, length);
}

bool tls_equal(const unsigned char *a, const unsigned char *b, size_t length)
{
    return gnutls_memcmp(a, b, length) == 0;
}
