/* SPDX-License-Identifier: Apache-2.0
 *
 * client_device.c - guests with devices: each takes what waits for it (`message` frames),
 * acknowledges it late or never, leaves, and comes back; some subscribe to a conversation
 * meanwhile. A second device of a user comes when the first is known.
 */
#include "client.h"
#include "rooms.h"

#include <stdio.h>

static const char prefix[] = "conversation.";

static struct subscription *sub_of(struct client *c, unsigned room) {
    return &c->subs[room - ROOM_OPEN];
}

/* ---- out ------------------------------------------------------------------------------------- */

static void opened(struct client *c) {
    ws_upgrade(c, "?device=", device_name(c->device), sim_tokens[c->user]);
}

static void send_ack(struct client *c, unsigned room) {
    ptn_pack w;
    uint64_t *acked = &world->devices[c->device].acked[room - ROOM_OPEN];
    uint64_t has = device_has(c->device, room);
    if (has == 0)
        return;
    if (!c->settling && has > *acked)
        has = *acked + 1 + client_below(c, (uint32_t)(has - *acked));
    if (has > *acked)
        *acked = has;
    ptn_pack_init(&w, 96);
    ptn_pack_map(&w, 3);
    ptn_pack_key(&w, "type");
    ptn_pack_cstr(&w, "ack");
    ptn_pack_key(&w, "conversationId");
    ptn_pack_cstr(&w, conversation_id(room));
    ptn_pack_key(&w, "seq");
    ptn_pack_uint(&w, has);
    ws_send(c, &w);
}

static void send_message(struct client *c, bool again) {
    ptn_pack w;
    int index = c->n_calls == CALLS_MAX ? -1
                : again                 ? client_message(c, true)
                                        : client_message_to(c, ROOM_FIXED);
    if (index < 0)
        return;
    struct call *call = client_call(c, CALL_MESSAGE, (uint32_t)index, 0);
    ws_begin_call(&w, "message", call, 1);
    ptn_pack_key(&w, "message");
    client_pack_message(c, &w, (uint32_t)index);
    ws_send(c, &w);
}

/* Whether it may, and since when: the same as long as the host asks for nothing. */
static uint32_t standing(const struct client *c) {
    const struct membership *m = member_of(c->user);
    return m->epoch * 4 + m->is;
}

static void send_subscribe(struct client *c, unsigned room, bool on) {
    ptn_pack w;
    char topic[64];
    struct call *call = client_call(c, on ? CALL_SUBSCRIBE : CALL_OTHER, room, standing(c));
    if (call == NULL)
        return;
    sub_of(c, room)->state = on ? SUB_ASKED : SUB_LEAVING;
    (void)snprintf(topic, sizeof topic, "%s%s", prefix, conversation_id(room));
    ws_begin_call(&w, on ? "subscribe" : "unsubscribe", call, 1);
    ptn_pack_key(&w, "topic");
    ptn_pack_cstr(&w, topic);
    ws_send(c, &w);
}

static void act(struct client *c) {
    unsigned room = ROOM_OPEN + client_below(c, 2);
    enum sub_state state = sub_of(c, room)->state;
    if (c->settling || client_chance(c, world->plan.device_acks_ppm)) {
        send_ack(c, room);
        if (!c->settling && client_below(c, 8) == 0) { /* what is on its way then is lost */
            client_hang_up(c, client_below(c, 2) == 0);
            return;
        }
    }
    if (c->settling && state == SUB_ON) {
        send_subscribe(c, room, false); /* what it has not acknowledged comes again */
        return;
    }
    if (c->settling && c->last_words > 0) {
        c->last_words--;
        send_message(c, false);
        return;
    }
    switch (c->settling ? 1 : client_below(c, 20)) {
    case 0:
        send_message(c, false);
        break;
    case 1:
        send_message(c, true);
        break;
    case 2:
        if (state == SUB_NONE)
            send_subscribe(c, room, true);
        break;
    case 3:
        if (state == SUB_ON)
            send_subscribe(c, room, false);
        break;
    default:
        break;
    }
}

/* ---- in -------------------------------------------------------------------------------------- */

static unsigned room_of_topic(const struct client *c, ptn_bytes frame) {
    ptn_str topic;
    size_t n = sizeof prefix - 1;
    ORACLE(ptn_map_get_str(frame, "topic", &topic) && topic.n > n, "wire: a frame without topic");
    unsigned room = room_of((ptn_str){topic.p + n, topic.n - n});
    ORACLE(room < ROOMS, "wire: client %u hears of %.*s", c->index, (int)topic.n, topic.p);
    return room;
}

static void got(struct client *c, unsigned room, uint64_t seq, ptn_bytes message) {
    uint32_t index = saw_message(room, seq, message);
    if (room == ROOM_OPEN)
        room_heard(c->user, index);
    device_got(c->device, room, seq, index);
    world->tally.delivered++;
}

static void on_message(struct client *c, ptn_bytes frame) {
    ptn_str conversation, sender;
    uint64_t seq;
    ORACLE(ptn_map_get_str(frame, "conversationId", &conversation) &&
               ptn_map_get_uint(frame, "seq", &seq) && ptn_map_get_str(frame, "senderId", &sender),
           "wire: a message without conversation, seq or sender");
    unsigned room = room_of(conversation);
    ORACLE(room < ROOMS, "feed: client %u gets a message of %.*s", c->index, (int)conversation.n,
           conversation.p);
    ORACLE(!ptn_str_eqz(sender, user_id(c->user)), "feed: client %u gets what its user has said",
           c->index);
    const struct subscription *s = sub_of(c, room);
    ORACLE(s->state != SUB_ON || seq <= s->since.offset,
           "feed: client %u has subscribed from %llu on, and gets message %llu", c->index,
           (unsigned long long)s->since.offset, (unsigned long long)seq);
    ORACLE(s->state != SUB_ON || s->at == s->since.offset,
           "feed: client %u gets message %llu behind event %llu", c->index, (unsigned long long)seq,
           (unsigned long long)s->at);
    device_fed(c->device, room, seq, c->session);
    got(c, room, seq, frame);
}

static void on_event(struct client *c, ptn_bytes frame) {
    uint64_t offset;
    ptn_bytes data;
    unsigned room = room_of_topic(c, frame);
    struct subscription *s = sub_of(c, room);
    ORACLE(ptn_map_get_uint(frame, "offset", &offset) && ptn_map_get(frame, "data", &data),
           "wire: an event without offset or data");
    ORACLE(s->state == SUB_ON || s->state == SUB_LEAVING,
           "wire: client %u hears of conversation %u and has not subscribed", c->index, room);
    ORACLE(offset == s->at + 1, "contiguous: client %u, conversation %u: from %llu to %llu",
           c->index, room, (unsigned long long)s->at, (unsigned long long)offset);
    uint64_t lacks = device_lacks(c->device, room, s->since.offset);
    ORACLE(lacks == 0, "feed: client %u gets event %llu before message %llu", c->index,
           (unsigned long long)offset, (unsigned long long)lacks);
    s->at = offset;
    got(c, room, offset, data);
}

static void on_gap(struct client *c, ptn_bytes frame) {
    uint64_t from, to;
    ptn_str reason;
    unsigned room = room_of_topic(c, frame);
    ORACLE(ptn_map_get_uint(frame, "from", &from) && ptn_map_get_uint(frame, "to", &to) &&
               from <= to && to <= SENT_MAX && ptn_map_get_str(frame, "reason", &reason),
           "wire: a gap that is none");
    ORACLE(
        ptn_str_eqz(reason, "max_deliveries") && world->plan.feed_deliveries_max != FEED_FOR_EVER,
        "feed: client %u is passed over (%.*s) without reason", c->index, (int)reason.n, reason.p);
    device_passed(c->device, room, from, to);
}

static void on_subscribed(struct client *c, ptn_bytes frame, const struct call *call) {
    struct subscription *s = sub_of(c, call->ref);
    ORACLE(call->ref == ROOM_FIXED || standing(c) % 4 != OUT || standing(c) != call->subject,
           "members: user %s is no member and subscribes", user_name(c->user));
    ORACLE(ptn_map_get_uint(frame, "offset", &s->at), "wire: subscribed without offset");
    s->since.offset = s->at;
    s->state = SUB_ON;
}

static bool is_barred(ptn_bytes frame) {
    ptn_str code;
    return ptn_map_get_str(frame, "code", &code) &&
           (ptn_str_eqz(code, "not_found") || ptn_str_eqz(code, "forbidden"));
}

static void on_error(struct client *c, ptn_bytes frame, const struct call *call) {
    bool barred = is_barred(frame);
    if (!barred)
        ws_refused(c, frame);
    if (call == NULL && barred)
        sub_of(c, ROOM_OPEN)->state = SUB_NONE; /* it was removed */
    if (call == NULL || call->kind == CALL_MESSAGE)
        return;
    ORACLE(!barred ||
               (call->ref == ROOM_OPEN && (standing(c) % 4 != IN || standing(c) != call->subject)),
           "members: user %s is refused where it belongs", user_name(c->user));
    sub_of(c, call->ref)->state =
        call->kind == CALL_OTHER && !barred ? SUB_ON : SUB_NONE; /* it did not leave */
}

static void on_answer(struct client *c, ptn_bytes frame, ptn_str type, struct call *open) {
    struct call call = *open;
    ptn_bytes message;
    client_call_end(c, open);
    if (ptn_str_eqz(type, "ack")) {
        ORACLE(ptn_map_get(frame, "message", &message), "wire: an ack without message");
        saw_ack(world->sent[call.ref].conversation, message, call.ref, c->session);
    } else if (ptn_str_eqz(type, "subscribed")) {
        on_subscribed(c, frame, &call);
    } else if (ptn_str_eqz(type, "unsubscribed")) {
        sub_of(c, call.ref)->state = SUB_NONE;
    } else {
        ORACLE(ptn_str_eqz(type, "error"), "wire: a frame of type %.*s", (int)type.n, type.p);
        on_error(c, frame, &call);
    }
}

static void on_frame(struct client *c, ptn_bytes frame) {
    ptn_str type;
    ORACLE(ptn_map_get_str(frame, "type", &type), "wire: a frame without type");
    if (ptn_str_eqz(type, "message")) {
        on_message(c, frame);
    } else if (ptn_str_eqz(type, "event")) {
        on_event(c, frame);
    } else if (ptn_str_eqz(type, "gap")) {
        on_gap(c, frame);
    } else if (ptn_str_eqz(type, "welcome")) {
        c->state = CLIENT_LIVE;
    } else if (!ptn_str_eqz(type, "drain")) {
        struct call *call = ws_find_call(c, frame);
        if (call != NULL)
            on_answer(c, frame, type, call);
        else if (ptn_str_eqz(type, "error"))
            on_error(c, frame, NULL);
        else
            oracle_failed("one answer: an answer of type %.*s to nothing", (int)type.n, type.p);
    }
}

static bool may_come(const struct client *c) {
    return device_may_begin(c->device);
}

static const char *waits_for(const struct client *c) {
    return device_waits(c->device, ROOM_OPEN) || device_waits(c->device, ROOM_FIXED)
               ? "messages of its feed"
               : NULL;
}

const struct client_kind device_kind = {
    .may_come = may_come, .opened = opened, .act = act, .frame = on_frame, .waits_for = waits_for};
