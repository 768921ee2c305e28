/* SPDX-License-Identifier: Apache-2.0
 *
 * hello.c - the first thing a newcomer sees.
 *
 * The commands are complete: each sends a message to the default conversation of the account
 * `admin` and ends by itself; the WebSocket one also shows what a subscriber sees.
 */
#include "broker/hello.h"

#include "actors/jwt.h"
#include "broker/keys.h"

#include <postern/codec.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TOKEN_HOURS 12

static void print_list(ptn_out *o, const char *name, const char *const *items, size_t n) {
    ptn_json_string(o, ptn_str_of(name));
    ptn_out_put(o, ":[", 2);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            ptn_out_put(o, ",", 1);
        ptn_json_string(o, ptn_str_of(items[i]));
    }
    ptn_out_put(o, "]", 1);
}

void hello_print_listen(const struct hello_addresses *a, FILE *out) {
    ptn_out o = {0};
    ptn_out_put(&o, "{", 1);
    print_list(&o, "http", a->http, a->n_http);
    ptn_out_put(&o, ",", 1);
    print_list(&o, "admin", a->admin, a->n_admin);
    ptn_out_put(&o, ",", 1);
    print_list(&o, "zmq", a->zmq, a->n_zmq);
    ptn_out_put(&o, ",", 1);
    print_list(&o, "zmq_events", a->zmq_events, a->n_zmq_events);
    ptn_out_put(&o, "}\n", 2);
    fwrite(o.p, 1, o.len, out);
    fflush(out);
    ptn_out_done(&o);
}

/* A token of the admin account; false when there is none (it was removed, say). */
static bool admin_token(const char *data, const uint8_t *key, size_t key_bytes,
                        struct keys_user *user, char *out, size_t out_bytes) {
    struct config_error why;
    store_db *db;
    if (keys_open_database(data, &db, &why) < 0)
        return false;
    int r = keys_user_find(db, PTN_STR("admin"), user, &why);
    store_db_close(db);
    if (r < 0)
        return false;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t now_ms = (int64_t)now.tv_sec * 1000;
    ptn_principal p = {
        .user = ptn_str_of(user->id), .name = ptn_str_of(user->name), .roles = user->roles};
    return jwt_sign(key, key_bytes, &p, PTN_STR(""), now_ms, now_ms + TOKEN_HOURS * 3600000, out,
                    out_bytes) > 0;
}

static void print_addresses(const struct hello_addresses *a, FILE *out) {
    for (size_t i = 0; i < a->n_http; i++)
        fprintf(out, "  REST, WebSocket, SSE   http://%s\n", a->http[i]);
    for (size_t i = 0; i < a->n_admin; i++)
        fprintf(out, "  probes, metrics        http://%s/metrics\n", a->admin[i]);
    for (size_t i = 0; i < a->n_zmq; i++)
        fprintf(out, "  ZeroMQ requests        %s\n", a->zmq[i]);
    for (size_t i = 0; i < a->n_zmq_events; i++)
        fprintf(out, "  ZeroMQ events          %s\n", a->zmq_events[i]);
}

/* ipc paths may be relative to where the broker runs; a pasted command runs elsewhere. */
static void absolute(const char *address, char *out, size_t out_bytes) {
    char *path = strncmp(address, "ipc://", 6) == 0 ? realpath(address + 6, NULL) : NULL;
    (void)snprintf(out, out_bytes, path != NULL ? "ipc://%s" : "%s", path != NULL ? path : address);
    free(path);
}

static void print_commands(const struct hello_addresses *a, const struct keys_user *admin,
                           const char *token, FILE *out) {
    if (a->n_http > 0) {
        fprintf(out,
                "\nA message over REST:\n\n"
                "  curl -s -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' "
                "-d '{\"content\":\"hello from curl\"}' http://%s/api/v1/conversations/messages\n",
                token, a->http[0]);
        fprintf(
            out,
            "\nThe same over WebSocket, and what its subscribers see:\n\n"
            "  /usr/bin/python3 -c $'import asyncio, json, websockets\\nasync def main():\\n async "
            "with websockets.connect(\"ws://%s/ws?token=%s\") as ws:\\n  await "
            "ws.send(json.dumps({\"type\": \"subscribe\", \"topic\": \"conversation.%s\"}))\\n"
            "  print(await ws.recv(), await ws.recv())\\n  await ws.send(json.dumps({\"type\": "
            "\"message\", \"content\": \"hello from WebSocket\"}))\\n  print(await ws.recv(), "
            "await ws.recv())\\nasyncio.run(main())'\n",
            a->http[0], token, admin->id);
    }
    if (a->n_zmq > 0) {
        char address[4200];
        absolute(a->zmq[0], address, sizeof address);
        fprintf(out,
                "\nAnd over ZeroMQ:\n\n"
                "  /usr/bin/python3 -c 'import zmq; s = zmq.Context().socket(zmq.REQ); "
                "s.connect(\"%s\"); s.send_json({\"type\": \"message\", \"token\": \"%s\", "
                "\"content\": \"hello from ZeroMQ\"}); print(s.recv_string())'\n",
                address, token);
    }
    if (a->n_http > 0)
        fprintf(out,
                "\nTo watch the conversation in another terminal:\n\n"
                "  curl -sN -H 'Authorization: Bearer %s' "
                "http://%s/api/v1/topics/conversation.%s/events\n",
                token, a->http[0], admin->id);
}

void hello_print(const struct hello_addresses *a, const char *data, const uint8_t *key,
                 size_t key_bytes, FILE *out) {
    char token[JWT_BYTES_MAX];
    struct keys_user admin;
    fputs("\nPostern is ready.\n\n", out);
    print_addresses(a, out);
    if (admin_token(data, key, key_bytes, &admin, token, sizeof token)) {
        fprintf(out, "\nA token of the account `admin`, good for %d hours:\n\n  %s\n", TOKEN_HOURS,
                token);
        print_commands(a, &admin, token, out);
    } else {
        fputs("\nThere is no account `admin`; 'postern token NAME' prints a token of another.\n",
              out);
    }
    fputs("\nCtrl-C ends it.\n\n", out);
    fflush(out);
}
