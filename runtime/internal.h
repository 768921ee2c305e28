/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - what the files of runtime/ share: envelope, slot, worker, context, and their hooks.
 *
 * Who may touch what: the first cache line of a slot and `ready` of a worker belong to everybody,
 * through their atomics; all the rest of a slot and of a worker is touched by its worker's thread
 * ("owner") alone.  Fields marked "stats" are written by the owner
 * with relaxed stores and read by any thread.  Lifetime: slots are type-stable, that is, never
 * unmapped before ptn_runtime_free(), only reused under a new generation, so a stale address is
 * always safe to look up.
 */
#ifndef POSTERN_RUNTIME_INTERNAL_H
#define POSTERN_RUNTIME_INTERNAL_H

#include <postern/buggify.h>
#include <postern/metrics.h>
#include <postern/runtime.h>
#include <postern/stream.h>

#include "runtime/env/env.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>

#define PTN_CACHELINE 64

struct ptn__slot;
struct ptn__worker;

/* ---- envelopes ---------------------------------------------------------------------------- */

enum ptn__env_kind {
    PTN__ENV_CAST,    /* accounted in the load of its receiver */
    PTN__ENV_REQUEST, /* accounted; corr names the ask */
    PTN__ENV_REPLY,   /* room was reserved by the ask */
    PTN__ENV_SYSTEM,  /* DOWN, SIGNAL, STOPPING: for the handler, never refused */
    PTN__ENV_CONTROL, /* for the runtime itself: type is an enum ptn__control */
};

/* One cache line, in one list at a time: magazine, post, ready stack, inbox, held list.  A CAST has
 * no corr, deadline and err: they are whatever the envelope carried before. */
struct ptn__env {
    struct ptn__env *next;
    ptn_addr to, from;
    uint64_t corr;
    ptn_time deadline;
    ptn_buf *buf;
    int32_t err; /* REPLY: 0 or negative */
    uint32_t type;
    uint32_t enq_us; /* sender's clock >> 10 (about microseconds), for the sampled waiting time */
    union {
        struct {
            uint16_t kind;
            bool far;     /* accounted in far_load: the sender was another thread */
            bool payload; /* buf is there */
        };
        uint32_t how; /* all at once; 0: a cast of the own worker, without payload */
    };
};
_Static_assert(sizeof(struct ptn__env) == PTN_CACHELINE, "an envelope is one cache line");

#define PTN__MAGAZINE 64 /* envelopes, at least, that move to the depot and back under one lock */
struct ptn__mag {
    struct ptn__env *list, *spare; /* the one in use; a full one, or NULL */
    int32_t n_less;                /* of list: how many fit; below 0: it is full */
    uint32_t n_spare;
};

/* ---- resources: whatever must be released when an actor ends ------------------------------- */

/* Intrusive; newest first.  close() is called with the node already unlinked.  c is the ending
 * actor's context on an orderly end (callbacks into the actor are allowed), and NULL after a crash
 * or when the actor's state is already gone: then no actor code may run.  reason: 0 or a positive
 * PTN_E*. */
struct ptn__resource {
    struct ptn__resource *next, **pprev;
    void (*close)(struct ptn__resource *r, ptn_ctx *c, int reason);
};
int ptn__resource_add(ptn_ctx *c, struct ptn__resource *r); /* 0 or -PTN_ENOMEM */
void ptn__resource_remove(struct ptn__resource *r);         /* idempotent */

/* ---- maps --------------------------------------------------------------------------------- */

/* Open addressing, linear probing, backward-shift deletion; key 0 is "empty".  Owner worker only.
 */
struct ptn__map {
    uint64_t *keys;
    void **vals;
    uint32_t n, cap; /* cap: 0 or a power of two */
};
int ptn__map_put(struct ptn__map *m, uint64_t key, void *val); /* key must be new */
void *ptn__map_get(const struct ptn__map *m, uint64_t key);    /* NULL: absent */
void *ptn__map_take(struct ptn__map *m, uint64_t key);         /* removes; NULL: absent */
void ptn__map_done(struct ptn__map *m);

/* ---- slots -------------------------------------------------------------------------------- */

enum ptn__life {
    PTN__DEAD, /* no actor; late messages go to the dead letters */
    PTN__HELD, /* an address without an incarnation: not started yet, or between two; messages wait
                */
    PTN__RUNNING,
};

#define PTN__LOAD_ONE ((uint64_t)1 << 40) /* a load is msgs:24 | bytes:40 */
#define PTN__LOAD_BYTES (PTN__LOAD_ONE - 1)
/* The top bits of both: set in a level, which is load + slack, where slack is (half the range - 1 -
 * bound) of each, when one of them is over its bound. */
#define PTN__LOAD_OVER_MSGS ((uint64_t)1 << 63)
#define PTN__LOAD_OVER (PTN__LOAD_OVER_MSGS | (uint64_t)1 << 39)

enum ptn__note {
    PTN__NOTE_FAR = 1,     /* another thread has sent to it */
    PTN__NOTE_WATCHED = 2, /* cold->n_pressure > 0 */
    PTN__NOTE_EXITING = 4, /* ptn_exit() was called */
    PTN__NOTE_ODD = 8,   /* the batch is more than casts without payload: ctx has more to account */
    PTN__NOTE_GONE = 16, /* dead: to be released when its inbox is empty */
};

struct ptn__arena_chunk;
struct ptn__defer;
struct ptn__monitor;
struct ptn__cold;

/* overload.c: has a queue stood for too long? */
struct ptn__queue_delay {
    ptn_time target;     /* 0: never */
    ptn_time above_from; /* since then everything has waited longer than the target; 0: no */
    ptn_time above_last; /* the last that did */
    ptn_time shed_last;  /* 0: nothing yet */
};

/* Three cache lines.  An actor that only talks to actors of its own worker never touches line 0 on
 * the way of a message. */
struct ptn__slot {
    /* line 0: what senders on other threads touch */
    _Alignas(PTN_CACHELINE) _Atomic(uint64_t) far_load; /* sent by other threads, not handled yet */
    _Atomic(uint64_t) near_seen; /* ptn__near_load() as of the last batch, with NOTE_FAR */
    _Atomic(uint64_t) refused;   /* stats */
    _Atomic(uint32_t) gen;       /* odd: live */
    _Atomic(uint32_t) msgs_max, bytes_max;
    uint32_t index;                 /* constant */
    struct ptn__worker *worker;     /* constant */
    _Atomic(const char *) ops_name; /* stats; NULL: no actor */
    ptn_timer *timers;              /* owner */

    /* line 1: owner, to send to it */
    _Alignas(PTN_CACHELINE) ptn_addr self; /* 0: dead */
    _Atomic(uint64_t) near_slack;          /* the bounds once more, see PTN__LOAD_OVER */
    _Atomic(uint64_t) near_level;          /* near_slack + what ptn__near_load() says; stats */
    struct ptn__env *inbox, *inbox_last;   /* oldest first; the newest, unless empty */
    struct ptn__slot *run_next;            /* NULL: neither on the run queue nor running */
    const ptn_actor_ops *ops;
    uint8_t life;       /* enum ptn__life */
    bool in_call;       /* its code is on the stack, but for casts and requests: ptn__in_call() */
    uint8_t notes;      /* PTN__NOTE_*: what has to be seen to after a message or a batch */
    bool end_final : 1; /* ends for good, whatever its supervisor would say */
    bool ending : 1;    /* inside the end sequence: no new asks, timers, resources */
    bool sheds : 1;     /* cold->delay has a target */
    uint8_t wait_index; /* of its kind of actor, in its worker's waits */
    bool in_free;       /* guarded by the slot table's lock */

    /* line 2: owner, to run it */
    _Alignas(PTN_CACHELINE) void *state;
    _Atomic(uint64_t) handled; /* stats */
    struct ptn__cold *cold;    /* never NULL; to write into it: ptn__cold_own() */
    struct ptn__arena_chunk *arena;
    union {
        struct ptn__slot *live_next; /* alive */
        struct ptn__slot *free_next; /* on the free list */
    };
    struct ptn__slot **live_pprev;
    _Atomic(uint64_t) busy_ns_sum; /* stats */
    _Atomic(uint32_t) incarnation; /* grows with every init; stats */
    int exit_reason;
};
_Static_assert(offsetof(struct ptn__slot, self) == PTN_CACHELINE, "no false sharing");
_Static_assert(offsetof(struct ptn__slot, state) == 2 * (size_t)PTN_CACHELINE, "line 2");
/* An idle actor is a slot and an arena chunk that fits its state. */
_Static_assert(sizeof(struct ptn__slot) == 3 * (size_t)PTN_CACHELINE, "an idle actor stays small");

/* Owner.  Sent by this worker, not handled yet. */
static inline uint64_t ptn__near_load(const struct ptn__slot *s) {
    return atomic_load_explicit(&s->near_level, memory_order_relaxed) -
           atomic_load_explicit(&s->near_slack, memory_order_relaxed);
}

/* Owner.  What waits for it, from everybody.  relaxed: a hint */
static inline uint64_t ptn__load(const struct ptn__slot *s) {
    return ptn__near_load(s) + atomic_load_explicit(&s->far_load, memory_order_relaxed);
}

/* What most actors do not have most of the time.  Allocated by ptn__cold_own() at the first use,
 * or at the spawn of an actor with a supervisor or a name; freed when the actor has ended for good,
 * crashes and restarts included.  An actor without one reads the all-zero ptn__cold_none, so a
 * reader needs no case for that.  A new member goes here, with 0 for "nothing", and whatever it
 * owns is given up in incarnation_end() (ends with the incarnation) or ptn__cold_drop(). */
struct ptn__cold {
    ptn_addr sup; /* supervisor; 0: unsupervised */
    uint32_t sup_index;
    bool top;                               /* child of the root supervisor */
    void *spawn_arg;                        /* of a supervised actor, for every init */
    char *name;                             /* registered; owned */
    struct ptn__env *held_head, *held_tail; /* messages that wait for an incarnation */
    struct ptn__defer *defers;
    struct ptn__resource *resources;
    struct ptn__map asks; /* corr -> struct ptn__ask */
    uint32_t tokens_sweep_at;
    struct ptn__map tokens;  /* corr -> struct ptn__token: requests taken, not answered yet */
    struct ptn__map watches; /* monitor reference -> target address */
    struct ptn__monitor *monitors;
    uint32_t n_monitors;
    uint32_t n_pressure;           /* of the monitors: who wants the level, too */
    bool pressed;                  /* the level that they know */
    struct ptn__queue_delay delay; /* target 0: requests are never refused for waiting */
};
extern const struct ptn__cold ptn__cold_none;
struct ptn__cold *ptn__cold_new(void); /* NULL: no memory */
/* Owner.  The actor's own, writable cold part.  NULL: no memory. */
struct ptn__cold *ptn__cold_own(struct ptn__slot *s);
/* Owner.  Whatever the members hold has been given up. */
void ptn__cold_drop(struct ptn__slot *s);

#define PTN__CHUNK_SLOTS 1024u
#define PTN__CHUNKS_MAX 16384u /* 2^24 slots per worker */

struct ptn__slot_table {
    _Atomic(struct ptn__slot *) *chunks; /* release store; acquire partner in ptn__slot_find() */
    uint32_t near_end;                   /* owner: all slots from here on never had an actor */
    _Atomic(uint32_t) n_chunks;
    void **chunk_blocks;
    pthread_mutex_t lock;   /* free list and growth: spawn and end, never a cast */
    struct ptn__slot *free; /* last in, first out: the warm one */
    uint32_t n_slots;
};

/* ---- timer wheel -------------------------------------------------------------------------- */

#define PTN__WHEEL_BITS 5
#define PTN__WHEEL_LEVELS 6
#define PTN__WHEEL_SLOTS (1u << PTN__WHEEL_BITS)
struct ptn__wheel {
    uint64_t tick; /* everything due at or before this tick has fired */
    uint32_t used[PTN__WHEEL_LEVELS];
    ptn_timer *slot[PTN__WHEEL_LEVELS][PTN__WHEEL_SLOTS];
};

/* ---- workers ------------------------------------------------------------------------------ */

#define PTN__RUNQ_END ((struct ptn__slot *)1)
#define PTN__PARKED ((struct ptn__env *)1)
#define PTN__CLOSED ((struct ptn__env *)2)
#define PTN__WORKER_MAGIC 0x50574b52u
#define PTN__POST_MAX 32u /* envelopes that may wait for the end of a batch */
#define PTN__DEAD_RING 256u
#define PTN__FAIL_TEXT 192

struct ptn__dead_letter {
    ptn_addr from, to;
    uint32_t type, len;
    int reason; /* positive PTN_E* */
};

struct ptn__turn_end {
    struct ptn__turn_end *next;
    ptn_addr owner;
    uint32_t incarnation;
    void (*cb)(ptn_ctx *c, void *state, void *arg);
    void *arg;
};

/* stream.c's numbers.  In the worker, and not behind `streams`, because other threads read them
 * before it has started and after it has stopped. */
struct ptn__stream_counts {
    _Atomic(uint64_t) queued_bytes, streams_open, accepted, accept_errors, slow_closes; /* stats */
};

/* What a worker has for another one: newest first, as it will lie on the ready stack. */
struct ptn__post {
    struct ptn__env *newest, *oldest;
    uint32_t n;
    struct ptn__slot *slot; /* the last receiver that has bounds */
    uint64_t room;          /* a load: taken there ahead of the messages; given back by the flush */
};

/* Kinds of actors with a histogram of their own; the rest share the last. */
#define PTN__WAITS_MAX 32

struct ptn__wait { /* sampled time in the mailbox, of one kind of actor */
    _Atomic(const char *) name;
    ptn_histogram_cells cells;
};

struct ptn__spin {       /* spin.c's */
    ptn_time limit_ns;   /* 0: never */
    ptn_time idle_since; /* the end of the last turn with messages */
    uint32_t hold;       /* short idle times to come before it spins (again) */
    uint32_t level;      /* of failure */
    ptn_time late;       /* whoever ended the last idle time was, for it had slept */
    uint32_t tries;      /* waits, in a row, for one who was asleep each time */
    bool idle;           /* it has been asked since */
    bool spun;           /* in this idle time */
};

struct ptn__watch { /* watchdog.c's; of its signal handler, but for the last four */
    const ptn_ctx *ctx;
    uint64_t turn;
    unsigned n, ticks;
    ptn_time quiet_until;
    _Atomic(uint64_t) slow_turn;
    ptn_time blocked_quiet_until;
    _Atomic(uint64_t) seen; /* by any thread: a turn, and when it was first seen */
    _Atomic(uint32_t) told; /* the last turn that was reported for not ending */
};

struct ptn__worker {
    _Alignas(PTN_CACHELINE) _Atomic(struct ptn__env *) ready; /* NULL | PARKED | CLOSED | stack */
    _Atomic(uint64_t) wakes;         /* by senders, once per park at most */
    _Atomic(ptn_time) woken_at;      /* by a sender, last */
    _Atomic(ptn_time) woken_by_late; /* late of that sender */

    /* One line, constant: senders on other threads read it, so that what the owner writes all the
     * time has to lie elsewhere. */
    _Alignas(PTN_CACHELINE) ptn_runtime *rt;
    ptn_env *env;
    _Atomic(struct ptn__slot *) *chunks; /* slots.chunks */
    unsigned index;
    uint32_t magic;

    _Alignas(PTN_CACHELINE) void *streams; /* stream.c's */
    ptn_time now;   /* refreshed at the start of a turn, and by the first callback after one */
    ptn_time clock; /* the latest reading; now <= clock */
    ptn_time late;  /* so much earlier this turn would have begun without a sleep before it */
    bool now_stale;
    bool drain_seen, kill_seen, done_counted, closed_counted;
    uint32_t call_depth;    /* nested contexts */
    _Atomic(ptn_ctx *) ctx; /* the innermost; relaxed, for signal handlers on this thread */
    struct ptn__watch watch;
    struct ptn__spin spin;
    uint64_t posts_waiting; /* a bit for each worker with something in posts */
    bool after_batch;       /* there may be posts, or the turn is over */
    /* One line: what a message to an actor of this worker takes.
     * The actor that runs is the first; the last points to PTN__RUNQ_END.  Where that is. */
    _Alignas(PTN_CACHELINE) struct ptn__slot *runq;
    struct ptn__slot **runq_tail;
    struct ptn__mag mag; /* for its own actors */
    uint32_t sample_in;  /* messages until one is measured, and the clock read */
    uint32_t high;       /* index << 24: the upper half of its addresses, but for the slot */
    struct ptn__slot_table slots;
    /* For messages that cross workers: to take from, and to put what came from others.  They move
     * in the order they have in memory, so that the prefetcher sees them coming, as long as nothing
     * else is put or taken in between: so these are two, which meet in the depot. */
    struct ptn__mag far_mag, back_mag;
    struct ptn__wheel wheel;
    struct ptn__slot *live;
    uint32_t n_live;
    uint32_t works_pending;
    ptn_time turn_until;
    uint64_t corr_next;
    struct ptn__arena_chunk *scratch;
    struct ptn__turn_end *turn_end_head, **turn_end_tail, *turn_end_free;
    uint32_t n_turn_ends;
    struct ptn__ask *ask_free;
    struct ptn__token *token_free;
    uint32_t n_ask_free, n_token_free;
    uint32_t n_ask_made, n_token_made; /* allocated, free ones included */
    struct ptn__dead_letter dead_ring[PTN__DEAD_RING];
    uint32_t dead_traced;
    ptn_time dead_quiet_until;
    char fail_text[PTN__FAIL_TEXT];
    /* stats */
    _Atomic(uint64_t) turns, parks, messages;
    _Atomic(uint64_t) dead_letters, late_replies, deadline_expired, lag_ns_max;
    _Atomic(uint64_t) backing_off;                  /* supervise.c's */
    _Atomic(uint64_t) slow_handlers, blocked_turns; /* watchdog.c's */
    struct ptn__wait waits[PTN__WAITS_MAX];
    struct ptn__post posts[PTN_WORKERS_MAX];
    struct ptn__stream_counts stream_counts;
};

_Static_assert(offsetof(struct ptn__worker, slots.chunk_blocks) ==
                   offsetof(struct ptn__worker, runq) + PTN_CACHELINE,
               "one line");

/* A counter of the owner that others read: relaxed, single writer, so no locked instruction. */
static inline void ptn__count(_Atomic(uint64_t) *counter, uint64_t by) {
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

/* ---- contexts ----------------------------------------------------------------------------- */

/* Lives on the stack of the entry (run loop, callback, init), from ptn__ctx_enter() to
 * ptn__ctx_leave(); in between w->ctx leads to it.  jmp is where ptn_fail() lands.  The run loop's
 * serves all actors of a turn, so all that must survive a jump is in here.
 *
 * w->sample_in is the one counter of a message; what else is counted by messages (those of the
 * batch, of the turn, of the actor) is told from how far it has come since a mark.  cur is set
 * while a handler is on the stack, and nowhere else. */
struct ptn_ctx {
    struct ptn__worker *w;
    struct ptn__slot *slot;
    struct ptn__env *cur;  /* message being handled, NULL in callbacks */
    struct ptn__env *last; /* the batch ends behind it, unless it is of one cast */
    ptn_msg msg;           /* cur, for its handler.  Between messages: a cast without payload */
    uint64_t near_done;    /* see ptn__batch_settle() */
    uint64_t far_done;     /* to subtract from far_load at the end of the batch */
    uint32_t mark;         /* sample_in when messages were accounted last, so between batches */
    uint32_t unhandled;    /* taken since then, but not for the handler */
    unsigned n;            /* messages of the turn: n - sample_in */
    bool turn_over;
    bool answered; /* cur, a request, was answered, forwarded, or its token taken */
    int fail_reason;
    ptn_time deadline;    /* inherited by asks */
    struct ptn__env *env; /* in hand, and not part of a batch: to be given back after a crash */
    ptn_ctx *outer;
    jmp_buf jmp;
};

/* Owner.  Messages taken out of the inbox, but not accounted yet. */
static inline uint32_t ptn__batch_taken(const ptn_ctx *c) {
    return c->mark - c->w->sample_in;
}

/* Runs fn in the context of a live local actor, with a handler's crash protection.  0, or
 * -PTN_ENOACTOR when the actor is gone (fn was not called), or -PTN_ECRASHED when it failed inside
 * fn.  Owner worker only; not from inside a handler or callback of the same actor. */
typedef void (*ptn__call_fn)(ptn_ctx *c, void *state, void *arg);
int ptn__call(struct ptn__worker *w, ptn_addr owner, ptn__call_fn fn, void *arg);

static inline struct ptn__worker *ptn__ctx_worker(const ptn_ctx *c) {
    return c->w;
}

/* ---- the runtime -------------------------------------------------------------------------- */

enum ptn__phase { PTN__PHASE_RUN, PTN__PHASE_DRAIN, PTN__PHASE_KILL };

/* A thread the runtime does not own (port, lane).  The gate counts calls in progress, so that
 * shutdown can tell when no wake-up is on its way any more; its top bit says "closed". */
#define PTN__GATE_CLOSED 0x80000000u
struct ptn__foreign {
    struct ptn__foreign *next, **pprev; /* under rt->foreign_lock */
    ptn_runtime *rt;
    _Atomic(uint32_t) gate;
    struct ptn__mag mag;
    const struct ptn_lane *lane; /* NULL: a port */
};

struct ptn__registry {
    pthread_mutex_t lock;
    struct ptn__name **buckets;
    uint32_t n, n_buckets;
};

struct ptn__depot {
    pthread_mutex_t lock;
    /* magazines, also partial ones of threads that have ended, linked through corr of their first
     * envelope; its type says how many they are */
    struct ptn__env *full;
    struct ptn__env *reserve; /* for SYSTEM and CONTROL when memory has run out */
    _Atomic(uint32_t) n_reserve;
    void **slabs;
    uint32_t n_slabs, slabs_cap;
    _Atomic(uint64_t) made; /* envelopes ever carved: stats */
};

struct ptn_runtime {
    ptn_env *env;
    bool env_owned;
    unsigned n_workers;
    uint64_t spin_ns;
    ptn_time drain_ns;
    ptn_time slow_ns, stuck_ns, tick_ns, blocked_ns; /* watchdog.c's */
    struct ptn__worker **workers;
    struct ptn__registry registry;
    struct ptn__depot depot;
    ptn_addr root; /* root supervisor, on worker 0 */
    unsigned round_robin;
    bool ran;
    void (*trace)(const ptn_trace_event *e, void *arg);
    void *trace_arg;
    pthread_mutex_t foreign_lock;
    struct ptn__foreign *foreign;
    _Atomic(uint32_t) stop_gate; /* as ptn__foreign.gate, for ptn_runtime_stop() */
    _Atomic(uint32_t) stops;     /* calls of ptn_runtime_stop() */
    _Atomic(uint32_t) phase;     /* enum ptn__phase; only grows */
    _Atomic(uint32_t) top_live;  /* children of the root supervisor */
    _Atomic(uint64_t) drain_until;
    bool foreign_shut; /* under foreign_lock */
    _Atomic(uint32_t) workers_started, workers_done, workers_closed;
    _Atomic(int) result;
};

/* ---- envelope.c --------------------------------------------------------------------------- */

void ptn__mag_init(struct ptn__mag *m);
/* From the magazine, uninitialised.  NULL: no memory. */
struct ptn__env *ptn__env_refill(ptn_runtime *rt, struct ptn__mag *m);
/* When there is no other: for SYSTEM and CONTROL, and half of the reserve for REPLY.  NULL: that is
 * used up, too. */
struct ptn__env *ptn__env_get_reserved(ptn_runtime *rt, enum ptn__env_kind kind);
/* Sanitizer builds: keeps e for the reserve if that is not full. */
bool ptn__env_keep(ptn_runtime *rt, struct ptn__env *e);
void ptn__env_spill(ptn_runtime *rt, struct ptn__mag *m);
void ptn__mag_done(ptn_runtime *rt, struct ptn__mag *m);
int ptn__depot_init(struct ptn__depot *d);
void ptn__depot_done(struct ptn__depot *d);

/* ---- slot.c ------------------------------------------------------------------------------- */

int ptn__slots_init(struct ptn__worker *w);
void ptn__slots_done(struct ptn__worker *w);
/* Any thread.  A free slot whose generation is already live.  NULL: table full or no memory. */
struct ptn__slot *ptn__slot_alloc(struct ptn__worker *w, ptn_addr *ret_addr);
/* Owner.  The slot is dead, drained, and in no list. */
void ptn__slot_release(struct ptn__slot *s);

/* Any thread.  The slot of an address of this worker, live or not; NULL: no such slot. */
static inline struct ptn__slot *ptn__slot_of(const struct ptn__worker *w, ptn_addr a) {
    uint32_t si = (uint32_t)(a >> 32) & 0xffffffu;
    /* acquire: partner is the release store that publishes a chunk in slot.c */
    struct ptn__slot *chunk =
        atomic_load_explicit(&w->chunks[si / PTN__CHUNK_SLOTS], memory_order_acquire);
    return PTN_UNLIKELY(chunk == NULL) ? NULL : &chunk[si % PTN__CHUNK_SLOTS];
}

/* Owner.  The actor of any address; NULL: another worker's, or not here. */
static inline struct ptn__slot *ptn__slot_here(const struct ptn__worker *w, ptn_addr a) {
    uint32_t si = (uint32_t)(a >> 32) ^ w->high; /* another worker's is past all slots */
    if (PTN_UNLIKELY(si >= w->slots.near_end))
        return NULL;
    /* relaxed: whoever adopted an actor there has seen the chunk */
    struct ptn__slot *s = &atomic_load_explicit(&w->slots.chunks[si / PTN__CHUNK_SLOTS],
                                                memory_order_relaxed)[si % PTN__CHUNK_SLOTS];
    return PTN_LIKELY(s->self == a) ? s : NULL;
}

/* The same for any address; NULL: no such worker or slot. */
static inline struct ptn__slot *ptn__slot_at(const ptn_runtime *rt, ptn_addr a) {
    unsigned wi = (unsigned)(a >> 56);
    return PTN_UNLIKELY(wi >= rt->n_workers) ? NULL : ptn__slot_of(rt->workers[wi], a);
}

/* The same, but only while the generation matches.  Relaxed: a race with the actor's end is caught
 * by the owner, which compares env->to with its own address. */
static inline struct ptn__slot *ptn__slot_find(const ptn_runtime *rt, ptn_addr a) {
    struct ptn__slot *s = ptn__slot_at(rt, a);
    if (PTN_UNLIKELY(s == NULL) ||
        PTN_UNLIKELY(atomic_load_explicit(&s->gen, memory_order_relaxed) != (uint32_t)a) ||
        PTN_UNLIKELY(((uint32_t)a & 1) == 0))
        return NULL;
    return s;
}

/* ---- worker.c ----------------------------------------------------------------------------- */

extern const ptn_env_worker_ops ptn__worker_env_ops;
int ptn__worker_new(ptn_runtime *rt, unsigned index, struct ptn__worker **ret_w);
void ptn__worker_free(struct ptn__worker *w);
/* Any thread.  (P) of docs/memory-model.md: the chain newest..oldest, linked through next, goes
 * onto w's ready stack.  late: the sending worker's, or 0.  False: w has taken its last turn, and
 * the chain is still the caller's. */
bool ptn__worker_push(struct ptn__worker *w, struct ptn__env *newest, struct ptn__env *oldest,
                      ptn_time late);
/* Owner.  Sends on what waits for other workers; nothing may wait when the worker parks. */
void ptn__posts_flush(struct ptn__worker *w);
/* Owner.  The same for one of them. */
void ptn__post_flush(struct ptn__worker *w, unsigned to);
/* Runs what the turn's end owes: ptn_at_turn_end() callbacks, then ptn__streams_flush(). */
bool ptn__worker_at_turn_end(struct ptn__worker *w); /* true: the next turn has work */
/* Refreshes w->now when a callback comes from outside a turn. */
void ptn__worker_touch_clock(struct ptn__worker *w);

/* ---- spin.c ------------------------------------------------------------------------------- */

/* Owner, all of these.  limit_ns: the longest wait; 0: none. */
void ptn__spin_init(struct ptn__spin *p, ptn_time limit_ns);
/* A turn with messages has ended. */
void ptn__spin_busy(struct ptn__spin *p, ptn_time now);
/* Nothing is left to do: wait awake for a moment, and ask again?  Else sleep. */
bool ptn__spin_wants(struct ptn__spin *p, ptn_time now);
/* The idle time was ended by another thread, which came then, and would have come so much earlier
 * if it had not slept itself. */
void ptn__spin_message(struct ptn__spin *p, ptn_time at, ptn_time late);

/* ---- watchdog.c --------------------------------------------------------------------------- */

void ptn__watchdog_init(ptn_runtime *rt, const ptn_runtime_opts *o);
/* Worker thread, first and last. */
void ptn__watchdog_start(struct ptn__worker *w);
void ptn__watchdog_stop(struct ptn__worker *w);
/* A turn took rt->blocked_ns or more on the wall's clock. */
void ptn__watchdog_blocked(struct ptn__worker *w, ptn_time took);

/* ---- stream.c (the other side of the seam) ------------------------------------------------ */

/* Owner.  Start and end of a worker's stream state (w->streams). */
int ptn__streams_init(struct ptn__worker *w);
void ptn__streams_done(struct ptn__worker *w);
/* Owner, at the end of every turn, before parking: flush dirty streams, run deferred closes.
 * Returns true when it left work for the next turn (the worker then does not park). */
bool ptn__streams_flush(struct ptn__worker *w, bool busy);

/* ---- send.c ------------------------------------------------------------------------------- */

/* Accounts (CAST and REQUEST), fills and hands over.  Owner of w: 0, -PTN_ENOACTOR, -PTN_EOVERLOAD,
 * -PTN_ETOOBIG, -PTN_ENOMEM; kinds without a bound are never refused for one. */
int ptn__send(struct ptn__worker *w, const struct ptn__env *proto, ptn_buf *take_payload);
/* The same from a thread the runtime does not own, inside its gate. */
int ptn__send_foreign(ptn_runtime *rt, struct ptn__mag *m, const struct ptn__env *proto,
                      ptn_buf *take_payload);
/* From worker code.  CONTROL that cannot be sent because even the reserve of envelopes is used up
 * aborts the process. */
int ptn__send_control(struct ptn__worker *w, ptn_addr to, ptn_addr from, uint32_t type,
                      uint64_t corr, int err);
/* The request being handled is taken care of: a crash of this handler does not answer it. */
void ptn__mark_answered(ptn_ctx *c, uint64_t corr);
/* Answers a request with an error, if it is one. */
void ptn__answer_err(struct ptn__worker *w, ptn_addr from, ptn_addr asker, uint64_t corr, int err);

/* ---- actor.c ------------------------------------------------------------------------------ */

enum ptn__control {
    PTN__CTL_ADOPT = 1, /* corr: struct ptn__spawn * */
    PTN__CTL_INIT,      /* held -> running; corr: the argument, of an actor without supervisor */
    PTN__CTL_HOLD,      /* running -> held, then CHILD_HELD to the supervisor */
    PTN__CTL_STOPPING,  /* PTN_MSG_STOPPING to incarnation err; corr: deadline */
    PTN__CTL_END,       /* any -> dead; err: reason */
    PTN__CTL_MONITOR,   /* from: watcher, corr: reference */
    PTN__CTL_DEMONITOR,
    PTN__CTL_LINK_DOWN, /* a supervisor of this actor gave up: crash; err: reason */
    PTN__CTL_CHILD_UP,  /* to a supervisor; corr: child index, err: incarnation */
    PTN__CTL_CHILD_CRASHED,
    PTN__CTL_CHILD_EXITED,
    PTN__CTL_CHILD_HELD,
};

/* Everything a slot's owner needs to adopt a new actor. */
struct ptn__spawn {
    const ptn_actor_ops *ops;
    void *arg;
    struct ptn__cold *cold; /* supervisor and name, already registered; owned.  NULL: neither */
    bool start;
};

void ptn__spawn_free(struct ptn__spawn *sp);

struct ptn__spawn_req {
    const ptn_actor_ops *ops;
    const ptn_actor_opts *opts;
    void *arg;
    ptn_addr sup;
    uint32_t sup_index;
    bool start, top;
    unsigned worker;
};
/* Reserves a slot and a name and has the owner adopt it: at once when w is the owner (or no worker
 * runs yet, w NULL), else by message.  A failing init on w itself is returned. */
int ptn__spawn_actor(ptn_runtime *rt, struct ptn__worker *w, const struct ptn__spawn_req *req,
                     ptn_addr *ret_addr);
/* Owner: a reserved slot becomes an actor without an incarnation; HELD -> RUNNING; and back. */
void ptn__actor_adopt(struct ptn__slot *s, ptn_addr self, const struct ptn__spawn *sp);
int ptn__actor_init(struct ptn__slot *s, void *arg);
/* Owner.  The same by an ADOPT that arrived.  True: e is now the actor's INIT, for its inbox. */
bool ptn__actor_arrive(struct ptn__slot *s, struct ptn__env *e);
void ptn__actor_hold(struct ptn__slot *s);
void ptn__actor_exit(struct ptn__slot *s);
void ptn__actor_crash(ptn_ctx *c, int reason);
/* Ends an actor for good, in order (fini runs).  Deferred while its own code is on the stack. */
void ptn__actor_end(struct ptn__slot *s, int reason);
/* Owner.  The actor's code is on the stack, or was and comes next. */
bool ptn__in_call(const struct ptn__slot *s);
/* Owner.  It ends behind what it does now. */
void ptn__exit_note(struct ptn__slot *s, int reason);
void ptn__ctx_enter(ptn_ctx *c, struct ptn__worker *w, struct ptn__slot *s);
static inline void ptn__ctx_leave(const ptn_ctx *c) {
    atomic_store_explicit(&c->w->ctx, c->outer, memory_order_relaxed);
}
/* After the last turn: frees what a dead or live slot still holds, without running actor code. */
void ptn__slot_drain_quiet(struct ptn__slot *s);
/* Frees a chain of envelopes that will never be handled, and what hangs on them. */
void ptn__env_discard(ptn_runtime *rt, struct ptn__mag *m, struct ptn__env *e);

/* ---- dispatch.c, context.c ----------------------------------------------------------------- */

/* Runs actors of the run queue until it is empty or the turn is over.  Keeps its place in w and in
 * a context, so that a failing actor costs the others nothing. */
void ptn__actors_run(struct ptn__worker *w);
/* A message whose receiver is gone: dead letter, answer, or nothing.  Consumes buf. */
void ptn__stray(struct ptn__slot *s, const struct ptn__env *e, ptn_buf *buf);
void ptn__resources_close(struct ptn__slot *s, ptn_ctx *c, int reason);
void ptn__defers_run(struct ptn__slot *s);
void ptn__turn_ends_run(struct ptn__worker *w);
int ptn__turn_ends_init(struct ptn__worker *w); /* 0 or -PTN_ENOMEM; _done() in any case */
void ptn__turn_ends_done(struct ptn__worker *w);

/* ---- ask.c, timer.c, watch.c, registry.c, deadletter.c, supervise.c, arena.c ---------------- */

struct ptn__token {
    struct ptn__token *next; /* free list */
    ptn_addr to;
    ptn_time deadline;
};
void ptn__ask_reply(ptn_ctx *c, const struct ptn__env *e, ptn_buf *buf);
void ptn__asks_end(ptn_ctx *c); /* orderly: every ask ends with -PTN_ESTOPPING */
void ptn__asks_cancel(struct ptn__slot *s);
void ptn__token_remove(struct ptn__slot *s, uint64_t corr);
/* Answers with err (0: without answering) and forgets them. */
void ptn__tokens_answer(struct ptn__slot *s, int err);
void ptn__ask_pool_done(struct ptn__worker *w);

void ptn__wheel_init(struct ptn__wheel *wh, ptn_time now);
void ptn__wheel_add(struct ptn__wheel *wh, ptn_timer *t);
void ptn__wheel_remove(struct ptn__wheel *wh, ptn_timer *t);
/* Moves time on to now; returns a list (by next) of at most max due timers, oldest tick first. */
ptn_timer *ptn__wheel_expire(struct ptn__wheel *wh, ptn_time now);
ptn_time ptn__wheel_next(const struct ptn__wheel *wh);
bool ptn__timers_run(struct ptn__worker *w); /* true: more are due */
void ptn__timers_stop_all(struct ptn__slot *s);

void ptn__monitor_add(struct ptn__slot *s, ptn_addr watcher, uint64_t ref, bool pressure);
void ptn__monitor_remove(struct ptn__slot *s, ptn_addr watcher, uint64_t ref);
void ptn__monitors_fire(struct ptn__slot *s);
void ptn__monitors_free(struct ptn__slot *s);
/* Owner, after a batch of a watched actor. */
void ptn__pressure_look(struct ptn__slot *s);

/* So many must be behind a request before its wait means anything. */
#define PTN__QUEUE_STANDS 16u
/* True: what has waited for so long, with n_waiting behind it, is refused. */
bool ptn__queue_delay_sheds(struct ptn__queue_delay *q, ptn_time now, ptn_time waited,
                            uint32_t n_waiting);
/* Owner.  True: this request has been refused. */
bool ptn__request_shed(ptn_ctx *c, const struct ptn__env *e);
void ptn__watches_cancel(struct ptn__slot *s);
void ptn__send_down(struct ptn__worker *w, ptn_addr watcher, ptn_addr target, uint64_t ref);

int ptn__registry_init(struct ptn__registry *r);
void ptn__registry_done(struct ptn__registry *r);
int ptn__registry_add(struct ptn__registry *r, const char *name, ptn_addr addr);
void ptn__registry_remove(struct ptn__registry *r, const char *name, ptn_addr addr);

void ptn__dead_letter(struct ptn__worker *w, const struct ptn__env *e, size_t len, int reason,
                      const char *actor);
/* The newest n records, newest first; returns how many. */
size_t ptn__dead_letters_copy(const struct ptn__worker *w, struct ptn__dead_letter *ret, size_t n);
void ptn__trace(ptn_runtime *rt, const ptn_trace_event *e);

extern const ptn_actor_ops ptn__sup_ops;
int ptn__root_new(ptn_runtime *rt);
int ptn__root_add(ptn_runtime *rt, const ptn_child *kid, ptn_addr *ret_addr);
void ptn__sup_control(ptn_ctx *c, const struct ptn__env *e);
/* The runtime as a whole begins to stop because the root supervisor gave up. */
void ptn__runtime_gave_up(ptn_runtime *rt);

/* Zeroed, in a chunk that fits exactly; the arena is empty.  NULL: as ptn__arena_alloc(). */
void *ptn__arena_first(struct ptn__arena_chunk **a, size_t n);
void *ptn__arena_alloc(struct ptn__arena_chunk **a, size_t n);
void *ptn__arena_free(struct ptn__arena_chunk *a);
void ptn__arena_reset(struct ptn__arena_chunk **a); /* keeps one chunk */

void ptn__foreign_open(ptn_runtime *rt, struct ptn__foreign *f);
void ptn__foreign_close(struct ptn__foreign *f);
bool ptn__gate_enter(_Atomic(uint32_t) *gate);
void ptn__gate_leave(_Atomic(uint32_t) *gate);
void ptn__gate_shut(_Atomic(uint32_t) *gate); /* closes, and waits for calls in progress */
void ptn__gates_shut(ptn_runtime *rt);
int ptn__foreign_send(struct ptn__foreign *f, struct ptn__env *proto, ptn_buf *take_payload);

#endif
