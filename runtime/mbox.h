/* SPDX-License-Identifier: Apache-2.0
 *
 * mbox.h - the actor mailbox: an intrusive multi-producer single-consumer list, and the envelope
 * magazine.
 *
 * mbox_head holds the newest envelope, with bit 0 (EMPTY) set while the owner is idle.  A push is
 * one exchange and one store, wait-free.  The pusher that reads EMPTY, and only it, must schedule
 * the actor: docs/memory-model.md, theorem 1, shows that then no message is ever left behind.
 */
#ifndef POSTERN_RUNTIME_MBOX_H
#define POSTERN_RUNTIME_MBOX_H

#include "runtime/internal.h"

#include <stdlib.h>

/* ---- envelopes from a magazine ------------------------------------------------------------ */

/* NULL: out of memory. */
static inline struct ptn__env *ptn__env_get(ptn_runtime *rt, struct ptn__mag *m) {
#ifdef PTN_SANITIZE
    (void)rt;
    (void)m;
    return aligned_alloc(PTN_CACHELINE, sizeof(struct ptn__env));
#else
    struct ptn__env *e = m->list[0];
    if (PTN_UNLIKELY(e == NULL))
        return ptn__env_refill(rt, m);
    m->list[0] = atomic_load_explicit(&e->next, memory_order_relaxed); /* thread-local list */
    m->n[0]--;
    return e;
#endif
}

static inline void ptn__env_put(ptn_runtime *rt, struct ptn__mag *m, struct ptn__env *e) {
#ifdef PTN_SANITIZE
    (void)rt;
    (void)m;
    free(e);
#else
    atomic_store_explicit(&e->next, m->list[0], memory_order_relaxed); /* thread-local list */
    m->list[0] = e;
    if (PTN_UNLIKELY(++m->n[0] == PTN__MAGAZINE))
        ptn__env_spill(rt, m);
#endif
}

/* ---- queue -------------------------------------------------------------------------------- */

/* Any thread.  Pushes the chain first..last (linked through next).  True: the caller saw EMPTY and
 * must schedule the actor. */
static inline bool ptn__mbox_push(struct ptn__slot *s, struct ptn__env *first,
                                  struct ptn__env *last) {
    /* relaxed: published by the exchange */
    atomic_store_explicit(&last->next, NULL, memory_order_relaxed);
    /* acq_rel.  release publishes the chain's contents to the next pusher and to mark_empty;
     * acquire (partner: the CAS in ptn__mbox_mark_empty()) makes the pusher that reads EMPTY see
     * all that the owner did before it went idle, so that it may touch ready_next. */
    uintptr_t prev = atomic_exchange_explicit(&s->mbox_head, (uintptr_t)last, memory_order_acq_rel);
    struct ptn__env *p = (struct ptn__env *)(prev & ~PTN__MBOX_EMPTY);
    /* release.  partner: the acquire load in ptn__mbox_pop(). */
    atomic_store_explicit(&p->next, first, memory_order_release);
    return (prev & PTN__MBOX_EMPTY) != 0;
}

/* Owner.  NULL: nothing is reachable now (empty, or a pusher is between its exchange and its link).
 * The returned envelope is the new stub: it stays readable until the next pop, and the caller moves
 * buf out of it.  *ret_old is the previous stub, now the caller's. */
static inline struct ptn__env *ptn__mbox_pop(struct ptn__slot *s, struct ptn__env **ret_old) {
    struct ptn__env *tail = s->mbox_tail;
    /* acquire.  partner: the link store (release) in ptn__mbox_push(). */
    struct ptn__env *next = atomic_load_explicit(&tail->next, memory_order_acquire);
    if (next == NULL)
        return NULL;
    s->mbox_tail = next;
    *ret_old = tail;
    return next;
}

/* Owner.  A hint only, never a reason to sleep: has anything been pushed since the last pop? */
static inline bool ptn__mbox_has_more(const struct ptn__slot *s) {
    /* relaxed: the decision to go idle is the CAS below, not this load */
    return atomic_load_explicit(&s->mbox_head, memory_order_relaxed) != (uintptr_t)s->mbox_tail;
}

/* Owner.  Declares the actor idle.  False: a push came first, and the actor stays scheduled. */
static inline bool ptn__mbox_mark_empty(struct ptn__slot *s) {
    uintptr_t expect = (uintptr_t)s->mbox_tail;
    /* acq_rel.  The expected value is exactly the last consumed envelope, so in the modification
     * order of mbox_head no push lies between it and this CAS (theorem 1).  release: partner is the
     * exchange of the first pusher after it. */
    return atomic_compare_exchange_strong_explicit(&s->mbox_head, &expect, expect | PTN__MBOX_EMPTY,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

#endif
