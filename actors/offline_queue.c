/* SPDX-License-Identifier: Apache-2.0
 *
 * offline_queue.c - the offline-queue actor: cursors on their way to the store and back.
 *
 * A queue is no copy of messages: they wait in their conversations, and what is kept per user,
 * device and conversation is how far the device has acknowledged.  Hubs deliver (hub_feed.h), this
 * actor remembers.  Acknowledgements are collected, the newest of each cursor, and written in
 * batches; a feed that is opened is asked for behind whatever was collected, so that it never
 * begins earlier than the device has acknowledged here.
 *
 * When the store fails or the actor crashes, acknowledgements are lost and messages come twice.
 */
#include "actors/offline_queue.h"

#include <postern/hub.h>
#include <postern/log.h>
#include <postern/metrics.h>

#include <stdio.h>
#include <stdlib.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define FLUSH_NS (50 * PTN_MS)
#define BATCH_MAX 500u
#define ACKS_MAX_DEFAULT 16384u

struct ack { /* the newest of one cursor */
    UT_hash_handle hh;
    uint64_t seq, deliveries, got;
    uint32_t user_bytes, device_bytes, conversation_bytes;
    char key[]; /* user, device and conversation, each ended by NUL */
};

struct wish;

struct queue {
    const offline_queue_config *config;
    uint32_t acks_max;
    struct ack *acks;
    uint32_t n_acks;
    struct wish *wishes; /* of others that wait for the store */
    ptn_timer flush_timer;
    uint32_t flushing; /* batches that the store has */
    bool stopping;
};

/* ---- acknowledgements --------------------------------------------------------------------- */

static void ack_drop(struct queue *q, struct ack *a) {
    HASH_DEL(q->acks, a);
    free(a);
    q->n_acks--;
}

static void pack_ack(ptn_pack *w, const struct ack *a) {
    const char *device = a->key + a->user_bytes + 1, *conversation = device + a->device_bytes + 1;
    ptn_pack_array(w, 6);
    ptn_pack_str(w, (ptn_str){a->key, a->user_bytes});
    ptn_pack_str(w, (ptn_str){device, a->device_bytes});
    ptn_pack_str(w, (ptn_str){conversation, a->conversation_bytes});
    ptn_pack_uint(w, a->seq);
    ptn_pack_uint(w, a->deliveries);
    ptn_pack_uint(w, a->got);
}

/* Messages are delivered now that were not: the conversation tells its members. */
static void tell_conversation(ptn_ctx *c, struct queue *q, ptn_str conversation, ptn_str user,
                              uint64_t seq) {
    const ptn_directory *d = q->config->directory;
    ptn_pack w;
    ptn_pack_init(&w, 192);
    ptn_pack_array(&w, 6);
    ptn_pack_str(&w, conversation);
    ptn_pack_str(&w, user);
    ptn_pack_bool(&w, /* read= */ false);
    ptn_pack_uint(&w, seq);
    ptn_pack_nil(&w);
    ptn_pack_int(&w, ptn_wall_ms(c));
    ptn_buf *b = ptn_pack_finish(&w);
    if (b != NULL && ptn_cast(c, d->conversation[ptn_shard(conversation, d->workers)],
                              PTN_MSG_CONV_MARK, b) == 0)
        return;
    ptn_buf_unref(b);
    ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
}

static void exit_when_done(ptn_ctx *c, struct queue *q) {
    if (q->stopping && q->wishes == NULL && q->n_acks == 0 && q->flushing == 0)
        ptn_exit(c, 0);
}

static void flushed(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct queue *q = state;
    uint32_t n, fields;
    q->flushing--;
    exit_when_done(c, q);
    if (err != 0 || reply->type != PTN_MSG_STORE_FEED_ACKED) {
        ptn_count(PTN_C_ACKS_LOST, (uint64_t)(uintptr_t)arg);
        PTN_LOG(PTN_LOG_WARN, "queue.acks_lost", PTN_F_Z("error", ptn_err_name(err)),
                PTN_F_Z("effect", "messages will be delivered again"));
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n));
    for (uint32_t i = 0; i < n; i++) {
        ptn_str conversation, user;
        uint64_t seq;
        PTN_REQUIRE(c, ptn_unpack_array(&u, &fields) && fields == 3 &&
                           ptn_unpack_str(&u, &conversation) && ptn_unpack_str(&u, &user) &&
                           ptn_unpack_uint(&u, &seq));
        tell_conversation(c, q, conversation, user, seq);
    }
}

/* The oldest batch.  False: the store takes nothing now. */
static bool flush_batch(ptn_ctx *c, struct queue *q) {
    uint32_t n = q->n_acks < BATCH_MAX ? q->n_acks : BATCH_MAX, i = 0;
    ptn_pack w;
    ptn_pack_init(&w, 32 + 128 * n);
    ptn_pack_array(&w, 2);
    ptn_pack_array(&w, n);
    for (struct ack *a = q->acks; i < n; a = a->hh.next, i++)
        pack_ack(&w, a);
    ptn_pack_int(&w, ptn_wall_ms(c));
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL || ptn_ask_lasting(c, q->config->directory->store, PTN_MSG_STORE_FEED_ACK, b,
                                     PTN_NEVER, flushed, (void *)(uintptr_t)n, NULL) < 0) {
        ptn_buf_unref(b);
        return false;
    }
    q->flushing++;
    while (n-- > 0)
        ack_drop(q, q->acks);
    return true;
}

static void flush_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct queue *q = state;
    (void)arg;
    while (q->n_acks > 0 && flush_batch(c, q)) {
    }
    if (q->n_acks > 0)
        ptn_timer_start(c, t, FLUSH_NS, flush_due, NULL);
    else
        exit_when_done(c, q);
}

/* NULL: no memory, or too many wait. */
static struct ack *ack_of(struct queue *q, ptn_str user, ptn_str device, ptn_str conversation) {
    size_t n = user.n + device.n + conversation.n + 3;
    struct ack *a = malloc(sizeof *a + n), *known;
    if (a == NULL)
        return NULL;
    *a = (struct ack){.user_bytes = (uint32_t)user.n,
                      .device_bytes = (uint32_t)device.n,
                      .conversation_bytes = (uint32_t)conversation.n};
    memset(a->key, 0, n);
    memcpy(a->key, user.p, user.n);
    memcpy(a->key + user.n + 1, device.p, device.n);
    memcpy(a->key + user.n + device.n + 2, conversation.p, conversation.n);
    HASH_FIND(hh, q->acks, a->key, n, known);
    if (known == NULL && q->n_acks < q->acks_max) {
        HASH_ADD(hh, q->acks, key, n, a);
        if (a->hh.tbl != NULL) {
            q->n_acks++;
            return a;
        }
    }
    free(a);
    return known;
}

/* [user, device, conversation, a, b, c] */
struct report {
    ptn_str user, device, conversation;
    uint64_t value[3];
};

static bool read_report(const ptn_msg *m, struct report *ret_r) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    return ptn_unpack_array(&u, &n) && n == 6 && ptn_unpack_str(&u, &ret_r->user) &&
           ptn_unpack_str(&u, &ret_r->device) && ptn_unpack_str(&u, &ret_r->conversation) &&
           ptn_unpack_uint(&u, &ret_r->value[0]) && ptn_unpack_uint(&u, &ret_r->value[1]) &&
           ptn_unpack_uint(&u, &ret_r->value[2]);
}

static void collect(ptn_ctx *c, struct queue *q, const struct report *r) {
    if (q->n_acks == q->acks_max)
        flush_due(c, q, &q->flush_timer, NULL);
    struct ack *a = ack_of(q, r->user, r->device, r->conversation);
    if (a == NULL) { /* the store is behind: these are delivered again */
        ptn_count(PTN_C_ACKS_LOST, 1);
        return;
    }
    if (r->value[0] >= a->seq) {
        a->seq = r->value[0];
        a->deliveries = r->value[1];
    }
    if (r->value[2] > a->got)
        a->got = r->value[2];
    if (!ptn_timer_is_armed(&q->flush_timer))
        ptn_timer_start(c, &q->flush_timer, FLUSH_NS, flush_due, NULL);
}

/* The device may be connected more than once. */
static void tell_sockets(ptn_ctx *c, const struct queue *q, const struct report *r) {
    ptn_hub_move_cursor(c, q->config->directory, r->conversation, r->user, r->device, r->value[2],
                        PTN_STR("acknowledged"));
}

static int on_ack(ptn_ctx *c, struct queue *q, const ptn_msg *m) {
    struct report r;
    if (!read_report(m, &r))
        return -PTN_EPROTO;
    collect(c, q, &r);
    if (r.value[2] > 0)
        tell_sockets(c, q, &r);
    return 0;
}

static int on_got(ptn_ctx *c, struct queue *q, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    struct report r = {.value = {0}};
    if (!ptn_unpack_array(&u, &n) || n != 4 || !ptn_unpack_str(&u, &r.user) ||
        !ptn_unpack_str(&u, &r.device) || !ptn_unpack_str(&u, &r.conversation) ||
        !ptn_unpack_uint(&u, &r.value[0]))
        return -PTN_EPROTO;
    if (r.value[0] > INT64_MAX)
        r.value[0] = INT64_MAX; /* the store cuts it to what there is */
    r.value[2] = r.value[0];
    collect(c, q, &r);
    tell_sockets(c, q, &r);
    return 0;
}

/* ---- dead letters ------------------------------------------------------------------------- */

static int on_dead(ptn_ctx *c, struct queue *q, const ptn_msg *m) {
    struct report r;
    if (!read_report(m, &r))
        return -PTN_EPROTO;
    ptn_pack w;
    ptn_pack_init(&w, 224);
    ptn_pack_array(&w, 7);
    ptn_pack_str(&w, r.user);
    ptn_pack_str(&w, r.device);
    ptn_pack_str(&w, r.conversation);
    ptn_pack_uint(&w, r.value[1]);
    ptn_pack_uint(&w, r.value[0]);
    ptn_pack_cstr(&w, "max_deliveries");
    ptn_pack_int(&w, ptn_wall_ms(c));
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL || ptn_cast(c, q->config->directory->store, PTN_MSG_STORE_DEAD_ADD, b) < 0) {
        ptn_buf_unref(b);
        PTN_LOG(PTN_LOG_WARN, "queue.dead_letter_lost", PTN_F_INT("from", r.value[1]),
                PTN_F_INT("to", r.value[0]));
        ptn_count(PTN_C_DROPPED_STORE, r.value[0] - r.value[1] + 1);
    }
    return 0;
}

/* ---- feeds -------------------------------------------------------------------------------- */

/* What somebody waits for while the store works. */
struct wish {
    struct wish *next, **pprev; /* of the queue */
    ptn_reply_to to;
    uint32_t type;  /* QUEUE_OPEN, or a route */
    uint32_t limit; /* of a list */
};

static struct wish *wish_new(struct queue *q, const struct wish *wish) {
    struct wish *x = malloc(sizeof *x);
    if (x == NULL)
        return NULL;
    *x = *wish;
    x->next = q->wishes;
    x->pprev = &q->wishes;
    if (x->next != NULL)
        x->next->pprev = &x->next;
    q->wishes = x;
    return x;
}

static void wish_free(struct wish *x) {
    *x->pprev = x->next;
    if (x->next != NULL)
        x->next->pprev = x->pprev;
    free(x);
}

/* Consumes w: asks the store, and answers when that fails.  A cursor that has moved is the hubs' to
 * know, whoever still waits. */
static void wish_ask(ptn_ctx *c, struct queue *q, const struct wish *wish, uint32_t type,
                     ptn_pack *w, ptn_reply_cb cb) {
    struct wish *x = wish_new(q, wish);
    ptn_reply_to to = wish->to;
    ptn_addr store = q->config->directory->store;
    ptn_buf *b = ptn_pack_finish(w);
    int err = -PTN_ENOMEM;
    if (x != NULL && b != NULL && type == PTN_MSG_STORE_DEAD_REPLAY)
        err = ptn_ask_through(c, store, type, b, to.deadline, cb, x, NULL);
    else if (x != NULL && b != NULL)
        err = ptn_ask(c, store, type, b, to.deadline, cb, x, NULL);
    if (err == 0)
        return;
    ptn_buf_unref(b);
    if (x != NULL)
        wish_free(x);
    ptn_problem_pass(c, to, err, NULL);
}

static void opened(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct wish *x = arg;
    if (err != 0 || reply->type != PTN_MSG_STORE_FEED) {
        ptn_problem_pass(c, x->to, err, reply);
    } else {
        ptn_buf *b = ptn_buf_ref(reply->buf);
        if (ptn_reply(c, x->to, PTN_MSG_STORE_FEED, b) < 0)
            ptn_buf_unref(b); /* the hub has gone */
    }
    wish_free(x);
    exit_when_done(c, state);
}

static int on_open(ptn_ctx *c, struct queue *q, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    ptn_reply_to to = ptn_reply_token(c, m);
    uint32_t n;
    ptn_str user, device;
    if (!ptn_unpack_array(&u, &n) || n != 2 || !ptn_unpack_str(&u, &user) ||
        !ptn_unpack_str(&u, &device))
        return -PTN_EPROTO;
    flush_due(c, q, &q->flush_timer, NULL);
    ptn_pack w;
    ptn_pack_init(&w, 192);
    ptn_pack_array(&w, 3);
    ptn_pack_str(&w, user);
    ptn_pack_str(&w, device);
    ptn_pack_int(&w, ptn_wall_ms(c));
    wish_ask(c, q, &(struct wish){.to = to, .type = m->type}, PTN_MSG_STORE_FEED_OPEN, &w, opened);
    return 0;
}

/* ---- administration ----------------------------------------------------------------------- */

#define LIST_MAX 200
#define LIST_DEFAULT 50

struct letter { /* DEAD */
    int64_t id, created_ms;
    uint64_t from, to;
    ptn_str user, device, conversation, reason;
};

static bool read_letter(ptn_unpack *u, struct letter *ret_l) {
    uint32_t n;
    return ptn_unpack_array(u, &n) && n == 8 && ptn_unpack_int(u, &ret_l->id) &&
           ptn_unpack_str(u, &ret_l->user) && ptn_unpack_str(u, &ret_l->device) &&
           ptn_unpack_str(u, &ret_l->conversation) && ptn_unpack_uint(u, &ret_l->from) &&
           ptn_unpack_uint(u, &ret_l->to) && ptn_unpack_str(u, &ret_l->reason) &&
           ptn_unpack_int(u, &ret_l->created_ms);
}

static ptn_str number(char *buf, size_t buf_bytes, int64_t v) {
    int n = snprintf(buf, buf_bytes, "%lld", (long long)v);
    return (ptn_str){buf, (size_t)n};
}

static void pack_letter(ptn_pack *w, const struct letter *l) {
    char id[24];
    ptn_pack_map(w, 8);
    ptn_pack_key(w, "id");
    ptn_pack_str(w, number(id, sizeof id, l->id));
    ptn_pack_key(w, "userId");
    ptn_pack_str(w, l->user);
    ptn_pack_key(w, "device");
    ptn_pack_str(w, l->device);
    ptn_pack_key(w, "conversationId");
    ptn_pack_str(w, l->conversation);
    ptn_pack_key(w, "from");
    ptn_pack_uint(w, l->from);
    ptn_pack_key(w, "to");
    ptn_pack_uint(w, l->to);
    ptn_pack_key(w, "reason");
    ptn_pack_str(w, l->reason);
    ptn_pack_key(w, "createdAt");
    ptn_pack_timestamp(w, l->created_ms);
}

static void administered(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct queue *q = state;
    struct wish *x = arg;
    struct letter l = {0};
    uint32_t n;
    char next[24];
    if (err != 0 || reply->type != PTN_MSG_STORE_DEADS) {
        ptn_problem_pass(c, x->to, err, reply);
    } else {
        bool list = x->type == PTN_MSG_ROUTE_DEAD_LIST;
        ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
        ptn_pack rows, w;
        PTN_REQUIRE(c, ptn_unpack_array(&u, &n));
        ptn_pack_init(&rows, 64 + 2 * reply->len);
        for (uint32_t i = 0; i < n; i++) {
            PTN_REQUIRE(c, read_letter(&u, &l));
            pack_letter(&rows, &l);
        }
        ptn_buf *encoded = ptn_pack_finish(&rows);
        ptn_pack_init(&w, 96 + ptn_buf_bytes(encoded).n);
        if (list) {
            ptn_str more = n == x->limit ? number(next, sizeof next, l.id) : (ptn_str){0};
            ptn_response_begin_page(&w, 200, more, (ptn_str){0});
            ptn_pack_array(&w, n);
        } else {
            ptn_response_begin(&w, 200);
        }
        if (n > 0)
            ptn_pack_raw(&w, ptn_buf_bytes(encoded));
        else if (!list)
            ptn_pack_nil(&w);
        ptn_buf_unref(encoded);
        if (x->type == PTN_MSG_ROUTE_DEAD_REPLAY && n > 0)
            ptn_hub_move_cursor(c, q->config->directory, l.conversation, l.user, l.device,
                                l.from - 1, (ptn_str){0});
        ptn_response_send(c, x->to, &w);
    }
    wish_free(x);
    exit_when_done(c, q);
}

/* The id in the path; 0: there is none like that. */
static int64_t letter_id(const ptn_request *r) {
    char buf[64];
    ptn_str s;
    int64_t id = 0;
    if (!ptn_path_segment(r->path, 2, buf, sizeof buf, &s) || s.n == 0 || s.n > 18)
        return 0;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return 0;
        id = id * 10 + (s.p[i] - '0');
    }
    return id;
}

static int on_route(ptn_ctx *c, struct queue *q, const ptn_msg *m) {
    ptn_request r;
    ptn_reply_to to = ptn_reply_token(c, m);
    int64_t after = 0, limit = LIST_DEFAULT;
    uint32_t type = PTN_MSG_STORE_DEAD_PURGE;
    if (!ptn_request_unpack(ptn_msg_bytes(m), &r))
        return -PTN_EPROTO;
    int64_t id = letter_id(&r);
    if (ptn_query_int(r.query, "after", 0, INT64_MAX, &after) < 0 ||
        ptn_query_int(r.query, "limit", 1, LIST_MAX, &limit) < 0) {
        ptn_problem_send_field(c, to, PTN_CODE_VALIDATION_FAILED, "the query is not valid", "limit",
                               "an integer from 1 to 200; after: an id");
        return 0;
    }
    ptn_pack w;
    ptn_pack_init(&w, 32);
    if (m->type == PTN_MSG_ROUTE_DEAD_LIST) {
        type = PTN_MSG_STORE_DEAD_LIST;
        ptn_pack_array(&w, 2);
        ptn_pack_int(&w, after);
        ptn_pack_int(&w, limit);
    } else if (m->type == PTN_MSG_ROUTE_DEAD_REPLAY) {
        type = PTN_MSG_STORE_DEAD_REPLAY;
        ptn_pack_array(&w, 2);
        ptn_pack_int(&w, id);
        ptn_pack_int(&w, ptn_wall_ms(c));
    } else {
        ptn_pack_array(&w, 2);
        ptn_pack_bool(&w, m->type == PTN_MSG_ROUTE_DEAD_PURGE_ALL);
        ptn_pack_int(&w, id);
    }
    wish_ask(c, q, &(struct wish){.to = to, .type = m->type, .limit = (uint32_t)limit}, type, &w,
             administered);
    return 0;
}

/* ---- the actor ---------------------------------------------------------------------------- */

/* At the end, crash included. */
static void queue_release(void *arg) {
    struct queue *q = arg;
    while (q->acks != NULL)
        ack_drop(q, q->acks);
    while (q->wishes != NULL)
        wish_free(q->wishes);
}

static int queue_init(ptn_ctx *c, void *state, void *arg) {
    struct queue *q = state;
    q->config = arg;
    q->acks_max = q->config->acks_max != 0 ? q->config->acks_max : ACKS_MAX_DEFAULT;
    return ptn_defer(c, queue_release, q);
}

static int queue_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct queue *q = state;
    switch (m->type) {
    case PTN_MSG_QUEUE_ACK:
        return on_ack(c, q, m);
    case PTN_MSG_QUEUE_GOT:
        return on_got(c, q, m);
    case PTN_MSG_QUEUE_DEAD:
        return on_dead(c, q, m);
    case PTN_MSG_QUEUE_OPEN:
        return on_open(c, q, m);
    case PTN_MSG_ROUTE_DEAD_LIST:
    case PTN_MSG_ROUTE_DEAD_PURGE:
    case PTN_MSG_ROUTE_DEAD_PURGE_ALL:
    case PTN_MSG_ROUTE_DEAD_REPLAY:
        return on_route(c, q, m);
    case PTN_MSG_STOPPING:
        q->stopping = true;
        flush_due(c, q, &q->flush_timer, NULL);
        return 0;
    default:
        return 0;
    }
}

const ptn_actor_ops offline_queue_actor = {.name = "offline-queue",
                                           .state_size = sizeof(struct queue),
                                           .init = queue_init,
                                           .handle = queue_handle};
