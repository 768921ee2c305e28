/* SPDX-License-Identifier: Apache-2.0
 *
 * timer_test.c - the wheel against a sorted reference, and timers of actors.
 */
#include "runtime/testing.h"

#include <criterion/criterion.h>

/* ---- the wheel alone ---------------------------------------------------------------------- */

#define N_TIMERS 2000

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Every timer fires once, never early, and not later than the end of its tick. */
static void check_wheel(uint64_t seed, uint64_t span_ms) {
    static ptn_timer t[N_TIMERS];
    static bool stopped[N_TIMERS];
    memset(t, 0, sizeof(t));
    memset(stopped, 0, sizeof(stopped));
    struct ptn__wheel wh;
    ptn_time now = 123456789 * PTN_MS + 17;
    ptn__wheel_init(&wh, now);
    unsigned left = 0;
    for (unsigned i = 0; i < N_TIMERS; i++) {
        t[i].due = now + next_random(&seed) % (span_ms * PTN_MS);
        ptn__wheel_add(&wh, &t[i]);
        left++;
    }
    for (unsigned i = 0; i < N_TIMERS; i += 7) {
        ptn__wheel_remove(&wh, &t[i]);
        stopped[i] = true;
        left--;
    }
    unsigned rounds = 0;
    while (left > 0 && rounds++ < 100 * N_TIMERS) {
        ptn_time next = ptn__wheel_next(&wh);
        cr_assert_neq(next, PTN_NEVER);
        cr_assert_geq(next, now - now % PTN_MS);
        now = next + next_random(&seed) % 300000; /* poll a little late */
        for (ptn_timer *d = ptn__wheel_expire(&wh, now), *n; d != NULL; d = n) {
            n = d->next;
            size_t i = (size_t)(d - t);
            cr_assert(!stopped[i]);
            stopped[i] = true;
            cr_assert_leq(d->due, now, "early");
            cr_assert_lt(now - d->due, 2 * PTN_MS, "late by %lu ns", (unsigned long)(now - d->due));
            left--;
        }
    }
    cr_expect_eq(left, 0);
    cr_expect_eq(ptn__wheel_next(&wh), PTN_NEVER);
}

Test(timer, wheel_fires_each_timer_once_and_on_time) {
    check_wheel(1, 20);
    check_wheel(2, 1000);
    check_wheel(3, 3600 * 1000);
    check_wheel(4, UINT64_C(40) * 24 * 3600 * 1000); /* beyond the last level */
}

Test(timer, wheel_survives_a_long_sleep) {
    struct ptn__wheel wh;
    ptn_timer a = {.due = 5 * PTN_MS}, b = {.due = 40 * PTN_SEC};
    ptn__wheel_init(&wh, 0);
    ptn__wheel_add(&wh, &a);
    ptn__wheel_add(&wh, &b);
    ptn_time late = 3600 * PTN_SEC;
    ptn_timer *first = NULL, *second = NULL;
    for (int i = 0; i < 10 && second == NULL; i++) {
        ptn_timer *d = ptn__wheel_expire(&wh, late);
        if (d != NULL && first == NULL)
            first = d;
        else if (d != NULL)
            second = d;
    }
    cr_expect_eq(first, &a);
    cr_expect_eq(second, &b);
}

/* ---- timers of actors --------------------------------------------------------------------- */

struct ticks {
    ptn_timer t[4];
    unsigned fired[4];
    ptn_time at[4], t0;
};
static struct ticks *ticks; /* outlives the actor */

static void stop_rt(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    (void)arg;
    ptn_runtime_stop(ptn_ctx_runtime(c));
}

static void tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    size_t i = (size_t)(t - ticks->t);
    cr_expect(!ptn_timer_is_armed(t));
    ticks->fired[i]++;
    ticks->at[i] = ptn_now(c) - ticks->t0;
    if (i == 0 && ticks->fired[0] < 5)
        ptn_timer_start(c, t, PTN_MS, tick, arg);
    if (i == 1)
        ptn_timer_stop(c, &ticks->t[2]); /* due in the same tick */
}

static int ticks_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    (void)arg;
    ticks->t0 = ptn_now(c);
    ptn_timer_start(c, &ticks->t[0], 0, tick, NULL);
    ptn_timer_start(c, &ticks->t[2], 10 * PTN_MS, tick, NULL);
    ptn_timer_start(c, &ticks->t[1], 10 * PTN_MS, tick, NULL); /* newest first in a tick */
    ptn_timer_start(c, &ticks->t[3], 5 * PTN_MS, tick, NULL);
    ptn_timer_start(c, &ticks->t[3], 20 * PTN_MS, stop_rt, NULL); /* restarted */
    cr_expect(ptn_timer_is_armed(&ticks->t[3]));
    return 0;
}

static int exit_on_stopping(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}
static const ptn_actor_ops ticks_ops = {
    .name = "ticks", .init = ticks_init, .handle = exit_on_stopping};

Test(timer, start_restart_and_stop) {
    struct rig r;
    struct ticks k = {0};
    ticks = &k;
    rig_open(&r, 1);
    rig_spawn(&r, &ticks_ops, NULL, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(k.fired[0], 5, "may start itself again");
    cr_expect_eq(k.fired[1], 1);
    cr_expect_geq(k.at[1], 10 * PTN_MS);
    cr_expect_eq(k.fired[2], 0, "stopped by another timer of the same tick");
    cr_expect_eq(k.fired[3], 0, "the first callback was replaced");
    cr_expect(!ptn_timer_is_armed(&k.t[3]));
    rig_close(&r);
}

static void boom(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    (void)arg;
    ptn_fail(c, PTN_EIO, "in a timer");
}

static int boom_init(ptn_ctx *c, void *state, void *arg) {
    unsigned *n = arg;
    (void)state;
    if (++*n > 1) {
        ptn_runtime_stop(ptn_ctx_runtime(c));
        return 0;
    }
    ptn_timer *t = ptn_alloc(c, 2 * sizeof(*t));
    ptn_timer_start(c, &t[0], PTN_MS, boom, NULL);
    ptn_timer_start(c, &t[1], 2 * PTN_MS, boom, NULL); /* its memory goes with the actor */
    return 0;
}
static const ptn_actor_ops boom_ops = {
    .name = "boom", .init = boom_init, .handle = exit_on_stopping};

Test(timer, a_crash_in_a_timer_stops_the_others) {
    struct rig r;
    unsigned inits = 0;
    rig_open(&r, 1);
    rig_spawn(&r, &boom_ops, &inits, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(inits, 2);
    cr_expect_eq(r.crashes, 1);
    cr_expect_str_eq(r.last_text, "in a timer");
    cr_expect_eq(ptn__wheel_next(&r.rt->workers[0]->wheel), PTN_NEVER);
    rig_close(&r);
}
