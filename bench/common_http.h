/* SPDX-License-Identifier: Apache-2.0
 *
 * common_http.h - the HTTP/1.1 client of the bundled tools: keep-alive, one request at a time,
 * non-blocking. It trusts the server it measures and dies on a protocol error.
 */
#ifndef POSTERN_BENCH_COMMON_HTTP_H
#define POSTERN_BENCH_COMMON_HTTP_H

#include "bench/common.h"

struct bench_http {
    int fd; /* -1: not connected */
    char address[128];
    uint8_t *in, *out;
    size_t in_len, in_cap;
    size_t out_pos, out_len, out_cap;
    bool busy;    /* a request waits for its response */
    uint64_t tag; /* the caller's, of that request */
};

/* Remembers the address; connects with the first request. */
void bench_http_init(struct bench_http *h, const char *address);
void bench_http_done(struct bench_http *h);
/* Sends a JSON request; body may be empty.  The connection must not be busy.  True: h->fd is new
 * and wants to be watched. */
bool bench_http_send(struct bench_http *h, const char *method, const char *path, const char *token,
                     ptn_str body, uint64_t tag);
bool bench_http_flush(struct bench_http *h); /* true: everything is written */
/* Reads what is there.  1: the response is whole, its body valid until the next call, and the
 * connection idle; 0: not yet; -1: the server closed before it answered, and h->fd is -1. */
int bench_http_read(struct bench_http *h, unsigned *ret_status, ptn_bytes *ret_body);
/* Blocks for the response, 30 s at most; returns the status. */
unsigned bench_http_wait(struct bench_http *h, ptn_bytes *ret_body);

#endif
