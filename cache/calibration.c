#include "cache/calibration.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static const char MAGIC[8] = "octocal";
enum { VERSION = 2 };

struct header {
    char magic[8];
    uint32_t version;
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, frame_tokens;
    uint64_t model_hash[2];
};

static size_t heads_count(const struct kv_shape *shape)
{
    return (size_t)shape->n_layers * shape->n_kv_heads;
}

static size_t arrays_floats(const struct kv_shape *shape)
{
    size_t D = (size_t)shape->head_dim;
    return heads_count(shape) * (2 * D + D / KV_CODE_GROUP + 2 + 2 * D * D);
}

enum err calibration_create(const struct kv_shape *shape, struct calibration **out, struct err_info *info)
{
    if (shape->head_dim % KV_CODE_GROUP != 0 || shape->head_dim <= 0 || shape->head_dim > KV_MAX_HEAD_DIM)
        return err_set(info, ERR_UNSUPPORTED, "head_dim %d is not a multiple of %d up to %d", shape->head_dim,
                       KV_CODE_GROUP, KV_MAX_HEAD_DIM);
    struct calibration *c = calloc(1, sizeof *c);
    float *arrays = c == NULL ? NULL : calloc(arrays_floats(shape), sizeof *arrays);
    if (arrays == NULL) {
        free(c);
        return err_set(info, ERR_MEMORY, "calibration of %zu heads: out of memory", heads_count(shape));
    }
    size_t heads = heads_count(shape), D = (size_t)shape->head_dim;
    c->shape = *shape;
    c->key_mean = arrays;
    c->value_mean = c->key_mean + heads * D;
    c->key_sigma = c->value_mean + heads * D;
    c->key_weight = c->key_sigma + heads * D / KV_CODE_GROUP;
    c->value_weight = c->key_weight + heads;
    c->key_transform = c->value_weight + heads;
    c->query_transform = c->key_transform + heads * D * D;
    *out = c;
    return ERR_OK;
}

void calibration_free(struct calibration *calibration)
{
    if (calibration == NULL) return;
    free(calibration->key_mean);
    free(calibration);
}

static void header_fill(const struct calibration *c, struct header *header)
{
    memset(header, 0, sizeof *header);
    memcpy(header->magic, MAGIC, sizeof MAGIC);
    header->version = VERSION;
    header->n_layers = (uint32_t)c->shape.n_layers;
    header->n_heads = (uint32_t)c->shape.n_heads;
    header->n_kv_heads = (uint32_t)c->shape.n_kv_heads;
    header->head_dim = (uint32_t)c->shape.head_dim;
    header->frame_tokens = KV_FRAME_TOKENS;
    memcpy(header->model_hash, c->model_hash, sizeof header->model_hash);
}

enum err calibration_save(const struct calibration *calibration, const char *path, struct err_info *info)
{
    char temporary[4096];
    if (snprintf(temporary, sizeof temporary, "%s.%d.tmp", path, (int)getpid()) >= (int)sizeof temporary)
        return err_set(info, ERR_IO, "%s: path too long", path);
    struct header header;
    header_fill(calibration, &header);
    size_t bytes = arrays_floats(&calibration->shape) * sizeof(float);
    XXH3_state_t *state = XXH3_createState();
    FILE *file = fopen(temporary, "wb");
    enum err err = ERR_OK;
    if (file == NULL || state == NULL) {
        err = err_set(info, ERR_IO, "%s: %s", temporary, strerror(errno));
        goto out;
    }
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, &header, sizeof header);
    XXH3_128bits_update(state, calibration->key_mean, bytes);
    XXH128_canonical_t sum;
    XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(state));
    bool written = fwrite(&header, sizeof header, 1, file) == 1 &&
                   fwrite(calibration->key_mean, bytes, 1, file) == 1 &&
                   fwrite(&sum, sizeof sum, 1, file) == 1;
    if (fclose(file) != 0) written = false;
    file = NULL;
    if (!written || rename(temporary, path) != 0) {
        err = err_set(info, ERR_IO, "%s: %s", path, strerror(errno));
        unlink(temporary);
    }
out:
    if (file != NULL) fclose(file);
    XXH3_freeState(state);
    return err;
}

static enum err header_check(const char *name, const struct header *header, size_t length,
                             const struct kv_shape *shape, const uint64_t model_hash[2],
                             struct err_info *info)
{
    if (memcmp(header->magic, MAGIC, sizeof MAGIC) != 0)
        return err_set(info, ERR_FORMAT, "%s: not an octavo calibration file", name);
    if (header->version != VERSION)
        return err_set(info, ERR_FORMAT, "%s: calibration version %u, this octavo reads %d", name,
                       header->version, VERSION);
    if (header->n_layers != (uint32_t)shape->n_layers || header->n_heads != (uint32_t)shape->n_heads ||
        header->n_kv_heads != (uint32_t)shape->n_kv_heads || header->head_dim != (uint32_t)shape->head_dim)
        return err_set(
            info, ERR_FORMAT,
            "%s: made for %u layers, %u/%u heads of %u; the model has %d layers, %d/%d heads of %d", name,
            header->n_layers, header->n_heads, header->n_kv_heads, header->head_dim, shape->n_layers,
            shape->n_heads, shape->n_kv_heads, shape->head_dim);
    if (memcmp(header->model_hash, model_hash, sizeof header->model_hash) != 0)
        return err_set(info, ERR_FORMAT, "%s: made for another model file (hash differs)", name);
    if (header->frame_tokens != KV_FRAME_TOKENS)
        return err_set(info, ERR_FORMAT, "%s: made for frames of %u tokens, this octavo has %d", name,
                       header->frame_tokens, KV_FRAME_TOKENS);
    size_t expected = sizeof *header + arrays_floats(shape) * sizeof(float) + sizeof(XXH128_canonical_t);
    if (length != expected)
        return err_set(info, ERR_FORMAT, "%s: %zu bytes, expected %zu", name, length, expected);
    return ERR_OK;
}

/* Tables must be numbers; bits go by the spreads and do not increase, so neither may these. */
static enum err values_check(const char *name, const struct calibration *c, struct err_info *info)
{
    size_t n_groups = (size_t)c->shape.head_dim / KV_CODE_GROUP, n_sigmas = heads_count(&c->shape) * n_groups;
    for (size_t i = 0; i < arrays_floats(&c->shape); i++)
        if (!isfinite(c->key_mean[i]))
            return err_set(info, ERR_FORMAT, "%s: table entry %zu is not finite", name, i);
    for (size_t i = 0; i < n_sigmas; i++) {
        if (c->key_sigma[i] <= 0)
            return err_set(info, ERR_FORMAT, "%s: spread %zu is %g, not positive", name, i,
                           (double)c->key_sigma[i]);
        if (i % n_groups != 0 && c->key_sigma[i] > c->key_sigma[i - 1])
            return err_set(info, ERR_FORMAT, "%s: spread %zu is larger than the one before it", name, i);
    }
    for (size_t i = 0; i < heads_count(&c->shape); i++)
        if (c->key_weight[i] <= 0 || c->value_weight[i] <= 0)
            return err_set(info, ERR_FORMAT, "%s: weights %zu are %g and %g, not positive", name, i,
                           (double)c->key_weight[i], (double)c->value_weight[i]);
    return ERR_OK;
}

enum err calibration_parse(const char *name, const void *bytes, size_t length, const struct kv_shape *shape,
                           const uint64_t model_hash[2], struct calibration **out, struct err_info *info)
{
    struct header header;
    XXH128_canonical_t sum;
    if (length < sizeof header + sizeof sum)
        return err_set(info, ERR_FORMAT, "%s: %zu bytes, too short for a calibration file", name, length);
    memcpy(&header, bytes, sizeof header);
    enum err err = header_check(name, &header, length, shape, model_hash, info);
    if (err != ERR_OK) return err;
    memcpy(&sum, (const char *)bytes + length - sizeof sum, sizeof sum);
    if (!XXH128_isEqual(XXH128_hashFromCanonical(&sum), XXH3_128bits(bytes, length - sizeof sum)))
        return err_set(info, ERR_FORMAT, "%s: damaged (checksum differs)", name);

    struct calibration *c;
    err = calibration_create(shape, &c, info);
    if (err != ERR_OK) return err;
    memcpy(c->model_hash, header.model_hash, sizeof c->model_hash);
    memcpy(c->key_mean, (const char *)bytes + sizeof header, arrays_floats(shape) * sizeof(float));
    err = values_check(name, c, info);
    if (err != ERR_OK) {
        calibration_free(c);
        return err;
    }
    *out = c;
    return ERR_OK;
}

enum err calibration_load(const char *path, const struct kv_shape *shape, const uint64_t model_hash[2],
                          struct calibration **out, struct err_info *info)
{
    enum err err = ERR_OK;
    char *bytes = NULL;
    struct stat stat;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat) != 0) {
        err = err_set(info, ERR_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    size_t limit = sizeof(struct header) + arrays_floats(shape) * sizeof(float) + sizeof(XXH128_canonical_t);
    size_t length = (size_t)stat.st_size;
    if (stat.st_size < 0 || length > limit) {
        err = err_set(info, ERR_FORMAT, "%s: %lld bytes, expected %zu", path, (long long)stat.st_size, limit);
        goto out;
    }
    bytes = malloc(length + 1);
    if (bytes == NULL) {
        err = err_set(info, ERR_MEMORY, "%s: out of memory", path);
        goto out;
    }
    size_t done = 0;
    while (done < length) {
        ssize_t n = read(fd, bytes + done, length - done);
        if (n <= 0) break;
        done += (size_t)n;
    }
    err = calibration_parse(path, bytes, done, shape, model_hash, out, info);
out:
    if (fd >= 0) close(fd);
    free(bytes);
    return err;
}
