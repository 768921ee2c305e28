/* SPDX-License-Identifier: Apache-2.0
 *
 * client.h - the clients of a simulated broker: people with a WebSocket, scripts with HTTP, and
 * guests, each of whom tries one thing.
 *
 * A client knows the protocol and nothing of the broker's inside.  It remembers across connections
 * (and lives of the broker) what a real one would: its unacknowledged messages and its positions.
 */
#ifndef POSTERN_TESTS_SIM_CLIENT_H
#define POSTERN_TESTS_SIM_CLIENT_H

#include "world.h"

#include <postern/codec.h>
#include <postern/messages.h>

#define CALLS_MAX 256u

enum call_kind { CALL_NONE, CALL_MESSAGE, CALL_PUBLISH, CALL_SUBSCRIBE, CALL_REQUEST, CALL_OTHER };

struct call { /* a question without an answer */
    enum call_kind kind;
    uint32_t id;  /* WebSocket: the frame's */
    uint32_t ref; /* message index, subject, or number of the event */
    uint32_t subject;
};

enum sub_state { SUB_NONE, SUB_ASKED, SUB_ON, SUB_LEAVING };

struct subscription {
    enum sub_state state;
    bool left;             /* and came back, or not: older events may still be on their way */
    struct position since; /* as asked for */
    char epoch[EPOCH_MAX];
    uint64_t at; /* offset of the last event, or where it began */
};

enum client_state {
    CLIENT_DOWN,
    CLIENT_CONNECTING,
    CLIENT_UPGRADING,
    CLIENT_WELCOMING,
    CLIENT_LIVE
};

struct client;
struct client_kind { /* what makes a client of one kind; NULL: nothing */
    bool http;
    bool leaves;                              /* when the faults are over */
    bool (*may_come)(const struct client *c); /* NULL: always */
    void (*opened)(struct client *c);         /* the connection is there */
    void (*act)(struct client *c);            /* now and then, while it is live */
    void (*lost)(struct client *c);           /* the connection is over; c->calls have no answers */
    /* HTTP: `call` has this answer, and is over. */
    void (*answered)(struct client *c, const struct call *call, unsigned long status,
                     ptn_bytes envelope);
    void (*frame)(struct client *c, ptn_bytes frame); /* WebSocket */
    /* WebSocket: an upgrade is refused, or a connection closed, with this; true: as it should. */
    bool (*denied)(struct client *c, unsigned code);
    const char *(*waits_for)(const struct client *c);
};

struct client {
    const struct client_kind *kind;
    ptn_env *env;
    ptn_sim_rng rng;
    unsigned index, user, device;
    bool msgpack, pattern;
    bool streaming;  /* HTTP: the head of a stream of events has come */
    unsigned stream; /* what it listens to; SUBJECTS: nothing */
    bool settling;   /* no faults any more: come back, finish, be quiet */
    bool gone;       /* never again */
    enum client_state state;
    ptn_sim_peer *peer;
    ptn_sim_timer timer;
    bool vanished;
    uint32_t session; /* number of this connection */
    uint32_t next_id, n_published[TOPICS], acked_n[TOPICS];
    struct position acked_at[TOPICS];
    struct call calls[CALLS_MAX]; /* HTTP: a queue; WebSocket: a set */
    uint32_t n_calls;
    struct subscription subs[SUBJECTS];
    enum sub_state pattern_state;
    struct position seen[TOPICS]; /* through the pattern */
    char refusal[80];             /* the last one, for the report of a failure */
    uint32_t last_words;          /* messages still to send while settling */
    ptn_json_parser *json;
    ptn_out out;
    uint8_t *in;
    size_t in_len, in_cap;
};

void client_start(struct client *c, ptn_env *env, unsigned index);
/* One of guests_planned(), with a token, or what it needs to get one. */
void guest_start(struct client *c, ptn_env *env, unsigned guest);
unsigned guests_planned(void);
void client_settle(struct client *c); /* faults are over */
void client_quit(struct client *c);   /* does nothing by itself any more; answers a close */
void client_done(struct client *c);
/* NULL: nothing is open; otherwise what it waits for. */
const char *client_waits_for(const struct client *c);
uint32_t client_n_unacknowledged(const struct client *c);

/* ---- between the files of clients ------------------------------------------------------------ */

extern const char sim_address[];
extern char sim_tokens[PEOPLE][512];

extern const struct client_kind http_kind, ws_kind, login_kind, host_kind, device_kind,
    replica_kind, socket_kind;
extern const char login_hash[]; /* of the password of those who log in */

void client_init(struct client *c, ptn_env *env, unsigned index, const struct client_kind *kind);

uint32_t client_below(struct client *c, uint32_t n);
bool client_chance(struct client *c, uint32_t ppm);
void client_hang_up(struct client *c, bool reset); /* and comes back later */
struct call *client_call(struct client *c, enum call_kind kind, uint32_t ref, uint32_t subject);
void client_call_end(struct client *c, struct call *call); /* keeps the others' order */
/* A message of this client: a new one, or one that is still unacknowledged.  -1: the ledger is
 * full, or the client may not write. */
int client_message(struct client *c, bool again);
int client_message_to(struct client *c, unsigned room); /* a new one */
void client_pack_message(struct client *c, ptn_pack *w, uint32_t index);
/* Its members: id, conversationId and content. */
void client_pack_members(ptn_pack *w, uint32_t index);
/* The body of a POST /sync that holds the message twice. */
void client_pack_items(ptn_pack *w, uint32_t index);
void client_send(struct client *c, const void *p, size_t n);
/* JSON or msgpack of one packed value in c->out; consumes w. */
void client_encode(struct client *c, ptn_pack *w);

/* What a topic event says about its publisher, whose events come in the order in which it sent
 * them. */
void client_saw_published(struct client *c, unsigned topic, const char *epoch, uint64_t offset,
                          ptn_bytes data);

void ws_input(struct client *c);
/* Asks for a WebSocket; query: "?name=" of the value, or empty; bearer: a token, or NULL. */
void ws_upgrade(struct client *c, const char *query, const char *value, const char *bearer);
void ws_hang_up(struct client *c); /* says goodbye first */
void http_input(struct client *c);
void ws_send(struct client *c, ptn_pack *w);                  /* consumes w */
struct call *ws_find_call(struct client *c, ptn_bytes frame); /* NULL: it answers nothing */
/* A refusal that a good client must expect.  It asks again. */
void ws_refused(struct client *c, ptn_bytes frame);
/* A call's frame up to its own members, of which there are so many. */
void ws_begin_call(ptn_pack *w, const char *type, const struct call *call, uint32_t members);
/* Consumes w; NULL: no body.  token NULL: none. */
void http_send(struct client *c, const char *method, const char *path, const char *token,
               ptn_pack *w);
/* An answer that is no success, to a request that was good: it has to be one of those that say
 * "again, later". */
void http_refused(struct client *c, unsigned long status, ptn_bytes envelope);
void sse_begin(struct client *c); /* instead of requests */
bool sse_take(struct client *c);  /* one block of the input; false: not all of it is there */

#endif
