/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - postern-bench: the scenarios there are, and who runs them.
 */
#include "bench/load/run.h"

#include <errno.h>
#include <unistd.h>

#define MESSAGES BENCH_CAN_PUBSUB

const struct scenario scenarios[] = {
    {.name = "fanout",
     .about = "one publisher, N subscribers: how soon all of them have a message, and at what cost",
     .needs = MESSAGES,
     .target = "postern-ws-json",
     .accepts = "subscribers window bytes rate stalled overload topic prose discard",
     .usual = {.subscribers = 1000},
     .run = run_fanout},
    {.name = "pubsub",
     .about = "publishers and subscribers over many topics",
     .needs = MESSAGES,
     .target = "postern-ws-json",
     .accepts = "subscribers publishers topics window bytes rate stalled overload topic prose",
     .usual = {.subscribers = 16, .publishers = 4, .topics = 4, .window = 16},
     .run = run_fanout},
    {.name = "request",
     .about = "round trips of the cheapest question",
     .needs = BENCH_CAN_REQUEST,
     .target = "postern-ws-json",
     .accepts = "connections window bytes rate path",
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
     .accepts = "connections window bytes rate topic",
     .usual = {.connections = 4, .window = 64, .bytes = 200},
     .run = run_ask},
    {.name = "connections",
     .about = "what an idle, subscribed connection costs: memory, CPU, time to open",
     .needs = MESSAGES,
     .target = "postern-ws-json",
     .accepts = "connections topic",
     .usual = {.connections = 1000},
     .run = run_connections},
    {.name = "mixed",
     .about = "real chat days through REST, WebSocket and ZeroMQ at once, every delivery proved",
     .program = "postern-replay"},
    {.name = "actors",
     .about =
         "the actor runtime alone: postern bench actors [--rounds N] [--json] PROGRAM WORKERS SIZE "
         "WARMUP; ./dev bench actors: all programs, beside others",
     .program = "postern-actors"},
    {.name = NULL},
};

/* Ends here when argv[1] is a scenario that another tool does. */
static void hand_over(char **argv) {
    const struct scenario *s = scenarios;
    char path[4096];
    while (s->name != NULL && (s->program == NULL || strcmp(s->name, argv[1]) != 0))
        s++;
    if (s->name == NULL)
        return;
    bench_beside_us(s->program, path, sizeof path);
    (void)execv(path, argv + 1);
    bench_die("cannot run %s: %s", path, strerror(errno));
}

int main(int argc, char **argv) {
    struct options o;
    char why[300];
    if (argc > 1)
        hand_over(argv);
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
