/* SPDX-License-Identifier: Apache-2.0
 *
 * conn.c - the connection: from the 101 response to the last byte.
 *
 * Life: OPEN, then CLOSING (we have sent a close and wait for the peer's, 5 s at most) or at once
 * DONE, then on_close, which frees.  One timer serves authentication, token expiry, ping, pong and
 * close; it is due at the earliest of them, and receiving touches only the flag `heard`.
 *
 * A crash of the edge actor frees its arena, and no on_close comes.  The connections, in memory of
 * their own, are found by a deferred function then.  One whose sink is open stays as an orphan
 * until a later connection of this thread closes the sink, because that takes a ptn_ctx; deliveries
 * to it do nothing meanwhile.
 */
#include "protocols/ws/internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

static _Thread_local struct ws_conn *orphans;

/* ---- closing -------------------------------------------------------------------------------- */

static void count_close(const struct ws_conn *w, unsigned ws_code, int code) {
    switch (ws_code) {
    case WS_CLOSE_PROTOCOL:
    case WS_CLOSE_UNSUPPORTED:
    case WS_CLOSE_BAD_TEXT:
        ptn_count(PTN_C_CLOSED_PROTOCOL_ERROR, 1);
        break;
    case WS_CLOSE_TOO_BIG:
        ptn_count(PTN_C_CLOSED_TOO_BIG, 1);
        break;
    case WS_CLOSE_UNAUTHENTICATED:
        if (!w->authenticated && code == PTN_CODE_UNAUTHENTICATED) {
            ptn_count(PTN_C_CLOSED_TIMEOUT, 1);
            break;
        }
        ptn_count(PTN_C_CLOSED_AUTH, 1);
        break;
    case WS_CLOSE_BAD_TOKEN:
        ptn_count(PTN_C_CLOSED_AUTH, 1);
        break;
    default:
        break;
    }
}

void ws__finish(struct ws_conn *w) {
    w->state = WS_DONE;
    ptn_stream_finish(w->stream);
}

void ws__close(ptn_ctx *c, struct ws_conn *w, unsigned ws_code, int code, uint32_t retry_after_ms) {
    if (w->state != WS_OPEN)
        return;
    count_close(w, ws_code, code);
    ws__send_close(w, ws_code, code, retry_after_ms);
    if (w->state != WS_OPEN)
        return;
    w->state = WS_CLOSING;
    w->end_due = ptn_now(c) + WS_CLOSE_WAIT_NS;
    ws__timer_arm(c, w);
    ws__read_on(c, w); /* the peer's close may stand behind what waits */
}

void ws__fail(struct ws_conn *w, unsigned ws_code, int code, uint32_t retry_after_ms) {
    if (w->state == WS_DONE)
        return;
    if (w->state == WS_OPEN) {
        count_close(w, ws_code, code);
        ws__send_close(w, ws_code, code, retry_after_ms);
    }
    if (w->state != WS_DONE)
        ws__finish(w);
}

/* ---- timer ---------------------------------------------------------------------------------- */

static void timer_callback(ptn_ctx *c, void *state, ptn_timer *t, void *arg);

static ptn_time earlier(ptn_time a, ptn_time b) {
    return a < b ? a : b;
}

void ws__timer_arm(ptn_ctx *c, struct ws_conn *w) {
    ptn_time due = w->end_due;
    if (w->state == WS_OPEN)
        due = earlier(due, earlier(w->ping_due, w->pong_due));
    const ptn_time now = ptn_now(c);
    PTN_DEBUG_ASSERT(ptn_self(c) == w->edge->self);
    if (w->backlog != NULL)
        due = earlier(due, now + WS_READ_ON_RETRY_NS);
    ptn_timer_start(c, &w->timer, due > now ? due - now : 0, timer_callback, w);
}

/* When the token expires, on the monotonic clock. */
static ptn_time expiry_of(ptn_ctx *c, const struct ws_conn *w) {
    const int64_t expires_ms = frames_principal(&w->session).expires_ms, wall_ms = ptn_wall_ms(c);
    if (expires_ms <= 0)
        return PTN_NEVER;
    if (expires_ms <= wall_ms)
        return ptn_now(c);
    const uint64_t left_ms = (uint64_t)(expires_ms - wall_ms);
    return left_ms > INT64_MAX / PTN_MS ? PTN_NEVER : ptn_now(c) + left_ms * PTN_MS;
}

static void token_expired(ptn_ctx *c, struct ws_conn *w) {
    w->end_due = expiry_of(c, w); /* the wall clock may have been set back */
    if (w->end_due > ptn_now(c))
        return;
    frames_send_error(c, &w->session, 0, (ptn_bytes){0}, PTN_CODE_TOKEN_EXPIRED,
                      "the access token has expired; connect again with a new one");
    ws__close(c, w, WS_CLOSE_UNAUTHENTICATED, PTN_CODE_TOKEN_EXPIRED, 0);
}

/* While reading waits for answers, the pong may be there, unread; while output waits for the peer,
 * the ping may be behind it, and whether that goes on is the stall limit's to say (stream.h).  Then
 * only the next pong counts. */
static void pong_overdue(ptn_ctx *c, struct ws_conn *w) {
    const bool unheard = w->backlog != NULL || ptn_stream_queued(w->stream) > 0;
    w->pong_due = unheard ? ptn_now(c) + w->edge->limits.ws_pong_ns : PTN_NEVER;
    if (w->heard || unheard)
        return;
    ptn_count(PTN_C_CLOSED_NO_PONG, 1);
    ws__fail(w, WS_CLOSE_INTERNAL, PTN_CODE_TIMEOUT, WS_RETRY_AFTER_MS);
}

static void send_ping(ptn_ctx *c, struct ws_conn *w) {
    w->heard = false;
    w->ping_due = ptn_now(c) + w->edge->limits.ws_ping_ns;
    if (w->pong_due == PTN_NEVER)
        w->pong_due = ptn_now(c) + w->edge->limits.ws_pong_ns;
    ws__send_control(w, WS_OP_PING, (ptn_bytes){0});
}

static void timer_callback(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct ws_conn *w = arg;
    const ptn_time now = ptn_now(c);
    (void)state;
    (void)t;
    if (w->state == WS_CLOSING && now >= w->end_due)
        ws__finish(w);
    if (w->state == WS_OPEN && now >= w->end_due) {
        if (w->authenticated)
            token_expired(c, w);
        else
            ws__close(c, w, WS_CLOSE_UNAUTHENTICATED, PTN_CODE_UNAUTHENTICATED, 0);
    }
    if (w->state == WS_OPEN && now >= w->pong_due)
        pong_overdue(c, w);
    if (w->state == WS_OPEN && now >= w->ping_due)
        send_ping(c, w);
    ws__read_on(c, w); /* an earlier try may have found no room in our mailbox */
    if (w->state != WS_DONE)
        ws__timer_arm(c, w);
}

/* ---- frames session ------------------------------------------------------------------------- */

static void session_send(ptn_ctx *c, void *self, uint64_t ticket, ptn_bytes frame) {
    (void)ticket;
    ws__send(self, frame);
    ws__read_on(c, self); /* answers make room */
}

static void session_authenticated(ptn_ctx *c, void *self) {
    struct ws_conn *w = self;
    w->authenticated = true;
    if (w->state != WS_OPEN)
        return;
    w->end_due = expiry_of(c, w);
    ws__timer_arm(c, w);
}

static void session_close(ptn_ctx *c, void *self, unsigned ws_code, int code) {
    struct ws_conn *w = self;
    if (ptn_self(c) == w->edge->self)
        ws__close(c, w, ws_code, code, 0);
    else
        ws__fail(w, ws_code, code, 0);
}

static int session_open_sink(ptn_ctx *c, void *self) {
    (void)c;
    return ws__sink_open(self);
}

static const frames_ops session_ops = {
    .send = session_send,
    .authenticated = session_authenticated,
    .close = session_close,
    .open_sink = session_open_sink,
};

/* ---- birth and end -------------------------------------------------------------------------- */

static void conn_unlink(struct ws_conn *w) {
    *w->pprev = w->next;
    if (w->next != NULL)
        w->next->pprev = w->pprev;
    ptn_gauge_add(PTN_G_CONNECTIONS_WS, -1);
}

static void on_close(ptn_ctx *c, void *owner, int reason) {
    struct ws_conn *w = owner;
    if (reason == -PTN_ESLOW)
        ptn_count(PTN_C_CLOSED_SLOW_CONSUMER, 1);
    w->state = WS_DONE;
    ptn_timer_stop(c, &w->timer);
    /* first: afterwards no tag of a call is alive in the hub */
    ws__sink_close(c, w->edge->config->hub, w);
    frames_session_done(c, &w->session);
    ws_parser_done(&w->parser);
    ws__backlog_done(w);
    conn_unlink(w);
    PTN_ASSERT(w->edge->n_connections > 0);
    w->edge->n_connections--;
    free(w);
}

static const ptn_stream_ops stream_ops = {
    .on_read = ws__on_read, .on_drain = ws__on_drain, .on_close = on_close};

/* The edge actor is gone; after an orderly end its list is empty. */
static void edge_gone(void *arg) {
    edge *e = arg;
    ws_deflate_free(e->deflate);
    e->deflate = NULL;
    while (e->ws_conns != NULL) {
        struct ws_conn *w = e->ws_conns;
        conn_unlink(w);
        frames_session_done(NULL, &w->session);
        ws_parser_done(&w->parser);
        ws__backlog_done(w);
        w->state = WS_DONE;
        w->stream = NULL;
        w->hub = e->config->hub;
        if (w->session.sink == PTN_SINK_NONE) {
            free(w);
            continue;
        }
        w->next = orphans;
        orphans = w;
    }
}

static void orphans_reap(ptn_ctx *c) {
    while (orphans != NULL) {
        struct ws_conn *w = orphans;
        orphans = w->next;
        ws__sink_close(c, w->hub, w);
        free(w);
    }
}

static void conn_init(ptn_ctx *c, struct ws_conn *w, edge *e, ptn_stream *s,
                      enum ws_subprotocol sub, bool deflate) {
    const edge_limits *l = &e->limits;
    const bool msgpack = sub == WS_SUB_MSGPACK;
    const ptn_time now = ptn_now(c);
    w->edge = e;
    w->stream = s;
    w->opcode = msgpack ? WS_OP_BINARY : WS_OP_TEXT;
    w->form = (uint8_t)((msgpack ? PTN_FORM_WS_MSGPACK : PTN_FORM_WS_JSON) +
                        (deflate ? PTN_FORM_WS_DEFLATED : 0));
    w->end_due = now + l->ws_auth_ns;
    w->ping_due = now + l->ws_ping_ns;
    w->pong_due = PTN_NEVER;
    w->out_bytes_max = l->out_bytes_max;
    w->holds = e->paused ? WS_HOLD_EDGE : 0;
    ws_parser_init(&w->parser, w->opcode, l->message_bytes_max, deflate ? e->deflate : NULL);
    frames_session_init(&w->session, &e->ws_sessions, w);
    w->next = e->ws_conns;
    w->pprev = &e->ws_conns;
    if (w->next != NULL)
        w->next->pprev = &w->next;
    e->ws_conns = w;
    e->n_connections++;
    ptn_gauge_add(PTN_G_CONNECTIONS_WS, 1);
    ptn_count(PTN_C_CONNECTIONS_ACCEPTED_WS, 1);
}

/* What the client hears of its offers.  The streams of the worker are made for the first one. */
static enum ws_deflate_answer deflate_answer(edge *e, const ws_upgrade *u) {
    enum ws_deflate_answer answer = WS_DEFLATE_OFF;
    (void)ws__extensions(u->extensions, &answer); /* ws_upgrade_check() */
    if (answer == WS_DEFLATE_OFF || e->limits.ws_deflate_bytes_min == 0)
        return WS_DEFLATE_OFF;
    if (e->deflate == NULL)
        e->deflate = ws_deflate_new();
    return e->deflate != NULL ? answer : WS_DEFLATE_OFF;
}

/* What all WebSockets of an edge need.  0 or -PTN_ENOMEM. */
static int edge_first(ptn_ctx *c, edge *e) {
    const edge_limits *l = &e->limits;
    const int err = ptn_defer(c, edge_gone, e);
    if (err < 0)
        return err;
    e->self = ptn_self(c);
    e->ws_sessions = (frames_config){
        .ops = &session_ops,
        .directory = e->config->directory,
        .worker = e->worker,
        .protocol = PTN_PROTO_WS,
        .hub = e->config->hub,
        .pending_max = l->ws_requests_max,
        .heartbeat_ms = (uint32_t)(l->ws_ping_ns / PTN_MS),
        .request_ns = l->request_ns,
        .request_ns_max = l->request_ns_max,
    };
    return 0;
}

/* What may wait with the answers that are in flight when reading stops: each may be as large as the
 * out-queue. */
static uint32_t answers_max(const edge_limits *l) {
    const uint64_t max = (1 + (uint64_t)l->ws_requests_max) * l->out_bytes_max;
    return max < UINT32_MAX ? (uint32_t)max : UINT32_MAX;
}

int ws_conn_open(ptn_ctx *c, edge *e, ptn_stream *s, const ws_upgrade *u, ptn_bytes early) {
    const enum ws_subprotocol sub = ws__negotiate(u->protocols);
    orphans_reap(c);
    if (e->ws_sessions.ops == NULL && edge_first(c, e) < 0)
        return -PTN_ENOMEM;
    struct ws_conn *w = calloc(1, sizeof *w);
    if (w == NULL)
        return -PTN_ENOMEM;
    const enum ws_deflate_answer deflate = deflate_answer(e, u);
    conn_init(c, w, e, s, sub, deflate != WS_DEFLATE_OFF);
    ptn_stream_limits(s, e->limits.out_bytes_max, e->limits.stall_ns);
    ptn_stream_open(s, &stream_ops, w);
    if (ws__write_101(s, u, sub, deflate) != 0)
        w->state = WS_DONE; /* the stream is closing: on_close frees */
    ptn_stream_mark(s, WS_OWED_MARK(e->limits.out_bytes_max), answers_max(&e->limits));
    ws__timer_arm(c, w);
    if (edge_sheds(e))
        ws__fail(w, WS_CLOSE_TRY_LATER, PTN_CODE_OVERLOADED, WS_RETRY_AFTER_MS);
    else if (u->principal != NULL && u->principal->user.n > 0)
        frames_welcome(c, &w->session, 0, u->principal, u->device);
    else if (u->query_token.n > 0)
        frames_authenticate(c, &w->session, 0, u->query_token, u->device, true);
    else if (u->device.n > 0 && frames_device_set(&w->session, u->device) != 0)
        ws__fail(w, WS_CLOSE_TRY_LATER, PTN_CODE_OVERLOADED, WS_RETRY_AFTER_MS);
    if (early.n > 0)
        ws__on_read(c, w, early.p, early.n);
    return 0;
}

void ws_drain_all(ptn_ctx *c, edge *e, uint32_t reconnect_after_ms) {
    for (struct ws_conn *w = e->ws_conns; w != NULL; w = w->next) /* none goes before on_close */
        frames_drain(c, &w->session, reconnect_after_ms);
}

void ws_drain_idle(ptn_ctx *c, edge *e, uint32_t reconnect_after_ms) {
    for (struct ws_conn *w = e->ws_conns; w != NULL; w = w->next)
        if (w->session.n_pending == 0)
            ws__close(c, w, WS_CLOSE_RESTART, PTN_CODE_DRAINING, reconnect_after_ms);
}

void ws_session_revoked(ptn_ctx *c, edge *e, ptn_str session, ptn_str user) {
    for (struct ws_conn *w = e->ws_conns; w != NULL; w = w->next) {
        const ptn_principal p = frames_principal(&w->session);
        if (ptn_principal_is_revoked(&p, session, user))
            ws__close(c, w, WS_CLOSE_BAD_TOKEN, PTN_CODE_UNAUTHENTICATED, 0);
    }
}
