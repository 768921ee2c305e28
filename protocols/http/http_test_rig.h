/* SPDX-License-Identifier: Apache-2.0
 *
 * http_test_rig.h - a whole edge for tests: real sockets, the real hub, and one actor that plays
 * everybody else.
 *
 * The backend actor stands in for router, verifier and topic owner; what it answers depends on the
 * path alone. Clients are blocking sockets in the test's thread.  Every wait is bounded by the
 * clients' time limit.
 */
#ifndef POSTERN_PROTOCOLS_HTTP_TEST_RIG_H
#define POSTERN_PROTOCOLS_HTTP_TEST_RIG_H

#include "protocols/http/http.h"

#include "runtime/env/test_client.h"

#include <criterion/criterion.h>
#include <pthread.h>

#define BIG_BYTES (3u << 20)

struct rig {
    ptn_runtime *rt;
    ptn_endpoint *ep;
    ptn_hub *hub;
    ptn_port *port;
    pthread_t thread;
    ptn_directory directory;
    edge_config config;
    ptn_addr edge;
    const ptn_actor_ops *edge_ops; /* NULL: edge_actor */
    int result;
    /* backend's, worker only */
    ptn_reply_to slow;
};

/* ---- the backend ---------------------------------------------------------------------------- */

static inline void answer_auth(ptn_ctx *c, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n = 0;
    ptn_str token = {"", 0};
    ptn_reply_to to = ptn_reply_token(c, m);
    ptn_pack w;
    if (!ptn_unpack_array(&u, &n) || n != 1 || !ptn_unpack_str(&u, &token))
        ptn_problem_send(c, to, PTN_CODE_INTERNAL, "bad AUTH_TOKEN");
    else if (ptn_str_eqz(token, "expired"))
        ptn_problem_send(c, to, PTN_CODE_TOKEN_EXPIRED, "expired");
    else if (!ptn_str_eqz(token, "good"))
        ptn_problem_send(c, to, PTN_CODE_UNAUTHENTICATED, "no such token");
    else {
        ptn_principal p = {.user = PTN_STR("u1"),
                           .name = PTN_STR("anna"),
                           .session = PTN_STR("s1"),
                           .roles = PTN_ROLE_USER,
                           .expires_ms = ptn_wall_ms(c) + 3600000};
        ptn_pack_init(&w, 64);
        ptn_principal_pack(&w, &p);
        ptn_buf *b = ptn_pack_finish(&w);
        cr_assert_eq(ptn_reply(c, to, PTN_MSG_PRINCIPAL, b), 0);
    }
}

/* Topic owner: two events, 6 and 7, are kept; "forbidden" is. */
static inline void answer_attach(ptn_ctx *c, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n = 0;
    ptn_str topic = {"", 0}, epoch = {"", 0};
    uint64_t since = 0;
    ptn_reply_to to = ptn_reply_token(c, m);
    ptn_unpack_array(&u, &n);
    ptn_unpack_str(&u, &topic);
    ptn_unpack_any(&u, NULL);
    ptn_unpack_any(&u, NULL);
    ptn_unpack_str_or_nil(&u, &epoch);
    ptn_unpack_uint(&u, &since);
    if (ptn_str_eqz(topic, "forbidden")) {
        ptn_problem_send(c, to, PTN_CODE_FORBIDDEN, "not for you");
        return;
    }
    bool recovered = ptn_str_eqz(epoch, "E") && since == 5;
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 5);
    ptn_pack_cstr(&w, "E");
    ptn_pack_uint(&w, 7);
    ptn_pack_bool(&w, recovered);
    ptn_pack_bool(&w, /* stored= */ false);
    ptn_pack_array(&w, recovered ? 2 : 0);
    for (unsigned i = 6; recovered && i <= 7; i++) {
        ptn_pack_array(&w, 2);
        ptn_pack_uint(&w, i);
        ptn_pack_cstr(&w, "old");
    }
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_reply(c, to, PTN_MSG_TOPIC_ATTACHED, b), 0);
}

static inline void emit(ptn_ctx *c, struct rig *r, const char *text, uint64_t offset) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 4);
    ptn_pack_cstr(&w, "news");
    ptn_pack_cstr(&w, "E");
    ptn_pack_uint(&w, offset);
    ptn_pack_cstr(&w, text);
    ptn_buf *b = ptn_pack_finish(&w);
    if (ptn_cast(c, r->directory.hub[0], PTN_MSG_EVENT, b) < 0)
        ptn_buf_unref(b);
}

/* Everything the adapter has passed on, as data. */
static inline void pack_echo(ptn_pack *w, const ptn_request *q) {
    char hex[33] = "", span[17] = "";
    http_hex(q->trace_id.p, q->trace_id.n, hex);
    if (q->parent_span.n == 8)
        http_hex(q->parent_span.p, 8, span);
    ptn_pack_map(w, 8);
    ptn_pack_key(w, "method");
    ptn_pack_cstr(w, ptn_method_name(q->method));
    ptn_pack_key(w, "path");
    ptn_pack_str(w, q->path);
    ptn_pack_key(w, "query");
    ptn_pack_str(w, q->query);
    ptn_pack_key(w, "user");
    ptn_pack_str(w, q->principal.user);
    ptn_pack_key(w, "trace");
    ptn_pack_cstr(w, hex);
    ptn_pack_key(w, "parent");
    ptn_pack_cstr(w, span);
    ptn_pack_key(w, "headers");
    if (q->headers.n != 0)
        ptn_pack_raw(w, q->headers);
    else
        ptn_pack_nil(w);
    ptn_pack_key(w, "body");
    if (q->body.n != 0)
        ptn_pack_raw(w, q->body);
    else
        ptn_pack_nil(w);
}

/* [status, contentType, headers, page, data] by hand. */
static inline void reply_raw(ptn_ctx *c, ptn_reply_to to, unsigned status, const char *type,
                             const char *const *headers, const char *data, size_t data_bytes) {
    ptn_pack w;
    uint32_t n = 0;
    while (headers != NULL && headers[2 * n] != NULL)
        n++;
    ptn_pack_init(&w, 64 + data_bytes);
    ptn_pack_array(&w, 5);
    ptn_pack_uint(&w, status);
    ptn_pack_cstr(&w, type);
    ptn_pack_map(&w, n);
    for (uint32_t i = 0; i < 2 * n; i++)
        ptn_pack_cstr(&w, headers[i]);
    ptn_pack_nil(&w);
    ptn_pack_str(&w, (ptn_str){data, data_bytes});
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_reply(c, to, PTN_MSG_RESPONSE, b), 0);
}

static inline void answer_stream(ptn_ctx *c, ptn_reply_to to, const char *topic) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 1);
    ptn_pack_cstr(&w, topic);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_reply(c, to, PTN_MSG_STREAM, b), 0);
}

static inline void answer_request(ptn_ctx *c, struct rig *r, const ptn_msg *m) {
    static const char *const etag[] = {"etag", "\"v1\"", "Cache-Control", "max-age=5", NULL};
    static const char *const evil[] = {"X-A", "b\r\nX-Evil: 1", "X B", "c", "Content-Length",
                                       "1",   "X-Good",         "yes", NULL};
    static char big[BIG_BYTES];
    ptn_request q;
    ptn_reply_to to = ptn_reply_token(c, m);
    cr_assert(ptn_request_unpack(ptn_msg_bytes(m), &q));
    if (ptn_str_eqz(q.path, "/never")) {
        return; /* the deadline answers */
    } else if (ptn_str_eqz(q.path, "/slow")) {
        r->slow = to;
    } else if (ptn_str_eqz(q.path, "/release")) { /* in the wrong order on purpose */
        reply_raw(c, to, 200, "text/plain", NULL, "released", 8);
        reply_raw(c, r->slow, 200, "text/plain", NULL, "was slow", 8);
    } else if (ptn_str_eqz(q.path, "/etag")) {
        reply_raw(c, to, 200, "text/plain", etag, "tagged", 6);
    } else if (ptn_str_eqz(q.path, "/evil")) {
        reply_raw(c, to, 200, "text/plain", evil, "ok", 2);
    } else if (ptn_str_eqz(q.path, "/none")) {
        reply_raw(c, to, 204, NULL, NULL, "", 0);
    } else if (ptn_str_eqz(q.path, "/impossible")) {
        reply_raw(c, to, 700, NULL, NULL, "", 0);
    } else if (ptn_str_eqz(q.path, "/big")) {
        memset(big, 'x', sizeof big);
        reply_raw(c, to, 200, "text/plain", NULL, big, sizeof big);
    } else if (ptn_str_eqz(q.path, "/problem")) {
        ptn_problem_send_field(c, to, PTN_CODE_VALIDATION_FAILED, "No.", "name", "too short");
    } else if (ptn_str_eqz(q.path, "/limited")) {
        ptn_problem_send(c, to, PTN_CODE_RATE_LIMITED, "Slow down.");
    } else if (ptn_str_eqz(q.path, "/stream")) {
        answer_stream(c, to, "news");
    } else if (ptn_str_eqz(q.path, "/forbidden")) {
        answer_stream(c, to, "forbidden");
    } else if (ptn_str_eqz(q.path, "/emit")) {
        emit(c, r, "fresh\nline", 8);
        reply_raw(c, to, 202, NULL, NULL, "", 0);
    } else {
        ptn_pack w;
        ptn_pack_init(&w, 256);
        ptn_response_begin(&w, 200);
        pack_echo(&w, &q);
        ptn_response_send(c, to, &w);
    }
}

static inline int backend_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(struct rig **)state = arg;
    return 0;
}

static inline int backend_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct rig *r = *(struct rig **)state;
    switch (m->type) {
    case PTN_MSG_REQUEST:
        answer_request(c, r, m);
        break;
    case PTN_MSG_AUTH_TICKET:
        (void)ptn_reply_err(c, ptn_reply_token(c, m), -PTN_EOVERLOAD); /* none: it does without */
        break;
    case PTN_MSG_AUTH_TOKEN:
        answer_auth(c, m);
        break;
    case PTN_MSG_TOPIC_ATTACH:
        answer_attach(c, m);
        break;
    case PTN_MSG_STOPPING:
        ptn_exit(c, 0);
        break;
    default:
        break;
    }
    return 0;
}

static const ptn_actor_ops backend_ops = {.name = "backend",
                                          .state_size = sizeof(struct rig *),
                                          .init = backend_init,
                                          .handle = backend_handle};

/* ---- start and stop -------------------------------------------------------------------------- */

static inline void *rig_thread(void *arg) {
    struct rig *r = arg;
    r->result = ptn_runtime_run(r->rt);
    cr_assert_neq(r->result, -PTN_ENOMEM, "it did not run: nobody will be answered");
    return NULL;
}

/* r is zero but for config.limits and config.admin. */
static inline void rig_start(struct rig *r) {
    ptn_runtime_opts opts = {.workers = 1, .drain_ns = 10 * PTN_SEC};
    ptn_actor_opts worker0 = {.worker = 0};
    ptn_addr backend, hub;
    const char *why = "";
    cr_assert_eq(ptn_runtime_new(&opts, &r->rt), 0);
    cr_assert_eq(ptn_endpoint_bind(r->rt, "127.0.0.1:0", &r->ep, &why), 0, "%s", why);
    edge_limits_defaults(&r->config.limits);
    r->directory.workers = 1;
    r->hub = ptn_hub_new(NULL, &r->directory, 0);
    cr_assert(r->hub != NULL);
    r->config.directory = &r->directory;
    r->config.hub = r->hub;
    r->config.endpoints = &r->ep;
    r->config.n_endpoints = 1;
    cr_assert_eq(ptn_runtime_spawn(r->rt, &backend_ops, &worker0, r, PTN_PERMANENT, &backend), 0);
    cr_assert_eq(ptn_runtime_spawn(r->rt, &ptn_hub_actor, &worker0, r->hub, PTN_PERMANENT, &hub),
                 0);
    cr_assert_eq(ptn_runtime_spawn(r->rt, r->edge_ops != NULL ? r->edge_ops : &edge_actor, &worker0,
                                   &r->config, PTN_PERMANENT, &r->edge),
                 0);
    r->directory.router[0] = r->directory.auth[0] = r->directory.topics[0] = backend;
    r->directory.conversation[0] = backend;
    r->directory.hub[0] = hub;
    r->directory.edge[0] = r->edge;
    cr_assert_eq(ptn_port_open(r->rt, &r->port), 0);
    cr_assert_eq(pthread_create(&r->thread, NULL, rig_thread, r), 0);
}

static inline void rig_stop(struct rig *r) {
    ptn_port_close(r->port);
    ptn_runtime_stop(r->rt);
    pthread_join(r->thread, NULL);
    cr_assert_eq(r->result, 0);
    ptn_endpoint_free(r->ep);
    ptn_hub_free(r->hub);
    ptn_runtime_free(r->rt);
}

/* ---- clients --------------------------------------------------------------------------------- */

static inline int rig_connect(struct rig *r) {
    int fd = client_connect(ptn_endpoint_address(r->ep));
    cr_assert(fd >= 0, "connect: %d", fd);
    return fd;
}

static inline void say(int fd, const char *text) {
    cr_assert_eq(client_send(fd, text, strlen(text)), 0);
}

struct reply {
    char head[4096];
    char body[8192];
    size_t body_bytes;
    unsigned status;
};

static inline bool head_has(const struct reply *p, const char *line) {
    return strstr(p->head, line) != NULL;
}

/* One head, byte by byte so that nothing behind it is taken. */
static inline void read_head(int fd, struct reply *p) {
    size_t n = 0;
    memset(p, 0, sizeof *p);
    while (n < sizeof p->head - 1 && strstr(p->head, "\r\n\r\n") == NULL)
        cr_assert_eq(client_recv(fd, p->head + n++, 1), 1, "end inside a head: %s", p->head);
    p->status = (unsigned)strtoul(p->head + 9, NULL, 10);
    cr_assert(strncmp(p->head, "HTTP/1.1 ", 9) == 0, "%s", p->head);
}

static inline struct reply *hear(int fd, struct reply *p) {
    read_head(fd, p);
    const char *length = strstr(p->head, "Content-Length: ");
    if (length == NULL)
        return p;
    p->body_bytes = strtoul(length + 16, NULL, 10);
    cr_assert(p->body_bytes < sizeof p->body);
    cr_assert_eq(client_recv(fd, p->body, p->body_bytes), p->body_bytes);
    return p;
}

/* Says text on a new connection and returns the first answer; the connection is closed. */
static inline struct reply *once(struct rig *r, const char *text, struct reply *p) {
    int fd = rig_connect(r);
    say(fd, text);
    hear(fd, p);
    close(fd);
    return p;
}

/* Reads until the text has come; returns all of it. */
static inline void read_until(int fd, const char *text, char *buf, size_t cap) {
    size_t n = 0;
    memset(buf, 0, cap);
    while (strstr(buf, text) == NULL) {
        cr_assert(n < cap - 1);
        cr_assert_eq(client_recv(fd, buf + n++, 1), 1, "waiting for %s, have %s", text, buf);
    }
}

#endif
