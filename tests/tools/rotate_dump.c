/*
 * rotate_dump LAYERS KV_HEADS HEAD_DIM BLOCKS IN OUT
 *
 * The quantizer of format rotatekv on blocks 0..BLOCKS-1 of a sequence, RoPE base 10000. C = KV_HEADS *
 * HEAD_DIM; all fp32 unless said.
 * IN:  key means [LAYERS][C] before RoPE; then for each layer and block: keys after RoPE [C][64], values
 *      [C][64]
 * OUT: key order [LAYERS][C] (int32); then for each layer and block: the layer's bytes (kernels/kv_rotate.h),
 *      decoded keys [C][64], decoded values [C][64]
 */
#include "kernels/kv_rotate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what)
{
    fprintf(stderr, "rotate_dump: %s\n", what);
    exit(1);
}

static void read_floats(FILE *file, float *x, size_t n)
{
    if (fread(x, sizeof *x, n, file) != n) fail("IN is too short");
}

static void block_dump(const struct kv_codec *codec, int layer, int block, float *x, char *codes, FILE *in,
                       FILE *out)
{
    const struct kv_rotate *rotate = codec->rotate;
    size_t n = (size_t)rotate->n_channels * KV_BLOCK_TOKENS;
    read_floats(in, x, n);
    kv_rotate_encode_keys(codec, layer, block, x, codes);
    read_floats(in, x, n);
    kv_rotate_encode_values(codec, x, codes);
    fwrite(codes, 1, rotate->layer_bytes, out);
    kv_rotate_decode_keys(codec, layer, block, codes, x);
    fwrite(x, sizeof *x, n, out);
    kv_rotate_decode_values(codec, codes, x);
    fwrite(x, sizeof *x, n, out);
}

int main(int argc, char **argv)
{
    if (argc != 7) fail("usage: rotate_dump LAYERS KV_HEADS HEAD_DIM BLOCKS IN OUT");
    struct kv_shape shape = {
        .n_layers = atoi(argv[1]), .n_kv_heads = atoi(argv[2]), .head_dim = atoi(argv[3])};
    shape.n_heads = shape.n_kv_heads;
    int n_blocks = atoi(argv[4]), half = shape.head_dim / 2;
    double inv_freq[KV_MAX_HEAD_DIM / 2];
    for (int i = 0; i < half; i++) inv_freq[i] = pow(10000, -(double)i / half);
    FILE *in = fopen(argv[5], "rb"), *out = fopen(argv[6], "wb");
    size_t n = (size_t)shape.n_kv_heads * (size_t)shape.head_dim;
    struct kv_tables *tables = kv_tables_identity(&shape, KV_FRAME_TOKENS, n_blocks / 4 + 1, inv_freq);
    float *means = malloc((size_t)shape.n_layers * n * sizeof *means);
    float *x = malloc(n * KV_BLOCK_TOKENS * sizeof *x);
    struct kv_codec *codec;
    struct err_info info;
    if (!in || !out || !tables || !means || !x) fail("cannot open the files, or no memory");
    read_floats(in, means, (size_t)shape.n_layers * n);
    if (kv_rotate_codec_create(&shape, tables, means, &codec, &info) != ERR_OK) fail(info.message);
    char *codes = malloc(codec->rotate->layer_bytes);
    if (!codes) fail("no memory");
    fwrite(codec->rotate->key_order, sizeof(int32_t), (size_t)shape.n_layers * n, out);
    for (int layer = 0; layer < shape.n_layers; layer++)
        for (int block = 0; block < n_blocks; block++) block_dump(codec, layer, block, x, codes, in, out);
    kv_codec_free(codec);
    kv_tables_free(tables);
    free(codes), free(x), free(means);
    fclose(in);
    return fclose(out) == 0 ? 0 : 1;
}
