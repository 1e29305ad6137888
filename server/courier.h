#ifndef SERVER_COURIER_H
#define SERVER_COURIER_H

#include "config/buf.h"
#include "config/err.h"
#include "model/tokenizer.h"
#include "server/api_stop.h"
#include "server/http.h"
#include "server/request.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * One thread between the engine and the clients: it takes the engine's news, turns tokens into text, finds
 * stop strings, and hands what is certain to the reply's format, which writes events or gathers the whole
 * body. The engine thread only ever hands over a list.
 */
struct courier;
struct engine;
struct courier_reply;

struct courier_choice {
    struct courier_reply *reply;
    struct choice *choice;
    int n_read;         /* records read; when finished, those that count */
    const char *finish; /* "stop" or "length" once it has ended, else NULL */

    struct detokenizer detokenizer;
    struct api_stop_scan scan;
    struct buf held;     /* text that is not certain yet */
    size_t n_passed;     /* bytes given to the format so far */
    int n_passed_tokens; /* records given to the format so far (with logprobs) */
    uint32_t *starts;    /* [max_tokens] where in the text each token starts, in bytes; NULL: not asked for */

    int n_processed; /* of the prompt, tokens that the client has been told of; 0: it was told nothing */
    bool begun;      /* a piece has been given to the format */
    bool cut;        /* a stop string ended it */

    /* The format's own. */
    size_t n_chars;      /* characters written so far */
    struct buf text;     /* whole replies: everything so far */
    struct buf lists[4]; /* logprobs: tokens, token_logprobs, top_logprobs, text_offset */
};

/* More text of one choice. */
struct courier_piece {
    struct courier_choice *choice;
    const char *text; /* complete characters */
    size_t length;
    size_t first_byte;          /* where in the choice's text this is */
    int first_token, end_token; /* with logprobs: the records whose text starts in it */
    bool first;
    bool last; /* choice->finish is set */
};

/* Why a reply cannot be finished. */
struct courier_fault {
    int status; /* as HTTP has it */
    const char *message, *param, *code;
};

struct courier_format {
    /* Streams: append the events for it to out. Whole replies: keep it; out is NULL. */
    void (*piece)(const struct courier_piece *piece, struct buf *out);
    /* Streams with return_progress, before the first piece: append an event that says how much of the prompt
       is read, first what the cache had. NULL: there is none. */
    void (*progress)(const struct courier_choice *choice, int n_processed, struct buf *out);
    /* All choices have finished: append the stream's last events, or the whole body. */
    void (*end)(struct courier_reply *reply, struct buf *out);
    /* A stream that has begun fails: append its last event. NULL: an event with OpenAI's error object. */
    void (*fail)(struct courier_reply *reply, const struct courier_fault *fault, struct buf *out);
    /* Whether a control token's text is shown in the reply's; NULL: never. */
    bool (*shows)(const struct courier_reply *reply, int32_t token);
    const char *stream_type; /* content types */
    const char *whole_type;
};

/* Lives in its request's arena; http_state of the request. */
struct courier_reply {
    struct request *request;
    struct http_call *call; /* retained until the request is freed */
    const struct courier_format *format;
    bool stream;
    const struct api_stop *stop;
    void *state; /* the format's own */
    struct courier_choice *choices;
    int n_open; /* choices that have not finished */
    bool begun; /* bytes of the stream have gone out */
    bool over;  /* the reply is complete or given up: what still comes is ignored */
};

enum err courier_create(const struct tokenizer *tokenizer, struct courier **out, struct err_info *info);
/* Handles the news it has and ends. After engine_free. NULL-safe. */
void courier_free(struct courier *courier);
/* Where cancellations go: set before the first request, and to NULL before engine_free; once this returns the
   engine that was set before is not called any more. */
void courier_set_engine(struct courier *courier, struct engine *engine);

/* For engine_options.deliver; context is the courier. */
void courier_deliver(void *context, struct request *first);

/* What a request's reply is to be; state and stop live in the request's arena. */
struct courier_order {
    const struct courier_format *format;
    bool stream;
    bool places; /* the format wants to know where tokens start, also without logprobs */
    const struct api_stop *stop;
    void *state;
};
/* Before engine_submit: binds a request to its call. Retains the call. ERR_MEMORY when the arena is full. */
enum err courier_attach(struct request *request, struct http_call *call, const struct courier_order *order,
                        struct err_info *info);

#endif
