#include "cache/swap_block.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

static struct kv_swap_checksum checksum_of(struct kv_hash key, const struct kv_swap_piece *piece)
{
    struct {
        struct kv_hash key;
        uint64_t number, low, high;
    } all = {.key = key, .number = (uint64_t)piece->number};
    XXH128_hash_t hash = XXH3_128bits(piece->memory, piece->n_bytes);
    all.low = hash.low64;
    all.high = hash.high64;
    hash = XXH3_128bits(&all, sizeof all);
    return (struct kv_swap_checksum){hash.low64, hash.high64};
}

static bool put(struct kv_swap_file *file, char *place, const void *from, size_t n)
{
    if (file != NULL) return kv_swap_file_write(file, place, from, n);
    if (place != from) memcpy(place, from, n);
    return true;
}

static bool get(const struct kv_swap_file *file, const char *place, void *to, size_t n)
{
    if (file != NULL) return kv_swap_file_read(file, place, to, n);
    if (place != to) memcpy(to, place, n);
    return true;
}

enum kv_swap_outcome kv_swap_block_write(struct kv_swap_file *file, const struct kv_swap_block *block)
{
    errno = 0;
    for (int i = 0; i < block->n_pieces; i++) {
        const struct kv_swap_piece *piece = &block->pieces[i];
        struct kv_swap_checksum checksum = checksum_of(block->key, piece);
        if (!put(file, piece->place, piece->memory, piece->n_bytes) ||
            !put(file, piece->place + piece->n_bytes, &checksum, sizeof checksum))
            return KV_SWAP_FAILED;
    }
    return KV_SWAP_DONE;
}

enum kv_swap_outcome kv_swap_block_read(const struct kv_swap_file *file, const struct kv_swap_block *block)
{
    errno = 0;
    for (int i = 0; i < block->n_pieces; i++) {
        const struct kv_swap_piece *piece = &block->pieces[i];
        struct kv_swap_checksum stored;
        if (!get(file, piece->place, piece->memory, piece->n_bytes) ||
            !get(file, piece->place + piece->n_bytes, &stored, sizeof stored))
            return KV_SWAP_FAILED;
        struct kv_swap_checksum checksum = checksum_of(block->key, piece);
        if (checksum.low != stored.low || checksum.high != stored.high) return KV_SWAP_DAMAGED;
    }
    return KV_SWAP_DONE;
}
