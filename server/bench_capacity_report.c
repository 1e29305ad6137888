#include "server/bench_capacity.h"

#include "config/buf.h"
#include "config/json.h"
#include "server/plot.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void bench_capacity_text(const struct capacity_options *options, const struct capacity_row *lines, int n)
{
    printf("%s: pool of %lld bytes, prompts of %d tokens, %d generated\n\n", options->name,
           (long long)options->kv_cache_bytes, options->prompt_tokens, options->max_tokens);
    printf("%-6s  %14s  %8s  %12s  %5s  %10s  %9s  %10s  %8s  %9s%s\n", "format", "bytes/sequence",
           "requests", "most at once", "ratio", "bits/value", "prompt/s", "output/s", "wall s", "preempted",
           lines[0].quality.known ? "        kl   top1 %" : "");
    for (int i = 0; i < n; i++) {
        const struct capacity_row *row = &lines[i];
        printf("%-6s  %14zu  %8d  %12d  %5.2f  %10.3f  %9.1f  %10.2f  %8.1f  %9.0f", row->format,
               row->sequence_bytes, row->requests, row->sample.most_running,
               (double)row->sample.most_running / lines[0].sample.most_running, row->sample.bits_per_value,
               row->prompt_tokens_per_s, row->output_tokens_per_s, row->wall_s, row->sample.preemptions);
        if (row->quality.known) printf("  %8.5f  %7.2f", row->quality.kl, 100 * row->quality.top1);
        printf("\n");
    }
}

void bench_capacity_json(const struct capacity_options *options, const struct capacity_row *lines, int n)
{
    struct buf out;
    buf_init(&out, SIZE_MAX);
    buf_text(&out, "{\"model\":");
    json_write_text(&out, options->name);
    buf_printf(&out, ",\"kv_cache_bytes\":%lld,\"prompt_tokens\":%d,\"max_tokens\":%d,\"admission\":\"%s\",",
               (long long)options->kv_cache_bytes, options->prompt_tokens, options->max_tokens,
               options->admission);
    if (lines[0].quality.known)
        buf_printf(&out, "\"quality_ctx\":%d,\"quality_windows\":%d,", options->quality_ctx,
                   options->quality_windows);
    buf_text(&out, "\"formats\":[");
    for (int i = 0; i < n; i++) {
        const struct capacity_row *row = &lines[i];
        buf_printf(&out,
                   "%s{\"format\":\"%s\",\"sequence_bytes\":%zu,\"fit\":%d,\"requests\":%d,"
                   "\"most_at_once\":%d,\"ratio\":%.4f,\"pool_used_bytes\":%.0f,\"bits_per_value\":%.4f,"
                   "\"prompt_tokens_per_s\":%.3f,\"output_tokens_per_s\":%.3f,\"wall_s\":%.3f,"
                   "\"preemptions\":%.0f",
                   i ? "," : "", row->format, row->sequence_bytes, row->fit, row->requests,
                   row->sample.most_running, (double)row->sample.most_running / lines[0].sample.most_running,
                   row->sample.pool_used_bytes, row->sample.bits_per_value, row->prompt_tokens_per_s,
                   row->output_tokens_per_s, row->wall_s, row->sample.preemptions);
        if (row->quality.known)
            buf_printf(&out, ",\"kl\":%.6f,\"kl99\":%.5f,\"top1\":%.5f,\"ppl\":%.5f", row->quality.kl,
                       row->quality.kl99, row->quality.top1, row->quality.ppl);
        buf_text(&out, "}");
    }
    buf_text(&out, "]}\n");
    fwrite(out.data, 1, out.length, stdout);
    buf_free(&out);
}

/* ---- the plot ---- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static enum err file_write(const char *path, const struct buf *text, struct err_info *info)
{
    FILE *file = fopen(path, "w");
    bool good = file != NULL && fwrite(text->data, 1, text->length, file) == text->length;
    if (file != NULL && fclose(file) != 0) good = false;
    if (good) return ERR_OK;
    return err_set_param(info, ERR_IO, "plot", "--plot %s: %s", path, strerror(errno));
}

enum err bench_capacity_plot(const struct capacity_options *options, const struct capacity_row *lines, int n,
                             struct err_info *info)
{
    const char *names[KV_MAX_FORMATS];
    double sequences[KV_MAX_FORMATS], output[KV_MAX_FORMATS], bits[KV_MAX_FORMATS], kl[KV_MAX_FORMATS];
    char title[160], subtitle[200], note[80];
    struct buf out;
    for (int i = 0; i < n; i++) {
        names[i] = lines[i].format;
        sequences[i] = lines[i].sample.most_running;
        output[i] = lines[i].output_tokens_per_s;
        bits[i] = lines[i].sample.bits_per_value;
        kl[i] = lines[i].quality.known ? lines[i].quality.kl : -1;
    }
    snprintf(title, sizeof title, "%s: %.0f MiB of KV cache", base_name(options->name),
             (double)options->kv_cache_bytes / (1 << 20));
    snprintf(subtitle, sizeof subtitle, "requests of %d + %d tokens, more than fit; %s admission",
             options->prompt_tokens, options->max_tokens, options->admission);
    snprintf(note, sizeof note, "KL to f16, %d windows of %d tokens; less is better",
             options->quality_windows, options->quality_ctx);
    const struct plot_panel panels[] = {
        {"Sequences at once", "more is better", sequences, 0, 0},
        {"Tokens generated a second", "all sequences together, prefill included", output, 1, 0},
        {"Bits per cached value", "everything counted", bits, 2, -1},
        {"Divergence", note, kl, 5, -1},
    };
    const struct plot plot = {.title = title,
                              .subtitle = subtitle,
                              .rows = names,
                              .n_rows = n,
                              .panels = panels,
                              .n_panels = lines[0].quality.known ? 4 : 3};
    buf_init(&out, SIZE_MAX);
    plot_svg(&plot, &out);
    enum err err = file_write(options->plot, &out, info);
    buf_free(&out);
    return err;
}
