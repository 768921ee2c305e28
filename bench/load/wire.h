/* SPDX-License-Identifier: Apache-2.0
 *
 * wire.h - what the drivers of other servers share: one parser per wire, over the bytes of a plain
 * socket or of a WebSocket that carries the same wire.
 *
 * A parser is a function of bytes alone, so that it can be tested alone: it keeps nothing, copies
 * nothing, and hands out views.
 */
#ifndef POSTERN_BENCH_LOAD_WIRE_H
#define POSTERN_BENCH_LOAD_WIRE_H

#include "bench/load/driver.h"

enum wire_word {
    WIRE_MORE,     /* no whole word yet; nothing is consumed */
    WIRE_SKIP,     /* says nothing to us */
    WIRE_PING,     /* wants to be answered */
    WIRE_DELIVERY, /* the payload of a publish */
    WIRE_ANSWER,
    WIRE_REFUSAL,
};

/* The next word of the wire in in[0..]: how many bytes it took, and its payload. */
typedef enum wire_word wire_parse(ptn_bytes in, size_t *ret_used, ptn_bytes *ret_payload);

wire_parse nats_parse, mqtt_parse, redis_parse, nchan_parse;

/* A word is given up, with the program, when its head is not whole within so many bytes. */
#define WIRE_HEAD_MAX 4096u
#define WIRE_PAYLOAD_MAX (16u << 20)

/* The number that begins at *at and ends before `end`; false: there is none, or it goes on.  *at
 * is moved behind `end`. */
bool wire_number(const uint8_t **at, const uint8_t *limit, char end, uint64_t *ret_value);

/* Where one message is put together before it is queued: head, payload, tail. */
struct wire_text {
    uint8_t bytes[BENCH_PAYLOAD_MAX + WIRE_HEAD_MAX];
    size_t n;
};
void wire_put(struct wire_text *t, const void *p, size_t n);
void wire_putf(struct wire_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- links ---------------------------------------------------------------------------------- */

/* The link's socket upgraded to a WebSocket, whose frames are unwrapped by wire_next().  path:
 * "/mqtt"; subprotocol: or NULL. */
void wire_upgrade(struct bench_link *l, const char *path, const char *subprotocol);
/* Queues a whole message of the wire: plain, or in a binary frame. */
void wire_queue(struct bench_link *l, const void *p, size_t n);
/* Queues and waits for the answer; a refusal ends the program. */
void wire_ask(struct bench_link *l, const void *p, size_t n);
/* A driver's next(); pong: what answers WIRE_PING. */
enum bench_got wire_next(struct bench_link *l, wire_parse *parse, const char *pong,
                         ptn_bytes *ret_payload);
/* A driver's close(); link.c closes the socket. */
void wire_close(struct bench_link *l);

#endif
