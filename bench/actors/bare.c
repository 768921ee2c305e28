/* SPDX-License-Identifier: Apache-2.0
 *
 * bare.c - the yardsticks: what it costs two threads on two cores to take turns, without actors.
 *
 * line: they spin on a cache line each, so a round trip is two transfers of a line.  wake: they
 * block in an eventfd each, so a round trip is two wake-ups of a sleeping thread.  A hop between
 * two workers costs one or the other, depending on whether the worker sleeps.  Two figures: the
 * least of many blocks is what the machine can do (a thread whose partner was preempted measures
 * the scheduler), and the mean of all is what it did, which is what a program's time compares with.
 */
#include "bench/actors/rig.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct side {
    _Alignas(64) _Atomic(uint64_t) turn; /* of its own thread to wait for */
    int fd;
};

struct bare {
    struct side sides[2];
    uint64_t n;
    bool sleeps;
    int core; /* of the second thread */
};

static void give(struct bare *b, unsigned to, uint64_t i) {
    if (b->sleeps)
        PTN_ASSERT(eventfd_write(b->sides[to].fd, 1) == 0);
    else
        atomic_store_explicit(&b->sides[to].turn, i, memory_order_release);
}

static void await(struct bare *b, unsigned self, uint64_t i) {
    eventfd_t ignored;
    if (b->sleeps)
        PTN_ASSERT(eventfd_read(b->sides[self].fd, &ignored) == 0);
    while (!b->sleeps && atomic_load_explicit(&b->sides[self].turn, memory_order_acquire) != i)
        ;
}

static bool pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)core, &set);
    return pthread_setaffinity_np(pthread_self(), sizeof(set), &set) == 0;
}

static void *second_main(void *arg) {
    struct bare *b = arg;
    PTN_ASSERT(pin(b->core));
    for (uint64_t i = 1; i <= b->n; i++) {
        await(b, 1, i);
        give(b, 0, i);
    }
    return NULL;
}

/* False: there are not two. */
static bool two_cores(int *ret_first, int *ret_second) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) < 2)
        return false;
    int first = 0, second = CPU_SETSIZE - 1;
    while (!CPU_ISSET((unsigned)first, &allowed))
        first++;
    while (!CPU_ISSET((unsigned)second, &allowed))
        second--;
    *ret_first = first;
    *ret_second = second;
    return true;
}

bool bare_run(bool sleeps, uint64_t n, uint64_t *ret_least_ns, uint64_t *ret_all_ns) {
    struct bare b = {.n = n, .sleeps = sleeps};
    pthread_t second;
    int core;
    for (unsigned i = 0; i < 2; i++)
        b.sides[i].fd = eventfd(0, EFD_CLOEXEC);
    if (b.sides[0].fd < 0 || b.sides[1].fd < 0 || !two_cores(&core, &b.core) ||
        pthread_create(&second, NULL, second_main, &b) != 0)
        return false;
    PTN_ASSERT(pin(core));
    uint64_t begin = clock_ns(CLOCK_MONOTONIC), t0 = 0, least = UINT64_MAX;
    for (uint64_t i = 1; i <= n; i++) {
        give(&b, 1, i);
        await(&b, 0, i);
        if (i % BARE_BLOCK != 0)
            continue;
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        if (t0 != 0 && now - t0 < least)
            least = now - t0;
        t0 = now;
    }
    *ret_least_ns = least;
    *ret_all_ns = clock_ns(CLOCK_MONOTONIC) - begin;
    (void)pthread_join(second, NULL);
    for (unsigned i = 0; i < 2; i++)
        (void)close(b.sides[i].fd);
    return true;
}
