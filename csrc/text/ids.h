// Token ids, appended one after another.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <utility>

namespace penstock::text {

using Id = std::int32_t;

// A vector of ids that does not write zeros before it is written to.
class Ids {
  public:
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    Id* data() noexcept { return ids_.get(); }
    const Id* data() const noexcept { return ids_.get(); }
    std::span<const Id> all() const noexcept { return {ids_.get(), size_}; }

    // Where to write the next ids; there is room for `count` of them. Call grow_by() with how many there are.
    Id* room_for(std::size_t count) {
        if (size_ + count > capacity_) [[unlikely]]
            grow(size_ + count);
        return ids_.get() + size_;
    }
    // Makes room for so many ids in all, so that no memory is moved until there are more.
    void reserve(std::size_t count) {
        if (count > capacity_) set_capacity(count);
    }
    // Gives memory back that is not used, where it is much.
    void shrink() {
        if (capacity_ - size_ > size_ / 4) set_capacity(size_);
    }
    void grow_by(std::size_t count) noexcept { size_ += count; }

    void push(Id id) {
        *room_for(1) = id;
        ++size_;
    }
    void append(std::span<const Id> ids) {
        if (ids.empty()) return;
        std::memcpy(room_for(ids.size()), ids.data(), ids.size_bytes());
        size_ += ids.size();
    }
    void truncate(std::size_t size) noexcept { size_ = size < size_ ? size : size_; }
    void clear() noexcept { size_ = 0; }
    // Only so many of the ids stay, at most all: the first ones, or the last.
    void keep(std::size_t count, bool last) noexcept {
        if (last && count < size_) std::memmove(ids_.get(), ids_.get() + size_ - count, count * sizeof(Id));
        size_ = count;
    }

  private:
    struct Free {
        void operator()(Id* ids) const noexcept { std::free(ids); }
    };

    void grow(std::size_t least) { set_capacity(least < 2 * capacity_ ? 2 * capacity_ : least + 64); }
    void set_capacity(std::size_t capacity) {
        // Never of no bytes, for which realloc() may say null.
        void* const moved = std::realloc(ids_.get(), (capacity + 1) * sizeof(Id));
        if (moved == nullptr) throw std::bad_alloc();
        (void)ids_.release();
        ids_.reset(static_cast<Id*>(moved));
        capacity_ = capacity;
    }

    std::unique_ptr<Id, Free> ids_;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

}  // namespace penstock::text
