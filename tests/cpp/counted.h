// An item that counts its living and notices misuse.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <utility>

#include "check.h"

// Owns a "resource" the way unique_ptr does: a moved-from item owns nothing. Its words are plain memory,
// so ThreadSanitizer sees every unordered access to them.
class Counted {
  public:
    explicit Counted(std::uint64_t value) : owns_(true) {
        words_.fill(value);
        ++living();
    }
    Counted(Counted&& other) noexcept : owns_(std::exchange(other.owns_, false)), words_(other.words_) {
        other.words_.fill(0);
    }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    Counted& operator=(Counted&&) = delete;
    ~Counted() {
        if (std::exchange(owns_, false)) --living();
    }

    std::uint64_t value() const {
        CHECK(owns_);
        for (const std::uint64_t word : words_) CHECK(word == words_[0]);
        return words_[0];
    }

    // Items that own something, in all threads.
    static std::atomic<long>& living() {
        static std::atomic<long> count{0};
        return count;
    }

  private:
    bool owns_;
    std::array<std::uint64_t, 6> words_;
};
