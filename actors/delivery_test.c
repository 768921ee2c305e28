/* SPDX-License-Identifier: Apache-2.0
 *
 * delivery_test.c - the delivery contract under a random course of events: hubs, topics,
 * conversations and the store, with overload, crashes, late answers, refused commits and clients
 * that come and go.
 *
 * Clients check what they see against the contract as it comes: an event follows the one before it,
 * in one epoch, and one position means one event for everybody.  When the storm is over, whoever
 * still listens must stand exactly where the owner stands, and the store must hold every
 * acknowledged message once, numbered without a hole.
 *
 * DELIVERY_SEEDS=first,count in the environment runs other seeds.
 */
#include "actors/delivery_testing.h"

static uint32_t chance(struct world *w, uint32_t n) { /* [0, n) */
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return (uint32_t)((w->rng >> 20) % n);
}

/* ---- what clients see ----------------------------------------------------------------------- */

static unsigned topic_index(ptn_str topic) {
    for (unsigned i = 0; i < TOPICS; i++)
        if (ptn_str_eqz(topic, topic_name[i]))
            return i;
    cr_assert(false, "an event of %.*s", (int)topic.n, topic.p);
    return 0;
}

static void text_of(char *out, size_t out_bytes, ptn_str s) {
    cr_assert_lt(s.n, out_bytes);
    memcpy(out, s.p, s.n);
    out[s.n] = '\0';
}

/* One position, one event. */
static void record(struct world *w, unsigned topic, const ptn_event *e) {
    struct epoch *p = &w->epochs[topic * EPOCHS];
    unsigned i = 0;
    while (i < EPOCHS && p[i].name[0] != '\0' && !ptn_str_eqz(e->epoch, p[i].name))
        i++;
    cr_assert_lt(i, EPOCHS);
    cr_assert(e->offset > 0 && e->offset < OFFSETS);
    text_of(p[i].name, sizeof p[i].name, e->epoch);
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t k = 0; k < e->data.n; k++)
        h = (h ^ e->data.p[k]) * UINT64_C(0x100000001b3);
    h += h == 0;
    uint64_t *known = &p[i].hash[e->offset];
    cr_assert(*known == 0 || *known == h, "seed %llu: two events at %s %llu",
              (unsigned long long)w->seed, topic_name[topic], (unsigned long long)e->offset);
    *known = h;
}

static void client_closed(struct client *cl) {
    cl->open = cl->full = false;
    cl->pattern = IDLE;
    cl->pattern_due = 0;
    for (unsigned i = 0; i < TOPICS; i++) {
        struct subscription *s = &cl->sub[i];
        s->resuming = s->epoch[0] != '\0';
        s->state = IDLE;
        s->leaving = false;
        s->answers_due = 0;
    }
}

static void on_subscribed(ptn_ctx *c, void *self, const ptn_subscribed *r) {
    struct client *cl = self;
    unsigned long long seed = cl->w->seed;
    (void)c;
    cr_assert(cl->open, "seed %llu: a closed sink was called", seed);
    if (r->tag != 0 && r->tag == cl->pattern_tag) {
        cr_assert_gt(cl->pattern_due--, 0);
        cl->pattern = r->code == -1 ? LIVE : IDLE;
        return;
    }
    struct subscription *s = &cl->sub[topic_index(r->topic)];
    if (r->tag == 0) { /* no longer a member */
        cr_assert_eq(r->code, PTN_CODE_FORBIDDEN);
        cl->w->evictions++;
        s->state = s->answers_due > 0 ? s->state : IDLE;
        s->epoch[0] = '\0';
        return;
    }
    cr_assert_gt(s->answers_due, 0, "seed %llu: an answer too many", seed);
    s->answers_due--;
    if (r->tag != s->tag)
        return; /* of one that was given up */
    s->leaving = false;
    s->state = r->code == -1 ? LIVE : IDLE;
    if (r->code != -1)
        return;
    if (r->recovered) {
        cr_assert(s->resuming && ptn_str_eqz(r->epoch, s->epoch) && s->at <= r->offset,
                  "seed %llu: recovered what was not asked for", seed);
    } else {
        text_of(s->epoch, sizeof s->epoch, r->epoch);
        s->at = r->offset;
    }
}

/* A client that does not keep up says so until its script has it read again. */
static enum ptn_sink_load load_of(struct client *cl) {
    struct world *w = cl->w;
    if (w->step < STORM_STEPS && chance(w, 6) == 0)
        cl->full = true;
    if (!cl->full)
        return PTN_SINK_FREE;
    return chance(w, 4) == 0 ? PTN_SINK_BUSY : PTN_SINK_FULL;
}

static bool on_taken(void *self) {
    return !((const struct client *)self)->full;
}

/* An event may stand for those before it. */
static bool may_conflate(const struct client *cl, const struct subscription *s) {
    return s->policy == PTN_POLICY_LATEST ||
           (cl->pattern != IDLE && cl->pattern_policy == PTN_POLICY_LATEST);
}

static enum ptn_sink_load on_deliver(ptn_ctx *c, void *self, ptn_event *e) {
    struct client *cl = self;
    struct world *w = cl->w;
    unsigned i = topic_index(e->topic);
    struct subscription *s = &cl->sub[i];
    const bool next = may_conflate(cl, s) ? e->offset > s->at : e->offset == s->at + 1;
    cr_assert(cl->open, "seed %llu: a closed sink was called", (unsigned long long)w->seed);
    record(w, i, e);
    w->delivered++;
    bool by_pattern = cl->pattern == LIVE;
    if (by_pattern) {
        cr_assert(s->epoch[0] == '\0' || (ptn_str_eqz(e->epoch, s->epoch) && next),
                  "seed %llu: a pattern sees %s %llu after %llu", (unsigned long long)w->seed,
                  topic_name[i], (unsigned long long)e->offset, (unsigned long long)s->at);
        text_of(s->epoch, sizeof s->epoch, e->epoch);
        s->at = e->offset;
    } else if (s->state == LIVE) {
        cr_assert(ptn_str_eqz(e->epoch, s->epoch) && next, "seed %llu: %s: %llu after %llu",
                  (unsigned long long)w->seed, topic_name[i], (unsigned long long)e->offset,
                  (unsigned long long)s->at);
        s->at = e->offset;
    } else {
        cr_assert(s->leaving, "seed %llu: an event of %s, which was not subscribed",
                  (unsigned long long)w->seed, topic_name[i]);
    }
    if (cl->closes_in_deliver) {
        cl->closes_in_deliver = false;
        ptn_hub_sink_close(c, w->hub[cl->worker], cl->sink);
        client_closed(cl);
    }
    return load_of(cl);
}

/* What is lost is said, exactly, and only where the client has agreed to it. */
static void on_gap(ptn_ctx *c, void *self, const ptn_gap *g) {
    struct client *cl = self;
    struct subscription *s = &cl->sub[topic_index(g->topic)];
    (void)c;
    cr_assert(cl->open);
    if (s->state != LIVE && cl->pattern != LIVE)
        return; /* of the subscription that this client has left */
    cr_assert(cl->pattern == LIVE || s->policy > PTN_POLICY_DISCONNECT);
    const bool next = may_conflate(cl, s) ? g->from > s->at : g->from == s->at + 1;
    cr_assert(s->epoch[0] == '\0' || (next && g->to >= g->from),
              "seed %llu: a gap from %llu to %llu after %llu", (unsigned long long)cl->w->seed,
              (unsigned long long)g->from, (unsigned long long)g->to, (unsigned long long)s->at);
    s->at = g->to;
    cl->w->gaps++;
}

static void on_reset(ptn_ctx *c, void *self) {
    struct client *cl = self;
    (void)c;
    cr_assert(cl->open);
    cl->w->resets++;
    client_closed(cl);
}

static const ptn_sink_ops sink_ops = {.taken = on_taken,
                                      .subscribed = on_subscribed,
                                      .deliver = on_deliver,
                                      .gap = on_gap,
                                      .reset = on_reset};

/* ---- what clients do ------------------------------------------------------------------------ */

static bool client_open(struct client *cl) {
    if (!cl->open)
        cl->open = ptn_hub_sink_open(cl->w->hub[cl->worker], &sink_ops, cl, ptn_str_of(cl->user),
                                     &cl->sink) == 0;
    return cl->open;
}

static int ask_hub(ptn_ctx *c, struct client *cl, uint64_t tag, const char *topic, ptn_position p,
                   enum ptn_policy policy) {
    const uint32_t every_ms =
        policy == PTN_POLICY_LATEST && chance(cl->w, 2) == 0 ? 1 + chance(cl->w, 20) : 0;
    return ptn_hub_subscribe(c, cl->w->hub[cl->worker], cl->sink, tag, ptn_str_of(topic), p, policy,
                             every_ms, PTN_ROLE_USER);
}

/* Half of the subscriptions leave it to the broker. */
static enum ptn_policy some_policy(struct world *w) {
    return chance(w, 2) == 0 ? PTN_POLICY_DEFAULT : 1 + chance(w, PTN_POLICY_STORED - 1);
}

static void subscribe(ptn_ctx *c, struct client *cl, unsigned topic) {
    struct subscription *s = &cl->sub[topic];
    if (s->state != IDLE || !client_open(cl))
        return;
    ptn_position since = {.epoch = ptn_str_of(s->resuming ? s->epoch : ""), .offset = s->at};
    uint64_t tag = ++cl->w->tags;
    s->policy = some_policy(cl->w);
    if (ask_hub(c, cl, tag, topic_name[topic], since, s->policy) == 0) {
        s->tag = tag;
        s->answers_due++;
        s->state = ASKED;
    }
}

static void subscribe_pattern(ptn_ctx *c, struct client *cl) {
    uint64_t tag = ++cl->w->tags;
    if (cl->pattern != IDLE || !client_open(cl))
        return;
    for (unsigned i = 0; i < TOPICS; i++)
        cl->sub[i].epoch[0] = '\0';
    cl->pattern_policy = some_policy(cl->w);
    if (ask_hub(c, cl, tag, cl->worker == 0 ? "t.*" : "**", (ptn_position){0},
                cl->pattern_policy) == 0) {
        cl->pattern_tag = tag;
        cl->pattern_due++;
        cl->pattern = ASKED;
    }
}

static void unsubscribe(ptn_ctx *c, struct client *cl, unsigned topic) {
    struct subscription *s = &cl->sub[topic];
    if (s->state == IDLE ||
        ptn_hub_unsubscribe(c, cl->w->hub[cl->worker], cl->sink, ptn_str_of(topic_name[topic])) < 0)
        return;
    s->resuming = s->state == LIVE || s->resuming;
    s->state = IDLE;
    s->leaving = true;
    s->tag = 0;
}

/* 202 of the durable topic. */
static void event_answered(struct sent *m, const ptn_response *r) {
    ptn_str level;
    cr_assert(ptn_map_get_uint(r->data, "offset", &m->acked_seq));
    cr_assert(ptn_map_get_str(r->data, "durability", &level) && ptn_str_eqz(level, "synced"));
    m->w->n_events_acked++;
}

static void answered(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct sent *m = arg;
    ptn_response r;
    uint64_t seq;
    (void)c, (void)state;
    if (m == NULL || err != 0 || reply->type != PTN_MSG_RESPONSE ||
        !ptn_response_unpack(ptn_msg_bytes(reply), &r) || r.status >= 300)
        return;
    if (m->topic == DURABLE) {
        event_answered(m, &r);
        return;
    }
    cr_assert(ptn_map_get_uint(r.data, "seq", &seq));
    cr_assert(m->acked_seq == 0 || m->acked_seq == seq, "seed %llu: %s was stored twice",
              (unsigned long long)m->w->seed, m->id);
    m->w->n_acked += m->acked_seq == 0;
    m->acked_seq = seq;
}

/* The same, asked as frames ask. */
static void published(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct sent *m = arg;
    uint32_t n;
    ptn_str epoch;
    uint64_t offset, level;
    (void)c, (void)state;
    if (m == NULL || err != 0 || reply->type != PTN_MSG_PUBLISHED)
        return;
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    cr_assert(ptn_unpack_array(&u, &n) && n == 3 && ptn_unpack_str(&u, &epoch) &&
              ptn_unpack_uint(&u, &offset) && ptn_unpack_uint(&u, &level));
    cr_assert_eq(level, PTN_DURABILITY_SYNCED);
    m->acked_seq = offset;
    m->w->n_events_acked++;
}

static ptn_time patience(struct world *w) {
    bool hurried = w->step == LAST_CHANGE + 1 || chance(w, 3) == 0;
    return hurried ? chance(w, 8) * PTN_MS : 5 * PTN_SEC;
}

static void call_publish(ptn_ctx *c, struct world *w, ptn_addr to, const char *topic,
                         ptn_buf *take_data, struct sent *m) {
    const ptn_publish_call call = {.topic = ptn_str_of(topic),
                                   .user = PTN_STR("u1"),
                                   .durability = PTN_DURABILITY_DEFAULT,
                                   .data = ptn_buf_bytes(take_data)};
    ptn_pack p;
    ptn_pack_init(&p, 256);
    ptn_publish_pack(&p, &call);
    ptn_buf_unref(take_data);
    ptn_buf *b = ptn_pack_finish(&p);
    if (ptn_ask(c, to, PTN_MSG_PUBLISH, b, ptn_now(c) + patience(w), published, m, NULL) < 0)
        ptn_buf_unref(b);
}

/* key: value is the body; a value of -1 stands for text. */
static void request(ptn_ctx *c, struct world *w, ptn_addr to, uint32_t route, const char *path,
                    ptn_buf *take_body, struct sent *m) {
    static const uint8_t trace[16] = {1};
    ptn_request r = {.method = PTN_POST,
                     .path = ptn_str_of(path),
                     .principal = {.user = PTN_STR("u1"),
                                   .name = PTN_STR("u1"),
                                   .roles = PTN_ROLE_USER,
                                   .expires_ms = INT64_MAX},
                     .trace_id = {trace, sizeof trace},
                     .parent_span = {trace, 8}};
    ptn_pack p;
    ptn_pack_init(&p, 256);
    ptn_request_begin(&p, &r);
    ptn_pack_raw(&p, ptn_buf_bytes(take_body));
    ptn_buf_unref(take_body);
    ptn_buf *b = ptn_pack_finish(&p);
    if (ptn_ask(c, to, route, b, ptn_now(c) + patience(w), answered, m, NULL) < 0)
        ptn_buf_unref(b);
}

static ptn_buf *pair(const char *key, const char *value, const char *key2, const char *value2) {
    ptn_pack p;
    ptn_pack_init(&p, 128);
    ptn_pack_map(&p, key2 != NULL ? 2 : 1);
    ptn_pack_key(&p, key);
    ptn_pack_cstr(&p, value);
    if (key2 != NULL) {
        ptn_pack_key(&p, key2);
        ptn_pack_cstr(&p, value2);
    }
    return ptn_pack_finish(&p);
}

static void publish(ptn_ctx *c, struct world *w, unsigned topic, bool by_request) {
    ptn_addr to = ptn_topic_owner(&w->d, ptn_str_of(topic_name[topic]));
    if (by_request) {
        char path[64], value[32];
        (void)snprintf(path, sizeof path, "/api/v1/topics/%s", topic_name[topic]);
        (void)snprintf(value, sizeof value, "%llu", (unsigned long long)++w->values);
        struct sent *m = NULL;
        if (topic == DURABLE && w->with_store && w->n_sent < SENDS) {
            m = &w->sent[w->n_sent++];
            m->w = w;
            m->topic = topic;
            memcpy(m->value, value, sizeof value);
        }
        ptn_buf *data = pair("v", value, NULL, NULL);
        if (chance(w, 2) == 0)
            request(c, w, to, PTN_MSG_ROUTE_TOPIC_POST, path, data, m);
        else
            call_publish(c, w, to, topic_name[topic], data, m);
        return;
    }
    ptn_buf *b = packed("si", topic_name[topic], (int64_t)++w->values);
    if (ptn_cast(c, to, PTN_MSG_TOPIC_PUBLISH, b) < 0)
        ptn_buf_unref(b);
}

/* A new message, or one of the last again, which is how clients make sure. */
static void send_message(ptn_ctx *c, struct world *w, unsigned topic) {
    if (w->n_sent == SENDS)
        return;
    bool again = w->n_sent > 0 && chance(w, 3) == 0;
    struct sent *m =
        again ? &w->sent[w->n_sent - 1 - chance(w, w->n_sent < 8 ? w->n_sent : 8)] : NULL;
    again = again && m->topic != DURABLE;
    m = again ? m : &w->sent[w->n_sent++];
    if (!again) {
        m->w = w;
        m->topic = topic;
        ptn_ulid(c, m->id);
    }
    const char *conversation = topic_name[m->topic] + strlen("conversation.");
    char path[96];
    (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/messages", conversation);
    request(c, w, ptn_topic_owner(&w->d, ptn_str_of(topic_name[m->topic])),
            PTN_MSG_ROUTE_MSG_SEND_TO, path, pair("id", m->id, "content", m->id), m);
}

static void change_members(ptn_ctx *c, struct world *w, unsigned topic, bool add) {
    char path[96];
    (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/members",
                   topic_name[topic] + strlen("conversation."));
    request(c, w, ptn_topic_owner(&w->d, ptn_str_of(topic_name[topic])),
            add ? PTN_MSG_ROUTE_MEMBERS_ADD : PTN_MSG_ROUTE_MEMBERS_REMOVE, path,
            pair("userId", "u2", NULL, NULL), NULL);
}

/* Malformed internal messages fail their actor. */
static void crash(ptn_ctx *c, struct world *w) {
    unsigned i = chance(w, WORKERS);
    if (w->crashes++ >= CRASHES_MAX)
        return;
    switch (chance(w, w->with_store ? 3 : 2)) {
    case 0:
        (void)ptn_cast(c, w->d.hub[i], PTN_MSG_EVENT, NULL);
        break;
    case 1:
        (void)ptn_cast(c, w->d.topics[i], PTN_MSG_TOPIC_PUBLISH, NULL);
        break;
    default:
        (void)ptn_cast(c, w->d.conversation[i], PTN_MSG_TOPIC_ATTACH, NULL);
        break;
    }
}

static void set_lock(struct world *w, bool on) {
    if (!w->with_store || w->locked == on)
        return;
    if (sqlite3_exec(w->locker, on ? "BEGIN IMMEDIATE" : "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK)
        w->locked = on;
}

static void do_something(ptn_ctx *c, struct world *w, unsigned worker) {
    unsigned topics = w->with_store ? TOPICS : PUBLIC_TOPICS, topic = chance(w, topics);
    unsigned conversation = PUBLIC_TOPICS + chance(w, CONVERSATIONS);
    struct client *cl = &w->client[worker + WORKERS * chance(w, CLIENTS / WORKERS)];
    bool is_pattern = cl >= &w->client[CLIENTS - PATTERN_CLIENTS];
    uint32_t dice = chance(w, 1000);
    if (dice < 300) {
        publish(c, w, chance(w, PUBLIC_TOPICS), dice < 60);
    } else if (dice < 600) {
        if (w->with_store)
            send_message(c, w, conversation);
        else
            publish(c, w, chance(w, PUBLIC_TOPICS), false);
    } else if (dice < 850) {
        if (is_pattern)
            subscribe_pattern(c, cl);
        else
            subscribe(c, cl, topic);
    } else if (dice < 900) {
        if (!is_pattern && cl->open)
            unsubscribe(c, cl, topic);
    } else if (dice < 920) {
        if (cl->open) {
            ptn_hub_sink_close(c, w->hub[worker], cl->sink);
            client_closed(cl);
        }
    } else if (dice < 930) {
        cl->closes_in_deliver = true;
    } else if (dice < 980) {
        if (w->with_store && w->step < LAST_CHANGE)
            change_members(c, w, conversation, chance(w, 2) == 0);
    } else if (dice < 990) {
        set_lock(w, !w->locked);
    } else if (dice < 992) {
        w->rig.env->now += 11 * PTN_SEC; /* every deadline passes with its message under way */
    } else if (dice < 996) {
        crash(c, w);
    }
}

/* ---- the course: storm, calm, judgement ----------------------------------------------------- */

static void judge(struct world *w, bool patterns) {
    unsigned long long seed = w->seed;
    for (unsigned k = 0; k < CLIENTS; k++) {
        struct client *cl = &w->client[k];
        const struct client *j = &w->client[CLIENTS + cl->worker];
        cr_assert_eq(cl->pattern_due, 0, "seed %llu: a pattern waits for ever", seed);
        for (unsigned i = 0; i < TOPICS && cl->open; i++) {
            const struct subscription *s = &cl->sub[i], *truth = &j->sub[i];
            cr_assert_eq(s->answers_due, 0, "seed %llu: client %u waits for %s for ever", seed, k,
                         topic_name[i]);
            if (s->state != LIVE && !(patterns && cl->pattern == LIVE && i < PUBLIC_TOPICS))
                continue;
            cr_assert(truth->state == LIVE && strcmp(s->epoch, truth->epoch) == 0 &&
                          s->at == truth->at,
                      "seed %llu: client %u stands at %s %s %llu, the owner at %s %llu", seed, k,
                      topic_name[i], s->epoch, (unsigned long long)s->at, truth->epoch,
                      (unsigned long long)truth->at);
        }
    }
}

static void script_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct script *p = arg;
    struct world *w = p->w;
    ptn_time next = chance(w, 4) * PTN_MS;
    (void)state;
    unsigned step = p->worker == 0 ? w->step++ : w->step;
    for (unsigned i = p->worker; i < CLIENTS; i += WORKERS) {
        struct client *cl = &w->client[i];
        if (!cl->open || !cl->full || (step < STORM_STEPS && chance(w, 4) != 0))
            continue;
        cl->full = false;
        ptn_hub_sink_writable(c, w->hub[p->worker], cl->sink);
    }
    if (w->with_store && p->worker == 0 && step == LAST_CHANGE)
        for (unsigned i = PUBLIC_TOPICS; i < TOPICS; i++)
            change_members(c, w, i, /* add= */ false);
    if (step < STORM_STEPS) {
        for (uint32_t n = chance(w, 12); n > 0; n--)
            do_something(c, w, p->worker);
    } else if (p->worker == 0) {
        unsigned topics = w->with_store ? TOPICS : PUBLIC_TOPICS;
        switch (step - STORM_STEPS) {
        case 0: /* calm: retries and catch-up come to their end, also for what a last burst lost */
            for (unsigned i = 0; i < 60; i++)
                publish(c, w, w->seed % PUBLIC_TOPICS, false);
            w->rig.env->chaos = false;
            set_lock(w, false);
            next = 100 * PTN_SEC;
            break;
        case 1:
            for (unsigned i = 0; i < topics; i++)
                subscribe(c, &w->client[CLIENTS], i);
            next = PTN_SEC;
            break;
        case 2: /* worker 1 has its turn */
            next = PTN_SEC;
            break;
        case 3:
            judge(w, false);
            for (unsigned i = 0; i < topics; i++) {
                if (i < PUBLIC_TOPICS)
                    publish(c, w, i, false);
                else
                    send_message(c, w, i);
            }
            next = 10 * PTN_SEC;
            break;
        default:
            judge(w, true);
            for (unsigned i = 0; i < CLIENTS + JUDGES; i++)
                ptn_hub_sink_close(c, w->hub[w->client[i].worker], w->client[i].sink);
            ptn_runtime_stop(w->rig.rt);
            return;
        }
    } else {
        if (step == STORM_STEPS + 2)
            for (unsigned i = 0; i < (w->with_store ? TOPICS : PUBLIC_TOPICS); i++)
                subscribe(c, &w->client[CLIENTS + 1], i);
        next = PTN_MS * 100;
    }
    ptn_timer_start(c, t, next, script_due, p);
}

static int script_init(ptn_ctx *c, void *state, void *arg) {
    struct script *p = arg;
    (void)state;
    ptn_timer_start(c, &p->timer, PTN_MS, script_due, p);
    return 0;
}

static int script_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops script_ops = {
    .name = "script", .init = script_init, .handle = script_handle};

/* ---- the whole ------------------------------------------------------------------------------ */

static ptn_addr spawn(struct world *w, const ptn_actor_ops *ops, void *arg, unsigned worker,
                      uint32_t msgs_max) {
    ptn_actor_opts o = {
        .worker = (int)worker, .mbox_msgs_max = msgs_max, .mbox_bytes_max = 64u << 20};
    ptn_addr a;
    cr_assert_eq(ptn_runtime_spawn(w->rig.rt, ops, &o, arg, PTN_PERMANENT, &a), 0);
    return a;
}

static void store_begin(struct world *w) {
    store_db *db;
    test_dir_open(&w->dir);
    cr_assert_eq(store_db_open(w->dir.db, NULL, &db, NULL), 0);
    for (unsigned i = 0; i < 2 + CONVERSATIONS; i++) {
        uint32_t type;
        const char *user = i == 0 ? "u1" : "u2";
        const char *id = topic_name[PUBLIC_TOPICS + (i >= 2 ? i - 2 : 0)] + strlen("conversation.");
        ptn_buf *b = i < 2 ? packed("sssiSi", user, user, "", (int64_t)1, NULL, (int64_t)1)
                           : packed("sSsis[ss]", id, NULL, "u1", (int64_t)1, "e0", "u1", "u2");
        ptn_buf_unref(store_db_execute(db, i < 2 ? PTN_MSG_STORE_USER_ADD : PTN_MSG_STORE_CONV_ADD,
                                       ptn_buf_bytes(b), &type));
        cr_assert_eq(type, i < 2 ? PTN_MSG_STORE_USER : PTN_MSG_STORE_CONV);
        ptn_buf_unref(b);
    }
    store_db_close(db);
    const char *why = "";
    store_config sc = {
        .path = w->dir.db, .rt = w->rig.rt, .db = {.busy_ms = 1}, .batch_max = 16, .jobs_max = 64};
    cr_assert_eq(store_open(&sc, &w->store, &why), 0, "%s", why);
    cr_assert_eq(sqlite3_open(w->dir.db, &w->locker), SQLITE_OK);
}

/* Whoever listens to a conversation is a member of it. */
static void check_members(struct world *w) {
    sqlite3_stmt *s;
    cr_assert_eq(sqlite3_prepare_v2(w->locker,
                                    "SELECT 1 FROM members WHERE conversation = ?1 AND user = ?2",
                                    -1, &s, NULL),
                 SQLITE_OK);
    for (unsigned k = 0; k < CLIENTS; k++)
        for (unsigned i = PUBLIC_TOPICS; i < TOPICS && w->client[k].open; i++) {
            if (w->client[k].sub[i].state != LIVE)
                continue;
            (void)sqlite3_bind_text(s, 1, topic_name[i] + strlen("conversation."), -1, NULL);
            (void)sqlite3_bind_text(s, 2, w->client[k].user, -1, NULL);
            cr_assert_eq(sqlite3_step(s), SQLITE_ROW, "seed %llu: client %u listens to %s",
                         (unsigned long long)w->seed, k, topic_name[i]);
            (void)sqlite3_reset(s);
        }
    (void)sqlite3_finalize(s);
}

/* Every acknowledged event of the durable topic at its offset, offsets without a hole. */
static unsigned check_event(const struct world *w, uint64_t offset, ptn_bytes data) {
    unsigned acked = 0;
    for (unsigned i = 0; i < w->n_sent; i++) {
        const struct sent *m = &w->sent[i];
        if (m->topic != DURABLE || m->acked_seq != offset)
            continue;
        cr_assert(map_str_is(data, "v", m->value), "seed %llu: another event at %llu",
                  (unsigned long long)w->seed, (unsigned long long)offset);
        acked++;
    }
    return acked;
}

static void check_events(struct world *w) {
    sqlite3_stmt *s;
    uint64_t offset = 0;
    unsigned acked = 0;
    cr_assert_eq(sqlite3_prepare_v2(
                     w->locker, "SELECT place & 0xffffffffff, data, n FROM topic_log ORDER BY 1",
                     -1, &s, NULL),
                 SQLITE_OK);
    while (sqlite3_step(s) == SQLITE_ROW) {
        ptn_bytes data = {sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1)};
        ptn_unpack u = ptn_unpack_of(data);
        int n = sqlite3_column_int(s, 2);
        for (int i = 0; i < n; i++) {
            ptn_bytes event;
            cr_assert(ptn_unpack_any(&u, &event));
            acked += check_event(w, ++offset, event);
            cr_assert(n == 1 || ptn_unpack_any(&u, NULL));
        }
        cr_assert_eq((uint64_t)sqlite3_column_int64(s, 0), offset, "seed %llu: a hole",
                     (unsigned long long)w->seed);
    }
    (void)sqlite3_finalize(s);
    cr_assert_eq(acked, w->n_events_acked, "seed %llu: %u of %u acknowledged events are stored",
                 (unsigned long long)w->seed, acked, w->n_events_acked);
}

/* Every acknowledged message once, numbers without a hole. */
static void store_end(struct world *w) {
    sqlite3_stmt *s;
    check_members(w);
    check_events(w);
    int64_t conversation = 0, seq = 0;
    unsigned rows = 0;
    cr_assert_eq(sqlite3_prepare_v2(w->locker,
                                    "SELECT m.conversation, m.seq, m.id, c.id FROM messages m JOIN"
                                    " conversations c ON c.key = m.conversation"
                                    " ORDER BY m.conversation, m.seq",
                                    -1, &s, NULL),
                 SQLITE_OK);
    while (sqlite3_step(s) == SQLITE_ROW) {
        if (sqlite3_column_int64(s, 0) != conversation) {
            conversation = sqlite3_column_int64(s, 0);
            seq = 0;
        }
        cr_assert_eq(sqlite3_column_int64(s, 1), ++seq, "seed %llu: a hole before %lld",
                     (unsigned long long)w->seed, (long long)seq);
        for (unsigned i = 0; i < w->n_sent; i++) {
            struct sent *m = &w->sent[i];
            if (m->acked_seq == 0 || m->topic == DURABLE ||
                strcmp(m->id, (const char *)sqlite3_column_text(s, 2)) != 0)
                continue;
            cr_assert_eq((int64_t)m->acked_seq, seq);
            cr_assert_str_eq((const char *)sqlite3_column_text(s, 3),
                             topic_name[m->topic] + strlen("conversation."));
            rows++;
        }
    }
    (void)sqlite3_finalize(s);
    cr_assert_eq(rows, w->n_acked, "seed %llu: %u of %u acknowledged messages are stored",
                 (unsigned long long)w->seed, rows, w->n_acked);
    (void)sqlite3_close(w->locker);
    test_dir_close(&w->dir);
}

static void run_seed(uint64_t seed, bool with_store, struct world *w) {
    uint64_t live = buf_live();
    memset(w, 0, sizeof *w);
    w->epochs = calloc(TOPICS * EPOCHS, sizeof *w->epochs);
    w->sent = calloc(SENDS, sizeof *w->sent);
    cr_assert(w->epochs != NULL && w->sent != NULL);
    w->seed = seed;
    w->rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    w->with_store = with_store;
    rig_open(&w->rig, WORKERS);
    w->rig.env->seed = w->rng | 1;
    w->rig.env->chaos = true;
    if (with_store)
        store_begin(w);
    w->d.workers = WORKERS;
    w->rule.pattern = ptn_str_of(topic_name[DURABLE]);
    if (with_store)
        w->d.store = spawn(w, &store_actor, w->store, 0, 256);
    for (unsigned i = 0; i < WORKERS; i++) {
        w->hub[i] = ptn_hub_new(NULL, &w->d, i);
        w->d.hub[i] = spawn(w, &ptn_hub_actor, w->hub[i], i, 24);
        w->topics[i] = (struct topics_config){.directory = &w->d,
                                              .shard = i,
                                              .history_events_max = 32,
                                              .rules = &w->rule,
                                              .n_rules = with_store};
        w->d.topics[i] = spawn(w, &topics_actor, &w->topics[i], i, 64);
        w->conversation[i] = (conversation_config){.directory = &w->d, .shard = i};
        w->d.conversation[i] =
            with_store ? spawn(w, &conversation_actor, &w->conversation[i], i, 64) : w->d.topics[i];
    }
    for (unsigned i = 0; i < CLIENTS + JUDGES; i++) {
        w->client[i] = (struct client){
            .w = w, .worker = i % WORKERS, .user = i < CLIENTS && i % 4 >= 2 ? "u2" : "u1"};
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        w->script[i] = (struct script){.w = w, .worker = i};
        (void)spawn(w, &script_ops, &w->script[i], i, 4096);
    }
    cr_assert_eq(ptn_runtime_run(w->rig.rt), 0, "seed %llu", (unsigned long long)seed);
    store_close(w->store);
    for (unsigned i = 0; i < WORKERS; i++)
        ptn_hub_free(w->hub[i]);
    rig_close(&w->rig);
    if (with_store)
        store_end(w);
    free(w->epochs);
    free(w->sent);
    cr_assert_eq(buf_live(), live, "seed %llu: messages leak", (unsigned long long)seed);
}

/* The storm must have been one: otherwise the test tests nothing. */
static void run_seeds(uint64_t first, uint64_t count, bool with_store) {
    static struct world w;
    uint64_t delivered = 0, resets = 0, restarts = 0, acked = 0, evictions = 0, gaps = 0;
    uint64_t events_acked = 0;
    const char *seeds = getenv("DELIVERY_SEEDS");
    unsigned long long a, b;
    if (seeds != NULL && sscanf(seeds, "%llu,%llu", &a, &b) == 2) {
        first = a;
        count = b;
    }
    for (uint64_t seed = first; seed < first + count; seed++) {
        run_seed(seed, with_store, &w);
        delivered += w.delivered;
        resets += w.resets;
        restarts += w.rig.restarts;
        acked += w.n_acked;
        events_acked += w.n_events_acked;
        evictions += w.evictions;
        gaps += w.gaps;
    }
    cr_log_info("%llu delivered, %llu resets, %llu restarts, %llu acknowledged, %llu evicted",
                (unsigned long long)delivered, (unsigned long long)resets,
                (unsigned long long)restarts, (unsigned long long)acked,
                (unsigned long long)evictions);
    cr_assert_gt(delivered, 1000 * count);
    cr_assert_gt(resets, count);
    cr_assert_gt(gaps, count);
    cr_assert_gt(restarts, count / 2);
    if (with_store) {
        cr_assert_gt(acked, 100 * count);
        cr_assert_gt(events_acked, 2 * count);
        cr_assert_gt(evictions, 0);
    }
}

Test(delivery, hubs_and_topics_keep_the_contract) {
    run_seeds(1, 40, false);
}

Test(delivery, conversations_and_the_store_keep_the_contract) {
    run_seeds(1001, 12, true);
}
