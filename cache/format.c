#include "cache/format.h"

#include "cache/plan.h"
#include "kernels/kv_rotate.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kv_formats {
    int count;
    struct kv_format formats[KV_MAX_FORMATS];
    struct kv_codec *codecs[KV_MAX_FORMATS]; /* NULL: f16 */
    struct kv_tables *tables;                /* NULL: every format is f16 */
};

const struct kv_format kv_format_f16 = {.name = "f16"};

/* --- Names --- */

#define BITS_KNOWN  "1.5, 2, 2.5, 3, 4, 8"
#define NAMES_KNOWN "f16, rotatekv, oB and kBvC, with B and C (bits) of " BITS_KNOWN

/* What a name says. half_bits: 0 for f16. */
struct name {
    char text[KV_FORMAT_NAME_BYTES];
    int key_half_bits, value_half_bits;
    bool rotate; /* rotatekv */
};

/* Bits at the start of *text, which moves behind them; in halves. False: none of the known. */
static bool bits_read(const char **text, int *half_bits)
{
    static const struct {
        const char *text;
        int half_bits;
    } known[] = {{"1.5", 3}, {"2.5", 5}, {"2", 4}, {"3", 6}, {"4", 8}, {"8", 16}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t length = strlen(known[i].text);
        if (strncmp(*text, known[i].text, length) != 0) continue;
        *text += length;
        *half_bits = known[i].half_bits;
        return true;
    }
    return false;
}

static bool name_read(const char *text, struct name *out)
{
    const char *at = text;
    memset(out, 0, sizeof *out);
    if (strlen(text) >= sizeof out->text) return false;
    strcpy(out->text, text);
    if (strcmp(text, "f16") == 0) return true;
    if (strcmp(text, "rotatekv") == 0) {
        out->key_half_bits = out->value_half_bits = 4;
        out->rotate = true;
        return true;
    }
    if (*at == 'o') {
        at++;
        if (!bits_read(&at, &out->key_half_bits)) return false;
        out->value_half_bits = out->key_half_bits;
        return *at == '\0';
    }
    if (*at++ != 'k' || !bits_read(&at, &out->key_half_bits)) return false;
    if (*at++ != 'v' || !bits_read(&at, &out->value_half_bits)) return false;
    return *at == '\0';
}

static enum err names_read(const char *names, struct name out[KV_MAX_FORMATS], int *count,
                           struct err_info *info)
{
    *count = 0;
    for (const char *at = names;; at++) {
        size_t length = strcspn(at, ",");
        char text[64];
        snprintf(text, sizeof text, "%.*s", (int)(length < 40 ? length : 40), at);
        if (*count == KV_MAX_FORMATS)
            return err_set_param(info, ERR_USAGE, "kv-format", "kv-format: more than %d formats",
                                 KV_MAX_FORMATS);
        if (!name_read(text, &out[*count]))
            return err_set_param(info, ERR_USAGE, "kv-format",
                                 "kv-format: '%s' is not a format of the KV cache; known are " NAMES_KNOWN,
                                 text);
        for (int i = 0; i < *count; i++) {
            if (strcmp(out[i].text, text) == 0)
                return err_set_param(info, ERR_USAGE, "kv-format", "kv-format: '%s' stands there twice",
                                     text);
        }
        (*count)++;
        at += length;
        if (*at == '\0') return ERR_OK;
    }
}

enum err kv_formats_check(const char *names, struct err_info *info)
{
    struct name read[KV_MAX_FORMATS];
    int count;
    return names_read(names, read, &count, info);
}

/* --- The set --- */

static enum err tables_create(struct kv_formats *formats, const struct kv_shape *shape,
                              const struct calibration *calibration, int n_frames, const double *inv_freq,
                              struct err_info *info)
{
    if (calibration != NULL)
        return calibration_tables(calibration, n_frames, inv_freq, &formats->tables, info);
    formats->tables = kv_tables_identity(shape, KV_FRAME_TOKENS, n_frames, inv_freq);
    return formats->tables != NULL ? ERR_OK : err_set(info, ERR_MEMORY, "cache formats: out of memory");
}

static enum err codec_create(struct kv_formats *formats, const struct kv_shape *shape,
                             const struct calibration *calibration, const struct name *name,
                             struct kv_codec **out, struct err_info *info)
{
    struct kv_plan plan;
    if (name->rotate)
        return kv_rotate_codec_create(shape, formats->tables,
                                      calibration != NULL ? calibration->key_mean : NULL, out, info);
    enum err err = kv_plan_make(shape, calibration, name->key_half_bits, name->value_half_bits, &plan, info);
    if (err != ERR_OK) return err;
    struct kv_codec_spec spec = {.shape = *shape,
                                 .tables = formats->tables,
                                 .n_parts = plan.n_parts,
                                 .n_old_parts = plan.n_old_parts,
                                 .key_sigma = calibration != NULL ? calibration->key_sigma : NULL};
    for (int part = 0; part < plan.n_parts; part++) spec.codes[part] = plan.codes[part];
    err = kv_codec_create(&spec, out, info);
    kv_plan_free(&plan);
    return err;
}

static enum err format_create(struct kv_formats *formats, const struct kv_shape *shape,
                              const struct calibration *calibration, const struct name *name,
                              struct err_info *info)
{
    int index = formats->count++;
    struct kv_format *format = &formats->formats[index];
    *format = (struct kv_format){.index = index};
    memcpy(format->name, name->text, sizeof format->name);
    if (name->key_half_bits == 0) return ERR_OK;
    enum err err = codec_create(formats, shape, calibration, name, &formats->codecs[index], info);
    format->codec = formats->codecs[index];
    return err;
}

enum err kv_formats_create(const struct kv_shape *shape, const char *names,
                           const struct calibration *calibration, int n_frames, const double *inv_freq,
                           struct kv_formats **out, struct err_info *info)
{
    struct name read[KV_MAX_FORMATS];
    int count;
    bool coded = false;
    enum err err = names_read(names, read, &count, info);
    if (err != ERR_OK) return err;
    struct kv_formats *formats = calloc(1, sizeof *formats);
    if (formats == NULL) return err_set(info, ERR_MEMORY, "cache formats: out of memory");
    for (int i = 0; i < count; i++) coded = coded || read[i].key_half_bits > 0;
    if (coded) err = tables_create(formats, shape, calibration, n_frames, inv_freq, info);
    for (int i = 0; i < count && err == ERR_OK; i++)
        err = format_create(formats, shape, calibration, &read[i], info);
    if (err == ERR_OK)
        *out = formats;
    else
        kv_formats_free(formats);
    return err;
}

void kv_formats_free(struct kv_formats *formats)
{
    if (formats == NULL) return;
    for (int i = 0; i < formats->count; i++) kv_codec_free(formats->codecs[i]);
    kv_tables_free(formats->tables);
    free(formats);
}

int kv_formats_count(const struct kv_formats *formats)
{
    return formats->count;
}

const struct kv_format *kv_formats_at(const struct kv_formats *formats, int index)
{
    assert(index >= 0 && index < formats->count);
    return &formats->formats[index];
}

const struct kv_format *kv_formats_find(const struct kv_formats *formats, const char *name)
{
    for (int i = 0; i < formats->count; i++)
        if (strcmp(formats->formats[i].name, name) == 0) return &formats->formats[i];
    return NULL;
}

void kv_formats_list(const struct kv_formats *formats, char *out, size_t size)
{
    size_t at = 0;
    for (int i = 0; i < formats->count && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%s", i ? ", " : "", formats->formats[i].name);
}
