/* SPDX-License-Identifier: Apache-2.0
 *
 * ask_test.c - requests: answers, errors, deadlines, crashes, tokens, forwarding, cancelling,
 * bounds.
 *
 * One asker runs a list of scripted asks against one callee and records how each of them ended.
 */
#include "runtime/testing.h"

#include <criterion/criterion.h>

enum {
    MSG_ECHO = PTN_MSG_USER,
    MSG_ERROR,
    MSG_FAIL,       /* handler returns an error */
    MSG_FAIL_LATER, /* takes a token, then crashes on the next message */
    MSG_SILENT,     /* takes a token and never answers */
    MSG_EXIT,
    MSG_FORWARD,
    MSG_FORWARD_CRASH, /* forwards, then crashes */
    MSG_REPLY_CRASH,   /* answers, then crashes */
    MSG_LATE,          /* answers after 50 ms */
    MSG_NESTED,        /* asks the helper, and reports the deadline it inherited */
    MSG_NESTED_NEWS,   /* the same, lasting */
};

#define MS(n) ((n)*PTN_MS)

struct script {
    ptn_addr callee, helper;
    uint32_t types[8];
    ptn_time deadlines_ms[8]; /* from now; 0: PTN_NEVER */
    unsigned n, done;
    int errs[8];
    uint64_t values[8];
    ptn_time at_ms[8]; /* when it ended, since the start */
    unsigned calls[8];
    ptn_time t0;
    bool cancel_first;
    bool through;
    unsigned linger_ms; /* before stopping */
    ptn_timer end;
};

struct step {
    struct script *s;
    unsigned i;
};
static struct step steps[8];

static void end_now(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    (void)arg;
    ptn_runtime_stop(ptn_ctx_runtime(c));
}

static void finish_one(ptn_ctx *c, struct script *s) {
    if (++s->done == s->n)
        ptn_timer_start(c, &s->end, MS(s->linger_ms), end_now, NULL);
}

static void answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    const struct step *k = arg;
    struct script *s = k->s;
    (void)state;
    cr_expect_eq(err == 0, m != NULL);
    s->errs[k->i] = err;
    s->values[k->i] = m != NULL ? msg_u64(m) : 0;
    s->at_ms[k->i] = (ptn_now(c) - s->t0) / PTN_MS;
    s->calls[k->i]++;
    finish_one(c, s);
}

static int asker_init(ptn_ctx *c, void *state, void *arg) {
    struct script *s = arg;
    (void)state;
    s->t0 = ptn_now(c);
    for (unsigned i = 0; i < s->n; i++) {
        ptn_time d = s->deadlines_ms[i] ? s->t0 + MS(s->deadlines_ms[i]) : PTN_NEVER;
        steps[i] = (struct step){s, i};
        uint64_t corr;
        ptn_buf *b = buf_u64(100 + i);
        int err = (s->through ? ptn_ask_through : ptn_ask)(c, s->callee, s->types[i], b, d,
                                                           answered, &steps[i], &corr);
        if (err < 0) {
            ptn_buf_unref(b);
            s->errs[i] = err;
            finish_one(c, s);
        } else if (s->cancel_first && i == 0) {
            cr_expect_eq(ptn_ask_cancel(c, corr), 0);
            cr_expect_eq(ptn_ask_cancel(c, corr), -PTN_ENOTFOUND);
            finish_one(c, s);
        }
    }
    return 0;
}

static int exit_on_stopping(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops asker_ops = {
    .name = "asker", .init = asker_init, .handle = exit_on_stopping};

struct callee {
    struct script *s;
    ptn_reply_to token, nested;
    ptn_timer t;
    bool armed;
};

static int callee_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    ((struct callee *)state)->s = arg;
    return 0;
}

static void echo(ptn_ctx *c, ptn_reply_to r, uint64_t v) {
    ptn_buf *b = buf_u64(v);
    if (ptn_reply(c, r, MSG_ECHO, b) < 0)
        ptn_buf_unref(b);
}

static void answer_late(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct callee *k = state;
    (void)t;
    (void)arg;
    echo(c, k->token, 1);
}

static void nested_done(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct callee *k = state;
    (void)m;
    (void)arg;
    cr_expect_eq(ptn_reply_err(c, k->nested, err), 0);
}

static int callee_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct callee *k = state;
    if (k->armed)
        return -PTN_EIO;
    switch (m->type) {
    case MSG_ECHO:
        cr_expect_neq(m->corr, 0);
        echo(c, ptn_reply_token(c, m), msg_u64(m));
        break;
    case MSG_ERROR:
        cr_expect_eq(ptn_reply_err(c, ptn_reply_token(c, m), -PTN_EFULL), 0);
        break;
    case MSG_FAIL:
        return -PTN_EPROTO;
    case MSG_FAIL_LATER:
        k->token = ptn_reply_token(c, m);
        k->armed = true;
        break;
    case MSG_SILENT:
        (void)ptn_reply_token(c, m);
        break;
    case MSG_EXIT:
        ptn_exit(c, 0);
        break;
    case MSG_FORWARD_CRASH:
    case MSG_FORWARD:
        cr_expect_eq(ptn_forward(c, m, k->s->helper, MSG_ECHO), 0);
        if (m->type == MSG_FORWARD_CRASH)
            ptn_fail(c, PTN_EIO, "after %s", "forwarding");
        break;
    case MSG_REPLY_CRASH:
        echo(c, ptn_reply_token(c, m), msg_u64(m));
        return -PTN_EIO;
    case MSG_LATE:
        k->token = ptn_reply_token(c, m);
        ptn_timer_start(c, &k->t, MS(50), answer_late, NULL);
        break;
    case MSG_NESTED:
    case MSG_NESTED_NEWS:
        k->nested = ptn_reply_token(c, m);
        cr_expect_eq((m->type == MSG_NESTED ? ptn_ask : ptn_ask_lasting)(
                         c, k->s->helper, MSG_SILENT, NULL, PTN_NEVER, nested_done, NULL, NULL),
                     0);
        break;
    default:
        return exit_on_stopping(c, state, m);
    }
    return 0;
}

static const ptn_actor_ops callee_ops = {.name = "callee",
                                         .state_size = sizeof(struct callee),
                                         .init = callee_init,
                                         .handle = callee_handle};

static void run_script(struct rig *r, struct script *s, unsigned workers) {
    rig_open(r, workers);
    int far = (int)workers - 1;
    rig_spawn(r, &asker_ops, s, 0, PTN_PERMANENT);
    s->callee = rig_spawn(r, &callee_ops, s, far, PTN_PERMANENT);
    s->helper = rig_spawn(r, &callee_ops, s, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r->rt), 0);
    for (unsigned i = 0; i < s->n; i++)
        cr_expect_leq(s->calls[i], 1, "exactly one call ends an ask");
}

static ptn_worker_stats stats_of(struct rig *r, unsigned w) {
    ptn_worker_stats st;
    ptn_worker_stats_read(r->rt, w, &st);
    return st;
}

static void check_answers(unsigned workers) {
    struct rig r;
    struct script s = {.n = 3, .types = {MSG_ECHO, MSG_ERROR, MSG_FORWARD}};
    run_script(&r, &s, workers);
    cr_expect_eq(s.errs[0], 0);
    cr_expect_eq(s.values[0], 100);
    cr_expect_eq(s.errs[1], -PTN_EFULL);
    cr_expect_eq(s.errs[2], 0);
    cr_expect_eq(s.values[2], 102, "the helper answers the asker");
    cr_expect_eq(r.crashes, 0);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

Test(ask, answers_errors_and_forwards) {
    check_answers(1);
}

Test(ask, answers_errors_and_forwards_across_workers) {
    check_answers(2);
}

Test(ask, the_crash_of_the_handler_answers_at_once) {
    struct rig r;
    struct script s = {.n = 2, .types = {MSG_FAIL, MSG_ECHO}};
    run_script(&r, &s, 2);
    cr_expect_eq(s.errs[0], -PTN_ECRASHED);
    cr_expect_eq(s.errs[1], 0, "the mailbox survives the restart");
    cr_expect_eq(s.values[1], 101);
    cr_expect_eq(r.crashes, 1);
    cr_expect_eq(r.restarts, 1);
    cr_expect_eq(r.dead_letters, 1, "the poison message");
    cr_expect_eq(r.last_reason, PTN_EPROTO);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

Test(ask, a_crash_answers_registered_tokens) {
    struct rig r;
    struct script s = {.n = 2, .types = {MSG_FAIL_LATER, MSG_ECHO}};
    run_script(&r, &s, 1);
    cr_expect_eq(s.errs[0], -PTN_ECRASHED);
    cr_expect_eq(s.errs[1], -PTN_ECRASHED);
    cr_expect_eq(s.at_ms[0], 0);
    rig_close(&r);
}

Test(ask, a_crash_after_forwarding_or_answering_does_not_answer_again) {
    struct rig r;
    struct script s = {.n = 2, .types = {MSG_FORWARD_CRASH, MSG_REPLY_CRASH}, .linger_ms = 10};
    run_script(&r, &s, 1);
    cr_expect_eq(s.errs[0], 0);
    cr_expect_eq(s.errs[1], 0);
    cr_expect_eq(r.crashes, 2);
    cr_expect_eq(stats_of(&r, 0).late_replies, 0);
    cr_expect_str_eq(r.last_text, "handle returned EIO");
    rig_close(&r);
}

Test(ask, the_deadline_ends_an_ask_and_the_late_reply_is_dropped) {
    struct rig r;
    struct script s = {
        .n = 2, .types = {MSG_SILENT, MSG_LATE}, .deadlines_ms = {30, 40}, .linger_ms = 100};
    run_script(&r, &s, 1);
    cr_expect_eq(s.errs[0], -PTN_EDEADLINE);
    cr_expect_eq(s.at_ms[0], 30);
    cr_expect_eq(s.errs[1], -PTN_EDEADLINE);
    cr_expect_eq(s.at_ms[1], 40);
    cr_expect_eq(stats_of(&r, 0).late_replies, 1);
    cr_expect_eq(r.dead_letters, 0);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

Test(ask, never_means_thirty_seconds) {
    struct rig r;
    struct script s = {.n = 1, .types = {MSG_SILENT}};
    run_script(&r, &s, 1);
    cr_expect_eq(s.errs[0], -PTN_EDEADLINE);
    cr_expect_eq(s.at_ms[0], 30000);
    rig_close(&r);
}

Test(ask, nested_asks_inherit_the_earlier_deadline) {
    struct rig r;
    struct script s = {.n = 1, .types = {MSG_NESTED}, .deadlines_ms = {70}, .linger_ms = 10};
    run_script(&r, &s, 2);
    cr_expect_eq(s.errs[0], -PTN_EDEADLINE);
    cr_expect_eq(s.at_ms[0], 70);
    cr_expect_eq(stats_of(&r, 0).late_replies, 1, "the callee's own answer came at the same time");
    rig_close(&r);
}

Test(ask, news_wait_for_their_own_deadline) {
    struct rig r;
    struct script s = {
        .n = 1, .types = {MSG_NESTED_NEWS}, .deadlines_ms = {70}, .linger_ms = 30000};
    run_script(&r, &s, 2);
    cr_expect_eq(s.errs[0], -PTN_EDEADLINE);
    cr_expect_eq(s.at_ms[0], 70);
    cr_expect_eq(stats_of(&r, 0).late_replies, 1, "the callee's own answer came after 30 s");
    rig_close(&r);
}

Test(ask, a_change_is_followed_to_its_end) {
    struct rig r;
    struct script s = {
        .n = 2, .types = {MSG_SILENT, MSG_LATE}, .deadlines_ms = {30, 40}, .through = true};
    run_script(&r, &s, 2);
    cr_expect_eq(s.errs[0], -PTN_ECRASHED, "it has begun, and nobody knows");
    cr_expect_eq(s.at_ms[0], 30030);
    cr_expect_eq(s.errs[1], 0, "it was late");
    cr_expect_eq(s.at_ms[1], 50);
    cr_expect_eq(stats_of(&r, 0).late_replies, 0);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

static void check_expired(bool through) {
    struct rig r;
    struct script s = {.n = 1, .types = {MSG_FAIL}, .deadlines_ms = {0}, .through = through};
    rig_open(&r, 1);
    rig_spawn(&r, &asker_ops, &s, 0, PTN_PERMANENT);
    s.callee = rig_spawn(&r, &callee_ops, &s, 0, PTN_PERMANENT);
    s.t0 = r.env->now;
    s.deadlines_ms[0] = (ptn_time)0 - s.t0 / PTN_MS; /* absolute 0: long past */
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(s.errs[0], -PTN_EDEADLINE);
    cr_expect_eq(r.crashes, 0, "the handler did not see it");
    cr_expect_eq(stats_of(&r, 0).deadline_expired, 1);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

Test(ask, an_expired_request_is_not_handled) {
    check_expired(false);
}

Test(ask, an_expired_change_is_not_begun) {
    check_expired(true);
}

Test(ask, a_cancelled_ask_never_calls_back) {
    struct rig r;
    struct script s = {
        .n = 2, .types = {MSG_ECHO, MSG_ECHO}, .cancel_first = true, .linger_ms = 10};
    run_script(&r, &s, 2);
    cr_expect_eq(s.calls[0], 0);
    cr_expect_eq(s.calls[1], 1);
    cr_expect_eq(stats_of(&r, 0).late_replies, 1);
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

Test(ask, the_end_of_the_callee_ends_what_it_owes) {
    struct rig r;
    struct script s = {.n = 3, .types = {MSG_SILENT, MSG_EXIT, MSG_ECHO}};
    rig_open(&r, 1);
    rig_spawn(&r, &asker_ops, &s, 0, PTN_PERMANENT);
    s.callee = rig_spawn(&r, &callee_ops, &s, 0, PTN_TEMPORARY);
    s.deadlines_ms[1] = 5;
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(s.errs[0], -PTN_ESTOPPING, "a token it held");
    cr_expect_eq(s.errs[1], -PTN_EDEADLINE, "it forgot this one, and nobody can know");
    cr_expect_eq(s.errs[2], -PTN_ENOACTOR, "behind its end in the mailbox");
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

Test(ask, asking_nobody_fails_at_once) {
    struct rig r;
    struct script s = {.n = 1, .types = {MSG_ECHO}, .callee = 77};
    rig_open(&r, 1);
    rig_spawn(&r, &asker_ops, &s, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(s.errs[0], -PTN_ENOACTOR);
    cr_expect_eq(s.calls[0], 0, "the caller knows already");
    rig_close(&r);
    cr_expect_eq(buf_live(), 0);
}

/* ---- bounds and the asker's own end --------------------------------------------------------- */

struct greedy {
    ptn_addr callee;
    unsigned accepted, ended, stopping;
    int err;
};

static void greedy_end(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct greedy *g = arg;
    (void)state;
    (void)m;
    g->ended++;
    g->stopping += err == -PTN_ESTOPPING;
    if (err == -PTN_ESTOPPING) /* an ending actor cannot ask again */
        cr_expect_eq(ptn_ask(c, g->callee, MSG_SILENT, NULL, PTN_NEVER, greedy_end, g, NULL),
                     -PTN_ESTOPPING);
}

static int greedy_init(ptn_ctx *c, void *state, void *arg) {
    struct greedy *g = arg;
    (void)state;
    while ((g->err = ptn_ask(c, g->callee, MSG_SILENT, NULL, PTN_NEVER, greedy_end, g, NULL)) == 0)
        g->accepted++;
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}
static const ptn_actor_ops greedy_ops = {
    .name = "greedy", .init = greedy_init, .handle = exit_on_stopping};

Test(ask, outstanding_asks_are_bounded_and_end_with_their_asker) {
    struct rig r;
    rig_open(&r, 1);
    struct greedy g = {0};
    struct script s = {0};
    ptn_actor_opts o = {.mbox_msgs_max = 20};
    cr_assert_eq(ptn_runtime_spawn(r.rt, &greedy_ops, &o, &g, PTN_PERMANENT, NULL), 0);
    g.callee = rig_spawn(&r, &callee_ops, &s, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(r.rt), 0);
    cr_expect_eq(g.accepted, 20);
    cr_expect_eq(g.err, -PTN_EOVERLOAD);
    cr_expect_eq(g.ended, 20, "each of them ended once");
    cr_expect_eq(g.stopping, 20);
    rig_close(&r);
}
