#include "cache/prefix_file.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

static const char magic[8] = "OCTPFX\0\1";

enum { NAME_BYTES = KV_FORMAT_NAME_BYTES };

struct file_format {
    char name[NAME_BYTES];
    uint64_t part_bytes[KV_MAX_PARTS];
};

struct file_header {
    char magic[8];
    uint64_t identity[2];
    uint64_t sink_bytes;
    uint32_t n_formats, reserved;
    struct file_format formats[KV_MAX_FORMATS];
};

/* parts 0: the last record. */
struct file_record {
    uint64_t key[2];
    uint64_t sink_mask;
    uint32_t format;
    uint32_t parts; /* bit p: part p follows; then the sinks */
    uint64_t checksum[2];
};

static void header_fill(struct file_header *header, const struct kv_formats *formats,
                        const struct kv_prefix_identity *identity)
{
    const struct kv_shape *shape = identity->shape;
    memset(header, 0, sizeof *header);
    memcpy(header->magic, magic, sizeof magic);
    header->identity[0] = identity->hash.low;
    header->identity[1] = identity->hash.high;
    header->n_formats = (uint32_t)kv_formats_count(formats);
    for (int f = 0; f < kv_formats_count(formats); f++) {
        const struct kv_format *format = kv_formats_at(formats, f);
        memcpy(header->formats[f].name, format->name, NAME_BYTES);
        header->sink_bytes = kv_block_bytes(KV_SINK, shape);
        if (format->codec == NULL) header->formats[f].part_bytes[0] = kv_block_bytes(KV_F16, shape);
        for (int p = 0; format->codec != NULL && p < format->codec->n_parts; p++)
            header->formats[f].part_bytes[p] = kv_codec_part_bytes(format->codec, p);
    }
}

/* What stands behind a record, in order: its parts, then its sinks. Calls `each` until it says false. */
struct piece {
    char *bytes;
    size_t n;
};

static int pieces_of(const struct file_header *header, const struct file_record *record,
                     const struct kv_block_ref *block, struct piece pieces[KV_MAX_PARTS + KV_MAX_SINKS])
{
    int n = 0;
    for (int p = 0; p < KV_MAX_PARTS; p++)
        if (record->parts & 1u << p)
            pieces[n++] =
                (struct piece){block->parts[p], (size_t)header->formats[record->format].part_bytes[p]};
    for (int s = 0; s < __builtin_popcountll(record->sink_mask); s++)
        pieces[n++] = (struct piece){block->sinks[s], (size_t)header->sink_bytes};
    return n;
}

/*
 * Blocks on a device go through the host: a record's pieces one after the other in `bytes`.
 */
struct bounce {
    struct backend *backend; /* NULL: the host sees the blocks themselves */
    char *bytes;
};

static enum err bounce_create(const struct kv_pool *pool, const struct file_header *header,
                              struct bounce *out, struct err_info *info)
{
    size_t most = 0;
    *out = (struct bounce){.backend = kv_pool_backend(pool)};
    if (out->backend == NULL) return ERR_OK;
    for (uint32_t f = 0; f < header->n_formats; f++) {
        size_t n = 0;
        for (int p = 0; p < KV_MAX_PARTS; p++) n += (size_t)header->formats[f].part_bytes[p];
        most = n > most ? n : most;
    }
    out->bytes = malloc(most + KV_MAX_SINKS * (size_t)header->sink_bytes);
    return out->bytes != NULL ? ERR_OK : err_set(info, ERR_MEMORY, "prompt cache: out of memory");
}

/* The same pieces where the host can see them. */
static void bounce_place(const struct bounce *bounce, const struct piece *pieces, int n, struct piece *out)
{
    char *at = bounce->bytes;
    for (int i = 0; i < n; i++) {
        out[i] = pieces[i];
        if (bounce->backend == NULL) continue;
        out[i].bytes = at;
        at += pieces[i].n;
    }
}

static void bounce_download(const struct bounce *bounce, const struct piece *from, int n,
                            const struct piece *to)
{
    for (int i = 0; i < n && bounce->backend != NULL; i++)
        bounce->backend->download(bounce->backend, to[i].bytes, from[i].bytes, from[i].n);
}

static void bounce_upload(const struct bounce *bounce, const struct piece *from, int n,
                          const struct piece *to)
{
    for (int i = 0; i < n && bounce->backend != NULL; i++)
        bounce->backend->upload(bounce->backend, to[i].bytes, from[i].bytes, from[i].n);
}

/* Of the record's fields and all its pieces. */
static void record_checksum(const struct file_record *record, const struct piece *pieces, int n_pieces,
                            XXH3_state_t *state, uint64_t checksum[2])
{
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, record, offsetof(struct file_record, checksum));
    for (int i = 0; i < n_pieces; i++) XXH3_128bits_update(state, pieces[i].bytes, pieces[i].n);
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    checksum[0] = hash.low64;
    checksum[1] = hash.high64;
}

/* ---- save ---- */

struct saver {
    FILE *file;
    struct file_header header;
    struct bounce bounce;
    XXH3_state_t *state;
};

static bool record_write(struct saver *saver, struct file_record *record, const struct kv_block_ref *block)
{
    struct piece stored[KV_MAX_PARTS + KV_MAX_SINKS], pieces[KV_MAX_PARTS + KV_MAX_SINKS];
    int n = pieces_of(&saver->header, record, block, stored);
    bounce_place(&saver->bounce, stored, n, pieces);
    bounce_download(&saver->bounce, stored, n, pieces);
    record_checksum(record, pieces, n, saver->state, record->checksum);
    bool good = fwrite(record, sizeof *record, 1, saver->file) == 1;
    for (int i = 0; i < n && good; i++) good = fwrite(pieces[i].bytes, pieces[i].n, 1, saver->file) == 1;
    return good;
}

static bool blocks_write(struct saver *saver, const struct kv_prefix *prefix,
                         void (*done)(int64_t n, int64_t of))
{
    struct kv_prefix_stats stats;
    kv_prefix_stats(prefix, &stats);
    bool good = fwrite(&saver->header, sizeof saver->header, 1, saver->file) == 1;
    struct kv_prefix_entry *entry = NULL;
    for (int64_t n = 1; good && (entry = kv_prefix_next_idle(prefix, entry)) != NULL; n++) {
        const struct kv_format *format;
        struct kv_block_ref block;
        struct kv_hash key = kv_prefix_view(entry, &format, &block);
        struct file_record record = {
            .key = {key.low, key.high}, .sink_mask = block.sink_mask, .format = (uint32_t)format->index};
        for (int p = 0; p < KV_MAX_PARTS; p++) record.parts |= block.parts[p] != NULL ? 1u << p : 0;
        good = record_write(saver, &record, &block);
        if (done != NULL) done(n, stats.n_idle);
    }
    struct file_record last = {0};
    return good && record_write(saver, &last, &(struct kv_block_ref){0});
}

enum err kv_prefix_save(const struct kv_prefix *prefix, const struct kv_pool *pool,
                        const struct kv_formats *formats, const struct kv_prefix_identity *identity,
                        const char *path, void (*done)(int64_t n, int64_t of), struct err_info *info)
{
    size_t length = strlen(path) + sizeof ".new";
    char *beside = malloc(length);
    struct saver saver = {.state = XXH3_createState()};
    header_fill(&saver.header, formats, identity);
    enum err err = beside != NULL && saver.state != NULL
                       ? bounce_create(pool, &saver.header, &saver.bounce, info)
                       : err_set(info, ERR_MEMORY, "%s: out of memory", path);
    if (err != ERR_OK) goto out;
    snprintf(beside, length, "%s.new", path);
    saver.file = fopen(beside, "wb");
    bool good = saver.file != NULL && blocks_write(&saver, prefix, done) && fflush(saver.file) == 0 &&
                fsync(fileno(saver.file)) == 0;
    const struct backend *backend = saver.bounce.backend;
    const char *failure = backend != NULL ? backend->failure(backend) : NULL;
    if (failure != NULL) {
        err = err_set(info, ERR_DEVICE, "%s: is not written: the device failed: %s", path, failure);
        unlink(beside);
    } else if (!good || rename(beside, path) != 0) {
        err = err_set(info, ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
        unlink(beside);
    }
out:
    if (saver.file != NULL) fclose(saver.file);
    XXH3_freeState(saver.state);
    free(saver.bounce.bytes);
    free(beside);
    return err;
}

/* ---- load ---- */

struct loader {
    struct kv_prefix *prefix;
    struct kv_pool *pool;
    const struct kv_formats *formats;
    const char *path;
    FILE *file;
    XXH3_state_t *state;
    struct file_header header;
    struct bounce bounce;
    int64_t n_blocks;
    bool is_full; /* the pool does not even hold this block */
};

static enum err header_check(struct loader *loader, const struct kv_prefix_identity *identity,
                             struct err_info *info)
{
    struct file_header ours;
    header_fill(&ours, loader->formats, identity);
    if (fread(&loader->header, sizeof loader->header, 1, loader->file) != 1 ||
        memcmp(loader->header.magic, magic, sizeof magic) != 0)
        return err_set(info, ERR_FORMAT, "%s: not a prompt cache of this version of octavo", loader->path);
    if (memcmp(loader->header.identity, ours.identity, sizeof ours.identity) != 0)
        return err_set(info, ERR_FORMAT,
                       "%s: made with another model, calibration, --kv-recent or --sink-tokens",
                       loader->path);
    if (memcmp(&loader->header, &ours, sizeof ours) != 0)
        return err_set(info, ERR_FORMAT, "%s: made with another --kv-format list", loader->path);
    return ERR_OK;
}

/* Memory for what the record says it has; false when the pool is full. */
static bool block_take(struct kv_pool *pool, const struct kv_format *format, const struct file_record *record,
                       struct kv_block_ref *block, char **sinks)
{
    bool good = true;
    for (int p = 0; p < KV_MAX_PARTS && good; p++) {
        if (!(record->parts & 1u << p)) continue;
        block->parts[p] = kv_pool_take(pool, kv_format_part_class(format, p));
        good = block->parts[p] != NULL;
    }
    int n = 0;
    for (uint64_t mask = record->sink_mask; mask != 0 && good; mask &= mask - 1) {
        sinks[n] = kv_pool_take(pool, KV_SINK);
        good = sinks[n] != NULL;
        if (good) block->sink_mask |= mask & -mask, n++;
    }
    block->sinks = sinks;
    return good;
}

static void block_give(struct kv_pool *pool, const struct kv_format *format, struct kv_block_ref *block)
{
    for (int p = 0; p < KV_MAX_PARTS; p++)
        if (block->parts[p] != NULL) kv_pool_release(pool, kv_format_part_class(format, p), block->parts[p]);
    for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++)
        kv_pool_release(pool, KV_SINK, block->sinks[s]);
}

/* Old parts complete, nothing unknown; recent parts all or none. */
static bool record_is_sound(const struct loader *loader, const struct file_record *record, int max_sinks)
{
    if (record->format >= loader->header.n_formats) return false;
    const struct kv_codec *codec = kv_formats_at(loader->formats, (int)record->format)->codec;
    if (codec == NULL) return record->parts == 1 && record->sink_mask == 0;
    if (__builtin_popcountll(record->sink_mask) > max_sinks) return false;
    uint32_t all = (1u << codec->n_parts) - 1, old = (1u << codec->n_old_parts) - 1;
    return record->parts == all || record->parts == old;
}

static enum err damaged(const struct loader *loader, struct err_info *info)
{
    return err_set(info, ERR_FORMAT, "%s: damaged or cut short behind block %lld", loader->path,
                   (long long)loader->n_blocks);
}

static enum err block_load(struct loader *loader, const struct file_record *record, struct err_info *info)
{
    const struct kv_format *format = kv_formats_at(loader->formats, (int)record->format);
    struct kv_block_ref block = {0};
    char *sinks[KV_MAX_SINKS];
    struct piece stored[KV_MAX_PARTS + KV_MAX_SINKS], pieces[KV_MAX_PARTS + KV_MAX_SINKS];
    size_t needed = 0;
    for (int p = 0; p < KV_MAX_PARTS; p++)
        if (record->parts & 1u << p)
            needed += kv_pool_block_bytes(loader->pool, kv_format_part_class(format, p));
    needed += (size_t)__builtin_popcountll(record->sink_mask) * kv_pool_block_bytes(loader->pool, KV_SINK);
    if (!kv_prefix_reclaim(loader->prefix, needed) ||
        !block_take(loader->pool, format, record, &block, sinks)) {
        block_give(loader->pool, format, &block);
        loader->is_full = true;
        return ERR_OK;
    }
    int n = pieces_of(&loader->header, record, &block, stored);
    bounce_place(&loader->bounce, stored, n, pieces);
    bool good = true;
    for (int i = 0; i < n && good; i++) good = fread(pieces[i].bytes, pieces[i].n, 1, loader->file) == 1;
    uint64_t checksum[2];
    if (good) record_checksum(record, pieces, n, loader->state, checksum);
    struct kv_hash key = {record->key[0], record->key[1]};
    if (!good || memcmp(checksum, record->checksum, sizeof checksum) != 0 ||
        kv_prefix_find(loader->prefix, key) != NULL) {
        block_give(loader->pool, format, &block);
        return damaged(loader, info);
    }
    bounce_upload(&loader->bounce, pieces, n, stored);
    bool has_recent = format->codec != NULL && record->parts >> format->codec->n_old_parts != 0;
    enum kv_prefix_use use = has_recent ? KV_USE_RECENT : KV_USE_OLD;
    if (format->codec == NULL) block.f16 = block.parts[0];
    struct kv_prefix_entry *entry = kv_prefix_insert(loader->prefix, key, format, use, &block);
    if (entry == NULL) {
        block_give(loader->pool, format, &block);
        loader->is_full = true;
        return ERR_OK;
    }
    kv_prefix_drop(loader->prefix, entry, use);
    loader->n_blocks++;
    return ERR_OK;
}

static enum err blocks_load(struct loader *loader, struct err_info *info)
{
    while (!loader->is_full) {
        struct file_record record;
        if (fread(&record, sizeof record, 1, loader->file) != 1) return damaged(loader, info);
        if (record.parts == 0) {
            uint64_t checksum[2];
            record_checksum(&record, NULL, 0, loader->state, checksum);
            bool is_last = memcmp(checksum, record.checksum, sizeof checksum) == 0;
            return is_last ? ERR_OK : damaged(loader, info);
        }
        if (!record_is_sound(loader, &record, kv_prefix_max_sinks(loader->prefix)))
            return damaged(loader, info);
        enum err err = block_load(loader, &record, info);
        if (err != ERR_OK) return err;
    }
    return ERR_OK;
}

enum err kv_prefix_load(struct kv_prefix *prefix, struct kv_pool *pool, const struct kv_formats *formats,
                        const struct kv_prefix_identity *identity, const char *path, int64_t *n_blocks,
                        struct err_info *info)
{
    struct loader loader = {
        .prefix = prefix, .pool = pool, .formats = formats, .path = path, .state = XXH3_createState()};
    if (loader.state == NULL) return err_set(info, ERR_MEMORY, "%s: out of memory", path);
    enum err err = ERR_OK;
    loader.file = fopen(path, "rb");
    if (loader.file == NULL) {
        err = err_set(info, ERR_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    err = header_check(&loader, identity, info);
    if (err == ERR_OK) err = bounce_create(pool, &loader.header, &loader.bounce, info);
    if (err == ERR_OK) err = blocks_load(&loader, info);
    if (err != ERR_OK)
        kv_prefix_clear(prefix);
    else
        *n_blocks = loader.n_blocks;
out:
    if (loader.file != NULL) fclose(loader.file);
    XXH3_freeState(loader.state);
    free(loader.bounce.bytes);
    return err;
}
