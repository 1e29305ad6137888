#ifndef MODEL_GGUF_WRITER_H
#define MODEL_GGUF_WRITER_H

#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Writes GGUF v3 in memory: dummy models, and files for tests. It checks nothing: a test writes broken files
 * with it too. When memory becomes short it goes on, and gguf_writer_finish says so.
 */
struct gguf_writer;

/* alignment: of tensor data; written as general.alignment unless it is 32 (the default) or 0 (32, not
   written). NULL without memory. */
struct gguf_writer *gguf_writer_create(uint32_t alignment);

void gguf_writer_u32(struct gguf_writer *writer, const char *key, uint32_t value);
void gguf_writer_f32(struct gguf_writer *writer, const char *key, float value);
void gguf_writer_bool(struct gguf_writer *writer, const char *key, bool value);
void gguf_writer_string(struct gguf_writer *writer, const char *key, const char *value);
void gguf_writer_strings(struct gguf_writer *writer, const char *key, const char *const *values, size_t n);
/* The same one by one: n items follow before anything else. */
void gguf_writer_strings_begin(struct gguf_writer *writer, const char *key, size_t n);
void gguf_writer_item(struct gguf_writer *writer, const char *value);
void gguf_writer_i32s(struct gguf_writer *writer, const char *key, const int32_t *values, size_t n);
void gguf_writer_f32s(struct gguf_writer *writer, const char *key, const float *values, size_t n);
/* A key with a type number and payload bytes as they are. */
void gguf_writer_raw(struct gguf_writer *writer, const char *key, uint32_t type, const void *payload,
                     size_t bytes);

/* dims in GGUF order, dims[0] fastest. data is copied and padded to the alignment. */
void gguf_writer_tensor(struct gguf_writer *writer, const char *name, uint32_t dtype, uint32_t n_dims,
                        const uint64_t *dims, const void *data, size_t bytes);
/* Description only: offset and data as the caller wants them. */
void gguf_writer_tensor_at(struct gguf_writer *writer, const char *name, uint32_t dtype, uint32_t n_dims,
                           const uint64_t *dims, uint64_t offset);

/* The whole file, malloc'ed, NULL without memory; frees the writer. */
void *gguf_writer_finish(struct gguf_writer *writer, size_t *length);

#endif
