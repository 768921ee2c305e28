/* SPDX-License-Identifier: Apache-2.0
 *
 * env_test.h - a tiny deterministic environment for unit tests: one thread, a manual clock, no
 * sockets.
 *
 * run() takes the workers in turn.  When every one of them is parked and nothing is outstanding,
 * the clock jumps to the next due time.  When there is none either, the actors wait for ever: that
 * is a bug of the test or of the runtime, and the environment aborts.  Lanes and pool work are
 * steps of the same loop, so every run of a test takes the same course.  Streams need a real
 * environment; here they fail.
 *
 * With `chaos` set, workers and lanes are passed over at random and time goes by while they have
 * work: `seed` then chooses the course, the same for the same seed.
 */
#ifndef POSTERN_RUNTIME_ENV_TEST_H
#define POSTERN_RUNTIME_ENV_TEST_H

#include "runtime/env/env.h"

#include <stdlib.h>

#define ENV_TEST_THINGS 256u

struct ptn_env_lane {
    bool (*step)(void *arg);
    void *arg;
    bool awake, open;
};

struct ptn_env_watch {
    int signum;
    void (*cb)(void *owner, int signum);
    void *owner;
    bool open, raised;
};

struct env_test_work {
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

struct env_test {
    ptn_env base;
    ptn_time now;
    uint64_t seed;
    bool chaos;
    bool wake[64], stopped[64];
    ptn_time due[64];
    struct ptn_env_lane lanes[4];
    struct ptn_env_watch watches[4];
    struct env_test_work works[ENV_TEST_THINGS];
    unsigned works_head, works_tail;
};

static ptn_time env_test_now(ptn_env *e) {
    return ((struct env_test *)e)->now;
}

static int64_t env_test_wall_ms(ptn_env *e) {
    return INT64_C(1700000000000) + (int64_t)(((struct env_test *)e)->now / PTN_MS);
}

static void env_test_random(ptn_env *e, void *p, size_t n) {
    struct env_test *t = (struct env_test *)e;
    uint8_t *out = (uint8_t *)p;
    for (size_t i = 0; i < n; i++) { /* xorshift64 */
        t->seed ^= t->seed << 13;
        t->seed ^= t->seed >> 7;
        t->seed ^= t->seed << 17;
        out[i] = (uint8_t)t->seed;
    }
}

/* True once in n times, and never without chaos. */
static bool env_test_chance(struct env_test *t, uint8_t n) {
    uint8_t b = 0;
    if (t->chaos)
        env_test_random(&t->base, &b, 1);
    return t->chaos && b % n == 0;
}

static void env_test_wake(ptn_env *e, unsigned worker) {
    struct env_test *t = (struct env_test *)e;
    t->wake[worker] = true;
}

/* Lanes, pool work and raised signals.  True: something ran. */
static bool env_test_things(struct env_test *t) {
    bool any = false;
    for (size_t i = 0; i < PTN_ARRAY_LEN(t->lanes); i++) {
        if (t->lanes[i].open && t->lanes[i].awake) {
            any = true;
            if (t->chaos && !env_test_chance(t, 8)) /* storage is slow: answers come late */
                continue;
            t->lanes[i].awake = t->lanes[i].step(t->lanes[i].arg);
        }
    }
    for (size_t i = 0; i < PTN_ARRAY_LEN(t->watches); i++) {
        struct ptn_env_watch *w = &t->watches[i];
        if (w->open && w->raised) {
            w->raised = false;
            w->cb(w->owner, w->signum);
            any = true;
        }
    }
    if (t->works_head != t->works_tail) {
        struct env_test_work k = t->works[t->works_head++ % ENV_TEST_THINGS];
        k.work(k.arg);
        k.done(k.arg);
        any = true;
    }
    return any;
}

static int env_test_run(ptn_env *e, unsigned n, const ptn_env_worker_ops *ops,
                        void *const *workers) {
    struct env_test *t = (struct env_test *)e;
    unsigned left = n;
    for (unsigned i = 0; i < n; i++) {
        t->wake[i] = true;
        t->stopped[i] = false;
        ops->started(workers[i]);
    }
    while (left > 0) {
        bool any = false;
        ptn_time next = PTN_NEVER;
        if (env_test_chance(t, 8))
            t->now += PTN_MS;
        for (unsigned i = 0; i < n; i++) {
            if (t->stopped[i] || (!t->wake[i] && t->due[i] > t->now)) {
                next = !t->stopped[i] && t->due[i] < next ? t->due[i] : next;
                continue;
            }
            any = true;
            if (env_test_chance(t, 2))
                continue;
            t->wake[i] = false;
            enum ptn_turn r = ops->turn(workers[i], &t->due[i]);
            if (r == PTN_TURN_MORE)
                t->wake[i] = true;
            if (r == PTN_TURN_STOP) {
                t->stopped[i] = true;
                ops->stopped(workers[i]);
                left--;
            }
        }
        if (env_test_things(t)) {
            for (unsigned i = 0; i < n; i++)
                t->wake[i] = true; /* a callback is followed by a turn, as in a real loop */
            continue;
        }
        if (any)
            continue;
        PTN_ASSERT(next != PTN_NEVER); /* all actors wait for ever */
        t->now = next;
    }
    return 0;
}

static int env_test_signal_watch(ptn_env *e, unsigned worker, int signum,
                                 void (*cb)(void *owner, int signum), void *owner,
                                 ptn_env_watch **ret_w) {
    struct env_test *t = (struct env_test *)e;
    (void)worker;
    for (size_t i = 0; i < PTN_ARRAY_LEN(t->watches); i++) {
        struct ptn_env_watch *w = &t->watches[i];
        if (!w->open) {
            *w = (struct ptn_env_watch){.signum = signum, .cb = cb, .owner = owner, .open = true};
            *ret_w = w;
            return 0;
        }
    }
    return -PTN_EOVERLOAD;
}

static void env_test_watch_close(ptn_env *e, ptn_env_watch *w) {
    (void)e;
    w->open = false;
}

static int env_test_work(ptn_env *e, unsigned worker, void (*work)(void *arg),
                         void (*done)(void *arg), void *arg) {
    struct env_test *t = (struct env_test *)e;
    (void)worker;
    if (t->works_tail - t->works_head == ENV_TEST_THINGS)
        return -PTN_EOVERLOAD;
    t->works[t->works_tail++ % ENV_TEST_THINGS] =
        (struct env_test_work){.work = work, .done = done, .arg = arg};
    return 0;
}

static int env_test_lane_open(ptn_env *e, const char *name, bool (*step)(void *arg), void *arg,
                              ptn_env_lane **ret_l) {
    struct env_test *t = (struct env_test *)e;
    (void)name;
    for (size_t i = 0; i < PTN_ARRAY_LEN(t->lanes); i++) {
        if (!t->lanes[i].open) {
            t->lanes[i] = (struct ptn_env_lane){.step = step, .arg = arg, .open = true};
            *ret_l = &t->lanes[i];
            return 0;
        }
    }
    return -PTN_EOVERLOAD;
}

static void env_test_lane_wake(ptn_env_lane *l) {
    l->awake = true;
}

static void env_test_lane_wait(ptn_env_lane *l, bool (*done)(void *arg), void *arg) {
    while (!done(arg))
        PTN_ASSERT(l->step(l->arg));
}

static void env_test_lane_close(ptn_env_lane *l) {
    while (l->step(l->arg)) {
    }
    l->open = false;
}

static void env_test_free(ptn_env *e) {
    free(e);
}

static const ptn_env_ops env_test_ops = {
    .free = env_test_free,
    .now = env_test_now,
    .wall_ms = env_test_wall_ms,
    .random = env_test_random,
    .run = env_test_run,
    .wake = env_test_wake,
    .watch_close = env_test_watch_close,
    .signal_watch = env_test_signal_watch,
    .work = env_test_work,
    .lane_open = env_test_lane_open,
    .lane_wake = env_test_lane_wake,
    .lane_wait = env_test_lane_wait,
    .lane_close = env_test_lane_close,
};

/* Freed with env_test_free() after the runtime. */
static inline struct env_test *env_test_new(void) {
    struct env_test *t = (struct env_test *)calloc(1, sizeof(*t));
    PTN_ASSERT(t != NULL);
    t->base.ops = &env_test_ops;
    t->now = 1000 * PTN_SEC;
    t->seed = UINT64_C(0x9e3779b97f4a7c15);
    for (unsigned i = 0; i < PTN_ARRAY_LEN(t->due); i++)
        t->due[i] = PTN_NEVER;
    return t;
}

#endif
