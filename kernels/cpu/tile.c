#include "kernels/cpu/tile.h"

#include <string.h>

static size_t scale_block_bytes(struct tile_format format)
{
    return (size_t)(format.scale_bytes + format.groups_per_scale * format.code_bytes);
}

size_t tile_bytes(enum dtype dtype, int n_cols)
{
    struct tile_format format = tile_format(dtype);
    return (size_t)(n_cols / TILE_GROUP / format.groups_per_scale) * scale_block_bytes(format);
}

/* Floats: element (row, column) of size `size` to [column][row]. */
static void pack_floats(const void *const rows[TILE_ROWS], int n_cols, size_t size, char *tile)
{
    for (int row = 0; row < TILE_ROWS; row++) {
        const char *source = rows[row];
        if (!source) continue;
        for (size_t c = 0; c < (size_t)n_cols; c++)
            memcpy(tile + (c * TILE_ROWS + (size_t)row) * size, source + c * size, size);
    }
}

/* quads[q][4*row + i]: the codes of a group, one a byte. */
static void pack_codes(enum dtype dtype, uint8_t quads[TILE_QUADS][32], uint8_t *out)
{
    if (dtype == DTYPE_Q8_0) {
        memcpy(out, quads, 256);
        return;
    }
    for (int pair = 0; pair < 4; pair++)
        for (int k = 0; k < 32; k++)
            out[pair * 32 + k] = (uint8_t)((quads[2 * pair][k] & 15) | quads[2 * pair + 1][k] << 4);
    out += 128;
    if (tile_code_bits(dtype) == 5) {
        memset(out, 0, 32);
        for (int q = 0; q < TILE_QUADS; q++)
            for (int k = 0; k < 32; k++) out[k] |= (uint8_t)(quads[q][k] >> 4 << q);
    } else if (dtype == DTYPE_Q6_K) {
        memset(out, 0, 64);
        for (int q = 0; q < TILE_QUADS; q++)
            for (int k = 0; k < 32; k++) out[q / 4 * 32 + k] |= (uint8_t)(quads[q][k] >> 4 << q % 4 * 2);
    }
}

static void put_half(char *out, int row, const uint8_t *half)
{
    memcpy(out + 2 * row, half, 2);
}

/* The scales of one row's block into the tile's scales of that block. */
static void pack_scales(enum dtype dtype, const uint8_t *block, int row, char *out)
{
    uint8_t scale[8], minimum[8];
    switch (dtype) {
    case DTYPE_Q4_1:
    case DTYPE_Q5_1:
        put_half(out, row, block);
        put_half(out + 16, row, block + 2);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        put_half(out, row, block);
        put_half(out + 16, row, block + 2);
        dtype_k_scales(block + 4, scale, minimum);
        for (int g = 0; g < 8; g++) {
            out[32 + g * 16 + row] = (char)scale[g];
            out[32 + g * 16 + 8 + row] = (char)minimum[g];
        }
        break;
    case DTYPE_Q6_K:
        put_half(out, row, block + 208);
        for (int i = 0; i < 16; i++) out[16 + i * 8 + row] = (char)block[192 + i];
        break;
    default:
        put_half(out, row, block);
    }
}

/* One group of 32 columns. blocks: the file's, of each row; out: where the tile's scale block begins. */
static void pack_group(enum dtype dtype, const uint8_t *const blocks[TILE_ROWS], int group, char *out)
{
    struct tile_format format = tile_format(dtype);
    uint8_t quads[TILE_QUADS][32] = {0}, codes[TILE_GROUP];
    for (int row = 0; row < TILE_ROWS; row++) {
        if (!blocks[row]) continue;
        dtype_group_codes(dtype, blocks[row], group, codes);
        for (int q = 0; q < TILE_QUADS; q++) memcpy(&quads[q][4 * row], &codes[4 * q], 4);
        if (group == 0) pack_scales(dtype, blocks[row], row, out);
    }
    pack_codes(dtype, quads, (uint8_t *)out + format.scale_bytes + group * format.code_bytes);
}

void tile_pack(enum dtype dtype, const void *const rows[TILE_ROWS], int n_cols, void *tile)
{
    struct tile_format format = tile_format(dtype);
    memset(tile, 0, tile_bytes(dtype, n_cols));
    if (!tile_is_quantized(dtype)) {
        pack_floats(rows, n_cols, dtype_block_bytes(dtype), tile);
        return;
    }
    char *out = tile;
    int n_blocks = n_cols / TILE_GROUP / format.groups_per_scale;
    for (int b = 0; b < n_blocks; b++, out += scale_block_bytes(format)) {
        const uint8_t *blocks[TILE_ROWS] = {NULL};
        for (int row = 0; row < TILE_ROWS; row++)
            if (rows[row]) blocks[row] = (const uint8_t *)rows[row] + (size_t)b * dtype_block_bytes(dtype);
        for (int g = 0; g < format.groups_per_scale; g++) pack_group(dtype, blocks, g, out);
    }
}
