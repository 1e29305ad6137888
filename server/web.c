#include "server/web.h"

#include "server/api.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

/* As model/calibration_text.c has its text. CMakeLists.txt gives the folder. */
#define EMBED(name, file)                                                                                    \
    __asm__(".pushsection .rodata\n"                                                                         \
            ".globl web_" #name ", web_" #name "_end\n"                                                      \
            "web_" #name ":\n"                                                                               \
            ".incbin \"" WEB_PATH "/" file "\"\n"                                                            \
            "web_" #name "_end:\n"                                                                           \
            ".byte 0\n"                                                                                      \
            ".popsection\n");                                                                                \
    extern const char web_##name[], web_##name##_end[]

EMBED(page, "index.html");
EMBED(style, "page.css");
EMBED(cache, "cache.js");
EMBED(chat, "chat.js");
EMBED(icon, "icon.svg");

static const struct file {
    const char *path, *content_type, *bytes, *end;
} files[] = {
    {"/", "text/html; charset=utf-8", web_page, web_page_end},
    {"/favicon.ico", "image/svg+xml", web_icon, web_icon_end},
    {"/web/page.css", "text/css; charset=utf-8", web_style, web_style_end},
    {"/web/cache.js", "text/javascript; charset=utf-8", web_cache, web_cache_end},
    {"/web/chat.js", "text/javascript; charset=utf-8", web_chat, web_chat_end},
};

void web_handle(struct http_call *call, void *context)
{
    const struct api *api = context;
    const struct file *file = files;
    if (api->no_ui) {
        http_fail(call, 404, NULL, "unknown_url", "the page is switched off (--no-ui)");
        return;
    }
    while (strcmp(file->path, http_call_path(call)) != 0) {
        file++;
        assert(file < files + sizeof files / sizeof *files); /* the routes are these */
    }
    http_reply_header(
        call, "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    http_reply_header(call, "X-Content-Type-Options", "nosniff");
    http_reply_header(call, "Referrer-Policy", "no-referrer");
    http_reply_header(call, "Cache-Control", "no-cache"); /* a new binary has a new page */
    http_reply(call, 200, file->content_type, file->bytes, (size_t)(file->end - file->bytes));
}
