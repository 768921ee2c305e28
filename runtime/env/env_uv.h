/* SPDX-License-Identifier: Apache-2.0
 *
 * env_uv.h - what the files of the libuv environment share; nobody else includes it.
 *
 * One ptn__uv_worker per thread.  Everything in it belongs to that thread, except `wake` (any
 * thread) and the time before and after the thread's life, when it belongs to the thread that calls
 * run() and free().
 *
 * Every heap object with a uv handle starts with a ptn__uv_thing, and the handle's data points to
 * it, so that a stopping worker can close what is left with one uv_walk().
 */
#ifndef POSTERN_RUNTIME_ENV_UV_H
#define POSTERN_RUNTIME_ENV_UV_H

#include <stdatomic.h>
#include <uv.h>

#include "runtime/env/env.h"

#define PTN__UV_READ_BYTES (64u << 10) /* the worker's shared read buffer */
#define PTN__UV_READS_MAX 64u          /* reads that lie in it at a time */

struct ptn__uv_read {
    ptn_transport *t; /* NULL: closed since */
    const uint8_t *p;
    size_t n;
};

enum ptn__uv_kind {
    PTN__UV_TRANSPORT,
    PTN__UV_LISTENER,
    PTN__UV_WATCH,
};

struct ptn__uv_thing {
    enum ptn__uv_kind kind;
};

struct ptn__uv_worker {
    struct ptn__uv_env *env;
    const ptn_env_worker_ops *ops;
    void *worker;
    unsigned index;
    bool loop_ready; /* loop and handles are initialised */
    bool stopping;
    int reserve_fd;    /* given up to accept and refuse when descriptors run out; -1: none */
    uint64_t armed_ms; /* loop time the due timer is set to; UINT64_MAX: stopped */
    uint8_t *read_buf;
    struct ptn__uv_read reads[PTN__UV_READS_MAX];
    unsigned n_reads;
    size_t read_used; /* bytes of read_buf */
    uv_thread_t thread;
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_idle_t spin;
    uv_timer_t due;
    uv_async_t wake;
};

struct ptn__uv_env {
    ptn_env base;
    unsigned n_workers;
    _Atomic(struct ptn__uv_worker *) workers; /* array; NULL before run() */
    uv_mutex_t gate_lock;
    uv_cond_t gate_cond;
    enum { PTN__UV_GATE_SHUT, PTN__UV_GATE_OPEN, PTN__UV_GATE_ABORT } gate;
};

static inline struct ptn__uv_worker *ptn__uv_worker_at(ptn_env *e, unsigned worker) {
    struct ptn__uv_env *u = (struct ptn__uv_env *)e;
    struct ptn__uv_worker *ws = atomic_load_explicit(&u->workers, memory_order_acquire);
    PTN_ASSERT(ws != NULL && worker < u->n_workers);
    return &ws[worker];
}

/* env_uv_bind.c: endpoints. */
int ptn__uv_bind(ptn_env *e, const char *where, unsigned n_workers, ptn_env_endpoint **ret_ep,
                 char *ret_addr, size_t ret_addr_bytes, const char **reterr_why);
void ptn__uv_endpoint_free(ptn_env *e, ptn_env_endpoint *ep);
/* Hands the worker its listening socket: 0, 1 when this worker has no share, or an error.
 * *ret_path: the socket file to remove with ptn__uv_unlink(), or NULL; the caller owns it. */
struct ptn__uv_path {
    uint64_t dev,
        ino; /* of the file we made: a successor's file of the same name is not ours to remove */
    char path[108];
};
int ptn__uv_endpoint_take(ptn_env_endpoint *ep, unsigned worker, int *ret_fd,
                          struct ptn__uv_path **ret_path);
void ptn__uv_unlink(const struct ptn__uv_path *p);
void ptn__uv_addr_text(const void *sockaddr, char *ret_text, size_t ret_text_bytes);
#define PTN__UV_ADDR_TEXT_BYTES 64 /* "[v6%scope]:65535" and its end */

/* env_uv_net.c: listeners and transports, as in env.h. */
int ptn__uv_listen(ptn_env *e, unsigned worker, ptn_env_endpoint *ep,
                   void (*on_accept)(void *owner, ptn_transport *t), void *owner,
                   ptn_env_listener **ret_l);
void ptn__uv_listener_close(ptn_env *e, ptn_env_listener *l);
void ptn__uv_transport_open(ptn_transport *t, const ptn_transport_cbs *cbs, void *owner);
void ptn__uv_read_enable(ptn_transport *t, bool on);
int64_t ptn__uv_write(ptn_transport *t, const ptn_iov *v, size_t n);
void ptn__uv_want_write(ptn_transport *t, bool on);
void ptn__uv_shut_write(ptn_transport *t);
/* Hands over what was read since the last turn. */
void ptn__uv_deliver(struct ptn__uv_worker *w);
void ptn__uv_transport_close(ptn_transport *t);
const char *ptn__uv_peer(const ptn_transport *t);
int ptn__uv_reserve_fd(void);

/* env_uv_work.c: watches, signals, pool work, lanes, as in env.h. */
int ptn__uv_watch(ptn_env *e, unsigned worker, int fd, void (*cb)(void *owner), void *owner,
                  ptn_env_watch **ret_w);
void ptn__uv_watch_close(ptn_env *e, ptn_env_watch *w);
int ptn__uv_signal_watch(ptn_env *e, unsigned worker, int signum,
                         void (*cb)(void *owner, int signum), void *owner, ptn_env_watch **ret_w);
int ptn__uv_work(ptn_env *e, unsigned worker, void (*work)(void *arg), void (*done)(void *arg),
                 void *arg);
int ptn__uv_lane_open(ptn_env *e, const char *name, bool (*step)(void *arg), void *arg,
                      ptn_env_lane **ret_l);
void ptn__uv_lane_wake(ptn_env_lane *l);
void ptn__uv_lane_wait(ptn_env_lane *l, bool (*done)(void *arg), void *arg);
void ptn__uv_lane_close(ptn_env_lane *l);

#endif
