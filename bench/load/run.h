/* SPDX-License-Identifier: Apache-2.0
 *
 * run.h - what every scenario of postern-bench needs around its load: a server, an event loop, and
 * a clock for open loops.
 *
 * Pacing: message k of an open loop is due at begin + k / rate, whatever happened to those before
 * it. Latencies count from then, not from when the generator or the server got round to it
 * (otherwise a stall hides all the messages that it delayed: coordinated omission).
 */
#ifndef POSTERN_BENCH_LOAD_RUN_H
#define POSTERN_BENCH_LOAD_RUN_H

#include "bench/load/load.h"
#include "bench/load/options.h"

struct pace {
    uint64_t begin_ns, end_ns;
    double interval_ns;
    uint64_t n; /* messages so far */
};

struct run {
    const struct options *o;
    struct bench_target target;
    pid_t server_pid; /* 0: not known */
    int epoll;
    FILE *svg; /* or NULL */
    struct report report;
    /* of the round */
    struct meter meter;
    uint64_t ops;      /* deliveries or answers */
    uint64_t received; /* bytes, when it began */
    struct histogram latency, lag;
};

/* Everything but the load: starts a broker when none is given, pins both. */
void run_open(struct run *r, const struct options *o);
/* Prints the report, stops the broker. */
void run_close(struct run *r);

void run_begin(struct run *r);
/* op: the name of what was counted, for the rate ("deliveries"). */
void run_end(struct run *r, const char *op);
void run_progress(const struct run *r, const char *what); /* load_progress() */

void run_watch(struct run *r, int fd, uint64_t tag);
/* Whether fd is to tell when it can be written.  *watched: what was said last. */
void run_watch_writable(struct run *r, int fd, uint64_t tag, bool want, bool *watched);

/* The source address of connection i of this machine's loopback: 5,000 of each. */
const char *run_source(const struct run *r, unsigned i, char *buf, size_t bytes);
void *run_zeroed(size_t n, size_t bytes); /* dies without memory */

void pace_init(struct pace *p, uint64_t now_ns, double rate, double seconds);
/* True: a message is due, and *ret_due_ns is when; it counts as taken. */
bool pace_take(struct pace *p, uint64_t now_ns, uint64_t *ret_due_ns);
/* When the next is due; UINT64_MAX: none is left. */
uint64_t pace_next(const struct pace *p);

/* ---- the scenarios ------------------------------------------------------------------------- */

void run_fanout(const struct options *o); /* scenario_flow.c; also pubsub */
void run_ask(const struct options *o);    /* scenario_ask.c: request, http, durable */

void run_connections(const struct options *o); /* scenario_connections.c */

#endif
