// Memory for hash tables.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

// AddressSanitizer knows the bounds of what malloc gives, so it gets all from there.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
#define PENSTOCK_MAPS_TABLES 1
#include <sys/mman.h>
#else
#define PENSTOCK_MAPS_TABLES 0
#endif

namespace penstock::text {

// Zeroed memory for a table: aligned to lines of cache, and in huge pages where there are any. Large ones take memory
// only as they are used.
template <typename Item>
class Table {
  public:
    static_assert(std::is_trivially_copyable_v<Item>);

    explicit Table(std::size_t size) : size_(size) {
#if PENSTOCK_MAPS_TABLES
        if (num_bytes() >= kHugePage) {
            // A huge page more than is needed, as the kernel aligns to small ones.
            num_mapped_ = num_bytes() + kHugePage;
            memory_ =
                ::mmap(nullptr, num_mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory_ == MAP_FAILED) throw std::bad_alloc();
            const auto begin = (reinterpret_cast<std::uintptr_t>(memory_) + kHugePage - 1) & ~(kHugePage - 1);
            items_ = reinterpret_cast<Item*>(begin);
            (void)::madvise(items_, num_bytes(), MADV_HUGEPAGE);
            return;
        }
#endif
        const std::size_t rounded = (num_bytes() + kLine - 1) / kLine * kLine;
        memory_ = std::aligned_alloc(kLine, rounded);
        if (memory_ == nullptr && rounded != 0) throw std::bad_alloc();
        items_ = static_cast<Item*>(memory_);
        clear();
    }
    Table(Table&& other) noexcept
        : size_(std::exchange(other.size_, 0)),
          memory_(std::exchange(other.memory_, nullptr)),
          num_mapped_(std::exchange(other.num_mapped_, 0)),
          items_(std::exchange(other.items_, nullptr)) {}
    Table& operator=(Table&& other) noexcept {
        std::swap(size_, other.size_);
        std::swap(memory_, other.memory_);
        std::swap(num_mapped_, other.num_mapped_);
        std::swap(items_, other.items_);
        return *this;
    }
    ~Table() {
#if PENSTOCK_MAPS_TABLES
        if (num_mapped_ != 0) {
            ::munmap(memory_, num_mapped_);
            return;
        }
#endif
        std::free(memory_);
    }

    void clear() noexcept {
        if (size_ != 0) std::memset(static_cast<void*>(items_), 0, num_bytes());
    }
    std::size_t size() const noexcept { return size_; }
    std::size_t num_bytes() const noexcept { return size_ * sizeof(Item); }
    Item* data() noexcept { return items_; }
    const Item* data() const noexcept { return items_; }

  private:
    static constexpr std::size_t kLine = 64;
    static constexpr std::size_t kHugePage = std::size_t{2} << 20;

    std::size_t size_;
    void* memory_ = nullptr;
    std::size_t num_mapped_ = 0;  // 0: from malloc
    Item* items_ = nullptr;
};

}  // namespace penstock::text
