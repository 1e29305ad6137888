#include "server/watcher.h"

#include "config/clock.h"
#include "config/log.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/*
 * An event carries the descriptor and the number of its watch, never a pointer: between epoll_wait and the
 * lookup the watch may have been removed, and its descriptor may already belong to somebody else.
 */
struct watch {
    int fd;
    uint32_t number;
    bool followed;
    int64_t deadline_ms;
    void (*notify)(void *context, enum watcher_event event);
    void *context;
};

struct watcher {
    int epoll_fd;
    int wake_fd;
    pthread_t thread;

    pthread_mutex_t lock; /* for everything below */
    pthread_cond_t idle;  /* notifying became NULL */
    struct watch **by_fd;
    int n_by_fd;
    uint32_t next_number;
    const struct watch *notifying;
    int64_t wake_ms; /* when the thread will wake by itself; INT64_MAX: never */
    bool stop;
};

enum { WAKE_DATA = -1, FIRST_TABLE = 256 };

int64_t watcher_now_ms(void)
{
    return clock_ns() / 1000000;
}

static void wake(struct watcher *watcher)
{
    uint64_t one = 1;
    ssize_t n = write(watcher->wake_fd, &one, sizeof(one));
    (void)n; /* the counter is full: then it is awake anyway */
}

/* With the lock held; gives it back while notify runs. */
static void tell(struct watcher *watcher, struct watch *watch, enum watcher_event event)
{
    void (*notify)(void *, enum watcher_event) = watch->notify;
    void *context = watch->context;
    watcher->notifying = watch;
    pthread_mutex_unlock(&watcher->lock);
    notify(context, event);
    pthread_mutex_lock(&watcher->lock);
    watcher->notifying = NULL;
    pthread_cond_broadcast(&watcher->idle);
}

static void tell_left(struct watcher *watcher, uint64_t data)
{
    int fd = (int)(uint32_t)data;
    struct watch *watch = fd >= 0 && fd < watcher->n_by_fd ? watcher->by_fd[fd] : NULL;
    if (!watch || watch->number != (uint32_t)(data >> 32) || !watch->followed) return;
    tell(watcher, watch, WATCHER_LEFT);
}

/* Tells what has expired; returns the next deadline. The table may grow or lose entries while a notification
   runs, so every round reads it afresh. */
static int64_t tell_expired(struct watcher *watcher)
{
    int64_t next_ms = INT64_MAX;
    for (int fd = 0; fd < watcher->n_by_fd; fd++) {
        struct watch *watch = watcher->by_fd[fd];
        if (!watch || watch->deadline_ms == 0) continue;
        if (watch->deadline_ms <= watcher_now_ms()) {
            watch->deadline_ms = 0;
            tell(watcher, watch, WATCHER_EXPIRED);
        } else if (watch->deadline_ms < next_ms) {
            next_ms = watch->deadline_ms;
        }
    }
    return next_ms;
}

static int timeout_until(int64_t deadline_ms)
{
    if (deadline_ms == INT64_MAX) return -1;
    int64_t left_ms = deadline_ms - watcher_now_ms();
    if (left_ms < 0) return 0;
    return left_ms > 60000 ? 60000 : (int)left_ms;
}

static void *watcher_run(void *context)
{
    struct watcher *watcher = context;
    struct epoll_event events[64];
    pthread_mutex_lock(&watcher->lock);
    while (!watcher->stop) {
        /* A deadline set while a notification runs may be one that the round has passed: it then wakes. */
        watcher->wake_ms = INT64_MAX;
        int64_t next_ms = tell_expired(watcher);
        if (next_ms < watcher->wake_ms) watcher->wake_ms = next_ms;
        int timeout_ms = timeout_until(watcher->wake_ms);
        pthread_mutex_unlock(&watcher->lock);
        int n = epoll_wait(watcher->epoll_fd, events, sizeof(events) / sizeof(events[0]), timeout_ms);
        if (n < 0 && errno != EINTR) log_error("watcher", "epoll_wait: %s", strerror(errno));
        pthread_mutex_lock(&watcher->lock);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == (uint64_t)WAKE_DATA) {
                uint64_t count;
                ssize_t got = read(watcher->wake_fd, &count, sizeof(count));
                (void)got;
            } else {
                tell_left(watcher, events[i].data.u64);
            }
        }
    }
    pthread_mutex_unlock(&watcher->lock);
    return NULL;
}

enum err watcher_create(struct watcher **out, struct err_info *info)
{
    struct watcher *watcher = calloc(1, sizeof(*watcher));
    if (!watcher) return err_set(info, ERR_MEMORY, "no memory for the connection watcher");
    watcher->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    watcher->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watcher->wake_ms = INT64_MAX;
    pthread_mutex_init(&watcher->lock, NULL);
    pthread_cond_init(&watcher->idle, NULL);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)WAKE_DATA};
    int fault = 0;
    if (watcher->epoll_fd < 0 || watcher->wake_fd < 0 ||
        epoll_ctl(watcher->epoll_fd, EPOLL_CTL_ADD, watcher->wake_fd, &event) != 0)
        fault = errno;
    if (fault == 0) fault = pthread_create(&watcher->thread, NULL, watcher_run, watcher);
    if (fault == 0) {
        *out = watcher;
        return ERR_OK;
    }
    if (watcher->epoll_fd >= 0) close(watcher->epoll_fd);
    if (watcher->wake_fd >= 0) close(watcher->wake_fd);
    pthread_cond_destroy(&watcher->idle);
    pthread_mutex_destroy(&watcher->lock);
    free(watcher);
    return err_set(info, ERR_IO, "cannot start the connection watcher: %s", strerror(fault));
}

void watcher_free(struct watcher *watcher)
{
    if (!watcher) return;
    pthread_mutex_lock(&watcher->lock);
    watcher->stop = true;
    pthread_mutex_unlock(&watcher->lock);
    wake(watcher);
    pthread_join(watcher->thread, NULL);
    for (int fd = 0; fd < watcher->n_by_fd; fd++) assert(!watcher->by_fd[fd]);
    free(watcher->by_fd);
    close(watcher->epoll_fd);
    close(watcher->wake_fd);
    pthread_cond_destroy(&watcher->idle);
    pthread_mutex_destroy(&watcher->lock);
    free(watcher);
}

/* With the lock held. */
static bool table_reach(struct watcher *watcher, int fd)
{
    if (fd < watcher->n_by_fd) return true;
    int n = watcher->n_by_fd ? watcher->n_by_fd : FIRST_TABLE;
    while (n <= fd) n *= 2;
    struct watch **table = realloc(watcher->by_fd, (size_t)n * sizeof(*table));
    if (!table) return false;
    for (int i = watcher->n_by_fd; i < n; i++) table[i] = NULL;
    watcher->by_fd = table;
    watcher->n_by_fd = n;
    return true;
}

struct watch *watcher_add(struct watcher *watcher, int fd,
                          void (*notify)(void *context, enum watcher_event event), void *context)
{
    assert(fd >= 0);
    struct watch *watch = calloc(1, sizeof(*watch));
    if (!watch) return NULL;
    pthread_mutex_lock(&watcher->lock);
    bool there = table_reach(watcher, fd);
    if (there) {
        assert(!watcher->by_fd[fd]);
        *watch =
            (struct watch){.fd = fd, .number = watcher->next_number++, .notify = notify, .context = context};
        watcher->by_fd[fd] = watch;
    }
    pthread_mutex_unlock(&watcher->lock);
    if (there) return watch;
    free(watch);
    return NULL;
}

/* With the lock held. */
static void unfollow(struct watcher *watcher, struct watch *watch)
{
    if (watch->followed) epoll_ctl(watcher->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->followed = false;
    while (watcher->notifying == watch) pthread_cond_wait(&watcher->idle, &watcher->lock);
}

void watcher_remove(struct watcher *watcher, struct watch *watch)
{
    pthread_mutex_lock(&watcher->lock);
    watch->deadline_ms = 0;
    unfollow(watcher, watch);
    watcher->by_fd[watch->fd] = NULL;
    pthread_mutex_unlock(&watcher->lock);
    free(watch);
}

void watcher_set_deadline(struct watcher *watcher, struct watch *watch, int64_t deadline_ms)
{
    pthread_mutex_lock(&watcher->lock);
    watch->deadline_ms = deadline_ms;
    bool sooner = deadline_ms != 0 && deadline_ms < watcher->wake_ms;
    if (sooner) watcher->wake_ms = deadline_ms;
    pthread_mutex_unlock(&watcher->lock);
    if (sooner) wake(watcher);
}

enum err watcher_follow(struct watcher *watcher, struct watch *watch)
{
    pthread_mutex_lock(&watcher->lock);
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT,
                                .data.u64 = (uint64_t)watch->number << 32 | (uint32_t)watch->fd};
    int fault = 0;
    if (!watch->followed && epoll_ctl(watcher->epoll_fd, EPOLL_CTL_ADD, watch->fd, &event) != 0)
        fault = errno;
    watch->followed = fault == 0;
    pthread_mutex_unlock(&watcher->lock);
    if (fault == 0) return ERR_OK;
    log_warn("watcher", "cannot watch descriptor %d: %s", watch->fd, strerror(fault));
    return ERR_IO;
}

void watcher_ignore(struct watcher *watcher, struct watch *watch)
{
    pthread_mutex_lock(&watcher->lock);
    unfollow(watcher, watch);
    pthread_mutex_unlock(&watcher->lock);
}
