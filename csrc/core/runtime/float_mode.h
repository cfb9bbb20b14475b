// Denormals flushed, rounding to nearest, no traps, for as long as the object lives. A fresh thread and
// TensorFlow's threads differ in these, and results must not depend on who runs a chunk.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fusedsplit {

class FloatMode {
 public:
  FloatMode() {
#if defined(__x86_64__)
    before_ = _mm_getcsr();
    // Flush to zero (bit 15), denormals are zero (bit 6), all exceptions masked (bits 7 to 12).
    _mm_setcsr(0x8000 | 0x0040 | 0x1f80);
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" ::"r"(uint64_t{1} << 24));
#endif
  }
  ~FloatMode() {
#if defined(__x86_64__)
    _mm_setcsr(static_cast<unsigned>(before_));
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" ::"r"(before_));
#endif
  }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
  uint64_t before_ = 0;
};

}  // namespace fusedsplit
