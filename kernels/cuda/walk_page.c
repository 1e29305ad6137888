#include "kernels/cuda/cuda.h"

/*
 * struct cuda_walk_page of a page, from a codec.
 */

static int larger(int a, int b)
{
    return a > b ? a : b;
}

/* Bits and geometry of a part. */
static void part_fill(const struct kv_codec *codec, int index, int p, struct cuda_walk_page *page)
{
    const struct kv_part *part = &codec->parts[p];
    const struct kv_code *code = &part->codes[index];
    page->is_trellis[p] = 1;
    for (int g = 0; g < codec->n_groups; g++) { /* bits do not increase */
        int bits = code->key_bits[g], value_bits = code->value_bits[g];
        page->value_bits[p][g] = value_bits;
        page->key_ends[p][0] += bits == 4, page->key_ends[p][1] += bits >= 2,
            page->key_ends[p][2] += bits >= 1;
        page->has_plain |= value_bits == 1 || value_bits == 4;
        page->is_trellis[p] &= value_bits == 2;
    }
    page->key_bytes[p] = (int)kv_key_code_bytes(code->key_bits, codec->n_groups);
    page->row_bytes[p] = page->key_bytes[p] / (KV_BLOCK_TOKENS / 8);
    page->page_bytes[p] = (int)(part->offset[index + 1] - part->offset[index]);
    page->offset[p] = part->offset[index];
    page->n_chunks[p] = (page->row_bytes[p] / 32 + 3) / 4;
    page->n_nibble_chunks[p] = page->key_ends[p][0] / 2;
    page->is_ragged[p] = page->row_bytes[p] % 128 != 0 || (page->key_ends[p][2] - page->key_ends[p][1]) % 2;
}

/* Of a group in a part that is read with the parts up to last. */
static void factors_fill(const struct kv_codec *codec, int index, int set, int p, int g,
                         struct cuda_walk_page *page)
{
    size_t cell = (size_t)index * (size_t)codec->n_groups + (size_t)g;
    const struct kv_part *part = &codec->parts[p],
                         *last = &codec->parts[(set ? codec->n_parts : codec->n_old_parts) - 1];
    int key_bits = part->codes[index].key_bits[g], bits = page->value_bits[p][g];
    page->key_factor[set][p][g] = part->key_unit[cell] * last->key_gain[cell] * (key_bits == 1 ? 8 : 1);
    page->value_factor[set][p][g] = part->value_unit[cell] * last->value_gain[cell] * (bits == 1 ? 8 : 1) *
                                    (bits == 2 ? 1 : 2 / CUDA_WALK_PLAIN);
    float bound = page->key_factor[set][p][g] * (key_bits == 2 ? 14 : 2);
    if (p < page->n_parts[set] && bound > page->key_bound[set][g]) page->key_bound[set][g] = bound;
}

void cuda_walk_page_fill(const struct kv_codec *codec, int index, struct cuda_walk_page *page)
{
    *page = (struct cuda_walk_page){.n_parts = {codec->n_old_parts, codec->n_parts}};
    struct cuda_walk_room *room = &page->room;
    for (int p = 0; p < codec->n_parts; p++) {
        part_fill(codec, index, p, page);
        page->first_chunk[p] = room->chunks;
        page->all_key_bytes += page->key_bytes[p];
        page->all_value_bytes +=
            page->page_bytes[p] - page->key_bytes[p] - (int)(2 * KV_BLOCK_TOKENS * sizeof(uint16_t));
        room->chunks += page->n_chunks[p];
        if (p < codec->n_old_parts) room->old_chunks = room->chunks, room->old_bytes += page->page_bytes[p];
        for (int set = 0; set < 2; set++)
            for (int g = 0; g < codec->n_groups; g++) factors_fill(codec, index, set, p, g, page);
    }
    page->is_plain_old = codec->n_old_parts == 1 && page->is_trellis[0] && page->n_chunks[0] > 0;
    room->recent_bytes =
        larger(page->all_key_bytes, page->all_value_bytes) + 2 * KV_BLOCK_TOKENS * (int)sizeof(uint16_t);
    room->kinds = page->has_plain ? 3 : 2;
    for (int g = 0; g < codec->n_groups; g++) {
        float base = page->value_factor[0][0][g] > 0 ? page->value_factor[0][0][g] : 1;
        page->value_base[g] = base;
        for (int at = 0; at < 2 * codec->n_parts; at++) page->value_factor[at % 2][at / 2][g] /= base;
    }
}

void cuda_walk_room_fit(struct cuda_walk_room *most, const struct cuda_walk_room *page)
{
    most->old_chunks = larger(most->old_chunks, page->old_chunks);
    most->chunks = larger(most->chunks, page->chunks);
    most->old_bytes = larger(most->old_bytes, page->old_bytes);
    most->recent_bytes = larger(most->recent_bytes, page->recent_bytes);
    most->kinds = larger(most->kinds, page->kinds);
}
