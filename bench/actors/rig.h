/* SPDX-License-Identifier: Apache-2.0
 *
 * rig.h - postern-actors: what its programs share.  See bench/README.md.
 *
 * A program is a table entry and a start() that spawns its actors.  The conductor runs it twice, to
 * warm up and to measure: it starts the clock, sends MSG_START to the program's starters and waits
 * for its reports, whose sum must be what the program said it would be.
 *
 * Threads: a bench is written by the conductor before MSG_START and only read after that, so its
 * actors may look at it from any worker: every message they get was caused by MSG_START.
 */
#ifndef POSTERN_BENCH_ACTORS_RIG_H
#define POSTERN_BENCH_ACTORS_RIG_H

#include <postern/runtime.h>

#include <time.h>

#define PEERS_MAX 128u

enum { MSG_START = PTN_MSG_USER, MSG_REPORT, MSG_PROGRAM };

struct bench;

struct seat { /* an actor's place in its program; the argument of its spawn */
    struct bench *bench;
    unsigned index;
};

struct bench {
    unsigned workers;
    uint64_t n; /* size of the program: see its start() */
    ptn_addr conductor;
    struct seat seats[PEERS_MAX];
    ptn_addr peers[PEERS_MAX];
    unsigned n_peers;
    uint64_t lives; /* create: handed from each actor to the next */
    /* what start() promises */
    unsigned starter_first, starters; /* peers that get MSG_START */
    unsigned reports;                 /* calls of report() that will come */
    uint64_t sum;                     /* of the values reported */
    uint64_t ops;                     /* what the time is divided by */
};

struct program {
    const char *name;
    int (*start)(ptn_ctx *c, struct bench *b); /* in the conductor */
};
extern const struct program programs_basic[], programs_many[];
extern const size_t n_programs_basic, n_programs_many;

enum placement {
    IN_BLOCKS, /* neighbours on the same worker */
    DEALT,     /* one here, one there */
};

/* Spawns n actors as the next peers.  mbox_max 0: the default bound.  total is the number of peers
 * the blocks are cut from. */
int spawn_peers(ptn_ctx *c, struct bench *b, const ptn_actor_ops *ops, unsigned n,
                enum placement where, unsigned total, uint32_t mbox_max);

/* init of an actor whose state begins with a const struct seat *. */
int seat_init(ptn_ctx *c, void *state, void *arg);

int report(ptn_ctx *c, const struct bench *b, uint64_t value);

/* bare.c: n round trips of two threads on two cores, the time of the fastest BARE_BLOCK of
 * them, and of all. False: one core. */
#define BARE_BLOCK 50u
bool bare_run(bool sleeps, uint64_t n, uint64_t *ret_least_ns, uint64_t *ret_all_ns);

static inline uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The minimal standard generator, 1 .. 2^31-2: cheap and the same in every language here. */
static inline uint32_t lehmer(uint32_t *x) {
    *x = (uint32_t)((uint64_t)*x * 16807 % 2147483647);
    return *x;
}
static inline uint32_t lehmer_seed(unsigned index) {
    return 1 + index * 104729;
}

#endif
