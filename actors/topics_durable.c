/* SPDX-License-Identifier: Apache-2.0
 *
 * topics_durable.c - topics whose events are stored before anybody hears of them.
 *
 * Open.  The store tells epoch, last offset and the ids of late; what came meanwhile waits in
 * order. Append.  This actor numbers; events of one turn go to the store in one message, which
 * stores all of them or none.  The store accepts the next number only, its lane answers in order:
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
#define APPEND_EVENTS_MAX 256u
#define APPEND_BYTES_MAX (32u << 10) /* a larger event goes alone */

enum durable_state { CLOSED, OPENING, OPEN, BROKEN };

struct waiting { /* a call that came before the topic was open */
    struct waiting *next;
    struct call call;
};

struct append { /* events of one topic that are stored together */
    struct append *next, **pprev;
    struct topic *topic; /* pinned */
    struct publication *first, **end;
    uint64_t offset; /* of the first */
    uint32_t n;
    bool written;
    ptn_pack gathered; /* until it is sent */
    size_t count_at;
    ptn_buf *sent;
};

struct durable {
    const struct topic_rule *rule;
    enum durable_state state;
    bool was_open;            /* somebody may have heard its events */
    uint64_t base;            /* newest offset that retention has removed */
    uint64_t assigned;        /* newest offset given to an append */
    struct append *in_flight; /* being stored, and the next one of them: */
    struct append *open;      /* takes the events of this turn */
    bool gathering;           /* on the list of the shard, pinned */
    struct durable *gathering_next;
    struct topic *topic;
    uint32_t tries;
    struct waiting *first, *last;
    ptn_timer timer;
    struct id_window ids;
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
    for (struct append *a = d->in_flight; a != NULL; a = a->next) { /* after a crash likewise */
        ptn_pack_abort(&a->gathered);
        ptn_buf_unref(a->sent);
    }
    event_ids_drop(s, &d->ids);
    free(d);
    t->durable = NULL;
}

struct id_window *id_window_of(struct topics *s, struct topic *t) {
    return t->durable != NULL ? &t->durable->ids : &s->ids_in_memory;
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
        event_id_restore(c, d->shard, &d->ids, id.p, epoch, offset);
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
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, topic_name(t));
    ptn_pack_str(&w, (ptn_str){epoch, EPOCH_BYTES});
    ptn_pack_uint(&w, d->shard->config.ids_max);
    ptn_pack_int(&w, ptn_wall_ms(c) - (int64_t)(d->shard->config.ids_ns / PTN_MS));
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
        d->topic = t;
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

/* The topic is open, so this is the newest of its appends.  NULL: no memory. */
static struct append *append_open(ptn_ctx *c, struct topics *s, struct topic *t, bool written) {
    struct durable *d = t->durable;
    struct append *a = s->idle_appends;
    if (a != NULL)
        s->idle_appends = a->next;
    else if ((a = ptn_alloc(c, sizeof *a)) == NULL)
        return NULL;
    *a = (struct append){.next = d->in_flight,
                         .pprev = &d->in_flight,
                         .topic = t,
                         .end = &a->first,
                         .offset = d->assigned + 1,
                         .written = written};
    if (a->next != NULL)
        a->next->pprev = &a->next;
    d->in_flight = d->open = a;
    topic_pin(s, t);
    ptn_pack *w = &a->gathered;
    ptn_pack_init(w, 1024);
    ptn_pack_array(w, 5);
    ptn_pack_str(w, topic_name(t));
    ptn_pack_str(w, topic_epoch(t));
    ptn_pack_uint(w, a->offset);
    ptn_pack_int(w, ptn_wall_ms(c));
    a->count_at = ptn_pack_array_open(w);
    return a;
}

/* They are stored: subscribers hear them, and then their publishers. */
static void append_publish(ptn_ctx *c, struct topics *s, struct append *a) {
    struct topic *t = a->topic;
    bool heard = (t->hubs | s->watching) != 0;
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(a->sent));
    uint32_t n;
    ptn_bytes data = {0};
    bool ok = ptn_unpack_array(&u, &n);
    for (unsigned i = 0; i < 4; i++)
        ok = ok && ptn_unpack_any(&u, NULL);
    ok = ok && ptn_unpack_array(&u, &n);
    for (struct publication *p = a->first, *next; p != NULL; p = next) {
        next = p->next;
        t->offset = p->offset;
        if (heard) {
            ok = ok && ptn_unpack_any(&u, &data) && ptn_unpack_any(&u, NULL);
            PTN_ASSERT(ok); /* durable_publish() packed it */
            ptn_buf *event = event_pack(t, p->offset, data);
            if (event != NULL)
                fan_out_event(c, s, t, event, p->answered ? NULL : p);
            else
                topic_resync(c, s, t); /* they read it from the store */
            ptn_buf_unref(event);
        }
        publication_settle(c, p);
    }
}

static void append_end(ptn_ctx *c, struct append *a, int err, const ptn_msg *reply) {
    struct topic *t = a->topic;
    struct durable *d = t->durable;
    struct topics *s = d->shard;
    *a->pprev = a->next;
    if (a->next != NULL)
        a->next->pprev = a->pprev;
    if (err == 0 && reply->type == PTN_MSG_OK && a->offset == t->offset + 1) {
        append_publish(c, s, a);
    } else {
        d->state = BROKEN;
        if (err == 0 && reply->type == PTN_MSG_OK)
            err = -PTN_EDEADLINE; /* stored, behind one that nobody knows of: it may still count */
        for (struct publication *p = a->first, *next; p != NULL; p = next) {
            next = p->next;
            publication_fail(c, p, err, reply);
        }
    }
    ptn_buf_unref(a->sent);
    a->next = s->idle_appends;
    s->idle_appends = a;
    if (d->state == BROKEN && d->in_flight == NULL)
        open_begin(c, t);
    topic_unpin(s, t);
}

static void appended(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)state;
    append_end(c, arg, err, reply);
}

static void append_send(ptn_ctx *c, struct append *a) {
    struct durable *d = a->topic->durable;
    d->open = NULL;
    ptn_pack_array_close(&a->gathered, a->count_at, 2 * a->n);
    a->sent = ptn_pack_finish(&a->gathered);
    int err = -PTN_ENOMEM;
    if (a->sent != NULL) {
        err = ptn_ask_lasting(c, d->shard->config.directory->store,
                              a->written ? PTN_MSG_STORE_EVENTS_APPEND_WRITTEN
                                         : PTN_MSG_STORE_EVENTS_APPEND,
                              ptn_buf_ref(a->sent), PTN_NEVER, appended, a, NULL);
        if (err < 0)
            ptn_buf_unref(a->sent);
    }
    if (err < 0) {
        append_end(c, a, err, NULL);
        return;
    }
    for (struct publication *p = a->written ? a->first : NULL; p != NULL; p = p->next)
        if (p->level == PTN_DURABILITY_MEMORY && !p->answered)
            publication_answer(c, p); /* it asked for no more than that */
}

static void gathered(ptn_ctx *c, void *state, void *arg) {
    struct topics *s = arg;
    (void)state;
    while (s->gathering != NULL) {
        struct durable *d = s->gathering;
        s->gathering = d->gathering_next;
        d->gathering = false;
        if (d->open != NULL)
            append_send(c, d->open);
        topic_unpin(s, d->topic);
    }
}

static void gather(ptn_ctx *c, struct topics *s, struct durable *d) {
    if (d->gathering)
        return;
    if (s->gathering == NULL)
        ptn_at_turn_end(c, gathered, s);
    d->gathering = true;
    d->gathering_next = s->gathering;
    s->gathering = d;
    topic_pin(s, d->topic);
}

void durable_publish(ptn_ctx *c, struct topics *s, struct topic *t, ptn_bytes data,
                     struct publication *p) {
    struct durable *d = t->durable;
    if (p->level == PTN_DURABILITY_DEFAULT)
        p->level = PTN_DURABILITY_SYNCED;
    p->id[EVENT_ID_LEVEL] = (uint8_t)p->level;
    bool written = p->level != PTN_DURABILITY_SYNCED;
    struct append *a = d->open;
    if (a != NULL && (a->written != written || a->n == APPEND_EVENTS_MAX ||
                      ptn_pack_len(&a->gathered) + data.n > APPEND_BYTES_MAX)) {
        append_send(c, a);
        a = NULL;
    }
    if (a == NULL && d->state == OPEN)
        a = append_open(c, s, t, written);
    if (a == NULL) {
        publication_fail(c, p, d->state == OPEN ? -PTN_ENOMEM : -PTN_EOVERLOAD, NULL);
        return;
    }
    gather(c, s, d);
    if (data.n > 0)
        ptn_pack_raw(&a->gathered, data);
    else
        ptn_pack_nil(&a->gathered);
    if (p->has_id)
        ptn_pack_bin(&a->gathered, (ptn_bytes){p->id, EVENT_ID_BYTES});
    else
        ptn_pack_nil(&a->gathered);
    p->offset = ++d->assigned;
    memcpy(p->epoch, t->epoch, EPOCH_BYTES);
    p->next = NULL;
    *a->end = p;
    a->end = &p->next;
    a->n++;
}
