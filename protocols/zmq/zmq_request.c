/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_request.c - envelope, encoding and token of one request.
 *
 * A REQ client sends [delimiter][body] and the ROUTER puts the identity before it; a DEALER may
 * leave the delimiter out; each proxy on the way adds one identity.  Whatever stood before the body
 * goes back unchanged, so the answer finds its way and has the shape that the client's socket type
 * expects.
 */
#include "protocols/zmq/zmq_request.h"

#define ID_BYTES_MAX 128u

/* ---- envelope ----------------------------------------------------------------------------- */

static bool is_majordomo(ptn_bytes part) {
    return part.n == 6 && (memcmp(part.p, "MDPC02", 6) == 0 || memcmp(part.p, "MDPW02", 6) == 0);
}

static void refuse(zmq_gw_shape *s, size_t n_envelope, ptn_bytes guess, const char *message) {
    *s = (zmq_gw_shape){.n_envelope = n_envelope,
                        .code = PTN_CODE_INVALID_REQUEST,
                        .message = message,
                        .body = guess};
}

void zmq_gw_shape_of(const ptn_bytes *parts, size_t n, zmq_gw_shape *ret_shape) {
    size_t seen = n < ZMQ_GW_PARTS_MAX ? n : ZMQ_GW_PARTS_MAX;
    size_t delimiter = 0; /* none */
    for (size_t i = 1; i < seen && i < ZMQ_GW_ENVELOPE_MAX; i++) {
        if (parts[i].n == 0) {
            delimiter = i;
            break;
        }
    }
    /* A lone empty part is an empty body, not a delimiter without one. */
    size_t n_envelope = delimiter != 0 && delimiter + 1 < n ? delimiter + 1 : 1;
    for (size_t i = 1; i < n_envelope; i++) {
        if (parts[i].n > ZMQ_GW_IDENTITY_BYTES_MAX) {
            refuse(ret_shape, 1, (ptn_bytes){NULL, 0},
                   "a part before the delimiter is too long for a routing identity");
            return;
        }
    }
    if (n_envelope >= n) {
        refuse(ret_shape, 1, (ptn_bytes){NULL, 0},
               "the message has no body: send one JSON or msgpack map");
        return;
    }
    ptn_bytes first = n_envelope < seen ? parts[n_envelope] : (ptn_bytes){NULL, 0};
    if (is_majordomo(first)) {
        refuse(ret_shape, n_envelope, (ptn_bytes){NULL, 0},
               "the Majordomo protocol (MDPC02, MDPW02) is not served yet: send one JSON or "
               "msgpack map");
        return;
    }
    if (n - n_envelope > 1) {
        refuse(ret_shape, n_envelope, first,
               "too many parts: send [empty][body], or [body] alone from a DEALER");
        return;
    }
    *ret_shape = (zmq_gw_shape){.n_envelope = n_envelope, .code = -1, .body = first};
}

/* ---- body --------------------------------------------------------------------------------- */

enum zmq_gw_encoding zmq_gw_encoding_of(ptn_bytes body) {
    if (body.n == 0)
        return ZMQ_GW_GARBAGE;
    uint8_t b = body.p[0];
    if ((b >= 0x80 && b <= 0x8f) || b == 0xde || b == 0xdf)
        return ZMQ_GW_MSGPACK;
    /* Any printable text goes to the JSON parser, whose message says where it stops being JSON. */
    if ((b >= 0x20 && b < 0x7f) || b == '\t' || b == '\n' || b == '\r')
        return ZMQ_GW_JSON;
    return ZMQ_GW_GARBAGE;
}

static int fail(zmq_gw_request *r, int err, int code, const char *message) {
    r->code = code;
    r->message = message;
    return err;
}

static int fail_codec(zmq_gw_request *r, int err, const ptn_codec_error *e) {
    if (err == -PTN_ETOOBIG)
        return fail(r, err, PTN_CODE_PAYLOAD_TOO_LARGE,
                    "the body is larger than this broker accepts");
    if (err == -PTN_ENOMEM)
        return fail(r, err, PTN_CODE_OVERLOADED, "out of memory: retry later");
    return fail(r, err, PTN_CODE_INVALID_REQUEST,
                e->what != NULL ? e->what : "the body is malformed");
}

/* Copies a validated map without its `token` members.  NULL: out of memory. */
static ptn_buf *without_token(ptn_bytes map, uint32_t n_pairs, uint32_t n_tokens) {
    ptn_pack w;
    ptn_pack_init(&w, map.n);
    ptn_pack_map(&w, n_pairs - n_tokens);
    ptn_unpack u = ptn_unpack_of(map);
    uint32_t n = 0;
    if (!ptn_unpack_map(&u, &n))
        n = 0;
    for (uint32_t i = 0; i < n; i++) {
        ptn_str key;
        ptn_bytes value;
        if (!ptn_unpack_str(&u, &key) || !ptn_unpack_any(&u, &value))
            break;
        if (ptn_str_eqz(key, "token"))
            continue;
        ptn_pack_str(&w, key);
        ptn_pack_raw(&w, value);
    }
    return ptn_pack_finish(&w);
}

/* What the frame language takes for an id; anything else is not echoed. */
static bool id_is_valid(ptn_bytes value) {
    ptn_unpack u = ptn_unpack_of(value);
    ptn_str text;
    enum ptn_kind kind = ptn_unpack_peek(&u);
    if (kind == PTN_KIND_INT || kind == PTN_KIND_UINT)
        return true;
    return ptn_unpack_str(&u, &text) && text.n <= ID_BYTES_MAX;
}

/* Sets token, id and frame from r->whole. */
static int take_members(zmq_gw_request *r) {
    ptn_bytes map = ptn_buf_bytes(r->whole);
    ptn_unpack u = ptn_unpack_of(map);
    uint32_t n = 0;
    uint32_t n_tokens = 0;
    bool token_is_text = true;
    ptn_str type = {NULL, 0};
    if (!ptn_unpack_map(&u, &n))
        return fail(r, -PTN_EPROTO, PTN_CODE_INVALID_REQUEST, "the body must be a map");
    for (uint32_t i = 0; i < n; i++) {
        ptn_str key;
        ptn_bytes value;
        if (!ptn_unpack_str(&u, &key) || !ptn_unpack_any(&u, &value))
            return fail(r, -PTN_EPROTO, PTN_CODE_INVALID_REQUEST,
                        "the keys of the map must be strings");
        ptn_unpack v = ptn_unpack_of(value);
        if (ptn_str_eqz(key, "token")) {
            bool ok = ptn_unpack_str(&v, &r->token);
            token_is_text = token_is_text && ok && ++n_tokens == 1;
        } else if (ptn_str_eqz(key, "id") && r->id.n == 0 && id_is_valid(value)) {
            r->id = value;
        } else if (ptn_str_eqz(key, "type") && type.n == 0) {
            (void)ptn_unpack_str(&v, &type);
        }
    }
    if (!token_is_text)
        return fail(r, -PTN_EPROTO, PTN_CODE_UNAUTHENTICATED, "`token` must be one string");
    if (n_tokens == 0 || ptn_str_eqz(type, "auth")) {
        r->token = (ptn_str){NULL, 0};
        r->frame = ptn_buf_ref(r->whole);
        return 0;
    }
    if (r->token.n == 0)
        return fail(r, -PTN_EPROTO, PTN_CODE_UNAUTHENTICATED, "`token` is empty");
    r->frame = without_token(map, n, n_tokens);
    if (r->frame == NULL)
        return fail_codec(r, -PTN_ENOMEM, NULL);
    return 0;
}

static ptn_buf *decode_json(ptn_json_parser *json, ptn_bytes body, const ptn_codec_limits *limits,
                            int *ret_err, ptn_codec_error *reterr) {
    ptn_pack w;
    ptn_pack_init(&w, body.n + 16);
    int err =
        ptn_json_to_msgpack(json, (ptn_str){(const char *)body.p, body.n}, limits, &w, reterr);
    if (err < 0) {
        ptn_pack_abort(&w);
        *ret_err = err;
        return NULL;
    }
    ptn_buf *b = ptn_pack_finish(&w);
    *ret_err = b == NULL ? -PTN_ENOMEM : 0;
    return b;
}

int zmq_gw_request_decode(ptn_json_parser *json, ptn_bytes body, const ptn_codec_limits *limits,
                          zmq_gw_request *ret_request) {
    zmq_gw_request *r = ret_request;
    enum zmq_gw_encoding encoding = zmq_gw_encoding_of(body);
    *r = (zmq_gw_request){.msgpack = encoding == ZMQ_GW_MSGPACK, .code = -1};
    if (body.n == 0)
        return fail(r, -PTN_EPROTO, PTN_CODE_INVALID_REQUEST,
                    "the body is empty: send one JSON or msgpack map");
    if (limits->bytes_max != 0 && body.n > limits->bytes_max)
        return fail_codec(r, -PTN_ETOOBIG, NULL);
    if (encoding == ZMQ_GW_GARBAGE)
        return fail(r, -PTN_EPROTO, PTN_CODE_INVALID_REQUEST,
                    "the body is neither a JSON object nor a msgpack map");
    int err = 0;
    ptn_codec_error e = {NULL, 0};
    if (encoding == ZMQ_GW_JSON) {
        r->whole = decode_json(json, body, limits, &err, &e);
    } else {
        err = ptn_msgpack_validate(body, limits, &e);
        if (err == 0 && (r->whole = ptn_buf_copy(body.p, body.n)) == NULL)
            err = -PTN_ENOMEM;
    }
    if (err < 0)
        return fail_codec(r, err, &e);
    return take_members(r);
}

void zmq_gw_request_done(zmq_gw_request *r) {
    r->whole = ptn_buf_unref(r->whole);
    r->frame = ptn_buf_unref(r->frame);
    r->token = (ptn_str){NULL, 0};
    r->id = (ptn_bytes){NULL, 0};
}

ptn_buf *zmq_gw_frame_with_id(ptn_bytes frame, ptn_bytes id) {
    ptn_unpack u = ptn_unpack_of(frame);
    uint32_t n = 0;
    if (!ptn_unpack_map(&u, &n))
        return NULL;
    ptn_pack w;
    ptn_pack_init(&w, frame.n + id.n + 8);
    ptn_pack_map(&w, n + 1);
    ptn_pack_key(&w, "id");
    ptn_pack_raw(&w, id);
    ptn_pack_raw(&w, (ptn_bytes){u.p, (size_t)(u.end - u.p)});
    return ptn_pack_finish(&w);
}

/* ---- answers ------------------------------------------------------------------------------ */

unsigned zmq_gw_frame_status(ptn_bytes frame) {
    ptn_str type;
    if (frame.n == 0)
        return (unsigned)ptn_code_info_of(PTN_CODE_OVERLOADED)->status;
    if (!ptn_map_get_str(frame, "type", &type))
        return 200;
    if (ptn_str_eqz(type, "response")) {
        uint64_t status = 0;
        if (ptn_map_get_uint(frame, "status", &status) && status >= 100 && status <= 599)
            return (unsigned)status;
        return 200;
    }
    if (!ptn_str_eqz(type, "error"))
        return 200;
    ptn_str code;
    if (ptn_map_get_str(frame, "code", &code)) {
        for (int i = 0; i < PTN_CODE_COUNT; i++) {
            const ptn_code_info *info = ptn_code_info_of(i);
            if (ptn_str_eqz(code, info->code))
                return (unsigned)info->status;
        }
    }
    return 500;
}
