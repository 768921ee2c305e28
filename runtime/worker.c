/* SPDX-License-Identifier: Apache-2.0
 *
 * worker.c - the worker's turn, and the park/wake protocol.
 *
 * `ready` is the only word that decides whether a worker sleeps, and the only one through which
 * messages come from other threads.  Producers and the owner touch it with read-modify-write
 * operations only; docs/memory-model.md proves that no message is left behind and no wake-up is
 * lost, under these rules: R1  the environment's wake is called for a push only by the thread whose
 * push (P) replaced PARKED; besides that only ptn_runtime_stop() and a change of phase call it,
 * which costs a turn at most; R2  the last thing before blocking is the read-modify-write (K): a
 * plain load never decides to sleep; R3  (K) is at least release and (P) at least acquire;
 *   R4  after blocking, `ready` is reset only through (T).
 *
 * A turn: clock, phase, timers, (T), run actors within 4,096 messages or 500 us, callbacks and
 * output of the turn, then (K) when nothing is left.  What goes to other workers leaves at the end
 * of each batch, and before (K).
 */
#include "runtime/mbox.h"

#include <stdlib.h>

#define TURN_NS (500 * UINT64_C(1000))
#define CLOSING_POLL_NS PTN_MS
#define SPIN_SLICE_NS 2000u
#define SPIN_LOOKS 16u /* between two at the clock */

/* ---- ready stack -------------------------------------------------------------------------- */

/* For spin.c: a sender wakes w now. */
static void woken_note(struct ptn__worker *w, ptn_time late) {
    if (w->rt->spin_ns == 0)
        return;
    /* relaxed, both: hints */
    atomic_store_explicit(&w->woken_by_late, late, memory_order_relaxed);
    atomic_store_explicit(&w->woken_at, w->env->ops->now(w->env), memory_order_relaxed);
}

bool ptn__worker_push(struct ptn__worker *w, struct ptn__env *newest, struct ptn__env *oldest,
                      ptn_time late) {
    PTN_DEBUG_ASSERT(w->magic == PTN__WORKER_MAGIC);
    /* relaxed: only the first guess for the CAS */
    struct ptn__env *old = atomic_load_explicit(&w->ready, memory_order_relaxed);
    do {
        if (old == PTN__CLOSED)
            return false;
        oldest->next = old == PTN__PARKED ? NULL : old;
        /* (P) acq_rel: release publishes the chain to (T); acquire pairs with (K), so that the wake
         * cannot be skipped because of a "pending" flag from before the park (R3). */
    } while (!atomic_compare_exchange_weak_explicit(&w->ready, &old, newest, memory_order_acq_rel,
                                                    memory_order_relaxed));
    if (old == PTN__PARKED) { /* R1: we, and nobody else, replaced PARKED */
        atomic_fetch_add_explicit(&w->wakes, 1, memory_order_relaxed); /* stats */
        woken_note(w, late);
        w->env->ops->wake(w->env, w->index);
    }
    return true;
}

void ptn__post_flush(struct ptn__worker *w, unsigned to) {
    struct ptn__post *p = &w->posts[to];
    if (p->newest == NULL)
        return;
    if (!ptn__worker_push(w->rt->workers[to], p->newest, p->oldest, w->late)) {
        p->oldest->next = NULL;
        ptn__env_discard(w->rt, &w->mag, p->newest); /* nobody lives there any more */
    }
    ptn__post_room_back(p);
    *p = (struct ptn__post){0};
    w->posts_waiting &= ~(UINT64_C(1) << to);
}

void ptn__posts_flush(struct ptn__worker *w) {
    while (w->posts_waiting != 0)
        ptn__post_flush(w, (unsigned)__builtin_ctzll(w->posts_waiting));
}

/* The first message from another thread after an idle time.  When did it come? */
static void spin_learn(struct ptn__worker *w) {
    /* relaxed: a hint; of an earlier wake-up when the one of this is not there yet */
    ptn_time at = atomic_load_explicit(&w->woken_at, memory_order_relaxed);
    if (at <= w->spin.idle_since || at > w->now) {
        ptn__spin_message(&w->spin, w->now, 0);
        return;
    }
    w->late = w->now - at;
    ptn__spin_message(&w->spin, at, atomic_load_explicit(&w->woken_by_late, memory_order_relaxed));
}

/* (T) Moves everything on the ready stack to the inboxes, oldest first. */
static void worker_take(struct ptn__worker *w) {
    /* acq_rel: acquire partner is (P) of every chain on the stack; release orders our own past
     * before the next (P) that reads this NULL.  R4: the only way PARKED goes away on our side. */
    struct ptn__env *e = atomic_exchange_explicit(&w->ready, NULL, memory_order_acq_rel);
    if (e == PTN__PARKED || e == NULL)
        return;
    if (w->spin.idle)
        spin_learn(w);
    struct ptn__env *fifo = NULL;
    while (e != NULL) {
        struct ptn__env *next = e->next;
        e->next = fifo;
        fifo = e;
        e = next;
    }
    while (fifo != NULL) {
        e = fifo;
        fifo = e->next;
        struct ptn__slot *s = ptn__slot_of(w, e->to);
        s->notes |= PTN__NOTE_FAR;
        if (e->kind == PTN__ENV_CONTROL && e->type == PTN__CTL_ADOPT && !ptn__actor_arrive(s, e))
            ptn__env_put(w->rt, &w->mag, e);
        else
            ptn__inbox_push(w, s, e);
    }
}

/* (K) R2: this CAS is the last thing before blocking.  False: somebody pushed first. */
static bool worker_try_park(struct ptn__worker *w) {
    struct ptn__env *expect = NULL;
    /* acq_rel: release partner is the acquire half of (P), see R3.  acquire on failure for symmetry
     * with (T), which follows at once. */
    return atomic_compare_exchange_strong_explicit(&w->ready, &expect, PTN__PARKED,
                                                   memory_order_acq_rel, memory_order_acquire);
}

static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Waits for messages, but no longer than sockets may wait for their turn. */
static void worker_spin(struct ptn__worker *w, ptn_time now) {
    for (ptn_time until = now + SPIN_SLICE_NS; now < until; now = w->env->ops->now(w->env)) {
        for (unsigned i = 0; i < SPIN_LOOKS; i++) {
            /* relaxed: a hint; (K) decides */
            if (atomic_load_explicit(&w->ready, memory_order_relaxed) != NULL)
                return;
            cpu_relax();
        }
    }
}

/* ---- end of turn -------------------------------------------------------------------------- */

bool ptn__worker_at_turn_end(struct ptn__worker *w) {
    if (w->turn_end_head != NULL)
        ptn__turn_ends_run(w);
    ptn__posts_flush(w); /* before a peer learns of what caused it */
    bool more = ptn__streams_flush(w, /* busy= */ !ptn__runq_is_empty(w));
    ptn__arena_reset(&w->scratch);
    return more || w->turn_end_head != NULL;
}

void ptn__worker_touch_clock(struct ptn__worker *w) {
    if (PTN_LIKELY(!w->now_stale))
        return;
    w->now = w->clock = w->env->ops->now(w->env);
    w->now_stale = false;
}

/* ---- phases: run, drain, kill ------------------------------------------------------------- */

static void wake_others(struct ptn__worker *w) {
    for (unsigned i = 0; i < w->rt->n_workers; i++) {
        if (i != w->index)
            w->env->ops->wake(w->env, i);
    }
}

static void phase_raise(struct ptn__worker *w, uint32_t from, uint32_t to) {
    /* acq_rel: partner is the acquire load in phase_check() and in supervise.c; publishes
     * drain_until */
    if (atomic_compare_exchange_strong_explicit(&w->rt->phase, &from, to, memory_order_acq_rel,
                                                memory_order_acquire))
        wake_others(w);
}

static void tell_stopping(struct ptn__worker *w) {
    for (struct ptn__slot *s = w->live, *next; s != NULL; s = next) {
        next = s->live_next;
        if (s->cold->top && s->life == PTN__HELD && s->incarnation > 0) {
            ptn__actor_end(s, PTN_ESTOPPING); /* nobody waits for its backoff */
            continue;
        }
        struct ptn__env e = {.to = s->self,
                             .deadline = PTN_NEVER,
                             .type = PTN_MSG_STOPPING,
                             .kind = PTN__ENV_SYSTEM};
        if (s->cold->top)
            (void)ptn__send(w, &e, NULL); /* else the drain deadline ends it */
    }
}

static void end_all(struct ptn__worker *w) {
    while (w->live != NULL) {
        const struct ptn__slot *s = w->live;
        ptn__actor_end(w->live, PTN_ESTOPPING);
        PTN_ASSERT(w->live != s);
    }
}

/* Owner, at the start of a turn.  True: a stop is wanted but cannot begin yet, so do not park. */
static bool phase_check(struct ptn__worker *w) {
    ptn_runtime *rt = w->rt;
    /* acquire: partner is the fetch_add in ptn_runtime_stop() */
    uint32_t stops = atomic_load_explicit(&rt->stops, memory_order_acquire);
    if (PTN_LIKELY(stops == 0))
        return false;
    if (atomic_load_explicit(&rt->workers_started, memory_order_acquire) < rt->n_workers)
        return true; /* a worker without a loop cannot be woken */
    uint64_t unset = 0;
    (void)atomic_compare_exchange_strong_explicit(&rt->drain_until, &unset, w->now + rt->drain_ns,
                                                  memory_order_relaxed, memory_order_relaxed);
    phase_raise(w, PTN__PHASE_RUN, PTN__PHASE_DRAIN);
    if (!w->drain_seen) {
        w->drain_seen = true;
        tell_stopping(w);
    }
    if (stops > 1 || w->now >= atomic_load_explicit(&rt->drain_until, memory_order_relaxed) ||
        atomic_load_explicit(&rt->top_live, memory_order_acquire) == 0)
        phase_raise(w, PTN__PHASE_DRAIN, PTN__PHASE_KILL);
    if (atomic_load_explicit(&rt->phase, memory_order_acquire) == PTN__PHASE_KILL &&
        !w->kill_seen) {
        w->kill_seen = true;
        end_all(w);
    }
    return false;
}

/* The last steps, in lockstep with the other workers, so that nobody is woken after its loop
 * closed: everyone is done; then every `ready` is CLOSED and every gate shut, which ends all wakes
 * that were on their way; then everyone stops. */
static enum ptn_turn worker_closing(struct ptn__worker *w, ptn_time *ret_next_due) {
    ptn_runtime *rt = w->rt;
    if (!w->closed_counted) {
        if (w->index == 0)
            ptn__gates_shut(rt);
        /* acq_rel: acquire partner is (P) of what came after the last turn; later pushes read
         * CLOSED and do not wake */
        struct ptn__env *late =
            atomic_exchange_explicit(&w->ready, PTN__CLOSED, memory_order_acq_rel);
        ptn__env_discard(w->rt, &w->mag, late == PTN__PARKED ? NULL : late);
        w->closed_counted = true;
        atomic_fetch_add_explicit(&rt->workers_closed, 1, memory_order_acq_rel);
    }
    /* acquire: partner is the line above in every other worker */
    if (atomic_load_explicit(&rt->workers_closed, memory_order_acquire) == rt->n_workers)
        return PTN_TURN_STOP;
    *ret_next_due = w->env->ops->now(w->env) + CLOSING_POLL_NS;
    return PTN_TURN_PARKED;
}

/* Nothing is left to do here.  Sleep, and until when? */
static enum ptn_turn worker_idle(struct ptn__worker *w, ptn_time now, ptn_time *ret_next_due) {
    ptn_runtime *rt = w->rt;
    ptn_time due = ptn__wheel_next(&w->wheel);
    if (w->kill_seen && w->n_live == 0 && w->works_pending == 0) {
        if (!w->done_counted) {
            w->done_counted = true;
            atomic_fetch_add_explicit(&rt->workers_done, 1, memory_order_acq_rel);
        }
        /* acquire: partner is the line above in every other worker */
        if (atomic_load_explicit(&rt->workers_done, memory_order_acquire) == rt->n_workers)
            return worker_closing(w, ret_next_due);
        due = w->now + CLOSING_POLL_NS;
    } else if (w->drain_seen && !w->kill_seen) {
        if (atomic_load_explicit(&rt->top_live, memory_order_acquire) == 0)
            return PTN_TURN_MORE;
        ptn_time until = atomic_load_explicit(&rt->drain_until, memory_order_relaxed);
        due = until < due ? until : due;
    }
    if (ptn__spin_wants(&w->spin, now)) {
        worker_spin(w, now);
        return PTN_TURN_MORE;
    }
    PTN_ASSERT(w->posts_waiting == 0);
    if (!worker_try_park(w))
        return PTN_TURN_MORE;
    ptn__count(&w->parks, 1);
    *ret_next_due = due;
    return PTN_TURN_PARKED;
}

static enum ptn_turn worker_turn(void *worker, ptn_time *ret_next_due) {
    struct ptn__worker *w = worker;
    *ret_next_due = PTN_NEVER;
    if (w->closed_counted)
        return worker_closing(w, ret_next_due);
    w->now = w->clock = w->env->ops->now(w->env);
    w->now_stale = false;
    w->turn_until = w->now + TURN_NS;
    uint64_t messages = atomic_load_explicit(&w->messages, memory_order_relaxed);
    bool more = phase_check(w);
    more |= ptn__timers_run(w);
    ptn__posts_flush(w); /* of these two, and of callbacks between turns */
    worker_take(w);
    ptn__actors_run(w);
    more |= ptn__worker_at_turn_end(w);
    ptn__posts_flush(w);
    ptn__count(&w->turns, 1);
    ptn_time end = w->env->ops->now(w->env), took = end - w->now;
    if (took > atomic_load_explicit(&w->lag_ns_max, memory_order_relaxed))
        atomic_store_explicit(&w->lag_ns_max, took, memory_order_relaxed); /* stats */
    if (PTN_UNLIKELY(took >= w->rt->blocked_ns))
        ptn__watchdog_blocked(w, took);
    w->now_stale = true;
    w->late = 0;
    if (atomic_load_explicit(&w->messages, memory_order_relaxed) != messages)
        ptn__spin_busy(&w->spin, end);
    if (more || !ptn__runq_is_empty(w))
        return PTN_TURN_MORE;
    return worker_idle(w, end, ret_next_due);
}

/* ---- start and end ------------------------------------------------------------------------ */

static void worker_started(void *worker) {
    struct ptn__worker *w = worker;
    ptn_runtime *rt = w->rt;
    w->now = w->clock = w->env->ops->now(w->env);
    ptn__watchdog_start(w);
    /* seq_cst, with the pair in ptn_runtime_stop(): either the stopper finds the gate open and
     * wakes, or we find its count and wake. */
    if (atomic_fetch_add(&rt->workers_started, 1) + 1 == rt->n_workers) {
        atomic_store(&rt->stop_gate, 0);
        if (atomic_load(&rt->stops) > 0)
            wake_others(w);
    }
}

static void worker_stopped(void *worker) {
    struct ptn__worker *w = worker;
    ptn__streams_done(w);
    ptn__watchdog_stop(w);
}

const ptn_env_worker_ops ptn__worker_env_ops = {
    .started = worker_started,
    .turn = worker_turn,
    .stopped = worker_stopped,
};

int ptn__worker_new(ptn_runtime *rt, unsigned index, struct ptn__worker **ret_w) {
    struct ptn__worker *w = aligned_alloc(PTN_CACHELINE, sizeof(*w));
    if (w == NULL)
        return -PTN_ENOMEM;
    memset(w, 0, sizeof(*w));
    w->magic = PTN__WORKER_MAGIC;
    w->rt = rt;
    w->env = rt->env;
    w->index = index;
    w->high = index << 24;
    w->sample_in = 1;
    ptn__mag_init(&w->mag);
    ptn__mag_init(&w->far_mag);
    ptn__mag_init(&w->back_mag);
    w->runq = PTN__RUNQ_END;
    w->runq_tail = &w->runq;
    w->now = w->clock = rt->env->ops->now(rt->env);
    ptn__wheel_init(&w->wheel, w->now);
    ptn__spin_init(&w->spin, rt->spin_ns);
    int err = ptn__turn_ends_init(w);
    if (err == 0)
        err = ptn__slots_init(w);
    if (err == 0)
        err = ptn__streams_init(w);
    if (err < 0) {
        ptn__slots_done(w);
        ptn__turn_ends_done(w);
        free(w);
        return err;
    }
    *ret_w = w;
    return 0;
}

static void posts_discard(struct ptn__worker *w) {
    for (unsigned i = 0; i < PTN_WORKERS_MAX; i++) {
        ptn__env_discard(w->rt, &w->mag, w->posts[i].newest);
        w->posts[i] = (struct ptn__post){0};
    }
}

void ptn__worker_free(struct ptn__worker *w) {
    if (w == NULL)
        return;
    posts_discard(w);
    /* Never run to its end, or never at all.  relaxed: the threads are gone */
    struct ptn__env *late = atomic_load_explicit(&w->ready, memory_order_relaxed);
    if (late != PTN__PARKED && late != PTN__CLOSED)
        ptn__env_discard(w->rt, &w->mag, late);
    ptn__streams_done(w); /* of a worker that never ran */
    ptn__slots_done(w);
    posts_discard(w); /* supervisors that end tell their children */
    ptn__ask_pool_done(w);
    ptn__mag_done(w->rt, &w->mag);
    ptn__mag_done(w->rt, &w->far_mag);
    ptn__mag_done(w->rt, &w->back_mag);
    ptn__turn_ends_done(w);
    w->scratch = ptn__arena_free(w->scratch);
    free(w);
}
