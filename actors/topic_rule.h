/* SPDX-License-Identifier: Apache-2.0
 *
 * topic_rule.h - which topics are durable, and how much of each is kept.
 */
#ifndef POSTERN_ACTORS_TOPIC_RULE_H
#define POSTERN_ACTORS_TOPIC_RULE_H

#include <postern/messages.h>

struct topic_rule { /* 0: without that limit */
    ptn_str pattern;
    uint64_t age_ms, bytes, events;
};

/* The first that matches counts.  NULL: none, the topic lives in memory. */
static inline const struct topic_rule *topic_rule_of(const struct topic_rule *rules, size_t n,
                                                     ptn_str topic) {
    for (size_t i = 0; i < n; i++)
        if (ptn_pattern_matches(rules[i].pattern, topic))
            return &rules[i];
    return NULL;
}

#endif
