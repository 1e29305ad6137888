#ifndef KERNELS_CPU_FEATURES_H
#define KERNELS_CPU_FEATURES_H

/* The instruction sets this processor has, of those that the kernels come in or may come in: "avx2 fma f16c",
   for --version and the log; "none" where there are none. Static memory. */
const char *cpu_features_text(void);

#endif
