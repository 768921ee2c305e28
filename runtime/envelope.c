/* SPDX-License-Identifier: Apache-2.0
 *
 * envelope.c - where envelopes come from: thread-local magazines over a global depot.
 *
 * A thread takes and returns envelopes through two magazines and needs the depot's lock once per 64
 * at most.  A magazine is full with 64 or, because a batch returns its envelopes at once, some
 * more.  Envelopes are carved from slabs that live until the runtime is freed; the mailbox bounds
 * limit how many can ever be in use.  Sanitizer builds allocate each one (mbox.h).
 *
 * A reserve is kept from the start on for SYSTEM and CONTROL: somebody waits for these without a
 * deadline, and a crash for want of memory must not go unheard for want of memory.  Replies may
 * have half of it: who waits for one would else wait for the deadline.  It is made good with what
 * comes back.
 */
#include "runtime/mbox.h"

#include <stdlib.h>

#define SLABS_GROW 64u

/* Under the lock, or before there are threads.  A new slab as a linked magazine; NULL: out of
 * memory. */
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

/* ---- the reserve -------------------------------------------------------------------------- */

/* Under the lock, or before there are threads. */
static void reserve_add(struct ptn__depot *d, struct ptn__env *e) {
    for (struct ptn__env *next; e != NULL; e = next) {
        next = e->next;
        e->next = d->reserve;
        d->reserve = e;
        d->n_reserve++;
    }
}

struct ptn__env *ptn__env_get_reserved(ptn_runtime *rt, enum ptn__env_kind kind) {
    struct ptn__depot *d = &rt->depot;
    uint32_t left = kind == PTN__ENV_REPLY ? PTN__MAGAZINE / 2 : 0;
    (void)pthread_mutex_lock(&d->lock);
    struct ptn__env *e = d->n_reserve > left ? d->reserve : NULL;
    if (e != NULL) {
        d->reserve = e->next;
        d->n_reserve--;
    }
    (void)pthread_mutex_unlock(&d->lock);
    return e;
}

/* False: out of memory. */
static bool reserve_fill(struct ptn__depot *d) {
#ifdef PTN_SANITIZE
    while (d->n_reserve < PTN__MAGAZINE) {
        struct ptn__env *e = aligned_alloc(PTN_CACHELINE, sizeof(*e));
        if (e == NULL)
            return false;
        e->next = NULL;
        reserve_add(d, e);
    }
#else
    reserve_add(d, slab_carve(d));
#endif
    return d->n_reserve == PTN__MAGAZINE;
}

#ifdef PTN_SANITIZE
bool ptn__env_keep(ptn_runtime *rt, struct ptn__env *e) {
    struct ptn__depot *d = &rt->depot;
    /* relaxed: one more or less makes no difference */
    if (PTN_LIKELY(atomic_load_explicit(&d->n_reserve, memory_order_relaxed) >= PTN__MAGAZINE))
        return false;
    (void)pthread_mutex_lock(&d->lock);
    e->next = NULL;
    reserve_add(d, e);
    (void)pthread_mutex_unlock(&d->lock);
    return true;
}
#endif

/* ---- the depot ---------------------------------------------------------------------------- */

int ptn__depot_init(struct ptn__depot *d) {
    *d = (struct ptn__depot){0};
    if (pthread_mutex_init(&d->lock, NULL) != 0)
        return -PTN_ENOMEM;
    if (reserve_fill(d))
        return 0;
    ptn__depot_done(d);
    return -PTN_ENOMEM;
}

#if defined(PTN_DEBUG) && !defined(PTN_SANITIZE)
/* Every envelope that was ever carved is here again: none was lost on its way. */
static bool depot_is_whole(const struct ptn__depot *d) {
    uint64_t n = d->n_reserve;
    for (const struct ptn__env *e = d->full; e != NULL;
         e = (const struct ptn__env *)(uintptr_t)e->corr)
        n += e->type;
    return n == d->made;
}
#else
#define depot_is_whole(d) true /* sanitizers look for leaks themselves */
#endif

void ptn__depot_done(struct ptn__depot *d) {
    PTN_DEBUG_ASSERT(depot_is_whole(d));
#ifdef PTN_SANITIZE
    for (struct ptn__env *e = d->reserve, *next; e != NULL; e = next) {
        next = e->next;
        free(e);
    }
#endif
    for (uint32_t i = 0; i < d->n_slabs; i++)
        free(d->slabs[i]);
    free(d->slabs);
    (void)pthread_mutex_destroy(&d->lock);
}

/* Under the lock.  A magazine of n comes back. */
static void depot_put(struct ptn__depot *d, struct ptn__env *e, uint32_t n) {
    if (PTN_UNLIKELY(d->n_reserve < PTN__MAGAZINE)) {
        reserve_add(d, e);
        return;
    }
    e->corr = (uint64_t)(uintptr_t)d->full;
    e->type = n;
    d->full = e;
}

/* ---- magazines ---------------------------------------------------------------------------- */

void ptn__mag_init(struct ptn__mag *m) {
    *m = (struct ptn__mag){.n_less = PTN__MAGAZINE - 1};
}

struct ptn__env *ptn__env_refill(ptn_runtime *rt, struct ptn__mag *m) {
    struct ptn__depot *d = &rt->depot;
    PTN_ASSERT(m->n_less == PTN__MAGAZINE - 1);
    struct ptn__env *e = m->spare;
    uint32_t n = m->n_spare;
    m->spare = NULL;
    if (e == NULL) {
        (void)pthread_mutex_lock(&d->lock);
        e = d->full;
        n = PTN__MAGAZINE;
        if (e != NULL) {
            d->full = (struct ptn__env *)(uintptr_t)e->corr;
            n = e->type;
        } else {
            e = slab_carve(d);
        }
        (void)pthread_mutex_unlock(&d->lock);
        if (e == NULL)
            return NULL;
    }
    m->n_less -= (int32_t)n;
    return ptn__env_take(m, e);
}

/* The first magazine is full: it becomes the spare, and a full spare goes to the depot. */
void ptn__env_spill(ptn_runtime *rt, struct ptn__mag *m) {
    struct ptn__depot *d = &rt->depot;
    PTN_ASSERT(m->n_less < 0);
    if (m->spare != NULL) {
        (void)pthread_mutex_lock(&d->lock);
        depot_put(d, m->spare, m->n_spare);
        (void)pthread_mutex_unlock(&d->lock);
    }
    m->spare = m->list;
    m->n_spare = (uint32_t)(PTN__MAGAZINE - 1 - m->n_less);
    m->list = NULL;
    m->n_less = PTN__MAGAZINE - 1;
}

/* A thread's end. */
void ptn__mag_done(ptn_runtime *rt, struct ptn__mag *m) {
    const uint32_t n = (uint32_t)(PTN__MAGAZINE - 1 - m->n_less);
    (void)pthread_mutex_lock(&rt->depot.lock);
    if (m->spare != NULL)
        depot_put(&rt->depot, m->spare, m->n_spare);
    if (n > 0)
        depot_put(&rt->depot, m->list, n);
    (void)pthread_mutex_unlock(&rt->depot.lock);
    ptn__mag_init(m);
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
