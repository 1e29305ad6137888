#ifndef SERVER_WATCHER_H
#define SERVER_WATCHER_H

#include "config/err.h"

#include <stdint.h>

/*
 * One thread that knows two things about connections which libmicrohttpd does not tell: that the client of a
 * suspended connection has left, and that a deadline has passed.
 *
 * A watch belongs to one open descriptor and is removed before the descriptor may be closed, so a descriptor
 * number that is used again can never be mistaken. While a notification runs, removing or ignoring its watch
 * waits for it: whoever owns the context may free it right after.
 */
struct watcher;
struct watch;

enum watcher_event {
    WATCHER_LEFT,    /* the peer closed, or half-closed, the connection; told once per watcher_follow */
    WATCHER_EXPIRED, /* the deadline has passed; told once per watcher_set_deadline */
};

enum err watcher_create(struct watcher **out, struct err_info *info);
/* Every watch must have been removed. NULL-safe. */
void watcher_free(struct watcher *watcher);

/* notify runs on the watcher's thread, one at a time, without any lock; it must not call watcher_ignore or
   watcher_remove. The descriptor stays the caller's. NULL when memory is short. */
struct watch *watcher_add(struct watcher *watcher, int fd,
                          void (*notify)(void *context, enum watcher_event event), void *context);
void watcher_remove(struct watcher *watcher, struct watch *watch);

/* On watcher_now_ms's clock; 0: none. */
void watcher_set_deadline(struct watcher *watcher, struct watch *watch, int64_t deadline_ms);
/* Start telling WATCHER_LEFT. ERR_IO when the system refuses. */
enum err watcher_follow(struct watcher *watcher, struct watch *watch);
/* Stop telling WATCHER_LEFT. */
void watcher_ignore(struct watcher *watcher, struct watch *watch);

/* Monotonic clock. */
int64_t watcher_now_ms(void);

#endif
