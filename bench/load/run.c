/* SPDX-License-Identifier: Apache-2.0
 *
 * run.c - the server under test, its rounds, and pacing.
 */
#include "bench/load/run.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <zmq.h>

#define PER_ADDRESS 5000u

static struct bench_broker broker;

void *run_zeroed(size_t n, size_t bytes) {
    void *p = calloc(n > 0 ? n : 1, bytes);
    if (p == NULL)
        bench_die("out of memory");
    return p;
}

/* ---- the server ---------------------------------------------------------------------------- */

static void start_broker(struct run *r) {
    char workers[32], durable[96], connections[64];
    const char *const set[] = {workers, durable, connections, "limits.ws_requests=1024",
                               r->o->driver->set};
    (void)snprintf(workers, sizeof workers, "workers=%.16s", r->o->workers);
    (void)snprintf(durable, sizeof durable, "topics.durable=%.64s.durable.**", r->o->topic);
    (void)snprintf(connections, sizeof connections, "limits.connections=%u", 100000u);
    bench_broker_start(&broker, r->o->program, set,
                       PTN_ARRAY_LEN(set) - (r->o->driver->set == NULL));
    r->server_pid = broker.pid;
    r->target.token = broker.token;
    bool by_zmq = strstr(r->o->driver->name, "zmq") != NULL;
    r->target.address = by_zmq ? broker.zmq : broker.http;
    r->target.events = by_zmq ? broker.zmq_events : NULL;
    if (strcmp(r->o->workers, "1") == 0)
        (void)(bench_pin(broker.pid, 0) && bench_pin(0, 1)); /* one core: they share it */
}

void run_open(struct run *r, const struct options *o) {
    load_init();
    *r = (struct run){.o = o, .server_pid = (pid_t)o->server_pid};
    r->target = (struct bench_target){.address = o->address,
                                      .events = o->events,
                                      .token = o->token,
                                      .topic_prefix = o->topic,
                                      .path = o->path,
                                      .payload_bytes = o->bytes};
    r->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (r->epoll < 0)
        bench_die("epoll_create1: %s", strerror(errno));
    options_tell(o, &r->report);
    r->svg = report_svg_open(o->svg);
    if (o->address == NULL)
        start_broker(r);
    r->target.zmq = zmq_ctx_new();
    if (r->target.zmq == NULL || zmq_ctx_set(r->target.zmq, ZMQ_MAX_SOCKETS, 65535) != 0)
        bench_die("zmq_ctx_new: %s", zmq_strerror(zmq_errno()));
}

void run_close(struct run *r) {
    (void)zmq_ctx_term(r->target.zmq);
    (void)close(r->epoll);
    if (r->o->address == NULL)
        bench_broker_stop(&broker);
    load_progress_end();
    (r->o->json ? report_json : report_table)(stdout, &r->report);
    if (r->svg != NULL)
        report_svg(r->svg, &r->report, r->o->svg);
}

const char *run_source(const struct run *r, unsigned i, char *buf, size_t bytes) {
    if (strncmp(r->target.address, "127.", 4) != 0)
        return NULL;
    (void)snprintf(buf, bytes, "127.0.0.%u", 2 + i / PER_ADDRESS);
    return buf;
}

/* ---- rounds -------------------------------------------------------------------------------- */

void run_begin(struct run *r) {
    memset(&r->latency, 0, sizeof r->latency);
    memset(&r->lag, 0, sizeof r->lag);
    r->ops = 0;
    r->received = bench_link_received();
    meter_begin(&r->meter, r->server_pid);
}

void run_end(struct run *r, const char *op) {
    const uint64_t received = bench_link_received() - r->received;
    meter_end(&r->meter, &r->report, op, r->ops, &r->latency, &r->lag);
    if (r->ops > 0 && received > 0)
        report_put(&r->report, "wire_bytes_per_op", (double)received / (double)r->ops);
}

void run_progress(const struct run *r, const char *what) {
    load_progress(r->report.scenario, r->report.target, what, r->ops);
}

/* ---- the event loop ------------------------------------------------------------------------ */

void run_watch(struct run *r, int fd, uint64_t tag) {
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = tag};
    if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        bench_die("epoll_ctl: %s", strerror(errno));
}

void run_watch_writable(struct run *r, int fd, uint64_t tag, bool want, bool *watched) {
    struct epoll_event e = {.events = EPOLLIN | (want ? (unsigned)EPOLLOUT : 0), .data.u64 = tag};
    if (want == *watched)
        return;
    *watched = want;
    if (epoll_ctl(r->epoll, EPOLL_CTL_MOD, fd, &e) < 0)
        bench_die("epoll_ctl: %s", strerror(errno));
}

/* ---- pacing -------------------------------------------------------------------------------- */

void pace_init(struct pace *p, uint64_t now_ns, double rate, double seconds) {
    *p = (struct pace){.begin_ns = now_ns,
                       .end_ns = now_ns + (uint64_t)(seconds * 1e9),
                       .interval_ns = 1e9 / rate};
}

uint64_t pace_next(const struct pace *p) {
    uint64_t due = p->begin_ns + (uint64_t)((double)p->n * p->interval_ns);
    return due < p->end_ns ? due : UINT64_MAX;
}

bool pace_take(struct pace *p, uint64_t now_ns, uint64_t *ret_due_ns) {
    uint64_t due = pace_next(p);
    if (due > now_ns)
        return false;
    p->n++;
    *ret_due_ns = due;
    return true;
}
