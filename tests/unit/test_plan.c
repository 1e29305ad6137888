/*
 * The planner against an enumeration of every pattern there is.
 */
#include "cache/plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const int all_half_bits[] = {3, 4, 5, 6, 8, 16};
enum { N_HALF_BITS = sizeof all_half_bits / sizeof *all_half_bits, MAX_PATTERNS = 1000 };

static struct kv_shape shape_of(int head_dim)
{
    return (struct kv_shape){.n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = head_dim};
}

static double uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) / 9007199254740992.0;
}

/* Spreads that fall by random steps, some heads steep, some flat. */
static struct calibration *some_calibration(const struct kv_shape *shape, uint64_t seed)
{
    struct calibration *c;
    assert_int_equal(calibration_create(shape, &c, NULL), ERR_OK);
    int n_groups = shape->head_dim / KV_CODE_GROUP;
    for (int page = 0; page < 4; page++) {
        double sigma = .2 + uniform(&seed), steepness = uniform(&seed);
        for (int g = 0; g < n_groups; g++, sigma *= 1 - steepness * uniform(&seed))
            c->key_sigma[page * n_groups + g] = (float)sigma;
        c->key_weight[page] = (float)(.1 + uniform(&seed));
        c->value_weight[page] = (float)(.1 + uniform(&seed));
    }
    return c;
}

struct pattern {
    uint8_t bits[KV_MAX_CODE_GROUPS];
};

/* Every row of bits that do not increase; returns how many. */
static int patterns_list(int n_groups, struct pattern *list)
{
    static const uint8_t levels[] = {0, 1, 2, 4};
    int n = 0;
    for (uint64_t code = 0; code < (uint64_t)1 << 2 * n_groups; code++) {
        struct pattern pattern = {{0}};
        int falls = 1;
        for (int g = 0; g < n_groups; g++) {
            pattern.bits[g] = levels[code >> 2 * g & 3];
            falls = falls && (g == 0 || pattern.bits[g] <= pattern.bits[g - 1]);
        }
        if (falls) list[n++] = pattern;
        assert_true(n < MAX_PATTERNS);
    }
    return n;
}

static size_t part_bytes(const uint8_t *bits, int n_groups, int is_key)
{
    return is_key ? kv_key_code_bytes(bits, n_groups) : kv_value_code_bytes(bits, n_groups);
}

/* Of a side of one page: history [KV_MAX_PARTS][groups]. INFINITY where the codec knows no such history. */
static double side_cost(const uint8_t history[][KV_MAX_CODE_GROUPS], int n_parts, int n_old_parts,
                        int n_groups, const double *weight)
{
    double cost = 0;
    for (int g = 0; g < n_groups; g++) {
        uint8_t bits[KV_MAX_PARTS] = {0};
        int n = 0;
        for (int p = 0; p < n_parts; p++) {
            bits[p] = history[p][g];
            n += bits[p] != 0;
        }
        if (n == 3 && (bits[1] == 4 || bits[2] == 4)) return INFINITY;
        double distortion = kv_code_distortion(bits, n_parts, n_old_parts);
        cost += weight[g] * (n == 0 ? 2 : distortion / (1 - distortion));
    }
    return cost;
}

struct side {
    int n_groups, is_key, half_bits, n_old_parts; /* of the plan */
    double weight[KV_MAX_CODE_GROUPS];
    uint8_t history[KV_MAX_PARTS][KV_MAX_CODE_GROUPS];
};

static int recent_half_bits(int half_bits)
{
    return half_bits < 4 ? 4 : half_bits < 8 ? 8 - half_bits : 0;
}

static size_t budget(const struct side *side, int half_bits)
{
    return (size_t)((side->n_groups * half_bits + 1) / 2) * KV_CODE_GROUP * KV_BLOCK_TOKENS / 8;
}

static size_t side_bytes(const struct side *side, int part)
{
    return part_bytes(side->history[part], side->n_groups, side->is_key);
}

static size_t old_bytes(const struct side *side)
{
    return side_bytes(side, 0) + (side->half_bits > 4 ? side_bytes(side, 1) : 0);
}

/* Calls `visit` with every way to fill the old parts, or with `recent` the last part. */
static void side_visit(const struct side *side, const struct pattern *list, int n_patterns, int recent_part,
                       void (*visit)(void *context, const struct side *other), void *context)
{
    struct side other = *side;
    int two = !recent_part && side->half_bits > 4;
    for (int i = 0; i < n_patterns; i++) {
        memcpy(other.history[recent_part], list[i].bits, KV_MAX_CODE_GROUPS);
        if (!recent_part && list[i].bits[side->is_key ? 0 : side->n_groups - 1] == 0) continue;
        for (int j = 0; j < (two ? n_patterns : 1); j++) {
            int refines = 1;
            for (int g = 0; two && g < side->n_groups; g++)
                refines = refines && (list[i].bits[g] > 0 || list[j].bits[g] == 0);
            if (two && side->half_bits < 8 && list[j].bits[0] == 4) refines = 0; /* it must go on */
            if (two) memcpy(other.history[1], list[j].bits, KV_MAX_CODE_GROUPS);
            if (refines) visit(context, &other);
        }
    }
}

struct rival {
    size_t limit;
    double cost;
    int n_parts, recent_part;
};

static void rival_loses(void *context, const struct side *other)
{
    const struct rival *r = context;
    if ((r->recent_part ? side_bytes(other, r->recent_part) : old_bytes(other)) > r->limit) return;
    double cost = side_cost(other->history, r->n_parts, other->n_old_parts, other->n_groups, other->weight);
    if (cost < r->cost * (1 - 1e-12)) fail_msg("%.17g is less than %.17g", cost, r->cost);
}

/* No other old parts within the bytes cost less, and given those no other recent part. The bytes: those that
   the side takes, or those that every side may take. */
static void side_is_best(const struct side *side, const struct pattern *list, int n_patterns, int n_parts,
                         int shared)
{
    struct rival rival = {.n_parts = side->half_bits > 4 ? 2 : 1};
    rival.cost = side_cost(side->history, rival.n_parts, side->n_old_parts, side->n_groups, side->weight);
    rival.limit = shared ? old_bytes(side) : budget(side, side->half_bits);
    assert_true(old_bytes(side) <= rival.limit);
    assert_true(side->history[0][0] > 0);
    side_visit(side, list, n_patterns, 0, rival_loses, &rival);
    if (n_parts == side->n_old_parts) return;
    size_t recent_bytes = side_bytes(side, n_parts - 1);
    if (side->half_bits >= 8) { /* the other side alone has a recent part */
        assert_int_equal(recent_bytes, 0);
        return;
    }
    rival = (struct rival){.n_parts = n_parts, .recent_part = n_parts - 1};
    rival.cost = side_cost(side->history, n_parts, side->n_old_parts, side->n_groups, side->weight);
    rival.limit = shared ? recent_bytes : budget(side, recent_half_bits(side->half_bits));
    assert_true(recent_bytes <= rival.limit);
    side_visit(side, list, n_patterns, n_parts - 1, rival_loses, &rival);
}

enum { PAGES = 4 };

/* sides [2][PAGES]: keys, values. */
static void sides_of(const struct kv_shape *shape, const struct calibration *c, const struct kv_plan *plan,
                     int key_half_bits, int value_half_bits, struct side sides[2][PAGES])
{
    int n_groups = shape->head_dim / KV_CODE_GROUP;
    for (int page = 0; page < PAGES; page++) {
        struct side *key = &sides[0][page], *value = &sides[1][page];
        *key = (struct side){n_groups, 1, key_half_bits, plan->n_old_parts, {0}, {{0}}};
        *value = (struct side){n_groups, 0, value_half_bits, plan->n_old_parts, {0}, {{0}}};
        for (int g = 0; g < n_groups; g++) {
            key->weight[g] = value->weight[g] = 1;
            if (c == NULL) continue;
            value->weight[g] = (double)c->value_weight[page];
            key->weight[g] = (double)c->key_weight[page] * pow((double)c->key_sigma[page * n_groups + g], 4);
        }
        for (int p = 0; p < plan->n_parts; p++) {
            memcpy(key->history[p], plan->codes[p][page].key_bits, KV_MAX_CODE_GROUPS);
            memcpy(value->history[p], plan->codes[p][page].value_bits, KV_MAX_CODE_GROUPS);
        }
    }
}

/* Keys and values together, or each for itself when they were asked to have different bits. */
static void bytes_fit(struct side sides[2][PAGES], int n_parts)
{
    size_t old[2] = {0}, recent[2] = {0}, old_limit[2], recent_limit[2];
    for (int s = 0; s < 2; s++) {
        for (int page = 0; page < PAGES; page++) {
            old[s] += old_bytes(&sides[s][page]);
            recent[s] += n_parts > sides[s][page].n_old_parts ? side_bytes(&sides[s][page], n_parts - 1) : 0;
        }
        int half_bits = sides[s][0].half_bits;
        old_limit[s] = PAGES * budget(&sides[s][0], half_bits);
        recent_limit[s] = PAGES * budget(&sides[s][0], recent_half_bits(half_bits));
    }
    int together = sides[0][0].half_bits == sides[1][0].half_bits;
    for (int s = 0; s < 2; s++) {
        assert_true(old[s] + together * old[1 - s] <= old_limit[s] + together * old_limit[1 - s]);
        assert_true(recent[s] + together * recent[1 - s] <= recent_limit[s] + together * recent_limit[1 - s]);
    }
}

static void plan_is_best(const struct kv_shape *shape, const struct calibration *c, int key_half_bits,
                         int value_half_bits, const struct pattern *list, int n_patterns)
{
    struct kv_plan plan;
    struct side sides[2][PAGES];
    assert_int_equal(kv_plan_make(shape, c, key_half_bits, value_half_bits, &plan, NULL), ERR_OK);
    assert_int_equal(plan.n_old_parts, 1 + (key_half_bits > 4 || value_half_bits > 4));
    assert_int_equal(plan.n_parts, plan.n_old_parts + (key_half_bits < 8 || value_half_bits < 8));
    sides_of(shape, c, &plan, key_half_bits, value_half_bits, sides);
    bytes_fit(sides, plan.n_parts);
    for (int page = 0; page < PAGES; page++) {
        side_is_best(&sides[0][page], list, n_patterns, plan.n_parts, c != NULL);
        side_is_best(&sides[1][page], list, n_patterns, plan.n_parts, c != NULL);
    }
    kv_plan_free(&plan);
}

static void test_best_of_all(void **state)
{
    (void)state;
    static struct pattern list[MAX_PATTERNS];
    static const int head_dims[] = {16, 32, 48, 64, 80, 96, 128};
    for (size_t d = 0; d < sizeof head_dims / sizeof *head_dims; d++) {
        struct kv_shape shape = shape_of(head_dims[d]);
        int n_patterns = patterns_list(head_dims[d] / KV_CODE_GROUP, list);
        for (int k = 0; k < N_HALF_BITS; k++)
            for (int v = 0; v < N_HALF_BITS; v++) {
                if (head_dims[d] > 64 && k != v) continue; /* the two sides meet in the parts alone */
                struct calibration *c = some_calibration(&shape, 17 * d + (size_t)(k + v));
                plan_is_best(&shape, c, all_half_bits[k], all_half_bits[v], list, n_patterns);
                plan_is_best(&shape, NULL, all_half_bits[k], all_half_bits[v], list, n_patterns);
                calibration_free(c);
            }
    }
}

/* The least cost of a side's old parts for every number of 128-byte units. */
enum { MAX_UNITS = 2 * 2 * 16 };
struct curve {
    double cost[MAX_UNITS + 1];
};

static void curve_lower(void *context, const struct side *other)
{
    struct curve *curve = context;
    int n_parts = other->half_bits > 4 ? 2 : 1;
    size_t units = old_bytes(other) / (KV_CODE_GROUP * KV_BLOCK_TOKENS / 8);
    double cost = side_cost(other->history, n_parts, other->n_old_parts, other->n_groups, other->weight);
    if (units <= MAX_UNITS && cost < curve->cost[units]) curve->cost[units] = cost;
}

/* All pages together, against the best there is when any bits may go anywhere. Steps along a convex hull can
   leave the last few bits with no step that fits: 4 and the missing partner of a group of 1 bit at most. */
static void test_split(void **state)
{
    (void)state;
    static struct pattern list[MAX_PATTERNS];
    struct kv_shape shape = shape_of(32);
    int n_patterns = patterns_list(2, list);
    for (uint64_t seed = 0; seed < 200; seed++) {
        int half_bits = all_half_bits[seed % N_HALF_BITS];
        struct calibration *c = some_calibration(&shape, seed);
        struct side sides[2][PAGES];
        struct curve curves[2][PAGES];
        struct kv_plan plan;
        double cost = 0, best[2 * PAGES * MAX_UNITS + 1] = {0};
        assert_int_equal(kv_plan_make(&shape, c, half_bits, half_bits, &plan, NULL), ERR_OK);
        sides_of(&shape, c, &plan, half_bits, half_bits, sides);
        for (int i = 0; i < 2 * PAGES; i++) {
            const struct side *side = &sides[i / PAGES][i % PAGES];
            struct curve *curve = &curves[i / PAGES][i % PAGES];
            for (int u = 0; u <= MAX_UNITS; u++) curve->cost[u] = INFINITY;
            side_visit(side, list, n_patterns, 0, curve_lower, curve);
            for (int u = 1; u <= MAX_UNITS; u++) curve->cost[u] = fmin(curve->cost[u], curve->cost[u - 1]);
            cost += side_cost(side->history, half_bits > 4 ? 2 : 1, plan.n_old_parts, 2, side->weight);
        }
        int total = 0;
        for (int i = 0; i < 2 * PAGES; i++) {
            total += MAX_UNITS;
            for (int u = total; u >= 0; u--) {
                double least = INFINITY;
                for (int own = u > total - MAX_UNITS ? u - (total - MAX_UNITS) : 0;
                     own <= MAX_UNITS && own <= u; own++)
                    least = fmin(least, best[u - own] + curves[i / PAGES][i % PAGES].cost[own]);
                best[u] = least;
            }
        }
        double rival = best[half_bits * 2 * PAGES - (half_bits < 16 ? 5 : 0)];
        if (cost > rival * (1 + 1e-12)) fail_msg("seed %d: %g, could be %g", (int)seed, cost, rival);
        kv_plan_free(&plan);
        calibration_free(c);
    }
}

static void bits_are(const uint8_t *bits, int n_groups, const uint8_t *expected)
{
    for (int g = 0; g < KV_MAX_CODE_GROUPS; g++) assert_int_equal(bits[g], g < n_groups ? expected[g] : 0);
}

/* Where no channel is better than another, no group is. */
static void test_uniform(void **state)
{
    (void)state;
    static const struct {
        int half_bits, n_parts;
        uint8_t bits[KV_MAX_PARTS][4];
    } cases[] = {
        {3, 2, {{2, 2, 1, 1}, {2, 2, 2, 2}}},
        {4, 2, {{2, 2, 2, 2}, {2, 2, 2, 2}}},
        {5, 3, {{2, 2, 2, 2}, {1, 1, 0, 0}, {2, 2, 1, 1}}},
        {6, 3, {{2, 2, 2, 2}, {1, 1, 1, 1}, {1, 1, 1, 1}}},
        {8, 2, {{2, 2, 2, 2}, {2, 2, 2, 2}}},
        {16, 2, {{4, 4, 4, 4}, {4, 4, 4, 4}}},
    };
    struct kv_shape shape = shape_of(64);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct kv_plan plan;
        int half_bits = cases[i].half_bits;
        assert_int_equal(kv_plan_make(&shape, NULL, half_bits, half_bits, &plan, NULL), ERR_OK);
        assert_int_equal(plan.n_parts, cases[i].n_parts);
        for (int p = 0; p < plan.n_parts; p++) {
            bits_are(plan.codes[p][3].key_bits, 4, cases[i].bits[p]);
            bits_are(plan.codes[p][3].value_bits, 4, cases[i].bits[p]);
        }
        kv_plan_free(&plan);
    }
}

/* The codec takes every plan: bits it knows, histories it has units for. */
static void test_codec(void **state)
{
    (void)state;
    for (int head_dim = 16; head_dim <= KV_MAX_HEAD_DIM; head_dim += 16) {
        struct kv_shape shape = shape_of(head_dim);
        struct calibration *c = some_calibration(&shape, (uint64_t)head_dim);
        for (int k = 0; k < N_HALF_BITS; k++)
            for (int v = k % 2; v < N_HALF_BITS; v += 2) {
                struct kv_plan plan;
                struct kv_codec *codec;
                assert_int_equal(kv_plan_make(&shape, c, all_half_bits[k], all_half_bits[v], &plan, NULL),
                                 ERR_OK);
                struct kv_codec_spec spec = {shape, NULL, plan.n_parts, plan.n_old_parts, {0}, c->key_sigma};
                for (int p = 0; p < plan.n_parts; p++) spec.codes[p] = plan.codes[p];
                assert_int_equal(kv_codec_create(&spec, &codec, NULL), ERR_OK);
                kv_plan_free(&plan);
                kv_codec_free(codec);
            }
        calibration_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_of_all),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_codec),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
