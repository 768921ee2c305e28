/* SPDX-License-Identifier: Apache-2.0
 *
 * env.h - everything that is not deterministic, behind one table: clock, entropy, threads, sockets.
 *
 * env_uv.c implements it on libuv; a seeded simulation implements it for tests.  Nothing else in
 * runtime/, actors/ or protocols/ may include <uv.h>, <time.h>, <sys/socket.h> or call rand(),
 * getenv(), time().
 *
 * The runtime calls down through ptn_env_ops; the environment calls up through ptn_env_worker_ops
 * and the callback tables below.  "Worker thread" means: the thread (or simulated step) that runs
 * that worker.
 */
#ifndef POSTERN_RUNTIME_ENV_H
#define POSTERN_RUNTIME_ENV_H

#include <postern/base.h>

typedef struct ptn_env ptn_env;
typedef struct ptn_transport ptn_transport; /* raw byte stream */
typedef struct ptn_env_endpoint ptn_env_endpoint;
typedef struct ptn_env_listener ptn_env_listener;
typedef struct ptn_env_watch ptn_env_watch;
typedef struct ptn_env_lane ptn_env_lane;

typedef struct ptn_iov { /* same layout as struct iovec */
    const void *base;
    size_t len;
} ptn_iov;

enum ptn_turn { PTN_TURN_MORE, PTN_TURN_PARKED, PTN_TURN_STOP };

/* What a worker is to the environment.  Worker thread. */
typedef struct ptn_env_worker_ops {
    void (*started)(void *worker); /* once, before the first turn */
    /* One turn.  MORE: call again without blocking (after a non-blocking poll).  PARKED: block
     * until wake(), a callback, or *ret_next_due (PTN_NEVER: none).  STOP: release the worker's
     * loop and return from its thread. */
    enum ptn_turn (*turn)(void *worker, ptn_time *ret_next_due);
    void (*stopped)(void *worker); /* once, after the last turn, still on the worker thread */
} ptn_env_worker_ops;

typedef struct ptn_transport_cbs {                            /* worker thread */
    void (*on_read)(void *owner, const uint8_t *p, size_t n); /* any split is legal */
    void (*on_eof)(void *owner);
    void (*on_writable)(
        void *owner); /* after want_write(true); level-triggered until want_write(false) */
    void (*on_error)(void *owner, int err);
} ptn_transport_cbs;

/* A thread that is watched.  The callbacks run on that thread inside a signal handler, between any
 * two instructions: they may use async-signal-safe functions and relaxed atomics only. */
struct ptn__text;
typedef struct ptn_env_guard {
    const char *name;
    void (*say)(void *arg, struct ptn__text *t); /* what it is doing, one line; NULL: no more */
    void (*tick)(void *arg);  /* whenever it has used tick_ns of CPU time; NULL or 0: never */
    void (*poked)(void *arg); /* after poke(); NULL: nothing */
    ptn_time tick_ns;
    void *arg;
} ptn_env_guard;

typedef struct ptn_env_ops {
    void (*free)(ptn_env *e);

    /* Time and entropy.  Any thread. */
    ptn_time (*now)(ptn_env *e);
    int64_t (*wall_ms)(ptn_env *e);
    void (*random)(ptn_env *e, void *p, size_t n);

    /* Processors this process may run on; NULL: nothing happens while one waits (simulation). */
    unsigned (*processors)(ptn_env *e);

    /* Runs n workers to their end; returns when all have stopped. */
    int (*run)(ptn_env *e, unsigned n, const ptn_env_worker_ops *ops, void *const *workers);
    /* Any thread.  Makes a parked worker take a turn.  docs/memory-model.md rule R1 says who may
     * call. */
    void (*wake)(ptn_env *e, unsigned worker);

    /* Worker thread, in started() and stopped(); both NULL where nothing is watched (simulation).
     * The thread gets a place in the crash record, and ticks.  An error means that it goes without.
     */
    int (*guard)(ptn_env *e, const ptn_env_guard *g);
    void (*unguard)(ptn_env *e);
    /* Any thread, also in a signal handler: calls poked() of the guard with this arg on its thread,
     * whatever that is doing, when it has one; its system call may end with EINTR.  NULL where
     * nothing is watched. */
    void (*poke)(ptn_env *e, const void *arg);

    /* Endpoints: main thread, before run().  where as in stream.h; ret_addr holds the real address.
     */
    int (*bind)(ptn_env *e, const char *where, unsigned n_workers, ptn_env_endpoint **ret_ep,
                char *ret_addr, size_t ret_addr_bytes, const char **reterr_why);
    void (*endpoint_free)(ptn_env *e, ptn_env_endpoint *ep);

    /* Sockets.  Worker thread.  on_accept with t NULL: a connection had to be refused (descriptors
     * or memory ran out); only to be counted.  listen() may be called again after listener_close().
     */
    int (*listen)(ptn_env *e, unsigned worker, ptn_env_endpoint *ep,
                  void (*on_accept)(void *owner, ptn_transport *t), void *owner,
                  ptn_env_listener **ret_l);
    void (*listener_close)(ptn_env *e, ptn_env_listener *l);
    void (*transport_open)(ptn_transport *t, const ptn_transport_cbs *cbs,
                           void *owner); /* starts reading */
    /* Off: nothing more is read.  Called in a callback of another transport, bytes that have been
     * read already still come. */
    void (*read_enable)(ptn_transport *t, bool on);
    /* Bytes the kernel took (0 when it takes none now), or a negative error. */
    int64_t (*write)(ptn_transport *t, const ptn_iov *v, size_t n);
    void (*want_write)(ptn_transport *t, bool on);
    void (*shut_write)(ptn_transport *t);
    void (*transport_close)(ptn_transport *t);   /* no callback after this returns */
    const char *(*peer)(const ptn_transport *t); /* until the next call of this thread */

    /* Foreign descriptors and signals.  Worker thread. */
    int (*watch)(ptn_env *e, unsigned worker, int fd, void (*cb)(void *owner), void *owner,
                 ptn_env_watch **ret_w);
    void (*watch_close)(ptn_env *e, ptn_env_watch *w);
    int (*signal_watch)(ptn_env *e, unsigned worker, int signum,
                        void (*cb)(void *owner, int signum), void *owner,
                        ptn_env_watch **ret_w); /* closed with watch_close */

    /* Pool work: work() elsewhere, then done() on the worker thread. */
    int (*work)(ptn_env *e, unsigned worker, void (*work)(void *arg), void (*done)(void *arg),
                void *arg);

    /* A serial executor.  step() runs on its own thread after lane_wake(); true: call again. */
    int (*lane_open)(ptn_env *e, const char *name, bool (*step)(void *arg), void *arg,
                     ptn_env_lane **ret_l);
    void (*lane_wake)(ptn_env_lane *l); /* any thread */
    /* Another lane's thread: until done(arg), which is looked at after each step that found work.
     */
    void (*lane_wait)(ptn_env_lane *l, bool (*done)(void *arg), void *arg);
    void (*lane_close)(ptn_env_lane *l); /* steps until false, then joins; main thread */
} ptn_env_ops;

struct ptn_env {
    const ptn_env_ops *ops;
};

int ptn_env_uv_new(ptn_env **ret_env);

#endif
