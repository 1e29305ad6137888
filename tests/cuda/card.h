#ifndef TESTS_CUDA_CARD_H
#define TESTS_CUDA_CARD_H

#include "kernels/backend.h"

/* What the programs for a machine with a card have in common: the card, memory on both sides, checks that are
 * counted. */
#ifdef OCTAVO_CUDA_EMULATED
enum { CARD_IS_EMULATED = 1 };
#else
enum { CARD_IS_EMULATED = 0 };
#endif

extern struct backend *cuda, *cpu; /* NULL until card_open, card_open_cpu */

/* Opens `cuda`. Without a card the process says so and ends with 77, which CTest counts as skipped; with 1
   when there was one before. */
void card_open(void);

/* Opens `cpu`, of so many threads; without it the process ends with 1. */
void card_open_cpu(int n_threads);

/* Counts, and prints what is not good. */
void card_check(bool good, const char *what, const char *detail, double value);
void card_check_failure(void); /* that the card has not failed */

/* Gives `cpu` back, prints how many checks there were, and is the exit status. `cuda` is closed by then. */
int card_end(void);

/* The largest difference in units of the reference's RMS; NaN when one of x is. */
double card_error(const float *x, const float *reference, size_t n);

/* memory; the process ends with 1 when it is NULL. */
void *card_need(void *memory);

/* n numbers of a Gaussian, malloc'd. */
float *card_gauss(size_t n, uint64_t seed);

/* A copy on the card, and one of what is there, malloc'd. */
void *card_put(const void *from, size_t bytes);
void *card_get(const void *from, size_t bytes);

double card_now_s(void);

#endif
