#include "server/http_cors.h"

#include <stddef.h>
#include <string.h>

const char *http_cors_allow(const char *origins, const char *origin)
{
    static const char separators[] = ", ";
    if (strcmp(origins, "*") == 0) return "*";
    if (!origin) return NULL;
    for (const char *at = origins + strspn(origins, separators); *at != '\0';) {
        size_t length = strcspn(at, separators);
        if (strlen(origin) == length && memcmp(at, origin, length) == 0) return origin;
        at += length;
        at += strspn(at, separators);
    }
    return NULL;
}
