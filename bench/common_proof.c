/* SPDX-License-Identifier: Apache-2.0
 *
 * common_proof.c - who has seen what, at which position.
 *
 * A subscriber may only move from a position to the next one, so it sees none twice and misses none
 * in the middle; a message has one position and a position one message, so the order is the same
 * for all.
 */
#include "bench/common_proof.h"

#include <stdarg.h>
#include <stdlib.h>

static void *zeroed(size_t n, size_t bytes) {
    void *p = calloc(n > 0 ? n : 1, bytes);
    if (p == NULL)
        bench_die("out of memory");
    return p;
}

void proof_init(struct proof *p, const uint32_t *counts, size_t n_streams, size_t n_messages,
                size_t n_subscribers) {
    *p = (struct proof){
        .n_streams = n_streams, .n_messages = n_messages, .n_subscribers = n_subscribers};
    p->streams = zeroed(n_streams, sizeof *p->streams);
    for (size_t i = 0; i < n_streams; i++) {
        p->streams[i].n = counts[i];
        p->streams[i].order = zeroed(counts[i], sizeof(uint32_t));
    }
    p->positions = zeroed(n_messages, sizeof *p->positions);
    p->seen = zeroed(n_subscribers * n_streams, sizeof *p->seen);
}

void proof_done(struct proof *p) {
    for (size_t i = 0; i < p->n_streams; i++)
        free(p->streams[i].order);
    free(p->streams);
    free(p->positions);
    free(p->seen);
    *p = (struct proof){0};
}

__attribute__((format(printf, 2, 3))) static const char *wrong(struct proof *p, const char *fmt,
                                                               ...) {
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(p->why, sizeof p->why, fmt, ap);
    va_end(ap);
    return p->why;
}

const char *proof_acknowledged(struct proof *p, uint32_t stream, uint64_t position,
                               uint32_t message) {
    if (stream >= p->n_streams || message >= p->n_messages)
        return wrong(p, "unknown stream %u or message %u", stream, message);
    struct proof_stream *s = &p->streams[stream];
    if (position == 0 || position > s->n)
        return wrong(p, "stream %u: position %llu of message %u is outside 1..%u", stream,
                     (unsigned long long)position, message, s->n);
    uint32_t *at = &s->order[position - 1];
    if (*at == 0 && p->positions[message] == 0) {
        *at = message + 1;
        p->positions[message] = (uint32_t)position;
    }
    if (*at != message + 1 || p->positions[message] != position)
        return wrong(p,
                     "stream %u: position %llu is message %d for one and message %u (position %u) "
                     "for another",
                     stream, (unsigned long long)position, (int)*at - 1, message,
                     p->positions[message]);
    return NULL;
}

const char *proof_delivered(struct proof *p, uint32_t subscriber, uint32_t stream,
                            uint64_t position, uint32_t message) {
    if (subscriber >= p->n_subscribers || stream >= p->n_streams)
        return wrong(p, "unknown subscriber %u or stream %u", subscriber, stream);
    uint32_t *seen = &p->seen[subscriber * p->n_streams + stream];
    if (position != (uint64_t)*seen + 1)
        return wrong(p, "subscriber %u, stream %u: position %llu came after %u (%s)", subscriber,
                     stream, (unsigned long long)position, *seen,
                     position <= *seen ? "twice, or out of order" : "a hole");
    *seen = (uint32_t)position;
    return proof_acknowledged(p, stream, position, message);
}

const char *proof_complete(struct proof *p) {
    for (size_t i = 0; i < p->n_subscribers; i++)
        for (size_t k = 0; k < p->n_streams; k++) {
            uint32_t seen = p->seen[i * p->n_streams + k];
            if (seen != p->streams[k].n)
                return wrong(p, "subscriber %zu, stream %zu: %u of %u messages", i, k, seen,
                             p->streams[k].n);
        }
    return NULL;
}
