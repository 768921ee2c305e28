/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_index_test.c - topics, patterns, subscriptions, matching.
 */
#include "actors/hub_index.h"

#include <criterion/criterion.h>
#include <stdio.h>

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
    cr_assert_null(x.root.children);
    cr_assert_null(x.root.star);
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
