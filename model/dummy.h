#ifndef MODEL_DUMMY_H
#define MODEL_DUMMY_H

#include "model/gguf.h"
#include "model/model_shape.h"

/*
 * A model of given sizes with random weights, as a GGUF file in memory, so that everything behind the file is
 * the code that real models go through. The same shape gives the same bytes, on any number of threads.
 *
 * Its vocabulary: token b is byte b, then "<|endoftext|>", "<|im_start|>" and "<|im_end|>", then words (a
 * space and letters) up to n_vocab, which no text is encoded to but which are shown when they are drawn.
 * Texts become a token a byte. There is no chat template, so chats are laid out as ChatML.
 */
struct workers;

/* workers: who draws the weights; NULL: the caller alone. ERR_MEMORY. */
enum err dummy_create(const struct model_shape *shape, struct workers *workers, struct gguf **out,
                      struct err_info *info);

#endif
