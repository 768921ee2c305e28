/* SPDX-License-Identifier: Apache-2.0
 *
 * worker_test.c - messages between actors: order, bounds, publish, dead addresses, parking,
 * shutdown.
 */
#include "runtime/testing.h"

#include <criterion/criterion.h>

#include <malloc.h>

enum { MSG_GO = PTN_MSG_USER, MSG_DATA, MSG_DONE };

/* ---- order and delivery ------------------------------------------------------------------- */

struct sink {
    uint64_t next[8]; /* per sender: the number expected */
    uint64_t got, wrong, want;
    ptn_addr senders[8];
};

static int sink_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct sink *s = *(struct sink **)state;
    if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
        return 0;
    }
    for (int i = 0; i < 8; i++) {
        if (s->senders[i] == m->from)
            s->wrong += msg_u64(m) != s->next[i]++;
    }
    if (++s->got == s->want)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}

static int keep_arg_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(void **)state = arg;
    return 0;
}

static const ptn_actor_ops sink_ops = {
    .name = "sink", .state_size = sizeof(void *), .init = keep_arg_init, .handle = sink_handle};

struct source_arg {
    ptn_addr to;
    uint64_t n;
};
struct source {
    struct source_arg a;
    uint64_t sent, refused;
    ptn_timer retry;
};

static void source_pump(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct source *s = state;
    (void)t;
    (void)arg;
    while (s->sent < s->a.n) {
        ptn_buf *b = buf_u64(s->sent);
        if (ptn_cast(c, s->a.to, MSG_DATA, b) < 0) {
            ptn_buf_unref(b); /* refused: still ours */
            s->refused++;
            ptn_timer_start(c, &s->retry, PTN_MS, source_pump, NULL);
            return;
        }
        s->sent++;
    }
}

static int source_init(ptn_ctx *c, void *state, void *arg) {
    struct source *s = state;
    s->a = *(struct source_arg *)arg;
    source_pump(c, s, &s->retry, NULL);
    return 0;
}

static int exit_on_stopping(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops source_ops = {.name = "source",
                                         .state_size = sizeof(struct source),
                                         .init = source_init,
                                         .handle = exit_on_stopping};

static void check_many_to_one(unsigned workers) {
    struct rig r;
    rig_open(&r, workers);
    struct sink s = {.want = 8 * 5000};
    ptn_addr to = rig_spawn(&r, &sink_ops, &s, 0, PTN_PERMANENT);
    struct source_arg a = {.to = to, .n = 5000};
    for (int i = 0; i < 8; i++)
        s.senders[i] = rig_spawn(&r, &source_ops, &a, i % (int)workers, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(s.got, s.want, "got %lu", (unsigned long)s.got);
    cr_expect_eq(s.wrong, 0, "order per sender");
    cr_expect_eq(r.crashes, 0);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0, "payloads leaked");
}

Test(worker, many_to_one_is_fifo_and_lossless_on_one_worker) {
    check_many_to_one(1);
}

Test(worker, many_to_one_is_fifo_and_lossless_on_four_workers) {
    check_many_to_one(4);
}

/* ---- bounds ------------------------------------------------------------------------------- */

struct bounds {
    ptn_addr deaf;
    unsigned accepted;
    int msgs_err, bytes_err, big_err, gone_err, type_err;
};

static int bounds_init(ptn_ctx *c, void *state, void *arg) {
    struct bounds *b = arg;
    (void)state;
    int err;
    while ((err = ptn_cast(c, b->deaf, MSG_DATA, NULL)) == 0)
        b->accepted++;
    b->msgs_err = err;
    ptn_buf *big = ptn_buf_copy("0123456789", 10);
    b->big_err = ptn_cast(c, b->deaf, MSG_DATA, big);
    ptn_buf_unref(big);
    b->gone_err = ptn_cast(c, b->deaf + 2, MSG_DATA, NULL);
    b->type_err = ptn_cast(c, b->deaf, PTN_MSG_DOWN, NULL);
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}

static const ptn_actor_ops bounds_ops = {
    .name = "bounds", .init = bounds_init, .handle = exit_on_stopping};
static const ptn_actor_ops deaf_ops = {.name = "deaf", .handle = exit_on_stopping};

Test(worker, a_full_mailbox_refuses_by_messages) {
    struct rig r;
    rig_open(&r, 1);
    struct bounds b = {0};
    rig_spawn(&r, &bounds_ops, &b, 0, PTN_PERMANENT);
    ptn_actor_opts o = {.mbox_msgs_max = 10, .mbox_bytes_max = 8};
    cr_assert_eq(ptn_runtime_spawn(r.rt, &deaf_ops, &o, NULL, PTN_PERMANENT, &b.deaf), 0);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(b.accepted, 10);
    cr_expect_eq(b.msgs_err, -PTN_EOVERLOAD);
    cr_expect_eq(b.big_err, -PTN_ETOOBIG, "would never fit");
    cr_expect_eq(b.gone_err, -PTN_ENOACTOR);
    cr_expect_eq(b.type_err, -PTN_EINVAL, "runtime types cannot be forged");
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

static int bytes_init(ptn_ctx *c, void *state, void *arg) {
    struct bounds *b = arg;
    (void)state;
    ptn_buf *five = ptn_buf_copy("12345", 5);
    b->msgs_err = ptn_cast(c, b->deaf, MSG_DATA, ptn_buf_ref(five));
    b->bytes_err = ptn_cast(c, b->deaf, MSG_DATA, five);
    ptn_buf_unref(five);
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}

static const ptn_actor_ops bytes_ops = {
    .name = "bytes", .init = bytes_init, .handle = exit_on_stopping};

Test(worker, a_full_mailbox_refuses_by_bytes) {
    struct rig r;
    rig_open(&r, 1);
    struct bounds b = {0};
    rig_spawn(&r, &bytes_ops, &b, 0, PTN_PERMANENT);
    ptn_actor_opts o = {.mbox_bytes_max = 8};
    cr_assert_eq(ptn_runtime_spawn(r.rt, &deaf_ops, &o, NULL, PTN_PERMANENT, &b.deaf), 0);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(b.msgs_err, 0);
    cr_expect_eq(b.bytes_err, -PTN_EOVERLOAD);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

/* ---- publish ------------------------------------------------------------------------------ */

struct pub {
    ptn_addr to[5];
    size_t refused;
    int err;
};

static int pub_init(ptn_ctx *c, void *state, void *arg) {
    struct pub *p = arg;
    (void)state;
    p->err = ptn_publish(c, p->to, 5, MSG_DATA, buf_u64(7), &p->refused);
    return 0;
}

static const ptn_actor_ops pub_ops = {.name = "pub", .init = pub_init, .handle = exit_on_stopping};

Test(worker, publish_shares_one_payload_and_counts_refusals) {
    struct rig r;
    rig_open(&r, 2);
    struct sink s = {.want = 3};
    struct pub p = {.to = {[1] = 12345}};
    p.to[0] = rig_spawn(&r, &sink_ops, &s, 0, PTN_PERMANENT);
    p.to[2] = rig_spawn(&r, &sink_ops, &s, 1, PTN_PERMANENT);
    p.to[3] = rig_spawn(&r, &sink_ops, &s, 1, PTN_PERMANENT);
    p.to[4] = PTN_ADDR_NONE;
    rig_spawn(&r, &pub_ops, &p, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(p.err, 0);
    cr_expect_eq(p.refused, 2);
    cr_expect_eq(s.got, 3);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

/* ---- life of an address ------------------------------------------------------------------- */

struct churn {
    unsigned rounds, stale_ok, same;
    ptn_addr last;
    ptn_timer t;
};

static int leaver_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    (void)arg;
    ptn_exit(c, 0);
    return 0;
}
static const ptn_actor_ops leaver_ops = {
    .name = "leaver", .init = leaver_init, .handle = exit_on_stopping};

static void churn_step(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct churn *k = arg;
    ptn_addr a = 0;
    cr_assert_eq(ptn_spawn(c, &leaver_ops, NULL, NULL, &a), 0);
    k->stale_ok += ptn_cast(c, a, MSG_DATA, NULL) == -PTN_ENOACTOR;
    k->same += a == k->last;
    k->last = a;
    if (++k->rounds == 500)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    else
        ptn_timer_start(c, t, 0, churn_step, k);
    (void)state;
}

static int churn_init(ptn_ctx *c, void *state, void *arg) {
    ptn_timer_start(c, state, 0, churn_step, arg);
    return 0;
}
static const ptn_actor_ops churn_ops = {.name = "churn",
                                        .state_size = sizeof(ptn_timer),
                                        .init = churn_init,
                                        .handle = exit_on_stopping};

Test(worker, slots_are_reused_under_new_generations) {
    struct rig r;
    rig_open(&r, 1);
    struct churn k = {0};
    rig_spawn(&r, &churn_ops, &k, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(k.rounds, 500);
    cr_expect_eq(k.stale_ok, 500, "an ended actor's address is refused");
    cr_expect_eq(k.same, 0);
    cr_expect_leq(r.rt->workers[0]->slots.n_slots, 8, "slots are reused");
    rig_close(&r);
}

static int racer_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    ptn_addr *to = arg;
    /* Both are in the mailbox before the receiver runs; the first makes it end. */
    cr_assert_eq(ptn_cast(c, *to, MSG_GO, buf_u64(1)), 0);
    cr_assert_eq(ptn_cast(c, *to, MSG_DATA, buf_u64(2)), 0);
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static int goer_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    (void)m;
    ptn_exit(c, 0);
    return 0;
}
static const ptn_actor_ops racer_ops = {
    .name = "racer", .init = racer_init, .handle = exit_on_stopping};
static const ptn_actor_ops goer_ops = {.name = "goer", .handle = goer_handle};

Test(worker, messages_behind_the_end_become_dead_letters) {
    struct rig r;
    rig_open(&r, 1);
    ptn_addr to = PTN_ADDR_NONE;
    rig_spawn(&r, &racer_ops, &to, 0, PTN_PERMANENT);
    to = rig_spawn(&r, &goer_ops, NULL, 0, PTN_TEMPORARY);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(r.dead_letters, 1);
    struct ptn__dead_letter d;
    cr_assert_eq(ptn__dead_letters_copy(r.rt->workers[0], &d, 1), 1);
    cr_expect_eq(d.to, to);
    cr_expect_eq(d.type, MSG_DATA);
    cr_expect_eq(d.len, 8);
    cr_expect_eq(d.reason, PTN_ENOACTOR);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

/* ---- spawn -------------------------------------------------------------------------------- */

struct spawner {
    int bad_init, exists, bad_worker, no_handle, remote;
    ptn_addr found, remote_addr;
    unsigned downs;
    uint64_t ref;
};

static int bad_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    (void)state;
    (void)arg;
    return -PTN_EIO;
}
static const ptn_actor_ops bad_ops = {.name = "bad", .init = bad_init, .handle = exit_on_stopping};
static const ptn_actor_ops none_ops = {.name = "none"};

static int spawner_init(ptn_ctx *c, void *state, void *arg) {
    struct spawner *s = arg;
    *(void **)state = arg;
    ptn_addr a;
    ptn_actor_opts named = {.register_as = "twin", .worker = -1};
    s->bad_init = ptn_spawn(c, &bad_ops, &named, NULL, &a);
    cr_assert_eq(ptn_spawn(c, &deaf_ops, &named, NULL, &a), 0, "the failed one gave its name back");
    s->exists = ptn_spawn(c, &deaf_ops, &named, NULL, &a);
    cr_assert_eq(ptn_whereis(ptn_ctx_runtime(c), "twin", &s->found), 0);
    ptn_actor_opts far = {.worker = 9};
    s->bad_worker = ptn_spawn(c, &deaf_ops, &far, NULL, &a);
    s->no_handle = ptn_spawn(c, &none_ops, NULL, NULL, &a);
    ptn_actor_opts other = {.worker = 1};
    s->remote = ptn_spawn(c, &bad_ops, &other, NULL, &s->remote_addr);
    cr_assert_eq(ptn_monitor(c, s->remote_addr, &s->ref), 0);
    return 0;
}

static int spawner_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct spawner *s = *(void **)state;
    if (m->type == PTN_MSG_DOWN && m->from == s->remote_addr && m->corr == s->ref) {
        s->downs++;
        ptn_runtime_stop(ptn_ctx_runtime(c));
    }
    return exit_on_stopping(c, state, m);
}
static const ptn_actor_ops spawner_ops = {.name = "spawner",
                                          .state_size = sizeof(void *),
                                          .init = spawner_init,
                                          .handle = spawner_handle};

Test(worker, spawn_reports_what_is_wrong) {
    struct rig r;
    rig_open(&r, 2);
    struct spawner s = {0};
    rig_spawn(&r, &spawner_ops, &s, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(s.bad_init, -PTN_EIO);
    cr_expect_eq(s.exists, -PTN_EEXIST);
    cr_expect_neq(s.found, PTN_ADDR_NONE);
    cr_expect_eq(s.bad_worker, -PTN_EINVAL);
    cr_expect_eq(s.no_handle, -PTN_EINVAL);
    cr_expect_eq(s.remote, 0, "a remote init fails later");
    cr_expect_eq(s.downs, 1, "and shows as DOWN");
    ptn_addr a;
    cr_expect_eq(ptn_whereis(r.rt, "twin", &a), -PTN_ENOTFOUND, "names go with their actors");
    rig_close(&r);
}

/* ---- parking and shutdown ----------------------------------------------------------------- */

Test(worker, a_wake_is_paid_once_per_park) {
    struct rig r;
    rig_open(&r, 2);
    struct sink s = {.want = 5000};
    ptn_addr to = rig_spawn(&r, &sink_ops, &s, 1, PTN_PERMANENT);
    struct source_arg a = {.to = to, .n = 5000};
    s.senders[0] = rig_spawn(&r, &source_ops, &a, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    for (unsigned i = 0; i < 2; i++) {
        ptn_worker_stats st;
        ptn_worker_stats_read(r.rt, i, &st);
        cr_expect_leq(st.wakes, st.parks);
        cr_expect_gt(st.messages, 0);
    }
    rig_close(&r);
}

static int stubborn_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)c;
    (void)state;
    (void)m;
    return 0; /* ignores STOPPING */
}
static void stubborn_fini(ptn_ctx *c, void *state, int reason) {
    (void)c;
    if (reason == PTN_ESTOPPING)
        ++*(*(unsigned **)state);
}
static const ptn_actor_ops stubborn_ops = {.name = "stubborn",
                                           .state_size = sizeof(void *),
                                           .init = keep_arg_init,
                                           .handle = stubborn_handle,
                                           .fini = stubborn_fini};

Test(worker, the_drain_deadline_ends_who_does_not_exit) {
    struct rig r;
    rig_open(&r, 3);
    unsigned finis = 0;
    for (int i = 0; i < 3; i++)
        rig_spawn(&r, &stubborn_ops, &finis, i, PTN_PERMANENT);
    ptn_runtime_stop(r.rt);
    ptn_time t0 = r.env->now;
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(finis, 3);
    cr_expect_geq(r.env->now - t0, 5 * PTN_SEC);
    cr_expect_lt(r.env->now - t0, 6 * PTN_SEC);
    rig_close(&r);
}

static int impatient_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static int stop_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    (void)arg;
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static const ptn_actor_ops impatient_ops = {
    .name = "impatient", .init = stop_init, .handle = impatient_handle};

Test(worker, a_second_stop_does_not_wait) {
    struct rig r;
    rig_open(&r, 2);
    unsigned finis = 0;
    rig_spawn(&r, &stubborn_ops, &finis, 1, PTN_PERMANENT);
    rig_spawn(&r, &impatient_ops, NULL, 0, PTN_PERMANENT);
    ptn_time t0 = r.env->now;
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(finis, 1);
    cr_expect_lt(r.env->now - t0, PTN_SEC);
    rig_close(&r);
}

Test(worker, a_runtime_that_never_ran_can_be_freed) {
    struct rig r;
    rig_open(&r, 2);
    struct sink s = {0};
    rig_spawn(&r, &sink_ops, &s, 0, PTN_PERMANENT);
    rig_spawn(&r, &sink_ops, &s, 1, PTN_PERMANENT);
    rig_close(&r);
}

struct seen {
    unsigned n, sinks;
};
static void count_actor(const ptn_actor_stats *s, void *arg) {
    struct seen *n = arg;
    n->n++;
    if (strcmp(s->name, "sink") == 0) {
        n->sinks++;
        cr_expect_eq(s->mbox_msgs_max, 1024);
        cr_expect_eq(s->handled, 0);
    }
}

Test(worker, live_actors_can_be_visited) {
    struct rig r;
    rig_open(&r, 2);
    struct sink s = {0};
    rig_spawn(&r, &sink_ops, &s, 0, PTN_PERMANENT);
    rig_spawn(&r, &sink_ops, &s, 1, PTN_PERMANENT);
    struct seen n = {0};
    ptn_actors_visit(r.rt, count_actor, &n);
    cr_expect_eq(n.sinks, 2);
    cr_expect_eq(n.n, 3, "and the root supervisor");
    rig_close(&r);
}

/* ---- turn end, scratch, trivia ------------------------------------------------------------ */

struct turn_end {
    unsigned calls, order_ok;
    bool in_handler;
};

static void at_end(ptn_ctx *c, void *state, void *arg) {
    struct turn_end *t = arg;
    (void)state;
    t->calls++;
    t->order_ok += !t->in_handler;
    if (t->calls == 3)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    else
        ptn_at_turn_end(c, at_end, t); /* from within: the next turn */
}

static int turn_end_init(ptn_ctx *c, void *state, void *arg) {
    struct turn_end *t = arg;
    (void)state;
    t->in_handler = true;
    ptn_at_turn_end(c, at_end, t);
    uint8_t *p = ptn_scratch(c, 100000);
    memset(p, 1, 100000);
    cr_expect_not_null(ptn_alloc(c, 10));
    t->in_handler = false;
    cr_expect_eq(ptn_worker(c), 0);
    cr_expect_gt(ptn_wall_ms(c), 0);
    uint64_t x = 0, y = 0;
    ptn_random(c, &x, sizeof(x));
    ptn_random(c, &y, sizeof(y));
    cr_expect_neq(x, y);
    return 0;
}
static const ptn_actor_ops turn_end_ops = {
    .name = "turn-end", .init = turn_end_init, .handle = exit_on_stopping};

Test(worker, turn_end_callbacks_run_after_the_handlers) {
    struct rig r;
    rig_open(&r, 1);
    struct turn_end t = {0};
    rig_spawn(&r, &turn_end_ops, &t, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(t.calls, 3);
    cr_expect_eq(t.order_ok, 3);
    rig_close(&r);
}

Test(worker, errors_have_names_and_texts) {
    cr_expect_str_eq(ptn_err_name(-PTN_EOVERLOAD), "EOVERLOAD");
    cr_expect_str_eq(ptn_err_name(PTN_EOVERLOAD), "EOVERLOAD");
    cr_expect_str_eq(ptn_err_name(0), "OK");
    cr_expect_str_eq(ptn_err_name(INT32_MIN), "EUNKNOWN");
    cr_expect_str_eq(ptn_err_text(-PTN_EFULL), "storage is full");
    cr_expect_str_eq(ptn_err_text(999), "unknown error");
}

/* ---- dead letters and statistics ---------------------------------------------------------- */

static int litter_init(ptn_ctx *c, void *state, void *arg) {
    const ptn_addr *to = arg;
    (void)state;
    cr_assert_eq(ptn_cast(c, *to, MSG_GO, NULL), 0);
    for (unsigned i = 0; i < 400; i++)
        cr_assert_eq(ptn_cast(c, *to, MSG_DATA, NULL), 0);
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static const ptn_actor_ops litter_ops = {
    .name = "litter", .init = litter_init, .handle = exit_on_stopping};

Test(worker, a_storm_of_dead_letters_is_counted_but_not_traced) {
    struct rig r;
    rig_open(&r, 1);
    ptn_addr to = PTN_ADDR_NONE;
    rig_spawn(&r, &litter_ops, &to, 0, PTN_PERMANENT);
    to = rig_spawn(&r, &goer_ops, NULL, 0, PTN_TEMPORARY);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    ptn_worker_stats st;
    ptn_worker_stats_read(r.rt, 0, &st);
    cr_expect_eq(st.dead_letters, 400);
    cr_expect_eq(r.dead_letters, 10);
    struct ptn__dead_letter d[300];
    cr_expect_eq(ptn__dead_letters_copy(r.rt->workers[0], d, 300), PTN__DEAD_RING);
    ptn_worker_stats_read(r.rt, 7, &st);
    cr_expect_eq(st.turns, 0, "no such worker");
    rig_close(&r);
}

/* ---- post for another worker ---------------------------------------------------------------- */

#define POST_MANY (2 * PTN__POST_MAX + 5)

struct posted {
    ptn_addr to, near;
    unsigned got, got_near, wrong;
};

/* All of it is sent by one handler: through two full posts, the rest of a third, and on the same
 * worker. */
static int poster_init(ptn_ctx *c, void *state, void *arg) {
    struct posted *p = arg;
    *(struct posted **)state = p;
    for (unsigned i = 0; i < POST_MANY; i++) {
        ptn_buf *far = ptn_buf_copy(&i, sizeof i), *near = ptn_buf_copy(&i, sizeof i);
        cr_assert_eq(ptn_cast(c, p->to, MSG_DATA, far), 0);
        cr_assert_eq(ptn_cast(c, p->near, MSG_DATA, near), 0);
    }
    struct ptn__worker *w = ptn__ctx_worker(c);
    cr_expect_eq(w->posts[1].n, POST_MANY % PTN__POST_MAX, "full posts have left");
    return 0;
}
static const ptn_actor_ops poster_ops = {.name = "poster",
                                         .state_size = sizeof(struct posted *),
                                         .init = poster_init,
                                         .handle = exit_on_stopping};

struct counter_of {
    struct posted *p;
};

static int posted_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    ((struct counter_of *)state)->p = arg;
    return 0;
}

static int posted_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct posted *p = ((struct counter_of *)state)->p;
    if (m->type != MSG_DATA)
        return exit_on_stopping(c, state, m);
    unsigned *n = ptn_worker(c) == 1 ? &p->got : &p->got_near, v;
    memcpy(&v, m->data, sizeof v);
    p->wrong += v != (*n)++;
    if (p->got == POST_MANY && p->got_near == POST_MANY)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static const ptn_actor_ops posted_ops = {.name = "posted",
                                         .state_size = sizeof(struct counter_of),
                                         .init = posted_init,
                                         .handle = posted_handle};

Test(worker, both_ways_keep_the_order_and_nothing_stays_in_the_post) {
    struct rig r;
    struct posted p = {0};
    rig_open(&r, 2);
    p.near = rig_spawn(&r, &posted_ops, &p, 0, PTN_PERMANENT);
    p.to = rig_spawn(&r, &posted_ops, &p, 1, PTN_PERMANENT);
    rig_spawn(&r, &poster_ops, &p, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(p.got, POST_MANY);
    cr_expect_eq(p.got_near, POST_MANY);
    cr_expect_eq(p.wrong, 0);
    const struct ptn__slot *s = ptn__slot_at(r.rt, p.to);
    cr_expect_eq(ptn__load(s), 0, "all room is free");
    cr_expect_eq(r.rt->workers[0]->posts_waiting, 0);
    rig_close(&r);
}

/* An end with messages on their way in every list: nothing leaks (asan) and nobody is woken. */
Test(worker, what_is_on_its_way_at_the_end_is_discarded) {
    struct rig r;
    rig_open(&r, 2);
    ptn_addr a = rig_spawn(&r, &deaf_ops, NULL, 1, PTN_PERMANENT);
    struct ptn__env e = {.to = a, .type = MSG_DATA, .kind = PTN__ENV_CAST};
    ptn_buf *post = ptn_buf_copy("post", 4);
    cr_assert_eq(ptn__send(r.rt->workers[0], &e, post), 0);
    ptn_buf *ready = ptn_buf_copy("ready", 5);
    cr_assert_eq(ptn__send_foreign(r.rt, &r.rt->workers[0]->mag, &e, ready), 0);
    ptn_buf *inbox = ptn_buf_copy("inbox", 5);
    cr_assert_eq(ptn__send(r.rt->workers[1], &e, inbox), 0);
    rig_close(&r); /* never ran */
    cr_expect_eq(buf_live(), 0);
}

static unsigned take_reserved(ptn_runtime *rt, enum ptn__env_kind kind, struct ptn__env **taken) {
    unsigned n = 0;
    for (struct ptn__env *e; (e = ptn__env_get_reserved(rt, kind)) != NULL; n++) {
        *e = (struct ptn__env){.next = *taken};
        *taken = e;
    }
    return n;
}

/* Without memory answers are still given, but not at the cost of crashes that have to be heard. */
Test(worker, replies_leave_half_of_the_reserve) {
    struct rig r;
    struct ptn__env *taken = NULL;
    rig_open(&r, 1);
    cr_expect_eq(take_reserved(r.rt, PTN__ENV_REPLY, &taken), PTN__MAGAZINE / 2);
    cr_expect_eq(take_reserved(r.rt, PTN__ENV_SYSTEM, &taken), PTN__MAGAZINE / 2);
    ptn__env_discard(r.rt, &r.rt->workers[0]->mag, taken);
    rig_close(&r);
}

/* ---- a message to oneself ----------------------------------------------------------------- */

#define SELF_ROUNDS 10u

struct polite {
    ptn_addr last; /* who had the word */
    unsigned rounds, twice_in_row;
};

static int polite_init(ptn_ctx *c, void *state, void *arg) {
    *(void **)state = arg;
    return ptn_cast(c, ptn_self(c), MSG_GO, NULL);
}

static int polite_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct polite *p = *(struct polite **)state;
    if (m->type != MSG_GO)
        return exit_on_stopping(c, state, m);
    p->twice_in_row += p->last == ptn_self(c);
    p->last = ptn_self(c);
    if (++p->rounds < 2 * SELF_ROUNDS)
        return ptn_cast(c, ptn_self(c), MSG_GO, NULL);
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static const ptn_actor_ops polite_ops = {
    .name = "polite", .state_size = sizeof(void *), .init = polite_init, .handle = polite_handle};

Test(worker, who_sends_to_itself_lets_the_others_run_first) {
    struct rig r;
    struct polite p = {0};
    rig_open(&r, 1);
    rig_spawn(&r, &polite_ops, &p, 0, PTN_PERMANENT);
    rig_spawn(&r, &polite_ops, &p, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_geq(p.rounds, 2 * SELF_ROUNDS);
    cr_expect_eq(p.twice_in_row, 0);
    rig_close(&r);
}

/* Fills its own mailbox again and again: inside a batch the bound is as exact as between two. */
#define FULL_MSGS 4u

static int filler_init(ptn_ctx *c, void *state, void *arg) {
    *(void **)state = arg;
    return ptn_cast(c, ptn_self(c), MSG_GO, NULL);
}

static int filler_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct polite *p = *(struct polite **)state;
    if (m->type != MSG_GO)
        return exit_on_stopping(c, state, m);
    unsigned accepted = 0;
    while (ptn_cast(c, ptn_self(c), MSG_GO, NULL) == 0)
        accepted++;
    p->twice_in_row += accepted != (p->rounds == 0 ? FULL_MSGS : 1);
    if (++p->rounds == 100)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static const ptn_actor_ops filler_ops = {
    .name = "filler", .state_size = sizeof(void *), .init = filler_init, .handle = filler_handle};

Test(worker, what_is_being_handled_takes_no_room) {
    struct rig r;
    struct polite p = {0};
    const ptn_actor_opts o = {.mbox_msgs_max = FULL_MSGS};
    rig_open(&r, 1);
    cr_assert_eq(ptn_runtime_spawn(r.rt, &filler_ops, &o, &p, PTN_TEMPORARY, &(ptn_addr){0}), 0);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_geq(p.rounds, 100);
    cr_expect_eq(p.twice_in_row, 0, "not the room that there was");
    rig_close(&r);
}

/* ---- memory of an idle actor -------------------------------------------------------------- */

#ifndef PTN_SANITIZE /* which count differently */

#define IDLE_ACTORS 8192u /* whole chunks of slots */
#define IDLE_BYTES_MAX 256u

static int crowd_init(ptn_ctx *c, void *state, void *arg) {
    static const ptn_actor_ops idle_ops = {
        .name = "idle", .state_size = sizeof(uint64_t), .handle = exit_on_stopping};
    static const ptn_actor_opts here = {.worker = -1};
    (void)state;
    (void)arg;
    size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    for (unsigned i = 0; i < IDLE_ACTORS; i++)
        cr_assert_eq(ptn_spawn(c, &idle_ops, &here, NULL, &(ptn_addr){0}), 0);
    size_t gained = mallinfo2().uordblks + mallinfo2().hblkhd - before;
    cr_expect_leq(gained / IDLE_ACTORS, IDLE_BYTES_MAX + sizeof(uint64_t), "%zu bytes per actor",
                  gained / IDLE_ACTORS);
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static const ptn_actor_ops crowd_ops = {
    .name = "crowd", .init = crowd_init, .handle = exit_on_stopping};

Test(worker, an_idle_actor_takes_a_slot_and_its_state) {
    struct rig r;
    rig_open(&r, 1);
    rig_spawn(&r, &crowd_ops, NULL, 0, PTN_TEMPORARY);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    rig_close(&r);
}

#endif
