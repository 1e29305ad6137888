#ifndef SERVER_API_TOKENS_H
#define SERVER_API_TOKENS_H

struct http_call;

/*
 * POST /tokenize and /detokenize in llama-server's and vLLM's shapes. Handlers; context is a struct api.
 *
 *   {"content", "add_special": false, "parse_special": true, "with_pieces": false} -> {"tokens"}
 *   {"prompt", "add_special_tokens": true}          -> {"tokens", "count", "max_model_len"}
 *   {"messages", as for a chat}                     -> the same
 *   {"tokens"}                                      -> {"content", "prompt"}, the same text twice
 */
void api_tokenize(struct http_call *call, void *context);
void api_detokenize(struct http_call *call, void *context);

#endif
