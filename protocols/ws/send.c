/* SPDX-License-Identifier: Apache-2.0
 *
 * send.c - what goes out: frames in the client's form, control frames, close reasons, shared
 * events.
 *
 * A failed write needs no handling of its own: the stream is closing then and says why in on_close.
 * From then on the connection counts as done.
 *
 * What is written here, all but events, answers the peer.  When the peer does not take it, it is
 * owed, and when much is owed, nothing is read (read.c).  Answers to what was read before still go
 * into the queue, also past its bound: while there is memory they do not end a connection.
 */
#include "protocols/ws/internal.h"

#include <postern/memory.h>
#include <postern/metrics.h>

#include <stdio.h>

#define WHOLE_BYTES_MAX 256u

/* The stream has failed, or n bytes more wait behind WS_OWED_MARK of others. */
static __attribute__((noinline)) void not_taken(struct ws_conn *w, size_t n, int err) {
    if (err < 0) {
        w->state = WS_DONE;
        return;
    }
    if (ptn_stream_queued(w->stream) > w->out_bytes_max && ptn_memory_pressure()) {
        ptn_stream_close(w->stream, -PTN_ESLOW);
        w->state = WS_DONE;
        return;
    }
    if ((w->holds & WS_HOLD_ANSWERS) != 0)
        return;
    w->owed += (uint32_t)n;
    if (w->owed <= WS_OWED_MAX(w->out_bytes_max))
        return;
    w->holds |= WS_HOLD_ANSWERS;
    ptn_count(PTN_C_WS_HELD, 1);
}

static inline void out(struct ws_conn *w, const void *p, size_t n) {
    if (w->state == WS_DONE)
        return;
    const int err = ptn_stream_write(w->stream, p, n);
    if (PTN_UNLIKELY(err != 0))
        not_taken(w, n, err);
}

/* Encodes in edge->text as JSON, after room for the longest head; false: no memory. */
static bool encode_json(ptn_out *text, ptn_bytes frame) {
    static const uint8_t room[WS_HEAD_BYTES_MAX] = {0};
    ptn_out_clear(text);
    ptn_out_put(text, room, sizeof room);
    return ptn_msgpack_to_json(frame, text) == 0 && text->err == 0;
}

/* Keeps the scratch small after a large frame. */
static void scratch_trim(ptn_out *text) {
    if (text->cap > WS_SCRATCH_BYTES_MAX)
        ptn_out_done(text);
}

/* The compressed form of a payload, if the client takes one and it is worth it. */
static bool pack(struct ws_conn *w, ptn_bytes payload, ptn_bytes *ret_packed) {
    return w->parser.deflate != NULL && payload.n >= w->edge->limits.ws_deflate_bytes_min &&
           ws_deflate_pack(w->parser.deflate, payload, ret_packed) == 0;
}

static void out_packed(struct ws_conn *w, ptn_bytes packed) {
    uint8_t head[WS_HEAD_BYTES_MAX];
    const size_t n_head = ws_head_write(head, (enum ws_opcode)w->opcode, packed.n);
    head[0] |= WS_HEAD_RSV1;
    out(w, head, n_head);
    out(w, packed.p, packed.n);
}

/* A short one in one piece: that is cheaper than another write. */
static void out_whole(struct ws_conn *w, enum ws_opcode opcode, ptn_bytes payload) {
    uint8_t whole[WS_HEAD_BYTES_MAX + WHOLE_BYTES_MAX];
    const size_t n_head = ws_head_write(whole, opcode, payload.n);
    const bool is_short = payload.n <= WHOLE_BYTES_MAX;
    if (is_short && payload.n > 0)
        memcpy(whole + n_head, payload.p, payload.n);
    out(w, whole, n_head + (is_short ? payload.n : 0));
    if (!is_short)
        out(w, payload.p, payload.n);
}

void ws__send(struct ws_conn *w, ptn_bytes frame) {
    if (w->state != WS_OPEN)
        return;
    ptn_bytes packed;
    if (w->opcode == WS_OP_BINARY) {
        if (pack(w, frame, &packed)) {
            out_packed(w, packed);
            return;
        }
        out_whole(w, WS_OP_BINARY, frame);
        return;
    }
    ptn_out *text = &w->edge->text;
    if (!encode_json(text, frame)) {
        ptn_out_done(text);
        ws__fail(w, WS_CLOSE_INTERNAL, PTN_CODE_OVERLOADED, WS_RETRY_AFTER_MS);
        return;
    }
    const size_t n = text->len - WS_HEAD_BYTES_MAX;
    if (pack(w, (ptn_bytes){text->p + WS_HEAD_BYTES_MAX, n}, &packed)) {
        out_packed(w, packed);
    } else {
        uint8_t head[WS_HEAD_BYTES_MAX];
        const size_t n_head = ws_head_write(head, WS_OP_TEXT, n);
        uint8_t *at = text->p + WS_HEAD_BYTES_MAX - n_head; /* head and text in one piece */
        memcpy(at, head, n_head);
        out(w, at, n_head + n);
    }
    scratch_trim(text);
}

void ws__send_control(struct ws_conn *w, enum ws_opcode opcode, ptn_bytes payload) {
    uint8_t frame[2 + WS_CONTROL_BYTES_MAX];
    PTN_ASSERT(payload.n <= WS_CONTROL_BYTES_MAX);
    const size_t n_head = ws_head_write(frame, opcode, payload.n);
    if (payload.n > 0)
        memcpy(frame + n_head, payload.p, payload.n);
    out(w, frame, n_head + payload.n);
}

void ws__send_close(struct ws_conn *w, unsigned ws_code, int code, uint32_t retry_after_ms) {
    char payload[2 + WS_CLOSE_REASON_BYTES_MAX + 1];
    const char *name = ptn_code_info_of(code)->code;
    payload[0] = (char)(ws_code >> 8);
    payload[1] = (char)(ws_code & 0xff);
    int n;
    if (retry_after_ms > 0)
        n = snprintf(payload + 2, sizeof payload - 2, "{\"code\":\"%s\",\"retryAfterMs\":%u}", name,
                     (unsigned)retry_after_ms);
    else
        n = snprintf(payload + 2, sizeof payload - 2, "{\"code\":\"%s\"}", name);
    PTN_ASSERT(n > 0 && (size_t)n <= WS_CLOSE_REASON_BYTES_MAX); /* names come from our table */
    ws__send_control(w, WS_OP_CLOSE, (ptn_bytes){(const uint8_t *)payload, (size_t)n + 2});
}

/* head + payload in a new frame; NULL: no memory. */
static ptn_frame *frame_make(enum ws_opcode opcode, ptn_bytes payload) {
    ptn_frame *f = ptn_frame_new(WS_HEAD_BYTES_MAX + payload.n);
    if (f == NULL)
        return NULL;
    const size_t n_head = ws_head_write(f->data, opcode, payload.n);
    memcpy(f->data + n_head, payload.p, payload.n);
    f->len = (uint32_t)(n_head + payload.n);
    return f;
}

/* The event, or the message that it is, in the plain form; NULL: no memory. */
static ptn_frame *encode_plain(struct ws_conn *w, const ptn_event *e, bool message) {
    ptn_pack event;
    ptn_frame *f = NULL;
    ptn_pack_init(&event, e->data.n + 512);
    if (message)
        frames_message_pack(&event, e);
    else
        frames_event_pack(&event, e);
    ptn_buf *b = ptn_pack_finish(&event);
    if (b == NULL)
        return NULL;
    if (w->opcode == WS_OP_BINARY) {
        f = frame_make(WS_OP_BINARY, ptn_buf_bytes(b));
    } else {
        ptn_out *text = &w->edge->text;
        ptn_out_clear(text);
        if (ptn_msgpack_to_json(ptn_buf_bytes(b), text) == 0 && text->err == 0)
            f = frame_make(WS_OP_TEXT, (ptn_bytes){text->p, text->len});
        scratch_trim(text);
    }
    ptn_buf_unref(b);
    return f;
}

/* The same compressed, or the plain one again when that is not shorter. */
static ptn_frame *encode_packed(struct ws_conn *w, ptn_frame *plain) {
    const size_t n_head = plain->data[1] < 126 ? 2 : plain->data[1] == 126 ? 4 : 10;
    ptn_bytes packed;
    ptn_frame *f = NULL;
    if (pack(w, (ptn_bytes){plain->data + n_head, plain->len - n_head}, &packed))
        f = frame_make((enum ws_opcode)w->opcode, packed);
    if (f == NULL)
        return ptn_frame_ref(plain);
    f->data[0] |= WS_HEAD_RSV1;
    return f;
}

bool ws__event_encode(struct ws_conn *w, ptn_event *e, unsigned form) {
    const bool message = form >= PTN_FORM_WS_JSON_MESSAGE;
    const unsigned plain = form - (w->parser.deflate != NULL ? PTN_FORM_WS_DEFLATED : 0u);
    if (e->forms[plain] == NULL)
        e->forms[plain] = encode_plain(w, e, message);
    if (e->forms[plain] == NULL)
        return false;
    if (form != plain)
        e->forms[form] = encode_packed(w, e->forms[plain]);
    return true;
}
