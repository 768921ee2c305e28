/* SPDX-License-Identifier: Apache-2.0
 *
 * hello.h - what `postern run` prints when it is ready: addresses for programs (--print-listen) or
 * for people
 * (--hello).
 */
#ifndef POSTERN_BROKER_HELLO_H
#define POSTERN_BROKER_HELLO_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define HELLO_ADDRESSES_MAX 8

struct hello_addresses { /* borrowed */
    const char *http[HELLO_ADDRESSES_MAX], *admin[HELLO_ADDRESSES_MAX];
    const char *zmq[HELLO_ADDRESSES_MAX], *zmq_events[HELLO_ADDRESSES_MAX];
    size_t n_http, n_admin, n_zmq, n_zmq_events;
};

/* {"http":["127.0.0.1:8771"],"admin":[..],"zmq":[..],"zmq_events":[..]} and a newline; flushed. */
void hello_print_listen(const struct hello_addresses *a, FILE *out);

/* Addresses, a token of the admin account that is good for 12 hours, and commands to paste;
 * flushed. */
void hello_print(const struct hello_addresses *a, const char *data, const uint8_t *key,
                 size_t key_bytes, FILE *out);

#endif
