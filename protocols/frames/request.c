/* SPDX-License-Identifier: Apache-2.0
 *
 * request.c - frames that become a REQUEST to the router: request, message; and publish.
 *
 * publish and message are the REST routes of the same name, so that a rule is written once, by the
 * route's owner, and holds for every protocol.  publish goes straight to the owner of its topic, in
 * a message of its own: as a REQUEST, what it says would be written as a path, a query and headers
 * and read from them again, and there would be nothing left for the router to decide.
 */
#include "protocols/frames/internal.h"

#include <postern/memory.h>
#include <postern/metrics.h>

/* ---- answers -------------------------------------------------------------------------------- */

/* ack {id, epoch, offset, durability}: where the event landed.  False: that is not what came. */
static bool send_publish_ack(ptn_ctx *c, frames_session *s, const struct frames_call *call,
                             ptn_bytes published) {
    ptn_unpack u = ptn_unpack_of(published);
    uint32_t n;
    ptn_str epoch;
    uint64_t offset, durability;
    if (!ptn_unpack_array(&u, &n) || n != 3 || !ptn_unpack_str(&u, &epoch) ||
        !ptn_unpack_uint(&u, &offset) || !ptn_unpack_uint(&u, &durability))
        return false;
    ptn_pack w;
    uint8_t memory[FRAMES_ACK_BYTES];
    frames__begin_ack(&w, memory, frames__call_id(call), 3);
    ptn_pack_key(&w, "epoch");
    ptn_pack_str(&w, epoch);
    ptn_pack_key(&w, "offset");
    ptn_pack_uint(&w, offset);
    ptn_pack_key(&w, "durability");
    ptn_pack_cstr(&w, ptn_durability_name((unsigned)durability));
    frames__send(c, s, call->ticket, &w);
    return true;
}

static void send_message_ack(ptn_ctx *c, frames_session *s, const struct frames_call *call,
                             const ptn_response *r) {
    ptn_pack w;
    uint8_t memory[FRAMES_ACK_BYTES];
    frames__begin_ack(&w, memory, frames__call_id(call), 1);
    ptn_pack_key(&w, "message");
    ptn_pack_raw(&w, r->data);
    frames__send(c, s, call->ticket, &w);
}

/* An adapter with one answer per ticket measures it itself. */
static void observe(const frames_session *s, unsigned status, uint64_t took_ns) {
    if (!s->config->one_answer)
        ptn_observe_request(s->config->protocol, status, took_ns);
}

static void send_failure(ptn_ctx *c, frames_session *s, struct frames_call *call, int err,
                         const ptn_msg *reply, uint64_t took_ns) {
    struct frames_error e;
    frames__error_of_reply(err, reply, &e);
    observe(s, (unsigned)ptn_code_info_of(e.code)->status, took_ns);
    if (call->kind == FRAMES_CALL_REQUEST) {
        frames__send_problem(c, s, call, &e);
        return;
    }
    if (call->kind == FRAMES_CALL_PUBLISH) /* until now nobody needed one */
        ptn_random(c, call->trace, sizeof call->trace);
    e.trace = call->trace;
    frames__error(c, s, call->ticket, frames__call_id(call), &e);
}

static void reply_callback(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)state;
    struct frames_call *call = arg;
    frames_session *s = call->session;
    const uint64_t took_ns = ptn_clock(c) - call->started; /* often within one turn */
    ptn_response r;
    frames__call_unlink(call);
    if (err == 0 && reply->type == PTN_MSG_RESPONSE &&
        ptn_response_unpack(ptn_msg_bytes(reply), &r)) {
        observe(s, r.status, took_ns);
        if (call->kind == FRAMES_CALL_MESSAGE)
            send_message_ack(c, s, call, &r);
        else
            frames__send_response(c, s, call, &r);
    } else {
        send_failure(c, s, call, err, reply, took_ns);
    }
    frames__call_free(call);
}

static void published_callback(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)state;
    struct frames_call *call = arg;
    frames_session *s = call->session;
    const uint64_t took_ns = ptn_clock(c) - call->started;
    frames__call_unlink(call);
    if (err == 0 && reply->type == PTN_MSG_PUBLISHED) {
        observe(s, 202, took_ns);
        PTN_REQUIRE(c, send_publish_ack(c, s, call, ptn_msg_bytes(reply)));
    } else {
        send_failure(c, s, call, err, reply, took_ns);
    }
    frames__call_free(call);
}

/* ---- asking --------------------------------------------------------------------------------- */

static ptn_addr router_of(const frames_session *s) {
    return s->config->directory->router[s->config->worker];
}

/* Consumes w in every case. */
static void call_ask(ptn_ctx *c, struct frames_call *call, ptn_addr to, uint32_t type, ptn_pack *w,
                     ptn_time deadline, ptn_reply_cb cb) {
    ptn_buf *b = ptn_pack_finish(w);
    int err = -PTN_EOVERLOAD;
    if (ptn_memory_pressure())
        ptn_count(PTN_C_SHED_MEMORY, 1);
    else if (b != NULL)
        err = ptn_ask(c, to, type, b, deadline, cb, call, &call->corr);
    if (err == 0)
        return;
    ptn_buf_unref(b);
    call->corr = 0;
    cb(c, NULL, err, NULL, call);
}

/* Fills what is the same for every request of this session. */
static ptn_request request_of(ptn_ctx *c, const frames_session *s, struct frames_call *call) {
    ptn_random(c, call->trace, sizeof call->trace);
    call->started = ptn_now(c);
    return (ptn_request){
        .method = PTN_POST,
        .principal = frames_principal(s),
        .trace_id = {call->trace, sizeof call->trace},
        .protocol = s->config->protocol,
    };
}

/* ---- publish -------------------------------------------------------------------------------- */

/* False: durability is no text, or no level. */
static bool read_durability(ptn_bytes raw, enum ptn_durability *ret_d) {
    ptn_str level;
    *ret_d = PTN_DURABILITY_DEFAULT;
    if (raw.n == 0 || ptn_kind_of(raw) == PTN_KIND_NIL)
        return true;
    ptn_unpack u = ptn_unpack_of(raw);
    return ptn_unpack_str(&u, &level) && ptn_durability_of(level, ret_d);
}

/* An id that could be a Message's makes sending twice safe, as for messages; any other one only
 * correlates. */
static ptn_str idempotency_key(ptn_bytes raw) {
    ptn_unpack u = ptn_unpack_of(raw);
    ptn_str id;
    return ptn_unpack_str(&u, &id) && ptn_id_is_valid(id) ? id : PTN_STR("");
}

void frames__handle_publish(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    ptn_unpack u = ptn_unpack_of(in->topic);
    ptn_publish_call p = {.user = frames_principal(s).user, .data = in->data};
    if (!ptn_unpack_str(&u, &p.topic) || !ptn_topic_is_valid(p.topic)) {
        frames__invalid(c, s, in, "topic",
                        "must be a topic: dot-separated segments without blanks or `*`, "
                        "1 to 255 bytes");
        return;
    }
    if (p.data.n == 0) {
        frames__invalid(c, s, in, "data", "is missing: the event's data, any value");
        return;
    }
    if (!read_durability(in->durability, &p.durability)) {
        frames__invalid(c, s, in, "durability", "must be one of: memory, written, synced");
        return;
    }
    struct frames_call *call = frames__call_new(c, s, in, FRAMES_CALL_PUBLISH);
    if (call == NULL)
        return;
    call->started = ptn_now(c);
    p.key = idempotency_key(in->id);
    ptn_pack w;
    ptn_pack_init(&w, p.topic.n + p.user.n + p.key.n + p.data.n + 32);
    ptn_publish_pack(&w, &p);
    const ptn_directory *d = s->config->directory;
    call_ask(c, call, d->topics[ptn_shard(p.topic, d->workers)], PTN_MSG_PUBLISH, &w,
             ptn_now(c) + s->config->request_ns, published_callback);
}

/* ---- message -------------------------------------------------------------------------------- */

/* The key of a flat frame's member inside the Message; n == 0: it is the frame's own.  An id that
 * cannot be a Message's only correlates. */
static ptn_str message_key(ptn_str key, ptn_bytes value) {
    ptn_unpack u = ptn_unpack_of(value);
    ptn_str id;
    if (ptn_str_eqz(key, "type") || ptn_str_eqz(key, "message") || ptn_str_eqz(key, "token"))
        return (ptn_str){0};
    if (ptn_str_eqz(key, "messageType"))
        return PTN_STR("type");
    if (ptn_str_eqz(key, "id") && !(ptn_unpack_str(&u, &id) && ptn_id_is_valid(id)))
        return (ptn_str){0};
    return key;
}

struct message_frame {
    uint32_t n;             /* members that make up the Message, of a flat one */
    ptn_bytes nested, type; /* of `message` and `messageType`; n == 0: not there */
};

static struct message_frame read_message(ptn_bytes frame) {
    struct message_frame f = {.n = 0};
    ptn_unpack u = ptn_unpack_of(frame);
    uint32_t n = 0;
    ptn_str key;
    ptn_bytes value;
    (void)ptn_unpack_map(&u, &n); /* a map: frames_handle has looked */
    for (; n > 0 && ptn_unpack_pair(&u, &key, &value); n--) {
        if (ptn_str_eqz(key, "message") && f.nested.n == 0)
            f.nested = value;
        if (ptn_str_eqz(key, "messageType") && f.type.n == 0)
            f.type = value;
        f.n += message_key(key, value).n > 0;
    }
    return f;
}

static void pack_flat_message(ptn_pack *w, const struct message_frame *f, ptn_bytes frame) {
    ptn_unpack u = ptn_unpack_of(frame);
    uint32_t n = 0;
    ptn_str key;
    ptn_bytes value;
    (void)ptn_unpack_map(&u, &n);
    ptn_pack_map(w, f->n);
    for (; n > 0 && ptn_unpack_pair(&u, &key, &value); n--) {
        key = message_key(key, value);
        if (key.n == 0)
            continue;
        ptn_pack_str(w, key);
        ptn_pack_raw(w, value);
    }
}

void frames__handle_message(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    const struct message_frame f = read_message(in->frame);
    const bool is_nested = f.nested.n > 0;
    if (is_nested && ptn_kind_of(f.nested) != PTN_KIND_MAP) {
        frames__invalid(c, s, in, "message", "must be a Message, an object");
        return;
    }
    if (!is_nested && f.type.n > 0 && ptn_kind_of(f.type) != PTN_KIND_STR) {
        frames__invalid(c, s, in, "messageType", "must be a text");
        return;
    }
    struct frames_call *call = frames__call_new(c, s, in, FRAMES_CALL_MESSAGE);
    if (call == NULL)
        return;
    ptn_request r = request_of(c, s, call);
    r.path = PTN_STR("/api/v1/conversations/messages");
    ptn_pack w;
    ptn_pack_init(&w, in->frame.n + 512);
    ptn_request_begin(&w, &r);
    if (is_nested)
        ptn_pack_raw(&w, f.nested);
    else
        pack_flat_message(&w, &f, in->frame);
    call_ask(c, call, router_of(s), PTN_MSG_REQUEST, &w, ptn_now(c) + s->config->request_ns,
             reply_callback);
}

/* ---- request -------------------------------------------------------------------------------- */

/* Lower-case text equals the header name, whatever its case. */
static bool header_is(ptn_str name, const char *lower) {
    if (name.n != strlen(lower))
        return false;
    for (size_t i = 0; i < name.n; i++) {
        char ch = name.p[i];
        if (ch >= 'A' && ch <= 'Z')
            ch = (char)(ch - 'A' + 'a');
        if (ch != lower[i])
            return false;
    }
    return true;
}

static int hex_digit(char ch) {
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    if (ch >= 'a' && ch <= 'f')
        return ch - 'a' + 10;
    return -1;
}

/* n bytes of lower-case hex.  False: not hex, or all zero. */
static bool hex_read(const char *p, uint8_t *out, size_t n) {
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) {
        const int hi = hex_digit(p[2 * i]), lo = hex_digit(p[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return false;
        out[i] = (uint8_t)(hi << 4 | lo);
        any |= out[i];
    }
    return any != 0;
}

#define SPAN_BYTES 8u
#define TRACEPARENT_BYTES 55u /* 00-<32 hex>-<16 hex>-<2 hex> */

/* W3C Trace Context; a malformed one is ignored, as it asks for. */
static void read_traceparent(ptn_str v, struct frames_call *call, uint8_t span[SPAN_BYTES],
                             bool *ret_has_span) {
    uint8_t trace[FRAMES_TRACE_BYTES];
    if (v.n != TRACEPARENT_BYTES || memcmp(v.p, "00-", 3) != 0 || v.p[35] != '-' ||
        v.p[52] != '-' || hex_digit(v.p[53]) < 0 || hex_digit(v.p[54]) < 0 ||
        !hex_read(v.p + 3, trace, sizeof trace) || !hex_read(v.p + 36, span, SPAN_BYTES))
        return;
    memcpy(call->trace, trace, sizeof trace);
    *ret_has_span = true;
}

static const char *const forwarded[] = {PTN_FORWARDED_HEADERS};

/* The forwarded ones among the request's headers, first of each name; traceparent is read on the
 * way. */
struct header_set {
    ptn_str value[PTN_ARRAY_LEN(forwarded)];
    uint32_t n;
    ptn_str traceparent;
};

/* False: `headers` is not a map of texts, or a value is too long or has control characters. */
static bool read_headers(ptn_bytes frame, struct header_set *ret_h) {
    ptn_bytes raw;
    uint32_t n;
    *ret_h = (struct header_set){0};
    if (!ptn_map_get(frame, "headers", &raw) || ptn_kind_of(raw) == PTN_KIND_NIL)
        return true;
    ptn_unpack u = ptn_unpack_of(raw);
    if (!ptn_unpack_map(&u, &n))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        ptn_str name, value;
        if (!ptn_unpack_str(&u, &name) || !ptn_unpack_str(&u, &value) ||
            value.n > FRAMES_HEADER_BYTES_MAX)
            return false;
        for (size_t k = 0; k < value.n; k++)
            if ((uint8_t)value.p[k] < 0x20 || value.p[k] == 0x7f)
                return false;
        if (header_is(name, "traceparent"))
            ret_h->traceparent = value;
        for (size_t k = 0; k < PTN_ARRAY_LEN(forwarded); k++) {
            if (ret_h->value[k].p == NULL && header_is(name, forwarded[k])) {
                ret_h->value[k] = value;
                ret_h->n++;
            }
        }
    }
    return true;
}

/* The map of forwarded headers in a buffer of its own; NULL: none, or no memory (*ret_ok). */
static ptn_buf *pack_headers(const struct header_set *h, bool *ret_ok) {
    *ret_ok = true;
    if (h->n == 0)
        return NULL;
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_map(&w, h->n);
    for (size_t i = 0; i < PTN_ARRAY_LEN(forwarded); i++) {
        if (h->value[i].p == NULL)
            continue;
        ptn_pack_key(&w, forwarded[i]);
        ptn_pack_str(&w, h->value[i]);
    }
    ptn_buf *b = ptn_pack_finish(&w);
    *ret_ok = b != NULL;
    return b;
}

/* Splits a target into path and query.  What a REST request line could not carry is refused here
 * too. */
static bool read_target(ptn_bytes frame, ptn_request *r) {
    ptn_str target;
    if (!ptn_map_get_str(frame, "path", &target) || target.n == 0 || target.p[0] != '/' ||
        target.n > FRAMES_PATH_BYTES_MAX)
        return false;
    for (size_t i = 0; i < target.n; i++) {
        const uint8_t ch = (uint8_t)target.p[i];
        if (ch <= 0x20 || ch >= 0x7f || ch == '#')
            return false;
    }
    const char *mark = memchr(target.p, '?', target.n);
    r->path = target;
    if (mark != NULL) {
        r->path.n = (size_t)(mark - target.p);
        r->query = (ptn_str){mark + 1, target.n - r->path.n - 1};
    }
    return true;
}

/* timeoutMs, bounded by what the configuration allows. */
static bool read_timeout(const frames_session *s, ptn_bytes frame, ptn_time *ret_ns) {
    ptn_bytes raw;
    uint64_t ms;
    *ret_ns = s->config->request_ns;
    if (!ptn_map_get(frame, "timeoutMs", &raw) || ptn_kind_of(raw) == PTN_KIND_NIL)
        return true;
    ptn_unpack u = ptn_unpack_of(raw);
    if (!ptn_unpack_uint(&u, &ms) || ms == 0)
        return false;
    *ret_ns = ms < s->config->request_ns_max / PTN_MS ? ms * PTN_MS : s->config->request_ns_max;
    return true;
}

/* Checks all members; false: the client has been told which one is wrong. */
static bool read_request(ptn_ctx *c, frames_session *s, const struct frames_in *in,
                         ptn_request *ret_r, struct header_set *ret_h, ptn_time *ret_timeout_ns) {
    ptn_str method;
    *ret_r = (ptn_request){0};
    if (!ptn_map_get_str(in->frame, "method", &method) || method.n == 0) {
        frames__invalid(c, s, in, "method", "must be an HTTP method, such as \"GET\"");
        return false;
    }
    ret_r->method = ptn_method_of(method);
    if (!read_target(in->frame, ret_r)) {
        frames__invalid(c, s, in, "path",
                        "must begin with / and be percent-encoded, at most 8192 bytes");
        return false;
    }
    if (!read_headers(in->frame, ret_h)) {
        frames__invalid(c, s, in, "headers", "must be a map of texts without control characters");
        return false;
    }
    if (!read_timeout(s, in->frame, ret_timeout_ns)) {
        frames__invalid(c, s, in, "timeoutMs", "must be an integer of at least 1");
        return false;
    }
    return true;
}

void frames__handle_request(ptn_ctx *c, frames_session *s, const struct frames_in *in) {
    ptn_request target;
    struct header_set h;
    ptn_time timeout_ns;
    if (!read_request(c, s, in, &target, &h, &timeout_ns))
        return;
    struct frames_call *call = frames__call_new(c, s, in, FRAMES_CALL_REQUEST);
    if (call == NULL)
        return;
    ptn_request r = request_of(c, s, call);
    call->no_body = target.method == PTN_HEAD;
    r.method = call->no_body ? PTN_GET : target.method; /* as the http adapter does */
    r.path = target.path;
    r.query = target.query;
    uint8_t span[SPAN_BYTES];
    bool has_span = false, ok;
    if (h.traceparent.n > 0)
        read_traceparent(h.traceparent, call, span, &has_span);
    if (has_span)
        r.parent_span = (ptn_bytes){span, sizeof span};
    ptn_buf *headers = pack_headers(&h, &ok);
    r.headers = ptn_buf_bytes(headers);
    ptn_bytes body;
    const bool has_body = ptn_map_get(in->frame, "body", &body);
    ptn_pack w;
    ptn_pack_init(&w, in->frame.n + 512);
    ptn_request_begin(&w, &r);
    if (has_body)
        ptn_pack_raw(&w, body);
    else
        ptn_pack_nil(&w);
    ptn_buf_unref(headers);
    if (!ok)
        w.err = -PTN_ENOMEM; /* finish fails, and the client hears `overloaded` */
    call_ask(c, call, router_of(s), PTN_MSG_REQUEST, &w, ptn_now(c) + timeout_ns, reply_callback);
}
