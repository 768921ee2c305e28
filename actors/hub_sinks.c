/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_sinks.c - the sinks of one hub: opened, closed and named by other actors of its worker, in
 * direct calls, while the hub itself may be in the middle of a fan-out or between two incarnations.
 */
#include "actors/hub_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

/* ---- sinks -------------------------------------------------------------------------------- */

ptn_hub *ptn_hub_new(const ptn_hub_limits *limits, const ptn_directory *d, unsigned worker) {
    ptn_hub *h = calloc(1, sizeof *h);
    if (h == NULL)
        return NULL;
    h->limits = limits != NULL ? *limits : (ptn_hub_limits){0};
    if (h->limits.sinks_max == 0)
        h->limits.sinks_max = 100000;
    if (h->limits.subscriptions_max == 0)
        h->limits.subscriptions_max = 1000000;
    if (h->limits.sink_subscriptions_max == 0)
        h->limits.sink_subscriptions_max = 1000;
    if (h->limits.held_events_max == 0)
        h->limits.held_events_max = 256;
    if (h->limits.held_bytes_max == 0)
        h->limits.held_bytes_max = 256u << 10;
    if (h->limits.held_total_bytes == 0)
        h->limits.held_total_bytes = 16u << 20;
    if (h->limits.latest_turn_max == 0)
        h->limits.latest_turn_max = 4096;
    if (h->limits.pages_max == 0)
        h->limits.pages_max = 8;
    if (h->limits.feed_window == 0)
        h->limits.feed_window = 256;
    if (h->limits.feed_deliveries_max == 0)
        h->limits.feed_deliveries_max = 10;
    if (h->limits.feed_redeliver_ns == 0)
        h->limits.feed_redeliver_ns = 30 * PTN_SEC;
    h->directory = d;
    h->worker = worker;
    h->watch[WATCH_TOPICS].owners = d->topics;
    h->watch[WATCH_CONVERSATIONS].owners = d->conversation;
    return h;
}

void hub_attach_free(struct hub_attach *a) {
    *a->pprev = a->next;
    if (a->next != NULL)
        a->next->pprev = a->pprev;
    free(a->item);
    free(a);
}

struct hub_attach *hub_attach_new(ptn_hub *h, struct hub_sink *s, uint64_t tag, ptn_str name,
                                  uint8_t policy) {
    struct hub_attach *a = calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    a->hub = h;
    a->sink = hub_sink_id(s);
    a->tag = tag;
    a->policy = policy;
    a->name_bytes = (uint8_t)name.n;
    memcpy(a->name, name.p, name.n);
    s->n_attaches++;
    a->next = h->attaches;
    a->pprev = &h->attaches;
    if (a->next != NULL)
        a->next->pprev = &a->next;
    h->attaches = a;
    return a;
}

void hub_attach_end(ptn_hub *h, struct hub_attach *a) {
    struct hub_sink *s = hub_sink_of(h, a->sink);
    if (s != NULL && a->item == NULL)
        s->n_attaches--;
    hub_feed_attach_ended(h, s, a->item);
    hub_attach_free(a);
}

void hub_bury(ptn_hub *h) {
    while (h->graveyard != NULL) {
        struct hub_sink *s = h->graveyard;
        h->graveyard = s->dead_next;
        while (s->subs != NULL)
            hub_sub_remove(&h->index, s->subs);
        free(s);
    }
}

void ptn_hub_free(ptn_hub *h) {
    if (h == NULL)
        return;
    hub_flow_done(h);
    hub_feed_done(h);
    hub_index_done(&h->index);
    for (struct hub_sink *s = h->graveyard, *next; s != NULL; s = next) {
        next = s->dead_next;
        free(s);
    }
    for (uint32_t i = 0; i < h->sinks_cap; i++)
        free(h->sinks[i]);
    while (h->attaches != NULL)
        hub_attach_free(h->attaches);
    free(h->sinks);
    free(h->generations);
    free(h);
}

static bool sinks_grow(ptn_hub *h) {
    uint32_t cap = h->sinks_cap == 0 ? 64 : h->sinks_cap * 2;
    if (cap > h->limits.sinks_max)
        cap = h->limits.sinks_max;
    struct hub_sink **sinks = realloc(h->sinks, cap * sizeof *sinks);
    if (sinks == NULL)
        return false;
    h->sinks = sinks;
    uint32_t *generations = realloc(h->generations, cap * sizeof *generations);
    if (generations == NULL)
        return false;
    h->generations = generations;
    for (uint32_t i = h->sinks_cap; i < cap; i++) {
        h->sinks[i] = NULL;
        h->generations[i] = 1;
    }
    h->free_hint = h->sinks_cap;
    h->sinks_cap = cap;
    return true;
}

int ptn_hub_sink_open(ptn_hub *h, const ptn_sink_ops *ops, void *self, ptn_str user,
                      ptn_sink_id *ret_id) {
    if (user.n > HUB_USER_BYTES_MAX)
        return -PTN_ETOOBIG;
    if (h->n_sinks >= h->limits.sinks_max)
        return -PTN_EOVERLOAD;
    if (h->n_sinks == h->sinks_cap && !sinks_grow(h))
        return -PTN_ENOMEM;
    uint32_t i = h->free_hint;
    while (h->sinks[i] != NULL) /* there is a free one: n_sinks < sinks_cap */
        i = i + 1 == h->sinks_cap ? 0 : i + 1;
    struct hub_sink *s = calloc(1, sizeof *s + user.n);
    if (s == NULL)
        return -PTN_ENOMEM;
    s->user_bytes = (uint8_t)user.n;
    if (user.n > 0)
        memcpy(s->user, user.p, user.n);
    s->hub = h;
    s->ops = ops;
    s->self = self;
    s->index = i;
    s->generation = h->generations[i];
    h->sinks[i] = s;
    h->n_sinks++;
    h->free_hint = i + 1 == h->sinks_cap ? 0 : i + 1;
    *ret_id = (uint64_t)s->generation << 32 | i;
    return 0;
}

struct hub_sink *hub_sink_of(const ptn_hub *h, ptn_sink_id id) {
    uint32_t i = (uint32_t)id;
    if (i >= h->sinks_cap || h->sinks[i] == NULL || h->sinks[i]->generation != id >> 32)
        return NULL;
    return h->sinks[i];
}

ptn_sink_id hub_sink_id(const struct hub_sink *s) {
    return (uint64_t)s->generation << 32 | s->index;
}

static enum ptn_sink_load deliver_nothing(ptn_ctx *c, void *self, ptn_event *e) {
    (void)c, (void)self, (void)e;
    return PTN_SINK_FREE;
}

void ptn_hub_sink_close(ptn_ctx *c, ptn_hub *h, ptn_sink_id id) {
    struct hub_sink *s = hub_sink_of(h, id);
    if (s == NULL)
        return;
    h->sinks[s->index] = NULL;
    h->generations[s->index]++;
    h->free_hint = s->index;
    h->n_sinks--;
    for (struct hub_sub *sub = s->subs; sub != NULL; sub = sub->sink_next)
        sub->list->slots[sub->at].deliver = deliver_nothing;
    bool asleep = h->graveyard == NULL;
    s->dead_next = h->graveyard;
    h->graveyard = s;
    if (asleep) /* a refusal is harmless: any later message buries too */
        (void)ptn_cast(c, h->directory->hub[h->worker], PTN_MSG_HUB_SINK_GONE, NULL);
}

void ptn_hub_sink_writable(ptn_ctx *c, ptn_hub *h, ptn_sink_id id) {
    struct hub_sink *s = hub_sink_of(h, id);
    if (s == NULL || s->drained)
        return;
    bool asleep = h->drained == NULL;
    s->drained = true;
    s->drained_next = h->drained;
    h->drained = s;
    if (asleep) /* a refusal is harmless: any later message resumes too */
        (void)ptn_cast(c, h->directory->hub[h->worker], PTN_MSG_HUB_SINK_WRITABLE, NULL);
}

/* ---- subscriptions of a sink ---------------------------------------------------------------- */

struct hub_sub *hub_find_sub(const struct hub_sink *s, const struct hub_list *l) {
    if (l->n <= 8) { /* most conversations have few members here, and sinks many conversations */
        for (uint32_t i = 0; i < l->n; i++)
            if (l->slots[i].sub->sink == s)
                return l->slots[i].sub;
        return NULL;
    }
    for (struct hub_sub *sub = s->subs; sub != NULL; sub = sub->sink_next)
        if (sub->list == l)
            return sub;
    return NULL;
}

void hub_sub_live(struct hub_sub *sub) {
    struct hub_slot *slot = &sub->list->slots[sub->at];
    hub_latest_end(sub);
    if (sub->policy == PTN_POLICY_LATEST && !hub_cursor_is_fed(sub->cursor)) {
        slot->deliver = hub_latest_first;
        slot->self = sub;
        return;
    }
    slot->deliver = sub->cursor != NULL ? hub_cursor_deliver : sub->sink->ops->deliver;
    slot->self = sub->cursor != NULL ? sub->cursor : sub->sink->self;
}

bool hub_is_full(const ptn_hub *h, const struct hub_sink *s, bool fed) {
    return h->index.n_subs >= h->limits.subscriptions_max ||
           (fed ? s->n_fed : s->n_subs) >= h->limits.sink_subscriptions_max;
}

struct hub_sub *hub_join(ptn_hub *h, struct hub_sink *s, struct hub_list *l, uint8_t policy,
                         bool fed) {
    struct hub_sub *sub = hub_find_sub(s, l);
    if (sub != NULL && fed)
        return sub; /* the client was quicker: what it asked for stays */
    if (sub == NULL) {
        if (hub_is_full(h, s, fed))
            return NULL;
        struct hub_slot slot = {.deliver = s->ops->deliver, .self = s->self};
        sub = hub_sub_add(&h->index, l, s, &s->subs, &slot);
        if (sub == NULL)
            return NULL;
        *(fed ? &s->n_fed : &s->n_subs) += 1;
    }
    const struct hub_topic *t = hub_list_topic(l);
    bool stored = t != NULL && t->stored;
    if (policy == PTN_POLICY_DEFAULT)
        policy = stored ? PTN_POLICY_STORED : PTN_POLICY_DISCONNECT;
    const bool changed = sub->policy != policy;
    sub->policy = policy;
    if (changed && sub->flow == NULL)
        hub_sub_live(sub);
    return sub;
}

void hub_report_subscriptions(ptn_hub *h) {
    int64_t n = h->index.n_subs;
    if (n == h->subs_reported)
        return;
    ptn_gauge_add(PTN_G_SUBSCRIPTIONS, n - h->subs_reported);
    h->subs_reported = n;
}

/* ---- refusing ------------------------------------------------------------------------------ */

const char hub_canceled_text[] = "an unsubscribe overtook this subscription";

/* What a client may see: its own user topics, system events, public topics; conversations are
 * decided by their owner.  Patterns over the private name spaces are refused. */
const char *hub_forbidden(ptn_str topic, ptn_str user) {
    ptn_str private_user = PTN_STR("user."), conversation = PTN_STR(HUB_CONVERSATION);
    bool wild = ptn_pattern_has_wildcard(topic);
    if (wild && (ptn_str_starts(topic, private_user) || ptn_str_starts(topic, conversation)))
        return "patterns do not reach into conversation.* or user.*: name the topic";
    if (!ptn_str_starts(topic, private_user))
        return NULL;
    ptn_str id = {topic.p + private_user.n, topic.n - private_user.n};
    return ptn_str_eq(id, user) ? NULL : "this topic belongs to another user";
}

void hub_refuse(ptn_ctx *c, struct hub_sink *s, uint64_t tag, ptn_str topic, int code,
                const char *message) {
    ptn_subscribed r = {.tag = tag, .topic = topic, .code = code, .message = message};
    s->ops->subscribed(c, s->self, &r);
}

void hub_refuse_full(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, uint64_t tag, ptn_str topic,
                     bool fed) {
    const char *message = "the broker is out of memory; try again in a moment";
    const uint32_t n = fed ? s->n_fed : s->n_subs + s->n_attaches;
    if (h->index.n_subs >= h->limits.subscriptions_max) {
        ptn_count(PTN_C_SUBSCRIPTIONS_REFUSED_ALL, 1);
        message = "all connections of this worker together have as many subscriptions as "
                  "limits.subscriptions_total allows; try later";
    } else if (n >= h->limits.sink_subscriptions_max) {
        ptn_count(PTN_C_SUBSCRIPTIONS_REFUSED_ONE, 1);
        message = fed ? "this connection gets the messages of as many conversations as "
                        "limits.subscriptions allows; read those of this one by request"
                      : "this connection has as many subscriptions as limits.subscriptions allows; "
                        "unsubscribe from some";
    } else if (fed) {
        return;
    }
    hub_refuse(c, s, tag, topic, PTN_CODE_OVERLOADED, message);
}

/* ---- asking the hub ----------------------------------------------------------------------- */

int hub_cast(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_pack *w) {
    ptn_buf *b = ptn_pack_finish(w);
    if (b == NULL)
        return -PTN_ENOMEM;
    int r = ptn_cast(c, to, type, b);
    if (r < 0)
        ptn_buf_unref(b);
    return r;
}

enum ptn_policy ptn_policy_of(ptn_str name) {
    static const char *const names[PTN_POLICY_COUNT] = {
#define XX(id, text) text,
        PTN_POLICY_MAP(XX)
#undef XX
    };
    unsigned i = PTN_POLICY_DISCONNECT;
    while (i < PTN_POLICY_COUNT && !ptn_str_eqz(name, names[i]))
        i++;
    return (enum ptn_policy)i;
}

int ptn_hub_subscribe(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, uint64_t tag, ptn_str topic,
                      ptn_position since, enum ptn_policy policy, uint32_t every_ms,
                      uint32_t roles) {
    ptn_pack w;
    ptn_pack_init(&w, 64 + topic.n);
    ptn_pack_array(&w, 8);
    ptn_pack_uint(&w, sink);
    ptn_pack_uint(&w, tag);
    ptn_pack_str(&w, topic);
    ptn_pack_str_or_nil(&w, since.epoch);
    ptn_pack_uint(&w, since.offset);
    ptn_pack_uint(&w, policy);
    ptn_pack_uint(&w, every_ms);
    ptn_pack_uint(&w, roles);
    return hub_cast(c, h->directory->hub[h->worker], PTN_MSG_HUB_SUBSCRIBE, &w);
}

int ptn_hub_subscribe_all(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, bool reserved) {
    ptn_pack w;
    ptn_pack_init(&w, 32);
    ptn_pack_array(&w, 2);
    ptn_pack_uint(&w, sink);
    ptn_pack_bool(&w, reserved);
    return hub_cast(c, h->directory->hub[h->worker], PTN_MSG_HUB_SUBSCRIBE, &w);
}

int ptn_hub_unsubscribe(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, ptn_str topic) {
    ptn_pack w;
    ptn_pack_init(&w, 32 + topic.n);
    ptn_pack_array(&w, 2);
    ptn_pack_uint(&w, sink);
    ptn_pack_str(&w, topic);
    return hub_cast(c, h->directory->hub[h->worker], PTN_MSG_HUB_UNSUBSCRIBE, &w);
}

int ptn_hub_feed(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, ptn_str device, uint32_t roles) {
    ptn_pack w;
    ptn_pack_init(&w, 96);
    ptn_pack_array(&w, 3);
    ptn_pack_uint(&w, sink);
    ptn_pack_uint(&w, roles);
    ptn_pack_str(&w, device);
    return hub_cast(c, h->directory->hub[h->worker], PTN_MSG_HUB_FEED, &w);
}

int ptn_hub_ack(ptn_ctx *c, ptn_hub *h, ptn_sink_id sink, ptn_str conversation, uint64_t seq) {
    ptn_pack w;
    ptn_pack_init(&w, 96);
    ptn_pack_array(&w, 3);
    ptn_pack_uint(&w, sink);
    ptn_pack_str(&w, conversation);
    ptn_pack_uint(&w, seq);
    return hub_cast(c, h->directory->hub[h->worker], PTN_MSG_HUB_ACK, &w);
}

void ptn_hub_move_cursor(ptn_ctx *c, const ptn_directory *d, ptn_str conversation, ptn_str user,
                         ptn_str device, uint64_t seq, ptn_str reason) {
    const size_t prefix = sizeof HUB_CONVERSATION - 1;
    char topic[PTN_TOPIC_BYTES_MAX];
    if (conversation.n > sizeof topic - prefix)
        return; /* no conversation */
    memcpy(topic, HUB_CONVERSATION, prefix);
    memcpy(topic + prefix, conversation.p, conversation.n);
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_pack_array(&w, 5);
    ptn_pack_str(&w, (ptn_str){topic, prefix + conversation.n});
    ptn_pack_str(&w, user);
    ptn_pack_str(&w, device);
    ptn_pack_uint(&w, seq);
    ptn_pack_str_or_nil(&w, reason);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b != NULL)
        (void)ptn_publish(c, d->hub, d->workers, PTN_MSG_HUB_CURSOR, b, NULL);
}
