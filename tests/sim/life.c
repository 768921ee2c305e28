/* SPDX-License-Identifier: Apache-2.0
 *
 * life.c - assembles a broker for the simulation, as broker/wiring.c does for production, and
 * watches over it.
 *
 * libzmq, which owns threads, is replaced by its twin.
 */
#include "life.h"

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
#include "client.h"
#include "client_zmq.h"
#include "memory.h"
#include "protocols/edge.h"
#include "protocols/zmq/zmq_gw.h"
#include "rooms.h"
#include "runtime/bounds.h"
#include "runtime/memory_internal.h"
#include "runtime/stream_stats.h"
#include "swarm.h"

#include <postern/log.h>
#include <postern/metrics.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SETTLE_NS_MAX (60 * PTN_SEC)
#define STOP_NS_MAX (30 * PTN_SEC)
#define CHECK_NS (250 * PTN_MS)
#define CHECK_EVERY_STEPS 16u
#define STARTS_MAX 3u
#define MEMORY_CALM (16u << 20) /* a budget for what is free in the pools, and this load */

static struct broker {
    ptn_env *env;
    ptn_runtime *rt;
    store *store;
    ptn_endpoint *endpoint;
    ptn_hub *hub[2];
    ptn_directory d;
    zmq_gw *zmq;
    ptn_addr edges[3]; /* the gateway's too */
    unsigned n_edges;
    _Atomic bool draining;
    uint8_t key[32];
    struct router_config router[2];
    auth_config auth[2];
    struct health_config health[2];
    struct topics_config topics[2];
    conversation_config conversation[2];
    offline_queue_config queue[2];
    users_config users;
    sync_config sync[2];
    edge_config edge[2];
    struct control_config control;
    struct client clients[CLIENTS_MAX + GUESTS_MAX];
    unsigned n_clients;
    ptn_sim_timer timer;
    ptn_time settle_until, stop_until;
    bool settling, stopping, trace;
    uint64_t seen_before;
    int64_t live_before;
    int64_t charged_before[PTN_POOL_COUNT];
} B;

static void on_trace(const ptn_trace_event *e, void *arg) {
    (void)arg;
    if (e->kind == PTN_TRACE_GAVE_UP)
        oracle_failed("crash: a supervisor gave up: %s", e->text != NULL ? e->text : "");
    if (e->kind != PTN_TRACE_CRASH)
        return;
    const char *text = e->text != NULL ? e->text : "";
    ORACLE(strncmp(text, "buggify", 7) == 0 || (memory_may_fail() && e->reason == PTN_ENOMEM),
           "crash: %s failed at %s: %s", e->actor, ptn_msg_type_name(e->msg_type), text);
    world->tally.crashes++;
    swarm_saw_crash(e->addr);
}

/* ---- assembly -------------------------------------------------------------------------------- */

/* mailbox: in messages; 0: as in production.  sheds: requests are refused for having waited. */
static ptn_addr spawn_at(const ptn_actor_ops *ops, void *arg, unsigned worker, uint32_t mailbox,
                         bool sheds) {
    ptn_addr a = PTN_ADDR_NONE;
    ptn_actor_opts o = {.worker = (int)worker,
                        .mbox_msgs_max = mailbox != 0 ? mailbox : 16384,
                        .mbox_bytes_max = 32u << 20,
                        .queue_delay_ns = sheds ? world->plan.queue_delay_ns : 0};
    int err = ptn_runtime_spawn(B.rt, ops, &o, arg, PTN_PERMANENT, &a);
    PTN_ASSERT(err == 0);
    return a;
}

static ptn_addr spawn(const ptn_actor_ops *ops, void *arg, unsigned worker, uint32_t mailbox) {
    return spawn_at(ops, arg, worker, mailbox, /* sheds= */ false);
}

static ptn_addr spawn_shedding(const ptn_actor_ops *ops, void *arg, unsigned worker,
                               uint32_t mailbox) {
    return spawn_at(ops, arg, worker, mailbox, /* sheds= */ true);
}

static const struct topic_rule durable_rules[] = {{.pattern = {"t.3", 3}}};

static void spawn_worker_actors(unsigned i) {
    const struct plan *p = &world->plan;
    B.router[i] = (struct router_config){.directory = &B.d, .worker = i};
    B.auth[i] = (auth_config){.directory = &B.d,
                              .worker = i,
                              .key = B.key,
                              .key_bytes = sizeof B.key,
                              .look_ns = 3600 * PTN_SEC, /* nobody else writes, and a look each
                                                          * second would heal lost wake-ups */
                              .access_ttl_ms = (int64_t)p->access_ttl_s * 1000};
    B.health[i] = (struct health_config){.directory = &B.d,
                                         .worker = i,
                                         .version = "sim",
                                         .revision = "sim",
                                         .draining = &B.draining};
    B.topics[i] = (struct topics_config){.directory = &B.d,
                                         .shard = i,
                                         .topics_max = p->topics_max,
                                         .history_events_max = p->history_max,
                                         .rules = durable_rules,
                                         .n_rules = p->durable};
    B.conversation[i] = (conversation_config){.directory = &B.d, .shard = i};
    B.sync[i] = (sync_config){.directory = &B.d};
    B.d.sync[i] = spawn_shedding(&sync_actor, &B.sync[i], i, 0);
    B.d.hub[i] = spawn(&ptn_hub_actor, B.hub[i], i, p->hub_mailbox);
    B.queue[i] = (offline_queue_config){.directory = &B.d};
    B.d.queue[i] = spawn(&offline_queue_actor, &B.queue[i], i, p->owner_mailbox);
    B.d.topics[i] = spawn_shedding(&topics_actor, &B.topics[i], i, p->owner_mailbox);
    B.d.conversation[i] =
        spawn_shedding(&conversation_actor, &B.conversation[i], i, p->owner_mailbox);
    B.d.auth[i] = spawn_shedding(&auth_actor, &B.auth[i], i, 0);
    B.d.health[i] = spawn(&health_actor, &B.health[i], i, 0);
    B.d.router[i] = spawn(&router_actor, &B.router[i], i, p->router_mailbox);
}

static void spawn_all(void) {
    const struct plan *p = &world->plan;
    B.d.store = spawn(&store_actor, B.store, 0, 0);
    B.users = (users_config){.directory = &B.d};
    B.d.users = spawn_shedding(&users_actor, &B.users, 0, 0);
    for (unsigned i = 0; i < p->workers; i++)
        spawn_worker_actors(i);
    for (unsigned i = 0; i < p->workers; i++) {
        B.edge[i] = (edge_config){.directory = &B.d,
                                  .hub = B.hub[i],
                                  .endpoints = &B.endpoint,
                                  .n_endpoints = 1,
                                  .limits = {.out_bytes_max = p->out_bytes_max,
                                             .ws_requests_max = p->requests_max,
                                             .pipeline_max = p->pipeline_max}};
        B.d.edge[i] = B.edges[B.n_edges++] = spawn(&edge_actor, &B.edge[i], i, 0);
    }
    if (B.zmq != NULL)
        B.d.zmq = B.edges[B.n_edges++] = spawn(&zmq_gw_actor, B.zmq, 0, 0);
    B.control = (struct control_config){.edges = B.edges,
                                        .n_edges = B.n_edges,
                                        .connections_ns = 5 * PTN_SEC,
                                        .draining = &B.draining};
    (void)spawn(&control_actor, &B.control, 0, 0);
}

/* Half of the users have sessions; not where auth may be without memory for one that is over, and
 * then takes no older token of any, because these clients have no newer ones. */
static void make_tokens(void) {
    bool sessions = world->plan.logins == 0 || !memory_may_fail();
    int64_t base_ms = INT64_C(1750000000000), hour_ms = INT64_C(3600000);
    memset(B.key, 0x5a, sizeof B.key);
    for (unsigned u = 0; u < PEOPLE; u++) {
        ptn_principal p = {.user = ptn_str_of(user_id(u)),
                           .name = ptn_str_of(user_name(u)),
                           .session =
                               u % 2 == 0 || !sessions ? PTN_STR("") : PTN_STR("session-of-a-user"),
                           .roles = PTN_ROLE_USER,
                           .expires_ms = base_ms + 12 * hour_ms};
        int n = jwt_sign(B.key, sizeof B.key, &p, PTN_STR(""), base_ms - 6 * hour_ms, p.expires_ms,
                         sim_tokens[u], sizeof sim_tokens[u]);
        PTN_ASSERT(n > 0);
    }
}

/* ---- accounts and conversations -------------------------------------------------------------- */

static void execute(store_db *db, uint32_t type, ptn_pack *w) {
    uint32_t reply_type;
    ptn_buf *b = ptn_pack_finish(w);
    ptn_buf *r = store_db_execute(db, type, ptn_buf_bytes(b), &reply_type);
    PTN_ASSERT(r != NULL && reply_type != PTN_MSG_PROBLEM);
    ptn_buf_unref(b);
    ptn_buf_unref(r);
}

static void add_user(store_db *db, unsigned u) {
    ptn_pack w;
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, user_id(u));
    ptn_pack_cstr(&w, user_name(u));
    ptn_pack_cstr(&w, u < USERS ? "" : login_hash);
    ptn_pack_uint(&w, PTN_ROLE_USER);
    ptn_pack_nil(&w);
    ptn_pack_int(&w, INT64_C(1750000000000));
    execute(db, PTN_MSG_STORE_USER_ADD, &w);
}

static void add_conversation(store_db *db, unsigned k) {
    ptn_pack w;
    uint32_t n = 0;
    for (unsigned u = 0; u < PEOPLE; u++)
        n += is_member(k, u);
    ptn_pack_init(&w, 256);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, conversation_id(k));
    ptn_pack_nil(&w);
    ptn_pack_cstr(&w, user_id(k < CONVERSATIONS ? 0 : HOST_USER));
    ptn_pack_int(&w, INT64_C(1750000000000));
    ptn_pack_cstr(&w, "0123456789abcdef");
    ptn_pack_array(&w, n);
    for (unsigned u = 0; u < PEOPLE; u++)
        if (is_member(k, u))
            ptn_pack_cstr(&w, user_id(u));
    execute(db, PTN_MSG_STORE_CONV_ADD, &w);
}

void life_prepare(void) {
    store_db *db;
    const char *why = "";
    disk_plug(NULL);
    ORACLE(store_db_open(DATABASE, &(store_db_opts){.vfs = DISK_VFS}, &db, &why) == 0,
           "prepare: %s", why);
    int err = store_db_begin(db);
    for (unsigned u = 0; u < (guests_planned() > 0 ? PEOPLE : USERS); u++)
        add_user(db, u);
    for (unsigned k = 0; k < (guests_planned() > 0 ? ROOMS : CONVERSATIONS); k++)
        add_conversation(db, k);
    if (err == 0)
        err = store_db_commit(db);
    ORACLE(err == 0, "prepare: %s", ptn_err_text(err));
    store_db_close(db);
}

/* ---- watching -------------------------------------------------------------------------------- */

static void check_bound(const ptn__bound *b) {
    ORACLE(b->now <= b->max, "bounds: %s holds %llu %s, its bound is %llu", b->who,
           (unsigned long long)b->now, b->what, (unsigned long long)b->max);
}

static const struct death *death(void) {
    static const struct death never;
    return world->life < LIVES_MAX - 1 ? &world->plan.deaths[world->life] : &never;
}

static void killed(void) {
    world->tally.kills++;
    world->tally.power_losses += death()->power;
    if (death()->power)
        cursors_lost();
    _exit(EXIT_KILLED); /* as SIGKILL: nothing is flushed, nobody is told */
}

static void on_slow_disk(ptn_time ns) {
    ptn_sim_pass(B.env, ns);
}

static void plug_disk(void) {
    disk_plug(&(struct disk_opts){.seed = world->seed * LIVES_MAX + world->life,
                                  .faults = world->plan.disk,
                                  .end_at = death()->disk_op,
                                  .end_at_sync = death()->sync,
                                  .end_power = death()->power,
                                  .on_end = killed,
                                  .on_slow = on_slow_disk});
}

static void on_event(void *arg, const ptn_sim_event *e) {
    (void)arg;
    world->hash = (world->hash ^ e->hash ^ disk_ops()) * UINT64_C(0x9e3779b97f4a7c15);
    world->steps++;
    if (B.trace)
        fprintf(stderr, "%llu %llu.%09llu %s %llu %016llx\n", (unsigned long long)e->step,
                (unsigned long long)(e->now / PTN_SEC), (unsigned long long)(e->now % PTN_SEC),
                e->kind, (unsigned long long)e->id, (unsigned long long)e->hash);
    const struct death *d = death();
    if (e->step == d->step || (d->seen != 0 && world->tally.seen - B.seen_before >= d->seen)) {
        if (d->power)
            disk_power_loss();
        killed();
    }
    if (e->step % CHECK_EVERY_STEPS == 0)
        ptn__bounds_visit(B.rt, check_bound);
}

static void on_stuck(void *arg, const char *why) {
    (void)arg;
    oracle_failed("liveness: %s", why);
}

static void look(void *arg);

static void look_again(void) {
    ptn_sim_timer_start(B.env, &B.timer, CHECK_NS, look, NULL);
}

/* Who is not done yet, and with what. */
static const char *waiting(unsigned *ret_client) {
    for (unsigned i = 0; i < B.n_clients; i++) {
        const char *why = client_waits_for(&B.clients[i]);
        *ret_client = i;
        if (why != NULL)
            return why;
    }
    return NULL;
}

static void stop(void) {
    B.stopping = true;
    B.stop_until = ptn_sim_now(B.env) + STOP_NS_MAX;
    for (unsigned i = 0; i < B.n_clients; i++)
        client_quit(&B.clients[i]);
    zmq_clients_quit();
    ptn_sim_signal(B.env, SIGTERM);
}

/* Busy, then settling, then stopping; each has an end. */
static void look(void *arg) {
    unsigned who = 0;
    (void)arg;
    if (B.stopping) {
        ORACLE(ptn_sim_now(B.env) < B.stop_until, "liveness: the broker does not stop");
    } else if (B.settling) {
        const char *why = waiting(&who), *open = swarm_waits_for(), *zmq = zmq_clients_wait_for();
        ORACLE(zmq == NULL || ptn_sim_now(B.env) < B.settle_until,
               "liveness: a minute after the last fault a ZeroMQ client still waits for %s", zmq);
        ORACLE(open == NULL || ptn_sim_now(B.env) < B.settle_until,
               "liveness: a minute after the last fault the swarm still waits for %s", open);
        ORACLE(why == NULL || ptn_sim_now(B.env) < B.settle_until,
               "liveness: a minute after the last fault client %u still waits for %s (%u messages, "
               "%u calls open; last refused: %s)",
               who, why, client_n_unacknowledged(&B.clients[who]), B.clients[who].n_calls,
               B.clients[who].refusal);
        if (why == NULL && open == NULL && zmq == NULL)
            stop();
    } else {
        ptn_sim_faults calm;
        ptn_sim_faults_none(&calm);
        ptn_sim_faults_set(B.env, &calm);
        disk_faults_set(NULL);
        memory_recover();
        if (world->plan.memory_bytes > 0)
            ptn_memory_limit(MEMORY_CALM);
        B.settling = true;
        swarm_settle();
        B.settle_until = ptn_sim_now(B.env) + SETTLE_NS_MAX;
        for (unsigned i = 0; i < B.n_clients; i++)
            client_settle(&B.clients[i]);
        zmq_clients_settle();
    }
    look_again();
}

/* ---- a life ---------------------------------------------------------------------------------- */

/* As whoever starts a broker does: when its disk fails then, it is started again. */
static void open_store(void) {
    const char *why = "";
    store_config config = {
        .path = DATABASE,
        .rt = B.rt,
        .directory = &B.d,
        .scrub_rate = 1 << 20,
        .queue_delay_ns = world->plan.queue_delay_ns,
        .batch_max = world->plan.batch_max,
        .syncer_rows = world->seed % 2, /* 1: as good as all of them */
        .jobs_max = world->plan.jobs_max,
        .bytes_max = world->plan.job_bytes_max,
        .db = {.vfs = DISK_VFS,
               .retention = {.topics = durable_rules, .n_topics = world->plan.durable},
               .cache_bytes = world->plan.cache_bytes,
               .checkpoint_pages = world->plan.checkpoint_pages}};
    int err = -PTN_EIO;
    for (unsigned i = 0; i < STARTS_MAX && err != 0; i++)
        err = store_open(&config, &B.store, &why);
    if (err == 0)
        return;
    disk_faults_set(NULL);
    err = store_open(&config, &B.store, &why);
    ORACLE(err == 0, "durability: the store does not open again: %s", why);
    disk_faults_set(&world->plan.disk);
}

static void open_zmq(void) {
    const struct plan *p = &world->plan;
    const char *why = "";
    zmq_gw_config config = {.directory = &B.d,
                            .hub = B.hub[0],
                            .requests = zmq_request_addresses,
                            .n_requests = PTN_ARRAY_LEN(zmq_request_addresses),
                            .events = zmq_event_addresses,
                            .n_events = PTN_ARRAY_LEN(zmq_event_addresses),
                            .limits = {.message_bytes_max = 128u << 10,
                                       .requests_max = p->zmq_requests_max,
                                       .hwm_msgs = p->zmq_hwm}};
    int err = zmq_gw_new(&config, &B.zmq, &why);
    ORACLE(err == 0, "prepare: %s", why);
}

static void build(void) {
    const char *why = "";
    ptn_sim_opts opts = {.seed = world->seed * 2 + world->life,
                         .faults = world->plan.faults,
                         .on_event = on_event,
                         .on_stuck = on_stuck,
                         .fd_readable = zmq_fd_readable};
    B.env = ptn_env_sim_new(&opts);
    PTN_ASSERT(B.env != NULL);
    zmq_clients_prepare(B.env);
    ptn_runtime_opts o = {.workers = world->plan.workers, .env = B.env, .drain_ns = 5 * PTN_SEC};
    int err = ptn_runtime_new(&o, &B.rt);
    PTN_ASSERT(err == 0);
    ptn_runtime_on_trace(B.rt, on_trace, NULL);
    B.d.workers = world->plan.workers;
    for (unsigned i = 0; i < world->plan.workers; i++) {
        const struct plan *p = &world->plan;
        const ptn_hub_limits limits = {.feed_window = p->feed_window,
                                       .feed_deliveries_max = p->feed_deliveries_max,
                                       .feed_redeliver_ns = p->feed_redeliver_ms * PTN_MS};
        B.hub[i] = ptn_hub_new(p->devices > 0 ? &limits : NULL, &B.d, i);
        PTN_ASSERT(B.hub[i] != NULL);
    }
    err = ptn_endpoint_bind(B.rt, sim_address, &B.endpoint, &why);
    PTN_ASSERT(err == 0);
    B.seen_before = world->tally.seen;
    plug_disk();
    open_store();
    if (world->plan.zmq_clients > 0)
        open_zmq();
    spawn_all();
    swarm_spawn(B.rt, opts.seed);
}

/* What is in use, not what pools keep for later. */
static void read_balance(int64_t *ret_live, int64_t ret_charged[PTN_POOL_COUNT]) {
    uint64_t live, pooled;
    ptn_buf_stats(&live, &pooled);
    *ret_live = (int64_t)live;
    for (unsigned i = 0; i < PTN_POOL_COUNT; i++)
        ret_charged[i] = ptn__memory_charged(i);
    ret_charged[PTN_POOL_MESSAGES] -= (int64_t)pooled;
}

/* The runtime is gone, and with it everybody who could own something. */
static void check_balance(void) {
    int64_t live, charged[PTN_POOL_COUNT];
    read_balance(&live, charged);
    ORACLE(live == B.live_before, "balance: %lld bytes of payloads are not released",
           (long long)(live - B.live_before));
    for (unsigned i = 0; i < PTN_POOL_COUNT; i++)
        ORACLE(charged[i] == B.charged_before[i],
               "balance: the memory budget is charged %lld bytes of %s that nobody has",
               (long long)(charged[i] - B.charged_before[i]), ptn_pool_name(i));
}

static void take_apart(void) {
    ptn_sim_stats st;
    for (unsigned i = 0; i < B.n_clients; i++)
        client_done(&B.clients[i]);
    zmq_clients_done();
    ptn_sim_stats_read(B.env, &st);
    world->tally.buggified += st.buggified;
    ptn_metrics_snapshot counts;
    ptn_metrics_sum(&counts);
    world->tally.shed_delay += counts.counter[PTN_C_SHED_DELAY];
    world->tally.shed_memory += counts.counter[PTN_C_SHED_MEMORY];
    ORACLE(st.transports_open == 0, "balance: %u transports are still open", st.transports_open);
    ORACLE(ptn__streams_queued_bytes(B.rt) == 0, "balance: bytes wait in streams that are gone");
    store_close(B.store);
    ptn_endpoint_free(B.endpoint);
    for (unsigned i = 0; i < world->plan.workers; i++)
        ptn_hub_free(B.hub[i]);
    zmq_gw_free(B.zmq);
    zmq_clients_end();
    ptn_runtime_free(B.rt);
    B.env->ops->free(B.env);
    check_balance();
}

void life_run(bool trace) {
    B.trace = trace;
    ptn_log_set_level(PTN_LOG_ERROR);
    read_balance(&B.live_before, B.charged_before);
    make_tokens();
    ptn_memory_limit(world->plan.memory_bytes);
    build();
    for (unsigned i = 0; i < world->plan.clients; i++)
        client_start(&B.clients[B.n_clients++], B.env, i);
    for (unsigned i = 0; i < guests_planned(); i++)
        guest_start(&B.clients[B.n_clients++], B.env, i);
    zmq_clients_start();
    ptn_sim_timer_start(B.env, &B.timer, world->plan.busy_ns >> world->life, look, NULL);
    memory_fail(B.env, world->seed * 2 + world->life, world->plan.memory_ppm,
                world->plan.drought_ppm);
    int err = ptn_runtime_run(B.rt);
    ORACLE(err == 0, "crash: the runtime ended with %s", ptn_err_name(err));
    take_apart();
    disk_power_loss(); /* the end of an orderly stop is as durable as everything before */
    disk_plug(NULL);
    check_store();
    exit(0);
}
