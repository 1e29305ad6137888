#ifndef SUPPORT_TINY_MODEL_H
#define SUPPORT_TINY_MODEL_H

#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A small model with random weights as a valid GGUF file, so that unit tests need no download.
 *
 * Its vocabulary is byte-level BPE: ids 0..255 are the bytes in GPT-2's order and spelling, then the merged
 * tokens, then TINY_MODEL_EOS and its like, then "[PADn]" of type unused up to n_vocab. A tokenizer made from
 * it encodes any bytes.
 */
struct tiny_model {
    const char *arch; /* "llama" or "qwen2" */
    int n_layers, n_heads, n_kv_heads, head_dim;
    int n_embd; /* any multiple of the matrices' block; attention.key_length is written when it is not
                   n_heads * head_dim */
    int n_ff;
    int n_vocab; /* 0: as many as there are tokens; otherwise padded to it */
    int context_length;
    float rope_freq_base;
    bool tied;                /* no output.weight */
    bool rope_factors;        /* a rope_freqs.weight tensor */
    const char *rope_scaling; /* rope.scaling.type, or NULL; with a factor of 4 */
    bool add_bos;             /* tokenizer.ggml.add_bos_token */
    const char *pre;          /* tokenizer.ggml.pre */
    /* Element type of every matrix; quantized types get random codes and scales that keep the usual spread.
       The width of the matrix must be a multiple of the type's block. */
    enum dtype embd, q, k, v, o, gate, up, down, output;
    uint64_t seed;
};

/* llama, 2 layers, 4 heads of 32 with 2 KV heads, n_embd 128, n_ff 256, context 4096, all Q8_0, untied. */
struct tiny_model tiny_model_default(void);
/* Every matrix of this type. */
void tiny_model_set_dtype(struct tiny_model *tiny, enum dtype dtype);

/* The file's bytes, malloc'ed. The same struct gives the same bytes. */
void *tiny_model_bytes(const struct tiny_model *tiny, size_t *length);
/* Writes it to path; false with errno set when that fails. */
bool tiny_model_write(const struct tiny_model *tiny, const char *path);

/* Ids of the special tokens: "<|endoftext|>" (eos), "<|im_start|>" (bos), "<|im_end|>" (eot). */
int tiny_model_eos(void);
int tiny_model_bos(void);
int tiny_model_eot(void);

#endif
