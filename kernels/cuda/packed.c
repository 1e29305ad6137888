#include "kernels/cuda/packed.h"

#include <assert.h>
#include <string.h>

/* Quantized weights from the file's order to that of packed.h, on the host when the model is loaded. */

struct form {
    int low_bits, high_bits;
    enum cuda_packed_record record;
    int unit_blocks, code_bytes, record_bytes;
};

static bool form_of(enum dtype dtype, struct form *out)
{
#define FORM(type, low, high, kind, middle)                                                                  \
    if (dtype == DTYPE_##type) {                                                                             \
        *out = (struct form){low,                                                                            \
                             high,                                                                           \
                             kind,                                                                           \
                             CUDA_PACKED_UNIT_BLOCKS(kind),                                                  \
                             CUDA_PACKED_CODE_BYTES(low, high),                                              \
                             CUDA_PACKED_RECORD_BYTES(kind)};                                                \
        return true;                                                                                         \
    }
    CUDA_PACKED_FORMS(FORM)
#undef FORM
    return false;
}

bool cuda_packed_has(enum dtype dtype)
{
    struct form form;
    return form_of(dtype, &form);
}

static size_t unit_bytes(const struct form *form)
{
    return (size_t)(form->unit_blocks * form->code_bytes + form->record_bytes);
}

size_t cuda_packed_tile_bytes(enum dtype dtype, int n_cols)
{
    struct form form = {0};
    bool has = form_of(dtype, &form);
    assert(has);
    (void)has;
    int unit_columns = form.unit_blocks * CUDA_PACKED_COLUMNS;
    return (size_t)((n_cols + unit_columns - 1) / unit_columns) * unit_bytes(&form);
}

/* Where a code of row 0 and some column of a block goes; of row r the byte is + (r % 8) lanes, and bits that
   of half r / 8. */
struct place {
    uint16_t low_byte[2], high_byte[2]; /* of halves 0 and 1 */
    uint8_t low_shift[2], high_shift[2];
};

static struct place place_of(const struct form *form, int column)
{
    struct place place;
    int k = column / 16, h = column / 8 % 2, tid = column / 2 % 4, e = column % 2;
    for (int half = 0; half < 2; half++) {
        int pair = 2 * h + half, word = form->low_bits == 4 ? k : 2 * k + h;
        int bit = form->low_bits == 4 ? 4 * pair + 16 * e : 8 * half + 16 * e;
        place.low_byte[half] = (uint16_t)(word / 4 * 512 + tid * 16 + word % 4 * 4 + bit / 8);
        place.low_shift[half] = (uint8_t)(bit % 8);
        word = form->high_bits == 2 ? k / 2 : 0;
        bit = form->high_bits == 2 ? 8 * (k % 2) + 2 * pair + 16 * e : 4 * k + pair + 16 * e;
        place.high_byte[half] =
            (uint16_t)(form->low_bits * 128 + (tid * form->high_bits + word) * 4 + bit / 8);
        place.high_shift[half] = (uint8_t)(bit % 8);
    }
    return place;
}

/* Codes of 32 columns of a row of a tile. */
static void codes_put(const struct form *form, const struct place *places, const uint8_t codes[32], int row,
                      uint8_t *out)
{
    int gid = row % 8, half = row / 8, low_mask = (1 << form->low_bits) - 1;
    uint8_t *low = out + gid * 64, *high = out + gid * 16 * form->high_bits;
    for (int j = 0; j < 32; j++) {
        const struct place *place = &places[j];
        low[place->low_byte[half]] |= (uint8_t)((codes[j] & low_mask) << place->low_shift[half]);
        if (form->high_bits)
            high[place->high_byte[half]] |=
                (uint8_t)((codes[j] >> form->low_bits) << place->high_shift[half]);
    }
}

/* Six bits of a scale or a minimum: the i-th of a block. */
static void minima_put(uint8_t *words, int block, int i, int bits)
{
    if (block < 3) words[block * 4 + i] |= (uint8_t)bits;
    for (int w = 0; block == 3 && w < 3; w++) words[w * 4 + i] |= (uint8_t)((bits >> 2 * w & 3) << 6);
}

/* Of a GGUF block of 256 columns. */
static void scales_put(const struct form *form, const uint8_t *block, int row, uint8_t *record)
{
    int gid = row % 8, half = row / 8;
    if (form->record == CUDA_PACKED_MINIMA) {
        uint8_t scale[8], minimum[8], *to = record + gid * 32 + half * 16;
        dtype_k_scales(block + 4, scale, minimum);
        memcpy(to, block, 4);
        for (int g = 0; g < 8; g++) {
            minima_put(to + 4, g / 2, g % 2 * 2, scale[g]);
            minima_put(to + 4, g / 2, g % 2 * 2 + 1, minimum[g]);
        }
    } else {
        for (int i = 0; i < 16; i++)
            record[i / 4 * 64 + gid * 8 + half * 4 + i % 4] = (uint8_t)(block[192 + i] ^ 128);
        memcpy(record + 256 + gid * 4 + half * 2, block + 208, 2);
    }
}

static void row_put(enum dtype dtype, const struct form *form, const struct place *places,
                    const uint8_t *blocks, int row, int n_cols, uint8_t *tile)
{
    int block_groups = (int)dtype_block_elements(dtype) / 32, unit_groups = form->unit_blocks * 2;
    size_t block_bytes = dtype_block_bytes(dtype);
    for (int g = 0; g < n_cols / 32; g++) {
        const uint8_t *block = blocks + (size_t)(g / block_groups) * block_bytes;
        uint8_t *unit = tile + (size_t)(g / unit_groups) * unit_bytes(form), codes[32];
        uint8_t *record = unit + form->unit_blocks * form->code_bytes;
        dtype_group_codes(dtype, block, g % block_groups, codes);
        for (int j = 0; dtype == DTYPE_Q8_0 && j < 32; j++) codes[j] ^= 128;
        codes_put(form, places + g % 2 * 32, codes, row, unit + g % unit_groups / 2 * form->code_bytes);
        if (form->record == CUDA_PACKED_HALVES)
            memcpy(record + row % 8 * 8 + row / 8 * 4 + g % 2 * 2, block, 2);
        else if (g % block_groups == 0)
            scales_put(form, block, row, record);
    }
}

void cuda_packed_fill(enum dtype dtype, const void *const *rows, int n_rows, int n_cols, void *out)
{
    struct form form = {0};
    struct place places[CUDA_PACKED_COLUMNS];
    size_t tile_bytes = cuda_packed_tile_bytes(dtype, n_cols);
    form_of(dtype, &form);
    for (int c = 0; c < CUDA_PACKED_COLUMNS; c++) places[c] = place_of(&form, c);
    memset(out, 0, tile_bytes * (size_t)((n_rows + CUDA_PACKED_ROWS - 1) / CUDA_PACKED_ROWS));
    for (int r = 0; r < n_rows; r++)
        row_put(dtype, &form, places, rows[r], r % CUDA_PACKED_ROWS, n_cols,
                (uint8_t *)out + (size_t)(r / CUDA_PACKED_ROWS) * tile_bytes);
}
