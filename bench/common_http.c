/* SPDX-License-Identifier: Apache-2.0
 *
 * common_http.c - just enough HTTP/1.1 to talk to the broker: Content-Length responses on kept
 * connections.
 */
#include "bench/common_http.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define IN_BYTES_MAX (16u << 20)

static void reserve(uint8_t **p, size_t *cap, size_t need) {
    if (need <= *cap)
        return;
    size_t bytes = *cap == 0 ? 1024 : *cap;
    while (bytes < need)
        bytes *= 2;
    *p = realloc(*p, bytes);
    if (*p == NULL)
        bench_die("out of memory");
    *cap = bytes;
}

void bench_http_init(struct bench_http *h, const char *address) {
    *h = (struct bench_http){.fd = -1};
    (void)snprintf(h->address, sizeof h->address, "%s", address);
}

static void disconnect(struct bench_http *h) {
    if (h->fd >= 0)
        (void)close(h->fd);
    h->fd = -1;
    h->in_len = h->out_len = h->out_pos = 0;
    h->busy = false;
}

void bench_http_done(struct bench_http *h) {
    disconnect(h);
    free(h->in);
    free(h->out);
    *h = (struct bench_http){.fd = -1};
}

bool bench_http_flush(struct bench_http *h) {
    while (h->out_pos < h->out_len) {
        ssize_t n = send(h->fd, h->out + h->out_pos, h->out_len - h->out_pos, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* full, or closed: reading will tell */
        h->out_pos += (size_t)n;
    }
    return h->out_pos == h->out_len;
}

bool bench_http_send(struct bench_http *h, const char *method, const char *path, const char *token,
                     ptn_str body, uint64_t tag) {
    bool is_new = h->fd < 0;
    if (is_new)
        h->fd = bench_connect(h->address, NULL);
    reserve(&h->out, &h->out_cap, body.n + 4096);
    int n = snprintf((char *)h->out, 4096,
                     "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                     method, path, h->address, token, body.n);
    if (n < 0 || n >= 4096)
        bench_die("a request head is too long");
    if (body.n > 0)
        memcpy(h->out + n, body.p, body.n);
    h->out_pos = 0;
    h->out_len = (size_t)n + body.n;
    h->in_len = 0;
    h->busy = true;
    h->tag = tag;
    (void)bench_http_flush(h);
    return is_new;
}

/* Content-Length of a whole head, or dies. */
static size_t content_length(const char *head, size_t n) {
    static const char name[] = "content-length:";
    for (size_t at = 0; at + sizeof name < n; at++) {
        if (head[at] == '\n' && strncasecmp(head + at + 1, name, sizeof name - 1) == 0)
            return (size_t)strtoul(head + at + sizeof name, NULL, 10);
    }
    bench_die("a response without Content-Length: %.*s", (int)(n < 300 ? n : 300), head);
}

/* True when in[] holds a whole response. */
static bool parse(const struct bench_http *h, unsigned *ret_status, ptn_bytes *ret_body) {
    const uint8_t *end = h->in_len > 0 ? memmem(h->in, h->in_len, "\r\n\r\n", 4) : NULL;
    if (end == NULL)
        return false;
    size_t head = (size_t)(end - h->in) + 4;
    if (sscanf((const char *)h->in, "HTTP/1.1 %u", ret_status) != 1)
        bench_die("not an HTTP response: %.*s", (int)head, (const char *)h->in);
    size_t body = *ret_status == 204 ? 0 : content_length((const char *)h->in, head);
    *ret_body = (ptn_bytes){h->in + head, body};
    return h->in_len >= head + body;
}

int bench_http_read(struct bench_http *h, unsigned *ret_status, ptn_bytes *ret_body) {
    for (;;) {
        reserve(&h->in, &h->in_cap, h->in_len + 4097);
        if (h->in_len > IN_BYTES_MAX)
            bench_die("a response of more than %u bytes", IN_BYTES_MAX);
        ssize_t n = recv(h->fd, h->in + h->in_len, 4096, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n <= 0) {
            disconnect(h);
            return -1;
        }
        h->in_len += (size_t)n;
        h->in[h->in_len] = '\0';
        if (h->busy && parse(h, ret_status, ret_body)) {
            h->busy = false;
            return 1;
        }
    }
}

unsigned bench_http_wait(struct bench_http *h, ptn_bytes *ret_body) {
    unsigned status = 0;
    for (;;) {
        struct pollfd p = {.fd = h->fd, .events = POLLIN};
        if (!bench_http_flush(h))
            p.events |= POLLOUT;
        if (poll(&p, 1, 30000) != 1)
            bench_die("no response within 30 s");
        int r = bench_http_read(h, &status, ret_body);
        if (r < 0)
            bench_die("the server closed the connection");
        if (r > 0)
            return status;
    }
}
