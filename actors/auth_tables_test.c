/* SPDX-License-Identifier: Apache-2.0
 *
 * auth_tables_test.c - revocations, failed logins and the token cache by themselves.
 */
#include "actors/auth_tables.h"

#include <criterion/criterion.h>
#include <stdio.h>

static ptn_str name_of(unsigned i, char buf[32]) {
    (void)snprintf(buf, 32, "session-%u", i);
    return ptn_str_of(buf);
}

Test(auth_revocations, remembers_until_the_end_and_no_longer) {
    struct auth_revocations r = {.secret = {1}};
    char buf[32];
    for (unsigned i = 0; i < 1000; i++)
        auth_revocations_add(&r, name_of(i, buf), 1000 + i, AUTH_EVER, 0);
    for (unsigned i = 0; i < 1000; i++) {
        cr_expect_eq(auth_revocations_check(&r, name_of(i, buf), 0, 500), AUTH_REVOKED);
        cr_expect_eq(auth_revocations_check(&r, name_of(i, buf), 0, 1000 + i), AUTH_VALID);
    }
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("other"), 0, 500), AUTH_VALID);
    uint32_t cap = r.cap;
    for (unsigned i = 1000; i < 5000; i++) /* everything before is over: no growth */
        auth_revocations_add(&r, name_of(i, buf), 5001 + i, AUTH_EVER, 2000 + i);
    cr_expect_leq(r.cap, cap * 32);
    auth_revocations_done(&r);
}

Test(auth_revocations, what_was_issued_later_is_good) {
    struct auth_revocations r = {.secret = {3}};
    auth_revocations_add(&r, PTN_STR("ann"), 1000000, 5000, 5000);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("ann"), 4999, 6000), AUTH_REVOKED);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("ann"), 5000, 6000), AUTH_REVOKED);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("ann"), 5001, 6000), AUTH_VALID);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("bob"), 1, 6000), AUTH_VALID);
    auth_revocations_add(&r, PTN_STR("ann"), 1000000, 7000, 7000);
    auth_revocations_add(&r, PTN_STR("ann"), 1000000, 5000, 7000);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("ann"), 6999, 8000), AUTH_REVOKED);
    auth_revocations_done(&r);
}

Test(auth_revocations, what_was_reserved_needs_no_memory_later) {
    struct auth_revocations r = {.secret = {4}};
    char buf[32];
    cr_assert_eq(auth_revocations_reserve(&r, 0, 0), 0);
    cr_expect_eq(r.cap, 0);
    cr_assert_eq(auth_revocations_reserve(&r, 1000, 0), 0);
    uint32_t cap = r.cap;
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_eq(auth_revocations_add(&r, name_of(i, buf), 1000, AUTH_EVER, 0), 0);
    cr_expect_eq(r.cap, cap);
    cr_assert_eq(auth_revocations_reserve(&r, 1000, 0), 0);
    cr_expect_eq(auth_revocations_check(&r, name_of(7, buf), 0, 500), AUTH_REVOKED);
    auth_revocations_done(&r);
}

Test(auth_revocations, a_full_table_refuses_everything_older) {
    struct auth_revocations r = {.secret = {2}};
    char buf[32];
    int err = 0;
    for (unsigned i = 0; i <= AUTH_REVOKED_MAX * 2 && err == 0; i++) {
        cr_assert_eq(r.all_before_ms, 0);
        cr_assert_eq(auth_revocations_reserve(&r, 1, 5000), 0, "no memory would help");
        err = auth_revocations_add(&r, name_of(i, buf), 1000000, AUTH_EVER, 5000);
    }
    cr_assert_eq(err, -PTN_ETOOBIG);
    cr_assert_eq(r.all_before_ms, 5000);
    cr_expect_eq(auth_revocations_check(&r, name_of(1, buf), 4999, 6000), AUTH_STALE);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("innocent"), 5000, 6000), AUTH_STALE);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("innocent"), 5999, 6000), AUTH_STALE);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("innocent"), 6000, 6000), AUTH_VALID);
    auth_revocations_done(&r);
}

Test(auth_limiter, blocks_after_ten_failures_for_one_window) {
    static struct auth_limiter l = {.secret = {3}};
    for (unsigned i = 0; i < AUTH_FAILURES_MAX; i++) {
        cr_expect_not(auth_limiter_is_blocked(&l, PTN_STR("ann"), 1000));
        auth_limiter_failed(&l, PTN_STR("ann"), 1000);
    }
    cr_expect(auth_limiter_is_blocked(&l, PTN_STR("ann"), 1000 + AUTH_FAILURES_WINDOW_MS - 1));
    cr_expect_not(auth_limiter_is_blocked(&l, PTN_STR("ann"), 1000 + AUTH_FAILURES_WINDOW_MS));
    cr_expect_not(auth_limiter_is_blocked(&l, PTN_STR("bob"), 1000));
    auth_limiter_failed(&l, PTN_STR("ann"), 1000 + AUTH_FAILURES_WINDOW_MS);
    cr_expect_not(auth_limiter_is_blocked(&l, PTN_STR("ann"), 1001 + AUTH_FAILURES_WINDOW_MS));
}

Test(auth_limiter, a_success_clears_the_count) {
    static struct auth_limiter l = {.secret = {4}};
    for (unsigned i = 0; i < AUTH_FAILURES_MAX - 1; i++)
        auth_limiter_failed(&l, PTN_STR("ann"), 1000);
    auth_limiter_clear(&l, PTN_STR("ann"));
    auth_limiter_failed(&l, PTN_STR("ann"), 1000);
    cr_expect_not(auth_limiter_is_blocked(&l, PTN_STR("ann"), 1000));
}

Test(auth_cache, gives_back_what_was_put_until_it_expires) {
    static struct auth_cache k = {.secret = {5}};
    ptn_buf *principal = ptn_buf_copy("p", 1);
    auth_cache_put(&k, PTN_STR("token-a"), PTN_STR("s1"), 1000, principal);
    cr_expect_eq(auth_cache_get(&k, PTN_STR("token-a"), 999), principal);
    cr_expect_null(auth_cache_get(&k, PTN_STR("token-a"), 1000));
    cr_expect_null(auth_cache_get(&k, PTN_STR("token-b"), 0));
    cr_expect_null(auth_cache_get(&k, PTN_STR("token-"), 0));
    auth_cache_drop_session(&k, PTN_STR("s2"));
    cr_expect_eq(auth_cache_get(&k, PTN_STR("token-a"), 0), principal);
    auth_cache_drop_session(&k, PTN_STR("s1"));
    cr_expect_null(auth_cache_get(&k, PTN_STR("token-a"), 0));
    auth_cache_put(&k, PTN_STR("token-a"), PTN_STR("s1"), 1000, principal);
    auth_cache_clear(&k);
    cr_expect_null(auth_cache_get(&k, PTN_STR("token-a"), 0));
    ptn_buf_unref(principal);
}

Test(auth_cache, is_bounded_and_takes_no_huge_tokens) {
    static struct auth_cache k = {.secret = {6}};
    static char huge[AUTH_CACHE_TOKEN_BYTES_MAX + 1];
    char buf[32];
    unsigned hits = 0;
    ptn_buf *principal = ptn_buf_copy("p", 1);
    memset(huge, 'a', sizeof huge);
    auth_cache_put(&k, (ptn_str){huge, sizeof huge}, PTN_STR("s"), 1000, principal);
    cr_expect_null(auth_cache_get(&k, (ptn_str){huge, sizeof huge}, 0));
    for (unsigned i = 0; i < AUTH_CACHE_SLOTS * 3; i++)
        auth_cache_put(&k, name_of(i, buf), PTN_STR("s"), 1000, principal);
    for (unsigned i = 0; i < AUTH_CACHE_SLOTS * 3; i++)
        hits += auth_cache_get(&k, name_of(i, buf), 0) != NULL;
    cr_expect_leq(hits, AUTH_CACHE_SLOTS);
    cr_expect_gt(hits, AUTH_CACHE_SLOTS / 2);
    auth_cache_clear(&k);
    ptn_buf_unref(principal);
}
