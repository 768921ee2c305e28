/* SPDX-License-Identifier: Apache-2.0
 *
 * hub.c - local fan-out: the sinks of one worker, their subscriptions, and delivery of events to
 * them.
 *
 * A subscription to an exact topic is granted by the topic's owner (TOPIC_ATTACH), which also
 * states the position.  The owner's answer and its events travel the same FIFO path, so a
 * subscription that starts at the answer misses nothing and sees nothing twice.  Patterns are in
 * hub_watch.c.
 *
 * An event whose offset is not the next one means that an event was lost between owner and hub (the
 * hub's mailbox was full): the subscribers of that topic are reset, never left with a silent hole.
 *
 * The ptn_hub outlives the actor: sinks are opened and closed by other actors of the same worker.
 * A closed sink leaves the table at once and its subscriptions at the hub's next message
 * (`graveyard`), because a close may come in the middle of a fan-out.
 *
 * An owner that has lost track (it restarted, or we refused an event) says OWNER_RESTARTED: whoever
 * listens to one of its topics is reset, patterns included, and comes back with its position.
 * Gateways have no position and no one to tell: for them the loss is counted.
 */
#include "actors/hub_internal.h"

#include <postern/metrics.h>

/* ---- delivery ----------------------------------------------------------------------------- */

struct fanout {
    ptn_ctx *c;
    ptn_hub *h;
    ptn_event *e;
    uint32_t delivered;
};

/* More subscribers than the cache holds: the first touch of each is most of what a delivery costs,
 * so it is begun some deliveries ahead. */
static inline void prefetch_slot(const struct hub_list *l, uint32_t i) {
    enum { AHEAD = 8 };
    if (i + AHEAD < l->n)
        __builtin_prefetch(l->slots[i + AHEAD].self);
}

/* Several lists match: a sink gets the event once. */
static void deliver_once(struct hub_list *l, void *arg) {
    struct fanout *f = arg;
    for (uint32_t i = 0; i < l->n; i++) {
        struct hub_slot *slot = &l->slots[i];
        if (slot->sub->sink->serial == f->h->serial)
            continue;
        slot->sub->sink->serial = f->h->serial;
        enum ptn_sink_load load = slot->deliver(f->c, slot->self, f->e);
        if (PTN_UNLIKELY(load == PTN_SINK_FULL))
            hub_flow_full(f->c, f->h, slot->sub, f->e->offset);
        f->delivered++;
    }
}

/* The hot loop.  Sinks may close themselves meanwhile: slots stay until hub_bury(). */
static uint32_t fan_out(ptn_ctx *c, ptn_hub *h, struct hub_topic *t, ptn_event *e) {
    uint32_t n = t != NULL ? t->list.n : 0;
    if (h->index.n_pattern_subs == 0) {
        for (uint32_t i = 0; i < n; i++) {
            struct hub_slot *slot = &t->list.slots[i];
            prefetch_slot(&t->list, i);
            if (PTN_UNLIKELY(slot->deliver(c, slot->self, e) == PTN_SINK_FULL))
                hub_flow_full(c, h, slot->sub, e->offset);
        }
    } else {
        struct fanout f = {c, h, e, 0};
        h->serial++;
        if (t != NULL)
            deliver_once(&t->list, &f);
        hub_index_match(&h->index, e->topic, deliver_once, &f);
        deliver_once(&h->index.all_reserved, &f);
        if (!ptn_topic_is_reserved(e->topic))
            deliver_once(&h->index.all_public, &f);
        n = f.delivered;
    }
    hub_forms_release(e);
    return n;
}

void hub_reset_sink(ptn_ctx *c, ptn_hub *h, struct hub_sink *s) {
    if (hub_sink_of(h, hub_sink_id(s)) != s)
        return; /* closed, and not buried yet: who opened it may be gone */
    const ptn_sink_ops *ops = s->ops;
    void *self = s->self;
    ptn_hub_sink_close(c, h, hub_sink_id(s));
    ops->reset(c, self);
}

static void reset_topic(ptn_ctx *c, ptn_hub *h, struct hub_topic *t) {
    for (uint32_t i = 0; i < t->list.n; i++) {
        struct hub_sink *s = t->list.slots[i].sub->sink;
        if (hub_sink_of(h, hub_sink_id(s)) == s) {
            ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
            hub_reset_sink(c, h, s);
        }
    }
}

/* Subscribers whose policy is the store read there what was lost; the others must come back and
 * resume. */
static void mend_topic(ptn_ctx *c, ptn_hub *h, struct hub_topic *t) {
    for (uint32_t i = 0; i < t->list.n; i++) {
        struct hub_sub *sub = t->list.slots[i].sub;
        struct hub_sink *s = sub->sink;
        if (hub_sink_of(h, hub_sink_id(s)) != s || sub->flow != NULL)
            continue;
        if (sub->policy == PTN_POLICY_STORED) {
            hub_flow_from(c, h, sub, t->offset);
        } else {
            ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
            hub_reset_sink(c, h, s);
        }
    }
}

/* Events were lost on the way here, after the topic's offset. */
static void lost_events(ptn_ctx *c, ptn_hub *h, struct hub_topic *t, ptn_str epoch) {
    if (t->stored && ptn_str_eq(epoch, (ptn_str){t->epoch, t->epoch_bytes}))
        mend_topic(c, h, t);
    else
        reset_topic(c, h, t);
}

static void detach(ptn_ctx *c, ptn_hub *h, ptn_str topic) {
    ptn_pack w;
    ptn_pack_init(&w, 16 + topic.n);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, topic);
    /* A refusal is harmless: the owner's next event finds no subscriber and comes here again. */
    (void)hub_cast(c, ptn_topic_owner(h->directory, topic), PTN_MSG_TOPIC_DETACH, &w);
}

static void release_topic(ptn_ctx *c, ptn_hub *h, struct hub_topic *t) {
    char name[PTN_TOPIC_BYTES_MAX];
    uint32_t n = t->name_bytes;
    memcpy(name, t->name, n);
    if (hub_index_topic_release(&h->index, t))
        detach(c, h, (ptn_str){name, n});
}

static int on_event(ptn_ctx *c, ptn_hub *h, const ptn_msg *m) {
    ptn_event e;
    if (!hub_event_read(m->buf, &e))
        return -PTN_EPROTO;
    struct hub_topic *t = hub_index_topic(&h->index, e.topic, false);
    uint32_t delivered = 0;
    if (t != NULL && t->list.n == 0 && t->pending == 0) {
        release_topic(c, h, t);
        t = NULL;
    } else if (t == NULL && h->index.n_pattern_subs == 0) {
        detach(c, h, e.topic);
    }
    if (t != NULL && t->epoch_bytes > 0) {
        ptn_str epoch = {t->epoch, t->epoch_bytes};
        if (t->list.n > 0 && (e.offset != t->offset + 1 || !ptn_str_eq(e.epoch, epoch)))
            lost_events(c, h, t, e.epoch);
        t->offset = e.offset;
    }
    if (t != NULL || h->index.n_pattern_subs > 0) {
        ptn_time begin = ptn_clock(c);
        delivered = fan_out(c, h, t, &e);
        if (delivered > 0)
            ptn_observe_ns(PTN_H_FANOUT, ptn_clock(c) - begin);
    }
    if (m->corr == 0)
        return 0;
    ptn_pack w;
    ptn_pack_init(&w, 16);
    ptn_pack_array(&w, 1);
    ptn_pack_uint(&w, delivered);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL || ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_EVENT_COUNT, b) < 0)
        ptn_buf_unref(b);
    return 0;
}

/* ---- subscribing -------------------------------------------------------------------------- */

static void leave(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct hub_sub *sub) {
    struct hub_topic *t = hub_list_topic(sub->list);
    if (hub_cursor_is_fed(sub->cursor))
        s->n_fed--;
    else
        s->n_subs--;
    hub_cursor_leave(c, sub->cursor);
    hub_sub_remove(&h->index, sub);
    if (t != NULL)
        release_topic(c, h, t);
}

/* Replays what the owner sent along, to this sink only. */
static void replay(ptn_ctx *c, ptn_hub *h, ptn_sink_id id, const ptn_subscribed *r,
                   ptn_unpack history) {
    uint32_t n, pair;
    if (!ptn_unpack_array(&history, &n))
        return;
    for (; n > 0; n--) {
        ptn_event e = {.topic = r->topic, .epoch = r->epoch};
        struct hub_sink *s = hub_sink_of(h, id); /* it may close itself on the way */
        if (s == NULL || !ptn_unpack_array(&history, &pair) || pair != 2 ||
            !ptn_unpack_uint(&history, &e.offset) || !ptn_unpack_any(&history, &e.data))
            return;
        s->ops->deliver(c, s->self, &e);
        hub_forms_release(&e);
    }
}

/* The owner states a position.  Those who listen already have heard everything up to it, unless an
 * event was lost on the way here: then they must not go on from the new position as if nothing was.
 */
static bool has_hole(const struct hub_topic *t, ptn_str epoch, uint64_t offset) {
    return t->list.n > 0 &&
           (offset != t->offset || !ptn_str_eq(epoch, (ptn_str){t->epoch, t->epoch_bytes}));
}

static void granted(ptn_ctx *c, ptn_hub *h, struct hub_attach *a, const ptn_msg *reply) {
    struct hub_topic *t = a->topic;
    struct hub_sink *s = hub_sink_of(h, a->sink);
    ptn_subscribed r = {.tag = a->tag, .topic = {t->name, t->name_bytes}, .code = -1};
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    uint32_t n;
    bool stored;
    if (!ptn_unpack_array(&u, &n) || n != 5 || !ptn_unpack_str(&u, &r.epoch) ||
        r.epoch.n > HUB_EPOCH_BYTES_MAX || !ptn_unpack_uint(&u, &r.offset) ||
        !ptn_unpack_bool(&u, &r.recovered) || !ptn_unpack_bool(&u, &stored)) {
        hub_refuse(c, s, a->tag, r.topic, PTN_CODE_INTERNAL, "the topic's owner gave a bad answer");
        return;
    }
    if (a->policy == PTN_POLICY_STORED && !stored) { /* never of a feed: those are conversations */
        hub_refuse(c, s, a->tag, r.topic, PTN_CODE_INVALID_REQUEST,
                   "policy \"stored\" is only for conversations and durable topics");
        return;
    }
    t->stored = stored;
    if (has_hole(t, r.epoch, r.offset)) {
        lost_events(c, h, t, r.epoch);
        s = hub_sink_of(h, a->sink);
        if (s == NULL)
            return; /* it had subscribed before and was reset with the others */
    }
    memcpy(t->epoch, r.epoch.p, r.epoch.n);
    t->epoch_bytes = (uint8_t)r.epoch.n;
    t->offset = r.offset;
    if (a->item == NULL)
        hub_feed_precede(c, h, s, t);
    if (hub_sink_of(h, a->sink) != s)
        return; /* no memory for it */
    bool joined = hub_find_sub(s, &t->list) != NULL;
    struct hub_sub *sub = hub_join(h, s, &t->list, a->policy, a->item != NULL);
    if (sub == NULL && a->item != NULL) {
        hub_feed_no_room(c, h, s, &a->item);
        return;
    }
    if (sub == NULL) {
        hub_refuse_full(c, h, s, a->tag, r.topic, a->item != NULL);
        return;
    }
    if (a->item != NULL) {
        hub_feed_granted(c, h, sub, a->item, joined);
        return;
    }
    sub->every_ms = a->every_ms;
    bool resumes = a->since_given && r.recovered;
    if ((resumes && sub->cursor != NULL) || hub_cursor_is_fed(sub->cursor) ||
        hub_cursor_is_behind(sub->cursor)) {
        hub_cursor_take(c, sub->cursor, resumes ? &a->since_offset : NULL, &r);
        if (!resumes)
            return;
    }
    hub_flow_drop(sub); /* it had subscribed before: this is its new position */
    s->ops->subscribed(c, s->self, &r);
    if (!stored)
        replay(c, h, a->sink, &r, u);
    else if (r.recovered && a->since_offset < r.offset && hub_sink_of(h, a->sink) == s)
        hub_flow_from(c, h, sub, a->since_offset);
}

static void attach_ended(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct hub_attach *a = arg;
    ptn_hub *h = a->hub;
    struct hub_sink *s = hub_sink_of(h, a->sink);
    struct hub_topic *t = a->topic;
    ptn_problem p;
    (void)state;
    if (s != NULL && a->canceled) {
        hub_refuse(c, s, a->tag, (ptn_str){t->name, t->name_bytes}, PTN_CODE_CONFLICT,
                   hub_canceled_text);
    } else if (s != NULL && a->item != NULL &&
               (err != 0 || reply->type != PTN_MSG_TOPIC_ATTACHED)) {
        hub_feed_refused(c, h, s, &a->item, err, reply);
    } else if (s != NULL) {
        if (err == 0 && reply->type == PTN_MSG_TOPIC_ATTACHED) {
            granted(c, h, a, reply);
        } else {
            const char *message;
            int code = ptn_code_of_err(err, &message);
            char text[160];
            if (err == 0 && ptn_problem_unpack(ptn_msg_bytes(reply), &p)) {
                size_t n = p.message.n < sizeof text - 1 ? p.message.n : sizeof text - 1;
                memcpy(text, p.message.p, n);
                text[n] = '\0';
                code = p.code;
                message = text;
            }
            hub_refuse(c, s, a->tag, (ptn_str){t->name, t->name_bytes}, code, message);
        }
    }
    t->pending--;
    hub_attach_end(h, a);
    release_topic(c, h, t);
    hub_feed_go_on(c, h);
    hub_report_subscriptions(h);
}

int hub_attach_topic(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct hub_attach *a,
                     ptn_position since, uint64_t roles) {
    ptn_str topic = {a->name, a->name_bytes};
    struct hub_topic *t = hub_index_topic(&h->index, topic, true);
    int r = -PTN_ENOMEM;
    if (t != NULL) {
        a->topic = t;
        t->pending++;
        ptn_pack w;
        ptn_pack_init(&w, 96 + topic.n);
        ptn_pack_array(&w, 5);
        ptn_pack_str(&w, topic);
        ptn_pack_str(&w, hub_sink_user(s));
        ptn_pack_uint(&w, roles);
        ptn_pack_str_or_nil(&w, since.epoch);
        ptn_pack_uint(&w, since.offset);
        ptn_buf *b = ptn_pack_finish(&w);
        if (b != NULL)
            r = ptn_ask(c, ptn_topic_owner(h->directory, topic), PTN_MSG_TOPIC_ATTACH, b,
                        ptn_now(c) + 10 * PTN_SEC, attach_ended, a, NULL);
        if (r < 0) {
            ptn_buf_unref(b);
            t->pending--;
            release_topic(c, h, t);
        }
    }
    return r;
}

static void subscribe_topic(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, uint64_t tag, ptn_str topic,
                            ptn_position since, uint8_t policy, uint16_t every_ms, uint64_t roles) {
    struct hub_attach *a = hub_attach_new(h, s, tag, topic, policy);
    int r = -PTN_ENOMEM;
    if (a != NULL) {
        a->every_ms = every_ms;
        a->since_given = since.epoch.n > 0;
        a->since_offset = since.offset;
        r = hub_attach_topic(c, h, s, a, since, roles);
        if (r < 0)
            hub_attach_end(h, a);
    }
    if (r < 0) {
        const char *message;
        int code = ptn_code_of_err(r == -PTN_ENOMEM ? -PTN_EOVERLOAD : r, &message);
        hub_refuse(c, s, tag, topic, code, message);
    }
}

/* ---- messages ----------------------------------------------------------------------------- */

/* The sink's subscription to a valid topic or pattern; NULL: none. */
static struct hub_sub *sub_named(ptn_hub *h, const struct hub_sink *s, ptn_str topic) {
    struct hub_list *l = NULL;
    if (ptn_pattern_has_wildcard(topic)) {
        l = hub_index_pattern(&h->index, topic, false);
    } else {
        struct hub_topic *t = hub_index_topic(&h->index, topic, false);
        l = t != NULL ? &t->list : NULL;
    }
    return l != NULL ? hub_find_sub(s, l) : NULL;
}

/* Moving a subscription takes none; taking one over from the feed takes some of the connection's.
 */
static bool has_room(ptn_hub *h, const struct hub_sink *s, ptn_str topic) {
    const bool of_sink = s->n_subs + s->n_attaches < h->limits.sink_subscriptions_max,
               of_all = h->index.n_subs < h->limits.subscriptions_max;
    if (PTN_LIKELY(of_sink && of_all))
        return true;
    const struct hub_sub *sub = sub_named(h, s, topic);
    return sub != NULL && (of_sink || !hub_cursor_is_fed(sub->cursor));
}

static int on_subscribe(ptn_ctx *c, ptn_hub *h, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    uint64_t id, tag, roles, policy, every_ms;
    bool reserved;
    ptn_str topic;
    ptn_position since;
    if (!ptn_unpack_array(&u, &n) || !ptn_unpack_uint(&u, &id))
        return -PTN_EPROTO;
    struct hub_sink *s = hub_sink_of(h, id);
    if (s == NULL)
        return 0; /* it has gone meanwhile */
    if (n == 2 && ptn_unpack_bool(&u, &reserved))
        return hub_subscribe_all(c, h, s, reserved);
    if (n != 8 || !ptn_unpack_uint(&u, &tag) || !ptn_unpack_str(&u, &topic) ||
        !ptn_unpack_str_or_nil(&u, &since.epoch) || !ptn_unpack_uint(&u, &since.offset) ||
        !ptn_unpack_uint(&u, &policy) || policy >= PTN_POLICY_COUNT ||
        !ptn_unpack_uint(&u, &every_ms) || every_ms > UINT16_MAX || !ptn_unpack_uint(&u, &roles))
        return -PTN_EPROTO;
    const char *why = NULL;
    if (!ptn_pattern_is_valid(topic))
        hub_refuse(
            c, s, tag, topic, PTN_CODE_INVALID_REQUEST,
            "a topic is 1 to 255 bytes of dot-separated segments; `*` is one segment, `**` the "
            "rest at the end");
    else if ((why = hub_forbidden(topic, hub_sink_user(s))) != NULL)
        hub_refuse(c, s, tag, topic, PTN_CODE_FORBIDDEN, why);
    else if (!has_room(h, s, topic))
        hub_refuse_full(c, h, s, tag, topic, false);
    else if (hub_feed_holds(c, s, tag, topic, m->buf))
        return 0;
    else if (!ptn_pattern_has_wildcard(topic))
        subscribe_topic(c, h, s, tag, topic, since, (uint8_t)policy, (uint16_t)every_ms, roles);
    else if (policy == PTN_POLICY_STORED)
        hub_refuse(c, s, tag, topic, PTN_CODE_INVALID_REQUEST,
                   "policy \"stored\" needs a topic, not a pattern");
    else
        hub_subscribe_pattern(c, h, s, tag, topic, (uint8_t)policy, (uint16_t)every_ms);
    return 0;
}

static int on_unsubscribe(ptn_ctx *c, ptn_hub *h, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    uint64_t id;
    ptn_str topic;
    if (!ptn_unpack_array(&u, &n) || n != 2 || !ptn_unpack_uint(&u, &id) ||
        !ptn_unpack_str(&u, &topic))
        return -PTN_EPROTO;
    struct hub_sink *s = hub_sink_of(h, id);
    if (s == NULL || !ptn_pattern_is_valid(topic))
        return 0;
    hub_feed_cancel(c, s, topic, hub_canceled_text);
    for (struct hub_attach *a = h->attaches; a != NULL; a = a->next)
        if (a->sink == id && a->item == NULL &&
            ptn_str_eq(topic, (ptn_str){a->name, a->name_bytes}))
            a->canceled = true;
    struct hub_sub *sub = sub_named(h, s, topic);
    if (sub != NULL && sub->cursor != NULL)
        hub_cursor_return(c, h, sub->cursor);
    else if (sub != NULL)
        leave(c, h, s, sub);
    return 0;
}

void hub_take(ptn_ctx *c, ptn_hub *h, ptn_buf *b) {
    ptn_bytes payload = ptn_buf_bytes(b);
    const ptn_msg m = {
        .type = PTN_MSG_HUB_SUBSCRIBE, .data = payload.p, .len = payload.n, .buf = b};
    (void)on_subscribe(c, h, &m);
}

static int on_evict(ptn_ctx *c, ptn_hub *h, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    ptn_str topic, user;
    if (!ptn_unpack_array(&u, &n) || n != 2 || !ptn_unpack_str(&u, &topic) ||
        !ptn_unpack_str(&u, &user))
        return -PTN_EPROTO;
    struct hub_topic *t = hub_index_topic(&h->index, topic, false);
    if (t == NULL)
        return 0;
    t->pending++; /* keeps the entry while its list changes */
    for (uint32_t i = t->list.n; i > 0; i--) {
        struct hub_sub *sub = t->list.slots[i - 1].sub;
        struct hub_sink *s = sub->sink;
        if (!ptn_str_eq(user, hub_sink_user(s)))
            continue;
        bool asked_for = !hub_cursor_is_fed(sub->cursor);
        leave(c, h, s, sub);
        if (asked_for && hub_sink_of(h, hub_sink_id(s)) == s)
            hub_refuse(c, s, 0, topic, PTN_CODE_FORBIDDEN, "you are no longer a member");
    }
    t->pending--;
    release_topic(c, h, t);
    return 0;
}

/* An owner forgot what it knew of us: whoever listens there must come back and resume. */
static int on_owner_restarted(ptn_ctx *c, ptn_hub *h, const ptn_msg *m) {
    for (uint32_t i = 0; i < h->index.topics.cap; i++) {
        struct hub_topic *t = hub_index_topic_at(&h->index, i);
        if (t != NULL && ptn_topic_owner(h->directory, hub_topic_name(t)) == m->from)
            reset_topic(c, h, t);
    }
    for (unsigned i = 0; i < h->directory->workers; i++) {
        if (h->directory->topics[i] == m->from)
            hub_reset_patterns(c, h);
        if (h->directory->conversation[i] == m->from) {
            uint64_t bit = UINT64_C(1) << i;
            if ((h->born & bit) != 0) /* the first one is its birth: nobody has missed anything */
                hub_feed_reset_all(c, h); /* one may have missed that it became a member */
            h->born |= bit;
        }
        for (unsigned k = 0; k < WATCHES; k++)
            if (h->watch[k].owners[i] == m->from && h->watch[k].on)
                hub_watch_tell(c, h, k, i);
    }
    return 0;
}

/* Reclaims closed sinks, and topics that only they had. */
static void reclaim(ptn_ctx *c, ptn_hub *h) {
    if (h->graveyard != NULL) {
        for (struct hub_sink *s = h->graveyard; s != NULL; s = s->dead_next) {
            while (s->subs != NULL)
                leave(c, h, s, s->subs);
            hub_feed_close(h, s);
        }
        hub_bury(h);
        hub_unwatch(c, h);
    }
    hub_report_subscriptions(h);
}

static int hub_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    ptn_hub *h = *(ptn_hub **)state;
    int r = 0;
    switch (m->type) {
    case PTN_MSG_EVENT:
        r = on_event(c, h, m);
        break;
    case PTN_MSG_HUB_SUBSCRIBE:
        r = on_subscribe(c, h, m);
        break;
    case PTN_MSG_HUB_UNSUBSCRIBE:
        r = on_unsubscribe(c, h, m);
        hub_unwatch(c, h);
        break;
    case PTN_MSG_HUB_FEED:
        r = hub_feed_open(c, h, m);
        break;
    case PTN_MSG_HUB_ACK:
        r = hub_feed_ack(c, h, m);
        break;
    case PTN_MSG_HUB_CURSOR:
        r = hub_feed_moved(c, h, m);
        break;
    case PTN_MSG_HUB_JOINED:
        r = hub_feed_joined(c, h, m);
        break;
    case PTN_MSG_HUB_EVICT:
        r = on_evict(c, h, m);
        break;
    case PTN_MSG_OWNER_RESTARTED:
        r = on_owner_restarted(c, h, m);
        break;
    case PTN_MSG_STOPPING:
        ptn_exit(c, 0);
        break;
    default:
        break; /* HUB_SINK_GONE, HUB_SINK_WRITABLE, answers nobody waits for */
    }
    hub_flow_resume(c, h); /* before reclaim() frees sinks */
    reclaim(c, h);
    return r;
}

/* After a crash every sink is told to start over, and the tables begin empty. */
static int hub_init(ptn_ctx *c, void *state, void *arg) {
    ptn_hub *h = arg;
    *(ptn_hub **)state = h;
    for (uint32_t i = 0; i < h->sinks_cap; i++)
        if (h->sinks[i] != NULL)
            hub_reset_sink(c, h, h->sinks[i]);
    hub_flow_done(h);
    hub_feed_done(h);
    for (; h->drained != NULL; h->drained = h->drained->drained_next)
        h->drained->drained = false;
    hub_index_done(&h->index);
    for (struct hub_sink *s = h->graveyard; s != NULL; s = s->dead_next)
        s->subs = NULL;
    while (h->attaches != NULL)
        hub_attach_free(h->attaches);
    hub_bury(h);
    ptn_random(c, h->index.key, sizeof h->index.key);
    for (unsigned k = 0; k < WATCHES; k++)
        if (h->watch[k].on)
            hub_watch_set(c, h, k, false);
    return 0;
}

const ptn_actor_ops ptn_hub_actor = {
    .name = "hub", .state_size = sizeof(ptn_hub *), .init = hub_init, .handle = hub_handle};
