/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation.c - the conversation actor: requests on their way to their conversation.
 *
 * Owns, for the conversations of its shard: who the members are, the order of events, and which
 * hubs listen. A request is read, its conversation is found or loaded (requests for one that is
 * being loaded wait in order), and the handler of its kind runs.  conversation_internal.h has the
 * rules of order and lifetime.
 *
 * Whoever is not a member learns nothing: not_found, as for a conversation that does not exist.
 */
#include "actors/conversation_internal.h"

#include <stdlib.h>

#define CACHE_MAX_DEFAULT 10000u
#define ATTACHED_MAX_DEFAULT 100000u
#define REQUESTS_MAX_DEFAULT 8192u
#define REQUESTS_BYTES_MAX (32u << 20) /* of requests in flight */
#define RESYNC_NS (50 * PTN_MS)

static void load(ptn_ctx *c, struct conversation *v);

/* ---- operations --------------------------------------------------------------------------- */

static struct op *op_new(struct shard *s, const ptn_msg *m, ptn_reply_to to) {
    struct op *op = s->op_pool;
    if (s->n_ops >= s->requests_max || (s->n_ops > 0 && s->op_bytes + m->len > REQUESTS_BYTES_MAX))
        return NULL;
    if (op != NULL)
        s->op_pool = op->next;
    else
        op = malloc(sizeof *op);
    if (op == NULL)
        return NULL;
    *op = (struct op){.next = s->ops,
                      .pprev = &s->ops,
                      .shard = s,
                      .type = m->type,
                      .from = m->from,
                      .to = to,
                      .payload = ptn_buf_ref(m->buf)};
    if (op->next != NULL)
        op->next->pprev = &op->next;
    s->ops = op;
    s->n_ops++;
    s->op_bytes += m->len;
    return op;
}

static void op_unlink(struct op *op) {
    *op->pprev = op->next;
    if (op->next != NULL)
        op->next->pprev = op->pprev;
    ptn_buf_unref(op->payload);
}

static void exit_when_done(ptn_ctx *c, struct shard *s) {
    if (s->stopping && s->n_ops == 0)
        ptn_exit(c, 0);
}

void op_end(ptn_ctx *c, struct op *op) {
    struct shard *s = op->shard;
    struct conversation *v = op->conv;
    s->op_bytes -= ptn_buf_bytes(op->payload).n;
    op_unlink(op);
    op->next = s->op_pool;
    s->op_pool = op;
    s->n_ops--;
    if (v != NULL)
        conv_unpin(v);
    exit_when_done(c, s);
}

void op_fail(ptn_ctx *c, struct op *op, int code, const char *message) {
    if (op->to.corr != 0)
        ptn_problem_send(c, op->to, code, message);
    op_end(c, op);
}

void op_fail_field(ptn_ctx *c, struct op *op, const char *message, const char *field,
                   const char *reason) {
    ptn_problem_send_field(c, op->to, PTN_CODE_VALIDATION_FAILED, message, field, reason);
    op_end(c, op);
}

void op_pass(ptn_ctx *c, struct op *op, int err, const ptn_msg *reply) {
    if (op->to.corr != 0)
        ptn_problem_pass(c, op->to, err, reply);
    op_end(c, op);
}

void op_not_found(ptn_ctx *c, struct op *op) {
    if (op->type == PTN_MSG_TOPIC_ATTACH)
        op_fail(c, op, PTN_CODE_FORBIDDEN, "only members may subscribe to a conversation");
    else
        op_fail(c, op, PTN_CODE_NOT_FOUND, "no such conversation");
}

/* Consumes op and b: the outcome of an ask. */
static bool op_asked(ptn_ctx *c, struct op *op, int err, ptn_buf *b) {
    if (err == 0)
        return true;
    ptn_buf_unref(b);
    op_pass(c, op, err, NULL);
    return false;
}

static ptn_time op_deadline(const struct op *op) {
    return op->to.corr != 0 ? op->to.deadline : PTN_NEVER;
}

bool op_ask(ptn_ctx *c, struct op *op, uint32_t type, ptn_pack *w, ptn_reply_cb cb) {
    ptn_buf *b = ptn_pack_finish(w);
    int err = b == NULL
                  ? -PTN_ENOMEM
                  : ptn_ask(c, op->shard->directory->store, type, b, op_deadline(op), cb, op, NULL);
    return op_asked(c, op, err, b);
}

bool op_ask_through(ptn_ctx *c, struct op *op, uint32_t type, ptn_pack *w, ptn_reply_cb cb) {
    ptn_buf *b = ptn_pack_finish(w);
    int err = b == NULL ? -PTN_ENOMEM
                        : ptn_ask_through(c, op->shard->directory->store, type, b, op_deadline(op),
                                          cb, op, NULL);
    return op_asked(c, op, err, b);
}

void op_respond(ptn_ctx *c, struct op *op, ptn_pack *w) {
    ptn_response_send(c, op->to, w);
    op_end(c, op);
}

int cast_packed(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_pack *w) {
    ptn_buf *b = ptn_pack_finish(w);
    if (b == NULL)
        return -PTN_ENOMEM;
    int err = ptn_cast(c, to, type, b);
    if (err < 0)
        ptn_buf_unref(b);
    return err;
}

/* ---- loading ------------------------------------------------------------------------------ */

static void run(ptn_ctx *c, struct op *op) {
    switch (op->type) {
    case PTN_MSG_ROUTE_CONV_GET:
        on_get(c, op);
        break;
    case PTN_MSG_ROUTE_CONV_PATCH:
        on_patch(c, op);
        break;
    case PTN_MSG_SYNC_APPLY:
        on_sync_apply(c, op);
        break;
    case PTN_MSG_ROUTE_MEMBERS_ADD:
        on_members_add(c, op);
        break;
    case PTN_MSG_ROUTE_MEMBERS_REMOVE:
        on_members_remove(c, op);
        break;
    case PTN_MSG_ROUTE_MSG_SEND:
    case PTN_MSG_ROUTE_MSG_SEND_TO:
        on_send(c, op);
        break;
    case PTN_MSG_ROUTE_MSG_LIST:
        on_list_messages(c, op);
        break;
    case PTN_MSG_TOPIC_ATTACH:
        on_attach(c, op);
        break;
    case PTN_MSG_CONV_MARK:
        on_mark(c, op);
        break;
    default:
        on_detach(c, op);
        break;
    }
}

/* Takes the oldest request that waits.  NULL: none. */
static struct op *take_waiting(struct conversation *v) {
    struct op *op = v->waiting_first;
    if (op != NULL) {
        v->waiting_first = op->wait_next;
        if (v->waiting_first == NULL)
            v->waiting_last = NULL;
    }
    return op;
}

/* What a failed load tells each kind. */
static void load_failed(ptn_ctx *c, struct conversation *v, int err, const ptn_msg *reply,
                        bool missing) {
    struct op *op;
    conv_pin(v); /* the last op_end() must not free it under our hands */
    while ((op = take_waiting(v)) != NULL) {
        if (missing)
            op_not_found(c, op);
        else
            op_pass(c, op, err, reply);
    }
    conv_unpin(v);
}

static void load_again(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)state;
    (void)t;
    load(c, arg);
}

static void loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct conversation *v = arg;
    struct op *op;
    (void)state;
    if (err == 0 && reply->type == PTN_MSG_STORE_CONV && reply->buf != NULL) {
        if ((err = conv_adopt(v, reply->buf)) == -PTN_ENOMEM) {
            load_failed(c, v, err, NULL, false);
            return;
        }
        PTN_REQUIRE(c, err == 0);
        conv_pin(v);
        while ((op = take_waiting(v)) != NULL)
            run(c, op);
        conv_unpin(v);
    } else if (err == -PTN_EDEADLINE && v->waiting_first != v->waiting_last) {
        /* The deadline was the first one's.  The others have their own: again, from a timer,
         * because an ask that is made here would inherit it. */
        ptn_timer_start(c, &v->timer, PTN_MS, load_again, v);
        op_pass(c, take_waiting(v), err, NULL);
    } else {
        load_failed(c, v, err, reply, false);
    }
}

/* The default conversation came into being, or could not: an unknown user has none. */
static void default_made(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    ptn_problem p;
    struct conversation *v = arg;
    if (err == 0 && reply->type == PTN_MSG_PROBLEM &&
        ptn_problem_unpack(ptn_msg_bytes(reply), &p) && p.code == PTN_CODE_VALIDATION_FAILED) {
        load_failed(c, v, 0, reply, true);
        return;
    }
    conv_pin(v); /* the last request may leave it */
    loaded(c, state, err, reply, v);
    if (v->record != NULL)
        conv_tell_joined(c, v->shard, conv_id(v), v->members, v->n_members, 0);
    conv_unpin(v);
}

/* Everybody has one conversation from the start: it is made when it is first used. */
static bool make_default(ptn_ctx *c, struct conversation *v) {
    struct op *op = v->waiting_first;
    while (op != NULL && !ptn_str_eq(op->user, conv_id(v)))
        op = op->wait_next;
    if (op == NULL)
        return false;
    char epoch[CONVERSATION_EPOCH_BYTES + 1];
    make_epoch(c, epoch);
    ptn_pack w;
    ptn_pack_init(&w, 192);
    ptn_pack_array(&w, 6);
    ptn_pack_str(&w, conv_id(v));
    ptn_pack_nil(&w);
    ptn_pack_str(&w, conv_id(v));
    ptn_pack_int(&w, ptn_wall_ms(c));
    ptn_pack_cstr(&w, epoch);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, conv_id(v));
    ptn_buf *b = ptn_pack_finish(&w);
    int err = b == NULL ? -PTN_ENOMEM
                        : ptn_ask_through(c, v->shard->directory->store, PTN_MSG_STORE_CONV_ADD, b,
                                          op->to.deadline, default_made, v, NULL);
    if (err < 0) {
        ptn_buf_unref(b);
        load_failed(c, v, err, NULL, false);
    }
    return true;
}

static void get_ended(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    ptn_problem p;
    if (err == 0 && reply->type == PTN_MSG_PROBLEM &&
        ptn_problem_unpack(ptn_msg_bytes(reply), &p) && p.code == PTN_CODE_NOT_FOUND) {
        if (!make_default(c, arg))
            load_failed(c, arg, 0, reply, true);
        return;
    }
    loaded(c, state, err, reply, arg);
}

/* There is at least one request waiting. */
static void load(ptn_ctx *c, struct conversation *v) {
    const struct op *first = v->waiting_first;
    ptn_pack w;
    ptn_pack_init(&w, 96);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, conv_id(v));
    ptn_buf *b = ptn_pack_finish(&w);
    int err = b == NULL ? -PTN_ENOMEM
                        : ptn_ask(c, v->shard->directory->store, PTN_MSG_STORE_CONV_GET, b,
                                  first->to.corr != 0 ? first->to.deadline : PTN_NEVER, get_ended,
                                  v, NULL);
    if (err < 0) {
        ptn_buf_unref(b);
        load_failed(c, v, err, NULL, false);
    }
}

/* Runs op on its conversation, now or when it is loaded. */
static void with_conversation(ptn_ctx *c, struct op *op, ptn_str id) {
    struct shard *s = op->shard;
    struct conversation *v = conv_find(s, id);
    if (v != NULL) {
        conv_pin(v);
        op->conv = v;
        if (v->record != NULL) {
            run(c, op);
            return;
        }
    } else if (op->type == PTN_MSG_TOPIC_DETACH) {
        op_end(c, op);
        return;
    } else if (id.n > CONVERSATION_ID_BYTES_MAX ||
               (!ptn_id_is_valid(id) && !ptn_str_eq(id, op->user))) {
        op_not_found(c, op);
        return;
    }
    bool first = v == NULL;
    if (first) {
        v = conv_new(s, id); /* its pin becomes the op's */
        if (v == NULL) {
            op_fail(c, op, PTN_CODE_OVERLOADED,
                    "too many conversations are in use; try again later");
            return;
        }
        op->conv = v;
    }
    op->wait_next = NULL;
    if (v->waiting_last != NULL)
        v->waiting_last->wait_next = op;
    else
        v->waiting_first = op;
    v->waiting_last = op;
    if (first)
        load(c, v);
}

/* ---- requests ----------------------------------------------------------------------------- */

/* The conversation that a request is about; `current` and nothing mean the caller's default one,
 * and so does what cannot be an id: draft_read() refuses it. */
static ptn_str target_of(const struct op *op, char *buf, size_t buf_bytes) {
    ptn_str id = {0};
    if (op->type == PTN_MSG_ROUTE_MSG_SEND) {
        (void)ptn_map_get_str(op->request.body, "conversationId", &id);
    } else if (!ptn_path_segment(op->request.path, 1, buf, buf_bytes, &id)) {
        return (ptn_str){"?", 1};
    }
    return id.n == 0 || ptn_str_eqz(id, "current") ? op->user : id;
}

/* False: it belongs to another shard and has been handed on. */
static bool is_ours(ptn_ctx *c, struct shard *s, const ptn_msg *m, ptn_str id) {
    unsigned owner = ptn_shard(id, s->directory->workers);
    if (owner == s->config->shard)
        return true;
    int err = ptn_forward(c, m, s->directory->conversation[owner], m->type);
    if (err < 0)
        ptn_problem_pass(c, ptn_reply_token(c, m), err, NULL);
    return false;
}

static void on_route(ptn_ctx *c, struct shard *s, const ptn_msg *m) {
    struct op probe = {.type = m->type};
    char buf[CONVERSATION_ID_BYTES_MAX * 3];
    bool direct = m->type == PTN_MSG_ROUTE_CONV_LIST || m->type == PTN_MSG_ROUTE_CONV_CREATE ||
                  m->type == PTN_MSG_ROUTE_MSG_READ;
    if (!ptn_request_unpack(ptn_msg_bytes(m), &probe.request)) {
        ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_INVALID_REQUEST,
                         "the request cannot be read");
        return;
    }
    probe.user = probe.request.principal.user;
    if (probe.user.n == 0 || probe.user.n > CONVERSATION_ID_BYTES_MAX) {
        ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_UNAUTHENTICATED,
                         "this needs a user; log in first");
        return;
    }
    ptn_str id = direct ? (ptn_str){0} : target_of(&probe, buf, sizeof buf);
    if (!direct && !is_ours(c, s, m, id))
        return;
    ptn_reply_to to = ptn_reply_token(c, m);
    struct op *op = op_new(s, m, to);
    if (op == NULL) {
        ptn_problem_pass(c, to, -PTN_EOVERLOAD, NULL);
        return;
    }
    op->request = probe.request;
    op->user = probe.user;
    if (m->type == PTN_MSG_ROUTE_CONV_LIST)
        on_list(c, op);
    else if (m->type == PTN_MSG_ROUTE_CONV_CREATE)
        on_create(c, op);
    else if (m->type == PTN_MSG_ROUTE_MSG_READ)
        on_read(c, op);
    else
        with_conversation(c, op, id);
}

/* TOPIC_ATTACH and TOPIC_DETACH of conversation.<id>. */
static int on_topic(ptn_ctx *c, struct shard *s, const ptn_msg *m) {
    ptn_str prefix = PTN_STR("conversation."), topic, user = {0};
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    if (!ptn_unpack_array(&u, &n) || !ptn_unpack_str(&u, &topic) || !ptn_str_starts(topic, prefix))
        return -PTN_EPROTO;
    if (m->type == PTN_MSG_TOPIC_ATTACH && !ptn_unpack_str_or_nil(&u, &user))
        return -PTN_EPROTO;
    ptn_reply_to to = ptn_reply_token(c, m);
    struct op *op = op_new(s, m, to);
    if (op == NULL) {
        if (to.corr != 0)
            ptn_problem_pass(c, to, -PTN_EOVERLOAD, NULL);
        return 0;
    }
    op->user = user;
    with_conversation(c, op, (ptn_str){topic.p + prefix.n, topic.n - prefix.n});
    return 0;
}

/* SYNC_APPLY: items that belong to one conversation of this shard. */
static int on_sync(ptn_ctx *c, struct shard *s, const ptn_msg *m) {
    ptn_str user, id;
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    if (!ptn_unpack_array(&u, &n) || !ptn_unpack_str(&u, &user) || !ptn_unpack_any(&u, NULL) ||
        !ptn_unpack_str(&u, &id))
        return -PTN_EPROTO;
    ptn_reply_to to = ptn_reply_token(c, m);
    struct op *op = op_new(s, m, to);
    if (op == NULL) {
        ptn_problem_pass(c, to, -PTN_EOVERLOAD, NULL);
        return 0;
    }
    op->user = user;
    with_conversation(c, op, id);
    return 0;
}

/* CONV_MARK */
static int on_mark_message(ptn_ctx *c, struct shard *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n;
    ptn_str id;
    if (!ptn_unpack_array(&u, &n) || !ptn_unpack_str(&u, &id))
        return -PTN_EPROTO;
    struct op *op = op_new(s, m, (ptn_reply_to){0});
    if (op != NULL)
        with_conversation(c, op, id);
    return 0;
}

/* ---- the actor ---------------------------------------------------------------------------- */

static void resync_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct shard *s = state;
    (void)t;
    (void)arg;
    for (unsigned i = 0; i < s->directory->workers; i++)
        if (s->resync & UINT64_C(1) << i)
            shard_resync(c, s, i);
    struct op *op = s->held;
    s->held = NULL;
    for (struct op *next; op != NULL; op = next) {
        next = op->wait_next;
        members_answer(c, op);
    }
}

void shard_resync(ptn_ctx *c, struct shard *s, unsigned worker) {
    uint64_t bit = UINT64_C(1) << worker;
    int err = ptn_cast(c, s->directory->hub[worker], PTN_MSG_OWNER_RESTARTED, NULL);
    if (err == 0 || err == -PTN_ENOACTOR || err == -PTN_ESTOPPING) {
        s->resync &= ~bit; /* whatever it has missed so far: once is enough */
        return;
    }
    s->resync |= bit;
    if (!ptn_timer_is_armed(&s->resync_timer))
        ptn_timer_start(c, &s->resync_timer, RESYNC_NS, resync_due, NULL);
}

/* At the actor's end, crash included. */
static void shard_release(void *arg) {
    struct shard *s = arg;
    while (s->ops != NULL) {
        struct op *op = s->ops;
        op_unlink(op);
        free(op);
    }
    while (s->op_pool != NULL) {
        struct op *op = s->op_pool;
        s->op_pool = op->next;
        free(op);
    }
    marks_free_all(s);
    conv_free_all(s);
}

static int conversation_init(ptn_ctx *c, void *state, void *arg) {
    struct shard *s = state;
    const conversation_config *cfg = arg;
    s->config = cfg;
    s->directory = cfg->directory;
    s->cache_max = cfg->cache_max != 0 ? cfg->cache_max : CACHE_MAX_DEFAULT;
    s->attached_max = cfg->attached_max != 0 ? cfg->attached_max : ATTACHED_MAX_DEFAULT;
    s->requests_max = cfg->requests_max != 0 ? cfg->requests_max : REQUESTS_MAX_DEFAULT;
    s->lru_last = &s->lru_first;
    int err = ptn_defer(c, shard_release, s);
    /* After a crash the hubs must not wait for events that would never come. */
    for (unsigned i = 0; err == 0 && i < s->directory->workers; i++)
        shard_resync(c, s, i);
    return err;
}

static int conversation_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct shard *s = state;
    switch (m->type) {
    case PTN_MSG_ROUTE_CONV_LIST:
    case PTN_MSG_ROUTE_CONV_CREATE:
    case PTN_MSG_ROUTE_CONV_GET:
    case PTN_MSG_ROUTE_CONV_PATCH:
    case PTN_MSG_ROUTE_MEMBERS_ADD:
    case PTN_MSG_ROUTE_MEMBERS_REMOVE:
    case PTN_MSG_ROUTE_MSG_SEND:
    case PTN_MSG_ROUTE_MSG_SEND_TO:
    case PTN_MSG_ROUTE_MSG_LIST:
    case PTN_MSG_ROUTE_MSG_READ:
        on_route(c, s, m);
        return 0;
    case PTN_MSG_SYNC_APPLY:
        return on_sync(c, s, m);
    case PTN_MSG_TOPIC_ATTACH:
    case PTN_MSG_TOPIC_DETACH:
        return on_topic(c, s, m);
    case PTN_MSG_CONV_MARK:
        return on_mark_message(c, s, m);
    case PTN_MSG_TOPIC_TRIMMED:
        return on_trimmed(s, m);
    case PTN_MSG_TOPIC_WATCH_ALL:
        on_watch_all(c, s, m);
        return 0;
    case PTN_MSG_STOPPING:
        s->stopping = true;
        exit_when_done(c, s);
        return 0;
    default:
        return 0;
    }
}

const ptn_actor_ops conversation_actor = {.name = "conversation",
                                          .state_size = sizeof(struct shard),
                                          .init = conversation_init,
                                          .handle = conversation_handle};
