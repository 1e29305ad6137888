#ifndef MODEL_GGUF_INTERNAL_H
#define MODEL_GGUF_INTERNAL_H

#include "model/gguf.h"

/* Value types, numbered as in the file. */
enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES
};

/* A key and where its value stands; everything about it was checked when the file was opened. */
struct gguf_key {
    struct gguf_string name;
    enum gguf_type type;
    enum gguf_type element; /* of an array */
    size_t n;               /* elements of an array; 1 otherwise */
    const uint8_t *value;   /* first element; not aligned */
};

/* Open addressing over indexes; the number of slots is a power of two, at least twice the entries. */
struct gguf_index {
    uint32_t *slots; /* entry + 1; 0: free */
    size_t n_slots;
};

enum gguf_memory { GGUF_BORROWED, GGUF_MAPPED, GGUF_OWNED };

struct gguf {
    const uint8_t *bytes;
    size_t length;
    enum gguf_memory memory;
    struct gguf_key *keys;
    size_t n_keys;
    struct gguf_index key_index;
    struct gguf_tensor *tensors;
    size_t n_tensors;
    struct gguf_index tensor_index;
};

/* A name from the file, cut and made printable for a message. */
struct gguf_label {
    char text[64];
};
struct gguf_label gguf_label_of(struct gguf_string name);

/* Fills keys, tensors and their indexes from bytes; what it allocated when it fails, gguf_close frees. */
enum err gguf_header_parse(struct gguf *gguf, struct err_info *info);

/* Indexes over entries of `size` bytes whose first member is their name. */
bool gguf_index_create(struct gguf_index *index, size_t n);
/* False when the name of entry i is there already. */
bool gguf_index_insert(struct gguf_index *index, const void *entries, size_t size, size_t i);

/* "u32", "string" ...; a name for every value below GGUF_TYPES. */
const char *gguf_type_name(enum gguf_type type);

/* NULL when there is none. */
const struct gguf_key *gguf_key_find(const struct gguf *gguf, const char *name);

#endif
