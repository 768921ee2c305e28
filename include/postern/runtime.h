/* SPDX-License-Identifier: Apache-2.0
 *
 * runtime.h - the actor runtime: workers, actors, messages, asks, timers, supervision.
 *
 * Threads: a ptn_ctx is valid only inside the callback it was passed to.  Functions that take a
 * ptn_ctx run on the worker that owns the current actor.  Any other thread may use only ptn_port_*,
 * ptn_runtime_stop(), ptn_whereis() and ptn_err_*().
 *
 * Delivery: at most once, FIFO per (sender, receiver) pair, across workers too.  Mailboxes are
 * bounded in messages and bytes; a full one refuses with -PTN_EOVERLOAD and the sender keeps the
 * payload. Replies are never refused: ptn_ask() reserves their room.
 *
 * Design: docs/memory-model.md (proof), docs/runtime.md (guide).
 */
#ifndef POSTERN_RUNTIME_H
#define POSTERN_RUNTIME_H

#include <postern/base.h>
#include <postern/buf.h>
#include <postern/metrics.h>

typedef uint64_t ptn_addr; /* worker:8 | slot:24 | generation:32 */
#define PTN_ADDR_NONE ((ptn_addr)0)

typedef struct ptn_runtime ptn_runtime;
typedef struct ptn_ctx ptn_ctx;
typedef struct ptn_port ptn_port; /* sending end for threads the runtime does not own */
typedef struct ptn_env ptn_env;   /* the outside world: runtime/env/env.h */

#define PTN_WORKERS_MAX 64

/* Message types below this value belong to the runtime; the catalogue starts here. */
#define PTN_MSG_USER 64
enum ptn_runtime_msg {
    PTN_MSG_DOWN = 1,   /* a monitored actor is gone: from = the actor, corr = monitor reference */
    PTN_MSG_SIGNAL = 2, /* corr = signal number (ptn_signal_watch) */
    /* The runtime drains, or a group restart wants this child down: finish and ptn_exit() before
     * the deadline. */
    PTN_MSG_PRESSURE = 8, /* a watched mailbox is over half full: from, corr as DOWN */
    PTN_MSG_RELIEF = 9,   /* and under a quarter again */
    PTN_MSG_STOPPING = 3,
};

typedef struct ptn_msg { /* what a handler sees; valid for the call */
    ptn_addr from;
    uint32_t type;
    uint64_t corr;     /* 0: cast; otherwise an ask that wants an answer */
    ptn_time deadline; /* PTN_NEVER: none */
    const uint8_t *data;
    size_t len;
    ptn_buf *buf; /* borrowed; ptn_buf_ref() to keep.  NULL when len is 0 */
} ptn_msg;

/* The payload; valid as long as m. */
static inline ptn_bytes ptn_msg_bytes(const ptn_msg *m) {
    return (ptn_bytes){m->data, m->len};
}

/* ---- runtime ------------------------------------------------------------------------------ */

typedef struct ptn_runtime_opts {
    unsigned workers;  /* 0: 1 */
    ptn_env *env;      /* NULL: libuv */
    ptn_time drain_ns; /* how long actors may take to stop; 0: 5 s */
    /* How long a worker may wait awake for messages of other threads before it sleeps.  It does so
     * only while they keep coming within that time, and where every worker can have a processor of
     * its own.  0: 20 us; PTN_NEVER: not at all. */
    ptn_time spin_ns;
    /* CPU time one message may take: past slow_ns it is traced (PTN_TRACE_SLOW), past stuck_ns the
     * process writes a crash record and aborts.  Up to twice as much may pass before it is noticed.
     * A handler that sleeps uses none: see ptn_worker_stuck().  0: never; the simulator never does.
     */
    ptn_time slow_ns, stuck_ns;
} ptn_runtime_opts;

/* Makes a runtime that does not run yet.  0, -PTN_EINVAL or -PTN_ENOMEM. */
int ptn_runtime_new(const ptn_runtime_opts *opts, ptn_runtime **ret_rt);

/* Starts the workers and returns when the runtime has stopped.  0, or -PTN_ECRASHED when the root
 * supervisor gave up. */
int ptn_runtime_run(ptn_runtime *rt);

/* Any thread, and signal-safe: begin a clean shutdown.  A second call stops at once. */
void ptn_runtime_stop(ptn_runtime *rt);

/* After ptn_runtime_run() returned and every port is closed. */
void ptn_runtime_free(ptn_runtime *rt);

/* Number of workers; the runtime of an actor; the worker it lives on. */
unsigned ptn_runtime_workers(const ptn_runtime *rt);
ptn_runtime *ptn_ctx_runtime(const ptn_ctx *c);
unsigned ptn_worker(const ptn_ctx *c); /* index of the current worker */

/* ---- actors ------------------------------------------------------------------------------- */

typedef struct ptn_actor_ops {
    const char *name;  /* static; label of its metrics */
    size_t state_size; /* zeroed block in the actor's arena */
    /* <0: the spawn or restart fails.  arg is the spawn's, and must outlive the actor. */
    int (*init)(ptn_ctx *c, void *state, void *arg);
    /* One message.  <0: the actor has failed, and its supervisor decides. */
    int (*handle)(ptn_ctx *c, void *state, const ptn_msg *m);
    /* Orderly end only; never after a crash.  May be NULL. */
    void (*fini)(ptn_ctx *c, void *state, int reason);
} ptn_actor_ops;

typedef struct ptn_actor_opts {
    const char *register_as; /* NULL: anonymous */
    int worker;              /* -1: the spawner's; from outside: round robin */
    uint32_t mbox_msgs_max;  /* 0: 1024 */
    uint32_t mbox_bytes_max; /* 0: 1 MiB */
    /* When requests have been waiting longer than this for 20 times as long, those that have are
     * refused with -PTN_EOVERLOAD instead of handled, until the others come in time; the same while
     * the memory budget is spent.  0: never. */
    ptn_time queue_delay_ns;
} ptn_actor_opts;

enum ptn_restart { PTN_PERMANENT, PTN_TRANSIENT, PTN_TEMPORARY };

/* Spawns an unsupervised actor on the current worker, or on opts->worker.  On another worker init
 * runs there later; a failing init then shows as DOWN to monitors. */
int ptn_spawn(ptn_ctx *c, const ptn_actor_ops *ops, const ptn_actor_opts *opts, void *arg,
              ptn_addr *ret_addr);

/* Before ptn_runtime_run(): a top-level actor under the root supervisor (one_for_one).  The address
 * is valid at once, so that actors can be wired to each other before any of them runs. */
int ptn_runtime_spawn(ptn_runtime *rt, const ptn_actor_ops *ops, const ptn_actor_opts *opts,
                      void *arg, enum ptn_restart restart, ptn_addr *ret_addr);

void ptn_exit(ptn_ctx *c, int reason); /* after this message */

/* Fails the current actor: reason is a positive PTN_E* or a domain number; fmt goes to the crash
 * log. */
_Noreturn void ptn_fail(ptn_ctx *c, int reason, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define PTN_REQUIRE(c, e) ((e) ? (void)0 : ptn_fail((c), PTN_EINVAL, "required: %s", #e))

/* What an actor knows of itself and its surroundings.  Only inside its own callbacks. */
ptn_addr ptn_self(const ptn_ctx *c);
void *ptn_self_state(const ptn_ctx *c);
ptn_time ptn_now(const ptn_ctx *c);    /* constant within a turn */
ptn_time ptn_clock(const ptn_ctx *c);  /* reads the clock anew: for measuring, about 20 ns */
int64_t ptn_wall_ms(const ptn_ctx *c); /* Unix time, milliseconds */
void ptn_random(ptn_ctx *c, void *p, size_t n);
void *ptn_alloc(ptn_ctx *c, size_t n); /* zeroed, actor arena, freed at its end; NULL: no memory */
void *ptn_scratch(ptn_ctx *c, size_t n); /* freed at the end of the turn; NULL: no memory */
/* fn(arg) runs at the actor's end, crash included, newest first. */
int ptn_defer(ptn_ctx *c, void (*fn)(void *arg), void *arg);
/* Runs cb once at the end of the current turn, before output is flushed: batching.  Not after the
 * actor's end. */
void ptn_at_turn_end(ptn_ctx *c, void (*cb)(ptn_ctx *c, void *state, void *arg), void *arg);

/* ---- messages ----------------------------------------------------------------------------- */

/* Sends without expecting an answer.  Consumes the payload only on success.  -PTN_EOVERLOAD: the
 * mailbox is full; -PTN_ENOACTOR: nobody lives at that address. */
int ptn_cast(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload);

/* The same payload to n actors, one push per receiver.  Consumes the payload always; refusals are
 * counted and returned. */
int ptn_publish(ptn_ctx *c, const ptn_addr *to, size_t n, uint32_t type, ptn_buf *take_payload,
                size_t *ret_refused);

/* Exactly one call of cb ends an ask: reply (err 0), -PTN_EDEADLINE, -PTN_ECRASHED, -PTN_ENOACTOR,
 * -PTN_ESTOPPING, or the error given to ptn_reply_err().  deadline is absolute; the earlier of it
 * and the deadline of the message being handled counts.  There is no infinite ask: PTN_NEVER means
 * 30 s. */
typedef void (*ptn_reply_cb)(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg);
int ptn_ask(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload, ptn_time deadline,
            ptn_reply_cb cb, void *arg, uint64_t *ret_corr);
/* The same for news: the message is not dropped in a queue when the deadline passes, and the
 * receiver sees none.  The asker stops waiting at its own, whatever it was handling. */
int ptn_ask_lasting(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload,
                    ptn_time deadline, ptn_reply_cb cb, void *arg, uint64_t *ret_corr);
/* The same for a change that others must hear of, even when whoever wanted it has stopped waiting:
 * the deadline is as for ptn_ask(), but a receiver that has begun by then is waited for, this much
 * longer.  So -PTN_EDEADLINE means that it was not begun, and -PTN_ECRASHED that nobody knows.
 * What is asked in cb inherits no deadline. */
#define PTN_ASK_THROUGH_NS (30 * PTN_SEC)
int ptn_ask_through(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_payload,
                    ptn_time deadline, ptn_reply_cb cb, void *arg, uint64_t *ret_corr);
int ptn_ask_cancel(ptn_ctx *c, uint64_t corr); /* cb is not called after this returns */

typedef struct ptn_reply_to { /* copyable: answer now or later */
    ptn_addr to;
    uint64_t corr;
    ptn_time deadline;
} ptn_reply_to;
ptn_reply_to ptn_reply_token(ptn_ctx *c, const ptn_msg *req);
int ptn_reply(ptn_ctx *c, ptn_reply_to r, uint32_t type, ptn_buf *take_payload);
int ptn_reply_err(ptn_ctx *c, ptn_reply_to r, int err); /* err negative */

/* Hands a request on unchanged: same payload, asker, correlation and deadline, another type. */
int ptn_forward(ptn_ctx *c, const ptn_msg *m, ptn_addr to, uint32_t type);

/* ---- time, watching, names ---------------------------------------------------------------- */

/* Caller-owned, intrusive, zero-initialised.  Resolution 1 ms, never early.  cb runs in the context
 * of the actor that started it, never inside one of its handlers.  All timers of an actor stop at
 * its end. */
typedef struct ptn_timer ptn_timer;
typedef void (*ptn_timer_cb)(ptn_ctx *c, void *state, ptn_timer *t, void *arg);
struct ptn_timer {
    ptn_timer *next, **pprev;             /* wheel slot */
    ptn_timer *owner_next, **owner_pprev; /* all timers of the actor */
    ptn_time due;
    ptn_timer_cb cb;
    void *arg;
    void *owner;
};
void ptn_timer_start(ptn_ctx *c, ptn_timer *t, ptn_time after, ptn_timer_cb cb, void *arg);
void ptn_timer_stop(ptn_ctx *c, ptn_timer *t); /* idempotent; cb is not called after it */
static inline bool ptn_timer_is_armed(const ptn_timer *t) {
    return t->pprev != NULL;
}

/* PTN_MSG_DOWN later, exactly once, behind all that the target sent here; also when it has ended
 * already. */
int ptn_monitor(ptn_ctx *c, ptn_addr target, uint64_t *ret_ref);
/* The same, and the level of the target's mailbox: PTN_MSG_PRESSURE when more than half of its
 * bound waits after one of its batches, in messages or bytes; PTN_MSG_RELIEF when less than a
 * quarter does.  The target comes to the watch in its turn, behind what waits already.  A restart
 * of the target changes nothing; DOWN ends pressure as well. */
int ptn_pressure_watch(ptn_ctx *c, ptn_addr target, uint64_t *ret_ref);
int ptn_demonitor(ptn_ctx *c, uint64_t ref); /* of both kinds; nothing comes after it */
int ptn_whereis(ptn_runtime *rt, const char *name, ptn_addr *ret_addr);
int ptn_signal_watch(ptn_ctx *c, int signum); /* PTN_MSG_SIGNAL to the current actor */

/* ---- work outside the worker -------------------------------------------------------------- */

/* Runs work(job) on a pool thread (password hashing, name resolution), then done on the actor. When
 * the actor is gone by then, done runs with c and state NULL so that it can free the job. */
typedef void (*ptn_work_done_cb)(ptn_ctx *c, void *state, void *job, int err);
int ptn_work(ptn_ctx *c, void (*work)(void *job), void *job, ptn_work_done_cb done);

/* A lane is one serial executor with a thread of its own (in the simulator: a schedulable step).
 * run() gets everything that is waiting, oldest first, up to batch_max jobs, and must answer every
 * job that has a reply address through ptn_lane_reply().  A job whose deadline has passed by then
 * is answered -PTN_EDEADLINE and does not come to run(). */
typedef struct ptn_lane ptn_lane;
typedef struct ptn_lane_job {
    struct ptn_lane_job *next; /* the lane's */
    uint32_t type;
    uint32_t enq_us;    /* the lane's: when it came */
    ptn_reply_to reply; /* corr 0: nobody waits */
    ptn_buf *buf;       /* owned by the lane; gone after run() returns */
} ptn_lane_job;
typedef struct ptn_lane_opts {
    const char *name;
    void (*run)(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n);
    void *arg;
    size_t batch_max;  /* 0: 1024 */
    uint32_t jobs_max; /* waiting; past it ptn_lane_send refuses.  0: 65536 */
    size_t bytes_max;  /* of their payloads, likewise.  0: 64 MiB */
    /* As ptn_actor_opts.queue_delay_ns, but never less than two batches took.  0: never. */
    ptn_time queue_delay_ns;
} ptn_lane_opts;
int ptn_lane_open(ptn_runtime *rt, const ptn_lane_opts *o, ptn_lane **ret_lane);
/* Worker threads.  Queues m (type, payload, reply address); -PTN_EOVERLOAD when full. */
int ptn_lane_send(ptn_ctx *c, ptn_lane *l, const ptn_msg *m);
/* Lane thread, inside run(). */
int ptn_lane_reply(ptn_lane *l, ptn_reply_to r, uint32_t type, ptn_buf *take_payload);
int ptn_lane_reply_err(ptn_lane *l, ptn_reply_to r, int err);
/* Lane thread, inside run(), instead of an answer: the job, with another type and payload and
 * without a deadline, goes on to lane `to`, whose run() answers it.  No bound of that lane refuses
 * it: pass no more than it may have.  *take_job, in the array that run() was given, is NULL then.
 */
void ptn_lane_pass(ptn_lane *l, ptn_lane_job **take_job, ptn_lane *to, uint32_t type,
                   ptn_buf *take_payload);
/* Another lane's thread, inside run(): until done(arg), which is asked after each batch of `of`, on
 * the caller's thread; a batch that has been passed or sent must make it true. */
void ptn_lane_wait(ptn_lane *of, bool (*done)(void *arg), void *arg);
/* Has the job's deadline passed meanwhile?  Then it has been answered, and must not be run. */
bool ptn_lane_expired(ptn_lane *l, const ptn_lane_job *job);
size_t ptn_lane_depth(const ptn_lane *l);
ptn_time ptn_lane_now(const ptn_lane *l); /* lane thread: the environment's clock, read now */
/* Finishes what is queued, joins the thread.  After ptn_runtime_run() returned, before
 * ptn_runtime_free(). */
void ptn_lane_close(ptn_lane *l);

/* Foreign threads. */
int ptn_port_open(ptn_runtime *rt, ptn_port **ret_port);
int ptn_port_send(ptn_port *p, ptn_addr to, uint32_t type, ptn_buf *take_payload);
int ptn_port_reply(ptn_port *p, ptn_reply_to r, uint32_t type, ptn_buf *take_payload);
int ptn_port_reply_err(ptn_port *p, ptn_reply_to r, int err);
/* Shutdown waits for calls in progress; later ones return -PTN_ESTOPPING.  Close before
 * ptn_runtime_free(). */
void ptn_port_close(ptn_port *p);

/* ---- supervision -------------------------------------------------------------------------- */

enum ptn_strategy { PTN_ONE_FOR_ONE, PTN_ONE_FOR_ALL, PTN_REST_FOR_ONE };
typedef struct ptn_child {
    const ptn_actor_ops *ops;
    ptn_actor_opts opts;
    void *arg;
    enum ptn_restart restart;
    /* In a group restart the child first gets PTN_MSG_STOPPING and this long to ptn_exit().  0: it
     * is held at once.  Either way it ends in order (fini runs). */
    ptn_time shutdown_ns;
} ptn_child;
/* The first restart is immediate.  Each further one, while the child has not been up for window_ns
 * in one piece, waits: backoff_min_ns, then twice as long each time up to backoff_max_ns, minus a
 * random part of up to a half.  Messages wait in the child's mailbox meanwhile.  A backoff_max_ns
 * of more than window_ns / restarts_max means that the supervisor never gives up. */
typedef struct ptn_sup_opts {
    enum ptn_strategy strategy;
    uint32_t restarts_max;   /* per window, then the supervisor fails upward; 0: 10 */
    ptn_time window_ns;      /* 0: 5 s */
    ptn_time backoff_min_ns; /* 0: 10 ms */
    ptn_time backoff_max_ns; /* 0: 1 s */
} ptn_sup_opts;
int ptn_supervise(ptn_ctx *c, const ptn_sup_opts *o, const ptn_child *kids, size_t n,
                  ptn_addr *ret_sup);

/* ---- looking inside (metrics, admin) ------------------------------------------------------ */

typedef struct ptn_actor_stats {
    const char *name;
    ptn_addr addr;
    uint32_t mbox_msgs, mbox_msgs_max; /* waiting now, bound */
    uint64_t mbox_bytes;
    uint64_t handled, refused, restarts;
    uint64_t busy_ns_sum; /* time in handlers, sampled */
} ptn_actor_stats;
/* Calls visit for every live actor of every worker; numbers are relaxed reads.  Any worker. */
void ptn_actors_visit(ptn_runtime *rt, void (*visit)(const ptn_actor_stats *s, void *arg),
                      void *arg);

/* Time in the mailbox, sampled, by kind of actor: visit once per kind and worker.  Any thread. */
void ptn_waits_visit(ptn_runtime *rt,
                     void (*visit)(const char *name, const ptn_histogram_cells *h, void *arg),
                     void *arg);

typedef struct ptn_worker_stats {
    uint64_t turns, parks, wakes, messages;
    uint64_t dead_letters, late_replies, deadline_expired;
    uint64_t backing_off;   /* children of its supervisors that wait for their restart, now */
    uint64_t slow_handlers; /* past slow_ns of CPU time */
    uint64_t blocked_turns; /* past ten times slow_ns on the wall's clock, or stuck */
    uint64_t lag_ns_max;    /* longest turn since the last call that reset it */
} ptn_worker_stats;
void ptn_worker_stats_read(ptn_runtime *rt, unsigned worker, ptn_worker_stats *ret_stats);

/* Any thread while the runtime runs.  For how long, in nanoseconds on the wall's clock, a worker
 * has been seen in one turn, if that is stuck_ns or more: a handler waits for something that does
 * not come.  Else 0; always 0 without stuck_ns.  Seen means by two calls of this, or by workers
 * that have used tick after tick of CPU time meanwhile: there is no clock that looks by itself, so
 * the first call of an idle time only begins to count.  The first to find a worker stuck has its
 * thread report where it is (PTN_TRACE_BLOCKED, once a turn).  A process that has just stood still
 * may look like that once. */
ptn_time ptn_worker_stuck(ptn_runtime *rt, unsigned worker);

/* Called on a worker or lane thread for crashes and the first dead letters; the program logs.  Set
 * before ptn_runtime_run().  PTN_TRACE_SLOW comes inside a signal handler while the slow handler is
 * still running, and PTN_TRACE_BLOCKED may: only async-signal-safe functions may be called for
 * them. */
typedef struct ptn_trace_event {
    enum ptn_trace_kind {
        PTN_TRACE_CRASH,
        PTN_TRACE_RESTART,
        PTN_TRACE_DEAD_LETTER,
        PTN_TRACE_GAVE_UP,
        PTN_TRACE_SLOW,    /* text: the stack, as module+offset */
        PTN_TRACE_BLOCKED, /* a turn that does not end, text: the stack; or one that took long, then
                              addr is only the worker */
    } kind;
    const char *actor;
    ptn_addr addr;
    uint32_t msg_type;
    int reason;
    ptn_time wait_ns; /* RESTART: after this backoff.  SLOW, BLOCKED: so far */
    const char *text;
} ptn_trace_event;
void ptn_runtime_on_trace(ptn_runtime *rt, void (*fn)(const ptn_trace_event *e, void *arg),
                          void *arg);

/* ---- the end of the process --------------------------------------------------------------- */

/* From now on a memory fault, an abort, a stack overflow in a worker or lane, or a handler past
 * stuck_ns writes a record to standard error and to a file before it ends the process as it would
 * have anyway (core dump included): why, thread, actor, kind of message, stack, what the other
 * threads are doing, and the last trace events.  No payloads.  Places in code are module+offset,
 * for addr2line.  Main thread, before the runtime runs.  0, -PTN_EINVAL (path too long) or
 * -PTN_EIO. */
typedef struct ptn_crash_opts {
    const char *path;    /* mode 0600, replaced; copied.  NULL: standard error only */
    const char *version; /* static */
    const char *(*msg_name)(uint32_t type); /* async-signal-safe.  NULL: numbers only */
} ptn_crash_opts;
int ptn_crash_install(const ptn_crash_opts *o);

#endif
