/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_feed.c - feeds: opened with what the offline queue knows of the device, extended when their
 * user joins a conversation.
 *
 * The conversations of a feed are subscribed to one after the other, a bounded number of them at a
 * time for the whole hub, in turns.  Subscriptions that the client asks for wait until the queue
 * has said which they are and where the device stands there: what waits comes before what happens,
 * whoever of the two is granted first.
 *
 * A feed in trouble is tried again, less and less often, for as long as its session lasts; what the
 * client asks for is refused after a while.
 */
#include "actors/hub_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define ATTACHES_MAX 64u /* in flight for feeds */
#define OPEN_DEADLINE_NS (10 * PTN_SEC)
#define HOLD_NS (10 * PTN_SEC)
#define RETRY_NS (100 * PTN_MS)
#define RETRY_DOUBLINGS_MAX 6u

struct feed_item { /* a conversation to subscribe to */
    struct feed_item *next;
    uint64_t acked, gap_from; /* gap_from 0: no gap */
    bool joined;              /* the queue does not know that the device begins there */
    bool told;                /* the client, that there is no room for it */
    uint32_t deliveries;
    char reason[16]; /* of the gap */
    uint32_t topic_bytes;
    char topic[];
};

struct held { /* a subscription that waits for the queue's list */
    uint64_t tag;
    ptn_str topic;  /* in buf */
    ptn_time until; /* then it is refused */
    ptn_buf *buf;
};

struct feed_work { /* what a feed needs until it is subscribed to all of its conversations */
    struct hub_feed *line_next;
    struct hub_feed *late_next, **late_pprev; /* tried again later; late_pprev NULL: not there */
    ptn_time retry_at;
    uint32_t failures; /* in a row */
    uint32_t n_attaching;
    struct feed_item *items, **items_tail;
    struct held *held;
    uint32_t n_held, held_cap;
};

struct hub_feed {
    struct hub_feed *next, **pprev;           /* all of the hub */
    struct hub_feed *user_next, **user_pprev; /* of the same user */
    struct hub_reader *reader;
    struct hub_sink *sink;  /* NULL: closed; freed when the queue has answered */
    struct feed_work *work; /* NULL: listed, and there is nothing to do */
    uint64_t roles;
    bool asking, in_line;
    bool listed; /* the queue has said which conversations it has */
    uint8_t device_bytes;
    char device[];
};

struct hub_reader { /* a user with feeds here */
    UT_hash_handle hh;
    struct hub_feed *feeds;
    uint8_t user_bytes;
    char user[];
};

/* ---- birth and end ------------------------------------------------------------------------ */

static struct hub_reader *reader_of(ptn_hub *h, ptn_str user, bool make) {
    struct hub_reader *r = NULL;
    HASH_FIND(hh, h->feeds.readers, user.p, user.n, r);
    if (r != NULL || !make)
        return r;
    r = calloc(1, sizeof *r + user.n);
    if (r == NULL)
        return NULL;
    memcpy(r->user, user.p, user.n);
    r->user_bytes = (uint8_t)user.n;
    HASH_ADD_KEYPTR(hh, h->feeds.readers, r->user, r->user_bytes, r);
    if (r->hh.tbl == NULL) {
        free(r);
        return NULL;
    }
    return r;
}

/* False: no memory. */
static bool feed_needs_work(struct hub_feed *f) {
    if (f->work == NULL) {
        f->work = calloc(1, sizeof *f->work);
        if (f->work != NULL)
            f->work->items_tail = &f->work->items;
    }
    return f->work != NULL;
}

static struct hub_feed *feed_new(ptn_hub *h, struct hub_sink *s, uint64_t roles, ptn_str device) {
    struct hub_feed *f = calloc(1, sizeof *f + device.n);
    if (f == NULL)
        return NULL;
    struct hub_reader *r = feed_needs_work(f) ? reader_of(h, hub_sink_user(s), true) : NULL;
    if (r == NULL) {
        free(f->work);
        free(f);
        return NULL;
    }
    f->sink = s;
    f->roles = roles;
    f->device_bytes = (uint8_t)device.n;
    memcpy(f->device, device.p, device.n);
    f->next = h->feeds.all;
    f->pprev = &h->feeds.all;
    if (f->next != NULL)
        f->next->pprev = &f->next;
    h->feeds.all = f;
    f->reader = r;
    f->user_next = r->feeds;
    f->user_pprev = &r->feeds;
    if (f->user_next != NULL)
        f->user_next->user_pprev = &f->user_next;
    r->feeds = f;
    s->feed = f;
    return f;
}

static void feed_free(struct hub_feed *f) {
    *f->pprev = f->next;
    if (f->next != NULL)
        f->next->pprev = f->pprev;
    free(f->work);
    free(f);
}

static bool is_late(const struct hub_feed *f) {
    return f->work->late_pprev != NULL;
}

static void late_leave(struct hub_feed *f) {
    struct feed_work *w = f->work;
    if (!is_late(f))
        return;
    *w->late_pprev = w->late_next;
    if (w->late_next != NULL)
        w->late_next->work->late_pprev = w->late_pprev;
    w->late_pprev = NULL;
}

static void work_empty(struct hub_feed *f) {
    struct feed_work *w = f->work;
    late_leave(f);
    while (w->items != NULL) {
        struct feed_item *item = w->items;
        w->items = item->next;
        free(item);
    }
    w->items_tail = &w->items;
    while (w->n_held > 0)
        ptn_buf_unref(w->held[--w->n_held].buf);
    free(w->held);
    w->held = NULL;
    w->held_cap = 0;
}

/* A feed that has all of its conversations keeps nothing of the way there. */
static void feed_rest(struct hub_feed *f) {
    const struct feed_work *w = f->work;
    if (w == NULL || !f->listed || f->in_line || is_late(f) || w->items != NULL ||
        w->n_attaching > 0)
        return;
    free(f->work);
    f->work = NULL;
}

/* What the sink had of it. */
static void feed_empty(ptn_hub *h, struct hub_feed *f) {
    if (f->work != NULL)
        work_empty(f);
    *f->user_pprev = f->user_next;
    if (f->user_next != NULL)
        f->user_next->user_pprev = f->user_pprev;
    if (f->reader->feeds == NULL) {
        HASH_DEL(h->feeds.readers, f->reader);
        free(f->reader);
    }
    f->reader = NULL;
    f->sink->feed = NULL;
    f->sink = NULL;
}

void hub_feed_close(ptn_hub *h, struct hub_sink *s) {
    struct hub_feed *f = s->feed;
    if (f == NULL)
        return;
    feed_empty(h, f);
    if (!f->asking && !f->in_line)
        feed_free(f);
}

void hub_feed_done(ptn_hub *h) {
    struct hub_feeds *all = &h->feeds;
    while (all->all != NULL) {
        struct hub_feed *f = all->all;
        if (f->sink != NULL)
            feed_empty(h, f);
        feed_free(f);
    }
    all->line_first = all->line_last = NULL;
    all->n_attaching = 0;
}

/* A sink that has closed keeps its feed until it is buried. */
static bool is_open(const struct hub_feed *f) {
    return f->sink != NULL && hub_sink_of(f->sink->hub, hub_sink_id(f->sink)) == f->sink;
}

void hub_feed_reset_all(ptn_ctx *c, ptn_hub *h) {
    for (struct hub_feed *f = h->feeds.all; f != NULL; f = f->next)
        if (is_open(f))
            hub_reset_sink(c, h, f->sink);
}

/* ---- what waits for the feed -------------------------------------------------------------- */

static bool held_grow(struct feed_work *w) {
    if (w->n_held < w->held_cap)
        return true;
    uint32_t cap = w->held_cap == 0 ? 4 : w->held_cap * 2;
    struct held *held = realloc(w->held, cap * sizeof *held);
    if (held == NULL)
        return false;
    w->held = held;
    w->held_cap = cap;
    return true;
}

bool hub_feed_holds(ptn_ctx *c, struct hub_sink *s, uint64_t tag, ptn_str topic, ptn_buf *b) {
    struct hub_feed *f = s->feed;
    if (f == NULL || f->listed || !ptn_str_starts(topic, PTN_STR(HUB_CONVERSATION)))
        return false;
    struct feed_work *w = f->work;
    if (!held_grow(w)) {
        hub_refuse_full(c, s->hub, s, tag, topic, false);
        return true;
    }
    w->held[w->n_held++] = (struct held){tag, topic, ptn_now(c) + HOLD_NS, ptn_buf_ref(b)};
    s->n_attaches++; /* so that its bound holds for these, too */
    return true;
}

static void held_refuse(ptn_ctx *c, struct hub_feed *f, uint32_t i, int code, const char *message) {
    struct feed_work *w = f->work;
    struct held held = w->held[i];
    w->n_held--;
    memmove(&w->held[i], &w->held[i + 1], (w->n_held - i) * sizeof held);
    f->sink->n_attaches--;
    hub_refuse(c, f->sink, held.tag, held.topic, code, message);
    ptn_buf_unref(held.buf);
}

void hub_feed_cancel(ptn_ctx *c, struct hub_sink *s, ptn_str topic, const char *message) {
    struct hub_feed *f = s->feed;
    for (uint32_t i = f != NULL && f->work != NULL ? f->work->n_held : 0; i > 0; i--)
        if (is_open(f) && ptn_str_eq(f->work->held[i - 1].topic, topic))
            held_refuse(c, f, i - 1, PTN_CODE_CONFLICT, message);
}

/* Whatever happens to the sink on the way, its memory and the feed's stay until the hub's message
 * has been handled. */
static void held_release(ptn_ctx *c, struct hub_feed *f) {
    struct feed_work *w = f->work;
    struct held *held = w->held;
    uint32_t n = w->n_held;
    w->held = NULL;
    w->n_held = w->held_cap = 0;
    f->sink->n_attaches -= n;
    for (uint32_t i = 0; i < n; i++) {
        hub_take(c, f->sink->hub, held[i].buf);
        ptn_buf_unref(held[i].buf);
    }
    free(held);
}

/* ---- subscribing -------------------------------------------------------------------------- */

static void line_add(struct hub_feed *f) {
    struct hub_feeds *all = &f->sink->hub->feeds;
    if (f->in_line || is_late(f))
        return;
    f->in_line = true;
    f->work->line_next = NULL;
    if (all->line_last != NULL)
        all->line_last->work->line_next = f;
    else
        all->line_first = f;
    all->line_last = f;
}

static void item_push(struct hub_feed *f, struct feed_item *item) {
    struct feed_work *w = f->work;
    item->next = NULL;
    *w->items_tail = item;
    w->items_tail = &item->next;
    line_add(f);
}

static struct feed_item *item_pop(struct feed_work *w) {
    struct feed_item *item = w->items;
    w->items = item->next;
    if (w->items == NULL)
        w->items_tail = &w->items;
    return item;
}

static void feed_ask(ptn_ctx *c, struct hub_feed *f);
static void serve(ptn_ctx *c, ptn_hub *h);

static void retry_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    ptn_hub *h = arg;
    (void)state;
    for (struct hub_feed *f = h->feeds.late, *next; f != NULL; f = next) {
        next = f->work->late_next;
        if (ptn_now(c) < f->work->retry_at)
            continue;
        late_leave(f);
        if (!is_open(f))
            continue;
        if (!f->listed)
            feed_ask(c, f);
        else if (f->work->items != NULL)
            line_add(f);
    }
    serve(c, h);
    if (h->feeds.late != NULL)
        ptn_timer_start(c, t, RETRY_NS, retry_due, h);
}

/* The wait doubles, minus a random part of up to a quarter.  No subscription waits much longer than
 * an attempt takes. */
static void retry_later(ptn_ctx *c, struct hub_feed *f) {
    struct feed_work *w = f->work;
    ptn_hub *h = f->sink->hub;
    struct hub_feeds *all = &h->feeds;
    if (is_late(f))
        return;
    ptn_time wait = RETRY_NS << w->failures;
    uint32_t random;
    ptn_random(c, &random, sizeof random);
    w->retry_at = ptn_now(c) + wait - wait / 4 * (random >> 16) / 65536;
    w->failures += w->failures < RETRY_DOUBLINGS_MAX;
    w->late_next = all->late;
    w->late_pprev = &all->late;
    if (w->late_next != NULL)
        w->late_next->work->late_pprev = &w->late_next;
    all->late = f;
    ptn_count(PTN_C_FEED_RETRIES, 1);
    if (!ptn_timer_is_armed(&all->retry_timer))
        ptn_timer_start(c, &all->retry_timer, RETRY_NS, retry_due, h);
    while (is_open(f) && w->n_held > 0 && ptn_now(c) >= w->held[0].until)
        held_refuse(c, f, 0, PTN_CODE_OVERLOADED,
                    "what waits for this device cannot be read; subscribe again in a moment");
}

/* Its oldest item; tried again later when the owner takes nothing now. */
static void item_attach(ptn_ctx *c, ptn_hub *h, struct hub_feed *f) {
    struct feed_item *item = item_pop(f->work);
    struct hub_sink *s = f->sink;
    struct hub_attach *a =
        hub_attach_new(h, s, 0, (ptn_str){item->topic, item->topic_bytes}, PTN_POLICY_STORED);
    if (a == NULL) {
        retry_later(c, f);
        item_push(f, item);
        return;
    }
    s->n_attaches--; /* that number bounds what the client asks for */
    a->item = item;
    f->work->n_attaching++;
    h->feeds.n_attaching++;
    if (hub_attach_topic(c, h, s, a, (ptn_position){0}, f->roles) == 0)
        return;
    a->item = NULL;
    hub_attach_free(a);
    retry_later(c, f);
    item_push(f, item);
    hub_feed_attach_ended(h, s, item);
}

static void serve(ptn_ctx *c, ptn_hub *h) {
    struct hub_feeds *all = &h->feeds;
    while (all->n_attaching < ATTACHES_MAX && all->line_first != NULL) {
        struct hub_feed *f = all->line_first;
        all->line_first = f->work->line_next;
        if (all->line_first == NULL)
            all->line_last = NULL;
        f->in_line = false;
        if (f->sink == NULL) {
            if (!f->asking)
                feed_free(f);
            continue;
        }
        if (!is_open(f) || is_late(f))
            continue; /* closed, and buried soon; or it comes back by its timer */
        if (f->work->items != NULL)
            item_attach(c, h, f);
        if (f->work->items != NULL)
            line_add(f);
    }
}

void hub_feed_go_on(ptn_ctx *c, ptn_hub *h) {
    serve(c, h);
}

void hub_feed_attach_ended(ptn_hub *h, struct hub_sink *s, const struct feed_item *item) {
    if (item == NULL)
        return;
    h->feeds.n_attaching--;
    if (s == NULL || s->feed == NULL)
        return;
    s->feed->work->n_attaching--;
    feed_rest(s->feed);
}

void hub_feed_refused(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct feed_item **item, int err,
                      const ptn_msg *reply) {
    ptn_problem p;
    bool gone = err == 0 && ptn_problem_unpack(ptn_msg_bytes(reply), &p) &&
                (p.code == PTN_CODE_FORBIDDEN || p.code == PTN_CODE_NOT_FOUND);
    if (gone || s->feed == NULL)
        return; /* no longer a member */
    retry_later(c, s->feed);
    item_push(s->feed, *item);
    *item = NULL;
    h->feeds.n_attaching--;
    s->feed->work->n_attaching--;
    s->n_attaches++; /* what attach_end() takes back without an item */
}

void hub_feed_no_room(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct feed_item **item) {
    struct feed_item *i = *item;
    if (!i->told)
        hub_refuse_full(c, h, s, 0, (ptn_str){i->topic, i->topic_bytes}, true);
    i->told = true;
    hub_feed_refused(c, h, s, item, -PTN_EOVERLOAD, NULL);
}

/* ---- joining once more -------------------------------------------------------------------- */

static bool is_of(const struct feed_item *item, ptn_str topic) {
    return ptn_str_eq((ptn_str){item->topic, item->topic_bytes}, topic);
}

static void begin_at(struct feed_item *item, uint64_t seq) {
    if (item->acked >= seq)
        return;
    item->acked = seq;
    item->deliveries = 0;
    item->gap_from = 0;
    item->joined = true;
}

/* On its way to the topic's owner; NULL: none. */
static struct feed_item *item_asked(const struct hub_feed *f, ptn_str topic) {
    const struct feed_work *w = f->work;
    const struct hub_attach *a = w != NULL && w->n_attaching > 0 ? f->sink->hub->attaches : NULL;
    while (a != NULL &&
           (a->item == NULL || a->sink != hub_sink_id(f->sink) || !is_of(a->item, topic)))
        a = a->next;
    return a != NULL ? a->item : NULL;
}

static struct feed_item *item_in_line(const struct hub_feed *f, ptn_str topic) {
    struct feed_item *item = f->work != NULL ? f->work->items : NULL;
    while (item != NULL && !is_of(item, topic))
        item = item->next;
    return item;
}

/* What could not be subscribed to yet begins where its user has joined last: who has been removed
 * meanwhile does not hear what was said then.  True: it stands in line. */
static bool rejoin(struct hub_feed *f, ptn_str topic, uint64_t seq) {
    struct feed_item *asked = item_asked(f, topic), *item = item_in_line(f, topic);
    if (asked != NULL)
        begin_at(asked, seq);
    if (item != NULL)
        begin_at(item, seq);
    return item != NULL;
}

/* The queue may have made its list before that: one that joined meanwhile came before `end`. */
static void rejoin_listed(const struct hub_feed *f, struct feed_item *listed,
                          const struct feed_item *end) {
    ptn_str topic = {listed->topic, listed->topic_bytes};
    const struct feed_item *item = item_asked(f, topic);
    if (item != NULL)
        begin_at(listed, item->acked);
    for (item = f->work->items; item != end; item = item->next)
        if (is_of(item, topic))
            begin_at(listed, item->acked);
}

/* ---- opening ------------------------------------------------------------------------------ */

static struct feed_item *item_new(ptn_str topic_prefix, ptn_str name) {
    struct feed_item *item = calloc(1, sizeof *item + topic_prefix.n + name.n);
    if (item == NULL)
        return NULL;
    item->topic_bytes = (uint32_t)(topic_prefix.n + name.n);
    memcpy(item->topic, topic_prefix.p, topic_prefix.n);
    memcpy(item->topic + topic_prefix.n, name.p, name.n);
    return item;
}

/* STORE_FEED into items.  False: malformed, or no memory. */
static bool read_items(struct hub_feed *f, ptn_unpack u) {
    uint32_t n, fields;
    struct feed_item **begin = f->work->items_tail;
    if (!ptn_unpack_array(&u, &n))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        ptn_str id, reason;
        uint64_t acked, deliveries, gap_from;
        if (!ptn_unpack_array(&u, &fields) || fields != 5 || !ptn_unpack_str(&u, &id) ||
            id.n > PTN_TOPIC_BYTES_MAX - sizeof HUB_CONVERSATION || !ptn_unpack_uint(&u, &acked) ||
            !ptn_unpack_uint(&u, &deliveries) || !ptn_unpack_uint(&u, &gap_from) ||
            !ptn_unpack_str_or_nil(&u, &reason))
            return false;
        struct feed_item *item = item_new(PTN_STR(HUB_CONVERSATION), id);
        if (item == NULL)
            return false;
        item->acked = acked;
        item->deliveries = (uint32_t)deliveries;
        if (reason.n > 0 && reason.n < sizeof item->reason) {
            item->gap_from = gap_from;
            memcpy(item->reason, reason.p, reason.n);
        }
        rejoin_listed(f, item, *begin);
        item_push(f, item);
    }
    return true;
}

static void feed_listed(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct hub_feed *f = arg;
    (void)state;
    f->asking = false;
    if (f->sink == NULL) {
        if (!f->in_line)
            feed_free(f);
        return;
    }
    ptn_hub *h = f->sink->hub;
    if (!is_open(f))
        return; /* the burial ends the feed */
    if (err != 0 || reply->type != PTN_MSG_STORE_FEED) {
        retry_later(c, f);
        return;
    }
    if (!read_items(f, ptn_unpack_of(ptn_msg_bytes(reply)))) {
        hub_reset_sink(c, h, f->sink);
        return;
    }
    f->listed = true;
    f->work->failures = 0;
    held_release(c, f); /* before the feed's own, which find them granted */
    feed_rest(f);
    serve(c, h);
}

static void feed_ask(ptn_ctx *c, struct hub_feed *f) {
    const ptn_directory *d = f->sink->hub->directory;
    ptn_str user = hub_sink_user(f->sink);
    ptn_pack w;
    ptn_pack_init(&w, 160);
    ptn_pack_array(&w, 2);
    ptn_pack_str(&w, user);
    ptn_pack_str(&w, (ptn_str){f->device, f->device_bytes});
    ptn_buf *b = ptn_pack_finish(&w);
    int err = b == NULL ? -PTN_ENOMEM
                        : ptn_ask(c, d->queue[ptn_shard(user, d->workers)], PTN_MSG_QUEUE_OPEN, b,
                                  ptn_now(c) + OPEN_DEADLINE_NS, feed_listed, f, NULL);
    f->asking = err == 0;
    if (err < 0) {
        ptn_buf_unref(b);
        retry_later(c, f);
    }
}

int hub_feed_open(ptn_ctx *c, ptn_hub *h, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    uint64_t id, roles;
    ptn_str device;
    if (!ptn_unpack_array(&u, &n) || n != 3 || !ptn_unpack_uint(&u, &id) ||
        !ptn_unpack_uint(&u, &roles) || !ptn_unpack_str(&u, &device))
        return -PTN_EPROTO;
    struct hub_sink *s = hub_sink_of(h, id);
    if (s == NULL || s->feed != NULL || s->ops->message == NULL || s->user_bytes == 0 ||
        device.n > PTN_DEVICE_BYTES_MAX)
        return 0;
    struct hub_feed *f = feed_new(h, s, roles, device);
    if (f == NULL)
        hub_reset_sink(c, h, s);
    else
        feed_ask(c, f);
    return 0;
}

int hub_feed_joined(ptn_ctx *c, ptn_hub *h, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m)), users;
    uint32_t n;
    uint64_t seq;
    ptn_str topic, user;
    if (!ptn_unpack_array(&u, &n) || n != 3 || !ptn_unpack_str(&u, &topic))
        return -PTN_EPROTO;
    users = u;
    if (!ptn_unpack_any(&u, NULL) || !ptn_unpack_uint(&u, &seq) || !ptn_unpack_array(&users, &n))
        return -PTN_EPROTO;
    for (; n > 0 && ptn_unpack_str(&users, &user); n--) {
        struct hub_reader *r = reader_of(h, user, false);
        for (struct hub_feed *f = r != NULL ? r->feeds : NULL; f != NULL; f = f->user_next) {
            if (rejoin(f, topic, seq))
                continue;
            struct feed_item *item = item_new(topic, (ptn_str){"", 0});
            if (item == NULL || !feed_needs_work(f)) {
                free(item);
                hub_reset_sink(c, h, f->sink);
                continue;
            }
            item->acked = seq;
            item->joined = true;
            item_push(f, item);
        }
    }
    serve(c, h);
    return 0;
}

int hub_feed_moved(ptn_ctx *c, ptn_hub *h, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    uint64_t seq;
    ptn_str topic, user, device, why;
    char reason[16] = "";
    if (!ptn_unpack_array(&u, &n) || n != 5 || !ptn_unpack_str(&u, &topic) ||
        !ptn_unpack_str(&u, &user) || !ptn_unpack_str(&u, &device) || !ptn_unpack_uint(&u, &seq) ||
        !ptn_unpack_str_or_nil(&u, &why) || why.n >= sizeof reason)
        return -PTN_EPROTO;
    if (why.n > 0)
        memcpy(reason, why.p, why.n);
    struct hub_topic *t = hub_index_topic(&h->index, topic, false);
    struct hub_reader *r = t != NULL ? reader_of(h, user, false) : NULL;
    for (struct hub_feed *f = r != NULL ? r->feeds : NULL; f != NULL; f = f->user_next) {
        struct hub_sub *sub = hub_find_sub(f->sink, &t->list);
        if (sub == NULL || sub->cursor == NULL || hub_sink_of(h, hub_sink_id(f->sink)) != f->sink ||
            !ptn_str_eq(device, (ptn_str){f->device, f->device_bytes}))
            continue;
        if (ptn_str_eqz(why, "acknowledged"))
            hub_cursor_acknowledged(c, sub->cursor, seq);
        else if (why.n > 0)
            hub_cursor_passed(c, sub->cursor, seq, reason);
        else
            hub_cursor_rewind(c, sub->cursor, seq);
    }
    return 0;
}

/* ---- what cursors need to know ------------------------------------------------------------ */

void hub_feed_granted(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, const struct feed_item *item,
                      bool taken) {
    struct hub_sink *s = sub->sink;
    s->feed->work->failures = 0;
    if (sub->cursor != NULL)
        return; /* it came by two ways: in the queue's list, and as a new member */
    hub_cursor_new(c, h, sub, item->acked, item->deliveries, taken);
    if (item->joined && sub->cursor != NULL)
        hub_cursor_report(c, sub->cursor);
    if (item->gap_from == 0 || hub_sink_of(h, hub_sink_id(s)) != s || s->ops->gap == NULL)
        return;
    const ptn_gap gap = {(ptn_str){item->topic, item->topic_bytes}, item->gap_from, item->acked,
                         item->reason};
    s->ops->gap(c, s->self, &gap);
}

/* What the feed of this sink is to subscribe to, and has not yet.  NULL: not this topic. */
static const struct feed_item *item_of(const struct hub_sink *s, const struct hub_topic *t) {
    const struct hub_feed *f = s->feed;
    const ptn_str topic = {t->name, t->name_bytes};
    const struct feed_item *item = f != NULL ? item_in_line(f, topic) : NULL;
    return item != NULL || f == NULL ? item : item_asked(f, topic);
}

void hub_feed_precede(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, struct hub_topic *t) {
    const struct feed_item *item = item_of(s, t);
    if (item == NULL || hub_find_sub(s, &t->list) != NULL)
        return;
    struct hub_sub *sub = hub_join(h, s, &t->list, PTN_POLICY_STORED, true);
    if (sub != NULL)
        hub_feed_granted(c, h, sub, item, false);
    else if (!hub_is_full(h, s, true))
        hub_reset_sink(c, h, s); /* no memory; without it what waits would be passed over */
}

int hub_feed_tell(ptn_ctx *c, ptn_hub *h, const struct hub_sink *s, uint32_t type,
                  ptn_str conversation, uint64_t seq, uint64_t deliveries, uint64_t got) {
    const ptn_directory *d = h->directory;
    ptn_str user = hub_sink_user(s);
    ptn_pack w;
    ptn_pack_init(&w, 224);
    ptn_pack_array(&w, 6);
    ptn_pack_str(&w, user);
    ptn_pack_str(&w, (ptn_str){s->feed->device, s->feed->device_bytes});
    ptn_pack_str(&w, conversation);
    ptn_pack_uint(&w, seq);
    ptn_pack_uint(&w, deliveries);
    ptn_pack_uint(&w, got);
    return hub_cast(c, d->queue[ptn_shard(user, d->workers)], type, &w);
}
