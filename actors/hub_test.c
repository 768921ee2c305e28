/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_test.c - hubs and topics together: order, positions, recovery, wildcards, closing, crashes.
 *
 * A script actor stands for the adapters: it runs one step per virtual millisecond, so that
 * everything a step caused has settled before the next.
 */
#include "actors/hub_internal.h"
#include "actors/topics.h"
#include "runtime/testing.h"

#include <criterion/criterion.h>
#include <postern/hub.h>
#include <postern/metrics.h>
#include <stdlib.h>

#define SEEN_MAX 512

struct fixture;

struct client { /* a sink that writes down what it sees */
    struct fixture *f;
    ptn_sink_id id;
    char seen[SEEN_MAX]; /* "+a.b@0 a.b:1 a.b:2 " */
    char epoch[64];
    bool close_at_first;     /* closes itself inside deliver */
    enum ptn_sink_load load; /* what deliver says */
    enum ptn_policy policy;
    uint32_t every_ms;
    bool stuck;  /* the transport has not taken what was delivered */
    ptn_time at; /* of the last event */
    unsigned resets;
    int code;
};

struct fixture {
    struct rig rig;
    ptn_directory d;
    ptn_hub *hub[2];
    struct topics_config topics[2];
    struct client client[4];
    void (*const *steps)(ptn_ctx *c, struct fixture *f);
    unsigned at;
    ptn_timer timer;
};

static void note(struct client *cl, const char *fmt, ...) {
    size_t n = strlen(cl->seen);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(cl->seen + n, sizeof cl->seen - n, fmt, ap);
    va_end(ap);
}

static void on_subscribed(ptn_ctx *c, void *self, const ptn_subscribed *r) {
    struct client *cl = self;
    (void)c;
    cl->code = r->code;
    if (r->code != -1) {
        note(cl, "!%.*s ", (int)r->topic.n, r->topic.p);
        return;
    }
    note(cl, "+%.*s@%llu%s ", (int)r->topic.n, r->topic.p, (unsigned long long)r->offset,
         r->recovered ? "r" : "");
    (void)snprintf(cl->epoch, sizeof cl->epoch, "%.*s", (int)r->epoch.n, r->epoch.p);
}

static enum ptn_sink_load on_deliver(ptn_ctx *c, void *self, ptn_event *e) {
    struct client *cl = self;
    note(cl, "%.*s:%llu ", (int)e->topic.n, e->topic.p, (unsigned long long)e->offset);
    cl->at = ptn_now(c);
    if (e->forms[PTN_FORM_SSE] == NULL)
        e->forms[PTN_FORM_SSE] = ptn_frame_new(8);
    if (cl->close_at_first)
        ptn_hub_sink_close(c, cl->f->hub[0], cl->id);
    return cl->load;
}

static void on_gap(ptn_ctx *c, void *self, const ptn_gap *g) {
    (void)c;
    note(self, "gap:%.*s:%llu-%llu:%s ", (int)g->topic.n, g->topic.p, (unsigned long long)g->from,
         (unsigned long long)g->to, g->reason);
}

static void on_reset(ptn_ctx *c, void *self) {
    (void)c;
    ((struct client *)self)->resets++;
}

static bool on_taken(void *self) {
    return !((const struct client *)self)->stuck;
}

static const ptn_sink_ops sink_ops = {.taken = on_taken,
                                      .subscribed = on_subscribed,
                                      .deliver = on_deliver,
                                      .gap = on_gap,
                                      .reset = on_reset};

/* ---- steps -------------------------------------------------------------------------------- */

static void subscribe_since(ptn_ctx *c, struct fixture *f, unsigned client, const char *topic,
                            const char *epoch, uint64_t offset) {
    struct client *cl = &f->client[client];
    if (cl->id == PTN_SINK_NONE)
        cr_assert_eq(ptn_hub_sink_open(f->hub[0], &sink_ops, cl, PTN_STR("u1"), &cl->id), 0);
    ptn_position since = {ptn_str_of(epoch), offset};
    cr_assert_eq(ptn_hub_subscribe(c, f->hub[0], cl->id, 7, ptn_str_of(topic), since, cl->policy,
                                   cl->every_ms, PTN_ROLE_USER),
                 0);
}

static void subscribe(ptn_ctx *c, struct fixture *f, unsigned client, const char *topic) {
    subscribe_since(c, f, client, topic, NULL, 0);
}

static void publish(ptn_ctx *c, struct fixture *f, const char *topic) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 2);
    ptn_pack_cstr(&w, topic);
    ptn_pack_int(&w, 42);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_cast(c, ptn_topic_owner(&f->d, ptn_str_of(topic)), PTN_MSG_TOPIC_PUBLISH, b),
                 0);
}

static void next_step(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct fixture *f = arg;
    (void)state;
    if (f->steps[f->at] == NULL) {
        for (unsigned i = 0; i < PTN_ARRAY_LEN(f->client); i++)
            ptn_hub_sink_close(c, f->hub[0], f->client[i].id);
        ptn_runtime_stop(f->rig.rt);
        return;
    }
    f->steps[f->at++](c, f);
    ptn_timer_start(c, t, PTN_MS, next_step, f);
}

static int script_init(ptn_ctx *c, void *state, void *arg) {
    struct fixture *f = arg;
    (void)state;
    ptn_timer_start(c, &f->timer, PTN_MS, next_step, f);
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

static void run(struct fixture *f, unsigned workers,
                void (*const *steps)(ptn_ctx *, struct fixture *)) {
    uint64_t live = buf_live();
    memset(f, 0, sizeof *f);
    rig_open(&f->rig, workers);
    f->steps = steps;
    f->d.workers = workers;
    for (unsigned i = 0; i < workers; i++) {
        f->hub[i] = ptn_hub_new(NULL, &f->d, i);
        f->d.hub[i] = rig_spawn(&f->rig, &ptn_hub_actor, f->hub[i], (int)i, PTN_PERMANENT);
        f->topics[i] =
            (struct topics_config){.directory = &f->d, .shard = i, .history_events_max = 4};
        f->d.topics[i] = rig_spawn(&f->rig, &topics_actor, &f->topics[i], (int)i, PTN_PERMANENT);
        f->d.conversation[i] = f->d.topics[i];
    }
    for (unsigned i = 0; i < PTN_ARRAY_LEN(f->client); i++)
        f->client[i].f = f;
    rig_spawn(&f->rig, &script, f, 0, PTN_TEMPORARY);
    cr_assert_eq(ptn_runtime_run(f->rig.rt), 0);
    for (unsigned i = 0; i < workers; i++)
        ptn_hub_free(f->hub[i]);
    rig_close(&f->rig);
    cr_assert_eq(buf_live(), live, "%lld bytes of messages leak", (long long)(buf_live() - live));
}

static uint64_t counter(enum ptn_counter k) {
    ptn_metrics_snapshot s;
    ptn_metrics_sum(&s);
    return s.counter[k];
}

/* ---- order and position ------------------------------------------------------------------- */

static void order_1(ptn_ctx *c, struct fixture *f) {
    publish(c, f, "a.b");
    subscribe(c, f, 0, "a.b");
    publish(c, f, "a.b");
}
static void order_2(ptn_ctx *c, struct fixture *f) {
    subscribe(c, f, 1, "a.b");
    publish(c, f, "a.b");
    publish(c, f, "other");
    publish(c, f, "a.b");
}

static void order_3(ptn_ctx *c, struct fixture *f) {
    publish(c, f, "a.b");
}

Test(hub, subscribed_comes_first_and_says_where) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {order_1, order_2, order_3, NULL};
    for (unsigned workers = 1; workers <= 2; workers++) {
        run(&f, workers, steps);
        const char *at2 = strstr(f.client[0].seen, "a.b:3 a.b:4 a.b:5 ");
        cr_assert_not_null(at2, "%s", f.client[0].seen);
        cr_assert(f.client[0].seen[0] == '+');
        cr_assert(strstr(f.client[1].seen, "a.b:5 ") != NULL && f.client[1].seen[0] == '+', "%s",
                  f.client[1].seen);
    }
}

/* ---- recovery ----------------------------------------------------------------------------- */

static void three_events(ptn_ctx *c, struct fixture *f) {
    for (int i = 0; i < 3; i++)
        publish(c, f, "t");
}
static void subscribe_t(ptn_ctx *c, struct fixture *f) {
    subscribe(c, f, 0, "t");
}
static void one_event(ptn_ctx *c, struct fixture *f) {
    publish(c, f, "t");
}
static void resume_t(ptn_ctx *c, struct fixture *f) {
    subscribe_since(c, f, 1, "t", f->client[0].epoch, 1);
    subscribe_since(c, f, 2, "t", "another-life", 1);
}

Test(hub, recovery_is_complete_or_not_at_all) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {three_events, subscribe_t,
                                                                 resume_t, NULL};
    run(&f, 1, steps);
    cr_assert_str_eq(f.client[0].seen, "+t@3 ");
    cr_assert_str_eq(f.client[1].seen, "+t@3r t:2 t:3 ");
    cr_assert_str_eq(f.client[2].seen, "+t@3 ");
}

static void many_events(ptn_ctx *c, struct fixture *f) {
    for (int i = 0; i < 6; i++) /* the history keeps 4 */
        publish(c, f, "t");
}
static void resume_bounds(ptn_ctx *c, struct fixture *f) {
    subscribe_since(c, f, 1, "t", f->client[0].epoch, 1);
    subscribe_since(c, f, 2, "t", f->client[0].epoch, 2);
    subscribe_since(c, f, 3, "t", f->client[0].epoch, 7);
}

Test(hub, history_is_bounded_and_says_so) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {many_events, subscribe_t,
                                                                 resume_bounds, NULL};
    run(&f, 1, steps);
    cr_assert_str_eq(f.client[1].seen, "+t@6 ");
    cr_assert_str_eq(f.client[2].seen, "+t@6r t:3 t:4 t:5 t:6 ");
    cr_assert_str_eq(f.client[3].seen, "+t@6 ");
}

/* ---- wildcards ---------------------------------------------------------------------------- */

static void wild_1(ptn_ctx *c, struct fixture *f) {
    subscribe(c, f, 0, "a.*");
    subscribe(c, f, 0, "a.b");
    subscribe(c, f, 0, "**");
    subscribe(c, f, 1, "**");
    subscribe(c, f, 2, "user.*");
    subscribe(c, f, 3, "user.u2");
}
static void wild_2(ptn_ctx *c, struct fixture *f) {
    publish(c, f, "a.b");
    publish(c, f, "a.c.d");
    publish(c, f, "system.x");
}
static void wild_3(ptn_ctx *c, struct fixture *f) {
    ptn_hub_unsubscribe(c, f->hub[0], f->client[0].id, PTN_STR("**"));
    ptn_hub_sink_close(c, f->hub[0], f->client[1].id);
}
static void wild_4(ptn_ctx *c, struct fixture *f) {
    publish(c, f, "a.b");
    publish(c, f, "z");
}

Test(hub, a_sink_gets_an_event_once_however_many_patterns_match) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {wild_1, wild_2, wild_3, wild_4,
                                                                 NULL};
    for (unsigned workers = 1; workers <= 2; workers++) {
        run(&f, workers, steps);
        const char *seen = f.client[0].seen;
        const char *first = strstr(seen, "a.b:1 ");
        cr_assert(first != NULL && strstr(first + 1, "a.b:1 ") == NULL, "%s", seen);
        cr_assert(strstr(seen, "a.b:2 ") != NULL && strstr(seen, "z:") == NULL, "%s", seen);
        cr_assert(strstr(seen, "a.c.d:1 ") != NULL && strstr(seen, "system") == NULL, "%s", seen);
        cr_assert(strstr(f.client[1].seen, "a.b:1 ") && !strstr(f.client[1].seen, "a.b:2"), "%s",
                  f.client[1].seen);
        cr_assert_eq(f.client[2].code, PTN_CODE_FORBIDDEN);
        cr_assert_eq(f.client[3].code, PTN_CODE_FORBIDDEN);
    }
}

static void subscribe_all(ptn_ctx *c, struct fixture *f) {
    struct client *cl = &f->client[0];
    if (cl->id == PTN_SINK_NONE)
        cr_assert_eq(ptn_hub_sink_open(f->hub[0], &sink_ops, cl, PTN_STR("u1"), &cl->id), 0);
    cr_assert_eq(ptn_hub_subscribe_all(c, f->hub[0], cl->id, false), 0);
}
static void all_without_room(ptn_ctx *c, struct fixture *f) {
    f->hub[0]->limits.subscriptions_max = 0;
    subscribe_all(c, f);
}
static void all_with_room(ptn_ctx *c, struct fixture *f) {
    f->hub[0]->limits.subscriptions_max = 10;
    subscribe_all(c, f);
}
static void publish_z(ptn_ctx *c, struct fixture *f) {
    publish(c, f, "z");
}

Test(hub, a_gateway_hears_whether_it_will_get_everything) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {all_without_room, publish_z,
                                                                 all_with_room, publish_z, NULL};
    run(&f, 1, steps);
    cr_assert_str_eq(f.client[0].seen, "!** +**@0 z:2 ");
    cr_assert_eq(f.client[0].code, -1);
}

static void limit_one(ptn_ctx *c, struct fixture *f) {
    f->hub[0]->limits.sink_subscriptions_max = 1;
    subscribe(c, f, 0, "t");
}
static void limit_all(ptn_ctx *c, struct fixture *f) {
    f->hub[0]->limits.subscriptions_max = 1;
    subscribe(c, f, 0, "t");
    subscribe(c, f, 0, "u");
    subscribe(c, f, 0, "t.*");
}

Test(hub, moving_a_subscription_needs_no_room) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {subscribe_t, limit_one, limit_all,
                                                                 one_event, NULL};
    run(&f, 1, steps);
    cr_assert_str_eq(f.client[0].seen, "+t@0 +t@0 !u !t.* +t@0 t:1 ");
}

/* ---- closing and crashing ----------------------------------------------------------------- */

static void close_1(ptn_ctx *c, struct fixture *f) {
    for (unsigned i = 0; i < 3; i++)
        subscribe(c, f, i, "t");
    f->client[1].close_at_first = true;
}
static void close_2(ptn_ctx *c, struct fixture *f) {
    publish(c, f, "t");
    publish(c, f, "t");
}

Test(hub, a_sink_may_close_itself_during_a_fan_out) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {close_1, close_2, NULL};
    run(&f, 1, steps);
    cr_assert_str_eq(f.client[0].seen, "+t@0 t:1 t:2 ");
    cr_assert_str_eq(f.client[1].seen, "+t@0 t:1 ");
    cr_assert_str_eq(f.client[2].seen, "+t@0 t:1 t:2 ");
}

static void crash_topics(ptn_ctx *c, struct fixture *f) {
    /* A malformed internal message fails the actor. */
    cr_assert_eq(ptn_cast(c, f->d.topics[0], PTN_MSG_TOPIC_PUBLISH, NULL), 0);
}

Test(hub, subscribers_are_reset_when_the_owner_restarts) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {close_1, crash_topics, subscribe_t,
                                                                 NULL};
    run(&f, 1, steps);
    cr_assert_eq(f.rig.restarts, 1);
    cr_assert_eq(f.client[0].resets, 1);
    cr_assert_eq(f.client[2].resets, 1);
}

static void crash_hub(ptn_ctx *c, struct fixture *f) {
    cr_assert_eq(ptn_cast(c, f->d.hub[0], PTN_MSG_EVENT, NULL), 0);
}
static void after_hub_crash(ptn_ctx *c, struct fixture *f) {
    f->client[3].close_at_first = false;
    subscribe(c, f, 3, "t");
}

Test(hub, sinks_are_reset_when_the_hub_restarts) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {close_1, crash_hub,
                                                                 after_hub_crash, close_2, NULL};
    run(&f, 1, steps);
    cr_assert_eq(f.client[0].resets, 1);
    cr_assert_str_eq(f.client[3].seen, "+t@0 t:1 t:2 ");
}

static void evict(ptn_ctx *c, struct fixture *f) {
    ptn_pack w;
    ptn_pack_init(&w, 32);
    ptn_pack_array(&w, 2);
    ptn_pack_cstr(&w, "t");
    ptn_pack_cstr(&w, "u1");
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_eq(ptn_cast(c, f->d.hub[0], PTN_MSG_HUB_EVICT, b), 0);
}

Test(hub, an_evicted_user_hears_of_it_and_no_more_events) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {subscribe_t, evict, close_2, NULL};
    run(&f, 1, steps);
    cr_assert_str_eq(f.client[0].seen, "+t@0 !t ");
    cr_assert_eq(f.client[0].code, PTN_CODE_FORBIDDEN);
}

static void bad_names(ptn_ctx *c, struct fixture *f) {
    static const char *const names[] = {"", "a..b", "a b", "**.a", "a.*b"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(names); i++)
        subscribe(c, f, 0, names[i]);
}

Test(hub, bad_names_are_refused) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {bad_names, NULL};
    run(&f, 1, steps);
    cr_assert_eq(f.client[0].code, PTN_CODE_INVALID_REQUEST);
    cr_assert_str_eq(f.client[0].seen, "! !a..b !a b !**.a !a.*b ");
}

/* ---- slow sinks --------------------------------------------------------------------------- */

/* One client per policy, all of them full after their first event. */
static void slow_subscribe(ptn_ctx *c, struct fixture *f) {
    static const enum ptn_policy policies[] = {PTN_POLICY_DROP_OLDEST, PTN_POLICY_DROP_NEWEST,
                                               PTN_POLICY_LATEST, PTN_POLICY_DEFAULT};
    for (unsigned i = 0; i < PTN_ARRAY_LEN(policies); i++) {
        f->client[i].policy = policies[i];
        f->client[i].load = PTN_SINK_FULL;
        subscribe(c, f, i, "t");
    }
}
static void six_events(ptn_ctx *c, struct fixture *f) {
    for (int i = 0; i < 6; i++)
        publish(c, f, "t");
}
static void all_writable(ptn_ctx *c, struct fixture *f) {
    for (unsigned i = 0; i < PTN_ARRAY_LEN(f->client); i++) {
        f->client[i].load = PTN_SINK_FREE;
        ptn_hub_sink_writable(c, f->hub[0], f->client[i].id);
    }
}
static void keep_three(ptn_ctx *c, struct fixture *f) {
    (void)c;
    f->hub[0]->limits.held_events_max = 3;
}

Test(hub, a_slow_sink_loses_what_its_policy_says_and_hears_of_it) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {
        keep_three, slow_subscribe, six_events, all_writable, one_event, NULL};
    run(&f, 1, steps);
    cr_expect_str_eq(f.client[0].seen, "+t@0 t:1 gap:t:2-3:slow_consumer t:4 t:5 t:6 t:7 ");
    cr_expect_str_eq(f.client[1].seen, "+t@0 t:1 gap:t:2-6:slow_consumer t:7 ");
    cr_expect_str_eq(f.client[2].seen, "+t@0 t:1 t:6 t:7 ", "no gap: 6 stands for 2 to 5");
    cr_expect_str_eq(f.client[3].seen, "+t@0 t:1 t:2 t:3 t:4 t:5 t:6 t:7 ", "disconnect queues on");
}

static void slow_pattern(ptn_ctx *c, struct fixture *f) {
    f->client[0].policy = PTN_POLICY_LATEST;
    f->client[0].load = PTN_SINK_FULL;
    subscribe(c, f, 0, "p.*");
}
static void pattern_events(ptn_ctx *c, struct fixture *f) {
    publish(c, f, "p.a");
    for (int i = 0; i < 3; i++) {
        publish(c, f, "p.a");
        publish(c, f, "p.b");
    }
}

Test(hub, a_slow_pattern_keeps_the_latest_of_each_topic) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {slow_pattern, pattern_events,
                                                                 all_writable, NULL};
    run(&f, 1, steps);
    cr_expect_str_eq(f.client[0].seen, "+p.*@0 p.a:1 p.a:4 p.b:3 ");
}

/* ---- conflation ---------------------------------------------------------------------------- */

static void latest_subscribe(ptn_ctx *c, struct fixture *f) {
    for (unsigned i = 0; i < 3; i++) {
        f->client[i].policy = PTN_POLICY_LATEST;
        f->client[i].every_ms = i == 2 ? 0 : 10;
        subscribe(c, f, i, i == 1 ? "t.*" : "t.a");
    }
}
static void two_topics(ptn_ctx *c, struct fixture *f) {
    publish(c, f, "t.a");
    publish(c, f, "t.a");
    publish(c, f, "t.b");
}
static void nothing(ptn_ctx *c, struct fixture *f) {
    (void)c, (void)f;
}
#define TEN_MS                                                                                     \
    nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing

Test(hub, a_rate_is_kept_and_the_newest_always_comes) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {
        latest_subscribe, TEN_MS, two_topics, two_topics, TEN_MS,     two_topics, two_topics,
        two_topics,       TEN_MS, TEN_MS,     TEN_MS,     two_topics, TEN_MS,     NULL};
    const uint64_t before = counter(PTN_C_CONFLATED);
    run(&f, 1, steps);
    cr_expect_str_eq(f.client[2].seen,
                     "+t.a@0 t.a:1 t.a:2 t.a:3 t.a:4 t.a:5 t.a:6 t.a:7 t.a:8 "
                     "t.a:9 t.a:10 t.a:11 t.a:12 ",
                     "no rate, and a sink that is free: everything");
    for (unsigned i = 0; i < 2; i++) {
        const char *at = f.client[i].seen;
        unsigned n = 0;
        uint64_t last = 0;
        while ((at = strstr(at, " t.a:")) != NULL) {
            const uint64_t offset = strtoull(at + 5, NULL, 10);
            cr_expect_gt(offset, last, "%s", f.client[i].seen);
            last = offset;
            at += 5;
            n++;
        }
        /* Three bursts, of which each spans two intervals at most. */
        cr_expect(n >= 5 && n <= 9, "%s", f.client[i].seen);
        cr_expect_eq(last, 12);
        cr_expect_null(strstr(f.client[i].seen, "gap"));
    }
    cr_expect_not_null(strstr(f.client[1].seen, "t.b:6 "), "%s", f.client[1].seen);
    cr_expect_geq(counter(PTN_C_CONFLATED), before + 6);
}

static void all_stuck(ptn_ctx *c, struct fixture *f) {
    (void)c;
    for (unsigned i = 0; i < 3; i++)
        f->client[i].stuck = true;
}
static void all_taken(ptn_ctx *c, struct fixture *f) {
    for (unsigned i = 0; i < 3; i++)
        f->client[i].stuck = false;
    all_writable(c, f);
}

Test(hub, one_event_waits_while_the_connection_has_the_one_before) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {
        latest_subscribe, two_topics, TEN_MS,    all_stuck, two_topics, two_topics, TEN_MS,
        two_topics,       TEN_MS,     all_taken, TEN_MS,    two_topics, TEN_MS,     NULL};
    run(&f, 1, steps);
    cr_expect_str_eq(f.client[2].seen, "+t.a@0 t.a:1 t.a:2 t.a:8 t.a:9 t.a:10 ");
    cr_expect_str_eq(f.client[0].seen, "+t.a@0 t.a:1 t.a:2 t.a:8 t.a:9 t.a:10 ");
    cr_expect_str_eq(f.client[1].seen, "+t.*@0 t.a:1 t.b:1 t.a:2 t.a:8 t.b:4 t.a:9 t.b:5 t.a:10 ");
}

static void latest_together(ptn_ctx *c, struct fixture *f) {
    for (unsigned i = 0; i < PTN_ARRAY_LEN(f->client); i++) {
        f->client[i].policy = PTN_POLICY_LATEST;
        f->client[i].every_ms = 10;
        subscribe(c, f, i, "t.a");
    }
}
static void two_in_a_turn(ptn_ctx *c, struct fixture *f) {
    (void)c;
    f->hub[0]->limits.latest_turn_max = 2;
}

Test(hub, intervals_end_together_but_for_what_would_hold_up_the_others) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {
        latest_together, TEN_MS, two_topics, TEN_MS, TEN_MS, NULL};
    static void (*const bounded[])(ptn_ctx *, struct fixture *) = {
        latest_together, two_in_a_turn, TEN_MS, two_topics, TEN_MS, TEN_MS, NULL};
    for (unsigned k = 0; k < 2; k++) {
        run(&f, 1, k == 0 ? steps : bounded);
        ptn_time first = PTN_NEVER, last = 0;
        for (unsigned i = 0; i < PTN_ARRAY_LEN(f.client); i++) {
            cr_expect_str_eq(f.client[i].seen, "+t.a@0 t.a:1 t.a:2 ");
            first = f.client[i].at < first ? f.client[i].at : first;
            last = f.client[i].at > last ? f.client[i].at : last;
        }
        cr_expect_eq(last > first, k == 1);
    }
}

static void keep_nothing(ptn_ctx *c, struct fixture *f) {
    latest_subscribe(c, f);
    f->hub[0]->limits.held_bytes_max = 64; /* one place and hardly an event */
}
static void keep_all(ptn_ctx *c, struct fixture *f) {
    (void)c;
    f->hub[0]->limits.held_bytes_max = 1 << 20;
}

Test(hub, what_cannot_be_kept_is_a_gap_unless_a_newer_one_comes) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {
        keep_nothing, all_stuck, two_topics, TEN_MS,    all_taken, TEN_MS, all_stuck,
        two_topics,   keep_all,  two_topics, all_taken, TEN_MS,    NULL};
    run(&f, 1, steps);
    cr_expect_str_eq(f.client[2].seen, "+t.a@0 gap:t.a:1-2:slow_consumer t.a:6 ");
    cr_expect_eq(f.client[0].resets, 0);
    cr_expect_eq(f.client[1].resets, 1, "no room for a second topic");
}

static void other_policies(ptn_ctx *c, struct fixture *f) {
    for (unsigned i = 0; i < 3; i++) {
        f->client[i].policy = PTN_POLICY_DISCONNECT;
        subscribe(c, f, i, i == 1 ? "t.*" : "t.a");
    }
}

Test(hub, another_policy_ends_conflation) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {
        latest_subscribe, all_stuck, two_topics, other_policies, two_topics, all_taken, NULL};
    run(&f, 1, steps);
    cr_expect_str_eq(f.client[2].seen, "+t.a@0 +t.a@2 t.a:3 t.a:4 ");
    cr_expect_str_eq(f.client[1].seen, "+t.*@0 +t.*@0 t.a:3 t.a:4 t.b:2 ");
}

static void stored_subscribe(ptn_ctx *c, struct fixture *f) {
    f->client[0].policy = PTN_POLICY_STORED;
    subscribe(c, f, 0, "t");
    f->client[1].policy = PTN_POLICY_STORED;
    subscribe(c, f, 1, "t.*");
}

Test(hub, the_store_is_no_policy_for_what_is_not_stored) {
    struct fixture f;
    static void (*const steps[])(ptn_ctx *, struct fixture *) = {stored_subscribe, one_event, NULL};
    run(&f, 1, steps);
    for (unsigned i = 0; i < 2; i++) {
        cr_expect_eq(f.client[i].code, PTN_CODE_INVALID_REQUEST);
        cr_expect_eq(f.client[i].seen[0], '!');
    }
}
