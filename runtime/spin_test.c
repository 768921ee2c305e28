/* SPDX-License-Identifier: Apache-2.0
 *
 * spin_test.c - what makes a worker wait awake, and what makes it stop.
 */
#include "runtime/internal.h"

#include <criterion/criterion.h>

#define LIMIT 20000u

struct pace {
    struct ptn__spin p;
    ptn_time now;
    unsigned waits, in_vain; /* idle times that began awake; and ended asleep */
};

/* One idle time.  It ends by a message of another thread after gap, or, gap 0, by something else
 * after a second. */
static void idle(struct pace *t, ptn_time gap) {
    ptn__spin_busy(&t->p, t->now);
    ptn_time until = t->now + (gap != 0 ? gap : PTN_SEC);
    bool awake = ptn__spin_wants(&t->p, t->now);
    t->waits += awake;
    for (; awake && t->now < until; t->now += 1000)
        awake = ptn__spin_wants(&t->p, t->now);
    t->in_vain += t->waits > 0 && !awake && t->now > until - (gap != 0 ? gap : PTN_SEC);
    t->now = until;
    if (gap != 0)
        ptn__spin_message(&t->p, t->now, 0);
}

static struct pace pace_new(ptn_time limit) {
    struct pace t = {.now = PTN_SEC};
    ptn__spin_init(&t.p, limit);
    return t;
}

Test(spin, messages_that_come_soon_are_waited_for) {
    struct pace t = pace_new(LIMIT);
    for (unsigned i = 0; i < 100; i++)
        idle(&t, 5000);
    cr_expect_eq(t.waits, 96, "all but the first four");
    cr_expect_eq(t.in_vain, 0);
}

Test(spin, nobody_waits_for_what_comes_late_or_not_at_all) {
    struct pace t = pace_new(LIMIT);
    for (unsigned i = 0; i < 100; i++)
        idle(&t, i % 2 == 0 ? LIMIT : 0);
    cr_expect_eq(t.waits, 0);
}

Test(spin, an_idle_worker_waits_once_at_most) {
    struct pace t = pace_new(LIMIT);
    for (unsigned i = 0; i < 100; i++)
        idle(&t, 5000);
    t.waits = 0;
    for (unsigned i = 0; i < 100; i++)
        idle(&t, 0);
    cr_expect_eq(t.waits, 1);
    cr_expect_eq(t.in_vain, 1);
}

Test(spin, waits_in_vain_are_few_where_every_second_message_comes_late) {
    struct pace t = pace_new(LIMIT);
    for (unsigned i = 0; i < 10000; i++)
        idle(&t, i % 2 == 0 ? 5000 : LIMIT + 5000);
    cr_expect_lt(t.in_vain, 100);
}

Test(spin, it_comes_back_after_a_burst) {
    struct pace t = pace_new(LIMIT);
    for (unsigned burst = 0; burst < 50; burst++) {
        t.waits = 0;
        for (unsigned i = 0; i < 100; i++)
            idle(&t, 5000);
        idle(&t, 0);
        cr_expect_geq(t.waits, 90);
    }
}

Test(spin, a_limit_of_zero_is_never) {
    struct pace t = pace_new(0);
    for (unsigned i = 0; i < 100; i++)
        idle(&t, 1);
    cr_expect_eq(t.waits, 0);
}

/* ---- two workers that answer each other --------------------------------------------------- */

#define WAKE 50000u /* from the call until a sleeper runs */
#define WORK 1000u

struct duet {
    struct ptn__spin p[2];
    ptn_time now, late[2]; /* of what each sends next */
    unsigned sleeps;
};

/* The message arrives at i, which has been idle since its own went out.  The other needs `gap` for
 * it, and what it was late. */
static void duet_turn(struct duet *d, unsigned i, ptn_time gap) {
    struct ptn__spin *p = &d->p[i];
    ptn_time at = d->now + gap, t = p->idle_since;
    while (t < at && ptn__spin_wants(p, t))
        t += 1000;
    bool asleep = t < at;
    ptn__spin_message(p, at, asleep ? d->late[1 - i] : 0);
    d->late[i] = asleep ? WAKE : 0;
    d->sleeps += asleep;
    d->now = at + d->late[i] + WORK;
    ptn__spin_busy(p, d->now);
}

static struct duet duet_new(void) {
    struct duet d = {.now = PTN_SEC};
    for (unsigned i = 0; i < 2; i++) {
        ptn__spin_init(&d.p[i], LIMIT);
        ptn__spin_busy(&d.p[i], d.now);
    }
    return d;
}

Test(spin, two_sleepers_that_answer_each_other_wake_up) {
    struct duet d = duet_new();
    for (unsigned i = 0; i < 200; i++)
        duet_turn(&d, i % 2, WORK);
    cr_expect_lt(d.sleeps, 20, "%u of 200", d.sleeps);
    d.sleeps = 0;
    d.now += PTN_SEC; /* a pause, and both sleep */
    for (unsigned i = 0; i < 400; i++)
        duet_turn(&d, i % 2, WORK);
    cr_expect_lt(d.sleeps, 60, "%u of 400", d.sleeps);
}

Test(spin, who_is_late_for_another_reason_is_not_waited_for) {
    struct duet d = duet_new();
    for (unsigned i = 0; i < 200; i++)
        duet_turn(&d, i % 2, 2 * LIMIT);
    cr_expect_eq(d.sleeps, 200);
}

/* It sleeps whatever the first one does: so the first gives up soon, each time. */
Test(spin, who_always_sleeps_is_not_waited_for_often) {
    struct pace t = pace_new(LIMIT);
    unsigned waits = 0;
    for (unsigned i = 0; i < 1000; i++) {
        ptn__spin_busy(&t.p, t.now);
        ptn_time at = t.now + WAKE + WORK, now = t.now;
        while (now < at && ptn__spin_wants(&t.p, now))
            now += 1000;
        waits += now > t.now;
        ptn__spin_message(&t.p, at, now < at ? WAKE : 0);
        t.now = at;
    }
    cr_expect_gt(waits, 0);
    cr_expect_lt(waits, 100, "%u of 1000", waits);
}
