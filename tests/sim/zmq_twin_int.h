/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_twin_int.h - what the files of the twin share: messages, pipes, connections, sockets.
 *
 *     socket <- mailbox <- pipe (queues in and out) <-> link (bytes under way) <-> pipe of the peer
 *
 * Pipes and links are freed at the end of everything: a command or an event may outlive the use of
 * its object, and finds that out by the object's state.
 */
#ifndef POSTERN_TESTS_SIM_ZMQ_TWIN_INT_H
#define POSTERN_TESTS_SIM_ZMQ_TWIN_INT_H

#include "runtime/env/env_sim.h"
#include "zmq_twin.h"

#include <zmq.h>

#define TWIN_IDENTITY_MAX 255u
#define TWIN_ADDRESS_MAX 256u
#define TWIN_BOUND_MAX 8u

/* ---- messages -------------------------------------------------------------------------------- */

struct twin_blob { /* the bytes of a part, shared by everybody who has it */
    uint32_t refs;
    size_t n;
    void *data;
    zmq_free_fn *ffn;
    void *hint;
    max_align_t bytes[];
};

struct twin_part {
    struct twin_part *next;
    struct twin_blob *blob;
};

struct twin_message {
    struct twin_message *next;
    struct twin_part *first, *last;
    size_t bytes, largest;
    ptn_time due;
    bool is_identity; /* from the handshake, not counted */
    bool is_end;      /* under way: the connection was closed behind the last message */
};

struct twin_queue {
    struct twin_message *first, *last;
};

struct twin_blob *twin_blob_new(const void *p, size_t n);
struct twin_blob *twin_blob_ref(struct twin_blob *b);
void twin_blob_unref(struct twin_blob *b);
struct twin_message *twin_message_new(void);
void twin_message_add(struct twin_message *m, struct twin_blob *take_blob, bool in_front);
struct twin_message *twin_message_share(const struct twin_message *m);
void twin_message_free(struct twin_message *m);
void twin_queue_put(struct twin_queue *q, struct twin_message *m);
struct twin_message *twin_queue_take(struct twin_queue *q); /* NULL: empty */
void twin_queue_clear(struct twin_queue *q);

/* ---- pipes and links ------------------------------------------------------------------------- */

enum twin_pipe_state {
    TWIN_ACTIVE,
    TWIN_ENDING, /* its connection is gone; what came before is still to be read */
    TWIN_ENDED,  /* asked to go; the socket has not heard yet */
    TWIN_GONE
};

struct twin_topic {
    struct twin_topic *next;
    struct twin_blob *bytes;
    uint32_t refs;
};

struct twin_pipe { /* of one peer, seen by the socket */
    struct twin_pipe *made;
    struct twin_socket *socket;
    struct twin_link *link; /* NULL: not connected now */
    unsigned side;
    enum twin_pipe_state state;
    bool connector; /* connects again and again */
    char address[TWIN_ADDRESS_MAX];
    struct twin_queue in, out;
    bool asleep;      /* the reader found nothing: the next message announces itself */
    bool in_active;   /* the socket believes that there is input */
    bool end_written; /* behind everything in `in` */
    bool end_read;    /* before the socket was told */
    bool out_active;  /* the socket believes that there is room */
    bool draining;    /* the socket is closed and lingers */
    uint64_t in_put, in_got, in_told; /* told: what the other end of the queue knows of got */
    uint64_t out_put, out_got, out_told;
    bool identified;
    struct twin_blob *identity; /* ROUTER: of the peer */
    struct twin_topic *topics;  /* XPUB: of the peer */
    bool matched;               /* XPUB: gets the message that is being sent */
};

struct twin_way { /* one direction of a link */
    struct twin_queue flight;
    size_t bytes;
    ptn_time last_due;
    bool up;        /* the sender's handshake is over */
    bool scheduled; /* an arrival */
};

struct twin_link {
    struct twin_link *made;
    struct twin_pipe *pipes[2]; /* who connected, who was bound */
    struct twin_way ways[2];    /* ways[side]: from that side */
    bool open[2];               /* that side still has its descriptor */
};

/* ---- sockets --------------------------------------------------------------------------------- */

enum twin_command_kind { TWIN_ATTACH, TWIN_READ, TWIN_WRITE, TWIN_TERM, TWIN_TERMED, TWIN_HICCUP };

struct twin_command {
    struct twin_command *next;
    enum twin_command_kind kind;
    struct twin_pipe *pipe;
    uint64_t n;
};

struct twin_context {
    unsigned n_sockets;
};

struct twin_socket {
    struct twin_socket *next;
    struct twin_context *context;
    int type, fd;
    bool closed;
    int linger, sndhwm, rcvhwm, immediate, mandatory, handover, verbose, nodrop;
    int heartbeat_ivl, heartbeat_timeout, reconnect_ivl;
    int64_t message_max; /* -1: none */
    struct twin_blob *identity;
    char bound[TWIN_BOUND_MAX][TWIN_ADDRESS_MAX];
    unsigned n_bound;
    char last_endpoint[TWIN_ADDRESS_MAX];
    struct twin_command *first, *last; /* the mailbox */
    struct twin_pipe **pipes;          /* attached, in that order */
    size_t n_pipes, pipes_cap;
    size_t read_turn, write_turn;
    unsigned ticks;                /* receives since the mailbox was looked at */
    struct twin_message *incoming; /* being handed out part by part */
    bool more;                     /* of the last part that was handed out */
    struct twin_message *outgoing; /* being put together */
    struct twin_pipe *to;          /* NULL: to nobody, it is dropped */
    struct twin_topic *topics;     /* SUB */
    bool missed;                   /* SUB: a publisher dropped something on its way here */
    struct twin_queue told;        /* XPUB: subscriptions to be read */
    uint32_t next_identity;
    bool awaiting; /* REQ */
    struct twin_pipe *asked;
};

/* zmq_twin_link.c */
extern struct twin_socket *twin_sockets;
uint32_t twin_random(void);
bool twin_chance_lazy(void);
struct twin_pipe *twin_pipe_connect(struct twin_socket *s, const char *address);
void twin_pipe_close(struct twin_pipe *p, bool vanish); /* its socket is being closed */
bool twin_pipe_has_room(struct twin_pipe *p);
/* For the oracles: what is dropped here would have gone to that socket. */
void twin_pipe_peer_misses(struct twin_pipe *p);
void twin_pipe_write(struct twin_pipe *p, struct twin_message *m);
struct twin_message *twin_pipe_read(struct twin_pipe *p);
bool twin_pipe_has_input(struct twin_pipe *p);
void twin_pipe_finish(struct twin_pipe *p);
void twin_pipe_give_up(struct twin_pipe *p); /* the socket wants to hear no more of it */
void twin_pipe_drop_output(struct twin_pipe *p);
void twin_sockets_close_pipes(struct twin_socket *s, bool vanish);

/* zmq_twin_kinds.c */
void twin_process(struct twin_socket *s); /* the whole mailbox */
void twin_attach(struct twin_socket *s, struct twin_pipe *p);
/* 0 or an errno.  The part is taken only with 0. */
int twin_send(struct twin_socket *s, struct twin_blob *take_part, bool more);
int twin_next(struct twin_socket *s); /* makes s->incoming; or an errno */
bool twin_has_in(struct twin_socket *s);
bool twin_has_out(struct twin_socket *s);
void twin_subscribe(struct twin_socket *s, struct twin_blob *take_topic);
bool twin_unsubscribe(struct twin_socket *s, const void *p, size_t n);
void twin_topics_free(struct twin_topic **head);

#endif
