/* SPDX-License-Identifier: Apache-2.0
 *
 * client_zmq.c - simulated ZeroMQ clients, and the oracles that look at what they hear.
 *
 * Each has a socket for questions and a subscriber; what they know of protocol and ledger is in
 * `base`, a client like the others without a connection of its own.
 */
#include "client_zmq.h"

#include "client.h"
#include "zmq_twin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

#define IN_FLIGHT_MAX 48u
#define IDS_MAX 32768u
#define PARTS_MAX 16u
#define INPUT_NS_MEAN 50000
#define BACK_NS_MEAN (300 * PTN_MS)
#define ANSWER_NS_MAX (20 * PTN_SEC) /* then it is lost; deadlines are 10 s */
#define LAST_WORDS 2u
#define HWM 1000 /* libzmq's own */
#define TOPIC_SUBJECT CONVERSATIONS

const char *const zmq_request_addresses[1] = {"ipc:///postern-sim/requests"};
const char *const zmq_event_addresses[2] = {"ipc:///postern-sim/events", "tcp://127.0.0.1:8775"};

static const char *const prefixes[] = {"t.", "", "t.1", "conversation.", "t.3"};

struct zclient {
    struct client base;
    bool req;    /* one question at a time */
    bool named;  /* as DEALER: chooses its identity, and comes back under it */
    bool frozen; /* reads nothing, says nothing */
    bool up;     /* has sockets */
    void *context, *questions, *events, *vandal;
    int fds[2];
    ptn_sim_timer input;
    bool input_asked;
    unsigned prefix;
    bool tcp; /* hears public topics only */
    bool heard_since_settled;
    ptn_time asked_at[IN_FLIGHT_MAX]; /* of base.calls */
    struct position at[SUBJECTS];
    bool heard[SUBJECTS]; /* through this subscriber */
    bool narrow;          /* a queue of its way holds less than a settling client might ask for */
    bool lossless;        /* nothing on the way to it may drop an event */
    uint8_t ids[IDS_MAX]; /* by id: ID_.. */
};

enum { ID_NEW, ID_ASKED, ID_ANSWERED };

static struct {
    ptn_env *env;
    ptn_sim_timer pump;
    unsigned n;
    bool fifo; /* no connection breaks unseen */
    struct zclient clients[ZMQ_CLIENTS_MAX];
} Z;

/* ---- the twin's host ------------------------------------------------------------------------- */

static void act(void *arg);
static void read_all(void *arg);

static ptn_time host_now(void *arg) {
    (void)arg;
    return ptn_sim_now(Z.env);
}

static void pump(void *arg);

static void host_at(void *arg, ptn_time due) {
    ptn_time now = ptn_sim_now(Z.env);
    ptn_sim_timer_start(Z.env, &Z.pump, due > now ? due - now : 0, pump, arg);
}

static void pump(void *arg) {
    ptn_time due = zmq_twin_run();
    if (due != PTN_NEVER)
        host_at(arg, due);
}

static void host_ready(void *arg, int fd) {
    (void)arg;
    for (unsigned i = 0; i < Z.n; i++) {
        struct zclient *z = &Z.clients[i];
        if (!z->up || (z->fds[0] != fd && z->fds[1] != fd))
            continue;
        if (!z->input_asked) {
            z->input_asked = true;
            ptn_sim_timer_start(Z.env, &z->input, 1 + ptn_sim_rng_exp(&z->base.rng, INPUT_NS_MEAN),
                                read_all, z);
        }
        return;
    }
    ptn_sim_fd_ready(Z.env, fd);
}

bool zmq_fd_readable(void *arg, int fd) {
    (void)arg;
    return zmq_twin_readable(fd);
}

static zmq_twin_faults faults_of(const ptn_sim_faults *f, uint32_t lazy_ppm) {
    return (zmq_twin_faults){.delay_min_ns = f->delay_min_ns,
                             .delay_mean_ns = f->delay_mean_ns,
                             .tail_ppm = f->tail_ppm,
                             .tail_ns = f->tail_ns,
                             .window_bytes = f->window_bytes,
                             .break_ppm = f->reset_ppm / 4,
                             .lazy_ppm = lazy_ppm};
}

/* ---- sockets --------------------------------------------------------------------------------- */

static void later(struct zclient *z, ptn_time mean) {
    ptn_sim_timer_start(Z.env, &z->base.timer, 1 + ptn_sim_rng_exp(&z->base.rng, mean), act, z);
}

static void *socket_new(struct zclient *z, int type, const char *address, int hwm) {
    void *s = zmq_socket(z->context, type);
    int zero = 0;
    PTN_ASSERT(s != NULL);
    (void)zmq_setsockopt(s, ZMQ_LINGER, &zero, sizeof zero);
    (void)zmq_setsockopt(s, ZMQ_RCVHWM, &hwm, sizeof hwm);
    /* Not REQ: it would take an answer to its earlier self for the one that it waits for. */
    if (type == ZMQ_DEALER && z->named && z->questions == NULL) {
        char name[16];
        int n = snprintf(name, sizeof name, "client-%u", z->base.index);
        PTN_ASSERT(zmq_setsockopt(s, ZMQ_ROUTING_ID, name, (size_t)n) == 0);
    }
    PTN_ASSERT(zmq_connect(s, address) == 0);
    return s;
}

static int fd_of(void *s) {
    int fd = -1;
    size_t n = sizeof fd;
    PTN_ASSERT(zmq_getsockopt(s, ZMQ_FD, &fd, &n) == 0);
    return fd;
}

static void come(struct zclient *z) {
    struct client *c = &z->base;
    z->req = client_below(c, 3) == 0;
    c->session = ++world->n_sessions;
    world->tally.sessions++;
    if (c->session >= SESSIONS_MAX) {
        c->gone = true;
        return;
    }
    memset(c->n_published, 0, sizeof c->n_published);
    int hwm = client_below(c, 2) == 0 ? 1 + (int)client_below(c, 8) : HWM;
    z->questions = socket_new(z, z->req ? ZMQ_REQ : ZMQ_DEALER, zmq_request_addresses[0], hwm);
    z->tcp = client_below(c, 2) == 0;
    z->prefix = client_below(c, PTN_ARRAY_LEN(prefixes));
    if (z->tcp && strncmp(prefixes[z->prefix], "conversation.", 13) == 0)
        z->tcp = false;
    z->events = socket_new(z, ZMQ_SUB, zmq_event_addresses[z->tcp], hwm);
    const char *prefix = prefixes[z->prefix];
    PTN_ASSERT(zmq_setsockopt(z->events, ZMQ_SUBSCRIBE, prefix, strlen(prefix)) == 0);
    z->fds[0] = fd_of(z->questions);
    z->fds[1] = fd_of(z->events);
    z->up = true;
    z->heard_since_settled = false;
    memset(z->heard, 0, sizeof z->heard);
    z->narrow = hwm < HWM || world->plan.zmq_hwm != 0;
    z->lossless = Z.fifo && !z->narrow && world->plan.hub_mailbox == 0 && !actors_may_fail();
}

static void drop(void **socket, bool vanish) {
    if (*socket != NULL && vanish)
        zmq_twin_vanish(*socket);
    else if (*socket != NULL)
        (void)zmq_close(*socket);
    *socket = NULL;
}

/* What was asked and not answered stays open: after it has come back, it asks again. */
static void go(struct zclient *z, bool vanish) {
    drop(&z->questions, vanish);
    drop(&z->events, vanish);
    drop(&z->vandal, vanish);
    world->tally.closed += z->up;
    z->up = z->frozen = false;
    z->base.n_calls = 0;
}

/* ---- questions ------------------------------------------------------------------------------- */

static bool may_ask(const struct zclient *z) {
    return z->base.n_calls < (z->req ? 1 : IN_FLIGHT_MAX) && z->base.next_id + 1 < IDS_MAX;
}

/* Consumes w.  A queue that is full is as if it had not been asked. */
static void ask(struct zclient *z, ptn_pack *w, struct call *call) {
    struct client *c = &z->base;
    bool ok = true;
    call->subject = call->subject << 8 | (z->req ? 0 : client_below(c, 3));
    client_encode(c, w);
    if ((call->subject & 0xff) == 2)
        ok = zmq_send(z->questions, "proxy", 5, ZMQ_DONTWAIT | ZMQ_SNDMORE) >= 0;
    if (ok && (call->subject & 0xff) > 0)
        ok = zmq_send(z->questions, "", 0, ZMQ_DONTWAIT | ZMQ_SNDMORE) >= 0;
    ok = ok && zmq_send(z->questions, c->out.p, c->out.len, ZMQ_DONTWAIT) >= 0;
    z->ids[call->id] = ID_ASKED;
    z->asked_at[call - c->calls] = ptn_sim_now(Z.env);
    if (!ok) {
        ORACLE(zmq_errno() == EAGAIN, "wire: ZeroMQ client %u cannot send: %s", c->index,
               zmq_strerror(zmq_errno()));
        c->n_calls--;
    }
}

static void begin(struct zclient *z, ptn_pack *w, const char *type, const struct call *call,
                  uint32_t members) {
    ptn_pack_init(w, 256);
    ptn_pack_map(w, members + 3);
    ptn_pack_key(w, "type");
    ptn_pack_cstr(w, type);
    ptn_pack_key(w, "id");
    ptn_pack_uint(w, call->id);
    ptn_pack_key(w, "token");
    ptn_pack_cstr(w, sim_tokens[z->base.user]);
}

static void ask_message(struct zclient *z, bool again) {
    ptn_pack w;
    int index = may_ask(z) ? client_message(&z->base, again) : -1;
    if (index < 0)
        return;
    if (!Z.fifo)
        world->sent[index].session = 0;
    struct call *call = client_call(&z->base, CALL_MESSAGE, (uint32_t)index, 0);
    begin(z, &w, "message", call, 1);
    ptn_pack_key(&w, "message");
    client_pack_message(&z->base, &w, (uint32_t)index);
    ask(z, &w, call);
}

static bool publishes(const struct client *c) {
    for (uint32_t i = 0; i < c->n_calls; i++)
        if (c->calls[i].kind == CALL_PUBLISH)
            return true;
    return false;
}

/* When connections may break unseen, what is sent behind a break can come before what was sent
 * ahead of it: then one at a time. */
static void ask_publish(struct zclient *z, unsigned topic) {
    ptn_pack w;
    struct client *c = &z->base;
    if (!may_ask(z) || (!Z.fifo && publishes(c)))
        return;
    struct call *call = client_call(c, CALL_PUBLISH, ++c->n_published[topic], topic);
    begin(z, &w, "publish", call, 2);
    ptn_pack_key(&w, "topic");
    ptn_pack_cstr(&w, subject_name(TOPIC_SUBJECT + topic));
    ptn_pack_key(&w, "data");
    ptn_pack_map(&w, 2);
    ptn_pack_key(&w, "session");
    ptn_pack_uint(&w, c->session);
    ptn_pack_key(&w, "n");
    ptn_pack_uint(&w, call->ref);
    ask(z, &w, call);
}

static void ask_request(struct zclient *z, bool ping) {
    ptn_pack w;
    if (!may_ask(z))
        return;
    struct call *call = client_call(&z->base, CALL_REQUEST, 0, 0);
    begin(z, &w, ping ? "ping" : "request", call, ping ? 0 : 2);
    if (!ping) {
        ptn_pack_key(&w, "method");
        ptn_pack_cstr(&w, "GET");
        ptn_pack_key(&w, "path");
        ptn_pack_cstr(&w, "/api/v1/health");
    }
    ask(z, &w, call);
}

/* Any number of parts of anything, on a socket of its own whose answers nobody reads. */
static void vandalise(struct zclient *z) {
    static const char *const words[] = {"",
                                        "MDPC02",
                                        "{\"type\":\"ping\"}",
                                        "{\"type\":",
                                        "\x81\xa4",
                                        "\xff",
                                        "{\"type\":\"publish\",\"token\":\"x\",\"id\":7}",
                                        "[1]"};
    static const uint8_t large[300000];
    struct client *c = &z->base;
    if (z->vandal == NULL)
        z->vandal =
            socket_new(z, ZMQ_DEALER, zmq_request_addresses[0], 1 + (int)client_below(c, 4));
    for (unsigned k = 1 + client_below(c, 30); k > 0; k--) {
        for (unsigned parts = client_below(c, 10); parts > 0; parts--) {
            const char *word = words[client_below(c, PTN_ARRAY_LEN(words))];
            if (zmq_send(z->vandal, word, strlen(word), ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
                return;
        }
        size_t n = client_below(c, 20) == 0 ? sizeof large : client_below(c, 400);
        if (zmq_send(z->vandal, large, n, ZMQ_DONTWAIT) < 0)
            return;
    }
    if (client_below(c, 4) == 0)
        drop(&z->vandal, client_below(c, 2) == 0);
}

/* ---- answers --------------------------------------------------------------------------------- */

static void on_ack(struct zclient *z, ptn_bytes frame, const struct call *call) {
    struct client *c = &z->base;
    ptn_bytes message;
    ptn_str epoch;
    uint64_t offset;
    char text[EPOCH_MAX];
    if (call->kind == CALL_MESSAGE) {
        ORACLE(ptn_map_get(frame, "message", &message), "wire: an ack without message");
        saw_ack(world->sent[call->ref].conversation, message, call->ref, Z.fifo ? c->session : 0);
        return;
    }
    ORACLE(call->kind == CALL_PUBLISH && ptn_map_get_str(frame, "epoch", &epoch) &&
               epoch.n < EPOCH_MAX && ptn_map_get_uint(frame, "offset", &offset),
           "wire: an ack without position, or to something else");
    unsigned topic = call->subject >> 8;
    (void)snprintf(text, sizeof text, "%.*s", (int)epoch.n, epoch.p);
    saw_place(topic, text, offset, c->session, call->ref);
    world->tally.publishes++;
    struct position *last = &world->published[topic];
    if (strcmp(last->epoch, text) != 0 || last->offset < offset) {
        (void)snprintf(last->epoch, sizeof last->epoch, "%s", text);
        last->offset = offset;
    }
}

static void on_error(struct client *c, ptn_bytes frame) {
    static const char *const expected[] = {"overloaded", "timeout", "draining", "conflict"};
    ptn_str code = {"", 0}, message = {"", 0};
    bool ok = false;
    (void)ptn_map_get_str(frame, "code", &code);
    (void)ptn_map_get_str(frame, "message", &message);
    for (size_t i = 0; i < PTN_ARRAY_LEN(expected); i++)
        ok = ok || ptn_str_eqz(code, expected[i]);
    if (ptn_str_eqz(code, "internal"))
        ok = may_fail();
    else if (ptn_str_eqz(code, "storage_full"))
        ok = disk_may_be_full();
    ORACLE(ok, "wire: ZeroMQ client %u did nothing wrong and hears %.*s: %.*s", c->index,
           (int)code.n, code.p, (int)message.n, message.p);
    world->tally.refusals++;
    (void)snprintf(c->refusal, sizeof c->refusal, "%.*s: %.*s", (int)code.n, code.p, (int)message.n,
                   message.p);
}

/* Answers to an earlier socket of the same name may still come: once. */
static void on_answer(struct zclient *z, ptn_bytes frame, unsigned envelope) {
    struct client *c = &z->base;
    ptn_str type;
    uint64_t id;
    bool named = ptn_map_get_str(frame, "type", &type) && ptn_map_get_uint(frame, "id", &id);
    ORACLE(named || memory_may_fail(), "wire: an answer without type or id");
    if (!named) { /* without memory nobody can say to what; it will be asked again */
        on_error(c, frame);
        return;
    }
    ORACLE(id < IDS_MAX && z->ids[id] != ID_NEW, "one answer: ZeroMQ client %u never asked %llu",
           c->index, (unsigned long long)id);
    ORACLE(z->ids[id] == ID_ASKED, "one answer: ZeroMQ client %u gets a second one to %llu",
           c->index, (unsigned long long)id);
    z->ids[id] = ID_ANSWERED;
    for (uint32_t i = 0; i < c->n_calls; i++) {
        if (c->calls[i].id != id)
            continue;
        struct call call = c->calls[i];
        memmove(&z->asked_at[i], &z->asked_at[i + 1], (c->n_calls - i - 1) * sizeof z->asked_at[0]);
        client_call_end(c, &c->calls[i]);
        world->tally.zmq_answers++;
        ORACLE((call.subject & 0xff) == envelope, "wire: %u parts before an answer instead of %u",
               envelope, call.subject & 0xff);
        if (ptn_str_eqz(type, "ack"))
            on_ack(z, frame, &call);
        else if (ptn_str_eqz(type, "error"))
            on_error(c, frame);
        else
            ORACLE(call.kind == CALL_REQUEST &&
                       (ptn_str_eqz(type, "response") || ptn_str_eqz(type, "pong")),
                   "wire: an answer of type %.*s", (int)type.n, type.p);
        return;
    }
}

/* ---- events ---------------------------------------------------------------------------------- */

static bool starts_with(ptn_str s, const char *prefix) {
    return s.n >= strlen(prefix) && memcmp(s.p, prefix, strlen(prefix)) == 0;
}

/* Lossy, but in order: a hole in `offset` is what says that something was lost. */
static void check_order(struct zclient *z, unsigned subject, ptn_str raw_epoch, uint64_t offset) {
    struct position *p = &z->at[subject];
    char epoch[EPOCH_MAX];
    ORACLE(raw_epoch.n < EPOCH_MAX, "position: an epoch of %zu bytes", raw_epoch.n);
    (void)snprintf(epoch, sizeof epoch, "%.*s", (int)raw_epoch.n, raw_epoch.p);
    if (strcmp(p->epoch, epoch) == 0) {
        ORACLE(offset > p->offset, "order: ZeroMQ client %u, %s: from %llu to %llu", z->base.index,
               subject_name(subject), (unsigned long long)p->offset, (unsigned long long)offset);
        ORACLE(!z->lossless || zmq_twin_missed(z->events) || !z->heard[subject] ||
                   offset == p->offset + 1,
               "contiguous: ZeroMQ client %u, %s: from %llu to %llu, and no queue was short",
               z->base.index, subject_name(subject), (unsigned long long)p->offset,
               (unsigned long long)offset);
        world->tally.zmq_holes += offset - p->offset - 1;
    }
    z->heard[subject] = true;
    (void)snprintf(p->epoch, sizeof p->epoch, "%s", epoch);
    p->offset = offset;
}

static void on_event(struct zclient *z, ptn_bytes head, ptn_bytes frame) {
    ptn_str topic = {(const char *)head.p, head.n}, type, named, epoch;
    uint64_t offset, session, n;
    ptn_bytes data;
    ptn_codec_error why = {0};
    ORACLE(ptn_msgpack_validate(frame, NULL, &why) == 0, "wire: bad msgpack: %s", why.what);
    ORACLE(ptn_map_get_str(frame, "type", &type) && ptn_str_eqz(type, "event") &&
               ptn_map_get_str(frame, "topic", &named) && ptn_str_eq(named, topic) &&
               ptn_map_get_str(frame, "epoch", &epoch) &&
               ptn_map_get_uint(frame, "offset", &offset) && ptn_map_get(frame, "data", &data),
           "wire: an event without topic, epoch, offset or data, or under another topic");
    ORACLE(starts_with(topic, prefixes[z->prefix]), "wire: ZeroMQ client %u hears of %.*s",
           z->base.index, (int)topic.n, topic.p);
    ORACLE(!z->tcp || !starts_with(topic, "conversation."),
           "wire: %.*s is not for everybody on this host", (int)topic.n, topic.p);
    unsigned subject = subject_of(topic);
    world->tally.zmq_events++;
    z->heard_since_settled = z->heard_since_settled || z->base.settling;
    if (subject == SUBJECTS)
        return; /* a topic to which nobody else listens */
    check_order(z, subject, epoch, offset);
    if (subject < CONVERSATIONS) {
        (void)saw_message(subject, offset, data);
        return;
    }
    ORACLE(ptn_map_get_uint(data, "session", &session) && ptn_map_get_uint(data, "n", &n) &&
               session < SESSIONS_MAX,
           "content: an event that nobody has published");
    saw_place(subject - TOPIC_SUBJECT, z->at[subject].epoch, offset, (uint32_t)session,
              (uint32_t)n);
    uint32_t *last = &world->heard[z->base.index][subject - TOPIC_SUBJECT][session];
    ORACLE(n > *last, "fifo: ZeroMQ client %u hears event %llu of session %llu on t.%u after %u",
           z->base.index, (unsigned long long)n, (unsigned long long)session,
           subject - TOPIC_SUBJECT, *last);
    *last = (uint32_t)n;
}

/* ---- input ----------------------------------------------------------------------------------- */

/* 0: nothing is there. */
static unsigned receive(void *socket, zmq_msg_t parts[PARTS_MAX]) {
    unsigned n = 0;
    bool more = true;
    while (more) {
        ORACLE(n < PARTS_MAX, "wire: a message of more than %u parts", PARTS_MAX);
        (void)zmq_msg_init(&parts[n]);
        if (zmq_msg_recv(&parts[n], socket, ZMQ_DONTWAIT) < 0) {
            ORACLE(n == 0, "wire: half a message");
            break;
        }
        more = zmq_msg_more(&parts[n++]) != 0;
    }
    return n;
}

static ptn_bytes bytes_of(zmq_msg_t *m) {
    return (ptn_bytes){zmq_msg_data(m), zmq_msg_size(m)};
}

static void take_answer(struct zclient *z, unsigned envelope, ptn_bytes body) {
    ptn_codec_error why = {0};
    if (z->base.msgpack) {
        ORACLE(ptn_msgpack_validate(body, NULL, &why) == 0, "wire: bad msgpack: %s", why.what);
        on_answer(z, body, envelope);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, body.n + 64);
    ORACLE(ptn_json_to_msgpack(z->base.json, (ptn_str){(const char *)body.p, body.n}, NULL, &w,
                               &why) == 0,
           "wire: bad JSON: %s", why.what);
    ptn_buf *b = ptn_pack_finish(&w);
    PTN_ASSERT(b != NULL);
    on_answer(z, ptn_buf_bytes(b), envelope);
    ptn_buf_unref(b);
}

static void read_socket(struct zclient *z, void *socket, bool events) {
    zmq_msg_t parts[PARTS_MAX];
    for (unsigned n; (n = receive(socket, parts)) > 0;) {
        if (events) {
            ORACLE(n == 2, "wire: an event of %u parts", n);
            on_event(z, bytes_of(&parts[0]), bytes_of(&parts[1]));
        } else {
            take_answer(z, n - 1, bytes_of(&parts[n - 1]));
        }
        for (unsigned i = 0; i < n; i++)
            (void)zmq_msg_close(&parts[i]);
    }
}

/* Until there is nothing: the descriptor speaks only once. */
static void read_all(void *arg) {
    struct zclient *z = arg;
    z->input_asked = false;
    if (!z->up || z->frozen)
        return;
    read_socket(z, z->questions, false);
    read_socket(z, z->events, true);
}

/* ---- what it does next ----------------------------------------------------------------------- */

/* Answers that have been lost with their connection, or dropped because it did not read.  When
 * nothing disturbs any more, none is. */
static void forget_lost(struct zclient *z) {
    struct client *c = &z->base;
    ptn_time now = ptn_sim_now(Z.env);
    if (c->n_calls == 0 || now < z->asked_at[0] + ANSWER_NS_MAX)
        return;
    ORACLE(!c->settling,
           "liveness: nothing disturbs ZeroMQ client %u, and question %u has no answer", c->index,
           c->calls[0].id);
    go(z, false);
}

static unsigned own_topic(const struct zclient *z) {
    return starts_with(PTN_STR("t.3"), prefixes[z->prefix]) ? 3 : 1;
}

static void act_settling(struct zclient *z) {
    struct client *c = &z->base;
    if (z->narrow && c->n_calls > 0)
        return; /* its queue may be as short as one answer, and what does not fit is dropped */
    if (c->last_words > 0) {
        c->last_words--;
        ask_message(z, false);
    } else if (client_n_unacknowledged(c) > 0) {
        ask_message(z, true);
    } else if (!z->heard_since_settled && strcmp(prefixes[z->prefix], "conversation.") == 0) {
        ask_message(z, false);
    } else if (!z->heard_since_settled) {
        ask_publish(z, own_topic(z));
    }
}

static void act_busy(struct zclient *z) {
    struct client *c = &z->base;
    uint32_t n = client_chance(c, world->plan.burst_ppm) ? 10 + client_below(c, 60) : 1;
    while (n-- > 0) {
        switch (client_below(c, 8)) {
        case 0:
            ask_request(z, false);
            break;
        case 1:
            ask_request(z, true);
            break;
        case 2:
            ask_message(z, true);
            break;
        case 3:
        case 4:
            ask_publish(z, client_below(c, TOPICS));
            break;
        default:
            ask_message(z, false);
            break;
        }
    }
    if (client_chance(c, world->plan.vandal_ppm))
        vandalise(z);
}

static void leave(struct zclient *z) {
    if (client_chance(&z->base, world->plan.vanish_ppm)) {
        world->tally.vanished++;
        z->frozen = true;
        z->lossless = false;
    } else {
        go(z, client_below(&z->base, 4) == 0);
    }
}

static void act(void *arg) {
    struct zclient *z = arg;
    struct client *c = &z->base;
    if (c->gone)
        return;
    if (!z->up) {
        come(z);
    } else if (z->frozen) {
        if (c->settling || client_below(c, 100) == 0)
            go(z, client_below(c, 2) == 0);
    } else {
        read_all(z);
        forget_lost(z);
        if (z->up && !c->settling && client_chance(c, world->plan.leave_ppm))
            leave(z);
        else if (z->up && c->settling)
            act_settling(z);
        else if (z->up)
            act_busy(z);
    }
    later(z, z->up ? (ptn_time)world->plan.pause_mean_ms * PTN_MS : BACK_NS_MEAN);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

void zmq_clients_prepare(ptn_env *env) {
    const zmq_twin_faults faults = faults_of(&world->plan.faults, world->plan.zmq_lazy_ppm);
    const zmq_twin_host host = {.now = host_now, .at = host_at, .ready = host_ready};
    memset(&Z, 0, sizeof Z);
    Z.env = env;
    Z.fifo = faults.break_ppm == 0;
    zmq_twin_start(world->seed * 4 + world->life, &faults, &host);
}

static void start_one(struct zclient *z, unsigned i) {
    static const struct client_kind kind; /* it shares what clients remember, not how they talk */
    struct client *c = &z->base;
    c->kind = &kind;
    c->env = Z.env;
    c->index = CLIENTS_MAX + i;
    ptn_sim_rng_seed(&c->rng, world->seed * 64 + world->life * 16 + 8 + i);
    c->user = i % USERS;
    c->msgpack = (world->seed >> i & 1) == 0;
    z->named = i % 2 == 1;
    c->json = ptn_json_parser_new();
    z->context = zmq_ctx_new();
    PTN_ASSERT(c->json != NULL && z->context != NULL);
    later(z, BACK_NS_MEAN);
}

void zmq_clients_start(void) {
    Z.n = world->plan.zmq_clients;
    for (unsigned i = 0; i < Z.n; i++)
        start_one(&Z.clients[i], i);
}

void zmq_clients_settle(void) {
    ptn_sim_faults calm;
    ptn_sim_faults_none(&calm);
    const zmq_twin_faults faults = faults_of(&calm, world->plan.zmq_lazy_ppm);
    zmq_twin_faults_set(&faults);
    for (unsigned i = 0; i < Z.n; i++) {
        struct zclient *z = &Z.clients[i];
        z->base.settling = true;
        z->base.last_words = LAST_WORDS;
        go(z, false); /* what was disturbed before is over; it comes back at once */
    }
}

const char *zmq_clients_wait_for(void) {
    for (unsigned i = 0; i < Z.n; i++) {
        const struct zclient *z = &Z.clients[i];
        if (z->base.gone)
            continue;
        if (!z->up)
            return "sockets";
        if (z->base.last_words > 0 || client_n_unacknowledged(&z->base) > 0)
            return "its messages to be acknowledged";
        if (z->base.n_calls > 0)
            return "answers";
        if (!z->heard_since_settled)
            return "an event";
    }
    return NULL;
}

void zmq_clients_quit(void) {
    for (unsigned i = 0; i < Z.n; i++) {
        Z.clients[i].base.gone = true;
        ptn_sim_timer_stop(&Z.clients[i].base.timer);
    }
}

void zmq_clients_done(void) {
    zmq_clients_quit();
    for (unsigned i = 0; i < Z.n; i++) {
        struct zclient *z = &Z.clients[i];
        go(z, false);
        (void)zmq_ctx_term(z->context);
        ptn_sim_timer_stop(&z->input);
        ptn_json_parser_free(z->base.json);
        ptn_out_done(&z->base.out);
    }
}

void zmq_clients_end(void) {
    ptn_sim_timer_stop(&Z.pump);
    zmq_twin_stop();
}
