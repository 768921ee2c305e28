/* SPDX-License-Identifier: Apache-2.0
 *
 * supervise.c - supervisors: actors whose only job is to decide what becomes of their children.
 *
 * All of it is messages, so that a supervisor and its children may live on different workers.  A
 * child that crashes or exits is HELD behind its address and reports; the supervisor answers INIT
 * or END.  Restarting a group takes two sweeps: hold the running ones newest first, each given its
 * time to stop by itself, then start oldest first, each step waiting for the report of the one
 * before.
 *
 * The first restart comes at once: most crashes are one bad message, and everybody else is waiting.
 * A child that fails again before it has been up for a window waits, about twice as long each time;
 * chance keeps those that failed together from coming back together.  Its mailbox stays, bounded as
 * ever.  A child that is to end is not waited for: END goes past a backoff.
 *
 * A supervisor that restarts too often gives up: it ends with its children, and the actor that
 * called ptn_supervise() crashes, so that the decision moves up the tree.  The end of that actor
 * ends its supervisors.  The root supervisor has nobody above it: when it gives up, the runtime
 * stops.
 */
#include "runtime/internal.h"

#include <stdlib.h>

#define KIDS_MAX 4096u
#define RESTARTS_MAX_DEFAULT 10u
#define RESTARTS_MAX_MAX 1024u
#define WINDOW_DEFAULT_NS (5 * PTN_SEC)
#define BACKOFF_MIN_DEFAULT_NS (10 * PTN_MS)
#define BACKOFF_MAX_DEFAULT_NS PTN_SEC

enum kid_state { KID_HELD, KID_STARTING, KID_UP, KID_STOPPING, KID_HOLDING, KID_GONE };
enum sup_mode { SUP_IDLE, SUP_HOLDING, SUP_STARTING };

struct kid {
    ptn_addr addr;
    enum ptn_restart restart;
    enum kid_state state;
    uint32_t incarnation; /* UP: to tell this one to stop, and not the next */
    uint32_t failures;    /* in a row: without a quiet window between them */
    bool backing_off;     /* HELD, and counted as such */
    ptn_time due;         /* HELD: starts no earlier; STOPPING: held then */
    ptn_time up_since;    /* 0: not up yet */
    ptn_time shutdown_ns;
    char *name; /* registered name, owned; NULL: none */
    const char *label;
};

struct sup {
    struct ptn__worker *w;
    ptn_addr self, parent;
    struct ptn__resource link; /* on the parent */
    enum ptn_strategy strategy;
    enum sup_mode mode;
    uint32_t from; /* group restart concerns children from here on */
    struct kid *kids;
    uint32_t n, cap;
    uint32_t restarts_max, n_restarts; /* ring of the last restarts_max times */
    ptn_time window_ns, backoff_min_ns, backoff_max_ns;
    ptn_time *restart_times;
    ptn_timer timer; /* the next `due` of a child */
    bool root, gave_up;
};

struct sup_args {
    const ptn_sup_opts *opts;
    const ptn_child *kids;
    size_t n;
    ptn_addr parent;
    struct ptn__slot *parent_slot;
    bool root;
};

static void tell(const struct sup *p, uint32_t i, uint32_t type, int reason) {
    (void)ptn__send_control(p->w, p->kids[i].addr, p->self, type, 0, reason);
}

/* How many wait is a number for the metrics. */
static void set_backing_off(struct sup *p, struct kid *k, bool on) {
    if (k->backing_off != on)
        ptn__count(&p->w->backing_off, on ? 1 : UINT64_MAX);
    k->backing_off = on;
}

static void kid_end(struct sup *p, uint32_t i) {
    p->kids[i].state = KID_GONE;
    set_backing_off(p, &p->kids[i], false);
    /* The name is free at once, so that a successor may take it before this child's worker gets
     * there. */
    if (p->kids[i].name != NULL)
        ptn__registry_remove(&p->w->rt->registry, p->kids[i].name, p->kids[i].addr);
    tell(p, i, PTN__CTL_END, PTN_ESTOPPING);
}

static void kid_start(struct sup *p, uint32_t i) {
    p->kids[i].state = KID_STARTING;
    p->kids[i].up_since = 0;
    set_backing_off(p, &p->kids[i], false);
    tell(p, i, PTN__CTL_INIT, 0);
}

static void kid_hold(struct sup *p, uint32_t i) {
    p->kids[i].state = KID_HOLDING;
    tell(p, i, PTN__CTL_HOLD, 0);
}

/* How long a child that has just failed waits: not at all, then min, 2 min, 4 min ... max, each
 * less a random part of up to a half. */
static ptn_time backoff(struct sup *p, struct kid *k) {
    if (k->up_since != 0 && p->w->now - k->up_since >= p->window_ns)
        k->failures = 0;
    uint32_t n = k->failures++;
    if (n == 0)
        return 0;
    ptn_time d = p->backoff_max_ns;
    if (n <= 32 && p->backoff_min_ns <= p->backoff_max_ns >> (n - 1))
        d = p->backoff_min_ns << (n - 1);
    uint64_t dice;
    p->w->env->ops->random(p->w->env, &dice, sizeof(dice));
    return d - dice % (d / 2 + 1);
}

static void tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg);

/* ---- the group restart -------------------------------------------------------------------- */

static void wait_until(ptn_ctx *c, struct sup *p, ptn_time due) {
    if (!ptn_timer_is_armed(&p->timer) || due < p->timer.due)
        ptn_timer_start(c, &p->timer, due > p->w->now ? due - p->w->now : 0, tick, p);
}

/* Newest first.  True: none is running any more. */
static bool holding_done(ptn_ctx *c, struct sup *p) {
    for (uint32_t i = p->n; i-- > p->from;) {
        struct kid *k = &p->kids[i];
        if (k->restart == PTN_TEMPORARY && k->state != KID_GONE)
            kid_end(p, i);
        if (k->state == KID_UP && k->shutdown_ns > 0) {
            k->state = KID_STOPPING;
            k->due = p->w->now + k->shutdown_ns;
            (void)ptn__send_control(p->w, k->addr, p->self, PTN__CTL_STOPPING, k->due,
                                    (int)k->incarnation);
        } else if (k->state == KID_UP || (k->state == KID_STOPPING && k->due <= p->w->now)) {
            kid_hold(p, i);
        }
        if (k->state == KID_STOPPING)
            wait_until(c, p, k->due);
        if (k->state != KID_HELD && k->state != KID_GONE)
            return false;
    }
    return true;
}

/* Oldest first, and none before all may.  True: all are running. */
static bool starting_done(ptn_ctx *c, struct sup *p) {
    ptn_time due = 0;
    for (uint32_t i = 0; i < p->n; i++)
        if (p->kids[i].state == KID_HELD && p->kids[i].due > due)
            due = p->kids[i].due;
    if (due > p->w->now) {
        wait_until(c, p, due);
        return false;
    }
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->kids[i].state == KID_STARTING)
            return false;
        if (p->kids[i].state == KID_HELD) {
            kid_start(p, i);
            return false;
        }
    }
    return true;
}

/* Outside of group restarts children are independent. */
static void start_due(ptn_ctx *c, struct sup *p) {
    for (uint32_t i = 0; i < p->n; i++) {
        const struct kid *k = &p->kids[i];
        if (k->state == KID_HELD && k->due <= p->w->now)
            kid_start(p, i);
        else if (k->state == KID_HELD)
            wait_until(c, p, k->due);
    }
}

static void advance(ptn_ctx *c, struct sup *p) {
    if (p->mode == SUP_HOLDING && holding_done(c, p))
        p->mode = SUP_STARTING;
    if (p->mode == SUP_STARTING && starting_done(c, p)) {
        p->mode = SUP_IDLE;
        p->from = UINT32_MAX;
    }
    if (p->mode == SUP_IDLE)
        start_due(c, p);
}

static void tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    advance(c, arg);
}

/* ---- verdicts ----------------------------------------------------------------------------- */

/* True: this restart is one too many within the window. */
static bool too_many(struct sup *p) {
    ptn_time now = p->w->now;
    ptn_time *slot = &p->restart_times[p->n_restarts % p->restarts_max];
    bool over = p->n_restarts >= p->restarts_max && now - *slot < p->window_ns;
    *slot = now;
    p->n_restarts++;
    return over;
}

static void give_up(ptn_ctx *c, struct sup *p, const struct ptn__env *e) {
    ptn_trace_event t = {.kind = PTN_TRACE_GAVE_UP,
                         .actor = p->root ? "root supervisor" : ptn__sup_ops.name,
                         .addr = p->self,
                         .reason = e->err,
                         .text = "too many restarts"};
    ptn__trace(p->w->rt, &t);
    p->gave_up = true;
    if (!p->root)
        ptn_fail(c, PTN_ECRASHED, "too many restarts");
    kid_end(p, (uint32_t)e->corr);
    ptn__runtime_gave_up(p->w->rt); /* the others get their time to drain */
}

static void restart(ptn_ctx *c, struct sup *p, uint32_t i, const struct ptn__env *e) {
    if (too_many(p)) {
        give_up(c, p, e);
        return;
    }
    struct kid *k = &p->kids[i];
    ptn_time wait = backoff(p, k);
    k->due = p->w->now + wait;
    set_backing_off(p, k, wait > 0);
    ptn_trace_event t = {.kind = PTN_TRACE_RESTART,
                         .actor = k->label,
                         .addr = k->addr,
                         .reason = e->err,
                         .wait_ns = wait,
                         .text = ptn_err_text(e->err)};
    ptn__trace(p->w->rt, &t);
    if (p->strategy != PTN_ONE_FOR_ONE) {
        uint32_t from = p->strategy == PTN_ONE_FOR_ALL ? 0 : i;
        p->from = from < p->from ? from : p->from;
        p->mode = SUP_HOLDING;
    }
    advance(c, p);
}

/* A child is HELD now, for good reason or bad: what next? */
static void kid_down(ptn_ctx *c, struct sup *p, uint32_t i, const struct ptn__env *e) {
    struct kid *k = &p->kids[i];
    bool crashed = e->type == PTN__CTL_CHILD_CRASHED;
    bool told_to_stop = k->state == KID_STOPPING; /* so its end was not of its own will */
    bool held_for_group = told_to_stop || k->state == KID_HOLDING;
    k->state = KID_HELD;
    k->due = 0;
    bool again =
        k->restart == PTN_PERMANENT || (k->restart == PTN_TRANSIENT && (crashed || told_to_stop));
    bool stopping = p->gave_up || atomic_load_explicit(&p->w->rt->phase, memory_order_acquire) !=
                                      PTN__PHASE_RUN; /* partner: phase_raise() in worker.c */
    if (!again || (p->root && stopping)) {
        kid_end(p, i);
        advance(c, p);
    } else if (held_for_group) {
        advance(c, p); /* it went down while it was being held: that is no further restart */
    } else {
        restart(c, p, i, e);
    }
}

void ptn__sup_control(ptn_ctx *c, const struct ptn__env *e) {
    struct sup *p = ptn_self_state(c);
    if (e->corr >= p->n || p->kids[e->corr].addr != e->from)
        return;
    uint32_t i = (uint32_t)e->corr;
    struct kid *k = &p->kids[i];
    if (k->state == KID_GONE)
        return;
    switch (e->type) {
    case PTN__CTL_CHILD_UP:
        if (k->state == KID_STARTING) {
            k->state = KID_UP;
            k->up_since = p->w->now;
            k->incarnation = (uint32_t)e->err;
        }
        advance(c, p);
        break;
    case PTN__CTL_CHILD_HELD:
        if (k->state == KID_HOLDING) {
            k->state = KID_HELD;
            k->due = 0;
        }
        advance(c, p);
        break;
    default:
        kid_down(c, p, i, e);
        break;
    }
}

/* ---- birth and death ---------------------------------------------------------------------- */

static int kid_add(struct sup *p, const ptn_child *kid, bool top, struct ptn__worker *w,
                   ptn_addr *ret_addr) {
    ptn_runtime *rt = p->w->rt;
    if (p->n == KIDS_MAX)
        return -PTN_EOVERLOAD;
    if (kid->opts.worker >= (int)rt->n_workers)
        return -PTN_EINVAL;
    if (p->n == p->cap) {
        uint32_t cap = p->cap == 0 ? 16 : p->cap * 2;
        struct kid *more = realloc(p->kids, cap * sizeof(*more));
        if (more == NULL)
            return -PTN_ENOMEM;
        p->kids = more;
        p->cap = cap;
    }
    unsigned on = kid->opts.worker >= 0 ? (unsigned)kid->opts.worker
                  : w != NULL           ? w->index
                                        : rt->round_robin++ % rt->n_workers;
    struct ptn__spawn_req req = {.ops = kid->ops,
                                 .opts = &kid->opts,
                                 .arg = kid->arg,
                                 .sup = p->self,
                                 .sup_index = p->n,
                                 .top = top,
                                 .worker = on};
    struct kid *k = &p->kids[p->n];
    *k = (struct kid){.restart = kid->restart, .state = KID_HELD, .shutdown_ns = kid->shutdown_ns};
    if (kid->opts.register_as != NULL && (k->name = strdup(kid->opts.register_as)) == NULL)
        return -PTN_ENOMEM;
    int err = ptn__spawn_actor(rt, w, &req, &k->addr);
    if (err < 0) {
        free(k->name);
        return err;
    }
    k->label = kid->ops->name;
    p->n++;
    if (ret_addr != NULL)
        *ret_addr = k->addr;
    return 0;
}

/* The defer of every supervisor: crash, exit and kill come by here. */
static void sup_end(void *arg) {
    struct sup *p = arg;
    ptn__resource_remove(&p->link);
    for (uint32_t i = p->n; i-- > 0;) {
        if (p->kids[i].state != KID_GONE)
            kid_end(p, i);
        free(p->kids[i].name);
    }
    if (p->gave_up && p->parent != PTN_ADDR_NONE)
        (void)ptn__send_control(p->w, p->parent, p->self, PTN__CTL_LINK_DOWN, 0, PTN_ECRASHED);
    free(p->kids);
    p->kids = NULL;
    p->n = 0;
}

static void parent_closing(struct ptn__resource *r, ptn_ctx *c, int reason) {
    (void)c;
    struct sup *p = (struct sup *)(void *)((char *)r - offsetof(struct sup, link));
    struct ptn__slot *s = ptn__slot_find(p->w->rt, p->self);
    if (s != NULL)
        ptn__actor_end(s, reason);
}

static int sup_init(ptn_ctx *c, void *state, void *arg) {
    struct sup *p = state;
    const struct sup_args *a = arg;
    p->w = ptn__ctx_worker(c);
    p->self = ptn_self(c);
    p->parent = a->parent;
    p->root = a->root;
    p->from = UINT32_MAX;
    p->strategy = a->opts->strategy;
    p->window_ns = a->opts->window_ns != 0 ? a->opts->window_ns : WINDOW_DEFAULT_NS;
    p->restarts_max = a->opts->restarts_max != 0 ? a->opts->restarts_max : RESTARTS_MAX_DEFAULT;
    p->backoff_min_ns =
        a->opts->backoff_min_ns != 0 ? a->opts->backoff_min_ns : BACKOFF_MIN_DEFAULT_NS;
    p->backoff_max_ns =
        a->opts->backoff_max_ns != 0 ? a->opts->backoff_max_ns : BACKOFF_MAX_DEFAULT_NS;
    if (p->restarts_max > RESTARTS_MAX_MAX)
        return -PTN_EINVAL;
    p->restart_times = ptn_alloc(c, p->restarts_max * sizeof(*p->restart_times));
    if (p->restart_times == NULL || ptn_defer(c, sup_end, p) < 0)
        return -PTN_ENOMEM;
    for (size_t i = 0; i < a->n; i++) {
        int err = kid_add(p, &a->kids[i], /* top= */ false, p->w, NULL);
        if (err < 0)
            return err;
    }
    if (a->parent_slot != NULL) {
        ptn_ctx pc = {.w = p->w, .slot = a->parent_slot};
        p->link.close = parent_closing;
        int err = ptn__resource_add(&pc, &p->link);
        if (err < 0)
            return err;
    }
    p->mode = a->root ? SUP_IDLE : SUP_STARTING;
    advance(c, p);
    return 0;
}

/* A supervisor has no messages of its own. */
static int sup_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->corr != 0 && m->type >= PTN_MSG_USER)
        (void)ptn_reply_err(c, ptn_reply_token(c, m), -PTN_EINVAL);
    return 0;
}

const ptn_actor_ops ptn__sup_ops = {
    .name = "supervisor",
    .state_size = sizeof(struct sup),
    .init = sup_init,
    .handle = sup_handle,
};

int ptn_supervise(ptn_ctx *c, const ptn_sup_opts *o, const ptn_child *kids, size_t n,
                  ptn_addr *ret_sup) {
    const ptn_sup_opts defaults = {.strategy = PTN_ONE_FOR_ONE};
    struct ptn__worker *w = ptn__ctx_worker(c);
    if ((kids == NULL && n > 0) || n > KIDS_MAX)
        return -PTN_EINVAL;
    if (c->slot->ending)
        return -PTN_ESTOPPING;
    struct sup_args a = {.opts = o != NULL ? o : &defaults,
                         .kids = kids,
                         .n = n,
                         .parent = ptn_self(c),
                         .parent_slot = c->slot};
    struct ptn__spawn_req req = {
        .ops = &ptn__sup_ops, .arg = &a, .start = true, .worker = w->index};
    return ptn__spawn_actor(w->rt, w, &req, ret_sup);
}

/* ---- the root ----------------------------------------------------------------------------- */

int ptn__root_new(ptn_runtime *rt) {
    const ptn_sup_opts opts = {.strategy = PTN_ONE_FOR_ONE};
    struct sup_args a = {.opts = &opts, .root = true};
    struct ptn__spawn_req req = {.ops = &ptn__sup_ops, .arg = &a, .start = true, .worker = 0};
    /* The main thread stands in for worker 0, which does not run yet. */
    return ptn__spawn_actor(rt, rt->workers[0], &req, &rt->root);
}

int ptn__root_add(ptn_runtime *rt, const ptn_child *kid, ptn_addr *ret_addr) {
    struct sup *p = ptn__slot_find(rt, rt->root)->state;
    uint32_t i = p->n;
    int err = kid_add(p, kid, /* top= */ true, NULL, ret_addr);
    if (err == 0)
        kid_start(p, i);
    return err;
}
