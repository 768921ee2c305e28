/* SPDX-License-Identifier: Apache-2.0
 *
 * stream.h - byte streams that belong to an actor: TCP and Unix sockets now, TLS beneath them
 * later, simulated ones in tests.  Byte machines (http, ws) sit on these and never see a socket.
 *
 * Owner worker only, all of it.  Callbacks run in the context of the actor that called
 * ptn_listen().
 *
 * Output: frames are linked into the stream's out-queue and written with one gathered write per
 * stream at the end of the worker's turn.  A frame is worker-local, so its count is a plain
 * integer, and any number of streams share one.
 */
#ifndef POSTERN_STREAM_H
#define POSTERN_STREAM_H

#include <postern/runtime.h>

/* ---- frames ------------------------------------------------------------------------------- */

typedef struct ptn_frame {
    uint32_t refs;
    uint32_t len;
    uint32_t cap;
    uint32_t pool_class; /* the allocator's */
    uint8_t data[];
} ptn_frame;

ptn_frame *ptn_frame_new(size_t cap); /* len 0, one reference; NULL: no memory */
static inline ptn_frame *ptn_frame_ref(ptn_frame *f) {
    f->refs++;
    return f;
}
void ptn__frame_free(ptn_frame *f);
static inline ptn_frame *ptn_frame_unref(ptn_frame *f) { /* accepts NULL, returns NULL */
    if (f != NULL && --f->refs == 0)
        ptn__frame_free(f);
    return NULL;
}

/* ---- endpoints and listeners -------------------------------------------------------------- */

/* A bound address with one listening socket per worker (SO_REUSEPORT), or one shared Unix socket.
 * where: "127.0.0.1:8771", "[::1]:0", "localhost:0", ":8771" (all interfaces), "unix:/path".  Port
 * 0 asks the system.  Before ptn_runtime_run(), main thread. */
typedef struct ptn_endpoint ptn_endpoint;
int ptn_endpoint_bind(ptn_runtime *rt, const char *where, ptn_endpoint **ret_ep,
                      const char **reterr_why);
const char *ptn_endpoint_address(const ptn_endpoint *ep); /* the real one: "127.0.0.1:40123" */
void ptn_endpoint_free(ptn_endpoint *ep);                 /* closes what no worker took over */

typedef struct ptn_stream ptn_stream;
typedef struct ptn_listener ptn_listener;
typedef void (*ptn_accept_cb)(ptn_ctx *c, void *arg, ptn_stream *s);

/* Starts accepting this worker's share.  The actor's end closes the listener and its streams.  A
 * Unix endpoint listens on worker 0 only; elsewhere this succeeds and accepts nothing. */
int ptn_listen(ptn_ctx *c, ptn_endpoint *ep, ptn_accept_cb cb, void *arg, ptn_listener **ret_l);
/* Stop accepting (drain), keep the streams. */
void ptn_listener_close(ptn_ctx *c, ptn_listener *l);

/* ---- streams ------------------------------------------------------------------------------ */

typedef struct ptn_stream_ops {
    /* Bytes, any split; p is the worker's shared read buffer, valid for the call. */
    void (*on_read)(ptn_ctx *c, void *owner, const uint8_t *p, size_t n);
    /* The peer sent its FIN; writing still works.  NULL: the stream closes (reason 0). */
    void (*on_eof)(ptn_ctx *c, void *owner);
    /* The out-queue has drained to empty after on-wire back-pressure.  May be NULL. */
    void (*on_drain)(ptn_ctx *c, void *owner);
    /* Last call, exactly once per opened stream, never from inside a ptn_stream_* call: 0 orderly,
     * or negative.  s is invalid afterwards.  Not after the actor crashed: its memory is gone by
     * then. */
    void (*on_close)(ptn_ctx *c, void *owner, int reason);
} ptn_stream_ops;

/* Sets or replaces the machine on a stream (accept; later an upgrade from http to ws).  Reading
 * starts. */
void ptn_stream_open(ptn_stream *s, const ptn_stream_ops *ops, void *owner);

/* Bounds of the out-queue: past max_bytes the stream is closed with -PTN_ESLOW, and also when a
 * non-empty queue makes no progress for stall_ns.  Defaults: 1 MiB, 30 s. */
void ptn_stream_limits(ptn_stream *s, uint32_t out_bytes_max, ptn_time stall_ns);
/* For a machine that slows its peer down (reads no further) before the bound ends it: while more
 * than mark_bytes wait and the kernel takes nothing, ptn_stream_write() returns 1, and what it
 * writes is bounded by write_bytes_max: answers to what the machine has read already.
 * mark_bytes <= out_bytes_max <= write_bytes_max; until then, and again after
 * ptn_stream_limits(), they are equal. */
void ptn_stream_mark(ptn_stream *s, uint32_t mark_bytes, uint32_t write_bytes_max);

/* Links a shared frame (takes its own reference).  0, or -PTN_ESLOW: the bound is reached and the
 * stream is closing (a queue that only this turn filled is flushed first).  -PTN_ECANCELED: it was
 * closing or finishing before; -PTN_ENOMEM, -PTN_EIO: it is closing for that reason.  Never calls
 * back. */
int ptn_stream_send(ptn_stream *s, ptn_frame *f);
/* Copies bytes, gathering small writes into one frame.  As ptn_stream_send(), or 1: they wait past
 * the mark of ptn_stream_mark(). */
int ptn_stream_write(ptn_stream *s, const void *p, size_t n);
/* Bytes not yet accepted by the kernel. */
size_t ptn_stream_queued(const ptn_stream *s);

/* True: more than `bytes` wait, and the kernel takes nothing now; on_drain will come.  A queue that
 * only this turn filled is flushed first. */
bool ptn_stream_is_congested(ptn_stream *s, size_t bytes);

/* Stops and resumes reading: back-pressure for the peer.  No effect once the stream is ending.  Who
 * stops a stream in a callback of another one may still get what has been read of it already. */
void ptn_stream_read_enable(ptn_stream *s, bool on);
/* Close after the queue is flushed (bounded by the stall limit), half-closing first and then
 * draining input for at most 1 s so that the peer can read the last answer (RFC 9112 section 9.6).
 * on_read is not called any more. */
void ptn_stream_finish(ptn_stream *s);
/* Close now; queued output is dropped.  on_close comes later, with reason. */
void ptn_stream_close(ptn_stream *s, int reason);

/* "127.0.0.1:51514", "unix"; "gone": it has hung up; "closed" from the close on.  A system call,
 * and valid until the next one of this thread. */
const char *ptn_stream_peer(const ptn_stream *s);

/* ---- other descriptors -------------------------------------------------------------------- */

/* Watches a foreign descriptor for reading (libzmq's ZMQ_FD).  cb runs in the actor's context. */
typedef struct ptn_watch ptn_watch;
int ptn_watch_open(ptn_ctx *c, int fd, void (*cb)(ptn_ctx *c, void *state, void *arg), void *arg,
                   ptn_watch **ret_w);
void ptn_watch_close(ptn_ctx *c, ptn_watch *w); /* also at the actor's end; fd stays open */

#endif
