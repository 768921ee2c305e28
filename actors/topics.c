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
#include "actors/idempotency.h"
#include "actors/topics_internal.h"

#include <postern/metrics.h>

#define RESYNC_NS (50 * PTN_MS)

/* ---- publications ------------------------------------------------------------------------- */

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

void publication_recycle(struct publication *p) {
    p->next = p->shard->idle;
    p->shard->idle = p;
}

static void answer_call(ptn_ctx *c, ptn_reply_to to, ptn_str epoch, uint64_t offset,
                        enum ptn_durability level) {
    ptn_pack w;
    ptn_pack_init(&w, 32);
    ptn_pack_array(&w, 3);
    ptn_pack_str(&w, epoch);
    ptn_pack_uint(&w, offset);
    ptn_pack_uint(&w, level);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL)
        (void)ptn_reply_err(c, to, -PTN_ENOMEM);
    else if (ptn_reply(c, to, PTN_MSG_PUBLISHED, b) < 0)
        ptn_buf_unref(b);
}

static void answer_202(ptn_ctx *c, ptn_reply_to to, ptn_str epoch, uint64_t offset,
                       uint64_t subscribers, enum ptn_durability level) {
    ptn_pack w;
    ptn_pack_init(&w, 128);
    ptn_response_begin(&w, 202);
    ptn_pack_map(&w, 4);
    ptn_pack_key(&w, "epoch");
    ptn_pack_str(&w, epoch);
    ptn_pack_key(&w, "offset");
    ptn_pack_uint(&w, offset);
    ptn_pack_key(&w, "subscribers");
    ptn_pack_uint(&w, subscribers);
    ptn_pack_key(&w, "durability");
    ptn_pack_cstr(&w, ptn_durability_name(level));
    ptn_response_send(c, to, &w);
}

static void answer(ptn_ctx *c, const struct publication *p, ptn_str epoch, uint64_t offset,
                   uint64_t subscribers, enum ptn_durability level) {
    if (p->called)
        answer_call(c, p->reply, epoch, offset, level);
    else
        answer_202(c, p->reply, epoch, offset, subscribers, level);
}

void publication_answer(ptn_ctx *c, struct publication *p) {
    answer(c, p, (ptn_str){p->epoch, EPOCH_BYTES}, p->offset, p->subscribers, p->level);
    p->answered = true;
}

void publication_settle(ptn_ctx *c, struct publication *p) {
    if (p->waiting > 0)
        return;
    if (!p->answered)
        publication_answer(c, p);
    if (p->has_id)
        event_id_done(p->shard, p->id, (ptn_str){p->epoch, EPOCH_BYTES}, p->offset, p->subscribers);
    publication_recycle(p);
}

void publication_fail(ptn_ctx *c, struct publication *p, int err, const ptn_msg *reply) {
    if (p->has_id)
        event_id_forget(p->shard, p->id);
    if (!p->answered && p->reply.corr != 0)
        ptn_problem_pass(c, p->reply, err, reply);
    else
        ptn_count(PTN_C_DROPPED_STORE, 1);
    publication_recycle(p);
}

/* ---- publishing --------------------------------------------------------------------------- */

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
    p->waiting--;
    publication_settle(c, p);
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

void fan_out_event(ptn_ctx *c, struct topics *s, const struct topic *t, ptn_buf *event,
                   struct publication *p) {
    uint64_t hubs = t->hubs | s->watching;
    for (unsigned worker = 0; hubs != 0; worker++, hubs >>= 1)
        if (hubs & 1)
            send_event(c, s, worker, event, p);
}

void topic_resync(ptn_ctx *c, struct topics *s, const struct topic *t) {
    for (unsigned worker = 0; worker < s->config.directory->workers; worker++)
        if ((t->hubs | s->watching) & UINT64_C(1) << worker)
            resync(c, s, worker);
}

ptn_buf *event_pack(const struct topic *t, uint64_t offset, ptn_bytes data) {
    ptn_pack w;
    ptn_pack_init(&w, 64 + t->name_bytes + data.n);
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, topic_name(t));
    ptn_pack_str(&w, topic_epoch(t));
    ptn_pack_uint(&w, offset);
    if (data.n > 0)
        ptn_pack_raw(&w, data);
    else
        ptn_pack_nil(&w);
    return ptn_pack_finish(&w);
}

/* Assigns the offset, remembers, fans out.  p NULL: nobody waits. */
static int publish_in_memory(ptn_ctx *c, struct topics *s, struct topic *t, ptn_bytes data,
                             struct publication *p) {
    ptn_buf *event = event_pack(t, t->offset + 1, data);
    if (event == NULL)
        return -PTN_ENOMEM;
    t->offset++;
    history_add(s, t, event);
    if (p != NULL) {
        p->offset = t->offset;
        p->level = PTN_DURABILITY_MEMORY;
        p->id[EVENT_ID_LEVEL] = PTN_DURABILITY_MEMORY;
        memcpy(p->epoch, t->epoch, EPOCH_BYTES);
    }
    fan_out_event(c, s, t, event, p);
    ptn_buf_unref(event);
    return 0;
}

/* The topic in the path.  Empty: the problem has been sent. */
static ptn_str path_topic(ptn_ctx *c, ptn_reply_to to, const ptn_request *r, bool pattern,
                          char *buf, size_t buf_bytes) {
    ptn_str name;
    if (!ptn_path_segment(r->path, 1, buf, buf_bytes, &name) ||
        !(pattern ? ptn_pattern_is_valid(name) : ptn_topic_is_valid(name))) {
        ptn_problem_send(c, to, PTN_CODE_INVALID_REQUEST,
                         "a topic is 1 to 255 bytes of dot-separated, non-empty segments without "
                         "blanks or '*'");
        return (ptn_str){NULL, 0};
    }
    return name;
}

/* ?durability=.  False: no such level. */
static bool read_level(const ptn_request *r, enum ptn_durability *ret_level) {
    char buf[16];
    ptn_str text, q = r->query;
    int64_t ignored;
    *ret_level = PTN_DURABILITY_DEFAULT;
    if (ptn_query_int(q, "durability", 0, 0, &ignored) == 0)
        return true; /* not given */
    return ptn_query_get(q, "durability", buf, sizeof buf, &text) &&
           ptn_durability_of(text, ret_level);
}

/* An id makes sending twice safe.  False: it was answered. */
static bool check_id(ptn_ctx *c, struct topics *s, struct topic *t, struct publication *p,
                     const ptn_publish_call *in) {
    struct event_id *e;
    if (in->key.n == 0)
        return true;
    event_id_make(s, in->user, in->topic, in->key, in->data, p->id);
    switch (event_id_begin(c, s, id_window_of(s, t), p->id, &e)) {
    case ID_NEW:
        p->has_id = true;
        return true;
    case ID_KNOWN:
        answer(c, p, (ptn_str){e->epoch, EPOCH_BYTES}, e->offset, e->subscribers,
               (enum ptn_durability)e->bytes[EVENT_ID_LEVEL]);
        return false;
    case ID_UNDER_WAY:
        ptn_problem_send(c, p->reply, PTN_CODE_IDEMPOTENCY_IN_PROGRESS,
                         "the same request is still being worked on; ask again in a moment");
        return false;
    case ID_MISMATCH:
        ptn_problem_send(c, p->reply, PTN_CODE_IDEMPOTENCY_MISMATCH, IDEMPOTENCY_MISMATCH_TEXT);
        return false;
    default:
        ptn_problem_pass(c, p->reply, -PTN_ENOMEM, NULL);
        return false;
    }
}

/* The checked publication; NULL: it was answered. */
static struct publication *publication_of(ptn_ctx *c, struct topics *s, const struct call *m,
                                          struct topic *t, const ptn_publish_call *in) {
    struct publication *p = publication_new(c, s, m->to);
    if (p == NULL) {
        ptn_problem_pass(c, m->to, -PTN_ENOMEM, NULL);
        return NULL;
    }
    p->level = in->durability;
    p->called = m->type == PTN_MSG_PUBLISH;
    if (check_id(c, s, t, p, in))
        return p;
    publication_recycle(p);
    return NULL;
}

/* What somebody asks to be published, by whatever way. */
static void publish(ptn_ctx *c, struct topics *s, const struct call *m,
                    const ptn_publish_call *in) {
    if (ptn_topic_is_reserved(in->topic)) {
        ptn_problem_send(c, m->to, PTN_CODE_FORBIDDEN,
                         "conversation.*, user.* and system.* are published by the broker; send a "
                         "message to the conversation, or choose another topic");
        return;
    }
    struct topic *t = topic_of(c, s, in->topic);
    if (t == NULL) {
        ptn_problem_pass(c, m->to, -PTN_EOVERLOAD, NULL);
        return;
    }
    if (!durable_ready(c, s, t, m))
        return;
    struct publication *p = publication_of(c, s, m, t, in);
    if (p == NULL)
        return;
    if (t->durable != NULL) {
        durable_publish(c, s, t, in->data, p);
        return;
    }
    int err = publish_in_memory(c, s, t, in->data, p);
    if (err < 0)
        publication_fail(c, p, err, NULL);
    else
        publication_settle(c, p);
}

static int on_post(ptn_ctx *c, struct topics *s, const struct call *m) {
    ptn_request r;
    char buf[PTN_TOPIC_BYTES_MAX];
    ptn_publish_call in = {0};
    if (!ptn_request_unpack(ptn_buf_bytes(m->buf), &r))
        return -PTN_EPROTO;
    in.topic = path_topic(c, m->to, &r, false, buf, sizeof buf);
    if (in.topic.p == NULL)
        return 0;
    if (!read_level(&r, &in.durability)) {
        ptn_problem_send_field(c, m->to, PTN_CODE_VALIDATION_FAILED, "the query is not valid",
                               "durability", "one of: memory, written, synced");
        return 0;
    }
    if (idempotency_key(&r, &in.key) < 0) {
        ptn_problem_send_field(c, m->to, PTN_CODE_VALIDATION_FAILED, "the request is not valid",
                               "Idempotency-Key", IDEMPOTENCY_KEY_RULE);
        return 0;
    }
    in.user = r.principal.user;
    in.data = r.body;
    publish(c, s, m, &in);
    return 0;
}

/* From a frame, which the adapter has checked. */
static int on_call(ptn_ctx *c, struct topics *s, const struct call *m) {
    ptn_publish_call in;
    if (!ptn_publish_unpack(ptn_buf_bytes(m->buf), &in))
        return -PTN_EPROTO;
    publish(c, s, m, &in);
    return 0;
}

static int on_events(ptn_ctx *c, const ptn_msg *m) {
    ptn_request r;
    char buf[PTN_TOPIC_BYTES_MAX];
    if (!ptn_request_unpack(ptn_msg_bytes(m), &r))
        return -PTN_EPROTO;
    ptn_str name = path_topic(c, ptn_reply_token(c, m), &r, true, buf, sizeof buf);
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

/* The broker's own events: nobody waits for an answer. */
static int on_publish(ptn_ctx *c, struct topics *s, const struct call *m) {
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(m->buf));
    uint32_t n;
    ptn_str name;
    ptn_bytes data;
    if (!ptn_unpack_array(&u, &n) || n != 2 || !ptn_unpack_str(&u, &name) ||
        !ptn_unpack_any(&u, &data) || !ptn_topic_is_valid(name))
        return -PTN_EPROTO;
    struct topic *t = topic_of(c, s, name);
    if (t != NULL && !durable_ready(c, s, t, m))
        return 0;
    if (t != NULL && t->durable != NULL) {
        struct publication *p = publication_new(c, s, (ptn_reply_to){0});
        if (p == NULL)
            return -PTN_ENOMEM;
        p->answered = true;
        p->level = PTN_DURABILITY_DEFAULT;
        durable_publish(c, s, t, data, p);
    } else if (t == NULL || publish_in_memory(c, s, t, data, NULL) < 0) {
        ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
    }
    return 0;
}

/* ---- subscribers -------------------------------------------------------------------------- */

/* The worker of the hub that sent m, or workers when it is not a hub. */
static unsigned hub_worker(const struct topics *s, ptn_addr from) {
    const ptn_directory *d = s->config.directory;
    for (unsigned i = 0; i < d->workers; i++)
        if (d->hub[i] == from)
            return i;
    return d->workers;
}

/* Complete or nothing: true when the ring still has everything after `offset`. */
static bool history_covers(const struct topic *t, ptn_str epoch, uint64_t offset) {
    return ptn_str_eq(epoch, (ptn_str){t->epoch, EPOCH_BYTES}) && offset <= t->offset &&
           t->offset - offset <= topic_remembers(t);
}

static void pack_history(ptn_pack *w, const struct topic *t, uint32_t n) {
    ptn_pack_array(w, n);
    const struct history *h = t->history; /* of at least n */
    for (uint32_t i = 0; i < n; i++) {
        ptn_buf *b = h->events[(h->first + h->n - n + i) % h->cap];
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

static int on_attach(ptn_ctx *c, struct topics *s, const struct call *m) {
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(m->buf));
    uint32_t n;
    uint64_t roles, since_offset;
    ptn_str name, user, since_epoch;
    unsigned worker = hub_worker(s, m->from);
    if (worker == s->config.directory->workers || !ptn_unpack_array(&u, &n) || n != 5 ||
        !ptn_unpack_str(&u, &name) || !ptn_unpack_str(&u, &user) || !ptn_unpack_uint(&u, &roles) ||
        !ptn_unpack_str_or_nil(&u, &since_epoch) || !ptn_unpack_uint(&u, &since_offset))
        return -PTN_EPROTO;
    struct topic *t = topic_of(c, s, name);
    if (t == NULL) {
        ptn_problem_send(c, m->to, PTN_CODE_OVERLOADED,
                         "too many topics are in use; try again later or raise limits.topics");
        return 0;
    }
    if (!durable_ready(c, s, t, m))
        return 0;
    topic_set_hub(s, t, worker, true);
    bool stored = t->durable != NULL;
    bool recovered = since_epoch.n > 0 && (stored ? durable_covers(t, since_epoch, since_offset)
                                                  : history_covers(t, since_epoch, since_offset));
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 5);
    ptn_pack_str(&w, (ptn_str){t->epoch, EPOCH_BYTES});
    ptn_pack_uint(&w, t->offset);
    ptn_pack_bool(&w, recovered);
    ptn_pack_bool(&w, stored);
    pack_history(&w, t, recovered && !stored ? (uint32_t)(t->offset - since_offset) : 0);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL)
        (void)ptn_reply_err(c, m->to, -PTN_ENOMEM);
    else if (ptn_reply(c, m->to, PTN_MSG_TOPIC_ATTACHED, b) < 0)
        ptn_buf_unref(b);
    return 0;
}

static int on_detach(struct topics *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    ptn_str name;
    unsigned worker = hub_worker(s, m->from);
    if (worker == s->config.directory->workers || !ptn_unpack_array(&u, &n) || n != 1 ||
        !ptn_unpack_str(&u, &name))
        return -PTN_EPROTO;
    struct topic *t = topic_find(s, name);
    if (t != NULL)
        topic_set_hub(s, t, worker, false);
    return 0;
}

static int on_trimmed(struct topics *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    ptn_str name;
    uint64_t base;
    if (!ptn_unpack_array(&u, &n) || n != 2 || !ptn_unpack_str(&u, &name) ||
        !ptn_unpack_uint(&u, &base))
        return -PTN_EPROTO;
    struct topic *t = topic_find(s, name);
    if (t != NULL)
        durable_trimmed(t, base);
    return 0;
}

static int on_watch_all(ptn_ctx *c, struct topics *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    bool on;
    unsigned worker = hub_worker(s, m->from);
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
    topics_free(s);
    event_ids_drop(s, &s->ids_in_memory);
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
    if (s->config.ids_max == 0)
        s->config.ids_max = 65536;
    if (s->config.ids_ns == 0)
        s->config.ids_ns = 600 * PTN_SEC;
    if (s->config.waiting_max == 0)
        s->config.waiting_max = 16384;
    /* After a crash the hubs must not wait for events that would never come. */
    for (unsigned i = 0; i < s->config.directory->workers; i++)
        resync(c, s, i);
    return ptn_defer(c, topics_release, s);
}

static int call_handle(ptn_ctx *c, struct topics *s, const struct call *m) {
    switch (m->type) {
    case PTN_MSG_ROUTE_TOPIC_POST:
        return on_post(c, s, m);
    case PTN_MSG_PUBLISH:
        return on_call(c, s, m);
    case PTN_MSG_TOPIC_PUBLISH:
        return on_publish(c, s, m);
    default:
        return on_attach(c, s, m);
    }
}

void call_run(ptn_ctx *c, struct topics *s, const struct call *m) {
    int err = call_handle(c, s, m);
    PTN_REQUIRE(c, err == 0);
}

static int topics_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct topics *s = state;
    switch (m->type) {
    case PTN_MSG_ROUTE_TOPIC_POST:
    case PTN_MSG_PUBLISH:
    case PTN_MSG_TOPIC_PUBLISH:
    case PTN_MSG_TOPIC_ATTACH: {
        struct call call = {.from = m->from, .type = m->type, .buf = m->buf};
        if (m->corr != 0)
            call.to = ptn_reply_token(c, m);
        return call_handle(c, s, &call);
    }
    case PTN_MSG_ROUTE_TOPIC_EVENTS:
        return on_events(c, m);
    case PTN_MSG_TOPIC_DETACH:
        return on_detach(s, m);
    case PTN_MSG_TOPIC_TRIMMED:
        return on_trimmed(s, m);
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
