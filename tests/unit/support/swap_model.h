#ifndef SUPPORT_SWAP_MODEL_H
#define SUPPORT_SWAP_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A model of the second store (cache/swap.h) without contents: keys, what each has, bytes, and the order of
   last use, in which they are forgotten. */
struct swap_model;

struct swap_model *swap_model_create(size_t bytes);
void swap_model_free(struct swap_model *swap);

/* A block that was given up; recent_bytes 0: without its recent parts. chances: times that it stays when it
   would be its turn to be forgotten, until it is touched. */
void swap_model_put(struct swap_model *swap, uint64_t key, size_t base_bytes, size_t recent_bytes,
                    int chances);
/* Whether it is there; *recent: with its recent parts. */
bool swap_model_find(const struct swap_model *swap, uint64_t key, bool *recent);
void swap_model_touch(struct swap_model *swap, uint64_t key);
void swap_model_lose(struct swap_model *swap, uint64_t key);
/* Counts everything anew. */
void swap_model_verify(const struct swap_model *swap);

#endif
