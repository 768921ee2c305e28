/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_prefix.h - the topic prefixes that the subscribers of one XPUB socket asked for, as a bounded
 * set.
 *
 * libzmq filters per subscriber anyway; this set only tells, before anything is encoded, whether
 * somebody wants an event at all.  When it is full it answers "perhaps", never a wrong "no".  One
 * thread.
 */
#ifndef POSTERN_PROTOCOLS_ZMQ_PREFIX_H
#define POSTERN_PROTOCOLS_ZMQ_PREFIX_H

#include <postern/base.h>

#define ZMQ_GW_PREFIX_BYTES_MAX 255u /* a longer one cannot match any topic */

struct zmq_gw_prefix;

typedef struct zmq_gw_prefixes {
    struct zmq_gw_prefix **buckets;
    uint32_t n_buckets; /* power of two */
    uint32_t n, n_max;
    uint32_t n_untracked;                              /* subscriptions that found the set full */
    uint64_t seed;                                     /* against chosen collisions */
    uint32_t n_of_length[ZMQ_GW_PREFIX_BYTES_MAX + 1]; /* which lengths to try for a topic */
} zmq_gw_prefixes;

/* -PTN_ENOMEM; n_max >= 1. */
int zmq_gw_prefixes_init(zmq_gw_prefixes *s, uint32_t n_max, uint64_t seed);
void zmq_gw_prefixes_done(zmq_gw_prefixes *s);

/* XPUB reports each prefix once when its first subscriber comes and once when the last goes. */
void zmq_gw_prefixes_add(zmq_gw_prefixes *s, ptn_bytes prefix);
void zmq_gw_prefixes_remove(zmq_gw_prefixes *s, ptn_bytes prefix);

bool zmq_gw_prefixes_is_empty(const zmq_gw_prefixes *s);
/* False only when no subscribed prefix starts this topic. */
bool zmq_gw_prefixes_match(const zmq_gw_prefixes *s, ptn_str topic);

/* FNV-1a over the bytes, started from a secret seed: for tables whose keys peers choose. */
uint64_t zmq_gw_hash(uint64_t seed, const void *p, size_t n);

#endif
