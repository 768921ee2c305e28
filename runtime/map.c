/* SPDX-License-Identifier: Apache-2.0
 *
 * map.c - small hash map from 64-bit ids to pointers: asks, tokens, watches of one actor.
 *
 * Open addressing with linear probing; removal shifts the run back, so there are no tombstones and
 * a table that sees millions of short-lived ids does not decay.  Ids come from counters, so a
 * multiplicative hash spreads them; nobody outside the process chooses them.
 */
#include "runtime/internal.h"

#include <stdlib.h>

#define MAP_CAP_MIN 8u

static inline uint32_t home(const struct ptn__map *m, uint64_t key) {
    return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (m->cap - 1);
}

static void place(struct ptn__map *m, uint64_t key, void *val) {
    uint32_t i = home(m, key);
    while (m->keys[i] != 0)
        i = (i + 1) & (m->cap - 1);
    m->keys[i] = key;
    m->vals[i] = val;
}

static int grow(struct ptn__map *m) {
    struct ptn__map big = {.n = m->n, .cap = m->cap == 0 ? MAP_CAP_MIN : m->cap * 2};
    big.keys = calloc(big.cap, sizeof(*big.keys));
    big.vals = calloc(big.cap, sizeof(*big.vals));
    if (big.keys == NULL || big.vals == NULL) {
        free(big.keys);
        free(big.vals);
        return -PTN_ENOMEM;
    }
    for (uint32_t i = 0; i < m->cap; i++) {
        if (m->keys[i] != 0)
            place(&big, m->keys[i], m->vals[i]);
    }
    ptn__map_done(m);
    *m = big;
    return 0;
}

int ptn__map_put(struct ptn__map *m, uint64_t key, void *val) {
    PTN_ASSERT(key != 0);
    bool early = m->n >= m->cap / 4 && PTN_BUGGIFY("map.grow");
    if (m->n + m->n / 2 >= m->cap || early) { /* at most two thirds full */
        int err = grow(m);
        if (err < 0)
            return err;
    }
    place(m, key, val);
    m->n++;
    return 0;
}

static bool locate(const struct ptn__map *m, uint64_t key, uint32_t *ret_i) {
    if (m->n == 0 || key == 0)
        return false;
    for (uint32_t i = home(m, key); m->keys[i] != 0; i = (i + 1) & (m->cap - 1)) {
        if (m->keys[i] == key) {
            *ret_i = i;
            return true;
        }
    }
    return false;
}

void *ptn__map_get(const struct ptn__map *m, uint64_t key) {
    uint32_t i;
    return locate(m, key, &i) ? m->vals[i] : NULL;
}

void *ptn__map_take(struct ptn__map *m, uint64_t key) {
    uint32_t hole;
    if (!locate(m, key, &hole))
        return NULL;
    void *val = m->vals[hole];
    uint32_t mask = m->cap - 1;
    for (uint32_t i = (hole + 1) & mask; m->keys[i] != 0; i = (i + 1) & mask) {
        /* An entry may move back to the hole unless its home lies cyclically in (hole, i]. */
        if (((i - home(m, m->keys[i])) & mask) >= ((i - hole) & mask)) {
            m->keys[hole] = m->keys[i];
            m->vals[hole] = m->vals[i];
            hole = i;
        }
    }
    m->keys[hole] = 0;
    m->vals[hole] = NULL;
    m->n--;
    return val;
}

void ptn__map_done(struct ptn__map *m) {
    free(m->keys);
    free(m->vals);
    *m = (struct ptn__map){0};
}
