#include "server/marker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool marker_is_space(char byte)
{
    return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r';
}

/* Length of the longest beginning of the marker that ends with this byte. Markers are short and their borders
   few. */
static size_t match(const struct marker *marker, char byte)
{
    const char *text = marker->text;
    size_t matched = marker->matched;
    while (matched > 0 && text[matched] != byte) {
        size_t border = matched - 1;
        while (border > 0 && memcmp(text, text + matched - border, border) != 0) border--;
        matched = border;
    }
    return text[matched] == byte ? matched + 1 : 0;
}

bool marker_read(struct marker *marker, char byte)
{
    size_t matched = match(marker, byte);
    if (matched == 0)
        marker->n_spaces = !marker_is_space(byte) || marker->n_spaces == MARKER_SPACES ? 0
                           : marker->matched == 0                                      ? marker->n_spaces + 1
                                                                                       : 1;
    else if (matched != marker->matched + 1)
        marker->n_spaces = 0;
    marker->matched = matched;
    return marker->text[matched] == '\0';
}

void marker_reset(struct marker *marker)
{
    marker->matched = marker->n_spaces = 0;
}

int marker_tokens(const struct tokenizer *tokenizer, const char *const *texts, int n, int32_t *out)
{
    int count = 0;
    for (int i = 0; i < n && texts[i]; i++) {
        int32_t *tokens;
        size_t length;
        if (tokenizer_encode(tokenizer, texts[i], strlen(texts[i]), false, true, 64, &tokens, &length,
                             NULL) != ERR_OK)
            continue;
        if (length == 1 && tokenizer_is_special(tokenizer, tokens[0])) out[count++] = tokens[0];
        free(tokens);
    }
    return count;
}

int marker_grammar(struct grammar_builder *builder, const char *text)
{
    char control[64];
    int length = snprintf(control, sizeof control, "%c%s", GRAMMAR_CONTROL, text);
    const int nodes[] = {grammar_literal(builder, control, (size_t)length),
                         grammar_literal(builder, text, strlen(text))};
    return grammar_choice(builder, nodes, 2);
}
