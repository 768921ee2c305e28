/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_cursor.c - one conversation of one feed: what was sent, what is acknowledged, and what is
 * sent again.
 *
 * Positions are sequence numbers of the conversation: acked <= last <= pos, and what the owner has
 * announced here may be behind all of them, because the store knows more.  A user's own messages
 * are passed over; behind the last message that somebody else has sent they count as acknowledged.
 *
 * The queue hears of acknowledgements in batches, because losing one only means that messages are
 * delivered again.
 */
#include "actors/hub_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

#define ACK_NS (50 * PTN_MS)
#define DUE_NS (1 * PTN_SEC)
#define DOUBLINGS_MAX 12u

struct hub_cursor {
    struct hub_cursor *next, **pprev; /* of hub->feeds.cursors; pprev NULL: not there */
    ptn_hub *hub;
    struct hub_sub *sub;
    uint64_t acked;
    uint64_t last;       /* newest that was sent and needs an acknowledgement */
    uint64_t pos;        /* newest that was sent or passed over */
    uint64_t until;      /* taken: up to there they are messages, then events */
    uint64_t got;        /* newest acknowledged by the device; 0: none in this session */
    ptn_time due;        /* when what is sent and not acknowledged is sent again */
    uint32_t deliveries; /* of the oldest that is not acknowledged */
    bool taken;          /* by a subscription of the client's own */
    bool hole;           /* ... which has left something out that is not acknowledged */
    bool blocked;        /* the window is full */
    bool dirty;          /* the queue has not heard */
};

bool hub_cursor_is_blocked(const struct hub_cursor *k) {
    return k != NULL && k->blocked;
}

bool hub_cursor_is_fed(const struct hub_cursor *k) {
    return k != NULL && !k->taken;
}

static ptn_str conversation_of(const struct hub_cursor *k) {
    const struct hub_topic *t = hub_list_topic(k->sub->list);
    size_t skip = sizeof HUB_CONVERSATION - 1;
    return (ptn_str){t->name + skip, t->name_bytes - skip};
}

static bool is_waiting(const struct hub_cursor *k) {
    return !k->taken && k->last > k->acked;
}

/* ---- those with something to do ----------------------------------------------------------- */

static void unlist(struct hub_cursor *k) {
    if (k->pprev == NULL)
        return;
    *k->pprev = k->next;
    if (k->next != NULL)
        k->next->pprev = k->pprev;
    k->pprev = NULL;
}

static void due_tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg);

static void list(ptn_ctx *c, struct hub_cursor *k) {
    struct hub_feeds *all = &k->hub->feeds;
    if (k->pprev != NULL)
        return;
    k->next = all->cursors;
    k->pprev = &all->cursors;
    if (k->next != NULL)
        k->next->pprev = &k->next;
    all->cursors = k;
    if (!ptn_timer_is_armed(&all->due_timer))
        ptn_timer_start(c, &all->due_timer, DUE_NS, due_tick, k->hub);
}

void hub_cursor_free(struct hub_cursor *k) {
    if (k == NULL)
        return;
    unlist(k);
    free(k);
}

/* True: the queue has heard. */
static bool tell_queue(ptn_ctx *c, struct hub_cursor *k) {
    if (hub_feed_tell(c, k->hub, k->sub->sink, PTN_MSG_QUEUE_ACK, conversation_of(k), k->acked,
                      k->deliveries, k->got) < 0)
        return false;
    k->dirty = false;
    return true;
}

static void ack_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    ptn_hub *h = arg;
    bool again = false;
    (void)state;
    for (struct hub_cursor *k = h->feeds.cursors, *next; k != NULL; k = next) {
        next = k->next;
        if (k->dirty && !tell_queue(c, k))
            again = true;
        else if (!is_waiting(k))
            unlist(k);
    }
    if (again)
        ptn_timer_start(c, t, ACK_NS, ack_due, h);
}

void hub_cursor_report(ptn_ctx *c, struct hub_cursor *k) {
    k->dirty = true;
    list(c, k);
    if (!ptn_timer_is_armed(&k->hub->feeds.ack_timer))
        ptn_timer_start(c, &k->hub->feeds.ack_timer, ACK_NS, ack_due, k->hub);
}

void hub_cursor_leave(ptn_ctx *c, struct hub_cursor *k) {
    if (k != NULL && (k->dirty || is_waiting(k)))
        (void)tell_queue(c, k); /* a refusal only means that messages are delivered again */
}

/* ---- delivery ----------------------------------------------------------------------------- */

/* Doubles with each delivery, minus a random part of up to a quarter. */
static ptn_time backoff(ptn_ctx *c, const struct hub_cursor *k) {
    uint32_t doublings = k->deliveries > 0 ? k->deliveries - 1 : 0;
    ptn_time wait = k->hub->limits.feed_redeliver_ns
                    << (doublings < DOUBLINGS_MAX ? doublings : DOUBLINGS_MAX);
    uint32_t random;
    ptn_random(c, &random, sizeof random);
    return wait - wait / 4 * (random >> 16) / 65536;
}

static bool is_own(const struct hub_sink *s, ptn_event *e) {
    if (e->sender.p == NULL && !ptn_map_get_str(e->data, "senderId", &e->sender))
        e->sender = (ptn_str){"", 0};
    return ptn_str_eq(e->sender, hub_sink_user(s));
}

/* The device gets nothing more of what comes before `to`, and is told so. */
static void skip(ptn_ctx *c, struct hub_cursor *k, uint64_t to, const char *reason) {
    struct hub_sink *s = k->sub->sink;
    const struct hub_topic *t = hub_list_topic(k->sub->list);
    const ptn_gap gap = {{t->name, t->name_bytes}, k->acked + 1, to, reason};
    k->acked = to;
    k->deliveries = 0;
    k->last = k->last > to ? k->last : to;
    k->pos = k->pos > to ? k->pos : to;
    if (s->ops->gap != NULL)
        s->ops->gap(c, s->self, &gap);
}

/* Everything up to `to` was in vain: a dead letter.  False: the queue has not heard of it. */
static bool pass(ptn_ctx *c, struct hub_cursor *k, uint64_t to) {
    if (hub_feed_tell(c, k->hub, k->sub->sink, PTN_MSG_QUEUE_DEAD, conversation_of(k), to,
                      k->acked + 1, 0) < 0)
        return false;
    skip(c, k, to, "max_deliveries");
    hub_cursor_report(c, k);
    return true;
}

enum ptn_sink_load hub_cursor_deliver(ptn_ctx *c, void *self, ptn_event *e) {
    struct hub_cursor *k = self;
    struct hub_sink *s = k->sub->sink;
    const ptn_hub_limits *l = &k->hub->limits;
    if (k->taken && e->offset > k->until) {
        k->hole |= e->offset > k->pos + 1;
        k->pos = e->offset;
        return s->ops->deliver(c, s->self, e);
    }
    if (e->offset <= k->acked)
        return PTN_SINK_FREE; /* acknowledged before it was sent: it came by another way */
    k->pos = e->offset;
    if (is_own(s, e)) {
        if (k->last <= k->acked)
            k->acked = e->offset;
        return PTN_SINK_FREE;
    }
    if (!k->taken && !is_waiting(k)) { /* a round begins */
        if (k->deliveries >= l->feed_deliveries_max && pass(c, k, e->offset))
            return PTN_SINK_FREE;
        k->deliveries++;
        k->due = ptn_now(c) + backoff(c, k);
        list(c, k);
    }
    k->last = e->offset;
    if (!k->taken && k->deliveries > 1)
        ptn_count(PTN_C_REDELIVERIES, 1);
    enum ptn_sink_load load = s->ops->message(c, s->self, e);
    if (k->taken || k->pos - k->acked < l->feed_window)
        return load;
    k->blocked = true;
    return PTN_SINK_FULL;
}

/* ---- acknowledgements --------------------------------------------------------------------- */

static void go_on(ptn_ctx *c, struct hub_cursor *k) {
    if (k->taken || !k->blocked)
        return;
    k->blocked = k->pos - k->acked >= k->hub->limits.feed_window;
    hub_flow_go_on(c, k->sub);
}

static void acknowledged(ptn_ctx *c, struct hub_cursor *k, uint64_t seq) {
    k->acked = k->got = seq;
    k->deliveries = 0;
    if (!k->taken && k->last <= seq) {
        k->acked = k->pos > seq ? k->pos : seq;
    } else if (is_waiting(k)) {
        k->deliveries = 1;
        k->due = ptn_now(c) + backoff(c, k);
    }
    hub_cursor_report(c, k);
    if (k->pos < k->acked)
        k->pos = k->acked;
    go_on(c, k);
}

void hub_cursor_acknowledged(ptn_ctx *c, struct hub_cursor *k, uint64_t seq) {
    uint64_t newest = hub_list_topic(k->sub->list)->offset;
    if (seq > newest)
        seq = newest; /* nobody has what does not exist */
    if (seq > k->acked)
        acknowledged(c, k, seq);
}

int hub_feed_ack(ptn_ctx *c, ptn_hub *h, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    uint64_t id, seq;
    ptn_str conversation;
    char topic[PTN_TOPIC_BYTES_MAX];
    size_t skip = sizeof HUB_CONVERSATION - 1;
    if (!ptn_unpack_array(&u, &n) || n != 3 || !ptn_unpack_uint(&u, &id) ||
        !ptn_unpack_str(&u, &conversation) || !ptn_unpack_uint(&u, &seq))
        return -PTN_EPROTO;
    struct hub_sink *s = hub_sink_of(h, id);
    if (s == NULL || conversation.n > sizeof topic - skip)
        return 0;
    memcpy(topic, HUB_CONVERSATION, skip);
    memcpy(topic + skip, conversation.p, conversation.n);
    struct hub_topic *t =
        hub_index_topic(&h->index, (ptn_str){topic, skip + conversation.n}, false);
    struct hub_sub *sub = t != NULL ? hub_find_sub(s, &t->list) : NULL;
    if (sub != NULL && sub->cursor != NULL) /* else no longer a member */
        hub_cursor_acknowledged(c, sub->cursor, seq);
    return 0;
}

/* ---- again -------------------------------------------------------------------------------- */

static void redeliver(ptn_ctx *c, struct hub_cursor *k) {
    ptn_hub *h = k->hub;
    if (k->deliveries >= h->limits.feed_deliveries_max) {
        if (pass(c, k, k->last) && hub_sink_of(h, hub_sink_id(k->sub->sink)) == k->sub->sink) {
            k->blocked = false;
            hub_flow_go_on(c, k->sub);
        }
        return;
    }
    k->last = k->pos = k->acked;
    k->blocked = false;
    hub_flow_from(c, h, k->sub, k->acked);
}

static void due_tick(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    ptn_hub *h = arg;
    (void)state;
    for (struct hub_cursor *k = h->feeds.cursors, *next; k != NULL; k = next) {
        struct hub_sink *s = k->sub->sink;
        next = k->next;
        if (hub_sink_of(h, hub_sink_id(s)) == s && is_waiting(k) && ptn_now(c) >= k->due)
            redeliver(c, k);
    }
    if (h->feeds.cursors != NULL)
        ptn_timer_start(c, t, DUE_NS, due_tick, h);
}

/* ---- begin, and change of hands ----------------------------------------------------------- */

void hub_cursor_new(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, uint64_t acked,
                    uint32_t deliveries, bool taken) {
    uint64_t newest = hub_list_topic(sub->list)->offset;
    struct hub_cursor *k = calloc(1, sizeof *k);
    if (k == NULL) {
        hub_reset_sink(c, h, sub->sink);
        return;
    }
    k->hub = h;
    k->sub = sub;
    k->acked = k->last = k->pos = acked;
    k->deliveries = deliveries;
    k->taken = taken;
    sub->cursor = k;
    if (!taken && acked < newest)
        hub_flow_from(c, h, sub, acked);
    else if (sub->flow == NULL && !sub->latest)
        hub_sub_live(sub);
}

bool hub_cursor_is_behind(const struct hub_cursor *k) {
    return k != NULL && k->pos < k->until;
}

void hub_cursor_take(ptn_ctx *c, struct hub_cursor *k, const uint64_t *since,
                     const ptn_subscribed *r) {
    struct hub_sub *sub = k->sub;
    struct hub_sink *s = sub->sink;
    ptn_subscribed told = *r;
    if (!k->taken) {
        s->n_fed--;
        s->n_subs++;
    }
    k->taken = true;
    k->blocked = false;
    if (since != NULL) {
        k->pos = *since;
        k->until = 0;
        return;
    }
    if (told.offset < k->pos)
        told.offset = k->pos; /* the store gave what the owner has not announced here yet */
    k->until = told.offset;
    s->ops->subscribed(c, s->self, &told);
    if (sub->flow != NULL)
        hub_flow_go_on(c, sub);
    else
        hub_sub_live(sub);
}

void hub_cursor_return(ptn_ctx *c, ptn_hub *h, struct hub_cursor *k) {
    struct hub_sub *sub = k->sub;
    if (!k->taken)
        return;
    bool again = k->hole ||
                 (sub->flow == NULL && !sub->latest && k->pos < hub_list_topic(sub->list)->offset);
    sub->policy = PTN_POLICY_STORED;
    sub->sink->n_subs--;
    sub->sink->n_fed++;
    k->taken = k->hole = false;
    k->until = 0;
    if (again || k->pos < k->acked)
        k->pos = k->acked;
    k->last = k->pos;
    k->deliveries = 0;
    if (is_waiting(k)) {
        k->deliveries = 1;
        k->due = ptn_now(c) + backoff(c, k);
        list(c, k);
    }
    if (again || sub->flow != NULL || sub->latest)
        hub_flow_from(c, h, sub, k->pos);
    else
        hub_sub_live(sub);
}

void hub_cursor_rewind(ptn_ctx *c, struct hub_cursor *k, uint64_t seq) {
    if (seq >= k->acked)
        return;
    k->deliveries = 0;
    k->dirty = false;
    if (k->taken) { /* it comes when the subscription ends */
        k->acked = seq;
        k->hole = true;
        return;
    }
    k->acked = k->last = k->pos = seq;
    k->blocked = false;
    hub_flow_from(c, k->hub, k->sub, seq);
}

void hub_cursor_passed(ptn_ctx *c, struct hub_cursor *k, uint64_t seq, const char *reason) {
    struct hub_sink *s = k->sub->sink;
    if (k->taken || seq <= k->acked || seq > hub_list_topic(k->sub->list)->offset)
        return;
    bool behind = k->pos <= seq;
    skip(c, k, seq, reason);
    if (hub_sink_of(k->hub, hub_sink_id(s)) != s)
        return;
    if (behind) {
        k->blocked = false;
        hub_flow_from(c, k->hub, k->sub, seq);
    } else {
        k->deliveries = 1;
        go_on(c, k);
    }
}
