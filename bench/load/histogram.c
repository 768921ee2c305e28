/* SPDX-License-Identifier: Apache-2.0
 *
 * histogram.c - a slot holds the values that agree in their power of two and the 7 bits behind it.
 */
#include "bench/load/histogram.h"

static unsigned shift_of(uint64_t v) {
    return v < 256 ? 0 : 56u - (unsigned)__builtin_clzll(v);
}

void histogram_add(struct histogram *h, uint64_t v) {
    unsigned shift = shift_of(v);
    h->counts[shift * 128 + (unsigned)(v >> shift)]++;
    h->n++;
    h->max = v > h->max ? v : h->max;
}

void histogram_merge(struct histogram *h, const struct histogram *other) {
    for (size_t i = 0; i < HISTOGRAM_SLOTS; i++)
        h->counts[i] += other->counts[i];
    h->n += other->n;
    h->max = other->max > h->max ? other->max : h->max;
}

/* The greatest value of a slot. */
static uint64_t top(unsigned slot) {
    unsigned shift = slot < 256 ? 0 : slot / 128 - 1;
    uint64_t step = slot - shift * 128;
    return ((step + 1) << shift) - 1;
}

uint64_t histogram_at(const struct histogram *h, double quantile) {
    uint64_t wanted = (uint64_t)(quantile * (double)h->n + 0.5), seen = 0;
    wanted = wanted < 1 ? 1 : wanted > h->n ? h->n : wanted;
    for (unsigned i = 0; i < HISTOGRAM_SLOTS && h->n > 0; i++) {
        seen += h->counts[i];
        if (seen >= wanted)
            return top(i) < h->max ? top(i) : h->max;
    }
    return 0;
}
