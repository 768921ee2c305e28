/* SPDX-License-Identifier: Apache-2.0
 *
 * domain_testing.h - what the tests of store, users and conversation actors share: the actors of
 * one broker without its edges, on the deterministic environment, over a real database in a
 * directory of its own.
 *
 * Script actors stand in the places of the hubs: they run the steps of a test, one per virtual
 * millisecond, so that everything a step caused has settled before the next; they ask in the name
 * of clients and write down what the owners send to hubs.  The store stands behind a proxy that can
 * answer late.
 */
#ifndef POSTERN_ACTORS_DOMAIN_TESTING_H
#define POSTERN_ACTORS_DOMAIN_TESTING_H

#include "actors/conversation.h"
#include "actors/store.h"
#include "actors/store_testing.h"
#include "actors/sync.h"
#include "actors/users.h"
#include "runtime/testing.h"

#define ANSWERS_MAX 2048
#define EVENTS_MAX 4096

struct fixture;

struct answer { /* to one request of the script */
    bool ended;
    int err;
    uint32_t type;
    ptn_buf *buf;
};

struct note { /* something that an owner sent to a hub or to the topics actor */
    uint32_t type;
    ptn_buf *buf;
};

struct fake_hub {
    struct fixture *f;
    unsigned index;
    ptn_timer timer;
    struct note note[EVENTS_MAX];
    unsigned n_notes;
    unsigned restarts_seen;
    unsigned joined; /* HUB_JOINED */
};

struct step {
    unsigned hub; /* which script actor runs it */
    void (*run)(ptn_ctx *c, struct fixture *f);
};

#define AGAIN_MAX 20000 /* milliseconds */

struct fixture {
    struct rig rig;
    struct test_dir dir;
    ptn_directory d;
    store *store;
    ptn_addr real_store;
    conversation_config conversation[2];
    users_config users;
    sync_config sync[2];
    struct fake_hub hub[2];
    uint32_t hub_mbox_msgs_max[2];
    struct answer answer[ANSWERS_MAX];
    unsigned n_answers;
    struct note published[EVENTS_MAX]; /* TOPIC_PUBLISH */
    unsigned n_published;
    ptn_time store_delay_ns; /* the proxy holds answers to writes for so long */
    const struct step *steps;
    unsigned at, again; /* a step that goes back waits for something */
    const char *user;   /* who asks */
    uint32_t roles;
    ptn_time deadline_ns; /* of requests, from now; 0: long */
    const char *idempotency_key, *if_match;
};

/* ---- the proxy before the store ------------------------------------------------------------ */

struct held {
    ptn_timer timer;
    ptn_reply_to to;
    uint32_t type;
    ptn_buf *buf;
};

static inline void held_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct held *h = (struct held *)arg;
    (void)state, (void)t;
    if (ptn_reply(c, h->to, h->type, h->buf) < 0)
        ptn_buf_unref(h->buf);
    free(h);
}

static inline void proxy_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct held *h = (struct held *)arg;
    struct fixture *f = *(struct fixture **)state;
    if (err != 0) { /* the real store is quick: only the request's own deadline comes here */
        (void)ptn_reply_err(c, h->to, err);
        free(h);
        return;
    }
    h->type = m->type;
    h->buf = ptn_buf_ref(m->buf);
    ptn_timer_start(c, &h->timer, f->store_delay_ns, held_due, h);
}

static inline int proxy_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct fixture *f = *(struct fixture **)state;
    if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
        return 0;
    }
    if (!store_db_is_write(m->type) || f->store_delay_ns == 0)
        return ptn_forward(c, m, f->real_store, m->type);
    struct held *h = (struct held *)calloc(1, sizeof *h);
    cr_assert_not_null(h);
    h->to = ptn_reply_token(c, m);
    int err =
        ptn_ask(c, f->real_store, m->type, ptn_buf_ref(m->buf), PTN_NEVER, proxy_answered, h, NULL);
    if (err < 0) {
        ptn_buf_unref(m->buf);
        free(h);
    }
    return err;
}

static inline int pointer_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(void **)state = arg;
    return 0;
}

static const ptn_actor_ops proxy_ops = {
    .name = "proxy", .state_size = sizeof(void *), .init = pointer_init, .handle = proxy_handle};

/* ---- topics -------------------------------------------------------------------------------- */

static inline int fake_topics_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct fixture *f = *(struct fixture **)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    else if (f->n_published < EVENTS_MAX)
        f->published[f->n_published++] = (struct note){m->type, ptn_buf_ref(m->buf)};
    return 0;
}

static const ptn_actor_ops fake_topics_ops = {.name = "topics",
                                              .state_size = sizeof(void *),
                                              .init = pointer_init,
                                              .handle = fake_topics_handle};

/* ---- script -------------------------------------------------------------------------------- */

static inline void script_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct fake_hub *h = (struct fake_hub *)arg;
    struct fixture *f = h->f;
    (void)state;
    const struct step *s = &f->steps[f->at];
    if (s->run == NULL) {
        if (h->index == 0)
            ptn_runtime_stop(ptn_ctx_runtime(c));
        return;
    }
    if (s->hub == h->index) {
        unsigned at = f->at++;
        s->run(c, f);
        f->again = f->at == at ? f->again + 1 : 0;
        cr_assert_lt(f->again, AGAIN_MAX, "step %u waits in vain", at);
    }
    ptn_timer_start(c, t, PTN_MS, script_due, h);
}

static inline int fake_hub_init(ptn_ctx *c, void *state, void *arg) {
    struct fake_hub *h = (struct fake_hub *)arg;
    *(struct fake_hub **)state = h;
    ptn_timer_start(c, &h->timer, PTN_MS, script_due, h);
    return 0;
}

static inline int fake_hub_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct fake_hub *h = *(struct fake_hub **)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    else if (m->type == PTN_MSG_OWNER_RESTARTED)
        h->restarts_seen++;
    else if (m->type == PTN_MSG_HUB_JOINED)
        h->joined++;
    else if (h->n_notes < EVENTS_MAX)
        h->note[h->n_notes++] = (struct note){m->type, ptn_buf_ref(m->buf)};
    return 0;
}

static const ptn_actor_ops fake_hub_ops = {
    .name = "hub", .state_size = sizeof(void *), .init = fake_hub_init, .handle = fake_hub_handle};

static inline void script_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct answer *a = (struct answer *)arg;
    (void)c, (void)state;
    cr_assert_not(a->ended, "an ask ends once");
    a->ended = true;
    a->err = err;
    if (err == 0) {
        a->type = m->type;
        a->buf = ptn_buf_ref(m->buf);
    }
}

/* Asks; the answer is f->answer[return value]. */
static inline unsigned ask(ptn_ctx *c, struct fixture *f, ptn_addr to, uint32_t type,
                           ptn_buf *take_b) {
    unsigned i = f->n_answers++;
    cr_assert_lt(i, ANSWERS_MAX);
    ptn_time deadline = f->deadline_ns != 0 ? ptn_now(c) + f->deadline_ns : PTN_NEVER;
    int err = ptn_ask(c, to, type, take_b, deadline, script_answered, &f->answer[i], NULL);
    cr_assert_eq(err, 0, "%s", ptn_err_name(err));
    return i;
}

static inline unsigned ask_store(ptn_ctx *c, struct fixture *f, uint32_t type, ptn_buf *take_b) {
    return ask(c, f, f->d.store, type, take_b);
}

/* A map of texts: key, value, .., NULL. */
static inline ptn_buf *texts(const char *key, ...) {
    ptn_pack w;
    va_list ap;
    uint32_t n = 0;
    va_start(ap, key);
    for (const char *k = key; k != NULL; k = va_arg(ap, const char *), n++)
        (void)va_arg(ap, const char *);
    va_end(ap);
    ptn_pack_init(&w, 256);
    ptn_pack_map(&w, n);
    va_start(ap, key);
    for (const char *k = key; k != NULL; k = va_arg(ap, const char *)) {
        ptn_pack_cstr(&w, k);
        ptn_pack_cstr(&w, va_arg(ap, const char *));
    }
    va_end(ap);
    return ptn_pack_finish(&w);
}

/* A request as an edge makes it; body: JSON-like pairs are packed by the caller, NULL for none.
 * Goes to shard 0 of the owner, which hands it on when it belongs to another. */
static inline unsigned request(ptn_ctx *c, struct fixture *f, uint32_t route, const char *path,
                               const char *query, ptn_buf *take_body) {
    static const uint8_t trace[16] = {1};
    ptn_request r = {.method = PTN_POST,
                     .path = ptn_str_of(path),
                     .query = ptn_str_of(query),
                     .principal = {.user = ptn_str_of(f->user),
                                   .name = ptn_str_of(f->user),
                                   .roles = f->roles,
                                   .expires_ms = INT64_MAX},
                     .trace_id = {trace, sizeof trace},
                     .parent_span = {trace, 8}};
    ptn_pack w;
    ptn_buf *headers = NULL;
    if (f->idempotency_key != NULL)
        headers = texts("idempotency-key", f->idempotency_key, NULL);
    else if (f->if_match != NULL)
        headers = texts("if-match", f->if_match, NULL);
    r.headers = ptn_buf_bytes(headers);
    ptn_pack_init(&w, 256);
    ptn_request_begin(&w, &r);
    ptn_buf_unref(headers);
    if (take_body != NULL)
        ptn_pack_raw(&w, ptn_buf_bytes(take_body));
    else
        ptn_pack_nil(&w);
    ptn_buf_unref(take_body);
    bool users = route == PTN_MSG_ROUTE_USERS_ME || route == PTN_MSG_ROUTE_USERS_PREFS ||
                 route == PTN_MSG_ROUTE_USERS_FAMILY || route == PTN_MSG_ROUTE_ADMIN_USERS ||
                 route == PTN_MSG_ROUTE_ADMIN_USER_ADD;
    bool sync = route == PTN_MSG_ROUTE_SYNC_PUSH || route == PTN_MSG_ROUTE_SYNC_PULL;
    ptn_addr to = users                                ? f->d.users
                  : sync                               ? f->d.sync[0]
                  : route == PTN_MSG_ROUTE_DEAD_REPLAY ? f->d.queue[0]
                                                       : f->d.conversation[0];
    return ask(c, f, to, route, ptn_pack_finish(&w));
}

/* ---- looking at answers --------------------------------------------------------------------- */

/* The data of a RESPONSE with this status; fails the test otherwise. */
static inline ptn_bytes data_of(const struct fixture *f, unsigned i, unsigned status) {
    const struct answer *a = &f->answer[i];
    ptn_response r = {0};
    cr_assert(a->ended, "request %u was not answered", i);
    cr_assert_eq(a->err, 0, "request %u: %s", i, ptn_err_name(a->err));
    if (a->type == PTN_MSG_PROBLEM) {
        ptn_problem p;
        cr_assert(ptn_problem_unpack(ptn_buf_bytes(a->buf), &p));
        cr_assert(false, "request %u: %s: %.*s", i, ptn_code_info_of(p.code)->code,
                  (int)p.message.n, p.message.p);
    }
    cr_assert_eq(a->type, PTN_MSG_RESPONSE);
    cr_assert(ptn_response_unpack(ptn_buf_bytes(a->buf), &r));
    cr_assert_eq(r.status, status, "request %u: status %u", i, r.status);
    return r.data;
}

static inline ptn_bytes page_of(const struct fixture *f, unsigned i) {
    ptn_response r = {0};
    cr_assert(ptn_response_unpack(ptn_buf_bytes(f->answer[i].buf), &r));
    return r.page;
}

/* A header of a RESPONSE; fails the test when it is not there. */
static inline ptn_str header_of(const struct fixture *f, unsigned i, const char *name) {
    ptn_response r = {0};
    ptn_str s = {"", 0};
    cr_assert(ptn_response_unpack(ptn_buf_bytes(f->answer[i].buf), &r));
    cr_assert(ptn_map_get_str(r.headers, name, &s), "request %u: no header %s", i, name);
    return s;
}

/* The code of a PROBLEM, or -1. */
static inline int code_of(const struct fixture *f, unsigned i) {
    const struct answer *a = &f->answer[i];
    ptn_problem p;
    cr_assert(a->ended, "request %u was not answered", i);
    if (a->err != 0 || a->type != PTN_MSG_PROBLEM)
        return -1;
    cr_assert(ptn_problem_unpack(ptn_buf_bytes(a->buf), &p));
    return p.code;
}

static inline ptn_bytes details_of(const struct fixture *f, unsigned i) {
    ptn_problem p = {0};
    cr_assert_eq(f->answer[i].type, PTN_MSG_PROBLEM);
    cr_assert(ptn_problem_unpack(ptn_buf_bytes(f->answer[i].buf), &p));
    return p.details;
}

static inline unsigned events_of(const struct fake_hub *h) {
    unsigned n = 0;
    for (unsigned i = 0; i < h->n_notes; i++)
        n += h->note[i].type == PTN_MSG_EVENT;
    return n;
}

/* The events of a hub count up without a hole from `first`, in one epoch. */
static inline void expect_events(const struct fake_hub *h, uint64_t first, unsigned n) {
    cr_expect_eq(events_of(h), n, "hub %u has %u events, expected %u", h->index, events_of(h), n);
    for (unsigned i = 0; i < h->n_notes; i++) {
        if (h->note[i].type != PTN_MSG_EVENT)
            continue;
        int64_t seq = int_of(element(ptn_buf_bytes(h->note[i].buf), 2));
        cr_assert_eq((uint64_t)seq, first, "hub %u: event %lld, expected %llu", h->index,
                     (long long)seq, (unsigned long long)first);
        first++;
    }
}

/* ---- the whole ----------------------------------------------------------------------------- */

static inline ptn_addr fixture_spawn(struct fixture *f, const ptn_actor_ops *ops, void *arg,
                                     int worker, uint32_t mbox) {
    ptn_actor_opts o = {.worker = worker, .mbox_msgs_max = mbox, .mbox_bytes_max = 64u << 20};
    ptn_addr a;
    cr_assert_eq(ptn_runtime_spawn(f->rig.rt, ops, &o, arg, PTN_PERMANENT, &a), 0);
    return a;
}

/* Users alice, bob, carol and dave (an administrator) exist.  *f is zero but for what a test has
 * set. */
static inline void fixture_open(struct fixture *f, unsigned workers) {
    static const char *const names[] = {"alice", "bob", "carol", "dave"};
    rig_open(&f->rig, workers);
    test_dir_open(&f->dir);
    store_config sc = {.path = f->dir.db, .rt = f->rig.rt};
    const char *why = "";
    cr_assert_eq(store_open(&sc, &f->store, &why), 0, "%s", why);
    store_db *db;
    cr_assert_eq(store_db_open(f->dir.db, NULL, &db, NULL), 0);
    for (size_t i = 0; i < PTN_ARRAY_LEN(names); i++) {
        uint32_t type;
        ptn_buf *b = packed("sssiSi", names[i], names[i], "hash", (int64_t)(i == 3 ? 3 : 1),
                            i < 2 ? "home" : NULL, (int64_t)1000);
        ptn_buf_unref(store_db_execute(db, PTN_MSG_STORE_USER_ADD, ptn_buf_bytes(b), &type));
        ptn_buf_unref(b);
    }
    store_db_close(db);
    f->d.workers = workers;
    f->user = f->user != NULL ? f->user : "alice";
    f->roles = PTN_ROLE_USER;
    f->users.directory = &f->d;
    f->real_store = fixture_spawn(f, &store_actor, f->store, 0, 8192);
    f->d.store = fixture_spawn(f, &proxy_ops, f, 0, 8192);
    f->d.users = fixture_spawn(f, &users_actor, &f->users, 0, 1024);
    for (unsigned i = 0; i < workers; i++) {
        f->hub[i].f = f;
        f->hub[i].index = i;
        f->conversation[i].directory = &f->d;
        f->conversation[i].shard = i;
        f->d.hub[i] = fixture_spawn(f, &fake_hub_ops, &f->hub[i], (int)i,
                                    f->hub_mbox_msgs_max[i] != 0 ? f->hub_mbox_msgs_max[i] : 8192);
        f->d.conversation[i] =
            fixture_spawn(f, &conversation_actor, &f->conversation[i], (int)i, 8192);
        f->sync[i].directory = &f->d;
        f->d.sync[i] = fixture_spawn(f, &sync_actor, &f->sync[i], (int)i, 1024);
        f->d.topics[i] = fixture_spawn(f, &fake_topics_ops, f, (int)i, 8192);
    }
}

static inline void fixture_run(struct fixture *f, const struct step *steps) {
    f->steps = steps;
    cr_assert_eq(ptn_runtime_run(f->rig.rt), 0);
}

static inline void fixture_close(struct fixture *f) {
    for (unsigned i = 0; i < f->n_answers; i++) {
        cr_expect(f->answer[i].ended, "request %u was never answered", i);
        ptn_buf_unref(f->answer[i].buf);
    }
    for (unsigned k = 0; k < 2; k++)
        for (unsigned i = 0; i < f->hub[k].n_notes; i++)
            ptn_buf_unref(f->hub[k].note[i].buf);
    for (unsigned i = 0; i < f->n_published; i++)
        ptn_buf_unref(f->published[i].buf);
    store_close(f->store);
    rig_close(&f->rig);
    test_dir_close(&f->dir);
    cr_expect_eq(buf_live(), 0, "buffers leaked");
}

#endif
