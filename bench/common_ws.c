/* SPDX-License-Identifier: Apache-2.0
 *
 * common_ws.c - a minimal WebSocket client (RFC 6455): unfragmented messages, masked with a zero
 * key.
 */
#include "bench/common_ws.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXTENSIONS "Sec-WebSocket-Extensions"
#define READ_BYTES 65536

static void wait_for(int fd, short events) {
    struct pollfd p = {.fd = fd, .events = events};
    if (poll(&p, 1, 10000) != 1)
        bench_die("the server did not answer within 10 s");
}

static void reserve(uint8_t **p, size_t *cap, size_t need) {
    if (need <= *cap)
        return;
    size_t bytes = *cap == 0 ? 512 : *cap;
    while (bytes < need)
        bytes *= 2;
    *p = realloc(*p, bytes);
    if (*p == NULL)
        bench_die("out of memory");
    *cap = bytes;
}

void bench_ws_upgrade(struct bench_ws *w, const char *request, size_t n) {
    if (send(w->fd, request, n, MSG_NOSIGNAL) != (ssize_t)n)
        bench_die("send: %s", strerror(errno));
    const uint8_t *end = NULL;
    while (end == NULL) {
        wait_for(w->fd, POLLIN);
        if (!bench_ws_read(w))
            bench_die("the server closed during the upgrade");
        end = memmem(w->in, w->in_len, "\r\n\r\n", 4);
    }
    if (w->in_len < 12 || memcmp(w->in, "HTTP/1.1 101", 12) != 0)
        bench_die("no upgrade: %.*s", (int)(w->in_len < 300 ? w->in_len : 300), w->in);
    if (memmem(request, n, EXTENSIONS, sizeof EXTENSIONS - 1) != NULL &&
        memmem(w->in, (size_t)(end - w->in), EXTENSIONS, sizeof EXTENSIONS - 1) == NULL)
        bench_die("the server does not take the extension");
    w->in_pos = (size_t)(end - w->in) + 4;
}

void bench_ws_open_offering(struct bench_ws *w, const char *address, const char *source,
                            const char *token, const char *subprotocol, const char *extensions) {
    char request[4096];
    *w = (struct bench_ws){.fd = bench_connect(address, source)};
    int n = snprintf(request, sizeof request,
                     "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                     "Authorization: Bearer %s\r\n%s%s%s%s%s%s\r\n",
                     address, token, subprotocol != NULL ? "Sec-WebSocket-Protocol: " : "",
                     subprotocol != NULL ? subprotocol : "", subprotocol != NULL ? "\r\n" : "",
                     extensions != NULL ? EXTENSIONS ": " : "",
                     extensions != NULL ? extensions : "", extensions != NULL ? "\r\n" : "");
    bench_ws_upgrade(w, request, (size_t)n);
}

void bench_ws_open(struct bench_ws *w, const char *address, const char *source, const char *token,
                   const char *subprotocol) {
    bench_ws_open_offering(w, address, source, token, subprotocol, NULL);
}

void bench_ws_close(struct bench_ws *w) {
    close(w->fd);
    free(w->in);
    free(w->out);
    *w = (struct bench_ws){.fd = -1};
}

bool bench_ws_flush(struct bench_ws *w) {
    size_t done = 0;
    while (done < w->out_len) {
        ssize_t n = send(w->fd, w->out + done, w->out_len - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            bench_die("send: %s", strerror(errno));
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (w->out_len > done && done > 0)
        memmove(w->out, w->out + done, w->out_len - done);
    w->out_len -= done;
    return w->out_len == 0;
}

void bench_ws_queue(struct bench_ws *w, unsigned opcode, const void *p, size_t n) {
    reserve(&w->out, &w->out_cap, w->out_len + n + 14);
    uint8_t *o = w->out + w->out_len;
    *o++ = (uint8_t)(0x80 | opcode);
    if (n < 126) {
        *o++ = (uint8_t)(0x80 | n);
    } else if (n < 65536) {
        *o++ = 0x80 | 126;
        *o++ = (uint8_t)(n >> 8);
        *o++ = (uint8_t)n;
    } else {
        *o++ = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            *o++ = (uint8_t)((uint64_t)n >> shift);
    }
    memset(o, 0, 4); /* a mask of zero: the bytes stay as they are */
    memcpy(o + 4, p, n);
    w->out_len = (size_t)(o + 4 - w->out) + n;
}

void bench_ws_send(struct bench_ws *w, unsigned opcode, const void *p, size_t n) {
    bench_ws_queue(w, opcode, p, n);
    bench_ws_flush(w);
}

bool bench_ws_read(struct bench_ws *w) {
    if (w->in_pos > 0) {
        memmove(w->in, w->in + w->in_pos, w->in_len - w->in_pos);
        w->in_len -= w->in_pos;
        w->in_pos = 0;
    }
    /* Idle clients hold little: the buffer grows with what comes. */
    reserve(&w->in, &w->in_cap, w->in_len + 512);
    size_t room = w->in_cap - w->in_len;
    ssize_t n = recv(w->fd, w->in + w->in_len, room, 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    w->in_len += (size_t)n;
    if ((size_t)n == room && w->in_cap < READ_BYTES)
        reserve(&w->in, &w->in_cap, w->in_cap * 2);
    return n > 0;
}

bool bench_ws_next(struct bench_ws *w, ptn_bytes *ret_message) {
    for (;;) {
        const uint8_t *p = w->in + w->in_pos;
        size_t have = w->in_len - w->in_pos, head = 2;
        if (have < 2)
            return false;
        uint64_t n = p[1] & 0x7f;
        if (n == 126)
            head = 4;
        else if (n == 127)
            head = 10;
        if (have < head)
            return false;
        if (head > 2) {
            n = 0;
            for (size_t i = 2; i < head; i++)
                n = n << 8 | p[i];
        }
        if (have - head < n)
            return false;
        w->in_pos += head + n;
        unsigned opcode = p[0] & 15;
        if (opcode == 9)
            bench_ws_send(w, 10, p + head, n);
        else if (opcode == 8)
            bench_die("the server closed the WebSocket: %.*s", (int)(n > 2 ? n - 2 : 0),
                      p + head + 2);
        else if (opcode != 10) {
            *ret_message = (ptn_bytes){p + head, n};
            return true;
        }
    }
}

ptn_bytes bench_ws_wait(struct bench_ws *w) {
    ptn_bytes m;
    while (!bench_ws_next(w, &m)) {
        wait_for(w->fd, POLLIN);
        if (!bench_ws_read(w))
            bench_die("the server closed the connection");
    }
    return m;
}
