/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_table.h - a hash table of pointers: one array, linear probing, no gaps left behind.
 *
 * The table knows a hash of each item and nothing else; what is equal the caller decides, among the
 * few items that seek() shows.  A miss of the cache per lookup and 16 bytes per slot, of which
 * three quarters at most are in use.
 */
#ifndef POSTERN_ACTORS_HUB_TABLE_H
#define POSTERN_ACTORS_HUB_TABLE_H

#include <postern/base.h>

struct hub_entry {
    void *item; /* NULL: free */
    uint32_t hash;
};

struct hub_table { /* zero is empty */
    struct hub_entry *entries;
    uint32_t cap; /* a power of two, or 0 */
    uint32_t n;
};

/* The next item with this hash; *at is the hash at first.  NULL: no more. */
static inline void *hub_table_seek(const struct hub_table *t, uint32_t hash, uint32_t *at) {
    if (t->n == 0)
        return NULL;
    for (;;) {
        const struct hub_entry *e = &t->entries[(*at)++ & (t->cap - 1)];
        if (e->item == NULL || e->hash == hash)
            return e->item;
    }
}

/* False: no memory, or too many. */
bool hub_table_add(struct hub_table *t, uint32_t hash, void *item);
/* The item is there. */
void hub_table_remove(struct hub_table *t, uint32_t hash, const void *item);
/* Another item of the same hash takes its place. */
void hub_table_replace(struct hub_table *t, uint32_t hash, const void *item, void *by);
void hub_table_done(struct hub_table *t);

#endif
