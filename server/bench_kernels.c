#include "cache/format.h"
#include "config/buf.h"
#include "config/json.h"
#include "config/option.h"
#include "config/option_rows.h"
#include "kernels/workers.h"
#include "server/bench.h"
#include "server/bench_kernel.h"
#include "server/serve_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * `octavo bench kernels`: how long the parts of a step take, in the sizes of a model whose weights need not
 * be there. Numbers are medians; GB/s is what the kernel must read (packed weights, pages) by the time it
 * took, GMAC/s its multiply-adds.
 */

struct kernels_options {
    const char *kernels, *shape, *types, *formats, *tokens, *contexts, *batches;
    const char *device, *device_weights, *cpu, *activation_bits, *clock;
    int threads, kv_recent, ms;
    int64_t memory_bytes;
    bool json, help;
};

#define FIELD(field) offsetof(struct kernels_options, field)

static const struct option rows[] = {
    {.name = "kernels",
     .group = "What",
     .kind = OPTION_TEXT,
     .offset = FIELD(kernels),
     .default_value = "matmul,attention,prefill,store,seal,draw",
     .metavar = "LIST",
     .help =
         "which, with commas between: products, attention of a step that generates and of 512 tokens of a "
         "prompt, writing keys and values, coding them, drawing a token"},
    OPTION_ROW_SHAPE("What", FIELD(shape), "qwen2.5-1.5b", "whose sizes"),
    {.name = "types",
     .group = "What",
     .kind = OPTION_TEXT,
     .offset = FIELD(types),
     .default_value = "Q4_K,Q6_K,Q8_0,F16",
     .metavar = "LIST",
     .help = "types of weights"},
    {.name = "tokens",
     .group = "What",
     .kind = OPTION_TEXT,
     .offset = FIELD(tokens),
     .default_value = "1,16,512",
     .metavar = "LIST",
     .help = "rows of a product"},
    {.name = "formats",
     .group = "What",
     .kind = OPTION_TEXT,
     .offset = FIELD(formats),
     .default_value = "f16,o4,o2",
     .metavar = "LIST",
     .help = "KV formats, coded as if calibrated"},
    {.name = "contexts",
     .group = "What",
     .kind = OPTION_TEXT,
     .offset = FIELD(contexts),
     .default_value = "512,4000,16000",
     .metavar = "LIST",
     .help = "tokens that attention looks back on"},
    {.name = "batches",
     .group = "What",
     .kind = OPTION_TEXT,
     .offset = FIELD(batches),
     .default_value = "1,16",
     .metavar = "LIST",
     .help = "sequences that attention serves at once"},
    OPTION_ROW_KV_RECENT("What", FIELD(kv_recent), "as of octavo serve"),

    OPTION_ROW_THREADS(FIELD(threads)),
    OPTION_ROW_DEVICE(FIELD(device)),
    {.name = "device-weights",
     .group = "Processor",
     .kind = OPTION_CHOICE,
     .offset = FIELD(device_weights),
     .default_value = "file",
     .choices = "f16|file",
     .help = "quantized weights on a card: turned to f16, or as in a file"},
    OPTION_ROW_CPU(FIELD(cpu)),
    OPTION_ROW_ACTIVATION_BITS(FIELD(activation_bits), "8", "8|16", "as of octavo serve"),

    {.name = "ms",
     .group = "Measurement",
     .kind = OPTION_INT,
     .offset = FIELD(ms),
     .default_value = "200",
     .min = 1,
     .max = 3600000,
     .metavar = "MS",
     .help = "time for each number"},
    {.name = "clock",
     .group = "Measurement",
     .kind = OPTION_CHOICE,
     .offset = FIELD(clock),
     .default_value = "wall",
     .choices = "wall|process",
     .help = "process: processor time of all threads, which other load disturbs less; for --threads 1"},
    {.name = "memory-bytes",
     .group = "Measurement",
     .kind = OPTION_BYTES,
     .offset = FIELD(memory_bytes),
     .default_value = "2Gi",
     .min = 1 << 20,
     .metavar = "SIZE",
     .help = "most that the pages of one measurement may take; sequences share them when it is too little"},

    OPTION_ROW_JSON("Output", FIELD(json)),
    OPTION_ROW_HELP("Output", FIELD(help)),
};

static const struct option_table table = {
    .usage = "octavo bench kernels [options]",
    .about = "Times the parts of a step on random data, in the sizes of a model.",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
};

/* ---- output ---- */

static void row_json(const struct bench_kernels *bench, const struct bench_row *row)
{
    struct buf out;
    buf_init(&out, SIZE_MAX);
    buf_printf(&out, "%s\n{\"kernel\":\"%s\",\"what\":", bench->n_rows > 0 ? "," : "", row->kernel);
    json_write_text(&out, row->what);
    buf_printf(&out, ",\"type\":\"%s\",\"n\":%d,\"context\":%d,\"us\":%.3f,\"bytes\":%.0f,\"macs\":%.0f}",
               row->type, row->n, row->context, row->us, row->bytes, row->macs);
    fwrite(out.data, 1, out.length, stdout);
    buf_free(&out);
    fprintf(stderr, "bench: %s %s %s\n", row->kernel, row->type, row->what);
}

void bench_row_report(struct bench_kernels *bench, const struct bench_row *row)
{
    if (bench->json) {
        row_json(bench, row);
    } else {
        printf("%-10s %-26s %-7s %6d %8d %12.1f", row->kernel, row->what, row->type, row->n, row->context,
               row->us);
        if (row->bytes > 0)
            printf(" %9.1f", row->bytes / row->us * 1e-3);
        else
            printf(" %9s", "");
        if (row->macs > 0) printf(" %9.1f", row->macs / row->us * 1e-3);
        printf("\n");
    }
    fflush(stdout);
    bench->n_rows++;
}

void bench_skip(const char *kernel, const char *what, const char *why)
{
    fprintf(stderr, "bench: %s, %s: left out: %s\n", kernel, what, why);
}

/* ---- the run ---- */

static enum err list_parse(const char *option, const char *text, struct bench_list *out,
                           struct err_info *info)
{
    out->n = 0;
    for (const char *at = text;; at++) {
        char *end;
        long value = strtol(at, &end, 10);
        if (end == at || value < 1 || value > 1 << 24 || (*end != ',' && *end != '\0') ||
            out->n == BENCH_LIST_MAX)
            return err_set_param(info, ERR_USAGE, option,
                                 "--%s: '%s' is not a list of up to %d whole numbers above zero, with commas "
                                 "between",
                                 option, text, BENCH_LIST_MAX);
        out->values[out->n++] = (int)value;
        at = end;
        if (*at == '\0') return ERR_OK;
    }
}

enum kernel { MATMUL, ATTENTION, PREFILL, STORE, SEAL, DRAW, KERNELS };
static const char *const kernel_names[KERNELS] = {"matmul", "attention", "prefill", "store", "seal", "draw"};

static enum err kernels_parse(const char *text, bool chosen[KERNELS], struct err_info *info)
{
    for (const char *at = text; *at != '\0';) {
        size_t length = strcspn(at, ",");
        int k = 0;
        while (k < KERNELS &&
               (strlen(kernel_names[k]) != length || strncmp(at, kernel_names[k], length) != 0))
            k++;
        if (k == KERNELS)
            return err_set_param(info, ERR_USAGE, "kernels",
                                 "--kernels: unknown kernel '%.*s'; there are matmul, attention, prefill, "
                                 "store, seal and draw",
                                 (int)(length < 40 ? length : 40), at);
        chosen[k] = true;
        at += length;
        at += *at == ',';
    }
    return ERR_OK;
}

static enum err options_check(const struct kernels_options *options, struct bench_kernels *bench,
                              bool chosen[KERNELS], struct err_info *info)
{
    struct err_info why;
    enum err err = kernels_parse(options->kernels, chosen, info);
    if (err == ERR_OK) err = model_shape_parse(options->shape, &bench->shape, info);
    if (err == ERR_OK) err = list_parse("tokens", options->tokens, &bench->tokens, info);
    if (err == ERR_OK) err = list_parse("contexts", options->contexts, &bench->contexts, info);
    if (err == ERR_OK) err = list_parse("batches", options->batches, &bench->batches, info);
    if (err == ERR_OK && kv_formats_check(options->formats, &why) != ERR_OK)
        err = err_set_param(info, ERR_USAGE, "formats", "--formats: %s", why.message);
    return err;
}

static void report_begin(const struct bench_kernels *bench, const struct kernels_options *options)
{
    if (bench->json) {
        printf("{\"device\":\"%s\",\"threads\":%d,\"shape\":\"%s\",\"activation_bits\":%s,\"rows\":[",
               bench->backend->name, workers_count(bench->workers), bench->shape.name,
               options->activation_bits);
        return;
    }
    printf("%s, %d threads, %s; %d ms each, medians; per layer\n\n", bench->backend->name,
           workers_count(bench->workers), bench->shape.name, options->ms);
    printf("%-10s %-26s %-7s %6s %8s %12s %9s %9s\n", "kernel", "", "type", "n", "context", "us", "GB/s",
           "GMAC/s");
}

static enum err kernels_measure(const struct kernels_options *options, struct err_info *info)
{
    struct bench_kernels bench = {.budget_us = (int64_t)options->ms * 1000,
                                  .memory_bytes = (size_t)options->memory_bytes,
                                  .types = options->types,
                                  .formats = options->formats,
                                  .recent_blocks = options->kv_recent,
                                  .clock = strcmp(options->clock, "wall") == 0 ? CLOCK_MONOTONIC
                                                                               : CLOCK_PROCESS_CPUTIME_ID,
                                  .json = options->json};
    bool chosen[KERNELS] = {false};
    enum err err = options_check(options, &bench, chosen, info);
    if (err != ERR_OK) return err;
    int threads = options->threads > 0 ? options->threads : serve_machine_processors();
    err = workers_create(threads, &bench.workers, info);
    if (err == ERR_OK)
        err = backend_create(options->device, bench.workers, options->cpu, &bench.backend, info);
    if (err != ERR_OK) goto out;
    bench.backend->weights = backend_weights_named(options->device_weights);
    bench.backend->activation_bits = (int)strtol(options->activation_bits, NULL, 10);
    report_begin(&bench, options);
    if (chosen[MATMUL]) err = bench_matmul_run(&bench, info);
    if (err == ERR_OK && (chosen[ATTENTION] || chosen[PREFILL]))
        err = bench_attention_run(&bench, chosen[ATTENTION], chosen[PREFILL], info);
    if (err == ERR_OK && (chosen[STORE] || chosen[SEAL]))
        err = bench_seal_run(&bench, chosen[STORE], chosen[SEAL], info);
    if (err == ERR_OK && chosen[DRAW]) err = bench_draw_run(&bench, info);
    if (bench.json) printf("]}\n");
    const struct backend *backend = bench.backend;
    const char *failure = backend->failure != NULL ? backend->failure(backend) : NULL;
    if (err == ERR_OK && failure != NULL) err = err_set(info, ERR_IO, "the device failed: %s", failure);
out:
    if (bench.backend != NULL) bench.backend->destroy(bench.backend);
    if (bench.workers != NULL) workers_free(bench.workers);
    return err;
}

enum err bench_kernels_run(int argc, char **argv, struct err_info *info)
{
    struct kernels_options options;
    struct option_state *state;
    enum err err = option_parse(&table, argc, argv, 1, NULL, "help", &options, &state, info);
    if (err != ERR_OK) return err;
    if (options.help)
        option_help(&table, stdout);
    else
        err = kernels_measure(&options, info);
    option_state_free(state);
    return err;
}
