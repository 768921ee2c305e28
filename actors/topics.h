/* SPDX-License-Identifier: Apache-2.0
 *
 * topics.h - the topics actor: one shard owns the order and the recent history of its topics.
 */
#ifndef POSTERN_ACTORS_TOPICS_H
#define POSTERN_ACTORS_TOPICS_H

#include "actors/topic_rule.h"

struct topics_config { /* arg of the actor; 0: the default in the comment */
    const ptn_directory *directory;
    unsigned shard;
    uint32_t topics_max;            /* topics with state in memory: 65,536 */
    uint32_t history_events_max;    /* of one topic: 128 */
    uint32_t history_bytes_max;     /* of one topic: 256 KiB */
    uint64_t history_total_bytes;   /* of the shard: 32 MiB */
    const struct topic_rule *rules; /* the first that matches counts; outlive the actor */
    size_t n_rules;
    uint32_t ids_max;     /* of publications, remembered by the shard: 65,536 */
    ptn_time ids_ns;      /* and for how long: 10 min */
    uint32_t waiting_max; /* calls that wait for durable topics to open: 16,384 */
    uint8_t id_key[32];   /* secret, for hashing ids and names */
};

extern const ptn_actor_ops topics_actor;

#endif
