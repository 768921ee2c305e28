/* SPDX-License-Identifier: Apache-2.0
 *
 * answer.c - the frames that go back: errors, responses, and the envelope inside a response.
 *
 * Everything is written as msgpack; the adapter turns it into its client's encoding.
 */
#include "protocols/frames/internal.h"

#include <stdio.h>

#define CLOSE_NO_MEMORY 1011 /* as ws/ does (docs/api.md) */

static void frame_open(ptn_pack *w, ptn_str type, ptn_bytes id, uint32_t n) {
    ptn_pack_map(w, n + 1 + (id.n > 0));
    ptn_pack_key(w, "type");
    ptn_pack_str(w, type);
    if (id.n > 0) {
        ptn_pack_key(w, "id");
        ptn_pack_raw(w, id);
    }
}

void frames__begin(ptn_pack *w, ptn_str type, ptn_bytes id, uint32_t n) {
    ptn_pack_init(w, 0);
    frame_open(w, type, id, n);
}

void frames__begin_ack(ptn_pack *w, uint8_t memory[FRAMES_ACK_BYTES], ptn_bytes id, uint32_t n) {
    ptn_pack_init_in(w, memory, FRAMES_ACK_BYTES);
    frame_open(w, PTN_STR("ack"), id, n);
}

void frames__send(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_pack *w) {
    ptn_bytes frame;
    bool ok = ptn_pack_view(w, &frame);
    if (ok || s->config->ops->close == NULL)
        s->config->ops->send(c, s->self, ticket, ok ? frame : (ptn_bytes){0});
    else /* which question stays without its answer can no longer be said, so all of them end */
        s->config->ops->close(c, s->self, CLOSE_NO_MEMORY, PTN_CODE_OVERLOADED);
    ptn_pack_abort(w);
}

void frames__trace_hex(const uint8_t trace[FRAMES_TRACE_BYTES], char out[FRAMES_TRACE_HEX + 1]) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < FRAMES_TRACE_BYTES; i++) {
        out[2 * i] = digits[trace[i] >> 4];
        out[2 * i + 1] = digits[trace[i] & 15];
    }
    out[FRAMES_TRACE_HEX] = '\0';
}

/* The members that errors and problems share: code, message, retryable, details, traceId?. */
static uint32_t error_members(const struct frames_error *e) {
    return 4u + (e->trace != NULL);
}

static void pack_error_members(ptn_pack *w, const struct frames_error *e) {
    const ptn_code_info *info = ptn_code_info_of(e->code);
    ptn_pack_key(w, "code");
    ptn_pack_cstr(w, info->code);
    ptn_pack_key(w, "message");
    ptn_pack_str(w, e->message);
    ptn_pack_key(w, "retryable");
    ptn_pack_bool(w, info->retryable);
    ptn_pack_key(w, "details");
    if (e->details.n > 0) {
        ptn_pack_raw(w, e->details);
    } else {
        ptn_pack_map(w, e->field != NULL);
        if (e->field != NULL) {
            ptn_pack_key(w, e->field);
            ptn_pack_str(w, e->reason);
        }
    }
    if (e->trace != NULL) {
        char hex[FRAMES_TRACE_HEX + 1];
        frames__trace_hex(e->trace, hex);
        ptn_pack_key(w, "traceId");
        ptn_pack_cstr(w, hex);
    }
}

void frames__error(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_bytes id,
                   const struct frames_error *e) {
    ptn_pack w;
    frames__begin(&w, PTN_STR("error"), id, error_members(e));
    pack_error_members(&w, e);
    frames__send(c, s, ticket, &w);
}

void frames_send_error(ptn_ctx *c, frames_session *s, uint64_t ticket, ptn_bytes id, int code,
                       const char *message) {
    frames__error(c, s, ticket, id,
                  &(struct frames_error){.code = code, .message = ptn_str_of(message)});
}

void frames__invalid(ptn_ctx *c, frames_session *s, const struct frames_in *in, const char *field,
                     const char *reason) {
    char message[256];
    (void)snprintf(message, sizeof message, "member `%s`: %s", field, reason);
    frames__error(c, s, in->ticket, in->id,
                  &(struct frames_error){.code = PTN_CODE_VALIDATION_FAILED,
                                         .message = ptn_str_of(message),
                                         .field = field,
                                         .reason = ptn_str_of(reason)});
}

void frames__error_of_reply(int err, const ptn_msg *reply, struct frames_error *ret_e) {
    *ret_e = (struct frames_error){0};
    ptn_problem p;
    if (err == 0 && reply->type == PTN_MSG_STREAM) {
        ret_e->code = PTN_CODE_INVALID_REQUEST;
        ret_e->message = PTN_STR("this route streams events: use a subscribe frame");
        return;
    }
    if (err == 0 && reply->type == PTN_MSG_PROBLEM &&
        ptn_problem_unpack(ptn_msg_bytes(reply), &p)) {
        ret_e->code = p.code;
        ret_e->message = p.message;
        ret_e->details = p.details;
        return;
    }
    const char *message;
    ret_e->code = ptn_code_of_err(err, &message);
    ret_e->message = ptn_str_of(message);
}

/* ---- responses ------------------------------------------------------------------------------ */

static void pack_header(ptn_pack *w, const char *name, ptn_str value) {
    ptn_pack_key(w, name);
    ptn_pack_str(w, value);
}

/* `headers` of a response: what the owner added, and what every REST response carries too. */
static void pack_response_headers(ptn_pack *w, const ptn_response *r, const uint8_t *trace) {
    char hex[FRAMES_TRACE_HEX + 1];
    frames__trace_hex(trace, hex);
    ptn_unpack u = {0};
    uint32_t n = 0;
    if (r->headers.n > 0) {
        u = ptn_unpack_of(r->headers);
        (void)ptn_unpack_map(&u, &n); /* not a map: none */
    }
    ptn_pack_map(w, n + 1 + (r->content_type.n > 0));
    for (uint32_t i = 0; i < 2 * n; i++) {
        ptn_bytes raw;
        if (ptn_unpack_any(&u, &raw))
            ptn_pack_raw(w, raw);
        else
            ptn_pack_nil(w); /* the count is written already: keep the map well-formed */
    }
    pack_header(w, "trace-id", ptn_str_of(hex));
    if (r->content_type.n > 0)
        pack_header(w, "content-type", r->content_type);
}

void frames__send_response(ptn_ctx *c, frames_session *s, const struct frames_call *call,
                           const ptn_response *r) {
    ptn_pack w;
    frames__begin(&w, PTN_STR("response"), frames__call_id(call), 3);
    ptn_pack_key(&w, "status");
    ptn_pack_uint(&w, r->status);
    ptn_pack_key(&w, "headers");
    pack_response_headers(&w, r, call->trace);
    ptn_pack_key(&w, "body");
    if (call->no_body) {
        ptn_pack_nil(&w);
    } else if (r->content_type.n > 0) {
        ptn_pack_raw(&w, r->data);
    } else {
        ptn_pack_map(&w, 3u + (r->page.n > 0));
        ptn_pack_key(&w, "success");
        ptn_pack_bool(&w, true);
        ptn_pack_key(&w, "data");
        ptn_pack_raw(&w, r->data);
        ptn_pack_key(&w, "message");
        ptn_pack_nil(&w);
        if (r->page.n > 0) {
            ptn_pack_key(&w, "page");
            ptn_pack_raw(&w, r->page);
        }
    }
    frames__send(c, s, call->ticket, &w);
}

void frames__send_problem(ptn_ctx *c, frames_session *s, const struct frames_call *call,
                          const struct frames_error *e) {
    const ptn_code_info *info = ptn_code_info_of(e->code);
    const bool wait = info->status == 429 || info->status == 503;
    const bool challenge = info->status == 401;
    ptn_str allow;
    const bool allows = info->status == 405 && ptn_map_get_str(e->details, "allow", &allow);
    struct frames_error traced = *e;
    traced.trace = call->trace;
    char type[64], hex[FRAMES_TRACE_HEX + 1];
    (void)snprintf(type, sizeof type, "urn:postern:error:%s", info->code);
    frames__trace_hex(call->trace, hex);

    ptn_pack w;
    frames__begin(&w, PTN_STR("response"), frames__call_id(call), 3);
    ptn_pack_key(&w, "status");
    ptn_pack_int(&w, info->status);
    ptn_pack_key(&w, "headers");
    ptn_pack_map(&w, 1u + wait + challenge + allows);
    pack_header(&w, "trace-id", ptn_str_of(hex));
    if (wait)
        pack_header(&w, "retry-after", PTN_STR("1"));
    if (challenge)
        pack_header(&w, "www-authenticate", PTN_STR("Bearer realm=\"postern\""));
    if (allows)
        pack_header(&w, "allow", allow);
    ptn_pack_key(&w, "body");
    ptn_pack_map(&w, 4u + error_members(&traced));
    ptn_pack_key(&w, "success");
    ptn_pack_bool(&w, false);
    ptn_pack_key(&w, "type");
    ptn_pack_cstr(&w, type);
    ptn_pack_key(&w, "title");
    ptn_pack_cstr(&w, info->title);
    ptn_pack_key(&w, "status");
    ptn_pack_int(&w, info->status);
    pack_error_members(&w, &traced);
    frames__send(c, s, call->ticket, &w);
}
