/* SPDX-License-Identifier: Apache-2.0
 *
 * common_proof.h - the delivery contract, checked: every subscriber gets every message exactly
 * once, in one order.
 *
 * The first one to tell at which position a message stands, be it the publisher's acknowledgement
 * or a delivery, settles it; everybody else has to agree.  Each function returns NULL, or a text
 * that says what is wrong, valid until the next call.
 */
#ifndef POSTERN_BENCH_COMMON_PROOF_H
#define POSTERN_BENCH_COMMON_PROOF_H

#include "bench/common.h"

struct proof_stream {
    uint32_t n;      /* messages that it will hold */
    uint32_t *order; /* by position - 1: message + 1; 0: not known yet */
};

struct proof {
    struct proof_stream *streams;
    size_t n_streams, n_messages, n_subscribers;
    uint32_t *positions; /* by message; 0: not known yet */
    uint32_t *seen;      /* [subscriber][stream]: last position delivered */
    char why[256];
};

/* counts[i]: messages of stream i. */
void proof_init(struct proof *p, const uint32_t *counts, size_t n_streams, size_t n_messages,
                size_t n_subscribers);
void proof_done(struct proof *p);

const char *proof_acknowledged(struct proof *p, uint32_t stream, uint64_t position,
                               uint32_t message);
const char *proof_delivered(struct proof *p, uint32_t subscriber, uint32_t stream,
                            uint64_t position, uint32_t message);
/* Names the first subscriber that lacks something. */
const char *proof_complete(struct proof *p);

#endif
