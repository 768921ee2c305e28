/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_prefix_test.c - the set of prefixes: matching, and staying right when it is full.
 */
#include "protocols/zmq/zmq_prefix.h"

#include <criterion/criterion.h>
#include <stdio.h>

static ptn_bytes bytes_of(const char *z) {
    return (ptn_bytes){(const uint8_t *)z, strlen(z)};
}

static bool match(const zmq_gw_prefixes *s, const char *topic) {
    return zmq_gw_prefixes_match(s, ptn_str_of(topic));
}

Test(zmq_prefix, matches_starts_of_topics) {
    zmq_gw_prefixes s;
    cr_assert_eq(zmq_gw_prefixes_init(&s, 16, 42), 0);
    cr_expect(zmq_gw_prefixes_is_empty(&s));
    cr_expect_not(match(&s, "a"));
    zmq_gw_prefixes_add(&s, bytes_of("sensors."));
    zmq_gw_prefixes_add(&s, bytes_of("news"));
    zmq_gw_prefixes_add(&s, bytes_of("news"));
    cr_expect(match(&s, "sensors.kitchen"));
    cr_expect(match(&s, "news"));
    cr_expect(match(&s, "newsletter"));
    cr_expect_not(match(&s, "new"));
    cr_expect_not(match(&s, "sensor.kitchen"));
    zmq_gw_prefixes_remove(&s, bytes_of("news"));
    cr_expect_not(match(&s, "newsletter"));
    zmq_gw_prefixes_add(&s, bytes_of(""));
    cr_expect(match(&s, "anything"));
    zmq_gw_prefixes_remove(&s, bytes_of(""));
    zmq_gw_prefixes_remove(&s, bytes_of("sensors."));
    zmq_gw_prefixes_remove(&s, bytes_of("never there"));
    cr_expect(zmq_gw_prefixes_is_empty(&s));
    zmq_gw_prefixes_done(&s);
}

Test(zmq_prefix, full_set_says_perhaps_and_recovers) {
    zmq_gw_prefixes s;
    cr_assert_eq(zmq_gw_prefixes_init(&s, 100, 7), 0);
    char z[16];
    for (int i = 0; i < 103; i++) {
        (void)snprintf(z, sizeof(z), "p%03d.", i);
        zmq_gw_prefixes_add(&s, bytes_of(z));
    }
    cr_expect_eq(s.n, 100);
    cr_expect(match(&s, "p102.x"), "an untracked prefix is not lost");
    for (int i = 100; i < 103; i++) {
        (void)snprintf(z, sizeof(z), "p%03d.", i);
        zmq_gw_prefixes_remove(&s, bytes_of(z));
    }
    cr_expect_not(match(&s, "p102.x"));
    for (int i = 0; i < 100; i++) {
        (void)snprintf(z, sizeof(z), "p%03d.x", i);
        cr_expect(match(&s, z));
        z[5] = '\0';
        zmq_gw_prefixes_remove(&s, bytes_of(z));
    }
    cr_expect(zmq_gw_prefixes_is_empty(&s));
    zmq_gw_prefixes_done(&s);
}

Test(zmq_prefix, longest_topic_and_too_long_prefix) {
    zmq_gw_prefixes s;
    cr_assert_eq(zmq_gw_prefixes_init(&s, 4, 1), 0);
    char topic[257];
    memset(topic, 'x', sizeof(topic));
    zmq_gw_prefixes_add(&s, (ptn_bytes){(uint8_t *)topic, 256});
    cr_expect(zmq_gw_prefixes_is_empty(&s), "longer than any topic");
    zmq_gw_prefixes_add(&s, (ptn_bytes){(uint8_t *)topic, 255});
    cr_expect(zmq_gw_prefixes_match(&s, (ptn_str){topic, 255}));
    cr_expect_not(zmq_gw_prefixes_match(&s, (ptn_str){topic, 254}));
    zmq_gw_prefixes_done(&s);
}
