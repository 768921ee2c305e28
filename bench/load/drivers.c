/* SPDX-License-Identifier: Apache-2.0
 *
 * drivers.c - the drivers there are.
 */
#include "bench/load/driver.h"

extern const struct bench_driver bench_postern_ws_json, bench_postern_ws_msgpack,
    bench_postern_ws_deflate, bench_postern_rest, bench_postern_zmq, bench_http, bench_nats,
    bench_nats_ws, bench_mosquitto, bench_mosquitto_ws, bench_redis, bench_nchan, bench_zmq,
    bench_raw;

const struct bench_driver *const bench_drivers[] = {
    &bench_postern_ws_json,
    &bench_postern_ws_msgpack,
    &bench_postern_ws_deflate,
    &bench_postern_zmq,
    &bench_postern_rest,
    &bench_http,
    &bench_nats,
    &bench_nats_ws,
    &bench_mosquitto,
    &bench_mosquitto_ws,
    &bench_redis,
    &bench_nchan,
    &bench_zmq,
    &bench_raw,
    NULL,
};
