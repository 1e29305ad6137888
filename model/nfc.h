#ifndef MODEL_NFC_H
#define MODEL_NFC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Unicode normalization form C as of Unicode 9, like Hugging Face's tokenizers, in time linear in the text
 * whatever it holds. Scratch is kept between calls; one owner at a time.
 */
struct nfc {
    char *text; /* the result of the last call */
    size_t length, capacity;
    int32_t *points; /* code points of one stretch, decomposed */
    size_t n_points, max_points;
};

void nfc_init(struct nfc *nfc);
void nfc_free(struct nfc *nfc);

/* False when the text is in form C by the look of it: nothing at or above U+0300. */
bool nfc_may_change(const char *text, size_t length);

/* text: well-formed UTF-8. The result is in nfc->text, nfc->length. False when memory is short. */
bool nfc_compose(struct nfc *nfc, const char *text, size_t length);

#endif
