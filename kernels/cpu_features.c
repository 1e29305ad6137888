#include "kernels/cpu_features.h"

#include <stdio.h>

#if defined(__x86_64__)
#include <cpuid.h>

const char *cpu_features_text(void)
{
    static char text[160];
    unsigned eax, ebx, ecx, edx;
    int used = 0;
    __builtin_cpu_init();
    /* f16c has no name for __builtin_cpu_supports in older compilers. */
    int f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
    const struct {
        const char *name;
        int present;
    } features[] = {
        {"avx", __builtin_cpu_supports("avx")},
        {"avx2", __builtin_cpu_supports("avx2")},
        {"fma", __builtin_cpu_supports("fma")},
        {"f16c", f16c},
        {"avx512f", __builtin_cpu_supports("avx512f")},
        {"avx512bw", __builtin_cpu_supports("avx512bw")},
        {"avx512dq", __builtin_cpu_supports("avx512dq")},
        {"avx512vl", __builtin_cpu_supports("avx512vl")},
        {"avx512vnni", __builtin_cpu_supports("avx512vnni")},
        {"avx512bf16", __builtin_cpu_supports("avx512bf16")},
    };
    for (unsigned i = 0; i < sizeof features / sizeof *features; i++)
        if (features[i].present)
            used += snprintf(text + used, sizeof text - (unsigned)used, "%s%s", used ? " " : "",
                             features[i].name);
    return used ? text : "none";
}

#else

const char *cpu_features_text(void)
{
    return "none";
}

#endif
