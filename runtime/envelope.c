/* SPDX-License-Identifier: Apache-2.0
 *
 * envelope.c - where envelopes come from: thread-local magazines over a global depot.
 *
 * A thread takes and returns envelopes through two magazines of 64 and needs the depot's lock once
 * per 64 at most.  Envelopes are carved from slabs that live until the runtime is freed; the
 * mailbox bounds limit how many can ever be in use.  Sanitizer builds allocate each one (mbox.h).
 */
#include "runtime/mbox.h"

#include <stdlib.h>

#define SLABS_GROW 64u

int ptn__depot_init(struct ptn__depot *d) {
    d->full = NULL;
    d->slabs = NULL;
    d->n_slabs = d->slabs_cap = 0;
    atomic_init(&d->made, 0);
    return pthread_mutex_init(&d->lock, NULL) == 0 ? 0 : -PTN_ENOMEM;
}

void ptn__depot_done(struct ptn__depot *d) {
    for (uint32_t i = 0; i < d->n_slabs; i++)
        free(d->slabs[i]);
    free(d->slabs);
    (void)pthread_mutex_destroy(&d->lock);
}

/* Under the lock.  A new slab as a linked magazine; NULL: out of memory. */
static struct ptn__env *slab_carve(struct ptn__depot *d) {
    if (d->n_slabs == d->slabs_cap) {
        uint32_t cap = d->slabs_cap == 0 ? SLABS_GROW : d->slabs_cap * 2;
        void **more = realloc(d->slabs, cap * sizeof(*more));
        if (more == NULL)
            return NULL;
        d->slabs = more;
        d->slabs_cap = cap;
    }
    struct ptn__env *e = aligned_alloc(PTN_CACHELINE, PTN__MAGAZINE * sizeof(*e));
    if (e == NULL)
        return NULL;
    d->slabs[d->n_slabs++] = e;
    for (unsigned i = 0; i < PTN__MAGAZINE; i++)
        e[i].next = i + 1 < PTN__MAGAZINE ? &e[i + 1] : NULL;
    atomic_fetch_add_explicit(&d->made, PTN__MAGAZINE, memory_order_relaxed); /* stats */
    return e;
}

struct ptn__env *ptn__env_refill(ptn_runtime *rt, struct ptn__mag *m) {
    struct ptn__depot *d = &rt->depot;
    PTN_ASSERT(m->n[0] == 0);
    if (m->n[1] > 0) {
        m->list[0] = m->list[1];
        m->n[0] = m->n[1];
        m->list[1] = NULL;
        m->n[1] = 0;
    } else {
        (void)pthread_mutex_lock(&d->lock);
        struct ptn__env *e = d->full;
        if (e != NULL)
            d->full = (struct ptn__env *)(uintptr_t)e->corr;
        else
            e = slab_carve(d);
        (void)pthread_mutex_unlock(&d->lock);
        if (e == NULL)
            return NULL;
        m->list[0] = e;
        m->n[0] = PTN__MAGAZINE;
    }
    struct ptn__env *e = m->list[0];
    m->list[0] = e->next;
    m->n[0]--;
    return e;
}

/* The first magazine is full: it becomes the spare, and a full spare goes to the depot. */
void ptn__env_spill(ptn_runtime *rt, struct ptn__mag *m) {
    struct ptn__depot *d = &rt->depot;
    PTN_ASSERT(m->n[0] == PTN__MAGAZINE);
    if (m->n[1] == PTN__MAGAZINE) {
        (void)pthread_mutex_lock(&d->lock);
        m->list[1]->corr = (uint64_t)(uintptr_t)d->full;
        d->full = m->list[1];
        (void)pthread_mutex_unlock(&d->lock);
    }
    m->list[1] = m->list[0];
    m->n[1] = m->n[0];
    m->list[0] = NULL;
    m->n[0] = 0;
}

/* A thread's end.  Slab memory needs no return, only its use: full magazines go back to the depot,
 * a partial one is given up until the runtime is freed. */
void ptn__mag_done(ptn_runtime *rt, struct ptn__mag *m) {
    for (unsigned i = 0; i < 2; i++) {
        if (m->n[i] == PTN__MAGAZINE) {
            (void)pthread_mutex_lock(&rt->depot.lock);
            m->list[i]->corr = (uint64_t)(uintptr_t)rt->depot.full;
            rt->depot.full = m->list[i];
            (void)pthread_mutex_unlock(&rt->depot.lock);
        }
        m->list[i] = NULL;
        m->n[i] = 0;
    }
}

void ptn__env_discard(ptn_runtime *rt, struct ptn__mag *m, struct ptn__env *e) {
    while (e != NULL) {
        struct ptn__env *next = e->next;
        if (e->kind == PTN__ENV_CONTROL && e->type == PTN__CTL_ADOPT)
            ptn__spawn_free((struct ptn__spawn *)(uintptr_t)e->corr);
        ptn_buf_unref(e->buf);
        ptn__env_put(rt, m, e);
        e = next;
    }
}
