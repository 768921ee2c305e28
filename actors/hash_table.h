/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_table.h - a hash table of pointers: one array, linear probing, no gaps left behind.
 *
 * The table knows a hash of each item and nothing else; what is equal the caller decides, among the
 * few items that seek() shows.  A miss of the cache per lookup and 16 bytes per slot, of which
 * three quarters at most are in use.
 */
#ifndef POSTERN_ACTORS_HASH_TABLE_H
#define POSTERN_ACTORS_HASH_TABLE_H

#include <postern/base.h>

struct hash_entry {
    void *item; /* NULL: free */
    uint32_t hash;
};

struct hash_table { /* zero is empty */
    struct hash_entry *entries;
    uint32_t cap; /* a power of two, or 0 */
    uint32_t n;
};

#define HASH_TABLE_KEY_BYTES 16
/* Of a name, for which clients cannot make names that collide without the key. */
uint32_t hash_table_name(const uint8_t key[HASH_TABLE_KEY_BYTES], ptn_str name);

/* The next item with this hash; *at is the hash at first.  NULL: no more. */
static inline void *hash_table_seek(const struct hash_table *t, uint32_t hash, uint32_t *at) {
    if (t->n == 0)
        return NULL;
    for (;;) {
        const struct hash_entry *e = &t->entries[(*at)++ & (t->cap - 1)];
        if (e->item == NULL || e->hash == hash)
            return e->item;
    }
}

/* False: no memory, or too many. */
bool hash_table_add(struct hash_table *t, uint32_t hash, void *item);
/* The item is there. */
void hash_table_remove(struct hash_table *t, uint32_t hash, const void *item);
/* Another item of the same hash takes its place. */
void hash_table_replace(struct hash_table *t, uint32_t hash, const void *item, void *by);
void hash_table_done(struct hash_table *t);

#endif
