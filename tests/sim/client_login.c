/* SPDX-License-Identifier: Apache-2.0
 *
 * client_login.c - guests who log in with a password, as the app does: short access tokens, refresh
 * before or after they have expired, logout; and a thief who has an old refresh token.
 *
 * Oracles: no success for a token that had expired, or whose session is known to be over; the
 * answer is about its owner; a good token is not refused, a good password neither, a bad one is; a
 * refresh token works once, and a second use ends the session.  The wall clock that the broker
 * looks at may be set while it works: then nobody can say, and nothing is said.
 */
#include "login.h"

#include "actors/jwt.h"

#include <stdio.h>
#include <stdlib.h>

/* Argon2id at the least cost that libsodium takes: what a real one costs is not simulated. */
const char login_hash[] = "$argon2id$v=19$m=8,t=1,p=1$eR/Cl4ZRhBSyg2RNWUDCkA$gy69b83L/"
                          "AKFCYk+BCJKoG7SyhEcLjY86qX88+CXAaw";

#define PASSWORD "correct horse"
#define WRONG_MAX 8u    /* ten within a minute would be refused for another reason */
#define SLACK_MS 100    /* a turn looks at the clock a little before */
#define LAST_REFRESH 2u /* of last_words: refresh, then use what came of it */

enum { ASK_LOGIN, ASK_WRONG, ASK_WHO, ASK_REFRESH, ASK_LOGOUT, ASK_STOLEN, ASK_OVER };

static struct login *login_of(const struct client *c) {
    return &world->logins[c->user - LOGIN_USER];
}

struct moment moment_of(const struct client *c) {
    return (struct moment){c->env->ops->wall_ms(c->env), ptn_sim_now(c->env)};
}

/* ---- what a token says ----------------------------------------------------------------------- */

struct times token_times(const char *token) {
    uint8_t claims[512];
    const char *from = strchr(token, '.'), *to = from != NULL ? strchr(from + 1, '.') : NULL;
    ORACLE(to != NULL, "wire: an access token that is none");
    int n = base64url_decode((ptn_str){from + 1, (size_t)(to - from - 1)}, claims, sizeof claims);
    ORACLE(n > 0 && (size_t)n < sizeof claims, "wire: an access token that is none");
    claims[n] = '\0';
    const char *iat = strstr((const char *)claims, "\"iat\":");
    const char *exp = strstr((const char *)claims, "\"exp\":");
    ORACLE(iat != NULL && exp != NULL, "wire: an access token without times");
    return (struct times){strtoll(iat + 6, NULL, 10) * 1000, strtoll(exp + 6, NULL, 10) * 1000};
}

bool clock_went_on(const struct client *c, struct moment since) {
    struct moment now = moment_of(c);
    int64_t off = now.wall_ms - since.wall_ms - (int64_t)((now.at - since.at) / PTN_MS);
    return off >= -1 && off <= 1;
}

bool token_was_good(const struct client *c, const char *token, struct moment since) {
    struct times t = token_times(token);
    return clock_went_on(c, since) && moment_of(c).wall_ms + SLACK_MS < t.expires_ms &&
           t.issued_ms < since.wall_ms + JWT_LEEWAY_MS - SLACK_MS;
}

static struct moment asked(const struct client *c) {
    const struct login *l = login_of(c);
    return (struct moment){l->asked_wall_ms, l->asked_at};
}

static bool was_expired(const struct client *c, const char *token) {
    return clock_went_on(c, asked(c)) &&
           token_times(token).expires_ms + SLACK_MS <= asked(c).wall_ms;
}

/* ---- questions ------------------------------------------------------------------------------- */

static void ask(struct client *c, unsigned what, const char *path, const char *token, ptn_pack *w) {
    struct login *l = login_of(c);
    (void)client_call(c, CALL_REQUEST, what, 0);
    struct moment now = moment_of(c);
    l->asked_wall_ms = now.wall_ms;
    l->asked_at = now.at;
    http_send(c, w == NULL && what != ASK_LOGOUT ? "GET" : "POST", path, token, w);
}

static void ask_login(struct client *c, bool right) {
    ptn_pack w;
    ptn_pack_init(&w, 96);
    ptn_pack_map(&w, 2);
    ptn_pack_key(&w, "username");
    ptn_pack_cstr(&w, user_name(c->user));
    ptn_pack_key(&w, "password");
    ptn_pack_cstr(&w, right ? PASSWORD : "correct house");
    login_of(c)->wrong += !right;
    ask(c, right ? ASK_LOGIN : ASK_WRONG, "/api/v1/auth/login", NULL, &w);
}

static void ask_refresh(struct client *c, bool stolen) {
    struct login *l = login_of(c);
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "refreshToken");
    ptn_pack_cstr(&w, stolen ? l->spent : l->refresh);
    l->tries += !stolen;
    l->doubt = l->doubt || stolen;
    ask(c, stolen ? ASK_STOLEN : ASK_REFRESH, "/api/v1/auth/refresh", NULL, &w);
}

static void ask_who(struct client *c, bool over) {
    struct login *l = login_of(c);
    ask(c, over ? ASK_OVER : ASK_WHO, "/api/v1/users/me", over ? l->over : l->access, NULL);
}

static void ask_logout(struct client *c) {
    struct login *l = login_of(c);
    l->doubted = l->doubt;
    l->doubt = true;
    ask(c, ASK_LOGOUT, "/api/v1/auth/logout", l->access, NULL);
}

static void act(struct client *c) {
    struct login *l = login_of(c);
    unsigned what = client_below(c, 20);
    if (c->n_calls > 0 || (c->settling && c->last_words == 0))
        return;
    if (!l->in)
        ask_login(c, c->settling || l->wrong == WRONG_MAX || what > 1);
    else if (c->settling && c->last_words == LAST_REFRESH)
        ask_refresh(c, false);
    else if (!c->settling && what == 0)
        ask_logout(c);
    else if (!c->settling && what == 1 && l->spent[0] != '\0')
        ask_refresh(c, true);
    else if (what == 2 && l->over[0] != '\0')
        ask_who(c, true);
    else if (what < 5 || (what < 12 && token_times(l->access).expires_ms < moment_of(c).wall_ms))
        ask_refresh(c, false);
    else
        ask_who(c, false);
}

/* ---- answers --------------------------------------------------------------------------------- */

static void take_text(ptn_bytes data, const char *key, char *out, size_t out_bytes) {
    ptn_str text;
    ORACLE(ptn_map_get_str(data, key, &text) && text.n > 0 && text.n < out_bytes,
           "wire: tokens without %s", key);
    memcpy(out, text.p, text.n);
    out[text.n] = '\0';
}

static void take_tokens(struct client *c, ptn_bytes data) {
    struct login *l = login_of(c);
    bool refreshed = l->in;
    memcpy(l->spent, l->in ? l->refresh : "", l->in ? sizeof l->spent : 1);
    take_text(data, "accessToken", l->access, sizeof l->access);
    take_text(data, "refreshToken", l->refresh, sizeof l->refresh);
    ORACLE(!refreshed || strcmp(l->refresh, l->spent) != 0,
           "auth: a refresh gives user %s the token that it had", user_name(c->user));
    l->doubt = refreshed && l->doubt;
    l->in = true;
    l->tries = 0;
    world->tally.logins++;
}

void login_session(const struct login *l, char out[160]) {
    (void)snprintf(out, 160, "%.*s", (int)strcspn(l->refresh, "."), l->refresh);
}

/* It is known: the session is no more. */
static void ended(struct client *c) {
    struct login *l = login_of(c);
    memcpy(l->over, l->access, sizeof l->over);
    l->over_at = ptn_sim_now(c->env);
    l->over_life = world->life;
    login_session(l, l->over_session);
    l->in = false;
    l->spent[0] = '\0';
}

static void on_who(struct client *c, ptn_bytes data, const char *token) {
    ptn_str id;
    ORACLE(ptn_map_get_str(data, "id", &id) && ptn_str_eqz(id, user_id(c->user)),
           "auth: the token of user %s shows another", user_name(c->user));
    ORACLE(!was_expired(c, token), "auth: a token of user %s is taken %lld ms after it has expired",
           user_name(c->user),
           (long long)(login_of(c)->asked_wall_ms - token_times(token).expires_ms));
    if (c->settling && c->last_words > 0 && c->last_words < LAST_REFRESH)
        c->last_words--;
}

static void granted(struct client *c, const struct call *call, ptn_bytes data) {
    struct login *l = login_of(c);
    switch (call->ref) {
    case ASK_WHO:
        on_who(c, data, l->access);
        break;
    case ASK_LOGIN:
        take_tokens(c, data);
        break;
    case ASK_REFRESH:
        take_tokens(c, data);
        if (c->settling && c->last_words == LAST_REFRESH)
            c->last_words--;
        break;
    case ASK_LOGOUT:
        ORACLE(!was_expired(c, l->access), "auth: user %s logs out with an expired token",
               user_name(c->user));
        ended(c);
        break;
    default:
        oracle_failed(call->ref == ASK_WRONG    ? "auth: a wrong password of user %s logs in"
                      : call->ref == ASK_STOLEN ? "auth: a refresh token of user %s works twice"
                                                : "auth: a token of user %s outlives its session",
                      user_name(c->user));
    }
}

/* 401. */
static void denied(struct client *c, const struct call *call, ptn_bytes envelope) {
    struct login *l = login_of(c);
    bool unsure = l->doubt || l->tries > 1; /* some request may have ended the session */
    ptn_str code = {"", 0}, message = {"", 0};
    (void)ptn_map_get_str(envelope, "code", &code);
    (void)ptn_map_get_str(envelope, "message", &message);
    /* Without memory for one more session that is over, all older tokens are. */
    bool all_over = memory_may_fail() && ptn_str_eqz(code, "token_expired");
    world->tally.tokens_refused++;
    switch (call->ref) {
    case ASK_LOGIN:
        oracle_failed("auth: the password of user %s is refused", user_name(c->user));
    case ASK_LOGOUT:
        l->doubt = l->doubted;
        break;
    case ASK_WHO:
        ORACLE(unsure || all_over || !token_was_good(c, l->access, asked(c)),
               "auth: a good token of user %s is refused: %.*s", user_name(c->user), (int)message.n,
               message.p);
        break;
    case ASK_REFRESH:
        ORACLE(unsure, "auth: a refresh token of user %s that was never used is refused: %.*s",
               user_name(c->user), (int)message.n, message.p);
        ended(c);
        break;
    case ASK_STOLEN:
        ended(c);
        break;
    default:
        break;
    }
}

static void answered(struct client *c, const struct call *call, unsigned long status,
                     ptn_bytes envelope) {
    ptn_bytes data = {0};
    if (status == 401) {
        denied(c, call, envelope);
    } else if (status >= 200 && status < 300) {
        ORACLE(ptn_map_get(envelope, "data", &data), "wire: success without data");
        granted(c, call, data);
    } else {
        http_refused(c, status, envelope);
    }
}

static void opened(struct client *c) {
    c->state = CLIENT_LIVE;
}

const struct client_kind login_kind = {
    .http = true, .opened = opened, .act = act, .answered = answered};
