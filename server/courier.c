#include "server/courier.h"

#include "config/log.h"
#include "server/api_error.h"
#include "server/engine.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    HELD_BYTES = 1 << 20,  /* far above the longest stop string and token */
    TEXT_BYTES = 1 << 28,  /* of one choice of a whole reply */
    EVENT_BYTES = 1 << 28, /* of what one round appends to a stream, or of a whole body */
    KEPT_BYTES = 1 << 20,  /* of scratch, between replies */
};

struct courier {
    const struct tokenizer *tokenizer;
    struct buf out; /* scratch of the thread */
    pthread_t thread;

    pthread_mutex_t lock; /* for everything below; the thread reads engine without it while busy */
    pthread_cond_t changed;
    struct engine *engine;
    struct request *first, *last;
    bool busy; /* working on a list */
    bool stop;
};

/* --- Replies --- */

static void free_reply(struct request *request)
{
    struct courier_reply *reply = request->http_state;
    for (int i = 0; i < request->n_choices; i++) {
        struct courier_choice *choice = &reply->choices[i];
        buf_free(&choice->held);
        buf_free(&choice->text);
        for (int list = 0; list < 4; list++) buf_free(&choice->lists[list]);
    }
    http_call_release(reply->call);
}

static bool init_choice(struct courier_choice *choice, struct courier_reply *reply, struct choice *source,
                        bool places, struct arena *arena)
{
    choice->reply = reply;
    choice->choice = source;
    buf_init(&choice->held, HELD_BYTES);
    buf_init(&choice->text, TEXT_BYTES);
    for (int list = 0; list < 4; list++) buf_init(&choice->lists[list], TEXT_BYTES);
    source->http_state = choice;
    if ((source->sampler.n_logprobs < 0 && !places) || reply->request->max_tokens == 0) return true;
    choice->starts = arena_alloc(arena, (size_t)reply->request->max_tokens, sizeof(*choice->starts));
    return choice->starts != NULL;
}

enum err courier_attach(struct request *request, struct http_call *call, const struct courier_order *order,
                        struct err_info *info)
{
    struct arena *arena = request->arena;
    struct courier_reply *reply = arena_alloc(arena, 1, sizeof(*reply));
    struct courier_choice *choices =
        arena_alloc(arena, (size_t)request->n_choices, sizeof(struct courier_choice));
    if (!reply || !choices) return err_set(info, ERR_MEMORY, "no memory for the reply");
    *reply = (struct courier_reply){.request = request,
                                    .call = call,
                                    .format = order->format,
                                    .stream = order->stream,
                                    .stop = order->stop,
                                    .state = order->state,
                                    .choices = choices,
                                    .n_open = request->n_choices};
    for (int i = 0; i < request->n_choices; i++)
        if (!init_choice(&choices[i], reply, &request->choices[i], order->places, arena))
            return err_set(info, ERR_MEMORY, "no memory for the places of the reply's tokens");
    http_call_retain(call);
    request->http_state = reply;
    request->http_release = free_reply;
    return ERR_OK;
}

/* --- Choices: tokens to text --- */

/* Length of held text up to which nothing can change any more. */
static size_t certain_length(const struct courier_choice *choice)
{
    size_t held = choice->finish ? 0 : api_stop_held(choice->reply->stop, &choice->scan);
    assert(held <= choice->held.length);
    return choice->held.length - held;
}

/* Looks for a stop string in what was appended to held since `before`; cuts it off. */
static void find_stop(struct courier_choice *choice, size_t before)
{
    struct buf *held = &choice->held;
    if (held->length == before) return;
    size_t end = 0;
    size_t length =
        api_stop_feed(choice->reply->stop, &choice->scan, held->data + before, held->length - before, &end);
    if (length == 0) return;
    assert(before + end >= length);
    held->length = before + end - length;
    choice->finish = "stop";
    choice->cut = true;
}

static void read_token(struct courier *courier, struct courier_choice *choice)
{
    int i = choice->n_read++;
    int32_t token = choice->choice->records[i].token;
    const struct courier_format *format = choice->reply->format;
    bool shows = format->shows && format->shows(choice->reply, token);
    size_t before = choice->held.length;
    if (choice->starts) choice->starts[i] = (uint32_t)(choice->n_passed + before);
    detokenizer_push(&choice->detokenizer, courier->tokenizer, token, !shows, &choice->held);
    find_stop(choice, before);
}

static void read_finish(struct courier_choice *choice, enum finish_reason finish)
{
    size_t before = choice->held.length;
    detokenizer_flush(&choice->detokenizer, &choice->held);
    find_stop(choice, before);
    if (!choice->finish) choice->finish = finish == FINISH_LENGTH ? "length" : "stop";
}

/* Records whose text starts before `end`, a byte of the choice's text; when it ends without a stop string
   also those that stand for no text at all. */
static int passed_tokens(const struct courier_choice *choice, size_t end)
{
    if (!choice->starts) return 0;
    bool all = choice->finish && !choice->cut;
    int n = choice->n_passed_tokens;
    while (n < choice->n_read && (all || choice->starts[n] < end)) n++;
    return n;
}

static void pass_piece(struct courier *courier, struct courier_choice *choice)
{
    struct courier_reply *reply = choice->reply;
    size_t length = certain_length(choice);
    if (length == 0 && !choice->finish && choice->begun) return;
    struct courier_piece piece = {.choice = choice,
                                  .text = choice->held.data ? choice->held.data : "",
                                  .length = length,
                                  .first_byte = choice->n_passed,
                                  .first_token = choice->n_passed_tokens,
                                  .end_token = passed_tokens(choice, choice->n_passed + length),
                                  .first = !choice->begun,
                                  .last = choice->finish != NULL};
    reply->format->piece(&piece, reply->stream ? &courier->out : NULL);
    choice->begun = true;
    choice->n_passed += length;
    choice->n_passed_tokens = piece.end_token;
    buf_consume(&choice->held, length);
}

/* --- Replies: their ends --- */

/* Nothing more will be sent; the engine may forget the request. */
static void give_up(struct courier *courier, struct courier_reply *reply)
{
    reply->over = true;
    if (courier->engine) engine_cancel(courier->engine, reply->request);
}

static void append_stream(struct courier *courier, struct courier_reply *reply)
{
    if (courier->out.length == 0 || courier->out.failed) return;
    if (!reply->begun) http_stream_begin(reply->call, reply->format->stream_type);
    reply->begun = true;
    enum http_sent sent = http_stream_append(reply->call, courier->out.data, courier->out.length);
    if (sent == HTTP_SENT) return;
    if (sent == HTTP_SLOW)
        log_warn("courier", "%s: the client reads too slowly, its connection is closed", reply->request->id);
    give_up(courier, reply);
}

static void print_fault(const struct courier_fault *fault, struct buf *out)
{
    buf_text(out, "data: ");
    api_error_print(out, API_ERROR_OPENAI, fault->status, fault->message, fault->param, fault->code);
    buf_text(out, "\n\n");
}

/* The engine or the memory gave out. */
static void fail_reply(struct courier *courier, struct courier_reply *reply, const struct err_info *error)
{
    bool late = error->code == ERR_TIMEOUT,
         away = error->code == ERR_CLOSED || error->code == ERR_BUSY || error->code == ERR_DEVICE;
    bool asked = error->code == ERR_UNSUPPORTED; /* for what the model cannot do */
    int status = late ? 504 : away ? 503 : asked ? 400 : 500;
    const char *code = late ? "timeout" : error->code == ERR_DEVICE ? "device_failed" : NULL;
    log_warn("courier", "%s: %s", reply->request->id, error->message);
    if (reply->begun) {
        struct courier_fault fault = {status, error->message, error->param, code};
        buf_clear(&courier->out);
        if (reply->format->fail)
            reply->format->fail(reply, &fault, &courier->out);
        else
            print_fault(&fault, &courier->out);
        append_stream(courier, reply);
        if (!reply->over) http_stream_end(reply->call);
    } else {
        if (status == 503) http_reply_header(reply->call, "Retry-After", "5");
        http_fail(reply->call, status, error->param, code, "%s", error->message);
    }
    if (!reply->over) give_up(courier, reply);
}

static void fail_memory(struct courier *courier, struct courier_reply *reply)
{
    struct err_info error;
    err_set(&error, ERR_MEMORY, "the reply has outgrown the server's memory");
    fail_reply(courier, reply, &error);
}

/* Every choice has finished: the last bytes. */
static void end_reply(struct courier *courier, struct courier_reply *reply)
{
    struct buf *out = &courier->out;
    reply->format->end(reply, out);
    if (out->failed) {
        fail_memory(courier, reply);
        return;
    }
    if (reply->stream) {
        append_stream(courier, reply);
        if (reply->over) return;
        http_stream_end(reply->call);
    } else {
        http_reply(reply->call, 200, reply->format->whole_type, out->data, out->length);
    }
    reply->over = true;
    for (int i = 0; i < reply->request->n_choices; i++) {
        if (atomic_load(&reply->request->choices[i].finish) != FINISH_NONE) continue;
        /* A stop string ended it; the engine does not know yet. */
        atomic_store(&reply->request->satisfied, true);
        give_up(courier, reply);
        break;
    }
}

/* --- News --- */

static void read_progress(struct courier *courier, struct courier_choice *choice)
{
    const struct courier_reply *reply = choice->reply;
    if (!reply->request->return_progress || !reply->stream || !reply->format->progress) return;
    int n = atomic_load(&choice->choice->n_processed);
    if (n == choice->n_processed) return;
    if (choice->n_processed == 0) reply->format->progress(choice, choice->choice->n_cached, &courier->out);
    choice->n_processed = n;
    reply->format->progress(choice, n, &courier->out);
}

/* Everything the engine has published for one choice. */
static void read_choice(struct courier *courier, struct courier_choice *choice)
{
    if (choice->finish) return; /* a stop string ended it while others run on */
    struct courier_reply *reply = choice->reply;
    /* In this order: finish is published after the last record. */
    enum finish_reason finish = (enum finish_reason)atomic_load(&choice->choice->finish);
    int n_ready = atomic_load(&choice->choice->n_ready);
    if (finish == FINISH_CANCELLED) {
        http_abort(reply->call);
        reply->over = true;
        return;
    }
    if (finish == FINISH_ERROR) {
        fail_reply(courier, reply, &reply->request->error);
        return;
    }
    read_progress(courier, choice);
    if (finish == FINISH_NONE && n_ready == choice->n_read) return;
    while (choice->n_read < n_ready && !choice->finish) read_token(courier, choice);
    if (finish != FINISH_NONE && !choice->finish) read_finish(choice, finish);
    if (choice->held.failed) {
        fail_memory(courier, reply);
        return;
    }
    pass_piece(courier, choice);
    if (choice->finish) reply->n_open--;
}

static void read_news(struct courier *courier, struct request *request)
{
    struct courier_reply *reply = request->http_state;
    buf_clear(&courier->out);
    for (int i = 0; i < request->n_choices && !reply->over; i++) read_choice(courier, &reply->choices[i]);
    if (reply->over) return;
    if (courier->out.failed)
        fail_memory(courier, reply);
    else if (reply->n_open == 0)
        end_reply(courier, reply);
    else
        append_stream(courier, reply);
    if (courier->out.capacity > KEPT_BYTES) buf_free(&courier->out);
}

/* The next list; NULL: stop. */
static struct request *courier_wait(struct courier *courier)
{
    pthread_mutex_lock(&courier->lock);
    courier->busy = false;
    pthread_cond_broadcast(&courier->changed);
    while (!courier->first && !courier->stop) pthread_cond_wait(&courier->changed, &courier->lock);
    struct request *first = courier->first;
    courier->first = courier->last = NULL;
    courier->busy = first != NULL;
    pthread_mutex_unlock(&courier->lock);
    return first;
}

static void *courier_run(void *context)
{
    struct courier *courier = context;
    for (struct request *request; (request = courier_wait(courier));) {
        while (request) {
            /* Once in_news is cleared the engine may link the request anew; the exchange comes before reading
               what is ready, so that nothing published after that reading goes without news. */
            struct request *next = request->next_news;
            atomic_exchange(&request->in_news, false);
            read_news(courier, request);
            request_release(request);
            request = next;
        }
    }
    return NULL;
}

void courier_deliver(void *context, struct request *first)
{
    struct courier *courier = context;
    struct request *last = first;
    while (last->next_news) last = last->next_news;
    pthread_mutex_lock(&courier->lock);
    if (courier->last)
        courier->last->next_news = first;
    else
        courier->first = first;
    courier->last = last;
    pthread_mutex_unlock(&courier->lock);
    pthread_cond_broadcast(&courier->changed);
}

void courier_set_engine(struct courier *courier, struct engine *engine)
{
    pthread_mutex_lock(&courier->lock);
    while (courier->busy) pthread_cond_wait(&courier->changed, &courier->lock);
    courier->engine = engine;
    pthread_mutex_unlock(&courier->lock);
}

enum err courier_create(const struct tokenizer *tokenizer, struct courier **out, struct err_info *info)
{
    struct courier *courier = calloc(1, sizeof(*courier));
    if (!courier) return err_set(info, ERR_MEMORY, "no memory for the courier");
    courier->tokenizer = tokenizer;
    buf_init(&courier->out, EVENT_BYTES);
    pthread_mutex_init(&courier->lock, NULL);
    pthread_cond_init(&courier->changed, NULL);
    int fault = pthread_create(&courier->thread, NULL, courier_run, courier);
    if (fault == 0) {
        *out = courier;
        return ERR_OK;
    }
    pthread_cond_destroy(&courier->changed);
    pthread_mutex_destroy(&courier->lock);
    free(courier);
    return err_set(info, ERR_IO, "cannot start the courier thread: %s", strerror(fault));
}

void courier_free(struct courier *courier)
{
    if (!courier) return;
    pthread_mutex_lock(&courier->lock);
    courier->stop = true;
    pthread_mutex_unlock(&courier->lock);
    pthread_cond_broadcast(&courier->changed);
    pthread_join(courier->thread, NULL);
    buf_free(&courier->out);
    pthread_cond_destroy(&courier->changed);
    pthread_mutex_destroy(&courier->lock);
    free(courier);
}
