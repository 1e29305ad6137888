#ifndef SERVER_RUNTIME_H
#define SERVER_RUNTIME_H

#include "cache/format.h"
#include "model/model.h"
#include "model/tokenizer.h"

/*
 * A model opened for computing by a command (`eval`, `calibrate`): its file, its tokenizer, the threads and
 * the backend at once; the weights later, because what a command was given is checked before they are read.
 */
struct workers;

struct runtime_options {
    const char *model;           /* path of the GGUF file */
    int threads;                 /* 0: the processors this process may use */
    const char *device;          /* as backend_create takes it */
    const char *cpu;             /* as backend_cpu_create takes it */
    const char *activation_bits; /* "auto", "8" or "16" */
    const char *device_weights;  /* as backend_weights_named takes it */
};

struct runtime {
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct workers *workers;
    struct backend *backend;
    struct model *model; /* NULL until runtime_load */
};

/* On failure nothing is left open. */
enum err runtime_open(const struct runtime_options *options, struct runtime *out, struct err_info *info);
/* The weights, and room for passes of max_rows tokens of which max_logits have logits. */
enum err runtime_load(struct runtime *runtime, int max_rows, int max_logits, struct err_info *info);
/* Of a zeroed runtime too. */
void runtime_close(struct runtime *runtime);

/* Reads a text file that a user named, at most max_bytes of it; option is the name of that option, for
   messages. *text is malloc'ed, a NUL follows its last byte. ERR_IO, ERR_MEMORY. */
enum err runtime_text_read(const char *option, const char *path, size_t max_bytes, char **text,
                           size_t *length, struct err_info *info);

#endif
