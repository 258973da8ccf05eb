// Memory that is allocated once and used many times: aligned to a cache line, zero at first.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace rwkvquant {

template <typename T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(std::size_t count) : size_(count) {
        const std::size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        if (bytes == 0) return;
        void* memory = ::operator new(bytes, kCacheLine);  // std::aligned_alloc is not in Microsoft's library
        std::memset(memory, 0, bytes);
        memory_.reset(static_cast<T*>(memory));
    }

    T* data() const { return memory_.get(); }
    std::size_t size() const { return size_; }

  private:
    static constexpr std::align_val_t kCacheLine{64};
    struct Free {
        void operator()(T* memory) const { ::operator delete(memory, kCacheLine); }
    };
    std::unique_ptr<T, Free> memory_;
    std::size_t size_ = 0;
};

}  // namespace rwkvquant
