/* SPDX-License-Identifier: Apache-2.0
 *
 * topics_durable.c - topics whose events are stored before anybody hears of them.
 *
 * Open.  The store tells epoch, last offset and the newest ids; what came meanwhile waits in order.
 * Append.  This actor numbers, the store accepts the next number only, its lane answers in order:
 * so answers come in the order of the offsets, and each event then goes to the hubs.  Many appends
 * are under way at once and share a commit. Failure.  Nothing after a refused append is accepted
 * either.  When all answers are in, the topic is opened anew and goes on from what the store has;
 * subscribers that may have missed an event start over from their position.
 */
#include "actors/topics_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

#define OPEN_RETRY_NS (100 * PTN_MS)
#define OPEN_TRIES_MAX 50u
#define IDS_RESTORED 1000u

enum durable_state { CLOSED, OPENING, OPEN, BROKEN };

struct waiting { /* a call that came before the topic was open */
    struct waiting *next;
    struct call call;
};

struct durable {
    const struct topic_rule *rule;
    enum durable_state state;
    bool was_open;                 /* somebody may have heard its events */
    uint64_t base;                 /* newest offset that retention has removed */
    uint64_t assigned;             /* newest offset given to an append */
    struct publication *in_flight; /* being stored */
    uint32_t tries;
    struct waiting *first, *last;
    ptn_timer timer;
    struct topics *shard;
};

const struct topic_rule *durable_rule(const struct topics *s, ptn_str name) {
    return topic_rule_of(s->config.rules, s->config.n_rules, name);
}

void durable_free(struct topics *s, struct topic *t) {
    struct durable *d = t->durable;
    if (d == NULL)
        return;
    for (struct waiting *w = d->first, *next; w != NULL; w = next) { /* after a crash only */
        next = w->next;
        ptn_buf_unref(w->call.buf);
        free(w);
    }
    for (struct publication *p = d->in_flight; p != NULL; p = p->next)
        p->event = ptn_buf_unref(p->event); /* after a crash likewise */
    (void)s;
    free(d);
    t->durable = NULL;
}

/* ---- opening ------------------------------------------------------------------------------ */

static void open_ask(ptn_ctx *c, struct topic *t);

static void serve_waiting(ptn_ctx *c, struct topic *t, int err, const ptn_msg *problem) {
    struct durable *d = t->durable;
    struct topics *s = d->shard;
    struct waiting *w = d->first;
    d->first = d->last = NULL;
    while (w != NULL) {
        struct waiting *next = w->next;
        s->n_waiting--;
        if (d->state == OPEN)
            call_run(c, s, &w->call);
        else if (w->call.to.corr != 0)
            ptn_problem_pass(c, w->call.to, err, problem);
        ptn_buf_unref(w->call.buf);
        free(w);
        w = next;
    }
}

static void open_due(ptn_ctx *c, void *state, ptn_timer *timer, void *arg) {
    (void)state, (void)timer;
    open_ask(c, arg);
}

static bool adopt(ptn_ctx *c, struct topic *t, const ptn_msg *reply) {
    struct durable *d = t->durable;
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    uint32_t n, pair;
    ptn_str epoch;
    uint64_t last, offset, base;
    ptn_bytes id;
    if (!ptn_unpack_array(&u, &n) || n != 4 || !ptn_unpack_str(&u, &epoch) ||
        epoch.n != EPOCH_BYTES || !ptn_unpack_uint(&u, &base) || !ptn_unpack_uint(&u, &last) ||
        !ptn_unpack_array(&u, &n))
        return false;
    for (; n > 0; n--) {
        if (!ptn_unpack_array(&u, &pair) || pair != 2 || !ptn_unpack_bin(&u, &id) ||
            id.n != EVENT_ID_BYTES || !ptn_unpack_uint(&u, &offset))
            return false;
        event_id_restore(c, d->shard, id.p, epoch, offset);
    }
    bool moved = t->offset != last || memcmp(t->epoch, epoch.p, EPOCH_BYTES) != 0;
    memcpy(t->epoch, epoch.p, EPOCH_BYTES);
    t->offset = d->assigned = last;
    d->base = base;
    d->state = OPEN;
    d->tries = 0;
    if (moved && d->was_open)
        topic_resync(c, d->shard, t); /* patterns too: somebody may have missed an event */
    d->was_open = true;
    return true;
}

static void opened(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct topic *t = arg;
    struct durable *d = t->durable;
    struct topics *s = d->shard;
    (void)state;
    if (err == 0 && reply->type == PTN_MSG_STORE_TOPIC && adopt(c, t, reply)) {
        serve_waiting(c, t, 0, NULL);
    } else if (t->hubs != 0 && ++d->tries < OPEN_TRIES_MAX) {
        ptn_timer_start(c, &d->timer, OPEN_RETRY_NS, open_due, t); /* subscribers wait for it */
        return;
    } else {
        d->state = CLOSED; /* the next call tries again */
        serve_waiting(c, t, err, reply);
    }
    topic_unpin(s, t);
}

static void open_ask(ptn_ctx *c, struct topic *t) {
    struct durable *d = t->durable;
    char epoch[EPOCH_BYTES];
    topic_make_epoch(c, epoch);
    ptn_pack w;
    ptn_pack_init(&w, 64 + t->name_bytes);
    ptn_pack_array(&w, 3);
    ptn_pack_str(&w, topic_name(t));
    ptn_pack_str(&w, (ptn_str){epoch, EPOCH_BYTES});
    ptn_pack_uint(&w, IDS_RESTORED);
    ptn_buf *b = ptn_pack_finish(&w);
    int err = b == NULL ? -PTN_ENOMEM
                        : ptn_ask_lasting(c, d->shard->config.directory->store,
                                          PTN_MSG_STORE_TOPIC_OPEN, b, PTN_NEVER, opened, t, NULL);
    if (err == 0)
        return;
    ptn_buf_unref(b);
    ptn_timer_start(c, &d->timer, OPEN_RETRY_NS, open_due, t);
}

static void open_begin(ptn_ctx *c, struct topic *t) {
    t->durable->state = OPENING;
    topic_pin(t->durable->shard, t);
    open_ask(c, t);
}

static void call_later(ptn_ctx *c, struct topics *s, struct durable *d, const struct call *m) {
    struct waiting *w = s->n_waiting < s->config.waiting_max ? malloc(sizeof *w) : NULL;
    if (w == NULL) {
        if (m->to.corr != 0)
            ptn_problem_pass(c, m->to, -PTN_EOVERLOAD, NULL);
        return;
    }
    *w = (struct waiting){.call = *m};
    ptn_buf_ref(m->buf);
    if (d->last != NULL)
        d->last->next = w;
    else
        d->first = w;
    d->last = w;
    s->n_waiting++;
}

bool durable_ready(ptn_ctx *c, struct topics *s, struct topic *t, const struct call *m) {
    struct durable *d = t->durable;
    if (d == NULL) {
        const struct topic_rule *rule = durable_rule(s, topic_name(t));
        if (rule == NULL)
            return true;
        d = t->durable = calloc(1, sizeof *d);
        if (d == NULL) {
            if (m->to.corr != 0)
                ptn_problem_pass(c, m->to, -PTN_ENOMEM, NULL);
            return false;
        }
        d->rule = rule;
        d->shard = s;
    }
    if (d->state == OPEN)
        return true;
    if (d->state == CLOSED)
        open_begin(c, t);
    call_later(c, s, d, m);
    return false;
}

void durable_trimmed(struct topic *t, uint64_t base) {
    if (t->durable != NULL && base > t->durable->base)
        t->durable->base = base;
}

bool durable_covers(const struct topic *t, ptn_str epoch, uint64_t offset) {
    return ptn_str_eq(epoch, topic_epoch(t)) && offset >= t->durable->base && offset <= t->offset;
}

/* ---- appending ---------------------------------------------------------------------------- */

static void appended(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct publication *p = arg;
    struct topic *t = p->topic;
    struct topics *s = p->shard;
    struct durable *d = t->durable;
    (void)state;
    *p->pprev = p->next;
    if (p->next != NULL)
        p->next->pprev = p->pprev;
    if (err == 0 && reply->type == PTN_MSG_OK && p->offset == t->offset + 1) {
        t->offset = p->offset;
        fan_out_event(c, s, t, p->event, p->answered ? NULL : p);
        p->event = ptn_buf_unref(p->event);
        topic_unpin(s, t);
        p->topic = NULL;
        publication_settle(c, p);
    } else {
        d->state = BROKEN;
        topic_pin(s, t); /* until it is looked at below */
        publication_fail(c, p, err, reply);
        topic_unpin(s, t);
    }
    if (d->state == BROKEN && d->in_flight == NULL)
        open_begin(c, t);
}

void durable_publish(ptn_ctx *c, struct topics *s, struct topic *t, ptn_bytes data,
                     struct publication *p) {
    struct durable *d = t->durable;
    if (p->level == DURABILITY_DEFAULT)
        p->level = DURABILITY_SYNCED;
    p->id[EVENT_ID_LEVEL] = (uint8_t)p->level;
    p->event = event_pack(c, t, d->assigned + 1, data, p->has_id ? p->id : NULL);
    int err = -PTN_ENOMEM;
    if (p->event != NULL) {
        ptn_buf *b = ptn_buf_ref(p->event);
        uint32_t type = p->level == DURABILITY_SYNCED ? PTN_MSG_STORE_EVENT_APPEND
                                                      : PTN_MSG_STORE_EVENT_APPEND_WRITTEN;
        err = ptn_ask_lasting(c, s->config.directory->store, type, b, PTN_NEVER, appended, p, NULL);
        if (err < 0)
            ptn_buf_unref(b);
    }
    if (err < 0) {
        publication_fail(c, p, err, NULL);
        return;
    }
    p->topic = t;
    topic_pin(s, t);
    p->next = d->in_flight;
    p->pprev = &d->in_flight;
    if (p->next != NULL)
        p->next->pprev = &p->next;
    d->in_flight = p;
    p->offset = ++d->assigned;
    memcpy(p->epoch, t->epoch, EPOCH_BYTES);
    if (p->level == DURABILITY_MEMORY && !p->answered)
        publication_answer(c, p); /* it asked for no more than that */
}
