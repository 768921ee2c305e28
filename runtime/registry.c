/* SPDX-License-Identifier: Apache-2.0
 *
 * registry.c - names of actors: one hash table under one mutex, for all threads.
 *
 * Names are given at spawn and taken back at the actor's final end, so they survive restarts, as
 * the address does.  Look-ups are rare (actors keep addresses), so a mutex is enough.
 */
#include "runtime/internal.h"

#include <stdlib.h>

#define BUCKETS 1024u
#define NAMES_MAX 65536u
#define NAME_BYTES_MAX 255u

struct ptn__name {
    struct ptn__name *next;
    ptn_addr addr;
    char text[];
};

static uint32_t hash(const char *name) {
    uint32_t h = 2166136261u; /* FNV-1a */
    for (; *name != '\0'; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    return h % BUCKETS;
}

int ptn__registry_init(struct ptn__registry *r) {
    r->buckets = calloc(BUCKETS, sizeof(struct ptn__name *));
    r->n = 0;
    r->n_buckets = BUCKETS;
    if (r->buckets == NULL || pthread_mutex_init(&r->lock, NULL) != 0) {
        free(r->buckets);
        r->buckets = NULL;
        return -PTN_ENOMEM;
    }
    return 0;
}

void ptn__registry_done(struct ptn__registry *r) {
    if (r->buckets == NULL)
        return;
    for (uint32_t i = 0; i < r->n_buckets; i++) {
        while (r->buckets[i] != NULL) {
            struct ptn__name *n = r->buckets[i];
            r->buckets[i] = n->next;
            free(n);
        }
    }
    free(r->buckets);
    r->buckets = NULL;
    (void)pthread_mutex_destroy(&r->lock);
}

/* Under the lock: the link to the entry, or to the NULL where it would go. */
static struct ptn__name **locate(const struct ptn__registry *r, const char *name) {
    struct ptn__name **p = &r->buckets[hash(name)];
    while (*p != NULL && strcmp((*p)->text, name) != 0)
        p = &(*p)->next;
    return p;
}

int ptn__registry_add(struct ptn__registry *r, const char *name, ptn_addr addr) {
    size_t len = strlen(name);
    if (len == 0 || len > NAME_BYTES_MAX)
        return -PTN_EINVAL;
    int err = 0;
    (void)pthread_mutex_lock(&r->lock);
    struct ptn__name **p = locate(r, name);
    if (*p != NULL) {
        err = -PTN_EEXIST;
    } else if (r->n == NAMES_MAX) {
        err = -PTN_EOVERLOAD;
    } else {
        struct ptn__name *n = malloc(sizeof(*n) + len + 1);
        if (n != NULL) {
            n->next = NULL;
            n->addr = addr;
            memcpy(n->text, name, len + 1);
            *p = n;
            r->n++;
        } else {
            err = -PTN_ENOMEM;
        }
    }
    (void)pthread_mutex_unlock(&r->lock);
    return err;
}

/* Only while the name still means addr: a name given to a successor stays. */
void ptn__registry_remove(struct ptn__registry *r, const char *name, ptn_addr addr) {
    (void)pthread_mutex_lock(&r->lock);
    struct ptn__name **p = locate(r, name);
    struct ptn__name *n = *p;
    if (n != NULL && n->addr == addr) {
        *p = n->next;
        r->n--;
        free(n);
    }
    (void)pthread_mutex_unlock(&r->lock);
}

int ptn_whereis(ptn_runtime *rt, const char *name, ptn_addr *ret_addr) {
    struct ptn__registry *r = &rt->registry;
    (void)pthread_mutex_lock(&r->lock);
    const struct ptn__name *n = *locate(r, name);
    if (n != NULL)
        *ret_addr = n->addr;
    (void)pthread_mutex_unlock(&r->lock);
    return n != NULL ? 0 : -PTN_ENOTFOUND;
}
