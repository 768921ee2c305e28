/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_latest.c - the newest event of each topic, and no more often than asked for.  See
 * hub_latest.h.
 */
#include "actors/hub_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

struct place { /* of a topic: something is kept, or something has gone out in this interval */
    struct place *next, **pprev;
    ptn_buf *held;               /* an EVENT payload; NULL: nothing is kept */
    uint64_t lost_from, lost_to; /* lost_to 0: nothing; newest events that could not be kept */
    uint32_t hash;
    uint8_t topic_bytes;
    char topic[];
};

struct hub_latest {
    struct hub_latest *next, **pprev; /* of h->latest_due, while due is not 0 */
    struct hub_sub *sub;
    ptn_time every_ns;           /* 0: as often as the sink takes them */
    ptn_time due;                /* end of the interval; 0: none has begun */
    bool waiting;                /* for the sink */
    struct place *first, **last; /* in the order in which they came */
    struct hash_table places;    /* by topic */
    size_t bytes;
};

/* Events that go out together: the next one may be the same again, and is encoded then. */
struct batch {
    ptn_event event;
    ptn_buf *buf; /* what it was read from; one reference */
};

static ptn_hub *hub_of(const struct hub_latest *l) {
    return l->sub->sink->hub;
}

static bool is_open(const struct hub_latest *l) {
    return hub_sink_of(hub_of(l), hub_sink_id(l->sub->sink)) == l->sub->sink;
}

/* ---- places ------------------------------------------------------------------------------- */

static bool charge(struct hub_latest *l, size_t n) {
    ptn_hub *h = hub_of(l);
    if (l->bytes + n > h->limits.held_bytes_max || h->held_bytes + n > h->limits.held_total_bytes)
        return false;
    l->bytes += n;
    h->held_bytes += n;
    return true;
}

static void uncharge(struct hub_latest *l, size_t n) {
    l->bytes -= n;
    hub_of(l)->held_bytes -= n;
}

static size_t place_bytes(size_t topic_bytes) {
    return sizeof(struct place) + topic_bytes;
}

static struct place *place_find(const struct hub_latest *l, ptn_str topic, uint32_t hash) {
    uint32_t at = hash;
    struct place *p;
    while ((p = hash_table_seek(&l->places, hash, &at)) != NULL)
        if (ptn_str_eq(topic, (ptn_str){p->topic, p->topic_bytes}))
            return p;
    return NULL;
}

/* NULL: no room, or no memory. */
static struct place *place_new(struct hub_latest *l, ptn_str topic, uint32_t hash) {
    if (!charge(l, place_bytes(topic.n)))
        return NULL;
    struct place *p = calloc(1, place_bytes(topic.n));
    if (p == NULL || !hash_table_add(&l->places, hash, p)) {
        free(p);
        uncharge(l, place_bytes(topic.n));
        return NULL;
    }
    p->hash = hash;
    p->topic_bytes = (uint8_t)topic.n;
    memcpy(p->topic, topic.p, topic.n);
    p->pprev = l->last;
    *l->last = p;
    l->last = &p->next;
    return p;
}

static void place_empty(struct hub_latest *l, struct place *p) {
    uncharge(l, ptn_buf_bytes(p->held).n);
    p->held = ptn_buf_unref(p->held);
    p->lost_to = 0;
}

static void place_free(struct hub_latest *l, struct place *p) {
    place_empty(l, p);
    hash_table_remove(&l->places, p->hash, p);
    uncharge(l, place_bytes(p->topic_bytes));
    *p->pprev = p->next;
    if (p->next != NULL)
        p->next->pprev = p->pprev;
    else
        l->last = p->pprev;
    free(p);
}

/* Keeps the event in place of an older one. */
static void place_keep(struct hub_latest *l, struct place *p, const ptn_event *e) {
    const uint64_t lost_from = p->lost_to != 0 ? p->lost_from : e->offset;
    if (p->held != NULL || p->lost_to != 0)
        ptn_count(PTN_C_CONFLATED, 1);
    place_empty(l, p);
    if (charge(l, ptn_buf_bytes(e->buf).n)) {
        p->held = ptn_buf_ref(e->buf);
        return;
    }
    ptn_count(PTN_C_DROPPED_SLOW_CONSUMER, 1);
    p->lost_from = lost_from;
    p->lost_to = e->offset;
}

/* ---- intervals ---------------------------------------------------------------------------- */

static void due_unlink(struct hub_latest *l) {
    if (l->due == 0)
        return;
    l->due = 0;
    *l->pprev = l->next;
    if (l->next != NULL)
        l->next->pprev = l->pprev;
}

static void interval_ended(ptn_ctx *c, void *state, ptn_timer *t, void *arg);

/* The interval that the clock is in begins for this subscription, unless it has begun. */
static void interval_begin(ptn_ctx *c, struct hub_latest *l) {
    ptn_hub *h = hub_of(l);
    const ptn_time now = ptn_now(c);
    if (l->every_ns == 0 || l->due != 0)
        return;
    l->due = (now / l->every_ns + 1) * l->every_ns;
    l->next = h->latest_due;
    l->pprev = &h->latest_due;
    if (l->next != NULL)
        l->next->pprev = &l->next;
    h->latest_due = l;
    if (ptn_timer_is_armed(&h->latest_timer) && h->latest_at <= l->due)
        return;
    h->latest_at = l->due;
    ptn_timer_start(c, &h->latest_timer, l->due - now, interval_ended, h);
}

/* ---- going out ---------------------------------------------------------------------------- */

/* The sink has got rid of what it was given.  Otherwise it says when it has. */
static bool sink_is_free(struct hub_latest *l) {
    const struct hub_sink *s = l->sub->sink;
    if (!l->waiting && s->ops->taken != NULL)
        l->waiting = !s->ops->taken(s->self);
    return !l->waiting;
}

static void batch_done(struct batch *b) {
    hub_forms_release(&b->event);
    b->buf = ptn_buf_unref(b->buf);
}

/* Sends what is kept, or says that it could not be kept.  The sink may be gone afterwards. */
static void place_send(ptn_ctx *c, struct hub_latest *l, struct place *p, struct batch *b) {
    const struct hub_sink *s = l->sub->sink;
    if (p->held == NULL) {
        const ptn_gap gap = {{p->topic, p->topic_bytes}, p->lost_from, p->lost_to, "slow_consumer"};
        p->lost_to = 0;
        if (s->ops->gap != NULL)
            s->ops->gap(c, s->self, &gap);
        return;
    }
    if (b->buf != p->held) {
        batch_done(b);
        const bool good = hub_event_read(p->held, &b->event);
        PTN_ASSERT(good); /* it has come through the fan-out */
        b->buf = ptn_buf_ref(p->held);
    }
    place_empty(l, p);
    l->waiting = hub_sub_deliver(c, l->sub, &b->event) >= PTN_SINK_BUSY;
}

/* Sends what the sink takes, and says how much that was.  The interval is over, or there is none.
 */
static uint32_t send_kept(ptn_ctx *c, struct hub_latest *l, struct batch *b) {
    uint32_t sent = 0;
    bool may = sink_is_free(l);
    for (struct place *p = l->first, *next; p != NULL; p = next) {
        const bool idle = p->held == NULL && p->lost_to == 0;
        next = p->next;
        if (!idle && !may)
            continue;
        if (!idle) {
            place_send(c, l, p, b);
            sent++;
            if (!is_open(l))
                return sent;
            may = !l->waiting;
        }
        if (idle || l->every_ns == 0)
            place_free(l, p);
    }
    if (sent > 0)
        interval_begin(c, l);
    return sent;
}

/* What is more than a turn may send has to wait for the next one: others have work, too. */
static void interval_ended(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    ptn_hub *h = arg;
    struct batch b = {.buf = NULL};
    const ptn_time now = ptn_now(c);
    uint32_t sent = 0;
    (void)state, (void)t;
    for (struct hub_latest *l = h->latest_due, *next; l != NULL && sent < h->limits.latest_turn_max;
         l = next) {
        next = l->next;
        if (l->due > now)
            continue;
        due_unlink(l);
        if (is_open(l))
            sent += send_kept(c, l, &b); /* may begin the next one, at the head of the list */
    }
    batch_done(&b);
    ptn_time at = PTN_NEVER;
    for (const struct hub_latest *l = h->latest_due; l != NULL; l = l->next)
        at = l->due < at ? l->due : at;
    h->latest_at = at;
    if (at != PTN_NEVER)
        ptn_timer_start(c, &h->latest_timer, at > now ? at - now : PTN_MS, interval_ended, h);
}

/* ---- what the hub calls ------------------------------------------------------------------- */

static enum ptn_sink_load on_event(ptn_ctx *c, void *self, ptn_event *e) {
    struct hub_latest *l = self;
    const uint32_t hash = hub_index_hash(&hub_of(l)->index, e->topic);
    struct place *p = place_find(l, e->topic, hash);
    const bool may = p == NULL && sink_is_free(l);
    if (p == NULL && (!may || l->every_ns != 0)) {
        p = place_new(l, e->topic, hash);
        if (p == NULL && !may) {
            hub_reset_sink(c, hub_of(l), l->sub->sink);
            return PTN_SINK_FREE;
        }
    }
    if (!may) {
        place_keep(l, p, e);
        return PTN_SINK_FREE;
    }
    l->waiting = hub_sub_deliver(c, l->sub, e) >= PTN_SINK_BUSY;
    if (is_open(l))
        interval_begin(c, l);
    return PTN_SINK_FREE;
}

enum ptn_sink_load hub_latest_first(ptn_ctx *c, void *self, ptn_event *e) {
    struct hub_sub *sub = self;
    struct hub_slot *slot = &sub->list->slots[sub->at];
    struct hub_latest *l = calloc(1, sizeof *l);
    if (l == NULL) {
        hub_reset_sink(c, sub->sink->hub, sub->sink);
        return PTN_SINK_FREE;
    }
    l->sub = sub;
    l->every_ns = sub->every_ms * PTN_MS;
    l->last = &l->first;
    sub->latest = true;
    slot->deliver = on_event;
    slot->self = l;
    return on_event(c, l, e);
}

void hub_latest_go_on(ptn_ctx *c, struct hub_sub *sub) {
    if (!sub->latest)
        return;
    struct hub_latest *l = sub->list->slots[sub->at].self;
    if (!l->waiting || !is_open(l))
        return;
    l->waiting = false;
    if (l->due != 0)
        return; /* the interval's end sends */
    struct batch b = {.buf = NULL};
    (void)send_kept(c, l, &b);
    batch_done(&b);
}

void hub_latest_end(struct hub_sub *sub) {
    if (!sub->latest)
        return;
    struct hub_latest *l = sub->list->slots[sub->at].self;
    sub->latest = false;
    while (l->first != NULL)
        place_free(l, l->first);
    due_unlink(l);
    hash_table_done(&l->places);
    free(l);
}
