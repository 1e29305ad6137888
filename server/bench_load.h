#ifndef SERVER_BENCH_LOAD_H
#define SERVER_BENCH_LOAD_H

#include "server/bench_http.h"

/*
 * The load generator: one thread, one epoll, streaming completions over connections of their own. Prompts are
 * arrays of token ids from a counter-based generator, so a seed gives the same load everywhere; ignore_eos
 * makes every reply as long as asked.
 */
struct bench_range {
    int low, high; /* uniform between them, both included */
};

struct bench_load_options {
    const struct bench_url *url;
    const char *api_key; /* NULL: none */
    const char *model;
    int n_vocab;
    int n_requests;
    int concurrency; /* most requests in flight */
    double rate;     /* Poisson arrivals per second; 0: as soon as one of `concurrency` is free */
    struct bench_range prompt_tokens, max_tokens;
    double temperature;
    uint64_t seed;
    int timeout_s;   /* for each request */
    bool allow_busy; /* 429 and 503 are refusals, not failures */
    bool progress;   /* lines on stderr */
};

struct bench_record {
    int prompt_tokens, output_tokens;
    int status;       /* of HTTP; 0: no whole reply came */
    int64_t start_us; /* when it should have been sent (rate) or was sent */
    int64_t first_us; /* first text; 0: none came */
    int64_t last_us;  /* newest text */
    int64_t end_us;   /* reply complete */
    bool ok;          /* a complete reply with status 200 */
};

struct bench_load_result {
    struct bench_record *records; /* [n_requests] */
    int n_requests, n_failed;
    int n_refused; /* with allow_busy */
    char first_failure[256];
    int64_t wall_us;
    double *gaps_ms; /* between two texts of one reply, all replies */
    size_t n_gaps, gaps_capacity;
};

/* ERR_MEMORY, ERR_IO (epoll). Requests that fail are counted, not an error. */
enum err bench_load_run(const struct bench_load_options *options, struct bench_load_result *out,
                        struct err_info *info);
void bench_load_free(struct bench_load_result *result);

/* "A" or "A:B" with 1 <= A <= B <= 2^24. ERR_USAGE naming the option. */
enum err bench_range_parse(const char *option, const char *text, struct bench_range *out,
                           struct err_info *info);

/* Asks /v1/models for the model's name (size bytes at most) and vocabulary; n_vocab 0: the server does not
   say. */
enum err bench_model_ask(const struct bench_url *url, const char *api_key, char *name, size_t size,
                         int *n_vocab, struct err_info *info);

#endif
