/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_events.c - events of a conversation on their way to the hubs: attach, publish,
 * catch-up.
 *
 * What a hub hears of one conversation is gapless from the offset in its TOPIC_ATTACHED on: events
 * are sent in order, and a hub that refuses one (its mailbox is full) gets nothing newer before it
 * has got that one.
 */
#include "actors/conversation_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

#define CATCH_UP_BATCH 200
#define CATCH_UP_DELAY_NS (5 * PTN_MS)
#define CATCH_UP_DELAY_DOUBLINGS_MAX 9u /* 2.5 s */

static void pack_topic(ptn_pack *w, const struct conversation *v) {
    char topic[sizeof "conversation." + CONVERSATION_ID_BYTES_MAX];
    size_t n = sizeof "conversation." - 1;
    memcpy(topic, "conversation.", n);
    memcpy(topic + n, v->id, v->id_bytes);
    ptn_pack_str(w, (ptn_str){topic, n + v->id_bytes});
}

/* The index of the hub that sent m, or -1. */
static int worker_of(const struct shard *s, ptn_addr from) {
    for (unsigned i = 0; i < s->directory->workers; i++)
        if (s->directory->hub[i] == from)
            return (int)i;
    return -1;
}

/* ---- publishing --------------------------------------------------------------------------- */

static ptn_buf *event_new(const struct conversation *v, uint64_t seq, ptn_bytes message) {
    ptn_pack w;
    ptn_pack_init(&w, 128 + message.n);
    ptn_pack_array(&w, 4);
    pack_topic(&w, v);
    ptn_pack_str(&w, v->epoch);
    ptn_pack_uint(&w, seq);
    ptn_pack_raw(&w, message);
    return ptn_pack_finish(&w);
}

/* This hub misses everything after `sent`, until catch-up brings it. */
static void lag_begin(ptn_ctx *c, struct conversation *v, unsigned worker, uint64_t sent) {
    if (v->lag == NULL)
        v->lag = calloc(1, sizeof *v->lag);
    if (v->lag == NULL) { /* no memory to remember it by */
        shard_resync(c, v->shard, worker);
        return;
    }
    v->lag->hubs |= UINT64_C(1) << worker;
    v->lag->sent[worker] = sent;
}

static void lag_end(struct conversation *v, uint64_t hubs) {
    if (v->lag == NULL)
        return;
    v->lag->hubs &= ~hubs;
    if (v->lag->hubs == 0) {
        free(v->lag);
        v->lag = NULL;
    }
}

static uint64_t lagging(const struct conversation *v) {
    return v->lag != NULL ? v->lag->hubs : 0;
}

/* Sends one event to the hubs in the set that are up to date.  False: one of them refused it. */
static bool send_event(ptn_ctx *c, struct conversation *v, uint64_t hubs, uint64_t seq,
                       ptn_bytes message) {
    struct shard *s = v->shard;
    bool ok = true;
    hubs &= ~lagging(v);
    if (hubs == 0)
        return true;
    ptn_buf *event = event_new(v, seq, message);
    for (unsigned i = 0; i < s->directory->workers; i++) {
        if ((hubs & UINT64_C(1) << i) == 0)
            continue;
        int err = event == NULL
                      ? -PTN_ENOMEM
                      : ptn_cast(c, s->directory->hub[i], PTN_MSG_EVENT, ptn_buf_ref(event));
        if (err == 0)
            continue;
        ptn_buf_unref(event);
        if (err == -PTN_ENOACTOR || err == -PTN_ESTOPPING)
            continue;
        lag_begin(c, v, i, seq - 1);
        ok = false;
    }
    ptn_buf_unref(event);
    return ok;
}

void conv_publish(ptn_ctx *c, struct conversation *v, uint64_t seq, ptn_bytes message) {
    if (seq > v->last_seq)
        v->last_seq = seq;
    if (seq <= v->published)
        return;
    if (seq >
        v->published + 1) { /* the answer to an append before it is late: it comes from the store */
        catch_up(c, v);
        return;
    }
    v->published = seq;
    if (!send_event(c, v, v->hubs | v->shard->watching, seq, message))
        catch_up(c, v);
}

/* ---- catch-up ----------------------------------------------------------------------------- */

static void catch_up_ask(ptn_ctx *c, struct conversation *v);

static void catch_up_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    catch_up_ask(c, arg);
}

static void catch_up_later(ptn_ctx *c, struct conversation *v) {
    ptn_time delay = CATCH_UP_DELAY_NS << v->catch_up_failures;
    if (v->catch_up_failures < CATCH_UP_DELAY_DOUBLINGS_MAX)
        v->catch_up_failures++;
    ptn_timer_start(c, &v->timer, delay, catch_up_due, v);
}

/* The oldest event that some hub has not got yet, minus one. */
static uint64_t catch_up_from(const struct conversation *v) {
    uint64_t from = v->published;
    for (unsigned i = 0; v->lag != NULL && i < PTN_WORKERS_MAX; i++)
        if ((v->lag->hubs & UINT64_C(1) << i) != 0 && v->lag->sent[i] < from)
            from = v->lag->sent[i];
    return from;
}

/* One stored message to whoever has not got it.  False: a lagging hub still refuses. */
static bool catch_up_one(ptn_ctx *c, struct conversation *v, uint64_t seq, ptn_bytes message) {
    struct shard *s = v->shard;
    bool ok = true;
    for (unsigned i = 0; v->lag != NULL && i < s->directory->workers; i++) {
        if ((v->lag->hubs & UINT64_C(1) << i) == 0 || v->lag->sent[i] + 1 != seq)
            continue;
        ptn_buf *event = event_new(v, seq, message);
        if (event != NULL && ptn_cast(c, s->directory->hub[i], PTN_MSG_EVENT, event) == 0) {
            v->lag->sent[i] = seq;
        } else {
            ptn_buf_unref(event);
            ok = false;
        }
    }
    if (seq == v->published + 1) {
        v->published = seq;
        ok = send_event(c, v, v->hubs | s->watching, seq, message) && ok;
    }
    if (seq > v->last_seq)
        v->last_seq = seq;
    uint64_t caught_up = 0;
    for (unsigned i = 0; v->lag != NULL && i < s->directory->workers; i++)
        if ((v->lag->hubs & UINT64_C(1) << i) != 0 && v->lag->sent[i] == v->published)
            caught_up |= UINT64_C(1) << i;
    lag_end(v, caught_up);
    return ok;
}

/* Retention has removed messages that some hub has not heard of: none can come any more, and who
 * listens starts over and is told. */
static void catch_up_skip(ptn_ctx *c, struct conversation *v, uint64_t first) {
    if (first <= catch_up_from(v) + 1)
        return;
    if (v->published + 1 < first)
        v->published = first - 1;
    for (unsigned i = 0; i < v->shard->directory->workers; i++) {
        if (v->lag != NULL && v->lag->sent[i] + 1 < first)
            v->lag->sent[i] = first - 1;
        if (((v->hubs | v->shard->watching) & UINT64_C(1) << i) != 0)
            shard_resync(c, v->shard, i);
    }
}

static void catch_up_loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct conversation *v = arg;
    uint32_t n;
    uint64_t last, seq;
    bool ok = true;
    ptn_bytes message;
    (void)state;
    if (err != 0 || reply->type != PTN_MSG_STORE_MSGS) {
        catch_up_later(c, v);
        return;
    }
    uint64_t from = catch_up_from(v);
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c,
                ptn_unpack_array(&u, &n) && ptn_unpack_uint(&u, &last) && ptn_unpack_array(&u, &n));
    for (uint32_t i = 0, pair; i < n && ok; i++) {
        PTN_REQUIRE(c, ptn_unpack_array(&u, &pair) && pair == 2 && ptn_unpack_uint(&u, &seq) &&
                           ptn_unpack_any(&u, &message));
        if (i == 0)
            catch_up_skip(c, v, seq);
        ok = catch_up_one(c, v, seq, message);
    }
    if (catch_up_from(v) > from)
        v->catch_up_failures = 0; /* it gets on */
    bool more = v->published < last || v->lag != NULL;
    if (!ok || (more && n == 0)) {
        catch_up_later(c, v);
    } else if (v->catch_up_again || more) {
        v->catch_up_again = false;
        v->catch_up_failures = 0;
        ptn_timer_start(c, &v->timer, PTN_MS, catch_up_due, v);
    } else {
        v->catching_up = false;
        v->catch_up_failures = 0;
        conv_unpin(v);
    }
}

static void members_loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct conversation *v = arg;
    ptn_str title = v->title;
    ptn_buf *known = ptn_buf_ref(v->record); /* keeps that alive */
    (void)state;
    if (err != 0 || reply->type != PTN_MSG_STORE_CONV || members_adopt(c, v, reply->buf) < 0) {
        v->members_unsure = true;
        catch_up_later(c, v);
    } else {
        if (!ptn_str_eq(title, v->title))
            conv_tell_title(c, v);
        catch_up_ask(c, v);
    }
    ptn_buf_unref(known);
}

/* The members first, when nobody knows them, then the messages. */
static void catch_up_ask(ptn_ctx *c, struct conversation *v) {
    bool members = v->members_unsure;
    ptn_pack w;
    ptn_pack_init(&w, 96);
    ptn_pack_array(&w, members ? 1 : 4);
    ptn_pack_str(&w, conv_id(v));
    if (!members) {
        ptn_pack_uint(&w, catch_up_from(v));
        ptn_pack_nil(&w);
        ptn_pack_uint(&w, CATCH_UP_BATCH);
    }
    ptn_buf *b = ptn_pack_finish(&w);
    int err = b == NULL ? -PTN_ENOMEM
                        : ptn_ask(c, v->shard->directory->store,
                                  members ? PTN_MSG_STORE_CONV_GET : PTN_MSG_STORE_MSG_OWN_RANGE, b,
                                  PTN_NEVER, members ? members_loaded : catch_up_loaded, v, NULL);
    if (err == 0)
        v->members_unsure = false; /* another unknown change from here on: once more */
    if (err < 0) {
        ptn_buf_unref(b);
        catch_up_later(c, v);
    }
}

void catch_up(ptn_ctx *c, struct conversation *v) {
    if (v->catching_up) {
        v->catch_up_again = true;
        return;
    }
    v->catching_up = true;
    conv_pin(v);
    /* From a timer: an ask that is made here would inherit the deadline of the request. */
    ptn_timer_start(c, &v->timer, PTN_MS, catch_up_due, v);
}

/* ---- hubs --------------------------------------------------------------------------------- */

/* What this hub has got: the offset that its next event follows. */
static uint64_t sent_to(const struct conversation *v, unsigned worker) {
    return lagging(v) & UINT64_C(1) << worker ? v->lag->sent[worker] : v->published;
}

/* TOPIC_ATTACHED.  What is older than the position the hub reads from the store itself. */
static void attached(ptn_ctx *c, struct op *op, unsigned worker, bool recovered) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 5);
    ptn_pack_str(&w, op->conv->epoch);
    ptn_pack_uint(&w, sent_to(op->conv, worker));
    ptn_pack_bool(&w, recovered);
    ptn_pack_bool(&w, /* stored= */ true);
    ptn_pack_array(&w, 0);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL)
        (void)ptn_reply_err(c, op->to, -PTN_ENOMEM);
    else if (ptn_reply(c, op->to, PTN_MSG_TOPIC_ATTACHED, b) < 0)
        ptn_buf_unref(b);
    op_end(c, op);
}

static void hub_bit(struct conversation *v, unsigned worker, bool on) {
    uint64_t bit = UINT64_C(1) << worker;
    if (on && (v->hubs & bit) == 0) {
        v->hubs |= bit;
        conv_pin(v);
    } else if (!on && (v->hubs & bit) != 0) {
        v->hubs &= ~bit;
        if ((v->shard->watching & bit) == 0) /* its gateway still wants what is missing */
            lag_end(v, bit);
        conv_unpin(v);
    }
}

void on_attach(ptn_ctx *c, struct op *op) {
    struct conversation *v = op->conv;
    int worker = worker_of(op->shard, op->from);
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(op->payload));
    uint32_t n;
    uint64_t roles, since_offset = 0;
    ptn_str topic, user, epoch;
    if (worker < 0 || op->to.corr == 0 || !ptn_unpack_array(&u, &n) || n != 5 ||
        !ptn_unpack_str(&u, &topic) || !ptn_unpack_str_or_nil(&u, &user) ||
        !ptn_unpack_uint(&u, &roles) || !ptn_unpack_str_or_nil(&u, &epoch) ||
        (!ptn_unpack_nil(&u) && !ptn_unpack_uint(&u, &since_offset))) {
        op_fail(c, op, PTN_CODE_INVALID_REQUEST, "the subscription cannot be read");
        return;
    }
    if (!conv_is_member(v, user)) {
        op_not_found(c, op);
        return;
    }
    hub_bit(v, (unsigned)worker, true); /* before the answer: no event may fall between */
    bool recovered = epoch.n > 0 && ptn_str_eq(epoch, v->epoch) && since_offset >= v->base &&
                     since_offset <= sent_to(v, (unsigned)worker);
    attached(c, op, (unsigned)worker, recovered);
}

void on_detach(ptn_ctx *c, struct op *op) {
    int worker = worker_of(op->shard, op->from);
    if (worker >= 0)
        hub_bit(op->conv, (unsigned)worker, false);
    op_end(c, op);
}

int on_trimmed(struct shard *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    ptn_str prefix = PTN_STR("conversation."), topic;
    uint32_t n;
    uint64_t base;
    if (!ptn_unpack_array(&u, &n) || n != 2 || !ptn_unpack_str(&u, &topic) ||
        !ptn_str_starts(topic, prefix) || !ptn_unpack_uint(&u, &base))
        return -PTN_EPROTO;
    struct conversation *v = conv_find(s, (ptn_str){topic.p + prefix.n, topic.n - prefix.n});
    if (v != NULL && base > v->base)
        v->base = base;
    return 0;
}

void on_watch_all(ptn_ctx *c, struct shard *s, const ptn_msg *m) {
    int worker = worker_of(s, m->from);
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    bool on;
    if (worker >= 0 && ptn_unpack_array(&u, &n) && n == 1 && ptn_unpack_bool(&u, &on)) {
        uint64_t bit = UINT64_C(1) << worker;
        s->watching = on ? s->watching | bit : s->watching & ~bit;
    }
    if (m->corr != 0)
        (void)ptn_reply(c, ptn_reply_token(c, m), PTN_MSG_OK, NULL);
}

/* ---- members ------------------------------------------------------------------------------ */

void conv_evict_user(ptn_ctx *c, struct conversation *v, ptn_str user) {
    struct shard *s = v->shard;
    uint64_t hubs = v->hubs | s->watching;
    for (unsigned i = 0; i < s->directory->workers; i++) {
        if ((hubs & UINT64_C(1) << i) == 0)
            continue;
        ptn_pack w;
        ptn_pack_init(&w, 160);
        ptn_pack_array(&w, 2);
        pack_topic(&w, v);
        ptn_pack_str(&w, user);
        if (cast_packed(c, s->directory->hub[i], PTN_MSG_HUB_EVICT, &w) < 0)
            shard_resync(c, s, i); /* who comes back is checked again */
    }
}

/* user.<id>; the id is short enough. */
static ptn_str user_topic(ptn_str user, char buf[sizeof "user." + CONVERSATION_ID_BYTES_MAX]) {
    size_t n = sizeof "user." - 1;
    memcpy(buf, "user.", n);
    memcpy(buf + n, user.p, user.n);
    return (ptn_str){buf, n + user.n};
}

void user_event_begin(ptn_pack *w, ptn_str user, uint32_t n, const char *type,
                      ptn_str conversation) {
    char buf[sizeof "user." + CONVERSATION_ID_BYTES_MAX];
    ptn_pack_init(w, 256);
    ptn_pack_array(w, 2);
    ptn_pack_str(w, user_topic(user, buf));
    ptn_pack_map(w, n);
    ptn_pack_key(w, "type");
    ptn_pack_cstr(w, type);
    ptn_pack_key(w, "conversationId");
    ptn_pack_str(w, conversation);
}

void user_event_send(ptn_ctx *c, struct shard *s, ptn_str user, ptn_pack *w) {
    char buf[sizeof "user." + CONVERSATION_ID_BYTES_MAX];
    ptn_addr owner = ptn_topic_owner(s->directory, user_topic(user, buf));
    if (cast_packed(c, owner, PTN_MSG_TOPIC_PUBLISH, w) < 0)
        ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
}

void tell_user(ptn_ctx *c, struct shard *s, ptn_str user, const char *type, ptn_str conversation) {
    ptn_pack w;
    if (user.n > CONVERSATION_ID_BYTES_MAX)
        return;
    user_event_begin(&w, user, 2, type, conversation);
    user_event_send(c, s, user, &w);
}

void conv_tell_title(ptn_ctx *c, struct conversation *v) {
    for (uint32_t i = 0; i < v->n_members; i++)
        tell_user(c, v->shard, v->members[i], "conversation.updated", conv_id(v));
}

void conv_tell_joined(ptn_ctx *c, struct shard *s, ptn_str id, const ptn_str *users, uint32_t n,
                      uint64_t seq) {
    char topic[sizeof "conversation." + CONVERSATION_ID_BYTES_MAX];
    size_t skip = sizeof "conversation." - 1;
    memcpy(topic, "conversation.", skip);
    memcpy(topic + skip, id.p, id.n);
    ptn_pack w;
    ptn_pack_init(&w, 128 + 32 * n);
    ptn_pack_array(&w, 3);
    ptn_pack_str(&w, (ptn_str){topic, skip + id.n});
    ptn_pack_array(&w, n);
    for (uint32_t i = 0; i < n; i++)
        ptn_pack_str(&w, users[i]);
    ptn_pack_uint(&w, seq);
    ptn_buf *b = ptn_pack_finish(&w);
    for (unsigned i = 0; i < s->directory->workers; i++) {
        if (b != NULL && ptn_cast(c, s->directory->hub[i], PTN_MSG_HUB_JOINED, ptn_buf_ref(b)) == 0)
            continue;
        ptn_buf_unref(b);
        shard_resync(c, s, i); /* feeds are opened again, and find the conversation */
    }
    ptn_buf_unref(b);
}
