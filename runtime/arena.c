/* SPDX-License-Identifier: Apache-2.0
 *
 * arena.c - chunked bump allocation with one free for all of it: actor memory and turn scratch.
 *
 * The first chunk of an actor is its state and nothing else.  Later ones double from 512 B to 64
 * KiB, so a small actor stays small and a big one asks the allocator rarely. An allocation larger
 * than half a chunk gets a chunk of its own behind the current one.
 */
#include "runtime/internal.h"

#include <stdlib.h>

#define ARENA_CHUNK_MIN 512u
#define ARENA_CHUNK_MAX (64u << 10)
#define ARENA_ALIGN 16u

struct ptn__arena_chunk {
    struct ptn__arena_chunk *next;
    size_t cap, used;
    _Alignas(ARENA_ALIGN) uint8_t data[];
};

static struct ptn__arena_chunk *chunk_new(size_t cap) {
    struct ptn__arena_chunk *k = malloc(sizeof(*k) + cap);
    if (k == NULL)
        return NULL;
    k->next = NULL;
    k->cap = cap;
    k->used = 0;
    return k;
}

static size_t rounded(size_t n) {
    return n == 0 ? ARENA_ALIGN : (n + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
}

void *ptn__arena_first(struct ptn__arena_chunk **a, size_t n) {
    PTN_ASSERT(*a == NULL);
    if (n > PTN_BUF_BYTES_MAX)
        return NULL;
    struct ptn__arena_chunk *k = chunk_new(rounded(n));
    if (k == NULL)
        return NULL;
    k->used = k->cap;
    *a = k;
    return memset(k->data, 0, k->cap);
}

/* Zeroed; NULL: out of memory or more than one message may ever hold. */
void *ptn__arena_alloc(struct ptn__arena_chunk **a, size_t n) {
    if (n > PTN_BUF_BYTES_MAX)
        return NULL;
    n = rounded(n);
    struct ptn__arena_chunk *k = *a;
    if (k == NULL || k->cap - k->used < n) {
        size_t cap = k == NULL || k->cap < ARENA_CHUNK_MIN ? ARENA_CHUNK_MIN : k->cap * 2;
        cap = cap > ARENA_CHUNK_MAX ? ARENA_CHUNK_MAX : cap;
        bool own = n > cap / 2;
        struct ptn__arena_chunk *fresh = chunk_new(own ? n : cap);
        if (fresh == NULL)
            return NULL;
        if (own && k != NULL) { /* keep filling the current chunk */
            fresh->next = k->next;
            k->next = fresh;
        } else {
            fresh->next = k;
            *a = fresh;
        }
        k = fresh;
    }
    void *p = k->data + k->used;
    k->used += n;
    memset(p, 0, n);
    return p;
}

/* Accepts NULL, returns NULL. */
void *ptn__arena_free(struct ptn__arena_chunk *a) {
    while (a != NULL) {
        struct ptn__arena_chunk *next = a->next;
        free(a);
        a = next;
    }
    return NULL;
}

/* Empties it, keeping one chunk of ordinary size for the next turn. */
void ptn__arena_reset(struct ptn__arena_chunk **a) {
    struct ptn__arena_chunk *k = *a;
    if (k == NULL || (k->next == NULL && k->used == 0))
        return;
    if (k->cap > ARENA_CHUNK_MAX) {
        *a = ptn__arena_free(k);
        return;
    }
    k->next = ptn__arena_free(k->next);
    k->used = 0;
}
