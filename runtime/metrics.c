/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics.c - per-thread metric cells and their sum.
 *
 * Cells are never freed: a thread that ended keeps its counts in the sum.  The list of cells only
 * grows, and threads are few and start with the process, so this is bounded by the number of
 * threads.
 */
#include <postern/metrics.h>

#include <stdlib.h>

struct cells_node {
    ptn_metrics_cells cells;
    struct cells_node *next;
};

_Thread_local ptn_metrics_cells *ptn__metrics_local;

/* Of threads for which there was no memory, until there is: two of them at a time may lose counts,
 * which is better than to end the process over a number. */
static struct cells_node spare;

/* Push-only stack.  Release on push pairs with the acquire in ptn_metrics_sum(). */
static _Atomic(struct cells_node *) all_cells = &spare;

ptn_metrics_cells *ptn__metrics_attach(void) {
    struct cells_node *node = aligned_alloc(64, (sizeof *node + 63) / 64 * 64);
    if (node == NULL)
        return &spare.cells; /* the next count tries again */
    memset(node, 0, sizeof *node);
    node->next = atomic_load_explicit(&all_cells, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&all_cells, &node->next, node,
                                                  memory_order_release, memory_order_relaxed))
        ;
    ptn__metrics_local = &node->cells;
    return ptn__metrics_local;
}

/* Bucket i holds values up to 2^i microseconds; the last one everything above. */
static unsigned bucket_of(uint64_t ns) {
    uint64_t us = (ns + 999) / 1000;
    unsigned bits = us <= 1 ? 0 : 64u - (unsigned)__builtin_clzll(us - 1);
    return bits < PTN_HISTOGRAM_BUCKETS - 1 ? bits : PTN_HISTOGRAM_BUCKETS - 1;
}

static void add_own(_Atomic uint64_t *cell, uint64_t n) {
    atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

void ptn_histogram_add(ptn_histogram_cells *h, uint64_t ns) {
    add_own(&h->bucket[bucket_of(ns)], 1);
    add_own(&h->sum_ns, ns);
}

void ptn_observe_ns(enum ptn_histogram k, uint64_t ns) {
    ptn_histogram_add(&ptn__metrics()->histogram[k], ns);
}

void ptn_observe_request(unsigned protocol, unsigned status, uint64_t ns) {
    static const enum ptn_histogram first[] = {PTN_H_REQUEST_HTTP_OK, PTN_H_REQUEST_WS_OK,
                                               PTN_H_REQUEST_ZMQ_OK};
    if (protocol >= PTN_ARRAY_LEN(first))
        return;
    unsigned class = status < 400 ? 0 : status < 500 ? 1 : 2;
    ptn_observe_ns((enum ptn_histogram)((unsigned)first[protocol] + class), ns);
}

void ptn_metrics_sum(ptn_metrics_snapshot *ret_s) {
    memset(ret_s, 0, sizeof *ret_s);
    /* acquire pairs with the push in ptn__metrics_attach(): zeroed cells are visible */
    const struct cells_node *n = atomic_load_explicit(&all_cells, memory_order_acquire);
    for (; n != NULL; n = n->next) {
        for (unsigned i = 0; i < PTN_COUNTER_COUNT; i++)
            ret_s->counter[i] += atomic_load_explicit(&n->cells.counter[i], memory_order_relaxed);
        for (unsigned i = 0; i < PTN_GAUGE_COUNT; i++)
            ret_s->gauge[i] += atomic_load_explicit(&n->cells.gauge[i], memory_order_relaxed);
        for (unsigned i = 0; i < PTN_HISTOGRAM_COUNT; i++) {
            const ptn_histogram_cells *h = &n->cells.histogram[i];
            for (unsigned b = 0; b < PTN_HISTOGRAM_BUCKETS; b++)
                ret_s->bucket[i][b] += atomic_load_explicit(&h->bucket[b], memory_order_relaxed);
            ret_s->sum_ns[i] += atomic_load_explicit(&h->sum_ns, memory_order_relaxed);
        }
    }
}
