/* SPDX-License-Identifier: Apache-2.0
 *
 * parser.c - the WebSocket byte machine.  See parser.h.
 *
 * A frame is its head, gathered because it is short and may be split anywhere, then
 * its payload. The head is judged as early as it can be: an unmasked or malformed frame is refused
 * on its second byte.
 */
#include "protocols/ws/parser.h"

#include <postern/codec.h>

#define HEAD_FIN 0x80u
#define HEAD_RSV 0x70u
#define HEAD_OPCODE 0x0fu
#define HEAD_MASKED 0x80u
#define HEAD_LENGTH 0x7fu
#define LENGTH_16 126u
#define LENGTH_64 127u
#define MESSAGE_CAP_MIN 512u
#define SHORT_BYTES_MAX 512u /* of a message that needs no memory of its own */

void ws_parser_init(ws_parser *p, uint8_t accept, uint32_t bytes_max, ws_deflate *deflate) {
    *p = (ws_parser){.deflate = deflate, .accept = accept, .bytes_max = bytes_max, .head_bytes = 2};
}

void ws_parser_done(ws_parser *p) {
    p->message = ptn_buf_unref(p->message);
    p->control = ptn_buf_unref(p->control);
    p->dead = true;
}

static unsigned fail(ws_parser *p, unsigned code, const char *why) {
    ws_parser_done(p);
    p->why = why;
    return code;
}

static bool is_control(unsigned opcode) {
    return opcode >= WS_OP_CLOSE;
}

bool ws_close_code_is_valid(unsigned code) {
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
           (code >= 3000 && code <= 4999);
}

size_t ws_head_write(uint8_t out[WS_HEAD_BYTES_MAX], enum ws_opcode opcode, size_t payload_bytes) {
    out[0] = (uint8_t)(HEAD_FIN | opcode);
    if (payload_bytes < LENGTH_16) {
        out[1] = (uint8_t)payload_bytes;
        return 2;
    }
    const size_t n = payload_bytes <= UINT16_MAX ? 2 : 8;
    out[1] = n == 2 ? LENGTH_16 : LENGTH_64;
    for (size_t i = 0; i < n; i++)
        out[2 + i] = (uint8_t)((uint64_t)payload_bytes >> (8 * (n - 1 - i)));
    return 2 + n;
}

typedef uint64_t word_pair __attribute__((vector_size(16))); /* gcc and clang, any machine */

/* dst = src XOR mask, from position at of the mask, sixteen bytes at a time. */
static void unmask(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t mask[4], unsigned at) {
    uint8_t masks[12]; /* eight bytes of it from each place */
    uint64_t word, wide;
    for (size_t i = 0; i < sizeof masks; i += 4)
        memcpy(masks + i, mask, 4);
    const uint8_t *turned = masks + at;
    memcpy(&wide, turned, sizeof wide);
    const word_pair wider = {wide, wide};
    word_pair pair;
    size_t i = 0;
    for (; n - i >= sizeof pair; i += sizeof pair) {
        memcpy(&pair, src + i, sizeof pair);
        pair ^= wider;
        memcpy(dst + i, &pair, sizeof pair);
    }
    for (; n - i >= sizeof word; i += sizeof word) {
        memcpy(&word, src + i, sizeof word);
        word ^= wide;
        memcpy(dst + i, &word, sizeof word);
    }
    for (; i < n; i++)
        dst[i] = src[i] ^ turned[i & 7];
}

/* ---- head ----------------------------------------------------------------------------------- */

/* The first two bytes are there: all that can be judged without the length.  0 or a close code. */
static unsigned head_begin(ws_parser *p) {
    const unsigned b0 = p->head[0], length = p->head[1] & HEAD_LENGTH;
    p->fin = (b0 & HEAD_FIN) != 0;
    p->opcode = (uint8_t)(b0 & HEAD_OPCODE);
    const bool packed = (b0 & HEAD_RSV) == WS_HEAD_RSV1 && p->deflate != NULL;
    if ((b0 & HEAD_RSV) != 0 && !packed)
        return fail(p, WS_CLOSE_PROTOCOL, "a reserved bit is set that no extension has a use for");
    if (packed && p->opcode != WS_OP_TEXT && p->opcode != WS_OP_BINARY)
        return fail(p, WS_CLOSE_PROTOCOL,
                    "only the first frame of a message says it is compressed");
    if (!(p->head[1] & HEAD_MASKED))
        return fail(p, WS_CLOSE_PROTOCOL, "frames from clients must be masked");
    switch (p->opcode) {
    case WS_OP_CONTINUATION:
        if (p->message_op == 0)
            return fail(p, WS_CLOSE_PROTOCOL, "a continuation without a message to continue");
        break;
    case WS_OP_TEXT:
    case WS_OP_BINARY:
        if (p->message_op != 0)
            return fail(p, WS_CLOSE_PROTOCOL, "a new message inside a fragmented one");
        if (p->accept != 0 && p->opcode != p->accept)
            return fail(p, WS_CLOSE_UNSUPPORTED,
                        p->accept == WS_OP_TEXT ? "this subprotocol takes text frames"
                                                : "this subprotocol takes binary frames");
        p->packed = packed;
        break;
    case WS_OP_CLOSE:
    case WS_OP_PING:
    case WS_OP_PONG:
        if (!p->fin)
            return fail(p, WS_CLOSE_PROTOCOL, "control frames must not be fragmented");
        if (length > WS_CONTROL_BYTES_MAX)
            return fail(p, WS_CLOSE_PROTOCOL, "control frames carry at most 125 bytes");
        break;
    default:
        return fail(p, WS_CLOSE_PROTOCOL, "reserved opcode");
    }
    p->head_bytes = (uint8_t)(6 + (length == LENGTH_16 ? 2 : length == LENGTH_64 ? 8 : 0));
    return 0;
}

/* The whole head is there: length and mask. */
static unsigned head_end(ws_parser *p) {
    const unsigned n_length = p->head_bytes - 6u;
    uint64_t length = p->head[1] & HEAD_LENGTH;
    if (n_length > 0) {
        length = 0;
        for (unsigned i = 0; i < n_length; i++)
            length = length << 8 | p->head[2 + i];
        if (length >> 63)
            return fail(p, WS_CLOSE_PROTOCOL, "the highest bit of a 64-bit length must be 0");
        if (length < (n_length == 2 ? LENGTH_16 : (uint64_t)UINT16_MAX + 1))
            return fail(p, WS_CLOSE_PROTOCOL, "the length is not in its shortest form");
    }
    memcpy(p->mask, p->head + 2 + n_length, sizeof p->mask);
    p->mask_at = 0;
    p->left = length;
    p->in_payload = true;
    p->n_head = 0;
    p->head_bytes = 2;
    if (is_control(p->opcode)) {
        p->n_control = 0;
        return 0;
    }
    if (p->opcode != WS_OP_CONTINUATION) {
        p->message_op = p->opcode;
        p->n_message = 0;
        p->utf8 = 0;
    }
    if (length > p->bytes_max - p->n_message)
        return fail(p, WS_CLOSE_TOO_BIG, "the message exceeds the configured limit");
    return 0;
}

/* Takes head bytes from data; *ret_used of them. */
static unsigned head_feed(ws_parser *p, const uint8_t *data, size_t n, size_t *ret_used) {
    size_t used = 0;
    unsigned code = 0;
    while (code == 0 && !p->in_payload && used < n) {
        const size_t due = p->head_bytes - p->n_head, part = n - used < due ? n - used : due;
        uint8_t *to = p->head + p->n_head;
        for (size_t i = 0; i < part; i++)
            to[i] = data[used + i];
        used += part;
        p->n_head = (uint8_t)(p->n_head + part);
        if (part == due)
            code = p->n_head == 2 ? head_begin(p) : head_end(p);
    }
    *ret_used = used;
    return code;
}

/* ---- payload -------------------------------------------------------------------------------- */

/* Room for n more bytes of the message.  Exact when the message ends with them, else it grows by
 * doubling. */
static uint8_t *message_room(ws_parser *p, size_t n, bool ends) {
    const size_t want = p->n_message + n;
    size_t cap;
    if (p->message == NULL) {
        cap = ends || want > MESSAGE_CAP_MIN ? want : MESSAGE_CAP_MIN;
        p->message = ptn_buf_new(cap);
        if (p->message == NULL)
            return NULL;
        return ptn_buf_data(p->message, &cap);
    }
    uint8_t *base = ptn_buf_data(p->message, &cap);
    if (cap < want) {
        ptn_buf *grown = ptn_buf_grow(p->message, ends || want > 2 * cap ? want : 2 * cap);
        if (grown == NULL)
            return NULL;
        p->message = grown;
        base = ptn_buf_data(grown, &cap);
    }
    return base + p->n_message;
}

static bool message_text_is_valid(ws_parser *p, const uint8_t *chunk, size_t n, bool ends) {
    if (p->message_op != WS_OP_TEXT || p->packed)
        return true;
    if (ends && p->n_message == n)
        return ptn_utf8_valid(chunk, n);
    return ptn_utf8_feed(&p->utf8, chunk, n) && (!ends || p->utf8 == 0);
}

/* Puts what a compressed message stands for in its place.  0 or a close code. */
static unsigned message_unpack(ws_parser *p, ptn_buf **message) {
    ptn_buf *plain;
    const int err = ws_deflate_unpack(p->deflate, ptn_buf_bytes(*message), p->bytes_max, &plain);
    if (err == -PTN_ETOOBIG)
        return fail(p, WS_CLOSE_TOO_BIG, "the message exceeds the configured limit when inflated");
    if (err != 0)
        return err == -PTN_EPROTO
                   ? fail(p, WS_CLOSE_BAD_TEXT, "the compressed message is no whole DEFLATE data")
                   : fail(p, WS_CLOSE_INTERNAL, "out of memory");
    ptn_buf_unref(*message);
    *message = plain;
    const ptn_bytes text = ptn_buf_bytes(plain);
    if (p->message_op == WS_OP_TEXT && !ptn_utf8_valid(text.p, text.n))
        return fail(p, WS_CLOSE_BAD_TEXT, "text must be UTF-8");
    return 0;
}

static void message_deliver(ws_parser *p, ptn_bytes payload, const ws_parser_ops *ops, void *arg) {
    const enum ws_opcode opcode = (enum ws_opcode)p->message_op;
    p->message_op = 0;
    p->n_message = 0;
    if (!ops->on_message(arg, opcode, payload))
        p->dead = true;
}

/* A short message, which is there as a whole: it is unmasked on the stack. */
static unsigned short_message(ws_parser *p, const uint8_t *data, size_t n, const ws_parser_ops *ops,
                              void *arg) {
    uint8_t plain[SHORT_BYTES_MAX];
    unmask(plain, data, n, p->mask, 0);
    if (p->message_op == WS_OP_TEXT && !ptn_utf8_valid(plain, n))
        return fail(p, WS_CLOSE_BAD_TEXT, "text must be UTF-8");
    p->left = 0;
    p->in_payload = false;
    message_deliver(p, (ptn_bytes){plain, n}, ops, arg);
    return 0;
}

/* The message has all its bytes: its delivery. */
static unsigned message_end(ws_parser *p, const ws_parser_ops *ops, void *arg) {
    ptn_buf *message = p->message;
    if (message != NULL)
        ptn_buf_seal(message, p->n_message);
    p->message = NULL;
    const unsigned code = p->packed ? message_unpack(p, &message) : 0;
    if (code == 0)
        message_deliver(
            p, message != NULL ? ptn_buf_bytes(message) : (ptn_bytes){(const uint8_t *)"", 0}, ops,
            arg);
    ptn_buf_unref(message);
    return code;
}

/* n payload bytes of a data frame; with the last ones of a message, its delivery. */
static unsigned data_feed(ws_parser *p, const uint8_t *data, size_t n, const ws_parser_ops *ops,
                          void *arg) {
    const bool ends = p->fin && p->left == n;
    if (ends && n <= SHORT_BYTES_MAX && p->message == NULL && !p->packed)
        return short_message(p, data, n, ops, arg);
    const uint8_t *chunk = (const uint8_t *)"";
    if (n > 0) {
        uint8_t *to = message_room(p, n, ends);
        if (to == NULL)
            return fail(p, WS_CLOSE_INTERNAL, "out of memory");
        unmask(to, data, n, p->mask, p->mask_at);
        chunk = to;
        p->n_message += (uint32_t)n;
        p->mask_at = (uint8_t)((p->mask_at + n) & 3);
        p->left -= n;
    }
    if (!message_text_is_valid(p, chunk, n, ends))
        return fail(p, WS_CLOSE_BAD_TEXT, "text must be UTF-8");
    p->in_payload = p->left > 0;
    if (!ends)
        return 0;
    return message_end(p, ops, arg);
}

/* Section 5.5.1: nothing, or a code and a UTF-8 reason. */
static unsigned close_check(ws_parser *p, ptn_bytes payload) {
    if (payload.n == 0)
        return 0;
    if (payload.n == 1)
        return fail(p, WS_CLOSE_PROTOCOL, "a close payload has two bytes of code first");
    if (!ws_close_code_is_valid((unsigned)payload.p[0] << 8 | payload.p[1]))
        return fail(p, WS_CLOSE_PROTOCOL, "this close code may not be sent");
    if (!ptn_utf8_valid(payload.p + 2, payload.n - 2))
        return fail(p, WS_CLOSE_BAD_TEXT, "a close reason must be UTF-8");
    return 0;
}

/* n payload bytes of a control frame into p->control.  False: no memory. */
static bool control_gather(ws_parser *p, const uint8_t *data, size_t n) {
    size_t cap;
    if (p->control == NULL)
        p->control = ptn_buf_new(WS_CONTROL_BYTES_MAX);
    if (p->control == NULL)
        return false;
    unmask(ptn_buf_data(p->control, &cap) + p->n_control, data, n, p->mask, p->mask_at);
    p->n_control = (uint8_t)(p->n_control + n);
    p->mask_at = (uint8_t)((p->mask_at + n) & 3);
    p->left -= n;
    return true;
}

static unsigned control_feed(ws_parser *p, const uint8_t *data, size_t n, const ws_parser_ops *ops,
                             void *arg) {
    if (n > 0 && !control_gather(p, data, n))
        return fail(p, WS_CLOSE_INTERNAL, "out of memory");
    p->in_payload = p->left > 0;
    if (p->in_payload)
        return 0;
    ptn_buf *control = p->control;
    p->control = NULL;
    ptn_bytes payload = {(const uint8_t *)"", 0};
    if (control != NULL) {
        ptn_buf_seal(control, p->n_control);
        payload = ptn_buf_bytes(control);
    }
    const unsigned code = p->opcode == WS_OP_CLOSE ? close_check(p, payload) : 0;
    if (code == 0) {
        if (p->opcode == WS_OP_CLOSE)
            ws_parser_done(p);
        if (!ops->on_control(arg, (enum ws_opcode)p->opcode, payload))
            p->dead = true;
    }
    ptn_buf_unref(control);
    return code;
}

unsigned ws_parser_feed(ws_parser *p, const uint8_t *data, size_t n, const ws_parser_ops *ops,
                        void *arg, size_t *ret_used) {
    unsigned code = 0;
    const size_t n_data = n;
    p->paused = false;
    while (code == 0 && !p->dead && !p->paused && (n > 0 || (p->in_payload && p->left == 0))) {
        size_t used = 0;
        if (!p->in_payload) {
            code = head_feed(p, data, n, &used);
        } else {
            used = n < p->left ? n : (size_t)p->left;
            code = is_control(p->opcode) ? control_feed(p, data, used, ops, arg)
                                         : data_feed(p, data, used, ops, arg);
        }
        data += used;
        n -= used;
    }
    *ret_used = p->paused && !p->dead ? n_data - n : n_data;
    return code;
}
