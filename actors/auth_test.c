/* SPDX-License-Identifier: Apache-2.0
 *
 * auth_test.c - the auth actor: login, tokens, refresh, logout and their limits, on two workers
 * over a real database, in virtual time.
 *
 * A script actor runs one step after the other; a step checks the answer to the step before and
 * asks the next thing.
 */
#include "actors/auth_testing.h"

/* ---- the script -------------------------------------------------------------------------------
 */

static void run_step(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct fx *f = arg;
    (void)state, (void)t;
    step_fn step = f->steps[f->at++];
    if (step == NULL) {
        ptn_runtime_stop(ptn_ctx_runtime(c));
        return;
    }
    step(c, f);
    if (f->outstanding == 0)
        ptn_timer_start(c, &f->timer, PTN_MS, run_step, f);
}

static int script_init(ptn_ctx *c, void *state, void *arg) {
    struct fx *f = arg;
    *(void **)state = arg;
    ptn_timer_start(c, &f->timer, PTN_MS, run_step, f);
    return 0;
}

static int script_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops script_ops = {
    .name = "script", .state_size = sizeof(void *), .init = script_init, .handle = script_handle};

static int problem_code(const struct fx *f) {
    ptn_problem p;
    if (f->err != 0 || f->type != PTN_MSG_PROBLEM ||
        !ptn_problem_unpack(ptn_buf_bytes(f->answer), &p))
        return -1;
    return p.code;
}

static void answered(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct fx *f = arg;
    (void)state;
    ptn_buf_unref(f->answer);
    f->err = err;
    f->type = reply != NULL ? reply->type : 0;
    f->answer = reply != NULL ? ptn_buf_ref(reply->buf) : NULL;
    f->n_ok += f->type == PTN_MSG_RESPONSE || f->type == PTN_MSG_PRINCIPAL;
    f->n_overloaded += problem_code(f) == PTN_CODE_OVERLOADED;
    f->n_refused += problem_code(f) == PTN_CODE_UNAUTHENTICATED;
    f->n_limited += problem_code(f) == PTN_CODE_RATE_LIMITED;
    f->n_crashed += err == -PTN_ECRASHED;
    if (--f->outstanding == 0)
        ptn_timer_start(c, &f->timer, PTN_MS, run_step, f);
}

static void ask(ptn_ctx *c, struct fx *f, unsigned worker, uint32_t type, ptn_pack *w) {
    ptn_buf *b = ptn_pack_finish(w);
    cr_assert_not_null(b);
    f->outstanding++;
    ptn_time deadline = f->patience_ns > 0 ? ptn_now(c) + f->patience_ns : PTN_NEVER;
    cr_assert_eq(ptn_ask(c, f->d.auth[worker], type, b, deadline, answered, f, NULL), 0);
}

/* A request of a route; pairs of texts make the body, NULL ends them.  The caller's token is
 * checked by nobody here, as the router would have done it: session may be NULL. */
static void route(ptn_ctx *c, struct fx *f, uint32_t type, const char *session,
                  const char *const *pairs) {
    static const uint8_t trace[16] = {1};
    ptn_request r = {
        .method = PTN_POST, .path = PTN_STR("/api/v1/auth/x"), .trace_id = {trace, 16}};
    if (session != NULL)
        r.principal = (ptn_principal){.user = PTN_STR("u"),
                                      .name = PTN_STR("ann"),
                                      .session = ptn_str_of(session),
                                      .roles = PTN_ROLE_USER};
    uint32_t n = 0;
    while (pairs[n] != NULL)
        n++;
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_request_begin(&w, &r);
    ptn_pack_map(&w, n / 2);
    for (uint32_t i = 0; i < n; i++)
        ptn_pack_cstr(&w, pairs[i]);
    ask(c, f, f->first_worker, type, &w);
}

static void login(ptn_ctx *c, struct fx *f, const char *name, const char *password) {
    route(c, f, PTN_MSG_ROUTE_AUTH_LOGIN, NULL,
          (const char *const[]){"username", name, "password", password, NULL});
}

static void refresh(ptn_ctx *c, struct fx *f, const char *token) {
    route(c, f, PTN_MSG_ROUTE_AUTH_REFRESH, NULL,
          (const char *const[]){"refreshToken", token, NULL});
}

static void token(ptn_ctx *c, struct fx *f, unsigned worker, const char *text) {
    ptn_pack w;
    ptn_pack_init(&w, 512);
    ptn_pack_array(&w, 1);
    ptn_pack_cstr(&w, text);
    ask(c, f, worker, PTN_MSG_AUTH_TOKEN, &w);
}

static void text_of(ptn_bytes map, const char *key, char *out, size_t out_bytes) {
    ptn_str s;
    cr_assert(ptn_map_get_str(map, key, &s), "%s is missing", key);
    cr_assert_lt(s.n, out_bytes);
    memcpy(out, s.p, s.n);
    out[s.n] = '\0';
}

/* The last answer must be 200 with a pair of tokens. */
static void take_tokens(struct fx *f) {
    ptn_response r;
    cr_assert_eq(f->err, 0);
    cr_assert_eq(f->type, PTN_MSG_RESPONSE, "problem %d", problem_code(f));
    cr_assert(ptn_response_unpack(ptn_buf_bytes(f->answer), &r));
    cr_assert_eq(r.status, 200);
    memcpy(f->old_refresh, f->refresh, sizeof f->refresh);
    text_of(r.data, "accessToken", f->access, sizeof f->access);
    text_of(r.data, "refreshToken", f->refresh, sizeof f->refresh);
}

static void expect_problem(const struct fx *f, int code) {
    cr_assert_eq(f->err, 0, "error %d", f->err);
    cr_assert_eq(problem_code(f), code, "type %s, code %d", ptn_msg_type_name(f->type),
                 problem_code(f));
}

static void expect_principal(const struct fx *f, const char *name) {
    ptn_principal p;
    cr_assert_eq(f->type, PTN_MSG_PRINCIPAL, "problem %d, error %d", problem_code(f), f->err);
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(f->answer));
    cr_assert(ptn_principal_unpack(&u, &p));
    cr_assert(ptn_str_eqz(p.name, name));
}

/* ---- the fixture ------------------------------------------------------------------------------
 */

static void user_make(struct fx *f, const char *name, const char *password) {
    char hash[PASSWORD_HASH_BYTES] = "", id[64];
    if (password != NULL)
        cr_assert_eq(password_hash(ptn_str_of(password), hash, sizeof hash), 0);
    (void)snprintf(id, sizeof id, "id-%s", name);
    ptn_pack w;
    uint32_t type;
    ptn_pack_init(&w, 256);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, id);
    ptn_pack_cstr(&w, name);
    ptn_pack_cstr(&w, hash);
    ptn_pack_uint(&w, PTN_ROLE_USER);
    ptn_pack_cstr(&w, "home");
    ptn_pack_int(&w, 1);
    ptn_buf *b = ptn_pack_finish(&w);
    ptn_buf *reply = store_db_execute(f->db, PTN_MSG_STORE_USER_ADD, ptn_buf_bytes(b), &type);
    cr_assert_eq(type, PTN_MSG_STORE_USER);
    ptn_buf_unref(reply);
    ptn_buf_unref(b);
}

static void run(struct fx *f, const step_fn *steps) {
    const char *why = NULL;
    memset(f->key, 7, sizeof f->key);
    f->steps = steps;
    test_dir_open(&f->dir);
    cr_assert_eq(store_db_open(f->dir.db, &(store_db_opts){0}, &f->db, &why), 0, "%s", why);
    user_make(f, "ann", PASSWORD);
    user_make(f, "nologin", NULL);
    rig_open(&f->rig, 2);
    f->d.workers = 2;
    f->d.store = rig_spawn(&f->rig, &store_ops, f, 0, PTN_PERMANENT);
    for (unsigned i = 0; i < 2; i++) {
        f->config[i] = (auth_config){
            .directory = &f->d, .worker = i, .key = f->key, .key_bytes = sizeof f->key};
        f->d.edge[i] = rig_spawn(&f->rig, &edge_ops, &f->edge[i], (int)i, PTN_PERMANENT);
        f->d.auth[i] = rig_spawn(&f->rig, &auth_actor, &f->config[i], (int)i, PTN_PERMANENT);
    }
    (void)rig_spawn(&f->rig, &script_ops, f, 0, PTN_PERMANENT);
    cr_assert_eq(ptn_runtime_run(f->rig.rt), 0);
    cr_expect_null(steps[f->at - 1], "the script ran to its end");
    ptn_buf_unref(f->answer);
    rig_close(&f->rig);
    store_db_close(f->db);
    test_dir_close(&f->dir);
    cr_expect_eq(buf_live(), 0, "payloads leaked");
}

/* ---- login and tokens -------------------------------------------------------------------------
 */

static void ann_logs_in(ptn_ctx *c, struct fx *f) {
    login(c, f, "ann", PASSWORD);
}
static void ann_shows_token_on_0(ptn_ctx *c, struct fx *f) {
    ptn_response r;
    ptn_bytes user;
    int64_t expires;
    ptn_str s;
    take_tokens(f);
    cr_assert(ptn_response_unpack(ptn_buf_bytes(f->answer), &r));
    cr_expect(ptn_map_get_int(r.data, "expiresIn", &expires) && expires == 900);
    cr_expect(ptn_map_get_str(r.data, "tokenType", &s) && ptn_str_eqz(s, "Bearer"));
    cr_assert(ptn_map_get(r.data, "user", &user));
    cr_expect(ptn_map_get_str(user, "username", &s) && ptn_str_eqz(s, "ann"));
    cr_expect(ptn_map_get_str(user, "household", &s) && ptn_str_eqz(s, "home"));
    cr_expect(ptn_map_get_str(user, "id", &s) && ptn_str_eqz(s, "id-ann"));
    token(c, f, 0, f->access);
}
static void token_on_1(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    token(c, f, 1, f->access);
}
static void token_again(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    token(c, f, 1, f->access); /* from the cache */
}
static void token_tampered(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    f->access[strlen(f->access) - 10] ^= 1;
    token(c, f, 1, f->access);
}
static void tampered_refused(ptn_ctx *c, struct fx *f) {
    (void)c;
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
}

Test(auth, login_gives_tokens_that_every_worker_accepts) {
    static struct fx f;
    run(&f, (const step_fn[]){ann_logs_in, ann_shows_token_on_0, token_on_1, token_again,
                              token_tampered, tampered_refused, NULL});
}

static void wrong_password(ptn_ctx *c, struct fx *f) {
    login(c, f, "ann", "wrong");
}
static void unknown_name(ptn_ctx *c, struct fx *f) {
    ptn_problem p;
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
    cr_assert(ptn_problem_unpack(ptn_buf_bytes(f->answer), &p));
    (void)snprintf(f->message, sizeof f->message, "%.*s", (int)p.message.n, p.message.p);
    login(c, f, "nobody", PASSWORD);
}
static void account_without_password(ptn_ctx *c, struct fx *f) {
    ptn_problem p;
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
    cr_assert(ptn_problem_unpack(ptn_buf_bytes(f->answer), &p));
    cr_expect(ptn_str_eqz(p.message, f->message), "an unknown name must get the same answer");
    login(c, f, "nologin", "whatever1");
}
static void missing_password(ptn_ctx *c, struct fx *f) {
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
    route(c, f, PTN_MSG_ROUTE_AUTH_LOGIN, NULL, (const char *const[]){"username", "ann", NULL});
}
static void with_otp(ptn_ctx *c, struct fx *f) {
    ptn_problem p;
    ptn_str reason;
    expect_problem(f, PTN_CODE_VALIDATION_FAILED);
    cr_assert(ptn_problem_unpack(ptn_buf_bytes(f->answer), &p));
    cr_expect(ptn_map_get_str(p.details, "password", &reason) && ptn_str_eqz(reason, "required"));
    route(c, f, PTN_MSG_ROUTE_AUTH_LOGIN, NULL,
          (const char *const[]){"username", "ann", "password", PASSWORD, "otp", "123456", NULL});
}
static void with_empty_otp(ptn_ctx *c, struct fx *f) {
    ptn_problem p;
    ptn_str reason;
    expect_problem(f, PTN_CODE_VALIDATION_FAILED);
    cr_assert(ptn_problem_unpack(ptn_buf_bytes(f->answer), &p));
    cr_expect(ptn_map_get_str(p.details, "otp", &reason));
    route(c, f, PTN_MSG_ROUTE_AUTH_LOGIN, NULL,
          (const char *const[]){"username", "ann", "password", PASSWORD, "otp", "", NULL});
}
static void no_refresh_token(ptn_ctx *c, struct fx *f) {
    take_tokens(f);
    route(c, f, PTN_MSG_ROUTE_AUTH_REFRESH, NULL, (const char *const[]){NULL});
}
static void bad_refresh_token(ptn_ctx *c, struct fx *f) {
    expect_problem(f, PTN_CODE_VALIDATION_FAILED);
    refresh(c, f, "nonsense");
}
static void refused_refresh_token(ptn_ctx *c, struct fx *f) {
    (void)c;
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
}

Test(auth, refusals_do_not_tell_who_exists) {
    static struct fx f;
    f.first_worker = 1;
    run(&f, (const step_fn[]){wrong_password, unknown_name, account_without_password,
                              missing_password, with_otp, with_empty_otp, no_refresh_token,
                              bad_refresh_token, refused_refresh_token, NULL});
}

static void many_wrong(ptn_ctx *c, struct fx *f) {
    for (unsigned i = 0; i < AUTH_FAILURES_MAX + 4; i++)
        login(c, f, "ann", "wrong");
}
static void right_but_limited(ptn_ctx *c, struct fx *f) {
    /* no more guesses beyond the tenth than hashings were running when it failed */
    cr_expect_geq(f->n_limited, 4 - (AUTH_HASHINGS_MAX - 1));
    f->first_worker = 1; /* the other worker must know too */
    login(c, f, "ann", PASSWORD);
}
static void wait_for_window(ptn_ctx *c, struct fx *f) {
    expect_problem(f, PTN_CODE_RATE_LIMITED);
    f->outstanding = 1;
    ptn_timer_start(c, &f->timer, 61 * PTN_SEC, run_step, f);
}
static void right_again(ptn_ctx *c, struct fx *f) {
    f->outstanding = 0;
    login(c, f, "ann", PASSWORD);
}
static void let_in(ptn_ctx *c, struct fx *f) {
    (void)c;
    take_tokens(f);
}

Test(auth, ten_failures_of_a_name_close_it_for_a_minute) {
    static struct fx f;
    run(&f, (const step_fn[]){many_wrong, right_but_limited, wait_for_window, right_again, let_in,
                              NULL});
}

/* ---- refresh and logout -----------------------------------------------------------------------
 */

static void first_refresh(ptn_ctx *c, struct fx *f) {
    take_tokens(f);
    refresh(c, f, f->refresh);
}
static void new_token_counts(ptn_ctx *c, struct fx *f) {
    take_tokens(f);
    cr_expect_str_neq(f->refresh, f->old_refresh);
    token(c, f, 0, f->access);
}
static void old_refresh_again(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    refresh(c, f, f->old_refresh);
}
static void both_edges_were_told(const struct fx *f) {
    for (unsigned i = 0; i < 2; i++) {
        cr_expect_eq(f->edge[i].n, 1, "edge %u was told %u times", i, f->edge[i].n);
        cr_expect_eq(strncmp(f->edge[i].session[0], f->refresh, PTN_ULID_LEN), 0);
    }
}
static void family_is_revoked_on_0(ptn_ctx *c, struct fx *f) {
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
    both_edges_were_told(f);
    token(c, f, 0, f->access); /* was in the cache */
}
static void family_is_revoked_on_1(ptn_ctx *c, struct fx *f) {
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
    token(c, f, 1, f->access);
}
static void new_refresh_is_dead_too(ptn_ctx *c, struct fx *f) {
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
    refresh(c, f, f->refresh);
}

Test(auth, a_refresh_token_used_twice_revokes_the_family) {
    static struct fx f;
    run(&f, (const step_fn[]){ann_logs_in, first_refresh, new_token_counts, old_refresh_again,
                              family_is_revoked_on_0, family_is_revoked_on_1,
                              new_refresh_is_dead_too, refused_refresh_token, NULL});
}

static void logout(ptn_ctx *c, struct fx *f) {
    char session[PTN_ULID_LEN + 1];
    expect_principal(f, "ann");
    memcpy(session, f->refresh, PTN_ULID_LEN);
    session[PTN_ULID_LEN] = '\0';
    route(c, f, PTN_MSG_ROUTE_AUTH_LOGOUT, session, (const char *const[]){NULL});
}
static void logged_out(ptn_ctx *c, struct fx *f) {
    ptn_response r;
    cr_assert_eq(f->type, PTN_MSG_RESPONSE);
    cr_assert(ptn_response_unpack(ptn_buf_bytes(f->answer), &r));
    cr_expect_eq(r.status, 200);
    cr_expect_eq(ptn_kind_of(r.data), PTN_KIND_NIL);
    token(c, f, 0, f->access);
}
static void crash_verifier(ptn_ctx *c, struct fx *f) {
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
    f->load_failures = 2; /* the new incarnation has to try three times */
    f->loads = 0;
    ptn_buf *b = ptn_buf_copy("\xc0", 1); /* nil is no AUTH_TOKEN payload */
    cr_assert_eq(ptn_cast(c, f->d.auth[0], PTN_MSG_AUTH_TOKEN, b), 0);
}
static void token_after_restart(ptn_ctx *c, struct fx *f) {
    cr_expect_eq(f->rig.crashes, 1);
    token(c, f, 0, f->access); /* waits until the revocations are there */
}
static void still_revoked(ptn_ctx *c, struct fx *f) {
    (void)c;
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
    cr_expect_eq(f->loads, 3);
}

Test(auth, a_revoked_session_stays_revoked_after_a_crash) {
    static struct fx f;
    run(&f, (const step_fn[]){ann_logs_in, ann_shows_token_on_0, token_on_1, logout, logged_out,
                              family_is_revoked_on_1, crash_verifier, token_after_restart,
                              still_revoked, NULL});
}

/* ---- a store that answers when nobody waits any more ------------------------------------------
 */

static void impatient(struct fx *f, uint32_t type) {
    f->late_type = type;
    f->patience_ns = PTN_SEC;
}
static void old_refresh_again_impatiently(ptn_ctx *c, struct fx *f) {
    impatient(f, PTN_MSG_STORE_SESSION_ROTATE);
    old_refresh_again(c, f);
}
static void logout_impatiently(ptn_ctx *c, struct fx *f) {
    impatient(f, PTN_MSG_STORE_SESSION_REVOKE);
    logout(c, f);
}
static void in_vain_until_the_answer(ptn_ctx *c, struct fx *f) {
    cr_expect_eq(f->err, -PTN_EDEADLINE, "%s", ptn_err_name(f->err));
    cr_expect_eq(f->edge[0].n + f->edge[1].n, 0, "nobody can know yet");
    f->patience_ns = 0;
    f->outstanding = 1;
    ptn_timer_start(c, &f->timer,
                    f->late_ns > 0 ? f->late_ns - PTN_SEC + 20 * PTN_MS : 31 * PTN_SEC, run_step,
                    f);
}
static void everybody_has_heard(ptn_ctx *c, struct fx *f) {
    f->outstanding = 0;
    both_edges_were_told(f);
    token(c, f, 0, f->access);
}

Test(auth, a_late_answer_to_a_refresh_ends_the_session_everywhere) {
    static struct fx f;
    f.late_ns = 5 * PTN_SEC;
    run(&f, (const step_fn[]){ann_logs_in, first_refresh, new_token_counts,
                              old_refresh_again_impatiently, in_vain_until_the_answer,
                              everybody_has_heard, family_is_revoked_on_1, refused_refresh_token,
                              NULL});
}

Test(auth, a_late_answer_to_a_logout_ends_the_session_everywhere) {
    static struct fx f;
    f.late_ns = 5 * PTN_SEC;
    run(&f, (const step_fn[]){ann_logs_in, ann_shows_token_on_0, logout_impatiently,
                              in_vain_until_the_answer, everybody_has_heard, family_is_revoked_on_1,
                              refused_refresh_token, NULL});
}

Test(auth, an_answer_that_never_comes_is_looked_up) {
    static struct fx f;
    run(&f, (const step_fn[]){ann_logs_in, first_refresh, new_token_counts,
                              old_refresh_again_impatiently, in_vain_until_the_answer,
                              everybody_has_heard, family_is_revoked_on_1, refused_refresh_token,
                              NULL});
}

static void logout_without_session(ptn_ctx *c, struct fx *f) {
    route(c, f, PTN_MSG_ROUTE_AUTH_LOGOUT, "", (const char *const[]){NULL});
}
static void told_so(ptn_ctx *c, struct fx *f) {
    ptn_response r;
    bool ended = true;
    (void)c;
    cr_assert_eq(f->type, PTN_MSG_RESPONSE);
    cr_assert(ptn_response_unpack(ptn_buf_bytes(f->answer), &r));
    cr_expect(ptn_map_get_bool(r.data, "sessionEnded", &ended) && !ended);
}

Test(auth, logout_of_a_token_without_session_says_so) {
    static struct fx f;
    run(&f, (const step_fn[]){logout_without_session, told_so, NULL});
}

/* ---- time and bounds --------------------------------------------------------------------------
 */

static void wait_for_expiry(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    f->outstanding = 1;
    ptn_timer_start(c, &f->timer, 901 * PTN_SEC, run_step, f);
}
static void expired_token(ptn_ctx *c, struct fx *f) {
    f->outstanding = 0;
    token(c, f, 0, f->access);
}
static void told_expired(ptn_ctx *c, struct fx *f) {
    (void)c;
    expect_problem(f, PTN_CODE_TOKEN_EXPIRED);
}

Test(auth, an_expired_token_is_told_apart_even_from_the_cache) {
    static struct fx f;
    run(&f, (const step_fn[]){ann_logs_in, ann_shows_token_on_0, wait_for_expiry, expired_token,
                              told_expired, NULL});
}

static void token_before_load(ptn_ctx *c, struct fx *f) {
    char text[1024];
    ptn_principal p = {.user = PTN_STR("id-ann"), .name = PTN_STR("ann"), .roles = PTN_ROLE_USER};
    int64_t now_ms = ptn_wall_ms(c);
    cr_assert_gt(
        jwt_sign(f->key, sizeof f->key, &p, (ptn_str){0}, now_ms, now_ms + 5000, text, sizeof text),
        0);
    token(c, f, 0, text); /* no session: it waits for the changed passwords */
    cr_assert_eq(f->loads, 2, "both verifiers have failed to load");
    p.session = PTN_STR("01ARZ3NDEKTSV4RRFFQ69G5FAV");
    cr_assert_gt(
        jwt_sign(f->key, sizeof f->key, &p, (ptn_str){0}, now_ms, now_ms + 5000, text, sizeof text),
        0);
    for (unsigned i = 0; i < AUTH_WAITING_MAX + 10; i++)
        token(c, f, 0, text);
}
static void all_but_eleven(ptn_ctx *c, struct fx *f) {
    (void)c;
    cr_expect_eq(f->n_overloaded, 11);
    cr_expect_eq(f->n_ok, AUTH_WAITING_MAX);
}

Test(auth, tokens_wait_until_revocations_are_known) {
    static struct fx f;
    f.load_failures = 2;
    run(&f, (const step_fn[]){token_before_load, all_but_eleven, NULL});
}

/* ---- what the command line writes while the broker runs ---------------------------------------
 */

static void rest(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    f->outstanding = 1;
    ptn_timer_start(c, &f->timer, 30 * PTN_SEC, run_step, f);
}
/* As `postern user passwd` does it, beside the broker. */
static void change_password(ptn_ctx *c, struct fx *f) {
    uint32_t type;
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 3);
    ptn_pack_cstr(&w, "id-ann");
    ptn_pack_cstr(&w, "no hash");
    ptn_pack_int(&w, ptn_wall_ms(c));
    ptn_buf *b = ptn_pack_finish(&w);
    ptn_buf *reply = store_db_execute(f->db, PTN_MSG_STORE_USER_PASSWORD, ptn_buf_bytes(b), &type);
    cr_assert_neq(type, PTN_MSG_PROBLEM);
    ptn_buf_unref(reply);
    ptn_buf_unref(b);
}
static void three_old_tokens_in_one_turn(ptn_ctx *c, struct fx *f) {
    f->outstanding = 0;
    change_password(c, f);
    f->n_ok = 0;
    for (unsigned i = 0; i < 3; i++)
        token(c, f, 0, f->access);
}
static void all_refused(ptn_ctx *c, struct fx *f) {
    (void)c;
    cr_expect_eq(f->n_ok, 0);
    cr_expect_eq(f->n_refused, 3);
}
/* Nobody has asked the other worker. */
static void both_edges_close(ptn_ctx *c, struct fx *f) {
    (void)c;
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(f->edge[i].n, 2, "edge %u was told %u times", i, f->edge[i].n);
        cr_expect_eq(strncmp(f->edge[i].session[0], f->refresh, PTN_ULID_LEN), 0);
        cr_expect_str_eq(f->edge[i].session[1], "", "and of tokens without a session");
    }
}

Test(auth, after_a_rest_every_question_waits_for_what_was_written) {
    static struct fx f;
    run(&f, (const step_fn[]){ann_logs_in, ann_shows_token_on_0, rest, three_old_tokens_in_one_turn,
                              all_refused, both_edges_close, NULL});
}

static void short_rest(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    f->outstanding = 1;
    ptn_timer_start(c, &f->timer, 750 * PTN_MS, run_step, f);
}
static void all_passed_in_order(ptn_ctx *c, struct fx *f) {
    cr_expect_eq(f->n_ok, 3, "none waited for the look, behind the others");
    f->n_refused = 0;
    f->outstanding = 1;
    ptn_timer_start(c, &f->timer, 100 * PTN_MS, run_step, f);
}
static void three_more(ptn_ctx *c, struct fx *f) {
    f->outstanding = 0;
    f->n_ok = 0;
    for (unsigned i = 0; i < 3; i++)
        token(c, f, 0, f->access);
}

Test(auth, under_traffic_nobody_waits_for_a_look_and_is_overtaken) {
    static struct fx f;
    run(&f, (const step_fn[]){ann_logs_in, ann_shows_token_on_0, short_rest,
                              three_old_tokens_in_one_turn, all_passed_in_order, three_more,
                              all_refused, NULL});
}

static void store_is_in_trouble(ptn_ctx *c, struct fx *f) {
    f->outstanding = 0;
    change_password(c, f);
    f->loads = 0;
    f->load_failures = 3;
    token(c, f, 0, f->access);
}
static void passes_at_once(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    cr_expect_eq(f->loads, 1);
    token(c, f, 0, f->access);
}
static void asks_after_the_retries(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    cr_expect_eq(f->loads, 1, "questions do not hurry a store in trouble");
    f->outstanding = 1;
    ptn_timer_start(c, &f->timer, PTN_SEC, run_step, f);
}
static void old_token_in_the_end(ptn_ctx *c, struct fx *f) {
    f->outstanding = 0;
    cr_expect_eq(f->load_failures, 0, "tried again by itself");
    token(c, f, 0, f->access);
}
static void refused_in_the_end(ptn_ctx *c, struct fx *f) {
    (void)c;
    expect_problem(f, PTN_CODE_UNAUTHENTICATED);
}

Test(auth, a_store_in_trouble_stops_nobody_and_what_was_written_counts_after_it) {
    static struct fx f;
    run(&f, (const step_fn[]){ann_logs_in, ann_shows_token_on_0, rest, store_is_in_trouble,
                              passes_at_once, asks_after_the_retries, old_token_in_the_end,
                              refused_in_the_end, NULL});
}

static void store_is_gone(ptn_ctx *c, struct fx *f) {
    f->outstanding = 0;
    f->d.store = (ptn_addr){0};
    f->asked_at = ptn_now(c);
    token(c, f, 0, f->access);
}
static void passes_without_a_wait(ptn_ctx *c, struct fx *f) {
    expect_principal(f, "ann");
    cr_expect_lt(ptn_now(c) - f->asked_at, 10 * PTN_MS);
}

Test(auth, a_store_that_cannot_even_be_asked_stops_nobody) {
    static struct fx f;
    run(&f, (const step_fn[]){ann_logs_in, ann_shows_token_on_0, rest, store_is_gone,
                              passes_without_a_wait, NULL});
}

static void too_many_logins(ptn_ctx *c, struct fx *f) {
    f->store_silent = true;
    f->first_worker = ptn_shard(PTN_STR("ann"), 2);
    for (unsigned i = 0; i < AUTH_LOGINS_MAX + 5; i++)
        login(c, f, "ann", PASSWORD);
}
static void five_overloaded(ptn_ctx *c, struct fx *f) {
    (void)c;
    cr_expect_eq(f->n_overloaded, 5);
}

Test(auth, logins_are_bounded) {
    static struct fx f;
    run(&f, (const step_fn[]){too_many_logins, five_overloaded, NULL});
}

static void logins_then_crash(ptn_ctx *c, struct fx *f) {
    unsigned worker = ptn_shard(PTN_STR("ann"), 2);
    f->first_worker = worker;
    for (unsigned i = 0; i < 8; i++)
        login(c, f, "ann", PASSWORD);
    ptn_buf *b = ptn_buf_copy("\xc0", 1);
    cr_assert_eq(ptn_cast(c, f->d.auth[worker], PTN_MSG_AUTH_TOKEN, b), 0);
}
static void all_crashed(ptn_ctx *c, struct fx *f) {
    cr_expect_eq(f->n_crashed, 8);
    login(c, f, "ann", PASSWORD);
}

Test(auth, a_crash_ends_logins_and_the_next_one_works) {
    static struct fx f;
    run(&f, (const step_fn[]){logins_then_crash, all_crashed, let_in, NULL});
}
