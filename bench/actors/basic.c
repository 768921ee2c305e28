/* SPDX-License-Identifier: Apache-2.0
 *
 * basic.c - postern-actors: one thing at a time: a hop, a flood, a life, an idle actor.
 */
#include "bench/actors/rig.h"

#define SENDERS 16u
#define BURST 64u /* messages a sender may have on the way */
#define RING 100u
#define FAN 60u
#define FLOOD_MBOX 256u /* what a producer runs ahead: its envelopes should stay in the cache */
#define FAN_MBOX 64u
#define WAVE                                                                                       \
    1000u /* idle actors made at a time, so that the messages of one wave serve the next           \
           */

enum { MSG_DATA = MSG_PROGRAM, MSG_BURST_END, MSG_CREDIT, MSG_END };

struct basic {
    const struct seat *seat;
    uint64_t n; /* counts what its program counts */
};

/* ---- pingpong: the cost of two hops; n round trips --------------------------------------------
 */

static int ping_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    const struct bench *b = s->seat->bench;
    if (m->type == MSG_DATA && ++s->n == b->n)
        return report(c, b, s->n);
    return ptn_cast(c, b->peers[1], MSG_DATA, NULL);
}

static int pong_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    return ptn_cast(c, m->from, MSG_DATA, NULL);
}

static const ptn_actor_ops ping_ops = {
    .name = "ping", .state_size = sizeof(struct basic), .init = seat_init, .handle = ping_handle};
static const ptn_actor_ops pong_ops = {
    .name = "pong", .state_size = sizeof(struct basic), .init = seat_init, .handle = pong_handle};

static int pingpong_start(ptn_ctx *c, struct bench *b) {
    b->starters = b->reports = 1;
    b->sum = b->ops = b->n;
    int err = spawn_peers(c, b, &ping_ops, 1, DEALT, 2, 0);
    return err < 0 ? err : spawn_peers(c, b, &pong_ops, 1, DEALT, 2, 0);
}

/* ---- count: one producer floods one counter with n messages -----------------------------------
 */

/* Sends until the mailbox is full, then lets the others run.  Its own mailbox holds nothing but the
 * message to itself, which therefore is never refused. */
static int producer_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    const struct bench *b = s->seat->bench;
    (void)m;
    while (s->n <= b->n) {
        int err = ptn_cast(c, b->peers[1], s->n < b->n ? MSG_DATA : MSG_END, NULL);
        if (err == -PTN_EOVERLOAD)
            return ptn_cast(c, ptn_self(c), MSG_DATA, NULL);
        if (err < 0)
            return err;
        s->n++;
    }
    return 0;
}

static int counter_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    if (m->type == MSG_END)
        return report(c, s->seat->bench, s->n);
    s->n++;
    return 0;
}

static const ptn_actor_ops producer_ops = {.name = "producer",
                                           .state_size = sizeof(struct basic),
                                           .init = seat_init,
                                           .handle = producer_handle};
static const ptn_actor_ops counter_ops = {.name = "counter",
                                          .state_size = sizeof(struct basic),
                                          .init = seat_init,
                                          .handle = counter_handle};

static int count_start(ptn_ctx *c, struct bench *b) {
    b->starters = b->reports = 1;
    b->sum = b->ops = b->n;
    int err = spawn_peers(c, b, &producer_ops, 1, DEALT, 2, 0);
    return err < 0 ? err : spawn_peers(c, b, &counter_ops, 1, DEALT, 2, FLOOD_MBOX);
}

/* ---- senders: 16 actors, n messages each, one receiver ----------------------------------------
 */

/* The last message of a burst asks for a credit, so no message is ever refused.  The mailbox takes
 * two bursts of each: a message counts against the bound until the turn of its receiver ends, and
 * the credit is out by then. */
static int sender_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    const struct bench *b = s->seat->bench;
    int err = 0;
    (void)m;
    for (unsigned i = 1; err == 0 && i <= BURST && s->n < b->n; i++, s->n++)
        err = ptn_cast(c, b->peers[SENDERS], i == BURST ? MSG_BURST_END : MSG_DATA, NULL);
    return err;
}

static int sink_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    const struct bench *b = s->seat->bench;
    if (++s->n == b->sum)
        return report(c, b, s->n);
    return m->type == MSG_BURST_END ? ptn_cast(c, m->from, MSG_CREDIT, NULL) : 0;
}

static const ptn_actor_ops sender_ops = {.name = "sender",
                                         .state_size = sizeof(struct basic),
                                         .init = seat_init,
                                         .handle = sender_handle};
static const ptn_actor_ops sink_ops = {
    .name = "sink", .state_size = sizeof(struct basic), .init = seat_init, .handle = sink_handle};

static int senders_start(ptn_ctx *c, struct bench *b) {
    b->starters = SENDERS;
    b->reports = 1;
    b->sum = b->ops = SENDERS * b->n;
    int err = spawn_peers(c, b, &sender_ops, SENDERS, DEALT, SENDERS + 1, 0);
    return err < 0 ? err : spawn_peers(c, b, &sink_ops, 1, DEALT, SENDERS + 1, 2 * SENDERS * BURST);
}

/* ---- threadring: one token, 100 actors, n hops ------------------------------------------------
 */

static int ring_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    const struct bench *b = s->seat->bench;
    unsigned i = s->seat->index;
    if (m->type == MSG_DATA) {
        uint64_t laps = i == 0 ? ++s->n : s->n++; /* whole ones behind the token */
        if (laps * RING + i == b->n)
            return report(c, b, b->n);
    }
    return ptn_cast(c, b->peers[(i + 1) % RING], MSG_DATA, NULL);
}

static const ptn_actor_ops ring_ops = {
    .name = "ring", .state_size = sizeof(struct basic), .init = seat_init, .handle = ring_handle};

static int threadring_start(ptn_ctx *c, struct bench *b) {
    b->starters = b->reports = 1;
    b->sum = b->ops = b->n;
    return spawn_peers(c, b, &ring_ops, RING, IN_BLOCKS, RING, 0);
}

/* ---- fjthrput: one actor deals n messages to each of 60 ---------------------------------------
 */

static int fan_main_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    const struct bench *b = s->seat->bench;
    (void)m;
    for (; s->n < b->n * FAN; s->n++) {
        int err = ptn_cast(c, b->peers[1 + s->n % FAN], MSG_DATA, NULL);
        if (err == -PTN_EOVERLOAD)
            return ptn_cast(c, ptn_self(c), MSG_DATA, NULL);
        if (err < 0)
            return err;
    }
    return 0;
}

static int fan_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    (void)m;
    return ++s->n == s->seat->bench->n ? report(c, s->seat->bench, s->n) : 0;
}

static const ptn_actor_ops fan_main_ops = {.name = "fan-main",
                                           .state_size = sizeof(struct basic),
                                           .init = seat_init,
                                           .handle = fan_main_handle};
static const ptn_actor_ops fan_ops = {
    .name = "fan", .state_size = sizeof(struct basic), .init = seat_init, .handle = fan_handle};

static int fjthrput_start(ptn_ctx *c, struct bench *b) {
    b->starters = 1;
    b->reports = FAN;
    b->sum = b->ops = FAN * b->n;
    int err = spawn_peers(c, b, &fan_main_ops, 1, DEALT, FAN + 1, 0);
    return err < 0 ? err : spawn_peers(c, b, &fan_ops, FAN, DEALT, FAN + 1, FAN_MBOX);
}

/* ---- fjcreate: one actor makes n, all at once; each gets a message, answers and ends ----------
 */

static int child_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    ptn_exit(c, 0);
    return ptn_cast(c, m->from, MSG_END, NULL);
}

static const ptn_actor_ops child_ops = {.name = "child", .handle = child_handle};

static int parent_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    const struct bench *b = s->seat->bench;
    if (m->type == MSG_END)
        return ++s->n == b->n ? report(c, b, s->n) : 0;
    for (uint64_t i = 0; i < b->n; i++) {
        const ptn_actor_opts o = {.worker = (int)(i % b->workers)};
        ptn_addr child;
        int err = ptn_spawn(c, &child_ops, &o, NULL, &child);
        err = err < 0 ? err : ptn_cast(c, child, MSG_DATA, NULL);
        if (err < 0)
            return err;
    }
    return 0;
}

static const ptn_actor_ops parent_ops = {.name = "parent",
                                         .state_size = sizeof(struct basic),
                                         .init = seat_init,
                                         .handle = parent_handle};

static int fjcreate_start(ptn_ctx *c, struct bench *b) {
    b->starters = b->reports = 1;
    b->sum = b->ops = b->n;
    /* room for every child's answer: it expects that many */
    return spawn_peers(c, b, &parent_ops, 1, DEALT, 1, (uint32_t)b->n + 1);
}

/* ---- create: n lives, one after the other: made, one message, which makes the next, ended -----
 */

static int life_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(void **)state = arg;
    return 0;
}

static int life_handle(ptn_ctx *c, void *state, const ptn_msg *m);

static const ptn_actor_ops life_ops = {
    .name = "life", .state_size = sizeof(void *), .init = life_init, .handle = life_handle};

static int life_next(ptn_ctx *c, struct bench *b) {
    static const ptn_actor_opts here = {.worker = -1};
    ptn_addr next;
    int err = ptn_spawn(c, &life_ops, &here, b, &next);
    return err < 0 ? err : ptn_cast(c, next, MSG_DATA, NULL);
}

static int life_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct bench *b = *(void **)state;
    (void)m;
    ptn_exit(c, 0);
    return ++b->lives == b->n ? report(c, b, b->lives) : life_next(c, b);
}

static int first_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)m;
    return life_next(c, ((struct basic *)state)->seat->bench);
}

static const ptn_actor_ops first_ops = {
    .name = "first", .state_size = sizeof(struct basic), .init = seat_init, .handle = first_handle};

static int create_start(ptn_ctx *c, struct bench *b) {
    b->starters = b->reports = 1;
    b->sum = b->ops = b->n;
    return spawn_peers(c, b, &first_ops, 1, DEALT, 1, 0);
}

/* ---- idle: n actors that have handled a message and now wait ----------------------------------
 */

static int idler_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (*(uint64_t *)state)++;
    int err = ptn_cast(c, m->from, MSG_DATA, NULL);
    return err == -PTN_ENOACTOR ? 0
                                : err; /* the rest of the last wave: the parent has its number */
}

static const ptn_actor_ops idler_ops = {
    .name = "idler", .state_size = sizeof(uint64_t), .handle = idler_handle};

static int idle_parent_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct basic *s = state;
    if (s->seat == NULL) /* the rest of the last wave */
        return 0;
    const struct bench *b = s->seat->bench;
    if (m->type == MSG_DATA && ++s->n == b->n) {
        s->seat = NULL;
        return report(c, b, s->n);
    }
    if (s->n % WAVE != 0)
        return 0;
    for (unsigned i = 0; i < WAVE; i++) {
        const ptn_actor_opts o = {.worker = (int)(i % b->workers)};
        ptn_addr idler;
        int err = ptn_spawn(c, &idler_ops, &o, NULL, &idler);
        err = err < 0 ? err : ptn_cast(c, idler, MSG_DATA, NULL);
        if (err < 0)
            return err;
    }
    return 0;
}

static const ptn_actor_ops idle_parent_ops = {.name = "idle-parent",
                                              .state_size = sizeof(struct basic),
                                              .init = seat_init,
                                              .handle = idle_parent_handle};

static int idle_start(ptn_ctx *c, struct bench *b) {
    b->starters = b->reports = 1;
    b->sum = b->ops = b->n;
    return spawn_peers(c, b, &idle_parent_ops, 1, DEALT, 1, WAVE);
}

const struct program programs_basic[] = {
    {"pingpong", pingpong_start},     {"count", count_start},       {"senders", senders_start},
    {"threadring", threadring_start}, {"fjthrput", fjthrput_start}, {"fjcreate", fjcreate_start},
    {"create", create_start},         {"idle", idle_start},
};
const size_t n_programs_basic = PTN_ARRAY_LEN(programs_basic);
