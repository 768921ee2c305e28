/* SPDX-License-Identifier: Apache-2.0
 *
 * mbox.h - the way of a message: envelopes from a magazine, the inbox of an actor, the run queue,
 * and the post for other workers.
 *
 * An inbox is a plain list that its worker alone touches.  A sender on the same worker appends to
 * it.  One on another thread pushes onto the ready stack of the receiver's worker, which takes the
 * whole stack at the start of its turn and appends each envelope to its inbox.  A sender uses one
 * of the two ways for good, so messages of a pair stay in order; docs/memory-model.md has the
 * proof.
 */
#ifndef POSTERN_RUNTIME_MBOX_H
#define POSTERN_RUNTIME_MBOX_H

#include "runtime/buf_internal.h"
#include "runtime/internal.h"

#include <stdlib.h>

/* ---- envelopes from a magazine ------------------------------------------------------------ */

/* One that needs no call; NULL: none, and never in sanitizer builds. */
static inline struct ptn__env *ptn__env_at_hand(const struct ptn__mag *m) {
    return m->list;
}

/* e is at hand. */
static inline struct ptn__env *ptn__env_take(struct ptn__mag *m, struct ptn__env *e) {
    m->list = e->next;
    m->n_less++;
    return e;
}

/* NULL: out of memory. */
static inline struct ptn__env *ptn__env_get(ptn_runtime *rt, struct ptn__mag *m) {
#ifdef PTN_SANITIZE
    (void)rt;
    (void)m;
    return aligned_alloc(PTN_CACHELINE, sizeof(struct ptn__env));
#else
    struct ptn__env *e = ptn__env_at_hand(m);
    return PTN_LIKELY(e != NULL) ? ptn__env_take(m, e) : ptn__env_refill(rt, m);
#endif
}

/* The n of a list, at most a magazine, from first to last. */
static inline void ptn__env_put_list(ptn_runtime *rt, struct ptn__mag *m, struct ptn__env *first,
                                     struct ptn__env *last, uint32_t n) {
#ifdef PTN_SANITIZE
    (void)m;
    (void)last;
    for (struct ptn__env *e = first, *next; n > 0; n--, e = next) {
        next = e->next;
        if (!ptn__env_keep(rt, e))
            free(e);
    }
#else
    last->next = m->list;
    m->list = first;
    if (PTN_UNLIKELY((m->n_less -= (int32_t)n) < 0))
        ptn__env_spill(rt, m);
#endif
}

static inline void ptn__env_put(ptn_runtime *rt, struct ptn__mag *m, struct ptn__env *e) {
    ptn__env_put_list(rt, m, e, e, 1);
}

/* ---- inbox and run queue; owner ----------------------------------------------------------- */

static inline bool ptn__runq_is_empty(const struct ptn__worker *w) {
    return w->runq == PTN__RUNQ_END;
}

/* s->run_next is NULL. */
static inline void ptn__runq_push(struct ptn__worker *w, struct ptn__slot *s) {
    s->run_next = PTN__RUNQ_END;
    *w->runq_tail = s;
    w->runq_tail = &s->run_next;
}

/* The first one has nothing left to do.  Who is next?  w->runq is the caller's, but not at the end.
 */
static inline struct ptn__slot *ptn__runq_leave(struct ptn__worker *w, struct ptn__slot *s) {
    struct ptn__slot *next = s->run_next;
    s->run_next = NULL;
    if (PTN_UNLIKELY(next == PTN__RUNQ_END)) {
        w->runq = PTN__RUNQ_END;
        w->runq_tail = &w->runq;
    }
    return next;
}

/* The first one has had its turn: it leaves, or goes to the end.  As above. */
static inline struct ptn__slot *ptn__runq_turn(struct ptn__worker *w, struct ptn__slot *s) {
    struct ptn__slot *next = s->run_next;
    if (s->inbox == NULL)
        return ptn__runq_leave(w, s);
    if (next == PTN__RUNQ_END)
        return s;
    ptn__runq_push(w, s);
    return next;
}

/* An actor with something in its inbox is on the run queue, or running.  In a batch the inbox still
 * begins with what the batch has taken.  The last one's next means nothing. */
static inline void ptn__inbox_push(struct ptn__worker *w, struct ptn__slot *s, struct ptn__env *e) {
    if (s->inbox != NULL) {
        s->inbox_last->next = e;
    } else {
        s->inbox = e;
        if (s->run_next == NULL)
            ptn__runq_push(w, s);
    }
    s->inbox_last = e;
}

/* Takes the oldest ones up to e, which are the caller's now. */
static inline struct ptn__env *ptn__inbox_pop(struct ptn__slot *s, const struct ptn__env *e) {
    struct ptn__env *first = s->inbox;
    s->inbox = e == s->inbox_last ? NULL : e->next;
    return first;
}

/* ---- load --------------------------------------------------------------------------------- */

/* Owner.  Changes what its own worker's messages weigh: a store, because only the owner writes. */
static inline void ptn__near_add(struct ptn__slot *s, uint64_t add) {
    atomic_store_explicit(&s->near_level,
                          atomic_load_explicit(&s->near_level, memory_order_relaxed) + add,
                          memory_order_relaxed);
}

/* Owner.  The room of an envelope, if it has any, is free again. */
static inline void ptn__load_release(struct ptn__slot *s, const struct ptn__env *e, size_t len) {
    if (e->kind > PTN__ENV_REQUEST)
        return;
    if (e->far) /* relaxed: partner is the senders' fetch_add in send.c */
        atomic_fetch_sub_explicit(&s->far_load, PTN__LOAD_ONE + len, memory_order_relaxed);
    else
        ptn__near_add(s, -(PTN__LOAD_ONE + len));
}

/* Owner.  Gives back the room of what the batch has taken so far.  That is once at its end, but in
 * the middle of one when an actor that sends to itself finds no room.  Every message taken weighs
 * PTN__LOAD_ONE; near_done is what it weighs besides that, or less. */
static inline void ptn__batch_settle(ptn_ctx *c) {
    uint64_t done = ((uint64_t)ptn__batch_taken(c) << 40) + c->near_done;
    if (done == 0)
        return;
    ptn__near_add(c->slot, -done);
    c->near_done -= done;
    c->slot->notes |= PTN__NOTE_ODD;
}

/* ---- post --------------------------------------------------------------------------------- */

/* Gives back the room that was taken ahead and not used. */
static inline void ptn__post_room_back(struct ptn__post *p) {
    if (p->room != 0) /* relaxed: a counter */
        atomic_fetch_sub_explicit(&p->slot->far_load, p->room, memory_order_relaxed);
    p->room = 0;
}

/* Owner of w.  For another worker; sent on at the end of the batch at the latest. */
static inline void ptn__post_add(struct ptn__worker *w, unsigned to, struct ptn__env *e) {
    struct ptn__post *p = &w->posts[to];
    if (p->newest == NULL)
        p->oldest = e;
    e->next = p->newest;
    p->newest = e;
    w->posts_waiting |= UINT64_C(1) << to;
    w->after_batch = true;
    if (++p->n == PTN__POST_MAX || PTN_BUGGIFY("post.early")) {
        struct ptn__slot *s = p->slot;
        ptn__post_flush(w, to);
        p->slot = s; /* likely the next one's, too */
    }
}

#endif
