/* SPDX-License-Identifier: Apache-2.0
 *
 * stream_test.c - streams on real sockets: a runtime on its own thread, blocking clients in the
 * test's.
 *
 * The rig runs one actor per worker, listening on one endpoint, with the stream operations of the
 * test.  What callbacks see is counted under a lock; the test waits for counts, with a limit, and
 * never for time to pass.
 */
#ifndef POSTERN_RUNTIME_STREAM_RIG_H
#define POSTERN_RUNTIME_STREAM_RIG_H

#include <criterion/criterion.h>
#include <postern/stream.h>

#include "runtime/env/test_client.h"
#include "runtime/stream_stats.h"

#include <pthread.h>
#include <sched.h>

#define WORKERS_MAX 2
#define CLOSES_MAX 64
#define MSG_CRASH (PTN_MSG_USER + 1)
#define MSG_EXIT (PTN_MSG_USER + 2)
#define MSG_POKE (PTN_MSG_USER + 3)

typedef struct rig {
    ptn_runtime *rt;
    ptn_endpoint *ep;
    ptn_port *port;
    ptn_addr actors[WORKERS_MAX];
    unsigned workers;
    const ptn_stream_ops *ops;
    void (*accepted)(struct rig *r, ptn_ctx *c, ptn_stream *s);
    void (*poked)(struct rig *r, ptn_ctx *c);
    uint32_t out_bytes_max;
    ptn_time stall_ns;
    pthread_t thread;
    int result;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    /* under the lock */
    unsigned inits, accepts, reads, eofs, drains, closes, pokes;
    unsigned accepts_of[WORKERS_MAX];
    int reasons[CLOSES_MAX];
    size_t bytes;
    char first[16]; /* what on_read saw first */
    /* of the actor of worker 0 */
    ptn_stream *stream, *other;
    int sent; /* result of the last send */
} rig;

static inline time_t time_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec;
}

static inline void count(rig *r, unsigned *n) {
    pthread_mutex_lock(&r->lock);
    (*n)++;
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

static inline void wait_for(rig *r, unsigned *n, unsigned value) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += CLIENT_TIMEOUT_S;
    pthread_mutex_lock(&r->lock);
    while (*n < value)
        cr_assert_eq(pthread_cond_timedwait(&r->cond, &r->lock, &until), 0,
                     "waited for %u, have %u", value, *n);
    pthread_mutex_unlock(&r->lock);
}

/* ---- the actor ---------------------------------------------------------------------------- */

static inline void accept_callback(ptn_ctx *c, void *arg, ptn_stream *s) {
    rig *r = arg;
    if (r->out_bytes_max != 0)
        ptn_stream_limits(s, r->out_bytes_max, r->stall_ns);
    if (ptn_worker(c) == 0) {
        if (r->stream == NULL)
            r->stream = s;
        else
            r->other = s;
    }
    if (r->accepted != NULL)
        r->accepted(r, c, s);
    else
        ptn_stream_open(s, r->ops, s);
    pthread_mutex_lock(&r->lock);
    r->accepts_of[ptn_worker(c)]++;
    pthread_mutex_unlock(&r->lock);
    count(r, &r->accepts);
}

struct actor {
    rig *rig;
    ptn_listener *l;
};

static inline int actor_init(ptn_ctx *c, void *state, void *arg) {
    struct actor *a = state;
    a->rig = arg;
    int err = ptn_listen(c, a->rig->ep, accept_callback, a->rig, &a->l);
    if (err == 0)
        count(a->rig, &a->rig->inits);
    return err;
}

static inline int actor_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct actor *a = state;
    switch (m->type) {
    case PTN_MSG_STOPPING:
    case MSG_EXIT:
        ptn_exit(c, 0);
        return 0;
    case MSG_CRASH:
        return -PTN_EINVAL;
    case MSG_POKE:
        a->rig->poked(a->rig, c);
        count(a->rig, &a->rig->pokes);
        return 0;
    default:
        return 0;
    }
}

static const ptn_actor_ops actor_ops = {
    .name = "rig", .state_size = sizeof(struct actor), .init = actor_init, .handle = actor_handle};

/* ---- stream operations -------------------------------------------------------------------- */

/* The rig of a stream callback: the actor's state is known to the context. */
static inline rig *rig_of(ptn_ctx *c) {
    return ((struct actor *)ptn_self_state(c))->rig;
}

static inline void note_read(rig *r, const uint8_t *p, size_t n) {
    pthread_mutex_lock(&r->lock);
    if (r->bytes < sizeof r->first) {
        size_t room = sizeof r->first - r->bytes;
        memcpy(r->first + r->bytes, p, n < room ? n : room);
    }
    r->bytes += n;
    pthread_mutex_unlock(&r->lock);
    count(r, &r->reads);
}

static inline void sink_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    (void)owner;
    note_read(rig_of(c), p, n);
}

static inline void echo_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    cr_assert_eq(ptn_stream_write(owner, p, n), 0);
    note_read(rig_of(c), p, n);
}

static inline void note_eof(ptn_ctx *c, void *owner) {
    rig *r = rig_of(c);
    (void)owner;
    count(r, &r->eofs);
}

static inline void note_drain(ptn_ctx *c, void *owner) {
    rig *r = rig_of(c);
    cr_assert_eq(ptn_stream_queued(owner), 0);
    count(r, &r->drains);
}

static inline void note_close(ptn_ctx *c, void *owner, int reason) {
    rig *r = rig_of(c);
    (void)owner;
    pthread_mutex_lock(&r->lock);
    cr_assert_lt(r->closes, CLOSES_MAX);
    r->reasons[r->closes] = reason;
    pthread_mutex_unlock(&r->lock);
    count(r, &r->closes);
}

__attribute__((unused)) static const ptn_stream_ops echo_ops = {echo_read, NULL, note_drain,
                                                                note_close};
__attribute__((unused)) static const ptn_stream_ops sink_ops = {sink_read, note_eof, note_drain,
                                                                note_close};

/* ---- the rig ------------------------------------------------------------------------------ */

static inline void *run_thread(void *arg) {
    rig *r = arg;
    r->result = ptn_runtime_run(r->rt);
    return NULL;
}

static inline void rig_start(rig *r, const char *where) {
    ptn_runtime_opts opts = {.workers = r->workers == 0 ? 1 : r->workers};
    const char *why = "";
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->cond, NULL);
    cr_assert_eq(ptn_runtime_new(&opts, &r->rt), 0);
    int err = ptn_endpoint_bind(r->rt, where, &r->ep, &why);
    cr_assert_eq(err, 0, "%s: %s", where, why);
    for (unsigned i = 0; i < opts.workers; i++) {
        ptn_actor_opts ao = {.worker = (int)i};
        cr_assert_eq(ptn_runtime_spawn(r->rt, &actor_ops, &ao, r, PTN_TRANSIENT, &r->actors[i]), 0);
    }
    cr_assert_eq(ptn_port_open(r->rt, &r->port), 0);
    cr_assert_eq(pthread_create(&r->thread, NULL, run_thread, r), 0);
    wait_for(r, &r->inits, opts.workers);
}

static inline void rig_stop(rig *r) {
    ptn__stream_stats st;
    ptn_port_close(r->port);
    ptn_runtime_stop(r->rt);
    pthread_join(r->thread, NULL);
    cr_assert_eq(r->result, 0);
    for (unsigned i = 0; i < ptn_runtime_workers(r->rt); i++) {
        ptn__stream_stats_read(r->rt, i, &st);
        cr_assert_eq(st.streams_open, 0);
        cr_assert_eq(st.queued_bytes, 0);
    }
    ptn_endpoint_free(r->ep);
    ptn_runtime_free(r->rt);
}

static inline int rig_connect(rig *r) {
    int fd = client_connect(ptn_endpoint_address(r->ep));
    cr_assert_geq(fd, 0, "connect: %s", strerror(-fd));
    return fd;
}

/* A client whose kernel takes little ahead of its reading: with the server's send buffer (at most 4
 * MiB) far less than recv_big() expects. */
static inline int rig_connect_slow(rig *r) {
    int fd = client_connect_with(ptn_endpoint_address(r->ep), 16384);
    cr_assert_geq(fd, 0, "connect: %s", strerror(-fd));
    return fd;
}

static inline void rig_send(rig *r, uint32_t type) {
    cr_assert_eq(ptn_port_send(r->port, r->actors[0], type, NULL), 0);
}

static inline void rig_poke(rig *r) {
    unsigned before = r->pokes;
    rig_send(r, MSG_POKE);
    wait_for(r, &r->pokes, before + 1);
}

static inline ptn_frame *frame_of(size_t n, uint8_t fill) {
    ptn_frame *f = ptn_frame_new(n);
    cr_assert_not_null(f);
    memset(f->data, fill, n);
    f->len = (uint32_t)n;
    return f;
}

/* ---- more than fits ----------------------------------------------------------------------- */

#define BIG_FRAME 16384u
#define BIG_FRAMES 512u /* 8 MiB: more than the kernel takes for a slow client */

/* Sends the frames 0..BIG_FRAMES-1, or as many as are taken; the last result is left in r->sent. */
static inline void poke_send_big(rig *r, ptn_ctx *c) {
    (void)c;
    for (uint32_t i = 0; i < BIG_FRAMES && r->sent == 0; i++) {
        ptn_frame *f = frame_of(BIG_FRAME, (uint8_t)i);
        r->sent = ptn_stream_send(r->stream, f);
        ptn_frame_unref(f);
    }
}

/* Until a turn has ended after which bytes wait in queues (pressed), or none do. */
static inline void wait_for_queued(rig *r, bool some) {
    time_t until = time_s() + CLIENT_TIMEOUT_S;
    while ((ptn__streams_queued_bytes(r->rt) != 0) != some) {
        cr_assert_leq(time_s(), until);
        sched_yield();
    }
}

static inline void recv_big(int fd) {
    static uint8_t in[BIG_FRAME], want[BIG_FRAME];
    for (uint32_t i = 0; i < BIG_FRAMES; i++) {
        cr_assert_eq(client_recv(fd, in, sizeof in), sizeof in, "frame %u", i);
        memset(want, (uint8_t)i, sizeof want);
        cr_assert_eq(memcmp(in, want, sizeof in), 0, "frame %u", i);
    }
}

static inline void echo_round(int fd, size_t n) {
    char *out = malloc(n), *in = malloc(n);
    cr_assert(out != NULL && in != NULL);
    for (size_t i = 0; i < n; i++)
        out[i] = (char)(i * 31 + i / 251);
    for (size_t at = 0; at < n; at += 50000) {
        size_t part = n - at < 50000 ? n - at : 50000;
        cr_assert_eq(client_send(fd, out + at, part), 0);
        cr_assert_eq(client_recv(fd, in + at, part), part);
    }
    cr_assert_eq(memcmp(in, out, n), 0);
    free(out);
    free(in);
}

#endif
