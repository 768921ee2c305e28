/* SPDX-License-Identifier: Apache-2.0
 *
 * env_uv.c - the production environment: one libuv loop per worker, the system's clock and entropy.
 *
 * Where the turn sits: in the loop's only prepare handle.  libuv runs prepare callbacks right
 * before it computes the poll timeout and polls, so nothing runs between the worker's decision to
 * park and epoll_wait() (docs/memory-model.md, R2).  While there is work, a dummy idle handle makes
 * that timeout zero.
 *
 * A parked worker has no idle handle and at most one armed timer: it makes no system call until
 * something happens.  The timer's deadline is kept in the loop's own milliseconds, rounded up, so
 * that a turn is never called before the time it asked for.
 *
 * The async handles outlive run(): foreign threads may still wake a worker until free() (rule R1
 * lets a port do so after the workers are gone).
 */
#include "runtime/env/env_uv.h"
#include "runtime/env/crash.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static ptn_time clock_ns(clockid_t id) {
    struct timespec ts;
    PTN_ASSERT(clock_gettime(id, &ts) == 0);
    return (ptn_time)ts.tv_sec * PTN_SEC + (ptn_time)ts.tv_nsec;
}

static ptn_time env_now(ptn_env *e) {
    (void)e;
    return clock_ns(CLOCK_MONOTONIC);
}

static int64_t env_wall_ms(ptn_env *e) {
    (void)e;
    return (int64_t)(clock_ns(CLOCK_REALTIME) / PTN_MS);
}

/* There is no way to go on without entropy: keys and tokens come from here. */
static void kernel_random(void *p, size_t n) {
    uint8_t *at = p;
    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);
        PTN_ASSERT(got > 0 || errno == EINTR);
        if (got > 0) {
            at += got;
            n -= (size_t)got;
        }
    }
}

/* Ids are made per message, and a system call is not: small requests of a thread share one.  What
 * was handed out is wiped here. */
static void env_random(ptn_env *e, void *p, size_t n) {
    static _Thread_local struct {
        uint8_t bytes[512];
        size_t left;
    } pool;
    (void)e;
    if (n > 64) {
        kernel_random(p, n);
        return;
    }
    if (pool.left < n) {
        kernel_random(pool.bytes, sizeof pool.bytes);
        pool.left = sizeof pool.bytes;
    }
    pool.left -= n;
    memcpy(p, pool.bytes + pool.left, n);
    explicit_bzero(pool.bytes + pool.left, n);
}

static unsigned env_processors(ptn_env *e) {
    (void)e;
    return uv_available_parallelism();
}

/* Any thread, also in a signal handler.  Before run() there is nobody to wake: the first turn comes
 * anyway. */
static void env_wake(ptn_env *e, unsigned worker) {
    struct ptn__uv_env *u = (struct ptn__uv_env *)e;
    struct ptn__uv_worker *ws = atomic_load_explicit(&u->workers, memory_order_acquire);
    if (ws != NULL && worker < u->n_workers)
        uv_async_send(&ws[worker].wake);
}

static int env_guard(ptn_env *e, const ptn_env_guard *g) {
    (void)e;
    return ptn__guard_enter(g);
}

static void env_unguard(ptn_env *e) {
    (void)e;
    ptn__guard_leave();
}

static void env_poke(ptn_env *e, const void *arg) {
    (void)e;
    ptn__guard_poke(arg);
}

/* ---- the worker's loop -------------------------------------------------------------------- */

static void spin_callback(uv_idle_t *h) {
    (void)h; /* its existence makes the poll timeout zero */
}

static void due_callback(uv_timer_t *h) {
    struct ptn__uv_worker *w = h->data;
    w->armed_ms = UINT64_MAX; /* the turn follows in the same iteration */
}

static void wake_callback(uv_async_t *h) {
    (void)h; /* the turn follows in the next iteration */
}

static void arm(struct ptn__uv_worker *w, ptn_time due) {
    uint64_t due_ms = due == PTN_NEVER ? UINT64_MAX : due / PTN_MS + (due % PTN_MS != 0);
    if (due_ms == w->armed_ms)
        return;
    w->armed_ms = due_ms;
    if (due_ms == UINT64_MAX) {
        uv_timer_stop(&w->due);
        return;
    }
    /* Same clock as env_now(); without the update the turn's own duration would make the timer
     * early. */
    uv_update_time(&w->loop);
    uint64_t now_ms = uv_now(&w->loop);
    uv_timer_start(&w->due, due_callback, due_ms > now_ms ? due_ms - now_ms : 0, 0);
}

static void close_callback(uv_handle_t *h, void *arg) {
    struct ptn__uv_worker *w = arg;
    if (uv_is_closing(h) || h->data == w)
        return;
    struct ptn__uv_thing *thing = h->data;
    switch (thing->kind) {
    case PTN__UV_TRANSPORT:
        ptn__uv_transport_close((ptn_transport *)thing);
        break;
    case PTN__UV_LISTENER:
        ptn__uv_listener_close(&w->env->base, (ptn_env_listener *)thing);
        break;
    case PTN__UV_WATCH:
        ptn__uv_watch_close(&w->env->base, (ptn_env_watch *)thing);
        break;
    }
}

/* Closes everything but `wake`, which no longer keeps the loop alive.  The loop then ends by
 * itself, after pool work that is under way has reported back. */
static void worker_shut(struct ptn__uv_worker *w) {
    w->stopping = true;
    uv_walk(&w->loop, close_callback, w);
    uv_close((uv_handle_t *)&w->prepare, NULL);
    uv_close((uv_handle_t *)&w->spin, NULL);
    uv_close((uv_handle_t *)&w->due, NULL);
    uv_unref((uv_handle_t *)&w->wake);
}

static void turn_callback(uv_prepare_t *h) {
    struct ptn__uv_worker *w = h->data;
    ptn_time due = PTN_NEVER;
    ptn__uv_deliver(w);
    switch (w->ops->turn(w->worker, &due)) {
    case PTN_TURN_MORE:
        uv_idle_start(&w->spin, spin_callback);
        break;
    case PTN_TURN_PARKED:
        uv_idle_stop(&w->spin);
        arm(w, due);
        break;
    case PTN_TURN_STOP:
        worker_shut(w);
        break;
    }
}

static int worker_init(struct ptn__uv_worker *w) {
    w->reserve_fd = -1;
    w->armed_ms = UINT64_MAX;
    w->read_buf = malloc(PTN__UV_READ_BYTES);
    if (w->read_buf == NULL)
        return -PTN_ENOMEM;
    if (uv_loop_init(&w->loop) != 0)
        return -PTN_EIO;
    if (uv_async_init(&w->loop, &w->wake, wake_callback) != 0) {
        uv_loop_close(&w->loop);
        return -PTN_EIO;
    }
    uv_prepare_init(&w->loop, &w->prepare);
    uv_idle_init(&w->loop, &w->spin);
    uv_timer_init(&w->loop, &w->due);
    w->wake.data = w->prepare.data = w->spin.data = w->due.data = w;
    w->reserve_fd = ptn__uv_reserve_fd();
    w->loop_ready = true;
    return 0;
}

/* After the worker's thread, or instead of it. */
static void worker_done(struct ptn__uv_worker *w) {
    if (w->loop_ready) {
        if (!w->stopping)
            worker_shut(w);
        uv_close((uv_handle_t *)&w->wake, NULL);
        uv_run(&w->loop, UV_RUN_DEFAULT);
        PTN_ASSERT(uv_loop_close(&w->loop) == 0);
    }
    if (w->reserve_fd >= 0)
        close(w->reserve_fd);
    free(w->read_buf);
}

static void worker_run(struct ptn__uv_worker *w) {
    w->ops->started(w->worker);
    uv_prepare_start(&w->prepare, turn_callback);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    w->ops->stopped(w->worker);
}

/* Workers start together, or, when a thread cannot be made, not at all. */
static bool gate_wait(struct ptn__uv_env *u) {
    uv_mutex_lock(&u->gate_lock);
    while (u->gate == PTN__UV_GATE_SHUT)
        uv_cond_wait(&u->gate_cond, &u->gate_lock);
    bool open = u->gate == PTN__UV_GATE_OPEN;
    uv_mutex_unlock(&u->gate_lock);
    return open;
}

static void gate_set(struct ptn__uv_env *u, bool open) {
    uv_mutex_lock(&u->gate_lock);
    u->gate = open ? PTN__UV_GATE_OPEN : PTN__UV_GATE_ABORT;
    uv_cond_broadcast(&u->gate_cond);
    uv_mutex_unlock(&u->gate_lock);
}

static void worker_thread(void *arg) {
    struct ptn__uv_worker *w = arg;
    char name[16];
    (void)snprintf(name, sizeof name, "ptn-w%u", w->index);
    (void)pthread_setname_np(pthread_self(), name);
    if (gate_wait(w->env))
        worker_run(w);
}

static void workers_free(struct ptn__uv_env *u) {
    struct ptn__uv_worker *ws = atomic_exchange_explicit(&u->workers, NULL, memory_order_acq_rel);
    if (ws == NULL)
        return;
    for (unsigned i = 0; i < u->n_workers; i++)
        worker_done(&ws[i]);
    free(ws);
}

/* One run() per environment: the loops stay until free(). */
static int env_run(ptn_env *e, unsigned n, const ptn_env_worker_ops *ops, void *const *workers) {
    struct ptn__uv_env *u = (struct ptn__uv_env *)e;
    if (n == 0 || atomic_load_explicit(&u->workers, memory_order_relaxed) != NULL)
        return -PTN_EINVAL;
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    (void)sigaction(SIGPIPE, &ignore, NULL); /* libraries write to sockets too */

    struct ptn__uv_worker *ws = calloc(n, sizeof *ws);
    if (ws == NULL)
        return -PTN_ENOMEM;
    int err = 0;
    for (unsigned i = 0; i < n && err == 0; i++) {
        ws[i].env = u;
        ws[i].ops = ops;
        ws[i].worker = workers[i];
        ws[i].index = i;
        ws[i].reserve_fd = -1;
        err = worker_init(&ws[i]);
    }
    u->n_workers = n;
    u->gate = PTN__UV_GATE_SHUT;
    atomic_store_explicit(&u->workers, ws, memory_order_release); /* env_wake() acquires */

    unsigned n_threads = 1; /* worker 0 is this thread */
    while (err == 0 && n_threads < n) {
        if (uv_thread_create(&ws[n_threads].thread, worker_thread, &ws[n_threads]) != 0)
            err = -PTN_ENOMEM;
        else
            n_threads++;
    }
    gate_set(u, err == 0);
    if (err == 0)
        worker_run(&ws[0]);
    for (unsigned i = 1; i < n_threads; i++)
        uv_thread_join(&ws[i].thread);
    if (err != 0)
        workers_free(u);
    return err;
}

static void env_free(ptn_env *e) {
    struct ptn__uv_env *u = (struct ptn__uv_env *)e;
    workers_free(u);
    uv_cond_destroy(&u->gate_cond);
    uv_mutex_destroy(&u->gate_lock);
    free(u);
}

static const ptn_env_ops uv_ops = {
    .free = env_free,
    .now = env_now,
    .wall_ms = env_wall_ms,
    .random = env_random,
    .processors = env_processors,
    .run = env_run,
    .wake = env_wake,
    .guard = env_guard,
    .unguard = env_unguard,
    .poke = env_poke,
    .bind = ptn__uv_bind,
    .endpoint_free = ptn__uv_endpoint_free,
    .listen = ptn__uv_listen,
    .listener_close = ptn__uv_listener_close,
    .transport_open = ptn__uv_transport_open,
    .read_enable = ptn__uv_read_enable,
    .write = ptn__uv_write,
    .want_write = ptn__uv_want_write,
    .shut_write = ptn__uv_shut_write,
    .transport_close = ptn__uv_transport_close,
    .peer = ptn__uv_peer,
    .watch = ptn__uv_watch,
    .watch_close = ptn__uv_watch_close,
    .signal_watch = ptn__uv_signal_watch,
    .work = ptn__uv_work,
    .lane_open = ptn__uv_lane_open,
    .lane_wake = ptn__uv_lane_wake,
    .lane_wait = ptn__uv_lane_wait,
    .lane_close = ptn__uv_lane_close,
};

int ptn_env_uv_new(ptn_env **ret_env) {
    struct ptn__uv_env *u = calloc(1, sizeof *u);
    if (u == NULL)
        return -PTN_ENOMEM;
    u->base.ops = &uv_ops;
    if (uv_mutex_init(&u->gate_lock) != 0) {
        free(u);
        return -PTN_ENOMEM;
    }
    if (uv_cond_init(&u->gate_cond) != 0) {
        uv_mutex_destroy(&u->gate_lock);
        free(u);
        return -PTN_ENOMEM;
    }
    *ret_env = &u->base;
    return 0;
}
