/* SPDX-License-Identifier: Apache-2.0
 *
 * subscribe.c - subscribe, unsubscribe, and the events that follow.
 *
 * One call stands for a subscribe frame with all its topics; the hub answers each of them through
 * the adapter's sink, and the call's address is the tag.  That is safe because the hub never calls
 * a sink that was closed, and an adapter closes its sink before it ends the session.
 */
#include "protocols/frames/internal.h"

#include <math.h>

#define FRAMES_RATE_MIN 0.02 /* an event in 50 s */
#define FRAMES_RATE_MAX 1000 /* the resolution of timers */

/* The topics of a frame: an array of texts, or one text. */
struct topics {
    ptn_unpack first; /* cursor at the first one */
    uint32_t n;
};

static bool read_topics(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                        struct topics *ret_t) {
    ptn_bytes many;
    ptn_str one;
    struct topics t = {.first = ptn_unpack_of(in->topic), .n = 1};
    const bool has_one = in->topic.n > 0 && ptn_kind_of(in->topic) != PTN_KIND_NIL;
    if (ptn_map_get(in->frame, "topics", &many) && ptn_kind_of(many) != PTN_KIND_NIL) {
        t.first = ptn_unpack_of(many);
        if (has_one) {
            frames__invalid(c, s, in, "topic", "stands beside `topics`: send one of the two");
            return false;
        }
        if (!ptn_unpack_array(&t.first, &t.n) || t.n == 0 || t.n > FRAMES_TOPICS_MAX) {
            frames__invalid(c, s, in, "topics", "must be an array of 1 to 100 topics");
            return false;
        }
    } else if (!has_one) {
        frames__invalid(c, s, in, "topics", "is missing: an array of topics, or `topic` for one");
        return false;
    }
    ptn_unpack u = t.first;
    for (uint32_t i = 0; i < t.n; i++) {
        if (!ptn_unpack_str(&u, &one) || one.n == 0 || one.n > PTN_TOPIC_BYTES_MAX) {
            frames__invalid(c, s, in, "topics", "each topic must be a text of 1 to 255 bytes");
            return false;
        }
    }
    *ret_t = t;
    return true;
}

/* since: {epoch, offset}, or absent. */
static bool read_since(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                       ptn_position *ret_p) {
    ptn_bytes raw;
    *ret_p = (ptn_position){0};
    if (!ptn_map_get(in->frame, "since", &raw) || ptn_kind_of(raw) == PTN_KIND_NIL)
        return true;
    ptn_position p;
    if (!ptn_map_get_str(raw, "epoch", &p.epoch) || p.epoch.n == 0 ||
        p.epoch.n > FRAMES_EPOCH_BYTES_MAX || !ptn_map_get_uint(raw, "offset", &p.offset)) {
        frames__invalid(c, s, in, "since",
                        "must be {epoch: text, offset: integer} from an earlier frame");
        return false;
    }
    *ret_p = p;
    return true;
}

static bool read_policy(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                        enum ptn_policy *ret_policy) {
    ptn_bytes raw;
    ptn_str name;
    *ret_policy = PTN_POLICY_DEFAULT;
    if (!ptn_map_get(in->frame, "policy", &raw) || ptn_kind_of(raw) == PTN_KIND_NIL)
        return true;
    ptn_unpack u = ptn_unpack_of(raw);
    if (ptn_unpack_str(&u, &name))
        *ret_policy = ptn_policy_of(name);
    if (*ret_policy != PTN_POLICY_DEFAULT && *ret_policy != PTN_POLICY_COUNT)
        return true;
    frames__invalid(c, s, in, "policy",
                    "must be one of: disconnect, drop_oldest, drop_newest, latest, stored");
    return false;
}

/* maxRate: events of a topic in a second, as the interval between them, which is rounded up. */
static bool read_rate(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                      enum ptn_policy policy, uint32_t *ret_every_ms) {
    ptn_bytes raw;
    double rate = 0;
    *ret_every_ms = 0;
    if (!ptn_map_get(in->frame, "maxRate", &raw) || ptn_kind_of(raw) == PTN_KIND_NIL)
        return true;
    ptn_unpack u = ptn_unpack_of(raw);
    if (policy == PTN_POLICY_LATEST && ptn_unpack_double(&u, &rate) && rate >= FRAMES_RATE_MIN &&
        rate <= FRAMES_RATE_MAX) {
        *ret_every_ms = (uint32_t)ceil(1000 / rate);
        return true;
    }
    frames__invalid(c, s, in, "maxRate",
                    "must be a number from 0.02 to 1000, and needs the policy \"latest\"");
    return false;
}

/* There is a hub to talk to, or the client has been told what to use. */
static bool check_hub(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    if (s->config->hub != NULL)
        return true;
    frames_send_error(c, s, in->ticket, in->id, PTN_CODE_INVALID_REQUEST,
                      "this socket carries no events: connect a SUB socket to the event address, "
                      "or use WebSocket");
    return false;
}

static void refuse_topic(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_bytes id, int code,
                         const char *message, ptn_str topic) {
    frames__error(
        c, s, ticket, id,
        &(struct frames_error){
            .code = code, .message = ptn_str_of(message), .field = "topic", .reason = topic});
}

/* False: there is no sink, and the client has been told. */
static bool check_sink(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    int err = 0;
    if (s->sink == PTN_SINK_NONE)
        err = s->config->ops->open_sink != NULL ? s->config->ops->open_sink(c, s->self)
                                                : -PTN_EOVERLOAD;
    if (err == 0 && s->sink != PTN_SINK_NONE)
        return true;
    frames_send_error(c, s, in->ticket, in->id, PTN_CODE_OVERLOADED,
                      "too many subscribers on this broker; try again later");
    return false;
}

/* One topic of a call; the last refusal ends it. */
static void subscribe_one(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                          struct frames_call *call, ptn_str topic, ptn_position since,
                          enum ptn_policy policy, uint32_t every_ms) {
    int err = ptn_hub_subscribe(c, s->config->hub, s->sink, (uint64_t)(uintptr_t)call, topic, since,
                                policy, every_ms, frames_principal(s).roles);
    if (err == 0)
        return;
    const char *message;
    const int code = ptn_code_of_err(err, &message);
    const bool last = --call->n_waiting == 0;
    if (last)
        frames__call_unlink(call);
    refuse_topic(c, s, in->ticket, in->id, code, message, topic);
    if (last)
        frames__call_free(call);
}

void frames__handle_subscribe(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    struct topics t;
    ptn_position since;
    enum ptn_policy policy;
    uint32_t every_ms;
    if (!check_hub(c, s, in) || !read_topics(c, s, in, &t) || !read_since(c, s, in, &since) ||
        !read_policy(c, s, in, &policy) || !read_rate(c, s, in, policy, &every_ms) ||
        !check_sink(c, s, in))
        return;
    struct frames_call *call = frames__call_new(c, s, in, FRAMES_CALL_SUBSCRIBE);
    if (call == NULL)
        return;
    call->n_waiting = t.n;
    for (uint32_t i = 0; i < t.n && !s->closed; i++) {
        ptn_str topic = {0};
        (void)ptn_unpack_str(&t.first, &topic); /* checked by read_topics */
        subscribe_one(c, s, in, call, topic, since, policy, every_ms);
    }
}

static bool read_position(ptn_unpack *u, ptn_str *ret_topic, ptn_position *ret_p) {
    ptn_bytes raw;
    return ptn_unpack_str(u, ret_topic) && ret_topic->n > 0 &&
           ret_topic->n <= PTN_TOPIC_BYTES_MAX && ptn_unpack_any(u, &raw) &&
           ptn_map_get_str(raw, "epoch", &ret_p->epoch) && ret_p->epoch.n > 0 &&
           ret_p->epoch.n <= FRAMES_EPOCH_BYTES_MAX &&
           ptn_map_get_uint(raw, "offset", &ret_p->offset);
}

bool frames__check_positions(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                             ptn_bytes *ret_positions) {
    ptn_bytes raw;
    uint32_t n;
    *ret_positions = (ptn_bytes){0};
    if (!ptn_map_get(in->frame, "positions", &raw) || ptn_kind_of(raw) == PTN_KIND_NIL)
        return true;
    ptn_unpack u = ptn_unpack_of(raw);
    if (!ptn_unpack_map(&u, &n)) {
        frames__invalid(c, s, in, "positions", "must be {topic: {epoch, offset}}");
        return false;
    }
    if (n > FRAMES_POSITIONS_MAX) {
        frames__invalid(c, s, in, "positions",
                        "at most 100 topics; resume with those, and subscribe to the others with "
                        "since");
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        ptn_str topic;
        ptn_position p;
        if (read_position(&u, &topic, &p))
            continue;
        frames__invalid(c, s, in, "positions",
                        "each topic needs {epoch: text, offset: integer} from an earlier frame");
        return false;
    }
    if (n > 0)
        *ret_positions = raw;
    return true;
}

void frames__subscribe_positions(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                                 ptn_bytes positions) {
    ptn_unpack u = ptn_unpack_of(positions);
    uint32_t n = 0;
    if (!ptn_unpack_map(&u, &n) || n == 0 || !check_hub(c, s, in) || !check_sink(c, s, in))
        return;
    struct frames_call *call = frames__call_new(c, s, in, FRAMES_CALL_SUBSCRIBE);
    if (call == NULL)
        return;
    call->n_waiting = n;
    for (uint32_t i = 0; i < n && !s->closed; i++) {
        ptn_str topic = {0};
        ptn_position p = {0};
        (void)read_position(&u, &topic, &p); /* checked */
        subscribe_one(c, s, in, call, topic, p, PTN_POLICY_DEFAULT, 0);
    }
}

/* The hub has ended a subscription that it had granted (tag 0: no frame of the client's). */
static void subscription_ended(ptn_ctx *c, frames_session *s, const ptn_subscribed *r) {
    if (r->code >= 0)
        refuse_topic(c, s, 0, (ptn_bytes){0}, r->code, r->message, r->topic);
}

void frames_subscribed(ptn_ctx *c, frames_session *s, const ptn_subscribed *r) {
    struct frames_call *call = (void *)(uintptr_t)r->tag;
    if (call == NULL) {
        subscription_ended(c, s, r);
        return;
    }
    PTN_ASSERT(call->session == s && call->kind == FRAMES_CALL_SUBSCRIBE && call->n_waiting > 0);
    const bool last = --call->n_waiting == 0;
    if (last)
        frames__call_unlink(call);
    const ptn_bytes id = frames__call_id(call);
    if (r->code >= 0) {
        refuse_topic(c, s, call->ticket, id, r->code, r->message, r->topic);
    } else {
        ptn_pack w;
        frames__begin(&w, PTN_STR("subscribed"), id, 4);
        ptn_pack_key(&w, "topic");
        ptn_pack_str(&w, r->topic);
        ptn_pack_key(&w, "epoch");
        ptn_pack_str_or_nil(&w, r->epoch);
        ptn_pack_key(&w, "offset");
        ptn_pack_uint(&w, r->offset);
        ptn_pack_key(&w, "recovered");
        ptn_pack_bool(&w, r->recovered);
        frames__send(c, s, call->ticket, &w);
    }
    if (last)
        frames__call_free(call);
}

void frames_gap(ptn_ctx *c, frames_session *s, const ptn_gap *g) {
    ptn_pack w;
    frames__begin(&w, PTN_STR("gap"), (ptn_bytes){0}, 4);
    ptn_pack_key(&w, "topic");
    ptn_pack_str(&w, g->topic);
    ptn_pack_key(&w, "from");
    ptn_pack_uint(&w, g->from);
    ptn_pack_key(&w, "to");
    ptn_pack_uint(&w, g->to);
    ptn_pack_key(&w, "reason");
    ptn_pack_cstr(&w, g->reason);
    frames__send(c, s, 0, &w);
}

void frames__handle_unsubscribe(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    struct topics t;
    if (!check_hub(c, s, in) || !read_topics(c, s, in, &t))
        return;
    ptn_pack w;
    frames__begin(&w, PTN_STR("unsubscribed"), in->id, 1);
    ptn_pack_key(&w, "topics");
    ptn_pack_array(&w, t.n);
    for (uint32_t i = 0; i < t.n; i++) {
        ptn_str topic = {0};
        (void)ptn_unpack_str(&t.first, &topic); /* checked by read_topics */
        ptn_pack_str(&w, topic);
        int err = 0;
        if (s->sink != PTN_SINK_NONE)
            err = ptn_hub_unsubscribe(c, s->config->hub, s->sink, topic);
        if (err < 0 && err != -PTN_ENOTFOUND) {
            const char *message;
            const int code = ptn_code_of_err(err, &message);
            ptn_pack_abort(&w);
            refuse_topic(c, s, in->ticket, in->id, code, message, topic);
            return;
        }
    }
    frames__send(c, s, in->ticket, &w);
}

void frames_event_pack(ptn_pack *w, const ptn_event *e) {
    ptn_pack_map(w, 5);
    ptn_pack_key(w, "type");
    ptn_pack_cstr(w, "event");
    ptn_pack_key(w, "topic");
    ptn_pack_str(w, e->topic);
    ptn_pack_key(w, "epoch");
    ptn_pack_str(w, e->epoch);
    ptn_pack_key(w, "offset");
    ptn_pack_uint(w, e->offset);
    ptn_pack_key(w, "data");
    ptn_pack_raw(w, e->data);
}

void frames_message_pack(ptn_pack *w, const ptn_event *e) {
    ptn_unpack u = ptn_unpack_of(e->data);
    uint32_t n = 0;
    if (!ptn_unpack_map(&u, &n))
        n = 0; /* never of a conversation */
    ptn_pack_map(w, n + 1);
    ptn_pack_key(w, "type");
    ptn_pack_cstr(w, "message");
    for (uint32_t i = 0; i < n; i++) {
        ptn_str key;
        ptn_bytes value;
        if (!ptn_unpack_str(&u, &key) || !ptn_unpack_any(&u, &value)) {
            w->err = -PTN_EPROTO;
            return;
        }
        ptn_pack_str(w, ptn_str_eqz(key, "type") ? PTN_STR("messageType") : key);
        ptn_pack_raw(w, value);
    }
}
