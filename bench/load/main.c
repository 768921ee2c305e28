/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - postern-bench: the scenarios there are, and who runs them.
 */
#include "bench/load/run.h"

#include <stdlib.h>

#define MESSAGES BENCH_CAN_PUBSUB

const struct scenario scenarios[] = {
    {.name = "fanout",
     .about = "one publisher, N subscribers: how soon all of them have a message, and at what cost",
     .needs = MESSAGES,
     .target = "postern-ws-json",
     .accepts = "subscribers window rate stalled overload topic",
     .usual = {.subscribers = 1000},
     .run = run_fanout},
    {.name = "pubsub",
     .about = "publishers and subscribers over many topics",
     .needs = MESSAGES,
     .target = "postern-ws-json",
     .accepts = "subscribers publishers topics window rate stalled overload topic",
     .usual = {.subscribers = 16, .publishers = 4, .topics = 4, .window = 16},
     .run = run_fanout},
    {.name = "request",
     .about = "round trips of the cheapest question",
     .needs = BENCH_CAN_REQUEST,
     .target = "postern-ws-json",
     .accepts = "connections window rate path",
     .run = run_ask},
    {.name = "http",
     .about = "GET of a path over keep-alive connections",
     .needs = BENCH_CAN_HTTP,
     .target = "postern-rest",
     .accepts = "connections window rate path",
     .usual = {.connections = 64},
     .run = run_ask},
    {.name = "durable",
     .about = "appends that are on disk when they are acknowledged",
     .needs = BENCH_CAN_DURABLE,
     .target = "postern-ws-msgpack",
     .accepts = "connections window rate topic",
     .usual = {.connections = 4, .window = 64, .bytes = 200},
     .run = run_ask},
    {.name = NULL},
};

int main(int argc, char **argv) {
    struct options o;
    char why[300];
    if (!options_parse(argc, argv, &o, why, sizeof why)) {
        fprintf(stderr, "bench: %s\n", why);
        return 2;
    }
    if (o.help)
        options_help(stdout, o.scenario);
    else
        o.scenario->run(&o);
    return 0;
}
