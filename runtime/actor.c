/* SPDX-License-Identifier: Apache-2.0
 *
 * actor.c - the life of an actor: spawn, init, end, crash, and the entry into its context.
 *
 * An address outlives incarnations.  A supervised actor that crashes or exits becomes HELD: its
 * memory is gone, its mailbox stays, and its supervisor's verdict (INIT or END) comes as a message.
 * An end for good makes the generation even, tells the monitors, and leaves the mailbox to be
 * drained by the run loop; only then is the slot released.
 *
 * Crash sequence: trace, close resources, cancel asks and timers, answer pending requests with
 * -PTN_ECRASHED, run the defers, free the arena; the message that was being handled goes to the
 * dead letters and is not delivered again.  fini does not run: after a failed check the state
 * cannot be trusted.
 */
#include "runtime/mbox.h"

#include <stdlib.h>

#define NEST_MAX 32u /* an init that spawns an actor whose init spawns ... */

static void live_link(struct ptn__slot *s) {
    struct ptn__worker *w = s->worker;
    s->live_next = w->live;
    s->live_pprev = &w->live;
    if (s->live_next != NULL)
        s->live_next->live_pprev = &s->live_next;
    w->live = s;
    w->n_live++;
}

static void live_unlink(struct ptn__slot *s) {
    *s->live_pprev = s->live_next;
    if (s->live_next != NULL)
        s->live_next->live_pprev = s->live_pprev;
    s->live_next = NULL;
    s->live_pprev = NULL;
    s->worker->n_live--;
}

void ptn__ctx_enter(ptn_ctx *c, struct ptn__worker *w, struct ptn__slot *s) {
    c->w = w;
    c->outer = atomic_load_explicit(&w->ctx, memory_order_relaxed);
    c->slot = s;
    c->env = NULL;
    c->cur = NULL;
    c->deadline = PTN_NEVER;
    c->near_done = c->far_done = 0;
    c->mark = w->sample_in;
    c->answered = false;
    c->fail_reason = 0;
    c->n = w->sample_in;
    atomic_store_explicit(&w->ctx, c, memory_order_relaxed); /* last: a signal may look at it now */
}

bool ptn__in_call(const struct ptn__slot *s) {
    const ptn_ctx *c = atomic_load_explicit(&s->worker->ctx, memory_order_relaxed);
    while (c != NULL && (c->slot != s || c->cur == NULL))
        c = c->outer;
    return s->in_call || c != NULL;
}

/* ---- the end ------------------------------------------------------------------------------ */

void ptn__exit_note(struct ptn__slot *s, int reason) {
    s->notes |= PTN__NOTE_EXITING;
    s->exit_reason = reason;
    for (ptn_ctx *c = atomic_load_explicit(&s->worker->ctx, memory_order_relaxed); c != NULL;
         c = c->outer) {
        if (c->slot == s && c->cur != NULL && c->env == NULL)
            c->last = c->cur; /* of its batch */
    }
}

static void trace_crash(const struct ptn__slot *s, uint32_t type, int reason, const char *text) {
    ptn_trace_event t = {.kind = PTN_TRACE_CRASH,
                         .actor = s->ops->name,
                         .addr = s->self,
                         .msg_type = type,
                         .reason = reason,
                         .text = text};
    ptn__trace(s->worker->rt, &t);
}

/* The part of an orderly end that may run the actor's code. */
static void incarnation_farewell(struct ptn__slot *s, int reason) {
    ptn_ctx c;
    ptn__ctx_enter(&c, s->worker, s);
    if (_setjmp(c.jmp) == 0) {
        ptn__asks_end(&c);
        ptn__resources_close(s, &c, reason);
        if (s->ops->fini != NULL)
            s->ops->fini(&c, s->state, reason);
    } else {
        trace_crash(s, 0, c.fail_reason, s->worker->fail_text);
    }
    ptn__ctx_leave(&c);
}

/* RUNNING -> HELD. */
static void incarnation_end(struct ptn__slot *s, int reason, bool orderly) {
    PTN_ASSERT(s->life == PTN__RUNNING);
    s->ending = true;
    if (orderly)
        incarnation_farewell(s, reason);
    ptn__resources_close(s, NULL, reason);
    ptn__asks_cancel(s);
    ptn__timers_stop_all(s);
    ptn__watches_cancel(s);
    ptn__tokens_answer(s, orderly ? -PTN_ESTOPPING : -PTN_ECRASHED);
    ptn__defers_run(s);
    s->arena = ptn__arena_free(s->arena);
    s->state = NULL;
    s->life = PTN__HELD;
    s->ending = false;
    s->notes &= (uint8_t)~PTN__NOTE_EXITING;
}

/* HELD -> DEAD.  The run loop drains the mailbox afterwards. */
static void actor_gone(struct ptn__slot *s) {
    struct ptn__worker *w = s->worker;
    PTN_ASSERT(s->life == PTN__HELD);
    /* relaxed: senders that miss it are caught by the comparison of env->to in dispatch.c */
    uint32_t gen = atomic_load_explicit(&s->gen, memory_order_relaxed);
    PTN_ASSERT(gen == (uint32_t)s->self);
    atomic_store_explicit(&s->gen, gen + 1, memory_order_relaxed);
    struct ptn__cold *k = s->cold;
    if (k->name != NULL)
        ptn__registry_remove(&w->rt->registry, k->name, s->self);
    ptn__monitors_fire(s);
    atomic_store_explicit(&s->ops_name, NULL, memory_order_relaxed); /* stats */
    s->life = PTN__DEAD;
    s->self = PTN_ADDR_NONE;
    live_unlink(s);
    while (k->held_head != NULL) {
        struct ptn__env *e = k->held_head;
        k->held_head = e->next;
        ptn__load_release(s, e, ptn__payload_len(e->buf));
        ptn__stray(s, e, e->buf);
        ptn__env_put(w->rt, &w->mag, e);
    }
    /* One more round of the run loop: it drains what has been sent, and releases the slot. */
    s->notes |= PTN__NOTE_GONE;
    if (s->run_next == NULL)
        ptn__runq_push(w, s);
    if (k->top)
        atomic_fetch_sub_explicit(&w->rt->top_live, 1, memory_order_acq_rel); /* partner: turn() */
    ptn__cold_drop(s);
}

/* After an incarnation's end: the supervisor decides, or that was all. */
static void actor_fate(struct ptn__slot *s, int reason, uint32_t report) {
    struct ptn__worker *w = s->worker;
    const struct ptn__cold *k = s->cold;
    if (k->sup != PTN_ADDR_NONE && !s->end_final && !w->kill_seen &&
        ptn__slot_find(w->rt, k->sup) != NULL)
        (void)ptn__send_control(w, k->sup, s->self, report, k->sup_index, reason);
    else
        actor_gone(s);
}

void ptn__actor_crash(ptn_ctx *c, int reason) {
    struct ptn__slot *s = c->slot;
    struct ptn__worker *w = c->w;
    struct ptn__env *e = c->cur;
    c->cur = NULL;
    trace_crash(s, e != NULL ? e->type : 0, reason, w->fail_text);
    incarnation_end(s, reason, /* orderly= */ false);
    if (e != NULL) {
        ptn__dead_letter(w, e, ptn__payload_len(e->buf), PTN_ECRASHED, s->ops->name);
        if (e->kind == PTN__ENV_REQUEST && !c->answered)
            ptn__answer_err(w, s->self, e->from, e->corr, -PTN_ECRASHED);
    }
    actor_fate(s, reason, PTN__CTL_CHILD_CRASHED);
}

void ptn__actor_exit(struct ptn__slot *s) {
    int reason = s->exit_reason;
    incarnation_end(s, reason, /* orderly= */ true);
    actor_fate(s, reason, PTN__CTL_CHILD_EXITED);
}

void ptn__actor_hold(struct ptn__slot *s) {
    if (s->life != PTN__RUNNING)
        return; /* its own report is on the way already */
    incarnation_end(s, PTN_ESTOPPING, /* orderly= */ true);
    actor_fate(s, PTN_ESTOPPING, PTN__CTL_CHILD_HELD);
}

void ptn__actor_end(struct ptn__slot *s, int reason) {
    if (s->life == PTN__DEAD)
        return;
    s->end_final = true;
    if (ptn__in_call(s)) {
        ptn__exit_note(s, reason);
        return;
    }
    if (s->ending)
        return; /* end_final decides what comes after */
    if (s->life == PTN__RUNNING)
        incarnation_end(s, reason, /* orderly= */ true);
    actor_gone(s);
}

/* ---- the entry ---------------------------------------------------------------------------- */

int ptn__call(struct ptn__worker *w, ptn_addr owner, ptn__call_fn fn, void *arg) {
    struct ptn__slot *s = ptn__slot_find(w->rt, owner);
    if (s == NULL || s->worker != w || s->self != owner || s->life != PTN__RUNNING || s->ending)
        return -PTN_ENOACTOR;
    PTN_ASSERT(!ptn__in_call(s));
    ptn__worker_touch_clock(w);
    ptn_ctx c;
    ptn__ctx_enter(&c, w, s);
    s->in_call = true;
    if (_setjmp(c.jmp) != 0) {
        s->in_call = false;
        ptn__actor_crash(&c, c.fail_reason);
        ptn__ctx_leave(&c);
        return -PTN_ECRASHED;
    }
    fn(&c, s->state, arg);
    if (PTN_BUGGIFY_CRASH("callback.crash"))
        ptn_fail(&c, PTN_ECANCELED, "buggify: behind a callback");
    s->in_call = false;
    ptn__ctx_leave(&c);
    if (s->notes & PTN__NOTE_EXITING)
        ptn__actor_exit(s);
    return 0;
}

/* What waited for this incarnation comes before what is in the inbox now. */
static void held_deliver(struct ptn__slot *s) {
    struct ptn__cold *k = s->cold;
    if (k->held_head == NULL)
        return;
    k->held_tail->next = s->inbox;
    if (s->inbox == NULL)
        s->inbox_last = k->held_tail;
    s->inbox = k->held_head;
    k->held_head = k->held_tail = NULL;
    if (s->run_next == NULL)
        ptn__runq_push(s->worker, s);
}

/* HELD -> RUNNING.  A failing init is a crash. */
int ptn__actor_init(struct ptn__slot *s, void *arg) {
    struct ptn__worker *w = s->worker;
    PTN_ASSERT(s->life == PTN__HELD && s->state == NULL);
    s->life = PTN__RUNNING;
    s->notes &= (uint8_t)~PTN__NOTE_EXITING;
    /* relaxed: statistics; only this thread writes */
    uint32_t inits = atomic_load_explicit(&s->incarnation, memory_order_relaxed);
    atomic_store_explicit(&s->incarnation, inits + 1, memory_order_relaxed);
    ptn_ctx c;
    ptn__ctx_enter(&c, w, s);
    ptn_addr self = s->self;
    w->call_depth++;
    s->in_call = true;
    volatile int err = 0;
    if (_setjmp(c.jmp) == 0) {
        s->state = ptn__arena_first(&s->arena, s->ops->state_size);
        if (s->state == NULL)
            ptn_fail(&c, PTN_ENOMEM, "no memory for the state");
        int rc = s->ops->init != NULL ? s->ops->init(&c, s->state, arg) : 0;
        if (rc < 0)
            ptn_fail(&c, -rc, "init returned %s", ptn_err_name(rc));
    } else {
        err = c.fail_reason > 0 ? -c.fail_reason : -PTN_ECRASHED;
    }
    s->in_call = false;
    w->call_depth--;
    if (err < 0)
        ptn__actor_crash(&c, c.fail_reason);
    ptn__ctx_leave(&c);
    if (err < 0)
        return err;
    held_deliver(s);
    if (s->cold->sup != PTN_ADDR_NONE)
        (void)ptn__send_control(w, s->cold->sup, self, PTN__CTL_CHILD_UP, s->cold->sup_index,
                                (int)s->incarnation);
    if (s->notes & PTN__NOTE_EXITING)
        ptn__actor_exit(s);
    return 0;
}

/* ---- spawn -------------------------------------------------------------------------------- */

/* The histogram of waits for this kind of actor; the last one is everybody's when they run out. */
static uint8_t wait_of(struct ptn__worker *w, const char *name) {
    for (uint8_t i = 0;; i++) {
        struct ptn__wait *wait = &w->waits[i];
        /* relaxed: only this thread writes */
        const char *taken = atomic_load_explicit(&wait->name, memory_order_relaxed);
        if (taken == NULL)
            /* release: partner is the acquire load in ptn_waits_visit() */
            atomic_store_explicit(&wait->name, i + 1 < PTN__WAITS_MAX ? name : "other",
                                  memory_order_release);
        if (taken == NULL || i + 1 == PTN__WAITS_MAX || strcmp(taken, name) == 0)
            return i;
    }
}

/* Owner.  A reserved slot becomes an actor without an incarnation. */
void ptn__actor_adopt(struct ptn__slot *s, ptn_addr self, const struct ptn__spawn *sp) {
    PTN_ASSERT(s->life == PTN__DEAD && s->cold == &ptn__cold_none);
    s->self = self;
    /* relaxed: the reservation came before, on this thread or by the message that brought sp */
    uint64_t msgs_max = atomic_load_explicit(&s->msgs_max, memory_order_relaxed);
    uint64_t bytes_max = atomic_load_explicit(&s->bytes_max, memory_order_relaxed);
    uint64_t slack = PTN__LOAD_OVER - PTN__LOAD_ONE - 1 - (msgs_max << 40) - bytes_max;
    uint64_t level = ptn__near_load(s) + slack;
    /* release, both: partner are the acquire loads of a reader of statistics, which looks whether
     * the generation is still the same */
    atomic_store_explicit(&s->near_level, level, memory_order_release);
    atomic_store_explicit(&s->near_slack, slack, memory_order_release);
    if (s->index >= s->worker->slots.near_end)
        s->worker->slots.near_end = s->index + 1;
    s->ops = sp->ops;
    if (sp->cold != NULL)
        s->cold = sp->cold;
    s->life = PTN__HELD;
    s->end_final = s->ending = false;
    s->notes &= PTN__NOTE_FAR;
    s->sheds = s->cold->delay.target != 0;
    atomic_store_explicit(&s->handled, 0, memory_order_relaxed); /* stats, all of these */
    atomic_store_explicit(&s->incarnation, 0, memory_order_relaxed);
    atomic_store_explicit(&s->busy_ns_sum, 0, memory_order_relaxed);
    s->wait_index = wait_of(s->worker, sp->ops->name);
    /* release: partner is the acquire load in ptn_actors_visit() */
    atomic_store_explicit(&s->ops_name, sp->ops->name, memory_order_release);
    live_link(s);
}

bool ptn__actor_arrive(struct ptn__slot *s, struct ptn__env *e) {
    struct ptn__spawn *sp = (struct ptn__spawn *)(uintptr_t)e->corr;
    bool start = sp->start && !s->worker->kill_seen;
    ptn__actor_adopt(s, e->to, sp);
    if (s->worker->kill_seen)
        ptn__actor_end(s, PTN_ESTOPPING);
    e->type = PTN__CTL_INIT;
    e->corr = (uint64_t)(uintptr_t)sp->arg;
    free(sp);
    return start;
}

/* *ret_cold: NULL when the actor has neither a supervisor nor a name, and sheds nothing. */
static int cold_reserve(const struct ptn__spawn_req *req, struct ptn__cold **ret_cold) {
    const char *name = req->opts != NULL ? req->opts->register_as : NULL;
    ptn_time delay = req->opts != NULL ? req->opts->queue_delay_ns : 0;
    *ret_cold = NULL;
    if (name == NULL && req->sup == PTN_ADDR_NONE && delay == 0)
        return 0;
    struct ptn__cold *k = ptn__cold_new();
    if (k == NULL)
        return -PTN_ENOMEM;
    k->sup = req->sup;
    k->sup_index = req->sup_index;
    k->top = req->top;
    k->delay.target = delay;
    k->spawn_arg = req->arg;
    if (name != NULL && (k->name = strdup(name)) == NULL) {
        free(k);
        return -PTN_ENOMEM;
    }
    *ret_cold = k;
    return 0;
}

static void cold_free(struct ptn__cold *k) {
    if (k != NULL)
        free(k->name);
    free(k);
}

void ptn__spawn_free(struct ptn__spawn *sp) {
    cold_free(sp->cold);
    free(sp);
}

/* Reserves the slot, its bounds and its name.  The caller has it adopted. */
static int actor_reserve(ptn_runtime *rt, const struct ptn__spawn_req *req,
                         struct ptn__slot **ret_s, ptn_addr *ret_addr,
                         struct ptn__cold **ret_cold) {
    const ptn_actor_opts *o = req->opts;
    struct ptn__cold *k;
    int err = cold_reserve(req, &k);
    if (err < 0)
        return err;
    ptn_addr addr;
    struct ptn__slot *s = ptn__slot_alloc(rt->workers[req->worker], &addr);
    if (s == NULL) {
        cold_free(k);
        return -PTN_ENOMEM;
    }
    uint32_t msgs = o != NULL && o->mbox_msgs_max != 0 ? o->mbox_msgs_max : 1024;
    uint32_t bytes = o != NULL && o->mbox_bytes_max != 0 ? o->mbox_bytes_max : 1u << 20;
    /* relaxed: a sender learns the address by a message that is sent after this */
    atomic_store_explicit(&s->msgs_max, msgs < 1u << 23 ? msgs : 1u << 23, memory_order_relaxed);
    atomic_store_explicit(&s->bytes_max, bytes, memory_order_relaxed);
    atomic_store_explicit(&s->refused, 0, memory_order_relaxed);
    if (k != NULL && k->name != NULL)
        err = ptn__registry_add(&rt->registry, k->name, addr);
    if (err < 0) {
        cold_free(k);
        atomic_store_explicit(&s->gen, (uint32_t)addr + 1, memory_order_relaxed);
        ptn__slot_release(s);
        return err;
    }
    *ret_s = s;
    *ret_addr = addr;
    *ret_cold = k;
    return 0;
}

/* w NULL: no worker runs yet, and the caller stands in for all of them. */
int ptn__spawn_actor(ptn_runtime *rt, struct ptn__worker *w, const struct ptn__spawn_req *req,
                     ptn_addr *ret_addr) {
    struct ptn__slot *s;
    ptn_addr addr;
    struct ptn__cold *cold;
    if (req->ops == NULL || req->ops->handle == NULL || req->ops->name == NULL)
        return -PTN_EINVAL;
    if (w != NULL && w->kill_seen)
        return -PTN_ESTOPPING;
    if (w != NULL && w->call_depth >= NEST_MAX)
        return -PTN_EOVERLOAD;
    bool local = w == NULL || req->worker == w->index;
    struct ptn__spawn *sp = local ? NULL : malloc(sizeof(*sp));
    if (!local && sp == NULL)
        return -PTN_ENOMEM;
    int err = actor_reserve(rt, req, &s, &addr, &cold);
    if (err < 0) {
        free(sp);
        return err;
    }
    if (req->top)
        atomic_fetch_add_explicit(&rt->top_live, 1, memory_order_relaxed); /* before run() */
    struct ptn__spawn spawn = {.ops = req->ops, .arg = req->arg, .cold = cold, .start = req->start};
    if (local) {
        ptn__actor_adopt(s, addr, &spawn);
        if (req->start)
            err = ptn__actor_init(s, req->arg);
    } else {
        *sp = spawn;
        (void)ptn__send_control(w, addr, addr, PTN__CTL_ADOPT, (uint64_t)(uintptr_t)sp, 0);
        /* At once: whoever learns the address from us must not get there first. */
        ptn__post_flush(w, req->worker);
    }
    if (err == 0 && ret_addr != NULL)
        *ret_addr = addr;
    return err;
}

int ptn_spawn(ptn_ctx *c, const ptn_actor_ops *ops, const ptn_actor_opts *opts, void *arg,
              ptn_addr *ret_addr) {
    struct ptn__worker *w = c->w;
    int on = opts != NULL ? opts->worker : -1;
    if (on >= (int)w->rt->n_workers)
        return -PTN_EINVAL;
    struct ptn__spawn_req req = {.ops = ops,
                                 .opts = opts,
                                 .arg = arg,
                                 .start = true,
                                 .worker = on < 0 ? w->index : (unsigned)on};
    return ptn__spawn_actor(w->rt, w, &req, ret_addr);
}

/* Without a worker thread: the environment is gone, and so is every actor's code. */
void ptn__slot_drain_quiet(struct ptn__slot *s) {
    struct ptn__worker *w = s->worker;
    if (s->life == PTN__RUNNING) { /* the runtime never ran to its end */
        ptn__resources_close(s, NULL, PTN_ESTOPPING);
        ptn__asks_cancel(s);
        ptn__defers_run(s);
        s->arena = ptn__arena_free(s->arena);
    }
    if (s->inbox != NULL)
        s->inbox_last->next = NULL;
    ptn__env_discard(w->rt, &w->mag, s->inbox);
    s->inbox = NULL;
    if (s->cold->held_head != NULL) {
        ptn__env_discard(w->rt, &w->mag, s->cold->held_head);
        s->cold->held_head = NULL;
    }
    ptn__tokens_answer(s, 0);
    ptn__monitors_free(s);
    ptn__cold_drop(s);
}
