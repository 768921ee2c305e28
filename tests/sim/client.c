/* SPDX-License-Identifier: Apache-2.0
 *
 * client.c - what all simulated clients share: coming, going, coming back, and what they remember.
 */
#include "client.h"

#include "rooms.h"

#include <stdio.h>
#include <stdlib.h>

const char sim_address[] = "127.0.0.1:8771";
char sim_tokens[PEOPLE][512];

#define BACK_NS_MEAN (300 * PTN_MS)
#define SETTLE_NS_MEAN (50 * PTN_MS)
#define LAST_WORDS 2u

uint32_t client_below(struct client *c, uint32_t n) {
    return (uint32_t)ptn_sim_rng_below(&c->rng, n);
}

bool client_chance(struct client *c, uint32_t ppm) {
    return ptn_sim_rng_chance(&c->rng, ppm);
}

static void act(void *arg);

static void later(struct client *c, ptn_time mean) {
    ptn_sim_timer_start(c->env, &c->timer, 1 + ptn_sim_rng_exp(&c->rng, mean), act, c);
}

/* ---- questions and answers ------------------------------------------------------------------- */

struct call *client_call(struct client *c, enum call_kind kind, uint32_t ref, uint32_t subject) {
    if (c->n_calls == CALLS_MAX)
        return NULL;
    struct call *call = &c->calls[c->n_calls++];
    *call = (struct call){.kind = kind, .id = ++c->next_id, .ref = ref, .subject = subject};
    return call;
}

void client_call_end(struct client *c, struct call *call) {
    size_t i = (size_t)(call - c->calls);
    c->n_calls--;
    memmove(call, call + 1, (c->n_calls - i) * sizeof *call);
    world->tally.answers++;
}

/* ---- messages -------------------------------------------------------------------------------- */

static bool in_flight(const struct client *c, uint32_t index) {
    for (uint32_t i = 0; i < c->n_calls; i++)
        if (c->calls[i].kind == CALL_MESSAGE && c->calls[i].ref == index)
            return true;
    return false;
}

static int unacknowledged(const struct client *c) {
    for (uint32_t i = 0; i < world->n_sent; i++)
        if (world->sent[i].client == c->index && !world->sent[i].acked && !in_flight(c, i))
            return (int)i;
    return -1;
}

int client_message(struct client *c, bool again) {
    if (again) {
        int i = unacknowledged(c);
        if (i >= 0)
            world->sent[i].attempts++;
        return i;
    }
    unsigned k = client_below(c, CONVERSATIONS);
    return client_message_to(c, is_member(k, c->user) ? k : 0);
}

int client_message_to(struct client *c, unsigned k) {
    uint32_t index = world->n_sent;
    if (index == SENT_MAX)
        return -1;
    struct sent *s = &world->sent[world->n_sent++];
    *s = (struct sent){.conversation = (uint8_t)k,
                       .client = (uint8_t)c->index,
                       .attempts = 1,
                       .session = c->kind->http ? 0 : c->session};
    uint8_t random[10];
    for (size_t i = 0; i < sizeof random; i++)
        random[i] = (uint8_t)client_below(c, 256);
    ptn_ulid_make(INT64_C(1750000000000) + index, random, s->id);
    uint32_t extra = client_chance(c, world->plan.long_message_ppm) ? client_below(c, 6000)
                                                                    : client_below(c, 60);
    char head[16];
    s->bytes = (uint32_t)snprintf(head, sizeof head, "m%u ", index) + extra;
    if (k == ROOM_OPEN)
        room_sent(index);
    return (int)index;
}

void client_pack_members(ptn_pack *w, uint32_t index) {
    const struct sent *s = &world->sent[index];
    char text[6100];
    int n = snprintf(text, sizeof text, "m%u ", index);
    memset(text + n, 'x', s->bytes - (uint32_t)n);
    ptn_pack_key(w, "id");
    ptn_pack_cstr(w, s->id);
    ptn_pack_key(w, "conversationId");
    ptn_pack_cstr(w, conversation_id(s->conversation));
    ptn_pack_key(w, "content");
    ptn_pack_str(w, (ptn_str){text, s->bytes});
}

void client_pack_message(struct client *c, ptn_pack *w, uint32_t index) {
    (void)c;
    ptn_pack_map(w, 3);
    client_pack_members(w, index);
}

void client_pack_items(ptn_pack *w, uint32_t index) {
    ptn_pack_map(w, 1);
    ptn_pack_key(w, "items");
    ptn_pack_array(w, 2);
    for (int i = 0; i < 2; i++) {
        ptn_pack_map(w, 4);
        ptn_pack_key(w, "kind");
        ptn_pack_cstr(w, "message");
        client_pack_members(w, index);
    }
}

void client_encode(struct client *c, ptn_pack *w) {
    ptn_buf *b = ptn_pack_finish(w);
    PTN_ASSERT(b != NULL);
    ptn_bytes value = ptn_buf_bytes(b);
    ptn_out_clear(&c->out);
    if (c->msgpack)
        ptn_out_put(&c->out, value.p, value.n);
    else
        PTN_ASSERT(ptn_msgpack_to_json(value, &c->out) == 0);
    ptn_buf_unref(b);
}

/* ---- the connection -------------------------------------------------------------------------- */

void client_send(struct client *c, const void *p, size_t n) {
    if (c->peer != NULL)
        (void)ptn_sim_peer_write(c->peer, p, n);
}

/* What was asked and not answered stays open: the next connection asks again. */
static void went_down(struct client *c) {
    if (c->kind->lost != NULL)
        c->kind->lost(c);
    c->peer = NULL;
    c->state = CLIENT_DOWN;
    c->vanished = c->streaming = false;
    c->stream = SUBJECTS;
    c->n_calls = 0;
    c->in_len = 0;
    memset(c->subs, 0, sizeof c->subs);
    memset(c->seen, 0, sizeof c->seen);
    c->pattern_state = SUB_NONE;
    world->tally.closed++;
    if (c->gone)
        ptn_sim_timer_stop(&c->timer);
    else
        later(c, c->settling ? SETTLE_NS_MEAN : BACK_NS_MEAN);
}

void client_hang_up(struct client *c, bool reset) {
    if (c->peer == NULL)
        return;
    if (reset)
        ptn_sim_peer_reset(c->peer);
    else
        ptn_sim_peer_close(c->peer);
    went_down(c);
}

static void on_open(void *owner) {
    struct client *c = owner;
    c->session = ++world->n_sessions;
    world->tally.sessions++;
    memset(c->n_published, 0, sizeof c->n_published);
    memset(c->acked_at, 0, sizeof c->acked_at);
    memset(c->acked_n, 0, sizeof c->acked_n);
    if (c->session >= SESSIONS_MAX) { /* enough for this run */
        c->gone = true;
        client_hang_up(c, true);
    } else {
        c->kind->opened(c);
    }
}

static void on_bytes(void *owner, const uint8_t *p, size_t n) {
    struct client *c = owner;
    if (c->in_len + n > c->in_cap) {
        c->in_cap = 2 * (c->in_len + n);
        c->in = realloc(c->in, c->in_cap);
        PTN_ASSERT(c->in != NULL);
    }
    memcpy(c->in + c->in_len, p, n);
    c->in_len += n;
    if (c->kind->http)
        http_input(c);
    else
        ws_input(c);
}

static void on_end(void *owner) {
    client_hang_up(owner, false);
}

static void on_reset(void *owner) {
    went_down(owner);
}

static const ptn_sim_peer_cbs peer_cbs = {
    .on_open = on_open, .on_bytes = on_bytes, .on_end = on_end, .on_reset = on_reset};

/* ---- what it does next ----------------------------------------------------------------------- */

/* Leaves in one of the ways that people leave. */
static void leave(struct client *c) {
    if (client_chance(c, world->plan.vanish_ppm)) {
        world->tally.vanished++;
        c->vanished = true; /* reads nothing more, says nothing */
        ptn_sim_peer_read_enable(c->peer, false);
        return;
    }
    switch (client_below(c, 3)) {
    case 0:
        client_hang_up(c, true);
        break;
    case 1:
        client_hang_up(c, false);
        break;
    default:
        if (c->kind->http)
            ptn_sim_peer_shut(c->peer);
        else
            ws_hang_up(c);
        break;
    }
}

static void act(void *arg) {
    struct client *c = arg;
    if (c->gone)
        return;
    if (c->state == CLIENT_DOWN && c->kind->may_come != NULL && !c->kind->may_come(c)) {
        later(c, BACK_NS_MEAN);
        return;
    }
    if (c->state == CLIENT_DOWN) {
        c->state = CLIENT_CONNECTING;
        c->peer = ptn_sim_connect(c->env, sim_address, &peer_cbs, c);
        PTN_ASSERT(c->peer != NULL);
    } else if (c->vanished) {
        if (c->settling || client_below(c, 200) == 0)
            client_hang_up(c, true);
    } else if (c->state == CLIENT_LIVE) {
        bool may_leave = !c->settling && client_chance(c, world->plan.leave_ppm);
        if (may_leave)
            leave(c);
        else
            c->kind->act(c);
    }
    if (c->state != CLIENT_DOWN)
        later(c, (ptn_time)world->plan.pause_mean_ms * PTN_MS);
}

void client_init(struct client *c, ptn_env *env, unsigned index, const struct client_kind *kind) {
    memset(c, 0, sizeof *c);
    c->kind = kind;
    c->env = env;
    c->index = index;
    c->stream = SUBJECTS;
    c->json = ptn_json_parser_new();
    PTN_ASSERT(c->json != NULL);
    ptn_sim_rng_seed(&c->rng, world->seed * 64 + world->life * 16 + index);
}

void client_start(struct client *c, ptn_env *env, unsigned index) {
    client_init(c, env, index, index % 4 == 3 ? &http_kind : &ws_kind);
    /* The same in every life: */
    c->user = index % USERS;
    c->msgpack = (world->seed >> index & 1) != 0;
    c->pattern = index % 4 == 2;
    later(c, BACK_NS_MEAN);
}

/* ---- guests ---------------------------------------------------------------------------------- */

unsigned guests_planned(void) {
    const struct plan *p = &world->plan;
    bool host = p->devices > 0 || p->replicas > 0;
    return 2 * p->logins + host + p->devices + p->replicas;
}

void guest_start(struct client *c, ptn_env *env, unsigned guest) {
    unsigned index = CLIENTS_MAX + ZMQ_CLIENTS_MAX + guest, logins = world->plan.logins;
    if (guest < logins) {
        client_init(c, env, index, &login_kind);
        c->user = LOGIN_USER + guest;
    } else if (guest >= guests_planned() - logins) {
        client_init(c, env, index, &socket_kind);
        c->device = guests_planned() - 1 - guest;
        c->user = LOGIN_USER + c->device;
    } else if (guest == logins) {
        client_init(c, env, index, &host_kind);
        members_begin();
        c->user = HOST_USER;
    } else if (guest > logins + world->plan.devices) {
        client_init(c, env, index, &replica_kind);
        c->user = REPLICA_USER;
    } else {
        client_init(c, env, index, &device_kind);
        c->device = guest - logins - 1;
        c->user = device_user(c->device);
        c->msgpack = (world->seed >> index & 1) != 0;
    }
    ptn_sim_rng_seed(&c->rng, (world->seed * LIVES_MAX + world->life) * 64 + index);
    later(c, BACK_NS_MEAN);
}

void client_settle(struct client *c) {
    c->settling = true;
    c->last_words = LAST_WORDS;
    c->gone = c->kind->leaves;
    if (c->vanished || c->stream != SUBJECTS || c->gone)
        client_hang_up(c, true);
}

void client_quit(struct client *c) {
    c->gone = true;
    ptn_sim_timer_stop(&c->timer);
}

void client_done(struct client *c) {
    client_quit(c);
    ptn_json_parser_free(c->json);
    ptn_out_done(&c->out);
    free(c->in);
}

uint32_t client_n_unacknowledged(const struct client *c) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < world->n_sent; i++)
        n += world->sent[i].client == c->index && !world->sent[i].acked;
    return n;
}

const char *client_waits_for(const struct client *c) {
    if (c->gone)
        return NULL;
    if (c->state != CLIENT_LIVE)
        return "a connection";
    if (c->last_words > 0 || unacknowledged(c) >= 0)
        return "its last words to be said";
    if (c->n_calls > 0)
        return "answers";
    return c->kind->waits_for != NULL ? c->kind->waits_for(c) : NULL;
}
