#ifndef CONFIG_LOG_H
#define CONFIG_LOG_H

/*
 * Logging to stderr, one line per event, as text ("2026-11-24T10:00:00.123Z info  engine: ...") or as JSON
 * lines. Thread-safe: a line is formatted on the stack and written with a single write(2).
 */

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* Call before other threads start. */
void log_configure(enum log_level minimum, int json);

/* `where` is the module ("engine", "http", ...). */
void log_write(enum log_level level, const char *where, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_debug(where, ...) log_write(LOG_LEVEL_DEBUG, where, __VA_ARGS__)
#define log_info(where, ...)  log_write(LOG_LEVEL_INFO, where, __VA_ARGS__)
#define log_warn(where, ...)  log_write(LOG_LEVEL_WARN, where, __VA_ARGS__)
#define log_error(where, ...) log_write(LOG_LEVEL_ERROR, where, __VA_ARGS__)

#endif
