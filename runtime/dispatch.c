/* SPDX-License-Identifier: Apache-2.0
 *
 * dispatch.c - one batch of one actor: pop, check, hand to the handler, account.
 *
 * One setjmp covers a batch, so the protection costs a fraction of a nanosecond per message.  All
 * that a longjmp must find again lives in the context, not in local variables.
 */
#include "runtime/mbox.h"

#include <stdlib.h>

#define CLOCK_EVERY_MSGS 32u
#define SAMPLE_EVERY 64u

/* A message whose receiver is gone.  Consumes buf. */
void ptn__stray(struct ptn__slot *s, const struct ptn__env *e, ptn_buf *buf) {
    struct ptn__worker *w = s->worker;
    switch ((enum ptn__env_kind)e->kind) {
    case PTN__ENV_CAST:
    case PTN__ENV_REQUEST:
        ptn__dead_letter(w, e, ptn_buf_bytes(buf).n, PTN_ENOACTOR, NULL);
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

static void env_copy(struct ptn__env *to, const struct ptn__env *from) {
    to->to = from->to;
    to->from = from->from;
    to->corr = from->corr;
    to->deadline = from->deadline;
    to->buf = from->buf;
    to->err = from->err;
    to->type = from->type;
    to->enq_us = from->enq_us;
    to->kind = from->kind;
}

/* The actor has no incarnation now: the message waits, and its share of the load stays.  Consumes
 * buf. */
static void hold(struct ptn__slot *s, const struct ptn__env *e, ptn_buf *buf) {
    struct ptn__worker *w = s->worker;
    struct ptn__cold *k = ptn__cold_own(s);
    struct ptn__env *copy = k != NULL ? ptn__env_get(w->rt, &w->mag) : NULL;
    if (copy == NULL) {
        ptn__dead_letter(w, e, ptn_buf_bytes(buf).n, PTN_ENOMEM, s->ops->name);
        if (e->kind == PTN__ENV_REQUEST)
            ptn__answer_err(w, s->self, e->from, e->corr, -PTN_ENOMEM);
        if (e->kind <= PTN__ENV_REQUEST)
            atomic_fetch_sub_explicit(&s->mbox_load, PTN__LOAD_ONE + ptn_buf_bytes(buf).n,
                                      memory_order_relaxed);
        ptn_buf_unref(buf);
        return;
    }
    env_copy(copy, e);
    copy->buf = buf;
    atomic_init(&copy->next, NULL);
    if (k->held_tail != NULL)
        atomic_store_explicit(&k->held_tail->next, copy, memory_order_relaxed); /* private list */
    else
        k->held_head = copy;
    k->held_tail = copy;
}

/* Held messages first, then the mailbox.  NULL: nothing is reachable. */
static struct ptn__env *take(ptn_ctx *c) {
    struct ptn__slot *s = c->slot;
    struct ptn__worker *w = c->w;
    if (PTN_UNLIKELY(s->cold->held_head != NULL) && s->life == PTN__RUNNING) {
        struct ptn__env *h = s->cold->held_head;
        s->cold->held_head = atomic_load_explicit(&h->next, memory_order_relaxed); /* private */
        if (s->cold->held_head == NULL)
            s->cold->held_tail = NULL;
        env_copy(&c->copy, h);
        ptn__env_put(w->rt, &w->mag, h);
        return &c->copy;
    }
    struct ptn__env *old;
    struct ptn__env *e = ptn__mbox_pop(s, &old);
    if (e != NULL)
        ptn__env_put(w->rt, &w->mag, old);
    return e;
}

static ptn_time clock_read(struct ptn__worker *w) {
    w->clock = w->env->ops->now(w->env);
    return w->clock;
}

/* c->cur and c->cur_buf are set; on a crash ptn__actor_crash() settles them. */
static void handle(ptn_ctx *c, const struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    ptn_bytes b = ptn_buf_bytes(c->cur_buf);
    ptn_msg m = {.from = e->from,
                 .type = e->type,
                 .corr = e->corr,
                 .deadline = e->deadline,
                 .data = b.p,
                 .len = b.n,
                 .buf = b.n > 0 ? c->cur_buf : NULL};
    uint64_t n = atomic_load_explicit(&s->handled, memory_order_relaxed);
    atomic_store_explicit(&s->handled, n + 1, memory_order_relaxed); /* stats */
    c->deadline = e->deadline;
    bool crash = e->type >= PTN_MSG_USER && PTN_BUGGIFY_CRASH("handler.crash");
    if (crash && PTN_BUGGIFY("handler.crash.before"))
        ptn_fail(c, PTN_ECANCELED, "buggify: before the handler");
    (void)PTN_BUGGIFY_STALL("handler.slow");
    int rc;
    if (PTN_UNLIKELY(n % SAMPLE_EVERY == 0)) {
        ptn_time t0 = clock_read(c->w);
        uint32_t wait_us = (uint32_t)(t0 >> 10) - e->enq_us;
        rc = s->ops->handle(c, s->state, &m);
        if (e->kind <= PTN__ENV_REQUEST && wait_us < INT32_MAX) {
            ptn_histogram_add(&c->w->waits[s->wait_index].cells, (uint64_t)wait_us << 10);
            ptn__count(&s->busy_ns_sum, clock_read(c->w) - t0);
        }
    } else {
        rc = s->ops->handle(c, s->state, &m);
    }
    c->deadline = PTN_NEVER;
    if (PTN_UNLIKELY(rc < 0))
        ptn_fail(c, -rc, "handle returned %s", ptn_err_name(rc));
    if (crash)
        ptn_fail(c, PTN_ECANCELED, "buggify: behind the handler");
    c->cur = NULL;
    c->cur_buf = ptn_buf_unref(c->cur_buf);
}

/* Owner.  A message from another worker that reserved this slot. */
static void adopt(ptn_ctx *c, const struct ptn__env *e) {
    struct ptn__spawn *sp = (struct ptn__spawn *)(uintptr_t)e->corr;
    struct ptn__slot *s = c->slot;
    ptn__actor_adopt(s, e->to, sp);
    if (c->w->kill_seen)
        ptn__actor_end(s, PTN_ESTOPPING);
    else if (sp->start)
        (void)ptn__actor_init(s);
    free(sp);
}

static void deliver(ptn_ctx *c, struct ptn__env *e, ptn_buf *buf);

static void control(ptn_ctx *c, struct ptn__env *e) {
    struct ptn__slot *s = c->slot;
    switch ((enum ptn__control)e->type) {
    case PTN__CTL_ADOPT:
        break; /* ptn__actor_run() has dealt with it */
    case PTN__CTL_INIT:
        if (s->life == PTN__HELD)
            (void)ptn__actor_init(s);
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
        deliver(c, e, NULL);
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

/* A message for the actor's own code. */
static void deliver(ptn_ctx *c, struct ptn__env *e, ptn_buf *buf) {
    struct ptn__slot *s = c->slot;
    struct ptn__worker *w = c->w;
    if (e->kind <= PTN__ENV_REQUEST)
        c->load_done += PTN__LOAD_ONE + ptn_buf_bytes(buf).n;
    if (e->kind == PTN__ENV_REQUEST && PTN_UNLIKELY(e->deadline <= w->now)) {
        ptn__count(&w->deadline_expired, 1);
        ptn_count(PTN_C_DEADLINE_EXPIRED, 1);
        ptn__answer_err(w, s->self, e->from, e->corr, -PTN_EDEADLINE);
        ptn_buf_unref(buf);
        return;
    }
    if (PTN_UNLIKELY(s->sheds) && e->kind == PTN__ENV_REQUEST && ptn__request_shed(c, e)) {
        ptn_buf_unref(buf);
        return;
    }
    if (e->kind == PTN__ENV_SYSTEM && !is_watched_for(s, e))
        return; /* ptn_demonitor() came first */
    c->cur_buf = buf;
    c->answered = false;
    s->in_call = true;
    if (e->kind == PTN__ENV_REPLY) {
        ptn__ask_reply(c, e, buf);
        c->deadline = PTN_NEVER;
        c->cur_buf = ptn_buf_unref(buf);
    } else {
        c->cur = e;
        handle(c, e);
    }
    s->in_call = false;
    if (PTN_UNLIKELY(s->exiting))
        ptn__actor_exit(s);
}

static void run_batch(ptn_ctx *c, unsigned msgs_max) {
    struct ptn__slot *s = c->slot;
    struct ptn__worker *w = c->w;
    while (c->n < msgs_max) {
        struct ptn__env *e = take(c);
        if (e == NULL)
            return;
        ptn_buf *buf = e->buf;
        e->buf = NULL;
        c->n++;
        if (PTN_LIKELY(e->to == s->self) && PTN_LIKELY(e->kind != PTN__ENV_CONTROL)) {
            if (PTN_LIKELY(s->life == PTN__RUNNING))
                deliver(c, e, buf);
            else
                hold(s, e, buf);
        } else if (e->kind == PTN__ENV_CONTROL && e->type == PTN__CTL_ADOPT) {
            adopt(c, e);
        } else if (e->to == s->self) {
            control(c, e);
        } else {
            if (e->kind <= PTN__ENV_REQUEST)
                c->load_done += PTN__LOAD_ONE + ptn_buf_bytes(buf).n;
            ptn__stray(s, e, buf);
        }
        if (PTN_BUGGIFY("batch.cut"))
            return;
        if (PTN_UNLIKELY(++w->batch_msgs >= CLOCK_EVERY_MSGS)) {
            w->batch_msgs = 0;
            if (clock_read(w) >= w->turn_until)
                return;
        }
    }
}

unsigned ptn__actor_run(struct ptn__worker *w, struct ptn__slot *s, unsigned msgs_max,
                        bool *ret_stalled) {
    PTN_DEBUG_ASSERT(s->worker == w);
    ptn_ctx c;
    ptn__ctx_enter(&c, w, s);
    w->call_depth++;
    if (_setjmp(c.jmp) == 0) {
        run_batch(&c, msgs_max);
    } else {
        s->in_call = false;
        ptn__actor_crash(&c, c.fail_reason);
    }
    ptn__ctx_leave(&c);
    w->call_depth--;
    if (c.load_done != 0) /* relaxed: partner is the senders' fetch_add in load_add() */
        atomic_fetch_sub_explicit(&s->mbox_load, c.load_done, memory_order_relaxed);
    if (PTN_UNLIKELY(s->watched))
        ptn__pressure_look(s);
    *ret_stalled = c.n == 0 && ptn__mbox_has_more(s);
    return c.n;
}
