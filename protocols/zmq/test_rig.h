/* SPDX-License-Identifier: Apache-2.0
 *
 * test_rig.h - a gateway on a running runtime, for clients of the real libzmq.
 *
 * Router, verifier and topic owners are one fake actor; the hub and the frame language are the real
 * ones.  The runtime runs in a thread of its own, the clients in the test's.
 */
#ifndef POSTERN_PROTOCOLS_ZMQ_TEST_RIG_H
#define POSTERN_PROTOCOLS_ZMQ_TEST_RIG_H

#include "protocols/zmq/zmq_gw.h"

#include <criterion/criterion.h>
#include <postern/codec.h>
#include <postern/metrics.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define MSG_CRASH ((uint32_t)PTN_MSG_TYPE_END + 100u)
#define CLIENT_TIMEOUT_MS 10000

struct fixture {
    ptn_runtime *rt;
    ptn_directory directory;
    ptn_hub *hub;
    zmq_gw *gw;
    ptn_addr gw_addr;
    pthread_t thread;
    void *context; /* the clients' */
    char dir[40];
    /* the fake actor's */
    uint64_t offset;
    bool watching;
    bool saw_token;
};

/* ---- the fake router, verifier and owner --------------------------------------------------- */

static void answer_text(ptn_ctx *c, ptn_reply_to to, ptn_str text) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_response_begin(&w, 200);
    ptn_pack_str(&w, text);
    ptn_response_send(c, to, &w);
}

static void answer_bool(ptn_ctx *c, ptn_reply_to to, bool v) {
    answer_text(c, to, v ? PTN_STR("yes") : PTN_STR("no"));
}

static void emit(ptn_ctx *c, struct fixture *f, ptn_bytes body) {
    ptn_str topic;
    ptn_bytes data;
    if (!ptn_map_get_str(body, "topic", &topic) || !ptn_map_get(body, "data", &data))
        return;
    ptn_pack w;
    ptn_pack_init(&w, 128 + data.n);
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, topic);
    ptn_pack_cstr(&w, "e1");
    ptn_pack_uint(&w, ++f->offset);
    ptn_pack_raw(&w, data);
    ptn_buf *b = ptn_pack_finish(&w);
    if (ptn_cast(c, f->directory.hub[0], PTN_MSG_EVENT, b) < 0)
        ptn_buf_unref(b);
}

static void route(ptn_ctx *c, struct fixture *f, const ptn_msg *m) {
    ptn_request r;
    ptn_reply_to to = ptn_reply_token(c, m);
    if (!ptn_request_unpack(ptn_msg_bytes(m), &r)) {
        (void)ptn_reply_err(c, to, -PTN_EPROTO);
        return;
    }
    if (memmem(m->data, m->len, "s3cret", 6) != NULL)
        f->saw_token = true;
    if (ptn_str_eqz(r.path, "/health")) {
        answer_text(c, to, PTN_STR("fine"));
    } else if (ptn_str_eqz(r.path, "/me")) {
        if (r.principal.user.n == 0)
            ptn_problem_send(c, to, PTN_CODE_UNAUTHENTICATED, "who are you?");
        else
            answer_text(c, to, r.principal.name);
    } else if (ptn_str_eqz(r.path, "/emit")) {
        emit(c, f, r.body);
        answer_text(c, to, PTN_STR("emitted"));
    } else if (ptn_str_eqz(r.path, "/watching")) {
        answer_bool(c, to, f->watching);
    } else if (ptn_str_eqz(r.path, "/saw-token")) {
        answer_bool(c, to, f->saw_token);
    } else if (ptn_str_eqz(r.path, "/crash")) {
        (void)ptn_cast(c, f->gw_addr, MSG_CRASH, NULL);
        answer_text(c, to, PTN_STR("asked"));
    } else if (!ptn_str_eqz(r.path, "/hold")) { /* held until the asker's deadline */
        ptn_problem_send(c, to, PTN_CODE_NOT_FOUND, "no such route");
    }
}

static void verify(ptn_ctx *c, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    ptn_str token = {NULL, 0};
    uint32_t n;
    ptn_reply_to to = ptn_reply_token(c, m);
    if (ptn_unpack_array(&u, &n) && ptn_unpack_str(&u, &token) && ptn_str_eqz(token, "slow"))
        return; /* not answered before its deadline */
    if (!ptn_str_eqz(token, "s3cret")) {
        ptn_problem_send(c, to, PTN_CODE_UNAUTHENTICATED, "bad token");
        return;
    }
    const ptn_principal p = {.user = PTN_STR("u1"),
                             .name = PTN_STR("ann"),
                             .roles = PTN_ROLE_USER,
                             .expires_ms = ptn_wall_ms(c) + 60000};
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_principal_pack(&w, &p);
    ptn_buf *b = ptn_pack_finish(&w);
    if (ptn_reply(c, to, PTN_MSG_PRINCIPAL, b) < 0)
        ptn_buf_unref(b);
}

static int fake_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(struct fixture **)state = arg;
    return 0;
}

static int fake_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct fixture *f = *(struct fixture **)state;
    switch (m->type) {
    case PTN_MSG_REQUEST:
        route(c, f, m);
        break;
    case PTN_MSG_AUTH_TOKEN:
        verify(c, m);
        break;
    case PTN_MSG_AUTH_TICKET:
        ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_UNAUTHENTICATED, "no tickets here");
        break;
    case PTN_MSG_TOPIC_WATCH_ALL: {
        ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
        uint32_t n;
        (void)ptn_unpack_array(&u, &n);
        (void)ptn_unpack_bool(&u, &f->watching);
        if (m->corr != 0)
            (void)ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_OK, NULL);
        break;
    }
    case PTN_MSG_STOPPING:
        ptn_exit(c, 0);
        break;
    default:
        break;
    }
    return 0;
}

static const ptn_actor_ops fake_actor = {.name = "fake",
                                         .state_size = sizeof(struct fixture *),
                                         .init = fake_init,
                                         .handle = fake_handle};

/* The gateway, with one message that makes it fail. */
static int gw_handle_or_crash(ptn_ctx *c, void *state, const ptn_msg *m) {
    return m->type == MSG_CRASH ? -PTN_EINVAL : zmq_gw_actor.handle(c, state, m);
}

/* ---- fixture ------------------------------------------------------------------------------- */

static atomic_int n_crashes;

static void on_trace(const ptn_trace_event *e, void *arg) {
    (void)arg;
    if (e->kind == PTN_TRACE_CRASH)
        atomic_fetch_add(&n_crashes, 1);
}

static void *run(void *arg) {
    struct fixture *f = arg;
    (void)ptn_runtime_run(f->rt);
    return NULL;
}

/* n_requests: 1 for ipc alone, 2 for ipc and tcp. */
static void fixture_start_at(struct fixture *f, const zmq_gw_limits *limits, size_t n_requests) {
    static ptn_actor_ops gw_ops;
    *f = (struct fixture){.directory = {.workers = 1}};
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/postern-zmq-XXXXXX");
    cr_assert_not_null(mkdtemp(f->dir));
    char requests[80], events[80];
    (void)snprintf(requests, sizeof(requests), "ipc://%s/r.ipc", f->dir);
    (void)snprintf(events, sizeof(events), "ipc://%s/e.ipc", f->dir);
    const char *const request_addresses[] = {requests, "tcp://127.0.0.1:0"};
    const char *const event_addresses[] = {events, "tcp://127.0.0.1:0"};
    f->hub = ptn_hub_new(NULL, &f->directory, 0);
    cr_assert_not_null(f->hub);
    zmq_gw_config config = {.directory = &f->directory,
                            .hub = f->hub,
                            .requests = request_addresses,
                            .n_requests = n_requests,
                            .events = event_addresses,
                            .n_events = 2};
    if (limits != NULL)
        config.limits = *limits;
    const char *why = "";
    cr_assert_eq(zmq_gw_new(&config, &f->gw, &why), 0, "%s", why);
    const ptn_runtime_opts ro = {.workers = 1, .drain_ns = 2 * PTN_SEC};
    cr_assert_eq(ptn_runtime_new(&ro, &f->rt), 0);
    ptn_runtime_on_trace(f->rt, on_trace, NULL);
    const ptn_actor_opts ao = {.worker = 0};
    ptn_addr fake;
    cr_assert_eq(ptn_runtime_spawn(f->rt, &fake_actor, &ao, f, PTN_PERMANENT, &fake), 0);
    f->directory.router[0] = f->directory.auth[0] = fake;
    f->directory.topics[0] = f->directory.conversation[0] = f->directory.queue[0] = fake;
    cr_assert_eq(
        ptn_runtime_spawn(f->rt, &ptn_hub_actor, &ao, f->hub, PTN_PERMANENT, &f->directory.hub[0]),
        0);
    gw_ops = zmq_gw_actor;
    gw_ops.handle = gw_handle_or_crash;
    cr_assert_eq(ptn_runtime_spawn(f->rt, &gw_ops, &ao, f->gw, PTN_PERMANENT, &f->gw_addr), 0);
    f->context = zmq_ctx_new();
    cr_assert_eq(pthread_create(&f->thread, NULL, run, f), 0);
}

static void fixture_start(struct fixture *f, const zmq_gw_limits *limits) {
    fixture_start_at(f, limits, 2);
}

static void fixture_stop(struct fixture *f) {
    (void)zmq_ctx_term(f->context);
    ptn_runtime_stop(f->rt);
    (void)pthread_join(f->thread, NULL);
    zmq_gw_free(f->gw);
    ptn_runtime_free(f->rt);
    ptn_hub_free(f->hub);
    cr_expect_eq(rmdir(f->dir), 0, "socket files are gone");
}

static void *client(struct fixture *f, int type, const char *address) {
    void *s = zmq_socket(f->context, type);
    cr_assert_not_null(s);
    int zero = 0, timeout = CLIENT_TIMEOUT_MS;
    (void)zmq_setsockopt(s, ZMQ_LINGER, &zero, sizeof(zero));
    (void)zmq_setsockopt(s, ZMQ_RCVTIMEO, &timeout, sizeof(timeout));
    (void)zmq_setsockopt(s, ZMQ_SNDTIMEO, &timeout, sizeof(timeout));
    cr_assert_eq(zmq_connect(s, address), 0);
    return s;
}

static void *requester(struct fixture *f, int type) {
    return client(f, type, zmq_gw_request_address(f->gw, 0));
}

/* Like client(), and the identity is there before the connection. */
static void *named_dealer(struct fixture *f, const char *name) {
    void *s = zmq_socket(f->context, ZMQ_DEALER);
    cr_assert_not_null(s);
    int zero = 0, timeout = CLIENT_TIMEOUT_MS;
    (void)zmq_setsockopt(s, ZMQ_ROUTING_ID, name, strlen(name));
    (void)zmq_setsockopt(s, ZMQ_LINGER, &zero, sizeof(zero));
    (void)zmq_setsockopt(s, ZMQ_RCVTIMEO, &timeout, sizeof(timeout));
    cr_assert_eq(zmq_connect(s, zmq_gw_request_address(f->gw, 0)), 0);
    return s;
}

/* Receives one part as text; false on timeout. */
static bool recv_text(void *s, char *buf, size_t buf_bytes) {
    int n = zmq_recv(s, buf, buf_bytes - 1, 0);
    if (n < 0)
        return false;
    buf[(size_t)n < buf_bytes ? (size_t)n : buf_bytes - 1] = '\0';
    return true;
}

static bool more(void *s) {
    int v = 0;
    size_t len = sizeof(v);
    (void)zmq_getsockopt(s, ZMQ_RCVMORE, &v, &len);
    return v != 0;
}

static char reply[65536];

static const char *ask(void *s, const void *body, size_t n) {
    cr_assert_eq(zmq_send(s, body, n, 0), (int)n, "%s", zmq_strerror(zmq_errno()));
    cr_assert(recv_text(s, reply, sizeof(reply)), "an answer comes: %.*s", (int)n,
              (const char *)body);
    return reply;
}

static const char *ask_json(void *s, const char *json) {
    return ask(s, json, strlen(json));
}

#define EXPECT_IN(text, part)                                                                      \
    do {                                                                                           \
        const char *in = (text);                                                                   \
        cr_expect_not_null(strstr(in, (part)), "%s in %s", (part), in);                            \
    } while (0)

static uint64_t counter(enum ptn_counter k) {
    static ptn_metrics_snapshot s;
    ptn_metrics_sum(&s);
    return s.counter[k];
}

#endif
