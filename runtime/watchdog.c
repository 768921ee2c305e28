/* SPDX-License-Identifier: Apache-2.0
 *
 * watchdog.c - notices handlers that do not return, and tells what a worker is doing.
 *
 * A worker runs one actor at a time, so one that does not return stops all the others on it.  The
 * environment ticks on the worker's CPU clock (env.h, guard): two ticks that find the same message
 * of the same batch in the same turn mean that it has had at least one tick's worth of CPU time.
 * The hot path only keeps `w->ctx` up to date; reading the clock per handler would cost more than
 * many handlers do.
 *
 * A handler that sleeps uses no CPU time: that cannot be told from a process that is stopped, so
 * nobody is killed for it.  Others look at its worker: those that tick, because they work, and
 * whoever asks (ptn_worker_stuck()).  Two looks that find the same turn tell how long it has lasted
 * at least; past stuck_ns the thread in question is sent a signal and reports where it is.  No look
 * needs a thread or a timer of its own.  A turn that ends late is reported then.  In the simulator
 * there are no ticks: there a handler that does not return is a test that does not end.
 */
#include "runtime/env/crash.h"
#include "runtime/internal.h"

#include <postern/log.h>

#define QUIET_NS PTN_SEC      /* one report a worker and second; all are counted */
#define BLOCKED_FACTOR 10u    /* of slow_ns: a throttled container often stands still for 100 ms */
#define STACK_TEXT_BYTES 1024 /* fits into a line of the log */

/* Worker thread, in a signal handler. */
static void say(void *arg, struct ptn__text *t) {
    struct ptn__worker *w = arg;
    const ptn_ctx *c = atomic_load_explicit(&w->ctx, memory_order_relaxed);
    ptn__text_z(t, "worker ");
    ptn__text_u64(t, w->index);
    if (c == NULL) {
        bool parked = atomic_load_explicit(&w->ready, memory_order_relaxed) == PTN__PARKED;
        ptn__text_z(t, parked ? ", asleep" : ", between actors");
        return;
    }
    ptn__text_z(t, ", actor ");
    ptn__text_z(t, c->slot->ops->name);
    ptn__text_z(t, " ");
    ptn__text_hex(t, c->slot->self);
    ptn__text_z(t, c->cur != NULL ? ", message " : ", in a callback");
    if (c->cur != NULL)
        ptn__text_msg(t, c->cur->type);
}

/* Worker thread, in a signal handler.  c: what it is in; NULL: no actor. */
static void report(struct ptn__worker *w, const ptn_ctx *c, enum ptn_trace_kind kind,
                   ptn_time took_ns) {
    char stack[STACK_TEXT_BYTES];
    struct ptn__text t = {.p = stack, .max = sizeof stack - 1};
    ptn__text_stack(&t, " ");
    stack[t.n] = '\0';
    ptn_trace_event e = {.kind = kind,
                         .actor = c != NULL ? c->slot->ops->name : "",
                         .addr = c != NULL ? c->slot->self : (ptn_addr)w->index << 56,
                         .msg_type = c != NULL && c->cur != NULL ? c->cur->type : 0,
                         .wait_ns = took_ns,
                         .text = stack};
    ptn__trace(w->rt, &e);
}

/* Worker thread, in a signal handler. */
static void report_slow(struct ptn__worker *w, const ptn_ctx *c, ptn_time used_ns) {
    ptn__count(&w->slow_handlers, 1);
    ptn_time now = w->env->ops->now(w->env);
    if (now < w->watch.quiet_until)
        return;
    w->watch.quiet_until = now + QUIET_NS;
    report(w, c, PTN_TRACE_SLOW, used_ns);
}

/* ---- workers that others look at ------------------------------------------------------------ */

/* Any thread.  The turn after so many: another value after every turn and every sleep; never 0. */
static uint32_t turn_mark_of(uint64_t turns, const struct ptn__worker *w) {
    return (uint32_t)(turns + atomic_load_explicit(&w->parks, memory_order_relaxed)) | 1u << 31;
}

static uint32_t turn_mark(const struct ptn__worker *w) {
    return turn_mark_of(atomic_load_explicit(&w->turns, memory_order_relaxed), w);
}

/* Any thread.  It is in a turn, in a callback between two, or was woken and does not come. */
static bool is_busy(const struct ptn__worker *w) {
    const struct ptn__env *ready = atomic_load_explicit(&w->ready, memory_order_relaxed);
    return (ready != PTN__PARKED && ready != PTN__CLOSED) ||
           atomic_load_explicit(&w->ctx, memory_order_relaxed) != NULL;
}

/* Any thread, and in signal handlers; all relaxed, because one word says it all: which turn, and
 * the millisecond in which it was first seen.  A look that comes late writes the mark of an old
 * turn, and the next one begins anew.  Returns for how long this turn has been seen. */
static ptn_time look(struct ptn__worker *w, uint32_t mark) {
    uint64_t seen = atomic_load_explicit(&w->watch.seen, memory_order_relaxed);
    uint32_t ms = (uint32_t)(w->rt->env->ops->now(w->rt->env) / PTN_MS); /* later than seen */
    if (!is_busy(w))
        return 0;
    if ((uint32_t)(seen >> 32) == mark)
        return (ptn_time)(ms - (uint32_t)seen) * PTN_MS;
    atomic_store_explicit(&w->watch.seen, (uint64_t)mark << 32 | ms, memory_order_relaxed);
    return 0;
}

/* Any thread, and in signal handlers.  True: this call is the first to say it of this turn. */
static bool tell_once(struct ptn__worker *w, uint32_t mark) {
    if (atomic_exchange_explicit(&w->watch.told, mark, memory_order_relaxed) == mark)
        return false;
    /* By other threads as well, so unlike other statistics. */
    atomic_fetch_add_explicit(&w->blocked_turns, 1, memory_order_relaxed);
    return true;
}

ptn_time ptn_worker_stuck(ptn_runtime *rt, unsigned worker) {
    if (worker >= rt->n_workers || rt->stuck_ns == 0)
        return 0;
    struct ptn__worker *w = rt->workers[worker];
    uint32_t mark = turn_mark(w);
    ptn_time seen = look(w, mark);
    if (seen < rt->stuck_ns)
        return 0;
    if (tell_once(w, mark) && rt->env->ops->poke != NULL)
        rt->env->ops->poke(rt->env, w);
    return seen;
}

/* Worker thread, in a signal handler: somebody has found that it does not come back.  What it waits
 * in may end with EINTR, which is no harm by now. */
static void poked(void *arg) {
    struct ptn__worker *w = arg;
    uint32_t mark = turn_mark(w);
    if (atomic_load_explicit(&w->watch.told, memory_order_relaxed) != mark)
        return; /* it has */
    report(w, atomic_load_explicit(&w->ctx, memory_order_relaxed), PTN_TRACE_BLOCKED,
           look(w, mark));
}

/* ---- ticks ---------------------------------------------------------------------------------- */

/* Worker thread, in a signal handler. */
static void tick(void *arg) {
    struct ptn__worker *w = arg;
    struct ptn__watch *k = &w->watch;
    ptn_runtime *rt = w->rt;
    for (unsigned i = 0; i < rt->n_workers; i++)
        if (i != w->index)
            (void)ptn_worker_stuck(rt, i);
    const ptn_ctx *c = atomic_load_explicit(&w->ctx, memory_order_relaxed);
    uint64_t turn = atomic_load_explicit(&w->turns, memory_order_relaxed);
    unsigned n = c != NULL ? c->n - w->sample_in : 0; /* messages taken */
    if (c == NULL || c != k->ctx || n != k->n || turn != k->turn) {
        k->ctx = c;
        k->n = n;
        k->turn = turn;
        k->ticks = 0;
        return;
    }
    ptn_time used = ++k->ticks * rt->tick_ns;
    if (k->ticks == 1 && rt->slow_ns != 0) {
        k->slow_turn = turn + 1; /* what the counter says at its end */
        report_slow(w, c, used);
    }
    if (rt->stuck_ns != 0 && used >= rt->stuck_ns)
        ptn__crash_abort("a handler did not return", used / PTN_MS);
}

void ptn__watchdog_blocked(struct ptn__worker *w, ptn_time took) {
    uint64_t turn = atomic_load_explicit(&w->turns, memory_order_relaxed);
    if (!tell_once(w, turn_mark_of(turn - 1, w)) || w->watch.slow_turn == turn ||
        w->now < w->watch.blocked_quiet_until)
        return; /* told already, and better */
    w->watch.blocked_quiet_until = w->now + took + QUIET_NS;
    ptn_trace_event e = {.kind = PTN_TRACE_BLOCKED,
                         .actor = "",
                         .addr = (ptn_addr)w->index << 56,
                         .wait_ns = took,
                         .text = "a handler blocked, or the machine stood still"};
    ptn__trace(w->rt, &e);
}

void ptn__watchdog_start(struct ptn__worker *w) {
    char name[16];
    struct ptn__text t = {.p = name, .max = sizeof name - 1};
    ptn__text_z(&t, "ptn-w");
    ptn__text_u64(&t, w->index);
    name[t.n] = '\0';
    const ptn_env_guard g = {.name = name,
                             .say = say,
                             .tick = tick,
                             .poked = poked,
                             .tick_ns = w->rt->tick_ns,
                             .arg = w};
    if (w->env->ops->guard != NULL && w->env->ops->guard(w->env, &g) < 0)
        PTN_LOG(PTN_LOG_WARN, "watchdog.off", PTN_F_INT("worker", w->index));
}

void ptn__watchdog_stop(struct ptn__worker *w) {
    if (w->env->ops->unguard != NULL)
        w->env->ops->unguard(w->env);
}

void ptn__watchdog_init(ptn_runtime *rt, const ptn_runtime_opts *o) {
    rt->slow_ns = o->slow_ns;
    rt->stuck_ns = o->stuck_ns;
    rt->tick_ns = o->slow_ns != 0 && (o->stuck_ns == 0 || o->slow_ns < o->stuck_ns) ? o->slow_ns
                                                                                    : o->stuck_ns;
    rt->blocked_ns = o->slow_ns != 0 ? BLOCKED_FACTOR * o->slow_ns : PTN_NEVER;
}
