/* Any bytes as a GGUF file: opened, every kind of value asked for, every tensor's first and last byte read.
 */
#include "model/gguf.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_values(const struct gguf *gguf, const char *key)
{
    uint32_t u32;
    float f32, f32s[4];
    bool flag;
    int32_t i32s[4];
    struct gguf_string text, texts[4];
    size_t n;
    volatile unsigned sum = 0;
    (void)gguf_get_u32(gguf, key, &u32, NULL);
    (void)gguf_get_f32(gguf, key, &f32, NULL);
    (void)gguf_get_bool(gguf, key, &flag, NULL);
    if (!gguf_get_string(gguf, key, &text, NULL) && text.length) sum += (unsigned)text.bytes[text.length - 1];
    if (gguf_array_length(gguf, key, &n, NULL) || n > 4) return;
    (void)gguf_get_i32s(gguf, key, i32s, n, NULL);
    (void)gguf_get_f32s(gguf, key, f32s, n, NULL);
    if (gguf_get_strings(gguf, key, texts, n, NULL)) return;
    for (size_t i = 0; i < n; i++) {
        if (texts[i].length) sum += (unsigned)texts[i].bytes[texts[i].length - 1];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {"general.architecture", "general.alignment", "k", "a", "s",
                                       "llama.block_count"};
    struct gguf *gguf;
    struct err_info info = {0};
    if (gguf_open_memory(data, size, &gguf, &info)) {
        if (!info.message[0]) abort(); /* an error says what is wrong */
        return 0;
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) read_values(gguf, keys[i]);
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        const volatile uint8_t *bytes = tensor->data;
        if (tensor->bytes == 0) abort();
        (void)bytes[0];
        (void)bytes[tensor->bytes - 1];
    }
    gguf_close(gguf);
    return 0;
}
