/* SPDX-License-Identifier: Apache-2.0
 *
 * replay.c - postern-replay: real chat days through all three protocols, and the proof that nothing
 * was lost, doubled or reordered.
 *
 * A day is a conversation, a nick is a person; people send by REST, WebSocket and ZeroMQ in turn, a
 * window of messages is in flight.  WebSocket subscribers (JSON and msgpack by turns) and one
 * ZeroMQ subscriber follow all days.  One thread, epoll, a broker of its own for each round.
 * bench/common_proof.h says what is checked; the texts are compared byte for byte besides.
 */
#include "bench/common_replay.h"

#include "actors/jwt.h"
#include "broker/keys.h"

#include <getopt.h>
#include <postern/codec.h>
#include <postern/messages.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define STALL_NS (20 * PTN_SEC)
#define TOKEN_TTL_MS (INT64_C(12) * 3600 * 1000)
#define SUBSCRIBE_TOPICS 100u

/* ---- setup --------------------------------------------------------------------------------- */

static void batch_done(struct replay *r, unsigned status, ptn_bytes body, const char *what,
                       char *out, size_t out_bytes) {
    ptn_buf *b = replay_decoded(r, body);
    ptn_bytes data;
    ptn_str id;
    if (status < 200 || status > 299 || !ptn_map_get(ptn_buf_bytes(b), "data", &data) ||
        !ptn_map_get_str(data, "id", &id) || id.n >= out_bytes)
        bench_die("%s: status %u: %.*s", what, status, (int)(body.n < 400 ? body.n : 400),
                  (const char *)body.p);
    (void)snprintf(out, out_bytes, "%.*s", (int)id.n, id.p);
    (void)ptn_buf_unref(b);
    r->n_batch_done++;
}

static void on_user_added(struct replay *r, uint64_t tag, unsigned status, ptn_bytes body) {
    batch_done(r, status, body, "POST /admin/users", r->people[tag].id, sizeof r->people->id);
}

static void on_conversation_added(struct replay *r, uint64_t tag, unsigned status, ptn_bytes body) {
    char *id = tag < r->chat.n_days ? r->conversations[tag].id : r->probes[tag - r->chat.n_days];
    batch_done(r, status, body, "POST /conversations", id, sizeof r->conversations->id);
}

static void on_probe_sent(struct replay *r, uint64_t tag, unsigned status, ptn_bytes body) {
    (void)tag;
    char id[64];
    batch_done(r, status, body, "a message to a probe conversation", id, sizeof id);
}

/* Runs n requests of one kind, as many at a time as the window allows. */
static void
batch(struct replay *r, size_t n, const char *path, void (*body)(struct replay *r, size_t i),
      void (*on_http)(struct replay *r, uint64_t tag, unsigned status, ptn_bytes body)) {
    r->n_batch = r->n_batch_done = 0;
    r->on_http = on_http;
    uint64_t last = bench_now_ns();
    for (size_t done = 0; r->n_batch_done < n;) {
        while (r->n_batch < n && r->n_batch - r->n_batch_done < r->o.window) {
            ptn_out_clear(&r->text);
            body(r, r->n_batch);
            replay_http_request(r, path, r->broker.token, replay_out_str(&r->text), r->n_batch++);
        }
        replay_turn(r, 100);
        replay_progress("setting up", r->n_batch_done);
        if (r->n_batch_done != done)
            last = bench_now_ns();
        else if (bench_now_ns() - last > STALL_NS)
            bench_die("%s: no answer", path);
        done = r->n_batch_done;
    }
}

/* Accounts have names of their own: nicks differ in ways that user names may not. */
static void account_name(const struct replay *r, size_t i, char out[32]) {
    (void)snprintf(out, 32, i < r->chat.n_people ? "person-%zu" : "subscriber-%zu",
                   i < r->chat.n_people ? i : i - r->chat.n_people);
}

static void user_body(struct replay *r, size_t i) {
    char name[32];
    account_name(r, i, name);
    replay_put_member(&r->text, "{\"password\":null,\"username\":", ptn_str_of(name));
    replay_put(&r->text, "}");
}

static void conversation_body(struct replay *r, size_t i) {
    if (i >= r->chat.n_days) {
        replay_put(&r->text, "{\"title\":\"probe\",\"members\":[]}");
        return;
    }
    const struct chat_day *d = &r->chat.days[i];
    replay_put_member(&r->text, "{\"title\":", ptn_str_of(d->name));
    for (uint32_t k = 0; k < d->n_people; k++)
        replay_put_member(&r->text, k == 0 ? ",\"members\":[" : ",",
                          ptn_str_of(r->people[d->people[k]].id));
    for (unsigned k = 0; k < r->o.subscribers; k++)
        replay_put_member(&r->text, ",", ptn_str_of(r->people[r->chat.n_people + k].id));
    replay_put(&r->text, "]}");
}

static void sign_tokens(struct replay *r) {
    uint8_t key[KEYS_TOKEN_BYTES];
    struct config_error e;
    if (keys_load(r->broker.dir, key, &e) < 0)
        bench_die("%s", e.text);
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    int64_t now_ms = (int64_t)t.tv_sec * 1000;
    for (size_t i = 0; i < r->n_people; i++) {
        char name[32];
        account_name(r, i, name);
        const ptn_principal p = {
            .user = ptn_str_of(r->people[i].id), .name = ptn_str_of(name), .roles = PTN_ROLE_USER};
        int n = jwt_sign(key, sizeof key, &p, (ptn_str){NULL, 0}, now_ms, now_ms + TOKEN_TTL_MS,
                         r->people[i].token, sizeof r->people->token);
        if (n < 0)
            bench_die("a token for %s: %s", name, ptn_err_text(n));
    }
    explicit_bzero(key, sizeof key);
}

static void open_senders(struct replay *r) {
    for (size_t i = 0; i < r->chat.n_people; i++) {
        if (replay_protocol_of((uint32_t)i) != BY_WS)
            continue;
        bench_ws_open(&r->people[i].ws, r->broker.http, NULL, r->people[i].token,
                      "postern.v1.json");
        replay_watch(r, r->people[i].ws.fd, SOURCE_SENDER, i);
    }
}

static void open_zmq(struct replay *r) {
    int zero = 0;
    r->zmq = zmq_ctx_new();
    r->dealer = zmq_socket(r->zmq, ZMQ_DEALER);
    r->sub = zmq_socket(r->zmq, ZMQ_SUB);
    void *const sockets[] = {r->dealer, r->sub};
    for (size_t i = 0; i < PTN_ARRAY_LEN(sockets); i++) {
        int fd = -1;
        size_t len = sizeof fd;
        if (sockets[i] == NULL || zmq_setsockopt(sockets[i], ZMQ_LINGER, &zero, sizeof zero) != 0 ||
            zmq_setsockopt(sockets[i], ZMQ_RCVHWM, &zero, sizeof zero) != 0 ||
            zmq_connect(sockets[i], i == 0 ? r->broker.zmq : r->broker.zmq_events) != 0 ||
            zmq_getsockopt(sockets[i], ZMQ_FD, &fd, &len) != 0)
            bench_die("ZeroMQ: %s", zmq_strerror(zmq_errno()));
        replay_watch(r, fd, SOURCE_ZMQ, i);
    }
    if (zmq_setsockopt(r->sub, ZMQ_SUBSCRIBE, "conversation.", 13) != 0)
        bench_die("ZeroMQ: %s", zmq_strerror(zmq_errno()));
}

static void send_subscribe(struct replay *r, struct replay_subscriber *s, size_t from, size_t to) {
    ptn_out_clear(&r->text);
    replay_put(&r->text, "{\"type\":\"subscribe\",\"topics\":[");
    for (size_t i = from; i < to; i++) {
        char topic[96];
        (void)snprintf(topic, sizeof topic, "conversation.%s", r->conversations[i].id);
        replay_put_member(&r->text, i == from ? "" : ",", ptn_str_of(topic));
    }
    replay_put(&r->text, "]}");
    ptn_str json = replay_out_str(&r->text);
    if (!s->msgpack) {
        bench_ws_send(&s->ws, 1, json.p, json.n);
        return;
    }
    ptn_buf *b = replay_decoded(r, (ptn_bytes){(const uint8_t *)json.p, json.n});
    bench_ws_send(&s->ws, 2, ptn_buf_bytes(b).p, ptn_buf_bytes(b).n);
    (void)ptn_buf_unref(b);
}

static void subscribe_all(struct replay *r) {
    uint64_t end = bench_now_ns() + STALL_NS;
    for (unsigned k = 0; k < r->o.subscribers; k++) {
        struct replay_subscriber *s = &r->subscribers[k];
        s->msgpack = k % 2 == 1;
        bench_ws_open(&s->ws, r->broker.http, NULL, r->people[r->chat.n_people + k].token,
                      s->msgpack ? "postern.v1.msgpack" : "postern.v1.json");
        replay_watch(r, s->ws.fd, SOURCE_SUBSCRIBER, k);
        for (size_t i = 0; i < r->chat.n_days; i += SUBSCRIBE_TOPICS) {
            size_t to = i + SUBSCRIBE_TOPICS;
            send_subscribe(r, s, i, to < r->chat.n_days ? to : r->chat.n_days);
        }
        replay_read_subscriber(r, k); /* the buffer may hold frames that came with the upgrade */
        while (s->n_subscribed < r->chat.n_days) {
            replay_turn(r, 100);
            if (bench_now_ns() > end)
                bench_die("subscriber %u: %u of %zu subscriptions were answered", k,
                          s->n_subscribed, r->chat.n_days);
        }
    }
}

static void probe_body(struct replay *r, size_t i) {
    (void)i;
    replay_put(&r->text, "{\"type\":\"text\",\"content\":\"probe\"}");
}

/* SUB has no acknowledgement: messages to the probes until one of each has come. */
static void wait_zmq_subscribed(struct replay *r) {
    uint64_t end = bench_now_ns() + STALL_NS;
    for (size_t i = 0; i < REPLAY_PROBES;) {
        char path[160];
        (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/messages", r->probes[i]);
        batch(r, 1, path, probe_body, on_probe_sent);
        for (int k = 0; k < 20 && !r->probe_seen[i]; k++)
            replay_turn(r, 5);
        i += r->probe_seen[i];
        if (bench_now_ns() > end)
            bench_die("the ZeroMQ subscriber hears nothing");
    }
}

static void setup(struct replay *r) {
    char workers[32];
    const char *set[] = {workers};
    (void)snprintf(workers, sizeof workers, "workers=%.16s",
                   r->o.workers != NULL ? r->o.workers : "0");
    bench_broker_start(&r->broker, r->o.program, set, 1);
    if (strcmp(set[0], "workers=1") == 0)
        (void)(bench_pin(r->broker.pid, 0) && bench_pin(0, 1)); /* one core: they share it */
    r->n_people = r->chat.n_people + r->o.subscribers;
    r->people = replay_zeroed(r->n_people, sizeof *r->people);
    r->conversations = replay_zeroed(r->chat.n_days, sizeof *r->conversations);
    r->by_id = replay_zeroed(r->chat.n_days, sizeof *r->by_id);
    r->flights = replay_zeroed(r->chat.n_messages, sizeof *r->flights);
    r->http = replay_zeroed(r->o.window, sizeof *r->http);
    r->subscribers = replay_zeroed(r->o.subscribers + 1, sizeof *r->subscribers);
    r->json = ptn_json_parser_new();
    r->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (r->json == NULL || r->epoll < 0)
        bench_die("out of memory or descriptors");
    for (unsigned i = 0; i < r->o.window; i++)
        bench_http_init(&r->http[i], r->broker.http);
    uint32_t *counts = replay_zeroed(r->chat.n_days, sizeof *counts);
    for (size_t i = 0; i < r->chat.n_days; i++)
        counts[i] = r->chat.days[i].n_messages;
    proof_init(&r->proof, counts, r->chat.n_days, r->chat.n_messages, r->o.subscribers + 1);
    free(counts);
}

static void populate(struct replay *r) {
    open_zmq(r);
    batch(r, r->n_people, "/api/v1/admin/users", user_body, on_user_added);
    batch(r, r->chat.n_days + REPLAY_PROBES, "/api/v1/conversations", conversation_body,
          on_conversation_added);
    for (size_t i = 0; i < r->chat.n_days; i++) {
        r->conversations[i].index = (uint32_t)i;
        r->by_id[i] = r->conversations[i];
    }
    qsort(r->by_id, r->chat.n_days, sizeof *r->by_id, replay_compare_conversations);
    sign_tokens(r);
    open_senders(r);
    subscribe_all(r);
    wait_zmq_subscribed(r);
}

/* ---- the run ------------------------------------------------------------------------------- */

/* When each message is due: the messages of a minute are spread over it. */
static void plan(struct replay *r, uint64_t begin_ns) {
    const struct chat *c = &r->chat;
    double minute_ns = 60e9 / r->o.speed;
    for (size_t first = 0, end; first < c->n_messages; first = end) {
        uint32_t minute = c->messages[first].minute;
        for (end = first; end < c->n_messages && c->messages[end].minute == minute;)
            end++;
        for (size_t i = first; i < end; i++) {
            double part = (double)(i - first) / (double)(end - first);
            r->flights[i].due_ns =
                begin_ns + (uint64_t)((minute - c->messages[0].minute + part) * minute_ns);
        }
    }
}

static void run(struct replay *r) {
    size_t wanted = r->chat.n_messages * (r->o.subscribers + 1);
    size_t progress = 0;
    uint64_t last = bench_now_ns();
    if (r->o.speed > 0)
        plan(r, last);
    r->on_http = replay_on_message_response;
    r->running = true;
    while (r->n_acknowledged < r->chat.n_messages || r->n_deliveries < wanted) {
        replay_turn(r, 100);
        replay_progress("deliveries", r->n_deliveries);
        uint64_t now = bench_now_ns();
        bool waits =
            r->n_acknowledged < r->next || r->n_deliveries < r->next * (r->o.subscribers + 1);
        if (!waits || r->n_acknowledged + r->n_deliveries != progress) {
            progress = r->n_acknowledged + r->n_deliveries;
            last = now;
        } else if (now - last > STALL_NS) {
            const char *why = proof_complete(&r->proof);
            bench_die("%zu of %zu messages acknowledged, then nothing for 20 s; %s",
                      r->n_acknowledged, r->chat.n_messages,
                      why != NULL ? why : "all was delivered");
        }
    }
    r->running = false;
}

/* A pong comes behind everything that was on its way: whatever comes with it is one too many. */
static void fence(struct replay *r) {
    uint64_t end = bench_now_ns() + STALL_NS;
    static const uint8_t ping[] = "\x81\xa4type\xa4ping";
    for (unsigned k = 0; k < r->o.subscribers; k++) {
        if (r->subscribers[k].msgpack)
            bench_ws_send(&r->subscribers[k].ws, 2, ping, sizeof ping - 1);
        else
            bench_ws_send(&r->subscribers[k].ws, 1, "{\"type\":\"ping\"}", 15);
    }
    for (unsigned k = 0; k < r->o.subscribers; k++) {
        while (!r->subscribers[k].fenced) {
            replay_turn(r, 100);
            if (bench_now_ns() > end)
                bench_die("subscriber %u: no pong", k);
        }
    }
    r->subscribers[0].fenced = true; /* also without any WebSocket subscriber */
    for (uint64_t until = bench_now_ns() + 200 * PTN_MS; bench_now_ns() < until;)
        replay_turn(r, 20);
    const char *why = proof_complete(&r->proof);
    if (why != NULL)
        bench_die("%s", why);
}

static void clean_up(struct replay *r) {
    for (size_t i = 0; i < r->chat.n_people; i++)
        if (replay_protocol_of((uint32_t)i) == BY_WS)
            bench_ws_close(&r->people[i].ws);
    for (unsigned k = 0; k < r->o.subscribers; k++)
        bench_ws_close(&r->subscribers[k].ws);
    for (unsigned i = 0; i < r->o.window; i++)
        bench_http_done(&r->http[i]);
    (void)zmq_close(r->dealer);
    (void)zmq_close(r->sub);
    (void)zmq_ctx_term(r->zmq);
    (void)close(r->epoll);
    ptn_json_parser_free(r->json);
    ptn_out_done(&r->text);
    proof_done(&r->proof);
    free(r->people);
    free(r->conversations);
    free(r->by_id);
    free(r->flights);
    free(r->http);
    free(r->subscribers);
    bench_broker_stop(&r->broker);
}

/* ---- rounds and figures -------------------------------------------------------------------- */

static void tell(struct report *p, const struct replay_options *o, const struct chat *c) {
    p->scenario = "mixed";
    p->target = "postern";
    p->rounds = o->rounds;
    report_parameter(p, "days", (double)c->n_days);
    report_parameter(p, "people", (double)c->n_people);
    report_parameter(p, "messages", (double)c->n_messages);
    report_parameter(p, "subscribers", o->subscribers + 1.0);
    report_parameter(p, "window", o->window);
    report_parameter(p, "speed", o->speed);
}

/* With a broker of its own, so that each begins with nothing on disk. */
static void measure(const struct replay_options *o, const struct chat *c, struct report *p) {
    static struct replay r;
    static struct meter meter;
    memset(&r, 0, sizeof r);
    r.o = *o;
    r.chat = *c;
    setup(&r);
    populate(&r);
    meter_begin(&meter, r.broker.pid);
    run(&r);
    meter_end(&meter, p, "deliveries", r.n_deliveries, &r.latency, &r.lag);
    fence(&r);
    report_put(p, "sent_rest", (double)r.n_by[BY_REST]);
    report_put(p, "sent_ws", (double)r.n_by[BY_WS]);
    report_put(p, "sent_zmq", (double)r.n_by[BY_ZMQ]);
    report_put(p, "retried", (double)r.n_retried);
    report_put(p, "lost", 0); /* or it would have ended there */
    report_put(p, "doubled", 0);
    clean_up(&r);
}

static const char usage[] =
    "usage: postern-replay [options] [FILE.gz | DIRECTORY]\n"
    "  replays logged chat through REST, WebSocket and ZeroMQ and proves the delivery\n"
    "  default: $POSTERN_SHARED/data/irc, or ../shared/data/irc\n"
    "  -k, --subscribers N   WebSocket subscribers (8), besides one on ZeroMQ\n"
    "  -w, --window N        messages in flight (32; at a speed 512)\n"
    "  -s, --speed X         X times as fast as it was written, in an open loop: latency counts\n"
    "                        from when a message was due; 0.001 to 1000000\n"
    "  -d, --days N          only the first N files\n"
    "  -r, --rounds N        readings, each with a broker of its own; their median and range are\n"
    "                        shown (3; at a speed 1)\n"
    "      --workers N       of the broker (0: as it chooses)\n"
    "      --program PATH    of postern (default: beside this tool)\n"
    "      --json            one JSON object instead of the table\n"
    "      --svg FILE        a plot of the percentiles\n";

static unsigned number(const char *text, unsigned min, unsigned max) {
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || v < min || v > max) {
        fprintf(stderr, "bench: `%s` is not a number from %u to %u\n%s", text, min, max, usage);
        exit(2);
    }
    return (unsigned)v;
}

static double factor(const char *text) {
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end != '\0' || !(v >= 0.001 && v <= 1e6)) {
        fprintf(stderr, "bench: `%s` is not a number from 0.001 to 1000000\n%s", text, usage);
        exit(2);
    }
    return v;
}

static void parse_options(int argc, char **argv, struct replay_options *o) {
    static const struct option longs[] = {{"subscribers", required_argument, NULL, 'k'},
                                          {"window", required_argument, NULL, 'w'},
                                          {"days", required_argument, NULL, 'd'},
                                          {"speed", required_argument, NULL, 's'},
                                          {"rounds", required_argument, NULL, 'r'},
                                          {"workers", required_argument, NULL, 'W'},
                                          {"program", required_argument, NULL, 'p'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"svg", required_argument, NULL, 'S'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    static char path[4096];
    *o = (struct replay_options){.subscribers = 8};
    for (int c; (c = getopt_long(argc, argv, "k:w:d:s:r:h", longs, NULL)) != -1;) {
        if (c == 'k')
            o->subscribers = number(optarg, 0, 1000);
        else if (c == 'w')
            o->window = number(optarg, 1, REPLAY_WINDOW_MAX);
        else if (c == 's')
            o->speed = factor(optarg);
        else if (c == 'r')
            o->rounds = number(optarg, 1, ROUNDS_MAX);
        else if (c == 'S')
            o->svg = optarg;
        else if (c == 'd')
            o->days = number(optarg, 1, 10000);
        else if (c == 'W')
            (void)number(o->workers = optarg, 0, PTN_WORKERS_MAX);
        else if (c == 'p')
            o->program = optarg;
        else if (c == 'j')
            o->json = true;
        else {
            fputs(usage, c == 'h' ? stdout : stderr);
            exit(c == 'h' ? 0 : 2);
        }
    }
    if (o->window == 0)
        o->window = o->speed > 0 ? 512 : 32;
    if (o->rounds == 0)
        o->rounds = o->speed > 0 ? 1 : 3;
    const char *shared = getenv("POSTERN_SHARED");
    (void)snprintf(path, sizeof path, "%s/data/irc", shared != NULL ? shared : "../shared");
    o->path = optind < argc ? argv[optind] : path;
}

int main(int argc, char **argv) {
    static struct chat chat;
    static struct report report;
    struct replay_options o;
    parse_options(argc, argv, &o);
    load_init();
    FILE *svg = report_svg_open(o.svg);
    chat_load(&chat, o.path, o.days);
    tell(&report, &o, &chat);
    for (unsigned i = 0; i < o.rounds; i++)
        measure(&o, &chat, &report);
    load_progress_end();
    (o.json ? report_json : report_table)(stdout, &report);
    if (!o.json)
        puts("  proven: every subscriber received every message exactly once, in one order, byte "
             "for "
             "byte");
    if (svg != NULL)
        report_svg(svg, &report, o.svg);
    chat_done(&chat);
    return 0;
}
