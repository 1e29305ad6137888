#include "server/sched_internal.h"

#include <math.h>
#include <string.h>

/*
 * What the running sequences will hold at their fattest common moment, if each generates what it is likely to
 * and all go on at the same pace. Sequences end one after the other, so that is much less than the sum of
 * what each holds at its end; and with `reach` at 1 it is still the most that can be if nobody falls behind.
 *
 * A sequence that has t tokens to go holds, x tokens before its end, at most what it holds at its end less x
 * times the slope, the bytes of one more token of an old block: the newest blocks cost more, never less. With
 * lines instead of curves sums over sequences need no sequences: they are kept by t, in buckets of a quarter
 * of an octave, and one pass over the buckets finds the peak.
 */

/* Tokens that it may still cache. */
static int likely_rest(const struct sched *sched, const struct sched_seq *seq)
{
    int most = sched_cached_at_most(seq) - seq->n_tokens;
    int likely = (int)ceil(sched->reach * most);
    if (likely < SCHED_FLOOR_TOKENS) likely = SCHED_FLOOR_TOKENS;
    if (likely > most) likely = most;
    return likely > 0 ? likely : 0;
}

/* 0: nothing to go; then 4 buckets an octave, from 1 on. */
static int bucket_of(int t)
{
    if (t < 1) return 0;
    int octave = 31 - __builtin_clz((unsigned)t);
    int quarter = octave >= 2 ? (t >> (octave - 2)) & 3 : (t << (2 - octave)) & 3;
    return 1 + 4 * octave + quarter;
}

/* The least t of the next bucket. */
static double bucket_end(int bucket)
{
    if (bucket == 0) return 1;
    int octave = bucket / 4, quarter = bucket % 4; /* of bucket + 1, whose number less 1 is this one's */
    return ldexp(4 + quarter, octave - 2);
}

static void put(struct sched *sched, const struct sched_seq *seq, int sign)
{
    int format = seq->format, t = likely_rest(sched, seq);
    int n = seq->n_tokens < sched_cached_at_most(seq) ? seq->n_tokens : sched_cached_at_most(seq);
    double slope = sched->slope[format];
    struct sched_outlook *at = &sched->outlook[bucket_of(t)];

    at->now += sign * (double)sched_upto(sched, format, n);
    at->end += sign * (double)sched_upto(sched, format, n + t);
    at->slope += sign * slope;
    at->rest += sign * slope * t;
}

size_t sched_outlook_bytes(const struct sched *sched, const struct sched_seq *seq)
{
    int most = sched_cached_at_most(seq);
    int n = seq->n_tokens < most ? seq->n_tokens : most;
    return sched_upto(sched, seq->format, n + likely_rest(sched, seq));
}

void sched_outlook_reset(struct sched *sched)
{
    memset(sched->outlook, 0, sizeof sched->outlook);
    sched->reserved = 0;
    for (struct sched_seq *seq = sched_running(sched); seq != NULL; seq = sched_next(sched, seq)) {
        put(sched, seq, 1);
        seq->reserved_bytes = sched_outlook_bytes(sched, seq);
        sched->reserved += seq->reserved_bytes;
    }
}

void sched_outlook_add(struct sched *sched, const struct sched_seq *seq)
{
    put(sched, seq, 1);
}

void sched_outlook_remove(struct sched *sched, const struct sched_seq *seq)
{
    put(sched, seq, -1);
}

double sched_outlook_peak(const struct sched *sched, double saved)
{
    struct sched_outlook later = {0};
    double peak = 0, all = 0;

    for (int b = 0; b < SCHED_OUTLOOK; b++) all += sched->outlook[b].now;
    for (int b = SCHED_OUTLOOK - 1; b >= 0; b--) {
        const struct sched_outlook *at = &sched->outlook[b];
        if (at->slope <= 0) continue; /* nobody ends here */
        double now = at->now + later.now;
        double bytes = at->end + later.end - later.rest + later.slope * bucket_end(b);
        /* Who shares with whom is not known here: what sharing saves goes with those who end. */
        bytes -= all > 0 ? saved * now / all : 0;
        if (bytes > peak) peak = bytes;
        later.now += at->now;
        later.end += at->end;
        later.slope += at->slope;
        later.rest += at->rest;
    }
    return peak;
}
