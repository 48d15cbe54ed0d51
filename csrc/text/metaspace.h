// What the pre-tokenizer Metaspace is told.

#pragma once

#include <string>

namespace penstock::text {

struct Metaspace {
    enum class Prepend { kAlways, kFirst, kNever };

    std::string replacement = "\xe2\x96\x81";  // "▁": one character, what a space becomes
    Prepend prepend =
        Prepend::kAlways;  // before text that does not begin with it; kFirst: only where the document begins
    bool split = true;     // words begin at it
};

}  // namespace penstock::text
