/* SPDX-License-Identifier: Apache-2.0
 *
 * buf.c - payload memory: reference counts over thread-local size-class pools.
 *
 * A block is malloc'ed once and then travels between free lists.  Each thread keeps up to two
 * batches per class; a third goes to the global depot (one lock per batch), which is bounded, holds
 * nothing while memory is short, and otherwise frees.  The budget (memory.h) is charged when a
 * block comes from or goes back to the allocator, so the steady path does not feel it.  A buffer
 * may be released by any thread: it then feeds that thread's list, so a pipeline costs one lock per
 * batch and a request/reply pair costs none.  Sanitizer builds bypass the pools, so that every use
 * after release is seen.
 *
 * Memory order: the last unref must see every read of the other holders finished.  Decrements
 * release, and the one that reaches zero acquires (partner: the same fetch_sub in other threads).
 */
#include <postern/memory.h>

#include "runtime/buf_internal.h"
#include "runtime/memory_internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define CLASSES 11u      /* 64 B .. 64 KiB, header included */
#define CLASS_NONE 0xffu /* malloc'ed to measure */
#define CLASS_MIN_SHIFT 6u
#define BATCH_BYTES (128u << 10)
#define BATCH_MAX 64u
#define DEPOT_CLASS_BYTES_MAX (8u << 20)

/* While free, the first data bytes hold the links. */
struct free_links {
    struct ptn_buf *next;
    struct ptn_buf *next_batch;
};
_Static_assert(sizeof(struct ptn_buf) + sizeof(struct free_links) <= (1u << CLASS_MIN_SHIFT),
               "fits");

struct cache { /* one per thread; counters are read by ptn_buf_stats() */
    struct cache *next, **pprev;
    _Atomic(int64_t) live_bytes, pooled_bytes;
    struct ptn_buf *list[CLASSES];
    uint32_t n[CLASSES];
};

static struct {
    pthread_mutex_t lock;
    struct cache *caches;
    struct ptn_buf *batches[CLASSES];
    size_t batch_count[CLASSES];
    int64_t live_bytes; /* of threads that have ended */
    int64_t pooled_bytes;
} depot = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Large blocks and blocks of threads without a cache. */
static _Atomic(int64_t) loose_bytes;

static struct ptn_buf *loose_get(size_t total) {
    struct ptn_buf *b = malloc(total);
    if (b == NULL)
        return NULL;
    atomic_fetch_add_explicit(&loose_bytes, (int64_t)total, memory_order_relaxed);
    ptn_memory_charge(PTN_POOL_MESSAGES, (int64_t)total);
    return b;
}

static void loose_put(struct ptn_buf *b, size_t total) {
    atomic_fetch_sub_explicit(&loose_bytes, (int64_t)total, memory_order_relaxed);
    free(b);
    ptn_memory_charge(PTN_POOL_MESSAGES, -(int64_t)total);
}

static inline size_t class_bytes(unsigned k) {
    return (size_t)1 << (CLASS_MIN_SHIFT + k);
}

static unsigned class_of(size_t total) {
    if (total > class_bytes(CLASSES - 1))
        return CLASS_NONE;
    unsigned k = 0;
    if (total > class_bytes(0))
        k = (unsigned)(64 - __builtin_clzll((unsigned long long)(total - 1))) - CLASS_MIN_SHIFT;
    return k;
}

#ifndef PTN_SANITIZE

static pthread_once_t cache_once = PTHREAD_ONCE_INIT;
static pthread_key_t cache_key;
static bool cache_key_ok;
static _Thread_local struct cache *cache_self;

static inline struct free_links *links(struct ptn_buf *b) {
    return (struct free_links *)(void *)b->data;
}

static inline void count(_Atomic(int64_t) *counter, int64_t by) {
    /* relaxed, single writer: partner is the sum in ptn_buf_stats() */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

static unsigned batch_size(unsigned k) {
    size_t n = BATCH_BYTES / class_bytes(k);
    return n > BATCH_MAX ? BATCH_MAX : (unsigned)n;
}

/* Gives a list of blocks back to the allocator. */
static void list_free(struct ptn_buf *b, unsigned k) {
    int64_t bytes = 0;
    while (b != NULL) {
        struct ptn_buf *next = links(b)->next;
        free(b);
        b = next;
        bytes += (int64_t)class_bytes(k);
    }
    ptn_memory_charge(PTN_POOL_MESSAGES, -bytes);
}

/* Moves n blocks from the cache to the depot, or to the allocator when the depot is full. */
static void cache_spill(struct cache *c, unsigned k, unsigned n) {
    struct ptn_buf *first = c->list[k], *last = first;
    for (unsigned i = 1; i < n; i++)
        last = links(last)->next;
    c->list[k] = links(last)->next;
    c->n[k] -= n;
    links(last)->next = NULL;
    int64_t bytes = (int64_t)(n * class_bytes(k));
    count(&c->pooled_bytes, -bytes);
    bool kept = false;
    (void)pthread_mutex_lock(&depot.lock);
    if (n == batch_size(k) && !ptn_memory_pressure() &&
        depot.batch_count[k] * n * class_bytes(k) < (size_t)DEPOT_CLASS_BYTES_MAX) {
        links(first)->next_batch = depot.batches[k];
        depot.batches[k] = first;
        depot.batch_count[k]++;
        depot.pooled_bytes += bytes;
        kept = true;
    }
    (void)pthread_mutex_unlock(&depot.lock);
    if (!kept)
        list_free(first, k);
}

void ptn__buf_trim(void) {
    for (unsigned k = 0; k < CLASSES; k++) {
        (void)pthread_mutex_lock(&depot.lock);
        struct ptn_buf *batches = depot.batches[k];
        depot.batches[k] = NULL;
        depot.pooled_bytes -= (int64_t)(depot.batch_count[k] * batch_size(k) * class_bytes(k));
        depot.batch_count[k] = 0;
        (void)pthread_mutex_unlock(&depot.lock);
        while (batches != NULL) {
            struct ptn_buf *next = links(batches)->next_batch;
            list_free(batches, k);
            batches = next;
        }
    }
}

static void cache_thread_end(void *arg) {
    struct cache *c = arg;
    cache_self = NULL;
    for (unsigned k = 0; k < CLASSES; k++) {
        while (c->n[k] > 0)
            cache_spill(c, k, c->n[k] < batch_size(k) ? c->n[k] : batch_size(k));
    }
    (void)pthread_mutex_lock(&depot.lock);
    *c->pprev = c->next;
    if (c->next != NULL)
        c->next->pprev = c->pprev;
    depot.live_bytes += atomic_load_explicit(&c->live_bytes, memory_order_relaxed);
    (void)pthread_mutex_unlock(&depot.lock);
    free(c);
}

static void cache_key_make(void) {
    cache_key_ok = pthread_key_create(&cache_key, cache_thread_end) == 0;
}

/* NULL when a cache cannot be had; blocks then come from the allocator. */
static struct cache *cache_make(void) {
    (void)pthread_once(&cache_once, cache_key_make);
    struct cache *c = cache_key_ok ? calloc(1, sizeof(*c)) : NULL;
    if (c == NULL || pthread_setspecific(cache_key, c) != 0) {
        free(c);
        return NULL;
    }
    (void)pthread_mutex_lock(&depot.lock);
    c->next = depot.caches;
    c->pprev = &depot.caches;
    if (c->next != NULL)
        c->next->pprev = &c->next;
    depot.caches = c;
    (void)pthread_mutex_unlock(&depot.lock);
    cache_self = c;
    return c;
}

static inline struct cache *cache_get(void) {
    return PTN_LIKELY(cache_self != NULL) ? cache_self : cache_make();
}

static struct ptn_buf *cache_refill(struct cache *c, unsigned k) {
    (void)pthread_mutex_lock(&depot.lock);
    struct ptn_buf *b = depot.batches[k];
    if (b != NULL) {
        depot.batches[k] = links(b)->next_batch;
        depot.batch_count[k]--;
        depot.pooled_bytes -= (int64_t)(batch_size(k) * class_bytes(k));
    }
    (void)pthread_mutex_unlock(&depot.lock);
    if (b == NULL) {
        b = malloc(class_bytes(k));
        ptn_memory_charge(PTN_POOL_MESSAGES, b != NULL ? (int64_t)class_bytes(k) : 0);
        return b;
    }
    c->list[k] = links(b)->next;
    c->n[k] = batch_size(k) - 1;
    count(&c->pooled_bytes, (int64_t)(c->n[k] * class_bytes(k)));
    return b;
}

static struct ptn_buf *block_get(unsigned k, size_t total) {
    struct cache *c = cache_get();
    if (k == CLASS_NONE || c == NULL)
        return loose_get(total);
    struct ptn_buf *b = c->list[k];
    if (b != NULL) {
        c->list[k] = links(b)->next;
        c->n[k]--;
        count(&c->pooled_bytes, -(int64_t)total);
    } else {
        b = cache_refill(c, k);
    }
    if (b != NULL)
        count(&c->live_bytes, (int64_t)total);
    return b;
}

static void block_put(struct ptn_buf *b, unsigned k, size_t total) {
    struct cache *c = cache_get();
    if (k == CLASS_NONE || c == NULL) {
        loose_put(b, total);
        return;
    }
    links(b)->next = c->list[k];
    c->list[k] = b;
    c->n[k]++;
    count(&c->live_bytes, -(int64_t)total);
    count(&c->pooled_bytes, (int64_t)total);
    if (PTN_UNLIKELY(c->n[k] >= 2 * batch_size(k)))
        cache_spill(c, k, batch_size(k));
}

#else /* sanitizers see every block */

static struct ptn_buf *block_get(unsigned k, size_t total) {
    (void)k;
    return loose_get(total);
}

static void block_put(struct ptn_buf *b, unsigned k, size_t total) {
    (void)k;
    loose_put(b, total);
}

void ptn__buf_trim(void) {
} /* no pools */

#endif

#ifdef PTN_DEBUG
static uint64_t checksum(const struct ptn_buf *b) {
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < b->len; i++)
        h = (h ^ b->data[i]) * UINT64_C(0x100000001b3);
    return h;
}
#endif

static inline size_t total_of(const struct ptn_buf *b) {
    return sizeof(struct ptn_buf) + b->cap;
}

ptn_buf *ptn_buf_new(size_t cap) {
    if (cap > PTN_BUF_BYTES_MAX)
        return NULL;
    size_t total = sizeof(struct ptn_buf) + cap;
    unsigned k = class_of(total);
    if (k != CLASS_NONE)
        total = class_bytes(k);
    struct ptn_buf *b = block_get(k, total);
    if (b == NULL)
        return NULL;
    atomic_init(&b->refs, 1);
    b->cap = (uint32_t)(total - sizeof(struct ptn_buf));
    b->len = 0;
    b->magic = PTN__BUF_MAGIC;
    b->pool_class = (uint8_t)k;
    b->sealed = 0;
    return b;
}

uint8_t *ptn_buf_data(ptn_buf *b, size_t *ret_cap) {
    PTN_ASSERT(b->magic == PTN__BUF_MAGIC && !b->sealed);
    if (ret_cap != NULL)
        *ret_cap = b->cap;
    return b->data;
}

ptn_buf *ptn_buf_grow(ptn_buf *take_b, size_t cap) {
    PTN_ASSERT(take_b->magic == PTN__BUF_MAGIC && !take_b->sealed);
    if (cap <= take_b->cap)
        return take_b;
    if (cap > PTN_BUF_BYTES_MAX)
        return NULL;
    /* At least half as much again, so that a writer that appends pays O(1) per byte. */
    size_t want = take_b->cap + take_b->cap / 2;
    want = want < cap ? cap : want;
    ptn_buf *b = ptn_buf_new(want > PTN_BUF_BYTES_MAX ? PTN_BUF_BYTES_MAX : want);
    if (b == NULL)
        return NULL;
    memcpy(b->data, take_b->data, take_b->cap);
    ptn_buf_unref(take_b);
    return b;
}

void ptn_buf_seal(ptn_buf *b, size_t len) {
    PTN_ASSERT(b->magic == PTN__BUF_MAGIC && !b->sealed);
    PTN_ASSERT(len <= b->cap);
    b->len = (uint32_t)len;
    b->sealed = 1;
#ifdef PTN_DEBUG
    b->sum = checksum(b);
#endif
}

ptn_buf *ptn_buf_copy(const void *p, size_t n) {
    ptn_buf *b = ptn_buf_new(n);
    if (b == NULL)
        return NULL;
    if (n > 0)
        memcpy(b->data, p, n);
    ptn_buf_seal(b, n);
    return b;
}

ptn_bytes ptn_buf_bytes(const ptn_buf *b) {
    if (b == NULL)
        return (ptn_bytes){NULL, 0};
    PTN_DEBUG_ASSERT(b->magic == PTN__BUF_MAGIC);
    return (ptn_bytes){b->data, b->len};
}

ptn_buf *ptn_buf_ref(ptn_buf *b) {
    return ptn_buf_refn(b, 1);
}

ptn_buf *ptn_buf_refn(ptn_buf *b, uint32_t n) {
    if (b == NULL || n == 0)
        return b;
    PTN_ASSERT(b->magic == PTN__BUF_MAGIC);
    /* relaxed: whoever passes the new reference on publishes it by the message itself */
    uint32_t old = atomic_fetch_add_explicit(&b->refs, n, memory_order_relaxed);
    PTN_ASSERT(old > 0 && old <= UINT32_MAX / 2 && n <= UINT32_MAX / 2);
    return b;
}

ptn_buf *ptn_buf_unref(ptn_buf *b) {
    if (b == NULL)
        return NULL;
    PTN_ASSERT(b->magic == PTN__BUF_MAGIC);
    /* acquire load: partner is the release half of other holders' fetch_sub.  A count of one is
     * ours and cannot grow, so the sole holder needs no locked instruction.  acq_rel below: see the
     * file's head. */
    if (atomic_load_explicit(&b->refs, memory_order_acquire) != 1) {
        uint32_t old = atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel);
        PTN_ASSERT(old > 0);
        if (old != 1)
            return NULL;
    }
#ifdef PTN_DEBUG
    if (b->sealed)
        PTN_ASSERT(b->sum == checksum(b)); /* somebody wrote to a sealed payload */
#endif
    b->magic = 0;
    block_put(b, b->pool_class, total_of(b));
    return NULL;
}

void ptn_buf_stats(uint64_t *ret_live_bytes, uint64_t *ret_pooled_bytes) {
    int64_t live = atomic_load_explicit(&loose_bytes, memory_order_relaxed);
    (void)pthread_mutex_lock(&depot.lock);
    live += depot.live_bytes;
    int64_t pooled = depot.pooled_bytes;
    for (const struct cache *c = depot.caches; c != NULL; c = c->next) {
        live += atomic_load_explicit(&c->live_bytes, memory_order_relaxed);
        pooled += atomic_load_explicit(&c->pooled_bytes, memory_order_relaxed);
    }
    (void)pthread_mutex_unlock(&depot.lock);
    *ret_live_bytes = live > 0 ? (uint64_t)live : 0;
    *ret_pooled_bytes = pooled > 0 ? (uint64_t)pooled : 0;
}
