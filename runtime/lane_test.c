/* SPDX-License-Identifier: Apache-2.0
 *
 * lane_test.c - lanes, pool work, signals and ports: on the test environment, and with real threads
 * on libuv.
 */
#include "runtime/testing.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <unistd.h>

enum { MSG_STORE = PTN_MSG_USER, MSG_DONE, MSG_BAD, MSG_FROM_PORT };

static int exit_on_stopping(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

/* ---- lanes -------------------------------------------------------------------------------- */

struct lane_play {
    ptn_lane *lane;
    ptn_lane *next_lane; /* answers what the first one passes on; NULL: there is none */
    ptn_addr store;
    unsigned n, asked, answered, errors, wrong_order;
    uint64_t next;
    unsigned passed;
    size_t batch_seen;
    int full;
};

static void lane_run(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n) {
    struct lane_play *p = arg;
    p->batch_seen = n > p->batch_seen ? n : p->batch_seen;
    for (size_t i = 0; i < n; i++) {
        if (jobs[i]->reply.corr == 0)
            continue;
        if (jobs[i]->type == MSG_BAD) {
            cr_expect_eq(ptn_lane_reply_err(l, jobs[i]->reply, -PTN_EFULL), 0);
            continue;
        }
        ptn_bytes b = ptn_buf_bytes(jobs[i]->buf);
        ptn_buf *out = ptn_buf_copy(b.p, b.n);
        if (ptn_lane_reply(l, jobs[i]->reply, MSG_DONE, out) < 0)
            ptn_buf_unref(out);
    }
}

static bool lane_is_idle(void *arg) {
    return ptn_lane_depth(arg) == 0;
}

/* Every other batch waits for the other lane, and leaves it nothing but the next batch. */
static void lane_pass(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n) {
    struct lane_play *p = arg;
    for (size_t i = 0; i < n; i++) {
        ptn_bytes b = ptn_buf_bytes(jobs[i]->buf);
        ptn_lane_pass(l, &jobs[i], p->next_lane, jobs[i]->type, ptn_buf_copy(b.p, b.n));
        cr_expect_null(jobs[i]);
    }
    if (p->passed++ % 2 == 0) {
        ptn_lane_wait(p->next_lane, lane_is_idle, p->next_lane);
        cr_expect_eq(ptn_lane_depth(p->next_lane), 0);
    }
}

static void lane_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg);

static void lane_ask_more(ptn_ctx *c, struct lane_play *p) {
    while (p->asked < p->n && p->asked - p->answered < 100) {
        ptn_buf *b = buf_u64(p->asked);
        uint32_t type = p->asked % 10 == 9 ? MSG_BAD : MSG_STORE;
        cr_assert_eq(ptn_ask(c, p->store, type, b, PTN_NEVER, lane_answered, p, NULL), 0);
        p->asked++;
    }
}

static void lane_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct lane_play *p = arg;
    (void)state;
    bool bad = p->next % 10 == 9;
    p->errors += err == -PTN_EFULL;
    p->wrong_order += bad ? err != -PTN_EFULL : err != 0 || msg_u64(m) != p->next;
    p->next++;
    if (++p->answered == p->n)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    else
        lane_ask_more(c, p);
}

static int client_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    lane_ask_more(c, arg);
    return 0;
}
static const ptn_actor_ops client_ops = {
    .name = "client", .init = client_init, .handle = exit_on_stopping};

static int store_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(void **)state = arg;
    return 0;
}
static int store_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct lane_play *p = *(struct lane_play **)state;
    if (m->type < PTN_MSG_USER)
        return exit_on_stopping(c, state, m);
    int err = ptn_lane_send(c, p->lane, m);
    if (err < 0) {
        p->full = err;
        return ptn_reply_err(c, ptn_reply_token(c, m), err);
    }
    return 0;
}
static const ptn_actor_ops store_ops = {
    .name = "store", .state_size = sizeof(void *), .init = store_init, .handle = store_handle};

static void check_lane(ptn_runtime *rt, unsigned n, int far, bool passes) {
    struct lane_play p = {.n = n};
    ptn_lane_opts o = {.name = "test", .run = lane_run, .arg = &p, .batch_max = 16};
    if (passes) {
        cr_assert_eq(ptn_lane_open(rt, &o, &p.next_lane), 0);
        o.run = lane_pass;
    }
    cr_assert_eq(ptn_lane_open(rt, &o, &p.lane), 0);
    ptn_actor_opts at = {.worker = far};
    cr_assert_eq(ptn_runtime_spawn(rt, &store_ops, &at, &p, PTN_PERMANENT, &p.store), 0);
    at.worker = 0;
    cr_assert_eq(ptn_runtime_spawn(rt, &client_ops, &at, &p, PTN_PERMANENT, NULL), 0);
    cr_assert_eq(ptn_runtime_run(rt), 0);
    cr_expect_eq(p.answered, n);
    cr_expect_eq(p.errors, n / 10);
    cr_expect_eq(p.wrong_order, 0, "answers come in the order of the questions");
    cr_expect_leq(p.batch_seen, 16);
    cr_expect_eq(ptn_lane_depth(p.lane), 0);
    cr_expect_eq(p.passed > 0, passes);
    ptn_lane_close(p.lane);
    ptn_lane_close(p.next_lane);
}

static void on_the_test_environment(bool passes) {
    struct rig r;
    rig_open(&r, 2);
    check_lane(r.rt, 1000, 1, passes);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

static void with_threads(bool passes) {
    ptn_runtime *rt;
    ptn_runtime_opts o = {.workers = 2};
    cr_assert_eq(ptn_runtime_new(&o, &rt), 0);
    check_lane(rt, 20000, 1, passes);
    ptn_runtime_free(rt);
    cr_expect_eq(buf_live(), 0);
}

Test(lane, answers_in_order_on_the_test_environment) {
    on_the_test_environment(false);
}

Test(lane, answers_in_order_with_threads, .timeout = 60) {
    with_threads(false);
}

Test(lane, what_it_passes_on_is_answered_by_another) {
    on_the_test_environment(true);
}

Test(lane, what_it_passes_on_is_answered_by_another_thread, .timeout = 60) {
    with_threads(true);
}

static int overfill_init(ptn_ctx *c, void *state, void *arg) {
    struct lane_play *p = arg;
    (void)state;
    ptn_msg m = {.type = MSG_STORE};
    while ((p->full = ptn_lane_send(c, p->lane, &m)) == 0)
        p->asked++;
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static const ptn_actor_ops overfill_ops = {
    .name = "overfill", .init = overfill_init, .handle = exit_on_stopping};

Test(lane, refuses_past_its_bound) {
    struct rig r;
    struct lane_play p = {0};
    rig_open(&r, 1);
    const ptn_lane_opts o = {.run = lane_run, .arg = &p, .jobs_max = 5};
    cr_assert_eq(ptn_lane_open(r.rt, &o, &p.lane), 0);
    rig_spawn(&r, &overfill_ops, &p, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(p.asked, 5);
    cr_expect_eq(p.full, -PTN_EOVERLOAD);
    ptn_lane_close(p.lane);
    rig_close(&r);
}

/* ---- pool work ---------------------------------------------------------------------------- */

struct job {
    unsigned worked, done, orphaned;
};
static struct job jobs[2];

static void job_work(void *job) {
    ((struct job *)job)->worked++;
}

static void job_done(ptn_ctx *c, void *state, void *job, int err) {
    struct job *j = job;
    if (c == NULL) {
        cr_expect_eq(err, -PTN_ENOACTOR);
        cr_expect_null(state);
        j->orphaned++;
        return;
    }
    j->done++;
    ptn_runtime_stop(ptn_ctx_runtime(c));
}

static int worker_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    cr_assert_eq(ptn_work(c, job_work, arg, job_done), 0);
    if (arg == &jobs[1])
        ptn_exit(c, 0);
    return 0;
}
static const ptn_actor_ops worker_ops = {
    .name = "worker", .init = worker_init, .handle = exit_on_stopping};

static void check_work(ptn_runtime *rt) {
    memset(jobs, 0, sizeof(jobs));
    for (int i = 0; i < 2; i++)
        cr_assert_eq(ptn_runtime_spawn(rt, &worker_ops, NULL, &jobs[i], PTN_TEMPORARY, NULL), 0);
    cr_assert_eq(ptn_runtime_run(rt), 0);
    cr_expect_eq(jobs[0].worked, 1);
    cr_expect_eq(jobs[0].done, 1);
    cr_expect_eq(jobs[1].worked, 1);
    cr_expect_eq(jobs[1].orphaned, 1, "the job comes back to be freed");
    ptn_runtime_free(rt);
}

Test(work, comes_back_to_its_actor_or_to_nobody) {
    struct rig r;
    rig_open(&r, 2);
    check_work(r.rt);
    env_test_free(&r.env->base);
}

Test(work, runs_on_the_pool, .timeout = 60) {
    ptn_runtime *rt;
    cr_assert_eq(ptn_runtime_new(NULL, &rt), 0);
    check_work(rt);
}

/* ---- signals ------------------------------------------------------------------------------ */

static int sig_init(ptn_ctx *c, void *state, void *arg) {
    (void)arg;
    *(unsigned *)state = 0;
    cr_assert_eq(ptn_signal_watch(c, SIGUSR1), 0);
    cr_assert_eq(kill(getpid(), SIGUSR1), 0);
    return 0;
}
static int sig_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    if (m->type == PTN_MSG_SIGNAL && m->corr == SIGUSR1)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    return exit_on_stopping(c, state, m);
}
static const ptn_actor_ops sig_ops = {
    .name = "sig", .state_size = sizeof(unsigned), .init = sig_init, .handle = sig_handle};

Test(work, signals_arrive_as_messages, .timeout = 60) {
    ptn_runtime *rt;
    ptn_runtime_opts o = {.workers = 2};
    cr_assert_eq(ptn_runtime_new(&o, &rt), 0);
    cr_assert_eq(ptn_runtime_spawn(rt, &sig_ops, NULL, NULL, PTN_PERMANENT, NULL), 0);
    cr_assert_eq(ptn_runtime_run(rt), 0);
    ptn_runtime_free(rt);
}

/* ---- ports -------------------------------------------------------------------------------- */

#define PORT_MSGS 20000
#define PORT_THREADS 3

struct port_play {
    ptn_port *port;
    ptn_runtime *rt;
    ptn_addr to;
    _Atomic(uint64_t) next_id;
    uint64_t expect[PORT_THREADS], got, wrong;
    int late_err;
};

static int port_sink_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct port_play *p = *(struct port_play **)state;
    if (m->type != MSG_FROM_PORT)
        return exit_on_stopping(c, state, m);
    uint64_t v = msg_u64(m);
    p->wrong += (v & 0xffffffff) != p->expect[v >> 32]++ || m->from != PTN_ADDR_NONE;
    if (++p->got == PORT_MSGS * PORT_THREADS)
        ptn_runtime_stop(p->rt);
    return 0;
}
static const ptn_actor_ops port_sink_ops = {.name = "port-sink",
                                            .state_size = sizeof(void *),
                                            .init = store_init,
                                            .handle = port_sink_handle};

static void *port_thread(void *arg) {
    struct port_play *p = arg;
    uint64_t id = atomic_fetch_add(&p->next_id, 1);
    for (uint64_t i = 0; i < PORT_MSGS;) {
        ptn_buf *b = buf_u64(id << 32 | i);
        int err = ptn_port_send(p->port, p->to, MSG_FROM_PORT, b);
        if (err == 0) {
            i++;
            continue;
        }
        ptn_buf_unref(b);
        cr_assert_eq(err, -PTN_EOVERLOAD);
        sched_yield();
    }
    return NULL;
}

Test(port, foreign_threads_share_a_port, .timeout = 60) {
    struct port_play p = {0};
    ptn_runtime_opts o = {.workers = 2};
    cr_assert_eq(ptn_runtime_new(&o, &p.rt), 0);
    cr_assert_eq(ptn_port_open(p.rt, &p.port), 0);
    cr_assert_eq(ptn_runtime_spawn(p.rt, &port_sink_ops, NULL, &p, PTN_PERMANENT, &p.to), 0);
    pthread_t th[PORT_THREADS];
    for (int i = 0; i < PORT_THREADS; i++)
        cr_assert_eq(pthread_create(&th[i], NULL, port_thread, &p), 0);
    cr_assert_eq(ptn_runtime_run(p.rt), 0);
    for (int i = 0; i < PORT_THREADS; i++)
        pthread_join(th[i], NULL);
    cr_expect_eq(p.got, PORT_MSGS * PORT_THREADS);
    cr_expect_eq(p.wrong, 0);
    cr_expect_eq(ptn_port_send(p.port, p.to, MSG_FROM_PORT, NULL), -PTN_ESTOPPING);
    cr_expect_eq(ptn_port_send(p.port, p.to, PTN_MSG_DOWN, NULL), -PTN_EINVAL);
    ptn_port_close(p.port);
    ptn_runtime_free(p.rt);
    cr_expect_eq(buf_live(), 0);
}

static int port_store_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct port_play *p = *(struct port_play **)state;
    if (m->type < PTN_MSG_USER)
        return exit_on_stopping(c, state, m);
    ptn_reply_to r = ptn_reply_token(c, m);
    if (m->type == MSG_BAD)
        return ptn_port_reply_err(p->port, r, -PTN_EFULL);
    return ptn_port_reply(p->port, r, MSG_DONE, ptn_buf_ref(m->buf));
}
static const ptn_actor_ops port_store_ops = {.name = "port-store",
                                             .state_size = sizeof(void *),
                                             .init = store_init,
                                             .handle = port_store_handle};

Test(port, answers_requests) {
    struct rig r;
    struct port_play p = {0};
    struct lane_play l = {.n = 100};
    rig_open(&r, 1);
    cr_assert_eq(ptn_port_open(r.rt, &p.port), 0);
    l.store = rig_spawn(&r, &port_store_ops, &p, 0, PTN_PERMANENT);
    rig_spawn(&r, &client_ops, &l, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(l.answered, 100);
    cr_expect_eq(l.errors, 10);
    cr_expect_eq(l.wrong_order, 0);
    ptn_port_close(p.port);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

/* ---- stop from anywhere ------------------------------------------------------------------- */

static void *stopper(void *arg) {
    ptn_runtime_stop(arg);
    return NULL;
}
static const ptn_actor_ops idle_ops = {.name = "idle", .handle = exit_on_stopping};

Test(port, stop_from_another_thread_at_any_moment, .timeout = 60) {
    for (int i = 0; i < 200; i++) {
        ptn_runtime *rt;
        pthread_t th;
        ptn_runtime_opts o = {.workers = 1 + (unsigned)i % 3};
        cr_assert_eq(ptn_runtime_new(&o, &rt), 0);
        cr_assert_eq(ptn_runtime_spawn(rt, &idle_ops, NULL, NULL, PTN_PERMANENT, NULL), 0);
        cr_assert_eq(pthread_create(&th, NULL, stopper, rt), 0);
        cr_assert_eq(ptn_runtime_run(rt), 0);
        pthread_join(th, NULL);
        ptn_runtime_free(rt);
    }
}
