// csrc/rows/jsonl.h: what it reads it reads right, and what is odd it leaves alone.

#include "rows/jsonl.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "check.h"

using penstock::rows::Lines;
using penstock::rows::newlines;
using penstock::rows::read_strings;
using penstock::rows::room_for_strings;
using penstock::rows::StringField;

namespace {

using Strings = std::vector<std::string>;

// Each text in memory of exactly its size, so that a sanitizer sees a byte too far. Strings of one field, line by line.
std::optional<std::vector<Strings>> read(const std::string& text, const Strings& names) {
    const std::unique_ptr<char[]> exact(new char[text.size()]);
    std::copy(text.begin(), text.end(), exact.get());
    const std::string_view all(exact.get(), text.size());
    std::vector<std::int64_t> starts{0}, ends;
    for (const std::int64_t newline : newlines(all)) {
        ends.push_back(newline);
        starts.push_back(newline + 1);
    }
    ends.push_back(static_cast<std::int64_t>(text.size()));
    if (starts.back() == ends.back()) starts.pop_back(), ends.pop_back();
    std::vector<std::unique_ptr<char[]>> bytes;
    std::vector<std::vector<std::int32_t>> offsets;
    std::vector<StringField> fields;
    for (const std::string& name : names) {
        bytes.emplace_back(new char[room_for_strings(all)]);
        offsets.emplace_back(starts.size() + 1);
        fields.push_back({name, bytes.back().get(), offsets.back().data()});
    }
    if (!read_strings(Lines{all, starts, ends}, fields)) return std::nullopt;
    std::vector<Strings> found;
    for (std::size_t field = 0; field < names.size(); ++field) {
        found.emplace_back();
        for (std::size_t line = 0; line < starts.size(); ++line) {
            const auto begin = static_cast<std::size_t>(offsets[field][line]);
            const auto end = static_cast<std::size_t>(offsets[field][line + 1]);
            found.back().emplace_back(bytes[field].get() + begin, end - begin);
        }
    }
    return found;
}

bool reads(const std::string& line) { return read(line, {"text"}).has_value(); }

std::string text_of(const std::string& line) {
    const auto found = read(line, {"text"});
    CHECK(found.has_value());
    return (*found)[0][0];
}

}  // namespace

TEST(newlines_are_found_where_they_are) {
    CHECK(newlines("").empty());
    CHECK(newlines("water").empty());
    CHECK((newlines("\na\n\nb") == std::vector<std::int64_t>{0, 2, 3}));
}

TEST(fields_come_line_by_line_in_the_order_asked_for) {
    const auto found = read(
        "{\"id\": \"1\", \"text\": \"one\"}\n{\"text\":\"\",\"other\":[1,{\"a\":null}],\"id\":\"2\"}\r\n",
        {"text", "id"});
    CHECK(found.has_value());
    CHECK(((*found)[0] == Strings{"one", ""}));
    CHECK(((*found)[1] == Strings{"1", "2"}));
}

TEST(every_length_comes_whole_with_what_ends_it_at_every_place) {
    for (std::size_t length = 0; length < 70; ++length) {
        const std::string plain(length, 'w');
        CHECK(text_of("{\"text\":\"" + plain + "\"}") == plain);
        CHECK(text_of("{\"text\":\"" + plain + "\\n" + plain + "\"}") == plain + "\n" + plain);
        CHECK(text_of("{\"" + plain + "\":\"" + plain + "\",\"text\":\"x\"}") == "x");
        CHECK(!reads("{\"text\":\"" + plain + "\t\"}"));
        CHECK(!reads("{\"text\":\"" + plain));
        CHECK(!reads("{\"text\":\"" + plain + "\n\"}"));
    }
}

TEST(escapes_stand_for_their_characters) {
    CHECK(text_of(R"({"text": "\"\\\/\b\f\n\r\t"})") == "\"\\/\b\f\n\r\t");
    CHECK(text_of(R"({"text": "\u0041\u00e9\u6c34\ud83c\udf0A"})") == "A\u00e9\u6c34\U0001f30a");
    CHECK(text_of(R"({"text": "\u0000"})") == std::string(1, '\0'));
    CHECK(text_of("{\"text\": \"\xc3\xa9\"}") == "\xc3\xa9");
    for (const char* wrong : {R"(\x41)", R"(\u00g0)", R"(\u004)", R"(\ud800)", R"(\udc00)", R"(\ud800\u0041)",
                              R"(\ud800x)", "\\", "\xff", "\xed\xa0\x80", "\xc3"}) {
        CHECK(!reads("{\"text\": \"" + std::string(wrong) + "\"}"));
        CHECK(!reads("{\"text\": \"an ordinary beginning " + std::string(wrong) + "\"}"));
    }
}

TEST(what_nobody_wants_must_be_json_all_the_same) {
    for (const char* value : {"0", "-0", "12", "-1.5", "1e9", "1E+9", "0.5e-3", "true", "false", "null",
                              "\"\"", "[]", "[ ]", "{}", "{ }", "[1, [2]]", "{\"text\": [\"x\"]}"}) {
        CHECK(reads("{\"x\": " + std::string(value) + ", \"text\": \"a\"}"));
        CHECK(reads("{\"text\": \"a\", \"x\" : [ " + std::string(value) + " ] }"));
    }
    for (const char* value : {"", "01", "+1", "1.", ".5", "1e", "-", "NaN", "Infinity", "trUe", "null0",
                              "[1,]", "[", "{\"a\"}", "{\"a\":}", "{1:2}", "'x'", "\"\\ud800\"", "1 2"}) {
        CHECK(!reads("{\"x\": " + std::string(value) + ", \"text\": \"a\"}"));
    }
}

TEST(what_a_line_may_not_be) {
    for (const char* line : {"", "null", "[]", "{}", "{\"text\": \"a\",}", "{\"text\": \"a\"} x",
                             "{\"text\": \"a\"}{\"text\": \"b\"}", "{\"text\": null}", "{\"text\": 5}",
                             "{\"body\": \"a\"}", "{\"text\": \"a\", \"text\": \"b\"}", "{\"text\" \"a\"}",
                             "{text: \"a\"}", "{\"te\\u0078t\": \"a\"}", "{\"text\": \"a\""}) {
        CHECK(!reads(line + std::string("\n{\"text\": \"good\"}")));
        CHECK(!reads("{\"text\": \"good\"}\n" + std::string(line) + "\n"));
    }
    CHECK(reads("{\"text\": \"good\"}\n \t{\"text\": \"good\"} \r\n"));
}

TEST(much_nesting_is_left_to_others) {
    const auto nested = [](std::size_t depth) {
        return "{\"x\": " + std::string(depth, '[') + std::string(depth, ']') + ", \"text\": \"a\"}";
    };
    CHECK(reads(nested(31)));
    CHECK(!reads(nested(33)));
    CHECK(!reads(nested(200'000)));
}

TEST(every_cut_of_a_line_is_refused) {
    const std::string line =
        R"({"id": "b\u00e9\ud83c\udf0a", "x": [-1.5e+3, {"k": true, "l": "\n"}, null], "text": "water\tfalls"})";
    CHECK(reads(line));
    for (std::size_t size = 0; size < line.size(); ++size) CHECK(size == 0 || !reads(line.substr(0, size)));
}

TEST(a_line_is_read_no_further_than_it_goes) {
    // The caller may have cut in the middle of a string: what lies behind is not this line's.
    const std::string text = "{\"text\": \"abc\"}";
    const std::vector<std::int64_t> starts{0}, ends{static_cast<std::int64_t>(text.size()) - 4};
    std::vector<char> bytes(room_for_strings(text));
    std::vector<std::int32_t> offsets(2);
    const std::vector<StringField> fields{{"text", bytes.data(), offsets.data()}};
    CHECK(!read_strings(Lines{text, starts, ends}, fields));
}

CHECK_MAIN()
