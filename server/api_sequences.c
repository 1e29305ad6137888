#include "server/api_sequences.h"

#include "config/buf.h"
#include "config/clock.h"
#include "server/api.h"
#include "server/engine.h"

#include <stdlib.h>

static const char *const phase_names[] = {
    [ENGINE_WAITING] = "waiting", [ENGINE_PREFILL] = "prefill", [ENGINE_DECODE] = "decode"};

/* False: the reply is out. */
static bool get_view(const struct api *api, struct http_call *call, struct engine_view *out)
{
    struct err_info info;
    if (!api_ready(api, call)) return false;
    if (engine_sequences(api->engine, out, &info) == ERR_OK) return true;
    api_fail(call, &info, 0);
    return false;
}

static void print_sequence(struct buf *out, const struct api *api, const struct engine_sequence *sequence,
                           int64_t now)
{
    buf_printf(out, "{\"id\":\"%s\",\"index\":%d,\"state\":\"%s\",\"slot\":", sequence->id, sequence->index,
               phase_names[sequence->phase]);
    if (sequence->slot >= 0)
        buf_printf(out, "%d", sequence->slot);
    else
        buf_text(out, "null");
    buf_printf(out,
               ",\"tokens\":%d,\"prompt_tokens\":%d,\"generated_tokens\":%d,\"max_tokens\":%d,"
               "\"cached_tokens\":%d,\"kv_tokens\":%d,\"kv_format\":\"%s\",\"kv_bytes\":%zu,"
               "\"priority\":%d,\"preemptions\":%d,\"age_s\":%.3f}",
               sequence->n_prompt + sequence->n_output, sequence->n_prompt, sequence->n_output,
               sequence->max_tokens, sequence->n_hit, sequence->n_cached,
               kv_formats_at(api->formats, sequence->kv_format)->name, sequence->kv_bytes, sequence->priority,
               sequence->n_preempted, (double)(now - sequence->arrived_us) * 1e-6);
}

void api_sequences(struct http_call *call, void *context)
{
    const struct api *api = context;
    struct engine_view view;
    if (!get_view(api, call, &view)) return;
    int64_t now = clock_us();
    struct buf out;
    buf_init(&out, SIZE_MAX);
    buf_text(&out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < view.n; i++) {
        if (i > 0) buf_text(&out, ",");
        print_sequence(&out, api, &view.sequences[i], now);
    }
    buf_printf(&out, "],\"parallel\":%d,\"not_listed\":%d}", api->parallel, view.n_more);
    free(view.sequences);
    api_reply(call, &out);
}

/* ---- /slots ---- */

static void print_slot(struct buf *out, const struct api *api, int slot,
                       const struct engine_sequence *sequence)
{
    buf_printf(out, "{\"id\":%d,\"n_ctx\":%d,\"speculative\":false,\"is_processing\":%s", slot, api->ctx_size,
               sequence ? "true" : "false");
    if (sequence)
        buf_printf(out,
                   ",\"id_task\":\"%s\",\"n_prompt_tokens\":%d,\"n_prompt_tokens_processed\":%d,"
                   "\"n_prompt_tokens_cache\":%d,\"params\":{\"n_predict\":%d,\"kv_format\":\"%s\"},"
                   "\"next_token\":[{\"has_next_token\":true,\"n_remain\":%d,\"n_decoded\":%d}]",
                   sequence->id, sequence->n_prompt,
                   sequence->n_cached < sequence->n_prompt ? sequence->n_cached : sequence->n_prompt,
                   sequence->n_hit, sequence->max_tokens,
                   kv_formats_at(api->formats, sequence->kv_format)->name,
                   sequence->max_tokens - sequence->n_output, sequence->n_output);
    buf_text(out, "}");
}

void api_sequences_slots(struct http_call *call, void *context)
{
    const struct api *api = context;
    struct engine_view view;
    if (!get_view(api, call, &view)) return;
    const struct engine_sequence **slots = calloc((size_t)api->parallel, sizeof *slots);
    int n_busy = 0;
    for (int i = 0; i < view.n && slots; i++) {
        const struct engine_sequence *sequence = &view.sequences[i];
        if (sequence->slot < 0) continue;
        slots[sequence->slot] = sequence;
        n_busy++;
    }
    const char *fail = http_call_query(call, "fail_on_no_slot");
    if (fail && fail[0] && n_busy >= api->parallel) {
        http_reply_header(call, "Retry-After", "1");
        http_fail(call, 503, NULL, "no_slot", "all %d places in the batch are taken", api->parallel);
    } else {
        struct buf out;
        buf_init(&out, slots ? SIZE_MAX : 0);
        buf_text(&out, "[");
        for (int i = 0; i < api->parallel && slots; i++) {
            if (i > 0) buf_text(&out, ",");
            print_slot(&out, api, i, slots[i]);
        }
        buf_text(&out, "]");
        api_reply(call, &out);
    }
    free(slots);
    free(view.sequences);
}
