/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_table.c - adding to the table and removing from it.  See hash_table.h.
 */
#include "actors/hash_table.h"

#include <sodium.h>
#include <stdlib.h>

#define CAP_MIN 16u
#define CAP_MAX (1u << 30)

_Static_assert(HASH_TABLE_KEY_BYTES == crypto_shorthash_KEYBYTES, "SipHash-2-4");

uint32_t hash_table_name(const uint8_t key[HASH_TABLE_KEY_BYTES], ptn_str name) {
    uint32_t out[crypto_shorthash_BYTES / sizeof(uint32_t)];
    (void)crypto_shorthash((uint8_t *)out, (const uint8_t *)name.p, name.n, key);
    return out[0];
}

static void put(struct hash_table *t, uint32_t hash, void *item) {
    uint32_t at = hash & (t->cap - 1);
    while (t->entries[at].item != NULL)
        at = (at + 1) & (t->cap - 1);
    t->entries[at] = (struct hash_entry){item, hash};
}

/* False: no memory, and nothing has changed. */
static bool resize(struct hash_table *t, uint32_t cap) {
    struct hash_table new = {.entries = calloc(cap, sizeof *new.entries), .cap = cap, .n = t->n};
    if (new.entries == NULL)
        return false;
    for (uint32_t i = 0; i < t->cap; i++)
        if (t->entries[i].item != NULL)
            put(&new, t->entries[i].hash, t->entries[i].item);
    free(t->entries);
    *t = new;
    return true;
}

bool hash_table_add(struct hash_table *t, uint32_t hash, void *item) {
    PTN_ASSERT(item != NULL);
    if (t->cap == 0 || t->n >= t->cap / 4 * 3) {
        if (t->cap >= CAP_MAX || !resize(t, t->cap == 0 ? CAP_MIN : t->cap * 2))
            return false;
    }
    put(t, hash, item);
    t->n++;
    return true;
}

static uint32_t find(const struct hash_table *t, uint32_t hash, const void *item) {
    uint32_t at = hash & (t->cap - 1);
    while (t->entries[at].item != item || t->entries[at].hash != hash) {
        PTN_ASSERT(t->entries[at].item != NULL);
        at = (at + 1) & (t->cap - 1);
    }
    return at;
}

void hash_table_replace(struct hash_table *t, uint32_t hash, const void *item, void *by) {
    t->entries[find(t, hash, item)].item = by;
}

void hash_table_remove(struct hash_table *t, uint32_t hash, const void *item) {
    const uint32_t mask = t->cap - 1;
    uint32_t hole = find(t, hash, item);
    /* Whoever stands behind the hole moves into it unless it would come before its own place. */
    for (uint32_t at = (hole + 1) & mask; t->entries[at].item != NULL; at = (at + 1) & mask) {
        const uint32_t home = t->entries[at].hash & mask;
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            t->entries[hole] = t->entries[at];
            hole = at;
        }
    }
    t->entries[hole] = (struct hash_entry){0};
    t->n--;
    if (t->cap > CAP_MIN && t->n < t->cap / 8)
        (void)resize(t, t->cap / 2); /* without memory it stays as it is */
}

void hash_table_done(struct hash_table *t) {
    free(t->entries);
    *t = (struct hash_table){0};
}
