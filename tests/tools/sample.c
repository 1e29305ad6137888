/*
 * sample: the sampler on the command line. stdin: n float32 logits. stdout: one line for each draw, "token
 * logprob token:logprob ...", numbers with enough digits to be exact. Options, each with a value:
 *   --temperature --top-p --top-k --min-p --repetition --presence --frequency --seed --logprobs
 *   --bias ID:VALUE,...  --prompt ID,...  --output ID,...  --allowed ID,...
 *   --draws N    N draws (default 1), the seed counting up from --seed
 *   --by-position 1   the draws are numbers 0, 1, 2 ... of one seed instead (without --output)
 *   --score ID   no draw: the logprob of a token
 *   --rounds N   prints the microseconds of one draw, the median of N, instead
 */
#include "model/sampler.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 1 << 20 };

struct list {
    int32_t *ids;
    int n;
};

struct arguments {
    struct sampler_params params;
    struct sampler_bias bias[1024];
    struct list prompt, output;
    uint32_t *allowed;
    long draws, rounds, score;
    bool by_position;
};

static void list_parse(const char *text, struct list *out)
{
    out->ids = calloc(MOST, sizeof *out->ids);
    if (!out->ids) abort();
    for (char *end; *text && out->n < MOST; text = *end ? end + 1 : end)
        out->ids[out->n++] = (int32_t)strtol(text, &end, 10);
}

static void allowed_parse(const char *text, struct arguments *out)
{
    struct list list = {0};
    list_parse(text, &list);
    out->allowed = calloc(MOST / 32, sizeof *out->allowed);
    if (!out->allowed) abort();
    for (int i = 0; i < list.n; i++) out->allowed[list.ids[i] / 32] |= 1u << list.ids[i] % 32;
    free(list.ids);
}

static void bias_parse(const char *text, struct arguments *out)
{
    out->params.bias = out->bias;
    for (char *end; *text && out->params.n_bias < 1024; text = *end ? end + 1 : end) {
        struct sampler_bias *bias = &out->bias[out->params.n_bias++];
        bias->token = (int32_t)strtol(text, &end, 10);
        bias->bias = strtof(end + 1, &end);
    }
}

static bool option_parse(const char *name, const char *value, struct arguments *out)
{
    struct sampler_params *params = &out->params;
    const struct {
        const char *name;
        float *value;
    } floats[] = {{"--temperature", &params->temperature},
                  {"--top-p", &params->top_p},
                  {"--min-p", &params->min_p},
                  {"--repetition", &params->repetition_penalty},
                  {"--presence", &params->presence_penalty},
                  {"--frequency", &params->frequency_penalty}};
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++)
        if (strcmp(name, floats[i].name) == 0) return *floats[i].value = strtof(value, NULL), true;
    if (strcmp(name, "--top-k") == 0) return params->top_k = atoi(value), true;
    if (strcmp(name, "--logprobs") == 0) return params->n_logprobs = atoi(value), true;
    if (strcmp(name, "--seed") == 0) return params->seed = strtoull(value, NULL, 10), true;
    if (strcmp(name, "--bias") == 0) return bias_parse(value, out), true;
    if (strcmp(name, "--prompt") == 0) return list_parse(value, &out->prompt), true;
    if (strcmp(name, "--output") == 0) return list_parse(value, &out->output), true;
    if (strcmp(name, "--allowed") == 0) return allowed_parse(value, out), true;
    if (strcmp(name, "--draws") == 0) return out->draws = atol(value), true;
    if (strcmp(name, "--rounds") == 0) return out->rounds = atol(value), true;
    if (strcmp(name, "--score") == 0) return out->score = atol(value), true;
    if (strcmp(name, "--by-position") == 0) return out->by_position = atoi(value), true;
    return false;
}

static void result_print(const struct sampler_result *result)
{
    printf("%d %.9g", (int)result->token, (double)result->logprob);
    for (int i = 0; i < result->n_top; i++)
        printf(" %d:%.9g", (int)result->top_token[i], (double)result->top_logprob[i]);
    printf("\n");
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void time_print(struct sampler *sampler, const struct arguments *arguments, const float *logits)
{
    double *us = calloc((size_t)arguments->rounds, sizeof *us);
    if (!us) abort();
    struct sampler_params params = arguments->params;
    struct sampler_result result;
    for (long i = 0; i < arguments->rounds; i++, params.seed++) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        sampler_draw(sampler, &params, logits, arguments->allowed, arguments->prompt.ids, arguments->prompt.n,
                     arguments->output.ids, arguments->output.n, &result);
        clock_gettime(CLOCK_MONOTONIC, &end);
        us[i] = 1e6 * (double)(end.tv_sec - begin.tv_sec) + 1e-3 * (double)(end.tv_nsec - begin.tv_nsec);
    }
    qsort(us, (size_t)arguments->rounds, sizeof *us, compare);
    printf("%.1f us\n", us[arguments->rounds / 2]);
    free(us);
}

static void draws_print(struct sampler *sampler, struct arguments *arguments, const float *logits)
{
    struct sampler_params params = arguments->params;
    struct sampler_result result;
    if (arguments->by_position) list_parse("", &arguments->output);
    for (long i = 0; i < arguments->draws; i++) {
        int n_output = arguments->by_position ? (int)i : arguments->output.n;
        sampler_draw(sampler, &params, logits, arguments->allowed, arguments->prompt.ids, arguments->prompt.n,
                     arguments->output.ids, n_output, &result);
        result_print(&result);
        if (!arguments->by_position) params.seed++;
    }
}

int main(int argc, char **argv)
{
    static struct arguments arguments = {
        .params = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}, .draws = 1, .score = -1};
    for (int i = 1; i < argc; i += 2)
        if (i + 1 == argc || !option_parse(argv[i], argv[i + 1], &arguments)) {
            fprintf(stderr, "sample: bad option %s\n", argv[i]);
            return 2;
        }
    float *logits = calloc(MOST, sizeof *logits);
    if (!logits) return 1;
    int n = (int)fread(logits, sizeof *logits, MOST, stdin);
    struct sampler *sampler = n > 0 ? sampler_create(n) : NULL;
    if (!sampler) return 1;
    if (arguments.score >= 0) {
        struct sampler_result result;
        sampler_score(sampler, arguments.params.n_logprobs, logits, (int32_t)arguments.score, &result);
        result_print(&result);
    } else if (arguments.rounds > 0) {
        time_print(sampler, &arguments, logits);
    } else {
        draws_print(sampler, &arguments, logits);
    }
    sampler_free(sampler);
    free(logits);
    free(arguments.prompt.ids);
    free(arguments.output.ids);
    free(arguments.allowed);
    return 0;
}
