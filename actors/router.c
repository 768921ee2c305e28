/* SPDX-License-Identifier: Apache-2.0
 *
 * router.c - finds the owner of a request, checks what the caller needs to be, and hands the
 * request on.
 *
 * The request is forwarded unchanged (same payload, same asker): the owner answers the adapter
 * directly, so that routing costs one hop and no copy.  Authentication happened in the adapter,
 * membership is the owner's to check; here it is only decided whether a caller of this kind may
 * come at all.
 */
#include "actors/router.h"

#include <postern/metrics.h>

#include <stdio.h>

enum permission { NEEDS_NONE, NEEDS_USER, NEEDS_ADMIN, NEEDS_PROBE };
enum owner {
    OWNER_AUTH,
    OWNER_USERS,
    OWNER_CONVERSATION,
    OWNER_TOPICS,
    OWNER_SYNC,
    OWNER_QUEUE,
    OWNER_HEALTH
};
enum shard_by { SHARD_NONE, SHARD_PATH, SHARD_BODY };

struct route {
    enum ptn_method method;
    const char *pattern; /* `{}` is one segment */
    uint32_t kind;
    enum permission permission;
    enum owner owner;
    enum shard_by shard;
};

static const struct route routes[] = {
#define XX(method, pattern, kind, permission, owner, shard)                                        \
    {PTN_##method, pattern, PTN_MSG_ROUTE_##kind, NEEDS_##permission, OWNER_##owner, SHARD_##shard},
    PTN_ROUTE_MAP(XX)
#undef XX
};

/* ---- matching ----------------------------------------------------------------------------- */

/* The routes whose first segment may begin with a letter, as bits: of most paths few are left to be
 * compared with. */
struct route_index {
    uint64_t by_letter[32]; /* its low five bits */
};
_Static_assert(PTN_ARRAY_LEN(routes) <= 64, "one bit per route in struct route_index");

static void index_make(struct route_index *ret_index) {
    *ret_index = (struct route_index){0};
    for (size_t i = 0; i < PTN_ARRAY_LEN(routes); i++)
        ret_index->by_letter[routes[i].pattern[1] & 31] |= UINT64_C(1) << i;
}

static uint64_t candidates(const struct route_index *index, ptn_str path) {
    return path.n > 1 ? index->by_letter[path.p[1] & 31] : 0;
}

/* Segment by segment; a literal segment wins over `{}` because of the table's order. */
static bool pattern_fits(const char *pattern, ptn_str path) {
    const char *p = pattern;
    size_t i = 0;
    while (*p != '\0' && i < path.n) {
        if (p[0] == '{') {
            size_t begin = i;
            while (i < path.n && path.p[i] != '/')
                i++;
            if (i == begin)
                return false;
            p += 2;
        } else if (*p++ != path.p[i++]) {
            return false;
        }
    }
    return *p == '\0' && i == path.n;
}

static ptn_str below_base(ptn_str path) {
    ptn_str base = PTN_STR("/api/v1/");
    if (!ptn_str_starts(path, base))
        return path;
    return (ptn_str){path.p + base.n - 1, path.n - base.n + 1};
}

/* NULL: none; *ret_other is set when another method has this path. */
static const struct route *find_route(const struct route_index *index, enum ptn_method method,
                                      ptn_str path, bool admin_listener, bool *ret_other) {
    path = below_base(path);
    *ret_other = false;
    uint64_t others = 0; /* only looked at when there is none */
    for (uint64_t left = candidates(index, path); left != 0; left &= left - 1) {
        const struct route *r = &routes[__builtin_ctzll(left)];
        if (r->permission == NEEDS_PROBE && !admin_listener)
            continue;
        if (r->method != method)
            others |= left & -left;
        else if (pattern_fits(r->pattern, path))
            return r;
    }
    for (; others != 0 && !*ret_other; others &= others - 1)
        *ret_other = pattern_fits(routes[__builtin_ctzll(others)].pattern, path);
    return NULL;
}

static void list_methods(ptn_str path, bool admin_listener, char *out, size_t out_bytes) {
    size_t n = 0;
    out[0] = '\0';
    path = below_base(path);
    for (size_t i = 0; i < PTN_ARRAY_LEN(routes); i++) {
        const struct route *r = &routes[i];
        if ((r->permission == NEEDS_PROBE && !admin_listener) || !pattern_fits(r->pattern, path))
            continue;
        int k = snprintf(out + n, out_bytes - n, "%s%s", n > 0 ? ", " : "",
                         r->method == PTN_GET ? "GET, HEAD" : ptn_method_name(r->method));
        if (k < 0 || (size_t)k >= out_bytes - n)
            return;
        n += (size_t)k;
    }
    if (n > 0)
        (void)snprintf(out + n, out_bytes - n, ", OPTIONS");
}

int router_match(enum ptn_method method, ptn_str path, bool admin_listener, char *ret_allow,
                 size_t ret_allow_bytes) {
    struct route_index index;
    bool other;
    index_make(&index);
    const struct route *r = find_route(&index, method, path, admin_listener, &other);
    if (r != NULL)
        return (int)r->kind;
    if (!other)
        return 0;
    list_methods(path, admin_listener, ret_allow, ret_allow_bytes);
    return -1;
}

/* ---- choosing the actor -------------------------------------------------------------------- */

/* `current` and nothing at all mean the caller's default conversation, whose id is the caller's
 * own. */
static ptn_str conversation_key(const ptn_request *r, const struct route *route, char *buf,
                                size_t buf_bytes) {
    ptn_str key = {0};
    if (route->shard == SHARD_PATH)
        (void)ptn_path_segment(r->path, 1, buf, buf_bytes, &key);
    else
        (void)ptn_map_get_str(r->body, "conversationId", &key);
    if (key.n == 0 || ptn_str_eqz(key, "current"))
        return r->principal.user;
    return key;
}

static ptn_addr topic_owner(const struct router_config *cfg, ptn_str topic) {
    const ptn_directory *d = cfg->directory;
    return d->topics[ptn_shard(topic, d->workers)];
}

static ptn_addr owner_of(const struct router_config *cfg, const struct route *route,
                         const ptn_request *r) {
    const ptn_directory *d = cfg->directory;
    char buf[PTN_TOPIC_BYTES_MAX];
    ptn_str key = {0};
    switch (route->owner) {
    case OWNER_AUTH:
        return d->auth[cfg->worker];
    case OWNER_USERS:
        return d->users;
    case OWNER_QUEUE:
        return d->queue[cfg->worker];
    case OWNER_HEALTH:
        return d->health[cfg->worker];
    case OWNER_SYNC:
        return d->sync[cfg->worker];
    case OWNER_TOPICS: /* a name that does not decode goes anywhere: the owner refuses it */
        (void)ptn_path_segment(r->path, 1, buf, sizeof buf, &key);
        return topic_owner(cfg, key);
    case OWNER_CONVERSATION:
        if (route->shard == SHARD_NONE)
            return d->conversation[cfg->worker];
        key = conversation_key(r, route, buf, sizeof buf);
        return d->conversation[ptn_shard(key, d->workers)];
    }
    return PTN_ADDR_NONE;
}

/* ---- the actor ---------------------------------------------------------------------------- */

/* A path that does not have this method.  OPTIONS asks for those it has (RFC 9110 section 9.3.7).
 */
static void answer_method(ptn_ctx *c, ptn_reply_to to, const ptn_request *r) {
    char allow[64];
    list_methods(r->path, r->flags & PTN_REQ_ADMIN_LISTENER, allow, sizeof allow);
    if (r->method == PTN_OPTIONS) {
        ptn_pack w;
        ptn_pack_init(&w, 128);
        ptn_pack_array(&w, 5);
        ptn_pack_uint(&w, 204);
        ptn_pack_nil(&w);
        ptn_pack_map(&w, 1);
        ptn_pack_key(&w, "allow");
        ptn_pack_cstr(&w, allow);
        ptn_pack_nil(&w);
        ptn_pack_nil(&w);
        ptn_response_send(c, to, &w);
        return;
    }
    ptn_problem_send_field(c, to, PTN_CODE_METHOD_NOT_ALLOWED,
                           "this path does not have this method; details.allow lists those it has",
                           "allow", allow);
}

/* False: the problem has been sent. */
static bool is_user(ptn_ctx *c, const ptn_msg *m, ptn_str user) {
    if (user.n == 0)
        ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_UNAUTHENTICATED,
                         "this needs an access token: log in at POST /api/v1/auth/login and send "
                         "it as 'Authorization: Bearer <token>' (in a frame: member 'token')");
    return user.n > 0;
}

/* The same. */
static bool permitted(ptn_ctx *c, const ptn_msg *m, const struct route *route,
                      const ptn_request *r) {
    if (route->permission == NEEDS_NONE || route->permission == NEEDS_PROBE)
        return true;
    if (!is_user(c, m, r->principal.user))
        return false;
    if (route->permission == NEEDS_ADMIN && !(r->principal.roles & PTN_ROLE_ADMIN)) {
        ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_FORBIDDEN,
                         "this needs an account with the role admin");
        return false;
    }
    return true;
}

struct router {
    const struct router_config *config;
    struct route_index index;
};

static void hand_on(ptn_ctx *c, const ptn_msg *m, ptn_addr owner, uint32_t kind) {
    int err = ptn_forward(c, m, owner, kind);
    if (err < 0)
        ptn_problem_pass(c, ptn_reply_token(c, m), err, NULL);
}

static int on_request(ptn_ctx *c, const struct router *s, const ptn_msg *m) {
    ptn_request r;
    if (!ptn_request_unpack(ptn_msg_bytes(m), &r))
        return -PTN_EPROTO;
    bool other;
    const struct route *route =
        find_route(&s->index, r.method, r.path, r.flags & PTN_REQ_ADMIN_LISTENER, &other);
    if (route == NULL && other) {
        answer_method(c, ptn_reply_token(c, m), &r);
        return 0;
    }
    if (route == NULL) {
        ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_NOT_FOUND,
                         "no such path; the REST paths begin with /api/v1");
        return 0;
    }
    if (permitted(c, m, route, &r))
        hand_on(c, m, owner_of(s->config, route, &r), route->kind);
    return 0;
}

static int router_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    struct router *s = state;
    s->config = arg;
    index_make(&s->index);
    return 0;
}

static int router_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    if (m->type == PTN_MSG_REQUEST)
        return on_request(c, state, m);
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

const ptn_actor_ops router_actor = {.name = "router",
                                    .state_size = sizeof(struct router),
                                    .init = router_init,
                                    .handle = router_handle};
