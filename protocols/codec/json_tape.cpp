/* SPDX-License-Identifier: Apache-2.0
 *
 * json_tape.cpp - simdjson and the C++ library's number conversion behind C functions.
 *
 * All C++ of the project is in this file.  Nothing throws: simdjson is used without its exceptions
 * and every allocation is nothrow.  The dom keeps a padded copy buffer and simdjson's tables
 * between calls, up to KEEP_BYTES_MAX of input each, so that the steady path allocates nothing and
 * one large text does not hold its memory for ever.
 */
#define SIMDJSON_EXCEPTIONS 0
#include <simdjson.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "protocols/codec/json_tape.h"

static_assert(simdjson::SIMDJSON_VERSION_MAJOR == 3,
              "the tape's layout was checked for simdjson 3");

namespace {

constexpr size_t KEEP_BYTES_MIN = 4096;
constexpr size_t KEEP_BYTES_MAX = size_t{256} << 10;

size_t round_up(size_t n) {
    size_t cap = KEEP_BYTES_MIN;
    while (cap < n)
        cap *= 2;
    return cap;
}

ptn__json_status status_of(simdjson::error_code e) {
    switch (e) {
    case simdjson::SUCCESS:
        return PTN__JSON_OK;
    case simdjson::EMPTY:
        return PTN__JSON_EMPTY;
    case simdjson::DEPTH_ERROR:
        return PTN__JSON_DEPTH;
    case simdjson::UTF8_ERROR:
        return PTN__JSON_UTF8;
    case simdjson::NUMBER_ERROR:
    case simdjson::NUMBER_OUT_OF_RANGE:
        return PTN__JSON_NUMBER;
    case simdjson::STRING_ERROR:
    case simdjson::UNCLOSED_STRING:
    case simdjson::UNESCAPED_CHARS:
        return PTN__JSON_STRING;
    case simdjson::MEMALLOC:
    case simdjson::CAPACITY:
        return PTN__JSON_NO_MEMORY;
    default:
        return PTN__JSON_SYNTAX;
    }
}

} // namespace

struct ptn__json_dom {
    simdjson::dom::parser parser;
    std::unique_ptr<uint8_t[]> copy;
    size_t depth_max = 0;
    size_t capacity = 0; /* bytes of input that copy and parser can take */

    /* False: out of memory, and then the capacity is zero again. */
    bool reserve(size_t n) {
        if (n <= capacity)
            return true;
        size_t cap = round_up(n);
        release();
        copy.reset(new (std::nothrow) uint8_t[cap + simdjson::SIMDJSON_PADDING]);
        if (!copy || parser.allocate(cap, depth_max) != simdjson::SUCCESS ||
            parser.doc.allocate(cap) != simdjson::SUCCESS) {
            release();
            return false;
        }
        capacity = cap;
        return true;
    }

    void release() {
        copy.reset();
        parser = simdjson::dom::parser();
        capacity = 0;
    }
};

struct ptn__json_dom *ptn__json_dom_new(size_t depth_max) {
    auto *dom = new (std::nothrow) ptn__json_dom;
    if (dom != nullptr)
        dom->depth_max = depth_max;
    return dom;
}

void ptn__json_dom_free(struct ptn__json_dom *dom) {
    delete dom;
}

enum ptn__json_status ptn__json_dom_parse(struct ptn__json_dom *dom, const char *p, size_t n,
                                          struct ptn__json_tape *ret_tape) {
    if (n == 0)
        return PTN__JSON_EMPTY;
    if (dom->capacity > KEEP_BYTES_MAX && n <= KEEP_BYTES_MAX)
        dom->release();
    if (!dom->reserve(n))
        return PTN__JSON_NO_MEMORY;
    std::memcpy(dom->copy.get(), p, n);
    std::memset(dom->copy.get() + n, 0, simdjson::SIMDJSON_PADDING);
    auto result = dom->parser.parse(dom->copy.get(), n, false);
    if (result.error() != simdjson::SUCCESS)
        return status_of(result.error());
    ret_tape->words = dom->parser.doc.tape.get();
    ret_tape->strings = dom->parser.doc.string_buf.get();
    return PTN__JSON_OK;
}

bool ptn__simd_utf8_valid(const uint8_t *p, size_t n) {
    return simdjson::validate_utf8(reinterpret_cast<const char *>(p), n);
}

size_t ptn__double_text(double v, char *ret_text) {
    /* Plain digits where people expect them, an exponent where they would be a row of zeros. */
    double size = std::fabs(v);
    bool is_fixed = size == 0 || (size >= 1e-6 && size < 1e17);
    auto format = is_fixed ? std::chars_format::fixed : std::chars_format::scientific;
    auto r = std::to_chars(ret_text, ret_text + PTN__DOUBLE_TEXT_BYTES_MAX - 2, v, format);
    size_t n = static_cast<size_t>(r.ptr - ret_text);
    if (is_fixed && std::memchr(ret_text, '.', n) == nullptr) {
        ret_text[n++] = '.';
        ret_text[n++] = '0';
    }
    return n;
}

bool ptn__double_overflows(const char *p, size_t n) {
    double v = 0;
    auto r = std::from_chars(p, p + n, v);
    if (r.ec != std::errc::result_out_of_range)
        return false;
    /* Out of range is also what is too small: decide by the place of the first digit that counts.
     */
    long long place = 0, exponent = 0;
    bool is_fraction = false, is_counting = false;
    size_t i = p[0] == '-' ? 1 : 0;
    for (; i < n && p[i] != 'e' && p[i] != 'E'; i++) {
        if (p[i] == '.') {
            is_fraction = true;
            continue;
        }
        is_counting = is_counting || p[i] != '0';
        if (is_fraction && !is_counting)
            place--;
        else if (!is_fraction && is_counting)
            place++;
    }
    bool is_negative = i + 1 < n && p[i + 1] == '-';
    for (i++; i < n; i++)
        if (p[i] >= '0' && p[i] <= '9' && exponent < 1000000000)
            exponent = exponent * 10 + (p[i] - '0');
    return place + (is_negative ? -exponent : exponent) > 0;
}
