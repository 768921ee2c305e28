/* SPDX-License-Identifier: Apache-2.0
 *
 * common_ws.h - the WebSocket client of the bundled tools: small, single-threaded, non-blocking
 * after the handshake.  Not a general client: it trusts the server it measures and dies on a
 * protocol error.
 */
#ifndef POSTERN_BENCH_COMMON_WS_H
#define POSTERN_BENCH_COMMON_WS_H

#include "bench/common.h"

struct bench_ws {
    int fd;
    uint8_t *in; /* in[in_pos..in_len) is not consumed yet */
    size_t in_pos, in_len, in_cap;
    uint8_t *out; /* bytes the kernel has not taken yet */
    size_t out_len, out_cap;
};

/* Connects, upgrades to subprotocol (NULL: none) with a bearer token, and returns when 101 has
 * arrived. */
void bench_ws_open(struct bench_ws *w, const char *address, const char *source, const char *token,
                   const char *subprotocol);
/* The same on a socket that is connected, with a request of the caller's own; an extension that it
 * offers must be taken. */
void bench_ws_upgrade(struct bench_ws *w, const char *request, size_t n);
/* The same with an offer of extensions, which must be taken.  Compressed messages come as they are.
 */
void bench_ws_open_offering(struct bench_ws *w, const char *address, const char *source,
                            const char *token, const char *subprotocol, const char *extensions);
void bench_ws_close(struct bench_ws *w);
/* Queues one masked message (opcode 1 text, 2 binary); bench_ws_flush() writes. */
void bench_ws_queue(struct bench_ws *w, unsigned opcode, const void *p, size_t n);
/* Queues it and writes what the kernel takes. */
void bench_ws_send(struct bench_ws *w, unsigned opcode, const void *p, size_t n);
bool bench_ws_flush(struct bench_ws *w); /* true: everything is written */
/* Reads what is there.  False: the server closed. */
bool bench_ws_read(struct bench_ws *w);
/* The next whole message in the buffer, or false.  The view is valid until the next
 * bench_ws_read().  Pings are answered inside. */
bool bench_ws_next(struct bench_ws *w, ptn_bytes *ret_message);
/* Blocks for one message, 10 s at most. */
ptn_bytes bench_ws_wait(struct bench_ws *w);

#endif
