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

static void overflow(struct auth_revocations *r, int64_t now_ms) {
    char buf[32];
    int err = 0;
    for (unsigned i = 0; err == 0; i++)
        err = auth_revocations_add(r, name_of(i, buf), INT64_MAX, AUTH_EVER, now_ms);
    cr_assert_eq(err, -PTN_ETOOBIG);
}

/* A token of before the table was full may be one that was revoked: no clock makes it good again.
 */
Test(auth_revocations, a_clock_that_is_set_back_frees_no_older_token) {
    struct auth_revocations r = {.secret = {5}};
    int64_t hour = 3600 * 1000;
    overflow(&r, 10 * hour);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("s"), 10 * hour, 9 * hour), AUTH_STALE);
    overflow(&r, 9 * hour);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("s"), 10 * hour - 5, 9 * hour), AUTH_STALE);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("s"), 10 * hour - 5, 11 * hour), AUTH_STALE);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("s"), 9 * hour + 5000, 9 * hour + 5000),
                 AUTH_STALE, "nothing tells it from an older one");
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("s"), 10 * hour + 1000, 10 * hour + 1000),
                 AUTH_VALID, "the clock is there again");
    r.all_before_ms = 0; /* all revocations were loaded anew, and fit */
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("s"), 9 * hour, 9 * hour), AUTH_VALID);
    auth_revocations_done(&r);
}

Test(auth_revocations, a_clock_that_is_set_forward_refuses_what_is_older) {
    struct auth_revocations r = {.secret = {6}};
    int64_t hour = 3600 * 1000;
    overflow(&r, hour);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("s"), hour - 5, 9 * hour), AUTH_STALE);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("s"), 9 * hour, 9 * hour), AUTH_VALID);
    overflow(&r, 9 * hour);
    cr_expect_eq(auth_revocations_check(&r, PTN_STR("s"), 9 * hour, 9 * hour), AUTH_STALE);
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

static void fail(struct auth_limiter *l, ptn_str name, unsigned times, int64_t now_ms) {
    for (unsigned i = 0; i < times; i++)
        auth_limiter_failed(l, name, now_ms);
}

/* Failures of many names, each of them just short of the limit, block none but who reaches it. */
Test(auth_limiter, no_name_is_blocked_by_the_failures_of_others) {
    static struct auth_limiter l = {.secret = {7}};
    char buf[32];
    for (unsigned i = 0; i < 3 * AUTH_LIMITER_NAMES; i++)
        fail(&l, name_of(i, buf), AUTH_FAILURES_MAX - 1, 1000);
    for (unsigned i = 0; i < 3 * AUTH_LIMITER_NAMES; i++)
        cr_assert_not(auth_limiter_is_blocked(&l, name_of(i, buf), 1000));
    cr_expect_not(auth_limiter_is_blocked(&l, PTN_STR("ann"), 1000));
    cr_expect_eq(l.n, AUTH_LIMITER_NAMES);
}

Test(auth_limiter, a_success_of_one_name_frees_no_other) {
    static struct auth_limiter l = {.secret = {8}};
    char buf[32];
    fail(&l, PTN_STR("ann"), AUTH_FAILURES_MAX, 1000);
    for (unsigned i = 0; i < 5000; i++) {
        fail(&l, name_of(i, buf), 1, 1000);
        auth_limiter_clear(&l, name_of(i, buf));
    }
    cr_expect(auth_limiter_is_blocked(&l, PTN_STR("ann"), 1000));
    cr_expect_eq(l.n, 1);
}

/* Trying other names does not make it forget one, unless all of them fail as often. */
Test(auth_limiter, a_flood_of_names_frees_none_that_failed_more_often) {
    static struct auth_limiter l = {.secret = {9}};
    char buf[32];
    fail(&l, PTN_STR("ann"), AUTH_FAILURES_MAX, 1000);
    fail(&l, PTN_STR("bob"), AUTH_FAILURES_MAX - 1, 1000);
    for (unsigned i = 0; i < 5 * AUTH_LIMITER_NAMES; i++)
        fail(&l, name_of(i, buf), AUTH_FAILURES_MAX - 2, 1001);
    cr_expect(auth_limiter_is_blocked(&l, PTN_STR("ann"), 1001));
    cr_expect_not(auth_limiter_is_blocked(&l, PTN_STR("bob"), 1001));
    fail(&l, PTN_STR("bob"), 1, 1001);
    cr_expect(auth_limiter_is_blocked(&l, PTN_STR("bob"), 1001));
    /* What is over makes room before anything else. */
    fail(&l, PTN_STR("eve"), 1, 1000 + AUTH_FAILURES_WINDOW_MS);
    for (unsigned i = 0; i < AUTH_LIMITER_NAMES - 2; i++)
        fail(&l, name_of(i, buf), AUTH_FAILURES_MAX, 1000 + AUTH_FAILURES_WINDOW_MS);
    fail(&l, PTN_STR("eve"), AUTH_FAILURES_MAX - 1, 1000 + AUTH_FAILURES_WINDOW_MS);
    cr_expect(auth_limiter_is_blocked(&l, PTN_STR("eve"), 1000 + AUTH_FAILURES_WINDOW_MS));
}

Test(auth_limiter, a_clock_that_is_set_back_blocks_for_one_window) {
    static struct auth_limiter l = {.secret = {10}};
    int64_t hour = 3600 * 1000;
    fail(&l, PTN_STR("ann"), AUTH_FAILURES_MAX, 5 * hour);
    cr_expect(auth_limiter_is_blocked(&l, PTN_STR("ann"), hour));
    cr_expect(auth_limiter_is_blocked(&l, PTN_STR("ann"), hour + AUTH_FAILURES_WINDOW_MS - 1));
    cr_expect_not(auth_limiter_is_blocked(&l, PTN_STR("ann"), hour + AUTH_FAILURES_WINDOW_MS));
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
