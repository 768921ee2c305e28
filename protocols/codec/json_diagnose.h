/* SPDX-License-Identifier: Apache-2.0
 *
 * json_diagnose.h - where and why a text is not JSON that we accept.
 */
#ifndef POSTERN_CODEC_JSON_DIAGNOSE_H
#define POSTERN_CODEC_JSON_DIAGNOSE_H

#include <postern/codec.h>

/* Finds the first thing in json that ptn_json_to_msgpack refuses (other than its size) and fills
 * ret_error.  False: nothing is wrong with it. */
bool ptn__json_diagnose(ptn_str json, uint32_t depth_max, ptn_codec_error *ret_error);

#endif
