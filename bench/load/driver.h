/* SPDX-License-Identifier: Apache-2.0
 *
 * driver.h - what postern-bench must be able to say to a server: one `struct bench_driver` per
 * wire.
 *
 * A scenario drives any server through these calls; a driver knows nothing of scenarios. To add
 * one: write driver_NAME.c, name it in drivers.c, done. One thread; whatever cannot be helped ends
 * the program with a line that says what failed (bench_die).
 *
 * A delivery's payload begins with a stamp of BENCH_STAMP_BYTES hex digits: 16 of the time when it
 * should have been sent (ns, CLOCK_MONOTONIC), 8 of a sequence number. The rest is filler. Digits
 * and filler survive JSON unescaped.
 */
#ifndef POSTERN_BENCH_LOAD_DRIVER_H
#define POSTERN_BENCH_LOAD_DRIVER_H

#include "bench/common_ws.h"

#define BENCH_STAMP_BYTES 24u
#define BENCH_PAYLOAD_MAX 60000u

enum {
    BENCH_CAN_PUBSUB = 1 << 0,      /* subscribe, publish */
    BENCH_CAN_REQUEST = 1 << 1,     /* request: an echo, or the cheapest question it answers */
    BENCH_CAN_HTTP = 1 << 2,        /* request: GET of target->path */
    BENCH_CAN_DURABLE = 1 << 3,     /* publish with target->durable: answered when it is on disk */
    BENCH_ANSWERS_PUBLISH = 1 << 4, /* publish is always answered */
    BENCH_IS_POSTERN = 1 << 5,      /* without --address a broker of our own is measured */
};

struct bench_target {
    const char *address;      /* "127.0.0.1:40123", or what the wire calls an address */
    const char *events;       /* where deliveries come from when that is another place, or NULL */
    const char *token;        /* "": none */
    const char *topic_prefix; /* of all topics of this run; dots between segments */
    const char *path;         /* of BENCH_CAN_HTTP; where others need one they have a default */
    unsigned payload_bytes;   /* of every publish of this run, BENCH_STAMP_BYTES at least */
    bool durable;             /* publish asks for an answer that says: on disk */
    void *zmq;                /* a context, for those who speak ZeroMQ */
};

/* One connection.  It subscribes or it publishes and requests, never both. */
struct bench_link {
    const struct bench_driver *driver;
    const struct bench_target *target;
    struct bench_ws io; /* a non-blocking socket with buffers, also of wires that are no WebSocket;
                           fd -1: the wire is `zmq` */
    void *zmq;          /* a ZeroMQ socket, or NULL */
    bool closed;        /* the server has closed it; nothing more will come */
    void *user;         /* the driver's own, freed by its close() */
    uint64_t received;  /* bytes, of what is no ZeroMQ */
    uint8_t *own;       /* link.c's: the buffer of `io` while it reads into the common one */
    size_t own_cap;
};

enum bench_got {
    BENCH_NOTHING,  /* no whole message among the bytes read */
    BENCH_DELIVERY, /* of a publish; its payload begins with the stamp */
    BENCH_ANSWER,   /* to the oldest publish or request that has none yet */
    BENCH_REFUSAL,  /* the same, and the server says no; the payload is what it says */
};

struct bench_driver {
    const char *name; /* "postern-ws-json", "nats", … */
    const char *about;
    unsigned can; /* BENCH_CAN_… */
    /* Connected and logged in on return.  source: a local address, or NULL. */
    void (*open)(struct bench_link *l, const struct bench_target *t, const char *source);
    /* In force on return.  A link may have several, all made before the first delivery. */
    void (*subscribe)(struct bench_link *l, const char *topic);
    /* Both are queued; bench_link_flush() writes. */
    void (*publish)(struct bench_link *l, const char *topic, const void *payload, size_t n);
    void (*request)(struct bench_link *l, const void *payload, size_t n);
    /* The next whole message.  The view is valid until the next call for any link.  Must be quick:
     * it is the generator's inner loop (no search through the payload: its size is known).
     * Greetings and keep-alive of the wire are dealt with inside. */
    enum bench_got (*next)(struct bench_link *l, ptn_bytes *ret_payload);
    void (*close)(struct bench_link *l); /* NULL: bench_link_close() does all */
    const char *set; /* NULL, or "key=value" for a broker that is started to be measured */
};

/* Ends with NULL. */
extern const struct bench_driver *const bench_drivers[];

/* ---- link.c: for drivers ------------------------------------------------------------------- */

void bench_link_queue(struct bench_link *l, const void *p, size_t n); /* plain bytes, copied */
/* Consumes the line up to CRLF and views it without; p == NULL: not whole yet. */
ptn_bytes bench_link_line(struct bench_link *l);
/* The next whole WebSocket message among the bytes read (bench_ws_open() made the link), inflated
 * if it is compressed.  Pings are answered inside; a close marks the link closed. */
bool bench_link_ws_next(struct bench_link *l, ptn_bytes *ret_message);
/* A message that was compressed without context takeover (RFC 7692), as it was before; valid until
 * the next call.  inflate.c */
ptn_bytes bench_inflated(ptn_bytes compressed);
/* Blocks for the next message, 10 s at most; a closed link ends the program. */
enum bench_got bench_link_wait(struct bench_link *l, ptn_bytes *ret_payload);

/* ---- link.c: for scenarios ----------------------------------------------------------------- */

/* A link must not move in memory until it is closed. */
void bench_link_open(struct bench_link *l, const struct bench_driver *d,
                     const struct bench_target *t, const char *source);
void bench_link_close(struct bench_link *l);
/* Writes what is queued; true: everything.  Never waits. */
bool bench_link_flush(struct bench_link *l);
/* Reads what is there, without waiting; next() then looks at it.  False: nothing has come.  Reads
 * go to one buffer of all links, and a link keeps only the beginning of a message that is not whole
 * yet: a reader of thousands of connections stays in its cache. */
bool bench_link_read(struct bench_link *l);
/* The same, but what has come is counted in l->received and thrown away by the kernel, which saves
 * the copy (tcp(7), MSG_TRUNC).  Not for ZeroMQ, nor between the parts of a message. */
bool bench_link_discard(struct bench_link *l);
/* Bytes that all links have read, ZeroMQ's apart. */
uint64_t bench_link_received(void);
/* Readable when there may be something to read. */
int bench_link_fd(const struct bench_link *l);

/* The stamp of a payload. */
void bench_stamp(char *payload, uint64_t at_ns, uint32_t sequence);
bool bench_stamp_read(ptn_bytes payload, uint64_t *ret_at_ns, uint32_t *ret_sequence);

#endif
