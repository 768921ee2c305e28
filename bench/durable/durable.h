/* SPDX-License-Identifier: Apache-2.0
 *
 * durable.h - the parts of postern-durable: one load loop, and what each server wants to hear.
 */
#ifndef POSTERN_BENCH_DURABLE_H
#define POSTERN_BENCH_DURABLE_H

#include "bench/common_ws.h"

#include <zmq.h>

#define DURABLE_WINDOW_MAX 1024u
#define DURABLE_CONNS_MAX 16u

enum peer { PEER_WS_MSGPACK, PEER_WS_JSON, PEER_ZMQ, PEER_NATS, PEER_REDIS, PEERS };

struct durable_options {
    enum peer peer;
    const char *address, *token, *topic, *conversation, *dir;
    unsigned connections, in_flight, bytes;
    double seconds;
    uint64_t count;
};

/* One connection and what is on its way; acknowledgements come in the order of the appends. */
struct durable_conn {
    const struct durable_options *o;
    struct bench_ws ws; /* of NATS and Redis too: as two plain buffers around a socket */
    void *zmq;          /* DEALER */
    char inbox[48];     /* of NATS: where acknowledgements go */
    uint8_t body[4096]; /* an append without what differs from one to the next */
    size_t body_bytes;
    uint64_t sent, acked;
    uint64_t at_ns[DURABLE_WINDOW_MAX]; /* when each of those in flight was sent */
};

extern const char *const durable_peer_names[PEERS];

void durable_open(struct durable_conn *c, const struct durable_options *o, void *zmq_context);
void durable_close(struct durable_conn *c);
void durable_append(struct durable_conn *c); /* queues one */
void durable_flush(struct durable_conn *c);
/* Reads what is there; returns how many appends were acknowledged.  A refusal ends the program. */
size_t durable_acks(struct durable_conn *c);

/* Each prints one JSON object. */
void durable_load(const struct durable_options *o);
void durable_fill(const struct durable_options *o);
void durable_backlog(const struct durable_options *o);
void durable_sqlite(const struct durable_options *o);
void durable_fsync(const struct durable_options *o);
void durable_chain(const struct durable_options *o);

/* A file as SQLite's log is once it was checkpointed: written before, to be overwritten from the
 * start, by a page and the head of its frame at a time. */
#define DURABLE_PAGE_BYTES (4096 + 24)
#define DURABLE_PAGES 1000
int durable_log(const char *dir);
void durable_log_close(int fd, const char *dir);
void durable_print_syncs(struct bench_sample *s); /* and frees them */

#endif
