/* SPDX-License-Identifier: Apache-2.0
 *
 * buf_test.c - payloads, arenas, maps and names: the small tools under the actors.
 */
#include "runtime/testing.h"

#include <criterion/criterion.h>
#include <signal.h>

/* ---- payloads ----------------------------------------------------------------------------- */

Test(buf, every_size_holds_what_was_written) {
    for (size_t n = 0; n < 300000; n = n * 3 / 2 + 1) {
        ptn_buf *b = ptn_buf_new(n);
        cr_assert_not_null(b);
        size_t cap = 0;
        uint8_t *p = ptn_buf_data(b, &cap);
        cr_assert_geq(cap, n);
        cr_assert_eq((uintptr_t)p % 16, 0);
        memset(p, 0x5a, cap);
        ptn_buf_seal(b, n);
        cr_assert_eq(ptn_buf_bytes(b).n, n);
        cr_assert_null(ptn_buf_unref(b));
    }
    cr_expect_eq(buf_live(), 0);
}

Test(buf, limits) {
    cr_expect_null(ptn_buf_new((size_t)PTN_BUF_BYTES_MAX + 1));
    cr_expect_null(ptn_buf_new(SIZE_MAX));
    ptn_buf *b = ptn_buf_new(PTN_BUF_BYTES_MAX);
    cr_assert_not_null(b);
    cr_expect_null(ptn_buf_grow(b, (size_t)PTN_BUF_BYTES_MAX + 1));
    ptn_buf_unref(b);
    cr_expect_null(ptn_buf_unref(NULL));
    cr_expect_eq(ptn_buf_bytes(NULL).n, 0);
    cr_expect_null(ptn_buf_ref(NULL));
}

Test(buf, grow_keeps_the_contents) {
    ptn_buf *b = ptn_buf_new(3);
    memcpy(ptn_buf_data(b, NULL), "abc", 3);
    for (size_t cap = 4; cap < 500000; cap *= 3) {
        b = ptn_buf_grow(b, cap);
        cr_assert_not_null(b);
        size_t have;
        cr_assert_eq(memcmp(ptn_buf_data(b, &have), "abc", 3), 0);
        cr_assert_geq(have, cap);
    }
    ptn_buf_unref(b);
    cr_expect_eq(buf_live(), 0);
}

Test(buf, the_last_of_many_references_frees) {
    ptn_buf *b = ptn_buf_copy("hello", 5);
    ptn_buf_refn(b, 3);
    for (int i = 0; i < 3; i++)
        ptn_buf_unref(b);
    cr_expect_eq(memcmp(ptn_buf_bytes(b).p, "hello", 5), 0);
    cr_expect_gt(buf_live(), 0);
    ptn_buf_unref(b);
    cr_expect_eq(buf_live(), 0);
}

Test(buf, writing_after_the_seal_aborts, .signal = SIGABRT) {
    ptn_buf *b = ptn_buf_copy("x", 1);
    (void)ptn_buf_data(b, NULL);
}

Test(buf, sealing_beyond_the_capacity_aborts, .signal = SIGABRT) {
    ptn_buf *b = ptn_buf_new(1);
    ptn_buf_seal(b, 5000);
}

struct relay {
    pthread_mutex_t lock;
    pthread_cond_t change;
    ptn_buf *slots[64];
    unsigned n;
    bool over;
};

static void *relay_thread(void *arg) {
    struct relay *r = arg;
    for (;;) {
        pthread_mutex_lock(&r->lock);
        while (r->n == 0 && !r->over)
            pthread_cond_wait(&r->change, &r->lock);
        ptn_buf *b = r->n > 0 ? r->slots[--r->n] : NULL;
        pthread_cond_broadcast(&r->change);
        pthread_mutex_unlock(&r->lock);
        if (b == NULL)
            return NULL;
        cr_assert_eq(ptn_buf_bytes(b).p[0], 9);
        ptn_buf_unref(b);
    }
}

Test(buf, one_thread_makes_and_another_frees, .timeout = 60) {
    struct relay r = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};
    pthread_t th;
    cr_assert_eq(pthread_create(&th, NULL, relay_thread, &r), 0);
    for (unsigned i = 0; i < 30000; i++) {
        ptn_buf *b = ptn_buf_new(100);
        ptn_buf_data(b, NULL)[0] = 9;
        ptn_buf_seal(b, 100);
        pthread_mutex_lock(&r.lock);
        while (r.n == 64)
            pthread_cond_wait(&r.change, &r.lock);
        r.slots[r.n++] = b;
        pthread_cond_broadcast(&r.change);
        pthread_mutex_unlock(&r.lock);
    }
    pthread_mutex_lock(&r.lock);
    r.over = true;
    pthread_cond_broadcast(&r.change);
    pthread_mutex_unlock(&r.lock);
    pthread_join(th, NULL);
    uint64_t live, pooled;
    ptn_buf_stats(&live, &pooled);
    cr_expect_eq(live, 0);
    cr_expect_lt(pooled, 1u << 20, "the pools stay small: blocks go round");
}

/* ---- arena -------------------------------------------------------------------------------- */

Test(arena, blocks_are_zero_aligned_and_apart) {
    struct ptn__arena_chunk *a = NULL;
    uint8_t *prev = NULL;
    size_t prev_n = 0;
    for (size_t n = 0; n < 200000; n = n * 2 + 3) {
        uint8_t *p = ptn__arena_alloc(&a, n);
        cr_assert_not_null(p);
        cr_assert_eq((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            cr_assert_eq(p[i], 0);
        memset(p, 0xff, n);
        for (size_t i = 0; i < prev_n; i++)
            cr_assert_eq(prev[i], 0xff);
        prev = p;
        prev_n = n;
    }
    ptn__arena_reset(&a);
    uint8_t *p = ptn__arena_alloc(&a, 64);
    cr_assert_eq(p[0], 0, "zero again after a reset");
    cr_expect_null(ptn__arena_alloc(&a, SIZE_MAX));
    cr_expect_null(ptn__arena_free(a));
}

/* ---- map ---------------------------------------------------------------------------------- */

Test(map, agrees_with_a_plain_array) {
    static char present[4096];
    struct ptn__map m = {0};
    uint64_t x = 88172645463325252u;
    uint32_t n = 0;
    for (int i = 0; i < 200000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        uint64_t key = 1 + x % 4095;
        if (!present[key]) {
            cr_assert_null(ptn__map_get(&m, key));
            cr_assert_eq(ptn__map_put(&m, key, &present[key]), 0);
            n++;
        } else {
            cr_assert_eq(ptn__map_get(&m, key), &present[key]);
            cr_assert_eq(ptn__map_take(&m, key), &present[key]);
            cr_assert_null(ptn__map_take(&m, key));
            n--;
        }
        present[key] = !present[key];
        cr_assert_eq(m.n, n);
    }
    for (uint64_t key = 1; key < 4096; key++)
        cr_assert_eq(ptn__map_get(&m, key) != NULL, present[key]);
    cr_expect_null(ptn__map_get(&m, 0));
    ptn__map_done(&m);
    cr_expect_null(ptn__map_get(&m, 5));
}

/* ---- registry ----------------------------------------------------------------------------- */

Test(registry, names_are_taken_once_and_given_back_by_their_owner) {
    struct ptn__registry r;
    cr_assert_eq(ptn__registry_init(&r), 0);
    char name[300];
    for (uint64_t i = 1; i <= 3000; i++) {
        snprintf(name, sizeof(name), "actor-%lu", (unsigned long)i);
        cr_assert_eq(ptn__registry_add(&r, name, i), 0);
        cr_assert_eq(ptn__registry_add(&r, name, i + 1), -PTN_EEXIST);
    }
    ptn__registry_remove(&r, "actor-5", 6);
    cr_expect_eq(ptn__registry_add(&r, "actor-5", 9), -PTN_EEXIST, "not the owner");
    ptn__registry_remove(&r, "actor-5", 5);
    cr_expect_eq(ptn__registry_add(&r, "actor-5", 9), 0);
    ptn__registry_remove(&r, "nobody", 1);
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    cr_expect_eq(ptn__registry_add(&r, name, 1), -PTN_EINVAL);
    cr_expect_eq(ptn__registry_add(&r, "", 1), -PTN_EINVAL);
    ptn__registry_done(&r);
}
