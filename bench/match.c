/* SPDX-License-Identifier: Apache-2.0
 *
 * match.c - postern-match: what the hub's index costs with many subscriptions: bytes of each,
 * subscribing, finding the subscribers of a topic, unsubscribing.
 *
 * The index alone, one thread, no messages.  Topics are `r.<region>.<device>.<what>`, taken in an
 * order that no cache foresees; memory is what the allocator has handed out.  Each row:
 *
 *   exact   every subscription is to a topic of its own
 *   star    `r.*.<device>.<what>`, each a pattern of its own
 *   tail    `r.<region>.<device>.**`, likewise
 *   mixed   ten for each topic: 4 exact, 2 `*` in the middle, 1 `*` in front, 1 `*` at the end, 2
 * `**` same    all to one pattern
 */
#include "bench/common.h"

#include "actors/hub_index.h"

#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>

#define SINKS 1000u /* each has a thousandth of the subscriptions */
#define PER_TOPIC 10u
#define REGIONS 100u
#define ROUNDS 5 /* of matching; the best counts, because a busy machine only ever adds time */
#define NAME_BYTES 64

struct index {
    struct hub_index x;
    struct hub_sub *sinks[SINKS];
    struct hub_sub **subs; /* all of them, in order */
    uint32_t n;
};

struct row {
    const char *name;
    /* The k-th subscription. */
    void (*pattern)(char *out, uint32_t k);
    uint32_t per_topic; /* how many of them a topic has; 0: all */
};

static void topic_of(char *out, uint32_t t) {
    snprintf(out, NAME_BYTES, "r.%u.dev%06u.temperature", t % REGIONS, t);
}

static void pattern_exact(char *out, uint32_t k) {
    topic_of(out, k);
}
static void pattern_star(char *out, uint32_t k) {
    snprintf(out, NAME_BYTES, "r.*.dev%06u.temperature", k);
}
static void pattern_tail(char *out, uint32_t k) {
    snprintf(out, NAME_BYTES, "r.%u.dev%06u.**", k % REGIONS, k);
}
static void pattern_same(char *out, uint32_t k) {
    (void)k;
    snprintf(out, NAME_BYTES, "r.*.*.temperature");
}
static void pattern_mixed(char *out, uint32_t k) {
    const uint32_t t = k / PER_TOPIC, region = t % REGIONS;
    switch (k % PER_TOPIC) {
    case 0:
    case 1:
        pattern_star(out, t);
        break;
    case 2:
        snprintf(out, NAME_BYTES, "*.%u.dev%06u.temperature", region, t);
        break;
    case 3:
        snprintf(out, NAME_BYTES, "r.%u.dev%06u.*", region, t);
        break;
    case 4:
    case 5:
        pattern_tail(out, t);
        break;
    default:
        topic_of(out, t);
        break;
    }
}

static const struct row rows[] = {
    {"exact", pattern_exact, 1},         {"star", pattern_star, 1}, {"tail", pattern_tail, 1},
    {"mixed", pattern_mixed, PER_TOPIC}, {"same", pattern_same, 0},
};

static enum ptn_sink_load deliver(ptn_ctx *c, void *self, ptn_event *e) {
    (void)c, (void)self, (void)e;
    return PTN_SINK_FREE;
}

static uint64_t allocated(void) {
    const struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static void subscribe(struct index *i, uint32_t k, ptn_str pattern) {
    static const struct hub_slot slot = {.deliver = deliver};
    struct hub_list *l = NULL;
    if (ptn_pattern_has_wildcard(pattern)) {
        l = hub_index_pattern(&i->x, pattern, true);
    } else {
        struct hub_topic *t = hub_index_topic(&i->x, pattern, true);
        l = t != NULL ? &t->list : NULL;
    }
    i->subs[k] = l != NULL ? hub_sub_add(&i->x, l, NULL, &i->sinks[k % SINKS], &slot) : NULL;
    if (i->subs[k] == NULL)
        bench_die("out of memory at subscription %u", k);
}

static void unsubscribe(struct index *i, uint32_t k) {
    struct hub_topic *t = hub_list_topic(i->subs[k]->list);
    hub_sub_remove(&i->x, i->subs[k]);
    if (t != NULL)
        (void)hub_index_topic_release(&i->x, t);
}

static void count(struct hub_list *l, void *arg) {
    *(uint32_t *)arg += l->n;
}

/* As a fan-out looks for them, without calling them. */
static uint32_t match(struct index *i, ptn_str topic) {
    const struct hub_topic *t = hub_index_topic(&i->x, topic, false);
    uint32_t n = t != NULL ? t->list.n : 0;
    hub_index_match(&i->x, topic, count, &n);
    return n;
}

/* The k-th of 0..n-1 in an order without a pattern; prime to every n of interest. */
static uint32_t scatter(uint32_t k, uint32_t n) {
    return (uint32_t)((uint64_t)k * 2654435761u % n);
}

static void measure(const struct row *row, uint32_t n, uint32_t n_matches, bool json) {
    struct index *i = calloc(1, sizeof *i);
    char(*names)[NAME_BYTES] = calloc(n, NAME_BYTES);
    if (i == NULL || names == NULL || (i->subs = calloc(n, sizeof *i->subs)) == NULL)
        bench_die("out of memory");
    for (uint32_t k = 0; k < n; k++)
        row->pattern(names[k], k);
    const uint64_t before = allocated();
    uint64_t from = bench_now_ns();
    for (uint32_t k = 0; k < n; k++)
        subscribe(i, k, ptn_str_of(names[k]));
    const double subscribe_ns = (double)(bench_now_ns() - from) / n;
    const double bytes = (double)(allocated() - before) / n;

    const uint32_t n_topics = row->per_topic > 0 ? n / row->per_topic : n;
    const uint32_t expected = row->per_topic > 0 ? row->per_topic : n;
    char(*topics)[NAME_BYTES] = calloc(n_matches, NAME_BYTES);
    if (topics == NULL)
        bench_die("out of memory");
    for (uint32_t k = 0; k < n_matches; k++)
        topic_of(topics[k], scatter(k, n_topics));
    double match_ns = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        from = bench_now_ns();
        for (uint32_t k = 0; k < n_matches; k++) {
            const uint32_t found = match(i, ptn_str_of(topics[k]));
            if (found != expected)
                bench_die("%s: %u subscribers of %s, expected %u", row->name, found, topics[k],
                          expected);
        }
        const double ns = (double)(bench_now_ns() - from) / n_matches;
        match_ns = round == 0 || ns < match_ns ? ns : match_ns;
    }

    from = bench_now_ns();
    for (uint32_t k = 0; k < n; k++)
        unsubscribe(i, scatter(k, n));
    const double unsubscribe_ns = (double)(bench_now_ns() - from) / n;
    if (i->x.n_subs != 0 || i->x.topics.n != 0 || i->x.nodes.n != 0)
        bench_die("%s: something is left", row->name);
    hub_index_done(&i->x);
    if (json)
        printf("{\"row\":\"%s\",\"subscriptions\":%u,\"bytes\":%.1f,\"subscribe_ns\":%.0f,"
               "\"match_ns\":%.0f,\"found\":%u,\"unsubscribe_ns\":%.0f}\n",
               row->name, n, bytes, subscribe_ns, match_ns, expected, unsubscribe_ns);
    else
        printf("%-7s %10.0f %13.0f %11.0f %9u %15.0f\n", row->name, bytes, subscribe_ns, match_ns,
               expected, unsubscribe_ns);
    fflush(stdout);
    free(topics);
    free(names);
    free(i->subs);
    free(i);
}

static _Noreturn void usage(FILE *f, int status) {
    fputs("usage: postern-match [--subscriptions N] [--matches N] [--row NAME] [--json]\n", f);
    exit(status);
}

int main(int argc, char **argv) {
    static const struct option longs[] = {{"subscriptions", required_argument, NULL, 'n'},
                                          {"matches", required_argument, NULL, 'm'},
                                          {"row", required_argument, NULL, 'r'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    unsigned long n = 1000000, n_matches = 200000;
    const char *only = NULL;
    bool json = false;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'n':
            n = strtoul(optarg, NULL, 10);
            break;
        case 'm':
            n_matches = strtoul(optarg, NULL, 10);
            break;
        case 'r':
            only = optarg;
            break;
        case 'j':
            json = true;
            break;
        default:
            usage(c == 'h' ? stdout : stderr, c == 'h' ? 0 : 2);
        }
    }
    if (n < PER_TOPIC || n > 10000000 || n % PER_TOPIC != 0 || n_matches == 0 ||
        n_matches > 10000000)
        usage(stderr, 2);
    char machine[320];
    bench_machine(machine, sizeof machine);
    if (!json)
        printf("%s\n%lu subscriptions, %lu matches\n%-7s %10s %13s %11s %9s %15s\n", machine, n,
               n_matches, "", "bytes each", "subscribe ns", "match ns", "found", "unsubscribe ns");
    for (size_t r = 0; r < PTN_ARRAY_LEN(rows); r++)
        if (only == NULL || strcmp(only, rows[r].name) == 0)
            measure(&rows[r], (uint32_t)n, (uint32_t)n_matches, json);
    return 0;
}
