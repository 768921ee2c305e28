/* SPDX-License-Identifier: Apache-2.0
 *
 * dispatch.c - the run loop: one batch of one actor after the other; pop, check, hand to the
 * handler, account.
 *
 * One setjmp covers all actors of a turn, so the protection costs nothing per message.  All that a
 * longjmp must find again lives in the context and in the worker, not in local variables.
 */
#include "runtime/mbox.h"

#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))

#define TURN_MSGS 4096u
#define ACTOR_MSGS 64u
/* A prime: two actors that take turns are both seen. */
#define SAMPLE_EVERY_MSGS 61u

/* A message whose receiver is gone.  Consumes buf. */
void ptn__stray(struct ptn__slot *s, const struct ptn__env *e, ptn_buf *buf) {
    struct ptn__worker *w = s->worker;
    switch ((enum ptn__env_kind)e->kind) {
    case PTN__ENV_CAST:
    case PTN__ENV_REQUEST:
        ptn__dead_letter(w, e, ptn__payload_len(buf), PTN_ENOACTOR, NULL);
        if (e->kind == PTN__ENV_REQUEST)
            ptn__answer_err(w, e->to, e->from, e->corr, -PTN_ENOACTOR);
        break;
    case PTN__ENV_REPLY:
        ptn__count(&w->late_replies, 1);
        break;
    case PTN__ENV_CONTROL:
        if (e->type == PTN__CTL_MONITOR)
            ptn__send_down(w, e->from, e->to, e->corr);
        break;
    case PTN__ENV_SYSTEM:
        break; /* news for somebody who has left */
    }
    ptn_buf_unref(buf);
}

/* The actor has no incarnation now: the message waits, and its share of the load stays. */
static void hold(ptn_ctx *c, struct ptn__env *e) {
    struct ptn__cold *k = c->slot->cold;
    PTN_ASSERT(k != &ptn__cold_none); /* only a supervisor lets an actor wait */
    e->next = NULL;
    if (k->held_head != NULL)
        k->held_tail->next = e;
    else
        k->held_head = e;
    k->held_tail = e;
}

/* Ends the batch when the turn is over. */
static ptn_time clock_read(ptn_ctx *c) {
    struct ptn__worker *w = c->w;
    w->clock = w->env->ops->now(w->env);
    if (w->clock >= w->turn_until)
        c->batch_end = 0;
    return w->clock;
}

/* One message of a worker in 61 is measured: how long it waited, and how long the handler took.
 * That is when the clock is read. */
static __attribute__((noinline)) int handle_sampled(ptn_ctx *c, const struct ptn__env *e,
                                                    const ptn_msg *m) {
    struct ptn__slot *s = c->slot;
    c->w->sample_in = SAMPLE_EVERY_MSGS;
    ptn_time t0 = clock_read(c);
    uint32_t wait_us = (uint32_t)(t0 >> 10) - e->enq_us;
    bool counts = e->kind <= PTN__ENV_REQUEST && wait_us < INT32_MAX;
    int rc = s->ops->handle(c, s->state, m);
    ptn_time took = clock_read(c) - t0;
    if (counts) {
        ptn_histogram_add(&c->w->waits[s->wait_index].cells, (uint64_t)wait_us << 10);
        ptn__count(&s->busy_ns_sum, took);
    }
    return rc;
}

/* On a crash ptn__actor_crash() settles c->cur and c->cur_buf. */
INLINE void handle(ptn_ctx *c, struct ptn__slot *s, struct ptn__env *e, ptn_buf *buf) {
    ptn_msg m = {.from = e->from, .type = e->type, .corr = e->corr, .deadline = e->deadline};
    if (buf != NULL && buf->len > 0) {
        m.data = buf->data;
        m.len = buf->len;
        m.buf = buf;
    }
    c->cur_buf = buf;
    c->cur = e;
    c->answered = false;
    c->deadline = e->deadline;
    s->in_call = true;
    ptn__count(&s->handled, 1);
    bool crash = e->type >= PTN_MSG_USER && PTN_BUGGIFY_CRASH("handler.crash");
    if (crash && PTN_BUGGIFY("handler.crash.before"))
        ptn_fail(c, PTN_ECANCELED, "buggify: before the handler");
    (void)PTN_BUGGIFY_STALL("handler.slow");
    int rc = PTN_UNLIKELY(--c->w->sample_in == 0) ? handle_sampled(c, e, &m)
                                                  : s->ops->handle(c, s->state, &m);
    if (PTN_UNLIKELY(rc < 0))
        ptn_fail(c, -rc, "handle returned %s", ptn_err_name(rc));
    if (crash)
        ptn_fail(c, PTN_ECANCELED, "buggify: behind the handler");
    c->cur = NULL;
    if (c->cur_buf != NULL)
        c->cur_buf = ptn_buf_unref(c->cur_buf);
    s->in_call = false;
    if (PTN_UNLIKELY(s->exiting))
        ptn__actor_exit(s);
}

static void control(ptn_ctx *c, struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    switch ((enum ptn__control)e->type) {
    case PTN__CTL_ADOPT:
        break; /* ptn__actor_arrive() has dealt with it */
    case PTN__CTL_INIT:
        if (s->life == PTN__HELD)
            (void)ptn__actor_init(s, s->cold->sup != PTN_ADDR_NONE ? s->cold->spawn_arg
                                                                   : (void *)(uintptr_t)e->corr);
        break;
    case PTN__CTL_HOLD:
        ptn__actor_hold(s);
        break;
    case PTN__CTL_STOPPING:
        if (s->life != PTN__RUNNING || s->incarnation != (uint32_t)e->err)
            break; /* meant for one that is gone */
        e->kind = PTN__ENV_SYSTEM;
        e->type = PTN_MSG_STOPPING;
        e->deadline = e->corr;
        e->corr = 0;
        handle(c, s, e, NULL);
        break;
    case PTN__CTL_END:
        ptn__actor_end(s, e->err);
        break;
    case PTN__CTL_MONITOR:
        ptn__monitor_add(s, e->from, e->corr, e->err != 0);
        break;
    case PTN__CTL_DEMONITOR:
        ptn__monitor_remove(s, e->from, e->corr);
        break;
    case PTN__CTL_LINK_DOWN:
        if (s->life == PTN__RUNNING)
            ptn_fail(c, e->err, "a supervisor of this actor gave up");
        break;
    case PTN__CTL_CHILD_UP:
    case PTN__CTL_CHILD_CRASHED:
    case PTN__CTL_CHILD_EXITED:
    case PTN__CTL_CHILD_HELD:
        if (s->ops == &ptn__sup_ops && s->life == PTN__RUNNING)
            ptn__sup_control(c, e);
        break;
    }
}

/* News of a monitored actor: does anybody still want it?  Everything else: yes. */
static bool is_watched_for(struct ptn__slot *s, const struct ptn__env *e) {
    if (e->type == PTN_MSG_DOWN)
        return ptn__map_take(&s->cold->watches, e->corr) != NULL;
    if (e->type == PTN_MSG_PRESSURE || e->type == PTN_MSG_RELIEF)
        return ptn__map_get(&s->cold->watches, e->corr) != NULL;
    return true;
}

static inline void unload(ptn_ctx *c, struct ptn__slot *s, const struct ptn__env *e, size_t len) {
    if (PTN_UNLIKELY(e->far))
        c->far_done += PTN__LOAD_ONE + len;
    else
        ptn__near_load(s, -(PTN__LOAD_ONE + len));
}

/* False: it is too late for this request, or too much, and it was answered so. */
static bool request_is_wanted(ptn_ctx *c, const struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    struct ptn__worker *w = c->w;
    if (PTN_UNLIKELY(e->deadline <= w->now)) {
        ptn__count(&w->deadline_expired, 1);
        ptn_count(PTN_C_DEADLINE_EXPIRED, 1);
        ptn__answer_err(w, s->self, e->from, e->corr, -PTN_EDEADLINE);
        return false;
    }
    return !(PTN_UNLIKELY(s->sheds) && ptn__request_shed(c, e));
}

/* A cast or a request, for an actor that runs. */
INLINE void deliver(ptn_ctx *c, struct ptn__slot *s, struct ptn__env *e) {
    ptn_buf *buf = e->buf;
    unload(c, s, e, ptn__payload_len(buf));
    if (PTN_LIKELY(e->kind == PTN__ENV_CAST || request_is_wanted(c, e)))
        handle(c, s, e, buf);
    else
        ptn_buf_unref(buf);
}

static void deliver_reply(ptn_ctx *c, struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    c->answered = false;
    c->cur_buf = e->buf;
    s->in_call = true;
    ptn__ask_reply(c, e, e->buf);
    c->cur_buf = ptn_buf_unref(c->cur_buf);
    s->in_call = false;
    if (PTN_UNLIKELY(s->exiting))
        ptn__actor_exit(s);
}

/* All the rest.  True: the envelope is free again. */
static __attribute__((noinline)) bool deliver_other(ptn_ctx *c, struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    c->env = e;
    c->deadline = PTN_NEVER;
    if (PTN_UNLIKELY(--c->w->sample_in == 0)) {
        c->w->sample_in = SAMPLE_EVERY_MSGS;
        clock_read(c);
    }
    if (e->to != s->self) {
        if (e->kind <= PTN__ENV_REQUEST)
            unload(c, s, e, ptn__payload_len(e->buf));
        ptn__stray(s, e, e->buf);
    } else if (e->kind == PTN__ENV_CONTROL) {
        control(c, e);
    } else if (s->life != PTN__RUNNING) {
        c->env = NULL;
        hold(c, e);
        return false;
    } else if (e->kind == PTN__ENV_REPLY) {
        deliver_reply(c, e);
    } else if (is_watched_for(s, e)) { /* else ptn_demonitor() came first */
        handle(c, s, e, e->buf);
    }
    c->env = NULL;
    return true;
}

/* Takes what is in the inbox now, but at most ACTOR_MSGS messages: who sends to itself lets the
 * others run first. */
static void run_batch(ptn_ctx *c) {
    struct ptn__slot *s = c->slot;
    struct ptn__worker *w = c->w;
    struct ptn__env *e, *last = ptn__inbox_last(s);
    c->batch_end = c->n + ACTOR_MSGS;
    do {
        e = ptn__inbox_pop(s);
        c->n++;
        if (PTN_LIKELY(e->kind <= PTN__ENV_REQUEST && e->to == s->self && s->life == PTN__RUNNING))
            deliver(c, s, e);
        else if (!deliver_other(c, e))
            continue;
        ptn__env_put(w->rt, &w->mag, e);
    } while (e != last && c->n < c->batch_end && !PTN_BUGGIFY("batch.cut"));
}

/* After a batch, whichever way it ended. */
static inline void batch_end(ptn_ctx *c) {
    struct ptn__slot *s = c->slot;
    struct ptn__worker *w = c->w;
    if (PTN_UNLIKELY(s->far)) { /* relaxed, both: counters of the senders in send.c */
        if (c->far_done != 0)
            atomic_fetch_sub_explicit(&s->far_load, c->far_done, memory_order_relaxed);
        atomic_store_explicit(&s->near_seen,
                              atomic_load_explicit(&s->near_load, memory_order_relaxed),
                              memory_order_relaxed);
        c->far_done = 0;
    }
    if (PTN_UNLIKELY(s->watched))
        ptn__pressure_look(s);
    s->queued = false;
    if (s->inbox != NULL)
        ptn__runq_push(w, s);
    else if (PTN_UNLIKELY(s->life == PTN__DEAD))
        ptn__slot_release(s);
    if (PTN_UNLIKELY(w->posts_waiting != 0))
        ptn__posts_flush(w);
}

/* Not part of the function that calls setjmp, where nothing may stay in a register. */
static __attribute__((noinline)) void run_loop(ptn_ctx *c) {
    struct ptn__worker *w = c->w;
    while (w->runq != NULL && c->n < TURN_MSGS && w->clock < w->turn_until) {
        struct ptn__slot *s = w->runq;
        w->runq = s->run_next;
        if (w->runq == NULL)
            w->runq_end = &w->runq;
        c->slot = s; /* it stays queued, so that its own sends do not queue it again */
        if (PTN_LIKELY(s->inbox != NULL))
            run_batch(c);
        batch_end(c);
    }
}

/* The actor of this context failed: it is settled, and its batch is over. */
static void crashed(ptn_ctx *c) {
    struct ptn__worker *w = c->w;
    struct ptn__env *e = c->cur != NULL ? c->cur : c->env;
    c->slot->in_call = false;
    atomic_store_explicit(&w->ctx, c, memory_order_relaxed);
    ptn__actor_crash(c, c->fail_reason);
    c->env = NULL;
    if (e != NULL)
        ptn__env_put(w->rt, &w->mag, e);
    batch_end(c);
}

void ptn__actors_run(struct ptn__worker *w) {
    if (w->runq == NULL)
        return;
    ptn_ctx c;
    ptn__ctx_enter(&c, w, w->runq);
    w->call_depth++;
    if (_setjmp(c.jmp) != 0)
        crashed(&c);
    run_loop(&c);
    ptn__ctx_leave(&c);
    c.w->call_depth--;
    ptn__count(&c.w->messages, c.n);
}
