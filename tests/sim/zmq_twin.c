/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_twin.c - the twin's face: the functions of zmq.h.
 */
#include "zmq_twin_int.h"

#include <errno.h>
#include <stdlib.h>

#define FD_FIRST 1000          /* never a descriptor of this process */
#define INBOUND_POLL_RATE 100u /* libzmq looks at its mailbox after so many receives */
#define FIRST_PORT 40000u

static int next_fd = FD_FIRST;
static unsigned next_port = FIRST_PORT;

/* What a zmq_msg_t holds. */
struct msg {
    struct twin_blob *blob; /* NULL: empty */
    bool more;
};
_Static_assert(sizeof(struct msg) <= sizeof(zmq_msg_t), "a message has to fit");

static struct msg *msg_of(const zmq_msg_t *m) {
    return (struct msg *)(uintptr_t)m;
}

static int fail(int err) {
    errno = err;
    return -1;
}

int zmq_errno(void) {
    return errno;
}

const char *zmq_strerror(int errnum) {
    switch (errnum) {
    case EFSM:
        return "Operation cannot be accomplished in current state";
    case ETERM:
        return "Context was terminated";
    default:
        return strerror(errnum);
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

int zmq_msg_init(zmq_msg_t *m) {
    *msg_of(m) = (struct msg){0};
    return 0;
}

int zmq_msg_init_size(zmq_msg_t *m, size_t n) {
    *msg_of(m) = (struct msg){.blob = twin_blob_new(NULL, n)};
    return 0;
}

int zmq_msg_init_data(zmq_msg_t *m, void *data, size_t n, zmq_free_fn *ffn, void *hint) {
    struct twin_blob *b = twin_blob_new(NULL, 0);
    b->data = data;
    b->n = n;
    b->ffn = ffn;
    b->hint = hint;
    *msg_of(m) = (struct msg){.blob = b};
    return 0;
}

int zmq_msg_close(zmq_msg_t *m) {
    twin_blob_unref(msg_of(m)->blob);
    return zmq_msg_init(m);
}

int zmq_msg_copy(zmq_msg_t *dest, zmq_msg_t *src) {
    struct twin_blob *b = msg_of(src)->blob;
    (void)zmq_msg_close(dest);
    if (b != NULL)
        msg_of(dest)->blob = twin_blob_ref(b);
    return 0;
}

void *zmq_msg_data(zmq_msg_t *m) {
    return msg_of(m)->blob != NULL ? msg_of(m)->blob->data : m;
}

size_t zmq_msg_size(const zmq_msg_t *m) {
    return msg_of(m)->blob != NULL ? msg_of(m)->blob->n : 0;
}

int zmq_msg_more(const zmq_msg_t *m) {
    return msg_of(m)->more ? 1 : 0;
}

/* ---- contexts and sockets -------------------------------------------------------------------- */

void *zmq_ctx_new(void) {
    struct twin_context *c = calloc(1, sizeof *c);
    if (c == NULL)
        errno = ENOMEM;
    return c;
}

int zmq_ctx_set(void *context, int option, int value) {
    (void)context, (void)option, (void)value;
    return 0;
}

int zmq_ctx_term(void *context) {
    struct twin_context *c = context;
    PTN_ASSERT(c->n_sockets == 0); /* libzmq would wait for ever */
    free(c);
    return 0;
}

void *zmq_socket(void *context, int type) {
    struct twin_context *c = context;
    struct twin_socket *s, **end = &twin_sockets;
    if (type != ZMQ_ROUTER && type != ZMQ_XPUB && type != ZMQ_DEALER && type != ZMQ_REQ &&
        type != ZMQ_SUB) {
        errno = EINVAL;
        return NULL;
    }
    s = calloc(1, sizeof *s);
    PTN_ASSERT(s != NULL);
    *s = (struct twin_socket){.context = c,
                              .type = type,
                              .fd = next_fd++,
                              .linger = -1,
                              .sndhwm = 1000,
                              .rcvhwm = 1000,
                              .reconnect_ivl = 100,
                              .message_max = -1,
                              .next_identity = twin_random()};
    c->n_sockets++;
    while (*end != NULL)
        end = &(*end)->next;
    *end = s;
    return s;
}

static int socket_close(struct twin_socket *s, bool vanish) {
    twin_process(s);
    s->closed = true;
    s->context->n_sockets--;
    twin_sockets_close_pipes(s, vanish);
    twin_message_free(s->incoming);
    twin_message_free(s->outgoing);
    s->incoming = s->outgoing = NULL;
    twin_queue_clear(&s->told);
    twin_topics_free(&s->topics);
    twin_blob_unref(s->identity);
    s->identity = NULL;
    free(s->pipes);
    s->pipes = NULL;
    s->n_pipes = 0;
    return 0;
}

int zmq_close(void *socket) {
    return socket_close(socket, false);
}

void zmq_twin_vanish(void *socket) {
    (void)socket_close(socket, true);
}

bool zmq_twin_missed(const void *socket) {
    return ((const struct twin_socket *)socket)->missed;
}

int zmq_bind(void *socket, const char *address) {
    struct twin_socket *s = socket;
    char real[TWIN_ADDRESS_MAX];
    size_t n = strlen(address);
    bool any = n > 2 && (strcmp(address + n - 2, ":0") == 0 || strcmp(address + n - 2, ":*") == 0);
    if (s->n_bound == TWIN_BOUND_MAX || n + 8 > sizeof real)
        return fail(EINVAL);
    if (any)
        (void)snprintf(real, sizeof real, "%.*s:%u", (int)n - 2, address, next_port++);
    else
        (void)snprintf(real, sizeof real, "%s", address);
    for (const struct twin_socket *o = twin_sockets; o != NULL; o = o->next)
        for (unsigned i = 0; i < o->n_bound && !o->closed; i++)
            if (strcmp(o->bound[i], real) == 0)
                return fail(EADDRINUSE);
    (void)snprintf(s->bound[s->n_bound++], TWIN_ADDRESS_MAX, "%s", real);
    (void)snprintf(s->last_endpoint, sizeof s->last_endpoint, "%s", real);
    return 0;
}

int zmq_connect(void *socket, const char *address) {
    struct twin_socket *s = socket;
    bool may = s->type == ZMQ_DEALER || s->type == ZMQ_REQ || s->type == ZMQ_SUB;
    if (!may || s->immediate != 0 || strlen(address) >= TWIN_ADDRESS_MAX)
        return fail(EINVAL);
    (void)twin_pipe_connect(s, address);
    (void)snprintf(s->last_endpoint, sizeof s->last_endpoint, "%s", address);
    return 0;
}

/* ---- options --------------------------------------------------------------------------------- */

static int ignored;

/* NULL: not an option with an int. */
static int *int_option(struct twin_socket *s, int option) {
    switch (option) {
    case ZMQ_LINGER:
        return &s->linger;
    case ZMQ_SNDHWM:
        return &s->sndhwm;
    case ZMQ_RCVHWM:
        return &s->rcvhwm;
    case ZMQ_IMMEDIATE:
        return &s->immediate;
    case ZMQ_HEARTBEAT_IVL:
        return &s->heartbeat_ivl;
    case ZMQ_HEARTBEAT_TIMEOUT:
        return &s->heartbeat_timeout;
    case ZMQ_RECONNECT_IVL:
        return &s->reconnect_ivl;
    case ZMQ_ROUTER_MANDATORY:
        return s->type == ZMQ_ROUTER ? &s->mandatory : NULL;
    case ZMQ_ROUTER_HANDOVER:
        return s->type == ZMQ_ROUTER ? &s->handover : NULL;
    case ZMQ_XPUB_VERBOSE:
        return s->type == ZMQ_XPUB ? &s->verbose : NULL;
    case ZMQ_XPUB_NODROP:
        return s->type == ZMQ_XPUB ? &s->nodrop : NULL;
    case ZMQ_SNDTIMEO:
    case ZMQ_RCVTIMEO:
    case ZMQ_BACKLOG:
    case ZMQ_TCP_KEEPALIVE:
    case ZMQ_HANDSHAKE_IVL:
    case ZMQ_IPV6:
        return &ignored;
    default:
        return NULL;
    }
}

int zmq_setsockopt(void *socket, int option, const void *value, size_t n) {
    struct twin_socket *s = socket;
    int *number = int_option(s, option);
    if (number != NULL) {
        if (n != sizeof *number)
            return fail(EINVAL);
        memcpy(number, value, sizeof *number);
        return 0;
    }
    switch (option) {
    case ZMQ_MAXMSGSIZE:
        if (n != sizeof s->message_max)
            return fail(EINVAL);
        memcpy(&s->message_max, value, sizeof s->message_max);
        return 0;
    case ZMQ_ROUTING_ID:
        if (n == 0 || n > TWIN_IDENTITY_MAX || *(const uint8_t *)value == 0)
            return fail(EINVAL);
        twin_blob_unref(s->identity);
        s->identity = twin_blob_new(value, n);
        return 0;
    case ZMQ_SUBSCRIBE:
        if (s->type != ZMQ_SUB)
            return fail(EINVAL);
        twin_subscribe(s, twin_blob_new(value, n));
        return 0;
    case ZMQ_UNSUBSCRIBE:
        return s->type == ZMQ_SUB && twin_unsubscribe(s, value, n) ? 0 : fail(EINVAL);
    default:
        return fail(EINVAL);
    }
}

static int give(void *value, size_t *n, int v) {
    if (*n < sizeof v)
        return fail(EINVAL);
    memcpy(value, &v, sizeof v);
    *n = sizeof v;
    return 0;
}

int zmq_getsockopt(void *socket, int option, void *value, size_t *n) {
    struct twin_socket *s = socket;
    int *number = int_option(s, option);
    if (number != NULL)
        return give(value, n, *number);
    switch (option) {
    case ZMQ_FD:
        return give(value, n, s->fd);
    case ZMQ_TYPE:
        return give(value, n, s->type);
    case ZMQ_RCVMORE:
        return give(value, n, s->more ? 1 : 0);
    case ZMQ_EVENTS:
        twin_process(s);
        int in = twin_has_in(s) ? ZMQ_POLLIN : 0, out = twin_has_out(s) ? ZMQ_POLLOUT : 0;
        return give(value, n, in | out);
    case ZMQ_LAST_ENDPOINT:
        if (*n <= strlen(s->last_endpoint))
            return fail(EINVAL);
        *n = strlen(s->last_endpoint) + 1;
        memcpy(value, s->last_endpoint, *n);
        return 0;
    default:
        return fail(EINVAL);
    }
}

/* ---- input and output ------------------------------------------------------------------------ */

/* The part that is next, with a reference for the caller; NULL with errno. */
static struct twin_blob *take_part(struct twin_socket *s) {
    if (++s->ticks == INBOUND_POLL_RATE) {
        twin_process(s);
        s->ticks = 0;
    }
    int err = twin_next(s);
    if (err == EAGAIN) {
        twin_process(s);
        s->ticks = 0;
        err = twin_next(s);
    }
    if (err != 0) {
        errno = err;
        return NULL;
    }
    struct twin_part *part = s->incoming->first;
    struct twin_blob *b = part->blob;
    s->incoming->first = part->next;
    s->more = part->next != NULL;
    free(part);
    if (!s->more) {
        twin_message_free(s->incoming);
        s->incoming = NULL;
        s->awaiting = false;
    }
    return b;
}

int zmq_msg_recv(zmq_msg_t *m, void *socket, int flags) {
    struct twin_socket *s = socket;
    (void)flags;
    struct twin_blob *b = take_part(s);
    if (b == NULL)
        return -1;
    (void)zmq_msg_close(m);
    *msg_of(m) = (struct msg){.blob = b, .more = s->more};
    return (int)b->n;
}

int zmq_recv(void *socket, void *buf, size_t buf_bytes, int flags) {
    (void)flags;
    struct twin_blob *b = take_part(socket);
    if (b == NULL)
        return -1;
    int n = (int)b->n;
    if (b->n > 0 && buf_bytes > 0)
        memcpy(buf, b->data, b->n < buf_bytes ? b->n : buf_bytes);
    twin_blob_unref(b);
    return n;
}

int zmq_send(void *socket, const void *p, size_t n, int flags) {
    struct twin_blob *b = twin_blob_new(p, n);
    int err = twin_send(socket, b, (flags & ZMQ_SNDMORE) != 0);
    if (err == 0)
        return (int)n;
    twin_blob_unref(b);
    return fail(err);
}

int zmq_msg_send(zmq_msg_t *m, void *socket, int flags) {
    struct twin_blob *b = msg_of(m)->blob;
    int n = (int)zmq_msg_size(m);
    if (b == NULL)
        msg_of(m)->blob = b = twin_blob_new(NULL, 0);
    int err = twin_send(socket, b, (flags & ZMQ_SNDMORE) != 0);
    if (err != 0)
        return fail(err);
    (void)zmq_msg_init(m);
    return n;
}
