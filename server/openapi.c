#include "server/openapi.h"

#include "server/http.h"

/* C17 has no #embed; the assembler's .incbin is the same for gcc and clang. CMakeLists.txt gives the path. */
__asm__(".pushsection .rodata\n"
        ".globl openapi_text, openapi_text_end\n"
        "openapi_text:\n"
        ".incbin \"" OPENAPI_PATH "\"\n"
        "openapi_text_end:\n"
        ".popsection\n");

extern const char openapi_text[], openapi_text_end[];

void openapi_handle(struct http_call *call, void *context)
{
    (void)context;
    http_reply(call, 200, "application/json", openapi_text, (size_t)(openapi_text_end - openapi_text));
}
