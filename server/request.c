#include "server/request.h"

#include <assert.h>

void request_retain(struct request *request)
{
    int before = atomic_fetch_add_explicit(&request->references, 1, memory_order_relaxed);
    assert(before > 0);
    (void)before;
}

void request_release(struct request *request)
{
    int before = atomic_fetch_sub_explicit(&request->references, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before > 1) return;
    if (request->http_release != NULL) request->http_release(request);
    grammar_release(request->grammar);
    arena_free(request->arena); /* the request itself stands in it */
}
