/* SPDX-License-Identifier: Apache-2.0
 *
 * env_uv_work.c - the rest of the libuv environment: foreign descriptors, signals, pool work,
 * lanes.
 *
 * A watch may be closed inside its own callback: the struct lives until libuv's close callback, and
 * libuv calls no handle that is closing.
 */
#include "runtime/env/crash.h"
#include "runtime/env/env_uv.h"

#include <pthread.h>
#include <stdlib.h>

/* ---- watches ------------------------------------------------------------------------------ */

struct ptn_env_watch {
    struct ptn__uv_thing thing;
    union {
        uv_handle_t any;
        uv_poll_t poll;
        uv_signal_t signal;
    } h;
    void (*on_fd)(void *owner);
    void (*on_signal)(void *owner, int signum);
    void *owner;
};

static void watch_closed_callback(uv_handle_t *h) {
    free(h->data);
}

static void watch_poll_callback(uv_poll_t *h, int status, int events) {
    ptn_env_watch *w = h->data;
    (void)status; /* an error shows when the owner uses its descriptor; libuv has stopped the handle
                     then */
    (void)events;
    w->on_fd(w->owner);
}

static void watch_signal_callback(uv_signal_t *h, int signum) {
    ptn_env_watch *w = h->data;
    w->on_signal(w->owner, signum);
}

static ptn_env_watch *watch_new(void *owner) {
    ptn_env_watch *w = calloc(1, sizeof *w);
    if (w != NULL) {
        w->thing.kind = PTN__UV_WATCH;
        w->owner = owner;
    }
    return w;
}

int ptn__uv_watch(ptn_env *e, unsigned worker, int fd, void (*cb)(void *owner), void *owner,
                  ptn_env_watch **ret_w) {
    struct ptn__uv_worker *uw = ptn__uv_worker_at(e, worker);
    if (uw->stopping)
        return -PTN_ESTOPPING;
    ptn_env_watch *w = watch_new(owner);
    if (w == NULL)
        return -PTN_ENOMEM;
    w->on_fd = cb;
    if (uv_poll_init(&uw->loop, &w->h.poll, fd) != 0) {
        free(w);
        return -PTN_EIO;
    }
    w->h.any.data = w;
    if (uv_poll_start(&w->h.poll, UV_READABLE, watch_poll_callback) != 0) {
        uv_close(&w->h.any, watch_closed_callback);
        return -PTN_EIO;
    }
    *ret_w = w;
    return 0;
}

int ptn__uv_signal_watch(ptn_env *e, unsigned worker, int signum,
                         void (*cb)(void *owner, int signum), void *owner, ptn_env_watch **ret_w) {
    struct ptn__uv_worker *uw = ptn__uv_worker_at(e, worker);
    if (uw->stopping)
        return -PTN_ESTOPPING;
    ptn_env_watch *w = watch_new(owner);
    if (w == NULL)
        return -PTN_ENOMEM;
    w->on_signal = cb;
    if (uv_signal_init(&uw->loop, &w->h.signal) != 0) {
        free(w);
        return -PTN_EIO;
    }
    w->h.any.data = w;
    if (uv_signal_start(&w->h.signal, watch_signal_callback, signum) != 0) {
        uv_close(&w->h.any, watch_closed_callback);
        return -PTN_EINVAL;
    }
    *ret_w = w;
    return 0;
}

void ptn__uv_watch_close(ptn_env *e, ptn_env_watch *w) {
    (void)e;
    uv_close(&w->h.any, watch_closed_callback);
}

/* ---- pool work ---------------------------------------------------------------------------- */

struct pool_job {
    uv_work_t req;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

static void work_callback(uv_work_t *req) {
    struct pool_job *j = req->data;
    j->work(j->arg);
}

static void work_done_callback(uv_work_t *req, int status) {
    struct pool_job *j = req->data;
    (void)status; /* nobody cancels */
    j->done(j->arg);
    free(j);
}

int ptn__uv_work(ptn_env *e, unsigned worker, void (*work)(void *arg), void (*done)(void *arg),
                 void *arg) {
    struct ptn__uv_worker *uw = ptn__uv_worker_at(e, worker);
    if (uw->stopping)
        return -PTN_ESTOPPING;
    struct pool_job *j = calloc(1, sizeof *j);
    if (j == NULL)
        return -PTN_ENOMEM;
    j->req.data = j;
    j->work = work;
    j->done = done;
    j->arg = arg;
    if (uv_queue_work(&uw->loop, &j->req, work_callback, work_done_callback) != 0) {
        free(j);
        return -PTN_EIO;
    }
    return 0;
}

/* ---- lanes -------------------------------------------------------------------------------- */

struct ptn_env_lane {
    bool (*step)(void *arg);
    void *arg;
    atomic_bool wanted; /* set by lane_wake(), taken by the lane before it steps */
    bool closing;       /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    pthread_cond_t stepped; /* for the waiters */
    unsigned waiters;       /* under the lock */
    pthread_t thread;
    char name[16];
};

/* Whoever looked before this step waits by now, or sees what it did. */
static void lane_tell_waiters(ptn_env_lane *l) {
    pthread_mutex_lock(&l->lock);
    if (l->waiters > 0)
        pthread_cond_broadcast(&l->stepped);
    pthread_mutex_unlock(&l->lock);
}

static void *lane_thread(void *arg) {
    ptn_env_lane *l = arg;
    const ptn_env_guard guard = {.name = l->name};
    (void)pthread_setname_np(pthread_self(), l->name);
    (void)ptn__guard_enter(&guard);
    for (bool closing = false; !closing;) {
        pthread_mutex_lock(&l->lock);
        while (!atomic_load_explicit(&l->wanted, memory_order_relaxed) && !l->closing)
            pthread_cond_wait(&l->cond, &l->lock);
        closing = l->closing;
        pthread_mutex_unlock(&l->lock);
        /* acq_rel: pairs with the exchange in lane_wake(), so a waker that found the flag set knows
         * that this step, still to come, sees its work. */
        atomic_exchange_explicit(&l->wanted, false, memory_order_acq_rel);
        while (l->step(l->arg))
            lane_tell_waiters(l);
    }
    ptn__guard_leave();
    return NULL;
}

int ptn__uv_lane_open(ptn_env *e, const char *name, bool (*step)(void *arg), void *arg,
                      ptn_env_lane **ret_l) {
    (void)e;
    ptn_env_lane *l = calloc(1, sizeof *l);
    if (l == NULL)
        return -PTN_ENOMEM;
    l->step = step;
    l->arg = arg;
    for (size_t i = 0; i + 1 < sizeof l->name && name[i] != '\0'; i++)
        l->name[i] = name[i];
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->cond, NULL);
    pthread_cond_init(&l->stepped, NULL);
    if (pthread_create(&l->thread, NULL, lane_thread, l) != 0) {
        pthread_cond_destroy(&l->stepped);
        pthread_cond_destroy(&l->cond);
        pthread_mutex_destroy(&l->lock);
        free(l);
        return -PTN_ENOMEM;
    }
    *ret_l = l;
    return 0;
}

/* Any thread.  One lock per idle-to-busy change of the lane; while it is behind, one atomic. */
void ptn__uv_lane_wake(ptn_env_lane *l) {
    if (atomic_exchange_explicit(&l->wanted, true, memory_order_acq_rel))
        return;
    pthread_mutex_lock(&l->lock);
    pthread_cond_signal(&l->cond);
    pthread_mutex_unlock(&l->lock);
}

void ptn__uv_lane_wait(ptn_env_lane *l, bool (*done)(void *arg), void *arg) {
    pthread_mutex_lock(&l->lock);
    l->waiters++;
    while (!done(arg))
        pthread_cond_wait(&l->stepped, &l->lock);
    l->waiters--;
    pthread_mutex_unlock(&l->lock);
}

void ptn__uv_lane_close(ptn_env_lane *l) {
    if (l == NULL)
        return;
    pthread_mutex_lock(&l->lock);
    l->closing = true;
    pthread_cond_signal(&l->cond);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->stepped);
    pthread_cond_destroy(&l->cond);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
