/* SPDX-License-Identifier: Apache-2.0
 *
 * json_tape.h - the seam to C++: simdjson's parsed form of a JSON text, its UTF-8 check, and
 * doubles as text.
 *
 * The only header that both C and C++ include; it therefore uses neither the project's headers nor
 * exceptions. The tape is documented in simdjson's doc/tape.md and unchanged since its first
 * release: one 64-bit word per item, type in the top byte.
 */
#ifndef POSTERN_CODEC_JSON_TAPE_H
#define POSTERN_CODEC_JSON_TAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ptn__json_dom;

enum ptn__json_status {
    PTN__JSON_OK,
    PTN__JSON_EMPTY,
    PTN__JSON_DEPTH,
    PTN__JSON_UTF8,
    PTN__JSON_NUMBER,
    PTN__JSON_STRING,
    PTN__JSON_SYNTAX,
    PTN__JSON_NO_MEMORY,
};

/* Borrowed from the dom until its next parse. */
struct ptn__json_tape {
    const uint64_t *words; /* words[0] is the root; the low half of it is the number of words */
    const uint8_t
        *strings; /* each: length (32 bits, host order), bytes, NUL; readable 16 bytes beyond */
};

/* depth_max: open containers the parser keeps track of. */
struct ptn__json_dom *ptn__json_dom_new(size_t depth_max);
void ptn__json_dom_free(struct ptn__json_dom *dom); /* accepts NULL */

/* Parses n bytes, which need no padding and no terminator. */
enum ptn__json_status ptn__json_dom_parse(struct ptn__json_dom *dom, const char *p, size_t n,
                                          struct ptn__json_tape *ret_tape);

/* Well-formed UTF-8, by vector instructions chosen at run time. */
bool ptn__simd_utf8_valid(const uint8_t *p, size_t n);

#define PTN__DOUBLE_TEXT_BYTES_MAX 40

/* Shortest text that reads back as v, which is finite; it always has a fraction or an exponent.
 * Writes at most PTN__DOUBLE_TEXT_BYTES_MAX bytes, returns how many. */
size_t ptn__double_text(double v, char *ret_text);

/* True when the n bytes, a JSON number, are beyond the largest double. */
bool ptn__double_overflows(const char *p, size_t n);

#ifdef __cplusplus
}
#endif
#endif
