/* SPDX-License-Identifier: Apache-2.0
 *
 * conn.c - one http connection: bytes to exchanges, answers back in request order, time limits.
 *
 * An idle connection is this struct alone: no read buffer, no exchange, no output.  Exchanges form
 * a queue of at most pipeline_max; while it is full, or while the peer does not read its answers,
 * nothing more is parsed and reading stops, so that a peer can make us hold only a bounded amount.
 *
 * `sealed` ends parsing for good (close asked for, refusal, upgrade, stream, drain); `finishing`
 * means that the stream has been told to close and on_close() will come.
 */
#include "protocols/http/http.h"

#include <stdlib.h>

#define FREE_EXCHANGES_MAX 256u
#define KEPT_BUFFER_BYTES 4096u
#define REFUSING_MAX 64u
#define FLUSH_RETRY_NS (50 * PTN_MS)
#define BODY_ALWAYS_BYTES (16u << 10) /* a body may grow to this while memory is short */

/* ---- exchanges ----------------------------------------------------------------------------- */

static void out_recycle(ptn_out *o) {
    if (o->cap > KEPT_BUFFER_BYTES || o->err != 0)
        ptn_out_done(o);
    else
        ptn_out_clear(o);
}

static void exchange_destroy(struct http_exchange *x) {
    ptn_out_done(&x->held);
    ptn_out_done(&x->body);
    ptn_out_done(&x->who);
    ptn_frame_unref(x->frame);
    free(x);
}

/* At the end of conn's queue.  NULL: no memory. */
static struct http_exchange *exchange_new(struct http_conn *conn) {
    struct http_edge *e = conn->edge;
    struct http_exchange *x = e->free_exchanges;
    if (x != NULL) {
        e->free_exchanges = x->next;
        e->n_free_exchanges--;
    } else {
        x = calloc(1, sizeof *x);
        if (x == NULL)
            return NULL;
    }
    x->next = NULL;
    x->conn = conn;
    x->corr = 0;
    x->state = HTTP_X_PENDING;
    x->has_parent = x->msgpack = x->token_sent = x->close_after = x->revoked = false;
    memset(&x->principal, 0, sizeof x->principal);
    *conn->last = x;
    conn->last = &x->next;
    conn->n_exchanges++;
    return x;
}

/* The body has been passed on, or nobody wants it any more. */
void http_exchange_release_body(struct http_exchange *x) {
    x->conn->held_bytes -= x->held_bytes;
    x->held_bytes = 0;
    x->request.body = (ptn_bytes){NULL, 0};
    out_recycle(&x->body);
}

void http_exchange_free(ptn_ctx *c, struct http_exchange *x) {
    struct http_edge *e = x->conn->edge;
    if (x->corr != 0)
        ptn_ask_cancel(c, x->corr);
    if (x->frame != NULL)
        x->conn->kept_bytes -= x->frame->len;
    x->frame = ptn_frame_unref(x->frame);
    out_recycle(&x->held);
    out_recycle(&x->who);
    http_exchange_release_body(x);
    if (e->n_free_exchanges >= FREE_EXCHANGES_MAX) {
        exchange_destroy(x);
        return;
    }
    x->next = e->free_exchanges;
    e->free_exchanges = x;
    e->n_free_exchanges++;
}

static void pop_first(ptn_ctx *c, struct http_conn *conn) {
    struct http_exchange *x = conn->first;
    conn->first = x->next;
    if (conn->first == NULL)
        conn->last = &conn->first;
    conn->n_exchanges--;
    http_exchange_free(c, x);
}

/* A refusal by the parser or a limit: answered in its turn, and then the connection ends. */
static void refuse(ptn_ctx *c, struct http_conn *conn, unsigned status, const char *message) {
    conn->sealed = true;
    struct http_exchange *x = exchange_new(conn);
    if (x == NULL) {
        conn->finishing = true;
        ptn_stream_close(conn->stream, -PTN_ENOMEM);
        return;
    }
    memset(&x->request, 0, sizeof x->request);
    x->request.minor = 1;
    x->request.method = PTN_METHOD_OTHER;
    x->started = ptn_now(c);
    x->close_after = true;
    http_trace_new(conn->edge, x->trace);
    if (status == 413)
        ptn_count(PTN_C_CLOSED_TOO_BIG, 1);
    else if (status == 408)
        ptn_count(PTN_C_CLOSED_TIMEOUT, 1);
    else if (status != 503)
        ptn_count(PTN_C_CLOSED_PROTOCOL_ERROR, 1);
    http_respond_status(c, x, status, message);
}

/* ---- lifetime ------------------------------------------------------------------------------ */

static void conn_unlink(struct http_conn *conn) {
    *conn->pprev = conn->next;
    if (conn->next != NULL)
        conn->next->pprev = conn->pprev;
}

void http_conn_free(ptn_ctx *c, struct http_conn *conn) {
    conn_unlink(conn);
    ptn_timer_stop(c, &conn->timer);
    if (conn->sse != NULL)
        http_sse_free(c, conn);
    else
        ptn_gauge_add(PTN_G_CONNECTIONS_HTTP, -1);
    while (conn->first != NULL)
        pop_first(c, conn);
    http_parser_done(&conn->parser);
    ptn_out_done(&conn->pending);
    free(conn);
}

void http_conns_abandon(struct http_edge *e) {
    struct http_conn *conn = e->base.http_conns, *next;
    for (; conn != NULL; conn = next) {
        next = conn->next;
        struct http_exchange *x = conn->first, *after;
        for (; x != NULL; x = after) {
            after = x->next;
            exchange_destroy(x);
        }
        if (conn->sse != NULL)
            http_sse_free(NULL, conn);
        else
            ptn_gauge_add(PTN_G_CONNECTIONS_HTTP, -1);
        http_parser_done(&conn->parser);
        ptn_out_done(&conn->pending);
        free(conn);
    }
    e->base.http_conns = NULL;
    while (e->free_exchanges != NULL) {
        struct http_exchange *x = e->free_exchanges;
        e->free_exchanges = x->next;
        exchange_destroy(x);
    }
}

void http_conn_finish(ptn_ctx *c, struct http_conn *conn) {
    if (conn->finishing)
        return;
    conn->finishing = true;
    conn->sealed = true;
    ptn_timer_stop(c, &conn->timer);
    ptn_stream_finish(conn->stream);
}

/* ---- time limits --------------------------------------------------------------------------- */

static void on_timer(ptn_ctx *c, void *state, ptn_timer *t, void *arg);

/* The timer is moved only when it would come too late: deadlines that keep moving away cost
 * nothing. */
static void timer_ensure(ptn_ctx *c, struct http_conn *conn) {
    if (conn->due == PTN_NEVER ||
        (ptn_timer_is_armed(&conn->timer) && conn->timer.due <= conn->due))
        return;
    ptn_time now = ptn_now(c);
    ptn_timer_stop(c, &conn->timer);
    ptn_timer_start(c, &conn->timer, conn->due > now ? conn->due - now : 0, on_timer, conn);
}

/* Which limit counts now.  The clock of a phase starts when the phase does, not with every read. */
static void wait_update(ptn_ctx *c, struct http_conn *conn) {
    const edge_limits *limits = &conn->edge->base.limits;
    enum http_wait wait = HTTP_WAIT_NONE;
    ptn_time after = 0;
    if (conn->finishing) {
        wait = HTTP_WAIT_NONE;
    } else if (ptn_stream_queued(conn->stream) > limits->out_bytes_max) {
        wait = HTTP_WAIT_FLUSH;
        after = PTN_MS;
    } else if (conn->sealed || conn->edge->base.paused) {
        wait = HTTP_WAIT_NONE; /* it is not the peer who makes us wait */
    } else if (http_parser_in_body(&conn->parser)) {
        wait = HTTP_WAIT_BODY;
        after = limits->body_ns;
    } else if (!http_parser_is_idle(&conn->parser)) {
        wait = HTTP_WAIT_HEAD;
        after = limits->headers_ns;
    } else if (conn->n_exchanges == 0) {
        wait = HTTP_WAIT_IDLE;
        after = limits->first_byte_ns;
    }
    if (wait == conn->wait)
        return;
    conn->wait = (uint8_t)wait;
    conn->due = wait == HTTP_WAIT_NONE ? PTN_NEVER : ptn_now(c) + after;
    timer_ensure(c, conn);
}

/* ---- in ------------------------------------------------------------------------------------ */

static bool may_parse(const struct http_conn *conn) {
    return !conn->sealed && !conn->finishing && !conn->edge->base.paused &&
           conn->n_exchanges < conn->edge->base.limits.pipeline_max &&
           conn->held_bytes <= conn->edge->base.limits.body_bytes_max &&
           ptn_stream_queued(conn->stream) <= conn->edge->base.limits.out_bytes_max;
}

static const char continue_line[] = "HTTP/1.1 100 Continue\r\n\r\n";

/* Writes what is due.  False: conn is gone (upgraded). */
static bool flush(ptn_ctx *c, struct http_conn *conn) {
    struct http_exchange *x;
    while (!conn->finishing && (x = conn->first) != NULL) {
        if (x->state == HTTP_X_UPGRADE && http_exchange_upgrade(c, x))
            return false;
        if (x->state == HTTP_X_STREAM)
            http_sse_begin(c, x);
        if (x->state != HTTP_X_READY || conn->finishing)
            return true;
        if (x->frame != NULL) {
            if (ptn_stream_queued(conn->stream) > conn->edge->base.limits.out_bytes_max)
                return true; /* on_drain() comes back */
            ptn_stream_send(conn->stream, x->frame);
        }
        bool close = x->close_after;
        pop_first(c, conn);
        if (close)
            http_conn_finish(c, conn);
    }
    if (!conn->finishing && conn->first == NULL) {
        bool partial = !http_parser_is_idle(&conn->parser) && !conn->eof && !conn->sealed;
        if (conn->eof || (conn->edge->base.draining && !partial))
            http_conn_finish(c, conn);
        else if (conn->owes_100)
            ptn_stream_write(conn->stream, continue_line, sizeof continue_line - 1);
        conn->owes_100 = false;
    }
    return true;
}

/* One event of the parser.  False: conn is gone. */
static bool event(ptn_ctx *c, struct http_conn *conn, enum http_event ev, bool more) {
    if (ev == HTTP_EV_CONTINUE) {
        conn->owes_100 = !more; /* a peer that already sends does not wait */
        return flush(c, conn);
    }
    conn->wait = HTTP_WAIT_NONE; /* whatever comes next starts its own clock */
    conn->owes_100 = false;
    if (ev == HTTP_EV_REFUSED) {
        refuse(c, conn, conn->parser.status, conn->parser.message);
        return true;
    }
    struct http_exchange *x = exchange_new(conn);
    if (x == NULL)
        refuse(c, conn, 503, "Out of memory for this request; try again.");
    else
        http_exchange_begin(c, x, &conn->parser.request);
    return true;
}

/* Parses data[0, n) as far as the pipeline allows; *ret_used bytes are done with.  False: conn is
 * gone. */
static bool parse(ptn_ctx *c, struct http_conn *conn, const uint8_t *data, size_t n,
                  size_t *ret_used) {
    size_t at = 0;
    while (at < n && may_parse(conn)) {
        size_t used = 0;
        enum http_event ev = http_parser_feed(&conn->parser, data + at, n - at, &used);
        at += used;
        if (ev != HTTP_EV_MORE && !event(c, conn, ev, at < n))
            return false;
        if (ev == HTTP_EV_MORE && conn->parser.own.len > BODY_ALWAYS_BYTES &&
            http_parser_in_body(&conn->parser) && edge_sheds(&conn->edge->base))
            refuse(c, conn, 503, "The broker is short of memory; send the request again later.");
        /* Once sealed, run() goes on: an upgrade must find the unparsed bytes in pending first. */
        if (!conn->sealed && conn->first != NULL && conn->first->state == HTTP_X_READY &&
            !flush(c, conn))
            return false;
    }
    *ret_used = at;
    return true;
}

/* True while bytes behind the last request may still belong to somebody. */
static bool keeps_rest(const struct http_conn *conn) {
    if (conn->finishing)
        return false;
    if (!conn->sealed)
        return true;
    for (const struct http_exchange *x = conn->first; x != NULL; x = x->next)
        if (x->request.upgrade_websocket && x->state != HTTP_X_READY)
            return true;
    return false;
}

/* Keeps data[0, n) for later. */
static void pend(struct http_conn *conn, const uint8_t *data, size_t n) {
    if (n != 0)
        ptn_out_put(&conn->pending, data, n);
    if (conn->pending.err != 0) {
        conn->finishing = true;
        ptn_stream_close(conn->stream, -PTN_ENOMEM);
    }
}

/* Reading, and the limit that counts now, after whatever was parsed or answered. */
static void settle(ptn_ctx *c, struct http_conn *conn) {
    /* Sealed connections go on reading, and drop it, to notice a peer that leaves. */
    bool reading = conn->pending.len == 0 && (conn->sealed ? !keeps_rest(conn) : may_parse(conn));
    if (reading != conn->reading) {
        conn->reading = reading;
        ptn_stream_read_enable(conn->stream, reading);
    }
    wait_update(c, conn);
}

/* Parses what waited and what has come, and settles reading and timers.  May free conn. */
static void run(ptn_ctx *c, struct http_conn *conn, const uint8_t *data, size_t n) {
    size_t used = 0;
    conn->busy = true;
    if (conn->pending.len != 0) {
        pend(conn, data, n);
        if (!parse(c, conn, conn->pending.p + conn->pending_at,
                   conn->pending.len - conn->pending_at, &used))
            return;
        conn->pending_at += used;
        if (conn->pending_at == conn->pending.len || !keeps_rest(conn)) {
            ptn_out_done(&conn->pending);
            conn->pending_at = 0;
        }
    } else {
        if (!parse(c, conn, data, n, &used))
            return;
        if (used < n && keeps_rest(conn))
            pend(conn, data + used, n - used);
    }
    conn->busy = false;
    if (flush(c, conn) && !conn->finishing)
        settle(c, conn);
}

void http_conn_advance(ptn_ctx *c, struct http_conn *conn) {
    if (conn->busy || !flush(c, conn) || conn->finishing)
        return;
    if (conn->pending.len != 0)
        run(c, conn, NULL, 0);
    else
        settle(c, conn);
}

/* ---- stream callbacks ---------------------------------------------------------------------- */

static void on_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    struct http_conn *conn = owner;
    if (conn->finishing || (conn->sealed && !keeps_rest(conn)))
        return;
    run(c, conn, p, n);
}

static void on_eof(ptn_ctx *c, void *owner) {
    struct http_conn *conn = owner;
    conn->eof = true;
    conn->sealed = true;
    if (conn->finishing)
        return;
    if (conn->sse != NULL) { /* nobody reads events after hanging up */
        conn->finishing = true;
        ptn_stream_close(conn->stream, 0);
    } else if (conn->first == NULL) {
        http_conn_finish(c, conn);
    }
}

static void on_drain(ptn_ctx *c, void *owner) {
    struct http_conn *conn = owner;
    conn->wait = HTTP_WAIT_NONE;
    if (conn->sse != NULL)
        http_sse_drained(c, conn);
    else if (!conn->finishing)
        http_conn_advance(c, conn);
}

static void on_close(ptn_ctx *c, void *owner, int reason) {
    struct http_conn *conn = owner;
    struct http_edge *e = conn->edge;
    if (reason == -PTN_ESLOW)
        ptn_count(PTN_C_CLOSED_SLOW_CONSUMER, 1);
    conn->finishing = true;
    http_conn_free(c, conn);
    e->base.n_connections--;
}

static const ptn_stream_ops conn_stream_ops = {
    .on_read = on_read, .on_eof = on_eof, .on_drain = on_drain, .on_close = on_close};

static void on_timer(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    struct http_conn *conn = arg;
    if (conn->finishing || conn->wait == HTTP_WAIT_NONE)
        return;
    if (ptn_now(c) < conn->due) {
        timer_ensure(c, conn);
        return;
    }
    if (conn->wait == HTTP_WAIT_IDLE) {
        http_conn_finish(c, conn);
        return;
    }
    if (conn->wait == HTTP_WAIT_FLUSH) {
        if (ptn_stream_queued(conn->stream) <= conn->edge->base.limits.out_bytes_max) {
            on_drain(c, conn);
            return;
        }
        /* The kernel is full, and on_drain() will be called; or the flush has yet to come, may take
         * everything at once, and then nobody calls. */
        conn->due = ptn_now(c) + FLUSH_RETRY_NS;
        timer_ensure(c, conn);
        return;
    }
    refuse(c, conn, 408,
           conn->wait == HTTP_WAIT_HEAD ? "The headers did not arrive in time."
                                        : "The body did not arrive in time.");
    conn->wait = HTTP_WAIT_NONE;
    http_conn_advance(c, conn);
}

/* ---- accept -------------------------------------------------------------------------------- */

static void refused_on_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    (void)c;
    (void)owner;
    (void)p;
    (void)n;
}

static void refused_on_close(ptn_ctx *c, void *owner, int reason) {
    (void)c;
    (void)reason;
    struct http_edge *e = owner;
    e->n_refusing--;
}

static const ptn_stream_ops refused_stream_ops = {.on_read = refused_on_read,
                                                  .on_close = refused_on_close};

/* Too much of something: say so and close.  A flood is closed without a word. */
static void accept_refuse(struct http_edge *e, ptn_stream *s, ptn_str why) {
    e->n_refusing++;
    ptn_stream_open(s, &refused_stream_ops, e);
    ptn_out *o = http_scratch(e);
    uint8_t trace[16];
    char trace_hex[33];
    http_trace_new(e, trace);
    http_hex(trace, sizeof trace, trace_hex);
    edge_encode_problem(o, PTN_CODE_OVERLOADED, why, (ptn_bytes){NULL, 0}, trace_hex, false);
    size_t body = o->len;
    http_out_z(o, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
                  "Retry-After: 1\r\nCache-Control: no-store\r\nConnection: close\r\n"
                  "X-Content-Type-Options: nosniff\r\nTrace-Id: ");
    ptn_out_put(o, trace_hex, 32);
    http_out_z(o, "\r\nContent-Length: ");
    http_out_uint(o, body);
    http_out_z(o, "\r\n\r\n");
    if (e->n_refusing > REFUSING_MAX || o->err != 0) {
        ptn_stream_close(s, -PTN_EOVERLOAD);
        return;
    }
    ptn_stream_write(s, o->p + body, o->len - body);
    ptn_stream_write(s, o->p, body);
    ptn_stream_finish(s);
}

void http_conn_accept(ptn_ctx *c, void *edge_arg, ptn_stream *s) {
    struct http_edge *e = edge_arg;
    struct http_conn *conn = NULL;
    if (edge_sheds(&e->base)) {
        accept_refuse(e, s, PTN_STR("The broker is short of memory; try again later."));
        return;
    }
    if (e->base.n_connections < e->base.limits.connections_max && !e->base.draining)
        conn = calloc(1, sizeof *conn);
    if (conn == NULL) {
        ptn_count(PTN_C_CLOSED_LIMIT, 1);
        accept_refuse(e, s, PTN_STR("Too many connections; try again."));
        return;
    }
    conn->edge = e;
    conn->stream = s;
    conn->last = &conn->first;
    conn->due = PTN_NEVER;
    conn->reading = true;
    http_parser_init(&conn->parser, &e->base.limits);
    conn->next = e->base.http_conns;
    conn->pprev = &e->base.http_conns;
    if (conn->next != NULL)
        conn->next->pprev = &conn->next;
    e->base.http_conns = conn;
    e->base.n_connections++;
    ptn_count(PTN_C_CONNECTIONS_ACCEPTED_HTTP, 1);
    ptn_gauge_add(PTN_G_CONNECTIONS_HTTP, 1);
    /* One answer may exceed the bound that decides whether the next is written (flush). */
    ptn_stream_limits(s, e->base.limits.out_bytes_max + 2 * PTN_BUF_BYTES_MAX,
                      e->base.limits.stall_ns);
    ptn_stream_open(s, &conn_stream_ops, conn);
    http_conn_advance(c, conn); /* the first wait, and no reading while the edge pauses */
}

void http_conn_drain(ptn_ctx *c, struct http_conn *conn) {
    if (conn->finishing)
        return;
    if (conn->sse != NULL)
        http_sse_drain(c, conn);
    else if (conn->first == NULL && http_parser_is_idle(&conn->parser))
        http_conn_finish(c, conn);
}
