/* SPDX-License-Identifier: Apache-2.0
 *
 * driver_mqtt.c - MQTT 3.1.1 (OASIS, 2014), QoS 0, plain and inside of WebSocket.
 */
#include "bench/load/wire.h"

#include <unistd.h>

enum {
    CONNECT = 1,
    CONNACK = 2,
    PUBLISH = 3,
    SUBSCRIBE = 8,
    SUBACK = 9,
    PINGREQ = 12,
    PINGRESP = 13,
};

enum wire_word mqtt_parse(ptn_bytes in, size_t *ret_used, ptn_bytes *ret_payload) {
    size_t head = 1, n = 0;
    for (unsigned shift = 0;; shift += 7) { /* 2.2.3: seven bits a byte, four bytes at most */
        if (head == in.n)
            return WIRE_MORE;
        n |= (size_t)(in.p[head] & 0x7f) << shift;
        if ((in.p[head++] & 0x80) == 0)
            break;
        if (shift == 21)
            bench_die("mqtt: a length of more than four bytes");
    }
    if (in.n - head < n)
        return WIRE_MORE;
    const uint8_t *p = in.p + head;
    *ret_used = head + n;
    *ret_payload = (ptn_bytes){p, n};
    switch (in.p[0] >> 4) {
    case PUBLISH: {
        size_t topic = n < 2 ? n : (size_t)p[0] << 8 | p[1];
        if (n < 2 + topic || (in.p[0] & 6) != 0)
            bench_die("mqtt: not a publish of QoS 0");
        *ret_payload = (ptn_bytes){p + 2 + topic, n - 2 - topic};
        return WIRE_DELIVERY;
    }
    case CONNACK:
        return n == 2 && p[1] == 0 ? WIRE_ANSWER : WIRE_REFUSAL;
    case SUBACK:
        return n == 3 && p[2] <= 2 ? WIRE_ANSWER : WIRE_REFUSAL;
    case PINGRESP:
        return WIRE_ANSWER;
    default:
        return WIRE_SKIP;
    }
}

/* ---- driver --------------------------------------------------------------------------------- */

static void put_head(struct wire_text *t, unsigned type, unsigned flags, size_t n) {
    uint8_t head[5] = {(uint8_t)(type << 4 | flags)};
    size_t at = 1;
    do {
        head[at] = (uint8_t)(n & 0x7f);
        n >>= 7;
        if (n > 0)
            head[at] |= 0x80;
        at++;
    } while (n > 0);
    wire_put(t, head, at);
}

static void put_string(struct wire_text *t, const char *z) {
    size_t n = strlen(z);
    uint8_t head[2] = {(uint8_t)(n >> 8), (uint8_t)n};
    wire_put(t, head, 2);
    wire_put(t, z, n);
}

/* A clean session without keep-alive: nothing but what is measured goes over the wire. */
static void login(struct bench_link *l) {
    static unsigned clients;
    char id[32]; /* 3.1.3.1: 23 bytes are always allowed */
    snprintf(id, sizeof id, "b%d-%u", (int)getpid(), clients++);
    static const uint8_t hello[] = {0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0};
    struct wire_text t = {.n = 0};
    put_head(&t, CONNECT, 0, sizeof hello + 2 + strlen(id));
    wire_put(&t, hello, sizeof hello);
    put_string(&t, id);
    wire_ask(l, t.bytes, t.n);
}

static void open_plain(struct bench_link *l, const struct bench_target *t, const char *source) {
    l->io.fd = bench_connect(t->address, source);
    login(l);
}

static void open_ws(struct bench_link *l, const struct bench_target *t, const char *source) {
    l->io.fd = bench_connect(t->address, source);
    wire_upgrade(l, "/mqtt", "mqtt");
    login(l);
}

static void subscribe(struct bench_link *l, const char *topic) {
    static const uint8_t id[] = {0, 1}, qos = 0;
    struct wire_text t = {.n = 0};
    put_head(&t, SUBSCRIBE, 2, sizeof id + 2 + strlen(topic) + 1);
    wire_put(&t, id, sizeof id);
    put_string(&t, topic);
    wire_put(&t, &qos, 1);
    wire_ask(l, t.bytes, t.n);
}

static void publish(struct bench_link *l, const char *topic, const void *payload, size_t n) {
    static struct wire_text t;
    t.n = 0;
    put_head(&t, PUBLISH, 0, 2 + strlen(topic) + n);
    put_string(&t, topic);
    wire_put(&t, payload, n);
    wire_queue(l, t.bytes, t.n);
}

/* The cheapest question: MQTT has no echo of its own. */
static void request(struct bench_link *l, const void *payload, size_t n) {
    (void)payload, (void)n;
    static const uint8_t ping[] = {PINGREQ << 4, 0};
    wire_queue(l, ping, sizeof ping);
}

static enum bench_got next(struct bench_link *l, ptn_bytes *ret_payload) {
    return wire_next(l, mqtt_parse, NULL, ret_payload);
}

const struct bench_driver bench_mosquitto = {
    .name = "mosquitto",
    .about = "MQTT 3.1.1 QoS 0 over TCP",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST,
    .open = open_plain,
    .subscribe = subscribe,
    .publish = publish,
    .request = request,
    .next = next,
    .close = wire_close,
};

const struct bench_driver bench_mosquitto_ws = {
    .name = "mosquitto-ws",
    .about = "MQTT 3.1.1 QoS 0 over WebSocket",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST,
    .open = open_ws,
    .subscribe = subscribe,
    .publish = publish,
    .request = request,
    .next = next,
    .close = wire_close,
};
