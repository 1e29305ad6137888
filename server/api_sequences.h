#ifndef SERVER_API_SEQUENCES_H
#define SERVER_API_SEQUENCES_H

struct http_call;

/*
 * The sequences that are alive, from the engine's last snapshot; never their text. Handlers; context is a
 * struct api.
 *
 *   GET /v1/octavo/sequences   those that run, then those that wait
 *   GET /slots                 llama-server's shape: places in the batch; ?fail_on_no_slot=1: 503 when all
 * are taken
 */
void api_sequences(struct http_call *call, void *context);
void api_sequences_slots(struct http_call *call, void *context);

#endif
