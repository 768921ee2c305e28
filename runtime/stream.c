/* SPDX-License-Identifier: Apache-2.0
 *
 * stream.c - byte streams: shared frames in bounded out-queues, one gathered write per stream and
 * turn.
 *
 * Life.  A stream is a resource of the actor that accepted it.  Closing, by whomever, closes the
 * transport and drops the queue at once, and puts the stream on the worker's closed list.  The end
 * of the turn delivers on_close and frees.  An actor that ends delivers it itself (orderly) or not
 * at all (crash: its memory is gone); the list then only frees.  Nothing is freed anywhere else, so
 * a stream may be touched after any callback until the turn ends.
 *
 * Output.  An idle stream has no queue memory: one frame is kept in the stream itself, a ring of
 * frame pointers exists from the second on and goes when the queue drains.  Sending links the frame
 * and puts the stream on the dirty list.  While the kernel takes nothing ("pressed") sending only
 * links: the environment says when to go on.
 *
 * The bound is on bytes, and on frames as if each had at least FRAME_CHARGE bytes, so that tiny
 * frames cannot grow the ring past a fraction of it.  A stream that reaches it within one turn is
 * flushed once before it is judged: what counts is a peer that does not read, not a busy turn.
 * A machine that slows its peer down is told at a mark below the bound, and by the same look.
 *
 * The stall timer exists only while pressed (or lingering).  Progress does not restart it; when it
 * fires it looks how long ago the last progress was and goes on waiting for the rest.
 */
#include <postern/stream.h>

#include "runtime/bounds.h"
#include "runtime/stream_internal.h"

#include <stdlib.h>

#define OUT_BYTES_MAX_DEFAULT (1u << 20)
#define STALL_NS_DEFAULT (30 * PTN_SEC)
#define LINGER_NS (1 * PTN_SEC)
#define FRAME_CHARGE 64u     /* bytes a frame counts for at least, and... */
#define FRAMES_MAX_MIN 1024u /* ...what is allowed in any case */
#define RING_CAP_MIN 16u
#define RINGS_BYTES_MAX (2u << 20) /* free rings of one worker */
#define FLUSH_COST_MIN_NS 2500u    /* what one write costs until it was measured, and at least */
#define FLUSH_COST_MAX_NS 20000u
#define FLUSH_MEASURED_MIN 8u /* streams; less is not worth two looks at the clock */
#define FLUSH_DELAY_MAX_NS (4 * PTN_MS)
#define WRITE_FRAME_MIN 1000u          /* with the header: the 1 KiB class */
#define WRITE_FRAME_MAX (65536u - 64u) /* with the header: the largest class */

struct stream_timer {
    ptn_timer timer;
    ptn_time progress_at; /* when the kernel last took something */
};

struct ptn_stream {
    struct ptn__resource resource; /* first: stream_resource_close() casts */
    /* what every send and flush touches */
    struct ptn__streams *st;
    ptn_transport *t; /* NULL: closed */
    union {
        ptn_frame *one;   /* q_cap 0 */
        ptn_frame **ring; /* q_cap entries, a power of two */
    } q;
    uint32_t q_head, q_n, q_cap;
    uint32_t head_done; /* bytes of the first frame that the kernel has */
    size_t queued;
    uint32_t mark_bytes; /* what waits is looked at from here on; at most out_bytes_max */
    uint32_t out_bytes_max;
    ptn_stream *dirty_next;
    struct stream_timer *timer;
    bool dirty;
    bool closing;
    bool notified;     /* on_close was delivered, or is not due */
    bool read_on;      /* what the machine wants */
    bool pressed;      /* the kernel takes nothing now; on_writable will come */
    bool finishing;    /* ptn_stream_finish() was called */
    bool shut;         /* write side shut: lingering */
    bool eof;          /* the peer sent its FIN */
    bool tail_private; /* the last frame is ours alone, and may grow */
    /* the rest */
    int16_t reason;
    uint32_t write_bytes_max;  /* in place of out_bytes_max, for what is written */
    const ptn_stream_ops *ops; /* NULL: not opened yet */
    void *owner;
    ptn_addr actor;
    ptn_time stall_ns;
    ptn_stream *close_next;
};

static const ptn_env_ops *env_of(const ptn_stream *s) {
    return s->st->w->env->ops;
}

/* ---- the worker's lists ------------------------------------------------------------------- */

static void mark_dirty(ptn_stream *s) {
    if (s->dirty || s->closing)
        return;
    struct ptn__streams *st = s->st;
    if (st->n_dirty++ == 0)
        st->dirty_since = st->w->clock;
    s->dirty = true;
    s->dirty_next = NULL;
    *st->dirty_tail = s;
    st->dirty_tail = &s->dirty_next;
}

static ptn_stream *pop_dirty(struct ptn__streams *st) {
    ptn_stream *s = st->dirty_head;
    if (s == NULL)
        return NULL;
    st->dirty_head = s->dirty_next;
    if (st->dirty_head == NULL)
        st->dirty_tail = &st->dirty_head;
    st->n_dirty--;
    s->dirty = false;
    return s;
}

static ptn_stream *pop_closed(struct ptn__streams *st) {
    ptn_stream *s = st->closed_head;
    if (s == NULL)
        return NULL;
    st->closed_head = s->close_next;
    if (st->closed_head == NULL)
        st->closed_tail = &st->closed_head;
    return s;
}

/* ---- out-queue ---------------------------------------------------------------------------- */

static ptn_frame *queue_at(const ptn_stream *s, uint32_t i) {
    return s->q_cap == 0 ? s->q.one : s->q.ring[(s->q_head + i) & (s->q_cap - 1)];
}

/* Rings come and go with every busy turn of a connection, so they are pooled by size; larger ones
 * belong to slow readers and are rare. */
static unsigned ring_class(uint32_t cap) {
    return (unsigned)__builtin_ctz(cap / RING_CAP_MIN);
}

static ptn_frame **ring_new(struct ptn__streams *st, uint32_t cap) {
    unsigned k = ring_class(cap);
    void *ring = k < PTN__RING_CLASSES ? st->rings[k] : NULL;
    if (ring == NULL)
        return malloc(cap * sizeof(ptn_frame *));
    memcpy(&st->rings[k], ring, sizeof(void *));
    st->ring_bytes -= cap * sizeof(ptn_frame *);
    return ring;
}

static void ring_free(struct ptn__streams *st, ptn_frame **ring, uint32_t cap) {
    unsigned k = ring_class(cap);
    size_t bytes = cap * sizeof(ptn_frame *);
    if (k >= PTN__RING_CLASSES || st->ring_bytes + bytes > RINGS_BYTES_MAX) {
        free(ring);
        return;
    }
    memcpy(ring, &st->rings[k], sizeof(void *));
    st->rings[k] = ring;
    st->ring_bytes += bytes;
}

static void rings_done(struct ptn__streams *st) {
    for (unsigned k = 0; k < PTN__RING_CLASSES; k++)
        while (st->rings[k] != NULL) {
            void *ring = st->rings[k];
            memcpy(&st->rings[k], ring, sizeof(void *));
            free(ring);
        }
}

/* Room for one more.  Reached frame bounds keep the doubling far from overflow. */
static int queue_grow(ptn_stream *s) {
    uint32_t cap = s->q_cap == 0 ? RING_CAP_MIN : s->q_cap * 2;
    ptn_frame **ring = ring_new(s->st, cap);
    if (ring == NULL)
        return -PTN_ENOMEM;
    for (uint32_t i = 0; i < s->q_n; i++)
        ring[i] = queue_at(s, i);
    if (s->q_cap != 0)
        ring_free(s->st, s->q.ring, s->q_cap);
    s->q.ring = ring;
    s->q_head = 0;
    s->q_cap = cap;
    return 0;
}

/* Links f without taking a reference. */
static int queue_push(ptn_stream *s, ptn_frame *f) {
    if (s->q_cap == 0 && s->q_n == 0 && !PTN_BUGGIFY("stream.ring")) {
        s->q.one = f;
    } else {
        bool early = s->q_n >= s->q_cap / 4 && PTN_BUGGIFY("stream.grow");
        if ((s->q_n >= s->q_cap || early) && queue_grow(s) != 0)
            return -PTN_ENOMEM;
        s->q.ring[(s->q_head + s->q_n) & (s->q_cap - 1)] = f;
    }
    s->q_n++;
    return 0;
}

static void queue_release_ring(ptn_stream *s) {
    if (s->q_cap != 0)
        ring_free(s->st, s->q.ring, s->q_cap);
    s->q.one = NULL;
    s->q_head = s->q_cap = s->head_done = 0;
    s->tail_private = false;
}

static void queue_pop(ptn_stream *s) {
    ptn_frame_unref(queue_at(s, 0));
    s->q_head++; /* masked on use; wraps at a multiple of every capacity */
    s->q_n--;
    s->head_done = 0;
    if (s->q_n == 0)
        queue_release_ring(s);
}

/* The kernel took n bytes. */
static void queue_consume(ptn_stream *s, size_t n) {
    s->queued -= n;
    s->st->queued -= n;
    while (n > 0) {
        size_t left = queue_at(s, 0)->len - s->head_done;
        if (n < left) {
            s->head_done += (uint32_t)n;
            return;
        }
        n -= left;
        queue_pop(s);
    }
}

static void queue_drop(ptn_stream *s) {
    s->st->queued -= s->queued;
    s->queued = 0;
    while (s->q_n > 0)
        queue_pop(s);
}

static uint32_t frames_max(const ptn_stream *s) {
    uint32_t n = s->out_bytes_max / FRAME_CHARGE;
    return n < FRAMES_MAX_MIN ? FRAMES_MAX_MIN : n;
}

static bool queue_is_over(const ptn_stream *s, size_t bytes_max) {
    return s->queued > bytes_max || s->q_n > frames_max(s);
}

/* ---- closing ------------------------------------------------------------------------------ */

static void stream_close(ptn_stream *s, int reason) {
    if (s->closing)
        return;
    s->closing = true;
    s->reason = (int16_t)(reason > 0 ? -reason : reason);
    queue_drop(s);
    env_of(s)->transport_close(s->t);
    s->t = NULL;
    s->pressed = false;
    struct ptn__streams *st = s->st;
    s->close_next = NULL;
    *st->closed_tail = s;
    st->closed_tail = &s->close_next;
    ptn__stat_add(&st->w->stream_counts.streams_open, (uint64_t)-1);
    if (reason == -PTN_ESLOW)
        ptn__stat_add(&st->w->stream_counts.slow_closes, 1);
}

/* Last words to the machine, in its actor's context. */
static void stream_notify(ptn_ctx *c, ptn_stream *s) {
    if (s->notified)
        return;
    s->notified = true;
    if (s->timer != NULL)
        ptn_timer_stop(c, &s->timer->timer);
    if (s->ops != NULL && s->ops->on_close != NULL)
        s->ops->on_close(c, s->owner, s->reason);
}

static void notify_fn(ptn_ctx *c, void *state, void *arg) {
    ptn_stream *s = arg;
    (void)state;
    ptn__resource_remove(&s->resource);
    stream_notify(c, s);
}

static void stream_free(ptn_stream *s) {
    PTN_ASSERT(s->closing && s->q_n == 0);
    free(s->timer); /* stopped by stream_notify(), or with its actor */
    free(s);
}

static int stream_write_out(ptn_stream *s);

/* The actor ends.  c NULL: no actor code may run, and the machine's memory may be gone. */
static void stream_resource_close(struct ptn__resource *r, ptn_ctx *c, int reason) {
    ptn_stream *s = (ptn_stream *)r;
    if (!s->closing) {
        if (c != NULL && s->q_n > 0 && !s->pressed)
            (void)stream_write_out(s); /* an orderly end still says what it has to say */
        stream_close(s, reason);
    }
    if (c != NULL)
        stream_notify(c, s);
    s->notified = true;
}

/* ---- writing ------------------------------------------------------------------------------ */

/* What the next write takes: small frames as one piece, then the others piece by piece. */
static size_t gather(ptn_stream *s, ptn_iov *iov, size_t *ret_total) {
    uint32_t at = 0, shared = s->q_n - s->tail_private;
    size_t n = 0, skip = s->head_done, total = 0;
    if (skip == 0 && shared > 1) {
        struct ptn__queue_view q = {s->q.ring, s->q_head, s->q_cap - 1, shared};
        at = ptn__join(s->st, &q, &iov[0]);
        n = at > 0;
        total = at > 0 ? iov[0].len : 0;
    }
    for (; at < s->q_n && n < PTN__STREAM_IOV_MAX; at++) {
        const ptn_frame *f = queue_at(s, at);
        iov[n] = (ptn_iov){.base = f->data + skip, .len = f->len - skip};
        total += iov[n++].len;
        skip = 0;
        if (PTN_BUGGIFY("stream.gather"))
            break;
    }
    *ret_total = total;
    return n;
}

/* Gathered writes until the queue is empty, or the kernel takes no more.  0, or the transport's
 * error; never calls back, never closes. */
static int stream_write_out(ptn_stream *s) {
    ptn_iov iov[PTN__STREAM_IOV_MAX];
    while (s->q_n > 0) {
        size_t total, n = gather(s, iov, &total);
        PTN_DEBUG_ASSERT(n > 0 && total > 0);
        int64_t took = env_of(s)->write(s->t, iov, n);
        if (took < 0)
            return (int)took;
        queue_consume(s, (size_t)took);
        if (took > 0 && s->timer != NULL)
            s->timer->progress_at = s->st->w->now;
        if ((size_t)took < total) {
            if (!s->pressed) {
                s->pressed = true;
                env_of(s)->want_write(s->t, true);
                mark_dirty(s); /* the end of the turn starts the stall timer */
            }
            return 0;
        }
    }
    if (s->pressed) {
        s->pressed = false;
        env_of(s)->want_write(s->t, false);
    }
    return 0;
}

/* The queue has passed its mark: 0 when a flush helps, 1 when not, and past its bound, bytes_max,
 * the stream is closed. */
static int stream_over_mark(ptn_stream *s, size_t bytes_max) {
    int err = s->pressed ? 0 : stream_write_out(s);
    if (err == 0 && queue_is_over(s, bytes_max))
        err = -PTN_ESLOW;
    if (err != 0)
        stream_close(s, err);
    return err != 0 ? err : s->queued > s->mark_bytes;
}

/* True: the queue has passed its mark, or its bound. */
static bool stream_appended(ptn_stream *s, size_t n) {
    s->queued += n;
    s->st->queued += n;
    if (!s->pressed)
        mark_dirty(s);
    return PTN_UNLIKELY(queue_is_over(s, s->mark_bytes));
}

int ptn_stream_send(ptn_stream *s, ptn_frame *f) {
    if (PTN_UNLIKELY(s->closing || s->finishing))
        return -PTN_ECANCELED;
    if (PTN_UNLIKELY(f->len == 0))
        return 0;
    if (PTN_UNLIKELY(queue_push(s, f) != 0)) {
        stream_close(s, -PTN_ENOMEM);
        return -PTN_ENOMEM;
    }
    ptn_frame_ref(f);
    s->tail_private = false;
    if (!stream_appended(s, f->len))
        return 0;
    int err = stream_over_mark(s, s->out_bytes_max);
    return err < 0 ? err : 0;
}

/* Appends what fits to the private last frame; a shared frame is never written to. */
static size_t write_to_tail(ptn_stream *s, const uint8_t *p, size_t n) {
    if (!s->tail_private || s->q_n == 0)
        return 0;
    ptn_frame *f = queue_at(s, s->q_n - 1);
    size_t room = f->cap - f->len;
    if (n > room)
        n = room;
    memcpy(f->data + f->len, p, n);
    f->len += (uint32_t)n;
    return n;
}

static int write_to_new(ptn_stream *s, const uint8_t *p, size_t n, size_t *ret_n) {
    size_t cap = n < WRITE_FRAME_MIN ? WRITE_FRAME_MIN : n;
    ptn_frame *f = ptn_frame_new(cap > WRITE_FRAME_MAX ? WRITE_FRAME_MAX : cap);
    if (f == NULL || queue_push(s, f) != 0) {
        ptn_frame_unref(f);
        return -PTN_ENOMEM;
    }
    f->len = n < f->cap ? (uint32_t)n : f->cap;
    memcpy(f->data, p, f->len);
    s->tail_private = true;
    *ret_n = f->len;
    return 0;
}

int ptn_stream_write(ptn_stream *s, const void *p, size_t n) {
    const uint8_t *at = p;
    int err = 0;
    if (PTN_UNLIKELY(s->closing || s->finishing))
        return -PTN_ECANCELED;
    while (n > 0) {
        size_t part = write_to_tail(s, at, n);
        err = part > 0 ? 0 : write_to_new(s, at, n, &part);
        if (err != 0)
            stream_close(s, err);
        else if (stream_appended(s, part))
            err = stream_over_mark(s, s->write_bytes_max);
        if (err < 0)
            return err;
        at += part;
        n -= part;
    }
    return err;
}

/* ---- stall and linger --------------------------------------------------------------------- */

static void timer_callback(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    ptn_stream *s = arg;
    (void)state;
    if (s->closing)
        return;
    if (s->shut) { /* the peer had its second */
        stream_close(s, 0);
        return;
    }
    if (!s->pressed) { /* it has drained since; the next stall makes a new one */
        free(s->timer);
        s->timer = NULL;
        return;
    }
    ptn_time now = ptn_now(c), at = s->timer->progress_at;
    ptn_time idle = now > at ? now - at : 0;
    if (idle >= s->stall_ns)
        stream_close(s, -PTN_ESLOW);
    else
        ptn_timer_start(c, t, s->stall_ns - idle, timer_callback, s);
}

/* Starts the timer a pressed or lingering stream needs. */
static void timer_fn(ptn_ctx *c, void *state, void *arg) {
    ptn_stream *s = arg;
    (void)state;
    if (s->timer == NULL) {
        s->timer = calloc(1, sizeof *s->timer);
        if (s->timer == NULL) {
            stream_close(s, -PTN_ENOMEM);
            return;
        }
    }
    ptn_timer *t = &s->timer->timer;
    s->timer->progress_at = ptn_now(c);
    if (s->shut) {
        ptn_timer_stop(c, t);
        ptn_timer_start(c, t, LINGER_NS, timer_callback, s);
    } else if (!ptn_timer_is_armed(t)) {
        ptn_timer_start(c, t, s->stall_ns, timer_callback, s);
    }
}

/* The end of the turn for one stream that has something to do. */
static void stream_settle(ptn_stream *s) {
    struct ptn__worker *w = s->st->w;
    if (s->closing)
        return;
    int err = s->pressed ? 0 : stream_write_out(s);
    if (err != 0) {
        stream_close(s, err);
        return;
    }
    if (s->finishing && s->q_n == 0 && !s->shut) {
        if (s->eof) {
            stream_close(s, 0);
            return;
        }
        s->shut = true;
        env_of(s)->shut_write(s->t);
        env_of(s)->read_enable(s->t, true); /* what comes is thrown away, and EOF is seen */
    } else if (!s->pressed) {
        return;
    }
    (void)ptn__call(w, s->actor, timer_fn, s); /* fails only when the actor ended, and s with it */
}

/* A fan-out walks more streams than the cache holds; fetch the next ones while the kernel works on
 * this one. */
static void prefetch_dirty(const struct ptn__streams *st) {
    const ptn_stream *next = st->dirty_head;
    if (next == NULL)
        return;
    __builtin_prefetch(next->t);
    __builtin_prefetch(next->q.one);
    if (next->dirty_next != NULL) {
        __builtin_prefetch(next->dirty_next);
        __builtin_prefetch((const char *)next->dirty_next + 64);
    }
}

/* While actors still have work, more output for the same streams is about to come, and one larger
 * write costs hardly more than a small one.  Put the flush off for as long as it would take itself,
 * so that waiting at most doubles its cost and a lone answer is not delayed (the ski-rental rule:
 * Karlin et al., "Competitive randomized algorithms for nonuniform problems", 1994). */
static bool flush_can_wait(const struct ptn__streams *st) {
    ptn_time patience = (ptn_time)st->n_dirty * st->flush_cost_ns;
    if (patience > FLUSH_DELAY_MAX_NS)
        patience = FLUSH_DELAY_MAX_NS;
    return st->n_dirty > 0 && st->w->clock - st->dirty_since < patience;
}

/* A moving average over the flushes of several streams. */
static void flush_measured(struct ptn__streams *st, ptn_time began, uint32_t n) {
    ptn_time each = (st->w->env->ops->now(st->w->env) - began) / n;
    if (each > FLUSH_COST_MAX_NS)
        each = FLUSH_COST_MAX_NS;
    each = (3 * (ptn_time)st->flush_cost_ns + each) / 4;
    st->flush_cost_ns = each > FLUSH_COST_MIN_NS ? (uint32_t)each : FLUSH_COST_MIN_NS;
}

bool ptn__streams_flush(struct ptn__worker *w, bool busy) {
    struct ptn__streams *st = w->streams;
    ptn_stream *freed = NULL;
    if (busy && (flush_can_wait(st) || PTN_BUGGIFY("streams.wait")))
        return true;
    uint32_t n = st->n_dirty;
    ptn_time began = n >= FLUSH_MEASURED_MIN ? w->env->ops->now(w->env) : 0;
    for (;;) {
        ptn_stream *s = pop_dirty(st);
        if (s != NULL) {
            prefetch_dirty(st);
            stream_settle(s);
            continue;
        }
        /* Only now, so that what is freed below is on no list.  on_close may close other streams.
         */
        s = pop_closed(st);
        if (s == NULL)
            break;
        if (!s->notified)
            (void)ptn__call(w, s->actor, notify_fn, s);
        s->close_next = freed;
        freed = s;
    }
    ptn__join_release(st);
    if (n >= FLUSH_MEASURED_MIN)
        flush_measured(st, began, n);
    while (freed != NULL) {
        ptn_stream *next = freed->close_next;
        stream_free(freed);
        freed = next;
    }
    /* relaxed: a number for metrics */
    atomic_store_explicit(&w->stream_counts.queued_bytes, st->queued, memory_order_relaxed);
    return false;
}

/* ---- from the environment ----------------------------------------------------------------- */

struct read_call {
    ptn_stream *s;
    const uint8_t *p;
    size_t n;
};

static void read_fn(ptn_ctx *c, void *state, void *arg) {
    struct read_call *r = arg;
    (void)state;
    r->s->ops->on_read(c, r->s->owner, r->p, r->n);
}

static void eof_fn(ptn_ctx *c, void *state, void *arg) {
    ptn_stream *s = arg;
    (void)state;
    s->ops->on_eof(c, s->owner);
}

static void drain_fn(ptn_ctx *c, void *state, void *arg) {
    ptn_stream *s = arg;
    (void)state;
    s->ops->on_drain(c, s->owner);
}

static void read_callback(void *owner, const uint8_t *p, size_t n) {
    ptn_stream *s = owner;
    if (s->closing || s->finishing)
        return;
    struct read_call r = {.s = s, .p = p, .n = n};
    (void)ptn__call(s->st->w, s->actor, read_fn, &r);
}

static void eof_callback(void *owner) {
    ptn_stream *s = owner;
    if (s->closing)
        return;
    s->eof = true;
    if (s->shut)
        stream_close(s, 0);
    else if (s->finishing)
        return; /* closes when the queue is flushed */
    else if (s->ops->on_eof == NULL)
        ptn_stream_finish(s);
    else
        (void)ptn__call(s->st->w, s->actor, eof_fn, s);
}

static void writable_callback(void *owner) {
    ptn_stream *s = owner;
    if (s->closing || !s->pressed)
        return;
    ptn__worker_touch_clock(s->st->w);
    int err = stream_write_out(s);
    if (err != 0) {
        stream_close(s, err);
        return;
    }
    if (s->pressed)
        return;
    if (s->finishing)
        mark_dirty(s);
    else if (s->ops->on_drain != NULL)
        (void)ptn__call(s->st->w, s->actor, drain_fn, s);
}

static void error_callback(void *owner, int err) {
    stream_close(owner, err);
}

static const ptn_transport_cbs stream_transport_cbs = {
    .on_read = read_callback,
    .on_eof = eof_callback,
    .on_writable = writable_callback,
    .on_error = error_callback,
};

/* ---- the machine's side ------------------------------------------------------------------- */

int ptn__stream_new(ptn_ctx *c, ptn_transport *take_t, ptn_stream **ret_s) {
    ptn_stream *s = calloc(1, sizeof *s);
    if (s == NULL || ptn__resource_add(c, &s->resource) < 0) {
        free(s);
        return -PTN_ENOMEM;
    }
    s->resource.close = stream_resource_close;
    s->st = ptn__ctx_worker(c)->streams;
    s->t = take_t;
    s->actor = ptn_self(c);
    ptn_stream_limits(s, OUT_BYTES_MAX_DEFAULT, STALL_NS_DEFAULT);
    ptn__stat_add(&s->st->w->stream_counts.streams_open, 1);
    *ret_s = s;
    return 0;
}

void ptn_stream_open(ptn_stream *s, const ptn_stream_ops *ops, void *owner) {
    bool first = s->ops == NULL;
    s->ops = ops;
    s->owner = owner;
    if (s->closing)
        return;
    if (first) {
        s->read_on = true;
        env_of(s)->transport_open(s->t, &stream_transport_cbs, s);
    } else {
        ptn_stream_read_enable(s, true);
    }
}

void ptn_stream_limits(ptn_stream *s, uint32_t out_bytes_max, ptn_time stall_ns) {
    s->mark_bytes = s->out_bytes_max = s->write_bytes_max = out_bytes_max;
    s->stall_ns = stall_ns;
}

void ptn_stream_mark(ptn_stream *s, uint32_t mark_bytes, uint32_t write_bytes_max) {
    PTN_ASSERT(mark_bytes <= s->out_bytes_max && write_bytes_max >= s->out_bytes_max);
    s->mark_bytes = mark_bytes;
    s->write_bytes_max = write_bytes_max;
}

size_t ptn_stream_queued(const ptn_stream *s) {
    return s->queued;
}

void ptn__stream_bounds(const struct ptn__resource *r, const char *who, ptn__bound_fn visit) {
    const ptn_stream *s = (const ptn_stream *)r;
    if (r->close != stream_resource_close)
        return;
    visit(&(ptn__bound){who, "bytes for a client", s->queued, s->write_bytes_max});
    visit(&(ptn__bound){who, "frames for a client", s->q_n, frames_max(s)});
}

bool ptn_stream_is_congested(ptn_stream *s, size_t bytes) {
    if (PTN_LIKELY(s->queued <= bytes) || s->closing)
        return false;
    int err = s->pressed ? 0 : stream_write_out(s);
    if (err != 0)
        stream_close(s, err);
    return s->pressed && s->queued > bytes;
}

void ptn_stream_read_enable(ptn_stream *s, bool on) {
    if (s->closing || s->finishing || s->read_on == on)
        return;
    s->read_on = on;
    if (s->ops != NULL)
        env_of(s)->read_enable(s->t, on);
}

void ptn_stream_finish(ptn_stream *s) {
    if (s->closing || s->finishing)
        return;
    if (s->ops == NULL) { /* never opened: nothing to say, nobody to tell */
        stream_close(s, 0);
        return;
    }
    s->finishing = true;
    mark_dirty(
        s); /* the end of the turn goes on, unless the queue is pressed: then writable_callback() */
}

void ptn_stream_close(ptn_stream *s, int reason) {
    stream_close(s, reason);
}

const char *ptn_stream_peer(const ptn_stream *s) {
    return s->t == NULL ? "closed" : env_of(s)->peer(s->t);
}

/* ---- start and end ------------------------------------------------------------------------ */

int ptn__streams_init(struct ptn__worker *w) {
    struct ptn__streams *st = calloc(1, sizeof *st);
    if (st == NULL)
        return -PTN_ENOMEM;
    st->w = w;
    st->flush_cost_ns = FLUSH_COST_MIN_NS;
    st->dirty_tail = &st->dirty_head;
    st->closed_tail = &st->closed_head;
    w->streams = st;
    return 0;
}

/* Every actor has ended, so every stream is closed and, unless its actor crashed, has said so. */
void ptn__streams_done(struct ptn__worker *w) {
    struct ptn__streams *st = w->streams;
    if (st == NULL)
        return;
    while (pop_dirty(st) != NULL)
        continue;
    for (ptn_stream *s = pop_closed(st); s != NULL; s = pop_closed(st))
        stream_free(s);
    ptn__join_done(st);
    rings_done(st);
    w->streams = NULL;
    free(st);
    ptn__frame_pool_done();
}
