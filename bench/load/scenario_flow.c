/* SPDX-License-Identifier: Apache-2.0
 *
 * scenario_flow.c - fanout and pubsub: P publishers, S subscribers, T topics.
 *
 * Message q of publisher p goes to topic (p + q) mod T; subscriber s has topic s mod T.  So every
 * subscriber knows which message comes next from whom, and each one that is missing, doubled or out
 * of order is counted.  The sequence number on the wire holds 8 bits of the publisher and 24 of the
 * message.
 *
 * Closed loop: fanout sends W at once, and the next W when all subscribers have all of them; pubsub
 * keeps W of each publisher on their way.  A message is on its way until its last subscriber has
 * it.
 *
 * --discard, for a generator that would be the limit: only every 64th subscriber looks at what it
 * gets.  All get the same frames, so the others have a burst when each has as many bytes as those.
 */
#include "bench/load/run.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#define SLOTS 65536u /* messages of a publisher that are told apart */
#define LOW24 0xffffffu
#define SILENCE_NS UINT64_C(10000000000)
#define GIVE_UP_NS UINT64_C(2000000000) /* of an overload: then what lacks is lost */
#define LOOKS_EVERY 64u
#define AT_ONCE 256
#define AT_ONCE_PACED 16 /* of an open loop: some 100 us */
#define BEHIND_MAX 64u   /* messages that are published between two looks at the sockets */
#define FILL_BURST 64u
#define FILL_BYTES_MAX (64u << 20)
#define PUBLISHER (UINT64_C(1) << 32) /* in a tag of the event loop */

struct slot { /* a message on its way */
    uint64_t due_ns;
    uint32_t q, missing; /* subscribers that do not have it yet */
};

struct subscriber {
    struct bench_link link;
    unsigned topic;
    bool discards;
    uint64_t before; /* bytes received when it had subscribed */
    uint32_t *next;  /* by publisher: the message that comes next */
};

struct publisher {
    struct bench_link link;
    uint32_t q, done; /* messages sent; of them, those that all subscribers have */
    uint32_t answered;
    bool writable; /* waits until it can be written */
    struct slot *slots;
};

struct flow {
    struct run run;
    struct subscriber *subscribers;
    struct bench_link *stalled;
    struct publisher *publishers;
    unsigned *alive; /* subscribers of a topic */
    unsigned turn;   /* which publisher is next in an open loop */
    uint64_t on_way, sent, lost, doubled, cut, refused, heard_ns;
    unsigned discarding; /* subscribers that only count */
    uint64_t discarded;  /* bytes, by all of them since they had subscribed */
    bool lossy;          /* an overload: losses and cuts are results, not failures */
    struct histogram last;
    char payload[BENCH_PAYLOAD_MAX];
};

/* ---- publishing ---------------------------------------------------------------------------- */

static void topic_name(const struct flow *f, unsigned topic, char *out, size_t bytes) {
    (void)snprintf(out, bytes, "%s.%05u", f->run.o->topic, topic); /* no name begins another */
}

/* Words as common as in speech: the k-th of them one k-th as often as the first. */
static void prose(char *out, size_t n) {
    static const char *const words[] = {
        "the",   "of",          "and",     "to",   "in",      "is",     "that",  "sensor",
        "it",    "was",         "for",     "on",   "value",   "are",    "with",  "as",
        "room",  "be",          "at",      "one",  "have",    "this",   "from",  "light",
        "by",    "temperature", "not",     "but",  "what",    "all",    "were",  "when",
        "door",  "there",       "can",     "an",   "kitchen", "which",  "their", "said",
        "if",    "do",          "will",    "each", "about",   "how",    "up",    "outside",
        "them",  "then",        "morning", "many", "some",    "so",     "these", "would",
        "other", "humidity",    "into",    "has",  "more",    "garden", "two",   "like"};
    static uint32_t seed;
    for (size_t at = 0; at < n;) {
        seed = seed * 1664525u + 1013904223u;
        const uint32_t spread = (seed >> 8) % (PTN_ARRAY_LEN(words) * 64);
        const char *word = words[spread / (1 + spread % 64) % PTN_ARRAY_LEN(words)];
        for (; *word != '\0' && at < n; word++)
            out[at++] = *word;
        if (at < n)
            out[at++] = ' ';
    }
}

/* The oldest message that is followed makes room.  What still comes of it is no loss: delivered().
 */
static void give_up(struct flow *f, struct publisher *from, struct slot *s) {
    if (!f->lossy)
        bench_die("the server is %u messages of one publisher behind: a lower --rate or --window, "
                  "or --overload, which counts what it loses",
                  SLOTS);
    f->lost += s->missing;
    s->missing = 0;
    from->done++;
    f->on_way--;
}

static void publish(struct flow *f, unsigned p, uint64_t due_ns) {
    struct publisher *from = &f->publishers[p];
    unsigned topic = (p + from->q) % f->run.o->topics;
    struct slot *s = &from->slots[from->q % SLOTS];
    char name[160];
    if (s->missing > 0)
        give_up(f, from, s);
    *s = (struct slot){.due_ns = due_ns, .q = from->q, .missing = f->alive[topic]};
    f->on_way += s->missing > 0;
    from->done += s->missing == 0;
    if (f->run.o->prose)
        prose(f->payload + BENCH_STAMP_BYTES, f->run.o->bytes - BENCH_STAMP_BYTES);
    bench_stamp(f->payload, due_ns, p << 24 | (from->q & LOW24));
    from->q++;
    f->sent++;
    topic_name(f, topic, name, sizeof name);
    f->run.o->driver->publish(&from->link, name, f->payload, f->run.o->bytes);
}

/* What comes back to a publisher. */
static void hear_publisher(struct flow *f, unsigned p) {
    struct publisher *from = &f->publishers[p];
    ptn_bytes m;
    (void)bench_link_read(&from->link);
    for (enum bench_got got; (got = from->link.driver->next(&from->link, &m)) != BENCH_NOTHING;) {
        if (got == BENCH_REFUSAL && !f->lossy)
            bench_die("%s refused: %.*s", from->link.driver->name, (int)(m.n < 300 ? m.n : 300),
                      m.p);
        f->refused += got == BENCH_REFUSAL;
        from->answered++;
    }
    if (from->link.closed)
        bench_die("%s: the server closed a publisher", from->link.driver->name);
}

static void flush(struct flow *f, unsigned p) {
    struct publisher *from = &f->publishers[p];
    bool whole = bench_link_flush(&from->link);
    if (from->link.zmq == NULL)
        run_watch_writable(&f->run, from->link.io.fd, PUBLISHER | p, !whole, &from->writable);
    else
        hear_publisher(f, p); /* sending eats what the socket announces */
}

/* ---- receiving ----------------------------------------------------------------------------- */

/* One subscriber fewer that lacks message q. */
static struct slot *got_it(struct flow *f, unsigned p, uint32_t q) {
    struct publisher *from = &f->publishers[p];
    struct slot *s = &from->slots[q % SLOTS];
    if (s->q != q || s->missing == 0)
        return NULL;
    if (--s->missing == 0) {
        from->done++;
        f->on_way--;
    }
    return s;
}

static void delivered(struct flow *f, struct subscriber *s, ptn_bytes payload, uint64_t now) {
    uint64_t due;
    uint32_t stamp;
    if (!bench_stamp_read(payload, &due, &stamp) || stamp >> 24 >= f->run.o->publishers)
        bench_die("%s delivers what nobody sent: %.*s", s->link.driver->name,
                  (int)(payload.n < 200 ? payload.n : 200), payload.p);
    unsigned p = stamp >> 24, topics = f->run.o->topics;
    uint32_t ahead = (stamp - s->next[p]) & LOW24;
    f->run.ops++;
    if (ahead > LOW24 / 2 || ahead % topics != 0) {
        f->doubled++;
        return;
    }
    for (; ahead > 0; ahead -= topics, s->next[p] += topics) {
        f->lost++;
        (void)got_it(f, p, s->next[p]); /* it will not come */
    }
    struct slot *slot = got_it(f, p, s->next[p]);
    s->next[p] += topics;
    if (slot == NULL && !f->lossy)
        bench_die("%s delivers what was not sent yet", s->link.driver->name);
    histogram_add(&f->run.latency, now - due);
    if (slot == NULL)
        f->lost -= f->lost > 0; /* of a message that was given up */
    else if (slot->missing == 0)
        histogram_add(&f->last, now - due);
}

/* A subscriber that was cut off will not get what is on its way. */
static void cut_off(struct flow *f, unsigned i) {
    struct subscriber *s = &f->subscribers[i];
    if (!f->lossy)
        bench_die("%s: the server closed subscriber %u", s->link.driver->name, i);
    f->cut++;
    f->alive[s->topic]--;
    for (unsigned p = 0; p < f->run.o->publishers; p++)
        for (uint32_t q = s->next[p]; (int32_t)(f->publishers[p].q - q) > 0;
             q += f->run.o->topics) {
            f->lost++;
            (void)got_it(f, p, q);
        }
    bench_link_close(&s->link);
}

static void discard(struct flow *f, struct subscriber *s) {
    const uint64_t before = s->link.received;
    if (bench_link_discard(&s->link))
        f->heard_ns = bench_now_ns();
    f->discarded += s->link.received - before;
}

/* What is left below the mark from which a socket tells that it has something (SO_RCVLOWAT). */
static void sweep(struct flow *f) {
    for (unsigned i = 0; i < f->run.o->subscribers; i++)
        if (f->subscribers[i].discards)
            discard(f, &f->subscribers[i]);
}

/* How many bytes the discarding still lack, once those that look have everything. */
static uint64_t discards_lack(const struct flow *f) {
    const struct subscriber *looks = &f->subscribers[0];
    const uint64_t whole = f->discarding * (looks->link.received - looks->before);
    if (f->discarded > whole)
        bench_die("%s: subscribers got different bytes: --discard cannot tell what came",
                  looks->link.driver->name);
    return whole - f->discarded;
}

static void hear_subscriber(struct flow *f, unsigned i) {
    struct subscriber *s = &f->subscribers[i];
    ptn_bytes m;
    if (s->link.driver == NULL) /* cut off, and an event was still there */
        return;
    if (s->discards) {
        discard(f, s);
        if (s->link.closed)
            cut_off(f, i);
        return;
    }
    (void)bench_link_read(&s->link);
    uint64_t now = bench_now_ns();
    for (enum bench_got got; (got = s->link.driver->next(&s->link, &m)) != BENCH_NOTHING;) {
        if (got == BENCH_DELIVERY)
            delivered(f, s, m, now);
        else if (got == BENCH_REFUSAL && !f->lossy)
            bench_die("%s to a subscriber: %.*s", s->link.driver->name,
                      (int)(m.n < 300 ? m.n : 300), m.p);
        f->heard_ns = now;
    }
    if (s->link.closed)
        cut_off(f, i);
}

/* due: a message is, at until_ns; so the loop looks at the clock again soon. */
static void turn(struct flow *f, uint64_t until_ns, bool due) {
    struct epoll_event events[AT_ONCE];
    int n = load_wait(f->run.epoll, events, due ? AT_ONCE_PACED : AT_ONCE, until_ns, due);
    for (int i = 0; i < n; i++) {
        unsigned at = (unsigned)events[i].data.u64;
        if (events[i].data.u64 >= PUBLISHER)
            hear_publisher(f, at);
        else
            hear_subscriber(f, at);
    }
    for (unsigned p = 0; p < f->run.o->publishers; p++)
        if (f->publishers[p].link.io.out_len > 0)
            flush(f, p);
    run_progress(&f->run, "deliveries");
}

/* ---- the loops ----------------------------------------------------------------------------- */

static bool answers_lack(const struct flow *f, const struct publisher *p, unsigned window) {
    return (f->run.o->driver->can & BENCH_ANSWERS_PUBLISH) != 0 && p->q - p->answered >= window;
}

static bool silent(const struct flow *f, uint64_t ns) {
    return bench_now_ns() - f->heard_ns > ns;
}

static void must_not_be_silent(const struct flow *f) {
    if (f->on_way > 0 && silent(f, SILENCE_NS))
        bench_die("%llu messages have not reached all subscribers after 10 s",
                  (unsigned long long)f->on_way);
    if (f->on_way == 0 && discards_lack(f) > 0 && silent(f, SILENCE_NS))
        bench_die("%llu bytes have not reached all subscribers after 10 s",
                  (unsigned long long)discards_lack(f));
}

/* Until everything has arrived and is answered; of an overload, until nothing more comes. */
static void drain(struct flow *f) {
    f->heard_ns = bench_now_ns();
    for (unsigned p = 0; p < f->run.o->publishers;) {
        if (f->on_way == 0 && !answers_lack(f, &f->publishers[p], 1) && discards_lack(f) == 0) {
            p++;
            continue;
        }
        if (f->lossy && silent(f, GIVE_UP_NS))
            break;
        if (f->on_way == 0)
            sweep(f);
        turn(f, bench_now_ns() + (f->on_way > 0 ? 100000000u : 1000000u), false);
        if (!f->lossy)
            must_not_be_silent(f);
    }
}

/* fanout: W at once, then all of them everywhere. */
static void bursts(struct flow *f, double seconds, unsigned window) {
    uint64_t now = bench_now_ns(), end = now + (uint64_t)(seconds * 1e9);
    for (; now < end; now = bench_now_ns()) {
        for (unsigned i = 0; i < window; i++)
            publish(f, 0, now);
        flush(f, 0);
        drain(f);
        f->run.ops += (uint64_t)window * f->discarding;
    }
}

static void sliding(struct flow *f, double seconds, unsigned window) {
    uint64_t now = bench_now_ns(), end = now + (uint64_t)(seconds * 1e9);
    f->heard_ns = now;
    for (; now < end; now = bench_now_ns()) {
        for (unsigned p = 0; p < f->run.o->publishers; p++) {
            struct publisher *from = &f->publishers[p];
            uint32_t before = from->q;
            while (from->q - from->done < window && !answers_lack(f, from, window))
                publish(f, p, now);
            if (from->q != before)
                flush(f, p);
        }
        turn(f, now + 100000000u, false);
        must_not_be_silent(f);
    }
    drain(f);
}

static void open_loop(struct flow *f, double seconds, double rate) {
    struct pace p;
    uint64_t now = bench_now_ns(), due;
    f->heard_ns = now;
    pace_init(&p, now, rate, seconds);
    for (; pace_next(&p) != UINT64_MAX; now = bench_now_ns()) {
        /* Behind its time it goes on reading, or those who wait for it are cut off. */
        for (unsigned n = 0; n < BEHIND_MAX && pace_take(&p, now, &due); n++, f->turn++) {
            unsigned from = f->turn % f->run.o->publishers;
            histogram_add(&f->run.lag, now - due);
            publish(f, from, due);
            flush(f, from);
        }
        turn(f, pace_next(&p), true);
        if (!f->lossy)
            must_not_be_silent(f);
    }
    while (bench_now_ns() < p.end_ns) /* the last was due before the end */
        turn(f, p.end_ns, true);
    drain(f);
}

static void closed(struct flow *f, double seconds) {
    bool at_once = f->run.o->publishers == 1 && f->run.o->scenario->usual.publishers == 0;
    (at_once ? bursts : sliding)(f, seconds, f->run.o->window);
}

/* ---- a run --------------------------------------------------------------------------------- */

/* It is woken about once in a burst: wake-ups would be most of what it costs. */
static void only_count(struct flow *f, struct subscriber *s) {
    const int mark = (int)(f->run.o->window * f->run.o->bytes);
    if (s->link.zmq != NULL)
        bench_die("--discard wants a wire over TCP; %s is none", s->link.driver->name);
    if (setsockopt(s->link.io.fd, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark) != 0)
        bench_die("SO_RCVLOWAT: %s", strerror(errno));
    s->discards = true;
    f->discarding++;
}

static void open_all(struct flow *f) {
    const struct options *o = f->run.o;
    char source[32], topic[160];
    f->subscribers = run_zeroed(o->subscribers, sizeof *f->subscribers);
    f->stalled = run_zeroed(o->stalled, sizeof *f->stalled);
    f->publishers = run_zeroed(o->publishers, sizeof *f->publishers);
    f->alive = run_zeroed(o->topics, sizeof *f->alive);
    memset(f->payload, 'x', sizeof f->payload);
    for (unsigned p = 0; p < o->publishers; p++) {
        struct publisher *from = &f->publishers[p];
        from->slots = run_zeroed(SLOTS, sizeof *from->slots);
        bench_link_open(&from->link, o->driver, &f->run.target, NULL);
        run_watch(&f->run, bench_link_fd(&from->link), PUBLISHER | p);
    }
    for (unsigned i = 0; i < o->subscribers + o->stalled; i++) {
        bool stalled = i >= o->subscribers;
        struct subscriber *s = stalled ? NULL : &f->subscribers[i];
        struct bench_link *l = stalled ? &f->stalled[i - o->subscribers] : &s->link;
        bench_link_open(l, o->driver, &f->run.target,
                        run_source(&f->run, i, source, sizeof source));
        topic_name(f, i % o->topics, topic, sizeof topic);
        o->driver->subscribe(l, topic);
        run_progress(&f->run, "connecting");
        if (stalled) {
            topic_name(f, o->topics, topic, sizeof topic); /* fill() */
            o->driver->subscribe(l, topic);
            continue;
        }
        s->topic = i % o->topics;
        s->next = run_zeroed(o->publishers, sizeof *s->next);
        for (unsigned p = 0; p < o->publishers; p++)
            s->next[p] = (s->topic + o->topics - p % o->topics) % o->topics;
        s->before = l->received;
        if (o->discard && i % LOOKS_EVERY != 0)
            only_count(f, s);
        f->alive[s->topic] += !s->discards;
        run_watch(&f->run, bench_link_fd(l), i);
    }
}

static void close_all(struct flow *f) {
    for (unsigned i = 0; i < f->run.o->subscribers; i++) {
        bench_link_close(&f->subscribers[i].link);
        free(f->subscribers[i].next);
    }
    for (unsigned i = 0; i < f->run.o->stalled; i++)
        bench_link_close(&f->stalled[i]);
    for (unsigned p = 0; p < f->run.o->publishers; p++) {
        bench_link_close(&f->publishers[p].link);
        free(f->publishers[p].slots);
    }
    free(f->subscribers);
    free(f->stalled);
    free(f->publishers);
    free(f->alive);
}

/* Bytes that the kernel holds for those who do not read, on both sides. */
static uint64_t held(const struct flow *f) {
    uint64_t bytes = 0;
    for (unsigned i = 0; i < f->run.o->stalled; i++)
        bytes += bench_held_bytes(f->stalled[i].io.fd);
    return bytes;
}

/* Messages for the stalled alone until the kernel takes no more of them: from then on what they do
 * not read is the server's.  Over ZeroMQ nobody can tell. */
static void fill(struct flow *f) {
    const struct options *o = f->run.o;
    struct bench_link filler;
    char topic[160];
    ptn_bytes m;
    if (f->stalled[0].zmq != NULL)
        return;
    topic_name(f, o->topics, topic, sizeof topic);
    bench_link_open(&filler, o->driver, &f->run.target, NULL);
    uint64_t before = 0, now = 1, sent = 0;
    for (unsigned same = 0; same < 3 && sent < FILL_BYTES_MAX * (uint64_t)o->stalled;
         before = now) {
        for (unsigned i = 0; i < FILL_BURST; i++, sent += o->bytes)
            o->driver->publish(&filler, topic, f->payload, o->bytes);
        (void)bench_link_flush(&filler);
        for (unsigned i = 0; i < FILL_BURST && (o->driver->can & BENCH_ANSWERS_PUBLISH) != 0; i++)
            (void)bench_link_wait(&filler, &m);
        (void)poll(NULL, 0, 2);
        now = held(f);
        same = now == before ? same + 1 : 0;
    }
    bench_link_close(&filler);
    report_put(&f->run.report, "stalled_held_bytes", (double)now / o->stalled);
}

/* Those of the stalled that the server has closed: it shows once they read what came before. */
static unsigned stalled_cut(struct flow *f) {
    unsigned n = 0;
    uint64_t begin = bench_now_ns(), heard = begin;
    while (n < f->run.o->stalled && bench_now_ns() - heard < 500000000u &&
           bench_now_ns() - begin < SILENCE_NS) {
        (void)poll(NULL, 0, 1);
        for (unsigned i = 0; i < f->run.o->stalled; i++) {
            struct bench_link *l = &f->stalled[i];
            ptn_bytes m;
            while (l->zmq == NULL && !l->closed && bench_link_read(l)) {
                heard = bench_now_ns();
                while (l->driver->next(l, &m) != BENCH_NOTHING)
                    ;
            }
        }
        n = 0;
        for (unsigned i = 0; i < f->run.o->stalled; i++)
            n += f->stalled[i].closed;
    }
    return n;
}

static void round_begin(struct flow *f) {
    f->sent = f->lost = f->doubled = f->cut = f->refused = 0;
    memset(&f->last, 0, sizeof f->last);
    run_begin(&f->run);
}

static void round_end(struct flow *f) {
    struct report *p = &f->run.report;
    for (unsigned i = 0; i < f->run.o->publishers; i++)
        for (unsigned k = 0; k < SLOTS && f->on_way > 0; k++) { /* given up */
            struct slot *s = &f->publishers[i].slots[k];
            f->on_way -= s->missing > 0;
            f->publishers[i].done += s->missing > 0;
            f->lost += s->missing;
            s->missing = 0;
        }
    run_end(&f->run, "deliveries");
    report_put(p, "published", (double)f->sent);
    report_put(p, "lost", (double)f->lost);
    report_put(p, "doubled", (double)f->doubled);
    if (f->last.n > 0) {
        report_put(p, "last_p50_us", (double)histogram_at(&f->last, 0.5) / 1000);
        report_put(p, "last_p99_us", (double)histogram_at(&f->last, 0.99) / 1000);
        report_put(p, "last_max_us", (double)f->last.max / 1000);
    }
    if (f->lossy) {
        report_put(p, "cut", (double)f->cut);
        report_put(p, "refused", (double)f->refused);
    }
}

/* The highest rate of messages that is kept up, by keeping many on their way. */
static double highest_rate(struct flow *f) {
    uint64_t sent = f->sent, begin = bench_now_ns();
    sliding(f, 1, f->run.o->window > 1 ? f->run.o->window : 256);
    return (double)(f->sent - sent) * 1e9 / (double)(bench_now_ns() - begin);
}

void run_fanout(const struct options *o) {
    static struct flow f;
    double rate = o->rate;
    run_open(&f.run, o);
    open_all(&f);
    if (o->stalled > 0)
        fill(&f);
    if (rate > 0)
        open_loop(&f, o->warmup, rate);
    else
        closed(&f, o->warmup);
    if (o->overload > 0) {
        rate = highest_rate(&f) * o->overload;
        f.lossy = true;
    }
    for (unsigned i = 0; i < o->rounds; i++) {
        round_begin(&f);
        if (o->overload > 0)
            report_put(&f.run.report, "rate_wanted", rate);
        if (rate > 0)
            open_loop(&f, o->seconds, rate);
        else
            closed(&f, o->seconds);
        round_end(&f);
    }
    if (o->stalled > 0)
        report_put(&f.run.report, "stalled_cut", stalled_cut(&f));
    close_all(&f);
    run_close(&f.run);
}
