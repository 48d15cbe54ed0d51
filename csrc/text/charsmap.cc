#include "text/charsmap.h"

#include <stdexcept>

#include "text/lookup.h"
#include "text/normalize.h"
#include "text/utf8.h"

namespace penstock::text {

namespace {

#include "text/charsmap_tables.inc"

// What a code point does to grapheme clusters. Only clusters of less than kWhole bytes matter: longer ones are
// replaced code point by code point, as if they were none.
enum Cluster : std::uint8_t { kAlone = 0, kJoins = 1, kPrepends = 2, kControl = 3 };

constexpr std::size_t kWhole = 6;

std::uint8_t cluster(Rune rune) noexcept { return look_up(kClusterIndex, kClusterBlocks, rune); }

bool is_hangul(Rune rune) noexcept {
    return (rune >= 0x1100 && rune <= 0x11ff) || (rune >= 0xa960 && rune <= 0xa97f) ||
           (rune >= 0xac00 && rune <= 0xd7ff);
}

// Whether a code point that is looked up alone stays as it is. Finds out damage, too.
bool stays(const Charsmap& charsmap, Rune rune) {
    if (rune >= 0xd800 && rune < 0xe000) return false;
    char bytes[4];
    std::string_view content;
    const auto answer = charsmap.find({bytes, encode(rune, bytes)}, content);
    if (answer == Charsmap::Answer::kDamaged) {
        throw std::invalid_argument("Precompiled: the charsmap points outside itself");
    }
    return answer == Charsmap::Answer::kNone;
}

// A grapheme cluster, or as much of one as makes no difference, and what becomes of it.
struct Cut {
    const char* end = nullptr;
    Rune last = 0;
    enum { kEach, kWholly, kUnknown } way = kEach;  // each code point for itself; all by `content`; not known
    std::string_view content;
};

class Precompiled final : public Normalizer {
  public:
    explicit Precompiled(Charsmap charsmap)
        : Normalizer(RuneSet([&](Rune rune) { return stays(charsmap, rune) && cluster(rune) == kAlone; })),
          stays_([&](Rune rune) { return stays(charsmap, rune); }),
          charsmap_(std::move(charsmap)) {}

    bool is_normal(std::string_view text) const noexcept override {
        return walk(text, [this](const Cut& cut, const char* from) {
            return cut.way == Cut::kEach && stays_.skip(from, cut.end) == cut.end;
        });
    }

    bool apply(std::string_view text, std::string& out) const override {
        out.clear();
        out.reserve(text.size() + text.size() / 8);
        const char* copied = text.data();
        const bool known = walk(text, [&](const Cut& cut, const char* from) {
            if (cut.way == Cut::kUnknown) return false;
            if (cut.way == Cut::kEach && stays_.skip(from, cut.end) == cut.end) return true;
            out.append(copied, from);
            copied = cut.end;
            if (cut.way == Cut::kWholly) {
                out.append(cut.content);
                return true;
            }
            for (const char* each = from; each < cut.end;) {
                const std::size_t length = sequence_length(static_cast<unsigned char>(*each));
                std::string_view content(each, length);
                if (charsmap_.find(content, content) == Charsmap::Answer::kDamaged) return false;
                out.append(content);
                each += length;
            }
            return true;
        });
        if (known) out.append(copied, text.data() + text.size());
        return known;
    }

  private:
    // Calls see(cut, where it begins) for each cluster that may not stay as it is, until it says false.
    template <typename See>
    bool walk(std::string_view text, const See& see) const {
        const char* at = text.data();
        const char* const end = at + text.size();
        Rune before = 0;  // the code point before `at`, or none
        while (at < end) {
            const char* from = plain().skip(at, end);
            if (from == end) break;
            if (from != at && cluster(decode(from)) == kJoins) {
                // The last plain code point belongs to what joins it. If that makes it too long, nothing happens.
                const char* const base = previous_rune(from);
                const char* const to = after_long_joiners(from, end);
                if (from - base > 2 && to != from && (to == end || cluster(decode(to)) != kJoins)) {
                    before = decode(previous_rune(to));
                    at = to;
                    continue;
                }
                from = base;
            }
            if (from != at) before = decode(previous_rune(from));
            const Cut cut = next_cluster(from, end, before);
            if (!see(cut, from)) return false;
            before = cut.last;
            at = cut.end;
        }
        return true;
    }

    static const char* previous_rune(const char* at) noexcept {
        do {
            --at;
        } while (is_continuation(*at));
        return at;
    }

    // Over code points of 3 bytes or more that join and stay.
    const char* after_long_joiners(const char* at, const char* end) const noexcept {
        while (at < end) {
            const std::size_t length = sequence_length(static_cast<unsigned char>(*at));
            if (length < 3 || cluster(decode(at)) != kJoins || !stays_.contains(decode(at))) break;
            at += length;
        }
        return at;
    }

    Cut next_cluster(const char* from, const char* end, Rune before) const noexcept {
        const Rune rune = decode(from);
        const std::uint8_t kind = cluster(rune);
        const char* const one = from + sequence_length(static_cast<unsigned char>(*from));
        Cut cut{.end = one, .last = rune, .content = {}};
        if (rune == '\r') {
            if (one < end && *one == '\n') cut.last = '\n', ++cut.end;
        } else if (kind != kControl) {
            while (cut.end < end) {
                const Rune next = decode(cut.end);
                if (cluster(next) != kJoins) break;
                cut.last = next;
                cut.end += sequence_length(static_cast<unsigned char>(*cut.end));
            }
        }
        const auto size = static_cast<std::size_t>(cut.end - from);
        if (cut.end != one && size < kWhole) {
            const auto answer = charsmap_.find({from, size}, cut.content);
            if (answer == Charsmap::Answer::kDamaged) cut.way = Cut::kUnknown;
            if (answer == Charsmap::Answer::kFound) {
                const bool goes_on = cut.last == kJoiner && cut.end < end && (rune == 0xa9 || rune == 0xae);
                cut.way = goes_on || may_join(before, rune) ? Cut::kUnknown : Cut::kWholly;
            }
        }
        // What a prepending code point takes in makes no difference if nothing in the charsmap begins with it.
        if (kind == kPrepends) {
            const std::string_view rest(from, static_cast<std::size_t>(end - from));
            if (charsmap_.find(rest, cut.content) != Charsmap::Answer::kNone) cut.way = Cut::kUnknown;
        }
        return cut;
    }

    // Whether two neighbours may be in one cluster by a rule that is not followed here: after a prepending code
    // point, between the parts of a Hangul syllable, in Indic conjuncts, in emoji sequences.
    static bool may_join(Rune before, Rune rune) noexcept {
        switch (cluster(before)) {
            case kPrepends:
                return cluster(rune) != kControl;
            case kJoins:
                return rune >= 0x900 || rune == 0xa9 || rune == 0xae;
            default:
                return is_hangul(before) && is_hangul(rune);
        }
    }

    static constexpr Rune kJoiner = 0x200d;  // ZERO WIDTH JOINER

    RuneSet stays_;  // alone; what joins another may be among them
    Charsmap charsmap_;
};

}  // namespace

Charsmap::Charsmap(std::string_view bytes) {
    const auto word = [&](std::size_t at) {
        std::uint32_t value = 0;
        for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
        return value;
    };
    if (bytes.size() < 4) throw std::invalid_argument("Precompiled: the charsmap is shorter than its header");
    const std::size_t count = word(0) / 4;
    if (count > (bytes.size() - 4) / 4) {
        throw std::invalid_argument("Precompiled: the charsmap is shorter than its header says");
    }
    if (count == 0) throw std::invalid_argument("Precompiled: the charsmap has no trie");
    units_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) units_.push_back(word(4 + 4 * i));
    contents_ = bytes.substr(4 + 4 * count);
    if (!is_utf8(contents_)) throw std::invalid_argument("Precompiled: the charsmap's strings are not UTF-8");
}

Charsmap::Answer Charsmap::find(std::string_view text, std::string_view& content) const noexcept {
    // A unit: the label in the lowest 8 bits and the highest, whether a key ends here in bit 8, and in the others
    // how far its followers are (bit 9: in steps of 256), by exclusive or. The value of a key is its first follower.
    const auto offset = [](std::uint32_t unit) -> std::size_t {
        return (unit >> 10) << ((unit & 1u << 9) >> 6);
    };
    std::size_t node = offset(units_[0]);
    for (const char each : text) {
        const auto byte = static_cast<unsigned char>(each);
        if (byte == 0) break;
        node ^= byte;
        if (node >= units_.size()) return Answer::kDamaged;
        const std::uint32_t unit = units_[node];
        if ((unit & (1u << 31 | 0xff)) != byte) break;
        node ^= offset(unit);
        if ((unit >> 8 & 1) == 0) continue;
        if (node >= units_.size()) return Answer::kDamaged;
        const std::size_t from = units_[node] & ~(1u << 31);
        if (from > contents_.size() || is_continuation(contents_.c_str()[from])) return Answer::kDamaged;
        const std::size_t to = contents_.find('\0', from);
        content = std::string_view(contents_).substr(from, to == std::string::npos ? to : to - from);
        return Answer::kFound;
    }
    return Answer::kNone;
}

std::unique_ptr<Normalizer> make_precompiled(std::string_view charsmap) {
    return std::make_unique<Precompiled>(Charsmap(charsmap));
}

}  // namespace penstock::text
