/* SPDX-License-Identifier: Apache-2.0
 *
 * scenario_connections.c - what idle connections cost, each with one subscription.
 *
 * The server's own memory is its resident set. The kernel's is that of the whole machine, which
 * holds both ends when the server is on it: half of it is counted as the server's. Other work on
 * the machine disturbs it, less so the more connections there are.
 */
#include "bench/load/run.h"

#include <stdlib.h>

#define FIRST                                                                                      \
    64u /* opened and closed before: what the first of all connections costs is not theirs */

static void connect_one(struct run *r, struct bench_link *l, unsigned i) {
    char source[32], topic[160];
    uint64_t begin = bench_now_ns();
    bench_link_open(l, r->o->driver, &r->target, run_source(r, i, source, sizeof source));
    (void)snprintf(topic, sizeof topic, "%s.%05u", r->o->topic, i);
    r->o->driver->subscribe(l, topic);
    histogram_add(&r->latency, bench_now_ns() - begin);
    r->ops++;
    run_progress(r, "connections");
}

/* Answers keep-alives. */
static void idle(struct run *r, struct bench_link *links, double seconds) {
    uint64_t now = bench_now_ns(), end = now + (uint64_t)(seconds * 1e9);
    for (; now < end; now = bench_now_ns()) {
        struct epoll_event events[256];
        int n = load_wait(r->epoll, events, PTN_ARRAY_LEN(events), end, false);
        for (int i = 0; i < n; i++) {
            struct bench_link *l = &links[events[i].data.u64];
            ptn_bytes m;
            (void)bench_link_read(l);
            while (l->driver->next(l, &m) != BENCH_NOTHING)
                ;
            if (l->closed)
                bench_die("%s: the server closed an idle connection", l->driver->name);
        }
    }
}

void run_connections(const struct options *o) {
    static struct run r;
    run_open(&r, o);
    unsigned n = o->connections;
    struct bench_link *links = run_zeroed(n > FIRST ? n : FIRST, sizeof *links);
    for (unsigned i = 0; i < FIRST; i++)
        connect_one(&r, &links[i], i);
    for (unsigned i = 0; i < FIRST; i++)
        bench_link_close(&links[i]);
    idle(&r, links, o->warmup);

    run_begin(&r);
    uint64_t kernel = bench_kernel_bytes();
    for (unsigned i = 0; i < n; i++)
        connect_one(&r, &links[i], i);
    run_end(&r, "connections_opened");
    idle(&r, links, 0.2); /* what opening has set in motion */
    double grown = (double)bench_kernel_bytes() - (double)kernel, each = n;
    if (r.server_pid != 0)
        report_put(&r.report, "user_bytes_per_connection",
                   ((double)bench_rss_bytes(r.server_pid) - (double)r.meter.rss_bytes) / each);
    report_put(&r.report, "kernel_bytes_per_connection", grown / 2 / each);

    for (unsigned i = 0; i < n; i++)
        run_watch(&r, bench_link_fd(&links[i]), i);
    for (unsigned i = 0; i < o->rounds; i++) {
        uint64_t begin = bench_now_ns(), cpu = bench_cpu_ns(r.server_pid);
        idle(&r, links, o->seconds);
        if (r.server_pid != 0)
            report_put(&r.report, "idle_cpu",
                       (double)(bench_cpu_ns(r.server_pid) - cpu) /
                           (double)(bench_now_ns() - begin));
    }
    for (unsigned i = 0; i < n; i++)
        bench_link_close(&links[i]);
    free(links);
    run_close(&r);
}
