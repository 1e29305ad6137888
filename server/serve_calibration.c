#include "server/serve_calibration.h"

#include "config/clock.h"
#include "config/log.h"
#include "model/calibrate.h"
#include "model/calibration_text.h"
#include "model/model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, PROGRESS_S = 3 };

/* Where calibrations are looked for and kept. An empty path: there is no such place. */
struct places {
    char beside[PATH_BYTES]; /* MODEL.octocal */
    char folder[PATH_BYTES]; /* of the user's cache */
    char cached[PATH_BYTES];
};

struct progress {
    const struct serve_calibration *call;
    double started_s, logged_s;
};

static double clock_s(void)
{
    return (double)clock_ns() * 1e-9;
}

static void place_format(char place[PATH_BYTES], const char *format, const char *a, const char *b)
{
    if (snprintf(place, PATH_BYTES, format, a, b) >= PATH_BYTES) place[0] = 0;
}

bool serve_calibration_beside(const char *model, char *path, size_t size)
{
    return snprintf(path, size, "%s.octocal", model) < (int)size;
}

static void places_find(const char *model, const uint64_t hash[2], struct places *places)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char name[48];
    memset(places, 0, sizeof *places);
    if (!serve_calibration_beside(model, places->beside, PATH_BYTES)) places->beside[0] = 0;
    if (cache && cache[0] == '/') /* the specification: a relative path is to be ignored */
        place_format(places->folder, "%s%s", cache, "/octavo");
    else if (home && home[0] == '/')
        place_format(places->folder, "%s%s", home, "/.cache/octavo");
    if (!places->folder[0]) return;
    snprintf(name, sizeof name, "%016" PRIx64 "%016" PRIx64 ".octocal", hash[1], hash[0]);
    place_format(places->cached, "%s/%s", places->folder, name);
}

/* False: nothing there, or nothing of use, which the log says. */
static bool place_load(const char *path, const struct kv_shape *shape, const uint64_t hash[2],
                       struct calibration **out)
{
    struct err_info info;
    if (!path[0] || access(path, F_OK) != 0) return false;
    if (calibration_load(path, shape, hash, out, &info) == ERR_OK) {
        log_info("calibration", "from %s", path);
        return true;
    }
    log_warn("calibration", "not used: %s", info.message);
    return false;
}

/* mkdir -p: the cache folder's own parent may be missing on a fresh system. */
static void folder_make(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    mkdir(path, 0700);
}

static void places_save(struct places *places, const struct calibration *calibration)
{
    struct err_info beside = {0}, cached = {.message = "no home folder"};
    enum err err = ERR_IO;
    const char *path = places->beside;
    if (path[0]) err = calibration_save(calibration, path, &beside);
    if (err != ERR_OK && places->cached[0]) {
        path = places->cached;
        folder_make(places->folder);
        err = calibration_save(calibration, path, &cached);
    }
    if (err == ERR_OK)
        log_info("calibration", "kept in %s", path);
    else
        log_warn("calibration", "could not be kept, so the next start makes it again: %s; %s", beside.message,
                 cached.message);
}

static bool progress(void *context, int done, int total)
{
    struct progress *progress = context;
    double now_s = clock_s();
    if (progress->call->stop()) return false;
    if (now_s - progress->logged_s < PROGRESS_S) return true;
    progress->logged_s = now_s;
    double left_s = (now_s - progress->started_s) * (total - done) / done;
    log_info("calibration", "%d %%, about %.0f s left", 100 * done / total, left_s);
    return true;
}

static enum err calibration_make(const struct serve_calibration *call, struct calibration **out,
                                 struct err_info *info)
{
    struct model *model = NULL;
    int32_t *tokens = NULL;
    size_t n_tokens = 0;
    struct progress state = {.call = call, .started_s = clock_s(), .logged_s = clock_s()};
    struct calibrate_options options = {call->backend, call->workers, call->options->sink_tokens, progress,
                                        &state};
    log_info("calibration", "this model has none yet: measuring it on built-in text, which is needed once "
                            "(--no-calibration does without, at several times the error)");
    enum err err =
        tokenizer_encode(call->tokenizer, calibration_text, (size_t)(calibration_text_end - calibration_text),
                         false, false, SIZE_MAX, &tokens, &n_tokens, info);
    if (err == ERR_OK)
        err = model_load(call->gguf, call->backend, CALIBRATE_SEQUENCE_TOKENS, 1, &model, info);
    if (err == ERR_OK && call->stop()) err = err_set(info, ERR_CLOSED, "calibration was stopped");
    if (err == ERR_OK) err = calibrate_run(model, call->gguf, &options, tokens, n_tokens, out, info);
    if (err == ERR_OK) log_info("calibration", "made in %.1f s", clock_s() - state.started_s);
    model_free(model);
    free(tokens);
    return err;
}

static enum err shape_read(const struct gguf *gguf, struct kv_shape *shape, struct err_info *info)
{
    struct model_config config;
    enum err err = model_config_read(gguf, &config, info);
    if (err == ERR_OK)
        *shape = (struct kv_shape){.n_layers = config.n_layers,
                                   .n_heads = config.n_heads,
                                   .n_kv_heads = config.n_kv_heads,
                                   .head_dim = config.head_dim};
    return err;
}

enum err serve_calibration_get(const struct serve_calibration *call, struct calibration **out,
                               struct err_info *info)
{
    const struct options *options = call->options;
    struct places places;
    struct kv_shape shape;
    uint64_t hash[2];
    *out = NULL;
    if (options->no_calibration) return ERR_OK;
    enum err err = shape_read(call->gguf, &shape, info);
    if (err != ERR_OK) return err;
    gguf_hash(call->gguf, hash);
    if (options->calibration != NULL) {
        err = calibration_load(options->calibration, &shape, hash, out, info);
        if (err == ERR_OK) log_info("calibration", "from %s", options->calibration);
        return err;
    }
    places_find(options->model, hash, &places);
    if (place_load(places.beside, &shape, hash, out) || place_load(places.cached, &shape, hash, out))
        return ERR_OK;
    err = calibration_make(call, out, info);
    if (err == ERR_OK) places_save(&places, *out);
    if (err == ERR_OK || err == ERR_CLOSED) return err;
    log_warn("calibration", "could not be made: %s", info->message);
    return ERR_OK;
}
