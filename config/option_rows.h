#ifndef CONFIG_OPTION_ROWS_H
#define CONFIG_OPTION_ROWS_H

/*
 * Rows that several commands have in their option tables (config/option.h): the same name, meaning and words
 * everywhere. `at` is the field's offset in the command's struct.
 */
#define OPTION_ROW_THREADS(at)                                                                               \
    {                                                                                                        \
        .name = "threads", .group = "Processor", .kind = OPTION_INT, .offset = (at), .default_value = "0",   \
        .max = 1024, .aliases = "-t", .metavar = "N",                                                        \
        .help = "threads that compute; 0: as many as there are processors for this process"                  \
    }

#define OPTION_ROW_DEVICE(at)                                                                                \
    {                                                                                                        \
        .name = "device", .group = "Processor", .kind = OPTION_TEXT, .offset = (at),                         \
        .default_value = "auto", .metavar = "DEVICE",                                                        \
        .help =                                                                                              \
            "what computes: cpu, cuda, cuda:N, or auto: the first card when there is one, otherwise the "    \
            "CPU"                                                                                            \
    }

#define OPTION_ROW_DEVICE_WEIGHTS(at)                                                                        \
    {                                                                                                        \
        .name = "device-weights", .group = "Processor", .kind = OPTION_CHOICE, .offset = (at),               \
        .default_value = "auto", .choices = "auto|f16|file",                                                 \
        .help =                                                                                              \
            "quantized weights on a card: f16, or as in the file, which takes less of its memory; auto: "    \
            "f16 where they fit beside activations and cache. Results do not depend on it"                   \
    }

#define OPTION_ROW_CPU(at)                                                                                   \
    {                                                                                                        \
        .name = "cpu", .group = "Processor", .kind = OPTION_CHOICE, .offset = (at), .default_value = "auto", \
        .choices = "auto|scalar|avx2|avx512",                                                                \
        .help = "instructions that may be used; results do not depend on it"                                 \
    }

/* heading: the group; which: the choices; what: the help, which says what differs from command to command. */
#define OPTION_ROW_ACTIVATION_BITS(at, initial, which, what)                                                 \
    {                                                                                                        \
        .name = "activation-bits", .group = "Processor", .kind = OPTION_CHOICE, .offset = (at),              \
        .default_value = (initial), .choices = (which), .help = what                                         \
    }

#define OPTION_ROW_KV_RECENT(heading, at, what)                                                              \
    {                                                                                                        \
        .name = "kv-recent", .group = (heading), .kind = OPTION_INT, .offset = (at), .default_value = "8",   \
        .max = 1 << 18, .metavar = "N", .help = what                                                         \
    }

#define OPTION_ROW_SINK_TOKENS(heading, at, what)                                                            \
    {                                                                                                        \
        .name = "sink-tokens", .group = (heading), .kind = OPTION_INT, .offset = (at), .default_value = "4", \
        .max = 64, .metavar = "N", .help = what                                                              \
    }

#define OPTION_ROW_CALIBRATION(heading, at, what)                                                            \
    {                                                                                                        \
        .name = "calibration", .group = (heading), .kind = OPTION_TEXT, .offset = (at), .metavar = "FILE",   \
        .help = what                                                                                         \
    }

#define OPTION_ROW_NO_CALIBRATION(heading, at, what)                                                         \
    {                                                                                                        \
        .name = "no-calibration", .group = (heading), .kind = OPTION_FLAG, .offset = (at), .help = what      \
    }

#define OPTION_ROW_SHAPE(heading, at, initial, what)                                                         \
    {                                                                                                        \
        .name = "shape", .group = (heading), .kind = OPTION_TEXT, .offset = (at),                            \
        .default_value = (initial), .metavar = "SHAPE",                                                      \
        .help = what                                                                                         \
            ": smollm2-135m, qwen-0.5b, qwen-1.5b, llama-1b, qwen-7b, llama-8b, llama-70b; or keys with "    \
            "commas between, alone or after a name: layers, width, heads, kv-heads, head-dim, ff, vocab, "   \
            "ctx, type, seed (llama-8b,layers=4)"                                                            \
    }

#define OPTION_ROW_LOAD_FORMAT(heading, at)                                                                  \
    {                                                                                                        \
        .name = "load-format", .group = (heading), .kind = OPTION_CHOICE, .offset = (at),                    \
        .default_value = "gguf", .choices = "gguf|dummy",                                                    \
        .help = "dummy: random weights in the sizes of --shape instead of a file, to measure what a model "  \
                "costs without having it"                                                                    \
    }

#define OPTION_ROW_JSON(heading, at)                                                                         \
    {                                                                                                        \
        .name = "json", .group = (heading), .kind = OPTION_FLAG, .offset = (at), .help = "print JSON"        \
    }

#define OPTION_ROW_HELP(heading, at)                                                                         \
    {                                                                                                        \
        .name = "help", .group = (heading), .kind = OPTION_FLAG, .offset = (at), .aliases = "-h",            \
        .help = "print this and exit"                                                                        \
    }

#endif
