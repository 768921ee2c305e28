/* SPDX-License-Identifier: Apache-2.0
 *
 * env_uv_net.c - listeners and transports: our own non-blocking descriptors, polled by libuv.
 *
 * uv_poll_t and not uv_tcp_t: a flush is then one sendmsg() and nothing else, an idle connection
 * has no read buffer, and whether a socket can be written is our knowledge.
 *
 * Changing what a descriptor is polled for costs two system calls, so interest grows at once and
 * shrinks lazily: an event nobody wants any more is what removes it.  A machine that stops reading
 * for the time of one answer, or a queue that fills and drains again, changes nothing in the
 * kernel.
 *
 * A transport that does not read is still polled for UV_DISCONNECT.  A FIN on it is level-triggered
 * and not to be reported before the bytes ahead of it, so it is remembered (`fin_seen`) and the
 * descriptor is polled for errors alone: that is UV_PRIORITIZED, because libuv does not register an
 * empty set.
 *
 * All sockets that have something are read before what they had is handled, at the beginning of the
 * turn: small reads of several lie side by side in the worker's buffer.  The kernel's way and ours
 * do not fit into the first cache together, so going each of them many times in a row is cheaper
 * than in turns.  Larger reads are handled at once, while they are in the cache themselves.
 *
 * Callbacks may close anything.  A closed transport stays allocated until libuv's close callback,
 * which runs after the poll phase, so `closing` may be read after every callback.
 */
#include "runtime/env/env_uv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define READS_PER_EVENT 4     /* then the others have their turn */
#define READ_AHEAD_BYTES 8192 /* in the buffer, before they are handled */
#define ACCEPTS_PER_EVENT 64  /* likewise */
#define ACCEPT_PAUSE_MS 100   /* when accepting fails for a reason that does not pass at once */

_Static_assert(sizeof(ptn_iov) == sizeof(struct iovec) &&
                   offsetof(ptn_iov, base) == offsetof(struct iovec, iov_base) &&
                   offsetof(ptn_iov, len) == offsetof(struct iovec, iov_len),
               "ptn_iov is struct iovec");

struct ptn_transport {
    struct ptn__uv_thing thing;
    int fd;         /* -1: closed */
    uint8_t polled; /* events registered with libuv */
    bool closing;
    bool read_on;
    bool write_wanted;
    bool failed;   /* on_error was called */
    bool fin_seen; /* the peer's FIN is waiting behind unread bytes */
    bool eof_seen; /* and was reported */
    bool held;     /* bytes of it are in the worker's buffer */
    const ptn_transport_cbs *cbs;
    void *owner;
    struct ptn__uv_worker *w;
    uv_poll_t poll;
};

struct ptn_env_listener {
    struct ptn__uv_thing thing;
    int fd;
    bool closing;
    uint8_t open_handles;
    void (*on_accept)(void *owner, ptn_transport *t);
    void *owner;
    struct ptn__uv_worker *w;
    struct ptn__uv_path *path;
    uv_poll_t poll;
    uv_timer_t pause;
};

/* ---- transports --------------------------------------------------------------------------- */

static void transport_callback(uv_poll_t *h, int status, int events);

static void transport_closed_callback(uv_handle_t *h) {
    free(h->data);
}

/* What must be polled for now. */
static int transport_interest(const ptn_transport *t) {
    int events = t->write_wanted ? UV_WRITABLE : 0;
    if (t->read_on && !t->eof_seen)
        events |= UV_READABLE;
    else if (!t->fin_seen && !t->eof_seen)
        events |= UV_DISCONNECT;
    return events != 0 ? events : UV_PRIORITIZED;
}

static void transport_poll(ptn_transport *t, int events) {
    if (t->polled == events)
        return;
    t->polled = (uint8_t)events;
    /* Fails only for a descriptor that is not ours: a bug. */
    PTN_ASSERT(uv_poll_start(&t->poll, events, transport_callback) == 0);
}

/* Interest grows at once... */
static void transport_grow(ptn_transport *t) {
    int events = transport_interest(t);
    if (t->cbs != NULL && !t->failed && (events & ~t->polled) != 0)
        transport_poll(t, events | (t->polled & (UV_READABLE | UV_WRITABLE)));
}

/* ...and shrinks when an event came that nobody wants. */
static void transport_shrink(ptn_transport *t, int events) {
    if ((events & ~transport_interest(t)) != 0)
        transport_poll(t, transport_interest(t));
}

/* Reported once; the owner closes, now or later. */
static void transport_fail(ptn_transport *t) {
    t->failed = true;
    t->polled = 0;
    uv_poll_stop(&t->poll);
    t->cbs->on_error(t->owner, -PTN_EIO);
}

static void deliver_one(ptn_transport *t, const struct ptn__uv_read *r) {
    t->held = false;
    t->cbs->on_read(t->owner, r->p, r->n);
}

void ptn__uv_deliver(struct ptn__uv_worker *w) {
    const struct ptn__uv_read *r = w->reads, *end = r + w->n_reads;
    for (; r < end; r++) {
        if (r + 1 < end && r[1].t != NULL)
            __builtin_prefetch(r[1].t->owner);
        if (r->t != NULL)
            deliver_one(r->t, r);
    }
    w->n_reads = 0;
    w->read_used = 0;
}

static void forget_read(ptn_transport *t) {
    struct ptn__uv_worker *w = t->w;
    for (unsigned i = 0; t->held && i < w->n_reads; i++) {
        if (w->reads[i].t == t)
            w->reads[i].t = NULL;
    }
    t->held = false;
}

/* Reads into what is left of the worker's buffer.  True: there may be more, and it is wanted. */
static bool read_once(ptn_transport *t) {
    struct ptn__uv_worker *w = t->w;
    const size_t room = PTN__UV_READ_BYTES - w->read_used;
    uint8_t *p = w->read_buf + w->read_used;
    const ssize_t n = recv(t->fd, p, room, MSG_DONTWAIT);
    if (n > 0) {
        w->reads[w->n_reads++] = (struct ptn__uv_read){t, p, (size_t)n};
        w->read_used += (size_t)n;
        t->held = true;
        if (w->n_reads == PTN__UV_READS_MAX || w->read_used > READ_AHEAD_BYTES)
            ptn__uv_deliver(w);
        /* A partial buffer means that the socket is empty: no further call just to hear EAGAIN. */
        return (size_t)n == room && !t->closing && t->read_on;
    }
    if (n == 0) {
        t->eof_seen = true;
        transport_poll(t, transport_interest(t));
        t->cbs->on_eof(t->owner);
        return false;
    }
    if (errno == EINTR)
        return true;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
        transport_fail(t);
    return false;
}

static void transport_read(ptn_transport *t) {
    for (int i = 0; i < READS_PER_EVENT && read_once(t); i++)
        continue;
}

/* Everything but bytes that have come. */
static void transport_other(ptn_transport *t, int events) {
    if ((events & UV_WRITABLE) != 0 && t->write_wanted)
        t->cbs->on_writable(t->owner);
    if (t->closing || t->failed)
        return;
    if ((events & UV_DISCONNECT) != 0)
        t->fin_seen = true;
    if ((events & UV_PRIORITIZED) != 0) {
        /* A lone error or hang-up is reported as whatever was asked for.  Otherwise an urgent byte:
         * nobody uses those; taking it keeps it from waking us again. */
        int err = 0;
        socklen_t n = sizeof err;
        uint8_t urgent;
        if (getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &err, &n) == 0 && err == 0 &&
            recv(t->fd, &urgent, 1, MSG_OOB | MSG_DONTWAIT) == 1)
            return;
        transport_fail(t);
        return;
    }
    transport_shrink(t, events);
}

static void transport_callback(uv_poll_t *h, int status, int events) {
    ptn_transport *t = h->data;
    if (PTN_UNLIKELY(t->held)) /* of an earlier event */
        ptn__uv_deliver(t->w);
    if (status < 0 && !t->closing) /* POLLERR */
        transport_fail(t);
    if (t->closing || t->failed)
        return;
    if ((events & UV_READABLE) != 0 && t->read_on && !t->eof_seen)
        transport_read(t);
    if (t->held && events == UV_READABLE)
        return;
    if (t->held)
        ptn__uv_deliver(t->w);
    if (!t->closing && !t->failed)
        transport_other(t, events);
}

/* Takes fd on success. */
static int transport_new(struct ptn__uv_worker *w, int take_fd, ptn_transport **ret_t) {
    ptn_transport *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -PTN_ENOMEM;
    if (uv_poll_init(&w->loop, &t->poll, take_fd) != 0) {
        free(t);
        return -PTN_EIO;
    }
    t->thing.kind = PTN__UV_TRANSPORT;
    t->fd = take_fd;
    t->w = w;
    t->poll.data = t;
    *ret_t = t;
    return 0;
}

void ptn__uv_transport_open(ptn_transport *t, const ptn_transport_cbs *cbs, void *owner) {
    t->cbs = cbs;
    t->owner = owner;
    t->read_on = true;
    transport_poll(t, transport_interest(t));
}

void ptn__uv_read_enable(ptn_transport *t, bool on) {
    t->read_on = on;
    if (on && !t->closing)
        transport_grow(t);
}

void ptn__uv_want_write(ptn_transport *t, bool on) {
    t->write_wanted = on;
    if (on && !t->closing)
        transport_grow(t);
}

int64_t ptn__uv_write(ptn_transport *t, const ptn_iov *v, size_t n) {
    /* sendmsg() does not write through the pointers; struct iovec just has no const. */
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)v, .msg_iovlen = n};
    for (;;) {
        ssize_t sent = n == 1 ? send(t->fd, v->base, v->len, MSG_NOSIGNAL | MSG_DONTWAIT)
                              : sendmsg(t->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0)
            return sent;
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        return -PTN_EIO;
    }
}

void ptn__uv_shut_write(ptn_transport *t) {
    if (!t->closing)
        (void)shutdown(t->fd, SHUT_WR); /* fails when the peer is gone, and then reading says so */
}

void ptn__uv_transport_close(ptn_transport *t) {
    if (t->closing)
        return;
    t->closing = true;
    forget_read(t);
    uv_close((uv_handle_t *)&t->poll, transport_closed_callback); /* stops polling before... */
    close(t->fd);                                                 /* ...the number is free again */
    t->fd = -1;
}

/* Asked for where something is worth a line in the log, so nobody keeps it. */
const char *ptn__uv_peer(const ptn_transport *t) {
    static _Thread_local char text[PTN__UV_ADDR_TEXT_BYTES];
    struct sockaddr_storage addr;
    socklen_t n = sizeof addr;
    if (getpeername(t->fd, (struct sockaddr *)&addr, &n) != 0)
        return "gone";
    ptn__uv_addr_text(&addr, text, sizeof text);
    return text;
}

/* ---- listeners ---------------------------------------------------------------------------- */

int ptn__uv_reserve_fd(void) {
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void listener_callback(uv_poll_t *h, int status, int events);

static void listener_closed_callback(uv_handle_t *h) {
    ptn_env_listener *l = h->data;
    if (--l->open_handles == 0) {
        free(l->path);
        free(l);
    }
}

static void pause_callback(uv_timer_t *h) {
    ptn_env_listener *l = h->data;
    (void)uv_poll_start(&l->poll, UV_READABLE, listener_callback);
}

/* The listening socket stays readable while connections wait: without a pause this would spin. */
static void listener_pause(ptn_env_listener *l) {
    uv_poll_stop(&l->poll);
    (void)uv_timer_start(&l->pause, pause_callback, ACCEPT_PAUSE_MS, 0);
}

enum accepted { ACCEPTED, ACCEPT_AGAIN, ACCEPT_EMPTY, ACCEPT_PAUSE };

/* Out of descriptors: with the reserve one the peer is told now instead of waiting for nothing. The
 * kernel says EMFILE also when nobody waits, so the second accept is what tells whether there was a
 * peer. */
static enum accepted refuse_one(ptn_env_listener *l) {
    struct ptn__uv_worker *w = l->w;
    bool empty = false;
    if (w->reserve_fd >= 0) {
        close(w->reserve_fd);
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
        empty = fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        if (fd >= 0)
            close(fd);
    }
    w->reserve_fd = ptn__uv_reserve_fd();
    if (empty)
        return ACCEPT_EMPTY;
    l->on_accept(l->owner, NULL);
    return w->reserve_fd >= 0 ? ACCEPT_AGAIN : ACCEPT_PAUSE;
}

static enum accepted accept_one(ptn_env_listener *l) {
    int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        ptn_transport *t;
        if (transport_new(l->w, fd, &t) != 0) {
            close(fd);
            l->on_accept(l->owner, NULL);
            return ACCEPT_PAUSE;
        }
        l->on_accept(l->owner, t);
        return ACCEPTED;
    }
    switch (errno) {
    case EAGAIN:
#if EWOULDBLOCK != EAGAIN
    case EWOULDBLOCK:
#endif
        return ACCEPT_EMPTY;
    case EMFILE:
    case ENFILE:
        return refuse_one(l);
    case EINTR:
    case ECONNABORTED: /* this connection's own trouble, reported once: accept(2) */
    case EPROTO:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
        return ACCEPT_AGAIN;
    default:
        l->on_accept(l->owner, NULL);
        return ACCEPT_PAUSE;
    }
}

static void listener_callback(uv_poll_t *h, int status, int events) {
    ptn_env_listener *l = h->data;
    (void)events;
    if (status < 0) {
        listener_pause(l);
        return;
    }
    for (int i = 0; i < ACCEPTS_PER_EVENT; i++) {
        enum accepted a = accept_one(l);
        if (l->closing || a == ACCEPT_EMPTY)
            return;
        if (a == ACCEPT_PAUSE) {
            listener_pause(l);
            return;
        }
    }
}

/* A worker without a share of the endpoint gets a listener that never accepts. */
int ptn__uv_listen(ptn_env *e, unsigned worker, ptn_env_endpoint *ep,
                   void (*on_accept)(void *owner, ptn_transport *t), void *owner,
                   ptn_env_listener **ret_l) {
    struct ptn__uv_worker *w = ptn__uv_worker_at(e, worker);
    if (w->stopping)
        return -PTN_ESTOPPING;
    ptn_env_listener *l = calloc(1, sizeof *l);
    if (l == NULL)
        return -PTN_ENOMEM;
    l->thing.kind = PTN__UV_LISTENER;
    l->fd = -1;
    int rc = ptn__uv_endpoint_take(ep, worker, &l->fd, &l->path);
    if (rc < 0) {
        free(l);
        return rc;
    }
    l->on_accept = on_accept;
    l->owner = owner;
    l->w = w;
    uv_timer_init(&w->loop, &l->pause);
    l->pause.data = l;
    l->open_handles = 1;
    if (rc == 0) {
        if (uv_poll_init(&w->loop, &l->poll, l->fd) != 0) {
            ptn__uv_listener_close(e, l);
            return -PTN_EIO;
        }
        l->poll.data = l;
        l->open_handles = 2;
        PTN_ASSERT(uv_poll_start(&l->poll, UV_READABLE, listener_callback) == 0);
    }
    *ret_l = l;
    return 0;
}

void ptn__uv_listener_close(ptn_env *e, ptn_env_listener *l) {
    (void)e;
    if (l->closing)
        return;
    l->closing = true;
    if (l->open_handles == 2)
        uv_close((uv_handle_t *)&l->poll, listener_closed_callback);
    if (l->path != NULL)
        ptn__uv_unlink(l->path);
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    uv_close((uv_handle_t *)&l->pause, listener_closed_callback);
}
