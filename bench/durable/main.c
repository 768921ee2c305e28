/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - postern-durable: one reading per call, as one JSON object.  bench/durable/run starts the
 * servers, interleaves the readings, and makes the table.
 */
#include "bench/durable/durable.h"

#include <getopt.h>
#include <stdlib.h>

static void usage(FILE *f) {
    fputs(
        "postern-durable load|fill|backlog|sqlite|fsync|chain [options]\n"
        "  --peer ws-msgpack|ws-json|zmq|nats|redis  --address A  --token T\n"
        "  --topic T | --conversation ID             where Postern puts it (default topic log.1)\n"
        "  --dir D           of sqlite, fsync and chain\n"
        "  --connections N   (4)    --in-flight N  of all together (256)\n"
        "  --bytes N  (200)  --seconds S  (2)  --count N  of fill, and the most of backlog\n",
        f);
}

static void parse(int argc, char **argv, struct durable_options *o) {
    static const struct option longs[] = {{"peer", 1, NULL, 'p'},
                                          {"address", 1, NULL, 'a'},
                                          {"token", 1, NULL, 't'},
                                          {"topic", 1, NULL, 'o'},
                                          {"conversation", 1, NULL, 'v'},
                                          {"dir", 1, NULL, 'd'},
                                          {"connections", 1, NULL, 'c'},
                                          {"in-flight", 1, NULL, 'w'},
                                          {"bytes", 1, NULL, 'b'},
                                          {"seconds", 1, NULL, 's'},
                                          {"count", 1, NULL, 'n'},
                                          {"help", 0, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'p':
            for (o->peer = 0; o->peer < PEERS; o->peer++)
                if (strcmp(durable_peer_names[o->peer], optarg) == 0)
                    break;
            break;
        case 'a':
            o->address = optarg;
            break;
        case 't':
            o->token = optarg;
            break;
        case 'o':
            o->topic = optarg;
            break;
        case 'v':
            o->conversation = optarg;
            break;
        case 'd':
            o->dir = optarg;
            break;
        case 'c':
            o->connections = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'w':
            o->in_flight = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'b':
            o->bytes = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 's':
            o->seconds = strtod(optarg, NULL);
            break;
        case 'n':
            o->count = strtoull(optarg, NULL, 10);
            break;
        default:
            usage(c == 'h' ? stdout : stderr);
            exit(c == 'h' ? 0 : 2);
        }
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(const struct durable_options *o);
        bool wants_server;
    } commands[] = {{"load", durable_load, true},       {"fill", durable_fill, true},
                    {"backlog", durable_backlog, true}, {"sqlite", durable_sqlite, false},
                    {"fsync", durable_fsync, false},    {"chain", durable_chain, false}};
    struct durable_options o = {.connections = 4,
                                .in_flight = 256,
                                .bytes = 200,
                                .seconds = 2,
                                .topic = "log.1",
                                .token = ""};
    parse(argc, argv, &o);
    bool sane = o.peer < PEERS && o.bytes > 0 && o.bytes <= 1000 && o.seconds > 0 &&
                o.connections > 0 && o.connections <= DURABLE_CONNS_MAX &&
                o.in_flight >= o.connections && o.in_flight / o.connections <= DURABLE_WINDOW_MAX &&
                strlen(o.token) < 1500;
    for (size_t i = 0; sane && optind == argc - 1 && i < PTN_ARRAY_LEN(commands); i++) {
        if (strcmp(argv[optind], commands[i].name) != 0)
            continue;
        if ((commands[i].wants_server ? o.address : o.dir) == NULL)
            break;
        commands[i].run(&o);
        return 0;
    }
    usage(stderr);
    return 2;
}
