/* SPDX-License-Identifier: Apache-2.0
 *
 * client_host.c - the guest who writes to ROOM_OPEN and ROOM_FIXED, and adds people to ROOM_OPEN
 * and removes them.
 */
#include "client.h"
#include "rooms.h"

#include <stdio.h>

#define PIPELINE_MAX 3u

enum { ASK_JOIN, ASK_LEAVE }; /* `ref` of a request; `subject`: the user */

static void send_message(struct client *c, bool again, unsigned room) {
    ptn_pack w;
    char path[96];
    int index = again ? client_message(c, true) : client_message_to(c, room);
    if (index < 0)
        return;
    (void)client_call(c, CALL_MESSAGE, (uint32_t)index, 0);
    ptn_pack_init(&w, 256);
    (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/messages",
                   conversation_id(world->sent[index].conversation));
    client_pack_message(c, &w, (uint32_t)index);
    http_send(c, "POST", path, sim_tokens[c->user], &w);
}

static void ask_member(struct client *c, unsigned user, bool in) {
    char path[160];
    ptn_pack w;
    (void)client_call(c, CALL_REQUEST, in ? ASK_JOIN : ASK_LEAVE, user);
    member_asked(user, in);
    (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/members%s%s",
                   conversation_id(ROOM_OPEN), in ? "" : "?userId=", in ? "" : user_id(user));
    if (!in) {
        http_send(c, "DELETE", path, sim_tokens[c->user], NULL);
        return;
    }
    ptn_pack_init(&w, 96);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "members");
    ptn_pack_array(&w, 1);
    ptn_pack_cstr(&w, user_id(user));
    http_send(c, "POST", path, sim_tokens[c->user], &w);
}

static bool is_asking(const struct client *c) {
    for (uint32_t i = 0; i < c->n_calls; i++)
        if (c->calls[i].kind == CALL_REQUEST)
            return true;
    return false;
}

/* What has no answer is asked for again, and nothing else while it may still be done. */
static bool settle_member(struct client *c, unsigned user) {
    const struct membership *m = member_of(user);
    if (m->is == JOINING || m->is == LEAVING)
        ask_member(c, user, m->is == JOINING);
    return m->is == JOINING || m->is == LEAVING || m->unsure_until > ptn_sim_now(c->env);
}

static void change_member(struct client *c) {
    unsigned user = DEVICE_USER + client_below(c, DEVICE_USERS);
    if (!is_asking(c) && !settle_member(c, user))
        ask_member(c, user, member_of(user)->is == OUT);
}

static void act_settling(struct client *c) {
    for (unsigned i = 0; i < DEVICE_USERS; i++)
        if (is_asking(c) || settle_member(c, DEVICE_USER + i))
            return;
    if (c->last_words > 0) {
        c->last_words--;
        for (unsigned k = ROOM_OPEN; k < ROOMS; k++)
            send_message(c, false, k);
    } else {
        send_message(c, true, 0);
    }
}

static void act(struct client *c) {
    if (c->n_calls >= PIPELINE_MAX)
        return;
    if (c->settling) {
        act_settling(c);
        return;
    }
    switch (client_below(c, 8)) {
    case 0:
        change_member(c);
        break;
    case 1:
        send_message(c, true, 0);
        break;
    default:
        send_message(c, false, ROOM_OPEN + client_below(c, 2));
        break;
    }
}

/* ---- answers --------------------------------------------------------------------------------- */

static bool lists(ptn_bytes conversation, const char *user) {
    ptn_bytes members = {0};
    uint32_t n = 0;
    ptn_str one;
    (void)ptn_map_get(conversation, "members", &members);
    ptn_unpack u = ptn_unpack_of(members);
    ORACLE(ptn_unpack_array(&u, &n), "wire: a conversation without members");
    for (; n > 0; n--)
        if (ptn_unpack_str(&u, &one) && ptn_str_eqz(one, user))
            return true;
    return false;
}

static void on_member(struct client *c, const struct call *call, ptn_bytes conversation) {
    (void)c;
    member_answered(call->subject);
    for (unsigned i = 0; i < DEVICE_USERS; i++) {
        unsigned user = DEVICE_USER + i;
        const struct membership *m = member_of(user);
        bool unsure = m->is == JOINING || m->is == LEAVING;
        ORACLE(unsure || lists(conversation, user_id(user)) == (m->is == IN),
               "members: user %s was %s, and the answer says something else", user_name(user),
               m->is == IN ? "added" : "removed");
    }
}

static void answered(struct client *c, const struct call *call, unsigned long status,
                     ptn_bytes envelope) {
    ptn_bytes data;
    if (status < 200 || status >= 300) {
        if (call->kind == CALL_REQUEST)
            member_unsure(call->subject, ptn_sim_now(c->env));
        http_refused(c, status, envelope);
        return;
    }
    ORACLE(ptn_map_get(envelope, "data", &data), "wire: success without data");
    if (call->kind == CALL_MESSAGE)
        saw_ack(world->sent[call->ref].conversation, data, call->ref, 0);
    else
        on_member(c, call, data);
}

static void opened(struct client *c) {
    c->state = CLIENT_LIVE;
}

static void lost(struct client *c) {
    for (uint32_t i = 0; i < c->n_calls; i++)
        if (c->calls[i].kind == CALL_REQUEST)
            member_unsure(c->calls[i].subject, ptn_sim_now(c->env));
}

static const char *waits_for(const struct client *c) {
    for (unsigned i = 0; i < DEVICE_USERS; i++) {
        const struct membership *m = &world->members[i];
        if (m->is == JOINING || m->is == LEAVING || m->unsure_until > ptn_sim_now(c->env))
            return "a member to be added or removed";
    }
    return NULL;
}

const struct client_kind host_kind = {.http = true,
                                      .opened = opened,
                                      .act = act,
                                      .lost = lost,
                                      .answered = answered,
                                      .waits_for = waits_for};
