#include "rows/jsonl.h"

#include <bit>
#include <cstring>
#include <limits>

// PENSTOCK_PLAIN_WINDOW: what other processors get.
#if defined(__SSE2__) && !defined(PENSTOCK_PLAIN_WINDOW)
#define PENSTOCK_SSE2_WINDOW 1
#include <emmintrin.h>
#endif

#include "text/unicode.h"
#include "text/utf8.h"

namespace penstock::rows {
namespace {

constexpr unsigned kMaxDepth = 32;  // of what is passed over
constexpr std::size_t kMaxFields = 64;

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

// What ends a run of plain characters within a string: its end, an escape, or what may not be there.
bool is_odd(char c) noexcept { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20; }

#ifdef PENSTOCK_SSE2_WINDOW

// Some bytes at once: which are odd, and whether some are not ASCII.
class Window {
  public:
    static constexpr std::size_t kSize = 16;

    explicit Window(const char* at) noexcept
        : bytes_(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))) {}

    void store(char* to) const noexcept { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes_); }
    bool is_wide() const noexcept { return _mm_movemask_epi8(bytes_) != 0; }
    // How many bytes stand before the first odd one; kSize if there is none.
    std::size_t num_plain() const noexcept {
        const __m128i quote = _mm_cmpeq_epi8(bytes_, _mm_set1_epi8('"'));
        const __m128i slash = _mm_cmpeq_epi8(bytes_, _mm_set1_epi8('\\'));
        const __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(bytes_, _mm_set1_epi8(0x1f)), bytes_);
        const int odd = _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, slash), control));
        return static_cast<std::size_t>(std::countr_zero(static_cast<unsigned>(odd) | 1u << kSize));
    }

  private:
    __m128i bytes_;
};

#else

class Window {
  public:
    static constexpr std::size_t kSize = 8;
    static_assert(std::endian::native == std::endian::little, "the first byte is the lowest");

    explicit Window(const char* at) noexcept { std::memcpy(&bytes_, at, kSize); }

    void store(char* to) const noexcept { std::memcpy(to, &bytes_, kSize); }
    bool is_wide() const noexcept { return (bytes_ & kHigh) != 0; }
    std::size_t num_plain() const noexcept {
        const std::uint64_t odd =
            zeros(bytes_ ^ kOnes * '"') | zeros(bytes_ ^ kOnes * '\\') | zeros(bytes_ & kOnes * 0xe0);
        return static_cast<std::size_t>(std::countr_zero(odd)) / 8;
    }

  private:
    static constexpr std::uint64_t kOnes = 0x0101010101010101u, kHigh = kOnes * 0x80;

    // The highest bit of each byte that is zero, and of no other.
    static std::uint64_t zeros(std::uint64_t word) noexcept {
        return ~(((word & ~kHigh) + ~kHigh) | word) & kHigh;
    }

    std::uint64_t bytes_;
};

#endif

// One line. Every method goes on from where the last one stopped, and says whether all was in order so far.
class LineReader {
  public:
    LineReader(const char* begin, const char* end, const char* text_end) noexcept
        : at_(begin), end_(end), text_end_(text_end) {}

    // Appends the string of each field to its bytes: `sizes` are how many these are.
    bool read_object(std::span<const StringField> fields, std::size_t* sizes) noexcept {
        skip_space();
        if (!take('{')) return false;
        std::uint64_t seen = 0;
        do {
            skip_space();
            std::string_view key;
            if (!take_key(key)) return false;
            const std::size_t field = find(fields, key);
            if (field == fields.size()) {
                if (!skip_value(0)) return false;
            } else {
                if ((seen >> field & 1) != 0) return false;
                seen |= std::uint64_t{1} << field;
                if (!take_string(fields[field].bytes, sizes[field])) return false;
            }
            skip_space();
        } while (take(','));
        if (!take('}')) return false;
        skip_space();
        return at_ == end_ && std::popcount(seen) == static_cast<int>(fields.size());
    }

  private:
    static std::size_t find(std::span<const StringField> fields, std::string_view key) noexcept {
        std::size_t field = 0;
        while (field < fields.size() && fields[field].name != key) ++field;
        return field;
    }

    bool take(char wanted) noexcept {
        if (at_ == end_ || *at_ != wanted) return false;
        ++at_;
        return true;
    }

    void skip_space() noexcept {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\r')) ++at_;
    }

    // A key, the colon behind it, and the space behind that. A key with an escape could be any field's.
    bool take_key(std::string_view& key) noexcept {
        if (!take('"')) return false;
        const char* const begin = at_;
        bool is_wide = false;
        run<false>(nullptr, is_wide);
        key = {begin, at_};
        if (!take('"')) return false;
        skip_space();
        if (!take(':')) return false;
        skip_space();
        return true;
    }

    // Goes to the next odd byte, or to the end of the line. Returns how many bytes it passed, and copies them, and
    // perhaps some that are behind these.
    template <bool copies>
    std::size_t run(char* to, bool& is_wide) noexcept {
        const char* const begin = at_;
        pass<copies>(to, is_wide);
        if (at_ > end_) at_ = end_;
        return static_cast<std::size_t>(at_ - begin);
    }

    template <bool copies>
    void pass(char* to, bool& is_wide) noexcept {
        const char* const begin = at_;
        while (static_cast<std::size_t>(text_end_ - at_) >= Window::kSize) {
            const Window window(at_);
            if constexpr (copies) window.store(to + (at_ - begin));
            is_wide = is_wide || window.is_wide();
            const std::size_t count = window.num_plain();
            at_ += count;
            if (count != Window::kSize) return;
        }
        for (; at_ != text_end_ && !is_odd(*at_); ++at_) {
            if constexpr (copies) to[at_ - begin] = *at_;
            is_wide = is_wide || static_cast<unsigned char>(*at_) >= 0x80;
        }
    }

    bool take_string(char* bytes, std::size_t& size) noexcept {
        if (!take('"')) return false;
        bool is_wide = false;
        char* to = bytes + size;
        for (;;) {
            to += run<true>(to, is_wide);
            if (take('"')) break;
            if (!take_escape(to)) return false;
        }
        const std::string_view made(bytes + size, to);
        size += made.size();
        return !is_wide || text::is_utf8(made);
    }

    bool skip_string() noexcept {
        if (!take('"')) return false;
        bool is_wide = false;
        for (;;) {
            run<false>(nullptr, is_wide);
            if (take('"')) return true;
            char made[4];
            char* to = made;
            if (!take_escape(to)) return false;
        }
    }

    // Writes what an escape stands for, which is never longer than the escape.
    bool take_escape(char*& to) noexcept {
        if (!take('\\') || at_ == end_) return false;
        switch (*at_++) {
            case '"':
                *to++ = '"';
                return true;
            case '\\':
                *to++ = '\\';
                return true;
            case '/':
                *to++ = '/';
                return true;
            case 'b':
                *to++ = '\b';
                return true;
            case 'f':
                *to++ = '\f';
                return true;
            case 'n':
                *to++ = '\n';
                return true;
            case 'r':
                *to++ = '\r';
                return true;
            case 't':
                *to++ = '\t';
                return true;
            case 'u':
                return take_code(to);
            default:
                return false;
        }
    }

    // The digits of \u, or of two of them that make a surrogate pair.
    bool take_code(char*& to) noexcept {
        std::uint32_t rune = 0;
        if (!take_hex(rune) || (rune >= 0xdc00 && rune < 0xe000)) return false;
        if (rune >= 0xd800 && rune < 0xdc00) {
            std::uint32_t low = 0;
            if (!take('\\') || !take('u') || !take_hex(low) || low < 0xdc00 || low >= 0xe000) return false;
            rune = 0x10000 + ((rune - 0xd800) << 10) + (low - 0xdc00);
        }
        to += text::encode(static_cast<text::Rune>(rune), to);
        return true;
    }

    bool take_hex(std::uint32_t& value) noexcept {
        if (end_ - at_ < 4) return false;
        for (int i = 0; i < 4; ++i) {
            const char c = *at_++;
            const char lower = static_cast<char>(c | 0x20);
            if (is_digit(c)) {
                value = value << 4 | static_cast<std::uint32_t>(c - '0');
            } else if (lower >= 'a' && lower <= 'f') {
                value = value << 4 | static_cast<std::uint32_t>(lower - 'a' + 10);
            } else {
                return false;
            }
        }
        return true;
    }

    bool skip_value(unsigned depth) noexcept {
        if (at_ == end_ || depth == kMaxDepth) return false;
        switch (*at_) {
            case '"':
                return skip_string();
            case '{':
                return skip_members(depth, '}', true);
            case '[':
                return skip_members(depth, ']', false);
            case 't':
                return take_word("true");
            case 'f':
                return take_word("false");
            case 'n':
                return take_word("null");
            default:
                return skip_number();
        }
    }

    bool skip_members(unsigned depth, char close, bool have_keys) noexcept {
        ++at_;
        skip_space();
        if (take(close)) return true;
        do {
            skip_space();
            std::string_view key;
            if (have_keys && !take_key(key)) return false;
            if (!skip_value(depth + 1)) return false;
            skip_space();
        } while (take(','));
        return take(close);
    }

    bool take_word(std::string_view word) noexcept {
        if (!std::string_view(at_, end_).starts_with(word)) return false;
        at_ += word.size();
        return true;
    }

    bool skip_number() noexcept {
        take('-');
        if (!take('0') && !skip_digits()) return false;
        if (take('.') && !skip_digits()) return false;
        if (take('e') || take('E')) {
            if (!take('+')) take('-');
            return skip_digits();
        }
        return true;
    }

    bool skip_digits() noexcept {
        const char* const begin = at_;
        while (at_ != end_ && is_digit(*at_)) ++at_;
        return at_ != begin;
    }

    const char* at_;
    const char* const end_;
    const char* const text_end_;
};

}  // namespace

std::vector<std::int64_t> newlines(std::string_view text) {
    std::vector<std::int64_t> found;
    const char* at = text.data();
    const char* const end = at + text.size();
    while (at != end) {
        at = static_cast<const char*>(std::memchr(at, '\n', static_cast<std::size_t>(end - at)));
        if (at == nullptr) break;
        found.push_back(at - text.data());
        ++at;
    }
    return found;
}

bool read_strings(const Lines& lines, std::span<const StringField> fields) noexcept {
    if (fields.empty() || fields.size() > kMaxFields) return false;
    if (lines.text.size() > std::numeric_limits<std::int32_t>::max()) return false;
    std::size_t sizes[kMaxFields] = {};
    for (const StringField& field : fields) field.offsets[0] = 0;
    const char* const text = lines.text.data();
    for (std::size_t line = 0; line < lines.starts.size(); ++line) {
        LineReader reader(text + lines.starts[line], text + lines.ends[line], text + lines.text.size());
        if (!reader.read_object(fields, sizes)) return false;
        for (std::size_t at = 0; at < fields.size(); ++at) {
            fields[at].offsets[line + 1] = static_cast<std::int32_t>(sizes[at]);
        }
    }
    return true;
}

}  // namespace penstock::rows
