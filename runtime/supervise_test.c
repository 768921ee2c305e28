/* SPDX-License-Identifier: Apache-2.0
 *
 * supervise_test.c - crashes, restarts, strategies, escalation, monitors, and what an actor leaves
 * behind.
 */
#include "runtime/testing.h"

#include <criterion/criterion.h>

enum { MSG_CRASH = PTN_MSG_USER, MSG_EXIT, MSG_COUNT, MSG_STOP, MSG_REQUIRE, MSG_DEAF };

static int exit_on_stopping(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

/* ---- a child that writes a log ------------------------------------------------------------ */

static char event_log[512];
static size_t event_log_len;

static void note(char what, char who) {
    if (event_log_len + 3 < sizeof(event_log)) {
        event_log[event_log_len++] = what;
        event_log[event_log_len++] = who;
        event_log[event_log_len++] = ' ';
        event_log[event_log_len] = '\0';
    }
}

static void log_clear(void) {
    event_log_len = 0;
    event_log[0] = '\0';
}

struct kid {
    char who;
    bool deaf; /* to STOPPING */
    unsigned counted;
};

static void kid_defer(void *arg) {
    note('d', *(const char *)arg);
}

static int kid_init(ptn_ctx *c, void *state, void *arg) {
    struct kid *k = state;
    cr_expect_eq(k->counted, 0, "a new incarnation starts from zero");
    k->who = *(const char *)arg;
    note('+', k->who);
    return ptn_defer(c, kid_defer, arg);
}

static void kid_fini(ptn_ctx *c, void *state, int reason) {
    (void)c;
    (void)reason;
    note('-', ((struct kid *)state)->who);
}

static int kid_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct kid *k = state;
    switch (m->type) {
    case MSG_CRASH:
        return -PTN_EIO;
    case MSG_REQUIRE:
        PTN_REQUIRE(c, k->counted == 77);
        return 0;
    case MSG_EXIT:
        ptn_exit(c, 7);
        return 0;
    case MSG_COUNT:
        k->counted++;
        note('.', k->who);
        return 0;
    case MSG_STOP:
        ptn_runtime_stop(ptn_ctx_runtime(c));
        return 0;
    case MSG_DEAF:
        k->deaf = true;
        return 0;
    case PTN_MSG_STOPPING:
        if (m->deadline != PTN_NEVER) { /* of a group restart: it has an end */
            note('s', k->who);
            cr_expect(m->deadline > ptn_now(c));
        }
        return k->deaf ? 0 : exit_on_stopping(c, state, m);
    default:
        return 0;
    }
}

static const ptn_actor_ops kid_ops = {.name = "kid",
                                      .state_size = sizeof(struct kid),
                                      .init = kid_init,
                                      .handle = kid_handle,
                                      .fini = kid_fini};

/* ---- a parent that plays a script, one step per 10 ms --------------------------------------- */

struct play {
    const ptn_sup_opts *opts;
    enum ptn_restart restart[3];
    ptn_time shutdown_ns;
    int workers[3];
    struct {
        char who;
        uint32_t type;
    } steps[40];
    unsigned n, at, inits;
    ptn_timer t;
    bool loop_crash;
};

static const char kid_names[3][2] = {"a", "b", "c"};

static void play_step(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct play *p = arg;
    (void)state;
    if (p->at == 0)
        log_clear();
    if (p->at == p->n) {
        ptn_runtime_stop(ptn_ctx_runtime(c));
        return;
    }
    const char name[2] = {p->steps[p->at].who, '\0'};
    ptn_addr a;
    if (ptn_whereis(ptn_ctx_runtime(c), name, &a) == 0)
        cr_expect_eq(ptn_cast(c, a, p->steps[p->at].type, NULL), 0);
    else
        note('?', name[0]);
    p->at++;
    ptn_timer_start(c, t, 10 * PTN_MS, play_step, p);
}

static int play_init(ptn_ctx *c, void *state, void *arg) {
    struct play *p = arg;
    (void)state;
    p->inits++;
    ptn_child kids[3];
    for (int i = 0; i < 3; i++)
        kids[i] = (ptn_child){.ops = &kid_ops,
                              .opts = {.register_as = kid_names[i], .worker = p->workers[i]},
                              .arg = (void *)(uintptr_t)kid_names[i],
                              .restart = p->restart[i],
                              .shutdown_ns = p->shutdown_ns};
    p->t = (ptn_timer){0};
    ptn_timer_start(c, &p->t, 10 * PTN_MS, play_step, p);
    return ptn_supervise(c, p->opts, kids, 3, NULL);
}

static const ptn_actor_ops play_ops = {
    .name = "play", .init = play_init, .handle = exit_on_stopping};

static void play(struct rig *r, struct play *p, unsigned workers) {
    rig_open(r, workers);
    for (int i = 0; i < 3; i++)
        p->workers[i] = i % (int)workers;
    while (p->n < PTN_ARRAY_LEN(p->steps) && p->steps[p->n].who != 0)
        p->n++;
    rig_spawn(r, &play_ops, p, 0, PTN_PERMANENT);
    int err = ptn_runtime_run(r->rt);
    cr_assert_eq(err, 0);
    rig_close(r);
}

/* The log up to the end of the script: what the shutdown adds starts with the first "-c". */
static void expect_log(const char *want) {
    cr_expect(strncmp(event_log, want, strlen(want)) == 0, "log: %s\nwant: %s", event_log, want);
}

Test(supervise, one_for_one_restarts_the_one) {
    for (unsigned workers = 1; workers <= 3; workers++) {
        struct rig r;
        struct play p = {.steps = {{'b', MSG_CRASH}, {'b', MSG_COUNT}, {'a', MSG_COUNT}}};
        play(&r, &p, workers);
        expect_log("db +b .b .a ");
        cr_expect_eq(r.crashes, 1);
        cr_expect_eq(r.restarts, 1);
    }
}

Test(supervise, one_for_all_restarts_all_in_order) {
    for (unsigned workers = 1; workers <= 3; workers++) {
        struct rig r;
        const ptn_sup_opts o = {.strategy = PTN_ONE_FOR_ALL};
        struct play p = {.opts = &o, .steps = {{'b', MSG_CRASH}, {'c', MSG_COUNT}}};
        play(&r, &p, workers);
        expect_log("db -c dc -a da +a +b +c .c ");
    }
}

Test(supervise, rest_for_one_restarts_the_later_ones) {
    for (unsigned workers = 1; workers <= 3; workers++) {
        struct rig r;
        const ptn_sup_opts o = {.strategy = PTN_REST_FOR_ONE};
        struct play p = {.opts = &o, .steps = {{'b', MSG_REQUIRE}, {'a', MSG_COUNT}}};
        play(&r, &p, workers);
        expect_log("db -c dc +b +c .a ");
        cr_expect_eq(r.last_reason, PTN_EINVAL);
    }
}

Test(supervise, transient_and_temporary_children_may_leave) {
    struct rig r;
    struct play p = {.restart = {PTN_PERMANENT, PTN_TRANSIENT, PTN_TEMPORARY},
                     .steps = {{'a', MSG_EXIT},
                               {'b', MSG_CRASH},
                               {'b', MSG_EXIT},
                               {'b', MSG_COUNT},
                               {'c', MSG_CRASH},
                               {'c', MSG_COUNT}}};
    play(&r, &p, 2);
    expect_log("-a da +a db +b -b db ?b dc ?c ");
    cr_expect_eq(r.crashes, 2);
    cr_expect_eq(r.restarts, 2, "the exit of a permanent child counts");
}

Test(supervise, too_many_restarts_move_up_the_tree) {
    struct rig r;
    const ptn_sup_opts o = {.restarts_max = 2, .window_ns = PTN_SEC};
    struct play p = {
        .opts = &o,
        .steps = {{'a', MSG_CRASH}, {'a', MSG_CRASH}, {'a', MSG_CRASH}, {'b', MSG_COUNT}}};
    play(&r, &p, 2);
    cr_expect_eq(p.inits, 2, "the parent was restarted, and could take the names again");
    cr_expect_eq(r.gave_up, 1);
    const char *first = "da +a da +a da ";
    cr_assert_eq(strncmp(event_log, first, strlen(first)), 0, "log: %s", event_log);
    const char *again = event_log + strlen(first);
    cr_expect_not_null(strstr(again, "+a "), "log: %s", event_log);
    cr_expect_not_null(strstr(again, "+b "));
    cr_expect_not_null(strstr(again, "+c "));
    cr_expect_not_null(strstr(again, ".b "));
}

Test(supervise, restarts_outside_the_window_are_forgiven) {
    struct rig r;
    const ptn_sup_opts o = {.restarts_max = 1, .window_ns = 15 * PTN_MS};
    struct play p = {.opts = &o,
                     .steps = {{'a', MSG_CRASH},
                               {'b', MSG_COUNT},
                               {'a', MSG_CRASH},
                               {'b', MSG_COUNT},
                               {'a', MSG_CRASH}}};
    play(&r, &p, 1);
    cr_expect_eq(r.gave_up, 0);
    cr_expect_eq(r.restarts, 3);
}

/* ---- every kind of child under every strategy ------------------------------------------------ */

struct kinds {
    enum ptn_strategy strategy;
    enum ptn_restart restart; /* of b; a and c are permanent */
    const char *crash, *leave;
};

Test(supervise, every_kind_of_child_under_every_strategy) {
    static const struct kinds cases[] = {
        {PTN_ONE_FOR_ONE, PTN_PERMANENT, "db +b .a .b .c ", "-b db +b .a .b .c "},
        {PTN_ONE_FOR_ONE, PTN_TRANSIENT, "db +b .a .b .c ", "-b db .a ?b .c "},
        {PTN_ONE_FOR_ONE, PTN_TEMPORARY, "db .a ?b .c ", "-b db .a ?b .c "},
        {PTN_ONE_FOR_ALL, PTN_PERMANENT, "db -c dc -a da +a +b +c .a .b .c ",
         "-b db -c dc -a da +a +b +c .a .b .c "},
        {PTN_ONE_FOR_ALL, PTN_TRANSIENT, "db -c dc -a da +a +b +c .a .b .c ", "-b db .a ?b .c "},
        {PTN_ONE_FOR_ALL, PTN_TEMPORARY, "db .a ?b .c ", "-b db .a ?b .c "},
        {PTN_REST_FOR_ONE, PTN_PERMANENT, "db -c dc +b +c .a .b .c ",
         "-b db -c dc +b +c .a .b .c "},
        {PTN_REST_FOR_ONE, PTN_TRANSIENT, "db -c dc +b +c .a .b .c ", "-b db .a ?b .c "},
        {PTN_REST_FOR_ONE, PTN_TEMPORARY, "db .a ?b .c ", "-b db .a ?b .c "},
    };
    for (size_t i = 0; i < 2 * PTN_ARRAY_LEN(cases); i++) {
        const struct kinds *k = &cases[i / 2];
        bool crash = i % 2 == 0;
        struct rig r;
        const ptn_sup_opts o = {.strategy = k->strategy};
        struct play p = {.opts = &o,
                         .restart = {PTN_PERMANENT, k->restart, PTN_PERMANENT},
                         .steps = {{'b', crash ? MSG_CRASH : MSG_EXIT},
                                   {'a', MSG_COUNT},
                                   {'b', MSG_COUNT},
                                   {'c', MSG_COUNT}}};
        play(&r, &p, 1 + i % 3);
        expect_log(crash ? k->crash : k->leave);
    }
}

/* A sibling that crashes is the cause; c is only in its group, and so does not leave. */
Test(supervise, a_group_restart_ends_temporary_children_and_keeps_transient_ones) {
    for (ptn_time shutdown = 0; shutdown <= PTN_SEC; shutdown += PTN_SEC) {
        struct rig r;
        const ptn_sup_opts o = {.strategy = PTN_ONE_FOR_ALL};
        struct play p = {.opts = &o,
                         .shutdown_ns = shutdown,
                         .restart = {PTN_PERMANENT, PTN_TEMPORARY, PTN_TRANSIENT},
                         .steps = {{'a', MSG_CRASH}, {'b', MSG_COUNT}, {'c', MSG_COUNT}}};
        play(&r, &p, 1);
        expect_log(shutdown == 0 ? "da -c dc -b db +a +c ?b .c "
                                 : "da sc -c dc -b db +a +c ?b .c ");
        cr_expect_eq(r.restarts, 1);
    }
}

/* ---- time to stop, time to wait -------------------------------------------------------------- */

Test(supervise, siblings_get_their_time_to_stop_newest_first) {
    for (unsigned workers = 1; workers <= 3; workers++) {
        struct rig r;
        const ptn_sup_opts o = {.strategy = PTN_ONE_FOR_ALL};
        struct play p = {.opts = &o,
                         .shutdown_ns = 25 * PTN_MS,
                         .steps = {{'b', MSG_DEAF},
                                   {'a', MSG_CRASH},
                                   {'c', MSG_COUNT}, /* b takes its 25 ms: this one waits */
                                   {'b', MSG_COUNT},
                                   {'a', MSG_COUNT},
                                   {'c', MSG_COUNT}}};
        play(&r, &p, workers);
        expect_log("da sc -c dc sb .b -b db +a +b +c .c .a .c ");
        cr_expect_eq(r.restarts, 1);
    }
}

struct patient { /* crashes in every init until told otherwise, and knows when */
    ptn_time at[64];
    unsigned n, crashes;
    ptn_time calm_ns; /* lives this long before each crash */
    ptn_timer t;
};

static void patient_fail(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    (void)arg;
    ptn_fail(c, PTN_EIO, "again");
}

static int patient_init(ptn_ctx *c, void *state, void *arg) {
    struct patient *k = arg;
    (void)state;
    k->at[k->n++ % PTN_ARRAY_LEN(k->at)] = ptn_now(c);
    k->t = (ptn_timer){0};
    if (k->n > k->crashes)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    else if (k->calm_ns == 0)
        return -PTN_EIO;
    else
        ptn_timer_start(c, &k->t, k->calm_ns, patient_fail, NULL);
    return 0;
}
static const ptn_actor_ops patient_ops = {
    .name = "patient", .init = patient_init, .handle = exit_on_stopping};

struct ward {
    const ptn_sup_opts *opts;
    struct patient *patient;
};
static int ward_init(ptn_ctx *c, void *state, void *arg) {
    const struct ward *w = arg;
    (void)state;
    ptn_child kid = {.ops = &patient_ops, .opts = {.worker = -1}, .arg = w->patient};
    return ptn_supervise(c, w->opts, &kid, 1, NULL);
}
static const ptn_actor_ops ward_ops = {
    .name = "ward", .init = ward_init, .handle = exit_on_stopping};

/* NULL: under the root. */
static void nurse(struct rig *r, const ptn_sup_opts *o, struct patient *k) {
    struct ward w = {.opts = o, .patient = k};
    rig_open(r, 1);
    if (o != NULL)
        rig_spawn(r, &ward_ops, &w, 0, PTN_PERMANENT);
    else
        rig_spawn(r, &patient_ops, k, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r->rt), 0);
    ptn_worker_stats st;
    ptn_worker_stats_read(r->rt, 0, &st);
    cr_expect_eq(st.backing_off, 0);
    rig_close(r);
}

/* Waits are between a half and the whole of min, 2 min, ... max; the timer adds up to 1 ms. */
static void expect_wait(const struct patient *k, unsigned i, ptn_time want) {
    ptn_time got = k->at[i + 1] - k->at[i] - k->calm_ns;
    cr_expect(got >= want / 2 && got <= want + 2 * PTN_MS, "wait %u: %llu ns, not %llu", i,
              (unsigned long long)got, (unsigned long long)want);
}

Test(supervise, restarts_back_off_up_to_the_limit) {
    const ptn_sup_opts o = {
        .restarts_max = 20, .backoff_min_ns = 20 * PTN_MS, .backoff_max_ns = 300 * PTN_MS};
    struct rig r;
    struct patient k = {.crashes = 9};
    nurse(&r, &o, &k);
    static const ptn_time want_ms[] = {0, 20, 40, 80, 160, 300, 300, 300, 300};
    for (unsigned i = 0; i < PTN_ARRAY_LEN(want_ms); i++)
        expect_wait(&k, i, want_ms[i] * PTN_MS);
    cr_expect_eq(r.gave_up, 0);
}

Test(supervise, the_root_backs_off_too) {
    struct rig r;
    struct patient k = {.crashes = 5};
    nurse(&r, NULL, &k);
    static const ptn_time want_ms[] = {0, 10, 20, 40, 80};
    for (unsigned i = 0; i < PTN_ARRAY_LEN(want_ms); i++)
        expect_wait(&k, i, want_ms[i] * PTN_MS);
}

Test(supervise, a_quiet_window_ends_the_backoff) {
    const ptn_sup_opts o = {
        .restarts_max = 20, .window_ns = PTN_SEC, .backoff_min_ns = 100 * PTN_MS};
    struct rig r;
    struct patient restless = {.crashes = 4, .calm_ns = 990 * PTN_MS};
    nurse(&r, &o, &restless);
    expect_wait(&restless, 0, 0);
    expect_wait(&restless, 1, 100 * PTN_MS);
    expect_wait(&restless, 2, 200 * PTN_MS);
    struct patient calm = {.crashes = 4, .calm_ns = 1010 * PTN_MS};
    nurse(&r, &o, &calm);
    for (unsigned i = 0; i < 4; i++)
        expect_wait(&calm, i, 0);
}

/* ---- the end during a backoff ---------------------------------------------------------------- */

struct halt {
    ptn_time told, over;
    ptn_timer t;
    ptn_runtime *rt;
    uint64_t backing_off;
};
static void halt_now(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct halt *h = arg;
    (void)state;
    (void)t;
    ptn_worker_stats st;
    ptn_worker_stats_read(ptn_ctx_runtime(c), 0, &st);
    h->backing_off = st.backing_off;
    h->told = ptn_now(c);
    ptn_runtime_stop(ptn_ctx_runtime(c));
}
static int halt_init(ptn_ctx *c, void *state, void *arg) {
    struct halt *h = arg;
    (void)state;
    ptn_timer_start(c, &h->t, 2500 * PTN_MS, halt_now, h);
    return 0;
}
static const ptn_actor_ops halt_ops = {
    .name = "halt", .init = halt_init, .handle = exit_on_stopping};

Test(supervise, a_stop_does_not_wait_for_a_backoff) {
    for (unsigned nested = 0; nested <= 1; nested++) {
        const ptn_sup_opts o = {.backoff_min_ns = 3600 * PTN_SEC, .backoff_max_ns = 3600 * PTN_SEC};
        struct rig r;
        struct patient k = {.crashes = 60};
        struct ward w = {.opts = &o, .patient = &k};
        struct halt h = {0};
        rig_open(&r, 2);
        rig_spawn(&r, &halt_ops, &h, 0, PTN_PERMANENT);
        if (nested == 1)
            rig_spawn(&r, &ward_ops, &w, 0, PTN_PERMANENT);
        else
            rig_spawn(&r, &patient_ops, &k, 1, PTN_PERMANENT);
        cr_assert_eq(ptn_runtime_run(r.rt), 0);
        cr_expect_eq(h.backing_off, 1);
        cr_expect_lt(r.env->now - h.told, 100 * PTN_MS);
        cr_expect_eq(r.gave_up, 0);
        rig_close(&r);
    }
}

/* ---- the root ----------------------------------------------------------------------------- */

static int crash_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    (void)state;
    ++*(unsigned *)arg;
    return -PTN_EIO;
}
static const ptn_actor_ops crash_ops = {
    .name = "crash", .init = crash_init, .handle = exit_on_stopping};

Test(supervise, the_root_gives_up_and_the_runtime_says_so) {
    struct rig r;
    unsigned inits = 0;
    char who = 'x';
    rig_open(&r, 2);
    log_clear();
    rig_spawn(&r, &crash_ops, &inits, 1, PTN_PERMANENT);
    rig_spawn(&r, &kid_ops, &who, 0, PTN_PERMANENT);
    cr_expect_eq(ptn_runtime_run(r.rt), -PTN_ECRASHED);
    cr_expect_eq(inits, 11, "ten restarts");
    cr_expect_eq(r.gave_up, 1);
    expect_log("+x -x dx ");
    rig_close(&r);
}

/* ---- the mailbox across a restart --------------------------------------------------------- */

struct burst {
    ptn_addr to;
};
static int burst_init(ptn_ctx *c, void *state, void *arg) {
    const struct burst *b = arg;
    (void)state;
    cr_expect_eq(ptn_cast(c, b->to, MSG_COUNT, buf_u64(1)), 0);
    cr_expect_eq(ptn_cast(c, b->to, MSG_CRASH, buf_u64(2)), 0);
    cr_expect_eq(ptn_cast(c, b->to, MSG_COUNT, buf_u64(3)), 0);
    cr_expect_eq(ptn_cast(c, b->to, MSG_COUNT, buf_u64(4)), 0);
    cr_expect_eq(ptn_cast(c, b->to, MSG_STOP, NULL), 0);
    return 0;
}
static const ptn_actor_ops burst_ops = {
    .name = "burst", .init = burst_init, .handle = exit_on_stopping};

Test(supervise, the_mailbox_survives_and_the_poison_message_does_not) {
    struct rig r;
    char who = 'k';
    struct burst b;
    rig_open(&r, 2);
    log_clear();
    b.to = rig_spawn(&r, &kid_ops, &who, 1, PTN_PERMANENT);
    rig_spawn(&r, &burst_ops, &b, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    expect_log("+k .k dk +k .k .k ");
    cr_expect_eq(r.dead_letters, 1);
    struct ptn__dead_letter d;
    cr_assert_eq(ptn__dead_letters_copy(r.rt->workers[1], &d, 1), 1);
    cr_expect_eq(d.type, MSG_CRASH);
    cr_expect_eq(d.reason, PTN_ECRASHED);
    struct ptn__slot *s = ptn__slot_at(r.rt, b.to);
    cr_expect_eq(ptn__load(s), 0, "all room was given back");
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

/* ---- a poison request ------------------------------------------------------------------------ */

struct poisoner {
    ptn_addr to;
    int errs[3];
    unsigned n;
    ptn_time asked, answered;
};

static void poison_answered(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)state;
    (void)reply;
    struct poisoner *p = arg;
    p->errs[p->n++] = err;
    if (p->n == 1)
        p->answered = ptn_now(c);
    if (p->n == 2)
        ptn_runtime_stop(ptn_ctx_runtime(c));
}

static int poisoner_init(ptn_ctx *c, void *state, void *arg) {
    struct poisoner *p = arg;
    (void)state;
    p->asked = ptn_now(c);
    for (int i = 0; i < 2; i++)
        cr_expect_eq(ptn_ask(c, p->to, MSG_CRASH, buf_u64(7), p->asked + 10 * PTN_SEC,
                             poison_answered, p, NULL),
                     0);
    return 0;
}
static const ptn_actor_ops poisoner_ops = {
    .name = "poisoner", .init = poisoner_init, .handle = exit_on_stopping};

Test(supervise, a_poison_request_is_answered_and_not_delivered_again) {
    struct rig r;
    char who = 'k';
    struct poisoner p = {0};
    rig_open(&r, 2);
    log_clear();
    p.to = rig_spawn(&r, &kid_ops, &who, 1, PTN_PERMANENT);
    rig_spawn(&r, &poisoner_ops, &p, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(p.n, 2);
    cr_expect_eq(p.errs[0], -PTN_ECRASHED);
    cr_expect_eq(p.errs[1], -PTN_ECRASHED);
    cr_expect_lt(p.answered - p.asked, 5 * PTN_MS, "at once, not at the deadline");
    cr_expect_eq(r.crashes, 2, "one for each, and none for a second delivery");
    struct ptn__dead_letter d[3];
    cr_assert_eq(ptn__dead_letters_copy(r.rt->workers[1], d, 3), 2);
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(d[i].type, MSG_CRASH);
        cr_expect_eq(d[i].reason, PTN_ECRASHED);
        cr_expect_eq(d[i].to, p.to);
        cr_expect_eq(d[i].len, sizeof(uint64_t));
    }
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

/* ---- monitors ----------------------------------------------------------------------------- */

struct watcher {
    ptn_addr target;
    uint64_t ref[3];
    unsigned downs, downs_of[3];
    bool over;
    int no_entry, none;
    ptn_timer t;
};

static void watcher_end(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)t;
    (void)arg;
    (*(struct watcher **)state)->over = true; /* the shutdown ends everybody */
    ptn_runtime_stop(ptn_ctx_runtime(c));
}

static int watcher_init(ptn_ctx *c, void *state, void *arg) {
    struct watcher *w = arg;
    *(void **)state = arg;
    cr_expect_eq(ptn_monitor(c, w->target, &w->ref[0]), 0);
    cr_expect_eq(ptn_monitor(c, w->target, &w->ref[1]), 0);
    cr_expect_eq(ptn_demonitor(c, w->ref[1]), 0);
    w->no_entry = ptn_demonitor(c, w->ref[1]);
    cr_expect_eq(ptn_monitor(c, w->target + 2, &w->ref[2]), 0, "gone already: DOWN comes at once");
    w->none = ptn_monitor(c, PTN_ADDR_NONE, NULL);
    cr_expect_eq(ptn_cast(c, w->target, MSG_CRASH, NULL), 0);
    ptn_timer_start(c, &w->t, 50 * PTN_MS, watcher_end, NULL);
    return 0;
}

static int watcher_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct watcher *w = *(struct watcher **)state;
    if (m->type == PTN_MSG_DOWN && !w->over) {
        w->downs++;
        for (int i = 0; i < 3; i++)
            w->downs_of[i] += m->corr == w->ref[i];
    }
    return exit_on_stopping(c, state, m);
}
static const ptn_actor_ops watcher_ops = {.name = "watcher",
                                          .state_size = sizeof(void *),
                                          .init = watcher_init,
                                          .handle = watcher_handle};

static void check_monitors(unsigned workers, enum ptn_restart restart, unsigned downs) {
    struct rig r;
    char who = 'm';
    struct watcher w = {0};
    rig_open(&r, workers);
    rig_spawn(&r, &watcher_ops, &w, (int)workers - 1, PTN_PERMANENT);
    w.target = rig_spawn(&r, &kid_ops, &who, 0, restart);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(w.downs_of[0], downs);
    cr_expect_eq(w.downs_of[1], 0, "none after demonitor");
    cr_expect_eq(w.downs_of[2], 1);
    cr_expect_eq(w.no_entry, -PTN_ENOTFOUND);
    cr_expect_eq(w.none, -PTN_EINVAL);
    rig_close(&r);
}

Test(supervise, down_comes_exactly_once) {
    check_monitors(1, PTN_TEMPORARY, 1);
    check_monitors(2, PTN_TEMPORARY, 1);
}

Test(supervise, a_restart_is_not_the_end) {
    check_monitors(2, PTN_PERMANENT, 0);
}

/* It ends on worker 0, and in the next turn of worker 1, before its last words are taken there, a
 * timer asks about it. */
struct mourner {
    ptn_addr self, target;
    ptn_timer t;
    char heard[8];
};

static void speak_and_exit(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    cr_expect_eq(ptn_cast(c, ((const struct mourner *)arg)->self, MSG_COUNT, NULL), 0);
    ptn_exit(c, 0);
}

static int speaker_init(ptn_ctx *c, void *state, void *arg) {
    ptn_timer_start(c, state, PTN_MS, speak_and_exit, arg);
    return 0;
}

static const ptn_actor_ops speaker_ops = {.name = "speaker",
                                          .state_size = sizeof(ptn_timer),
                                          .init = speaker_init,
                                          .handle = exit_on_stopping};

static void mourner_asks(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    const struct mourner *w = arg;
    (void)state;
    (void)t;
    cr_expect_eq(ptn_cast(c, w->target, MSG_COUNT, NULL), -PTN_ENOACTOR, "it has ended");
    cr_expect_eq(ptn_monitor(c, w->target, NULL), 0);
}

static int mourner_init(ptn_ctx *c, void *state, void *arg) {
    struct mourner *w = arg;
    *(void **)state = arg;
    w->self = ptn_self(c);
    ptn_timer_start(c, &w->t, PTN_MS, mourner_asks, arg);
    return ptn_spawn(c, &speaker_ops, &(ptn_actor_opts){.worker = 0}, arg, &w->target);
}

static int mourner_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct mourner *w = *(struct mourner **)state;
    if (m->type == MSG_COUNT || m->type == PTN_MSG_DOWN)
        w->heard[strlen(w->heard)] = m->type == MSG_COUNT ? 'w' : 'd';
    if (m->type == PTN_MSG_DOWN)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    return exit_on_stopping(c, state, m);
}

static const ptn_actor_ops mourner_ops = {.name = "mourner",
                                          .state_size = sizeof(void *),
                                          .init = mourner_init,
                                          .handle = mourner_handle};

Test(supervise, down_of_who_is_gone_comes_behind_its_last_words) {
    struct rig r;
    struct mourner w = {0};
    rig_open(&r, 2);
    rig_spawn(&r, &mourner_ops, &w, 1, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_str_eq(w.heard, "wd");
    rig_close(&r);
}

/* ---- resources ---------------------------------------------------------------------------- */

struct res {
    struct ptn__resource r;
    int closed, with_ctx, reason;
};
static struct res resources[2];

static void res_close(struct ptn__resource *r, ptn_ctx *c, int reason) {
    struct res *x = (struct res *)r;
    x->closed++;
    x->with_ctx = c != NULL;
    x->reason = reason;
}

static int res_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    struct res *x = arg;
    x->r.close = res_close;
    ptn__resource_add(c, &x->r);
    return 0;
}
static int res_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    return kid_handle(c, state, m);
}
static const ptn_actor_ops res_ops = {
    .name = "res", .state_size = sizeof(struct kid), .init = res_init, .handle = res_handle};

static int poker_init(ptn_ctx *c, void *state, void *arg) {
    const ptn_addr *a = arg;
    (void)state;
    cr_expect_eq(ptn_cast(c, a[0], MSG_CRASH, NULL), 0);
    cr_expect_eq(ptn_cast(c, a[1], MSG_EXIT, NULL), 0);
    cr_expect_eq(ptn_cast(c, a[1], MSG_STOP, NULL), 0);
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static const ptn_actor_ops poker_ops = {
    .name = "poker", .init = poker_init, .handle = exit_on_stopping};

Test(supervise, resources_are_closed_with_a_context_only_in_order) {
    struct rig r;
    ptn_addr a[2];
    rig_open(&r, 1);
    for (int i = 0; i < 2; i++)
        a[i] = rig_spawn(&r, &res_ops, &resources[i], 0, PTN_TEMPORARY);
    rig_spawn(&r, &poker_ops, a, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(resources[0].closed, 1);
    cr_expect_eq(resources[0].with_ctx, 0);
    cr_expect_eq(resources[0].reason, PTN_EIO);
    cr_expect_eq(resources[1].closed, 1);
    cr_expect_eq(resources[1].with_ctx, 1);
    cr_expect_eq(resources[1].reason, 7);
    rig_close(&r);
}
