#include "config/log.h"

#include "config/utf8.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Message text of clients and files may stand in a line: control characters and bytes that are not UTF-8 are
   escaped in both formats, so that nobody can forge a line or confuse a terminal. */

enum { MESSAGE_BYTES = 2048, LINE_BYTES = 6 * MESSAGE_BYTES + 256 };

static enum log_level log_minimum = LOG_LEVEL_INFO;
static int log_json;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_configure(enum log_level minimum, int json)
{
    log_minimum = minimum;
    log_json = json;
}

struct line {
    char text[LINE_BYTES];
    size_t length;
};

static void line_append(struct line *line, const char *text, size_t length)
{
    size_t room = sizeof line->text - line->length;
    if (length > room) length = room;
    memcpy(line->text + line->length, text, length);
    line->length += length;
}

static void line_text(struct line *line, const char *text)
{
    line_append(line, text, strlen(text));
}

static void line_escaped(struct line *line, const char *text, bool json)
{
    size_t length = strlen(text);
    for (size_t at = 0; at < length;) {
        size_t size = utf8_sequence(text + at, length - at);
        unsigned char byte = (unsigned char)text[at];
        char escape[8];
        if (size == 0) {
            line_text(line, "\xEF\xBF\xBD"); /* U+FFFD */
            size = 1;
        } else if (byte < 0x20 || byte == 0x7F) {
            snprintf(escape, sizeof escape, json ? "\\u%04x" : "\\x%02x", byte);
            line_text(line, escape);
        } else if (json && (byte == '"' || byte == '\\')) {
            snprintf(escape, sizeof escape, "\\%c", byte);
            line_text(line, escape);
        } else {
            line_append(line, text + at, size);
        }
        at += size;
    }
}

static void line_time(struct line *line)
{
    struct timespec now;
    struct tm utc;
    char text[40], millis[8];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(millis, sizeof millis, ".%03dZ", (int)(now.tv_nsec / 1000000));
    line_text(line, text);
    line_text(line, millis);
}

void log_write(enum log_level level, const char *where, const char *format, ...)
{
    if (level < log_minimum) return;
    char message[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (length < 0) return;
    if ((size_t)length >= sizeof message) memcpy(message + sizeof message - 4, "...", 4);

    struct line line = {.length = 0};
    if (log_json) {
        line_text(&line, "{\"time\":\"");
        line_time(&line);
        line_text(&line, "\",\"level\":\"");
        line_text(&line, level_names[level]);
        line_text(&line, "\",\"where\":\"");
        line_escaped(&line, where, true);
        line_text(&line, "\",\"message\":\"");
        line_escaped(&line, message, true);
        line_text(&line, "\"}\n");
    } else {
        char head[32];
        line_time(&line);
        snprintf(head, sizeof head, " %-5s ", level_names[level]);
        line_text(&line, head);
        line_escaped(&line, where, false);
        line_text(&line, ": ");
        line_escaped(&line, message, false);
        line_text(&line, "\n");
    }
    /* One write: lines of several threads do not mix. A log that cannot be written has nowhere to complain.
     */
    if (write(STDERR_FILENO, line.text, line.length) < 0) return;
}
