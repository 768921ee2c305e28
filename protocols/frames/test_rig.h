/* SPDX-License-Identifier: Apache-2.0
 *
 * test_rig.h - a runtime on its own thread with fake owners, for the tests of frames and of the
 * WebSocket connection: a router, a verifier, an owner of topics, and the real hub.
 *
 * The fakes answer by rules on the path or the token, below.  Tests wait for counts under a lock,
 * with a limit, never for time to pass.
 */
#ifndef POSTERN_PROTOCOLS_FRAMES_TEST_RIG_H
#define POSTERN_PROTOCOLS_FRAMES_TEST_RIG_H

#include <criterion/criterion.h>
#include <postern/codec.h>
#include <postern/hub.h>
#include <postern/messages.h>

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#ifndef RIG_WAIT_S /* as CLIENT_TIMEOUT_S */
#define RIG_WAIT_S 20
#endif
#define RIG_NEVER_MAX 8
#define RIG_PARKED_MAX 64
#define RIG_LARGE_BYTES (32u << 10)
#define RIG_EXPIRES_SOON_MS 700

struct rig {
    ptn_runtime *rt;
    ptn_port *port;
    pthread_t thread;
    ptn_directory directory;
    ptn_hub *hub;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned n_never;  /* requests to /never that arrived */
    unsigned n_parked; /* requests to /parked that arrived */
    unsigned n_attached;
    unsigned n_waiting; /* AUTH_TOKEN "slow" that arrived */
};

static inline void rig_count(struct rig *r, unsigned *n) {
    pthread_mutex_lock(&r->lock);
    (*n)++;
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

static inline void rig_wait(struct rig *r, const unsigned *n, unsigned value) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += RIG_WAIT_S;
    pthread_mutex_lock(&r->lock);
    while (*n < value)
        cr_assert_eq(pthread_cond_timedwait(&r->cond, &r->lock, &until), 0,
                     "waited for %u, have %u", value, *n);
    pthread_mutex_unlock(&r->lock);
}

/* ---- router --------------------------------------------------------------------------------- */

struct fake_router {
    struct rig *rig;
    ptn_reply_to parked[RIG_PARKED_MAX];
    unsigned n_parked;
    bool large; /* their answers are of RIG_LARGE_BYTES */
};

/* /echo: what arrived.  data {method, path, query, user, protocol, headers, trace, span, body} */
static inline void fake_echo(ptn_ctx *c, const ptn_msg *m, const ptn_request *q) {
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_response_begin(&w, 200);
    ptn_pack_map(&w, 9);
    ptn_pack_key(&w, "method");
    ptn_pack_cstr(&w, ptn_method_name(q->method));
    ptn_pack_key(&w, "path");
    ptn_pack_str(&w, q->path);
    ptn_pack_key(&w, "query");
    ptn_pack_str(&w, q->query);
    ptn_pack_key(&w, "user");
    ptn_pack_str(&w, q->principal.user);
    ptn_pack_key(&w, "protocol");
    ptn_pack_uint(&w, q->protocol);
    ptn_pack_key(&w, "headers");
    if (q->headers.n > 0)
        ptn_pack_raw(&w, q->headers);
    else
        ptn_pack_nil(&w);
    ptn_pack_key(&w, "trace");
    ptn_pack_uint(&w, q->trace_id.n);
    ptn_pack_key(&w, "span");
    ptn_pack_uint(&w, q->parent_span.n);
    ptn_pack_key(&w, "body");
    if (q->body.n > 0)
        ptn_pack_raw(&w, q->body);
    else
        ptn_pack_nil(&w);
    ptn_response_send(c, ptn_reply_token(c, m), &w);
}

static inline void fake_publish(ptn_ctx *c, const ptn_msg *m) {
    const ptn_reply_to to = ptn_reply_token(c, m);
    ptn_publish_call p;
    cr_assert(ptn_publish_unpack(ptn_msg_bytes(m), &p));
    cr_assert(ptn_str_eqz(p.user, "u1") || ptn_str_eqz(p.user, "u2"));
    if (ptn_str_eqz(p.topic, "forbidden")) {
        ptn_problem_send(c, to, PTN_CODE_FORBIDDEN, "not yours");
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_array(&w, 3);
    ptn_pack_str(&w, p.key.n > 0 ? p.key : p.topic); /* so that the test sees what came */
    ptn_pack_uint(&w, p.data.n);
    ptn_pack_uint(&w, p.durability % PTN_DURABILITY_DEFAULT);
    cr_assert_eq(ptn_reply(c, to, PTN_MSG_PUBLISHED, ptn_pack_finish(&w)), 0);
}

/* The test lets the parked ones go, oldest first. */
static inline void fake_unpark(ptn_ctx *c, struct fake_router *f) {
    static char large[RIG_LARGE_BYTES];
    memset(large, 'x', sizeof large);
    for (unsigned i = 0; i < f->n_parked; i++) {
        ptn_pack w;
        ptn_pack_init(&w, 0);
        ptn_response_begin(&w, 200);
        if (f->large)
            ptn_pack_str(&w, (ptn_str){large, sizeof large});
        else
            ptn_pack_nil(&w);
        ptn_response_send(c, f->parked[i], &w);
    }
    f->n_parked = 0;
}

static inline int router_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct fake_router *f = state;
    struct rig *r = f->rig;
    ptn_request q;
    ptn_pack w;
    if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
        return 0;
    }
    if (m->type == PTN_MSG_OK) {
        fake_unpark(c, f);
        return 0;
    }
    cr_assert_eq(m->type, PTN_MSG_REQUEST);
    cr_assert(ptn_request_unpack(ptn_msg_bytes(m), &q));
    const ptn_reply_to to = ptn_reply_token(c, m);
    ptn_pack_init(&w, 0);
    if (ptn_str_eqz(q.path, "/api/v1/conversations/messages")) {
        ptn_response_begin(&w, 201);
        ptn_pack_raw(&w, q.body);
        ptn_response_send(c, to, &w);
        return 0;
    } else if (ptn_str_eqz(q.path, "/raw")) {
        ptn_pack_array(&w, 5);
        ptn_pack_uint(&w, 200);
        ptn_pack_cstr(&w, "text/plain");
        ptn_pack_map(&w, 1);
        ptn_pack_key(&w, "etag");
        ptn_pack_cstr(&w, "\"1\"");
        ptn_pack_nil(&w);
        ptn_pack_cstr(&w, "plain words");
        ptn_response_send(c, to, &w);
        return 0;
    } else if (ptn_str_eqz(q.path, "/page")) {
        ptn_response_begin_page(&w, 200, PTN_STR("n"), (ptn_str){0});
        ptn_pack_array(&w, 0);
        ptn_response_send(c, to, &w);
        return 0;
    } else if (ptn_str_eqz(q.path, "/stream")) {
        ptn_pack_array(&w, 1);
        ptn_pack_cstr(&w, "a.b");
        ptn_buf *b = ptn_pack_finish(&w);
        cr_assert_eq(ptn_reply(c, to, PTN_MSG_STREAM, b), 0);
        return 0;
    } else if (ptn_str_eqz(q.path, "/problem")) {
        ptn_problem_send_field(c, to, PTN_CODE_VALIDATION_FAILED, "no", "name", "too short");
    } else if (ptn_str_eqz(q.path, "/busy")) {
        ptn_reply_err(c, to, -PTN_EOVERLOAD);
    } else if (ptn_str_eqz(q.path, "/never")) {
        rig_count(r, &r->n_never);
    } else if (ptn_str_eqz(q.path, "/parked") || ptn_str_eqz(q.path, "/parked/large")) {
        cr_assert_lt(f->n_parked, RIG_PARKED_MAX);
        f->large = !ptn_str_eqz(q.path, "/parked");
        f->parked[f->n_parked++] = to;
        rig_count(r, &r->n_parked);
    } else {
        fake_echo(c, m, &q);
    }
    ptn_pack_abort(&w);
    return 0;
}

/* ---- auth: the token says what happens ------------------------------------------------------ */

struct fake_auth {
    struct rig *rig;
    ptn_reply_to slow[RIG_NEVER_MAX];
    unsigned n_slow;
};

static inline void fake_principal_of(ptn_ctx *c, ptn_reply_to to, const char *user,
                                     int64_t expires_ms) {
    const ptn_principal p = {.user = ptn_str_of(user),
                             .name = PTN_STR("ada"),
                             .session = PTN_STR("s1"),
                             .roles = PTN_ROLE_USER,
                             .expires_ms = expires_ms};
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_principal_pack(&w, &p);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_reply(c, to, PTN_MSG_PRINCIPAL, b), 0);
}

static inline void fake_principal(ptn_ctx *c, ptn_reply_to to, int64_t expires_ms) {
    fake_principal_of(c, to, "u1", expires_ms);
}

static inline int auth_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct fake_auth *a = state;
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    ptn_str token = {0};
    if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
        return 0;
    }
    if (m->type == PTN_MSG_OK) { /* the test lets the slow ones go on */
        for (unsigned i = 0; i < a->n_slow; i++)
            fake_principal(c, a->slow[i], ptn_wall_ms(c) + 3600000);
        a->n_slow = 0;
        return 0;
    }
    if (m->type == PTN_MSG_AUTH_TICKET) {
        ptn_pack w;
        ptn_pack_init(&w, 32);
        ptn_pack_array(&w, 1);
        ptn_pack_cstr(&w, "ticket");
        (void)ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_AUTH_TICKET, ptn_pack_finish(&w));
        return 0;
    }
    cr_assert(m->type == PTN_MSG_AUTH_TOKEN || m->type == PTN_MSG_AUTH_RESUME);
    cr_assert(ptn_unpack_array(&u, &n) && n == 1 && ptn_unpack_str(&u, &token));
    const ptn_reply_to to = ptn_reply_token(c, m);
    if (ptn_str_eqz(token, "good")) {
        fake_principal(c, to, ptn_wall_ms(c) + 3600000);
    } else if (ptn_str_eqz(token, "other")) {
        fake_principal_of(c, to, "u2", ptn_wall_ms(c) + 3600000);
    } else if (ptn_str_eqz(token, "soon")) {
        fake_principal(c, to, ptn_wall_ms(c) + RIG_EXPIRES_SOON_MS);
    } else if (ptn_str_eqz(token, "slow")) {
        cr_assert_lt(a->n_slow, RIG_NEVER_MAX);
        a->slow[a->n_slow++] = to;
        rig_count(a->rig, &a->rig->n_waiting);
    } else if (ptn_str_eqz(token, "expired")) {
        ptn_problem_send(c, to, PTN_CODE_TOKEN_EXPIRED, "expired");
    } else if (ptn_str_eqz(token, "busy")) {
        ptn_reply_err(c, to, -PTN_EOVERLOAD);
    } else {
        ptn_problem_send(c, to, PTN_CODE_UNAUTHENTICATED, "bad token");
    }
    return 0;
}

/* ---- topics: grants all but "secret" -------------------------------------------------------- */

static inline int topics_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct rig *r = *(struct rig **)state;
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    ptn_str topic = {0};
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    if (m->type == PTN_MSG_TOPIC_WATCH_ALL && m->corr != 0)
        (void)ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_OK, NULL);
    if (m->type == PTN_MSG_PUBLISH)
        fake_publish(c, m);
    if (m->type != PTN_MSG_TOPIC_ATTACH)
        return 0;
    cr_assert(ptn_unpack_array(&u, &n) && ptn_unpack_str(&u, &topic));
    if (ptn_str_eqz(topic, "secret")) {
        ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_FORBIDDEN, "not for you");
        return 0;
    }
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_array(&w, 5);
    ptn_pack_cstr(&w, "e1");
    ptn_pack_uint(&w, 0);
    ptn_pack_bool(&w, true);
    ptn_pack_bool(&w, false);
    ptn_pack_array(&w, 0);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_TOPIC_ATTACHED, b), 0);
    rig_count(r, &r->n_attached);
    return 0;
}

/* ---- the rig -------------------------------------------------------------------------------- */

static inline int fake_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(struct rig **)state = arg; /* first member of every fake's state */
    return 0;
}

static const ptn_actor_ops fake_router = {.name = "router",
                                          .state_size = sizeof(struct fake_router),
                                          .init = fake_init,
                                          .handle = router_handle};
static const ptn_actor_ops fake_auth = {.name = "auth",
                                        .state_size = sizeof(struct fake_auth),
                                        .init = fake_init,
                                        .handle = auth_handle};
static const ptn_actor_ops fake_topics = {.name = "topics",
                                          .state_size = sizeof(struct rig *),
                                          .init = fake_init,
                                          .handle = topics_handle};

static inline void *rig_thread(void *arg) {
    struct rig *r = arg;
    cr_assert_eq(ptn_runtime_run(r->rt), 0);
    return NULL;
}

/* One worker; the caller spawns its own actor between init and start. */
static inline void rig_init(struct rig *r) {
    const ptn_runtime_opts opts = {.workers = 1};
    const ptn_hub_limits limits = {0};
    const ptn_actor_opts ao = {.worker = 0};
    ptn_directory *d = &r->directory;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->cond, NULL);
    cr_assert_eq(ptn_runtime_new(&opts, &r->rt), 0);
    d->workers = 1;
    r->hub = ptn_hub_new(&limits, d, 0);
    cr_assert_not_null(r->hub);
    cr_assert_eq(ptn_runtime_spawn(r->rt, &fake_router, &ao, r, PTN_PERMANENT, &d->router[0]), 0);
    cr_assert_eq(ptn_runtime_spawn(r->rt, &fake_auth, &ao, r, PTN_PERMANENT, &d->auth[0]), 0);
    cr_assert_eq(ptn_runtime_spawn(r->rt, &fake_topics, &ao, r, PTN_PERMANENT, &d->topics[0]), 0);
    d->conversation[0] = d->queue[0] = d->topics[0];
    cr_assert_eq(ptn_runtime_spawn(r->rt, &ptn_hub_actor, &ao, r->hub, PTN_PERMANENT, &d->hub[0]),
                 0);
    cr_assert_eq(ptn_port_open(r->rt, &r->port), 0);
}

static inline void rig_start(struct rig *r) {
    cr_assert_eq(pthread_create(&r->thread, NULL, rig_thread, r), 0);
}

static inline void rig_stop(struct rig *r) {
    ptn_port_close(r->port);
    ptn_runtime_stop(r->rt);
    cr_assert_eq(pthread_join(r->thread, NULL), 0);
}

static inline void rig_done(struct rig *r) {
    uint64_t live_bytes, pooled_bytes;
    ptn_runtime_free(r->rt);
    ptn_hub_free(r->hub);
    ptn_buf_stats(&live_bytes, &pooled_bytes);
    cr_expect_eq(live_bytes, 0, "%llu bytes of payloads leaked", (unsigned long long)live_bytes);
    pthread_cond_destroy(&r->cond);
    pthread_mutex_destroy(&r->lock);
}

/* An event of the topic's owner to the hub. */
static inline void rig_event(struct rig *r, const char *topic, uint64_t offset, const char *data) {
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_array(&w, 4);
    ptn_pack_cstr(&w, topic);
    ptn_pack_cstr(&w, "e1");
    ptn_pack_uint(&w, offset);
    ptn_pack_cstr(&w, data);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_port_send(r->port, r->directory.hub[0], PTN_MSG_EVENT, b), 0);
}

/* What a conversation tells the hub when a member is removed. */
static inline void rig_evict(struct rig *r, const char *topic, const char *user) {
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_array(&w, 2);
    ptn_pack_cstr(&w, topic);
    ptn_pack_cstr(&w, user);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_port_send(r->port, r->directory.hub[0], PTN_MSG_HUB_EVICT, b), 0);
}

/* JSON as a sealed msgpack value. */
static inline ptn_buf *rig_msgpack(const char *json) {
    const ptn_codec_limits limits = {0};
    ptn_codec_error e = {0};
    ptn_json_parser *parser = ptn_json_parser_new();
    ptn_pack w;
    ptn_pack_init(&w, 0);
    const int err = ptn_json_to_msgpack(parser, ptn_str_of(json), &limits, &w, &e);
    cr_assert_eq(err, 0, "%s: %s", json, e.what != NULL ? e.what : "");
    ptn_json_parser_free(parser);
    return ptn_pack_finish(&w);
}

#endif
