/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_feed_test.c - feeds and the offline queue: what waits for a device, its window, what is sent
 * again, and how far a cursor has come when somebody crashes.
 *
 * Real are hub, offline queue, conversation and store; a script opens sinks in the name of devices
 * and writes down what each hears: "m3" a message, "e3" an event, "gap1-2:why", "+@3" subscribed.
 */
#include "actors/conversation.h"
#include "actors/hub_internal.h"
#include "actors/offline_queue.h"
#include "actors/store.h"
#include "actors/store_testing.h"
#include "runtime/testing.h"

#include <postern/metrics.h>

#define CONVERSATION "01ARZ3NDEKTSV4RRFFQ69G5FAV"
#define NEWER "01ARZ3NDEKTSV4RRFFQ69G5FAW"
#define SEEN_MAX 512

struct device {
    ptn_sink_id id;
    char seen[SEEN_MAX];
    enum ptn_sink_load load; /* what it says to each message */
    unsigned resets;
};

static struct scene {
    struct rig rig;
    struct test_dir dir;
    ptn_directory d;
    ptn_hub *hub;
    store *store;
    store_db_opts opts;
    conversation_config conversation;
    offline_queue_config queue;
    struct device device[3];
    ptn_time redeliver_ns;
    bool newer; /* bob has another conversation, which begins later */
    const struct step *at;
    ptn_timer timer;
    ptn_addr queue_addr, owner_addr; /* where they are when the directory does not say */
    unsigned said, letters;
    uint64_t last_letter;
} S;

struct step {
    ptn_time before; /* waits so long */
    void (*run)(ptn_ctx *c, int64_t arg);
    int64_t arg;
};

/* ---- what devices hear ------------------------------------------------------------------------
 */

static void note(void *self, const char *fmt, ...) {
    struct device *d = self;
    size_t n = strlen(d->seen);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(d->seen + n, sizeof d->seen - n, fmt, ap);
    va_end(ap);
}

static void on_subscribed(ptn_ctx *c, void *self, const ptn_subscribed *r) {
    (void)c;
    note(self, r->code == -1 ? "+@%llu " : "! ", (unsigned long long)r->offset);
}

static enum ptn_sink_load on_deliver(ptn_ctx *c, void *self, ptn_event *e) {
    (void)c;
    note(self, "e%llu ", (unsigned long long)e->offset);
    return PTN_SINK_FREE;
}

static enum ptn_sink_load on_message(ptn_ctx *c, void *self, ptn_event *e) {
    (void)c;
    note(self, "m%llu ", (unsigned long long)e->offset);
    return ((struct device *)self)->load;
}

static void on_gap(ptn_ctx *c, void *self, const ptn_gap *g) {
    (void)c;
    note(self, "gap%llu-%llu:%s ", (unsigned long long)g->from, (unsigned long long)g->to,
         g->reason);
}

static void on_reset(ptn_ctx *c, void *self) {
    struct device *d = self;
    (void)c;
    d->resets++;
    d->id = PTN_SINK_NONE;
}

static const ptn_sink_ops sink_ops = {.subscribed = on_subscribed,
                                      .deliver = on_deliver,
                                      .message = on_message,
                                      .gap = on_gap,
                                      .reset = on_reset};

/* ---- steps ------------------------------------------------------------------------------------
 */

static const ptn_principal bob = {
    .user = {"bob", 3}, .name = {"bob", 3}, .roles = PTN_ROLE_USER, .expires_ms = INT64_MAX};
static const char *const device_name[] = {"phone", "phone", "tablet"};

static void open_sink(ptn_ctx *c, int64_t i) {
    struct device *d = &S.device[i];
    (void)c;
    cr_assert_eq(ptn_hub_sink_open(S.hub, &sink_ops, d, bob.user, &d->id), 0);
}

static void feed_sink(ptn_ctx *c, int64_t i) {
    cr_assert_eq(ptn_hub_feed(c, S.hub, S.device[i].id, ptn_str_of(device_name[i]), bob.roles), 0);
}

static void open_feed(ptn_ctx *c, int64_t i) {
    open_sink(c, i);
    feed_sink(c, i);
}

static void close_feed(ptn_ctx *c, int64_t i) {
    ptn_hub_sink_close(c, S.hub, S.device[i].id);
    S.device[i].id = PTN_SINK_NONE;
}

/* Device 0 has everything up to seq. */
static void ack(ptn_ctx *c, int64_t seq) {
    cr_assert_eq(ptn_hub_ack(c, S.hub, S.device[0].id, PTN_STR(CONVERSATION), (uint64_t)seq), 0);
}

static void ack_elsewhere(ptn_ctx *c, int64_t seq) {
    ptn_buf *b = packed("sssi", "bob", "phone", CONVERSATION, seq);
    cr_assert_eq(ptn_cast(c, S.d.queue[0], PTN_MSG_QUEUE_GOT, b), 0);
}

static void subscribe(ptn_ctx *c, int64_t i) {
    cr_assert_eq(ptn_hub_subscribe(c, S.hub, S.device[i].id, 7,
                                   PTN_STR("conversation." CONVERSATION), (ptn_position){0},
                                   PTN_POLICY_DEFAULT, 0, bob.roles),
                 0);
}

/* Of device 0, an event in every_ms. */
static void subscribe_latest(ptn_ctx *c, int64_t every_ms) {
    cr_assert_eq(ptn_hub_subscribe(c, S.hub, S.device[0].id, 7,
                                   PTN_STR("conversation." CONVERSATION), (ptn_position){0},
                                   PTN_POLICY_LATEST, (uint32_t)every_ms, bob.roles),
                 0);
}

/* Device 0 has everything up to offset, of this epoch or of another one (offset < 0). */
static void resume(ptn_ctx *c, int64_t offset) {
    ptn_position since = {PTN_STR("epoch"), (uint64_t)offset};
    if (offset < 0)
        since = (ptn_position){PTN_STR("another"), (uint64_t)-offset};
    cr_assert_eq(ptn_hub_subscribe(c, S.hub, S.device[0].id, 7,
                                   PTN_STR("conversation." CONVERSATION), since, PTN_POLICY_DEFAULT,
                                   0, bob.roles),
                 0);
}

/* As when bob were a member from now on, seen from behind seq. */
static void join(ptn_ctx *c, int64_t seq) {
    ptn_buf *b = packed("s[s]i", "conversation." CONVERSATION, "bob", seq);
    cr_assert_eq(ptn_cast(c, S.d.hub[0], PTN_MSG_HUB_JOINED, b), 0);
}

/* Nobody reaches the queue, or the conversation. */
static void queue_away(ptn_ctx *c, int64_t away) {
    (void)c;
    S.d.queue[0] = away ? PTN_ADDR_NONE : S.queue_addr;
}

static void owner_away(ptn_ctx *c, int64_t away) {
    (void)c;
    S.d.conversation[0] = away ? PTN_ADDR_NONE : S.owner_addr;
}

static void unsubscribe(ptn_ctx *c, int64_t i) {
    cr_assert_eq(
        ptn_hub_unsubscribe(c, S.hub, S.device[i].id, PTN_STR("conversation." CONVERSATION)), 0);
}

static void said(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)c, (void)state, (void)arg;
    S.said += err == 0 && reply->type == PTN_MSG_RESPONSE;
}

/* The sender's next n messages; n < 0: bob's own. */
static void say(ptn_ctx *c, int64_t n) {
    static const uint8_t trace[16] = {1};
    ptn_request r = {.method = PTN_POST,
                     .path = PTN_STR("/api/v1/conversations/" CONVERSATION "/messages"),
                     .principal = bob,
                     .trace_id = {trace, sizeof trace},
                     .parent_span = {trace, 8}};
    if (n > 0)
        r.principal.user = r.principal.name = PTN_STR("alice");
    for (n = n < 0 ? -n : n; n > 0; n--) {
        ptn_pack w;
        ptn_pack_init(&w, 256);
        ptn_request_begin(&w, &r);
        ptn_pack_map(&w, 1);
        ptn_pack_key(&w, "content");
        ptn_pack_cstr(&w, "hello");
        ptn_buf *b = ptn_pack_finish(&w);
        cr_assert_eq(ptn_ask(c, S.d.conversation[0], PTN_MSG_ROUTE_MSG_SEND_TO, b,
                             ptn_now(c) + PTN_SEC, said, NULL, NULL),
                     0);
    }
}

/* A malformed internal message fails its actor. */
static void crash_queue(ptn_ctx *c, int64_t arg) {
    (void)arg;
    cr_assert_eq(ptn_cast(c, S.d.queue[0], PTN_MSG_QUEUE_ACK, NULL), 0);
}

static void listed(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)c, (void)state, (void)arg;
    cr_assert(err == 0 && reply->type == PTN_MSG_STORE_DEADS);
    ptn_bytes all = ptn_msg_bytes(reply);
    S.letters = count_of(all);
    if (S.letters > 0)
        S.last_letter = (uint64_t)int_of(element(element(all, S.letters - 1), 0));
}

static void look_for_letters(ptn_ctx *c, int64_t arg) {
    (void)arg;
    cr_assert_eq(ptn_ask(c, S.d.store, PTN_MSG_STORE_DEAD_LIST,
                         packed("ii", (int64_t)0, (int64_t)100), PTN_NEVER, listed, NULL, NULL),
                 0);
}

static void answered(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)c, (void)state, (void)arg;
    ptn_response r;
    cr_assert(err == 0 && reply->type == PTN_MSG_RESPONSE);
    cr_assert(ptn_response_unpack(ptn_msg_bytes(reply), &r));
    cr_expect_eq(r.page.n, 0, "one letter is no list");
    cr_expect_eq(ptn_kind_of(r.data), PTN_KIND_MAP);
}

static void replay(ptn_ctx *c, int64_t arg) {
    char path[64];
    ptn_request r = {.method = PTN_POST, .path = {path, 0}, .principal = bob};
    (void)arg;
    r.path.n = (size_t)snprintf(path, sizeof path, "/api/v1/admin/dead-letters/%llu/replay",
                                (unsigned long long)S.last_letter);
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_request_begin(&w, &r);
    ptn_pack_nil(&w);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(
        ptn_ask(c, S.d.queue[0], PTN_MSG_ROUTE_DEAD_REPLAY, b, PTN_NEVER, answered, NULL, NULL), 0);
}

static void allow(ptn_ctx *c, int64_t subscriptions) {
    (void)c;
    S.hub->limits.sink_subscriptions_max = (uint32_t)subscriptions;
}

static void clear(ptn_ctx *c, int64_t i) {
    (void)c;
    S.device[i].seen[0] = '\0';
}

static void next_step(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state, (void)arg;
    const struct step *s = S.at++;
    if (s->run == NULL) {
        for (unsigned i = 0; i < PTN_ARRAY_LEN(S.device); i++)
            close_feed(c, i);
        ptn_runtime_stop(S.rig.rt);
        return;
    }
    s->run(c, s->arg);
    ptn_timer_start(c, t, 50 * PTN_MS + S.at->before, next_step, NULL);
}

static int script_init(ptn_ctx *c, void *state, void *arg) {
    (void)state, (void)arg;
    ptn_timer_start(c, &S.timer, 50 * PTN_MS, next_step, NULL);
    return 0;
}

static int script_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops script = {
    .name = "script", .init = script_init, .handle = script_handle};

/* ---- the scene --------------------------------------------------------------------------------
 */

static void store_now(store_db *db, uint32_t type, ptn_buf *take_b) {
    uint32_t reply;
    ptn_buf *b = store_db_execute(db, type, ptn_buf_bytes(take_b), &reply);
    cr_assert_neq(reply, PTN_MSG_PROBLEM);
    ptn_buf_unref(take_b);
    ptn_buf_unref(b);
}

/* alice and bob, and a conversation of theirs. */
static void populate(void) {
    store_db *db;
    cr_assert_eq(store_db_open(S.dir.db, NULL, &db, NULL), 0);
    for (unsigned i = 0; i < 2; i++)
        store_now(db, PTN_MSG_STORE_USER_ADD,
                  packed("sssiSi", i == 0 ? "alice" : "bob", i == 0 ? "alice" : "bob", "hash",
                         (int64_t)1, NULL, (int64_t)1000));
    store_now(
        db, PTN_MSG_STORE_CONV_ADD,
        packed("sSsis[ss]", CONVERSATION, NULL, "alice", (int64_t)5, "epoch", "alice", "bob"));
    if (S.newer)
        store_now(db, PTN_MSG_STORE_CONV_ADD,
                  packed("sSsis[s]", NEWER, NULL, "bob", (int64_t)5, "epoch", "bob"));
    store_db_close(db);
}

static void play(const struct step *steps) {
    const ptn_hub_limits limits = {
        .feed_window = 4, .feed_deliveries_max = 3, .feed_redeliver_ns = S.redeliver_ns};
    const char *why = "";
    rig_open(&S.rig, 1);
    test_dir_open(&S.dir);
    populate();
    S.d.workers = 1;
    S.conversation.directory = S.queue.directory = &S.d;
    store_config sc = {.path = S.dir.db, .rt = S.rig.rt, .db = S.opts, .directory = &S.d};
    cr_assert_eq(store_open(&sc, &S.store, &why), 0, "%s", why);
    S.hub = ptn_hub_new(&limits, &S.d, 0);
    cr_assert_not_null(S.hub);
    S.d.store = rig_spawn(&S.rig, &store_actor, S.store, 0, PTN_PERMANENT);
    S.d.conversation[0] = rig_spawn(&S.rig, &conversation_actor, &S.conversation, 0, PTN_PERMANENT);
    S.d.hub[0] = rig_spawn(&S.rig, &ptn_hub_actor, S.hub, 0, PTN_PERMANENT);
    S.d.queue[0] = rig_spawn(&S.rig, &offline_queue_actor, &S.queue, 0, PTN_PERMANENT);
    S.queue_addr = S.d.queue[0];
    S.owner_addr = S.d.conversation[0];
    (void)rig_spawn(&S.rig, &script, NULL, 0, PTN_PERMANENT);
    S.at = steps;
    cr_assert_eq(ptn_runtime_run(S.rig.rt), 0);
    store_close(S.store);
    rig_close(&S.rig);
    ptn_hub_free(S.hub);
    test_dir_close(&S.dir);
    cr_expect_eq(buf_live(), 0, "buffers leaked");
}

static void setup(void) {
    memset(&S, 0, sizeof S);
    S.redeliver_ns = PTN_SEC;
}
TestSuite(hub_feed, .init = setup, .timeout = 60);

/* ---- windows ----------------------------------------------------------------------------------
 */

Test(hub_feed, a_backlog_comes_in_windows) {
    play((const struct step[]){{0, say, 6}, {0, open_feed, 0}, {0, ack, 2}, {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 m2 m3 m4 m5 m6 ");
    cr_expect_eq(S.said, 6);
}

Test(hub_feed, the_window_is_closed_without_acknowledgements) {
    play((const struct step[]){{0, open_feed, 0}, {0, say, 6}, {0, ack, 1}, {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 m2 m3 m4 m5 ");
}

Test(hub_feed, own_messages_are_passed_over) {
    play((const struct step[]){
        {0, say, 1}, {0, say, -2}, {0, say, 1}, {0, open_feed, 0}, {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 m4 ");
}

Test(hub_feed, an_acknowledgement_of_what_does_not_exist_counts_up_to_the_end) {
    play((const struct step[]){{0, say, 1},
                               {0, open_feed, 0},
                               {0, ack, INT64_MAX},
                               {0, say, 1},
                               {0, close_feed, 0},
                               {0, open_feed, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 m2 ");
    cr_expect_str_eq(S.device[1].seen, "m2 ");
}

/* ---- devices ----------------------------------------------------------------------------------
 */

Test(hub_feed, a_device_goes_on_behind_what_it_has_acknowledged) {
    play((const struct step[]){{0, say, 3},
                               {0, open_feed, 0},
                               {0, ack, 2},
                               {0, close_feed, 0},
                               {0, open_feed, 1}, /* the same device */
                               {0, open_feed, 2}, /* a new one begins there, too */
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[1].seen, "m3 ");
    cr_expect_str_eq(S.device[2].seen, "m3 ");
}

Test(hub_feed, an_acknowledgement_by_another_way_counts) {
    play((const struct step[]){{0, say, 6},
                               {0, open_feed, 0},
                               {0, open_feed, 2},
                               {0, ack_elsewhere, 4},
                               {0, close_feed, 0},
                               {0, open_feed, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 m2 m3 m4 m5 m6 ");
    cr_expect_str_eq(S.device[2].seen, "m1 m2 m3 m4 ", "another device");
    cr_expect_str_eq(S.device[1].seen, "m5 m6 ");
}

Test(hub_feed, a_crash_of_the_queue_loses_no_message) {
    play((const struct step[]){{0, say, 3},
                               {0, open_feed, 0},
                               {0, ack, 1},
                               {200 * PTN_MS, crash_queue, 0},
                               {PTN_SEC / 4, ack, 2},
                               {0, close_feed, 0},
                               {0, open_feed, 1},
                               {0, NULL, 0}});
    cr_expect_eq(S.rig.crashes, 1);
    cr_expect_str_eq(S.device[1].seen, "m3 ");
}

static uint64_t refusals(void) {
    ptn_metrics_snapshot m;
    ptn_metrics_sum(&m);
    return m.counter[PTN_C_SUBSCRIPTIONS_REFUSED_ONE];
}

Test(hub_feed, a_conversation_without_room_is_refused_aloud) {
    const uint64_t before = refusals();
    play((const struct step[]){
        {0, say, 1}, {0, allow, 0}, {0, open_feed, 0}, {0, say, 1}, {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "! ");
    cr_expect_eq(S.device[0].resets, 0);
    cr_expect_eq(refusals(), before + 1);
}

/* ---- again, and in vain -----------------------------------------------------------------------
 */

Test(hub_feed, what_is_never_acknowledged_becomes_a_dead_letter) {
    play((const struct step[]){{0, say, 2},
                               {0, open_feed, 0},
                               {20 * PTN_SEC, look_for_letters, 0},
                               {0, say, 1},
                               {0, clear, 1},
                               {0, close_feed, 0},
                               {0, open_feed, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 m2 m1 m2 m1 m2 gap1-2:max_deliveries m3 ");
    cr_expect_eq(S.letters, 1);
    cr_expect_str_eq(S.device[1].seen, "gap1-2:max_deliveries m3 ",
                     "it does not come back by itself, and is told again");
}

Test(hub_feed, a_replayed_letter_comes_to_the_feed_that_is_open) {
    play((const struct step[]){{0, say, 1},
                               {0, open_feed, 0},
                               {20 * PTN_SEC, look_for_letters, 0},
                               {0, clear, 0},
                               {0, replay, 0},
                               {0, look_for_letters, 0},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 ");
    cr_expect_eq(S.letters, 0);
}

Test(hub_feed, the_limits_of_the_queue_hold_for_an_open_feed) {
    S.opts.queue.messages = 3;
    play((const struct step[]){{0, open_feed, 0},
                               {0, say, 6},
                               {1500 * PTN_MS, look_for_letters, 0},
                               {0, close_feed, 0},
                               {0, open_feed, 1},
                               {0, NULL, 0}});
    cr_expect_eq(strncmp(S.device[0].seen, "m1 m2 m3 m4 ", 12), 0, "%s", S.device[0].seen);
    cr_expect_not_null(strstr(S.device[0].seen, "gap1-3:overflow "), "%s", S.device[0].seen);
    cr_expect_not_null(strstr(S.device[0].seen, "m5 "), "%s", S.device[0].seen);
    cr_expect_eq(S.letters, 1);
    cr_expect_str_eq(S.device[1].seen, "gap1-3:overflow m4 m5 m6 ",
                     "told until it acknowledges something");
}

/* ---- a subscription takes over ----------------------------------------------------------------
 */

Test(hub_feed, a_subscription_takes_the_conversation_over_and_gives_it_back) {
    play((const struct step[]){{0, say, 2},
                               {0, open_feed, 0},
                               {0, subscribe, 0},
                               {5 * PTN_SEC, say, 1}, /* nothing comes again meanwhile */
                               {0, unsubscribe, 0},
                               {0, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 m2 +@2 e3 m4 ");
}

Test(hub_feed, events_need_no_acknowledgement) {
    play((const struct step[]){{0, open_feed, 0},
                               {0, subscribe, 0},
                               {0, say, 8},
                               {5 * PTN_SEC, ack, 8},
                               {0, close_feed, 0},
                               {0, open_feed, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@0 e1 e2 e3 e4 e5 e6 e7 e8 ");
    cr_expect_str_eq(S.device[1].seen, "", "but it counts");
}

/* The newest of each interval, and the newest of all; what was left out still waits for the device.
 */
Test(hub_feed, a_conversation_may_be_conflated) {
    play((const struct step[]){{0, open_feed, 0},
                               {0, subscribe_latest, 10000},
                               {0, say, 1},
                               {0, say, 3},
                               {10 * PTN_SEC, say, 1},
                               {10 * PTN_SEC, subscribe_latest, 0},
                               {0, say, 1},
                               {0, close_feed, 0},
                               {0, open_feed, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@0 e1 e4 e5 +@5 e6 ");
    cr_expect_str_eq(S.device[1].seen, "m1 m2 m3 m4 ");
}

Test(hub_feed, what_conflation_has_kept_comes_when_the_feed_goes_on) {
    play((const struct step[]){{0, open_feed, 0},
                               {0, subscribe_latest, 10000},
                               {0, say, 1},
                               {0, say, 2},
                               {0, unsubscribe, 0},
                               {0, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@0 e1 m2 m3 m4 ");
}

/* It subscribes while the queue cannot answer yet: the feed comes to a subscription that keeps
 * something. */
Test(hub_feed, a_feed_that_comes_later_takes_nothing_from_conflation) {
    play((const struct step[]){{0, open_sink, 0},
                               {0, subscribe_latest, 10000},
                               {0, say, 1},
                               {0, say, 2},
                               {0, feed_sink, 0},
                               {10 * PTN_SEC, say, 1},
                               {10 * PTN_SEC, say, 0},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@0 e1 e3 e4 ");
}

Test(hub_feed, a_known_position_is_taken_up) {
    play((const struct step[]){
        {0, say, 3}, {0, open_feed, 0}, {0, clear, 0}, {0, resume, 2}, {0, say, 1}, {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@3 e3 e4 ");
}

Test(hub_feed, a_known_position_is_taken_up_after_an_unknown_one) {
    play((const struct step[]){{0, say, 3},
                               {0, open_feed, 0},
                               {0, clear, 0},
                               {0, resume, -2},
                               {0, resume, 1},
                               {0, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@3 +@3 e2 e3 e4 ");
}

Test(hub_feed, a_position_that_is_not_known_is_none) {
    play((const struct step[]){{0, say, 3},
                               {0, queue_away, 1},
                               {0, open_feed, 0},
                               {0, resume, -2},
                               {0, queue_away, 0},
                               {PTN_SEC, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@3 m1 m2 m3 e4 ");
}

Test(hub_feed, a_resumed_conversation_that_is_left_comes_again) {
    play((const struct step[]){{0, say, 3},
                               {0, queue_away, 1},
                               {0, open_feed, 0},
                               {0, resume, 2},
                               {0, queue_away, 0},
                               {PTN_SEC, unsubscribe, 0},
                               {2 * PTN_SEC, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@3 e3 m1 m2 m3 m4 ");
}

/* ---- the feed opens late ----------------------------------------------------------------------
 */

Test(hub_feed, a_feed_that_cannot_be_opened_at_first_comes_in_the_same_session) {
    S.redeliver_ns = 100 * PTN_SEC;
    play((const struct step[]){{0, say, 2},
                               {0, queue_away, 1},
                               {0, open_feed, 0},
                               {20 * PTN_SEC, queue_away, 0},
                               {8 * PTN_SEC, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 m2 m3 ");
    ptn_metrics_snapshot m;
    ptn_metrics_sum(&m);
    cr_expect_leq(m.counter[PTN_C_FEED_RETRIES], 12, "less and less often");
    cr_expect_geq(m.counter[PTN_C_FEED_RETRIES], 7);
}

Test(hub_feed, a_conversation_that_cannot_be_reached_at_first_comes_in_the_same_session) {
    S.redeliver_ns = 100 * PTN_SEC;
    play((const struct step[]){{0, say, 2},
                               {0, owner_away, 1},
                               {0, open_feed, 0},
                               {2 * PTN_SEC, owner_away, 0},
                               {3 * PTN_SEC, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m1 m2 m3 ");
}

Test(hub_feed, who_joins_again_begins_there_whatever_the_feed_could_not_reach) {
    play((const struct step[]){{0, say, 2},
                               {0, owner_away, 1},
                               {0, open_feed, 0}, /* its list begins with the first message */
                               {PTN_SEC, join, 2},
                               {0, owner_away, 0},
                               {PTN_SEC, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m3 ");
}

Test(hub_feed, who_joins_hears_nothing_older_that_is_announced_later) {
    S.newer = true; /* the list of the queue ends before the conversation */
    S.opts.queue.conversations = 1;
    play((const struct step[]){
        {0, say, 2}, {0, open_feed, 0}, {0, join, 3}, {0, say, 2}, {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m4 ");
}

Test(hub_feed, who_joins_again_begins_there_whatever_the_queue_lists) {
    play((const struct step[]){{0, say, 2},
                               {0, queue_away, 1},
                               {0, open_feed, 0},
                               {0, owner_away, 1},
                               {0, join, 2},
                               {0, queue_away, 0},
                               {150 * PTN_MS, owner_away, 0}, /* tried once, now last in line */
                               {PTN_SEC, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "m3 ");
}

Test(hub_feed, a_subscription_waits_for_a_feed_that_opens_late) {
    play((const struct step[]){{0, say, 2},
                               {0, queue_away, 1},
                               {0, open_feed, 0},
                               {0, subscribe, 0},
                               {PTN_SEC, say, 1},
                               {0, queue_away, 0},
                               {2 * PTN_SEC, say, 1},
                               {0, ack, 3},
                               {0, unsubscribe, 0},
                               {0, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@3 m1 m2 m3 e4 m5 ");
}

Test(hub_feed, a_subscription_does_not_wait_for_ever) {
    S.redeliver_ns = 100 * PTN_SEC;
    play((const struct step[]){{0, say, 2},
                               {0, queue_away, 1},
                               {0, open_feed, 0},
                               {0, subscribe, 0},
                               {18 * PTN_SEC, clear, 1},
                               {0, subscribe, 0},
                               {0, queue_away, 0},
                               {8 * PTN_SEC, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "! +@2 m1 m2 e3 ");
}

Test(hub_feed, a_subscription_that_waits_is_taken_back) {
    play((const struct step[]){{0, say, 1},
                               {0, queue_away, 1},
                               {0, open_feed, 0},
                               {0, subscribe, 0},
                               {0, unsubscribe, 0},
                               {0, queue_away, 0},
                               {PTN_SEC, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "! m1 m2 ");
}

Test(hub_feed, a_session_that_ends_while_its_feed_is_late_leaves_nothing) {
    play((const struct step[]){{0, say, 1},
                               {0, queue_away, 1},
                               {0, open_feed, 0},
                               {0, subscribe, 0},
                               {0, open_feed, 2},
                               {PTN_SEC, close_feed, 0},
                               {0, queue_away, 0},
                               {PTN_SEC, open_feed, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "");
    cr_expect_str_eq(S.device[1].seen, "m1 ");
    cr_expect_str_eq(S.device[2].seen, "m1 ");
}

Test(hub_feed, what_a_subscription_has_left_out_comes_when_it_ends) {
    S.newer = true; /* the list of the queue ends before the conversation */
    S.opts.queue.conversations = 1;
    play((const struct step[]){{0, say, 2},
                               {0, open_feed, 0},
                               {0, subscribe, 0},
                               {0, join, 0},
                               {0, say, 1},
                               {0, unsubscribe, 0},
                               {0, ack, 3},
                               {0, say, 1},
                               {0, NULL, 0}});
    cr_expect_str_eq(S.device[0].seen, "+@2 e3 m1 m2 m3 m4 ");
}
