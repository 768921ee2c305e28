/* SPDX-License-Identifier: Apache-2.0
 *
 * frames.c - the session: identity, calls in flight, and the dispatch of incoming frames.
 *
 * A frame is answered at once (ping, ack, refusals) or becomes a call: an ask to an actor, or a
 * subscription at the hub.  The session does not queue: an adapter asks frames_is_full() before it
 * reads on, so a client may send `auth` and a thousand frames more in one write.
 */
#include "protocols/frames/internal.h"

#include <stdio.h>

/* What clients send.  One list for the dispatch and for the text that names them. */
#define FRAMES_TYPE_MAP(XX)                                                                        \
    XX(PING, "ping")                                                                               \
    XX(AUTH, "auth")                                                                               \
    XX(RESUME, "resume")                                                                           \
    XX(SUBSCRIBE, "subscribe")                                                                     \
    XX(UNSUBSCRIBE, "unsubscribe")                                                                 \
    XX(PUBLISH, "publish")                                                                         \
    XX(MESSAGE, "message")                                                                         \
    XX(ACK, "ack")                                                                                 \
    XX(REQUEST, "request")

enum frames_type {
#define XX(id, name) FRAMES_TYPE_##id,
    FRAMES_TYPE_MAP(XX)
#undef XX
        FRAMES_TYPE_UNKNOWN
};
#define XX(id, name) " " name
#define FRAMES_TYPE_LIST FRAMES_TYPE_MAP(XX)
static const char unknown_type[] = "unknown frame type; known:" FRAMES_TYPE_LIST;
static const char missing_type[] = "a frame needs a member `type`, one of:" FRAMES_TYPE_LIST;
#undef XX

/* ---- session -------------------------------------------------------------------------------- */

#define USER_BYTES_MAX 64u
#define NAME_BYTES_MAX 128u
#define SESSION_BYTES_MAX 64u

struct identity { /* in the buffer */
    int64_t expires_ms;
    uint32_t roles;
    uint8_t user_bytes, name_bytes, session_bytes;
    char text[]; /* one after the other */
};

/* Copies a text to *at, which moves on. */
static void text_copy(char **at, ptn_str s) {
    if (s.n > 0)
        memcpy(*at, s.p, s.n);
    *at += s.n;
}

int frames_identify(frames_session *s, const ptn_principal *p) {
    if (p->user.n > USER_BYTES_MAX || p->name.n > NAME_BYTES_MAX ||
        p->session.n > SESSION_BYTES_MAX)
        return -PTN_ETOOBIG;
    const size_t n = offsetof(struct identity, text) + p->user.n + p->name.n + p->session.n;
    size_t cap;
    ptn_buf *memory = ptn_buf_new(n);
    if (memory == NULL)
        return -PTN_ENOMEM;
    struct identity *i = (void *)ptn_buf_data(memory, &cap); /* payloads are 16-byte aligned */
    i->expires_ms = p->expires_ms;
    i->roles = p->roles;
    i->user_bytes = (uint8_t)p->user.n;
    i->name_bytes = (uint8_t)p->name.n;
    i->session_bytes = (uint8_t)p->session.n;
    char *at = i->text;
    text_copy(&at, p->user);
    text_copy(&at, p->name);
    text_copy(&at, p->session);
    ptn_buf_seal(memory, n);
    ptn_buf_unref(s->identity);
    s->identity = memory;
    return 0;
}

ptn_principal frames_principal(const frames_session *s) {
    if (s->identity == NULL)
        return (ptn_principal){0};
    const struct identity *i = (const void *)ptn_buf_bytes(s->identity).p;
    const char *name = i->text + i->user_bytes;
    return (ptn_principal){.user = {i->text, i->user_bytes},
                           .name = {name, i->name_bytes},
                           .session = {name + i->name_bytes, i->session_bytes},
                           .roles = i->roles,
                           .expires_ms = i->expires_ms};
}

void frames_session_init(frames_session *s, const frames_config *config, void *self) {
    PTN_ASSERT(config->ops->send != NULL && config->directory != NULL);
    *s = (frames_session){.config = config, .self = self};
}

void frames_session_done(ptn_ctx *c, frames_session *s) {
    s->closed = true;
    while (s->calls != NULL) {
        struct frames_call *call = s->calls;
        if (call->corr != 0 && c != NULL)
            (void)ptn_ask_cancel(c, call->corr);
        frames__call_unlink(call);
        frames__call_free(call);
    }
    s->authenticating = false;
    s->identity = ptn_buf_unref(s->identity);
    s->device = ptn_buf_unref(s->device);
}

static bool session_is_anonymous(const frames_session *s) {
    return s->identity == NULL;
}

/* ---- calls ---------------------------------------------------------------------------------- */

/* A call in memory of its own, not linked yet.  NULL: no memory. */
static struct frames_call *call_make(const struct frames_in *in) {
    ptn_buf *memory = ptn_buf_new(sizeof(struct frames_call));
    if (memory == NULL)
        return NULL;
    size_t cap;
    struct frames_call *call =
        (void *)ptn_buf_data(memory, &cap); /* payloads are 16-byte aligned */
    PTN_ASSERT(cap >= sizeof *call && (uintptr_t)call % _Alignof(struct frames_call) == 0);
    memset(call, 0, offsetof(struct frames_call, device)); /* texts have their lengths */
    call->memory = memory;
    call->ticket = in->ticket;
    PTN_ASSERT(in->id.n <= sizeof call->id);
    call->n_id = (uint8_t)in->id.n;
    if (in->id.n > 0)
        memcpy(call->id, in->id.p, in->id.n);
    return call;
}

static void call_link(frames_session *s, struct frames_call *call, enum frames_call_kind kind) {
    call->kind = kind;
    call->session = s;
    call->next = s->calls;
    call->pprev = &s->calls;
    if (s->calls != NULL)
        s->calls->pprev = &call->next;
    s->calls = call;
    s->n_pending++;
}

struct frames_call *frames__call_new(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                                     enum frames_call_kind kind) {
    if (s->n_pending >= s->config->pending_max) {
        frames_send_error(c, s, in->ticket, in->id, PTN_CODE_OVERLOADED,
                          "too many unanswered frames; wait for answers before you send more");
        return NULL;
    }
    struct frames_call *call = call_make(in);
    if (call == NULL) {
        frames_send_error(c, s, in->ticket, in->id, PTN_CODE_OVERLOADED,
                          "out of memory; try again");
        return NULL;
    }
    call_link(s, call, kind);
    return call;
}

void frames__call_unlink(struct frames_call *call) {
    PTN_ASSERT(call->pprev != NULL);
    *call->pprev = call->next;
    if (call->next != NULL)
        call->next->pprev = call->pprev;
    call->pprev = NULL;
    call->next = NULL;
    call->session->n_pending--;
}

void frames__call_free(struct frames_call *call) {
    call->positions = ptn_buf_unref(call->positions);
    ptn_buf_unref(call->memory);
}

bool frames_device_is_valid(ptn_str device) {
    for (size_t i = 0; i < device.n; i++)
        if ((uint8_t)device.p[i] < 0x20 || device.p[i] == 0x7f)
            return false;
    return device.n <= PTN_DEVICE_BYTES_MAX;
}

int frames_device_set(frames_session *s, ptn_str device) {
    ptn_buf *copy = ptn_buf_copy(device.p, device.n);
    if (copy == NULL)
        return -PTN_ENOMEM;
    ptn_buf_unref(s->device);
    s->device = copy;
    return 0;
}

/* ---- authentication ------------------------------------------------------------------------- */

/* session: what `resume` takes; n == 0: none could be made. */
static void send_welcome(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_bytes id,
                         ptn_str session, bool resumed) {
    const ptn_principal p = frames_principal(s);
    ptn_pack w;
    frames__begin(&w, PTN_STR("welcome"), id, 4);
    ptn_pack_key(&w, "session");
    ptn_pack_str_or_nil(&w, session);
    ptn_pack_key(&w, "user");
    ptn_pack_map(&w, 3);
    ptn_pack_key(&w, "id");
    ptn_pack_str(&w, p.user);
    ptn_pack_key(&w, "username");
    ptn_pack_str(&w, p.name);
    ptn_pack_key(&w, "roles");
    ptn_pack_roles(&w, p.roles);
    ptn_pack_key(&w, "heartbeatMs");
    ptn_pack_uint(&w, s->config->heartbeat_ms);
    ptn_pack_key(&w, "resumed");
    ptn_pack_bool(&w, resumed);
    frames__send(c, s, ticket, &w);
}

/* What waits for this device comes from here on.  False: it cannot, and the client must come back.
 */
static bool open_feed(ptn_ctx *c, frames_session *s, ptn_str device) {
    if (s->config->hub == NULL || s->config->protocol != PTN_PROTO_WS)
        return true;
    if (s->sink == PTN_SINK_NONE && s->config->ops->open_sink != NULL)
        (void)s->config->ops->open_sink(c, s->self);
    const uint32_t roles = frames_principal(s).roles;
    if (s->sink != PTN_SINK_NONE && ptn_hub_feed(c, s->config->hub, s->sink, device, roles) == 0)
        return true;
    frames_send_error(c, s, 0, (ptn_bytes){0}, PTN_CODE_OVERLOADED,
                      "too many subscribers on this broker; connect again later");
    if (!s->closed && s->config->ops->close != NULL)
        s->config->ops->close(c, s->self, 1013, PTN_CODE_OVERLOADED);
    return false;
}

/* Asks for a ticket of the session's identity; cb is called in any case. */
static void ask_ticket(ptn_ctx *c, frames_session *s, struct frames_call *call, ptn_time patience,
                       ptn_reply_cb cb) {
    const ptn_principal p = frames_principal(s);
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_principal_pack(&w, &p);
    ptn_buf *b = ptn_pack_finish(&w);
    const int err =
        b == NULL ? -PTN_ENOMEM
                  : ptn_ask(c, s->config->directory->auth[s->config->worker], PTN_MSG_AUTH_TICKET,
                            b, ptn_now(c) + patience, cb, call, &call->corr);
    if (err == 0)
        return;
    ptn_buf_unref(b);
    call->corr = 0;
    cb(c, NULL, err, NULL, call);
}

/* n == 0: none could be made. */
static ptn_str ticket_of(int err, const ptn_msg *reply) {
    uint32_t n;
    ptn_str ticket;
    if (err != 0 || reply->type != PTN_MSG_AUTH_TICKET)
        return (ptn_str){0};
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    return ptn_unpack_array(&u, &n) && ptn_unpack_str(&u, &ticket) ? ticket : (ptn_str){0};
}

/* The ticket has come, or has not: the session begins. */
static void ticket_callback(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct frames_call *call = arg;
    frames_session *s = call->session;
    const struct frames_in in = {.ticket = call->ticket, .id = frames__call_id(call)};
    (void)state;
    frames__call_unlink(call);
    s->authenticating = false;
    send_welcome(c, s, call->ticket, in.id, ticket_of(err, reply), call->resumed);
    if (!s->closed && s->config->ops->authenticated != NULL)
        s->config->ops->authenticated(c, s->self);
    if (!s->closed && open_feed(c, s, (ptn_str){call->device, call->n_device}) && !s->closed &&
        call->positions != NULL)
        frames__subscribe_positions(c, s, &in, ptn_buf_bytes(call->positions));
    frames__call_free(call);
}

/* Makes p the session's identity; the client is told when there is a ticket for it.  0, or why it
 * cannot be.  Consumes the call on success. */
static int session_accept(ptn_ctx *c, frames_session *s, struct frames_call *call,
                          const ptn_principal *p) {
    /* A connection never changes hands: what one user was granted would outlive that user's removal
     * and logout, which go by the name. */
    if (!session_is_anonymous(s) && !ptn_str_eq(frames_principal(s).user, p->user))
        return -PTN_EACCESS;
    call->resumed = call->resumed && session_is_anonymous(s);
    const int err = p->user.n == 0 ? -PTN_EPROTO : frames_identify(s, p);
    if (err != 0)
        return err;
    s->device = ptn_buf_unref(s->device); /* the call has it */
    if (!call->send_welcome) {
        frames__call_unlink(call);
        s->authenticating = false;
        if (s->config->ops->authenticated != NULL)
            s->config->ops->authenticated(c, s->self);
        frames__call_free(call);
        return 0;
    }
    ask_ticket(c, s, call, s->config->request_ns, ticket_callback);
    return 0;
}

/* A call that authenticates.  NULL: the client has been told why not. */
static struct frames_call *auth_call(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                                     ptn_str device, bool welcome) {
    if (s->authenticating) {
        frames_send_error(c, s, in->ticket, in->id, PTN_CODE_CONFLICT,
                          "an authentication is in progress already; wait for its answer");
        return NULL;
    }
    struct frames_call *call = frames__call_new(c, s, in, FRAMES_CALL_AUTH);
    if (call == NULL)
        return NULL;
    call->send_welcome = welcome;
    PTN_ASSERT(device.n <= sizeof call->device);
    call->n_device = (uint8_t)device.n;
    if (device.n > 0)
        memcpy(call->device, device.p, device.n);
    s->authenticating = true;
    return call;
}

void frames_welcome(ptn_ctx *c, frames_session *s, uint64_t ticket, const ptn_principal *p,
                    ptn_str device) {
    const struct frames_in in = {.ticket = ticket};
    const char *message;
    struct frames_call *call = auth_call(c, s, &in, device, true);
    if (call == NULL)
        return;
    const int err = session_accept(c, s, call, p);
    if (err == 0)
        return;
    frames__call_unlink(call);
    s->authenticating = false;
    const int code = ptn_code_of_err(err, &message);
    frames_send_error(c, s, ticket, (ptn_bytes){0}, code, message);
    frames__call_free(call);
}

/* The token was refused, or could not be checked: only a refusal ends the connection. */
static void auth_failed(ptn_ctx *c, frames_session *s, struct frames_call *call,
                        const struct frames_error *e) {
    const frames_ops *ops = s->config->ops;
    const bool refused = ptn_code_info_of(e->code)->status == 401;
    frames__error(c, s, call->ticket, frames__call_id(call), e);
    if (ops->close == NULL)
        return; /* the session may be gone: nothing may touch it */
    if (refused && !s->closed)
        ops->close(c, s->self, 4501, e->code);
}

static void auth_callback(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)state;
    struct frames_call *call = arg;
    frames_session *s = call->session;
    if (err == 0 && reply->type == PTN_MSG_PRINCIPAL) {
        ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
        ptn_principal p;
        err = ptn_principal_unpack(&u, &p) ? session_accept(c, s, call, &p) : -PTN_EPROTO;
        if (err == 0)
            return;
    }
    frames__call_unlink(call);
    s->authenticating = false;
    struct frames_error e = {
        .code = PTN_CODE_FORBIDDEN,
        .message =
            PTN_STR("this connection belongs to another user; open a new one for this token")};
    if (err != -PTN_EACCESS)
        frames__error_of_reply(err, reply, &e);
    auth_failed(c, s, call, &e);
    frames__call_free(call);
}

/* Asks who is behind a token or a ticket. */
static void authenticate(ptn_ctx *c, frames_session *s, struct frames_call *call, uint32_t type,
                         ptn_str token) {
    ptn_pack w;
    ptn_pack_init(&w, token.n + 16);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, token);
    ptn_buf *b = ptn_pack_finish(&w);
    int err = b == NULL
                  ? -PTN_ENOMEM
                  : ptn_ask(c, s->config->directory->auth[s->config->worker], type, b,
                            ptn_now(c) + s->config->request_ns, auth_callback, call, &call->corr);
    if (err == 0)
        return;
    ptn_buf_unref(b);
    call->corr = 0;
    auth_callback(c, NULL, err, NULL, call);
}

void frames_authenticate(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_str token,
                         ptn_str device, bool send_welcome_frame) {
    const struct frames_in in = {.ticket = ticket};
    struct frames_call *call = auth_call(c, s, &in, device, send_welcome_frame);
    if (call != NULL)
        authenticate(c, s, call, PTN_MSG_AUTH_TOKEN, token);
}

/* device: a text, or absent: the one that the client has named before. */
static bool read_device(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                        ptn_str *ret_device) {
    ptn_bytes raw;
    ptn_str device;
    *ret_device = (ptn_str){0};
    if (!ptn_map_get(in->frame, "device", &raw) || ptn_kind_of(raw) == PTN_KIND_NIL) {
        if (s->device != NULL)
            *ret_device =
                (ptn_str){(const char *)ptn_buf_bytes(s->device).p, ptn_buf_bytes(s->device).n};
        return true;
    }
    ptn_unpack u = ptn_unpack_of(raw);
    if (ptn_unpack_str(&u, &device) && frames_device_is_valid(device)) {
        *ret_device = device;
        return true;
    }
    frames__invalid(c, s, in, "device",
                    "must be a text of at most 64 bytes, no control characters");
    return false;
}

static void handle_auth(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    ptn_str token, device;
    if (!ptn_map_get_str(in->frame, "token", &token) || token.n == 0 ||
        token.n > FRAMES_TOKEN_BYTES_MAX) {
        frames__invalid(c, s, in, "token", "must be an access token, a text of at most 4096 bytes");
        return;
    }
    if (!read_device(c, s, in, &device))
        return;
    struct frames_call *call = auth_call(c, s, in, device, true);
    if (call != NULL)
        authenticate(c, s, call, PTN_MSG_AUTH_TOKEN, token);
}

/* A ticket in place of a token, and what the client had subscribed to: one round trip. */
static void handle_resume(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    ptn_str ticket, device;
    ptn_bytes positions;
    if (s->config->hub == NULL) {
        frames_send_error(c, s, in->ticket, in->id, PTN_CODE_INVALID_REQUEST,
                          "there is nothing to resume on this socket: use WebSocket");
        return;
    }
    if (!ptn_map_get_str(in->frame, "session", &ticket) || ticket.n == 0 ||
        ticket.n > FRAMES_TOKEN_BYTES_MAX) {
        frames__invalid(c, s, in, "session", "must be the `session` of a welcome frame");
        return;
    }
    if (!read_device(c, s, in, &device) || !frames__check_positions(c, s, in, &positions))
        return;
    struct frames_call *call = auth_call(c, s, in, device, true);
    if (call == NULL)
        return;
    call->resumed = true;
    if (positions.n > 0 && (call->positions = ptn_buf_copy(positions.p, positions.n)) == NULL) {
        auth_callback(c, NULL, -PTN_ENOMEM, NULL, call);
        return;
    }
    authenticate(c, s, call, PTN_MSG_AUTH_RESUME, ticket);
}

/* ---- goodbye -------------------------------------------------------------------------------- */

#define DRAIN_TICKET_NS (1 * PTN_SEC) /* who drains does not wait long */

static void send_drain(ptn_ctx *c, frames_session *s, uint32_t reconnect_after_ms, ptn_str ticket) {
    ptn_pack w;
    frames__begin(&w, PTN_STR("drain"), (ptn_bytes){0}, 2);
    ptn_pack_key(&w, "reconnectAfterMs");
    ptn_pack_uint(&w, reconnect_after_ms);
    ptn_pack_key(&w, "ticket");
    ptn_pack_str_or_nil(&w, ticket);
    frames__send(c, s, 0, &w);
}

static void drain_callback(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct frames_call *call = arg;
    (void)state;
    frames__call_unlink(call);
    send_drain(c, call->session, call->reconnect_after_ms, ticket_of(err, reply));
    frames__call_free(call);
}

void frames_drain(ptn_ctx *c, frames_session *s, uint32_t reconnect_after_ms) {
    const struct frames_in in = {0};
    if (s->closed)
        return;
    struct frames_call *call = session_is_anonymous(s) ? NULL : call_make(&in);
    if (call == NULL) {
        send_drain(c, s, reconnect_after_ms, (ptn_str){0});
        return;
    }
    call_link(s, call, FRAMES_CALL_DRAIN);
    call->reconnect_after_ms = reconnect_after_ms;
    ask_ticket(c, s, call, DRAIN_TICKET_NS, drain_callback);
}

/* ---- small frames --------------------------------------------------------------------------- */

static void handle_ping(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    ptn_pack w;
    ptn_bytes timestamp;
    frames__begin(&w, PTN_STR("pong"), in->id, 2);
    ptn_pack_key(&w, "timestamp");
    if (ptn_map_get(in->frame, "timestamp", &timestamp))
        ptn_pack_raw(&w, timestamp);
    else
        ptn_pack_nil(&w);
    ptn_pack_key(&w, "serverTime");
    ptn_pack_timestamp(&w, ptn_wall_ms(c));
    frames__send(c, s, in->ticket, &w);
}

/* A socket without a feed: what its device has came by another way. */
static int ack_queue(ptn_ctx *c, const frames_session *s, ptn_str device, ptn_str conversation,
                     uint64_t seq) {
    const ptn_directory *d = s->config->directory;
    const ptn_str user = frames_principal(s).user;
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, user);
    ptn_pack_str(&w, device);
    ptn_pack_str(&w, conversation);
    ptn_pack_uint(&w, seq);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL)
        return -PTN_ENOMEM;
    const int err = ptn_cast(c, d->queue[ptn_shard(user, d->workers)], PTN_MSG_QUEUE_GOT, b);
    if (err < 0)
        ptn_buf_unref(b);
    return err;
}

/* Nothing answers it where that is allowed. */
static void handle_ack(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    ptn_str conversation, device;
    uint64_t seq;
    if (!ptn_map_get_str(in->frame, "conversationId", &conversation) || conversation.n == 0 ||
        conversation.n > FRAMES_ID_BYTES_MAX) {
        frames__invalid(c, s, in, "conversationId", "must be the id of a conversation");
        return;
    }
    if (!ptn_map_get_uint(in->frame, "seq", &seq)) {
        frames__invalid(c, s, in, "seq", "must be an integer of at least 0");
        return;
    }
    if (ptn_str_eqz(conversation, "current"))
        conversation = frames_principal(s).user;
    int err = 0;
    if (s->config->hub == NULL) {
        if (!read_device(c, s, in, &device))
            return;
        err = ack_queue(c, s, device, conversation, seq);
    } else if (s->sink != PTN_SINK_NONE) {
        err = ptn_hub_ack(c, s->config->hub, s->sink, conversation, seq);
    }
    if (err < 0) {
        frames_send_error(c, s, in->ticket, in->id, PTN_CODE_OVERLOADED,
                          "the acknowledgement was not taken; send it again");
        return;
    }
    if (s->config->one_answer) {
        ptn_pack w;
        frames__begin(&w, PTN_STR("ok"), in->id, 0);
        frames__send(c, s, in->ticket, &w);
    }
}

/* ---- dispatch ------------------------------------------------------------------------------- */

/* The client's id: a text of at most 128 bytes or an integer; absent and nil are none.  False:
 * another kind. */
static bool read_id(ptn_bytes raw, ptn_bytes *ret_id) {
    *ret_id = (ptn_bytes){0};
    if (raw.n == 0)
        return true;
    ptn_unpack u = ptn_unpack_of(raw);
    ptn_str s;
    switch (ptn_unpack_peek(&u)) {
    case PTN_KIND_NIL:
        return true;
    case PTN_KIND_INT:
    case PTN_KIND_UINT:
        break;
    case PTN_KIND_STR:
        if (!ptn_unpack_str(&u, &s) || s.n > FRAMES_ID_BYTES_MAX)
            return false;
        break;
    default:
        return false;
    }
    *ret_id = raw;
    return raw.n <= FRAMES_ID_RAW_BYTES_MAX;
}

static enum frames_type type_of(ptn_str name) {
#define XX(id, text)                                                                               \
    if (ptn_str_eqz(name, text))                                                                   \
        return FRAMES_TYPE_##id;
    FRAMES_TYPE_MAP(XX)
#undef XX
    return FRAMES_TYPE_UNKNOWN;
}

/* The frame's type; a request may leave it out.  False: refused, and the client has been told. */
static bool read_type(ptn_ctx *c, frames_session *s, const struct frames_in *in, ptn_bytes raw,
                      enum frames_type *ret_type) {
    ptn_str name;
    if (raw.n == 0) {
        if (ptn_map_get(in->frame, "method", &raw) && ptn_map_get(in->frame, "path", &raw)) {
            *ret_type = FRAMES_TYPE_REQUEST;
            return true;
        }
        frames_send_error(c, s, in->ticket, in->id, PTN_CODE_INVALID_REQUEST, missing_type);
        return false;
    }
    ptn_unpack u = ptn_unpack_of(raw);
    if (!ptn_unpack_str(&u, &name)) {
        frames__invalid(c, s, in, "type", "must be a text");
        return false;
    }
    *ret_type = type_of(name);
    if (*ret_type == FRAMES_TYPE_UNKNOWN)
        frames_send_error(c, s, in->ticket, in->id, PTN_CODE_INVALID_REQUEST, unknown_type);
    return *ret_type != FRAMES_TYPE_UNKNOWN;
}

/* Who may send what: before authentication only ping, auth and resume, and on ZeroMQ also requests,
 * whose routes decide for themselves.  False: the client has been told. */
static bool admit(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                  enum frames_type type) {
    if (type == FRAMES_TYPE_PING || type == FRAMES_TYPE_AUTH || type == FRAMES_TYPE_RESUME)
        return true;
    if (session_is_anonymous(s)) {
        if (type == FRAMES_TYPE_REQUEST && s->config->protocol == PTN_PROTO_ZMQ)
            return true;
        frames_send_error(c, s, in->ticket, in->id, PTN_CODE_UNAUTHENTICATED,
                          s->config->protocol == PTN_PROTO_ZMQ
                              ? "a token is missing: each frame carries its own, as `token`"
                              : "authenticate first: send {\"type\": \"auth\", \"token\": ..}");
        return false;
    }
    const int64_t expires_ms = frames_principal(s).expires_ms;
    if (expires_ms > 0 && ptn_wall_ms(c) >= expires_ms) {
        frames_send_error(c, s, in->ticket, in->id, PTN_CODE_TOKEN_EXPIRED,
                          "the access token has expired; authenticate with a new one");
        return false;
    }
    return true;
}

/* Members of every frame, and of a publication; the first of each name.  False: not a map. */
static bool read_members(ptn_bytes frame, struct frames_in *in, ptn_bytes *ret_type) {
    ptn_unpack u = ptn_unpack_of(frame);
    uint32_t n;
    ptn_str key;
    ptn_bytes value;
    if (!ptn_unpack_map(&u, &n))
        return false;
    for (; n > 0 && ptn_unpack_pair(&u, &key, &value); n--) {
        ptn_bytes *to = ptn_str_eqz(key, "type")         ? ret_type
                        : ptn_str_eqz(key, "id")         ? &in->id
                        : ptn_str_eqz(key, "data")       ? &in->data
                        : ptn_str_eqz(key, "topic")      ? &in->topic
                        : ptn_str_eqz(key, "durability") ? &in->durability
                                                         : NULL;
        if (to != NULL && to->n == 0)
            *to = value;
    }
    return true;
}

void frames_handle(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_bytes frame) {
    if (s->closed)
        return;
    struct frames_in in = {.ticket = ticket, .frame = frame};
    enum frames_type type;
    ptn_bytes type_raw = {0};
    if (!read_members(frame, &in, &type_raw)) {
        frames_send_error(c, s, ticket, in.id, PTN_CODE_INVALID_REQUEST, missing_type);
        return;
    }
    if (!read_id(in.id, &in.id)) {
        in.id = (ptn_bytes){0};
        frames__invalid(c, s, &in, "id", "must be an integer or a text of at most 128 bytes");
        return;
    }
    if (!read_type(c, s, &in, type_raw, &type) || !admit(c, s, &in, type))
        return;
    switch (type) {
    case FRAMES_TYPE_PING:
        handle_ping(c, s, &in);
        break;
    case FRAMES_TYPE_AUTH:
        handle_auth(c, s, &in);
        break;
    case FRAMES_TYPE_RESUME:
        handle_resume(c, s, &in);
        break;
    case FRAMES_TYPE_SUBSCRIBE:
        frames__handle_subscribe(c, s, &in);
        break;
    case FRAMES_TYPE_UNSUBSCRIBE:
        frames__handle_unsubscribe(c, s, &in);
        break;
    case FRAMES_TYPE_PUBLISH:
        frames__handle_publish(c, s, &in);
        break;
    case FRAMES_TYPE_MESSAGE:
        frames__handle_message(c, s, &in);
        break;
    case FRAMES_TYPE_ACK:
        handle_ack(c, s, &in);
        break;
    case FRAMES_TYPE_REQUEST:
        frames__handle_request(c, s, &in);
        break;
    case FRAMES_TYPE_UNKNOWN:
        break;
    }
}
