/* SPDX-License-Identifier: Apache-2.0
 *
 * runtime.c - the runtime as a whole: make, run, stop, free, and the numbers it shows.
 */
#include "runtime/internal.h"

#include <stdlib.h>

#define DRAIN_DEFAULT_NS (5 * PTN_SEC)
#define SPIN_DEFAULT_NS (20 * UINT64_C(1000))

/* 0: never, also where another worker may need the processor. */
static ptn_time spin_limit(ptn_env *e, unsigned workers, ptn_time wanted) {
    if (wanted == PTN_NEVER || e->ops->processors == NULL)
        return 0;
    unsigned n = e->ops->processors(e);
    if (n < 2 || n < workers)
        return 0;
    return wanted != 0 ? wanted : SPIN_DEFAULT_NS;
}

int ptn_runtime_new(const ptn_runtime_opts *opts, ptn_runtime **ret_rt) {
    const ptn_runtime_opts defaults = {0};
    const ptn_runtime_opts *o = opts != NULL ? opts : &defaults;
    if (o->workers > PTN_WORKERS_MAX)
        return -PTN_EINVAL;
    ptn_runtime *rt = calloc(1, sizeof(*rt));
    if (rt == NULL)
        return -PTN_ENOMEM;
    int err = ptn__depot_init(&rt->depot);
    if (err < 0) {
        free(rt);
        return err;
    }
    unsigned n = o->workers != 0 ? o->workers : 1;
    ptn__watchdog_init(rt, o);
    rt->drain_ns = o->drain_ns != 0 ? o->drain_ns : DRAIN_DEFAULT_NS;
    rt->env = o->env;
    /* No loops yet: ptn_runtime_stop() counts, but wakes nobody. */
    atomic_init(&rt->stop_gate, PTN__GATE_CLOSED);
    (void)pthread_mutex_init(&rt->foreign_lock, NULL);
    if (rt->env == NULL) {
        err = ptn_env_uv_new(&rt->env);
        rt->env_owned = err == 0;
    }
    if (err == 0) {
        rt->spin_ns = spin_limit(rt->env, n, o->spin_ns);
        err = ptn__registry_init(&rt->registry);
    }
    if (err == 0) {
        rt->workers = calloc(n, sizeof(struct ptn__worker *));
        err = rt->workers != NULL ? 0 : -PTN_ENOMEM;
    }
    for (unsigned i = 0; err == 0 && i < n; i++) {
        err = ptn__worker_new(rt, i, &rt->workers[i]);
        rt->n_workers += err == 0;
    }
    if (err == 0)
        err = ptn__root_new(rt);
    if (err < 0) {
        ptn_runtime_free(rt);
        return err;
    }
    *ret_rt = rt;
    return 0;
}

int ptn_runtime_run(ptn_runtime *rt) {
    if (rt->ran)
        return -PTN_EINVAL;
    rt->ran = true;
    void *workers[PTN_WORKERS_MAX];
    for (unsigned i = 0; i < rt->n_workers; i++)
        workers[i] = rt->workers[i];
    int err = rt->env->ops->run(rt->env, rt->n_workers, &ptn__worker_env_ops, workers);
    return err < 0 ? err : atomic_load_explicit(&rt->result, memory_order_acquire);
}

void ptn_runtime_stop(ptn_runtime *rt) {
    /* seq_cst: see worker_started() */
    atomic_fetch_add(&rt->stops, 1);
    if (!ptn__gate_enter(&rt->stop_gate))
        return;
    for (unsigned i = 0; i < rt->n_workers; i++)
        rt->env->ops->wake(rt->env, i);
    ptn__gate_leave(&rt->stop_gate);
}

void ptn__runtime_gave_up(ptn_runtime *rt) {
    atomic_store_explicit(&rt->result, -PTN_ECRASHED, memory_order_release); /* ptn_runtime_run() */
    ptn_runtime_stop(rt);
}

void ptn_runtime_free(ptn_runtime *rt) {
    if (rt == NULL)
        return;
    PTN_ASSERT(rt->foreign == NULL); /* a port or a lane is still open */
    for (unsigned i = 0; i < rt->n_workers; i++)
        ptn__worker_free(rt->workers[i]);
    free(rt->workers);
    ptn__registry_done(&rt->registry);
    ptn__depot_done(&rt->depot);
    (void)pthread_mutex_destroy(&rt->foreign_lock);
    if (rt->env_owned)
        rt->env->ops->free(rt->env);
    free(rt);
}

unsigned ptn_runtime_workers(const ptn_runtime *rt) {
    return rt->n_workers;
}

int ptn_runtime_spawn(ptn_runtime *rt, const ptn_actor_ops *ops, const ptn_actor_opts *opts,
                      void *arg, enum ptn_restart restart, ptn_addr *ret_addr) {
    if (rt->ran)
        return -PTN_EINVAL;
    ptn_child kid = {.ops = ops, .opts = {.worker = -1}, .arg = arg, .restart = restart};
    if (opts != NULL)
        kid.opts = *opts;
    return ptn__root_add(rt, &kid, ret_addr);
}

void ptn_runtime_on_trace(ptn_runtime *rt, void (*fn)(const ptn_trace_event *e, void *arg),
                          void *arg) {
    rt->trace = fn;
    rt->trace_arg = arg;
}

/* ---- looking inside ----------------------------------------------------------------------- */

static uint64_t relaxed(const _Atomic(uint64_t) *p) {
    return atomic_load_explicit(p, memory_order_relaxed);
}

/* False: no live actor. */
static bool slot_stats(const struct ptn__slot *s, unsigned worker, ptn_actor_stats *st) {
    uint32_t gen = atomic_load_explicit(&s->gen, memory_order_relaxed);
    /* acquire: partner is the release store in ptn__actor_adopt() */
    const char *name = atomic_load_explicit(&s->ops_name, memory_order_acquire);
    if ((gen & 1) == 0 || name == NULL)
        return false;
    /* acquire, both: partner are the release stores in ptn__actor_adopt() */
    uint64_t load = atomic_load_explicit(&s->near_level, memory_order_acquire) -
                    atomic_load_explicit(&s->near_slack, memory_order_acquire) +
                    relaxed(&s->far_load);
    uint32_t inits = atomic_load_explicit(&s->incarnation, memory_order_relaxed);
    *st = (ptn_actor_stats){
        .name = name,
        .addr = (ptn_addr)worker << 56 | (ptn_addr)s->index << 32 | gen,
        .mbox_msgs = (uint32_t)(load >> 40),
        .mbox_msgs_max = atomic_load_explicit(&s->msgs_max, memory_order_relaxed),
        .mbox_bytes = load & PTN__LOAD_BYTES,
        .handled = relaxed(&s->handled),
        .refused = relaxed(&s->refused),
        .restarts = inits > 0 ? inits - 1 : 0,
        .busy_ns_sum = relaxed(&s->busy_ns_sum),
    };
    return atomic_load_explicit(&s->gen, memory_order_relaxed) == gen;
}

void ptn_waits_visit(ptn_runtime *rt,
                     void (*visit)(const char *name, const ptn_histogram_cells *h, void *arg),
                     void *arg) {
    for (unsigned wi = 0; wi < rt->n_workers; wi++)
        for (unsigned i = 0; i < PTN__WAITS_MAX; i++) {
            struct ptn__wait *wait = &rt->workers[wi]->waits[i];
            /* acquire: partner is the release store in actor.c */
            const char *name = atomic_load_explicit(&wait->name, memory_order_acquire);
            if (name != NULL)
                visit(name, &wait->cells, arg);
        }
}

void ptn_actors_visit(ptn_runtime *rt, void (*visit)(const ptn_actor_stats *s, void *arg),
                      void *arg) {
    for (unsigned wi = 0; wi < rt->n_workers; wi++) {
        struct ptn__slot_table *t = &rt->workers[wi]->slots;
        /* acquire: partner is the release store in slot.c */
        uint32_t chunks = atomic_load_explicit(&t->n_chunks, memory_order_acquire);
        for (uint32_t k = 0; k < chunks; k++) {
            const struct ptn__slot *chunk =
                atomic_load_explicit(&t->chunks[k], memory_order_acquire);
            for (uint32_t i = 0; i < PTN__CHUNK_SLOTS; i++) {
                ptn_actor_stats st;
                if (slot_stats(&chunk[i], wi, &st))
                    visit(&st, arg);
            }
        }
    }
}

void ptn_worker_stats_read(ptn_runtime *rt, unsigned worker, ptn_worker_stats *ret_stats) {
    if (worker >= rt->n_workers) {
        *ret_stats = (ptn_worker_stats){0};
        return;
    }
    struct ptn__worker *w = rt->workers[worker];
    *ret_stats = (ptn_worker_stats){
        .turns = relaxed(&w->turns),
        .parks = relaxed(&w->parks),
        .wakes = relaxed(&w->wakes),
        .messages = relaxed(&w->messages),
        .dead_letters = relaxed(&w->dead_letters),
        .late_replies = relaxed(&w->late_replies),
        .deadline_expired = relaxed(&w->deadline_expired),
        .backing_off = relaxed(&w->backing_off),
        .slow_handlers = relaxed(&w->slow_handlers),
        .blocked_turns = relaxed(&w->blocked_turns),
        /* reading resets it; a turn that ends meanwhile may be lost from one of the two readings */
        .lag_ns_max = atomic_exchange_explicit(&w->lag_ns_max, 0, memory_order_relaxed),
    };
}
