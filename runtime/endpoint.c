/* SPDX-License-Identifier: Apache-2.0
 *
 * endpoint.c - endpoints, listeners and watches: how actors get hold of what the environment can
 * see.
 *
 * Listeners and watches are resources of the actor that made them.  Each is freed at the place that
 * closes it: the environment calls nothing of a closed one, and after ptn__call() nothing here
 * looks at it again.
 */
#include "runtime/stream_internal.h"
#include "runtime/stream_stats.h"

#include <stdlib.h>

#define ADDRESS_BYTES_MAX 128 /* "unix:" and a path of 107 bytes */

struct ptn_endpoint {
    ptn_env *env;
    ptn_env_endpoint *ep;
    char address[ADDRESS_BYTES_MAX];
};

/* ---- endpoints ---------------------------------------------------------------------------- */

int ptn_endpoint_bind(ptn_runtime *rt, const char *where, ptn_endpoint **ret_ep,
                      const char **reterr_why) {
    ptn_endpoint *ep = calloc(1, sizeof *ep);
    if (ep == NULL) {
        if (reterr_why != NULL)
            *reterr_why = "out of memory";
        return -PTN_ENOMEM;
    }
    ep->env = rt->env;
    int err = rt->env->ops->bind(rt->env, where, rt->n_workers, &ep->ep, ep->address,
                                 sizeof ep->address, reterr_why);
    if (err != 0) {
        free(ep);
        return err;
    }
    *ret_ep = ep;
    return 0;
}

const char *ptn_endpoint_address(const ptn_endpoint *ep) {
    return ep->address;
}

void ptn_endpoint_free(ptn_endpoint *ep) {
    if (ep == NULL)
        return;
    ep->env->ops->endpoint_free(ep->env, ep->ep);
    free(ep);
}

/* ---- listeners ---------------------------------------------------------------------------- */

struct ptn_listener {
    struct ptn__resource resource; /* first: resource_close() casts */
    struct ptn__worker *w;
    ptn_addr actor;
    ptn_env_listener *el;
    ptn_accept_cb cb;
    void *arg;
};

struct accept_call {
    ptn_listener *l;
    ptn_transport *t; /* NULL once a stream has it */
};

static void accept_fn(ptn_ctx *c, void *state, void *arg) {
    struct accept_call *a = arg;
    ptn_listener *l = a->l;
    struct ptn__stream_counts *n = &l->w->stream_counts;
    ptn_stream *s;
    (void)state;
    if (ptn__stream_new(c, a->t, &s) != 0) {
        ptn__stat_add(&n->accept_errors, 1);
        return;
    }
    a->t = NULL;
    ptn__stat_add(&n->accepted, 1);
    l->cb(c, l->arg, s);
}

/* From the environment; t NULL: a connection had to be refused. */
static void accept_callback(void *owner, ptn_transport *t) {
    ptn_listener *l = owner;
    struct ptn__worker *w = l->w;
    if (t == NULL) {
        ptn__stat_add(&w->stream_counts.accept_errors, 1);
        return;
    }
    struct accept_call a = {.l = l, .t = t};
    (void)ptn__call(w, l->actor, accept_fn, &a); /* a crash closed the stream with the actor */
    if (a.t != NULL)
        w->env->ops->transport_close(a.t);
}

static void listener_end(ptn_listener *l) {
    l->w->env->ops->listener_close(l->w->env, l->el);
    free(l);
}

static void listener_resource_close(struct ptn__resource *r, ptn_ctx *c, int reason) {
    (void)c;
    (void)reason;
    listener_end((ptn_listener *)r);
}

int ptn_listen(ptn_ctx *c, ptn_endpoint *ep, ptn_accept_cb cb, void *arg, ptn_listener **ret_l) {
    struct ptn__worker *w = ptn__ctx_worker(c);
    ptn_listener *l = calloc(1, sizeof *l);
    if (l == NULL || ptn__resource_add(c, &l->resource) < 0) {
        free(l);
        return -PTN_ENOMEM;
    }
    l->resource.close = listener_resource_close;
    l->w = w;
    l->actor = ptn_self(c);
    l->cb = cb;
    l->arg = arg;
    int err = w->env->ops->listen(w->env, w->index, ep->ep, accept_callback, l, &l->el);
    if (err != 0) {
        ptn__resource_remove(&l->resource);
        free(l);
        return err;
    }
    if (ret_l != NULL)
        *ret_l = l;
    return 0;
}

void ptn_listener_close(ptn_ctx *c, ptn_listener *l) {
    (void)c;
    if (l == NULL)
        return;
    ptn__resource_remove(&l->resource);
    listener_end(l);
}

/* ---- watches ------------------------------------------------------------------------------ */

struct ptn_watch {
    struct ptn__resource resource; /* first: resource_close() casts */
    struct ptn__worker *w;
    ptn_addr actor;
    ptn_env_watch *ew;
    void (*cb)(ptn_ctx *c, void *state, void *arg);
    void *arg;
};

static void watch_fn(ptn_ctx *c, void *state, void *arg) {
    ptn_watch *w = arg;
    w->cb(c, state, w->arg);
}

static void watch_callback(void *owner) {
    ptn_watch *w = owner;
    (void)ptn__call(w->w, w->actor, watch_fn, w); /* a crash closed the watch with the actor */
}

static void watch_end(ptn_watch *w) {
    w->w->env->ops->watch_close(w->w->env, w->ew);
    free(w);
}

static void watch_resource_close(struct ptn__resource *r, ptn_ctx *c, int reason) {
    (void)c;
    (void)reason;
    watch_end((ptn_watch *)r);
}

int ptn_watch_open(ptn_ctx *c, int fd, void (*cb)(ptn_ctx *c, void *state, void *arg), void *arg,
                   ptn_watch **ret_w) {
    struct ptn__worker *worker = ptn__ctx_worker(c);
    ptn_watch *w = calloc(1, sizeof *w);
    if (w == NULL || ptn__resource_add(c, &w->resource) < 0) {
        free(w);
        return -PTN_ENOMEM;
    }
    w->resource.close = watch_resource_close;
    w->w = worker;
    w->actor = ptn_self(c);
    w->cb = cb;
    w->arg = arg;
    int err = worker->env->ops->watch(worker->env, worker->index, fd, watch_callback, w, &w->ew);
    if (err != 0) {
        ptn__resource_remove(&w->resource);
        free(w);
        return err;
    }
    if (ret_w != NULL)
        *ret_w = w;
    return 0;
}

void ptn_watch_close(ptn_ctx *c, ptn_watch *w) {
    (void)c;
    if (w == NULL)
        return;
    ptn__resource_remove(&w->resource);
    watch_end(w);
}

/* ---- numbers ------------------------------------------------------------------------------ */

void ptn__stream_stats_read(ptn_runtime *rt, unsigned worker, ptn__stream_stats *ret_stats) {
    *ret_stats = (ptn__stream_stats){0};
    if (worker >= rt->n_workers)
        return;
    struct ptn__stream_counts *st = &rt->workers[worker]->stream_counts;
    ret_stats->queued_bytes = atomic_load_explicit(&st->queued_bytes, memory_order_relaxed);
    ret_stats->streams_open = atomic_load_explicit(&st->streams_open, memory_order_relaxed);
    ret_stats->accepted = atomic_load_explicit(&st->accepted, memory_order_relaxed);
    ret_stats->accept_errors = atomic_load_explicit(&st->accept_errors, memory_order_relaxed);
    ret_stats->slow_closes = atomic_load_explicit(&st->slow_closes, memory_order_relaxed);
}

uint64_t ptn__streams_queued_bytes(ptn_runtime *rt) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < rt->n_workers; i++) {
        struct ptn__stream_counts *st = &rt->workers[i]->stream_counts;
        sum += atomic_load_explicit(&st->queued_bytes, memory_order_relaxed);
    }
    return sum;
}
