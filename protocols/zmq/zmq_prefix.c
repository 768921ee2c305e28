/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_prefix.c - hash set of prefixes; a topic is looked up once per prefix length in use.
 *
 * The hash is rolled along the topic, so a lookup reads the topic once whatever the number of
 * prefixes.
 */
#include "protocols/zmq/zmq_prefix.h"

#include <stdlib.h>

#define FNV_PRIME UINT64_C(0x100000001b3)
#define FNV_BASIS UINT64_C(0xcbf29ce484222325)

struct zmq_gw_prefix {
    struct zmq_gw_prefix *next;
    uint64_t hash;
    uint32_t len;
    uint8_t bytes[];
};

static inline uint64_t hash_step(uint64_t h, uint8_t b) {
    return (h ^ b) * FNV_PRIME;
}

/* FNV's low bits are weak; buckets are chosen by the folded ones. */
static inline uint64_t hash_fold(uint64_t h) {
    h ^= h >> 32;
    h *= UINT64_C(0x9e3779b97f4a7c15);
    return h ^ (h >> 29);
}

uint64_t zmq_gw_hash(uint64_t seed, const void *p, size_t n) {
    const uint8_t *bytes = p;
    uint64_t h = seed ^ FNV_BASIS;
    for (size_t i = 0; i < n; i++)
        h = hash_step(h, bytes[i]);
    return hash_fold(h);
}

int zmq_gw_prefixes_init(zmq_gw_prefixes *s, uint32_t n_max, uint64_t seed) {
    *s = (zmq_gw_prefixes){.n_max = n_max, .seed = seed, .n_buckets = 64};
    while (s->n_buckets < n_max && s->n_buckets < (1u << 20))
        s->n_buckets *= 2;
    s->buckets = calloc(s->n_buckets, sizeof(*s->buckets));
    return s->buckets == NULL ? -PTN_ENOMEM : 0;
}

void zmq_gw_prefixes_done(zmq_gw_prefixes *s) {
    for (uint32_t i = 0; s->buckets != NULL && i < s->n_buckets; i++) {
        while (s->buckets[i] != NULL) {
            struct zmq_gw_prefix *p = s->buckets[i];
            s->buckets[i] = p->next;
            free(p);
        }
    }
    free(s->buckets);
    *s = (zmq_gw_prefixes){0};
}

/* The link that points to the entry, or to the NULL at the end of its chain. */
static struct zmq_gw_prefix **find(const zmq_gw_prefixes *s, uint64_t hash, const uint8_t *p,
                                   size_t n) {
    struct zmq_gw_prefix **link = &s->buckets[hash & (s->n_buckets - 1)];
    while (*link != NULL) {
        struct zmq_gw_prefix *e = *link;
        if (e->hash == hash && e->len == n && (n == 0 || memcmp(e->bytes, p, n) == 0))
            break;
        link = &e->next;
    }
    return link;
}

void zmq_gw_prefixes_add(zmq_gw_prefixes *s, ptn_bytes prefix) {
    if (prefix.n > ZMQ_GW_PREFIX_BYTES_MAX)
        return;
    uint64_t hash = zmq_gw_hash(s->seed, prefix.p, prefix.n);
    struct zmq_gw_prefix **link = find(s, hash, prefix.p, prefix.n);
    if (*link != NULL)
        return;
    struct zmq_gw_prefix *e = NULL;
    if (s->n < s->n_max)
        e = malloc(sizeof(*e) + prefix.n);
    if (e == NULL) {
        s->n_untracked++;
        return;
    }
    *e = (struct zmq_gw_prefix){.hash = hash, .len = (uint32_t)prefix.n};
    if (prefix.n > 0)
        memcpy(e->bytes, prefix.p, prefix.n);
    *link = e;
    s->n++;
    s->n_of_length[prefix.n]++;
}

void zmq_gw_prefixes_remove(zmq_gw_prefixes *s, ptn_bytes prefix) {
    if (prefix.n > ZMQ_GW_PREFIX_BYTES_MAX)
        return;
    uint64_t hash = zmq_gw_hash(s->seed, prefix.p, prefix.n);
    struct zmq_gw_prefix **link = find(s, hash, prefix.p, prefix.n);
    struct zmq_gw_prefix *e = *link;
    if (e != NULL) {
        *link = e->next;
        s->n--;
        s->n_of_length[prefix.n]--;
        free(e);
    } else if (s->n_untracked > 0) {
        s->n_untracked--;
    }
}

bool zmq_gw_prefixes_is_empty(const zmq_gw_prefixes *s) {
    return s->n == 0 && s->n_untracked == 0;
}

bool zmq_gw_prefixes_match(const zmq_gw_prefixes *s, ptn_str topic) {
    if (s->n_untracked > 0)
        return true;
    if (s->n == 0)
        return false;
    const uint8_t *p = (const uint8_t *)topic.p;
    uint64_t h = s->seed ^ FNV_BASIS;
    for (size_t len = 0;; len++) {
        if (s->n_of_length[len] != 0 && *find(s, hash_fold(h), p, len) != NULL)
            return true;
        if (len == topic.n || len == ZMQ_GW_PREFIX_BYTES_MAX)
            return false;
        h = hash_step(h, p[len]);
    }
}
