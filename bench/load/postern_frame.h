/* SPDX-License-Identifier: Apache-2.0
 *
 * postern_frame.h - Postern's msgpack frames, for its drivers: written without a library, read only
 * as far as it takes.
 */
#ifndef POSTERN_BENCH_LOAD_POSTERN_FRAME_H
#define POSTERN_BENCH_LOAD_POSTERN_FRAME_H

#include "bench/load/driver.h"

/* {type, topic?, token?, durability?}; NULL: absent.  Returns its size, 2,600 bytes at most with a
 * token of 2,048. */
size_t bench_postern_frame(uint8_t *out, const char *type, const char *topic, const char *token,
                           const char *durability);
/* Adds `data`, a string, to a frame of `frame_bytes`; returns the new size. */
size_t bench_postern_data(uint8_t *out, size_t frame_bytes, const void *payload, size_t n);
/* What a frame is; BENCH_NOTHING: a greeting. */
enum bench_got bench_postern_msgpack(const struct bench_target *t, ptn_bytes frame,
                                     ptn_bytes *ret_payload);

#endif
