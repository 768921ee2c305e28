/* SPDX-License-Identifier: Apache-2.0
 *
 * env_sim_net.c - simulated streams: links between a transport of the broker and a peer outside.
 *
 * A link is two pipes.  Bytes written to a pipe are in flight, arrive (ARRIVE) in segments of any
 * size after a delay each, and are then read (READ) in pieces of any size; order within a pipe is
 * kept, as TCP keeps it.  A full pipe takes no more, so back-pressure is real.  FIN travels behind
 * the bytes; a reset overtakes them and throws them away.  Closing with unread input resets, and so
 * do bytes that arrive at a closed end: the rules of TCP that an HTTP server must live with.
 */
#include "runtime/env/env_sim_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define PIECE_MAX 65536u

/* ---- pipes ----------------------------------------------------------------------------------- */

static ptn_time link_delay(struct ptn__sim *s) {
    const ptn_sim_faults *f = &s->faults;
    ptn_time d = f->delay_min_ns + ptn_sim_rng_exp(&s->schedule, f->delay_mean_ns);
    return ptn_sim_rng_chance(&s->schedule, f->tail_ppm) ? d + f->tail_ns : d;
}

/* How much of n goes at once: all, a random part, or one byte. */
static size_t piece(struct ptn__sim *s, size_t n) {
    const ptn_sim_faults *f = &s->faults;
    if (n > PIECE_MAX)
        n = PIECE_MAX;
    if (ptn_sim_rng_chance(&s->schedule, f->byte_ppm))
        return 1;
    if (ptn_sim_rng_chance(&s->schedule, f->split_ppm))
        return 1 + (size_t)ptn_sim_rng_below(&s->schedule, n);
    return n;
}

static void pipe_append(struct ptn__sim_pipe *p, const void *data, size_t n) {
    if (p->start + p->len + n > p->cap) {
        if (p->len > 0)
            memmove(p->bytes, p->bytes + p->start, p->len);
        p->start = 0;
    }
    if (p->len + n > p->cap) {
        p->cap = 2 * (p->len + n);
        p->bytes = ptn__sim_realloc(p->link->sim, p->bytes, p->cap);
    }
    if (n > 0)
        memcpy(p->bytes + p->start + p->len, data, n);
    p->len += n;
}

static void pipe_drop(struct ptn__sim_pipe *p) {
    p->start = p->len = p->arrived = 0;
}

static void pipe_send(struct ptn__sim_pipe *p) {
    if (p->arriving || (p->len == p->arrived && !(p->fin && !p->fin_arrived)))
        return;
    p->arriving = true;
    ptn__sim_at(p->link->sim, link_delay(p->link->sim), PTN__SIM_ARRIVE, p, 0);
}

static bool pipe_has_news(const struct ptn__sim_pipe *p) {
    return p->arrived > 0 || (p->fin_arrived && !p->fin_read);
}

static void pipe_poll(struct ptn__sim_pipe *p) {
    struct ptn__sim *s = p->link->sim;
    if (p->reading || !p->read_on || !pipe_has_news(p))
        return;
    p->reading = true;
    ptn__sim_at(s, ptn_sim_rng_exp(&s->schedule, s->faults.wake_mean_ns), PTN__SIM_READ, p, 0);
}

/* ---- resets ---------------------------------------------------------------------------------- */

static void server_fail(struct ptn__sim_link *l) {
    ptn_transport *t = &l->server;
    if (!t->accepted || t->closed || t->failing)
        return;
    t->failing = true;
    pipe_drop(&l->up);
    ptn__sim_at(l->sim, link_delay(l->sim), PTN__SIM_SERVER_ERROR, l, 0);
}

static void peer_fail(struct ptn__sim_link *l) {
    ptn_sim_peer *p = &l->peer;
    if (p->closed || p->resetting)
        return;
    p->resetting = true;
    if (ptn_sim_rng_below(&l->sim->schedule, 2) == 0)
        pipe_drop(&l->down); /* what was on its way is lost, or is not */
    ptn__sim_at(l->sim, link_delay(l->sim), PTN__SIM_PEER_RESET, l, 0);
}

static void peer_reset_event(struct ptn__sim_link *l) {
    if (l->peer.closed)
        return;
    l->peer.closed = true;
    pipe_drop(&l->down);
    l->peer.cbs->on_reset(l->peer.owner);
}

static void server_error_event(struct ptn__sim *s, struct ptn__sim_link *l) {
    ptn_transport *t = &l->server;
    if (!ptn__sim_on_worker(s, t->worker) || t->closed || t->failed)
        return;
    t->failed = true;
    if (t->cbs != NULL)
        PTN__SIM_UP(s, t->cbs->on_error(t->owner, -PTN_EIO));
}

/* ---- arrival and reading --------------------------------------------------------------------- */

static void arrive_event(struct ptn__sim *s, struct ptn__sim_pipe *p) {
    struct ptn__sim_link *l = p->link;
    p->arriving = false;
    if (ptn_sim_rng_chance(&s->schedule, s->faults.reset_ppm)) {
        s->stats.resets++;
        server_fail(l);
        peer_fail(l);
        return;
    }
    size_t flying = p->len - p->arrived;
    if (p->up ? l->server.closed
              : l->peer.closed) { /* nobody there: RST, unless it is only a FIN */
        pipe_drop(p);
        if (flying > 0 && p->up)
            peer_fail(l);
        else if (flying > 0)
            server_fail(l);
        return;
    }
    if (flying > 0)
        p->arrived += piece(s, flying);
    else if (p->fin)
        p->fin_arrived = true;
    pipe_send(p);
    pipe_poll(p);
}

static void window_moved(struct ptn__sim_link *l);

/* Hands one piece to the reader; the callback may close, or stop reading. */
static void read_event(struct ptn__sim *s, struct ptn__sim_pipe *p) {
    static uint8_t bytes[PIECE_MAX];
    struct ptn__sim_link *l = p->link;
    ptn_transport *t = &l->server;
    p->reading = false;
    bool gone = p->up ? t->closed || t->failed : l->peer.closed;
    if (p->up && !ptn__sim_on_worker(s, t->worker))
        return;
    if (gone || !p->read_on || !pipe_has_news(p))
        return;
    size_t n = p->arrived > 0 ? piece(s, p->arrived) : 0;
    if (n > 0) {
        memcpy(bytes, p->bytes + p->start, n);
        p->start += n;
        p->len -= n;
        p->arrived -= n;
        *(p->up ? &s->stats.bytes_up : &s->stats.bytes_down) += n;
    } else {
        p->fin_read = true;
    }
    if (p->up && n > 0)
        PTN__SIM_UP(s, t->cbs->on_read(t->owner, bytes, n));
    else if (p->up)
        PTN__SIM_UP(s, t->cbs->on_eof(t->owner));
    else if (n > 0)
        l->peer.cbs->on_bytes(l->peer.owner, bytes, n);
    else
        l->peer.cbs->on_end(l->peer.owner);
    pipe_poll(p);
    if (!p->up)
        window_moved(l);
}

/* ---- accepting ------------------------------------------------------------------------------- */

static void accept_event(struct ptn__sim *s, struct ptn__sim_link *l) {
    ptn_env_listener *open[64];
    size_t n = 0;
    for (unsigned i = 0; i < PTN_ARRAY_LEN(open) && l->ep != NULL; i++)
        if (l->ep->listeners[i] != NULL)
            open[n++] = l->ep->listeners[i];
    if (l->peer.closed)
        return;
    if (n == 0) {
        s->stats.refused++;
        peer_fail(l);
        return;
    }
    ptn_env_listener *x = open[ptn_sim_rng_below(&s->schedule, n)];
    if (!ptn__sim_on_worker(s, x->worker))
        return;
    if (ptn_sim_rng_chance(&s->schedule, s->faults.refuse_ppm)) {
        s->stats.refused++;
        PTN__SIM_UP(s, x->on_accept(x->owner, NULL));
        peer_fail(l);
        return;
    }
    s->stats.connections++;
    s->stats.transports_open++;
    l->server.worker = x->worker;
    l->server.accepted = true;
    l->peer.cbs->on_open(l->peer.owner);
    PTN__SIM_UP(s, x->on_accept(x->owner, &l->server));
}

int ptn__sim_bind(ptn_env *e, const char *where, unsigned n_workers, ptn_env_endpoint **ret_ep,
                  char *ret_addr, size_t ret_addr_bytes, const char **reterr_why) {
    struct ptn__sim *s = ptn__sim_of(e);
    (void)n_workers;
    for (const ptn_env_endpoint *ep = s->endpoints; ep != NULL; ep = ep->next) {
        if (strcmp(ep->address, where) == 0) {
            if (reterr_why != NULL)
                *reterr_why = "address already in use";
            return -PTN_EADDRINUSE;
        }
    }
    ptn_env_endpoint *ep = ptn__sim_alloc(s, sizeof *ep);
    (void)snprintf(ep->address, sizeof ep->address, "%s", where);
    (void)snprintf(ret_addr, ret_addr_bytes, "%s", where);
    ep->next = s->endpoints;
    s->endpoints = ep;
    *ret_ep = ep;
    return 0;
}

void ptn__sim_endpoint_free(ptn_env *e, ptn_env_endpoint *ep) {
    (void)e;
    ep->address[0] = '\0'; /* nobody connects to it any more; freed with the environment */
}

int ptn__sim_listen(ptn_env *e, unsigned worker, ptn_env_endpoint *ep,
                    void (*on_accept)(void *owner, ptn_transport *t), void *owner,
                    ptn_env_listener **ret_l) {
    struct ptn__sim *s = ptn__sim_of(e);
    if (ep->listeners[worker] != NULL)
        return -PTN_EADDRINUSE;
    ptn_env_listener *l = ptn__sim_alloc(s, sizeof *l);
    *l = (ptn_env_listener){
        .next = s->listeners, .ep = ep, .worker = worker, .on_accept = on_accept, .owner = owner};
    s->listeners = l;
    ep->listeners[worker] = l;
    *ret_l = l;
    return 0;
}

void ptn__sim_listener_close(ptn_env *e, ptn_env_listener *l) {
    (void)e;
    if (l->ep->listeners[l->worker] == l)
        l->ep->listeners[l->worker] = NULL;
}

/* ---- the broker's end ------------------------------------------------------------------------ */

static size_t window_room(const struct ptn__sim_link *l) {
    size_t window = l->sim->faults.window_bytes;
    return l->down.len < window ? window - l->down.len : 0;
}

static void window_moved(struct ptn__sim_link *l) {
    struct ptn__sim *s = l->sim;
    ptn_transport *t = &l->server;
    if (!t->want_write || t->writable_armed || t->closed || t->failed)
        return;
    if (window_room(l) == 0 && !l->peer.closed)
        return;
    t->writable_armed = true;
    ptn__sim_at(s, ptn_sim_rng_exp(&s->schedule, s->faults.wake_mean_ns) + 1, PTN__SIM_WRITABLE, l,
                0);
}

/* Level-triggered: until nobody wants it any more. */
static void writable_event(struct ptn__sim *s, struct ptn__sim_link *l) {
    ptn_transport *t = &l->server;
    t->writable_armed = false;
    if (!ptn__sim_on_worker(s, t->worker) || t->closed || t->failed || !t->want_write)
        return;
    PTN__SIM_UP(s, t->cbs->on_writable(t->owner));
    window_moved(l);
}

void ptn__sim_transport_open(ptn_transport *t, const ptn_transport_cbs *cbs, void *owner) {
    t->cbs = cbs;
    t->owner = owner;
    t->link->up.read_on = true;
    pipe_poll(&t->link->up);
    if (t->failing)
        ptn__sim_at(t->link->sim, 0, PTN__SIM_SERVER_ERROR, t->link, 0);
}

void ptn__sim_read_enable(ptn_transport *t, bool on) {
    t->link->up.read_on = on;
    pipe_poll(&t->link->up);
}

int64_t ptn__sim_write(ptn_transport *t, const ptn_iov *v, size_t n) {
    struct ptn__sim_link *l = t->link;
    struct ptn__sim *s = l->sim;
    if (t->failing || l->down.fin)
        return -PTN_EIO;
    size_t room = window_room(l), took = 0;
    if (ptn_sim_rng_chance(&s->schedule, s->faults.short_write_ppm))
        room = (size_t)ptn_sim_rng_below(&s->schedule, room + 1);
    for (size_t i = 0; i < n && took < room; i++) {
        size_t part = v[i].len < room - took ? v[i].len : room - took;
        pipe_append(&l->down, v[i].base, part);
        took += part;
    }
    pipe_send(&l->down);
    return (int64_t)took;
}

void ptn__sim_want_write(ptn_transport *t, bool on) {
    t->want_write = on;
    window_moved(t->link);
}

void ptn__sim_shut_write(ptn_transport *t) {
    t->link->down.fin = true;
    pipe_send(&t->link->down);
}

void ptn__sim_transport_close(ptn_transport *t) {
    struct ptn__sim_link *l = t->link;
    if (t->closed)
        return;
    t->closed = true;
    l->sim->stats.transports_open--;
    if (l->up.arrived > 0 || t->failing) {
        pipe_drop(&l->up);
        peer_fail(l);
    } else {
        l->down.fin = true;
        pipe_send(&l->down);
    }
}

const char *ptn__sim_peer_name(const ptn_transport *t) {
    (void)t;
    return "192.0.2.1:40000"; /* RFC 5737: an address for documentation */
}

/* ---- the client's end ------------------------------------------------------------------------ */

ptn_sim_peer *ptn_sim_connect(ptn_env *e, const char *address, const ptn_sim_peer_cbs *cbs,
                              void *owner) {
    struct ptn__sim *s = ptn__sim_of(e);
    ptn_env_endpoint *ep = s->endpoints;
    while (ep != NULL && strcmp(ep->address, address) != 0)
        ep = ep->next;
    if (ep == NULL)
        return NULL;
    struct ptn__sim_link *l = ptn__sim_alloc(s, sizeof *l);
    l->sim = s;
    l->next = s->links;
    s->links = l;
    l->id = s->ids++;
    l->ep = ep;
    l->up.link = l->down.link = l;
    l->up.up = true;
    l->down.read_on = true;
    l->server.link = l;
    l->peer = (ptn_sim_peer){.link = l, .cbs = cbs, .owner = owner};
    ptn__sim_at(s, link_delay(s), PTN__SIM_ACCEPT, l, 0);
    return &l->peer;
}

bool ptn_sim_peer_write(ptn_sim_peer *p, const void *data, size_t n) {
    struct ptn__sim_link *l = p->link;
    if (p->closed || l->up.fin || l->up.len + n > PTN_SIM_PEER_BYTES_MAX)
        return false;
    pipe_append(&l->up, data, n);
    pipe_send(&l->up);
    return true;
}

void ptn_sim_peer_read_enable(ptn_sim_peer *p, bool on) {
    p->link->down.read_on = on;
    if (!p->closed)
        pipe_poll(&p->link->down);
}

void ptn_sim_peer_shut(ptn_sim_peer *p) {
    p->link->up.fin = true;
    pipe_send(&p->link->up);
}

void ptn_sim_peer_close(ptn_sim_peer *p) {
    struct ptn__sim_link *l = p->link;
    if (p->closed)
        return;
    if (l->down.arrived > 0) {
        ptn_sim_peer_reset(p);
        return;
    }
    p->closed = true;
    if (l->server.want_write) /* it will find out */
        server_fail(l);
    ptn_sim_peer_shut(p);
}

void ptn_sim_peer_reset(ptn_sim_peer *p) {
    if (p->closed)
        return;
    p->closed = true;
    pipe_drop(&p->link->down);
    pipe_drop(&p->link->up);
    p->link->up.fin = true;
    server_fail(p->link);
}

/* ---- for the scheduler ----------------------------------------------------------------------- */

void ptn__sim_net_event(struct ptn__sim *s, const struct ptn__sim_event *e) {
    switch (e->kind) {
    case PTN__SIM_ARRIVE:
        arrive_event(s, e->object);
        break;
    case PTN__SIM_READ:
        read_event(s, e->object);
        break;
    case PTN__SIM_WRITABLE:
        writable_event(s, e->object);
        break;
    case PTN__SIM_ACCEPT:
        accept_event(s, e->object);
        break;
    case PTN__SIM_SERVER_ERROR:
        server_error_event(s, e->object);
        break;
    case PTN__SIM_PEER_RESET:
        peer_reset_event(e->object);
        break;
    default:
        PTN_ASSERT(false); /* the others are the scheduler's own */
    }
}

/* Pipes and links have numbers; an address would differ from run to run. */
uint64_t ptn__sim_net_id(const struct ptn__sim_event *e) {
    if (e->kind == PTN__SIM_ARRIVE || e->kind == PTN__SIM_READ) {
        const struct ptn__sim_pipe *p = e->object;
        return p->link->id << 1 | p->up;
    }
    return ((const struct ptn__sim_link *)e->object)->id << 1;
}

void ptn__sim_net_free(struct ptn__sim *s) {
    for (struct ptn__sim_link *l = s->links, *next; l != NULL; l = next) {
        next = l->next;
        free(l->up.bytes);
        free(l->down.bytes);
        free(l);
    }
    for (ptn_env_listener *l = s->listeners, *next; l != NULL; l = next) {
        next = l->next;
        free(l);
    }
    for (ptn_env_endpoint *ep = s->endpoints, *next; ep != NULL; ep = next) {
        next = ep->next;
        free(ep);
    }
}
