/* SPDX-License-Identifier: Apache-2.0
 *
 * upgrade.c - the opening handshake (RFC 6455 section 4.2): checks, subprotocol, the 101 response.
 *
 * The http machine has checked the method and the Upgrade and Connection headers.
 */
#include "protocols/ws/internal.h"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>

#define WS_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define WS_KEY_LEN 24u /* base64 of 16 bytes */
/* client_no_context_takeover: what one inflating stream for all connections asks of the client. */
#define EXTENSION                                                                                  \
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "                   \
    "client_no_context_takeover"

static const char *const sub_names[] = {
    [WS_SUB_JSON] = "postern.v1.json",
    [WS_SUB_MSGPACK] = "postern.v1.msgpack",
};

static bool is_base64(char ch) {
    return (ch >= 'A' && ch <= 'Z') || (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') ||
           ch == '+' || ch == '/';
}

static bool key_is_valid(ptn_str key) {
    if (key.n != WS_KEY_LEN || key.p[22] != '=' || key.p[23] != '=')
        return false;
    for (size_t i = 0; i < 22; i++)
        if (!is_base64(key.p[i]))
            return false;
    return true;
}

static bool is_blank(char ch) {
    return ch == ' ' || ch == '\t';
}

static enum ws_subprotocol sub_of(ptn_str name) {
    for (int sub = WS_SUB_JSON; sub <= WS_SUB_MSGPACK; sub++)
        if (ptn_str_eqz(name, sub_names[sub]))
            return (enum ws_subprotocol)sub;
    return WS_SUB_UNKNOWN;
}

enum ws_subprotocol ws__negotiate(ptn_str list) {
    if (list.n == 0)
        return WS_SUB_NONE;
    for (size_t i = 0; i < list.n;) {
        const char *comma = memchr(list.p + i, ',', list.n - i);
        const size_t end = comma != NULL ? (size_t)(comma - list.p) : list.n;
        size_t from = i, to = end;
        while (from < to && is_blank(list.p[from]))
            from++;
        while (to > from && is_blank(list.p[to - 1]))
            to--;
        const enum ws_subprotocol sub = sub_of((ptn_str){list.p + from, to - from});
        if (sub != WS_SUB_UNKNOWN)
            return sub;
        i = end + 1;
    }
    return WS_SUB_UNKNOWN;
}

int ws_upgrade_check(const ws_upgrade *u, const char **reterr_message) {
    if (!ptn_str_eqz(u->version, "13")) {
        *reterr_message = "this server speaks WebSocket version 13: send Sec-WebSocket-Version: 13";
        return 426;
    }
    if (!key_is_valid(u->key)) {
        *reterr_message = "Sec-WebSocket-Key must be the base64 form of 16 bytes";
        return 400;
    }
    if (ws__negotiate(u->protocols) == WS_SUB_UNKNOWN) {
        *reterr_message = "none of the subprotocols is known: offer postern.v1.json or "
                          "postern.v1.msgpack, or none";
        return 400;
    }
    if (!frames_device_is_valid(u->device)) {
        *reterr_message = "device must be a text of at most 64 bytes, no control characters";
        return 400;
    }
    enum ws_deflate_answer answer;
    if (!ws__extensions(u->extensions, &answer)) {
        *reterr_message = "Sec-WebSocket-Extensions must be a list of extensions (RFC 6455 9.1)";
        return 400;
    }
    return 0;
}

void ws__accept_key(ptn_str key, char out[WS_ACCEPT_LEN + 1]) {
    uint8_t text[WS_KEY_LEN + sizeof WS_GUID - 1], digest[SHA_DIGEST_LENGTH];
    PTN_ASSERT(key.n == WS_KEY_LEN); /* ws_upgrade_check() */
    memcpy(text, key.p, WS_KEY_LEN);
    memcpy(text + WS_KEY_LEN, WS_GUID, sizeof WS_GUID - 1);
    (void)SHA1(text, sizeof text, digest);
    (void)EVP_EncodeBlock((uint8_t *)out, digest, sizeof digest);
}

int ws__write_101(ptn_stream *s, const ws_upgrade *u, enum ws_subprotocol sub,
                  enum ws_deflate_answer deflate) {
    static const char *const extensions[] = {
        [WS_DEFLATE_OFF] = "",
        [WS_DEFLATE_ON] = EXTENSION "\r\n",
        [WS_DEFLATE_ON_BITS] = EXTENSION "; server_max_window_bits=12\r\n",
    };
    _Static_assert(WS_DEFLATE_WINDOW_BITS == 12, "as above");
    char accept[WS_ACCEPT_LEN + 1], head[400];
    ws__accept_key(u->key, accept);
    const bool named = sub == WS_SUB_JSON || sub == WS_SUB_MSGPACK;
    const int n = snprintf(head, sizeof head,
                           "HTTP/1.1 101 Switching Protocols\r\n"
                           "Upgrade: websocket\r\n"
                           "Connection: Upgrade\r\n"
                           "Sec-WebSocket-Accept: %s\r\n"
                           "%s%.*s%s%s%s%s%s\r\n",
                           accept, u->trace.n > 0 ? "Trace-Id: " : "", (int)u->trace.n,
                           u->trace.n > 0 ? u->trace.p : "", u->trace.n > 0 ? "\r\n" : "",
                           named ? "Sec-WebSocket-Protocol: " : "", named ? sub_names[sub] : "",
                           named ? "\r\n" : "", extensions[deflate]);
    PTN_ASSERT(n > 0 && (size_t)n < sizeof head);
    return ptn_stream_write(s, head, (size_t)n);
}
