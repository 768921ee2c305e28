/* SPDX-License-Identifier: Apache-2.0
 *
 * chain.c - what one durable append at a time costs a server that does nothing else: a request over
 * TCP, a thread that sleeps until it comes, another that writes and syncs, and the way back.  The
 * client waits awake, as in load.c.  A server that commits off its event loop cannot be faster.
 */
#include "bench/durable/durable.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct chain {
    int disk, socket; /* the file, and the server's end of the connection */
    int work, done;   /* eventfds: to the disk's thread, and back */
};

/* A system call of a chain that is set up on purpose: it works, or the reading is worth nothing. */
static ssize_t must(ssize_t r) {
    if (r < 0)
        bench_die("chain: %s", strerror(errno));
    return r;
}

/* Both end when the other side's descriptor says so: the client's by the end of the connection. */
static void *serve(void *of) {
    struct chain *c = of;
    uint64_t turn = 1;
    char frame[256];
    struct pollfd fds[2] = {{.fd = c->socket, .events = POLLIN}, {.fd = c->done, .events = POLLIN}};
    for (;;) {
        must(poll(fds, 2, -1));
        if (fds[1].revents != 0) {
            must(read(c->done, &turn, sizeof turn));
            must(send(c->socket, frame, 64, MSG_NOSIGNAL));
        }
        if (fds[0].revents == 0)
            continue;
        const bool more = must(recv(c->socket, frame, sizeof frame, 0)) > 0;
        turn = more ? 1 : 2; /* 2 tells the disk's thread to end */
        must(write(c->work, &turn, sizeof turn));
        if (!more)
            return NULL;
    }
}

static void *commit(void *of) {
    static const char page[DURABLE_PAGE_BYTES];
    struct chain *c = of;
    uint64_t turn;
    for (off_t i = 0;; i++) {
        must(read(c->work, &turn, sizeof turn));
        if (turn != 1)
            return NULL;
        must(pwrite(c->disk, page, sizeof page, i % DURABLE_PAGES * (off_t)sizeof page));
        must(fdatasync(c->disk));
        must(write(c->done, &turn, sizeof turn));
    }
}

/* A connection over loopback; returns the client's end. */
static int connected(int *ret_server) {
    const int on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    const int listener = (int)must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    must(bind(listener, (struct sockaddr *)&a, sizeof a));
    must(listen(listener, 1));
    must(getsockname(listener, (struct sockaddr *)&a, &n));
    const int client = (int)must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    must(connect(client, (struct sockaddr *)&a, sizeof a));
    *ret_server = (int)must(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    (void)close(listener);
    must(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    must(setsockopt(*ret_server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    return client;
}

void durable_chain(const struct durable_options *o) {
    struct chain c = {.disk = durable_log(o->dir)};
    struct bench_sample s = {0};
    pthread_t server, disk;
    char frame[256] = {0};
    const int client = connected(&c.socket);
    c.work = (int)must(eventfd(0, EFD_CLOEXEC));
    c.done = (int)must(eventfd(0, EFD_CLOEXEC));
    if (pthread_create(&server, NULL, serve, &c) != 0 ||
        pthread_create(&disk, NULL, commit, &c) != 0)
        bench_die("chain: no threads");
    const uint64_t until = bench_now_ns() + (uint64_t)(o->seconds * 1e9);
    for (uint64_t start; (start = bench_now_ns()) < until;) {
        must(send(client, frame, sizeof frame, 0));
        while (recv(client, frame, sizeof frame, MSG_DONTWAIT) < 0)
            if (errno != EAGAIN)
                bench_die("chain: %s", strerror(errno));
        bench_sample_add(&s, bench_now_ns() - start);
    }
    must(shutdown(client, SHUT_WR));
    (void)pthread_join(server, NULL);
    (void)pthread_join(disk, NULL);
    durable_print_syncs(&s);
    (void)close(client);
    (void)close(c.socket);
    (void)close(c.work);
    (void)close(c.done);
    durable_log_close(c.disk, o->dir);
}
