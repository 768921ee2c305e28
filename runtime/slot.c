/* SPDX-License-Identifier: Apache-2.0
 *
 * slot.c - the slot table of a worker: type-stable memory behind actor addresses.
 *
 * Slots come in chunks that are published once and never unmapped before the runtime is freed, so
 * any thread may look up any address at any time; the generation tells whether it still means the
 * same actor.  A slot is reused only after its inbox was drained, so it is in no list. Reservation
 * may come from another worker: it touches the generation and the bounds only, and the owner adopts
 * the actor when the ADOPT message arrives, which is the first message with the new address.
 */
#include "runtime/mbox.h"

#include <stdlib.h>

const struct ptn__cold ptn__cold_none;

/* Of a slot that has had no actor yet: a stray message may have it run, and the watchdog look. */
static const ptn_actor_ops nobody_ops = {.name = "nobody"};

struct ptn__cold *ptn__cold_new(void) {
    return calloc(1, sizeof(struct ptn__cold));
}

struct ptn__cold *ptn__cold_own(struct ptn__slot *s) {
    if (s->cold != &ptn__cold_none)
        return s->cold;
    struct ptn__cold *k = ptn__cold_new();
    if (k != NULL)
        s->cold = k;
    return k;
}

void ptn__cold_drop(struct ptn__slot *s) {
    if (s->cold == &ptn__cold_none)
        return;
    PTN_DEBUG_ASSERT(s->cold->held_head == NULL && s->cold->monitors == NULL);
    ptn__map_done(&s->cold->watches);
    free(s->cold->name);
    free(s->cold);
    s->cold = (struct ptn__cold *)(uintptr_t)&ptn__cold_none;
}

int ptn__slots_init(struct ptn__worker *w) {
    struct ptn__slot_table *t = &w->slots;
    t->chunks = calloc(PTN__CHUNKS_MAX, sizeof(*t->chunks));
    t->chunk_blocks = calloc(PTN__CHUNKS_MAX, sizeof(*t->chunk_blocks));
    if (t->chunks == NULL || t->chunk_blocks == NULL || pthread_mutex_init(&t->lock, NULL) != 0) {
        free(t->chunks);
        free(t->chunk_blocks);
        t->chunks = NULL;
        return -PTN_ENOMEM;
    }
    w->chunks = t->chunks;
    return 0;
}

void ptn__slots_done(struct ptn__worker *w) {
    struct ptn__slot_table *t = &w->slots;
    if (t->chunks == NULL)
        return;
    for (uint32_t i = 0; i < t->n_slots; i++) {
        struct ptn__slot *chunk =
            atomic_load_explicit(&t->chunks[i / PTN__CHUNK_SLOTS], memory_order_relaxed);
        ptn__slot_drain_quiet(&chunk[i % PTN__CHUNK_SLOTS]);
    }
    for (uint32_t i = 0; i < atomic_load_explicit(&t->n_chunks, memory_order_relaxed); i++)
        free(t->chunk_blocks[i]);
    free(t->chunks);
    free(t->chunk_blocks);
    t->chunks = NULL;
    (void)pthread_mutex_destroy(&t->lock);
}

/* Under the lock. */
static int chunk_add(struct ptn__worker *w) {
    struct ptn__slot_table *t = &w->slots;
    uint32_t k = atomic_load_explicit(&t->n_chunks, memory_order_relaxed);
    if (k == PTN__CHUNKS_MAX)
        return -PTN_EOVERLOAD;
    /* calloc and aligned by hand: fresh pages stay untouched until a slot is used */
    void *block = calloc(1, PTN__CHUNK_SLOTS * sizeof(struct ptn__slot) + PTN_CACHELINE);
    if (block == NULL)
        return -PTN_ENOMEM;
    uintptr_t base = ((uintptr_t)block + PTN_CACHELINE - 1) & ~(uintptr_t)(PTN_CACHELINE - 1);
    t->chunk_blocks[k] = block;
    /* release: partner is the acquire load in ptn__slot_at() */
    atomic_store_explicit(&t->chunks[k], (struct ptn__slot *)base, memory_order_release);
    atomic_store_explicit(&t->n_chunks, k + 1, memory_order_release);
    return 0;
}

/* Under the lock.  A slot that was never used. */
static struct ptn__slot *slot_carve(struct ptn__worker *w) {
    struct ptn__slot_table *t = &w->slots;
    if (t->n_slots % PTN__CHUNK_SLOTS == 0 &&
        t->n_slots / PTN__CHUNK_SLOTS == atomic_load_explicit(&t->n_chunks, memory_order_relaxed) &&
        chunk_add(w) < 0)
        return NULL;
    struct ptn__slot *chunk =
        atomic_load_explicit(&t->chunks[t->n_slots / PTN__CHUNK_SLOTS], memory_order_relaxed);
    struct ptn__slot *s = &chunk[t->n_slots % PTN__CHUNK_SLOTS];
    s->worker = w;
    s->index = t->n_slots++;
    s->life = PTN__DEAD;
    s->cold = (struct ptn__cold *)(uintptr_t)&ptn__cold_none;
    s->ops = &nobody_ops;
    return s;
}

struct ptn__slot *ptn__slot_alloc(struct ptn__worker *w, ptn_addr *ret_addr) {
    struct ptn__slot_table *t = &w->slots;
    (void)pthread_mutex_lock(&t->lock);
    struct ptn__slot *s = t->free;
    if (s != NULL) {
        t->free = s->free_next;
        s->in_free = false;
    } else {
        s = slot_carve(w);
    }
    if (s != NULL) {
        uint32_t gen = atomic_load_explicit(&s->gen, memory_order_relaxed) + 1;
        PTN_ASSERT((gen & 1) == 1);
        atomic_store_explicit(&s->gen, gen, memory_order_relaxed);
        *ret_addr = (ptn_addr)w->index << 56 | (ptn_addr)s->index << 32 | gen;
    }
    (void)pthread_mutex_unlock(&t->lock);
    return s;
}

/* May be called again when a late message woke a slot that is free, or reserved but not adopted
 * yet. */
void ptn__slot_release(struct ptn__slot *s) {
    struct ptn__slot_table *t = &s->worker->slots;
    (void)pthread_mutex_lock(&t->lock);
    uint32_t gen = atomic_load_explicit(&s->gen, memory_order_relaxed);
    /* The last generation is never left again: an address must not come back. */
    if ((gen & 1) == 0 && gen != UINT32_MAX - 1 && !s->in_free) {
        s->in_free = true;
        s->free_next = t->free;
        t->free = s;
    }
    (void)pthread_mutex_unlock(&t->lock);
}
