/* SPDX-License-Identifier: Apache-2.0
 *
 * sse.c - server-sent events: a request that was answered with STREAM becomes a sink of the hub.
 *
 * Nothing is sent before the hub has answered the subscription, so that a refusal is still a plain
 * problem response.  Hub callbacks run in the hub's context: they write to the stream and may end
 * it, and leave the rest (sink, memory, counters of connections) to the stream's on_close, which
 * runs in the edge's.
 *
 * A crash of the edge frees its connections without a context, so a sink cannot be closed then; its
 * http_sse stays behind without a connection, and closes its sink when the hub next calls it.
 */
#include "protocols/http/http.h"

#include <stdlib.h>

#define PING_NS (25 * PTN_SEC)

struct http_sse {
    struct http_conn *conn; /* NULL: the edge crashed */
    ptn_hub *hub;
    ptn_sink_id sink;
    ptn_timer tick;
    bool live;      /* the head has been sent */
    bool congested; /* the hub waits for on_drain */
};

/* ---- text ---------------------------------------------------------------------------------- */

static void put_id(ptn_out *o, ptn_str epoch, uint64_t offset) {
    http_out_z(o, "id: ");
    ptn_out_put(o, epoch.p, epoch.n);
    http_out_z(o, ":");
    http_out_uint(o, offset);
    http_out_z(o, "\n");
}

static void put_position(ptn_out *o, ptn_str topic, ptn_str epoch, uint64_t offset) {
    http_out_z(o, "data: {\"topic\":");
    ptn_json_string(o, topic);
    http_out_z(o, ",\"epoch\":");
    ptn_json_string(o, epoch);
    http_out_z(o, ",\"offset\":");
    http_out_uint(o, offset);
}

/* Ends a live stream with a last event; any context. */
static void end_with(struct http_conn *conn, const char *event) {
    if (conn->finishing)
        return;
    conn->finishing = true;
    ptn_stream_write(conn->stream, event, strlen(event));
    ptn_stream_finish(conn->stream);
}

/* Answers instead of streaming; any context. */
static void end_with_problem(ptn_ctx *c, struct http_conn *conn, int code, ptn_str message) {
    struct http_exchange *x = conn->first;
    struct http_problem p = {.code = code, .message = message};
    x->close_after = true;
    http_respond_problem(c, x, &p);
    if (conn->finishing)
        return;
    if (x->frame != NULL)
        ptn_stream_send(conn->stream, x->frame);
    conn->finishing = true;
    ptn_stream_finish(conn->stream);
}

/* ---- hub callbacks ------------------------------------------------------------------------- */

/* True for a sink whose edge has crashed; it is gone after that. */
static bool orphan_reap(ptn_ctx *c, struct http_sse *sse) {
    if (sse->conn != NULL)
        return false;
    ptn_hub_sink_close(c, sse->hub, sse->sink);
    free(sse);
    return true;
}

static void on_subscribed(ptn_ctx *c, void *self, const ptn_subscribed *r) {
    struct http_sse *sse = self;
    struct http_conn *conn = sse->conn;
    if (orphan_reap(c, sse) || conn->finishing)
        return;
    if (sse->live) { /* what was granted has been taken back: no longer a member */
        if (r->code >= 0)
            end_with(conn, "event: revoked\ndata: {\"code\":\"forbidden\"}\n\n");
        return;
    }
    if (r->code >= 0) {
        end_with_problem(c, conn, r->code, ptn_str_of(r->message));
        return;
    }
    struct http_exchange *x = conn->first;
    ptn_out *o = http_scratch(conn->edge);
    http_stream_head(c, x, o);
    http_out_z(o, ": subscribed\n\nevent: subscribed\n");
    /* Replayed events bring their own ids; an id ahead of them would skip them after a break. */
    if (!r->recovered)
        put_id(o, r->epoch, r->offset);
    put_position(o, r->topic, r->epoch, r->offset);
    http_out_z(o, r->recovered ? ",\"recovered\":true}\n\n" : ",\"recovered\":false}\n\n");
    sse->live = true;
    ptn_gauge_add(PTN_G_CONNECTIONS_HTTP, -1);
    ptn_gauge_add(PTN_G_CONNECTIONS_SSE, 1);
    ptn_count(PTN_C_CONNECTIONS_ACCEPTED_SSE, 1);
    ptn_observe_request(PTN_PROTO_HTTP, 200, ptn_now(c) - x->started);
    if (o->err != 0) {
        conn->finishing = true;
        ptn_stream_close(conn->stream, o->err);
        return;
    }
    ptn_stream_limits(conn->stream, conn->edge->base.limits.out_bytes_max,
                      conn->edge->base.limits.stall_ns);
    ptn_stream_write(conn->stream, o->p, o->len);
}

/* The event in its SSE form, made once for all streams of this worker.  NULL: no memory. */
static ptn_frame *event_frame(struct http_edge *e, const ptn_event *event) {
    ptn_out *o = http_scratch(e);
    put_id(o, event->epoch, event->offset);
    put_position(o, event->topic, event->epoch, event->offset);
    http_out_z(o, ",\"data\":");
    if (event->data.n == 0 || ptn_msgpack_to_json(event->data, o) != 0)
        http_out_z(o, "null");
    http_out_z(o, "}\n\n");
    ptn_frame *f = o->err != 0 ? NULL : ptn_frame_new(o->len);
    if (f == NULL)
        return NULL;
    memcpy(f->data, o->p, o->len);
    f->len = (uint32_t)o->len;
    return f;
}

static enum ptn_sink_load load_of(struct http_sse *sse) {
    struct http_conn *conn = sse->conn;
    const size_t busy = conn->edge->base.limits.out_bytes_max / 8;
    if (ptn_stream_queued(conn->stream) <= busy || !ptn_stream_is_congested(conn->stream, busy))
        return PTN_SINK_FREE;
    sse->congested = true;
    return ptn_stream_queued(conn->stream) > 2 * busy ? PTN_SINK_FULL : PTN_SINK_BUSY;
}

static enum ptn_sink_load on_deliver(ptn_ctx *c, void *self, ptn_event *event) {
    struct http_sse *sse = self;
    struct http_conn *conn = sse->conn;
    if (orphan_reap(c, sse) || conn->finishing || !sse->live)
        return PTN_SINK_FREE;
    ptn_frame **form = &event->forms[PTN_FORM_SSE];
    if (*form == NULL)
        *form = event_frame(conn->edge, event);
    int err = *form == NULL ? -PTN_ENOMEM : ptn_stream_send(conn->stream, *form);
    if (err == 0) {
        ptn_count(PTN_C_DELIVERED_SSE, 1);
        return load_of(sse);
    }
    ptn_count(PTN_C_DROPPED_SLOW_CONSUMER, err == -PTN_ESLOW ? 1 : 0);
    conn->finishing = true;
    ptn_stream_close(conn->stream, err); /* after a refused send: already closing, harmless */
    return PTN_SINK_FREE;
}

static void on_gap(ptn_ctx *c, void *self, const ptn_gap *g) {
    struct http_sse *sse = self;
    struct http_conn *conn = sse->conn;
    if (orphan_reap(c, sse) || conn->finishing || !sse->live)
        return;
    ptn_out *o = http_scratch(conn->edge);
    http_out_z(o, "event: gap\ndata: {\"topic\":");
    ptn_json_string(o, g->topic);
    http_out_z(o, ",\"from\":");
    http_out_uint(o, g->from);
    http_out_z(o, ",\"to\":");
    http_out_uint(o, g->to);
    http_out_z(o, ",\"reason\":");
    ptn_json_string(o, ptn_str_of(g->reason));
    http_out_z(o, "}\n\n");
    if (o->err == 0)
        ptn_stream_write(conn->stream, o->p, o->len);
    else
        ptn_stream_close(conn->stream, o->err); /* never a silent hole */
}

void http_sse_drained(ptn_ctx *c, struct http_conn *conn) {
    struct http_sse *sse = conn->sse;
    if (!sse->congested)
        return;
    sse->congested = false;
    ptn_hub_sink_writable(c, sse->hub, sse->sink);
}

static void on_reset(ptn_ctx *c, void *self) {
    struct http_sse *sse = self;
    struct http_conn *conn = sse->conn;
    if (orphan_reap(c, sse) || conn->finishing)
        return;
    if (sse->live)
        end_with(conn, "retry: 1000\nevent: reset\ndata: {\"reconnectAfterMs\":1000}\n\n");
    else
        end_with_problem(c, conn, PTN_CODE_OVERLOADED,
                         PTN_STR("Subscriptions were lost; try again."));
}

static const ptn_sink_ops sink_ops = {
    .subscribed = on_subscribed, .deliver = on_deliver, .gap = on_gap, .reset = on_reset};

/* ---- begin, heartbeat, end ----------------------------------------------------------------- */

static bool expires(const ptn_principal *who) {
    return who->user.n != 0 && who->expires_ms > 0;
}

/* To the next ping, or to the end of the token, whichever comes first. */
static ptn_time next_tick(ptn_ctx *c, const ptn_principal *who) {
    const int64_t left_ms = who->expires_ms - ptn_wall_ms(c);
    if (!expires(who) || left_ms >= (int64_t)(PING_NS / PTN_MS))
        return PING_NS;
    return left_ms > 0 ? (ptn_time)left_ms * PTN_MS : 0;
}

static void on_tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    struct http_sse *sse = arg;
    struct http_conn *conn = sse->conn;
    const ptn_principal *who = &conn->first->principal;
    if (conn->finishing)
        return;
    const bool expired = expires(who) && ptn_wall_ms(c) >= who->expires_ms;
    if (!sse->live) {
        end_with_problem(c, conn, expired ? PTN_CODE_TOKEN_EXPIRED : PTN_CODE_TIMEOUT,
                         expired ? PTN_STR("The token expired before the topic answered.")
                                 : PTN_STR("The topic did not answer in time."));
        return;
    }
    if (expired) {
        ptn_count(PTN_C_CLOSED_AUTH, 1);
        end_with(conn, "event: expired\ndata: {\"code\":\"token_expired\"}\n\n");
        return;
    }
    ptn_stream_write(conn->stream, ": ping\n\n", 8);
    ptn_timer_start(c, t, next_tick(c, who), on_tick, sse);
}

/* Last-Event-ID, or ?lastEventId= for clients that cannot set headers.  False: neither empty nor
 * valid. */
static bool resume_position(const struct http_exchange *x, char *buf, size_t buf_bytes,
                            ptn_position *ret_since) {
    ptn_str id = http_header(&x->request, HTTP_H_LAST_EVENT_ID);
    *ret_since = (ptn_position){.epoch = {"", 0}};
    ptn_str query = http_span_str(&x->request, x->request.query);
    if (id.n == 0 && !ptn_query_get(query, "lastEventId", buf, buf_bytes, &id))
        return !ptn_query_has(query, "lastEventId");
    return id.n == 0 || http_position(id, ret_since);
}

void http_sse_begin(ptn_ctx *c, struct http_exchange *x) {
    struct http_conn *conn = x->conn;
    ptn_str topic = {(const char *)x->body.p, x->body.len};
    ptn_position since;
    char buf[256];
    if (x->request.method == PTN_HEAD) {
        ptn_response r = {.status = 200, .content_type = PTN_STR("text/event-stream")};
        http_respond(c, x, &r);
        return;
    }
    x->close_after = true;
    if (x->revoked) {
        http_respond_status(c, x, 401, "The session was revoked.");
        return;
    }
    if (conn->edge->base.draining) {
        struct http_problem p = {.code = PTN_CODE_DRAINING,
                                 .message = PTN_STR("This server is draining; connect again.")};
        http_respond_problem(c, x, &p);
        return;
    }
    if (!resume_position(x, buf, sizeof buf, &since)) {
        http_respond_status(c, x, 400, "Last-Event-ID must be an id that this stream has sent.");
        return;
    }
    struct http_sse *sse = calloc(1, sizeof *sse);
    if (sse == NULL) {
        http_respond_err(c, x, -PTN_ENOMEM);
        return;
    }
    sse->conn = conn;
    sse->hub = conn->edge->base.config->hub;
    int err = ptn_hub_sink_open(sse->hub, &sink_ops, sse, x->principal.user, &sse->sink);
    if (err == 0) {
        err = ptn_hub_subscribe(c, sse->hub, sse->sink, 0, topic, since, PTN_POLICY_DEFAULT, 0,
                                x->principal.roles);
        if (err != 0)
            ptn_hub_sink_close(c, sse->hub, sse->sink);
    }
    if (err != 0) {
        free(sse);
        http_respond_err(c, x, err);
        return;
    }
    x->state = HTTP_X_PENDING;
    conn->sse = sse;
    ptn_timer_start(c, &sse->tick, next_tick(c, &x->principal), on_tick, sse);
}

void http_sse_free(ptn_ctx *c, struct http_conn *conn) {
    struct http_sse *sse = conn->sse;
    ptn_gauge_add(sse->live ? PTN_G_CONNECTIONS_SSE : PTN_G_CONNECTIONS_HTTP, -1);
    conn->sse = NULL;
    if (c == NULL) {
        sse->conn = NULL;
        return;
    }
    ptn_timer_stop(c, &sse->tick);
    ptn_hub_sink_close(c, sse->hub, sse->sink);
    free(sse);
}

void http_sse_drain(ptn_ctx *c, struct http_conn *conn) {
    if (conn->finishing)
        return;
    if (conn->sse->live)
        end_with(conn, "retry: 1000\nevent: drain\ndata: {\"reconnectAfterMs\":1000}\n\n");
    else
        end_with_problem(c, conn, PTN_CODE_DRAINING,
                         PTN_STR("This server is draining; connect again."));
}

void http_sse_session_revoked(ptn_ctx *c, struct http_conn *conn, ptn_str session, ptn_str user) {
    if (conn->sse == NULL || conn->finishing ||
        !ptn_principal_is_revoked(&conn->first->principal, session, user))
        return;
    ptn_count(PTN_C_CLOSED_AUTH, 1);
    if (conn->sse->live)
        end_with(conn, "event: revoked\ndata: {\"code\":\"unauthenticated\"}\n\n");
    else
        end_with_problem(c, conn, PTN_CODE_UNAUTHENTICATED, PTN_STR("The session was revoked."));
}
