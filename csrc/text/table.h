// Memory for hash tables.

#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace penstock::text {

// Zeroed memory for a table: aligned to lines of cache, and in huge pages where there are any.
template <typename Item>
class Table {
  public:
    static_assert(std::is_trivially_copyable_v<Item>);

    explicit Table(std::size_t size) : size_(size) {
        const std::size_t bytes = size * sizeof(Item);
        const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
        const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
        items_.reset(static_cast<Item*>(std::aligned_alloc(alignment, rounded)));
        if (items_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
        if (bytes >= kHugePage) (void)::madvise(items_.get(), rounded, MADV_HUGEPAGE);
#endif
        clear();
    }

    void clear() noexcept { std::memset(static_cast<void*>(items_.get()), 0, size_ * sizeof(Item)); }
    std::size_t size() const noexcept { return size_; }
    std::size_t num_bytes() const noexcept { return size_ * sizeof(Item); }
    Item* data() noexcept { return items_.get(); }
    const Item* data() const noexcept { return items_.get(); }

  private:
    static constexpr std::size_t kHugePage = std::size_t{2} << 20;

    struct Free {
        void operator()(Item* items) const noexcept { std::free(items); }
    };

    std::unique_ptr<Item, Free> items_;
    std::size_t size_;
};

}  // namespace penstock::text
