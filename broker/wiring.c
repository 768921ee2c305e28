/* SPDX-License-Identifier: Apache-2.0
 *
 * wiring.c - makes every part, fills the directory, runs, and takes everything apart in reverse.
 *
 * Everything that can fail because of the outside (data directory, database, ports) is tried before
 * the first worker runs, so that a bad start is one line on standard error and an exit code, never
 * a half-working broker.
 */
#include "broker/wiring.h"

#include "actors/auth.h"
#include "actors/conversation.h"
#include "actors/health.h"
#include "actors/jwt.h"
#include "actors/offline_queue.h"
#include "actors/router.h"
#include "actors/store.h"
#include "actors/sync.h"
#include "actors/topics.h"
#include "actors/users.h"
#include "broker/control.h"
#include "broker/crash_record.h"
#include "broker/hello.h"
#include "broker/keys.h"
#include "broker/version.h"
#include "protocols/zmq/zmq_gw.h"

#include <malloc.h>
#include <postern/log.h>
#include <postern/memory.h>
#include <postern/metrics.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <unistd.h>

#define EXIT_FAILED 1
#define ENDPOINTS_MAX 8
#define LARGE_BLOCK_BYTES (512 << 10)

struct broker {
    const struct postern_config *config;
    const wiring_options *options; /* NULL once the outside has been told */
    unsigned workers;
    ptn_runtime *rt;
    int lock; /* of the data directory; -1: not taken */
    store *store;
    zmq_gw *zmq;
    uint8_t key[KEYS_TOKEN_BYTES];
    ptn_endpoint *http[ENDPOINTS_MAX], *admin[ENDPOINTS_MAX];
    size_t n_http, n_admin;
    ptn_hub *hub[PTN_WORKERS_MAX];
    ptn_directory directory;
    ptn_addr edges[PTN_WORKERS_MAX + 1]; /* who drains: the edges and the ZeroMQ gateway */
    size_t n_edges;
    _Atomic bool draining;
    /* Arguments of actors: they outlive every restart. */
    struct router_config router[PTN_WORKERS_MAX];
    auth_config auth[PTN_WORKERS_MAX];
    struct health_config health[PTN_WORKERS_MAX];
    struct topic_rule rules[CONFIG_LIST_MAX];
    size_t n_rules;
    struct topics_config topics[PTN_WORKERS_MAX];
    conversation_config conversation[PTN_WORKERS_MAX];
    struct sync_config sync[PTN_WORKERS_MAX];
    offline_queue_config queue[PTN_WORKERS_MAX];
    users_config users;
    edge_config edge[PTN_WORKERS_MAX], admin_edge[PTN_WORKERS_MAX];
    struct control_config control;
};

static void complain(const char *what, const char *why) {
    fprintf(stderr, "postern: %s: %s\n", what, why);
}

/* Also inside a signal handler: PTN_TRACE_SLOW and PTN_TRACE_BLOCKED. */
static void trace(const ptn_trace_event *e, void *arg) {
    static const char *const events[] = {"actor.crashed",     "actor.restarted",
                                         "actor.dead_letter", "supervisor.gave_up",
                                         "actor.slow",        "worker.blocked"};
    (void)arg;
    if (e->kind == PTN_TRACE_CRASH)
        ptn_count(PTN_C_ACTOR_CRASHES, 1);
    static const enum ptn_log_level levels[] = {PTN_LOG_ERROR, PTN_LOG_ERROR, PTN_LOG_DEBUG,
                                                PTN_LOG_ERROR, PTN_LOG_WARN,  PTN_LOG_WARN};
    PTN_LOG(levels[e->kind], events[e->kind], PTN_F_Z("actor", e->actor),
            PTN_F_INT("address", e->addr), PTN_F_Z("message", ptn_msg_type_name(e->msg_type)),
            PTN_F_INT("reason", e->reason), PTN_F_INT("wait_ms", e->wait_ns / PTN_MS),
            PTN_F_Z("text", e->text));
}

/* ---- what can fail because of the outside -------------------------------------------------- */

static void collect_rules(struct broker *b) {
    const struct config_list *l = &b->config->topics.durable;
    for (size_t i = 0; i < l->n && b->n_rules < CONFIG_LIST_MAX; i++)
        if (config_rule_parse(l->items[i], &b->rules[b->n_rules]) == NULL)
            b->n_rules++; /* config_load() has refused any other */
}

static int open_data(struct broker *b, FILE *tell) {
    struct config_error why, unusable;
    store_db *db = NULL;
    if (keys_prepare_data(b->config->data, &why) < 0 ||
        keys_lock_data(b->config->data, &b->lock, &why) < 0)
        goto failed;
    keys_reserve_release(b->config->data);
    int r;
    if (crash_record_open(b->config->data, &why) < 0 ||
        keys_load(b->config->data, b->key, &why) < 0 ||
        ((r = keys_salvage_database(b->config->data, &why)) < 0 && r != -PTN_EFULL))
        goto failed;
    if (keys_open_database(b->config->data, &db, r == 0 ? &why : &unusable) < 0)
        goto failed; /* for want of room to salvage it, if that was so */
    r = bootstrap_admin(db, tell, &why);
    store_db_close(db);
    if (r < 0)
        goto failed;
    char path[4096];
    const char *reason = "the path of the data directory is too long";
    collect_rules(b);
    store_config how = {
        .path = path,
        .rt = b->rt,
        .db.dead_letters_max = b->config->queue.dead_letters,
        .db.queue = {.messages = b->config->queue.messages,
                     .bytes = b->config->queue.bytes,
                     .ttl_ms = b->config->queue.ttl_ns / PTN_MS,
                     .conversations = b->config->queue.conversations,
                     .devices = b->config->queue.devices},
        .db.retention = {.topics = b->rules,
                         .n_topics = b->n_rules,
                         .messages_age_ms = b->config->conversations.age_ns / PTN_MS,
                         .messages = b->config->conversations.messages,
                         .messages_bytes = b->config->conversations.bytes},
        .directory = &b->directory,
        .queue_delay_ns = b->config->limits.queue_delay_ns,
        .scrub_rate = b->config->store.scrub_bytes};
    if (keys_database_path(b->config->data, path, sizeof path) < 0 ||
        store_open(&how, &b->store, &reason) < 0) {
        complain("the store", reason);
        return EXIT_FAILED;
    }
    keys_reserve_make(b->config->data, /* last= */ false);
    return 0;
failed:
    complain("the data directory", why.text);
    return EXIT_FAILED;
}

static int bind_all(struct broker *b, const struct config_list *where, ptn_endpoint **endpoints,
                    size_t *n) {
    for (size_t i = 0; i < where->n && i < ENDPOINTS_MAX; i++) {
        const char *why = "cannot listen";
        if (ptn_endpoint_bind(b->rt, where->items[i], &endpoints[i], &why) < 0) {
            complain(where->items[i], why);
            return EXIT_FAILED;
        }
        *n = i + 1;
    }
    return 0;
}

static int open_zmq(struct broker *b) {
    const struct postern_config *c = b->config;
    zmq_gw_config gw = {.directory = &b->directory,
                        .hub = b->hub[0],
                        .worker = 0,
                        .requests = (const char *const *)c->listen.zmq.items,
                        .n_requests = c->listen.zmq.n,
                        .events = (const char *const *)c->listen.zmq_events.items,
                        .n_events = c->listen.zmq_events.n,
                        .limits = {.message_bytes_max = (uint32_t)c->limits.message_bytes,
                                   .depth_max = c->limits.depth,
                                   .request_ns = c->limits.request_timeout_ns,
                                   .request_ns_max = c->limits.request_timeout_max_ns}};
    const char *why = "cannot listen";
    if (gw.n_requests + gw.n_events == 0 || zmq_gw_new(&gw, &b->zmq, &why) == 0)
        return 0;
    complain("ZeroMQ", why);
    return EXIT_FAILED;
}

static int open_outside(struct broker *b, FILE *tell) {
    ptn_hub_limits hub = {.sinks_max = b->config->limits.connections,
                          .subscriptions_max = b->config->limits.subscriptions_total,
                          .sink_subscriptions_max = b->config->limits.subscriptions,
                          .feed_window = b->config->queue.window,
                          .feed_redeliver_ns = b->config->queue.redeliver_ns,
                          .feed_deliveries_max = b->config->queue.deliveries};
    for (unsigned i = 0; i < b->workers; i++) {
        b->hub[i] = ptn_hub_new(&hub, &b->directory, i);
        if (b->hub[i] == NULL) {
            complain("start", "out of memory");
            return EXIT_FAILED;
        }
    }
    /* Ports first: a second broker with one configuration stops here, before it touches anything.
     */
    int code = bind_all(b, &b->config->listen.http, b->http, &b->n_http);
    if (code == 0)
        code = bind_all(b, &b->config->listen.admin, b->admin, &b->n_admin);
    if (code == 0)
        code = open_data(b, tell);
    if (code == 0)
        code = open_zmq(b);
    return code;
}

static void tell(void *arg);

/* ---- actors -------------------------------------------------------------------------------- */

struct place { /* where an actor lives and how much may wait for it */
    int worker;
    uint32_t msgs_max, bytes_max;
    ptn_time queue_delay_ns; /* 0: requests are not refused for having waited */
};

static int spawn(struct broker *b, const ptn_actor_ops *ops, void *arg, struct place p,
                 ptn_addr *ret_addr) {
    ptn_actor_opts o = {.worker = p.worker,
                        .mbox_msgs_max = p.msgs_max,
                        .mbox_bytes_max = p.bytes_max,
                        .queue_delay_ns = p.queue_delay_ns};
    return ptn_runtime_spawn(b->rt, ops, &o, arg, PTN_PERMANENT, ret_addr);
}

/* Mailbox bounds: hubs and stores take bursts of many publishers; the others are bounded by the
 * requests that the edges admit. */
#define MIB (1u << 20)
static const uint32_t burst_msgs = 65536, burst_bytes = 64 * MIB;
static const uint32_t request_msgs = 16384, request_bytes = 32 * MIB;

/* The secret behind the ids that stand for idempotency keys. */
static void make_id_key(const struct broker *b, uint8_t out[32]) {
    static const char purpose[] = "idempotency";
    (void)crypto_generichash(out, 32, (const uint8_t *)purpose, sizeof purpose - 1, b->key,
                             sizeof b->key);
}

static int spawn_worker_actors(struct broker *b, unsigned i) {
    ptn_directory *d = &b->directory;
    struct place burst = {(int)i, burst_msgs, burst_bytes, 0};
    struct place requests = {(int)i, request_msgs, request_bytes, b->config->limits.queue_delay_ns};
    /* Probes and metrics pass the router and health, and must be answered in every overload: these
     * two refuse nothing for having waited, and nothing for lack of memory. */
    struct place always = {(int)i, request_msgs, request_bytes, 0};
    b->router[i] = (struct router_config){.directory = d, .worker = i};
    b->auth[i] =
        (auth_config){.directory = d,
                      .worker = i,
                      .key = b->key,
                      .key_bytes = sizeof b->key,
                      .access_ttl_ms = (int64_t)(b->config->auth.access_ttl_ns / PTN_MS),
                      .refresh_ttl_ms = (int64_t)(b->config->auth.refresh_ttl_ns / PTN_MS)};
    b->health[i] = (struct health_config){.directory = d,
                                          .worker = i,
                                          .version = postern_version(),
                                          .revision = postern_revision(),
                                          .draining = &b->draining};
    b->topics[i] = (struct topics_config){.directory = d,
                                          .shard = i,
                                          .rules = b->rules,
                                          .n_rules = b->n_rules,
                                          .ids_max = b->config->topics.ids,
                                          .ids_ns = b->config->topics.ids_ns};
    b->conversation[i] = (conversation_config){.directory = d, .shard = i};
    make_id_key(b, b->conversation[i].id_key);
    make_id_key(b, b->topics[i].id_key);
    b->sync[i] = (sync_config){.directory = d,
                               .items_max = b->config->sync.items_max,
                               .bytes_max = (uint32_t)b->config->sync.bytes_max};
    b->queue[i] = (offline_queue_config){.directory = d};
    int r = spawn(b, &ptn_hub_actor, b->hub[i], burst, &d->hub[i]);
    if (r == 0)
        r = spawn(b, &offline_queue_actor, &b->queue[i], burst, &d->queue[i]);
    if (r == 0)
        r = spawn(b, &topics_actor, &b->topics[i], requests, &d->topics[i]);
    if (r == 0)
        r = spawn(b, &conversation_actor, &b->conversation[i], requests, &d->conversation[i]);
    if (r == 0)
        r = spawn(b, &sync_actor, &b->sync[i], requests, &d->sync[i]);
    if (r == 0)
        r = spawn(b, &auth_actor, &b->auth[i], requests, &d->auth[i]);
    if (r == 0)
        r = spawn(b, &health_actor, &b->health[i], always, &d->health[i]);
    if (r == 0)
        r = spawn(b, &router_actor, &b->router[i], always, &d->router[i]);
    return r;
}

/* The edges come last: nothing is accepted before everybody else is there. */
static int spawn_edges(struct broker *b, unsigned i) {
    struct place p = {(int)i, burst_msgs, burst_bytes, 0};
    edge_config common = {.directory = &b->directory, .hub = b->hub[i]};
    config_edge_limits(b->config, &common.limits);
    b->edge[i] = b->admin_edge[i] = common;
    b->edge[i].endpoints = b->http;
    b->edge[i].n_endpoints = b->n_http;
    b->admin_edge[i].endpoints = b->admin;
    b->admin_edge[i].n_endpoints = b->n_admin;
    b->admin_edge[i].admin = true;
    int r = spawn(b, &edge_actor, &b->edge[i], p, &b->directory.edge[i]);
    b->edges[b->n_edges++] = b->directory.edge[i];
    if (r == 0 && b->n_admin > 0)
        r = spawn(b, &edge_actor, &b->admin_edge[i], p, &b->directory.admin_edge[i]);
    return r;
}

/* Of the time to drain, connections get three quarters and actors most of the rest: what remains is
 * for taking the broker apart. */
static ptn_time connections_drain_ns(const struct postern_config *config) {
    return config->drain_ns - config->drain_ns / 4;
}
static ptn_time actors_drain_ns(const struct postern_config *config) {
    return config->drain_ns / 5;
}

static int spawn_all(struct broker *b) {
    ptn_directory *d = &b->directory;
    struct place store_place = {0, burst_msgs, burst_bytes, 0}, /* its lane refuses */
        users_place = {0, request_msgs, request_bytes, b->config->limits.queue_delay_ns},
                 first = {0, request_msgs, request_bytes, 0};
    int r = spawn(b, &store_actor, b->store, store_place, &d->store);
    b->users = (users_config){.directory = d};
    make_id_key(b, b->users.id_key);
    if (r == 0)
        r = spawn(b, &users_actor, &b->users, users_place, &d->users);
    for (unsigned i = 0; i < b->workers && r == 0; i++)
        r = spawn_worker_actors(b, i);
    if (r == 0 && b->zmq != NULL)
        r = spawn(b, &zmq_gw_actor, b->zmq, first, &d->zmq);
    for (unsigned i = 0; i < b->workers && r == 0; i++)
        r = spawn_edges(b, i);
    if (b->zmq != NULL)
        b->edges[b->n_edges++] = d->zmq;
    b->control = (struct control_config){.edges = b->edges,
                                         .n_edges = b->n_edges,
                                         .connections_ns = connections_drain_ns(b->config),
                                         .draining = &b->draining,
                                         .ready = tell,
                                         .ready_arg = b,
                                         .running = b->config,
                                         .sources = b->options->sources};
    ptn_addr control;
    if (r == 0)
        r = spawn(b, &control_actor, &b->control, first, &control);
    return r;
}

/* ---- what the outside is told --------------------------------------------------------------- */

static void collect_addresses(const struct broker *b, struct hello_addresses *a) {
    *a = (struct hello_addresses){.n_http = b->n_http, .n_admin = b->n_admin};
    for (size_t i = 0; i < b->n_http; i++)
        a->http[i] = ptn_endpoint_address(b->http[i]);
    for (size_t i = 0; i < b->n_admin; i++)
        a->admin[i] = ptn_endpoint_address(b->admin[i]);
    if (b->zmq == NULL)
        return;
    while (a->n_zmq < HELLO_ADDRESSES_MAX &&
           (a->zmq[a->n_zmq] = zmq_gw_request_address(b->zmq, a->n_zmq)) != NULL)
        a->n_zmq++;
    while (a->n_zmq_events < HELLO_ADDRESSES_MAX &&
           (a->zmq_events[a->n_zmq_events] = zmq_gw_event_address(b->zmq, a->n_zmq_events)) != NULL)
        a->n_zmq_events++;
}

static void tell(void *arg) {
    struct broker *b = arg;
    const wiring_options *options = b->options;
    struct hello_addresses a;
    if (options == NULL)
        return; /* control was restarted: everybody knows */
    b->options = NULL;
    collect_addresses(b, &a);
    if (options->print_listen)
        hello_print_listen(&a, options->out);
    if (options->hello)
        hello_print(&a, b->config->data, b->key, sizeof b->key, options->out);
    PTN_LOG(PTN_LOG_INFO, "broker.ready", PTN_F_Z("version", postern_version()),
            PTN_F_INT("workers", b->workers), PTN_F_Z("http", a.n_http > 0 ? a.http[0] : "off"),
            PTN_F_Z("admin", a.n_admin > 0 ? a.admin[0] : "off"),
            PTN_F_Z("zmq", a.n_zmq > 0 ? a.zmq[0] : "off"), PTN_F_Z("data", b->config->data));
}

static void take_apart(struct broker *b) {
    zmq_gw_free(b->zmq);
    store_close(b->store);
    for (size_t i = 0; i < b->n_http; i++)
        ptn_endpoint_free(b->http[i]);
    for (size_t i = 0; i < b->n_admin; i++)
        ptn_endpoint_free(b->admin[i]);
    for (unsigned i = 0; i < b->workers; i++)
        ptn_hub_free(b->hub[i]);
    ptn_runtime_free(b->rt);
    if (b->lock >= 0) {
        keys_reserve_make(b->config->data, /* last= */ true);
        close(b->lock); /* last: nothing touches the data any more */
    }
    explicit_bzero(b->key, sizeof b->key);
    free(b);
}

/* The work is done: a signal that comes now must not turn a good end into a bad one. */
static void ignore_signals(void) {
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    (void)sigaction(SIGTERM, &ignore, NULL);
    (void)sigaction(SIGINT, &ignore, NULL);
    (void)sigaction(SIGHUP, &ignore, NULL);
}

/* The C library learns from what is freed to keep such blocks: a page of messages is made on one
 * thread and freed on another, and what is kept for one is of no use to the next.  Blocks of that
 * size cost far more to fill than to map. */
static void return_large_blocks(void) {
#ifdef M_MMAP_THRESHOLD
    (void)mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, 2 * LARGE_BLOCK_BYTES);
#endif
}

int wiring_run(const struct postern_config *config, const wiring_options *options) {
    struct broker *b = calloc(1, sizeof *b);
    if (b == NULL) {
        complain("start", "out of memory");
        return EXIT_FAILED;
    }
    b->config = config;
    b->lock = -1;
    b->options = options;
    b->workers = config_workers(config);
    b->directory.workers = b->workers;
    ptn_runtime_opts o = {.workers = b->workers,
                          .drain_ns = actors_drain_ns(config),
                          .slow_ns = 100 * PTN_MS,
                          .stuck_ns = config->watchdog_ns};
    o.drain_ns = o.drain_ns > 0 ? o.drain_ns : 1; /* 0 would mean the default */
    int code = EXIT_FAILED;
    if (ptn_runtime_new(&o, &b->rt) < 0) {
        complain("start", "cannot make the runtime: out of memory or descriptors");
        free(b);
        return EXIT_FAILED;
    }
    ptn_runtime_on_trace(b->rt, trace, NULL);
    ptn_memory_limit(config_memory(config));
    return_large_blocks();
    code = open_outside(b, options->print_listen ? stderr : options->out);
    if (code == 0 && spawn_all(b) < 0) {
        complain("start", "cannot spawn the actors: out of memory");
        code = EXIT_FAILED;
    }
    if (code == 0) {
        if (ptn_runtime_run(b->rt) < 0) {
            complain("run", "an actor kept failing and its supervisor gave up; the log says which");
            code = EXIT_FAILED;
        }
        ignore_signals();
        PTN_LOG(PTN_LOG_INFO, "broker.stopped", PTN_F_INT("exit", code));
    }
    take_apart(b);
    return code;
}
