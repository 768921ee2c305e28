/* SPDX-License-Identifier: Apache-2.0
 *
 * test_world.h - whole connections on loopback sockets: a small edge of the test's own upgrades
 * what it accepts, fake owners answer, and the client is a blocking socket that speaks bytes.
 */
#ifndef POSTERN_PROTOCOLS_WS_TEST_WORLD_H
#define POSTERN_PROTOCOLS_WS_TEST_WORLD_H

#include "protocols/frames/test_rig.h"
#include "protocols/ws/internal.h"

#include <postern/metrics.h>

#include "runtime/env/test_client.h"

#define MSG_DRAIN_IDLE (PTN_MSG_TYPE_END + 6)
#define MSG_DRAIN_ALL (PTN_MSG_TYPE_END + 2) /* WS_MSG_READ_ON is the one before */
#define MSG_REVOKE (PTN_MSG_TYPE_END + 3)
#define MSG_CRASH (PTN_MSG_TYPE_END + 4)
#define MSG_PAUSE (PTN_MSG_TYPE_END + 5)         /* and again: goes on */
#define MSG_CROWDED_PAUSE (PTN_MSG_TYPE_END + 7) /* the same, and its mailbox is full */
#define MSG_NOTHING (PTN_MSG_TYPE_END + 8)
#define HEAD_MAX 2048

struct world {
    struct rig rig;
    edge_config config;
    ptn_endpoint *ep;
    ptn_addr addr;
    unsigned n_inits, n_pauses; /* under the rig's lock */
};

/* ---- the edge of the test ------------------------------------------------------------------- */

struct test_edge {
    edge base;
    struct world *world;
    ptn_listener *listener;
};

struct greeting { /* the upgrade request, until its end has come */
    struct test_edge *edge;
    ptn_stream *stream;
    size_t n;
    char head[HEAD_MAX];
};

static inline ptn_str header_of(const struct greeting *g, const char *name) {
    const char *at = strstr(g->head, name);
    if (at == NULL)
        return (ptn_str){0};
    at += strlen(name);
    return (ptn_str){at, strcspn(at, "\r\n ")};
}

static inline void greeting_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    struct greeting *g = owner;
    cr_assert_lt(g->n + n, sizeof g->head);
    memcpy(g->head + g->n, p, n);
    g->n += n;
    g->head[g->n] = '\0';
    const char *end = strstr(g->head, "\r\n\r\n");
    if (end == NULL)
        return;
    const size_t n_head = (size_t)(end - g->head) + 4;
    const ptn_principal ada = {
        .user = PTN_STR("u1"), .name = PTN_STR("ada"), .session = PTN_STR("s1"), .roles = 1};
    const ws_upgrade u = {.key = header_of(g, "Sec-WebSocket-Key: "),
                          .version = header_of(g, "Sec-WebSocket-Version: "),
                          .protocols = header_of(g, "Sec-WebSocket-Protocol: "),
                          .query_token = header_of(g, "?token="),
                          .principal = strstr(g->head, "Bearer good") != NULL ? &ada : NULL};
    const char *message;
    cr_assert_eq(ws_upgrade_check(&u, &message), 0);
    const ptn_bytes early = {(const uint8_t *)g->head + n_head, g->n - n_head};
    cr_assert_eq(ws_conn_open(c, &g->edge->base, g->stream, &u, early), 0);
    free(g);
}

static inline void greeting_close(ptn_ctx *c, void *owner, int reason) {
    (void)c;
    (void)reason;
    free(owner);
}

static const ptn_stream_ops greeting_ops = {.on_read = greeting_read, .on_close = greeting_close};

static inline void edge_accept(ptn_ctx *c, void *arg, ptn_stream *s) {
    struct greeting *g = calloc(1, sizeof *g);
    (void)c;
    cr_assert_not_null(g);
    g->edge = arg;
    g->stream = s;
    ptn_stream_open(s, &greeting_ops, g);
}

static inline void edge_release(void *arg) {
    edge *e = arg;
    ptn_json_parser_free(e->json);
    ptn_out_done(&e->text);
}

static inline int edge_init(ptn_ctx *c, void *state, void *arg) {
    struct test_edge *e = state;
    e->world = arg;
    e->base.config = &e->world->config;
    e->base.limits = e->world->config.limits;
    edge_limits_defaults(&e->base.limits);
    e->base.json = ptn_json_parser_new();
    cr_assert_eq(ptn_defer(c, edge_release, &e->base), 0);
    int err = ptn_listen(c, e->world->ep, edge_accept, e, &e->listener);
    if (err == 0)
        rig_count(&e->world->rig, &e->world->n_inits);
    return err;
}

static inline int edge_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct test_edge *e = state;
    switch (m->type) {
    case PTN_MSG_STOPPING:
        ptn_exit(c, 0);
        return 0;
    case WS_MSG_READ_ON:
        ws_read_on(c, &e->base);
        return 0;
    case MSG_DRAIN_ALL:
        ws_drain_all(c, &e->base, 1500);
        return 0;
    case MSG_DRAIN_IDLE:
        ws_drain_idle(c, &e->base, 1500);
        return 0;
    case MSG_REVOKE:
        ws_session_revoked(c, &e->base, (ptn_str){(const char *)m->data, m->len}, (ptn_str){0});
        return 0;
    case MSG_CRASH:
        return -PTN_EINVAL;
    case MSG_CROWDED_PAUSE:
        while (ptn_cast(c, ptn_self(c), MSG_NOTHING, NULL) == 0)
            ;
        /* fallthrough */
    case MSG_PAUSE:
        e->base.paused = !e->base.paused;
        ws_pause_changed(c, &e->base);
        rig_count(&e->world->rig, &e->world->n_pauses);
        return 0;
    default:
        return 0;
    }
}

static const ptn_actor_ops test_edge_ops = {.name = "edge",
                                            .state_size = sizeof(struct test_edge),
                                            .init = edge_init,
                                            .handle = edge_handle};

static inline void world_start(struct world *w) {
    const ptn_actor_opts ao = {.worker = 0};
    const char *why = "";
    rig_init(&w->rig);
    w->config.directory = &w->rig.directory;
    w->config.hub = w->rig.hub;
    cr_assert_eq(ptn_endpoint_bind(w->rig.rt, "127.0.0.1:0", &w->ep, &why), 0, "%s", why);
    cr_assert_eq(ptn_runtime_spawn(w->rig.rt, &test_edge_ops, &ao, w, PTN_PERMANENT, &w->addr), 0);
    rig_start(&w->rig);
    rig_wait(&w->rig, &w->n_inits, 1);
}

static inline uint64_t counter(enum ptn_counter k) {
    ptn_metrics_snapshot s;
    ptn_metrics_sum(&s);
    return s.counter[k];
}

/* Stops everything; no connection may be left in the gauge. */
static inline void world_stop(struct world *w) {
    ptn_metrics_snapshot s;
    rig_stop(&w->rig);
    ptn_metrics_sum(&s);
    cr_expect_eq(s.gauge[PTN_G_CONNECTIONS_WS], 0);
    ptn_endpoint_free(w->ep);
    rig_done(&w->rig);
}

static inline void tell(struct world *w, uint32_t type, const char *payload) {
    ptn_buf *b = payload != NULL ? ptn_buf_copy(payload, strlen(payload)) : NULL;
    cr_assert_eq(ptn_port_send(w->rig.port, w->addr, type, b), 0);
}

/* ---- the client ----------------------------------------------------------------------------- */

struct message {
    unsigned opcode;
    size_t n;
    uint8_t p[70000]; /* terminated */
};

static inline size_t frame_bytes(uint8_t *out, unsigned b0, const void *p, size_t n) {
    static const uint8_t mask[4] = {1, 2, 3, 4};
    uint8_t head[WS_HEAD_BYTES_MAX];
    size_t n_head = ws_head_write(head, WS_OP_TEXT, n);
    head[0] = (uint8_t)b0;
    head[1] |= 0x80;
    memcpy(out, head, n_head);
    memcpy(out + n_head, mask, 4);
    for (size_t i = 0; i < n; i++)
        out[n_head + 4 + i] = ((const uint8_t *)p)[i] ^ mask[i & 3];
    return n_head + 4 + n;
}

static inline void send_raw(int fd, unsigned b0, const void *p, size_t n) {
    uint8_t *out = malloc(n + WS_HEAD_BYTES_MAX);
    cr_assert_eq(client_send(fd, out, frame_bytes(out, b0, p, n)), 0);
    free(out);
}

static inline void send_text(int fd, const char *json) {
    send_raw(fd, 0x81, json, strlen(json));
}

/* Upgrades; extra: more header lines and what follows; target: "/ws" and so on. */
static inline int ws_upgrade_on(int fd, const char *target, const char *extra, const void *early,
                                size_t n_early) {
    char request[HEAD_MAX], head[HEAD_MAX];
    cr_assert_geq(fd, 0);
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                     "%s\r\n",
                     target, extra);
    memcpy(request + n, early, n_early);
    cr_assert_eq(client_send(fd, request, (size_t)n + n_early), 0);
    size_t got = 0;
    while (got < 4 || memcmp(head + got - 4, "\r\n\r\n", 4) != 0) {
        cr_assert_lt(got, sizeof head);
        cr_assert_eq(client_recv(fd, head + got, 1), 1);
        got++;
    }
    head[got] = '\0';
    cr_assert(strstr(head, "HTTP/1.1 101 ") == head, "%s", head);
    cr_assert_not_null(strstr(head, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    const char *offered = strstr(extra, "Sec-WebSocket-Protocol: ");
    cr_assert_eq(strstr(head, "Sec-WebSocket-Protocol: ") != NULL, offered != NULL);
    return fd;
}

static inline int ws_connect(struct world *w, const char *target, const char *extra,
                             const void *early, size_t n_early) {
    return ws_upgrade_on(client_connect(ptn_endpoint_address(w->ep)), target, extra, early,
                         n_early);
}

static inline int ws_plain(struct world *w) {
    return ws_connect(w, "/ws", "", "", 0);
}

/* The next frame from the server; false at the end of the connection. */
static inline bool recv_frame(int fd, struct message *m) {
    uint8_t head[10];
    if (client_recv(fd, head, 2) != 2)
        return false;
    cr_assert_eq(head[0] & 0xf0, 0x80, "FIN, and nothing reserved");
    cr_assert_eq(head[1] & 0x80, 0, "servers do not mask");
    m->opcode = head[0] & 15;
    m->n = head[1];
    if (m->n >= 126) {
        size_t n_length = m->n == 126 ? 2 : 8;
        cr_assert_eq(client_recv(fd, head + 2, n_length), n_length);
        m->n = 0;
        for (size_t i = 0; i < n_length; i++)
            m->n = m->n << 8 | head[2 + i];
    }
    cr_assert_lt(m->n, sizeof m->p);
    cr_assert_eq(client_recv(fd, m->p, m->n), m->n);
    m->p[m->n] = '\0';
    return true;
}

static inline void expect_text(int fd, const char *part) {
    struct message m;
    cr_assert(recv_frame(fd, &m), "the connection ended before %s", part);
    cr_assert_eq(m.opcode, WS_OP_TEXT, "opcode %u instead of %s", m.opcode, part);
    cr_assert_not_null(strstr((char *)m.p, part), "%s lacks %s", (char *)m.p, part);
}

/* A close with this code, whose reason has this code; then the end, after we have answered. */
static inline void expect_close(int fd, unsigned ws_code, const char *reason) {
    struct message m;
    cr_assert(recv_frame(fd, &m), "the connection ended without a close");
    cr_assert_eq(m.opcode, WS_OP_CLOSE, "opcode %u: %s", m.opcode, (char *)m.p);
    cr_assert_leq(m.n, 125);
    cr_assert_eq((unsigned)m.p[0] << 8 | m.p[1], ws_code, "%u: %s", (unsigned)m.p[0] << 8 | m.p[1],
                 (char *)m.p + 2);
    cr_assert_not_null(strstr((char *)m.p + 2, reason), "%s lacks %s", (char *)m.p + 2, reason);
    send_raw(fd, 0x88, m.p, 2);
    cr_assert_not(recv_frame(fd, &m));
    close(fd);
}

static inline void log_in(int fd) {
    send_text(fd, "{\"type\":\"auth\",\"token\":\"good\"}");
    expect_text(fd, "\"type\":\"welcome\"");
}

static inline void say_bye(int fd) {
    struct message m;
    send_raw(fd, 0x88, "\x03\xe8", 2);
    do
        cr_assert(recv_frame(fd, &m), "no answer to our close");
    while (m.opcode != WS_OP_CLOSE);
    cr_assert_eq(m.n, 2);
    cr_assert(memcmp(m.p, "\x03\xe8", 2) == 0);
    cr_assert_not(recv_frame(fd, &m));
    close(fd);
}

#endif
