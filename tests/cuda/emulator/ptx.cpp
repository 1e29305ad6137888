#include <emulated_ptx.h>

/* The operations of a warp on fragments, in the layouts of the PTX ISA (kernels/cuda/ptx.cuh). */

enum { LANES = 32 };

static float low(uint32_t pair)
{
    return _cvtsh_ss((unsigned short)pair);
}

static float high(uint32_t pair)
{
    return _cvtsh_ss((unsigned short)(pair >> 16));
}

/* A card keeps more bits than fp32 in a sum of 16 products and rounds in its own way; here the sum is exact
   and rounded once. */
void emulated_multiply(void *const *args, unsigned)
{
    double a[16][16], b[16][8];
    for (int lane = 0; lane < LANES; lane++) {
        const emulated_fragments *f = (const emulated_fragments *)args[lane];
        int gid = lane / 4, tid = lane % 4;
        for (int i = 0; i < 4; i++) {
            double *at = &a[gid + i % 2 * 8][2 * tid + i / 2 * 8];
            at[0] = low(f->a[i]), at[1] = high(f->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            b[2 * tid + 8 * i][gid] = low(f->b[i]);
            b[2 * tid + 8 * i + 1][gid] = high(f->b[i]);
        }
    }
    double c[16][8] = {};
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < LANES; lane++) {
        float *out = ((const emulated_fragments *)args[lane])->c;
        for (int e = 0; e < 4; e++)
            out[e] = (float)((double)out[e] + c[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2]);
    }
}

void emulated_multiply_bytes(void *const *args, unsigned)
{
    int a[16][32] = {}, b[32][8] = {}, n = ((const emulated_byte_fragments *)args[0])->n;
    for (int lane = 0; lane < LANES; lane++) {
        const emulated_byte_fragments *f = (const emulated_byte_fragments *)args[lane];
        int gid = lane / 4, tid = lane % 4;
        for (int i = 0; i < n / 8; i++)
            for (int e = 0; e < 4; e++) a[gid + i % 2 * 8][4 * tid + i / 2 * 16 + e] = f->a[i] >> (8 * e) & 255;
        for (int i = 0; i < n / 16; i++)
            for (int e = 0; e < 4; e++) b[4 * tid + i * 16 + e][gid] = (int8_t)(f->b[i] >> (8 * e));
    }
    int c[16][8] = {};
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < n; k++)
            for (int column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < LANES; lane++) {
        int *out = ((const emulated_byte_fragments *)args[lane])->c;
        for (int e = 0; e < 4; e++) out[e] += c[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2];
    }
}

void emulated_transpose(void *const *args, unsigned)
{
    uint16_t matrix[8][8];
    for (int lane = 0; lane < LANES; lane++) memcpy(&matrix[lane / 4][lane % 4 * 2], args[lane], 4);
    for (int lane = 0; lane < LANES; lane++) {
        int row = lane / 4, column = lane % 4 * 2;
        *(uint32_t *)args[lane] = matrix[column][row] | (uint32_t)matrix[column + 1][row] << 16;
    }
}

void emulated_load_matrix(void *const *args, unsigned)
{
    int n = ((const emulated_matrices *)args[0])->n;
    for (int m = 0; m < n; m++)
        for (int row = 0; row < 8; row++) {
            uint32_t at = ((const emulated_matrices *)args[8 * m + row])->at;
            const char *from = (const char *)emulated_shared_at(at, 16, "ldmatrix");
            for (int tid = 0; tid < 4; tid++)
                memcpy(&((const emulated_matrices *)args[4 * row + tid])->out[m], from + 4 * tid, 4);
        }
}
