/* SPDX-License-Identifier: Apache-2.0
 *
 * work.c - what comes back to an actor from the environment: pool work and signals.
 *
 * Work belongs to the incarnation that started it.  When that is gone, the callback still runs,
 * without a context, because somebody must free the job; shutdown waits for work in progress for
 * the same reason.
 */
#include "runtime/mbox.h"

#include <stdlib.h>

#define WORKS_MAX 65536u /* per worker */

struct work {
    struct ptn__worker *w;
    ptn_addr owner;
    uint32_t incarnation;
    bool delivered;
    void (*run)(void *job);
    void *job;
    ptn_work_done_cb done;
};

static void work_run(void *arg) { /* pool thread */
    const struct work *k = arg;
    k->run(k->job);
}

static void work_deliver(ptn_ctx *c, void *state, void *arg) {
    struct work *k = arg;
    if (c->slot->incarnation != k->incarnation)
        return;
    k->delivered = true; /* first: done may not return */
    k->done(c, state, k->job, 0);
}

static void work_done(void *arg) { /* worker thread */
    struct work *k = arg;
    k->w->works_pending--;
    (void)ptn__call(k->w, k->owner, work_deliver, k);
    if (!k->delivered)
        k->done(NULL, NULL, k->job, -PTN_ENOACTOR);
    free(k);
}

int ptn_work(ptn_ctx *c, void (*work)(void *job), void *job, ptn_work_done_cb done) {
    struct ptn__worker *w = c->w;
    if (work == NULL || done == NULL)
        return -PTN_EINVAL;
    if (w->works_pending >= WORKS_MAX || PTN_BUGGIFY("work.full"))
        return -PTN_EOVERLOAD;
    struct work *k = malloc(sizeof(*k));
    if (k == NULL)
        return -PTN_ENOMEM;
    *k = (struct work){.w = w,
                       .owner = c->slot->self,
                       .incarnation = c->slot->incarnation,
                       .run = work,
                       .job = job,
                       .done = done};
    int err = w->env->ops->work(w->env, w->index, work_run, work_done, k);
    if (err < 0) {
        free(k);
        return err;
    }
    w->works_pending++;
    return 0;
}

/* ---- signals ------------------------------------------------------------------------------ */

struct signal_watch {
    struct ptn__resource res;
    struct ptn__worker *w;
    ptn_addr owner;
    ptn_env_watch *watch;
};

static void signal_arrived(void *owner, int signum) {
    const struct signal_watch *k = owner;
    struct ptn__env e = {.to = k->owner,
                         .corr = (uint64_t)signum,
                         .deadline = PTN_NEVER,
                         .type = PTN_MSG_SIGNAL,
                         .kind = PTN__ENV_SYSTEM};
    (void)ptn__send(k->w, &e, NULL);
}

static void signal_close(struct ptn__resource *r, ptn_ctx *c, int reason) {
    (void)c;
    (void)reason;
    struct signal_watch *k = (struct signal_watch *)(void *)r;
    k->w->env->ops->watch_close(k->w->env, k->watch);
    free(k);
}

int ptn_signal_watch(ptn_ctx *c, int signum) {
    struct ptn__worker *w = c->w;
    struct signal_watch *k = calloc(1, sizeof(*k));
    if (k == NULL || ptn__resource_add(c, &k->res) < 0) {
        free(k);
        return -PTN_ENOMEM;
    }
    k->w = w;
    k->owner = c->slot->self;
    k->res.close = signal_close;
    int err = w->env->ops->signal_watch(w->env, w->index, signum, signal_arrived, k, &k->watch);
    if (err < 0) {
        ptn__resource_remove(&k->res);
        free(k);
        return err;
    }
    return 0;
}
