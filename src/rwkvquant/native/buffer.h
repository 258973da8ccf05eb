// Memory that is made once and used again: aligned to a cache line, zero at first.
#pragma once

#include <cstddef>
#include <cstdlib>
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
        void* memory = bytes > 0 ? std::aligned_alloc(64, bytes) : nullptr;
        if (bytes > 0 && memory == nullptr) throw std::bad_alloc();
        if (bytes > 0) std::memset(memory, 0, bytes);
        memory_.reset(static_cast<T*>(memory));
    }

    T* data() const { return memory_.get(); }
    std::size_t size() const { return size_; }

  private:
    struct Free {
        void operator()(T* memory) const { std::free(memory); }
    };
    std::unique_ptr<T, Free> memory_;
    std::size_t size_ = 0;
};

}  // namespace rwkvquant
