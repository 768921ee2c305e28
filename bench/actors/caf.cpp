/* SPDX-License-Identifier: Apache-2.0
 *
 * caf.cpp - the programs of basic.c and many.c for the C++ Actor Framework (0.17), which
 * bench/actors/run builds.  Mailboxes have no bound there, so producers send without pause.
 *
 * Usage: actors-caf PROGRAM THREADS SIZE WARM_UP
 * Output, of the measured run: operations, nanoseconds, those of CPU time, resident bytes gained.
 */
#include <caf/all.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <time.h>
#include <unistd.h>
#include <unordered_map>
#include <vector>

using namespace caf;

template <atom_value V> using word = atom_constant<V>;
using start_atom = word<atom("start")>;
using report_atom = word<atom("report")>;
using data_atom = word<atom("data")>;
using end_atom = word<atom("end")>;
using ping_atom = word<atom("ping")>;
using pong_atom = word<atom("pong")>;
using meet_atom = word<atom("meet")>;
using change_atom = word<atom("change")>;
using fade_atom = word<atom("fade")>;
using read_atom = word<atom("read")>;
using write_atom = word<atom("write")>;
using produce_atom = word<atom("produce")>;
using free_atom = word<atom("free")>;

struct bench {
    uint64_t n;
    actor conductor;
    std::vector<actor> peers;
    unsigned starter_first = 0, starters = 1, reports = 1;
    uint64_t sum = 0, ops = 0;
};

constexpr unsigned senders = 16, ring = 100, fan = 60, wave = 1000;
constexpr unsigned big = 120, creatures = 100, clients = 20, makers = 40, buffer_max = 50,
                   cost = 25;
constexpr uint32_t keys = 4096, write_percent = 10;

static uint32_t lehmer(uint32_t &x) {
    return x = static_cast<uint32_t>(uint64_t{x} * 16807 % 2147483647);
}
static uint32_t lehmer_seed(unsigned index) {
    return 1 + index * 104729;
}

[[noreturn]] static void fail(const char *what) {
    std::fprintf(stderr, "actors-caf: %s\n", what);
    std::_Exit(1);
}

struct count_state {
    uint64_t n = 0;
};
using counting = stateful_actor<count_state>;

static void report(event_based_actor *self, const bench *b, uint64_t value) {
    self->send(b->conductor, report_atom::value, value);
}

/* ---- one thing at a time: see basic.c ---------------------------------------------------------
 */

static behavior ping(counting *self, bench *b) {
    return {[=](start_atom) { self->send(b->peers[1], ping_atom::value); },
            [=](pong_atom) {
                if (++self->state.n == b->n)
                    report(self, b, self->state.n);
                else
                    self->send(b->peers[1], ping_atom::value);
            }};
}

static behavior pong(event_based_actor *self, bench *b) {
    return {[=](ping_atom) { self->send(b->peers[0], pong_atom::value); }};
}

static void pingpong_start(actor_system &sys, bench *b) {
    b->sum = b->ops = b->n;
    b->peers = {sys.spawn(ping, b), sys.spawn(pong, b)};
}

static behavior producer(event_based_actor *self, bench *b) {
    return {[=](start_atom) {
        for (uint64_t i = 0; i < b->n; i++)
            self->send(b->peers[1], data_atom::value);
        self->send(b->peers[1], end_atom::value);
    }};
}

static behavior counter(counting *self, bench *b) {
    return {[=](data_atom) { self->state.n++; }, [=](end_atom) { report(self, b, self->state.n); }};
}

static void count_start(actor_system &sys, bench *b) {
    b->sum = b->ops = b->n;
    b->peers = {sys.spawn(producer, b), sys.spawn(counter, b)};
}

static behavior sender(event_based_actor *self, bench *b) {
    return {[=](start_atom) {
        for (uint64_t i = 0; i < b->n; i++)
            self->send(b->peers[senders], data_atom::value);
    }};
}

static behavior sink(counting *self, bench *b) {
    return {[=](data_atom) {
        if (++self->state.n == b->sum)
            report(self, b, self->state.n);
    }};
}

static void senders_start(actor_system &sys, bench *b) {
    b->starters = senders;
    b->sum = b->ops = senders * b->n;
    for (unsigned i = 0; i < senders; i++)
        b->peers.push_back(sys.spawn(sender, b));
    b->peers.push_back(sys.spawn(sink, b));
}

static behavior ring_node(counting *self, bench *b, unsigned i) {
    auto next = [=] { self->send(b->peers[(i + 1) % ring], data_atom::value); };
    return {[=](start_atom) { next(); },
            [=](data_atom) {
                uint64_t laps = i == 0 ? ++self->state.n : self->state.n++;
                if (laps * ring + i == b->n)
                    report(self, b, b->n);
                else
                    next();
            }};
}

static void threadring_start(actor_system &sys, bench *b) {
    b->sum = b->ops = b->n;
    for (unsigned i = 0; i < ring; i++)
        b->peers.push_back(sys.spawn(ring_node, b, i));
}

static behavior fan_main(event_based_actor *self, bench *b) {
    return {[=](start_atom) {
        for (uint64_t i = 0; i < b->n * fan; i++)
            self->send(b->peers[1 + i % fan], data_atom::value);
    }};
}

static behavior fan_node(counting *self, bench *b) {
    return {[=](data_atom) {
        if (++self->state.n == b->n)
            report(self, b, self->state.n);
    }};
}

static void fjthrput_start(actor_system &sys, bench *b) {
    b->reports = fan;
    b->sum = b->ops = fan * b->n;
    b->peers.push_back(sys.spawn(fan_main, b));
    for (unsigned i = 0; i < fan; i++)
        b->peers.push_back(sys.spawn(fan_node, b));
}

static behavior child(event_based_actor *self, bench *b) {
    return {[=](data_atom) {
        self->send(b->peers[0], end_atom::value);
        self->quit();
    }};
}

static behavior parent(counting *self, bench *b) {
    return {[=](start_atom) {
                for (uint64_t i = 0; i < b->n; i++)
                    self->send(self->spawn(child, b), data_atom::value);
            },
            [=](end_atom) {
                if (++self->state.n == b->n)
                    report(self, b, self->state.n);
            }};
}

static void fjcreate_start(actor_system &sys, bench *b) {
    b->sum = b->ops = b->n;
    b->peers.push_back(sys.spawn(parent, b));
}

static behavior life(event_based_actor *self, bench *b, uint64_t lives) {
    return {[=](data_atom) {
        if (lives == b->n)
            report(self, b, lives);
        else
            self->send(self->spawn(life, b, lives + 1), data_atom::value);
        self->quit();
    }};
}

static behavior first(event_based_actor *self, bench *b) {
    return {[=](start_atom) { self->send(self->spawn(life, b, uint64_t{1}), data_atom::value); }};
}

static void create_start(actor_system &sys, bench *b) {
    b->sum = b->ops = b->n;
    b->peers.push_back(sys.spawn(first, b));
}

static behavior idler(counting *self, bench *b) {
    return {[=](data_atom) {
        self->state.n++;
        self->send(b->peers[0], end_atom::value);
    }};
}

struct idle_state {
    uint64_t n = 0;
    std::vector<actor> idlers; /* an actor nobody refers to ends */
};

static behavior idle_parent(stateful_actor<idle_state> *self, bench *b) {
    auto make = [=] {
        for (unsigned i = 0; i < wave; i++) {
            self->state.idlers.push_back(self->spawn(idler, b));
            self->send(self->state.idlers.back(), data_atom::value);
        }
    };
    return {[=](start_atom) { make(); },
            [=](end_atom) {
                if (++self->state.n == b->n)
                    report(self, b, self->state.n);
                else if (self->state.n % wave == 0)
                    make();
            }};
}

static void idle_start(actor_system &sys, bench *b) {
    b->sum = b->ops = b->n;
    b->peers.push_back(sys.spawn(idle_parent, b));
}

/* ---- many actors: see many.c ------------------------------------------------------------------
 */

struct random_state {
    uint64_t n = 0;
    uint32_t random = 0, key = 0;
};
using randomised = stateful_actor<random_state>;

static behavior big_node(randomised *self, bench *b, unsigned index) {
    auto next = [=] { self->send(b->peers[lehmer(self->state.random) % big], ping_atom::value); };
    return {[=](start_atom) {
                self->state.random = lehmer_seed(index);
                next();
            },
            [=](ping_atom) { return pong_atom::value; },
            [=](pong_atom) {
                if (++self->state.n == b->n)
                    report(self, b, self->state.n);
                else
                    next();
            }};
}

static void big_start(actor_system &sys, bench *b) {
    b->starters = b->reports = big;
    b->sum = big * b->n;
    b->ops = 2 * b->sum;
    for (unsigned i = 0; i < big; i++)
        b->peers.push_back(sys.spawn(big_node, b, i));
}

struct mall_state {
    uint64_t n = 0;
    actor waiting;
};

static behavior mall(stateful_actor<mall_state> *self, bench *b) {
    return {[=](meet_atom, uint32_t colour, const actor &who) {
        mall_state &s = self->state;
        if (s.n == b->n) {
            self->send(who, fade_atom::value);
        } else if (!s.waiting) {
            s.waiting = who;
        } else {
            s.n++;
            self->send(s.waiting, meet_atom::value, colour, who);
            s.waiting = nullptr;
        }
    }};
}

struct creature_state {
    uint64_t meetings = 0;
    uint32_t colour = 0;
};

static behavior creature(stateful_actor<creature_state> *self, bench *b, unsigned index) {
    auto meet = [=] { self->send(b->peers[0], meet_atom::value, self->state.colour, actor{self}); };
    return {[=](start_atom) {
                self->state.colour = index % 3;
                meet();
            },
            [=](meet_atom, uint32_t other, const actor &who) {
                creature_state &s = self->state;
                s.colour = s.colour == other ? other : 3 - s.colour - other;
                s.meetings++;
                self->send(who, change_atom::value, s.colour);
                meet();
            },
            [=](change_atom, uint32_t colour) {
                self->state.colour = colour;
                self->state.meetings++;
                meet();
            },
            [=](fade_atom) { report(self, b, self->state.meetings); }};
}

static void chameneos_start(actor_system &sys, bench *b) {
    b->starter_first = 1;
    b->starters = b->reports = creatures;
    b->sum = 2 * b->n;
    b->ops = b->n;
    b->peers.push_back(sys.spawn(mall, b));
    for (unsigned i = 1; i <= creatures; i++)
        b->peers.push_back(sys.spawn(creature, b, i));
}

struct dict_state {
    std::unordered_map<uint32_t, uint32_t> table;
};

static behavior dict(stateful_actor<dict_state> *self) {
    for (uint32_t key = 1; key <= keys; key++)
        self->state.table.emplace(key, key);
    return {[=](read_atom, uint32_t key) -> uint32_t { return self->state.table.at(key); },
            [=](write_atom, uint32_t key, uint32_t value) -> uint32_t {
                return std::exchange(self->state.table.at(key), value);
            }};
}

static void client_next(randomised *self, bench *b);

static void client_answered(randomised *self, bench *b, uint32_t value) {
    if (value % keys != self->state.key % keys)
        fail("concdict: a wrong value");
    if (++self->state.n == b->n)
        report(self, b, self->state.n);
    else
        client_next(self, b);
}

static void client_next(randomised *self, bench *b) {
    random_state &s = self->state;
    s.key = 1 + lehmer(s.random) % keys;
    auto answered = [=](uint32_t value) { client_answered(self, b, value); };
    if (lehmer(s.random) % 100 < write_percent) {
        uint32_t value = s.key + keys * (lehmer(s.random) % 1000);
        self->request(b->peers[0], infinite, write_atom::value, s.key, value).then(answered);
    } else {
        self->request(b->peers[0], infinite, read_atom::value, s.key).then(answered);
    }
}

static behavior client(randomised *self, bench *b, unsigned index) {
    return {[=](start_atom) {
        self->state.random = lehmer_seed(index);
        client_next(self, b);
    }};
}

static void concdict_start(actor_system &sys, bench *b) {
    b->starter_first = 1;
    b->starters = b->reports = clients;
    b->sum = b->ops = clients * b->n;
    b->peers.push_back(sys.spawn(dict));
    for (unsigned i = 1; i <= clients; i++)
        b->peers.push_back(sys.spawn(client, b, i));
}

struct manager_state {
    uint64_t consumed = 0;
    unsigned items = 0;
    std::deque<actor> producers, consumers;
};

static actor take(std::deque<actor> &q) {
    actor a = std::move(q.front());
    q.pop_front();
    return a;
}

static behavior manager(stateful_actor<manager_state> *self, bench *b) {
    return {[=](start_atom) {
                for (unsigned i = 0; i < makers; i++) {
                    self->state.consumers.push_back(b->peers[1 + makers + i]);
                    self->send(b->peers[1 + i], produce_atom::value);
                }
            },
            [=](data_atom, const actor &producer) {
                manager_state &s = self->state;
                if (!s.consumers.empty())
                    self->send(take(s.consumers), data_atom::value);
                else if (++s.items > buffer_max)
                    fail("bndbuffer: the buffer overflows");
                if (s.items < buffer_max - makers)
                    self->send(producer, produce_atom::value);
                else
                    s.producers.push_back(producer);
            },
            [=](free_atom, const actor &consumer) {
                manager_state &s = self->state;
                if (++s.consumed == makers * b->n) {
                    report(self, b, s.consumed);
                } else if (s.items == 0) {
                    s.consumers.push_back(consumer);
                } else {
                    s.items--;
                    self->send(consumer, data_atom::value);
                    if (!s.producers.empty())
                        self->send(take(s.producers), produce_atom::value);
                }
            }};
}

static void work(uint32_t &random) {
    for (unsigned i = 0; i < cost * 100; i++)
        (void)lehmer(random);
}

static behavior maker(randomised *self, bench *b, unsigned index) {
    self->state.random = lehmer_seed(index);
    return {[=](produce_atom) {
                if (self->state.n == b->n)
                    return;
                work(self->state.random);
                self->state.n++;
                self->send(b->peers[0], data_atom::value, actor{self});
            },
            [=](data_atom) {
                work(self->state.random);
                self->send(b->peers[0], free_atom::value, actor{self});
            }};
}

static void bndbuffer_start(actor_system &sys, bench *b) {
    b->sum = b->ops = makers * b->n;
    b->peers.push_back(sys.spawn(manager, b));
    for (unsigned i = 1; i <= 2 * makers; i++)
        b->peers.push_back(sys.spawn(maker, b, i));
}

/* ---- the conductor ----------------------------------------------------------------------------
 */

struct program {
    const char *name;
    void (*start)(actor_system &, bench *);
};

static const program programs[] = {
    {"pingpong", pingpong_start},     {"count", count_start},       {"senders", senders_start},
    {"threadring", threadring_start}, {"fjthrput", fjthrput_start}, {"fjcreate", fjcreate_start},
    {"create", create_start},         {"idle", idle_start},         {"big", big_start},
    {"chameneos", chameneos_start},   {"concdict", concdict_start}, {"bndbuffer", bndbuffer_start},
};

static long rss_bytes() {
    long total = 0, resident = 0;
    FILE *f = std::fopen("/proc/self/statm", "r");
    if (f == nullptr || std::fscanf(f, "%ld %ld", &total, &resident) != 2)
        fail("no /proc/self/statm");
    std::fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}

static long long clock_ns(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void run(actor_system &sys, const program &p, uint64_t n, bool print) {
    bench b;
    scoped_actor self{sys}; /* waits outside the scheduler; takes no part in a program */
    b.n = n;
    b.conductor = actor_cast<actor>(self);
    p.start(sys, &b);
    long rss0 = rss_bytes();
    long long cpu0 = clock_ns(CLOCK_PROCESS_CPUTIME_ID), t0 = clock_ns(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < b.starters; i++)
        self->send(b.peers[b.starter_first + i], start_atom::value);
    uint64_t sum = 0;
    for (unsigned i = 0; i < b.reports; i++)
        self->receive([&](report_atom, uint64_t value) { sum += value; });
    long long ns = clock_ns(CLOCK_MONOTONIC) - t0;
    long long cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu0;
    long rss = rss_bytes() - rss0;
    if (sum != b.sum)
        fail("a wrong sum");
    for (const actor &a : b.peers) /* they use b: let them end first */
        self->send_exit(a, exit_reason::user_shutdown);
    self->wait_for(b.peers);
    if (print)
        std::printf("%llu %lld %lld %ld\n", static_cast<unsigned long long>(b.ops), ns, cpu_ns,
                    rss);
}

int main(int argc, char **argv) {
    const program *p = nullptr;
    for (const program &it : programs)
        if (argc == 5 && std::strcmp(it.name, argv[1]) == 0)
            p = &it;
    if (p == nullptr)
        fail("usage: actors-caf PROGRAM THREADS SIZE WARM_UP");
    actor_system_config cfg;
    auto threads = static_cast<size_t>(std::atol(argv[2]));
    cfg.set("scheduler.max-threads", threads);
    actor_system sys{cfg};
    if (sys.scheduler().num_workers() != threads)
        fail("the scheduler did not take the number of threads");
    run(sys, *p, std::strtoull(argv[4], nullptr, 10), false);
    run(sys, *p, std::strtoull(argv[3], nullptr, 10), true);
    std::fflush(stdout);
    std::_Exit(0); /* idle actors are many */
}
