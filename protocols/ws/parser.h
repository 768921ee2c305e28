/* SPDX-License-Identifier: Apache-2.0
 *
 * parser.h - the WebSocket byte machine, server side (RFC 6455 sections 5 to 8): bytes in, messages
 * out.
 *
 * Pure: no socket, no clock, no actor.  Bytes may come in any split and give the same calls.
 * Payloads are unmasked into a pooled buffer that exists only while a message is incomplete or
 * being handled, and grows with the bytes that have come, not with the length that a header claims.
 * A compressed message is gathered as it comes and inflated at its end, because all connections
 * share one inflating stream.
 */
#ifndef POSTERN_PROTOCOLS_WS_PARSER_H
#define POSTERN_PROTOCOLS_WS_PARSER_H

#include "protocols/ws/deflate.h"

enum ws_opcode {
    WS_OP_CONTINUATION = 0,
    WS_OP_TEXT = 1,
    WS_OP_BINARY = 2,
    WS_OP_CLOSE = 8,
    WS_OP_PING = 9,
    WS_OP_PONG = 10,
};

enum ws_close { /* RFC 6455 section 7.4.1 and wire.md section 3 */
                WS_CLOSE_NORMAL = 1000,
                WS_CLOSE_PROTOCOL = 1002,
                WS_CLOSE_UNSUPPORTED = 1003,
                WS_CLOSE_BAD_TEXT = 1007,
                WS_CLOSE_TOO_BIG = 1009,
                WS_CLOSE_INTERNAL = 1011,
                WS_CLOSE_RESTART = 1012,
                WS_CLOSE_TRY_LATER = 1013,
                WS_CLOSE_UNAUTHENTICATED = 4401,
                WS_CLOSE_BAD_TOKEN = 4501,
};

#define WS_CONTROL_BYTES_MAX 125u
#define WS_HEAD_BYTES_MAX 14u

typedef struct ws_parser_ops {
    /* A whole message; payload is borrowed for the call, and text is valid UTF-8.  False: stop
     * here. */
    bool (*on_message)(void *arg, enum ws_opcode opcode, ptn_bytes payload);
    /* A ping, a pong, or a well-formed close, after which the machine takes nothing more. */
    bool (*on_control)(void *arg, enum ws_opcode opcode, ptn_bytes payload);
} ws_parser_ops;

typedef struct ws_parser { /* zero, then ws_parser_init */
    ptn_buf *message;      /* incomplete message; NULL: none, or nothing of it has come */
    ws_deflate *deflate;   /* the worker's, when permessage-deflate is agreed on; NULL: it is not */
    uint64_t left;         /* payload bytes of the frame still due */
    uint32_t n_message;    /* bytes in message */
    uint32_t bytes_max;    /* of a message */
    uint32_t utf8;         /* state of the incremental check */
    uint8_t mask[4];
    uint8_t mask_at;    /* how far into the mask the next byte is */
    uint8_t accept;     /* WS_OP_TEXT or WS_OP_BINARY: the other is refused with 1003; 0: both */
    uint8_t opcode;     /* of the frame */
    uint8_t message_op; /* of the message; 0: none is open */
    bool packed;        /* the message is compressed */
    bool fin, in_payload, dead;
    bool paused; /* set by a callback that wants no more for now: feed returns behind this one */
    uint8_t n_head, head_bytes; /* of head: there, due */
    uint8_t n_control;
    uint8_t head[WS_HEAD_BYTES_MAX];
    ptn_buf *control; /* payload of a control frame, while it comes */
    const char *why;  /* static text after a failure */
} ws_parser;

/* accept, deflate: see above.  bytes_max: of one message, all fragments together, and of what a
 * compressed one stands for. */
void ws_parser_init(ws_parser *p, uint8_t accept, uint32_t bytes_max, ws_deflate *deflate);
void ws_parser_done(ws_parser *p);
/* 0, or the close code that the peer deserves; after that, and after a close, everything is
 * ignored.  *ret_used: bytes taken, all of them unless a callback has paused the machine; the rest
 * is fed again later. */
unsigned ws_parser_feed(ws_parser *p, const uint8_t *data, size_t n, const ws_parser_ops *ops,
                        void *arg, size_t *ret_used);

/* Codes that may appear in a close frame. */
bool ws_close_code_is_valid(unsigned code);
/* The first reserved bit: this message is compressed (RFC 7692 section 6). */
#define WS_HEAD_RSV1 0x40u

/* Writes the head of an unmasked frame with FIN; returns its length, 2 to 10. */
size_t ws_head_write(uint8_t out[WS_HEAD_BYTES_MAX], enum ws_opcode opcode, size_t payload_bytes);

#endif
