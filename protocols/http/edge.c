/* SPDX-License-Identifier: Apache-2.0
 *
 * edge.c - the edge actor: listeners, shared scratch memory, drain.
 *
 * One per worker and listener group.  It owns every connection that its listeners accept, whatever
 * protocol the connection speaks later; the connections do the work, in its context.
 */
#include "protocols/http/http.h"

#include "protocols/ws/ws.h"

#define RECONNECT_AFTER_MS 1000u
#define DRAIN_CHECK_NS (5 * PTN_MS)
#define STOP_CHECK_NS (10 * PTN_MS)

/* Memory outside the arena; runs at every end of the actor, after a crash too. */
static void edge_release(void *arg) {
    struct http_edge *e = arg;
    http_conns_abandon(e);
    ptn_json_parser_free(e->base.json);
    e->base.json = NULL;
    ptn_out_done(&e->base.text);
}

/* Every request of this worker passes its router, and most its verifier; publish frames go to its
 * topics.  While the mailbox of one of them fills, the edge reads nothing, and TCP pushes back.
 * Other owners of routes are not watched: one that is slow refuses its own requests, and must not
 * stop those of others. */
static int watch_pressure(ptn_ctx *c, struct http_edge *e) {
    const ptn_directory *d = e->base.config->directory;
    const ptn_addr targets[] = {d->router[e->base.worker], d->auth[e->base.worker],
                                d->topics[e->base.worker]};
    int err = 0;
    for (size_t i = 0; i < PTN_ARRAY_LEN(targets) && err == 0; i++)
        if (targets[i] != PTN_ADDR_NONE && !e->base.config->admin)
            err = ptn_pressure_watch(c, targets[i], &e->watches[i]);
    return err;
}

static void pressure_changed(ptn_ctx *c, struct http_edge *e, const ptn_msg *m) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(e->watches); i++) {
        if (m->corr != e->watches[i])
            continue;
        uint8_t bit = (uint8_t)(1u << i);
        e->pressed = (uint8_t)(m->type == PTN_MSG_PRESSURE ? e->pressed | bit : e->pressed & ~bit);
    }
    if (e->base.paused == (e->pressed != 0))
        return;
    e->base.paused = e->pressed != 0;
    if (e->base.paused)
        ptn_count(PTN_C_EDGE_PAUSES, 1);
    struct http_conn *next;
    for (struct http_conn *conn = e->base.http_conns; conn != NULL; conn = next) {
        next = conn->next;
        http_conn_advance(c, conn);
    }
    ws_pause_changed(c, &e->base);
}

static int edge_init(ptn_ctx *c, void *state, void *arg) {
    struct http_edge *e = state;
    const edge_config *config = arg;
    if (config->n_endpoints > PTN_ARRAY_LEN(e->listeners))
        return -PTN_EINVAL;
    e->base.config = config;
    e->base.worker = ptn_worker(c);
    e->base.limits = config->limits;
    edge_limits_defaults(&e->base.limits);
    ptn_random(c, e->trace_state, sizeof e->trace_state);
    e->base.json = ptn_json_parser_new();
    if (e->base.json == NULL)
        return -PTN_ENOMEM;
    int err = ptn_defer(c, edge_release, e);
    if (err != 0) {
        ptn_json_parser_free(e->base.json);
        return err;
    }
    err = watch_pressure(c, e);
    if (err != 0)
        return err;
    for (size_t i = 0; i < config->n_endpoints; i++) {
        err = ptn_listen(c, config->endpoints[i], http_conn_accept, e, &e->listeners[i]);
        if (err != 0)
            return err;
        e->n_listeners++;
    }
    return 0;
}

/* WebSockets go as soon as they have their answers; when nobody is left, whoever drains us hears of
 * it. */
static void drain_check(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct http_edge *e = state;
    (void)arg;
    ws_drain_idle(c, &e->base, RECONNECT_AFTER_MS);
    if (e->base.n_connections > 0 || e->n_refusing > 0) {
        ptn_timer_start(c, t, DRAIN_CHECK_NS, drain_check, NULL);
        return;
    }
    if (e->drain_reply.corr != 0)
        (void)ptn_reply(c, e->drain_reply, PTN_MSG_OK, NULL);
    e->drain_reply.corr = 0;
}

/* Stops accepting and says goodbye to everybody, each in its own language. */
static void drain(ptn_ctx *c, struct http_edge *e) {
    if (e->base.draining)
        return;
    e->base.draining = true;
    for (size_t i = 0; i < e->n_listeners; i++)
        ptn_listener_close(c, e->listeners[i]);
    e->n_listeners = 0;
    struct http_conn *next;
    for (struct http_conn *conn = e->base.http_conns; conn != NULL; conn = next) {
        next = conn->next;
        http_conn_drain(c, conn);
    }
    ws_drain_all(c, &e->base, RECONNECT_AFTER_MS);
    drain_check(c, e, &e->drain_timer, NULL);
}

/* Connections of both protocols end on their own; the last one out lets the actor go. */
static void stop_check(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)arg;
    const struct http_edge *e = state;
    if (e->base.n_connections == 0 && e->n_refusing == 0)
        ptn_exit(c, 0);
    else
        ptn_timer_start(c, t, STOP_CHECK_NS, stop_check, NULL);
}

static void session_revoked(ptn_ctx *c, struct http_edge *e, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n = 0;
    ptn_str session, user;
    if (!ptn_unpack_array(&u, &n) || n != 2 || !ptn_unpack_str(&u, &session) ||
        !ptn_unpack_str_or_nil(&u, &user))
        return;
    for (struct http_conn *conn = e->base.http_conns; conn != NULL; conn = conn->next) {
        http_exchanges_revoked(conn, session, user);
        http_sse_session_revoked(c, conn, session, user);
    }
    ws_session_revoked(c, &e->base, session, user);
}

static int edge_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct http_edge *e = state;
    switch (m->type) {
    case PTN_MSG_DRAIN:
        if (m->corr != 0)
            e->drain_reply = ptn_reply_token(c, m);
        drain(c, e);
        break;
    case PTN_MSG_STOPPING:
        drain(c, e);
        stop_check(c, e, &e->stop_timer, NULL);
        break;
    case WS_MSG_READ_ON:
        ws_read_on(c, &e->base);
        break;
    case PTN_MSG_PRESSURE:
    case PTN_MSG_RELIEF:
    case PTN_MSG_DOWN:
        pressure_changed(c, e, m);
        break;
    case PTN_MSG_SESSION_REVOKED:
        session_revoked(c, e, m);
        break;
    default:
        break;
    }
    return 0;
}

const ptn_actor_ops edge_actor = {
    .name = "edge",
    .state_size = sizeof(struct http_edge),
    .init = edge_init,
    .handle = edge_handle,
};
