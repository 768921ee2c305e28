/* SPDX-License-Identifier: Apache-2.0
 *
 * run.c - the server under test, the event loop and the meters.
 */
#include "bench/load/run.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define PER_ADDRESS 5000u
#define LAG_MAX_NS 1000000u /* an open loop that is later than this has not kept the rate */

static struct bench_broker broker;
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal) {
    interrupted = signal;
}

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
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    struct sigaction interrupt = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    (void)sigaction(SIGINT, &interrupt, NULL); /* so that the broker is stopped */
    (void)sigaction(SIGTERM, &interrupt, NULL);
    (void)prctl(PR_SET_TIMERSLACK, 1); /* an open loop wakes when it should, not 50 us later */
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
    if (o->svg != NULL && (r->svg = fopen(o->svg, "we")) == NULL)
        bench_die("%s: %s", o->svg, strerror(errno));
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
    if (isatty(2))
        fputs("\r\033[K", stderr);
    if (r->o->json)
        report_json(stdout, &r->report, r->o);
    else
        report_table(stdout, &r->report, r->o);
    if (r->svg != NULL)
        report_svg(r->svg, &r->report, r->o);
}

const char *run_source(const struct run *r, unsigned i, char *buf, size_t bytes) {
    if (strncmp(r->target.address, "127.", 4) != 0)
        return NULL;
    (void)snprintf(buf, bytes, "127.0.0.%u", 2 + i / PER_ADDRESS);
    return buf;
}

/* ---- meters -------------------------------------------------------------------------------- */

void run_begin(struct run *r) {
    memset(&r->latency, 0, sizeof r->latency);
    memset(&r->lag, 0, sizeof r->lag);
    r->ops = 0;
    r->received = bench_link_received();
    r->rss_bytes = r->server_pid != 0 ? bench_rss_bytes(r->server_pid) : 0;
    r->server_cpu_ns = r->server_pid != 0 ? bench_cpu_ns(r->server_pid) : 0;
    r->client_cpu_ns = bench_cpu_ns(getpid());
    r->begin_ns = bench_now_ns();
}

void run_end(struct run *r, const char *op) {
    double ns = (double)(bench_now_ns() - r->begin_ns);
    double client = (double)(bench_cpu_ns(getpid()) - r->client_cpu_ns) / ns;
    struct report *p = &r->report;
    report_put(p, op, (double)r->ops);
    report_put(p, "seconds", ns / 1e9);
    report_put(p, "rate", (double)r->ops / (ns / 1e9));
    if (r->ops > 0 && bench_link_received() > r->received)
        report_put(p, "wire_bytes_per_op",
                   (double)(bench_link_received() - r->received) / (double)r->ops);
    if (r->server_pid != 0) {
        uint64_t cpu = bench_cpu_ns(r->server_pid), rss = bench_rss_bytes(r->server_pid);
        if (cpu == 0)
            bench_die("the server (process %d) has ended", (int)r->server_pid);
        double used = (double)(cpu - r->server_cpu_ns);
        if (r->ops > 0)
            report_put(p, "cpu_us_per_op", used / 1000 / (double)r->ops);
        report_put(p, "server_cpu", used / ns);
        report_put(p, "server_rss_bytes", (double)rss);
        report_put(p, "server_rss_grown_bytes", (double)rss - (double)r->rss_bytes);
    }
    report_put(p, "client_cpu", client);
    report_latency(p, &r->latency);
    if (r->lag.n > 0)
        report_put(p, "lag_p99_us", (double)histogram_at(&r->lag, 0.99) / 1000);
    p->generator_limits |= client > 0.9 || histogram_at(&r->lag, 0.99) > LAG_MAX_NS;
}

void run_progress(struct run *r, const char *what) {
    static int terminal = -1;
    uint64_t now = bench_now_ns();
    if (terminal < 0)
        terminal = isatty(2);
    if (!terminal || now - r->progress_ns < 200000000u)
        return;
    r->progress_ns = now;
    fprintf(stderr, "\r\033[K%s, %s: %s, %llu so far", r->o->scenario->name, r->o->driver->name,
            what, (unsigned long long)r->ops);
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

int run_wait(struct run *r, struct epoll_event *events, int max, uint64_t until_ns) {
    uint64_t now = bench_now_ns(), left = until_ns > now ? until_ns - now : 0;
    struct timespec t = {.tv_sec = (time_t)(left / 1000000000u),
                         .tv_nsec = (long)(left % 1000000000u)};
    int n = epoll_pwait2(r->epoll, events, max, &t, NULL);
    if (n < 0 &&
        errno == ENOSYS) /* before Linux 5.11: a round down to milliseconds spins the rest */
        n = epoll_wait(r->epoll, events, max, (int)(left / 1000000u));
    if (interrupted != 0)
        bench_die("interrupted");
    if (n < 0 && errno != EINTR)
        bench_die("epoll: %s", strerror(errno));
    return n < 0 ? 0 : n;
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
