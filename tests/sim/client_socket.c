/* SPDX-License-Identifier: Apache-2.0
 *
 * client_socket.c - the WebSocket of a guest who logs in: it comes with the present access token,
 * and again with a newer one when that has expired or was revoked.
 *
 * Oracles (`auth`): nothing is answered long after the token has expired or its session is known to
 * be over; a good one is not refused and not cut off.
 */
#include "client.h"
#include "login.h"

#define CUT_NS PTN_SEC /* after this nothing may be answered any more */

static struct { /* of this life */
    char token[512], session[160];
    struct moment came, asked;
} sockets[LOGINS_MAX];

static bool may_come(const struct client *c) {
    return world->logins[c->device].in;
}

static void opened(struct client *c) {
    memcpy(sockets[c->device].token, world->logins[c->device].access, sizeof sockets->token);
    sockets[c->device].came = moment_of(c);
    login_session(&world->logins[c->device], sockets[c->device].session);
    ws_upgrade(c, "", "", sockets[c->device].token);
}

static void act(struct client *c) {
    ptn_pack w;
    if (c->n_calls > 0)
        return;
    struct call *call = client_call(c, CALL_OTHER, 0, 0);
    sockets[c->device].asked = moment_of(c);
    ws_begin_call(&w, "ping", call, 0);
    ws_send(c, &w);
}

static void on_pong(struct client *c) {
    const struct login *l = &world->logins[c->device];
    const char *token = sockets[c->device].token;
    struct moment asked = sockets[c->device].asked;
    if (clock_went_on(c, sockets[c->device].came))
        ORACLE(token_times(token).expires_ms + (int64_t)(CUT_NS / PTN_MS) > asked.wall_ms,
               "auth: a socket of user %s is answered %lld ms after its token has expired",
               user_name(c->user), (long long)(asked.wall_ms - token_times(token).expires_ms));
    ORACLE(strcmp(l->over_session, sockets[c->device].session) != 0 ||
               l->over_life != world->life || asked.at < l->over_at + CUT_NS,
           "auth: a socket of user %s outlives its session", user_name(c->user));
    world->tally.answers++;
}

/* 401 to the upgrade, or a close with 4401 or 4501. */
static bool denied(struct client *c, unsigned code) {
    const struct login *l = &world->logins[c->device];
    const char *token = sockets[c->device].token;
    bool known = code == 401 || code == 4401 || code == 4501;
    bool mine = l->in && strcmp(l->access, token) == 0 && !l->doubt && l->tries < 2;
    ORACLE(
        !known || !mine || memory_may_fail() || !token_was_good(c, token, sockets[c->device].came),
        "auth: a socket of user %s with a good token is refused with %u", user_name(c->user), code);
    world->tally.tokens_refused += known;
    return known;
}

/* Its end is said before it comes. */
static void on_error(struct client *c, ptn_bytes frame) {
    ptn_str code;
    if (ptn_map_get_str(frame, "code", &code) &&
        (ptn_str_eqz(code, "token_expired") || ptn_str_eqz(code, "unauthenticated")))
        (void)denied(c, 4401);
    else
        ws_refused(c, frame);
}

static void on_frame(struct client *c, ptn_bytes frame) {
    ptn_str type;
    ORACLE(ptn_map_get_str(frame, "type", &type), "wire: a frame without type");
    if (ptn_str_eqz(type, "welcome")) {
        c->state = CLIENT_LIVE;
    } else if (ptn_str_eqz(type, "pong")) {
        client_call_end(c, ws_find_call(c, frame));
        on_pong(c);
    } else if (!ptn_str_eqz(type, "drain") && !ptn_str_eqz(type, "message")) {
        ORACLE(ptn_str_eqz(type, "error"), "wire: a frame of type %.*s", (int)type.n, type.p);
        on_error(c, frame);
    }
}

const struct client_kind socket_kind = {.leaves = true,
                                        .may_come = may_come,
                                        .opened = opened,
                                        .act = act,
                                        .denied = denied,
                                        .frame = on_frame};
