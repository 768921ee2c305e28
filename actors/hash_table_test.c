/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_table_test.c - the table against a plain array, with hashes that collide.
 */
#include "actors/hash_table.h"

#include <criterion/criterion.h>

#define ITEMS 2000u

static uint32_t state = 1;

static uint32_t below(uint32_t n) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % n;
}

static bool holds(const struct hash_table *t, uint32_t hash, const void *item) {
    uint32_t at = hash;
    const void *found;
    while ((found = hash_table_seek(t, hash, &at)) != NULL)
        if (found == item)
            return true;
    return false;
}

/* Few different hashes, some of them at the end of every array, so that runs wrap around. */
static void play(uint32_t hashes, uint32_t spread) {
    static char items[ITEMS];
    static bool in[ITEMS];
    struct hash_table t = {0};
    memset(in, 0, sizeof in);
    uint32_t n = 0;
    for (uint32_t step = 0; step < 40000; step++) {
        const uint32_t k = below(ITEMS), hash = k % hashes * spread - 3;
        if (in[k]) {
            hash_table_remove(&t, hash, &items[k]);
            n--;
        } else if (n < 1 + below(ITEMS)) {
            cr_assert(hash_table_add(&t, hash, &items[k]));
            n++;
        } else {
            continue;
        }
        in[k] = !in[k];
        cr_assert_eq(t.n, n);
        cr_assert_leq(t.n, t.cap / 4 * 3);
        const uint32_t other = below(ITEMS);
        cr_assert_eq(holds(&t, other % hashes * spread - 3, &items[other]), in[other]);
    }
    for (uint32_t k = 0; k < ITEMS; k++)
        cr_assert_eq(holds(&t, k % hashes * spread - 3, &items[k]), in[k]);
    hash_table_done(&t);
}

Test(hash_table, against_an_array) {
    play(ITEMS, 2654435761u);
    play(ITEMS, 1);
    play(50, 1);
    play(50, 1u << 20);
}

Test(hash_table, replace_and_shrink) {
    struct hash_table t = {0};
    char items[1000], other;
    cr_assert_null(hash_table_seek(&t, 5, &(uint32_t){5}));
    for (uint32_t i = 0; i < 1000; i++)
        cr_assert(hash_table_add(&t, i, &items[i]));
    cr_assert(hash_table_add(&t, 1, &items[0])); /* the same item in a second place */
    hash_table_replace(&t, 1, &items[0], &other);
    cr_assert(holds(&t, 0, &items[0]));
    cr_assert(holds(&t, 1, &other));
    cr_assert_not(holds(&t, 1, &items[0]));
    hash_table_remove(&t, 1, &other);
    const uint32_t cap = t.cap;
    for (uint32_t i = 0; i < 1000; i++)
        hash_table_remove(&t, i, &items[i]);
    cr_assert_eq(t.n, 0);
    cr_assert_lt(t.cap, cap / 8);
    hash_table_done(&t);
}
