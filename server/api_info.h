#ifndef SERVER_API_INFO_H
#define SERVER_API_INFO_H

struct http_call;

/*
 * What a server tells of itself. Handlers; context is a struct api.
 *
 *   GET /props            as llama-server: context, places in the batch, defaults, templates, special tokens;
 *                         and the formats of the cache with what fits in each
 *   GET /tokenizer_info   as vLLM: the fields of tokenizer_config.json that a client needs
 *   POST /v1/embeddings   400: no model that octavo serves has them
 */
void api_info_props(struct http_call *call, void *context);
void api_info_tokenizer(struct http_call *call, void *context);
void api_info_embeddings(struct http_call *call, void *context);

#endif
