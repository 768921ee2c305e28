/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_twin_link.c - the twin's outside: time, messages, pipes, connections.
 *
 * This is what libzmq's I/O threads do.  Everything that a socket learns of it comes as a command
 * into the mailbox of the socket.
 */
#include "zmq_twin_int.h"

#include <stdlib.h>

#define LOCAL_NS_MEAN 20000 /* between a socket's thread and an I/O thread */

struct event {
    struct event *next;
    ptn_time due;
    void (*fn)(void *object, unsigned side);
    void *object;
    unsigned side;
};

static struct {
    bool started;
    ptn_sim_rng rng;
    zmq_twin_faults faults;
    zmq_twin_host host;
    struct event *events; /* by time, then by age */
    struct twin_pipe *pipes;
    struct twin_link *links;
} T;

struct twin_socket *twin_sockets;

static void *make(size_t n) {
    void *p = calloc(1, n);
    PTN_ASSERT(p != NULL);
    return p;
}

/* ---- time ------------------------------------------------------------------------------------ */

static void at(ptn_time due, void (*fn)(void *object, unsigned side), void *object, unsigned side) {
    struct event *e = make(sizeof *e), **place = &T.events;
    *e = (struct event){.due = due, .fn = fn, .object = object, .side = side};
    while (*place != NULL && (*place)->due <= due)
        place = &(*place)->next;
    e->next = *place;
    *place = e;
    if (T.events == e)
        T.host.at(T.host.arg, due);
}

static ptn_time now(void) {
    return T.host.now(T.host.arg);
}

static ptn_time delay(void) {
    ptn_time d = T.faults.delay_min_ns + ptn_sim_rng_exp(&T.rng, T.faults.delay_mean_ns);
    if (ptn_sim_rng_chance(&T.rng, T.faults.tail_ppm))
        d += T.faults.tail_ns;
    return d;
}

ptn_time zmq_twin_run(void) {
    while (T.events != NULL && T.events->due <= now()) {
        struct event *e = T.events;
        T.events = e->next;
        e->fn(e->object, e->side);
        free(e);
    }
    return T.events != NULL ? T.events->due : PTN_NEVER;
}

uint32_t twin_random(void) {
    return (uint32_t)ptn_sim_rng_next(&T.rng);
}

bool twin_chance_lazy(void) {
    return ptn_sim_rng_chance(&T.rng, T.faults.lazy_ppm);
}

void zmq_twin_start(uint64_t seed, const zmq_twin_faults *faults, const zmq_twin_host *host) {
    PTN_ASSERT(!T.started);
    memset(&T, 0, sizeof T);
    T.started = true;
    T.faults = *faults;
    T.host = *host;
    ptn_sim_rng_seed(&T.rng, seed);
}

void zmq_twin_faults_set(const zmq_twin_faults *faults) {
    T.faults = *faults;
}

/* ---- messages -------------------------------------------------------------------------------- */

struct twin_blob *twin_blob_new(const void *p, size_t n) {
    struct twin_blob *b = make(sizeof *b + n);
    b->refs = 1;
    b->n = n;
    b->data = b->bytes;
    if (p != NULL && n > 0)
        memcpy(b->data, p, n);
    return b;
}

struct twin_blob *twin_blob_ref(struct twin_blob *b) {
    b->refs++;
    return b;
}

void twin_blob_unref(struct twin_blob *b) {
    if (b == NULL || --b->refs > 0)
        return;
    if (b->ffn != NULL)
        b->ffn(b->data, b->hint);
    free(b);
}

struct twin_message *twin_message_new(void) {
    return make(sizeof(struct twin_message));
}

void twin_message_add(struct twin_message *m, struct twin_blob *take_blob, bool in_front) {
    struct twin_part *part = make(sizeof *part);
    part->blob = take_blob;
    m->bytes += take_blob->n;
    if (take_blob->n > m->largest)
        m->largest = take_blob->n;
    if (m->first == NULL) {
        m->first = m->last = part;
    } else if (in_front) {
        part->next = m->first;
        m->first = part;
    } else {
        m->last->next = part;
        m->last = part;
    }
}

struct twin_message *twin_message_share(const struct twin_message *m) {
    struct twin_message *copy = twin_message_new();
    for (const struct twin_part *part = m->first; part != NULL; part = part->next)
        twin_message_add(copy, twin_blob_ref(part->blob), false);
    return copy;
}

void twin_message_free(struct twin_message *m) {
    if (m == NULL)
        return;
    for (struct twin_part *part = m->first, *next; part != NULL; part = next) {
        next = part->next;
        twin_blob_unref(part->blob);
        free(part);
    }
    free(m);
}

void twin_queue_put(struct twin_queue *q, struct twin_message *m) {
    m->next = NULL;
    if (q->first == NULL)
        q->first = m;
    else
        q->last->next = m;
    q->last = m;
}

struct twin_message *twin_queue_take(struct twin_queue *q) {
    struct twin_message *m = q->first;
    if (m != NULL)
        q->first = m->next;
    return m;
}

void twin_queue_clear(struct twin_queue *q) {
    for (struct twin_message *m; (m = twin_queue_take(q)) != NULL;)
        twin_message_free(m);
}

/* ---- commands to a socket -------------------------------------------------------------------- */

static void post(struct twin_pipe *p, enum twin_command_kind kind, uint64_t n) {
    struct twin_socket *s = p->socket;
    if (s->closed)
        return;
    struct twin_command *c = make(sizeof *c);
    *c = (struct twin_command){.kind = kind, .pipe = p, .n = n};
    bool was_empty = s->first == NULL;
    if (was_empty)
        s->first = c;
    else
        s->last->next = c;
    s->last = c;
    if (was_empty)
        T.host.ready(T.host.arg, s->fd);
}

bool zmq_twin_readable(int fd) {
    for (const struct twin_socket *s = twin_sockets; s != NULL; s = s->next)
        if (s->fd == fd)
            return s->first != NULL;
    return false;
}

/* ---- the network's side of a pipe ------------------------------------------------------------ */

static uint64_t low_water(int hwm) {
    return hwm > 0 ? ((uint64_t)hwm + 1) / 2 : 0;
}

static void wake_reader(struct twin_pipe *p) {
    if (p->asleep) {
        p->asleep = false;
        post(p, TWIN_READ, 0);
    }
}

static bool input_is_full(const struct twin_pipe *p) {
    int hwm = p->socket->rcvhwm;
    return hwm > 0 && p->in_put - p->in_told >= (uint64_t)hwm;
}

static void arrive(void *object, unsigned side);
static void connect_due(void *object, unsigned side);

/* Also the end of a connection travels behind what was sent before. */
static void launch(struct twin_link *l, unsigned side, struct twin_message *m) {
    struct twin_way *w = &l->ways[side];
    m->due = now() + delay();
    if (m->due < w->last_due)
        m->due = w->last_due;
    w->last_due = m->due;
    w->bytes += m->bytes;
    twin_queue_put(&w->flight, m);
    if (!w->scheduled) {
        w->scheduled = true;
        at(m->due, arrive, l, side);
    }
}

/* This side closes its descriptor. */
static void side_close(struct twin_link *l, unsigned side) {
    if (!l->open[side])
        return;
    l->open[side] = false;
    l->ways[side].up = false;
    if (l->open[1 - side]) {
        struct twin_message *end = twin_message_new();
        end->is_end = true;
        launch(l, side, end);
    }
}

/* From the queue of the socket to the transport, as far as that has room. */
static void pump(struct twin_link *l, unsigned side) {
    struct twin_pipe *p = l->pipes[side];
    struct twin_way *w = &l->ways[side];
    if (p->link != l)
        return;
    while (w->up && w->bytes < T.faults.window_bytes && p->out.first != NULL) {
        uint64_t lwm = low_water(p->socket->sndhwm);
        launch(l, side, twin_queue_take(&p->out));
        p->out_got++;
        if (lwm > 0 && p->out_got % lwm == 0)
            post(p, TWIN_WRITE, p->out_got);
    }
    if (p->draining && p->out.first == NULL && w->up) {
        p->link = NULL;
        side_close(l, side);
    }
}

/* This side learns that the connection is gone. */
static void side_lost(void *object, unsigned side) {
    struct twin_link *l = object;
    struct twin_pipe *p = l->pipes[side];
    l->open[side] = false;
    l->ways[side].up = false;
    if (p->link != l)
        return;
    p->link = NULL;
    if (p->draining && !p->connector) {
        twin_queue_clear(&p->out);
    } else if (p->connector) {
        if (p->socket->type == ZMQ_SUB) {
            twin_queue_clear(&p->out); /* all subscriptions will be sent again */
            p->out_got = p->out_told = p->out_put;
            post(p, TWIN_HICCUP, 0);
        }
        uint32_t ivl = (uint32_t)p->socket->reconnect_ivl;
        at(now() + (ivl + twin_random() % (ivl + 1)) * PTN_MS, connect_due, p, 0);
    } else {
        p->end_written = true;
        post(p, TWIN_TERM, 0);
        wake_reader(p);
    }
}

/* What was under way is lost, and both sides hear of it some time. */
static void link_break(struct twin_link *l) {
    for (unsigned side = 0; side < 2; side++) {
        twin_queue_clear(&l->ways[side].flight);
        l->ways[side].up = false;
        if (l->open[side])
            at(now() + delay(), side_lost, l, side);
    }
}

static void deliver(struct twin_pipe *p, struct twin_message *m) {
    if (!m->is_identity)
        p->in_put++;
    twin_queue_put(&p->in, m);
    wake_reader(p);
}

/* Whether a REQ puts up with it: [four bytes?][empty][body..].  For anything else it closes the
 * connection. */
static bool is_answer(const struct twin_message *m) {
    const struct twin_part *part = m->first;
    if (part->blob->n == 4 && part->next != NULL)
        part = part->next;
    return part->blob->n == 0 && part->next != NULL;
}

/* False: the receiver takes no more now. */
static bool arrive_one(struct twin_link *l, unsigned side) {
    struct twin_way *w = &l->ways[side];
    struct twin_pipe *to = l->pipes[1 - side];
    struct twin_message *m = w->flight.first;
    bool listens = l->open[1 - side] && to->link == l;
    if (listens && !m->is_end && input_is_full(to))
        return false;
    (void)twin_queue_take(&w->flight);
    w->bytes -= m->bytes;
    bool is_end = m->is_end;
    int64_t max = to->socket->message_max;
    if (!listens || is_end || to->draining) {
        twin_message_free(m);
        if (listens && is_end)
            side_lost(l, 1 - side);
    } else if ((max >= 0 && m->largest > (uint64_t)max) ||
               (to->socket->type == ZMQ_REQ && !is_answer(m))) {
        twin_message_free(m);
        side_close(l, 1 - side);
        side_lost(l, 1 - side);
    } else if (ptn_sim_rng_chance(&T.rng, T.faults.break_ppm)) {
        twin_message_free(m);
        link_break(l);
    } else {
        deliver(to, m);
    }
    return true;
}

static void arrive(void *object, unsigned side) {
    struct twin_link *l = object;
    struct twin_way *w = &l->ways[side];
    w->scheduled = false;
    while (w->flight.first != NULL && w->flight.first->due <= now())
        if (!arrive_one(l, side))
            return; /* until its reader makes room */
    if (w->flight.first != NULL && !w->scheduled) {
        w->scheduled = true;
        at(w->flight.first->due, arrive, l, side);
    }
    pump(l, side);
}

/* ---- coming ---------------------------------------------------------------------------------- */

static struct twin_pipe *pipe_new(struct twin_socket *s) {
    struct twin_pipe *p = make(sizeof *p);
    *p = (struct twin_pipe){.made = T.pipes, .socket = s, .out_active = true};
    T.pipes = p;
    return p;
}

static void connector_up(void *object, unsigned side) {
    struct twin_link *l = object;
    (void)side;
    if (!l->open[0])
        return;
    l->ways[0].up = true;
    pump(l, 0);
}

static void bound_up(void *object, unsigned side) {
    struct twin_link *l = object;
    struct twin_pipe *p = l->pipes[1];
    (void)side;
    if (!l->open[0] || !l->open[1])
        return;
    l->ways[1].up = true;
    post(p, TWIN_ATTACH, 0);
    if (p->socket->type == ZMQ_ROUTER) {
        struct twin_blob *identity = l->pipes[0]->socket->identity;
        struct twin_message *m = twin_message_new();
        m->is_identity = true;
        twin_message_add(m, identity != NULL ? twin_blob_ref(identity) : twin_blob_new(NULL, 0),
                         false);
        deliver(p, m);
    }
    at(now() + delay(), connector_up, l, 0);
}

static struct twin_socket *bound_at(const char *address) {
    for (struct twin_socket *s = twin_sockets; s != NULL; s = s->next)
        for (unsigned i = 0; i < s->n_bound && !s->closed; i++)
            if (strcmp(s->bound[i], address) == 0)
                return s;
    return NULL;
}

static void connect_due(void *object, unsigned side) {
    struct twin_pipe *p = object;
    struct twin_socket *s = bound_at(p->address);
    (void)side;
    if (p->state != TWIN_ACTIVE || (p->draining && p->out.first == NULL))
        return;
    if (s == NULL) {
        uint32_t ivl = (uint32_t)p->socket->reconnect_ivl;
        at(now() + (ivl + twin_random() % (ivl + 1)) * PTN_MS, connect_due, p, 0);
        return;
    }
    struct twin_link *l = make(sizeof *l);
    l->made = T.links;
    T.links = l;
    l->pipes[0] = p;
    l->pipes[1] = pipe_new(s);
    p->side = 0;
    l->pipes[1]->side = 1;
    for (unsigned i = 0; i < 2; i++) {
        l->pipes[i]->link = l;
        l->open[i] = true;
    }
    at(now() + delay(), bound_up, l, 0);
}

struct twin_pipe *twin_pipe_connect(struct twin_socket *s, const char *address) {
    struct twin_pipe *p = pipe_new(s);
    p->connector = true;
    (void)snprintf(p->address, sizeof p->address, "%s", address);
    twin_attach(s, p); /* queues from now on, connected or not */
    at(now() + delay(), connect_due, p, 0);
    return p;
}

/* ---- the socket's side of a pipe ------------------------------------------------------------- */

bool twin_pipe_has_room(struct twin_pipe *p) {
    int hwm = p->socket->sndhwm;
    if (p->state != TWIN_ACTIVE || !p->out_active)
        return false;
    if (hwm > 0 && p->out_put - p->out_told >= (uint64_t)hwm)
        p->out_active = false;
    return p->out_active;
}

void twin_pipe_peer_misses(struct twin_pipe *p) {
    struct twin_link *l = p->link;
    if (l != NULL && l->open[1 - p->side])
        l->pipes[1 - p->side]->socket->missed = true;
}

void twin_pipe_write(struct twin_pipe *p, struct twin_message *m) {
    p->out_put++;
    twin_queue_put(&p->out, m);
    if (p->link != NULL)
        pump(p->link, p->side);
}

/* The socket's last word on it; the outside answers, and only then it is gone. */
static void termed(void *object, unsigned side) {
    (void)side;
    post(object, TWIN_TERMED, 0);
}

void twin_pipe_finish(struct twin_pipe *p) {
    p->state = TWIN_ENDED;
    twin_pipe_drop_output(p);
    at(now() + ptn_sim_rng_exp(&T.rng, LOCAL_NS_MEAN), termed, p, 0);
}

/* Nothing, or the end of everything.  A reader that finds nothing has to be woken. */
static void read_nothing(struct twin_pipe *p) {
    if (!p->end_written) {
        p->asleep = true;
    } else if (p->state == TWIN_ENDING) {
        twin_pipe_finish(p);
    } else {
        p->end_read = true;
    }
}

bool twin_pipe_has_input(struct twin_pipe *p) {
    if (p->state != TWIN_ACTIVE && p->state != TWIN_ENDING)
        return false;
    if (p->in.first == NULL)
        read_nothing(p);
    return p->in.first != NULL;
}

struct twin_message *twin_pipe_read(struct twin_pipe *p) {
    if (!twin_pipe_has_input(p))
        return NULL;
    struct twin_message *m = twin_queue_take(&p->in);
    uint64_t lwm = low_water(p->socket->rcvhwm);
    if (m->is_identity)
        return m;
    p->in_got++;
    if (lwm > 0 && p->in_got % lwm == 0) {
        p->in_told = p->in_got;
        if (p->link != NULL && !p->link->ways[1 - p->side].scheduled) {
            p->link->ways[1 - p->side].scheduled = true;
            at(now() + ptn_sim_rng_exp(&T.rng, LOCAL_NS_MEAN), arrive, p->link, 1 - p->side);
        }
    }
    return m;
}

void twin_pipe_drop_output(struct twin_pipe *p) {
    twin_queue_clear(&p->out);
    p->out_active = false;
}

void twin_pipe_give_up(struct twin_pipe *p) {
    struct twin_link *l = p->link;
    if (p->state != TWIN_ACTIVE)
        return;
    p->link = NULL;
    if (l != NULL)
        side_close(l, p->side);
    twin_queue_clear(&p->in);
    twin_pipe_finish(p);
}

/* ---- going ----------------------------------------------------------------------------------- */

static void linger_over(void *object, unsigned side) {
    struct twin_pipe *p = object;
    struct twin_link *l = p->link;
    (void)side;
    twin_queue_clear(&p->out);
    p->link = NULL;
    if (l != NULL)
        side_close(l, p->side);
}

/* Its host has lost power: bytes go nowhere, in both directions. */
static void vanish(struct twin_link *l, unsigned side) {
    const struct twin_socket *other = l->pipes[1 - side]->socket;
    for (unsigned i = 0; i < 2; i++)
        twin_queue_clear(&l->ways[i].flight);
    l->ways[1 - side].up = l->ways[side].up = l->open[side] = false;
    if (other->heartbeat_ivl > 0)
        at(now() + (ptn_time)(uint32_t)(other->heartbeat_ivl + other->heartbeat_timeout) * PTN_MS,
           side_lost, l, 1 - side);
}

void twin_pipe_close(struct twin_pipe *p, bool is_vanished) {
    int linger = p->socket->linger;
    struct twin_link *l = p->link;
    if (p->draining)
        return;
    p->draining = true;
    twin_queue_clear(&p->in);
    if (!is_vanished && linger != 0 && p->out.first != NULL) {
        if (linger > 0)
            at(now() + (ptn_time)(uint32_t)linger * PTN_MS, linger_over, p, 0);
        return;
    }
    twin_queue_clear(&p->out);
    p->link = NULL;
    if (l != NULL && is_vanished)
        vanish(l, p->side);
    else if (l != NULL)
        side_close(l, p->side);
}

void twin_sockets_close_pipes(struct twin_socket *s, bool is_vanished) {
    for (struct twin_pipe *p = T.pipes; p != NULL; p = p->made)
        if (p->socket == s)
            twin_pipe_close(p, is_vanished);
}

void zmq_twin_stop(void) {
    for (struct twin_socket *s = twin_sockets, *next; s != NULL; s = next) {
        next = s->next;
        PTN_ASSERT(s->closed);
        free(s);
    }
    twin_sockets = NULL;
    for (struct event *e = T.events, *next; e != NULL; e = next) {
        next = e->next;
        free(e);
    }
    for (struct twin_pipe *p = T.pipes, *next; p != NULL; p = next) {
        next = p->made;
        twin_queue_clear(&p->in);
        twin_queue_clear(&p->out);
        twin_blob_unref(p->identity);
        twin_topics_free(&p->topics);
        free(p);
    }
    for (struct twin_link *l = T.links, *next; l != NULL; l = next) {
        next = l->made;
        twin_queue_clear(&l->ways[0].flight);
        twin_queue_clear(&l->ways[1].flight);
        free(l);
    }
    memset(&T, 0, sizeof T);
}
