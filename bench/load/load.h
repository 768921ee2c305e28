/* SPDX-License-Identifier: Apache-2.0
 *
 * load.h - what every load generator needs, whatever it sends: limits and signals, waiting, the
 * meters that are read before and after a round, and a line that says how far it is.
 *
 * One thread.  A signal that ends the program does so inside load_wait(), as an error: the broker
 * that was started is stopped.
 */
#ifndef POSTERN_BENCH_LOAD_LOAD_H
#define POSTERN_BENCH_LOAD_LOAD_H

#include "bench/common.h"
#include "bench/load/report.h"

#include <sys/epoll.h>

/* As many open files as the machine allows, signals, and timers without slack. */
void load_init(void);

/* Waits until something happens or until_ns; returns the number of events.
 * due: something has to be done at that time: the last LOAD_AWAKE_NS are waited awake. A core that
 * sleeps comes back late, on a virtual machine by some 80 us and more. */
#define LOAD_AWAKE_NS UINT64_C(200000)
int load_wait(int epoll, struct epoll_event *events, int max, uint64_t until_ns, bool due);

/* A line on a terminal, five times a second at most. */
void load_progress(const char *scenario, const char *target, const char *what, uint64_t n);
void load_progress_end(void);

struct meter {
    pid_t server; /* 0: not known */
    uint64_t begin_ns, rss_bytes, client_run_ns, client_wait_ns, awake_ns, stolen_ns;
    unsigned n_threads; /* of the server */
    struct bench_thread threads[BENCH_THREADS_MAX];
};

/* Begins a round.  server: 0: not known. */
void meter_begin(struct meter *m, pid_t server);
/* Ends it: `op` is the name of what was counted ("deliveries"); then rate, shares of a core, memory
 * and percentiles become figures. */
void meter_end(struct meter *m, struct report *p, const char *op, uint64_t ops,
               const struct histogram *latency, const struct histogram *lag);

#endif
