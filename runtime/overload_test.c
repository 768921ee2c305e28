/* SPDX-License-Identifier: Apache-2.0
 *
 * overload_test.c - what happens to work that is too late or too much.
 */
#include "runtime/testing.h"

#include <criterion/criterion.h>

enum { MSG_JOB = PTN_MSG_USER, MSG_DONE };

static uint64_t counted(enum ptn_counter k) {
    ptn_metrics_snapshot s;
    ptn_metrics_sum(&s);
    return s.counter[k];
}

static int exit_on_stopping(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

/* ---- deadlines in lanes ------------------------------------------------------------------- */

#define JOBS 4

struct late_play {
    struct rig rig;
    ptn_lane *lane;
    ptn_addr store;
    uint64_t ran[JOBS], expired[JOBS];
    unsigned n_ran, n_expired, n_answered;
};

/* Each job takes 5 ms, and looks once more before it begins. */
static void late_run(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n) {
    struct late_play *p = arg;
    for (size_t i = 0; i < n; i++) {
        uint64_t id = *(const uint64_t *)(const void *)ptn_buf_bytes(jobs[i]->buf).p;
        if (ptn_lane_expired(l, jobs[i])) {
            p->expired[p->n_expired++] = id;
            continue;
        }
        p->ran[p->n_ran++] = id;
        p->rig.env->now += 5 * PTN_MS;
        cr_expect_eq(ptn_lane_reply(l, jobs[i]->reply, MSG_DONE, NULL), 0);
    }
}

static void late_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct late_play *p = *(struct late_play **)state;
    (void)m;
    cr_expect_eq(err, arg != NULL ? -PTN_EDEADLINE : 0);
    if (++p->n_answered == JOBS)
        ptn_runtime_stop(ptn_ctx_runtime(c));
}

static int late_asker_init(ptn_ctx *c, void *state, void *arg) {
    struct late_play *p = *(struct late_play **)state = arg;
    for (uint64_t i = 0; i < JOBS; i++) {
        bool late = i % 2 == 1;
        ptn_time deadline = late ? ptn_now(c) + PTN_MS : PTN_NEVER;
        int err = ptn_ask(c, p->store, MSG_JOB, buf_u64(i), deadline, late_answered,
                          late ? p : NULL, NULL);
        cr_assert_eq(err, 0);
    }
    return 0;
}
static const ptn_actor_ops late_asker_ops = {.name = "asker",
                                             .state_size = sizeof(void *),
                                             .init = late_asker_init,
                                             .handle = exit_on_stopping};

static int late_store_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(void **)state = arg;
    return 0;
}
static int late_store_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    if (m->type < PTN_MSG_USER)
        return exit_on_stopping(c, state, m);
    return ptn_lane_send(c, (*(struct late_play **)state)->lane, m);
}
static const ptn_actor_ops late_store_ops = {.name = "store",
                                             .state_size = sizeof(void *),
                                             .init = late_store_init,
                                             .handle = late_store_handle};

/* Jobs 1 and 3 expire while job 0 runs.  In batches of 3 the lane itself finds job 3, and the job's
 * own look finds job 1. */
Test(overload, a_lane_does_not_run_what_is_too_late) {
    struct late_play p = {0};
    uint64_t before = counted(PTN_C_DEADLINE_EXPIRED);
    rig_open(&p.rig, 1);
    const ptn_lane_opts o = {.run = late_run, .arg = &p, .batch_max = 3};
    cr_assert_eq(ptn_lane_open(p.rig.rt, &o, &p.lane), 0);
    p.store = rig_spawn(&p.rig, &late_store_ops, &p, 0, PTN_PERMANENT);
    rig_spawn(&p.rig, &late_asker_ops, &p, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(p.rig.rt), 0);
    cr_expect_eq(p.n_ran, 2);
    cr_expect(p.ran[0] == 0 && p.ran[1] == 2);
    cr_expect_eq(p.n_expired, 1);
    cr_expect_eq(p.expired[0], 1);
    cr_expect_eq(counted(PTN_C_DEADLINE_EXPIRED) - before, 2);
    cr_expect_eq(p.n_answered, JOBS);
    cr_expect_eq(ptn_lane_depth(p.lane), 0);
    ptn_lane_close(p.lane);
    rig_close(&p.rig);
    cr_expect_eq(buf_live(), 0);
}
