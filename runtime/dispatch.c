/* SPDX-License-Identifier: Apache-2.0
 *
 * dispatch.c - the run loop: one batch of one actor after the other; check, hand to the handler,
 * account.
 *
 * Per message there is no more than finding out that it is an ordinary one and calling the handler.
 * Room, counters and envelopes are settled once per batch, clock and bounds are looked at once in
 * 61 messages.
 *
 * One setjmp covers all actors of a turn, so the protection costs nothing per message.  All that a
 * longjmp must find again lives in the context and in the worker, not in local variables.
 */
#include "runtime/mbox.h"

#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))

#define TURN_MSGS 4096u
/* A prime: two actors that take turns are both seen. */
#define SAMPLE_EVERY 61u

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

/* The turn may be over then. */
static ptn_time clock_read(ptn_ctx *c) {
    struct ptn__worker *w = c->w;
    w->clock = w->env->ops->now(w->env);
    if (w->clock >= w->turn_until || c->n - w->sample_in >= TURN_MSGS)
        c->turn_over = w->after_batch = true;
    return w->clock;
}

/* One message of a worker in 61 is where everything is looked at that need not be looked at more
 * often: the clock and the bounds of the turn; and a batch ends there. */
static ptn_time tick(ptn_ctx *c, struct ptn__env *e) {
    c->w->sample_in = SAMPLE_EVERY;
    c->mark += SAMPLE_EVERY;
    c->n += SAMPLE_EVERY;
    c->last = e;
    return clock_read(c);
}

/* This message is measured: how long it waited, and how long the handler takes. */
static __attribute__((noinline)) int handle_sampled(ptn_ctx *c, struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    ptn_time t0 = tick(c, e);
    uint32_t wait_us = (uint32_t)(t0 >> 10) - e->enq_us;
    bool counts = e->kind <= PTN__ENV_REQUEST && wait_us < INT32_MAX;
    int rc = s->ops->handle(c, s->state, &c->msg);
    ptn_time took = clock_read(c) - t0;
    if (counts) {
        ptn_histogram_add(&c->w->waits[s->wait_index].cells, (uint64_t)wait_us << 10);
        ptn__count(&s->busy_ns_sum, took);
    }
    return rc;
}

/* Hands e to the handler, by c->msg, whose other members the caller has set.  On a crash crashed()
 * settles it. */
INLINE void call(ptn_ctx *c, struct ptn__worker *w, struct ptn__slot *s, struct ptn__env *e,
                 bool counts) {
    c->msg.from = e->from;
    c->msg.type = e->type;
    bool sampled = counts && PTN_UNLIKELY(--w->sample_in == 0);
    c->cur = e;
    bool crash = e->type >= PTN_MSG_USER && PTN_BUGGIFY_CRASH("handler.crash");
    if (crash && PTN_BUGGIFY("handler.crash.before"))
        ptn_fail(c, PTN_ECANCELED, "buggify: before the handler");
    (void)PTN_BUGGIFY_STALL("handler.slow");
    int rc = PTN_UNLIKELY(sampled) ? handle_sampled(c, e) : s->ops->handle(c, s->state, &c->msg);
    if (PTN_UNLIKELY(rc < 0))
        ptn_fail(c, -rc, "handle returned %s", ptn_err_name(rc));
    if (crash)
        ptn_fail(c, PTN_ECANCELED, "buggify: behind the handler");
}

/* c->msg between messages: what casts without a payload have in common. */
static void msg_reset(ptn_ctx *c) {
    c->msg = (ptn_msg){.deadline = PTN_NEVER};
    c->deadline = PTN_NEVER;
}

/* A message that is more than its sender and its type. */
INLINE void handle(ptn_ctx *c, struct ptn__env *e, bool counts) {
    if (e->kind != PTN__ENV_CAST) {
        c->msg.corr = e->corr;
        c->msg.deadline = c->deadline = e->deadline;
        c->answered = false;
    }
    if (ptn__payload_len(e->buf) > 0) {
        c->msg.data = e->buf->data;
        c->msg.len = e->buf->len;
        c->msg.buf = e->buf;
    }
    call(c, c->w, c->slot, e, counts);
    e->buf = ptn_buf_unref(e->buf);
    msg_reset(c);
}

/* From the runtime, for the handler. */
static void handle_system(ptn_ctx *c, struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    s->in_call = true;
    handle(c, e, /* counts= */ false);
    ptn__count(&s->handled, 1);
    c->cur = NULL;
    s->in_call = false;
    if (PTN_UNLIKELY(s->notes & PTN__NOTE_EXITING))
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
        handle_system(c, e);
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

static void deliver_reply(ptn_ctx *c, struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    s->in_call = true;
    ptn__ask_reply(c, e, e->buf);
    c->deadline = PTN_NEVER;
    e->buf = ptn_buf_unref(e->buf);
    s->in_call = false;
    if (PTN_UNLIKELY(s->notes & PTN__NOTE_EXITING))
        ptn__actor_exit(s);
}

/* ---- batches ------------------------------------------------------------------------------ */

/* A batch of an actor that other threads send to.  Their envelopes go back in the order in which
 * they came, apart from those of its own worker. */
static __attribute__((noinline)) void put_each(struct ptn__worker *w, struct ptn__env *e,
                                               uint32_t n) {
    for (struct ptn__env *next; n > 0; n--, e = next) {
        next = e->next;
        ptn__env_put(w->rt, e->far ? &w->back_mag : &w->mag, e);
    }
}

/* Takes e out of the inbox, and everything before it, which has been handled. */
INLINE void batch_commit(ptn_ctx *c, struct ptn__worker *w, struct ptn__slot *s,
                         struct ptn__env *e) {
    uint32_t n = c->mark - w->sample_in, handled = n;
    c->mark = w->sample_in;
    uint64_t done = (uint64_t)n << 40;
    struct ptn__env *first = ptn__inbox_pop(s, e);
    if (PTN_UNLIKELY(s->notes & PTN__NOTE_ODD)) {
        done += c->near_done;
        handled -= c->unhandled;
        c->near_done = 0;
        c->unhandled = 0;
        s->notes &= (uint8_t)~PTN__NOTE_ODD;
        put_each(w, first, n);
    } else {
        ptn__env_put_list(w->rt, &w->mag, first, e, n);
    }
    ptn__near_add(s, -done);
    ptn__count(&s->handled, handled);
}

/* A cast with a payload or from another thread, or a request.  False: it is something else. */
static __attribute__((noinline)) bool deliver(ptn_ctx *c, struct ptn__env *e) {
    if (PTN_UNLIKELY(e->kind > PTN__ENV_REQUEST || e->to != c->slot->self))
        return false;
    size_t len = ptn__payload_len(e->buf);
    c->slot->notes |= PTN__NOTE_ODD;
    if (e->far) {
        c->far_done += PTN__LOAD_ONE + len;
        c->near_done -= PTN__LOAD_ONE;
    } else {
        c->near_done += len;
    }
    if (PTN_LIKELY(e->kind == PTN__ENV_CAST || request_is_wanted(c, e))) {
        handle(c, e, /* counts= */ true);
        return true;
    }
    c->unhandled++;
    e->buf = ptn_buf_unref(e->buf);
    if (PTN_UNLIKELY(--c->w->sample_in == 0))
        (void)tick(c, e);
    return true;
}

/* Casts and requests for an actor that runs, from e on, which is the first in the inbox.  Returns
 * the first that is something else; NULL: the batch is over. */
INLINE struct ptn__env *deliver_all(ptn_ctx *c, struct ptn__worker *w, struct ptn__slot *s,
                                    struct ptn__env *e) {
    struct ptn__env *done = NULL;
    do {
        if (PTN_LIKELY(e->how == PTN__ENV_CAST)) {
            /* Who sent it found the actor here, and a slot gets no other while this waits. */
            PTN_DEBUG_ASSERT(e->to == s->self);
            call(c, w, s, e, /* counts= */ true);
        } else if (!deliver(c, e)) {
            break;
        }
        done = e;
        e = e == c->last || PTN_BUGGIFY("batch.cut") ? NULL : e->next;
    } while (e != NULL);
    c->cur = NULL;
    if (PTN_LIKELY(done != NULL))
        batch_commit(c, w, s, done);
    return e;
}

/* All the rest; e is the first in the inbox.  True: the batch is over. */
static __attribute__((noinline)) bool deliver_other(ptn_ctx *c, struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    struct ptn__worker *w = c->w;
    if (PTN_UNLIKELY(--w->sample_in == 0))
        (void)tick(c, e);
    c->mark = w->sample_in;
    bool over = e == c->last;
    c->env = ptn__inbox_pop(s, e);
    if (e->to != s->self) {
        ptn__load_release(s, e, ptn__payload_len(e->buf));
        ptn__stray(s, e, e->buf);
    } else if (e->kind == PTN__ENV_CONTROL) {
        control(c, e);
    } else if (s->life != PTN__RUNNING) {
        c->env = NULL;
        hold(c, e);
        return over;
    } else if (e->kind == PTN__ENV_REPLY) {
        deliver_reply(c, e);
    } else if (is_watched_for(s, e)) { /* else ptn_demonitor() came first */
        handle_system(c, e);
    }
    c->env = NULL;
    ptn__env_put(w->rt, &w->mag, e);
    return over;
}

/* Takes what is in the inbox now, up to the next tick: who sends to itself lets the others run
 * first. */
INLINE void run_batch(ptn_ctx *c, struct ptn__worker *w, struct ptn__slot *s) {
    struct ptn__env *e = s->inbox;
    c->last = s->inbox_last;
    do {
        if (PTN_LIKELY(s->life == PTN__RUNNING)) {
            e = deliver_all(c, w, s, e);
            if (PTN_LIKELY(e == NULL))
                return;
        }
        if (deliver_other(c, e))
            return;
        e = s->inbox;
    } while (true);
}

/* What most batches do not leave behind. */
static __attribute__((noinline)) void batch_noted(ptn_ctx *c) {
    struct ptn__slot *s = c->slot;
    if (s->notes & PTN__NOTE_EXITING)
        ptn__actor_exit(s);
    if (s->notes & PTN__NOTE_FAR) { /* relaxed, both: counters of the senders in send.c */
        if (c->far_done != 0)
            atomic_fetch_sub_explicit(&s->far_load, c->far_done, memory_order_relaxed);
        atomic_store_explicit(&s->near_seen, ptn__near_load(s), memory_order_relaxed);
        c->far_done = 0;
    }
    if (s->notes & PTN__NOTE_WATCHED)
        ptn__pressure_look(s);
    if (s->notes & PTN__NOTE_GONE && s->inbox == NULL)
        ptn__slot_release(s);
}

/* After a batch, whichever way it ended.  Who is next? */
INLINE struct ptn__slot *batch_end(ptn_ctx *c, struct ptn__worker *w, struct ptn__slot *s) {
    if (PTN_UNLIKELY(s->notes != 0))
        batch_noted(c);
    return ptn__runq_turn(w, s);
}

/* Any other batch.  On its own, so that the registers of run_loop() are for the usual one. */
static __attribute__((noinline)) struct ptn__slot *run_other(ptn_ctx *c, struct ptn__worker *w,
                                                             struct ptn__slot *s) {
    if (PTN_LIKELY(s->inbox != NULL))
        run_batch(c, w, s);
    return batch_end(c, w, s);
}

static __attribute__((noinline)) struct ptn__slot *
single_end_noted(ptn_ctx *c, struct ptn__worker *w, struct ptn__slot *s, struct ptn__env *e) {
    batch_commit(c, w, s, e);
    return batch_end(c, w, s);
}

/* All of a batch of one cast without payload from its own worker: what chatty pairs have, with
 * nothing looked at twice.  Who is next? */
INLINE struct ptn__slot *run_single(ptn_ctx *c, struct ptn__worker *w, struct ptn__slot *s,
                                    struct ptn__env *e) {
    PTN_DEBUG_ASSERT(e->to == s->self);
    call(c, w, s, e, /* counts= */ true);
    c->cur = NULL;
    if (PTN_UNLIKELY(s->notes != 0 || e != s->inbox_last))
        return single_end_noted(c, w, s, e);
    c->mark--;
    s->inbox = NULL;
    ptn__near_add(s, -PTN__LOAD_ONE);
    ptn__count(&s->handled, 1);
    ptn__env_put(w->rt, &w->mag, e);
    return ptn__runq_leave(w, s);
}

/* Not part of the function that calls setjmp, where nothing may stay in a register. */
static __attribute__((noinline)) void run_loop(ptn_ctx *c) {
    struct ptn__worker *w = c->w;
    struct ptn__slot *s = w->runq;
    while (s != PTN__RUNQ_END && !c->turn_over) {
        do {
            struct ptn__env *e = s->inbox;
            c->slot = s;
            s = PTN_LIKELY(s->life == PTN__RUNNING && e == s->inbox_last && e->how == PTN__ENV_CAST)
                    ? run_single(c, w, s, e)
                    : run_other(c, w, s);
        } while (PTN_LIKELY(s != PTN__RUNQ_END && !w->after_batch));
        w->after_batch = false;
        w->runq = s;
        ptn__posts_flush(w);
    }
}

/* The actor of this context failed: it is settled, and its batch is over. */
static void crashed(ptn_ctx *c) {
    struct ptn__worker *w = c->w;
    struct ptn__slot *s = c->slot;
    struct ptn__env *e = c->env != NULL ? c->env : c->cur;
    s->in_call = false;
    atomic_store_explicit(&w->ctx, c, memory_order_relaxed);
    ptn__actor_crash(c, c->fail_reason);
    e->buf = ptn_buf_unref(e->buf);
    if (c->env != NULL)
        ptn__env_put(w->rt, &w->mag, e);
    else
        batch_commit(c, w, s, e);
    c->env = NULL;
    msg_reset(c);
    w->runq = batch_end(c, w, s);
    ptn__posts_flush(w);
}

void ptn__actors_run(struct ptn__worker *w) {
    if (ptn__runq_is_empty(w))
        return;
    ptn_ctx c;
    ptn__ctx_enter(&c, w, w->runq);
    msg_reset(&c);
    c.env = c.cur = NULL;
    c.unhandled = 0;
    c.turn_over = false;
    w->call_depth++;
    if (_setjmp(c.jmp) != 0)
        crashed(&c);
    run_loop(&c);
    ptn__ctx_leave(&c);
    c.w->call_depth--;
    ptn__count(&c.w->messages, c.n - c.w->sample_in);
}
