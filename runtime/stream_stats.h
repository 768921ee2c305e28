/* SPDX-License-Identifier: Apache-2.0
 *
 * stream_stats.h - what the stream layer counts, for metrics and memory budgets.
 *
 * Written by each worker with relaxed stores, read by any thread while the runtime exists.
 */
#ifndef POSTERN_RUNTIME_STREAM_STATS_H
#define POSTERN_RUNTIME_STREAM_STATS_H

#include <postern/runtime.h>

typedef struct ptn__stream_stats {
    uint64_t queued_bytes;  /* in out-queues, at the end of the last turn */
    uint64_t streams_open;  /* now */
    uint64_t accepted;      /* ever */
    uint64_t accept_errors; /* connections refused: descriptors or memory ran out */
    uint64_t slow_closes;   /* closed with -PTN_ESLOW */
} ptn__stream_stats;

/* Any thread. */
void ptn__stream_stats_read(ptn_runtime *rt, unsigned worker, ptn__stream_stats *ret_stats);
uint64_t ptn__streams_queued_bytes(ptn_runtime *rt); /* all workers */

#endif
