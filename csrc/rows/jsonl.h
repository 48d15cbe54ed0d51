// Strings out of JSON Lines: the fields that are wanted, straight into arrays as Arrow lays them out.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace penstock::rows {

// Where a newline stands in a text.
std::vector<std::int64_t> newlines(std::string_view text);

// Lines of one text, one behind the other: line i is the bytes [starts[i], ends[i]).
struct Lines {
    std::string_view text;
    std::span<const std::int64_t> starts;
    std::span<const std::int64_t> ends;
};

// A field that is wanted, and the caller's memory for its strings.
struct StringField {
    std::string_view name;
    char* bytes;  // room_for_strings() of them
    std::int32_t*
        offsets;  // one for each line and one more: string i is the bytes [offsets[i], offsets[i + 1])
};

// Bytes that the strings of one field may take, and that may be written: whole vectors are.
constexpr std::size_t room_for_strings(std::string_view text) noexcept { return text.size() + 16; }

// Reads the fields of every line. Each line must be one JSON object, to the letter of RFC 8259, with each field
// exactly once and a string, well-formed UTF-8 without a lone surrogate. False: some line is not, or holds what is
// rare and left to a slower reader (a key with an escape, much nesting, 2 GB of text); what was written means nothing.
// Does not allocate, and reads nothing outside of the text.
bool read_strings(const Lines& lines, std::span<const StringField> fields) noexcept;

}  // namespace penstock::rows
