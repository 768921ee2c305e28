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

#include <postern/log.h>
#include <postern/metrics.h>

#include <stdlib.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define FLUSH_NS (50 * PTN_MS)
#define BATCH_MAX 500u
#define CONVERSATIONS_MAX_DEFAULT 1000u
#define ACKS_MAX_DEFAULT 16384u

struct ack { /* the newest of one cursor */
    UT_hash_handle hh;
    uint64_t seq, deliveries, got;
    uint32_t user_bytes, device_bytes, conversation_bytes;
    char key[]; /* user, device and conversation, each ended by NUL */
};

struct queue {
    const offline_queue_config *config;
    uint32_t conversations_max, acks_max;
    struct ack *acks;
    uint32_t n_acks;
    uint32_t n_asks; /* of others' that wait for the store */
    ptn_timer flush_timer;
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

static void flushed(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct queue *q = state;
    uint32_t n, fields;
    (void)arg;
    if (err != 0 || reply->type != PTN_MSG_STORE_FEED_ACKED) {
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
                                     PTN_NEVER, flushed, NULL, NULL) < 0) {
        ptn_buf_unref(b);
        return false;
    }
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
    else if (q->stopping && q->n_asks == 0)
        ptn_exit(c, 0);
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

static int on_ack(ptn_ctx *c, struct queue *q, const ptn_msg *m) {
    struct report r;
    if (!read_report(m, &r))
        return -PTN_EPROTO;
    if (q->n_acks == q->acks_max)
        flush_due(c, q, &q->flush_timer, NULL);
    struct ack *a = ack_of(q, r.user, r.device, r.conversation);
    if (a == NULL)
        return 0; /* the store is behind: these are delivered again */
    if (r.value[0] >= a->seq) {
        a->seq = r.value[0];
        a->deliveries = r.value[1];
    }
    if (r.value[2] > a->got)
        a->got = r.value[2];
    if (!ptn_timer_is_armed(&q->flush_timer))
        ptn_timer_start(c, &q->flush_timer, FLUSH_NS, flush_due, NULL);
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
    }
    ptn_count(PTN_C_DEAD_LETTERS, r.value[0] - r.value[1] + 1);
    return 0;
}

/* ---- feeds -------------------------------------------------------------------------------- */

struct opening {
    ptn_reply_to to;
};

static void opened(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct queue *q = state;
    struct opening *o = arg;
    q->n_asks--;
    if (err != 0 || reply->type != PTN_MSG_STORE_FEED) {
        ptn_problem_pass(c, o->to, err, reply);
    } else {
        ptn_buf *b = ptn_buf_ref(reply->buf);
        if (ptn_reply(c, o->to, PTN_MSG_STORE_FEED, b) < 0)
            ptn_buf_unref(b); /* the hub has gone */
    }
    free(o);
    if (q->stopping && q->n_asks == 0 && q->n_acks == 0)
        ptn_exit(c, 0);
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
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, user);
    ptn_pack_str(&w, device);
    ptn_pack_uint(&w, q->conversations_max);
    ptn_pack_int(&w, ptn_wall_ms(c));
    struct opening *o = malloc(sizeof *o);
    ptn_buf *b = ptn_pack_finish(&w);
    int err = -PTN_ENOMEM;
    if (o != NULL && b != NULL) {
        o->to = to;
        err = ptn_ask(c, q->config->directory->store, PTN_MSG_STORE_FEED_OPEN, b, to.deadline,
                      opened, o, NULL);
    }
    if (err == 0) {
        q->n_asks++;
        return 0;
    }
    ptn_buf_unref(b);
    free(o);
    ptn_problem_pass(c, to, err, NULL);
    return 0;
}

/* ---- the actor ---------------------------------------------------------------------------- */

/* At the end, crash included. */
static void queue_release(void *arg) {
    struct queue *q = arg;
    while (q->acks != NULL)
        ack_drop(q, q->acks);
}

static int queue_init(ptn_ctx *c, void *state, void *arg) {
    struct queue *q = state;
    q->config = arg;
    q->conversations_max = q->config->conversations_max != 0 ? q->config->conversations_max
                                                             : CONVERSATIONS_MAX_DEFAULT;
    q->acks_max = q->config->acks_max != 0 ? q->config->acks_max : ACKS_MAX_DEFAULT;
    return ptn_defer(c, queue_release, q);
}

static int queue_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct queue *q = state;
    switch (m->type) {
    case PTN_MSG_QUEUE_ACK:
        return on_ack(c, q, m);
    case PTN_MSG_QUEUE_DEAD:
        return on_dead(c, q, m);
    case PTN_MSG_QUEUE_OPEN:
        return on_open(c, q, m);
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
