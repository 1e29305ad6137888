#ifndef SERVER_OPENAPI_H
#define SERVER_OPENAPI_H

struct http_call;

/* GET /openapi.json: the API's description (OpenAPI 3.1), which is server/openapi.json in the binary. A
   handler; context is not used. */
void openapi_handle(struct http_call *call, void *context);

#endif
