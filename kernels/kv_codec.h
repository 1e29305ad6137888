#ifndef KERNELS_KV_CODEC_H
#define KERNELS_KV_CODEC_H

#include "config/err.h"
#include "kernels/kv_page.h"

/*
 * A coded cache format: how 64 keys and 64 values of one layer and head become codes, and what a code is
 * worth.
 *
 * Coordinates. A key becomes z = A (k_frame - RoPE_o(mean)), a value z = H (v - mean) (struct kv_tables). The
 * head_dim channels fall into groups of KV_CODE_GROUP; a group has 0, 1, 2 or 4 bits a channel, not
 * increasing from group to group. With y = z / r, r = RMS of z over the channels that part 0 codes (0 for a
 * vector with |z|^2 < 1e-30 there, whose codes are those of y = 0 and whose scales are 0):
 *
 *   part p codes what the parts before it left:  y_p = y - sum_{q<p} unit_q * level_q,  e = y_p / unit_p
 *   0 bits  nothing, level 0
 *   1 bit   u = 8 when e >= 0 else 0;                            level = 2u - 8
 *   4 bits  u = clamp(floor(e / 2), -8, 7) + 8;                  level = 2u - 15
 *   2 bits  a code c_j of bits m_j (high) and l_j (low); with the code before it
 *           u = 5 m_j + 3 l_j + 4 l_(j-1) + 3 (1 - m_(j-1));     level = 2u - 15
 *
 * So u is at most 15 whatever the bits. The 2-bit code is a trellis code of four states over words of 16
 * codes, tail-biting: the code before the first is the last. On a unit Gaussian its error is .0970 where a
 * 2-bit grid has .1189, and its level is linear in the bits, so a device can read it as bit planes, and a CPU
 * by looking up nibbles. A word of keys is one token's group of channels; a word of values is one channel
 * over 16 tokens in a row. Which codes: those with the least sum of (X - 4 level)^2 over the word, with X =
 * clamp(rint(4 e), -96, 96), all in integers; of equals, the one that kernels/cpu/kv_trellis.h finds first.
 *
 * Scales. A reader of parts 0..p multiplies yhat_p = sum_q unit_q level_q by gain_p, 1 / E y yhat_p on a unit
 * Gaussian, and by the token's scale_p. Both make the projection on what was coded unbiased, one from group
 * to group and one for the token, so that a softmax does not flatten:
 *
 *   scale_p = sum w z z / sum w z gain_p yhat_p    over the groups coded by then
 *
 * fp16, saturated (to the bit, and its limit: kernels/cpu/kv_write.h); w = sigma^3 of the group for keys
 * (design 2.2), 1 for values.
 *
 * Geometry. A part's page of (layer, head): key codes, value codes, key scales [64], value scales [64]; it
 * stands at part address + offset[layer * n_kv_heads + head]. Codes are matrices of rows x columns, rows =
 * tokens, columns = channels for keys; rows = channels, columns = tokens for values. Order: [row tile of 8]
 * [group of 16 columns][words]. Within a group of 16 columns, column 4 b + q stands in byte b of a row's
 * 4 bytes, and q says where in the byte:
 *
 *   4 bits  two runs of 32 bytes (8 rows of 4 bytes): run q / 2, low nibble for even q, high for odd
 *   2 bits  one run: bits 2q, 2q + 1; so the 16 codes of a row are a 32-bit little-endian word, code j
 *           at bits 2j, 2j + 1, and code j with the one before it is (word >> (2 j - 2)) & 15
 *   1 bit   half a run: two groups in a row share one, the first at bit q, the second at bit 4 + q; a last
 *           one without a partner leaves bits 4..7 zero
 *
 * A value part's bits belong to rows: a row tile has the bits of its group of channels in every group of
 * columns.
 */
struct kv_code {
    uint8_t key_bits[KV_MAX_CODE_GROUPS], value_bits[KV_MAX_CODE_GROUPS];
};

struct kv_part {
    const struct kv_code *codes;        /* [n_pages] */
    const size_t *offset;               /* [n_pages + 1]; the last: bytes of the whole block */
    const float *key_unit, *value_unit; /* [n_pages][n_groups]; 0 where there are no bits */
    const float *key_gain, *value_gain; /* [n_pages][n_groups]: for readers of all parts up to this one */
};

struct kv_codec {
    uint64_t serial; /* of no other codec of this process: what a device knows its copy by */
    struct kv_shape shape;
    int n_groups, n_pages; /* head_dim / 16; layers * KV heads */
    int n_parts;           /* what blocks of age 1..recent_blocks are read with */
    int n_old_parts;       /* what older blocks are read with; 1..n_parts */
    struct kv_part parts[KV_MAX_PARTS];
    const float *key_weight;        /* [n_pages][n_groups] */
    const struct kv_tables *tables; /* borrowed */
    struct kv_rotate *rotate; /* not NULL: another quantizer altogether, kernels/kv_rotate.h; then parts[0]
                                 has an offset and nothing else; owned */
};

struct kv_codec_spec {
    struct kv_shape shape;
    const struct kv_tables *tables; /* outlive the codec */
    int n_parts, n_old_parts;
    const struct kv_code *codes[KV_MAX_PARTS]; /* [n_pages] of each part; copied */
    const float *key_sigma;                    /* [n_pages][n_groups]; NULL: all alike */
};

/* ERR_MEMORY. Programmer errors: bits that increase, or are none of 0, 1, 2, 4. */
enum err kv_codec_create(const struct kv_codec_spec *spec, struct kv_codec **out, struct err_info *info);
void kv_codec_free(struct kv_codec *codec);

/* A number that no codec has had yet, for those made elsewhere (kernels/kv_rotate.h). */
uint64_t kv_codec_serial(void);

/* Where in a part's page things stand. */
size_t kv_key_code_bytes(const uint8_t *bits, int n_groups);
size_t kv_value_code_bytes(const uint8_t *bits, int n_groups);
struct kv_page {
    uint8_t *key_codes, *value_codes;
    uint16_t *key_scales, *value_scales; /* [64] */
};
struct kv_page kv_codec_page(const struct kv_codec *codec, int part, char *block, size_t page_index);

/* Bytes of a part of a block, all layers and heads. */
size_t kv_codec_part_bytes(const struct kv_codec *codec, int part);

/* Expected squared error on a unit Gaussian of a channel that the parts code with bits[0..n_parts-1]; never
   read with fewer than n_old_parts. */
double kv_code_distortion(const uint8_t *bits, int n_parts, int n_old_parts);

#endif
