/* The scheduler in the simulator, by hand: simulate_sched [STEPS [SEED [NAME]]]. Runs every scenario (with
   NAME in its name) for so many steps and prints what it measured, and at the end a row of the table in
   docs/scheduling.md; every promise is checked on the way. */
#include "cache/swap.h"
#include "tests/unit/support/sched_sim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct kv_shape shape = {.n_layers = 24, .n_heads = 16, .n_kv_heads = 4, .head_dim = 64};

static struct sim_config base_of(const struct kv_formats *formats, int recent_blocks)
{
    struct sim_config config = {.sched = {.n_formats = kv_formats_count(formats),
                                          .kv_bytes = (size_t)256 << 20,
                                          .ctx_size = 8192,
                                          .parallel = 128,
                                          .max_batch_tokens = 512,
                                          .max_logits = 128},
                                .max_queue = 500,
                                .median_prompt = 300,
                                .median_output = 100,
                                .max_tokens_factor = 2,
                                .cancel_rate = 1e-5,
                                .deadline_share = .02,
                                .evict_rate = .01,
                                .shared = true};
    for (int f = 0; f < config.sched.n_formats; f++)
        config.sched.policies[f] = (struct kv_policy){.shape = shape,
                                                      .format = kv_formats_at(formats, f),
                                                      .recent_blocks = recent_blocks,
                                                      .sink_tokens = 4};
    return config;
}

static double longest_wait_s(const struct sim_result *r)
{
    double worst_us = 0;
    for (int p = 0; p < SIM_PRIORITIES; p++) worst_us = fmax(worst_us, r->worst_wait_us[p]);
    return worst_us * 1e-6;
}

static void print_row(const char *name, const struct sim_result *r)
{
    double finished = r->finished > 0 ? (double)r->finished : 1;
    printf("| %s | %.0e | %.1f | %.1f | %.2f %% | %.1f / %.0f | %.0f |\n", name, (double)r->steps, r->running,
           1000 * (double)r->stats.preempted / finished, 100 * r->wasted, r->plan_us, r->usual_plan_us,
           longest_wait_s(r));
}

static void print(const char *name, const struct sim_result *r)
{
    printf("%s\n  steps %ld, finished %ld, refused %ld, cancelled %ld, expired %ld; running %.1f, pool used "
           "%.1f %%, "
           "reserved %.1f %%\n",
           name, r->steps, r->finished, r->refused, r->cancelled, r->expired, r->running, 100 * r->used,
           100 * r->reserved);
    printf(
        "  tokens %.3g, hits %.1f %% of %.3g looked up; preempted %llu (%llu unprotected), wasted %.2f %%\n",
        (double)r->stats.computed_tokens,
        100. * (double)r->stats.hit_tokens / (double)(r->stats.looked_up_tokens + 1),
        (double)r->stats.looked_up_tokens, (unsigned long long)r->stats.preempted,
        (unsigned long long)r->stats.unprotected, 100 * r->wasted);
    if (r->swapped_blocks > 0) printf("  blocks that came back: %ld\n", r->swapped_blocks);
    printf("  wait s (mean / worst) by priority:");
    for (int p = 0; p < SIM_PRIORITIES; p++)
        printf(" %d: %.1f / %.1f;", sim_priorities[p], r->wait_us[p] * 1e-6, r->worst_wait_us[p] * 1e-6);
    printf("\n  fairness %.4f; passed over at most %d steps; plan %.2f us, 99 %% within %.0f us\n",
           r->fairness, r->worst_gap, r->plan_us, r->usual_plan_us);
    print_row(name, r);
    fflush(stdout);
}

/* Saturated for a while, then at 120 % of what that finished a step. */
static void overload(const char *name, struct sim_config config, long n_steps)
{
    struct sim_config saturated = config;
    memset(saturated.tenant_weights, 0, sizeof saturated.tenant_weights);
    saturated.load = 0;
    saturated.max_queue = 64;
    saturated.n_steps = n_steps < 100000 ? n_steps : 100000;
    struct sim_result result = sim_run(&saturated);
    config.arrivals = result.rate;
    if (config.load == 0) config.load = 1.2;
    config.n_steps = n_steps;
    printf("saturated: %.4f a step, running %.1f, wasted %.2f %%\n", result.rate, result.running,
           100 * result.wasted);
    result = sim_run(&config);
    print(name, &result);
}

/* What of the queue's order there is to see. */
enum queue { EVERYTHING, FIFO, FAIR, PRIORITY };

static const struct scenario {
    const char *name, *formats;
    enum sched_admission admission;
    int median_prompt, median_output;
    double max_tokens_factor;
    int parallel, max_queue; /* 0: 128, 500 */
    size_t swap_mib;
    enum queue queue;
} scenarios[] = {
    {"no-evict, o2", "o2", SCHED_NO_EVICT, 300, 100, 2, 0, 0, 0, 0},
    {"no-evict, f16", "f16", SCHED_NO_EVICT, 300, 100, 2, 0, 0, 0, 0},
    {"optimistic, o2", "o2", SCHED_OPTIMISTIC, 300, 100, 2, 0, 0, 0, 0},
    {"optimistic, f16", "f16", SCHED_OPTIMISTIC, 300, 100, 2, 0, 0, 0, 0},
    {"no-evict, o2, f16 and o4 mixed", "o2,f16,o4", SCHED_NO_EVICT, 300, 100, 2, 0, 0, 0, 0},
    {"optimistic, o2, f16 and o4 mixed", "o2,f16,o4", SCHED_OPTIMISTIC, 300, 100, 2, 0, 0, 0, 0},
    {"optimistic, o2, long answers, max_tokens meant", "o2", SCHED_OPTIMISTIC, 100, 600, 1, 0, 0, 0, 0},
    {"optimistic, o2, long answers, max_tokens 4 times as much", "o2", SCHED_OPTIMISTIC, 100, 600, 4, 0, 0, 0,
     0},
    {"optimistic, f16, long answers, max_tokens meant", "f16", SCHED_OPTIMISTIC, 100, 600, 1, 0, 0, 0, 0},
    {"optimistic, f16, long answers, max_tokens 4 times as much", "f16", SCHED_OPTIMISTIC, 100, 600, 4, 0, 0,
     0, 0},
    {"swap, optimistic, o2, long answers, max_tokens meant", "o2", SCHED_OPTIMISTIC, 100, 600, 1, 0, 0, 1024,
     0},
    {"swap, optimistic, f16, long answers, max_tokens meant", "f16", SCHED_OPTIMISTIC, 100, 600, 1, 0, 0,
     1024, 0},
    {"swap, no-evict, f16", "f16", SCHED_NO_EVICT, 300, 100, 2, 0, 0, 1024, 0},
    {"unequal tenants, no-evict, o2", "o2", SCHED_NO_EVICT, 300, 100, 2, 128, 60000, 0, 0},
    {"unequal tenants, optimistic, o2", "o2", SCHED_OPTIMISTIC, 300, 100, 2, 128, 60000, 0, 0},
    {"large, no-evict, o2, 128 places, 1,000 waiting", "o2", SCHED_NO_EVICT, 300, 100, 2, 128, 1000, 0, 0},
    {"large, no-evict, o2, 128 places, 10,000 waiting", "o2", SCHED_NO_EVICT, 300, 100, 2, 128, 10000, 0, 0},
    {"large, no-evict, o2, 512 places, 1,000 waiting", "o2", SCHED_NO_EVICT, 300, 100, 2, 512, 1000, 0, 0},
    {"large, no-evict, o2, 512 places, 10,000 waiting", "o2", SCHED_NO_EVICT, 300, 100, 2, 512, 10000, 0, 0},
    {"large, optimistic, o2, 512 places, 1,000 waiting", "o2", SCHED_OPTIMISTIC, 300, 100, 2, 512, 1000, 0,
     0},
    {"large, optimistic, o2, 512 places, 10,000 waiting", "o2", SCHED_OPTIMISTIC, 300, 100, 2, 512, 10000, 0,
     0},
};

static int run(const struct scenario *scenario, long n_steps, uint64_t seed)
{
    double inv_freq[32];
    struct kv_formats *formats;
    struct err_info info;

    for (int i = 0; i < 32; i++) inv_freq[i] = pow(10000, -2.0 * i / 64);
    if (kv_formats_create(&shape, scenario->formats, NULL, 1, inv_freq, &formats, &info) != ERR_OK) {
        fprintf(stderr, "%s\n", info.message);
        return 1;
    }
    struct sim_config config = base_of(formats, 8);
    config.seed = seed;
    config.sched.admission = scenario->admission;
    config.mixed = config.sched.n_formats > 1;
    config.swap.bytes = scenario->swap_mib << 20;
    config.swap.chances = KV_SWAP_CHANCES;
    config.swap.slow = .5;
    config.median_prompt = scenario->median_prompt;
    config.median_output = scenario->median_output;
    config.max_tokens_factor = scenario->max_tokens_factor;
    config.one_tenant = scenario->queue == FIFO || scenario->queue == PRIORITY;
    config.one_priority = scenario->queue == FIFO || scenario->queue == FAIR;
    if (strstr(scenario->name, "unequal") != NULL) { /* all of them ask for more than their share */
        const int weights[SIM_TENANTS] = {6, 3, 2, 2, 2, 2};
        memcpy(config.tenant_weights, weights, sizeof weights);
        config.load = 2;
        config.max_queue = scenario->max_queue;
        overload(scenario->name, config, n_steps < 200000 ? n_steps : 200000);
    } else if (scenario->parallel > 0) { /* saturated, in sixteen times the memory */
        config.sched.parallel = scenario->parallel;
        config.sched.max_logits = scenario->parallel;
        config.sched.max_batch_tokens = 1024;
        config.sched.kv_bytes *= 16;
        config.max_queue = scenario->max_queue;
        config.n_steps = n_steps / 20;
        struct sim_result result = sim_run(&config);
        print(scenario->name, &result);
    } else {
        overload(scenario->name, config, n_steps);
    }
    kv_formats_free(formats);
    return 0;
}

/* Every order of the queue with every admission, and with a second store: f16 and long answers, where memory
   is shortest. */
static int run_policies(long n_steps, uint64_t seed, const char *only)
{
    static const char *const queues[] = {[FIFO] = "fifo", [FAIR] = "fair", [PRIORITY] = "priority"};
    for (int i = 0; i < 12; i++) {
        char name[64];
        bool optimistic = i % 2 != 0, swap = i >= 6;
        struct scenario scenario = {.name = name,
                                    .formats = "f16",
                                    .admission = optimistic ? SCHED_OPTIMISTIC : SCHED_NO_EVICT,
                                    .median_prompt = 100,
                                    .median_output = 600,
                                    .max_tokens_factor = 1,
                                    .swap_mib = swap ? 1024 : 0,
                                    .queue = FIFO + (enum queue)(i / 2 % 3)};
        snprintf(name, sizeof name, "policy %s, %s%s", queues[scenario.queue],
                 optimistic ? "optimistic" : "no-evict", swap ? ", second store" : "");
        if (strstr(name, only) != NULL && run(&scenario, n_steps, seed) != 0) return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    long n_steps = argc > 1 ? atol(argv[1]) : 100000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    const char *only = argc > 3 ? argv[3] : "";

    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strstr(scenarios[i].name, only) != NULL && run(&scenarios[i], n_steps, seed) != 0) return 1;
    }
    return run_policies(n_steps, seed, only);
}
