#define _GNU_SOURCE /* fallocate */
#include "cache/swap_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = "OCTSWP\0\1";
enum { FIRST_BYTES = 4096 }; /* the magic's; so that no address is NULL */

struct kv_swap_file {
    struct backend ranges;
    char *path;
    int fd;
    off_t end; /* of the addresses given out */
};

/* ---- addresses ---- */

static off_t offset_of(const char *at)
{
    return (off_t)(uintptr_t)at;
}

static void *range_reserve(struct backend *backend, size_t bytes)
{
    struct kv_swap_file *file = backend->state;
    off_t base = file->end;
    if (bytes > (size_t)(INT64_MAX - base)) return NULL;
    file->end += (off_t)bytes;
    return (void *)(uintptr_t)base; /* NOLINT: an offset that the pool counts with */
}

static bool range_commit(struct backend *backend, void *at, size_t bytes)
{
    (void)backend, (void)at, (void)bytes;
    return true;
}

static bool punch(const struct kv_swap_file *file, off_t at, size_t bytes)
{
    return fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)bytes) == 0;
}

static void range_decommit(struct backend *backend, void *at, size_t bytes)
{
    const struct kv_swap_file *file = backend->state;
    punch(file, offset_of(at), bytes);
}

static void range_release(struct backend *backend, void *base)
{
    (void)backend, (void)base;
}

struct backend *kv_swap_file_ranges(struct kv_swap_file *file)
{
    return &file->ranges;
}

/* ---- bytes ---- */

bool kv_swap_file_write(struct kv_swap_file *file, const char *at, const void *from, size_t n)
{
    const char *bytes = from;
    for (size_t done = 0; done < n;) {
        ssize_t wrote = pwrite(file->fd, bytes + done, n - done, offset_of(at) + (off_t)done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return false;
        done += (size_t)wrote;
    }
    return true;
}

bool kv_swap_file_read(const struct kv_swap_file *file, const char *at, void *to, size_t n)
{
    char *bytes = to;
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(file->fd, bytes + done, n - done, offset_of(at) + (off_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = 0;
        if (got <= 0) return false;
        done += (size_t)got;
    }
    return true;
}

void kv_swap_file_empty(struct kv_swap_file *file)
{
    if (ftruncate(file->fd, sizeof magic) != 0) punch(file, FIRST_BYTES, (size_t)(file->end - FIRST_BYTES));
}

/* ---- life ---- */

static enum err failed(const char *path, struct err_info *info)
{
    return err_set_param(info, ERR_IO, "swap-file", "--swap-file %s: %s", path, strerror(errno));
}

/* Ours alone, and nobody's data. */
static enum err claim(const struct kv_swap_file *file, const char *path, struct err_info *info)
{
    struct stat stat;
    char first[sizeof magic];
    if (fstat(file->fd, &stat) != 0) return failed(path, info);
    if (!S_ISREG(stat.st_mode))
        return err_set_param(info, ERR_IO, "swap-file", "--swap-file %s: not a regular file", path);
    if (flock(file->fd, LOCK_EX | LOCK_NB) != 0)
        return err_set_param(info, ERR_IO, "swap-file", "--swap-file %s: %s", path,
                             errno == EWOULDBLOCK ? "another server uses it" : strerror(errno));
    if (stat.st_size > 0 && (pread(file->fd, first, sizeof first, 0) != (ssize_t)sizeof first ||
                             memcmp(first, magic, sizeof magic) != 0))
        return err_set_param(info, ERR_IO, "swap-file",
                             "--swap-file %s: there is another file of this name; it is left alone", path);
    return ERR_OK;
}

static enum err prepare(struct kv_swap_file *file, const char *path, struct err_info *info)
{
    if (ftruncate(file->fd, 0) != 0 || pwrite(file->fd, magic, sizeof magic, 0) != (ssize_t)sizeof magic)
        return failed(path, info);
    if (!punch(file, FIRST_BYTES, FIRST_BYTES))
        return err_set_param(info, ERR_UNSUPPORTED, "swap-file",
                             "--swap-file %s: the file system cannot give back parts of a file (%s); put it "
                             "on another one",
                             path, strerror(errno));
    return ERR_OK;
}

enum err kv_swap_file_create(const char *path, struct kv_swap_file **out, struct err_info *info)
{
    enum err err = ERR_OK;
    struct kv_swap_file *file = calloc(1, sizeof *file);
    if (file == NULL) return err_set(info, ERR_MEMORY, "swap: out of memory");
    file->end = FIRST_BYTES;
    file->ranges = (struct backend){.name = "file",
                                    .state = file,
                                    .range_reserve = range_reserve,
                                    .range_commit = range_commit,
                                    .range_decommit = range_decommit,
                                    .range_release = range_release};
    file->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file->fd < 0) err = failed(path, info);
    if (err == ERR_OK) err = claim(file, path, info);
    if (err == ERR_OK && (file->path = strdup(path)) == NULL)
        err = err_set(info, ERR_MEMORY, "swap: out of memory");
    if (err == ERR_OK) err = prepare(file, path, info);
    if (err != ERR_OK) {
        kv_swap_file_free(file);
        return err;
    }
    *out = file;
    return ERR_OK;
}

void kv_swap_file_free(struct kv_swap_file *file)
{
    struct stat ours, named;
    if (file == NULL) return;
    /* Under its name another file may stand by now. */
    if (file->path != NULL && fstat(file->fd, &ours) == 0 && stat(file->path, &named) == 0 &&
        ours.st_dev == named.st_dev && ours.st_ino == named.st_ino)
        unlink(file->path);
    if (file->fd >= 0) close(file->fd);
    free(file->path);
    free(file);
}
