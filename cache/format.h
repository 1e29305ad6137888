#ifndef CACHE_FORMAT_H
#define CACHE_FORMAT_H

#include "cache/calibration.h"
#include "kernels/kv_codec.h"

/*
 * The cache formats that a server was started with. A name is `f16`; `oB` (keys and values at B bits); or
 * `kBvC` (keys at B, values at C); B and C of 1.5, 2, 2.5, 3, 4, 8; or `rotatekv` (kernels/kv_rotate.h).
 */
enum { KV_MAX_FORMATS = 8, KV_FORMAT_NAME_BYTES = 16 };
enum { KV_FORMAT_LIST_BYTES = KV_MAX_FORMATS * (KV_FORMAT_NAME_BYTES + 2) };

struct kv_format {
    char name[KV_FORMAT_NAME_BYTES];
    int index;                    /* in its set */
    const struct kv_codec *codec; /* NULL: f16 */
};

extern const struct kv_format kv_format_f16; /* for who needs no set; index 0 */

struct kv_formats; /* the set; owns codecs and tables */

/* The names alone, as kv_formats_create takes them: what can be said before a model is there. */
enum err kv_formats_check(const char *names, struct err_info *info);

/* names: separated by commas, the first is the default. calibration: NULL for the identity tables; used
   during the call only. n_frames: frames of KV_FRAME_TOKENS that the longest sequence has; inv_freq: the
   model's. ERR_USAGE: an unknown, repeated or too many names, with what is known. ERR_MEMORY. */
enum err kv_formats_create(const struct kv_shape *shape, const char *names,
                           const struct calibration *calibration, int n_frames, const double *inv_freq,
                           struct kv_formats **out, struct err_info *info);
void kv_formats_free(struct kv_formats *formats);

int kv_formats_count(const struct kv_formats *formats);
const struct kv_format *kv_formats_at(const struct kv_formats *formats, int index);
/* NULL when the set has none of this name. */
const struct kv_format *kv_formats_find(const struct kv_formats *formats, const char *name);
/* "o2, f16, o4", for messages; size: KV_FORMAT_LIST_BYTES is enough. */
void kv_formats_list(const struct kv_formats *formats, char *out, size_t size);

#endif
