/*
 * tiny OUT.gguf [NAME=VALUE...]: writes a random model (tests/unit/support/tiny_model.h). Names: arch,
 * layers, heads, kv_heads, head_dim, embd, ff, dtype (GGUF's number, for every matrix), q, k, v, o, gate, up,
 * down, output (the same for one, after dtype), freq_base, seed; tied=1, rope_factors=1.
 */
#include "tests/unit/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool set(struct tiny_model *tiny, const char *name, const char *value)
{
    const struct {
        const char *name;
        int *to;
    } numbers[] = {
        {"layers", &tiny->n_layers},   {"heads", &tiny->n_heads}, {"kv_heads", &tiny->n_kv_heads},
        {"head_dim", &tiny->head_dim}, {"embd", &tiny->n_embd},   {"ff", &tiny->n_ff},
        {"vocab", &tiny->n_vocab},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strcmp(name, numbers[i].name) != 0) continue;
        *numbers[i].to = atoi(value);
        return true;
    }
    const struct {
        const char *name;
        enum dtype *to;
    } dtypes[] = {
        {"q", &tiny->q},       {"k", &tiny->k},   {"v", &tiny->v},       {"o", &tiny->o},
        {"gate", &tiny->gate}, {"up", &tiny->up}, {"down", &tiny->down}, {"output", &tiny->output},
    };
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(name, dtypes[i].name) != 0) continue;
        *dtypes[i].to = (enum dtype)atoi(value);
        return true;
    }
    bool known = true;
    if (strcmp(name, "arch") == 0)
        tiny->arch = value;
    else if (strcmp(name, "dtype") == 0)
        tiny_model_set_dtype(tiny, (enum dtype)atoi(value));
    else if (strcmp(name, "freq_base") == 0)
        tiny->rope_freq_base = strtof(value, NULL);
    else if (strcmp(name, "rope_scaling") == 0)
        tiny->rope_scaling = value;
    else if (strcmp(name, "seed") == 0)
        tiny->seed = strtoull(value, NULL, 10);
    else if (strcmp(name, "tied") == 0)
        tiny->tied = atoi(value);
    else if (strcmp(name, "rope_factors") == 0)
        tiny->rope_factors = atoi(value);
    else
        known = false;
    return known;
}

int main(int argc, char **argv)
{
    struct tiny_model tiny = tiny_model_default();
    for (int i = 2; i < argc; i++) {
        char *equal = strchr(argv[i], '=');
        if (equal) *equal = '\0';
        if (!equal || !set(&tiny, argv[i], equal + 1)) {
            fprintf(stderr, "tiny: unknown argument '%s'\n", argv[i]);
            return 2;
        }
    }
    if (argc < 2 || !tiny_model_write(&tiny, argv[1])) {
        perror(argc < 2 ? "tiny OUT.gguf [NAME=VALUE...]" : argv[1]);
        return 1;
    }
    return 0;
}
