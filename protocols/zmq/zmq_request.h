/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_request.h - what a multipart message from a peer is: its envelope, its encoding, its frame,
 * its token.
 *
 * Pure functions over bytes that know no socket, so that tables and the fuzzer reach all of them.
 */
#ifndef POSTERN_PROTOCOLS_ZMQ_REQUEST_H
#define POSTERN_PROTOCOLS_ZMQ_REQUEST_H

#include <postern/codec.h>
#include <postern/messages.h>

/* identity, up to four more from proxies, delimiter */
#define ZMQ_GW_ENVELOPE_MAX 6u
#define ZMQ_GW_IDENTITY_BYTES_MAX 255u /* of any routing identity (ZMTP) */
#define ZMQ_GW_PARTS_MAX (ZMQ_GW_ENVELOPE_MAX + 1u)

/* How to answer, and whether there is anything to read. */
typedef struct zmq_gw_shape {
    size_t n_envelope;   /* leading parts to send back unchanged, 1 or more */
    int code;            /* -1: body is the request; otherwise a ptn_code to refuse with */
    const char *message; /* with code >= 0 */
    ptn_bytes body;      /* the last part; with code >= 0: what the encoding is guessed from */
} zmq_gw_shape;

/* parts: the first min(n, ZMQ_GW_PARTS_MAX) parts of a message of n >= 1 parts, the ROUTER's
 * identity first. */
void zmq_gw_shape_of(const ptn_bytes *parts, size_t n, zmq_gw_shape *ret_shape);

enum zmq_gw_encoding { ZMQ_GW_GARBAGE, ZMQ_GW_JSON, ZMQ_GW_MSGPACK };

/* From the first byte alone: a msgpack map marker, or what JSON text may begin with. */
enum zmq_gw_encoding zmq_gw_encoding_of(ptn_bytes body);

typedef struct zmq_gw_request {
    bool msgpack;   /* the encoding of the answer */
    ptn_buf *whole; /* the frame as it came, validated msgpack */
    ptn_buf *frame; /* the same without `token`; may be whole (with a reference of its own) */
    ptn_str token;  /* n == 0: none; points into whole */
    ptn_bytes id;   /* an integer or a short text, encoded; n == 0: none; points into whole */
    int code;       /* with a failure: the ptn_code to refuse with, and its message */
    const char *message;
} zmq_gw_request;

/* Decodes and checks a body.  0, or negative with code and message set; msgpack, and id when it was
 * found, are set in both cases.  Always followed by zmq_gw_request_done().  An `auth` frame keeps
 * its token: it is the frame's own member. */
int zmq_gw_request_decode(ptn_json_parser *json, ptn_bytes body, const ptn_codec_limits *limits,
                          zmq_gw_request *ret_request);
void zmq_gw_request_done(zmq_gw_request *r);

/* frame, a map without `id`, with that id (one encoded value) put in.  NULL: no map, or no memory.
 */
ptn_buf *zmq_gw_frame_with_id(ptn_bytes frame, ptn_bytes id);

/* What an outgoing frame reports: the status of a `response`, that of an `error`'s code, that of
 * `overloaded` when there was no memory for it (n == 0), otherwise 200. */
unsigned zmq_gw_frame_status(ptn_bytes frame);

#endif
