/* SPDX-License-Identifier: Apache-2.0
 *
 * mailbox.c - stress of mailbox, ready stack and park/wake: many producers, real threads, real
 * parking.
 *
 * Eight foreign threads send numbered messages to eight actors on two workers, in bursts with short
 * pauses, so that the workers park and are woken hundreds of times in every phase of a push.  At
 * the end: every message arrived, in order per producer and actor.  After each round each worker
 * was woken once per park, but for the one that it sleeps in.  A lost wake-up shows as a hang,
 * which the watchdog turns into a failure.  Also run under ThreadSanitizer.
 */
#include <postern/runtime.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define PRODUCERS 8u
#define ACTORS 8u
#define WORKERS 2u
#define BURST_MAX 64u
#define WATCHDOG_S 60u
#define ROUNDS 40u /* after each, both workers must park */
#ifdef PTN_SANITIZE
#define ROUND_MESSAGES 500u /* per producer */
#else
#define ROUND_MESSAGES 7500u
#endif
#define MESSAGES (ROUNDS * ROUND_MESSAGES)

enum { MSG_DATA = PTN_MSG_USER };

struct stress {
    ptn_runtime *rt;
    ptn_addr actors[ACTORS];
    _Atomic(uint64_t) handled;
    _Atomic(uint32_t) wrong;
    pthread_barrier_t barrier;
    uint64_t parks_before[WORKERS]; /* producer 0's */
};
static struct stress stress;

struct receiver {
    uint32_t next[PRODUCERS];
};

static int receiver_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct receiver *r = state;
    if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
        return 0;
    }
    uint32_t v[2];
    if (m->type != MSG_DATA || m->len != sizeof(v)) {
        atomic_fetch_add(&stress.wrong, 1);
        return 0;
    }
    memcpy(v, m->data, sizeof(v));
    if (v[0] >= PRODUCERS || v[1] != r->next[v[0]]++)
        atomic_fetch_add(&stress.wrong, 1);
    if (atomic_fetch_add(&stress.handled, 1) + 1 == (uint64_t)PRODUCERS * MESSAGES)
        ptn_runtime_stop(stress.rt);
    return 0;
}

static const ptn_actor_ops receiver_ops = {
    .name = "receiver", .state_size = sizeof(struct receiver), .handle = receiver_handle};

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Load shaping, not synchronisation: without gaps the workers would never park. */
static void pause_ns(long ns) {
    struct timespec t = {.tv_nsec = ns};
    (void)nanosleep(&t, NULL);
}

static void send_one(ptn_port *port, ptn_addr to, uint32_t producer, uint32_t number) {
    uint32_t v[2] = {producer, number};
    ptn_buf *b = ptn_buf_copy(v, sizeof(v));
    int err = b == NULL ? -PTN_ENOMEM : 0;
    while (err == 0 && (err = ptn_port_send(port, to, MSG_DATA, b)) == -PTN_EOVERLOAD) {
        err = 0; /* bounded: the receiver will make room */
        pause_ns(1000);
    }
    if (err < 0) {
        (void)fprintf(stderr, "send: %s\n", ptn_err_name(err));
        exit(1);
    }
}

static void send_round(ptn_port *port, uint32_t me, uint64_t *seed, uint32_t *sent) {
    for (uint32_t n = 0; n < ROUND_MESSAGES;) {
        uint32_t burst = 1 + (uint32_t)(next_random(seed) % BURST_MAX);
        for (uint32_t i = 0; i < burst && n < ROUND_MESSAGES; i++, n++) {
            /* every actor at least once, so that no worker sleeps through a round */
            uint32_t a = n < ACTORS ? n : (uint32_t)(next_random(seed) % ACTORS);
            send_one(port, stress.actors[a], me, sent[a]++);
        }
        if (next_random(seed) % 4 == 0)
            pause_ns((long)(next_random(seed) % 50000));
    }
}

static ptn_worker_stats stats_of(unsigned worker) {
    ptn_worker_stats st;
    ptn_worker_stats_read(stress.rt, worker, &st);
    return st;
}

/* A worker that has handled everything must park, in however much time a busy machine takes: the
 * watchdog is the only limit.  Nobody sends meanwhile, so the last park is all that wakes can lag
 * behind.  (A stop ends a park without being counted: the bound holds until then.) */
static void await_parks(void) {
    for (unsigned i = 0; i < WORKERS; i++) {
        ptn_worker_stats st;
        while ((st = stats_of(i)).parks == stress.parks_before[i])
            pause_ns(20000);
        stress.parks_before[i] = st.parks;
        if (st.wakes > st.parks || st.wakes + 1 < st.parks) {
            (void)fprintf(stderr, "worker %u: parks %llu, wakes %llu\n", i,
                          (unsigned long long)st.parks, (unsigned long long)st.wakes);
            atomic_fetch_add(&stress.wrong, 1);
        }
    }
}

static void *producer_main(void *arg) {
    uint32_t me = (uint32_t)(uintptr_t)arg;
    uint64_t seed = 0x9e3779b97f4a7c15u * (me + 1);
    uint32_t sent[ACTORS] = {0};
    ptn_port *port;
    if (ptn_port_open(stress.rt, &port) < 0)
        exit(1);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        send_round(port, me, &seed, sent);
        (void)pthread_barrier_wait(&stress.barrier);
        if (me == 0 && round + 1 < ROUNDS) {
            while (atomic_load(&stress.handled) !=
                   (uint64_t)PRODUCERS * ROUND_MESSAGES * (round + 1))
                pause_ns(20000);
            await_parks();
        }
        (void)pthread_barrier_wait(&stress.barrier);
    }
    ptn_port_close(port);
    return NULL;
}

static void *watchdog_main(void *arg) {
    (void)arg;
    for (unsigned i = 0; i < WATCHDOG_S * 10; i++)
        pause_ns(100000000);
    (void)fprintf(stderr, "lost wake-up? %llu of %llu messages after %u s\n",
                  (unsigned long long)atomic_load(&stress.handled),
                  (unsigned long long)PRODUCERS * MESSAGES, WATCHDOG_S);
    _exit(1);
}

static bool check_worker(unsigned i) {
    ptn_worker_stats st = stats_of(i);
    (void)printf("worker %u: messages %llu turns %llu parks %llu wakes %llu\n", i,
                 (unsigned long long)st.messages, (unsigned long long)st.turns,
                 (unsigned long long)st.parks, (unsigned long long)st.wakes);
    return st.wakes <= st.parks && st.parks >= ROUNDS - 1 && st.wakes >= 1;
}

int main(void) {
    const ptn_runtime_opts o = {.workers = WORKERS};
    pthread_t producers[PRODUCERS], watchdog;
    bool ok = ptn_runtime_new(&o, &stress.rt) == 0 &&
              pthread_barrier_init(&stress.barrier, NULL, PRODUCERS) == 0;
    for (unsigned i = 0; ok && i < ACTORS; i++) {
        const ptn_actor_opts at = {.worker = (int)(i % WORKERS)};
        ok = ptn_runtime_spawn(stress.rt, &receiver_ops, &at, NULL, PTN_PERMANENT,
                               &stress.actors[i]) == 0;
    }
    ok = ok && pthread_create(&watchdog, NULL, watchdog_main, NULL) == 0 &&
         pthread_detach(watchdog) == 0;
    for (unsigned i = 0; ok && i < PRODUCERS; i++)
        ok = pthread_create(&producers[i], NULL, producer_main, (void *)(uintptr_t)i) == 0;
    if (!ok || ptn_runtime_run(stress.rt) != 0) {
        (void)fprintf(stderr, "cannot start\n");
        return 1;
    }
    for (unsigned i = 0; i < PRODUCERS; i++)
        (void)pthread_join(producers[i], NULL);
    for (unsigned i = 0; i < WORKERS; i++)
        ok = check_worker(i) && ok;
    uint64_t handled = atomic_load(&stress.handled);
    uint32_t wrong = atomic_load(&stress.wrong);
    ok = ok && handled == (uint64_t)PRODUCERS * MESSAGES && wrong == 0;
    (void)printf("handled %llu, out of order or bound %u: %s\n", (unsigned long long)handled, wrong,
                 ok ? "ok" : "FAILED");
    ptn_runtime_free(stress.rt);
    (void)pthread_barrier_destroy(&stress.barrier);
    return ok ? 0 : 1;
}
