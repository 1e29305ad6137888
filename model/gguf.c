/*
 * A GGUF file in memory: opening, closing, and finding keys and tensors by name. gguf_header.c reads the
 * header, gguf_values.c the values of keys.
 */
#include "model/gguf.h"

#include "model/gguf_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

struct gguf_label gguf_label_of(struct gguf_string name)
{
    struct gguf_label label;
    size_t n = name.length < sizeof label.text - 1 ? name.length : sizeof label.text - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)name.bytes[i];
        label.text[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    label.text[n] = '\0';
    return label;
}

/* --- the index -------------------------------------------------------------------------------------------
 */

static bool name_equal(struct gguf_string a, struct gguf_string b)
{
    return a.length == b.length && memcmp(a.bytes, b.bytes, a.length) == 0;
}

static struct gguf_string name_of(const void *entries, size_t size, size_t i)
{
    struct gguf_string name; /* first member of gguf_key and of gguf_tensor */
    memcpy(&name, (const char *)entries + i * size, sizeof name);
    return name;
}

/* The slot that holds name, or the free slot where it belongs. */
static uint32_t *index_slot(const struct gguf_index *index, const void *entries, size_t size,
                            struct gguf_string name)
{
    size_t i = (size_t)XXH3_64bits(name.bytes, name.length) & (index->n_slots - 1);
    while (index->slots[i] && !name_equal(name_of(entries, size, index->slots[i] - 1), name)) {
        i = (i + 1) & (index->n_slots - 1);
    }
    return &index->slots[i];
}

bool gguf_index_create(struct gguf_index *index, size_t n)
{
    index->n_slots = 4;
    while (index->n_slots < 2 * n) index->n_slots *= 2;
    index->slots = calloc(index->n_slots, sizeof *index->slots);
    return index->slots != NULL;
}

bool gguf_index_insert(struct gguf_index *index, const void *entries, size_t size, size_t i)
{
    uint32_t *slot = index_slot(index, entries, size, name_of(entries, size, i));
    if (*slot) return false;
    *slot = (uint32_t)i + 1;
    return true;
}

const struct gguf_key *gguf_key_find(const struct gguf *gguf, const char *name)
{
    struct gguf_string key = {name, strlen(name)};
    uint32_t slot = *index_slot(&gguf->key_index, gguf->keys, sizeof *gguf->keys, key);
    return slot ? &gguf->keys[slot - 1] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name)
{
    struct gguf_string key = {name, strlen(name)};
    uint32_t slot = *index_slot(&gguf->tensor_index, gguf->tensors, sizeof *gguf->tensors, key);
    return slot ? &gguf->tensors[slot - 1] : NULL;
}

/* --- opening ------ */

static void memory_free(const void *bytes, size_t length, enum gguf_memory memory)
{
    if (memory == GGUF_MAPPED) munmap((void *)bytes, length);
    if (memory == GGUF_OWNED) free((void *)bytes);
}

/* Takes bytes over unless they are borrowed, also when it fails. */
static enum err open_bytes(const void *bytes, size_t length, enum gguf_memory memory, struct gguf **out,
                           struct err_info *info)
{
    struct gguf *gguf = calloc(1, sizeof *gguf);
    if (!gguf) {
        memory_free(bytes, length, memory);
        return err_set(info, ERR_MEMORY, "no memory for a GGUF file");
    }
    *gguf = (struct gguf){.bytes = bytes, .length = length, .memory = memory};
    enum err err = gguf_header_parse(gguf, info);
    if (err) {
        gguf_close(gguf);
        return err;
    }
    *out = gguf;
    return ERR_OK;
}

enum err gguf_open_memory(const void *bytes, size_t length, struct gguf **out, struct err_info *info)
{
    return open_bytes(bytes, length, GGUF_BORROWED, out, info);
}

enum err gguf_open_owned(void *bytes, size_t length, struct gguf **out, struct err_info *info)
{
    return open_bytes(bytes, length, GGUF_OWNED, out, info);
}

enum err gguf_open(const char *path, struct gguf **out, struct err_info *info)
{
    struct stat status;
    enum err err = ERR_OK;
    void *bytes = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(info, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    if (fstat(fd, &status) != 0) {
        err = err_set(info, ERR_IO, "cannot read %s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(status.st_mode)) {
        err = err_set(info, ERR_IO, "%s is not a regular file", path);
        goto out;
    }
    if (status.st_size == 0) {
        err = err_set(info, ERR_FORMAT, "%s is empty", path);
        goto out;
    }
    bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) {
        err = err_set(info, ERR_IO, "cannot map %s: %s", path, strerror(errno));
        goto out;
    }
    err = open_bytes(bytes, (size_t)status.st_size, GGUF_MAPPED, out, info);
out:
    close(fd);
    return err;
}

void gguf_close(struct gguf *gguf)
{
    if (!gguf) return;
    free(gguf->keys);
    free(gguf->tensors);
    free(gguf->key_index.slots);
    free(gguf->tensor_index.slots);
    memory_free(gguf->bytes, gguf->length, gguf->memory);
    free(gguf);
}

size_t gguf_tensor_bytes(const struct gguf *gguf)
{
    size_t bytes = 0;
    for (size_t i = 0; i < gguf->n_tensors; i++) bytes += gguf->tensors[i].bytes;
    return bytes;
}

void gguf_hash(const struct gguf *gguf, uint64_t hash[2])
{
    XXH128_hash_t sum = XXH3_128bits(gguf->bytes, gguf->length);
    hash[0] = sum.low64;
    hash[1] = sum.high64;
    gguf_release_pages(gguf);
}

void gguf_release_pages(const struct gguf *gguf)
{
    if (gguf->memory == GGUF_MAPPED) madvise((void *)gguf->bytes, gguf->length, MADV_DONTNEED);
}

size_t gguf_tensor_count(const struct gguf *gguf)
{
    return gguf->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index)
{
    return index < gguf->n_tensors ? &gguf->tensors[index] : NULL;
}
