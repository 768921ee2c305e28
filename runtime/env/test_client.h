/* SPDX-License-Identifier: Apache-2.0
 *
 * test_client.h - blocking client sockets for the tests of the environment and of the streams.
 *
 * Every wait is bounded by CLIENT_TIMEOUT_S; a call that runs into it fails, and with it the test.
 */
#ifndef POSTERN_RUNTIME_ENV_TEST_CLIENT_H
#define POSTERN_RUNTIME_ENV_TEST_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef CLIENT_TIMEOUT_S /* shorter where a failing allocation makes waiting hopeless */
#define CLIENT_TIMEOUT_S 20
#endif
#ifndef CLIENT_WAITED_IN_VAIN /* neither an answer came nor the end of the connection */
#define CLIENT_WAITED_IN_VAIN() ((void)0)
#endif

/* address as ptn_endpoint_address() writes it; rcvbuf_bytes 0: the system's.  The descriptor, or
 * -errno. */
static inline int client_connect_with(const char *address, int rcvbuf_bytes) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    struct sockaddr *to = (struct sockaddr *)&v4;
    socklen_t n = sizeof v4;
    const char *colon = strrchr(address, ':');
    if (strncmp(address, "unix:", 5) == 0) {
        snprintf(un.sun_path, sizeof un.sun_path, "%s", address + 5);
        to = (struct sockaddr *)&un;
        n = sizeof un;
    } else if (address[0] == '[') {
        inet_pton(AF_INET6, "::1", &v6.sin6_addr);
        v6.sin6_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
        to = (struct sockaddr *)&v6;
        n = sizeof v6;
    } else {
        inet_pton(AF_INET, "127.0.0.1", &v4.sin_addr);
        v4.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    }
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = CLIENT_TIMEOUT_S};
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (rcvbuf_bytes != 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf_bytes, sizeof rcvbuf_bytes);
    if (connect(fd, to, n) != 0) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd;
}

static inline int client_connect(const char *address) {
    return client_connect_with(address, 0);
}

static inline int client_send(int fd, const void *p, size_t n) {
    const char *at = p;
    while (n > 0) {
        ssize_t sent = send(fd, at, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return -errno;
        at += sent;
        n -= (size_t)sent;
    }
    return 0;
}

/* Bytes read before n were there, EOF came or something failed. */
static inline size_t client_recv(int fd, void *p, size_t n) {
    size_t got = 0;
    while (got < n) {
        ssize_t r = recv(fd, (char *)p + got, n - got, 0);
        if (r < 0 && errno == EAGAIN)
            CLIENT_WAITED_IN_VAIN();
        if (r <= 0)
            break;
        got += (size_t)r;
    }
    return got;
}

/* True when the next thing to read is the end: EOF, or a reset. */
static inline int client_is_at_end(int fd) {
    char byte;
    ssize_t r = recv(fd, &byte, 1, 0);
    if (r < 0 && errno == EAGAIN)
        CLIENT_WAITED_IN_VAIN();
    return r == 0 || (r < 0 && errno == ECONNRESET);
}

/* A unix address in a directory of its own; at the end the socket has to be gone.  0 or -errno. */
struct client_unix {
    char dir[32], address[48];
};

static inline int client_unix_open(struct client_unix *u) {
    snprintf(u->dir, sizeof u->dir, "/tmp/postern-unix-XXXXXX");
    if (mkdtemp(u->dir) == NULL)
        return -errno;
    snprintf(u->address, sizeof u->address, "unix:%s/s", u->dir);
    return 0;
}

static inline int client_unix_close(const struct client_unix *u) {
    return rmdir(u->dir) == 0 ? 0 : -errno;
}

/* Closes with a reset. */
static inline void client_reset(int fd) {
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

#endif
