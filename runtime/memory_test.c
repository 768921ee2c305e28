/* SPDX-License-Identifier: Apache-2.0
 *
 * memory_test.c - the budget: what is charged, when pressure comes and goes, and that threads which
 * cross the marks together do not leave it behind.
 */
#include <postern/memory.h>
#include <postern/metrics.h>
#include <postern/stream.h>

#include "runtime/memory_internal.h"
#include "runtime/testing.h"

#include <criterion/criterion.h>
#include <pthread.h>

#define MIB (INT64_C(1) << 20)

static uint64_t pool(enum ptn_pool p) {
    ptn_memory_stats m;
    ptn_memory_read(&m);
    return m.pool_bytes[p];
}

static uint64_t all(void) {
    ptn_memory_stats m;
    ptn_memory_read(&m);
    return m.bytes;
}

Test(memory, no_limit_no_pressure) {
    ptn_memory_charge(PTN_POOL_CACHES, 1000 * MIB);
    cr_expect_not(ptn_memory_pressure());
    ptn_memory_charge(PTN_POOL_CACHES, -1000 * MIB);
    cr_expect_eq(pool(PTN_POOL_CACHES), 0);
}

Test(memory, what_is_charged_is_known_to_the_byte) {
    int64_t before = ptn__memory_charged(PTN_POOL_CACHES);
    ptn_memory_charge(PTN_POOL_CACHES, 3 * MIB + 1);
    ptn_memory_charge(PTN_POOL_CACHES, -10);
    cr_expect_eq(ptn__memory_charged(PTN_POOL_CACHES) - before, 3 * MIB - 9);
    ptn_memory_charge(PTN_POOL_CACHES, 9 - 3 * MIB);
    cr_expect_eq(ptn__memory_charged(PTN_POOL_CACHES), before);
}

Test(memory, pressure_from_the_limit_down_to_three_quarters) {
    ptn_metrics_snapshot before, after;
    ptn_metrics_sum(&before);
    ptn_memory_limit(100 * (uint64_t)MIB);
    ptn_memory_charge(PTN_POOL_CACHES, 99 * MIB);
    cr_expect_not(ptn_memory_pressure());
    ptn_memory_charge(PTN_POOL_OUTPUT, 1 * MIB);
    cr_expect(ptn_memory_pressure(), "pools count together");
    ptn_memory_charge(PTN_POOL_CACHES, -24 * MIB);
    cr_expect(ptn_memory_pressure(), "76 of 100: hysteresis");
    ptn_memory_charge(PTN_POOL_CACHES, -2 * MIB);
    cr_expect_not(ptn_memory_pressure());
    ptn_memory_charge(PTN_POOL_CACHES, 20 * MIB);
    cr_expect_not(ptn_memory_pressure(), "94 of 100, from below");
    ptn_metrics_sum(&after);
    cr_expect_eq(after.counter[PTN_C_MEMORY_PRESSURE] - before.counter[PTN_C_MEMORY_PRESSURE], 1);
    ptn_memory_limit(50 * (uint64_t)MIB);
    cr_expect(ptn_memory_pressure(), "a lower limit counts at once");
    ptn_memory_limit(0);
    cr_expect_not(ptn_memory_pressure());
}

Test(memory, payloads_and_frames_are_charged) {
    uint64_t none = all();
    ptn_buf *b = ptn_buf_copy("x", 1), *large = ptn_buf_new(8u << 20);
    cr_expect_geq(pool(PTN_POOL_MESSAGES), 8 * MIB);
    ptn_frame *f = ptn_frame_new(4u << 20);
    cr_expect_geq(pool(PTN_POOL_OUTPUT), 4 * MIB);
    ptn_frame_unref(f);
    ptn_buf_unref(large);
    ptn_buf_unref(b);
    cr_expect_leq(all(), none + 2 * PTN_MEMORY_STEP_BYTES);
}

#ifndef PTN_SANITIZE
/* Free lists are memory: they stay charged, and go when it is short. */
Test(memory, free_payloads_stay_charged_until_pressure) {
    enum { N = 2000 };
    static ptn_buf *b[N];
    for (int i = 0; i < N; i++)
        b[i] = ptn_buf_new(3000);
    uint64_t live = pool(PTN_POOL_MESSAGES);
    cr_expect_geq(live, N * UINT64_C(4096) - PTN_MEMORY_STEP_BYTES);
    for (int i = 0; i < N; i++)
        ptn_buf_unref(b[i]);
    cr_expect_eq(pool(PTN_POOL_MESSAGES), live, "in the thread's lists and in the depot");
    ptn_memory_limit(live);
    cr_expect_not(ptn_memory_pressure(), "what was given back made room");
    cr_expect_leq(pool(PTN_POOL_MESSAGES), UINT64_C(512) << 10, "the thread's own lists");
    ptn_memory_limit(0);
}
#endif

static void *swing(void *arg) {
    enum ptn_pool p = *(const enum ptn_pool *)arg;
    for (int i = 0; i < 20000; i++) {
        ptn_memory_charge(p, 3 * MIB);
        ptn_memory_charge(p, -3 * MIB);
    }
    return NULL;
}

/* Each of four threads passes both marks all the time; at the end nothing is charged. */
Test(memory, crossing_threads_leave_no_pressure_behind, .timeout = 60) {
    static const enum ptn_pool pools[] = {PTN_POOL_MESSAGES, PTN_POOL_OUTPUT, PTN_POOL_SCRATCH,
                                          PTN_POOL_CACHES};
    pthread_t t[4];
    ptn_memory_limit(4 * (uint64_t)MIB);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, swing, (void *)&pools[i]), 0);
    for (int i = 0; i < 4; i++)
        (void)pthread_join(t[i], NULL);
    cr_expect_leq(all(), 4 * PTN_MEMORY_STEP_BYTES);
    cr_expect_not(ptn_memory_pressure());
    ptn_memory_limit(0);
}
