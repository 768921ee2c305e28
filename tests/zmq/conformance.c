/* SPDX-License-Identifier: Apache-2.0
 *
 * conformance.c - plays scenario.txt against libzmq, or against its twin (CONFORMANCE_TWIN).
 *
 *     zmq_conformance FILE [SEEDS]      SEEDS: how many courses of the twin, from seed 1
 *
 * libzmq does its work in threads: a step that expects something asks again and again, for at most
 * WAIT_MS.  Between two questions the one lets a millisecond pass and the other the next thing
 * happen, so the twin fails at once when nothing is under way any more.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#ifdef CONFORMANCE_TWIN
#include "runtime/env/env_sim.h"
#include "zmq_twin.h"
#else
#include <postern/base.h>
#endif

#define WAIT_MS 10000
#define IDLE_TRIES 100u
#define SOCKETS_MAX 8u
#define NAMES_MAX 16u
#define PARTS_MAX 8u
#define WORDS_MAX 6u
#define BODY_MAX (256u << 10)
#define ADDRESS_MAX 128u

struct part {
    uint8_t bytes[64];
    size_t n;
};

static struct {
    const char *file;
    unsigned line;
    char scenario[128];
    void *context;
    struct {
        char name[16], address[ADDRESS_MAX];
        void *zmq;
        bool attended; /* its thread looks at it now and then */
    } sockets[SOCKETS_MAX];
    unsigned n_sockets;
    struct { /* $name: an identity that the ROUTER gave */
        char name[16];
        struct part value;
    } names[NAMES_MAX];
    unsigned n_names, n_scenarios;
    uint64_t seed;
    unsigned accepted; /* by the last fill */
} R;

static _Noreturn void fail(const char *fmt, ...) {
    va_list ap;
    fprintf(stderr, "%s:%u: %s: ", R.file, R.line, R.scenario);
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    if (R.seed != 0)
        fprintf(stderr, " (seed %llu)", (unsigned long long)R.seed);
    fprintf(stderr, "\n");
    exit(1);
}

/* ---- time ------------------------------------------------------------------------------------ */

static uint64_t wait_until_ms;

#ifdef CONFORMANCE_TWIN
static ptn_time twin_now, twin_next;

static ptn_time host_now(void *arg) {
    (void)arg;
    return twin_now;
}

static void host_at(void *arg, ptn_time due) {
    (void)arg;
    twin_next = due;
}

static void host_ready(void *arg, int fd) {
    (void)arg, (void)fd;
}

static uint64_t now_ms(void) {
    return twin_now / PTN_MS;
}

/* When nothing is under way, what is left is the whim of a lazy send. */
static bool pass_time(void) {
    static unsigned idle;
    idle = twin_next == PTN_NEVER ? idle + 1 : 0;
    if (idle > 0)
        return idle % IDLE_TRIES != 0;
    if (twin_next > twin_now)
        twin_now = twin_next;
    twin_next = zmq_twin_run();
    return true;
}

static bool fd_readable(int fd) {
    return zmq_twin_readable(fd);
}

/* A closed listener of the twin is closed at once. */
static void until_deaf(const char *address) {
    (void)address;
}

static void world_begin(uint64_t seed) {
    ptn_sim_rng rng;
    ptn_sim_rng_seed(&rng, seed);
    const zmq_twin_faults faults = {
        .delay_min_ns = 1000,
        .delay_mean_ns = (1 + ptn_sim_rng_below(&rng, 20)) * 100000,
        .tail_ppm = (uint32_t)ptn_sim_rng_below(&rng, 100000),
        .tail_ns = 50 * PTN_MS,
        .window_bytes = 1u << (12 + ptn_sim_rng_below(&rng, 8)),
        .lazy_ppm = seed % 2 == 0 ? 300000 : 0,
    };
    const zmq_twin_host host = {.now = host_now, .at = host_at, .ready = host_ready};
    twin_now = 1000 * PTN_SEC;
    twin_next = PTN_NEVER;
    zmq_twin_start(seed, &faults, &host);
}

static void world_end(void) {
    zmq_twin_stop();
}
#else
static uint64_t now_ms(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool pass_time(void) {
    (void)poll(NULL, 0, 1);
    return true;
}

static bool fd_readable(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* Until nobody accepts there any more: libzmq closes a listener some time after its socket. */
static void until_deaf(const char *address) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port =
                                htons((uint16_t)strtoul(strrchr(address, ':') + 1, NULL, 10)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (bool heard = true; heard;) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        heard = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
        (void)close(fd);
        (void)poll(NULL, 0, heard ? 1 : 0);
    }
}

static void world_begin(uint64_t seed) {
    (void)seed;
}

static void world_end(void) {
}
#endif

/* Before another try; false: no more tries. */
static bool again(void) {
    for (unsigned i = 0; i < R.n_sockets; i++) {
        int events;
        size_t n = sizeof events;
        if (R.sockets[i].attended)
            (void)zmq_getsockopt(R.sockets[i].zmq, ZMQ_EVENTS, &events, &n);
    }
    return now_ms() < wait_until_ms && pass_time();
}

/* ---- words ----------------------------------------------------------------------------------- */

static unsigned find_socket(const char *name) {
    for (unsigned i = 0; i < R.n_sockets; i++)
        if (strcmp(R.sockets[i].name, name) == 0)
            return i;
    fail("there is no socket %s", name);
}

static void *socket_of(const char *name) {
    void *s = R.sockets[find_socket(name)].zmq;
    if (s == NULL)
        fail("%s is closed", name);
    return s;
}

/* NULL: not known yet. */
static struct part *value_of(const char *name) {
    for (unsigned i = 0; i < R.n_names; i++)
        if (strcmp(R.names[i].name, name) == 0)
            return &R.names[i].value;
    return NULL;
}

static void set_value(const char *name, const struct part *value) {
    if (R.n_names == NAMES_MAX)
        fail("too many names");
    size_t len = strlen(name);
    if (len >= sizeof R.names[0].name)
        fail("a name too long");
    memcpy(R.names[R.n_names].name, name, len + 1);
    R.names[R.n_names++].value = *value;
}

/* Bytes as they are, %XX for the others. */
static struct part part_parse(const char *text, size_t n) {
    struct part p = {.n = 0};
    for (size_t i = 0; i < n; i++) {
        if (p.n == sizeof p.bytes)
            fail("a part is too long");
        char hex[3] = {0};
        if (text[i] == '%' && i + 2 < n) {
            hex[0] = text[++i];
            hex[1] = text[++i];
            p.bytes[p.n++] = (uint8_t)strtoul(hex, NULL, 16);
        } else {
            p.bytes[p.n++] = (uint8_t)text[i];
        }
    }
    return p;
}

/* a|b||c: four parts, the third one empty. */
static unsigned message_parse(const char *text, char parts[PARTS_MAX][64]) {
    unsigned n = 0;
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, "|");
        if (n == PARTS_MAX || len >= sizeof parts[0])
            fail("a message is too long");
        memcpy(parts[n], p, len);
        parts[n++][len] = '\0';
        p += len;
        if (*p == '\0')
            return n;
    }
}

static struct part part_to_send(const char *text) {
    if (text[0] != '$')
        return part_parse(text, strlen(text));
    const struct part *value = value_of(text);
    if (value == NULL)
        fail("%s is not known", text);
    return *value;
}

/* ---- messages -------------------------------------------------------------------------------- */

/* 0, or the errno of the part that was refused. */
static int send_message(void *s, const char *text) {
    char parts[PARTS_MAX][64];
    unsigned n = message_parse(text, parts);
    for (unsigned i = 0; i < n; i++) {
        struct part p = part_to_send(parts[i]);
        if (zmq_send(s, p.bytes, p.n, ZMQ_DONTWAIT | (i + 1 < n ? ZMQ_SNDMORE : 0)) < 0)
            return zmq_errno();
    }
    return 0;
}

static bool is_more(void *s) {
    int more = 0;
    size_t n = sizeof more;
    if (zmq_getsockopt(s, ZMQ_RCVMORE, &more, &n) != 0)
        fail("RCVMORE: %s", zmq_strerror(zmq_errno()));
    return more != 0;
}

static void check_part(const char *name, const char *expected, const struct part *got) {
    struct part want;
    if (expected[0] == '$' && value_of(expected) == NULL) {
        if (got->n != 5 || got->bytes[0] != 0)
            fail("%s: %s is no identity that a ROUTER gives", name, expected);
        set_value(expected, got);
    }
    want = part_to_send(expected);
    if (want.n != got->n || memcmp(want.bytes, got->bytes, want.n) != 0)
        fail("%s: hears \"%.*s\" (%zu bytes) instead of %s", name, (int)got->n,
             (const char *)got->bytes, got->n, expected);
}

static int receive_part(void *s, struct part *ret_part) {
    int n = zmq_recv(s, ret_part->bytes, sizeof ret_part->bytes, ZMQ_DONTWAIT);
    if (n >= 0)
        ret_part->n = (size_t)n < sizeof ret_part->bytes ? (size_t)n : sizeof ret_part->bytes;
    return n;
}

/* How many parts; 0: nothing is there.  The rest of a message is there when its first part is. */
static unsigned receive_message(const char *name, struct part parts[PARTS_MAX]) {
    void *s = socket_of(name);
    unsigned n = 0;
    if (receive_part(s, &parts[n++]) < 0) {
        if (zmq_errno() != EAGAIN)
            fail("%s: %s", name, zmq_strerror(zmq_errno()));
        return 0;
    }
    while (is_more(s))
        if (n == PARTS_MAX || receive_part(s, &parts[n++]) < 0)
            fail("%s: half a message", name);
    return n;
}

static bool part_is(const struct part *p, const char *text) {
    return p->n == strlen(text) && memcmp(p->bytes, text, p->n) == 0;
}

static void do_expect(char **word) {
    char parts[PARTS_MAX][64];
    struct part got[PARTS_MAX];
    unsigned n = message_parse(word[2], parts), n_got;
    /* A drain may have sent more than one end. */
    while ((n_got = receive_message(word[1], got)) == 0 || part_is(&got[n_got - 1], "end")) {
        if (n_got == 0 && word[3] != NULL)
            (void)send_message(socket_of(word[3]), word[4]);
        if (n_got == 0 && !again())
            fail("%s: does not hear %s", word[1], word[2]);
    }
    for (unsigned i = 0; i < n && i < n_got; i++)
        check_part(word[1], parts[i], &got[i]);
    if (n != n_got)
        fail("%s: hears %u parts instead of %s", word[1], n_got, word[2]);
}

/* Nothing is there; whoever says so has heard a later message before. */
static void do_none(char **word) {
    struct part got;
    if (receive_part(socket_of(word[1]), &got) >= 0)
        fail("%s: hears \"%.*s\"", word[1], (int)got.n, (const char *)got.bytes);
    if (zmq_errno() != EAGAIN)
        fail("%s: %s", word[1], zmq_strerror(zmq_errno()));
}

static void do_send(char **word) {
    int err;
    while ((err = send_message(socket_of(word[1]), word[2])) != 0)
        if (err != EAGAIN || !again())
            fail("%s: %s", word[1], zmq_strerror(err));
}

static int error_of(const char *name) {
    static const struct {
        const char *name;
        int number;
    } errors[] = {{"EAGAIN", EAGAIN},
                  {"EFSM", EFSM},
                  {"EHOSTUNREACH", EHOSTUNREACH},
                  {"EADDRINUSE", EADDRINUSE},
                  {"EINVAL", EINVAL}};
    for (unsigned i = 0; i < PTN_ARRAY_LEN(errors); i++)
        if (strcmp(errors[i].name, name) == 0)
            return errors[i].number;
    fail("%s is no error", name);
}

/* In the end; before that it may be accepted. */
static void do_refuse(char **word) {
    int err, expected = error_of(word[3]);
    while ((err = send_message(socket_of(word[1]), word[2])) != expected)
        if ((err != 0 && err != EAGAIN) || !again())
            fail("%s: %s instead of %s", word[1], err == 0 ? "accepts" : zmq_strerror(err),
                 word[3]);
}

static void do_mute(char **word) {
    struct part got;
    if (receive_part(socket_of(word[1]), &got) >= 0 || zmq_errno() != error_of(word[2]))
        fail("%s: receiving gives %s instead of %s", word[1], zmq_strerror(zmq_errno()), word[2]);
}

/* ---- many messages --------------------------------------------------------------------------- */

/* [to?][topic or empty][number and padding]; 0 or an errno. */
static int send_numbered(void *s, const char *head, unsigned number, size_t bytes) {
    static char body[BODY_MAX];
    char parts[PARTS_MAX][64];
    unsigned n = message_parse(head, parts);
    memset(body, '.', bytes);
    (void)snprintf(body, 16, "%u", number);
    for (unsigned i = 0; i < n; i++) {
        struct part p = part_to_send(parts[i]);
        if (zmq_send(s, p.bytes, p.n, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
            return zmq_errno();
    }
    return zmq_send(s, body, bytes, ZMQ_DONTWAIT) < 0 ? zmq_errno() : 0;
}

static size_t size_of(const char *text) {
    size_t n = strtoul(text, NULL, 10);
    if (n < 16 || n > BODY_MAX)
        fail("%s bytes cannot be", text);
    return n;
}

/* fill S HEAD BYTES MAX: numbered messages until the socket takes no more. */
static void do_fill(char **word) {
    unsigned max = (unsigned)strtoul(word[4], NULL, 10);
    int err = 0;
    for (R.accepted = 0; R.accepted < max; R.accepted++) {
        err = send_numbered(socket_of(word[1]), word[2], R.accepted + 1, size_of(word[3]));
        if (err != 0)
            break;
    }
    if (err != EAGAIN)
        fail("%s: after %u messages %s", word[1], R.accepted,
             err == 0 ? "it still takes more" : zmq_strerror(err));
}

/* flood S HEAD BYTES COUNT: as many; none may be refused. */
static void do_flood(char **word) {
    unsigned n = (unsigned)strtoul(word[4], NULL, 10);
    for (R.accepted = 0; R.accepted < n; R.accepted++) {
        int err = send_numbered(socket_of(word[1]), word[2], R.accepted + 1, size_of(word[3]));
        if (err != 0)
            fail("%s: message %u: %s", word[1], R.accepted + 1, zmq_strerror(err));
    }
}

static void do_accepted(char **word) {
    if (R.accepted != strtoul(word[1], NULL, 10))
        fail("%u messages were accepted instead of %s", R.accepted, word[1]);
}

/* drain S whole|holes X HEAD: what fill or flood has sent, in order, up to an end that X sends
 * until it comes through. */
static void do_drain(char **word) {
    bool whole = strcmp(word[2], "whole") == 0;
    unsigned n = 0, last = 0, n_parts;
    struct part got[PARTS_MAX];
    char end[64];
    (void)snprintf(end, sizeof end, "%s|end", word[4]);
    while ((n_parts = receive_message(word[1], got)) == 0 || !part_is(&got[n_parts - 1], "end")) {
        if (n_parts == 0) {
            (void)send_message(socket_of(word[3]), end);
            if (!again())
                fail("%s: the end does not come", word[1]);
            continue;
        }
        unsigned number = (unsigned)strtoul((const char *)got[n_parts - 1].bytes, NULL, 10);
        if (number <= last)
            fail("%s: %u comes after %u", word[1], number, last);
        last = number;
        n++;
    }
    if (whole ? n != R.accepted : n >= R.accepted)
        fail("%s: hears %u of %u", word[1], n, R.accepted);
}

/* ---- sockets --------------------------------------------------------------------------------- */

static void do_socket(char **word) {
    static const struct {
        const char *name;
        int type;
    } types[] = {{"ROUTER", ZMQ_ROUTER},
                 {"DEALER", ZMQ_DEALER},
                 {"REQ", ZMQ_REQ},
                 {"SUB", ZMQ_SUB},
                 {"XPUB", ZMQ_XPUB}};
    int zero = 0;
    for (unsigned i = 0; i < PTN_ARRAY_LEN(types) && R.n_sockets < SOCKETS_MAX; i++) {
        if (strcmp(types[i].name, word[2]) != 0)
            continue;
        void *s = zmq_socket(R.context, types[i].type);
        if (s == NULL)
            fail("%s: %s", word[1], zmq_strerror(zmq_errno()));
        (void)zmq_setsockopt(s, ZMQ_LINGER, &zero, sizeof zero);
        (void)snprintf(R.sockets[R.n_sockets].name, sizeof R.sockets[0].name, "%s", word[1]);
        R.sockets[R.n_sockets++].zmq = s;
        return;
    }
    fail("cannot make a %s", word[2]);
}

static void do_option(char **word) {
    static const struct {
        const char *name;
        int option;
    } ints[] = {{"linger", ZMQ_LINGER},
                {"sndhwm", ZMQ_SNDHWM},
                {"rcvhwm", ZMQ_RCVHWM},
                {"mandatory", ZMQ_ROUTER_MANDATORY},
                {"handover", ZMQ_ROUTER_HANDOVER},
                {"verbose", ZMQ_XPUB_VERBOSE},
                {"nodrop", ZMQ_XPUB_NODROP},
                {"reconnect", ZMQ_RECONNECT_IVL}};
    void *s = socket_of(word[1]);
    int value = (int)strtol(word[3], NULL, 10), rc = -1;
    int64_t wide = value;
    for (unsigned i = 0; i < PTN_ARRAY_LEN(ints); i++)
        if (strcmp(ints[i].name, word[2]) == 0)
            rc = zmq_setsockopt(s, ints[i].option, &value, sizeof value);
    if (strcmp(word[2], "id") == 0)
        rc = zmq_setsockopt(s, ZMQ_ROUTING_ID, word[3], strlen(word[3]));
    else if (strcmp(word[2], "maxmsgsize") == 0)
        rc = zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &wide, sizeof wide);
    if (rc != 0)
        fail("%s: option %s: %s", word[1], word[2], zmq_strerror(zmq_errno()));
}

/* bind S [T]: at the address that T had, whose closing takes its time. */
static void do_bind(char **word) {
    unsigned i = find_socket(word[1]);
    const char *where =
        word[2] != NULL ? R.sockets[find_socket(word[2])].address : "tcp://127.0.0.1:*";
    size_t n = ADDRESS_MAX;
    while (zmq_bind(R.sockets[i].zmq, where) != 0)
        if (zmq_errno() != EADDRINUSE || !again())
            fail("%s: bind: %s", word[1], zmq_strerror(zmq_errno()));
    if (zmq_getsockopt(R.sockets[i].zmq, ZMQ_LAST_ENDPOINT, R.sockets[i].address, &n) != 0)
        fail("%s: %s", word[1], zmq_strerror(zmq_errno()));
}

static void do_taken(char **word) {
    if (zmq_bind(socket_of(word[1]), R.sockets[find_socket(word[2])].address) == 0 ||
        zmq_errno() != EADDRINUSE)
        fail("%s: the address of %s is not taken", word[1], word[2]);
}

static void do_connect(char **word) {
    if (zmq_connect(socket_of(word[1]), R.sockets[find_socket(word[2])].address) != 0)
        fail("%s: connect: %s", word[1], zmq_strerror(zmq_errno()));
}

static void do_close(char **word) {
    unsigned i = find_socket(word[1]);
    if (zmq_close(socket_of(word[1])) != 0)
        fail("%s: close: %s", word[1], zmq_strerror(zmq_errno()));
    R.sockets[i].zmq = NULL;
    R.sockets[i].attended = false;
    if (R.sockets[i].address[0] != '\0')
        until_deaf(R.sockets[i].address);
}

static void do_attend(char **word) {
    R.sockets[find_socket(word[1])].attended = true;
}

static void do_sub(char **word) {
    struct part p =
        part_parse(word[2] != NULL ? word[2] : "", word[2] != NULL ? strlen(word[2]) : 0);
    int option = strcmp(word[0], "sub") == 0 ? ZMQ_SUBSCRIBE : ZMQ_UNSUBSCRIBE;
    if (zmq_setsockopt(socket_of(word[1]), option, p.bytes, p.n) != 0)
        fail("%s: %s: %s", word[1], word[0], zmq_strerror(zmq_errno()));
}

static void do_differ(char **word) {
    const struct part *a = value_of(word[1]), *b = value_of(word[2]);
    if (a == NULL || b == NULL || (a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0))
        fail("%s is %s", word[1], word[2]);
}

/* ---- readiness ------------------------------------------------------------------------------- */

/* events S in|!in|out|!out: in the end. */
static void do_events(char **word) {
    bool wanted = word[2][0] != '!';
    int bit = strcmp(word[2] + !wanted, "in") == 0 ? ZMQ_POLLIN : ZMQ_POLLOUT, events = 0;
    size_t n = sizeof events;
    for (;;) {
        if (zmq_getsockopt(socket_of(word[1]), ZMQ_EVENTS, &events, &n) != 0)
            fail("%s: EVENTS: %s", word[1], zmq_strerror(zmq_errno()));
        if (((events & bit) != 0) == wanted)
            return;
        if (!again())
            fail("%s: never %s", word[1], word[2]);
    }
}

/* fd S readable: in the end.  fd S quiet: now. */
static void do_fd(char **word) {
    int fd = -1;
    size_t n = sizeof fd;
    if (zmq_getsockopt(socket_of(word[1]), ZMQ_FD, &fd, &n) != 0)
        fail("%s: FD: %s", word[1], zmq_strerror(zmq_errno()));
    if (strcmp(word[2], "quiet") == 0) {
        if (fd_readable(fd))
            fail("%s: its descriptor is readable", word[1]);
        return;
    }
    while (!fd_readable(fd))
        if (!again())
            fail("%s: its descriptor does not become readable", word[1]);
}

/* ---- the file -------------------------------------------------------------------------------- */

static void scenario_end(void) {
    if (R.context == NULL)
        return;
    for (unsigned i = 0; i < R.n_sockets; i++)
        if (R.sockets[i].zmq != NULL)
            (void)zmq_close(R.sockets[i].zmq);
    while (zmq_ctx_term(R.context) != 0 && zmq_errno() == EINTR)
        continue;
    R.context = NULL;
    world_end();
}

static void scenario_begin(const char *name) {
    scenario_end();
    size_t len = strlen(name);
    if (len >= sizeof R.scenario)
        fail("a scenario's name too long");
    memcpy(R.scenario, name, len + 1);
    memset(R.sockets, 0, sizeof R.sockets);
    R.n_sockets = R.n_names = 0;
    R.n_scenarios++;
    world_begin(R.seed);
    R.context = zmq_ctx_new();
    if (R.context == NULL)
        fail("no context");
}

static void step(char **word, unsigned n) {
    static const struct {
        const char *name;
        unsigned min, max; /* words, its own included */
        void (*run)(char **word);
    } steps[] = {
        {"socket", 3, 3, do_socket}, {"option", 4, 4, do_option},     {"bind", 2, 3, do_bind},
        {"taken", 3, 3, do_taken},   {"connect", 3, 3, do_connect},   {"close", 2, 2, do_close},
        {"sub", 2, 3, do_sub},       {"unsub", 2, 3, do_sub},         {"send", 3, 3, do_send},
        {"attend", 2, 2, do_attend}, {"expect", 3, 5, do_expect},     {"none", 2, 2, do_none},
        {"refuse", 4, 4, do_refuse}, {"mute", 3, 3, do_mute},         {"fill", 5, 5, do_fill},
        {"flood", 5, 5, do_flood},   {"accepted", 2, 2, do_accepted}, {"drain", 5, 5, do_drain},
        {"differ", 3, 3, do_differ}, {"events", 3, 3, do_events},     {"fd", 3, 3, do_fd}};
    for (unsigned i = 0; i < PTN_ARRAY_LEN(steps); i++) {
        if (strcmp(steps[i].name, word[0]) != 0)
            continue;
        if (n < steps[i].min || n > steps[i].max)
            fail("%s takes %u to %u words", word[0], steps[i].min - 1, steps[i].max - 1);
        wait_until_ms = now_ms() + WAIT_MS;
        steps[i].run(word);
        return;
    }
    fail("%s is no step", word[0]);
}

static void play(void) {
    char line[512];
    FILE *f = fopen(R.file, "re");
    if (f == NULL)
        fail("%s", strerror(errno));
    for (R.line = 1; fgets(line, sizeof line, f) != NULL; R.line++) {
        char *word[WORDS_MAX + 1] = {NULL}, *rest = line, *w;
        unsigned n = 0;
        line[strcspn(line, "#\n")] = '\0';
        if (strncmp(line, "scenario ", 9) == 0) {
            scenario_begin(line + 9);
            continue;
        }
        while (n < WORDS_MAX && (w = strtok_r(rest, " ", &rest)) != NULL)
            word[n++] = w;
        if (n > 0)
            step(word, n);
    }
    scenario_end();
    (void)fclose(f);
}

int main(int argc, char **argv) {
    uint64_t seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    if (argc < 2) {
        fprintf(stderr, "usage: zmq_conformance FILE [SEEDS]\n");
        return 2;
    }
    R.file = argv[1];
    if (seeds == 0)
        play();
    for (R.seed = 1; seeds > 0 && R.seed <= seeds; R.seed++)
        play();
    printf("%u scenarios\n", R.n_scenarios);
    return 0;
}
