/* SPDX-License-Identifier: Apache-2.0
 *
 * stream_internal.h - what stream.c, endpoint.c and frame.c share.  Owner worker only, but for the
 * counters.
 */
#ifndef POSTERN_RUNTIME_STREAM_INTERNAL_H
#define POSTERN_RUNTIME_STREAM_INTERNAL_H

#include <postern/stream.h>

#include "runtime/internal.h"

#define PTN__STREAM_IOV_MAX 64
#define PTN__RING_CLASSES 6 /* out-queue rings of 16 to 512 frames are pooled */

struct ptn__streams { /* worker->streams */
    struct ptn__worker *w;
    /* Output waits, or something is to be decided at the end of the turn; FIFO, by dirty_next. */
    ptn_stream *dirty_head, **dirty_tail;
    uint32_t n_dirty;
    uint32_t flush_cost_ns; /* of one write, as measured */
    ptn_time dirty_since;   /* when the first of them became so */
    /* Closed; on_close and the memory are still due; FIFO, by close_next. */
    ptn_stream *closed_head, **closed_tail;
    uint64_t queued;                /* bytes in out-queues; published at the end of the turn */
    void *rings[PTN__RING_CLASSES]; /* free rings, linked through their first entry */
    size_t ring_bytes;              /* in those lists */
    struct ptn__join *join;         /* NULL: not needed yet */
};

/* The frames of an out-queue: ring[(head + i) & mask], i < n. */
struct ptn__queue_view {
    ptn_frame *const *ring;
    uint32_t head, mask, n;
};

/* The first frames of the queue as one piece; returns how many, 0 when there is nothing to gain or
 * no memory.  The piece is valid until the next call.  None of the frames may change any more. */
uint32_t ptn__join(struct ptn__streams *st, const struct ptn__queue_view *q, ptn_iov *ret_v);
void ptn__join_release(struct ptn__streams *st); /* lets go of the frames */
void ptn__join_done(struct ptn__streams *st);

/* Only the owner writes, so a load and a store will do for an increment. */
static inline void ptn__stat_add(_Atomic(uint64_t) *a, uint64_t n) {
    atomic_store_explicit(a, atomic_load_explicit(a, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* A stream for t, owned by the current actor.  t is consumed on success. */
int ptn__stream_new(ptn_ctx *c, ptn_transport *take_t, ptn_stream **ret_s);

/* Frees the calling thread's frame lists. */
void ptn__frame_pool_done(void);

#endif
