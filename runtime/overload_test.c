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

/* ---- the level of a mailbox --------------------------------------------------------------- */

/* The sender fills the target's mailbox once; the target takes batches of 64, and a turn of 4,096
 * is over long before it has all. */
#define TARGET_MSGS 10000u

struct level_play {
    struct rig rig;
    ptn_addr target, watcher;
    uint64_t ref;
    unsigned handled, n_seen, refill;
    uint32_t seen[16]; /* what the watcher has got */
    unsigned at[16];   /* and how many messages the target had handled by then */
    bool crash_target, crash_watcher, late_watcher, unwatch;
};

static int level_target_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct level_play *p = *(struct level_play **)state;
    if (m->type != MSG_JOB)
        return exit_on_stopping(c, state, m);
    p->handled++;
    for (unsigned i = 0; p->handled == TARGET_MSGS / 10 * 9 && i < p->refill; i++)
        cr_assert_eq(ptn_cast(c, ptn_self(c), MSG_JOB, NULL), 0);
    if (p->handled == TARGET_MSGS + p->refill)
        ptn_exit(c, 0);
    return p->crash_target && p->handled == 3 ? -PTN_EIO : 0;
}
static const ptn_actor_ops level_target_ops = {.name = "target",
                                               .state_size = sizeof(void *),
                                               .init = late_store_init,
                                               .handle = level_target_handle};

static int level_watcher_init(ptn_ctx *c, void *state, void *arg) {
    struct level_play *p = *(struct level_play **)state = arg;
    return ptn_pressure_watch(c, p->target, &p->ref);
}

static int level_watcher_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct level_play *p = *(struct level_play **)state;
    if (m->type != PTN_MSG_PRESSURE && m->type != PTN_MSG_RELIEF && m->type != PTN_MSG_DOWN)
        return exit_on_stopping(c, state, m);
    cr_expect_eq(m->corr, p->ref);
    cr_expect_eq(m->from, p->target);
    cr_assert_lt(p->n_seen, PTN_ARRAY_LEN(p->seen));
    p->at[p->n_seen] = p->handled;
    p->seen[p->n_seen++] = m->type;
    if (m->type == PTN_MSG_DOWN)
        ptn_runtime_stop(p->rig.rt);
    if (p->unwatch && m->type == PTN_MSG_PRESSURE) {
        cr_expect_eq(ptn_demonitor(c, p->ref), 0);
        cr_expect_eq(ptn_monitor(c, p->target, &p->ref), 0);
    }
    return p->crash_watcher && p->n_seen == 1 ? -PTN_EIO : 0;
}
static const ptn_actor_ops level_watcher_ops = {.name = "watcher",
                                                .state_size = sizeof(void *),
                                                .init = level_watcher_init,
                                                .handle = level_watcher_handle};

static int level_sender_init(ptn_ctx *c, void *state, void *arg) {
    struct level_play *p = arg;
    (void)state;
    for (unsigned i = 0; i < TARGET_MSGS; i++)
        cr_assert_eq(ptn_cast(c, p->target, MSG_JOB, NULL), 0);
    cr_expect_eq(ptn_cast(c, p->target, MSG_JOB, NULL), -PTN_EOVERLOAD);
    if (p->late_watcher) {
        const ptn_actor_opts o = {.worker = 0};
        cr_assert_eq(ptn_spawn(c, &level_watcher_ops, &o, p, &p->watcher), 0);
    }
    return 0;
}
static const ptn_actor_ops level_sender_ops = {
    .name = "sender", .init = level_sender_init, .handle = exit_on_stopping};

/* Watcher on worker 0, target on worker 1. */
static void level_run(struct level_play *p) {
    const ptn_actor_opts at = {.worker = 1, .mbox_msgs_max = TARGET_MSGS};
    rig_open(&p->rig, 2);
    cr_assert_eq(ptn_runtime_spawn(p->rig.rt, &level_target_ops, &at, p, PTN_TRANSIENT, &p->target),
                 0);
    if (!p->late_watcher)
        p->watcher = rig_spawn(&p->rig, &level_watcher_ops, p, 0, PTN_PERMANENT);
    rig_spawn(&p->rig, &level_sender_ops, p, 1, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(p->rig.rt), 0);
    cr_expect_eq(p->handled, TARGET_MSGS + p->refill);
    rig_close(&p->rig);
}

static void expect_seen(const struct level_play *p, const uint32_t *types, unsigned n) {
    cr_assert_eq(p->n_seen, n, "%u", p->n_seen);
    for (unsigned i = 0; i < n; i++)
        cr_expect_eq(p->seen[i], types[i], "%u: %u", i, p->seen[i]);
}

static const uint32_t up_down_gone[] = {PTN_MSG_PRESSURE, PTN_MSG_RELIEF, PTN_MSG_DOWN};

Test(overload, a_filling_mailbox_is_announced_and_its_end_too) {
    struct level_play p = {0};
    level_run(&p);
    expect_seen(&p, up_down_gone, 3);
    cr_expect_leq(p.at[0], TARGET_MSGS * 3 / 4);
    cr_expect_geq(p.at[1], TARGET_MSGS * 3 / 4);
}

Test(overload, a_restart_of_the_target_keeps_the_level) {
    struct level_play p = {.crash_target = true};
    level_run(&p);
    cr_expect_eq(p.rig.restarts, 1);
    expect_seen(&p, up_down_gone, 3);
}

/* The mailbox has filled again when the target comes to the watch. */
Test(overload, who_watches_a_full_mailbox_hears_of_it) {
    struct level_play p = {.late_watcher = true, .refill = 6000};
    level_run(&p);
    expect_seen(&p, up_down_gone, 3);
}

/* The new incarnation watches anew and hears nothing under the old reference. */
Test(overload, a_restart_of_the_watcher_starts_over) {
    static const uint32_t no_relief[] = {PTN_MSG_PRESSURE, PTN_MSG_DOWN};
    struct level_play p = {.crash_watcher = true};
    level_run(&p);
    cr_expect_eq(p.rig.restarts, 1);
    expect_seen(&p, no_relief, 2);
}

Test(overload, nothing_comes_after_the_end_of_a_watch) {
    static const uint32_t up_gone[] = {PTN_MSG_PRESSURE, PTN_MSG_DOWN};
    struct level_play p = {.unwatch = true};
    level_run(&p);
    expect_seen(&p, up_gone, 2);
}

/* ---- requests that waited too long -------------------------------------------------------- */

#define DELAY_NS (5 * PTN_MS)

/* One request each millisecond for a second; the server takes service_ns for each. */
struct delay_play {
    struct rig rig;
    ptn_addr server;
    ptn_time service_ns, deadline_ns;
    unsigned sent, n, ended, served, refused, other, casts;
    bool news;
    ptn_timer tick;
    ptn_time worst_ns; /* of the served, over the second half */
    ptn_time sent_at[2048];
};

static int delay_server_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct delay_play *p = *(struct delay_play **)state;
    if (m->type != MSG_JOB)
        return exit_on_stopping(c, state, m);
    p->rig.env->now += p->service_ns;
    if (m->corr == 0) {
        p->casts++;
        return 0;
    }
    return ptn_reply(c, ptn_reply_token(c, m), MSG_DONE, NULL);
}
static const ptn_actor_ops delay_server_ops = {.name = "server",
                                               .state_size = sizeof(void *),
                                               .init = late_store_init,
                                               .handle = delay_server_handle};

static void delay_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct delay_play *p = *(struct delay_play **)state;
    const ptn_time *sent_at = arg;
    (void)m;
    p->served += err == 0;
    p->refused += err == -PTN_EOVERLOAD;
    p->other += err != 0 && err != -PTN_EOVERLOAD;
    ptn_time took = ptn_clock(c) - *sent_at;
    if (err == 0 && sent_at >= &p->sent_at[p->n / 2] && took > p->worst_ns)
        p->worst_ns = took;
    if (++p->ended == p->n)
        ptn_runtime_stop(p->rig.rt);
}

/* As many as the time that has passed says: an open loop does not wait for answers. */
static void delay_tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct delay_play *p = arg;
    (void)state;
    while (p->sent < p->n && ptn_now(c) >= p->sent * PTN_MS + p->sent_at[0]) {
        p->sent_at[p->sent] = p->sent == 0 ? ptn_now(c) : p->sent * PTN_MS + p->sent_at[0];
        ptn_time deadline = ptn_now(c) + p->deadline_ns;
        int err = (p->news ? ptn_ask_lasting : ptn_ask)(c, p->server, MSG_JOB, NULL, deadline,
                                                        delay_answered, &p->sent_at[p->sent], NULL);
        cr_assert_eq(err, 0);
        if (p->sent % 10 == 0)
            cr_assert_eq(ptn_cast(c, p->server, MSG_JOB, NULL), 0);
        p->sent++;
    }
    if (p->sent < p->n)
        ptn_timer_start(c, t, PTN_MS, delay_tick, p);
}

static int delay_asker_init(ptn_ctx *c, void *state, void *arg) {
    struct delay_play *p = *(struct delay_play **)state = arg;
    p->sent_at[0] = ptn_now(c);
    delay_tick(c, state, &p->tick, p);
    return 0;
}
static const ptn_actor_ops delay_asker_ops = {.name = "asker",
                                              .state_size = sizeof(void *),
                                              .init = delay_asker_init,
                                              .handle = exit_on_stopping};

static void delay_run(struct delay_play *p, ptn_time queue_delay_ns) {
    const ptn_actor_opts at = {
        .worker = 0, .mbox_msgs_max = 4096, .queue_delay_ns = queue_delay_ns};
    const ptn_actor_opts asker = {.worker = 0, .mbox_msgs_max = 4096};
    p->deadline_ns = 10 * PTN_SEC;
    rig_open(&p->rig, 1);
    cr_assert_eq(ptn_runtime_spawn(p->rig.rt, &delay_server_ops, &at, p, PTN_PERMANENT, &p->server),
                 0);
    cr_assert_eq(ptn_runtime_spawn(p->rig.rt, &delay_asker_ops, &asker, p, PTN_PERMANENT, NULL), 0);
    cr_assert_eq(ptn_runtime_run(p->rig.rt), 0);
    rig_close(&p->rig);
    cr_expect_eq(p->served + p->refused, p->n);
    cr_expect_eq(p->other, 0);
}

/* Twice as much as the server can do: the half that is served is served soon. */
Test(overload, a_standing_queue_is_cut) {
    struct delay_play p = {.n = 1000, .service_ns = 2 * PTN_MS};
    uint64_t before = counted(PTN_C_SHED_DELAY);
    delay_run(&p, DELAY_NS);
    cr_expect_geq(p.served, 300, "%u", p.served);
    cr_expect_geq(p.refused, 300, "%u", p.refused);
    cr_expect_eq(counted(PTN_C_SHED_DELAY) - before, p.refused);
    cr_expect_eq(p.casts, 100, "casts are never refused");
    cr_expect_leq(p.worst_ns, 100 * PTN_MS, "%llu", (unsigned long long)p.worst_ns);
}

Test(overload, without_a_target_nothing_is_cut) {
    struct delay_play p = {.n = 1000, .service_ns = 2 * PTN_MS};
    delay_run(&p, 0);
    cr_expect_eq(p.served, 1000);
    cr_expect_geq(p.worst_ns, 500 * PTN_MS);
}

Test(overload, news_are_never_cut) {
    struct delay_play p = {.n = 1000, .service_ns = 2 * PTN_MS, .news = true};
    delay_run(&p, DELAY_NS);
    cr_expect_eq(p.served, 1000);
}

Test(overload, a_burst_that_drains_is_not_cut) {
    struct delay_play p = {.n = 90, .service_ns = PTN_MS};
    delay_run(&p, DELAY_NS);
    cr_expect_eq(p.served, 90);
}

/* ---- the same in lanes -------------------------------------------------------------------- */

#define LANE_JOBS 2000u

struct lane_delay_play {
    struct rig rig;
    ptn_lane *lane;
    ptn_addr store;
    ptn_time batch_ns;
    unsigned asked, ended, served, refused;
    unsigned per_tick;
    ptn_timer tick;
};

/* A batch takes its time whatever is in it, as a commit does. */
static void lane_delay_run(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n) {
    struct lane_delay_play *p = arg;
    p->rig.env->now += p->batch_ns;
    for (size_t i = 0; i < n; i++)
        cr_expect_eq(ptn_lane_reply(l, jobs[i]->reply, MSG_DONE, NULL), 0);
}

static int lane_delay_store_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    if (m->type < PTN_MSG_USER)
        return exit_on_stopping(c, state, m);
    return ptn_lane_send(c, (*(struct lane_delay_play **)state)->lane, m);
}
static const ptn_actor_ops lane_delay_store_ops = {.name = "store",
                                                   .state_size = sizeof(void *),
                                                   .init = late_store_init,
                                                   .handle = lane_delay_store_handle};

static void lane_delay_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct lane_delay_play *p = arg;
    (void)state, (void)m;
    p->served += err == 0;
    p->refused += err == -PTN_EOVERLOAD;
    if (++p->ended == LANE_JOBS)
        ptn_runtime_stop(ptn_ctx_runtime(c));
}

static void lane_delay_tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct lane_delay_play *p = arg;
    (void)state;
    for (unsigned i = 0; i < p->per_tick && p->asked < LANE_JOBS; i++, p->asked++)
        cr_assert_eq(ptn_ask(c, p->store, MSG_JOB, NULL, ptn_now(c) + 100 * PTN_SEC,
                             lane_delay_answered, p, NULL),
                     0);
    if (p->asked < LANE_JOBS)
        ptn_timer_start(c, t, 20 * PTN_MS, lane_delay_tick, p);
}

static int lane_delay_asker_init(ptn_ctx *c, void *state, void *arg) {
    struct lane_delay_play *p = arg;
    lane_delay_tick(c, state, &p->tick, p);
    return 0;
}
static const ptn_actor_ops lane_delay_asker_ops = {
    .name = "asker", .init = lane_delay_asker_init, .handle = exit_on_stopping};

/* Batches of 20 in 20 ms, far above the target: the disk is slow, and that is no overload. */
static void lane_delay_play_run(struct lane_delay_play *p) {
    const ptn_lane_opts o = {
        .run = lane_delay_run, .arg = p, .batch_max = 20, .queue_delay_ns = DELAY_NS};
    const ptn_actor_opts at = {.worker = 0, .mbox_msgs_max = 4096};
    p->batch_ns = 20 * PTN_MS;
    rig_open(&p->rig, 1);
    cr_assert_eq(ptn_lane_open(p->rig.rt, &o, &p->lane), 0);
    cr_assert_eq(
        ptn_runtime_spawn(p->rig.rt, &lane_delay_store_ops, &at, p, PTN_PERMANENT, &p->store), 0);
    cr_assert_eq(ptn_runtime_spawn(p->rig.rt, &lane_delay_asker_ops, &at, p, PTN_PERMANENT, NULL),
                 0);
    cr_assert_eq(ptn_runtime_run(p->rig.rt), 0);
    cr_expect_eq(p->served + p->refused, LANE_JOBS);
    cr_expect_eq(ptn_lane_depth(p->lane), 0);
    ptn_lane_close(p->lane);
    rig_close(&p->rig);
}

Test(overload, a_slow_lane_that_keeps_up_refuses_nothing) {
    struct lane_delay_play p = {.per_tick = 18};
    lane_delay_play_run(&p);
    cr_expect_eq(p.served, LANE_JOBS);
}

Test(overload, a_lane_that_falls_behind_refuses) {
    struct lane_delay_play p = {.per_tick = 60};
    lane_delay_play_run(&p);
    cr_expect_geq(p.refused, LANE_JOBS / 4, "%u", p.refused);
    cr_expect_geq(p.served, LANE_JOBS / 8, "%u", p.served);
}

/* What decides, without an actor around it. */
Test(overload, slow_with_few_waiting_is_not_overload) {
    struct ptn__queue_delay q = {.target = DELAY_NS};
    for (unsigned i = 1; i < 1000; i++)
        cr_assert_not(ptn__queue_delay_sheds(&q, i * PTN_MS, 50 * PTN_MS, 3));
    for (unsigned i = 1000; i < 1100; i++)
        cr_assert_not(ptn__queue_delay_sheds(&q, i * PTN_MS, 50 * PTN_MS, 300));
    cr_expect(ptn__queue_delay_sheds(&q, 1100 * PTN_MS, 50 * PTN_MS, 300));
}

Test(overload, one_short_wait_clears_the_queue) {
    struct ptn__queue_delay q = {.target = DELAY_NS};
    for (unsigned i = 1; i <= 1000; i++) {
        ptn_time wait = i % 90 == 0 ? PTN_MS : 50 * PTN_MS; /* each 90 ms, below 100 */
        cr_assert_not(ptn__queue_delay_sheds(&q, i * PTN_MS, wait, 300));
    }
    cr_expect_not(ptn__queue_delay_sheds(&q, 5000 * PTN_MS, 50 * PTN_MS, 300), "long ago");
}

Test(overload, an_overload_that_goes_on_is_cut_at_once) {
    struct ptn__queue_delay q = {.target = DELAY_NS};
    ptn_time now = PTN_SEC;
    while (!ptn__queue_delay_sheds(&q, now, 50 * PTN_MS, 300))
        now += PTN_MS;
    cr_expect_eq(now, PTN_SEC + 20 * DELAY_NS);
    cr_expect_not(ptn__queue_delay_sheds(&q, now + PTN_MS, PTN_MS, 300));
    cr_expect(ptn__queue_delay_sheds(&q, now + 50 * PTN_MS, 6 * PTN_MS, 300), "it was just now");
}
