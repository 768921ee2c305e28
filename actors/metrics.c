/* SPDX-License-Identifier: Apache-2.0
 *
 * metrics.c - the metrics page in Prometheus text format 0.0.4
 * (prometheus.io/docs/instrumenting/exposition_formats).
 */
#include "actors/health.h"
#include "runtime/stream_stats.h"

#include <postern/memory.h>
#include <postern/metrics.h>
#include <stdarg.h>
#include <stdio.h>

#define ACTOR_NAMES_MAX 64

struct series {
    const char *name, *labels, *help;
};

static const struct series counters[] = {
#define XX(id, name, labels, help) {name, labels, help},
    PTN_COUNTER_MAP(XX)
#undef XX
};
static const struct series gauges[] = {
#define XX(id, name, labels, help) {name, labels, help},
    PTN_GAUGE_MAP(XX)
#undef XX
};
static const struct series histograms[] = {
#define XX(id, name, labels, help) {name, labels, help},
    PTN_HISTOGRAM_MAP(XX)
#undef XX
};

__attribute__((format(printf, 2, 3))) static void line(ptn_out *o, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    PTN_ASSERT(n >= 0 && (size_t)n < sizeof text); /* all inputs are our own short names */
    ptn_out_put(o, text, (size_t)n);
}

static void head(ptn_out *o, const char *name, const char *type, const char *help) {
    line(o, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Series of one name stand together in the tables; the first of them carries the help. */
static bool begins_family(const struct series *s, size_t i) {
    return i == 0 || strcmp(s[i - 1].name, s[i].name) != 0;
}

static void scalar(ptn_out *o, const struct series *s, double v) {
    if (s->labels[0] != '\0')
        line(o, "%s{%s} %.17g\n", s->name, s->labels, v);
    else
        line(o, "%s %.17g\n", s->name, v);
}

static void histogram(ptn_out *o, const struct series *s, const uint64_t *bucket, uint64_t sum_ns) {
    const char *comma = s->labels[0] != '\0' ? "," : "";
    uint64_t total = 0;
    for (unsigned i = 0; i < PTN_HISTOGRAM_BUCKETS; i++) {
        total += bucket[i];
        if (i + 1 < PTN_HISTOGRAM_BUCKETS)
            line(o, "%s_bucket{%s%sle=\"%.9g\"} %llu\n", s->name, s->labels, comma,
                 (double)(UINT64_C(1) << i) * 1e-6, (unsigned long long)total);
        else
            line(o, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", s->name, s->labels, comma,
                 (unsigned long long)total);
    }
    const char *open = s->labels[0] != '\0' ? "{" : "", *close = s->labels[0] != '\0' ? "}" : "";
    line(o, "%s_sum%s%s%s %.9g\n", s->name, open, s->labels, close, (double)sum_ns * 1e-9);
    line(o, "%s_count%s%s%s %llu\n", s->name, open, s->labels, close, (unsigned long long)total);
}

/* ---- actors ------------------------------------------------------------------------------- */

struct by_name {
    ptn_actor_stats sum[ACTOR_NAMES_MAX];
    size_t n;
};

static void add_actor(const ptn_actor_stats *s, void *arg) {
    struct by_name *names = arg;
    size_t i = 0;
    while (i < names->n && strcmp(names->sum[i].name, s->name) != 0)
        i++;
    if (i == ACTOR_NAMES_MAX)
        return;
    if (i == names->n)
        names->sum[names->n++] = (ptn_actor_stats){.name = s->name};
    ptn_actor_stats *sum = &names->sum[i];
    sum->mbox_msgs += s->mbox_msgs;
    sum->mbox_bytes += s->mbox_bytes;
    sum->handled += s->handled;
    sum->refused += s->refused;
    sum->restarts += s->restarts;
}

struct waits {
    struct wait_sum {
        const char *name;
        uint64_t bucket[PTN_HISTOGRAM_BUCKETS], sum_ns;
    } kind[ACTOR_NAMES_MAX];
    size_t n;
};

static void add_wait(const char *name, const ptn_histogram_cells *h, void *arg) {
    struct waits *w = arg;
    size_t i = 0;
    while (i < w->n && strcmp(w->kind[i].name, name) != 0)
        i++;
    if (i == ACTOR_NAMES_MAX)
        return;
    if (i == w->n)
        w->kind[w->n++] = (struct wait_sum){.name = name};
    for (unsigned b = 0; b < PTN_HISTOGRAM_BUCKETS; b++)
        w->kind[i].bucket[b] += atomic_load_explicit(&h->bucket[b], memory_order_relaxed);
    w->kind[i].sum_ns += atomic_load_explicit(&h->sum_ns, memory_order_relaxed);
}

static void wait_metrics(ptn_runtime *rt, ptn_out *o) {
    static _Thread_local struct waits w; /* large: not on the stack */
    w.n = 0;
    ptn_waits_visit(rt, add_wait, &w);
    head(o, "postern_mailbox_wait_seconds", "histogram", "Time in the mailbox (sampled)");
    for (size_t i = 0; i < w.n; i++) {
        char labels[64];
        (void)snprintf(labels, sizeof labels, "actor=\"%.40s\"", w.kind[i].name);
        struct series s = {"postern_mailbox_wait_seconds", labels, ""};
        histogram(o, &s, w.kind[i].bucket, w.kind[i].sum_ns);
    }
}

static void actor_metrics(ptn_runtime *rt, ptn_out *o) {
    struct by_name names = {.n = 0};
    ptn_actors_visit(rt, add_actor, &names);
    head(o, "postern_mailbox_depth", "gauge", "Messages waiting, by kind of actor");
    for (size_t i = 0; i < names.n; i++)
        line(o, "postern_mailbox_depth{actor=\"%s\"} %u\n", names.sum[i].name,
             names.sum[i].mbox_msgs);
    head(o, "postern_mailbox_refused_total", "counter", "Messages refused by a full mailbox");
    for (size_t i = 0; i < names.n; i++)
        line(o, "postern_mailbox_refused_total{actor=\"%s\"} %llu\n", names.sum[i].name,
             (unsigned long long)names.sum[i].refused);
    head(o, "postern_actor_messages_total", "counter", "Messages handled");
    for (size_t i = 0; i < names.n; i++)
        line(o, "postern_actor_messages_total{actor=\"%s\"} %llu\n", names.sum[i].name,
             (unsigned long long)names.sum[i].handled);
    head(o, "postern_actor_restarts_total", "counter", "Restarts by a supervisor");
    for (size_t i = 0; i < names.n; i++)
        line(o, "postern_actor_restarts_total{actor=\"%s\"} %llu\n", names.sum[i].name,
             (unsigned long long)names.sum[i].restarts);
}

static void worker_metrics(ptn_runtime *rt, ptn_out *o) {
    ptn_worker_stats sum = {0};
    unsigned stuck = 0;
    for (unsigned i = 0; i < ptn_runtime_workers(rt); i++) {
        ptn_worker_stats s;
        ptn_worker_stats_read(rt, i, &s);
        sum.turns += s.turns;
        sum.parks += s.parks;
        sum.wakes += s.wakes;
        sum.messages += s.messages;
        sum.dead_letters += s.dead_letters;
        sum.late_replies += s.late_replies;
        sum.backing_off += s.backing_off;
        stuck += ptn_worker_stuck(rt, i) > 0;
        sum.slow_handlers += s.slow_handlers;
        sum.blocked_turns += s.blocked_turns;
        if (s.lag_ns_max > sum.lag_ns_max)
            sum.lag_ns_max = s.lag_ns_max;
    }
    const struct {
        const char *name, *type, *help;
        double v;
    } rows[] = {
        {"postern_worker_turns_total", "counter", "Turns of all workers", (double)sum.turns},
        {"postern_worker_parks_total", "counter", "Times a worker went to sleep",
         (double)sum.parks},
        {"postern_worker_wakes_total", "counter", "Wake-ups sent", (double)sum.wakes},
        {"postern_dead_letters_total", "counter", "Messages whose receiver was gone",
         (double)sum.dead_letters},
        {"postern_late_replies_total", "counter", "Answers after the deadline",
         (double)sum.late_replies},
        {"postern_slow_handlers_total", "counter", "Messages that took over 100 ms of CPU time",
         (double)sum.slow_handlers},
        {"postern_blocked_turns_total", "counter", "Turns that took over 1 s on the wall's clock",
         (double)sum.blocked_turns},
        {"postern_workers_stuck", "gauge", "Workers that do not come back from a turn (watchdog)",
         (double)stuck},
        {"postern_actors_backing_off", "gauge", "Failed actors that wait for their restart",
         (double)sum.backing_off},
        {"postern_worker_turn_seconds_max", "gauge", "Longest turn", (double)sum.lag_ns_max * 1e-9},
    };
    for (size_t i = 0; i < PTN_ARRAY_LEN(rows); i++) {
        head(o, rows[i].name, rows[i].type, rows[i].help);
        line(o, "%s %.17g\n", rows[i].name, rows[i].v);
    }
}

/* What the budget counts, and besides, what of the messages is free. */
static void memory_metrics(ptn_out *o) {
    ptn_memory_stats m;
    uint64_t live, pooled;
    ptn_memory_read(&m);
    ptn_buf_stats(&live, &pooled);
    head(o, "postern_memory_bytes", "gauge", "Memory by pool");
    for (int i = 0; i < PTN_POOL_COUNT; i++)
        line(o, "postern_memory_bytes{pool=\"%s\"} %llu\n", ptn_pool_name((enum ptn_pool)i),
             (unsigned long long)m.pool_bytes[i]);
    head(o, "postern_memory_free_bytes", "gauge", "Of the pool messages: free, kept for reuse");
    line(o, "postern_memory_free_bytes %llu\n", (unsigned long long)pooled);
    head(o, "postern_memory_limit_bytes", "gauge", "The budget; 0: none");
    line(o, "postern_memory_limit_bytes %llu\n", (unsigned long long)m.limit_bytes);
    head(o, "postern_memory_pressure", "gauge", "1 while the budget is spent and work is refused");
    line(o, "postern_memory_pressure %d\n", ptn_memory_pressure() ? 1 : 0);
}

void metrics_render(ptn_runtime *rt, const char *version, const char *revision, ptn_out *o) {
    static _Thread_local ptn_metrics_snapshot s; /* large: not on the stack */
    ptn_metrics_sum(&s);
    head(o, "postern_build_info", "gauge", "Version of the running broker");
    line(o, "postern_build_info{version=\"%s\",revision=\"%s\"} 1\n", version, revision);
    for (size_t i = 0; i < PTN_COUNTER_COUNT; i++) {
        if (begins_family(counters, i))
            head(o, counters[i].name, "counter", counters[i].help);
        scalar(o, &counters[i], (double)s.counter[i]);
    }
    for (size_t i = 0; i < PTN_GAUGE_COUNT; i++) {
        if (begins_family(gauges, i))
            head(o, gauges[i].name, "gauge", gauges[i].help);
        scalar(o, &gauges[i], (double)s.gauge[i]);
    }
    for (size_t i = 0; i < PTN_HISTOGRAM_COUNT; i++) {
        if (begins_family(histograms, i))
            head(o, histograms[i].name, "histogram", histograms[i].help);
        histogram(o, &histograms[i], s.bucket[i], s.sum_ns[i]);
    }
    actor_metrics(rt, o);
    wait_metrics(rt, o);
    worker_metrics(rt, o);
    uint64_t queued = ptn__streams_queued_bytes(rt);
    head(o, "postern_outbound_queue_bytes", "gauge", "Bytes waiting for slow connections");
    line(o, "postern_outbound_queue_bytes %llu\n", (unsigned long long)queued);
    memory_metrics(o);
}
