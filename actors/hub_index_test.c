/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_index_test.c - topics, patterns, subscriptions, matching.
 */
#include "actors/hub_index.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static enum ptn_sink_load deliver(ptn_ctx *c, void *self, ptn_event *e) {
    (void)c, (void)self, (void)e;
    return PTN_SINK_FREE;
}

static const struct hub_slot slot = {.deliver = deliver};

static void count(struct hub_list *l, void *arg) {
    *(uint32_t *)arg += l->n;
}

static uint32_t matches(struct hub_index *x, const char *topic) {
    uint32_t n = 0;
    hub_index_match(x, ptn_str_of(topic), count, &n);
    return n;
}

static void subscribe(struct hub_index *x, struct hub_sub **subs, const char *pattern) {
    struct hub_list *l = hub_index_pattern(x, ptn_str_of(pattern), true);
    cr_assert_not_null(l);
    cr_assert_not_null(hub_sub_add(x, l, NULL, subs, &slot));
}

Test(hub_index, patterns_match_as_the_pure_function_says) {
    static const char *const patterns[] = {"a.b",   "a.*",    "*.b",  "**",    "a.**", "*.*.c",
                                           "a.*.c", "a.b.**", "*.**", "x.y.z", "*"};
    static const char *const topics[] = {"a",     "a.b",      "a.b.c",  "x.b",     "x.y.z",
                                         "a.x.c", "system.x", "user.1", "a.b.c.d", "conversation.9",
                                         "system"};
    struct hub_index x = {0};
    struct hub_sub *subs = NULL;
    for (size_t i = 0; i < PTN_ARRAY_LEN(patterns); i++)
        subscribe(&x, &subs, patterns[i]);
    for (size_t t = 0; t < PTN_ARRAY_LEN(topics); t++) {
        uint32_t expected = 0;
        for (size_t i = 0; i < PTN_ARRAY_LEN(patterns); i++)
            expected += ptn_pattern_matches(ptn_str_of(patterns[i]), ptn_str_of(topics[t]));
        cr_assert_eq(matches(&x, topics[t]), expected, "%s: %u, not %u", topics[t],
                     matches(&x, topics[t]), expected);
    }
    hub_index_done(&x);
}

Test(hub_index, leading_wildcards_do_not_see_reserved_topics) {
    struct hub_index x = {0};
    struct hub_sub *subs = NULL;
    subscribe(&x, &subs, "**");
    subscribe(&x, &subs, "*.*");
    subscribe(&x, &subs, "system.**");
    cr_assert_eq(matches(&x, "user.1"), 0);
    cr_assert_eq(matches(&x, "conversation.1"), 0);
    cr_assert_eq(matches(&x, "system.update"), 1);
    cr_assert_eq(matches(&x, "users.1"), 2);
    hub_index_done(&x);
}

Test(hub_index, removing_the_last_pattern_frees_its_nodes) {
    struct hub_index x = {0};
    struct hub_sub *subs = NULL;
    subscribe(&x, &subs, "a.*.c.**");
    subscribe(&x, &subs, "a.*.d");
    hub_sub_remove(&x, subs);
    cr_assert_eq(matches(&x, "a.b.d"), 0);
    cr_assert_eq(matches(&x, "a.b.c.d"), 1);
    hub_sub_remove(&x, subs);
    cr_assert_eq(x.nodes.n, 0);
    cr_assert_eq(x.root.n_children, 0);
    cr_assert_not(x.root.star);
    cr_assert_eq(x.n_subs, 0);
    cr_assert_null(hub_index_pattern(&x, ptn_str_of("a.*.d"), false));
    hub_index_done(&x);
}

Test(hub_index, a_hole_in_a_list_is_filled_by_its_last) {
    struct hub_index x = {0};
    struct hub_sub *subs = NULL, *made[5];
    struct hub_topic *t = hub_index_topic(&x, PTN_STR("t"), true);
    for (int i = 0; i < 5; i++)
        made[i] = hub_sub_add(&x, &t->list, NULL, &subs, &slot);
    hub_sub_remove(&x, made[1]);
    cr_assert_eq(t->list.n, 4);
    cr_assert_eq(t->list.slots[1].sub, made[4]);
    cr_assert_eq(made[4]->at, 1);
    cr_assert_not(hub_index_topic_release(&x, t));
    while (subs != NULL)
        hub_sub_remove(&x, subs);
    cr_assert(hub_index_topic_release(&x, t));
    cr_assert_null(hub_index_topic(&x, PTN_STR("t"), false));
    hub_index_done(&x);
}

Test(hub_index, the_deepest_topic_and_the_widest_branching_fit) {
    struct hub_index x = {0};
    struct hub_sub *subs = NULL;
    char topic[PTN_TOPIC_BYTES_MAX + 1], pattern[PTN_TOPIC_BYTES_MAX + 1];
    for (int i = 0; i < PTN_TOPIC_BYTES_MAX; i++)
        topic[i] = i % 2 ? '.' : 'a';
    topic[PTN_TOPIC_BYTES_MAX] = '\0';
    for (int star = 0; star < PTN_TOPIC_BYTES_MAX; star += 2) { /* one `*` at each level */
        memcpy(pattern, topic, sizeof topic);
        pattern[star] = '*';
        subscribe(&x, &subs, pattern);
    }
    cr_assert_eq(matches(&x, topic), (PTN_TOPIC_BYTES_MAX + 1) / 2);
    hub_index_done(&x);
    cr_assert_eq(x.n_subs, 0);
}

Test(hub_index, a_pattern_of_its_own_is_one_node) {
    struct hub_index x = {0};
    struct hub_sub *subs = NULL;
    subscribe(&x, &subs, "a.*.c.d.**");
    cr_assert_eq(x.nodes.n, 1);
    subscribe(&x, &subs, "a.*.c.e"); /* parts it behind c */
    cr_assert_eq(x.nodes.n, 3);
    subscribe(&x, &subs, "a.*");
    cr_assert_eq(x.nodes.n, 4);
    subscribe(&x, &subs, "a.*.cc"); /* c is no beginning of it */
    cr_assert_eq(x.nodes.n, 5);
    cr_assert_eq(matches(&x, "a.b.c.d.e"), 1);
    cr_assert_eq(matches(&x, "a.b.c.d"), 0);
    cr_assert_eq(matches(&x, "a.b.c.e"), 1);
    cr_assert_eq(matches(&x, "a.b"), 1);
    cr_assert_eq(matches(&x, "a.b.cc"), 1);
    cr_assert_eq(matches(&x, "a.b.c"), 0);
    cr_assert_null(hub_index_pattern(&x, ptn_str_of("a.*.c.d"), false));
    while (subs != NULL)
        hub_sub_remove(&x, subs);
    cr_assert_eq(x.nodes.n, 0);
    hub_index_done(&x);
}

Test(hub_index, a_list_that_nobody_came_to_use_is_released) {
    struct hub_index x = {0};
    struct hub_list *l = hub_index_pattern(&x, ptn_str_of("a.*.c"), true);
    cr_assert_not_null(l);
    hub_index_pattern_release(&x, l);
    cr_assert_eq(x.nodes.n, 0);
    hub_index_done(&x);
}

/* ---- against a reference --------------------------------------------------------------------- */

#define PATTERNS 400

struct random {
    uint64_t state;
};

static uint32_t below(struct random *r, uint32_t n) {
    r->state = r->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(r->state >> 33) % n;
}

/* Few segments, so that patterns share beginnings and part each other's nodes. */
static void random_name(struct random *r, bool pattern, char *out) {
    static const char *const segments[] = {"a", "b", "aa", "ab", "conversation", "user", "system"};
    const uint32_t depth = 1 + below(r, 6);
    size_t n = 0;
    for (uint32_t i = 0; i < depth; i++) {
        const char *s = segments[below(r, PTN_ARRAY_LEN(segments))];
        if (pattern && below(r, 3) == 0)
            s = i + 1 == depth && below(r, 2) == 0 ? "**" : "*";
        n += (size_t)snprintf(out + n, 100 - n, "%s%s", i > 0 ? "." : "", s);
    }
}

/* Subscribes and unsubscribes at random; each match finds what the pure function says. */
static void play(uint64_t seed) {
    struct random r = {seed};
    struct hub_index x = {0};
    struct hub_sub *subs[PATTERNS] = {NULL}, *all = NULL;
    static char names[PATTERNS][100];
    for (size_t i = 0; i < sizeof x.key; i++)
        x.key[i] = (uint8_t)below(&r, 256);
    for (uint32_t step = 0; step < 3000; step++) {
        const uint32_t k = below(&r, PATTERNS);
        if (subs[k] != NULL && below(&r, 4) != 0) {
            hub_sub_remove(&x, subs[k]);
            subs[k] = NULL;
        } else if (subs[k] == NULL) {
            do
                random_name(&r, true, names[k]);
            while (!ptn_pattern_has_wildcard(ptn_str_of(names[k])));
            cr_assert(ptn_pattern_is_valid(ptn_str_of(names[k])), "%s", names[k]);
            struct hub_list *l = hub_index_pattern(&x, ptn_str_of(names[k]), true);
            cr_assert_not_null(l);
            subs[k] = hub_sub_add(&x, l, NULL, &all, &slot);
            cr_assert_not_null(subs[k]);
            cr_assert_eq(hub_index_pattern(&x, ptn_str_of(names[k]), false), l);
        }
        char topic[100];
        random_name(&r, false, topic);
        uint32_t expected = 0;
        for (uint32_t i = 0; i < PATTERNS; i++)
            expected +=
                subs[i] != NULL && ptn_pattern_matches(ptn_str_of(names[i]), ptn_str_of(topic));
        cr_assert_eq(matches(&x, topic), expected, "seed %u, step %u, %s: %u, not %u",
                     (unsigned)seed, step, topic, matches(&x, topic), expected);
    }
    for (uint32_t i = 0; i < PATTERNS; i++)
        if (subs[i] != NULL && i % 2 == 0)
            hub_sub_remove(&x, subs[i]);
    hub_index_done(&x); /* and the other half */
    cr_assert_null(all);
}

Test(hub_index, random_patterns_match_as_the_pure_function_says) {
    for (uint64_t seed = 1; seed <= 20; seed++)
        play(seed);
}

Test(hub_index, topics_come_and_go) {
    enum { TOPICS = 5000 };
    struct hub_index x = {0};
    char name[32];
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < TOPICS; i++) {
            snprintf(name, sizeof name, "t.%u", i);
            cr_assert_not_null(hub_index_topic(&x, ptn_str_of(name), true));
        }
        cr_assert_eq(x.topics.n, TOPICS);
        for (uint32_t i = 0; i < TOPICS; i++) {
            snprintf(name, sizeof name, "t.%u", i * 7 % TOPICS);
            struct hub_topic *t = hub_index_topic(&x, ptn_str_of(name), false);
            cr_assert_not_null(t);
            cr_assert(hub_index_topic_release(&x, t));
            cr_assert_null(hub_index_topic(&x, ptn_str_of(name), false));
        }
        cr_assert_eq(x.topics.n, 0);
    }
    hub_index_done(&x);
}
