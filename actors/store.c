/* SPDX-License-Identifier: Apache-2.0
 *
 * store.c - the store actor: it hands messages to the lanes (store_lanes.c), and keeps house.
 *
 * Once a second at the latest it has synced what was committed without waiting, lets go what is
 * older than retention allows, and looks at what waits for devices; and it has the database
 * searched for damage after an end that was not clean.
 */
#include "actors/store_internal.h"

#include <postern/hub.h>
#include <postern/log.h>
#include <postern/memory.h>
#include <postern/metrics.h>

#define FLUSH_NS (1 * PTN_SEC)
#define RETAIN_NS (1 * PTN_SEC)
#define RETAIN_PAUSE_NS (5 * PTN_MS)
#define TELL_NS (50 * PTN_MS)
#define PROBE_NS (1 * PTN_SEC)
#define TEND_NS (1 * PTN_SEC)
#define TEND_IDLE_NS (60 * PTN_SEC)
#define TEND_ROW_NS (PTN_MS / 20) /* of pause: a small share of the lane, whatever waits */
#define STOP_POLL_NS (20 * PTN_MS)
#define SCRUB_PAGE_BYTES 4096u
#define SCRUB_LATER_NS (50 * PTN_MS)
#define SCRUB_HELD_NS (10 * PTN_SEC)
#define SCRUB_NOTE_NS (60 * PTN_SEC)
#define SCRUB_RETRY_NS (60 * PTN_SEC)

/* ---- the actor ---------------------------------------------------------------------------- */

struct store_state {
    store *store;
    ptn_timer stop_timer, flush_timer, retain_timer, tend_timer, probe_timer, scrub_timer;
    store_scrub_plan scrub; /* how far the search for damage has come */
    ptn_time scrub_held_at; /* since then somebody has waited at every look; 0: nobody did */
    ptn_time scrub_noted_at;
    int64_t scrub_rounds;     /* as the gauge has them */
    bool tending;             /* a round over the devices is under way */
    bool untended;            /* what waits for devices has changed since it began */
    int64_t waiting, devices; /* as the gauges have them */
    bool busy;                /* a message came since the last look */
    bool stopping;
    bool more;       /* the round of retention goes on */
    ptn_buf *untold; /* RETAINED: whose owners have not all heard of it; NULL: none */
    ptn_unpack untold_at;
    uint32_t n_untold;
};

static void gauges_set(struct store_state *st, int64_t waiting, int64_t devices) {
    ptn_gauge_add(PTN_G_OFFLINE_QUEUE, waiting - st->waiting);
    ptn_gauge_add(PTN_G_OFFLINE_DEVICES, devices - st->devices);
    st->waiting = waiting;
    st->devices = devices;
}

static void scrub_gauge_set(struct store_state *st, int64_t rounds) {
    ptn_gauge_add(PTN_G_STORE_SCRUBBING, rounds - st->scrub_rounds);
    st->scrub_rounds = rounds;
}

static void store_release(void *arg) {
    struct store_state *st = arg;
    ptn_buf_unref(st->untold);
    gauges_set(st, 0, 0);
    scrub_gauge_set(st, 0);
}

static void probe_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg);
static void retain_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg);
static void tend_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg);
static void scrub_begin(ptn_ctx *c, struct store_state *st);

static int store_init(ptn_ctx *c, void *state, void *arg) {
    struct store_state *st = state;
    st->store = arg;
    if (st->store->retains)
        ptn_timer_start(c, &st->retain_timer, RETAIN_NS, retain_due, NULL);
    ptn_timer_start(c, &st->tend_timer, TEND_NS, tend_due, NULL);
    scrub_begin(c, st);
    return ptn_defer(c, store_release, st);
}

/* The others finish their work through the store, so it goes last: when nothing waits and nobody
 * asks. */
static void stop_when_idle(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct store_state *st = state;
    (void)arg;
    if (!st->busy && store_lanes_are_idle(st->store)) {
        ptn_exit(c, 0);
        return;
    }
    st->busy = false;
    ptn_timer_start(c, t, STOP_POLL_NS, stop_when_idle, NULL);
}

/* What was committed without waiting is on disk a second later at the latest. */
static void flush_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct store_state *st = state;
    const ptn_msg flush = {.from = ptn_self(c), .type = PTN_MSG_STORE_FLUSH, .deadline = PTN_NEVER};
    (void)arg;
    if (ptn_lane_send(c, st->store->writer, &flush) < 0)
        ptn_timer_start(c, t, FLUSH_NS, flush_due, NULL);
    else if (!ptn_timer_is_armed(&st->probe_timer))
        ptn_timer_start(c, &st->probe_timer, PROBE_NS, probe_due, NULL); /* should it fail */
}

/* ---- retention ---------------------------------------------------------------------------- */

/* Positions older than what is left are not recovered any more: each of the n owners at u hears so.
 * Advances u behind those that have.  False: one refuses now. */
static bool tell_owners(ptn_ctx *c, const struct store *s, ptn_unpack *u, uint32_t *n) {
    ptn_str topic;
    ptn_bytes pair;
    ptn_unpack rest = *u;
    for (; *n > 0 && s->directory != NULL && ptn_unpack_any(&rest, &pair); --*n, *u = rest) {
        ptn_unpack p = ptn_unpack_of(pair);
        uint32_t two;
        if (!ptn_unpack_array(&p, &two) || !ptn_unpack_str(&p, &topic))
            continue;
        ptn_buf *b = ptn_buf_copy(pair.p, pair.n);
        int err = b == NULL
                      ? -PTN_ENOMEM
                      : ptn_cast(c, ptn_topic_owner(s->directory, topic), PTN_MSG_TOPIC_TRIMMED, b);
        if (err < 0)
            ptn_buf_unref(b);
        if (err == -PTN_ENOMEM || err == -PTN_EOVERLOAD)
            return false;
    }
    return true;
}

/* Nothing more goes before everybody has heard of what went. */
static void tell_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct store_state *st = state;
    (void)arg;
    if (!tell_owners(c, st->store, &st->untold_at, &st->n_untold)) {
        ptn_timer_start(c, t, TELL_NS, tell_due, NULL);
        return;
    }
    st->untold = ptn_buf_unref(st->untold);
    ptn_timer_start(c, t, st->more ? RETAIN_PAUSE_NS : RETAIN_NS, retain_due, NULL);
}

static void retained(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct store_state *st = state;
    uint32_t n;
    uint64_t events, messages;
    (void)arg;
    if (st->stopping)
        return;
    st->more = false;
    st->n_untold = 0;
    if (err == 0 && reply->type == PTN_MSG_STORE_RETAINED) {
        ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
        bool ok = ptn_unpack_array(&u, &n) && n == 4 && ptn_unpack_bool(&u, &st->more) &&
                  ptn_unpack_uint(&u, &events) && ptn_unpack_uint(&u, &messages) &&
                  ptn_unpack_array(&u, &n);
        PTN_REQUIRE(c, ok);
        ptn_count(PTN_C_RETENTION_EVENTS, events);
        ptn_count(PTN_C_RETENTION_MESSAGES, messages);
        st->untold = ptn_buf_ref(reply->buf);
        st->untold_at = u;
        st->n_untold = n;
    } /* else the disk is in trouble, or the lane is full: the next round */
    tell_due(c, st, &st->retain_timer, NULL);
}

/* A round at least each second; its steps leave room between them for everybody else. */
static void retain_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)arg;
    ptn_pack w;
    ptn_pack_init(&w, 16);
    ptn_pack_array(&w, 1);
    ptn_pack_int(&w, ptn_wall_ms(c));
    ptn_buf *b = ptn_pack_finish(&w);
    if (b != NULL && ptn_ask_lasting(c, ptn_self(c), PTN_MSG_STORE_RETAIN, b, PTN_NEVER, retained,
                                     NULL, NULL) == 0)
        return;
    ptn_buf_unref(b);
    if (!((struct store_state *)state)->stopping)
        ptn_timer_start(c, t, RETAIN_NS, retain_due, NULL);
}

/* ---- what waits for devices --------------------------------------------------------------- */

/* A feed that is open goes on behind what its cursor has passed.  One that does not hear of it
 * sends what it has, which costs nobody anything. */
static void tell_hub(ptn_ctx *c, const ptn_directory *d, ptn_unpack u) {
    ptn_str id, user, device, reason;
    uint32_t n;
    uint64_t seq;
    if (ptn_unpack_array(&u, &n) && ptn_unpack_str(&u, &id) && ptn_unpack_str(&u, &user) &&
        ptn_unpack_str(&u, &device) && ptn_unpack_uint(&u, &seq) && ptn_unpack_str(&u, &reason))
        ptn_hub_move_cursor(c, d, id, user, device, seq, reason);
}

/* The next round begins when something has changed, and of itself while something can expire. */
static void tend_later(ptn_ctx *c, struct store_state *st) {
    ptn_time ttl = st->store->ttl_ns;
    st->tending = false;
    if (st->untended)
        ptn_timer_start(c, &st->tend_timer, TEND_NS, tend_due, NULL);
    else if (ttl > 0 && st->waiting > 0)
        ptn_timer_start(c, &st->tend_timer,
                        ttl < TEND_NS        ? TEND_NS
                        : ttl < TEND_IDLE_NS ? ttl
                                             : TEND_IDLE_NS,
                        tend_due, NULL);
}

static void tended(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct store_state *st = state;
    uint32_t n;
    bool more;
    uint64_t rows;
    int64_t waiting, devices;
    ptn_bytes moved;
    (void)arg;
    if (st->stopping)
        return;
    if (err != 0 || reply->type != PTN_MSG_STORE_FEED_TENDED) {
        st->untended = true; /* the disk is in trouble, or the lane is full */
        tend_later(c, st);
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n) && n == 5 && ptn_unpack_bool(&u, &more) &&
                       ptn_unpack_uint(&u, &rows) && ptn_unpack_int(&u, &waiting) &&
                       ptn_unpack_int(&u, &devices) && ptn_unpack_array(&u, &n));
    for (; n > 0 && st->store->directory != NULL && ptn_unpack_any(&u, &moved); n--)
        tell_hub(c, st->store->directory, ptn_unpack_of(moved));
    if (more) {
        ptn_timer_start(c, &st->tend_timer, (ptn_time)rows * TEND_ROW_NS, tend_due, NULL);
        return;
    }
    gauges_set(st, waiting, devices);
    tend_later(c, st);
}

static void tend_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct store_state *st = state;
    (void)t, (void)arg;
    if (!st->tending)
        st->untended = false;
    st->tending = true;
    ptn_pack w;
    ptn_pack_init(&w, 16);
    ptn_pack_array(&w, 1);
    ptn_pack_int(&w, ptn_wall_ms(c));
    ptn_buf *b = ptn_pack_finish(&w);
    if (b != NULL && ptn_ask_lasting(c, ptn_self(c), PTN_MSG_STORE_FEED_TEND, b, PTN_NEVER, tended,
                                     NULL, NULL) == 0)
        return;
    ptn_buf_unref(b);
    st->untended = true;
    tend_later(c, st);
}

/* What waits for some device may be another amount after it. */
static void note_change(ptn_ctx *c, struct store_state *st, uint32_t type) {
    switch (type) {
    case PTN_MSG_STORE_MSG_APPEND:
    case PTN_MSG_STORE_EDIT:
    case PTN_MSG_STORE_MEMBERS_ADD:
    case PTN_MSG_STORE_MEMBERS_REMOVE:
    case PTN_MSG_STORE_FEED_OPEN:
    case PTN_MSG_STORE_FEED_ACK:
    case PTN_MSG_STORE_DEAD_ADD:
    case PTN_MSG_STORE_DEAD_REPLAY:
        break;
    default:
        return;
    }
    if (!st->untended && !st->tending && !st->stopping)
        ptn_timer_start(c, &st->tend_timer, TEND_NS, tend_due, NULL);
    st->untended = true;
}

/* ---- the search for damage ---------------------------------------------------------------- */

static void scrub_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg);

/* relaxed, all: see store_db_state.c */
static void scrub_show(struct store_state *st, enum ptn_store_scrub how) {
    store_scrub_view *v = &st->store->view;
    atomic_store_explicit(&v->state, (uint32_t)how, memory_order_relaxed);
    atomic_store_explicit(&v->ended_ms, st->scrub.ended_ms, memory_order_relaxed);
}

/* Best effort: without it the next start goes on from further back. */
static void scrub_note(ptn_ctx *c, struct store_state *st) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 5);
    ptn_pack_int(&w, st->scrub.rounds);
    ptn_pack_int(&w, st->scrub.at.tree);
    ptn_pack_int(&w, st->scrub.at.key[0]);
    ptn_pack_int(&w, st->scrub.at.key[1]);
    ptn_pack_int(&w, st->scrub.ended_ms);
    ptn_buf *b = ptn_pack_finish(&w);
    st->scrub_noted_at = ptn_now(c);
    if (b != NULL && ptn_cast(c, ptn_self(c), PTN_MSG_STORE_SCRUB_NOTE, b) < 0)
        ptn_buf_unref(b);
}

/* An actor that was started anew by its supervisor goes on where the lane is. */
static void scrub_begin(ptn_ctx *c, struct store_state *st) {
    st->scrub = st->store->plan;
    scrub_show(st, st->scrub.ended_ms != 0 ? PTN_SCRUB_SOUND : PTN_SCRUB_NONE);
    if (st->scrub.rounds == 0 || st->store->scrub_rate == 0)
        return;
    scrub_show(st, PTN_SCRUB_RUNNING);
    scrub_gauge_set(st, st->scrub.rounds);
    st->scrub_noted_at = ptn_now(c);
    ptn_timer_start(c, &st->scrub_timer, SCRUB_LATER_NS, scrub_due, NULL);
}

static void scrub_ended(ptn_ctx *c, struct store_state *st, enum ptn_store_scrub how) {
    bool sound = how == PTN_SCRUB_SOUND;
    st->scrub.rounds -= sound; /* damage: until the next start has seen to it */
    st->scrub.at = (store_scrub_place){.tree = 0};
    st->scrub.ended_ms = ptn_wall_ms(c);
    ptn_count(sound ? PTN_C_STORE_SCRUBS_SOUND : PTN_C_STORE_SCRUBS_DAMAGED, 1);
    scrub_gauge_set(st, sound ? st->scrub.rounds : 0);
    scrub_note(c, st);
    scrub_show(st, sound && st->scrub.rounds > 0 ? PTN_SCRUB_RUNNING : how);
    if (sound && st->scrub.rounds > 0) {
        atomic_store_explicit(&st->store->view.bytes, 0, memory_order_relaxed);
        ptn_timer_start(c, &st->scrub_timer, SCRUB_LATER_NS, scrub_due, NULL);
    } else if (sound) {
        PTN_LOG(PTN_LOG_INFO, "store.scrubbed", PTN_F_Z("result", "sound"));
    }
}

static void scrubbed(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct store_state *st = state;
    store_scrub_place at;
    uint64_t pages;
    uint32_t n;
    bool more;
    (void)arg;
    if (st->stopping)
        return;
    if (err == -PTN_EPROTO) {
        scrub_ended(c, st, PTN_SCRUB_DAMAGED);
        return;
    }
    if (err != 0 || reply->type != PTN_MSG_STORE_SCRUBBED) {
        bool soon = err == -PTN_EOVERLOAD;
        if (!soon)
            scrub_show(st, PTN_SCRUB_FAILED);
        ptn_timer_start(c, &st->scrub_timer, soon ? SCRUB_LATER_NS : SCRUB_RETRY_NS, scrub_due,
                        NULL);
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n) && n == 5 && ptn_unpack_bool(&u, &more) &&
                       ptn_unpack_uint(&u, &pages) && ptn_unpack_int(&u, &at.tree) &&
                       ptn_unpack_int(&u, &at.key[0]) && ptn_unpack_int(&u, &at.key[1]));
    atomic_fetch_add_explicit(&st->store->view.bytes, pages * SCRUB_PAGE_BYTES,
                              memory_order_relaxed);
    st->scrub.at = at;
    if (!more) {
        scrub_ended(c, st, PTN_SCRUB_SOUND);
        return;
    }
    scrub_show(st, PTN_SCRUB_RUNNING);
    if (ptn_now(c) - st->scrub_noted_at >= SCRUB_NOTE_NS)
        scrub_note(c, st);
    ptn_time pause = pages * SCRUB_PAGE_BYTES * PTN_SEC / st->store->scrub_rate;
    ptn_timer_start(c, &st->scrub_timer, pause > PTN_MS ? pause : PTN_MS, scrub_due, NULL);
}

static void scrub_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct store_state *st = state;
    (void)arg;
    bool held = !store_lanes_are_idle(st->store) || ptn_memory_pressure();
    if (!held)
        st->scrub_held_at = 0;
    else if (st->scrub_held_at == 0)
        st->scrub_held_at = ptn_now(c);
    if (!held || ptn_now(c) - st->scrub_held_at >= SCRUB_HELD_NS) {
        st->scrub_held_at = 0;
        if (ptn_ask_lasting(c, ptn_self(c), PTN_MSG_STORE_SCRUB, NULL, PTN_NEVER, scrubbed, NULL,
                            NULL) == 0)
            return;
    }
    ptn_timer_start(c, t, SCRUB_LATER_NS, scrub_due, NULL);
}

/* ---- a full disk, a failed sync ----------------------------------------------------------- */

/* relaxed, full: a hint.  Nobody has to write for it to be over when there is room, or for the log
 * to be put right. */
static void probe_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct store_state *st = state;
    const ptn_msg probe = {.from = ptn_self(c), .type = PTN_MSG_STORE_PROBE, .deadline = PTN_NEVER};
    (void)arg;
    if (st->stopping || !(atomic_load_explicit(&st->store->full, memory_order_relaxed) ||
                          atomic_load(&st->store->lost)))
        return;
    (void)ptn_lane_send(c, st->store->writer, &probe); /* refused: who waits there writes as well */
    ptn_timer_start(c, t, PROBE_NS, probe_due, NULL);
}

/* ---- messages ----------------------------------------------------------------------------- */

static int store_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct store_state *st = state;
    if (m->type == PTN_MSG_STOPPING) {
        st->busy = st->stopping = true;
        ptn_timer_stop(c, &st->retain_timer);
        ptn_timer_stop(c, &st->tend_timer);
        if (st->scrub.rounds > 0)
            scrub_note(c, st);
        ptn_timer_stop(c, &st->scrub_timer);
        stop_when_idle(c, st, &st->stop_timer, NULL);
        return 0;
    }
    if (m->type < PTN_MSG_USER)
        return 0;
    st->busy = true;
    note_change(c, st, m->type);
    bool aside = store_db_is_read_aside(m->type) || m->type == PTN_MSG_STORE_SCRUB;
    ptn_lane *lane = aside ? st->store->reader : st->store->writer;
    int err = ptn_lane_send(c, lane, m);
    if (err < 0 && m->corr != 0)
        ptn_problem_pass(c, ptn_reply_token(c, m), err, NULL);
    if (store_db_is_relaxed(m->type) && !ptn_timer_is_armed(&st->flush_timer))
        ptn_timer_start(c, &st->flush_timer, FLUSH_NS, flush_due, NULL);
    if (store_db_is_write(m->type) && !ptn_timer_is_armed(&st->probe_timer))
        ptn_timer_start(c, &st->probe_timer, PROBE_NS, probe_due, NULL);
    return 0;
}

const ptn_actor_ops store_actor = {.name = "store",
                                   .state_size = sizeof(struct store_state),
                                   .init = store_init,
                                   .handle = store_handle};
