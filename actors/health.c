/* SPDX-License-Identifier: Apache-2.0
 *
 * health.c - what the broker says about itself: to strangers one word and the documents of its API,
 * to users the state of each service, to probes and scrapers on the admin listener the rest.
 */
#include "actors/health.h"

#include "actors/documents.h"

#include <postern/metrics.h>

#define STATUS_DEADLINE (2 * PTN_SEC)

struct health {
    const struct health_config *config;
    ptn_buf *ok;       /* RESPONSE to GET /health, made once */
    ptn_buf *draining; /* and while draining */
    ptn_buf *openapi;  /* RESPONSE to GET /openapi.json, made when it is first asked for */
    ptn_buf *asyncapi;
    ptn_out page; /* metrics text; memory is kept between scrapes */
    int64_t started_ms;
};

static bool is_draining(const struct health *s) {
    return atomic_load_explicit(s->config->draining, memory_order_relaxed);
}

static ptn_buf *status_response(unsigned status, const char *word) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_response_begin(&w, status);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "status");
    ptn_pack_cstr(&w, word);
    return ptn_pack_finish(&w);
}

static void reply_shared(ptn_ctx *c, const ptn_msg *m, ptn_buf *response) {
    ptn_buf *b = ptn_buf_ref(response);
    if (ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_RESPONSE, b) < 0)
        ptn_buf_unref(b);
}

static void probe_reply(ptn_ctx *c, const ptn_msg *m, unsigned status, const char *word) {
    ptn_buf *b = status_response(status, word);
    if (b == NULL || ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_RESPONSE, b) < 0)
        ptn_buf_unref(b);
}

/* A worker that does not come back answers nobody, for what it owns and on its connections. */
static bool is_stuck(ptn_ctx *c) {
    ptn_runtime *rt = ptn_ctx_runtime(c);
    bool stuck = false;
    for (unsigned i = 0; i < ptn_runtime_workers(rt); i++)
        stuck |= ptn_worker_stuck(rt, i) > 0;
    return stuck;
}

/* The answer itself says that this worker lives; the others are looked at.  Readiness also wants
 * not to be draining. */
static void on_probe(ptn_ctx *c, struct health *s, const ptn_msg *m, bool readiness) {
    if (is_stuck(c))
        probe_reply(c, m, 503, "stuck");
    else if (readiness && is_draining(s))
        probe_reply(c, m, 503, "draining");
    else
        probe_reply(c, m, 200, "ok");
}

static void on_metrics(ptn_ctx *c, struct health *s, const ptn_msg *m) {
    ptn_out_clear(&s->page);
    metrics_render(ptn_ctx_runtime(c), s->config->version, s->config->revision, &s->page);
    ptn_pack w;
    ptn_pack_init(&w, s->page.len + 96);
    ptn_pack_array(&w, 5);
    ptn_pack_uint(&w, 200);
    ptn_pack_cstr(&w, "text/plain; version=0.0.4; charset=utf-8");
    ptn_pack_nil(&w);
    ptn_pack_nil(&w);
    ptn_pack_bin(&w, (ptn_bytes){s->page.p, s->page.len});
    ptn_response_send(c, ptn_reply_token(c, m), &w);
}

/* The text of a document with its version; clients keep it and ask whether it is still the one. */
static ptn_buf *document_response(const struct document *d) {
    ptn_pack w;
    ptn_pack_init(&w, d->text.n + 128);
    ptn_pack_array(&w, 5);
    ptn_pack_uint(&w, 200);
    ptn_pack_cstr(&w, "application/json");
    ptn_pack_map(&w, 2);
    ptn_pack_key(&w, "etag");
    ptn_pack_cstr(&w, d->etag);
    ptn_pack_key(&w, "cache-control");
    ptn_pack_cstr(&w, "public, no-cache");
    ptn_pack_nil(&w);
    ptn_pack_str(&w, d->text);
    return ptn_pack_finish(&w);
}

static void on_document(ptn_ctx *c, const ptn_msg *m, const struct document *d, ptn_buf **made) {
    if (*made == NULL)
        *made = document_response(d);
    if (*made == NULL)
        ptn_problem_pass(c, ptn_reply_token(c, m), -PTN_ENOMEM, NULL);
    else
        reply_shared(c, m, *made);
}

/* ---- system status ------------------------------------------------------------------------ */

struct status_ask {
    ptn_reply_to reply;
    ptn_time begin;
    struct health *health;
};

struct actor_row {
    const char *service; /* name in the answer and of the actor */
    bool seen;
    uint64_t restarts;
    bool full;
};

static void note_actor(const ptn_actor_stats *a, void *arg) {
    struct actor_row *rows = arg;
    for (; rows->service != NULL; rows++) {
        if (strcmp(rows->service, a->name) != 0)
            continue;
        rows->seen = true;
        rows->restarts += a->restarts;
        rows->full |= a->mbox_msgs_max > 0 && a->mbox_msgs >= a->mbox_msgs_max;
    }
}

/* What the store says of itself beyond that it answers. */
struct store_note {
    ptn_str message; /* empty: nothing is wrong */
    uint64_t bytes;
    uint64_t scrub; /* enum ptn_store_scrub */
    uint64_t scrubbed_bytes;
    int64_t scrub_ended_ms; /* 0: never */
};

static void pack_scrub(ptn_pack *w, const struct store_note *n) {
    static const char *const states[] = {[PTN_SCRUB_NONE] = "none",
                                         [PTN_SCRUB_RUNNING] = "running",
                                         [PTN_SCRUB_FAILED] = "failed",
                                         [PTN_SCRUB_DAMAGED] = "damaged",
                                         [PTN_SCRUB_SOUND] = "sound"};
    ptn_pack_key(w, "scrub");
    ptn_pack_map(w, 4);
    ptn_pack_key(w, "state");
    ptn_pack_cstr(w, n->scrub < PTN_ARRAY_LEN(states) ? states[n->scrub] : "none");
    ptn_pack_key(w, "readBytes");
    ptn_pack_uint(w, n->scrubbed_bytes);
    ptn_pack_key(w, "databaseBytes");
    ptn_pack_uint(w, n->bytes);
    ptn_pack_key(w, "endedAt");
    if (n->scrub_ended_ms > 0)
        ptn_pack_timestamp(w, n->scrub_ended_ms);
    else
        ptn_pack_nil(w);
}

/* extra: more keys that follow. */
static void pack_service(ptn_pack *w, const char *name, const char *status, double latency_ms,
                         ptn_str message, int64_t since_ms, uint32_t extra) {
    ptn_pack_cstr(w, name);
    ptn_pack_map(w, 5 + extra);
    ptn_pack_key(w, "isHealthy");
    ptn_pack_bool(w, strcmp(status, "up") == 0);
    ptn_pack_key(w, "status");
    ptn_pack_cstr(w, status);
    ptn_pack_key(w, "latencyMs");
    if (latency_ms >= 0)
        ptn_pack_double(w, latency_ms);
    else
        ptn_pack_nil(w);
    ptn_pack_key(w, "message");
    ptn_pack_str_or_nil(w, message);
    ptn_pack_key(w, "since");
    ptn_pack_timestamp(w, since_ms);
}

static void status_send(ptn_ctx *c, struct health *s, const struct status_ask *a,
                        const char *store_status, const struct store_note *store) {
    struct actor_row rows[] = {{.service = "auth"},         {.service = "users"},
                               {.service = "conversation"}, {.service = "topics"},
                               {.service = "hub"},          {.service = NULL}};
    ptn_actors_visit(ptn_ctx_runtime(c), note_actor, rows);
    bool healthy = strcmp(store_status, "up") == 0 && !is_stuck(c);
    for (struct actor_row *r = rows; r->service != NULL; r++)
        healthy &= r->seen && !r->full;
    ptn_pack w;
    ptn_pack_init(&w, 1024);
    ptn_pack_array(&w, 5);
    ptn_pack_uint(&w, 200);
    ptn_pack_nil(&w);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "cache-control");
    ptn_pack_cstr(&w, "no-store"); /* it says what time it is, and has no tag */
    ptn_pack_nil(&w);
    ptn_pack_map(&w, 4);
    ptn_pack_key(&w, "isHealthy");
    ptn_pack_bool(&w, healthy);
    ptn_pack_key(&w, "version");
    ptn_pack_cstr(&w, s->config->version);
    ptn_pack_key(&w, "timestamp");
    ptn_pack_timestamp(&w, ptn_wall_ms(c));
    ptn_pack_key(&w, "services");
    ptn_pack_map(&w, (uint32_t)PTN_ARRAY_LEN(rows));
    pack_service(&w, "store", store_status, (double)(ptn_clock(c) - a->begin) / (double)PTN_MS,
                 store->message, s->started_ms, 1);
    pack_scrub(&w, store);
    for (const struct actor_row *r = rows; r->service != NULL; r++)
        pack_service(&w, r->service,
                     !r->seen  ? "down"
                     : r->full ? "degraded"
                               : "up",
                     -1,
                     ptn_str_of(!r->seen  ? "not running"
                                : r->full ? "its mailbox is full; requests are refused"
                                          : NULL),
                     s->started_ms, 0);
    ptn_response_send(c, a->reply, &w);
}

static bool read_stats(ptn_unpack u, struct store_note *n) {
    uint32_t len, three;
    return ptn_unpack_array(&u, &len) && len == 6 && ptn_unpack_any(&u, NULL) &&
           ptn_unpack_any(&u, NULL) && ptn_unpack_any(&u, NULL) && ptn_unpack_uint(&u, &n->bytes) &&
           ptn_unpack_str_or_nil(&u, &n->message) && ptn_unpack_array(&u, &three) && three == 3 &&
           ptn_unpack_uint(&u, &n->scrub) && ptn_unpack_uint(&u, &n->scrubbed_bytes) &&
           ptn_unpack_int(&u, &n->scrub_ended_ms);
}

static void store_answered(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct status_ask *a = arg;
    (void)state;
    struct store_note note = {.message = PTN_STR("the store does not answer; see the log")};
    const char *status = "down";
    if (err == 0 && reply->type == PTN_MSG_STORE_STATS_REPLY) {
        PTN_REQUIRE(c, read_stats(ptn_unpack_of(ptn_msg_bytes(reply)), &note));
        status = note.message.n > 0 ? "degraded" : "up";
    }
    status_send(c, a->health, a, status, &note);
    *a = (struct status_ask){.health = NULL}; /* the place is free again */
}

#define STATUS_ASKS_MAX 16

static void on_status(ptn_ctx *c, struct health *s, const ptn_msg *m, struct status_ask *asks) {
    struct status_ask *a = NULL;
    for (unsigned i = 0; i < STATUS_ASKS_MAX && a == NULL; i++)
        if (asks[i].health == NULL)
            a = &asks[i];
    ptn_reply_to to = ptn_reply_token(c, m);
    if (a == NULL) {
        ptn_problem_pass(c, to, -PTN_EOVERLOAD, NULL);
        return;
    }
    *a = (struct status_ask){.reply = to, .begin = ptn_clock(c), .health = s};
    if (ptn_ask(c, s->config->directory->store, PTN_MSG_STORE_STATS, NULL,
                ptn_now(c) + STATUS_DEADLINE, store_answered, a, NULL) == 0)
        return;
    status_send(
        c, s, a, "down",
        &(struct store_note){.message = PTN_STR("the store refuses requests: it is overloaded")});
    *a = (struct status_ask){.health = NULL};
}

/* ---- update ------------------------------------------------------------------------------- */

/* Announces; whoever updates (a supervisor beside the broker) listens on the topic. */
static void on_update(ptn_ctx *c, struct health *s, const ptn_msg *m) {
    ptn_request r;
    ptn_reply_to to = ptn_reply_token(c, m);
    ptn_str topic = PTN_STR("system.update.requested");
    ptn_pack w;
    if (!ptn_request_unpack(ptn_msg_bytes(m), &r)) {
        (void)ptn_reply_err(c, to, -PTN_EPROTO);
        return;
    }
    ptn_pack_init(&w, 256 + r.body.n);
    ptn_pack_array(&w, 2);
    ptn_pack_str(&w, topic);
    ptn_pack_map(&w, 3);
    ptn_pack_key(&w, "requestedBy");
    ptn_pack_str(&w, r.principal.user);
    ptn_pack_key(&w, "timestamp");
    ptn_pack_timestamp(&w, ptn_wall_ms(c));
    ptn_pack_key(&w, "request");
    if (r.body.n > 0)
        ptn_pack_raw(&w, r.body);
    else
        ptn_pack_nil(&w);
    ptn_buf *b = ptn_pack_finish(&w);
    int err = b != NULL ? ptn_cast(c, ptn_topic_owner(s->config->directory, topic),
                                   PTN_MSG_TOPIC_PUBLISH, b)
                        : -PTN_ENOMEM;
    if (err < 0) {
        ptn_buf_unref(b);
        ptn_problem_pass(c, to, err, NULL);
        return;
    }
    ptn_pack_init(&w, 64);
    ptn_response_begin(&w, 202);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "topic");
    ptn_pack_str(&w, topic);
    ptn_response_send(c, to, &w);
}

/* ---- the actor ---------------------------------------------------------------------------- */

struct health_state {
    struct health s;
    struct status_ask asks[STATUS_ASKS_MAX];
};

static void health_release(void *arg) {
    struct health *s = arg;
    ptn_buf_unref(s->ok);
    ptn_buf_unref(s->draining);
    ptn_buf_unref(s->openapi);
    ptn_buf_unref(s->asyncapi);
    ptn_out_done(&s->page);
}

static int health_init(ptn_ctx *c, void *state, void *arg) {
    struct health *s = &((struct health_state *)state)->s;
    int err = ptn_defer(c, health_release, s); /* first: nothing to give back when it fails */
    if (err < 0)
        return err;
    s->config = arg;
    s->started_ms = ptn_wall_ms(c);
    s->ok = status_response(200, "ok");
    s->draining = status_response(200, "draining");
    return s->ok == NULL || s->draining == NULL ? -PTN_ENOMEM : 0;
}

static int health_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct health_state *st = state;
    struct health *s = &st->s;
    switch (m->type) {
    case PTN_MSG_ROUTE_HEALTH:
        reply_shared(c, m, is_draining(s) ? s->draining : s->ok);
        break;
    case PTN_MSG_ROUTE_STARTUPZ: /* the store is opened before the first listener: an answer at all
                                    means that start-up is over */
        probe_reply(c, m, 200, "ok");
        break;
    case PTN_MSG_ROUTE_LIVEZ:
        on_probe(c, s, m, false);
        break;
    case PTN_MSG_ROUTE_READYZ:
        on_probe(c, s, m, true);
        break;
    case PTN_MSG_ROUTE_METRICS:
        on_metrics(c, s, m);
        break;
    case PTN_MSG_ROUTE_OPENAPI:
        on_document(c, m, &document_openapi, &s->openapi);
        break;
    case PTN_MSG_ROUTE_ASYNCAPI:
        on_document(c, m, &document_asyncapi, &s->asyncapi);
        break;
    case PTN_MSG_ROUTE_SYSTEM_STATUS:
        on_status(c, s, m, st->asks);
        break;
    case PTN_MSG_ROUTE_SYSTEM_UPDATE:
        on_update(c, s, m);
        break;
    case PTN_MSG_STOPPING:
        ptn_exit(c, 0);
        break;
    default:
        break;
    }
    return 0;
}

const ptn_actor_ops health_actor = {.name = "health",
                                    .state_size = sizeof(struct health_state),
                                    .init = health_init,
                                    .handle = health_handle};
