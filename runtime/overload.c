/* SPDX-License-Identifier: Apache-2.0
 *
 * overload.c - requests that are refused because the queue before them stands.
 *
 * A bound on the length of a queue does not see a slow handler.  Time in the queue does: CoDel
 * (RFC 8289) calls a queue bad when even the shortest wait stays above a target for an interval of
 * 20 targets, so a burst that drains is none, however long it was.  Then every request that has
 * waited longer than the target is refused when its turn comes, which costs next to nothing, and
 * what comes after it is served in time; B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015.  The
 * oldest go first: they have the least of their deadline left, their asker is the likeliest to have
 * given up, and the newest end of the list belongs to the senders.
 *
 * For an interval after the last refusal the target alone decides, so that the delay does not climb
 * again while the overload lasts.  A queue of a few counts as an empty one: a slow actor with a
 * handful of patient askers is slow, not overloaded.  Casts, replies, system messages and requests
 * without a deadline (news) are never refused.
 */
#include "runtime/internal.h"

#include <postern/memory.h>

#define INTERVAL_TARGETS 20u

bool ptn__queue_delay_sheds(struct ptn__queue_delay *q, ptn_time now, ptn_time waited,
                            uint32_t n_waiting) {
    if (PTN_LIKELY(waited <= q->target || n_waiting < PTN__QUEUE_STANDS)) {
        q->above_from = 0;
        return false;
    }
    ptn_time interval = q->target * INTERVAL_TARGETS;
    if (q->above_from == 0 || now - q->above_last > interval)
        q->above_from = now;
    q->above_last = now;
    bool stands =
        now - q->above_from >= interval || (q->shed_last != 0 && now - q->shed_last < interval);
    if (stands)
        q->shed_last = now;
    return stands;
}

bool ptn__request_shed(ptn_ctx *c, const struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    struct ptn__worker *w = c->w;
    if (e->deadline == PTN_NEVER)
        return false;
    uint64_t load = ptn__load(s) - c->far_done - c->near_done; /* with what the batch has taken */
    uint32_t n_waiting = (uint32_t)(load >> 40) - ptn__batch_taken(c) - 1;
    if (n_waiting >= PTN__QUEUE_STANDS) /* else the time does not matter, and need not be exact */
        w->clock = w->env->ops->now(w->env);
    uint32_t waited_us = (uint32_t)(w->clock >> 10) - e->enq_us;
    ptn_time waited = waited_us < INT32_MAX ? (ptn_time)waited_us << 10 : 0; /* clocks may differ */
    enum ptn_counter reason = PTN_C_SHED_MEMORY;
    if (!ptn_memory_pressure()) {
        reason = PTN_C_SHED_DELAY;
        if (!ptn__queue_delay_sheds(&s->cold->delay, w->clock, waited, n_waiting))
            return false;
    }
    ptn_count(reason, 1);
    ptn__answer_err(w, s->self, e->from, e->corr, -PTN_EOVERLOAD);
    return true;
}
