/* SPDX-License-Identifier: Apache-2.0
 *
 * env_sim.h - the simulated environment: one thread, a virtual clock, a seeded scheduler, a hostile
 * network.
 *
 * The second implementation of ptn_env_ops beside env_uv.c, so the runtime and everything above it
 * is the shipped code.  What happens next is drawn from the seed: among all workers that may take a
 * turn and all events that are due, each is as likely as the others, so every order that threads
 * and kernels could produce is produced by some seed.  When nothing may run, the clock jumps to the
 * next event.  Two runs with the same seed and the same client code take the same course; the
 * rolling hash in the statistics says whether they did.
 *
 * Clients live outside the runtime.  They are peers of simulated streams: connected to a bound
 * endpoint by name, called back with bytes, and driven by timers of the simulation.  Everything
 * here is called from the thread that calls ptn_runtime_run(), before it or from callbacks.
 *
 * Faults are probabilities in parts per million, drawn once per run (swarm testing: Groce et al.,
 * 2012): most runs have only a few kinds of fault, and those often.
 */
#ifndef POSTERN_RUNTIME_ENV_SIM_H
#define POSTERN_RUNTIME_ENV_SIM_H

#include "runtime/env/env.h"

/* ---- randomness ------------------------------------------------------------------------------ */

typedef struct ptn_sim_rng { /* xoshiro256++ (Blackman and Vigna) */
    uint64_t s[4];
} ptn_sim_rng;
void ptn_sim_rng_seed(ptn_sim_rng *r, uint64_t seed); /* any seed, 0 too */
uint64_t ptn_sim_rng_next(ptn_sim_rng *r);
uint64_t ptn_sim_rng_below(ptn_sim_rng *r, uint64_t n); /* uniform in [0, n); n == 0: 0 */
bool ptn_sim_rng_chance(ptn_sim_rng *r, uint32_t ppm);
/* Roughly exponential with this mean, at most 64 times it; integers only, the same on every host.
 */
uint64_t ptn_sim_rng_exp(ptn_sim_rng *r, uint64_t mean);

/* ---- faults ---------------------------------------------------------------------------------- */

typedef struct ptn_sim_faults {
    ptn_time delay_min_ns, delay_mean_ns; /* of a segment on a link */
    uint32_t window_bytes;                /* what a link holds before write() takes no more */
    uint32_t tail_ppm;                    /* a segment takes tail_ns longer */
    ptn_time tail_ns;
    uint32_t split_ppm;       /* a segment or a read ends at a random place */
    uint32_t byte_ppm;        /* ...after one byte */
    uint32_t short_write_ppm; /* write() takes a part, perhaps nothing */
    uint32_t reset_ppm;       /* a segment that arrives finds its connection reset, on both sides */
    uint32_t refuse_ppm;      /* accept fails: out of descriptors */
    ptn_time wake_mean_ns;    /* from wake() to the turn */
    uint32_t spurious_ppm;    /* an event wakes some worker besides */
    uint32_t late_ppm;        /* a timer of a parked worker comes up to 20 ms late */
    uint32_t slow_ppm;        /* a look at the clock finds that up to 2 ms have passed meanwhile */
    uint32_t wall_step_ppm;   /* per event: the wall clock is set, by at most wall_step_ms */
    int64_t wall_step_ms;
    ptn_time lane_mean_ns; /* one step of a lane */
    uint32_t lane_stall_ppm;
    ptn_time lane_stall_ns; /* ...that takes this long */
    ptn_time work_mean_ns;  /* pool work */
    uint32_t buggify_ppm;   /* this share of the PTN_BUGGIFY() sites is enabled */
} ptn_sim_faults;

/* A calm network. */
void ptn_sim_faults_none(ptn_sim_faults *ret_f);
/* Draws a mixture; most kinds are absent from most mixtures. */
void ptn_sim_faults_draw(ptn_sim_rng *r, ptn_sim_faults *ret_f);

/* ---- the environment ------------------------------------------------------------------------- */

typedef struct ptn_sim_event { /* what was picked: for traces and checks */
    uint64_t step;
    ptn_time now;
    const char *kind;
    uint64_t id;
    uint64_t hash; /* after this event */
} ptn_sim_event;

typedef struct ptn_sim_opts {
    uint64_t seed;
    ptn_sim_faults faults;
    uint64_t steps_max; /* events and turns; past it the run fails.  0: 20 million */
    /* After each event or turn, outside every callback. */
    void (*on_event)(void *arg, const ptn_sim_event *e);
    /* The simulation cannot go on (nobody can ever run again, or steps_max): must not return. */
    void (*on_stuck)(void *arg, const char *why);
    /* Of descriptors that may be watched.  NULL: there are none. */
    bool (*fd_readable)(void *arg, int fd);
    void *arg;
} ptn_sim_opts;

/* NULL: no memory. */
ptn_env *ptn_env_sim_new(const ptn_sim_opts *opts);

typedef struct ptn_sim_stats {
    uint64_t steps, turns, hash;
    uint64_t connections, refused, resets;
    uint64_t bytes_up, bytes_down; /* to the broker, from it */
    uint64_t buggified, crashes;   /* sites that fired; of these, actors that were made to fail */
    uint32_t transports_open;      /* accepted and not closed by the runtime */
} ptn_sim_stats;
void ptn_sim_stats_read(const ptn_env *e, ptn_sim_stats *ret_s);

ptn_time ptn_sim_now(const ptn_env *e);
/* Time passes in the middle of whatever is going on: a system call takes that long. */
void ptn_sim_pass(ptn_env *e, ptn_time ns);
/* The runtime or what stands on it is running, not a client and not the environment itself. */
bool ptn_sim_in_broker(const ptn_env *e);
void ptn_sim_faults_set(ptn_env *e, const ptn_sim_faults *f);
/* Raises a signal: everybody who watches it hears, each after a while. */
void ptn_sim_signal(ptn_env *e, int signum);

/* A descriptor has become readable: whoever watches it hears after a while, if it still is, and
 * again until it no longer is, as from poll(2). */
void ptn_sim_fd_ready(ptn_env *e, int fd);

/* ---- clients --------------------------------------------------------------------------------- */

typedef struct ptn_sim_timer {
    uint64_t generation; /* 0: never started */
    void (*cb)(void *arg);
    void *arg;
} ptn_sim_timer;
/* Zero-initialised, the caller's; starting again replaces.  Must outlive the environment or be
 * stopped. */
void ptn_sim_timer_start(ptn_env *e, ptn_sim_timer *t, ptn_time after, void (*cb)(void *arg),
                         void *arg);
void ptn_sim_timer_stop(ptn_sim_timer *t);

typedef struct ptn_sim_peer ptn_sim_peer;
typedef struct ptn_sim_peer_cbs { /* none may be NULL */
    void (*on_open)(void *owner); /* accepted */
    void (*on_bytes)(void *owner, const uint8_t *p, size_t n);
    void (*on_end)(void *owner);   /* the broker sent its FIN: no more bytes */
    void (*on_reset)(void *owner); /* refused, or reset: last call */
} ptn_sim_peer_cbs;

#define PTN_SIM_PEER_BYTES_MAX (4u << 20) /* written and not yet read by the broker */

/* Connects to an endpoint by the address that bind() reported.  The peer lives until
 * ptn_sim_peer_close() or on_reset().  NULL: no such endpoint. */
ptn_sim_peer *ptn_sim_connect(ptn_env *e, const char *address, const ptn_sim_peer_cbs *cbs,
                              void *owner);
/* Also before on_open.  False: over PTN_SIM_PEER_BYTES_MAX, or after shut(). */
bool ptn_sim_peer_write(ptn_sim_peer *p, const void *data, size_t n);
void ptn_sim_peer_read_enable(ptn_sim_peer *p, bool on); /* off: a peer that never reads */
void ptn_sim_peer_shut(ptn_sim_peer *p);                 /* FIN behind what was written */
/* No callback after these.  close: as close(2), FIN, and RST when the broker goes on sending. */
void ptn_sim_peer_close(ptn_sim_peer *p);
void ptn_sim_peer_reset(ptn_sim_peer *p);

#endif
