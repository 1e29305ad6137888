#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include "config/err.h"
#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * GGUF v3 on mmap. Every length and offset is checked against the file before it is used, so a truncated or
 * hostile file gives ERR_FORMAT naming the key or tensor and the offset, never a crash. Strings and arrays
 * are views into the mapping, not NUL-terminated.
 */
struct gguf;

struct gguf_string {
    const char *bytes;
    size_t length;
};

enum { GGUF_MAX_DIMS = 4 };

struct gguf_tensor {
    struct gguf_string name;
    enum dtype dtype;
    int n_dims;
    int64_t dims[GGUF_MAX_DIMS]; /* GGUF order: dims[0] is the fastest (columns) */
    const void *data;
    size_t bytes;
};

enum err gguf_open(const char *path, struct gguf **out, struct err_info *info);
/* The same over memory that stays the caller's (tests, fuzzing). */
enum err gguf_open_memory(const void *bytes, size_t length, struct gguf **out, struct err_info *info);
/* The same over malloc'ed memory that it takes over, also when it fails. */
enum err gguf_open_owned(void *bytes, size_t length, struct gguf **out, struct err_info *info);
void gguf_close(struct gguf *gguf);

/* Of all tensors' data, each counted whole. */
size_t gguf_tensor_bytes(const struct gguf *gguf);
/* xxHash128 of the whole file: what a calibration is tied to. Reads every page. */
void gguf_hash(const struct gguf *gguf, uint64_t hash[2]);
/* Tell the system that the mapping is not needed for now (after weights were rearranged). */
void gguf_release_pages(const struct gguf *gguf);

/* Lookups: ERR_FORMAT when the key is missing or has another type; `has` asks first. */
bool gguf_has(const struct gguf *gguf, const char *key);
enum err gguf_get_u32(const struct gguf *gguf, const char *key, uint32_t *out, struct err_info *info);
enum err gguf_get_f32(const struct gguf *gguf, const char *key, float *out, struct err_info *info);
enum err gguf_get_bool(const struct gguf *gguf, const char *key, bool *out, struct err_info *info);
enum err gguf_get_string(const struct gguf *gguf, const char *key, struct gguf_string *out,
                         struct err_info *info);
/* Arrays: *n elements; element i through the matching _at. */
enum err gguf_array_length(const struct gguf *gguf, const char *key, size_t *n, struct err_info *info);
/* The whole array at once into memory of the caller, *n elements allowed and checked. */
enum err gguf_get_strings(const struct gguf *gguf, const char *key, struct gguf_string *out, size_t n,
                          struct err_info *info);
enum err gguf_get_i32s(const struct gguf *gguf, const char *key, int32_t *out, size_t n,
                       struct err_info *info);
enum err gguf_get_f32s(const struct gguf *gguf, const char *key, float *out, size_t n, struct err_info *info);

size_t gguf_tensor_count(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index);
/* NULL when there is none of this name. */
const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name);

#endif
