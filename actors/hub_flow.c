/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_flow.c - what a slow or late subscription misses: dropped with a gap, kept, or read from the
 * store.
 *
 * Offsets.  `pos` is the last one that the subscription has been given or told to be lost.  A page
 * may reach beyond the topic's live offset, because the store knows an event before the hub does;
 * such events are skipped when they come live.  The subscription is live again when both meet.
 */
#include "actors/hub_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

#define PAGE_ROWS 500u
#define PAGE_RETRY_NS (50 * PTN_MS)
#define PAGE_DEADLINE_NS (30 * PTN_SEC)

struct page { /* rows read and not delivered yet */
    ptn_buf *buf;
    ptn_unpack rows;
    uint32_t n;
    uint64_t end; /* offset of the last row */
};

struct gap {
    struct gap *next;
    uint64_t from, to;
    uint32_t topic_bytes;
    char topic[];
};

struct hub_flow {
    struct hub_flow *next, **pprev; /* of the hub */
    struct hub_flow *line_next;
    ptn_hub *hub;
    struct hub_sub *sub;           /* NULL: gone; freed when the page on its way arrives */
    uint8_t mode;                  /* the policy; STORED while it catches up */
    bool asking, in_line, waiting; /* waiting: for the sink */
    uint64_t pos;
    uint64_t stored; /* newest offset that the store is known to have */
    struct page page, ahead;
    ptn_buf **held; /* ring of EVENT payloads, oldest at `first` */
    uint32_t first, n, cap;
    size_t bytes;
    struct gap *gaps;
    uint32_t n_gaps;
};

static enum ptn_sink_load on_event(ptn_ctx *c, void *self, ptn_event *e);

/* ---- slots -------------------------------------------------------------------------------- */

static struct hub_slot *slot_of(const struct hub_sub *sub) {
    return &sub->list->slots[sub->at];
}

/* NULL: no memory, and the sink was reset. */
static struct hub_flow *flow_new(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, uint8_t mode,
                                 uint64_t pos) {
    struct hub_flow *f = calloc(1, sizeof *f);
    if (f == NULL) {
        hub_reset_sink(c, h, sub->sink);
        return NULL;
    }
    f->hub = h;
    f->sub = sub;
    f->mode = mode;
    f->pos = pos;
    f->next = h->flows;
    f->pprev = &h->flows;
    if (f->next != NULL)
        f->next->pprev = &f->next;
    h->flows = f;
    hub_latest_end(sub);
    sub->flow = f;
    slot_of(sub)->deliver = on_event;
    slot_of(sub)->self = f;
    ptn_gauge_add(PTN_G_SLOW_SUBSCRIPTIONS, 1);
    return f;
}

static void page_done(struct page *p) {
    ptn_buf_unref(p->buf);
    *p = (struct page){0};
}

static void held_pop(struct hub_flow *f) {
    ptn_buf *b = f->held[f->first];
    size_t n = ptn_buf_bytes(b).n;
    f->first = (f->first + 1) % f->cap;
    f->n--;
    f->bytes -= n;
    f->hub->held_bytes -= n;
    ptn_buf_unref(b);
}

static void gaps_done(struct hub_flow *f) {
    while (f->gaps != NULL) {
        struct gap *g = f->gaps;
        f->gaps = g->next;
        free(g);
    }
    f->n_gaps = 0;
}

static void flow_free(struct hub_flow *f) {
    *f->pprev = f->next;
    if (f->next != NULL)
        f->next->pprev = f->pprev;
    free(f);
}

void hub_flow_end(struct hub_flow *f) {
    if (f == NULL)
        return;
    page_done(&f->page);
    page_done(&f->ahead);
    while (f->n > 0)
        held_pop(f);
    free(f->held);
    f->held = NULL;
    gaps_done(f);
    f->sub->flow = NULL;
    f->sub = NULL;
    ptn_gauge_add(PTN_G_SLOW_SUBSCRIPTIONS, -1);
    if (!f->asking && !f->in_line)
        flow_free(f);
}

void hub_flow_done(ptn_hub *h) {
    h->line_first = h->line_last = NULL;
    h->n_pages = 0;
    while (h->flows != NULL) {
        struct hub_flow *f = h->flows;
        f->asking = f->in_line = false;
        if (f->sub != NULL)
            hub_flow_end(f);
        else
            flow_free(f);
    }
}

/* The fan-out calls the sink again. */
static void go_live(struct hub_flow *f) {
    struct hub_sub *sub = f->sub;
    hub_flow_end(f);
    hub_sub_live(sub);
}

static bool is_open(const struct hub_flow *f) {
    return f->sub != NULL && hub_sink_of(f->hub, hub_sink_id(f->sub->sink)) == f->sub->sink;
}

/* ---- gaps --------------------------------------------------------------------------------- */

/* Remembers that an event is lost.  False: too many topics, and the sink is reset. */
static bool gap_note(ptn_ctx *c, struct hub_flow *f, ptn_str topic, uint64_t offset) {
    ptn_count(PTN_C_DROPPED_SLOW_CONSUMER, 1);
    for (struct gap *g = f->gaps; g != NULL; g = g->next) {
        if (!ptn_str_eq(topic, (ptn_str){g->topic, g->topic_bytes}))
            continue;
        g->to = offset > g->to ? offset : g->to;
        return true;
    }
    struct gap *g = f->n_gaps < HUB_FLOW_GAPS_MAX ? malloc(sizeof *g + topic.n) : NULL;
    if (g == NULL) {
        hub_reset_sink(c, f->hub, f->sub->sink);
        return false;
    }
    g->from = g->to = offset;
    g->topic_bytes = (uint32_t)topic.n;
    memcpy(g->topic, topic.p, topic.n);
    g->next = f->gaps;
    f->gaps = g;
    f->n_gaps++;
    return true;
}

static void gaps_tell(ptn_ctx *c, struct hub_flow *f) {
    struct hub_sink *s = f->sub->sink;
    for (struct gap *g = f->gaps; g != NULL; g = g->next) {
        ptn_gap gap = {{g->topic, g->topic_bytes}, g->from, g->to, "slow_consumer"};
        if (s->ops->gap != NULL)
            s->ops->gap(c, s->self, &gap);
    }
    gaps_done(f);
}

/* ---- kept events -------------------------------------------------------------------------- */

bool hub_event_read(ptn_buf *b, ptn_event *ret_e) {
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(b));
    uint32_t n;
    *ret_e = (ptn_event){.buf = b};
    return ptn_unpack_array(&u, &n) && n >= 4 && ptn_unpack_str(&u, &ret_e->topic) &&
           ptn_unpack_str(&u, &ret_e->epoch) && ptn_unpack_uint(&u, &ret_e->offset) &&
           ptn_unpack_any(&u, &ret_e->data);
}

static bool held_grow(struct hub_flow *f, uint32_t max) {
    uint32_t cap = f->cap == 0 ? 4 : f->cap * 2;
    if (cap > max)
        cap = max;
    ptn_buf **held = malloc(cap * sizeof(ptn_buf *));
    if (held == NULL)
        return false;
    for (uint32_t i = 0; i < f->n; i++)
        held[i] = f->held[(f->first + i) % f->cap];
    free(f->held);
    f->held = held;
    f->first = 0;
    f->cap = cap;
    return true;
}

/* The oldest kept one is lost.  False: the sink is reset. */
static bool held_drop_oldest(ptn_ctx *c, struct hub_flow *f) {
    ptn_event e;
    bool ok = hub_event_read(f->held[f->first], &e) && gap_note(c, f, e.topic, e.offset);
    if (ok)
        held_pop(f);
    return ok;
}

static void hold(ptn_ctx *c, struct hub_flow *f, const ptn_event *e) {
    ptn_hub *h = f->hub;
    const ptn_hub_limits *l = &h->limits;
    size_t n = ptn_buf_bytes(e->buf).n;
    while (f->n > 0 && (f->n == l->held_events_max || f->bytes + n > l->held_bytes_max ||
                        h->held_bytes + n > l->held_total_bytes))
        if (!held_drop_oldest(c, f))
            return;
    bool fits = n <= l->held_bytes_max && h->held_bytes + n <= l->held_total_bytes &&
                (f->n < f->cap || held_grow(f, l->held_events_max));
    while (!fits && f->n > 0) /* what is kept stays contiguous, so a gap is one range */
        if (!held_drop_oldest(c, f))
            return;
    if (!fits) {
        (void)gap_note(c, f, e->topic, e->offset);
        return;
    }
    f->held[(f->first + f->n++) % f->cap] = ptn_buf_ref(e->buf);
    f->bytes += n;
    h->held_bytes += n;
}

/* Gives one event to the sink.  True: it may take another one. */
static bool give(ptn_ctx *c, struct hub_flow *f, ptn_event *e, enum ptn_sink_load stop_at) {
    enum ptn_sink_load load = hub_sub_deliver(c, f->sub, e);
    hub_forms_release(e);
    f->waiting = load >= stop_at;
    return !f->waiting && is_open(f);
}

/* The sink has drained: gaps first, since they are older than what was kept. */
static void held_flush(ptn_ctx *c, struct hub_flow *f) {
    if (f->gaps != NULL)
        gaps_tell(c, f);
    while (is_open(f) && f->n > 0) {
        ptn_event e;
        ptn_buf *b = ptn_buf_ref(f->held[f->first]);
        held_pop(f);
        bool more = hub_event_read(b, &e) && give(c, f, &e, PTN_SINK_FULL);
        ptn_buf_unref(b);
        if (!more)
            return;
    }
    if (is_open(f))
        go_live(f);
}

/* ---- pages from the store ----------------------------------------------------------------- */

static void stored_run(ptn_ctx *c, struct hub_flow *f);
static void line_serve(ptn_ctx *c, ptn_hub *h);

static void line_add(struct hub_flow *f) {
    ptn_hub *h = f->hub;
    if (f->in_line || f->asking)
        return;
    f->in_line = true;
    f->line_next = NULL;
    if (h->line_last != NULL)
        h->line_last->line_next = f;
    else
        h->line_first = f;
    h->line_last = f;
}

static void retry_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state, (void)t;
    line_serve(c, arg);
}

static void retry_later(ptn_ctx *c, struct hub_flow *f) {
    line_add(f);
    if (!ptn_timer_is_armed(&f->hub->page_timer))
        ptn_timer_start(c, &f->hub->page_timer, PAGE_RETRY_NS, retry_due, f->hub);
}

/* The rows of a STORE_MSGS reply; false: malformed. */
static bool page_read(const ptn_msg *reply, struct page *ret_p, uint64_t *ret_last) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    uint32_t n, pair;
    struct page p = {.buf = reply->buf};
    if (!ptn_unpack_array(&u, &n) || n != 2 || !ptn_unpack_uint(&u, ret_last) ||
        !ptn_unpack_array(&u, &p.n))
        return false;
    p.rows = u;
    for (uint32_t i = 0; i < p.n; i++)
        if (!ptn_unpack_array(&u, &pair) || pair != 2 || !ptn_unpack_uint(&u, &p.end) ||
            !ptn_unpack_any(&u, NULL))
            return false;
    *ret_p = p;
    return true;
}

/* Retention has removed everything up to `to`. */
static void expired(ptn_ctx *c, struct hub_flow *f, uint64_t to) {
    const struct hub_topic *t = hub_list_topic(f->sub->list);
    ptn_gap gap = {{t->name, t->name_bytes}, f->pos + 1, to, "expired"};
    if (f->sub->sink->ops->gap != NULL)
        f->sub->sink->ops->gap(c, f->sub->sink->self, &gap);
    f->pos = to;
}

static void page_loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct hub_flow *f = arg;
    ptn_hub *h = f->hub;
    struct page p;
    (void)state;
    h->n_pages--;
    f->asking = false;
    if (f->sub == NULL) {
        flow_free(f);
    } else if (err != 0 || reply->type != PTN_MSG_STORE_MSGS || !page_read(reply, &p, &f->stored)) {
        retry_later(c, f); /* busy, or the disk is in trouble: it waits without loss */
        return;            /* the timer serves the line */
    } else {
        if (p.n > 0) {
            ptn_buf_ref(p.buf);
            *(f->page.n == 0 ? &f->page : &f->ahead) = p;
        } else if (f->page.n == 0 && f->pos < f->stored) {
            expired(c, f, f->stored);
        }
        stored_run(c, f);
    }
    line_serve(c, h);
}

static bool page_ask(ptn_ctx *c, struct hub_flow *f) {
    const struct hub_topic *t = hub_list_topic(f->sub->list);
    ptn_str topic = {t->name, t->name_bytes}, prefix = PTN_STR(HUB_CONVERSATION);
    bool conversation = ptn_str_starts(topic, prefix);
    ptn_pack w;
    ptn_pack_init(&w, 48 + topic.n);
    ptn_pack_array(&w, 4);
    if (conversation)
        topic = (ptn_str){topic.p + prefix.n, topic.n - prefix.n};
    ptn_pack_str(&w, topic);
    ptn_pack_uint(&w, f->page.n > 0 ? f->page.end : f->pos);
    ptn_pack_nil(&w);
    ptn_pack_uint(&w, PAGE_ROWS);
    ptn_buf *b = ptn_pack_finish(&w);
    int err = b == NULL
                  ? -PTN_ENOMEM
                  : ptn_ask(c, f->hub->directory->store,
                            conversation ? PTN_MSG_STORE_MSG_RANGE : PTN_MSG_STORE_EVENT_RANGE, b,
                            ptn_now(c) + PAGE_DEADLINE_NS, page_loaded, f, NULL);
    if (err < 0)
        ptn_buf_unref(b);
    f->asking = err == 0;
    return f->asking;
}

/* Fair: whoever waits longest is next, and goes to the end with its next page. */
static void line_serve(ptn_ctx *c, ptn_hub *h) {
    while (h->n_pages < h->limits.pages_max && h->line_first != NULL) {
        struct hub_flow *f = h->line_first;
        h->line_first = f->line_next;
        if (h->line_first == NULL)
            h->line_last = NULL;
        f->in_line = false;
        if (f->sub == NULL) {
            flow_free(f);
        } else if (page_ask(c, f)) {
            h->n_pages++;
        } else {
            retry_later(c, f);
            return;
        }
    }
}

/* Delivers rows until the sink is busy or the page is empty. */
static void page_run(ptn_ctx *c, struct hub_flow *f) {
    const struct hub_topic *t = hub_list_topic(f->sub->list);
    uint32_t pair;
    while (is_open(f) && f->page.n > 0 && !f->waiting) {
        ptn_event e = {.topic = {t->name, t->name_bytes}, .epoch = {t->epoch, t->epoch_bytes}};
        bool ok = ptn_unpack_array(&f->page.rows, &pair) &&
                  ptn_unpack_uint(&f->page.rows, &e.offset) &&
                  ptn_unpack_any(&f->page.rows, &e.data);
        PTN_ASSERT(ok); /* page_read() has walked it */
        f->page.n--;
        if (e.offset <= f->pos)
            continue;
        if (e.offset > f->pos + 1)
            expired(c, f, e.offset - 1);
        f->pos = e.offset;
        (void)give(c, f, &e, PTN_SINK_BUSY);
    }
}

/* Goes on as far as it can: deliver, turn the page, ask for the next, or be live again. */
static void stored_run(ptn_ctx *c, struct hub_flow *f) {
    const struct hub_topic *t = hub_list_topic(f->sub->list);
    for (;;) {
        /* The next page is on its way while this one is delivered. */
        if (!f->waiting && f->page.n > 0 && f->ahead.n == 0 && f->page.end < f->stored) {
            line_add(f);
            line_serve(c, f->hub);
        }
        page_run(c, f);
        if (!is_open(f) || f->page.n > 0)
            return;
        page_done(&f->page);
        if (f->ahead.n == 0)
            break;
        f->page = f->ahead;
        f->ahead = (struct page){0};
    }
    if (f->waiting || f->asking)
        return;
    if (f->pos == t->offset) {
        go_live(f);
    } else if (f->pos < t->offset || f->pos < f->stored) {
        line_add(f);
        line_serve(c, f->hub);
    } /* else the live events are on their way */
}

/* ---- live events -------------------------------------------------------------------------- */

/* Behind, or level: the event that comes next may go out at once. */
static enum ptn_sink_load stored_event(ptn_ctx *c, struct hub_flow *f, ptn_event *e) {
    if (e->offset <= f->pos || f->waiting || f->asking || f->in_line || f->page.n > 0)
        return PTN_SINK_FREE;
    if (e->offset != f->pos + 1) {
        line_add(f);
        line_serve(c, f->hub);
        return PTN_SINK_FREE;
    }
    enum ptn_sink_load load = hub_sub_deliver(c, f->sub, e);
    f->pos = e->offset;
    if (!is_open(f))
        return load;
    if (load == PTN_SINK_FULL)
        f->waiting = true;
    else
        go_live(f);
    return PTN_SINK_FREE;
}

static enum ptn_sink_load on_event(ptn_ctx *c, void *self, ptn_event *e) {
    struct hub_flow *f = self;
    switch ((enum ptn_policy)f->mode) {
    case PTN_POLICY_STORED:
        return stored_event(c, f, e);
    case PTN_POLICY_DROP_OLDEST:
        hold(c, f, e);
        break;
    default:
        (void)gap_note(c, f, e->topic, e->offset);
        break;
    }
    return PTN_SINK_FREE;
}

/* ---- what hub.c calls --------------------------------------------------------------------- */

void hub_flow_full(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, uint64_t offset) {
    if (sub->flow != NULL || sub->policy == PTN_POLICY_DISCONNECT ||
        hub_sink_of(h, hub_sink_id(sub->sink)) != sub->sink)
        return;
    struct hub_flow *f = flow_new(c, h, sub, sub->policy, offset);
    if (f != NULL)
        f->waiting = true;
}

void hub_flow_drop(struct hub_sub *sub) {
    if (sub->flow != NULL)
        go_live(sub->flow);
    else
        hub_sub_live(sub);
}

void hub_flow_from(ptn_ctx *c, ptn_hub *h, struct hub_sub *sub, uint64_t pos) {
    hub_flow_end(sub->flow); /* a page on its way is for another position */
    struct hub_flow *f = flow_new(c, h, sub, PTN_POLICY_STORED, pos);
    if (f == NULL)
        return;
    line_add(f);
    line_serve(c, h);
}

void hub_flow_resume(ptn_ctx *c, ptn_hub *h) {
    while (h->drained != NULL) {
        struct hub_sink *s = h->drained;
        h->drained = s->drained_next;
        s->drained = false;
        for (struct hub_sub *sub = s->subs, *next; sub != NULL; sub = next) {
            next = sub->sink_next;
            hub_flow_go_on(c, sub);
            hub_latest_go_on(c, sub);
        }
    }
}

void hub_flow_go_on(ptn_ctx *c, struct hub_sub *sub) {
    struct hub_flow *f = sub->flow;
    if (f == NULL || !f->waiting || !is_open(f) || hub_cursor_is_blocked(sub->cursor))
        return;
    f->waiting = false;
    if (f->mode == PTN_POLICY_STORED)
        stored_run(c, f);
    else
        held_flush(c, f);
}
