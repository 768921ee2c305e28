/* SPDX-License-Identifier: Apache-2.0
 *
 * ws_conn_test.c - whole connections on loopback sockets: a small edge of the test's own upgrades
 * what it accepts, fake owners answer, and the client is a blocking socket that speaks bytes.
 */
#include "protocols/frames/test_rig.h"
#include "protocols/ws/internal.h"

#include <postern/metrics.h>

#include "runtime/env/test_client.h"

#define MSG_DRAIN_ALL (PTN_MSG_TYPE_END + 1)
#define MSG_REVOKE (PTN_MSG_TYPE_END + 2)
#define MSG_CRASH (PTN_MSG_TYPE_END + 3)
#define HEAD_MAX 2048

struct world {
    struct rig rig;
    edge_config config;
    ptn_endpoint *ep;
    ptn_addr addr;
    unsigned n_inits; /* under the rig's lock */
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

static ptn_str header_of(const struct greeting *g, const char *name) {
    const char *at = strstr(g->head, name);
    if (at == NULL)
        return (ptn_str){0};
    at += strlen(name);
    return (ptn_str){at, strcspn(at, "\r\n ")};
}

static void greeting_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
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

static void greeting_close(ptn_ctx *c, void *owner, int reason) {
    (void)c;
    (void)reason;
    free(owner);
}

static const ptn_stream_ops greeting_ops = {.on_read = greeting_read, .on_close = greeting_close};

static void edge_accept(ptn_ctx *c, void *arg, ptn_stream *s) {
    struct greeting *g = calloc(1, sizeof *g);
    (void)c;
    cr_assert_not_null(g);
    g->edge = arg;
    g->stream = s;
    ptn_stream_open(s, &greeting_ops, g);
}

static void edge_release(void *arg) {
    edge *e = arg;
    ptn_json_parser_free(e->json);
    ptn_out_done(&e->text);
}

static int edge_init(ptn_ctx *c, void *state, void *arg) {
    struct test_edge *e = state;
    e->world = arg;
    e->base.config = &e->world->config;
    e->base.json = ptn_json_parser_new();
    cr_assert_eq(ptn_defer(c, edge_release, &e->base), 0);
    int err = ptn_listen(c, e->world->ep, edge_accept, e, &e->listener);
    if (err == 0)
        rig_count(&e->world->rig, &e->world->n_inits);
    return err;
}

static int edge_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct test_edge *e = state;
    switch (m->type) {
    case PTN_MSG_STOPPING:
        ptn_exit(c, 0);
        return 0;
    case MSG_DRAIN_ALL:
        ws_drain_all(c, &e->base, 1500);
        return 0;
    case MSG_REVOKE:
        ws_session_revoked(c, &e->base, (ptn_str){(const char *)m->data, m->len});
        return 0;
    case MSG_CRASH:
        return -PTN_EINVAL;
    default:
        return 0;
    }
}

static const ptn_actor_ops test_edge_ops = {.name = "edge",
                                            .state_size = sizeof(struct test_edge),
                                            .init = edge_init,
                                            .handle = edge_handle};

static void world_start(struct world *w) {
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

static uint64_t counter(enum ptn_counter k) {
    ptn_metrics_snapshot s;
    ptn_metrics_sum(&s);
    return s.counter[k];
}

/* Stops everything; no connection may be left in the gauge. */
static void world_stop(struct world *w) {
    ptn_metrics_snapshot s;
    rig_stop(&w->rig);
    ptn_metrics_sum(&s);
    cr_expect_eq(s.gauge[PTN_G_CONNECTIONS_WS], 0);
    ptn_endpoint_free(w->ep);
    rig_done(&w->rig);
}

static void tell(struct world *w, uint32_t type, const char *payload) {
    ptn_buf *b = payload != NULL ? ptn_buf_copy(payload, strlen(payload)) : NULL;
    cr_assert_eq(ptn_port_send(w->rig.port, w->addr, type, b), 0);
}

/* ---- the client ----------------------------------------------------------------------------- */

struct message {
    unsigned opcode;
    size_t n;
    uint8_t p[70000]; /* terminated */
};

static size_t frame_bytes(uint8_t *out, unsigned b0, const void *p, size_t n) {
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

static void send_raw(int fd, unsigned b0, const void *p, size_t n) {
    uint8_t *out = malloc(n + WS_HEAD_BYTES_MAX);
    cr_assert_eq(client_send(fd, out, frame_bytes(out, b0, p, n)), 0);
    free(out);
}

static void send_text(int fd, const char *json) {
    send_raw(fd, 0x81, json, strlen(json));
}

/* Connects and upgrades; extra: more header lines and what follows; target: "/ws" and so on. */
static int ws_connect(struct world *w, const char *target, const char *extra, const void *early,
                      size_t n_early) {
    char request[HEAD_MAX], head[HEAD_MAX];
    int fd = client_connect(ptn_endpoint_address(w->ep));
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

static int ws_plain(struct world *w) {
    return ws_connect(w, "/ws", "", "", 0);
}

/* The next frame from the server; false at the end of the connection. */
static bool recv_frame(int fd, struct message *m) {
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

static void expect_text(int fd, const char *part) {
    struct message m;
    cr_assert(recv_frame(fd, &m), "the connection ended before %s", part);
    cr_assert_eq(m.opcode, WS_OP_TEXT, "opcode %u instead of %s", m.opcode, part);
    cr_assert_not_null(strstr((char *)m.p, part), "%s lacks %s", (char *)m.p, part);
}

/* A close with this code, whose reason has this code; then the end, after we have answered. */
static void expect_close(int fd, unsigned ws_code, const char *reason) {
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

static void log_in(int fd) {
    send_text(fd, "{\"type\":\"auth\",\"token\":\"good\"}");
    expect_text(fd, "\"type\":\"welcome\"");
}

static void say_bye(int fd) {
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

/* ---- talking -------------------------------------------------------------------------------- */

Test(ws_conn, a_session) {
    struct world w = {0};
    struct message m;
    world_start(&w);
    int fd = ws_plain(&w);
    send_text(fd, "{\"type\":\"subscribe\",\"topic\":\"a\",\"id\":1}");
    expect_text(fd, "\"code\":\"unauthenticated\"");
    log_in(fd);
    send_text(fd, "{\"type\":\"ping\",\"timestamp\":5}");
    expect_text(fd, "{\"type\":\"pong\",\"timestamp\":5");
    send_raw(fd, 0x89, "beat", 4);
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_PONG);
    cr_assert_str_eq((char *)m.p, "beat");
    send_raw(fd, 0x8a, "unasked", 7);
    send_text(fd, "{\"method\":\"GET\",\"path\":\"/echo\",\"id\":2}");
    expect_text(fd, "\"id\":2,\"status\":200");
    say_bye(fd);
    cr_expect_eq(counter(PTN_C_RECEIVED_WS), 4);
    cr_expect_eq(counter(PTN_C_CONNECTIONS_ACCEPTED_WS), 1);
    world_stop(&w);
}

Test(ws_conn, every_byte_in_a_write_of_its_own) {
    struct world w = {0};
    uint8_t bytes[256];
    const char *text = "{\"type\":\"ping\",\"id\":\"drip\"}";
    world_start(&w);
    int fd = ws_plain(&w);
    size_t n = frame_bytes(bytes, 0x01, text, 10);
    n += frame_bytes(bytes + n, 0x89, "", 0);
    n += frame_bytes(bytes + n, 0x80, text + 10, strlen(text) - 10);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(client_send(fd, bytes + i, 1), 0);
    struct message m;
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_PONG);
    expect_text(fd, "\"id\":\"drip\"");
    say_bye(fd);
    world_stop(&w);
}

Test(ws_conn, bytes_behind_the_upgrade_count) {
    struct world w = {0};
    uint8_t early[256];
    world_start(&w);
    const char *auth = "{\"type\":\"auth\",\"token\":\"good\"}",
               *sub = "{\"type\":\"subscribe\",\"topic\":\"t\"}";
    size_t n = frame_bytes(early, 0x81, auth, strlen(auth));
    n += frame_bytes(early + n, 0x81, sub, strlen(sub));
    int fd = ws_connect(&w, "/ws", "", early, n);
    expect_text(fd, "welcome");
    expect_text(fd, "\"type\":\"subscribed\"");
    say_bye(fd);
    world_stop(&w);
}

Test(ws_conn, msgpack) {
    struct world w = {0};
    struct message m;
    ptn_str type;
    world_start(&w);
    int fd = ws_connect(
        &w, "/ws", "Authorization: Bearer good\r\nSec-WebSocket-Protocol: postern.v1.msgpack\r\n",
        "", 0);
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_BINARY);
    cr_assert(ptn_map_get_str((ptn_bytes){m.p, m.n}, "type", &type));
    cr_assert(ptn_str_eqz(type, "welcome"));
    ptn_buf *b = rig_msgpack("{\"type\":\"subscribe\",\"topic\":\"news\"}");
    send_raw(fd, 0x82, ptn_buf_bytes(b).p, ptn_buf_bytes(b).n);
    ptn_buf_unref(b);
    cr_assert(recv_frame(fd, &m));
    cr_assert(ptn_map_get_str((ptn_bytes){m.p, m.n}, "type", &type));
    cr_assert(ptn_str_eqz(type, "subscribed"));
    rig_event(&w.rig, "news", 1, "hi");
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_BINARY);
    cr_assert(ptn_map_get_str((ptn_bytes){m.p, m.n}, "data", &type));
    cr_assert(ptn_str_eqz(type, "hi"));
    send_raw(fd, 0x82, "\xc1", 1);
    cr_assert(recv_frame(fd, &m));
    cr_assert(ptn_map_get_str((ptn_bytes){m.p, m.n}, "code", &type));
    cr_assert(ptn_str_eqz(type, "invalid_request"), "and the connection survives");
    say_bye(fd);
    world_stop(&w);
}

Test(ws_conn, broken_json_is_survived) {
    struct world w = {0};
    static const char *const bad[] = {"{",          "",     "nonsense",
                                      "{\"a\":1}}", "[1,]", "{\"a\":\"\\u0000\"}"};
    char deep[200];
    world_start(&w);
    int fd = ws_plain(&w);
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++) {
        send_text(fd, bad[i]);
        expect_text(fd, "\"code\":\"invalid_request\"");
    }
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    send_raw(fd, 0x81, deep, sizeof deep);
    expect_text(fd, "\"code\":\"invalid_request\"");
    say_bye(fd);
    world_stop(&w);
}

/* ---- refusals ------------------------------------------------------------------------------- */

Test(ws_conn, refusals_have_their_codes) {
    struct world w = {0};
    static const uint8_t unmasked[] = {0x81, 0x01, 'a'};
    w.config.limits.message_bytes_max = 100;
    world_start(&w);
    int fd = ws_plain(&w);
    cr_assert_eq(client_send(fd, unmasked, sizeof unmasked), 0);
    expect_close(fd, 1002, "{\"code\":\"invalid_request\"}");
    fd = ws_plain(&w);
    send_raw(fd, 0x82, "a", 1);
    expect_close(fd, 1003, "unsupported_media_type");
    fd = ws_plain(&w);
    send_raw(fd, 0x81, "\xff", 1);
    expect_close(fd, 1007, "invalid_request");
    fd = ws_plain(&w);
    char big[101] = {0};
    send_raw(fd, 0x81, big, sizeof big);
    expect_close(fd, 1009, "payload_too_large");
    fd = ws_plain(&w);
    send_raw(fd, 0x88, "\x03\xed", 2);
    expect_close(fd, 1002, "invalid_request");
    fd = ws_connect(&w, "/ws", "Sec-WebSocket-Protocol: postern.v1.msgpack\r\n", "", 0);
    send_raw(fd, 0x81, "{}", 2);
    expect_close(fd, 1003, "unsupported_media_type");
    cr_expect_eq(counter(PTN_C_CLOSED_PROTOCOL_ERROR), 5);
    cr_expect_eq(counter(PTN_C_CLOSED_TOO_BIG), 1);
    world_stop(&w);
}

Test(ws_conn, close_without_a_code_is_answered_without_one) {
    struct world w = {0};
    struct message m;
    world_start(&w);
    int fd = ws_plain(&w);
    send_raw(fd, 0x88, "", 0);
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_CLOSE);
    cr_assert_eq(m.n, 0);
    cr_assert_not(recv_frame(fd, &m));
    close(fd);
    world_stop(&w);
}

/* ---- identity ------------------------------------------------------------------------------- */

Test(ws_conn, token_in_the_query) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws?token=good", "", "", 0);
    expect_text(fd, "\"username\":\"ada\"");
    say_bye(fd);
    fd = ws_connect(&w, "/ws?token=bad", "", "", 0);
    expect_text(fd, "\"code\":\"unauthenticated\"");
    expect_close(fd, 4501, "{\"code\":\"unauthenticated\"}");
    fd = ws_connect(&w, "/ws?token=expired", "", "", 0);
    expect_text(fd, "\"code\":\"token_expired\"");
    expect_close(fd, 4501, "{\"code\":\"token_expired\"}");
    cr_expect_eq(counter(PTN_C_CLOSED_AUTH), 2);
    world_stop(&w);
}

Test(ws_conn, authentication_has_a_time_limit) {
    struct world w = {0};
    w.config.limits.ws_auth_ns = 50 * PTN_MS;
    world_start(&w);
    int fd = ws_plain(&w);
    expect_close(fd, 4401, "{\"code\":\"unauthenticated\"}");
    cr_expect_eq(counter(PTN_C_CLOSED_TIMEOUT), 1);
    world_stop(&w);
}

Test(ws_conn, a_token_expires) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws?token=soon", "", "", 0);
    expect_text(fd, "welcome");
    expect_text(fd, "\"code\":\"token_expired\"");
    expect_close(fd, 4401, "{\"code\":\"token_expired\"}");
    cr_expect_eq(counter(PTN_C_CLOSED_AUTH), 1);
    world_stop(&w);
}

Test(ws_conn, a_new_token_extends_the_session) {
    struct world w = {0};
    struct message m;
    w.config.limits.ws_ping_ns = 2 * RIG_EXPIRES_SOON_MS * PTN_MS;
    world_start(&w);
    int fd = ws_connect(&w, "/ws?token=soon", "", "", 0);
    expect_text(fd, "welcome");
    log_in(fd);
    cr_assert(recv_frame(fd, &m)); /* the first ping comes after the first token's end */
    cr_assert_eq(m.opcode, WS_OP_PING);
    send_text(fd, "{\"method\":\"GET\",\"path\":\"/x\"}");
    expect_text(fd, "\"status\":200");
    say_bye(fd);
    world_stop(&w);
}

Test(ws_conn, a_revoked_session_is_closed) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_plain(&w), other = ws_plain(&w);
    log_in(fd);
    tell(&w, MSG_REVOKE, "s2");
    tell(&w, MSG_REVOKE, "s1");
    expect_close(fd, 4501, "unauthenticated");
    send_text(other, "{\"type\":\"ping\"}");
    expect_text(other, "pong");
    say_bye(other);
    world_stop(&w);
}

/* ---- life ----------------------------------------------------------------------------------- */

Test(ws_conn, silence_is_found_out) {
    struct world w = {0};
    struct message m;
    w.config.limits.ws_ping_ns = 50 * PTN_MS;
    w.config.limits.ws_pong_ns = 30 * PTN_MS;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "\"heartbeatMs\":50");
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_PING);
    expect_close(fd, 1011, "{\"code\":\"timeout\",\"retryAfterMs\":1000}");
    cr_expect_eq(counter(PTN_C_CLOSED_NO_PONG), 1);
    world_stop(&w);
}

Test(ws_conn, pongs_and_frames_are_life) {
    struct world w = {0};
    struct message m;
    w.config.limits.ws_ping_ns = 200 * PTN_MS;
    w.config.limits.ws_pong_ns = PTN_SEC; /* passes once while the test runs */
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    for (int i = 0; i < 7; i++) {
        do
            cr_assert(recv_frame(fd, &m));
        while (m.opcode != WS_OP_PING);
        if (i % 2 == 0)
            send_raw(fd, 0x8a, m.p, m.n);
        else
            send_text(fd, "{\"type\":\"ping\"}");
    }
    cr_expect_eq(counter(PTN_C_CLOSED_NO_PONG), 0);
    close(fd);
    world_stop(&w);
}

Test(ws_conn, drain_says_goodbye) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    tell(&w, MSG_DRAIN_ALL, NULL);
    expect_text(fd, "{\"type\":\"drain\",\"reconnectAfterMs\":1500,\"ticket\":null}");
    expect_close(fd, 1012, "{\"code\":\"draining\",\"retryAfterMs\":1500}");
    world_stop(&w);
}

Test(ws_conn, a_peer_that_does_not_answer_our_close_is_left) {
    struct world w = {0};
    struct message m;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    tell(&w, MSG_DRAIN_ALL, NULL);
    expect_text(fd, "drain");
    cr_assert(recv_frame(fd, &m));
    cr_assert_eq(m.opcode, WS_OP_CLOSE);
    send_text(fd, "{\"type\":\"ping\"}"); /* not answered any more */
    cr_assert_not(recv_frame(fd, &m), "the end comes, after WS_CLOSE_WAIT_NS");
    close(fd);
    world_stop(&w);
}

/* ---- events --------------------------------------------------------------------------------- */

Test(ws_conn, one_event_for_many) {
    struct world w = {0};
    int fds[20];
    world_start(&w);
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++) {
        fds[i] = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
        expect_text(fds[i], "welcome");
        send_text(fds[i], "{\"type\":\"subscribe\",\"topic\":\"news\"}");
        expect_text(fds[i], "\"type\":\"subscribed\"");
    }
    for (uint64_t offset = 1; offset <= 3; offset++)
        rig_event(&w.rig, "news", offset, "hi");
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++) {
        expect_text(fds[i], "{\"type\":\"event\",\"topic\":\"news\",\"epoch\":\"e1\",\"offset\":1,"
                            "\"data\":\"hi\"}");
        expect_text(fds[i], "\"offset\":2");
        expect_text(fds[i], "\"offset\":3");
    }
    for (size_t i = 0; i < PTN_ARRAY_LEN(fds); i++)
        say_bye(fds[i]);
    cr_expect_eq(counter(PTN_C_DELIVERED_WS), 3 * PTN_ARRAY_LEN(fds));
    world_stop(&w);
}

Test(ws_conn, a_lost_event_sends_subscribers_back) {
    struct world w = {0};
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    send_text(fd, "{\"type\":\"subscribe\",\"topic\":\"news\"}");
    expect_text(fd, "subscribed");
    rig_event(&w.rig, "news", 5, "1 to 4 are missing");
    expect_close(fd, 1012, "{\"code\":\"draining\",\"retryAfterMs\":1000}");
    world_stop(&w);
}

Test(ws_conn, who_does_not_read_is_cut_off_and_nobody_else) {
    struct world w = {0};
    struct message m;
    static char data[30001];
    w.config.limits.out_bytes_max = 100000;
    world_start(&w);
    int slow = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    int quick = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(slow, "welcome");
    expect_text(quick, "welcome");
    send_text(slow, "{\"type\":\"subscribe\",\"topic\":\"news\"}");
    send_text(quick, "{\"type\":\"subscribe\",\"topic\":\"news\"}");
    expect_text(slow, "subscribed");
    expect_text(quick, "subscribed");
    memset(data, 'd', sizeof data - 1);
    uint64_t offset = 0;
    while (counter(PTN_C_CLOSED_SLOW_CONSUMER) == 0) {
        cr_assert_lt(++offset, 1000, "30 MB are in flight, and it is still connected");
        rig_event(&w.rig, "news", offset, data);
        cr_assert(recv_frame(quick, &m));
        cr_assert_eq(m.opcode, WS_OP_TEXT);
    }
    while (client_recv(slow, m.p, sizeof m.p) == sizeof m.p) /* what the kernel had, then the end */
        continue;
    close(slow);
    say_bye(quick);
    cr_expect_eq(counter(PTN_C_CLOSED_SLOW_CONSUMER), 1);
    world_stop(&w);
}

Test(ws_conn, a_crash_of_the_edge_leaves_nothing_dangling) {
    struct world w = {0};
    struct message m;
    world_start(&w);
    int fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    int idle = ws_plain(&w);
    expect_text(fd, "welcome");
    send_text(fd, "{\"type\":\"subscribe\",\"topic\":\"news\"}");
    expect_text(fd, "subscribed");
    send_text(fd, "{\"method\":\"GET\",\"path\":\"/never\"}");
    rig_wait(&w.rig, &w.rig.n_never, 1);
    tell(&w, MSG_CRASH, NULL);
    cr_assert_not(recv_frame(fd, &m));
    cr_assert_not(recv_frame(idle, &m));
    close(fd);
    close(idle);
    rig_wait(&w.rig, &w.n_inits, 2);
    rig_event(&w.rig, "news", 1, "for a sink whose edge is gone");
    fd = ws_connect(&w, "/ws", "Authorization: Bearer good\r\n", "", 0);
    expect_text(fd, "welcome");
    send_text(fd, "{\"type\":\"subscribe\",\"topic\":\"more\"}");
    expect_text(fd, "subscribed");
    rig_event(&w.rig, "more", 1, "hi");
    expect_text(fd, "\"data\":\"hi\"");
    say_bye(fd);
    world_stop(&w);
}
