/* SPDX-License-Identifier: Apache-2.0
 *
 * histogram.h - durations in fixed memory, each within 0.8 % (the scheme of HdrHistogram,
 * hdrhistogram.org, with 128 steps per power of two): every value counts, none is sampled away.
 */
#ifndef POSTERN_BENCH_LOAD_HISTOGRAM_H
#define POSTERN_BENCH_LOAD_HISTOGRAM_H

#include <postern/base.h>

#define HISTOGRAM_SLOTS (58u * 128u)

struct histogram { /* zeroed: empty */
    uint64_t n, max;
    uint64_t counts[HISTOGRAM_SLOTS];
};

void histogram_add(struct histogram *h, uint64_t v);
void histogram_merge(struct histogram *h, const struct histogram *other);
/* The value that a share of `quantile` (0..1) does not exceed; 0 when empty. */
uint64_t histogram_at(const struct histogram *h, double quantile);

#endif
