/* SPDX-License-Identifier: Apache-2.0
 *
 * scenario_ask.c - request, http and durable: C connections ask, each with up to W questions on
 * their way, and every question has one answer, in order.
 */
#include "bench/load/run.h"

#include <stdlib.h>

#define SILENCE_NS UINT64_C(10000000000)

struct asker {
    struct bench_link link;
    uint64_t asked, answered;
    bool writable;   /* waits until it can be written */
    uint64_t *at_ns; /* by question % depth: when it was due */
};

struct ask {
    struct run run;
    struct asker *askers;
    unsigned n, depth, turn;
    uint64_t in_flight, heard_ns;
    uint64_t full_ns; /* when no connection had room: a delay until then is the server's */
    bool publishes;
    char topic[160], payload[BENCH_PAYLOAD_MAX];
};

static void ask_one(struct ask *a, struct asker *k, uint64_t due_ns) {
    const struct bench_driver *d = a->run.o->driver;
    k->at_ns[k->asked % a->depth] = due_ns;
    bench_stamp(a->payload, due_ns, (uint32_t)k->asked++);
    a->in_flight++;
    if (a->publishes)
        d->publish(&k->link, a->topic, a->payload, a->run.o->bytes);
    else
        d->request(&k->link, a->payload, a->run.o->bytes);
}

static void flush(struct ask *a, unsigned i) {
    struct asker *k = &a->askers[i];
    bool whole = bench_link_flush(&k->link);
    if (k->link.zmq == NULL)
        run_watch_writable(&a->run, k->link.io.fd, i, !whole, &k->writable);
}

/* Everything that has come on one connection. */
static void hear(struct ask *a, unsigned i) {
    struct asker *k = &a->askers[i];
    ptn_bytes m;
    (void)bench_link_read(&k->link);
    uint64_t now = bench_now_ns();
    for (enum bench_got got; (got = k->link.driver->next(&k->link, &m)) != BENCH_NOTHING;) {
        if (got == BENCH_DELIVERY)
            continue;
        if (got == BENCH_REFUSAL)
            bench_die("%s refused: %.*s", k->link.driver->name, (int)(m.n < 300 ? m.n : 300), m.p);
        if (k->answered == k->asked)
            bench_die("%s answers what nobody asked", k->link.driver->name);
        histogram_add(&a->run.latency, now - k->at_ns[k->answered++ % a->depth]);
        a->in_flight--;
        a->run.ops++;
        a->heard_ns = now;
    }
    if (k->link.closed)
        bench_die("%s: the server closed connection %u", k->link.driver->name, i);
}

static void turn(struct ask *a, uint64_t until_ns, bool due) {
    struct epoll_event events[256];
    int n = load_wait(a->run.epoll, events, PTN_ARRAY_LEN(events), until_ns, due);
    for (int i = 0; i < n; i++)
        hear(a, (unsigned)events[i].data.u64);
    if (a->in_flight > 0 && bench_now_ns() - a->heard_ns > SILENCE_NS)
        bench_die("%llu questions without an answer for 10 s", (unsigned long long)a->in_flight);
}

/* Closed loop: whoever has room asks again. */
static void closed(struct ask *a, double seconds) {
    uint64_t now = bench_now_ns(), end = now + (uint64_t)(seconds * 1e9);
    a->heard_ns = now;
    while (now < end || a->in_flight > 0) {
        for (unsigned i = 0; i < a->n; i++) {
            struct asker *k = &a->askers[i];
            uint64_t before = k->asked;
            while (now < end && k->asked - k->answered < a->run.o->window)
                ask_one(a, k, now);
            if (k->asked > before || k->link.io.out_len > 0)
                flush(a, i);
            if (k->asked > before && k->link.zmq != NULL)
                hear(a, i); /* sending eats what the socket announces */
        }
        turn(a, now + 100000000u, false);
        run_progress(&a->run, "closed loop");
        now = bench_now_ns();
    }
}

/* The next connection with room, or NULL. */
static struct asker *free_asker(struct ask *a) {
    for (unsigned i = 0; i < a->n; i++) {
        struct asker *k = &a->askers[a->turn++ % a->n];
        if (k->asked - k->answered < a->depth)
            return k;
    }
    return NULL;
}

/* Open loop: what is due is asked on any connection with room, and waits for one if there is none;
 * its latency has begun. */
static void open_loop(struct ask *a, double seconds) {
    struct pace p;
    uint64_t now = bench_now_ns(), due;
    a->heard_ns = now;
    pace_init(&p, now, a->run.o->rate, seconds);
    while (pace_next(&p) != UINT64_MAX || a->in_flight > 0) {
        struct asker *k = NULL;
        bool waits = false;
        while (pace_next(&p) <= now && !(waits = (k = free_asker(a)) == NULL) &&
               pace_take(&p, now, &due)) {
            histogram_add(&a->run.lag, now - (due > a->full_ns ? due : a->full_ns));
            ask_one(a, k, due);
            flush(a, (unsigned)(k - a->askers));
            if (k->link.zmq != NULL)
                hear(a, (unsigned)(k - a->askers));
        }
        for (unsigned i = 0; i < a->n; i++)
            if (a->askers[i].link.io.out_len > 0)
                flush(a, i);
        if (waits)
            a->full_ns = now;
        uint64_t next = waits ? UINT64_MAX : pace_next(&p), patience = now + 100000000u;
        turn(a, next < patience ? next : patience, next < patience);
        run_progress(&a->run, "open loop");
        now = bench_now_ns();
    }
}

void run_ask(const struct options *o) {
    static struct ask a;
    run_open(&a.run, o);
    a.publishes = (o->scenario->needs & BENCH_CAN_DURABLE) != 0;
    a.run.target.durable = a.publishes;
    a.n = o->connections;
    a.depth = o->window > 0 ? o->window : 64;
    a.askers = run_zeroed(a.n, sizeof *a.askers);
    (void)snprintf(a.topic, sizeof a.topic, "%s.durable.log", o->topic);
    memset(a.payload, 'x', sizeof a.payload);
    for (unsigned i = 0; i < a.n; i++) {
        struct asker *k = &a.askers[i];
        char source[32];
        k->at_ns = run_zeroed(a.depth, sizeof *k->at_ns);
        bench_link_open(&k->link, o->driver, &a.run.target,
                        run_source(&a.run, i, source, sizeof source));
        run_watch(&a.run, bench_link_fd(&k->link), i);
        run_progress(&a.run, "connecting");
    }
    void (*load)(struct ask *, double) = o->rate > 0 ? open_loop : closed;
    load(&a, o->warmup);
    for (unsigned i = 0; i < o->rounds; i++) {
        run_begin(&a.run);
        load(&a, o->seconds);
        run_end(&a.run, "answers");
    }
    for (unsigned i = 0; i < a.n; i++) {
        bench_link_close(&a.askers[i].link);
        free(a.askers[i].at_ns);
    }
    free(a.askers);
    run_close(&a.run);
}
