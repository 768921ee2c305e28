/* SPDX-License-Identifier: Apache-2.0
 *
 * topics.c - order, position and recent history of every topic that is not a conversation.
 *
 * A topic belongs to one shard by its name, so that one actor assigns its offsets.  (epoch, offset)
 * names a position: the epoch is random and new whenever the topic's state is, so a client can
 * never mistake one life of a topic for another.  State is memory: it is dropped, least recently
 * used first and never while somebody listens, and lost at a restart; a client then sees
 * `recovered: false`.
 *
 * An event that a hub refuses (its mailbox is full) is a hole in what that hub hears.  The hub is
 * told to start over (OWNER_RESTARTED) before it gets anything newer, or from a timer when nothing
 * newer comes.
 */
#include "actors/topics.h"

#include <postern/metrics.h>

#include <stdlib.h>
#include <uthash.h>

#define EPOCH_BYTES 16
#define RESYNC_NS (50 * PTN_MS)

struct history { /* ring of sealed EVENT payloads, oldest at `first` */
    ptn_buf **events;
    uint32_t first, n, cap;
    uint64_t bytes;
};

/* Topics that may be forgotten because nobody listens, and topics with a history to forget. */
enum topic_list { LIST_UNHEARD, LIST_HISTORY, LISTS };

struct topic_link {
    struct topic *next, *prev;
    bool in;
};

struct topic {
    UT_hash_handle hh;
    struct topic_link link[LISTS];
    uint64_t hubs; /* bit per worker whose hub is attached */
    uint64_t offset;
    struct history history;
    char epoch[EPOCH_BYTES];
    uint32_t name_bytes;
    char name[];
};

struct publication;

struct topics {
    struct topics_config config;
    struct publication *idle; /* finished ones, for reuse; arena memory */
    struct topic *by_name;
    struct topic *first[LISTS], *last[LISTS]; /* most recently used first */
    uint64_t watching;                        /* workers whose hub wants every event */
    uint64_t resync; /* workers whose hub refused an event: tell it to start over */
    ptn_timer resync_timer;
    uint64_t history_bytes;
    int64_t n_topics;
};

/* ---- lists -------------------------------------------------------------------------------- */

static void list_remove(struct topics *s, enum topic_list k, struct topic *t) {
    struct topic_link *l = &t->link[k];
    if (!l->in)
        return;
    *(l->prev != NULL ? &l->prev->link[k].next : &s->first[k]) = l->next;
    *(l->next != NULL ? &l->next->link[k].prev : &s->last[k]) = l->prev;
    *l = (struct topic_link){0};
}

static void list_to_front(struct topics *s, enum topic_list k, struct topic *t) {
    list_remove(s, k, t);
    t->link[k] = (struct topic_link){.next = s->first[k], .in = true};
    *(s->first[k] != NULL ? &s->first[k]->link[k].prev : &s->last[k]) = t;
    s->first[k] = t;
}

/* ---- history ------------------------------------------------------------------------------ */

static void history_drop_oldest(struct topics *s, struct history *h) {
    ptn_buf *b = h->events[h->first];
    size_t n = ptn_buf_bytes(b).n;
    h->first = (h->first + 1) % h->cap;
    h->n--;
    h->bytes -= n;
    s->history_bytes -= n;
    ptn_buf_unref(b);
}

static void history_clear(struct topics *s, struct topic *t) {
    struct history *h = &t->history;
    while (h->n > 0)
        history_drop_oldest(s, h);
    free(h->events);
    *h = (struct history){0};
    list_remove(s, LIST_HISTORY, t);
}

static bool history_grow(struct history *h, uint32_t max) {
    uint32_t cap = h->cap == 0 ? 4 : h->cap * 2;
    if (cap > max)
        cap = max;
    ptn_buf **events = malloc(cap * sizeof(ptn_buf *));
    if (events == NULL)
        return false;
    for (uint32_t i = 0; i < h->n; i++)
        events[i] = h->events[(h->first + i) % h->cap];
    free(h->events);
    h->events = events;
    h->first = 0;
    h->cap = cap;
    return true;
}

/* Keeps a reference to b.  What does not fit the bounds pushes the oldest out; topics that were not
 * used for longest lose their history first when the whole shard is over its budget. */
static void history_add(struct topics *s, struct topic *t, ptn_buf *b) {
    struct history *h = &t->history;
    size_t n = ptn_buf_bytes(b).n;
    if (n > s->config.history_bytes_max) {
        history_clear(s, t); /* a hole is worse than nothing */
        return;
    }
    while (h->n > 0 &&
           (h->n == s->config.history_events_max || h->bytes + n > s->config.history_bytes_max))
        history_drop_oldest(s, h);
    if (h->n == h->cap && !history_grow(h, s->config.history_events_max)) {
        history_clear(s, t);
        return;
    }
    h->events[(h->first + h->n++) % h->cap] = ptn_buf_ref(b);
    h->bytes += n;
    s->history_bytes += n;
    list_to_front(s, LIST_HISTORY, t);
    while (s->history_bytes > s->config.history_total_bytes && s->last[LIST_HISTORY] != t)
        history_clear(s, s->last[LIST_HISTORY]);
}

/* ---- table -------------------------------------------------------------------------------- */

static void topic_free(struct topics *s, struct topic *t) {
    history_clear(s, t);
    list_remove(s, LIST_UNHEARD, t);
    HASH_DELETE(hh, s->by_name, t);
    s->n_topics--;
    ptn_gauge_add(PTN_G_TOPICS, -1);
    free(t);
}

/* Makes room by forgetting the topic that nobody listens to and nobody used for longest. */
static bool evict_one(struct topics *s) {
    if (s->last[LIST_UNHEARD] == NULL)
        return false;
    topic_free(s, s->last[LIST_UNHEARD]);
    return true;
}

static void topic_set_hub(struct topics *s, struct topic *t, unsigned worker, bool attached) {
    uint64_t bit = UINT64_C(1) << worker;
    t->hubs = attached ? t->hubs | bit : t->hubs & ~bit;
    if (t->hubs != 0)
        list_remove(s, LIST_UNHEARD, t);
    else if (!t->link[LIST_UNHEARD].in)
        list_to_front(s, LIST_UNHEARD, t);
}

/* The topic, the most recently used now; made when absent.  NULL: every place is taken by a topic
 * in use. */
static struct topic *topic_of(ptn_ctx *c, struct topics *s, ptn_str name) {
    struct topic *t = NULL;
    HASH_FIND(hh, s->by_name, name.p, name.n, t);
    if (t != NULL) {
        if (t->hubs == 0)
            list_to_front(s, LIST_UNHEARD, t);
        return t;
    }
    if (s->n_topics >= (int64_t)s->config.topics_max && !evict_one(s))
        return NULL;
    t = calloc(1, sizeof *t + name.n);
    if (t == NULL)
        return NULL;
    static const char hex[] = "0123456789abcdef";
    uint8_t random[EPOCH_BYTES / 2];
    ptn_random(c, random, sizeof random);
    for (unsigned i = 0; i < EPOCH_BYTES; i++)
        t->epoch[i] = hex[random[i / 2] >> (i % 2 * 4) & 15];
    memcpy(t->name, name.p, name.n);
    t->name_bytes = (uint32_t)name.n;
    HASH_ADD_KEYPTR(hh, s->by_name, t->name, t->name_bytes, t);
    list_to_front(s, LIST_UNHEARD, t);
    s->n_topics++;
    ptn_gauge_add(PTN_G_TOPICS, 1);
    return t;
}

/* ---- publishing --------------------------------------------------------------------------- */

struct publication { /* an answer that waits for the hubs to count */
    struct topics *shard;
    struct publication *next;
    ptn_reply_to reply;
    uint64_t offset, subscribers;
    uint32_t waiting;
    char epoch[EPOCH_BYTES];
};

/* From the arena and back to a list: the steady path does not allocate.  There are never more than
 * requests in flight, which the adapters bound. */
static struct publication *publication_new(ptn_ctx *c, struct topics *s, ptn_reply_to to) {
    struct publication *p = s->idle;
    if (p != NULL)
        s->idle = p->next;
    else
        p = ptn_alloc(c, sizeof *p);
    if (p != NULL)
        *p = (struct publication){.shard = s, .reply = to};
    return p;
}

static void publication_recycle(struct publication *p) {
    p->next = p->shard->idle;
    p->shard->idle = p;
}

static void publication_end(ptn_ctx *c, struct publication *p) {
    ptn_pack w;
    ptn_pack_init(&w, 96);
    ptn_response_begin(&w, 202);
    ptn_pack_map(&w, 3);
    ptn_pack_key(&w, "epoch");
    ptn_pack_str(&w, (ptn_str){p->epoch, EPOCH_BYTES});
    ptn_pack_key(&w, "offset");
    ptn_pack_uint(&w, p->offset);
    ptn_pack_key(&w, "subscribers");
    ptn_pack_uint(&w, p->subscribers);
    ptn_response_send(c, p->reply, &w);
    publication_recycle(p);
}

static void counted(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct publication *p = arg;
    uint32_t n;
    uint64_t subscribers;
    (void)state;
    if (err == 0 && reply->type == PTN_MSG_EVENT_COUNT) {
        ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
        if (ptn_unpack_array(&u, &n) && n == 1 && ptn_unpack_uint(&u, &subscribers))
            p->subscribers += subscribers;
    }
    if (--p->waiting == 0)
        publication_end(c, p);
}

static void resync(ptn_ctx *c, struct topics *s, unsigned worker);

static void resync_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct topics *s = state;
    (void)t, (void)arg;
    for (unsigned i = 0; i < s->config.directory->workers; i++)
        if (s->resync & UINT64_C(1) << i)
            resync(c, s, i);
}

/* The hub of this worker misses something: it starts over, now or as soon as it listens again. */
static void resync(ptn_ctx *c, struct topics *s, unsigned worker) {
    uint64_t bit = UINT64_C(1) << worker;
    int err = ptn_cast(c, s->config.directory->hub[worker], PTN_MSG_OWNER_RESTARTED, NULL);
    if (err == 0 || err == -PTN_ENOACTOR) {
        s->resync &= ~bit;
        return;
    }
    s->resync |= bit;
    if (!ptn_timer_is_armed(&s->resync_timer))
        ptn_timer_start(c, &s->resync_timer, RESYNC_NS, resync_due, NULL);
}

/* One event to the hub of one worker.  A refusal must not pass in silence.  Lasting: what the
 * others hear does not depend on the patience of the publisher. */
static void send_event(ptn_ctx *c, struct topics *s, unsigned worker, ptn_buf *event,
                       struct publication *p) {
    uint64_t bit = UINT64_C(1) << worker;
    ptn_addr hub = s->config.directory->hub[worker];
    if (s->resync & bit)
        resync(c, s, worker);
    if (s->resync & bit) { /* still refused: nothing newer may come before it, room or not */
        ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
        return;
    }
    ptn_buf *b = ptn_buf_ref(event);
    if (p != NULL && ptn_ask_lasting(c, hub, PTN_MSG_EVENT, b, PTN_NEVER, counted, p, NULL) == 0) {
        p->waiting++;
        return;
    }
    /* Nobody to count for, or no room for another answer: then without. */
    if (ptn_cast(c, hub, PTN_MSG_EVENT, b) == 0)
        return;
    ptn_buf_unref(b);
    ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
    resync(c, s, worker);
}

/* Assigns the offset, remembers, fans out.  0 or negative; p is the caller's until something waits
 * on it. */
static int publish(ptn_ctx *c, struct topics *s, ptn_str name, ptn_bytes data,
                   struct publication *p) {
    struct topic *t = topic_of(c, s, name);
    if (t == NULL)
        return -PTN_EOVERLOAD;
    ptn_pack w;
    ptn_pack_init(&w, 48 + name.n + data.n);
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, name);
    ptn_pack_str(&w, (ptn_str){t->epoch, EPOCH_BYTES});
    ptn_pack_uint(&w, t->offset + 1);
    if (data.n > 0)
        ptn_pack_raw(&w, data);
    else
        ptn_pack_nil(&w);
    ptn_buf *event = ptn_pack_finish(&w);
    if (event == NULL)
        return -PTN_ENOMEM;
    t->offset++;
    history_add(s, t, event);
    if (p != NULL) {
        p->offset = t->offset;
        memcpy(p->epoch, t->epoch, EPOCH_BYTES);
    }
    uint64_t hubs = t->hubs | s->watching;
    for (unsigned worker = 0; hubs != 0; worker++, hubs >>= 1)
        if (hubs & 1)
            send_event(c, s, worker, event, p);
    ptn_buf_unref(event);
    return 0;
}

/* The topic in the path.  Empty: the problem has been sent. */
static ptn_str path_topic(ptn_ctx *c, const ptn_msg *m, const ptn_request *r, bool pattern,
                          char *buf, size_t buf_bytes) {
    ptn_str name;
    if (!ptn_path_segment(r->path, 1, buf, buf_bytes, &name) ||
        !(pattern ? ptn_pattern_is_valid(name) : ptn_topic_is_valid(name))) {
        ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_INVALID_REQUEST,
                         "a topic is 1 to 255 bytes of dot-separated, non-empty segments without "
                         "blanks or '*'");
        return (ptn_str){NULL, 0};
    }
    return name;
}

static int on_post(ptn_ctx *c, struct topics *s, const ptn_msg *m) {
    ptn_request r;
    char buf[PTN_TOPIC_BYTES_MAX];
    if (!ptn_request_unpack(ptn_msg_bytes(m), &r))
        return -PTN_EPROTO;
    ptn_str name = path_topic(c, m, &r, false, buf, sizeof buf);
    if (name.p == NULL)
        return 0;
    ptn_reply_to to = ptn_reply_token(c, m);
    if (ptn_topic_is_reserved(name)) {
        ptn_problem_send(c, to, PTN_CODE_FORBIDDEN,
                         "conversation.*, user.* and system.* are published by the broker; send a "
                         "message to the conversation, or choose another topic");
        return 0;
    }
    struct publication *p = publication_new(c, s, to);
    int err = p != NULL ? publish(c, s, name, r.body, p) : -PTN_ENOMEM;
    if (err < 0) {
        if (p != NULL)
            publication_recycle(p);
        ptn_problem_pass(c, to, err, NULL);
    } else if (p->waiting == 0) {
        publication_end(c, p);
    }
    return 0;
}

static int on_events(ptn_ctx *c, const ptn_msg *m) {
    ptn_request r;
    char buf[PTN_TOPIC_BYTES_MAX];
    if (!ptn_request_unpack(ptn_msg_bytes(m), &r))
        return -PTN_EPROTO;
    ptn_str name = path_topic(c, m, &r, true, buf, sizeof buf);
    if (name.p == NULL)
        return 0;
    ptn_pack w;
    ptn_pack_init(&w, 16 + name.n);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, name);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL || ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_STREAM, b) < 0)
        ptn_buf_unref(b);
    return 0;
}

static int on_publish(ptn_ctx *c, struct topics *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    ptn_str name;
    ptn_bytes data;
    if (!ptn_unpack_array(&u, &n) || n != 2 || !ptn_unpack_str(&u, &name) ||
        !ptn_unpack_any(&u, &data) || !ptn_topic_is_valid(name))
        return -PTN_EPROTO;
    if (publish(c, s, name, data, NULL) < 0)
        ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
    return 0;
}

/* ---- subscribers -------------------------------------------------------------------------- */

/* The worker of the hub that sent m, or workers when it is not a hub. */
static unsigned hub_worker(const struct topics *s, const ptn_msg *m) {
    const ptn_directory *d = s->config.directory;
    for (unsigned i = 0; i < d->workers; i++)
        if (d->hub[i] == m->from)
            return i;
    return d->workers;
}

/* Complete or nothing: true when the ring still has everything after `offset`. */
static bool history_covers(const struct topic *t, ptn_str epoch, uint64_t offset) {
    return ptn_str_eq(epoch, (ptn_str){t->epoch, EPOCH_BYTES}) && offset <= t->offset &&
           t->offset - offset <= t->history.n;
}

static void pack_history(ptn_pack *w, const struct topic *t, uint32_t n) {
    ptn_pack_array(w, n);
    for (uint32_t i = t->history.n - n; i < t->history.n; i++) {
        ptn_buf *b = t->history.events[(t->history.first + i) % t->history.cap];
        ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(b));
        uint32_t four;
        ptn_str name, epoch;
        uint64_t offset;
        ptn_bytes data = {0};
        bool ok = ptn_unpack_array(&u, &four) && ptn_unpack_str(&u, &name) &&
                  ptn_unpack_str(&u, &epoch) && ptn_unpack_uint(&u, &offset) &&
                  ptn_unpack_any(&u, &data);
        PTN_ASSERT(ok); /* publish() packed it */
        ptn_pack_array(w, 2);
        ptn_pack_uint(w, offset);
        ptn_pack_raw(w, data);
    }
}

static int on_attach(ptn_ctx *c, struct topics *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    uint64_t roles, since_offset;
    ptn_str name, user, since_epoch;
    unsigned worker = hub_worker(s, m);
    if (worker == s->config.directory->workers || !ptn_unpack_array(&u, &n) || n != 5 ||
        !ptn_unpack_str(&u, &name) || !ptn_unpack_str(&u, &user) || !ptn_unpack_uint(&u, &roles) ||
        !ptn_unpack_str_or_nil(&u, &since_epoch) || !ptn_unpack_uint(&u, &since_offset))
        return -PTN_EPROTO;
    ptn_reply_to to = ptn_reply_token(c, m);
    struct topic *t = topic_of(c, s, name);
    if (t == NULL) {
        ptn_problem_send(c, to, PTN_CODE_OVERLOADED,
                         "too many topics are in use; try again later or raise limits.topics");
        return 0;
    }
    topic_set_hub(s, t, worker, true);
    bool recovered = since_epoch.n > 0 && history_covers(t, since_epoch, since_offset);
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 5);
    ptn_pack_str(&w, (ptn_str){t->epoch, EPOCH_BYTES});
    ptn_pack_uint(&w, t->offset);
    ptn_pack_bool(&w, recovered);
    ptn_pack_bool(&w, /* stored= */ false);
    pack_history(&w, t, recovered ? (uint32_t)(t->offset - since_offset) : 0);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL)
        (void)ptn_reply_err(c, to, -PTN_ENOMEM);
    else if (ptn_reply(c, to, PTN_MSG_TOPIC_ATTACHED, b) < 0)
        ptn_buf_unref(b);
    return 0;
}

static int on_detach(struct topics *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    ptn_str name;
    unsigned worker = hub_worker(s, m);
    if (worker == s->config.directory->workers || !ptn_unpack_array(&u, &n) || n != 1 ||
        !ptn_unpack_str(&u, &name))
        return -PTN_EPROTO;
    struct topic *t = NULL;
    HASH_FIND(hh, s->by_name, name.p, name.n, t);
    if (t != NULL)
        topic_set_hub(s, t, worker, false);
    return 0;
}

static int on_watch_all(ptn_ctx *c, struct topics *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    bool on;
    unsigned worker = hub_worker(s, m);
    if (worker == s->config.directory->workers || !ptn_unpack_array(&u, &n) || n != 1 ||
        !ptn_unpack_bool(&u, &on))
        return -PTN_EPROTO;
    uint64_t bit = UINT64_C(1) << worker;
    s->watching = on ? s->watching | bit : s->watching & ~bit;
    if (m->corr != 0)
        (void)ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_OK, NULL);
    return 0;
}

/* ---- the actor ---------------------------------------------------------------------------- */

static void topics_release(void *arg) {
    struct topics *s = arg;
    struct topic *t, *next;
    HASH_ITER(hh, s->by_name, t, next) {
        topic_free(s, t);
    }
}

static int topics_init(ptn_ctx *c, void *state, void *arg) {
    struct topics *s = state;
    s->config = *(const struct topics_config *)arg;
    if (s->config.topics_max == 0)
        s->config.topics_max = 65536;
    if (s->config.history_events_max == 0)
        s->config.history_events_max = 128;
    if (s->config.history_bytes_max == 0)
        s->config.history_bytes_max = 256u << 10;
    if (s->config.history_total_bytes == 0)
        s->config.history_total_bytes = 32u << 20;
    /* After a crash the hubs must not wait for events that would never come. */
    for (unsigned i = 0; i < s->config.directory->workers; i++)
        resync(c, s, i);
    return ptn_defer(c, topics_release, s);
}

static int topics_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct topics *s = state;
    switch (m->type) {
    case PTN_MSG_ROUTE_TOPIC_POST:
        return on_post(c, s, m);
    case PTN_MSG_ROUTE_TOPIC_EVENTS:
        return on_events(c, m);
    case PTN_MSG_TOPIC_PUBLISH:
        return on_publish(c, s, m);
    case PTN_MSG_TOPIC_ATTACH:
        return on_attach(c, s, m);
    case PTN_MSG_TOPIC_DETACH:
        return on_detach(s, m);
    case PTN_MSG_TOPIC_WATCH_ALL:
        return on_watch_all(c, s, m);
    case PTN_MSG_STOPPING:
        ptn_exit(c, 0);
        return 0;
    default:
        return 0;
    }
}

const ptn_actor_ops topics_actor = {.name = "topics",
                                    .state_size = sizeof(struct topics),
                                    .init = topics_init,
                                    .handle = topics_handle};
