/* SPDX-License-Identifier: Apache-2.0
 *
 * load.c - keeps so many appends in flight, for a time or up to a number; and reads a backlog.
 */
#include "bench/durable/durable.h"

#include <postern/pack.h>

struct load {
    const struct durable_options *o;
    struct durable_conn conns[DURABLE_CONNS_MAX];
    zmq_pollitem_t items[DURABLE_CONNS_MAX];
    void *context;
    uint64_t acked, begin_ns, end_ns;
    struct bench_sample latency;
};

static void load_open(struct load *l, const struct durable_options *o) {
    l->o = o;
    l->context = zmq_ctx_new();
    for (unsigned i = 0; i < o->connections; i++) {
        struct durable_conn *c = &l->conns[i];
        durable_open(c, o, l->context);
        l->items[i] = (zmq_pollitem_t){.socket = c->zmq, .fd = c->ws.fd, .events = ZMQ_POLLIN};
    }
}

static void load_close(struct load *l) {
    for (unsigned i = 0; i < l->o->connections; i++)
        durable_close(&l->conns[i]);
    zmq_ctx_term(l->context);
    bench_sample_done(&l->latency);
}

static void take(struct load *l, struct durable_conn *c, size_t n, uint64_t now) {
    l->acked += n;
    l->end_ns = n > 0 ? now : l->end_ns;
    for (; n > 0; n--, c->acked++)
        bench_sample_add(&l->latency, now - c->at_ns[c->acked % DURABLE_WINDOW_MAX]);
}

/* Until the deadline or the number of acknowledgements; then until nothing is in flight. */
static void load_run(struct load *l, uint64_t until_ns, uint64_t count) {
    unsigned conns = l->o->connections, window = l->o->in_flight / conns;
    /* With one in flight the client's own wake-up would be a good part of the reading. */
    const long wait_ms = l->o->in_flight == 1 ? 0 : 30000;
    uint64_t sent = 0, now = bench_now_ns();
    l->begin_ns = l->end_ns = now;
    for (;;) {
        bool busy = false;
        for (unsigned i = 0; i < conns; i++) {
            struct durable_conn *c = &l->conns[i];
            bool more = now < until_ns;
            for (; more && sent < count && c->sent - c->acked < window; sent++)
                durable_append(c);
            durable_flush(c);
            busy = busy || c->sent > c->acked;
            l->items[i].events =
                (short)(ZMQ_POLLIN | (c->zmq == NULL && c->ws.out_len > 0 ? ZMQ_POLLOUT : 0));
        }
        if (!busy)
            break;
        (void)zmq_poll(l->items, (int)conns, wait_ms);
        now = bench_now_ns();
        if (now - l->end_ns > 30 * UINT64_C(1000000000))
            bench_die("no acknowledgement within 30 s");
        for (unsigned i = 0; i < conns; i++)
            if (l->items[i].revents & ZMQ_POLLIN)
                take(l, &l->conns[i], durable_acks(&l->conns[i]), now);
    }
}

static void report(struct load *l) {
    double s = (double)(l->end_ns - l->begin_ns) / 1e9;
    printf("{\"acks\":%llu,\"seconds\":%.3f,\"acks_per_s\":%.0f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
           (unsigned long long)l->acked, s, (double)l->acked / s,
           (double)bench_sample_at(&l->latency, 0.5) / 1000,
           (double)bench_sample_at(&l->latency, 0.99) / 1000);
}

void durable_load(const struct durable_options *o) {
    static struct load l;
    load_open(&l, o);
    load_run(&l, UINT64_MAX, o->in_flight * 2); /* connections, caches, the first page */
    l.acked = l.latency.n = 0;
    load_run(&l, bench_now_ns() + (uint64_t)(o->seconds * 1e9), UINT64_MAX);
    report(&l);
    load_close(&l);
}

void durable_fill(const struct durable_options *o) {
    static struct load l;
    load_open(&l, o);
    load_run(&l, UINT64_MAX, o->count);
    report(&l);
    load_close(&l);
}

/* ---- the backlog -------------------------------------------------------------------------- */

static ptn_bytes wait_type(struct bench_ws *w, const char *type) {
    for (;;) {
        ptn_bytes m = bench_ws_wait(w);
        ptn_str is;
        if (!ptn_map_get_str(m, "type", &is) || ptn_str_eqz(is, "error"))
            bench_die("refused: %.*s", (int)(m.n < 400 ? m.n : 400), m.p);
        if (ptn_str_eqz(is, type))
            return m;
    }
}

static void subscribe(struct bench_ws *w, const char *topic, ptn_str epoch) {
    ptn_pack p;
    ptn_pack_init(&p, 256);
    ptn_pack_map(&p, epoch.n > 0 ? 3 : 2);
    ptn_pack_key(&p, "type");
    ptn_pack_cstr(&p, "subscribe");
    ptn_pack_key(&p, "topic");
    ptn_pack_cstr(&p, topic);
    if (epoch.n > 0) {
        ptn_pack_key(&p, "since");
        ptn_pack_map(&p, 2);
        ptn_pack_key(&p, "epoch");
        ptn_pack_str(&p, epoch);
        ptn_pack_key(&p, "offset");
        ptn_pack_uint(&p, 0);
    }
    ptn_buf *b = ptn_pack_finish(&p);
    if (b == NULL)
        bench_die("out of memory");
    bench_ws_send(w, 2, ptn_buf_bytes(b).p, ptn_buf_bytes(b).n);
    ptn_buf_unref(b);
}

/* Asks for the position first, on a connection of its own; then comes back from the beginning. */
void durable_backlog(const struct durable_options *o) {
    struct bench_ws w;
    char epoch[64];
    ptn_str e;
    uint64_t last, next = 1, at;
    bench_ws_open(&w, o->address, NULL, o->token, "postern.v1.msgpack");
    subscribe(&w, o->topic, (ptn_str){NULL, 0});
    ptn_bytes m = wait_type(&w, "subscribed");
    if (!ptn_map_get_str(m, "epoch", &e) || e.n >= sizeof epoch ||
        !ptn_map_get_uint(m, "offset", &last))
        bench_die("`subscribed` without a position");
    memcpy(epoch, e.p, e.n);
    bench_ws_close(&w);

    bench_ws_open(&w, o->address, NULL, o->token, "postern.v1.msgpack");
    uint64_t begin = bench_now_ns();
    subscribe(&w, o->topic, (ptn_str){epoch, e.n});
    (void)wait_type(&w, "subscribed");
    if (o->count > 0 && o->count < last)
        last = o->count;
    while (next <= last) {
        m = bench_ws_wait(&w);
        if (!ptn_map_get_uint(m, "offset", &at) || at != next)
            bench_die("event %llu where %llu belongs", (unsigned long long)at,
                      (unsigned long long)next);
        next++;
    }
    double s = (double)(bench_now_ns() - begin) / 1e9;
    printf("{\"events\":%llu,\"seconds\":%.3f,\"events_per_s\":%.0f}\n", (unsigned long long)last,
           s, (double)last / s);
    bench_ws_close(&w);
}
